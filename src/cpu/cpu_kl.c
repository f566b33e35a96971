/* cpu_kl.c - divergences of a student from its teacher by row, and their gradients:
 * Kullback-Leibler either way (Hinton 2015, Gu 2023), Jensen-Shannon.
 *
 * Both rows are read block by block, each block some times from the first cache: their largest,
 * then Σ e^a and Σ e^b against the largest so far, the sums scaled down whenever one grows, and Σ
 * e^a·(a − b) against the class in which a is largest: where a is all but sure of it, the sum is
 * what little the others have. a is the teacher's row, b the student's, the other way round for the
 * reverse divergence. Jensen-Shannon takes the difference of two probabilities in their mean, d =
 * (p − q)/(p + q), which wants both sums: a second reading adds up m·((1 + d)·log(1 + d) + (1 −
 * d)·log(1 − d)), no term of which is negative. A last reading writes the gradient, that of a class
 * with more than half of q as what the others leave. Sums of a block are sixteen f32 lanes, those
 * of a row and its logarithms are f64. Bound by memory, Jensen-Shannon by its logarithms.
 */
#include "cpu_loss.h"
#include "cpu_math.h"
#include "cpu_nn.h"

/* A row of teacher or student as far as it was read. */
typedef struct side {
    const void *row;
    pare_dtype dtype;
    loss_softmax s;
    float best;    /* the largest logit itself */
    int64_t place; /* its first */
} side;

static side side_of(const pare_tensor *x, int64_t i)
{
    return (side){.row = cpu_row_at(x->data, x->dtype, i * x->shape[1]),
                  .dtype = x->dtype,
                  .s = loss_nothing_read,
                  .best = -INFINITY};
}

/* Takes a block's largest logit and its place; as loss_raise_top. */
static double raise_side(side *r, int64_t at, int64_t n, double inverse)
{
    float top = cpu_row_top(cpu_row_at(r->row, r->dtype, at), r->dtype, n);
    if (top > r->best) {
        r->best = top;
        r->place = at;
        while (cpu_get(r->row, r->dtype, r->place) != top)
            r->place++;
    }
    return loss_raise_top(&r->s, top, inverse);
}

/* Calls f(a, dtype of a, b, dtype of b, …) with the dtypes as constants. */
#define OF_DTYPES(f, a_, as_, b_, bs_, ...)                                                        \
    ((as_) == PARE_F32   ? (bs_) == PARE_F32 ? f(a_, PARE_F32, b_, PARE_F32, __VA_ARGS__)          \
                                             : f(a_, PARE_F32, b_, PARE_BF16, __VA_ARGS__)         \
       : (bs_) == PARE_F32 ? f(a_, PARE_BF16, b_, PARE_F32, __VA_ARGS__)                           \
                         : f(a_, PARE_BF16, b_, PARE_BF16, __VA_ARGS__))

/* ---- the first reading ----------------------------------------------------------------------- */

/* Sums over a block; a and b below their largest, b' below that of the class in which a is largest,
 * divided by the temperature. */
typedef struct kl_sums {
    float a, b;  /* Σ e^a, Σ e^b */
    float cross; /* Σ e^a·(a − b') */
} kl_sums;

/* What they are taken against. */
typedef struct kl_tops {
    float a, b, b_there, inverse;
} kl_tops;

typedef struct kl_lanes {
    cpu_acc a, b, cross;
} kl_lanes;

CPU_INLINE void add_kl(kl_lanes *sum, const kl_tops *top, cpu_v a, cpu_v b)
{
    cpu_v below = a - top->a, e = cpu_vexp_below(below * top->inverse);
    cpu_vi none = cpu_eq(e, cpu_splat(0)); /* there p·log p is 0 */
    cpu_acc_add(&sum->a, e);
    cpu_acc_add(&sum->b, cpu_vexp_below((b - top->b) * top->inverse));
    cpu_acc_add(&sum->cross, cpu_pick(none, e, e * ((below - (b - top->b_there)) * top->inverse)));
}

CPU_INLINE kl_sums sum_kl_of(const void *a, pare_dtype a_dtype, const void *b, pare_dtype b_dtype,
                             const kl_tops *tops, int64_t n)
{
    const kl_tops top = *tops;
    kl_lanes sum = {cpu_acc_of(0), cpu_acc_of(0), cpu_acc_of(0)};
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        add_kl(&sum, &top, cpu_vload(a, a_dtype, i), cpu_vload(b, b_dtype, i));
    if (i < n)
        add_kl(&sum, &top, cpu_vload_n(a, a_dtype, i, n - i, -INFINITY),
               cpu_vload_n(b, b_dtype, i, n - i, -INFINITY));
    return (kl_sums){cpu_vsum(cpu_acc_get(&sum.a)), cpu_vsum(cpu_acc_get(&sum.b)),
                     cpu_vsum(cpu_acc_get(&sum.cross))};
}

CPU_LOOP kl_sums sum_kl(const void *a, pare_dtype a_dtype, const void *b, pare_dtype b_dtype,
                        const kl_tops *tops, int64_t n)
{
    return OF_DTYPES(sum_kl_of, a, a_dtype, b, b_dtype, tops, n);
}

/* The divergence of b's softmax from a's, and what it is made of. */
typedef struct kl_parts {
    double kl;
    double over; /* what kl is over the class in which a is largest: Σ p·(log p − log q) less this
                    one's log p − log q, NaN where kl is */
    float b_there; /* b of this class */
} kl_parts;

/* b of the class in which a is largest. Where it is none that others can be taken against, the
 * divergence is infinite or NaN whatever stands for it. */
static float there(const side *a, const side *b)
{
    float x = cpu_get(b->row, b->dtype, a->place);
    return isfinite(x) ? x : 0;
}

/* Finds the softmax of both sides. */
static kl_parts read_sides(side *a, side *b, int64_t V, double inverse)
{
    double cross = 0; /* Σ e^a·(a − b') of what was read */
    float b_there = 0;
    for (int64_t at = 0; at < V; at += LOSS_BLOCK) {
        int64_t n = cpu_min(LOSS_BLOCK, V - at);
        double was = a->s.top - (double)b_there, exps = a->s.exps;
        double shrink = raise_side(a, at, n, inverse);
        raise_side(b, at, n, inverse);
        b_there = there(a, b);
        double moved = (was - (a->s.top - (double)b_there)) * inverse;
        cross = shrink > 0 && exps > 0 ? (cross + exps * moved) * shrink : 0; /* 0·Inf is NaN */
        kl_sums s = sum_kl(
            cpu_row_at(a->row, a->dtype, at), a->dtype, cpu_row_at(b->row, b->dtype, at), b->dtype,
            &(kl_tops){(float)a->s.top, (float)b->s.top, b_there, (float)inverse}, n);
        a->s.exps += (double)s.a;
        b->s.exps += (double)s.b;
        cross += (double)s.cross;
    }
    double over = cross / a->s.exps;
    double kl = over + (b->s.top - (double)b_there) * inverse - (log(a->s.exps) - log(b->s.exps));
    return (kl_parts){kl, isnan(kl) ? kl : over, b_there};
}

/* ---- probabilities --------------------------------------------------------------------------- */

/* p = of_p·e^((t − t_top)·inverse), q likewise of x; log p − log q = ((t − t_top) − (x −
 * x_top))·inverse − rest. there: log(q/2m) of the class in which q is largest. */
typedef struct kl_shares {
    float t_top, x_top, of_p, of_q, inverse, rest, there;
} kl_shares;

/* log(q/2m) by log p − log q; 0 where it is no number to take others against. */
static double log_share_there(double more)
{
    double f = (more > 0 ? -more : 0) - log1p(exp(-fabs(more)));
    return isfinite(f) ? f : 0;
}

static kl_shares shares_of(const side *t, const side *x, double inverse)
{
    double rest = log(t->s.exps) - log(x->s.exps);
    double below = (double)cpu_get(t->row, t->dtype, x->place) - t->s.top;
    return (kl_shares){.t_top = (float)t->s.top,
                       .x_top = (float)x->s.top,
                       .of_p = (float)(1 / t->s.exps),
                       .of_q = (float)(1 / x->s.exps),
                       .inverse = (float)inverse,
                       .rest = (float)rest,
                       .there = (float)log_share_there(below * inverse - rest)};
}

CPU_INLINE cpu_v share_p(const kl_shares *k, cpu_v t)
{
    return cpu_vexp_below((t - k->t_top) * k->inverse) * k->of_p;
}

CPU_INLINE cpu_v share_q(const kl_shares *k, cpu_v x)
{
    return cpu_vexp_below((x - k->x_top) * k->inverse) * k->of_q;
}

CPU_INLINE cpu_v log_ratio(const kl_shares *k, cpu_v t, cpu_v x)
{
    return ((t - k->t_top) - (x - k->x_top)) * k->inverse - k->rest;
}

/* ---- Jensen-Shannon -------------------------------------------------------------------------- */

typedef struct js_sums {
    float js; /* Σ (p + q)·((1 + d)·log(1 + d) + (1 − d)·log(1 − d)) */
    float f;  /* Σ q·(log(q/2m) − there) */
} js_sums;

typedef struct js_lanes {
    cpu_acc js, f;
} js_lanes;

/* log(q/2m) = −log(1 + p/q): next to nothing where p is, with all its digits. ratio is that of the
 * smaller to the larger of p and q, e^−less; more = log p − log q. */
CPU_INLINE cpu_v log_share(cpu_v more, cpu_v less, cpu_v ratio)
{
    cpu_v f = -cpu_vlog1p(ratio);
    return cpu_pick(cpu_gt(more, cpu_splat(0)), f - less, f);
}

/* more = log p − log q. d = |p − q|/(p + q) is taken of e^−|more| − 1, which does not cancel. */
CPU_INLINE void add_js(js_lanes *sum, cpu_v p, cpu_v q, cpu_v more, float there)
{
    cpu_v s = p + q, part;
    cpu_vi none = cpu_lt(s, cpu_splat(FLT_MIN)); /* next to nothing, and the ratio may be NaN */
    cpu_v less = cpu_vmin(cpu_splat(FLT_MAX), cpu_vabs(more));
    cpu_v two_n = cpu_vexp_parts(cpu_vmax(cpu_splat(-88.05f), -less), &part);
    cpu_v ratio = (part + 1.0f) * two_n;
    cpu_v d = ((1.0f - two_n) - part * two_n) / (1.0f + ratio), d2 = d * d;
    /* the even function of d as its series, whose terms do not cancel, or as it stands */
    cpu_v g = d2 * (1.0f / 120) + 1.0f / 91;
    g = g * d2 + 1.0f / 66;
    g = g * d2 + 1.0f / 45;
    g = g * d2 + 1.0f / 28;
    g = g * d2 + 1.0f / 15;
    g = g * d2 + 1.0f / 6;
    g = (g * d2 + 1.0f) * d2;
    cpu_v larger = 0.693147181f - cpu_vlog1p(ratio); /* log(1 + d); log(1 − d) is less by |more| */
    g = cpu_pick(cpu_lt(d2, cpu_splat(0.14f)), g, larger * 2.0f - (1.0f - d) * less);
    cpu_v f = log_share(more, less, ratio) - there;
    cpu_acc_add(&sum->js, cpu_pick(none, s, s * g));
    cpu_acc_add(&sum->f, cpu_pick(none, s, q * f));
}

CPU_INLINE js_sums sum_js_of(const void *t, pare_dtype t_dtype, const void *x, pare_dtype x_dtype,
                             const kl_shares *shares, int64_t n)
{
    const kl_shares k = *shares;
    js_lanes sum = {cpu_acc_of(0), cpu_acc_of(0)};
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V) {
        cpu_v u = cpu_vload(t, t_dtype, i), v = cpu_vload(x, x_dtype, i);
        add_js(&sum, share_p(&k, u), share_q(&k, v), log_ratio(&k, u, v), k.there);
    }
    if (i < n) {
        cpu_v u = cpu_vload_n(t, t_dtype, i, n - i, -INFINITY);
        cpu_v v = cpu_vload_n(x, x_dtype, i, n - i, -INFINITY);
        add_js(&sum, share_p(&k, u), share_q(&k, v), log_ratio(&k, u, v), k.there);
    }
    return (js_sums){cpu_vsum(cpu_acc_get(&sum.js)), cpu_vsum(cpu_acc_get(&sum.f))};
}

CPU_LOOP js_sums sum_js(const void *t, pare_dtype t_dtype, const void *x, pare_dtype x_dtype,
                        const kl_shares *shares, int64_t n)
{
    return OF_DTYPES(sum_js_of, t, t_dtype, x, x_dtype, shares, n);
}

/* The divergence; *f = Σ q·(log(q/2m) − there). */
static double read_js(const side *t, const side *x, const kl_shares *shares, int64_t V, double *f)
{
    double js = 0;
    *f = 0;
    for (int64_t at = 0; at < V; at += LOSS_BLOCK) {
        js_sums s =
            sum_js(cpu_row_at(t->row, t->dtype, at), t->dtype, cpu_row_at(x->row, x->dtype, at),
                   x->dtype, shares, cpu_min(LOSS_BLOCK, V - at));
        js += (double)s.js;
        *f += (double)s.f;
    }
    return js / 4;
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* dx = q − p for the first kind, whose shares have the scale in them, else scale·q·(f − mean) with
 * f = log q − log p, or log(q/2m) with half the scale. f and mean of these are over f of the class
 * in which q is largest: nothing is left of the many digits that they have in common. */
typedef struct kl_slope {
    kl_shares shares;
    float scale, mean;
} kl_slope;

CPU_INLINE cpu_v slope_of(pare_divergence kind, const kl_slope *k, cpu_v t, cpu_v x)
{
    cpu_v q = share_q(&k->shares, x);
    if (kind == PARE_DIVERGENCE_FORWARD)
        return q - share_p(&k->shares, t);
    cpu_v more = log_ratio(&k->shares, t, x), f = -more;
    if (kind == PARE_DIVERGENCE_JS) {
        cpu_v less = cpu_vabs(more);
        f = log_share(more, less, cpu_vexp_below(-less)) - k->shares.there;
    }
    cpu_vi none = cpu_eq(q, cpu_splat(0)); /* where q·log q is 0 */
    return cpu_pick(none, q, q * (f - k->mean) * k->scale);
}

/* Returns the sum of the slopes. */
CPU_INLINE float slopes_of(const void *t, pare_dtype t_dtype, const void *x, pare_dtype x_dtype,
                           pare_divergence kind, const kl_slope *slope, void *dx, int64_t n)
{
    const kl_slope k = *slope; /* dx might be a part of it, for all the compiler knows */
    cpu_acc sum = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V) {
        cpu_v s = slope_of(kind, &k, cpu_vload(t, t_dtype, i), cpu_vload(x, x_dtype, i));
        cpu_acc_add(&sum, s);
        cpu_vstore(dx, x_dtype, i, s);
    }
    if (i < n) {
        cpu_v s = slope_of(kind, &k, cpu_vload_n(t, t_dtype, i, n - i, -INFINITY),
                           cpu_vload_n(x, x_dtype, i, n - i, -INFINITY));
        cpu_acc_add(&sum, s);
        cpu_vstore_n(dx, x_dtype, i, n - i, s);
    }
    return cpu_vsum(cpu_acc_get(&sum));
}

/* A loop for each kind. */
#define SLOPES(name, kind)                                                                         \
    CPU_LOOP float name(const void *t, pare_dtype t_dtype, const void *x, pare_dtype x_dtype,      \
                        const kl_slope *k, void *dx, int64_t n)                                    \
    {                                                                                              \
        return OF_DTYPES(slopes_of, t, t_dtype, x, x_dtype, kind, k, dx, n);                       \
    }
SLOPES(forward_slopes, PARE_DIVERGENCE_FORWARD)
SLOPES(reverse_slopes, PARE_DIVERGENCE_REVERSE)
SLOPES(js_slopes, PARE_DIVERGENCE_JS)

/* ---- rows ------------------------------------------------------------------------------------ */

/* Slopes of the classes [first, last); their sum. */
static double write_slopes(const pare_kl_args *a, int64_t i, const side *t, const side *x,
                           const kl_slope *k, int64_t first, int64_t last)
{
    void *dx = cpu_row_at(a->dx.data, x->dtype, i * a->x.shape[1]);
    double sum = 0;
    for (int64_t at = first; at < last; at += LOSS_BLOCK) {
        int64_t n = cpu_min(LOSS_BLOCK, last - at);
        const void *u = cpu_row_at(t->row, t->dtype, at), *v = cpu_row_at(x->row, x->dtype, at);
        void *to = cpu_row_at(dx, x->dtype, at);
        if (a->divergence == PARE_DIVERGENCE_FORWARD)
            sum += (double)forward_slopes(u, t->dtype, v, x->dtype, k, to, n);
        else if (a->divergence == PARE_DIVERGENCE_REVERSE)
            sum += (double)reverse_slopes(u, t->dtype, v, x->dtype, k, to, n);
        else
            sum += (double)js_slopes(u, t->dtype, v, x->dtype, k, to, n);
    }
    return sum;
}

/* The slopes of a row come to 0 together. That of a class with more than half of q is a difference
 * of larger numbers, those of the others are small by themselves: it is what they leave. */
static void write_gradient(const pare_kl_args *a, int64_t i, const side *t, const side *x,
                           const kl_slope *k)
{
    int64_t V = a->x.shape[1], top = x->place;
    bool sure = x->s.exps > 0 && x->s.exps < 2;
    if (!sure) {
        write_slopes(a, i, t, x, k, 0, V);
        return;
    }
    double rest = write_slopes(a, i, t, x, k, 0, top) + write_slopes(a, i, t, x, k, top + 1, V);
    double itself = write_slopes(a, i, t, x, k, top, top + 1);
    if (isfinite(rest) && isfinite(itself))
        cpu_put(cpu_row_at(a->dx.data, x->dtype, i * V), x->dtype, top, (float)-rest);
}

static void kl_row(const pare_kl_args *a, int64_t i)
{
    const double inverse = loss_inverse(a->temperature);
    int64_t V = a->x.shape[1];
    side t = side_of(&a->teacher, i), x = side_of(&a->x, i);
    bool reverse = a->divergence == PARE_DIVERGENCE_REVERSE,
         js = a->divergence == PARE_DIVERGENCE_JS;
    kl_parts parts = {0};
    kl_slope k = {.mean = 0};
    if (V > 0) {
        parts = read_sides(reverse ? &x : &t, reverse ? &t : &x, V, inverse);
        k = (kl_slope){.shares = shares_of(&t, &x, inverse), .mean = (float)parts.over};
    }
    double kl = parts.kl, scale = (double)a->grad_scale * inverse;
    if (js) {
        double f;
        kl = read_js(&t, &x, &k.shares, V, &f);
        k.mean = (float)f;
        scale /= 2;
    }
    ((float *)a->kl.data)[i] = kl < 0 ? 0 : (float)kl; /* below 0 by rounding only */
    if (a->same.data)
        ((uint8_t *)a->same.data)[i] = t.place == x.place;
    if (!a->dx.data)
        return;
    k.scale = (float)scale;
    if (a->divergence == PARE_DIVERGENCE_FORWARD) {
        k.shares.of_p = (float)(scale / t.s.exps);
        k.shares.of_q = (float)(scale / x.s.exps);
    }
    if (reverse) {
        k.shares.t_top = parts.b_there;
        k.shares.rest = 0;
    }
    write_gradient(a, i, &t, &x, &k);
}

static void kl_part(const void *user, int64_t first, int64_t last)
{
    const pare_kl_args *a = user;
    const int32_t *labels = a->labels.data;
    for (int64_t i = first; i < last; i++) {
        if (!labels || labels[i] != -1) {
            kl_row(a, i);
            continue;
        }
        ((float *)a->kl.data)[i] = 0;
        if (a->same.data)
            ((uint8_t *)a->same.data)[i] = 0;
        if (a->dx.data)
            loss_no_gradient(&a->dx, i);
    }
}

pare_status PARE_CPU(pare_cpu_kl)(pare_backend *be, const pare_kl_args *args)
{
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), kl_part, args);
    return PARE_OK;
}
