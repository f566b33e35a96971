/* train_text.h - a training as text: the normalised recipe, and what must be the same to go on. */
#ifndef PARE_ENGINE_TRAIN_TEXT_H
#define PARE_ENGINE_TRAIN_TEXT_H

#include "pare/run.h"

/* YAML with every choice that the result depends on written out; no paths, threads or budget.
 * losses: of a job with a teacher. Caller frees. */
pare_status pare__train_recipe(const pare_train_job *job, const pare_train_options *train,
                               const pare_distill_options *losses, const pare_data_options *data,
                               char **text);

/* What must be the same to go on with a training. */
typedef struct pare__identity {
    const char *recipe, *data; /* texts */
    const char *sources;       /* digests of the source's tensors */
    const char *config;        /* of the model, or NULL */
    int threads;               /* 0: several ranks, of which there may be more or fewer next time */
    pare_backend *be;
} pare__identity;

/* "key: value" lines. Caller frees. */
pare_status pare__train_fingerprint(const pare__identity *identity, char **text);

#endif
