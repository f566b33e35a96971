/* cpu_pool_seq.c - the mean over a sequence, padding left out, and its gradient. Bound by memory.
 */
#include "cpu_nn.h"
#include "cpu_row.h"

#define WIDE 1024 /* features summed at a time: 4 KiB of sums beside the row that is added */

/* How many steps of a sequence count. keys may be NULL: all. */
static int64_t count_keys(const uint8_t *keys, int64_t T)
{
    int64_t count = keys ? 0 : T;
    for (int64_t t = 0; keys && t < T; t++)
        count += keys[t] != 0;
    return count;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Features [first, first + n) of one sequence; n ≤ WIDE. */
CPU_INLINE void seq_mean(const pare_pool_seq_args *a, int64_t b, int64_t first, int64_t n,
                         pare_dtype dtype)
{
    int64_t T = a->x.shape[1], N = a->x.shape[2];
    const uint8_t *keys = a->keys.data ? (const uint8_t *)a->keys.data + b * T : NULL;
    cpu_acc sum[WIDE / CPU_V];
    memset(sum, 0, (size_t)cpu_ceil_div(n, CPU_V) * sizeof sum[0]);
    for (int64_t t = 0; t < T; t++) {
        if (keys && !keys[t])
            continue;
        const void *x = cpu_row_at(a->x.data, dtype, (b * T + t) * N + first);
        int64_t i = 0;
        for (; i + CPU_V <= n; i += CPU_V)
            cpu_acc_add(&sum[i / CPU_V], cpu_vload(x, dtype, i));
        if (i < n)
            cpu_acc_add(&sum[i / CPU_V], cpu_vload_n(x, dtype, i, n - i, 0));
    }
    int64_t count = count_keys(keys, T);
    float share = count > 0 ? 1.0f / (float)count : 0;
    void *y = cpu_row_at(a->y.data, dtype, b * N + first);
    for (int64_t i = 0; i < n; i += CPU_V)
        cpu_row_store(y, dtype, i, n, cpu_acc_get(&sum[i / CPU_V]) * share);
}

static void seq_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_seq_args *a = user;
    int64_t N = a->x.shape[2], across = cpu_ceil_div(N, WIDE);
    for (int64_t unit = first; unit < last; unit++) {
        int64_t b = unit / across, at = unit % across * WIDE, n = cpu_min(WIDE, N - at);
        if (a->x.dtype == PARE_F32)
            seq_mean(a, b, at, n, PARE_F32);
        else
            seq_mean(a, b, at, n, PARE_BF16);
    }
}

pare_status PARE_CPU(pare_cpu_pool_seq)(pare_backend *be, const pare_pool_seq_args *args)
{
    int64_t T = args->x.shape[1], N = args->x.shape[2];
    cpu_split(be, args->x.shape[0] * cpu_ceil_div(N, WIDE),
              cpu_row_grain(cpu_min(T, 16384) * cpu_min(N, WIDE)), seq_part, args);
    return PARE_OK;
}

/* ---- gradient -------------------------------------------------------------------------------- */

CPU_INLINE void scale_row(const void *dy, void *dx, pare_dtype dtype, int64_t N, float share)
{
    for (int64_t i = 0; i < N; i += CPU_V)
        cpu_row_store(dx, dtype, i, N, cpu_row_load(dy, dtype, i, N, 0) * share);
}

/* The row of each step that counts is the same: it is made once, then copied. */
static void seq_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_seq_grad_args *a = user;
    int64_t T = a->dx.shape[1], N = a->dx.shape[2];
    pare_dtype dtype = a->dx.dtype;
    const uint8_t *keys = a->keys.data;
    size_t bytes = (size_t)N * (dtype == PARE_F32 ? 4 : 2);
    const void *made = NULL;
    for (int64_t r = first; r < last; r++) {
        int64_t b = r / T;
        void *dx = cpu_row_at(a->dx.data, dtype, r * N);
        if (r % T == 0)
            made = NULL;
        if (keys && !keys[r]) {
            memset(dx, 0, bytes);
        } else if (made) {
            memcpy(dx, made, bytes);
        } else {
            float share = 1.0f / (float)count_keys(keys ? keys + b * T : NULL, T);
            const void *dy = cpu_row_at(a->dy.data, dtype, b * N);
            if (dtype == PARE_F32)
                scale_row(dy, dx, PARE_F32, N, share);
            else
                scale_row(dy, dx, PARE_BF16, N, share);
            made = dx;
        }
    }
}

pare_status PARE_CPU(pare_cpu_pool_seq_grad)(pare_backend *be, const pare_pool_seq_grad_args *args)
{
    if (pare_tensor_count(&args->dx) > 0)
        cpu_split(be, args->dx.shape[0] * args->dx.shape[1], cpu_row_grain(args->dx.shape[2]),
                  seq_grad_part, args);
    return PARE_OK;
}
