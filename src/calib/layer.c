/* layer.c - what a change of a weight does to the layer's output, by the Gram matrix of its inputs:
 * Σ_x ‖Δx‖² = Σ_r Δ_r G Δ_rᵀ. One product as large as the layer with as many samples as it has
 * inputs. */
#include "pare/calib.h"

#include "base/check.h"

#include <math.h>

/* to = a − b; also uses `negative`, of the same shape. */
static pare_status subtract(pare_backend *be, pare_tensor a, pare_tensor b, pare_tensor negative,
                            pare_tensor to)
{
    pare_tensor minus = pare_vector(to.data, PARE_F32, a.shape[0]); /* until `to` is written */
    PARE_TRY(pare_fill(be, &(pare_fill_args){.y = minus, .value = -1}));
    PARE_TRY(pare_scale(be, &(pare_scale_args){.x = b, .y = negative, .rows = minus}));
    return pare_add(be, &(pare_add_args){.a = a, .b = negative, .y = to});
}

pare_status pare_layer_error(pare_backend *be, pare_tensor a, pare_tensor b,
                             const pare_site_stats *stats, pare_tensor scratch[2], double *error)
{
    PARE_REQUIRE(stats->finished && stats->kinds & PARE_STAT_GRAM && a.rank == 2 &&
                     a.shape[1] == stats->cols,
                 PARE_ERR_ARGUMENT,
                 "a layer's error is known by the finished Gram matrix of %lld "
                 "inputs; the weight has %lld",
                 (long long)stats->cols, (long long)a.shape[1]);
    *error = 0;
    if (a.shape[0] == 0)
        return PARE_OK;
    pare_tensor delta = a;
    if (b.data) {
        delta = scratch[0];
        PARE_TRY(subtract(be, a, b, scratch[1], delta));
    }
    PARE_TRY(pare_gemm(be, &(pare_gemm_args){.a = delta, .b = stats->gram, .c = scratch[1]}));
    pare_diff_result result;
    PARE_TRY(pare_diff(be, &(pare_diff_args){.a = delta, .b = scratch[1], .result = &result}));
    /* pairs that are not finite are in no sum, but in the largest difference */
    *error = isfinite(result.max_abs) ? fmax(result.sum_ab, 0) : NAN;
    return PARE_OK;
}
