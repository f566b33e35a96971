/* cuda_norm_grad.cu - gradients of layer norm and RMS norm.
 *
 *     g = dy·gamma, xhat = (x − mean)·scale
 *     dx = scale·(g − mean(g) − xhat·mean(g·xhat))      (RMS norm: without mean and mean(g))
 *     dgamma = Σ dy·xhat, dbeta = Σ dy                  over the rows
 *
 * A team holds a row's dy and x in registers (cuda_row.cuh), makes dx of them, and adds to its
 * columns' sums, which it keeps in registers over all its rows; the next row is already under way
 * (where rows are aligned). So memory sees dy, x and dx once. A block takes every blocks-th row;
 * its sums go to scratch, and k_norm_grad_join adds the blocks' in f64, in order. There are as many
 * blocks as the device holds at once, 512 threads a multiprocessor: sums repeat bit for bit on
 * devices that have as many.
 *
 * Rows that registers do not hold (above 4,096 columns in F32, 8,192 in BF16) are read twice for dx
 * and once more for the sums, by k_norm_grad_long and k_norm_grad_columns.
 *
 * Bound by memory: 12 bytes an element in F32, 6 in BF16. Predicted, not measured: 85 % of the copy
 * rate, 60 % for long rows.
 */
#include "cuda_nn.cuh"

#include "cuda_row.cuh"

#define HELD_PACKS 2 /* 16 bytes each of dy and x that a thread holds */
#define LONG 512     /* threads for a row that registers do not hold */
#define LONG_PARTS 16
#define ACROSS 32 /* threads side by side, and in rows below, of a block that sums columns */
#define DOWN 8
#define JOIN_THREADS 512
#define JOIN_DOWN 16 /* at most */

typedef struct norm_grad {
    const void *dy, *x;                /* [R, N] */
    void *dx;                          /* [R, N] */
    const float *gamma, *mean, *scale; /* [N], [R], [R]; mean NULL: RMS norm */
    float *parts;                      /* [parts][2][N]: dgamma, dbeta; NULL: none is wanted */
    int64_t R, N;
    float share; /* 1/N */
    bool add_x;
} norm_grad;

/* ---- rows ------------------------------------------------------------------------------------ */

/* dx = g·scale − xhat·of_xhat − of_g */
typedef struct row_grad {
    float of_g, of_xhat, scale;
} row_grad;

template <typename T, bool ALIGNED>
static __device__ __forceinline__ void write_dx(const norm_grad &a, const row_grad &m, T *dx,
                                                int64_t i, int64_t n, const float *dy,
                                                const float *xhat)
{
    constexpr int W = row_pack<T>;
    float gamma[W], out[W], old[W] = {0};
    row_floats<W, ALIGNED>(gamma, a.gamma, i, n);
    if (a.add_x)
        row_unpack<T>(old, row_load<T, ALIGNED>(dx, i, n));
#pragma unroll
    for (int k = 0; k < W; k++)
        out[k] = dy[k] * gamma[k] * m.scale - xhat[k] * m.of_xhat - m.of_g + old[k];
    row_store<T, ALIGNED>(dx, i, n, out);
}

/* A row as it comes from memory. */
template <typename T> struct row_raw {
    uint4 dy[HELD_PACKS], x[HELD_PACKS];
    float mean, scale;
};

/* Rows from a.R on are empty. */
template <typename T, bool CENTRED, bool ALIGNED, int TEAM>
static __device__ __forceinline__ void fetch(const norm_grad &a, int64_t r, int thread,
                                             row_raw<T> *row)
{
    int64_t start = r < a.R ? r * a.N : 0;
    int n = r < a.R ? (int)a.N : 0;
#pragma unroll
    for (int u = 0; u < HELD_PACKS; u++) {
        int i = (u * TEAM + thread) * row_pack<T>;
        row->dy[u] = row_load<T, ALIGNED>((const T *)a.dy + start, i, n);
        row->x[u] = row_load<T, ALIGNED>((const T *)a.x + start, i, n);
    }
    row->mean = CENTRED && n > 0 ? a.mean[r] : 0.0f;
    row->scale = n > 0 ? a.scale[r] : 0.0f;
}

/* The teams' sums of a block, in order, as row `part` of `which` (0 dgamma, 1 dbeta). room:
 * row_threads·HELD floats of shared memory, unused where a team is the block. */
template <int TEAM, int W>
static __device__ __forceinline__ void write_part(const norm_grad &a, int which, const float *sum,
                                                  float *room)
{
    constexpr int HELD = HELD_PACKS * W, SLOTS = TEAM * HELD;
    float *to = a.parts + ((int64_t)blockIdx.x * 2 + which) * a.N;
    int thread = threadIdx.x % TEAM, team = threadIdx.x / TEAM;
    if (row_teams<TEAM> == 1) {
        ROW_PACKS(u, i, W, TEAM, HELD, thread)
        for (int k = 0; k < W; k++)
            if (i + k < a.N)
                to[i + k] = sum[u * W + k];
        return;
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < HELD; e++)
        room[team * SLOTS + e * TEAM + thread] = sum[e];
    __syncthreads();
    for (int slot = threadIdx.x; slot < SLOTS; slot += row_threads<TEAM>) {
        int e = slot / TEAM, j = (e / W * TEAM + slot % TEAM) * W + e % W;
        float total = 0;
        for (int t = 0; t < row_teams<TEAM>; t++)
            total += room[t * SLOTS + slot];
        if (j < a.N)
            to[j] = total;
    }
}

template <typename T, bool CENTRED, bool ALIGNED, int TEAM>
static __global__ void __launch_bounds__(row_threads<TEAM>, 512 / row_threads<TEAM>)
    k_norm_grad(norm_grad a)
{
    constexpr int W = row_pack<T>, HELD = HELD_PACKS * W;
    PARE_SHARED_ARRAY(float, room, 2 * PARE_WARP);
    PARE_SHARED_ARRAY(float, sums_room, row_teams<TEAM> > 1 ? row_threads<TEAM> * HELD : 1);
    float dgamma[HELD] = {0}, dbeta[HELD] = {0};
    int thread = threadIdx.x % TEAM;
    int64_t step = (int64_t)gridDim.x * row_teams<TEAM>, team = threadIdx.x / TEAM;
    row_raw<T> raw;
    if (ALIGNED)
        fetch<T, CENTRED, ALIGNED, TEAM>(a, row_of_team<TEAM>(), thread, &raw);
    for (int64_t base = (int64_t)blockIdx.x * row_teams<TEAM>; base < a.R; base += step) {
        int64_t r = base + team, start = r < a.R ? r * a.N : 0;
        int n = r < a.R ? (int)a.N : 0;
        if (!ALIGNED) /* element by element it takes too many registers to be ahead */
            fetch<T, CENTRED, ALIGNED, TEAM>(a, r, thread, &raw);
        float dy[HELD], xhat[HELD], sums[2] = {0, 0}, mean = raw.mean, scale = raw.scale;
#pragma unroll
        for (int u = 0; u < HELD_PACKS; u++) {
            row_unpack<T>(dy + u * W, raw.dy[u]);
            row_unpack<T>(xhat + u * W, raw.x[u]);
        }
        if (ALIGNED)
            fetch<T, CENTRED, ALIGNED, TEAM>(a, r + step, thread, &raw);
        ROW_PACKS(u, i, W, TEAM, HELD, thread)
        {
            float gamma[W];
            row_floats<W, ALIGNED>(gamma, a.gamma, i, n);
#pragma unroll
            for (int k = 0; k < W; k++) {
                int e = u * W + k;
                float g = dy[e] * gamma[k];
                xhat[e] = CENTRED ? (xhat[e] - mean) * scale : xhat[e] * scale;
                sums[0] += CENTRED ? g : 0.0f;
                sums[1] += g * xhat[e];
                dgamma[e] += dy[e] * xhat[e];
                dbeta[e] += CENTRED ? dy[e] : 0.0f;
            }
        }
        team_sums<TEAM, 2>(sums, room);
        row_grad m = {sums[0] * a.share * scale, sums[1] * a.share * scale, scale};
        ROW_PACKS(u, i, W, TEAM, HELD, thread)
        write_dx<T, ALIGNED>(a, m, (T *)a.dx + start, i, n, dy + u * W, xhat + u * W);
    }
    if (a.parts)
        write_part<TEAM, W>(a, 0, dgamma, sums_room);
    if (a.parts && CENTRED)
        write_part<TEAM, W>(a, 1, dbeta, sums_room);
}

/* ---- long rows ------------------------------------------------------------------------------- */

/* dx of one row a block. */
template <typename T, bool CENTRED, bool ALIGNED>
static __global__ void __launch_bounds__(LONG) k_norm_grad_long(norm_grad a)
{
    PARE_SHARED_ARRAY(float, room, 2 * PARE_WARP);
    constexpr int W = row_pack<T>, STEP = LONG * W;
    int64_t start = blockIdx.x * a.N;
    const T *dy_row = (const T *)a.dy + start, *x_row = (const T *)a.x + start;
    float mean = CENTRED ? a.mean[blockIdx.x] : 0.0f, scale = a.scale[blockIdx.x];
    float sums[2] = {0, 0}, dy[W], x[W], gamma[W];
#pragma unroll 2
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(dy, row_load<T, ALIGNED>(dy_row, i, a.N));
        row_unpack<T>(x, row_load<T, ALIGNED>(x_row, i, a.N));
        row_floats<W, ALIGNED>(gamma, a.gamma, i, a.N);
        for (int k = 0; k < W; k++) {
            sums[0] += CENTRED ? dy[k] * gamma[k] : 0.0f;
            sums[1] += dy[k] * gamma[k] * ((x[k] - mean) * scale);
        }
    }
    team_sums<LONG, 2>(sums, room);
    row_grad m = {sums[0] * a.share * scale, sums[1] * a.share * scale, scale};
#pragma unroll 2
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(dy, row_load<T, ALIGNED>(dy_row, i, a.N));
        row_unpack<T>(x, row_load<T, ALIGNED>(x_row, i, a.N));
        for (int k = 0; k < W; k++)
            x[k] = (x[k] - mean) * scale;
        write_dx<T, ALIGNED>(a, m, (T *)a.dx + start, i, a.N, dy, x);
    }
}

/* The sums of ACROSS·W columns over every (parts·DOWN)-th row; blocks: parts × column groups. */
template <typename T, bool CENTRED, bool ALIGNED>
static __global__ void __launch_bounds__(ACROSS *DOWN) k_norm_grad_columns(norm_grad a, int parts)
{
    constexpr int W = row_pack<T>;
    PARE_SHARED_ARRAY(float, room, 2 * W * ACROSS * DOWN);
    int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS, part = blockIdx.x % parts;
    int64_t column = ((int64_t)(blockIdx.x / parts) * ACROSS + across) * W;
    float sum[2 * W] = {0}, dy[W], x[W];
    for (int64_t r = part * DOWN + down; r < a.R && column < a.N; r += parts * DOWN) {
        float mean = CENTRED ? a.mean[r] : 0.0f, scale = a.scale[r];
        row_unpack<T>(dy, row_load<T, ALIGNED>((const T *)a.dy + r * a.N, column, a.N));
        row_unpack<T>(x, row_load<T, ALIGNED>((const T *)a.x + r * a.N, column, a.N));
#pragma unroll
        for (int k = 0; k < W; k++) {
            sum[k] += dy[k] * ((x[k] - mean) * scale);
            sum[W + k] += dy[k];
        }
    }
#pragma unroll
    for (int k = 0; k < 2 * W; k++)
        room[(k * DOWN + down) * ACROSS + across] = sum[k];
    __syncthreads();
    for (int k = down; k < 2 * W; k += DOWN) { /* dgamma, then dbeta */
        int64_t j = column + k % W;
        float total = 0;
        for (int d = 0; d < DOWN; d++)
            total += room[(k * DOWN + d) * ACROSS + across];
        if (j < a.N)
            a.parts[((int64_t)part * 2 + k / W) * a.N + j] = total;
    }
}

/* ---- the parts' sums ------------------------------------------------------------------------- */

/* Columns of dgamma (of dbeta in the second half of the blocks), either of which may be NULL;
 * `down` threads below each other take turns at the parts of a column. */
static __global__ void __launch_bounds__(JOIN_THREADS)
    k_norm_grad_join(const float *sums, float *dgamma, float *dbeta, int64_t N, int parts, int down,
                     bool add)
{
    PARE_SHARED_ARRAY(double, room, JOIN_THREADS);
    int width = JOIN_THREADS / down, across = threadIdx.x % width, first = threadIdx.x / width;
    int which = blockIdx.x >= gridDim.x / 2;
    int64_t j = (int64_t)(blockIdx.x - which * (gridDim.x / 2)) * width + across;
    float *y = which ? dbeta : dgamma;
    double sum = 0;
    if (y && j < N)
#pragma unroll 4
        for (int p = first; p < parts; p += down)
            sum += (double)sums[((int64_t)p * 2 + which) * N + j];
    room[threadIdx.x] = sum;
    __syncthreads();
    if (first > 0 || !y || j >= N)
        return;
    for (int d = 1; d < down; d++)
        sum += room[d * width + across];
    y[j] = (float)(add ? (double)y[j] + sum : sum);
}

static pare_status join(pare_backend *be, const norm_grad *a, float *dgamma, float *dbeta,
                        int parts, bool add)
{
    int down = 1;
    while (down < JOIN_DOWN && down * 8 <= parts)
        down *= 2;
    PARE_LAUNCH(be, k_norm_grad_join, 2 * pare__blocks(a->N, JOIN_THREADS / down), JOIN_THREADS, 0,
                a->parts, dgamma, dbeta, a->N, parts, down, add);
    return PARE_OK;
}

/* ---- launchers ------------------------------------------------------------------------------- */

#define HELD_ROWS(TEAM_)                                                                           \
    PARE_LAUNCH(be, (k_norm_grad<T, CENTRED, ALIGNED, TEAM_>), parts, row_threads<TEAM_>, 0, *a)

/* The columns that a team holds, and its threads. */
static int team_of(int64_t N, int W)
{
    static const int teams[] = {8, 32, 128, 256, 512};
    for (int t = 0; t < 5; t++)
        if (N <= (int64_t)teams[t] * HELD_PACKS * W)
            return teams[t];
    return 0;
}

template <typename T, bool CENTRED, bool ALIGNED>
static pare_status launch(pare_backend *be, const norm_grad *a, int team, int parts)
{
    constexpr int W = row_pack<T>;
    if (team == 8)
        HELD_ROWS(8);
    else if (team == 32)
        HELD_ROWS(32);
    else if (team == 128)
        HELD_ROWS(128);
    else if (team == 256)
        HELD_ROWS(256);
    else if (team == 512)
        HELD_ROWS(512);
    if (team > 0)
        return PARE_OK;
    if (a->parts)
        PARE_LAUNCH(be, (k_norm_grad_columns<T, CENTRED, ALIGNED>),
                    parts * pare__blocks(a->N, ACROSS * W), ACROSS * DOWN, 0, *a, parts);
    PARE_LAUNCH(be, (k_norm_grad_long<T, CENTRED, ALIGNED>), a->R, LONG, 0, *a);
    return PARE_OK;
}

/* Parts of the sums over the rows. */
static int parts_of(const pare_backend *be, int64_t R, int team)
{
    int threads = team > PARE_WARP ? team : 256;
    int64_t most = team > 0 ? pare__cuda_of(be)->multiprocessors * 512 / threads : LONG_PARTS;
    int64_t rows = team > 0 ? threads / team : DOWN;
    int64_t parts = pare__blocks(R, rows);
    return (int)(parts < most ? parts : most);
}

template <bool CENTRED>
static pare_status run(pare_backend *be, const pare_tensor *dy, const pare_tensor *x,
                       const pare_tensor *dx, float *dgamma, float *dbeta, bool add, norm_grad *a)
{
    const void *pointers[] = {dy->data, x->data, dx->data, a->gamma};
    a->dy = dy->data;
    a->x = x->data;
    a->dx = dx->data;
    a->R = row_rows(x);
    a->N = row_cols(x);
    a->share = 1.0f / (float)a->N;
    if (a->N == 0)
        return PARE_OK;
    int team = team_of(a->N, x->dtype == PARE_F32 ? 4 : 8), parts = parts_of(be, a->R, team);
    if ((dgamma || dbeta) && parts > 0) {
        void *memory = NULL;
        PARE_TRY(pare__scratch(be, (size_t)(parts * 2 * a->N) * sizeof(float), &memory));
        a->parts = (float *)memory;
    }
    PARE_ACT_TYPE(x->dtype, T, {
        if (row_aligned(a->N, sizeof(T), pointers, 4))
            PARE_TRY((launch<T, CENTRED, true>(be, a, team, parts)));
        else
            PARE_TRY((launch<T, CENTRED, false>(be, a, team, parts)));
    });
    if (dgamma || dbeta)
        PARE_TRY(join(be, a, dgamma, dbeta, parts, add));
    return PARE_OK;
}

extern "C" pare_status pare_cuda_layer_norm_grad(pare_backend *be,
                                                 const pare_layer_norm_grad_args *args)
{
    norm_grad a = {};
    a.gamma = (const float *)args->gamma.data;
    a.mean = (const float *)args->saved_mean.data;
    a.scale = (const float *)args->saved_scale.data;
    a.add_x = args->accumulate_x;
    return run<true>(be, &args->dy, &args->x, &args->dx, (float *)args->dgamma.data,
                     (float *)args->dbeta.data, args->accumulate, &a);
}

extern "C" pare_status pare_cuda_rms_norm_grad(pare_backend *be,
                                               const pare_rms_norm_grad_args *args)
{
    norm_grad a = {};
    a.gamma = (const float *)args->gamma.data;
    a.scale = (const float *)args->saved_scale.data;
    a.add_x = args->accumulate_x;
    return run<false>(be, &args->dy, &args->x, &args->dx, (float *)args->dgamma.data, NULL,
                      args->accumulate, &a);
}
