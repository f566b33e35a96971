/* cuda_column_stats.cu - the largest, the sum and the squares of every column of [R, C], and
 * histograms.
 *
 *     absmax[j] = max(absmax[j], max|x|), sum[j] += Σ |x|, squares[j] += Σ x², in f64
 *     bins[min(floor(|x|/width), n − 1)] += 1, NaN in the last
 *
 * column_stats (cuda_columns.cuh): k_column_stats_part takes parts of the rows, k_column_stats_join
 * the parts in their order. The square of an f32 is exact in f64. Bound by memory, 4 bytes an
 * element in F32; in BF16 nearly as much by the conversions to f64, of which a multiprocessor makes
 * 16 a cycle. Predicted, not measured: 85 % of the rate at which memory can be read, BF16 65 %.
 *
 * histogram: a block counts in shared memory, with equal bins of a warp added by one of its lanes
 * where there are many, and adds its table to the bins; more bins than fit there are counted where
 * they are. Integers: the order is no matter. Bound by some 25 instructions an element. Predicted,
 * not measured: 75 % of the rate at which memory can be read, BF16 45 %.
 */
#include "cuda_nn.cuh"

#include "cuda_columns.cuh"
#include "cuda_divide.cuh"
#include "cuda_select.cuh"

#define PART_ROWS 32 /* rows of a thread; of those AT_ONCE are loaded before one is used */
#define AT_ONCE 4

/* ---- column_stats ---------------------------------------------------------------------------- */

typedef struct column_stats {
    columns c;
    const void *x;
    double *sums; /* [parts][2][C]: of |x|, of x² */
    float *tops;  /* [parts][C] */
    float *absmax;
    double *sum, *squares; /* [C] */
} column_stats;

/* A thread's numbers of its W columns. */
template <int W> struct of_columns {
    double sum[W], squares[W];
    float top[W];
};

template <typename T, int W, bool ALIGNED, int ROWS>
static __device__ __forceinline__ void add_rows(of_columns<W> *own, const T *x, int64_t step)
{
    pack_of<T, W> rows[ROWS];
#pragma unroll
    for (int u = 0; u < ROWS; u++)
        rows[u] = columns_load<T, W, ALIGNED>(x + u * step);
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int k = 0; k < W; k++) {
            float v = fabsf(to_f32(rows[u].at[k]));
            own->top[k] = fmaxf(own->top[k], v); /* passes over NaN */
            own->sum[k] += (double)v;
            own->squares[k] += (double)v * (double)v;
        }
}

/* Over the threads below each other, for the first row of threads. room: W·COLUMNS_THREADS. */
template <int W>
static __device__ __forceinline__ void add_down(of_columns<W> *own, of_columns<1> *room,
                                                const columns &c, int down)
{
    for (int half = c.down; half > 0; half /= 2) { /* the first time only writes */
#pragma unroll
        for (int k = 0; k < W; k++) {
            of_columns<1> *at = &room[k * COLUMNS_THREADS + threadIdx.x];
            if (half < c.down && down < half) {
                const of_columns<1> &other = at[half * c.across];
                own->sum[k] += other.sum[0];
                own->squares[k] += other.squares[0];
                own->top[k] = fmaxf(own->top[k], other.top[0]);
            }
            if (half == c.down || down < half)
                *at = {{own->sum[k]}, {own->squares[k]}, {own->top[k]}};
        }
        __syncthreads();
    }
}

template <typename T, int W, bool ALIGNED>
static __global__ void __launch_bounds__(COLUMNS_THREADS) k_column_stats_part(column_stats a)
{
    PARE_SHARED_ARRAY(of_columns<1>, room, W * COLUMNS_THREADS);
    const columns_place at = columns_at<W>(a.c);
    const int64_t C = a.c.C, step = a.c.down * C;
    of_columns<W> own = {};
    int64_t r = at.first;
    const T *x = (const T *)a.x + at.first * C + at.column;
    for (; r + (AT_ONCE - 1) * a.c.down < at.last; r += AT_ONCE * a.c.down, x += AT_ONCE * step)
        add_rows<T, W, ALIGNED, AT_ONCE>(&own, x, step);
    for (; r < at.last; r += a.c.down, x += step)
        add_rows<T, W, ALIGNED, 1>(&own, x, step);
    add_down<W>(&own, room, a.c, at.down);
    if (at.down > 0 || at.column >= C)
        return;
#pragma unroll
    for (int k = 0; k < W; k++) {
        a.sums[at.part * 2 * C + at.column + k] = own.sum[k];
        a.sums[(at.part * 2 + 1) * C + at.column + k] = own.squares[k];
        a.tops[at.part * C + at.column + k] = own.top[k];
    }
}

/* The parts' numbers, and those of before. */
static __global__ void __launch_bounds__(JOIN_THREADS) k_column_stats_join(column_stats a, int down)
{
    PARE_SHARED_ARRAY(double, room, 2 * JOIN_THREADS);
    PARE_SHARED_ARRAY(float, tops, JOIN_THREADS);
    const int across = JOIN_THREADS / down;
    const int64_t C = a.c.C, c = (int64_t)blockIdx.x * across + threadIdx.x % across;
    double sum = 0, squares = 0;
    float top = 0;
    if (c < C)
#pragma unroll 4
        for (int64_t p = threadIdx.x / across; p < a.c.parts; p += down) {
            sum += a.sums[p * 2 * C + c];
            squares += a.sums[(p * 2 + 1) * C + c];
            top = fmaxf(top, a.tops[p * C + c]);
        }
    tops[threadIdx.x] = top;
    join_sums(&sum, &squares, room, across);
    __syncthreads(); /* one row of threads has no barrier in join_sums */
    if ((int)threadIdx.x >= across || c >= C)
        return;
    for (int t = threadIdx.x; t < JOIN_THREADS; t += across)
        top = fmaxf(top, tops[t]);
    a.absmax[c] = top > a.absmax[c] ? top : a.absmax[c];
    a.sum[c] += sum;
    a.squares[c] += squares;
}

extern "C" pare_status pare_cuda_column_stats(pare_backend *be, const pare_column_stats_args *args)
{
    column_stats a = {};
    void *memory = NULL;
    if (pare_tensor_count(&args->x) == 0)
        return PARE_OK;
    a.c = columns_of(&args->x, PART_ROWS);
    PARE_TRY(pare__scratch(be, (size_t)(a.c.parts * a.c.C) * (2 * sizeof(double) + sizeof(float)),
                           &memory));
    a.x = args->x.data;
    a.sums = (double *)memory;
    a.tops = (float *)(a.sums + a.c.parts * 2 * a.c.C);
    a.absmax = (float *)args->absmax.data;
    a.sum = (double *)args->sum.data;
    a.squares = (double *)args->squares.data;
    PARE_ACT_TYPE(args->x.dtype, T, {
        COLUMNS_LAYOUT(&a.c, T, pare__aligned(a.x, 16), W, ALIGNED, {
            PARE_LAUNCH(be, (k_column_stats_part<T, W, ALIGNED>), columns_blocks(&a.c),
                        COLUMNS_THREADS, 0, a);
        });
    });
    int down = join_down(a.c.parts);
    PARE_LAUNCH(be, k_column_stats_join, pare__blocks(a.c.C, JOIN_THREADS / down), JOIN_THREADS, 0,
                a, down);
    return PARE_OK;
}

/* ---- histogram ------------------------------------------------------------------------------- */

#define HIST_THREADS 512
#define HIST_PACKS 4  /* that a thread loads before the first is used */
#define HIST_BLOCKS 4 /* of a multiprocessor: each adds its table to the bins */

typedef struct histogram {
    const void *x;
    int64_t count, bins;
    bool aligned;
    divisor width;
    u64 *counts;
} histogram;

/* This thread's pack number u of the chunk at `at`; behind the end nothing that counts. */
template <typename T, int N>
static __device__ __forceinline__ pack_of<T, N> load_some(const histogram &h, int64_t i, bool whole)
{
    const T *x = (const T *)h.x;
    if (whole)
        return load_pack<T, N>(x + i);
    pack_of<T, N> p;
#pragma unroll
    for (int k = 0; k < N; k++)
        p.at[k] = i + k < h.count ? x[i + k] : from_f32<T>(0.0f);
    return p;
}

static __device__ __forceinline__ uint32_t bin_of(float x, const histogram &h)
{
    float last = (float)(h.bins - 1), q = divided(fabsf(x), h.width);
    return (uint32_t)(q < last ? q : last); /* NaN too */
}

/* TABLE: there is a table of the bins in shared memory; 32 bits are enough for a block's share. */
template <typename T, bool TABLE>
static __global__ void __launch_bounds__(HIST_THREADS) k_histogram(histogram h)
{
    constexpr int N = 16 / (int)sizeof(T);
    constexpr int64_t CHUNK = (int64_t)HIST_THREADS * HIST_PACKS * N;
    PARE_SHARED_DYNAMIC(uint32_t, table);
    for (int64_t b = threadIdx.x; TABLE && b < h.bins; b += HIST_THREADS)
        table[b] = 0;
    __syncthreads();
    for (int64_t at = blockIdx.x * CHUNK; at < h.count; at += gridDim.x * CHUNK) {
        const bool whole = h.aligned && at + CHUNK <= h.count;
        const int64_t first = at + (int64_t)threadIdx.x * N;
        pack_of<T, N> p[HIST_PACKS];
#pragma unroll
        for (int u = 0; u < HIST_PACKS; u++)
            p[u] = load_some<T, N>(h, first + u * HIST_THREADS * N, whole);
#pragma unroll
        for (int u = 0; u < HIST_PACKS; u++)
#pragma unroll
            for (int k = 0; k < N; k++) {
                const uint32_t bin = bin_of(to_f32(p[u].at[k]), h);
                const bool counts = whole || first + u * HIST_THREADS * N + k < h.count;
                const uint32_t times = merge_equal(counts, bin);
                if (times > 0 && TABLE)
                    atomicAdd(&table[bin], times);
                else if (times > 0)
                    atomicAdd(&h.counts[bin], (u64)times);
            }
    }
    __syncthreads();
    for (int64_t b = threadIdx.x; TABLE && b < h.bins; b += HIST_THREADS)
        if (table[b] > 0)
            atomicAdd(&h.counts[b], (u64)table[b]);
}

extern "C" pare_status pare_cuda_histogram(pare_backend *be, const pare_histogram_args *args)
{
    histogram h = {};
    h.x = args->x.data;
    h.count = pare_tensor_count(&args->x);
    h.bins = args->bins.shape[0];
    h.aligned = pare__aligned(h.x, 16);
    h.width = divisor_of(args->width);
    h.counts = (u64 *)args->bins.data;
    size_t bytes = (size_t)h.bins * sizeof(uint32_t);
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int64_t CHUNK = (int64_t)HIST_THREADS * HIST_PACKS * 16 / (int)sizeof(T);
        int64_t blocks = pare__blocks(h.count, CHUNK);
        int64_t most = (int64_t)HIST_BLOCKS * pare__cuda_of(be)->multiprocessors;
        blocks = blocks < most ? blocks : most;
        if (bytes <= PARE_SHARED_FREE)
            PARE_LAUNCH(be, (k_histogram<T, true>), blocks, HIST_THREADS, bytes, h);
        else
            PARE_LAUNCH(be, (k_histogram<T, false>), blocks, HIST_THREADS, 0, h);
    });
    return PARE_OK;
}
