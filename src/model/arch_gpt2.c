/* arch_gpt2.c - GPT-2 (Radford 2019). Its products are stored [in, out], so rows are no output
 * channels. */
#include "arch.h"

#include <stddef.h>

static const char transposed[] = "stored [in, out] (Conv1D), which this version leaves alone";

static const char *const model_types[] = {"gpt2", NULL};

static const pare__role_rule rules[] = {
    {"*wte.*", PARE_ROLE_EMBEDDING, NULL},
    {"*wpe.*", PARE_ROLE_EMBEDDING, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"*ln_*", PARE_ROLE_NORM, NULL},
    {"*.attn.bias", PARE_ROLE_OTHER, NULL},
    {"*.attn.masked_bias", PARE_ROLE_OTHER, NULL},
    {"*.c_attn.weight", PARE_ROLE_OTHER, transposed},
    {"*.c_proj.weight", PARE_ROLE_OTHER, transposed},
    {"*.c_fc.weight", PARE_ROLE_OTHER, transposed},
    {NULL, PARE_ROLE_OTHER, NULL},
};

const pare__arch pare__arch_gpt2 = {.model_types = model_types, .rules = rules};
