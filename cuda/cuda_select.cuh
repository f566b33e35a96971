/* cuda_select.cuh - keys in fours, and equal keys of a warp: what counting them takes. */
#ifndef PARE_CUDA_SELECT_CUH
#define PARE_CUDA_SELECT_CUH

#include "cuda_bits.cuh"

typedef unsigned long long u64;

#define NO_KEY UINT32_MAX /* in the place of what is behind the end */

/* N times four keys, from element `first` on and every `apart` elements. All N loads are under way
 * together, but at the end of x, or if it is not aligned to 16 bytes. */
template <int N>
static __device__ __forceinline__ void load_keys(const uint32_t *x, int64_t first, int64_t apart,
                                                 int64_t n, bool aligned, uint32_t (&keys)[4 * N])
{
    if (aligned && first + (N - 1) * apart + 4 <= n) {
        pack_of<uint32_t, 4> pack[N];
#pragma unroll
        for (int u = 0; u < N; u++)
            pack[u] = load_pack<uint32_t, 4>(x + first + u * apart);
#pragma unroll
        for (int i = 0; i < 4 * N; i++)
            keys[i] = pack[i / 4].at[i % 4] & KEY_MASK;
    } else {
#pragma unroll
        for (int i = 0; i < 4 * N; i++) {
            int64_t at = first + i / 4 * apart + i % 4;
            keys[i] = at < n ? x[at] & KEY_MASK : NO_KEY;
        }
    }
}

/* How often this lane is to count its bin: the lanes with many equals leave it to one of them. All
 * 32 lanes call; `counts`: whether this one has a bin. */
static __device__ __forceinline__ uint32_t merge_equal(bool counts, uint32_t bin)
{
    enum { MANY = 8 };
    unsigned left = __ballot_sync(PARE_ALL_LANES, counts), lane = threadIdx.x % PARE_WARP, same;
    uint32_t times = counts;
    if (left == 0)
        return 0;
    do {
        int leader = __ffs((int)left) - 1;
        uint32_t its = __shfl_sync(PARE_ALL_LANES, bin, leader);
        same = __ballot_sync(PARE_ALL_LANES, counts && bin == its);
        if (same >> lane & 1)
            times = lane == (unsigned)leader ? (uint32_t)__popc(same) : 0;
        left &= ~same;
    } while (left && __popc(same) >= MANY);
    return times;
}

#endif
