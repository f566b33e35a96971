/* Norms, activations, sums and moves refuse what does not fit, with the op and the argument in the
 * sentence. */
#include "ops_refuse.h"

#include <math.h>

/* F32 [4, 8] matrices and vectors apart from each other. */
static float m[8][32], v[10][8];

static pare_tensor matrix(int which)
{
    return pare_matrix(m[which], PARE_F32, 4, 8);
}

static pare_tensor columns(int which)
{
    return pare_vector(v[which], PARE_F32, 8);
}

static pare_tensor rows(int which)
{
    return pare_vector(v[which], PARE_F32, 4);
}

/* ---- norms ----------------------------------------------------------------------------------- */

static void batch_norm_wants_vectors_of_its_columns(void **state)
{
    (void)state;
    pare_batch_norm_args good = {.x = matrix(0),
                                 .y = matrix(1),
                                 .z = matrix(2),
                                 .gamma = columns(0),
                                 .beta = columns(1),
                                 .running_mean = columns(2),
                                 .running_var = columns(3),
                                 .saved_mean = columns(4),
                                 .saved_scale = columns(5),
                                 .eps = 1e-5f,
                                 .momentum = 0.1f,
                                 .training = true};
    TAKEN(batch_norm);
    REFUSED(batch_norm, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(batch_norm, "scalar", bad.x.rank = 0);
    REFUSED(batch_norm, "y is [4, 7]", bad.y.shape[1] = 7);
    REFUSED(batch_norm, "z is BF16", bad.z.dtype = PARE_BF16);
    REFUSED(batch_norm, "gamma is [4]", bad.gamma = rows(0));
    REFUSED(batch_norm, "running_var", bad.running_var.dtype = PARE_F64);
    REFUSED(batch_norm, "saved_scale", bad.saved_scale.data = NULL);
    REFUSED(batch_norm, "eps", bad.eps = -1);
    REFUSED(batch_norm, "eps", bad.eps = NAN);
    REFUSED(batch_norm, "momentum", bad.momentum = 1.5f);
    REFUSED(batch_norm, "overlap", bad.y.data = m[0]);
    REFUSED(batch_norm, "overlap", bad.y.data = m[2]);
    REFUSED(batch_norm, "overlap", bad.saved_mean = bad.running_mean);
    good.training = false;
    good.y.data = m[0];
    TAKEN(batch_norm);
    REFUSED(batch_norm, "overlap", bad.y.data = m[0] + 1);
    REFUSED(batch_norm, "saved_mean is [4]", bad.saved_mean = rows(4));
    REFUSED(batch_norm, "overlap", bad.saved_scale = bad.saved_mean);
    REFUSED(batch_norm, "overlap", bad.saved_scale = bad.running_var);
    REFUSED(batch_norm, "overlap", bad.saved_mean.data = m[0]);
    good.saved_mean.data = NULL;
    TAKEN(batch_norm);
    good.saved_scale.data = NULL;
    TAKEN(batch_norm);
}

static void batch_norm_fold_wants_vectors_of_one_length(void **state)
{
    (void)state;
    pare_batch_norm_fold_args good = {.gamma = columns(0),
                                      .beta = columns(1),
                                      .running_mean = columns(2),
                                      .running_var = columns(3),
                                      .bias = columns(4),
                                      .scale = columns(5),
                                      .shift = columns(6),
                                      .eps = 1e-5f};
    TAKEN(batch_norm_fold);
    REFUSED(batch_norm_fold, "gamma is BF16", bad.gamma.dtype = PARE_BF16);
    REFUSED(batch_norm_fold, "beta is [4]", bad.beta = rows(1));
    REFUSED(batch_norm_fold, "running_var", bad.running_var.data = NULL);
    REFUSED(batch_norm_fold, "bias", bad.bias = rows(4));
    REFUSED(batch_norm_fold, "shift", bad.shift.dtype = PARE_F64);
    REFUSED(batch_norm_fold, "eps", bad.eps = -1);
    REFUSED(batch_norm_fold, "overlap", bad.scale = bad.gamma);
    REFUSED(batch_norm_fold, "overlap", bad.shift = bad.scale);
    good.bias.data = NULL;
    TAKEN(batch_norm_fold);
}

static void batch_norms_gradients_do_not_share_their_place(void **state)
{
    (void)state;
    pare_batch_norm_grad_args good = {.dy = matrix(0),
                                      .x = matrix(1),
                                      .y = matrix(2),
                                      .dx = matrix(3),
                                      .dz = matrix(4),
                                      .gamma = columns(0),
                                      .saved_mean = columns(1),
                                      .saved_scale = columns(2),
                                      .dgamma = columns(3),
                                      .dbeta = columns(4),
                                      .relu = true};
    TAKEN(batch_norm_grad);
    REFUSED(batch_norm_grad, "y is", bad.y.shape[0] = 3);
    REFUSED(batch_norm_grad, "dgamma", bad.dgamma.data = NULL);
    REFUSED(batch_norm_grad, "dx", bad.dx.data = m[1]);
    REFUSED(batch_norm_grad, "dz", bad.dz.data = m[2]);
    REFUSED(batch_norm_grad, "dbeta", bad.dbeta.data = v[3]);
    REFUSED(batch_norm_grad, "overlap", (bad.dx.data = m[0], bad.dz.data = m[0]));
    good.dz.data = m[0];
    TAKEN(batch_norm_grad);
    good.dz.data = m[4];
    good.dx.data = m[0];
    TAKEN(batch_norm_grad);
}

static void norms_by_row_want_statistics_of_their_rows(void **state)
{
    (void)state;
    {
        pare_layer_norm_args good = {.x = matrix(0),
                                     .y = matrix(1),
                                     .gamma = columns(0),
                                     .beta = columns(1),
                                     .saved_mean = rows(2),
                                     .saved_scale = rows(3)};
        TAKEN(layer_norm);
        REFUSED(layer_norm, "gamma", bad.gamma.data = NULL);
        REFUSED(layer_norm, "beta is [4]", bad.beta = rows(1));
        REFUSED(layer_norm, "saved_mean is [8]", bad.saved_mean = columns(2));
        REFUSED(layer_norm, "eps", bad.eps = -1);
        REFUSED(layer_norm, "overlap", bad.saved_scale = bad.saved_mean);
        good.y = good.x;
        good.beta = good.saved_mean = good.saved_scale = (pare_tensor){0};
        TAKEN(layer_norm);
    }
    {
        pare_rms_norm_args good = {
            .x = matrix(0), .y = matrix(1), .gamma = columns(0), .saved_scale = rows(3)};
        TAKEN(rms_norm);
        REFUSED(rms_norm, "y is", bad.y.shape[0] = 3);
        REFUSED(rms_norm, "saved_scale", bad.saved_scale = columns(3));
        REFUSED(rms_norm, "overlap", bad.gamma.data = m[1]);
        REFUSED(rms_norm, "eps", bad.eps = NAN);
    }
}

static void gradients_that_are_added_to_are_not_in_place(void **state)
{
    (void)state;
    {
        pare_layer_norm_grad_args good = {.dy = matrix(0),
                                          .x = matrix(1),
                                          .gamma = columns(0),
                                          .saved_mean = rows(1),
                                          .saved_scale = rows(2),
                                          .dx = matrix(0),
                                          .dgamma = columns(3),
                                          .dbeta = columns(4)};
        TAKEN(layer_norm_grad);
        REFUSED(layer_norm_grad, "overlap", bad.accumulate_x = true);
        REFUSED(layer_norm_grad, "saved_mean", bad.saved_mean.data = NULL);
        REFUSED(layer_norm_grad, "dbeta", bad.dbeta.shape[0] = 7);
        REFUSED(layer_norm_grad, "overlap", bad.dx = bad.x);
    }
    {
        pare_rms_norm_grad_args good = {.dy = matrix(0),
                                        .x = matrix(1),
                                        .gamma = columns(0),
                                        .saved_scale = rows(2),
                                        .dx = matrix(0),
                                        .dgamma = columns(3)};
        TAKEN(rms_norm_grad);
        REFUSED(rms_norm_grad, "overlap", bad.accumulate_x = true);
        REFUSED(rms_norm_grad, "dgamma", bad.dgamma.shape[0] = 7);
        REFUSED(rms_norm_grad, "dy", (bad.dx = matrix(3), bad.dgamma.data = m[0]));
        good.dgamma.data = NULL;
        TAKEN(rms_norm_grad);
    }
}

/* ---- element by element ---------------------------------------------------------------------- */

static void activations_want_a_function_and_as_many_elements(void **state)
{
    (void)state;
    {
        pare_act_args good = {.x = matrix(0), .y = matrix(0), .fn = PARE_FN_SILU};
        TAKEN(act);
        REFUSED(act, "fn", bad.fn = PARE_FNS);
        REFUSED(act, "as many", bad.y.shape[0] = 3);
        REFUSED(act, "y is BF16", bad.y.dtype = PARE_BF16);
        REFUSED(act, "overlap", (bad.y.data = m[0] + 1));
    }
    {
        pare_act_grad_args good = {.dy = matrix(0), .x = matrix(1), .dx = matrix(0)};
        TAKEN(act_grad);
        REFUSED(act_grad, "fn", bad.fn = (pare_fn)-1);
        REFUSED(act_grad, "overlap", bad.dx = bad.x);
    }
    {
        pare_glu_args good = {.a = matrix(0), .b = matrix(1), .y = matrix(1)};
        TAKEN(glu);
        REFUSED(glu, "b is", bad.b.shape[0] = 3);
        REFUSED(glu, "overlap", bad.y.data = m[0] + 8);
    }
    {
        pare_glu_grad_args good = {
            .dy = matrix(0), .a = matrix(1), .b = matrix(2), .da = matrix(1), .db = matrix(0)};
        TAKEN(glu_grad);
        REFUSED(glu_grad, "overlap", bad.da = bad.dy);
        REFUSED(glu_grad, "overlap", bad.da = bad.b);
        REFUSED(glu_grad, "overlap", (bad.db = bad.a, bad.da = matrix(3)));
        REFUSED(glu_grad, "db is", bad.db.dtype = PARE_F16);
    }
}

static void sums_are_in_place_only_where_elements_are_as_wide(void **state)
{
    (void)state;
    {
        pare_add_args good = {.a = matrix(0), .b = matrix(1), .y = matrix(0)};
        TAKEN(add);
        REFUSED(add, "a is", bad.a.shape[1] = 7);
        REFUSED(add, "overlap", bad.y.dtype = PARE_BF16);
        REFUSED(add, "y is I32", bad.y.dtype = PARE_I32);
    }
    {
        pare_add_rows_args good = {.x = matrix(0), .y = matrix(0), .v = columns(0)};
        TAKEN(add_rows);
        REFUSED(add_rows, "v is [4]", bad.v = rows(0));
        REFUSED(add_rows, "dimensions", bad.x.rank = 1);
        REFUSED(add_rows, "overlap", bad.v.data = m[0]);
    }
    {
        pare_fill_args good = {.y = matrix(0), .value = 2};
        TAKEN(fill);
        REFUSED(fill, "y is", bad.y.dtype = PARE_I64);
    }
    {
        pare_dropout_args good = {.x = matrix(0), .y = matrix(0), .p = 0.5f};
        TAKEN(dropout);
        REFUSED(dropout, "p is 1", bad.p = 1);
        REFUSED(dropout, "p is", bad.p = -0.5f);
        REFUSED(dropout, "p is nan", bad.p = NAN);
        REFUSED(dropout, "as many", bad.y.shape[0] = 3);
    }
}

static void moves_stay_inside_their_matrices(void **state)
{
    (void)state;
    {
        pare_copy_cols_args good = {
            .x = matrix(0), .y = matrix(1), .x_first = 3, .y_first = 2, .cols = 5};
        TAKEN(copy_cols);
        REFUSED(copy_cols, "x has 8 columns", bad.x_first = 4);
        REFUSED(copy_cols, "y has 8 columns", bad.y_first = -1);
        REFUSED(copy_cols, "columns", bad.cols = 9);
        REFUSED(copy_cols, "columns", bad.cols = -1);
        REFUSED(copy_cols, "columns", bad.x_first = INT64_MAX);
        REFUSED(copy_cols, "as many rows", bad.x.shape[0] = 3);
        REFUSED(copy_cols, "overlap", bad.y.data = m[0]);
        good.x.shape[0] = 1;
        TAKEN(copy_cols);
    }
    {
        pare_transpose_args good = {.x = matrix(0), .y = matrix(1)};
        good.x.rank = good.y.rank = 3;
        good.x.shape[0] = good.y.shape[0] = 2;
        good.x.shape[1] = good.y.shape[2] = 2;
        good.x.shape[2] = good.y.shape[1] = 8;
        TAKEN(transpose);
        REFUSED(transpose, "[2, 8, 2]", bad.y.shape[1] = 7);
        REFUSED(transpose, "y is BF16", bad.y.dtype = PARE_BF16);
        REFUSED(transpose, "overlap", bad.y.data = m[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_norm_wants_vectors_of_its_columns),
        cmocka_unit_test(batch_norm_fold_wants_vectors_of_one_length),
        cmocka_unit_test(batch_norms_gradients_do_not_share_their_place),
        cmocka_unit_test(norms_by_row_want_statistics_of_their_rows),
        cmocka_unit_test(gradients_that_are_added_to_are_not_in_place),
        cmocka_unit_test(activations_want_a_function_and_as_many_elements),
        cmocka_unit_test(sums_are_in_place_only_where_elements_are_as_wide),
        cmocka_unit_test(moves_stay_inside_their_matrices),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
