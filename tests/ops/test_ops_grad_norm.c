/* The gradients of the norms are derivatives of the forward ops: of Σ dy·y, with ReLU and addend.
 */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

#include <math.h>

#define ROWS 23
#define COLS 19
#define COUNT (ROWS * COLS)
#define EPS 1e-3f

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

/* What a case is made of, in F32; a norm is differentiated by x, gamma, beta and z in turn. */
typedef struct problem {
    float x[COUNT], z[COUNT], dy[COUNT], y[COUNT], gamma[COLS], beta[COLS];
    float mean[COUNT], scale[COUNT]; /* saved: by column or by row */
    float dx[COUNT], dz[COUNT], dgamma[COLS], dbeta[COLS];
    bool relu, add;
    bool frozen; /* a batch norm's statistics are those running */
} problem;

typedef enum what { OF_X, OF_GAMMA, OF_BETA, OF_Z } what;

typedef struct question {
    const problem *p;
    what of;
} question;

static void fill(ops_run *run, float *x, int64_t n, float middle)
{
    const float *source = ops_floats(run, OPS_NORMAL, PARE_F32, n, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = source[i] * 17 + middle;
    ops_next(run);
}

static void make_problem(ops_run *run, problem *p, bool relu, bool add)
{
    memset(p, 0, sizeof *p);
    fill(run, p->x, COUNT, 0.5f);
    fill(run, p->z, COUNT, 0);
    fill(run, p->dy, COUNT, 0);
    fill(run, p->gamma, COLS, 1);
    fill(run, p->beta, COLS, 0);
    p->relu = relu;
    p->add = add;
}

/* A vector or matrix in double: the variable itself, or the problem's numbers widened. */
static pare_tensor wide(const float *x, int64_t rows, int64_t n, double *room, double *variable)
{
    if (!variable)
        for (int64_t i = 0; i < n; i++)
            room[i] = (double)x[i];
    double *data = variable ? variable : room;
    return rows ? pare_matrix(data, PARE_F64, rows, n / rows) : pare_vector(data, PARE_F64, n);
}

typedef struct widened {
    double x[COUNT], z[COUNT], gamma[COLS], beta[COLS], y[COUNT], rest[4][COUNT];
} widened;

static double product(const problem *p, const double *y)
{
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += (double)p->dy[i] * y[i];
    return sum;
}

/* ---- batch norm ------------------------------------------------------------------------------ */

static const float running_mean[COLS] = {0.5f, -1, 2, 0, 0.25f, 3},
                   running_var[COLS] = {1, 2, 0.5f, 4, 0.1f, 1, 1, 1, 1, 1,
                                        9, 1, 1,    1, 1,    1, 1, 1, 1};

static double batch_product(const void *user, double *v)
{
    const question *q = user;
    const problem *p = q->p;
    widened w = {0};
    pare_batch_norm_args args = {
        .x = wide(p->x, ROWS, COUNT, w.x, q->of == OF_X ? v : NULL),
        .gamma = wide(p->gamma, 0, COLS, w.gamma, q->of == OF_GAMMA ? v : NULL),
        .beta = wide(p->beta, 0, COLS, w.beta, q->of == OF_BETA ? v : NULL),
        .running_mean = wide(running_mean, 0, COLS, w.rest[0], NULL),
        .running_var = wide(running_var, 0, COLS, w.rest[1], NULL),
        .saved_mean = pare_vector(w.rest[2], PARE_F64, COLS),
        .saved_scale = pare_vector(w.rest[3], PARE_F64, COLS),
        .y = pare_matrix(w.y, PARE_F64, ROWS, COLS),
        .eps = EPS,
        .training = !p->frozen,
        .relu = p->relu};
    if (p->add)
        args.z = wide(p->z, ROWS, COUNT, w.z, q->of == OF_Z ? v : NULL);
    oracle_batch_norm(&args);
    return product(p, w.y);
}

/* Forward, then backward, on a backend: gradients into p. */
static void run_batch_norm(pare_backend *be, problem *p)
{
    float mean[COLS], var[COLS];
    memcpy(mean, running_mean, sizeof mean);
    memcpy(var, running_var, sizeof var);
    pare_tensor matrix = pare_matrix(p->x, PARE_F32, ROWS, COLS), z = matrix, y = matrix,
                dy = matrix, dx = matrix, dz = matrix;
    z.data = p->add ? p->z : NULL;
    y.data = p->y;
    dy.data = p->dy;
    dx.data = p->dx;
    dz.data = p->add ? p->dz : NULL;
    assert_ok(pare_batch_norm(
        be, &(pare_batch_norm_args){.x = matrix,
                                    .gamma = pare_vector(p->gamma, PARE_F32, COLS),
                                    .beta = pare_vector(p->beta, PARE_F32, COLS),
                                    .running_mean = pare_vector(mean, PARE_F32, COLS),
                                    .running_var = pare_vector(var, PARE_F32, COLS),
                                    .z = z,
                                    .y = y,
                                    .saved_mean = pare_vector(p->mean, PARE_F32, COLS),
                                    .saved_scale = pare_vector(p->scale, PARE_F32, COLS),
                                    .eps = EPS,
                                    .training = !p->frozen,
                                    .relu = p->relu}));
    if (p->frozen)
        assert_memory_equal(mean, running_mean, sizeof mean);
    assert_ok(pare_batch_norm_grad(
        be, &(pare_batch_norm_grad_args){.dy = dy,
                                         .x = matrix,
                                         .y = y,
                                         .gamma = pare_vector(p->gamma, PARE_F32, COLS),
                                         .saved_mean = pare_vector(p->mean, PARE_F32, COLS),
                                         .saved_scale = pare_vector(p->scale, PARE_F32, COLS),
                                         .dx = dx,
                                         .dz = dz,
                                         .dgamma = pare_vector(p->dgamma, PARE_F32, COLS),
                                         .dbeta = pare_vector(p->dbeta, PARE_F32, COLS),
                                         .frozen = p->frozen,
                                         .relu = p->relu}));
}

static void batch_norms_gradients_are_its_derivatives(void **state)
{
    ops_run *run = *state;
    problem p;
    for (int how = 0; how < 8; how++) {
        make_problem(run, &p, how & 1, how & 2);
        p.frozen = how & 4;
        for (int b = 0; ops_backend(run, b); b++) {
            run_batch_norm(ops_backend(run, b), &p);
            question q[] = {{&p, OF_X}, {&p, OF_GAMMA}, {&p, OF_BETA}, {&p, OF_Z}};
            ops_expect_gradient(batch_product, &q[0], p.x, COUNT, p.dx, 1e-4);
            ops_expect_gradient(batch_product, &q[1], p.gamma, COLS, p.dgamma, 1e-4);
            ops_expect_gradient(batch_product, &q[2], p.beta, COLS, p.dbeta, 1e-4);
            if (p.add)
                ops_expect_gradient(batch_product, &q[3], p.z, COUNT, p.dz, 1e-4);
        }
    }
}

/* ---- layer norm, RMS norm -------------------------------------------------------------------- */

static double layer_product(const void *user, double *v)
{
    const question *q = user;
    const problem *p = q->p;
    widened w;
    oracle_layer_norm(&(pare_layer_norm_args){
        .x = wide(p->x, ROWS, COUNT, w.x, q->of == OF_X ? v : NULL),
        .gamma = wide(p->gamma, 0, COLS, w.gamma, q->of == OF_GAMMA ? v : NULL),
        .beta = wide(p->beta, 0, COLS, w.beta, q->of == OF_BETA ? v : NULL),
        .y = pare_matrix(w.y, PARE_F64, ROWS, COLS),
        .eps = EPS});
    return product(p, w.y);
}

static void run_layer_norm(pare_backend *be, problem *p)
{
    pare_tensor x = pare_matrix(p->x, PARE_F32, ROWS, COLS), gamma, mean, scale;
    gamma = pare_vector(p->gamma, PARE_F32, COLS);
    mean = pare_vector(p->mean, PARE_F32, ROWS);
    scale = pare_vector(p->scale, PARE_F32, ROWS);
    assert_ok(
        pare_layer_norm(be, &(pare_layer_norm_args){.x = x,
                                                    .gamma = gamma,
                                                    .beta = pare_vector(p->beta, PARE_F32, COLS),
                                                    .y = pare_matrix(p->y, PARE_F32, ROWS, COLS),
                                                    .saved_mean = mean,
                                                    .saved_scale = scale,
                                                    .eps = EPS}));
    assert_ok(pare_layer_norm_grad(
        be, &(pare_layer_norm_grad_args){.dy = pare_matrix(p->dy, PARE_F32, ROWS, COLS),
                                         .x = x,
                                         .gamma = gamma,
                                         .saved_mean = mean,
                                         .saved_scale = scale,
                                         .dx = pare_matrix(p->dx, PARE_F32, ROWS, COLS),
                                         .dgamma = pare_vector(p->dgamma, PARE_F32, COLS),
                                         .dbeta = pare_vector(p->dbeta, PARE_F32, COLS)}));
}

static void layer_norms_gradients_are_its_derivatives(void **state)
{
    ops_run *run = *state;
    problem p;
    make_problem(run, &p, false, false);
    for (int b = 0; ops_backend(run, b); b++) {
        run_layer_norm(ops_backend(run, b), &p);
        question q[] = {{&p, OF_X}, {&p, OF_GAMMA}, {&p, OF_BETA}};
        ops_expect_gradient(layer_product, &q[0], p.x, COUNT, p.dx, 1e-4);
        ops_expect_gradient(layer_product, &q[1], p.gamma, COLS, p.dgamma, 1e-4);
        ops_expect_gradient(layer_product, &q[2], p.beta, COLS, p.dbeta, 1e-4);
    }
}

static double rms_product(const void *user, double *v)
{
    const question *q = user;
    const problem *p = q->p;
    widened w;
    oracle_rms_norm(&(pare_rms_norm_args){
        .x = wide(p->x, ROWS, COUNT, w.x, q->of == OF_X ? v : NULL),
        .gamma = wide(p->gamma, 0, COLS, w.gamma, q->of == OF_GAMMA ? v : NULL),
        .y = pare_matrix(w.y, PARE_F64, ROWS, COLS),
        .eps = EPS});
    return product(p, w.y);
}

static void rms_norms_gradients_are_its_derivatives(void **state)
{
    ops_run *run = *state;
    problem p;
    make_problem(run, &p, false, false);
    pare_tensor x = pare_matrix(p.x, PARE_F32, ROWS, COLS);
    pare_tensor gamma = pare_vector(p.gamma, PARE_F32, COLS);
    pare_tensor scale = pare_vector(p.scale, PARE_F32, ROWS);
    for (int b = 0; ops_backend(run, b); b++) {
        pare_backend *be = ops_backend(run, b);
        assert_ok(
            pare_rms_norm(be, &(pare_rms_norm_args){.x = x,
                                                    .gamma = gamma,
                                                    .y = pare_matrix(p.y, PARE_F32, ROWS, COLS),
                                                    .saved_scale = scale,
                                                    .eps = EPS}));
        assert_ok(pare_rms_norm_grad(
            be, &(pare_rms_norm_grad_args){.dy = pare_matrix(p.dy, PARE_F32, ROWS, COLS),
                                           .x = x,
                                           .gamma = gamma,
                                           .saved_scale = scale,
                                           .dx = pare_matrix(p.dx, PARE_F32, ROWS, COLS),
                                           .dgamma = pare_vector(p.dgamma, PARE_F32, COLS)}));
        question q[] = {{&p, OF_X}, {&p, OF_GAMMA}};
        ops_expect_gradient(rms_product, &q[0], p.x, COUNT, p.dx, 1e-4);
        ops_expect_gradient(rms_product, &q[1], p.gamma, COLS, p.dgamma, 1e-4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_norms_gradients_are_its_derivatives),
        cmocka_unit_test(layer_norms_gradients_are_its_derivatives),
        cmocka_unit_test(rms_norms_gradients_are_its_derivatives),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
