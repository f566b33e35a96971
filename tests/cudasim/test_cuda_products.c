/* What products and convolutions keep between calls, and what they say when a library cannot. */
#include "test.h"

#include "pare/ops.h"

#include "sim_control.h"

#define MOST 1500 /* shapes: more than the tables of plans hold */

static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    cudasim_set_mode((cudasim_mode){.seed = 1, .poison = 0xff});
    return pare_cuda_create(0, &be) == PARE_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    return 0;
}

/* count numbers of the device, all of one value. */
static float *numbers(int64_t count, float value)
{
    float *memory = NULL;
    assert_ok(pare_backend_alloc(be, count * 4, &memory));
    assert_ok(pare_fill(
        be, &(pare_fill_args){.y = pare_vector(memory, PARE_F32, count), .value = value}));
    return memory;
}

static float number(const float *at)
{
    float x = 0;
    assert_ok(pare_backend_download(be, &x, at, 4));
    return x;
}

static void shapes_beyond_the_tables_take_the_place_of_old_ones(void **state)
{
    (void)state;
    float *a = numbers(MOST, 2), *b = numbers(1, 3), *c = numbers(MOST, 0), *d = numbers(MOST, 0);
    for (int round = 0; round < 2; round++)
        for (int64_t n = 1; n <= MOST; n++) {
            assert_ok(pare_gemm(be, &(pare_gemm_args){.a = pare_matrix(a, PARE_F32, n, 1),
                                                      .b = pare_matrix(b, PARE_F32, 1, 1),
                                                      .c = pare_matrix(c, PARE_F32, n, 1)}));
            pare_tensor x = {.data = a, .dtype = PARE_F32, .rank = 4, .shape = {1, 1, n, 1}}, y = x;
            y.data = d;
            assert_ok(
                pare_conv(be, &(pare_conv_args){.x = x,
                                                .w = {b, PARE_F32, 4, {1, 1, 1, 1}},
                                                .y = y,
                                                .window = {{1, 1}, {1, 1}, {1, 1}, 0, 0, 0, 0}}));
            if (n % 100 == 0)
                assert_true(number(c + n - 1) == 6 && number(d + n - 1) == 6);
        }
    pare_backend_release(be, a, MOST * 4);
    pare_backend_release(be, b, 4);
    pare_backend_release(be, c, MOST * 4);
    pare_backend_release(be, d, MOST * 4);
}

/* The stand-in for cuDNN takes 4096 channels. */
static void a_convolution_that_cudnn_lacks_is_named(void **state)
{
    (void)state;
    const int64_t I = 4097;
    float *x = numbers(I, 1), *w = numbers(I, 1), *y = numbers(1, 0);
    pare_tensor xs = {x, PARE_F32, 4, {1, 1, 1, I}}, ws = {w, PARE_F32, 4, {1, I, 1, 1}};
    pare_tensor ys = {y, PARE_F32, 4, {1, 1, 1, 1}};
    const pare_window window = {{1, 1}, {1, 1}, {1, 1}, 0, 0, 0, 0};
    assert_status(pare_conv(be, &(pare_conv_args){.x = xs, .w = ws, .y = ys, .window = window}),
                  PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "conv: cuDNN"));
    assert_non_null(strstr(pare_last_error(), "[1, 1, 1, 4097] and weights [1, 4097, 1, 1]"));
    assert_status(pare_conv_grad_x(
                      be, &(pare_conv_grad_x_args){.dy = ys, .w = ws, .dx = xs, .window = window}),
                  PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "conv_grad_x: cuDNN"));
    assert_status(pare_conv_grad_w(
                      be, &(pare_conv_grad_w_args){.x = xs, .dy = ys, .dw = ws, .window = window}),
                  PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "conv_grad_w: cuDNN"));
    pare_backend_release(be, x, I * 4);
    pare_backend_release(be, w, I * 4);
    pare_backend_release(be, y, 4);
}

static void a_product_without_memory_for_scratch_fails_and_then_works(void **state)
{
    (void)state;
    pare_backend *own = be;
    assert_ok(pare_cuda_create(0, &be)); /* without scratch yet */
    float *a = numbers(100, 2), *b = numbers(100, 3), *c = numbers(1, 0);
    pare_gemm_args args = {.a = pare_matrix(a, PARE_F32, 1, 100),
                           .b = pare_matrix(b, PARE_F32, 100, 1),
                           .c = pare_matrix(c, PARE_F32, 1, 1)};
    cudasim_fail_alloc(1);
    assert_status(pare_gemm(be, &args), PARE_ERR_MEMORY);
    assert_ok(pare_gemm(be, &args));
    assert_true(number(c) == 600);
    pare_backend_release(be, a, 400);
    pare_backend_release(be, b, 400);
    pare_backend_release(be, c, 4);
    pare_backend_free(&be);
    be = own;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_beyond_the_tables_take_the_place_of_old_ones),
        cmocka_unit_test(a_convolution_that_cudnn_lacks_is_named),
        cmocka_unit_test(a_product_without_memory_for_scratch_fails_and_then_works),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
