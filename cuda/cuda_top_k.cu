/* cuda_top_k.cu - the K largest logits of each row, and log softmax there.
 *
 * A block a row. One reading finds Σ e^(x − top) against the largest so far, and each thread's own
 * largest: the K-th largest of these, found bit by bit with the block's votes, is no more than the
 * row's K-th. A second reading, from the second-level cache, brings what is at least that (some
 * more than K of a row in no order) to shared memory, where each counts how many come before it:
 * that is its place. What comes in which order does not matter, so results are the same always.
 *
 * Where more than ROOM would come (equals everywhere, or the largest all in one thread's hands; or
 * more threads' largest are wanted than there are) histograms of eight bits at a time of what
 * orders the elements, with the index in its lower half, first find a bound that ROOM suffices for.
 * More than ROOM are taken ROOM at a time, each time what comes behind those before.
 *
 * Bound by memory: 2 bytes an element of bf16. Predicted, not measured: 0.5 of the rate at which
 * memory is read.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

#define ROOM 1024    /* candidates; no fewer than the threads of a block */
#define BITS 18      /* of the largest that the first bound is found from */
#define SHORT 4096   /* elements of a row that 128 threads take */
#define MIDDLE 65536 /* that 512 take */

template <typename T> struct top_rows {
    const T *x;
    int32_t *index;
    float *value;
    int64_t V, K;
    float inverse; /* 1/temperature */
    bool wide;
};

/* The block's shared memory. */
struct top_room {
    uint64_t order[ROOM];
    uint64_t below; /* the last that was taken */
    double top, log_sum;
    int bins[256];
    int count;
    float sums[32];
};

/* What grows with the logit; 0 for NaN, more for all others; −0 is +0. */
static __device__ __forceinline__ uint32_t key_of(float x)
{
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return x != x ? 0 : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
static __device__ __forceinline__ float logit_of(uint32_t key)
{
    return key == 0 ? __uint_as_float(0x7fffffffu)
                    : __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

/* Greater for what comes first: of equals the lower index. */
static __device__ __forceinline__ uint64_t order_of(float x, unsigned v)
{
    return (uint64_t)key_of(x) << 32 | (uint32_t) ~(uint32_t)v;
}

/* Runs `take(order)` on each element that this thread reads. */
template <typename T, int GROUP, typename Take>
static __device__ __forceinline__ void for_each(const top_rows<T> &a, const T *row, Take take)
{
    constexpr unsigned N = 16 / sizeof(T);
    const unsigned V = (unsigned)a.V; /* below 2^31 */
    for (unsigned v = threadIdx.x * N; v < V; v += GROUP * N) {
        float x[N];
        loss_load(x, row, v, a.V, a.wide);
#pragma unroll
        for (unsigned e = 0; e < N; e++)
            if (v + e < V)
                take(order_of(x[e], v + e));
    }
}

/* Sets top and log_sum; returns this thread's largest as a key. */
template <typename T, int GROUP>
static __device__ __forceinline__ uint32_t read_row(const top_rows<T> &a, const T *row,
                                                    top_room *room)
{
    constexpr unsigned N = 16 / sizeof(T);
    const unsigned V = (unsigned)a.V;
    const float c = a.inverse * LOSS_LOG2E;
    loss_softmax s = LOSS_NOTHING_READ;
    float best = -INFINITY;
    for (unsigned v = threadIdx.x * N; v < V; v += 2 * GROUP * N) {
        float x[2][N];
        loss_load(x[0], row, v, a.V, a.wide);
        loss_load(x[1], row, v + GROUP * N, a.V, a.wide);
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            loss_read(&s, x[turn], c);
            best = fmaxf(best, loss_top(x[turn]));
        }
    }
    loss_join<GROUP>(&s, c, room->sums);
    if (threadIdx.x == 0) {
        room->top = (double)s.top;
        room->log_sum = log((double)s.exps);
    }
    return best > -INFINITY ? key_of(best) : 0;
}

/* A bound that `want` of the threads' largest reach. */
template <int GROUP> static __device__ __forceinline__ uint32_t bound_of(uint32_t key, int64_t want)
{
    uint32_t bound = 0;
    if (want > GROUP)
        return 0;
    for (int bit = 31; bit > 31 - BITS; bit--)
        if (__syncthreads_count(key >= (bound | 1u << bit)) >= want)
            bound |= 1u << bit;
    return bound;
}

/* Brings the elements of [least, below) to the room; returns how many they are, be it more than the
 * room is for. */
template <typename T, int GROUP>
static __device__ __forceinline__ int collect(const top_rows<T> &a, const T *row, uint64_t least,
                                              uint64_t below, top_room *room)
{
    if (threadIdx.x == 0)
        room->count = 0;
    __syncthreads();
    for_each<T, GROUP>(a, row, [&](uint64_t order) {
        if (order < least || order >= below)
            return;
        const int at = atomicAdd(&room->count, 1);
        if (at < ROOM)
            room->order[at] = order;
    });
    __syncthreads();
    return room->count;
}

/* A bound that `want` elements below `below` reach, and no more than ROOM. */
template <typename T, int GROUP>
static __device__ __forceinline__ uint64_t find_bound(const top_rows<T> &a, const T *row,
                                                      int64_t want, uint64_t below, top_room *room)
{
    uint64_t prefix = 0; /* of the bound: its bits above `shift` */
    int64_t before = 0;  /* elements whose bits there are greater */
    for (int shift = 56;; shift -= 8) {
        for (int b = threadIdx.x; b < 256; b += GROUP)
            room->bins[b] = 0;
        __syncthreads();
        for_each<T, GROUP>(a, row, [&](uint64_t order) {
            if (order < below && (shift == 56 || order >> (shift + 8) == prefix))
                atomicAdd(&room->bins[order >> shift & 255], 1);
        });
        __syncthreads();
        int bin = 255; /* each thread for itself */
        while (before + room->bins[bin] < want)
            before += room->bins[bin--];
        prefix = prefix << 8 | (uint64_t)bin;
        const bool enough = before + room->bins[bin] <= ROOM;
        __syncthreads();
        if (enough)
            return prefix << shift;
    }
}

/* The first `want` of `count` candidates, from place `done` of the row on. */
template <typename T, int GROUP>
static __device__ __forceinline__ void place(const top_rows<T> &a, int64_t i, int64_t done,
                                             int64_t want, int count, top_room *room)
{
    for (int n = threadIdx.x; n < count; n += GROUP) {
        const uint64_t order = room->order[n];
        int64_t at = 0;
        for (int other = 0; other < count; other++)
            at += room->order[other] > order;
        if (at >= want)
            continue;
        const double x = (double)logit_of((uint32_t)(order >> 32));
        a.index[i * a.K + done + at] = (int32_t) ~(uint32_t)order;
        a.value[i * a.K + done + at] = (float)((x - room->top) * (double)a.inverse - room->log_sum);
        if (at == want - 1)
            room->below = order;
    }
    __syncthreads();
}

template <typename T, int GROUP>
__global__ void __launch_bounds__(GROUP) k_top_k(const __grid_constant__ top_rows<T> a)
{
    PARE_SHARED(top_room, room);
    const int64_t i = blockIdx.x;
    const T *row = a.x + i * a.V;
    uint64_t below = UINT64_MAX;
    const uint32_t best = read_row<T, GROUP>(a, row, &room);
    uint64_t least = (uint64_t)bound_of<GROUP>(best, a.K) << 32;
    for (int64_t done = 0; done < a.K; done += ROOM) {
        const int64_t want = a.K - done < ROOM ? a.K - done : ROOM;
        int count = collect<T, GROUP>(a, row, least, below, &room);
        if (count < want || count > ROOM) {
            least = find_bound<T, GROUP>(a, row, want, below, &room);
            count = collect<T, GROUP>(a, row, least, below, &room);
        }
        place<T, GROUP>(a, i, done, want, count, &room);
        below = room.below;
        least = 0;
    }
}

template <typename T> static pare_status tops(pare_backend *be, const pare_top_k_args *args)
{
    top_rows<T> a = {(const T *)args->x.data,
                     (int32_t *)args->index.data,
                     (float *)args->value.data,
                     args->x.shape[1],
                     args->index.shape[1],
                     loss_inverse(args->temperature),
                     false};
    const int64_t R = args->x.shape[0];
    a.wide = loss_wide(a.x, a.V, 16 / sizeof(T), sizeof(T));
    if (a.V <= SHORT)
        PARE_LAUNCH(be, (k_top_k<T, 128>), R, 128, 0, a);
    else if (a.V <= MIDDLE)
        PARE_LAUNCH(be, (k_top_k<T, 512>), R, 512, 0, a);
    else
        PARE_LAUNCH(be, (k_top_k<T, 1024>), R, 1024, 0, a);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_top_k(pare_backend *be, const pare_top_k_args *args)
{
    if (args->index.shape[1] == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(tops<T>(be, args)); });
    return PARE_OK;
}
