/* dnnl_compat.h - the one place that knows oneDNN 2 from oneDNN 3.
 *
 * A product is told as plain numbers (a recipe); these functions turn it into oneDNN's objects.
 * They differ between the versions only in how objects are made: 2 describes an operation and then
 * makes its primitive, and its memory layouts are structs; 3 makes it at once, and layouts are
 * handles. All else in oneDNN that pare needs is the same in both.
 */
#ifndef PARE_DNNL_COMPAT_H
#define PARE_DNNL_COMPAT_H

#include "pare/dtype.h"

#include <dnnl.h>
#include <dnnl_debug.h>
#include <stdbool.h>
#include <stdint.h>

/* oneDNN's "memory descriptor". */
#if DNNL_VERSION_MAJOR >= 3
typedef struct dnnl_memory_desc product_layout;
#else
typedef dnnl_memory_desc_t product_layout;
#endif

#define PRODUCT_RANK 5

/* How a tensor lies in memory. All numbers are 64 bits wide, here and in a recipe, so that two are
 * equal where their bytes are. */
typedef struct product_view {
    int64_t rank; /* 0: there is none */
    int64_t dtype;
    int64_t free; /* as oneDNN likes best; strides are 0 then */
    int64_t dims[PRODUCT_RANK], strides[PRODUCT_RANK];
} product_view;

/* The three tensors of any product and its bias. Gradients write src or weights and read dst. */
typedef enum product_role {
    PRODUCT_SRC,
    PRODUCT_WEIGHTS,
    PRODUCT_DST,
    PRODUCT_BIAS,
    PRODUCT_ROLES
} product_role;

typedef enum product_kind {
    PRODUCT_GEMM,
    PRODUCT_GEMM_GRAD_X, /* src = dst·weights and weights = dstᵀ·src, of a linear layer */
    PRODUCT_GEMM_GRAD_W,
    PRODUCT_CONV,
    PRODUCT_CONV_GRAD_X,
    PRODUCT_CONV_GRAD_W,
    PRODUCT_KINDS
} product_kind;

static inline bool product_is_linear(int64_t kind) /* a gradient of oneDNN's inner product */
{
    return kind == PRODUCT_GEMM_GRAD_X || kind == PRODUCT_GEMM_GRAD_W;
}

static inline bool product_makes_weights(int64_t kind)
{
    return kind == PRODUCT_GEMM_GRAD_W || kind == PRODUCT_CONV_GRAD_W;
}

typedef struct product_recipe {
    int64_t kind;
    product_view given[PRODUCT_ROLES]; /* as the op has them */
    product_view own;                  /* the weights as the primitive is to have them */
    int64_t sum, relu;                 /* dst + product, then max(·, 0); or weights + product */
    int64_t stride[2], dilation[2], before[2], after[2]; /* of a convolution; paddings */
} product_recipe;

dnnl_status_t pare__layout_make(const product_view *view, product_layout **layout);
void pare__layout_free(product_layout *layout); /* takes NULL */

/* Scratchpads from the caller; sum and relu behind the product. */
dnnl_status_t pare__dnnl_attributes(bool sum, bool relu, dnnl_primitive_attr_t *attr);

/* layout: src, weights, dst, bias, NULL where there is none. */
dnnl_status_t pare__dnnl_describe(const product_recipe *recipe, dnnl_engine_t engine,
                                  product_layout *const layout[PRODUCT_ROLES],
                                  dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *description);

/* Whether this CPU multiplies BF16 in oneDNN: elsewhere it is done in F32. */
bool pare__dnnl_has_bf16(void);

/* Whether its kernels may read tensors as vectors that must be aligned: those for SSE4.1 do. */
bool pare__dnnl_wants_alignment(void);

#endif
