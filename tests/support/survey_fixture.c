/* survey_fixture.c - see the header. */
#include "survey_fixture.h"

#include "checkpoint_fixture.h"
#include "train_fixture.h"

#include "engine/learn.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>

const char survey_llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 32, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, "
    "\"tie_word_embeddings\": true}";
const char survey_resnet[] = "resnet8-tiny:in=1,size=8,classes=4";

/* ---- models, recipes ------------------------------------------------------------------------- */

void survey_write_model(const char *arch, const char *config, const char *path, const char *odd,
                        float factor)
{
    fixture_checkpoint(&(checkpoint_fixture){arch, config, 5, odd, factor}, path);
}

survey_bench survey_make(const char *arch, const char *config)
{
    survey_bench b = {.folder = test_folder_make(), .options = {.threads = 1, .device = "cpu"}};
    assert_ok(pare__join(b.folder, "in.h5", &b.source));
    assert_ok(pare__join(b.folder, "out.h5", &b.out));
    survey_write_model(arch, config, b.source, NULL, 1);
    b.data =
        config ? fixture_tokens(b.folder, 24 * 16 + 1, 32) : fixture_images(b.folder, 24, true);
    return b;
}

void survey_done(survey_bench *b)
{
    pare_report_free(&b->report);
    test_folder_remove(b->folder);
    free(b->source);
    free(b->out);
}

pare_status survey_go(survey_bench *b, const char *step, bool plan)
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

pare_status survey_run(survey_bench *b, const char *step)
{
    return survey_go(b, step, false);
}

const char *survey_beside(const survey_bench *b, const char *ending)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s%s", b->out, ending);
    return path;
}

void survey_clear(const survey_bench *b)
{
    static const char *const endings[] = {"", ".walk", ".part", ".journal", ".survey.json"};
    for (int i = 0; i < 5; i++)
        assert_ok(pare__remove_tree(survey_beside(b, endings[i])));
}

void survey_nothing_is_left(const survey_bench *b)
{
    assert_false(pare__exists(survey_beside(b, ".survey.json")));
    assert_false(pare__exists(survey_beside(b, ".survey.h5")));
    assert_false(pare__exists(survey_beside(b, ".survey.h5.walk")));
    assert_false(pare__exists(survey_beside(b, ".walk")));
    assert_false(pare__exists(survey_beside(b, ".part")));
}

/* ---- what the report says -------------------------------------------------------------------- */

static double real_of(const pare__json *object, const char *key)
{
    double value = NAN;
    return pare__json_real(pare__json_get(object, key), &value) ? value : (double)NAN;
}

static int64_t int_of(const pare__json *object, const char *key)
{
    return (int64_t)real_of(object, key);
}

static void look_at_layer(const pare__json *from, survey_layer *to)
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

survey_found survey_look(const survey_bench *b)
{
    char *text = NULL;
    pare__json *root = NULL;
    survey_found s = {.count = 0};
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
    assert_true(s.count <= SURVEY_LAYERS && s.options <= SURVEY_OPTIONS);
    for (size_t i = 0; i < s.count; i++)
        look_at_layer(pare__json_at(layers, i), &s.layers[i]);
    pare__json_free(&root);
    return s;
}

const survey_layer *survey_find(const survey_found *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->layers[i].name, name) == 0)
            return &s->layers[i];
    fail_msg("%s was not surveyed", name);
    return NULL;
}

double survey_weights(const survey_found *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += (double)s->layers[l].weights;
    return sum;
}

double survey_mean_sparsity(const survey_found *s)
{
    double sum = 0;
    for (size_t l = 0; l < s->count; l++)
        sum += s->layers[l].sparsity * (double)s->layers[l].weights;
    return sum / survey_weights(s);
}

int64_t survey_zeros(const char *path, const survey_layer *l)
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

void survey_watch(void *user, const char *phase, double share, double total)
{
    survey_bench *b = user;
    (void)share, (void)total;
    b->surveyed += strcmp(phase, "survey") == 0;
    b->blocks += strncmp(phase, "block", 5) == 0;
    if ((b->stop_at && b->surveyed >= b->stop_at) ||
        (b->stop_at_block && b->blocks >= b->stop_at_block) ||
        (b->stop_walking && strncmp(phase, "block", 5) == 0))
        b->stop = 1;
}
