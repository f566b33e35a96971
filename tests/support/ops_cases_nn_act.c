/* Rows of activations, sums and moves. */
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

/* The output is in the place of the input `field`. */
#define IN_PLACE(output, op, field)                                                                \
    do {                                                                                           \
        (output).in_place = true;                                                                  \
        (output).input = offsetof(pare_##op##_args, field.data);                                   \
    } while (0)

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

/* Beside ops_sizes: multiples of 3, which begin at an aligned address (shift below), around what a
 * block of a device takes of them. */
static const int64_t block_sizes[] = {4095, 4098, 8190, 8193, 16386, -1};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static pare_tensor narrow(ops_run *run, float *x, pare_dtype dtype, int64_t n)
{
    if (dtype == PARE_F32)
        return pare_vector(x, dtype, n);
    uint16_t *h = ops_memory(run, (size_t)n * 2, 2, (size_t)n % 3);
    for (int64_t i = 0; i < n; i++)
        h[i] = pare__f32_to_bf16(x[i]);
    return pare_vector(h, dtype, n);
}

/* Bell-shaped with a standard deviation of about `spread`. */
static pare_tensor numbers(ops_run *run, pare_dtype dtype, int64_t n, float spread)
{
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, n, (size_t)n % 3);
    for (int64_t i = 0; i < n; i++)
        x[i] *= 17 * spread;
    return narrow(run, x, dtype, n);
}

/* Now and then NaN, large or tiny numbers; Inf where the function has a limit there. The first two
 * give the others their scale. */
static pare_tensor arguments(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, float spread)
{
    static const float odd[] = {NAN,    0.0f,   -0.0f, 1e-42f, -1e-30f,  90.0f,
                                -90.0f, -13.3f, 13.3f, -40.0f, INFINITY, -INFINITY};
    bool limits =
        fn == PARE_FN_IDENTITY || fn == PARE_FN_RELU || fn == PARE_FN_TANH || fn == PARE_FN_SIGMOID;
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, n, (size_t)n % 3);
    for (int64_t i = 0; i < n; i++)
        x[i] *= 17 * (i < 2 ? 1 : spread);
    for (int64_t i = 2; i < n; i++)
        if (ops_below(run, 13) == 0)
            x[i] = odd[ops_below(run, limits ? 12 : 10)];
    return narrow(run, x, dtype, n);
}

/* ---- activations ----------------------------------------------------------------------------- */

typedef void (*fn_case)(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, int how);

static void each_fn_case(ops_run *run, fn_case run_case, int hows)
{
    for (int fn = 0; fn < PARE_FNS; fn++)
        for (int d = 0; d < 2; d++)
            for (const int64_t *n = ops_sizes; *n >= 0; n++)
                for (int how = 0; how < hows; how++) {
                    if (*n > 130 && how > 0)
                        continue;
                    run_case(run, (pare_fn)fn, acts[d], *n, how);
                    ops_next(run);
                }
    for (int fn = 0; fn < PARE_FNS; fn++)
        for (int d = 0; d < 2; d++)
            for (const int64_t *n = block_sizes; *n >= 0; n++) {
                run_case(run, (pare_fn)fn, acts[d], *n, 0);
                ops_next(run);
            }
}

static void act_case(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, int how)
{
    pare_act_args args = {.x = arguments(run, fn, dtype, n, how == 0 ? 1.0f : 4.0f),
                          .y = pare_vector(NULL, dtype, n),
                          .fn = fn};
    ops_output outs[2] = {NUMBERS(act, y, n, dtype, 5e-7)};
    if (how == 1)
        IN_PLACE(outs[0], act, x);
    ops_expect(run, PARE_OP_act, &args, sizeof args, outs);
}

/* What is large and finite stays on the function: no NaN, no rest. */
static void act_far_out(ops_run *run, pare_fn fn)
{
    static const float xs[] = {3e38f, -3e38f, 1e20f,  -1e20f, 1e4f,
                               -1e4f, 89.0f,  -89.0f, -88.1f, -87.7f};
    float *x = ops_memory(run, sizeof *x, 4, 0), *y = ops_memory(run, sizeof *y, 4, 0);
    float *dy = ops_memory(run, sizeof *dy, 4, 0), *dx = ops_memory(run, sizeof *dx, 4, 0);
    pare_act_args args = {
        .x = pare_vector(x, PARE_F32, 1), .y = pare_vector(y, PARE_F32, 1), .fn = fn};
    pare_act_grad_args grad = {.dy = pare_vector(dy, PARE_F32, 1),
                               .x = args.x,
                               .dx = pare_vector(dx, PARE_F32, 1),
                               .fn = fn};
    *dy = 1;
    for (int64_t i = 0; i < 10; i++) { /* one by one: each is its own scale */
        *x = xs[i];
        bool odd = fn == PARE_FN_TANH || fn == PARE_FN_SIGMOID;
        float limit = odd ? 1.0f : *x, below = fn == PARE_FN_TANH ? -1.0f : 0.0f;
        for (int b = 0; ops_backend(run, b); b++) {
            assert_ok(ops_call(run, PARE_OP_act, ops_backend(run, b), &args));
            assert_ok(ops_call(run, PARE_OP_act_grad, ops_backend(run, b), &grad));
            float want = fn == PARE_FN_IDENTITY || *x > 0 ? limit : below;
            float want_slope = fn == PARE_FN_IDENTITY || (*x > 0 && !odd) ? 1.0f : 0.0f;
            assert_true(fabsf(*y - want) <= 1e-6f * fabsf(want) + 1e-35f);
            assert_true(fabsf(*dx - want_slope) <= 1e-6f);
        }
    }
    ops_next(run);
}

void ops_cases_act(ops_run *run)
{
    each_fn_case(run, act_case, 2);
    for (int fn = 0; fn < PARE_FNS; fn++)
        act_far_out(run, (pare_fn)fn);
}

static void act_grad_case(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, int how)
{
    pare_act_grad_args args = {.dy = numbers(run, dtype, n, 1),
                               .x = arguments(run, fn, dtype, n, how == 0 ? 1.0f : 4.0f),
                               .dx = pare_vector(NULL, dtype, n),
                               .fn = fn};
    ops_output outs[2] = {NUMBERS(act_grad, dx, n, dtype, 2e-6)};
    outs[0].scale = ops_rms(args.dy.data, dtype, n); /* a slope that is 0 between 1 and less */
    if (how == 1)
        IN_PLACE(outs[0], act_grad, dy);
    ops_expect(run, PARE_OP_act_grad, &args, sizeof args, outs);
}

void ops_cases_act_grad(ops_run *run)
{
    each_fn_case(run, act_grad_case, 2);
}

/* how: 1 in the place of a, 2 of b. */
static void glu_case(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, int how)
{
    pare_glu_args args = {.a = arguments(run, fn, dtype, n, 1),
                          .b = numbers(run, dtype, n, 1),
                          .y = pare_vector(NULL, dtype, n),
                          .fn = fn};
    ops_output outs[2] = {NUMBERS(glu, y, n, dtype, 1e-6)};
    if (how == 1)
        IN_PLACE(outs[0], glu, a);
    if (how == 2)
        IN_PLACE(outs[0], glu, b);
    ops_expect(run, PARE_OP_glu, &args, sizeof args, outs);
}

void ops_cases_glu(ops_run *run)
{
    each_fn_case(run, glu_case, 3);
}

/* how: 1 in the places of a and b, 2 of a and dy. */
static void glu_grad_case(ops_run *run, pare_fn fn, pare_dtype dtype, int64_t n, int how)
{
    pare_glu_grad_args args = {.dy = numbers(run, dtype, n, 1),
                               .a = arguments(run, fn, dtype, n, 1),
                               .b = numbers(run, dtype, n, 1),
                               .da = pare_vector(NULL, dtype, n),
                               .db = pare_vector(NULL, dtype, n),
                               .fn = fn};
    ops_output outs[3] = {NUMBERS(glu_grad, da, n, dtype, 2e-6),
                          NUMBERS(glu_grad, db, n, dtype, 2e-6)};
    outs[0].scale = ops_rms(args.dy.data, dtype, n) * ops_rms(args.b.data, dtype, n);
    if (how > 0)
        IN_PLACE(outs[0], glu_grad, a);
    if (how == 1)
        IN_PLACE(outs[1], glu_grad, b);
    if (how == 2)
        IN_PLACE(outs[1], glu_grad, dy);
    ops_expect(run, PARE_OP_glu_grad, &args, sizeof args, outs);
}

void ops_cases_glu_grad(ops_run *run)
{
    each_fn_case(run, glu_grad_case, 3);
}

/* ---- sums ------------------------------------------------------------------------------------ */

void ops_cases_fill(ops_run *run)
{
    static const float values[] = {0.0f, -1.7f, 3e38f, INFINITY, NAN};
    for (int d = 0; d < 2; d++)
        for (int l = 0; l < 2; l++)
            for (const int64_t *n = l ? block_sizes : ops_sizes; *n >= 0; n++) {
                pare_fill_args args = {.y = pare_vector(NULL, acts[d], *n),
                                       .value = values[*n % 5]};
                ops_expect(run, PARE_OP_fill, &args, sizeof args,
                           (ops_output[]){NUMBERS(fill, y, *n, acts[d], 1e-9), {0}});
            }
}

/* dtypes: a bit each for a, b and y. */
static void add_case(ops_run *run, int64_t n, int dtypes, bool relu, int in_place)
{
    pare_dtype a = acts[dtypes & 1], b = acts[dtypes >> 1 & 1], y = acts[dtypes >> 2];
    pare_add_args args = {.a = arguments(run, PARE_FN_RELU, a, n, 1),
                          .b = numbers(run, b, n, 1),
                          .y = pare_vector(NULL, y, n),
                          .relu = relu};
    ops_output outs[2] = {NUMBERS(add, y, n, y, 1e-7)};
    if (in_place == 1)
        IN_PLACE(outs[0], add, a);
    if (in_place == 2)
        IN_PLACE(outs[0], add, b);
    if ((in_place != 1 || a == y) && (in_place != 2 || b == y))
        ops_expect(run, PARE_OP_add, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_add(ops_run *run)
{
    for (const int64_t *n = ops_sizes; *n >= 0; n++)
        for (int dtypes = 0; dtypes < 8; dtypes++)
            for (int how = 0; how < 6; how++)
                add_case(run, *n, dtypes, how & 1, how / 2);
    for (const int64_t *n = block_sizes; *n >= 0; n++)
        for (int dtypes = 0; dtypes < 8; dtypes++)
            add_case(run, *n, dtypes, dtypes % 3 == 0, 0);
}

/* Beside ops_shapes: rows of a period, ends of it, columns too many to be written out; then what
 * moves in packs on a device (aligned, columns a multiple of 8): several blocks, tiles that are not
 * whole. */
static const ops_shape matrices[] = {{40, 16},  {513, 3},  {3000, 17}, {33, 511}, {19, 513},
                                     {9, 1000}, {70, 48},  {5, 4099},  {200, 48}, {6, 2040},
                                     {36, 96},  {132, 60}, {41, 120},  {3, 1200}, {-1, -1}};

static void add_rows_case(ops_run *run, ops_shape s, pare_dtype dtype, pare_dtype v, bool in_place)
{
    int64_t n = s.rows * s.cols;
    pare_add_rows_args args = {.x = numbers(run, dtype, n, 1),
                               .y = pare_matrix(NULL, dtype, s.rows, s.cols),
                               .v = numbers(run, v, s.cols, 1)};
    args.x = pare_matrix(args.x.data, dtype, s.rows, s.cols);
    ops_output outs[2] = {NUMBERS(add_rows, y, n, dtype, 1e-7)};
    if (in_place)
        IN_PLACE(outs[0], add_rows, x);
    ops_expect(run, PARE_OP_add_rows, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_add_rows(ops_run *run)
{
    const ops_shape *lists[] = {ops_shapes, matrices};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = lists[l]; s->rows >= 0; s++)
            for (int how = 0; how < 8; how++)
                add_rows_case(run, *s, acts[how & 1], acts[how >> 1 & 1], how >> 2);
}

static void dropout_case(ops_run *run, int64_t n, pare_dtype dtype, float p, bool in_place)
{
    pare_dropout_args args = {.x = numbers(run, dtype, n, 1),
                              .y = pare_vector(NULL, dtype, n),
                              .p = p,
                              .seed = ops_random(run),
                              .stream = ops_random(run)};
    ops_output outs[2] = {NUMBERS(dropout, y, n, dtype, 1e-6)};
    if (in_place)
        IN_PLACE(outs[0], dropout, x);
    ops_expect(run, PARE_OP_dropout, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_dropout(ops_run *run)
{
    static const float p[] = {0.0f, 0.1f, 0.5f, 0.999f, 1e-7f, 0.99999994f};
    for (const int64_t *n = ops_sizes; *n >= 0; n++)
        for (int d = 0; d < 2; d++)
            for (int k = 0; k < 6; k++)
                dropout_case(run, *n, acts[d], p[k], k & 1);
    for (const int64_t *n = block_sizes; *n >= 0; n++)
        for (int d = 0; d < 2; d++)
            dropout_case(run, *n, acts[d], 0.3f, false);
}

/* ---- moves ----------------------------------------------------------------------------------- */

/* The columns of y left and right of those copied are its own. `beside`: of x on the left, of y on
 * both sides; below 0: some. */
static void copy_cols_case(ops_run *run, int64_t rows, int64_t cols, int64_t beside, int how)
{
    pare_dtype from = acts[how & 1], to = acts[how >> 1 & 1];
    bool accumulate = how >> 2 & 1, one = how >> 3;
    int64_t left = beside < 0 ? cols % 3 : beside, both = beside < 0 ? cols % 5 : 2 * beside;
    int64_t Nx = cols + left, Ny = cols + both, x_rows = one ? 1 : rows;
    pare_tensor x = numbers(run, from, x_rows * Nx, 1), y = numbers(run, to, rows * Ny, 1);
    pare_copy_cols_args args = {.x = pare_matrix(x.data, from, x_rows, Nx),
                                .y = pare_matrix(y.data, to, rows, Ny),
                                .x_first = left,
                                .y_first = both / 2,
                                .cols = cols,
                                .accumulate = accumulate};
    ops_output outs[2] = {NUMBERS(copy_cols, y, rows * Ny, to, 1e-7)};
    outs[0].keeps = true;
    ops_expect(run, PARE_OP_copy_cols, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_copy_cols(ops_run *run)
{
    const ops_shape *lists[] = {ops_shapes, matrices};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = lists[l]; s->rows >= 0; s++)
            for (int how = 0; how < 16; how++)
                copy_cols_case(run, s->rows, s->cols, -1, how);
    for (int how = 0; how < 16; how++) {
        copy_cols_case(run, 99, 88, 8, how);
        copy_cols_case(run, 6, 2032, 8, how);
        copy_cols_case(run, 33, 40, 0, how);
    }
}

static void transpose_case(ops_run *run, int64_t B, ops_shape s, pare_dtype dtype, bool accumulate)
{
    int64_t M = s.rows, N = s.cols;
    pare_transpose_args args = {.x = numbers(run, dtype, B * M * N, 1),
                                .y = numbers(run, dtype, B * M * N, 1),
                                .accumulate = accumulate};
    args.x.rank = args.y.rank = 3;
    args.x.shape[0] = args.y.shape[0] = B;
    args.x.shape[1] = args.y.shape[2] = M;
    args.x.shape[2] = args.y.shape[1] = N;
    ops_output outs[2] = {NUMBERS(transpose, y, B * M * N, dtype, 1e-7)};
    outs[0].keeps = accumulate;
    ops_expect(run, PARE_OP_transpose, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_transpose(ops_run *run)
{
    const ops_shape *lists[] = {ops_shapes, matrices};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = lists[l]; s->rows >= 0; s++)
            for (int how = 0; how < 8; how++)
                transpose_case(run, how & 4 ? 3 : 1, *s, acts[how & 1], how & 2);
}
