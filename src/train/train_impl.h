/* train_impl.h - the inside of src/train: what the optimiser holds, what a trainer is. */
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

/* ---- the optimiser (optim.c) ----------------------------------------------------------------- */

/* What the optimiser moves: a parameter of the model, or something learned beside it; and its part
 * of the arenas. */
typedef struct pare__trained {
    int64_t param; /* −1: learned */
    const pare_learned *learned;
    const char *name;
    pare_tensor value, grad; /* as they are there, of any rank */
    int64_t count;
    float *m, *v; /* [count]: SGD's momentum or AdamW's first moment; its second; or NULL */
    float *average;
    bool decays;
    double rate; /* share of the schedule's */
} pare__trained;

typedef struct pare__optim {
    pare_model *model;
    pare_backend *be;
    pare__trained *trained;
    size_t count;
    char *state, *average; /* one arena each */
    double *sum;           /* of squares, in the first */
    int64_t state_bytes, average_bytes;
} pare__optim;

/* Bytes of both arenas together, and of the list. */
pare_footprint pare__optim_bytes(const pare_train_setup *setup);
pare_status pare__optim_create(const pare_train_setup *setup, pare__optim *optim);
void pare__optim_free(pare__optim *optim);

/* The mask of what is trained as it is now; NULL: dense. */
uint8_t *pare__trained_mask(const pare__optim *optim, const pare__trained *trained);
/* Forgets all moments, as before the first step. */
pare_status pare__optim_reset(const pare__optim *optim);
/* Clears the gradients of what is learned beside the model. */
pare_status pare__optim_clear(const pare__optim *optim);

/* The L2 norm of all gradients but those under masks: sums of squares in f64. NaN or infinite if
 * any of them is. */
pare_status pare__optim_norm(const pare__optim *optim, double *norm);

/* One step with gradients × grad_scale; step counts from 1. Moves the average too. */
pare_status pare__optim_step(const pare__optim *optim, const pare_train_options *options,
                             double rate, double grad_scale, int64_t step);
/* Swaps the average, which there is, with the model's values. */
pare_status pare__optim_swap(const pare__optim *optim);
/* The average's share kept at a step, from 1. */
double pare__average_share(const pare_train_options *options, int64_t step);

/* Everything that is learned beside the model's parameters, one after the other: of the terms, then
 * of the parts. NULL behind the last. */
const pare_learned *pare__learned_at(const pare_train_setup *setup, size_t index);
/* Whether a part makes the parameter's value. */
bool pare__is_taken(const pare_train_setup *setup, int64_t param);
bool pare__moves_masks(const pare_train_setup *setup);

/* ---- what must be the same to go on (checkpoint.c) --------------------------------------------
 */

/* Lines "what: value" of all that a training depends on beside the model; caller frees. `setup`
 * with complete options. */
pare_status pare__train_identity(const pare_train_setup *setup, char **identity);

/* ---- several ranks (ranks.c) ----------------------------------------------------------------- */

typedef struct pare__team pare__team;

int pare__team_of(const pare_train_setup *setup); /* 1: alone */
pare_status pare__team_check(const pare_train_setup *setup, const pare_train_options *options);
int64_t pare__team_bytes(const pare_train_setup *setup, int64_t buffers); /* the host's */
/* Makes trainer->ranks, NULL for one that is alone. */
pare_status pare__team_create(pare_trainer *trainer);
void pare__team_free(pare_trainer *trainer);

int64_t pare__team_batch(const pare_trainer *trainer);  /* of this rank */
int64_t pare__team_offset(const pare_trainer *trainer); /* where it begins in the batch of all */
uint64_t pare__team_stream(const pare_trainer *trainer, uint64_t step); /* of draws */
bool pare__team_first(const pare_trainer *trainer);

/* PARE_ERR_RANK unless all are about to do the same. */
pare_status pare__team_agree(pare_trainer *trainer);
/* Before the last backward of a step; and after it: gradients, losses, counts and buffers are those
 * of all ranks. Not for one that is alone. */
pare_status pare__team_begin(pare_trainer *trainer);
pare_status pare__team_end(pare_trainer *trainer);

/* ---- a teacher (teacher.c) ------------------------------------------------------------------- */

typedef struct pare__teacher pare__teacher;

/* Whether it goes forward on the next batch while the student works on this one. */
bool pare__teacher_beside(const pare_train_setup *setup);
/* Feeds the trainer's batches to `work`, the teacher beside it if that is so. From its end on what
 * the teacher's backend is asked comes after all that the trainer's was asked. */
pare_status
pare__teacher_run(pare_trainer *trainer, pare_sched *sched, const pare_feed_options *feed,
                  pare_status (*work)(void *trainer, int64_t index, const pare_batch *batch));
/* Before the losses: the teacher has gone forward on the batch; and once all are asked for. */
pare_status pare__teacher_ready(pare_trainer *trainer, const pare_batch *batch);
pare_status pare__teacher_next(pare_trainer *trainer);

/* ---- the trainer (trainer.c) ----------------------------------------------------------------- */

/* Batches that are made while the model works on one. */
#define PARE__AHEAD 2

struct pare_trainer {
    pare_train_options options; /* complete */
    pare_train_setup setup;     /* with these options, and at least one term */
    pare_model *model;
    pare_backend *be;
    const pare_dataset *dataset;
    pare__optim optim;
    char *identity;          /* lines of what the trainer itself depends on, for resuming */
    void *scratch, *results; /* of the losses, one at a time; results on the host, NULL: the same */
    int64_t scratch_size, results_size;
    float *buffers; /* the model's buffers as of the last whole step, one after the other, in the
                       backend's memory */
    int64_t buffer_count;
    pare__team *ranks;      /* NULL: alone */
    pare__teacher *teacher; /* of this run; NULL: there is none, or it goes forward in line */
    float *losses;          /* [steps] */
    pare_train_state state;
    bool swapped; /* the model holds the average */
    /* of the step that runs: */
    double step_loss, step_terms[PARE_TRAIN_TERMS];
    int64_t step_count;
    int64_t sample; /* of the stream, where the next batch begins */
    /* of this run: */
    double started;
    int64_t first_step;
    const pare_train_callbacks *callbacks;
};

/* Copies the model's buffers out of it, or back: to `kept` [buffer_count], the backend's memory; to
 * trainer->buffers. */
pare_status pare__copy_buffers(pare_trainer *trainer, float *kept, bool back);
pare_status pare__keep_buffers(pare_trainer *trainer, bool back);

/* Tells the parts that a state was read. */
pare_status pare__parts_loaded(pare_trainer *trainer);

#endif
