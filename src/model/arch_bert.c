/* arch_bert.c - encoders of the BERT family (Devlin 2018; DistilBERT, RoBERTa name their tensors
 * alike). */
#include "arch.h"

#include <stddef.h>

static const char *const model_types[] = {"bert", "distilbert", "roberta", NULL};

static const pare__role_rule rules[] = {
    {"*embeddings.LayerNorm.*", PARE_ROLE_NORM, NULL},
    {"*embeddings.*", PARE_ROLE_EMBEDDING, NULL},
    {"*LayerNorm.*", PARE_ROLE_NORM, NULL},
    {"*layer_norm.*", PARE_ROLE_NORM, NULL},
    {"classifier.*", PARE_ROLE_HEAD, NULL},
    {"qa_outputs.*", PARE_ROLE_HEAD, NULL},
    {"lm_head.*", PARE_ROLE_HEAD, NULL},
    {"cls.*", PARE_ROLE_HEAD, NULL},
    {NULL, PARE_ROLE_OTHER, NULL},
};

const pare__arch pare__arch_bert = {.model_types = model_types, .rules = rules};
