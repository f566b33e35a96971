/* arch_gpt2.c - GPT-2 (Radford 2019): learned positions, layer norms before attention and MLP, one
 * product for q, k and v. Its weights are stored [in, out], so rows are no output channels.
 */
#include "arch.h"

#include <math.h>
#include <string.h>

static const char transposed[] = "stored [in, out] (Conv1D), which this version leaves alone";

static const pare__role_rule rules[] = {
    {"*wte.*", PARE_ROLE_EMBEDDING, NULL},
    {"*wpe.*", PARE_ROLE_EMBEDDING, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"*ln_*", PARE_ROLE_NORM, NULL},
    {"*.attn.bias", PARE_ROLE_OTHER, NULL},
    {"*.attn.masked_bias", PARE_ROLE_OTHER, NULL},
    {"*.c_attn.weight", PARE_ROLE_OTHER, transposed},
    {"*.c_proj.weight", PARE_ROLE_OTHER, transposed},
    {"*.c_fc.weight", PARE_ROLE_OTHER, transposed},
    {NULL, PARE_ROLE_OTHER, NULL},
};

/* The causal masks that older checkpoints hold as tensors, and a head that is tied. */
static const char *const ignored[] = {"*.attn.bias", "*.attn.masked_bias", "lm_head.weight", NULL};

typedef struct decoder {
    int64_t width, head_dim, inner;
    int heads, layers;
    bool scaled, scaled_by_layer; /* attention: by 1/sqrt(head_dim), by 1/(layer + 1) */
    float eps, attention_dropout, dropout;
    pare_fn fn;
} decoder;

static decoder read_config(pare__build *b)
{
    decoder d = {0};
    d.head_dim = pare__config_heads(b, "n_embd", "n_head", &d.width, &d.heads);
    d.layers = (int)pare__config_int(b, "n_layer", PARE__REQUIRED, 1, PARE__MOST_LAYERS);
    d.inner = pare__config_int(b, "n_inner", 4 * d.width, 1, PARE__MOST_WIDTH);
    d.eps = pare__config_eps(b, "layer_norm_epsilon", 1e-5);
    d.fn = pare__config_fn(b, "activation_function", "gelu_new");
    d.scaled = pare__config_bool(b, "scale_attn_weights", true);
    d.scaled_by_layer = pare__config_bool(b, "scale_attn_by_inverse_layer_idx", false);
    d.attention_dropout = pare__config_dropout(b, "attn_pdrop", 0.1);
    d.dropout = pare__config_dropout(b, "resid_pdrop", 0.1);
    if (pare__config_bool(b, "add_cross_attention", false))
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "config.json: add_cross_attention is not supported in this version");
    return d;
}

/* A product whose weight is stored [in, out]. */
static int product(pare__build *b, int x, int64_t out, int layer, const char *name)
{
    return pare__linear(b, x, out, &(pare__linear_options){.bias = true, .transposed = true},
                        pare__name(b, "h.%d.%s", layer, name));
}

static int block(pare__build *b, const decoder *d, int x, int layer)
{
    int h = pare__layer_norm(b, x, d->eps, true, pare__name(b, "h.%d.ln_1", layer));
    int qkv = product(b, h, 3 * d->width, layer, "attn.c_attn");
    int q = pare__slice(b, qkv, 0, d->width);
    int k = pare__slice(b, qkv, d->width, d->width);
    int v = pare__slice(b, qkv, 2 * d->width, d->width);
    double scale = d->scaled ? 1 / sqrt((double)d->head_dim) : 1;
    pare__attention_options attention = {
        .heads = d->heads,
        .kv_heads = d->heads,
        .head_dim = d->head_dim,
        .causal = true,
        .scale = (float)(d->scaled_by_layer ? scale / (layer + 1) : scale),
        .dropout = d->attention_dropout};
    int a = pare__attention(b, q, k, v, &attention, pare__name(b, "h.%d.attn", layer));
    a = product(b, a, d->width, layer, "attn.c_proj");
    x = pare__residual(b, x, pare__dropout(b, a, d->dropout), false);
    h = pare__layer_norm(b, x, d->eps, true, pare__name(b, "h.%d.ln_2", layer));
    h = pare__act(b, product(b, h, d->inner, layer, "mlp.c_fc"), d->fn);
    h = product(b, h, d->width, layer, "mlp.c_proj");
    return pare__residual(b, x, pare__dropout(b, h, d->dropout), false);
}

static void build(pare__build *b)
{
    static const char *const tasks[] = {"LMHeadModel", "GPT2Model", NULL};
    pare__config_task(b, tasks);
    decoder d = read_config(b);
    int64_t vocabulary = pare__config_int(b, "vocab_size", PARE__REQUIRED, 1, PARE__MOST_ROWS);
    int64_t positions = pare__config_int(b, "n_positions", 1024, 1, PARE__MOST_ROWS);
    if (pare__has(b, "transformer.wte.weight", true))
        strcpy(b->prefix, "transformer.");
    int x = pare__tokens(b, vocabulary, positions);
    pare__config_ids(b, vocabulary);
    x = pare__embedding(b, x, vocabulary, d.width, "wte.weight");
    x = pare__position(b, x, positions, 0, false, "wpe.weight");
    x = pare__dropout(b, x, pare__config_dropout(b, "embd_pdrop", 0.1));
    for (int i = 0; i < d.layers && b->status == PARE_OK; i++)
        x = block(b, &d, x, i);
    x = pare__layer_norm(b, x, d.eps, true, "ln_f");
    const char *table = pare__name(b, "%swte.weight", b->prefix);
    b->prefix[0] = '\0';
    pare__head(b, x, vocabulary, false,
               pare__config_bool(b, "tie_word_embeddings", true) ? table : NULL, "lm_head");
    pare__output(b, x, PARE_OUTPUT_TOKENS, vocabulary);
}

/* The width is that of all heads together: both go together, and no head by itself. */
static const char no_heads[] =
    "its config has no size of a head, which is the width divided by their "
    "number; the pattern width takes heads along";

static const pare__unit_rule units[] = {{"*.attn", PARE_UNIT_WIDTH, NULL},
                                        {"*.mlp.c_fc", PARE_UNIT_CHANNEL, NULL},
                                        {"*wte.weight", PARE_UNIT_WIDTH, NULL},
                                        {"*h.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {
    {"n_inner", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL) | PARE__ON(WIDTH)},
    {"n_embd", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"n_head", PARE__SIZE_HEADS, PARE__ON(WIDTH)},
    {"n_layer", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, no_heads};

const pare__arch pare__arch_gpt2 = {
    .family = "gpt2", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
