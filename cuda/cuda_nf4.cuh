/* cuda_nf4.cuh - the levels of NF4 and the rounding to them, for the kernels that do it. */
#ifndef PARE_CUDA_NF4_CUH
#define PARE_CUDA_NF4_CUH

#include "cuda_common.cuh"

/* Levels of NF4 (QLoRA, Dettmers 2023, appendix E). */
static __device__ const float nf4_level[16] = {
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

/* The midpoint between level i and the next. */
static __device__ __forceinline__ float nf4_middle(int i)
{
    return (nf4_level[i] + nf4_level[i + 1]) * 0.5f;
}

/* How many of the 15 midpoints are below x. */
static __device__ __forceinline__ uint32_t nf4_code(float x, const float *middle)
{
    uint32_t i = middle[7] < x ? 8 : 0;
    i += middle[i + 3] < x ? 4 : 0;
    i += middle[i + 1] < x ? 2 : 0;
    return i + (middle[i] < x ? 1 : 0);
}

#endif
