/* arch.c - the table of architectures, the role of a tensor, and the making of a model. A new
 * architecture is its file and a line here for each name it goes by.
 */
#include "arch.h"

#include <string.h>

/* Names of --arch (what stands before the ':'), then model_type of config.json. */
#define ARCHITECTURES(A)                                                                           \
    A(SPEC, "resnet20-cifar", resnet, "ResNet-20 for small images (He 2015); in= size= classes=")  \
    A(SPEC, "resnet32-cifar", resnet, "ResNet-32 for small images")                                \
    A(SPEC, "resnet44-cifar", resnet, "ResNet-44 for small images")                                \
    A(SPEC, "resnet56-cifar", resnet, "ResNet-56 for small images")                                \
    A(SPEC, "resnet110-cifar", resnet, "ResNet-110 for small images")                              \
    A(SPEC, "resnet18", resnet, "ResNet-18 as torchvision names it; in= size= classes=")           \
    A(SPEC, "resnet34", resnet, "ResNet-34 as torchvision names it")                               \
    A(SPEC, "resnet50", resnet, "ResNet-50 as torchvision names it")                               \
    A(SPEC, "resnet8-tiny", resnet_tiny, "MLPerf Tiny's ResNet-8; in= size= classes=")             \
    A(SPEC, "vit", vit_plain,                                                                      \
      "a plain vision transformer; patch= dim= depth= heads= mlp= in= size= classes= dropout=")    \
    A(SPEC, "mlp", mlp, "fully connected layers, mlp:784-256-10; act= dropout= in= size=")         \
    A(SPEC, "cnn", cnn,                                                                            \
      "convolutions of these widths, p a pool: cnn:32-64-p-128; in= size= classes= dropout=")      \
    A(CONFIG, "llama", llama, "decoders of Llama 1 to 3")                                          \
    A(CONFIG, "mistral", llama, "decoders of Mistral")                                             \
    A(CONFIG, "qwen2", llama, "decoders of Qwen2 and Qwen2.5")                                     \
    A(CONFIG, "qwen3", llama, "decoders of Qwen3")                                                 \
    A(CONFIG, "gpt2", gpt2, "decoders of GPT-2")                                                   \
    A(CONFIG, "bert", bert, "encoders: BERT, MiniLM; with sentence-transformers' pooling")         \
    A(CONFIG, "distilbert", distilbert, "encoders of DistilBERT")                                  \
    A(CONFIG, "roberta", bert, "encoders of RoBERTa")                                              \
    A(CONFIG, "vit", vit, "Vision Transformer of Hugging Face")                                    \
    A(CONFIG, "deit", vit, "DeiT of Hugging Face")

typedef enum origin { SPEC, CONFIG } origin;

static const pare_arch_line lines[] = {
#define LINE(origin_, name_, arch_, summary_) {name_, summary_},
    ARCHITECTURES(LINE)
#undef LINE
        {NULL, NULL}};

static const struct {
    origin origin;
    const pare__arch *arch;
} of_line[] = {
#define OF_LINE(origin_, name_, arch_, summary_) {origin_, &pare__arch_##arch_},
    ARCHITECTURES(OF_LINE)
#undef OF_LINE
};

enum { LINES = sizeof of_line / sizeof *of_line };

/* What is left alone in a checkpoint of no known architecture, by the names that the field uses. */
static const pare__role_rule unknown_rules[] = {
    {"*emb*", PARE_ROLE_EMBEDDING, NULL}, {"*norm*", PARE_ROLE_NORM, NULL},
    {"*lm_head*", PARE_ROLE_HEAD, NULL},  {"*classifier*", PARE_ROLE_HEAD, NULL},
    {"*.fc.*", PARE_ROLE_HEAD, NULL},     {NULL, PARE_ROLE_OTHER, NULL},
};

/* ---- roles ----------------------------------------------------------------------------------- */

const char *pare_role_name(pare_role role)
{
    static const char *const names[] = {"linear", "conv", "embedding", "head",
                                        "norm",   "bias", "other"};
    return role <= PARE_ROLE_OTHER ? names[role] : "?";
}

const pare_arch_line *pare_arch_list(void)
{
    return lines;
}

/* The line of a name, or of the part of --arch's text before the ':'; −1: unknown. */
static int line_of(origin from, const char *name)
{
    size_t length = from == SPEC ? strcspn(name, ":") : strlen(name);
    for (int i = 0; i < LINES; i++)
        if (of_line[i].origin == from && strlen(lines[i].name) == length &&
            strncmp(lines[i].name, name, length) == 0)
            return i;
    return -1;
}

/* The line that a parsed config.json names, or −1. */
static int line_of_config(const pare__json *root)
{
    const char *spec = pare__json_string(pare__json_get(root, "pare_arch"));
    const char *type = pare__json_string(pare__json_get(root, "model_type"));
    if (spec)
        return line_of(SPEC, spec);
    return type ? line_of(CONFIG, type) : -1;
}

static int line_of_text(const char *config)
{
    pare__json *root = NULL;
    if (!config || pare__json_parse(config, strlen(config), "config.json", &root) != PARE_OK)
        return -1;
    int line = line_of_config(root);
    pare__json_free(&root);
    return line;
}

const char *pare_known_architecture(const char *config)
{
    int line = line_of_text(config);
    return line < 0 ? NULL : lines[line].name;
}

static pare_role match(const pare__role_rule *rules, const char *name, const char **reason)
{
    for (; rules->pattern; rules++)
        if (pare__glob(rules->pattern, name)) {
            *reason = rules->reason ? rules->reason : rules->pattern;
            return rules->role;
        }
    *reason = NULL;
    return PARE_ROLE_OTHER;
}

pare_role pare_entry_role(const char *config, const pare_entry *entry, const char **reason)
{
    const char *why;
    int line = line_of_text(config);
    const pare__role_rule *rules = line < 0 ? unknown_rules : of_line[line].arch->rules;
    pare_role role = match(rules, entry->name, &why);
    if (why) {
        *reason = why;
        return role;
    }
    if (!pare_dtype_is_weight(entry->dtype)) {
        *reason = "its numbers are no f32, f16 or bf16";
        return PARE_ROLE_OTHER;
    }
    *reason = line < 0 ? "rank" : lines[line].name;
    if (entry->rank < 2)
        return PARE_ROLE_BIAS;
    return entry->rank == 2 ? PARE_ROLE_LINEAR : PARE_ROLE_CONV;
}

/* ---- making a model -------------------------------------------------------------------------- */

/* A name that is in no line: which are, and the nearest. */
static pare_status unknown(origin from, const char *name)
{
    const char *words[LINES + 1];
    size_t count = 0;
    pare__text known = {0};
    for (int i = 0; i < LINES; i++)
        if (of_line[i].origin == from) {
            pare__text_add(&known, count ? ", %s" : "%s", lines[i].name);
            words[count++] = lines[i].name;
        }
    words[count] = NULL;
    char *list, word[64];
    PARE_TRY(pare__text_take(&known, &list));
    snprintf(word, sizeof word, "%.*s", (int)(from == SPEC ? strcspn(name, ":") : strlen(name)),
             name);
    const char *nearest = pare__nearest(word, words);
    pare_status status = from == SPEC ? PARE_ERR_ARGUMENT : PARE_ERR_UNSUPPORTED;
    pare__error(status, __func__, "%s \"%s\" is not known%s%s%s (known are %s)",
                from == SPEC ? "--arch" : "config.json's model_type", word,
                nearest ? ", did you mean " : "", nearest ? nearest : "", nearest ? "?" : "", list);
    free(list);
    return status;
}

/* --arch as it was given, in characters that config.json needs no escapes for. */
static pare_status copy_spec(const char *text, char **spec)
{
    for (const char *c = text; *c; c++)
        PARE_REQUIRE((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                         (*c >= '0' && *c <= '9') || strchr(":=,._-", *c),
                     PARE_ERR_ARGUMENT, "--arch \"%s\": '%c' belongs to no architecture's text",
                     text, *c);
    PARE_REQUIRE(strlen(text) < 500, PARE_ERR_ARGUMENT, "--arch: the text is too long");
    return pare__strdup(text, spec);
}

/* Whether all names begin so, as in state dicts saved from a parallel wrapper. */
static bool all_begin(const pare_store *store, const char *prefix)
{
    int64_t count = store ? pare_store_count(store) : 0;
    for (int64_t i = 0; i < count; i++)
        if (strncmp(pare_store_entry(store, i)->name, prefix, strlen(prefix)) != 0)
            return false;
    return count > 0;
}

/* What config.json says of pixels and classes where pare itself wrote it. */
static pare_status read_preprocessing(const pare__json *root, pare_model_facts *facts)
{
    const pare__json *scale = pare__json_get(root, "scale");
    if (scale)
        PARE_REQUIRE(pare__json_pixel(scale, true, &facts->scale), PARE_ERR_DAMAGED,
                     "config.json: scale is no fit number");
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "std" : "mean";
        const pare__json *list = pare__json_get(root, key);
        if (!list)
            continue;
        PARE_REQUIRE(pare__json_size(list) == (size_t)facts->channels, PARE_ERR_DAMAGED,
                     "config.json: %s must be a list of %lld numbers, one for each channel", key,
                     (long long)facts->channels);
        for (size_t c = 0; c < (size_t)facts->channels; c++)
            PARE_REQUIRE(pare__json_pixel(pare__json_at(list, c), i == 1,
                                          &(i ? facts->std : facts->mean)[c]),
                         PARE_ERR_DAMAGED, "config.json: %s[%zu] is no fit number", key, c);
    }
    return PARE_OK;
}

/* Finds the architecture: --arch, or what config.json names. root may be NULL. */
static pare_status choose(const pare_model_options *options, const pare__json *root,
                          pare_model *model, int *line)
{
    const char *spec = options->arch;
    if (!spec)
        spec = pare__json_string(pare__json_get(root, "pare_arch"));
    if (spec) {
        PARE_TRY(copy_spec(spec, &model->arch));
        *line = line_of(SPEC, model->arch);
        return *line < 0 ? unknown(SPEC, model->arch) : PARE_OK;
    }
    PARE_REQUIRE(root, PARE_ERR_ARGUMENT,
                 "%s: no config.json says what model this is; name its architecture with --arch",
                 options->store ? pare_store_path(options->store) : "the model");
    const char *type = pare__json_string(pare__json_get(root, "model_type"));
    PARE_REQUIRE(type, PARE_ERR_UNSUPPORTED,
                 "config.json has no model_type that says what model this is; name its "
                 "architecture with --arch");
    *line = line_of(CONFIG, type);
    return *line < 0 ? unknown(CONFIG, type) : PARE_OK;
}

static pare_status build(const pare_model_options *options, const pare__json *root, int line,
                         pare_model *model)
{
    bool spec = of_line[line].origin == SPEC;
    const char *colon = spec ? strchr(model->arch, ':') : NULL;
    int64_t classes = options->classes;
    if (spec && !options->arch && classes == 0)
        pare__json_int(pare__json_get(root, "classes"), &classes);
    PARE_REQUIRE(classes >= 0 && classes <= PARE__MOST_WIDTH, PARE_ERR_ARGUMENT,
                 "%lld is no number of classes", (long long)classes);
    pare__build b = {.model = model,
                     .config = spec ? NULL : root,
                     .arch = colon ? colon + 1 : "",
                     .arch_name = spec ? lines[line].name : NULL,
                     .store = options->store,
                     .classes = classes};
    if (spec && all_begin(options->store, "module."))
        strcpy(b.prefix, "module.");
    model->facts.family = of_line[line].arch->family;
    model->ignored = of_line[line].arch->ignored;
    model->shrink = of_line[line].arch->shrink;
    of_line[line].arch->build(&b);
    PARE_TRY(b.status);
    return spec && !options->arch ? read_preprocessing(root, &model->facts) : PARE_OK;
}

pare_status pare_model_create(const pare_model_options *options, pare_model **model)
{
    pare_status status = PARE_OK;
    pare__json *root = NULL;
    pare_model *m = NULL;
    int line = -1;
    *model = NULL;
    const char *config = options->config  ? options->config
                         : options->store ? pare_store_config(options->store)
                                          : NULL;
    if (config && !options->arch)
        PARE_TRY_DONE(pare__json_parse(config, strlen(config), "config.json", &root));
    PARE_TRY_DONE(pare__calloc(1, sizeof *m, &m));
    m->input = m->output = m->head = m->head_bias = -1;
    m->facts.pad_id = m->facts.bos_id = -1;
    PARE_TRY_DONE(choose(options, root, m, &line));
    PARE_TRY_DONE(build(options, root, line, m));
    if (m->arch)
        PARE_TRY_DONE(pare__calloc(1, strlen(m->arch) + PARE__CONFIG_ROOM, &m->config));
    else
        PARE_TRY_DONE(pare__strdup(config, &m->config));
    *model = m;
    m = NULL;
done:
    pare_model_free(&m);
    pare__json_free(&root);
    return status;
}
