/* ops_check_core.c - shape, dtype and overlap rules of the ops in ops_core.h. */
#include "ops_check.h"

#include "base/check.h"

pare_status pare__check_cast(const pare_cast_args *args)
{
    const pare__arg *x = PARE__ARG(cast, x), *y = PARE__ARG(cast, y);
    PARE_TRY(pare__arg_sound(x, -1, PARE__WEIGHTS));
    PARE_TRY(pare__arg_sound(y, -1, PARE__WEIGHTS));
    int64_t n = pare_tensor_count(&args->x), m = pare_tensor_count(&args->y);
    char xs[192], ys[192];
    PARE_REQUIRE(n == m, PARE_ERR_ARGUMENT, "cast: x is %s and y is %s; they must be as many",
                 pare_shape_text(args->x.rank, args->x.shape, xs, sizeof xs),
                 pare_shape_text(args->y.rank, args->y.shape, ys, sizeof ys));
    if (args->x.dtype == args->y.dtype)
        PARE_TRY(pare__arg_apart_or_same(y, x));
    else
        PARE_TRY(pare__arg_apart(y, x));
    return PARE_OK;
}

pare_status pare__check_stats(const pare_stats_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(stats, x), -1, PARE__WEIGHTS));
    PARE_REQUIRE(args->result, PARE_ERR_ARGUMENT, "stats: result is NULL");
    return PARE_OK;
}

pare_status pare__check_diff(const pare_diff_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(diff, a), -1, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_sound(PARE__ARG(diff, b), -1, PARE__SET(PARE_F32)));
    int64_t n = pare_tensor_count(&args->a), m = pare_tensor_count(&args->b);
    char as[192], bs[192];
    PARE_REQUIRE(n == m, PARE_ERR_ARGUMENT, "diff: a is %s and b is %s; they must be as many",
                 pare_shape_text(args->a.rank, args->a.shape, as, sizeof as),
                 pare_shape_text(args->b.rank, args->b.shape, bs, sizeof bs));
    PARE_REQUIRE(args->result, PARE_ERR_ARGUMENT, "diff: result is NULL");
    return PARE_OK;
}

pare_status pare__check_digest(const pare_digest_args *args)
{
    PARE_REQUIRE(args->size >= 0, PARE_ERR_ARGUMENT,
                 "digest: size is %lld; it must not be negative", (long long)args->size);
    PARE_REQUIRE(args->bytes || args->size == 0, PARE_ERR_ARGUMENT,
                 "digest: bytes is NULL but size is %lld", (long long)args->size);
    PARE_REQUIRE(args->result, PARE_ERR_ARGUMENT, "digest: result is NULL");
    return PARE_OK;
}
