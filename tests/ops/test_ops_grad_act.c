/* The gradients of activations, gated or not, and of dropout are derivatives of the forward ops: of
 * Σ dy·y. */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

#include <math.h>

#define N 67

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

/* Bell-shaped, up to 3.4 either way; none so near 0 that a step crosses a ReLU's corner. */
static void fill(ops_run *run, float x[N])
{
    const float *source = ops_floats(run, OPS_NORMAL, PARE_F32, N, 0);
    for (int i = 0; i < N; i++) {
        x[i] = source[i] * 17;
        if (fabsf(x[i]) < 1e-3f)
            x[i] = 0.5f;
    }
    ops_next(run);
}

static double product(const float *dy, const double *y)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += (double)dy[i] * y[i];
    return sum;
}

/* ---- y = f(x) -------------------------------------------------------------------------------- */

static double act_product(const void *user, double *x)
{
    const pare_act_grad_args *g = user;
    double y[N];
    oracle_act(&(pare_act_args){
        .x = pare_vector(x, PARE_F64, N), .y = pare_vector(y, PARE_F64, N), .fn = g->fn});
    return product(g->dy.data, y);
}

static void every_activations_gradient_is_its_derivative(void **state)
{
    ops_run *run = *state;
    for (int fn = 0; fn < PARE_FNS; fn++) {
        float x[N], dy[N], dx[N];
        fill(run, x);
        fill(run, dy);
        pare_act_grad_args args = {.dy = pare_vector(dy, PARE_F32, N),
                                   .x = pare_vector(x, PARE_F32, N),
                                   .dx = pare_vector(dx, PARE_F32, N),
                                   .fn = (pare_fn)fn};
        for (int b = 0; ops_backend(run, b); b++) {
            assert_ok(pare_act_grad(ops_backend(run, b), &args));
            ops_expect_gradient(act_product, &args, x, N, dx, 1e-5);
        }
    }
}

/* ---- y = f(a)·b ------------------------------------------------------------------------------ */

static double glu_product(const pare_glu_grad_args *g, double *a, double *b)
{
    double y[N];
    oracle_glu(&(pare_glu_args){.a = pare_vector(a, PARE_F64, N),
                                .b = pare_vector(b, PARE_F64, N),
                                .y = pare_vector(y, PARE_F64, N),
                                .fn = g->fn});
    return product(g->dy.data, y);
}

static void widen(const pare_tensor *x, double *y)
{
    for (int i = 0; i < N; i++)
        y[i] = (double)((const float *)x->data)[i];
}

static double product_of_a(const void *user, double *a)
{
    const pare_glu_grad_args *g = user;
    double b[N];
    widen(&g->b, b);
    return glu_product(g, a, b);
}

static double product_of_b(const void *user, double *b)
{
    const pare_glu_grad_args *g = user;
    double a[N];
    widen(&g->a, a);
    return glu_product(g, a, b);
}

static void a_gated_units_gradients_are_its_derivatives_by_gate_and_value(void **state)
{
    ops_run *run = *state;
    for (int fn = 0; fn < PARE_FNS; fn++) {
        float a[N], b[N], dy[N], da[N], db[N];
        fill(run, a);
        fill(run, b);
        fill(run, dy);
        pare_glu_grad_args args = {.dy = pare_vector(dy, PARE_F32, N),
                                   .a = pare_vector(a, PARE_F32, N),
                                   .b = pare_vector(b, PARE_F32, N),
                                   .da = pare_vector(da, PARE_F32, N),
                                   .db = pare_vector(db, PARE_F32, N),
                                   .fn = (pare_fn)fn};
        for (int k = 0; ops_backend(run, k); k++) {
            assert_ok(pare_glu_grad(ops_backend(run, k), &args));
            ops_expect_gradient(product_of_a, &args, a, N, da, 1e-5);
            ops_expect_gradient(product_of_b, &args, b, N, db, 1e-5);
        }
    }
}

/* ---- dropout --------------------------------------------------------------------------------- */

static double dropout_product(const void *user, double *x)
{
    const pare_dropout_args *g = user;
    double y[N];
    pare_dropout_args args = *g;
    args.x = pare_vector(x, PARE_F64, N);
    args.y = pare_vector(y, PARE_F64, N);
    oracle_dropout(&args);
    return product(g->x.data, y);
}

static void dropouts_gradient_is_dropout_of_dy(void **state)
{
    ops_run *run = *state;
    float x[N], dy[N], dx[N];
    fill(run, x);
    fill(run, dy);
    pare_dropout_args args = {.x = pare_vector(dy, PARE_F32, N),
                              .y = pare_vector(dx, PARE_F32, N),
                              .p = 0.3f,
                              .seed = 5,
                              .stream = 9};
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_dropout(ops_backend(run, b), &args));
        ops_expect_gradient(dropout_product, &args, x, N, dx, 1e-5);
    }
}

static void dropout_keeps_its_share_whatever_the_thread_count(void **state)
{
    enum { MANY = 1 << 20 };
    ops_run *run = *state;
    float *x = malloc(MANY * sizeof *x), *y = malloc(MANY * sizeof *y);
    for (int i = 0; i < MANY; i++)
        x[i] = 1;
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_dropout(ops_backend(run, b),
                               &(pare_dropout_args){.x = pare_vector(x, PARE_F32, MANY),
                                                    .y = pare_vector(y, PARE_F32, MANY),
                                                    .p = 0.1f,
                                                    .seed = 1,
                                                    .stream = 2}));
        double sum = 0;
        for (int i = 0; i < MANY; i++)
            sum += (double)y[i];
        assert_true(fabs(sum / MANY - 1) < 0.002); /* six deviations */
    }
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_activations_gradient_is_its_derivative),
        cmocka_unit_test(a_gated_units_gradients_are_its_derivatives_by_gate_and_value),
        cmocka_unit_test(dropouts_gradient_is_dropout_of_dy),
        cmocka_unit_test(dropout_keeps_its_share_whatever_the_thread_count),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
