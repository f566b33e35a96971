/* cpu_softmax.c - softmax by row and its gradient. Bound by memory, and by e^x where a row stays in
 * the cache. */
#include "cpu_nn.h"
#include "cpu_row.h"

/* e^x for x ≤ 0: there is no upper end to look out for. */
CPU_INLINE cpu_v exp_below(cpu_v x)
{
    cpu_v less, two_n = cpu_vexp_parts(cpu_vmax(cpu_splat(-88.05f), x), &less);
    return (less + 1.0f) * two_n;
}

/* In F32 the powers wait in y for their sum; in BF16, where that would round twice, they are
 * computed again. */
CPU_INLINE void softmax_row(const void *x, void *y, pare_dtype dtype, int64_t N)
{
    cpu_v top = cpu_splat(cpu_row_top(x, dtype, N)), sum = cpu_splat(0.0f);
    for (int64_t i = 0; i < N; i += CPU_V) {
        cpu_v e = exp_below(cpu_row_load(x, dtype, i, N, -INFINITY) - top);
        if (N - i < CPU_V) /* behind the end: e^(−Inf − top), NaN where top is −Inf or NaN */
            e = cpu_vload_n(&e, PARE_F32, 0, N - i, 0.0f);
        sum += e;
        if (dtype == PARE_F32)
            cpu_row_store(y, dtype, i, N, e);
    }
    float factor = 1.0f / cpu_vsum(sum);
    for (int64_t i = 0; i < N; i += CPU_V) {
        cpu_v e = dtype == PARE_F32 ? cpu_row_load(y, dtype, i, N, 0.0f)
                                    : exp_below(cpu_row_load(x, dtype, i, N, 0.0f) - top);
        cpu_row_store(y, dtype, i, N, e * factor);
    }
}

CPU_INLINE void softmax_rows(const pare_softmax_args *a, pare_dtype dtype, int64_t first,
                             int64_t last)
{
    int64_t N = a->x.shape[1];
    for (int64_t r = first; r < last; r++)
        softmax_row(cpu_row_at(a->x.data, dtype, r * N), cpu_row_at(a->y.data, dtype, r * N), dtype,
                    N);
}

static void softmax_part(const void *user, int64_t first, int64_t last)
{
    const pare_softmax_args *a = user;
    if (a->x.dtype == PARE_F32)
        softmax_rows(a, PARE_F32, first, last);
    else
        softmax_rows(a, PARE_BF16, first, last);
}

pare_status PARE_CPU(pare_cpu_softmax)(pare_backend *be, const pare_softmax_args *args)
{
    if (pare_tensor_count(&args->x) > 0)
        cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), softmax_part, args);
    return PARE_OK;
}

CPU_INLINE void grad_row(const void *dy, const void *y, void *dx, pare_dtype dtype, int64_t N)
{
    cpu_v dots = cpu_splat(0.0f);
    for (int64_t i = 0; i < N; i += CPU_V)
        dots += cpu_row_load(dy, dtype, i, N, 0.0f) * cpu_row_load(y, dtype, i, N, 0.0f);
    float dot = cpu_vsum(dots);
    for (int64_t i = 0; i < N; i += CPU_V)
        cpu_row_store(dx, dtype, i, N,
                      cpu_row_load(y, dtype, i, N, 0.0f) *
                          (cpu_row_load(dy, dtype, i, N, 0.0f) - dot));
}

CPU_INLINE void grad_rows(const pare_softmax_grad_args *a, pare_dtype dtype, int64_t first,
                          int64_t last)
{
    int64_t N = a->y.shape[1];
    for (int64_t r = first; r < last; r++)
        grad_row(cpu_row_at(a->dy.data, dtype, r * N), cpu_row_at(a->y.data, dtype, r * N),
                 cpu_row_at(a->dx.data, dtype, r * N), dtype, N);
}

static void grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_softmax_grad_args *a = user;
    if (a->y.dtype == PARE_F32)
        grad_rows(a, PARE_F32, first, last);
    else
        grad_rows(a, PARE_BF16, first, last);
}

pare_status PARE_CPU(pare_cpu_softmax_grad)(pare_backend *be, const pare_softmax_grad_args *args)
{
    if (pare_tensor_count(&args->y) > 0)
        cpu_split(be, args->y.shape[0], cpu_row_grain(args->y.shape[1]), grad_part, args);
    return PARE_OK;
}
