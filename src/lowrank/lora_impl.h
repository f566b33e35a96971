/* lora_impl.h - low-rank factors: what the files of LoRA share. lora.c decides which weights get
 * factors, lora_part.c is the part of the training, lora_save.c writes them as peft does. */
#ifndef PARE_LORA_IMPL_H
#define PARE_LORA_IMPL_H

#include "pare/lowrank.h"

/* A weight with factors. Tensors are the backend's memory. */
typedef struct pare__lora_layer {
    int64_t param, in, out;
    bool grouped;          /* a convolution in groups */
    char *a_name, *b_name; /* of what is learned */
    pare_tensor base;      /* [out, in]: the weight as it was */
    pare_tensor a, a_grad; /* [rank, in] */
    pare_tensor b, b_grad; /* [out, rank] */
    pare_tensor scaled;    /* [out, rank]: (alpha/rank)·b of the last forward */
} pare__lora_layer;

struct pare_lora {
    pare_lora_options options; /* complete; chosen: NULL after create */
    pare_model *model;
    pare_backend *be;
    pare__lora_layer *layers; /* [count] */
    size_t count;
    int64_t *layer_of; /* [parameters]: index, or −1 */
    uint8_t *takes;    /* [parameters] */
    pare_learned *learned;
    pare_train_part part;
    char *identity;
    pare_tensor factor; /* [rank]: alpha/rank each */
    void *memory;
    int64_t bytes, param_count;
};

/* Gives back what the part holds. */
void pare__lora_release(pare_lora *lora);

/* Whether all factors mean the same to peft, whose config says once how weights are stored:
 * PARE_ERR_UNSUPPORTED with the reason. */
pare_status pare__lora_check_saves(const pare_lora *lora);

#endif
