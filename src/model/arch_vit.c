/* arch_vit.c - Vision Transformer (Dosovitskiy 2020) as Hugging Face names its tensors. */
#include "arch.h"

#include <stddef.h>

static const char *const model_types[] = {"vit", "deit", NULL};

static const pare__role_rule rules[] = {
    {"*embeddings.*", PARE_ROLE_EMBEDDING, NULL},
    {"*layernorm*", PARE_ROLE_NORM, NULL},
    {"*classifier.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

const pare__arch pare__arch_vit = {.model_types = model_types, .rules = rules};
