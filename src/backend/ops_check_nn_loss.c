/* ops_check_nn_loss.c - rules of the losses, the optimisers, sum_squares and quant_rows. */
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

/* ---- losses ---------------------------------------------------------------------------------- */

/* dx is absent, or like x and apart from it or x itself. */
static pare_status check_gradient(const pare__arg *dx, const pare__arg *x)
{
    const pare_tensor *t = x->tensor;
    if (!dx->tensor->data)
        return PARE_OK;
    PARE_TRY(pare__arg_matrix(dx, t->dtype, t->shape[0], t->shape[1]));
    PARE_TRY(pare__arg_apart_or_same(dx, x));
    return PARE_OK;
}

pare_status pare__check_cross_entropy(const pare_cross_entropy_args *args)
{
    const pare__arg *x = PARE__ARG(cross_entropy, x), *loss = PARE__ARG(cross_entropy, loss);
    const pare__arg *rank = PARE__ARG(cross_entropy, rank), *dx = PARE__ARG(cross_entropy, dx);
    const pare__arg *labels = PARE__ARG(cross_entropy, labels);
    const pare__arg *labels2 = PARE__ARG(cross_entropy, labels2);
    const pare__arg *mix = PARE__ARG(cross_entropy, mix);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    int64_t R = args->x.shape[0], V = args->x.shape[1];
    PARE_REQUIRE(V <= INT32_MAX, PARE_ERR_ARGUMENT,
                 "cross_entropy: x has %lld classes; labels and ranks are 32-bit", (long long)V);
    PARE_TRY(pare__arg_vector(labels, PARE_I32, R));
    PARE_TRY(pare__arg_vector(loss, PARE_F32, R));
    if (args->rank.data)
        PARE_TRY(pare__arg_vector(rank, PARE_I32, R));
    if (args->labels2.data) {
        PARE_TRY(pare__arg_vector(labels2, PARE_I32, R));
        PARE_TRY(pare__arg_vector(mix, PARE_F32, R));
    }
    PARE_TRY(check_gradient(dx, x));
    PARE_REQUIRE(args->smoothing >= 0 && args->smoothing <= 1, PARE_ERR_ARGUMENT,
                 "cross_entropy: smoothing is %g; it must be from 0 to 1", (double)args->smoothing);
    CHECK_APART(3, loss, rank, dx, labels, labels2, mix);
    CHECK_APART(1, loss, x);
    CHECK_APART(1, rank, x);
    return PARE_OK;
}

pare_status pare__check_mse(const pare_mse_args *args)
{
    const pare__arg *x = PARE__ARG(mse, x), *t = PARE__ARG(mse, t), *dx = PARE__ARG(mse, dx);
    const pare__arg *loss = PARE__ARG(mse, loss), *weight = PARE__ARG(mse, weight);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(t, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(t, args->t.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_vector(loss, PARE_F32, args->x.shape[0]));
    if (args->weight.data)
        PARE_TRY(pare__arg_vector(weight, PARE_F32, args->x.shape[0]));
    PARE_TRY(check_gradient(dx, x));
    CHECK_APART(2, loss, dx, t, weight);
    CHECK_APART(1, loss, x);
    return PARE_OK;
}

pare_status pare__check_kl(const pare_kl_args *args)
{
    const pare__arg *teacher = PARE__ARG(kl, teacher), *x = PARE__ARG(kl, x);
    const pare__arg *kl = PARE__ARG(kl, kl), *same = PARE__ARG(kl, same);
    const pare__arg *dx = PARE__ARG(kl, dx), *labels = PARE__ARG(kl, labels);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(teacher, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(teacher, args->teacher.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_vector(kl, PARE_F32, args->x.shape[0]));
    if (args->same.data)
        PARE_TRY(pare__arg_vector(same, PARE_U8, args->x.shape[0]));
    if (args->labels.data)
        PARE_TRY(pare__arg_vector(labels, PARE_I32, args->x.shape[0]));
    PARE_TRY(check_gradient(dx, x));
    PARE_REQUIRE(args->temperature >= 0 && isfinite(args->temperature) &&
                     (args->temperature == 0 || isfinite(1.0f / args->temperature)),
                 PARE_ERR_ARGUMENT, "kl: temperature is %g; it must be above 0, or 0 for 1",
                 (double)args->temperature);
    PARE_REQUIRE((unsigned)args->divergence <= PARE_DIVERGENCE_JS, PARE_ERR_ARGUMENT,
                 "kl: divergence is %d; it must be one of the three of pare_divergence",
                 (int)args->divergence);
    CHECK_APART(3, kl, same, dx, teacher, labels);
    CHECK_APART(2, kl, same, x);
    return PARE_OK;
}

/* ---- optimisers ------------------------------------------------------------------------------ */

pare_status pare__check_sgd(const pare_sgd_args *args)
{
    const pare__arg *w = PARE__ARG(sgd, w), *g = PARE__ARG(sgd, g), *m = PARE__ARG(sgd, m);
    const pare__arg *mask = PARE__ARG(sgd, mask);
    PARE_TRY(pare__arg_sound(w, 1, PARE__SET(PARE_F32)));
    int64_t n = args->w.shape[0];
    PARE_TRY(pare__arg_vector(g, PARE_F32, n));
    if (args->momentum != 0)
        PARE_TRY(pare__arg_vector(m, PARE_F32, n));
    else
        PARE_REQUIRE(!args->m.data, PARE_ERR_ARGUMENT,
                     "sgd: m is given without a momentum; leave its data NULL");
    if (args->mask.data)
        PARE_TRY(pare__arg_vector(mask, PARE_U8, n));
    CHECK_APART(2, w, m, g, mask);
    return PARE_OK;
}

pare_status pare__check_adamw(const pare_adamw_args *args)
{
    const pare__arg *w = PARE__ARG(adamw, w), *g = PARE__ARG(adamw, g), *m = PARE__ARG(adamw, m);
    const pare__arg *v = PARE__ARG(adamw, v), *mask = PARE__ARG(adamw, mask);
    PARE_TRY(pare__arg_sound(w, 1, PARE__SET(PARE_F32)));
    int64_t n = args->w.shape[0];
    PARE_TRY(pare__arg_vector(g, PARE_F32, n));
    PARE_TRY(pare__arg_vector(m, PARE_F32, n));
    PARE_TRY(pare__arg_vector(v, PARE_F32, n));
    if (args->mask.data)
        PARE_TRY(pare__arg_vector(mask, PARE_U8, n));
    PARE_REQUIRE(args->step >= 1, PARE_ERR_ARGUMENT, "adamw: step is %lld; the first is 1",
                 (long long)args->step);
    PARE_REQUIRE(args->beta1 >= 0 && args->beta1 < 1 && args->beta2 >= 0 && args->beta2 < 1,
                 PARE_ERR_ARGUMENT, "adamw: beta1 %g, beta2 %g; both must be in [0, 1)",
                 (double)args->beta1, (double)args->beta2);
    CHECK_APART(3, w, m, v, g, mask);
    return PARE_OK;
}

pare_status pare__check_ema(const pare_ema_args *args)
{
    const pare__arg *e = PARE__ARG(ema, e), *w = PARE__ARG(ema, w);
    PARE_TRY(pare__arg_sound(e, 1, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_vector(w, PARE_F32, args->e.shape[0]));
    PARE_TRY(pare__arg_apart(e, w));
    return PARE_OK;
}

pare_status pare__check_sum_squares(const pare_sum_squares_args *args)
{
    const pare__arg *x = PARE__ARG(sum_squares, x), *mask = PARE__ARG(sum_squares, mask);
    const pare__arg *sum = PARE__ARG(sum_squares, sum);
    PARE_TRY(pare__arg_sound(x, 1, PARE__SET(PARE_F32)));
    if (args->mask.data)
        PARE_TRY(pare__arg_vector(mask, PARE_U8, args->x.shape[0]));
    PARE_TRY(pare__arg_vector(sum, PARE_F64, 1));
    CHECK_APART(1, sum, x, mask);
    return PARE_OK;
}

/* ---- activations of quantised products ------------------------------------------------------- */

pare_status pare__check_quant_rows(const pare_quant_rows_args *args)
{
    const pare__arg *x = PARE__ARG(quant_rows, x), *y = PARE__ARG(quant_rows, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(y, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    return PARE_OK;
}
