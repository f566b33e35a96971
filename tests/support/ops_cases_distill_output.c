/* Rows of kl, top_k, kl_top and cosine. */
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
static const ops_shape rows[] = {{0, 5},    {3, 0},    {1, 1},    {5, 2},     {9, 15},
                                 {7, 16},   {5, 17},   {33, 10},  {2, 1024},  {2, 1025},
                                 {2, 2047}, {3, 2049}, {2, 4113}, {1, 16384}, {1, 17003}};
#define ROWS (sizeof rows / sizeof rows[0])

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* n numbers with a standard deviation of about `spread` around `middle`. */
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

/* Labels of which one in four says that its row does not count. */
static int32_t *labels_of(ops_run *run, int64_t R)
{
    int32_t *label = ops_memory(run, (size_t)R * 4, 4, 1);
    for (int64_t i = 0; i < R; i++)
        label[i] = (int32_t)ops_below(run, 4) - 1;
    return label;
}

/* ---- kl -------------------------------------------------------------------------------------- */

typedef struct kl_case {
    pare_tensor teacher, x; /* [R, V] */
    bool same, gradient, in_place, labels;
    float temperature;
    pare_divergence divergence;
} kl_case;

static void expect_kl(ops_run *run, const kl_case *k)
{
    int64_t R = k->x.shape[0], V = k->x.shape[1];
    pare_kl_args args = {.teacher = k->teacher,
                         .x = k->x,
                         .labels = pare_vector(k->labels ? labels_of(run, R) : NULL, PARE_I32, R),
                         .kl = pare_vector(NULL, PARE_F32, R),
                         .same = pare_vector(NULL, PARE_U8, R),
                         .dx = pare_matrix(NULL, k->x.dtype, R, V),
                         .grad_scale = 0.5f,
                         .temperature = k->temperature,
                         .divergence = k->divergence};
    /* the divergence of two flat distributions is small beside the sums that it is made of, the
     * slope of some kinds beside the differences of logits */
    double tolerance = k->divergence == PARE_DIVERGENCE_FORWARD ? 4e-6 : 1e-5;
    ops_output outs[4] = {NUMBERS(kl, kl, R, PARE_F32, k->temperature > 1 ? 2e-5 : 4e-6)};
    int at = 1;
    if (k->same)
        outs[at++] = (ops_output)BYTES(kl, same, R, 1);
    if (k->gradient || k->in_place) {
        outs[at] = (ops_output)NUMBERS(kl, dx, R * V, k->x.dtype, tolerance);
        outs[at].in_place = k->in_place;
        outs[at].input = offsetof(pare_kl_args, x.data);
    }
    ops_expect(run, PARE_OP_kl, &args, sizeof args, outs);
    ops_next(run);
}

/* A student near its teacher; classes that either rules out; the same row twice. */
static void kl_hard_rows(ops_run *run, float temperature, pare_divergence divergence)
{
    enum { R = 7, V = 5003 };
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
        t[6 * V + v] = v < 4000 ? -INFINITY : t[6 * V + v];
        x[6 * V + v] = v < 4000 ? -INFINITY : x[6 * V + v];
    }
    expect_kl(run, &(kl_case){.teacher = pare_matrix(t, PARE_F32, R, V),
                              .x = pare_matrix(x, PARE_F32, R, V),
                              .same = true,
                              .gradient = temperature != 0,
                              .temperature = temperature,
                              .divergence = divergence});
}

/* Logits of ±10⁴: each row is all but sure of one class. In eighths, so that their differences are
 * exact: the slope of some kinds is what little is left of them. */
static void kl_sure_rows(ops_run *run, float temperature, pare_divergence divergence)
{
    enum { R = 6, V = 3001 };
    float *t = logits(run, PARE_F32, R * V, 3000, 0, 0),
          *x = logits(run, PARE_F32, R * V, 3000, 0, 0);
    for (int i = 0; i < R * V; i++) {
        t[i] = rintf(8 * t[i]) / 8;
        x[i] = rintf(8 * x[i]) / 8;
    }
    memcpy(x + V, t + V, V * sizeof *x);
    for (int v = 0; v < V; v++) {
        x[2 * V + v] = t[2 * V + v] + (v % 2 ? 0.25f : -0.25f);
        x[3 * V + v] = -t[3 * V + v];
        t[4 * V + v] /= 1000; /* one that is not, for a scale of slopes */
        x[4 * V + v] = t[4 * V + v] + x[4 * V + v] / 3000;
    }
    expect_kl(run, &(kl_case){.teacher = pare_matrix(t, PARE_F32, R, V),
                              .x = pare_matrix(x, PARE_F32, R, V),
                              .same = true,
                              .gradient = true,
                              .temperature = temperature,
                              .divergence = divergence});
}

static void kl_rows(ops_run *run, pare_divergence divergence)
{
    static const float temperatures[] = {0, 0, 1, 2, 0.5f, 0, 2, 3};
    for (size_t s = 0; s < ROWS; s++)
        for (int how = 0; how < 8; how++) {
            pare_dtype t_dtype = acts[how & 1], x_dtype = acts[how >> 1 & 1];
            int64_t R = rows[s].rows, V = rows[s].cols;
            size_t shift = how & 1 ? 1 : 0;
            void *t = logits(run, t_dtype, R * V, 3, how < 4 ? 0 : 40, shift);
            void *x = logits(run, x_dtype, R * V, how < 4 ? 3 : 1, 0, 2 * shift);
            expect_kl(run, &(kl_case){.teacher = pare_matrix(t, t_dtype, R, V),
                                      .x = pare_matrix(x, x_dtype, R, V),
                                      .same = how != 5,
                                      .gradient = how > 0,
                                      .in_place = how > 5,
                                      .labels = how % 3 == 0,
                                      .temperature = temperatures[how],
                                      .divergence = divergence});
        }
    for (int d = 0; d < 2; d++) { /* ties and NaN */
        static const ops_kind kinds[] = {OPS_GRID, OPS_ZEROS, OPS_EQUAL, OPS_BAD};
        for (size_t n = 0; n < sizeof kinds / sizeof kinds[0]; n++) {
            void *t = ops_floats(run, kinds[n], acts[d], 19 * 77, 0);
            void *x = ops_floats(run, kinds[n], acts[d], 19 * 77, 0);
            expect_kl(run, &(kl_case){.teacher = pare_matrix(t, acts[d], 19, 77),
                                      .x = pare_matrix(x, acts[d], 19, 77),
                                      .same = true,
                                      .gradient = kinds[n] != OPS_EQUAL,
                                      .divergence = divergence});
        }
    }
    kl_hard_rows(run, 0, divergence);
    kl_hard_rows(run, 3, divergence);
    kl_sure_rows(run, 0.5f, divergence);
    kl_sure_rows(run, 8, divergence);
}

void ops_cases_kl(ops_run *run)
{
    kl_rows(run, PARE_DIVERGENCE_FORWARD);
    kl_rows(run, PARE_DIVERGENCE_REVERSE);
    kl_rows(run, PARE_DIVERGENCE_JS);
}

/* ---- top_k ----------------------------------------------------------------------------------- */

static void expect_top_k(ops_run *run, void *x, pare_dtype dtype, int64_t R, int64_t V, int64_t K,
                         float temperature)
{
    pare_top_k_args args = {.x = pare_matrix(x, dtype, R, V),
                            .index = pare_matrix(NULL, PARE_I32, R, K),
                            .value = pare_matrix(NULL, PARE_F32, R, K),
                            .temperature = temperature};
    ops_output outs[3] = {BYTES(top_k, index, R * K, 4),
                          NUMBERS(top_k, value, R * K, PARE_F32, 2e-6)};
    ops_expect(run, PARE_OP_top_k, &args, sizeof args, outs);
    ops_next(run);
}

/* Every order in which a row may come: all enter, none after the first, equals, next to all −Inf.
 */
static void top_k_hard_rows(ops_run *run, int64_t V, int64_t K)
{
    enum { R = 7 };
    float *x = logits(run, PARE_F32, R * V, 3, 0, 0);
    for (int64_t v = 0; v < V; v++) {
        x[v] = (float)v / 64;
        x[V + v] = (float)-v / 64;
        x[2 * V + v] = v % 2 ? -0.0f : 0.0f;
        x[3 * V + v] = v % 3 ? -INFINITY : x[3 * V + v];
        x[4 * V + v] = v == V / 2 ? 1 : -INFINITY;
        x[5 * V + v] = (float)(v / 5 % 9);
        x[6 * V + v] = v % 7 ? NAN : x[6 * V + v];
    }
    expect_top_k(run, x, PARE_F32, R, V, K, 0);
}

void ops_cases_top_k(ops_run *run)
{
    static const int64_t counts[] = {0, 1, 2, 7, 31, 32, 33, 64, 100, 128, 129, 300, 1500};
    static const float temperatures[] = {0, 1, 0.5f, 2, 10};
    int how = 0;
    for (size_t s = 0; s < ROWS; s++)
        for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++, how++) {
            int64_t R = rows[s].rows, V = rows[s].cols;
            pare_dtype dtype = acts[how & 1];
            float spread = how % 3 || counts[k] < 2 ? 3 : 3000; /* log p is 0 of the largest */
            if (counts[k] <= V)
                expect_top_k(run, logits(run, dtype, R * V, spread, 0, (size_t)how % 3), dtype, R,
                             V, counts[k], temperatures[how % 5]);
        }
    for (size_t s = 0; s < ROWS; s++) /* all of them */
        if (rows[s].cols < 4500)
            expect_top_k(run, logits(run, PARE_BF16, rows[s].rows * rows[s].cols, 3, 0, 1),
                         PARE_BF16, rows[s].rows, rows[s].cols, rows[s].cols, 1);
    for (int kind = OPS_GRID; kind < OPS_KINDS; kind++)
        for (int d = 0; d < 2; d++)
            for (int64_t K = 5; K < 100; K *= 4)
                expect_top_k(run, ops_floats(run, (ops_kind)kind, acts[d], 19 * 777, 1), acts[d],
                             19, 777, K, 0);
    for (int64_t K = 64; K < 3000; K *= 20) /* longer than most */
        expect_top_k(run, logits(run, PARE_BF16, 70001, 3, 0, 1), PARE_BF16, 1, 70001, K, 0);
    top_k_hard_rows(run, 2100, 1);
    top_k_hard_rows(run, 2100, 20);
    top_k_hard_rows(run, 2100, 2000);
    top_k_hard_rows(run, 17003, 128);
}

/* ---- kl_top ---------------------------------------------------------------------------------- */

typedef struct top_case {
    pare_tensor x; /* [R, V] */
    int64_t K;
    bool gradient, in_place, labels;
    float temperature;
} top_case;

/* K classes of each row, in no order: every step-th behind one of its own. */
static int32_t *some_classes(ops_run *run, int64_t R, int64_t V, int64_t K)
{
    int32_t *index = ops_memory(run, (size_t)(R * K) * 4, 4, 1);
    for (int64_t i = 0; i < R; i++) {
        int64_t step = K > 0 ? V / K : 1, first = V > 0 ? ops_below(run, V) : 0;
        for (int64_t k = 0; k < K; k++)
            index[i * K + k] = (int32_t)((first + (K - 1 - k) * step) % V);
    }
    return index;
}

/* Their log p: shares of `of`, the first the largest; the last is 0 where there are many. */
static float *some_shares(ops_run *run, int64_t R, int64_t K, double of)
{
    float *value = ops_memory(run, (size_t)(R * K) * 4, 4, 2);
    for (int64_t i = 0; i < R; i++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++)
            sum += value[i * K + k] = (float)(1 + ops_below(run, 1000)) / (float)(k + 1);
        for (int64_t k = 0; k < K; k++)
            value[i * K + k] = (float)log((double)value[i * K + k] / sum * of);
        if (K > 20)
            value[i * K + K - 1] = -INFINITY;
    }
    return value;
}

static void expect_kl_top(ops_run *run, const top_case *c, double of)
{
    int64_t R = c->x.shape[0], V = c->x.shape[1], K = c->K;
    pare_kl_top_args args = {.x = c->x,
                             .index = pare_matrix(some_classes(run, R, V, K), PARE_I32, R, K),
                             .value = pare_matrix(some_shares(run, R, K, of), PARE_F32, R, K),
                             .labels =
                                 pare_vector(c->labels ? labels_of(run, R) : NULL, PARE_I32, R),
                             .loss = pare_vector(NULL, PARE_F32, R),
                             .dx = pare_matrix(NULL, c->x.dtype, R, V),
                             .grad_scale = 0.5f,
                             .temperature = c->temperature};
    ops_output outs[3] = {NUMBERS(kl_top, loss, R, PARE_F32, 2e-6)};
    if (c->gradient || c->in_place) {
        outs[1] = (ops_output)NUMBERS(kl_top, dx, R * V, c->x.dtype, 4e-6);
        outs[1].in_place = c->in_place;
        outs[1].input = offsetof(pare_kl_top_args, x.data);
    }
    ops_expect(run, PARE_OP_kl_top, &args, sizeof args, outs);
    ops_next(run);
}

/* What is kept or what is not has next to nothing of the student's probability, or none at all. */
static void kl_top_hard_rows(ops_run *run, double of)
{
    enum { R = 6, V = 2300, K = 23 };
    for (int how = 0; how < 4; how++) {
        float *x = logits(run, PARE_F32, R * V, how & 1 ? 3000 : 2, 0, 0);
        for (int v = 0; v < V; v++) {
            x[v] = v % 2 ? 300 + x[v] : x[v] - 300;
            x[V + v] = v == 1234 ? 9000 : x[V + v];
            x[2 * V + v] = v < 2200 ? -INFINITY : x[2 * V + v];
            x[3 * V + v] = v % 100 == 0 ? -INFINITY : x[3 * V + v];
            if (how > 1)
                x[4 * V + v] = v == 77 ? NAN : x[4 * V + v];
        }
        expect_kl_top(run,
                      &(top_case){.x = pare_matrix(x, PARE_F32, R, V),
                                  .K = K,
                                  .gradient = true,
                                  .temperature = how & 1 ? 8 : 0.5f},
                      of);
    }
}

/* Classes that are none are refused before anything is written. */
static void kl_top_bad_classes(ops_run *run)
{
    enum { R = 300, V = 3, K = 2 };
    static const struct {
        int64_t at;
        int32_t index;
        const char *words;
    } bad[] = {{1, 3, "index[0, 1] is 3"}, {599, -1, "index[299, 1] is -1"}};
    for (int n = 0; n < 2; n++)
        for (int b = 0; ops_backend(run, b); b++) {
            float *loss = ops_memory(run, R * sizeof *loss, 4, 0);
            int32_t *index = some_classes(run, R, V, K);
            index[bad[n].at] = bad[n].index;
            pare_kl_top_args args = {
                .x = pare_matrix(logits(run, PARE_F32, R * V, 1, 0, 0), PARE_F32, R, V),
                .index = pare_matrix(index, PARE_I32, R, K),
                .value = pare_matrix(some_shares(run, R, K, 1), PARE_F32, R, K),
                .loss = pare_vector(loss, PARE_F32, R)};
            for (int i = 0; i < R; i++)
                loss[i] = 7;
            assert_status(ops_call(run, PARE_OP_kl_top, ops_backend(run, b), &args),
                          PARE_ERR_ARGUMENT);
            assert_non_null(strstr(pare_last_error(), bad[n].words));
            for (int i = 0; i < R; i++)
                assert_true(loss[i] == 7);
            ops_next(run);
        }
}

void ops_cases_kl_top(ops_run *run)
{
    static const int64_t counts[] = {0, 1, 5, 32, 100, 129, 1000};
    static const float temperatures[] = {0, 1, 0.5f, 2, 10};
    static const double shares[] = {0.9, 1, 0.25, 0.9999};
    int how = 0;
    for (size_t s = 0; s < ROWS; s++)
        for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++)
            for (int d = 0; d < 2; d++, how++) {
                int64_t R = rows[s].rows, V = rows[s].cols;
                if (counts[k] > V)
                    continue;
                void *x = logits(run, acts[d], R * V, 3, 0, (size_t)how % 3);
                expect_kl_top(run,
                              &(top_case){.x = pare_matrix(x, acts[d], R, V),
                                          .K = counts[k],
                                          .gradient = how % 5 != 0,
                                          .in_place = how % 3 == 0,
                                          .labels = how % 4 == 0,
                                          .temperature = temperatures[how % 5]},
                              counts[k] == V ? 1 : shares[how / 2 % 4]);
            }
    for (size_t s = 0; s < 8; s++) /* all of them: there is no rest */
        expect_kl_top(run,
                      &(top_case){.x = pare_matrix(
                                      logits(run, PARE_F32, rows[s].rows * rows[s].cols, 3, 0, 0),
                                      PARE_F32, rows[s].rows, rows[s].cols),
                                  .K = rows[s].cols,
                                  .gradient = true},
                      1);
    enum { LONG = 262200 }; /* more classes than a block of a device marks at once */
    expect_kl_top(
        run,
        &(top_case){.x = pare_matrix(logits(run, PARE_BF16, LONG, 3, 0, 0), PARE_BF16, 1, LONG),
                    .K = 64,
                    .in_place = true},
        0.75);
    kl_top_hard_rows(run, 0.9);
    kl_top_hard_rows(run, 1);
    kl_top_bad_classes(run);
}

/* ---- cosine ---------------------------------------------------------------------------------- */

static float *weights(ops_run *run, int64_t R)
{
    float *weight = ops_memory(run, (size_t)R * 4, 4, 1);
    for (int64_t i = 0; i < R; i++)
        weight[i] = (float)ops_below(run, 4) / 2;
    return weight;
}

static void expect_cosine(ops_run *run, pare_tensor x, pare_tensor t, int how)
{
    int64_t R = x.shape[0], N = x.shape[1];
    pare_cosine_args args = {.x = x,
                             .t = t,
                             .weight = pare_vector(how % 3 ? NULL : weights(run, R), PARE_F32, R),
                             .loss = pare_vector(NULL, PARE_F32, R),
                             .dx = pare_matrix(NULL, x.dtype, R, N),
                             .grad_scale = 0.5f};
    ops_output outs[3] = {NUMBERS(cosine, loss, R, PARE_F32, 1e-6)};
    if (how >= 4 && N != 1) { /* of one number nothing but rounding */
        outs[1] = (ops_output)NUMBERS(cosine, dx, R * N, x.dtype, 2e-6);
        outs[1].in_place = how >= 8;
        outs[1].input = offsetof(pare_cosine_args, x.data);
    }
    ops_expect(run, PARE_OP_cosine, &args, sizeof args, outs);
    ops_next(run);
}

/* Rows in all but one direction, of all lengths; rows of zeros. */
static void cosine_hard_rows(ops_run *run)
{
    enum { R = 7, N = 1111 };
    float *x = logits(run, PARE_F32, R * N, 1, 0, 0), *t = logits(run, PARE_F32, R * N, 1, 0, 0);
    for (int j = 0; j < N; j++) {
        t[j] = x[j] * 1.0001f + t[j] * 1e-4f;
        t[N + j] = -2 * x[N + j];
        x[2 * N + j] = j % 2 ? 0.0f : -0.0f;
        t[3 * N + j] = 0;
        x[4 * N + j] *= 1e30f;
        t[5 * N + j] *= 1e-30f;
        t[6 * N + j] = 3 * x[6 * N + j];
    }
    expect_cosine(run, pare_matrix(x, PARE_F32, R, N), pare_matrix(t, PARE_F32, R, N), 5);
}

/* Nothing but rows nearly alike: what is left of 1 − cos is compared with itself. */
static void cosine_near_rows(ops_run *run)
{
    enum { R = 3, N = 700 };
    float *x = logits(run, PARE_F32, R * N, 1, 0, 0),
          *t = logits(run, PARE_F32, R * N, 1e-4f, 0, 0);
    for (int i = 0; i < R * N; i++)
        t[i] += x[i];
    expect_cosine(run, pare_matrix(x, PARE_F32, R, N), pare_matrix(t, PARE_F32, R, N), 1);
}

void ops_cases_cosine(ops_run *run)
{
    for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
        for (int how = 0; how < 12; how++) {
            pare_dtype x_dtype = acts[how & 1], t_dtype = acts[how >> 1 & 1];
            int64_t R = s->rows, N = s->cols * (how % 3 == 0 ? 7 : 1);
            ops_kind kind = how % 5 == 4 ? OPS_BAD : OPS_NORMAL;
            expect_cosine(run, pare_matrix(ops_floats(run, kind, x_dtype, R * N, 1), x_dtype, R, N),
                          pare_matrix(ops_floats(run, kind, t_dtype, R * N, 2), t_dtype, R, N),
                          how);
        }
    cosine_hard_rows(run);
    cosine_near_rows(run);
}
