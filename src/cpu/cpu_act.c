/* cpu_act.c - activation functions, gated or not, and their gradients: one pass, sixteen elements
 * at a time, the function and the dtype constants of the loop. */
#include "cpu_nn.h"

#include "cpu_math.h"

#define GRAIN 16384

/* ---- the functions --------------------------------------------------------------------------- */

/* Twice the argument of tanh in the tanh form of GELU; with it 1 + tanh(u) = 2σ(2u). */
CPU_INLINE cpu_v gelu_tanh_inner(cpu_v x)
{
    return x * (x * x * 0.0713548162726f + 1.5957691216057308f);
}

CPU_INLINE cpu_v value(pare_fn fn, cpu_v x)
{
    cpu_v density;
    switch (fn) {
    case PARE_FN_RELU:
        return cpu_relu(x);
    case PARE_FN_GELU:
        return x * cpu_vnormal(x, &density);
    case PARE_FN_GELU_TANH:
        return x * cpu_vsigmoid(gelu_tanh_inner(x));
    case PARE_FN_GELU_QUICK:
        return x * cpu_vsigmoid(x * 1.702f);
    case PARE_FN_SILU:
        return x * cpu_vsigmoid(x);
    case PARE_FN_TANH:
        return cpu_vtanh(x);
    case PARE_FN_SIGMOID:
        return cpu_vsigmoid(x);
    default:
        return x;
    }
}

/* x·σ(k·x) has the slope σ + k·x·σ·(1 − σ): in this order 0, not NaN, where k·x is infinite. */
CPU_INLINE cpu_v gated_slope(cpu_v x, float k)
{
    cpu_v s = cpu_vsigmoid(x * k);
    return s * x * (1.0f - s) * k + s;
}

CPU_INLINE cpu_v gelu_tanh_slope(cpu_v x)
{
    /* flat outside, where the square would overflow; in this order NaN stays */
    x = cpu_vmin(cpu_splat(20.0f), cpu_vmax(cpu_splat(-20.0f), x));
    cpu_v s = cpu_vsigmoid(gelu_tanh_inner(x));
    cpu_v inner_slope = x * x * 0.2140644488178f + 1.5957691216057308f;
    return s * (x * (1.0f - s) * inner_slope + 1.0f);
}

CPU_INLINE cpu_v slope(pare_fn fn, cpu_v x)
{
    cpu_v density, below;
    switch (fn) {
    case PARE_FN_GELU:
        below = cpu_vnormal(x, &density);
        return x * density + below;
    case PARE_FN_GELU_TANH:
        return gelu_tanh_slope(x);
    case PARE_FN_GELU_QUICK:
        return gated_slope(x, 1.702f);
    case PARE_FN_SILU:
        return gated_slope(x, 1.0f);
    case PARE_FN_TANH:
        return cpu_vsigmoid_slope(x * 2.0f) * 4.0f;
    case PARE_FN_SIGMOID:
        return cpu_vsigmoid_slope(x);
    default:
        return cpu_splat(1.0f);
    }
}

/* dy·f'(x); nothing passes where a ReLU is flat, be it NaN or Inf. */
CPU_INLINE cpu_v through(pare_fn fn, cpu_v dy, cpu_v x)
{
    if (fn == PARE_FN_RELU)
        return cpu_pick(cpu_gt(x, cpu_splat(0.0f)), dy, cpu_splat(0.0f));
    return dy * slope(fn, x);
}

/* ---- the loops ------------------------------------------------------------------------------- */

/* BODY(a, fn, dtype, i, 16) for i from first in steps of 16 as far as they are whole. */
#define RUN(BODY, a, fn, dtype, first, last)                                                       \
    for (int64_t i = (first); i + CPU_V <= (last); i += CPU_V)                                     \
    BODY(a, fn, dtype, i, CPU_V)

#define FN_CASE(FN, BODY, a, dtype_, first, last)                                                  \
    case FN:                                                                                       \
        if ((dtype_) == PARE_F32)                                                                  \
            RUN(BODY, a, FN, PARE_F32, first, last);                                               \
        else                                                                                       \
            RUN(BODY, a, FN, PARE_BF16, first, last);                                              \
        break;

/* All of them: loops with constants, and once more in general for what is left. */
#define EACH_FN(BODY, a, dtype_, first, last)                                                      \
    switch ((a)->fn) {                                                                             \
        FN_CASE(PARE_FN_IDENTITY, BODY, a, dtype_, first, last)                                    \
        FN_CASE(PARE_FN_RELU, BODY, a, dtype_, first, last)                                        \
        FN_CASE(PARE_FN_GELU, BODY, a, dtype_, first, last)                                        \
        FN_CASE(PARE_FN_GELU_TANH, BODY, a, dtype_, first, last)                                   \
        FN_CASE(PARE_FN_GELU_QUICK, BODY, a, dtype_, first, last)                                  \
        FN_CASE(PARE_FN_SILU, BODY, a, dtype_, first, last)                                        \
        FN_CASE(PARE_FN_TANH, BODY, a, dtype_, first, last)                                        \
        FN_CASE(PARE_FN_SIGMOID, BODY, a, dtype_, first, last)                                     \
    default:                                                                                       \
        break;                                                                                     \
    }                                                                                              \
    int64_t left = ((last) - (first)) % CPU_V;                                                     \
    if (left > 0)                                                                                  \
        BODY(a, (a)->fn, dtype_, (last)-left, left);

CPU_INLINE void act_16(const pare_act_args *a, pare_fn fn, pare_dtype dtype, int64_t i, int64_t n)
{
    cpu_vstore_n(a->y.data, dtype, i, n, value(fn, cpu_vload_n(a->x.data, dtype, i, n, 0)));
}

static void act_part(const void *user, int64_t first, int64_t last)
{
    const pare_act_args *a = user;
    EACH_FN(act_16, a, a->x.dtype, first, last)
}

CPU_INLINE void act_grad_16(const pare_act_grad_args *a, pare_fn fn, pare_dtype dtype, int64_t i,
                            int64_t n)
{
    cpu_v dy = cpu_vload_n(a->dy.data, dtype, i, n, 0), x = cpu_vload_n(a->x.data, dtype, i, n, 0);
    cpu_vstore_n(a->dx.data, dtype, i, n, through(fn, dy, x));
}

static void act_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_act_grad_args *a = user;
    EACH_FN(act_grad_16, a, a->x.dtype, first, last)
}

CPU_INLINE void glu_16(const pare_glu_args *a, pare_fn fn, pare_dtype dtype, int64_t i, int64_t n)
{
    cpu_v gate = value(fn, cpu_vload_n(a->a.data, dtype, i, n, 0));
    cpu_vstore_n(a->y.data, dtype, i, n, gate * cpu_vload_n(a->b.data, dtype, i, n, 0));
}

static void glu_part(const void *user, int64_t first, int64_t last)
{
    const pare_glu_args *a = user;
    EACH_FN(glu_16, a, a->a.dtype, first, last)
}

CPU_INLINE void glu_grad_16(const pare_glu_grad_args *a, pare_fn fn, pare_dtype dtype, int64_t i,
                            int64_t n)
{
    cpu_v dy = cpu_vload_n(a->dy.data, dtype, i, n, 0);
    cpu_v x = cpu_vload_n(a->a.data, dtype, i, n, 0), b = cpu_vload_n(a->b.data, dtype, i, n, 0);
    cpu_vstore_n(a->da.data, dtype, i, n, through(fn, dy * b, x));
    cpu_vstore_n(a->db.data, dtype, i, n, dy * value(fn, x));
}

static void glu_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_glu_grad_args *a = user;
    EACH_FN(glu_grad_16, a, a->a.dtype, first, last)
}

/* ---- the ops --------------------------------------------------------------------------------- */

pare_status PARE_CPU(pare_cpu_act)(pare_backend *be, const pare_act_args *args)
{
    cpu_split(be, pare_tensor_count(&args->x), GRAIN, act_part, args);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_act_grad)(pare_backend *be, const pare_act_grad_args *args)
{
    cpu_split(be, pare_tensor_count(&args->x), GRAIN, act_grad_part, args);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_glu)(pare_backend *be, const pare_glu_args *args)
{
    cpu_split(be, pare_tensor_count(&args->a), GRAIN, glu_part, args);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_glu_grad)(pare_backend *be, const pare_glu_grad_args *args)
{
    cpu_split(be, pare_tensor_count(&args->a), GRAIN, glu_grad_part, args);
    return PARE_OK;
}
