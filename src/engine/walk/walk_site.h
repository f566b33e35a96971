/* walk_site.h - a layer while the walk solves it. */
#ifndef PARE_ENGINE_WALK_SITE_H
#define PARE_ENGINE_WALK_SITE_H

#include "walk.h"

/* What is worked with, carved from the arena. */
typedef struct pare__room {
    pare_layer layer;
    pare_tensor was, scratch[2]; /* [R, C] F32; of what is pruned */
    pare_tensor mask;            /* bits */
    uint8_t *block_mask;
    void *narrow; /* values in the entry's dtype */
} pare__room;

/* The layer at hand. */
typedef struct pare__solving {
    pare__walker *w;
    pare__walk_site *site;
    const pare_site_stats *stats; /* NULL: none were wanted */
    int64_t t;
    pare__task *task;
    pare__walked *k;
    pare__room room;
    pare_factor *factor; /* of the site, with these options */
    pare_sweep_options options;
    bool plain;    /* factor */
    double energy; /* Σ‖was·x‖²; NaN: not measured yet */
    char why[160];
} pare__solving;

/* Puts zeros into the weight by a method's scores (walk_mask.c). */
pare_status pare__prune_by(pare__solving *s, const pare_prune_method *method);

#endif
