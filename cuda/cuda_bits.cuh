/* cuda_bits.cuh - keys, and the geometry of masks, for the kernels that read the one and write the
 * other.
 *
 * The unit of work is a byte of a mask: the eight elements that it stands for. Where the rows have
 * a multiple of eight columns their bytes follow each other without padding, so the whole matrix is
 * taken as one row, whose elements lie eight by eight; where it is aligned as well, they are moved
 * in accesses of 16 bytes (FLAT), straight on, so that all loads of a thread are under way
 * together. Any other shape goes one element at a time: the same result.
 */
#ifndef PARE_CUDA_BITS_CUH
#define PARE_CUDA_BITS_CUH

#include "cuda_common.cuh"

#define KEY_MASK 0x7fffffffu /* a key is what is left of a float without its sign */

#define BITS_THREADS 256

/* What a dtype is when only its bits count. */
template <int SIZE> struct bits_of_size {
    using type = uint32_t;
};
template <> struct bits_of_size<2> {
    using type = uint16_t;
};
template <typename T> using bits_of = typename bits_of_size<(int)sizeof(T)>::type;

/* Runs `body` with T as uint32_t for F32 and U32, as uint16_t for F16 and BF16. */
#define PARE_BITS_TYPE(dtype_, T, ...)                                                             \
    do {                                                                                           \
        if ((dtype_) == PARE_F16 || (dtype_) == PARE_BF16) {                                       \
            using T = uint16_t;                                                                    \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            using T = uint32_t;                                                                    \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

typedef struct mask_shape {
    int64_t rows, cols;  /* of the elements */
    int64_t width, size; /* bytes of a row, of the mask */
} mask_shape;

static inline mask_shape mask_shape_of(int64_t rows, int64_t cols)
{
    if (cols % 8 == 0) {
        cols *= rows;
        rows = rows > 0 ? 1 : 0;
    }
    int64_t width = cols / 8 + (cols % 8 != 0);
    return mask_shape{rows, cols, width, rows * width};
}

/* Whether the elements may be moved eight by eight. */
static inline bool mask_is_flat(const mask_shape *s, const void *x)
{
    return s->rows == 1 && s->cols % 8 == 0 && pare__aligned(x, 16);
}

/* a / b, a ≥ 0, b > 0: the short division where it does. */
static __device__ __forceinline__ int64_t quotient(int64_t a, int64_t b)
{
    if ((a | b) >> 32 == 0)
        return (int64_t)((uint32_t)a / (uint32_t)b);
    return a / b;
}

/* ---- eight elements -------------------------------------------------------------------------- */

template <typename T> struct eight_of {
    T at[8];
};

template <typename T> static __device__ __forceinline__ eight_of<T> load_eight(const T *from)
{
    enum { N = 16 / sizeof(T) };
    eight_of<T> e;
#pragma unroll
    for (int i = 0; i < 8; i += N) {
        pack_of<T, N> pack = load_pack<T, N>(from + i);
#pragma unroll
        for (int j = 0; j < N; j++)
            e.at[i + j] = pack.at[j];
    }
    return e;
}
template <typename T>
static __device__ __forceinline__ void store_eight(T *to, const eight_of<T> &e)
{
    enum { N = 16 / sizeof(T) };
#pragma unroll
    for (int i = 0; i < 8; i += N) {
        pack_of<T, N> pack;
#pragma unroll
        for (int j = 0; j < N; j++)
            pack.at[j] = e.at[i + j];
        store_pack<T, N>(to + i, pack);
    }
}

/* The elements of a byte of a mask: the first, and how many (0 behind the end). */
typedef struct byte_span {
    int64_t first;
    int count;
} byte_span;

template <bool FLAT>
static __device__ __forceinline__ byte_span span_of_byte(const mask_shape &s, int64_t byte)
{
    byte_span span = {0, 0};
    if (byte < s.size) {
        int64_t row = FLAT ? 0 : quotient(byte, s.width), col = 8 * (byte - row * s.width);
        span.first = row * s.cols + col;
        span.count = (int)(s.cols - col < 8 ? s.cols - col : 8);
    }
    return span;
}

/* The elements of a span; behind its end 0. A flat span has eight or none. */
template <bool FLAT, typename T>
static __device__ __forceinline__ eight_of<T> load_span(const T *x, byte_span span)
{
    eight_of<T> e = {};
    if constexpr (FLAT) {
        if (span.count > 0)
            e = load_eight(x + span.first);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < span.count)
                e.at[i] = x[span.first + i];
    }
    return e;
}

static __device__ __forceinline__ unsigned span_bits(byte_span span)
{
    return (1u << span.count) - 1;
}

/* ---- sums over a block ----------------------------------------------------------------------- */

/* The sum of x over the threads before this one; *total: over the block, of a multiple of 32
 * threads. room: 32 numbers of shared memory. Every thread calls. */
template <typename T> static __device__ __forceinline__ T block_sum_before(T x, T *room, T *total)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    T own = x, all;
    for (int step = 1; step < PARE_WARP; step *= 2) {
        T other = __shfl_up_sync(PARE_ALL_LANES, own, step);
        own += lane >= step ? other : T(0);
    }
    __syncthreads(); /* room may still be read by a call before */
    if (lane == PARE_WARP - 1)
        room[warp] = own;
    __syncthreads();
    all = lane < (int)(blockDim.x / PARE_WARP) ? room[lane] : T(0);
    for (int step = 1; step < PARE_WARP; step *= 2) {
        T other = __shfl_up_sync(PARE_ALL_LANES, all, step);
        all += lane >= step ? other : T(0);
    }
    T before = __shfl_sync(PARE_ALL_LANES, all, warp > 0 ? warp - 1 : 0);
    *total = __shfl_sync(PARE_ALL_LANES, all, PARE_WARP - 1);
    return own - x + (warp > 0 ? before : T(0));
}

#endif
