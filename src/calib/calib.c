/* calib.c - statistics of a site's inputs: what is counted as batches go by.
 *
 * All arrays are one piece of the backend's memory. The histogram's bins have a power of two as
 * their width, the first so that the largest input so far fits; where a larger one comes, two bins
 * become one until it does. */
#include "pare/calib.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define BINS PARE_HISTOGRAM_BINS
#define MIRROR_ROWS 256 /* of the Gram matrix, that are mirrored at a time */

typedef struct host_scratch {
    int64_t bins[BINS];
    double values[]; /* [K] of any of the columns' arrays */
} host_scratch;

static unsigned complete(unsigned kinds)
{
    return kinds & PARE_STAT_HISTOGRAM ? kinds | PARE_STAT_COLUMNS : kinds;
}

/* The places of all arrays; those of kinds that are not wanted stay absent. */
static void lay_out(pare_site_stats *stats, pare__carve *carve)
{
    int64_t K = stats->cols;
    if (stats->kinds & PARE_STAT_COLUMNS) {
        stats->absmax = pare_vector(pare__carve_next(carve, K * 4), PARE_F32, K);
        stats->sum = pare_vector(pare__carve_next(carve, K * 8), PARE_F64, K);
        stats->squares = pare_vector(pare__carve_next(carve, K * 8), PARE_F64, K);
    }
    if (stats->kinds & PARE_STAT_HISTOGRAM)
        stats->bins = pare_vector(pare__carve_next(carve, BINS * 8), PARE_I64, BINS);
    if (stats->kinds & PARE_STAT_GRAM)
        stats->gram = pare_matrix(pare__carve_next(carve, K * K * 4), PARE_F32, K, K);
}

/* What finish takes to mirror the Gram matrix: the numbers of its rows, and some rows. */
typedef struct mirror {
    pare_tensor numbers, rows;
} mirror;

static mirror lay_out_mirror(int64_t K, pare__carve *carve)
{
    int64_t rows = K < MIRROR_ROWS ? K : MIRROR_ROWS;
    mirror m;
    m.numbers = pare_vector(pare__carve_next(carve, K * 4), PARE_I32, K);
    m.rows = pare_matrix(pare__carve_next(carve, rows * K * 4), PARE_F32, rows, K);
    return m;
}

static int64_t arrays_bytes(unsigned kinds, int64_t cols)
{
    pare_site_stats stats = {.kinds = complete(kinds), .cols = cols};
    pare__carve carve = {0};
    lay_out(&stats, &carve);
    return carve.size;
}

int64_t pare_site_stats_bytes(unsigned kinds, int64_t cols)
{
    pare__carve carve = {0};
    if (kinds & PARE_STAT_GRAM)
        lay_out_mirror(cols, &carve);
    return arrays_bytes(kinds, cols) + carve.size;
}

pare_status pare_site_stats_create(pare_backend *be, unsigned kinds, int64_t cols,
                                   pare_site_stats **out)
{
    PARE_REQUIRE(be && out && cols > 0 && cols <= INT32_MAX, PARE_ERR_ARGUMENT,
                 "statistics of a site: %lld columns are none or too many", (long long)cols);
    pare_site_stats *stats = NULL;
    PARE_TRY(pare__calloc(1, sizeof *stats, &stats));
    stats->kinds = stats->allotted = complete(kinds & ~(unsigned)PARE_STAT_GRADIENT);
    stats->cols = cols;
    pare__carve carve = {0};
    pare_status status =
        pare__calloc(1, sizeof(host_scratch) + (size_t)cols * sizeof(double), &stats->host);
    if (status == PARE_OK)
        status = pare_backend_alloc(be, arrays_bytes(stats->allotted, cols), &carve.base);
    stats->memory = carve.base;
    if (status == PARE_OK)
        lay_out(stats, &carve);
    else
        pare_site_stats_free(be, &stats);
    PARE_TRY(status);
    *out = stats;
    return PARE_OK;
}

void pare_site_stats_free(pare_backend *be, pare_site_stats **stats)
{
    pare_site_stats *s = stats ? *stats : NULL;
    if (!s)
        return;
    *stats = NULL;
    pare_backend_release(be, s->memory, arrays_bytes(s->allotted, s->cols));
    free(s->host);
    free(s);
}

/* ---- the histogram --------------------------------------------------------------------------- */

/* The largest |x| so far; Inf where it is not finite. */
static pare_status largest(pare_backend *be, const pare_site_stats *stats, float *result)
{
    float *absmax = (float *)((host_scratch *)stats->host)->values;
    PARE_TRY(pare_backend_download(be, absmax, stats->absmax.data, stats->cols * 4));
    *result = 0;
    for (int64_t c = 0; c < stats->cols; c++)
        if (!(absmax[c] <= *result))
            *result = absmax[c];
    if (!isfinite(*result))
        *result = INFINITY;
    return PARE_OK;
}

/* The power of two of which BINS reach x: never so small that it is none. */
static float width_for(float x)
{
    int exponent;
    float share = frexpf(x / BINS, &exponent);
    return share == 0 ? 0x1p-126f
                      : fmaxf(ldexpf(1, share == 0.5f ? exponent - 1 : exponent), 0x1p-126f);
}

/* Two bins become one until the width is `width`. */
static void merge(int64_t bins[BINS], double from, double width)
{
    for (; from < width; from *= 2)
        for (int b = 0; b < BINS; b++)
            bins[b] = 2 * b < BINS ? bins[2 * b] + bins[2 * b + 1] : 0;
}

static pare_status widen(pare_backend *be, pare_site_stats *stats, float width)
{
    int64_t *bins = ((host_scratch *)stats->host)->bins;
    if (stats->width > 0) {
        PARE_TRY(pare_backend_download(be, bins, stats->bins.data, BINS * 8));
        merge(bins, stats->width, width);
        PARE_TRY(pare_backend_upload(be, stats->bins.data, bins, BINS * 8));
    }
    stats->width = width;
    return PARE_OK;
}

/* Inputs that are not finite end the counting: there is no range any more (stat_range.c says so).
 */
static pare_status count_sizes(pare_backend *be, pare_site_stats *stats, pare_tensor x,
                               int64_t kept)
{
    float most;
    PARE_TRY(largest(be, stats, &most));
    if (!isfinite(most))
        return PARE_OK;
    if (most == 0) {
        stats->uncounted += kept * stats->cols;
        return PARE_OK;
    }
    float width = width_for(most);
    if (width > stats->width)
        PARE_TRY(widen(be, stats, width));
    stats->uncounted -= (x.shape[0] - kept) * stats->cols;
    return pare_histogram(
        be, &(pare_histogram_args){.x = x, .width = stats->width, .bins = stats->bins});
}

static pare_status count_zeros(pare_backend *be, pare_site_stats *stats)
{
    int64_t zeros;
    PARE_TRY(pare_backend_download(be, &zeros, stats->bins.data, sizeof zeros));
    zeros += stats->uncounted;
    PARE_TRY(pare_backend_upload(be, stats->bins.data, &zeros, sizeof zeros));
    stats->uncounted = 0;
    return PARE_OK;
}

/* ---- adding ---------------------------------------------------------------------------------- */

pare_status pare_site_stats_add(pare_backend *be, pare_site_stats *stats, pare_tensor x,
                                int64_t kept)
{
    PARE_REQUIRE(!stats->finished && x.rank == 2 && x.shape[1] == stats->cols && kept >= 0 &&
                     kept <= x.shape[0],
                 PARE_ERR_ARGUMENT,
                 "statistics of %lld columns cannot take %lld of %lld rows of %lld columns%s",
                 (long long)stats->cols, (long long)kept, (long long)x.shape[0],
                 (long long)(x.rank == 2 ? x.shape[1] : -1),
                 stats->finished ? ": they are finished" : "");
    if (stats->kinds & PARE_STAT_COLUMNS)
        PARE_TRY(pare_column_stats(be, &(pare_column_stats_args){.x = x,
                                                                 .absmax = stats->absmax,
                                                                 .sum = stats->sum,
                                                                 .squares = stats->squares}));
    if (stats->kinds & PARE_STAT_GRAM)
        PARE_TRY(pare_gram(be, &(pare_gram_args){.x = x, .g = stats->gram}));
    if (stats->kinds & PARE_STAT_HISTOGRAM)
        PARE_TRY(count_sizes(be, stats, x, kept));
    stats->rows += kept;
    return PARE_OK;
}

/* Rows of the whole matrix are made beside it and put over their own: its lower triangle stays what
 * it is. */
static pare_status mirror_rows(pare_backend *be, pare_site_stats *stats, mirror m)
{
    int64_t K = stats->cols;
    int32_t *numbers = (int32_t *)((host_scratch *)stats->host)->values;
    for (int64_t i = 0; i < K; i++)
        numbers[i] = (int32_t)i;
    PARE_TRY(pare_backend_upload(be, m.numbers.data, numbers, K * 4));
    for (int64_t first = 0; first < K; first += m.rows.shape[0]) {
        int64_t count = K - first < m.rows.shape[0] ? K - first : m.rows.shape[0];
        PARE_TRY(pare_permute(
            be, &(pare_permute_args){
                    .x = stats->gram,
                    .y = pare_matrix(m.rows.data, PARE_F32, count, K),
                    .rows = pare_vector((int32_t *)m.numbers.data + first, PARE_I32, count),
                    .lower = true}));
        PARE_TRY(pare_backend_copy(be, (float *)stats->gram.data + first * K, m.rows.data,
                                   count * K * 4));
    }
    return PARE_OK;
}

static pare_status mirror_gram(pare_backend *be, pare_site_stats *stats)
{
    pare__carve carve = {0};
    lay_out_mirror(stats->cols, &carve);
    int64_t bytes = carve.size;
    carve.size = 0;
    PARE_TRY(pare_backend_alloc(be, bytes, &carve.base));
    pare_status status = mirror_rows(be, stats, lay_out_mirror(stats->cols, &carve));
    pare_backend_release(be, carve.base, bytes);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare_site_stats_finish(pare_backend *be, pare_site_stats *stats)
{
    if (stats->finished)
        return PARE_OK;
    if (stats->kinds & PARE_STAT_HISTOGRAM)
        PARE_TRY(count_zeros(be, stats));
    if (stats->kinds & PARE_STAT_GRAM)
        PARE_TRY(mirror_gram(be, stats));
    stats->finished = true;
    return PARE_OK;
}

/* ---- ranks ----------------------------------------------------------------------------------- */

/* What a rank has counted one by one. */
typedef struct counts {
    int64_t rows, uncounted;
    double width;
    int64_t bins[BINS]; /* of a histogram; else not sent */
} counts;

static size_t counts_bytes(unsigned kinds)
{
    return kinds & PARE_STAT_HISTOGRAM ? sizeof(counts) : offsetof(counts, bins);
}

int64_t pare_site_stats_join_bytes(unsigned kinds, int64_t cols, int ranks)
{
    int64_t columns = kinds & PARE_STAT_COLUMNS ? cols * 4 : 0;
    int64_t counted = (int64_t)counts_bytes(complete(kinds));
    return (ranks + 1) * (columns > counted ? columns : counted);
}

/* The bins of all ranks, as wide as the widest. */
static void add_counts(pare_site_stats *stats, int64_t *bins, char *all, size_t each, int ranks)
{
    double width = 0;
    counts *c;
    for (int r = 0; r < ranks; r++) {
        c = (counts *)(void *)(all + (size_t)r * each);
        width = c->width > width ? c->width : width;
    }
    stats->rows = stats->uncounted = 0;
    stats->width = (float)width;
    for (int r = 0; r < ranks; r++) {
        c = (counts *)(void *)(all + (size_t)r * each);
        stats->rows += c->rows;
        stats->uncounted += c->uncounted;
        if (!(c->width > 0))
            continue;
        merge(c->bins, c->width, width);
        for (int b = 0; b < BINS; b++)
            bins[b] += c->bins[b];
    }
}

static pare_status join_counts(pare_backend *be, pare_site_stats *stats, pare_comm *comm)
{
    pare_status status = PARE_OK;
    int ranks = pare_comm_facts_of(comm)->size;
    size_t each = counts_bytes(stats->kinds);
    bool histogram = stats->kinds & PARE_STAT_HISTOGRAM;
    int64_t *bins = ((host_scratch *)stats->host)->bins;
    char *all = NULL;
    PARE_TRY(pare__calloc((size_t)ranks + 1, each, &all));
    counts *mine = (counts *)(void *)(all + (size_t)ranks * each);
    mine->rows = stats->rows;
    mine->uncounted = stats->uncounted;
    mine->width = (double)stats->width;
    if (histogram)
        PARE_TRY_DONE(pare_backend_download(be, mine->bins, stats->bins.data, BINS * 8));
    PARE_TRY_DONE(pare_comm_gather(comm, mine, (int64_t)each, all));
    memset(bins, 0, BINS * sizeof *bins);
    add_counts(stats, bins, all, each, ranks);
    if (histogram)
        PARE_TRY_DONE(pare_backend_upload(be, stats->bins.data, bins, BINS * 8));
done:
    free(all);
    return status;
}

/* The largest |x| of all ranks; NaN stays. */
static pare_status join_absmax(pare_backend *be, const pare_site_stats *stats, pare_comm *comm)
{
    pare_status status = PARE_OK;
    int ranks = pare_comm_facts_of(comm)->size;
    int64_t K = stats->cols;
    float *all = NULL;
    PARE_TRY(pare__calloc((size_t)(ranks + 1) * (size_t)K, sizeof *all, &all));
    float *mine = all + ranks * K;
    PARE_TRY_DONE(pare_backend_download(be, mine, stats->absmax.data, K * 4));
    PARE_TRY_DONE(pare_comm_gather(comm, mine, K * 4, all));
    for (int r = 0; r < ranks; r++)
        for (int64_t c = 0; c < K; c++)
            if (!isnan(mine[c]) && !(all[r * K + c] <= mine[c]))
                mine[c] = all[r * K + c];
    PARE_TRY_DONE(pare_backend_upload(be, stats->absmax.data, mine, K * 4));
done:
    free(all);
    return status;
}

pare_status pare_site_stats_join(pare_backend *be, pare_site_stats *stats, pare_comm *comm)
{
    int64_t K = stats->cols;
    PARE_REQUIRE(comm && !stats->finished, PARE_ERR_ARGUMENT,
                 "statistics of several ranks are joined by a communicator, before they are "
                 "finished");
    if (stats->kinds & PARE_STAT_COLUMNS) {
        PARE_TRY(pare_comm_sum(comm, stats->sum.data, K, PARE_F64));
        PARE_TRY(pare_comm_sum(comm, stats->squares.data, K, PARE_F64));
        PARE_TRY(join_absmax(be, stats, comm));
    }
    if (stats->kinds & PARE_STAT_GRAM)
        PARE_TRY(pare_comm_sum(comm, stats->gram.data, K * K, PARE_F32));
    return join_counts(be, stats, comm);
}

/* ---- dividing -------------------------------------------------------------------------------- */

static pare_status divide_columns(pare_backend *be, const pare_site_stats *stats,
                                  const float *scales)
{
    int64_t K = stats->cols;
    double *values = ((host_scratch *)stats->host)->values;
    float *absmax = (float *)values;
    PARE_TRY(pare_backend_download(be, absmax, stats->absmax.data, K * 4));
    for (int64_t c = 0; c < K; c++)
        absmax[c] /= fabsf(scales[c]);
    PARE_TRY(pare_backend_upload(be, stats->absmax.data, absmax, K * 4));
    PARE_TRY(pare_backend_download(be, values, stats->sum.data, K * 8));
    for (int64_t c = 0; c < K; c++)
        values[c] /= fabs((double)scales[c]);
    PARE_TRY(pare_backend_upload(be, stats->sum.data, values, K * 8));
    PARE_TRY(pare_backend_download(be, values, stats->squares.data, K * 8));
    for (int64_t c = 0; c < K; c++)
        values[c] /= (double)scales[c] * scales[c];
    return pare_backend_upload(be, stats->squares.data, values, K * 8);
}

static pare_status divide_gram(pare_backend *be, const pare_site_stats *stats, const float *scales)
{
    float *inverse = (float *)((host_scratch *)stats->host)->values;
    for (int64_t c = 0; c < stats->cols; c++)
        inverse[c] = 1 / scales[c];
    void *memory = NULL;
    PARE_TRY(pare_backend_alloc(be, stats->cols * 4, &memory));
    pare_tensor by = pare_vector(memory, PARE_F32, stats->cols);
    pare_status status = pare_backend_upload(be, memory, inverse, stats->cols * 4);
    if (status == PARE_OK)
        status = pare_scale(
            be, &(pare_scale_args){.x = stats->gram, .y = stats->gram, .rows = by, .cols = by});
    pare_backend_release(be, memory, stats->cols * 4);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare_site_stats_divide(pare_backend *be, pare_site_stats *stats, const float *scales)
{
    PARE_REQUIRE(stats->finished, PARE_ERR_ARGUMENT,
                 "statistics are divided by scales once they are finished");
    if (stats->kinds & PARE_STAT_COLUMNS)
        PARE_TRY(divide_columns(be, stats, scales));
    if (stats->kinds & PARE_STAT_GRAM)
        PARE_TRY(divide_gram(be, stats, scales));
    stats->kinds &= ~(unsigned)PARE_STAT_HISTOGRAM;
    stats->bins.data = NULL;
    return PARE_OK;
}
