/* arch.h - an architecture: the config keys that name it and the roles of its tensors. One file
 * each. */
#ifndef PARE_MODEL_ARCH_H
#define PARE_MODEL_ARCH_H

#include "pare/model.h"

/* The first pattern that matches decides; what none matches is decided by its rank. */
typedef struct pare__role_rule {
    const char *pattern; /* over the tensor's whole name */
    pare_role role;
    const char *reason; /* NULL: the pattern itself */
} pare__role_rule;

typedef struct pare__arch {
    const char *const *model_types; /* of config.json; NULL after the last */
    const pare__role_rule *rules;   /* pattern NULL after the last */
} pare__arch;

extern const pare__arch pare__arch_llama, pare__arch_bert, pare__arch_gpt2, pare__arch_vit;

#endif
