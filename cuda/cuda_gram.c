/* cuda_gram.c - the lower triangle of x·xᵀ by cuBLASLt.
 *
 * Squares on the diagonal, then those left of the diagonal between two neighbours of the same size,
 * of every double of that size: each size is one batch of products, so that even the small ones
 * fill the device, and little is computed above the diagonal: 56 % of the full product for 4096
 * columns, 52 % for 14336. BF16 goes through the tensor cores with sums in f32, F32 is multiplied
 * in full F32. Batches run one after the other, sums have one order: results repeat bit for bit.
 *
 * Bound by the tensor cores (BF16) or the f32 units (F32). Predicted, not measured: an H200 has 132
 * multiprocessors with a tile of 128 × 128 each, so [R, 4096] takes 5 rounds of tiles instead of
 * the full product's 8; of 14336 columns 52 instead of 95.
 */
#include "cuda_gemm.h"

#define LARGE 4096 /* columns from which squares on the diagonal are */
#define LEAF 512   /* as large; for fewer columns half of that */

typedef struct blocks {
    int64_t count, M, N;
} blocks;

/* g += xᵀ·x in `count` blocks: the first begins at (row, col), each next one `step` further down
 * the diagonal. */
static pare_status add_blocks(pare_backend *be, const pare_gram_args *args, blocks size,
                              int64_t row, int64_t col, int64_t step)
{
    int64_t K = args->x.shape[1], bytes = args->x.dtype == PARE_F32 ? 4 : 2;
    const uint8_t *x = args->x.data;
    if (size.count == 0 || size.M <= 0)
        return PARE_OK;
    return pare__cuda_gemm_sub(be, &(pare__cuda_sub){.dtype = args->x.dtype,
                                                     .M = size.M,
                                                     .N = size.N,
                                                     .K = args->x.shape[0],
                                                     .a = x + row * bytes,
                                                     .b = x + col * bytes,
                                                     .c = (float *)args->g.data + row * K + col,
                                                     .lda = K,
                                                     .ldb = K,
                                                     .ldc = K,
                                                     .trans_a = true,
                                                     .accumulate = true,
                                                     .alpha = 1,
                                                     .count = size.count,
                                                     .next = {step, step, step * K + step}});
}

pare_status pare_cuda_gram(pare_backend *be, const pare_gram_args *args)
{
    int64_t K = args->x.shape[1], leaf = K < LARGE ? LEAF / 2 : LEAF;
    int64_t whole = K / leaf, rest = K % leaf;
    if (args->x.shape[0] == 0)
        return PARE_OK;
    PARE_TRY(add_blocks(be, args, (blocks){whole, leaf, leaf}, 0, 0, leaf));
    PARE_TRY(add_blocks(be, args, (blocks){1, rest, rest}, K - rest, K - rest, leaf));
    for (int64_t size = leaf; size < K; size *= 2) {
        int64_t pairs = K / (2 * size), col = pairs * 2 * size, row = col + size;
        PARE_TRY(add_blocks(be, args, (blocks){pairs, size, size}, size, 0, 2 * size));
        PARE_TRY(add_blocks(be, args, (blocks){1, K - row, size}, row, col, 2 * size));
    }
    return PARE_OK;
}
