/* cpu_obs.c - statistics of one tensor, difference of two: lane sums in f64.
 *
 * A tile without NaN and Inf takes vectorised loops; another goes one by one. Sums have one order,
 * so a single thread does them. Bound by memory (f32) or by the conversion to f64.
 */
#include "cpu_lanes.h"

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
    cpu_lanes sum, squares;
} stats_state;

/* Sixteen finite numbers. */
CPU_INLINE void stats_add(stats_state *s, const float *x)
{
    for (int p = 0; p < CPU_STEPS; p++) {
        cpu_f64s v = cpu_load_f64s(x, p);
        s->sum.part[p] += v;
        s->squares.part[p] += v * v;
    }
}

/* A tile without NaN and Inf; returns how many zeros it has. */
static int64_t stats_finite(stats_state *state, const float *x, int64_t n)
{
    stats_state s = *state;
    float rest[CPU_LANES];
    int32_t zeros = 0, min = s.min, max = s.max;
    for (int64_t i = 0; i < n; i++) {
        int32_t u = to_ordered(x[i]);
        min = u < min ? u : min;
        max = u > max ? u : max;
        zeros += abs_bits(x[i]) == 0;
    }
    s.min = min;
    s.max = max;
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        stats_add(&s, x + i);
    if (i < n)
        stats_add(&s, cpu_pad_lanes(x + i, n - i, rest));
    *state = s;
    return zeros;
}

/* Any tile: what is not finite is counted and then taken as +0, which no sum notices. */
static void stats_any(stats_state *s, pare_stats_result *r, const float *x, int64_t n, int64_t at)
{
    float finite[TILE];
    for (int64_t i = 0; i < n; i++) {
        int32_t u = to_ordered(x[i]), a = abs_bits(x[i]);
        finite[i] = a < INF_BITS ? x[i] : 0.0f;
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
    }
    stats_state sums = *s; /* of these, only the sums are wanted */
    stats_finite(&sums, finite, n);
    s->sum = sums.sum;
    s->squares = sums.squares;
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
            r.zeros += stats_finite(&s, x, n);
        } else {
            stats_any(&s, &r, x, n, i);
        }
    }
    if (s.min <= s.max) {
        r.min = from_ordered(s.min);
        r.max = from_ordered(s.max);
        r.absmax = from_ordered(s.absmax);
    }
    r.sum = cpu_tree(&s.sum);
    r.sum_squares = cpu_tree(&s.squares);
    *args->result = r;
    return PARE_OK;
}

/* ---- diff ------------------------------------------------------------------------------------ */

typedef struct diff_state {
    cpu_lanes aa, bb, ab, dd;
    double max;
} diff_state;

/* Sixteen pairs of finite numbers. */
CPU_INLINE void diff_add(diff_state *s, const float *a, const float *b)
{
    for (int p = 0; p < CPU_STEPS; p++) {
        cpu_f64s u = cpu_load_f64s(a, p), v = cpu_load_f64s(b, p), d = u - v;
        s->aa.part[p] += u * u;
        s->bb.part[p] += v * v;
        s->ab.part[p] += u * v;
        s->dd.part[p] += d * d;
    }
}

/* The greatest |a - b| of finite numbers, in f64: as integers, positive doubles keep their order.
 */
static double largest_gap(const float *a, const float *b, int64_t n)
{
    int64_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        int64_t u;
        memcpy(&u, &d, sizeof u);
        top = u > top ? u : top;
    }
    double gap;
    memcpy(&gap, &top, sizeof gap);
    return gap;
}

static int64_t diff_finite(diff_state *state, const float *a, const float *b, int64_t n)
{
    diff_state s = *state;
    float rest_a[CPU_LANES], rest_b[CPU_LANES];
    int32_t differing = 0;
    for (int64_t i = 0; i < n; i++)
        differing += a[i] != b[i];
    double gap = differing > 0 ? largest_gap(a, b, n) : 0;
    s.max = gap > s.max ? gap : s.max;
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        diff_add(&s, a + i, b + i);
    if (i < n)
        diff_add(&s, cpu_pad_lanes(a + i, n - i, rest_a), cpu_pad_lanes(b + i, n - i, rest_b));
    *state = s;
    return differing;
}

/* Pairs that are not both finite are judged here and then taken as two zeros. */
static int64_t diff_any(diff_state *s, const float *a, const float *b, int64_t n)
{
    float x[TILE], y[TILE];
    int64_t differing = 0;
    for (int64_t i = 0; i < n; i++) {
        bool finite = isfinite(a[i]) && isfinite(b[i]);
        x[i] = finite ? a[i] : 0.0f;
        y[i] = finite ? b[i] : 0.0f;
        if (finite || a[i] == b[i] || (isnan(a[i]) && isnan(b[i])))
            continue;
        differing++;
        s->max = (double)INFINITY;
    }
    return differing + diff_finite(s, x, y, n);
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
    r.max_abs = s.max;
    r.sum_aa = cpu_tree(&s.aa);
    r.sum_bb = cpu_tree(&s.bb);
    r.sum_ab = cpu_tree(&s.ab);
    r.sum_dd = cpu_tree(&s.dd);
    *args->result = r;
    return PARE_OK;
}
