/* cuda_colsum.cu - the sums of a matrix's columns: a bias's gradient.
 *
 *     y[j] = Σ_i x[i, j] (+ y[j] if accumulate)
 *
 * Two launches, the order of every sum fixed by the shape alone. First: a block sums a part of the
 * rows for up to 32 packs of columns. `lanes` threads lie side by side over a row (so a warp's
 * access has no gap), the others over rows: each adds STEPS rows, `groups` apart, in f32; then the
 * groups are added as a binary tree in shared memory. Narrow matrices get fewer lanes and more
 * groups, so a block always reads up to 128 KiB. Second: the parts of each column are added in f64,
 * 32 of them side by side, those again as a tree.
 *
 * Bound by memory: 4 bytes an element in F32, and 1/256 of it or less for the parts. Predicted, not
 * measured: 90 % of the rate at which memory can be read.
 */
#include "cuda_nn.cuh"

#define THREADS 256
#define STEPS 32      /* rows that a thread adds */
#define MERGE_COLS 32 /* columns of a block that adds parts */
#define MERGE_GROUPS 32

/* part [parts, C] f32; block: tile of columns + tiles · part. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    k_colsum_parts(const T *x, int64_t R, int64_t C, int lanes, int64_t tiles, float *part)
{
    PARE_SHARED_ARRAY(float, room, N *THREADS);
    const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = THREADS / lanes;
    const int64_t at = blockIdx.x / tiles, col = ((blockIdx.x - at * tiles) * lanes + lane) * N;
    const int64_t row = at * groups * STEPS + group;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++)
        sum[k] = 0;
    if (col < C) {
#pragma unroll 8
        for (int step = 0; step < STEPS; step++) {
            int64_t r = row + (int64_t)step * groups;
            if (r >= R)
                break;
            pack_of<T, N> p = load_pack<T, N>(x + r * C + col);
#pragma unroll
            for (int k = 0; k < N; k++)
                sum[k] += to_f32(p.at[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        room[k * THREADS + threadIdx.x] = sum[k];
    for (int half = groups / 2; half > 0; half /= 2) {
        __syncthreads();
        if (group < half)
#pragma unroll
            for (int k = 0; k < N; k++)
                room[k * THREADS + threadIdx.x] += room[k * THREADS + threadIdx.x + half * lanes];
    }
    if (group == 0 && col < C)
#pragma unroll
        for (int k = 0; k < N; k++)
            part[at * C + col + k] = room[k * THREADS + threadIdx.x];
}

static __global__ void __launch_bounds__(MERGE_COLS *MERGE_GROUPS)
    k_colsum_merge(const float *part, int64_t parts, int64_t C, float *y, bool accumulate)
{
    PARE_SHARED_ARRAY(double, room, MERGE_COLS *MERGE_GROUPS);
    const int group = threadIdx.x / MERGE_COLS;
    const int64_t col = (int64_t)blockIdx.x * MERGE_COLS + threadIdx.x % MERGE_COLS;
    double sum = 0;
    if (col < C)
#pragma unroll 4
        for (int64_t p = group; p < parts; p += MERGE_GROUPS)
            sum += (double)part[p * C + col];
    room[threadIdx.x] = sum;
    for (int half = MERGE_GROUPS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (group < half)
            room[threadIdx.x] += room[threadIdx.x + half * MERGE_COLS];
    }
    if (group == 0 && col < C)
        y[col] = (float)(accumulate ? (double)y[col] + room[threadIdx.x] : room[threadIdx.x]);
}

template <typename T, int N>
static pare_status colsum(pare_backend *be, const pare_colsum_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1], packs = C / N;
    int lanes = 1;
    while (lanes < PARE_WARP && lanes < packs)
        lanes *= 2;
    int64_t tiles = pare__blocks(packs, lanes), rows = (int64_t)THREADS / lanes * STEPS;
    int64_t parts = pare__blocks(R, rows);
    void *memory = NULL;
    PARE_TRY(pare__scratch(be, (size_t)(parts * C) * sizeof(float), &memory));
    float *part = (float *)memory;
    PARE_LAUNCH(be, (k_colsum_parts<T, N>), tiles * parts, THREADS, 0, (const T *)args->x.data, R,
                C, lanes, tiles, part);
    PARE_LAUNCH(be, k_colsum_merge, pare__blocks(C, MERGE_COLS), MERGE_COLS * MERGE_GROUPS, 0,
                (const float *)part, parts, C, (float *)args->y.data, args->accumulate);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_colsum(pare_backend *be, const pare_colsum_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = 16 / (int)sizeof(T);
        if (args->x.shape[1] % N == 0 && pare__aligned(args->x.data, 16))
            PARE_TRY((colsum<T, N>(be, args)));
        else
            PARE_TRY((colsum<T, 1>(be, args)));
    });
    return PARE_OK;
}
