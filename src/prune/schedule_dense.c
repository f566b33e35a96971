/* schedule_dense.c - learn sparse, then whole.
 *
 * From the start to `end` the weights that were chosen before the training are 0; then masks fall,
 * and all weights learn, those that were gone from 0.
 * Source: Thangarasa, Gupta, Marshall, Li, Leong, DeCoste, Lie, Saxena, "SPDF: Sparse Pre-training
 * and Dense Fine-tuning for Large Language Models", 2023.
 */
#include "masks_impl.h"

static int64_t due(const pare_mask_options *options, const pare__mask_times *t, int64_t step)
{
    (void)options;
    return step >= t->end;
}

static double sparsity(const pare_mask_options *options, const pare__mask_times *t, int64_t done)
{
    (void)t;
    return done > 0 ? 0 : options->final;
}

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    (void)at, (void)done;
    return pare__mask_open(masks);
}

const pare__mask_schedule pare__masks_dense = {
    .name = "dense",
    .summary = "sparse until `end`, then all weights learn (SPDF, Thangarasa 2023)",
    .sparse = true,
    .due = due,
    .sparsity = sparsity,
    .change = change,
};
