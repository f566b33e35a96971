/* train.h - the training loop, and measuring a model.
 *
 * One loop for everything that learns: it takes loss terms and step callbacks as tables of
 * functions. Order of a step: batch, forward, losses (each fills or adds to gradients), backward,
 * again for accumulation; clipping; optimiser; callbacks; moving average.
 *
 * What a training holds lies in the memory of the model's backend (backend.h). The host waits for a
 * device three times a step: for the batch to be there, for the losses, for the gradients' norm;
 * for a teacher with a backend of its own a thread waits, and the host for that one.
 */
#ifndef PARE_TRAIN_H
#define PARE_TRAIN_H

#include "pare/comm.h"
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
    double gamma;   /* of STEP; 0: 0.1 */
    int64_t period; /* the curve begins again after so many steps, as though there were no more; 0:
                       never. This `restarts` times; the last one goes on to the end */
    int64_t restarts;
} pare_curve;

/* The rate of step s (from 0); src/train/curve.c has the formulas. */
double pare_curve_at(const pare_curve *curve, int64_t step);
/* The step at which the curve that step s is on began. */
int64_t pare_curve_begin(const pare_curve *curve, int64_t step);

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

/* What learns beside the model's parameters: a projection, a step size, a low-rank factor. */
typedef struct pare_learned {
    const char *name;  /* unique; kept in the state of the training under it, "qat/<tensor>" */
    pare_tensor value; /* F32, the backend's memory */
    pare_tensor grad;  /* likewise; cleared when a step begins */
    uint8_t *mask;     /* as pare_param's, or NULL */
    bool decays;       /* weight decay */
    double rate;       /* its learning rate is the schedule's times this; 0: 1 */
} pare_learned;

/* What a loss sees after forward. Every loss is a sum over the units that count: samples where the
 * model gives classes or vectors, tokens (with a label, no padding) where it gives tokens; what it
 * takes from inside a sample (positions, heads, features) it means first. The optimiser divides all
 * gradients by the units of the first term. A loss adds grad_scale × its gradient to the model's
 * output gradient (`first`: it overwrites it, even by 0), to the head's, to taps' (model.h) and to
 * those of what it learned. Ops take labels from pare_model_batch(model), which the backend sees.
 */
typedef struct pare_loss_args {
    void *state; /* of the term */
    pare_model *model;
    pare_model *teacher;         /* went forward with the same batch; NULL: there is none */
    const pare_dataset *dataset; /* the batch is samples [sample, sample + size) of its stream; */
    int64_t sample;              /* NULL: not known (an evaluation) */
    const pare_batch *batch;     /* as it went forward, in the host's memory */
    pare_backend *be;
    double grad_scale; /* of each counted unit's gradient */
    double smoothing;
    int64_t step, steps;  /* for what changes on the way */
    bool first, training; /* training off: the loss alone */
    double loss;          /* out: sum, f64 */
    int64_t count;        /* out: units counted */
    int64_t top1, top5;   /* out: of those, where it knows labels; else 0 */
    /* memory that the loop owns, as large as the term asked for: the backend's, and the host's for
     * what is downloaded (NULL where the backend's is the host's) */
    void *scratch, *results;
    int64_t scratch_size;
} pare_loss_args;

typedef struct pare_loss {
    const char *name, *summary;
    bool labels;  /* needs labels */
    bool teacher; /* needs a teacher that went forward */
    /* bytes of scratch, and of results, for a model prepared so */
    int64_t (*scratch)(void *state, pare_model *model, const pare_model_shape *shape);
    int64_t (*results)(void *state, pare_model *model, const pare_model_shape *shape);
    pare_status (*run)(pare_loss_args *args);
} pare_loss;

/* A number that changes during the training: `from` until the share `begin` of all steps, `to` from
 * the share `end` on, a straight line between. end 0: always `from`. */
typedef struct pare_ramp {
    double from, to, begin, end;
} pare_ramp;
double pare_ramp_at(const pare_ramp *ramp, int64_t step, int64_t steps);

/* A loss and what it counts. */
typedef struct pare_loss_term {
    const pare_loss *loss;
    void *state; /* whoever made the term owns it */
    pare_ramp weight;
    pare_learned *learned; /* [learned_count] */
    size_t learned_count;
} pare_loss_term;

/* Cross-entropy of labels; of TOKENS models through the head in chunks of rows, so that logits of a
 * large vocabulary are never whole in memory. */
extern const pare_loss pare_loss_cross_entropy;

/* ---- logits, for losses of outputs ------------------------------------------------------------
 *
 * A classifier's logits are the model's output. A model of tokens gives hidden states X [B·T, D];
 * its logits X·Wᵀ + b are made and measured some rows at a time, never whole. */

/* Rows of the output of a batch: B, or B·T of TOKENS. */
int64_t pare_logits_rows(const pare_model_facts *facts, const pare_batch *batch);

/* How many of so many rows become logits at once: of TOKENS as many as fill about 32 MiB. A
 * constant of the vocabulary, so that results do not depend on the memory there is. */
int64_t pare_logits_at_once(const pare_model_facts *facts, int64_t rows);

/* Logits of rows [first, first + count) of the last forward, F32 [count, classes]: of CLASSES where
 * they are, of TOKENS through the head (or `weight`, the same in another dtype; NULL: itself) into
 * buffer. */
pare_status pare_logits_of(pare_model *model, pare_backend *be, int64_t first, int64_t count,
                           const pare_tensor *weight, float *buffer, pare_tensor *logits);

/* All rows, and on the way back the gradients of the output, of the head and its bias. */
typedef struct pare_logits_walk {
    pare_loss_args *args;
    void *scratch; /* of the backend, as large as pare_logits_bytes says */
    int64_t scratch_size;
    /* What a loss makes of rows [first, first + count): logits [count, classes] F32. In training it
     * leaves grad_scale × its gradient by them in `gradient`, perhaps the same memory; else data
     * NULL. Of TOKENS, chunks of which no row has a label that counts are passed over. */
    pare_status (*measure)(void *user, int64_t first, pare_tensor logits, pare_tensor gradient);
    void *user;
} pare_logits_walk;
int64_t pare_logits_bytes(pare_model *model, const pare_model_shape *shape);
pare_status pare_logits_run(const pare_logits_walk *walk);

/* ---- training -------------------------------------------------------------------------------- */

typedef struct pare_trainer pare_trainer;

#define PARE_TRAIN_TERMS 8

typedef struct pare_train_state {
    int64_t step, steps;            /* done, of */
    double loss;                    /* mean of the last step: Σ weight × term, */
    double smooth_loss;             /* and its moving mean */
    double terms[PARE_TRAIN_TERMS]; /* moving means of the terms, without their weights */
    double rate, grad_norm, samples_per_second, seconds_left;
} pare_train_state;

typedef struct pare_train_callbacks {
    /* After each step. A failure stops the training (PARE_ERR_INTERRUPTED: cleanly). */
    pare_status (*step)(void *user, pare_trainer *trainer, const pare_train_state *state);
    void *user;
} pare_train_callbacks;

/* Memory of a part that its state hangs on, kept in the training's. */
typedef struct pare_kept {
    const char *name; /* unique among all that is kept */
    pare_tensor tensor;
    bool host; /* the host's memory, else the backend's */
} pare_kept;

typedef struct pare_train_moment {
    pare_model *model;
    pare_backend *be;
    int64_t step, steps; /* the step that runs, from 0 */
    double rate;
} pare_train_moment;

/* What takes part in every step: schedules of masks, quantisers that training looks through,
 * low-rank factors. All of it lies with whoever made it (pare_qat_create …), and must outlive the
 * trainer. */
typedef struct pare_train_part {
    const char *name;     /* "qat" */
    const char *identity; /* lines "what: value" that must be the same to go on; NULL: none */
    void *state;
    pare_learned *learned; /* [learned_count] */
    size_t learned_count;
    const uint8_t *takes; /* [parameters]: nonzero where the part makes the value of a parameter of
                             the model from what it learned; the optimiser leaves that one alone,
                             and so does the state. Its gradient is made. NULL: none */
    bool moves_masks;     /* the parameters' masks change: they are kept in the state */
    pare_kept *kept;      /* [kept_count] */
    size_t kept_count;
    /* Each may be NULL. A failure stops the training. What counts, draws or forgets belongs into
     * `after`: a run that is cut ends and begins between whole steps, so that `before` may come
     * twice for one step and must then do the same again. */
    pare_status (*before)(void *state, const pare_train_moment *m); /* the first forward of a step:
        makes values. Also once more at the end of the training (step == steps), so that the model's
        values are those of what was learned */
    pare_status (*back)(void *state, const pare_train_moment *m);   /* gradients are whole, of all
         ranks: turns the model's into those of what it learned (same scale) */
    pare_status (*after)(void *state, const pare_train_moment *m);  /* the optimiser has moved */
    pare_status (*loaded)(void *state, const pare_train_moment *m); /* a state was read */
} pare_train_part;

/* What a training is made of. */
typedef struct pare_train_setup {
    const pare_train_options *options;
    pare_model *model; /* prepared for training with this batch on this backend */
    pare_backend *be;
    const pare_dataset *dataset;
    const pare_loss_term *terms; /* [term_count]; none: cross-entropy, weight 1 */
    size_t term_count;
    pare_train_part *const *parts; /* [part_count], called in this order, `back` in reverse */
    size_t part_count;
    pare_model *teacher;      /* prepared for inference with this batch on teacher_be: goes forward
                                 before the losses. NULL: none */
    pare_backend *teacher_be; /* what it was prepared with. A second backend of the same device: it
                            goes forward on the next batch while the student learns from this one,
                            with the same results. NULL: be */
    pare_comm *comm; /* ranks that train together (comm.h): options.batch is of all of them; rank r
                        of N takes samples r·batch/N … of each; gradients are summed in buckets
                        while backward goes on. NULL: alone */
} pare_train_setup;

/* Freezes parameters: before prepare. */
pare_status pare_train_freeze(pare_model *model, const pare_train_options *options);
/* The trainer holds the optimiser's state and the moving average. What the setup points to must
 * outlive it. */
pare_status pare_trainer_create(const pare_train_setup *setup, pare_trainer **trainer);
void pare_trainer_free(pare_trainer **trainer);

/* Whether what it is made of fits together, before any of the model's memory is there:
 * PARE_ERR_ARGUMENT with the reason. */
pare_status pare_train_check(const pare_train_setup *setup);

/* Bytes of the backend's memory, and of the host's beside it: on the CPU it takes their sum. */
typedef struct pare_footprint {
    int64_t backend, host;
} pare_footprint;

/* What the optimiser, the moving average, losses and batches will take. */
pare_footprint pare_train_bytes(const pare_train_setup *setup, const pare_model_shape *shape);

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
 * "learned/<name>", "optim/m/<name>", "optim/v/<name>", "ema/<name>", "mask/<name>", "part/<name>",
 * "losses", "state". Of several ranks each calls it, the first one writes. */
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
