/* train.h - the training loop, and measuring a model.
 *
 * One loop for everything that learns: it takes loss terms and step callbacks as tables of
 * functions. Order of a step: batch, forward, losses (each fills or adds to gradients), backward,
 * again for accumulation; clipping; optimiser; callbacks; moving average.
 *
 * What a training holds lies in the memory of the model's backend (backend.h). The host waits for a
 * device three times a step: for the batch to be there, for the losses, for the gradients' norm.
 */
#ifndef PARE_TRAIN_H
#define PARE_TRAIN_H

#include "pare/data.h"
#include "pare/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pare_optimiser {
    PARE_SGD,
    PARE_ADAMW,
    PARE_OPTIMISER_DEFAULT, /* by the model: pare_train (run.h) decides; the trainer takes no such
                             */
} pare_optimiser;
typedef enum pare_schedule {
    PARE_SCHEDULE_COSINE, /* to final_rate (Loshchilov & Hutter 2017, without restarts) */
    PARE_SCHEDULE_LINEAR, /* to final_rate */
    PARE_SCHEDULE_STEP,   /* × gamma at each milestone (a share of all steps) */
    PARE_SCHEDULE_CONSTANT,
} pare_schedule;

typedef struct pare_curve {
    pare_schedule kind;
    double rate, final_rate; /* final_rate: share of rate left at the end; default 0 */
    int64_t steps, warmup;   /* linear from rate/warmup up to rate in the first warmup steps */
    double milestones[8];    /* of STEP, ascending shares in (0, 1); none given: 0.5 and 0.75 */
    int milestone_count;
    double gamma; /* of STEP; 0: 0.1 */
} pare_curve;

/* The rate of step s (from 0); src/train/curve.c has the formulas. */
double pare_curve_at(const pare_curve *curve, int64_t step);

typedef struct pare_train_options {
    pare_optimiser optimiser;
    pare_curve curve;
    int64_t batch;      /* samples a forward */
    int64_t accumulate; /* forwards a step; 0: 1 */
    double momentum;    /* SGD; 0: none */
    bool nesterov;
    double beta1, beta2, eps; /* AdamW; 0: 0.9, 0.999, 1e-8 */
    double decay;             /* of weights; norms and biases have none */
    double clip;              /* largest L2 norm of all gradients (of what no mask keeps 0); 0: no
                                 clipping */
    double smoothing;         /* label smoothing, 0..1 */
    double ema;    /* moving average's share kept each step, 0: none; it is what is saved. Step t
                      (from 1) keeps min(ema, (1 + t)/(10 + t)): the start is soon forgotten.
                      Running statistics are not averaged: the model's own go with it */
    char **freeze; /* globs over parameter names */
    size_t freezes;
    uint64_t seed;
    pare_dtype compute; /* F32 or BF16 */
    int64_t save_every; /* steps between checkpoints; 0: a checkpoint each 5 minutes or so */
} pare_train_options;

/* ---- losses ---------------------------------------------------------------------------------- */

/* What a loss sees after forward. It adds weight × its gradient to the model's output gradient (the
 * first term overwrites: `first`) and to the head's, and gives the sum over samples that count. Ops
 * take labels from pare_model_batch(model), which the backend sees. */
typedef struct pare_loss_args {
    pare_model *model;
    const pare_batch *batch; /* as it went forward, in the host's memory */
    pare_backend *be;
    double grad_scale; /* of each counted sample's gradient */
    double smoothing;
    bool first, training; /* training off: the loss alone */
    double loss;          /* out: sum, f64 */
    int64_t count;        /* out: samples (or tokens) counted */
    int64_t top1, top5;   /* out: of those */
    /* memory that the loop owns, as large as the term asked for: the backend's, and the host's for
     * what is downloaded (NULL where the backend's is the host's) */
    void *scratch, *results;
    int64_t scratch_size;
} pare_loss_args;

typedef struct pare_loss {
    const char *name, *summary;
    /* bytes of scratch, and of results, for a model prepared so */
    int64_t (*scratch)(pare_model *model, const pare_model_shape *shape);
    int64_t (*results)(pare_model *model, const pare_model_shape *shape);
    pare_status (*run)(pare_loss_args *args);
} pare_loss;

/* Cross-entropy of labels; of TOKENS models through the head in chunks of rows, so that logits of a
 * large vocabulary are never whole in memory. */
extern const pare_loss pare_loss_cross_entropy;

/* ---- training -------------------------------------------------------------------------------- */

typedef struct pare_trainer pare_trainer;

typedef struct pare_train_state {
    int64_t step, steps; /* done, of */
    double loss;         /* mean of the last step, */
    double smooth_loss;  /* and its moving mean */
    double rate, grad_norm, samples_per_second, seconds_left;
} pare_train_state;

typedef struct pare_train_callbacks {
    /* After each step. A failure stops the training (PARE_ERR_INTERRUPTED: cleanly). */
    pare_status (*step)(void *user, pare_trainer *trainer, const pare_train_state *state);
    void *user;
} pare_train_callbacks;

/* The model must be prepared for training with this batch on this backend; the trainer holds the
 * optimiser's state and the moving average. Freezes parameters (call before prepare:
 * pare_train_freeze). */
pare_status pare_train_freeze(pare_model *model, const pare_train_options *options);
pare_status pare_trainer_create(const pare_train_options *options, pare_model *model,
                                pare_backend *be, const pare_dataset *dataset,
                                pare_trainer **trainer);
void pare_trainer_free(pare_trainer **trainer);

/* Whether options, model and data fit together, before any of the model's memory is there:
 * PARE_ERR_ARGUMENT with the reason. */
pare_status pare_train_check(const pare_train_options *options, const pare_model *model,
                             const pare_dataset *dataset);

/* Bytes of the backend's memory, and of the host's beside it: on the CPU it takes their sum. */
typedef struct pare_footprint {
    int64_t backend, host;
} pare_footprint;

/* What the optimiser, the moving average, losses and batches will take. */
pare_footprint pare_train_bytes(const pare_train_options *options, pare_model *model,
                                const pare_backend *be, const pare_dataset *dataset,
                                const pare_model_shape *shape);

/* Trains from the step it is at to the end. A loss or gradient that is NaN or Inf stops it
 * (PARE_ERR_NUMERIC) with the step and the first bad tensor. After a failure model and trainer are
 * as after the last whole step. */
pare_status pare_trainer_run(pare_trainer *trainer, pare_sched *sched,
                             const pare_train_callbacks *callbacks);
const pare_train_state *pare_trainer_state(const pare_trainer *trainer);

/* Mean loss of every step so far, for curves: *losses [count]. */
void pare_trainer_losses(const pare_trainer *trainer, const float **losses, int64_t *count);

/* Everything that the next step depends on, to an .h5 (written beside, then renamed), and back.
 * `fingerprint`: lines "what: value" of what must be the same to go on and the trainer does not
 * know (the model's source, threads, libraries; it adds options, data and instruction set itself);
 * a state of another one is PARE_ERR_EXISTS with the first difference. A file that is not sound is
 * PARE_ERR_DAMAGED and changes nothing. Entries: "model/<name>" of what training moves,
 * "optim/m/<name>", "optim/v/<name>", "ema/<name>", "losses", "state". */
pare_status pare_trainer_save(pare_trainer *trainer, const char *path, const char *fingerprint);
pare_status pare_trainer_load(pare_trainer *trainer, const char *path, const char *fingerprint);

/* With a moving average: swaps it with the model's values (and back). */
pare_status pare_trainer_swap_average(pare_trainer *trainer);

/* ---- evaluation ------------------------------------------------------------------------------ */

typedef enum pare_metric {
    PARE_METRIC_LOSS = 1,
    PARE_METRIC_PPL = 2,
    PARE_METRIC_TOP1 = 4,
    PARE_METRIC_TOP5 = 8,
    PARE_METRIC_KLD =
        16, /* mean KL(against ‖ model) by sample or token, with top-token agreement */
    PARE_METRIC_COSINE = 32, /* mean and least cosine of outputs (embeddings) */
} pare_metric;

typedef struct pare_eval_options {
    pare_model *model;   /* prepared for inference with this batch */
    pare_model *against; /* likewise, or NULL */
    pare_backend *be;
    const pare_dataset *dataset;
    int64_t batch;
    unsigned metrics;    /* set of pare_metric */
    const char *outputs; /* file for all outputs as .npy F32 [N, classes or D] in the order of the
                            stream (TOKENS: an error), or NULL */
    bool overwrite;      /* that file may be replaced */
    pare_progress
        progress; /* its note is told samples a second; the scheduler tells the share done */
} pare_eval_options;

typedef struct pare_eval_result {
    int64_t samples, counted; /* read; counted (tokens or labels) */
    double loss, ppl, top1, top5, kld, agreement, cosine, cosine_min;
    int64_t correct;
    double seconds, forward_seconds;
} pare_eval_result;

/* Whether model, data and metrics fit together (labels there, the same classes …), before any of
 * the models' memory is there: PARE_ERR_ARGUMENT with the reason. */
pare_status pare_eval_check(const pare_eval_options *options);

/* Each sample once. Checks first. A metric that is NaN or Inf is PARE_ERR_NUMERIC with the first
 * bad tensor; no label that counts PARE_ERR_ARGUMENT. */
pare_status pare_evaluate(pare_sched *sched, const pare_eval_options *options,
                          pare_eval_result *result);
/* What it takes beside the models. */
pare_footprint pare_eval_bytes(const pare_eval_options *options, const pare_model_shape *shape);

#ifdef __cplusplus
}
#endif
#endif
