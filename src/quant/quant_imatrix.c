/* quant_imatrix.c - round to nearest, with ranges weighted by how large each input is.
 *
 * Of each block the range is the one of r·[lo, hi], r = 1.10, 1.08 … 0.30 (the plain one, 1, is
 * tried first), that makes Σ_c (w_c − ŵ_c)²·Σ x_c² least: an input that is always large counts for
 * more. The idea is that of llama.cpp's importance matrix (its quantisers weight squared errors by
 * mean x²); the search is our own. Differs from GPTQ: each weight still gets the code nearest to
 * it. Cost: 42 times some passes over the weight.
 */
#include "quant_impl.h"

#include "base/check.h"

enum { RATIOS = 42 };

static void list_ratios(float ratios[RATIOS])
{
    ratios[0] = 1;
    for (int i = 1; i < RATIOS; i++)
        ratios[i] = (float)(112 - 2 * i) / 100;
}

static pare_status search_scales(pare_backend *be, pare__trial *trial)
{
    double *squares;
    const char *problem;
    PARE_TRY(pare__stats_problem(be, trial->layer->stats, &squares, &problem));
    free(squares);
    if (problem)
        return pare__trial_give_up(be, trial, problem);
    float ratios[RATIOS];
    list_ratios(ratios);
    PARE_TRY(pare__quant_shrink(be, trial->layer, ratios, RATIOS, false));
    return pare__trial_end(be, trial);
}

static pare_status solve(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report)
{
    (void)tuning, (void)factor;
    PARE_REQUIRE(!choose, PARE_ERR_ARGUMENT, "imatrix: zeros are chosen before it rounds");
    pare__trial trial;
    pare_status status = pare__trial_begin(be, layer, search, true, report, &trial);
    if (status == PARE_OK)
        status = search_scales(be, &trial);
    pare__trial_free(be, &trial);
    PARE_TRY(status);
    return PARE_OK;
}

static int64_t bytes(const pare_layer *layer, bool permuted, int m)
{
    (void)permuted, (void)m;
    return pare__trial_bytes(layer, pare__quant_shrink_bytes(layer, false));
}

const pare_quant_method pare__quant_imatrix = {
    .name = "imatrix",
    .summary = "round to nearest, scales weighted by how large the inputs are",
    .needs = PARE_STAT_COLUMNS,
    .solve = solve,
    .bytes = bytes,
};
