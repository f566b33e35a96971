/* test_quant_solve.c - what every quantiser with data must do: finish, keep zeros, stay finite, be
 * no worse than rounding to nearest, say the truth about its error. */
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

/* As the walker does it: a factor if the method asks for one and there is one. */
static void solve(calib_case *c, const pare_quant_method *method, const pare_quant_tuning *tuning,
                  pare_scale_search search)
{
    pare_factor *factor = NULL;
    if (method->needs_factor &&
        pare_factor_create(c->be, c->stats, &(pare_sweep_options){.act_order = tuning->act_order},
                           &factor) != PARE_OK)
        factor = NULL;
    assert_ok(method->solve(c->be, &c->layer, search, tuning, factor, NULL, &c->report));
    pare_factor_free(c->be, &factor);
}

static double error_now(const calib_case *c)
{
    float *w = calib_download(c->be, &c->layer.w);
    double error = calib_error(c, w);
    free(w);
    return error;
}

static void check_errors(const calib_case *c, const char *what)
{
    double error = error_now(c);
    if (!(fabs(c->report.error_after - error) <= 0.01 * error + 1e-6) ||
        !(c->report.error_after <= c->report.error_before))
        fail_msg("%s: reported %g before and %g after; it is %g", what, c->report.error_before,
                 c->report.error_after, error);
}

/* ---- all methods on all shapes --------------------------------------------------------------- */

static void every_method_is_no_worse_than_rounding(void **unused)
{
    (void)unused;
    const struct {
        const char *scheme;
        int64_t rows, cols;
    } rows[] = {{"w4g32", 6, 160},   {"w4g32z", 6, 160}, {"w3g64", 5, 200}, {"w4g128", 4, 300},
                {"w3g256z", 3, 520}, {"w4", 6, 160},     {"w4", 1, 7},      {"w3g32", 2, 129},
                {"w4b4x16", 9, 70},  {"w8t", 5, 60},     {"nf4", 5, 150},   {"w2g32z", 6, 160},
                {"fp8", 5, 40},      {"w8a8", 6, 90},    {"w4g32", 1, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int keep = 0; keep < 2; keep++) {
            calib_case c = calib_case_make(&(calib_options){.be = be,
                                                            .rows = rows[i].rows,
                                                            .cols = rows[i].cols,
                                                            .samples = 400,
                                                            .scheme = rows[i].scheme,
                                                            .keep_n = 2,
                                                            .keep_m = keep ? 4 : 0});
            for (size_t m = 0; pare_quant_methods()[m]; m++)
                for (int act_order = 0; act_order < 2; act_order++) {
                    const pare_quant_method *method = pare_quant_methods()[m];
                    char what[64];
                    snprintf(what, sizeof what, "%s %s keep %d order %d", method->name,
                             rows[i].scheme, keep, act_order);
                    calib_case_reset(&c);
                    solve(&c, method, &(pare_quant_tuning){.act_order = act_order},
                          PARE_SCALE_ABSMAX);
                    calib_check(&c);
                    check_errors(&c, what);
                    assert_true(pare_quant_bytes(method, &c.layer, act_order, 0) > 0);
                }
            calib_case_free(&c);
        }
}

/* How much better, on inputs that are correlated and of which some are large. */
static void data_is_worth_having(void **unused)
{
    (void)unused;
    const struct {
        const char *method, *scheme;
        double share; /* of the error of rounding to nearest, at most */
        pare_scale_search search;
        bool act_order;
    } rows[] = {{"gptq", "w4g32", 0.5, PARE_SCALE_ABSMAX, false},
                {"gptq", "w4g32z", 0.5, PARE_SCALE_ABSMAX, false},
                {"gptq", "w3g32", 0.5, PARE_SCALE_ABSMAX, false},
                {"gptq", "w3g128", 0.5, PARE_SCALE_MSE, false},
                {"gptq", "w4", 0.5, PARE_SCALE_ABSMAX, true},
                {"gptq", "w4g32", 0.4, PARE_SCALE_ABSMAX, true},
                {"awq", "w4g32", 0.95, PARE_SCALE_ABSMAX, false},
                {"awq", "w3g32z", 0.95, PARE_SCALE_ABSMAX, false},
                {"imatrix", "w4g32", 0.9, PARE_SCALE_ABSMAX, false},
                {"imatrix", "w3g32", 0.9, PARE_SCALE_ABSMAX, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        calib_case c = calib_case_make(&(calib_options){
            .be = be, .rows = 24, .cols = 256, .samples = 1200, .scheme = rows[i].scheme});
        solve(&c, pare_quant_find(rows[i].method),
              &(pare_quant_tuning){.act_order = rows[i].act_order}, rows[i].search);
        check_errors(&c, rows[i].method);
        if (!(c.report.error_after <= rows[i].share * c.report.error_before) ||
            c.report.fallback[0])
            fail_msg("%s %s: error %g, by rounding %g; %s", rows[i].method, rows[i].scheme,
                     c.report.error_after, c.report.error_before, c.report.fallback);
        calib_case_free(&c);
    }
}

/* ---- inputs that are of little use ----------------------------------------------------------- */

static void no_third(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 2; c < cols; c += 3)
            x[r * cols + c] = 0;
}

static void constant(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 0; c < cols; c += 2)
            x[r * cols + c] = 3;
}

static void all_the_same(float *x, int64_t samples, int64_t cols)
{
    for (int64_t i = 0; i < samples * cols; i++)
        x[i] = 1;
}

static void nothing(float *x, int64_t samples, int64_t cols)
{
    memset(x, 0, (size_t)(samples * cols) * sizeof *x);
}

static void one_nan(float *x, int64_t samples, int64_t cols)
{
    x[samples * cols / 2] = NAN;
}

static void one_inf(float *x, int64_t samples, int64_t cols)
{
    x[samples * cols / 2] = INFINITY;
}

static void huge(float *x, int64_t samples, int64_t cols)
{
    for (int64_t i = 0; i < samples * cols; i++)
        x[i] *= 1e15f;
}

/* Their squares are no f32. */
static void too_large(float *x, int64_t samples, int64_t cols)
{
    for (int64_t i = 0; i < samples * cols; i++)
        x[i] *= 1e19f;
}

static void tiny(float *x, int64_t samples, int64_t cols)
{
    for (int64_t i = 0; i < samples * cols; i++)
        x[i] *= 1e-18f;
}

static void every_method_always_finishes(void **unused)
{
    (void)unused;
    const struct {
        const char *name;
        void (*change)(float *, int64_t, int64_t);
        int64_t samples;
        const char *says; /* in the report of those that need data; NULL: it can be solved */
    } rows[] = {{"dead", no_third, 300, NULL},      {"constant", constant, 300, NULL},
                {"same", all_the_same, 300, NULL},  {"one sample", NULL, 1, NULL},
                {"no samples", NULL, 0, "samples"}, {"zero", nothing, 50, "zero"},
                {"nan", one_nan, 50, ""},           {"inf", one_inf, 50, ""},
                {"huge", huge, 50, NULL},           {"tiny", tiny, 50, NULL},
                {"too large", too_large, 50, NULL}};
    const char *const schemes[] = {"w4g32", "w4g32z", "w4"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int s = 0; s < 3; s++) {
            calib_case c = calib_case_make(&(calib_options){.be = be,
                                                            .rows = 6,
                                                            .cols = 150,
                                                            .samples = rows[i].samples,
                                                            .scheme = schemes[s],
                                                            .keep_n = 3,
                                                            .keep_m = 4,
                                                            .change = rows[i].change});
            for (size_t m = 0; pare_quant_methods()[m]; m++) {
                const pare_quant_method *method = pare_quant_methods()[m];
                calib_case_reset(&c);
                solve(&c, method, &(pare_quant_tuning){0}, PARE_SCALE_ABSMAX);
                calib_check(&c);
                if (rows[i].says && method->needs && strcmp(method->name, "smoothquant") != 0 &&
                    !c.report.fallback[0])
                    fail_msg("%s with %s says nothing", method->name, rows[i].name);
                bool known = rows[i].change != too_large;
                if (!rows[i].says && known && !(c.report.error_after <= c.report.error_before))
                    fail_msg("%s with %s: %g, by rounding %g", method->name, rows[i].name,
                             c.report.error_after, c.report.error_before);
            }
            calib_case_free(&c);
        }
}

static void the_callers_reason_stays(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 3, .cols = 40, .samples = 9, .scheme = "w4g32"});
    strcpy(c.report.fallback, "because");
    assert_ok(pare_quant_find("gptq")->solve(be, &c.layer, PARE_SCALE_ABSMAX,
                                             &(pare_quant_tuning){0}, NULL, NULL, &c.report));
    assert_string_equal(c.report.fallback, "because");
    check_errors(&c, "without a factor");
    calib_case_free(&c);
}

/* ---- with pruning ---------------------------------------------------------------------------- */

static pare_status two_of_four(void *user, pare_panel *panel)
{
    (void)user;
    panel->n = 2;
    panel->m = 4;
    return PARE_OK;
}

static void check_pattern(const calib_case *c)
{
    float *w = calib_download(c->be, &c->layer.w);
    for (int64_t j = 0; j < c->R * c->C; j += 4)
        assert_true((w[j] == 0) + (w[j + 1] == 0) + (w[j + 2] == 0) + (w[j + 3] == 0) >= 2);
    free(w);
}

/* SparseGPT and GPTQ in one sweep; without a factor it is magnitude and rounding to nearest. */
static void pruning_goes_along_even_without_a_factor(void **unused)
{
    (void)unused;
    pare_choose choose = {two_of_four, NULL, 4};
    const pare_quant_method *gptq = pare_quant_find("gptq");
    double error[2];
    for (int plain = 0; plain < 2; plain++) {
        calib_case c = calib_case_make(
            &(calib_options){.be = be, .rows = 8, .cols = 256, .samples = 900, .scheme = "w4g32"});
        pare_factor *f;
        if (plain)
            assert_ok(pare_factor_plain(be, c.C, &(pare_sweep_options){0}, &f));
        else
            assert_ok(pare_factor_create(be, c.stats, &(pare_sweep_options){0}, &f));
        assert_ok(gptq->solve(be, &c.layer, PARE_SCALE_ABSMAX, &(pare_quant_tuning){0}, f, &choose,
                              &c.report));
        calib_check(&c);
        check_pattern(&c);
        error[plain] = error_now(&c);
        assert_true(fabs(c.report.error_after - error[plain]) < 0.01 * error[plain]);
        assert_true(isnan(c.report.error_before));
        pare_factor_free(be, &f);
        calib_case_free(&c);
    }
    assert_true(error[0] < 0.7 * error[1]);
}

/* A factor so wrong that the sweep runs away. */
static void a_sweep_that_runs_away_is_done_plainly(void **unused)
{
    (void)unused;
    pare_choose choose = {two_of_four, NULL, 4};
    for (int pruned = 0; pruned < 2; pruned++) {
        calib_case c = calib_case_make(
            &(calib_options){.be = be, .rows = 4, .cols = 256, .samples = 300, .scheme = "w4g32"});
        pare_factor *f;
        assert_ok(pare_factor_create(be, c.stats, &(pare_sweep_options){0}, &f));
        float *u = calib_download(be, &f->u);
        for (int64_t i = 0; i < c.C; i++)
            for (int64_t j = i + 1; j < c.C; j++)
                u[i * c.C + j] *= 1e20f;
        assert_ok(pare_backend_upload(be, f->u.data, u, c.C * c.C * 4));
        assert_ok(pare_quant_find("gptq")->solve(be, &c.layer, PARE_SCALE_ABSMAX,
                                                 &(pare_quant_tuning){0}, f,
                                                 pruned ? &choose : NULL, &c.report));
        calib_check(&c);
        if (pruned)
            check_pattern(&c);
        assert_non_null(strstr(c.report.fallback, "finite"));
        free(u);
        pare_factor_free(be, &f);
        calib_case_free(&c);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void far_memory_gives_the_same_bytes(void **unused)
{
    (void)unused;
    for (size_t m = 0; pare_quant_methods()[m]; m++) {
        void *codes[2], *scale[2];
        for (int where = 0; where < 2; where++) {
            pare_backend *there = where ? far_backend_make(2) : be;
            calib_case c = calib_case_make(&(calib_options){.be = there,
                                                            .rows = 9,
                                                            .cols = 130,
                                                            .samples = 200,
                                                            .scheme = "w4g32z",
                                                            .scale_dtype = PARE_BF16});
            solve(&c, pare_quant_methods()[m], &(pare_quant_tuning){0}, PARE_SCALE_MSE);
            calib_check(&c);
            codes[where] = calib_download(there, &c.layer.codes);
            scale[where] = calib_download(there, &c.layer.scale);
            calib_case_free(&c);
            if (where)
                pare_backend_free(&there);
        }
        assert_memory_equal(codes[0], codes[1], 9 * 130);
        assert_memory_equal(scale[0], scale[1], 9 * 5 * 4);
        for (int where = 0; where < 2; where++)
            free(codes[where]), free(scale[where]);
    }
}

/* The nth allocation fails, for every n: a clean status, and nothing is lost. */
static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    for (size_t m = 0; pare_quant_methods()[m]; m++) {
        const pare_quant_method *method = pare_quant_methods()[m];
        bool refused = true;
        for (int64_t n = 1; refused; n++) {
            pare_backend *far = far_backend_make(1);
            calib_case c = calib_case_make(&(calib_options){
                .be = far, .rows = 3, .cols = 40, .samples = 50, .scheme = "w4g32"});
            pare_factor *f = NULL;
            far_backend_refuse(far, n);
            pare_status status = PARE_OK;
            if (method->needs_factor)
                status = pare_factor_create(far, c.stats, &(pare_sweep_options){0}, &f);
            if (status == PARE_OK)
                status = method->solve(far, &c.layer, PARE_SCALE_ABSMAX, &(pare_quant_tuning){0}, f,
                                       NULL, &c.report);
            refused = far_backend_refused(far);
            assert_int_equal(status, refused ? PARE_ERR_MEMORY : PARE_OK);
            pare_factor_free(far, &f);
            calib_case_free(&c);
            pare_backend_free(&far);
        }
    }
}

static void nested_scales_are_refused(void **unused)
{
    (void)unused;
    calib_case c = calib_case_make(
        &(calib_options){.be = be, .rows = 3, .cols = 128, .samples = 50, .scheme = "nf4d"});
    for (size_t m = 0; pare_quant_methods()[m]; m++)
        assert_status(pare_quant_methods()[m]->solve(be, &c.layer, PARE_SCALE_ABSMAX,
                                                     &(pare_quant_tuning){0}, NULL, NULL,
                                                     &c.report),
                      PARE_ERR_ARGUMENT);
    calib_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_is_no_worse_than_rounding),
        cmocka_unit_test(data_is_worth_having),
        cmocka_unit_test(every_method_always_finishes),
        cmocka_unit_test(the_callers_reason_stays),
        cmocka_unit_test(pruning_goes_along_even_without_a_factor),
        cmocka_unit_test(a_sweep_that_runs_away_is_done_plainly),
        cmocka_unit_test(far_memory_gives_the_same_bytes),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(nested_scales_are_refused),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
