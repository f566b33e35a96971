/* cuda_gemm.h - products inside other ops: their scratch is a part of the op's own. */
#ifndef PARE_CUDA_GEMM_H
#define PARE_CUDA_GEMM_H

#include "cuda_impl.h"

#include <stdbool.h>

/* Bytes of scratch of a gemm; and the gemm with a room of as many, aligned to 256. Of the addresses
 * the first one looks at the alignment only: NULL stands for a multiple of 256. */
pare_status pare__cuda_product_room(pare_backend *be, const pare_gemm_args *args, size_t *bytes);
pare_status pare__cuda_product(pare_backend *be, const pare_gemm_args *args, void *room);

/* c [M, N] = alpha·op(a)·op(b), or c += that: row-major matrices inside larger ones, ld elements
 * from row to row. Uses the backend's scratch. Without terms nothing is done. */
typedef struct pare__cuda_sub {
    pare_dtype dtype; /* of a and b: F32 or BF16; c is F32 */
    int64_t M, N, K;
    const void *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
    bool trans_a, trans_b, accumulate;
    float alpha;
    int64_t count;   /* above 1: of a batch, with */
    int64_t next[3]; /* elements from one a, b, c to the next */
} pare__cuda_sub;
pare_status pare__cuda_gemm_sub(pare_backend *be, const pare__cuda_sub *args);

#endif
