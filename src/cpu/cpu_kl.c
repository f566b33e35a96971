/* cpu_kl.c - Kullback-Leibler divergence of a student from its teacher by row, and its gradient
 * (Hinton 2015).
 *
 * Both rows are read block by block, each block some times from the first cache: their largest,
 * then Σ e^t, Σ e^x and Σ e^t·(t − x) against the largest so far, the sums scaled down whenever one
 * grows. A second reading writes the gradient. Sums of a block are sixteen f32 lanes, those of a
 * row and its logarithms are f64. Bound by memory.
 */
#include "cpu_loss.h"
#include "cpu_nn.h"

/* A row of teacher or student as far as it was read. */
typedef struct side {
    loss_softmax s;
    float best;    /* the largest logit itself */
    int64_t place; /* its first */
} side;

static const side side_start = {{-FLT_MAX, 0}, -INFINITY, 0};

/* Takes a block's largest logit and its place; as loss_raise_top. */
static double raise_side(side *r, const void *row, pare_dtype dtype, int64_t at, int64_t n,
                         double inverse)
{
    float top = cpu_row_top(cpu_row_at(row, dtype, at), dtype, n);
    if (top > r->best) {
        r->best = top;
        r->place = at;
        while (cpu_get(row, dtype, r->place) != top)
            r->place++;
    }
    return loss_raise_top(&r->s, top, inverse);
}

/* Sums over a block, t and x below their largest and divided by the temperature. */
typedef struct kl_sums {
    float p, q;  /* Σ e^t, Σ e^x */
    float cross; /* Σ e^t·(t − x) */
} kl_sums;

typedef struct kl_lanes {
    cpu_acc p, q, cross;
} kl_lanes;

CPU_INLINE void add_kl(kl_lanes *sum, cpu_v t, cpu_v x)
{
    cpu_v e = cpu_vexp_below(t);
    cpu_vi none = cpu_eq(e, cpu_splat(0)); /* there p·log p is 0 */
    cpu_acc_add(&sum->p, e);
    cpu_acc_add(&sum->q, cpu_vexp_below(x));
    cpu_acc_add(&sum->cross, cpu_pick(none, e, e * (t - x)));
}

CPU_INLINE kl_sums sum_kl_of(const void *t, pare_dtype t_dtype, float t_top, const void *x,
                             pare_dtype x_dtype, float x_top, float inverse, int64_t n)
{
    kl_lanes sum = {cpu_acc_of(0), cpu_acc_of(0), cpu_acc_of(0)};
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        add_kl(&sum, (cpu_vload(t, t_dtype, i) - t_top) * inverse,
               (cpu_vload(x, x_dtype, i) - x_top) * inverse);
    if (i < n)
        add_kl(&sum, (cpu_vload_n(t, t_dtype, i, n - i, -INFINITY) - t_top) * inverse,
               (cpu_vload_n(x, x_dtype, i, n - i, -INFINITY) - x_top) * inverse);
    return (kl_sums){cpu_vsum(cpu_acc_get(&sum.p)), cpu_vsum(cpu_acc_get(&sum.q)),
                     cpu_vsum(cpu_acc_get(&sum.cross))};
}

CPU_LOOP kl_sums sum_kl(const void *t, pare_dtype t_dtype, float t_top, const void *x,
                        pare_dtype x_dtype, float x_top, float inverse, int64_t n)
{
    if (t_dtype == PARE_F32)
        return x_dtype == PARE_F32 ? sum_kl_of(t, PARE_F32, t_top, x, PARE_F32, x_top, inverse, n)
                                   : sum_kl_of(t, PARE_F32, t_top, x, PARE_BF16, x_top, inverse, n);
    return x_dtype == PARE_F32 ? sum_kl_of(t, PARE_BF16, t_top, x, PARE_F32, x_top, inverse, n)
                               : sum_kl_of(t, PARE_BF16, t_top, x, PARE_BF16, x_top, inverse, n);
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* What a block of the gradient is made of: dx = of_q·e^((x − x_top)·inverse) − of_p·e^((t −
 * t_top)·inverse). */
typedef struct kl_slope {
    float x_top, t_top, of_q, of_p, inverse;
} kl_slope;

CPU_INLINE void slope_step(const kl_slope *k, const void *t, pare_dtype t_dtype, const void *x,
                           pare_dtype x_dtype, void *dx, int64_t i, int64_t n)
{
    cpu_v q = cpu_vexp_below((cpu_vload_n(x, x_dtype, i, n, 0) - k->x_top) * k->inverse);
    cpu_v p = cpu_vexp_below((cpu_vload_n(t, t_dtype, i, n, 0) - k->t_top) * k->inverse);
    cpu_vstore_n(dx, x_dtype, i, n, q * k->of_q - p * k->of_p);
}

CPU_INLINE void slopes_of(const kl_slope *k, const void *t, pare_dtype t_dtype, const void *x,
                          pare_dtype x_dtype, void *dx, int64_t n)
{
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        slope_step(k, t, t_dtype, x, x_dtype, dx, i, CPU_V);
    if (i < n)
        slope_step(k, t, t_dtype, x, x_dtype, dx, i, n - i);
}

CPU_LOOP void slopes(const kl_slope *k, const void *t, pare_dtype t_dtype, const void *x,
                     pare_dtype x_dtype, void *dx, int64_t n)
{
    if (t_dtype == PARE_F32 && x_dtype == PARE_F32)
        slopes_of(k, t, PARE_F32, x, PARE_F32, dx, n);
    else if (t_dtype == PARE_F32)
        slopes_of(k, t, PARE_F32, x, PARE_BF16, dx, n);
    else if (x_dtype == PARE_F32)
        slopes_of(k, t, PARE_BF16, x, PARE_F32, dx, n);
    else
        slopes_of(k, t, PARE_BF16, x, PARE_BF16, dx, n);
}

static void gradient_row(const pare_kl_args *a, int64_t i, const loss_softmax *p,
                         const loss_softmax *q, double inverse)
{
    int64_t V = a->x.shape[1];
    pare_dtype t_dtype = a->teacher.dtype, x_dtype = a->x.dtype;
    double scale = (double)a->grad_scale * inverse;
    const kl_slope k = {(float)q->top, (float)p->top, (float)(scale / q->exps),
                        (float)(scale / p->exps), (float)inverse};
    slopes(&k, cpu_row_at(a->teacher.data, t_dtype, i * V), t_dtype,
           cpu_row_at(a->x.data, x_dtype, i * V), x_dtype, cpu_row_at(a->dx.data, x_dtype, i * V),
           V);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static double inverse_of(const pare_kl_args *a)
{
    return a->temperature != 0 ? (double)(1.0f / a->temperature) : 1;
}

/* cross is Σ e^(t − top_t)·(t − x) of what was read. Within a block t − x is taken below the tops:
 * what both rows have in common is not in it. */
static void kl_row(const pare_kl_args *a, int64_t i)
{
    const double inverse = inverse_of(a);
    int64_t V = a->x.shape[1];
    pare_dtype t_dtype = a->teacher.dtype, x_dtype = a->x.dtype;
    const void *t = cpu_row_at(a->teacher.data, t_dtype, i * V);
    const void *x = cpu_row_at(a->x.data, x_dtype, i * V);
    side p = side_start, q = side_start;
    double cross = 0;
    for (int64_t at = 0; at < V; at += LOSS_BLOCK) {
        int64_t n = cpu_min(LOSS_BLOCK, V - at);
        double shrink = raise_side(&p, t, t_dtype, at, n, inverse);
        raise_side(&q, x, x_dtype, at, n, inverse);
        kl_sums s = sum_kl(cpu_row_at(t, t_dtype, at), t_dtype, (float)p.s.top,
                           cpu_row_at(x, x_dtype, at), x_dtype, (float)q.s.top, (float)inverse, n);
        p.s.exps += (double)s.p;
        q.s.exps += (double)s.q;
        cross = shrink > 0 ? cross * shrink : 0; /* 0·Inf would be NaN */
        double gap = (p.s.top - q.s.top) * inverse;
        cross += (double)s.cross + (double)s.p * gap;
    }
    double gap = (p.s.top - q.s.top) * inverse;
    double kl = cross / p.s.exps - gap - (log(p.s.exps) - log(q.s.exps));
    ((float *)a->kl.data)[i] = V == 0 || kl < 0 ? 0 : (float)kl; /* below 0 by rounding only */
    if (a->same.data)
        ((uint8_t *)a->same.data)[i] = p.place == q.place;
    if (a->dx.data)
        gradient_row(a, i, &p.s, &q.s, inverse);
}

static void kl_part(const void *user, int64_t first, int64_t last)
{
    for (int64_t i = first; i < last; i++)
        kl_row(user, i);
}

pare_status PARE_CPU(pare_cpu_kl)(pare_backend *be, const pare_kl_args *args)
{
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), kl_part, args);
    return PARE_OK;
}
