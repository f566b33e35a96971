/* cpu_quant.h - what quantize, dequantize and the search for scales share: the grid of a scheme,
 * the rounding to it.
 *
 * A quotient w/s costs an order more than a product. So integer codes are first computed from t =
 * w·(1/s), and a tile is done again with true quotients if any t in it comes so near to a tie that
 * the two could round apart. With u = 2^-24, both 1/s and the product are rounded once, w/s once:
 * |t - w/s| ≤ 3.01·u·|w/s|, and where |w/s| ≥ 2^b both are clamped alike. Symmetric: they differ by
 * less than 2^(b-22). With a zero point |w/s| < 2^(b+1) matters, and both sums round once more:
 * less than 2^(b-20). A scale whose reciprocal is not a normal number takes NaN for it, which no
 * comparison calls safe.
 */
#ifndef PARE_CPU_QUANT_H
#define PARE_CPU_QUANT_H

#include "cpu_impl.h"

#define CPU_QUANT_TILE 512 /* elements; a multiple of CPU_LANES */

typedef struct cpu_grid {
    float lo, hi;   /* least and greatest code */
    int32_t unsure; /* bits of the distance |t - rint(t)| from which on t may round unlike w/s */
} cpu_grid;

static inline cpu_grid cpu_grid_of(const pare_scheme *scheme)
{
    float half = (float)(1 << (scheme->bits - 1));
    float slack = half * (scheme->asymmetric ? 0x1p-19f : 0x1p-21f);
    return (cpu_grid){
        .lo = -half, .hi = half - 1.0f, .unsure = (int32_t)pare__f32_bits(0.5f - slack)};
}

/* 1/s, or NaN where the argument above does not hold. */
CPU_INLINE float cpu_reciprocal(float s)
{
    uint32_t a = pare__f32_bits(s) & 0x7fffffffu;
    uint32_t r = pare__f32_bits(1.0f / s);
    return pare__bits_f32(a - 0x0d800000u < 0x64000000u ? r : 0x7fc00000u); /* 2^-100 to 2^100 */
}

CPU_INLINE float cpu_clamp(float x, float lo, float hi)
{
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

/* The E4M3 number nearest to a finite x, half to even, saturating: adding 2^20 times the power of
 * two below |x| (or 2^-6, where steps end to shrink) leaves three digits behind the point of the
 * sum. */
CPU_INLINE float cpu_e4m3_round(float x)
{
    uint32_t u = pare__f32_bits(x), a = u & 0x7fffffffu;
    a = a > 0x43e00000u ? 0x43e00000u : a; /* 448 */
    uint32_t power = a & 0x7f800000u;
    float shift = pare__bits_f32((power > 0x3c800000u ? power : 0x3c800000u) + (20u << 23));
    float rounded = pare__bits_f32(a) + shift - shift;
    return pare__bits_f32(pare__f32_bits(rounded) | (u & 0x80000000u));
}

/* Levels of NF4 (QLoRA, Dettmers 2023, appendix E). */
static const float cpu_nf4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

#endif
