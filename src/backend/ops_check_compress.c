/* ops_check_compress.c - shape, dtype and overlap rules of the ops in ops_compress.h. */
#include "ops_check.h"

#include "base/check.h"

/* ---- helpers --------------------------------------------------------------------------------- */

static pare_status check_block(const char *op, int64_t block_rows, int64_t block_cols)
{
    PARE_REQUIRE(block_rows >= 1 && block_cols >= 1, PARE_ERR_ARGUMENT,
                 "%s: a block of %lld × %lld; both must be at least 1", op, (long long)block_rows,
                 (long long)block_cols);
    return PARE_OK;
}

/* out is [ceil(R/block_rows), ceil(C/block_cols)] of the matrix x [R, C]. */
static pare_status check_per_block(const pare__arg *out, pare_dtype dtype, const pare_tensor *x,
                                   int64_t block_rows, int64_t block_cols)
{
    PARE_TRY(check_block(out->op, block_rows, block_cols));
    PARE_TRY(pare__arg_matrix(out, dtype, pare__ceil_div(x->shape[0], block_rows),
                              pare__ceil_div(x->shape[1], block_cols)));
    return PARE_OK;
}

pare_status pare__arg_mask(const pare__arg *mask, int64_t rows, int64_t cols)
{
    PARE_TRY(pare__arg_matrix(mask, PARE_U8, rows, pare__ceil_div(cols, 8)));
    return PARE_OK;
}

/* x is a matrix of one of the dtypes, mask fits it and lies apart. */
static pare_status check_masked(const pare__arg *x, unsigned dtypes, const pare__arg *mask)
{
    PARE_TRY(pare__arg_sound(x, 2, dtypes));
    PARE_TRY(pare__arg_mask(mask, x->tensor->shape[0], x->tensor->shape[1]));
    PARE_TRY(pare__arg_apart(mask, x));
    return PARE_OK;
}

pare_status pare__scheme_sound(const char *op, const pare_scheme *scheme, bool with_nf4)
{
    switch (scheme->type) {
    case PARE_QUANT_INT:
        PARE_REQUIRE(scheme->bits >= 2 && scheme->bits <= 8, PARE_ERR_ARGUMENT,
                     "%s: integer codes of %d bits; they have 2 to 8", op, scheme->bits);
        return PARE_OK;
    case PARE_QUANT_E4M3:
    case PARE_QUANT_NF4:
        PARE_REQUIRE(with_nf4 || scheme->type != PARE_QUANT_NF4, PARE_ERR_ARGUMENT,
                     "%s: nf4 has no search for a scale; use its absmax", op);
        PARE_REQUIRE(scheme->bits == (scheme->type == PARE_QUANT_NF4 ? 4 : 8), PARE_ERR_ARGUMENT,
                     "%s: %d bits; E4M3 has 8 and NF4 has 4", op, scheme->bits);
        PARE_REQUIRE(!scheme->asymmetric, PARE_ERR_ARGUMENT,
                     "%s: zero points go with integer codes only", op);
        return PARE_OK;
    default:
        PARE_FAIL(PARE_ERR_ARGUMENT, "%s: the scheme is none; give one that quantises", op);
    }
}

static pare_status check_scale_dtype(const char *op, pare_dtype dtype)
{
    PARE_REQUIRE(pare_dtype_is_weight(dtype), PARE_ERR_ARGUMENT,
                 "%s: scale_dtype is %s; it must be F32, F16 or BF16", op, pare_dtype_name(dtype));
    return PARE_OK;
}

/* zero has the shape of scale and lies apart from it, or has no data if the scheme is symmetric. */
static pare_status check_zero(const pare_scheme *scheme, const pare__arg *zero,
                              const pare__arg *scale)
{
    const pare_tensor *s = scale->tensor;
    if (!scheme->asymmetric) {
        PARE_REQUIRE(!zero->tensor->data, PARE_ERR_ARGUMENT,
                     "%s: zero is given with a symmetric scheme; leave its data NULL", zero->op);
        return PARE_OK;
    }
    if (s->rank == 1)
        PARE_TRY(pare__arg_vector(zero, PARE_I8, s->shape[0]));
    else
        PARE_TRY(pare__arg_matrix(zero, PARE_I8, s->shape[0], s->shape[1]));
    PARE_TRY(pare__arg_apart(zero, scale));
    return PARE_OK;
}

pare_status pare__scales_sound(const pare_scheme *scheme, const pare__arg *scale,
                               const pare__arg *zero, const pare_tensor *x, int64_t block_rows,
                               int64_t block_cols)
{
    PARE_TRY(check_per_block(scale, PARE_F32, x, block_rows, block_cols));
    PARE_TRY(check_zero(scheme, zero, scale));
    return PARE_OK;
}

/* ---- keys ------------------------------------------------------------------------------------ */

pare_status pare__check_keys(const pare_keys_args *args)
{
    const pare__arg *x = PARE__ARG(keys, x), *keys = PARE__ARG(keys, keys);
    PARE_TRY(pare__arg_sound(x, 1, PARE__WEIGHTS));
    PARE_TRY(pare__arg_vector(keys, PARE_U32, args->x.shape[0]));
    if (args->x.dtype == PARE_F32)
        PARE_TRY(pare__arg_apart_or_same(keys, x));
    else
        PARE_TRY(pare__arg_apart(keys, x));
    return PARE_OK;
}

pare_status pare__check_keys_random(const pare_keys_random_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(keys_random, keys), 1, PARE__SET(PARE_U32)));
    return PARE_OK;
}

pare_status pare__check_keys_block(const pare_keys_block_args *args)
{
    const pare__arg *x = PARE__ARG(keys_block, x), *keys = PARE__ARG(keys_block, keys);
    PARE_TRY(pare__arg_sound(x, 2, PARE__SET(PARE_F32)));
    PARE_TRY(check_per_block(keys, PARE_U32, &args->x, args->block_rows, args->block_cols));
    PARE_TRY(pare__arg_apart(keys, x));
    return PARE_OK;
}

/* ---- selection ------------------------------------------------------------------------------- */

pare_status pare__check_select_hist(const pare_select_hist_args *args)
{
    const pare__arg *x = PARE__ARG(select_hist, x), *bins = PARE__ARG(select_hist, bins);
    PARE_REQUIRE(args->prefix < PARE_SELECT_HIGH_BINS, PARE_ERR_ARGUMENT,
                 "select_hist: prefix is %d; it must be below %d", args->prefix,
                 PARE_SELECT_HIGH_BINS);
    PARE_TRY(pare__arg_sound(x, 1, PARE__KEYS));
    PARE_TRY(pare__arg_vector(bins, PARE_I64,
                              args->prefix < 0 ? PARE_SELECT_HIGH_BINS : PARE_SELECT_LOW_BINS));
    PARE_TRY(pare__arg_apart(bins, x));
    return PARE_OK;
}

pare_status pare__check_select_count(const pare_select_count_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(select_count, x), 1, PARE__KEYS));
    PARE_REQUIRE(args->below && args->equal, PARE_ERR_ARGUMENT,
                 "select_count: below or equal is NULL; both are wanted");
    return PARE_OK;
}

pare_status pare__check_select_kth(const pare_select_kth_args *args)
{
    PARE_TRY(pare__arg_sound(PARE__ARG(select_kth, x), 1, PARE__KEYS));
    PARE_REQUIRE(args->k >= 1 && args->k <= args->x.shape[0], PARE_ERR_ARGUMENT,
                 "select_kth: k is %lld; x has %lld keys and the first is number 1",
                 (long long)args->k, (long long)args->x.shape[0]);
    PARE_REQUIRE(args->threshold && args->below && args->equal, PARE_ERR_ARGUMENT,
                 "select_kth: threshold, below or equal is NULL; all three are wanted");
    return PARE_OK;
}

pare_status pare__check_mask_select(const pare_mask_select_args *args)
{
    PARE_TRY(check_masked(PARE__ARG(mask_select, x), PARE__KEYS, PARE__ARG(mask_select, mask)));
    PARE_REQUIRE(args->ties >= 0, PARE_ERR_ARGUMENT,
                 "mask_select: ties is %lld; it must not be negative", (long long)args->ties);
    return PARE_OK;
}

/* ---- masks ----------------------------------------------------------------------------------- */

pare_status pare__check_mask_nm(const pare_mask_nm_args *args)
{
    PARE_TRY(check_masked(PARE__ARG(mask_nm, x), PARE__KEYS, PARE__ARG(mask_nm, mask)));
    PARE_REQUIRE(
        args->m >= 1 && args->m <= 256 && args->n >= 0 && args->n <= args->m, PARE_ERR_ARGUMENT,
        "mask_nm: the pattern %d:%d; 0 ≤ n ≤ m and 1 ≤ m ≤ 256 must hold", args->n, args->m);
    PARE_REQUIRE(args->x.shape[1] % args->m == 0, PARE_ERR_ARGUMENT,
                 "mask_nm: x has rows of %lld; %d:%d needs a multiple of %d",
                 (long long)args->x.shape[1], args->n, args->m, args->m);
    return PARE_OK;
}

pare_status pare__check_mask_expand(const pare_mask_expand_args *args)
{
    const pare__arg *blocks = PARE__ARG(mask_expand, blocks), *mask = PARE__ARG(mask_expand, mask);
    PARE_REQUIRE(args->rows >= 0 && args->cols >= 0, PARE_ERR_ARGUMENT,
                 "mask_expand: a matrix of %lld × %lld; neither may be negative",
                 (long long)args->rows, (long long)args->cols);
    PARE_TRY(check_block(mask->op, args->block_rows, args->block_cols));
    PARE_TRY(pare__arg_mask(mask, args->rows, args->cols));
    PARE_TRY(pare__arg_mask(blocks, pare__ceil_div(args->rows, args->block_rows),
                            pare__ceil_div(args->cols, args->block_cols)));
    PARE_TRY(pare__arg_apart(mask, blocks));
    return PARE_OK;
}

pare_status pare__check_mask_nonzero(const pare_mask_nonzero_args *args)
{
    PARE_TRY(
        check_masked(PARE__ARG(mask_nonzero, x), PARE__WEIGHTS, PARE__ARG(mask_nonzero, mask)));
    return PARE_OK;
}

pare_status pare__check_mask_apply(const pare_mask_apply_args *args)
{
    PARE_TRY(check_masked(PARE__ARG(mask_apply, x), PARE__WEIGHTS, PARE__ARG(mask_apply, mask)));
    return PARE_OK;
}

pare_status pare__check_mask_compact(const pare_mask_compact_args *args)
{
    const pare__arg *x = PARE__ARG(mask_compact, x), *mask = PARE__ARG(mask_compact, mask);
    const pare__arg *values = PARE__ARG(mask_compact, values);
    const pare__arg *counts = PARE__ARG(mask_compact, row_counts);
    PARE_TRY(check_masked(x, PARE__WEIGHTS, mask));
    PARE_TRY(pare__arg_sound(values, 1, PARE__SET(args->x.dtype)));
    PARE_TRY(pare__arg_apart(values, x));
    PARE_TRY(pare__arg_apart(values, mask));
    if (!args->row_counts.data)
        return PARE_OK;
    PARE_TRY(pare__arg_vector(counts, PARE_I64, args->x.shape[0]));
    PARE_TRY(pare__arg_apart(counts, x));
    PARE_TRY(pare__arg_apart(counts, mask));
    PARE_TRY(pare__arg_apart(counts, values));
    return PARE_OK;
}

pare_status pare__check_mask_scatter(const pare_mask_scatter_args *args)
{
    const pare__arg *x = PARE__ARG(mask_scatter, x), *values = PARE__ARG(mask_scatter, values);
    PARE_TRY(check_masked(x, PARE__WEIGHTS, PARE__ARG(mask_scatter, mask)));
    PARE_TRY(pare__arg_sound(values, 1, PARE__SET(args->x.dtype)));
    PARE_TRY(pare__arg_apart(x, values));
    return PARE_OK;
}

/* ---- quantisation ---------------------------------------------------------------------------- */

pare_status pare__check_quant_range(const pare_quant_range_args *args)
{
    const pare__arg *w = PARE__ARG(quant_range, w), *lo = PARE__ARG(quant_range, lo);
    const pare__arg *hi = PARE__ARG(quant_range, hi);
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_F32)));
    PARE_TRY(check_per_block(lo, PARE_F32, &args->w, args->block_rows, args->block_cols));
    PARE_TRY(check_per_block(hi, PARE_F32, &args->w, args->block_rows, args->block_cols));
    PARE_TRY(pare__arg_apart(lo, w));
    PARE_TRY(pare__arg_apart(hi, w));
    PARE_TRY(pare__arg_apart(hi, lo));
    return PARE_OK;
}

pare_status pare__check_quant_scale(const pare_quant_scale_args *args)
{
    const pare__arg *lo = PARE__ARG(quant_scale, lo), *hi = PARE__ARG(quant_scale, hi);
    const pare__arg *scale = PARE__ARG(quant_scale, scale), *zero = PARE__ARG(quant_scale, zero);
    PARE_TRY(pare__scheme_sound(lo->op, &args->scheme, true));
    PARE_TRY(check_scale_dtype(lo->op, args->scale_dtype));
    PARE_TRY(pare__arg_sound(lo, 1, PARE__SET(PARE_F32)));
    int64_t n = args->lo.shape[0];
    PARE_TRY(pare__arg_vector(hi, PARE_F32, n));
    PARE_TRY(pare__arg_vector(scale, PARE_F32, n));
    PARE_TRY(check_zero(&args->scheme, zero, scale));
    PARE_TRY(pare__arg_apart(scale, lo));
    PARE_TRY(pare__arg_apart_or_same(scale, hi));
    if (args->scheme.asymmetric) {
        PARE_TRY(pare__arg_apart(zero, lo));
        PARE_TRY(pare__arg_apart(zero, hi));
    }
    return PARE_OK;
}

pare_status pare__check_quant_error(const pare_quant_error_args *args)
{
    const pare__arg *w = PARE__ARG(quant_error, w);
    PARE_TRY(pare__scheme_sound(w->op, &args->scheme, false));
    PARE_TRY(check_scale_dtype(w->op, args->scale_dtype));
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_F32)));
    PARE_REQUIRE(args->errors, PARE_ERR_ARGUMENT, "quant_error: errors is NULL");
    int limit = args->scheme.asymmetric ? 1 << (args->scheme.bits - 1) : 0;
    PARE_REQUIRE(args->zero >= -limit && args->zero <= (limit ? limit - 1 : 0), PARE_ERR_ARGUMENT,
                 "quant_error: zero is %d; with this scheme it lies between %d and %d", args->zero,
                 -limit, limit ? limit - 1 : 0);
    return PARE_OK;
}

pare_status pare__check_quant_search(const pare_quant_search_args *args)
{
    const pare__arg *w = PARE__ARG(quant_search, w), *scale = PARE__ARG(quant_search, scale);
    const pare__arg *zero = PARE__ARG(quant_search, zero);
    PARE_TRY(pare__scheme_sound(w->op, &args->scheme, false));
    PARE_TRY(check_scale_dtype(w->op, args->scale_dtype));
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__scales_sound(&args->scheme, scale, zero, &args->w, args->block_rows,
                                args->block_cols));
    PARE_TRY(pare__arg_apart(scale, w));
    return PARE_OK;
}

static pare_status check_nested(const pare__arg *scale, const pare__arg *codes,
                                const pare__arg *nested)
{
    PARE_TRY(pare__arg_sound(scale, 1, PARE__SET(PARE_F32)));
    int64_t n = scale->tensor->shape[0];
    PARE_TRY(pare__arg_vector(codes, PARE_U8, n));
    PARE_TRY(pare__arg_vector(nested, PARE_F32, pare__ceil_div(n, PARE_NESTED_BLOCK)));
    PARE_TRY(pare__arg_apart(scale, codes));
    PARE_TRY(pare__arg_apart(scale, nested));
    PARE_TRY(pare__arg_apart(codes, nested));
    return PARE_OK;
}

pare_status pare__check_quant_nested(const pare_quant_nested_args *args)
{
    PARE_TRY(check_nested(PARE__ARG(quant_nested, scale), PARE__ARG(quant_nested, codes),
                          PARE__ARG(quant_nested, nested)));
    PARE_REQUIRE(args->offset - args->offset == 0, PARE_ERR_ARGUMENT,
                 "quant_nested: offset is %g; it must be finite", (double)args->offset);
    return PARE_OK;
}

pare_status pare__check_dequant_nested(const pare_dequant_nested_args *args)
{
    return check_nested(PARE__ARG(dequant_nested, scale), PARE__ARG(dequant_nested, codes),
                        PARE__ARG(dequant_nested, nested));
}

pare_status pare__check_quantize(const pare_quantize_args *args)
{
    const pare__arg *w = PARE__ARG(quantize, w), *scale = PARE__ARG(quantize, scale);
    const pare__arg *zero = PARE__ARG(quantize, zero), *codes = PARE__ARG(quantize, codes);
    PARE_TRY(pare__scheme_sound(w->op, &args->scheme, true));
    PARE_TRY(pare__arg_sound(w, 2, PARE__SET(PARE_F32)));
    PARE_TRY(pare__scales_sound(&args->scheme, scale, zero, &args->w, args->block_rows,
                                args->block_cols));
    PARE_TRY(pare__arg_matrix(codes, PARE_I8, args->w.shape[0], args->w.shape[1]));
    PARE_TRY(pare__arg_apart(codes, w));
    PARE_TRY(pare__arg_apart(codes, scale));
    if (args->scheme.asymmetric)
        PARE_TRY(pare__arg_apart(codes, zero));
    return PARE_OK;
}

pare_status pare__check_dequantize(const pare_dequantize_args *args)
{
    const pare__arg *w = PARE__ARG(dequantize, w), *scale = PARE__ARG(dequantize, scale);
    const pare__arg *zero = PARE__ARG(dequantize, zero), *codes = PARE__ARG(dequantize, codes);
    PARE_TRY(pare__scheme_sound(w->op, &args->scheme, true));
    PARE_TRY(pare__arg_sound(w, 2, PARE__WEIGHTS));
    PARE_TRY(pare__scales_sound(&args->scheme, scale, zero, &args->w, args->block_rows,
                                args->block_cols));
    PARE_TRY(pare__arg_matrix(codes, PARE_I8, args->w.shape[0], args->w.shape[1]));
    PARE_TRY(pare__arg_apart(w, codes));
    PARE_TRY(pare__arg_apart(w, scale));
    if (args->scheme.asymmetric)
        PARE_TRY(pare__arg_apart(w, zero));
    return PARE_OK;
}

/* ---- packing --------------------------------------------------------------------------------- */

int64_t pare_packed_bytes(pare_packing packing, int bits, int64_t cols)
{
    if (packing == PARE_PACK_NIBBLES)
        return pare__ceil_div(cols, 2);
    if (packing == PARE_PACK_ALIGNED)
        return pare__ceil_div(cols, 32 / bits) * 4;
    return cols / 32 * bits * 4 + (cols % 32 * bits + 31) / 32 * 4;
}

static pare_status check_packed(const pare__arg *words, const pare__arg *codes,
                                pare_packing packing, int bits)
{
    PARE_REQUIRE((unsigned)packing <= PARE_PACK_NIBBLES, PARE_ERR_ARGUMENT, "%s: no packing %d",
                 words->op, (int)packing);
    PARE_REQUIRE(bits >= 1 && bits <= 8 && (packing != PARE_PACK_NIBBLES || bits == 4),
                 PARE_ERR_ARGUMENT, "%s: codes of %d bits; 1 to 8 are possible, 4 as nibbles",
                 words->op, bits);
    PARE_TRY(pare__arg_sound(codes, 2, PARE__SET(PARE_I8)));
    int64_t rows = codes->tensor->shape[0], cols = codes->tensor->shape[1];
    if (packing == PARE_PACK_NIBBLES)
        PARE_TRY(
            pare__arg_matrix(words, PARE_U8, 1, pare_packed_bytes(packing, bits, rows * cols)));
    else
        PARE_TRY(pare__arg_matrix(words, PARE_U8, rows, pare_packed_bytes(packing, bits, cols)));
    PARE_TRY(pare__arg_apart(words, codes));
    return PARE_OK;
}

pare_status pare__check_pack(const pare_pack_args *args)
{
    PARE_TRY(
        check_packed(PARE__ARG(pack, words), PARE__ARG(pack, codes), args->packing, args->bits));
    return PARE_OK;
}

pare_status pare__check_unpack(const pare_unpack_args *args)
{
    PARE_TRY(check_packed(PARE__ARG(unpack, words), PARE__ARG(unpack, codes), args->packing,
                          args->bits));
    return PARE_OK;
}

pare_status pare__check_quant_pack(const pare_quant_pack_args *args)
{
    const pare__arg *w = PARE__ARG(quant_pack, w), *scale = PARE__ARG(quant_pack, scale);
    const pare__arg *zero = PARE__ARG(quant_pack, zero), *codes = PARE__ARG(quant_pack, codes);
    const pare__arg *words = PARE__ARG(quant_pack, words);
    const pare__arg *const outputs[] = {scale, zero, codes, words};
    PARE_REQUIRE(args->scheme.type == PARE_QUANT_INT, PARE_ERR_ARGUMENT,
                 "quant_pack: integer codes only; take quantize for others");
    PARE_TRY(pare__scheme_sound(w->op, &args->scheme, false));
    PARE_TRY(check_scale_dtype(w->op, args->scale_dtype));
    PARE_TRY(pare__arg_sound(w, 2, PARE__WEIGHTS));
    PARE_TRY(pare__scales_sound(&args->scheme, scale, zero, &args->w, 1, args->block_cols));
    int64_t R = args->w.shape[0], C = args->w.shape[1];
    int64_t bytes = pare_packed_bytes(PARE_PACK_STREAM, args->scheme.bits, C);
    if (args->codes.data)
        PARE_TRY(pare__arg_matrix(codes, PARE_I8, R, C));
    if (args->words.data)
        PARE_TRY(pare__arg_matrix(words, PARE_U8, R, bytes));
    PARE_REQUIRE(args->codes.data || args->words.data || R == 0 || C == 0, PARE_ERR_ARGUMENT,
                 "quant_pack: neither codes nor words are given; one must be");
    for (int i = 0; i < 4; i++) {
        if (!outputs[i]->tensor->data)
            continue;
        PARE_TRY(pare__arg_apart(outputs[i], w));
        for (int j = 0; j < i; j++)
            if (outputs[j]->tensor->data)
                PARE_TRY(pare__arg_apart(outputs[i], outputs[j]));
    }
    return PARE_OK;
}
