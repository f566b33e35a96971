/* lowrank.h - low-rank factors that learn on frozen weights (LoRA, Hu 2021). */
#ifndef PARE_LOWRANK_H
#define PARE_LOWRANK_H

#include "pare/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* W' = W + (alpha/rank)·B·A, A [rank, in] bell-shaped with a deviation of 1/rank, B [out, rank]
 * from 0; W, as loaded (dense, pruned or decoded from codes), does not learn, nor does any
 * parameter that has no factors. A convolution is a matrix [O, I·kh·kw]. With keep_mask the product
 * is masked too, so that pruned weights stay exactly 0 when it is merged; without, weights that get
 * factors have no mask any more. */
typedef struct pare_lora_options {
    int64_t rank;
    double alpha; /* 0: 2·rank */
    bool keep_mask;
    bool adapter; /* the factors will be saved by themselves: what pare_lora_save cannot write is
                     found by create */
    uint64_t seed;
    const uint8_t *chosen; /* [parameters] nonzero: gets factors; NULL: every LINEAR and CONV. One
                              that is frozen gets none. During create alone */
} pare_lora_options;

typedef struct pare_lora pare_lora;

/* Freezes what does not learn: before prepare, and after parameters were frozen. */
pare_status pare_lora_create(const pare_lora_options *options, pare_model *model, pare_lora **lora);
void pare_lora_free(pare_lora **lora);
/* Of the backend: factors, their gradients, the frozen values. */
int64_t pare_lora_bytes(const pare_lora *lora);
/* be NULL: the part as checks and predictions need it, with shapes but no memory; at any time after
 * create. After prepare and load: the part that joins the training. */
pare_status pare_lora_part(pare_lora *lora, pare_backend *be, pare_train_part **part);
/* Of a parameter: the shapes of its factors, a [rank, in] and b [out, rank]; false: it has none.
 * And the factors, to host memory, once the part is made. */
bool pare_lora_layer(const pare_lora *lora, int64_t param, int64_t *rank, int64_t *in,
                     int64_t *out);
pare_status pare_lora_factors(const pare_lora *lora, int64_t param, float *a, float *b);
/* Writes them as peft does: a folder with adapter_config.json and adapter_model.safetensors, which
 * transformers' peft loads on the base model (`base`, a path or a name for the config, or NULL).
 * PARE_ERR_UNSUPPORTED for what it has no form for: convolutions in groups, weights that are no
 * module's. Where a product is masked (pare_lora_masked: a weight with factors is pruned) peft adds
 * all of it: the zeros come back, unless whoever loads it masks it too. */
bool pare_lora_masked(const pare_lora *lora);
pare_status pare_lora_save(pare_lora *lora, pare_model *model, const char *base, const char *path,
                           bool overwrite);

#ifdef __cplusplus
}
#endif
#endif
