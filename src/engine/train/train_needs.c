/* train_needs.c - keys of a training that say something of another one alone: without that one they
 * would be passed over in silence. */
#include "engine/recipe/recipe_impl.h"

#include "base/check.h"

#include <string.h>

/* `of`: one of these must be said. */
static const struct {
    const char *key, *of[5], *what;
} needs[] = {
    {"erk", {"masks", "sparsity"}, "masks"},
    {"begin", {"masks", "sparsity"}, "masks"},
    {"end", {"masks", "sparsity"}, "masks"},
    {"each", {"masks", "sparsity"}, "masks"},
    {"rounds", {"masks", "sparsity"}, "masks"},
    {"rewind", {"masks", "sparsity"}, "masks"},
    {"fraction", {"masks", "sparsity"}, "masks"},
    {"revive", {"masks", "sparsity"}, "masks"},
    {"qat_fixed", {"qat"}, "qat"},
    {"qat_first_last", {"qat"}, "qat"},
    {"lora_alpha", {"lora"}, "lora"},
    {"adapter", {"lora"}, "lora"},
    {"include", {"masks", "sparsity", "qat", "lora"}, "masks, qat or lora"},
    {"exclude", {"masks", "sparsity", "qat", "lora"}, "masks, qat or lora"},
    {"cache_k", {"cache"}, "cache"},
    {"eval_labels", {"eval"}, "eval"},
};

static bool is_said(const pare_train_step *step, const char *key)
{
    const char *said, *text;
    bool path;
    for (size_t i = 0; pare__train_said(step, i, &said, &text, &path); i++)
        if (strcmp(said, key) == 0)
            return true;
    return false;
}

pare_status pare__train_needs(const pare_train_step *step)
{
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        bool there = false;
        for (size_t k = 0; needs[i].of[k]; k++)
            there |= is_said(step, needs[i].of[k]);
        PARE_REQUIRE(there || !is_said(step, needs[i].key), PARE_ERR_ARGUMENT,
                     "%s says nothing without %s: give that too, or leave it out", needs[i].key,
                     needs[i].what);
    }
    return PARE_OK;
}
