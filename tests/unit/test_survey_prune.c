/* test_survey_prune.c - which layer loses how many weights: by outliers, by one threshold, by loss.
 */
#include "survey_fixture.h"

#include "base/file.h"

#include <math.h>

static void outliers_keep_more(void **state)
{
    (void)state;
    const char *odd = SURVEY_LAYER "mlp.up_proj.weight";
    survey_bench b = survey_make(NULL, survey_llama);
    survey_write_model(NULL, survey_llama, b.source, odd, 200);
    assert_ok(survey_run(&b, "prune: {method: wanda, sparsity: 0.5, budget: owl}"));
    survey_found s = survey_look(&b);
    assert_int_equal(s.count, 7);
    assert_true(fabs(survey_mean_sparsity(&s) - 0.5) < 1e-9);
    double least = 1;
    for (size_t l = 0; l < s.count; l++) {
        double share = (double)survey_zeros(b.out, &s.layers[l]) / (double)s.layers[l].weights;
        assert_true(fabs(share - s.layers[l].sparsity) <= 0.5 / 32 + 1e-9);
        assert_true(fabs(s.layers[l].sparsity - 0.5) <= 0.08 + 1e-9);
        least = fmin(least, s.layers[l].sparsity);
    }
    assert_true(survey_find(&s, odd)->sparsity <= least);
    assert_true(survey_find(&s, odd)->sparsity < 0.46);
    assert_true(survey_find(&s, odd)->harm[0] > 0.03);
    survey_nothing_is_left(&b);
    survey_done(&b);
}

/* In one layer, a sixteenth of the weights may make nearly all of the output: the others go. */
static void one_threshold_goes_through_all_layers(void **state)
{
    (void)state;
    const char *odd = SURVEY_LAYER "mlp.up_proj.weight";
    static const struct {
        const char *step;
        double sparsity;
        float factor;
        double least, most; /* sparsity of that layer */
    } jobs[] = {
        {"prune: {method: wanda, sparsity: 0.5, scope: global}", 0.5, 1, 0.4, 0.7},
        {"prune: {method: sparsegpt, sparsity: 0.5, budget: global}", 0.5, 1e6f, 0.9375, 0.98},
        {"prune: {method: wanda, sparsity: 0.9, budget: global}", 0.9, 1e6f, 0.9375, 0.98},
        {"prune: {method: wanda, sparsity: 0.995, budget: global}", 0.995, 1e6f, 0.995 - 1e-9,
         0.995}, /* more than any may lose, unless all do */
    };
    survey_bench b = survey_make(NULL, survey_llama);
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        survey_clear(&b);
        survey_write_model(NULL, survey_llama, b.source, SURVEY_LAYER "mlp.up_proj.weight",
                           jobs[j].factor);
        assert_ok(survey_run(&b, jobs[j].step));
        survey_found s = survey_look(&b);
        assert_int_equal(s.count, 7);
        assert_int_equal(s.measured, 7);
        assert_int_equal(s.evaluations, 0);
        assert_true(fabs(survey_mean_sparsity(&s) - jobs[j].sparsity) < 1e-9);
        const survey_layer *l = survey_find(&s, odd);
        assert_true(l->sparsity >= jobs[j].least && l->sparsity <= jobs[j].most);
        for (size_t i = 0; i < s.count; i++) {
            double share = (double)survey_zeros(b.out, &s.layers[i]) / (double)s.layers[i].weights;
            assert_true(fabs(share - s.layers[i].sparsity) <= 0.5 / 32 + 1e-9);
        }
        survey_nothing_is_left(&b);
    }
    survey_clear(&b);
    b.options.memory = 8 << 20;
    assert_status(survey_run(&b, jobs[0].step), PARE_ERR_MEMORY);
    survey_nothing_is_left(&b);
    survey_done(&b);
}

static void losses_are_the_least_of_that_mean(void **state)
{
    (void)state;
    survey_bench b = survey_make(survey_resnet, NULL);
    assert_ok(survey_run(&b, "prune: {method: wanda, sparsity: 0.6, budget: loss}"));
    survey_found s = survey_look(&b);
    double harm = 0, uniform = 0;
    assert_int_equal(s.options, 5);
    assert_true(survey_mean_sparsity(&s) >= 0.6 - 1e-6);
    for (size_t l = 0; l < s.count; l++) {
        int k = (int)lround((s.layers[l].sparsity - 0.4) / 0.1);
        assert_true(k >= 0 && k < 5);
        harm += s.layers[l].harm[k];
        uniform += s.layers[l].harm[2];
    }
    assert_true(harm <= uniform);
    survey_done(&b);
}

/* Stopped wherever: shares are of one walk, and the bytes those of a run never stopped. */
static void cut_it_finds_the_same_threshold(void **state)
{
    (void)state;
    const char *step = "prune: {method: sparsegpt, sparsity: 0.4, budget: global}";
    survey_bench b = survey_make(NULL, survey_llama);
    int64_t size, again;
    char *want = NULL, *got = NULL;
    int kept = 0;
    b.options.progress = (pare_progress){survey_watch, &b, NULL};
    b.options.cancel = &b.stop;
    assert_ok(survey_run(&b, step));
    int all = b.blocks;
    assert_ok(pare__file_load(b.out, 1 << 26, &want, &size));
    for (int at = 1; at <= all; at++) {
        survey_clear(&b);
        b.blocks = 0;
        b.stop_at_block = at;
        pare_status status = survey_run(&b, step);
        assert_true(status == PARE_ERR_INTERRUPTED || (status == PARE_OK && at == all));
        bool found = pare__exists(survey_beside(&b, ".survey.json"));
        b.stop = b.stop_at_block = 0;
        if (status == PARE_OK)
            continue;
        kept += found;
        assert_ok(survey_run(&b, step));
        assert_int_equal(survey_look(&b).measured, found ? 0 : 7);
        assert_ok(pare__file_load(b.out, 1 << 26, &got, &again));
        assert_int_equal(size, again);
        assert_memory_equal(got, want, (size_t)size);
        survey_nothing_is_left(&b);
        free(got);
    }
    assert_true(kept > 0 && kept < all);
    free(want);
    survey_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outliers_keep_more),
        cmocka_unit_test(one_threshold_goes_through_all_layers),
        cmocka_unit_test(losses_are_the_least_of_that_mean),
        cmocka_unit_test(cut_it_finds_the_same_threshold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
