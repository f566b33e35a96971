/* test_arch_rotary.c - rotary tables: the frequencies of every scaling rule, and what they depend
 * on.
 */
#include "test.h"

#include "model/rotary.h"

#include <math.h>

#define PAIRS 4 /* heads of 8 */

static pare_backend *cpu;

static int set_up(void **unused)
{
    (void)unused;
    assert_ok(pare_cpu_create(NULL, &cpu));
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    pare_backend_free(&cpu);
    return 0;
}

/* One layer with theta 100 and this rope_scaling and length. */
static pare_model *make(const char *scaling, int longest)
{
    char config[1024];
    pare_model *model;
    snprintf(config, sizeof config,
             "{\"model_type\": \"llama\", \"hidden_size\": 48, \"intermediate_size\": 80, "
             "\"num_hidden_layers\": 1, \"num_attention_heads\": 6, \"vocab_size\": 61, "
             "\"rope_theta\": 100, \"max_position_embeddings\": %d, \"rope_scaling\": %s}",
             longest, scaling);
    assert_ok(pare_model_create(&(pare_model_options){.config = config}, &model));
    model->be = cpu;
    return model;
}

/* Whether the tables for rows of T tokens are those of these frequencies. */
static void check(pare_model *model, int64_t T, const double *frequency, double scale)
{
    pare_tensor cosines, sines;
    assert_ok(pare__rotary_tables(model, T, &cosines, &sines));
    assert_int_equal(cosines.shape[1], PAIRS);
    assert_int_equal(sines.shape[1], PAIRS);
    assert_true(cosines.shape[0] >= T);
    for (int64_t t = 0; t < T; t++)
        for (int i = 0; i < PAIRS; i++) {
            double angle = (double)t * frequency[i];
            double c = scale * cos(angle), s = scale * sin(angle);
            double x = (double)((const float *)cosines.data)[t * PAIRS + i];
            double y = (double)((const float *)sines.data)[t * PAIRS + i];
            if (fabs(x - c) > 2e-5 || fabs(y - s) > 2e-5)
                fail_msg("token %lld, pair %d: %g, %g, not %g, %g", (long long)t, i, x, y, c, s);
        }
}

/* Frequencies to seven digits, from the rules' definitions with theta 100. */
static void every_rule_has_the_frequencies_of_its_definition(void **unused)
{
    (void)unused;
    static const struct {
        const char *scaling;
        int longest, T;
        double frequency[PAIRS], scale;
    } cases[] = {
        {"null", 64, 40, {1, 0.31622777, 0.1, 0.031622777}, 1},
        {"{}", 64, 40, {1, 0.31622777, 0.1, 0.031622777}, 1},
        {"{\"rope_type\": \"linear\", \"factor\": 4}",
         64,
         40,
         {0.25, 0.079056942, 0.025, 0.0079056942},
         1},
        {"{\"rope_type\": \"dynamic\", \"factor\": 4}",
         16,
         40,
         {1, 0.1653106, 0.02732759, 0.004517539},
         1},
        {"{\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 16, "
         "\"beta_fast\": 4, \"beta_slow\": 0.1}",
         64,
         40,
         {1, 0.2371708, 0.05, 0.0079056942},
         1.138629},
        {"{\"type\": \"longrope\", \"short_factor\": [1, 1.1, 1.5, 2], \"long_factor\": [1, 2, 5, "
         "9], \"original_max_position_embeddings\": 16}",
         64,
         40,
         {1, 0.15811388, 0.02, 0.0035136418},
         1.224745},
        {"{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 0.1, "
         "\"high_freq_factor\": 20, \"original_max_position_embeddings\": 16}",
         64,
         40,
         {0.2325713, 0.04933485, 0.01317998, 0.003952847},
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_model *model = make(cases[i].scaling, cases[i].longest);
        assert_ok(pare__rotary_prepare(model, cases[i].T));
        check(model, cases[i].T, cases[i].frequency, cases[i].scale);
        pare_model_free(&model);
    }
}

static void tables_depend_on_the_length_where_the_rule_does(void **unused)
{
    (void)unused;
    static const double plain[] = {1, 0.31622777, 0.1, 0.031622777};
    static const double stretched[] = {1, 0.1653106, 0.02732759, 0.004517539};
    static const double near[] = {1, 0.28747979, 0.066666667, 0.015811388};
    static const double far[] = {1, 0.15811388, 0.02, 0.0035136418};
    pare_model *model = make("{\"rope_type\": \"dynamic\", \"factor\": 4}", 16);
    assert_ok(pare__rotary_prepare(model, 40));
    check(model, 40, stretched, 1);
    check(model, 16, plain, 1);
    check(model, 40, stretched, 1);
    assert_ok(pare__rotary_prepare(model, 8));
    check(model, 8, plain, 1);
    check(model, 40, stretched, 1); /* memory stays */
    pare_model_free(&model);
    model = make("{\"type\": \"longrope\", \"short_factor\": [1, 1.1, 1.5, 2], \"long_factor\": "
                 "[1, 2, 5, 9], \"original_max_position_embeddings\": 16, \"attention_factor\": 1}",
                 64);
    assert_ok(pare__rotary_prepare(model, 40));
    check(model, 17, far, 1);
    check(model, 16, near, 1);
    pare_model_free(&model);
}

static void a_prepared_length_grows(void **unused)
{
    (void)unused;
    static const double plain[] = {1, 0.31622777, 0.1, 0.031622777};
    pare_model *model = make("null", 64);
    assert_int_equal(pare__rotary_bytes(model, 10), 2 * 10 * PAIRS * 4);
    assert_ok(pare__rotary_prepare(model, 3));
    check(model, 3, plain, 1);
    assert_ok(pare__rotary_prepare(model, 64));
    check(model, 64, plain, 1);
    pare_model_free(&model);
}

static void a_stretched_model_takes_longer_rows(void **unused)
{
    (void)unused;
    static const struct {
        const char *scaling;
        int longest, reach;
    } cases[] = {
        {"null", 64, 64},
        {"{\"rope_type\": \"dynamic\", \"factor\": 4}", 16, 64},
        {"{\"rope_type\": \"yarn\", \"factor\": 4}", 16, 64},
        {"{\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 16}", 64,
         64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pare_model *model = make(cases[i].scaling, cases[i].longest);
        assert_int_equal(pare_model_facts_of(model)->max_length, cases[i].reach);
        pare_model_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_has_the_frequencies_of_its_definition),
        cmocka_unit_test(tables_depend_on_the_length_where_the_rule_does),
        cmocka_unit_test(a_prepared_length_grows),
        cmocka_unit_test(a_stretched_model_takes_longer_rows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
