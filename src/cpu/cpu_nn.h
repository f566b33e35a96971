/* cpu_nn.h - sixteen floats at a time, from and to F32 or BF16, for the ops of ops_nn.h.
 *
 * GNU C's portable vectors, 64 bytes wide on every instruction set (the compiler cuts them), so
 * sums have the same order everywhere. Files of these ops are compiled with contraction (fused
 * multiply-add where the CPU has it): they are not bound to the same bytes on every instruction
 * set.
 *
 * Arithmetic is written with the operators. What compares or converts is written with the functions
 * below: gcc cuts a wide comparison into sixteen single ones where registers are narrower than the
 * vector, so they work on its parts, one register each.
 */
#ifndef PARE_CPU_NN_H
#define PARE_CPU_NN_H

#include "cpu_impl.h"

#include <math.h>

#define CPU_V 16

/* Bytes of a vector register. */
#if defined(__AVX512F__)
#define CPU_PART 64
#elif defined(__AVX__)
#define CPU_PART 32
#else
#define CPU_PART 16
#endif
#define CPU_PARTS (64 / CPU_PART)
#define CPU_PART_V (CPU_PART / 4) /* floats in it */

typedef float cpu_v __attribute__((vector_size(64)));
typedef int32_t cpu_vi __attribute__((vector_size(64)));
typedef uint32_t cpu_vu __attribute__((vector_size(64)));
typedef uint16_t cpu_vh __attribute__((vector_size(32)));
typedef double cpu_vd __attribute__((vector_size(64))); /* eight */

typedef float cpu_part_f __attribute__((vector_size(CPU_PART)));
typedef int32_t cpu_part_i __attribute__((vector_size(CPU_PART)));
typedef uint32_t cpu_part_u __attribute__((vector_size(CPU_PART)));
typedef uint16_t cpu_part_h __attribute__((vector_size(CPU_PART / 2)));

typedef union cpu_parts {
    cpu_v v;
    cpu_vi i;
    cpu_vu u;
    cpu_part_f f_part[CPU_PARTS];
    cpu_part_i i_part[CPU_PARTS];
    cpu_part_u u_part[CPU_PARTS];
} cpu_parts;

/* Part p of v, from its elements: what gcc sees through whatever v was made of. */
CPU_INLINE cpu_part_f cpu_cut(cpu_v v, int p)
{
#if CPU_PART == 64
    (void)p;
    return v;
#elif CPU_PART == 32
    const int k = p * 8;
    return (cpu_part_f){v[k], v[k + 1], v[k + 2], v[k + 3], v[k + 4], v[k + 5], v[k + 6], v[k + 7]};
#else
    const int k = p * 4;
    return (cpu_part_f){v[k], v[k + 1], v[k + 2], v[k + 3]};
#endif
}

CPU_INLINE cpu_v cpu_splat(float x)
{
    return (cpu_v){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* ---- comparisons: all bits set where it holds ------------------------------------------------ */

CPU_INLINE cpu_vi cpu_gt(cpu_v a, cpu_v b)
{
    cpu_parts x = {.v = a}, y = {.v = b}, r;
    for (int p = 0; p < CPU_PARTS; p++)
        r.i_part[p] = x.f_part[p] > y.f_part[p];
    return r.i;
}

CPU_INLINE cpu_vi cpu_lt(cpu_v a, cpu_v b)
{
    return cpu_gt(b, a);
}

CPU_INLINE cpu_vi cpu_eq(cpu_v a, cpu_v b)
{
    cpu_parts x = {.v = a}, y = {.v = b}, r;
    for (int p = 0; p < CPU_PARTS; p++)
        r.i_part[p] = x.f_part[p] == y.f_part[p];
    return r.i;
}

CPU_INLINE cpu_vi cpu_is_nan(cpu_v a)
{
    return ~cpu_eq(a, a);
}

CPU_INLINE cpu_v cpu_pick(cpu_vi where, cpu_v yes, cpu_v no)
{
    cpu_parts m = {.i = where}, y = {.v = yes}, n = {.v = no}, r;
    for (int p = 0; p < CPU_PARTS; p++)
        r.i_part[p] = (y.i_part[p] & m.i_part[p]) | (n.i_part[p] & ~m.i_part[p]);
    return r.v;
}

CPU_INLINE cpu_v cpu_vmax(cpu_v a, cpu_v b) /* b where either is NaN */
{
    return cpu_pick(cpu_gt(a, b), a, b);
}

CPU_INLINE cpu_v cpu_vmin(cpu_v a, cpu_v b) /* b where either is NaN */
{
    return cpu_pick(cpu_gt(b, a), a, b);
}

CPU_INLINE cpu_v cpu_vabs(cpu_v x)
{
    return (cpu_v)((cpu_vi)x & 0x7fffffff);
}

CPU_INLINE cpu_v cpu_relu(cpu_v x) /* negatives become 0, NaN stays */
{
    return cpu_pick(cpu_gt(cpu_splat(0.0f), x), cpu_splat(0.0f), x);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* h as the upper halves of words that are 0 below, and the upper halves of u. In the widest
 * registers gcc converts with five instructions what is one permutation. */
CPU_INLINE cpu_part_u cpu_raise_halves(cpu_part_h h)
{
#if CPU_PART == 64
    const cpu_part_h zero = {0};
    return (cpu_part_u)__builtin_shufflevector(zero, h, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                               22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                               29, 14, 30, 15, 31);
#else
    return __builtin_convertvector(h, cpu_part_u) << 16;
#endif
}

CPU_INLINE cpu_part_h cpu_upper_halves(cpu_part_u u)
{
#if CPU_PART == 64
    typedef uint16_t halves __attribute__((vector_size(64)));
    const halves both = (halves)u;
    return __builtin_shufflevector(both, both, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                   29, 31);
#else
    return __builtin_convertvector(u >> 16, cpu_part_h);
#endif
}

/* Elements [i, i + 16) of x. dtype should be a constant at the call: write the loop once as an
 * inline function and call it with each. */
CPU_INLINE cpu_v cpu_vload(const void *x, pare_dtype dtype, int64_t i)
{
    cpu_parts r;
    for (int p = 0; p < CPU_PARTS; p++) {
        int64_t at = i + p * (CPU_PART / 4);
        if (dtype == PARE_F32) {
            memcpy(&r.f_part[p], (const float *)x + at, CPU_PART);
            continue;
        }
        cpu_part_h h;
        memcpy(&h, (const uint16_t *)x + at, CPU_PART / 2);
        r.u_part[p] = cpu_raise_halves(h);
    }
    return r.v;
}

/* A NaN is made quiet and loses its lower half: then rounding does not move it. */
CPU_INLINE cpu_part_h cpu_part_to_bf16(cpu_part_f x)
{
    cpu_part_u u = (cpu_part_u)x, nan = (cpu_part_u)(x != x);
    u = (u & ~nan) | ((u | 0x400000u) & 0xffff0000u & nan);
    return cpu_upper_halves(u + 0x7fffu + ((u >> 16) & 1u));
}

CPU_INLINE void cpu_vstore(void *y, pare_dtype dtype, int64_t i, cpu_v v)
{
    for (int p = 0; p < CPU_PARTS; p++) {
        int64_t at = i + p * (CPU_PART / 4);
        cpu_part_f x = cpu_cut(v, p);
        cpu_part_h h = cpu_part_to_bf16(x);
        if (dtype == PARE_F32)
            memcpy((float *)y + at, &x, sizeof x);
        else
            memcpy((uint16_t *)y + at, &h, sizeof h);
    }
}

/* Out of line, so that a loop keeps its registers. */
#define CPU_COLD static __attribute__((noinline, cold, unused))

CPU_COLD cpu_v cpu_vload_part(const void *x, pare_dtype dtype, int64_t i, int64_t n, float rest)
{
    float v[CPU_V];
    for (int64_t k = 0; k < CPU_V; k++)
        v[k] = rest;
    if (dtype == PARE_F32)
        memcpy(v, (const float *)x + i, (size_t)n * sizeof *v);
    else
        for (int64_t k = 0; k < n; k++)
            v[k] = pare__bf16_to_f32(((const uint16_t *)x)[i + k]);
    return cpu_vload(v, PARE_F32, 0);
}

CPU_COLD void cpu_vstore_part(void *y, pare_dtype dtype, int64_t i, int64_t n, cpu_v v)
{
    float whole[CPU_V];
    uint16_t half[CPU_V];
    if (dtype == PARE_F32) {
        cpu_vstore(whole, PARE_F32, 0, v);
        memcpy((float *)y + i, whole, (size_t)n * sizeof *whole);
    } else {
        cpu_vstore(half, PARE_BF16, 0, v);
        memcpy((uint16_t *)y + i, half, (size_t)n * sizeof *half);
    }
}

/* The first n ≤ 16 alone; the others are `rest`. A loop's body takes n as an argument and is
 * inlined twice: with the constant 16, and for what is left. */
CPU_INLINE cpu_v cpu_vload_n(const void *x, pare_dtype dtype, int64_t i, int64_t n, float rest)
{
    return n == CPU_V ? cpu_vload(x, dtype, i) : cpu_vload_part(x, dtype, i, n, rest);
}

CPU_INLINE void cpu_vstore_n(void *y, pare_dtype dtype, int64_t i, int64_t n, cpu_v v)
{
    if (n == CPU_V)
        cpu_vstore(y, dtype, i, v);
    else
        cpu_vstore_part(y, dtype, i, n, v);
}

/* The same for one register: elements [i, i + n) of x, n ≤ CPU_PART_V; the others are 0. */
CPU_INLINE cpu_part_f cpu_part_load(const void *x, pare_dtype dtype, int64_t i, int64_t n)
{
    cpu_part_f v;
    cpu_part_h h;
    if (n < CPU_PART_V)
        return cpu_cut(cpu_vload_part(x, dtype, i, n, 0), 0);
    if (dtype == PARE_F32) {
        memcpy(&v, (const float *)x + i, sizeof v);
        return v;
    }
    memcpy(&h, (const uint16_t *)x + i, sizeof h);
    return (cpu_part_f)cpu_raise_halves(h);
}

CPU_INLINE void cpu_part_store(void *y, pare_dtype dtype, int64_t i, int64_t n, cpu_part_f v)
{
    if (n < CPU_PART_V) {
        cpu_parts whole = {.v = cpu_splat(0)};
        whole.f_part[0] = v;
        cpu_vstore_part(y, dtype, i, n, whole.v);
    } else if (dtype == PARE_F32) {
        memcpy((float *)y + i, &v, sizeof v);
    } else {
        cpu_part_h h = cpu_part_to_bf16(v);
        memcpy((uint16_t *)y + i, &h, sizeof h);
    }
}

CPU_INLINE cpu_part_f cpu_part_pick(cpu_part_i where, cpu_part_f yes, cpu_part_f no)
{
    return (cpu_part_f)(((cpu_part_i)yes & where) | ((cpu_part_i)no & ~where));
}

/* One element. */
CPU_INLINE float cpu_get(const void *x, pare_dtype dtype, int64_t i)
{
    return dtype == PARE_F32 ? ((const float *)x)[i] : pare__bf16_to_f32(((const uint16_t *)x)[i]);
}

CPU_INLINE void cpu_put(void *y, pare_dtype dtype, int64_t i, float v)
{
    if (dtype == PARE_F32)
        ((float *)y)[i] = v;
    else
        ((uint16_t *)y)[i] = pare__f32_to_bf16(v);
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* The sixteen halved again and again. */
typedef float cpu_v4 __attribute__((vector_size(16)));
typedef int32_t cpu_vi4 __attribute__((vector_size(16)));
typedef float cpu_v8 __attribute__((vector_size(32)));
typedef union cpu_halves {
    cpu_v v;
    cpu_v8 eight[2];
    cpu_v4 four[4];
} cpu_halves;

/* Sum and largest of the sixteen, as a binary tree: (l, l + 8), (l, l + 4), … */
CPU_INLINE float cpu_vsum(cpu_v v)
{
    cpu_halves h = {.v = v};
    h.eight[0] += h.eight[1];
    cpu_v4 s = h.four[0] + h.four[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* The same of one register. */
CPU_INLINE float cpu_part_sum(cpu_part_f v)
{
    union {
        cpu_part_f v;
        cpu_v4 four[CPU_PART / 16];
    } h = {.v = v};
    for (int k = CPU_PART / 32; k > 0; k /= 2)
        for (int l = 0; l < k; l++)
            h.four[l] += h.four[l + k];
    return (h.four[0][0] + h.four[0][2]) + (h.four[0][1] + h.four[0][3]);
}

CPU_INLINE cpu_v4 cpu_four_top(cpu_v4 a, cpu_v4 b) /* b where either is NaN */
{
    cpu_vi4 where = a > b;
    return (cpu_v4)(((cpu_vi4)a & where) | ((cpu_vi4)b & ~where));
}

CPU_INLINE float cpu_vtop(cpu_v v)
{
    cpu_halves h = {.v = v};
    cpu_v4 low = cpu_four_top(h.four[0], h.four[2]), high = cpu_four_top(h.four[1], h.four[3]);
    cpu_v4 s = cpu_four_top(low, high);
    float a = s[0] > s[2] ? s[0] : s[2], b = s[1] > s[3] ? s[1] : s[3];
    return a > b ? a : b;
}

/* ---- e^x ------------------------------------------------------------------------------------- */

/* e^x = 2^n·(1 + less) for −88.05 ≤ x ≤ 89; 2^n is 0 below −87.68 and Inf above 88.37. */
CPU_INLINE cpu_v cpu_vexp_parts(cpu_v x, cpu_v *less)
{
    cpu_v t = x * 1.44269504f + 0x1.8p23f, n = t - 0x1.8p23f;
    cpu_v r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    cpu_v p = r * 1.38146e-3f + 8.36871564e-3f;
    p = p * r + 4.1668389e-2f;
    p = p * r + 1.66665211e-1f;
    p = p * r + 4.9999994e-1f;
    *less = p * r * r + r;
    return (cpu_v)(((cpu_vu)t + (127u - 0x4b400000u)) << 23);
}

/* e^x to 2 ulp: 0 below −87.68, Inf above 88.37, NaN stays. */
CPU_INLINE cpu_v cpu_vexp(cpu_v x)
{
    cpu_v less; /* min and max in this order keep NaN */
    x = cpu_vmin(cpu_splat(89.0f), cpu_vmax(cpu_splat(-88.05f), x));
    cpu_v two_n = cpu_vexp_parts(x, &less);
    return (less + 1.0f) * two_n;
}

/* The same for x ≤ 0: there is no upper end to look out for. */
CPU_INLINE cpu_v cpu_vexp_below(cpu_v x)
{
    cpu_v less, two_n = cpu_vexp_parts(cpu_vmax(cpu_splat(-88.05f), x), &less);
    return (less + 1.0f) * two_n;
}

#endif
