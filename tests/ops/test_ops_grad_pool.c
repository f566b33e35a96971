/* The gradient ops of pools and of the shortcut are derivatives of the forward ones: dx is that of
 * Σ dy·y. */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

#define MOST 2048 /* elements of a case */

static const pare_window windows[] = {
    {{2, 2}, {2, 2}, {1, 1}, 0, 0, 0, 0}, {{3, 3}, {2, 2}, {1, 1}, 1, 1, 1, 1},
    {{3, 2}, {1, 3}, {1, 1}, 2, 0, 1, 1}, {{7, 6}, {1, 1}, {1, 1}, 0, 0, 0, 0},
    {{2, 3}, {1, 2}, {3, 2}, 2, 1, 0, 1}, /* dilated: of the largest only */
};
#define WINDOWS 5
#define UNDILATED 4

static int setup(void **state)
{
    *state = ops_run_make();
    return 0;
}

static int teardown(void **state)
{
    ops_run_free(*state);
    return 0;
}

static pare_tensor shaped(void *data, pare_dtype dtype, int64_t B, int64_t H, int64_t W, int64_t C)
{
    return (pare_tensor){.data = data, .dtype = dtype, .rank = 4, .shape = {B, H, W, C}};
}

/* Σ dy·y */
static double product(const pare_tensor *dy, const double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < pare_tensor_count(dy); i++)
        sum += (double)((const float *)dy->data)[i] * y[i];
    return sum;
}

static pare_tensor random_like(ops_run *run, pare_tensor t)
{
    t.data = ops_floats(run, OPS_NORMAL, PARE_F32, pare_tensor_count(&t), 0);
    return t;
}

static pare_tensor as_f64(pare_tensor t, double *data)
{
    t.dtype = PARE_F64;
    t.data = data;
    return t;
}

static pare_tensor pooled(const pare_window *w)
{
    return shaped(NULL, PARE_F32, 2, pare_window_out(w, 0, 7), pare_window_out(w, 1, 6), 19);
}

/* ---- windows --------------------------------------------------------------------------------- */

static double max_product(const void *user, double *x)
{
    const pare_pool_max_grad_args *g = user;
    double y[MOST];
    pare_pool_max_args args = {.x = as_f64(g->dx, x), .y = as_f64(g->dy, y), .window = g->window};
    oracle_pool_max(&args);
    return product(&g->dy, y);
}

static void the_largest_hands_its_gradient_to_where_it_stood(void **state)
{
    ops_run *run = *state;
    for (int w = 0; w < WINDOWS; w++) {
        float values[MOST], dx[MOST], x_data[MOST];
        int32_t places[MOST];
        pare_tensor x = shaped(x_data, PARE_F32, 2, 7, 6, 19);
        pare_tensor y = pooled(&windows[w]), at = y;
        int64_t n = pare_tensor_count(&x);
        for (int64_t i = 0; i < n; i++) /* none so near another that a difference swaps them */
            x_data[i] = (float)(i * 613 % n) / (float)n;
        y.data = values;
        at.data = places;
        at.dtype = PARE_I32;
        pare_pool_max_grad_args args = {
            .dy = random_like(run, y), .at = at, .dx = x, .window = windows[w]};
        args.dx.data = dx;
        for (int b = 0; ops_backend(run, b); b++) {
            pare_backend *be = ops_backend(run, b);
            assert_ok(pare_pool_max(
                be, &(pare_pool_max_args){.x = x, .y = y, .at = at, .window = windows[w]}));
            assert_ok(pare_pool_max_grad(be, &args));
            ops_expect_gradient(max_product, &args, x_data, n, dx, 1e-6);
        }
        ops_next(run);
    }
}

static double avg_product(const void *user, double *x)
{
    const pare_pool_avg_grad_args *g = user;
    double y[MOST];
    pare_pool_avg_args args = {.x = as_f64(g->dx, x),
                               .y = as_f64(g->dy, y),
                               .window = g->window,
                               .count_pad = g->count_pad};
    oracle_pool_avg(&args);
    return product(&g->dy, y);
}

static void a_mean_shares_its_gradient_out(void **state)
{
    ops_run *run = *state;
    for (int how = 0; how < 2 * UNDILATED; how++) {
        const pare_window *w = &windows[how / 2];
        pare_tensor x = random_like(run, shaped(NULL, PARE_F32, 2, 7, 6, 19));
        float dx[MOST];
        pare_pool_avg_grad_args args = {
            .dy = random_like(run, pooled(w)), .dx = x, .window = *w, .count_pad = how % 2};
        args.dx.data = dx;
        for (int b = 0; ops_backend(run, b); b++) {
            assert_ok(pare_pool_avg_grad(ops_backend(run, b), &args));
            ops_expect_gradient(avg_product, &args, x.data, pare_tensor_count(&x), dx, 1e-6);
        }
        ops_next(run);
    }
}

/* ---- sequences ------------------------------------------------------------------------------- */

static double seq_product(const void *user, double *x)
{
    const pare_pool_seq_grad_args *g = user;
    double y[MOST];
    pare_pool_seq_args args = {.x = as_f64(g->dx, x), .keys = g->keys, .y = as_f64(g->dy, y)};
    oracle_pool_seq(&args);
    return product(&g->dy, y);
}

static void a_mean_over_time_shares_its_gradient_out_to_what_counts(void **state)
{
    enum { B = 3, T = 5, N = 21 };
    static uint8_t keys[B * T] = {1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 2, 1, 1, 1, 1};
    ops_run *run = *state;
    for (int masked = 0; masked < 2; masked++) {
        pare_tensor x = {.dtype = PARE_F32, .rank = 3, .shape = {B, T, N}};
        float dx[B * T * N];
        x = random_like(run, x);
        pare_pool_seq_grad_args args = {.dy = random_like(run, pare_matrix(NULL, PARE_F32, B, N)),
                                        .keys = pare_matrix(masked ? keys : NULL, PARE_U8, B, T),
                                        .dx = x};
        args.dx.data = dx;
        for (int b = 0; ops_backend(run, b); b++) {
            assert_ok(pare_pool_seq_grad(ops_backend(run, b), &args));
            ops_expect_gradient(seq_product, &args, x.data, B * T * N, dx, 1e-6);
        }
        ops_next(run);
    }
}

/* ---- shortcut -------------------------------------------------------------------------------- */

static double shortcut_product(const void *user, double *x)
{
    const pare_shortcut_grad_args *g = user;
    double y[MOST];
    pare_shortcut_args args = {
        .x = as_f64(g->dx, x), .y = as_f64(g->dy, y), .stride = g->stride, .before = g->before};
    oracle_shortcut(&args);
    return product(&g->dy, y);
}

static void a_shortcut_hands_the_gradient_back_to_the_pixels_it_took(void **state)
{
    ops_run *run = *state;
    for (int stride = 1; stride <= 3; stride++) {
        pare_tensor x = random_like(run, shaped(NULL, PARE_F32, 2, 5, 4, 6));
        pare_tensor y =
            shaped(NULL, PARE_F32, 2, (5 + stride - 1) / stride, (4 + stride - 1) / stride, 11);
        float dx[MOST];
        pare_shortcut_grad_args args = {
            .dy = random_like(run, y), .dx = x, .stride = stride, .before = 2};
        args.dx.data = dx;
        for (int b = 0; ops_backend(run, b); b++) {
            assert_ok(pare_shortcut_grad(ops_backend(run, b), &args));
            ops_expect_gradient(shortcut_product, &args, x.data, pare_tensor_count(&x), dx, 1e-6);
        }
        ops_next(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_hands_its_gradient_to_where_it_stood),
        cmocka_unit_test(a_mean_shares_its_gradient_out),
        cmocka_unit_test(a_mean_over_time_shares_its_gradient_out_to_what_counts),
        cmocka_unit_test(a_shortcut_hands_the_gradient_back_to_the_pixels_it_took),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
