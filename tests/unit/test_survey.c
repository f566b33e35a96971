/* test_survey.c - what is decided by measuring: budgets are held, the choice is the best of all
 * there are, the output is what was chosen, a run that was cut does not measure twice. */
#include "survey_fixture.h"

#include "far_device.h"

#include "base/file.h"

#include <math.h>

/* Stored bits of the layers in a file; the schemes are those that the report names. */
static int64_t stored_bits(const char *path, const survey_found *s)
{
    int64_t bytes = 0;
    pare_store *store = NULL;
    assert_ok(pare_store_open(path, &store));
    for (size_t i = 0; i < s->count; i++) {
        char text[40];
        const pare_entry *e = pare_store_entry(store, pare_store_find(store, s->layers[i].name));
        assert_int_equal(e->form, PARE_FORM_QUANT);
        assert_string_equal(pare_scheme_text(&e->scheme, text, sizeof text), s->layers[i].scheme);
        assert_true(fabs(s->layers[i].bits * (double)s->layers[i].weights -
                         8 * (double)e->stored_bytes) < 0.5);
        bytes += e->stored_bytes;
    }
    pare_store_close(&store);
    return 8 * bytes;
}

/* The least sum of harm among all combinations of w2g32, w3g32, w4g32 within so many bits: scales
 * are F32, one bit a weight. */
static double least_harm(const survey_found *s, double budget)
{
    double least = INFINITY;
    int all = 1;
    for (size_t l = 0; l < s->count; l++)
        all *= 3;
    for (int code = 0; code < all; code++) {
        double harm = 0, bits = 0;
        int rest = code;
        for (size_t l = 0; l < s->count; l++, rest /= 3) {
            harm += s->layers[l].harm[rest % 3];
            bits += (double)s->layers[l].weights * (3 + rest % 3);
        }
        if (bits <= budget && harm < least)
            least = harm;
    }
    return least;
}

static double sum_of_harm(const survey_found *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += s->layers[l].harm[s->layers[l].choice];
    return sum;
}

/* ---- mixed bits ------------------------------------------------------------------------------ */

static void mixed_bits_are_the_best_that_fit(void **state)
{
    (void)state;
    static const struct {
        const char *step;
        double bits; /* a weight, or */
        int64_t bytes;
        int64_t evaluations;
    } jobs[] = {
        {"quantize: {method: gptq, schemes: [w2g32, w3g32, w4g32], bits: 4.3, sensitivity: output}",
         4.3, 0, 0},
        {"quantize: {method: rtn, schemes: [w2g32, w3g32, w4g32], bytes: 4096, sensitivity: "
         "output}",
         0, 4096, 0},
        {"quantize: {method: rtn, schemes: [w2g32, w3g32, w4g32], bits: 3.5, sensitivity: kld}",
         3.5, 0, 22},
    };
    survey_bench b = survey_make(NULL, survey_llama);
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        survey_clear(&b);
        assert_ok(survey_run(&b, jobs[j].step));
        survey_found s = survey_look(&b);
        assert_int_equal(s.count, 7);
        assert_int_equal(s.options, 3);
        assert_int_equal(s.measured, 7);
        assert_int_equal(s.evaluations, jobs[j].evaluations);
        double budget =
            jobs[j].bytes ? (double)jobs[j].bytes * 8 : jobs[j].bits * survey_weights(&s);
        int64_t stored = stored_bits(b.out, &s);
        assert_true((double)stored <= budget);
        assert_true((double)stored > 0.9 * budget);
        assert_true(sum_of_harm(&s) <= least_harm(&s, budget) * (1 + 1e-12));
        for (size_t l = 0; l < s.count; l++) /* more bits, less harm */
            assert_true(s.layers[l].harm[0] > s.layers[l].harm[2]);
        survey_nothing_is_left(&b);
    }
    survey_done(&b);
}

static void a_budget_that_nothing_fits_is_refused_first(void **state)
{
    (void)state;
    survey_bench b = survey_make(NULL, survey_llama);
    const char *step =
        "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 2.5, sensitivity: output}";
    assert_status(survey_run(&b, step), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "the least is 3.000"));
    assert_status(survey_go(&b, step, true), PARE_ERR_ARGUMENT);
    assert_status(
        survey_run(
            &b,
            "quantize: {method: rtn, schemes: [w2g32, w3g32], bytes: 1000, sensitivity: output}"),
        PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "the least is 3456 bytes"));
    survey_nothing_is_left(&b);
    b.options.memory = 1 << 20;
    assert_status(
        survey_run(&b,
                   "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: kld}"),
        PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "it needs"));
    b.options.memory = 0;
    survey_nothing_is_left(&b);
    FILE *file = fopen(b.out, "wb");
    fclose(file);
    assert_status(
        survey_run(
            &b, "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: output}"),
        PARE_ERR_EXISTS);
    survey_nothing_is_left(&b);
    survey_done(&b);
}

/* A table of vectors is measured as if its inputs were white. */
static void what_no_site_has_is_in_the_budget(void **state)
{
    (void)state;
    survey_bench b = survey_make(NULL, survey_llama);
    assert_ok(survey_run(&b, "quantize: {method: gptq, schemes: [w2g32, w3g32, w4g32], bits: 4.1, "
                             "sensitivity: output, include: "
                             "['*embed*', '*mlp*']}"));
    survey_found s = survey_look(&b);
    assert_int_equal(s.count, 4);
    assert_true((double)stored_bits(b.out, &s) <= 4.1 * survey_weights(&s));
    assert_true(sum_of_harm(&s) <= least_harm(&s, 4.1 * survey_weights(&s)) * (1 + 1e-12));
    assert_true(survey_find(&s, "model.embed_tokens.weight")->harm[0] > 0.01);
    survey_done(&b);
}

static void a_plan_measures_nothing_and_says_what_comes(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: rtn, schemes: [w2g32, w3g32, w4g32], bits: 4, sensitivity: kld}";
    survey_bench b = survey_make(NULL, survey_llama);
    char *text = NULL;
    assert_ok(survey_go(&b, step, true));
    survey_found s = survey_look(&b);
    assert_int_equal(s.count, 0);
    assert_int_equal(s.measured, 7);
    assert_int_equal(s.evaluations, 22);
    assert_ok(pare_report_text(b.report, &text));
    assert_non_null(strstr(text, "a survey comes first:"));
    assert_non_null(strstr(text, "7 layers measured, 22 runs of the whole model"));
    free(text);
    survey_nothing_is_left(&b);
    assert_ok(survey_run(&b, step));
    assert_ok(pare_report_text(b.report, &text));
    assert_non_null(strstr(text, "bits, decided by measuring: KL divergence"));
    assert_non_null(strstr(text, "bits a weight over these layers, scales included"));
    assert_non_null(strstr(text, "surveyed before it:"));
    free(text);
    survey_done(&b);
}

/* Both at once: every layer pruned and quantised by what was decided of it. */
static void both_are_decided_together(void **state)
{
    (void)state;
    survey_bench b = survey_make(NULL, survey_llama);
    assert_ok(
        survey_run(&b, "prune: {method: sparsegpt, sparsity: 0.5, budget: owl}, quantize: {method: "
                       "gptq, schemes: [w3g32, w4g32], bits: 4.5, sensitivity: output}"));
    survey_found s = survey_look(&b);
    assert_true(fabs(survey_mean_sparsity(&s) - 0.5) < 1e-9);
    for (size_t l = 0; l < s.count; l++)
        assert_true((double)survey_zeros(b.out, &s.layers[l]) >=
                    (s.layers[l].sparsity - 0.03) * (double)s.layers[l].weights);
    survey_done(&b);
}

/* ---- a run that is cut ----------------------------------------------------------------------- */

static void cut_it_does_not_measure_twice(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: gptq, schemes: [w2g32, w3g32, w4g32], bits: 4, sensitivity: kld}";
    survey_bench b = survey_make(NULL, survey_llama);
    int64_t size, again;
    char *want = NULL, *got = NULL;
    b.options.progress = (pare_progress){survey_watch, &b, NULL};
    b.options.cancel = &b.stop;
    assert_ok(survey_run(&b, step));
    int whole = b.surveyed;
    assert_int_equal(whole, 22);
    assert_ok(pare__file_load(b.out, 1 << 26, &want, &size));
    survey_clear(&b);
    b.surveyed = 0;
    b.stop_at = 9; /* of the model as it is, two layers, and two options of the third */
    assert_status(survey_run(&b, step), PARE_ERR_INTERRUPTED);
    assert_non_null(strstr(pare_last_error(), "survey.json, the same command continues"));
    assert_true(pare__exists(survey_beside(&b, ".survey.json")));
    b.stop = b.surveyed = b.stop_at = 0;
    b.stop_walking = true;
    assert_status(survey_run(&b, step), PARE_ERR_INTERRUPTED); /* in the walk after it */
    assert_true(b.surveyed > 0 && b.surveyed <= whole - 6);
    b.stop = b.surveyed = 0;
    b.stop_walking = false;
    assert_ok(survey_run(&b, step));
    assert_int_equal(b.surveyed, 0);
    assert_int_equal(survey_look(&b).measured, 0);
    assert_ok(pare__file_load(b.out, 1 << 26, &got, &again));
    assert_int_equal(size, again);
    assert_memory_equal(got, want, (size_t)size);
    survey_nothing_is_left(&b);
    free(got);
    free(want);
    survey_done(&b);
}

static void a_damaged_file_is_measured_again(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: gptq, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: output}";
    static const char *const texts[] = {"{ \"key\"", "{\"key\": \"?\", \"survey\": []}", "[]", ""};
    survey_bench b = survey_make(NULL, survey_llama);
    for (int i = 0; i < 4; i++) {
        survey_clear(&b);
        FILE *file = fopen(survey_beside(&b, ".survey.json"), "wb");
        assert_true(fputs(texts[i], file) >= 0);
        fclose(file);
        assert_ok(survey_run(&b, step));
        assert_int_equal(survey_look(&b).measured, 7);
        survey_nothing_is_left(&b);
    }
    survey_done(&b);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    survey_bench b = survey_make(NULL, survey_llama);
    b.options.strict = true;
    assert_status(
        survey_run(
            &b, "quantize: {method: rtn, schemes: [w4g32, w4g48], bits: 5, sensitivity: output}"),
        PARE_ERR_ARGUMENT);
    b.options.strict = false;
    survey_nothing_is_left(&b);
    survey_write_model(NULL, survey_llama, b.source, SURVEY_LAYER "mlp.up_proj.weight", NAN);
    assert_status(
        survey_run(
            &b, "quantize: {method: rtn, schemes: [w2g32, w4g32], bits: 4.5, sensitivity: output}"),
        PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "mlp.up_proj.weight holds NaN"));
    survey_nothing_is_left(&b);
    survey_write_model(NULL, survey_llama, b.source, "model.norm.weight", 3.4e38f);
    assert_status(survey_run(&b, "quantize: {method: rtn, schemes: [w2g32, w4g32], bits: 4.5, "
                                 "sensitivity: kld}"),
                  PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), "NaN or infinite"));
    survey_nothing_is_left(&b);
    survey_done(&b);
}

static void a_device_decides_nearly_the_same(void **state)
{
    (void)state;
    const run_device *device = far_device();
    if (!device || !device->set_up((int64_t)1 << 30)) {
        skip();
        return;
    }
    static const char *const steps[] = {
        "quantize: {method: rtn, schemes: [w2g32, w3g32, w4g32], bits: 4}",
        "quantize: {method: rtn, schemes: [w2g32, w4g32], bits: 4, sensitivity: kld}",
        "prune: {method: wanda, sparsity: 0.5, budget: global}",
    };
    survey_bench b = survey_make(NULL, survey_llama);
    for (int i = 0; i < 3; i++) {
        survey_clear(&b);
        b.options.device = "cpu";
        assert_ok(survey_run(&b, steps[i]));
        survey_found want = survey_look(&b);
        survey_clear(&b);
        b.options.device = "cuda";
        assert_ok(survey_run(&b, steps[i]));
        survey_found got = survey_look(&b);
        assert_int_equal(got.count, want.count);
        for (size_t l = 0; l < got.count; l++)
            for (size_t k = 0; k < got.options; k++)
                assert_true(fabs(got.layers[l].harm[k] - want.layers[l].harm[k]) <=
                            1e-3 * want.layers[l].harm[k] + 1e-7);
    }
    survey_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_bits_are_the_best_that_fit),
        cmocka_unit_test(a_budget_that_nothing_fits_is_refused_first),
        cmocka_unit_test(what_no_site_has_is_in_the_budget),
        cmocka_unit_test(a_plan_measures_nothing_and_says_what_comes),
        cmocka_unit_test(both_are_decided_together),
        cmocka_unit_test(cut_it_does_not_measure_twice),
        cmocka_unit_test(a_damaged_file_is_measured_again),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(a_device_decides_nearly_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
