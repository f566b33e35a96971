/* test_recipe_data.c - recipes of steps that read data: what is read, what goes together, what an
 * eval says. */
#include "test.h"

#include "recipe_fixture.h"

/* A recipe with calibration data and one step. */
#define DATA(step_) "model: m\ndata: { calibration: c }\nsteps:\n  - " step_ "\n"

static void calibration_is_read(void **state)
{
    (void)state;
    pare_recipe *r =
        recipe_parse("model: m\narch: \"mlp:4-4\"\ndata: { calibration: c.npy, labels: l.u8, "
                     "eval: e.npy }\nsteps:\n"
                     "  - prune: { method: wanda, sparsity: 0.5, budget: owl, seq_len: 64 }\n"
                     "  - quantize: { method: gptq, scheme: w4g128, data: own.npy, samples: "
                     "5, skip: 6, shuffle: "
                     "true,\n"
                     "      pad_id: 0, batch: 7, propagate: dense, true_sequential: false, "
                     "compute: bf16, errors: true, cache: "
                     "s.h5,\n"
                     "      damping: 0.1, act_order: true }\n");
    assert_string_equal(r->arch, "mlp:4-4");
    assert_int_equal(r->step_count, 2);
    const pare_calibration *a = &r->steps[0].calibration, *b = &r->steps[1].calibration;
    assert_string_equal(a->path, "c.npy");
    assert_string_equal(a->labels, "l.u8");
    assert_int_equal(a->samples, 0); /* 128, or what there is */
    assert_int_equal(a->seq_len, 64);
    assert_int_equal(a->pad_id, -2);
    assert_true(!a->dense && !a->per_block && !a->shuffle && !a->cache);
    assert_int_equal(a->compute, PARE_F32);
    assert_string_equal(b->path, "own.npy");
    assert_null(b->labels); /* those are of other data */
    assert_int_equal(b->samples, 5);
    assert_int_equal(b->skip, 6);
    assert_int_equal(b->pad_id, 0);
    assert_int_equal(b->batch, 7);
    assert_true(b->dense && b->per_block && b->shuffle && b->errors);
    assert_int_equal(b->compute, PARE_BF16);
    assert_string_equal(b->cache, "s.h5");
    assert_int_equal(r->prunes[0].budget, PARE_BUDGET_OWL);
    assert_int_equal(r->prunes[0].scope, PARE_SCOPE_LAYER);
    assert_true(r->quants[0].tuning.damping == 0.1 && r->quants[0].tuning.act_order);
    assert_int_equal(r->steps[0].prunes + r->steps[1].quants, 2);
    assert_true(pare_step_needs_data(r, &r->steps[0]) && pare_step_needs_data(r, &r->steps[1]));
    pare_recipe_free(&r);
}

/* What is measured can be found worse than rounding: a journal and a provenance tell them apart. */
static void measuring_is_part_of_the_text(void **state)
{
    (void)state;
    for (int errors = 0; errors < 2; errors++) {
        pare_recipe *r =
            recipe_parse(errors ? DATA("quantize: { method: imatrix, scheme: w4, errors: true }")
                                : DATA("quantize: { method: imatrix, scheme: w4 }"));
        char *text = NULL;
        assert_ok(pare_recipe_text(r, &text));
        assert_true((strstr(text, "errors: true") != NULL) == (errors == 1));
        free(text);
        pare_recipe_free(&r);
    }
}

static void one_threshold_over_all_layers_has_one_spelling(void **state)
{
    (void)state;
    static const char *const steps[] = {
        DATA("prune: { method: wanda, sparsity: 0.5, scope: global }"),
        DATA("prune: { method: wanda, sparsity: 0.5, budget: global }"),
    };
    char *text[2] = {NULL};
    for (int i = 0; i < 2; i++) {
        pare_recipe *r = recipe_parse(steps[i]);
        assert_int_equal(r->prunes[0].budget, PARE_BUDGET_GLOBAL);
        assert_int_equal(r->prunes[0].scope, PARE_SCOPE_LAYER);
        assert_ok(pare_recipe_check(r));
        assert_ok(pare_recipe_text(r, &text[i]));
        assert_non_null(strstr(text[i], "budget: global"));
        pare_recipe_free(&r);
    }
    assert_string_equal(text[0], text[1]);
    free(text[0]);
    free(text[1]);
    pare_recipe *r =
        recipe_parse("model: m\nsteps:\n  - prune: { sparsity: 0.5, budget: global }\n");
    assert_int_equal(r->prunes[0].budget, PARE_BUDGET_UNIFORM); /* `scope` says it */
    assert_int_equal(r->prunes[0].scope, PARE_SCOPE_GLOBAL);
    pare_recipe_free(&r);
}

static void data_that_no_method_looks_at_is_dropped(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse(DATA("prune: { sparsity: 0.5, samples: 9, seq_len: 3 }"));
    assert_null(r->steps[0].calibration.path);
    assert_false(pare_step_needs_data(r, &r->steps[0]));
    pare_recipe_free(&r);
}

static void a_method_without_its_data_is_refused_in_place(void **state)
{
    (void)state;
    REFUSE(STEP("quantize: { scheme: w4, method: gptq }"),
           "r.yaml:3:37: gptq needs calibration data: give data");
    REFUSE(STEP("prune: { method: sparsegpt, pattern: 2:4 }"),
           "r.yaml:3:22: sparsegpt needs calibration data");
    REFUSE(STEP("prune: { method: taylor, sparsity: 0.5 }"), "taylor needs calibration data");
    REFUSE(STEP("quantize: { scheme: w8a8s }"),
           "r.yaml:3:25: static activations (a8s) need calibration data");
    REFUSE(STEP("quantize: { schemes: [w4, w8], bits: 5 }"),
           "r.yaml:3:26: the choice of schemes needs calibration data");
    REFUSE(STEP("compress: { prune: { pattern: 2:4 }, quantize: { method: awq, scheme: w4 } }"),
           "r.yaml:3:62: awq needs calibration data");
    REFUSE(STEP("eval: { metric: ppl }"), "r.yaml:3:11: eval: needs data to measure on");
    /* A misspelt key is not missing too. */
    REFUSE(STEP("quantize: { method: gptq, scheme: w4, dta: c }"), "unknown key \"dta\"");
    assert_null(strchr(pare_last_error(), '\n'));
    REFUSE("model: m\ndata: { calibratio: c }\nsteps: [ quantize: { method: gptq, scheme: w4 } ]\n",
           "did you mean \"calibration\"?");
    assert_null(strchr(pare_last_error(), '\n'));
}

static void an_option_of_another_method_is_refused_in_place(void **state)
{
    (void)state;
    REFUSE(DATA("quantize: { scheme: w4, alpha: 0.5 }"),
           "r.yaml:4:36: alpha: belongs to smoothquant, not to rtn");
    REFUSE(DATA("quantize: { method: gptq, scheme: w4, grid: 5, clip: false }"),
           "4:49: grid: belongs to awq, not to gptq", "4:58: clip: belongs to awq");
    REFUSE(DATA("quantize: { method: awq, scheme: w4, act_order: true, damping: 0.1 }"),
           "act_order: belongs to gptq", "damping: belongs to gptq");
    REFUSE(DATA("prune: { method: wanda, sparsity: 0.5, damping: 0.1 }"),
           "damping: belongs to sparsegpt and gptq, not to wanda");
    REFUSE(DATA("prune: { sparsity: 0.5, budget: owl }"),
           "r.yaml:4:37: budget: owl goes by layers' inputs, which magnitude does not see");
    REFUSE(DATA("prune: { method: wanda, pattern: 2:4, budget: owl }"), "leave it out");
    REFUSE(DATA("prune: { method: wanda, pattern: 2:4, budget: global }"),
           "budget: beside pattern 2:4 all layers have the same sparsity");
    REFUSE(DATA("prune: { method: sparsegpt, pattern: 2:4, scope: global }"),
           "scope: beside pattern 2:4 all layers have the same sparsity");
    REFUSE(DATA("prune: { sparsity: 0.5, scope: layer, budget: uniform }"), "budget: beside scope");
    REFUSE(DATA("prune: { sparsity: 0.5, budget: owk }"), "did you mean \"owl\"?");
    REFUSE(DATA("prune: { method: sparsegpt, pattern: block:4x4, sparsity: 0.5 }"),
           "r.yaml:4:42: pattern block:4x4: sparsegpt goes column by column");
    REFUSE(DATA("prune: { method: sparsegpt, pattern: head, sparsity: 0.5 }"),
           "r.yaml:4:42: pattern head: sparsegpt has no scores");
    REFUSE(DATA("prune: { sparsity: 0.5, multiple: 8 }"), "r.yaml:4:39: multiple: belongs to");
    REFUSE(DATA("prune: { pattern: layer, sparsity: 0.5, multiple: 2 }"), "multiple: belongs to");
    REFUSE(DATA("prune: { pattern: width, sparsity: 0.5, scope: layer }"),
           "scope: beside pattern width all layers lose the same share");
    REFUSE(DATA("prune: { pattern: width }"), "sparsity is missing");
}

static void one_sweep_has_one_of_each(void **state)
{
    (void)state;
    REFUSE(DATA("compress: { prune: { method: sparsegpt, pattern: 2:4 }, quantize: { method: gptq, "
                "scheme: w4, act_order: true } }"),
           "act_order: takes columns out of their order");
    REFUSE(DATA("compress: { prune: { method: sparsegpt, pattern: 2:4, damping: 0.1 }, quantize: { "
                "method: gptq, scheme: w4, damping: 0.2 } }"),
           "damping: is another than beside prune");
    REFUSE(DATA("compress: { prune: { method: sparsegpt, pattern: 2:4, samples: 5 } }"),
           "r.yaml:4:68: samples: belongs to compress");
    pare_recipe *r =
        recipe_parse(DATA("compress: { prune: { method: sparsegpt, pattern: 2:4 }, quantize: "
                          "{ method: gptq, scheme: w4, damping: 0.2 }, samples: 7 }"));
    assert_int_equal(r->step_count, 1);
    assert_true(r->prunes[0].damping == 0.2 && r->quants[0].tuning.damping == 0.2);
    assert_int_equal(r->steps[0].calibration.samples, 7);
    pare_recipe_free(&r);
}

static void a_half_may_be_a_list(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse(
        DATA("compress: { prune: { method: sparsegpt, pattern: 2:4 }, quantize: [ { method: gptq, "
             "scheme: w4, include: [a] }, { method: gptq, scheme: w8, include: [b] } ] }"));
    assert_int_equal(r->step_count, 1);
    assert_int_equal(r->steps[0].prunes, 1);
    assert_int_equal(r->steps[0].quants, 2);
    assert_string_equal(r->quants[1].choice.include[0], "b");
    pare_recipe_free(&r);
    REFUSE(DATA("compress: { quantize: [ { scheme: w4 }, { scheme: w8, alpha: 0.5 }, w4 ] }"),
           "r.yaml:4:66: alpha: belongs to smoothquant", "quantize: found \"w4\", expected a map");
}

static void schemes_to_choose_from_have_a_budget(void **state)
{
    (void)state;
    pare_recipe *r =
        recipe_parse(DATA("quantize: { schemes: [w4g128, w8], bits: 4.25, sensitivity: kld }"));
    const pare_mixed *mixed = &r->quants[0].mixed;
    assert_int_equal(mixed->count, 2);
    assert_int_equal(mixed->schemes[1].bits, 8);
    assert_true(mixed->bits == 4.25 && mixed->bytes == 0 && mixed->kld);
    pare_recipe_free(&r);
    r = recipe_parse(DATA("quantize: { method: gptq, schemes: [w4, w8], bytes: 1M }"));
    assert_int_equal(r->quants[0].mixed.bytes, 1 << 20);
    pare_recipe_free(&r);
    REFUSE(DATA("quantize: { schemes: [w4, w8] }"), "4:26: schemes: expected a budget beside them");
    REFUSE(DATA("quantize: { schemes: [w4, w8], bits: 5, bytes: 1M }"), "expected a budget");
    REFUSE(DATA("quantize: { schemes: [w4], bits: 5 }"), "schemes: expected a list of 2 to 16");
    REFUSE(DATA("quantize: { schemes: w4, bits: 5 }"), "schemes: expected a list of 2 to 16");
    REFUSE(DATA("quantize: { schemes: [w4, w4c], bits: 5 }"), "4:31: schemes: w4c is there twice");
    REFUSE(DATA("quantize: { schemes: [w4, w9], bits: 5 }"), "4:31: ", "w9");
    REFUSE(DATA("quantize: { scheme: w4, schemes: [w4, w8], bits: 5 }"), "scheme: beside schemes");
    REFUSE(DATA("quantize: { scheme: w4, bits: 5 }"), "4:35: bits: goes with schemes");
    REFUSE(DATA("quantize: { schemes: [w4, w8], bits: -1 }"), "bits: found \"-1\"");
}

static void scales_of_static_activations_are_read(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse(DATA("quantize: { scheme: w8a8s, scale: percentile:99.5 }"));
    assert_int_equal(r->quants[0].range, PARE_RANGE_PERCENTILE);
    assert_int_equal(r->quants[0].search, PARE_SCALE_ABSMAX);
    assert_true(r->quants[0].percentile == 99.5);
    pare_recipe_free(&r);
    r = recipe_parse(DATA("quantize: { scheme: w8a8s, scale: mse }"));
    assert_int_equal(r->quants[0].range, PARE_RANGE_MSE);
    assert_int_equal(r->quants[0].search, PARE_SCALE_MSE);
    pare_recipe_free(&r);
    REFUSE(DATA("quantize: { scheme: w8, scale: kl }"),
           "r.yaml:4:36: scale: kl is of static activations (a8s), which w8 has not");
    REFUSE(DATA("quantize: { scheme: w8a8s, scale: percentile:101 }"), "at most 100");
    REFUSE(DATA("quantize: { scheme: w8a8s, scale: \"percentile:\" }"), "a percentile is a number");
}

static void numbers_and_words_of_data_are_checked(void **state)
{
    (void)state;
    REFUSE(
        DATA("prune: { method: wanda, sparsity: 0.5, samples: 0, seq_len: x, batch: 1.5, skip: "
             "-1,\n      shuffle: 1, propagate: dens, true_sequential: yes, compute: f16, pad_id: "
             "\"5\" }"),
        "samples: found \"0\", expected a whole number from 1 up", "seq_len: found \"x\"",
        "batch: found \"1.5\"", "skip: found \"-1\"", "shuffle: found \"1\", expected true or",
        "did you mean \"dense\"?", "true_sequential: found \"yes\"", "compute \"f16\"",
        "pad_id: found \"5\"");
    REFUSE(DATA("quantize: { method: gptq, scheme: w4, damping: 0 }"), "damping: found \"0\"");
    REFUSE(DATA("quantize: { method: awq, scheme: w4, grid: 1001 }"), "grid: found 1001");
    REFUSE(DATA("quantize: { method: smoothquant, scheme: w8a8, alpha: 1.5 }"), "alpha: found");
}

static void an_eval_is_read(void **state)
{
    (void)state;
    pare_recipe *r =
        recipe_parse("model: m\ndata: { eval: e.npy, eval_labels: l.u8 }\nsteps:\n"
                     "  - eval: {}\n"
                     "  - eval: { data: own, metric: [ppl, kld], against: m, samples: 5, "
                     "seq_len: 6, skip: 7, batch: 8 }\n");
    assert_int_equal(r->step_count, 2);
    const pare_eval_step *a = &r->steps[0].eval, *b = &r->steps[1].eval;
    assert_int_equal(r->steps[0].kind, PARE_STEP_EVAL);
    assert_string_equal(a->data, "e.npy");
    assert_string_equal(a->labels, "l.u8");
    assert_int_equal(a->metrics, 0);
    assert_string_equal(b->data, "own");
    assert_null(b->labels);
    assert_int_equal(b->metrics, PARE_METRIC_PPL | PARE_METRIC_KLD);
    assert_string_equal(b->against, "m");
    assert_int_equal(b->samples * 1000 + b->seq_len * 100 + b->skip * 10 + b->batch, 5678);
    pare_recipe_free(&r);
    REFUSE(STEP("eval: { data: d, metric: [ppl, kld] }"), "r.yaml:3:30: metric: kld and cosine");
    REFUSE(STEP("eval: { data: d, metric: pl }"), "did you mean \"ppl\"?");
    REFUSE(STEP("eval: { data: d, metric: [] }"), "metric: the list is empty");
    REFUSE(STEP("eval: { data: d, metrc: ppl }"), "did you mean \"metric\"?");
}

static void recipes_made_by_hand_are_checked(void **state)
{
    (void)state;
    pare_prune_step prune = {.method = pare_prune_find("wanda"), .sparsity = 0.5};
    pare_quant_step quant = {.method = pare_quant_find("rtn")};
    pare_recipe r = {.prunes = &prune, .prune_count = 1};
    assert_ok(pare_scheme_parse("w8", &quant.scheme));
    assert_status(pare_recipe_check(&r), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "wanda needs calibration data"));
    pare_step steps[2] = {{.prunes = 1, .calibration = {.path = "c"}}, {.prune = 1, .quants = 1}};
    r.steps = steps;
    r.step_count = 1;
    assert_ok(pare_recipe_check(&r));
    r.quants = &quant;
    r.quant_count = 1;
    assert_status(pare_recipe_check(&r), PARE_ERR_ARGUMENT); /* a quantiser in no step */
    r.step_count = 2;
    assert_ok(pare_recipe_check(&r));
    steps[1].prune = 0;
    assert_status(pare_recipe_check(&r), PARE_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calibration_is_read),
        cmocka_unit_test(measuring_is_part_of_the_text),
        cmocka_unit_test(one_threshold_over_all_layers_has_one_spelling),
        cmocka_unit_test(data_that_no_method_looks_at_is_dropped),
        cmocka_unit_test(a_method_without_its_data_is_refused_in_place),
        cmocka_unit_test(an_option_of_another_method_is_refused_in_place),
        cmocka_unit_test(one_sweep_has_one_of_each),
        cmocka_unit_test(a_half_may_be_a_list),
        cmocka_unit_test(schemes_to_choose_from_have_a_budget),
        cmocka_unit_test(scales_of_static_activations_are_read),
        cmocka_unit_test(numbers_and_words_of_data_are_checked),
        cmocka_unit_test(an_eval_is_read),
        cmocka_unit_test(recipes_made_by_hand_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
