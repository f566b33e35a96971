/* test_survey.c - what is decided by measuring: budgets are held, the choice is the best of all
 * there are, the output is what was chosen, a run that was cut does not measure twice. */
#include "train_fixture.h"

#include "checkpoint_fixture.h"

#include "far_device.h"

#include "pare/run.h"

#include "engine/learn.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>

static const char llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 32, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, "
    "\"tie_word_embeddings\": true}";
static const char resnet[] = "resnet8-tiny:in=1,size=8,classes=4";

#define MODEL "model.layers.0."
enum { MOST_LAYERS = 16, MOST_OPTIONS = 8 };

typedef struct bench {
    char *folder, *source, *out;
    const char *data;
    pare_run_options options;
    pare_report *report;
    volatile int stop;
    int surveyed; /* runs of the whole model seen */
    int stop_at;  /* of them; 0: never */
    bool stop_walking;
} bench;

/* ---- models, recipes ------------------------------------------------------------------------- */

static void write_model(const char *arch, const char *config, const char *path, const char *odd,
                        float factor)
{
    fixture_checkpoint(&(checkpoint_fixture){arch, config, 5, odd, factor}, path);
}

static bench make(const char *arch, const char *config)
{
    bench b = {.folder = test_folder_make(), .options = {.threads = 1, .device = "cpu"}};
    assert_ok(pare__join(b.folder, "in.h5", &b.source));
    assert_ok(pare__join(b.folder, "out.h5", &b.out));
    write_model(arch, config, b.source, NULL, 1);
    b.data =
        config ? fixture_tokens(b.folder, 24 * 16 + 1, 32) : fixture_images(b.folder, 24, true);
    return b;
}

static void done(bench *b)
{
    pare_report_free(&b->report);
    test_folder_remove(b->folder);
    free(b->source);
    free(b->out);
}

static pare_status go(bench *b, const char *step, bool plan)
{
    char text[2000];
    pare_recipe *recipe = NULL;
    int n = snprintf(text, sizeof text,
                     "model: %s\nsteps:\n  - compress: {%s, data: %s%s, samples: 24}\n  - export: "
                     "{to: %s}\n",
                     b->source, step, b->data, strstr(b->data, "tokens.u16") ? ", seq_len: 16" : "",
                     b->out);
    assert_true(n > 0 && (size_t)n < sizeof text);
    pare_report_free(&b->report);
    assert_ok(pare_recipe_parse(text, (size_t)n, "recipe", &recipe));
    pare_status status = plan ? pare_plan(recipe, &b->options, &b->report)
                              : pare_run(recipe, &b->options, &b->report);
    pare_recipe_free(&recipe);
    return status;
}

static pare_status run(bench *b, const char *step)
{
    return go(b, step, false);
}

/* "<output><ending>", in static memory. */
static const char *beside(const bench *b, const char *ending)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s%s", b->out, ending);
    return path;
}

static void clear(const bench *b)
{
    static const char *const endings[] = {"", ".walk", ".part", ".journal", ".survey.json"};
    for (int i = 0; i < 5; i++)
        assert_ok(pare__remove_tree(beside(b, endings[i])));
}

static void nothing_is_left_beside(const bench *b)
{
    assert_false(pare__exists(beside(b, ".survey.json")));
    assert_false(pare__exists(beside(b, ".survey.h5")));
    assert_false(pare__exists(beside(b, ".survey.h5.walk")));
    assert_false(pare__exists(beside(b, ".walk")));
    assert_false(pare__exists(beside(b, ".part")));
}

/* ---- what the report says -------------------------------------------------------------------- */

typedef struct layer {
    char name[100], scheme[40];
    int64_t weights, choice;
    double sparsity, bits, harm[MOST_OPTIONS];
} layer;

typedef struct survey {
    layer layers[MOST_LAYERS];
    size_t count, options;
    int64_t measured, evaluations;
} survey;

static double real_of(const pare__json *object, const char *key)
{
    double value = NAN;
    return pare__json_real(pare__json_get(object, key), &value) ? value : (double)NAN;
}

static int64_t int_of(const pare__json *object, const char *key)
{
    return (int64_t)real_of(object, key);
}

static void look_at_layer(const pare__json *from, layer *to)
{
    const pare__json *harm = pare__json_get(from, "harm");
    const char *scheme = pare__json_string(pare__json_get(from, "scheme"));
    snprintf(to->name, sizeof to->name, "%s", pare__json_string(pare__json_get(from, "name")));
    snprintf(to->scheme, sizeof to->scheme, "%s", scheme ? scheme : "");
    to->weights = int_of(from, "weights");
    to->choice = scheme ? int_of(from, "choice") : -1;
    to->sparsity = real_of(from, "sparsity");
    to->bits = real_of(from, "bits_per_weight");
    for (size_t i = 0; i < pare__json_size(harm); i++) {
        assert_true(pare__json_real(pare__json_at(harm, i), &to->harm[i]));
        assert_true(isfinite(to->harm[i]) && to->harm[i] >= 0);
    }
}

static survey look(const bench *b)
{
    char *text = NULL;
    pare__json *root = NULL;
    survey s = {.count = 0};
    assert_ok(pare_report_json(b->report, &text));
    assert_ok(pare__json_parse(text, strlen(text), "report", &root));
    free(text);
    const pare__json *before = pare__json_get(root, "surveying"),
                     *question = pare__json_at(pare__json_get(root, "survey"), 0),
                     *layers = pare__json_get(question, "layers");
    s.measured = int_of(before, "layers");
    s.evaluations = int_of(before, "evaluations");
    s.options = pare__json_size(pare__json_get(question, "options"));
    s.count = pare__json_size(layers);
    assert_true(s.count <= MOST_LAYERS && s.options <= MOST_OPTIONS);
    for (size_t i = 0; i < s.count; i++)
        look_at_layer(pare__json_at(layers, i), &s.layers[i]);
    pare__json_free(&root);
    return s;
}

static const layer *find(const survey *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->layers[i].name, name) == 0)
            return &s->layers[i];
    fail_msg("%s was not surveyed", name);
    return NULL;
}

/* Stored bits of the layers in a file; the schemes are those that the report names. */
static int64_t stored_bits(const char *path, const survey *s)
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
static double least_harm(const survey *s, double budget)
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

static double sum_of_harm(const survey *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += s->layers[l].harm[s->layers[l].choice];
    return sum;
}

static double weights_of(const survey *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += (double)s->layers[l].weights;
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
    bench b = make(NULL, llama);
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        clear(&b);
        assert_ok(run(&b, jobs[j].step));
        survey s = look(&b);
        assert_int_equal(s.count, 7);
        assert_int_equal(s.options, 3);
        assert_int_equal(s.measured, 7);
        assert_int_equal(s.evaluations, jobs[j].evaluations);
        double budget = jobs[j].bytes ? (double)jobs[j].bytes * 8 : jobs[j].bits * weights_of(&s);
        int64_t stored = stored_bits(b.out, &s);
        assert_true((double)stored <= budget);
        assert_true((double)stored > 0.9 * budget);
        assert_true(sum_of_harm(&s) <= least_harm(&s, budget) * (1 + 1e-12));
        for (size_t l = 0; l < s.count; l++) /* more bits, less harm */
            assert_true(s.layers[l].harm[0] > s.layers[l].harm[2]);
        nothing_is_left_beside(&b);
    }
    done(&b);
}

static void a_budget_that_nothing_fits_is_refused_first(void **state)
{
    (void)state;
    bench b = make(NULL, llama);
    const char *step =
        "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 2.5, sensitivity: output}";
    assert_status(run(&b, step), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "the least is 3.000"));
    assert_status(go(&b, step, true), PARE_ERR_ARGUMENT);
    assert_status(
        run(&b,
            "quantize: {method: rtn, schemes: [w2g32, w3g32], bytes: 1000, sensitivity: output}"),
        PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "the least is 3456 bytes"));
    nothing_is_left_beside(&b);
    b.options.memory = 1 << 20;
    assert_status(
        run(&b, "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: kld}"),
        PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "it needs"));
    b.options.memory = 0;
    nothing_is_left_beside(&b);
    FILE *file = fopen(b.out, "wb");
    fclose(file);
    assert_status(
        run(&b, "quantize: {method: rtn, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: output}"),
        PARE_ERR_EXISTS);
    nothing_is_left_beside(&b);
    done(&b);
}

/* A table of vectors is measured as if its inputs were white. */
static void what_no_site_has_is_in_the_budget(void **state)
{
    (void)state;
    bench b = make(NULL, llama);
    assert_ok(run(&b, "quantize: {method: gptq, schemes: [w2g32, w3g32, w4g32], bits: 4.1, "
                      "sensitivity: output, include: "
                      "['*embed*', '*mlp*']}"));
    survey s = look(&b);
    assert_int_equal(s.count, 4);
    assert_true((double)stored_bits(b.out, &s) <= 4.1 * weights_of(&s));
    assert_true(sum_of_harm(&s) <= least_harm(&s, 4.1 * weights_of(&s)) * (1 + 1e-12));
    assert_true(find(&s, "model.embed_tokens.weight")->harm[0] > 0.01);
    done(&b);
}

static void a_plan_measures_nothing_and_says_what_comes(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: rtn, schemes: [w2g32, w3g32, w4g32], bits: 4, sensitivity: kld}";
    bench b = make(NULL, llama);
    char *text = NULL;
    assert_ok(go(&b, step, true));
    survey s = look(&b);
    assert_int_equal(s.count, 0);
    assert_int_equal(s.measured, 7);
    assert_int_equal(s.evaluations, 22);
    assert_ok(pare_report_text(b.report, &text));
    assert_non_null(strstr(text, "a survey comes first:"));
    assert_non_null(strstr(text, "7 layers measured, 22 runs of the whole model"));
    free(text);
    nothing_is_left_beside(&b);
    assert_ok(run(&b, step));
    assert_ok(pare_report_text(b.report, &text));
    assert_non_null(strstr(text, "bits, decided by measuring: KL divergence"));
    assert_non_null(strstr(text, "bits a weight over these layers, scales included"));
    assert_non_null(strstr(text, "surveyed before it:"));
    free(text);
    done(&b);
}

/* ---- prunings -------------------------------------------------------------------------------- */

static double mean_sparsity(const survey *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += s->layers[l].sparsity * (double)s->layers[l].weights;
    return sum / weights_of(s);
}

static int64_t zeros_of(const char *path, const layer *l)
{
    pare_store *store = NULL;
    pare_backend *be = NULL;
    int64_t zeros = 0;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_store_open(path, &store));
    int64_t i = pare_store_find(store, l->name);
    const pare_entry *e = pare_store_entry(store, i);
    float *values = malloc((size_t)l->weights * sizeof *values);
    void *scratch = malloc((size_t)pare_store_scratch(store, i, e->rows) + 1);
    assert_ok(pare_store_read_values(store, be, i, 0, e->rows, values, scratch));
    for (int64_t n = 0; n < l->weights; n++)
        zeros += values[n] == 0;
    free(scratch);
    free(values);
    pare_store_close(&store);
    pare_backend_free(&be);
    return zeros;
}

static void outliers_keep_more(void **state)
{
    (void)state;
    const char *odd = MODEL "mlp.up_proj.weight";
    bench b = make(NULL, llama);
    write_model(NULL, llama, b.source, odd, 200);
    assert_ok(run(&b, "prune: {method: wanda, sparsity: 0.5, budget: owl}"));
    survey s = look(&b);
    assert_int_equal(s.count, 7);
    assert_true(fabs(mean_sparsity(&s) - 0.5) < 1e-9);
    double least = 1;
    for (size_t l = 0; l < s.count; l++) {
        double share = (double)zeros_of(b.out, &s.layers[l]) / (double)s.layers[l].weights;
        assert_true(fabs(share - s.layers[l].sparsity) <= 0.5 / 32 + 1e-9);
        assert_true(fabs(s.layers[l].sparsity - 0.5) <= 0.08 + 1e-9);
        least = fmin(least, s.layers[l].sparsity);
    }
    assert_true(find(&s, odd)->sparsity <= least);
    assert_true(find(&s, odd)->sparsity < 0.46);
    assert_true(find(&s, odd)->harm[0] > 0.03);
    nothing_is_left_beside(&b);
    done(&b);
}

static void losses_are_the_least_of_that_mean(void **state)
{
    (void)state;
    bench b = make(resnet, NULL);
    assert_ok(run(&b, "prune: {method: wanda, sparsity: 0.6, budget: loss}"));
    survey s = look(&b);
    double harm = 0, uniform = 0;
    assert_int_equal(s.options, 5);
    assert_true(mean_sparsity(&s) >= 0.6 - 1e-6);
    for (size_t l = 0; l < s.count; l++) {
        int k = (int)lround((s.layers[l].sparsity - 0.4) / 0.1);
        assert_true(k >= 0 && k < 5);
        harm += s.layers[l].harm[k];
        uniform += s.layers[l].harm[2];
    }
    assert_true(harm <= uniform);
    done(&b);
}

/* Both at once: every layer pruned and quantised by what was decided of it. */
static void both_are_decided_together(void **state)
{
    (void)state;
    bench b = make(NULL, llama);
    assert_ok(run(&b, "prune: {method: sparsegpt, sparsity: 0.5, budget: owl}, quantize: {method: "
                      "gptq, schemes: [w3g32, w4g32], bits: 4.5, sensitivity: output}"));
    survey s = look(&b);
    assert_true(fabs(mean_sparsity(&s) - 0.5) < 1e-9);
    for (size_t l = 0; l < s.count; l++)
        assert_true((double)zeros_of(b.out, &s.layers[l]) >=
                    (s.layers[l].sparsity - 0.03) * (double)s.layers[l].weights);
    done(&b);
}

/* ---- a run that is cut ----------------------------------------------------------------------- */

static void watch(void *user, const char *phase, double share, double total)
{
    bench *b = user;
    (void)share, (void)total;
    b->surveyed += strcmp(phase, "survey") == 0;
    if ((b->stop_at && b->surveyed >= b->stop_at) ||
        (b->stop_walking && strncmp(phase, "block", 5) == 0))
        b->stop = 1;
}

static void cut_it_does_not_measure_twice(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: gptq, schemes: [w2g32, w3g32, w4g32], bits: 4, sensitivity: kld}";
    bench b = make(NULL, llama);
    int64_t size, again;
    char *want = NULL, *got = NULL;
    b.options.progress = (pare_progress){watch, &b, NULL};
    b.options.cancel = &b.stop;
    assert_ok(run(&b, step));
    int whole = b.surveyed;
    assert_int_equal(whole, 22);
    assert_ok(pare__file_load(b.out, 1 << 26, &want, &size));
    clear(&b);
    b.surveyed = 0;
    b.stop_at = 9; /* of the model as it is, two layers, and two options of the third */
    assert_status(run(&b, step), PARE_ERR_INTERRUPTED);
    assert_non_null(strstr(pare_last_error(), "survey.json, the same command continues"));
    assert_true(pare__exists(beside(&b, ".survey.json")));
    b.stop = b.surveyed = b.stop_at = 0;
    b.stop_walking = true;
    assert_status(run(&b, step), PARE_ERR_INTERRUPTED); /* in the walk after it */
    assert_true(b.surveyed > 0 && b.surveyed <= whole - 6);
    b.stop = b.surveyed = 0;
    b.stop_walking = false;
    assert_ok(run(&b, step));
    assert_int_equal(b.surveyed, 0);
    assert_int_equal(look(&b).measured, 0);
    assert_ok(pare__file_load(b.out, 1 << 26, &got, &again));
    assert_int_equal(size, again);
    assert_memory_equal(got, want, (size_t)size);
    nothing_is_left_beside(&b);
    free(got);
    free(want);
    done(&b);
}

static void a_damaged_file_is_measured_again(void **state)
{
    (void)state;
    const char *step =
        "quantize: {method: gptq, schemes: [w2g32, w3g32], bits: 3.5, sensitivity: output}";
    static const char *const texts[] = {"{ \"key\"", "{\"key\": \"?\", \"survey\": []}", "[]", ""};
    bench b = make(NULL, llama);
    for (int i = 0; i < 4; i++) {
        clear(&b);
        FILE *file = fopen(beside(&b, ".survey.json"), "wb");
        assert_true(fputs(texts[i], file) >= 0);
        fclose(file);
        assert_ok(run(&b, step));
        assert_int_equal(look(&b).measured, 7);
        nothing_is_left_beside(&b);
    }
    done(&b);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    bench b = make(NULL, llama);
    b.options.strict = true;
    assert_status(
        run(&b, "quantize: {method: rtn, schemes: [w4g32, w4g48], bits: 5, sensitivity: output}"),
        PARE_ERR_ARGUMENT);
    b.options.strict = false;
    nothing_is_left_beside(&b);
    write_model(NULL, llama, b.source, MODEL "mlp.up_proj.weight", NAN);
    assert_status(
        run(&b, "quantize: {method: rtn, schemes: [w2g32, w4g32], bits: 4.5, sensitivity: output}"),
        PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "mlp.up_proj.weight holds NaN"));
    nothing_is_left_beside(&b);
    write_model(NULL, llama, b.source, "model.norm.weight", 3.4e38f);
    assert_status(run(&b, "quantize: {method: rtn, schemes: [w2g32, w4g32], bits: 4.5, "
                          "sensitivity: kld}"),
                  PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), "NaN or infinite"));
    nothing_is_left_beside(&b);
    done(&b);
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
    };
    bench b = make(NULL, llama);
    for (int i = 0; i < 2; i++) {
        clear(&b);
        b.options.device = "cpu";
        assert_ok(run(&b, steps[i]));
        survey want = look(&b);
        clear(&b);
        b.options.device = "cuda";
        assert_ok(run(&b, steps[i]));
        survey got = look(&b);
        assert_int_equal(got.count, want.count);
        for (size_t l = 0; l < got.count; l++)
            for (size_t k = 0; k < got.options; k++)
                assert_true(fabs(got.layers[l].harm[k] - want.layers[l].harm[k]) <=
                            1e-3 * want.layers[l].harm[k] + 1e-7);
    }
    done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_bits_are_the_best_that_fit),
        cmocka_unit_test(a_budget_that_nothing_fits_is_refused_first),
        cmocka_unit_test(what_no_site_has_is_in_the_budget),
        cmocka_unit_test(a_plan_measures_nothing_and_says_what_comes),
        cmocka_unit_test(outliers_keep_more),
        cmocka_unit_test(losses_are_the_least_of_that_mean),
        cmocka_unit_test(both_are_decided_together),
        cmocka_unit_test(cut_it_does_not_measure_twice),
        cmocka_unit_test(a_damaged_file_is_measured_again),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(a_device_decides_nearly_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
