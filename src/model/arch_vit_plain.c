/* arch_vit_plain.c - a small vision transformer over PyTorch's own encoder layer: patches, a class
 * token, learned positions, norms after attention and MLP (ReLU), a norm and a linear layer on the
 * class token. Tensors are named as nn.TransformerEncoderLayer does: in_proj_weight is q, k and v.
 *
 * Keys: patch= dim= depth= heads= mlp= (defaults 4, 128, 6, 8, 2·dim), head_dim= (dim/heads; other
 * where heads were pruned), in= size= classes= (3, 32, 10), dropout= (0.1, as the layer's own
 * default; it acts in training only). Pixels: /255, CIFAR-10's mean and deviation.
 */
#include "arch.h"

static const pare__role_rule rules[] = {
    {"*cls_token", PARE_ROLE_EMBEDDING, NULL},
    {"*pos_embed", PARE_ROLE_EMBEDDING, NULL},
    {"*patch_embed.*", PARE_ROLE_EMBEDDING, NULL},
    {"*norm?.*", PARE_ROLE_NORM, NULL},
    {"*mlp_head.0.*", PARE_ROLE_NORM, NULL},
    {"*mlp_head.1.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

static const char *const ignored[] = {NULL};

#define EPS 1e-5f

typedef struct encoder {
    int64_t width, head_dim, inner, patch;
    int heads, layers;
    float dropout;
    pare__picture picture;
} encoder;

static encoder read_spec(pare__build *b)
{
    static const char *const keys[] = {"patch", "dim",  "depth",   "heads",   "mlp", "head_dim",
                                       "in",    "size", "classes", "dropout", NULL};
    encoder e;
    pare__spec_keys(b, keys, 0);
    e.width = pare__spec_int(b, "dim", pare__axis(b, "cls_token", 2, 128), 1, 1 << 16);
    e.layers = (int)pare__spec_int(b, "depth", 6, 1, PARE__MOST_LAYERS);
    e.heads = (int)pare__spec_int(b, "heads", 8, 1, 1 << 10);
    e.inner = pare__spec_int(b, "mlp", 2 * e.width, 1, PARE__MOST_WIDTH);
    e.patch = pare__spec_int(b, "patch", 4, 1, 1 << 10);
    e.dropout = (float)pare__spec_real(b, "dropout", 0.1, 0, 0.99);
    e.picture = pare__spec_picture(b, 32, pare__axis(b, "patch_embed.proj.weight", 1, 3));
    e.head_dim = pare__spec_int(b, "head_dim", 0, 1, 1 << 16);
    if (b->status == PARE_OK && e.head_dim == 0 && e.width % e.heads != 0)
        pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch vit: dim=%lld does not divide by heads=%d",
                         (long long)e.width, e.heads);
    if (e.head_dim == 0)
        e.head_dim = e.width / e.heads;
    if (b->status == PARE_OK && e.patch > e.picture.size)
        pare__build_fail(b, PARE_ERR_ARGUMENT, "--arch vit: patch=%lld is larger than size=%lld",
                         (long long)e.patch, (long long)e.picture.size);
    return e;
}

static int embeddings(pare__build *b, const encoder *e)
{
    int64_t side = e->picture.size / e->patch;
    int64_t token[3] = {1, 1, e->width}, table[3] = {1, side * side + 1, e->width};
    pare_window window = pare__square((int)e->patch, (int)e->patch, 0);
    int x = pare__images(b, e->picture.size, e->picture.size, e->picture.channels);
    x = pare__conv(b, x, e->width, &window, 1, true, "patch_embed.proj");
    x = pare__sequence(b, x);
    pare__param_add(b, "cls_token", PARE_ROLE_EMBEDDING, 3, token);
    x = pare__prefix_row(b, x, "cls_token");
    pare__param_add(b, "pos_embed", PARE_ROLE_EMBEDDING, 3, table);
    x = pare__position(b, x, table[1], 0, false, "pos_embed");
    return x;
}

static const char *in_layer(pare__build *b, int layer, const char *name)
{
    return pare__name(b, "transformer.layers.%d.%s", layer, name);
}

static int block(pare__build *b, const encoder *e, int x, int layer)
{
    const pare__linear_options plain = {.bias = true};
    const pare__linear_options fused = {.bias = true,
                                        .weight = in_layer(b, layer, "self_attn.in_proj_weight"),
                                        .bias_name = in_layer(b, layer, "self_attn.in_proj_bias")};
    int64_t inner = e->heads * e->head_dim;
    int qkv = pare__linear(b, x, 3 * inner, &fused, in_layer(b, layer, "self_attn.in_proj"));
    int q = pare__slice(b, qkv, 0, inner);
    int k = pare__slice(b, qkv, inner, inner);
    int v = pare__slice(b, qkv, 2 * inner, inner);
    pare__attention_options attention = {
        .heads = e->heads, .kv_heads = e->heads, .head_dim = e->head_dim, .dropout = e->dropout};
    int a = pare__attention(b, q, k, v, &attention, in_layer(b, layer, "self_attn"));
    a = pare__linear(b, a, e->width, &plain, in_layer(b, layer, "self_attn.out_proj"));
    a = pare__residual(b, x, pare__dropout(b, a, e->dropout), false);
    x = pare__layer_norm(b, a, EPS, true, in_layer(b, layer, "norm1"));
    int h = pare__linear(b, x, e->inner, &plain, in_layer(b, layer, "linear1"));
    h = pare__dropout(b, pare__act(b, h, PARE_FN_RELU), e->dropout);
    h = pare__linear(b, h, e->width, &plain, in_layer(b, layer, "linear2"));
    h = pare__residual(b, x, pare__dropout(b, h, e->dropout), false);
    return pare__layer_norm(b, h, EPS, true, in_layer(b, layer, "norm2"));
}

static void build(pare__build *b)
{
    static const float mean[3] = {0.4914f, 0.4822f, 0.4465f}, std[3] = {0.2023f, 0.1994f, 0.2010f};
    encoder e = read_spec(b);
    int64_t classes = pare__spec_classes(b, pare__axis(b, "mlp_head.1.weight", 0, 10));
    int x = embeddings(b, &e);
    pare__preprocess(b, 1.0f / 255, mean, std);
    for (int i = 0; i < e.layers && b->status == PARE_OK; i++)
        x = block(b, &e, x, i);
    x = pare__layer_norm(b, pare__row(b, x, 0), EPS, true, "mlp_head.0");
    x = pare__linear(b, x, classes, &(pare__linear_options){.bias = true, .head = true},
                     "mlp_head.1");
    pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
}

static const pare__unit_rule units[] = {{"*.self_attn", PARE_UNIT_HEAD, NULL},
                                        {"*.linear1", PARE_UNIT_CHANNEL, NULL},
                                        {"*patch_embed.proj", PARE_UNIT_WIDTH, NULL},
                                        {"*layers.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {
    {"mlp", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL) | PARE__ON(WIDTH)},
    {"heads", PARE__SIZE_HEADS, PARE__ON(HEAD)},
    {"head_dim", PARE__SIZE_HEAD_DIM, PARE__ON(HEAD) | PARE__ON(WIDTH)},
    {"dim", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"depth", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, NULL};

const pare__arch pare__arch_vit_plain = {
    .family = "vit", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
