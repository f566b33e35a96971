/* Rows of batch norm, layer norm, RMS norm and their gradients. */
#include "ops_harness.h"

#include "base/half.h"

#include <math.h>

/* An output compared as numbers. Of a BF16 a tie may fall the other way: a whole step. */
#define NUMBERS(op, field, count, dtype_, tolerance_)                                              \
    (ops_output)                                                                                   \
    {                                                                                              \
        .pointer = offsetof(pare_##op##_args, field.data), .align = element(dtype_),               \
        .bytes = (size_t)(count)*element(dtype_), .dtype = (dtype_),                               \
        .tolerance = (tolerance_) + ((dtype_) == PARE_BF16 ? 0x1p-8 : 0)                           \
    }

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* n numbers around `middle` with a standard deviation of about `spread`. */
static void *numbers(ops_run *run, pare_dtype dtype, int64_t n, float spread, float middle)
{
    size_t shift = (size_t)n % 3;
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, n, shift);
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * 17 * spread + middle;
    if (dtype == PARE_F32)
        return x;
    uint16_t *h = ops_memory(run, (size_t)n * 2, 2, shift);
    for (int64_t i = 0; i < n; i++)
        h[i] = pare__f32_to_bf16(x[i]);
    return h;
}

static pare_tensor vector(ops_run *run, int64_t n, float spread, float middle)
{
    return pare_vector(numbers(run, PARE_F32, n, spread, middle), PARE_F32, n);
}

/* n numbers above 0. */
static pare_tensor positive(ops_run *run, int64_t n)
{
    pare_tensor v = vector(run, n, 1, 0);
    float *x = v.data;
    for (int64_t i = 0; i < n; i++)
        x[i] = fabsf(x[i]) + 0.25f;
    return v;
}

/* ---- batch norm ------------------------------------------------------------------------------ */

/* Few rows, rows of less and more than sixteen columns, several blocks, ends of blocks. */
static const ops_shape images[] = {
    {0, 5},    {5, 0},     {1, 1},    {1, 16},    {2, 9},    {17, 15},   {37, 17},
    {129, 16}, {513, 1},   {300, 33}, {700, 48},  {90, 64},  {40, 513},  {19, 600},
    {33, 511}, {20, 1040}, {4099, 3}, {5003, 16}, {9001, 8}, {5004, 16}, {-1, -1}};

typedef struct batch_case {
    ops_shape s;
    pare_dtype dtype;
    bool training, relu, add, in_place;
    float middle; /* of x */
    bool save;    /* without training too */
} batch_case;

static pare_batch_norm_args batch_args(ops_run *run, const batch_case *k)
{
    int64_t R = k->s.rows, C = k->s.cols;
    pare_batch_norm_args args = {
        .x = pare_matrix(numbers(run, k->dtype, R * C, 1, k->middle), k->dtype, R, C),
        .gamma = vector(run, C, 0.5f, 1),
        .beta = vector(run, C, 1, 0),
        .running_mean = vector(run, C, 1, k->middle),
        .running_var = positive(run, C),
        .y = pare_matrix(NULL, k->dtype, R, C),
        .saved_mean = vector(run, C, 1, 0),
        .saved_scale = vector(run, C, 1, 0),
        .eps = 1e-5f,
        .momentum = 0.125f,
        .training = k->training,
        .relu = k->relu};
    if (!k->training && !k->save)
        args.saved_mean = args.saved_scale = (pare_tensor){0};
    if (k->add)
        args.z = pare_matrix(numbers(run, k->dtype, R * C, 1, 0), k->dtype, R, C);
    return args;
}

static void expect_batch_norm(ops_run *run, const batch_case *k, const pare_batch_norm_args *args)
{
    int64_t C = k->s.cols;
    ops_output outs[6] = {NUMBERS(batch_norm, y, k->s.rows * C, k->dtype, 1e-5)};
    outs[0].in_place = k->in_place;
    outs[0].input = offsetof(pare_batch_norm_args, x.data);
    if (k->training) {
        outs[1] = NUMBERS(batch_norm, running_mean, C, PARE_F32, 1e-6);
        outs[2] = NUMBERS(batch_norm, running_var, C, PARE_F32, 1e-5);
        outs[1].keeps = outs[2].keeps = true;
    }
    ops_output *saved = outs + (k->training ? 3 : 1);
    if ((k->training || k->save) && k->s.rows > 0) { /* of no rows there is nothing to save */
        saved[0] = NUMBERS(batch_norm, saved_mean, C, PARE_F32, 1e-6);
        saved[1] = NUMBERS(batch_norm, saved_scale, C, PARE_F32, 1e-5);
    }
    ops_expect(run, PARE_OP_batch_norm, args, sizeof *args, outs);
}

static void batch_norm_case(ops_run *run, const batch_case *k)
{
    pare_batch_norm_args args = batch_args(run, k);
    expect_batch_norm(run, k, &args);
    ops_next(run);
}

/* A column of one value, one with a NaN. */
static void batch_norm_odd_columns(ops_run *run, bool relu)
{
    batch_case k = {.s = {300, 20}, .dtype = PARE_F32, .training = true, .relu = relu};
    pare_batch_norm_args args = batch_args(run, &k);
    float *x = args.x.data;
    for (int64_t r = 0; r < 300; r++)
        x[r * 20 + 3] = 0.7f;
    x[170 * 20 + 11] = NAN;
    expect_batch_norm(run, &k, &args);
    ops_next(run);
}

/* Running statistics that are saved; of no rows they are not. */
static void batch_norm_saved_running(ops_run *run)
{
    uint64_t place = ops_seed(run, 1);
    for (int64_t R = 0; R < 300; R = 3 * R + 1)
        for (int d = 0; d < 2; d++)
            for (int v = 0; v < 8; v++)
                batch_norm_case(run, &(batch_case){.s = {R, 33},
                                                   .dtype = acts[d],
                                                   .relu = v & 1,
                                                   .add = v & 2,
                                                   .in_place = v & 4,
                                                   .middle = 0.5f,
                                                   .save = true});
    ops_seed(run, place);
}

void ops_cases_batch_norm(ops_run *run)
{
    for (const ops_shape *s = images; s->rows >= 0; s++)
        for (int d = 0; d < 2; d++)
            for (int v = 0; v < 8; v++)
                batch_norm_case(run, &(batch_case){*s, acts[d], v & 1, v & 2, v & 4, false, 0.5f});
    for (int d = 0; d < 2; d++)
        for (int v = 0; v < 4; v++)
            batch_norm_case(run,
                            &(batch_case){{300, 33}, acts[d], false, v & 1, v & 2, true, 0.5f});
    /* a mean that is a thousand and a hundred thousand deviations away */
    batch_norm_case(run, &(batch_case){{5003, 16}, PARE_F32, true, false, false, false, 1e3f});
    batch_norm_case(run, &(batch_case){{300, 20}, PARE_F32, true, true, true, false, 1e5f});
    batch_norm_odd_columns(run, false);
    batch_norm_odd_columns(run, true);
    batch_case k = {.s = {12, 7}, .dtype = PARE_F32, .training = true};
    pare_batch_norm_args args = batch_args(run, &k); /* leading axes are rows */
    args.x.rank = args.y.rank = 4;
    for (int axis = 0; axis < 4; axis++)
        args.x.shape[axis] = args.y.shape[axis] = (const int64_t[]){2, 3, 2, 7}[axis];
    expect_batch_norm(run, &k, &args);
    ops_next(run);
    batch_norm_saved_running(run);
}

/* dz: 0 absent, 1 its own, 2 in the place of dy. */
typedef struct grad_case {
    ops_shape s;
    pare_dtype dtype;
    bool frozen, relu, in_place, accumulate;
    int dz;
} grad_case;

static void batch_norm_grad_case(ops_run *run, const grad_case *k)
{
    ops_shape s = k->s;
    pare_dtype dtype = k->dtype;
    int64_t n = s.rows * s.cols, C = s.cols;
    pare_batch_norm_grad_args args = {
        .dy = pare_matrix(numbers(run, dtype, n, 1, 0.25f), dtype, s.rows, C),
        .x = pare_matrix(numbers(run, dtype, n, 1, 0.5f), dtype, s.rows, C),
        .gamma = vector(run, C, 0.5f, 1),
        .saved_mean = vector(run, C, 0.1f, 0.5f),
        .saved_scale = positive(run, C),
        .dx = pare_matrix(NULL, dtype, s.rows, C),
        .dgamma = vector(run, C, 1, 0),
        .dbeta = vector(run, C, 1, 0),
        .frozen = k->frozen,
        .relu = k->relu,
        .accumulate = k->accumulate};
    if (k->relu)
        args.y = pare_matrix(numbers(run, dtype, n, 1, 0), dtype, s.rows, C);
    /* of one row dx is what little is left of terms near 1, but for frozen statistics */
    double within = k->frozen ? 1e-6 : s.rows == 1 ? 1e-3 : 1e-5;
    ops_output outs[5] = {NUMBERS(batch_norm_grad, dx, n, dtype, within),
                          NUMBERS(batch_norm_grad, dgamma, C, PARE_F32, 1e-5),
                          NUMBERS(batch_norm_grad, dbeta, C, PARE_F32, 1e-5)};
    /* a sum of many terms may be all but nothing, and so may all of them be */
    outs[1].scale = outs[2].scale = sqrt((double)s.rows) * ops_rms(args.dy.data, dtype, n);
    outs[1].keeps = outs[2].keeps = k->accumulate;
    outs[0].in_place = k->in_place;
    outs[0].input = offsetof(pare_batch_norm_grad_args, dy.data);
    if (k->dz > 0) {
        args.dz = pare_matrix(args.dy.data, dtype, s.rows, C);
        outs[3] = NUMBERS(batch_norm_grad, dz, n, dtype, 1e-9);
        outs[3].in_place = k->dz == 2;
        outs[3].input = offsetof(pare_batch_norm_grad_args, dy.data);
    }
    if (n > 0 || k->dz == 0) /* dz without data is absent */
        ops_expect(run, PARE_OP_batch_norm_grad, &args, sizeof args, outs);
    ops_next(run);
}

static void batch_norm_grad_cases(ops_run *run, bool frozen)
{
    for (const ops_shape *s = images; s->rows >= 0; s++)
        for (int d = 0; d < 2; d++)
            for (int v = 0; v < 6; v++) {
                grad_case k = {.s = *s,
                               .dtype = acts[d],
                               .frozen = frozen,
                               .relu = v & 1,
                               .dz = v / 2,
                               .accumulate = v % 3 == 1};
                batch_norm_grad_case(run, &k);
                k.in_place = true;
                if (k.dz < 2)
                    batch_norm_grad_case(run, &k);
            }
}

void ops_cases_batch_norm_grad(ops_run *run)
{
    batch_norm_grad_cases(run, false);
    uint64_t place = ops_seed(run, 1);
    batch_norm_grad_cases(run, true);
    ops_seed(run, place);
}

void ops_cases_batch_norm_fold(ops_run *run)
{
    static const int64_t channels[] = {0, 1, 3, 15, 16, 17, 64, 255, 256, 257, 600, -1};
    for (const int64_t *C = channels; *C >= 0; C++)
        for (int how = 0; how < 2; how++) {
            pare_batch_norm_fold_args args = {.gamma = vector(run, *C, 0.5f, 1),
                                              .beta = vector(run, *C, 1, 0),
                                              .running_mean = vector(run, *C, 1, 3),
                                              .running_var = positive(run, *C),
                                              .scale = pare_vector(NULL, PARE_F32, *C),
                                              .shift = pare_vector(NULL, PARE_F32, *C),
                                              .eps = 1e-5f};
            if (how == 1)
                args.bias = vector(run, *C, 1, 0);
            size_t bytes = (size_t)*C * sizeof(float);
            const ops_output outs[3] = {{.pointer = offsetof(pare_batch_norm_fold_args, scale.data),
                                         .bytes = bytes,
                                         .align = 4},
                                        {.pointer = offsetof(pare_batch_norm_fold_args, shift.data),
                                         .bytes = bytes,
                                         .align = 4}};
            ops_expect(run, PARE_OP_batch_norm_fold, &args, sizeof args, outs);
            ops_next(run);
        }
}

/* ---- layer norm, RMS norm -------------------------------------------------------------------- */

/* Beside ops_shapes: more than a block of rows, models' widths, what registers just hold and more
 * than that. */
static const ops_shape texts[] = {
    {130, 17}, {200, 40}, {3, 384},  {70, 768}, {2, 4096},  {300, 24},  {70, 192},  {20, 1536},
    {9, 3072}, {2, 2049}, {2, 4104}, {2, 8208}, {1, 16384}, {2, 16392}, {1, 16385}, {-1, -1}};

typedef void (*row_case)(ops_run *run, ops_shape s, pare_dtype dtype, int how);

static void each_row_case(ops_run *run, row_case run_case, int hows)
{
    const ops_shape *lists[] = {ops_shapes, texts};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = lists[l]; s->rows >= 0; s++)
            for (int d = 0; d < 2; d++)
                for (int how = 0; how < hows; how++) {
                    run_case(run, *s, acts[d], how);
                    ops_next(run);
                }
}

static void layer_norm_case(ops_run *run, ops_shape s, pare_dtype dtype, int how)
{
    int64_t R = s.rows, N = s.cols, n = R * N;
    float middle = dtype == PARE_F32 && how == 3 ? 1e4f : 0.5f;
    pare_layer_norm_args args = {.x = pare_matrix(numbers(run, dtype, n, 1, middle), dtype, R, N),
                                 .gamma = vector(run, N, 0.5f, 1),
                                 .y = pare_matrix(NULL, dtype, R, N),
                                 .eps = 1e-5f};
    ops_output outs[4] = {NUMBERS(layer_norm, y, n, dtype, 1e-5)};
    outs[0].in_place = how & 1;
    outs[0].input = offsetof(pare_layer_norm_args, x.data);
    if (how != 1)
        args.beta = vector(run, N, 1, 0);
    if (how >= 2) {
        args.saved_mean = args.saved_scale = pare_vector(NULL, PARE_F32, R);
        outs[1] = NUMBERS(layer_norm, saved_mean, R, PARE_F32, 1e-6);
        outs[2] = NUMBERS(layer_norm, saved_scale, R, PARE_F32, 1e-5);
        if (N == 0) /* then there is nothing to save */
            outs[1] = outs[2] = (ops_output){0};
    }
    ops_expect(run, PARE_OP_layer_norm, &args, sizeof args, outs);
}

static void layer_norm_of_a_nan(ops_run *run)
{
    float *x = ops_floats(run, OPS_GRID, PARE_F32, 60, 0);
    x[25] = NAN;
    pare_layer_norm_args args = {.x = pare_matrix(x, PARE_F32, 3, 20),
                                 .gamma = vector(run, 20, 0, 1),
                                 .y = pare_matrix(NULL, PARE_F32, 3, 20),
                                 .eps = 1e-5f};
    ops_expect(run, PARE_OP_layer_norm, &args, sizeof args,
               (ops_output[]){NUMBERS(layer_norm, y, 60, PARE_F32, 1e-5), {0}});
    ops_next(run);
}

void ops_cases_layer_norm(ops_run *run)
{
    each_row_case(run, layer_norm_case, 4);
    layer_norm_of_a_nan(run);
}

static void rms_norm_case(ops_run *run, ops_shape s, pare_dtype dtype, int how)
{
    int64_t R = s.rows, N = s.cols, n = R * N;
    pare_rms_norm_args args = {.x = pare_matrix(numbers(run, dtype, n, 1, 0.5f), dtype, R, N),
                               .gamma = vector(run, N, 0.5f, 1),
                               .y = pare_matrix(NULL, dtype, R, N),
                               .eps = 1e-5f};
    ops_output outs[3] = {NUMBERS(rms_norm, y, n, dtype, 1e-5)};
    outs[0].in_place = how & 1;
    outs[0].input = offsetof(pare_rms_norm_args, x.data);
    if (how >= 2 && N > 0) {
        args.saved_scale = pare_vector(NULL, PARE_F32, R);
        outs[1] = NUMBERS(rms_norm, saved_scale, R, PARE_F32, 1e-5);
    }
    ops_expect(run, PARE_OP_rms_norm, &args, sizeof args, outs);
}

void ops_cases_rms_norm(ops_run *run)
{
    each_row_case(run, rms_norm_case, 4);
}

/* how: 0 all, 1 in place, 2 accumulate both, 3 no parameters, 4 dgamma alone, 5 dbeta alone. */
static void layer_norm_grad_case(ops_run *run, ops_shape s, pare_dtype dtype, int how)
{
    int64_t R = s.rows, N = s.cols, n = R * N;
    pare_layer_norm_grad_args args = {
        .dy = pare_matrix(numbers(run, dtype, n, 1, 0.25f), dtype, R, N),
        .x = pare_matrix(numbers(run, dtype, n, 1, 0.5f), dtype, R, N),
        .gamma = vector(run, N, 0.5f, 1),
        .saved_mean = vector(run, R, 0.1f, 0.5f),
        .saved_scale = positive(run, R),
        .dx = pare_matrix(numbers(run, dtype, n, 1, 0), dtype, R, N),
        .accumulate_x = how == 2,
        .accumulate = how == 2};
    ops_output outs[4] = {NUMBERS(layer_norm_grad, dx, n, dtype, 1e-5)};
    int count = 1;
    outs[0].keeps = how == 2;
    outs[0].in_place = how == 1;
    outs[0].input = offsetof(pare_layer_norm_grad_args, dy.data);
    if (how != 3 && how != 5) {
        args.dgamma = vector(run, N, 1, 0);
        outs[count++] = NUMBERS(layer_norm_grad, dgamma, N, PARE_F32, 1e-5);
    }
    if (how != 3 && how != 4) {
        args.dbeta = vector(run, N, 1, 0);
        outs[count++] = NUMBERS(layer_norm_grad, dbeta, N, PARE_F32, 1e-5);
    }
    for (int i = 1; i < count; i++)
        outs[i].keeps = how == 2;
    if (N == 1) /* a difference of equals */
        outs[0].tolerance += 1e-3;
    ops_expect(run, PARE_OP_layer_norm_grad, &args, sizeof args, outs);
}

void ops_cases_layer_norm_grad(ops_run *run)
{
    each_row_case(run, layer_norm_grad_case, 6);
}

static void rms_norm_grad_case(ops_run *run, ops_shape s, pare_dtype dtype, int how)
{
    int64_t R = s.rows, N = s.cols, n = R * N;
    pare_rms_norm_grad_args args = {.dy =
                                        pare_matrix(numbers(run, dtype, n, 1, 0.25f), dtype, R, N),
                                    .x = pare_matrix(numbers(run, dtype, n, 1, 0.5f), dtype, R, N),
                                    .gamma = vector(run, N, 0.5f, 1),
                                    .saved_scale = positive(run, R),
                                    .dx = pare_matrix(numbers(run, dtype, n, 1, 0), dtype, R, N),
                                    .accumulate_x = how == 2,
                                    .accumulate = how == 2};
    ops_output outs[3] = {NUMBERS(rms_norm_grad, dx, n, dtype, 1e-5)};
    outs[0].keeps = how == 2;
    outs[0].in_place = how == 1;
    outs[0].input = offsetof(pare_rms_norm_grad_args, dy.data);
    if (how != 3) {
        args.dgamma = vector(run, N, 1, 0);
        outs[1] = NUMBERS(rms_norm_grad, dgamma, N, PARE_F32, 1e-5);
        outs[1].keeps = how == 2;
    }
    ops_expect(run, PARE_OP_rms_norm_grad, &args, sizeof args, outs);
}

void ops_cases_rms_norm_grad(ops_run *run)
{
    each_row_case(run, rms_norm_grad_case, 4);
}
