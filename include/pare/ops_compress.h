/* ops_compress.h - selection, masks, quantisation, packing (ops.h has the rules).
 *
 * A key is the 31-bit order of a score: for a weight the bits of |w| as f32 (so keys order as
 * magnitudes, NaN and Inf above all: 0x7f800000 and up). Selection orders elements by (key, index)
 * ascending and prunes from the low end: on a tie the lower index goes first.
 *
 * A mask is a bit matrix [R, ceil(C/8)] of bytes, row by row, bit k of byte j for column 8j + k, 1
 * = kept, padding bits 0.
 */
#ifndef PARE_OPS_COMPRESS_H
#define PARE_OPS_COMPRESS_H

#include "pare/qtensor.h"
#include "pare/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_OPS_COMPRESS(OP)                                                                      \
    OP(keys)                                                                                       \
    OP(keys_random)                                                                                \
    OP(keys_block)                                                                                 \
    OP(select_hist)                                                                                \
    OP(select_count)                                                                               \
    OP(select_kth)                                                                                 \
    OP(mask_select)                                                                                \
    OP(mask_nm)                                                                                    \
    OP(mask_expand)                                                                                \
    OP(mask_nonzero)                                                                               \
    OP(mask_apply)                                                                                 \
    OP(mask_compact)                                                                               \
    OP(mask_scatter)                                                                               \
    OP(quant_range)                                                                                \
    OP(quant_scale)                                                                                \
    OP(quant_error)                                                                                \
    OP(quant_search)                                                                               \
    OP(quant_nested)                                                                               \
    OP(dequant_nested)                                                                             \
    OP(quantize)                                                                                   \
    OP(dequantize)                                                                                 \
    OP(pack)                                                                                       \
    OP(unpack)                                                                                     \
    OP(quant_pack)

/* ---- keys ------------------------------------------------------------------------------------ */

/* keys[i] = bits of |x[i]| as f32, without the sign. In place if x is F32. */
typedef struct pare_keys_args {
    pare_tensor x;    /* [n], F32, F16 or BF16 */
    pare_tensor keys; /* [n], U32 */
} pare_keys_args;

/* keys[i] = top 30 bits of a counter-based hash: with z = (seed ^ (stream·0x9E3779B97F4A7C15))
 * + (first + i + 1)·0xD1342543DE82EF95 (mod 2^64) and splitmix64's finaliser f (Steele 2014: z ^= z
 * >> 30, z *= 0xBF58476D1CE4E5B9, z ^= z >> 27, z *= 0x94D049BB133111EB, z ^= z >> 31), keys[i] =
 * f(z) >> 34, a number below 2^30 (never taken for Inf or NaN). */
typedef struct pare_keys_random_args {
    uint64_t seed;
    uint64_t stream;  /* one a tensor */
    int64_t first;    /* index of keys[0] in the tensor */
    pare_tensor keys; /* [n], U32 */
} pare_keys_random_args;

/* Keys of blocks: the bits of the lane sum (in f32) of |x| over a block, its elements taken row by
 * row. Blocks at the right and lower edge may be smaller. */
typedef struct pare_keys_block_args {
    pare_tensor x; /* [R, C], F32 */
    int64_t block_rows, block_cols;
    pare_tensor keys; /* [ceil(R/block_rows), ceil(C/block_cols)], U32 */
} pare_keys_block_args;

/* ---- exact k-th selection -------------------------------------------------------------------- */

#define PARE_SELECT_HIGH_BINS 32768 /* key >> 16 */
#define PARE_SELECT_LOW_BINS 65536  /* key & 0xffff */

/* Adds to a histogram. prefix < 0: bins[key >> 16] of all keys (PARE_SELECT_HIGH_BINS); prefix ≥ 0:
 * bins[key & 0xffff] of the keys with key >> 16 == prefix (PARE_SELECT_LOW_BINS). The sign bit of
 * an F32 x is dropped, so weights can be counted without writing keys. */
typedef struct pare_select_hist_args {
    pare_tensor x; /* [n], U32 keys or F32 weights */
    int32_t prefix;
    pare_tensor bins; /* [BINS], I64, added to */
} pare_select_hist_args;

/* How many keys lie below, and at, a threshold. */
typedef struct pare_select_count_args {
    pare_tensor x; /* [n], U32 keys or F32 weights (sign dropped) */
    uint32_t threshold;
    int64_t *below, *equal; /* host memory, overwritten; ready on return */
} pare_select_count_args;

/* The k-th smallest key of a tensor in memory, how many lie below it, how many are equal to it:
 * below < k ≤ below + equal. */
typedef struct pare_select_kth_args {
    pare_tensor x; /* [n], U32 keys or F32 weights (sign dropped) */
    int64_t k;     /* 1 ≤ k ≤ n */
    uint32_t *threshold;
    int64_t *below, *equal; /* all three: host memory, overwritten; ready on return */
} pare_select_kth_args;

/* mask = 0 where key < threshold, and for the first `ties` elements (row by row) whose key ==
 * threshold; 1 elsewhere. */
typedef struct pare_mask_select_args {
    pare_tensor x; /* [R, C], U32 keys or F32 weights (sign dropped) */
    uint32_t threshold;
    int64_t ties;     /* ≥ 0 */
    pare_tensor mask; /* [R, ceil(C/8)], U8 */
} pare_mask_select_args;

/* ---- masks ----------------------------------------------------------------------------------- */

/* In every m consecutive columns of a row the n elements of highest (key, index) are kept. */
typedef struct pare_mask_nm_args {
    pare_tensor x;    /* [R, C], U32 keys or F32 weights (sign dropped); C a multiple of m */
    int n, m;         /* 0 ≤ n ≤ m ≤ 256, m ≥ 1 */
    pare_tensor mask; /* [R, ceil(C/8)], U8 */
} pare_mask_nm_args;

/* The mask of elements from a mask of blocks. */
typedef struct pare_mask_expand_args {
    pare_tensor blocks; /* [ceil(R/block_rows), ceil(ceil(C/block_cols)/8)], U8 */
    int64_t block_rows, block_cols;
    int64_t rows, cols; /* R, C */
    pare_tensor mask;   /* [R, ceil(C/8)], U8 */
} pare_mask_expand_args;

/* mask = 1 where x is not +0 or -0; *count = how many (host memory, ready on return, may be NULL).
 */
typedef struct pare_mask_nonzero_args {
    pare_tensor x;    /* [R, C], F32, F16 or BF16 */
    pare_tensor mask; /* [R, ceil(C/8)], U8 */
    int64_t *count;
} pare_mask_nonzero_args;

/* x = +0 where the mask is 0, in place. */
typedef struct pare_mask_apply_args {
    pare_tensor x;    /* [R, C], F32, F16 or BF16 */
    pare_tensor mask; /* [R, ceil(C/8)], U8 */
} pare_mask_apply_args;

/* values = the elements of x under a 1, row by row. PARE_ERR_ARGUMENT if the mask's ones are not as
 * many as the values, or a padding bit is set. */
typedef struct pare_mask_compact_args {
    pare_tensor x;      /* [R, C], F32, F16 or BF16 */
    pare_tensor mask;   /* [R, ceil(C/8)], U8 */
    pare_tensor values; /* [ones of the mask], x's dtype */
    pare_tensor
        row_counts; /* [R], I64: ones of each row; data may be NULL (then it is not written) */
} pare_mask_compact_args;

/* The inverse: x = the next value under a 1, +0 under a 0. A mask whose ones are not as many as the
 * values, or a padding bit set, is PARE_ERR_DAMAGED. */
typedef struct pare_mask_scatter_args {
    pare_tensor values; /* [n], F32, F16 or BF16 */
    pare_tensor mask;   /* [R, ceil(C/8)], U8 */
    pare_tensor x;      /* [R, C], values' dtype */
} pare_mask_scatter_args;

/* ---- quantisation (methods.md, Definitions) -------------------------------------------------- */

/* The least and the greatest element of each block, both taken with 0 (lo ≤ 0 ≤ hi). If any element
 * is NaN or Inf its block has hi = Inf (or NaN); nothing else is promised of that block. */
typedef struct pare_quant_range_args {
    pare_tensor w; /* [R, C], F32 */
    int64_t block_rows, block_cols;
    pare_tensor lo, hi; /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
} pare_quant_range_args;

/* Scales and zero points from ranges, all in f32, then rounded to scale_dtype (round half to even)
 * and kept as f32 values. With amax = max(-lo, hi), levels = 2^bits - 1, qmin = -2^(bits-1): INT
 * symmetric   s = amax / (levels / 2) INT asymmetric  s = (hi - lo) / levels; z = clamp(rint(qmin -
 * lo/s), qmin, -qmin - 1), s rounded first E4M3            s = amax / 448 NF4             s = amax
 * A scale that is 0 (before or after rounding) becomes 1; with double_quant it stays 0, for
 * quant_nested. PARE_ERR_DAMAGED if a range, or a scale, is not finite (which block). */
typedef struct pare_quant_scale_args {
    pare_scheme scheme;
    pare_dtype scale_dtype; /* F32, F16 or BF16 */
    pare_tensor lo, hi;     /* [n], F32 */
    pare_tensor scale;      /* [n], F32; in place of hi if it is the same memory */
    pare_tensor zero;       /* [n], I8; data NULL unless asymmetric */
} pare_quant_scale_args;

#define PARE_QUANT_CANDIDATES 81 /* k = 100, 99 … 20 */

/* Squared errors for the search of one scale over data that comes in pieces: with s_k =
 * round(s·k/100) (f32 product, then quotient, then scale_dtype; 0 becomes 1), errors[100 - k] +=
 * lane sum in f64 of (w - (q_k - z)·s_k)², every operation in f64 from f32 w, integer q_k and f32
 * s_k; w [R, C] is taken row by row. For E4M3 (q_k - z) is the number e4m3(w/s_k). An s_k that is
 * not finite adds Inf. */
typedef struct pare_quant_error_args {
    pare_scheme scheme; /* INT or E4M3 */
    pare_dtype scale_dtype;
    pare_tensor w;  /* [R, C], F32 */
    float scale;    /* s, as quant_scale gives it */
    int zero;       /* 0 unless asymmetric */
    double *errors; /* [PARE_QUANT_CANDIDATES], host memory, added to; ready on return */
} pare_quant_error_args;

/* MSE search: each block's scale becomes the s_k (as in quant_error, k = 100 … 20) of least squared
 * error over its block, ties to the larger k; an s_k that is not finite is passed over. The zero
 * points stay. In place on scale. */
typedef struct pare_quant_search_args {
    pare_scheme scheme;
    pare_dtype scale_dtype;
    pare_tensor w; /* [R, C], F32 */
    int64_t block_rows, block_cols;
    pare_tensor scale; /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
    pare_tensor zero;  /* the same shape, I8; data NULL unless asymmetric */
} pare_quant_search_args;

/* NF4 with double_quant (QLoRA, Dettmers 2023): the scales are quantised too, to 256 levels: 0, 1
 * and ±(0.1 + 0.9·(2k + 1)/2^(i+1))·10^(i-6) for i = 0..6 and 0 ≤ k < 2^i, computed in f64 and
 * rounded once to f32, in ascending order (bitsandbytes' signed dynamic map). */
#define PARE_NESTED_LEVELS 256
#define PARE_NESTED_BLOCK 256 /* consecutive scales that share a nested scale */

/* With d = scale - offset and, of each block, N = the largest |d|: code = the number of midpoints
 * (of neighbouring levels, computed in f32 as (a + b)·0.5f) that are below d/N, or below 0 if N is
 * 0; nested = N. The scale becomes what dequant_nested gives, or 1 if that is 0: weights are
 * divided by it. PARE_ERR_DAMAGED if it, or N, is not finite (which scale). */
typedef struct pare_quant_nested_args {
    float offset;       /* finite */
    pare_tensor scale;  /* [n], F32, in place */
    pare_tensor codes;  /* [n], U8 */
    pare_tensor nested; /* [ceil(n/PARE_NESTED_BLOCK)], F32 */
} pare_quant_nested_args;

/* scale = level[code]·nested + offset, product and sum each rounded to f32. */
typedef struct pare_dequant_nested_args {
    float offset;
    pare_tensor codes;  /* [n], U8 */
    pare_tensor nested; /* [ceil(n/PARE_NESTED_BLOCK)], F32 */
    pare_tensor scale;  /* [n], F32 */
} pare_dequant_nested_args;

/* Codes of w:
 *   INT symmetric   q = clamp(rint(w/s), qmin, -qmin - 1)
 *   INT asymmetric  q = clamp(rint(w/s + z), qmin, -qmin - 1)  (quotient and sum each rounded to
 * f32) E4M3            q = e4m3(w/s), round half to even, saturating at ±448 NF4             q =
 * index of the level nearest to w/s: the number of midpoints (of neighbouring levels, computed in
 * f32 as (a + b)·0.5f) that are below w/s w must be finite. */
typedef struct pare_quantize_args {
    pare_scheme scheme;
    pare_tensor w; /* [R, C], F32 */
    int64_t block_rows, block_cols;
    pare_tensor scale; /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
    pare_tensor zero;  /* the same shape, I8; data NULL unless asymmetric */
    pare_tensor codes; /* [R, C], I8 */
} pare_quantize_args;

/* w from codes (qtensor.h), computed in f32, rounded once to w's dtype. */
typedef struct pare_dequantize_args {
    pare_scheme scheme;
    pare_tensor codes; /* [R, C], I8 */
    int64_t block_rows, block_cols;
    pare_tensor scale; /* [ceil(R/block_rows), ceil(C/block_cols)], F32 */
    pare_tensor zero;  /* the same shape, I8; data NULL unless asymmetric */
    pare_tensor w;     /* [R, C], F32, F16 or BF16 */
} pare_dequantize_args;

/* ---- packing --------------------------------------------------------------------------------- */

typedef enum pare_packing {
    PARE_PACK_STREAM,  /* u = q + 2^(bits-1) as a dense bit stream along the row: element i at bits
                          [i·bits, (i+1)·bits) counted from bit 0 of word 0, rows padded with 0 to
                          whole 32-bit words  (compressed-tensors pack-quantized) */
    PARE_PACK_ALIGNED, /* u as above, floor(32/bits) a word, top bits unused (older
                          compressed-tensors); the same bytes for 2, 4 and 8 bits */
    PARE_PACK_NIBBLES, /* 4-bit q (not offset) over the whole matrix row by row, two a byte, the
                          even element in the high nibble, last byte padded with 0 (bitsandbytes) */
} pare_packing;

/* Bytes of a packed row (of the whole matrix for PARE_PACK_NIBBLES, given its element count as
 * cols). */
int64_t pare_packed_bytes(pare_packing packing, int bits, int64_t cols);

/* Codes to packed bytes. */
typedef struct pare_pack_args {
    pare_packing packing;
    int bits;          /* 1..8; 4 for NIBBLES */
    pare_tensor codes; /* [R, C], I8 */
    pare_tensor words; /* [R, packed bytes], U8; [1, packed bytes] for NIBBLES */
} pare_pack_args;

/* The inverse. Padding bits are ignored. */
typedef struct pare_unpack_args {
    pare_packing packing;
    int bits;
    pare_tensor words; /* as in pack */
    pare_tensor codes; /* [R, C], I8 */
} pare_unpack_args;

/* Round to nearest in one pass over the weights: the same bytes as cast to F32, quant_range,
 * quant_scale, quantize and pack (PARE_PACK_STREAM) one after another, with blocks one row high.
 * PARE_ERR_DAMAGED as quant_scale (which block); the outputs then hold nothing of use. Of codes and
 * words one may be absent: data NULL. */
typedef struct pare_quant_pack_args {
    pare_scheme scheme;     /* INT */
    pare_dtype scale_dtype; /* F32, F16 or BF16 */
    pare_tensor w;          /* [R, C], F32, F16 or BF16 */
    int64_t block_cols;
    pare_tensor scale; /* [R, ceil(C/block_cols)], F32 */
    pare_tensor zero;  /* the same shape, I8; data NULL unless asymmetric */
    pare_tensor codes; /* [R, C], I8 */
    pare_tensor words; /* [R, packed bytes], U8 */
} pare_quant_pack_args;

#ifdef __cplusplus
}
#endif

#endif
