/* cuda_pack.cu - codes to bits and back.
 *
 * The hot way: 32 codes are a lane's unit and make as many words as a code has bits; a warp moves
 * its 1024 codes and their words in packs of 16 bytes side by side (cuda_quant.cuh). It takes dense
 * streams whose rows are whole units and whose memory is aligned; nibbles go sixteen at a time. The
 * plain way, for everything else: a thread a word, or a code.
 *
 * Bound by memory: 1 + bits/8 bytes a code, about 3 instructions. Predicted: 90 % of the copy rate;
 * no GPU has measured it yet.
 */
#include "cuda_quant.cuh"

#define THREADS 256
#define WARPS (THREADS / PARE_WARP)
#define UNIT 32 /* codes */

/* Whether this is a dense stream: also an aligned one that leaves no bits unused. */
static bool is_stream(pare_packing packing, int bits)
{
    return packing == PARE_PACK_STREAM || (packing == PARE_PACK_ALIGNED && 32 % bits == 0);
}

static bool is_hot(pare_packing packing, int bits, const pare_tensor *codes,
                   const pare_tensor *words)
{
    return is_stream(packing, bits) && codes->shape[1] % UNIT == 0 &&
           pare__aligned(codes->data, 16) && pare__aligned(words->data, 16);
}

/* ---- units of a stream ----------------------------------------------------------------------- */

/* How many of a warp's units, from its first on, there are. */
static __device__ __forceinline__ int units_here(int64_t first, int64_t units)
{
    return first >= units ? 0 : (int)min((int64_t)PARE_WARP, units - first);
}

template <int B>
static __global__ void __launch_bounds__(THREADS)
    k_pack_units(const int8_t *codes, uint32_t *words, int64_t units)
{
    PARE_SHARED_ARRAY(uint4, rooms, WARPS * 2 * PARE_WARP);
    const uint32_t half = (1u << (B - 1)) * 0x01010101u, mask = ((1u << B) - 1) * 0x01010101u;
    int64_t first = grid_thread() / PARE_WARP * PARE_WARP;
    int here = units_here(first, units);
    uint4 *room = rooms + threadIdx.x / PARE_WARP * 2 * PARE_WARP, unit[2];
    uint32_t word[B];
    load_unit<2>((const uint4 *)(codes + first * UNIT), here * 2, room, unit);
    uint32_t bytes[8];
    unit_integers(unit[0], bytes);
    unit_integers(unit[1], bytes + 4);
#pragma unroll
    for (int i = 0; i < 8; i++)
        bytes[i] = (bytes[i] ^ half) & mask; /* modulo 2^B, adding 2^(B-1) flips the top bit */
    squeeze<B>(bytes, word);
    store_words<B>(words + first * B, here * B, (uint32_t *)room, word);
}

/* Subtracts 2^(B-1) from each byte; the top bits, lent for the time, keep borrows apart. */
template <int B> static __device__ __forceinline__ uint32_t center(uint32_t x)
{
    const uint32_t half = (1u << (B - 1)) * 0x01010101u, top = 0x80808080u;
    return B == 8 ? x ^ half : ((x | top) - half) ^ top;
}

template <int B>
static __global__ void __launch_bounds__(THREADS)
    k_unpack_units(const uint32_t *words, int8_t *codes, int64_t units)
{
    PARE_SHARED_ARRAY(uint4, rooms, WARPS * 2 * PARE_WARP);
    int64_t first = grid_thread() / PARE_WARP * PARE_WARP;
    int here = units_here(first, units);
    uint4 *room = rooms + threadIdx.x / PARE_WARP * 2 * PARE_WARP, unit[2];
    uint32_t word[B], bytes[8];
    load_words<B>(words + first * B, here * B, (uint32_t *)room, word);
    spread<B>(word, bytes);
#pragma unroll
    for (int i = 0; i < 8; i++)
        bytes[i] = center<B>(bytes[i]);
    for (int i = 0; i < 2; i++)
        unit[i] = make_uint4(bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]);
    store_unit<2>((uint4 *)(codes + first * UNIT), here * 2, room, unit);
}

/* Runs `body` with B as the number of bits. */
#define WITH_BITS(bits_, B, ...)                                                                   \
    switch (bits_) {                                                                               \
        WITH_ONE(1, B, __VA_ARGS__)                                                                \
        WITH_ONE(2, B, __VA_ARGS__)                                                                \
        WITH_ONE(3, B, __VA_ARGS__)                                                                \
        WITH_ONE(4, B, __VA_ARGS__)                                                                \
        WITH_ONE(5, B, __VA_ARGS__)                                                                \
        WITH_ONE(6, B, __VA_ARGS__)                                                                \
        WITH_ONE(7, B, __VA_ARGS__)                                                                \
        WITH_ONE(8, B, __VA_ARGS__)                                                                \
    }
#define WITH_ONE(bits_, B, ...)                                                                    \
    case bits_: {                                                                                  \
        const int B = bits_;                                                                       \
        __VA_ARGS__                                                                                \
        break;                                                                                     \
    }

/* ---- nibbles --------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t nibble_pairs(uint32_t x)
{
    x &= 0x0f0f0f0fu;
    return x << 4 | x >> 8; /* bytes 0 and 2: pairs, the first code above */
}

/* Sixteen codes, eight bytes. */
static __global__ void __launch_bounds__(THREADS)
    k_pack_nibbles(const uint4 *codes, uint2 *bytes, int64_t n)
{
    int64_t i = grid_thread();
    if (i >= n)
        return;
    uint4 c = codes[i];
    bytes[i] = make_uint2(__byte_perm(nibble_pairs(c.x), nibble_pairs(c.y), 0x6420),
                          __byte_perm(nibble_pairs(c.z), nibble_pairs(c.w), 0x6420));
}

static __global__ void __launch_bounds__(THREADS)
    k_unpack_nibbles(const uint2 *bytes, uint4 *codes, int64_t n)
{
    int64_t i = grid_thread();
    if (i >= n)
        return;
    uint2 b = bytes[i];
    uint32_t h0 = b.x >> 4 & 0x0f0f0f0fu, l0 = b.x & 0x0f0f0f0fu;
    uint32_t h1 = b.y >> 4 & 0x0f0f0f0fu, l1 = b.y & 0x0f0f0f0fu;
    codes[i] = make_uint4(__byte_perm(h0, l0, 0x5140), __byte_perm(h0, l0, 0x7362),
                          __byte_perm(h1, l1, 0x5140), __byte_perm(h1, l1, 0x7362));
}

/* Bytes [first, ceil(n/2)) of n codes. */
static __global__ void __launch_bounds__(THREADS)
    k_pack_nibbles_plain(const int8_t *codes, uint8_t *bytes, int64_t first, int64_t n)
{
    int64_t i = first + grid_thread();
    if (2 * i >= n)
        return;
    int low = 2 * i + 1 < n ? codes[2 * i + 1] & 15 : 0;
    bytes[i] = (uint8_t)((codes[2 * i] & 15) << 4 | low);
}

static __global__ void __launch_bounds__(THREADS)
    k_unpack_nibbles_plain(const uint8_t *bytes, int8_t *codes, int64_t first, int64_t n)
{
    int64_t i = first + grid_thread();
    if (i < n)
        codes[i] = (int8_t)(bytes[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15);
}

/* ---- the plain way --------------------------------------------------------------------------- */

struct plain_job {
    int64_t rows, cols, bytes; /* of a row: codes, packed */
    int bits, whole;           /* whole: codes in a word that does not share them, or 0: a stream */
};

/* A word of a row. */
static __global__ void __launch_bounds__(THREADS)
    k_pack_words(plain_job j, const int8_t *codes, uint8_t *bytes)
{
    int64_t per_row = j.bytes / 4, item = grid_thread(), b = j.bits;
    if (item >= j.rows * per_row)
        return;
    int64_t row = quant_div(item, per_row), k = item - row * per_row;
    int64_t i = j.whole ? k * j.whole : quant_div(32 * k, b);
    int64_t at =
        j.whole ? 0 : i * b - 32 * k; /* the bit where code i begins; below 0: in a word before */
    int64_t end = j.whole ? min(i + j.whole, j.cols) : j.cols;
    uint32_t word = 0;
    for (; i < end && at < 32; i++, at += b) {
        uint32_t u = ((uint32_t)codes[row * j.cols + i] + (1u << (b - 1))) & ((1u << b) - 1);
        word |= at < 0 ? u >> -at : u << at;
    }
    for (int n = 0; n < 4; n++)
        bytes[row * j.bytes + 4 * k + n] = (uint8_t)(word >> 8 * n);
}

/* A code. */
static __global__ void __launch_bounds__(THREADS)
    k_unpack_codes(plain_job j, const uint8_t *bytes, int8_t *codes)
{
    int64_t item = grid_thread(), b = j.bits;
    if (item >= j.rows * j.cols)
        return;
    int64_t row = quant_div(item, j.cols), i = item - row * j.cols, at = i * b;
    if (j.whole) {
        int64_t k = quant_div(i, j.whole);
        at = 32 * k + (i - k * j.whole) * b;
    }
    const uint8_t *from = bytes + row * j.bytes + at / 8;
    uint32_t x = from[0];
    if (at % 8 + b > 8)
        x |= (uint32_t)from[1] << 8;
    codes[item] = (int8_t)((int)(x >> at % 8 & ((1u << b) - 1)) - (1 << (b - 1)));
}

static plain_job plain_job_of(pare_packing packing, int bits, const pare_tensor *codes,
                              const pare_tensor *words)
{
    plain_job j = {codes->shape[0], codes->shape[1], words->shape[1], bits,
                   is_stream(packing, bits) ? 0 : 32 / bits};
    return j;
}

/* ---- ops ------------------------------------------------------------------------------------- */

static pare_status pack_nibbles(pare_backend *be, const pare_pack_args *a)
{
    const int8_t *codes = (const int8_t *)a->codes.data;
    uint8_t *bytes = (uint8_t *)a->words.data;
    int64_t n = pare_tensor_count(&a->codes);
    int64_t units = pare__aligned(codes, 16) && pare__aligned(bytes, 8) ? n / 16 : 0;
    PARE_LAUNCH(be, k_pack_nibbles, pare__blocks(units, THREADS), THREADS, 0, (const uint4 *)codes,
                (uint2 *)bytes, units);
    PARE_LAUNCH(be, k_pack_nibbles_plain, pare__blocks((n + 1) / 2 - 8 * units, THREADS), THREADS,
                0, codes, bytes, 8 * units, n);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_pack(pare_backend *be, const pare_pack_args *args)
{
    const int8_t *codes = (const int8_t *)args->codes.data;
    int64_t units = pare_tensor_count(&args->codes) / UNIT;
    if (args->packing == PARE_PACK_NIBBLES) {
        PARE_TRY(pack_nibbles(be, args));
        return PARE_OK;
    }
    if (is_hot(args->packing, args->bits, &args->codes, &args->words)) {
        uint32_t *words = (uint32_t *)args->words.data;
        WITH_BITS(args->bits, B, {
            PARE_LAUNCH(be, (k_pack_units<B>), pare__blocks(units, THREADS), THREADS, 0, codes,
                        words, units);
        })
        return PARE_OK;
    }
    PARE_LAUNCH(be, k_pack_words, pare__blocks(pare_tensor_count(&args->words) / 4, THREADS),
                THREADS, 0, plain_job_of(args->packing, args->bits, &args->codes, &args->words),
                codes, (uint8_t *)args->words.data);
    return PARE_OK;
}

static pare_status unpack_nibbles(pare_backend *be, const pare_unpack_args *a)
{
    const uint8_t *bytes = (const uint8_t *)a->words.data;
    int8_t *codes = (int8_t *)a->codes.data;
    int64_t n = pare_tensor_count(&a->codes);
    int64_t units = pare__aligned(codes, 16) && pare__aligned(bytes, 8) ? n / 16 : 0;
    PARE_LAUNCH(be, k_unpack_nibbles, pare__blocks(units, THREADS), THREADS, 0,
                (const uint2 *)bytes, (uint4 *)codes, units);
    PARE_LAUNCH(be, k_unpack_nibbles_plain, pare__blocks(n - 16 * units, THREADS), THREADS, 0,
                bytes, codes, 16 * units, n);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_unpack(pare_backend *be, const pare_unpack_args *args)
{
    int8_t *codes = (int8_t *)args->codes.data;
    int64_t n = pare_tensor_count(&args->codes), units = n / UNIT;
    if (args->packing == PARE_PACK_NIBBLES) {
        PARE_TRY(unpack_nibbles(be, args));
        return PARE_OK;
    }
    if (is_hot(args->packing, args->bits, &args->codes, &args->words)) {
        const uint32_t *words = (const uint32_t *)args->words.data;
        WITH_BITS(args->bits, B, {
            PARE_LAUNCH(be, (k_unpack_units<B>), pare__blocks(units, THREADS), THREADS, 0, words,
                        codes, units);
        })
        return PARE_OK;
    }
    PARE_LAUNCH(be, k_unpack_codes, pare__blocks(n, THREADS), THREADS, 0,
                plain_job_of(args->packing, args->bits, &args->codes, &args->words),
                (const uint8_t *)args->words.data, codes);
    return PARE_OK;
}
