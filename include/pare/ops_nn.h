/* ops_nn.h - what models are run and trained with (ops.h has the rules).
 *
 * Activations ("act") are F32 or BF16, all of one call alike unless it says otherwise; arithmetic
 * and sums are f32 or better, rounded once to the output's dtype. Parameters and their gradients
 * are F32 unless it says otherwise. Images are [B, H, W, C] (channels last). An argument that may
 * be absent has data NULL (its shape is then ignored). A gradient replaces what is there, or is
 * added to it if `accumulate` is set.
 *
 * Unlike the ops of ops_core.h and ops_compress.h these do not give the same bytes everywhere: on
 * the CPU they repeat bit for bit with the same thread count and instruction set
 * (docs/numerics.md).
 */
#ifndef PARE_OPS_NN_H
#define PARE_OPS_NN_H

#include "pare/tensor.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_OPS_NN(OP)                                                                            \
    OP(gemm)                                                                                       \
    OP(colsum)                                                                                     \
    OP(conv)                                                                                       \
    OP(conv_grad_x)                                                                                \
    OP(conv_grad_w)                                                                                \
    OP(batch_norm)                                                                                 \
    OP(batch_norm_grad)                                                                            \
    OP(batch_norm_fold)                                                                            \
    OP(layer_norm)                                                                                 \
    OP(layer_norm_grad)                                                                            \
    OP(rms_norm)                                                                                   \
    OP(rms_norm_grad)                                                                              \
    OP(softmax)                                                                                    \
    OP(softmax_grad)                                                                               \
    OP(act)                                                                                        \
    OP(act_grad)                                                                                   \
    OP(glu)                                                                                        \
    OP(glu_grad)                                                                                   \
    OP(fill)                                                                                       \
    OP(add)                                                                                        \
    OP(add_rows)                                                                                   \
    OP(copy_cols)                                                                                  \
    OP(transpose)                                                                                  \
    OP(dropout)                                                                                    \
    OP(embedding)                                                                                  \
    OP(embedding_grad)                                                                             \
    OP(rotary)                                                                                     \
    OP(attention)                                                                                  \
    OP(attention_grad)                                                                             \
    OP(pool_max)                                                                                   \
    OP(pool_max_grad)                                                                              \
    OP(pool_avg)                                                                                   \
    OP(pool_avg_grad)                                                                              \
    OP(pool_seq)                                                                                   \
    OP(pool_seq_grad)                                                                              \
    OP(shortcut)                                                                                   \
    OP(shortcut_grad)                                                                              \
    OP(cross_entropy)                                                                              \
    OP(mse)                                                                                        \
    OP(kl)                                                                                         \
    OP(sgd)                                                                                        \
    OP(adamw)                                                                                      \
    OP(ema)                                                                                        \
    OP(sum_squares)                                                                                \
    OP(cholesky)                                                                                   \
    OP(qgemm_w8a8)                                                                                 \
    OP(qgemm_w4a16)                                                                                \
    OP(quant_rows)

/* ---- products -------------------------------------------------------------------------------- */

/* c = op(a)·op(b) (+ bias in every row) (+ c if accumulate), op(x) being x or its transpose.
 * Each of a, b is F32 or BF16; if either is BF16 the other is rounded to BF16 first; sums are f32.
 * A product with K = 0 is 0. */
typedef struct pare_gemm_args {
    pare_tensor a;         /* [M, K], or [K, M] if trans_a */
    pare_tensor b;         /* [K, N], or [N, K] if trans_b (a linear layer's weight) */
    pare_tensor c;         /* [M, N], F32 or BF16 */
    pare_tensor bias;      /* [N] F32, or absent; may be rounded to c's dtype first */
    bool trans_a, trans_b; /* not both */
    bool accumulate;
} pare_gemm_args;

/* y[j] = Σ_i x[i, j] (+ y[j] if accumulate): a bias's gradient. */
typedef struct pare_colsum_args {
    pare_tensor x; /* [R, N] act */
    pare_tensor y; /* [N] F32 */
    bool accumulate;
} pare_colsum_args;

/* What a convolution and a pool look at. */
typedef struct pare_window {
    int kernel[2], stride[2], dilation[2];        /* height, width; each ≥ 1 */
    int pad_top, pad_left, pad_bottom, pad_right; /* ≥ 0 */
} pare_window;

/* Rows or columns of the output along axis 0 (height) or 1 (width) for n of input:
 * floor((n + pads − dilation·(kernel − 1) − 1) / stride) + 1; below 1 if the window does not fit.
 */
int64_t pare_window_out(const pare_window *window, int axis, int64_t n);

/* Cross-correlation: y[b, i, j, o] = Σ w[o, c, u, v] · x[b, i·stride − pad + u·dilation, …, c of
 * o's group]. With shift (inference: a batch norm folded in) y = conv·scale[o] + shift[o]; then z
 * is added, then negatives become 0 if relu. w (times scale) is rounded to x's dtype first; conv
 * may be, before the rest is added. There is at least one channel, and the window fits; B may be 0.
 */
typedef struct pare_conv_args {
    pare_tensor x;            /* [B, H, W, I] act */
    pare_tensor w;            /* [O, I/groups, kh, kw] F32 or BF16 */
    pare_tensor y;            /* [B, H', W', O] act */
    pare_tensor scale, shift; /* [O] F32, each may be absent; a bias is a shift */
    pare_tensor z;            /* like y, or absent; may be y itself (and is fastest so) */
    bool relu;
    pare_window window;
    int groups; /* 0: 1 */
} pare_conv_args;

typedef struct pare_conv_grad_x_args {
    pare_tensor dy; /* [B, H', W', O] act */
    pare_tensor w;  /* [O, I/groups, kh, kw] F32 or BF16 */
    pare_tensor dx; /* [B, H, W, I] act */
    pare_window window;
    int groups;
} pare_conv_grad_x_args;

typedef struct pare_conv_grad_w_args {
    pare_tensor x;  /* [B, H, W, I] act */
    pare_tensor dy; /* [B, H', W', O] act */
    pare_tensor dw; /* [O, I/groups, kh, kw] F32 */
    pare_window window;
    int groups;
    bool accumulate;
} pare_conv_grad_w_args;

/* ---- norms ----------------------------------------------------------------------------------- */

/* Batch norm over all but the last axis (Ioffe & Szegedy 2015, Algorithm 1), then z added, then
 * negatives 0 if relu. training: mean and 1/sqrt(var + eps) of this batch (biased variance) go to
 * saved_mean, saved_scale, and the running statistics move: r ← (1 − momentum)·r + momentum·new,
 * with the unbiased variance (of one row: the biased). Otherwise the running statistics are used,
 * stay, and go to saved_mean, saved_scale in the same form if these are there. Of no rows nothing
 * is saved and nothing moves. */
typedef struct pare_batch_norm_args {
    pare_tensor x;                         /* [R, C] act (any leading axes flattened) */
    pare_tensor gamma, beta;               /* [C] F32 */
    pare_tensor running_mean, running_var; /* [C] F32, in place */
    pare_tensor z;                         /* like x, or absent */
    pare_tensor y;                         /* like x; may be x itself unless training */
    pare_tensor saved_mean, saved_scale;   /* [C] F32; each may be absent unless training */
    float eps, momentum;
    bool training, relu;
} pare_batch_norm_args;

/* Of the training form; or, frozen, of the other one, whose statistics are constants: dx =
 * gamma·scale·dy. With relu, dy counts only where y > 0. dz (if there) is that dy. */
typedef struct pare_batch_norm_grad_args {
    pare_tensor dy, x, y;                /* [R, C] act; y only with relu */
    pare_tensor gamma;                   /* [C] */
    pare_tensor saved_mean, saved_scale; /* [C] */
    pare_tensor dx;                      /* [R, C] act; may be dy itself unless dz is */
    pare_tensor dz;                      /* [R, C] act or absent; may be dy itself unless dx is */
    pare_tensor dgamma, dbeta;           /* [C] F32 */
    bool frozen, relu, accumulate;       /* accumulate: dgamma, dbeta */
} pare_batch_norm_grad_args;

/* An inference batch norm as scale and shift of the convolution before it, whose bias may be
 * absent: scale = gamma/sqrt(running_var + eps), shift = beta + (bias − running_mean)·scale, every
 * step rounded to f32. */
typedef struct pare_batch_norm_fold_args {
    pare_tensor gamma, beta, running_mean, running_var; /* [C] F32 */
    pare_tensor bias;                                   /* [C] F32 or absent: 0 */
    pare_tensor scale, shift;                           /* [C] F32 */
    float eps;
} pare_batch_norm_fold_args;

/* y = (x − mean)/sqrt(var + eps)·gamma + beta by row (Ba 2016). saved_mean, saved_scale ([R] F32:
 * mean, 1/sqrt(var + eps)) may be absent where no gradient is wanted. */
typedef struct pare_layer_norm_args {
    pare_tensor x;           /* [R, N] act */
    pare_tensor gamma, beta; /* [N]; beta may be absent */
    pare_tensor y;           /* [R, N] act; may be x */
    pare_tensor saved_mean, saved_scale;
    float eps;
} pare_layer_norm_args;

typedef struct pare_layer_norm_grad_args {
    pare_tensor dy, x; /* [R, N] act */
    pare_tensor gamma, saved_mean, saved_scale;
    pare_tensor dx;            /* [R, N] act; may be dy unless accumulate_x */
    pare_tensor dgamma, dbeta; /* [N] F32; each may be absent */
    bool accumulate_x, accumulate;
} pare_layer_norm_grad_args;

/* y = x/sqrt(mean(x²) + eps)·gamma by row (Zhang & Sennrich 2019). saved_scale as above. */
typedef struct pare_rms_norm_args {
    pare_tensor x;           /* [R, N] act */
    pare_tensor gamma;       /* [N] */
    pare_tensor y;           /* [R, N] act; may be x */
    pare_tensor saved_scale; /* [R] F32 or absent */
    float eps;
} pare_rms_norm_args;

typedef struct pare_rms_norm_grad_args {
    pare_tensor dy, x; /* [R, N] act */
    pare_tensor gamma, saved_scale;
    pare_tensor dx;     /* [R, N] act; may be dy unless accumulate_x */
    pare_tensor dgamma; /* [N] F32 or absent */
    bool accumulate_x, accumulate;
} pare_rms_norm_grad_args;

/* y = exp(x − max)/Σ by row. */
typedef struct pare_softmax_args {
    pare_tensor x, y; /* [R, N] act; y may be x */
} pare_softmax_args;

/* dx = y·(dy − Σ_j dy_j·y_j) by row. */
typedef struct pare_softmax_grad_args {
    pare_tensor dy, y, dx; /* [R, N] act; dx may be dy */
} pare_softmax_grad_args;

/* ---- activations, element by element ----------------------------------------------------------
 */

typedef enum pare_fn {
    PARE_FN_IDENTITY,   /* x */
    PARE_FN_RELU,       /* max(x, 0) */
    PARE_FN_GELU,       /* x·Φ(x), by erf (Hendrycks & Gimpel 2016) */
    PARE_FN_GELU_TANH,  /* its tanh form */
    PARE_FN_GELU_QUICK, /* x·σ(1.702 x) */
    PARE_FN_SILU,       /* x·σ(x) */
    PARE_FN_TANH,
    PARE_FN_SIGMOID,
    PARE_FNS
} pare_fn;

/* y = f(x) */
typedef struct pare_act_args {
    pare_tensor x, y; /* any shape, act; y may be x */
    pare_fn fn;
} pare_act_args;

/* dx = dy·f'(x) */
typedef struct pare_act_grad_args {
    pare_tensor dy, x, dx; /* dx may be dy */
    pare_fn fn;
} pare_act_grad_args;

/* y = f(a)·b (Shazeer 2020) */
typedef struct pare_glu_args {
    pare_tensor a, b, y; /* any shape, act; y may be a or b */
    pare_fn fn;
} pare_glu_args;

typedef struct pare_glu_grad_args {
    pare_tensor dy, a, b;
    pare_tensor da, db; /* da may be a, db may be b or dy */
    pare_fn fn;
} pare_glu_grad_args;

/* Every element of y = value. */
typedef struct pare_fill_args {
    pare_tensor y; /* any shape, act */
    float value;
} pare_fill_args;

/* y = a + b, then negatives 0 if relu. y may be a or b. Their dtypes may differ. */
typedef struct pare_add_args {
    pare_tensor a, b, y; /* the same element count, act each */
    bool relu;
} pare_add_args;

/* y[i, j] = x[i, j] + v[j] */
typedef struct pare_add_rows_args {
    pare_tensor x, y; /* [R, N] act; y may be x */
    pare_tensor v;    /* [N] F32 or BF16 */
} pare_add_rows_args;

/* y[i, y_first + j] = x[i, x_first + j] for j < cols (+ y if accumulate): concatenation, slices,
 * split. If x has one row it goes to all rows of y. The rest of y is left as it is. x and y may
 * differ in dtype. */
typedef struct pare_copy_cols_args {
    pare_tensor x; /* [R or 1, Nx] act */
    pare_tensor y; /* [R, Ny] act */
    int64_t x_first, y_first, cols;
    bool accumulate;
} pare_copy_cols_args;

/* y[b, j, i] = x[b, i, j] (+ y if accumulate). */
typedef struct pare_transpose_args {
    pare_tensor x; /* [B, M, N] act */
    pare_tensor y; /* [B, N, M] of the same dtype */
    bool accumulate;
} pare_transpose_args;

/* y = x·keep/(1 − p) (Srivastava 2014); keep of element i: with f the hash of keys_random
 * (ops_compress.h) over seed, stream and first = 0, keep where f(z) >> 40 ≥ round(p·2^24). So a
 * gradient is the same op on dy. p in [0, 1). */
typedef struct pare_dropout_args {
    pare_tensor x, y; /* any shape, act; y may be x */
    float p;
    uint64_t seed, stream;
} pare_dropout_args;

/* ---- sequences ------------------------------------------------------------------------------- */

/* y[i] = w[ids[i]]. An id outside [0, V) is PARE_ERR_ARGUMENT with its place. */
typedef struct pare_embedding_args {
    pare_tensor ids; /* [R] I32 */
    pare_tensor w;   /* [V, N] F32 or BF16 */
    pare_tensor y;   /* [R, N] act */
} pare_embedding_args;

/* dw[ids[i]] += dy[i], in ascending i. Adds always: dw is cleared by the caller. */
typedef struct pare_embedding_grad_args {
    pare_tensor ids; /* [R] I32, sound */
    pare_tensor dy;  /* [R, N] act */
    pare_tensor dw;  /* [V, N] F32 */
} pare_embedding_grad_args;

/* Rotary position embedding (Su 2021) as the Llama family lays it out: in every head the pair (i, i
 * + D'/2), i < D'/2, turns by the angle of its position; D' = 2·columns of cos; the head's other D
 * − D' elements stay. Position of row r is r mod T. inverse: by the negative angle (the gradient).
 * In place if y is x. */
typedef struct pare_rotary_args {
    pare_tensor x, y;     /* [R, H·D] act, R a multiple of T */
    pare_tensor cos, sin; /* [≥ T, D'/2] F32 */
    int64_t T;
    int heads;
    bool inverse;
} pare_rotary_args;

/* softmax(scale·q·kᵀ + mask)·v by head, without the T × T matrix in memory (Dao 2022). Head h of q
 * uses head h / (heads/kv_heads) of k and v. Query i sees key j if: j ≤ i with causal; i − window <
 * j (and without causal j < i + window) with window > 0; keys[b, j] ≠ 0 with a mask. A query that
 * sees no key gives 0. dropout > 0: probabilities drop out as in pare_dropout, element ((b·heads +
 * h)·T + i)·T + j. lse: log Σ exp of each row, for the gradient (−Inf where no key is seen). */
typedef struct pare_attention_args {
    pare_tensor q;    /* [B·T, heads·D] act */
    pare_tensor k, v; /* [B·T, kv_heads·D] act */
    pare_tensor keys; /* [B, T] U8, or absent: all are seen */
    pare_tensor y;    /* [B·T, heads·D] act */
    pare_tensor lse;  /* [B, heads, T] F32; may be absent where no gradient is wanted */
    int64_t T;
    int heads, kv_heads;
    float scale; /* 0: 1/sqrt(D) */
    bool causal;
    int64_t window; /* 0: none */
    float dropout;
    uint64_t seed, stream;
} pare_attention_args;

typedef struct pare_attention_grad_args {
    pare_tensor dy, q, k, v, y, lse, keys; /* as above */
    pare_tensor dq, dk, dv;                /* like q, k, v */
    int64_t T;
    int heads, kv_heads;
    float scale;
    bool causal;
    int64_t window;
    float dropout;
    uint64_t seed, stream;
} pare_attention_grad_args;

/* ---- pools ----------------------------------------------------------------------------------- */

/* The largest of each window (padding never wins; NaN does); at: its place u·kw + v in the window,
 * the first of equals. A window of padding alone gives −Inf and place 0. */
typedef struct pare_pool_max_args {
    pare_tensor x;  /* [B, H, W, C] act */
    pare_tensor y;  /* [B, H', W', C] act */
    pare_tensor at; /* like y, I32; may be absent */
    pare_window window;
} pare_pool_max_args;

/* A place in the padding hands its gradient to nobody. */
typedef struct pare_pool_max_grad_args {
    pare_tensor dy, at; /* [B, H', W', C] */
    pare_tensor dx;     /* [B, H, W, C] act */
    pare_window window;
} pare_pool_max_grad_args;

/* Mean of each window; padding counts as 0 if count_pad, else it is left out of the count (0 where
 * nothing is left). dilation must be 1. */
typedef struct pare_pool_avg_args {
    pare_tensor x, y;
    pare_window window;
    bool count_pad;
} pare_pool_avg_args;

typedef struct pare_pool_avg_grad_args {
    pare_tensor dy, dx;
    pare_window window;
    bool count_pad;
} pare_pool_avg_grad_args;

/* y[b] = mean over t of x[b, t], over the t with keys[b, t] ≠ 0 if there is a mask (0 if none). */
typedef struct pare_pool_seq_args {
    pare_tensor x;    /* [B, T, N] act */
    pare_tensor keys; /* [B, T] U8 or absent */
    pare_tensor y;    /* [B, N] act */
} pare_pool_seq_args;

typedef struct pare_pool_seq_grad_args {
    pare_tensor dy;   /* [B, N] act */
    pare_tensor keys; /* or absent */
    pare_tensor dx;   /* [B, T, N] act */
} pare_pool_seq_grad_args;

/* Option A of He 2015: y[b, i, j, before + c] = x[b, i·stride, j·stride, c]; other channels 0. */
typedef struct pare_shortcut_args {
    pare_tensor x; /* [B, H, W, I] act */
    pare_tensor y; /* [B, ceil(H/stride), ceil(W/stride), O ≥ I + before] act */
    int stride;
    int64_t before;
} pare_shortcut_args;

typedef struct pare_shortcut_grad_args {
    pare_tensor dy, dx;
    int stride;
    int64_t before;
} pare_shortcut_grad_args;

/* ---- losses ---------------------------------------------------------------------------------- */

/* Cross-entropy with softmax, loss and gradient in one pass over each row. Row i has target class
 * labels[i] (−1: the row does not count, loss and gradient 0), with smoothing s the target is (1 −
 * s) on it and s/V on all; with mixing it is mix[i] of that and (1 − mix[i]) of labels2[i]'s (where
 * labels2[i] is −1: labels[i]'s alone).
 *   loss[i] = −Σ_v target·log softmax(x)_v, rank[i] = how many classes beat labels[i] (a greater
 * logit, or an equal one at a lower index); rank of a row that does not count is V.
 *   dx = grad_scale·(softmax(x) − target). A label outside [−1, V) is PARE_ERR_ARGUMENT with its
 * row. A NaN among the logits gives a NaN loss. */
typedef struct pare_cross_entropy_args {
    pare_tensor x;       /* [R, V] act */
    pare_tensor labels;  /* [R] I32 */
    pare_tensor labels2; /* [R] I32 or absent */
    pare_tensor mix;     /* [R] F32, with labels2 */
    pare_tensor loss;    /* [R] F32 */
    pare_tensor rank;    /* [R] I32 or absent */
    pare_tensor dx;      /* [R, V] act or absent; may be x */
    float smoothing, grad_scale;
} pare_cross_entropy_args;

/* loss[i] = weight[i]·Σ_j (x[i, j] − t[i, j])²; dx = grad_scale·weight[i]·2·(x − t), of x's dtype.
 * A row of weight 0 gives 0 and no gradient, whatever it holds. */
typedef struct pare_mse_args {
    pare_tensor x, t;   /* [R, N] act each */
    pare_tensor weight; /* [R] F32, or absent: 1 */
    pare_tensor loss;   /* [R] F32 */
    pare_tensor dx;     /* [R, N] act or absent; may be x */
    float grad_scale;
} pare_mse_args;

typedef enum pare_divergence {
    PARE_DIVERGENCE_FORWARD, /* KL(p ‖ q) (Hinton 2015) */
    PARE_DIVERGENCE_REVERSE, /* KL(q ‖ p) (Gu 2023) */
    PARE_DIVERGENCE_JS,      /* (KL(p ‖ m) + KL(q ‖ m))/2, m = (p + q)/2 */
} pare_divergence;

/* kl[i] = the divergence of p = softmax(teacher/temperature) and q = softmax(x/temperature): Σ_v
 * p·(log p − log q) for the first kind; dx = grad_scale × its gradient by x, of x's dtype: for the
 * first grad_scale/temperature·(q − p), in general q_v·(f_v − Σ_u q_u·f_u)·grad_scale/temperature
 * with f = log q − log p, or f = (log q − log m)/2; same[i] = 1 where both have their largest logit
 * (the first of equals) in the same place. A row whose label is −1 does not count: kl, same and
 * gradient are 0. One pass over a row's logits for its sums (of JS another, for the divergence),
 * one for the gradient; no probabilities are kept. A class that q has and p has not (its logit
 * −Inf) makes the reverse divergence infinite. */
typedef struct pare_kl_args {
    pare_tensor teacher, x; /* [R, V] act each */
    pare_tensor labels;     /* [R] I32, or absent: all count */
    pare_tensor kl;         /* [R] F32 */
    pare_tensor same;       /* [R] U8 or absent */
    pare_tensor dx;         /* [R, V] act or absent; may be x */
    float grad_scale;
    float temperature; /* 0: 1 */
    pare_divergence divergence;
} pare_kl_args;

/* ---- optimisers ------------------------------------------------------------------------------ */

/* SGD (Sutskever 2013 as PyTorch has it): g' = grad_scale·g + decay·w; m ← momentum·m + g' (m is 0
 * before the first step); w ← w − rate·(nesterov ? g' + momentum·m : m). momentum 0: m absent.
 * Where mask is 0, w and m become exactly +0. */
typedef struct pare_sgd_args {
    pare_tensor w, g, m; /* [n] F32; w and m in place */
    pare_tensor mask;    /* [n] U8 or absent */
    float rate, momentum, decay, grad_scale;
    bool nesterov;
} pare_sgd_args;

/* AdamW (Loshchilov & Hutter 2019): g' = grad_scale·g; m ← β1·m + (1 − β1)·g'; v ← β2·v + (1 −
 * β2)·g'²; w ← w − rate·decay·w − rate·(m/(1 − β1^step))/(sqrt(v/(1 − β2^step)) + eps). Where mask
 * is 0, w, m, v become exactly +0. */
typedef struct pare_adamw_args {
    pare_tensor w, g, m, v; /* [n] F32; w, m, v in place */
    pare_tensor mask;       /* [n] U8 or absent */
    float rate, beta1, beta2, eps, decay, grad_scale;
    int64_t step; /* from 1 */
} pare_adamw_args;

/* e ← decay·e + (1 − decay)·w */
typedef struct pare_ema_args {
    pare_tensor e, w; /* [n] F32; e in place */
    float decay;
} pare_ema_args;

/* sum = Σ x[i]² over the i with mask[i] ≠ 0 (+ sum if accumulate), in f64: a gradient's norm over
 * many parameters is one number to fetch. */
typedef struct pare_sum_squares_args {
    pare_tensor x;    /* [n] F32 */
    pare_tensor mask; /* [n] U8 or absent */
    pare_tensor sum;  /* [1] F64 */
    bool accumulate;
} pare_sum_squares_args;

/* ---- activations of quantised products ---------------------------------------------------------
 */

/* y = x rounded to int8 by row and back: s = max|x|/127.5, y = clamp(rint(x/s), −128, 127)·s; a row
 * whose s is 0 stays. */
typedef struct pare_quant_rows_args {
    pare_tensor x, y; /* [R, N] act; y may be x */
} pare_quant_rows_args;

/* ---- factorisations -------------------------------------------------------------------------- */

/* L with L·Lᵀ = a (Cholesky), lower triangular, in the place of a, +0 above the diagonal; of a only
 * the lower triangle is read. Where a is not positive definite, or holds NaN or Inf there, this is
 * PARE_ERR_NUMERIC with the order of the first leading minor that fails, and a is lost. Ready on
 * return. */
typedef struct pare_cholesky_args {
    pare_tensor a; /* [n, n] F32, in place */
} pare_cholesky_args;

/* ---- products of quantised weights ----------------------------------------------------------- */

/* c[m, n] = sx[m]·scale[n]·Σ_k qx[m, k]·w[n, k] (+ bias[n]): qx and sx are the int8 codes and the
 * scale of each row of x as quant_rows has them; the sums of codes are exact. A row whose sx is 0
 * counts as zeros, one that holds NaN or Inf gives NaN. */
typedef struct pare_qgemm_w8a8_args {
    pare_tensor x;     /* [M, K] act, K ≤ 131071 */
    pare_tensor w;     /* [N, K] I8 */
    pare_tensor scale; /* [N] F32 */
    pare_tensor bias;  /* [N] F32, or absent */
    pare_tensor c;     /* [M, N], x's dtype */
} pare_qgemm_w8a8_args;

/* c = x·wᵀ (+ bias in every row), w[n, k] = (q[n, k] − zero)·scale with those of [n, k / group], in
 * f32, then rounded to x's dtype. */
typedef struct pare_qgemm_w4a16_args {
    pare_tensor x;     /* [M, K] act */
    pare_tensor words; /* [N, packed bytes], U8: PARE_PACK_STREAM of 4 bits */
    pare_tensor scale; /* [N, ceil(K/group)] F32 */
    pare_tensor zero;  /* the same shape, I8, or absent: 0 */
    pare_tensor bias;  /* [N] F32, or absent */
    pare_tensor c;     /* [M, N], x's dtype */
    int64_t group;     /* columns that share a scale: a multiple of 8 */
} pare_qgemm_w4a16_args;

#ifdef __cplusplus
}
#endif

#endif
