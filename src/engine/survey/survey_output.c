/* survey_output.c - what every scheme would do to every layer's output: one walk over the blocks,
 * none of them changed, in which each layer is rounded to nearest by each scheme and measured by
 * the Gram matrix of its inputs: harm = Σ‖(w − ŵ)x‖² / Σ‖w·x‖². Rounding to nearest, whatever the
 * recipe's method: what is compared is how much a layer suffers, not how well it is solved.
 *
 * Prunings by OWL (Yin 2023) count outliers among the scores |w|·‖x‖; those by one threshold count
 * all of them (survey_global.c).
 *
 * A tensor that no product of the blocks reads alone, and one whose inputs are not finite, is taken
 * as if its inputs were white: ‖x_j‖ = 1, G the identity. */
#include "survey.h"

#include <math.h>
#include <string.h>

#define OUTLIER 5 /* times the mean score (Yin 2023: M = 5) */

typedef struct room {
    pare_layer layer;
    pare_tensor was, scratch[2], norm, bins;
} room;

/* ---- memory ---------------------------------------------------------------------------------- */

/* For an option; what all of them share comes first. */
static void lay_out(const pare__question *q, int option, const pare_entry *e, pare__carve *c,
                    room *r)
{
    int64_t n = e->rows * e->cols;
    memset(r, 0, sizeof *r);
    r->was = pare_matrix(pare__carve_next(c, n * 4), PARE_F32, e->rows, e->cols);
    r->norm = pare_vector(pare__carve_next(c, e->cols * 4), PARE_F32, e->cols);
    for (int i = 0; i < (q->prune ? 1 : 2); i++)
        r->scratch[i] = pare_matrix(pare__carve_next(c, n * 4), PARE_F32, e->rows, e->cols);
    if (q->quant)
        pare__survey_layer_of(q, option, e, c, &r->layer);
    if (pare__survey_by_threshold(q))
        r->bins = pare_vector(pare__carve_next(c, PARE_SELECT_HIGH_BINS * 8), PARE_I64,
                              PARE_SELECT_HIGH_BINS);
}

void pare__survey_room(const pare__survey *s, int64_t *arena, int64_t *beside)
{
    const pare_quant_method *nearest = pare_quant_find("rtn");
    *arena = *beside = 0;
    for (size_t i = 0; i < s->count; i++) {
        const pare__question *q = &s->questions[i];
        for (size_t l = 0; l < q->count; l++)
            for (int k = 0; k < q->options; k++) {
                pare__carve c = {0};
                room r;
                lay_out(q, k, &s->job->tasks[q->layers[l].task].out, &c, &r);
                *arena = c.size > *arena ? c.size : *arena;
                int64_t own = q->quant ? pare_quant_bytes(nearest, &r.layer, false, 0) : 0;
                *beside = own > *beside ? own : *beside;
            }
    }
}

/* ---- options --------------------------------------------------------------------------------- */

/* Σ‖(a − b)x‖²; b absent: 0. */
static pare_status find_error(pare_backend *be, const pare_site_stats *stats, const room *r,
                              pare_tensor b, double *error)
{
    pare_tensor scratch[2] = {r->scratch[0], r->scratch[1]};
    if (stats)
        return pare_layer_error(be, r->was, b, stats, scratch, error);
    pare_diff_result d;
    PARE_TRY(pare_diff(be, &(pare_diff_args){.a = r->was, .b = b.data ? b : r->was, .result = &d}));
    *error = !b.data ? d.sum_aa : isfinite(d.max_abs) ? d.sum_dd : NAN;
    return PARE_OK;
}

static pare_status try_schemes(pare__walker *w, const pare_site_stats *stats,
                               const pare__question *q, pare__survey_layer *layer)
{
    const pare_entry *e = &w->job->tasks[layer->task].out;
    double all, of;
    for (int i = 0; i < q->options; i++) {
        pare__carve carve = {.base = w->arena};
        room r;
        lay_out(q, i, e, &carve, &r);
        PARE_TRY(find_error(w->be, stats, &r, (pare_tensor){0}, &all));
        PARE_TRY(pare_backend_copy(w->be, r.layer.w.data, r.was.data, layer->weights * 4));
        PARE_TRY(pare_quant_round(w->be, &r.layer, q->quant->search));
        PARE_TRY(find_error(w->be, stats, &r, r.layer.w, &of));
        layer->harm[i] = all > 0 ? of / all : 0;
    }
    return PARE_OK;
}

static bool all_finite(const pare__question *q, const pare__survey_layer *layer)
{
    for (int i = 0; i < q->options; i++)
        if (!isfinite(layer->harm[i]))
            return false;
    return true;
}

/* Overflow of a Gram matrix would make the most delicate layer look like the least. */
static pare_status measure_schemes(pare__walker *w, const pare_site_stats *stats,
                                   const pare__question *q, pare__survey_layer *layer)
{
    PARE_TRY(try_schemes(w, stats, q, layer));
    if (stats && !all_finite(q, layer))
        PARE_TRY(try_schemes(w, NULL, q, layer));
    PARE_REQUIRE(all_finite(q, layer), PARE_ERR_NUMERIC,
                 "%s: its error cannot be told: its values are too large",
                 w->job->tasks[layer->task].out.name);
    return PARE_OK;
}

/* ---- prunings -------------------------------------------------------------------------------- */

/* ‖x_j‖ of every input; 1 where they are not known. */
static pare_status find_norms(pare__walker *w, const pare_site_stats *stats, int64_t cols,
                              pare__survey_layer *layer)
{
    double *squares = NULL;
    if (!layer->norm)
        PARE_TRY(pare__calloc((size_t)cols, sizeof *layer->norm, &layer->norm));
    PARE_TRY(pare__calloc((size_t)cols, sizeof *squares, &squares));
    bool known = stats && stats->cols == cols;
    pare_status status =
        known ? pare_backend_download(w->be, squares, stats->squares.data, cols * 8) : PARE_OK;
    for (int64_t j = 0; known && j < cols; j++)
        known = isfinite(squares[j]);
    for (int64_t j = 0; j < cols; j++)
        layer->norm[j] = known ? (float)sqrt(squares[j]) : 1;
    free(squares);
    PARE_TRY(status);
    return PARE_OK;
}

/* The scores |w|·‖x‖. */
static pare_status score(pare__walker *w, const pare__survey_layer *layer, const room *r,
                         pare_tensor keys)
{
    PARE_TRY(pare_backend_upload(w->be, r->norm.data, layer->norm, r->norm.shape[0] * 4));
    PARE_TRY(pare_keys_scaled(
        w->be, &(pare_keys_scaled_args){.w = r->was, .cols = r->norm, .keys = keys}));
    return PARE_OK;
}

/* Beside one another layers have scores whose squares sum to 1. */
static pare_status make_comparable(pare__walker *w, pare__survey_layer *layer, const room *r,
                                   pare_tensor keys)
{
    pare_stats_result seen;
    PARE_TRY(
        pare_stats(w->be, &(pare_stats_args){.x = pare_vector(keys.data, PARE_F32, layer->weights),
                                             .result = &seen}));
    for (int64_t j = 0; j < r->norm.shape[0] && seen.sum_squares > 0; j++)
        layer->norm[j] = (float)(layer->norm[j] / sqrt(seen.sum_squares));
    return score(w, layer, r, keys);
}

/* The share of outliers, or how many scores there are of every size. */
static pare_status look_at_scores(pare__walker *w, pare__question *q, pare__survey_layer *layer,
                                  const room *r)
{
    pare_tensor keys = r->scratch[0];
    keys.dtype = PARE_U32;
    PARE_TRY(score(w, layer, r, keys));
    if (!q->scores)
        return pare_outlier_share(w->be, keys, OUTLIER, &layer->harm[0]);
    PARE_TRY(make_comparable(w, layer, r, keys));
    return pare__survey_count(w->be, q, layer, keys, r->bins);
}

/* ---- a layer --------------------------------------------------------------------------------- */

static pare_status load(pare__walker *w, const pare_entry *e, int64_t task, pare_tensor values)
{
    pare_stats_result seen;
    PARE_TRY(pare__walk_weight(w, task, values));
    PARE_TRY(pare_stats(w->be, &(pare_stats_args){.x = values, .result = &seen}));
    if (seen.first_bad >= 0)
        PARE_FAIL(PARE_ERR_DAMAGED,
                  "%s holds %s at row %lld, column %lld: repair the checkpoint, or leave the "
                  "tensor alone with --exclude '%s'",
                  e->name, seen.nans ? "NaN" : "Inf", (long long)(seen.first_bad / e->cols),
                  (long long)(seen.first_bad % e->cols), e->name);
    return PARE_OK;
}

static pare_status survey_layer(pare__walker *w, const pare_site_stats *stats, pare__question *q,
                                pare__survey_layer *layer)
{
    const pare_entry *e = &w->job->tasks[layer->task].out;
    pare__carve carve = {.base = w->arena};
    bool by_model = pare__survey_by_model(q);
    room r;
    lay_out(q, 0, e, &carve, &r);
    PARE_TRY(load(w, e, layer->task, r.was));
    if (q->prune)
        PARE_TRY(find_norms(w, stats, e->cols, layer));
    if (by_model)
        return PARE_OK;
    if (q->prune)
        PARE_TRY(look_at_scores(w, q, layer, &r));
    else
        PARE_TRY(measure_schemes(w, stats, q, layer));
    layer->measured = true;
    return PARE_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static bool is_at(const pare__walker *w, int64_t site, const pare__survey_layer *layer)
{
    if (site < 0 || !layer->site)
        return site < 0 && !layer->site;
    for (int l = 0; l < w->sites[site].site.count; l++)
        if (w->sites[site].task[l] == layer->task)
            return true;
    return false;
}

/* Instead of solving a site's layers; −1: what no site has. */
static pare_status visit(pare__walker *w, int64_t site, void *user)
{
    pare__survey *survey = user;
    for (size_t i = 0; i < survey->count; i++) {
        pare__question *q = &survey->questions[i];
        for (size_t k = 0; k < q->count; k++)
            if (!q->layers[k].measured && is_at(w, site, &q->layers[k]))
                PARE_TRY(survey_layer(w, site < 0 ? NULL : w->stats[site], q, &q->layers[k]));
    }
    return PARE_OK;
}

pare_status pare__survey_outputs(pare__survey *survey)
{
    survey->job->walker->visit = visit;
    survey->job->walker->visit_user = survey;
    PARE_TRY(pare__survey_begin_counts(survey));
    PARE_TRY(pare__walk_blocks(survey->job));
    PARE_TRY(pare__survey_settle(survey));
    return PARE_OK;
}
