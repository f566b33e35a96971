/* test_obs_sweep.c - the inverse factor and the sweep, beside plain loops in f64. */
#include "calib_fixture.h"
#include "far_backend.h"

#include <math.h>

static pare_backend *be;

static int open_cpu(void **unused)
{
    (void)unused;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &be));
    return 0;
}

static int close_cpu(void **unused)
{
    (void)unused;
    pare_backend_free(&be);
    return 0;
}

static pare_factor *factor_of(const calib_case *c, const pare_sweep_options *options)
{
    pare_factor *factor;
    assert_ok(pare_factor_create(c->be, c->stats, options, &factor));
    return factor;
}

/* ---- the factor ------------------------------------------------------------------------------ */

/* uᵀu times the damped Gram matrix, in the order of the sweep, is the identity. */
static void check_inverse(const calib_case *c, const pare_factor *f)
{
    int64_t K = c->C;
    float *u = calib_download(c->be, &f->u), *g = calib_download(c->be, &c->stats->gram);
    double mean = 0, *a = calloc((size_t)(K * K), 8), *au = calloc((size_t)(K * K), 8);
    for (int64_t k = 0; k < K; k++)
        mean += g[k * K + k];
    mean /= (double)(K - f->dead);
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++) {
            int64_t p = f->columns ? f->columns[i] : i, q = f->columns ? f->columns[j] : j;
            a[i * K + j] = g[p * K + q];
            if (i == j)
                a[i * K + j] = (g[p * K + p] > 0 ? g[p * K + p] : 1) + f->damping * mean;
            assert_true(j >= i || u[i * K + j] == 0);
        }
    /* u·a·uᵀ = 1 */
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++)
            for (int64_t k = i; k < K; k++)
                au[i * K + j] += (double)u[i * K + k] * a[k * K + j];
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++) {
            double one = 0;
            for (int64_t k = j; k < K; k++)
                one += au[i * K + k] * u[j * K + k];
            if (fabs(one - (i == j)) > 2e-3)
                fail_msg("u·A·uᵀ is %g at %lld, %lld", one, (long long)i, (long long)j);
        }
    free(au), free(a), free(g), free(u);
}

static void the_factor_is_that_of_the_inverse(void **unused)
{
    (void)unused;
    const int64_t widths[] = {1, 2, 7, 64, 129};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        calib_case c = calib_case_make(
            &(calib_options){.be = be, .rows = 1, .cols = widths[i], .samples = 300});
        for (int act_order = 0; act_order < 2; act_order++) {
            pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = act_order});
            assert_true(f->damping == 0.01 && f->dead == 0);
            assert_int_equal(f->columns != NULL, act_order);
            check_inverse(&c, f);
            pare_factor_free(be, &f);
        }
        calib_case_free(&c);
    }
}

static void no_third(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 2; c < cols; c += 3)
            x[r * cols + c] = 0;
}

static void dead_inputs_are_counted_and_alone(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 4, .cols = 30, .samples = 200, .change = no_third});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){.damping = 0.1});
    assert_int_equal(f->dead, 10);
    assert_true(f->damping == 0.1);
    check_inverse(&c, f);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

static void descend(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 0; c < cols; c++)
            x[r * cols + c] = (r + c) % 2 == 0 ? (float)(c / 2) : -(float)(c / 2);
}

static void act_order_descends_and_ties_go_by_index(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 1, .cols = 8, .samples = 64, .change = descend});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = true});
    const int32_t want[] = {6, 7, 4, 5, 2, 3, 0, 1};
    assert_memory_equal(f->columns, want, sizeof want);
    int32_t *order = calib_download(be, &f->order), *place = calib_download(be, &f->place);
    for (int i = 0; i < 8; i++)
        assert_int_equal(place[order[i]], i);
    free(place), free(order);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

static void channels_of_a_convolution_come_one_after_the_other(void **unused)
{
    (void)unused;
    pare_factor *f;
    assert_ok(pare_factor_plain(be, 12, &(pare_sweep_options){.inner = 3}, &f));
    const int32_t want[] = {0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11};
    assert_memory_equal(f->columns, want, sizeof want);
    pare_factor_free(be, &f);
    assert_status(pare_factor_plain(be, 10, &(pare_sweep_options){.inner = 3}, &f),
                  PARE_ERR_ARGUMENT);
    assert_null(f);
}

/* All columns one and the same, much larger than rounding: not positive definite without much
 * damping. */
static void same(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 0; c < cols; c++)
            x[r * cols + c] = 1000 + (float)r;
}

static void damping_climbs_until_there_is_a_factor(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 1, .cols = 200, .samples = 40, .change = same});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){.damping = 1e-12});
    assert_true(f->damping > 1e-12 && f->damping <= 0.1);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

static void one_nan(float *x, int64_t samples, int64_t cols)
{
    x[samples * cols / 2] = NAN;
}

static void nothing(float *x, int64_t samples, int64_t cols)
{
    memset(x, 0, (size_t)(samples * cols) * sizeof *x);
}

static void huge(float *x, int64_t samples, int64_t cols)
{
    for (int64_t i = 0; i < samples * cols; i++)
        x[i] *= 1e19f;
}

static void without_a_factor_the_reason_is_said(void **unused)
{
    (void)unused;
    const struct {
        void (*change)(float *, int64_t, int64_t);
        int64_t samples;
        const char *says;
    } rows[] = {
        {one_nan, 50, "NaN"}, {nothing, 50, "zero"}, {NULL, 0, "no samples"}, {huge, 50, "Inf"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        calib_case c = calib_case_make(&(calib_options){
            .be = be, .rows = 1, .cols = 20, .samples = rows[i].samples, .change = rows[i].change});
        pare_factor *f;
        assert_status(pare_factor_create(be, c.stats, &(pare_sweep_options){0}, &f),
                      PARE_ERR_NUMERIC);
        assert_non_null(strstr(pare_last_error(), rows[i].says));
        assert_null(f);
        calib_case_free(&c);
    }
}

/* ---- the sweep, beside loops ----------------------------------------------------------------- */

typedef struct rounding {
    const pare_layer *layer;
} rounding;

static pare_status scales(void *user, pare_panel *panel)
{
    const pare_layer *layer = ((const rounding *)user)->layer;
    int64_t n = pare_tensor_count(&panel->scale);
    pare_status status =
        pare_quant_range(panel->be, &(pare_quant_range_args){.w = panel->w,
                                                             .block_rows = layer->block_rows,
                                                             .block_cols = layer->block_cols,
                                                             .lo = panel->lo,
                                                             .hi = panel->scale});
    if (status != PARE_OK)
        return status;
    return pare_quant_scale(
        panel->be, &(pare_quant_scale_args){.scheme = layer->scheme,
                                            .scale_dtype = PARE_F32,
                                            .lo = pare_vector(panel->lo.data, PARE_F32, n),
                                            .hi = pare_vector(panel->scale.data, PARE_F32, n),
                                            .scale = pare_vector(panel->scale.data, PARE_F32, n),
                                            .zero = pare_vector(panel->zero.data, PARE_I8, n)});
}

/* GPTQ as the paper has it, row by row, all columns behind at once, in f64 with the factor's own u:
 * symmetric INT. Scales of a group are found when its first column comes, from `lag`: the columns
 * as they were when their panel (of 128, or its group's) began. */
static void plain_sweep(const calib_case *c, const pare_factor *f, double *w)
{
    int64_t K = c->C, G = c->layer.block_cols, panel = G < 128 ? 128 / G * G : G;
    float *u = calib_download(c->be, &f->u);
    double levels = (1 << c->layer.scheme.bits) - 1, least = -(1 << (c->layer.scheme.bits - 1));
    float *scale = calloc((size_t)K, sizeof *scale);
    for (int64_t r = 0; r < c->R; r++) {
        double *row = w + r * K, *old = calloc((size_t)K, sizeof *old);
        for (int64_t i = 0; i < K; i++) {
            int64_t p = f->columns ? f->columns[i] : i;
            row[i] = old[i] = c->weight[r * K + p];
        }
        for (int64_t i = 0; i < K; i++) {
            int64_t p = f->columns ? f->columns[i] : i;
            if (!f->columns && i % panel == 0)
                memcpy(old + i, row + i, (size_t)(K - i) * sizeof *row);
            double most = 0;
            for (int64_t k = p / G * G; k < K && k < p / G * G + G; k++) {
                double value = f->columns ? c->weight[r * K + k] : old[k];
                bool frozen = c->layer.keep_zeros && c->weight[r * K + k] == 0;
                most = frozen ? most : fmax(most, fabs(value));
            }
            scale[i] = most > 0 ? (float)(most / (levels / 2)) : 1;
            bool frozen = c->layer.keep_zeros && c->weight[r * K + p] == 0;
            double value = frozen ? 0 : row[i];
            double q = fmin(fmax(rint(value / scale[i]), least), -least - 1) * scale[i];
            double e = (value - q) / u[i * K + i];
            row[i] = q;
            for (int64_t j = i + 1; j < K; j++)
                row[j] -= e * u[i * K + j];
        }
        memcpy(old, row, (size_t)K * sizeof *row);
        for (int64_t i = 0; i < K; i++)
            row[f->columns ? f->columns[i] : i] = old[i];
        free(old);
    }
    free(scale);
    free(u);
}

static void sweep(calib_case *c, const pare_factor *f, double *loss)
{
    rounding user = {&c->layer};
    pare_round round = {scales, &user};
    assert_ok(pare_sweep(c->be, &c->layer, f, NULL, &round, loss));
}

static void a_sweep_is_what_the_paper_says(void **unused)
{
    (void)unused;
    const struct {
        const char *scheme;
        int64_t rows, cols;
        bool act_order, keep;
    } rows[] = {{"w4g32", 5, 160, false, false},  {"w4g32", 5, 160, true, false},
                {"w3g64", 6, 256, false, false},  {"w4g128", 4, 300, false, false},
                {"w4g256", 3, 600, false, false}, {"w4g256", 3, 600, true, false},
                {"w4", 4, 200, false, false},     {"w4", 4, 200, true, false},
                {"w8g48", 4, 230, false, false},  {"w4g32", 5, 160, false, true},
                {"w4g256", 3, 600, false, true},  {"w4", 4, 200, true, true},
                {"w4", 1, 7, false, false},       {"w4g32", 2, 129, false, true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        calib_case c = calib_case_make(&(calib_options){.be = be,
                                                        .rows = rows[i].rows,
                                                        .cols = rows[i].cols,
                                                        .samples = 2 * rows[i].cols + 9,
                                                        .scheme = rows[i].scheme,
                                                        .keep_n = 2,
                                                        .keep_m = rows[i].keep ? 4 : 0});
        pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = rows[i].act_order});
        double loss, *want = calloc((size_t)(c.R * c.C), sizeof *want);
        sweep(&c, f, &loss);
        calib_check(&c);
        plain_sweep(&c, f, want);
        float *got = calib_download(be, &c.layer.w), *plain = calloc((size_t)(c.R * c.C), 4);
        int64_t differ = 0;
        for (int64_t j = 0; j < c.R * c.C; j++) {
            plain[j] = (float)want[j];
            differ += fabs(got[j] - want[j]) > 1e-3 * fabs(want[j]) + 1e-5;
        }
        double a = calib_error(&c, got), b = calib_error(&c, plain);
        if (fabs(a - b) > 0.02 * b || differ > c.R * c.C / 10)
            fail_msg("%s %lld %d%d: error %g, by loops %g; %lld of %lld weights differ",
                     rows[i].scheme, (long long)c.C, rows[i].act_order, rows[i].keep, a, b,
                     (long long)differ, (long long)(c.R * c.C));
        free(plain), free(got), free(want);
        pare_factor_free(be, &f);
        calib_case_free(&c);
    }
}

/* Σ e² is Σ Δ(G + damping)Δᵀ. */
static void the_loss_is_the_damped_error(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 9, .cols = 190, .samples = 500, .scheme = "w3g32"});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){0});
    double loss, want = 0, mean = 0;
    sweep(&c, f, &loss);
    float *w = calib_download(be, &c.layer.w);
    for (int64_t n = 0; n < c.N; n++)
        for (int64_t r = 0; r < c.R; r++) {
            double y = 0;
            for (int64_t k = 0; k < c.C; k++)
                y += ((double)c.weight[r * c.C + k] - w[r * c.C + k]) * c.x[n * c.C + k];
            want += y * y;
        }
    for (int64_t i = 0; i < c.N * c.C; i++)
        mean += (double)c.x[i] * c.x[i] / (double)c.C;
    for (int64_t i = 0; i < c.R * c.C; i++)
        want += 0.01 * mean * pow((double)c.weight[i] - w[i], 2);
    assert_true(fabs(loss - want) < 1e-3 * want);
    free(w);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

static void weights_of_dead_inputs_become_zero(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(&(calib_options){
        .be = be, .rows = 4, .cols = 70, .samples = 200, .scheme = "w4g32z", .change = no_third});
    for (int act_order = 0; act_order < 2; act_order++) {
        calib_case_reset(&c);
        pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = act_order});
        double loss;
        sweep(&c, f, &loss);
        calib_check(&c);
        float *w = calib_download(be, &c.layer.w);
        for (int64_t i = 0; i < c.R * c.C; i++)
            assert_true(i % c.C % 3 != 2 || w[i] == 0);
        free(w);
        pare_factor_free(be, &f);
    }
    calib_case_free(&c);
}

/* ---- choosing -------------------------------------------------------------------------------- */

static pare_status two_of_four(void *user, pare_panel *panel)
{
    ++*(int *)user;
    assert_int_equal(panel->first % 4, 0);
    panel->n = 2;
    panel->m = 4;
    return PARE_OK;
}

/* Half of each row, by |w|. */
static pare_status half(void *user, pare_panel *panel)
{
    ++*(int *)user;
    return pare_mask_rows(
        panel->be,
        &(pare_mask_rows_args){.x = panel->w, .prune = panel->count / 2, .mask = panel->mask});
}

static void a_pattern_is_chosen_in_the_same_sweep(void **unused)
{
    (void)unused;
    const struct {
        const char *scheme;
        bool all;
        int64_t cols;
    } rows[] = {{NULL, false, 260},    {NULL, true, 260},      {"w4g32", false, 260},
                {"w4g32z", true, 256}, {"w4g256", false, 600}, {"w4", false, 132}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        calib_case c = calib_case_make(&(calib_options){
            .be = be, .rows = 6, .cols = rows[i].cols, .samples = 700, .scheme = rows[i].scheme});
        pare_factor *f = factor_of(&c, &(pare_sweep_options){0});
        int calls = 0;
        double loss;
        pare_choose choose = {rows[i].all ? half : two_of_four, &calls, rows[i].all ? 0 : 4};
        rounding user = {&c.layer};
        pare_round round = {scales, &user};
        assert_ok(pare_sweep(be, &c.layer, f, &choose, rows[i].scheme ? &round : NULL, &loss));
        assert_true(calls >= (int)(c.C / 128));
        calib_check(&c);
        float *w = calib_download(be, &c.layer.w), *magnitude = malloc((size_t)(c.R * c.C) * 4);
        int64_t zeros = 0;
        for (int64_t j = 0; j < c.R * c.C; j++)
            zeros += w[j] == 0;
        assert_true(zeros >= c.R * c.C / 2 - c.R);
        for (int64_t j = 0; !rows[i].all && j < c.R * c.C; j += 4)
            assert_true((w[j] == 0) + (w[j + 1] == 0) + (w[j + 2] == 0) + (w[j + 3] == 0) >= 2);
        /* the same zeros without corrections are worse */
        for (int64_t j = 0; j < c.R * c.C; j++)
            magnitude[j] = w[j] == 0 ? 0 : c.weight[j];
        assert_true(calib_error(&c, w) < (rows[i].scheme ? 1.3 : 1) * calib_error(&c, magnitude));
        free(magnitude), free(w);
        pare_factor_free(be, &f);
        calib_case_free(&c);
    }
}

static void without_corrections_a_sweep_is_rounding(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 5, .cols = 170, .samples = 9, .scheme = "w4g32z"});
    pare_factor *f;
    double loss;
    assert_ok(pare_factor_plain(be, c.C, &(pare_sweep_options){0}, &f));
    sweep(&c, f, &loss);
    float *swept = calib_download(be, &c.layer.w);
    calib_case_reset(&c);
    assert_ok(pare_quant_round(be, &c.layer, PARE_SCALE_ABSMAX));
    float *rounded = calib_download(be, &c.layer.w);
    assert_memory_equal(swept, rounded, (size_t)(c.R * c.C) * 4);
    free(rounded), free(swept);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

/* ---- refusals, far memory -------------------------------------------------------------------- */

static void what_does_not_go_together_is_refused(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 3, .cols = 200, .samples = 20, .scheme = "w4g100"});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = true}), *other;
    int calls = 0;
    double loss;
    rounding user = {&c.layer};
    pare_round round = {scales, &user};
    pare_choose choose = {two_of_four, &calls, 4};
    assert_status(pare_sweep(be, &c.layer, f, &choose, &round, &loss), PARE_ERR_ARGUMENT);
    assert_status(pare_sweep(be, &c.layer, f, NULL, NULL, &loss), PARE_ERR_ARGUMENT);
    pare_factor_free(be, &f);
    f = factor_of(&c, &(pare_sweep_options){0});
    choose.m = 16;
    assert_status(pare_sweep(be, &c.layer, f, &choose, &round, &loss), PARE_ERR_ARGUMENT);
    assert_status(pare_sweep_check(&c.layer, false, 16), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "groups of 100 columns and n:16"));
    assert_ok(pare_sweep_check(&c.layer, false, 4));
    assert_ok(pare_sweep_check(&c.layer, true, 16));
    assert_status(pare_sweep_check(&c.layer, true, 200), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "128 columns at once and cannot choose among 200"));
    assert_ok(pare_factor_plain(be, 10, &(pare_sweep_options){0}, &other));
    assert_status(pare_sweep(be, &c.layer, other, NULL, &round, &loss), PARE_ERR_ARGUMENT);
    assert_status(pare_factor_create(be, c.stats,
                                     &(pare_sweep_options){.act_order = true, .inner = 4}, &other),
                  PARE_ERR_ARGUMENT);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

static void far_memory_gives_the_same(void **unused)
{
    (void)unused;
    const char *const schemes[] = {"w4g32z", "w3g256", "w4"};
    for (int i = 0; i < 6; i++) {
        void *w[2], *codes[2];
        int64_t count = 0;
        for (int where = 0; where < 2; where++) {
            pare_backend *far = where ? far_backend_make(2) : be;
            calib_case c = calib_case_make(&(calib_options){.be = far,
                                                            .rows = 7,
                                                            .cols = 300,
                                                            .samples = 400,
                                                            .scheme = schemes[i / 2],
                                                            .keep_n = 2,
                                                            .keep_m = 4});
            pare_factor *f = factor_of(&c, &(pare_sweep_options){.act_order = i % 2});
            double loss;
            sweep(&c, f, &loss);
            calib_check(&c);
            w[where] = calib_download(far, &c.layer.w);
            codes[where] = calib_download(far, &c.layer.codes);
            count = c.R * c.C;
            pare_factor_free(far, &f);
            calib_case_free(&c);
            if (where)
                pare_backend_free(&far);
        }
        assert_memory_equal(w[0], w[1], (size_t)count * 4);
        assert_memory_equal(codes[0], codes[1], (size_t)count);
        for (int where = 0; where < 2; where++)
            free(w[where]), free(codes[where]);
    }
}

static void an_empty_layer_is_done_at_once(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 0, .cols = 20, .samples = 30, .scheme = "w4"});
    pare_factor *f = factor_of(&c, &(pare_sweep_options){0});
    double loss = -1;
    sweep(&c, f, &loss);
    assert_true(loss == 0);
    assert_int_equal(pare_sweep_bytes(&c.layer, false, 0), 0);
    pare_factor_free(be, &f);
    calib_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_factor_is_that_of_the_inverse),
        cmocka_unit_test(dead_inputs_are_counted_and_alone),
        cmocka_unit_test(act_order_descends_and_ties_go_by_index),
        cmocka_unit_test(channels_of_a_convolution_come_one_after_the_other),
        cmocka_unit_test(damping_climbs_until_there_is_a_factor),
        cmocka_unit_test(without_a_factor_the_reason_is_said),
        cmocka_unit_test(a_sweep_is_what_the_paper_says),
        cmocka_unit_test(the_loss_is_the_damped_error),
        cmocka_unit_test(weights_of_dead_inputs_become_zero),
        cmocka_unit_test(a_pattern_is_chosen_in_the_same_sweep),
        cmocka_unit_test(without_corrections_a_sweep_is_rounding),
        cmocka_unit_test(what_does_not_go_together_is_refused),
        cmocka_unit_test(far_memory_gives_the_same),
        cmocka_unit_test(an_empty_layer_is_done_at_once),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
