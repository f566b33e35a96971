/* cpu_sum_squares.c - the sum of squares of a vector, with or without a mask: gradient norms. Bound
 * by memory.
 *
 * Chunks of a fixed size, each summed in sixteen lanes of f64 that are then added as a binary tree;
 * the chunks' sums are added in their order. Squares of f32 are exact in f64, so the result is the
 * same with every instruction set and number of threads.
 */
#include "cpu_nn.h"

#define CHUNK 4096

typedef struct job {
    const pare_sum_squares_args *args;
    double *part; /* one a chunk */
} job;

static double sum_chunk(const float *x, int64_t n)
{
    double lane[CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int k = 0; k < CPU_LANES; k++)
            lane[k] += (double)x[i + k] * (double)x[i + k];
    for (int k = 0; i + k < n; k++)
        lane[k] += (double)x[i + k] * (double)x[i + k];
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

/* What the mask keeps goes through a buffer in the first cache: in one loop gcc 12 gets the way
 * from bytes to f64 wrong for AVX2. */
static double sum_masked(const float *restrict x, const uint8_t *restrict mask, int64_t n)
{
    float kept[CHUNK];
    for (int64_t i = 0; i < n; i++)
        kept[i] = mask[i] ? x[i] : 0.0f;
    return sum_chunk(kept, n);
}

static void sum_part(const void *user, int64_t first, int64_t last)
{
    const job *j = user;
    const float *x = j->args->x.data;
    const uint8_t *mask = j->args->mask.data;
    for (int64_t chunk = first; chunk < last; chunk++) {
        int64_t at = chunk * CHUNK, n = cpu_min(CHUNK, j->args->x.shape[0] - at);
        j->part[chunk] = mask ? sum_masked(x + at, mask + at, n) : sum_chunk(x + at, n);
    }
}

pare_status PARE_CPU(pare_cpu_sum_squares)(pare_backend *be, const pare_sum_squares_args *args)
{
    int64_t chunks = cpu_ceil_div(args->x.shape[0], CHUNK);
    double sum = 0, *out = args->sum.data;
    void *part = NULL;
    PARE_TRY(pare__scratch(be, (size_t)chunks * sizeof(double), &part));
    job j = {.args = args, .part = part};
    cpu_split(be, chunks, 1, sum_part, &j);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        sum += j.part[chunk];
    *out = args->accumulate ? *out + sum : sum;
    return PARE_OK;
}
