/* cuda_each.cuh - how work that goes element by element is cut, and why.
 *
 * A block of EACH_THREADS threads has EACH_PACKS packs of 16 bytes for each of them, EACH_THREADS
 * apart: a warp's access is 512 bytes without a gap, and a thread loads all its packs before it
 * stores the first, so that enough bytes are under way (64 a thread, 64 KiB or more a
 * multiprocessor, of each array) to fill the memory. What is left behind the last whole pack, and
 * everything where a pointer is not aligned, goes one element at a time: the same arithmetic, so
 * the same result.
 */
#ifndef PARE_CUDA_EACH_CUH
#define PARE_CUDA_EACH_CUH

#include "cuda_common.cuh"

#define EACH_THREADS 256
#define EACH_PACKS 4

/* The packs that a kernel takes of n elements, and the blocks for all of them. */
static inline int64_t each_packs(int64_t n, int pack, bool aligned)
{
    return aligned ? n / pack : 0;
}
static inline int64_t each_blocks(int64_t n, int pack)
{
    return pare__blocks(n, (int64_t)EACH_THREADS * EACH_PACKS * pack);
}

/* This thread's pack number u. */
static __device__ __forceinline__ int64_t each_pack(int u)
{
    return ((int64_t)blockIdx.x * EACH_PACKS + u) * EACH_THREADS + threadIdx.x;
}

/* For each element i of first … n − 1 that is this thread's. */
#define EACH_REST(i_, n_, first_)                                                                  \
    for (int64_t i_ = (first_) + grid_thread(); i_ < (n_); i_ += grid_threads())

/* Elements of a pack that takes no more than 16 bytes of any of the types. */
template <typename A, typename B = A, typename C = A>
constexpr int pack_size = sizeof(A) == 4 || sizeof(B) == 4 || sizeof(C) == 4 ? 4 : 8;

#endif
