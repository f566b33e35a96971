/* recipe.h - what a run is to do: a model, a seed, steps, an output. Made from YAML or by hand. */
#ifndef PARE_RECIPE_H
#define PARE_RECIPE_H

#include "pare/data.h"
#include "pare/train_job.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_scope { PARE_SCOPE_GLOBAL, PARE_SCOPE_LAYER } pare_scope;

typedef struct pare_prune_step {
    const pare_prune_method *method;
    pare_pattern pattern;
    double sparsity; /* 0..1, of UNSTRUCTURED and BLOCK; N:M has its own (0 here) */
    pare_scope
        scope; /* UNSTRUCTURED and BLOCK: one threshold over all chosen tensors, or one a tensor */
    pare_budget budget; /* of methods that look at layers' inputs, which have `scope` LAYER; of
                           others UNIFORM: `scope` says it */
    int64_t multiple;   /* shrinking patterns: what is left is rounded to a multiple of it; 0: 1 */
    double damping;     /* of sparsegpt: share of the mean diagonal; 0: 0.01. In one sweep with a
                           quantiser both have the same */
    pare_choice choice;
} pare_prune_step;

/* Mixed bits: each tensor gets one of these schemes. */
typedef struct pare_mixed {
    pare_scheme *schemes; /* [count]; count 0: no mixing */
    size_t count;
    double bits;   /* budget: mean stored bits a weight over the chosen tensors, scales included; */
    int64_t bytes; /* or bytes of them; the other one is 0 */
    bool kld;      /* harm: KLD of the model's output; else the layer's output error */
} pare_mixed;

typedef struct pare_quant_step {
    const pare_quant_method *method;
    pare_scheme scheme;
    pare_scale_search search;
    pare_range_search range; /* of static activations */
    double percentile;
    pare_quant_tuning tuning;
    pare_mixed mixed;
    pare_choice choice;
} pare_quant_step;

/* Where the samples of a step with data come from, and how the walk goes. */
typedef struct pare_calibration {
    char *path; /* as in pare_data_options; NULL: a step without data */
    char *labels;
    int64_t samples; /* 0: 128, or all where there are fewer */
    int64_t seq_len; /* 0: by the model and data */
    int64_t skip;
    bool shuffle;
    int64_t pad_id;     /* −2: the model's own */
    int64_t batch;      /* samples a forward; 0: by the model */
    bool dense;         /* the next block sees what the uncompressed one gave */
    bool per_block;     /* the statistics of all sites of a block are those before any of it was
                           compressed; else each site sees what those before it have become (true
                           sequential) */
    pare_dtype compute; /* F32 or BF16 */
    bool errors; /* measure what a layer's output loses also where the method could do without:
                    gathers its Gram matrix. Changes no result */
    char *cache; /* folder of statistics to be used again, or NULL */
} pare_calibration;

/* Steps in the order of the recipe. A run goes from checkpoint to checkpoint: neighbouring steps
 * that need no data are one pass over the tensors, a step with data is a walk over the blocks, a
 * shrinking one makes a smaller model; what comes between lies in "<output>.steps". */
typedef enum pare_step_kind {
    PARE_STEP_COMPRESS,
    PARE_STEP_EVAL,
    PARE_STEP_TRAIN, /* train and distill */
} pare_step_kind;
typedef struct pare_eval_step {
    char *data; /* NULL: the recipe's data: eval */
    char *labels;
    unsigned metrics; /* set of pare_metric; 0: by the model */
    char *against;    /* NULL: none */
    int64_t samples, seq_len, skip, batch;
} pare_eval_step;
typedef struct pare_step {
    pare_step_kind kind;
    size_t prune, prunes; /* COMPRESS: prunes [prune, prune + prunes) of the recipe, */
    size_t quant, quants; /* and quants likewise */
    pare_calibration calibration;
    pare_eval_step eval;
    pare_train_step *train; /* of TRAIN, else NULL */
} pare_step;

typedef struct pare_recipe {
    char *model; /* checkpoint */
    char *arch;  /* of a plain state dict, or NULL */
    uint64_t seed;
    pare_step *steps;
    size_t step_count;
    /* What the steps prune and quantise, in recipe order. Within a step a tensor is chosen by one
     * of each at most, and is pruned before it is quantised. */
    pare_prune_step *prunes;
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
/* How a step's sparsity is spread over layers, once it has its method and pattern: scope ("global",
 * "layer") or budget ("uniform", "global", "owl", "loss"), which say the same of the first two;
 * both NULL: the method's default. Methods that a walk decides have no threshold over all layers;
 * N:M and patterns that shrink have nothing to spread. */
pare_status pare_spread_parse(const char *scope, const char *budget, pare_prune_step *step);
/* "absmax", "mse", "percentile:P", "kl" into search, range and percentile of a step: the first two
 * are of weights and of static activations, the others of static activations alone (the weights'
 * scale is then absmax). */
pare_status pare_scale_parse(const char *text, pare_quant_step *step);

/* An empty recipe to be filled by hand (strings and arrays from malloc). */
pare_status pare_recipe_new(pare_recipe **recipe);
void pare_recipe_free(pare_recipe **recipe);

/* What reading a file checks beyond words and numbers: what a method needs (data, a scheme, a
 * pattern) and what does not go together. For a recipe made by hand; PARE_ERR_ARGUMENT with the
 * first thing wrong. */
pare_status pare_recipe_check(const pare_recipe *recipe);

/* Whether a step cannot do without calibration data: its method needs statistics or gradients,
 * activations are static, bits are mixed. */
bool pare_step_needs_data(const pare_recipe *recipe, const pare_step *step);

/* The normalised recipe: YAML with every default written out, the same for the same work; no path
 * of the model, the output or calibration data (lines "model: …" and, where steps need it, "data: {
 * calibration: … }" before it make it a recipe file that reads back as the same recipe). Caller
 * frees. This is what provenance keeps. */
pare_status pare_recipe_text(const pare_recipe *recipe, char **text);

#ifdef __cplusplus
}
#endif
#endif
