/* cpu_norm.c - layer norm and RMS norm by row, and their gradients.
 *
 * A row stays in the first cache between its passes, so memory sees one. RMS norm is layer norm
 * without the mean: the same code, with `centred` off. dgamma and dbeta are f32 sums inside blocks
 * of rows, whose size is a constant, and f64 sums over the blocks, in their order.
 */
#include "cpu_columns.h"
#include "cpu_nn.h"

#include "cpu_row.h"

#define BLOCK 64 /* rows whose dgamma and dbeta are summed in f32 */
#define LANES 4  /* sums side by side, so that additions do not wait for each other */

/* BODY(…, i, n, k) over a row of N elements, a register of them from i on for the k-th sum. */
#define EACH_PART(N_, BODY, ...)                                                                   \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + LANES * CPU_PART_V <= (N_); i += LANES * CPU_PART_V)                            \
            for (int k = 0; k < LANES; k++)                                                        \
                BODY(__VA_ARGS__, i + k * CPU_PART_V, CPU_PART_V, k);                              \
        for (; i < (N_); i += CPU_PART_V)                                                          \
            BODY(__VA_ARGS__, i, cpu_min(CPU_PART_V, (N_)-i), 0);                                  \
    } while (0)

/* Registers, not sixteen at a time: a loop does not carry more. */
typedef struct sums {
    cpu_part_f a[LANES], b[LANES];
} sums;

CPU_INLINE float total(const cpu_part_f *lane)
{
    return cpu_part_sum((lane[0] + lane[1]) + (lane[2] + lane[3]));
}

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct norm {
    const pare_tensor *x, *y;
    const float *gamma, *beta; /* beta may be NULL */
    float *mean, *scale;       /* may be NULL */
    float eps, share;          /* 1/N */
    int64_t N;
} norm;

CPU_INLINE void sum_part(sums *s, const void *x, pare_dtype dtype, int64_t i, int64_t n, int k)
{
    s->a[k] += cpu_part_load(x, dtype, i, n);
}

CPU_INLINE void deviation_part(sums *s, const void *x, pare_dtype dtype, bool centred, float mean,
                               int64_t i, int64_t n, int k)
{
    cpu_part_f v = cpu_part_load(x, dtype, i, n);
    if (n < CPU_PART_V) /* behind the end nothing deviates */
        v = cpu_cut(cpu_vload_part(x, dtype, i, n, mean), 0);
    cpu_part_f d = v - mean;
    if (centred)
        s->a[k] += d;
    s->b[k] += d * d;
}

typedef struct row_out {
    const void *x;
    void *y;
    const float *gamma, *beta;
    float mean, scale, off; /* xhat = (x − mean)·scale − off */
} row_out;

CPU_INLINE void out_part(const row_out *o, pare_dtype dtype, bool centred, int64_t i, int64_t n,
                         int k)
{
    (void)k;
    cpu_part_f x = cpu_part_load(o->x, dtype, i, n);
    cpu_part_f y = centred ? (x - o->mean) * o->scale - o->off : x * o->scale;
    y = y * cpu_part_load(o->gamma, PARE_F32, i, n);
    if (o->beta)
        y += cpu_part_load(o->beta, PARE_F32, i, n);
    cpu_part_store(o->y, dtype, i, n, y);
}

CPU_INLINE void norm_row(const norm *w, pare_dtype dtype, bool centred, int64_t r)
{
    int64_t N = w->N;
    row_out o = {cpu_row_at(w->x->data, dtype, r * N),
                 cpu_row_at(w->y->data, dtype, r * N),
                 w->gamma,
                 w->beta,
                 0,
                 0,
                 0};
    sums s = {0};
    if (centred) {
        EACH_PART(N, sum_part, &s, o.x, dtype);
        o.mean = total(s.a) * w->share;
        s = (sums){0};
    }
    EACH_PART(N, deviation_part, &s, o.x, dtype, centred, o.mean);
    /* what is left of the mean is what rounding took from it */
    float left = centred ? total(s.a) * w->share : 0;
    float square = total(s.b) * w->share - left * left;
    o.scale = 1.0f / sqrtf((square < 0 ? 0 : square) + w->eps);
    o.off = left * o.scale;
    EACH_PART(N, out_part, &o, dtype, centred);
    if (w->mean)
        w->mean[r] = o.mean + left;
    if (w->scale)
        w->scale[r] = o.scale;
}

#define ROWS(dtype, centred)                                                                       \
    for (int64_t r = first; r < last; r++)                                                         \
    norm_row(w, dtype, centred, r)

static void layer_part(const void *user, int64_t first, int64_t last)
{
    const norm *w = user;
    if (w->x->dtype == PARE_F32)
        ROWS(PARE_F32, true);
    else
        ROWS(PARE_BF16, true);
}

static void rms_part(const void *user, int64_t first, int64_t last)
{
    const norm *w = user;
    if (w->x->dtype == PARE_F32)
        ROWS(PARE_F32, false);
    else
        ROWS(PARE_BF16, false);
}

pare_status PARE_CPU(pare_cpu_layer_norm)(pare_backend *be, const pare_layer_norm_args *args)
{
    norm w = {.x = &args->x,
              .y = &args->y,
              .gamma = args->gamma.data,
              .beta = args->beta.data,
              .mean = args->saved_mean.data,
              .scale = args->saved_scale.data,
              .eps = args->eps,
              .N = cpu_cols(&args->x)};
    w.share = 1.0f / (float)w.N;
    if (w.N > 0)
        cpu_split(be, cpu_rows(&args->x), cpu_row_grain(w.N), layer_part, &w);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_rms_norm)(pare_backend *be, const pare_rms_norm_args *args)
{
    norm w = {.x = &args->x,
              .y = &args->y,
              .gamma = args->gamma.data,
              .scale = args->saved_scale.data,
              .eps = args->eps,
              .N = cpu_cols(&args->x)};
    w.share = 1.0f / (float)w.N;
    if (w.N > 0)
        cpu_split(be, cpu_rows(&args->x), cpu_row_grain(w.N), rms_part, &w);
    return PARE_OK;
}

/* ---- gradient -------------------------------------------------------------------------------- */

typedef struct norm_grad {
    const pare_tensor *dy, *x, *dx;
    const float *gamma, *mean, *scale; /* mean NULL: RMS norm */
    float *dgamma, *dbeta;             /* may be NULL */
    float share;                       /* 1/N */
    float *blocks;                     /* [blocks][2][stride], or NULL: no sums are wanted */
    int64_t R, N, stride;
    bool add_x, add;
} norm_grad;

typedef struct row_grad {
    const void *dy, *x;
    void *dx;
    const float *gamma;
    float *dgamma, *dbeta;            /* of the block */
    float mean, scale, of_g, of_xhat; /* dx = scale·g − of_g − of_xhat·xhat, g = dy·gamma */
} row_grad;

CPU_INLINE cpu_part_f xhat_part(const row_grad *o, pare_dtype dtype, bool centred, int64_t i,
                                int64_t n)
{
    cpu_part_f x = cpu_part_load(o->x, dtype, i, n);
    return centred ? (x - o->mean) * o->scale : x * o->scale;
}

/* A block's row of sums is padded to whole registers. */
CPU_INLINE void add_to(float *sum, cpu_part_f v)
{
    cpu_part_store(sum, PARE_F32, 0, CPU_PART_V, cpu_part_load(sum, PARE_F32, 0, CPU_PART_V) + v);
}

CPU_INLINE void grad_sums_part(sums *s, const row_grad *o, pare_dtype dtype, bool centred,
                               bool params, int64_t i, int64_t n, int k)
{
    cpu_part_f dy = cpu_part_load(o->dy, dtype, i, n), xhat = xhat_part(o, dtype, centred, i, n);
    cpu_part_f g = dy * cpu_part_load(o->gamma, PARE_F32, i, n);
    if (centred)
        s->a[k] += g;
    s->b[k] += g * xhat;
    if (params)
        add_to(o->dgamma + i, dy * xhat);
    if (params && centred)
        add_to(o->dbeta + i, dy);
}

CPU_INLINE void dx_part(const row_grad *o, pare_dtype dtype, bool centred, bool add, int64_t i,
                        int64_t n, int k)
{
    (void)k;
    cpu_part_f g = cpu_part_load(o->dy, dtype, i, n) * cpu_part_load(o->gamma, PARE_F32, i, n);
    cpu_part_f dx = g * o->scale - xhat_part(o, dtype, centred, i, n) * o->of_xhat;
    if (centred)
        dx -= o->of_g;
    if (add)
        dx += cpu_part_load(o->dx, dtype, i, n);
    cpu_part_store(o->dx, dtype, i, n, dx);
}

CPU_INLINE void grad_row(const norm_grad *w, row_grad *o, pare_dtype dtype, bool centred,
                         bool params, int64_t r)
{
    sums s = {0};
    o->dy = cpu_row_at(w->dy->data, dtype, r * w->N);
    o->x = cpu_row_at(w->x->data, dtype, r * w->N);
    o->dx = cpu_row_at(w->dx->data, dtype, r * w->N);
    o->scale = w->scale[r];
    o->mean = centred ? w->mean[r] : 0;
    EACH_PART(w->N, grad_sums_part, &s, o, dtype, centred, params);
    o->of_g = centred ? total(s.a) * w->share * o->scale : 0;
    o->of_xhat = total(s.b) * w->share * o->scale;
    if (w->add_x)
        EACH_PART(w->N, dx_part, o, dtype, centred, true);
    else
        EACH_PART(w->N, dx_part, o, dtype, centred, false);
}

#define GRAD_ROWS(dtype, centred, params)                                                          \
    for (int64_t r = first; r < last; r++)                                                         \
    grad_row(w, &o, dtype, centred, params, r)

static void grad_block(const norm_grad *w, int64_t block)
{
    int64_t first = block * BLOCK, last = cpu_min(w->R, first + BLOCK);
    row_grad o = {.gamma = w->gamma};
    bool wide = w->x->dtype == PARE_F32, centred = w->mean != NULL;
    if (w->blocks) {
        o.dgamma = w->blocks + block * 2 * w->stride;
        o.dbeta = o.dgamma + w->stride;
        memset(o.dgamma, 0, (size_t)w->stride * 2 * sizeof(float));
    }
    if (wide && centred && w->blocks)
        GRAD_ROWS(PARE_F32, true, true);
    else if (wide && centred)
        GRAD_ROWS(PARE_F32, true, false);
    else if (wide)
        GRAD_ROWS(PARE_F32, false, w->blocks != NULL);
    else if (centred && w->blocks)
        GRAD_ROWS(PARE_BF16, true, true);
    else if (centred)
        GRAD_ROWS(PARE_BF16, true, false);
    else
        GRAD_ROWS(PARE_BF16, false, w->blocks != NULL);
}

static void grad_part(const void *user, int64_t first, int64_t last)
{
    for (int64_t b = first; b < last; b++)
        grad_block(user, b);
}

/* Columns [first, last) of the blocks' sums into y. */
static void join_blocks(const norm_grad *w, const float *sums_of, float *y, int64_t first,
                        int64_t last)
{
    int64_t blocks = cpu_ceil_div(w->R, BLOCK);
    for (int64_t at = first; at < last; at += CPU_V) {
        double sum[CPU_V] = {0};
        int64_t n = cpu_min(CPU_V, last - at);
        for (int64_t b = 0; b < blocks; b++) /* a block's row is padded to 16 */
            for (int k = 0; k < CPU_V; k++)
                sum[k] += (double)sums_of[b * 2 * w->stride + at + k];
        for (int64_t k = 0; k < n; k++)
            y[at + k] = (float)(w->add ? (double)y[at + k] + sum[k] : sum[k]);
    }
}

static void join_part(const void *user, int64_t first, int64_t last)
{
    const norm_grad *w = user;
    if (w->dgamma)
        join_blocks(w, w->blocks, w->dgamma, first, last);
    if (w->dbeta)
        join_blocks(w, w->blocks + w->stride, w->dbeta, first, last);
}

static pare_status run_grad(pare_backend *be, norm_grad *w)
{
    int64_t blocks = cpu_ceil_div(w->R, BLOCK);
    w->stride = cpu_ceil_div(w->N, CPU_V) * CPU_V;
    w->share = 1.0f / (float)w->N;
    if (w->N == 0)
        return PARE_OK;
    if (w->dgamma || w->dbeta) {
        void *memory = NULL;
        /* one block even of no rows: then the sums are 0 */
        int64_t room = blocks > 0 ? blocks : 1;
        PARE_TRY(pare__scratch(be, (size_t)(room * 2 * w->stride) * sizeof(float), &memory));
        w->blocks = memory;
    }
    cpu_split(be, blocks, cpu_ceil_div(cpu_row_grain(w->N), BLOCK), grad_part, w);
    if (w->blocks)
        cpu_split(be, w->N, 1024, join_part, w);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_layer_norm_grad)(pare_backend *be,
                                               const pare_layer_norm_grad_args *args)
{
    return run_grad(be, &(norm_grad){.dy = &args->dy,
                                     .x = &args->x,
                                     .dx = &args->dx,
                                     .gamma = args->gamma.data,
                                     .mean = args->saved_mean.data,
                                     .scale = args->saved_scale.data,
                                     .dgamma = args->dgamma.data,
                                     .dbeta = args->dbeta.data,
                                     .R = cpu_rows(&args->x),
                                     .N = cpu_cols(&args->x),
                                     .add_x = args->accumulate_x,
                                     .add = args->accumulate});
}

pare_status PARE_CPU(pare_cpu_rms_norm_grad)(pare_backend *be, const pare_rms_norm_grad_args *args)
{
    return run_grad(be, &(norm_grad){.dy = &args->dy,
                                     .x = &args->x,
                                     .dx = &args->dx,
                                     .gamma = args->gamma.data,
                                     .scale = args->saved_scale.data,
                                     .dgamma = args->dgamma.data,
                                     .R = cpu_rows(&args->x),
                                     .N = cpu_cols(&args->x),
                                     .add_x = args->accumulate_x,
                                     .add = args->accumulate});
}
