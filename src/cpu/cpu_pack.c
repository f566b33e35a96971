/* cpu_pack.c - codes to bits and back. Bound by memory for 2, 4 and 8 bits; other widths move eight
 * codes at a time through one 64-bit word. Little-endian. */
#include "cpu_impl.h"

#define GRAIN 65536 /* codes; even */

/* ---- dense stream, b bits -------------------------------------------------------------------- */

/* Fields of `width` bits at the bottom of every 2·`apart` bits, and those just above them. */
CPU_INLINE uint64_t fields(int width, int apart)
{
    uint64_t ones = (UINT64_C(1) << width) - 1;
    return apart == 32   ? ones
           : apart == 16 ? ones * 0x0000000100000001u
                         : ones * 0x0001000100010001u;
}

/* Eight bytes of b < 8 bits each, closed up to 8·b bits: pairs, then fours, then all. */
CPU_INLINE uint64_t squeeze(uint64_t x, int b)
{
    for (int k = 1; k <= 4; k *= 2) {
        uint64_t low = fields(k * b, 8 * k);
        x = (x & low) | (x >> k * (8 - b) & low << k * b);
    }
    return x;
}

/* The inverse. */
CPU_INLINE uint64_t spread(uint64_t x, int b)
{
    for (int k = 4; k >= 1; k /= 2) {
        uint64_t low = fields(k * b, 8 * k);
        x = (x & low) | (x & low << k * b) << k * (8 - b);
    }
    return x;
}

/* The last codes of a row, fewer than eight, into `room` bytes, of which what is over becomes 0. */
static void pack_tail(const int8_t *codes, int64_t n, int b, uint8_t *out, int64_t room)
{
    uint64_t x = 0;
    for (int64_t i = 0; i < n; i++)
        x |= (((uint64_t)(uint8_t)codes[i] + (1u << (b - 1))) & ((1u << b) - 1)) << i * b;
    for (int64_t i = 0; i < room; i++, x >>= 8)
        out[i] = (uint8_t)x;
}

static void unpack_tail(const uint8_t *in, int64_t room, int b, int8_t *codes, int64_t n)
{
    uint64_t x = 0;
    for (int64_t i = 0; i < room && i < 8; i++)
        x |= (uint64_t)in[i] << 8 * i;
    for (int64_t i = 0; i < n; i++)
        codes[i] = (int8_t)((int)(x >> i * b & ((1u << b) - 1)) - (1 << (b - 1)));
}

CPU_INLINE void pack_groups(const int8_t *restrict codes, int64_t groups, int b,
                            uint8_t *restrict out)
{
    const uint64_t offset = (UINT64_C(1) << (b - 1)) * 0x0101010101010101u;
    for (int64_t g = 0; g < groups; g++) {
        uint64_t x;
        memcpy(&x, codes + 8 * g, 8);
        x = squeeze(x ^ offset, b); /* modulo 2^b, adding 2^(b-1) flips the top bit */
        memcpy(out + b * g, &x, (size_t)b);
    }
}

CPU_INLINE void unpack_groups(const uint8_t *restrict in, int64_t groups, int b,
                              int8_t *restrict codes)
{
    for (int64_t g = 0; g < groups; g++) {
        uint64_t x = 0;
        uint8_t u[8];
        memcpy(&x, in + b * g, (size_t)b);
        x = spread(x, b);
        memcpy(u, &x, 8);
        for (int i = 0; i < 8; i++)
            codes[8 * g + i] = (int8_t)(u[i] - (1 << (b - 1)));
    }
}

static void pack_two(const int8_t *restrict codes, int64_t groups, uint8_t *restrict out)
{
    for (int64_t i = 0; i < 2 * groups; i++) {
        uint32_t x;
        memcpy(&x, codes + 4 * i, 4);
        x = (x & 0x03030303u) ^ 0x02020202u;
        x |= x >> 6;
        out[i] = (uint8_t)((x & 15u) | (x >> 12 & 0xf0u));
    }
}

static void pack_four(const int8_t *restrict codes, int64_t groups, uint8_t *restrict out)
{
    for (int64_t i = 0; i < 4 * groups; i++) {
        uint16_t x;
        memcpy(&x, codes + 2 * i, 2);
        x = (x & 0x0f0fu) ^ 0x0808u;
        out[i] = (uint8_t)(x | x >> 4);
    }
}

static void unpack_four(const uint8_t *restrict in, int64_t groups, int8_t *restrict codes)
{
    for (int64_t i = 0; i < 4 * groups; i++) {
        codes[2 * i] = (int8_t)((in[i] & 15) - 8);
        codes[2 * i + 1] = (int8_t)((in[i] >> 4) - 8);
    }
}

static void flip_top(const void *from, void *to, int64_t n)
{
    const uint8_t *restrict in = from;
    uint8_t *restrict out = to;
    for (int64_t i = 0; i < n; i++)
        out[i] = in[i] ^ 0x80u;
}

/* One row: b is a constant in each case, so every width gets its own loop. */
static void pack_stream(const int8_t *codes, int64_t cols, int b, uint8_t *out, int64_t bytes)
{
    int64_t groups = cols / 8;
    switch (b) {
    case 1:
        pack_groups(codes, groups, 1, out);
        break;
    case 2:
        pack_two(codes, groups, out);
        break;
    case 3:
        pack_groups(codes, groups, 3, out);
        break;
    case 4:
        pack_four(codes, groups, out);
        break;
    case 5:
        pack_groups(codes, groups, 5, out);
        break;
    case 6:
        pack_groups(codes, groups, 6, out);
        break;
    case 7:
        pack_groups(codes, groups, 7, out);
        break;
    default:
        flip_top(codes, out, 8 * groups);
    }
    pack_tail(codes + 8 * groups, cols % 8, b, out + b * groups, bytes - b * groups);
}

static void unpack_stream(const uint8_t *in, int64_t bytes, int b, int8_t *codes, int64_t cols)
{
    int64_t groups = cols / 8;
    switch (b) {
    case 1:
        unpack_groups(in, groups, 1, codes);
        break;
    case 2:
        unpack_groups(in, groups, 2, codes);
        break;
    case 3:
        unpack_groups(in, groups, 3, codes);
        break;
    case 4:
        unpack_four(in, groups, codes);
        break;
    case 5:
        unpack_groups(in, groups, 5, codes);
        break;
    case 6:
        unpack_groups(in, groups, 6, codes);
        break;
    case 7:
        unpack_groups(in, groups, 7, codes);
        break;
    default:
        flip_top(in, codes, 8 * groups);
    }
    unpack_tail(in + b * groups, bytes - b * groups, b, codes + 8 * groups, cols % 8);
}

/* ---- whole words ----------------------------------------------------------------------------- */

static void pack_aligned(const int8_t *codes, int64_t cols, int b, uint8_t *out)
{
    int64_t a_word = 32 / b;
    for (int64_t i = 0; i < cols; i += a_word, out += 4) {
        int64_t n = cpu_min(a_word, cols - i);
        uint32_t x = 0;
        for (int64_t j = 0; j < n; j++)
            x |= (((uint32_t)(uint8_t)codes[i + j] + (1u << (b - 1))) & ((1u << b) - 1)) << j * b;
        memcpy(out, &x, 4);
    }
}

static void unpack_aligned(const uint8_t *in, int b, int8_t *codes, int64_t cols)
{
    int64_t a_word = 32 / b;
    for (int64_t i = 0; i < cols; i += a_word, in += 4) {
        int64_t n = cpu_min(a_word, cols - i);
        uint32_t x;
        memcpy(&x, in, 4);
        for (int64_t j = 0; j < n; j++)
            codes[i + j] = (int8_t)((int)(x >> j * b & ((1u << b) - 1)) - (1 << (b - 1)));
    }
}

/* ---- nibbles --------------------------------------------------------------------------------- */

static void pack_nibbles(const int8_t *restrict codes, int64_t n, uint8_t *restrict out)
{
    for (int64_t i = 0; i < n / 2; i++)
        out[i] = (uint8_t)((codes[2 * i] & 15) << 4 | (codes[2 * i + 1] & 15));
    if (n % 2 != 0)
        out[n / 2] = (uint8_t)((codes[n - 1] & 15) << 4);
}

static void unpack_nibbles(const uint8_t *restrict in, int8_t *restrict codes, int64_t n)
{
    for (int64_t i = 0; i < n / 2; i++) {
        codes[2 * i] = (int8_t)(in[i] >> 4);
        codes[2 * i + 1] = (int8_t)(in[i] & 15);
    }
    if (n % 2 != 0)
        codes[n - 1] = (int8_t)(in[n / 2] >> 4);
}

/* ---- ops ------------------------------------------------------------------------------------- */

/* Whether this is a dense stream: also an aligned one that leaves no bits unused. */
static bool is_stream(pare_packing packing, int bits)
{
    return packing == PARE_PACK_STREAM || (packing == PARE_PACK_ALIGNED && 32 % bits == 0);
}

static void pack_part(const void *user, int64_t first, int64_t last)
{
    const pare_pack_args *a = user;
    int64_t cols = a->codes.shape[1], bytes = a->words.shape[1];
    const int8_t *codes = a->codes.data;
    uint8_t *words = a->words.data;
    if (a->packing == PARE_PACK_NIBBLES) { /* first and last count codes; first is even */
        pack_nibbles(codes + first, last - first, words + first / 2);
        return;
    }
    if (is_stream(a->packing, a->bits) && cols % 32 == 0) { /* rows without padding are one row */
        pack_stream(codes + first * cols, (last - first) * cols, a->bits, words + first * bytes,
                    (last - first) * bytes);
        return;
    }
    for (int64_t r = first; r < last; r++) {
        if (is_stream(a->packing, a->bits))
            pack_stream(codes + r * cols, cols, a->bits, words + r * bytes, bytes);
        else
            pack_aligned(codes + r * cols, cols, a->bits, words + r * bytes);
    }
}

pare_status PARE_CPU(pare_cpu_pack)(pare_backend *be, const pare_pack_args *args)
{
    if (args->packing == PARE_PACK_NIBBLES)
        cpu_split(be, pare_tensor_count(&args->codes), GRAIN, pack_part, args);
    else if (args->codes.shape[1] > 0)
        cpu_split(be, args->codes.shape[0], 1, pack_part, args);
    return PARE_OK;
}

static void unpack_part(const void *user, int64_t first, int64_t last)
{
    const pare_unpack_args *a = user;
    int64_t cols = a->codes.shape[1], bytes = a->words.shape[1];
    int8_t *codes = a->codes.data;
    const uint8_t *words = a->words.data;
    if (a->packing == PARE_PACK_NIBBLES) {
        unpack_nibbles(words + first / 2, codes + first, last - first);
        return;
    }
    if (is_stream(a->packing, a->bits) && cols % 32 == 0) {
        unpack_stream(words + first * bytes, (last - first) * bytes, a->bits, codes + first * cols,
                      (last - first) * cols);
        return;
    }
    for (int64_t r = first; r < last; r++) {
        if (is_stream(a->packing, a->bits))
            unpack_stream(words + r * bytes, bytes, a->bits, codes + r * cols, cols);
        else
            unpack_aligned(words + r * bytes, a->bits, codes + r * cols, cols);
    }
}

pare_status PARE_CPU(pare_cpu_unpack)(pare_backend *be, const pare_unpack_args *args)
{
    if (args->packing == PARE_PACK_NIBBLES)
        cpu_split(be, pare_tensor_count(&args->codes), GRAIN, unpack_part, args);
    else if (args->codes.shape[1] > 0)
        cpu_split(be, args->codes.shape[0], 1, unpack_part, args);
    return PARE_OK;
}
