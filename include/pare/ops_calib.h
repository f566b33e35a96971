/* ops_calib.h - statistics of a layer's inputs, and the column sweep that works by them (ops.h has
 * the rules).
 *
 * "act", absent arguments and the reproducibility are as in ops_nn.h: the same bytes with the same
 * backend, thread count and instruction set, a stated tolerance across backends; of keys_scaled,
 * mask_rows, square_add, scale, permute, diagonal, keep_rows, patches, keys_obs, obs_block the same
 * bytes everywhere.
 *
 * A Gram matrix is G = Σ x·xᵀ over all rows x seen; the H of the papers is 2·G over their number,
 * and no method here depends on that factor.
 */
#ifndef PARE_OPS_CALIB_H
#define PARE_OPS_CALIB_H

#include "pare/ops_nn.h"
#include "pare/qtensor.h"
#include "pare/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_OPS_CALIB(OP)                                                                         \
    OP(gram)                                                                                       \
    OP(column_stats)                                                                               \
    OP(histogram)                                                                                  \
    OP(patches)                                                                                    \
    OP(keep_rows)                                                                                  \
    OP(quant_fixed)                                                                                \
    OP(keys_scaled)                                                                                \
    OP(mask_rows)                                                                                  \
    OP(square_add)                                                                                 \
    OP(row_dot)                                                                                    \
    OP(scale)                                                                                      \
    OP(permute)                                                                                    \
    OP(diagonal)                                                                                   \
    OP(tri_inverse)                                                                                \
    OP(keys_obs)                                                                                   \
    OP(obs_block)                                                                                  \
    OP(obs_update)

/* ---- statistics ------------------------------------------------------------------------------ */

/* g[i, j] += Σ_r x[r, i]·x[r, j] for j ≤ i: a symmetric update. Sums are f32; a BF16 x enters the
 * tensor cores as it is. What lies above the diagonal may be anything, before and after. A column
 * of x that holds NaN or Inf gives NaN or Inf in its row and column of g, and nowhere else. */
typedef struct pare_gram_args {
    pare_tensor x; /* [R, K] act */
    pare_tensor g; /* [K, K] F32, added to */
} pare_gram_args;

/* For every column j over the rows: absmax[j] = max(absmax[j], |x|), sum[j] += Σ |x|,
 * squares[j] += Σ x², the latter two in f64. A column that holds NaN or Inf gets that in its sums
 * (absmax: what it is by comparison, or Inf). */
typedef struct pare_column_stats_args {
    pare_tensor x;            /* [R, K] act */
    pare_tensor absmax;       /* [K] F32 */
    pare_tensor sum, squares; /* [K] F64 */
} pare_column_stats_args;

/* bins[min(floor(|x|/width), n − 1)] += 1 for every element; NaN goes to the last bin. The quotient
 * is rounded to f32 before floor. */
typedef struct pare_histogram_args {
    pare_tensor x;    /* any shape, act */
    float width;      /* of a bin, > 0, finite */
    pare_tensor bins; /* [n] I64, n ≥ 1, added to */
} pare_histogram_args;

/* The inputs of a convolution as the rows of a matrix: with (b, i, j) a place of the output,
 * y[(b·OH + i)·OW + j, (c·kh + u)·kw + v] = x[b, i·stride − pad + u·dilation, …, c], 0 outside: so
 * that the convolution (of one group) is y·Wᵀ with W [O, C·kh·kw] as checkpoints hold it. */
typedef struct pare_patches_args {
    pare_tensor x; /* [B, H, W, C] act */
    pare_tensor y; /* [B·OH·OW, C·kh·kw] of x's dtype */
    pare_window window;
} pare_patches_args;

/* y[r, j] = x[r, j] where keep[r] is not 0, else +0. */
typedef struct pare_keep_rows_args {
    pare_tensor x, y; /* [R, N] act, alike; y may be x */
    pare_tensor keep; /* [R] U8 */
} pare_keep_rows_args;

/* y = clamp(rint(x/scale), −128, 127)·scale: inputs rounded with a fixed scale (a8s). */
typedef struct pare_quant_fixed_args {
    pare_tensor x, y; /* any shape, act, alike; y may be x */
    float scale;      /* > 0, finite */
} pare_quant_fixed_args;

/* ---- scores, selection, scaling -------------------------------------------------------------- */

/* keys[r, c] = the bits (without sign) of w[r, c]·s: s is the product of those of cols[c] and
 * full[r, c] that are there, squared together with w if `square` (|w·g| and w²·g² of the papers);
 * every product is rounded to f32; the key of a NaN is 0x7fffffff. Wanda: cols = ‖x_c‖₂. Taylor:
 * full = g. */
typedef struct pare_keys_scaled_args {
    pare_tensor w;    /* [R, C] F32 */
    pare_tensor cols; /* [C] F32, or absent */
    pare_tensor full; /* [R, C] F32, or absent */
    bool square;      /* key of (w·s)², the product rounded, then squared */
    pare_tensor keys; /* [R, C] U32; may be w */
} pare_keys_scaled_args;

/* In every row the `prune` elements of lowest (key, index) get mask 0, the others 1. */
typedef struct pare_mask_rows_args {
    pare_tensor x;    /* [R, C] U32 keys or F32 weights (sign dropped) */
    int64_t prune;    /* 0 ≤ prune ≤ C */
    pare_tensor mask; /* [R, ceil(C/8)], U8 */
} pare_mask_rows_args;

/* y += x·x, product and sum each rounded to f32. */
typedef struct pare_square_add_args {
    pare_tensor x, y; /* the same element count, F32 */
} pare_square_add_args;

/* y[r] = Σ_c a[r, c]·b[r, c], in f64. */
typedef struct pare_row_dot_args {
    pare_tensor a, b; /* [R, C] F32 */
    pare_tensor y;    /* [R] F64 */
} pare_row_dot_args;

/* y[r, c] = x[r, c]·rows[r]·cols[c] with those that are there, in this order, each product rounded
 * to f32. */
typedef struct pare_scale_args {
    pare_tensor x, y; /* [R, C] F32; y may be x */
    pare_tensor rows; /* [R] F32, or absent */
    pare_tensor cols; /* [C] F32, or absent */
} pare_scale_args;

/* y[i, j] = x[rows[i], cols[j]] (absent: i, j themselves). lower: x is symmetric, [n, n], and only
 * its lower triangle is read. An index outside x is our own bug; on a device it reads row or column
 * 0. */
typedef struct pare_permute_args {
    pare_tensor x;          /* [R, C], F32, I8 or U8 */
    pare_tensor y;          /* [R', C'] of the same dtype */
    pare_tensor rows, cols; /* [R'], [C'] I32, or absent */
    bool lower;
} pare_permute_args;

/* d[i] = a[i, i]; with `set` a[i, i] = d[i]. */
typedef struct pare_diagonal_args {
    pare_tensor a; /* [n, n] F32 */
    pare_tensor d; /* [n] F32 */
    bool set;
} pare_diagonal_args;

/* ---- the column sweep ------------------------------------------------------------------------ */

/* l = its inverse, lower triangular, in place; +0 above the diagonal, where nothing is read.
 * PARE_ERR_NUMERIC if a diagonal element is 0, NaN or Inf (which). Ready on return. */
typedef struct pare_tri_inverse_args {
    pare_tensor l; /* [n, n] F32 */
} pare_tri_inverse_args;

/* Of a panel w = columns [first, first + N) of a weight, with U upper triangular, UᵀU = (damped
 * G)⁻¹ (SparseGPT, Frantar 2023: the pruning metric w²/[H⁻¹]): keys[r, c] = bits of (w[r,
 * c]/u_cc)², quotient and product rounded to f32, u_cc = u[first + c, first + c]; where frozen is
 * 0: key 0. */
typedef struct pare_keys_obs_args {
    pare_tensor w;      /* [R, N] F32 */
    pare_tensor u;      /* [C, C] F32 */
    int64_t first;      /* first + N ≤ C */
    pare_tensor frozen; /* [R, ceil(N/8)] U8, or absent */
    pare_tensor keys;   /* [R, N] U32 */
} pare_keys_obs_args;

/* The sweep of optimal brain surgery within one panel (GPTQ: Frantar 2022, eq. 2 and 3 with the
 * Cholesky form of section 3.3; SparseGPT: Frantar 2023, algorithm 1). For c = 0 … N − 1 in order,
 * with d = u[first + c, first + c], for every row r by itself:
 *   1. where frozen is 0, w[r, c] counts as +0 (here and in 2);
 *   2. if m > 0 and c is a multiple of m (first is one too): of the columns c … c + m − 1 (fewer at
 *      the end of the panel are left alone) the m − n of lowest ((w/u)², index) get mask 0;
 *   3. q = 0 where the mask is 0 or frozen is 0; else w[r, c] rounded by the scheme (as quantize
 * has it) and decoded; without a scheme (PARE_QUANT_NONE) w[r, c] itself;
 *   4. e = (w[r, c] − q)/d; w[r, j] −= e·u[first + c, first + j] for c < j < N;
 *   5. w[r, c] = q; err[r, c] = e; loss[r] += e² (in f64).
 * Every difference, quotient and product is rounded to f32 by itself, the errors reach a weight in
 * the order of the columns; 3 is as in ops_compress.h. */
typedef struct pare_obs_block_args {
    pare_tensor w;      /* [R, N] F32, N ≤ PARE_OBS_PANEL, in place */
    pare_tensor u;      /* [C, C] F32, upper triangular: below the diagonal nothing is read */
    int64_t first;      /* first + N ≤ C */
    pare_tensor frozen; /* [R, ceil(N/8)] U8, or absent */
    pare_tensor mask;   /* [R, ceil(N/8)] U8, read, with m also written; absent: all 1 */
    int n, m;           /* n of every m columns stay; m 0: no choice here. With m: mask there */
    pare_scheme scheme; /* type NONE, or INT, E4M3, NF4 */
    int64_t block_rows, block_cols; /* of scale over the panel */
    pare_tensor scale; /* [ceil(R/block_rows), ceil(N/block_cols)] F32; absent without a scheme */
    pare_tensor zero;  /* the same, I8; absent unless asymmetric */
    pare_tensor codes; /* [R, N] I8; absent without a scheme. Of a pruned weight: the zero point,
                          or the code of 0 */
    pare_tensor err;   /* [R, N] F32 */
    pare_tensor loss;  /* [R] F64, added to */
} pare_obs_block_args;
#define PARE_OBS_PANEL 128

/* w[r, j] −= Σ_c err[r, c]·u[first + c, j] for first + N ≤ j < last: what a panel's errors move
 * behind it. */
typedef struct pare_obs_update_args {
    pare_tensor w;   /* [R, C] F32 */
    pare_tensor err; /* [R, N] F32 */
    pare_tensor u;   /* [C, C] F32 */
    int64_t first, last;
} pare_obs_update_args;

#ifdef __cplusplus
}
#endif
#endif
