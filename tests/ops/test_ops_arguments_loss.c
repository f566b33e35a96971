/* Losses, optimisers and pools refuse what does not fit, with the op and the argument in the
 * sentence. */
#include "ops_refuse.h"

#include <math.h>

typedef struct memory {
    float x[256], y[256], z[256], r[256];
    int32_t label[8], label2[8], rank[8], at[256];
    uint8_t bytes[64];
} memory;
static memory m;

static pare_tensor shaped(void *data, int64_t B, int64_t H, int64_t W, int64_t C)
{
    return (pare_tensor){.data = data, .dtype = PARE_F32, .rank = 4, .shape = {B, H, W, C}};
}

static void cross_entropy_wants_a_label_and_a_loss_for_each_row(void **state)
{
    (void)state;
    pare_cross_entropy_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                                    .labels = pare_vector(m.label, PARE_I32, 4),
                                    .labels2 = pare_vector(m.label2, PARE_I32, 4),
                                    .mix = pare_vector(m.y, PARE_F32, 4),
                                    .loss = pare_vector(m.y + 8, PARE_F32, 4),
                                    .rank = pare_vector(m.rank, PARE_I32, 4),
                                    .dx = pare_matrix(m.z, PARE_F32, 4, 8)};
    TAKEN(cross_entropy);
    REFUSED(cross_entropy, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(cross_entropy, "labels is U8", bad.labels.dtype = PARE_U8);
    REFUSED(cross_entropy, "labels is [3]", bad.labels.shape[0] = 3);
    REFUSED(cross_entropy, "labels2", bad.labels2.shape[0] = 5);
    REFUSED(cross_entropy, "mix", bad.mix.data = NULL);
    REFUSED(cross_entropy, "loss", bad.loss.data = NULL);
    REFUSED(cross_entropy, "rank", bad.rank.dtype = PARE_I64);
    REFUSED(cross_entropy, "dx", bad.dx.dtype = PARE_BF16);
    REFUSED(cross_entropy, "overlap", bad.dx.data = m.x + 1);
    REFUSED(cross_entropy, "overlap", bad.loss.data = m.y);
    REFUSED(cross_entropy, "overlap", bad.loss.data = m.x);
    REFUSED(cross_entropy, "overlap", bad.rank.data = m.label);
    REFUSED(cross_entropy, "smoothing", bad.smoothing = 1.5f);
    REFUSED(cross_entropy, "smoothing", bad.smoothing = NAN);
    REFUSED(cross_entropy, "classes", bad.x.shape[1] = INT64_C(1) << 31);
    good.labels2.data = good.mix.data = good.rank.data = NULL; /* all absent, and in place */
    good.dx = good.x;
    TAKEN(cross_entropy);
}

static void mse_and_kl_compare_rows_of_one_shape(void **state)
{
    (void)state;
    {
        pare_mse_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                              .t = pare_matrix(m.y, PARE_BF16, 4, 8),
                              .loss = pare_vector(m.r, PARE_F32, 4),
                              .dx = pare_matrix(m.z, PARE_F32, 4, 8)};
        TAKEN(mse);
        REFUSED(mse, "t is [4, 7]", bad.t.shape[1] = 7);
        REFUSED(mse, "t is F64", bad.t.dtype = PARE_F64);
        REFUSED(mse, "loss", bad.loss.shape[0] = 8);
        REFUSED(mse, "overlap", bad.dx.data = m.y);
        good.weight = pare_vector(m.r + 8, PARE_F32, 4);
        TAKEN(mse);
        REFUSED(mse, "weight is [3]", bad.weight.shape[0] = 3);
        REFUSED(mse, "overlap", bad.weight.data = m.z);
        good.dx = good.x;
        TAKEN(mse);
    }
    {
        pare_kl_args good = {.teacher = pare_matrix(m.x, PARE_F32, 4, 8),
                             .x = pare_matrix(m.y, PARE_BF16, 4, 8),
                             .kl = pare_vector(m.r, PARE_F32, 4),
                             .same = pare_vector(m.bytes, PARE_U8, 4),
                             .dx = pare_matrix(m.z, PARE_BF16, 4, 8),
                             .temperature = 2};
        TAKEN(kl);
        REFUSED(kl, "teacher is [3, 8]", bad.teacher.shape[0] = 3);
        REFUSED(kl, "kl is", bad.kl.dtype = PARE_BF16);
        REFUSED(kl, "same", bad.same.dtype = PARE_I8);
        REFUSED(kl, "dx is F32", bad.dx.dtype = PARE_F32);
        REFUSED(kl, "dx is [4, 7]", bad.dx.shape[1] = 7);
        REFUSED(kl, "temperature", bad.temperature = -1);
        REFUSED(kl, "temperature", bad.temperature = INFINITY);
        REFUSED(kl, "temperature", bad.temperature = NAN);
        REFUSED(kl, "temperature", bad.temperature = 0x1p-140f);
        REFUSED(kl, "overlap", bad.kl.data = m.x);
        REFUSED(kl, "overlap", bad.dx.data = m.x);
        REFUSED(kl, "overlap", bad.dx.data = m.r);
        REFUSED(kl, "overlap", bad.dx.data = (uint16_t *)(void *)m.y + 1);
        REFUSED(kl, "divergence", bad.divergence = (pare_divergence)3);
        good.labels = pare_vector(m.label, PARE_I32, 4);
        good.divergence = PARE_DIVERGENCE_JS;
        TAKEN(kl);
        REFUSED(kl, "labels is [3]", bad.labels.shape[0] = 3);
        REFUSED(kl, "labels is F32", bad.labels.dtype = PARE_F32);
        REFUSED(kl, "overlap", bad.labels.data = m.r);
        good.dx = good.x; /* in place */
        TAKEN(kl);
        good.dx.data = NULL;
        good.x = good.teacher; /* a model beside itself */
        TAKEN(kl);
    }
}

static void what_is_kept_of_a_row_is_a_matrix_of_classes(void **state)
{
    (void)state;
    pare_tensor x = pare_matrix(m.x, PARE_F32, 4, 8);
    pare_tensor index = pare_matrix(m.at, PARE_I32, 4, 3), value = pare_matrix(m.y, PARE_F32, 4, 3);
    for (int i = 0; i < 12; i++)
        m.at[i] = i % 3;
    {
        pare_top_k_args good = {.x = x, .index = index, .value = value};
        TAKEN(top_k);
        REFUSED(top_k, "x is F16", bad.x.dtype = PARE_F16);
        REFUSED(top_k, "index is I64", bad.index.dtype = PARE_I64);
        REFUSED(top_k, "index is [3, 3]", bad.index.shape[0] = 3);
        REFUSED(top_k, "9 columns, x 8 classes", bad.index.shape[1] = 9);
        REFUSED(top_k, "value is [4, 2]", bad.value.shape[1] = 2);
        REFUSED(top_k, "classes", bad.x.shape[1] = INT64_C(1) << 31);
        REFUSED(top_k, "temperature", bad.temperature = -1);
        REFUSED(top_k, "overlap", bad.index.data = m.x);
        REFUSED(top_k, "overlap", bad.value.data = m.at);
    }
    {
        pare_kl_top_args good = {.x = x,
                                 .index = index,
                                 .value = value,
                                 .labels = pare_vector(m.label, PARE_I32, 4),
                                 .loss = pare_vector(m.r, PARE_F32, 4),
                                 .dx = pare_matrix(m.z, PARE_F32, 4, 8),
                                 .temperature = 2};
        TAKEN(kl_top);
        REFUSED(kl_top, "index is U8", bad.index.dtype = PARE_U8);
        REFUSED(kl_top, "value is [3, 3]", bad.value.shape[0] = 3);
        REFUSED(kl_top, "labels is [5]", bad.labels.shape[0] = 5);
        REFUSED(kl_top, "loss", bad.loss.data = NULL);
        REFUSED(kl_top, "dx is BF16", bad.dx.dtype = PARE_BF16);
        REFUSED(kl_top, "temperature", bad.temperature = NAN);
        REFUSED(kl_top, "overlap", bad.dx.data = m.x + 1);
        REFUSED(kl_top, "overlap", bad.dx.data = m.y);
        REFUSED(kl_top, "overlap", bad.loss.data = m.label);
        REFUSED(kl_top, "index[3, 2] is 8", m.at[11] = 8);
        m.at[11] = 2;
        good.dx = good.x; /* in place, and all count */
        good.labels.data = NULL;
        TAKEN(kl_top);
    }
}

static void directions_are_of_rows_of_one_shape(void **state)
{
    (void)state;
    pare_cosine_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 8),
                             .t = pare_matrix(m.y, PARE_BF16, 4, 8),
                             .weight = pare_vector(m.r + 8, PARE_F32, 4),
                             .loss = pare_vector(m.r, PARE_F32, 4),
                             .dx = pare_matrix(m.z, PARE_F32, 4, 8)};
    TAKEN(cosine);
    REFUSED(cosine, "t is [4, 7]", bad.t.shape[1] = 7);
    REFUSED(cosine, "weight is [3]", bad.weight.shape[0] = 3);
    REFUSED(cosine, "loss", bad.loss.dtype = PARE_F64);
    REFUSED(cosine, "dx is [3, 8]", bad.dx.shape[0] = 3);
    REFUSED(cosine, "overlap", bad.dx.data = m.y);
    REFUSED(cosine, "overlap", bad.loss.data = m.x);
    good.dx = good.x;
    good.weight.data = NULL;
    TAKEN(cosine);
}

static void optimisers_want_vectors_of_one_length(void **state)
{
    (void)state;
    pare_tensor w = pare_vector(m.x, PARE_F32, 9), g = pare_vector(m.y, PARE_F32, 9);
    pare_tensor mask = pare_vector(m.bytes, PARE_U8, 9);
    {
        pare_sgd_args good = {
            .w = w, .g = g, .m = pare_vector(m.z, PARE_F32, 9), .mask = mask, .momentum = 0.9f};
        TAKEN(sgd);
        REFUSED(sgd, "g is [8]", bad.g.shape[0] = 8);
        REFUSED(sgd, "m is", bad.m.data = NULL);
        REFUSED(sgd, "momentum", bad.momentum = 0);
        REFUSED(sgd, "mask", bad.mask.dtype = PARE_F32);
        REFUSED(sgd, "overlap", bad.m.data = m.y);
        good.m.data = good.mask.data = NULL;
        good.momentum = 0;
        TAKEN(sgd);
    }
    {
        pare_adamw_args good = {.w = w,
                                .g = g,
                                .m = pare_vector(m.z, PARE_F32, 9),
                                .v = pare_vector(m.r, PARE_F32, 9),
                                .mask = mask,
                                .step = 1};
        TAKEN(adamw);
        REFUSED(adamw, "v is", bad.v.data = NULL);
        REFUSED(adamw, "step", bad.step = 0);
        REFUSED(adamw, "beta1", bad.beta1 = 1);
        REFUSED(adamw, "beta2", bad.beta2 = NAN);
        REFUSED(adamw, "overlap", bad.v.data = m.z);
    }
    {
        pare_ema_args good = {.e = w, .w = g, .decay = 0.5f};
        TAKEN(ema);
        REFUSED(ema, "w is [8]", bad.w.shape[0] = 8);
        REFUSED(ema, "overlap", bad.w.data = m.x);
    }
    {
        double sum[2];
        pare_sum_squares_args good = {.x = w, .mask = mask, .sum = pare_vector(sum, PARE_F64, 1)};
        TAKEN(sum_squares);
        REFUSED(sum_squares, "x is BF16", bad.x.dtype = PARE_BF16);
        REFUSED(sum_squares, "mask is [8]", bad.mask.shape[0] = 8);
        REFUSED(sum_squares, "sum is F32", bad.sum.dtype = PARE_F32);
        REFUSED(sum_squares, "sum is [2]", bad.sum.shape[0] = 2);
        REFUSED(sum_squares, "overlap", bad.x.data = sum);
        good.mask.data = NULL;
        TAKEN(sum_squares);
    }
    {
        pare_quant_rows_args good = {.x = pare_matrix(m.x, PARE_F32, 2, 4),
                                     .y = pare_matrix(m.x, PARE_F32, 2, 4)};
        TAKEN(quant_rows);
        REFUSED(quant_rows, "y is BF16", bad.y.dtype = PARE_BF16);
        REFUSED(quant_rows, "overlap", bad.y.data = m.x + 1);
    }
}

static void pools_want_the_shape_that_their_window_makes(void **state)
{
    (void)state;
    pare_window window = {{2, 2}, {2, 2}, {1, 1}, 0, 0, 0, 0};
    pare_tensor x = shaped(m.x, 2, 4, 4, 8), y = shaped(m.y, 2, 2, 2, 8), at = y;
    at.data = m.at;
    at.dtype = PARE_I32;
    {
        pare_pool_max_args good = {.x = x, .y = y, .at = at, .window = window};
        TAKEN(pool_max);
        REFUSED(pool_max, "dimensions", bad.x.rank = 3);
        REFUSED(pool_max, "y is [2, 2, 1, 8]", bad.y.shape[2] = 1);
        REFUSED(pool_max, "at is F32", bad.at.dtype = PARE_F32);
        REFUSED(pool_max, "kernel 0", bad.window.kernel[1] = 0);
        REFUSED(pool_max, "stride -1", bad.window.stride[0] = -1);
        REFUSED(pool_max, "pads", bad.window.pad_right = -1);
        REFUSED(pool_max, "fit", bad.window.kernel[0] = 5);
        REFUSED(pool_max, "fit", bad.window.dilation[1] = INT32_MAX);
        REFUSED(pool_max, "32 bits", bad.window.kernel[0] = bad.window.kernel[1] = 65536);
        REFUSED(pool_max, "overlap", bad.y.data = m.x);
        good.at.data = NULL;
        TAKEN(pool_max);
    }
    {
        pare_pool_max_grad_args good = {.dy = y, .at = at, .dx = x, .window = window};
        TAKEN(pool_max_grad);
        REFUSED(pool_max_grad, "at", bad.at.data = NULL);
        REFUSED(pool_max_grad, "dy", bad.dy.shape[0] = 1);
    }
    {
        pare_pool_avg_args good = {.x = x, .y = y, .window = window};
        TAKEN(pool_avg);
        good.window.kernel[0] = good.window.kernel[1] = 1;
        TAKEN(pool_avg);
        REFUSED(pool_avg, "dilation", bad.window.dilation[0] = 3);
        REFUSED(pool_avg, "y is BF16", bad.y.dtype = PARE_BF16);
    }
    {
        pare_pool_avg_grad_args good = {.dy = y, .dx = x, .window = window};
        TAKEN(pool_avg_grad);
        REFUSED(pool_avg_grad, "overlap", bad.dy.data = m.x);
    }
}

static void sequences_and_shortcuts_keep_their_shapes(void **state)
{
    (void)state;
    pare_tensor x = {.data = m.x, .dtype = PARE_F32, .rank = 3, .shape = {2, 3, 4}};
    {
        pare_pool_seq_args good = {.x = x,
                                   .keys = pare_matrix(m.bytes, PARE_U8, 2, 3),
                                   .y = pare_matrix(m.y, PARE_F32, 2, 4)};
        TAKEN(pool_seq);
        REFUSED(pool_seq, "keys", bad.keys.shape[1] = 4);
        REFUSED(pool_seq, "y is [2, 3]", bad.y.shape[1] = 3);
    }
    {
        pare_pool_seq_grad_args good = {.dy = pare_matrix(m.y, PARE_F32, 2, 4), .dx = x};
        TAKEN(pool_seq_grad);
        REFUSED(pool_seq_grad, "overlap", bad.dy.data = m.x);
    }
    {
        pare_shortcut_args good = {
            .x = shaped(m.x, 1, 5, 4, 3), .y = shaped(m.y, 1, 3, 2, 6), .stride = 2, .before = 1};
        TAKEN(shortcut);
        REFUSED(shortcut, "stride 0", bad.stride = 0);
        REFUSED(shortcut, "before -1", bad.before = -1);
        REFUSED(shortcut, "3 channels behind 4", bad.before = 4);
        REFUSED(shortcut, "y is [1, 2, 2, 6]", bad.y.shape[1] = 2);
    }
    {
        pare_shortcut_grad_args good = {
            .dy = shaped(m.y, 1, 3, 2, 6), .dx = shaped(m.x, 1, 5, 4, 3), .stride = 2, .before = 3};
        TAKEN(shortcut_grad);
        REFUSED(shortcut_grad, "before", bad.before = INT64_MIN);
        REFUSED(shortcut_grad, "overlap", bad.dy.data = m.x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cross_entropy_wants_a_label_and_a_loss_for_each_row),
        cmocka_unit_test(mse_and_kl_compare_rows_of_one_shape),
        cmocka_unit_test(what_is_kept_of_a_row_is_a_matrix_of_classes),
        cmocka_unit_test(directions_are_of_rows_of_one_shape),
        cmocka_unit_test(optimisers_want_vectors_of_one_length),
        cmocka_unit_test(pools_want_the_shape_that_their_window_makes),
        cmocka_unit_test(sequences_and_shortcuts_keep_their_shapes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
