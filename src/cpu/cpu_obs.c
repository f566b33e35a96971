/* cpu_obs.c - statistics of one tensor, difference of two: lane sums in f64.
 *
 * A tile without NaN and Inf takes vectorised loops; another goes one by one. Sums have one order,
 * so a single thread does them. Bound by memory (f32) or by the conversion to f64.
 */
#include "cpu_impl.h"

#include <math.h>

#define TILE 1024 /* a multiple of CPU_LANES */
#define INF_BITS 0x7f800000

CPU_INLINE int32_t abs_bits(float x)
{
    return (int32_t)(pare__f32_bits(x) & 0x7fffffffu);
}

/* Integers in the order of the floats (-0 just below +0), and back. */
CPU_INLINE int32_t to_ordered(float x)
{
    int32_t u = (int32_t)pare__f32_bits(x);
    return u < 0 ? u ^ 0x7fffffff : u;
}

static double from_ordered(int32_t u)
{
    return (double)pare__bits_f32((uint32_t)(u < 0 ? u ^ 0x7fffffff : u)) + 0.0;
}

static int32_t largest(const float *x, int64_t n)
{
    int32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t a = abs_bits(x[i]);
        top = a > top ? a : top;
    }
    return top;
}

/* ---- stats ----------------------------------------------------------------------------------- */

typedef struct stats_state {
    int32_t min, max, absmax; /* ordered; absmax as bits */
    double sum[CPU_LANES], squares[CPU_LANES];
} stats_state;

static void stats_finite(stats_state *s, pare_stats_result *r, const float *x, int64_t n)
{
    int32_t min = s->min, max = s->max, zeros = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t u = to_ordered(x[i]);
        min = u < min ? u : min;
        max = u > max ? u : max;
        zeros += x[i] == 0.0f;
    }
    s->min = min;
    s->max = max;
    r->zeros += zeros;
    double sum[CPU_LANES], squares[CPU_LANES];
    memcpy(sum, s->sum, sizeof sum);
    memcpy(squares, s->squares, sizeof squares);
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int l = 0; l < CPU_LANES; l++) {
            double v = (double)x[i + l];
            sum[l] += v;
            squares[l] += v * v;
        }
    for (int l = 0; i + l < n; l++) {
        double v = (double)x[i + l];
        sum[l] += v;
        squares[l] += v * v;
    }
    memcpy(s->sum, sum, sizeof sum);
    memcpy(s->squares, squares, sizeof squares);
}

static void stats_any(stats_state *s, pare_stats_result *r, const float *x, int64_t n, int64_t at)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t u = to_ordered(x[i]), a = abs_bits(x[i]);
        if (a >= INF_BITS) {
            r->nans += a > INF_BITS;
            r->infs += a == INF_BITS;
            if (r->first_bad < 0)
                r->first_bad = at + i;
            continue;
        }
        r->zeros += a == 0;
        s->min = u < s->min ? u : s->min;
        s->max = u > s->max ? u : s->max;
        s->absmax = a > s->absmax ? a : s->absmax;
        s->sum[i % CPU_LANES] += (double)x[i];
        s->squares[i % CPU_LANES] += (double)x[i] * (double)x[i];
    }
}

pare_status PARE_CPU(pare_cpu_stats)(pare_backend *be, const pare_stats_args *args)
{
    (void)be;
    float buffer[TILE];
    stats_state s = {.min = INT32_MAX, .max = INT32_MIN};
    pare_stats_result r = {.count = pare_tensor_count(&args->x), .first_bad = -1};
    for (int64_t i = 0; i < r.count; i += TILE) {
        int64_t n = cpu_min(TILE, r.count - i);
        const float *x = PARE_CPU(pare__cpu_widen)(&args->x, i, n, buffer);
        int32_t top = largest(x, n);
        if (top < INF_BITS) {
            s.absmax = top > s.absmax ? top : s.absmax;
            stats_finite(&s, &r, x, n);
        } else {
            stats_any(&s, &r, x, n, i);
        }
    }
    if (s.min <= s.max) {
        r.min = from_ordered(s.min);
        r.max = from_ordered(s.max);
        r.absmax = from_ordered(s.absmax);
    }
    r.sum = cpu_tree(s.sum);
    r.sum_squares = cpu_tree(s.squares);
    *args->result = r;
    return PARE_OK;
}

/* ---- diff ------------------------------------------------------------------------------------ */

typedef struct diff_state {
    double aa[CPU_LANES], bb[CPU_LANES], ab[CPU_LANES], dd[CPU_LANES], max[CPU_LANES];
} diff_state;

/* One pair of finite numbers into lane l. */
CPU_INLINE void diff_pair(diff_state *s, int l, float a, float b)
{
    double u = (double)a, v = (double)b, d = u - v, m = fabs(d);
    s->aa[l] += u * u;
    s->bb[l] += v * v;
    s->ab[l] += u * v;
    s->dd[l] += d * d;
    s->max[l] = m > s->max[l] ? m : s->max[l];
}

static int64_t diff_finite(diff_state *state, const float *a, const float *b, int64_t n)
{
    diff_state s = *state;
    int32_t differing = 0;
    for (int64_t i = 0; i < n; i++)
        differing += a[i] != b[i];
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int l = 0; l < CPU_LANES; l++)
            diff_pair(&s, l, a[i + l], b[i + l]);
    for (int l = 0; i + l < n; l++)
        diff_pair(&s, l, a[i + l], b[i + l]);
    *state = s;
    return differing;
}

static int64_t diff_any(diff_state *s, const float *a, const float *b, int64_t n)
{
    int64_t differing = 0;
    for (int64_t i = 0; i < n; i++) {
        bool same = a[i] == b[i] || (isnan(a[i]) && isnan(b[i]));
        differing += !same;
        if (isfinite(a[i]) && isfinite(b[i]))
            diff_pair(s, (int)(i % CPU_LANES), a[i], b[i]);
        else if (!same)
            s->max[0] = (double)INFINITY;
    }
    return differing;
}

pare_status PARE_CPU(pare_cpu_diff)(pare_backend *be, const pare_diff_args *args)
{
    (void)be;
    const float *a = args->a.data, *b = args->b.data;
    diff_state s = {0};
    pare_diff_result r = {.count = pare_tensor_count(&args->a)};
    for (int64_t i = 0; i < r.count; i += TILE) {
        int64_t n = cpu_min(TILE, r.count - i);
        if (largest(a + i, n) < INF_BITS && largest(b + i, n) < INF_BITS)
            r.differing += diff_finite(&s, a + i, b + i, n);
        else
            r.differing += diff_any(&s, a + i, b + i, n);
    }
    for (int l = 0; l < CPU_LANES; l++)
        r.max_abs = s.max[l] > r.max_abs ? s.max[l] : r.max_abs;
    r.sum_aa = cpu_tree(s.aa);
    r.sum_bb = cpu_tree(s.bb);
    r.sum_ab = cpu_tree(s.ab);
    r.sum_dd = cpu_tree(s.dd);
    *args->result = r;
    return PARE_OK;
}
