/* Rows of the losses, the optimisers, sum_squares and quant_rows. */
#include "ops_harness.h"

#include "base/half.h"

#include <math.h>

/* An output compared as numbers. Of a BF16 a tie may fall the other way: a whole step. */
#define NUMBERS(op, field, count, dtype_, tolerance_)                                              \
    {                                                                                              \
        .pointer = offsetof(pare_##op##_args, field.data), .align = element(dtype_),               \
        .bytes = (size_t)(count)*element(dtype_), .dtype = (dtype_),                               \
        .tolerance = (tolerance_) + ((dtype_) == PARE_BF16 ? 0x1p-8 : 0)                           \
    }
/* One compared as bytes. */
#define BYTES(op, field, count, size)                                                              \
    {                                                                                              \
        .pointer = offsetof(pare_##op##_args, field.data), .align = (size),                        \
        .bytes = (size_t)(count) * (size)                                                          \
    }

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* [R, V] with a standard deviation of about `spread` around `middle`. */
static void *logits(ops_run *run, pare_dtype dtype, int64_t n, float spread, float middle,
                    size_t shift)
{
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

/* Classes, one in eight −1. */
static int32_t *classes(ops_run *run, int64_t R, int64_t V)
{
    int32_t *label = ops_memory(run, (size_t)R * 4, 4, 1);
    for (int64_t i = 0; i < R; i++)
        label[i] = V == 0 || ops_below(run, 8) == 0 ? -1 : (int32_t)ops_below(run, V);
    return label;
}

/* ---- cross-entropy --------------------------------------------------------------------------- */

typedef struct entropy_case {
    int64_t R, V;
    pare_dtype dtype;
    bool two, ranked, gradient, in_place;
    float smoothing;
} entropy_case;

static void expect_entropy(ops_run *run, const entropy_case *k, void *x)
{
    int64_t R = k->R, V = k->V;
    float *mix = ops_memory(run, (size_t)R * 4, 4, 0);
    for (int64_t i = 0; i < R; i++)
        mix[i] = (float)ops_below(run, 65) / 64;
    pare_cross_entropy_args args = {
        .x = pare_matrix(x, k->dtype, R, V),
        .labels = pare_vector(classes(run, R, V), PARE_I32, R),
        .labels2 = pare_vector(k->two ? classes(run, R, V) : NULL, PARE_I32, R),
        .mix = pare_vector(mix, PARE_F32, R),
        .loss = pare_vector(NULL, PARE_F32, R),
        .rank = pare_vector(NULL, PARE_I32, R),
        .dx = pare_matrix(NULL, k->dtype, R, V),
        .smoothing = k->smoothing,
        .grad_scale = 0.125f};
    /* of few classes a row's loss may be small beside the sum that it is made of */
    ops_output outs[4] = {NUMBERS(cross_entropy, loss, R, PARE_F32, 2e-6)};
    int at = 1;
    if (k->ranked)
        outs[at++] = (ops_output)BYTES(cross_entropy, rank, R, 4);
    if (k->gradient || k->in_place) {
        outs[at] = (ops_output)NUMBERS(cross_entropy, dx, R * V, k->dtype, 4e-6);
        outs[at].in_place = k->in_place;
        outs[at].input = offsetof(pare_cross_entropy_args, x.data);
    }
    ops_expect(run, PARE_OP_cross_entropy, &args, sizeof args, outs);
    ops_next(run);
}

/* Rows whose sums of e^x need care: the largest at either end, blocks of −Inf, far from 0. */
static void entropy_hard_rows(ops_run *run, pare_dtype dtype)
{
    enum { R = 5, V = 5000 };
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, R * V, 0);
    for (int v = 0; v < V; v++) {
        x[v] = v < 4500 ? -INFINITY : x[v];
        x[V + v] = x[V + v] * 100 + 20000;
        x[2 * V + v] = (float)v - 10000;
        x[3 * V + v] = (float)-v;
        x[4 * V + v] = v % 2 ? 3e38f : -3e38f;
    }
    entropy_case k = {R, V, dtype, .ranked = true, .gradient = true};
    if (dtype == PARE_F32) {
        expect_entropy(run, &k, x);
        return;
    }
    uint16_t *h = ops_memory(run, R * V * 2, 2, 0);
    for (int i = 0; i < R * V; i++)
        h[i] = pare__f32_to_bf16(x[i]);
    expect_entropy(run, &k, h);
}

/* A label out of range is refused before anything is written. */
static void expect_bad_label(ops_run *run, int which, int64_t at, int32_t label, const char *words)
{
    enum { R = 300, V = 3 };
    for (int b = 0; ops_backend(run, b); b++) {
        float *loss = ops_memory(run, R * sizeof *loss, 4, 0);
        int32_t *labels[2] = {classes(run, R, V), classes(run, R, V)};
        labels[which][at] = label;
        pare_cross_entropy_args args = {
            .x = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, R * V, 0), PARE_F32, R, V),
            .labels = pare_vector(labels[0], PARE_I32, R),
            .labels2 = pare_vector(which ? labels[1] : NULL, PARE_I32, R),
            .mix = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, R, 0), PARE_F32, R),
            .loss = pare_vector(loss, PARE_F32, R)};
        for (int i = 0; i < R; i++)
            loss[i] = 7;
        assert_status(ops_call(run, PARE_OP_cross_entropy, ops_backend(run, b), &args),
                      PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), words));
        for (int i = 0; i < R; i++)
            assert_true(loss[i] == 7);
        ops_next(run);
    }
}

static void entropy_bad_labels(ops_run *run)
{
    expect_bad_label(run, 0, 1, 3, "labels[1] is 3");
    expect_bad_label(run, 0, 299, INT32_MIN, "labels[299] is -2147483648");
    expect_bad_label(run, 1, 0, -2, "labels2[0] is -2");
}

void ops_cases_cross_entropy(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 5},    {3, 0},     {1, 1},    {5, 2},    {64, 10},
                                       {9, 15},   {7, 16},    {5, 17},   {3, 100},  {2, 1024},
                                       {2, 1025}, {2, 2047},  {3, 2048}, {5, 2049}, {2, 4113},
                                       {41, 509}, {1, 16384}, {1, 30011}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int d = 0; d < 2; d++)
            for (int how = 0; how < 8; how++) {
                entropy_case k = {shapes[s].rows,
                                  shapes[s].cols,
                                  .dtype = acts[d],
                                  .two = how & 1,
                                  .smoothing = how & 2 ? 0.1f : 0,
                                  .ranked = how != 3,
                                  .gradient = how != 4,
                                  .in_place = how > 5};
                float spread = how & 4 ? 0.5f : 5.0f, middle = how == 5 ? 500 : 0;
                expect_entropy(run, &k,
                               logits(run, acts[d], k.R * k.V, spread, middle, (size_t)how % 3));
            }
    static const ops_kind kinds[] = {OPS_GRID, OPS_ZEROS, OPS_EQUAL, OPS_WIDE, OPS_BAD};
    for (size_t n = 0; n < sizeof kinds / sizeof kinds[0]; n++)
        for (int d = 0; d < 2; d++) {
            entropy_case k = {17, 300, acts[d], .ranked = true, .gradient = true};
            expect_entropy(run, &k, ops_floats(run, kinds[n], acts[d], 17 * 300, 1));
        }
    entropy_hard_rows(run, PARE_F32);
    entropy_hard_rows(run, PARE_BF16);
    entropy_bad_labels(run);
}

/* ---- mse ------------------------------------------------------------------------------------- */

/* Of rows, one in four 0. */
static float *weights(ops_run *run, int64_t R)
{
    float *weight = ops_memory(run, (size_t)R * 4, 4, 1);
    for (int64_t i = 0; i < R; i++)
        weight[i] = (float)ops_below(run, 4) / 2;
    return weight;
}

void ops_cases_mse(ops_run *run)
{
    for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
        for (int how = 0; how < 12; how++) {
            pare_dtype x_dtype = acts[how & 1], t_dtype = acts[how >> 1 & 1];
            int64_t R = s->rows, N = s->cols * (how % 3 == 0 ? 7 : 1), n = R * N;
            ops_kind kind = how % 5 == 4 ? OPS_BAD : OPS_NORMAL;
            pare_mse_args args = {
                .x = pare_matrix(ops_floats(run, kind, x_dtype, n, 1), x_dtype, R, N),
                .t = pare_matrix(ops_floats(run, kind, t_dtype, n, 2), t_dtype, R, N),
                .weight = pare_vector(how % 4 == 2 ? weights(run, R) : NULL, PARE_F32, R),
                .loss = pare_vector(NULL, PARE_F32, R),
                .dx = pare_matrix(NULL, x_dtype, R, N),
                .grad_scale = 0.5f};
            ops_output outs[3] = {NUMBERS(mse, loss, R, PARE_F32, 1e-6)};
            if (how >= 4) {
                outs[1] = (ops_output)NUMBERS(mse, dx, n, x_dtype, 1e-6);
                outs[1].in_place = how >= 8;
                outs[1].input = offsetof(pare_mse_args, x.data);
            }
            ops_expect(run, PARE_OP_mse, &args, sizeof args, outs);
            ops_next(run);
        }
}

/* ---- optimisers ------------------------------------------------------------------------------ */

static uint8_t *keep_flags(ops_run *run, int64_t n)
{
    uint8_t *mask = ops_memory(run, (size_t)n, 1, (size_t)n % 3);
    for (int64_t i = 0; i < n; i++)
        mask[i] = (uint8_t)(ops_below(run, 3) * 100);
    return mask;
}

static float *squares(ops_run *run, int64_t n)
{
    float *v = ops_floats(run, OPS_NORMAL, PARE_F32, n, 2);
    for (int64_t i = 0; i < n; i++)
        v[i] *= v[i];
    return v;
}

/* Beside ops_sizes: multiples of 3, whose inputs begin at aligned addresses, around what a block of
 * a device takes of them. */
static const int64_t block_sizes[] = {4095, 4098, 8193, 12300, -1};

/* The first is 1: a scale for the others, however few. */
static float *normal(ops_run *run, int64_t n)
{
    float *x = ops_floats(run, OPS_NORMAL, PARE_F32, n, (size_t)n % 3);
    if (n > 0)
        x[0] = 1;
    return x;
}

/* Where a mask is 0 there is +0 behind, whatever was there before. */
static void expect_plus_zero(ops_run *run, pare_op op)
{
    enum { N = 37 };
    for (int b = 0; ops_backend(run, b); b++) {
        pare_tensor w = pare_vector(normal(run, N), PARE_F32, N);
        pare_tensor g = pare_vector(normal(run, N), PARE_F32, N);
        pare_tensor m = pare_vector(normal(run, N), PARE_F32, N);
        pare_tensor v = pare_vector(normal(run, N), PARE_F32, N);
        pare_tensor mask = pare_vector(ops_memory(run, N, 1, 0), PARE_U8, N);
        memset(mask.data, 0, N);
        for (int i = 0; i < N; i++) {
            ((float *)w.data)[i] = i % 3 ? -1.0f : NAN;
            ((float *)m.data)[i] = -2;
            ((float *)v.data)[i] = 3;
            ((float *)g.data)[i] = i % 2 ? INFINITY : 1;
        }
        pare_sgd_args sgd = {.w = w, .g = g, .m = m, .mask = mask, .rate = 1, .momentum = 0.9f};
        pare_adamw_args adamw = {
            .w = w, .g = g, .m = m, .v = v, .mask = mask, .rate = 1, .beta1 = 0.9f, .step = 1};
        const float zero[N] = {0};
        assert_ok(ops_call(run, op, ops_backend(run, b),
                           op == PARE_OP_sgd ? (void *)&sgd : (void *)&adamw));
        assert_memory_equal(w.data, zero, sizeof zero);
        assert_memory_equal(m.data, zero, sizeof zero);
        assert_true(op == PARE_OP_sgd || memcmp(v.data, zero, sizeof zero) == 0);
        ops_next(run);
    }
}

static void sgd_case(ops_run *run, int64_t n, int how)
{
    bool moves = how & 1;
    pare_sgd_args args = {.w = pare_vector(normal(run, n), PARE_F32, n),
                          .g = pare_vector(normal(run, n), PARE_F32, n),
                          .m = pare_vector(moves ? normal(run, n) : NULL, PARE_F32, n),
                          .mask = pare_vector(how & 2 ? keep_flags(run, n) : NULL, PARE_U8, n),
                          .rate = 0.1f,
                          .momentum = moves ? 0.9f : 0,
                          .decay = how & 4 ? 5e-4f : 0,
                          .grad_scale = how & 4 ? 0.25f : 1,
                          .nesterov = how > 4};
    ops_output outs[3] = {NUMBERS(sgd, w, n, PARE_F32, 1e-6)};
    outs[0].keeps = true;
    if (moves) {
        outs[1] = (ops_output)NUMBERS(sgd, m, n, PARE_F32, 1e-6);
        outs[1].keeps = true;
    }
    ops_expect(run, PARE_OP_sgd, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_sgd(ops_run *run)
{
    for (int l = 0; l < 2; l++)
        for (const int64_t *n = l ? block_sizes : ops_sizes; *n >= 0; n++)
            for (int how = 0; how < 8; how++)
                sgd_case(run, *n, how);
    expect_plus_zero(run, PARE_OP_sgd);
}

static void adamw_case(ops_run *run, int64_t n, int how)
{
    static const int64_t steps[] = {1, 2, 1000, INT64_C(1) << 40};
    pare_adamw_args args = {.w = pare_vector(normal(run, n), PARE_F32, n),
                            .g = pare_vector(normal(run, n), PARE_F32, n),
                            .m = pare_vector(normal(run, n), PARE_F32, n),
                            .v = pare_vector(squares(run, n), PARE_F32, n),
                            .mask = pare_vector(how & 2 ? keep_flags(run, n) : NULL, PARE_U8, n),
                            .rate = 1e-3f,
                            .beta1 = 0.9f,
                            .beta2 = how & 1 ? 0.999f : 0.95f,
                            .eps = 1e-8f,
                            .decay = how & 4 ? 0.1f : 0,
                            .grad_scale = how & 4 ? 0.25f : 1,
                            .step = steps[how / 2]};
    ops_output outs[4] = {NUMBERS(adamw, w, n, PARE_F32, 1e-6),
                          NUMBERS(adamw, m, n, PARE_F32, 1e-6),
                          NUMBERS(adamw, v, n, PARE_F32, 1e-6)};
    outs[0].keeps = outs[1].keeps = outs[2].keeps = true;
    ops_expect(run, PARE_OP_adamw, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_adamw(ops_run *run)
{
    for (int l = 0; l < 2; l++)
        for (const int64_t *n = l ? block_sizes : ops_sizes; *n >= 0; n++)
            for (int how = 0; how < 8; how++)
                adamw_case(run, *n, how);
    expect_plus_zero(run, PARE_OP_adamw);
}

void ops_cases_ema(ops_run *run)
{
    for (int l = 0; l < 2; l++)
        for (const int64_t *n = l ? block_sizes : ops_sizes; *n >= 0; n++) {
            pare_ema_args args = {.e = pare_vector(normal(run, *n), PARE_F32, *n),
                                  .w = pare_vector(normal(run, *n), PARE_F32, *n),
                                  .decay = 0.999f};
            ops_output outs[2] = {NUMBERS(ema, e, *n, PARE_F32, 1e-6)};
            outs[0].keeps = true;
            ops_expect(run, PARE_OP_ema, &args, sizeof args, outs);
            ops_next(run);
        }
}

static void sum_squares_case(ops_run *run, int64_t n, ops_kind kind, int how)
{
    float *x = ops_floats(run, kind, PARE_F32, n, (size_t)n % 3);
    uint8_t *mask = how & 1 ? keep_flags(run, n) : NULL;
    double *sum = ops_memory(run, sizeof *sum, 8, 0);
    *sum = 7.25;
    if (mask) /* what is masked does not count, whatever it is */
        for (int64_t i = 0; i < n; i++)
            x[i] = mask[i] ? x[i] : NAN;
    pare_sum_squares_args args = {.x = pare_vector(x, PARE_F32, n),
                                  .mask = pare_vector(mask, PARE_U8, n),
                                  .sum = pare_vector(sum, PARE_F64, 1),
                                  .accumulate = how & 2};
    ops_output outs[2] = {{.pointer = offsetof(pare_sum_squares_args, sum.data),
                           .bytes = sizeof *sum,
                           .align = sizeof *sum,
                           .keeps = args.accumulate,
                           .tolerance = 1e-14,
                           .dtype = PARE_F64}};
    ops_expect(run, PARE_OP_sum_squares, &args, sizeof args, outs);
    ops_next(run);
}

/* Beside ops_sizes: around chunks, from aligned addresses and others. */
void ops_cases_sum_squares(ops_run *run)
{
    static const int64_t sizes[] = {4098, 16383, 16384, 16386, 32768, 32769, 49155, -1};
    for (int l = 0; l < 2; l++)
        for (const int64_t *n = l ? sizes : ops_sizes; *n >= 0; n++)
            for (int how = 0; how < 4; how++)
                sum_squares_case(run, *n, OPS_NORMAL, how);
    for (int kind = OPS_GRID; kind < OPS_KINDS; kind++) /* f32 squared is finite in f64 */
        sum_squares_case(run, 3000, (ops_kind)kind, kind % 4);
}

/* ---- quant_rows ------------------------------------------------------------------------------ */

static void quant_rows_case(ops_run *run, ops_shape s, pare_dtype dtype, ops_kind kind)
{
    int64_t n = s.rows * s.cols;
    uint8_t *x = ops_floats(run, kind, dtype, n, (size_t)n % 3);
    if (kind == OPS_ZEROS && s.rows > 1)
        memset(x, 0, (size_t)s.cols * element(dtype));
    pare_quant_rows_args args = {.x = pare_matrix(x, dtype, s.rows, s.cols),
                                 .y = pare_matrix(NULL, dtype, s.rows, s.cols)};
    ops_output outs[2] = {BYTES(quant_rows, y, n, element(dtype))};
    outs[0].in_place = kind % 2;
    outs[0].input = offsetof(pare_quant_rows_args, x.data);
    if (kind == OPS_BAD) { /* of NaN any will do */
        outs[0].tolerance = 1e-30;
        outs[0].dtype = dtype;
    }
    ops_expect(run, PARE_OP_quant_rows, &args, sizeof args, outs);
    ops_next(run);
}

/* Beside ops_shapes: rows as long as a device keeps at once, and longer. */
void ops_cases_quant_rows(ops_run *run)
{
    static const ops_shape wide[] = {{3, 504},  {9, 1024}, {3, 1032}, {3, 4088},
                                     {3, 4104}, {3, 8200}, {3, 9001}, {-1, -1}};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = l ? wide : ops_shapes; s->rows >= 0; s++)
            for (int d = 0; d < 2; d++)
                for (int kind = 0; kind < OPS_KINDS; kind++)
                    quant_rows_case(run, *s, acts[d], (ops_kind)kind);
}
