/* cpu_mask_apply.c - masks at work: zeroing, compacting, scattering. Zeroing is bound by memory;
 * compacting and scattering move one element a step without a branch. */
#include "cpu_bits.h"

/* ---- apply ----------------------------------------------------------------------------------- */

#define TILE 512 /* columns */

static void apply_row(void *row, pare_dtype dtype, const uint8_t *mask, int64_t cols)
{
    uint8_t flag[TILE];
    for (int64_t at = 0; at < cols; at += TILE) {
        int64_t n = cpu_min(TILE, cols - at);
        cpu_flags_from_bits(mask + at / 8, flag, cpu_ceil_div(n, 8));
        if (dtype == PARE_F32) {
            uint32_t *restrict x = (uint32_t *)row + at;
            for (int64_t i = 0; i < n; i++)
                x[i] &= (uint32_t)(-(int32_t)flag[i]);
        } else {
            uint16_t *restrict x = (uint16_t *)row + at;
            for (int64_t i = 0; i < n; i++)
                x[i] &= (uint16_t)(-(int16_t)flag[i]);
        }
    }
}

static void apply_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_apply_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1];
    int64_t size = pare_dtype_bits(a->x.dtype) / 8;
    for (int64_t r = first; r < last; r++)
        apply_row((uint8_t *)a->x.data + r * cols * size, a->x.dtype,
                  (const uint8_t *)a->mask.data + r * bytes, cols);
}

pare_status PARE_CPU(pare_cpu_mask_apply)(pare_backend *be, const pare_mask_apply_args *args)
{
    if (args->x.shape[1] > 0)
        cpu_split(be, args->x.shape[0], 1, apply_part, args);
    return PARE_OK;
}

/* ---- compact --------------------------------------------------------------------------------- */

/* Ones of rows [first, last). */
static int64_t ones_of_rows(const pare_tensor *mask, int64_t cols, int64_t first, int64_t last)
{
    int64_t ones = 0, bytes = mask->shape[1];
    if (cols % 8 == 0)
        return cpu_count_ones((const uint8_t *)mask->data + first * bytes, (last - first) * cols);
    for (int64_t r = first; r < last; r++)
        ones += cpu_count_ones((const uint8_t *)mask->data + r * bytes, cols);
    return ones;
}

/* The first row with a bit set behind its end, or -1. */
static int64_t padded_row(const pare_tensor *mask, int64_t cols)
{
    int64_t bytes = mask->shape[1];
    for (int64_t r = 0; cols % 8 != 0 && r < mask->shape[0]; r++)
        if (cpu_padding_set((const uint8_t *)mask->data + r * bytes, cols))
            return r;
    return -1;
}

/* One mask byte at a time. Every element is written where the next value goes, and stays there if
 * its bit is set; where fewer than eight places are left, only those that stay are written. */
#define COMPACT_ROW(type)                                                                          \
    static int64_t compact_##type(const type *restrict x, const uint8_t *restrict mask,            \
                                  int64_t cols, type *restrict out, int64_t at, int64_t room)      \
    {                                                                                              \
        for (int64_t c = 0; c < cols; c += 8) {                                                    \
            unsigned bits = mask[c / 8];                                                           \
            if (c + 8 <= cols && at + 8 <= room) {                                                 \
                for (int i = 0; i < 8; i++) {                                                      \
                    out[at] = x[c + i];                                                            \
                    at += bits >> i & 1;                                                           \
                }                                                                                  \
                continue;                                                                          \
            }                                                                                      \
            for (; bits; bits &= bits - 1)                                                         \
                out[at++] = x[c + __builtin_ctz(bits)];                                            \
        }                                                                                          \
        return at;                                                                                 \
    }
COMPACT_ROW(uint32_t)
COMPACT_ROW(uint16_t)

static void compact_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_compact_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1];
    int64_t begin = ones_of_rows(&a->mask, cols, 0, first), at = begin;
    int64_t room = begin + ones_of_rows(&a->mask, cols, first, last);
    int64_t *counts = a->row_counts.data;
    for (int64_t r = first; r < last; r++) {
        const uint8_t *mask = (const uint8_t *)a->mask.data + r * bytes;
        int64_t before = at;
        if (a->x.dtype == PARE_F32)
            at = compact_uint32_t((const uint32_t *)a->x.data + r * cols, mask, cols,
                                  a->values.data, at, room);
        else
            at = compact_uint16_t((const uint16_t *)a->x.data + r * cols, mask, cols,
                                  a->values.data, at, room);
        if (counts)
            counts[r] = at - before;
    }
}

pare_status PARE_CPU(pare_cpu_mask_compact)(pare_backend *be, const pare_mask_compact_args *args)
{
    int64_t rows = args->x.shape[0], cols = args->x.shape[1];
    int64_t padded = padded_row(&args->mask, cols);
    PARE_REQUIRE(padded < 0, PARE_ERR_ARGUMENT,
                 "mask_compact: row %lld of the mask has bits set behind its %lld columns",
                 (long long)padded, (long long)cols);
    int64_t ones = ones_of_rows(&args->mask, cols, 0, rows);
    PARE_REQUIRE(ones == args->values.shape[0], PARE_ERR_ARGUMENT,
                 "mask_compact: values is [%lld]; the mask has %lld ones",
                 (long long)args->values.shape[0], (long long)ones);
    cpu_split(be, rows, 1, compact_part, args);
    return PARE_OK;
}

/* ---- scatter --------------------------------------------------------------------------------- */

/* The mirror: the next value is always read and kept if the bit is set; near the end of the values
 * only then read. */
#define SCATTER_ROW(type)                                                                          \
    static int64_t scatter_##type(const type *restrict values, int64_t at, int64_t room,           \
                                  const uint8_t *restrict mask, int64_t cols, type *restrict x)    \
    {                                                                                              \
        for (int64_t c = 0; c < cols; c += 8) {                                                    \
            unsigned bits = mask[c / 8];                                                           \
            if (c + 8 <= cols && at + 8 <= room) {                                                 \
                for (int i = 0; i < 8; i++) {                                                      \
                    unsigned bit = bits >> i & 1;                                                  \
                    x[c + i] = (type)(values[at] & (0u - bit));                                    \
                    at += bit;                                                                     \
                }                                                                                  \
                continue;                                                                          \
            }                                                                                      \
            for (int i = 0; i < 8 && c + i < cols; i++)                                            \
                x[c + i] = bits >> i & 1 ? values[at++] : 0;                                       \
        }                                                                                          \
        return at;                                                                                 \
    }
SCATTER_ROW(uint32_t)
SCATTER_ROW(uint16_t)

static void scatter_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_scatter_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1], room = a->values.shape[0];
    int64_t at = ones_of_rows(&a->mask, cols, 0, first);
    for (int64_t r = first; r < last; r++) {
        const uint8_t *mask = (const uint8_t *)a->mask.data + r * bytes;
        if (a->x.dtype == PARE_F32)
            at = scatter_uint32_t(a->values.data, at, room, mask, cols,
                                  (uint32_t *)a->x.data + r * cols);
        else
            at = scatter_uint16_t(a->values.data, at, room, mask, cols,
                                  (uint16_t *)a->x.data + r * cols);
    }
}

pare_status PARE_CPU(pare_cpu_mask_scatter)(pare_backend *be, const pare_mask_scatter_args *args)
{
    int64_t rows = args->x.shape[0], cols = args->x.shape[1];
    int64_t padded = padded_row(&args->mask, cols);
    PARE_REQUIRE(padded < 0, PARE_ERR_DAMAGED,
                 "row %lld of a sparse tensor's bitmask has bits set behind its %lld columns",
                 (long long)padded, (long long)cols);
    int64_t ones = ones_of_rows(&args->mask, cols, 0, rows);
    PARE_REQUIRE(ones == args->values.shape[0], PARE_ERR_DAMAGED,
                 "a sparse tensor has %lld values but %lld ones in its bitmask",
                 (long long)args->values.shape[0], (long long)ones);
    cpu_split(be, rows, 1, scatter_part, args);
    return PARE_OK;
}
