/* What serves as a product's gradient is its derivative: of Σ dy·y by x, by the weights and by the
 * bias, where y is the product's oracle. */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

#define MOST 4096  /* elements of a case */
#define BACKENDS 2 /* with one thread and with three: every instruction set asks oneDNN alike */

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

static pare_tensor random_like(ops_run *run, pare_tensor t)
{
    assert_true(pare_tensor_count(&t) <= MOST);
    t.data = ops_floats(run, OPS_NORMAL, PARE_F32, pare_tensor_count(&t), 0);
    return t;
}

static pare_tensor shaped(ops_run *run, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return random_like(run, (pare_tensor){.dtype = PARE_F32, .rank = 4, .shape = {a, b, c, d}});
}

/* A place for a gradient. */
static pare_tensor blank(pare_tensor t, float *data)
{
    t.data = data;
    return t;
}

static pare_tensor as_f64(pare_tensor t, double *data)
{
    t.dtype = PARE_F64;
    t.data = data;
    return t;
}

/* t's numbers in data, unless the derivative is by another: then `at` are t's. */
static pare_tensor widened(pare_tensor t, double *data, double *at)
{
    for (int64_t i = 0; !at && i < pare_tensor_count(&t); i++)
        data[i] = (double)((const float *)t.data)[i];
    return as_f64(t, at ? at : data);
}

static double product(const pare_tensor *dy, const double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < pare_tensor_count(dy); i++)
        sum += (double)((const float *)dy->data)[i] * y[i];
    return sum;
}

/* ---- a linear layer -------------------------------------------------------------------------- */

enum { BY_X, BY_W, BY_BIAS };

typedef struct layer {
    pare_tensor x, w, bias, dy; /* [R, I], [O, I], [O], [R, O] */
    int by;
} layer;

static double layer_product(const void *user, double *at)
{
    const layer *l = user;
    double x[MOST], w[MOST], bias[MOST], y[MOST];
    pare_gemm_args args = {.a = widened(l->x, x, l->by == BY_X ? at : NULL),
                           .b = widened(l->w, w, l->by == BY_W ? at : NULL),
                           .bias = widened(l->bias, bias, l->by == BY_BIAS ? at : NULL),
                           .c = as_f64(l->dy, y),
                           .trans_b = true};
    oracle_gemm(&args);
    return product(&l->dy, y);
}

static void products_of_a_linear_layer_are_its_gradients(void **state)
{
    enum { R = 19, I = 23, O = 17 };
    ops_run *run = *state;
    layer l = {.x = random_like(run, pare_matrix(NULL, PARE_F32, R, I)),
               .w = random_like(run, pare_matrix(NULL, PARE_F32, O, I)),
               .bias = random_like(run, pare_vector(NULL, PARE_F32, O)),
               .dy = random_like(run, pare_matrix(NULL, PARE_F32, R, O))};
    float dx[MOST], dw[MOST], db[MOST];
    for (int b = 0; b < BACKENDS; b++) {
        pare_backend *be = ops_backend(run, b);
        assert_ok(pare_gemm(be, &(pare_gemm_args){.a = l.dy, .b = l.w, .c = blank(l.x, dx)}));
        assert_ok(pare_gemm(
            be, &(pare_gemm_args){.a = l.dy, .b = l.x, .c = blank(l.w, dw), .trans_a = true}));
        assert_ok(pare_colsum(be, &(pare_colsum_args){.x = l.dy, .y = blank(l.bias, db)}));
        l.by = BY_X;
        ops_expect_gradient(layer_product, &l, l.x.data, R * I, dx, 1e-6);
        l.by = BY_W;
        ops_expect_gradient(layer_product, &l, l.w.data, O * I, dw, 1e-6);
        l.by = BY_BIAS;
        ops_expect_gradient(layer_product, &l, l.bias.data, O, db, 1e-6);
    }
    ops_next(run);
}

/* ---- a convolution --------------------------------------------------------------------------- */

typedef struct conv_layer {
    pare_tensor x, w, dy;
    pare_window window;
    int groups, by;
} conv_layer;

static double conv_product(const void *user, double *at)
{
    const conv_layer *l = user;
    double x[MOST], w[MOST], y[MOST];
    pare_conv_args args = {.x = widened(l->x, x, l->by == BY_X ? at : NULL),
                           .w = widened(l->w, w, l->by == BY_W ? at : NULL),
                           .y = as_f64(l->dy, y),
                           .window = l->window,
                           .groups = l->groups};
    oracle_conv(&args);
    return product(&l->dy, y);
}

static void gradients_of_convolutions_are_derivatives(void **state)
{
    static const struct {
        pare_window window;
        int groups, I, O;
    } rows[] = {
        {{{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 1, 3, 5},
        {{{3, 2}, {2, 3}, {1, 1}, 0, 2, 1, 1}, 1, 16, 16},
        {{{3, 3}, {2, 2}, {2, 1}, 2, 1, 2, 0}, 2, 4, 6},
        {{{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 8, 8, 8},
        {{{1, 1}, {2, 2}, {1, 1}, 0, 0, 0, 0}, 1, 7, 9},
    };
    ops_run *run = *state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const pare_window *w = &rows[i].window;
        conv_layer l = {
            .x = shaped(run, 2, 5, 4, rows[i].I),
            .w = shaped(run, rows[i].O, rows[i].I / rows[i].groups, w->kernel[0], w->kernel[1]),
            .dy = shaped(run, 2, pare_window_out(w, 0, 5), pare_window_out(w, 1, 4), rows[i].O),
            .window = *w,
            .groups = rows[i].groups};
        float dx[MOST], dw[MOST];
        pare_conv_grad_x_args by_x = {
            .dy = l.dy, .w = l.w, .dx = blank(l.x, dx), .window = *w, .groups = l.groups};
        pare_conv_grad_w_args by_w = {
            .x = l.x, .dy = l.dy, .dw = blank(l.w, dw), .window = *w, .groups = l.groups};
        for (int b = 0; b < BACKENDS; b++) {
            assert_ok(pare_conv_grad_x(ops_backend(run, b), &by_x));
            assert_ok(pare_conv_grad_w(ops_backend(run, b), &by_w));
            l.by = BY_X;
            ops_expect_gradient(conv_product, &l, l.x.data, pare_tensor_count(&l.x), dx, 1e-6);
            l.by = BY_W;
            ops_expect_gradient(conv_product, &l, l.w.data, pare_tensor_count(&l.w), dw, 1e-6);
        }
        ops_next(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_a_linear_layer_are_its_gradients),
        cmocka_unit_test(gradients_of_convolutions_are_derivatives),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
