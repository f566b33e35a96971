/* quant_rtn.c - round to nearest. Start here to write your own quantiser.
 *
 * Each block gets the scale of its largest |w| (or, by search, the one of least squared error),
 * each weight the nearest code. s = amax / ((2^b - 1)/2), q = clamp(rint(w/s)); pare/ops_compress.h
 * has every formula. A zero weight gets the code of zero, so masks are kept. Source: the common
 * baseline of Frantar 2022 (GPTQ), section 4. Cost: one pass where a scale belongs to a part of a
 * row, else two, 82 with the search.
 */
#include "quant_impl.h"

#include "pare/ops.h"

#include "base/check.h"

/* The scale's own memory holds the upper ends until they are scales. */
static pare_status find_scales(pare_backend *be, const pare_quant_args *args)
{
    int64_t blocks = pare_tensor_count(&args->scale);
    pare_tensor lo = pare_vector(args->lo.data, PARE_F32, blocks);
    pare_tensor scale = pare_vector(args->scale.data, PARE_F32, blocks);
    PARE_TRY(pare_quant_range(be, &(pare_quant_range_args){.w = args->w,
                                                           .block_rows = args->block_rows,
                                                           .block_cols = args->block_cols,
                                                           .lo = args->lo,
                                                           .hi = args->scale}));
    PARE_TRY(pare_quant_scale(
        be, &(pare_quant_scale_args){.scheme = args->scheme,
                                     .scale_dtype = args->scale_dtype,
                                     .lo = lo,
                                     .hi = scale,
                                     .scale = scale,
                                     .zero = pare_vector(args->zero.data, PARE_I8, blocks)}));
    if (args->search == PARE_SCALE_MSE)
        PARE_TRY(pare_quant_search(be, &(pare_quant_search_args){.scheme = args->scheme,
                                                                 .scale_dtype = args->scale_dtype,
                                                                 .w = args->w,
                                                                 .block_rows = args->block_rows,
                                                                 .block_cols = args->block_cols,
                                                                 .scale = args->scale,
                                                                 .zero = args->zero}));
    return PARE_OK;
}

/* Scales that are quantised too become what will be read back. */
static pare_status nest_scales(pare_backend *be, const pare_quant_args *args)
{
    if (!args->scheme.double_quant)
        return PARE_OK;
    return pare_quant_nested(
        be, &(pare_quant_nested_args){
                .offset = args->scale_offset,
                .scale = pare_vector(args->scale.data, PARE_F32, pare_tensor_count(&args->scale)),
                .codes = args->scale_codes,
                .nested = args->nested});
}

/* Integer codes of blocks one row high: all in one pass. */
static bool is_one_pass(const pare_quant_args *args)
{
    return args->scheme.type == PARE_QUANT_INT && args->block_rows == 1 && !args->scale_known &&
           args->search == PARE_SCALE_ABSMAX;
}

static pare_status quantize(pare_backend *be, const pare_quant_args *args)
{
    if (is_one_pass(args)) {
        PARE_TRY(pare_quant_pack(be, &(pare_quant_pack_args){.scheme = args->scheme,
                                                             .scale_dtype = args->scale_dtype,
                                                             .w = args->w,
                                                             .block_cols = args->block_cols,
                                                             .scale = args->scale,
                                                             .zero = args->zero,
                                                             .codes = args->codes}));
        return PARE_OK;
    }
    if (!args->scale_known)
        PARE_TRY(find_scales(be, args));
    PARE_TRY(nest_scales(be, args));
    PARE_TRY(pare_quantize(be, &(pare_quantize_args){.scheme = args->scheme,
                                                     .w = args->w,
                                                     .block_rows = args->block_rows,
                                                     .block_cols = args->block_cols,
                                                     .scale = args->scale,
                                                     .zero = args->zero,
                                                     .codes = args->codes}));
    return PARE_OK;
}

const pare_quant_method pare__quant_rtn = {
    .name = "rtn",
    .summary = "round to nearest",
    .quantize = quantize,
};
