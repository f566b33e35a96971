/* cuda_row.cuh - rows in registers: what kernels share that sum over a row and then write it.
 *
 * A team of TEAM threads (8 or 32 of a warp, or all of a block) holds a row: W elements, 16 bytes,
 * a time, element (p·TEAM + thread)·W + k as number p·W + k of a thread's HELD. So memory sees a
 * row once, whatever is done with it. The layout depends on the row's length and its dtype alone:
 * an address that is not aligned costs time and changes no bit.
 */
#ifndef PARE_CUDA_ROW_CUH
#define PARE_CUDA_ROW_CUH

#include "cuda_common.cuh"

/* Elements of 16 bytes; threads of a block of teams, and the teams in it. */
template <typename T> constexpr int row_pack = 16 / (int)sizeof(T);
template <int TEAM> constexpr int row_threads = TEAM > PARE_WARP ? TEAM : 256;
template <int TEAM> constexpr int row_teams = row_threads<TEAM> / TEAM;

/* Columns: the last axis. Rows: all others. */
static inline int64_t row_cols(const pare_tensor *x)
{
    return x->shape[x->rank - 1];
}
static inline int64_t row_rows(const pare_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i < x->rank - 1; i++)
        rows *= x->shape[i];
    return rows;
}

/* Whether every row of N elements of `size` bytes begins at a multiple of 16; absent tensors do. */
static inline bool row_aligned(int64_t N, size_t size, const void *const *pointers, int count)
{
    bool aligned = N % (16 / (int64_t)size) == 0;
    for (int i = 0; i < count; i++)
        aligned = aligned && pare__aligned(pointers[i], 16);
    return aligned;
}

/* ---- elements -------------------------------------------------------------------------------- */

/* Whether element i + k of a pack at i is one of the row's n: whole packs are where all is aligned.
 */
template <bool ALIGNED> static __device__ __forceinline__ bool row_has(int64_t i, int k, int64_t n)
{
    return ALIGNED ? i < n : i + k < n;
}

/* Elements [i, i + W) of a row of n as they stand in memory, zeros behind the row's end: nothing
 * waits for a load before all loads are under way. */
template <typename T, bool ALIGNED>
static __device__ __forceinline__ uint4 row_load(const T *row, int64_t i, int64_t n)
{
    uint4 raw = {0, 0, 0, 0};
    if (ALIGNED) {
        if (i < n)
            raw = *reinterpret_cast<const uint4 *>(row + i);
        return raw;
    }
    unsigned word[4] = {0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < row_pack<T>; k++)
        if (i + k < n && sizeof(T) == 4)
            word[k % 4] = reinterpret_cast<const unsigned *>(row)[i + k];
        else if (i + k < n)
            word[k / 2] |= (unsigned)reinterpret_cast<const unsigned short *>(row)[i + k]
                           << k % 2 * 16;
    raw.x = word[0], raw.y = word[1], raw.z = word[2], raw.w = word[3];
    return raw;
}

/* The W elements as floats, and back. */
template <typename T> static __device__ __forceinline__ void row_unpack(float *v, const uint4 &raw)
{
    const unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (sizeof(T) == 4) {
            v[k] = __uint_as_float(word[k]);
        } else {
            v[k * 2 % row_pack<T>] = __uint_as_float(word[k] << 16);
            v[(k * 2 + 1) % row_pack<T>] = __uint_as_float(word[k] & 0xffff0000u);
        }
    }
}
template <typename T> static __device__ __forceinline__ uint4 row_pack_up(const float *v)
{
    unsigned word[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (sizeof(T) == 4) {
            word[k] = __float_as_uint(v[k]);
        } else {
            __nv_bfloat162 two =
                __floats2bfloat162_rn(v[k * 2 % row_pack<T>], v[(k * 2 + 1) % row_pack<T>]);
            memcpy(&word[k], &two, sizeof two);
        }
    return {word[0], word[1], word[2], word[3]};
}

template <typename T, bool ALIGNED>
static __device__ __forceinline__ void row_store(T *row, int64_t i, int64_t n, const float *v)
{
    if (ALIGNED && i < n)
        *reinterpret_cast<uint4 *>(row + i) = row_pack_up<T>(v);
#pragma unroll
    for (int k = 0; k < row_pack<T>; k++)
        if (!ALIGNED && i + k < n)
            row[i + k] = from_f32<T>(v[k]);
}

/* W floats from i on: of gamma, beta. */
template <int W, bool ALIGNED>
static __device__ __forceinline__ void row_floats(float *v, const float *from, int64_t i, int64_t n)
{
    if (ALIGNED && i < n) {
#pragma unroll
        for (int k = 0; k < W; k += 4) {
            pack_of<float, 4> p = load_pack<float, 4>(from + i + k);
#pragma unroll
            for (int j = 0; j < 4; j++)
                v[k + j] = p.at[j];
        }
        return;
    }
#pragma unroll
    for (int k = 0; k < W; k++)
        v[k] = !ALIGNED && i + k < n ? from[i + k] : 0.0f;
}

/* A team's part of a row of n ≤ TEAM·HELD, zeros behind its end. */
template <typename T, bool ALIGNED, int TEAM, int HELD>
static __device__ __forceinline__ void row_hold(float *v, const T *row, int thread, int n)
{
    constexpr int W = row_pack<T>;
    uint4 raw[HELD / W];
#pragma unroll
    for (int u = 0; u < HELD / W; u++)
        raw[u] = row_load<T, ALIGNED>(row, (u * TEAM + thread) * W, n);
#pragma unroll
    for (int u = 0; u < HELD / W; u++)
        row_unpack<T>(v + u * W, raw[u]);
}

/* For each pack u of what is held, i being its first element. Without a test: what would jump over
 * the packs behind the row's end makes the compiler wait for a load before it asks for the next. */
#define ROW_PACKS(u_, i_, W_, TEAM_, HELD_, thread_)                                               \
    _Pragma("unroll") for (int u_ = 0, i_ = (thread_) * (W_); u_ < (HELD_) / (W_);                 \
                           u_++, i_ += (TEAM_) * (W_))

/* ---- sums ------------------------------------------------------------------------------------ */

/* COUNT sums (or largest) over a team, the same order always; every thread gets them. `room`:
 * COUNT·32 floats of shared memory, unused where a team is no more than a warp. Every thread of the
 * block calls. */
template <int TEAM, int COUNT, bool LARGEST>
static __device__ __forceinline__ void team_join(float *x, float *room)
{
    constexpr int LANES = TEAM > PARE_WARP ? PARE_WARP : TEAM, WARPS = TEAM / LANES;
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
#pragma unroll
    for (int c = 0; c < COUNT; c++)
        for (int step = LANES / 2; step > 0; step /= 2) {
            float other = __shfl_xor_sync(PARE_ALL_LANES, x[c], step);
            x[c] = LARGEST ? fmaxf(x[c], other) : x[c] + other;
        }
    if (WARPS == 1)
        return;
    __syncthreads(); /* room may still be read by a call before */
    for (int c = 0; c < COUNT; c++)
        if (lane == 0)
            room[c * PARE_WARP + warp] = x[c];
    __syncthreads();
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        x[c] = room[c * PARE_WARP + lane % WARPS];
        for (int step = WARPS / 2; step > 0; step /= 2) {
            float other = __shfl_xor_sync(PARE_ALL_LANES, x[c], step);
            x[c] = LARGEST ? fmaxf(x[c], other) : x[c] + other;
        }
    }
}
template <int TEAM, int COUNT>
static __device__ __forceinline__ void team_sums(float *x, float *room)
{
    team_join<TEAM, COUNT, false>(x, room);
}
template <int TEAM> static __device__ __forceinline__ float team_sum(float x, float *room)
{
    team_join<TEAM, 1, false>(&x, room);
    return x;
}
template <int TEAM> static __device__ __forceinline__ float team_max(float x, float *room)
{
    team_join<TEAM, 1, true>(&x, room);
    return x;
}

/* The row of this thread's team where a block takes one row a team. */
template <int TEAM> static __device__ __forceinline__ int64_t row_of_team(void)
{
    return (int64_t)blockIdx.x * row_teams<TEAM> + threadIdx.x / TEAM;
}

#endif
