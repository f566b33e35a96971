/* cpu_bits.h - between bytes that are 0 or 1 and the bits of a mask. Little-endian, as the masks
 * are. */
#ifndef PARE_CPU_BITS_H
#define PARE_CPU_BITS_H

#include "cpu_impl.h"

#define CPU_KEY_MASK 0x7fffffffu /* a key is what is left of a float without its sign */

/* bits[j] = flag[8j] | flag[8j+1] << 1 | …, for count bytes of bits; each flag is 0 or 1. */
CPU_INLINE void cpu_bits_from_flags(const uint8_t *restrict flag, uint8_t *restrict bits,
                                    int64_t count)
{
    for (int64_t j = 0; j < count; j++) {
        uint64_t x;
        memcpy(&x, flag + 8 * j, 8);
        x |= x >> 7;
        x |= x >> 14;
        x |= x >> 28;
        bits[j] = (uint8_t)x;
    }
}

/* The inverse: eight flags for each of count bytes of bits. */
CPU_INLINE void cpu_flags_from_bits(const uint8_t *restrict bits, uint8_t *restrict flag,
                                    int64_t count)
{
    for (int64_t j = 0; j < count; j++) {
        uint64_t x = bits[j];
        x = (x | x << 28) & 0x0000000f0000000fu;
        x = (x | x << 14) & 0x0003000300030003u;
        x = (x | x << 7) & 0x0101010101010101u;
        memcpy(flag + 8 * j, &x, 8);
    }
}

/* Ones among the first cols bits of a row of a mask. */
static inline int64_t cpu_count_ones(const uint8_t *row, int64_t cols)
{
    int64_t ones = 0, at = 0;
    for (; at + 8 <= cols / 8; at += 8) {
        uint64_t x;
        memcpy(&x, row + at, 8);
        ones += __builtin_popcountll(x);
    }
    for (; at < cols / 8; at++)
        ones += __builtin_popcount(row[at]);
    if (cols % 8 != 0)
        ones += __builtin_popcount(row[at] & ((1u << cols % 8) - 1));
    return ones;
}

/* Whether a bit behind the cols of a row is set. */
static inline bool cpu_padding_set(const uint8_t *row, int64_t cols)
{
    return cols % 8 != 0 && row[cols / 8] >> cols % 8 != 0;
}

#endif
