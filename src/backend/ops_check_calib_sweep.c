/* ops_check_calib_sweep.c - shape, dtype and overlap rules of the column sweep's ops in
 * ops_calib.h. */
#include "ops_check.h"

#include "base/check.h"

#define F32 PARE__SET(PARE_F32)

/* ---- matrices -------------------------------------------------------------------------------- */

/* The order of the rows or columns of y, as many as y has; without one, x has as many. */
static pare_status check_order(const pare__arg *order, const pare__arg *y, int64_t of_y,
                               int64_t of_x)
{
    if (order->tensor->data) {
        PARE_TRY(pare__arg_vector(order, PARE_I32, of_y));
        PARE_TRY(pare__arg_apart(y, order));
        return PARE_OK;
    }
    PARE_REQUIRE(of_x == of_y, PARE_ERR_ARGUMENT,
                 "permute: y has %lld and x %lld %s; without an order they must be as many",
                 (long long)of_y, (long long)of_x, order->name);
    return PARE_OK;
}

pare_status pare__check_permute(const pare_permute_args *args)
{
    const pare__arg *x = PARE__ARG(permute, x), *y = PARE__ARG(permute, y);
    PARE_TRY(pare__arg_sound(x, 2, F32 | PARE__SET(PARE_I8) | PARE__SET(PARE_U8)));
    PARE_TRY(pare__arg_sound(y, 2, PARE__SET(args->x.dtype)));
    PARE_REQUIRE(!args->lower || args->x.shape[0] == args->x.shape[1], PARE_ERR_ARGUMENT,
                 "permute: x is %lld × %lld and lower is set; a symmetric matrix is square",
                 (long long)args->x.shape[0], (long long)args->x.shape[1]);
    PARE_TRY(check_order(PARE__ARG(permute, rows), y, args->y.shape[0], args->x.shape[0]));
    PARE_TRY(check_order(PARE__ARG(permute, cols), y, args->y.shape[1], args->x.shape[1]));
    PARE_REQUIRE(pare_tensor_count(&args->y) == 0 || pare_tensor_count(&args->x) > 0,
                 PARE_ERR_ARGUMENT, "permute: x is empty and y is not; y has nothing to take");
    PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

static pare_status check_square(const pare__arg *a)
{
    PARE_TRY(pare__arg_sound(a, 2, F32));
    PARE_TRY(pare__arg_matrix(a, PARE_F32, a->tensor->shape[0], a->tensor->shape[0]));
    return PARE_OK;
}

pare_status pare__check_diagonal(const pare_diagonal_args *args)
{
    const pare__arg *a = PARE__ARG(diagonal, a), *d = PARE__ARG(diagonal, d);
    PARE_TRY(check_square(a));
    PARE_TRY(pare__arg_vector(d, PARE_F32, args->a.shape[0]));
    PARE_TRY(pare__arg_apart(args->set ? a : d, args->set ? d : a));
    return PARE_OK;
}

pare_status pare__check_tri_inverse(const pare_tri_inverse_args *args)
{
    return check_square(PARE__ARG(tri_inverse, l));
}

/* ---- the sweep ------------------------------------------------------------------------------- */

/* u is square, and has the columns [first, first + count). */
static pare_status check_factor(const pare__arg *u, int64_t first, int64_t count)
{
    PARE_TRY(check_square(u));
    PARE_REQUIRE(first >= 0 && first <= u->tensor->shape[0] - count, PARE_ERR_ARGUMENT,
                 "%s: first is %lld and the panel has %lld columns; u has %lld", u->op,
                 (long long)first, (long long)count, (long long)u->tensor->shape[0]);
    return PARE_OK;
}

pare_status pare__check_keys_obs(const pare_keys_obs_args *args)
{
    const pare__arg *w = PARE__ARG(keys_obs, w), *u = PARE__ARG(keys_obs, u);
    const pare__arg *frozen = PARE__ARG(keys_obs, frozen), *keys = PARE__ARG(keys_obs, keys);
    PARE_TRY(pare__arg_sound(w, 2, F32));
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    PARE_TRY(check_factor(u, args->first, N));
    PARE_TRY(pare__arg_matrix(keys, PARE_U32, R, N));
    PARE_TRY(pare__arg_apart(keys, w));
    PARE_TRY(pare__arg_apart(keys, u));
    if (args->frozen.data) {
        PARE_TRY(pare__arg_mask(frozen, R, N));
        PARE_TRY(pare__arg_apart(keys, frozen));
    }
    return PARE_OK;
}

/* Masks of the panel, and how a mask is chosen in it. */
static pare_status check_choice(const pare_obs_block_args *args)
{
    const pare__arg *frozen = PARE__ARG(obs_block, frozen), *mask = PARE__ARG(obs_block, mask);
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    if (args->frozen.data)
        PARE_TRY(pare__arg_mask(frozen, R, N));
    if (args->mask.data)
        PARE_TRY(pare__arg_mask(mask, R, N));
    PARE_REQUIRE(args->m >= 0 && args->n >= 0 && args->n <= args->m, PARE_ERR_ARGUMENT,
                 "obs_block: the pattern %d:%d; 0 ≤ n ≤ m must hold, and m 0 makes no choice",
                 args->n, args->m);
    if (args->m == 0)
        return PARE_OK;
    PARE_REQUIRE(args->mask.data || R * N == 0, PARE_ERR_ARGUMENT,
                 "obs_block: mask is absent; the pattern %d:%d needs one to write to", args->n,
                 args->m);
    PARE_REQUIRE(args->first % args->m == 0, PARE_ERR_ARGUMENT,
                 "obs_block: first is %lld; with the pattern %d:%d it is a multiple of %d",
                 (long long)args->first, args->n, args->m, args->m);
    return PARE_OK;
}

static pare_status check_codes(const pare_obs_block_args *args)
{
    const pare__arg *scale = PARE__ARG(obs_block, scale), *zero = PARE__ARG(obs_block, zero);
    const pare__arg *codes = PARE__ARG(obs_block, codes);
    if (args->scheme.type == PARE_QUANT_NONE) {
        PARE_REQUIRE(!args->scale.data && !args->zero.data && !args->codes.data, PARE_ERR_ARGUMENT,
                     "obs_block: scale, zero or codes without a scheme; leave their data NULL");
        return PARE_OK;
    }
    PARE_TRY(pare__scheme_sound(scale->op, &args->scheme, true));
    PARE_TRY(pare__scales_sound(&args->scheme, scale, zero, &args->w, args->block_rows,
                                args->block_cols));
    PARE_TRY(pare__arg_matrix(codes, PARE_I8, args->w.shape[0], args->w.shape[1]));
    return PARE_OK;
}

/* What is written lies apart from everything else. */
static pare_status check_block_apart(const pare_obs_block_args *args)
{
    const pare__arg *const all[] = {PARE__ARG(obs_block, w),     PARE__ARG(obs_block, mask),
                                    PARE__ARG(obs_block, codes), PARE__ARG(obs_block, err),
                                    PARE__ARG(obs_block, loss), /* written */
                                    PARE__ARG(obs_block, u),     PARE__ARG(obs_block, frozen),
                                    PARE__ARG(obs_block, scale), PARE__ARG(obs_block, zero)};
    enum { WRITTEN = 5, ALL = sizeof all / sizeof all[0] };
    for (int i = 0; i < WRITTEN; i++)
        for (int j = i + 1; j < ALL; j++)
            if (all[i]->tensor->data && all[j]->tensor->data)
                PARE_TRY(pare__arg_apart(all[i], all[j]));
    return PARE_OK;
}

pare_status pare__check_obs_block(const pare_obs_block_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(obs_block, w), 2, F32));
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    PARE_REQUIRE(N <= PARE_OBS_PANEL, PARE_ERR_ARGUMENT,
                 "obs_block: w has %lld columns; a panel has %d at most", (long long)N,
                 PARE_OBS_PANEL);
    PARE_TRY(check_factor(PARE__ARG(obs_block, u), args->first, N));
    PARE_TRY(check_choice(args));
    PARE_TRY(check_codes(args));
    PARE_TRY(pare__arg_matrix(PARE__ARG(obs_block, err), PARE_F32, R, N));
    PARE_TRY(pare__arg_vector(PARE__ARG(obs_block, loss), PARE_F64, R));
    PARE_TRY(check_block_apart(args));
    return PARE_OK;
}

pare_status pare__check_obs_update(const pare_obs_update_args *args)
{
    const pare__arg *w = PARE__ARG(obs_update, w), *err = PARE__ARG(obs_update, err);
    const pare__arg *u = PARE__ARG(obs_update, u);
    PARE_TRY(pare__arg_sound(w, 2, F32));
    PARE_TRY(pare__arg_sound(err, 2, F32));
    int64_t R = args->w.shape[0], C = args->w.shape[1], N = args->err.shape[1];
    PARE_TRY(pare__arg_matrix(err, PARE_F32, R, N));
    PARE_TRY(pare__arg_matrix(u, PARE_F32, C, C));
    PARE_TRY(check_factor(u, args->first, N));
    PARE_REQUIRE(args->last >= args->first + N && args->last <= C, PARE_ERR_ARGUMENT,
                 "obs_update: last is %lld; the panel ends at %lld and w at %lld",
                 (long long)args->last, (long long)(args->first + N), (long long)C);
    PARE_TRY(pare__arg_apart(w, err));
    PARE_TRY(pare__arg_apart(w, u));
    return PARE_OK;
}
