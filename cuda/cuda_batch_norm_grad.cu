/* cuda_batch_norm_grad.cu - gradient of batch norm over [R, C], channels last (cuda_columns.cuh).
 *
 *     dbeta = Σ g, dgamma = Σ g·(x − mean)·scale, dx = gamma·scale·(g − dbeta/R − xhat·dgamma/R),
 *
 * g being dy where the ReLU let it through. k_batch_norm_grad_part sums parts of the rows in f32,
 * k_batch_norm_grad_join the parts in f64, in order, k_batch_norm_grad_dx writes dx. If g itself is
 * wanted (dz), the first pass writes it and the last reads it instead of dy and y. Frozen, dx =
 * gamma·scale·g waits for no sum, and the first pass writes it too: then there is no last one.
 *
 * Bound by memory; bytes an element in F32 (half in BF16): 20, with relu 28 (with dz too 28);
 * frozen 12, with relu 16 (with dz too 20).
 * Predicted, not measured: 85 % of the copy rate.
 */
#include "cuda_nn.cuh"

#include "cuda_columns.cuh"

#define PART_ROWS 64 /* rows of a thread; of those AT_ONCE are loaded before one is used */
#define DX_ROWS 16
#define AT_ONCE 4

typedef struct batch_norm_grad {
    columns c;
    const void *dy, *x, *y; /* y: with relu */
    void *dx, *dz;          /* dz may be NULL */
    const float *gamma, *mean, *scale;
    float *dgamma, *dbeta;
    double *sums; /* [parts][2][C]: of g, of g·(x − mean) */
    float *coefs; /* [3][C]: dx = of_g·g + of_x·(x − mean) + offset */
    bool accumulate;
} batch_norm_grad;

static __device__ __forceinline__ double factor(const batch_norm_grad &a, int64_t c)
{
    return (double)a.gamma[c] * (double)a.scale[c];
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* AT_ONCE or one rows of what both passes read, `step` elements apart from i on. */
template <typename T, int W, int ROWS> struct rows_of {
    pack_of<T, W> g[ROWS], x[ROWS], y[ROWS];
};

template <typename T, int W, bool ALIGNED, bool RELU, int ROWS>
static __device__ __forceinline__ rows_of<T, W, ROWS> load_rows(const batch_norm_grad &a, int64_t i,
                                                                int64_t step)
{
    rows_of<T, W, ROWS> rows;
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        rows.g[u] = columns_load<T, W, ALIGNED>((const T *)a.dy + i + u * step);
        rows.x[u] = columns_load<T, W, ALIGNED>((const T *)a.x + i + u * step);
        if (RELU)
            rows.y[u] = columns_load<T, W, ALIGNED>((const T *)a.y + i + u * step);
    }
#pragma unroll
    for (int u = 0; u < ROWS; u++) /* dy becomes g */
#pragma unroll
        for (int k = 0; k < W; k++)
            if (RELU)
                rows.g[u].at[k] =
                    to_f32(rows.y[u].at[k]) > 0.0f ? rows.g[u].at[k] : from_f32<T>(0.0f);
    return rows;
}

template <typename T, int W, bool ALIGNED, bool RELU, bool KEEP, bool FROZEN, int ROWS>
static __device__ __forceinline__ void add_rows(const batch_norm_grad &a, float *sum,
                                                const float *mean, const float *of_g, int64_t i,
                                                int64_t step)
{
    rows_of<T, W, ROWS> rows = load_rows<T, W, ALIGNED, RELU, ROWS>(a, i, step);
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        if (KEEP)
            columns_store<T, W, ALIGNED>((T *)a.dz + i + u * step, rows.g[u]);
#pragma unroll
        for (int k = 0; k < W; k++) {
            float g = to_f32(rows.g[u].at[k]);
            sum[k] += g;
            sum[W + k] += g * (to_f32(rows.x[u].at[k]) - mean[k]);
            if (FROZEN)
                rows.g[u].at[k] = from_f32<T>(g * of_g[k]);
        }
        if (FROZEN)
            columns_store<T, W, ALIGNED>((T *)a.dx + i + u * step, rows.g[u]);
    }
}

/* KEEP: g goes to dz. FROZEN: dx is written. */
template <typename T, int W, bool ALIGNED, bool RELU, bool KEEP, bool FROZEN>
static __global__ void __launch_bounds__(COLUMNS_THREADS) k_batch_norm_grad_part(batch_norm_grad a)
{
    PARE_SHARED_ARRAY(float, room, 2 * W * COLUMNS_THREADS);
    const columns_place at = columns_at<W>(a.c);
    const int64_t step = a.c.down * a.c.C;
    float mean[W], of_g[W], sum[2 * W] = {0};
#pragma unroll
    for (int k = 0; k < W; k++) {
        int64_t c = at.column < a.c.C ? at.column + k : 0;
        mean[k] = a.mean[c];
        of_g[k] = FROZEN ? (float)factor(a, c) : 0;
    }
    int64_t r = at.first, i = at.first * a.c.C + at.column;
    for (; r + (AT_ONCE - 1) * a.c.down < at.last; r += AT_ONCE * a.c.down, i += AT_ONCE * step)
        add_rows<T, W, ALIGNED, RELU, KEEP, FROZEN, AT_ONCE>(a, sum, mean, of_g, i, step);
    for (; r < at.last; r += a.c.down, i += step)
        add_rows<T, W, ALIGNED, RELU, KEEP, FROZEN, 1>(a, sum, mean, of_g, i, step);
    columns_sum<2 * W>(sum, room, a.c, at.down);
    if (at.down > 0 || at.column >= a.c.C)
        return;
    double *to = a.sums + at.part * 2 * a.c.C + at.column;
#pragma unroll
    for (int k = 0; k < W; k++) {
        to[k] = (double)sum[k];
        to[a.c.C + k] = (double)sum[W + k];
    }
}

/* The parts' sums as one; of no rows they are 0. */
static __global__ void __launch_bounds__(JOIN_THREADS)
    k_batch_norm_grad_join(batch_norm_grad a, int down)
{
    PARE_SHARED_ARRAY(double, room, 2 * JOIN_THREADS);
    int across = JOIN_THREADS / down;
    int64_t c = (int64_t)blockIdx.x * across + threadIdx.x % across, C = a.c.C;
    double sum = 0, dot = 0, R = (double)a.c.R;
    if (c < C)
#pragma unroll 4
        for (int64_t p = threadIdx.x / across; p < a.c.parts; p += down) {
            sum += a.sums[p * 2 * C + c];
            dot += a.sums[(p * 2 + 1) * C + c];
        }
    join_sums(&sum, &dot, room, across);
    if ((int)threadIdx.x >= across || c >= C)
        return;
    double scale = (double)a.scale[c], f = factor(a, c);
    a.dgamma[c] = (float)(a.accumulate ? (double)a.dgamma[c] + dot * scale : dot * scale);
    a.dbeta[c] = (float)(a.accumulate ? (double)a.dbeta[c] + sum : sum);
    a.coefs[c] = (float)f;
    a.coefs[C + c] = (float)(-f * scale * scale * dot / R);
    a.coefs[2 * C + c] = (float)(-f * sum / R);
}

/* ---- dx -------------------------------------------------------------------------------------- */

/* dx = of_g·g + of_x·(x − mean) + offset, of a thread's columns. */
template <int W> struct coefficients {
    float mean[W], of_g[W], of_x[W], offset[W];
};

template <typename T, int W, bool ALIGNED, bool RELU, int ROWS>
static __device__ __forceinline__ void write_rows(const batch_norm_grad &a,
                                                  const coefficients<W> &m, int64_t i, int64_t step)
{
    rows_of<T, W, ROWS> rows = load_rows<T, W, ALIGNED, RELU, ROWS>(a, i, step);
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        pack_of<T, W> dx;
#pragma unroll
        for (int k = 0; k < W; k++) {
            float g = to_f32(rows.g[u].at[k]), d = to_f32(rows.x[u].at[k]) - m.mean[k];
            dx.at[k] = from_f32<T>(g * m.of_g[k] + (d * m.of_x[k] + m.offset[k]));
        }
        columns_store<T, W, ALIGNED>((T *)a.dx + i + u * step, dx);
    }
}

/* With dz, a.dy is it and RELU false: g has been written. */
template <typename T, int W, bool ALIGNED, bool RELU>
static __global__ void __launch_bounds__(COLUMNS_THREADS) k_batch_norm_grad_dx(batch_norm_grad a)
{
    const columns_place at = columns_at<W>(a.c);
    const int64_t step = a.c.down * a.c.C;
    coefficients<W> m;
#pragma unroll
    for (int k = 0; k < W; k++) {
        int64_t c = at.column < a.c.C ? at.column + k : 0;
        m.mean[k] = a.mean[c];
        m.of_g[k] = a.coefs[c];
        m.of_x[k] = a.coefs[a.c.C + c];
        m.offset[k] = a.coefs[2 * a.c.C + c];
    }
    int64_t r = at.first, i = at.first * a.c.C + at.column;
    for (; r + (AT_ONCE - 1) * a.c.down < at.last; r += AT_ONCE * a.c.down, i += AT_ONCE * step)
        write_rows<T, W, ALIGNED, RELU, AT_ONCE>(a, m, i, step);
    for (; r < at.last; r += a.c.down, i += step)
        write_rows<T, W, ALIGNED, RELU, 1>(a, m, i, step);
}

/* ---- launcher -------------------------------------------------------------------------------- */

static bool all_aligned(const batch_norm_grad *a, bool relu)
{
    return pare__aligned(a->dy, 16) && pare__aligned(a->x, 16) && pare__aligned(a->dx, 16) &&
           pare__aligned(a->dz, 16) && (!relu || pare__aligned(a->y, 16));
}

#define PART(RELU_, KEEP_)                                                                         \
    PARE_LAUNCH(be, (k_batch_norm_grad_part<T, W, ALIGNED, RELU_, KEEP_, FROZEN>),                 \
                columns_blocks(&a->c), COLUMNS_THREADS, 0, *a)

template <typename T, bool FROZEN>
static pare_status sum_parts(pare_backend *be, const batch_norm_grad *a, bool relu)
{
    bool keep = a->dz && (relu || a->dz != a->dy);
    COLUMNS_LAYOUT(&a->c, T, all_aligned(a, relu), W, ALIGNED, {
        if (relu && keep)
            PART(true, true);
        else if (relu)
            PART(true, false);
        else if (keep)
            PART(false, true);
        else
            PART(false, false);
    });
    return PARE_OK;
}

template <typename T>
static pare_status write_dx(pare_backend *be, const batch_norm_grad *a, bool relu)
{
    COLUMNS_LAYOUT(&a->c, T, all_aligned(a, relu), W, ALIGNED, {
        if (relu)
            PARE_LAUNCH(be, (k_batch_norm_grad_dx<T, W, ALIGNED, true>), columns_blocks(&a->c),
                        COLUMNS_THREADS, 0, *a);
        else
            PARE_LAUNCH(be, (k_batch_norm_grad_dx<T, W, ALIGNED, false>), columns_blocks(&a->c),
                        COLUMNS_THREADS, 0, *a);
    });
    return PARE_OK;
}

static batch_norm_grad job_of(const pare_batch_norm_grad_args *args)
{
    batch_norm_grad a = {};
    a.dy = args->dy.data;
    a.x = args->x.data;
    a.y = args->y.data;
    a.dx = args->dx.data;
    a.dz = args->dz.data;
    a.gamma = (const float *)args->gamma.data;
    a.mean = (const float *)args->saved_mean.data;
    a.scale = (const float *)args->saved_scale.data;
    a.dgamma = (float *)args->dgamma.data;
    a.dbeta = (float *)args->dbeta.data;
    a.accumulate = args->accumulate;
    return a;
}

extern "C" pare_status pare_cuda_batch_norm_grad(pare_backend *be,
                                                 const pare_batch_norm_grad_args *args)
{
    batch_norm_grad a = job_of(args);
    int64_t C = args->x.shape[args->x.rank - 1], n = pare_tensor_count(&args->x);
    void *memory = NULL;
    if (C == 0)
        return PARE_OK;
    a.c.C = C; /* all that the join needs of no rows */
    if (n > 0)
        a.c = columns_of(&args->x, PART_ROWS);
    size_t sums = (size_t)(a.c.parts * 2 * C) * sizeof(double);
    PARE_TRY(pare__scratch(be, sums + (size_t)(3 * C) * sizeof(float), &memory));
    a.sums = (double *)memory;
    a.coefs = (float *)((unsigned char *)memory + sums);
    if (n > 0)
        PARE_ACT_TYPE(args->x.dtype, T, {
            PARE_TRY(args->frozen ? (sum_parts<T, true>(be, &a, args->relu))
                                  : (sum_parts<T, false>(be, &a, args->relu)));
        });
    int down = join_down(a.c.parts);
    PARE_LAUNCH(be, k_batch_norm_grad_join, pare__blocks(C, JOIN_THREADS / down), JOIN_THREADS, 0,
                a, down);
    if (n == 0 || args->frozen)
        return PARE_OK;
    a.c = columns_of(&args->x, DX_ROWS);
    a.dy = a.dz ? a.dz : a.dy;
    PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(write_dx<T>(be, &a, args->relu && !a.dz)); });
    return PARE_OK;
}
