/* prune_sparsegpt.c - weights go within a column sweep, and those left make up for them.
 *
 * Panel by panel of the sweep (pare/calib.h) the weights of least w²/[H⁻¹] go: with U the upper
 * factor of the damped inverse, w²/u_jj². Unstructured: rint(sparsity·R·N) of a panel's R·N weights
 * at once, so rows and columns of a panel share their budget; ties to the lower index. N:M: chosen
 * by the sweep itself, group by group, from the weights as the columns before have left them.
 * Source: Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
 * One-Shot", 2023, algorithm 1 and section 3.4.
 * Differs from the paper: the exact count of each panel, where the paper's code takes all weights
 * at a threshold. Cost: that of the sweep, and a selection a panel.
 */
#include "prune_impl.h"

#include "pare/ops.h"

#include "base/check.h"

#include <math.h>

/* The k weights of least key lose their bit in the panel's mask. */
static pare_status prune_least(pare_panel *panel, int64_t k)
{
    uint32_t threshold;
    int64_t below, equal;
    PARE_TRY(pare_keys_obs(panel->be, &(pare_keys_obs_args){.w = panel->w,
                                                            .u = panel->u,
                                                            .first = panel->first,
                                                            .frozen = panel->frozen,
                                                            .keys = panel->keys}));
    PARE_TRY(pare_select_kth(
        panel->be, &(pare_select_kth_args){.x = pare_vector(panel->keys.data, PARE_U32,
                                                            pare_tensor_count(&panel->keys)),
                                           .k = k,
                                           .threshold = &threshold,
                                           .below = &below,
                                           .equal = &equal}));
    PARE_TRY(pare_mask_select(panel->be, &(pare_mask_select_args){.x = panel->keys,
                                                                  .threshold = threshold,
                                                                  .ties = k - below,
                                                                  .mask = panel->mask}));
    return PARE_OK;
}

static pare_status choose(void *user, pare_panel *panel)
{
    const pare_choose_plan *plan = user;
    if (plan->pattern.kind == PARE_PATTERN_NM) {
        panel->n = plan->pattern.n;
        panel->m = plan->pattern.m;
        return PARE_OK;
    }
    PARE_REQUIRE(plan->pattern.kind == PARE_PATTERN_UNSTRUCTURED, PARE_ERR_ARGUMENT,
                 "sparsegpt chooses weights one by one or N:M in its sweep: use the pattern "
                 "unstructured or N:M, or another method");
    int64_t k = (int64_t)rint(plan->sparsity * (double)pare_tensor_count(&panel->w));
    if (k > 0)
        PARE_TRY(prune_least(panel, k));
    return PARE_OK;
}

const pare_prune_method pare__prune_sparsegpt = {
    .name = "sparsegpt",
    .summary = "column sweep that corrects what is left (Frantar 2023); needs data",
    .needs = PARE_STAT_GRAM,
    .choose = choose,
};
