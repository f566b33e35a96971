/* ops_check_distill_relation.c - shape, dtype and overlap rules of relation. */
#include "ops_check.h"

#include "base/check.h"

#include <math.h>

static pare_status check_numbers(const pare_relation_args *args)
{
    PARE_REQUIRE(args->heads >= 1 && args->kv_heads >= 1 && args->heads % args->kv_heads == 0,
                 PARE_ERR_ARGUMENT,
                 "relation: heads is %d and kv_heads %d; heads must be a multiple of kv_heads",
                 args->heads, args->kv_heads);
    PARE_REQUIRE(args->t_kv_heads >= 1 && args->heads % args->t_kv_heads == 0, PARE_ERR_ARGUMENT,
                 "relation: heads is %d and t_kv_heads %d; heads must be a multiple of t_kv_heads",
                 args->heads, args->t_kv_heads);
    PARE_REQUIRE(isfinite(args->scale) && isfinite(args->scale_t), PARE_ERR_ARGUMENT,
                 "relation: scale is %g and scale_t %g; both must be finite", (double)args->scale,
                 (double)args->scale_t);
    PARE_REQUIRE(isfinite(args->grad_scale), PARE_ERR_ARGUMENT,
                 "relation: grad_scale is %g; it must be finite", (double)args->grad_scale);
    PARE_REQUIRE(args->kind == PARE_RELATION_KL || args->kind == PARE_RELATION_SCORE,
                 PARE_ERR_ARGUMENT, "relation: kind is %d; it must be KL or SCORE",
                 (int)args->kind);
    return PARE_OK;
}

/* x, the queries of a side, is [rows, heads·D] with D ≥ 1, y, its keys, [rows, kv_heads·D]. */
static pare_status check_side(const pare__arg *x, const pare__arg *y, int64_t rows, int heads,
                              int kv_heads)
{
    const pare_tensor *t = x->tensor;
    char text[192];
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_REQUIRE(
        t->shape[0] == rows && t->shape[1] >= heads && t->shape[1] % heads == 0, PARE_ERR_ARGUMENT,
        "relation: %s is %s; it must have %lld rows, its columns be %d heads of one size", x->name,
        pare_shape_text(t->rank, t->shape, text, sizeof text), (long long)rows, heads);
    return pare__arg_matrix(y, t->dtype, rows, t->shape[1] / heads * kv_heads);
}

static pare_status like(const pare__arg *arg, const pare__arg *x)
{
    return pare__arg_matrix(arg, x->tensor->dtype, x->tensor->shape[0], x->tensor->shape[1]);
}

/* What is written shares no memory with what is read; da and db share theirs where a is b. */
static pare_status check_overlap(const pare_relation_args *args)
{
    const pare__arg *ins[] = {PARE__ARG(relation, ta),   PARE__ARG(relation, tb),
                              PARE__ARG(relation, a),    PARE__ARG(relation, b),
                              PARE__ARG(relation, keys), PARE__ARG(relation, weight),
                              PARE__ARG(relation, loss)};
    const pare__arg *outs[] = {PARE__ARG(relation, da), PARE__ARG(relation, db), ins[6]};
    const size_t in_count = sizeof ins / sizeof ins[0];
    for (size_t o = 0; o < 3; o++)
        for (size_t i = 0; i < in_count; i++)
            if (outs[o] != ins[i] && outs[o]->tensor->data && ins[i]->tensor->data)
                PARE_TRY(pare__arg_apart(outs[o], ins[i]));
    bool one = args->da.data == args->db.data && args->a.data == args->b.data &&
               args->heads == args->kv_heads;
    if (args->da.data && args->db.data && !one)
        PARE_TRY(pare__arg_apart(outs[0], outs[1]));
    return PARE_OK;
}

pare_status pare__check_relation(const pare_relation_args *args)
{
    const pare__arg *a = PARE__ARG(relation, a), *b = PARE__ARG(relation, b);
    PARE_TRY(check_numbers(args));
    PARE_TRY(pare__arg_sound(a, 2, PARE__ACTS));
    int64_t R = args->a.shape[0], T = args->T;
    char text[192];
    PARE_REQUIRE(R == 0 || (T >= 1 && R % T == 0), PARE_ERR_ARGUMENT,
                 "relation: a is %s; its rows must be a multiple of T = %lld",
                 pare_shape_text(2, args->a.shape, text, sizeof text), (long long)T);
    int64_t B = R > 0 ? R / T : 0;
    PARE_TRY(check_side(a, b, R, args->heads, args->kv_heads));
    PARE_TRY(check_side(PARE__ARG(relation, ta), PARE__ARG(relation, tb), R, args->heads,
                        args->t_kv_heads));
    if (args->da.data)
        PARE_TRY(like(PARE__ARG(relation, da), a));
    if (args->db.data)
        PARE_TRY(like(PARE__ARG(relation, db), b));
    if (args->keys.data)
        PARE_TRY(pare__arg_matrix(PARE__ARG(relation, keys), PARE_U8, B, T));
    if (args->weight.data)
        PARE_TRY(pare__arg_vector(PARE__ARG(relation, weight), PARE_F32, B));
    PARE_TRY(pare__arg_vector(PARE__ARG(relation, loss), PARE_F32, B));
    return check_overlap(args);
}
