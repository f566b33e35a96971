/* ops_check_nn_pool.c - rules of the pools and of the shortcut. */
#include "ops_check.h"

#include "base/check.h"

/* x is an image, y what the window makes of it. */
static pare_status check_pool(const pare__arg *x, const pare__arg *y, const pare_window *window)
{
    const pare_tensor *t = x->tensor;
    PARE_TRY(pare__window_sound(x->op, window));
    PARE_REQUIRE((int64_t)window->kernel[0] * window->kernel[1] <= INT32_MAX, PARE_ERR_ARGUMENT,
                 "%s: a window of %d × %d; its places must fit 32 bits", x->op, window->kernel[0],
                 window->kernel[1]);
    PARE_TRY(pare__arg_sound(x, 4, PARE__ACTS));
    int64_t rows = pare_window_out(window, 0, t->shape[1]);
    int64_t cols = pare_window_out(window, 1, t->shape[2]);
    char text[192];
    PARE_REQUIRE(rows >= 1 && cols >= 1, PARE_ERR_ARGUMENT,
                 "%s: the window of %d × %d (dilation %d, %d) does not fit %s %s with its pads",
                 x->op, window->kernel[0], window->kernel[1], window->dilation[0],
                 window->dilation[1], x->name, pare_shape_text(4, t->shape, text, sizeof text));
    PARE_TRY(pare__arg_shape(y, t->dtype, 4, (int64_t[]){t->shape[0], rows, cols, t->shape[3]}));
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

static pare_status check_places(const pare__arg *at, const pare__arg *y)
{
    PARE_TRY(pare__arg_shape(at, PARE_I32, 4, y->tensor->shape));
    PARE_TRY(pare__arg_apart(at, y));
    return PARE_OK;
}

static pare_status check_undilated(const char *op, const pare_window *window)
{
    PARE_REQUIRE(window->dilation[0] == 1 && window->dilation[1] == 1, PARE_ERR_ARGUMENT,
                 "%s: a dilation of %d, %d; a mean has none (1)", op, window->dilation[0],
                 window->dilation[1]);
    return PARE_OK;
}

/* ---- pools ----------------------------------------------------------------------------------- */

pare_status pare__check_pool_max(const pare_pool_max_args *args)
{
    const pare__arg *x = PARE__ARG(pool_max, x), *y = PARE__ARG(pool_max, y);
    const pare__arg *at = PARE__ARG(pool_max, at);
    PARE_TRY(check_pool(x, y, &args->window));
    if (args->at.data) {
        PARE_TRY(check_places(at, y));
        PARE_TRY(pare__arg_apart(at, x));
    }
    return PARE_OK;
}

pare_status pare__check_pool_max_grad(const pare_pool_max_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(pool_max_grad, dy), *dx = PARE__ARG(pool_max_grad, dx);
    const pare__arg *at = PARE__ARG(pool_max_grad, at);
    PARE_TRY(check_pool(dx, dy, &args->window));
    PARE_TRY(check_places(at, dy));
    PARE_TRY(pare__arg_apart(dx, at));
    return PARE_OK;
}

pare_status pare__check_pool_avg(const pare_pool_avg_args *args)
{
    PARE_TRY(check_pool(PARE__ARG(pool_avg, x), PARE__ARG(pool_avg, y), &args->window));
    PARE_TRY(check_undilated("pool_avg", &args->window));
    return PARE_OK;
}

pare_status pare__check_pool_avg_grad(const pare_pool_avg_grad_args *args)
{
    PARE_TRY(check_pool(PARE__ARG(pool_avg_grad, dx), PARE__ARG(pool_avg_grad, dy), &args->window));
    PARE_TRY(check_undilated("pool_avg_grad", &args->window));
    return PARE_OK;
}

/* x [B, T, N] and y [B, N] alike and apart; keys [B, T] or absent. */
static pare_status check_seq(const pare__arg *x, const pare__arg *keys, const pare__arg *y)
{
    const pare_tensor *t = x->tensor;
    PARE_TRY(pare__arg_sound(x, 3, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(y, t->dtype, t->shape[0], t->shape[2]));
    PARE_TRY(pare__arg_apart(y, x));
    if (keys->tensor->data)
        PARE_TRY(pare__arg_matrix(keys, PARE_U8, t->shape[0], t->shape[1]));
    return PARE_OK;
}

pare_status pare__check_pool_seq(const pare_pool_seq_args *args)
{
    const pare__arg *y = PARE__ARG(pool_seq, y), *keys = PARE__ARG(pool_seq, keys);
    PARE_TRY(check_seq(PARE__ARG(pool_seq, x), keys, y));
    if (args->keys.data)
        PARE_TRY(pare__arg_apart(y, keys));
    return PARE_OK;
}

pare_status pare__check_pool_seq_grad(const pare_pool_seq_grad_args *args)
{
    const pare__arg *dx = PARE__ARG(pool_seq_grad, dx), *keys = PARE__ARG(pool_seq_grad, keys);
    PARE_TRY(check_seq(dx, keys, PARE__ARG(pool_seq_grad, dy)));
    if (args->keys.data)
        PARE_TRY(pare__arg_apart(dx, keys));
    return PARE_OK;
}

/* ---- shortcut -------------------------------------------------------------------------------- */

static pare_status check_shortcut(const pare__arg *x, const pare__arg *y, int stride,
                                  int64_t before)
{
    const pare_tensor *t = x->tensor;
    PARE_REQUIRE(stride >= 1 && before >= 0, PARE_ERR_ARGUMENT,
                 "%s: stride %d, before %lld; they must be at least 1 and 0", x->op, stride,
                 (long long)before);
    PARE_TRY(pare__arg_sound(x, 4, PARE__ACTS));
    PARE_TRY(pare__arg_sound(y, 4, PARE__ACTS));
    int64_t O = y->tensor->shape[3];
    PARE_TRY(pare__arg_shape(y, t->dtype, 4,
                             (int64_t[]){t->shape[0], pare__ceil_div(t->shape[1], stride),
                                         pare__ceil_div(t->shape[2], stride), O}));
    PARE_REQUIRE(before <= O && t->shape[3] <= O - before, PARE_ERR_ARGUMENT,
                 "%s: %lld channels behind %lld others; %s has %lld in all", x->op,
                 (long long)t->shape[3], (long long)before, y->name, (long long)O);
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

pare_status pare__check_shortcut(const pare_shortcut_args *args)
{
    PARE_TRY(
        check_shortcut(PARE__ARG(shortcut, x), PARE__ARG(shortcut, y), args->stride, args->before));
    return PARE_OK;
}

pare_status pare__check_shortcut_grad(const pare_shortcut_grad_args *args)
{
    PARE_TRY(check_shortcut(PARE__ARG(shortcut_grad, dx), PARE__ARG(shortcut_grad, dy),
                            args->stride, args->before));
    return PARE_OK;
}
