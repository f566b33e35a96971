/* cpu_rotary.c - rotary position embedding: pairs half a head apart turn by their position's angle.
 * Bound by memory. */
#include "cpu_nn.h"
#include "cpu_row.h"

/* One head of one row. The two halves turn together: x may be y. */
CPU_INLINE void turn_head(const void *x, void *y, pare_dtype dtype, const float *cosine,
                          const float *sine, float sign, int64_t half)
{
    const void *x2 = cpu_row_at(x, dtype, half);
    void *y2 = cpu_row_at(y, dtype, half);
    for (int64_t i = 0; i < half; i += CPU_V) {
        cpu_v a = cpu_row_load(x, dtype, i, half, 0.0f), b = cpu_row_load(x2, dtype, i, half, 0.0f);
        cpu_v c = cpu_row_load(cosine, PARE_F32, i, half, 0.0f);
        cpu_v s = cpu_row_load(sine, PARE_F32, i, half, 0.0f) * sign;
        cpu_row_store(y, dtype, i, half, a * c - b * s);
        cpu_row_store(y2, dtype, i, half, a * s + b * c);
    }
}

CPU_INLINE void turn_rows(const pare_rotary_args *a, pare_dtype dtype, int64_t first, int64_t last)
{
    int64_t half = a->cos.shape[1], D = a->x.shape[1] / a->heads;
    size_t rest = (size_t)(D - 2 * half) * (dtype == PARE_F32 ? 4 : 2);
    for (int64_t r = first; r < last; r++)
        for (int64_t h = 0; h < a->heads; h++) {
            int64_t at = (r * a->heads + h) * D, angle = r % a->T * half;
            const void *x = cpu_row_at(a->x.data, dtype, at);
            void *y = cpu_row_at(a->y.data, dtype, at);
            turn_head(x, y, dtype, (const float *)a->cos.data + angle,
                      (const float *)a->sin.data + angle, a->inverse ? -1.0f : 1.0f, half);
            if (x != y && rest > 0)
                memcpy(cpu_row_at(y, dtype, 2 * half), cpu_row_at(x, dtype, 2 * half), rest);
        }
}

static void rotary_part(const void *user, int64_t first, int64_t last)
{
    const pare_rotary_args *a = user;
    if (a->x.dtype == PARE_F32)
        turn_rows(a, PARE_F32, first, last);
    else
        turn_rows(a, PARE_BF16, first, last);
}

pare_status PARE_CPU(pare_cpu_rotary)(pare_backend *be, const pare_rotary_args *args)
{
    if (pare_tensor_count(&args->x) > 0)
        cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), rotary_part, args);
    return PARE_OK;
}
