/* couple.h - the inside of coupled units: couple.c finds channels, heads and features from the
 * graph, couple_layers.c the residual blocks, couple_config.c spells the sizes of what is left.
 */
#ifndef PARE_MODEL_COUPLE_H
#define PARE_MODEL_COUPLE_H

#include "arch.h"

/* One parameter: its shape in the checkpoint, and where the units of its axes lie in maps. */
typedef struct pare__coupled_param {
    const char *name; /* own copy */
    int rank;
    int64_t shape[PARE_MAX_RANK];
    int64_t map[PARE_MAX_RANK]; /* −1: none */
    int32_t layer;              /* unit, −1 */
    bool rms;                   /* of an RMS norm over a whole row */
} pare__coupled_param;

/* One residual block. */
typedef struct pare__coupled_layer {
    int64_t number;
    int first, last, before; /* nodes */
    const char *stays;
} pare__coupled_layer;

struct pare_couple {
    pare_unit_class *classes;
    size_t class_count, class_capacity;
    int64_t units;
    int64_t layer_first; /* the first LAYER unit: they come after all others */
    pare__coupled_layer *layers;
    size_t layer_count, layer_capacity;
    pare__coupled_param *params; /* [param_count] */
    int64_t param_count;
    int32_t *maps;
    int32_t *node_layer;  /* [node_count] */
    int32_t *value_class; /* [value_count]: of the features of each value, −1 */
    int64_t node_count;
    const char *no_heads; /* of the architecture */
};

pare_status pare__couple_layers(const pare_model *model, pare_couple *couple);

/* What the architecture's config allows beyond the graph: multiples, and what must divide. */
pare_status pare__couple_limits(const pare_model *model, pare_couple *couple);

/* Adds a class; *index of it. */
pare_status pare__couple_add(pare_couple *couple, const pare_unit_class *unit_class, int *index);

/* How many of a class's units stay. */
int64_t pare__couple_kept(const pare_unit_class *unit_class, const uint8_t *keep);

#endif
