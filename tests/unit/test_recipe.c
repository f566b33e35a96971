/* test_recipe.c - recipes from YAML: defaults, every kind of error with its place, the normalised
 * text. */
#include "test.h"

#include "recipe_fixture.h"

#include "base/file.h"
#include "base/text.h"

static void an_empty_step_list_is_a_conversion(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse("model: m\nsteps: []\n");
    assert_string_equal(r->model, "m");
    assert_int_equal(r->seed, 0);
    assert_int_equal(r->prune_count + r->quant_count, 0);
    assert_null(r->output);
    pare_recipe_free(&r);
    assert_null(r);
}

static void defaults_are_the_first_words_of_the_manual(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse("model: m\nsteps:\n  - prune: { sparsity: 0.5 }\n"
                                  "  - quantize: { scheme: w4g128 }\n");
    assert_int_equal(r->prune_count, 1);
    assert_string_equal(r->prunes[0].method->name, "magnitude");
    assert_int_equal(r->prunes[0].pattern.kind, PARE_PATTERN_UNSTRUCTURED);
    assert_int_equal(r->prunes[0].scope, PARE_SCOPE_GLOBAL);
    assert_true(r->prunes[0].sparsity == 0.5);
    assert_int_equal(r->quant_count, 1);
    assert_string_equal(r->quants[0].method->name, "rtn");
    assert_int_equal(r->quants[0].search, PARE_SCALE_ABSMAX);
    assert_int_equal(r->quants[0].scheme.block_cols, 128);
    pare_recipe_free(&r);
}

static void every_key_is_read(void **state)
{
    (void)state;
    pare_recipe *r =
        recipe_parse("model: \"a: b/\"\n"
                     "seed: 18446744073709551615\n"
                     "data: { calibration: calib.npy, eval: wiki.npy }\n"
                     "steps:\n"
                     "  - prune:\n"
                     "      method: random\n"
                     "      pattern: block:16x8\n"
                     "      sparsity: 1e-1\n"
                     "      scope: layer\n"
                     "      include: \"*emb*\"\n"
                     "      exclude: [\"*q_proj*\", a.b]\n"
                     "  - quantize: { method: rtn, scheme: w8, scale: mse, exclude: [x] }\n"
                     "  - export: { to: out/, format: int-quantized, max_shard_size: 1G }\n");
    assert_string_equal(r->model, "a: b/");
    assert_true(r->seed == UINT64_MAX);
    const pare_prune_step *p = &r->prunes[0];
    assert_string_equal(p->method->name, "random");
    assert_int_equal(p->pattern.kind, PARE_PATTERN_BLOCK);
    assert_int_equal(p->pattern.block_rows, 16);
    assert_true(p->sparsity == 0.1);
    assert_int_equal(p->scope, PARE_SCOPE_LAYER);
    assert_int_equal(p->choice.includes, 1);
    assert_string_equal(p->choice.include[0], "*emb*");
    assert_int_equal(p->choice.excludes, 2);
    assert_string_equal(p->choice.exclude[1], "a.b");
    assert_int_equal(r->quants[0].search, PARE_SCALE_MSE);
    assert_string_equal(r->output, "out");
    assert_string_equal(r->format, "int-quantized");
    assert_int_equal(r->max_shard_size, (int64_t)1 << 30);
    pare_recipe_free(&r);
}

static void a_pattern_needs_no_quotes(void **state)
{
    (void)state;
    static const char *const spellings[] = {STEP("prune: { pattern: 2:4 }"),
                                            STEP("prune: { pattern: \"2:4\" }"),
                                            STEP("prune:\n      pattern: 2:4")};
    for (size_t i = 0; i < 3; i++) {
        pare_recipe *r = recipe_parse(spellings[i]);
        assert_int_equal(r->prunes[0].pattern.kind, PARE_PATTERN_NM);
        assert_int_equal(r->prunes[0].pattern.n, 2);
        assert_int_equal(r->prunes[0].pattern.m, 4);
        assert_true(r->prunes[0].sparsity == 0);
        pare_recipe_free(&r);
    }
}

static void compress_holds_both_and_shares_its_choice(void **state)
{
    (void)state;
    pare_recipe *r = recipe_parse(STEP("compress:\n"
                                       "      prune: { pattern: 2:4 }\n"
                                       "      quantize: { scheme: w4g128, include: [k] }\n"
                                       "      exclude: [e]"));
    assert_int_equal(r->prune_count, 1);
    assert_int_equal(r->quant_count, 1);
    assert_string_equal(r->prunes[0].choice.exclude[0], "e");
    assert_int_equal(r->prunes[0].choice.includes, 0);
    assert_string_equal(r->quants[0].choice.exclude[0], "e");
    assert_string_equal(r->quants[0].choice.include[0], "k");
    pare_recipe_free(&r);
    REFUSE(STEP("compress: { prune: { pattern: 2:4, include: [a] }, include: [b] }"),
           "r.yaml:3:49: include: given here and in compress");
    REFUSE(STEP("compress: { include: [b] }"),
           "r.yaml:3:15: compress: prune and quantize are both missing");
}

static void unknown_keys_name_the_nearest(void **state)
{
    (void)state;
    REFUSE("modl: m\nsteps: []\n", "r.yaml:1:1: recipe: unknown key \"modl\"",
           "did you mean \"model\"?");
    REFUSE(STEP("prune: { sparsty: 0.5 }"), "r.yaml:3:14: prune: unknown key \"sparsty\"",
           "did you mean \"sparsity\"?");
    REFUSE(STEP("qantize: { scheme: w4 }"), "r.yaml:3:5: step: unknown key \"qantize\"",
           "did you mean \"quantize\"?");
    REFUSE(STEP("export: { zzz: 1 }"),
           "3:15: export: unknown key \"zzz\", expected to, format or max_shard_size");
}

static void a_misspelt_key_is_not_missing_too(void **state)
{
    (void)state;
    REFUSE(STEP("prune: { sparsty: 0.5 }"), "sparsty");
    assert_null(strstr(pare_last_error(), "missing"));
    assert_null(strchr(pare_last_error(), '\n'));
}

static void unknown_words_name_the_nearest(void **state)
{
    (void)state;
    REFUSE(STEP("prune: { method: magnitud, sparsity: 0.5 }"),
           "r.yaml:3:22: prune method \"magnitud\"", "did you mean \"magnitude\"?");
    REFUSE(STEP("quantize: { method: rtm, scheme: w4 }"), "r.yaml:3:25: quantize method \"rtm\"",
           "did you mean \"rtn\"?");
    REFUSE(STEP("prune: { scope: globl, sparsity: 0 }"), "r.yaml:3:21: scope \"globl\"",
           "did you mean \"global\"?");
    REFUSE(STEP("prune: { pattern: unstructurd, sparsity: 0 }"),
           "r.yaml:3:23: pattern \"unstructurd\"");
    REFUSE(STEP("quantize: { scheme: w9 }"), "r.yaml:3:25: ", "w9");
    REFUSE(STEP("quantize: { scheme: w4, scale: mes }"), "r.yaml:3:36: scale \"mes\"", "mse");
    REFUSE(STEP("export: { format: dens }"), "r.yaml:3:23: format \"dens\"",
           "did you mean \"dense\"?");
    REFUSE(STEP("export: { format: h5 }"), "r.yaml:3:23: format \"h5\"", "ending");
}

static void later_words_say_so(void **state)
{
    (void)state;
    static const char *const recipes[] = {
        STEP("prune: { method: movement, sparsity: 0.5 }"),
        STEP("quantize: { method: hqq, scheme: w4 }"),
        STEP("quantize: { scheme: mxfp4 }"),
        STEP("quantize: { scheme: w4, bos_id: 1 }"),
        STEP("bench: { op: gemm }"),
        STEP("eval: { data: d, stride: 5 }"),
        STEP("export: { format: gguf }"),
    };
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        REFUSE(recipes[i], "r.yaml:3:", "not in this version");
}

static void wrong_types_are_named(void **state)
{
    (void)state;
    REFUSE("- a\n", "r.yaml:1:1: recipe: found a list, expected a map");
    REFUSE("", "r.yaml:1:1: recipe: found nothing");
    REFUSE("model: [m]\nsteps: []\n", "r.yaml:1:8: model: found a list", "sweep");
    REFUSE("model: 12\nsteps: []\n", "r.yaml:1:8: model: found 12, expected a text");
    REFUSE("model: ~\nsteps: []\n", "r.yaml:1:8: model: found ~, expected a text");
    REFUSE("model: m\nsteps: prune\n", "r.yaml:2:8: steps: found \"prune\", expected a list");
    REFUSE("model: m\nsteps:\n", "steps: found nothing, expected a list");
    REFUSE("model: m\nseed: -1\nsteps: []\n", "r.yaml:2:7: seed: found \"-1\"");
    REFUSE("model: m\nseed: \"1\"\nsteps: []\n", "r.yaml:2:7: seed: found \"1\"", "without quotes");
    REFUSE("model: m\nseed: 1.5\nsteps: []\n", "r.yaml:2:7: seed: found \"1.5\"");
    REFUSE("model: m\nseed: 18446744073709551616\nsteps: []\n", "r.yaml:2:7: seed");
    REFUSE("model: m\ndata: x\nsteps: []\n", "r.yaml:2:7: data: found \"x\", expected a map");
    REFUSE(STEP("prune"), "r.yaml:3:5: step: found \"prune\", expected a map");
    REFUSE(STEP("prune:"), "prune: found nothing, expected a map");
    REFUSE(STEP("prune: { sparsity: 0.5, include: { a: b } }"), "include: found a map");
    REFUSE(STEP("prune: { sparsity: 0.5, include: [[a]] }"), "r.yaml:3:39: include: found a list");
    REFUSE(STEP("prune: { sparsity: 0.5, method: true }"), "r.yaml:3:37: method: found true");
    REFUSE(STEP("export: { max_shard_size: 5X }"), "r.yaml:3:31: max_shard_size: found \"5X\"");
    REFUSE(STEP("export: { max_shard_size: 0 }"), "r.yaml:3:31: max_shard_size: found \"0\"");
}

static void sparsity_is_a_fraction(void **state)
{
    (void)state;
    REFUSE(STEP("prune: { sparsity: 50% }"), "r.yaml:3:24: sparsity: found \"50%\"",
           "did you mean 0.5?");
    REFUSE(STEP("prune: { sparsity: 50 }"), "r.yaml:3:24: sparsity: found \"50\"",
           "did you mean 0.5?");
    REFUSE(STEP("prune: { sparsity: \"0.5\" }"), "found \"0.5\"",
           "did you mean 0.5 without quotes?");
    REFUSE(STEP("prune: { sparsity: -0.1 }"), "found \"-0.1\", expected a number from 0 to 1");
    REFUSE(STEP("prune: { sparsity: .nan }"), "found \".nan\", expected a number from 0 to 1");
    REFUSE(STEP("prune: { sparsity: [0.5, 0.7] }"), "r.yaml:3:24: sparsity: found a list",
           "sweep files");
    REFUSE(STEP("prune: {}"), "r.yaml:3:12: prune: sparsity is missing");
    REFUSE(STEP("prune: { pattern: block:4x4 }"), "prune: sparsity is missing");
    REFUSE(STEP("prune: { pattern: 2:4, sparsity: 0.5 }"),
           "r.yaml:3:38: sparsity: beside pattern 2:4");
    static const char *const good[] = {
        STEP("prune: { sparsity: 0 }"), STEP("prune: { sparsity: 1 }"),
        STEP("prune: { sparsity: .5 }"), STEP("prune: { sparsity: 5.e-1 }")};
    for (size_t i = 0; i < 4; i++) {
        pare_recipe *r = recipe_parse(good[i]);
        pare_recipe_free(&r);
    }
}

static void the_order_of_steps_is_checked(void **state)
{
    (void)state;
    REFUSE("model: m\nsteps:\n  - quantize: { scheme: w4 }\n  - prune: { sparsity: 0.5 }\n",
           "r.yaml:4:12: prune: comes after quantize");
    REFUSE("model: m\nsteps:\n  - export: { to: a }\n  - quantize: { scheme: w4 }\n",
           "r.yaml:4:5: step: comes after export");
    REFUSE("model: m\nsteps:\n  - export: { to: a }\n  - export: { to: b }\n",
           "r.yaml:4:5: export: a second one");
    REFUSE("model: m\nsteps:\n  - { prune: { sparsity: 0.5 }, quantize: { scheme: w4 } }\n",
           "r.yaml:3:5: step: found 2 keys");
}

static void missing_and_repeated_keys_are_found(void **state)
{
    (void)state;
    REFUSE("{}", "model is missing", "steps is missing");
    REFUSE(STEP("quantize: {}"), "quantize: scheme is missing");
    REFUSE("model: a\nmodel: b\nsteps: []\n",
           "r.yaml:2:1: recipe: model is given twice, first on line 1");
}

static void all_errors_come_at_once_in_the_order_of_the_file(void **state)
{
    (void)state;
    REFUSE("model: 5\nsed: 1\nsteps:\n"
           "  - prune: { method: magnitud, sparsity: 50%, typo: 1 }\n"
           "  - quantize: { scheme: w4g128q, scale: kl }\n"
           "  - exprt: { to: x }\n",
           "r.yaml:1:8: ", "\nr.yaml:2:1: ", "\nr.yaml:4:22: ", "\nr.yaml:4:42: ",
           "\nr.yaml:4:47: ", "\nr.yaml:5:25: ", "\nr.yaml:5:41: ", "\nr.yaml:6:5: ");
    size_t lines = 1;
    for (const char *c = pare_last_error(); *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 8);
}

static void only_the_first_fifty_errors_are_listed(void **state)
{
    (void)state;
    pare__text text = {0};
    char *recipe_text = NULL;
    pare_recipe *recipe = NULL;
    pare__text_add(&text, "model: m\nsteps: []\n");
    for (int i = 0; i < 70; i++)
        pare__text_add(&text, "an_unknown_key_that_is_rather_long_%d: 1\n", i);
    assert_ok(pare__text_take(&text, &recipe_text));
    assert_status(pare_recipe_parse(recipe_text, strlen(recipe_text), "r.yaml", &recipe),
                  PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "r.yaml:52:1: "));
    assert_null(strstr(pare_last_error(), "r.yaml:53:1: "));
    assert_non_null(strstr(pare_last_error(), "\nr.yaml: and 20 more"));
    free(recipe_text);
}

static void a_syntax_error_has_its_place(void **state)
{
    (void)state;
    REFUSE("model: m\nsteps: [\n", "r.yaml:");
    REFUSE("model: *m\nsteps: []\n", "r.yaml:1:");
    REFUSE(STEP("prune: { sparsity: 0.5, include: [*emb*] }"), "r.yaml:3:", "quotes");
    REFUSE(STEP("prune: { sparsity: 0.5, include: *.mlp.* }"), "r.yaml:3:", "quotes");
    REFUSE(STEP("prune: { sparsity: 0.5, include: [*emb] }"), "r.yaml:3:39: ", "quotes");
    REFUSE("model: \"a\tb\\e[31m\"\nseed: \"x\\ny\"\nsteps: []\n", "seed: found \"x?y\"");
}

/* ---- the normalised text --------------------------------------------------------------------- */

static char *text_of(const char *recipe_text)
{
    char *text = NULL;
    pare_recipe *r = recipe_parse(recipe_text);
    assert_ok(pare_recipe_text(r, &text));
    pare_recipe_free(&r);
    return text;
}

static void the_text_has_defaults_and_no_paths(void **state)
{
    (void)state;
    char *text =
        text_of("steps: [ { prune: { sparsity: 0.30 } }, { quantize: { scheme: w4g128 } },\n"
                "  { export: { to: secret.h5, max_shard_size: 5G } } ]\nmodel: hidden/\n");
    assert_string_equal(text, "seed: 0\n"
                              "steps:\n"
                              "  - prune:\n"
                              "      method: magnitude\n"
                              "      pattern: \"unstructured\"\n"
                              "      sparsity: 0.3\n"
                              "      scope: global\n"
                              "      include: []\n"
                              "      exclude: []\n"
                              "  - quantize:\n"
                              "      method: rtn\n"
                              "      scheme: w4g128\n"
                              "      scale: absmax\n"
                              "      include: []\n"
                              "      exclude: []\n");
    free(text);
}

static void the_text_of_steps_with_data_has_no_paths_of_theirs(void **state)
{
    (void)state;
    char *text = text_of(
        "model: m\ndata: { calibration: secret, eval: e.npy }\nsteps:\n"
        "  - compress: { prune: { method: sparsegpt, pattern: 2:4 }, quantize: { method: gptq, "
        "scheme: w4g128 }, seq_len: 64, cache: secret.h5 }\n"
        "  - eval: { metric: ppl }\n");
    assert_string_equal(text, "seed: 0\n"
                              "steps:\n"
                              "  - compress:\n"
                              "      prune:\n"
                              "        method: sparsegpt\n"
                              "        pattern: \"2:4\"\n"
                              "        damping: 0.01\n"
                              "        include: []\n"
                              "        exclude: []\n"
                              "      quantize:\n"
                              "        method: gptq\n"
                              "        scheme: w4g128\n"
                              "        scale: absmax\n"
                              "        damping: 0.01\n"
                              "        act_order: false\n"
                              "        include: []\n"
                              "        exclude: []\n"
                              "      samples: 128\n"
                              "      seq_len: 64\n"
                              "      skip: 0\n"
                              "      shuffle: false\n"
                              "      propagate: compressed\n"
                              "      true_sequential: true\n"
                              "      compute: f32\n"
                              "  - eval:\n"
                              "      data: \"e.npy\"\n"
                              "      metric: [ppl]\n"
                              "      skip: 0\n");
    free(text);
}

static void the_text_reads_back_as_the_same_recipe(void **state)
{
    (void)state;
    static const char *const recipes[] = {
        "model: m\nsteps: []\n",
        "model: m\nseed: 18446744073709551615\nsteps:\n  - prune: { method: random, pattern: "
        "block:3x5, "
        "sparsity: 0.1234567890123456789, scope: layer, include: [\"a\\\"\\\\\\x01*\", \"ü\", "
        "\"\\x92\\u2028\\U0001F600\\uFEFF\\x85\"] }\n",
        "model: m\nsteps:\n  - prune: { pattern: 4:8, exclude: [\"*k*\", \"[0-9]\"] }\n"
        "  - quantize: { scheme: w8, scale: mse, include: [\"*.v_proj.*\"] }\n"
        "  - quantize: { scheme: nf4d, exclude: [\"*.v_proj.*\"] }\n"
        "  - export: { to: x, format: dense, max_shard_size: 123456 }\n",
        "model: m\nsteps:\n  - prune: { sparsity: 1e-300 }\n  - export: { max_shard_size: 2M }\n",
        "model: m\ndata: { calibration: other }\narch: \"cnn:a\"\nsteps:\n"
        "  - prune: { pattern: head, sparsity: 0.25, multiple: 2, method: taylor }\n"
        "  - prune: { pattern: layer, sparsity: 0.25 }\n"
        "  - prune: { method: wanda, sparsity: 0.5, budget: loss, propagate: dense, batch: 3 }\n"
        "  - eval: { data: \"a b\", metric: [kld, top1], against: \"x: y\", samples: 3 }\n"
        "  - quantize: { method: smoothquant, scheme: w8a8s, scale: kl, alpha: 0.3, include: [a] "
        "}\n"
        "  - compress: { quantize: [ { method: gptq, scheme: w4, include: [b, c] }, { scheme: w8, "
        "include: [d] } ], samples: 3 }\n"
        "  - quantize: { method: awq, schemes: [w4, w8g32], bytes: 5M, clip: false, exclude: [a] "
        "}\n",
    };
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char *first = text_of(recipes[i]);
        pare__text again = {0};
        char *with_model = NULL;
        pare__text_add(&again, "model: other\ndata: { calibration: other }\n%s", first);
        assert_ok(pare__text_take(&again, &with_model));
        pare_recipe *a = recipe_parse(recipes[i]), *b = recipe_parse(with_model);
        char *second = text_of(with_model);
        assert_string_equal(first, second);
        assert_true(a->seed == b->seed);
        assert_int_equal(a->prune_count, b->prune_count);
        for (size_t p = 0; p < a->prune_count; p++) {
            assert_true(a->prunes[p].sparsity == b->prunes[p].sparsity);
            assert_ptr_equal(a->prunes[p].method, b->prunes[p].method);
            assert_int_equal(a->prunes[p].scope, b->prunes[p].scope);
            assert_memory_equal(&a->prunes[p].pattern, &b->prunes[p].pattern,
                                sizeof a->prunes[p].pattern);
            assert_int_equal(a->prunes[p].choice.includes, b->prunes[p].choice.includes);
            for (size_t k = 0; k < a->prunes[p].choice.includes; k++)
                assert_string_equal(a->prunes[p].choice.include[k], b->prunes[p].choice.include[k]);
        }
        assert_int_equal(a->quant_count, b->quant_count);
        assert_int_equal(a->max_shard_size, b->max_shard_size);
        pare_recipe_free(&a);
        pare_recipe_free(&b);
        free(first);
        free(second);
        free(with_model);
    }
}

static void a_recipe_is_read_from_its_file(void **state)
{
    (void)state;
    char *folder = test_folder_make(), *path = NULL;
    pare_recipe *recipe = NULL;
    assert_ok(pare__join(folder, "r.yaml", &path));
    assert_status(pare_recipe_read(path, &recipe), PARE_ERR_NOT_FOUND);
    assert_ok(pare__file_save(path, "model: m\nsteps: []\n", 19));
    assert_ok(pare_recipe_read(path, &recipe));
    pare_recipe_free(&recipe);
    assert_ok(pare__file_save(path, "model: m\nsteps: 1\n", 18));
    assert_status(pare_recipe_read(path, &recipe), PARE_ERR_ARGUMENT);
    assert_int_equal(strncmp(pare_last_error(), path, strlen(path)), 0);
    free(path);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_step_list_is_a_conversion),
        cmocka_unit_test(defaults_are_the_first_words_of_the_manual),
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(a_pattern_needs_no_quotes),
        cmocka_unit_test(compress_holds_both_and_shares_its_choice),
        cmocka_unit_test(unknown_keys_name_the_nearest),
        cmocka_unit_test(a_misspelt_key_is_not_missing_too),
        cmocka_unit_test(unknown_words_name_the_nearest),
        cmocka_unit_test(later_words_say_so),
        cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(sparsity_is_a_fraction),
        cmocka_unit_test(the_order_of_steps_is_checked),
        cmocka_unit_test(missing_and_repeated_keys_are_found),
        cmocka_unit_test(all_errors_come_at_once_in_the_order_of_the_file),
        cmocka_unit_test(only_the_first_fifty_errors_are_listed),
        cmocka_unit_test(a_syntax_error_has_its_place),
        cmocka_unit_test(the_text_has_defaults_and_no_paths),
        cmocka_unit_test(the_text_of_steps_with_data_has_no_paths_of_theirs),
        cmocka_unit_test(the_text_reads_back_as_the_same_recipe),
        cmocka_unit_test(a_recipe_is_read_from_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
