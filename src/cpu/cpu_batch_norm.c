/* cpu_batch_norm.c - batch norm: one pass for the statistics, one for y, bound by memory.
 *
 * A block's sums are of differences from the mean of its first rows, so that a mean far from 0
 * costs no digits; its mean and sum of squared deviations are then f64, and the blocks are joined
 * around the common mean (Chan 1982). y is (x − mean)·factor + offset, where mean is rounded to
 * f32 and offset makes up for what that lost.
 */
#include "cpu_columns.h"
#include "cpu_nn.h"

#define SHIFT_ROWS 8
#define AT_ONCE 4 /* periods */

typedef struct norm {
    cpu_columns w;
    const pare_batch_norm_args *a;
    const float *centre, *factor, *offset; /* over a period */
} norm;

/* ---- statistics ------------------------------------------------------------------------------ */

CPU_INLINE void sums_16(const norm *s, pare_dtype dtype, const float *shift, float *sum,
                        float *square, int times, int64_t i, int64_t j, int64_t n)
{
    cpu_v centre = cpu_vload_n(shift, PARE_F32, j, n, 0);
    cpu_v a = cpu_vload(sum, PARE_F32, j), b = cpu_vload(square, PARE_F32, j);
    for (int t = 0; t < times; t++) {
        cpu_v d = cpu_vload_n(s->a->x.data, dtype, i + t * s->w.period, n, 0) - centre;
        a += d;
        b += d * d;
    }
    cpu_vstore(sum, PARE_F32, j, a);
    cpu_vstore(square, PARE_F32, j, b);
}

static void find_shift(const norm *s, int64_t first, int64_t rows, float *shift)
{
    const pare_tensor *x = &s->a->x;
    int64_t C = s->w.C, of = cpu_min(rows, SHIFT_ROWS);
    memset(shift, 0, (size_t)C * sizeof *shift);
    for (int64_t r = first; r < first + of; r++)
        if (x->dtype == PARE_F32)
            for (int64_t c = 0; c < C; c++)
                shift[c] += cpu_get(x->data, PARE_F32, r * C + c);
        else
            for (int64_t c = 0; c < C; c++)
                shift[c] += cpu_get(x->data, PARE_BF16, r * C + c);
    for (int64_t c = 0; c < C; c++)
        shift[c] /= (float)of;
    /* Differences of BF16 from a number of more digits would all be rounded the same way, and so
     * would the sums of them. */
    for (int64_t c = 0; c < C && x->dtype == PARE_BF16; c++)
        shift[c] = pare__bf16_to_f32(pare__f32_to_bf16(shift[c]));
    cpu_repeat(shift, C, s->w.period);
}

/* Mean and sum of squared deviations of one block. */
static void block_statistics(const norm *s, int64_t block, float *slots)
{
    const cpu_columns *w = &s->w;
    const pare_tensor *x = &s->a->x;
    float *shift = slots, *sum = shift + w->slot, *square = sum + w->slot;
    int64_t rows = cpu_block_rows(w, block), first = block * w->rows * w->C;
    int64_t last = first + rows * w->C;
    double *mean = w->sums + block * 2 * w->C, *deviation = mean + w->C;
    find_shift(s, block * w->rows, rows, shift);
    memset(sum, 0, (size_t)w->slot * 2 * sizeof *sum);
    if (x->dtype == PARE_F32)
        CPU_EACH_PERIOD(AT_ONCE, first, last, w->period, sums_16, s, PARE_F32, shift, sum, square);
    else
        CPU_EACH_PERIOD(AT_ONCE, first, last, w->period, sums_16, s, PARE_BF16, shift, sum, square);
    cpu_fold(w, sum, mean);
    cpu_fold(w, square, deviation);
    for (int64_t c = 0; c < w->C; c++) {
        double off = mean[c] / (double)rows;
        deviation[c] -= off * mean[c];
        mean[c] = (double)shift[c] + off;
    }
}

static void statistics_part(const void *user, int64_t first, int64_t last)
{
    const norm *s = user;
    for (int64_t p = first; p < last; p++)
        for (int64_t b = cpu_part_block(&s->w, p); b < cpu_part_block(&s->w, p + 1); b++)
            block_statistics(s, b, s->w.slots + p * 3 * s->w.slot);
}

/* The blocks' statistics as one: mean and variance. */
static void join_blocks(const cpu_columns *w, double *mean, double *variance)
{
    for (int64_t c = 0; c < w->C; c++)
        mean[c] = variance[c] = 0;
    for (int64_t b = 0; b < w->blocks; b++)
        for (int64_t c = 0; c < w->C; c++)
            mean[c] += w->sums[b * 2 * w->C + c] * (double)cpu_block_rows(w, b) / (double)w->R;
    for (int64_t b = 0; b < w->blocks; b++) {
        const double *block_mean = w->sums + b * 2 * w->C, *deviation = block_mean + w->C;
        for (int64_t c = 0; c < w->C; c++) {
            double d = block_mean[c] - mean[c];
            variance[c] += (deviation[c] + d * d * (double)cpu_block_rows(w, b)) / (double)w->R;
        }
    }
    for (int64_t c = 0; c < w->C; c++)
        variance[c] = variance[c] < 0 ? 0 : variance[c]; /* by rounding only */
}

static float moved(float running, double now, float momentum)
{
    return (float)((1.0 - (double)momentum) * (double)running + (double)momentum * now);
}

static void save_statistics(const norm *s, const double *mean, const double *variance)
{
    float *saved_mean = s->a->saved_mean.data, *saved_scale = s->a->saved_scale.data;
    for (int64_t c = 0; c < s->w.C && saved_mean; c++)
        saved_mean[c] = (float)mean[c];
    for (int64_t c = 0; c < s->w.C && saved_scale; c++)
        saved_scale[c] = (float)(1.0 / sqrt(variance[c] + (double)s->a->eps));
}

static void move_running(const norm *s, const double *mean, const double *variance)
{
    const pare_batch_norm_args *a = s->a;
    float *running_mean = a->running_mean.data, *running_var = a->running_var.data;
    double unbiased = s->w.R > 1 ? (double)s->w.R / (double)(s->w.R - 1) : 1.0;
    for (int64_t c = 0; c < s->w.C; c++) {
        running_mean[c] = moved(running_mean[c], mean[c], a->momentum);
        running_var[c] = moved(running_var[c], variance[c] * unbiased, a->momentum);
    }
}

/* ---- y --------------------------------------------------------------------------------------- */

static void find_coefficients(norm *s, const double *mean, const double *variance)
{
    const pare_batch_norm_args *a = s->a;
    const float *gamma = a->gamma.data, *beta = a->beta.data;
    float *centre = s->w.coefs, *factor = centre + s->w.slot, *offset = factor + s->w.slot;
    for (int64_t c = 0; c < s->w.C; c++) {
        double f = (double)gamma[c] / sqrt(variance[c] + (double)a->eps);
        centre[c] = (float)mean[c];
        factor[c] = (float)f;
        offset[c] = (float)((double)beta[c] - (mean[c] - (double)centre[c]) * f);
    }
    cpu_repeat(centre, s->w.C, s->w.period);
    cpu_repeat(factor, s->w.C, s->w.period);
    cpu_repeat(offset, s->w.C, s->w.period);
    s->centre = centre;
    s->factor = factor;
    s->offset = offset;
}

CPU_INLINE void apply_16(const norm *s, pare_dtype dtype, bool add, cpu_v low, int times, int64_t i,
                         int64_t j, int64_t n)
{
    cpu_v centre = cpu_vload_n(s->centre, PARE_F32, j, n, 0);
    cpu_v factor = cpu_vload_n(s->factor, PARE_F32, j, n, 0);
    cpu_v offset = cpu_vload_n(s->offset, PARE_F32, j, n, 0);
    for (int t = 0; t < times; t++, i += s->w.period) {
        cpu_v y = (cpu_vload_n(s->a->x.data, dtype, i, n, 0) - centre) * factor + offset;
        if (add)
            y += cpu_vload_n(s->a->z.data, dtype, i, n, 0);
        cpu_vstore_n(s->a->y.data, dtype, i, n, cpu_pick(cpu_gt(low, y), low, y));
    }
}

static void apply_part(const void *user, int64_t first_row, int64_t last_row)
{
    const norm *s = user;
    int64_t first = first_row * s->w.C, last = last_row * s->w.C, period = s->w.period;
    cpu_v low = cpu_splat(s->a->relu ? 0.0f : -INFINITY);
    bool wide = s->a->x.dtype == PARE_F32;
    if (wide && s->a->z.data)
        CPU_EACH_PERIOD(AT_ONCE, first, last, period, apply_16, s, PARE_F32, true, low);
    else if (wide)
        CPU_EACH_PERIOD(AT_ONCE, first, last, period, apply_16, s, PARE_F32, false, low);
    else if (s->a->z.data)
        CPU_EACH_PERIOD(AT_ONCE, first, last, period, apply_16, s, PARE_BF16, true, low);
    else
        CPU_EACH_PERIOD(AT_ONCE, first, last, period, apply_16, s, PARE_BF16, false, low);
}

pare_status PARE_CPU(pare_cpu_batch_norm)(pare_backend *be, const pare_batch_norm_args *args)
{
    norm s = {.a = args};
    int64_t R = cpu_rows(&args->x), C = cpu_cols(&args->x);
    if (R == 0 || C == 0)
        return PARE_OK;
    PARE_TRY(cpu_columns_make(be, R, C, &s.w));
    double *mean = s.w.totals, *variance = mean + C;
    if (args->training) {
        cpu_split(be, s.w.parts, 1, statistics_part, &s);
        join_blocks(&s.w, mean, variance);
        move_running(&s, mean, variance);
    } else {
        for (int64_t c = 0; c < C; c++) {
            mean[c] = (double)((const float *)args->running_mean.data)[c];
            variance[c] = (double)((const float *)args->running_var.data)[c];
        }
    }
    save_statistics(&s, mean, variance);
    find_coefficients(&s, mean, variance);
    cpu_split(be, R, s.w.rows, apply_part, &s);
    return PARE_OK;
}
