/* score_wanda.c - the weights that move a layer's output least go, each by itself.
 *
 * Score of a weight |w_ij|·‖x_j‖₂, with ‖x_j‖₂ of its input over all rows seen; compared within a
 * row (one output), so every output loses the same share. N:M takes the same scores.
 * Source: Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language
 * Models", 2023, eq. 1 and section 3.
 * Differs from the paper: of convolutions the whole layer loses its share, as filters of one layer
 * differ too much in size. A block pattern does not fit: its blocks lie across rows.
 * Cost: one read of the weights and one write of the keys; no product, no sweep.
 */
#include "prune_impl.h"

#include "pare/ops.h"

#include "base/check.h"

static pare_status score(pare_backend *be, const pare_score_args *args)
{
    PARE_REQUIRE(args->block_rows == 1 && args->block_cols == 1, PARE_ERR_ARGUMENT,
                 "wanda compares weights within a row, so it has no blocks: use the pattern "
                 "unstructured or N:M, or another method");
    PARE_TRY(pare_keys_scaled(
        be, &(pare_keys_scaled_args){.w = args->w, .cols = args->norm, .keys = args->keys}));
    return PARE_OK;
}

const pare_prune_method pare__prune_wanda = {
    .name = "wanda",
    .summary = "smallest |w|·‖x‖ of each output first (Sun 2023); needs data",
    .needs = PARE_STAT_COLUMNS,
    .by_row = true,
    .score = score,
};
