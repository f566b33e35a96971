/* cpu_select_kth.c - the k-th smallest key: a histogram of the upper bits tells its bin, one of
 * that bin's lower bits tells the key. Two reads, bound as the histograms are. */
#include "cpu_select.h"

/* The bin in which the wanted-th key lies (wanted ≥ 1); *before: the keys in the bins before it. */
static uint32_t find_bin(const int64_t *bins, int64_t wanted, int64_t *before)
{
    uint32_t bin = 0;
    int64_t sum = 0;
    for (; sum + bins[bin] < wanted; bin++)
        sum += bins[bin];
    *before = sum;
    return bin;
}

pare_status PARE_CPU(pare_cpu_select_kth)(pare_backend *be, const pare_select_kth_args *args)
{
    const uint32_t *x = args->x.data;
    int64_t n = args->x.shape[0], before, lower;
    void *scratch = NULL;
    PARE_TRY(pare__scratch(be, sizeof(int64_t) * PARE_SELECT_LOW_BINS + CPU_HIST_TABLE, &scratch));
    int64_t *bins = scratch;
    memset(bins, 0, sizeof *bins * PARE_SELECT_HIGH_BINS);
    PARE_CPU(pare__cpu_hist_high)(x, n, (uint16_t *)(bins + PARE_SELECT_LOW_BINS), bins);
    uint32_t high = find_bin(bins, args->k, &before);
    memset(bins, 0, sizeof *bins * PARE_SELECT_LOW_BINS);
    PARE_CPU(pare__cpu_hist_low)(x, n, high, bins);
    uint32_t low = find_bin(bins, args->k - before, &lower);
    *args->threshold = high << 16 | low;
    *args->below = before + lower;
    *args->equal = bins[low];
    return PARE_OK;
}
