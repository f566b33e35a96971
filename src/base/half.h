/* half.h - one number at a time between f32 and the narrow formats; round half to even, exact
 * everywhere. */
#ifndef PARE_BASE_HALF_H
#define PARE_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t pare__f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float pare__bits_f32(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float pare__bf16_to_f32(uint16_t h)
{
    return pare__bits_f32((uint32_t)h << 16);
}

/* NaN becomes the quiet NaN with the same sign and upper payload. */
static inline uint16_t pare__f32_to_bf16(float x)
{
    uint32_t u = pare__f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float pare__f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, body = h & 0x7fffu;
    if (body >= 0x7c00u) /* Inf, NaN (made quiet) */
        return pare__bits_f32(sign | 0x7f800000u | ((body & 0x3ffu) << 13) |
                              (body > 0x7c00u ? 0x400000u : 0u));
    if (body >= 0x400u)
        return pare__bits_f32(sign | ((body << 13) + 0x38000000u));
    float x = (float)body * 0x1p-24f; /* subnormal: exact */
    return pare__bits_f32(pare__f32_bits(x) | sign);
}

static inline uint16_t pare__f32_to_f16(float x)
{
    uint32_t u = pare__f32_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and up */
        return (uint16_t)(sign | 0x7c00u);
    if (a <
        0x38800000u) { /* below 2^-14: adding 1/2 leaves the subnormal, rounded, in the low bits */
        float y = pare__bits_f32(a) + 0.5f;
        return (uint16_t)(sign | (pare__f32_bits(y) - 0x3f000000u));
    }
    a += 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}

/* OCP E4M3: 1-4-3, bias 7, no Inf, 0x7f is NaN, largest 448. */
static inline float pare__e4m3_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, body = b & 0x7fu;
    if (body == 0x7fu)
        return pare__bits_f32(sign | 0x7fc00000u);
    if (body >= 8u)
        return pare__bits_f32(sign | ((body << 20) + 0x3c000000u));
    return pare__bits_f32(pare__f32_bits((float)body * 0x1p-9f) | sign);
}

/* Saturates at ±448; NaN gives 0x7f with the sign. */
static inline uint8_t pare__f32_to_e4m3(float x)
{
    uint32_t u = pare__f32_bits(x), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (a >= 0x43e00000u) /* 448 and up */
        return (uint8_t)(sign | 0x7eu);
    if (a < 0x3c800000u) { /* below 2^-6: subnormal steps of 2^-9 */
        float y = pare__bits_f32(a) + 0x1p14f;
        return (uint8_t)(sign | (pare__f32_bits(y) - 0x46800000u));
    }
    a += 0x7ffffu + ((a >> 20) & 1u);
    return (uint8_t)(sign | ((a - 0x3c000000u) >> 20));
}

#endif
