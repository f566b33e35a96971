/* quant_awq.c - AWQ: weights of large inputs are made larger before they are rounded, then clipped.
 *
 * Inputs are divided, and the weights' columns multiplied, by s_j = (mean |x_j|)^α, normalised to
 * √(max s · min s) = 1; α = 0, 1/n … (n − 1)/n with n = 20 is the one of least Σ over the site's
 * layers of the output error Σ_r Δ_r G Δ_rᵀ, Δ = w − Q(w·s)/s, Q rounding to nearest by each
 * layer's scheme. 1/s goes into what comes before. Then each layer's ranges are clipped to the
 * share of 1, 0.95 … 0.5 that makes the error of their block alone least. Paper: Lin 2023,
 * section 3.2; α and clipping as in its code. Differs: errors by the Gram matrix of all samples,
 * where the code runs some of them; s is at least 1e-4 before it is normalised, and 1 for an input
 * that is always 0; q and k are clipped like all others; where the layer's output comes out worse
 * than by rounding to nearest, it is rounded to nearest. Cost: n products R·C² for each layer,
 * 11·R·C·block to clip.
 */
#include "quant_impl.h"

#include "pare/ops.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>
#include <stdio.h>

#define GRID 20
#define LEAST 1e-4

/* ---- scales of the site ---------------------------------------------------------------------- */

typedef struct grid {
    pare_backend *be;
    pare_quant_site *site;
    int64_t rows;                    /* of its largest layer */
    pare_tensor up, down;            /* [K] F32: s and 1/s */
    float *rounded, *one, *two;      /* [rows, K] F32 each */
    const double *means;             /* [places] */
    double *scales;                  /* [places] */
    float *host;                     /* [K] */
    double errors[PARE_SITE_LAYERS]; /* of the layers, with the scales tried last */
} grid;

static void lay_out(grid *s, int64_t K, pare__carve *carve)
{
    s->up = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
    s->down = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
    s->rounded = pare__carve_next(carve, s->rows * K * 4);
    s->one = pare__carve_next(carve, s->rows * K * 4);
    s->two = pare__carve_next(carve, s->rows * K * 4);
}

static int64_t search_bytes(int64_t rows, int64_t K)
{
    grid s = {.rows = rows};
    pare__carve carve = {0};
    lay_out(&s, K, &carve);
    return carve.size;
}

/* s of every place for that α. */
static void scales_at(grid *s, double alpha)
{
    int64_t places = pare__fold_places(s->site);
    double least = INFINITY, most = 0;
    for (int64_t p = 0; p < places; p++) {
        s->scales[p] = s->means[p] > 0 ? fmax(pow(s->means[p], alpha), LEAST) : 0;
        if (s->scales[p] > 0) {
            least = fmin(least, s->scales[p]);
            most = fmax(most, s->scales[p]);
        }
    }
    for (int64_t p = 0; p < places; p++)
        s->scales[p] = s->scales[p] > 0 ? s->scales[p] / sqrt(most * least) : 1;
}

static pare_status upload_scales(grid *s)
{
    int64_t K = s->site->cols;
    pare__fold_spread(s->site, s->scales);
    for (int64_t k = 0; k < K; k++)
        s->host[k] = 1 / s->site->scales[k];
    PARE_TRY(pare_backend_upload(s->be, s->up.data, s->site->scales, K * 4));
    return pare_backend_upload(s->be, s->down.data, s->host, K * 4);
}

/* The error of one layer when its inputs are scaled so: Q(w·s)/s beside w. */
static pare_status layer_error(grid *s, const pare_layer *layer, double *error)
{
    pare_layer trial = *layer;
    int64_t R = layer->w.shape[0], K = s->site->cols;
    trial.w = pare_matrix(s->rounded, PARE_F32, R, K);
    PARE_TRY(pare_scale(s->be, &(pare_scale_args){.x = layer->w, .y = trial.w, .cols = s->up}));
    PARE_TRY(pare_quant_round(s->be, &trial, s->site->search));
    PARE_TRY(pare_scale(s->be, &(pare_scale_args){.x = trial.w, .y = trial.w, .cols = s->down}));
    pare_tensor scratch[2] = {pare_matrix(s->one, PARE_F32, R, K),
                              pare_matrix(s->two, PARE_F32, R, K)};
    return pare_layer_error(s->be, layer->w, trial.w, s->site->stats, scratch, error);
}

/* Of all layers; Inf where a block's scale would not be finite. */
static pare_status site_error(grid *s, double *sum)
{
    *sum = 0;
    PARE_TRY(upload_scales(s));
    for (int i = 0; i < s->site->layers; i++) {
        double error = 0;
        pare_status status = PARE_OK;
        if (s->site->layer[i]->scheme.type != PARE_QUANT_NONE)
            status = layer_error(s, s->site->layer[i], &error);
        if (status == PARE_ERR_DAMAGED)
            error = INFINITY;
        else
            PARE_TRY(status);
        s->errors[i] = error;
        *sum += error;
    }
    return PARE_OK;
}

/* What the layers' errors, known at α = 0, are of their outputs. */
static pare_status note_before(grid *s)
{
    pare_quant_site *site = s->site;
    for (int i = 0; i < site->layers; i++) {
        double output;
        pare_tensor w = site->layer[i]->w, scratch[2] = {w, w};
        scratch[0].data = s->one;
        scratch[1].data = s->two;
        PARE_TRY(pare_layer_error(s->be, w, (pare_tensor){0}, site->stats, scratch, &output));
        site->before[i] = s->errors[i] == 0 ? 0 : s->errors[i] / output;
    }
    return PARE_OK;
}

/* errors [steps]: of each α; ranks try them in turns, and then all have all. */
static pare_status try_alphas(grid *s, int steps, double *errors)
{
    const pare_comm_facts *facts = s->site->ranks ? pare_comm_facts_of(s->site->ranks) : NULL;
    int ranks = facts ? facts->size : 1, rank = facts ? facts->rank : 0;
    int each = (steps + ranks - 1) / ranks;
    pare_status status = PARE_OK;
    double *mine = NULL, *all = NULL;
    PARE_TRY_DONE(pare__calloc((size_t)each, sizeof *mine, &mine));
    PARE_TRY_DONE(pare__calloc((size_t)each * (size_t)ranks, sizeof *all, &all));
    for (int i = rank; i < steps; i += ranks) {
        scales_at(s, (double)i / steps);
        PARE_TRY_DONE(site_error(s, &mine[i / ranks]));
        if (i == 0)
            PARE_TRY_DONE(note_before(s));
    }
    if (facts)
        PARE_TRY_DONE(pare_comm_gather(s->site->ranks, mine, each * (int64_t)sizeof *mine, all));
    for (int i = 0; i < steps; i++)
        errors[i] = facts ? all[i % ranks * each + i / ranks] : mine[i];
done:
    free(all);
    free(mine);
    return status;
}

static pare_status search_alpha(grid *s)
{
    pare_quant_site *site = s->site;
    int steps = site->tuning.grid > 0 ? site->tuning.grid : GRID, best = 0;
    double *errors = NULL, least = INFINITY;
    PARE_TRY(pare__calloc((size_t)steps, sizeof *errors, &errors));
    pare_status status = try_alphas(s, steps, errors);
    for (int i = 0; i < steps; i++)
        if (errors[i] < least) {
            least = errors[i];
            best = i;
        }
    double plain = errors[0];
    free(errors);
    PARE_TRY(status);
    scales_at(s, (double)best / steps);
    pare__fold_spread(site, s->scales);
    snprintf(site->note, sizeof site->note, "alpha %.3g, error %.3g of that without scales",
             (double)best / steps, plain > 0 ? least / plain : 1);
    return PARE_OK;
}

static pare_status run_search(grid *s)
{
    int64_t K = s->site->cols, bytes = search_bytes(s->rows, K);
    pare__carve carve = {0};
    PARE_TRY(pare__calloc((size_t)K, sizeof *s->host, &s->host));
    PARE_TRY(pare__calloc((size_t)pare__fold_places(s->site), sizeof *s->scales, &s->scales));
    PARE_TRY(pare_backend_alloc(s->be, bytes, &carve.base));
    lay_out(s, K, &carve);
    pare_status status = search_alpha(s);
    pare_backend_release(s->be, carve.base, bytes);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status scale_site(pare_backend *be, pare_quant_site *site)
{
    double *means;
    bool any;
    PARE_TRY(pare__fold_begin(be, site, false, &means, &any));
    if (!any)
        return PARE_OK;
    grid s = {.be = be, .site = site, .means = means};
    for (int i = 0; i < site->layers; i++)
        s.rows = site->layer[i]->w.shape[0] > s.rows ? site->layer[i]->w.shape[0] : s.rows;
    pare_status status = run_search(&s);
    free(s.scales);
    free(s.host);
    free(means);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- a layer --------------------------------------------------------------------------------- */

static const float shares[] = {1, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.65f, 0.6f, 0.55f, 0.5f};

static pare_status clip(pare_backend *be, pare__trial *trial, const pare_quant_tuning *tuning)
{
    double *squares;
    const char *problem;
    PARE_TRY(pare__stats_problem(be, trial->layer->stats, &squares, &problem));
    free(squares);
    if (problem)
        return pare__trial_give_up(be, trial, problem);
    if (tuning->no_clip)
        return pare__trial_give_up(be, trial, NULL);
    PARE_TRY(pare__quant_shrink(be, trial->layer, shares, sizeof shares / sizeof shares[0], true));
    return pare__trial_end(be, trial);
}

static pare_status solve(pare_backend *be, pare_layer *layer, pare_scale_search search,
                         const pare_quant_tuning *tuning, const pare_factor *factor,
                         const pare_choose *choose, pare_layer_report *report)
{
    (void)factor;
    PARE_REQUIRE(!choose, PARE_ERR_ARGUMENT, "awq: zeros are chosen before it rounds");
    pare__trial trial;
    pare_status status = pare__trial_begin(be, layer, search, true, report, &trial);
    if (status == PARE_OK)
        status = clip(be, &trial, tuning);
    pare__trial_free(be, &trial);
    PARE_TRY(status);
    return PARE_OK;
}

static int64_t bytes(const pare_layer *layer, bool permuted, int m)
{
    (void)permuted, (void)m;
    int64_t search = search_bytes(layer->w.shape[0], layer->w.shape[1]);
    int64_t trial = pare__trial_bytes(layer, pare__quant_shrink_bytes(layer, true));
    return search > trial ? search : trial;
}

const pare_quant_method pare__quant_awq = {
    .name = "awq",
    .summary = "weights of large inputs are scaled up before rounding, ranges clipped",
    .needs = PARE_STAT_COLUMNS | PARE_STAT_GRAM,
    .scale_site = scale_site,
    .solve = solve,
    .bytes = bytes,
};
