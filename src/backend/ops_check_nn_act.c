/* ops_check_nn_act.c - shape, dtype and overlap rules of the ops that work element by element, and
 * of those that only move elements. */
#include "ops_check.h"

#include "base/check.h"

/* As many elements as x, of one of the dtypes. */
static pare_status check_count(const pare__arg *arg, const pare__arg *x, unsigned dtypes)
{
    const pare_tensor *a = arg->tensor, *b = x->tensor;
    PARE_TRY(pare__arg_sound(arg, -1, dtypes));
    char as[192], bs[192];
    PARE_REQUIRE(pare_tensor_count(a) == pare_tensor_count(b), PARE_ERR_ARGUMENT,
                 "%s: %s is %s and %s is %s; they must be as many", arg->op, arg->name,
                 pare_shape_text(a->rank, a->shape, as, sizeof as), x->name,
                 pare_shape_text(b->rank, b->shape, bs, sizeof bs));
    return PARE_OK;
}

/* As many elements as x and of its dtype. */
static pare_status check_like(const pare__arg *arg, const pare__arg *x)
{
    return check_count(arg, x, PARE__SET(x->tensor->dtype));
}

static pare_status check_fn(const char *op, pare_fn fn)
{
    PARE_REQUIRE((unsigned)fn < PARE_FNS, PARE_ERR_ARGUMENT,
                 "%s: fn is %d; it must be one of the %d of pare_fn", op, (int)fn, (int)PARE_FNS);
    return PARE_OK;
}

/* ---- activations ----------------------------------------------------------------------------- */

pare_status pare__check_act(const pare_act_args *args)
{
    const pare__arg *x = PARE__ARG(act, x), *y = PARE__ARG(act, y);
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_TRY(check_like(y, x));
    PARE_TRY(check_fn("act", args->fn));
    return pare__arg_apart_or_same(y, x);
}

pare_status pare__check_act_grad(const pare_act_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(act_grad, dy), *x = PARE__ARG(act_grad, x);
    const pare__arg *dx = PARE__ARG(act_grad, dx);
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_TRY(check_like(dy, x));
    PARE_TRY(check_like(dx, x));
    PARE_TRY(check_fn("act_grad", args->fn));
    PARE_TRY(pare__arg_apart(dx, x));
    return pare__arg_apart_or_same(dx, dy);
}

pare_status pare__check_glu(const pare_glu_args *args)
{
    const pare__arg *a = PARE__ARG(glu, a), *b = PARE__ARG(glu, b), *y = PARE__ARG(glu, y);
    PARE_TRY(pare__arg_sound(a, -1, PARE__ACTS));
    PARE_TRY(check_like(b, a));
    PARE_TRY(check_like(y, a));
    PARE_TRY(check_fn("glu", args->fn));
    PARE_TRY(pare__arg_apart_or_same(y, a));
    return pare__arg_apart_or_same(y, b);
}

pare_status pare__check_glu_grad(const pare_glu_grad_args *args)
{
    const pare__arg *dy = PARE__ARG(glu_grad, dy), *a = PARE__ARG(glu_grad, a);
    const pare__arg *b = PARE__ARG(glu_grad, b), *da = PARE__ARG(glu_grad, da);
    const pare__arg *db = PARE__ARG(glu_grad, db);
    PARE_TRY(pare__arg_sound(a, -1, PARE__ACTS));
    PARE_TRY(check_like(dy, a));
    PARE_TRY(check_like(b, a));
    PARE_TRY(check_like(da, a));
    PARE_TRY(check_like(db, a));
    PARE_TRY(check_fn("glu_grad", args->fn));
    PARE_TRY(pare__arg_apart_or_same(da, a));
    PARE_TRY(pare__arg_apart(da, b));
    PARE_TRY(pare__arg_apart(da, dy));
    PARE_TRY(pare__arg_apart(da, db));
    PARE_TRY(pare__arg_apart(db, a));
    PARE_TRY(pare__arg_apart_or_same(db, b));
    return pare__arg_apart_or_same(db, dy);
}

/* ---- sums ------------------------------------------------------------------------------------ */

pare_status pare__check_fill(const pare_fill_args *args)
{
    return pare__arg_sound(PARE__ARG(fill, y), -1, PARE__ACTS);
}

/* In place only where the elements are as wide. */
static pare_status check_in_place(const pare__arg *y, const pare__arg *x)
{
    if (y->tensor->dtype == x->tensor->dtype)
        return pare__arg_apart_or_same(y, x);
    return pare__arg_apart(y, x);
}

pare_status pare__check_add(const pare_add_args *args)
{
    const pare__arg *a = PARE__ARG(add, a), *b = PARE__ARG(add, b), *y = PARE__ARG(add, y);
    PARE_TRY(pare__arg_sound(y, -1, PARE__ACTS));
    PARE_TRY(check_count(a, y, PARE__ACTS));
    PARE_TRY(check_count(b, y, PARE__ACTS));
    PARE_TRY(check_in_place(y, a));
    return check_in_place(y, b);
}

pare_status pare__check_add_rows(const pare_add_rows_args *args)
{
    const pare__arg *x = PARE__ARG(add_rows, x), *v = PARE__ARG(add_rows, v);
    const pare__arg *y = PARE__ARG(add_rows, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(y, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_sound(v, 1, PARE__ACTS));
    PARE_TRY(pare__arg_vector(v, args->v.dtype, args->x.shape[1]));
    PARE_TRY(pare__arg_apart(y, v));
    return pare__arg_apart_or_same(y, x);
}

pare_status pare__check_dropout(const pare_dropout_args *args)
{
    const pare__arg *x = PARE__ARG(dropout, x), *y = PARE__ARG(dropout, y);
    PARE_TRY(pare__arg_sound(x, -1, PARE__ACTS));
    PARE_TRY(check_like(y, x));
    PARE_REQUIRE(args->p >= 0 && args->p < 1, PARE_ERR_ARGUMENT,
                 "dropout: p is %g; it must be at least 0 and below 1", (double)args->p);
    return pare__arg_apart_or_same(y, x);
}

/* ---- moves ----------------------------------------------------------------------------------- */

/* Columns [first, first + cols) are in the matrix. */
static pare_status check_columns(const pare__arg *arg, int64_t first, int64_t cols)
{
    int64_t N = arg->tensor->shape[1];
    PARE_REQUIRE(first >= 0 && cols >= 0 && cols <= N && first <= N - cols, PARE_ERR_ARGUMENT,
                 "%s: %s has %lld columns; %lld from the %lldth on are not in it", arg->op,
                 arg->name, (long long)N, (long long)cols, (long long)first);
    return PARE_OK;
}

pare_status pare__check_copy_cols(const pare_copy_cols_args *args)
{
    const pare__arg *x = PARE__ARG(copy_cols, x), *y = PARE__ARG(copy_cols, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(y, 2, PARE__ACTS));
    char xs[192], ys[192];
    PARE_REQUIRE(args->x.shape[0] == args->y.shape[0] || args->x.shape[0] == 1, PARE_ERR_ARGUMENT,
                 "copy_cols: x is %s and y is %s; x must have as many rows, or one",
                 pare_shape_text(2, args->x.shape, xs, sizeof xs),
                 pare_shape_text(2, args->y.shape, ys, sizeof ys));
    PARE_TRY(check_columns(x, args->x_first, args->cols));
    PARE_TRY(check_columns(y, args->y_first, args->cols));
    return pare__arg_apart(y, x);
}

pare_status pare__check_transpose(const pare_transpose_args *args)
{
    const pare__arg *x = PARE__ARG(transpose, x), *y = PARE__ARG(transpose, y);
    PARE_TRY(pare__arg_sound(x, 3, PARE__ACTS));
    PARE_TRY(pare__arg_sound(y, 3, PARE__SET(args->x.dtype)));
    const int64_t *xs = args->x.shape, *ys = args->y.shape;
    char x_text[192], y_text[192];
    PARE_REQUIRE(xs[0] == ys[0] && xs[1] == ys[2] && xs[2] == ys[1], PARE_ERR_ARGUMENT,
                 "transpose: x is %s and y is %s; y must be [%lld, %lld, %lld]",
                 pare_shape_text(3, xs, x_text, sizeof x_text),
                 pare_shape_text(3, ys, y_text, sizeof y_text), (long long)xs[0], (long long)xs[2],
                 (long long)xs[1]);
    return pare__arg_apart(y, x);
}
