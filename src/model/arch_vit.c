/* arch_vit.c - Vision Transformer (Dosovitskiy 2020) and DeiT (Touvron 2021) as Hugging Face names
 * their tensors: patches, a class token (DeiT: and a distillation token), learned positions, norms
 * before attention and MLP.
 *
 * With a classifier it gives CLASSES, else the pooler's VECTOR, or the class token's.
 * preprocessor_config.json says how pixels come in.
 */
#include "arch.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*embeddings.*", PARE_ROLE_EMBEDDING, NULL},
    {"*layernorm*", PARE_ROLE_NORM, NULL},
    {"*classifier.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {"*mask_token", "*pooler.dense.*", NULL};

typedef struct encoder {
    int64_t width, head_dim, inner, image[2], patch[2], channels;
    int heads, layers;
    bool qkv_bias, distilled;
    float eps, dropout, attention_dropout;
    pare_fn fn;
} encoder;

/* A size: one number, or a list of height and width. */
static void read_pair(pare__build *b, const char *key, int64_t otherwise, int64_t pair[2])
{
    const pare__json *list = pare__json_get(b->config, key);
    pair[0] = pair[1] = 1;
    if (!pare__json_is_array(list)) {
        pair[0] = pair[1] = pare__config_int(b, key, otherwise, 1, 1 << 16);
        return;
    }
    for (size_t i = 0; i < 2; i++)
        if (pare__json_size(list) != 2 || !pare__json_int(pare__json_at(list, i), &pair[i]) ||
            pair[i] < 1 || pair[i] > 1 << 16) {
            pair[i] = 1;
            pare__build_fail(b, PARE_ERR_DAMAGED,
                             "config.json: \"%s\" must be a whole number, or two, up to 65536",
                             key);
        }
}

static encoder read_config(pare__build *b)
{
    encoder e = {0};
    e.distilled = strcmp(pare__config_word(b, "model_type", "vit"), "deit") == 0;
    e.head_dim = pare__config_heads(b, "hidden_size", "num_attention_heads", &e.width, &e.heads);
    e.layers = (int)pare__config_int(b, "num_hidden_layers", PARE__REQUIRED, 1, PARE__MOST_LAYERS);
    e.inner = pare__config_int(b, "intermediate_size", 4 * e.width, 1, PARE__MOST_WIDTH);
    e.eps = pare__config_eps(b, "layer_norm_eps", 1e-12);
    e.dropout = pare__config_dropout(b, "hidden_dropout_prob", 0);
    e.attention_dropout = pare__config_dropout(b, "attention_probs_dropout_prob", 0);
    e.fn = pare__config_fn(b, "hidden_act", "gelu");
    e.qkv_bias = pare__config_bool(b, "qkv_bias", true);
    e.channels = pare__config_int(b, "num_channels", 3, 1, 4);
    read_pair(b, "image_size", 224, e.image);
    read_pair(b, "patch_size", 16, e.patch);
    if (b->status == PARE_OK && (e.patch[0] > e.image[0] || e.patch[1] > e.image[1]))
        pare__build_fail(b, PARE_ERR_DAMAGED, "config.json: patch_size is larger than image_size");
    return e;
}

/* Numbers of a list, one a channel; a list that does not fit stops the build. */
static void read_numbers(pare__build *b, const pare__json *root, const char *key, bool positive,
                         int64_t channels, float *numbers)
{
    const pare__json *list = pare__json_get(root, key);
    for (int64_t c = 0; !pare__json_is_null(list) && c < channels; c++)
        if (!pare__json_pixel(pare__json_at(list, (size_t)c), positive, &numbers[c]))
            pare__build_fail(b, PARE_ERR_DAMAGED,
                             "preprocessor_config.json: %s must be a list of %lld numbers", key,
                             (long long)channels);
}

/* Pixels in [−1, 1] (ViT) or ImageNet's (DeiT), unless preprocessor_config.json says otherwise. */
static void preprocess(pare__build *b, const encoder *e)
{
    static const float half[3] = {0.5f, 0.5f, 0.5f};
    pare_model_facts *facts = &b->model->facts;
    pare__json *root;
    bool normalize = true, rescale = true;
    pare__config_side(b, "preprocessor_config.json", &root);
    pare__json_bool(pare__json_get(root, "do_normalize"), &normalize);
    pare__json_bool(pare__json_get(root, "do_rescale"), &rescale);
    if (normalize) {
        pare__preprocess(b, 1.0f / 255, e->distilled ? pare__imagenet_mean : half,
                         e->distilled ? pare__imagenet_std : half);
        read_numbers(b, root, "image_mean", false, e->channels, facts->mean);
        read_numbers(b, root, "image_std", true, e->channels, facts->std);
    } else
        pare__preprocess(b, 1.0f / 255, NULL, NULL);
    pare__json_pixel(pare__json_get(root, "rescale_factor"), true, &facts->scale);
    if (!rescale)
        facts->scale = 1;
    pare__json_free(&root);
}

static int embeddings(pare__build *b, const encoder *e)
{
    int64_t down = e->image[0] / e->patch[0], across = e->image[1] / e->patch[1];
    int64_t token[3] = {1, 1, e->width};
    int64_t table[3] = {1, down * across + 1 + e->distilled, e->width};
    pare_window window = {{(int)e->patch[0], (int)e->patch[1]},
                          {(int)e->patch[0], (int)e->patch[1]},
                          {1, 1},
                          0,
                          0,
                          0,
                          0};
    int x = pare__images(b, e->image[0], e->image[1], e->channels);
    preprocess(b, e);
    x = pare__conv(b, x, e->width, &window, 1, true, "embeddings.patch_embeddings.projection");
    x = pare__sequence(b, x);
    if (e->distilled) {
        pare__param_add(b, "embeddings.distillation_token", PARE_ROLE_EMBEDDING, 3, token);
        x = pare__prefix_row(b, x, "embeddings.distillation_token");
    }
    pare__param_add(b, "embeddings.cls_token", PARE_ROLE_EMBEDDING, 3, token);
    x = pare__prefix_row(b, x, "embeddings.cls_token");
    pare__param_add(b, "embeddings.position_embeddings", PARE_ROLE_EMBEDDING, 3, table);
    x = pare__position(b, x, table[1], 0, false, "embeddings.position_embeddings");
    x = pare__dropout(b, x, e->dropout);
    return x;
}

static int linear(pare__build *b, int x, int64_t out, bool bias, int layer, const char *name)
{
    return pare__linear(b, x, out, &(pare__linear_options){.bias = bias},
                        pare__name(b, "encoder.layer.%d.%s", layer, name));
}

static int norm(pare__build *b, const encoder *e, int x, int layer, const char *name)
{
    return pare__layer_norm(b, x, e->eps, true, pare__name(b, "encoder.layer.%d.%s", layer, name));
}

static int block(pare__build *b, const encoder *e, int x, int layer)
{
    int h = norm(b, e, x, layer, "layernorm_before");
    int q = linear(b, h, e->width, e->qkv_bias, layer, "attention.attention.query");
    int k = linear(b, h, e->width, e->qkv_bias, layer, "attention.attention.key");
    int v = linear(b, h, e->width, e->qkv_bias, layer, "attention.attention.value");
    pare__attention_options attention = {.heads = e->heads,
                                         .kv_heads = e->heads,
                                         .head_dim = e->head_dim,
                                         .dropout = e->attention_dropout};
    int a =
        pare__attention(b, q, k, v, &attention, pare__name(b, "encoder.layer.%d.attention", layer));
    a = linear(b, a, e->width, true, layer, "attention.output.dense");
    x = pare__residual(b, x, pare__dropout(b, a, e->dropout), false);
    h = norm(b, e, x, layer, "layernorm_after");
    h = pare__act(b, linear(b, h, e->inner, true, layer, "intermediate.dense"), e->fn);
    h = linear(b, h, e->width, true, layer, "output.dense");
    return pare__residual(b, x, pare__dropout(b, h, e->dropout), false);
}

static void build(pare__build *b)
{
    static const char *const tasks[] = {"ForImageClassification", "Model", NULL};
    bool asked = strcmp(pare__config_task(b, tasks), tasks[0]) == 0 || b->classes > 0;
    encoder e = read_config(b);
    const char *prefix = e.distilled ? "deit." : "vit.";
    bool classifies = pare__has(b, "classifier.weight", asked);
    if (pare__has(b, pare__name(b, "%sembeddings.cls_token", prefix), classifies))
        snprintf(b->prefix, sizeof b->prefix, "%s", prefix);
    int x = embeddings(b, &e);
    for (int i = 0; i < e.layers && b->status == PARE_OK; i++)
        x = block(b, &e, x, i);
    /* The last norm goes by rows and only the class token is read on: the order does not matter. */
    x = pare__layer_norm(b, pare__row(b, x, 0), e.eps, true, "layernorm");
    if (classifies) {
        b->prefix[0] = '\0';
        int64_t classes = pare__config_classes(b, "classifier.weight");
        x = pare__linear(b, x, classes, &(pare__linear_options){.bias = true, .head = true},
                         "classifier");
        pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
        return;
    }
    int64_t width = e.width;
    if (pare__has(b, "pooler.dense.weight", true)) {
        width = pare__config_int(b, "pooler_output_size", width, 1, PARE__MOST_WIDTH);
        x = pare__linear(b, x, width, &(pare__linear_options){.bias = true}, "pooler.dense");
        x = pare__act(b, x, pare__config_fn(b, "pooler_act", "tanh"));
    }
    pare__output(b, x, PARE_OUTPUT_VECTOR, width);
}

/* The width is that of all heads together: both go together, and no head by itself. */
static const char no_heads[] =
    "its config has no size of a head, which is the width divided by their "
    "number; the pattern width takes heads along";

static const pare__unit_rule units[] = {{"*.attention", PARE_UNIT_WIDTH, NULL},
                                        {"*intermediate.dense", PARE_UNIT_CHANNEL, NULL},
                                        {"*patch_embeddings.projection", PARE_UNIT_WIDTH, NULL},
                                        {"*layer.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {
    {"intermediate_size", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL) | PARE__ON(WIDTH)},
    {"hidden_size", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"num_attention_heads", PARE__SIZE_HEADS, PARE__ON(WIDTH)},
    {"pooler_output_size", PARE__SIZE_OUTPUT, PARE__ON(WIDTH)},
    {"num_hidden_layers", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, no_heads};

const pare__arch pare__arch_vit = {
    .family = "vit", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
