/* cuda_quant_search.cu - the scale of least squared error.
 *
 *   error(s) = Σ (w - (q - z)·s)² in f64, over 81 candidates s_k = s·k/100
 *
 * The sum is the lane sum of ops.h: sixteen lanes in ascending order, then a tree. So sixteen
 * threads are a candidate's lanes, and two candidates sit in a warp.
 *
 * quant_search: a block of 224 threads, 14 × 16, takes one block of weights; each thread has six
 * candidates (84 ≥ 81), so that an element read from shared memory serves six. quant_error: one
 * long sequence, whose additions are a chain for each lane; a block of threads takes a candidate,
 * eight warps make the terms of a tile and a ninth adds those of the tile before. Sums of
 * candidates that cannot win are not left early, as on the CPU: it would not change the result, and
 * the lanes would wait for each other.
 *
 * Bound by arithmetic: 81 quotients an element, about 25 instructions and 5 of f64 each. Predicted
 * for an H100: 10·10⁹ elements a second for quant_search, where memory would give 700·10⁹; 2·10⁹
 * for quant_error, whose chains wait for each addition. No GPU has measured them yet.
 */
#include "cuda_quant.cuh"

#define LANES 16
#define EACH 6                          /* candidates of a thread */
#define GROUPS 14                       /* of sixteen lanes */
#define SEARCH_THREADS (GROUPS * LANES) /* 7 warps */
#define SEARCH_TILE 1024
#define MAKERS 256 /* threads that make terms */
#define ERROR_THREADS (MAKERS + PARE_WARP)
#define ERROR_TILE (MAKERS * 4)

static_assert(GROUPS * EACH >= PARE_QUANT_CANDIDATES, "every candidate has a thread");

struct grid_of {
    float least, most;
};

static grid_of grid_of_scheme(const pare_scheme *scheme)
{
    float half = (float)(1 << (scheme->bits - 1));
    grid_of g = {-half, half - 1.0f};
    return g;
}

/* s_(100 - k) */
static __device__ __forceinline__ float candidate(float scale, int k, pare_dtype dtype)
{
    float s = quant_round(scale * (float)(100 - k) / 100.0f, dtype);
    return s == 0.0f ? 1.0f : s;
}

/* (w - (q - z)·s)². The product is exact in f64. */
template <int TYPE>
static __device__ __forceinline__ double term_of(float w, float s, float zero, grid_of g)
{
    float v;
    if (TYPE == PARE_QUANT_E4M3)
        v = quant_e4m3_round(w / s);
    else
        v = fminf(fmaxf(w / s + zero, g.least), g.most) + QUANT_RINT - QUANT_RINT - zero;
    double d = (double)w - (double)v * (double)s;
    return d * d;
}

/* The tree over sixteen lanes; every lane gets it. All 32 lanes of the warp call. */
static __device__ __forceinline__ double lanes_tree(double sum)
{
    for (int step = LANES / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(PARE_ALL_LANES, sum, step);
    return sum;
}

/* ---- quant_search ---------------------------------------------------------------------------- */

struct search_job {
    const float *w;
    int64_t R, C, block_rows, block_cols, across;
    float *scale;
    const int8_t *zero; /* or NULL */
    pare_dtype dtype;
    grid_of grid;
};

struct search_best {
    double error;
    int k;
};

static __device__ __forceinline__ void best_join(search_best *best, double error, int k)
{
    if (error < best->error || (error == best->error && k < best->k)) {
        best->error = error;
        best->k = k;
    }
}

/* Elements [at, at + n) of the sequence of a block into shared memory. */
static __device__ __forceinline__ void stage_tile(const float *w, int64_t C, int64_t cols,
                                                  int64_t at, int n, float *tile)
{
    for (int i = threadIdx.x; i < n; i += SEARCH_THREADS) {
        int64_t row = quant_div(at + i, cols);
        tile[i] = w[row * C + (at + i - row * cols)];
    }
}

template <int TYPE>
static __global__ void __launch_bounds__(SEARCH_THREADS) k_quant_search(search_job j)
{
    PARE_SHARED_ARRAY(float, tile, SEARCH_TILE);
    PARE_SHARED_ARRAY(search_best, room, GROUPS);
    int64_t block = blockIdx.x, down = quant_div(block, j.across), across = block - down * j.across;
    int64_t row = down * j.block_rows, col = across * j.block_cols;
    int64_t rows = min(j.block_rows, j.R - row), cols = min(j.block_cols, j.C - col);
    int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float scale = j.scale[block], zero = j.zero ? (float)j.zero[block] : 0.0f;
    float s[EACH];
    double sum[EACH];
#pragma unroll
    for (int c = 0; c < EACH; c++) {
        s[c] = candidate(scale, group * EACH + c, j.dtype);
        sum[c] = 0.0;
    }
    for (int64_t at = 0; at < rows * cols; at += SEARCH_TILE) {
        int n = (int)min((int64_t)SEARCH_TILE, rows * cols - at);
        __syncthreads(); /* the tile before is read */
        stage_tile(j.w + row * j.C + col, j.C, cols, at, n, tile);
        __syncthreads();
        for (int i = lane; i < n; i += LANES) {
            float w = tile[i];
#pragma unroll
            for (int c = 0; c < EACH; c++)
                sum[c] += term_of<TYPE>(w, s[c], zero, j.grid);
        }
    }
    search_best best = {INFINITY, PARE_QUANT_CANDIDATES};
#pragma unroll
    for (int c = 0; c < EACH; c++) {
        double error = lanes_tree(sum[c]);
        if (group * EACH + c < PARE_QUANT_CANDIDATES && quant_finite(s[c]))
            best_join(&best, error, group * EACH + c);
    }
    if (lane == 0)
        room[group] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int g = 1; g < GROUPS; g++)
            best_join(&best, room[g].error, room[g].k);
        if (best.error < INFINITY)
            j.scale[block] = candidate(scale, best.k, j.dtype);
    }
}

extern "C" pare_status pare_cuda_quant_search(pare_backend *be, const pare_quant_search_args *args)
{
    int64_t blocks = pare_tensor_count(&args->scale);
    search_job j = {(const float *)args->w.data,
                    args->w.shape[0],
                    args->w.shape[1],
                    args->block_rows,
                    args->block_cols,
                    args->scale.shape[1],
                    (float *)args->scale.data,
                    args->scheme.asymmetric ? (const int8_t *)args->zero.data : NULL,
                    args->scale_dtype,
                    grid_of_scheme(&args->scheme)};
    if (args->scheme.type == PARE_QUANT_E4M3)
        PARE_LAUNCH(be, (k_quant_search<PARE_QUANT_E4M3>), blocks, SEARCH_THREADS, 0, j);
    else
        PARE_LAUNCH(be, (k_quant_search<PARE_QUANT_INT>), blocks, SEARCH_THREADS, 0, j);
    return PARE_OK;
}

/* ---- quant_error ----------------------------------------------------------------------------- */

struct error_job {
    const float *w;
    int64_t n;
    float scale, zero;
    pare_dtype dtype;
    grid_of grid;
    double *sums; /* [PARE_QUANT_CANDIDATES] */
};

template <int TYPE>
static __global__ void __launch_bounds__(ERROR_THREADS) k_quant_error(error_job j)
{
    PARE_SHARED_ARRAY(double, terms, 2 * ERROR_TILE);
    int lane = (int)threadIdx.x - MAKERS; /* of the sum; the makers' is negative */
    float s = candidate(j.scale, blockIdx.x, j.dtype);
    double sum = 0.0;
    for (int64_t at = 0, turn = 0; at < j.n; at += ERROR_TILE, turn++) {
        int n = (int)min((int64_t)ERROR_TILE, j.n - at);
        double *buffer = terms + turn % 2 * ERROR_TILE;
        if (lane < 0)
            for (int i = threadIdx.x; i < n; i += MAKERS)
                buffer[i] = term_of<TYPE>(j.w[at + i], s, j.zero, j.grid);
        __syncthreads(); /* the other buffer was added up before this */
        if (lane >= 0 && lane < LANES)
            for (int i = lane; i < n; i += LANES)
                sum += buffer[i];
    }
    if (lane >= 0) {
        sum = lanes_tree(sum);
        if (lane == 0)
            j.sums[blockIdx.x] = quant_finite(s) ? sum : (double)INFINITY;
    }
}

extern "C" pare_status pare_cuda_quant_error(pare_backend *be, const pare_quant_error_args *args)
{
    double sums[PARE_QUANT_CANDIDATES];
    error_job j = {
        (const float *)args->w.data, pare_tensor_count(&args->w),   args->scale, (float)args->zero,
        args->scale_dtype,           grid_of_scheme(&args->scheme), NULL};
    PARE_TRY(pare__cuda_result(be, sizeof sums, 0, &j.sums));
    if (args->scheme.type == PARE_QUANT_E4M3)
        PARE_LAUNCH(be, (k_quant_error<PARE_QUANT_E4M3>), PARE_QUANT_CANDIDATES, ERROR_THREADS, 0,
                    j);
    else
        PARE_LAUNCH(be, (k_quant_error<PARE_QUANT_INT>), PARE_QUANT_CANDIDATES, ERROR_THREADS, 0,
                    j);
    PARE_TRY(pare__cuda_fetch(be, sums, j.sums, sizeof sums));
    for (int k = 0; k < PARE_QUANT_CANDIDATES; k++)
        args->errors[k] += sums[k];
    return PARE_OK;
}
