/* test_distill_pairing.c - words, layers, maps, stages; what does not go together is refused with
 * the reason. */
#include "distill_fixture.h"

#include "arch_sample.h"

#include "distill/distill_impl.h"

#include <math.h>

static pare_model *model_of(const char *arch, const char *config)
{
    pare_model *model = NULL;
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &model));
    return model;
}

/* ---- words ----------------------------------------------------------------------------------- */

static void lists_of_losses_are_read(void **state)
{
    (void)state;
    pare_distill_options o = {0};
    assert_ok(pare_distill_losses_parse("kl", &o));
    assert_true(fabs(o.weight[PARE_DISTILL_KL].from - 1) < 1e-12);
    assert_ok(pare_distill_losses_parse("hidden:0.25,ce:1>0.5,feature:0>2", &o));
    assert_true(!(fabs(o.weight[PARE_DISTILL_KL].from) > 0)); /* the list before is gone */
    assert_true(fabs(o.weight[PARE_DISTILL_HIDDEN].from - 0.25) < 1e-12);
    assert_true(!(o.weight[PARE_DISTILL_HIDDEN].end > 0));
    const pare_ramp *ce = &o.weight[PARE_DISTILL_CE], *feature = &o.weight[PARE_DISTILL_FEATURE];
    assert_true(fabs(pare_ramp_at(ce, 5, 10) - 0.75) < 0.06);
    assert_true(fabs(ce->to - 0.5) < 1e-12 && fabs(feature->to - 2) < 1e-12);
    for (int k = 0; k < PARE_DISTILL_KINDS; k++) {
        const char *name = pare_distill_kind_name((pare_distill_kind)k);
        assert_ok(pare_distill_losses_parse(name, &o));
        assert_true(o.weight[k].from > 0);
    }
}

static void lists_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const lists[] = {"",        ",",        "kl,",     "kl:0", "kl:-1", "kl:x",
                                        "kl:1>-1", "kl,kl",    "kl:0>0",  "kl:",  "soft",  "kl:1>",
                                        "kl:inf",  "kl:1,,ce", "hiden:1", "kl 1"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        pare_distill_options o = {0};
        assert_status(pare_distill_losses_parse(lists[i], &o), PARE_ERR_ARGUMENT);
    }
    pare_distill_options o = {0};
    assert_status(pare_distill_losses_parse("hiden:1", &o), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"hidden\""));
}

static void maps_have_names(void **state)
{
    (void)state;
    for (int i = PARE_MAP_UNIFORM; i <= PARE_MAP_TOP; i++) {
        pare_layer_map map;
        assert_ok(pare_layer_map_parse(pare_layer_map_name((pare_layer_map)i), &map));
        assert_int_equal(map, i);
    }
    pare_layer_map map;
    assert_status(pare_layer_map_parse("unifrom", &map), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "uniform"));
}

/* ---- maps ------------------------------------------------------------------------------------ */

typedef struct map_case {
    pare_layer_map map;
    int64_t student, teacher, at[6];
} map_case;

static const map_case map_cases[] = {
    {PARE_MAP_UNIFORM, 4, 12, {2, 5, 8, 11}},    {PARE_MAP_UNIFORM, 5, 12, {1, 3, 6, 8, 11}},
    {PARE_MAP_UNIFORM, 3, 3, {0, 1, 2}},         {PARE_MAP_UNIFORM, 4, 2, {-1, 0, 0, 1}},
    {PARE_MAP_LAST, 3, 12, {9, 10, 11}},         {PARE_MAP_LAST, 3, 2, {-1, 0, 1}},
    {PARE_MAP_SKIP, 6, 12, {0, 2, 4, 6, 8, 10}}, {PARE_MAP_SKIP, 3, 12, {0, 4, 8}},
    {PARE_MAP_CONTIGUOUS, 3, 12, {0, 1, 2}},     {PARE_MAP_CONTIGUOUS, 3, 2, {0, 1, -1}},
    {PARE_MAP_TOP, 3, 12, {-1, -1, 11}},         {PARE_MAP_TOP, 1, 1, {0}},
};

static void maps_put_layers_together(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof map_cases / sizeof *map_cases; i++) {
        const map_case *c = &map_cases[i];
        for (int64_t k = 0; k < c->student; k++)
            assert_int_equal(pare_layer_map_at(c->map, k, c->student, c->teacher), c->at[k]);
        assert_int_equal(pare_layer_map_at(c->map, c->student, c->student, c->teacher), -1);
        assert_int_equal(pare_layer_map_at(c->map, -1, c->student, c->teacher), -1);
    }
}

/* ---- layers ---------------------------------------------------------------------------------- */

typedef struct layer_case {
    const char *name; /* of an arch_sample */
    int64_t layers, width;
    int heads, kv_heads;
} layer_case;

static const layer_case layer_cases[] = {
    {"llama", 2, 16, 4, 2},     {"mistral", 2, 16, 4, 2},
    {"qwen3", 2, 16, 4, 2},     {"gpt2", 2, 12, 3, 3},
    {"bert", 2, 16, 2, 2},      {"bert that gives a vector", 2, 16, 2, 2},
    {"roberta", 2, 16, 2, 2},   {"distilbert", 1, 16, 2, 2},
    {"vit", 2, 16, 2, 2},       {"deit with a pooler", 2, 16, 2, 2},
    {"vit_plain", 2, 16, 2, 2}, {"resnet20", 9, 0, 0, 0},
    {"resnet18", 8, 0, 0, 0},   {"mlp", 0, 0, 0, 0},
    {"cnn", 0, 0, 0, 0},
};

static const arch_sample *sample_of(const char *name)
{
    const arch_sample *s = arch_samples;
    while (s->name && strcmp(s->name, name) != 0)
        s++;
    assert_non_null(s->name);
    return s;
}

static void layers_of_every_architecture(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof layer_cases / sizeof *layer_cases; i++) {
        const layer_case *c = &layer_cases[i];
        const arch_sample *s = sample_of(c->name);
        pare_model *model = model_of(s->arch, s->config);
        pare_layer_view *layers;
        int64_t count;
        assert_ok(pare_distill_layers(model, &layers, &count));
        if (count != c->layers)
            fail_msg("%s has %lld layers", c->name, (long long)count);
        for (int64_t k = 0; k < count; k++) {
            assert_true(k == 0 || layers[k].last > layers[k - 1].last);
            assert_int_equal(layers[k].heads, c->heads);
            assert_int_equal(layers[k].kv_heads, c->kv_heads);
            assert_int_equal(layers[k].attention >= 0, c->heads > 0);
            assert_true(c->width == 0 || layers[k].width == c->width);
            assert_int_equal(layers[k].side > 0, c->heads == 0);
            if (c->heads > 0)
                assert_string_equal(pare_model_node(model, layers[k].attention).kind, "attention");
        }
        free(layers);
        pare_model_free(&model);
    }
}

/* The hidden state of a layer is what the next one reads: through it all gradients pass. */
static void the_last_node_of_a_layer_gives_its_hidden_state(void **state)
{
    (void)state;
    const arch_sample *s = sample_of("llama");
    pare_model *model = model_of(s->arch, s->config);
    pare_layer_view *layers;
    int64_t count;
    assert_ok(pare_distill_layers(model, &layers, &count));
    assert_string_equal(pare_model_node(model, layers[0].last).kind, "add");
    assert_string_equal(pare_model_node(model, layers[0].last + 1).name,
                        "model.layers.1.input_layernorm");
    assert_string_equal(pare_model_node(model, layers[1].last + 1).name, "model.norm");
    free(layers);
    pare_model_free(&model);
}

static void stages_are_the_last_maps_of_a_size(void **state)
{
    (void)state;
    pare_model *model = model_of("cnn:8-p-12-10,in=1,size=8,classes=4", NULL);
    pare__stage_view *stages;
    int64_t count;
    assert_ok(pare__distill_stages(model, &stages, &count));
    assert_int_equal(count, 2);
    assert_int_equal(stages[0].height, 8);
    assert_int_equal(stages[0].width, 8);
    assert_int_equal(stages[1].height, 4);
    assert_int_equal(stages[1].width, 10);
    free(stages);
    pare_model_free(&model);
    model = model_of("resnet20-cifar:in=1,size=8,classes=4", NULL);
    assert_ok(pare__distill_stages(model, &stages, &count));
    assert_int_equal(count, 3);
    for (int64_t i = 0; i < 3; i++)
        assert_int_equal(stages[i].side, 8 >> i);
    assert_string_equal(pare_model_node(model, stages[0].node).kind, "batch_norm");
    free(stages);
    pare_model_free(&model);
}

/* ---- what does not go together --------------------------------------------------------------- */

typedef struct refusal {
    const char *student_arch, *student, *teacher_arch, *teacher, *losses, *says;
} refusal;

#define LLAMA DUEL_LLAMA("16", "2", "4", "2", "29")
#define BERT DUEL_BERT("BertForSequenceClassification", "16", "2", "2")
#define WINDOWED                                                                                   \
    "{\"model_type\": \"mistral\", \"vocab_size\": 29, \"hidden_size\": 16, "                      \
    "\"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"num_key_value_heads\": 2, \"head_dim\": 4, \"sliding_window\": 3, "                         \
    "\"max_position_embeddings\": 6}"

static const refusal refusals[] = {
    {NULL, LLAMA, NULL, DUEL_LLAMA("16", "2", "4", "2", "31"), "kl", "29 tokens"},
    {NULL, LLAMA, NULL, BERT, "kl", "the student gives tokens, the teacher classes"},
    {NULL, LLAMA, NULL, LLAMA, "cosine", "take kl"},
    {NULL, LLAMA, "mlp:64-4", NULL, "kl", "takes tokens, the teacher images"},
    {"mlp:64-4", NULL, "mlp:49-4", NULL, "kl", "images of"},
    {"mlp:64-4", NULL, "mlp:64-5", NULL, "kl", "4 classes"},
    {NULL, BERT, NULL, DUEL_BERT("BertModel", "16", "2", "2"), "kl", "embeddings"},
    {NULL, DUEL_BERT("BertModel", "16", "2", "2"), NULL, DUEL_BERT("BertModel", "12", "2", "2"),
     "cosine", "16 features"},
    {NULL, DUEL_BERT("BertModel", "16", "2", "2"), NULL, DUEL_BERT("BertModel", "16", "2", "2"),
     "kl", "is for classes and tokens"},
    {"mlp:64-4", NULL, "mlp:64-16-4", NULL, "hidden", "no layers"},
    {NULL, LLAMA, NULL, DUEL_LLAMA("16", "2", "2", "2", "29"), "attention", "4 heads"},
    {NULL, WINDOWED, NULL, WINDOWED, "attention", "a window of 3"},
    {NULL, LLAMA, NULL, BERT, "relation", "causal"},
    {NULL, LLAMA, NULL, LLAMA, "feature", "feature map"},
    {"resnet20-cifar:in=1,size=8,classes=4", NULL,
     "vit:patch=4,dim=16,depth=2,heads=2,in=1,size=8,classes=4", NULL, "hidden",
     "cannot be compared"},
    {"resnet20-cifar:in=1,size=8,classes=4", NULL, "resnet20-cifar:in=1,size=8,classes=4", NULL,
     "attention", "has no attention"},
    {"cnn:4,in=1,size=8,classes=4", NULL, "resnet20-cifar:in=1,size=8,classes=4", NULL, "kl",
     "--scale 0.00392156886 --mean 0.4490"},
};

static void what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        pare_model *student = model_of(r->student_arch, r->student);
        pare_model *teacher = model_of(r->teacher_arch, r->teacher);
        pare_distill_options o = {0};
        pare_distill *d = NULL;
        assert_ok(pare_distill_losses_parse(r->losses, &o));
        if (!strstr(r->says, "--scale"))
            pare_model_take_pixels(student, pare_model_facts_of(teacher));
        pare_status got = pare_distill_create(&o, student, teacher, NULL, &d);
        if (got != PARE_ERR_ARGUMENT && got != PARE_ERR_UNSUPPORTED)
            fail_msg("case %zu (%s): %s", i, r->says, pare_status_name(got));
        if (!strstr(pare_last_error(), r->says))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, pare_last_error(), r->says);
        assert_null(d);
        pare_model_free(&student);
        pare_model_free(&teacher);
    }
}

static void options_that_cannot_be_are_refused(void **state)
{
    (void)state;
    pare_model *student = model_of(NULL, LLAMA), *teacher = model_of(NULL, LLAMA);
    pare_distill *d = NULL;
    pare_distill_options o = {0};
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.weight[PARE_DISTILL_KL].from = 1;
    assert_status(pare_distill_create(&o, student, NULL, NULL, &d), PARE_ERR_ARGUMENT);
    assert_status(pare_distill_create(&o, student, student, NULL, &d), PARE_ERR_ARGUMENT);
    o.temperature.from = -1;
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.temperature = (pare_ramp){.from = 1, .to = 0, .end = 1};
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.temperature = (pare_ramp){0};
    o.weight[PARE_DISTILL_HIDDEN].from = (double)NAN;
    o.weight[PARE_DISTILL_HIDDEN].to = 1;
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.weight[PARE_DISTILL_HIDDEN] = (pare_ramp){0};
    o.weight[PARE_DISTILL_RELATION].from = 1;
    o.relation_layer = 3;
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.relation_layer = 0;
    o.relation_heads = 3;
    assert_status(pare_distill_create(&o, student, teacher, NULL, &d), PARE_ERR_ARGUMENT);
    o.relation_heads = 8;
    assert_ok(pare_distill_create(&o, student, teacher, NULL, &d));
    pare_distill_free(&d);
    pare_model_free(&student);
    pare_model_free(&teacher);
}

/* ---- terms without memory -------------------------------------------------------------------- */

static void terms_are_there_before_anything_is_prepared(void **state)
{
    (void)state;
    pare_model *student = model_of(NULL, DUEL_LLAMA("12", "2", "4", "2", "29"));
    pare_model *teacher = model_of(NULL, LLAMA);
    pare_distill_options o = {0};
    pare_distill *d = NULL;
    const pare_loss_term *terms;
    size_t count;
    assert_ok(pare_distill_losses_parse("hidden:0.5,kl:1", &o));
    assert_ok(pare_distill_create(&o, student, teacher, NULL, &d));
    assert_int_equal(pare_distill_bytes(d), 2 * 2 * 16 * 12 * 4);
    assert_ok(pare_distill_terms(d, NULL, 1, &terms, &count));
    assert_int_equal(count, 2);
    assert_string_equal(terms[0].loss->name, "kl"); /* outputs come first */
    assert_int_equal(terms[0].learned_count, 0);
    assert_int_equal(terms[1].learned_count, 2);
    assert_string_equal(terms[1].learned[1].name, "distill/hidden/1");
    assert_int_equal(terms[1].learned[0].value.shape[0], 16);
    assert_int_equal(terms[1].learned[0].value.shape[1], 12);
    assert_null(terms[1].learned[0].value.data);
    pare_model_shape shape = {.batch = 2, .length = 8, .training = true, .compute = PARE_BF16};
    for (size_t i = 0; i < count; i++)
        assert_true(terms[i].loss->scratch(terms[i].state, student, &shape) >=
                    terms[i].loss->results(terms[i].state, student, &shape));
    assert_int_equal(pare_model_tap_count(student), 2);
    assert_int_equal(pare_model_tap_count(teacher), 2);
    pare_distill_free(&d);
    pare_model_free(&student);
    pare_model_free(&teacher);
}

/* From a seed the same values, of a variance of one over the width. */
static void projections_come_from_the_seed(void **state)
{
    (void)state;
    pare_backend *be;
    pare_model *student =
        model_of("vit:patch=4,dim=64,depth=1,heads=2,in=1,size=8,classes=4", NULL);
    pare_model *teacher =
        model_of("vit:patch=4,dim=128,depth=1,heads=2,in=1,size=8,classes=4", NULL);
    pare_distill_options o = {0};
    pare_distill *d = NULL;
    const pare_loss_term *terms;
    size_t count;
    static float first[128 * 64];
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_distill_losses_parse("hidden", &o));
    assert_ok(pare_distill_create(&o, student, teacher, NULL, &d));
    for (uint64_t seed = 1; seed < 4; seed++) {
        assert_ok(pare_distill_terms(d, be, seed / 2, &terms, &count));
        const float *w = terms[0].learned[0].value.data;
        double squares = 0;
        for (int i = 0; i < 128 * 64; i++)
            squares += (double)w[i] * (double)w[i];
        assert_true(fabs(squares / 128 - 1) < 0.1);
        if (seed > 1)
            assert_int_equal(memcmp(first, w, sizeof first) == 0, seed == 3);
        memcpy(first, w, sizeof first);
    }
    pare_distill_free(&d);
    pare_model_free(&student);
    pare_model_free(&teacher);
    pare_backend_free(&be);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(lists_of_losses_are_read),
        T(lists_that_make_no_sense_are_refused),
        T(maps_have_names),
        T(maps_put_layers_together),
        T(layers_of_every_architecture),
        T(the_last_node_of_a_layer_gives_its_hidden_state),
        T(stages_are_the_last_maps_of_a_size),
        T(what_does_not_go_together_is_refused),
        T(options_that_cannot_be_are_refused),
        T(terms_are_there_before_anything_is_prepared),
        T(projections_come_from_the_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
