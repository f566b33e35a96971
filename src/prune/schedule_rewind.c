/* schedule_rewind.c - the lottery ticket: find by training which weights matter, then train those
 * alone, from what they were early on.
 *
 * The steps are R + 1 rounds of equal length. At the end of each of the first R a share of what is
 * left goes (schedule_iterative.c), and every parameter that learns is set back to its value of
 * step k, which is kept aside; the last round trains the ticket.
 * Source: Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery Ticket
 * Hypothesis", 2020, algorithm 2 with rewinding to iteration k.
 * Differs from the paper: running statistics of batch norms are not set back; they soon are those
 * of the new weights. The learning rate begins again with each round (pare_masks_restart).
 * Cost: a copy of all parameters.
 */
#include "masks_impl.h"

#include "pare/ops.h"

static int64_t due(const pare_mask_options *options, const pare__mask_times *t, int64_t step)
{
    (void)options;
    if (t->period == 0)
        return 0;
    int64_t done = (step + 1) / t->period;
    return done < t->rounds ? done : t->rounds;
}

/* All values to the copy, or back. */
static pare_status copy_values(pare_masks *masks, bool back)
{
    for (int64_t i = 0; i < pare_model_param_count(masks->model); i++) {
        pare_param *p = pare_model_param(masks->model, i);
        int64_t n = pare_tensor_count(&p->value);
        float *value = p->value.data, *kept = masks->rewind[i];
        if (!kept)
            continue;
        PARE_TRY(pare_backend_copy(masks->be, back ? value : kept, back ? kept : value, n * 4));
        if (back && p->mask) /* a step of length 0 puts zeros where the mask is 0 */
            PARE_TRY(pare_sgd(masks->be, &(pare_sgd_args){.w = pare_vector(value, PARE_F32, n),
                                                          .g = pare_vector(kept, PARE_F32, n),
                                                          .mask = pare_vector(p->mask, PARE_U8, n),
                                                          .grad_scale = 1}));
    }
    return PARE_OK;
}

pare_status pare__mask_rewind_check(const pare_masks *masks, int64_t steps)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, steps);
    PARE_REQUIRE(
        t.period > masks->options.rewind, PARE_ERR_ARGUMENT,
        "rewind: %lld steps in %lld rounds and the last training leave %lld a round, which "
        "do not reach step %lld: take more steps or fewer rounds",
        (long long)steps, (long long)t.rounds, (long long)t.period,
        (long long)masks->options.rewind);
    return PARE_OK;
}

static pare_status before(pare_masks *masks, const pare_train_moment *at)
{
    PARE_TRY(pare__mask_rewind_check(masks, at->steps));
    return at->step == masks->options.rewind ? copy_values(masks, false) : PARE_OK;
}

static pare_status change(pare_masks *masks, const pare_train_moment *at, int64_t done)
{
    pare__mask_times t = pare__mask_times_of(&masks->options, at->steps);
    PARE_TRY(pare__mask_prune(masks, pare__mask_rounds_sparsity(&masks->options, &t, done), false));
    return copy_values(masks, true);
}

const pare__mask_schedule pare__masks_rewind = {
    .name = "rewind",
    .summary = "lottery ticket: rounds of pruning, each from the values of an early step "
               "(Frankle 2020)",
    .due = due,
    .sparsity = pare__mask_rounds_sparsity,
    .change = change,
    .before = before,
};
