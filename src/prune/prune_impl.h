/* prune_impl.h - the pruning scores, one a file. */
#ifndef PARE_PRUNE_IMPL_H
#define PARE_PRUNE_IMPL_H

#include "pare/prune.h"

extern const pare_prune_method pare__prune_magnitude, pare__prune_random;

#endif
