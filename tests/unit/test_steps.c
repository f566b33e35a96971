/* test_steps.c - runs of several stages: the same bytes as by hand, cut and continued, in the way
 * of others, planned. */
#include "test.h"

#include "train_fixture.h"

#include "pare/run.h"

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <unistd.h>

typedef struct chain {
    char *folder, *model, *out, *steps; /* steps: "<out>.steps" */
    const char *data;
    pare_run_options options;
    pare_recipe *recipe;
    /* progress */
    char seen[4096];        /* phases in their order, "; " behind each */
    const char *stop_phase; /* a phase that sets `stop`; NULL: none */
    volatile int stop;
} chain;

static void on_update(void *user, const char *phase, double done, double total)
{
    chain *c = user;
    size_t at = strlen(c->seen);
    (void)done;
    (void)total;
    if (!strstr(c->seen, phase) && at + strlen(phase) + 3 < sizeof c->seen)
        snprintf(c->seen + at, sizeof c->seen - at, "%s; ", phase);
    if (c->stop_phase && strcmp(phase, c->stop_phase) == 0)
        c->stop = 1;
}

static char *in_folder(const chain *c, const char *name)
{
    char *path = NULL;
    assert_ok(pare__join(c->folder, name, &path));
    return path;
}

/* A perceptron after one step of training, and images for it. */
static int set_up(void **state)
{
    chain *c = calloc(1, sizeof *c);
    pare_report *report = NULL;
    c->folder = test_folder_make();
    c->model = in_folder(c, "model.h5");
    c->out = in_folder(c, "out.h5");
    c->steps = in_folder(c, "out.h5.steps");
    c->data = fixture_images(c->folder, 96, true);
    c->options = (pare_run_options){
        .threads = 2, .device = "cpu", .progress = {on_update, c, NULL}, .cancel = &c->stop};
    const pare_train_job job = {
        .model = {.arch = "mlp:64-32-4"},
        .data = {.path = c->data, .pad_id = -2, .bos_id = -1},
        .train = {.optimiser = PARE_SGD, .curve = {.rate = 0.1, .steps = 2}, .batch = 16},
        .output = c->model};
    assert_ok(pare_train(&job, false, &c->options, &report));
    pare_report_free(&report);
    c->seen[0] = '\0';
    *state = c;
    return 0;
}

static int tear_down(void **state)
{
    chain *c = *state;
    pare_recipe_free(&c->recipe);
    test_folder_remove(c->folder);
    free(c->model);
    free(c->out);
    free(c->steps);
    free(c);
    return 0;
}

/* The recipe with these steps, from a model to an output. */
static void use(chain *c, const char *model, const char *steps, const char *output)
{
    pare__text text = {0};
    char *recipe = NULL;
    pare_recipe_free(&c->recipe);
    pare__text_add(&text, "model: %s\ndata: { calibration: %s, eval: %s }\nsteps:\n%s", model,
                   c->data, c->data, steps);
    assert_ok(pare__text_take(&text, &recipe));
    assert_ok(pare_recipe_parse(recipe, strlen(recipe), "test", &c->recipe));
    free(recipe);
    free(c->recipe->output);
    c->recipe->output = strdup(output);
    c->seen[0] = '\0';
}

#define CHAIN                                                                                      \
    "  - prune: { sparsity: 0.5 }\n"                                                               \
    "  - eval: { metric: [top1, loss], samples: 40 }\n"                                            \
    "  - quantize: { scheme: w4g32 }\n"                                                            \
    "  - eval: {}\n"

static pare_status run(chain *c)
{
    pare_report *report = NULL;
    pare_status status = pare_run(c->recipe, &c->options, &report);
    assert_true((report != NULL) == (status == PARE_OK));
    pare_report_free(&report);
    return status;
}

static char *bytes_of(const char *path, int64_t *size)
{
    char *bytes = NULL;
    assert_ok(pare__file_load(path, (int64_t)1 << 30, &bytes, size));
    return bytes;
}

static void assert_same_file(const char *a, const char *b)
{
    int64_t size[2];
    char *bytes[2] = {bytes_of(a, &size[0]), bytes_of(b, &size[1])};
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], (size_t)size[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void assert_nothing_between(const chain *c)
{
    assert_false(pare__exists(c->steps));
    char *part = in_folder(c, "out.h5.part");
    assert_false(pare__exists(part));
    free(part);
}

/* What the chain makes, made by two runs. */
static char *by_hand(chain *c)
{
    char *middle = in_folder(c, "middle.h5"), *end = in_folder(c, "end.h5");
    use(c, c->model, "  - prune: { sparsity: 0.5 }\n", middle);
    assert_ok(run(c));
    use(c, middle, "  - quantize: { scheme: w4g32 }\n", end);
    assert_ok(run(c));
    free(middle);
    return end;
}

/* ---- what comes out -------------------------------------------------------------------------- */

static void stages_give_the_same_bytes_as_runs_by_hand(void **state)
{
    chain *c = *state;
    char *end = by_hand(c);
    use(c, c->model, CHAIN, c->out);
    assert_ok(run(c));
    assert_same_file(c->out, end);
    assert_nothing_between(c);
    free(end);
}

static void neighbours_without_data_are_one_pass(void **state)
{
    chain *c = *state;
    use(c, c->model, "  - prune: { sparsity: 0.5 }\n  - quantize: { scheme: w4g32 }\n", c->out);
    assert_ok(run(c));
    assert_null(strstr(c->seen, "step 1/"));
    assert_nothing_between(c);
}

static void the_report_holds_those_of_the_stages(void **state)
{
    static const char *const kinds[] = {"run", "eval", "run", "eval"};
    chain *c = *state;
    pare_report *report = NULL, *loaded = NULL;
    char *json = NULL, *text = NULL;
    pare__json *root = NULL;
    double ratio, top1, loss;
    use(c, c->model, CHAIN, c->out);
    assert_ok(pare_run(c->recipe, &c->options, &report));
    assert_ok(pare_report_load(c->out, &loaded));
    assert_ok(pare_report_json(report, &json));
    assert_ok(pare__json_parse(json, strlen(json), "report", &root));
    const pare__json *steps = pare__json_get(root, "steps");
    assert_int_equal(pare__json_size(steps), 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(pare__json_string(pare__json_get(pare__json_at(steps, i), "kind")),
                            kinds[i]);
    assert_true(pare__json_real(pare__json_get(pare__json_at(steps, 1), "top1"), &top1));
    assert_true(pare__json_real(pare__json_get(pare__json_at(steps, 3), "loss"), &loss));
    assert_true(top1 >= 0 && top1 <= 1 && loss > 0);
    assert_true(pare__json_real(pare__json_get(pare__json_get(root, "result"), "ratio"), &ratio));
    assert_true(ratio > 2);
    assert_string_equal(pare__json_string(pare__json_get(pare__json_get(root, "output"), "path")),
                        c->out);
    assert_ok(pare_report_text(report, &text));
    assert_non_null(strstr(text, "step 2 of 4\n"));
    assert_non_null(strstr(text, "quantize: rtn, w4g32"));
    assert_non_null(strstr(text, "top-1"));
    free(text);
    free(json);
    pare__json_free(&root);
    pare_report_free(&loaded);
    pare_report_free(&report);
}

static void an_eval_before_anything_measures_the_model_itself(void **state)
{
    chain *c = *state;
    use(c, c->model, "  - eval: {}\n  - prune: { sparsity: 0.9 }\n  - eval: {}\n", c->out);
    assert_ok(run(c));
    assert_non_null(strstr(c->seen, "step 3/3"));
    use(c, c->model, "  - eval: {}\n", c->out); /* and a conversion */
    c->options.overwrite = true;
    assert_ok(run(c));
    assert_nothing_between(c);
}

static void a_plain_state_dict_keeps_its_arch_on_the_way(void **state)
{
    chain *c = *state;
    char *plain = in_folder(c, "plain.safetensors");
    use(c, c->model, "  []\n", plain);
    assert_ok(run(c));
    use(c, plain, CHAIN, c->out);
    c->recipe->arch = strdup("mlp:64-32-4");
    assert_ok(run(c));
    free(plain);
}

/* How many stages a run had. */
static int stages_of(const chain *c)
{
    char text[24];
    for (int count = 2; count < 9; count++) {
        snprintf(text, sizeof text, "/%d ", count); /* of "step 2/3 compress" */
        if (strstr(c->seen, text))
            return count;
    }
    return 1;
}

static void steps_become_as_few_stages_as_can_be(void **state)
{
    static const struct {
        const char *steps;
        int stages;
    } rows[] = {
        {"  - prune: { method: wanda, pattern: 2:4, samples: 8 }\n", 1},
        {"  - prune: { method: wanda, pattern: 2:4, samples: 8 }\n"
         "  - quantize: { scheme: w8 }\n",
         2},
        {"  - compress: { prune: { method: sparsegpt, pattern: 2:4 }, samples: 8,\n"
         "      quantize: { method: gptq, scheme: w4g16 } }\n",
         1},
        /* one threshold over the model cannot be known block by block */
        {"  - compress: { prune: { sparsity: 0.5 }, samples: 8,\n"
         "      quantize: { method: gptq, scheme: w4g16 } }\n",
         2},
        {"  - compress: { prune: { method: taylor, sparsity: 0.5 }, samples: 8,\n"
         "      quantize: { scheme: w8 } }\n",
         1},
        /* what is quantised is the smaller model */
        {"  - compress: { prune: { pattern: channel, sparsity: 0.5 },\n"
         "      quantize: { scheme: w8 } }\n"
         "  - eval: {}\n",
         3},
    };
    chain *c = *state;
    c->options.overwrite = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        use(c, c->model, rows[i].steps, c->out);
        assert_ok(run(c));
        if (stages_of(c) != rows[i].stages)
            fail_msg("%d stages of\n%s", stages_of(c), rows[i].steps);
        assert_nothing_between(c);
    }
}

/* A file of .safetensors alone does not say what model it is. */
static void a_lone_safetensors_is_measured_before_it_is_written(void **state)
{
    chain *c = *state;
    char *lone = in_folder(c, "lone.safetensors");
    pare_report *report = NULL;
    bool differs = true;
    use(c, c->model, CHAIN, lone);
    assert_ok(run(c));
    assert_non_null(strstr(c->seen, "step 5/5"));
    use(c, c->model, CHAIN, c->out);
    assert_ok(run(c));
    assert_ok(pare_compare(lone, c->out, 0, &c->options, &report, &differs));
    assert_false(differs);
    pare_report_free(&report);
    free(lone);
}

/* ---- cut and continued ----------------------------------------------------------------------- */

static void a_run_that_was_stopped_goes_on_at_its_stage(void **state)
{
    static const char *const phases[] = {"step 1/4 compress", "step 2/4 evaluate",
                                         "step 3/4 compress", "step 4/4 evaluate"};
    chain *c = *state;
    char *end = by_hand(c);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        use(c, c->model, CHAIN, c->out);
        c->stop_phase = phases[i];
        pare_status status = run(c);
        if (!c->stop)
            fail_msg("no phase %s in: %s", phases[i], c->seen);
        if (status != PARE_OK) { /* it may have been over when the stop came */
            assert_int_equal(status, PARE_ERR_INTERRUPTED);
            assert_non_null(strstr(pare_last_error(), "the same command continues"));
            assert_false(pare__exists(c->out));
            assert_true(pare__exists(c->steps));
            c->stop_phase = NULL;
            c->stop = 0;
            c->seen[0] = '\0';
            assert_ok(run(c));
            assert_true(i == 0 || !strstr(c->seen, "step 1/"));
        }
        c->stop_phase = NULL;
        c->stop = 0;
        assert_same_file(c->out, end);
        assert_nothing_between(c);
        assert_int_equal(unlink(c->out), 0);
    }
    free(end);
}

/* Stops the chain once its first checkpoint is there. */
static void cut(chain *c)
{
    use(c, c->model, CHAIN, c->out);
    c->stop_phase = "step 2/4 evaluate";
    assert_status(run(c), PARE_ERR_INTERRUPTED);
    c->stop_phase = NULL;
    c->stop = 0;
}

static void a_checkpoint_that_is_gone_is_made_again(void **state)
{
    chain *c = *state;
    char *end = by_hand(c), *middle = NULL;
    cut(c);
    assert_ok(pare__join(c->steps, "1.h5", &middle));
    assert_int_equal(unlink(middle), 0);
    assert_ok(run(c));
    assert_same_file(c->out, end);
    free(middle);
    free(end);
}

/* Killed after a stage's report was written beside its checkpoint, before it was kept here: it is
 * from then on, for the checkpoint may be the output, which leaves the folder. */
static void a_stage_that_was_just_over_is_not_done_again(void **state)
{
    chain *c = *state;
    char *kept = NULL;
    cut(c);
    assert_ok(pare__join(c->steps, "1.report.json", &kept));
    assert_int_equal(unlink(kept), 0);
    c->seen[0] = '\0';
    c->options.memory = 1;
    assert_status(run(c), PARE_ERR_MEMORY);
    assert_true(pare__exists(kept));
    c->options.memory = 0;
    assert_ok(run(c));
    assert_null(strstr(c->seen, "step 1/4"));
    free(kept);
}

static void a_changed_recipe_does_not_go_on(void **state)
{
    chain *c = *state;
    cut(c);
    use(c, c->model, "  - prune: { sparsity: 0.6 }\n  - eval: {}\n", c->out);
    assert_status(run(c), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "--overwrite"));
    assert_true(pare__exists(c->steps));
    c->options.overwrite = true;
    assert_ok(run(c));
    assert_nothing_between(c);
}

/* ---- in the way ------------------------------------------------------------------------------ */

static void what_is_in_the_way_is_refused_before_any_work(void **state)
{
    chain *c = *state;
    char *note = NULL;
    assert_ok(pare__file_save(c->out, "x", 1));
    use(c, c->model, CHAIN, c->out);
    assert_status(run(c), PARE_ERR_EXISTS);
    assert_string_equal(c->seen, "");
    assert_false(pare__exists(c->steps));
    assert_int_equal(unlink(c->out), 0);

    assert_ok(pare__make_directory(c->steps));
    assert_ok(pare__join(c->steps, "mine.txt", &note));
    assert_ok(pare__file_save(note, "x", 1));
    c->options.overwrite = true; /* not even so */
    assert_status(run(c), PARE_ERR_EXISTS);
    assert_true(pare__exists(note));
    free(note);
}

static void one_at_a_time_works_on_an_output(void **state)
{
    chain *c = *state;
    char *path = in_folder(c, "out.h5.steps.lock");
    int lock = -1;
    use(c, c->model, CHAIN, c->out);
    assert_ok(pare__lock_take(path, &lock));
    assert_status(run(c), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "another process"));
    pare__lock_drop(path, lock);
    assert_ok(run(c));
    assert_false(pare__exists(path));
    free(path);
}

/* Killed while the folder was removed, or made. */
static void a_folder_without_its_key_is_no_obstacle(void **state)
{
    chain *c = *state;
    char *rest = NULL;
    assert_ok(pare__make_directory(c->steps));
    assert_ok(pare__join(c->steps, "3.report.json", &rest));
    assert_ok(pare__file_save(rest, "x", 1));
    use(c, c->model, CHAIN, c->out);
    assert_ok(run(c));
    assert_nothing_between(c);
    free(rest);
}

static void overwrite_replaces_the_output_at_the_end(void **state)
{
    chain *c = *state;
    char *end = by_hand(c);
    assert_ok(pare__file_save(c->out, "x", 1));
    use(c, c->model, CHAIN, c->out);
    c->options.overwrite = true;
    assert_ok(run(c));
    assert_same_file(c->out, end);
    free(end);
}

static void data_that_is_not_there_is_known_before_any_work(void **state)
{
    chain *c = *state;
    use(c, c->model,
        "  - prune: { sparsity: 0.5 }\n  - eval: { data: nowhere.npy }\n"
        "  - quantize: { scheme: w8, include: [nothing] }\n",
        c->out);
    assert_status(run(c), PARE_ERR_NOT_FOUND);
    assert_string_equal(c->seen, "");
    assert_nothing_between(c);
    use(c, c->model,
        "  - prune: { sparsity: 0.5 }\n  - eval: {}\n"
        "  - quantize: { scheme: w8, include: [nothing] }\n",
        c->out);
    assert_status(run(c), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "matches no tensor"));
    assert_nothing_between(c);
}

/* ---- planned --------------------------------------------------------------------------------- */

static void a_plan_says_what_all_stages_take(void **state)
{
    chain *c = *state;
    pare_report *report = NULL;
    char *json = NULL, *text = NULL;
    pare__json *root = NULL;
    int64_t between = 0, peak = 0, most = 0;
    use(c, c->model, CHAIN, c->out);
    assert_ok(pare_plan(c->recipe, &c->options, &report));
    assert_false(pare__exists(c->out));
    assert_nothing_between(c);
    assert_ok(pare_report_json(report, &json));
    assert_ok(pare__json_parse(json, strlen(json), "report", &root));
    const pare__json *predicted = pare__json_get(root, "predicted");
    assert_true(pare__json_int(pare__json_get(predicted, "between_bytes"), &between));
    assert_true(pare__json_int(pare__json_get(predicted, "peak_memory"), &peak));
    for (size_t i = 0; i < 4; i++) {
        int64_t one = 0;
        const pare__json *step = pare__json_at(pare__json_get(root, "steps"), i);
        assert_true(
            pare__json_int(pare__json_get(pare__json_get(step, "predicted"), "peak_memory"), &one));
        most = one > most ? one : most;
    }
    assert_true(between > 0);
    assert_int_equal(peak, most);
    assert_ok(pare_report_text(report, &text));
    assert_non_null(strstr(text, "disk between steps"));
    free(text);
    free(json);
    pare__json_free(&root);
    pare_report_free(&report);
}

#define TEST(name_) cmocka_unit_test_setup_teardown(name_, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(stages_give_the_same_bytes_as_runs_by_hand),
        TEST(neighbours_without_data_are_one_pass),
        TEST(the_report_holds_those_of_the_stages),
        TEST(an_eval_before_anything_measures_the_model_itself),
        TEST(a_plain_state_dict_keeps_its_arch_on_the_way),
        TEST(steps_become_as_few_stages_as_can_be),
        TEST(a_lone_safetensors_is_measured_before_it_is_written),
        TEST(a_run_that_was_stopped_goes_on_at_its_stage),
        TEST(a_checkpoint_that_is_gone_is_made_again),
        TEST(a_stage_that_was_just_over_is_not_done_again),
        TEST(a_changed_recipe_does_not_go_on),
        TEST(what_is_in_the_way_is_refused_before_any_work),
        TEST(one_at_a_time_works_on_an_output),
        TEST(a_folder_without_its_key_is_no_obstacle),
        TEST(overwrite_replaces_the_output_at_the_end),
        TEST(data_that_is_not_there_is_known_before_any_work),
        TEST(a_plan_says_what_all_stages_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
