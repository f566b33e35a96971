/* arch_llama.c - decoders of the Llama family (Touvron 2023): RMS norms, rotary positions, grouped
 * queries, a gated MLP.
 *
 * The variants differ in a few places: Qwen2 (Yang 2024) has biases on q, k and v; Qwen3 norms q
 * and k by head; Mistral (Jiang 2023) sees a sliding window in every layer, Qwen in those that its
 * layer_types or max_window_layers name. What config.json leaves out is as transformers has it.
 */
#include "arch.h"

#include "rotary.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*embed_tokens.*", PARE_ROLE_EMBEDDING, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"*norm.*", PARE_ROLE_NORM, NULL},
    {"*rotary_emb.*", PARE_ROLE_OTHER, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

/* lm_head.weight: where it is tied to the embedding some checkpoints hold it all the same. */
static const char *const ignored[] = {"*rotary_emb.inv_freq", "*attn.masked_bias", "lm_head.weight",
                                      NULL};

typedef struct decoder {
    int64_t width, head_dim, inner;
    int heads, kv_heads, layers;
    bool qkv_bias, out_bias, mlp_bias, head_norms;
    float eps, dropout;
    pare_fn fn;
    const char *type;
    int64_t window; /* sliding, 0: none */
} decoder;

static bool is_qwen(const decoder *d)
{
    return strncmp(d->type, "qwen", 4) == 0;
}

static void read_attention(pare__build *b, decoder *d)
{
    bool mistral = strcmp(d->type, "mistral") == 0, qwen3 = strcmp(d->type, "qwen3") == 0;
    d->width = pare__config_int(b, "hidden_size", PARE__REQUIRED, 1, PARE__MOST_WIDTH);
    d->heads = (int)pare__config_int(b, "num_attention_heads", PARE__REQUIRED, 1, 1 << 16);
    int64_t kv = d->heads;
    if (!pare__config_has(b, "num_key_value_heads"))
        kv = mistral ? 8 : is_qwen(d) ? 32 : d->heads;
    d->kv_heads = (int)pare__config_int(b, "num_key_value_heads", kv, 1, 1 << 16);
    bool usual = qwen3 && !pare__config_has(b, "head_dim");
    d->head_dim = pare__config_int(b, "head_dim", usual ? 128 : 0, 1, 1 << 16);
    if (b->status == PARE_OK && d->head_dim == 0) {
        if (d->width % d->heads != 0)
            pare__build_fail(b, PARE_ERR_DAMAGED,
                             "config.json: hidden_size %lld does not divide by "
                             "num_attention_heads %d",
                             (long long)d->width, d->heads);
        d->head_dim = d->width / d->heads;
    }
    if (b->status == PARE_OK && d->heads % d->kv_heads != 0)
        pare__build_fail(b, PARE_ERR_DAMAGED,
                         "config.json: num_attention_heads %d does not divide by "
                         "num_key_value_heads %d",
                         d->heads, d->kv_heads);
    bool bias = !mistral && pare__config_bool(b, "attention_bias", false);
    d->qkv_bias = strcmp(d->type, "qwen2") == 0 || bias;
    d->out_bias = strcmp(d->type, "qwen2") != 0 && bias;
    d->head_norms = qwen3;
    d->dropout = pare__config_dropout(b, "attention_dropout", 0);
}

static void read_window(pare__build *b, decoder *d)
{
    bool mistral = strcmp(d->type, "mistral") == 0;
    bool slides = mistral || (is_qwen(d) && pare__config_bool(b, "use_sliding_window", false));
    int64_t usual = pare__config_has(b, "sliding_window") ? 0 : 4096;
    d->window = slides ? pare__config_int(b, "sliding_window", usual, 1, (int64_t)1 << 40) : 0;
}

static decoder read_config(pare__build *b)
{
    decoder d = {.type = pare__config_word(b, "model_type", "")};
    read_attention(b, &d);
    read_window(b, &d);
    d.inner = pare__config_int(b, "intermediate_size", PARE__REQUIRED, 1, PARE__MOST_WIDTH);
    d.layers = (int)pare__config_int(b, "num_hidden_layers", PARE__REQUIRED, 1, PARE__MOST_LAYERS);
    d.mlp_bias = strcmp(d.type, "llama") == 0 && pare__config_bool(b, "mlp_bias", false);
    d.eps = pare__config_eps(b, "rms_norm_eps", 1e-6);
    d.fn = pare__config_fn(b, "hidden_act", "silu");
    return d;
}

/* The window of a layer: Mistral's is everywhere, Qwen's where the layer's type says so. */
static int64_t window_of(pare__build *b, const decoder *d, int layer)
{
    if (!is_qwen(d))
        return d->window;
    const pare__json *types = pare__json_get(b->config, "layer_types");
    if (pare__json_is_null(types))
        return layer >= pare__config_int(b, "max_window_layers", 28, 0, INT64_MAX) ? d->window : 0;
    const char *type = pare__json_string(pare__json_at(types, (size_t)layer));
    if (type && strcmp(type, "full_attention") == 0)
        return 0;
    if (type && strcmp(type, "sliding_attention") == 0 && d->window > 0)
        return d->window;
    pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                     "config.json: layer_types[%d] is \"%s\"; this version has full_attention, and "
                     "sliding_attention with use_sliding_window",
                     layer, type ? type : "?");
    return 0;
}

static int linear(pare__build *b, int x, int64_t out, bool bias, int layer, const char *name)
{
    return pare__linear(b, x, out, &(pare__linear_options){.bias = bias},
                        pare__name(b, "layers.%d.%s", layer, name));
}

/* One of q and k: product, norm by head, rotation. */
static int projected(pare__build *b, const decoder *d, int x, int heads, int layer, char which)
{
    int y = linear(b, x, heads * d->head_dim, d->qkv_bias, layer,
                   which == 'q' ? "self_attn.q_proj" : "self_attn.k_proj");
    if (d->head_norms)
        y = pare__rms_norm(b, y, d->eps, d->head_dim,
                           pare__name(b, "layers.%d.self_attn.%c_norm", layer, which));
    return pare__rotary(b, y, heads, d->head_dim);
}

static int block(pare__build *b, const decoder *d, int x, int layer)
{
    int h = pare__rms_norm(b, x, d->eps, 0, pare__name(b, "layers.%d.input_layernorm", layer));
    int q = projected(b, d, h, d->heads, layer, 'q');
    int k = projected(b, d, h, d->kv_heads, layer, 'k');
    int v = linear(b, h, d->kv_heads * d->head_dim, d->qkv_bias, layer, "self_attn.v_proj");
    pare__attention_options attention = {.heads = d->heads,
                                         .kv_heads = d->kv_heads,
                                         .head_dim = d->head_dim,
                                         .sliding = window_of(b, d, layer),
                                         .causal = true,
                                         .dropout = d->dropout};
    int a = pare__attention(b, q, k, v, &attention, pare__name(b, "layers.%d.self_attn", layer));
    a = linear(b, a, d->width, d->out_bias, layer, "self_attn.o_proj");
    x = pare__residual(b, x, a, false);
    h = pare__rms_norm(b, x, d->eps, 0, pare__name(b, "layers.%d.post_attention_layernorm", layer));
    int gate = linear(b, h, d->inner, d->mlp_bias, layer, "mlp.gate_proj");
    int up = linear(b, h, d->inner, d->mlp_bias, layer, "mlp.up_proj");
    int y = pare__glu(b, gate, up, d->fn);
    return pare__residual(b, x, linear(b, y, d->width, d->mlp_bias, layer, "mlp.down_proj"), false);
}

static void build(pare__build *b)
{
    static const char *const tasks[] = {"ForCausalLM", "Model", NULL};
    pare__config_task(b, tasks);
    decoder d = read_config(b);
    int64_t vocabulary = pare__config_int(b, "vocab_size", PARE__REQUIRED, 1, PARE__MOST_ROWS);
    int64_t longest = pare__config_int(b, "max_position_embeddings", 2048, 1, (int64_t)1 << 40);
    pare__rotary_config(b, d.head_dim);
    if (pare__has(b, "model.embed_tokens.weight", true))
        strcpy(b->prefix, "model.");
    int x = pare__tokens(b, vocabulary, pare__rotary_reach(b->model, longest));
    pare__config_ids(b, vocabulary);
    x = pare__embedding(b, x, vocabulary, d.width, "embed_tokens.weight");
    for (int i = 0; i < d.layers && b->status == PARE_OK; i++)
        x = block(b, &d, x, i);
    x = pare__rms_norm(b, x, d.eps, 0, "norm");
    const char *table = pare__name(b, "%sembed_tokens.weight", b->prefix);
    b->prefix[0] = '\0';
    pare__head(b, x, vocabulary, false,
               pare__config_bool(b, "tie_word_embeddings", false) ? table : NULL, "lm_head");
    pare__output(b, x, PARE_OUTPUT_TOKENS, vocabulary);
}

static const pare__unit_rule units[] = {{"*.self_attn", PARE_UNIT_HEAD, NULL},
                                        {"*.mlp.up_proj", PARE_UNIT_CHANNEL, NULL},
                                        {"*embed_tokens.weight", PARE_UNIT_WIDTH, NULL},
                                        {"*layers.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {
    {"intermediate_size", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL)},
    {"num_attention_heads", PARE__SIZE_HEADS, PARE__ON(HEAD)},
    {"num_key_value_heads", PARE__SIZE_KV_HEADS, PARE__ON(HEAD)},
    {"head_dim", PARE__SIZE_HEAD_DIM, PARE__ON(HEAD) | PARE__ON(WIDTH)},
    {"hidden_size", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"rms_norm_eps", PARE__SIZE_RMS_EPS, PARE__ON(WIDTH)},
    {"num_hidden_layers", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {"max_window_layers", PARE__SIZE_LAYERS_BELOW, PARE__ON(LAYER)},
    {"layer_types", PARE__SIZE_LAYER_LIST, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, "llama", NULL};

const pare__arch pare__arch_llama = {
    .family = "llama", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
