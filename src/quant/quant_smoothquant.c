/* quant_smoothquant.c - SmoothQuant: moves what makes activations hard to round into the weights.
 *
 * Inputs are divided, and the weights' columns multiplied, by s_j = max|x_j|^α / max|w_j|^(1 − α),
 * α = 0.5 unless told; max|w_j| over all layers that read the input. 1/s goes into what comes
 * before. An input, or a column, that is always 0 has s = 1; s is at least 1e-5. Then everything is
 * rounded to nearest. Paper: Xiao 2022, equation 4. Differs: inputs that share a place before them
 * (heads of grouped queries, a convolution's channel) share the largest of their maxima. Cost: one
 * pass over the weights.
 */
#include "quant_impl.h"

#include "pare/ops.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>
#include <stdio.h>

#define ALPHA 0.5
#define LEAST 1e-5

/* What column_stats takes: only the largest are of use. */
typedef struct columns {
    pare_tensor absmax, sum, squares;
} columns;

static columns lay_out(int64_t K, pare__carve *carve)
{
    columns c;
    c.absmax = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
    c.sum = pare_vector(pare__carve_next(carve, K * 8), PARE_F64, K);
    c.squares = pare_vector(pare__carve_next(carve, K * 8), PARE_F64, K);
    return c;
}

static int64_t columns_bytes(int64_t K)
{
    pare__carve carve = {0};
    lay_out(K, &carve);
    return carve.size;
}

/* The largest |w| of each place over all layers of the site. */
static pare_status largest_weights(pare_backend *be, const pare_quant_site *site, double *places)
{
    int64_t K = site->cols, bytes = columns_bytes(K);
    pare__carve carve = {0};
    float *largest = NULL;
    PARE_TRY(pare__calloc((size_t)K, sizeof *largest, &largest));
    pare_status status = pare_backend_alloc(be, bytes, &carve.base);
    columns c = lay_out(K, &carve);
    for (int i = 0; status == PARE_OK && i < site->layers; i++)
        status = pare_column_stats(be, &(pare_column_stats_args){.x = site->layer[i]->w,
                                                                 .absmax = c.absmax,
                                                                 .sum = c.sum,
                                                                 .squares = c.squares});
    if (status == PARE_OK)
        status = pare_backend_download(be, largest, c.absmax.data, K * 4);
    for (int64_t k = 0; status == PARE_OK && k < K; k++) {
        int64_t p = pare__fold_place(site, k);
        places[p] = fmax(places[p], (double)largest[k]);
    }
    pare_backend_release(be, carve.base, bytes);
    free(largest);
    PARE_TRY(status);
    return PARE_OK;
}

static void migrate(pare_quant_site *site, double *inputs, const double *weights)
{
    double alpha = site->tuning.alpha > 0 ? site->tuning.alpha : ALPHA;
    double least = INFINITY, most = 0;
    for (int64_t p = 0; p < pare__fold_places(site); p++) {
        double s = 1;
        if (inputs[p] > 0 && weights[p] > 0)
            s = fmax(pow(inputs[p], alpha) / pow(weights[p], 1 - alpha), LEAST);
        inputs[p] = isfinite((float)s) ? s : 1;
        least = fmin(least, inputs[p]);
        most = fmax(most, inputs[p]);
    }
    pare__fold_spread(site, inputs);
    snprintf(site->note, sizeof site->note, "alpha %g, scales %.3g to %.3g", alpha, least, most);
}

static pare_status scale_site(pare_backend *be, pare_quant_site *site)
{
    double *inputs, *weights = NULL;
    bool any;
    PARE_TRY(pare__fold_begin(be, site, true, &inputs, &any));
    if (!any)
        return PARE_OK;
    pare_status status = pare__calloc((size_t)pare__fold_places(site), sizeof *weights, &weights);
    if (status == PARE_OK)
        status = largest_weights(be, site, weights);
    if (status == PARE_OK)
        migrate(site, inputs, weights);
    free(weights);
    free(inputs);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status solve(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report)
{
    return pare__quant_rtn.solve(be, layer, search, tuning, factor, choose, report);
}

static int64_t bytes(const pare_layer *layer, bool permuted, int m)
{
    (void)permuted, (void)m;
    return pare__trial_bytes(layer, columns_bytes(layer->w.shape[1]));
}

const pare_quant_method pare__quant_smoothquant = {
    .name = "smoothquant",
    .summary = "outliers of the inputs go into the weights, then round to nearest",
    .needs = PARE_STAT_COLUMNS,
    .scale_site = scale_site,
    .solve = solve,
    .bytes = bytes,
};
