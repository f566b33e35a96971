/* ops_check_nn_quant.c - shape, dtype and overlap rules of the factorisation
 * and of the products of quantised weights. */
#include "ops_check.h"

#include "base/check.h"

#define MOST_TERMS 131071 /* ·128·128 stays below 2^31 */

pare_status pare__check_cholesky(const pare_cholesky_args *args)
{
    const pare__arg *a = PARE__ARG(cholesky, a);
    PARE_TRY(pare__arg_sound(a, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__arg_matrix(a, PARE_F32, args->a.shape[0], args->a.shape[0]));
    return PARE_OK;
}

/* x [M, K], c [M, N] of one dtype, and a bias [N] or none; c is apart from x,
 * bias and the others.
 */
static pare_status product_fits(const pare__arg *x, const pare__arg *bias, const pare__arg *c,
                                int64_t N, const pare__arg *const *others, int count)
{
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_matrix(c, x->tensor->dtype, x->tensor->shape[0], N));
    PARE_TRY(pare__arg_apart(c, x));
    if (bias->tensor->data) {
        PARE_TRY(pare__arg_vector(bias, PARE_F32, N));
        PARE_TRY(pare__arg_apart(c, bias));
    }
    for (int i = 0; i < count; i++)
        if (others[i]->tensor->data)
            PARE_TRY(pare__arg_apart(c, others[i]));
    return PARE_OK;
}

pare_status pare__check_qgemm_w8a8(const pare_qgemm_w8a8_args *args)
{
    const pare__arg *x = PARE__ARG(qgemm_w8a8, x), *w = PARE__ARG(qgemm_w8a8, w);
    const pare__arg *scale = PARE__ARG(qgemm_w8a8, scale), *bias = PARE__ARG(qgemm_w8a8, bias);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_I8)));
    int64_t K = args->x.shape[1], N = args->w.shape[0];
    PARE_REQUIRE(K <= MOST_TERMS, PARE_ERR_ARGUMENT,
                 "qgemm_w8a8: x has rows of %lld; sums of more than %d products "
                 "may not fit",
                 (long long)K, MOST_TERMS);
    PARE_TRY(pare__arg_matrix(w, PARE_I8, N, K));
    PARE_TRY(pare__arg_vector(scale, PARE_F32, N));
    return product_fits(x, bias, PARE__ARG(qgemm_w8a8, c), N, (const pare__arg *const[]){w, scale},
                        2);
}

pare_status pare__check_qgemm_w4a16(const pare_qgemm_w4a16_args *args)
{
    const pare__arg *x = PARE__ARG(qgemm_w4a16, x), *words = PARE__ARG(qgemm_w4a16, words);
    const pare__arg *scale = PARE__ARG(qgemm_w4a16, scale), *zero = PARE__ARG(qgemm_w4a16, zero);
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    PARE_TRY(pare__arg_sound(words, 2, PARE__SET(PARE_U8)));
    PARE_REQUIRE(args->group >= 8 && args->group % 8 == 0, PARE_ERR_ARGUMENT,
                 "qgemm_w4a16: group is %lld; it must be a multiple of 8", (long long)args->group);
    int64_t K = args->x.shape[1], N = args->words.shape[0];
    int64_t groups = pare__ceil_div(K, args->group);
    PARE_TRY(pare__arg_matrix(words, PARE_U8, N, pare_packed_bytes(PARE_PACK_STREAM, 4, K)));
    PARE_TRY(pare__arg_matrix(scale, PARE_F32, N, groups));
    if (args->zero.data)
        PARE_TRY(pare__arg_matrix(zero, PARE_I8, N, groups));
    return product_fits(x, PARE__ARG(qgemm_w4a16, bias), PARE__ARG(qgemm_w4a16, c), N,
                        (const pare__arg *const[]){words, scale, zero}, 3);
}
