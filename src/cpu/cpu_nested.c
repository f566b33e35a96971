/* cpu_nested.c - scales quantised in their turn (NF4's double quantisation).
 *
 * There is one scale for 64 weights, so counting all midpoints below each costs four comparisons a
 * weight and vectorises. Bound by those.
 */
#include "cpu_impl.h"

#include <math.h>

enum { LEVELS = PARE_NESTED_LEVELS, BLOCK = PARE_NESTED_BLOCK, ZERO = 127 };

/* Ascending: the decades' magnitudes rise from the level of 0 to both sides, 1 is the last. */
static void make_levels(float level[LEVELS])
{
    static const double power[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    level[ZERO] = 0.0f;
    level[LEVELS - 1] = 1.0f;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 1 << i; k++) {
            float x = (float)((0.1 + 0.9 * (2 * k + 1) / (2 << i)) * power[i]);
            level[ZERO + (1 << i) + k] = x;
            level[ZERO - (1 << i) - k] = -x;
        }
}

static void decode(const float level[LEVELS], const uint8_t *restrict codes, float nested,
                   float offset, float *restrict scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        scale[i] = level[codes[i]] * nested + offset;
}

/* ---- quant_nested ---------------------------------------------------------------------------- */

static float largest_from(float offset, const float *scale, int64_t n)
{
    float top = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        float d = fabsf(scale[i] - offset);
        top = d > top || d != d ? d : top;
    }
    return top;
}

static void quant_block(const float level[LEVELS], float offset, float *scale, uint8_t *codes,
                        float *nested, int64_t n)
{
    float middle[LEVELS], N = largest_from(offset, scale, n);
    for (int j = 0; j + 1 < LEVELS; j++)
        middle[j] = (level[j] + level[j + 1]) * 0.5f;
    middle[LEVELS - 1] = INFINITY; /* below nothing: a whole number of vectors */
    *nested = N;
    for (int64_t i = 0; i < n; i++) {
        float x = N > 0.0f ? (scale[i] - offset) / N : 0.0f;
        int32_t below = 0;
        for (int j = 0; j < LEVELS; j++)
            below += middle[j] < x;
        codes[i] = (uint8_t)below;
    }
    decode(level, codes, N, offset, scale, n);
    for (int64_t i = 0; i < n; i++)
        scale[i] = scale[i] == 0.0f ? 1.0f : scale[i];
}

static void quant_part(const void *user, int64_t first, int64_t last)
{
    const pare_quant_nested_args *a = user;
    float level[LEVELS], *scale = a->scale.data, *nested = a->nested.data;
    uint8_t *codes = a->codes.data;
    make_levels(level);
    for (int64_t i = first; i < last; i += BLOCK)
        quant_block(level, a->offset, scale + i, codes + i, nested + i / BLOCK,
                    cpu_min(BLOCK, last - i));
}

pare_status PARE_CPU(pare_cpu_quant_nested)(pare_backend *be, const pare_quant_nested_args *args)
{
    const float *scale = args->scale.data;
    int64_t count = args->scale.shape[0];
    cpu_split(be, count, BLOCK, quant_part, args);
    for (int64_t i = 0; i < count; i++)
        PARE_REQUIRE(isfinite(scale[i]), PARE_ERR_DAMAGED,
                     "scale %lld is too large to be quantised: with the offset %g it becomes %g",
                     (long long)i, (double)args->offset, (double)scale[i]);
    return PARE_OK;
}

/* ---- dequant_nested -------------------------------------------------------------------------- */

static void dequant_part(const void *user, int64_t first, int64_t last)
{
    const pare_dequant_nested_args *a = user;
    float level[LEVELS], *scale = a->scale.data;
    const float *nested = a->nested.data;
    const uint8_t *codes = a->codes.data;
    make_levels(level);
    for (int64_t i = first; i < last; i += BLOCK)
        decode(level, codes + i, nested[i / BLOCK], a->offset, scale + i, cpu_min(BLOCK, last - i));
}

pare_status PARE_CPU(pare_cpu_dequant_nested)(pare_backend *be,
                                              const pare_dequant_nested_args *args)
{
    cpu_split(be, args->codes.shape[0], BLOCK, dequant_part, args);
    return PARE_OK;
}
