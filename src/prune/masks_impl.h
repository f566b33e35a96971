/* masks_impl.h - schedules of masks: what a schedule is (one file each), the layers it works on,
 * and what it may ask of them.
 *
 * A unit is what goes or stays as one: a weight, or a block of them. Of N:M a unit is a weight, and
 * what is asked for is how many of every m stay. All that touches weights is ops of the backend;
 * the host sees counts and thresholds.
 */
#ifndef PARE_MASKS_IMPL_H
#define PARE_MASKS_IMPL_H

#include "prune_impl.h"

#include "base/check.h"

/* A weight whose mask moves, as the matrix [rows, cols] that its product sees. */
typedef struct pare__mask_layer {
    int64_t param;
    int64_t rows, cols, channels; /* channels: inputs of a filter, cols/channels places each */
    int64_t unit_rows, unit_cols, units;
    uint64_t stream; /* of random scores: a hash of the name */
    double raw;      /* its density by ERK, but for a factor that is the same for all */
    bool given;      /* it had a mask before the training */
    float *score;    /* [rows, cols] Σ −w·g, or NULL */
    float *dense;    /* [rows, cols] what a revived weight comes back with, or NULL */
    int32_t *order;  /* N:M of a convolution: [2·cols] the columns with channels last, and back */
} pare__mask_layer;

/* The steps of a schedule, from its options and the length of the training. */
typedef struct pare__mask_times {
    int64_t begin, end, each; /* changes happen in [begin, end] */
    int64_t period;           /* REWIND: steps of a round; 0 if there are too few */
    int64_t rounds;
} pare__mask_times;
pare__mask_times pare__mask_times_of(const pare_mask_options *options, int64_t steps);

typedef struct pare__mask_schedule {
    const char *name, *summary;
    bool sparse; /* begins sparse: what goes first is chosen before the training */
    /* How many changes are due when a step (from 0) is done. */
    int64_t (*due)(const pare_mask_options *options, const pare__mask_times *t, int64_t step);
    /* The sparsity after that many of them. */
    double (*sparsity)(const pare_mask_options *options, const pare__mask_times *t, int64_t done);
    /* Makes that of change number `done` (from 1). Gradients are those of the step. */
    pare_status (*change)(pare_masks *masks, const pare_train_moment *at, int64_t done);
    /* Before a step; may be NULL. */
    pare_status (*before)(pare_masks *masks, const pare_train_moment *at);
} pare__mask_schedule;
extern const pare__mask_schedule pare__masks_gradual, pare__masks_iterative, pare__masks_rewind,
    pare__masks_rigl, pare__masks_set, pare__masks_dense;

const pare__mask_schedule *pare__mask_schedule_of(pare_mask_schedule schedule);
/* With what is left out. */
pare_mask_options pare__mask_whole(const pare_mask_options *options);

/* Functions of the part. */
pare_status pare__masks_before(void *state, const pare_train_moment *at);
pare_status pare__masks_back(void *state, const pare_train_moment *at);
pare_status pare__masks_after(void *state, const pare_train_moment *at);

/* What schedules share: schedule_iterative.c, schedule_rigl.c. */
double pare__mask_rounds_sparsity(const pare_mask_options *options, const pare__mask_times *t,
                                  int64_t done);
/* REWIND: whether a round of so many steps in all reaches the step that it goes back to. */
pare_status pare__mask_rewind_check(const pare_masks *masks, int64_t steps);
int64_t pare__mask_exchanges_due(const pare_mask_options *options, const pare__mask_times *t,
                                 int64_t step);
double pare__mask_final_sparsity(const pare_mask_options *options, const pare__mask_times *t,
                                 int64_t done);
double pare__mask_exchange_share(const pare_masks *masks, int64_t steps, int64_t done);

/* Memory of the backend: masks.c carves it. */
typedef struct pare__mask_room {
    float *a, *b, *c; /* [elements of the largest layer] each */
    float *line;      /* [rows of the longest] one factor */
    float *one;       /* [1] 1 */
    double *sum;      /* [1] */
    uint8_t *bits, *unit_bits;
    int64_t *bins; /* [PARE_SELECT_LOW_BINS], with one threshold over all layers */
} pare__mask_room;

struct pare_masks {
    pare_mask_options options; /* whole; chosen: NULL */
    const pare__mask_schedule *schedule;
    pare_model *model;
    pare_backend *be;
    pare__mask_layer *layers; /* [count] */
    int64_t count;
    pare__mask_room room;
    char *memory; /* of the backend */
    int64_t bytes;
    int64_t *host_bins; /* of the host, if the backend's are not */
    float **rewind;     /* [parameters] values of step `rewind`; NULL: none */
    int64_t done;       /* changes made */
    char *identity, *names;
    pare_kept *kept;
    pare_train_part part;
};

/* ---- masks_density.c: how many go ------------------------------------------------------------ */

/* The densities of ERK: raw[l] times one factor, at most 1, so that the mean weighted by count is
 * `density`. */
void pare__mask_erk(const double *raw, const int64_t *count, int64_t layers, double density,
                    double *result);
/* goes[l]: units that go of each layer for a sparsity of all. */
pare_status pare__mask_shares(const pare_masks *masks, double sparsity, int64_t *goes);
/* Of N:M: how many of every m stay. */
int pare__mask_stays(const pare_mask_options *options, double sparsity);

/* ---- masks_units.c: on the backend ----------------------------------------------------------- */

pare_tensor pare__mask_value(const pare_masks *masks, const pare__mask_layer *l);
pare_tensor pare__mask_grad(const pare_masks *masks, const pare__mask_layer *l);
/* x as a layer's weights, or as its units. */
pare_tensor pare__mask_matrix(const pare__mask_layer *l, float *x);
pare_tensor pare__mask_units(const pare__mask_layer *l, float *x);
/* PARE_ERR_NUMERIC if the weights hold NaN or Inf. */
pare_status pare__mask_finite(const pare_masks *masks, const pare__mask_layer *l);
/* x [units] = 1 where a unit has a weight that stays, else 0; how many do. */
pare_status pare__mask_read(pare_masks *masks, const pare__mask_layer *l, float *x, int64_t *stay);
/* x = x·factor, of a layer's units. */
pare_status pare__mask_times_units(pare_masks *masks, const pare__mask_layer *l, float *x,
                                   float factor);
/* Keys of units by the method into room.a; spread: of movement's scores. */
pare_status pare__mask_keys(pare_masks *masks, const pare__mask_layer *l, float spread);
/* Those in room.a become the lowest, 0, where `stays` [units] (1 or 0) is 0, and above 0 elsewhere.
 */
pare_status pare__mask_above(pare_masks *masks, const pare__mask_layer *l, const float *stays);
/* Magnitudes of x [rows, cols], summed over blocks, as keys into room.a. */
pare_status pare__mask_magnitudes(pare_masks *masks, const pare__mask_layer *l, pare_tensor x);
/* Those of the units of lowest key in room.a go: `bits` of units, in unit_bits. */
pare_status pare__mask_lowest(pare_masks *masks, const pare__mask_layer *l, int64_t goes);
/* The mask becomes that of unit_bits (or, with whole_bits, of bits), of what it was only where it
 * was 1 with `narrow`; weights and what they come back with follow. */
pare_status pare__mask_put(pare_masks *masks, const pare__mask_layer *l, bool whole_bits,
                           bool narrow);
/* All masks become 1. */
pare_status pare__mask_open(pare_masks *masks);

/* ---- masks_select.c: what goes --------------------------------------------------------------- */

/* Prunes all layers (or, `fresh`, those without a mask of their own) to a sparsity; what went
 * before stays gone unless weights are revived. */
pare_status pare__mask_prune(pare_masks *masks, double sparsity, bool fresh);
/* The share `fraction` of what stays goes by magnitude, as many places come: by magnitude of the
 * gradient, or with `random` by the seed and `round`. */
pare_status pare__mask_exchange(pare_masks *masks, double fraction, bool random, int64_t round);

/* ---- score_movement.c ------------------------------------------------------------------------ */

extern const pare_prune_method pare__prune_movement;
/* score += −w·g of every layer. */
pare_status pare__movement_add(pare_masks *masks);
/* The root mean square of the scores of a layer (NULL: of all). */
pare_status pare__movement_spread(pare_masks *masks, const pare__mask_layer *l, float *spread);
/* Keys of units into room.a. */
pare_status pare__movement_keys(pare_masks *masks, const pare__mask_layer *l, float spread);

#endif
