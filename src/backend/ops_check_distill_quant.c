/* ops_check_distill_quant.c - rules of the quantisers that training looks through. */
#include "ops_check.h"

#include "base/check.h"

/* x, the steps of its blocks, a mask or none, and the range of codes. */
static pare_status check_grid(const pare__arg *x, const pare__arg *step, const pare__arg *mask,
                              int64_t block_rows, int64_t block_cols, int lo, int hi)
{
    PARE_TRY(pare__arg_sound(x, 2, PARE__ACTS));
    int64_t R = x->tensor->shape[0], C = x->tensor->shape[1];
    PARE_REQUIRE(block_rows >= 1 && block_cols >= 1, PARE_ERR_ARGUMENT,
                 "%s: a block is %lld × %lld; it has one element at least", x->op,
                 (long long)block_rows, (long long)block_cols);
    PARE_TRY(pare__arg_matrix(step, PARE_F32, pare__ceil_div(R, block_rows),
                              pare__ceil_div(C, block_cols)));
    if (mask->tensor->data)
        PARE_TRY(pare__arg_matrix(mask, PARE_U8, R, C));
    PARE_REQUIRE(lo >= -128 && lo <= 0 && hi >= 0 && hi <= 127, PARE_ERR_ARGUMENT,
                 "%s: codes from %d to %d; they lie in -128 … 127, and 0 is one of them", x->op, lo,
                 hi);
    return PARE_OK;
}

static pare_status check_apart(const pare__arg *out, const pare__arg *const in[], int count)
{
    for (int i = 0; i < count; i++)
        if (out->tensor->data && in[i]->tensor->data)
            PARE_TRY(pare__arg_apart(out, in[i]));
    return PARE_OK;
}

pare_status pare__check_fake_quant(const pare_fake_quant_args *args)
{
    const pare__arg *x = PARE__ARG(fake_quant, x), *y = PARE__ARG(fake_quant, y);
    const pare__arg *step = PARE__ARG(fake_quant, step), *mask = PARE__ARG(fake_quant, mask);
    const pare__arg *codes = PARE__ARG(fake_quant, codes);
    PARE_TRY(check_grid(x, step, mask, args->block_rows, args->block_cols, args->lo, args->hi));
    PARE_TRY(pare__arg_matrix(y, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_apart_or_same(y, x));
    PARE_TRY(check_apart(y, (const pare__arg *const[]){step, mask}, 2));
    if (args->codes.data)
        PARE_TRY(pare__arg_matrix(codes, PARE_I8, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(check_apart(codes, (const pare__arg *const[]){x, step, mask, y}, 4));
    return PARE_OK;
}

pare_status pare__check_fake_quant_grad(const pare_fake_quant_grad_args *args)
{
    const pare__arg *x = PARE__ARG(fake_quant_grad, x), *step = PARE__ARG(fake_quant_grad, step);
    const pare__arg *mask = PARE__ARG(fake_quant_grad, mask), *dy = PARE__ARG(fake_quant_grad, dy);
    const pare__arg *dx = PARE__ARG(fake_quant_grad, dx);
    const pare__arg *dstep = PARE__ARG(fake_quant_grad, dstep);
    PARE_TRY(check_grid(x, step, mask, args->block_rows, args->block_cols, args->lo, args->hi));
    PARE_TRY(pare__arg_matrix(dy, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_matrix(dx, args->x.dtype, args->x.shape[0], args->x.shape[1]));
    PARE_TRY(pare__arg_apart_or_same(dx, dy));
    PARE_TRY(check_apart(dx, (const pare__arg *const[]){x, step, mask}, 3));
    if (args->dstep.data)
        PARE_TRY(pare__arg_matrix(dstep, PARE_F32, args->step.shape[0], args->step.shape[1]));
    PARE_TRY(check_apart(dstep, (const pare__arg *const[]){x, step, mask, dy, dx}, 5));
    return PARE_OK;
}
