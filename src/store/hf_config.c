/* hf_config.c - writes quantization_config: what engines must know about the entries of a
 * checkpoint. */
#include "store_impl.h"

#include <string.h>

/* Of the layout that codec_pack.c writes: a dense bit stream for every width. */
static const char compressed_tensors_version[] = "0.20.0";

typedef struct group {
    const pare__slot *like; /* the first entry of this scheme */
    size_t members;
} group;

typedef struct summary {
    group *groups;
    size_t count, capacity;
    size_t nf4, nested, sparse;
    const pare__slot *first_nf4;
} summary;

/* ---- names ----------------------------------------------------------------------------------- */

/* "a.b.weight" belongs to the module "a.b". */
static pare_status module_name(const char *entry, char **module)
{
    PARE_TRY(pare__strdup(entry, module));
    size_t length = strlen(entry);
    if (length > 7 && strcmp(entry + length - 7, ".weight") == 0)
        (*module)[length - 7] = '\0';
    return PARE_OK;
}

static pare_status append_module(pare__json *list, const char *entry)
{
    char *module;
    PARE_TRY(module_name(entry, &module));
    pare__json_set_string(list, NULL, module);
    free(module);
    return PARE_OK;
}

static bool weight_of_module(const pare_entry *entry)
{
    return entry->rank == 2 && pare__glob("*.weight", entry->name);
}

/* Embeddings are no Linear to an engine: they are named. */
static bool embedding(const char *name)
{
    return pare__glob("*emb*", name) || pare__glob("*wte*", name) || pare__glob("*wpe*", name);
}

/* Modules that engines would take for quantised if nobody said otherwise. */
static pare_status append_ignored(pare__json *list, const pare__slot *slots, size_t count,
                                  pare_form form)
{
    bool head =
        false; /* one tied to the embedding has no tensor, yet engines make a Linear for it */
    for (size_t i = 0; i < count; i++) {
        head = head || strcmp(slots[i].entry.name, "lm_head.weight") == 0;
        if (slots[i].entry.form != form && weight_of_module(&slots[i].entry))
            PARE_TRY(append_module(list, slots[i].entry.name));
    }
    if (!head)
        pare__json_set_string(list, NULL, "lm_head");
    return PARE_OK;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static bool same_scheme(const pare__slot *a, const pare__slot *b)
{
    const pare_scheme *x = &a->entry.scheme, *y = &b->entry.scheme;
    return a->codec == b->codec && x->type == y->type && x->bits == y->bits &&
           x->asymmetric == y->asymmetric && x->granularity == y->granularity &&
           x->block_rows == y->block_rows && x->block_cols == y->block_cols &&
           x->activation == y->activation;
}

static pare_status summarise(const pare__slot *slots, size_t count, summary *s)
{
    for (size_t i = 0; i < count; i++) {
        const pare__slot *slot = &slots[i];
        size_t g = 0;
        s->sparse += slot->entry.form == PARE_FORM_SPARSE;
        if (slot->entry.form != PARE_FORM_QUANT)
            continue;
        if (slot->entry.scheme.type == PARE_QUANT_NF4) {
            s->nested += slot->entry.scheme.double_quant;
            if (s->nf4++ == 0)
                s->first_nf4 = slot;
            continue;
        }
        while (g < s->count && !same_scheme(s->groups[g].like, slot))
            g++;
        if (g == s->count) {
            PARE_TRY(pare__grow(&s->groups, &s->capacity, s->count + 1, sizeof *s->groups));
            s->groups[s->count++] = (group){.like = slot};
        }
        s->groups[g].members++;
    }
    PARE_REQUIRE(
        s->nf4 == 0 || (s->count == 0 && s->sparse == 0), PARE_ERR_ARGUMENT,
        "%s is NF4 and other tensors are compressed in another way: one quantization_config "
        "cannot say both; write an .h5",
        s->first_nf4->entry.name);
    return PARE_OK;
}

static const char *format_of(const pare__slot *slot)
{
    return slot->codec == &pare__codec_int     ? "int-quantized"
           : slot->codec == &pare__codec_float ? "float-quantized"
                                               : "pack-quantized";
}

static void add_arguments(pare__json *node, const pare_scheme *scheme)
{
    static const char *const strategies[] = {[PARE_PER_CHANNEL] = "channel",
                                             [PARE_PER_TENSOR] = "tensor",
                                             [PARE_PER_GROUP] = "group",
                                             [PARE_PER_BLOCK] = "block"};
    pare__json_set_int(node, "num_bits", scheme->bits);
    pare__json_set_string(node, "type", scheme->type == PARE_QUANT_E4M3 ? "float" : "int");
    pare__json_set_bool(node, "symmetric", !scheme->asymmetric);
    pare__json_set_string(node, "strategy", strategies[scheme->granularity]);
    pare__json_set_bool(node, "dynamic", false);
    if (scheme->granularity == PARE_PER_GROUP)
        pare__json_set_int(node, "group_size", scheme->block_cols);
    else
        pare__json_set_string(node, "group_size", NULL);
    if (scheme->granularity == PARE_PER_BLOCK) {
        pare__json *block = pare__json_set_array(node, "block_structure");
        pare__json_set_int(block, NULL, scheme->block_rows);
        pare__json_set_int(block, NULL, scheme->block_cols);
    }
}

/* Activations are 8 bits wide: one scale a token, or one for all measured beforehand. */
static void add_activation(pare__json *parent, const pare_scheme *scheme)
{
    if (scheme->activation == PARE_ACT_NONE) {
        pare__json_set_string(parent, "input_activations", NULL);
        return;
    }
    bool dynamic = scheme->activation == PARE_ACT_DYNAMIC;
    pare__json *node = pare__json_set_object(parent, "input_activations");
    pare__json_set_int(node, "num_bits", 8);
    pare__json_set_string(node, "type", scheme->type == PARE_QUANT_E4M3 ? "float" : "int");
    pare__json_set_bool(node, "symmetric", true);
    pare__json_set_string(node, "strategy", dynamic ? "token" : "tensor");
    pare__json_set_bool(node, "dynamic", dynamic);
    pare__json_set_string(node, "group_size", NULL);
}

/* One scheme is for every Linear that is not ignored; several name their modules. */
static pare_status add_targets(pare__json *targets, const group *g, bool alone,
                               const pare__slot *slots, size_t count)
{
    if (alone)
        pare__json_set_string(targets, NULL, "Linear");
    for (size_t i = 0; i < count; i++) {
        const pare_entry *entry = &slots[i].entry;
        bool quantised = entry->form == PARE_FORM_QUANT && same_scheme(&slots[i], g->like);
        if (quantised && (!alone || embedding(entry->name) || !weight_of_module(entry)))
            PARE_TRY(append_module(targets, entry->name));
    }
    return PARE_OK;
}

static pare_status add_groups(pare__json *parent, const summary *s, const pare__slot *slots,
                              size_t count)
{
    pare__json *groups = pare__json_set_object(parent, "config_groups");
    char name[32];
    for (size_t g = 0; g < s->count; g++) {
        const pare__slot *like = s->groups[g].like;
        snprintf(name, sizeof name, "group_%zu", g);
        pare__json *node = pare__json_set_object(groups, name);
        pare__json *targets = pare__json_set_array(node, "targets");
        PARE_TRY(add_targets(targets, &s->groups[g], s->count == 1, slots, count));
        add_arguments(pare__json_set_object(node, "weights"), &like->entry.scheme);
        add_activation(node, &like->entry.scheme);
        pare__json_set_string(node, "output_activations", NULL);
        pare__json_set_string(node, "format", format_of(like));
    }
    return PARE_OK;
}

static pare_status add_sparsity(pare__json *parent, const pare__slot *slots, size_t count)
{
    pare__json *node = pare__json_set_object(parent, "sparsity_config");
    pare__json *targets = pare__json_set_array(node, "targets");
    double kept = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        const pare_entry *entry = &slots[i].entry;
        if (entry->form != PARE_FORM_SPARSE)
            continue;
        kept += (double)entry->nonzeros;
        all += (double)entry->rows * (double)entry->cols;
        PARE_TRY(append_module(targets, entry->name));
    }
    pare__json_set_string(node, "format", "sparse-bitmask");
    pare__json_set_real(node, "global_sparsity", all > 0 ? 1 - kept / all : 0);
    pare__json_set_string(node, "sparsity_structure", "unstructured");
    return append_ignored(pare__json_set_array(node, "ignore"), slots, count, PARE_FORM_SPARSE);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static pare_status compressed_tensors(pare__json *root, const summary *s, const pare__slot *slots,
                                      size_t count)
{
    const char *format = s->count ? format_of(s->groups[0].like) : "dense";
    for (size_t g = 1; g < s->count; g++)
        if (strcmp(format, format_of(s->groups[g].like)) != 0)
            format = "mixed-precision";
    pare__json_set_string(root, "quant_method", "compressed-tensors");
    pare__json_set_string(root, "version", compressed_tensors_version);
    pare__json_set_string(root, "format", format);
    pare__json_set_string(root, "quantization_status", "compressed");
    pare__json_set_string(root, "kv_cache_scheme", NULL);
    pare__json_set_string(root, "global_compression_ratio", NULL);
    PARE_TRY(add_groups(root, s, slots, count));
    pare__json *ignore = pare__json_set_array(root, "ignore");
    if (s->count)
        PARE_TRY(append_ignored(ignore, slots, count, PARE_FORM_QUANT));
    return s->sparse ? add_sparsity(root, slots, count) : PARE_OK;
}

static pare_status bitsandbytes(pare__json *root, const summary *s, const pare__slot *slots,
                                size_t count)
{
    pare_dtype dtype = s->first_nf4->entry.dtype;
    pare__json_set_string(root, "quant_method", "bitsandbytes");
    pare__json_set_bool(root, "load_in_4bit", true);
    pare__json_set_bool(root, "load_in_8bit", false);
    pare__json_set_string(root, "bnb_4bit_quant_type", "nf4");
    pare__json_set_bool(root, "bnb_4bit_use_double_quant", s->nested > 0);
    pare__json_set_string(root, "bnb_4bit_quant_storage", "uint8");
    pare__json_set_string(root, "bnb_4bit_compute_dtype",
                          dtype == PARE_F32   ? "float32"
                          : dtype == PARE_F16 ? "float16"
                                              : "bfloat16");
    return append_ignored(pare__json_set_array(root, "llm_int8_skip_modules"), slots, count,
                          PARE_FORM_QUANT);
}

/* config's text with another quantization_config (NULL: without one). */
static pare_status replace(const char *config, const pare__json *quantization, char **out)
{
    pare__json *old = NULL, *root = NULL;
    char *text = NULL;
    pare_status status = PARE_OK;
    pare__text whole = {0};
    PARE_TRY(pare__json_parse(config, strlen(config), "config.json", &old));
    if (!pare__json_is_object(old))
        PARE_TRY_DONE(pare__error(PARE_ERR_DAMAGED, __func__, "config.json is no object"));
    if (!quantization && !pare__json_get(old, "quantization_config") &&
        !pare__json_get(old, "compression_config")) {
        status = pare__strdup(config, out);
        goto done;
    }
    root = pare__json_copy(old);
    pare__json_remove(root, "quantization_config");
    pare__json_remove(root, "compression_config");
    if (quantization)
        pare__json_set(root, "quantization_config", pare__json_copy(quantization));
    PARE_TRY_DONE(pare__json_dump(root, 2, true, &text));
    pare__text_add(&whole, "%s\n", text);
    PARE_TRY_DONE(pare__text_take(&whole, out));
done:
    free(text);
    pare__json_free(&root);
    pare__json_free(&old);
    return status;
}

pare_status pare__hf_config_write(const char *config, const pare__slot *slots, size_t count,
                                  char **config_out, char **quantization_config_out)
{
    summary s = {0};
    pare__json *root = NULL;
    pare_status status = PARE_OK;
    *config_out = *quantization_config_out = NULL;
    PARE_TRY_DONE(summarise(slots, count, &s));
    if (s.count || s.nf4 || s.sparse) {
        root = pare__json_new_object();
        PARE_TRY_DONE(s.nf4 ? bitsandbytes(root, &s, slots, count)
                            : compressed_tensors(root, &s, slots, count));
        PARE_TRY_DONE(pare__json_dump(root, 0, true, quantization_config_out));
    }
    if (config)
        PARE_TRY_DONE(replace(config, root, config_out));
done:
    pare__json_free(&root);
    free(s.groups);
    return status;
}
