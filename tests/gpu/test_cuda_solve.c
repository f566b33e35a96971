/* test_cuda_solve.c - statistics, sweeps and quantisers on a CUDA device, this machine's or the
 * simulated one: as good as on the CPU, and twice the same bytes. */
#include "calib_fixture.h"

#include <math.h>

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Another order of the lanes, another poison, work done at once or as late as it may be. */
static void set_mode(int round)
{
    static const cudasim_mode modes[] = {{.seed = 3, .poison = 0xff, .late = false},
                                         {.seed = 8, .poison = 0x5a, .late = true}};
    cudasim_set_mode(modes[round]);
}
#else
static void set_mode(int round)
{
    (void)round;
}
#endif

static pare_backend *cpu, *cuda;

static int open_both(void **unused)
{
    (void)unused;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &cpu));
    assert_ok(pare_cuda_create(0, &cuda));
    return 0;
}

static int close_both(void **unused)
{
    (void)unused;
    pare_backend_free(&cuda);
    pare_backend_free(&cpu);
    return 0;
}

enum { ROWS = 10, COLS = 150, SAMPLES = 120 };

static const calib_options usual = {.rows = ROWS, .cols = COLS, .samples = SAMPLES};

static calib_case make(pare_backend *be, const char *scheme, bool keep)
{
    calib_options o = usual;
    o.be = be;
    o.scheme = scheme;
    o.keep_n = 2;
    o.keep_m = keep ? 4 : 0;
    return calib_case_make(&o);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void statistics_are_near_the_cpus(void **unused)
{
    (void)unused;
    calib_case a = make(cpu, NULL, false);
    for (int round = 0; round < 2; round++) {
        set_mode(round);
        calib_case b = make(cuda, NULL, false);
        float *left = calib_download(cpu, &a.stats->gram);
        float *right = calib_download(cuda, &b.stats->gram);
        for (int i = 0; i < COLS; i++)
            for (int j = 0; j < COLS; j++) {
                float size = sqrtf(left[i * COLS + i] * left[j * COLS + j]);
                assert_true(fabsf(left[i * COLS + j] - right[i * COLS + j]) <= 1e-4f * size);
                assert_true(right[i * COLS + j] == right[j * COLS + i]);
            }
        int64_t *bins = calib_download(cpu, &a.stats->bins);
        int64_t *others = calib_download(cuda, &b.stats->bins);
        assert_memory_equal(bins, others, PARE_HISTOGRAM_BINS * 8);
        for (int search = PARE_RANGE_ABSMAX; search <= PARE_RANGE_KL; search++) {
            float r, s;
            assert_ok(pare_site_stats_range(cpu, a.stats, (pare_range_search)search, 0, &r));
            assert_ok(pare_site_stats_range(cuda, b.stats, (pare_range_search)search, 0, &s));
            assert_true(r == s);
        }
        free(others), free(bins), free(right), free(left);
        calib_case_free(&b);
    }
    calib_case_free(&a);
}

/* ---- quantisers ------------------------------------------------------------------------------ */

static void solve(calib_case *c, const pare_quant_method *method, bool act_order)
{
    pare_factor *factor = NULL;
    pare_quant_tuning tuning = {.act_order = act_order};
    if (method->needs_factor)
        assert_ok(pare_factor_create(c->be, c->stats, &(pare_sweep_options){.act_order = act_order},
                                     &factor));
    calib_case_reset(c);
    assert_ok(method->solve(c->be, &c->layer, PARE_SCALE_MSE, &tuning, factor, NULL, &c->report));
    calib_check(c);
    pare_factor_free(c->be, &factor);
}

static void quantisers_are_as_good_as_on_the_cpu(void **unused)
{
    (void)unused;
    const char *const schemes[] = {"w4g32z", "w3g64", "w4"};
    for (int s = 0; s < 3; s++) {
        calib_case a = make(cpu, schemes[s], s == 0), b = make(cuda, schemes[s], s == 0);
        for (size_t m = 0; pare_quant_methods()[m]; m++) {
            const pare_quant_method *method = pare_quant_methods()[m];
            void *codes[2];
            for (int round = 0; round < 2; round++) {
                set_mode(round);
                solve(&a, method, s == 1);
                solve(&b, method, s == 1);
                double want = a.report.error_after, got = b.report.error_after;
                if (!(fabs(got - want) <= 0.05 * want))
                    fail_msg("%s %s: error %g, on the CPU %g", method->name, schemes[s], got, want);
                assert_string_equal(a.report.fallback, b.report.fallback);
                codes[round] = calib_download(cuda, &b.layer.codes);
            }
            assert_memory_equal(codes[0], codes[1], ROWS * COLS);
            free(codes[0]), free(codes[1]);
        }
        calib_case_free(&b);
        calib_case_free(&a);
    }
}

static void scales_of_sites_are_the_cpus(void **unused)
{
    (void)unused;
    const char *const methods[] = {"awq", "smoothquant"};
    calib_case c[2] = {make(cpu, "w4g32", false), make(cuda, "w4g32", false)};
    for (int m = 0; m < 2; m++) {
        float scales[2][COLS];
        for (int where = 0; where < 2; where++) {
            set_mode(where);
            pare_quant_site site = {.stats = c[where].stats,
                                    .cols = COLS,
                                    .layers = 1,
                                    .layer = {&c[where].layer},
                                    .fold_repeat = 1,
                                    .foldable = true,
                                    .tuning = {.grid = 8},
                                    .scales = scales[where]};
            assert_ok(pare_quant_find(methods[m])->scale_site(c[where].be, &site));
        }
        for (int k = 0; k < COLS; k++)
            assert_true(fabsf(scales[0][k] - scales[1][k]) <= 1e-5f * scales[0][k]);
    }
    calib_case_free(&c[1]);
    calib_case_free(&c[0]);
}

/* ---- pruning in the same sweep --------------------------------------------------------------- */

static pare_status two_of_four(void *user, pare_panel *panel)
{
    (void)user;
    panel->n = 2;
    panel->m = 4;
    return PARE_OK;
}

static void pruning_and_rounding_are_one_sweep(void **unused)
{
    (void)unused;
    pare_choose choose = {two_of_four, NULL, 4};
    double errors[2];
    for (int where = 0; where < 2; where++) {
        set_mode(where);
        calib_case c = make(where ? cuda : cpu, "w4g32", false);
        pare_factor *factor;
        assert_ok(pare_factor_create(c.be, c.stats, &(pare_sweep_options){0}, &factor));
        assert_ok(pare_quant_find("gptq")->solve(c.be, &c.layer, PARE_SCALE_ABSMAX,
                                                 &(pare_quant_tuning){0}, factor, &choose,
                                                 &c.report));
        calib_check(&c);
        float *w = calib_download(c.be, &c.layer.w);
        for (int64_t j = 0; j + 3 < COLS; j += 4)
            assert_true((w[j] == 0) + (w[j + 1] == 0) + (w[j + 2] == 0) + (w[j + 3] == 0) >= 2);
        errors[where] = c.report.error_after;
        free(w);
        pare_factor_free(c.be, &factor);
        calib_case_free(&c);
    }
    assert_true(fabs(errors[0] - errors[1]) <= 0.05 * errors[0]);
}

int main(void)
{
    int count;
    if (pare_cuda_count(&count) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_are_near_the_cpus),
        cmocka_unit_test(quantisers_are_as_good_as_on_the_cpu),
        cmocka_unit_test(scales_of_sites_are_the_cpus),
        cmocka_unit_test(pruning_and_rounding_are_one_sweep),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
