/* cpu_select.c - keys, and the counting behind exact k-th selection.
 *
 * Keys are integers, so nothing here rounds but the block keys, which are lane sums in f32. The
 * histogram is bound by its read-modify-writes: neighbouring elements count in different tables, so
 * that a run of equal keys (zeros) does not wait for its own stores; the rest is bound by memory.
 */
#include "cpu_select.h"

#define GRAIN 16384
#define TILE 1024

/* ---- keys ------------------------------------------------------------------------------------ */

static void keys_part(const void *user, int64_t first, int64_t last)
{
    const pare_keys_args *a = user;
    uint32_t *keys = a->keys.data;
    float buffer[TILE];
    for (int64_t i = first; i < last; i += TILE) {
        int64_t n = cpu_min(TILE, last - i);
        const float *x = PARE_CPU(pare__cpu_widen)(&a->x, i, n, buffer);
        for (int64_t j = 0; j < n; j++)
            keys[i + j] = pare__f32_bits(x[j]) & CPU_KEY_MASK;
    }
}

pare_status PARE_CPU(pare_cpu_keys)(pare_backend *be, const pare_keys_args *args)
{
    cpu_split(be, args->x.shape[0], GRAIN, keys_part, args);
    return PARE_OK;
}

static void keys_random_part(const void *user, int64_t first, int64_t last)
{
    const pare_keys_random_args *a = user;
    uint32_t *keys = a->keys.data;
    uint64_t start = a->seed ^ (a->stream * 0x9E3779B97F4A7C15u);
    for (int64_t i = first; i < last; i++) {
        uint64_t z = start + ((uint64_t)a->first + (uint64_t)i + 1) * 0xD1342543DE82EF95u;
        z ^= z >> 30;
        z *= 0xBF58476D1CE4E5B9u;
        z ^= z >> 27;
        z *= 0x94D049BB133111EBu;
        z ^= z >> 31;
        keys[i] = (uint32_t)(z >> 34);
    }
}

pare_status PARE_CPU(pare_cpu_keys_random)(pare_backend *be, const pare_keys_random_args *args)
{
    cpu_split(be, args->keys.shape[0], GRAIN, keys_random_part, args);
    return PARE_OK;
}

CPU_INLINE float absolute(float x)
{
    return pare__bits_f32(pare__f32_bits(x) & CPU_KEY_MASK);
}

/* The sum of the lanes, of which only the first `used` are not +0: adding +0 to what is not
 * negative changes nothing. */
static float tree(float lane[CPU_LANES], int64_t used)
{
    int half = CPU_LANES / 2;
    while (half >= used && half > 0)
        half /= 2;
    for (; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

/* The lane sum in f32 of |x| over a block. */
static float block_sum(const cpu_block *block)
{
    float buffer[TILE], lane[CPU_LANES] = {0};
    int64_t count = block->rows * block->cols;
    for (int64_t at = 0; at < count; at += TILE) {
        int64_t n = cpu_min(TILE, count - at), i = 0;
        const float *x = cpu_block_tile(block, at, n, buffer);
        for (; i + CPU_LANES <= n; i += CPU_LANES)
            for (int l = 0; l < CPU_LANES; l++)
                lane[l] += absolute(x[i + l]);
        for (int l = 0; i + l < n; l++)
            lane[l] += absolute(x[i + l]);
    }
    return tree(lane, CPU_LANES);
}

/* The same for a block that has no more elements than there are lanes. */
static float small_block_sum(const cpu_block *block)
{
    float lane[CPU_LANES] = {0};
    for (int64_t r = 0, l = 0; r < block->rows; r++)
        for (int64_t c = 0; c < block->cols; c++, l++)
            lane[l] = absolute(block->w[r * block->stride + c]);
    return tree(lane, block->rows * block->cols);
}

static void keys_block_part(const void *user, int64_t first, int64_t last)
{
    const pare_keys_block_args *a = user;
    int64_t across = a->keys.shape[1];
    uint32_t *keys = a->keys.data;
    for (int64_t d = first; d < last; d++)
        for (int64_t c = 0; c < across; c++) {
            cpu_block block = cpu_block_at(&a->x, a->block_rows, a->block_cols, d, c);
            float sum =
                block.rows * block.cols <= CPU_LANES ? small_block_sum(&block) : block_sum(&block);
            keys[d * across + c] = pare__f32_bits(sum) & CPU_KEY_MASK;
        }
}

pare_status PARE_CPU(pare_cpu_keys_block)(pare_backend *be, const pare_keys_block_args *args)
{
    cpu_split(be, args->keys.shape[0], 1, keys_block_part, args);
    return PARE_OK;
}

/* ---- histogram ------------------------------------------------------------------------------- */

#define TABLES CPU_HIST_TABLES
#define BATCH 262140 /* elements counted before 16-bit counters could overflow: TABLES · 65535 */

static void count_high(const uint32_t *restrict x, int64_t n, uint16_t *restrict table)
{
    int64_t i = 0;
    for (; i + TABLES <= n; i += TABLES)
        for (int t = 0; t < TABLES; t++)
            table[t * PARE_SELECT_HIGH_BINS + (int64_t)((x[i + t] & CPU_KEY_MASK) >> 16)]++;
    for (; i < n; i++)
        table[(x[i] & CPU_KEY_MASK) >> 16]++;
}

/* Adds the tables to bins and clears them. */
static void merge_high(uint16_t *restrict table, int64_t *restrict bins)
{
    for (int b = 0; b < PARE_SELECT_HIGH_BINS; b++) {
        uint32_t sum = 0;
        for (int t = 0; t < TABLES; t++)
            sum += table[t * PARE_SELECT_HIGH_BINS + b];
        bins[b] += sum;
    }
    memset(table, 0, sizeof *table * TABLES * PARE_SELECT_HIGH_BINS);
}

void PARE_CPU(pare__cpu_hist_high)(const uint32_t *x, int64_t n, uint16_t *table, int64_t *bins)
{
    memset(table, 0, sizeof *table * TABLES * PARE_SELECT_HIGH_BINS);
    for (int64_t i = 0; i < n; i += BATCH) {
        count_high(x + i, cpu_min(BATCH, n - i), table);
        merge_high(table, bins);
    }
}

/* Matches are gathered without a branch, then counted in runs of equal keys. */
void PARE_CPU(pare__cpu_hist_low)(const uint32_t *x, int64_t n, uint32_t prefix, int64_t *bins)
{
    uint32_t found[TILE];
    for (int64_t i = 0; i < n; i += TILE) {
        int64_t size = cpu_min(TILE, n - i), count = 0;
        for (int64_t j = 0; j < size; j++) {
            uint32_t key = x[i + j] & CPU_KEY_MASK;
            found[count] = key & 0xffffu;
            count += key >> 16 == prefix;
        }
        for (int64_t j = 0, run; j < count; j += run) {
            for (run = 1; j + run < count && found[j + run] == found[j]; run++)
                ;
            bins[found[j]] += run;
        }
    }
}

pare_status PARE_CPU(pare_cpu_select_hist)(pare_backend *be, const pare_select_hist_args *args)
{
    int64_t n = args->x.shape[0];
    if (args->prefix >= 0) {
        PARE_CPU(pare__cpu_hist_low)(args->x.data, n, (uint32_t)args->prefix, args->bins.data);
        return PARE_OK;
    }
    void *table = NULL;
    PARE_TRY(pare__scratch(be, CPU_HIST_TABLE, &table));
    PARE_CPU(pare__cpu_hist_high)(args->x.data, n, table, args->bins.data);
    return PARE_OK;
}

/* ---- count ----------------------------------------------------------------------------------- */

pare_status PARE_CPU(pare_cpu_select_count)(pare_backend *be, const pare_select_count_args *args)
{
    (void)be;
    const uint32_t *x = args->x.data;
    int64_t n = args->x.shape[0], below = 0, equal = 0;
    for (int64_t i = 0; i < n; i += TILE) {
        int64_t size = cpu_min(TILE, n - i);
        uint32_t less = 0, same = 0;
        for (int64_t j = 0; j < size; j++) {
            uint32_t key = x[i + j] & CPU_KEY_MASK;
            less += key < args->threshold;
            same += key == args->threshold;
        }
        below += less;
        equal += same;
    }
    *args->below = below;
    *args->equal = equal;
    return PARE_OK;
}
