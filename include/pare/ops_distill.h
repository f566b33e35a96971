/* ops_distill.h - what students are compared with teachers by, and what training looks through
 * quantisers with (ops.h and ops_nn.h have the rules; these repeat as those of ops_nn.h do).
 */
#ifndef PARE_OPS_DISTILL_H
#define PARE_OPS_DISTILL_H

#include "pare/ops_nn.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARE_OPS_DISTILL(OP)                                                                       \
    OP(top_k)                                                                                      \
    OP(kl_top)                                                                                     \
    OP(cosine)                                                                                     \
    OP(relation)                                                                                   \
    OP(fake_quant)                                                                                 \
    OP(fake_quant_grad)

/* ---- outputs --------------------------------------------------------------------------------- */

/* The K largest logits of each row, descending, of equals the lower index first: index, and value =
 * log softmax(x/temperature) there. A NaN counts as the least; a row with one has NaN values. */
typedef struct pare_top_k_args {
    pare_tensor x;     /* [R, V] act */
    pare_tensor index; /* [R, K] I32, K ≤ V */
    pare_tensor value; /* [R, K] F32 */
    float temperature; /* 0: 1 */
} pare_top_k_args;

/* The loss of distillation from what top_k kept: classes index[i, :] have p = exp(value), all
 * others together the rest ρ = max(0, 1 − Σ p) (nothing is known of how they share it, so they are
 * one class: of V = K classes there is no rest). With q = softmax(x/temperature) and q_ρ = Σ q of
 * the others: loss[i] = Σ_k p·(log p − log q) + ρ·(log ρ − log q_ρ), a term with p = 0 being 0;
 *   dx_v = grad_scale/temperature · (q_v − p_v) for those kept, (q_v − ρ·q_v/q_ρ) for the others.
 * It is never more than the KL divergence from the whole p. Rows where count is 0 (or −1 in
 * labels): loss and gradient 0. An index outside [0, V) is PARE_ERR_ARGUMENT with its row. */
typedef struct pare_kl_top_args {
    pare_tensor x;      /* [R, V] act */
    pare_tensor index;  /* [R, K] I32, distinct in a row */
    pare_tensor value;  /* [R, K] F32 */
    pare_tensor labels; /* [R] I32, or absent: a row with −1 does not count */
    pare_tensor loss;   /* [R] F32 */
    pare_tensor dx;     /* [R, V] act or absent; may be x */
    float grad_scale, temperature;
} pare_kl_top_args;

/* ---- hidden states --------------------------------------------------------------------------- */

/* loss[i] = weight[i]·(1 − ⟨x_i, t_i⟩/(‖x_i‖·‖t_i‖)), dx its gradient × grad_scale; a row of which
 * x or t is zero, or whose weight is 0, gives 0 and no gradient. (The squared distance: mse.) */
typedef struct pare_cosine_args {
    pare_tensor x, t;   /* [R, N] act each */
    pare_tensor weight; /* [R] F32, or absent: 1 */
    pare_tensor loss;   /* [R] F32 */
    pare_tensor dx;     /* [R, N] act or absent; may be x */
    float grad_scale;
} pare_cosine_args;

/* ---- how positions look at one another ------------------------------------------------------- */

typedef enum pare_relation_kind {
    PARE_RELATION_KL, /* Σ_j P_ij·(log P_ij − log Q_ij), P and Q the rows' softmax (MiniLM) */
    PARE_RELATION_SCORE, /* mean over the keys j that are seen of (S_ij − R_ij)² of the scores
                            before the softmax (TinyBERT) */
} pare_relation_kind;

/* In every sample b and head h the scores of position i and key j, of the teacher R_ij = scale_t ·
 * ⟨ta_i, tb_j⟩ and of the student S_ij = scale·⟨a_i, b_j⟩ over the head's features, are compared:
 * R's softmax is P, S's Q. Attention maps with a = queries and b = keys; relations (MiniLMv2) with
 * a = b = queries, keys or values. Head h reads features of head h/(heads/kv_heads) of b. loss[b] =
 * 1/(heads·n_b) · Σ_h Σ_i of row i's loss, over the n_b positions i that count: keys[b, i] ≠ 0. A
 * position sees key j if keys[b, j] ≠ 0 and, with causal, j ≤ i. weight[b] multiplies a sample's
 * loss and gradient. da and db are added to (grad_scale × gradient); they may be one and the same
 * memory where a is b, and absent (both, or that of one side). Neither T × T matrix of all heads is
 * ever in memory. */
typedef struct pare_relation_args {
    pare_tensor ta, tb; /* [B·T, heads·Dt], [B·T, t_kv_heads·Dt] act */
    pare_tensor a, b;   /* [B·T, heads·D], [B·T, kv_heads·D] act */
    pare_tensor da, db; /* like a, b */
    pare_tensor keys;   /* [B, T] U8, or absent: all count */
    pare_tensor weight; /* [B] F32, or absent: 1 */
    pare_tensor loss;   /* [B] F32 */
    int64_t T;
    int heads, kv_heads, t_kv_heads;
    float scale, scale_t; /* 0: 1/sqrt of the head's features */
    bool causal;
    pare_relation_kind kind;
    float grad_scale;
} pare_relation_args;

/* ---- quantisers that training looks through ---------------------------------------------------
 */

/* What a weight or an activation becomes once it is rounded: y = s·clamp(rint(x/s), lo, hi), one
 * step s > 0 for each block (block_rows × block_cols of the matrix x; ceil at the edges). codes, if
 * there, are the integers: y is exactly s·code. (s not positive or not finite: y = 0.) Where mask
 * is 0, y and code are 0. The same bytes on every backend. */
typedef struct pare_fake_quant_args {
    pare_tensor x;     /* [R, C] F32 or act */
    pare_tensor step;  /* [ceil(R/block_rows), ceil(C/block_cols)] F32 */
    pare_tensor mask;  /* [R, C] U8 or absent */
    pare_tensor y;     /* [R, C] of x's dtype; may be x */
    pare_tensor codes; /* [R, C] I8 or absent */
    int64_t block_rows, block_cols;
    int lo, hi; /* −8 and 7 of 4 bits */
} pare_fake_quant_args;

/* Its gradients as the straight-through estimator (Bengio 2013) and learned step sizes (LSQ, Esser
 * 2020, eq. 3) have them: dx = dy where lo ≤ x/s ≤ hi, else 0; dstep = step_scale·Σ over the block
 * of dy·(rint(x/s) − x/s inside, lo below, hi above). Where mask is 0 there is neither. */
typedef struct pare_fake_quant_grad_args {
    pare_tensor x, step, mask; /* as above */
    pare_tensor dy;            /* [R, C] of x's dtype */
    pare_tensor dx;            /* likewise; may be dy */
    pare_tensor dstep;         /* like step, or absent */
    int64_t block_rows, block_cols;
    int lo, hi;
    float step_scale;
    bool accumulate; /* dstep += */
} pare_fake_quant_grad_args;

#ifdef __cplusplus
}
#endif
#endif
