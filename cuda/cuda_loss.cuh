/* cuda_loss.cuh - rows of logits: who reads what, sums over those who read a row, their softmax.
 *
 * A row belongs to a warp (up to 1024 elements) or to a block of 256 or 1024 threads. Its threads
 * take N elements in turn, 16 bytes of the widest operand, two turns at a time; where a row does
 * not begin at 16 bytes they take the same elements one by one, so that the result is the same.
 */
#ifndef PARE_CUDA_LOSS_CUH
#define PARE_CUDA_LOSS_CUH

#include "cuda_mma.cuh"
#include "cuda_nn.cuh"

#include <float.h>

#define LOSS_LOG2E 1.44269504f
#define LOSS_WARP_MOST 1024   /* elements of a row that a warp takes */
#define LOSS_BLOCK_MOST 16384 /* that 256 threads take */

/* Calls launch<GROUP>(…) with the threads that share a row of V elements. */
#define LOSS_GROUP(V_, GROUP, ...)                                                                 \
    do {                                                                                           \
        if ((V_) <= LOSS_WARP_MOST) {                                                              \
            constexpr int GROUP = PARE_WARP;                                                       \
            __VA_ARGS__                                                                            \
        } else if ((V_) <= LOSS_BLOCK_MOST) {                                                      \
            constexpr int GROUP = 256;                                                             \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            constexpr int GROUP = 1024;                                                            \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

/* A warp that takes rows has seven neighbours in its block. */
static __host__ __device__ constexpr int loss_threads(int group)
{
    return group == PARE_WARP ? 256 : group;
}

/* The row of this thread's group, R or more if there is none. */
template <int GROUP> static __device__ __forceinline__ int64_t loss_row(void)
{
    return (int64_t)blockIdx.x * (loss_threads(GROUP) / GROUP) + threadIdx.x / GROUP;
}

/* Sum and largest over the group; all its threads call and get it. room: of block_sum. */
template <int GROUP, typename T> static __device__ __forceinline__ T loss_sum(T x, T *room)
{
    return GROUP == PARE_WARP ? warp_sum(x) : block_sum(x, room);
}
template <int GROUP> static __device__ __forceinline__ float loss_max(float x, float *room)
{
    return GROUP == PARE_WARP ? warp_max(x) : block_max(x, room);
}

/* Elements [v, v + N) of a row of V; −Inf behind its end. */
template <typename T, int N>
static __device__ __forceinline__ void loss_load(float (&x)[N], const T *row, int64_t v, int64_t V,
                                                 bool wide)
{
    if (wide && v + N <= V) {
        pack_of<T, N> pack = load_pack<T, N>(row + v);
#pragma unroll
        for (int e = 0; e < N; e++)
            x[e] = to_f32(pack.at[e]);
        return;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        x[e] = v + e < V ? to_f32(row[v + e]) : -INFINITY;
}

template <typename T, int N>
static __device__ __forceinline__ void loss_store(T *row, const float (&x)[N], int64_t v, int64_t V,
                                                  bool wide)
{
    if (wide && v + N <= V) {
        pack_of<T, N> pack;
#pragma unroll
        for (int e = 0; e < N; e++)
            pack.at[e] = from_f32<T>(x[e]);
        store_pack(row + v, pack);
        return;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        if (v + e < V)
            row[v + e] = from_f32<T>(x[e]);
}

/* The largest; NaN never is. */
template <int N> static __device__ __forceinline__ float loss_top(const float (&x)[N])
{
    float top = x[0];
#pragma unroll
    for (int e = 1; e < N; e++)
        top = fmaxf(top, x[e]);
    return top;
}

/* The softmax of what was read: p = 2^((x − top)·c)/exps, c = log2(e)/temperature. */
struct loss_softmax {
    float top, exps; /* the largest, at least −FLT_MAX; Σ 2^((x − top)·c) */
};
#define LOSS_NOTHING_READ                                                                          \
    {                                                                                              \
        -FLT_MAX, 0.0f                                                                             \
    }

template <int N>
static __device__ __forceinline__ void loss_read(loss_softmax *s, const float (&x)[N], float c)
{
    float top = loss_top(x);
    if (top > s->top) {
        s->exps *= exp2_fast((s->top - top) * c);
        s->top = top;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        s->exps += exp2_fast((x[e] - s->top) * c);
}

/* Brings the group's readings together. */
template <int GROUP>
static __device__ __forceinline__ void loss_join(loss_softmax *s, float c, float *room)
{
    float top = loss_max<GROUP>(s->top, room);
    s->exps = loss_sum<GROUP>(s->exps * exp2_fast((s->top - top) * c), room);
    s->top = top;
}

/* 1 over the temperature, for which 0 stands for 1. */
static inline float loss_inverse(float temperature)
{
    return temperature != 0.0f ? 1.0f / temperature : 1.0f;
}

/* Row i of dx [R, V] is 0. N: elements of a pack. */
template <int GROUP, int N, typename T>
static __device__ __forceinline__ void loss_no_gradient(T *dx, int64_t i, int64_t V, bool wide)
{
    const float zero[N] = {};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < V; v += GROUP * N)
        loss_store(dx + i * V, zero, v, V, wide);
}

/* Whether packs of N can be taken of every row. */
static inline bool loss_wide(const void *x, int64_t V, int N, size_t size)
{
    return V % N == 0 && pare__aligned(x, (size_t)N * size);
}

#endif
