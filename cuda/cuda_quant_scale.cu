/* cuda_quant_scale.cu - ranges of blocks, and scales and zero points from them.
 *
 * Extremes are taken on the bits, as in cpu_quant_scale.c: the greatest signed integer and the
 * greatest unsigned one give lo, hi, NaN and Inf in any order. A team of 8, 32 or 256 threads, by
 * the block's size, reads a block in packs of 16 bytes; where there are too few blocks to fill the
 * device, each is cut into slices, whose extremes a second, small kernel joins.
 *
 * quant_range is bound by memory: 4 bytes an element and about 8 instructions. Predicted: 90 % of
 * the rate of reading; no GPU has measured it yet. quant_scale moves 12 bytes a block and waits for
 * the index of the first bad one.
 */
#include "cuda_quant.cuh"

#define THREADS 256
#define SLICE_PACKS (THREADS * 8) /* that a slice has at least */

struct extremes {
    int top;
    unsigned bottom;
};

static __device__ __forceinline__ void extremes_add(extremes *e, float x)
{
    e->top = max(e->top, __float_as_int(x));
    e->bottom = max(e->bottom, __float_as_uint(x));
}

static __device__ __forceinline__ void extremes_join(extremes *e, int top, unsigned bottom)
{
    e->top = max(e->top, top);
    e->bottom = max(e->bottom, bottom);
}

/* Over the `team` lanes, a power of two, that lie side by side. All lanes of the warp call. */
static __device__ __forceinline__ void extremes_team(extremes *e, int team)
{
    for (int step = team / 2; step > 0; step /= 2)
        extremes_join(e, __shfl_xor_sync(PARE_ALL_LANES, e->top, step),
                      __shfl_xor_sync(PARE_ALL_LANES, e->bottom, step));
}

static __device__ __forceinline__ void extremes_store(const extremes &e, float *lo, float *hi)
{
    bool bad = e.bottom >= 0xff800000u; /* -Inf or NaN: shown in hi */
    *lo = e.bottom > 0x80000000u ? __uint_as_float(e.bottom) : 0.0f;
    *hi = __uint_as_float(bad ? e.bottom & 0x7fffffffu : (unsigned)e.top);
}

/* ---- range ----------------------------------------------------------------------------------- */

struct range_job {
    const float *w;
    int64_t R, C, block_rows, block_cols, across, blocks;
    int64_t slices;  /* of each block */
    extremes *parts; /* [blocks, slices], or NULL if there is one */
    float *lo, *hi;
};

/* A block as rows of packs; one row if its elements are consecutive. */
struct range_block {
    const float *w;
    int64_t rows, packs, stride;
};

template <int N>
static __device__ __forceinline__ range_block range_block_at(const range_job &j, int64_t block)
{
    int64_t down = quant_div(block, j.across), across = block - down * j.across;
    int64_t row = down * j.block_rows, col = across * j.block_cols;
    range_block b;
    int64_t cols = min(j.block_cols, j.C - col);
    b.w = j.w + row * j.C + col;
    b.rows = min(j.block_rows, j.R - row);
    b.stride = j.C;
    if (cols == j.C) {
        cols *= b.rows;
        b.rows = 1;
    }
    b.packs = cols / N;
    return b;
}

/* The extremes of packs first, first + step … below end. */
template <int N>
static __device__ __forceinline__ extremes extremes_of(const range_block &b, int64_t first,
                                                       int64_t end, int step)
{
    extremes e = {0, 0};
    if (first >= end)
        return e;
    int64_t count = quant_div(end - 1 - first, step) + 1;
    int64_t row = b.rows == 1 ? 0 : quant_div(first, b.packs), at = first - row * b.packs;
    int64_t rows_on = b.rows == 1 ? 0 : quant_div(step, b.packs), on = step - rows_on * b.packs;
#pragma unroll 4
    for (int64_t i = 0; i < count; i++) {
        pack_of<float, N> x = load_pack<float, N>(b.w + row * b.stride + at * N);
#pragma unroll
        for (int k = 0; k < N; k++)
            extremes_add(&e, x.at[k]);
        row += rows_on;
        at += on;
        if (b.rows > 1 && at >= b.packs) {
            at -= b.packs;
            row++;
        }
    }
    return e;
}

template <int N, int TEAM>
static __global__ void __launch_bounds__(THREADS) k_quant_range(range_job j)
{
    PARE_SHARED_ARRAY(extremes, room, THREADS / PARE_WARP);
    int64_t item = grid_thread() / TEAM;
    bool there = item < j.blocks * j.slices;
    int64_t block = j.slices == 1 ? item : quant_div(item, j.slices);
    extremes e = {0, 0};
    if (there) {
        range_block b = range_block_at<N>(j, block);
        int64_t packs = b.rows * b.packs, slice = item - block * j.slices;
        int64_t each = j.slices == 1 ? packs : quant_div(packs + j.slices - 1, j.slices);
        e = extremes_of<N>(b, slice * each + threadIdx.x % TEAM, min(packs, (slice + 1) * each),
                           TEAM);
    }
    extremes_team(&e, TEAM < PARE_WARP ? TEAM : PARE_WARP);
    if (TEAM > PARE_WARP) {
        if (threadIdx.x % PARE_WARP == 0)
            room[threadIdx.x / PARE_WARP] = e;
        __syncthreads();
        for (int i = 0; i < TEAM / PARE_WARP; i++)
            extremes_join(&e, room[i].top, room[i].bottom);
    }
    if (!there || threadIdx.x % TEAM != 0)
        return;
    if (j.parts)
        j.parts[item] = e;
    else
        extremes_store(e, &j.lo[item], &j.hi[item]);
}

/* A warp joins the slices of a block. */
static __global__ void __launch_bounds__(THREADS) k_quant_range_join(range_job j)
{
    int64_t block = grid_thread() / PARE_WARP;
    extremes e = {0, 0};
    if (block < j.blocks)
        for (int64_t i = threadIdx.x % PARE_WARP; i < j.slices; i += PARE_WARP) {
            extremes part = j.parts[block * j.slices + i];
            extremes_join(&e, part.top, part.bottom);
        }
    extremes_team(&e, PARE_WARP);
    if (block < j.blocks && threadIdx.x % PARE_WARP == 0)
        extremes_store(e, &j.lo[block], &j.hi[block]);
}

template <int N> static pare_status range_packs(pare_backend *be, range_job *j)
{
    int64_t packs = (j->block_rows < j->R ? j->block_rows : j->R) *
                    ((j->block_cols < j->C ? j->block_cols : j->C) / N);
    if (packs <= 64) {
        PARE_LAUNCH(be, (k_quant_range<N, 8>), pare__blocks(j->blocks, THREADS / 8), THREADS, 0,
                    *j);
        return PARE_OK;
    }
    if (packs <= 1024 && j->blocks >= 64 * pare__cuda_of(be)->multiprocessors) {
        PARE_LAUNCH(be, (k_quant_range<N, 32>), pare__blocks(j->blocks, THREADS / 32), THREADS, 0,
                    *j);
        return PARE_OK;
    }
    int64_t wanted = pare__blocks(8 * (int64_t)pare__cuda_of(be)->multiprocessors, j->blocks);
    int64_t most = pare__blocks(packs, SLICE_PACKS);
    j->slices = wanted < most ? wanted : most;
    if (j->slices > 1) {
        void *parts;
        PARE_TRY(pare__scratch(be, (size_t)(j->blocks * j->slices) * sizeof(extremes), &parts));
        j->parts = (extremes *)parts;
    }
    PARE_LAUNCH(be, (k_quant_range<N, THREADS>), j->blocks * j->slices, THREADS, 0, *j);
    if (j->slices > 1)
        PARE_LAUNCH(be, k_quant_range_join, pare__blocks(j->blocks, THREADS / PARE_WARP), THREADS,
                    0, *j);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_quant_range(pare_backend *be, const pare_quant_range_args *args)
{
    int64_t C = args->w.shape[1], blocks = pare_tensor_count(&args->lo);
    range_job j = {(const float *)args->w.data,
                   args->w.shape[0],
                   C,
                   args->block_rows,
                   args->block_cols,
                   args->lo.shape[1],
                   blocks,
                   1,
                   NULL,
                   (float *)args->lo.data,
                   (float *)args->hi.data};
    if (blocks == 0)
        return PARE_OK;
    if (C % 4 == 0 && (j.block_cols % 4 == 0 || j.block_cols >= C) && pare__aligned(j.w, 16))
        PARE_TRY(range_packs<4>(be, &j));
    else
        PARE_TRY(range_packs<1>(be, &j));
    return PARE_OK;
}

/* ---- scale ----------------------------------------------------------------------------------- */

/* scale may be hi: each element is read before it is written. */
static __global__ void __launch_bounds__(THREADS)
    k_quant_scale(quant_rule rule, const float *lo, const float *hi, float *scale, int8_t *zero,
                  int64_t n, unsigned long long *bad)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        float l = lo[i], h = hi[i], s = quant_scale_of(rule, l, h);
        if (!quant_finite(l) || !quant_finite(h) || !quant_finite(s)) {
            atomicMin(bad, (unsigned long long)i);
            continue; /* hi stays, to be shown */
        }
        scale[i] = s;
        if (rule.asymmetric)
            zero[i] = (int8_t)quant_zero_of(rule, l, s);
    }
}

extern "C" pare_status pare_cuda_quant_scale(pare_backend *be, const pare_quant_scale_args *args)
{
    const float *lo = (const float *)args->lo.data, *hi = (const float *)args->hi.data;
    int64_t n = args->lo.shape[0];
    unsigned long long *bad, first;
    if (n == 0)
        return PARE_OK;
    PARE_TRY(pare__cuda_result(be, sizeof *bad, 0xff, &bad));
    PARE_LAUNCH(be, k_quant_scale, pare__grid(be, n, THREADS), THREADS, 0,
                quant_rule_of(&args->scheme, args->scale_dtype), lo, hi, (float *)args->scale.data,
                (int8_t *)args->zero.data, n, bad);
    PARE_TRY(pare__cuda_fetch(be, &first, bad, sizeof first));
    if (first == ~0ull)
        return PARE_OK;
    float from, to;
    PARE_TRY(pare__cuda_fetch(be, &from, lo + first, sizeof from));
    PARE_TRY(pare__cuda_fetch(be, &to, hi + first, sizeof to));
    PARE_FAIL(PARE_ERR_DAMAGED, "block %lld has no finite scale in %s: its values go from %g to %g",
              (long long)first, pare_dtype_name(args->scale_dtype), (double)from, (double)to);
}
