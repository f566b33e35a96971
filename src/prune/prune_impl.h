/* prune_impl.h - the pruning scores, one a file. */
#ifndef PARE_PRUNE_IMPL_H
#define PARE_PRUNE_IMPL_H

#include "pare/prune.h"

extern const pare_prune_method pare__prune_magnitude, pare__prune_random, pare__prune_wanda,
    pare__prune_sparsegpt, pare__prune_taylor, pare__prune_fisher;

/* Keys of |w·g|, or of (w·g)² with `square`; of a block the sum over it. score_taylor.c */
pare_status pare__score_gradient(pare_backend *be, const pare_score_args *args, bool square);

#endif
