/* cuda_conv.h - what cuda_conv.c, its plans and its kernels share. Images are [B, H, W, C]. */
#ifndef PARE_CUDA_CONV_H
#define PARE_CUDA_CONV_H

#include "cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- plans (cuda_conv_plan.c) ---------------------------------------------------------------- */

typedef enum conv_kind { CONV_FORWARD, CONV_GRAD_X, CONV_GRAD_W } conv_kind;

/* A convolution as cuDNN has it: images and weights of one dtype, the same padding on both sides.
 * All fields are as wide, so that the bytes of two keys compare. */
typedef struct conv_key {
    int32_t kind, dtype;
    int32_t B, H, W, I, rows, cols, O; /* x is [B, H, W, I], y [B, rows, cols, O] */
    int32_t kernel[2], stride[2], dilation[2], pad[2], groups;
} conv_key;

typedef struct conv_plan conv_plan;

/* The plan of a convolution, kept for the next time; it lives until the next call. *workspace: its
 * bytes. PARE_ERR_UNSUPPORTED names a shape for which cuDNN has no algorithm. */
pare_status pare__conv_plan(pare_backend *be, const conv_key *key, conv_plan **plan,
                            size_t *workspace);

/* y = conv(x, w) (+ y if add); for CONV_GRAD_X x is written, for CONV_GRAD_W w. w is [O, kh, kw,
 * I/groups]. Addresses are multiples of 16. */
pare_status pare__conv_run(pare_backend *be, const conv_plan *plan, void *x, void *w, void *y,
                           bool add, void *workspace);

/* ---- kernels (cuda_conv_weights.cu) ---------------------------------------------------------- */

/* to [O, kh, kw, I/groups] of dtype = w [O, I/groups, kh, kw] (·scale[o] if there is one). */
pare_status pare__conv_weights(pare_backend *be, const pare_tensor *w, const float *scale,
                               pare_dtype dtype, void *to);

/* The way back: dw (+)= from, whose rows of kh·kw·I/groups are `pitch` apart. */
pare_status pare__conv_weights_back(pare_backend *be, const float *from, int64_t pitch,
                                    const pare_tensor *dw, bool accumulate);

/* to[b, i, j] = from[b, i − top, j − left], 0 outside of it; batch and channels are the same. The
 * dtypes may differ if `to` is F32. */
pare_status pare__conv_shift(pare_backend *be, const pare_tensor *from, const pare_tensor *to,
                             int64_t top, int64_t left);

/* What the window sees at each place of the output, for one group: rows of `pitch` ≥ kh·kw·C
 * elements, to [B·rows·cols, pitch], ordered by kernel row, kernel column, channel; 0 behind. */
typedef struct conv_columns {
    pare_tensor x; /* [B, H, W, C] BF16 */
    pare_window window;
    int64_t rows, cols, pitch;
    void *to;
} conv_columns;
pare_status pare__conv_columns(pare_backend *be, const conv_columns *args);

/* y = from + shift[c] + z, then negatives 0 if relu; from and z may be y; shift and z may be NULL.
 */
pare_status pare__conv_finish(pare_backend *be, const void *from, const pare_tensor *y,
                              const float *shift, const void *z, bool relu);

#ifdef __cplusplus
}
#endif
#endif
