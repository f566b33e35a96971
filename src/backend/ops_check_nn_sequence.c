/* ops_check_nn_sequence.c - shape, dtype and overlap rules of embedding, rotary, attention, softmax
 * and their gradients. */
#include "ops_check.h"

#include "base/check.h"

#include <math.h>

/* A matrix of x's shape and dtype. */
static pare_status like(const pare__arg *arg, const pare__arg *x)
{
    return pare__arg_matrix(arg, x->tensor->dtype, x->tensor->shape[0], x->tensor->shape[1]);
}

/* ---- softmax --------------------------------------------------------------------------------- */

pare_status pare__check_softmax(const pare_softmax_args *args)
{
    const pare__arg *x = PARE__ARG(softmax, x), *y = PARE__ARG(softmax, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(like(y, x));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    return PARE_OK;
}

pare_status pare__check_softmax_grad(const pare_softmax_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(softmax_grad, dy), *y = PARE__ARG(softmax_grad, y),
                    *dx = PARE__ARG(softmax_grad, dx);
    PARE_TRY(pare__arg_sound(y, 2, PARE__ACTS));
    PARE_TRY(like(dy, y));
    PARE_TRY(like(dx, y));
    PARE_TRY(pare__arg_apart(dx, y));
    PARE_TRY(pare__arg_apart_or_same(dx, dy));
    return PARE_OK;
}

/* ---- embedding ------------------------------------------------------------------------------- */

pare_status pare__check_embedding(const pare_embedding_args *args)
{
    const pare__arg *ids = PARE__ARG(embedding, ids), *w = PARE__ARG(embedding, w),
                    *y = PARE__ARG(embedding, y);
    PARE_TRY(pare__arg_sound(ids, 1, PARE__SET(PARE_I32)));
    PARE_TRY(pare__arg_sound(w, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(y, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(y, args->y.dtype, args->ids.shape[0], args->w.shape[1]));
    PARE_TRY(pare__arg_apart(y, w));
    PARE_TRY(pare__arg_apart(y, ids));
    return PARE_OK;
}

pare_status pare__check_embedding_grad(const pare_embedding_grad_args *args)
{
    const pare__arg *ids = PARE__ARG(embedding_grad, ids), *dy = PARE__ARG(embedding_grad, dy),
                    *dw = PARE__ARG(embedding_grad, dw);
    PARE_TRY(pare__arg_sound(ids, 1, PARE__SET(PARE_I32)));
    PARE_TRY(pare__arg_sound(dw, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_sound(dy, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(dy, args->dy.dtype, args->ids.shape[0], args->dw.shape[1]));
    PARE_TRY(pare__arg_apart(dw, dy));
    PARE_TRY(pare__arg_apart(dw, ids));
    return PARE_OK;
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* x is [R, heads·D] with D ≥ 1 and R a multiple of T. */
static pare_status check_heads(const pare__arg *x, int64_t T, int heads)
{
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    const pare_tensor *t = x->tensor;
    char text[192];
    PARE_REQUIRE(heads >= 1 && t->shape[1] >= heads && t->shape[1] % heads == 0, PARE_ERR_ARGUMENT,
                 "%s: %s is %s; its columns must be %d heads of one size", x->op, x->name,
                 pare_shape_text(t->rank, t->shape, text, sizeof text), heads);
    PARE_REQUIRE(t->shape[0] == 0 || (T >= 1 && t->shape[0] % T == 0), PARE_ERR_ARGUMENT,
                 "%s: %s is %s; its rows must be a multiple of T = %lld", x->op, x->name,
                 pare_shape_text(t->rank, t->shape, text, sizeof text), (long long)T);
    return PARE_OK;
}

pare_status pare__check_rotary(const pare_rotary_args *args)
{
    const pare__arg *x = PARE__ARG(rotary, x), *y = PARE__ARG(rotary, y),
                    *cos = PARE__ARG(rotary, cos), *sin = PARE__ARG(rotary, sin);
    PARE_TRY(check_heads(x, args->T, args->heads));
    PARE_TRY(like(y, x));
    PARE_TRY(pare__arg_sound(cos, 2, PARE__SET(PARE_F32)));
    PARE_TRY(like(sin, cos));
    int64_t D = args->x.shape[1] / args->heads;
    char text[192];
    PARE_REQUIRE(args->cos.shape[0] >= args->T && args->cos.shape[1] <= D / 2, PARE_ERR_ARGUMENT,
                 "rotary: cos is %s; it must have T = %lld rows or more, and at most %lld columns, "
                 "half a head",
                 pare_shape_text(2, args->cos.shape, text, sizeof text), (long long)args->T,
                 (long long)(D / 2));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(pare__arg_apart(y, cos));
    PARE_TRY(pare__arg_apart(y, sin));
    return PARE_OK;
}

/* What attention and its gradient have in common, besides q. */
typedef struct heads {
    const pare__arg *q, *k, *v, *keys, *lse;
    int64_t T, window;
    int heads, kv_heads;
    float scale, dropout;
} heads;

#define HEADS(op)                                                                                  \
    (&(heads){.q = PARE__ARG(op, q),                                                               \
              .k = PARE__ARG(op, k),                                                               \
              .v = PARE__ARG(op, v),                                                               \
              .keys = PARE__ARG(op, keys),                                                         \
              .lse = PARE__ARG(op, lse),                                                           \
              .T = args->T,                                                                        \
              .window = args->window,                                                              \
              .heads = args->heads,                                                                \
              .kv_heads = args->kv_heads,                                                          \
              .scale = args->scale,                                                                \
              .dropout = args->dropout})

static pare_status check_numbers(const heads *a)
{
    const char *op = a->q->op;
    PARE_REQUIRE(a->kv_heads >= 1 && a->heads % a->kv_heads == 0, PARE_ERR_ARGUMENT,
                 "%s: heads is %d and kv_heads %d; heads must be a multiple of kv_heads", op,
                 a->heads, a->kv_heads);
    PARE_REQUIRE(isfinite(a->scale), PARE_ERR_ARGUMENT, "%s: scale is %g; it must be finite", op,
                 (double)a->scale);
    PARE_REQUIRE(a->window >= 0, PARE_ERR_ARGUMENT,
                 "%s: window is %lld; it must be at least 1, or 0 for none", op,
                 (long long)a->window);
    PARE_REQUIRE(a->dropout >= 0.0f && a->dropout < 1.0f, PARE_ERR_ARGUMENT,
                 "%s: dropout is %g; it must be at least 0 and below 1", op, (double)a->dropout);
    return PARE_OK;
}

static pare_status check_attention(const heads *a)
{
    PARE_TRY(check_heads(a->q, a->T, a->heads));
    PARE_TRY(check_numbers(a));
    const pare_tensor *q = a->q->tensor;
    int64_t R = q->shape[0], B = R > 0 ? R / a->T : 0;
    PARE_TRY(pare__arg_matrix(a->k, q->dtype, R, q->shape[1] / a->heads * a->kv_heads));
    PARE_TRY(like(a->v, a->k));
    if (a->keys->tensor->data)
        PARE_TRY(pare__arg_matrix(a->keys, PARE_U8, B, a->T));
    const pare_tensor *lse = a->lse->tensor;
    if (!lse->data)
        return PARE_OK;
    PARE_TRY(pare__arg_sound(a->lse, 3, PARE__SET(PARE_F32)));
    char text[192];
    PARE_REQUIRE(lse->shape[0] == B && lse->shape[1] == a->heads && lse->shape[2] == a->T,
                 PARE_ERR_ARGUMENT, "%s: lse is %s; it must be [%lld, %d, %lld]", a->q->op,
                 pare_shape_text(lse->rank, lse->shape, text, sizeof text), (long long)B, a->heads,
                 (long long)a->T);
    return PARE_OK;
}

/* An argument that is absent has no memory to share. */
static pare_status apart_if_there(const pare__arg *out, const pare__arg *in)
{
    return out->tensor->data && in->tensor->data ? pare__arg_apart(out, in) : PARE_OK;
}

pare_status pare__check_attention(const pare_attention_args *args)
{
    const heads *a = HEADS(attention);
    const pare__arg *y = PARE__ARG(attention, y);
    PARE_TRY(check_attention(a));
    PARE_TRY(like(y, a->q));
    const pare__arg *ins[] = {a->q, a->k, a->v, a->keys};
    for (size_t i = 0; i < sizeof ins / sizeof ins[0]; i++) {
        PARE_TRY(apart_if_there(y, ins[i]));
        PARE_TRY(apart_if_there(a->lse, ins[i]));
    }
    PARE_TRY(apart_if_there(y, a->lse));
    return PARE_OK;
}

pare_status pare__check_attention_grad(const pare_attention_grad_args *args)
{
    const heads *a = HEADS(attention_grad);
    const pare__arg *dy = PARE__ARG(attention_grad, dy), *y = PARE__ARG(attention_grad, y);
    const pare__arg *dq = PARE__ARG(attention_grad, dq), *dk = PARE__ARG(attention_grad, dk),
                    *dv = PARE__ARG(attention_grad, dv);
    PARE_TRY(check_attention(a));
    PARE_REQUIRE(args->lse.data || pare_tensor_count(&args->q) == 0, PARE_ERR_ARGUMENT,
                 "attention_grad: lse is absent; it must be what attention left there");
    PARE_TRY(like(dy, a->q));
    PARE_TRY(like(y, a->q));
    PARE_TRY(like(dq, a->q));
    PARE_TRY(like(dk, a->k));
    PARE_TRY(like(dv, a->k));
    const pare__arg *outs[] = {dq, dk, dv};
    const pare__arg *ins[] = {dy, y, a->q, a->k, a->v, a->lse, a->keys};
    for (int o = 0; o < 3; o++) {
        for (size_t i = 0; i < sizeof ins / sizeof ins[0]; i++)
            PARE_TRY(apart_if_there(outs[o], ins[i]));
        PARE_TRY(apart_if_there(outs[o], outs[(o + 1) % 3]));
    }
    return PARE_OK;
}
