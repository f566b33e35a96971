/* cpu_mask_rows.c - in every row the elements of lowest key go (Wanda).
 *
 * The threshold of a row is found by halving the range of keys: each step counts the keys below its
 * middle, a loop that the compiler turns into one comparison and one subtraction a vector, over a
 * row that the first step has brought into the cache. A step may hit the number wanted exactly, and
 * then no key lies at the threshold: about 20 steps for 4,096 different keys, 31 at most. So the
 * whole is bound by the first cache's loads, not by memory or branches. */
#include "cpu_select.h"

static int64_t count_below(const uint32_t *x, int64_t n, int32_t threshold)
{
    int64_t below = 0;
    for (int64_t i = 0; i < n; i += INT32_MAX / 2) { /* what a 32-bit counter holds */
        int64_t end = cpu_min(n, i + INT32_MAX / 2);
        int32_t part = 0;
        for (int64_t j = i; j < end; j++)
            part += (int32_t)(x[j] & CPU_KEY_MASK) < threshold;
        below += part;
    }
    return below;
}

/* The largest threshold with no more than `prune` < n keys below it. *ties: how many at it go too.
 */
static uint32_t threshold_of(const uint32_t *x, int64_t n, int64_t prune, int64_t *ties)
{
    int64_t low = 0, high = INT64_C(1) << 31, below = 0; /* of keys below low and high: ≤, > */
    while (high - low > 1 && below < prune) {
        int64_t middle = (low + high) / 2, count = count_below(x, n, (int32_t)middle);
        if (count > prune) {
            high = middle;
        } else {
            low = middle;
            below = count;
        }
    }
    *ties = prune - below;
    return (uint32_t)low;
}

static void mask_rows_part(const void *user, int64_t first, int64_t last)
{
    const pare_mask_rows_args *a = user;
    int64_t cols = a->x.shape[1], bytes = a->mask.shape[1];
    for (int64_t r = first; r < last; r++) {
        const uint32_t *x = (const uint32_t *)a->x.data + r * cols;
        uint8_t *mask = (uint8_t *)a->mask.data + r * bytes;
        int64_t ties = 0;
        if (a->prune == cols) {
            memset(mask, 0, (size_t)bytes);
            continue;
        }
        uint32_t threshold = threshold_of(x, cols, a->prune, &ties);
        PARE_CPU(pare__cpu_select_row)(x, cols, threshold, ties, mask);
    }
}

pare_status PARE_CPU(pare_cpu_mask_rows)(pare_backend *be, const pare_mask_rows_args *args)
{
    if (args->mask.shape[1] > 0)
        cpu_split(be, args->x.shape[0], 1, mask_rows_part, args);
    return PARE_OK;
}
