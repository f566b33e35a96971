/* test_walk_told.c - what is said of a walk, in its report and in the model that it writes. */
#include "walk_fixture.h"

#include <math.h>

static double real_of(const pare__json *root, const char *name, const char *key)
{
    double value = (double)NAN;
    (void)pare__json_real(walk_member(root, "layers", name, key), &value);
    return value;
}

/* Who is not asked for but reads the same input keeps its values but for the scales, and the report
 * says so. */
static void neighbours_that_are_excluded_take_scales(void **state)
{
    (void)state;
    static const char k[] = "model.layers.0.self_attn.k_proj.weight",
                      o[] = "model.layers.0.self_attn.o_proj.weight",
                      norm[] = "model.layers.0.input_layernorm.weight";
    walk_bench b = walk_make(NULL, walk_llama);
    assert_ok(walk_run(&b,
                       "quantize: {method: smoothquant, scheme: w8a8, exclude: ['*.k_proj.*', "
                       "'*.v_proj.*', '*.o_proj.*', '*.mlp.*']}",
                       ""));
    pare__json *root = walk_report(&b);
    assert_string_equal(pare__json_string(walk_member(root, "tensors", k, "note")), "rescaled");
    assert_string_equal(pare__json_string(walk_member(root, "tensors", norm, "note")), "rescaled");
    assert_true(pare__json_is_null(walk_member(root, "tensors", o, "note")));
    pare__json_free(&root);
    int64_t R, C, one, n;
    float *was = walk_values(b.source, k, &R, &C), *is = walk_values(b.out, k, &R, &C);
    float *before = walk_values(b.source, norm, &one, &n);
    float *after = walk_values(b.out, norm, &one, &n);
    bool some = false;
    for (int64_t c = 0; c < C; c++) {
        some = some || after[c] != before[c];
        for (int64_t r = 0; r < R; r++)
            assert_true(fabsf(is[r * C + c] * after[c] - was[r * C + c] * before[c]) <=
                        1e-5f * fabsf(was[r * C + c] * before[c]));
    }
    assert_true(some);
    free(after);
    free(before);
    free(is);
    free(was);
    walk_done(&b);
}

/* What AWQ is compared with is rounding without its scales, as GPTQ's report has it. */
static void the_plain_method_has_no_scales(void **state)
{
    (void)state;
    walk_bench b = walk_make(NULL, walk_llama);
    int scaled = 0;
    assert_ok(walk_run(&b, "quantize: {method: gptq, scheme: w4g32}", ", propagate: dense"));
    pare__json *want = walk_report(&b);
    walk_clear(&b);
    assert_ok(walk_run(&b, "quantize: {method: awq, scheme: w4g32}", ", propagate: dense"));
    pare__json *got = walk_report(&b);
    const pare__json *layers = pare__json_get(got, "layers");
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        bool one = false;
        const char *name = pare__json_string(pare__json_get(pare__json_at(layers, i), "name"));
        pare__json_bool(walk_member(got, "layers", name, "scaled"), &one);
        scaled += one;
        double plain = real_of(want, name, "error_before");
        assert_true(fabs(real_of(got, name, "error_before") - plain) <= 1e-5 * plain);
    }
    assert_true(scaled > 0);
    pare__json_free(&got);
    pare__json_free(&want);
    walk_done(&b);
}

/* Inputs of E4M3 reach its largest value, those of int8 theirs. */
static void a_static_scale_fits_the_type(void **state)
{
    (void)state;
    static const char *const steps[] = {"quantize: {method: smoothquant, scheme: w8a8s}",
                                        "quantize: {method: smoothquant, scheme: fp8a8s}"};
    walk_bench b = walk_make(NULL, walk_llama);
    double scale[2];
    for (int i = 0; i < 2; i++) {
        walk_clear(&b);
        assert_ok(walk_run(&b, steps[i], ""));
        pare__json *root = walk_report(&b);
        assert_true(pare__json_real(
            walk_member(root, "layers", "model.layers.0.self_attn.q_proj.weight", "act_scale"),
            &scale[i]));
        pare__json_free(&root);
    }
    assert_true(fabs(scale[0] * 127.5 - scale[1] * 448) <= 1e-5 * scale[0] * 127.5);
    walk_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_that_are_excluded_take_scales),
        cmocka_unit_test(the_plain_method_has_no_scales),
        cmocka_unit_test(a_static_scale_fits_the_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
