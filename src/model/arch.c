/* arch.c - the table of architectures, and the role of a tensor. A new architecture is its file and
 * a line here. */
#include "arch.h"

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

#include <string.h>

static const pare__arch *const architectures[] = {
    &pare__arch_llama,
    &pare__arch_bert,
    &pare__arch_gpt2,
    &pare__arch_vit,
};

/* What is left alone in a checkpoint of no known architecture, by the names that the field uses. */
static const pare__role_rule unknown_rules[] = {
    {"*emb*", PARE_ROLE_EMBEDDING, NULL}, {"*norm*", PARE_ROLE_NORM, NULL},
    {"*lm_head*", PARE_ROLE_HEAD, NULL},  {"*classifier*", PARE_ROLE_HEAD, NULL},
    {"*.fc.*", PARE_ROLE_HEAD, NULL},     {NULL, PARE_ROLE_OTHER, NULL},
};

const char *pare_role_name(pare_role role)
{
    static const char *const names[] = {"linear", "conv", "embedding", "head",
                                        "norm",   "bias", "other"};
    return role <= PARE_ROLE_OTHER ? names[role] : "?";
}

static const pare__arch *find(const char *config, const char **name)
{
    const pare__arch *found = NULL;
    pare__json *root = NULL;
    *name = NULL;
    if (!config || pare__json_parse(config, strlen(config), "config.json", &root) != PARE_OK)
        return NULL;
    const char *type = pare__json_string(pare__json_get(root, "model_type"));
    for (size_t a = 0; type && a < sizeof architectures / sizeof *architectures; a++)
        for (size_t t = 0; architectures[a]->model_types[t]; t++)
            if (strcmp(architectures[a]->model_types[t], type) == 0) {
                found = architectures[a];
                *name = found->model_types[t];
            }
    pare__json_free(&root);
    return found;
}

const char *pare_known_architecture(const char *config)
{
    const char *name;
    find(config, &name);
    return name;
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
    const char *name, *why;
    const pare__arch *arch = find(config, &name);
    pare_role role = match(arch ? arch->rules : unknown_rules, entry->name, &why);
    if (why) {
        *reason = why;
        return role;
    }
    if (!pare_dtype_is_weight(entry->dtype)) {
        *reason = "its numbers are no f32, f16 or bf16";
        return PARE_ROLE_OTHER;
    }
    *reason = name ? name : "rank";
    if (entry->rank < 2)
        return PARE_ROLE_BIAS;
    return entry->rank == 2 ? PARE_ROLE_LINEAR : PARE_ROLE_CONV;
}
