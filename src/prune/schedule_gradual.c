/* schedule_gradual.c - more and more weights go while the others learn to do without them. Start
 * here to write your own schedule.
 *
 *   s_t = s_f + (s_i − s_f)·(1 − (t − begin)/(end − begin))³
 *
 * at begin, every `each` steps from there on, and at end: much goes early, when there is plenty,
 * and little later. Source: Zhu, Gupta, "To prune, or not to prune", 2017, eq. 1. Differs from the
 * paper: what went stays gone, unless `revive` keeps dense weights, which do not learn while they
 * are gone. Of N:M every m weights lose one after the other. Cost: nothing between changes; at a
 * change a selection over all layers.
 */
#include "masks_impl.h"

static int64_t due(const pare_mask_options *options, const pare__mask_times *t, int64_t step)
{
    (void)options;
    if (step < t->begin)
        return 0;
    int64_t at = step < t->end ? step : t->end;
    bool last = step >= t->end && (t->end - t->begin) % t->each != 0;
    return (at - t->begin) / t->each + 1 + last;
}

static double sparsity(const pare_mask_options *options, const pare__mask_times *t, int64_t done)
{
    if (done == 0)
        return 0;
    int64_t at = (done - 1) * t->each, all = t->end - t->begin;
    double left = at < all ? 1 - (double)at / (double)all : 0;
    return options->final + (options->initial - options->final) * left * left * left;
}

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, at->steps);
    return pare__mask_prune(masks, sparsity(&masks->options, &t, done), false);
}

const pare__mask_schedule pare__masks_gradual = {
    .name = "gradual",
    .summary = "more and more weights go, fast at first (Zhu & Gupta 2017)",
    .due = due,
    .sparsity = sparsity,
    .change = change,
};
