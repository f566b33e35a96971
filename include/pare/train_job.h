/* train_job.h - what a training is to do, by hand or from words. */
#ifndef PARE_TRAIN_JOB_H
#define PARE_TRAIN_JOB_H

#include "pare/distill.h"
#include "pare/lowrank.h"
#include "pare/prune.h"
#include "pare/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Globs over tensor names; a tensor is chosen if it matches an include (even one that its role
 * would leave alone) or, with no include, if its role is LINEAR or CONV; and matches no exclude. */
typedef struct pare_choice {
    char **include; /* [includes] */
    size_t includes;
    char **exclude; /* [excludes] */
    size_t excludes;
} pare_choice;

/* A checkpoint that runs, or an architecture from scratch. */
typedef struct pare_model_choice {
    const char *checkpoint; /* NULL: from scratch */
    const char *arch;       /* of a plain state dict; NULL: the checkpoint's own config says it */
    bool has_mean, has_std, has_scale; /* preprocessing instead of the architecture's */
    float mean[4], std[4], scale;
} pare_model_choice;

/* What a student's values are in the beginning. */
typedef enum pare_student_init {
    PARE_STUDENT_SUBCLONE, /* of the teacher's features, heads and neurons those of largest weights,
                              every k-th layer, rescaled (Samragh 2023) */
    PARE_STUDENT_EVERY_K,  /* every k-th layer of the teacher; its widths stay */
    PARE_STUDENT_RANDOM,
} pare_student_init;
pare_status pare_student_init_parse(const char *text, pare_student_init *init);
const char *pare_student_init_name(pare_student_init init);

typedef struct pare_train_job {
    pare_model_choice model;
    pare_data_options data;
    pare_data_options eval; /* path NULL: none; measured at the end */
    /* What is negative (curve.rate, decay, clip) or PARE_OPTIMISER_DEFAULT is decided by the model:
     * SGD, rate 0.1, decay 5e-4, no clipping for images; AdamW, 3e-4, 0.01, clipping at 1 for
     * tokens. */
    pare_train_options train;
    double epochs;      /* instead of train.curve.steps, if that is 0 */
    bool keep_masks;    /* zeros of pruned weights stay zero */
    const char *output; /* as pare_recipe.output */
    int64_t max_shard_size;

    /* Distillation: checkpoint NULL: there is no teacher, and labels alone are learned from. */
    pare_model_choice teacher;
    pare_dtype teacher_compute;   /* F32 or BF16 */
    pare_distill_options distill; /* no weight at all: outputs alone (kl 1) */
    /* The student by its shape instead of `model`: "LxD[,heads=H,ffn=F]", or "D" of models of one
     * kind of layer (docs/distill.md); NULL: model */
    const char *student;
    pare_student_init init;
    /* The teacher's outputs on disk instead of the teacher: made if the file is not there. Of
     * cache_k classes; NULL: the teacher goes forward with every batch */
    const char *cache;
    int64_t cache_k; /* 0: 64 */

    /* Retraining; each NULL: none. `chosen` of each is made from choice. */
    const pare_mask_options *masks;
    const pare_qat_options *qat;
    const pare_lora_options *lora;
    const char *adapter; /* folder for the factors alone; they are merged in the output too */
    pare_choice choice;  /* which parameters; empty: by role */
} pare_train_job;

/* ---- from words ------------------------------------------------------------------------------ */

/* A training whose choices are told one by one, as options ("--weight-decay 0.1") and recipes
 * ("weight_decay: 0.1") do. It owns its texts. */
typedef struct pare_train_step pare_train_step;

/* seed: of everything random. */
pare_status pare_train_step_create(uint64_t seed, pare_train_step **step);
void pare_train_step_free(pare_train_step **step);
/* Sets what `key` names, words with underscores, from text. Keys of globs (include, exclude,
 * freeze) add one. PARE_ERR_ARGUMENT: what was expected, with the nearest valid word; *unknown (may
 * be NULL) becomes true if there is no such key. */
pare_status pare_train_step_set(pare_train_step *step, const char *key, const char *text,
                                bool *unknown);
/* Key `index` from 0; NULL after the last. Static. */
typedef struct pare_train_key {
    const char *name, *summary;
    bool teacher; /* of distill alone */
    bool list;    /* may be given many times */
} pare_train_key;
const pare_train_key *pare_train_key_at(size_t index);
/* What has been said, checked for what does not go together; valid until the next set or free. */
pare_status pare_train_step_job(pare_train_step *step, const pare_train_job **job);

#ifdef __cplusplus
}
#endif
#endif
