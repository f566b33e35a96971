/* stat_range.c - the range of int8 activations, from their histogram.
 *
 * x ≈ clamp(rint(x·127.5/r), −128, 127)·r/127.5. What is searched is r:
 *   ABSMAX      the largest |x|
 *   PERCENTILE  the upper end of the bin under which P % of all |x| lie
 *   MSE         r = largest·k/100, k = 100 … 1, of least Σ n_b (c_b − ĉ_b)², c_b the middle of bin
 * b KL          r = i·width, i = 128 … BINS, of least Kullback-Leibler divergence between the first
 *               i bins (all above added to the last) and the same bins at 128 levels (Migacz 2017)
 * Ties go to the larger r. All in f64, in ascending order of the bins. */
#include "pare/calib.h"

#include "base/alloc.h"
#include "base/check.h"

#include <math.h>

#define BINS PARE_HISTOGRAM_BINS
#define LEVELS 128
#define STEPS 127.5  /* of |x|, in int8 */
#define NOTHING 1e-4 /* share of a bin that holds nothing, where something is measured by it */

static double percentile_range(const int64_t *bins, double width, double percentile)
{
    int64_t all = 0, below = 0;
    for (int b = 0; b < BINS; b++)
        all += bins[b];
    for (int b = 0; b < BINS; b++) {
        below += bins[b];
        if ((double)below >= percentile / 100 * (double)all)
            return (b + 1) * width;
    }
    return BINS * width;
}

static double mse_range(const int64_t *bins, double width, double most)
{
    double best = most, least = INFINITY;
    for (int k = 100; k >= 1; k--) {
        double step = most * k / 100 / STEPS, error = 0;
        for (int b = 0; b < BINS; b++) {
            double x = (b + 0.5) * width, code = fmin(rint(x / step), 127);
            error += (double)bins[b] * (x - code * step) * (x - code * step);
        }
        if (error < least) {
            least = error;
            best = most * k / 100;
        }
    }
    return best;
}

/* The divergence if the first n bins are kept, at LEVELS levels: bins of one level share what they
 * hold evenly among those of them that hold anything. What was cut off may meet a last bin that
 * holds nothing. */
static double divergence(const int64_t *bins, int n, int64_t kept, int64_t all)
{
    double sum = 0;
    for (int level = 0; level < LEVELS; level++) {
        int first = (int)((int64_t)level * n / LEVELS);
        int end = (int)((int64_t)(level + 1) * n / LEVELS);
        int64_t held = 0, filled = 0;
        for (int b = first; b < end; b++) {
            held += bins[b];
            filled += bins[b] != 0;
        }
        for (int b = first; b < end; b++) {
            int64_t count = bins[b] + (b == n - 1 ? all - kept : 0);
            if (count == 0)
                continue;
            double p = (double)count / (double)all, q = NOTHING;
            if (bins[b] != 0)
                q = (double)held / (double)filled / (double)kept;
            sum += p * log(p / q);
        }
    }
    return sum;
}

static double kl_range(const int64_t *bins, double width)
{
    int64_t all = 0, kept = 0;
    for (int b = 0; b < BINS; b++)
        all += bins[b];
    double least = INFINITY;
    int best = BINS;
    for (int n = 1; n <= BINS; n++) {
        kept += bins[n - 1];
        double d = n >= LEVELS && kept > 0 ? divergence(bins, n, kept, all) : INFINITY;
        if (d <= least) {
            least = d;
            best = n;
        }
    }
    return best * width;
}

/* NaN is in no largest value: the sums show it. */
static pare_status largest(pare_backend *be, const pare_site_stats *stats, double *values,
                           double *most)
{
    int64_t K = stats->cols;
    PARE_TRY(pare_backend_download(be, values, stats->sum.data, K * 8));
    for (int64_t c = 0; c < K; c++)
        PARE_REQUIRE(isfinite(values[c]), PARE_ERR_NUMERIC,
                     "input %lld of the site holds NaN or Inf: it has no range", (long long)c);
    const float *absmax = (const float *)values;
    PARE_TRY(pare_backend_download(be, values, stats->absmax.data, K * 4));
    *most = 0;
    for (int64_t c = 0; c < K; c++)
        *most = fmax(*most, (double)absmax[c]);
    PARE_REQUIRE(isfinite(*most), PARE_ERR_NUMERIC, "an input of the site is Inf: it has no range");
    return PARE_OK;
}

pare_status pare_site_stats_range(pare_backend *be, const pare_site_stats *stats,
                                  pare_range_search search, double percentile, float *range)
{
    unsigned needs = search == PARE_RANGE_ABSMAX ? PARE_STAT_COLUMNS : PARE_STAT_HISTOGRAM;
    PARE_REQUIRE(stats->finished && stats->kinds & needs, PARE_ERR_ARGUMENT,
                 "a range is found once statistics are finished, from a histogram unless it is the "
                 "largest value");
    if (percentile == 0)
        percentile = 99.99;
    PARE_REQUIRE(percentile > 0 && percentile <= 100, PARE_ERR_ARGUMENT,
                 "a percentile of %g is not above 0 and at most 100", percentile);
    int64_t bytes = stats->cols * 8 > BINS * 8 ? stats->cols * 8 : BINS * 8;
    void *memory = NULL;
    double most = 0, result = 0;
    PARE_TRY(pare__calloc(1, (size_t)bytes, &memory));
    pare_status status = largest(be, stats, memory, &most);
    if (status == PARE_OK && search != PARE_RANGE_ABSMAX)
        status = pare_backend_download(be, memory, stats->bins.data, BINS * 8);
    if (status == PARE_OK && most > 0) {
        double width = stats->width;
        result = search == PARE_RANGE_PERCENTILE ? percentile_range(memory, width, percentile)
                 : search == PARE_RANGE_MSE      ? mse_range(memory, width, most)
                 : search == PARE_RANGE_KL       ? kl_range(memory, width)
                                                 : most;
    }
    free(memory);
    PARE_TRY(status);
    *range = (float)fmin(result, most);
    return PARE_OK;
}
