/* quant_solve.c - what every solver does around its own work: keeps the weight, rounds it to
 * nearest for comparison, measures, and gives up where that is better. */
#include "quant_impl.h"

#include "pare/ops.h"

#include "base/alloc.h"
#include "base/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

static int64_t weight_bytes(const pare_layer *layer)
{
    return pare_tensor_count(&layer->w) * (int64_t)sizeof(float);
}

static bool is_measured(const pare_layer *layer)
{
    return layer->stats && layer->stats->kinds & PARE_STAT_GRAM;
}

int64_t pare__trial_bytes(const pare_layer *layer, int64_t work)
{
    int64_t weight = weight_bytes(layer), measuring = is_measured(layer) ? 2 * weight : 0;
    return weight + (work > measuring ? work : measuring);
}

int64_t pare_quant_bytes(const pare_quant_method *method, const pare_layer *layer, bool permuted,
                         int m)
{
    return method->bytes ? method->bytes(layer, permuted, m) : pare__trial_bytes(layer, 0);
}

/* The error of a − b in the layer's output. */
static pare_status measure(pare_backend *be, const pare__trial *trial, pare_tensor a, pare_tensor b,
                           double *error)
{
    int64_t bytes = weight_bytes(trial->layer), R = a.shape[0], C = a.shape[1];
    float *memory = NULL;
    PARE_TRY(pare_backend_alloc(be, 2 * bytes, &memory));
    pare_tensor scratch[2] = {pare_matrix(memory, PARE_F32, R, C),
                              pare_matrix(memory + R * C, PARE_F32, R, C)};
    pare_status status = pare_layer_error(be, a, b, trial->layer->stats, scratch, error);
    pare_backend_release(be, memory, 2 * bytes);
    PARE_TRY(status);
    return PARE_OK;
}

/* Relative to the output itself; of no output at all, 0. */
static double relative(const pare__trial *trial, double error)
{
    return error == 0 ? 0 : error / trial->energy;
}

pare_status pare__trial_restore(pare_backend *be, const pare__trial *trial)
{
    return pare_backend_copy(be, trial->layer->w.data, trial->before.data,
                             weight_bytes(trial->layer));
}

static pare_status round_first(pare_backend *be, pare__trial *trial)
{
    PARE_TRY(pare_quant_round(be, trial->layer, trial->search));
    PARE_TRY(measure(be, trial, trial->before, trial->layer->w, &trial->plain));
    trial->report->error_before = relative(trial, trial->plain);
    return pare__trial_restore(be, trial);
}

pare_status pare__trial_begin(pare_backend *be, pare_layer *layer, pare_scale_search search,
                              bool compare, pare_layer_report *report, pare__trial *trial)
{
    int64_t bytes = weight_bytes(layer);
    *trial = (pare__trial){.layer = layer,
                           .report = report,
                           .search = search,
                           .measured = is_measured(layer),
                           .plain = NAN};
    report->error_before = report->error_after = NAN;
    PARE_REQUIRE(!layer->scheme.double_quant, PARE_ERR_ARGUMENT,
                 "%s: a layer's scales that are quantised too are known only when all are: use nf4",
                 layer->name);
    PARE_TRY(pare_backend_alloc(be, bytes, &trial->memory));
    trial->before = layer->w;
    trial->before.data = trial->memory;
    PARE_TRY(pare_backend_copy(be, trial->memory, layer->w.data, bytes));
    if (!trial->measured)
        return PARE_OK;
    PARE_TRY(measure(be, trial, trial->before, (pare_tensor){0}, &trial->energy));
    if (compare)
        PARE_TRY(round_first(be, trial));
    return PARE_OK;
}

void pare__trial_free(pare_backend *be, pare__trial *trial)
{
    pare_backend_release(be, trial->memory, weight_bytes(trial->layer));
}

void pare__trial_blame(const pare__trial *trial, const char *what, const char *why)
{
    char *fallback = trial->report->fallback;
    if (!fallback[0])
        snprintf(fallback, sizeof trial->report->fallback, "%s: %s", what, why);
}

pare_status pare__trial_give_up(pare_backend *be, pare__trial *trial, const char *why)
{
    pare_layer_report *report = trial->report;
    PARE_TRY(pare__trial_restore(be, trial));
    PARE_TRY(pare_quant_round(be, trial->layer, trial->search));
    if (trial->measured && isnan(report->error_before)) {
        PARE_TRY(measure(be, trial, trial->before, trial->layer->w, &trial->plain));
        report->error_before = relative(trial, trial->plain);
    }
    report->error_after = report->error_before;
    if (why)
        pare__trial_blame(trial, "rounded to nearest", why);
    return PARE_OK;
}

pare_status pare__trial_end(pare_backend *be, pare__trial *trial)
{
    double error;
    if (!trial->measured)
        return PARE_OK;
    PARE_TRY(measure(be, trial, trial->before, trial->layer->w, &error));
    trial->report->error_after = relative(trial, error);
    if (isnan(trial->plain) || error <= trial->plain)
        return PARE_OK;
    return pare__trial_give_up(
        be, trial, isnan(error) ? "the result was not finite" : "its error is smaller here");
}

pare_status pare__stats_problem(pare_backend *be, const pare_site_stats *stats, double **squares,
                                const char **problem)
{
    *squares = NULL;
    *problem = NULL;
    PARE_REQUIRE(stats && stats->finished && stats->kinds & PARE_STAT_COLUMNS, PARE_ERR_ARGUMENT,
                 "the statistics of columns are missing, or not finished");
    double sum = 0;
    PARE_TRY(pare__calloc((size_t)stats->cols, sizeof **squares, squares));
    pare_status status = pare_backend_download(be, *squares, stats->squares.data, stats->cols * 8);
    for (int64_t c = 0; status == PARE_OK && c < stats->cols; c++)
        sum += (*squares)[c];
    if (stats->rows == 0)
        *problem = "there are no samples";
    else if (!isfinite(sum))
        *problem = "the inputs hold NaN or Inf";
    else if (sum > FLT_MAX)
        *problem = "the squares of the inputs do not fit f32";
    else if (sum == 0)
        *problem = "all inputs are zero";
    if (status != PARE_OK || *problem) {
        free(*squares);
        *squares = NULL;
    }
    PARE_TRY(status);
    return PARE_OK;
}
