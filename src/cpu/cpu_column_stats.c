/* cpu_column_stats.c - the largest, the sum and the squares of every column, and histograms: one
 * pass, bound by memory.
 *
 * A matrix goes by blocks of rows, whose number is a constant of the shape; a block gives a partial
 * result for every column, and these are added in the order of the blocks. In a block eight rows at
 * a time are added to the columns' sums, so that these are fetched once for eight elements. The
 * square of an F32 is exact in F64: results are the same with every instruction set and number of
 * threads.
 */
#include "cpu_impl.h"

#include <math.h>

#define ROWS 8     /* at a time */
#define TILE 512   /* columns at a time where x is widened */
#define BLOCK 1024 /* rows of a block, at least, and */
#define ELEMENTS (1 << 18)

typedef struct columns {
    const pare_column_stats_args *args;
    int64_t R, K, rows; /* of a block */
    int64_t blocks;
    double *sum, *squares; /* [blocks, K], and behind them */
    float *absmax;
} columns;

/* What ROWS rows add. */
static void add_rows(const float *const *row, int64_t n, float *restrict absmax,
                     double *restrict sum, double *restrict squares)
{
    for (int64_t c = 0; c < n; c++) {
        float top = absmax[c];
        double s = sum[c], q = squares[c];
        for (int r = 0; r < ROWS; r++) {
            float x = fabsf(row[r][c]);
            top = x > top ? x : top;
            s += (double)x;
            q += (double)x * (double)x;
        }
        absmax[c] = top;
        sum[c] = s;
        squares[c] = q;
    }
}

static void add_block(const columns *w, int64_t block)
{
    static const float zeros[TILE]; /* rows that are not there: they add +0 */
    float buffer[ROWS][TILE];
    int64_t K = w->K, first = block * w->rows, last = cpu_min(first + w->rows, w->R);
    float *absmax = w->absmax + block * K;
    double *sum = w->sum + block * K, *squares = w->squares + block * K;
    memset(absmax, 0, (size_t)K * sizeof *absmax);
    memset(sum, 0, (size_t)K * sizeof *sum);
    memset(squares, 0, (size_t)K * sizeof *squares);
    for (int64_t i = first; i < last; i += ROWS)
        for (int64_t c = 0; c < K; c += TILE) {
            int64_t n = cpu_min(TILE, K - c);
            const float *row[ROWS];
            for (int r = 0; r < ROWS; r++)
                row[r] = i + r < last
                             ? PARE_CPU(pare__cpu_widen)(&w->args->x, (i + r) * K + c, n, buffer[r])
                             : zeros;
            add_rows(row, n, absmax + c, sum + c, squares + c);
        }
}

static void add_blocks(const void *user, int64_t first, int64_t last)
{
    for (int64_t block = first; block < last; block++)
        add_block(user, block);
}

/* The blocks' results behind what the columns had. */
static void join_columns(const void *user, int64_t first, int64_t last)
{
    const columns *w = user;
    float *absmax = w->args->absmax.data;
    double *sum = w->args->sum.data, *squares = w->args->squares.data;
    for (int64_t block = 0; block < w->blocks; block++)
        for (int64_t c = first; c < last; c++) {
            float top = w->absmax[block * w->K + c];
            absmax[c] = top > absmax[c] ? top : absmax[c];
            sum[c] += w->sum[block * w->K + c];
            squares[c] += w->squares[block * w->K + c];
        }
}

pare_status PARE_CPU(pare_cpu_column_stats)(pare_backend *be, const pare_column_stats_args *args)
{
    columns w = {.args = args, .R = args->x.shape[0], .K = args->x.shape[1]};
    if (w.R == 0 || w.K == 0)
        return PARE_OK;
    w.rows = cpu_ceil_div(ELEMENTS, w.K);
    w.rows = cpu_ceil_div(w.rows > BLOCK ? w.rows : BLOCK, ROWS) * ROWS;
    w.blocks = cpu_ceil_div(w.R, w.rows);
    int64_t places = w.blocks * w.K;
    void *memory = NULL;
    PARE_TRY(pare__scratch(be, (size_t)places * (2 * sizeof(double) + sizeof(float)), &memory));
    w.sum = memory;
    w.squares = w.sum + places;
    w.absmax = (float *)(w.squares + places);
    cpu_split(be, w.blocks, 1, add_blocks, &w);
    cpu_split(be, w.K, 64, join_columns, &w);
    return PARE_OK;
}

/* ---- histogram ------------------------------------------------------------------------------- */

#define COPIES                                                                                     \
    4 /* of the bins in turns: neighbours are often alike, and an addition takes time              \
       */
#define GRAIN 65536

typedef struct histogram {
    const pare_histogram_args *args;
    int64_t count, bins, parts;
    int64_t *copies; /* [parts, COPIES, bins] */
} histogram;

/* The bins of n elements. */
static void find_bins(const float *restrict x, int64_t n, float width, float last,
                      int32_t *restrict bin)
{
    for (int64_t i = 0; i < n; i++) {
        float q = fabsf(x[i]) / width;
        q = q < last ? q : last; /* NaN too */
        bin[i] = (int32_t)q;
    }
}

static void count_part(const void *user, int64_t first_part, int64_t last_part)
{
    const histogram *h = user;
    float buffer[TILE], last = (float)(h->bins - 1);
    int32_t bin[TILE];
    for (int64_t part = first_part; part < last_part; part++) {
        int64_t *copy = h->copies + part * COPIES * h->bins;
        int64_t first = h->count / h->parts * part,
                end = part + 1 < h->parts ? h->count / h->parts * (part + 1) : h->count;
        memset(copy, 0, (size_t)(COPIES * h->bins) * sizeof *copy);
        for (int64_t at = first; at < end; at += TILE) {
            int64_t n = cpu_min(TILE, end - at);
            const float *x = PARE_CPU(pare__cpu_widen)(&h->args->x, at, n, buffer);
            find_bins(x, n, h->args->width, last, bin);
            for (int64_t i = 0; i < n; i++)
                copy[i % COPIES * h->bins + bin[i]]++;
        }
    }
}

pare_status PARE_CPU(pare_cpu_histogram)(pare_backend *be, const pare_histogram_args *args)
{
    histogram h = {.args = args, .bins = args->bins.shape[0]};
    h.count = pare_tensor_count(&args->x);
    h.parts = cpu_min(be->threads, cpu_ceil_div(h.count, GRAIN));
    if (h.count == 0)
        return PARE_OK;
    int64_t *bins = args->bins.data, copies = h.parts * COPIES;
    void *memory = NULL;
    PARE_TRY(pare__scratch(be, (size_t)(copies * h.bins) * sizeof(int64_t), &memory));
    h.copies = memory;
    cpu_split(be, h.parts, 1, count_part, &h);
    for (int64_t k = 0; k < copies; k++)
        for (int64_t i = 0; i < h.bins; i++)
            bins[i] += h.copies[k * h.bins + i];
    return PARE_OK;
}
