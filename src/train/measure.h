/* measure.h - the numbers of an evaluation while they add up: evaluate.c drives, metrics.c measures
 * a batch. */
#ifndef PARE_TRAIN_MEASURE_H
#define PARE_TRAIN_MEASURE_H

#include "train_impl.h"

/* What needs labels, and what needs logits at all. */
#define PARE__LABEL_METRICS                                                                        \
    (PARE_METRIC_LOSS | PARE_METRIC_PPL | PARE_METRIC_TOP1 | PARE_METRIC_TOP5)
#define PARE__LOGIT_METRICS (PARE__LABEL_METRICS | PARE_METRIC_KLD)

/* What ops say of each row of logits at once. */
typedef struct pare__row_results {
    float *loss, *kl;
    int32_t *rank;
    uint8_t *same;
} pare__row_results;

typedef struct pare__measure {
    const pare_eval_options *options;
    const pare_model_facts *facts;
    int64_t rows;                /* of logits at once */
    pare__row_results near, far; /* as the host sees them, and where ops write them: the same on
                                    the CPU */
    float *logits, *against;     /* of TOKENS: [rows, classes] each */
    float *output, *other; /* of both models as the host sees them, where it does not see their
                              own; else NULL */
    char *arena, *host;    /* the backend's memory; the host's, where that is another: results (at
                              the beginning of both), then outputs */
    int64_t arena_bytes, host_bytes, result_bytes;
    /* sums so far */
    double nll, kld, cosine, cosine_min;
    int64_t samples, counted, top1, top5, agreed;
} pare__measure;

/* Bytes for batches of a shape; and the memory itself. */
pare_footprint pare__measure_bytes(const pare_eval_options *options, const pare_model_shape *shape);
pare_status pare__measure_create(const pare_eval_options *options, pare__measure *measure);
void pare__measure_free(pare__measure *measure);

/* Adds a batch that both models have gone forward on. *output: the model's output as the host sees
 * it, if outputs or cosines are asked for. */
pare_status pare__measure_batch(pare__measure *measure, const pare_batch *batch,
                                const float **output);

#endif
