/* cpu_dnnl.h - the ops that oneDNN computes. It chooses its instruction set by itself, so they are
 * compiled once; the slots of every instruction set of ours call them. */
#ifndef PARE_CPU_DNNL_H
#define PARE_CPU_DNNL_H

#include "backend_impl.h"

#include <stdbool.h>

pare_status pare__dnnl_gemm(pare_backend *be, const pare_gemm_args *args);
pare_status pare__dnnl_conv(pare_backend *be, const pare_conv_args *args);
pare_status pare__dnnl_conv_grad_x(pare_backend *be, const pare_conv_grad_x_args *args);
pare_status pare__dnnl_conv_grad_w(pare_backend *be, const pare_conv_grad_w_args *args);
pare_status pare__dnnl_gram(pare_backend *be, const pare_gram_args *args);

/* A matrix that may lie inside a larger one: its element (i, j) is data[i·row + j·col], and one of
 * the two steps is 1. */
typedef struct pare__sub_matrix {
    void *data;
    int64_t row, col;
} pare__sub_matrix;

/* c [M, N] = a·b, or c += ± a·b, over K terms: the kernels' own product, which checks nothing. c is
 * F32 and apart from a and b. */
typedef struct pare__gemm_sub {
    pare_dtype dtype; /* of a and b: F32, or BF16 where oneDNN multiplies it */
    int64_t M, N, K;  /* without terms nothing is done */
    pare__sub_matrix a, b, c;
    bool add;
    bool negative;   /* F32 only: a copy of a with the other sign is made in scratch */
    int64_t count;   /* above 1: of a batch, with */
    int64_t next[3]; /* elements from one a, b, c to the next; not negative */
} pare__gemm_sub;

/* Uses the backend's scratch: none of it may be in use. */
pare_status pare__dnnl_gemm_sub(pare_backend *be, const pare__gemm_sub *args);

/* How many products a backend has prepared. */
int64_t pare__product_plans(const pare_backend *be);

#endif
