/* cuda_columns.cuh - [R, C] by columns: what kernels share that sum over rows, or multiply every
 * row by the same numbers.
 *
 * A thread has `width` neighbouring columns (16 bytes; one where C is no multiple of that) and
 * every down-th row of a part; a block is `across` threads along a row and `down` = threads/across
 * below each other. So a thread's numbers of its columns stay in registers, and a warp's accesses
 * are whole lines. The layout depends on R, C and the dtype alone: so does the order of every sum.
 *
 * A loop over rows takes several at a time without a test among them, then what is left one by one:
 * where a load is conditional, the compiler waits for it before it asks for the next.
 */
#ifndef PARE_CUDA_COLUMNS_CUH
#define PARE_CUDA_COLUMNS_CUH

#include "cuda_common.cuh"

#define COLUMNS_THREADS 256

typedef struct columns {
    int64_t R, C;
    int width, across, down;
    int groups;    /* blocks beside each other */
    int64_t parts; /* blocks below each other */
    int64_t rows;  /* of a part */
} columns;

/* x flattened to rows of its last axis, neither axis 0; each thread with rows_a_thread rows, or
 * more where that would be more than 4,096 blocks. */
static inline columns columns_of(const pare_tensor *x, int rows_a_thread)
{
    const int64_t most = 4096, W = x->dtype == PARE_F32 ? 4 : 8;
    columns c = {};
    c.C = x->shape[x->rank - 1];
    c.R = pare_tensor_count(x) / c.C;
    c.width = (int)(c.C % W == 0 ? W : 1);
    int64_t packs = c.C / c.width, least = INT64_MAX;
    int narrowest = 1;
    while (narrowest < 8 && narrowest < packs)
        narrowest *= 2;
    for (int across = 32; across >= narrowest; across /= 2) { /* the fewest idle, then the widest */
        int64_t taken = pare__blocks(packs, across) * across;
        if (taken < least) {
            least = taken;
            c.across = across;
        }
    }
    c.down = COLUMNS_THREADS / c.across;
    c.groups = (int)pare__blocks(packs, c.across);
    c.rows = (int64_t)c.down * rows_a_thread;
    while (pare__blocks(c.R, c.rows) * c.groups > most && c.rows < c.R)
        c.rows *= 2;
    c.parts = pare__blocks(c.R, c.rows);
    return c;
}
static inline int64_t columns_blocks(const columns *c)
{
    return c->parts * c->groups;
}

/* What a thread has: rows first, first + down … below last; none where it is behind the last
 * column. */
typedef struct columns_place {
    int across, down;
    int64_t part, column, first, last;
} columns_place;

template <int W> static __device__ __forceinline__ columns_place columns_at(const columns &c)
{
    columns_place at;
    at.across = threadIdx.x % c.across;
    at.down = threadIdx.x / c.across;
    at.part = blockIdx.x / c.groups;
    at.column = ((int64_t)(blockIdx.x % c.groups) * c.across + at.across) * W;
    at.first = at.part * c.rows + at.down;
    at.last = at.part * c.rows + c.rows < c.R ? at.part * c.rows + c.rows : c.R;
    if (at.column >= c.C)
        at.last = 0;
    return at;
}

/* Rows of the part of block `part`. */
static __device__ __forceinline__ int64_t columns_rows(const columns &c, int64_t part)
{
    int64_t left = c.R - part * c.rows;
    return left < c.rows ? left : c.rows;
}

/* W elements, in one access where W > 1 and all rows are aligned. */
template <typename T, int W, bool ALIGNED>
static __device__ __forceinline__ pack_of<T, W> columns_load(const T *from)
{
    pack_of<T, W> p;
    if (ALIGNED)
        p = load_pack<T, W>(from);
    else
#pragma unroll
        for (int k = 0; k < W; k++)
            p.at[k] = from[k];
    return p;
}
template <typename T, int W, bool ALIGNED>
static __device__ __forceinline__ void columns_store(T *to, const pack_of<T, W> &p)
{
    if (ALIGNED)
        store_pack<T, W>(to, p);
    else
#pragma unroll
        for (int k = 0; k < W; k++)
            to[k] = p.at[k];
}

/* COUNT sums of each thread over the threads below each other, the same order always; those of the
 * first row of threads get them. room: COUNT·COLUMNS_THREADS of shared memory. */
template <int COUNT>
static __device__ __forceinline__ void columns_sum(float *sum, float *room, const columns &c,
                                                   int down)
{
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        room[k * COLUMNS_THREADS + threadIdx.x] = sum[k];
    for (int half = c.down / 2; half > 0; half /= 2) {
        __syncthreads();
        if (down < half)
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                sum[k] += room[k * COLUMNS_THREADS + threadIdx.x + half * c.across];
                room[k * COLUMNS_THREADS + threadIdx.x] = sum[k];
            }
    }
}

/* Runs `body` with W and ALIGNED as the layout and the alignment ask. */
#define COLUMNS_LAYOUT(c_, T_, aligned_, W_, ALIGNED_, ...)                                        \
    do {                                                                                           \
        if ((c_)->width == 1) {                                                                    \
            constexpr int W_ = 1;                                                                  \
            constexpr bool ALIGNED_ = false;                                                       \
            __VA_ARGS__                                                                            \
        } else if (aligned_) {                                                                     \
            constexpr int W_ = 16 / (int)sizeof(T_);                                               \
            constexpr bool ALIGNED_ = true;                                                        \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            constexpr int W_ = 16 / (int)sizeof(T_);                                               \
            constexpr bool ALIGNED_ = false;                                                       \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

/* ---- the parts' sums -------------------------------------------------------------------------
 * A block of JOIN_THREADS adds two numbers of every part, `down` threads below each other taking
 * turns at the parts of a column. */

#define JOIN_THREADS 256

/* Threads below each other for so many parts: a power of 2. */
static inline int join_down(int64_t parts)
{
    int down = 1;
    while (down < parts && down < 64)
        down *= 2;
    return down;
}

/* Both sums over the threads below each other, for the first row of threads. room: 2·JOIN_THREADS.
 */
static __device__ __forceinline__ void join_sums(double *a, double *b, double *room, int across)
{
    room[threadIdx.x] = *a;
    room[JOIN_THREADS + threadIdx.x] = *b;
    for (int half = JOIN_THREADS / 2; half >= across; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) {
            room[threadIdx.x] = *a += room[threadIdx.x + half];
            room[JOIN_THREADS + threadIdx.x] = *b += room[JOIN_THREADS + threadIdx.x + half];
        }
    }
}

#endif
