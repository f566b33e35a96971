/* sim.h - what a .cu file sees in the place of nvcc: the language of kernels for the host's C++
 * compiler (docs/cudasim.md). It is put before every .cu file; the CUDA headers are NVIDIA's own.
 *
 * A block's threads are fibres of one thread of the host. They run one at a time, in an order drawn
 * from a seed, each until it ends or waits: at __syncthreads(), or at a warp operation for the
 * lanes of its mask. What CUDA leaves undefined is an error here: a barrier that some threads left,
 * a mask with a lane that does not come, a shuffle from outside the mask, shared memory that was
 * never written (it holds NaN), an address outside an array (AddressSanitizer).
 */
#ifndef PARE_CUDASIM_SIM_H
#define PARE_CUDASIM_SIM_H

#define PARE_CUDASIM 1

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "sim_control.h"

/* ---- qualifiers ------------------------------------------------------------------------------ */

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ pare_declare_shared_memory_with_PARE_SHARED
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__

/* ---- threads --------------------------------------------------------------------------------- */

struct sim_thread {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    int lane, warp;
};
extern sim_thread *sim_self; /* of the fibre that runs; one kernel runs at a time */

#define threadIdx (sim_self->thread)
#define blockIdx (sim_self->block)
#define blockDim (sim_self->block_dim)
#define gridDim (sim_self->grid_dim)
#define warpSize 32

/* Ends the program with what the kernel did wrong, where. */
[[noreturn]] void sim_wrong(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- shared memory --------------------------------------------------------------------------- */

/* The block's memory of a declaration (file and line): NaN at first; the same for all threads. */
void *sim_shared(const char *file, int line, size_t size, size_t align);
void *sim_shared_dynamic(void);

#define PARE_SHARED(type_, name_)                                                                  \
    type_ &name_ = *static_cast<type_ *>(                                                          \
        sim_shared(__PRETTY_FUNCTION__, __LINE__, sizeof(type_), alignof(type_)))
#define PARE_SHARED_ARRAY(type_, name_, count_)                                                    \
    type_ *const name_ = static_cast<type_ *>(                                                     \
        sim_shared(__PRETTY_FUNCTION__, __LINE__, sizeof(type_) * (count_), alignof(type_)))
#define PARE_SHARED_DYNAMIC(type_, name_)                                                          \
    type_ *const name_ = static_cast<type_ *>(sim_shared_dynamic())

/* ---- barriers and warps ---------------------------------------------------------------------- */

/* All threads of the block; the sum of what they bring. */
int sim_block(const char *file, int line, int bring);
#define __syncthreads() ((void)sim_block(__FILE__, __LINE__, 0))
#define __syncthreads_count(p_) sim_block(__FILE__, __LINE__, (p_) ? 1 : 0)
#define __syncthreads_or(p_) (sim_block(__FILE__, __LINE__, (p_) ? 1 : 0) > 0)
#define __syncthreads_and(p_) (sim_block(__FILE__, __LINE__, (p_) ? 0 : 1) == 0)

/* A warp operation: when every lane of the mask has come to the same place with the same mask,
 * complete() is called once with what the lanes brought (NULL for lanes outside), then they go on.
 * So an operation of a whole warp reads and writes the lanes' own memory. */
typedef void sim_complete(unsigned mask, void *const *lane_data);
void sim_warp(const char *file, int line, unsigned mask, void *lane_data, sim_complete *complete);

template <typename T> struct sim_shuffle_data {
    T value, result;
    int source;
    const char *file;
    int line;
};
template <typename T> void sim_shuffle_complete(unsigned mask, void *const *lane_data)
{
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1))
            continue;
        sim_shuffle_data<T> *own = static_cast<sim_shuffle_data<T> *>(lane_data[lane]);
        if (!(mask >> own->source & 1))
            sim_wrong(own->file, own->line,
                      "lane %d takes the value of lane %d, which is not in "
                      "the mask %#x",
                      lane, own->source, mask);
        own->result = static_cast<sim_shuffle_data<T> *>(lane_data[own->source])->value;
    }
}
template <typename T> T sim_shuffle(const char *file, int line, unsigned mask, T value, int source)
{
    sim_shuffle_data<T> data = {value, value, source, file, line};
    sim_warp(file, line, mask, &data, sim_shuffle_complete<T>);
    return data.result;
}
template <typename T>
T sim_shfl(const char *file, int line, unsigned mask, T value, int from, int width = 32)
{
    int start = sim_self->lane & ~(width - 1);
    return sim_shuffle(file, line, mask, value, start + (from & (width - 1)));
}
template <typename T>
T sim_shfl_xor(const char *file, int line, unsigned mask, T value, int with, int width = 32)
{
    int lane = sim_self->lane, from = lane ^ with, end = (lane & ~(width - 1)) + width;
    return sim_shuffle(file, line, mask, value, from < end ? from : lane);
}
template <typename T>
T sim_shfl_down(const char *file, int line, unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = sim_self->lane, from = lane + (int)by, end = (lane & ~(width - 1)) + width;
    return sim_shuffle(file, line, mask, value, from < end ? from : lane);
}
template <typename T>
T sim_shfl_up(const char *file, int line, unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = sim_self->lane, from = lane - (int)by, start = lane & ~(width - 1);
    return sim_shuffle(file, line, mask, value, from >= start ? from : lane);
}
#define __shfl_sync(...) sim_shfl(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) sim_shfl_xor(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) sim_shfl_down(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) sim_shfl_up(__FILE__, __LINE__, __VA_ARGS__)

unsigned sim_ballot(const char *file, int line, unsigned mask, int predicate);
unsigned sim_match(const char *file, int line, unsigned mask, uint64_t value);
void sim_syncwarp(const char *file, int line, unsigned mask);
struct sim_place {
    const char *file;
    int line;
    void syncwarp(unsigned mask = 0xffffffffu) const
    {
        sim_syncwarp(file, line, mask);
    }
};
int64_t sim_reduce(const char *file, int line, unsigned mask, int64_t value, int what);
#define __ballot_sync(mask_, p_) sim_ballot(__FILE__, __LINE__, mask_, p_)
#define __any_sync(mask_, p_) (sim_ballot(__FILE__, __LINE__, mask_, p_) != 0)
#define __all_sync(mask_, p_) (sim_ballot(__FILE__, __LINE__, mask_, !(p_)) == 0)
#define __match_any_sync(mask_, v_) sim_match(__FILE__, __LINE__, mask_, (uint64_t)(v_))
#define __syncwarp(...) (sim_place{__FILE__, __LINE__}.syncwarp(__VA_ARGS__))
#define __reduce_add_sync(mask_, v_)                                                               \
    ((decltype(v_))sim_reduce(__FILE__, __LINE__, mask_, (int64_t)(v_), '+'))
#define __reduce_min_sync(mask_, v_)                                                               \
    ((decltype(v_))sim_reduce(__FILE__, __LINE__, mask_, (int64_t)(v_), '<'))
#define __reduce_max_sync(mask_, v_)                                                               \
    ((decltype(v_))sim_reduce(__FILE__, __LINE__, mask_, (int64_t)(v_), '>'))
#define __reduce_or_sync(mask_, v_)                                                                \
    ((unsigned)sim_reduce(__FILE__, __LINE__, mask_, (int64_t)(unsigned)(v_), '|'))
#define __reduce_and_sync(mask_, v_)                                                               \
    ((unsigned)sim_reduce(__FILE__, __LINE__, mask_, (int64_t)(unsigned)(v_), '&'))

/* Copies that land when they are waited for (cp.async): of this thread, in groups. */
void sim_async_copy(void *to, const void *from, int bytes, int from_bytes);
void sim_async_commit(void);
void sim_async_wait(int groups_left);

static inline void __threadfence(void)
{
}
static inline void __threadfence_block(void)
{
}
static inline void __nanosleep(unsigned)
{
}
[[noreturn]] static inline void __trap(void)
{
    sim_wrong("kernel", 0, "__trap");
}

/* ---- atomics --------------------------------------------------------------------------------- */

template <typename T> static inline T atomicAdd(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = old + x;
    return old;
}
template <typename T> static inline T atomicSub(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = old - x;
    return old;
}
template <typename T> static inline T atomicMin(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = x < old ? x : old;
    return old;
}
template <typename T> static inline T atomicMax(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = x > old ? x : old;
    return old;
}
template <typename T> static inline T atomicOr(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = old | x;
    return old;
}
template <typename T> static inline T atomicAnd(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = old & x;
    return old;
}
template <typename T> static inline T atomicXor(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = old ^ x;
    return old;
}
template <typename T> static inline T atomicExch(T *at, std::common_type_t<T> x)
{
    T old = *at;
    *at = x;
    return old;
}
template <typename T>
static inline T atomicCAS(T *at, std::common_type_t<T> expected, std::common_type_t<T> x)
{
    T old = *at;
    if (old == expected)
        *at = x;
    return old;
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

template <typename T> static inline T sim_bits(const void *from)
{
    T to;
    memcpy(&to, from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return sim_bits<unsigned>(&x);
}
static inline int __float_as_int(float x)
{
    return sim_bits<int>(&x);
}
static inline float __uint_as_float(unsigned x)
{
    return sim_bits<float>(&x);
}
static inline float __int_as_float(int x)
{
    return sim_bits<float>(&x);
}
static inline long long __double_as_longlong(double x)
{
    return sim_bits<long long>(&x);
}
static inline double __longlong_as_double(long long x)
{
    return sim_bits<double>(&x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned byte = (unsigned)(both >> 8 * (s >> 4 * i & 7u)) & 0xffu;
        if (s >> 4 * i & 8u) /* the sign of the byte, eight times */
            byte = byte & 0x80u ? 0xffu : 0;
        result |= byte << 8 * i;
    }
    return result;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) << (s & 31u) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (s & 31u));
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dsub_rn(double a, double b)
{
    return a - b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline double __ddiv_rn(double a, double b)
{
    return a / b;
}
static inline double __dsqrt_rn(double a)
{
    return sqrt(a);
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
#define __expf(a_) expf(a_) /* the C library declares functions of these names */
#define __exp2f(a_) exp2f(a_)
#define __exp10f(a_) exp10f(a_)
#define __logf(a_) logf(a_)
#define __log2f(a_) log2f(a_)
#define __sinf(a_) sinf(a_)
#define __cosf(a_) cosf(a_)
#define __powf(a_, b_) powf(a_, b_)
static inline float rsqrtf(float a)
{
    return 1.0f / sqrtf(a);
}
static inline double rsqrt(double a)
{
    return 1.0 / sqrt(a);
}
static inline float __saturatef(float a)
{
    return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f;
}
/* To an integer, half to even, saturating; NaN gives 0. */
static inline int __float2int_rn(float a)
{
    if (!(a == a))
        return 0;
    float r = rintf(a);
    return r >= 2147483648.0f ? INT32_MAX : r <= -2147483648.0f ? INT32_MIN : (int)r;
}
static inline int __float2int_rz(float a)
{
    if (!(a == a))
        return 0;
    return a >= 2147483648.0f ? INT32_MAX : a <= -2147483648.0f ? INT32_MIN : (int)a;
}
static inline float __int2float_rn(int a)
{
    return (float)a;
}
static inline float __uint2float_rn(unsigned a)
{
    return (float)a;
}
static inline float __ll2float_rn(long long a)
{
    return (float)a;
}
static inline float __double2float_rn(double a)
{
    return (float)a;
}
/* A NaN of any kind counts as missing; the C library's give NaN for a signalling one. */
template <typename T> static inline T sim_larger(T a, T b)
{
    return a != a ? b : b != b ? a : a > b || (a == b && !std::signbit(a)) ? a : b;
}
template <typename T> static inline T sim_smaller(T a, T b)
{
    return a != a ? b : b != b ? a : a < b || (a == b && std::signbit(a)) ? a : b;
}
#define fmaxf(a_, b_) sim_larger<float>(a_, b_)
#define fminf(a_, b_) sim_smaller<float>(a_, b_)
#define fmax(a_, b_) sim_larger<double>(a_, b_)
#define fmin(a_, b_) sim_smaller<double>(a_, b_)
using std::isfinite;
using std::isinf;
using std::isnan;
static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}
static inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
static inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
static inline long min(long a, long b)
{
    return a < b ? a : b;
}
static inline long max(long a, long b)
{
    return a > b ? a : b;
}
static inline long long min(long long a, long long b)
{
    return a < b ? a : b;
}
static inline long long max(long long a, long long b)
{
    return a > b ? a : b;
}
static inline unsigned long min(unsigned long a, unsigned long b)
{
    return a < b ? a : b;
}
static inline unsigned long max(unsigned long a, unsigned long b)
{
    return a > b ? a : b;
}
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return fmin(a, b);
}
static inline double max(double a, double b)
{
    return fmax(a, b);
}

/* Loads and stores with a hint to the caches. */
template <typename T> static inline T __ldg(const T *from)
{
    return *from;
}
template <typename T> static inline T __ldcg(const T *from)
{
    return *from;
}
template <typename T> static inline T __ldcs(const T *from)
{
    return *from;
}
template <typename T> static inline T __ldlu(const T *from)
{
    return *from;
}
template <typename T> static inline void __stcs(T *to, const T &x)
{
    *to = x;
}
template <typename T> static inline void __stcg(T *to, const T &x)
{
    *to = x;
}
template <typename T> static inline void __stwt(T *to, const T &x)
{
    *to = x;
}

/* ---- launches -------------------------------------------------------------------------------- */

void sim_launch(const void *kernel, const char *name, dim3 blocks, dim3 threads, size_t shared,
                cudaStream_t stream, std::function<void()> body);

/* Arguments are taken at the launch, as CUDA does, however late the kernel runs. */
template <typename... P, typename... A>
void sim_launch_kernel(const char *name, dim3 blocks, dim3 threads, size_t shared,
                       cudaStream_t stream, void (*kernel)(P...), A &&...arguments)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel gets all of its arguments");
    std::tuple<std::decay_t<P>...> taken(static_cast<std::decay_t<P>>(arguments)...);
    sim_launch(reinterpret_cast<const void *>(kernel), name, blocks, threads, shared, stream,
               [kernel, taken] { std::apply(kernel, taken); });
}
#define PARE_LAUNCH_KERNEL(kernel_, blocks_, threads_, shared_, stream_, ...)                      \
    sim_launch_kernel(#kernel_, blocks_, dim3(threads_), (size_t)(shared_), stream_, kernel_,      \
                      ##__VA_ARGS__)

#endif
