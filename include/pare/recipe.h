/* recipe.h - what a run is to do: a model, a seed, steps, an output. Made from YAML or by hand. */
#ifndef PARE_RECIPE_H
#define PARE_RECIPE_H

#include "pare/prune.h"
#include "pare/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_scope { PARE_SCOPE_GLOBAL, PARE_SCOPE_LAYER } pare_scope;

/* Globs over tensor names; a tensor is chosen if it matches an include (even one that its role
 * would leave alone) or, with no include, if its role is LINEAR or CONV; and matches no exclude. */
typedef struct pare_choice {
    char **include; /* [includes] */
    size_t includes;
    char **exclude; /* [excludes] */
    size_t excludes;
} pare_choice;

typedef struct pare_prune_step {
    const pare_prune_method *method;
    pare_pattern pattern;
    double sparsity; /* 0..1, of UNSTRUCTURED and BLOCK; N:M has its own (0 here) */
    pare_scope
        scope; /* UNSTRUCTURED and BLOCK: one threshold over all chosen tensors, or one a tensor */
    pare_choice choice;
} pare_prune_step;

typedef struct pare_quant_step {
    const pare_quant_method *method;
    pare_scheme scheme;
    pare_scale_search search;
    pare_choice choice;
} pare_quant_step;

typedef struct pare_recipe {
    char *model; /* checkpoint */
    uint64_t seed;
    pare_prune_step
        *prunes; /* in recipe order; all before the quantisers; a tensor is chosen by one at most */
    size_t prune_count;
    pare_quant_step *quants;
    size_t quant_count;
    char *output; /* export.to, may be NULL until -o */
    char *format; /* export.format: NULL, "dense", "int-quantized", "sparse-bitmask", "nf4" */
    int64_t max_shard_size; /* 0: 5 GiB */
} pare_recipe;

/* Reads a recipe file. Every error (unknown key, wrong type, impossible value, missing key) is
 * found before returning: pare_last_error() has one line each, "recipe.yaml:7:13: …", with the
 * nearest valid word. Step kinds and keys of cli.md that are still to come answer "not in this
 * version" in the same way. `compress` may hold prune and quantize. PARE_ERR_ARGUMENT;
 * PARE_ERR_NOT_FOUND if there is no such file. */
pare_status pare_recipe_read(const char *path, pare_recipe **recipe);
/* The same from memory; `what` stands for the file's name in errors. */
pare_status pare_recipe_parse(const char *text, size_t length, const char *what,
                              pare_recipe **recipe);

/* The words of recipes and options. PARE_ERR_ARGUMENT says what was expected, with the nearest
 * valid word, or that a word is not in this version. A format is static text; "" is refused. */
pare_status pare_prune_method_parse(const char *text, const pare_prune_method **method);
pare_status pare_quant_method_parse(const char *text, const pare_quant_method **method);
pare_status pare_scope_parse(const char *text, pare_scope *scope);
const char *pare_scope_name(pare_scope scope);
pare_status pare_export_format_parse(const char *text, const char **format);

/* An empty recipe to be filled by hand (strings and arrays from malloc). */
pare_status pare_recipe_new(pare_recipe **recipe);
void pare_recipe_free(pare_recipe **recipe);

/* The normalised recipe: YAML with every default written out, the same for the same work; no model
 * path and no output path (a line "model: …" before it makes it a recipe file that reads back as
 * the same recipe). Caller frees. This is what provenance keeps. */
pare_status pare_recipe_text(const pare_recipe *recipe, char **text);

#ifdef __cplusplus
}
#endif
#endif
