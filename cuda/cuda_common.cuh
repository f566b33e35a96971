/* cuda_common.cuh - what kernels share. Two compilers read it, and every .cu: nvcc, and the host's
 * C++ compiler for the simulator (tests/cudasim, docs/cudasim.md), which puts sim.h before it. So:
 *
 * - A launch is PARE_LAUNCH(be, kernel, blocks, threads, shared bytes, arguments…); a templated
 *   kernel's name goes in parentheses: (k_cast<float, half>).
 * - Shared memory is PARE_SHARED(type, name) for one object and PARE_SHARED_ARRAY(type, name,
 *   count) for an array, both in the kernel's own body; PARE_SHARED_DYNAMIC(type, name) for what
 * the launch gives.
 * - Warp and block operations only as functions of the CUDA language (…_sync with a mask,
 *   __syncthreads, __syncwarp, atomics) and the wrappers below. Lanes of a warp run in any order
 *   between two of them. A block never waits for another block.
 * - Every thread of a block reaches every __syncthreads(): guard work, do not return early.
 */
#ifndef PARE_CUDA_COMMON_CUH
#define PARE_CUDA_COMMON_CUH

#include "cuda_impl.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifndef PARE_CUDASIM
#define PARE_SHARED(type_, name_) __shared__ type_ name_
#define PARE_SHARED_ARRAY(type_, name_, count_) __shared__ type_ name_[count_]
#define PARE_SHARED_DYNAMIC(type_, name_)                                                          \
    extern __shared__ __align__(16) unsigned char pare_dynamic_shared[];                           \
    type_ *name_ = reinterpret_cast<type_ *>(pare_dynamic_shared)
#define PARE_LAUNCH_KERNEL(kernel_, blocks_, threads_, shared_, stream_, ...)                      \
    kernel_<<<blocks_, threads_, shared_, stream_>>>(__VA_ARGS__)
#endif

/* Returns from the launcher unless the launch went well. blocks: int64_t or dim3; 0 blocks launch
 * nothing. More than 48 KiB of shared memory, a kernel's own arrays included, must be asked for:
 * PARE_LAUNCH does. What is asked for holds for all threads of the host that launch the kernel on
 * this device, so it may not depend on the call: a kernel that gets more than PARE_SHARED_ASKED
 * always gets the same. */
#define PARE_SHARED_FREE (40 * 1024)  /* with no more than 8 KiB of a kernel's own */
#define PARE_SHARED_ASKED (64 * 1024) /* at least; every device from sm_80 on has more */
#define PARE_LAUNCH(be_, kernel_, blocks_, threads_, shared_, ...)                                 \
    do {                                                                                           \
        const dim3 launch_blocks_ = pare__dim(blocks_);                                            \
        if (launch_blocks_.x == 0 || launch_blocks_.y == 0 || launch_blocks_.z == 0)               \
            break;                                                                                 \
        PARE_TRY(pare__cuda_use(be_));                                                             \
        if ((shared_) > PARE_SHARED_FREE)                                                          \
            PARE_CUDA(cudaFuncSetAttribute(                                                        \
                (const void *)kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,                \
                (shared_) > PARE_SHARED_ASKED ? (int)(shared_) : PARE_SHARED_ASKED));              \
        PARE_LAUNCH_KERNEL(kernel_, launch_blocks_, threads_, shared_, pare__cuda_of(be_)->stream, \
                           __VA_ARGS__);                                                           \
        PARE_TRY(pare__cuda_launched(                                                              \
            __func__, #kernel_, (int64_t)launch_blocks_.x *launch_blocks_.y *launch_blocks_.z,     \
            (int)(threads_), (int64_t)(shared_)));                                                 \
    } while (0)

static inline dim3 pare__dim(int64_t blocks)
{
    return dim3((unsigned)blocks, 1, 1);
}
static inline dim3 pare__dim(dim3 blocks)
{
    return blocks;
}

/* Blocks for n items of per_block each; for kernels that stride over the grid, at most so many that
 * every multiprocessor holds 16 (a kernel that needs one block per piece uses the quotient). */
static inline int64_t pare__blocks(int64_t n, int64_t per_block)
{
    return n / per_block + (n % per_block != 0);
}
static inline int64_t pare__grid(const pare_backend *be, int64_t n, int64_t per_block)
{
    int64_t blocks = pare__blocks(n, per_block), most = 16 * pare__cuda_of(be)->multiprocessors;
    return blocks < most ? blocks : most;
}

/* The index of this thread in the grid, and how many there are (one dimension). */
static __device__ __forceinline__ int64_t grid_thread(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
static __device__ __forceinline__ int64_t grid_threads(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* ---- elements --------------------------------------------------------------------------------
 * The kernels' types of F32, F16, BF16. to_f32 is exact, from_f32 rounds half to even. The payload
 * of a NaN is not kept; the op cast, which promises it, works on bits. */
template <typename T> static __device__ __forceinline__ float to_f32(T x);
template <> __device__ __forceinline__ float to_f32(float x)
{
    return x;
}
template <> __device__ __forceinline__ float to_f32(__half x)
{
    return __half2float(x);
}
template <> __device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
template <typename T> static __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32(float x)
{
    return x;
}
template <> __device__ __forceinline__ __half from_f32(float x)
{
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_f32(float x)
{
    return __float2bfloat16_rn(x);
}

/* Runs `body` with T as the kernel's type of a dtype: PARE_WEIGHT_TYPE for F32, F16, BF16,
 * PARE_ACT_TYPE for F32 and BF16. The checks let no other pass. */
#define PARE_ACT_TYPE(dtype_, T, ...)                                                              \
    do {                                                                                           \
        if ((dtype_) == PARE_F32) {                                                                \
            using T = float;                                                                       \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            using T = __nv_bfloat16;                                                               \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)
#define PARE_WEIGHT_TYPE(dtype_, T, ...)                                                           \
    do {                                                                                           \
        if ((dtype_) == PARE_F16) {                                                                \
            using T = __half;                                                                      \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            PARE_ACT_TYPE(dtype_, T, __VA_ARGS__);                                                 \
        }                                                                                          \
    } while (0)

/* N consecutive elements, moved in one access of up to 16 bytes. The address must be aligned to it:
 * kernels take this way where pare__aligned says so, else one element at a time. */
template <typename T, int N> struct alignas(sizeof(T) * N) pack_of {
    T at[N];
};
template <typename T, int N>
static __device__ __forceinline__ pack_of<T, N> load_pack(const T *from)
{
    return *reinterpret_cast<const pack_of<T, N> *>(from);
}
template <typename T, int N>
static __device__ __forceinline__ void store_pack(T *to, const pack_of<T, N> &pack)
{
    *reinterpret_cast<pack_of<T, N> *>(to) = pack;
}
static inline bool pare__aligned(const void *pointer, size_t bytes)
{
    return (uintptr_t)pointer % bytes == 0;
}

/* ---- warps and blocks ------------------------------------------------------------------------ */

#define PARE_WARP 32
#define PARE_ALL_LANES 0xffffffffu

/* The sum (largest) over a warp, the same order always; every lane gets it. All 32 lanes call. */
template <typename T> static __device__ __forceinline__ T warp_sum(T x)
{
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(PARE_ALL_LANES, x, step);
    return x;
}
static __device__ __forceinline__ float warp_max(float x)
{
    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(PARE_ALL_LANES, x, step));
    return x;
}

/* The same over a block of a multiple of 32 threads; every thread gets it. `room`: shared memory
 * for 32 values that nothing else uses meanwhile. Every thread of the block calls. */
template <typename T> static __device__ __forceinline__ T block_sum(T x, T *room)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    x = warp_sum(x);
    __syncthreads(); /* room may still be read by a call before */
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    x = lane < (int)(blockDim.x / PARE_WARP) ? room[lane] : T(0);
    return warp_sum(x);
}
static __device__ __forceinline__ float block_max(float x, float *room)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    x = lane < (int)(blockDim.x / PARE_WARP) ? room[lane] : -INFINITY;
    return warp_max(x);
}

#endif
