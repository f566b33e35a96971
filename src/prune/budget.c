/* budget.c - how a sparsity is spread over layers: by their outliers, by one threshold over their
 * scores, by their errors. */
#include "pare/prune.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/half.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {
    [PARE_BUDGET_UNIFORM] = "uniform",
    [PARE_BUDGET_GLOBAL] = "global",
    [PARE_BUDGET_OWL] = "owl",
    [PARE_BUDGET_LOSS] = "loss",
    NULL,
};

pare_status pare_budget_parse(const char *text, pare_budget *budget)
{
    PARE_REQUIRE(text && budget, PARE_ERR_ARGUMENT, "budget: NULL argument");
    for (int i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0) {
            *budget = (pare_budget)i;
            return PARE_OK;
        }
    const char *near = pare__nearest(text, names);
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "budget \"%.60s\" is unknown, expected uniform, global, owl or loss%s%s%s", text,
              near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const char *pare_budget_name(pare_budget budget)
{
    return budget >= 0 && budget <= PARE_BUDGET_LOSS ? names[budget] : "?";
}

/* ---- by outliers ----------------------------------------------------------------------------- */

pare_status pare_outlier_share(pare_backend *be, pare_tensor keys, double factor, double *share)
{
    PARE_REQUIRE(be && share && factor > 0, PARE_ERR_ARGUMENT,
                 "outlier share: NULL argument, or a factor that is not above 0");
    int64_t count = pare_tensor_count(&keys), below, equal;
    pare_stats_result stats;
    *share = 0;
    if (count == 0)
        return PARE_OK;
    PARE_TRY(pare_stats(
        be, &(pare_stats_args){.x = pare_vector(keys.data, PARE_F32, count), .result = &stats}));
    float threshold = (float)(factor * (stats.sum / (double)count));
    PARE_TRY(pare_select_count(
        be, &(pare_select_count_args){.x = pare_vector(keys.data, PARE_U32, count),
                                      .threshold = pare__f32_bits(threshold),
                                      .below = &below,
                                      .equal = &equal}));
    *share = (double)(count - below - equal) / (double)count;
    return PARE_OK;
}

static pare_status check_layers(const char *what, const int64_t *count, int64_t layers,
                                double sparsity)
{
    double total = 0;
    PARE_REQUIRE(layers >= 1 && sparsity >= 0 && sparsity <= 1, PARE_ERR_ARGUMENT,
                 "%s: %lld layers and a sparsity of %g; there must be one at least, and a share "
                 "from 0 to 1",
                 what, (long long)layers, sparsity);
    for (int64_t l = 0; l < layers; l++) {
        PARE_REQUIRE(count[l] >= 0, PARE_ERR_ARGUMENT, "%s: layer %lld has %lld weights", what,
                     (long long)l, (long long)count[l]);
        total += (double)count[l];
    }
    PARE_REQUIRE(total > 0, PARE_ERR_ARGUMENT, "%s: the layers have no weights", what);
    return PARE_OK;
}

/* Sparsities of layers that grow with one number: to be found is where their mean is as asked. */
typedef struct search {
    void (*at)(const void *of, double number, double *result);
    const void *of;
    const int64_t *count;
    int64_t layers;
} search;

static double mean_at(const search *s, double number, double *result)
{
    double sum = 0, total = 0;
    s->at(s->of, number, result);
    for (int64_t l = 0; l < s->layers; l++) {
        sum += result[l] * (double)s->count[l];
        total += (double)s->count[l];
    }
    return sum / total;
}

/* The least number, of those from `from` to `to`, with that mean: at `to` it is not below. */
static void find_mean(const search *s, double from, double to, double mean, double *result)
{
    for (int step = 0; step < 200 && from < to; step++) {
        double middle = from + (to - from) / 2;
        if (middle <= from || middle >= to)
            break;
        if (mean_at(s, middle, result) < mean)
            from = middle;
        else
            to = middle;
    }
    s->at(s->of, to, result);
}

typedef struct owl {
    const double *share;
    int64_t layers;
    double least, most, slope; /* of the sparsity against the share */
} owl;

static void owl_at(const void *of, double offset, double *result)
{
    const owl *o = of;
    for (int64_t l = 0; l < o->layers; l++)
        result[l] = fmin(fmax(offset - o->slope * o->share[l], o->least), o->most);
}

/* The mean grows with the offset from `least` to `most`, and the sparsity lies between them. */
pare_status pare_budget_owl(const double *share, const int64_t *count, int64_t layers,
                            double sparsity, double spread, double *result)
{
    PARE_REQUIRE(share && count && result && spread >= 0, PARE_ERR_ARGUMENT,
                 "owl: NULL argument, or a negative spread");
    PARE_TRY(check_layers("owl", count, layers, sparsity));
    double low = INFINITY, high = -INFINITY;
    for (int64_t l = 0; l < layers; l++) {
        PARE_REQUIRE(isfinite(share[l]), PARE_ERR_NUMERIC, "owl: the share of layer %lld is %g",
                     (long long)l, share[l]);
        low = fmin(low, share[l]);
        high = fmax(high, share[l]);
    }
    const owl o = {.share = share,
                   .layers = layers,
                   .least = fmax(0, sparsity - spread),
                   .most = fmin(1, sparsity + spread),
                   .slope = high > low ? 2 * spread / (high - low) : 0};
    find_mean(&(search){owl_at, &o, count, layers}, o.least + o.slope * low,
              o.most + o.slope * high, sparsity, result);
    return PARE_OK;
}

/* ---- by one threshold ------------------------------------------------------------------------ */

typedef struct scores {
    const int64_t *below; /* [layers][bins] */
    int64_t bins, layers;
    double most;
} scores;

/* The threshold is a number of bins: so many whole ones, and a part of the next. */
static void scores_at(const void *of, double threshold, double *result)
{
    const scores *s = of;
    int64_t whole = (int64_t)threshold;
    for (int64_t l = 0; l < s->layers; l++) {
        const int64_t *below = s->below + l * s->bins;
        double lower = whole > 0 ? (double)below[whole - 1] : 0, all = (double)below[s->bins - 1],
               upper = whole < s->bins ? (double)below[whole] : all;
        double share = all > 0 ? (lower + (threshold - (double)whole) * (upper - lower)) / all : 0;
        result[l] = fmin(share, s->most);
    }
}

pare_status pare_budget_global(const int64_t *below, int64_t bins, int64_t layers, double sparsity,
                               double most, double *result)
{
    pare_status status = PARE_OK;
    int64_t *count = NULL;
    PARE_REQUIRE(below && result && bins >= 1, PARE_ERR_ARGUMENT,
                 "global budget: NULL argument, or no bins");
    PARE_REQUIRE(most >= sparsity && most <= 1, PARE_ERR_ARGUMENT,
                 "global budget: a layer may lose %g at most; %g cannot be reached", most,
                 sparsity);
    PARE_TRY(pare__calloc((size_t)(layers > 0 ? layers : 0), sizeof *count, &count));
    for (int64_t l = 0; l < layers; l++)
        count[l] = below[(l + 1) * bins - 1];
    PARE_TRY_DONE(check_layers("global budget", count, layers, sparsity));
    const scores s = {.below = below, .bins = bins, .layers = layers, .most = most};
    find_mean(&(search){scores_at, &s, count, layers}, 0, (double)bins, sparsity, result);
done:
    free(count);
    return status;
}

/* ---- by errors ------------------------------------------------------------------------------- */

#define SHARE_UNIT 1e6 /* sparsities are told apart to so many parts */

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* What a layer keeps beside the mean that is asked for, in parts of SHARE_UNIT of a weight, for
 * each step: their sum over layers may not be above 0. cost holds it from the least on; *budget is
 * what is left then. Units are the greatest that lose nothing, or, where that makes too many of
 * them, greater ones that never keep more than is allowed (and cost nothing at the mean itself). */
static pare_status loss_costs(const double *steps, int step_count, const int64_t *count,
                              int64_t layers, double sparsity, int64_t *cost, int64_t *budget)
{
    double span = 0;
    int64_t unit = 0;
    for (int64_t l = 0; l < layers; l++) {
        double least = INFINITY, most = -INFINITY;
        for (int k = 0; k < step_count; k++) {
            double over = rint((sparsity - steps[k]) * SHARE_UNIT) * (double)count[l];
            PARE_REQUIRE(fabs(over) < 0x1p60, PARE_ERR_ARGUMENT,
                         "loss budget: layer %lld has %lld weights, which are too many",
                         (long long)l, (long long)count[l]);
            cost[l * step_count + k] = (int64_t)over;
            unit = gcd(unit, (int64_t)fabs(over));
            least = fmin(least, over);
            most = fmax(most, over);
        }
        span += most - least;
    }
    double units = (double)PARE_ASSIGN_CELLS / 4 / (double)(layers > 16 ? layers : 16);
    if (unit == 0)
        unit = 1;
    if (span / (double)unit > units)
        unit = (int64_t)ceil(span / units);
    *budget = 0;
    for (int64_t l = 0; l < layers; l++) {
        int64_t *of = cost + l * step_count, least = INT64_MAX;
        for (int k = 0; k < step_count; k++) {
            of[k] = of[k] / unit + (of[k] > 0 && of[k] % unit != 0);
            least = of[k] < least ? of[k] : least;
        }
        for (int k = 0; k < step_count; k++)
            of[k] -= least;
        *budget -= least;
    }
    return PARE_OK;
}

static pare_status check_steps(const double *steps, int step_count, double sparsity)
{
    double most = 0;
    PARE_REQUIRE(step_count >= 1, PARE_ERR_ARGUMENT, "loss budget: no sparsities to choose from");
    for (int k = 0; k < step_count; k++) {
        PARE_REQUIRE(steps[k] >= 0 && steps[k] <= 1, PARE_ERR_ARGUMENT,
                     "loss budget: %g is no sparsity", steps[k]);
        most = fmax(most, steps[k]);
    }
    PARE_REQUIRE(most >= sparsity, PARE_ERR_ARGUMENT,
                 "loss budget: the largest sparsity to choose is %g; %g cannot be reached", most,
                 sparsity);
    return PARE_OK;
}

pare_status pare_budget_loss(const double *errors, const double *steps, int step_count,
                             const int64_t *count, int64_t layers, double sparsity, double *result)
{
    pare_status status = PARE_OK;
    int64_t *cost = NULL, budget = 0;
    int *choice = NULL;
    PARE_REQUIRE(errors && steps && count && result, PARE_ERR_ARGUMENT,
                 "loss budget: NULL argument");
    PARE_TRY(check_layers("loss budget", count, layers, sparsity));
    PARE_TRY(check_steps(steps, step_count, sparsity));
    PARE_TRY_DONE(pare__calloc((size_t)layers * (size_t)step_count, sizeof *cost, &cost));
    PARE_TRY_DONE(pare__calloc((size_t)layers, sizeof *choice, &choice));
    PARE_TRY_DONE(loss_costs(steps, step_count, count, layers, sparsity, cost, &budget));
    PARE_TRY_DONE(pare_assign(
        &(pare_assignment){
            .items = layers, .options = step_count, .harm = errors, .cost = cost, .budget = budget},
        choice));
    for (int64_t l = 0; l < layers; l++)
        result[l] = steps[choice[l]];
done:
    free(choice);
    free(cost);
    return status;
}
