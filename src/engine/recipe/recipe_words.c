/* recipe_words.c - the words of recipes and options: methods, scopes, export formats. */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

#define MAX_METHODS 32

char *pare__word_list(const char *const *words, char *into, size_t size)
{
    size_t at = 0;
    into[0] = '\0';
    for (size_t i = 0; words[i] && at < size; i++) {
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        int wrote = snprintf(into + at, size - at, "%s%s", between, words[i]);
        at += wrote > 0 ? (size_t)wrote : 0;
    }
    return into;
}

pare_status pare__word_error(const char *what, const char *text, const char *const *words,
                             const char *const *later)
{
    char list[400];
    pare__word_list(words, list, sizeof list);
    for (size_t i = 0; later && later[i]; i++)
        PARE_REQUIRE(strcmp(text, later[i]) != 0, PARE_ERR_ARGUMENT,
                     "%s \"%s\" is not in this version: use %s", what, text, list);
    const char *near = pare__nearest(text, words);
    PARE_FAIL(PARE_ERR_ARGUMENT, "%s \"%.60s\" is unknown, expected %s%s%s%s", what, text, list,
              near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

pare_status pare_prune_method_parse(const char *text, const pare_prune_method **method)
{
    static const char *const later[] = {"obd", "movement", "snip", "lrp", "relevance", NULL};
    PARE_REQUIRE(text && method, PARE_ERR_ARGUMENT, "prune method: NULL argument");
    *method = pare_prune_find(text);
    if (*method)
        return PARE_OK;
    const char *names[MAX_METHODS + 1] = {NULL};
    for (size_t i = 0; i < MAX_METHODS && pare_prune_methods()[i]; i++)
        names[i] = pare_prune_methods()[i]->name;
    return pare__word_error("prune method", text, names, later);
}

pare_status pare_quant_method_parse(const char *text, const pare_quant_method **method)
{
    static const char *const later[] = {"hqq", "adaround", "signround", "qat",
                                        "lsq", "quarot",   "gptaq",     NULL};
    PARE_REQUIRE(text && method, PARE_ERR_ARGUMENT, "quantize method: NULL argument");
    *method = pare_quant_find(text);
    if (*method)
        return PARE_OK;
    const char *names[MAX_METHODS + 1] = {NULL};
    for (size_t i = 0; i < MAX_METHODS && pare_quant_methods()[i]; i++)
        names[i] = pare_quant_methods()[i]->name;
    return pare__word_error("quantize method", text, names, later);
}

static const char *const scopes[] = {
    [PARE_SCOPE_GLOBAL] = "global", [PARE_SCOPE_LAYER] = "layer", NULL};

pare_status pare_scope_parse(const char *text, pare_scope *scope)
{
    PARE_REQUIRE(text && scope, PARE_ERR_ARGUMENT, "scope: NULL argument");
    for (int i = 0; scopes[i]; i++)
        if (strcmp(text, scopes[i]) == 0) {
            *scope = (pare_scope)i;
            return PARE_OK;
        }
    return pare__word_error("scope", text, scopes, NULL);
}

const char *pare_scope_name(pare_scope scope)
{
    return scope <= PARE_SCOPE_LAYER ? scopes[scope] : "?";
}

pare_status pare_spread_parse(const char *scope, const char *budget, pare_prune_step *step)
{
    PARE_REQUIRE(step, PARE_ERR_ARGUMENT, "scope: NULL argument");
    const char *given = scope ? "scope" : "budget";
    char pattern[40];
    bool walks = pare__prune_walks(step), nm = step->pattern.kind == PARE_PATTERN_NM;
    pare_budget spread = PARE_BUDGET_UNIFORM;
    step->scope = walks && !nm ? PARE_SCOPE_LAYER : PARE_SCOPE_GLOBAL;
    step->budget = PARE_BUDGET_UNIFORM;
    if (!scope && !budget)
        return PARE_OK;
    PARE_REQUIRE(!scope || !budget, PARE_ERR_ARGUMENT,
                 "budget: beside scope, which says the same: give one of them");
    PARE_REQUIRE(!pare_pattern_shrinks(&step->pattern), PARE_ERR_ARGUMENT,
                 "%s: beside pattern %s all layers lose the same share: leave it out", given,
                 pare_pattern_text(&step->pattern, pattern, sizeof pattern));
    if (scope) {
        PARE_TRY(pare_scope_parse(scope, &step->scope));
    } else {
        PARE_TRY(pare_budget_parse(budget, &spread));
        step->scope = spread == PARE_BUDGET_GLOBAL ? PARE_SCOPE_GLOBAL : PARE_SCOPE_LAYER;
        if (spread == PARE_BUDGET_OWL || spread == PARE_BUDGET_LOSS)
            step->budget = spread;
    }
    PARE_REQUIRE(!walks || !nm || step->scope == PARE_SCOPE_LAYER, PARE_ERR_ARGUMENT,
                 "%s: beside pattern %s all layers have the same sparsity: leave it out", given,
                 pare_pattern_text(&step->pattern, pattern, sizeof pattern));
    if (walks && step->scope == PARE_SCOPE_GLOBAL) { /* decided before it; then each has a share */
        step->budget = PARE_BUDGET_GLOBAL;
        step->scope = PARE_SCOPE_LAYER;
    }
    if (nm)
        step->scope = PARE_SCOPE_GLOBAL; /* has no meaning there: one spelling */
    return PARE_OK;
}

pare_status pare_export_format_parse(const char *text, const char **format)
{
    static const char *const formats[] = {"dense", "int-quantized", "sparse-bitmask", "nf4", NULL};
    static const char *const later[] = {"gguf", "gptq", "awq",  "marlin", "sparse-24-bitmask",
                                        "q4_0", "q8_0", "q4_k", "mxfp4",  "nvfp4",
                                        NULL};
    static const char *const containers[] = {"h5", "safetensors", "hf", NULL};
    PARE_REQUIRE(text && format, PARE_ERR_ARGUMENT, "format: NULL argument");
    for (size_t i = 0; formats[i]; i++)
        if (strcmp(text, formats[i]) == 0) {
            *format = formats[i];
            return PARE_OK;
        }
    for (size_t i = 0; containers[i]; i++)
        PARE_REQUIRE(strcmp(text, containers[i]) != 0, PARE_ERR_ARGUMENT,
                     "format \"%s\": the ending of the output's name decides the container: X.h5, "
                     "X.safetensors, or a folder in Hugging Face form",
                     text);
    return pare__word_error("format", text, formats, later);
}

pare_status pare_scale_parse(const char *text, pare_quant_step *step)
{
    static const char *const words[] = {"absmax", "mse", "percentile:99.9", "kl", NULL};
    PARE_REQUIRE(text && step, PARE_ERR_ARGUMENT, "scale: NULL argument");
    step->search = PARE_SCALE_ABSMAX;
    step->range = PARE_RANGE_ABSMAX;
    step->percentile = 0;
    if (strcmp(text, "mse") == 0) {
        step->search = PARE_SCALE_MSE;
        step->range = PARE_RANGE_MSE;
    } else if (strcmp(text, "kl") == 0) {
        step->range = PARE_RANGE_KL;
    } else if (strncmp(text, "percentile:", 11) == 0) {
        PARE_REQUIRE(pare__parse_double(text + 11, &step->percentile) && step->percentile > 0 &&
                         step->percentile <= 100,
                     PARE_ERR_ARGUMENT,
                     "scale \"%s\": a percentile is a number above 0, at most 100, such as "
                     "percentile:99.9",
                     text);
        step->range = PARE_RANGE_PERCENTILE;
    } else if (strcmp(text, "absmax") != 0) {
        const char *near = pare__nearest(text, words);
        PARE_FAIL(PARE_ERR_ARGUMENT,
                  "scale \"%s\" is none of absmax, mse, percentile:P and kl%s%s%s", text,
                  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return PARE_OK;
}

char *pare__scale_text(const pare_quant_step *step, char *text, size_t size)
{
    char number[32];
    if (step->range == PARE_RANGE_KL)
        snprintf(text, size, "kl");
    else if (step->range == PARE_RANGE_PERCENTILE)
        snprintf(text, size, "percentile:%s",
                 pare__shortest(step->percentile, number, sizeof number));
    else
        snprintf(text, size, "%s", pare_scale_search_name(step->search));
    return text;
}

const char *const pare__metric_words[] = {"loss", "ppl", "top1", "top5", "kld", "cosine", NULL};
