/* ops_check_nn_norm.c - shape, dtype and overlap rules of batch norm, layer norm, RMS norm and
 * their gradients. Leading axes count as rows. */
#include "ops_check.h"

#include "base/check.h"

/* F32 or BF16 with at least one axis; *rows and *cols are its matrix. */
static pare_status check_act(const pare__arg *x, int64_t *rows, int64_t *cols)
{
    const pare_tensor *t = x->tensor;
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_REQUIRE(t->rank >= 1, PARE_ERR_ARGUMENT, "%s: %s is a scalar; it must have columns", x->op,
                 x->name);
    *cols = t->shape[t->rank - 1];
    *rows = 1;
    for (int i = 0; i < t->rank - 1; i++)
        *rows *= t->shape[i];
    return PARE_OK;
}

/* Of the dtype, the rows and the columns of x. */
static pare_status check_like(const pare__arg *arg, const pare__arg *x)
{
    const pare_tensor *a = arg->tensor, *b = x->tensor;
    PARE_TRY(pare__arg_sound(arg, -1, PARE__SET(b->dtype)));
    char as[192], bs[192];
    PARE_REQUIRE(a->rank >= 1 && a->shape[a->rank - 1] == b->shape[b->rank - 1] &&
                     pare_tensor_count(a) == pare_tensor_count(b),
                 PARE_ERR_ARGUMENT, "%s: %s is %s and %s is %s; they must be alike", arg->op,
                 arg->name, pare_shape_text(a->rank, a->shape, as, sizeof as), x->name,
                 pare_shape_text(b->rank, b->shape, bs, sizeof bs));
    return PARE_OK;
}

/* n numbers of F32 each; those that are absent are fine if `absent` says so. */
static pare_status check_vectors(const pare__arg *const *args, int count, int64_t n, bool absent)
{
    for (int i = 0; i < count; i++)
        if (!absent || args[i]->tensor->data)
            PARE_TRY(pare__arg_vector(args[i], PARE_F32, n));
    return PARE_OK;
}

/* Each of the first `outs` shares no byte with those behind it; what is absent is left out. */
static pare_status check_apart(const pare__arg *const *args, int outs, int count)
{
    for (int o = 0; o < outs; o++)
        for (int i = o + 1; i < count; i++)
            if (args[o]->tensor->data && args[i]->tensor->data)
                PARE_TRY(pare__arg_apart(args[o], args[i]));
    return PARE_OK;
}

static pare_status check_eps(const char *op, float eps)
{
    PARE_REQUIRE(eps >= 0, PARE_ERR_ARGUMENT, "%s: eps is %g; it must not be negative", op,
                 (double)eps);
    return PARE_OK;
}

#define LIST(...)                                                                                  \
    (const pare__arg *const[])                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* ---- batch norm ------------------------------------------------------------------------------ */

pare_status pare__check_batch_norm(const pare_batch_norm_args *args)
{
    const pare__arg *x = PARE__ARG(batch_norm, x), *y = PARE__ARG(batch_norm, y);
    const pare__arg *gamma = PARE__ARG(batch_norm, gamma), *beta = PARE__ARG(batch_norm, beta);
    const pare__arg *z = PARE__ARG(batch_norm, z);
    const pare__arg *mean = PARE__ARG(batch_norm, running_mean);
    const pare__arg *var = PARE__ARG(batch_norm, running_var);
    const pare__arg *saved_mean = PARE__ARG(batch_norm, saved_mean);
    const pare__arg *saved_scale = PARE__ARG(batch_norm, saved_scale);
    int64_t R, C;
    PARE_TRY(check_act(x, &R, &C));
    PARE_TRY(check_like(y, x));
    if (args->z.data)
        PARE_TRY(check_like(z, x));
    PARE_TRY(check_vectors(LIST(gamma, beta, mean, var), 4, C, false));
    PARE_TRY(check_eps("batch_norm", args->eps));
    PARE_TRY(check_apart(LIST(y, z, gamma, beta, mean, var), 1, 6));
    PARE_TRY(check_vectors(LIST(saved_mean, saved_scale), 2, C, !args->training));
    if (!args->training) {
        PARE_TRY(pare__arg_apart_or_same(y, x));
        return check_apart(LIST(saved_mean, saved_scale, y, mean, var, gamma, beta, x, z), 2, 9);
    }
    PARE_REQUIRE(args->momentum >= 0 && args->momentum <= 1, PARE_ERR_ARGUMENT,
                 "batch_norm: momentum is %g; it must be from 0 to 1", (double)args->momentum);
    return check_apart(LIST(y, mean, var, saved_mean, saved_scale, gamma, beta, x, z), 5, 9);
}

pare_status pare__check_batch_norm_fold(const pare_batch_norm_fold_args *args)
{
    const pare__arg *gamma = PARE__ARG(batch_norm_fold, gamma);
    const pare__arg *beta = PARE__ARG(batch_norm_fold, beta);
    const pare__arg *mean = PARE__ARG(batch_norm_fold, running_mean);
    const pare__arg *var = PARE__ARG(batch_norm_fold, running_var);
    const pare__arg *bias = PARE__ARG(batch_norm_fold, bias);
    const pare__arg *scale = PARE__ARG(batch_norm_fold, scale);
    const pare__arg *shift = PARE__ARG(batch_norm_fold, shift);
    PARE_TRY(pare__arg_sound(gamma, 1, PARE__SET(PARE_F32)));
    int64_t C = args->gamma.shape[0];
    PARE_TRY(check_vectors(LIST(beta, mean, var, scale, shift), 5, C, false));
    PARE_TRY(check_vectors(LIST(bias), 1, C, true));
    PARE_TRY(check_eps("batch_norm_fold", args->eps));
    return check_apart(LIST(scale, shift, gamma, beta, mean, var, bias), 2, 7);
}

pare_status pare__check_batch_norm_grad(const pare_batch_norm_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(batch_norm_grad, dy), *x = PARE__ARG(batch_norm_grad, x);
    const pare__arg *y = PARE__ARG(batch_norm_grad, y), *dx = PARE__ARG(batch_norm_grad, dx);
    const pare__arg *dz = PARE__ARG(batch_norm_grad, dz);
    const pare__arg *gamma = PARE__ARG(batch_norm_grad, gamma);
    const pare__arg *mean = PARE__ARG(batch_norm_grad, saved_mean);
    const pare__arg *scale = PARE__ARG(batch_norm_grad, saved_scale);
    const pare__arg *dgamma = PARE__ARG(batch_norm_grad, dgamma);
    const pare__arg *dbeta = PARE__ARG(batch_norm_grad, dbeta);
    int64_t R, C;
    PARE_TRY(check_act(x, &R, &C));
    PARE_TRY(check_like(dy, x));
    PARE_TRY(check_like(dx, x));
    if (args->relu)
        PARE_TRY(check_like(y, x));
    if (args->dz.data) {
        PARE_TRY(check_like(dz, x));
        PARE_TRY(pare__arg_apart_or_same(dz, dy));
    }
    PARE_TRY(check_vectors(LIST(gamma, mean, scale, dgamma, dbeta), 5, C, false));
    PARE_TRY(pare__arg_apart_or_same(dx, dy));
    PARE_TRY(check_apart(LIST(dx, dz, dgamma, dbeta, gamma, mean, scale, x), 4, 8));
    PARE_TRY(check_apart(LIST(dgamma, dbeta, dy), 2, 3));
    if (args->relu)
        PARE_TRY(check_apart(LIST(dx, dz, dgamma, dbeta, y), 4, 5));
    return PARE_OK;
}

/* ---- layer norm, RMS norm -------------------------------------------------------------------- */

pare_status pare__check_layer_norm(const pare_layer_norm_args *args)
{
    const pare__arg *x = PARE__ARG(layer_norm, x), *y = PARE__ARG(layer_norm, y);
    const pare__arg *gamma = PARE__ARG(layer_norm, gamma), *beta = PARE__ARG(layer_norm, beta);
    const pare__arg *mean = PARE__ARG(layer_norm, saved_mean);
    const pare__arg *scale = PARE__ARG(layer_norm, saved_scale);
    int64_t R, N;
    PARE_TRY(check_act(x, &R, &N));
    PARE_TRY(check_like(y, x));
    PARE_TRY(check_vectors(LIST(gamma), 1, N, false));
    PARE_TRY(check_vectors(LIST(beta), 1, N, true));
    PARE_TRY(check_vectors(LIST(mean, scale), 2, R, true));
    PARE_TRY(check_eps("layer_norm", args->eps));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(check_apart(LIST(y, mean, scale, gamma, beta), 3, 5));
    return check_apart(LIST(mean, scale, x), 2, 3);
}

pare_status pare__check_layer_norm_grad(const pare_layer_norm_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(layer_norm_grad, dy), *x = PARE__ARG(layer_norm_grad, x);
    const pare__arg *dx = PARE__ARG(layer_norm_grad, dx);
    const pare__arg *gamma = PARE__ARG(layer_norm_grad, gamma);
    const pare__arg *mean = PARE__ARG(layer_norm_grad, saved_mean);
    const pare__arg *scale = PARE__ARG(layer_norm_grad, saved_scale);
    const pare__arg *dgamma = PARE__ARG(layer_norm_grad, dgamma);
    const pare__arg *dbeta = PARE__ARG(layer_norm_grad, dbeta);
    int64_t R, N;
    PARE_TRY(check_act(x, &R, &N));
    PARE_TRY(check_like(dy, x));
    PARE_TRY(check_like(dx, x));
    PARE_TRY(check_vectors(LIST(gamma), 1, N, false));
    PARE_TRY(check_vectors(LIST(mean, scale), 2, R, false));
    PARE_TRY(check_vectors(LIST(dgamma, dbeta), 2, N, true));
    PARE_TRY(args->accumulate_x ? pare__arg_apart(dx, dy) : pare__arg_apart_or_same(dx, dy));
    PARE_TRY(check_apart(LIST(dx, dgamma, dbeta, gamma, mean, scale, x), 3, 7));
    return check_apart(LIST(dgamma, dbeta, dy), 2, 3);
}

pare_status pare__check_rms_norm(const pare_rms_norm_args *args)
{
    const pare__arg *x = PARE__ARG(rms_norm, x), *y = PARE__ARG(rms_norm, y);
    const pare__arg *gamma = PARE__ARG(rms_norm, gamma);
    const pare__arg *scale = PARE__ARG(rms_norm, saved_scale);
    int64_t R, N;
    PARE_TRY(check_act(x, &R, &N));
    PARE_TRY(check_like(y, x));
    PARE_TRY(check_vectors(LIST(gamma), 1, N, false));
    PARE_TRY(check_vectors(LIST(scale), 1, R, true));
    PARE_TRY(check_eps("rms_norm", args->eps));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(check_apart(LIST(y, scale, gamma), 2, 3));
    return check_apart(LIST(scale, x), 1, 2);
}

pare_status pare__check_rms_norm_grad(const pare_rms_norm_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(rms_norm_grad, dy), *x = PARE__ARG(rms_norm_grad, x);
    const pare__arg *dx = PARE__ARG(rms_norm_grad, dx);
    const pare__arg *gamma = PARE__ARG(rms_norm_grad, gamma);
    const pare__arg *scale = PARE__ARG(rms_norm_grad, saved_scale);
    const pare__arg *dgamma = PARE__ARG(rms_norm_grad, dgamma);
    int64_t R, N;
    PARE_TRY(check_act(x, &R, &N));
    PARE_TRY(check_like(dy, x));
    PARE_TRY(check_like(dx, x));
    PARE_TRY(check_vectors(LIST(gamma), 1, N, false));
    PARE_TRY(check_vectors(LIST(scale), 1, R, false));
    PARE_TRY(check_vectors(LIST(dgamma), 1, N, true));
    PARE_TRY(args->accumulate_x ? pare__arg_apart(dx, dy) : pare__arg_apart_or_same(dx, dy));
    PARE_TRY(check_apart(LIST(dx, dgamma, gamma, scale, x), 2, 5));
    return check_apart(LIST(dgamma, dy), 1, 2);
}
