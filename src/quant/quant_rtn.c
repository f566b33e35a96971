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
pare_status pare__quant_find_scales(pare_backend *be, const pare_quant_args *args)
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
        PARE_TRY(pare__quant_find_scales(be, args));
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

/* ---- of a layer ------------------------------------------------------------------------------ */

pare_quant_args pare__quant_args(const pare_layer *layer, pare_scale_search search)
{
    return (pare_quant_args){.scheme = layer->scheme,
                             .search = search,
                             .scale_dtype = layer->scale_dtype,
                             .w = layer->w,
                             .block_rows = layer->block_rows,
                             .block_cols = layer->block_cols,
                             .scale = layer->scale,
                             .lo = layer->lo,
                             .zero = layer->zero,
                             .codes = layer->codes};
}

static pare_status decode(pare_backend *be, pare_layer *layer)
{
    return pare_dequantize(be, &(pare_dequantize_args){.scheme = layer->scheme,
                                                       .codes = layer->codes,
                                                       .block_rows = layer->block_rows,
                                                       .block_cols = layer->block_cols,
                                                       .scale = layer->scale,
                                                       .zero = layer->zero,
                                                       .w = layer->w});
}

pare_status pare__quant_apply(pare_backend *be, pare_layer *layer)
{
    pare_quant_args args = pare__quant_args(layer, PARE_SCALE_ABSMAX);
    args.scale_known = true;
    PARE_TRY(quantize(be, &args));
    return decode(be, layer);
}

pare_status pare_quant_round(pare_backend *be, pare_layer *layer, pare_scale_search search)
{
    PARE_REQUIRE(!layer->scheme.double_quant, PARE_ERR_ARGUMENT,
                 "%s: a layer's scales that are quantised too are known only when all are: use nf4",
                 layer->name);
    pare_quant_args args = pare__quant_args(layer, search);
    PARE_TRY(quantize(be, &args));
    return decode(be, layer);
}

static pare_status solve(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report)
{
    (void)tuning, (void)factor;
    PARE_REQUIRE(!choose, PARE_ERR_ARGUMENT, "rtn: zeros are chosen before it rounds");
    pare__trial trial;
    pare_status status = pare__trial_begin(be, layer, search, true, report, &trial);
    if (status == PARE_OK)
        status = pare__trial_give_up(be, &trial, NULL);
    pare__trial_free(be, &trial);
    PARE_TRY(status);
    return PARE_OK;
}

const pare_quant_method pare__quant_rtn = {
    .name = "rtn",
    .summary = "round to nearest",
    .quantize = quantize,
    .solve = solve,
};
