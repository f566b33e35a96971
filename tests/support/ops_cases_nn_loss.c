/* Rows of the losses, the optimisers and quant_rows. */
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
static void entropy_bad_labels(ops_run *run)
{
    float x[6] = {0}, loss[2] = {7, 7}, mix[2] = {1, 1};
    int32_t good[2] = {0, 2}, high[2] = {0, 3}, low[2] = {-2, 0};
    pare_cross_entropy_args args = {.x = pare_matrix(x, PARE_F32, 2, 3),
                                    .labels = pare_vector(high, PARE_I32, 2),
                                    .loss = pare_vector(loss, PARE_F32, 2)};
    for (int b = 0; ops_backend(run, b); b++) {
        pare_backend *be = ops_backend(run, b);
        args.labels.data = high;
        args.labels2.data = NULL;
        assert_status(pare_cross_entropy(be, &args), PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), "labels[1] is 3"));
        args.labels.data = good;
        args.labels2 = pare_vector(low, PARE_I32, 2);
        args.mix = pare_vector(mix, PARE_F32, 2);
        assert_status(pare_cross_entropy(be, &args), PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), "labels2[0] is -2"));
        assert_true(loss[0] == 7 && loss[1] == 7);
    }
}

void ops_cases_cross_entropy(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 5},    {3, 0},    {1, 1},    {5, 2},    {64, 10},
                                       {9, 15},   {7, 16},   {5, 17},   {3, 100},  {2, 2047},
                                       {3, 2048}, {5, 2049}, {2, 4113}, {41, 509}, {1, 30011}};
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

/* ---- kl -------------------------------------------------------------------------------------- */

static void expect_kl(ops_run *run, int64_t R, pare_tensor teacher, pare_tensor x, bool same)
{
    pare_kl_args args = {.teacher = teacher,
                         .x = x,
                         .kl = pare_vector(NULL, PARE_F32, R),
                         .same = pare_vector(NULL, PARE_U8, R)};
    ops_output outs[3] = {NUMBERS(kl, kl, R, PARE_F32, 4e-6)};
    if (same)
        outs[1] = (ops_output)BYTES(kl, same, R, 1);
    ops_expect(run, PARE_OP_kl, &args, sizeof args, outs);
    ops_next(run);
}

/* A student near its teacher; classes that either rules out; the same row twice. */
static void kl_hard_rows(ops_run *run)
{
    enum { R = 6, V = 5003 };
    float *t = logits(run, PARE_F32, R * V, 3, 0, 0), *x = logits(run, PARE_F32, R * V, 0.1f, 0, 0);
    for (int i = 0; i < R * V; i++)
        x[i] += t[i];
    for (int v = 0; v < V; v++) {
        t[v] = v < 3000 ? -INFINITY : t[v];
        x[V + v] = v == 4500 ? -INFINITY : x[V + v];
        x[2 * V + v] = t[2 * V + v];
        t[3 * V + v] += 300;
        t[4 * V + v] = x[4 * V + v] = (float)(v % 100); /* equal largest */
        t[5 * V + v] = v < 4500 ? -300 : t[5 * V + v];
    }
    expect_kl(run, R, pare_matrix(t, PARE_F32, R, V), pare_matrix(x, PARE_F32, R, V), true);
}

void ops_cases_kl(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 5},  {3, 0},   {1, 1},    {5, 2},    {9, 15},  {7, 16},
                                       {5, 17}, {33, 10}, {2, 2047}, {3, 2049}, {2, 4113}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int how = 0; how < 8; how++) {
            pare_dtype t_dtype = acts[how & 1], x_dtype = acts[how >> 1 & 1];
            int64_t R = shapes[s].rows, V = shapes[s].cols;
            void *t = logits(run, t_dtype, R * V, 3, how < 4 ? 0 : 40, 1);
            void *x = logits(run, x_dtype, R * V, how < 4 ? 3 : 1, 0, 2);
            expect_kl(run, R, pare_matrix(t, t_dtype, R, V), pare_matrix(x, x_dtype, R, V),
                      how != 5);
        }
    for (int d = 0; d < 2; d++) { /* ties and NaN */
        static const ops_kind kinds[] = {OPS_GRID, OPS_ZEROS, OPS_EQUAL, OPS_BAD};
        for (size_t n = 0; n < sizeof kinds / sizeof kinds[0]; n++)
            expect_kl(run, 19,
                      pare_matrix(ops_floats(run, kinds[n], acts[d], 19 * 77, 0), acts[d], 19, 77),
                      pare_matrix(ops_floats(run, kinds[n], acts[d], 19 * 77, 0), acts[d], 19, 77),
                      true);
    }
    kl_hard_rows(run);
}

/* ---- optimisers ------------------------------------------------------------------------------ */

static uint8_t *keep_flags(ops_run *run, int64_t n)
{
    uint8_t *mask = ops_memory(run, (size_t)n, 1, 1);
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

/* Where a mask is 0 there is +0 behind, whatever was there before. */
static void expect_plus_zero(ops_run *run)
{
    enum { N = 37 };
    for (int b = 0; ops_backend(run, b); b++) {
        pare_backend *be = ops_backend(run, b);
        float w[N], m[N], v[N], g[N], zero[N] = {0};
        uint8_t mask[N] = {0};
        pare_tensor ws = pare_vector(w, PARE_F32, N), ms = pare_vector(m, PARE_F32, N);
        pare_tensor vs = pare_vector(v, PARE_F32, N), gs = pare_vector(g, PARE_F32, N);
        for (int adam = 0; adam < 2; adam++) {
            for (int i = 0; i < N; i++) {
                w[i] = i % 3 ? -1.0f : NAN;
                m[i] = -2;
                v[i] = 3;
                g[i] = i % 2 ? INFINITY : 1;
            }
            pare_tensor masks = pare_vector(mask, PARE_U8, N);
            if (adam)
                assert_ok(pare_adamw(be, &(pare_adamw_args){.w = ws,
                                                            .g = gs,
                                                            .m = ms,
                                                            .v = vs,
                                                            .mask = masks,
                                                            .rate = 1,
                                                            .beta1 = 0.9f,
                                                            .step = 1}));
            else
                assert_ok(pare_sgd(
                    be,
                    &(pare_sgd_args){
                        .w = ws, .g = gs, .m = ms, .mask = masks, .rate = 1, .momentum = 0.9f}));
            assert_memory_equal(w, zero, sizeof zero);
            assert_memory_equal(m, zero, sizeof zero);
            assert_true(!adam || memcmp(v, zero, sizeof zero) == 0);
        }
    }
}

void ops_cases_sgd(ops_run *run)
{
    for (const int64_t *size = ops_sizes; *size >= 0; size++)
        for (int how = 0; how < 8; how++) {
            int64_t n = *size;
            bool moves = how & 1;
            pare_sgd_args args = {
                .w = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 1), PARE_F32, n),
                .g = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 2), PARE_F32, n),
                .m = pare_vector(moves ? ops_floats(run, OPS_NORMAL, PARE_F32, n, 3) : NULL,
                                 PARE_F32, n),
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
    expect_plus_zero(run);
}

void ops_cases_adamw(ops_run *run)
{
    static const int64_t steps[] = {1, 2, 1000, INT64_C(1) << 40};
    for (const int64_t *size = ops_sizes; *size >= 0; size++)
        for (int how = 0; how < 8; how++) {
            int64_t n = *size;
            pare_adamw_args args = {
                .w = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 1), PARE_F32, n),
                .g = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 2), PARE_F32, n),
                .m = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 3), PARE_F32, n),
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
}

void ops_cases_ema(ops_run *run)
{
    for (const int64_t *size = ops_sizes; *size >= 0; size++) {
        int64_t n = *size;
        pare_ema_args args = {
            .e = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 1), PARE_F32, n),
            .w = pare_vector(ops_floats(run, OPS_NORMAL, PARE_F32, n, 2), PARE_F32, n),
            .decay = 0.999f};
        ops_output outs[2] = {NUMBERS(ema, e, n, PARE_F32, 1e-6)};
        outs[0].keeps = true;
        ops_expect(run, PARE_OP_ema, &args, sizeof args, outs);
        ops_next(run);
    }
}

/* ---- quant_rows ------------------------------------------------------------------------------ */

void ops_cases_quant_rows(ops_run *run)
{
    for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
        for (int d = 0; d < 2; d++)
            for (int kind = 0; kind < OPS_KINDS; kind++) {
                int64_t n = s->rows * s->cols;
                uint8_t *x = ops_floats(run, (ops_kind)kind, acts[d], n, 1);
                if (kind == OPS_ZEROS && s->rows > 1)
                    memset(x, 0, (size_t)s->cols * element(acts[d]));
                pare_quant_rows_args args = {.x = pare_matrix(x, acts[d], s->rows, s->cols),
                                             .y = pare_matrix(NULL, acts[d], s->rows, s->cols)};
                ops_output outs[2] = {BYTES(quant_rows, y, n, element(acts[d]))};
                outs[0].in_place = kind % 2;
                outs[0].input = offsetof(pare_quant_rows_args, x.data);
                if (kind == OPS_BAD) { /* of NaN any will do */
                    outs[0].tolerance = 1e-30;
                    outs[0].dtype = acts[d];
                }
                ops_expect(run, PARE_OP_quant_rows, &args, sizeof args, outs);
                ops_next(run);
            }
}
