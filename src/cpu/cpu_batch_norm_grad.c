/* cpu_batch_norm_grad.c - gradient of batch norm: one pass for its two sums, one for dx, bound by
 * memory.
 *
 *   dbeta = Σ g, dgamma = Σ g·(x − mean)·scale, dx = gamma·scale·(g − dbeta/R − xhat·dgamma/R),
 *
 * g being dy where the ReLU let it through. If g itself is wanted (dz), the first pass writes it
 * and the second reads it instead of dy and y. Frozen, dx = gamma·scale·g waits for no sum: one
 * pass does it all.
 */
#include "cpu_columns.h"
#include "cpu_nn.h"

#define AT_ONCE 4 /* periods */

typedef struct norm_grad {
    cpu_columns w;
    const pare_batch_norm_grad_args *a;
    const float *mean, *of_g, *of_x, *offset; /* over a period: dx = of_g·g + of_x·(x − mean) + … */
} norm_grad;

CPU_INLINE cpu_v masked(const norm_grad *s, pare_dtype dtype, bool relu, int64_t i, int64_t n)
{
    cpu_v dy = cpu_vload_n(s->a->dy.data, dtype, i, n, 0);
    if (!relu)
        return dy;
    cpu_v y = cpu_vload_n(s->a->y.data, dtype, i, n, 0);
    return cpu_pick(cpu_gt(y, cpu_splat(0.0f)), dy, cpu_splat(0.0f));
}

/* ---- before anything is summed --------------------------------------------------------------- */

static double factor(const norm_grad *s, int64_t c)
{
    const float *gamma = s->a->gamma.data, *scale = s->a->saved_scale.data;
    return (double)gamma[c] * (double)scale[c];
}

static void find_factors(norm_grad *s)
{
    float *mean = s->w.coefs, *of_g = mean + s->w.slot;
    memcpy(mean, s->a->saved_mean.data, (size_t)s->w.C * sizeof *mean);
    for (int64_t c = 0; c < s->w.C; c++)
        of_g[c] = (float)factor(s, c);
    cpu_repeat(mean, s->w.C, s->w.period);
    cpu_repeat(of_g, s->w.C, s->w.period);
    s->mean = mean;
    s->of_g = of_g;
}

/* ---- sums ------------------------------------------------------------------------------------ */

CPU_INLINE void sums_16(const norm_grad *s, pare_dtype dtype, bool relu, bool keep, float *sum,
                        float *dot, int times, int64_t i, int64_t j, int64_t n)
{
    cpu_v mean = cpu_vload_n(s->mean, PARE_F32, j, n, 0);
    cpu_v of_g = cpu_vload_n(s->of_g, PARE_F32, j, n, 0);
    cpu_v a = cpu_vload(sum, PARE_F32, j), b = cpu_vload(dot, PARE_F32, j);
    for (int t = 0; t < times; t++, i += s->w.period) {
        cpu_v g = masked(s, dtype, relu, i, n);
        if (keep)
            cpu_vstore_n(s->a->dz.data, dtype, i, n, g);
        if (s->a->frozen)
            cpu_vstore_n(s->a->dx.data, dtype, i, n, g * of_g);
        a += g;
        b += g * (cpu_vload_n(s->a->x.data, dtype, i, n, 0) - mean);
    }
    cpu_vstore(sum, PARE_F32, j, a);
    cpu_vstore(dot, PARE_F32, j, b);
}

#define SUMS(dtype, relu, keep)                                                                    \
    CPU_EACH_PERIOD(AT_ONCE, first, last, w->period, sums_16, s, dtype, relu, keep, sum, dot)

static void block_sums(const norm_grad *s, int64_t block, float *sum)
{
    const cpu_columns *w = &s->w;
    float *dot = sum + w->slot;
    double *sums = w->sums + block * 2 * w->C;
    int64_t first = block * w->rows * w->C, last = first + cpu_block_rows(w, block) * w->C;
    bool wide = s->a->x.dtype == PARE_F32, relu = s->a->relu;
    bool keep = s->a->dz.data && (relu || s->a->dz.data != s->a->dy.data);
    memset(sum, 0, (size_t)w->slot * 2 * sizeof *sum);
    if (wide && relu && keep)
        SUMS(PARE_F32, true, true);
    else if (wide && relu)
        SUMS(PARE_F32, true, false);
    else if (wide)
        SUMS(PARE_F32, false, keep);
    else if (relu && keep)
        SUMS(PARE_BF16, true, true);
    else if (relu)
        SUMS(PARE_BF16, true, false);
    else
        SUMS(PARE_BF16, false, keep);
    cpu_fold(w, sum, sums);
    cpu_fold(w, dot, sums + w->C);
}

static void sums_part(const void *user, int64_t first, int64_t last)
{
    const norm_grad *s = user;
    for (int64_t p = first; p < last; p++)
        for (int64_t b = cpu_part_block(&s->w, p); b < cpu_part_block(&s->w, p + 1); b++)
            block_sums(s, b, s->w.slots + p * 3 * s->w.slot);
}

static void join_blocks(const cpu_columns *w)
{
    for (int64_t k = 0; k < 2 * w->C; k++)
        w->totals[k] = 0;
    for (int64_t b = 0; b < w->blocks; b++)
        for (int64_t k = 0; k < 2 * w->C; k++)
            w->totals[k] += w->sums[b * 2 * w->C + k];
}

static void write_parameters(const norm_grad *s)
{
    const pare_batch_norm_grad_args *a = s->a;
    const float *scale = a->saved_scale.data;
    const double *sum = s->w.totals, *dot = sum + s->w.C;
    float *dgamma = a->dgamma.data, *dbeta = a->dbeta.data;
    for (int64_t c = 0; c < s->w.C; c++) {
        double g = dot[c] * (double)scale[c];
        dgamma[c] = (float)(a->accumulate ? (double)dgamma[c] + g : g);
        dbeta[c] = (float)(a->accumulate ? (double)dbeta[c] + sum[c] : sum[c]);
    }
}

/* ---- dx -------------------------------------------------------------------------------------- */

static void find_coefficients(norm_grad *s)
{
    const float *scale = s->a->saved_scale.data;
    const double *sum = s->w.totals, *dot = sum + s->w.C, R = (double)s->w.R;
    float *of_x = s->w.coefs + 2 * s->w.slot, *offset = of_x + s->w.slot;
    for (int64_t c = 0; c < s->w.C; c++) {
        double f = factor(s, c);
        of_x[c] = (float)(-f * (double)scale[c] * (double)scale[c] * dot[c] / R);
        offset[c] = (float)(-f * sum[c] / R);
    }
    cpu_repeat(of_x, s->w.C, s->w.period);
    cpu_repeat(offset, s->w.C, s->w.period);
    s->of_x = of_x;
    s->offset = offset;
}

CPU_INLINE void dx_16(const norm_grad *s, pare_dtype dtype, bool relu, bool kept, int times,
                      int64_t i, int64_t j, int64_t n)
{
    cpu_v mean = cpu_vload_n(s->mean, PARE_F32, j, n, 0);
    cpu_v of_g = cpu_vload_n(s->of_g, PARE_F32, j, n, 0);
    cpu_v of_x = cpu_vload_n(s->of_x, PARE_F32, j, n, 0);
    cpu_v offset = cpu_vload_n(s->offset, PARE_F32, j, n, 0);
    for (int t = 0; t < times; t++, i += s->w.period) {
        cpu_v g = kept ? cpu_vload_n(s->a->dz.data, dtype, i, n, 0) : masked(s, dtype, relu, i, n);
        cpu_v d = cpu_vload_n(s->a->x.data, dtype, i, n, 0) - mean;
        cpu_vstore_n(s->a->dx.data, dtype, i, n, g * of_g + (d * of_x + offset));
    }
}

#define DX(dtype, relu, kept)                                                                      \
    CPU_EACH_PERIOD(AT_ONCE, first, last, s->w.period, dx_16, s, dtype, relu, kept)

static void dx_part(const void *user, int64_t first_row, int64_t last_row)
{
    const norm_grad *s = user;
    int64_t first = first_row * s->w.C, last = last_row * s->w.C;
    bool wide = s->a->x.dtype == PARE_F32;
    if (wide && s->a->dz.data)
        DX(PARE_F32, false, true);
    else if (wide && s->a->relu)
        DX(PARE_F32, true, false);
    else if (wide)
        DX(PARE_F32, false, false);
    else if (s->a->dz.data)
        DX(PARE_BF16, false, true);
    else if (s->a->relu)
        DX(PARE_BF16, true, false);
    else
        DX(PARE_BF16, false, false);
}

pare_status PARE_CPU(pare_cpu_batch_norm_grad)(pare_backend *be,
                                               const pare_batch_norm_grad_args *args)
{
    norm_grad s = {.a = args};
    int64_t R = cpu_rows(&args->x), C = cpu_cols(&args->x);
    if (C == 0)
        return PARE_OK;
    if (R == 0) {
        size_t size = args->accumulate ? 0 : (size_t)C * sizeof(float);
        memset(args->dgamma.data, 0, size);
        memset(args->dbeta.data, 0, size);
        return PARE_OK;
    }
    PARE_TRY(cpu_columns_make(be, R, C, &s.w));
    find_factors(&s);
    cpu_split(be, s.w.parts, 1, sums_part, &s);
    join_blocks(&s.w);
    write_parameters(&s);
    if (args->frozen)
        return PARE_OK;
    find_coefficients(&s);
    cpu_split(be, R, s.w.rows, dx_part, &s);
    return PARE_OK;
}
