/* cuda_divide.cuh - true quotients by one divisor, without a division each. */
#ifndef PARE_CUDA_DIVIDE_CUH
#define PARE_CUDA_DIVIDE_CUH

#include "cuda_common.cuh"

typedef struct divisor {
    float s;
    float up;    /* a power of two that takes s and x away from where residuals underflow */
    float s_up;  /* s·up */
    float recip; /* 1/s_up, correctly rounded */
} divisor;

static __host__ __device__ __forceinline__ divisor divisor_of(float s)
{
    divisor d;
    d.s = s;
    d.up = s < 0x1p-60f ? 0x1p80f : s > 0x1p100f ? 0x1p-60f : 1.0f;
    d.s_up = s * d.up;
    d.recip = 1.0f / d.s_up;
    return d;
}

/* x/s correctly rounded where it is below 2^30 (as near to 0 where it is below 2^-30), and at least
 * 2^29 where it is not: one correction makes the quotient faithful, and of a faithful quotient and
 * a correctly rounded reciprocal the next one makes the right quotient (Markstein 1990). An
 * infinite s gives NaN, as 0 does. */
static __device__ __forceinline__ float divided(float x, const divisor &d)
{
    float v = x * d.up, q = v * d.recip, better = fmaf(fmaf(-q, d.s_up, v), d.recip, q);
    better = fmaf(fmaf(-better, d.s_up, v), d.recip, better);
    return fabsf(q) > 0x1p30f ? q : better;
}

#endif
