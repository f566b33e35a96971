/* cpu_elementwise.c - conversion between F32, F16 and BF16. Bound by memory. */
#include "cpu_impl.h"

#define GRAIN 16384

/* A signalling NaN made quiet. */
CPU_INLINE float quiet(float x)
{
    uint32_t u = pare__f32_bits(x);
    return pare__bits_f32(u | ((u & 0x7fffffffu) > 0x7f800000u ? 0x400000u : 0u));
}

const float *PARE_CPU(pare__cpu_widen)(const pare_tensor *x, int64_t first, int64_t n,
                                       float *restrict buffer)
{
    if (x->dtype == PARE_F32)
        return (const float *)x->data + first;
    const uint16_t *restrict h = (const uint16_t *)x->data + first;
    if (x->dtype == PARE_BF16)
        for (int64_t i = 0; i < n; i++)
            buffer[i] = quiet(pare__bf16_to_f32(h[i]));
    else
        for (int64_t i = 0; i < n; i++)
            buffer[i] = pare__f16_to_f32(h[i]);
    return buffer;
}

void PARE_CPU(pare__cpu_narrow)(const float *restrict x, pare_dtype dtype, void *y, int64_t n)
{
    uint16_t *restrict h = y;
    if (dtype == PARE_F32)
        memcpy(y, x, (size_t)n * sizeof *x);
    else if (dtype == PARE_BF16)
        for (int64_t i = 0; i < n; i++)
            h[i] = pare__f32_to_bf16(x[i]);
    else
        for (int64_t i = 0; i < n; i++)
            h[i] = pare__f32_to_f16(x[i]);
}

void PARE_CPU(pare__cpu_round)(float *x, pare_dtype dtype, int64_t n)
{
    if (dtype == PARE_BF16)
        for (int64_t i = 0; i < n; i++)
            x[i] = pare__bf16_to_f32(pare__f32_to_bf16(x[i]));
    else if (dtype == PARE_F16)
        for (int64_t i = 0; i < n; i++)
            x[i] = pare__f16_to_f32(pare__f32_to_f16(x[i]));
}

static void cast_part(const void *user, int64_t first, int64_t last)
{
    enum { TILE = 1024 };
    const pare_cast_args *a = user;
    float buffer[TILE];
    int64_t size = pare_dtype_bits(a->y.dtype) / 8;
    for (int64_t i = first; i < last; i += TILE) {
        int64_t n = cpu_min(TILE, last - i);
        if (a->y.dtype == PARE_F32) { /* straight to its place */
            PARE_CPU(pare__cpu_widen)(&a->x, i, n, (float *)a->y.data + i);
            continue;
        }
        const float *x = PARE_CPU(pare__cpu_widen)(&a->x, i, n, buffer);
        PARE_CPU(pare__cpu_narrow)(x, a->y.dtype, (uint8_t *)a->y.data + i * size, n);
    }
}

pare_status PARE_CPU(pare_cpu_cast)(pare_backend *be, const pare_cast_args *args)
{
    int64_t n = pare_tensor_count(&args->x);
    if (args->x.dtype != args->y.dtype)
        cpu_split(be, n, GRAIN, cast_part, args);
    else if (args->y.data != args->x.data && n > 0)
        memcpy(args->y.data, args->x.data, (size_t)n * (size_t)pare_dtype_bits(args->x.dtype) / 8);
    return PARE_OK;
}
