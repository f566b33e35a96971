/* score_taylor.c - the weights whose absence is estimated to change the loss least go, to first
 * order.
 *
 * Score of a weight |w|·√Σ_b g_b² with g_b = ∂L_b/∂w of one batch; of a block the sum over it.
 * Source: Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network
 * Pruning", 2019, eq. 8 averaged over batches, here for single weights.
 * Differs from the paper: one shot over all data, where the paper prunes a little, trains, and
 * prunes again; no normalisation by layer (--scope layer does that job). |w·Σ_b g_b| would not do:
 * where a model is trained the sum of its gradients is close to 0.
 * Cost: one backward pass of the whole model over the data; then one read of weights and gradients.
 */
#include "prune_impl.h"

#include "pare/ops.h"

#include "base/check.h"

/* A block's sum is taken of scores in floats; they go where the gradient was, which nobody wants
 * again. */
pare_status pare__score_gradient(pare_backend *be, const pare_score_args *args, bool square)
{
    pare_keys_scaled_args scores = {
        .w = args->grad, .full = args->w, .square = square, .keys = args->grad};
    bool single = args->block_rows == 1 && args->block_cols == 1;
    if (single)
        scores.keys = args->keys;
    scores.keys.dtype = PARE_U32;
    PARE_TRY(pare_keys_scaled(be, &scores));
    if (!single)
        PARE_TRY(pare_keys_block(be, &(pare_keys_block_args){.x = args->grad,
                                                             .block_rows = args->block_rows,
                                                             .block_cols = args->block_cols,
                                                             .keys = args->keys}));
    return PARE_OK;
}

static pare_status score(pare_backend *be, const pare_score_args *args)
{
    PARE_TRY(pare__score_gradient(be, args, false));
    return PARE_OK;
}

const pare_prune_method pare__prune_taylor = {
    .name = "taylor",
    .summary = "smallest |w·g| first, batch by batch (Molchanov 2019); needs data and labels",
    .needs = PARE_STAT_GRADIENT,
    .score = score,
};
