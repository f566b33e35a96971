/* score_random.c - any weights go: the baseline every other score must beat. Start here to write
 * your own.
 *
 * Score of a weight (or block) = a counter-based hash of the seed, the tensor and the place, so
 * that the same weights go on every machine and in every order of work. Zeros have no precedence.
 */
#include "prune_impl.h"

#include "pare/ops.h"

#include "base/check.h"

static pare_status score(pare_backend *be, const pare_score_args *args)
{
    pare_tensor keys = pare_vector(args->keys.data, PARE_U32, pare_tensor_count(&args->keys));
    PARE_TRY(pare_keys_random(
        be, &(pare_keys_random_args){
                .seed = args->seed, .stream = args->stream, .first = args->first, .keys = keys}));
    return PARE_OK;
}

const pare_prune_method pare__prune_random = {
    .name = "random",
    .summary = "any weights, drawn by the seed (baseline)",
    .score = score,
};
