/* arch_sample.h - one small model of every architecture and variant, with values and a batch. */
#ifndef ARCH_SAMPLE_H
#define ARCH_SAMPLE_H

#include "test.h"

#include "pare/model.h"

typedef struct arch_sample {
    const char *name, *arch, *config; /* one of arch and config */
    int64_t blocks;                   /* that it is cut into */
} arch_sample;

/* name NULL after the last. */
extern const arch_sample arch_samples[];

#define ARCH_SAMPLE_BATCH 3
#define ARCH_SAMPLE_LENGTH 7

/* A model prepared for ARCH_SAMPLE_BATCH rows of ARCH_SAMPLE_LENGTH tokens, or images, and such a
 * batch (rows of tokens end in padding). All parameters have values that look random, of the size
 * that trained ones have. */
typedef struct arch_run {
    pare_backend *be;
    pare_model *model;
    pare_model_shape shape;
    pare_batch batch;
    int32_t *ids;
    uint8_t *keys;
    float *images;
} arch_run;

/* be: freed with the run. */
arch_run arch_run_make(const arch_sample *sample, pare_backend *be, pare_dtype compute);
/* Just the shape and the batch, for a model that was made. */
void arch_run_batch(arch_run *run, pare_dtype compute);
void arch_run_free(arch_run *run);

/* Numbers that look random, in [−1, 1). */
float arch_random(uint64_t *state);

/* A tensor of the backend's memory on the host, as it is; freed by the caller. */
void *arch_copy(pare_backend *be, pare_tensor t, size_t *bytes);

/* The values of a model to the parameters of the same names in a block of it. */
void arch_give_values(pare_model *whole, pare_model *block);

#endif
