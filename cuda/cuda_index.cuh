/* cuda_index.cuh - a thread's number taken apart: quotients of 64-bit numbers, in 32 bits where
 * both fit (a division of 64 bits takes some 70 instructions). Numbers are not negative. */
#ifndef PARE_CUDA_INDEX_CUH
#define PARE_CUDA_INDEX_CUH

#include "cuda_common.cuh"

static __device__ __forceinline__ int64_t index_div(int64_t n, int64_t by)
{
    if (((uint64_t)n | (uint64_t)by) >> 32 == 0)
        return (uint32_t)n / (uint32_t)by;
    return n / by;
}

/* n becomes n / by; returns the rest. */
static __device__ __forceinline__ int64_t index_cut(int64_t *n, int64_t by)
{
    int64_t all = *n;
    *n = index_div(all, by);
    return all - *n * by;
}

#endif
