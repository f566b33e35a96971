/* cuda_batch_norm.cu - batch norm over [R, C], channels last (cuda_columns.cuh).
 *
 *     y = (x − mean)·factor + offset (+ z) (negatives 0), factor = gamma/sqrt(var + eps)
 *
 * Training reads x twice: k_batch_norm_part makes the mean and the sum of squared deviations of
 * each part of the rows, k_batch_norm_join those of all, k_batch_norm_apply y. The sums of a part
 * are of differences from the mean of its first rows, so that a mean far from 0 costs no digits;
 * what the part hands on is f64, and the parts are joined in f64 around the mean of the first
 * (Chan 1982). mean is rounded to f32 for y, and offset makes up for what that lost.
 *
 * Bound by memory; bytes an element in F32 (half in BF16): training 12, else 8; 4 more with z.
 * Predicted, not measured: 85 % of the copy rate.
 */
#include "cuda_nn.cuh"

#include "cuda_columns.cuh"

#define PART_ROWS                                                                                  \
    64 /* rows of a thread at a time; of those AT_ONCE are loaded before one is used */
#define APPLY_ROWS 16
#define AT_ONCE 8
#define APPLY_AT_ONCE 4
#define SHIFT_ROWS 4

typedef struct batch_norm {
    columns c;
    const void *x, *z; /* z may be NULL */
    void *y;
    const float *gamma, *beta;
    float *running_mean, *running_var, *saved_mean, *saved_scale;
    double *sums; /* [parts][2][C]: mean, sum of squared deviations */
    float *coefs; /* [3][C]: centre, factor, offset */
    float eps, momentum;
    bool relu;
} batch_norm;

/* ---- statistics ------------------------------------------------------------------------------ */

/* The mean of the part's first rows, the same for all threads of a column. */
template <typename T, int W, bool ALIGNED>
static __device__ __forceinline__ void find_shift(const batch_norm &a, const columns_place &at,
                                                  float *shift)
{
    int64_t rows = columns_rows(a.c, at.part), column = at.column < a.c.C ? at.column : 0;
    const T *x = (const T *)a.x + at.part * a.c.rows * a.c.C + column;
    pack_of<T, W> p[SHIFT_ROWS];
#pragma unroll
    for (int s = 0; s < SHIFT_ROWS; s++)
        p[s] = columns_load<T, W, ALIGNED>(x + (s < rows ? s : rows - 1) * a.c.C);
#pragma unroll
    for (int k = 0; k < W; k++) {
        shift[k] = 0;
#pragma unroll
        for (int s = 0; s < SHIFT_ROWS; s++)
            shift[k] += to_f32(p[s].at[k]) * (1.0f / SHIFT_ROWS);
    }
}

/* Adds the differences of a row from `shift`, and their squares. */
template <typename T, int W>
static __device__ __forceinline__ void add_row(float *sum, const pack_of<T, W> &x,
                                               const float *shift)
{
#pragma unroll
    for (int k = 0; k < W; k++) {
        float d = to_f32(x.at[k]) - shift[k];
        sum[k] += d;
        sum[W + k] += d * d;
    }
}

template <typename T, int W, bool ALIGNED>
static __global__ void __launch_bounds__(COLUMNS_THREADS) k_batch_norm_part(batch_norm a)
{
    PARE_SHARED_ARRAY(float, room, 2 * W * COLUMNS_THREADS);
    const columns_place at = columns_at<W>(a.c);
    const int64_t step = a.c.down * a.c.C;
    float shift[W], sum[2 * W] = {0};
    find_shift<T, W, ALIGNED>(a, at, shift);
    const T *x = (const T *)a.x + at.first * a.c.C + at.column;
    int64_t r = at.first;
    for (; r + (AT_ONCE - 1) * a.c.down < at.last; r += AT_ONCE * a.c.down, x += AT_ONCE * step) {
        pack_of<T, W> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            p[u] = columns_load<T, W, ALIGNED>(x + u * step);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            add_row<T, W>(sum, p[u], shift);
    }
    for (; r < at.last; r += a.c.down, x += step)
        add_row<T, W>(sum, columns_load<T, W, ALIGNED>(x), shift);
    columns_sum<2 * W>(sum, room, a.c, at.down);
    if (at.down > 0 || at.column >= a.c.C)
        return;
    double rows = (double)columns_rows(a.c, at.part);
    double *mean = a.sums + at.part * 2 * a.c.C + at.column;
#pragma unroll
    for (int k = 0; k < W; k++) {
        double off = (double)sum[k] / rows;
        mean[k] = (double)shift[k] + off;
        mean[a.c.C + k] = (double)sum[W + k] - off * (double)sum[k];
    }
}

static __device__ void write_coefs(const batch_norm &a, int64_t c, double mean, double variance)
{
    double factor = (double)a.gamma[c] / sqrt(variance + (double)a.eps);
    float centre = (float)mean;
    a.coefs[c] = centre;
    a.coefs[a.c.C + c] = (float)factor;
    a.coefs[2 * a.c.C + c] = (float)((double)a.beta[c] - (mean - (double)centre) * factor);
}

static __device__ void save(const batch_norm &a, int64_t c, double mean, double variance)
{
    if (a.saved_mean)
        a.saved_mean[c] = (float)mean;
    if (a.saved_scale)
        a.saved_scale[c] = (float)(1.0 / sqrt(variance + (double)a.eps));
}

static __device__ float moved(float running, double now, float momentum)
{
    return (float)((1.0 - (double)momentum) * (double)running + (double)momentum * now);
}

/* Mean and variance of columns out of the parts'; saves them, moves the running ones. */
static __global__ void __launch_bounds__(JOIN_THREADS) k_batch_norm_join(batch_norm a, int down)
{
    PARE_SHARED_ARRAY(double, room, 2 * JOIN_THREADS);
    int across = JOIN_THREADS / down;
    int64_t c = (int64_t)blockIdx.x * across + threadIdx.x % across, C = a.c.C;
    double first = c < C ? a.sums[c] : 0, off = 0, square = 0, R = (double)a.c.R;
    if (c < C)
#pragma unroll 4
        for (int64_t p = threadIdx.x / across; p < a.c.parts; p += down) {
            double d = a.sums[p * 2 * C + c] - first, rows = (double)columns_rows(a.c, p);
            off += d * rows;
            square += a.sums[(p * 2 + 1) * C + c] + d * d * rows;
        }
    join_sums(&off, &square, room, across);
    if ((int)threadIdx.x >= across || c >= C)
        return;
    double mean = first + off / R, variance = square / R - off / R * (off / R);
    variance = variance < 0 ? 0 : variance; /* by rounding only */
    save(a, c, mean, variance);
    a.running_mean[c] = moved(a.running_mean[c], mean, a.momentum);
    a.running_var[c] =
        moved(a.running_var[c], R > 1 ? variance * (R / (R - 1)) : variance, a.momentum);
    write_coefs(a, c, mean, variance);
}

static __global__ void k_batch_norm_running(batch_norm a)
{
    int64_t c = grid_thread();
    if (c >= a.c.C)
        return;
    double mean = (double)a.running_mean[c], variance = (double)a.running_var[c];
    save(a, c, mean, variance);
    write_coefs(a, c, mean, variance);
}

/* ---- y --------------------------------------------------------------------------------------- */

/* What y is made with, of a thread's columns. */
template <int W> struct coefficients {
    float centre[W], factor[W], offset[W], low;
};

template <typename T, int W, bool ADD>
static __device__ __forceinline__ pack_of<T, W> y_of(const coefficients<W> &m, pack_of<T, W> p,
                                                     const pack_of<T, W> &z)
{
#pragma unroll
    for (int k = 0; k < W; k++) {
        float y = (to_f32(p.at[k]) - m.centre[k]) * m.factor[k] + m.offset[k];
        if (ADD)
            y += to_f32(z.at[k]);
        p.at[k] = from_f32<T>(y < m.low ? m.low : y);
    }
    return p;
}

template <typename T, int W, bool ALIGNED, bool ADD>
static __global__ void __launch_bounds__(COLUMNS_THREADS) k_batch_norm_apply(batch_norm a)
{
    const columns_place at = columns_at<W>(a.c);
    const int64_t step = a.c.down * a.c.C, start = at.first * a.c.C + at.column;
    const T *x = (const T *)a.x + start, *z = ADD ? (const T *)a.z + start : x;
    T *y = (T *)a.y + start;
    coefficients<W> m;
    m.low = a.relu ? 0.0f : -INFINITY;
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float *coef = a.coefs + (at.column < a.c.C ? at.column + k : 0);
        m.centre[k] = coef[0];
        m.factor[k] = coef[a.c.C];
        m.offset[k] = coef[2 * a.c.C];
    }
    int64_t r = at.first, i = 0;
    for (; r + (APPLY_AT_ONCE - 1) * a.c.down < at.last; r += APPLY_AT_ONCE * a.c.down) {
        pack_of<T, W> p[APPLY_AT_ONCE], q[APPLY_AT_ONCE];
#pragma unroll
        for (int u = 0; u < APPLY_AT_ONCE; u++) {
            p[u] = columns_load<T, W, ALIGNED>(x + i + u * step);
            q[u] = ADD ? columns_load<T, W, ALIGNED>(z + i + u * step) : p[u];
        }
#pragma unroll
        for (int u = 0; u < APPLY_AT_ONCE; u++)
            columns_store<T, W, ALIGNED>(y + i + u * step, y_of<T, W, ADD>(m, p[u], q[u]));
        i += APPLY_AT_ONCE * step;
    }
    for (; r < at.last; r += a.c.down, i += step) {
        pack_of<T, W> p = columns_load<T, W, ALIGNED>(x + i);
        pack_of<T, W> q = ADD ? columns_load<T, W, ALIGNED>(z + i) : p;
        columns_store<T, W, ALIGNED>(y + i, y_of<T, W, ADD>(m, p, q));
    }
}

/* ---- launcher -------------------------------------------------------------------------------- */

template <typename T> static pare_status statistics(pare_backend *be, const batch_norm *a)
{
    COLUMNS_LAYOUT(&a->c, T, pare__aligned(a->x, 16), W, ALIGNED, {
        PARE_LAUNCH(be, (k_batch_norm_part<T, W, ALIGNED>), columns_blocks(&a->c), COLUMNS_THREADS,
                    0, *a);
    });
    int down = join_down(a->c.parts);
    PARE_LAUNCH(be, k_batch_norm_join, pare__blocks(a->c.C, JOIN_THREADS / down), JOIN_THREADS, 0,
                *a, down);
    return PARE_OK;
}

template <typename T> static pare_status apply(pare_backend *be, const batch_norm *a)
{
    bool aligned = pare__aligned(a->x, 16) && pare__aligned(a->y, 16) && pare__aligned(a->z, 16);
    COLUMNS_LAYOUT(&a->c, T, aligned, W, ALIGNED, {
        if (a->z)
            PARE_LAUNCH(be, (k_batch_norm_apply<T, W, ALIGNED, true>), columns_blocks(&a->c),
                        COLUMNS_THREADS, 0, *a);
        else
            PARE_LAUNCH(be, (k_batch_norm_apply<T, W, ALIGNED, false>), columns_blocks(&a->c),
                        COLUMNS_THREADS, 0, *a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_batch_norm(pare_backend *be, const pare_batch_norm_args *args)
{
    batch_norm a = {};
    void *memory = NULL;
    if (pare_tensor_count(&args->x) == 0)
        return PARE_OK;
    a.c = columns_of(&args->x, PART_ROWS);
    size_t sums = args->training ? (size_t)(a.c.parts * 2 * a.c.C) * sizeof(double) : 0;
    PARE_TRY(pare__scratch(be, sums + (size_t)(3 * a.c.C) * sizeof(float), &memory));
    a.sums = (double *)memory;
    a.coefs = (float *)((unsigned char *)memory + sums);
    a.x = args->x.data;
    a.y = args->y.data;
    a.z = args->z.data;
    a.gamma = (const float *)args->gamma.data;
    a.beta = (const float *)args->beta.data;
    a.running_mean = (float *)args->running_mean.data;
    a.running_var = (float *)args->running_var.data;
    a.saved_mean = (float *)args->saved_mean.data;
    a.saved_scale = (float *)args->saved_scale.data;
    a.eps = args->eps;
    a.momentum = args->momentum;
    a.relu = args->relu;
    if (args->training)
        PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(statistics<T>(be, &a)); });
    else
        PARE_LAUNCH(be, k_batch_norm_running, pare__blocks(a.c.C, 256), 256, 0, a);
    a.c = columns_of(&args->x, APPLY_ROWS);
    PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(apply<T>(be, &a)); });
    return PARE_OK;
}
