/* test_shrink.c - smaller models: where what goes was zero the outputs are what they were, for
 * every architecture and pattern; the numbers that stay; refusals. */
#include "test.h"

#include "engine/learn.h"

#include "base/rng.h"

#include <math.h>

enum { BATCH = 2, LENGTH = 6, VOCABULARY = 40 };

/* ---- models ---------------------------------------------------------------------------------- */

#define SIZES                                                                                      \
    "\"hidden_size\": 32, \"num_attention_heads\": 8, \"intermediate_size\": 20, "                 \
    "\"vocab_size\": 40, \"max_position_embeddings\": 16, "

static const char llama[] =
    "{\"model_type\": \"llama\", " SIZES "\"num_hidden_layers\": 3, \"num_key_value_heads\": 4, "
    "\"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true}";
static const char qwen2[] =
    "{\"model_type\": \"qwen2\", " SIZES "\"num_hidden_layers\": 3, \"num_key_value_heads\": 4, "
    "\"use_sliding_window\": true, \"sliding_window\": 3, "
    "\"max_window_layers\": 1}";
static const char qwen3[] =
    "{\"model_type\": \"qwen3\", " SIZES "\"num_hidden_layers\": 2, \"num_key_value_heads\": 4, "
    "\"head_dim\": 6, \"layer_types\": [\"full_attention\", "
    "\"full_attention\"], \"rms_norm_eps\": 1e-6}";
static const char gpt2[] = "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 8, "
                           "\"n_layer\": 3, \"n_positions\": 16, \"vocab_size\": 40}";
static const char bert[] =
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], " SIZES
    "\"num_hidden_layers\": 2}";
static const char distilbert[] =
    "{\"model_type\": \"distilbert\", \"architectures\": "
    "[\"DistilBertForSequenceClassification\"], \"dim\": 32, \"n_heads\": 8, \"n_layers\": 2, "
    "\"hidden_dim\": 20, \"vocab_size\": 40, \"max_position_embeddings\": 16}";
static const char vit[] =
    "{\"model_type\": \"vit\", \"architectures\": [\"ViTForImageClassification\"], " SIZES
    "\"num_hidden_layers\": 3, \"image_size\": 8, \"patch_size\": 4}";

typedef struct subject {
    const char *arch, *config;
    pare_pattern_kind kind;
    double sparsity;
    double tolerance; /* of outputs, relative to the largest; negative: only that it runs */
    const char *text; /* that the new config holds */
} subject;

static const subject subjects[] = {
    {NULL, llama, PARE_PATTERN_CHANNEL, 0.3, 1e-6, "\"intermediate_size\": 14"},
    {NULL, llama, PARE_PATTERN_HEAD, 0.5, 1e-6, "\"num_key_value_heads\": 2"},
    {NULL, llama, PARE_PATTERN_WIDTH, 0.5, 1e-5, "\"hidden_size\": 16"},
    {NULL, llama, PARE_PATTERN_LAYER, 0.34, 1e-6, "\"num_hidden_layers\": 2"},
    {NULL, qwen2, PARE_PATTERN_CHANNEL, 0.25, 1e-6, "\"intermediate_size\": 15"},
    {NULL, qwen2, PARE_PATTERN_HEAD, 0.25, 1e-6, "\"num_attention_heads\": 6"},
    {NULL, qwen2, PARE_PATTERN_WIDTH, 0.2, 1e-5, "\"hidden_size\": 26"},
    {NULL, qwen3, PARE_PATTERN_HEAD, 0.25, 1e-6, "\"head_dim\": 6"},
    {NULL, qwen3, PARE_PATTERN_WIDTH, 0.2, 1e-4, "\"hidden_size\": 26"},
    {NULL, qwen3, PARE_PATTERN_LAYER, 0.5, 1e-6, "\"layer_types\": [\n    \"full_attention\"\n"},
    {NULL, gpt2, PARE_PATTERN_CHANNEL, 0.1, 1e-6, "\"n_inner\": 115"},
    {NULL, gpt2, PARE_PATTERN_WIDTH, 0.25, -1, "\"n_head\": 6"},
    {NULL, gpt2, PARE_PATTERN_LAYER, 0.34, 1e-6, "\"n_layer\": 2"},
    {NULL, bert, PARE_PATTERN_CHANNEL, 0.1, 1e-6, "\"intermediate_size\": 18"},
    {NULL, bert, PARE_PATTERN_WIDTH, 0.25, -1, "\"hidden_size\": 24"},
    {NULL, bert, PARE_PATTERN_LAYER, 0.5, -1, "\"num_hidden_layers\": 1"},
    {NULL, distilbert, PARE_PATTERN_CHANNEL, 0.1, 1e-6, "\"hidden_dim\": 18"},
    {NULL, distilbert, PARE_PATTERN_WIDTH, 0.25, -1, "\"n_heads\": 6"},
    {NULL, vit, PARE_PATTERN_CHANNEL, 0.1, 1e-6, "\"intermediate_size\": 18"},
    {NULL, vit, PARE_PATTERN_WIDTH, 0.25, -1, "\"hidden_size\": 24"},
    {NULL, vit, PARE_PATTERN_LAYER, 0.34, 1e-6, "\"num_hidden_layers\": 2"},
    {"vit:patch=4,dim=32,depth=2,heads=4,mlp=20,size=8", NULL, PARE_PATTERN_CHANNEL, 0.25, 1e-6,
     "vit:patch=4,dim=32,depth=2,heads=4,mlp=15,size=8"},
    {"vit:patch=4,dim=32,depth=2,heads=4,mlp=20,size=8", NULL, PARE_PATTERN_HEAD, 0.25, 1e-6,
     "vit:patch=4,dim=32,depth=2,heads=3,mlp=20,size=8,head_dim=8"},
    {"vit:patch=4,dim=32,depth=2,heads=4,size=8", NULL, PARE_PATTERN_WIDTH, 0.25, -1,
     "vit:patch=4,dim=24,depth=2,heads=4,size=8,mlp=64,head_dim=8"},
    {"vit:patch=4,dim=32,depth=2,heads=4,mlp=20,size=8", NULL, PARE_PATTERN_LAYER, 0.5, -1,
     "depth=1"},
    {"resnet20-cifar:size=8", NULL, PARE_PATTERN_CHANNEL, 0.3, 1e-6, "resnet20-cifar:size=8"},
    {"resnet20-cifar:size=8", NULL, PARE_PATTERN_LAYER, 0.3, 1e-6, "resnet20-cifar:size=8"},
    {"resnet18:size=32,classes=5", NULL, PARE_PATTERN_CHANNEL, 0.3, 1e-6, "resnet18:size=32"},
    {"resnet8-tiny:size=8", NULL, PARE_PATTERN_CHANNEL, 0.3, 1e-6, "resnet8-tiny:size=8"},
    {"cnn:8-p-12-12,size=8", NULL, PARE_PATTERN_CHANNEL, 0.25, 1e-6, "cnn:6-p-9-9,size=8"},
    {"mlp:48-20-16-5", NULL, PARE_PATTERN_CHANNEL, 0.25, 1e-6, "mlp:48-15-12-5"},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static pare_unit_kind unit_kind(pare_pattern_kind kind)
{
    return kind == PARE_PATTERN_CHANNEL ? PARE_UNIT_CHANNEL
           : kind == PARE_PATTERN_HEAD  ? PARE_UNIT_HEAD
           : kind == PARE_PATTERN_LAYER ? PARE_UNIT_LAYER
                                        : PARE_UNIT_WIDTH;
}

/* Values that look random, and of a size that keeps activations near 1. */
static void fill(pare_model *m, uint64_t seed)
{
    for (int64_t i = 0; i < pare_model_param_count(m); i++) {
        pare_param *p = pare_model_param(m, i);
        pare__rng rng = pare__rng_make(seed, 1, (uint64_t)i);
        float *v = p->value.data;
        int64_t count = pare_tensor_count(&p->value);
        double scale = p->value.rank >= 2 ? 1 / sqrt((double)(count / p->value.shape[0])) : 0.3;
        for (int64_t k = 0; k < count; k++) {
            v[k] = (float)(scale * pare__rng_normal(&rng));
            if (p->role == PARE_ROLE_NORM)
                v[k] += 1;
            if (p->buffer && strstr(p->name, "var"))
                v[k] = 0.5f + fabsf(v[k]);
        }
    }
}

static pare_model *make(const subject *s, pare_store *store, pare_backend *be)
{
    pare_model *m;
    pare_model_options options = {
        .arch = store ? NULL : s->arch, .config = store ? NULL : s->config, .store = store};
    assert_ok(pare_model_create(&options, &m));
    bool tokens = pare_model_facts_of(m)->tokens;
    assert_ok(pare_model_prepare(
        m, be,
        &(pare_model_shape){.batch = BATCH, .length = tokens ? LENGTH : 0, .compute = PARE_F32}));
    return m;
}

/* All that belongs to the units that go becomes 0 (running statistics apart). */
static void erase(pare_model *m, const pare_couple *c, const uint8_t *keep)
{
    for (int64_t i = 0; i < pare_model_param_count(m); i++) {
        pare_param *p = pare_model_param(m, i);
        int rank;
        int64_t shape[PARE_MAX_RANK], layer = pare_couple_layer(c, i);
        float *v = p->value.data;
        pare_model_stored_shape(m, i, &rank, shape);
        for (int64_t k = 0; !p->buffer && k < pare_tensor_count(&p->value); k++) {
            bool gone = layer >= 0 && !keep[layer];
            int64_t rest = k;
            for (int d = rank - 1; d >= 0; rest /= shape[d], d--) {
                const int32_t *units = pare_couple_axis(c, i, d);
                int32_t unit = units ? units[rest % shape[d]] : -1;
                gone = gone || (unit >= 0 && !keep[unit]);
            }
            int64_t at = p->transposed ? k % shape[1] * shape[0] + k / shape[1] : k;
            v[at] = gone ? 0 : v[at];
        }
    }
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct input {
    int32_t ids[BATCH * LENGTH];
    float *images;
    pare_batch batch;
} input;

static void make_input(input *in, pare_model *m)
{
    const pare_model_facts *f = pare_model_facts_of(m);
    pare__rng rng = pare__rng_make(5, 2, 0);
    int64_t count = f->tokens ? 0 : BATCH * f->height * f->width * f->channels;
    *in = (input){.images = calloc((size_t)count + 1, sizeof(float))};
    for (int i = 0; i < BATCH * LENGTH; i++)
        in->ids[i] = (int32_t)pare__rng_below(&rng, VOCABULARY);
    for (int64_t i = 0; i < count; i++)
        in->images[i] = (float)pare__rng_normal(&rng);
    in->batch = (pare_batch){.size = BATCH};
    if (f->tokens) {
        in->batch.length = LENGTH;
        in->batch.ids = in->ids;
    } else
        in->batch.images = in->images;
}

/* The output; hidden states of a language model as logits. */
static double *outputs(pare_model *m, const input *in, int64_t *count)
{
    assert_ok(pare_model_forward(m, &in->batch, false, NULL));
    pare_tensor y = pare_model_output(m);
    const float *v = y.data;
    int64_t D = y.shape[y.rank - 1], rows = pare_tensor_count(&y) / D;
    pare_param *head = pare_model_head(m, NULL);
    int64_t V = head ? head->value.shape[0] : D;
    double *out = calloc((size_t)(rows * V), sizeof *out);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < V; k++) {
            const float *w = head ? (const float *)head->value.data + k * D : NULL;
            if (!w)
                out[r * V + k] = (double)v[r * D + k];
            for (int64_t d = 0; w && d < D; d++)
                out[r * V + k] += (double)v[r * D + d] * (double)w[d];
        }
    *count = rows * V;
    return out;
}

static void write_model(pare_model *m, pare_backend *be, const char *path)
{
    const pare_model_choice choice = {.arch = "test"};
    const pare__subject from = {.choice = &choice, .model = m};
    assert_ok(pare__model_write_out(&(pare__model_write){.subject = &from,
                                                         .be = be,
                                                         .output = path,
                                                         .recipe = "",
                                                         .data = "",
                                                         .sources = "{}",
                                                         .overwrite = true}));
}

typedef struct trial {
    char *folder, source[512], out[512];
    pare_backend *be;
    pare_recipe recipe;
    pare_prune_step step;
    pare_run_options options;
} trial;

static void begin(trial *t)
{
    *t = (trial){.folder = test_folder_make(), .options = {.threads = 1, .device = "cpu"}};
    snprintf(t->source, sizeof t->source, "%s/source.h5", t->folder);
    snprintf(t->out, sizeof t->out, "%s/out.h5", t->folder);
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &t->be));
    t->step = (pare_prune_step){.method = pare_prune_find("magnitude")};
    t->recipe = (pare_recipe){
        .model = t->source, .output = t->out, .seed = 3, .prunes = &t->step, .prune_count = 1};
}

static void end(trial *t)
{
    pare_backend_free(&t->be);
    test_folder_remove(t->folder);
}

static pare_status shrink(trial *t, const subject *s)
{
    pare_report *report = NULL;
    t->step.pattern.kind = s->kind;
    t->step.sparsity = s->sparsity;
    pare_status status = pare__run_shrink(&t->recipe, &t->options, &report);
    pare_report_free(&report);
    return status;
}

static int64_t elements(pare_store *store)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_store_count(store); i++)
        n += pare_store_entry(store, i)->rows * pare_store_entry(store, i)->cols;
    return n;
}

/* Parameters that units take along, counted one by one. */
static int64_t elements_left(pare_model *m, const pare_couple *c, const uint8_t *keep)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_model_param_count(m); i++) {
        int64_t shape[PARE_MAX_RANK], rows, cols, layer = pare_couple_layer(c, i);
        int rank;
        pare_couple_shape(c, i, keep, &rank, shape);
        pare_shape_matrix(rank, shape, &rows, &cols);
        n += layer < 0 || keep[layer] ? rows * cols : 0;
    }
    return n;
}

static void check_outputs(const subject *s, const double *want, const double *got, int64_t count)
{
    double most = 0, worst = 0;
    for (int64_t i = 0; i < count; i++) {
        assert_true(isfinite(got[i]));
        most = fmax(most, fabs(want[i]));
        worst = fmax(worst, fabs(want[i] - got[i]));
    }
    assert_true(most > 0);
    if (s->tolerance >= 0 && worst > s->tolerance * most)
        fail_msg("%s, pattern %d: off by %g of %g", s->arch ? s->arch : s->config, (int)s->kind,
                 worst, most);
}

/* Which units will go is drawn; they are made 0; the run must find them and nothing may change. */
static void run_subject(trial *t, const subject *s)
{
    int64_t count, count2;
    input in;
    pare_couple *c;
    pare_model *m = make(s, NULL, t->be);
    fill(m, 7);
    assert_ok(pare_couple_create(m, &c));
    int64_t units = pare_couple_unit_count(c);
    double *score = calloc((size_t)units, sizeof *score);
    uint8_t *keep = calloc((size_t)units, 1);
    pare__rng rng = pare__rng_make(9, 3, 0);
    for (int64_t u = 0; u < units; u++)
        score[u] = pare__rng_double(&rng);
    assert_ok(pare_shrink_choose(
        c, &(pare_shrink_options){.kind = unit_kind(s->kind), .sparsity = s->sparsity}, score,
        keep));
    erase(m, c, keep);
    make_input(&in, m);
    double *want = outputs(m, &in, &count);
    write_model(m, t->be, t->source);
    assert_ok(shrink(t, s));

    pare_store *store;
    assert_ok(pare_store_open(t->out, &store));
    assert_int_equal(elements(store), elements_left(m, c, keep));
    assert_non_null(pare_store_config(store));
    if (!strstr(pare_store_config(store), s->text))
        fail_msg("no %s in %s", s->text, pare_store_config(store));
    pare_model *small = make(s, store, t->be);
    assert_ok(pare_model_load(small, store, false));
    double *got = outputs(small, &in, &count2);
    assert_int_equal(count, count2);
    check_outputs(s, want, got, count);
    pare_model_free(&small);
    pare_store_close(&store);
    free(want);
    free(got);
    free(in.images);
    free(keep);
    free(score);
    pare_couple_free(&c);
    pare_model_free(&m);
}

static void what_was_zero_is_not_missed(void **state)
{
    (void)state;
    trial t;
    begin(&t);
    t.options.overwrite = true;
    for (int i = 0; i < SUBJECTS; i++)
        run_subject(&t, &subjects[i]);
    end(&t);
}

/* ---- numbers that stay ----------------------------------------------------------------------- */

static int64_t kept(const char *config, pare_unit_kind kind, double sparsity, int64_t multiple,
                    pare_status want)
{
    pare_model *m;
    pare_couple *c;
    int64_t left = -1;
    assert_ok(pare_model_create(&(pare_model_options){.config = config}, &m));
    assert_ok(pare_couple_create(m, &c));
    int64_t units = pare_couple_unit_count(c);
    double *score = calloc((size_t)units, sizeof *score);
    uint8_t *keep = calloc((size_t)units, 1);
    assert_status(
        pare_shrink_choose(
            c, &(pare_shrink_options){.kind = kind, .sparsity = sparsity, .multiple = multiple},
            score, keep),
        want);
    for (int64_t i = 0; want == PARE_OK && i < pare_couple_class_count(c) && left < 0; i++) {
        const pare_unit_class *u = pare_couple_class(c, i);
        left = u->kind == kind && !u->locked ? 0 : -1;
        for (int64_t n = 0; left >= 0 && n < u->count; n++)
            left += keep[u->first + n];
    }
    free(keep);
    free(score);
    pare_couple_free(&c);
    pare_model_free(&m);
    return left;
}

static void what_stays_is_rounded(void **state)
{
    (void)state;
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.3, 0, PARE_OK), 14);
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.3, 4, PARE_OK), 16); /* 14: the greater */
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.3, 8, PARE_OK), 16);
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.99, 0, PARE_OK), 1); /* one stays */
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.99, 5, PARE_OK), 5);
    assert_int_equal(kept(llama, PARE_UNIT_HEAD, 0.4, 0, PARE_OK), 2);
    assert_int_equal(kept(llama, PARE_UNIT_HEAD, 0.25, 0, PARE_ERR_ARGUMENT), -1); /* 6 ∤ 32 */
    assert_int_equal(kept(qwen2, PARE_UNIT_HEAD, 0.25, 0, PARE_OK), 3);
    assert_int_equal(kept(llama, PARE_UNIT_WIDTH, 0.2, 0, PARE_OK), 24); /* of 8 heads */
    assert_int_equal(kept(qwen2, PARE_UNIT_WIDTH, 0.2, 0, PARE_OK), 26);
    assert_int_equal(kept(bert, PARE_UNIT_WIDTH, 0.2, 0, PARE_OK), 28); /* 26; of head_dim 4 */
    assert_int_equal(kept(llama, PARE_UNIT_LAYER, 0.1, 0, PARE_ERR_ARGUMENT), -1); /* 0 of 3 */
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0.1, 20, PARE_ERR_ARGUMENT), -1);
    assert_int_equal(kept(llama, PARE_UNIT_CHANNEL, 0, 0, PARE_OK), 20);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void check_refused(trial *t, const subject *s, pare_status want, const char *text)
{
    pare_model *m = make(s, NULL, t->be);
    fill(m, 7);
    write_model(m, t->be, t->source);
    pare_model_free(&m);
    assert_status(shrink(t, s), want);
    if (!strstr(pare_last_error(), text))
        fail_msg("no \"%s\" in \"%s\"", text, pare_last_error());
}

static void what_cannot_go_is_refused(void **state)
{
    (void)state;
    trial t;
    begin(&t);
    check_refused(&t, &(subject){NULL, bert, PARE_PATTERN_HEAD, 0.5, 0, NULL}, PARE_ERR_UNSUPPORTED,
                  "width takes heads along");
    check_refused(&t, &(subject){"resnet20-cifar:size=8", NULL, PARE_PATTERN_HEAD, 0.5, 0, NULL},
                  PARE_ERR_UNSUPPORTED, "no head of this model");
    check_refused(&t, &(subject){"mlp:48-10", NULL, PARE_PATTERN_CHANNEL, 0.5, 0, NULL},
                  PARE_ERR_UNSUPPORTED, "the model's input");
    check_refused(&t, &(subject){"mlp:48-10", NULL, PARE_PATTERN_LAYER, 0.5, 0, NULL},
                  PARE_ERR_UNSUPPORTED, "no layer of this model");
    char *glob[] = {(char *)(uintptr_t) "*.layers.0.*"};
    t.step.choice = (pare_choice){.include = glob, .includes = 1};
    check_refused(&t, &(subject){NULL, llama, PARE_PATTERN_CHANNEL, 0.5, 0, NULL},
                  PARE_ERR_UNSUPPORTED, "one number for all");
    glob[0] = (char *)(uintptr_t) "nothing.*";
    check_refused(&t, &(subject){NULL, llama, PARE_PATTERN_CHANNEL, 0.5, 0, NULL},
                  PARE_ERR_ARGUMENT, "leave nothing");
    end(&t);
}

static void some_layers_of_a_network_alone(void **state)
{
    (void)state;
    trial t;
    const subject s = {"resnet20-cifar:size=8", NULL, PARE_PATTERN_CHANNEL, 0.5, -1, NULL};
    char *glob[] = {(char *)(uintptr_t) "layer3.*"};
    pare_store *store;
    begin(&t);
    t.step.choice = (pare_choice){.include = glob, .includes = 1};
    pare_model *m = make(&s, NULL, t.be);
    fill(m, 7);
    write_model(m, t.be, t.source);
    pare_model_free(&m);
    assert_ok(shrink(&t, &s));
    assert_ok(pare_store_open(t.out, &store));
    int64_t at = pare_store_find(store, "layer2.1.conv1.weight");
    assert_int_equal(pare_store_entry(store, at)->shape[0], 32);
    at = pare_store_find(store, "layer3.1.conv1.weight");
    assert_int_equal(pare_store_entry(store, at)->shape[0], 32);
    at = pare_store_find(store, "layer3.1.bn1.running_var");
    assert_int_equal(pare_store_entry(store, at)->shape[0], 32);
    assert_non_null(strstr(pare_store_provenance(store), "channel"));
    pare_store_close(&store);
    end(&t);
}

static void an_output_that_exists_and_a_budget_too_small(void **state)
{
    (void)state;
    trial t;
    const subject s = {"mlp:48-20-5", NULL, PARE_PATTERN_CHANNEL, 0.5, -1, NULL};
    pare_report *report;
    begin(&t);
    pare_model *m = make(&s, NULL, t.be);
    fill(m, 7);
    write_model(m, t.be, t.source);
    pare_model_free(&m);
    t.step.pattern.kind = s.kind;
    t.step.sparsity = s.sparsity;
    assert_ok(pare__plan_shrink(&t.recipe, &t.options, &report));
    pare_report_free(&report);
    assert_false(pare__exists(t.out));
    assert_ok(shrink(&t, &s));
    assert_status(shrink(&t, &s), PARE_ERR_EXISTS);
    t.options.overwrite = true;
    assert_ok(shrink(&t, &s));
    t.options.memory = 4096;
    assert_status(shrink(&t, &s), PARE_ERR_MEMORY);
    t.options.memory = 0;
    t.recipe.output = t.recipe.model;
    assert_status(shrink(&t, &s), PARE_ERR_ARGUMENT);
    end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_zero_is_not_missed),
        cmocka_unit_test(what_stays_is_rounded),
        cmocka_unit_test(what_cannot_go_is_refused),
        cmocka_unit_test(some_layers_of_a_network_alone),
        cmocka_unit_test(an_output_that_exists_and_a_budget_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
