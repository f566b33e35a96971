/* sim_nccl.cpp - stands in for NCCL: ranks of one process or of several, on simulated devices.
 *
 * All ranks map one file of shared memory with a mailbox for each pair of them. A transfer is work
 * on a stream that goes on as far as the mailboxes allow and is tried again later, so nothing here
 * waits but the beginning. Sizes that do not fit together end the program: NCCL would hang.
 */
#include "sim_impl.h"

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <new>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{
const int MOST = 8;
const size_t SLOT = 1 << 16;

struct mailbox {
    std::atomic<uint64_t> written, read; /* letters */
    size_t left;                         /* bytes of the transfer from this letter on */
    unsigned char bytes[SLOT];
};
struct segment {
    std::atomic<int> here;
    struct {
        int process, device;
    } who[MOST];
    mailbox boxes[MOST][MOST]; /* from, to */
};

thread_local char last_error[256];

ncclResult_t refuse(ncclResult_t result, const char *sentence)
{
    snprintf(last_error, sizeof last_error, "%s", sentence);
    return result;
}
} // namespace

struct ncclComm {
    int rank, size;
    segment *shared;
    std::shared_ptr<std::atomic<bool>> aborted;
};

namespace
{
struct transfer {
    ncclComm_t comm;
    cudaStream_t stream;
    mailbox *box;
    int peer;
    bool sends;
    unsigned char *at;
    size_t left; /* bytes */
};
thread_local std::vector<transfer> grouped;
thread_local int depth;

/* One letter, if the mailbox allows. */
bool advance(transfer &t)
{
    uint64_t written = t.box->written.load(), read = t.box->read.load();
    if (t.sends ? written != read : written == read)
        return false;
    size_t n = t.left < SLOT ? t.left : SLOT;
    if (t.sends) {
        memcpy(t.box->bytes, t.at, n);
        t.box->left = t.left;
        t.box->written.store(written + 1);
    } else {
        if (t.box->left != t.left) {
            fprintf(stderr, "cudasim: NCCL: %zu bytes are expected of rank %d, which sends %zu\n",
                    t.left, t.peer, t.box->left);
            abort();
        }
        memcpy(t.at, t.box->bytes, n);
        t.box->read.store(read + 1);
    }
    t.at += n;
    t.left -= n;
    return true;
}

/* All of a group as far as they go; transfers with the same peer in their order. */
bool run(std::vector<transfer> &group)
{
    bool done = true;
    for (size_t i = 0; i < group.size(); i++) {
        bool first = true;
        for (size_t k = 0; k < i; k++)
            first = first && (group[k].left == 0 || group[k].box != group[i].box);
        while (first && group[i].left > 0 && advance(group[i]))
            ;
        done = done && group[i].left == 0;
    }
    return done;
}

ncclResult_t launch(std::vector<transfer> group)
{
    if (group.empty())
        return ncclSuccess;
    cudaStream_t stream = group[0].stream;
    auto aborted = group[0].comm->aborted;
    for (const transfer &t : group)
        if (t.stream != stream)
            return refuse(ncclInvalidUsage, "one group on several streams is not simulated");
    std::lock_guard<std::recursive_mutex> guard(sim_lock);
    if (sim_call() != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "the device is lost");
    auto state = std::make_shared<std::vector<transfer>>(std::move(group));
    sim_enqueue_try(stream, [state, aborted] { return aborted->load() || run(*state); });
    return ncclSuccess;
}

size_t width_of(ncclDataType_t type)
{
    switch (type) {
    case ncclFloat:
        return 4;
    case ncclDouble:
        return 8;
    case ncclChar:
        return 1;
    default:
        return 0;
    }
}

ncclResult_t put(const void *memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                 cudaStream_t stream, bool sends)
{
    if (width_of(type) == 0 || peer < 0 || peer >= comm->size || peer == comm->rank)
        return refuse(ncclInvalidArgument, "this type or peer is not simulated");
    if (count == 0)
        return ncclSuccess;
    if (!sim_memory_owns(memory))
        return refuse(ncclInvalidArgument, "the buffer is no memory of a device");
    mailbox *box =
        sends ? &comm->shared->boxes[comm->rank][peer] : &comm->shared->boxes[peer][comm->rank];
    grouped.push_back({comm, stream, box, peer, sends,
                       static_cast<unsigned char *>(const_cast<void *>(memory)),
                       count * width_of(type)});
    if (depth > 0)
        return ncclSuccess;
    std::vector<transfer> alone;
    alone.swap(grouped);
    return launch(std::move(alone));
}

/* Until all ranks are here. */
bool gather_all(segment *shared, int size)
{
    auto begin = std::chrono::steady_clock::now();
    while (shared->here.load() < size) {
        if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(30))
            return false;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return true;
}
} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {
        "no error",         "unhandled cuda error", "unhandled system error", "internal error",
        "invalid argument", "invalid usage",        "remote process exited"};
    return result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static std::atomic<int> number;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/pare-cudasim-%ld-%d-%llx", (long)getpid(),
             number.fetch_add(1),
             (unsigned long long)std::chrono::steady_clock::now().time_since_epoch().count());
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank)
{
    int device = 0, file = -1;
    if (size < 1 || size > MOST || rank < 0 || rank >= size)
        return refuse(ncclInvalidArgument, "more than 8 ranks are not simulated");
    if (cudaGetDevice(&device) != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "the device is lost");
    file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(segment)) != 0)
        return refuse(ncclSystemError, "no shared memory");
    void *memory = mmap(nullptr, sizeof(segment), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED)
        return refuse(ncclSystemError, "no shared memory");
    segment *shared = static_cast<segment *>(memory);
    shared->who[rank] = {(int)getpid(), device};
    shared->here.fetch_add(1);
    bool all = gather_all(shared, size);
    if (rank == 0)
        shm_unlink(id.internal);
    if (!all)
        return refuse(ncclSystemError, "not all ranks have come");
    for (int other = 0; other < size; other++)
        if (other != rank && shared->who[other].process == shared->who[rank].process &&
            shared->who[other].device == device)
            return refuse(ncclInvalidUsage, "two ranks use the same device");
    *comm = new ncclComm{rank, size, shared, std::make_shared<std::atomic<bool>>(false)};
    return ncclSuccess;
}

/* What is still on streams forgets the mailboxes, which the process keeps until its end. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->aborted->store(true);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    munmap(comm->shared, sizeof(segment));
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    (void)comm;
    *result = ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (--depth > 0)
        return ncclSuccess;
    std::vector<transfer> group;
    group.swap(grouped);
    return launch(std::move(group));
}

ncclResult_t ncclSend(const void *memory, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    return put(memory, count, type, peer, comm, stream, true);
}

ncclResult_t ncclRecv(void *memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return put(memory, count, type, peer, comm, stream, false);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (from != to || root < 0 || root >= comm->size)
        return refuse(ncclInvalidArgument, "a broadcast out of place is not simulated");
    ncclGroupStart();
    ncclResult_t result = ncclSuccess;
    if (comm->rank != root)
        result = put(to, count, type, root, comm, stream, false);
    for (int peer = 0; comm->rank == root && peer < comm->size && result == ncclSuccess; peer++)
        if (peer != root)
            result = put(from, count, type, peer, comm, stream, true);
    ncclResult_t end = ncclGroupEnd();
    return result != ncclSuccess ? result : end;
}

} // extern "C"
