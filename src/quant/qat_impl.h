/* qat_impl.h - quantisation-aware training: what its files share.
 *
 * qat.c decides what is quantised and how, qat_part.c is the part of the training, qat_calibrate.c
 * finds the scales of inputs. */
#ifndef PARE_QAT_IMPL_H
#define PARE_QAT_IMPL_H

#include "pare/quant.h"

/* A parameter that the model multiplies by rounded. Tensors are the backend's memory. */
typedef struct pare__qat_layer {
    int64_t param;
    pare_scheme scheme;
    pare_dtype step_dtype;    /* as which steps are written, and so rounded */
    int64_t rows, cols;       /* of the weight as a matrix */
    pare_blocks blocks;       /* of steps */
    int lo, hi;               /* codes */
    char *name, *factor_name; /* of what is learned */
    bool follows;             /* the step is that of the largest weight (fixed, or frozen) */
    pare_learned *learned;    /* of the latent weight; NULL: frozen */
    pare_tensor latent;       /* the weight behind: like the value */
    pare_tensor step;         /* [down, across] F32: of the last forward */
    pare_tensor lo_range;     /* the same, scratch: only where it follows */
    /* Where it learns, all [down, across] F32: the step is start·max(factor, LEAST). */
    pare_tensor start, per_start; /* as it began, and 1/that */
    pare_tensor factor, factor_grad;
    pare_tensor least, minus_least; /* LEAST·start */
} pare__qat_layer;

struct pare_qat {
    pare_qat_options options; /* chosen, store: NULL after create */
    pare_model *model;
    pare_backend *be;
    pare__qat_layer *layers; /* [count] */
    size_t count;
    int64_t *layer_of; /* [parameters]: index, or −1 */
    char **notes;      /* [parameters]: why something simpler was done, or NULL */
    uint8_t *takes;    /* [parameters] */
    pare_learned *learned;
    pare_train_part part;
    char *identity;
    void *memory;
    int64_t bytes;
    int64_t param_count;
};

/* The share of the step it began with below which a learned step does not fall. */
#define PARE__QAT_LEAST 0.015625f

/* The layer of a parameter, or NULL. */
pare__qat_layer *pare__qat_layer_of(const pare_qat *qat, int64_t param);
/* Whether inputs are rounded as the scheme says, or (on: false) not at all, for now. */
void pare__qat_round_inputs(pare_qat *qat, bool on);
/* Gives back what the part holds. */
void pare__qat_release(pare_qat *qat);

#endif
