/* masks_density.c - how many weights of each layer a schedule takes.
 *
 * Alike in all layers, or by Erdős–Rényi-kernel (Evci 2020, section 3): the density of a layer is
 * ε·(inputs + outputs + kernel sides)/(their product), ε such that the whole has the density asked
 * for. A layer whose density would be above 1 is dense, and ε is found again for the others.
 */
#include "masks_impl.h"

#include "base/alloc.h"

#include <math.h>

void pare__mask_erk(const double *raw, const int64_t *count, int64_t layers, double density,
                    double *result)
{
    double wanted = 0;
    for (int64_t l = 0; l < layers; l++) {
        wanted += density * (double)count[l];
        result[l] = -1; /* not dense yet */
    }
    for (bool again = true; again;) {
        double left = wanted, sum = 0;
        for (int64_t l = 0; l < layers; l++)
            if (result[l] == 1)
                left -= (double)count[l];
            else
                sum += raw[l] * (double)count[l];
        double epsilon = sum > 0 && left > 0 ? left / sum : 0;
        again = false;
        for (int64_t l = 0; l < layers; l++) {
            if (result[l] == 1)
                continue;
            result[l] = epsilon * raw[l];
            if (result[l] > 1) {
                result[l] = 1;
                again = true;
            }
        }
    }
}

int pare__mask_stays(const pare_mask_options *options, double sparsity)
{
    const pare_pattern *p = &options->pattern;
    int stays = (int)rint((1 - sparsity) * p->m);
    return stays < p->n ? p->n : stays > p->m ? p->m : stays;
}

pare_status pare__mask_shares(const pare_masks *masks, double sparsity, int64_t *goes)
{
    int64_t n = masks->count;
    double *raw, *result;
    int64_t *count;
    if (!masks->options.erk) {
        for (int64_t l = 0; l < n; l++)
            goes[l] = (int64_t)rint(sparsity * (double)masks->layers[l].units);
        return PARE_OK;
    }
    PARE_TRY(pare__calloc((size_t)n, 2 * sizeof *raw + sizeof *count, &raw));
    result = raw + n;
    count = (int64_t *)(void *)(result + n);
    for (int64_t l = 0; l < n; l++) {
        raw[l] = masks->layers[l].raw;
        count[l] = masks->layers[l].rows * masks->layers[l].cols;
    }
    pare__mask_erk(raw, count, n, 1 - sparsity, result);
    for (int64_t l = 0; l < n; l++)
        goes[l] = (int64_t)rint((1 - result[l]) * (double)masks->layers[l].units);
    free(raw);
    return PARE_OK;
}
