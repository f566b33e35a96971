/* cpu_cosine.c - how far the direction of each row is from that of another, and the gradient.
 *
 * ⟨x, t⟩, ‖x‖² and ‖t‖² are sums of sixteen f64 lanes: where both rows are nearly the same, what is
 * left of 1 − cos keeps its digits, and no square overflows. A second reading, from the cache,
 * writes dx = weight·grad_scale/‖x‖·(cos·x/‖x‖ − t/‖t‖). Bound by memory.
 */
#include "cpu_lanes.h"
#include "cpu_loss.h"
#include "cpu_nn.h"

typedef struct products {
    double xx, tt, xt;
} products;

typedef struct product_lanes {
    cpu_lanes xx, tt, xt;
} product_lanes;

/* Elements [i, i + n) of x as sixteen floats: in place if they can be. */
CPU_INLINE const float *sixteen(const void *x, pare_dtype dtype, int64_t i, int64_t n, float *room)
{
    if (dtype == PARE_F32 && n == CPU_V)
        return (const float *)x + i;
    cpu_vstore(room, PARE_F32, 0, cpu_vload_n(x, dtype, i, n, 0));
    return room;
}

CPU_INLINE void add_products(product_lanes *sum, const void *x, pare_dtype x_dtype, const void *t,
                             pare_dtype t_dtype, int64_t i, int64_t n)
{
    float rooms[2][CPU_V];
    const float *a = sixteen(x, x_dtype, i, n, rooms[0]), *b = sixteen(t, t_dtype, i, n, rooms[1]);
    for (int step = 0; step < CPU_STEPS; step++) {
        cpu_f64s u = cpu_load_f64s(a, step), v = cpu_load_f64s(b, step);
        sum->xx.part[step] += u * u;
        sum->tt.part[step] += v * v;
        sum->xt.part[step] += u * v;
    }
}

CPU_INLINE products products_of(const void *x, pare_dtype x_dtype, const void *t,
                                pare_dtype t_dtype, int64_t N)
{
    product_lanes sum = {0};
    int64_t i = 0;
    for (; i + CPU_V <= N; i += CPU_V)
        add_products(&sum, x, x_dtype, t, t_dtype, i, CPU_V);
    if (i < N)
        add_products(&sum, x, x_dtype, t, t_dtype, i, N - i);
    return (products){cpu_tree(&sum.xx), cpu_tree(&sum.tt), cpu_tree(&sum.xt)};
}

CPU_LOOP products row_products(const void *x, pare_dtype x_dtype, const void *t, pare_dtype t_dtype,
                               int64_t N)
{
    if (x_dtype == PARE_F32)
        return t_dtype == PARE_F32 ? products_of(x, PARE_F32, t, PARE_F32, N)
                                   : products_of(x, PARE_F32, t, PARE_BF16, N);
    return t_dtype == PARE_F32 ? products_of(x, PARE_BF16, t, PARE_F32, N)
                               : products_of(x, PARE_BF16, t, PARE_BF16, N);
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* dx = scale·(x·of_x − t·of_t) */
typedef struct slope {
    float of_x, of_t, scale;
} slope;

CPU_INLINE void slope_step(const slope *k, const void *x, pare_dtype x_dtype, const void *t,
                           pare_dtype t_dtype, void *dx, int64_t i, int64_t n)
{
    cpu_v u = cpu_vload_n(x, x_dtype, i, n, 0), v = cpu_vload_n(t, t_dtype, i, n, 0);
    cpu_vstore_n(dx, x_dtype, i, n, (u * k->of_x - v * k->of_t) * k->scale);
}

CPU_INLINE void slopes_of(const slope *k, const void *x, pare_dtype x_dtype, const void *t,
                          pare_dtype t_dtype, void *dx, int64_t N)
{
    int64_t i = 0;
    for (; i + CPU_V <= N; i += CPU_V)
        slope_step(k, x, x_dtype, t, t_dtype, dx, i, CPU_V);
    if (i < N)
        slope_step(k, x, x_dtype, t, t_dtype, dx, i, N - i);
}

CPU_LOOP void slopes(const slope *k, const void *x, pare_dtype x_dtype, const void *t,
                     pare_dtype t_dtype, void *dx, int64_t N)
{
    if (x_dtype == PARE_F32 && t_dtype == PARE_F32)
        slopes_of(k, x, PARE_F32, t, PARE_F32, dx, N);
    else if (x_dtype == PARE_F32)
        slopes_of(k, x, PARE_F32, t, PARE_BF16, dx, N);
    else if (t_dtype == PARE_F32)
        slopes_of(k, x, PARE_BF16, t, PARE_F32, dx, N);
    else
        slopes_of(k, x, PARE_BF16, t, PARE_BF16, dx, N);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void no_loss(const pare_cosine_args *a, int64_t i)
{
    ((float *)a->loss.data)[i] = 0;
    if (a->dx.data)
        loss_no_gradient(&a->dx, i);
}

static void cosine_row(const pare_cosine_args *a, int64_t i, double weight)
{
    int64_t N = a->x.shape[1];
    pare_dtype x_dtype = a->x.dtype, t_dtype = a->t.dtype;
    const void *x = cpu_row_at(a->x.data, x_dtype, i * N);
    const void *t = cpu_row_at(a->t.data, t_dtype, i * N);
    products s = row_products(x, x_dtype, t, t_dtype, N);
    if (s.xx == 0 || s.tt == 0) {
        no_loss(a, i);
        return;
    }
    double x_norm = sqrt(s.xx), t_norm = sqrt(s.tt), cosine = s.xt / (x_norm * t_norm);
    double loss = 1 - cosine;
    ((float *)a->loss.data)[i] = (float)(weight * (loss < 0 ? 0 : loss)); /* by rounding only */
    if (!a->dx.data)
        return;
    const slope k = {(float)(cosine / x_norm), (float)(1 / t_norm),
                     (float)(weight * (double)a->grad_scale / x_norm)};
    slopes(&k, x, x_dtype, t, t_dtype, cpu_row_at(a->dx.data, x_dtype, i * N), N);
}

static void cosine_part(const void *user, int64_t first, int64_t last)
{
    const pare_cosine_args *a = user;
    const float *weight = a->weight.data;
    for (int64_t i = first; i < last; i++)
        if (weight && weight[i] == 0)
            no_loss(a, i);
        else
            cosine_row(a, i, weight ? (double)weight[i] : 1);
}

pare_status PARE_CPU(pare_cpu_cosine)(pare_backend *be, const pare_cosine_args *args)
{
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), cosine_part, args);
    return PARE_OK;
}
