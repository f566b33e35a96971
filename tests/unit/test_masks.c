/* test_masks.c - schedules of masks on the CPU and on memory that the host cannot touch, what they
 * refuse, how they begin and go on. */
#include "far_backend.h"
#include "masks_fixture.h"

#include "prune/masks_impl.h"

#include <math.h>

enum { STEPS = 40 };

static pare_backend *make_cpu(void)
{
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &be));
    return be;
}

static pare_backend *make_far(void)
{
    return far_backend_make(1);
}

/* ---- densities ------------------------------------------------------------------------------- */

/* The mean density with one factor for all. */
static double mean_density(const double *raw, const int64_t *count, int n, double factor)
{
    double sum = 0, all = 0;
    for (int l = 0; l < n; l++) {
        sum += fmin(1, factor * raw[l]) * (double)count[l];
        all += (double)count[l];
    }
    return sum / all;
}

static void erk_densities_have_the_mean_asked_for(void **state)
{
    (void)state;
    /* layers [out, in, kh, kw] of a small network; the first and the last become dense */
    static const int64_t shapes[5][4] = {
        {16, 3, 3, 3}, {16, 16, 3, 3}, {64, 32, 3, 3}, {64, 64, 1, 1}, {10, 64, 0, 0}};
    double raw[5], result[5];
    int64_t count[5];
    for (int l = 0; l < 5; l++) {
        double sum = 0, product = 1;
        for (int d = 0; d < 4 && shapes[l][d] > 0; d++) {
            sum += (double)shapes[l][d];
            product *= (double)shapes[l][d];
        }
        raw[l] = sum / product;
        count[l] = (int64_t)product;
    }
    for (double density = 0.02; density < 1; density += 0.07) {
        double low = 0, high = 1e6;
        for (int i = 0; i < 200; i++) {
            double middle = (low + high) / 2;
            if (mean_density(raw, count, 5, middle) < density)
                low = middle;
            else
                high = middle;
        }
        pare__mask_erk(raw, count, 5, density, result);
        for (int l = 0; l < 5; l++)
            assert_true(fabs(result[l] - fmin(1, low * raw[l])) < 1e-9);
    }
}

static void masks_have_erk_densities(void **state)
{
    (void)state;
    pare_mask_options o = {.schedule = PARE_MASKS_RIGL, .final = 0.7, .erk = true, .each = 4};
    masks_run *run = masks_begin(NULL, NULL, &o, STEPS, NULL);
    /* [16, 24] and [12, 16]: 40/384 and 28/192 times one factor, 30 % of 576 weights */
    double factor = 0.3 * 576 / (40 + 28);
    while (run->step < STEPS) {
        assert_ok(masks_step(run));
        int64_t first = -1;
        for (int64_t p = 0; p < run->params; p++) {
            if (!masks_has(run, p))
                continue;
            double stays = factor * (first < 0 ? 40 : 28);
            first = p;
            assert_int_equal(run->count[p] - masks_zeros(run, p),
                             run->count[p] - (int64_t)rint((double)run->count[p] - stays));
        }
    }
    masks_end(run);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(const pare_mask_options *options, const char *arch, const char *word)
{
    pare_model *model;
    pare_masks *masks = NULL;
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch}, &model));
    assert_status(pare_masks_create(options, model, &masks), PARE_ERR_ARGUMENT);
    assert_null(masks);
    if (!strstr(pare_last_error(), word))
        fail_msg("\"%s\" lacks \"%s\"", pare_last_error(), word);
    pare_model_free(&model);
}

#define REFUSE(word, ...) refuse(&(pare_mask_options){__VA_ARGS__}, "mlp:24-16-12-8", word)

static void what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    static const uint8_t bias[8] = {0, 1}, none[8] = {0};
    const pare_pattern nm = {.kind = PARE_PATTERN_NM, .n = 2, .m = 4};
    const pare_pattern odd = {.kind = PARE_PATTERN_NM, .n = 2, .m = 7};
    const pare_pattern heads = {.kind = PARE_PATTERN_HEAD};
    const pare_mask_schedule rigl = PARE_MASKS_RIGL;
    REFUSE("sparsities", .final = 1);
    REFUSE("sparsities", .final = 0);
    REFUSE("sparsities", .final = NAN);
    REFUSE("sparsities", .initial = 0.6, .final = 0.5);
    REFUSE("steps", .final = 0.5, .begin = 0.8);
    REFUSE("steps", .final = 0.5, .begin = 0.5, .end = 0.4);
    REFUSE("steps", .final = 0.5, .end = 1.5);
    REFUSE("negative", .final = 0.5, .each = -1);
    REFUSE("negative", .final = 0.5, .rewind = -1);
    REFUSE("rounds", .final = 0.5, .rounds = 1001);
    REFUSE("exchanged", .final = 0.5, .fraction = 1.5);
    REFUSE("wanda", .final = 0.5, .method = pare_prune_find("wanda"));
    REFUSE("taylor", .final = 0.5, .schedule = rigl, .method = pare_masks_method("taylor"));
    REFUSE("movement", .final = 0.5, .schedule = rigl, .method = pare_masks_method("movement"));
    REFUSE("revive", .final = 0.5, .schedule = rigl, .revive = true);
    REFUSE("Erdős–Rényi", .final = 0.5, .erk = true, .global = true);
    REFUSE("smaller", .final = 0.5, .pattern = heads);
    REFUSE("2:4", .pattern = nm, .final = 0.75);
    REFUSE("2:4", .pattern = nm, .global = true);
    REFUSE("2:4", .pattern = nm, .schedule = rigl);
    REFUSE("N:M", .pattern = odd);
    REFUSE("bias", .final = 0.5, .chosen = bias);
    REFUSE("could move", .final = 0.5, .chosen = none);
    REFUSE("schedule", .final = 0.5, .schedule = (pare_mask_schedule)9);
    pare_mask_schedule schedule;
    assert_ok(pare_mask_schedule_parse("rewind", &schedule));
    assert_int_equal(schedule, PARE_MASKS_REWIND);
    assert_string_equal(pare_mask_schedule_name(PARE_MASKS_SET), "set");
    assert_status(pare_mask_schedule_parse("gradul", &schedule), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"gradual\""));
    const pare_prune_method *method;
    assert_ok(pare_masks_method_parse("movement", &method));
    assert_ptr_equal(method, pare_masks_method("movement"));
    assert_status(pare_masks_method_parse("movment", &method), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"movement\""));
    assert_null(pare_masks_method("wanda"));
    assert_null(pare_prune_find("movement")); /* a checkpoint alone does not move */
}

static void too_few_steps_to_go_back_are_refused(void **state)
{
    (void)state;
    pare_mask_options o = {.schedule = PARE_MASKS_REWIND, .final = 0.5, .rounds = 3, .rewind = 10};
    masks_run *run = masks_begin(NULL, NULL, &o, STEPS, NULL);
    assert_status(masks_step(run), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "step 10"));
    masks_end(run);
}

static void weights_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    static const pare_mask_schedule kinds[] = {PARE_MASKS_GRADUAL, PARE_MASKS_RIGL};
    for (int k = 0; k < 2; k++) {
        pare_mask_options o = {.schedule = kinds[k], .final = 0.5, .each = 4};
        masks_run *run = masks_begin(NULL, NULL, &o, STEPS, NULL);
        for (int i = 0; i < 3; i++)
            assert_ok(masks_step(run));
        run->value[0][7] = NAN;
        masks_write(run, 0, run->value[0]);
        pare_status status = PARE_OK;
        while (status == PARE_OK && run->step < 9)
            status = masks_step(run);
        assert_status(status, PARE_ERR_NUMERIC);
        assert_non_null(strstr(pare_last_error(), masks_param(run, 0)->name));
        masks_end(run);
    }
}

/* ---- beginning and going on ------------------------------------------------------------------ */

/* The first layer comes with a mask: every second weight. */
static void give_mask(masks_run *run)
{
    assert_ok(pare_model_mask(run->model, 0));
    for (int64_t i = 0; i < run->count[0]; i += 2) {
        masks_param(run, 0)->mask[i] = 0;
        ((float *)masks_param(run, 0)->value.data)[i] = 0;
    }
}

static void a_mask_that_is_there_is_where_it_begins(void **state)
{
    (void)state;
    pare_mask_options o = {.schedule = PARE_MASKS_RIGL, .final = 0.8, .each = 4};
    masks_run *run = masks_begin(NULL, NULL, &o, STEPS, give_mask);
    for (int64_t i = 0; i < run->count[0]; i++)
        assert_int_equal(run->mask[0][i], i % 2);
    while (run->step < STEPS) {
        assert_ok(masks_step(run));
        assert_int_equal(masks_zeros(run, 0), run->count[0] / 2);
    }
    masks_end(run);
    o = (pare_mask_options){.schedule = PARE_MASKS_GRADUAL, .final = 0.8, .each = 4};
    run = masks_begin(NULL, NULL, &o, STEPS, give_mask);
    while (run->step < STEPS) {
        double s = pare_masks_sparsity(&o, run->step, STEPS);
        assert_ok(masks_step(run));
        assert_int_equal(masks_zeros(run, 0), (int64_t)rint(fmax(s, 0.5) * (double)run->count[0]));
        for (int64_t i = 0; i < run->count[0]; i += 2)
            assert_int_equal(run->mask[0][i], 0);
    }
    masks_end(run);
}

/* A step that learned nothing is left out by the trainer: what was due in it comes in the next. */
static void a_change_that_was_missed_is_made_up_for(void **state)
{
    (void)state;
    pare_mask_options o = {.schedule = PARE_MASKS_ITERATIVE, .final = 0.5, .rounds = 2, .end = 0.5};
    masks_run *run = masks_begin(NULL, NULL, &o, STEPS, NULL);
    for (int i = 0; i < 5; i++)
        assert_ok(masks_step(run));
    run->step = 25; /* the second round was due at 20 */
    assert_ok(masks_step(run));
    assert_int_equal(masks_zeros(run, 0), run->count[0] / 2);
    masks_end(run);
}

static const pare_mask_options goes_on[] = {
    {.schedule = PARE_MASKS_GRADUAL, .final = 0.8, .each = 3, .revive = true},
    {.schedule = PARE_MASKS_GRADUAL, .final = 0.8, .each = 3, .global = true, .initial = 0.2},
    {.schedule = PARE_MASKS_GRADUAL,
     .each = 3,
     .pattern = {.kind = PARE_PATTERN_NM, .n = 1, .m = 4},
     .revive = true},
    {.schedule = PARE_MASKS_ITERATIVE, .final = 0.8, .rounds = 4, .erk = true},
    {.schedule = PARE_MASKS_REWIND, .final = 0.8, .rounds = 3, .rewind = 4},
    {.schedule = PARE_MASKS_RIGL,
     .final = 0.8,
     .each = 3,
     .pattern = {.kind = PARE_PATTERN_BLOCK, .block_rows = 2, .block_cols = 3}},
    {.schedule = PARE_MASKS_SET, .final = 0.8, .each = 3, .seed = 5},
    {.schedule = PARE_MASKS_DENSE, .final = 0.8, .end = 0.4},
};
enum { GOES_ON = sizeof goes_on / sizeof goes_on[0] };

static void expect_same(const masks_run *a, const masks_run *b)
{
    for (int64_t p = 0; p < a->params; p++) {
        assert_memory_equal(a->value[p], b->value[p], (size_t)a->count[p] * 4);
        assert_memory_equal(a->moment[p], b->moment[p], (size_t)a->count[p] * 4);
        assert_memory_equal(a->mask[p], b->mask[p], (size_t)a->count[p]);
    }
}

static void what_goes_on_is_as_though_it_had_not_stopped(void **state)
{
    (void)state;
    for (int k = 0; k < 2 * GOES_ON; k++) {
        pare_mask_options o = goes_on[k / 2];
        if (k % 2 && (o.schedule == PARE_MASKS_GRADUAL || o.schedule == PARE_MASKS_REWIND))
            o.method = pare_masks_method("movement");
        masks_run *whole = masks_begin(NULL, NULL, &o, STEPS, NULL);
        masks_run *first = masks_begin(NULL, NULL, &o, STEPS, NULL), *second;
        while (first->step < 17)
            assert_ok(masks_step(first));
        second = masks_begin(NULL, NULL, &o, STEPS, NULL);
        assert_string_equal(first->part->identity, second->part->identity);
        masks_resume(first, second);
        masks_end(first);
        while (second->step < STEPS)
            assert_ok(masks_step(second));
        while (whole->step < STEPS)
            assert_ok(masks_step(whole));
        expect_same(whole, second);
        masks_end(second);
        masks_end(whole);
    }
}

static void far_memory_gives_the_same_bytes(void **state)
{
    (void)state;
    for (int k = 0; k < GOES_ON; k++) {
        masks_run *near = masks_begin(NULL, NULL, &goes_on[k], STEPS, NULL);
        masks_run *far = masks_begin(make_far(), NULL, &goes_on[k], STEPS, NULL);
        while (near->step < STEPS) {
            assert_ok(masks_step(near));
            assert_ok(masks_step(far));
        }
        expect_same(near, far);
        masks_end(near);
        masks_end(far);
    }
}

/* Whichever allocation finds no memory: a clean status, and nothing held. */
static void memory_that_is_not_there_is_told(void **state)
{
    (void)state;
    const pare_model_shape shape = {.batch = 2, .training = true, .compute = PARE_F32};
    pare_backend *be = make_far();
    pare_model *model;
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:24-16-12-8"}, &model));
    assert_ok(pare_model_prepare(model, be, &shape));
    assert_ok(pare_model_init(model, 1));
    bool refused = true;
    for (int64_t nth = 1; refused; nth++) {
        pare_masks *masks;
        pare_train_part *part;
        pare_mask_options o = {.schedule = PARE_MASKS_RIGL, .final = 0.5, .global = true};
        assert_ok(pare_masks_create(&o, model, &masks));
        far_backend_refuse(be, nth);
        pare_status status = pare_masks_part(masks, be, &part);
        refused = far_backend_refused(be);
        assert_int_equal(status, refused ? PARE_ERR_MEMORY : PARE_OK);
        far_backend_refuse(be, 0);
        pare_masks_free(&masks);
    }
    pare_model_free(&model);
    pare_backend_free(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(erk_densities_have_the_mean_asked_for),
        cmocka_unit_test(masks_have_erk_densities),
        cmocka_unit_test(what_does_not_go_together_is_refused),
        cmocka_unit_test(too_few_steps_to_go_back_are_refused),
        cmocka_unit_test(weights_that_are_no_numbers_are_refused),
        cmocka_unit_test(a_mask_that_is_there_is_where_it_begins),
        cmocka_unit_test(a_change_that_was_missed_is_made_up_for),
        cmocka_unit_test(what_goes_on_is_as_though_it_had_not_stopped),
        cmocka_unit_test(far_memory_gives_the_same_bytes),
        cmocka_unit_test(memory_that_is_not_there_is_told),
    };
    int failed = masks_tests(make_cpu);
    failed += masks_tests(make_far);
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
