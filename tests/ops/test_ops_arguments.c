/* Wrong shapes, dtypes, overlaps and NULLs are refused, with the op and the argument in the
 * sentence. */
#include "ops_refuse.h"

#include <math.h>

/* Memory for every test: F32 [4, 8] and friends, aligned, apart from each other. */
typedef struct memory {
    float x[64], y[64];
    uint16_t h[64];
    uint32_t keys[64];
    int64_t bins[PARE_SELECT_LOW_BINS];
    uint8_t mask[64], bytes[256];
    int8_t codes[64], zero[64];
    float scale[64];
    double errors[PARE_QUANT_CANDIDATES];
} memory;
static memory m;

static void a_missing_backend_or_argument_is_refused(void **state)
{
    (void)state;
#define NO_BACKEND(op)                                                                             \
    assert_status(pare_##op(NULL, &(pare_##op##_args){0}), PARE_ERR_ARGUMENT);                     \
    assert_status(pare_##op(be, NULL), PARE_ERR_ARGUMENT);                                         \
    assert_non_null(strstr(pare_last_error(), #op));
    PARE_OPS(NO_BACKEND)
}

static void arguments_left_out_are_refused(void **state)
{
    (void)state;
#define EMPTY(op) assert_status(pare_##op(be, &(pare_##op##_args){0}), PARE_ERR_ARGUMENT);
    PARE_OPS(EMPTY)
}

static void cast_wants_as_many_weights_apart_or_in_place(void **state)
{
    (void)state;
    pare_cast_args good = {.x = pare_vector(m.x, PARE_F32, 32),
                           .y = pare_vector(m.h, PARE_F16, 32)};
    TAKEN(cast);
    REFUSED(cast, "x", bad.x.dtype = PARE_I32);
    REFUSED(cast, "F32, F16 or BF16", bad.y.dtype = PARE_U8);
    REFUSED(cast, "[31]", bad.y.shape[0] = 31);
    REFUSED(cast, "NULL", bad.x.data = NULL);
    REFUSED(cast, "aligned", bad.y.data = m.bytes + 1);
    REFUSED(cast, "overlap", bad.y.data = m.x);
    REFUSED(cast, "overlap", bad.y = pare_vector(m.x + 1, PARE_F32, 32));
    REFUSED(cast, "shape", bad.x.rank = PARE_MAX_RANK + 1);
    REFUSED(cast, "shape", bad.x.shape[0] = -1);
    good.y = good.x;
    TAKEN(cast);
}

static void stats_diff_and_digest_want_a_result(void **state)
{
    (void)state;
    pare_stats_result stats;
    pare_diff_result diff;
    uint64_t digest[2] = {0};
    {
        pare_stats_args good = {.x = pare_vector(m.x, PARE_F32, 4), .result = &stats};
        TAKEN(stats);
        REFUSED(stats, "result", bad.result = NULL);
        REFUSED(stats, "x", bad.x.dtype = PARE_F64);
    }
    {
        pare_diff_args good = {.a = pare_vector(m.x, PARE_F32, 4),
                               .b = pare_vector(m.y, PARE_F32, 4),
                               .result = &diff};
        TAKEN(diff);
        REFUSED(diff, "result", bad.result = NULL);
        REFUSED(diff, "b is", bad.b.dtype = PARE_F16);
        REFUSED(diff, "[5]", bad.a.shape[0] = 5);
    }
    {
        pare_digest_args good = {.bytes = m.bytes, .size = 9, .result = digest};
        TAKEN(digest);
        REFUSED(digest, "result", bad.result = NULL);
        REFUSED(digest, "bytes", bad.bytes = NULL);
        REFUSED(digest, "size", bad.size = -1);
    }
}

static void keys_are_u32_vectors_as_long_as_x(void **state)
{
    (void)state;
    pare_keys_args good = {.x = pare_vector(m.x, PARE_F32, 32),
                           .keys = pare_vector(m.keys, PARE_U32, 32)};
    TAKEN(keys);
    REFUSED(keys, "keys", bad.keys.dtype = PARE_I32);
    REFUSED(keys, "keys is [31]", bad.keys.shape[0] = 31);
    REFUSED(keys, "1 dimension", bad.x = pare_matrix(m.x, PARE_F32, 4, 8));
    REFUSED(keys, "overlap", bad.keys.data = m.x + 1);
    good.keys.data = m.x;
    TAKEN(keys);
    pare_keys_random_args random = {.keys = pare_vector(m.keys, PARE_U64, 4)};
    assert_status(pare_keys_random(be, &random), PARE_ERR_ARGUMENT);
}

static void keys_block_wants_one_key_a_block(void **state)
{
    (void)state;
    pare_keys_block_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                                 .block_rows = 3,
                                 .block_cols = 3,
                                 .keys = pare_matrix(m.keys, PARE_U32, 2, 3)};
    TAKEN(keys_block);
    REFUSED(keys_block, "block", bad.block_rows = 0);
    REFUSED(keys_block, "block", bad.block_cols = -3);
    REFUSED(keys_block, "[2, 3]", bad.keys.shape[1] = 2);
    REFUSED(keys_block, "x", bad.x.dtype = PARE_F16);
    REFUSED(keys_block, "overlap", bad.keys.data = m.x);
}

static void select_hist_wants_its_bins(void **state)
{
    (void)state;
    pare_select_hist_args good = {.x = pare_vector(m.x, PARE_F32, 32),
                                  .prefix = -1,
                                  .bins = pare_vector(m.bins, PARE_I64, PARE_SELECT_HIGH_BINS)};
    TAKEN(select_hist);
    REFUSED(select_hist, "bins", bad.prefix = 3);
    REFUSED(select_hist, "prefix", bad.prefix = PARE_SELECT_HIGH_BINS);
    REFUSED(select_hist, "x", bad.x.dtype = PARE_F16);
    REFUSED(select_hist, "bins", bad.bins.dtype = PARE_U64);
    good.prefix = 3;
    good.bins.shape[0] = PARE_SELECT_LOW_BINS;
    TAKEN(select_hist);
}

static void selection_wants_masks_of_the_right_shape(void **state)
{
    (void)state;
    int64_t below, equal;
    {
        pare_select_count_args good = {
            .x = pare_vector(m.x, PARE_F32, 32), .below = &below, .equal = &equal};
        TAKEN(select_count);
        REFUSED(select_count, "below", bad.below = NULL);
        REFUSED(select_count, "equal", bad.equal = NULL);
        REFUSED(select_count, "x", bad.x.dtype = PARE_BF16);
    }
    {
        uint32_t threshold;
        pare_select_kth_args good = {.x = pare_vector(m.x, PARE_F32, 32),
                                     .k = 32,
                                     .threshold = &threshold,
                                     .below = &below,
                                     .equal = &equal};
        TAKEN(select_kth);
        REFUSED(select_kth, "k is 0", bad.k = 0);
        REFUSED(select_kth, "k is 33", bad.k = 33);
        REFUSED(select_kth, "x has 0 keys", bad.x.shape[0] = 0);
        REFUSED(select_kth, "threshold", bad.threshold = NULL);
        REFUSED(select_kth, "below", bad.below = NULL);
        REFUSED(select_kth, "equal", bad.equal = NULL);
        REFUSED(select_kth, "x", bad.x.dtype = PARE_F16);
    }
    {
        pare_mask_select_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 9),
                                      .mask = pare_matrix(m.mask, PARE_U8, 4, 2)};
        TAKEN(mask_select);
        REFUSED(mask_select, "ties", bad.ties = -1);
        REFUSED(mask_select, "[4, 2]", bad.mask.shape[1] = 1);
        REFUSED(mask_select, "mask", bad.mask.dtype = PARE_I8);
        REFUSED(mask_select, "overlap", bad.mask.data = m.x);
    }
    {
        pare_mask_nm_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                                  .n = 2,
                                  .m = 4,
                                  .mask = pare_matrix(m.mask, PARE_U8, 4, 1)};
        TAKEN(mask_nm);
        REFUSED(mask_nm, "5:4", bad.n = 5);
        REFUSED(mask_nm, "-1:4", bad.n = -1);
        REFUSED(mask_nm, "2:257", bad.m = 257);
        REFUSED(mask_nm, "0:0", (bad.n = 0, bad.m = 0));
        REFUSED(mask_nm, "multiple of 3", bad.m = 3);
        REFUSED(mask_nm, "[4, 1]", bad.mask.shape[0] = 3);
    }
}

static void masks_fit_their_matrix(void **state)
{
    (void)state;
    {
        pare_mask_expand_args good = {.blocks = pare_matrix(m.bytes, PARE_U8, 2, 1),
                                      .block_rows = 2,
                                      .block_cols = 5,
                                      .rows = 4,
                                      .cols = 12,
                                      .mask = pare_matrix(m.mask, PARE_U8, 4, 2)};
        TAKEN(mask_expand);
        REFUSED(mask_expand, "blocks", bad.blocks.shape[0] = 1);
        REFUSED(mask_expand, "mask", bad.cols = 17);
        REFUSED(mask_expand, "negative", bad.rows = -4);
        REFUSED(mask_expand, "block", bad.block_cols = 0);
        REFUSED(mask_expand, "overlap", bad.mask.data = m.bytes + 1);
    }
    {
        pare_mask_nonzero_args good = {.x = pare_matrix(m.h, PARE_F16, 4, 8),
                                       .mask = pare_matrix(m.mask, PARE_U8, 4, 1)};
        TAKEN(mask_nonzero);
        REFUSED(mask_nonzero, "x", bad.x.dtype = PARE_U32);
        REFUSED(mask_nonzero, "mask", bad.mask.shape[1] = 2);
    }
    {
        pare_mask_apply_args good = {.x = pare_matrix(m.h, PARE_F16, 4, 8),
                                     .mask = pare_matrix(m.mask, PARE_U8, 4, 1)};
        TAKEN(mask_apply);
        REFUSED(mask_apply, "mask", bad.mask.shape[0] = 5);
        REFUSED(mask_apply, "overlap", bad.mask.data = (uint8_t *)m.h + 63);
    }
}

static void compacting_wants_as_many_values_as_ones(void **state)
{
    (void)state;
    memset(m.mask, 0x11, 4);
    pare_mask_compact_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                                   .mask = pare_matrix(m.mask, PARE_U8, 4, 1),
                                   .values = pare_vector(m.y, PARE_F32, 8),
                                   .row_counts = pare_vector(m.bins, PARE_I64, 4)};
    TAKEN(mask_compact);
    REFUSED(mask_compact, "8 ones", bad.values.shape[0] = 7);
    REFUSED(mask_compact, "8 ones", bad.values.shape[0] = 9);
    REFUSED(mask_compact, "values", bad.values.dtype = PARE_F16);
    REFUSED(mask_compact, "row_counts", bad.row_counts.shape[0] = 3);
    REFUSED(mask_compact, "overlap", bad.values.data = m.x + 30);
    REFUSED(mask_compact, "row 0", (bad.x.shape[1] = 4, m.mask[0] = 0x31));
    memset(m.mask, 0x11, 4);
}

static void a_bitmask_that_does_not_fit_its_values_is_damage(void **state)
{
    (void)state;
    memset(m.mask, 0x11, 4);
    pare_mask_scatter_args args = {.values = pare_vector(m.y, PARE_F32, 8),
                                   .mask = pare_matrix(m.mask, PARE_U8, 4, 1),
                                   .x = pare_matrix(m.x, PARE_F32, 4, 8)};
    assert_ok(pare_mask_scatter(be, &args));
    args.values.shape[0] = 9;
    assert_status(pare_mask_scatter(be, &args), PARE_ERR_DAMAGED);
    args.values.shape[0] = 7;
    assert_status(pare_mask_scatter(be, &args), PARE_ERR_DAMAGED);
    args.values.shape[0] = 4; /* the ones of the lower nibbles */
    args.x.shape[1] = 4;
    assert_status(pare_mask_scatter(be, &args), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "behind its 4 columns"));
    args.x.dtype = PARE_F16;
    assert_status(pare_mask_scatter(be, &args), PARE_ERR_ARGUMENT);
}

static const pare_scheme w4z = {.type = PARE_QUANT_INT, .bits = 4, .asymmetric = true};

static void ranges_and_scales_are_one_a_block(void **state)
{
    (void)state;
    {
        pare_quant_range_args good = {.w = pare_matrix(m.x, PARE_F32, 4, 8),
                                      .block_rows = 1,
                                      .block_cols = 5,
                                      .lo = pare_matrix(m.y, PARE_F32, 4, 2),
                                      .hi = pare_matrix(m.scale, PARE_F32, 4, 2)};
        TAKEN(quant_range);
        REFUSED(quant_range, "lo", bad.lo.shape[1] = 1);
        REFUSED(quant_range, "hi", bad.hi.dtype = PARE_F64);
        REFUSED(quant_range, "overlap", bad.hi.data = m.y + 7);
        REFUSED(quant_range, "block", bad.block_cols = 0);
    }
    for (int i = 0; i < 8; i++)
        m.y[i] = -(m.y[i + 8] = (float)i);
    pare_quant_scale_args good = {.scheme = w4z,
                                  .scale_dtype = PARE_BF16,
                                  .lo = pare_vector(m.y, PARE_F32, 8),
                                  .hi = pare_vector(m.y + 8, PARE_F32, 8),
                                  .scale = pare_vector(m.scale, PARE_F32, 8),
                                  .zero = pare_vector(m.zero, PARE_I8, 8)};
    TAKEN(quant_scale);
    REFUSED(quant_scale, "2 to 8", bad.scheme.bits = 9);
    REFUSED(quant_scale, "none", bad.scheme.type = PARE_QUANT_NONE);
    REFUSED(quant_scale, "E4M3 has 8", (bad.scheme.type = PARE_QUANT_E4M3));
    REFUSED(quant_scale, "zero points",
            bad.scheme = ((pare_scheme){.type = PARE_QUANT_NF4, .bits = 4, .asymmetric = true}));
    REFUSED(quant_scale, "symmetric", bad.scheme.asymmetric = false);
    REFUSED(quant_scale, "zero", bad.zero.shape[0] = 7);
    REFUSED(quant_scale, "scale_dtype", bad.scale_dtype = PARE_F64);
    REFUSED(quant_scale, "hi", bad.hi.shape[0] = 7);
    REFUSED(quant_scale, "overlap", bad.scale.data = m.y);
}

static void a_range_or_scale_that_is_not_finite_is_damage(void **state)
{
    (void)state;
    static const float bad[] = {INFINITY, NAN, 3e38f};
    for (int i = 0; i < 3; i++)
        for (int at = 0; at < 60; at += 7) {
            memset(m.x, 0, sizeof m.x);
            memset(m.y, 0, sizeof m.y);
            m.y[at] = bad[i];
            pare_quant_scale_args args = {.scheme = {.type = PARE_QUANT_INT, .bits = 4},
                                          .scale_dtype = PARE_F16,
                                          .lo = pare_vector(m.x, PARE_F32, 60),
                                          .hi = pare_vector(m.y, PARE_F32, 60),
                                          .scale = pare_vector(m.scale, PARE_F32, 60)};
            char block[32];
            snprintf(block, sizeof block, "block %d ", at);
            assert_status(pare_quant_scale(be, &args), PARE_ERR_DAMAGED);
            assert_non_null(strstr(pare_last_error(), block));
        }
}

static void searches_want_a_scheme_with_a_scale_to_search(void **state)
{
    (void)state;
    for (int i = 0; i < 64; i++)
        m.scale[i] = 1.0f;
    {
        pare_quant_error_args good = {.scheme = w4z,
                                      .scale_dtype = PARE_F32,
                                      .w = pare_matrix(m.x, PARE_F32, 4, 8),
                                      .scale = 1.0f,
                                      .zero = -8,
                                      .errors = m.errors};
        TAKEN(quant_error);
        REFUSED(quant_error, "errors", bad.errors = NULL);
        REFUSED(quant_error, "zero is 8", bad.zero = 8);
        REFUSED(quant_error, "zero is -8", bad.scheme.asymmetric = false);
        REFUSED(quant_error, "nf4",
                bad.scheme = ((pare_scheme){.type = PARE_QUANT_NF4, .bits = 4}));
    }
    pare_quant_search_args good = {.scheme = w4z,
                                   .scale_dtype = PARE_F32,
                                   .w = pare_matrix(m.x, PARE_F32, 4, 8),
                                   .block_rows = 1,
                                   .block_cols = 4,
                                   .scale = pare_matrix(m.scale, PARE_F32, 4, 2),
                                   .zero = pare_matrix(m.zero, PARE_I8, 4, 2)};
    TAKEN(quant_search);
    REFUSED(quant_search, "scale", bad.scale.shape[0] = 3);
    REFUSED(quant_search, "zero", bad.zero.dtype = PARE_U8);
    REFUSED(quant_search, "overlap", bad.scale.data = m.x + 24);
    REFUSED(quant_search, "block", bad.block_rows = 0);
}

static void codes_scales_and_values_fit_each_other(void **state)
{
    (void)state;
    {
        pare_quantize_args good = {.scheme = w4z,
                                   .w = pare_matrix(m.x, PARE_F32, 4, 8),
                                   .block_rows = 2,
                                   .block_cols = 3,
                                   .scale = pare_matrix(m.scale, PARE_F32, 2, 3),
                                   .zero = pare_matrix(m.zero, PARE_I8, 2, 3),
                                   .codes = pare_matrix(m.codes, PARE_I8, 4, 8)};
        TAKEN(quantize);
        REFUSED(quantize, "codes", bad.codes.shape[1] = 7);
        REFUSED(quantize, "codes", bad.codes.dtype = PARE_U8);
        REFUSED(quantize, "scale", bad.scale.dtype = PARE_F16);
        REFUSED(quantize, "zero", bad.zero.data = NULL);
        REFUSED(quantize, "overlap", bad.codes.data = m.x);
        REFUSED(quantize, "overlap", bad.codes.data = m.zero);
        REFUSED(quantize, "symmetric", bad.scheme.asymmetric = false);
    }
    pare_dequantize_args good = {.scheme = w4z,
                                 .codes = pare_matrix(m.codes, PARE_I8, 4, 8),
                                 .block_rows = 4,
                                 .block_cols = 8,
                                 .scale = pare_matrix(m.scale, PARE_F32, 1, 1),
                                 .zero = pare_matrix(m.zero, PARE_I8, 1, 1),
                                 .w = pare_matrix(m.h, PARE_BF16, 4, 8)};
    TAKEN(dequantize);
    REFUSED(dequantize, "w", bad.w.dtype = PARE_F64);
    REFUSED(dequantize, "codes", bad.codes.shape[0] = 3);
    REFUSED(dequantize, "[1, 1]", bad.scale.shape[0] = 2);
    REFUSED(dequantize, "overlap", bad.w.data = m.scale);
}

static void one_pass_wants_integers_and_somewhere_to_put_them(void **state)
{
    (void)state;
    memset(m.x, 0, sizeof m.x);
    pare_quant_pack_args good = {.scheme = w4z,
                                 .scale_dtype = PARE_BF16,
                                 .w = pare_matrix(m.x, PARE_F32, 4, 8),
                                 .block_cols = 5,
                                 .scale = pare_matrix(m.scale, PARE_F32, 4, 2),
                                 .zero = pare_matrix(m.zero, PARE_I8, 4, 2),
                                 .codes = pare_matrix(m.codes, PARE_I8, 4, 8),
                                 .words = pare_matrix(m.bytes, PARE_U8, 4, 4)};
    TAKEN(quant_pack);
    REFUSED(quant_pack, "integer",
            bad.scheme = ((pare_scheme){.type = PARE_QUANT_E4M3, .bits = 8}));
    REFUSED(quant_pack, "2 to 8", bad.scheme.bits = 1);
    REFUSED(quant_pack, "symmetric", bad.scheme.asymmetric = false);
    REFUSED(quant_pack, "scale_dtype", bad.scale_dtype = PARE_I8);
    REFUSED(quant_pack, "block", bad.block_cols = 0);
    REFUSED(quant_pack, "scale", bad.scale.shape[1] = 3);
    REFUSED(quant_pack, "zero", bad.zero.data = NULL);
    REFUSED(quant_pack, "codes", bad.codes.dtype = PARE_U8);
    REFUSED(quant_pack, "words", bad.words.shape[1] = 3);
    REFUSED(quant_pack, "neither", bad.codes.data = bad.words.data = NULL);
    REFUSED(quant_pack, "overlap", bad.codes.data = m.x);
    REFUSED(quant_pack, "overlap", bad.words.data = m.codes + 31);
    REFUSED(quant_pack, "overlap", bad.scale.data = m.x);
    good.words.data = NULL;
    TAKEN(quant_pack);
    static const float bad[] = {INFINITY, -INFINITY, NAN, 3e38f};
    good.scale_dtype = PARE_F16;
    for (int i = 0; i < 4; i++)
        for (int at = 0; at < 32; at += 3) {
            char block[32];
            memset(m.x, 0, sizeof m.x);
            m.x[at] = m.x[31] = bad[i];
            snprintf(block, sizeof block, "block %d ", at / 8 * 2 + at % 8 / 5);
            assert_status(pare_quant_pack(be, &good), PARE_ERR_DAMAGED);
            assert_non_null(strstr(pare_last_error(), block));
        }
}

static void scales_that_are_quantised_have_codes_and_nested_ones(void **state)
{
    (void)state;
    {
        pare_quant_nested_args good = {.scale = pare_vector(m.x, PARE_F32, 40),
                                       .codes = pare_vector(m.codes, PARE_U8, 40),
                                       .nested = pare_vector(m.y, PARE_F32, 1)};
        TAKEN(quant_nested);
        REFUSED(quant_nested, "offset", bad.offset = INFINITY);
        REFUSED(quant_nested, "scale", bad.scale.dtype = PARE_F16);
        REFUSED(quant_nested, "codes", bad.codes.shape[0] = 39);
        REFUSED(quant_nested, "codes", bad.codes.dtype = PARE_I8);
        REFUSED(quant_nested, "nested", bad.nested.shape[0] = 2);
        REFUSED(quant_nested, "overlap", bad.nested.data = m.x);
        REFUSED(quant_nested, "overlap", bad.codes.data = m.y);
    }
    pare_dequant_nested_args good = {.scale = pare_vector(m.x, PARE_F32, 40),
                                     .codes = pare_vector(m.codes, PARE_U8, 40),
                                     .nested = pare_vector(m.y, PARE_F32, 1)};
    TAKEN(dequant_nested);
    REFUSED(dequant_nested, "nested", bad.nested.shape[0] = 0);
    REFUSED(dequant_nested, "codes", bad.codes.shape[0] = 41);
    REFUSED(dequant_nested, "overlap", bad.codes.data = m.x);
}

static void packed_rows_have_their_bytes(void **state)
{
    (void)state;
    pare_tensor codes = pare_matrix(m.codes, PARE_I8, 4, 9);
    {
        pare_pack_args good = {.packing = PARE_PACK_STREAM,
                               .bits = 3,
                               .codes = codes,
                               .words = pare_matrix(m.bytes, PARE_U8, 4, 4)};
        TAKEN(pack);
        REFUSED(pack, "words is [4, 4]", bad.bits = 4);
        REFUSED(pack, "0 bits", bad.bits = 0);
        REFUSED(pack, "9 bits", bad.bits = 9);
        REFUSED(pack, "packing", bad.packing = (pare_packing)3);
        REFUSED(pack, "nibbles", bad.packing = PARE_PACK_NIBBLES);
        REFUSED(pack, "codes", bad.codes.dtype = PARE_U8);
        REFUSED(pack, "overlap", bad.words.data = m.codes);
    }
    pare_unpack_args good = {.packing = PARE_PACK_NIBBLES,
                             .bits = 4,
                             .codes = codes,
                             .words = pare_matrix(m.bytes, PARE_U8, 1, 18)};
    TAKEN(unpack);
    REFUSED(unpack, "[1, 18]", bad.words.shape[1] = 20);
    REFUSED(unpack, "words", bad.words.shape[0] = 4);
    REFUSED(unpack, "overlap", bad.codes.data = m.bytes + 17);
}

static void packed_sizes_are_those_of_the_formats(void **state)
{
    (void)state;
    assert_int_equal(pare_packed_bytes(PARE_PACK_STREAM, 4, 9), 8);
    assert_int_equal(pare_packed_bytes(PARE_PACK_STREAM, 3, 32), 12);
    assert_int_equal(pare_packed_bytes(PARE_PACK_STREAM, 3, 33), 16);
    assert_int_equal(pare_packed_bytes(PARE_PACK_ALIGNED, 3, 10), 4);
    assert_int_equal(pare_packed_bytes(PARE_PACK_ALIGNED, 3, 11), 8);
    assert_int_equal(pare_packed_bytes(PARE_PACK_NIBBLES, 4, 9), 5);
    assert_int_equal(pare_packed_bytes(PARE_PACK_STREAM, 8, INT64_C(1) << 60), INT64_C(1) << 60);
    for (int bits = 1; bits <= 8; bits++)
        assert_int_equal(pare_packed_bytes(PARE_PACK_STREAM, bits, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_backend_or_argument_is_refused),
        cmocka_unit_test(arguments_left_out_are_refused),
        cmocka_unit_test(cast_wants_as_many_weights_apart_or_in_place),
        cmocka_unit_test(stats_diff_and_digest_want_a_result),
        cmocka_unit_test(keys_are_u32_vectors_as_long_as_x),
        cmocka_unit_test(keys_block_wants_one_key_a_block),
        cmocka_unit_test(select_hist_wants_its_bins),
        cmocka_unit_test(selection_wants_masks_of_the_right_shape),
        cmocka_unit_test(masks_fit_their_matrix),
        cmocka_unit_test(compacting_wants_as_many_values_as_ones),
        cmocka_unit_test(a_bitmask_that_does_not_fit_its_values_is_damage),
        cmocka_unit_test(ranges_and_scales_are_one_a_block),
        cmocka_unit_test(a_range_or_scale_that_is_not_finite_is_damage),
        cmocka_unit_test(searches_want_a_scheme_with_a_scale_to_search),
        cmocka_unit_test(codes_scales_and_values_fit_each_other),
        cmocka_unit_test(scales_that_are_quantised_have_codes_and_nested_ones),
        cmocka_unit_test(one_pass_wants_integers_and_somewhere_to_put_them),
        cmocka_unit_test(packed_rows_have_their_bytes),
        cmocka_unit_test(packed_sizes_are_those_of_the_formats),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
