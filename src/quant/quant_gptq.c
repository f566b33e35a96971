/* quant_gptq.c - GPTQ: rounds column by column, and lets the columns that are still to come make up
 * for what each has lost.
 *
 * For column c, with UᵀU = (G + damping)⁻¹: q = round(w_c), e = (w_c − q)/U_cc, w_j −= e·U_cj for j
 * > c. A group's scale is found when its first column's turn has come, from its columns as they are
 * then; with act_order columns go by descending diagonal of G and scales are those of the weight as
 * it was. A site's layers share U. What weights are kept 0 is neither rounded nor moved; with
 * `choose` the same sweep prunes (SparseGPT). Paper: Frantar 2022, algorithm 1 with section 3.3.
 * Differs: scales as in quant_rtn.c (so a zero stays exactly zero); dead inputs' diagonal, and
 * damping, as pare/calib.h has them; where the layer's output comes out worse than by rounding to
 * nearest, it is rounded to nearest. Cost: C³·2/3 for U, R·C² for the sweep, 6·R·C² to measure.
 */
#include "quant_impl.h"

#include "base/check.h"

#include <math.h>

typedef struct rounding {
    const pare_layer *layer;
    pare_scale_search search;
} rounding;

static pare_status panel_scales(void *user, pare_panel *panel)
{
    const rounding *r = user;
    pare_quant_args args = pare__quant_args(r->layer, r->search);
    args.w = panel->w;
    args.scale = panel->scale;
    args.lo = panel->lo;
    args.zero = panel->zero;
    return pare__quant_find_scales(panel->be, &args);
}

static pare_status sweep(pare_backend *be, pare__trial *trial, const pare_factor *factor,
                         const pare_choose *choose)
{
    rounding r = {trial->layer, trial->search};
    pare_round round = {panel_scales, &r};
    PARE_TRY(pare_sweep(be, trial->layer, factor, choose, &round, &trial->report->loss));
    PARE_REQUIRE(isfinite(trial->report->loss), PARE_ERR_NUMERIC,
                 "%s: the errors of its sweep are not finite", trial->layer->name);
    return PARE_OK;
}

/* Weights that ran away in the sweep: without corrections they cannot. */
static pare_status sweep_plainly(pare_backend *be, pare__trial *trial, const pare_factor *factor,
                                 const pare_choose *choose)
{
    pare_factor *plain;
    PARE_TRY(pare__trial_restore(be, trial));
    PARE_TRY(pare_factor_plain(be, factor->u.shape[0],
                               &(pare_sweep_options){.inner = factor->inner}, &plain));
    pare_status status = sweep(be, trial, plain, choose);
    pare_factor_free(be, &plain);
    PARE_TRY(status);
    pare__trial_blame(trial, "pruned by magnitude", "the sweep's weights were not finite");
    return PARE_OK;
}

static pare_status sweep_safely(pare_backend *be, pare__trial *trial, const pare_factor *factor,
                                const pare_choose *choose)
{
    pare_status status = sweep(be, trial, factor, choose);
    trial->report->damping = factor->damping;
    trial->report->dead = factor->dead;
    if (status == PARE_ERR_NUMERIC || status == PARE_ERR_DAMAGED) {
        if (!choose)
            return pare__trial_give_up(be, trial, "the sweep's weights were not finite");
        status = sweep_plainly(be, trial, factor, choose);
    }
    PARE_TRY(status);
    return pare__trial_end(be, trial);
}

static pare_status solve(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report)
{
    (void)tuning; /* damping and order are the factor's */
    bool plain = !factor || factor->damping == 0;
    PARE_REQUIRE(factor || !choose, PARE_ERR_ARGUMENT,
                 "%s: without a factor nothing is pruned: take pare_factor_plain", layer->name);
    pare__trial trial;
    pare_status status = pare__trial_begin(be, layer, search, !choose, report, &trial);
    if (status == PARE_OK && plain && !choose)
        status = pare__trial_give_up(be, &trial, "the Gram matrix has no inverse factor");
    else if (status == PARE_OK)
        status = sweep_safely(be, &trial, factor, choose);
    pare__trial_free(be, &trial);
    PARE_TRY(status);
    return PARE_OK;
}

static int64_t bytes(const pare_layer *layer, bool permuted, int m)
{
    return pare__trial_bytes(layer, pare_sweep_bytes(layer, permuted, m));
}

const pare_quant_method pare__quant_gptq = {
    .name = "gptq",
    .summary = "column by column, the rest makes up for each one's error",
    .needs = PARE_STAT_GRAM,
    .solve = solve,
    .needs_factor = true,
    .bytes = bytes,
};
