/* schedule_iterative.c - prune, learn, prune again.
 *
 * Each of R rounds takes the share p of what is left, (1 − s_i)·(1 − p)^R = 1 − s_f; the first at
 * begin, the last at end, the others evenly between. Source: Han, Pool, Tran, Dally, "Learning both
 * Weights and Connections", 2015, section 3.4, with equal shares as in Frankle & Carbin, 2019.
 */
#include "masks_impl.h"

#include <math.h>

/* The step of round r, from 0. */
static int64_t step_of(const pare__mask_times *t, int64_t r)
{
    if (t->rounds == 1)
        return t->begin;
    return t->begin +
           (int64_t)rint((double)(t->end - t->begin) * (double)r / (double)(t->rounds - 1));
}

static int64_t due(const pare_mask_options *options, const pare__mask_times *t, int64_t step)
{
    int64_t done = 0;
    (void)options;
    while (done < t->rounds && step_of(t, done) <= step)
        done++;
    return done;
}

double pare__mask_rounds_sparsity(const pare_mask_options *options, const pare__mask_times *t,
                                  int64_t done)
{
    double stays = (1 - options->final) / (1 - options->initial);
    if (done == 0)
        return 0;
    if (done == t->rounds)
        return options->final;
    return 1 - (1 - options->initial) * pow(stays, (double)done / (double)t->rounds);
}

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, at->steps);
    return pare__mask_prune(masks, pare__mask_rounds_sparsity(&masks->options, &t, done), false);
}

const pare__mask_schedule pare__masks_iterative = {
    .name = "iterative",
    .summary = "rounds of equal shares of what is left (Han 2015)",
    .due = due,
    .sparsity = pare__mask_rounds_sparsity,
    .change = change,
};
