/* masks_units.c - what schedules of masks ask of weights, as ops of the backend.
 *
 * A model's mask is a byte a weight; ops that choose give bits. Between the two stand floats, 1 and
 * 0: bytes are read as codes of a quantiser with step 1, and written as such. Room b holds which
 * units stay, a the keys, c is for what is needed at once.
 */
#include "masks_impl.h"

#include "pare/ops.h"

static const pare_scheme bytes = {.type = PARE_QUANT_INT, .bits = 8};

static int64_t bit_bytes(int64_t cols)
{
    return (cols + 7) / 8;
}

static bool is_block(const pare_masks *masks)
{
    return masks->options.pattern.kind == PARE_PATTERN_BLOCK;
}

pare_tensor pare__mask_matrix(const pare__mask_layer *l, float *x)
{
    return pare_matrix(x, PARE_F32, l->rows, l->cols);
}

pare_tensor pare__mask_units(const pare__mask_layer *l, float *x)
{
    return pare_matrix(x, PARE_F32, l->unit_rows, l->unit_cols);
}

pare_tensor pare__mask_value(const pare_masks *masks, const pare__mask_layer *l)
{
    return pare__mask_matrix(l, pare_model_param(masks->model, l->param)->value.data);
}

pare_tensor pare__mask_grad(const pare_masks *masks, const pare__mask_layer *l)
{
    return pare__mask_matrix(l, pare_model_param(masks->model, l->param)->grad.data);
}

static pare_tensor bits_of(const pare_masks *masks, const pare__mask_layer *l)
{
    return pare_matrix(masks->room.bits, PARE_U8, l->rows, bit_bytes(l->cols));
}

static pare_tensor unit_bits_of(const pare_masks *masks, const pare__mask_layer *l)
{
    return pare_matrix(masks->room.unit_bits, PARE_U8, l->unit_rows, bit_bytes(l->unit_cols));
}

/* The mask as codes. */
static pare_tensor codes_of(const pare_masks *masks, const pare__mask_layer *l)
{
    uint8_t *mask = pare_model_param(masks->model, l->param)->mask;
    return pare_matrix(mask, PARE_I8, l->rows, l->cols);
}

pare_status pare__mask_finite(const pare_masks *masks, const pare__mask_layer *l)
{
    pare_stats_result stats;
    PARE_TRY(pare_stats(masks->be,
                        &(pare_stats_args){.x = pare__mask_value(masks, l), .result = &stats}));
    PARE_REQUIRE(stats.nans == 0 && stats.infs == 0, PARE_ERR_NUMERIC,
                 "%s holds %lld NaN and %lld Inf: which of its weights are least cannot be said",
                 pare_model_param(masks->model, l->param)->name, (long long)stats.nans,
                 (long long)stats.infs);
    return PARE_OK;
}

/* ---- floats, bits and bytes ------------------------------------------------------------------ */

static pare_status fill(const pare_masks *masks, pare_tensor y, float value)
{
    return pare_fill(masks->be, &(pare_fill_args){.y = y, .value = value});
}

/* x [rows, cols] = 1 where the mask is. */
static pare_status read_bytes(const pare_masks *masks, const pare__mask_layer *l, float *x)
{
    return pare_dequantize(
        masks->be, &(pare_dequantize_args){.scheme = bytes,
                                           .codes = codes_of(masks, l),
                                           .block_rows = l->rows,
                                           .block_cols = l->cols,
                                           .scale = pare_matrix(masks->room.one, PARE_F32, 1, 1),
                                           .w = pare__mask_matrix(l, x)});
}

static pare_status write_bytes(const pare_masks *masks, const pare__mask_layer *l, float *x)
{
    return pare_quantize(
        masks->be, &(pare_quantize_args){.scheme = bytes,
                                         .w = pare__mask_matrix(l, x),
                                         .block_rows = l->rows,
                                         .block_cols = l->cols,
                                         .scale = pare_matrix(masks->room.one, PARE_F32, 1, 1),
                                         .codes = codes_of(masks, l)});
}

static pare_status nonzero(const pare_masks *masks, pare_tensor x, pare_tensor bits, int64_t *count)
{
    return pare_mask_nonzero(masks->be,
                             &(pare_mask_nonzero_args){.x = x, .mask = bits, .count = count});
}

static pare_status apply(const pare_masks *masks, pare_tensor x, pare_tensor bits)
{
    return pare_mask_apply(masks->be, &(pare_mask_apply_args){.x = x, .mask = bits});
}

pare_status pare__mask_read(pare_masks *masks, const pare__mask_layer *l, float *x, int64_t *stay)
{
    pare_tensor units = pare__mask_units(l, x), bits = unit_bits_of(masks, l), keys = units;
    PARE_TRY(read_bytes(masks, l, is_block(masks) ? masks->room.c : x));
    if (!is_block(masks))
        return nonzero(masks, units, bits, stay);
    keys.dtype = PARE_U32;
    PARE_TRY(pare_keys_block(
        masks->be, &(pare_keys_block_args){.x = pare__mask_matrix(l, masks->room.c),
                                           .block_rows = masks->options.pattern.block_rows,
                                           .block_cols = masks->options.pattern.block_cols,
                                           .keys = keys}));
    PARE_TRY(nonzero(masks, units, bits, stay));
    PARE_TRY(fill(masks, units, 1));
    return apply(masks, units, bits);
}

pare_status pare__mask_times_units(pare_masks *masks, const pare__mask_layer *l, float *x,
                                   float factor)
{
    pare_tensor line = pare_vector(masks->room.line, PARE_F32, l->unit_rows);
    pare_tensor units = pare__mask_units(l, x);
    PARE_TRY(fill(masks, line, factor));
    return pare_scale(masks->be, &(pare_scale_args){.x = units, .y = units, .rows = line});
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* What a score of the table is asked. */
static pare_score_args score_args(const pare_masks *masks, const pare__mask_layer *l)
{
    const pare_pattern *p = &masks->options.pattern;
    pare_score_args args = {.seed = masks->options.seed,
                            .stream = l->stream,
                            .w = pare__mask_value(masks, l),
                            .grad = pare__mask_grad(masks, l),
                            .block_rows = is_block(masks) ? p->block_rows : 1,
                            .block_cols = is_block(masks) ? p->block_cols : 1,
                            .keys = pare__mask_units(l, masks->room.a)};
    args.keys.dtype = PARE_U32;
    return args;
}

pare_status pare__mask_magnitudes(pare_masks *masks, const pare__mask_layer *l, pare_tensor x)
{
    pare_score_args args = score_args(masks, l);
    args.w = x;
    return pare__prune_magnitude.score(masks->be, &args);
}

pare_status pare__mask_keys(pare_masks *masks, const pare__mask_layer *l, float spread)
{
    const pare_prune_method *method = masks->options.method;
    pare_score_args args = score_args(masks, l);
    if (method == &pare__prune_movement)
        return pare__movement_keys(masks, l, spread);
    if (is_block(masks) && method->needs) { /* it may write over the gradient */
        args.grad.data = masks->room.c;
        PARE_TRY(pare_backend_copy(masks->be, args.grad.data, pare__mask_grad(masks, l).data,
                                   l->rows * l->cols * 4));
    }
    return method->score(masks->be, &args);
}

/* A key that is 0 where the unit stays would be as low as those of what went: the least float is
 * added to all that stay. */
pare_status pare__mask_above(pare_masks *masks, const pare__mask_layer *l, const float *stays)
{
    pare_tensor a = pare__mask_units(l, masks->room.a), c = pare__mask_units(l, masks->room.c);
    pare_tensor keys = a;
    keys.dtype = PARE_U32;
    PARE_TRY(pare_backend_copy(masks->be, c.data, stays, l->units * 4));
    PARE_TRY(
        pare_keys_scaled(masks->be, &(pare_keys_scaled_args){.w = a, .full = c, .keys = keys}));
    PARE_TRY(pare__mask_times_units(masks, l, c.data, 0x1p-149f));
    return pare_add(masks->be, &(pare_add_args){.a = a, .b = c, .y = a});
}

pare_status pare__mask_lowest(pare_masks *masks, const pare__mask_layer *l, int64_t goes)
{
    uint32_t threshold = 0;
    int64_t below = 0, equal;
    pare_tensor keys = pare__mask_units(l, masks->room.a);
    keys.dtype = PARE_U32;
    if (goes > 0)
        PARE_TRY(pare_select_kth(
            masks->be, &(pare_select_kth_args){.x = pare_vector(keys.data, PARE_U32, l->units),
                                               .k = goes,
                                               .threshold = &threshold,
                                               .below = &below,
                                               .equal = &equal}));
    return pare_mask_select(masks->be, &(pare_mask_select_args){.x = keys,
                                                                .threshold = threshold,
                                                                .ties = goes - below,
                                                                .mask = unit_bits_of(masks, l)});
}

/* ---- the mask itself ------------------------------------------------------------------------- */

/* Weights where the mask is 1; with revival the others go aside. */
static pare_status put_values(pare_masks *masks, const pare__mask_layer *l)
{
    const int64_t n = l->rows * l->cols;
    pare_tensor value = pare__mask_value(masks, l);
    if (l->dense)
        PARE_TRY(pare_backend_copy(masks->be, l->dense, value.data, n * 4));
    PARE_TRY(apply(masks, value, bits_of(masks, l)));
    if (l->dense) /* minus what stays */
        PARE_TRY(pare_sgd(masks->be, &(pare_sgd_args){.w = pare_vector(l->dense, PARE_F32, n),
                                                      .g = pare_vector(value.data, PARE_F32, n),
                                                      .rate = 1,
                                                      .grad_scale = 1}));
    return PARE_OK;
}

pare_status pare__mask_put(pare_masks *masks, const pare__mask_layer *l, bool whole_bits,
                           bool narrow)
{
    const pare_pattern *p = &masks->options.pattern;
    pare_tensor c = pare__mask_matrix(l, masks->room.c), bits = bits_of(masks, l);
    pare_tensor from = whole_bits || is_block(masks) ? bits : unit_bits_of(masks, l);
    if (!whole_bits && is_block(masks))
        PARE_TRY(
            pare_mask_expand(masks->be, &(pare_mask_expand_args){.blocks = unit_bits_of(masks, l),
                                                                 .block_rows = p->block_rows,
                                                                 .block_cols = p->block_cols,
                                                                 .rows = l->rows,
                                                                 .cols = l->cols,
                                                                 .mask = bits}));
    if (narrow)
        PARE_TRY(read_bytes(masks, l, c.data));
    else
        PARE_TRY(fill(masks, c, 1));
    PARE_TRY(apply(masks, c, from));
    PARE_TRY(write_bytes(masks, l, c.data));
    PARE_TRY(nonzero(masks, c, bits, NULL));
    return put_values(masks, l);
}

pare_status pare__mask_open(pare_masks *masks)
{
    for (int64_t i = 0; i < masks->count; i++) {
        const pare__mask_layer *l = &masks->layers[i];
        PARE_TRY(fill(masks, pare__mask_matrix(l, masks->room.c), 1));
        PARE_TRY(write_bytes(masks, l, masks->room.c));
    }
    return PARE_OK;
}
