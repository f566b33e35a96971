/* cpu_colsum.c - the sums of a matrix's columns: a bias's gradient. Bound by memory.
 *
 * Rows are cut in blocks of a fixed size; each block's sums are one row of a matrix in scratch,
 * which is then added up block by block in f64. So the order of the sums never depends on the
 * threads.
 */
#include "cpu_nn.h"

#define BLOCK 256 /* rows */
#define TILE 8    /* vectors of columns that stay in registers while the rows pass */

typedef struct colsum_job {
    const pare_colsum_args *args;
    float *part; /* [blocks, N] */
} colsum_job;

/* part[j + …] = sums over rows of `tile` vectors of columns from j on. */
CPU_INLINE void sum_tile(const pare_tensor *x, pare_dtype dtype, int64_t row, int64_t rows,
                         int64_t j, int tile, float *part)
{
    int64_t N = x->shape[1];
    cpu_v sum[TILE];
    for (int v = 0; v < tile; v++)
        sum[v] = cpu_splat(0.0f);
    for (int64_t r = row; r < row + rows; r++)
        for (int v = 0; v < tile; v++)
            sum[v] += cpu_vload(x->data, dtype, r * N + j + v * CPU_V);
    for (int v = 0; v < tile; v++)
        cpu_vstore(part, PARE_F32, j + v * CPU_V, sum[v]);
}

CPU_INLINE void sum_block(const pare_tensor *x, pare_dtype dtype, int64_t row, int64_t rows,
                          float *part)
{
    int64_t N = x->shape[1], j = 0;
    for (; j + TILE * CPU_V <= N; j += TILE * CPU_V)
        sum_tile(x, dtype, row, rows, j, TILE, part);
    for (; j + CPU_V <= N; j += CPU_V)
        sum_tile(x, dtype, row, rows, j, 1, part);
    if (j == N)
        return;
    cpu_v sum = cpu_splat(0.0f);
    for (int64_t r = row; r < row + rows; r++)
        sum += cpu_vload_n(x->data, dtype, r * N + j, N - j, 0.0f);
    cpu_vstore_n(part, PARE_F32, j, N - j, sum);
}

static void colsum_part(const void *user, int64_t first, int64_t last)
{
    const colsum_job *job = user;
    const pare_tensor *x = &job->args->x;
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * BLOCK, rows = cpu_min(BLOCK, x->shape[0] - row);
        float *part = job->part + block * x->shape[1];
        if (x->dtype == PARE_F32)
            sum_block(x, PARE_F32, row, rows, part);
        else
            sum_block(x, PARE_BF16, row, rows, part);
    }
}

static void merge_part(const void *user, int64_t first, int64_t last)
{
    enum { COLUMNS = 64 };
    const colsum_job *job = user;
    int64_t N = job->args->x.shape[1], blocks = cpu_ceil_div(job->args->x.shape[0], BLOCK);
    float *y = job->args->y.data;
    for (int64_t j = first; j < last; j += COLUMNS) {
        double sum[COLUMNS] = {0};
        int64_t n = cpu_min(COLUMNS, last - j);
        for (int64_t block = 0; block < blocks; block++)
            for (int64_t i = 0; i < n; i++)
                sum[i] += (double)job->part[block * N + j + i];
        for (int64_t i = 0; i < n; i++)
            y[j + i] = (float)(job->args->accumulate ? (double)y[j + i] + sum[i] : sum[i]);
    }
}

pare_status PARE_CPU(pare_cpu_colsum)(pare_backend *be, const pare_colsum_args *args)
{
    int64_t R = args->x.shape[0], N = args->x.shape[1], blocks = cpu_ceil_div(R, BLOCK);
    void *part = NULL;
    PARE_TRY(pare__scratch(be, (size_t)(blocks * N) * sizeof(float), &part));
    colsum_job job = {.args = args, .part = part};
    cpu_split(be, blocks, 1, colsum_part, &job);
    cpu_split(be, N, 1024, merge_part, &job);
    return PARE_OK;
}
