/* cuda_quant.cuh - what the kernels of quantisation share: how a matrix is spread over threads,
 * scales from ranges, rounding to codes, and the exchange between what a warp moves and what
 * each of its lanes works on. The CPU's twins are cpu_quant.h and base/half.h. */
#ifndef PARE_CUDA_QUANT_CUH
#define PARE_CUDA_QUANT_CUH

#include "cuda_common.cuh"

/* 1.5·2^23: added to |x| ≤ 2^22 it rounds x half to even into the low bits. */
#define QUANT_RINT 12582912.0f

/* n / d for n ≥ 0 and d ≥ 1: a short division where one will do. */
static __device__ __forceinline__ int64_t quant_div(int64_t n, int64_t d)
{
    if ((n | d) >> 32 == 0)
        return (int64_t)((uint32_t)n / (uint32_t)d);
    return n / d;
}

static __device__ __forceinline__ bool quant_finite(float x)
{
    return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u;
}

/* x rounded to F32, F16 or BF16 and widened again. */
static __device__ __forceinline__ float quant_round(float x, pare_dtype dtype)
{
    if (dtype == PARE_F16)
        return to_f32(from_f32<__half>(x));
    return dtype == PARE_BF16 ? to_f32(from_f32<__nv_bfloat16>(x)) : x;
}

/* ---- a matrix over threads -------------------------------------------------------------------
 * Blocks of 256 threads, 2^shift of them side by side in a row with N elements each, the others in
 * the rows below; every thread has TURNS rows. So a thread needs one block of columns only. */

#define QUANT_THREADS 256
#define QUANT_TURNS 4

struct quant_sheet {
    int64_t R, C;
    int64_t tiles; /* side by side */
    int shift;
};

static inline quant_sheet quant_sheet_of(int64_t R, int64_t C, int N)
{
    quant_sheet s = {R, C, 1, 0};
    while (s.shift < 8 && (int64_t)N << s.shift < C)
        s.shift++;
    s.tiles = pare__blocks(C, (int64_t)N << s.shift);
    return s;
}

static inline int64_t quant_sheet_blocks(const quant_sheet *s)
{
    return s->tiles * pare__blocks(s->R, (int64_t)QUANT_TURNS * QUANT_THREADS >> s->shift);
}

/* The first row and column of this thread; its next row is `below` further down. */
struct quant_spot {
    int64_t row, col, below;
};

template <int N> static __device__ __forceinline__ quant_spot quant_spot_of(const quant_sheet &s)
{
    int64_t down = quant_div(blockIdx.x, s.tiles), across = blockIdx.x - down * s.tiles;
    int64_t below = QUANT_THREADS >> s.shift;
    quant_spot spot;
    spot.row = down * QUANT_TURNS * below + (threadIdx.x >> s.shift);
    spot.col = ((across << s.shift) + (threadIdx.x & ((1 << s.shift) - 1))) * N;
    spot.below = below;
    return spot;
}

/* ---- scales ---------------------------------------------------------------------------------- */

struct quant_rule {
    bool asymmetric;
    pare_dtype dtype;
    float divisor;     /* of the range, or of the largest magnitude */
    float none;        /* what a scale of 0 becomes */
    float least, most; /* integer codes */
};

static inline quant_rule quant_rule_of(const pare_scheme *scheme, pare_dtype dtype)
{
    float levels = (float)((1 << scheme->bits) - 1), half = (float)(1 << (scheme->bits - 1));
    quant_rule r = {scheme->asymmetric, dtype, levels, scheme->double_quant ? 0.0f : 1.0f, -half,
                    half - 1.0f};
    if (!scheme->asymmetric)
        r.divisor = scheme->type == PARE_QUANT_INT    ? levels / 2.0f
                    : scheme->type == PARE_QUANT_E4M3 ? 448.0f
                                                      : 1.0f;
    return r;
}

/* The scale of a block; not finite if its range is not. */
static __device__ __forceinline__ float quant_scale_of(const quant_rule &r, float lo, float hi)
{
    float s = r.asymmetric ? hi - lo : -lo > hi ? -lo : hi;
    s = quant_round(s / r.divisor, r.dtype);
    return s == 0.0f ? r.none : s;
}

static __device__ __forceinline__ float quant_zero_of(const quant_rule &r, float lo, float s)
{
    float t = fminf(fmaxf(r.least - lo / s, r.least), r.most);
    return t + QUANT_RINT - QUANT_RINT;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* An integer code is the low byte of what this gives. */
static __device__ __forceinline__ uint32_t quant_int_bits(float t, float least, float most)
{
    return __float_as_uint(fminf(fmaxf(t, least), most) + QUANT_RINT);
}

/* The byte of the E4M3 number nearest to x, half to even, saturating. */
static __device__ __forceinline__ uint32_t quant_e4m3_bits(float x)
{
    uint32_t u = __float_as_uint(x), sign = u >> 24 & 0x80u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return sign | 0x7fu;
    a = min(a, 0x43e00000u); /* 448 */
    if (a < 0x3c800000u)     /* below 2^-6: steps of 2^-9 */
        return sign | (__float_as_uint(__uint_as_float(a) + 16384.0f) - 0x46800000u);
    a += 0x7ffffu + (a >> 20 & 1u);
    return sign | (a - 0x3c000000u) >> 20;
}

static __device__ __forceinline__ float quant_e4m3_value(uint32_t byte)
{
    uint32_t sign = (byte & 0x80u) << 24, body = byte & 0x7fu;
    if (body == 0x7fu)
        return __uint_as_float(sign | 0x7fc00000u);
    if (body >= 8u)
        return __uint_as_float(sign | ((body << 20) + 0x3c000000u));
    return __uint_as_float(sign | __float_as_uint((float)body * 0.001953125f));
}

/* The same number as quant_e4m3_value(quant_e4m3_bits(x)), for finite x. */
static __device__ __forceinline__ float quant_e4m3_round(float x)
{
    uint32_t u = __float_as_uint(x), a = min(u & 0x7fffffffu, 0x43e00000u);
    float shift = __uint_as_float(max(a & 0x7f800000u, 0x3c800000u) + (20u << 23));
    float rounded = __uint_as_float(a) + shift - shift;
    return __uint_as_float(__float_as_uint(rounded) | (u & 0x80000000u));
}

/* ---- units -----------------------------------------------------------------------------------
 * A lane works on a unit of N consecutive packs of 16 bytes; a warp moves packs side by side. Both
 * meet in shared memory, where the packs of a unit are shuffled so that neither way has two lanes
 * of a quarter of the warp in one bank. room: 32·N packs of this warp alone. All 32 lanes call. */

template <int N> static __device__ __forceinline__ int unit_place(int unit, int pack)
{
    return N * unit + (pack ^ (unit * N / 8 & (N - 1)));
}

static __device__ __forceinline__ void unit_integers(const uint4 &pack, uint32_t *integer)
{
    integer[0] = pack.x;
    integer[1] = pack.y;
    integer[2] = pack.z;
    integer[3] = pack.w;
}

/* This lane's unit of the `count` packs that begin at `from`; zeros behind them. */
template <int N>
static __device__ __forceinline__ void load_unit(const uint4 *from, int count, uint4 *room,
                                                 uint4 (&unit)[N])
{
    int lane = threadIdx.x % PARE_WARP;
    for (int i = 0; i < N; i++) {
        int at = i * PARE_WARP + lane;
        unit[i] = at < count ? from[at] : make_uint4(0, 0, 0, 0);
    }
    if constexpr (N > 1) {
        for (int i = 0; i < N; i++)
            room[unit_place<N>((i * PARE_WARP + lane) / N, lane % N)] = unit[i];
        __syncwarp();
        for (int i = 0; i < N; i++)
            unit[i] = room[unit_place<N>(lane, i)];
        __syncwarp();
    }
}

template <int N>
static __device__ __forceinline__ void store_unit(uint4 *to, int count, uint4 *room,
                                                  const uint4 (&unit)[N])
{
    int lane = threadIdx.x % PARE_WARP;
    if constexpr (N == 1) {
        if (lane < count)
            to[lane] = unit[0];
    } else {
        for (int i = 0; i < N; i++)
            room[unit_place<N>(lane, i)] = unit[i];
        __syncwarp();
        for (int i = 0; i < N; i++) {
            int at = i * PARE_WARP + lane;
            if (at < count)
                to[at] = room[unit_place<N>(at / N, lane % N)];
        }
        __syncwarp();
    }
}

/* ---- 32 codes as B words ---------------------------------------------------------------------
 * Codes come and go as bytes below 2^B, four in each of eight integers. */

/* Four bytes to 4·B bits, and back. */
template <int B> static __device__ __forceinline__ uint32_t close_up(uint32_t x)
{
    if (B == 8)
        return x;
    x = (x & 0x00ff00ffu) | (x >> 8 & 0x00ff00ffu) << B;
    return (x & 0xffffu) | x >> 16 << 2 * B;
}
template <int B> static __device__ __forceinline__ uint32_t open_up(uint32_t x)
{
    const uint32_t one = (1u << B) - 1, two = (1u << 2 * B) - 1;
    if (B == 8)
        return x;
    x = (x & two) | (x >> 2 * B & two) << 16;
    return (x & one * 0x10001u) | (x >> B & one * 0x10001u) << 8;
}

/* Eight integers of four bytes to B words, and back. */
template <int B>
static __device__ __forceinline__ void squeeze(const uint32_t (&bytes)[8], uint32_t (&word)[B])
{
    if constexpr (B == 4) { /* the usual one, in fewer steps */
        for (int k = 0; k < B; k++)
            word[k] = __byte_perm(bytes[2 * k] | bytes[2 * k] >> 4,
                                  bytes[2 * k + 1] | bytes[2 * k + 1] >> 4, 0x6420);
    } else {
        for (int k = 0; k < B; k++)
            word[k] = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int at = 4 * B * j / 32, off = 4 * B * j % 32;
            uint32_t x = close_up<B>(bytes[j]);
            word[at] |= x << off;
            if (off + 4 * B > 32)
                word[(at + 1) % B] |= x >> (32 - off) % 32;
        }
    }
}
template <int B>
static __device__ __forceinline__ void spread(const uint32_t (&word)[B], uint32_t (&bytes)[8])
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const int at = 4 * B * j / 32, off = 4 * B * j % 32;
        bytes[j] = open_up<B>(__funnelshift_r(word[at], word[(at + 1) % B], off));
    }
}

/* A warp's words: lane l has words [l·B, (l + 1)·B) of the `count` that begin at `to` (`from`),
 * which is aligned to 16 bytes. room: 32·B words. */
template <int B>
static __device__ __forceinline__ void store_words(uint32_t *to, int count, uint32_t *room,
                                                   const uint32_t (&word)[B])
{
    int lane = threadIdx.x % PARE_WARP;
    if constexpr (B % 4 == 0) {
        uint4 unit[B / 4];
        for (int i = 0; i < B / 4; i++)
            unit[i] = make_uint4(word[4 * i], word[4 * i + 1], word[4 * i + 2], word[4 * i + 3]);
        store_unit<B / 4>((uint4 *)to, count / 4, (uint4 *)room, unit);
    } else {
        for (int k = 0; k < B; k++)
            room[lane * B + k] = word[k];
        __syncwarp();
        for (int k = 0; k < B; k++)
            if (k * PARE_WARP + lane < count)
                to[k * PARE_WARP + lane] = room[k * PARE_WARP + lane];
        __syncwarp();
    }
}
template <int B>
static __device__ __forceinline__ void load_words(const uint32_t *from, int count, uint32_t *room,
                                                  uint32_t (&word)[B])
{
    int lane = threadIdx.x % PARE_WARP;
    if constexpr (B % 4 == 0) {
        uint4 unit[B / 4];
        load_unit<B / 4>((const uint4 *)from, count / 4, (uint4 *)room, unit);
        for (int i = 0; i < B / 4; i++)
            unit_integers(unit[i], &word[4 * i]);
    } else {
        for (int k = 0; k < B; k++)
            room[k * PARE_WARP + lane] =
                k * PARE_WARP + lane < count ? from[k * PARE_WARP + lane] : 0;
        __syncwarp();
        for (int k = 0; k < B; k++)
            word[k] = room[lane * B + k];
        __syncwarp();
    }
}

#endif
