/* Wrong shapes, dtypes, overlaps and numbers of the statistics, and of what prepares inputs for
 * them, are refused, with the op and the argument in the sentence. */
#include "ops_refuse.h"

#include <math.h>

static struct memory {
    float x[512], y[512], top[16];
    double sum[16], squares[16];
    int64_t bins[16];
    uint8_t keep[16];
} m;

static void gram_wants_a_square_of_the_columns(void **state)
{
    (void)state;
    pare_gram_args good = {.x = pare_matrix(m.x, PARE_BF16, 4, 6),
                           .g = pare_matrix(m.y, PARE_F32, 6, 6)};
    TAKEN(gram);
    REFUSED(gram, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(gram, "2 dimensions", bad.x = pare_vector(m.x, PARE_F32, 24));
    REFUSED(gram, "g is BF16", bad.g.dtype = PARE_BF16);
    REFUSED(gram, "g is [6, 6]; it must be [5, 5]", bad.x.shape[1] = 5);
    REFUSED(gram, "g is [6, 7]", bad.g.shape[1] = 7);
    REFUSED(gram, "overlap", bad.g.data = m.x + 11);
    REFUSED(gram, "NULL", bad.g.data = NULL);
}

static void column_stats_wants_a_number_a_column(void **state)
{
    (void)state;
    pare_column_stats_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 6),
                                   .absmax = pare_vector(m.top, PARE_F32, 6),
                                   .sum = pare_vector(m.sum, PARE_F64, 6),
                                   .squares = pare_vector(m.squares, PARE_F64, 6)};
    TAKEN(column_stats);
    REFUSED(column_stats, "x is I8", bad.x.dtype = PARE_I8);
    REFUSED(column_stats, "absmax is F64", bad.absmax.dtype = PARE_F64);
    REFUSED(column_stats, "absmax is [6]; it must be [7]", bad.x.shape[1] = 7);
    REFUSED(column_stats, "sum is [5]", bad.sum.shape[0] = 5);
    REFUSED(column_stats, "sum is F32", bad.sum.dtype = PARE_F32);
    REFUSED(column_stats, "squares is [2, 3]",
            bad.squares = pare_matrix(m.squares, PARE_F64, 2, 3));
    REFUSED(column_stats, "overlap", bad.squares.data = m.sum + 2);
    REFUSED(column_stats, "overlap", bad.absmax.data = m.x + 20);
    REFUSED(column_stats, "overlap", bad.sum.data = m.top);
}

static void histogram_wants_bins_of_some_width(void **state)
{
    (void)state;
    pare_histogram_args good = {.x = pare_matrix(m.x, PARE_BF16, 4, 6),
                                .width = 0.5f,
                                .bins = pare_vector(m.bins, PARE_I64, 16)};
    TAKEN(histogram);
    REFUSED(histogram, "x is U32", bad.x.dtype = PARE_U32);
    REFUSED(histogram, "width is 0", bad.width = 0);
    REFUSED(histogram, "width is -1", bad.width = -1);
    REFUSED(histogram, "width is inf", bad.width = INFINITY);
    REFUSED(histogram, "width is", bad.width = NAN);
    REFUSED(histogram, "0 bins", bad.bins.shape[0] = 0);
    REFUSED(histogram, "16777217 bins", bad.bins.shape[0] = (1 << 24) + 1);
    REFUSED(histogram, "bins is I32", bad.bins.dtype = PARE_I32);
    REFUSED(histogram, "overlap", bad.x.data = m.bins + 15);
}

static void patches_wants_what_its_window_leaves(void **state)
{
    (void)state;
    pare_patches_args good = {
        .x = {.data = m.x, .dtype = PARE_BF16, .rank = 4, .shape = {2, 5, 4, 3}},
        .y = pare_matrix(m.y, PARE_BF16, 24, 18),
        .window = {{3, 2}, {2, 1}, {1, 1}, 1, 1, 1, 0}};
    TAKEN(patches);
    REFUSED(patches, "x is F64", bad.x.dtype = PARE_F64);
    REFUSED(patches, "4 dimensions", bad.x.rank = 3);
    REFUSED(patches, "y is F32", bad.y.dtype = PARE_F32);
    REFUSED(patches, "y is [24, 18]; it must be [18, 18]", bad.window.pad_left = 0);
    REFUSED(patches, "it must be [24, 27]", (bad.window.kernel[1] = 3, bad.window.pad_right = 1));
    REFUSED(patches, "does not fit", bad.window.kernel[0] = 8);
    REFUSED(patches, "stride 0", bad.window.stride[1] = 0);
    REFUSED(patches, "negative", bad.window.pad_top = -1);
    REFUSED(patches, "too many windows",
            (bad.x.shape[0] = INT64_C(1) << 40, bad.x.shape[3] = 0, bad.x.data = NULL,
             bad.window.pad_right = bad.window.pad_bottom = INT32_MAX, bad.window.stride[0] = 1));
    REFUSED(patches, "overlap", bad.y.data = m.x);
}

static void keep_rows_wants_a_byte_a_row(void **state)
{
    (void)state;
    pare_keep_rows_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 6),
                                .y = pare_matrix(m.x, PARE_F32, 4, 6),
                                .keep = pare_vector(m.keep, PARE_U8, 4)};
    TAKEN(keep_rows);
    REFUSED(keep_rows, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(keep_rows, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(keep_rows, "y is [4, 5]", bad.y.shape[1] = 5);
    REFUSED(keep_rows, "keep is [3]", bad.keep.shape[0] = 3);
    REFUSED(keep_rows, "keep is I8", bad.keep.dtype = PARE_I8);
    REFUSED(keep_rows, "overlap", bad.y.data = m.x + 1);
    REFUSED(keep_rows, "overlap", bad.keep.data = m.x + 3);
}

static void quant_fixed_wants_a_scale(void **state)
{
    (void)state;
    pare_quant_fixed_args good = {.x = pare_matrix(m.x, PARE_BF16, 4, 6),
                                  .y = pare_vector(m.x, PARE_BF16, 24),
                                  .scale = 0.1f};
    TAKEN(quant_fixed);
    REFUSED(quant_fixed, "x is I32", bad.x.dtype = PARE_I32);
    REFUSED(quant_fixed, "y is F32", bad.y.dtype = PARE_F32);
    REFUSED(quant_fixed, "as many", bad.y.shape[0] = 23);
    REFUSED(quant_fixed, "overlap", bad.y.data = m.x + 1);
    REFUSED(quant_fixed, "scale is 0", bad.scale = 0);
    REFUSED(quant_fixed, "scale is -inf", bad.scale = -INFINITY);
    REFUSED(quant_fixed, "scale is", bad.scale = NAN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gram_wants_a_square_of_the_columns),
        cmocka_unit_test(column_stats_wants_a_number_a_column),
        cmocka_unit_test(histogram_wants_bins_of_some_width),
        cmocka_unit_test(patches_wants_what_its_window_leaves),
        cmocka_unit_test(keep_rows_wants_a_byte_a_row),
        cmocka_unit_test(quant_fixed_wants_a_scale),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
