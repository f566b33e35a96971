/* sim_runtime.cpp - the functions of the CUDA runtime that pare calls, over simulated devices:
 * streams as queues, copies that land at the wait, faults on demand. */
#include "sim_impl.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <thread>

std::recursive_mutex sim_lock;
cudasim_mode sim_mode = {1, 0xff, false};

struct CUstream_st {
    int device;
    std::deque<std::function<bool()>> queue;
    int64_t done, put; /* pieces of work run, and put on it */
};
using moment = std::chrono::steady_clock::time_point;

struct CUevent_st {
    cudaStream_t stream;
    int64_t mark;                 /* it is over when so many pieces are done */
    std::shared_ptr<moment> time; /* the stream's too: an event may go before it comes */
};

namespace
{
const int MOST_DEVICES = 8;

struct settings {
    int devices = 2, driver = 0; /* driver: 0 good, 1 old, 2 none */
    size_t memory = (size_t)8 << 30;
    int64_t fail_alloc = 0, fail_launch = 0, lose = 0;
    settings()
    {
        const char *text;
        if ((text = getenv("CUDASIM_DEVICES")))
            devices = atoi(text) < MOST_DEVICES ? atoi(text) : MOST_DEVICES;
        if ((text = getenv("CUDASIM_MEMORY")))
            memory = strtoull(text, nullptr, 10);
        if ((text = getenv("CUDASIM_DRIVER")))
            driver = strcmp(text, "old") == 0 ? 1 : strcmp(text, "none") == 0 ? 2 : 0;
        if ((text = getenv("CUDASIM_FAIL_ALLOC")))
            fail_alloc = atoll(text);
        if ((text = getenv("CUDASIM_FAIL_LAUNCH")))
            fail_launch = atoll(text);
        if ((text = getenv("CUDASIM_LOSE")))
            lose = atoll(text);
        if ((text = getenv("CUDASIM_SEED")))
            sim_mode.seed = strtoull(text, nullptr, 10);
        if ((text = getenv("CUDASIM_LATE")))
            sim_mode.late = atoi(text) != 0;
        sim_memory_guard(sim_mode.late);
    }
};

settings &set()
{
    static settings s;
    return s;
}

cudaError_t sticky = cudaSuccess; /* no call works any more */
thread_local cudaError_t last = cudaSuccess;
thread_local int current = 0;
cudasim_counts counts;
std::set<cudaStream_t> streams;
std::map<void *, size_t> locked; /* page-locked host memory */

cudaError_t keep(cudaError_t error)
{
    if (error != cudaSuccess)
        last = error;
    return error;
}

/* Counts down a fault; true when its turn has come. */
bool turn(int64_t *left)
{
    return *left > 0 && --*left == 0;
}

/* Whether the stream has come so far. A piece that waits for another process or thread stays. */
bool drain_to(cudaStream_t stream, int64_t mark)
{
    if (stream->done >= mark || stream->queue.empty())
        return true;
    bool there = true;
    sim_memory_open(); /* once for all of it */
    while (there && stream->done < mark && !stream->queue.empty()) {
        std::function<bool()> work = std::move(stream->queue.front());
        stream->queue.pop_front();
        there = sticky != cudaSuccess || work();
        if (there)
            stream->done++;
        else
            stream->queue.push_front(std::move(work));
    }
    sim_memory_close();
    return there;
}

/* The stream of NULL: all work of the device in its order. */
cudaStream_t real(cudaStream_t stream)
{
    static CUstream_st of_null[MOST_DEVICES];
    return stream ? stream : &of_null[current];
}

/* Waits: others may call meanwhile, and destroy it. The caller has the lock once. */
cudaError_t drain(cudaStream_t stream, int64_t mark = INT64_MAX)
{
    bool named = stream;
    stream = real(stream);
    while ((!named || streams.count(stream)) && !drain_to(stream, mark)) {
        sim_lock.unlock();
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        sim_lock.lock();
    }
    return sticky;
}

void drain_all(int device) /* −1: of all */
{
    for (cudaStream_t stream : std::set<cudaStream_t>(streams))
        if (streams.count(stream) && (device < 0 || stream->device == device))
            drain(stream);
}

void copy(void *to, const void *from, size_t bytes)
{
    sim_memory_open();
    memmove(to, from, bytes);
    sim_memory_close();
}

cudaError_t allocate(void **memory, size_t bytes)
{
    counts.allocations++;
    if (turn(&set().fail_alloc) || sim_memory_used(current) + bytes > set().memory)
        return keep(cudaErrorMemoryAllocation);
    *memory = bytes ? sim_memory_take(current, bytes) : nullptr;
    if (bytes && !*memory)
        return keep(cudaErrorMemoryAllocation);
    return cudaSuccess;
}

void give(void *memory)
{
    if (memory && !sim_memory_give(memory)) {
        fprintf(stderr, "cudasim: %p is given back, but is no memory of a device\n", memory);
        abort();
    }
}
} // namespace

uint64_t sim_random(void)
{
    static uint64_t state, seed;
    if (seed != sim_mode.seed)
        state = seed = sim_mode.seed;
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

cudaError_t sim_call(void)
{
    counts.calls++;
    if (turn(&set().lose))
        sticky = cudaErrorDevicesUnavailable;
    return keep(sticky);
}

cudaError_t sim_fault_launch(void)
{
    return turn(&set().fail_launch) ? cudaErrorIllegalAddress : cudaSuccess;
}

void sim_fail_sticky(cudaError_t error)
{
    sticky = error;
}

void sim_set_last(cudaError_t error)
{
    last = error;
}

void sim_count_launch(void)
{
    counts.launches++;
}

void sim_enqueue(cudaStream_t stream, std::function<void()> work)
{
    sim_enqueue_try(stream, [work] {
        work();
        return true;
    });
}

void sim_enqueue_try(cudaStream_t stream, std::function<bool()> work)
{
    stream = real(stream);
    stream->queue.push_back(std::move(work));
    stream->put++;
    if (!sim_mode.late)
        drain_to(stream, INT64_MAX);
}

void cudasim_work(cudaStream_t stream, std::function<void()> work)
{
    std::lock_guard<std::recursive_mutex> guard(sim_lock);
    sim_enqueue(stream, [work] {
        sim_memory_open();
        work();
        sim_memory_close();
    });
}

/* ---- control --------------------------------------------------------------------------------- */

#define GUARD std::lock_guard<std::recursive_mutex> guard(sim_lock)
#define CALL                                                                                       \
    GUARD;                                                                                         \
    do {                                                                                           \
        cudaError_t before_ = sim_call();                                                          \
        if (before_ != cudaSuccess)                                                                \
            return before_;                                                                        \
    } while (0)

extern "C" {

void cudasim_set_mode(cudasim_mode mode)
{
    GUARD;
    drain_all(-1);
    sim_mode = mode;
    sim_memory_guard(mode.late);
}
void cudasim_fail_alloc(int64_t nth)
{
    GUARD;
    set().fail_alloc = nth;
}
void cudasim_fail_launch(int64_t nth)
{
    GUARD;
    set().fail_launch = nth;
}
void cudasim_lose(int64_t nth)
{
    GUARD;
    set().lose = nth;
}
void cudasim_heal(void)
{
    GUARD;
    sticky = last = cudaSuccess;
    set().fail_alloc = set().fail_launch = set().lose = 0;
}
cudasim_counts cudasim_count(void)
{
    GUARD;
    cudasim_counts now = counts;
    for (int device = 0; device < set().devices; device++)
        now.bytes += (int64_t)sim_memory_used(device);
    return now;
}

/* ---- devices --------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count)
{
    GUARD;
    *count = 0;
    if (set().driver)
        return keep(cudaErrorInsufficientDriver);
    *count = set().devices;
    return keep(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device)
{
    CALL;
    if (device < 0 || device >= set().devices)
        return keep(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device)
{
    CALL;
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int)
{
    CALL;
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "simulated device");
    properties->major = 9;
    properties->multiProcessorCount = 4;
    properties->totalGlobalMem = set().memory;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    CALL;
    (void)device;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 * 1024;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    default:
        fprintf(stderr, "cudasim: attribute %d is not simulated\n", (int)attribute);
        return keep(cudaErrorInvalidValue);
    }
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    CALL;
    size_t used = sim_memory_used(current);
    *total = set().memory;
    *available = used < *total ? *total - used : 0;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version)
{
    GUARD;
    *version = set().driver == 2 ? 0 : set().driver == 1 ? 11040 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    GUARD;
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void)
{
    CALL;
    drain_all(current);
    return keep(drain(nullptr));
}

/* ---- failures -------------------------------------------------------------------------------- */

cudaError_t cudaGetLastError(void)
{
    GUARD;
    cudaError_t error = last;
    last = cudaSuccess;
    return sticky != cudaSuccess ? sticky : error;
}
cudaError_t cudaPeekAtLastError(void)
{
    GUARD;
    return sticky != cudaSuccess ? sticky : last;
}
static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
};
const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &row : errors)
        if (row.error == error)
            return row.text;
    return "unrecognized error code";
}
const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &row : errors)
        if (row.error == error)
            return row.name;
    return "unrecognized error code";
}

/* ---- memory ---------------------------------------------------------------------------------- */

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    CALL;
    return allocate(memory, bytes);
}
cudaError_t cudaMallocAsync(void **memory, size_t bytes, cudaStream_t stream)
{
    CALL;
    (void)stream;
    return allocate(memory, bytes);
}
cudaError_t cudaFree(void *memory)
{
    CALL;
    drain_all(-1);
    give(memory);
    return cudaSuccess;
}
cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream)
{
    CALL;
    sim_enqueue(stream, [memory] { give(memory); });
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    CALL;
    (void)flags;
    if (posix_memalign(memory, 4096, bytes ? bytes : 1) != 0)
        return keep(cudaErrorMemoryAllocation);
    memset(*memory, sim_mode.poison, bytes);
    locked[*memory] = bytes;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    return cudaHostAlloc(memory, bytes, 0);
}
cudaError_t cudaFreeHost(void *memory)
{
    GUARD;
    if (memory && locked.erase(memory) == 0) {
        fprintf(stderr, "cudasim: %p is given back, but is no page-locked memory\n", memory);
        abort();
    }
    free(memory);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    CALL;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && bytes > 0 &&
        (sim_memory_owns(to) != to_device || sim_memory_owns(from) != from_device))
        return keep(cudaErrorInvalidValue);
    sim_enqueue(stream, [=] { copy(to, from, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaDeviceSynchronize() : error;
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    CALL;
    if (bytes > 0 && !sim_memory_owns(memory))
        return keep(cudaErrorInvalidValue);
    sim_enqueue(stream, [=] {
        sim_memory_open();
        memset(memory, value, bytes);
        sim_memory_close();
    });
    return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    CALL;
    (void)device;
    *pool = nullptr;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    CALL;
    (void)pool, (void)attribute, (void)value;
    return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep_bytes)
{
    CALL;
    (void)pool, (void)keep_bytes;
    return cudaSuccess;
}

/* ---- streams and events ---------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    CALL;
    (void)flags;
    *stream = new CUstream_st{current, {}, 0, 0};
    streams.insert(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    GUARD;
    drain(stream);
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    CALL;
    return keep(drain(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    CALL;
    return real(stream)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    CALL;
    (void)flags;
    *event = new CUevent_st{nullptr, 0, std::make_shared<moment>()};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    GUARD;
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CALL;
    event->stream = real(stream);
    event->mark = event->stream->put + 1;
    sim_enqueue(stream, [time = event->time] { *time = std::chrono::steady_clock::now(); });
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    CALL;
    if (event->stream)
        drain(event->stream, event->mark);
    return keep(sticky);
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    CALL;
    bool there = !event->stream || drain_to(event->stream, event->mark);
    return sticky != cudaSuccess ? keep(sticky) : there ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    CALL;
    (void)flags;
    cudaStream_t other = event->stream;
    int64_t mark = event->mark;
    bool named = streams.count(other);
    if (other) /* one that was destroyed meanwhile had come to its end */
        sim_enqueue_try(stream, [other, mark, named] {
            return (named && !streams.count(other)) || drain_to(other, mark);
        });
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    CALL;
    *milliseconds = std::chrono::duration<float, std::milli>(*end->time - *begin->time).count();
    return cudaSuccess;
}

} // extern "C"
