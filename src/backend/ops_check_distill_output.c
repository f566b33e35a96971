/* ops_check_distill_output.c - rules of top_k, kl_top and cosine. */
#include "ops_check.h"

#include "base/check.h"

#include <math.h>

/* Each of the first `outs` shares no byte with those behind it; what is absent is left out. */
static pare_status check_apart(const pare__arg *const *args, int outs, int count)
{
    for (int o = 0; o < outs; o++)
        for (int i = o + 1; i < count; i++)
            if (args[o]->tensor->data && args[i]->tensor->data)
                PARE_TRY(pare__arg_apart(args[o], args[i]));
    return PARE_OK;
}
#define CHECK_APART(outs, ...)                                                                     \
    PARE_TRY(check_apart((const pare__arg *const[]){__VA_ARGS__}, outs,                            \
                         sizeof(const pare__arg *const[]){__VA_ARGS__} / sizeof(pare__arg *)))

static pare_status check_temperature(const char *op, float temperature)
{
    PARE_REQUIRE(temperature >= 0 && isfinite(temperature) &&
                     (temperature == 0 || isfinite(1.0f / temperature)),
                 PARE_ERR_ARGUMENT, "%s: temperature is %g; it must be above 0, or 0 for 1", op,
                 (double)temperature);
    return PARE_OK;
}

/* dx is absent, or like x and apart from it or x itself. */
static pare_status check_gradient(const pare__arg *dx, const pare__arg *x)
{
    const pare_tensor *t = x->tensor;
    if (!dx->tensor->data)
        return PARE_OK;
    PARE_TRY(pare__arg_matrix(dx, t->dtype, t->shape[0], t->shape[1]));
    return pare__arg_apart_or_same(dx, x);
}

/* Logits x [R, V], and index I32 and value F32 [R, K ≤ V]. */
static pare_status check_kept(const pare__arg *x, const pare__arg *index, const pare__arg *value)
{
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(index, 2, PARE__SET(PARE_I32)));
    int64_t R = x->tensor->shape[0], V = x->tensor->shape[1], K = index->tensor->shape[1];
    PARE_REQUIRE(V <= INT32_MAX, PARE_ERR_ARGUMENT, "%s: x has %lld classes; an index has 32 bits",
                 x->op, (long long)V);
    PARE_REQUIRE(K <= V, PARE_ERR_ARGUMENT, "%s: index has %lld columns, x %lld classes", x->op,
                 (long long)K, (long long)V);
    PARE_TRY(pare__arg_matrix(index, PARE_I32, R, K));
    return pare__arg_matrix(value, PARE_F32, R, K);
}

pare_status pare__check_top_k(const pare_top_k_args *args)
{
    const pare__arg *x = PARE__ARG(top_k, x), *index = PARE__ARG(top_k, index);
    const pare__arg *value = PARE__ARG(top_k, value);
    PARE_TRY(check_kept(x, index, value));
    PARE_TRY(check_temperature("top_k", args->temperature));
    CHECK_APART(2, index, value, x);
    return PARE_OK;
}

pare_status pare__check_kl_top(const pare_kl_top_args *args)
{
    const pare__arg *x = PARE__ARG(kl_top, x), *index = PARE__ARG(kl_top, index);
    const pare__arg *value = PARE__ARG(kl_top, value), *labels = PARE__ARG(kl_top, labels);
    const pare__arg *loss = PARE__ARG(kl_top, loss), *dx = PARE__ARG(kl_top, dx);
    PARE_TRY(check_kept(x, index, value));
    if (args->labels.data)
        PARE_TRY(pare__arg_vector(labels, PARE_I32, args->x.shape[0]));
    PARE_TRY(pare__arg_vector(loss, PARE_F32, args->x.shape[0]));
    PARE_TRY(check_gradient(dx, x));
    PARE_TRY(check_temperature("kl_top", args->temperature));
    CHECK_APART(2, loss, dx, index, value, labels);
    CHECK_APART(1, loss, x);
    return PARE_OK;
}

pare_status pare__check_cosine(const pare_cosine_args *args)
{
    const pare__arg *x = PARE__ARG(cosine, x), *t = PARE__ARG(cosine, t);
    const pare__arg *weight = PARE__ARG(cosine, weight), *loss = PARE__ARG(cosine, loss);
    const pare__arg *dx = PARE__ARG(cosine, dx);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(t, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(t, args->t.dtype, args->x.shape[0], args->x.shape[1]));
    if (args->weight.data)
        PARE_TRY(pare__arg_vector(weight, PARE_F32, args->x.shape[0]));
    PARE_TRY(pare__arg_vector(loss, PARE_F32, args->x.shape[0]));
    PARE_TRY(check_gradient(dx, x));
    CHECK_APART(2, loss, dx, t, weight);
    CHECK_APART(1, loss, x);
    return PARE_OK;
}
