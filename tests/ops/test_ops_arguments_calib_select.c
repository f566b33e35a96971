/* Wrong shapes, dtypes, overlaps and numbers of the scores, selections and scalings are refused,
 * with the op and the argument in the sentence. */
#include "ops_refuse.h"

static struct memory {
    float x[64], y[64], rows[64], cols[64];
    uint32_t keys[64];
    uint8_t mask[64];
    double dots[8];
} m;

static void keys_scaled_wants_factors_that_fit(void **state)
{
    (void)state;
    pare_keys_scaled_args good = {.w = pare_matrix(m.x, PARE_F32, 4, 8),
                                  .cols = pare_vector(m.cols, PARE_F32, 8),
                                  .full = pare_matrix(m.y, PARE_F32, 4, 8),
                                  .keys = pare_matrix(m.keys, PARE_U32, 4, 8)};
    TAKEN(keys_scaled);
    REFUSED(keys_scaled, "w is", bad.w.dtype = PARE_BF16);
    REFUSED(keys_scaled, "2 dimensions", bad.w = pare_vector(m.x, PARE_F32, 32));
    REFUSED(keys_scaled, "[8]", bad.cols.shape[0] = 7);
    REFUSED(keys_scaled, "full", bad.full.shape[0] = 3);
    REFUSED(keys_scaled, "full", bad.full.dtype = PARE_F64);
    REFUSED(keys_scaled, "keys", bad.keys.dtype = PARE_F32);
    REFUSED(keys_scaled, "[4, 8]", bad.keys.shape[1] = 9);
    REFUSED(keys_scaled, "overlap", bad.keys.data = m.y);
    REFUSED(keys_scaled, "overlap", bad.keys.data = m.cols);
    REFUSED(keys_scaled, "overlap", bad.keys.data = m.x + 1);
    good.keys.data = m.x;
    TAKEN(keys_scaled);
    good.cols.data = good.full.data = NULL;
    TAKEN(keys_scaled);
}

static void mask_rows_prunes_no_more_than_a_row_has(void **state)
{
    (void)state;
    pare_mask_rows_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 9),
                                .prune = 9,
                                .mask = pare_matrix(m.mask, PARE_U8, 4, 2)};
    TAKEN(mask_rows);
    REFUSED(mask_rows, "prune is 10", bad.prune = 10);
    REFUSED(mask_rows, "prune is -1", bad.prune = -1);
    REFUSED(mask_rows, "F32 or U32", bad.x.dtype = PARE_F16);
    REFUSED(mask_rows, "[4, 2]", bad.mask.shape[1] = 1);
    REFUSED(mask_rows, "mask", bad.mask.dtype = PARE_I8);
    REFUSED(mask_rows, "overlap", bad.mask.data = (uint8_t *)m.x + 3);
    good.x = pare_matrix(m.keys, PARE_U32, 4, 9);
    TAKEN(mask_rows);
}

static void square_add_wants_as_many_elements_apart(void **state)
{
    (void)state;
    pare_square_add_args good = {.x = pare_vector(m.x, PARE_F32, 32),
                                 .y = pare_matrix(m.y, PARE_F32, 4, 8)};
    TAKEN(square_add);
    REFUSED(square_add, "32", bad.y.shape[0] = 3);
    REFUSED(square_add, "x is", bad.x.dtype = PARE_BF16);
    REFUSED(square_add, "y is", bad.y.dtype = PARE_F64);
    REFUSED(square_add, "overlap", bad.y.data = m.x);
}

static void row_dot_gives_one_number_a_row(void **state)
{
    (void)state;
    pare_row_dot_args good = {.a = pare_matrix(m.x, PARE_F32, 4, 8),
                              .b = pare_matrix(m.x, PARE_F32, 4, 8),
                              .y = pare_vector(m.dots, PARE_F64, 4)};
    TAKEN(row_dot);
    REFUSED(row_dot, "[4, 8]", bad.b.shape[1] = 7);
    REFUSED(row_dot, "[4]", bad.y.shape[0] = 8);
    REFUSED(row_dot, "F64", bad.y.dtype = PARE_F32);
    REFUSED(row_dot, "overlap", bad.y.data = m.x);
}

static void scale_wants_factors_that_fit(void **state)
{
    (void)state;
    pare_scale_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                            .y = pare_matrix(m.y, PARE_F32, 4, 8),
                            .rows = pare_vector(m.rows, PARE_F32, 4),
                            .cols = pare_vector(m.cols, PARE_F32, 8)};
    TAKEN(scale);
    REFUSED(scale, "[4, 8]", bad.y.shape[0] = 2);
    REFUSED(scale, "[4]", bad.rows.shape[0] = 8);
    REFUSED(scale, "[8]", bad.cols.shape[0] = 4);
    REFUSED(scale, "x is", bad.x.dtype = PARE_F16);
    REFUSED(scale, "overlap", bad.y.data = m.x + 1);
    REFUSED(scale, "overlap", bad.y.data = m.rows);
    good.y.data = m.x;
    TAKEN(scale);
    good.rows.data = good.cols.data = NULL;
    TAKEN(scale);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_scaled_wants_factors_that_fit),
        cmocka_unit_test(mask_rows_prunes_no_more_than_a_row_has),
        cmocka_unit_test(square_add_wants_as_many_elements_apart),
        cmocka_unit_test(row_dot_gives_one_number_a_row),
        cmocka_unit_test(scale_wants_factors_that_fit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
