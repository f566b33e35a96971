/* score_magnitude.c - the smallest weights go.
 *
 * Score of a weight |w|, of a block the sum of |w| over it.
 * Source: Han, Pool, Tran, Dally, "Learning both Weights and Connections", 2015.
 * Differs from the paper: one shot, no retraining here. Cost: one read of the weights.
 */
#include "prune_impl.h"

#include "pare/ops.h"

#include "base/check.h"

static pare_status score(pare_backend *be, const pare_score_args *args)
{
    int64_t n = pare_tensor_count(&args->w);
    if (args->block_rows == 1 && args->block_cols == 1)
        PARE_TRY(
            pare_keys(be, &(pare_keys_args){.x = pare_vector(args->w.data, PARE_F32, n),
                                            .keys = pare_vector(args->keys.data, PARE_U32, n)}));
    else
        PARE_TRY(pare_keys_block(be, &(pare_keys_block_args){.x = args->w,
                                                             .block_rows = args->block_rows,
                                                             .block_cols = args->block_cols,
                                                             .keys = args->keys}));
    return PARE_OK;
}

const pare_prune_method pare__prune_magnitude = {
    .name = "magnitude",
    .summary = "smallest |w| first (Han 2015)",
    .weight_is_score = true,
    .score = score,
};
