/* arch_llama.c - decoders of the Llama family (Touvron 2023): q, k, v, o and a gated MLP in every
 * layer. */
#include "arch.h"

#include <stddef.h>

static const char *const model_types[] = {"llama", "mistral", "qwen2", "qwen3", NULL};

static const pare__role_rule rules[] = {
    {"*embed_tokens.*", PARE_ROLE_EMBEDDING, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"*norm.*", PARE_ROLE_NORM, NULL},
    {"*rotary_emb.*", PARE_ROLE_OTHER, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

const pare__arch pare__arch_llama = {.model_types = model_types, .rules = rules};
