/* cpu_pack.c - codes to bits and back. Bound by memory for 2, 4 and 8 bits; other widths move eight
 * codes at a time through one 64-bit word. Little-endian. */
#include "cpu_impl.h"

#define GRAIN 65536 /* codes; even */

/* ---- dense stream, b bits -------------------------------------------------------------------- */

/* Two neighbouring fields of `width` bits in every 2·apart bits: closed up, and opened again.
 * `every` has a 1 where such a pair begins. */
CPU_INLINE uint64_t close_up(uint64_t x, int width, int apart, uint64_t every)
{
    uint64_t low = ((UINT64_C(1) << width) - 1) * every;
    return (x & low) | (x >> (apart - width) & low << width);
}
CPU_INLINE uint64_t open_up(uint64_t x, int width, int apart, uint64_t every)
{
    uint64_t low = ((UINT64_C(1) << width) - 1) * every;
    return (x & low) | (x & low << width) << (apart - width);
}

/* Eight bytes of b < 8 bits each to 8·b bits: pairs, then fours, then all; and back. */
CPU_INLINE uint64_t squeeze(uint64_t x, int b)
{
    x = close_up(x, b, 8, 0x0001000100010001u);
    x = close_up(x, 2 * b, 16, 0x0000000100000001u);
    return close_up(x, 4 * b, 32, 1);
}
CPU_INLINE uint64_t spread(uint64_t x, int b)
{
    x = open_up(x, 4 * b, 32, 1);
    x = open_up(x, 2 * b, 16, 0x0000000100000001u);
    return open_up(x, b, 8, 0x0001000100010001u);
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

#define BATCH                                                                                      \
    64 /* groups: the arithmetic is vectorised over them, the moves of b bytes are not             \
        */

/* Groups of eight codes, b bytes each. Where there is room behind, eight bytes are stored: what is
 * over is zero, and overwritten by the next. */
CPU_INLINE void pack_groups(const int8_t *restrict codes, int64_t groups, int b,
                            uint8_t *restrict out)
{
    const uint64_t offset = (UINT64_C(1) << (b - 1)) * 0x0101010101010101u;
    for (int64_t g = 0; g < groups; g += BATCH) {
        int64_t n = cpu_min(BATCH, groups - g), i = 0;
        uint64_t x[BATCH];
        memcpy(x, codes + 8 * g, (size_t)n * 8);
        for (int64_t j = 0; j < n; j++)
            x[j] = squeeze(x[j] ^ offset, b); /* modulo 2^b, adding 2^(b-1) flips the top bit */
        for (; i < n && (groups - g - i) * b >= 8; i++)
            memcpy(out + b * (g + i), &x[i], 8);
        for (; i < n; i++)
            memcpy(out + b * (g + i), &x[i], (size_t)b);
    }
}

/* Subtracts 2^(b-1) from each byte; the top bits, lent for the time, keep borrows apart. */
CPU_INLINE uint64_t center(uint64_t x, int b)
{
    const uint64_t top = 0x8080808080808080u, half = (UINT64_C(1) << (b - 1)) * 0x0101010101010101u;
    return ((x | top) - half) ^ top;
}

CPU_INLINE void unpack_groups(const uint8_t *restrict in, int64_t groups, int b,
                              int8_t *restrict codes)
{
    for (int64_t g = 0; g < groups; g += BATCH) {
        int64_t n = cpu_min(BATCH, groups - g), i = 0;
        uint64_t x[BATCH] = {0};
        for (; i < n && (groups - g - i) * b >= 8; i++)
            memcpy(&x[i], in + b * (g + i), 8);
        for (; i < n; i++)
            memcpy(&x[i], in + b * (g + i), (size_t)b);
        for (int64_t j = 0; j < n; j++)
            x[j] = center(spread(x[j], b), b);
        memcpy(codes + 8 * g, x, (size_t)n * 8);
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

CPU_INLINE void pack_words(const int8_t *restrict codes, int64_t cols, int b, uint8_t *restrict out)
{
    const int a_word = 32 / b;
    for (int64_t i = 0; i < cols; i += a_word, out += 4) {
        int8_t word[32] = {0};
        const int8_t *from = codes + i;
        uint32_t x = 0;
        if (i + a_word > cols) { /* u of what is missing is 0 */
            memset(word, -(1 << (b - 1)), sizeof word);
            memcpy(word, codes + i, (size_t)(cols - i));
            from = word;
        }
        for (int j = 0; j < a_word; j++)
            x |= (((uint32_t)(uint8_t)from[j] + (1u << (b - 1))) & ((1u << b) - 1)) << j * b;
        memcpy(out, &x, 4);
    }
}

CPU_INLINE void unpack_words(const uint8_t *restrict in, int b, int8_t *restrict codes,
                             int64_t cols)
{
    const int a_word = 32 / b;
    for (int64_t i = 0; i < cols; i += a_word, in += 4) {
        int8_t word[32];
        uint32_t x;
        memcpy(&x, in, 4);
        for (int j = 0; j < a_word; j++)
            word[j] = (int8_t)((int)(x >> j * b & ((1u << b) - 1)) - (1 << (b - 1)));
        if (i + a_word <= cols)
            memcpy(codes + i, word, (size_t)a_word);
        else
            memcpy(codes + i, word, (size_t)(cols - i));
    }
}

/* The widths that leave bits unused: the others are dense streams. */
static void pack_aligned(const int8_t *codes, int64_t cols, int b, uint8_t *out)
{
    if (b == 3)
        pack_words(codes, cols, 3, out);
    else if (b == 5)
        pack_words(codes, cols, 5, out);
    else
        pack_words(codes, cols, b, out);
}

static void unpack_aligned(const uint8_t *in, int b, int8_t *codes, int64_t cols)
{
    if (b == 3)
        unpack_words(in, 3, codes, cols);
    else if (b == 5)
        unpack_words(in, 5, codes, cols);
    else
        unpack_words(in, b, codes, cols);
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
    if (first == last)
        return;                            /* there may be no memory at all */
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
    if (first == last)
        return;
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
