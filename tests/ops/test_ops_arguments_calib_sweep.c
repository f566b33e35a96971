/* Wrong shapes, dtypes, overlaps and numbers of the column sweep are refused, with the op and the
 * argument in the sentence; so is a triangle without an inverse. */
#include "ops_refuse.h"

#include <math.h>

static struct memory {
    float x[256], y[256], u[256], w[64], err[64], scale[64], d[16];
    int32_t rows[16], cols[16];
    uint32_t keys[64];
    int8_t codes[64], zero[64];
    uint8_t mask[64], frozen[64];
    double loss[8];
} m;

static void permute_wants_orders_as_long_as_y(void **state)
{
    (void)state;
    pare_permute_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                              .y = pare_matrix(m.y, PARE_F32, 6, 3),
                              .rows = pare_vector(m.rows, PARE_I32, 6),
                              .cols = pare_vector(m.cols, PARE_I32, 3)};
    TAKEN(permute);
    REFUSED(permute, "F32, I8 or U8", bad.x.dtype = PARE_F16);
    REFUSED(permute, "y is I8", bad.y.dtype = PARE_I8);
    REFUSED(permute, "rows", bad.rows.shape[0] = 5);
    REFUSED(permute, "rows", bad.rows.dtype = PARE_F32);
    REFUSED(permute, "cols", bad.cols.shape[0] = 4);
    REFUSED(permute, "without an order", bad.cols.data = NULL);
    REFUSED(permute, "without an order", bad.rows.data = NULL);
    REFUSED(permute, "square", bad.lower = true);
    REFUSED(permute, "empty", bad.x.shape[0] = 0);
    REFUSED(permute, "overlap", bad.y.data = m.x + 3);
    REFUSED(permute, "overlap", bad.y.data = m.rows);
    good.rows.data = good.cols.data = NULL;
    good.y = pare_matrix(m.y, PARE_F32, 4, 8);
    TAKEN(permute);
}

static void diagonal_and_triangle_are_square(void **state)
{
    (void)state;
    pare_diagonal_args good = {.a = pare_matrix(m.x, PARE_F32, 8, 8),
                               .d = pare_vector(m.d, PARE_F32, 8)};
    TAKEN(diagonal);
    REFUSED(diagonal, "a is", bad.a.shape[1] = 7);
    REFUSED(diagonal, "F32", bad.a.dtype = PARE_F64);
    REFUSED(diagonal, "[8]", bad.d.shape[0] = 7);
    REFUSED(diagonal, "overlap", bad.d.data = m.x + 9);
    pare_tri_inverse_args triangle = {.l = pare_matrix(m.x, PARE_F32, 4, 5)};
    assert_status(pare_tri_inverse(be, &triangle), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "tri_inverse: l is"));
}

static void tri_inverse_names_what_has_no_inverse(void **state)
{
    (void)state;
    static const float wrong[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
        for (int i = 0; i < 64; i++)
            m.x[i] = i % 9 == 0 ? 2.0f : 0.5f;
        m.x[5 * 9] = wrong[k];
        pare_tri_inverse_args args = {.l = pare_matrix(m.x, PARE_F32, 8, 8)};
        assert_status(pare_tri_inverse(be, &args), PARE_ERR_NUMERIC);
        assert_non_null(strstr(pare_last_error(), "element 5 of its diagonal"));
    }
}

static void keys_obs_wants_a_panel_inside_u(void **state)
{
    (void)state;
    pare_keys_obs_args good = {.w = pare_matrix(m.w, PARE_F32, 4, 9),
                               .u = pare_matrix(m.u, PARE_F32, 12, 12),
                               .first = 3,
                               .frozen = pare_matrix(m.frozen, PARE_U8, 4, 2),
                               .keys = pare_matrix(m.keys, PARE_U32, 4, 9)};
    TAKEN(keys_obs);
    REFUSED(keys_obs, "first is 4", bad.first = 4);
    REFUSED(keys_obs, "first is -1", bad.first = -1);
    REFUSED(keys_obs, "w is", bad.w.dtype = PARE_BF16);
    REFUSED(keys_obs, "u is", bad.u.shape[1] = 13);
    REFUSED(keys_obs, "frozen", bad.frozen.shape[1] = 1);
    REFUSED(keys_obs, "keys", bad.keys.dtype = PARE_F32);
    REFUSED(keys_obs, "overlap", bad.keys.data = m.w);
    REFUSED(keys_obs, "overlap", bad.keys.data = m.u + 20);
    good.frozen.data = NULL;
    TAKEN(keys_obs);
}

static pare_obs_block_args good_block(void)
{
    return (pare_obs_block_args){.w = pare_matrix(m.w, PARE_F32, 4, 9),
                                 .u = pare_matrix(m.u, PARE_F32, 13, 13),
                                 .first = 4,
                                 .frozen = pare_matrix(m.frozen, PARE_U8, 4, 2),
                                 .mask = pare_matrix(m.mask, PARE_U8, 4, 2),
                                 .n = 2,
                                 .m = 4,
                                 .scheme = {.type = PARE_QUANT_INT, .bits = 4, .asymmetric = true},
                                 .block_rows = 1,
                                 .block_cols = 4,
                                 .scale = pare_matrix(m.scale, PARE_F32, 4, 3),
                                 .zero = pare_matrix(m.zero, PARE_I8, 4, 3),
                                 .codes = pare_matrix(m.codes, PARE_I8, 4, 9),
                                 .err = pare_matrix(m.err, PARE_F32, 4, 9),
                                 .loss = pare_vector(m.loss, PARE_F64, 4)};
}

static void obs_block_wants_one_panel_and_its_pattern(void **state)
{
    (void)state;
    pare_obs_block_args good = good_block();
    TAKEN(obs_block);
    REFUSED(obs_block, "128", bad.w.shape[1] = 129);
    REFUSED(obs_block, "first is 5", bad.first = 5);
    REFUSED(obs_block, "first is 2", bad.first = 2);
    REFUSED(obs_block, "5:4", bad.n = 5);
    REFUSED(obs_block, "-1:4", bad.n = -1);
    REFUSED(obs_block, "mask is absent", bad.mask.data = NULL);
    REFUSED(obs_block, "mask", bad.mask.shape[1] = 1);
    REFUSED(obs_block, "frozen", bad.frozen.shape[0] = 3);
    REFUSED(obs_block, "err", bad.err.shape[1] = 8);
    REFUSED(obs_block, "loss", bad.loss.dtype = PARE_F32);
    REFUSED(obs_block, "loss", bad.loss.shape[0] = 5);
    REFUSED(obs_block, "overlap", bad.err.data = m.w + 4);
    REFUSED(obs_block, "overlap", bad.mask.data = m.frozen + 1);
    REFUSED(obs_block, "overlap", bad.w.data = m.u);
    good.m = good.n = 0;
    good.mask.data = good.frozen.data = NULL;
    TAKEN(obs_block);
}

static void obs_block_wants_scales_of_its_scheme(void **state)
{
    (void)state;
    pare_obs_block_args good = good_block();
    REFUSED(obs_block, "[4, 3]", bad.scale.shape[1] = 2);
    REFUSED(obs_block, "zero", bad.zero.dtype = PARE_U8);
    REFUSED(obs_block, "zero", bad.scheme.asymmetric = false);
    REFUSED(obs_block, "9 bits", bad.scheme.bits = 9);
    REFUSED(obs_block, "codes", bad.codes.shape[1] = 8);
    REFUSED(obs_block, "1 × 0", bad.block_cols = 0);
    REFUSED(obs_block, "without a scheme", bad.scheme.type = PARE_QUANT_NONE);
    REFUSED(obs_block, "overlap", bad.codes.data = m.zero + 1);
    good.scheme.type = PARE_QUANT_NONE;
    good.scale.data = good.zero.data = good.codes.data = NULL;
    TAKEN(obs_block);
}

static void obs_update_wants_columns_behind_the_panel(void **state)
{
    (void)state;
    pare_obs_update_args good = {.w = pare_matrix(m.w, PARE_F32, 4, 12),
                                 .err = pare_matrix(m.err, PARE_F32, 4, 5),
                                 .u = pare_matrix(m.u, PARE_F32, 12, 12),
                                 .first = 3,
                                 .last = 11};
    TAKEN(obs_update);
    REFUSED(obs_update, "last is 7", bad.last = 7);
    REFUSED(obs_update, "last is 13", bad.last = 13);
    REFUSED(obs_update, "first is -1", bad.first = -1);
    REFUSED(obs_update, "first is 8", bad.first = 8);
    REFUSED(obs_update, "err", bad.err.shape[0] = 3);
    REFUSED(obs_update, "u is", bad.u.shape[0] = 11);
    REFUSED(obs_update, "w is", bad.w.dtype = PARE_BF16);
    REFUSED(obs_update, "overlap", bad.err.data = m.w + 20);
    REFUSED(obs_update, "overlap", bad.w.data = m.u + 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permute_wants_orders_as_long_as_y),
        cmocka_unit_test(diagonal_and_triangle_are_square),
        cmocka_unit_test(tri_inverse_names_what_has_no_inverse),
        cmocka_unit_test(keys_obs_wants_a_panel_inside_u),
        cmocka_unit_test(obs_block_wants_one_panel_and_its_pattern),
        cmocka_unit_test(obs_block_wants_scales_of_its_scheme),
        cmocka_unit_test(obs_update_wants_columns_behind_the_panel),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
