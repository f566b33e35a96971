/* test_quant_scales.c - AWQ's and SmoothQuant's scales of a site's inputs. */
#include "calib_fixture.h"
#include "far_backend.h"
#include "thread_comm.h"

#include <math.h>
#include <string.h>

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

/* A site of one layer. */
static pare_quant_site site_of(calib_case *c)
{
    pare_quant_site site = {.stats = c->stats,
                            .cols = c->C,
                            .layers = 1,
                            .layer = {&c->layer},
                            .fold_repeat = 1,
                            .foldable = true};
    site.scales = calloc((size_t)c->C, sizeof *site.scales);
    return site;
}

static void find_scales(const char *method, pare_backend *where, pare_quant_site *site)
{
    assert_ok(pare_quant_find(method)->scale_site(where, site));
}

static bool all_one(const pare_quant_site *site)
{
    for (int64_t k = 0; k < site->cols; k++)
        if (site->scales[k] != 1)
            return false;
    return true;
}

/* The error when w·s is rounded and its inputs are x/s. */
static double scaled_error(calib_case *c, const float *scales)
{
    float *w = malloc((size_t)(c->R * c->C) * sizeof *w);
    for (int64_t i = 0; i < c->R * c->C; i++)
        w[i] = c->weight[i] * scales[i % c->C];
    assert_ok(pare_backend_upload(c->be, c->layer.w.data, w, c->R * c->C * 4));
    assert_ok(pare_quant_round(c->be, &c->layer, PARE_SCALE_ABSMAX));
    assert_ok(pare_backend_download(c->be, w, c->layer.w.data, c->R * c->C * 4));
    for (int64_t i = 0; i < c->R * c->C; i++)
        w[i] /= scales[i % c->C];
    double error = calib_error(c, w);
    free(w);
    return error;
}

static void awq_finds_scales_that_lower_the_error(void **unused)
{
    (void)unused;
    const char *const schemes[] = {"w4g32", "w3g64z", "w4"};
    for (int i = 0; i < 3; i++) {
        calib_case c = calib_case_make(&(calib_options){
            .be = be, .rows = 16, .cols = 192, .samples = 500, .scheme = schemes[i]});
        pare_quant_site site = site_of(&c);
        float ones[192];
        find_scales("awq", be, &site);
        assert_non_null(strstr(site.note, "alpha"));
        float *left = calib_download(be, &c.layer.w);
        assert_memory_equal(left, c.weight, (size_t)(c.R * c.C) * 4);
        for (int k = 0; k < 192; k++) {
            ones[k] = 1;
            assert_true(isfinite(site.scales[k]) && site.scales[k] > 0);
        }
        double before = scaled_error(&c, ones);
        assert_true(scaled_error(&c, site.scales) < 0.9 * before);
        assert_true(fabs(site.before[0] - before) < 0.01 * before && isnan(site.before[1]));
        free(left);
        free(site.scales);
        calib_case_free(&c);
    }
}

static void awq_sums_the_errors_of_all_layers(void **unused)
{
    (void)unused;
    calib_case a = calib_case_make(
        &(calib_options){.be = be, .rows = 16, .cols = 64, .samples = 300, .scheme = "w3g32"});
    calib_case b = calib_case_make(
        &(calib_options){.be = be, .rows = 5, .cols = 64, .samples = 300, .scheme = "w8g32"});
    calib_case none =
        calib_case_make(&(calib_options){.be = be, .rows = 90, .cols = 64, .samples = 300});
    pare_quant_site site = site_of(&a), alone = site_of(&a);
    site.layers = 3;
    site.layer[1] = &b.layer;
    site.layer[2] = &none.layer;
    find_scales("awq", be, &site);
    find_scales("awq", be, &alone);
    /* the error of eight bits is next to nothing */
    assert_memory_equal(site.scales, alone.scales, 64 * 4);
    free(site.scales), free(alone.scales);
    calib_case_free(&none);
    calib_case_free(&b);
    calib_case_free(&a);
}

static void smoothquant_is_its_formula(void **unused)
{
    (void)unused;
    calib_case a = calib_case_make(
        &(calib_options){.be = be, .rows = 6, .cols = 40, .samples = 100, .scheme = "w8a8"});
    calib_case b = calib_case_make(
        &(calib_options){.be = be, .rows = 9, .cols = 40, .samples = 100, .scheme = "w8a8"});
    for (int i = 0; i < 2; i++) {
        pare_quant_site site = site_of(&a);
        double alpha = i ? 0.8 : 0.5;
        site.layers = 2;
        site.layer[1] = &b.layer;
        site.tuning.alpha = i ? 0.8 : 0;
        find_scales("smoothquant", be, &site);
        for (int64_t k = 0; k < a.C; k++) {
            double x = 0, w = 0;
            for (int64_t n = 0; n < a.N; n++)
                x = fmax(x, fabs((double)a.x[n * a.C + k]));
            for (int64_t r = 0; r < a.R; r++)
                w = fmax(w, fabs((double)a.weight[r * a.C + k]));
            for (int64_t r = 0; r < b.R; r++)
                w = fmax(w, fabs((double)b.weight[r * b.C + k]));
            double s = pow(x, alpha) / pow(w, 1 - alpha);
            assert_true(fabs(site.scales[k] - s) < 1e-5 * s);
        }
        free(site.scales);
    }
    calib_case_free(&b);
    calib_case_free(&a);
}

/* Four heads of 4 channels, two of which share a head of values; then 2 × 2 convolutions. */
static void places_that_are_shared_get_one_scale(void **unused)
{
    (void)unused;
    const char *const methods[] = {"awq", "smoothquant"};
    for (int i = 0; i < 4; i++) {
        calib_case c = calib_case_make(
            &(calib_options){.be = be, .rows = 8, .cols = 16, .samples = 200, .scheme = "w4g16"});
        pare_quant_site site = site_of(&c);
        site.fold_repeat = i < 2 ? 2 : 1;
        site.fold_dim = 4;
        c.layer.inner = i < 2 ? 1 : 4;
        find_scales(methods[i % 2], be, &site);
        assert_false(all_one(&site));
        for (int k = 0; k < 16; k++) {
            int other = i < 2 ? k ^ 4 : k ^ 1;
            assert_true(site.scales[k] == site.scales[other]);
        }
        assert_true(site.scales[0] != site.scales[i < 2 ? 1 : 4]);
        free(site.scales);
        calib_case_free(&c);
    }
}

static void no_third(float *x, int64_t samples, int64_t cols)
{
    for (int64_t r = 0; r < samples; r++)
        for (int64_t c = 2; c < cols; c += 3)
            x[r * cols + c] = 0;
}

static void one_nan(float *x, int64_t samples, int64_t cols)
{
    x[samples * cols / 2] = NAN;
}

static void what_cannot_be_scaled_is_left_alone(void **unused)
{
    (void)unused;
    const char *const methods[] = {"awq", "smoothquant"};
    for (int m = 0; m < 2; m++) {
        calib_case c = calib_case_make(
            &(calib_options){.be = be, .rows = 4, .cols = 12, .samples = 60, .scheme = "w4g4"});
        pare_quant_site site = site_of(&c);
        site.foldable = false;
        find_scales(methods[m], be, &site);
        assert_true(all_one(&site));
        assert_non_null(strstr(site.note, "nothing before it"));
        free(site.scales);
        calib_case_free(&c);

        c = calib_case_make(&(calib_options){
            .be = be, .rows = 4, .cols = 12, .samples = 60, .scheme = "w4g4", .change = one_nan});
        site = site_of(&c);
        find_scales(methods[m], be, &site);
        assert_true(all_one(&site));
        assert_non_null(strstr(site.note, "NaN"));
        free(site.scales);
        calib_case_free(&c);

        c = calib_case_make(&(calib_options){
            .be = be, .rows = 4, .cols = 12, .samples = 60, .scheme = "w4g4", .change = no_third});
        site = site_of(&c);
        find_scales(methods[m], be, &site);
        for (int k = 2; k < 12; k += 3)
            assert_true(site.scales[k] == 1);
        free(site.scales);
        calib_case_free(&c);
    }
}

static void far_memory_gives_the_same(void **unused)
{
    (void)unused;
    const char *const methods[] = {"awq", "smoothquant"};
    for (int m = 0; m < 2; m++) {
        float *scales[2];
        for (int where = 0; where < 2; where++) {
            pare_backend *there = where ? far_backend_make(2) : be;
            calib_case c = calib_case_make(&(calib_options){
                .be = there, .rows = 7, .cols = 50, .samples = 120, .scheme = "w4g32"});
            pare_quant_site site = site_of(&c);
            find_scales(methods[m], there, &site);
            scales[where] = site.scales;
            calib_case_free(&c);
            if (where)
                pare_backend_free(&there);
        }
        assert_memory_equal(scales[0], scales[1], 50 * 4);
        free(scales[0]), free(scales[1]);
    }
}

/* ---- ranks ----------------------------------------------------------------------------------- */

typedef struct found {
    float scales[64];
    char note[160];
    double before;
} found;

/* A backend, layer and statistics of its own, the same in each. comm NULL: alone. */
static pare_status find(pare_comm *comm, int grid, found *f)
{
    pare_backend *own;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &own));
    calib_case c = calib_case_make(
        &(calib_options){.be = own, .rows = 16, .cols = 64, .samples = 200, .scheme = "w3g32"});
    pare_quant_site site = site_of(&c);
    site.tuning.grid = grid;
    site.ranks = comm;
    pare_status status = pare_quant_find("awq")->scale_site(own, &site);
    memcpy(f->scales, site.scales, sizeof f->scales);
    memcpy(f->note, site.note, sizeof f->note);
    f->before = site.before[0];
    free(site.scales);
    calib_case_free(&c);
    pare_backend_free(&own);
    return status;
}

typedef struct shared {
    int grid;
    found by[THREAD_COMM_MOST];
} shared;

static pare_status find_together(void *user, pare_comm *comm)
{
    shared *s = user;
    return find(comm, s->grid, &s->by[pare_comm_facts_of(comm)->rank]);
}

/* More ranks than scales are no matter. */
static void ranks_find_together_what_one_finds(void **unused)
{
    (void)unused;
    static const struct {
        int ranks, grid;
    } cases[] = {{2, 20}, {3, 20}, {5, 7}, {4, 3}, {3, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_status statuses[THREAD_COMM_MOST];
        shared s = {.grid = cases[i].grid};
        found alone;
        assert_ok(find(NULL, s.grid, &alone));
        thread_comm_run(cases[i].ranks, find_together, &s, statuses);
        for (int r = 0; r < cases[i].ranks; r++) {
            assert_int_equal(statuses[r], PARE_OK);
            assert_memory_equal(s.by[r].scales, alone.scales, sizeof alone.scales);
            assert_string_equal(s.by[r].note, alone.note);
        }
        assert_memory_equal(&s.by[0].before, &alone.before, sizeof alone.before);
    }
}

/* The nth allocation fails, for every n: a clean status, and nothing is lost. */
static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    const char *const methods[] = {"awq", "smoothquant"};
    for (int m = 0; m < 2; m++) {
        bool refused = true;
        for (int64_t n = 1; refused; n++) {
            pare_backend *far = far_backend_make(1);
            calib_case c = calib_case_make(&(calib_options){
                .be = far, .rows = 3, .cols = 20, .samples = 30, .scheme = "w4g4"});
            pare_quant_site site = site_of(&c);
            far_backend_refuse(far, n);
            pare_status status = pare_quant_find(methods[m])->scale_site(far, &site);
            refused = far_backend_refused(far);
            assert_int_equal(status, refused ? PARE_ERR_MEMORY : PARE_OK);
            free(site.scales);
            calib_case_free(&c);
            pare_backend_free(&far);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(awq_finds_scales_that_lower_the_error),
        cmocka_unit_test(awq_sums_the_errors_of_all_layers),
        cmocka_unit_test(smoothquant_is_its_formula),
        cmocka_unit_test(places_that_are_shared_get_one_scale),
        cmocka_unit_test(what_cannot_be_scaled_is_left_alone),
        cmocka_unit_test(far_memory_gives_the_same),
        cmocka_unit_test(ranks_find_together_what_one_finds),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
