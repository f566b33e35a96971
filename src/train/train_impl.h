/* train_impl.h - the inside of src/train: what the optimiser holds, what a trainer is, rows of
 * logits. */
#ifndef PARE_TRAIN_IMPL_H
#define PARE_TRAIN_IMPL_H

#include "pare/train.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"

#include <string.h>

/* ---- options (train_options.c) --------------------------------------------------------------- */

/* The options with their defaults filled in; PARE_ERR_ARGUMENT names the one that cannot be. */
pare_status pare__train_complete(const pare_train_options *options, pare_train_options *complete);

/* Whether training moves the parameter: it has a gradient and an optimiser's state. */
static inline bool pare__is_trained(const pare_param *param)
{
    return !param->buffer && !param->frozen;
}

/* Whether the labels of the data are what the model's output is measured by, and its samples what
 * the model takes: PARE_ERR_ARGUMENT if not. `what` begins the sentence. */
pare_status pare__input_fits(const pare_model *model, const pare_dataset *dataset);
pare_status pare__labels_fit(const pare_model *model, const pare_dataset *dataset,
                             const char *what);

/* ---- logits (logits.c) ----------------------------------------------------------------------- */

/* Rows of a model's output that become logits at once: of TOKENS so many that they fill about 32
 * MiB. A constant of the vocabulary, so that results do not depend on the memory there is. */
int64_t pare__logit_rows(const pare_model_facts *facts, int64_t rows);

/* Rows of the output of the last forward: B, or B·T of TOKENS. */
int64_t pare__output_rows(const pare_model_facts *facts, const pare_batch *batch);

/* Rows [first, first + count) of t seen as [all but the last axis, last axis]. */
pare_tensor pare__rows_of(pare_tensor t, int64_t first, int64_t count);

/* Logits of rows [first, first + count) of the last forward, F32 [count, classes]: of CLASSES
 * where they are, of TOKENS through the head (or `weight`, the same in another dtype; NULL: itself)
 * into buffer. */
pare_status pare__logits(pare_model *model, pare_backend *be, int64_t first, int64_t count,
                         const pare_tensor *weight, float *buffer, pare_tensor *logits);

/* ---- the optimiser (optim.c) ----------------------------------------------------------------- */

/* A trained parameter's part of the arenas. */
typedef struct pare__trained {
    int64_t param;
    int64_t count;
    float *m, *v; /* [count]: SGD's momentum or AdamW's first moment; its second; or NULL */
    float *average;
    bool decays;
} pare__trained;

typedef struct pare__optim {
    pare_backend *be;
    pare__trained *trained;
    size_t count;
    char *state, *average; /* one arena each */
    double *sum;           /* of squares, in the first */
    int64_t state_bytes, average_bytes;
} pare__optim;

/* Bytes of both arenas together, and of the list. */
pare_footprint pare__optim_bytes(const pare_train_options *options, pare_model *model);
pare_status pare__optim_create(const pare_train_options *options, pare_model *model,
                               pare_backend *be, pare__optim *optim);
void pare__optim_free(pare__optim *optim);

/* The L2 norm of all gradients but those under masks: sums of squares in f64. NaN or infinite if
 * any of them is. */
pare_status pare__optim_norm(const pare__optim *optim, pare_model *model, pare_backend *be,
                             double *norm);

/* One step with gradients × grad_scale; step counts from 1. Moves the average too. */
pare_status pare__optim_step(const pare__optim *optim, const pare_train_options *options,
                             pare_model *model, pare_backend *be, double rate, double grad_scale,
                             int64_t step);
/* Swaps the average, which there is, with the model's values. */
pare_status pare__optim_swap(const pare__optim *optim, pare_model *model);
/* The average's share kept at a step, from 1. */
double pare__average_share(const pare_train_options *options, int64_t step);

/* ---- what must be the same to go on (checkpoint.c) --------------------------------------------
 */

/* Lines "what: value" of all that a training depends on beside the model; caller frees. */
pare_status pare__train_identity(const pare_train_options *options, const pare_dataset *dataset,
                                 const pare_backend *be, char **identity);

/* ---- the trainer (trainer.c) ----------------------------------------------------------------- */

/* A loss and what it counts. The list has one so far. */
typedef struct pare__term {
    const pare_loss *loss;
    double weight;
} pare__term;

#define PARE__TERMS 8

/* Batches that are made while the model works on one. */
#define PARE__AHEAD 2

struct pare_trainer {
    pare_train_options options; /* complete */
    pare_model *model;
    pare_backend *be;
    const pare_dataset *dataset;
    pare__term terms[PARE__TERMS];
    int term_count;
    pare__optim optim;
    char *identity;          /* lines of what the trainer itself depends on, for resuming */
    void *scratch, *results; /* of the losses, one at a time; results on the host, NULL: the same */
    int64_t scratch_size, results_size;
    float *buffers; /* the model's buffers as of the last whole step, one after the other, in the
                       backend's memory */
    int64_t buffer_count;
    float *losses; /* [steps] */
    pare_train_state state;
    bool swapped; /* the model holds the average */
    /* of the step that runs: */
    double step_loss;
    int64_t step_count;
    /* of this run: */
    double started;
    int64_t first_step;
    const pare_train_callbacks *callbacks;
};

/* Copies the model's buffers out of it, or back. */
pare_status pare__keep_buffers(pare_trainer *trainer, bool back);

#endif
