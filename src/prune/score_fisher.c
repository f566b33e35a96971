/* score_fisher.c - the weights whose absence is estimated to change the loss least go, to second
 * order.
 *
 * Score of a weight w²·F with F = Σ (∂L/∂w)² over single samples, the diagonal of the empirical
 * Fisher matrix in the place of the Hessian's; of a block the sum over it.
 * Source: LeCun, Denker, Solla, "Optimal Brain Damage", 1990, eq. 5, with the Fisher matrix as in
 * Theis, Korshunova, Tejani, Huszár, "Faster Gaze Prediction with Dense Networks and Fisher
 * Pruning", 2018, eq. 6.
 * Differs from the papers: single weights, one shot. The score comes from √F, which the gradient
 * pass keeps: (w·√F)² has the same order and stays within f32 for longer.
 * Cost: a backward pass for each sample by itself (no batches); then one read of weights and F.
 */
#include "prune_impl.h"

#include "base/check.h"

static pare_status score(pare_backend *be, const pare_score_args *args)
{
    PARE_TRY(pare__score_gradient(be, args, true));
    return PARE_OK;
}

const pare_prune_method pare__prune_fisher = {
    .name = "fisher",
    .summary = "smallest w²·Σg² first (LeCun 1990, Theis 2018); needs data and labels",
    .needs = PARE_STAT_GRADIENT,
    .by_sample = true,
    .score = score,
};
