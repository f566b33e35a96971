/* quant_fold.c - scales of a site's inputs, as what comes before it can take them: one for each row
 * of the weight (or the norm) that they are folded into. */
#include "quant_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <math.h>
#include <stdio.h>

static int64_t inner_of(const pare_quant_site *site)
{
    int64_t inner = site->layers > 0 ? site->layer[0]->inner : 1;
    return inner > 1 ? inner : 1;
}

int64_t pare__fold_place(const pare_quant_site *site, int64_t column)
{
    int64_t channel = column / inner_of(site);
    if (site->fold_repeat <= 1)
        return channel;
    return channel / site->fold_repeat / site->fold_dim * site->fold_dim + channel % site->fold_dim;
}

int64_t pare__fold_places(const pare_quant_site *site)
{
    return site->cols > 0 ? pare__fold_place(site, site->cols - 1) + 1 : 0;
}

/* Sizes of columns, F64 or F32 in one memory of 8 bytes each, become those of places. */
static void merge(const pare_quant_site *site, bool largest, const void *columns, double *places,
                  double *counts)
{
    for (int64_t k = 0; k < site->cols; k++) {
        int64_t p = pare__fold_place(site, k);
        double size = largest ? (double)((const float *)columns)[k] : ((const double *)columns)[k];
        places[p] = largest ? fmax(places[p], size) : places[p] + size;
        counts[p]++;
    }
    for (int64_t p = 0; !largest && p < pare__fold_places(site); p++)
        places[p] /= fmax(counts[p] * (double)site->stats->rows, 1);
}

static pare_status leave(pare_quant_site *site, const char *why)
{
    snprintf(site->note, sizeof site->note, "not scaled: %s", why);
    return PARE_OK;
}

pare_status pare__fold_begin(pare_backend *be, pare_quant_site *site, bool largest, double **sizes,
                             bool *any)
{
    *sizes = NULL;
    *any = false;
    site->note[0] = '\0';
    for (int i = 0; i < PARE_SITE_LAYERS; i++)
        site->before[i] = NAN;
    for (int64_t k = 0; k < site->cols; k++)
        site->scales[k] = 1;
    if (!site->foldable)
        return leave(site, "nothing before it can take the scales");
    double *columns, *counts = NULL;
    const char *problem;
    PARE_TRY(pare__stats_problem(be, site->stats, &columns, &problem));
    if (problem)
        return leave(site, problem);
    size_t places = (size_t)pare__fold_places(site);
    pare_tensor source = largest ? site->stats->absmax : site->stats->sum;
    pare_status status =
        pare_backend_download(be, columns, source.data, site->cols * (largest ? 4 : 8));
    if (status == PARE_OK)
        status = pare__calloc(places, sizeof *counts, &counts);
    if (status == PARE_OK)
        status = pare__calloc(places, sizeof **sizes, sizes);
    if (status == PARE_OK)
        merge(site, largest, columns, *sizes, counts);
    free(counts);
    free(columns);
    PARE_TRY(status);
    *any = true;
    return PARE_OK;
}

void pare__fold_spread(pare_quant_site *site, const double *places)
{
    for (int64_t k = 0; k < site->cols; k++)
        site->scales[k] = (float)places[pare__fold_place(site, k)];
}
