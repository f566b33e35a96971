/* cuda_comm_nccl.c - ranks whose buffers lie on devices, by NCCL.
 *
 * A sum in an order of our own: NCCL chooses the order of its own all-reduce by the machine, and
 * where switches add (NVLink SHARP) it is not even the same twice. So the buffer is cut into as
 * many parts as there are ranks; each rank is sent all ranks' numbers of its part, adds them by
 * rank, and sends the sums to all. That moves 2·(N−1)/N of the buffer each way, as a ring does. It
 * goes piece by piece, so that room for the numbers of the others is bounded.
 *
 * All of it is put on a stream of its own, behind what the backend was asked before: so it runs
 * beside what the backend is asked afterwards. Waiting is done by the host, which asks: a rank that
 * has failed would never answer.
 */
#include "cuda_comm.h"

#include "comm/comm_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <nccl.h>
#include <sched.h>
#include <string.h>
#include <time.h>

enum { PIECE = 32 << 20, ALIGN = 32 }; /* bytes of a piece; numbers that parts are multiples of */

typedef struct nccl_line {
    ncclComm_t nccl;
    pare_comm *over;
    pare_backend *be;  /* whose memory it is */
    pare_backend *own; /* of the same device, for its stream */
    cudaEvent_t behind, begins[PARE_COMM_PENDING], ends[PARE_COMM_PENDING];
    int sums; /* begun, not waited for */
    bool broken;
} nccl_line;

/* What NCCL says of the call, and of the last thing that went wrong. */
static pare_status nccl_error(ncclComm_t comm, ncclResult_t result, const char *where,
                              const char *call)
{
    const char *last = ncclGetLastError(comm);
    pare_status status = result == ncclRemoteError ? PARE_ERR_RANK : PARE_ERR_DEVICE;
    return pare__error(status, where, "NCCL: %.*s: %s%s%s", (int)strcspn(call, "("), call,
                       ncclGetErrorString(result), last && *last ? ": " : "", last ? last : "");
}

#define PARE_NCCL(comm_, call_)                                                                    \
    do {                                                                                           \
        ncclResult_t nccl_ = (call_);                                                              \
        if (nccl_ != ncclSuccess)                                                                  \
            return nccl_error(comm_, nccl_, __func__, #call_);                                     \
    } while (0)

static cudaStream_t stream_of(const nccl_line *l)
{
    return pare__cuda_of(l->own)->stream;
}

/* What is put on the stream from now on comes behind all that the backend was asked. */
static pare_status come_behind(nccl_line *l)
{
    PARE_TRY(pare__cuda_use(l->be));
    PARE_CUDA(cudaEventRecord(l->behind, pare__cuda_of(l->be)->stream));
    PARE_CUDA(cudaStreamWaitEvent(stream_of(l), l->behind, 0));
    return PARE_OK;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* A piece of n numbers, cut for the ranks. */
typedef struct piece {
    char *numbers, *others;
    int64_t n, each, width;
    pare_dtype dtype;
} piece;

static int64_t part_at(const piece *p, int rank)
{
    int64_t at = rank * p->each;
    return at < p->n ? at : p->n;
}

static int64_t part_size(const piece *p, int rank)
{
    return part_at(p, rank + 1) - part_at(p, rank);
}

/* Between this rank and another: `out` numbers from `from`, `in` numbers to `to`. */
static pare_status exchange(nccl_line *l, const piece *p, int other, const char *from, int64_t out,
                            char *to, int64_t in)
{
    ncclDataType_t type = p->dtype == PARE_F32 ? ncclFloat : ncclDouble;
    if (out > 0)
        PARE_NCCL(l->nccl, ncclSend(from, (size_t)out, type, other, l->nccl, stream_of(l)));
    if (in > 0)
        PARE_NCCL(l->nccl, ncclRecv(to, (size_t)in, type, other, l->nccl, stream_of(l)));
    return PARE_OK;
}

static pare_status trade(nccl_line *l, const piece *p, bool sums)
{
    int rank = l->over->facts.rank, size = l->over->facts.size;
    int64_t own = part_size(p, rank);
    char *mine = p->numbers + part_at(p, rank) * p->width, *others = p->others;
    for (int other = 0; other < size; other++) {
        char *theirs = p->numbers + part_at(p, other) * p->width;
        if (other == rank)
            continue;
        if (sums)
            PARE_TRY(exchange(l, p, other, mine, own, theirs, part_size(p, other)));
        else
            PARE_TRY(exchange(l, p, other, theirs, part_size(p, other), others, own));
        others += own * p->width;
    }
    return PARE_OK;
}

/* As a group: NCCL runs it as one, and nobody waits for an order. */
static pare_status trade_all(nccl_line *l, const piece *p, bool sums)
{
    PARE_NCCL(l->nccl, ncclGroupStart());
    pare_status status = trade(l, p, sums);
    ncclResult_t end = ncclGroupEnd();
    if (status == PARE_OK && end != ncclSuccess)
        status = nccl_error(l->nccl, end, __func__, "ncclGroupEnd");
    return status;
}

static pare_status sum_piece(nccl_line *l, piece *p)
{
    int rank = l->over->facts.rank, size = l->over->facts.size;
    p->each = (p->n + size - 1) / size;
    p->each = (p->each + ALIGN - 1) / ALIGN * ALIGN;
    PARE_TRY(pare__scratch(l->own, (size_t)(p->each * (size - 1) * p->width), (void **)&p->others));
    PARE_TRY(trade_all(l, p, false));
    PARE_TRY(pare__cuda_comm_add(l->own, p->numbers + part_at(p, rank) * p->width, p->others, rank,
                                 size, part_size(p, rank), p->dtype));
    PARE_TRY(trade_all(l, p, true));
    return PARE_OK;
}

static pare_status sum(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype)
{
    nccl_line *l = comm->state;
    int64_t width = dtype == PARE_F32 ? 4 : 8, most = PIECE / width;
    PARE_TRY(come_behind(l));
    PARE_CUDA(cudaEventRecord(l->begins[l->sums], stream_of(l)));
    for (int64_t at = 0; at < count; at += most) {
        piece p = {.numbers = (char *)buffer + at * width,
                   .n = count - at < most ? count - at : most,
                   .width = width,
                   .dtype = dtype};
        PARE_TRY(sum_piece(l, &p));
    }
    PARE_CUDA(cudaEventRecord(l->ends[l->sums], stream_of(l)));
    l->sums++;
    return PARE_OK;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* The round-th time that there is no answer. */
static pare_status stay(nccl_line *l, int round)
{
    ncclResult_t state = ncclSuccess;
    PARE_NCCL(l->nccl, ncclCommGetAsyncError(l->nccl, &state));
    PARE_NCCL(l->nccl, state);
    if (round < 1000) {
        sched_yield();
        return PARE_OK;
    }
    PARE_TRY(l->over->table->alive(l->over));
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    return PARE_OK;
}

static pare_status until(nccl_line *l, cudaEvent_t event)
{
    PARE_TRY(pare__cuda_use(l->be));
    for (int round = 0;; round++) {
        cudaError_t state = cudaEventQuery(event);
        if (state == cudaSuccess)
            return PARE_OK;
        if (state != cudaErrorNotReady)
            return pare__cuda_error(state, __func__, "cudaEventQuery");
        PARE_TRY(stay(l, round));
    }
}

/* After a failure the others' devices may wait for this one's: NCCL takes its work off this one,
 * which then can go on with something else; what is ours runs out: the buffers are the caller's. */
static pare_status settle(nccl_line *l, pare_status status)
{
    if (status != PARE_OK && !l->broken) {
        l->broken = true;
        (void)ncclCommAbort(l->nccl);
        (void)cudaStreamSynchronize(stream_of(l));
    }
    return status;
}

static pare_status wait(pare_comm *comm)
{
    nccl_line *l = comm->state;
    int sums = l->sums;
    l->sums = 0;
    if (sums == 0)
        return PARE_OK;
    PARE_TRY(settle(l, until(l, l->ends[sums - 1])));
    for (int i = 0; i < sums; i++) {
        float milliseconds = 0;
        PARE_CUDA(cudaEventElapsedTime(&milliseconds, l->begins[i], l->ends[i]));
        comm->traffic.seconds += milliseconds * 1e-3;
    }
    return PARE_OK;
}

static pare_status broadcast(pare_comm *comm, void *buffer, int64_t bytes, int root)
{
    nccl_line *l = comm->state;
    PARE_TRY(come_behind(l));
    PARE_NCCL(l->nccl,
              ncclBroadcast(buffer, buffer, (size_t)bytes, ncclChar, root, l->nccl, stream_of(l)));
    PARE_CUDA(cudaEventRecord(l->ends[0], stream_of(l)));
    PARE_TRY(settle(l, until(l, l->ends[0])));
    return PARE_OK;
}

static pare_status alive(pare_comm *comm)
{
    nccl_line *l = comm->state;
    PARE_TRY(l->over->table->alive(l->over));
    PARE_REQUIRE(!l->broken, PARE_ERR_RANK, "the devices have lost each other before");
    return PARE_OK;
}

/* What is under way is taken off the device: the buffers are the caller's again. */
static void end_all(pare_comm *comm, const char *sentence)
{
    (void)sentence; /* the ranks of `over` have told each other */
    (void)settle(comm->state, PARE_ERR_RANK);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void end(pare_comm *comm)
{
    nccl_line *l = comm->state;
    (void)cudaSetDevice(pare__cuda_of(l->be)->device); /* as free_state of cuda_backend.c */
    if (l->nccl && !l->broken) {
        (void)settle(l, l->sums > 0 ? until(l, l->ends[l->sums - 1]) : PARE_OK);
        if (!l->broken)
            (void)ncclCommDestroy(l->nccl);
    }
    pare_backend_free(&l->own); /* waits for its stream, which the events are on */
    for (int i = 0; i < PARE_COMM_PENDING; i++) {
        if (l->begins[i])
            (void)cudaEventDestroy(l->begins[i]);
        if (l->ends[i])
            (void)cudaEventDestroy(l->ends[i]);
    }
    if (l->behind)
        (void)cudaEventDestroy(l->behind);
    free(l);
}

static const pare__comm_table nccl_table = {
    .sum = sum,
    .wait = wait,
    .broadcast = broadcast,
    .alive = alive,
    .abort = end_all,
    .free = end,
};

/* All ranks learn whether the first could begin. */
static pare_status begin_together(nccl_line *l, ncclUniqueId *id)
{
    struct {
        pare_status status;
        char sentence[400];
        ncclUniqueId id;
    } first = {0};
    if (l->over->facts.rank == 0) {
        ncclResult_t result = ncclGetUniqueId(&first.id);
        if (result != ncclSuccess) {
            first.status = nccl_error(NULL, result, __func__, "ncclGetUniqueId");
            snprintf(first.sentence, sizeof first.sentence, "%s", pare_last_error());
        }
    }
    PARE_TRY(pare_comm_broadcast(l->over, &first, sizeof first, 0));
    PARE_REQUIRE(first.status == PARE_OK, first.status, "rank 0: %s", first.sentence);
    *id = first.id;
    return PARE_OK;
}

static pare_status open_line(nccl_line *l)
{
    int device = pare__cuda_of(l->be)->device;
    ncclUniqueId id;
    PARE_TRY(pare_cuda_create(device, &l->own));
    PARE_CUDA(cudaEventCreateWithFlags(&l->behind, cudaEventDisableTiming));
    for (int i = 0; i < PARE_COMM_PENDING; i++) {
        PARE_CUDA(cudaEventCreate(&l->begins[i]));
        PARE_CUDA(cudaEventCreate(&l->ends[i]));
    }
    PARE_TRY(begin_together(l, &id));
    PARE_TRY(pare__cuda_use(l->be));
    PARE_NCCL(NULL, ncclCommInitRank(&l->nccl, l->over->facts.size, id, l->over->facts.rank));
    return PARE_OK;
}

/* A rank that cannot come is told to the others by pare_comm_abort, which is the caller's to say.
 */
static pare_status create(pare_comm *over, pare_backend *be, pare_comm **comm)
{
    pare_status status = PARE_OK;
    pare_comm *c = NULL;
    nccl_line *l = NULL;
    int version = 0;
    PARE_TRY_DONE(pare__comm_create(&nccl_table, "nccl", over->facts.rank, over->facts.size, &c));
    PARE_TRY_DONE(pare__calloc(1, sizeof *l, &l));
    *l = (nccl_line){.over = over, .be = be};
    c->state = l;
    c->host = over;
    c->facts = over->facts;
    c->facts.kind = "nccl";
    memcpy(c->hosts, over->hosts, (size_t)over->facts.size * sizeof *c->hosts);
    (void)ncclGetVersion(&version);
    snprintf(c->facts.library, sizeof c->facts.library, "NCCL %d.%d.%d", version / 10000,
             version / 100 % 100, version % 100);
    PARE_TRY_DONE(open_line(l));
    *comm = c;
    c = NULL;
done:
    if (c && l) {
        pare_comm_free(&c);
    } else if (c) {
        free(c->flags), free(c->hosts), free(c);
    }
    return status;
}

const pare__nccl_entry pare__nccl = {.create = create};
