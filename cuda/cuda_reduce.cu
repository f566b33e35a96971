/* cuda_reduce.cu - statistics of one tensor, difference of two.
 *
 * Two kernels. Everything that has no order (counts, extremes, the first NaN or Inf) is one pass of
 * all multiprocessors, bound by memory: size(x) bytes an element (8 for a pair); prediction: 90 %
 * of the copy rate. The sums are lane sums in f64 over the whole tensor: by their specification
 * sixteen chains of dependent additions, whatever the machine. They are one block: its last warps
 * bring a tile to shared memory, NaN and Inf as 0, while the first have one lane for each chain of
 * each sum and add the tile before. Bound by the latency of an addition in f64: 8 cycles to 16
 * elements; prediction: 3 G elements/s, 20 ms for 256 MiB of F32 (once a tensor, for reports; the
 * CPU's additions are twice as quick). No GPU has measured either yet.
 *
 * Results are gathered in integers that start as 0 and only grow, so that the order of the blocks
 * does not show: a least value is kept as the largest complement.
 */
#include "cuda_bits.cuh"

#include <string.h>

#define INF_BITS 0x7f800000u
#define LANES 16
#define FACT_THREADS 256
#define FACT_EACH 2 /* eights a thread has under way */
#define SUM_THREADS 256
#define TILE 4096 /* elements of a tile of x, half of it a and b */

typedef unsigned long long u64;

/* Largest over a block, as block_sum() is. */
static __device__ __forceinline__ u64 block_most(u64 x, u64 *room)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    for (int round = 0; round < 2; round++) { /* of a warp, of the warps */
        for (int step = PARE_WARP / 2; step > 0; step /= 2) {
            u64 other = __shfl_xor_sync(PARE_ALL_LANES, x, step);
            x = other > x ? other : x;
        }
        if (round > 0)
            break;
        __syncthreads();
        if (lane == 0)
            room[warp] = x;
        __syncthreads();
        x = lane < (int)(blockDim.x / PARE_WARP) ? room[lane] : 0;
    }
    return x;
}

/* An element as f32; the payload of a NaN does not matter here. */
template <typename T> static __device__ __forceinline__ float value_of(bits_of<T> u);
template <> __device__ __forceinline__ float value_of<float>(uint32_t u)
{
    return __uint_as_float(u);
}
template <> __device__ __forceinline__ float value_of<__half>(uint16_t u)
{
    return __half2float(__ushort_as_half(u));
}
template <> __device__ __forceinline__ float value_of<__nv_bfloat16>(uint16_t u)
{
    return __uint_as_float((uint32_t)u << 16);
}

static __device__ __forceinline__ bool is_finite(float x)
{
    return (__float_as_uint(x) & KEY_MASK) < INF_BITS;
}

/* The tree that ends a lane sum, over each half of a warp. All 32 lanes call. */
static __device__ __forceinline__ double tree(double sum)
{
    for (int step = LANES / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(PARE_ALL_LANES, sum, step);
    return sum;
}

/* ---- stats ----------------------------------------------------------------------------------- */

typedef struct stats_facts {
    u64 zeros, nans, infs;
    u64 first;            /* ~index of the first NaN or Inf; 0: none */
    uint32_t most, least; /* ordered bits of the largest, ~those of the least; 0: none */
    double sum, sum_squares;
} stats_facts;

/* Integers in the order of the floats; above 0 for what is finite, and so are their complements. */
static __device__ __forceinline__ uint32_t to_ordered(uint32_t u)
{
    return u >> 31 ? ~u : u | 0x80000000u;
}

static double from_ordered(uint32_t u)
{
    union {
        uint32_t bits;
        float value;
    } x;
    x.bits = u >> 31 ? u & KEY_MASK : ~u;
    return (double)x.value + 0.0; /* never -0 */
}

template <typename T>
static __global__ void k_stats_facts(const bits_of<T> *x, mask_shape s, bool flat,
                                     stats_facts *facts)
{
    PARE_SHARED_ARRAY(u64, room, 32);
    uint32_t zeros = 0, nans = 0, infs = 0, most = 0, least = 0;
    u64 first = 0;
    for (int64_t at = grid_thread(); at < s.size; at += FACT_EACH * grid_threads()) {
        byte_span span[FACT_EACH];
        eight_of<bits_of<T>> e[FACT_EACH];
#pragma unroll
        for (int k = 0; k < FACT_EACH; k++) {
            span[k] = span_of_byte<true>(s, at + k * grid_threads());
            e[k] = flat ? load_span<true>(x, span[k]) : load_span<false>(x, span[k]);
        }
#pragma unroll
        for (int k = 0; k < FACT_EACH; k++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                uint32_t u = __float_as_uint(value_of<T>(e[k].at[i])), a = u & KEY_MASK;
                uint32_t ordered = a < INF_BITS ? to_ordered(u) : 0;
                if (i >= span[k].count)
                    continue;
                zeros += a == 0;
                most = max(most, ordered);
                least = max(least, ordered ? ~ordered : 0);
                if (a >= INF_BITS) {
                    u64 index = ~(u64)(span[k].first + i);
                    nans += a > INF_BITS;
                    infs += a == INF_BITS;
                    first = index > first ? index : first;
                }
            }
    }
    u64 all_zeros = block_sum((u64)zeros, room), all_infs = block_sum((u64)infs, room);
    u64 all_nans = block_sum((u64)nans, room);
    first = block_most(first, room);
    most = (uint32_t)block_most(most, room);
    least = (uint32_t)block_most(least, room);
    if (threadIdx.x == 0) {
        atomicAdd(&facts->zeros, all_zeros);
        atomicAdd(&facts->nans, all_nans);
        atomicAdd(&facts->infs, all_infs);
        atomicMax(&facts->first, first);
        atomicMax(&facts->most, most);
        atomicMax(&facts->least, least);
    }
}

/* One block. Lanes 0 to 15 of the first warp: the sum; 16 to 31: the squares. */
template <typename T>
static __global__ void k_stats_sums(const bits_of<T> *x, int64_t n, stats_facts *facts)
{
    PARE_SHARED_ARRAY(float, tiles, 2 * TILE);
    int lane = threadIdx.x % LANES;
    bool squares = threadIdx.x >= LANES;
    double sum = 0;
    for (int64_t at = 0, turn = 0; at < n + TILE; at += TILE, turn ^= 1) {
        float *coming = tiles + turn * TILE, *here = tiles + (turn ^ 1) * TILE;
        if (threadIdx.x >= PARE_WARP) {
#pragma unroll 8
            for (int i = (int)threadIdx.x - PARE_WARP; i < TILE; i += SUM_THREADS - PARE_WARP) {
                float v = at + i < n ? value_of<T>(x[at + i]) : 0.0f;
                coming[i] = is_finite(v) ? v : 0.0f;
            }
        } else if (at > 0) {
#pragma unroll 16
            for (int i = 0; i < TILE; i += LANES) {
                double v = (double)here[i + lane];
                sum += v * (squares ? v : 1.0);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x < PARE_WARP) {
        sum = tree(sum);
        if (threadIdx.x == 0)
            facts->sum = sum;
        if (threadIdx.x == LANES)
            facts->sum_squares = sum;
    }
}

template <typename T>
static pare_status launch_stats(pare_backend *be, const bits_of<T> *x, int64_t n,
                                stats_facts *facts)
{
    mask_shape s = mask_shape_of(1, n);
    PARE_LAUNCH(be, (k_stats_facts<T>), pare__grid(be, s.size, FACT_THREADS * FACT_EACH),
                FACT_THREADS, 0, x, s, mask_is_flat(&s, x), facts);
    PARE_LAUNCH(be, (k_stats_sums<T>), 1, SUM_THREADS, 0, x, n, facts);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_stats(pare_backend *be, const pare_stats_args *args)
{
    stats_facts facts, *there = NULL;
    pare_stats_result r = {};
    r.count = pare_tensor_count(&args->x);
    PARE_TRY(pare__cuda_result(be, sizeof facts, 0, &there));
    PARE_WEIGHT_TYPE(args->x.dtype, T, {
        PARE_TRY(launch_stats<T>(be, (const bits_of<T> *)args->x.data, r.count, there));
    });
    PARE_TRY(pare__cuda_fetch(be, &facts, there, sizeof facts));
    r.zeros = (int64_t)facts.zeros;
    r.nans = (int64_t)facts.nans;
    r.infs = (int64_t)facts.infs;
    r.first_bad = facts.first ? (int64_t)~facts.first : -1;
    if (facts.most) {
        r.min = from_ordered(~facts.least);
        r.max = from_ordered(facts.most);
        r.absmax = -r.min > r.max ? -r.min : r.max;
    }
    r.sum = facts.sum;
    r.sum_squares = facts.sum_squares;
    *args->result = r;
    return PARE_OK;
}

/* ---- diff ------------------------------------------------------------------------------------ */

typedef struct diff_facts {
    u64 differing;
    u64 most;       /* bits of the largest |a - b| in f64: as integers they keep their order */
    double sums[4]; /* aa, bb, ab, dd */
} diff_facts;

static __global__ void k_diff_facts(const float *a, const float *b, mask_shape s, bool flat,
                                    diff_facts *facts)
{
    PARE_SHARED_ARRAY(u64, room, 32);
    uint32_t differing = 0;
    u64 most = 0;
    for (int64_t at = grid_thread(); at < s.size; at += grid_threads()) {
        byte_span span = span_of_byte<true>(s, at);
        eight_of<float> u = flat ? load_span<true>(a, span) : load_span<false>(a, span);
        eight_of<float> v = flat ? load_span<true>(b, span) : load_span<false>(b, span);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float p = u.at[i], q = v.at[i];
            if (p == q || (p != p && q != q)) /* what lies behind the end is equal */
                continue;
            double gap = (double)p - (double)q;
            gap = is_finite(p) && is_finite(q) ? (gap < 0 ? -gap : gap) : (double)INFINITY;
            u64 bits = (u64)__double_as_longlong(gap);
            differing++;
            most = bits > most ? bits : most;
        }
    }
    u64 count = block_sum((u64)differing, room);
    most = block_most(most, room);
    if (threadIdx.x == 0 && count) {
        atomicAdd(&facts->differing, count);
        atomicMax(&facts->most, most);
    }
}

/* One block: lanes of the first two warps have the chains of aa, bb, ab, dd. */
static __global__ void k_diff_sums(const float *a, const float *b, int64_t n, diff_facts *facts)
{
    enum { PAIRS = TILE / 2, ADDERS = 2 * PARE_WARP };
    PARE_SHARED_ARRAY(float, tiles_a, TILE);
    PARE_SHARED_ARRAY(float, tiles_b, TILE);
    int lane = threadIdx.x % LANES, which = threadIdx.x / LANES;
    double sum = 0;
    for (int64_t at = 0, turn = 0; at < n + PAIRS; at += PAIRS, turn ^= 1) {
        int64_t coming = turn * PAIRS, here = (turn ^ 1) * PAIRS;
        if (threadIdx.x >= ADDERS) {
#pragma unroll 8
            for (int i = (int)threadIdx.x - ADDERS; i < PAIRS; i += SUM_THREADS - ADDERS) {
                float p = at + i < n ? a[at + i] : 0.0f, q = at + i < n ? b[at + i] : 0.0f;
                bool finite = is_finite(p) && is_finite(q);
                tiles_a[coming + i] = finite ? p : 0.0f;
                tiles_b[coming + i] = finite ? q : 0.0f;
            }
        } else if (at > 0) {
#pragma unroll 8
            for (int i = 0; i < PAIRS; i += LANES) {
                double p = (double)tiles_a[here + i + lane], q = (double)tiles_b[here + i + lane];
                double d = p - q, left = which == 1 ? q : which == 3 ? d : p;
                sum += left * (which == 0 ? p : which == 3 ? d : q);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x < ADDERS) {
        sum = tree(sum);
        if (lane == 0)
            facts->sums[which] = sum;
    }
}

extern "C" pare_status pare_cuda_diff(pare_backend *be, const pare_diff_args *args)
{
    const float *a = (const float *)args->a.data, *b = (const float *)args->b.data;
    diff_facts facts, *there = NULL;
    pare_diff_result r = {};
    r.count = pare_tensor_count(&args->a);
    mask_shape s = mask_shape_of(1, r.count);
    PARE_TRY(pare__cuda_result(be, sizeof facts, 0, &there));
    PARE_LAUNCH(be, k_diff_facts, pare__grid(be, s.size, FACT_THREADS), FACT_THREADS, 0, a, b, s,
                mask_is_flat(&s, a) && mask_is_flat(&s, b), there);
    PARE_LAUNCH(be, k_diff_sums, 1, SUM_THREADS, 0, a, b, r.count, there);
    PARE_TRY(pare__cuda_fetch(be, &facts, there, sizeof facts));
    r.differing = (int64_t)facts.differing;
    memcpy(&r.max_abs, &facts.most, sizeof r.max_abs);
    r.sum_aa = facts.sums[0];
    r.sum_bb = facts.sums[1];
    r.sum_ab = facts.sums[2];
    r.sum_dd = facts.sums[3];
    *args->result = r;
    return PARE_OK;
}
