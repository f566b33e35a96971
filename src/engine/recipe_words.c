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
    char list[256];
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
    static const char *const later[] = {"wanda",    "sparsegpt", "taylor", "fisher",    "obd",
                                        "movement", "snip",      "lrp",    "relevance", NULL};
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
    static const char *const later[] = {"gptq",     "awq",       "smoothquant", "hqq",
                                        "adaround", "signround", "qat",         "lsq",
                                        "quarot",   "gptaq",     NULL};
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
