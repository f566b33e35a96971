/* test_arch.c - which tensors are left alone, and why; which models there are, and what is refused.
 */
#include "test.h"

#include "pare/model.h"

/* ---- roles ----------------------------------------------------------------------------------- */

static pare_role role(const char *config, const char *name, int rank, pare_dtype dtype)
{
    const char *reason = NULL;
    pare_entry e = {.name = name, .dtype = dtype, .rank = rank, .shape = {8, 8, 3, 3}};
    pare_role r = pare_entry_role(config, &e, &reason);
    assert_non_null(reason);
    return r;
}

static void a_plain_state_dict_goes_by_rank_and_the_fields_names(void **unused)
{
    (void)unused;
    assert_int_equal(role(NULL, "layer1.0.conv1.weight", 4, PARE_F32), PARE_ROLE_CONV);
    assert_int_equal(role(NULL, "linear.weight", 2, PARE_F32), PARE_ROLE_LINEAR);
    assert_int_equal(role(NULL, "linear.bias", 1, PARE_F32), PARE_ROLE_BIAS);
    assert_int_equal(role(NULL, "bn1.weight", 1, PARE_F32), PARE_ROLE_BIAS);
    assert_int_equal(role(NULL, "patch_embed.proj.weight", 4, PARE_F32), PARE_ROLE_EMBEDDING);
    assert_int_equal(role(NULL, "model.fc.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(NULL, "classifier.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(NULL, "table", 2, PARE_I64), PARE_ROLE_OTHER);
}

static void known_architectures_go_by_their_tables(void **unused)
{
    (void)unused;
    const char *llama = "{\"model_type\": \"qwen2\"}", *bert = "{\"model_type\": \"bert\"}";
    assert_string_equal(pare_known_architecture(llama), "qwen2");
    assert_null(pare_known_architecture("{\"model_type\": \"mamba\"}"));
    assert_null(pare_known_architecture("not json"));
    assert_null(pare_known_architecture(NULL));
    assert_int_equal(role(llama, "model.layers.0.mlp.up_proj.weight", 2, PARE_BF16),
                     PARE_ROLE_LINEAR);
    assert_int_equal(role(llama, "model.embed_tokens.weight", 2, PARE_BF16), PARE_ROLE_EMBEDDING);
    assert_int_equal(role(llama, "lm_head.weight", 2, PARE_BF16), PARE_ROLE_HEAD);
    assert_int_equal(role(llama, "model.layers.3.self_attn.q_norm.weight", 1, PARE_F16),
                     PARE_ROLE_NORM);
    assert_int_equal(role(bert, "bert.embeddings.LayerNorm.weight", 1, PARE_F32), PARE_ROLE_NORM);
    assert_int_equal(role(bert, "embeddings.word_embeddings.weight", 2, PARE_F32),
                     PARE_ROLE_EMBEDDING);
    assert_int_equal(role(bert, "encoder.layer.0.output.dense.weight", 2, PARE_F32),
                     PARE_ROLE_LINEAR);
    assert_int_equal(role(bert, "classifier.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role("{\"model_type\": \"gpt2\"}", "h.0.attn.c_attn.weight", 2, PARE_F32),
                     PARE_ROLE_OTHER);
}

static void a_native_files_own_architecture_has_roles_too(void **unused)
{
    (void)unused;
    const char *resnet = "{\"pare_arch\": \"resnet20-cifar:in=1\", \"scale\": 1.0}";
    const char *tiny = "{\"pare_arch\": \"resnet8-tiny\"}", *mlp = "{\"pare_arch\": \"mlp:4-3-2\"}";
    const char *imagenet = "{\"pare_arch\": \"resnet50\"}",
               *vit = "{\"pare_arch\": \"vit:dim=64\"}";
    assert_string_equal(pare_known_architecture(resnet), "resnet20-cifar");
    assert_null(pare_known_architecture("{\"pare_arch\": \"resnet21-cifar\"}"));
    assert_int_equal(role(resnet, "conv1.weight", 4, PARE_F32), PARE_ROLE_CONV);
    assert_int_equal(role(resnet, "layer1.0.bn1.weight", 1, PARE_F32), PARE_ROLE_NORM);
    assert_int_equal(role(resnet, "linear.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(imagenet, "layer1.0.downsample.0.weight", 4, PARE_F32), PARE_ROLE_CONV);
    assert_int_equal(role(imagenet, "layer1.0.downsample.1.weight", 1, PARE_F32), PARE_ROLE_NORM);
    assert_int_equal(role(imagenet, "fc.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(tiny, "conv2d_5.weight", 4, PARE_F32), PARE_ROLE_CONV);
    assert_int_equal(role(tiny, "dense.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(mlp, "layers.0.weight", 2, PARE_F32), PARE_ROLE_LINEAR);
    assert_int_equal(role(mlp, "head.weight", 2, PARE_F32), PARE_ROLE_HEAD);
    assert_int_equal(role(vit, "transformer.layers.0.self_attn.in_proj_weight", 2, PARE_F32),
                     PARE_ROLE_LINEAR);
    assert_int_equal(role(vit, "patch_embed.proj.weight", 4, PARE_F32), PARE_ROLE_EMBEDDING);
    assert_int_equal(role(vit, "mlp_head.1.weight", 2, PARE_F32), PARE_ROLE_HEAD);
}

/* ---- models ---------------------------------------------------------------------------------- */

static pare_model *make(const char *arch, const char *config)
{
    pare_model *model;
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &model));
    return model;
}

/* Elements that are learned. */
static int64_t size(pare_model *model)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        n += p->buffer ? 0 : pare_tensor_count(&p->value);
    }
    return n;
}

/* Published sizes: a layer too much or too narrow would show. */
static const struct {
    const char *arch, *config;
    int64_t parameters;
} published[] = {
    {"resnet20-cifar", NULL, 269722},
    {"resnet32-cifar", NULL, 464154},
    {"resnet44-cifar", NULL, 658586},
    {"resnet56-cifar", NULL, 853018},
    {"resnet110-cifar", NULL, 1727962},
    {"resnet18", NULL, 11689512},
    {"resnet34", NULL, 21797672},
    {"resnet50", NULL, 25557032},
    {"resnet8-tiny", NULL, 78186},
    {"vit:patch=4,dim=128,depth=6,heads=8,mlp=256", NULL, 811146},
    {"mlp:784-256-10", NULL, 203530},
    {"cnn:32-p-64,in=1,size=28", NULL, 9 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64 + 650},
    {NULL,
     "{\"model_type\": \"gpt2\", \"n_embd\": 768, \"n_head\": 12, \"n_layer\": 12, "
     "\"vocab_size\": 50257}",
     124439808},
    {NULL,
     "{\"model_type\": \"llama\", \"hidden_size\": 4096, \"intermediate_size\": 11008, "
     "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"vocab_size\": 32000}",
     6738415616},
    {NULL,
     "{\"model_type\": \"mistral\", \"hidden_size\": 4096, \"intermediate_size\": 14336, "
     "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"vocab_size\": 32000}",
     7241732096},
    {NULL,
     "{\"model_type\": \"qwen2\", \"hidden_size\": 896, \"intermediate_size\": 4864, "
     "\"num_hidden_layers\": 24, \"num_attention_heads\": 14, \"num_key_value_heads\": 2, "
     "\"tie_word_embeddings\": true, \"vocab_size\": 151936}",
     494032768},
    {NULL,
     "{\"model_type\": \"qwen3\", \"hidden_size\": 1024, \"intermediate_size\": 3072, "
     "\"num_hidden_layers\": 28, \"num_attention_heads\": 16, \"num_key_value_heads\": 8, "
     "\"head_dim\": 128, \"tie_word_embeddings\": true, \"vocab_size\": 151936}",
     596049920},
    {NULL,
     "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "
     "\"hidden_size\": 768, \"num_hidden_layers\": 12, \"num_attention_heads\": 12, "
     "\"intermediate_size\": 3072, \"vocab_size\": 30522}",
     109483778},
    {NULL,
     "{\"model_type\": \"distilbert\", \"dim\": 768, \"n_layers\": 6, \"n_heads\": 12, "
     "\"hidden_dim\": 3072, \"vocab_size\": 30522}",
     66362880},
    {NULL,
     "{\"model_type\": \"vit\", \"architectures\": [\"ViTForImageClassification\"], "
     "\"hidden_size\": 768, \"num_hidden_layers\": 12, \"num_attention_heads\": 12, "
     "\"num_labels\": 1000}",
     86567656},
};

static void models_have_the_parameters_that_are_published(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        pare_model *model = make(published[i].arch, published[i].config);
        if (size(model) != published[i].parameters)
            fail_msg("%s: %lld parameters, not %lld",
                     published[i].arch ? published[i].arch : published[i].config,
                     (long long)size(model), (long long)published[i].parameters);
        pare_model_free(&model);
        assert_null(model);
    }
}

static void keys_change_inputs_and_classes(void **unused)
{
    (void)unused;
    pare_model *model = make("resnet20-cifar:in=1,size=28,classes=47", NULL);
    const pare_model_facts *f = pare_model_facts_of(model);
    assert_string_equal(f->family, "resnet");
    assert_int_equal(f->output, PARE_OUTPUT_CLASSES);
    assert_int_equal(f->channels, 1);
    assert_int_equal(f->height, 28);
    assert_int_equal(f->width, 28);
    assert_int_equal(f->classes, 47);
    assert_false(f->tokens);
    pare_model_free(&model);
    model = make("mlp:3072-10", NULL);
    f = pare_model_facts_of(model);
    assert_int_equal(f->channels, 3);
    assert_int_equal(f->height, 32);
    pare_model_free(&model);
    model = make("mlp:7-2", NULL);
    f = pare_model_facts_of(model);
    assert_int_equal(f->channels * f->height * f->width, 7);
    pare_model_free(&model);
}

static void the_caller_may_ask_for_other_classes(void **unused)
{
    (void)unused;
    static const char *const arches[] = {"resnet18:classes=5", "mlp:784-256-10", "cnn:8,classes=3",
                                         "vit:depth=1", "resnet8-tiny"};
    for (size_t i = 0; i < sizeof arches / sizeof *arches; i++) {
        pare_model *model, *again;
        assert_ok(
            pare_model_create(&(pare_model_options){.arch = arches[i], .classes = 17}, &model));
        assert_int_equal(pare_model_facts_of(model)->classes, 17);
        assert_ok(
            pare_model_create(&(pare_model_options){.config = pare_model_config(model)}, &again));
        assert_int_equal(pare_model_facts_of(again)->classes, 17);
        assert_int_equal(size(again), size(model));
        pare_model_free(&again);
        pare_model_free(&model);
    }
}

static void its_config_builds_a_model_again_with_its_preprocessing(void **unused)
{
    (void)unused;
    pare_model *model = make("resnet20-cifar:in=3", NULL), *again;
    pare_model_facts *f = pare_model_facts_edit(model);
    assert_true(f->mean[0] == 0.485f);
    assert_true(f->std[2] == 0.225f);
    assert_true(f->scale == 1.0f / 255);
    f->mean[1] = 0.1f;
    f->std[0] = 3.25f;
    f->scale = 1;
    assert_string_equal(pare_model_config(model),
                        "{\"pare_arch\": \"resnet20-cifar:in=3\", \"classes\": 10, \"scale\": 1, "
                        "\"mean\": [0.485, 0.1, 0.406], \"std\": [3.25, 0.224, 0.225]}\n");
    again = make(NULL, pare_model_config(model));
    const pare_model_facts *g = pare_model_facts_of(again);
    assert_memory_equal(g->mean, f->mean, 3 * sizeof(float));
    assert_memory_equal(g->std, f->std, 3 * sizeof(float));
    assert_true(g->scale == f->scale);
    assert_string_equal(pare_model_config(again), pare_model_config(model));
    pare_model_free(&again);
    pare_model_free(&model);
    const char *text = "{\"model_type\": \"bert\", \"hidden_size\": 8, \"num_hidden_layers\": 1, "
                       "\"num_attention_heads\": 2, \"vocab_size\": 9, \"pad_token_id\": 0}";
    model = make(NULL, text);
    assert_string_equal(pare_model_config(model), text);
    assert_int_equal(pare_model_facts_of(model)->pad_id, 0);
    assert_int_equal(pare_model_facts_of(model)->bos_id, -1);
    assert_int_equal(pare_model_facts_of(model)->output, PARE_OUTPUT_VECTOR);
    pare_model_free(&model);
}

static void the_list_names_every_architecture(void **unused)
{
    (void)unused;
    bool resnet = false, llama = false;
    for (const pare_arch_line *line = pare_arch_list(); line->name; line++) {
        assert_true(strlen(line->summary) > 5);
        resnet = resnet || strcmp(line->name, "resnet20-cifar") == 0;
        llama = llama || strcmp(line->name, "llama") == 0;
    }
    assert_true(resnet && llama);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refused(const char *arch, const char *config, pare_status status, const char *part)
{
    pare_model *model = (pare_model *)&model;
    assert_status(pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &model),
                  status);
    assert_null(model);
    if (!strstr(pare_last_error(), part))
        fail_msg("%s: \"%s\" lacks \"%s\"", arch ? arch : config, pare_last_error(), part);
}

static void unknown_names_say_which_are_known(void **unused)
{
    (void)unused;
    refused("resnet20-cifr", NULL, PARE_ERR_ARGUMENT, "did you mean resnet20-cifar?");
    refused("zebra", NULL, PARE_ERR_ARGUMENT, "resnet50");
    refused("", NULL, PARE_ERR_ARGUMENT, "known");
    refused("llama", NULL, PARE_ERR_ARGUMENT, "known");
    refused(NULL, "{\"model_type\": \"mamba\"}", PARE_ERR_UNSUPPORTED, "llama");
    refused(NULL, "{\"model_type\": \"resnet18\"}", PARE_ERR_UNSUPPORTED, "known");
    refused(NULL, "{}", PARE_ERR_UNSUPPORTED, "--arch");
    refused(NULL, "[1]", PARE_ERR_UNSUPPORTED, "model_type");
    refused(NULL, "{", PARE_ERR_DAMAGED, "config.json");
    refused(NULL, NULL, PARE_ERR_ARGUMENT, "--arch");
}

static void texts_that_do_not_parse_are_refused(void **unused)
{
    (void)unused;
    static const char *const texts[][2] = {
        {"resnet18:clases=3", "did you mean classes?"},
        {"resnet18:size", "no key=value"},
        {"resnet18:size=0", "size"},
        {"resnet18:size=-3", "size"},
        {"resnet18:size=x", "size"},
        {"resnet18:size=", "size"},
        {"resnet18:size=999999999999999999999", "size"},
        {"resnet18:in=5", "in=5"},
        {"resnet18:in=1,in=1", "twice"},
        {"resnet18:=3", "no key"},
        {"resnet18: in=3", "' '"},
        {"resnet18:\"", "belongs to no"},
        {"mlp", "784-256-10"},
        {"mlp:", "784-256-10"},
        {"mlp:784", "784-256-10"},
        {"mlp:784-0-10", "\"0\""},
        {"mlp:784--10", "\"\""},
        {"mlp:784-a-10", "\"a\""},
        {"mlp:784-10-", "\"\""},
        {"mlp:784-10,act=swash", "swash"},
        {"mlp:784-10,size=27", "784"},
        {"mlp:784-10,dropout=1", "dropout"},
        {"cnn", "\"\""},
        {"cnn:32-q", "\"q\""},
        {"cnn:p-p-p-p-p-p-p,size=8", ""},
        {"vit:dim=10,heads=3", "divide"},
        {"vit:patch=8,size=4", "patch"},
        {"vit:depth=1000000000", "depth"},
        {"vit:4", "\"4\""},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        pare_model *model;
        pare_status status = pare_model_create(&(pare_model_options){.arch = texts[i][0]}, &model);
        if ((status != PARE_ERR_ARGUMENT && status != PARE_ERR_DAMAGED) ||
            !strstr(pare_last_error(), texts[i][1]))
            fail_msg("%s: %s: \"%s\" lacks \"%s\"", texts[i][0], pare_status_name(status),
                     pare_last_error(), texts[i][1]);
        assert_null(model);
    }
}

#define LLAMA(more)                                                                                \
    "{\"model_type\": \"llama\", \"hidden_size\": 48, \"intermediate_size\": 80, "                 \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"vocab_size\": 61" more "}"
#define QWEN(more)                                                                                 \
    "{\"model_type\": \"qwen2\", \"hidden_size\": 48, \"intermediate_size\": 80, "                 \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, "           \
    "\"vocab_size\": 61" more "}"
#define BERT(more)                                                                                 \
    "{\"model_type\": \"bert\", \"hidden_size\": 8, \"num_hidden_layers\": 1, "                    \
    "\"num_attention_heads\": 2, \"vocab_size\": 9" more "}"
#define VIT(more)                                                                                  \
    "{\"model_type\": \"vit\", \"hidden_size\": 8, \"num_hidden_layers\": 1, "                     \
    "\"num_attention_heads\": 2" more "}"
#define GPT2(more) "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"vocab_size\": 9" more "}"

/* A config.json, and what its refusal must say. */
static const char *const hostile[][2] = {
    {"{\"model_type\": \"llama\"}", "hidden_size"},
    {"{\"model_type\": 7}", "model_type"},
    {LLAMA(", \"num_key_value_heads\": 0"), "num_key_value_heads"},
    {LLAMA(", \"num_key_value_heads\": 4"), "divide"},
    {LLAMA(", \"head_dim\": 7"), "pairs"},
    {LLAMA(", \"head_dim\": -8"), "head_dim"},
    {LLAMA(", \"rms_norm_eps\": \"small\""), "rms_norm_eps"},
    {LLAMA(", \"tie_word_embeddings\": \"yes\""), "tie_word_embeddings"},
    {LLAMA(", \"hidden_act\": \"maxout\""), "maxout"},
    {LLAMA(", \"attention_dropout\": 1.0"), "attention_dropout"},
    {LLAMA(", \"architectures\": [\"LlamaForSequenceClassification\"]"),
     "LlamaForSequenceClassification"},
    {LLAMA(", \"max_position_embeddings\": 0"), "max_position_embeddings"},
    {LLAMA(", \"rope_theta\": \"big\""), "rope_theta"},
    {LLAMA(", \"rope_theta\": 0.5"), "rope_theta"},
    {LLAMA(", \"rope_scaling\": 3"), "rope_scaling must be an object"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"su\"}"), "\"su\""},
    {LLAMA(", \"rope_scaling\": {\"type\": 4}"), "known are"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"linear\"}"), "rope_scaling.factor is missing"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}"), "factor"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1], "
           "\"long_factor\": [1]}"),
     "list of 4 numbers"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1, 0, 1], "
           "\"long_factor\": [1, 1, 1, 1]}"),
     "short_factor[2]"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 2, "
           "\"high_freq_factor\": 2}"),
     "must differ"},
    {LLAMA(", \"rope_parameters\": {\"full_attention\": {}}"), "by layer type"},
    {LLAMA(", \"partial_rotary_factor\": 0.1"), "pairs"},
    {QWEN(", \"use_sliding_window\": true, \"layer_types\": [\"full_attention\"]"),
     "layer_types[1]"},
    {QWEN(", \"layer_types\": [\"full_attention\", \"sliding_attention\"]"), "layer_types[1]"},
    {QWEN(", \"use_sliding_window\": 1"), "use_sliding_window"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 48, \"intermediate_size\": 80, "
     "\"num_hidden_layers\": 1000000000, \"num_attention_heads\": 6, \"vocab_size\": 61}",
     "num_hidden_layers"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 49, \"intermediate_size\": 80, "
     "\"num_hidden_layers\": 1, \"num_attention_heads\": 6, \"vocab_size\": 61}",
     "divide"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 48, \"intermediate_size\": 80, "
     "\"num_hidden_layers\": 1, \"num_attention_heads\": 0, \"vocab_size\": 61}",
     "num_attention_heads"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 48.5, \"intermediate_size\": 80, "
     "\"num_hidden_layers\": 1, \"num_attention_heads\": 6, \"vocab_size\": 61}",
     "hidden_size"},
    {"{\"model_type\": \"llama\", \"hidden_size\": \"48\", \"intermediate_size\": 80, "
     "\"num_hidden_layers\": 1, \"num_attention_heads\": 6, \"vocab_size\": 61}",
     "hidden_size"},
    {GPT2(", \"n_embd\": 12, \"n_head\": 5"), "divide"},
    {GPT2(", \"n_embd\": 12, \"n_head\": 4, \"add_cross_attention\": true"), "cross"},
    {GPT2(", \"n_embd\": 12, \"n_head\": 4, \"resid_pdrop\": -1"), "resid_pdrop"},
    {GPT2(", \"n_embd\": 12, \"n_head\": 4, \"architectures\": [\"GPT2DoubleHeadsModel\"]"),
     "GPT2DoubleHeadsModel"},
    {BERT(", \"position_embedding_type\": \"relative_key\""), "relative_key"},
    {BERT(", \"is_decoder\": true"), "is_decoder"},
    {BERT(", \"architectures\": [\"BertForTokenClassification\"]"), "BertForTokenClass"},
    {BERT(", \"type_vocab_size\": 0"), "type_vocab_size"},
    {VIT(", \"image_size\": [1, 2, 3]"), "image_size"},
    {VIT(", \"image_size\": [32, -32]"), "image_size"},
    {VIT(", \"image_size\": 8, \"patch_size\": 9"), "patch_size"},
    {VIT(", \"num_channels\": 12"), "num_channels"},
    {"{\"model_type\": \"roberta\", \"hidden_size\": 8, \"num_hidden_layers\": 1, "
     "\"num_attention_heads\": 2, \"vocab_size\": 9, \"max_position_embeddings\": 2}",
     "max_position_embeddings"},
    {"{\"pare_arch\": \"resnet18\", \"mean\": [1]}", "mean"},
    {"{\"pare_arch\": \"resnet18\", \"std\": [1, 0, 1]}", "std[1]"},
    {"{\"pare_arch\": \"resnet18\", \"scale\": 1e308}", "scale"},
    {"{\"pare_arch\": \"resnet18\", \"mean\": [0, 0, 1e39]}", "mean[2]"},
    {LLAMA(", \"rms_norm_eps\": -1e-5"), "rms_norm_eps"},
    {"{\"pare_arch\": \"resnet18\", \"classes\": -4}", "classes"},
};

static void hostile_configs_give_one_clear_sentence(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        pare_model *model;
        pare_status status =
            pare_model_create(&(pare_model_options){.config = hostile[i][0]}, &model);
        if (status == PARE_OK || !strstr(pare_last_error(), hostile[i][1]))
            fail_msg("%s: %s: \"%s\" lacks \"%s\"", hostile[i][0], pare_status_name(status),
                     pare_last_error(), hostile[i][1]);
        assert_null(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_state_dict_goes_by_rank_and_the_fields_names),
        cmocka_unit_test(known_architectures_go_by_their_tables),
        cmocka_unit_test(a_native_files_own_architecture_has_roles_too),
        cmocka_unit_test(models_have_the_parameters_that_are_published),
        cmocka_unit_test(keys_change_inputs_and_classes),
        cmocka_unit_test(the_caller_may_ask_for_other_classes),
        cmocka_unit_test(its_config_builds_a_model_again_with_its_preprocessing),
        cmocka_unit_test(the_list_names_every_architecture),
        cmocka_unit_test(unknown_names_say_which_are_known),
        cmocka_unit_test(texts_that_do_not_parse_are_refused),
        cmocka_unit_test(hostile_configs_give_one_clear_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
