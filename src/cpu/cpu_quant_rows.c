/* cpu_quant_rows.c - activations rounded to int8 and back, with a scale for every row or one given
 * scale. A row is read twice, the second time from a cache; the quotient is a true one, so codes
 * are those of the formula. Bound by memory. */
#include "cpu_nn.h"
#include "cpu_row.h"

CPU_INLINE float row_absmax(const void *x, pare_dtype dtype, int64_t n)
{
    cpu_acc top[4];
    for (int k = 0; k < 4; k++)
        top[k] = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + 4 * CPU_V <= n; i += 4 * CPU_V)
        for (int k = 0; k < 4; k++)
            cpu_acc_max(&top[k], cpu_vabs(cpu_vload(x, dtype, i + k * CPU_V)));
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_acc_max(&top[0], cpu_vabs(cpu_vload(x, dtype, i)));
    if (i < n)
        cpu_acc_max(&top[1], cpu_vabs(cpu_vload_n(x, dtype, i, n - i, 0)));
    for (int k = 1; k < 4; k++)
        cpu_acc_max(&top[0], cpu_acc_get(&top[k]));
    return cpu_vtop(cpu_acc_get(&top[0]));
}

CPU_INLINE void quant_step(const void *x, void *y, pare_dtype dtype, float s, int64_t i, int64_t n)
{
    cpu_v q = cpu_vload_n(x, dtype, i, n, 0) / s;
    q = (q + CPU_RINT) - CPU_RINT;
    q = cpu_vmin(cpu_splat(127), cpu_vmax(cpu_splat(-128), q)); /* NaN stays NaN */
    cpu_vstore_n(y, dtype, i, n, q * s);
}

CPU_INLINE void quant_steps(const void *x, void *y, pare_dtype dtype, float s, int64_t n)
{
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        quant_step(x, y, dtype, s, i, CPU_V);
    if (i < n)
        quant_step(x, y, dtype, s, i, n - i);
}

CPU_INLINE void quant_row_of(const void *x, void *y, pare_dtype dtype, int64_t n)
{
    float s = row_absmax(x, dtype, n) / 127.5f;
    if (s != 0)
        quant_steps(x, y, dtype, s, n);
    else if (y != x)
        memcpy(y, x, (size_t)n * (dtype == PARE_F32 ? 4 : 2));
}

CPU_LOOP void quant_row(const void *x, void *y, pare_dtype dtype, int64_t n)
{
    if (dtype == PARE_F32)
        quant_row_of(x, y, PARE_F32, n);
    else
        quant_row_of(x, y, PARE_BF16, n);
}

static void quant_part(const void *user, int64_t first, int64_t last)
{
    const pare_quant_rows_args *a = user;
    int64_t N = a->x.shape[1];
    pare_dtype dtype = a->x.dtype;
    for (int64_t i = first; i < last; i++)
        quant_row(cpu_row_at(a->x.data, dtype, i * N), cpu_row_at(a->y.data, dtype, i * N), dtype,
                  N);
}

pare_status PARE_CPU(pare_cpu_quant_rows)(pare_backend *be, const pare_quant_rows_args *args)
{
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), quant_part, args);
    return PARE_OK;
}

/* ---- quant_fixed ----------------------------------------------------------------------------- */

CPU_LOOP void quant_fixed(const void *x, void *y, pare_dtype dtype, float s, int64_t n)
{
    if (dtype == PARE_F32)
        quant_steps(x, y, PARE_F32, s, n);
    else
        quant_steps(x, y, PARE_BF16, s, n);
}

static void fixed_part(const void *user, int64_t first, int64_t last)
{
    const pare_quant_fixed_args *a = user;
    pare_dtype dtype = a->x.dtype;
    quant_fixed(cpu_row_at(a->x.data, dtype, first), cpu_row_at(a->y.data, dtype, first), dtype,
                a->scale, last - first);
}

pare_status PARE_CPU(pare_cpu_quant_fixed)(pare_backend *be, const pare_quant_fixed_args *args)
{
    cpu_split(be, pare_tensor_count(&args->x), 16384, fixed_part, args);
    return PARE_OK;
}
