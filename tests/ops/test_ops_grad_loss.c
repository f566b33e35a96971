/* The gradients that losses write are derivatives of the losses. */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

enum { R = 5, N = 37 };

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

/* ---- cross-entropy --------------------------------------------------------------------------- */

/* Scaled sum of the rows' losses at x. */
static double entropy_sum(const void *user, double *x)
{
    pare_cross_entropy_args args = *(const pare_cross_entropy_args *)user;
    double loss[R], sum = 0;
    args.x = pare_matrix(x, PARE_F64, R, N);
    args.loss = pare_vector(loss, PARE_F64, R);
    args.dx.data = args.rank.data = NULL;
    oracle_cross_entropy(&args);
    for (int i = 0; i < R; i++)
        sum += loss[i];
    return (double)args.grad_scale * sum;
}

static void expect_entropy_gradient(ops_run *run, bool two, float smoothing, bool in_place)
{
    static const int32_t labels[R] = {3, 0, -1, 36, 17}, labels2[R] = {3, 9, 4, 0, -1};
    static const float mix[R] = {0.5f, 0.25f, 0.5f, 1, 0.75f};
    float dx[R * N], loss[R], *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    for (int i = 0; i < R * N; i++)
        x[i] *= 40;
    pare_cross_entropy_args args = {
        .x = pare_matrix(x, PARE_F32, R, N),
        .labels = pare_vector((void *)(uintptr_t)labels, PARE_I32, R),
        .labels2 = pare_vector(two ? (void *)(uintptr_t)labels2 : NULL, PARE_I32, R),
        .mix = pare_vector((void *)(uintptr_t)mix, PARE_F32, R),
        .loss = pare_vector(loss, PARE_F32, R),
        .dx = pare_matrix(dx, PARE_F32, R, N),
        .smoothing = smoothing,
        .grad_scale = 0.25f};
    for (int b = 0; ops_backend(run, b); b++) {
        if (in_place) {
            memcpy(dx, x, sizeof dx);
            args.x.data = dx;
        }
        assert_ok(pare_cross_entropy(ops_backend(run, b), &args));
        ops_expect_gradient(entropy_sum, &args, x, R * N, dx, 2e-6);
    }
    ops_next(run);
}

static void cross_entropys_gradient_is_its_derivative(void **state)
{
    for (int how = 0; how < 8; how++)
        expect_entropy_gradient(*state, how & 1, how & 2 ? 0.1f : 0, how & 4);
}

/* ---- mse ------------------------------------------------------------------------------------- */

static double mse_sum(const void *user, double *x)
{
    pare_mse_args args = *(const pare_mse_args *)user;
    double loss[R], sum = 0;
    args.x = pare_matrix(x, PARE_F64, R, N);
    args.loss = pare_vector(loss, PARE_F64, R);
    args.dx.data = NULL;
    oracle_mse(&args);
    for (int i = 0; i < R; i++)
        sum += loss[i];
    return (double)args.grad_scale * sum;
}

/* Of rows, one of which does not count. */
static float weights[R] = {1, 0.5f, 0, 2, 3};

static void expect_mse_gradient(ops_run *run, float *weight)
{
    float dx[R * N], loss[R], *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    pare_mse_args args = {
        .x = pare_matrix(x, PARE_F32, R, N),
        .t = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1), PARE_F32, R, N),
        .weight = pare_vector(weight, PARE_F32, R),
        .loss = pare_vector(loss, PARE_F32, R),
        .dx = pare_matrix(dx, PARE_F32, R, N),
        .grad_scale = 3};
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_mse(ops_backend(run, b), &args));
        ops_expect_gradient(mse_sum, &args, x, R * N, dx, 2e-6);
    }
    ops_next(run);
}

static void squared_errors_gradient_is_its_derivative(void **state)
{
    expect_mse_gradient(*state, NULL);
    expect_mse_gradient(*state, weights);
}

/* ---- cosine ---------------------------------------------------------------------------------- */

static double cosine_sum(const void *user, double *x)
{
    pare_cosine_args args = *(const pare_cosine_args *)user;
    double loss[R], sum = 0;
    args.x = pare_matrix(x, PARE_F64, R, N);
    args.loss = pare_vector(loss, PARE_F64, R);
    args.dx.data = NULL;
    oracle_cosine(&args);
    for (int i = 0; i < R; i++)
        sum += loss[i];
    return (double)args.grad_scale * sum;
}

static void expect_cosine_gradient(ops_run *run, float *weight, bool in_place)
{
    float dx[R * N], loss[R], *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    pare_cosine_args args = {
        .x = pare_matrix(x, PARE_F32, R, N),
        .t = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1), PARE_F32, R, N),
        .weight = pare_vector(weight, PARE_F32, R),
        .loss = pare_vector(loss, PARE_F32, R),
        .dx = pare_matrix(dx, PARE_F32, R, N),
        .grad_scale = 3};
    for (int b = 0; ops_backend(run, b); b++) {
        if (in_place) {
            memcpy(dx, x, sizeof dx);
            args.x.data = dx;
        }
        assert_ok(pare_cosine(ops_backend(run, b), &args));
        ops_expect_gradient(cosine_sum, &args, x, R * N, dx, 2e-6);
    }
    ops_next(run);
}

static void directions_gradient_is_its_derivative(void **state)
{
    expect_cosine_gradient(*state, NULL, true);
    expect_cosine_gradient(*state, weights, false);
}

/* ---- kl -------------------------------------------------------------------------------------- */

static double kl_sum(const void *user, double *x)
{
    pare_kl_args args = *(const pare_kl_args *)user;
    double kl[R], sum = 0;
    args.x = pare_matrix(x, PARE_F64, R, N);
    args.kl = pare_vector(kl, PARE_F64, R);
    args.dx.data = NULL;
    oracle_kl(&args);
    for (int i = 0; i < R; i++)
        sum += kl[i];
    return (double)args.grad_scale * sum;
}

static int32_t labels[R] = {7, -1, 0, 1, 2};

static void expect_kl_gradient(ops_run *run, pare_divergence divergence, float temperature,
                               bool in_place)
{
    float dx[R * N], kl[R], *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    float *teacher = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1);
    for (int i = 0; i < R * N; i++) {
        x[i] *= 30;
        teacher[i] *= 40;
    }
    pare_kl_args args = {.teacher = pare_matrix(teacher, PARE_F32, R, N),
                         .x = pare_matrix(x, PARE_F32, R, N),
                         .labels = pare_vector(in_place ? labels : NULL, PARE_I32, R),
                         .kl = pare_vector(kl, PARE_F32, R),
                         .dx = pare_matrix(dx, PARE_F32, R, N),
                         .grad_scale = 3,
                         .temperature = temperature,
                         .divergence = divergence};
    for (int b = 0; ops_backend(run, b); b++) {
        if (in_place) {
            memcpy(dx, x, sizeof dx);
            args.x.data = dx;
        }
        assert_ok(pare_kl(ops_backend(run, b), &args));
        ops_expect_gradient(kl_sum, &args, x, R * N, dx,
                            divergence == PARE_DIVERGENCE_FORWARD ? 2e-6 : 1e-5);
    }
    ops_next(run);
}

static void divergences_gradient_is_its_derivative(void **state)
{
    for (int kind = PARE_DIVERGENCE_FORWARD; kind <= PARE_DIVERGENCE_JS; kind++) {
        expect_kl_gradient(*state, (pare_divergence)kind, 0, false);
        expect_kl_gradient(*state, (pare_divergence)kind, 1, true);
        expect_kl_gradient(*state, (pare_divergence)kind, 4, false);
        expect_kl_gradient(*state, (pare_divergence)kind, 0.5f, true);
    }
}

/* ---- kl_top ---------------------------------------------------------------------------------- */

static double kl_top_sum(const void *user, double *x)
{
    pare_kl_top_args args = *(const pare_kl_top_args *)user;
    double loss[R], sum = 0;
    args.x = pare_matrix(x, PARE_F64, R, N);
    args.loss = pare_vector(loss, PARE_F64, R);
    args.dx.data = NULL;
    oracle_kl_top(&args);
    for (int i = 0; i < R; i++)
        sum += loss[i];
    return (double)args.grad_scale * sum;
}

static void expect_kl_top_gradient(ops_run *run, int64_t K, float temperature, bool in_place)
{
    int32_t index[R * N];
    float dx[R * N], loss[R], value[R * N], *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    float *teacher = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1);
    for (int i = 0; i < R * N; i++) {
        x[i] *= 30;
        teacher[i] *= 40;
    }
    pare_kl_top_args args = {.x = pare_matrix(x, PARE_F32, R, N),
                             .index = pare_matrix(index, PARE_I32, R, K),
                             .value = pare_matrix(value, PARE_F32, R, K),
                             .labels = pare_vector(in_place ? labels : NULL, PARE_I32, R),
                             .loss = pare_vector(loss, PARE_F32, R),
                             .dx = pare_matrix(dx, PARE_F32, R, N),
                             .grad_scale = 3,
                             .temperature = temperature};
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_top_k(ops_backend(run, b),
                             &(pare_top_k_args){.x = pare_matrix(teacher, PARE_F32, R, N),
                                                .index = args.index,
                                                .value = args.value,
                                                .temperature = temperature}));
        if (in_place) {
            memcpy(dx, x, sizeof dx);
            args.x.data = dx;
        }
        assert_ok(pare_kl_top(ops_backend(run, b), &args));
        ops_expect_gradient(kl_top_sum, &args, x, R * N, dx, 2e-6);
    }
    ops_next(run);
}

static void the_gradient_beside_what_was_kept_is_its_derivative(void **state)
{
    for (int how = 0; how < 4; how++) {
        expect_kl_top_gradient(*state, 1, how < 2 ? 0 : 3, how & 1);
        expect_kl_top_gradient(*state, 8, how < 2 ? 0 : 3, how & 1);
        expect_kl_top_gradient(*state, N, how < 2 ? 0 : 3, how & 1);
    }
}

/* Nothing is lost where all classes are kept; where not, the loss is no more than the whole. */
static void what_was_kept_gives_no_more_than_the_whole_divergence(void **state)
{
    ops_run *run = *state;
    int32_t index[R * N];
    float kl[R], part[R], value[R * N];
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 0);
    float *teacher = ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1);
    for (int i = 0; i < R * N; i++) {
        x[i] *= 30;
        teacher[i] *= 40;
    }
    pare_tensor t = pare_matrix(teacher, PARE_F32, R, N), s = pare_matrix(x, PARE_F32, R, N);
    for (int b = 0; ops_backend(run, b); b++) {
        pare_backend *be = ops_backend(run, b);
        assert_ok(pare_kl(
            be, &(pare_kl_args){
                    .teacher = t, .x = s, .kl = pare_vector(kl, PARE_F32, R), .temperature = 2}));
        for (int64_t K = 1; K <= N; K += 9) {
            pare_tensor kept = pare_matrix(index, PARE_I32, R, K);
            pare_tensor log_p = pare_matrix(value, PARE_F32, R, K);
            assert_ok(pare_top_k(
                be, &(pare_top_k_args){.x = t, .index = kept, .value = log_p, .temperature = 2}));
            assert_ok(pare_kl_top(be, &(pare_kl_top_args){.x = s,
                                                          .index = kept,
                                                          .value = log_p,
                                                          .loss = pare_vector(part, PARE_F32, R),
                                                          .temperature = 2}));
            for (int i = 0; i < R; i++) {
                assert_true(part[i] <= kl[i] * 1.00001f);
                assert_true(K < N || part[i] > kl[i] * 0.9999f);
            }
        }
    }
    ops_next(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cross_entropys_gradient_is_its_derivative),
        cmocka_unit_test(squared_errors_gradient_is_its_derivative),
        cmocka_unit_test(directions_gradient_is_its_derivative),
        cmocka_unit_test(divergences_gradient_is_its_derivative),
        cmocka_unit_test(the_gradient_beside_what_was_kept_is_its_derivative),
        cmocka_unit_test(what_was_kept_gives_no_more_than_the_whole_divergence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
