/* ops_check_calib_select.c - shape, dtype and overlap rules of the scores, the selection by rows
 * and the scaling of ops_calib.h. */
#include "ops_check.h"

#include "base/check.h"

/* A factor for each row or column: F32 [n], apart from the output; or absent. */
static pare_status check_factor(const pare__arg *factor, int64_t n, const pare__arg *out)
{
    if (!factor->tensor->data)
        return PARE_OK;
    PARE_TRY(pare__arg_vector(factor, PARE_F32, n));
    PARE_TRY(pare__arg_apart(out, factor));
    return PARE_OK;
}

pare_status pare__check_keys_scaled(const pare_keys_scaled_args *args)
{
    const pare__arg *w = PARE__ARG(keys_scaled, w), *cols = PARE__ARG(keys_scaled, cols);
    const pare__arg *full = PARE__ARG(keys_scaled, full), *keys = PARE__ARG(keys_scaled, keys);
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_F32)));
    int64_t R = args->w.shape[0], C = args->w.shape[1];
    PARE_TRY(pare__arg_matrix(keys, PARE_U32, R, C));
    PARE_TRY(pare__arg_apart_or_same(keys, w));
    PARE_TRY(check_factor(cols, C, keys));
    if (args->full.data) {
        PARE_TRY(pare__arg_matrix(full, PARE_F32, R, C));
        PARE_TRY(pare__arg_apart(keys, full));
    }
    return PARE_OK;
}

pare_status pare__check_mask_rows(const pare_mask_rows_args *args)
{
    const pare__arg *x = PARE__ARG(mask_rows, x), *mask = PARE__ARG(mask_rows, mask);
    PARE_TRY(pare__arg_sound(x, 2, PARE__KEYS));
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    PARE_REQUIRE(args->prune >= 0 && args->prune <= C, PARE_ERR_ARGUMENT,
                 "mask_rows: prune is %lld; rows of x have %lld elements", (long long)args->prune,
                 (long long)C);
    PARE_TRY(pare__arg_matrix(mask, PARE_U8, R, pare__ceil_div(C, 8)));
    PARE_TRY(pare__arg_apart(mask, x));
    return PARE_OK;
}

pare_status pare__check_square_add(const pare_square_add_args *args)
{
    const pare__arg *x = PARE__ARG(square_add, x), *y = PARE__ARG(square_add, y);
    PARE_TRY(pare__arg_sound(x, -1, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_sound(y, -1, PARE__SET(PARE_F32)));
    int64_t x_count = pare_tensor_count(&args->x), y_count = pare_tensor_count(&args->y);
    PARE_REQUIRE(x_count == y_count, PARE_ERR_ARGUMENT,
                 "square_add: y has %lld elements; x has %lld", (long long)y_count,
                 (long long)x_count);
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

pare_status pare__check_row_dot(const pare_row_dot_args *args)
{
    const pare__arg *a = PARE__ARG(row_dot, a), *b = PARE__ARG(row_dot, b);
    const pare__arg *y = PARE__ARG(row_dot, y);
    PARE_TRY(pare__arg_sound(a, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_matrix(b, PARE_F32, args->a.shape[0], args->a.shape[1]));
    PARE_TRY(pare__arg_vector(y, PARE_F64, args->a.shape[0]));
    PARE_TRY(pare__arg_apart(y, a));
    PARE_TRY(pare__arg_apart(y, b));
    return PARE_OK;
}

pare_status pare__check_scale(const pare_scale_args *args)
{
    const pare__arg *x = PARE__ARG(scale, x), *y = PARE__ARG(scale, y);
    PARE_TRY(pare__arg_sound(x, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_matrix(y, PARE_F32, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(check_factor(PARE__ARG(scale, rows), args->x.shape[0], y));
    PARE_TRY(check_factor(PARE__ARG(scale, cols), args->x.shape[1], y));
    return PARE_OK;
}
