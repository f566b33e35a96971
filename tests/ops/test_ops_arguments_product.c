/* Products refuse what does not fit, with the op and the argument in the sentence. */
#include "ops_refuse.h"

typedef struct memory {
    float x[512], y[512], z[512], w[512], v[64];
} memory;
static memory m;

static pare_tensor shaped(void *data, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (pare_tensor){.data = data, .dtype = PARE_F32, .rank = 4, .shape = {a, b, c, d}};
}

static void gemm_wants_matrices_that_fit(void **state)
{
    (void)state;
    pare_gemm_args good = {.a = pare_matrix(m.x, PARE_F32, 4, 6),
                           .b = pare_matrix(m.w, PARE_BF16, 5, 6),
                           .c = pare_matrix(m.y, PARE_F32, 4, 5),
                           .bias = pare_vector(m.v, PARE_F32, 5),
                           .trans_b = true};
    TAKEN(gemm);
    REFUSED(gemm, "a is F16", bad.a.dtype = PARE_F16);
    REFUSED(gemm, "b is F64", bad.b.dtype = PARE_F64);
    REFUSED(gemm, "2 dimensions", bad.a.rank = 1);
    REFUSED(gemm, "they do not fit", bad.b.shape[1] = 7);
    REFUSED(gemm, "[6, 4] transposed and b is [5, 6]",
            (bad.trans_a = true, bad.trans_b = false, bad.a = pare_matrix(m.x, PARE_F32, 6, 4)));
    REFUSED(gemm, "both set", bad.trans_a = true);
    REFUSED(gemm, "c is [4, 6]; it must be [4, 5]", bad.c.shape[1] = 6);
    REFUSED(gemm, "c is I32", bad.c.dtype = PARE_I32);
    REFUSED(gemm, "bias is [4]", bad.bias.shape[0] = 4);
    REFUSED(gemm, "bias is BF16", bad.bias.dtype = PARE_BF16);
    REFUSED(gemm, "overlap", bad.c.data = m.x + 1);
    REFUSED(gemm, "overlap", bad.c.data = m.w);
    REFUSED(gemm, "overlap", bad.c.data = m.v);
    good.bias.data = NULL;
    TAKEN(gemm);
}

static void colsum_wants_one_sum_a_column(void **state)
{
    (void)state;
    pare_colsum_args good = {.x = pare_matrix(m.x, PARE_BF16, 4, 6),
                             .y = pare_vector(m.y, PARE_F32, 6)};
    TAKEN(colsum);
    REFUSED(colsum, "x is U8", bad.x.dtype = PARE_U8);
    REFUSED(colsum, "y is [4]", bad.y.shape[0] = 4);
    REFUSED(colsum, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(colsum, "overlap", bad.y.data = m.x);
}

static void conv_wants_what_its_window_leaves(void **state)
{
    (void)state;
    pare_conv_args good = {.x = shaped(m.x, 2, 5, 4, 6),
                           .w = shaped(m.w, 4, 3, 3, 2),
                           .y = shaped(m.y, 2, 3, 4, 4),
                           .scale = pare_vector(m.v, PARE_F32, 4),
                           .shift = pare_vector(m.v + 4, PARE_F32, 4),
                           .z = shaped(m.z, 2, 3, 4, 4),
                           .window = {{3, 2}, {2, 1}, {1, 1}, 1, 1, 1, 0},
                           .groups = 2};
    TAKEN(conv);
    REFUSED(conv, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(conv, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(conv, "w is I8", bad.w.dtype = PARE_I8);
    REFUSED(conv, "4 dimensions", bad.x.rank = 3);
    REFUSED(conv, "y is [2, 3, 4, 4]; it must be [2, 3, 3, 4]", bad.window.pad_left = 0);
    REFUSED(conv, "w is [4, 3, 3, 2]; it must be [4, 3, 3, 3]", bad.window.kernel[1] = 3);
    REFUSED(conv, "it must be [4, 6, 3, 2]", bad.groups = 0);
    REFUSED(conv, "4 equal groups", bad.groups = 4);
    REFUSED(conv, "groups", bad.groups = -1);
    REFUSED(conv, "does not fit", bad.window.dilation[0] = 4);
    REFUSED(conv, "dilation 0", bad.window.dilation[1] = 0);
    REFUSED(conv, "stride 0", bad.window.stride[0] = 0);
    REFUSED(conv, "kernel -3", bad.window.kernel[0] = -3);
    REFUSED(conv, "negative", bad.window.pad_right = -1);
    REFUSED(conv, "0 channels", (bad.x.shape[3] = 0, bad.x.data = NULL));
    REFUSED(conv, "does not fit", bad.x.shape[1] = 0);
    REFUSED(conv, "scale is [3]", bad.scale.shape[0] = 3);
    REFUSED(conv, "shift is BF16", bad.shift.dtype = PARE_BF16);
    REFUSED(conv, "z is [1, 3, 4, 4]", bad.z.shape[0] = 1);
    REFUSED(conv, "overlap", bad.y.data = m.x);
    REFUSED(conv, "overlap", bad.y.data = m.w);
    REFUSED(conv, "overlap", bad.y.data = m.z + 1);
    REFUSED(conv, "overlap", bad.shift.data = m.y);
    good.z = good.y; /* in place */
    TAKEN(conv);
    good.z.data = good.scale.data = good.shift.data = NULL;
    TAKEN(conv);
}

static void gradients_of_conv_want_the_shapes_of_conv(void **state)
{
    (void)state;
    const pare_window window = {{3, 2}, {2, 1}, {1, 1}, 1, 1, 1, 0};
    {
        pare_conv_grad_x_args good = {.dy = shaped(m.y, 2, 3, 4, 4),
                                      .w = shaped(m.w, 4, 3, 3, 2),
                                      .dx = shaped(m.x, 2, 5, 4, 6),
                                      .window = window,
                                      .groups = 2};
        TAKEN(conv_grad_x);
        REFUSED(conv_grad_x, "dy is [2, 3, 4, 4]; it must be [2, 2, 4, 4]", bad.dx.shape[1] = 3);
        REFUSED(conv_grad_x, "w is [4, 2, 3, 2]", bad.w.shape[1] = 2);
        REFUSED(conv_grad_x, "dy is BF16", bad.dy.dtype = PARE_BF16);
        REFUSED(conv_grad_x, "overlap", bad.dx.data = m.y);
        REFUSED(conv_grad_x, "overlap", bad.dx.data = m.w);
    }
    {
        pare_conv_grad_w_args good = {.x = shaped(m.x, 2, 5, 4, 6),
                                      .dy = shaped(m.y, 2, 3, 4, 4),
                                      .dw = shaped(m.w, 4, 3, 3, 2),
                                      .window = window,
                                      .groups = 2};
        TAKEN(conv_grad_w);
        REFUSED(conv_grad_w, "dw is BF16", bad.dw.dtype = PARE_BF16);
        REFUSED(conv_grad_w, "dw is [4, 3, 3, 1]", bad.dw.shape[3] = 1);
        REFUSED(conv_grad_w, "dy is", bad.dy.shape[3] = 8);
        REFUSED(conv_grad_w, "overlap", bad.dw.data = m.x);
        REFUSED(conv_grad_w, "overlap", bad.dw.data = m.y);
    }
}

static void cholesky_wants_a_square(void **state)
{
    (void)state;
    m.x[0] = 1;
    pare_cholesky_args good = {.a = pare_matrix(m.x, PARE_F32, 1, 1)};
    TAKEN(cholesky);
    REFUSED(cholesky, "a is BF16", bad.a.dtype = PARE_BF16);
    REFUSED(cholesky, "a is [3, 4]; it must be [3, 3]", bad.a = pare_matrix(m.x, PARE_F32, 3, 4));
    REFUSED(cholesky, "2 dimensions", bad.a.rank = 1);
}

static void products_of_codes_want_what_belongs_together(void **state)
{
    (void)state;
    {
        pare_qgemm_w8a8_args good = {.x = pare_matrix(m.x, PARE_BF16, 4, 6),
                                     .w = pare_matrix(m.w, PARE_I8, 5, 6),
                                     .scale = pare_vector(m.v, PARE_F32, 5),
                                     .bias = pare_vector(m.v + 8, PARE_F32, 5),
                                     .c = pare_matrix(m.y, PARE_BF16, 4, 5)};
        TAKEN(qgemm_w8a8);
        REFUSED(qgemm_w8a8, "x is I8", bad.x.dtype = PARE_I8);
        REFUSED(qgemm_w8a8, "w is U8", bad.w.dtype = PARE_U8);
        REFUSED(qgemm_w8a8, "w is [5, 7]; it must be [5, 6]", bad.w.shape[1] = 7);
        REFUSED(qgemm_w8a8, "rows of 131072", bad.x.shape[1] = 131072);
        REFUSED(qgemm_w8a8, "scale is [4]", bad.scale.shape[0] = 4);
        REFUSED(qgemm_w8a8, "bias is BF16", bad.bias.dtype = PARE_BF16);
        REFUSED(qgemm_w8a8, "c is F32", bad.c.dtype = PARE_F32);
        REFUSED(qgemm_w8a8, "c is [4, 6]", bad.c.shape[1] = 6);
        REFUSED(qgemm_w8a8, "overlap", bad.c.data = m.x);
        REFUSED(qgemm_w8a8, "overlap", bad.c.data = m.w);
        REFUSED(qgemm_w8a8, "overlap", bad.c.data = m.v);
        good.bias.data = NULL;
        TAKEN(qgemm_w8a8);
    }
    {
        pare_qgemm_w4a16_args good = {.x = pare_matrix(m.x, PARE_F32, 4, 20),
                                      .words = pare_matrix(m.w, PARE_U8, 5, 12),
                                      .scale = pare_matrix(m.v, PARE_F32, 5, 2),
                                      .zero = pare_matrix(m.z, PARE_I8, 5, 2),
                                      .bias = pare_vector(m.v + 16, PARE_F32, 5),
                                      .c = pare_matrix(m.y, PARE_F32, 4, 5),
                                      .group = 16};
        TAKEN(qgemm_w4a16);
        REFUSED(qgemm_w4a16, "x is F16", bad.x.dtype = PARE_F16);
        REFUSED(qgemm_w4a16, "words is I32", bad.words.dtype = PARE_I32);
        REFUSED(qgemm_w4a16, "words is [5, 12]; it must be [5, 16]", bad.x.shape[1] = 25);
        REFUSED(qgemm_w4a16, "group is 12", bad.group = 12);
        REFUSED(qgemm_w4a16, "group is 0", bad.group = 0);
        REFUSED(qgemm_w4a16, "scale is [5, 2]; it must be [5, 1]", bad.group = 24);
        REFUSED(qgemm_w4a16, "zero is U8", bad.zero.dtype = PARE_U8);
        REFUSED(qgemm_w4a16, "zero is [5, 1]", bad.zero.shape[1] = 1);
        REFUSED(qgemm_w4a16, "bias is [6]", bad.bias.shape[0] = 6);
        REFUSED(qgemm_w4a16, "c is BF16", bad.c.dtype = PARE_BF16);
        REFUSED(qgemm_w4a16, "overlap", bad.c.data = m.z);
        REFUSED(qgemm_w4a16, "overlap", bad.c.data = m.x + 1);
        good.zero.data = good.bias.data = NULL;
        TAKEN(qgemm_w4a16);
    }
}

static void a_window_leaves_what_its_formula_says(void **state)
{
    (void)state;
    static const struct {
        pare_window window;
        int64_t height, width, rows, cols;
    } rows[] = {
        {{{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 32, 7, 32, 7},
        {{{3, 3}, {2, 2}, {1, 1}, 1, 1, 1, 1}, 32, 7, 16, 4},
        {{{2, 3}, {2, 3}, {1, 2}, 0, 1, 1, 2}, 8, 9, 4, 3},
        {{{3, 1}, {1, 1}, {1, 1}, 0, 0, 0, 0}, 2, 0, 0, 0}, /* they do not fit */
        {{{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 0, 1, 0, 1},
        {{{1 << 30, 1}, {1, 1}, {1 << 30, 1}, 0, 0, 0, 1 << 30}, 5, INT64_MAX, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(pare_window_out(&rows[i].window, 0, rows[i].height), rows[i].rows);
        assert_int_equal(pare_window_out(&rows[i].window, 1, rows[i].width), rows[i].cols);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_wants_matrices_that_fit),
        cmocka_unit_test(colsum_wants_one_sum_a_column),
        cmocka_unit_test(conv_wants_what_its_window_leaves),
        cmocka_unit_test(gradients_of_conv_want_the_shapes_of_conv),
        cmocka_unit_test(cholesky_wants_a_square),
        cmocka_unit_test(products_of_codes_want_what_belongs_together),
        cmocka_unit_test(a_window_leaves_what_its_formula_says),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
