/* cpu_softmax.c - softmax by row and its gradient. Bound by memory, and by e^x where a row stays in
 * the cache. */
#include "cpu_nn.h"
#include "cpu_row.h"

#define ROOM 4096 /* floats */

/* Elements [i, i + n): e^(x − top) is added to the sum, and waits for it if there is room. */
CPU_INLINE void exp_step(cpu_acc *sum, const void *x, pare_dtype dtype, float *waiting, float top,
                         int64_t i, int64_t n)
{
    cpu_v e = cpu_vexp_below(cpu_vload_n(x, dtype, i, n, -INFINITY) - top);
    if (n < CPU_V) /* behind the end: e^(−Inf − top), NaN where top is −Inf or NaN */
        e = cpu_vload_n(&e, PARE_F32, 0, n, 0.0f);
    cpu_acc_add(sum, e);
    if (waiting)
        cpu_vstore_n(waiting, PARE_F32, i, n, e);
}

CPU_INLINE void scale_step(const void *x, void *y, pare_dtype dtype, const float *waiting,
                           float top, float factor, int64_t i, int64_t n)
{
    cpu_v e = waiting ? cpu_vload_n(waiting, PARE_F32, i, n, 0.0f)
                      : cpu_vexp_below(cpu_vload_n(x, dtype, i, n, 0.0f) - top);
    cpu_vstore_n(y, dtype, i, n, e * factor);
}

/* waiting: N floats (y itself, if that is F32), or NULL: then the powers are computed twice. */
CPU_INLINE void softmax_row(const void *x, void *y, pare_dtype dtype, float *waiting, int64_t N)
{
    float top = cpu_row_top(x, dtype, N);
    cpu_acc sums = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= N; i += CPU_V)
        exp_step(&sums, x, dtype, waiting, top, i, CPU_V);
    if (i < N)
        exp_step(&sums, x, dtype, waiting, top, i, N - i);
    float factor = 1.0f / cpu_vsum(cpu_acc_get(&sums));
    for (i = 0; i + CPU_V <= N; i += CPU_V)
        scale_step(x, y, dtype, waiting, top, factor, i, CPU_V);
    if (i < N)
        scale_step(x, y, dtype, waiting, top, factor, i, N - i);
}

CPU_INLINE void softmax_rows(const pare_softmax_args *a, pare_dtype dtype, int64_t first,
                             int64_t last)
{
    int64_t N = a->x.shape[1];
    float room[ROOM];
    for (int64_t r = first; r < last; r++) {
        const void *x = cpu_row_at(a->x.data, dtype, r * N);
        void *y = cpu_row_at(a->y.data, dtype, r * N);
        if (dtype == PARE_F32)
            softmax_row(x, y, dtype, y, N);
        else
            softmax_row(x, y, dtype, N <= ROOM ? room : NULL, N);
    }
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

CPU_INLINE void dot_step(cpu_acc *dot, const void *dy, const void *y, pare_dtype dtype, int64_t i,
                         int64_t n)
{
    cpu_acc_add(dot, cpu_vload_n(dy, dtype, i, n, 0.0f) * cpu_vload_n(y, dtype, i, n, 0.0f));
}

CPU_INLINE void grad_step(const void *dy, const void *y, void *dx, pare_dtype dtype, float dot,
                          int64_t i, int64_t n)
{
    cpu_v d = cpu_vload_n(dy, dtype, i, n, 0.0f) - dot;
    cpu_vstore_n(dx, dtype, i, n, cpu_vload_n(y, dtype, i, n, 0.0f) * d);
}

CPU_INLINE void grad_row(const void *dy, const void *y, void *dx, pare_dtype dtype, int64_t N)
{
    cpu_acc dots = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= N; i += CPU_V)
        dot_step(&dots, dy, y, dtype, i, CPU_V);
    if (i < N)
        dot_step(&dots, dy, y, dtype, i, N - i);
    float dot = cpu_vsum(cpu_acc_get(&dots));
    for (i = 0; i + CPU_V <= N; i += CPU_V)
        grad_step(dy, y, dx, dtype, dot, i, CPU_V);
    if (i < N)
        grad_step(dy, y, dx, dtype, dot, i, N - i);
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
