/* cpu_math.h - the functions of activations and losses, sixteen floats at a time; NaN stays NaN.
 *
 * Each is made of e^x and a polynomial fitted by weighted least squares to the least greatest
 * relative error (tests/unit/test_cpu_math.c holds the bounds stated here).
 */
#ifndef PARE_CPU_MATH_H
#define PARE_CPU_MATH_H

#include "cpu_nn.h"

/* σ(x) = 1/(1 + e^−x), to 3 ulp above −87; 0 below −88.37. */
CPU_INLINE cpu_v cpu_vsigmoid(cpu_v x)
{
    return 1.0f / (1.0f + cpu_vexp(-x));
}

/* σ'(x) = e^−|x|/(1 + e^−|x|)², to 4 ulp above 10^−37. */
CPU_INLINE cpu_v cpu_vsigmoid_slope(cpu_v x)
{
    cpu_v e = cpu_vexp(-cpu_vabs(x)), d = 1.0f + e;
    return e / (d * d);
}

/* tanh x to 4 ulp, by e^2|x| − 1 without cancellation. */
CPU_INLINE cpu_v cpu_vtanh(cpu_v x)
{
    cpu_v less, a = cpu_vmin(cpu_splat(10.0f), cpu_vabs(x)); /* in this order NaN stays */
    cpu_v two_n = cpu_vexp_parts(a * 2.0f, &less);
    less = less * two_n + (two_n - 1.0f); /* e^2|x| − 1 */
    cpu_vi sign = (cpu_vi)x & INT32_MIN;
    return (cpu_v)((cpu_vi)(less / (less + 2.0f)) | sign);
}

/* log x to 2 ulp; −Inf of 0, NaN of negatives. */
CPU_INLINE cpu_v cpu_vlog(cpu_v x)
{
    cpu_vi tiny = cpu_lt(x, cpu_splat(0x1p-126f));
    cpu_v y = cpu_pick(tiny, x * 0x1p24f, x);
    /* y = 2^k·m with m in [sqrt(1/2), sqrt(2)), f = m − 1 */
    cpu_vi bits = (cpu_vi)((cpu_vu)y - 0x3f3504f3u); /* wraps for negatives, which end as NaN */
    cpu_vi k = bits >> 23;
    cpu_v f = (cpu_v)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    cpu_v p = f * -0.076355882f + 0.127633005f;
    p = p * f - 0.131605953f;
    p = p * f + 0.142015576f;
    p = p * f - 0.166232973f;
    p = p * f + 0.200012326f;
    p = p * f - 0.250008225f;
    p = p * f + 0.333333313f;
    cpu_v n = __builtin_convertvector(k, cpu_v) - (cpu_v)((cpu_vi)cpu_splat(24.0f) & tiny);
    cpu_v q = f * f;
    p = (p * f - 0.5f) * q + n * -2.12194440e-4f;
    p = f + p + n * 0.693359375f;
    p = cpu_pick(cpu_eq(x, cpu_splat(0.0f)), cpu_splat(-INFINITY), p);
    p = cpu_pick(cpu_lt(x, cpu_splat(0.0f)), cpu_splat(NAN), p);
    /* Inf, and NaN, which is not below it */
    return cpu_pick(cpu_lt(x, cpu_splat(INFINITY)), p, x);
}

/* log(1 + x) of 0 ≤ x ≤ 1, to 2 ulp. */
CPU_INLINE cpu_v cpu_vlog1p(cpu_v x)
{
    cpu_v p = x * -0.00324401772f + 0.0198514294f;
    p = p * x - 0.0569594726f;
    p = p * x + 0.106036484f;
    p = p * x - 0.153055891f;
    p = p * x + 0.196759373f;
    p = p * x - 0.249541327f;
    p = p * x + 0.333299637f;
    p = p * x - 0.499999017f;
    return p * x * x + x;
}

/* Φ(x), the normal distribution function, to 10^-7 (its lower tail to 10^-5 of itself down to x =
 * −6, and 0 from −13.25 on), and its density φ(x) = e^(−x²/2)/sqrt(2π): Φ(−t) = e^(−t²/2)·R(t), R a
 * polynomial in t/(1 + 0.24 t). */
CPU_INLINE cpu_v cpu_vnormal(cpu_v x, cpu_v *density)
{
    cpu_v less, t = cpu_vmin(cpu_splat(13.27f), cpu_vabs(x)); /* in this order NaN stays */
    cpu_v two_n = cpu_vexp_parts(t * t * -0.5f, &less);
    cpu_v e = (less + 1.0f) * two_n;
    cpu_v w = t / (t * 0.24f + 1.0f);
    cpu_v p = w * 6.0830248e-6f - 6.31818621e-5f;
    p = p * w - 3.99068449e-5f;
    p = p * w + 4.42911731e-3f;
    p = p * w - 3.59567367e-2f;
    p = p * w + 1.54253736e-1f;
    p = p * w - 3.98942381e-1f;
    p = p * w + 0.5f;
    cpu_v below = p * e; /* Φ(−|x|) */
    *density = e * 3.98942280e-1f;
    return cpu_pick(cpu_gt(x, cpu_splat(0.0f)), 1.0f - below, below);
}

#endif
