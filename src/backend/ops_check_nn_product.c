/* ops_check_nn_product.c - shape, dtype and overlap rules of the products of ops_nn.h, and what a
 * window leaves of a row. */
#include "ops_check.h"

#include "base/check.h"

#define F32 PARE__SET(PARE_F32)

/* ---- matrices -------------------------------------------------------------------------------- */

pare_status pare__check_gemm(const pare_gemm_args *args)
{
    const pare__arg *a = PARE__ARG(gemm, a), *b = PARE__ARG(gemm, b), *c = PARE__ARG(gemm, c);
    const pare__arg *bias = PARE__ARG(gemm, bias);
    PARE_TRY(pare__arg_sound(a, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(b, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(c, 2, PARE__ACTS));
    PARE_REQUIRE(!(args->trans_a && args->trans_b), PARE_ERR_ARGUMENT,
                 "gemm: trans_a and trans_b are both set; at most one may be");
    int64_t M = args->a.shape[args->trans_a ? 1 : 0], K = args->a.shape[args->trans_a ? 0 : 1];
    int64_t N = args->b.shape[args->trans_b ? 0 : 1], L = args->b.shape[args->trans_b ? 1 : 0];
    char as[192], bs[192];
    PARE_REQUIRE(
        K == L, PARE_ERR_ARGUMENT, "gemm: a is %s%s and b is %s%s; they do not fit",
        pare_shape_text(2, args->a.shape, as, sizeof as), args->trans_a ? " transposed" : "",
        pare_shape_text(2, args->b.shape, bs, sizeof bs), args->trans_b ? " transposed" : "");
    PARE_TRY(pare__arg_matrix(c, args->c.dtype, M, N));
    if (args->bias.data) {
        PARE_TRY(pare__arg_vector(bias, PARE_F32, N));
        PARE_TRY(pare__arg_apart(c, bias));
    }
    PARE_TRY(pare__arg_apart(c, a));
    PARE_TRY(pare__arg_apart(c, b));
    return PARE_OK;
}

pare_status pare__check_colsum(const pare_colsum_args *args)
{
    const pare__arg *x = PARE__ARG(colsum, x), *y = PARE__ARG(colsum, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_vector(y, PARE_F32, args->x.shape[1]));
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

/* ---- windows --------------------------------------------------------------------------------- */

int64_t pare_window_out(const pare_window *window, int axis, int64_t n)
{
    int64_t reach = (int64_t)window->dilation[axis] * (window->kernel[axis] - 1) + 1;
    int64_t pads = axis == 0 ? (int64_t)window->pad_top + window->pad_bottom
                             : (int64_t)window->pad_left + window->pad_right;
    int64_t room = n - reach;
    if (room > INT64_MAX - pads || room + pads < 0)
        return 0;
    return (room + pads) / window->stride[axis] + 1;
}

/* x [B, H, W, I], w [O, I/groups, kh, kw] and y [B, H', W', O] go together; what x and y are called
 * is in their args. */
static pare_status window_fits(const pare__arg *x, const pare__arg *w, const pare__arg *y,
                               const pare_window *window, int groups_or_0)
{
    const char *op = x->op;
    PARE_TRY(pare__arg_sound(x, 4, PARE__ACTS));
    PARE_TRY(pare__window_sound(op, window));
    PARE_REQUIRE(groups_or_0 >= 0, PARE_ERR_ARGUMENT, "%s: groups is %d; it must be 0 or more", op,
                 groups_or_0);
    int64_t groups = groups_or_0 > 0 ? groups_or_0 : 1;
    const int64_t *s = x->tensor->shape;
    int64_t O = w->tensor->shape[0], I = s[3];
    PARE_REQUIRE(O >= 1 && I >= 1 && O % groups == 0 && I % groups == 0, PARE_ERR_ARGUMENT,
                 "%s: %lld channels of %s and %lld of %s must be 1 or more, in %lld equal groups",
                 op, (long long)I, x->name, (long long)O, y->name, (long long)groups);
    const int64_t kernel[4] = {O, I / groups, window->kernel[0], window->kernel[1]};
    PARE_TRY(pare__arg_shape(w, w->tensor->dtype, 4, kernel));
    int64_t down = pare_window_out(window, 0, s[1]), across = pare_window_out(window, 1, s[2]);
    PARE_REQUIRE(s[1] >= 1 && s[2] >= 1 && down >= 1 && across >= 1, PARE_ERR_ARGUMENT,
                 "%s: the window of %d × %d does not fit %s of %lld × %lld with its pads", op,
                 window->kernel[0], window->kernel[1], x->name, (long long)s[1], (long long)s[2]);
    const int64_t out[4] = {s[0], down, across, O};
    PARE_TRY(pare__arg_shape(y, x->tensor->dtype, 4, out));
    return PARE_OK;
}

pare_status pare__check_conv(const pare_conv_args *args)
{
    const pare__arg *x = PARE__ARG(conv, x), *w = PARE__ARG(conv, w), *y = PARE__ARG(conv, y);
    const pare__arg *vectors[] = {PARE__ARG(conv, scale), PARE__ARG(conv, shift)};
    PARE_TRY(pare__arg_sound(w, 4, PARE__ACTS));
    PARE_TRY(window_fits(x, w, y, &args->window, args->groups));
    for (int i = 0; i < 2; i++)
        if (vectors[i]->tensor->data) {
            PARE_TRY(pare__arg_vector(vectors[i], PARE_F32, args->w.shape[0]));
            PARE_TRY(pare__arg_apart(y, vectors[i]));
        }
    if (args->z.data) {
        const pare__arg *z = PARE__ARG(conv, z);
        PARE_TRY(pare__arg_shape(z, args->y.dtype, 4, args->y.shape));
        PARE_TRY(pare__arg_apart_or_same(y, z));
    }
    PARE_TRY(pare__arg_apart(y, x));
    PARE_TRY(pare__arg_apart(y, w));
    return PARE_OK;
}

pare_status pare__check_conv_grad_x(const pare_conv_grad_x_args *args)
{
    const pare__arg *dx = PARE__ARG(conv_grad_x, dx), *w = PARE__ARG(conv_grad_x, w);
    const pare__arg *dy = PARE__ARG(conv_grad_x, dy);
    PARE_TRY(pare__arg_sound(w, 4, PARE__ACTS));
    PARE_TRY(window_fits(dx, w, dy, &args->window, args->groups));
    PARE_TRY(pare__arg_apart(dx, dy));
    PARE_TRY(pare__arg_apart(dx, w));
    return PARE_OK;
}

pare_status pare__check_conv_grad_w(const pare_conv_grad_w_args *args)
{
    const pare__arg *x = PARE__ARG(conv_grad_w, x), *dw = PARE__ARG(conv_grad_w, dw);
    const pare__arg *dy = PARE__ARG(conv_grad_w, dy);
    PARE_TRY(pare__arg_sound(dw, 4, F32));
    PARE_TRY(window_fits(x, dw, dy, &args->window, args->groups));
    PARE_TRY(pare__arg_apart(dw, x));
    PARE_TRY(pare__arg_apart(dw, dy));
    return PARE_OK;
}
