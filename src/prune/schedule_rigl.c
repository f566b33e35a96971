/* schedule_rigl.c - sparse from the start to the end; which weights there are changes.
 *
 * Every `each` steps (behind begin and before end) of each layer the share
 *   f_t = fraction/2·(1 + cos(π·(t − begin)/(end − begin)))
 * of the smallest weights that there are goes, and as many places with the largest gradients come,
 * at 0. What just went may come again at once, as it was.
 * Source: Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery", 2020, algorithm 1.
 * Differs from the paper: the step of a change moves the weights too; the start is by magnitude (of
 * a trained model) or at random, as `method` says.
 * Cost: gradients of all places, which backward makes anyhow.
 */
#include "masks_impl.h"

#include <math.h>

int64_t pare__mask_exchanges_due(const pare_mask_options *options, const pare__mask_times *t,
                                 int64_t step)
{
    (void)options;
    int64_t at = step < t->end ? step : t->end - 1;
    return at > t->begin ? (at - t->begin) / t->each : 0;
}

double pare__mask_final_sparsity(const pare_mask_options *options, const pare__mask_times *t,
                                 int64_t done)
{
    (void)t, (void)done;
    return options->final;
}

double pare__mask_exchange_share(const pare_masks *masks, int64_t steps, int64_t done)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, steps);
    double at = (double)(done * t.each) / (double)(t.end - t.begin);
    return masks->options.fraction / 2 * (1 + cos(3.14159265358979324 * at));
}

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    double share = pare__mask_exchange_share(masks, at->steps, done);
    return pare__mask_exchange(masks, share, false, done);
}

const pare__mask_schedule pare__masks_rigl = {
    .name = "rigl",
    .summary = "sparse throughout: small weights go, places with large gradients come (Evci 2020)",
    .sparse = true,
    .due = pare__mask_exchanges_due,
    .sparsity = pare__mask_final_sparsity,
    .change = change,
};
