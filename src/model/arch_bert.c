/* arch_bert.c - encoders of the BERT family (Devlin 2018): BERT, RoBERTa (Liu 2019), DistilBERT
 * (Sanh 2019). Learned positions, norms after attention and MLP.
 *
 * A checkpoint with a classifier gives CLASSES; one without gives a VECTOR, the mean of the last
 * hidden states, or the first token's where sentence-transformers' 1_Pooling/config.json says so
 * (its Normalize module is left to the caller: a cosine does not see it).
 */
#include "arch.h"

#include <string.h>

static const pare__role_rule rules[] = {
    {"*embeddings.LayerNorm.*", PARE_ROLE_NORM, NULL},
    {"*embeddings.*", PARE_ROLE_EMBEDDING, NULL},
    {"*LayerNorm.*", PARE_ROLE_NORM, NULL},
    {"*layer_norm.*", PARE_ROLE_NORM, NULL},
    {"classifier.*", PARE_ROLE_HEAD, NULL},
    {"qa_outputs.*", PARE_ROLE_HEAD, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"cls.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

/* Tables of indices, the pooler where nothing reads it, heads of the pre-training. */
static const char *const ignored[] = {
    "*position_ids", "*token_type_ids", "*pooler.dense.*", "cls.*", "lm_head.*", "vocab_*", NULL};

/* What the family's members call the same things. */
typedef struct words {
    const char *type, *prefix;
    const char *width, *heads, *layers, *inner, *fn, *dropout, *attention_dropout; /* config keys */
    const char *layer, *q, *k, *v, *o, *o_norm, *up, *down, *down_norm;            /* tensors */
} words;

#define BERT_WORDS                                                                                 \
    "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act",  \
        "hidden_dropout_prob", "attention_probs_dropout_prob", "encoder.layer",                    \
        "attention.self.query", "attention.self.key", "attention.self.value",                      \
        "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense",              \
        "output.dense", "output.LayerNorm"

static const words all_words[] = {
    {"bert", "bert.", BERT_WORDS},
    {"roberta", "roberta.", BERT_WORDS},
    {"distilbert", "distilbert.", "dim", "n_heads", "n_layers", "hidden_dim", "activation",
     "dropout", "attention_dropout", "transformer.layer", "attention.q_lin", "attention.k_lin",
     "attention.v_lin", "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2",
     "output_layer_norm"},
};

typedef struct encoder {
    const words *w;
    int64_t width, head_dim, inner;
    int heads, layers;
    float eps, dropout, attention_dropout;
    pare_fn fn;
} encoder;

static bool is(const encoder *e, const char *type)
{
    return strcmp(e->w->type, type) == 0;
}

static encoder read_config(pare__build *b)
{
    encoder e = {.w = all_words};
    const char *type = pare__config_word(b, "model_type", "bert");
    for (size_t i = 0; i < sizeof all_words / sizeof *all_words; i++)
        if (strcmp(all_words[i].type, type) == 0)
            e.w = &all_words[i];
    e.head_dim = pare__config_heads(b, e.w->width, e.w->heads, &e.width, &e.heads);
    e.layers = (int)pare__config_int(b, e.w->layers, PARE__REQUIRED, 1, PARE__MOST_LAYERS);
    e.inner = pare__config_int(b, e.w->inner, 4 * e.width, 1, PARE__MOST_WIDTH);
    e.eps = pare__config_eps(b, "layer_norm_eps", 1e-12);
    e.dropout = pare__config_dropout(b, e.w->dropout, 0.1);
    e.attention_dropout = pare__config_dropout(b, e.w->attention_dropout, 0.1);
    e.fn = pare__config_fn(b, e.w->fn, "gelu");
    const char *positions = pare__config_word(b, "position_embedding_type", "absolute");
    if (strcmp(positions, "absolute") != 0)
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "config.json: position_embedding_type \"%s\" is not supported in this "
                         "version",
                         positions);
    if (pare__config_bool(b, "is_decoder", false))
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "config.json: is_decoder is not supported in this version");
    return e;
}

static int embeddings(pare__build *b, const encoder *e)
{
    int64_t vocabulary = pare__config_int(b, "vocab_size", PARE__REQUIRED, 1, PARE__MOST_ROWS);
    int64_t positions = pare__config_int(b, "max_position_embeddings", 512, 1, PARE__MOST_ROWS);
    /* RoBERTa's positions begin behind its padding's. */
    int64_t offset =
        is(e, "roberta") ? 1 + pare__config_int(b, "pad_token_id", 1, 0, positions) : 0;
    if (b->status == PARE_OK && offset >= positions)
        pare__build_fail(b, PARE_ERR_DAMAGED,
                         "config.json: max_position_embeddings %lld leaves no position behind "
                         "pad_token_id %lld",
                         (long long)positions, (long long)offset - 1);
    int x = pare__tokens(b, vocabulary, positions - offset);
    pare__config_ids(b, vocabulary);
    x = pare__embedding(b, x, vocabulary, e->width, "embeddings.word_embeddings.weight");
    if (!is(e, "distilbert"))
        x = pare__position(b, x, pare__config_int(b, "type_vocab_size", 2, 1, PARE__MOST_ROWS), 0,
                           true, "embeddings.token_type_embeddings.weight");
    x = pare__position(b, x, positions, offset, false, "embeddings.position_embeddings.weight");
    x = pare__layer_norm(b, x, e->eps, true, "embeddings.LayerNorm");
    x = pare__dropout(b, x, e->dropout);
    return x;
}

static const char *in_layer(pare__build *b, const encoder *e, int layer, const char *name)
{
    return pare__name(b, "%s.%d.%s", e->w->layer, layer, name);
}

static int linear(pare__build *b, const encoder *e, int x, int64_t out, int layer, const char *name)
{
    return pare__linear(b, x, out, &(pare__linear_options){.bias = true},
                        in_layer(b, e, layer, name));
}

static int block(pare__build *b, const encoder *e, int x, int layer)
{
    int q = linear(b, e, x, e->width, layer, e->w->q);
    int k = linear(b, e, x, e->width, layer, e->w->k);
    int v = linear(b, e, x, e->width, layer, e->w->v);
    pare__attention_options attention = {.heads = e->heads,
                                         .kv_heads = e->heads,
                                         .head_dim = e->head_dim,
                                         .dropout = e->attention_dropout};
    int a = pare__attention(b, q, k, v, &attention, in_layer(b, e, layer, "attention"));
    a = pare__dropout(b, linear(b, e, a, e->width, layer, e->w->o), e->dropout);
    x = pare__layer_norm(b, pare__residual(b, x, a, false), e->eps, true,
                         in_layer(b, e, layer, e->w->o_norm));
    int h = pare__act(b, linear(b, e, x, e->inner, layer, e->w->up), e->fn);
    h = pare__dropout(b, linear(b, e, h, e->width, layer, e->w->down), e->dropout);
    return pare__layer_norm(b, pare__residual(b, x, h, false), e->eps, true,
                            in_layer(b, e, layer, e->w->down_norm));
}

/* From the hidden states to logits. The head's names have no prefix, BERT's pooler has. */
static void classifier(pare__build *b, const encoder *e, int x)
{
    const pare__linear_options plain = {.bias = true}, head = {.bias = true, .head = true};
    float dropout = pare__config_dropout(b, "classifier_dropout", (double)e->dropout);
    const char *name = is(e, "roberta") ? "classifier.out_proj" : "classifier";
    x = pare__row(b, x, 0);
    if (is(e, "bert"))
        x = pare__act(b, pare__linear(b, x, e->width, &plain, "pooler.dense"), PARE_FN_TANH);
    b->prefix[0] = '\0';
    if (is(e, "roberta")) {
        x = pare__linear(b, pare__dropout(b, x, dropout), e->width, &plain, "classifier.dense");
        x = pare__act(b, x, PARE_FN_TANH);
    } else if (is(e, "distilbert")) {
        dropout = pare__config_dropout(b, "seq_classif_dropout", 0.2);
        x = pare__linear(b, x, e->width, &plain, "pre_classifier");
        x = pare__act(b, x, PARE_FN_RELU);
    }
    int64_t classes = pare__config_classes(b, pare__name(b, "%s.weight", name));
    x = pare__linear(b, pare__dropout(b, x, dropout), classes, &head, name);
    pare__output(b, x, PARE_OUTPUT_CLASSES, classes);
}

/* Whether sentence-transformers takes the first token instead of the mean. */
static bool takes_first(pare__build *b)
{
    static const char name[] = "1_Pooling/config.json";
    pare__json *root;
    bool first = false, mean = false, on;
    pare__config_side(b, name, &root);
    if (!root)
        return false;
    const char *mode = pare__json_string(pare__json_get(root, "pooling_mode")), *key;
    const pare__json *value;
    if (mode) {
        first = strcmp(mode, "cls") == 0;
        mean = strcmp(mode, "mean") == 0;
    }
    for (size_t at = 0; pare__json_next(root, &at, &key, &value);) {
        if (strncmp(key, "pooling_mode_", 13) != 0 || !pare__json_bool(value, &on) || !on)
            continue;
        first = first || strcmp(key, "pooling_mode_cls_token") == 0;
        mean = mean || strcmp(key, "pooling_mode_mean_tokens") == 0;
        mode = key;
    }
    if (first == mean)
        pare__build_fail(b, PARE_ERR_UNSUPPORTED,
                         "%s: this version pools by the mean or by the first token, not by %s",
                         name,
                         first  ? "both"
                         : mode ? mode
                                : "nothing");
    pare__json_free(&root);
    return first;
}

static void build(pare__build *b)
{
    static const char *const tasks[] = {"ForSequenceClassification", "Model", "ForMaskedLM",
                                        "ForPreTraining", NULL};
    bool asked = strcmp(pare__config_task(b, tasks), tasks[0]) == 0 || b->classes > 0;
    encoder e = read_config(b);
    bool classifies =
        pare__has(b, is(&e, "roberta") ? "classifier.out_proj.weight" : "classifier.weight", asked);
    if (pare__has(b, pare__name(b, "%sembeddings.word_embeddings.weight", e.w->prefix), classifies))
        snprintf(b->prefix, sizeof b->prefix, "%s", e.w->prefix);
    int x = embeddings(b, &e);
    for (int i = 0; i < e.layers && b->status == PARE_OK; i++)
        x = block(b, &e, x, i);
    if (classifies) {
        classifier(b, &e, x);
        return;
    }
    x = takes_first(b) ? pare__row(b, x, 0) : pare__pool_mean(b, x);
    pare__output(b, x, PARE_OUTPUT_VECTOR, e.width);
}

/* The width is that of all heads together, so that both go together and no head by itself; what
 * stands between the encoder and the classifier is as wide. */
static const char no_heads[] =
    "its config has no size of a head, which is the width divided by their "
    "number; the pattern width takes heads along";

static const pare__unit_rule units[] = {{"*.attention", PARE_UNIT_WIDTH, NULL},
                                        {"*intermediate.dense", PARE_UNIT_CHANNEL, NULL},
                                        {"*ffn.lin1", PARE_UNIT_CHANNEL, NULL},
                                        {"*word_embeddings.weight", PARE_UNIT_WIDTH, NULL},
                                        {"*pooler.dense", PARE_UNIT_WIDTH, NULL},
                                        {"classifier.dense", PARE_UNIT_WIDTH, NULL},
                                        {"pre_classifier", PARE_UNIT_WIDTH, NULL},
                                        {"*layer.", PARE_UNIT_LAYER, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};

static const pare__size_key sizes[] = {
    {"intermediate_size", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL) | PARE__ON(WIDTH)},
    {"hidden_size", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"num_attention_heads", PARE__SIZE_HEADS, PARE__ON(WIDTH)},
    {"num_hidden_layers", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};
static const pare__size_key distil_sizes[] = {
    {"hidden_dim", PARE__SIZE_CHANNELS, PARE__ON(CHANNEL) | PARE__ON(WIDTH)},
    {"dim", PARE__SIZE_WIDTH, PARE__ON(WIDTH)},
    {"n_heads", PARE__SIZE_HEADS, PARE__ON(WIDTH)},
    {"n_layers", PARE__SIZE_LAYERS, PARE__ON(LAYER)},
    {NULL, PARE__SIZE_CHANNELS, 0}};

static const pare__shrink_rules shrink = {units, sizes, NULL, no_heads};
static const pare__shrink_rules distil_shrink = {units, distil_sizes, NULL, no_heads};

const pare__arch pare__arch_bert = {
    .family = "bert", .rules = rules, .ignored = ignored, .build = build, .shrink = &shrink};
const pare__arch pare__arch_distilbert = {
    .family = "bert", .rules = rules, .ignored = ignored, .build = build, .shrink = &distil_shrink};
