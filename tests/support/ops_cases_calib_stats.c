/* Rows of the statistics of a layer's inputs, and of what prepares inputs for them. */
#include "ops_harness.h"

#include <math.h>

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static pare_tensor matrix(ops_run *run, ops_kind kind, pare_dtype dtype, int64_t rows, int64_t cols)
{
    size_t shift = (size_t)ops_below(run, 3);
    return pare_matrix(ops_floats(run, kind, dtype, rows * cols, shift), dtype, rows, cols);
}

/* ---- gram ------------------------------------------------------------------------------------ */

/* Around 32, 64, 128, 256: edges of tiles and panels. */
static const ops_shape grams[] = {{0, 5},     {5, 0},    {1, 1},    {1, 17},  {17, 1},   {7, 3},
                                  {2, 8},     {31, 33},  {64, 64},  {65, 63}, {33, 127}, {16, 128},
                                  {40, 129},  {300, 17}, {3, 255},  {8, 256}, {9, 257},  {5, 320},
                                  {20, 511},  {24, 512}, {31, 513}, {4, 769}, {1, 600},  {2, 1100},
                                  {2100, 20}, {4099, 9}, {-1, -1}};

/* Inf times the 0 that fills a pair of BF16 terms is NaN: there is none among what is bad. */
static void forget_inf(const pare_tensor *x)
{
    for (int64_t i = 0; i < pare_tensor_count(x); i++)
        if (x->dtype == PARE_F32 && isinf(((float *)x->data)[i]))
            ((float *)x->data)[i] = NAN;
        else if (x->dtype == PARE_BF16 && (((uint16_t *)x->data)[i] & 0x7fffu) == 0x7f80u)
            ((uint16_t *)x->data)[i] = 0x7fc0u;
}

static void gram_case(ops_run *run, const ops_shape *s, pare_dtype dtype, ops_kind kind)
{
    int64_t K = s->cols;
    pare_gram_args args = {.x = matrix(run, kind, dtype, s->rows, K),
                           .g = matrix(run, OPS_NORMAL, PARE_F32, K, K)};
    forget_inf(&args.x);
    ops_output g = {.pointer = offsetof(pare_gram_args, g.data),
                    .bytes = (size_t)(K * K) * 4,
                    .align = 4,
                    .keeps = true,
                    .lower = true,
                    .tolerance = 1e-5,
                    .dtype = PARE_F32};
    ops_expect(run, PARE_OP_gram, &args, sizeof args, (ops_output[]){g, {0}});
    ops_next(run);
}

void ops_cases_gram(ops_run *run)
{
    for (const ops_shape *s = grams; s->rows >= 0; s++)
        for (int d = 0; d < 2; d++)
            gram_case(run, s, acts[d], OPS_NORMAL);
    for (int d = 0; d < 2; d++) {
        gram_case(run, &(ops_shape){3, 300}, acts[d], OPS_BAD); /* NaN stays in its columns */
        gram_case(run, &(ops_shape){2, 70}, acts[d], OPS_BAD);
        gram_case(run, &(ops_shape){50, 70}, acts[d], OPS_ZEROS);
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* Edges of vectors, of eight rows, of a tile of columns and of a block of rows. */
static const ops_shape columns[] = {{8, 512},    {9, 511},    {16, 514},  {1023, 5}, {1024, 300},
                                    {1025, 257}, {2500, 260}, {33, 1100}, {-1, -1}};

static void column_stats_case(ops_run *run, const ops_shape *s, pare_dtype dtype, ops_kind kind)
{
    int64_t K = s->cols;
    double *sums[2];
    for (int i = 0; i < 2; i++) {
        sums[i] = ops_memory(run, (size_t)K * 8, 8, (size_t)i);
        for (int64_t j = 0; j < K; j++)
            sums[i][j] = (double)ops_below(run, 1000) * 0.5;
    }
    float *top = ops_memory(run, (size_t)K * 4, 4, 1);
    for (int64_t j = 0; j < K; j++)
        top[j] = (float)ops_below(run, 100) * 0.01f;
    pare_column_stats_args args = {.x = matrix(run, kind, dtype, s->rows, K),
                                   .absmax = pare_vector(top, PARE_F32, K),
                                   .sum = pare_vector(sums[0], PARE_F64, K),
                                   .squares = pare_vector(sums[1], PARE_F64, K)};
    ops_output absmax = {.pointer = offsetof(pare_column_stats_args, absmax.data),
                         .bytes = (size_t)K * 4,
                         .align = 4,
                         .keeps = true};
    ops_output sum = {.pointer = offsetof(pare_column_stats_args, sum.data),
                      .bytes = (size_t)K * 8,
                      .align = 8,
                      .keeps = true,
                      .tolerance = 1e-11,
                      .dtype = PARE_F64};
    ops_output squares = sum;
    squares.pointer = offsetof(pare_column_stats_args, squares.data);
    ops_expect(run, PARE_OP_column_stats, &args, sizeof args,
               (ops_output[]){absmax, sum, squares, {0}});
    ops_next(run);
}

void ops_cases_column_stats(ops_run *run)
{
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = l ? columns : ops_shapes; s->rows >= 0; s++)
            for (int d = 0; d < 2; d++)
                column_stats_case(run, s, acts[d], OPS_NORMAL);
    for (int kind = OPS_GRID; kind < OPS_KINDS; kind++)
        for (int d = 0; d < 2; d++)
            column_stats_case(run, &(ops_shape){40, 83}, acts[d], (ops_kind)kind);
    column_stats_case(run, &(ops_shape){270001, 1}, PARE_BF16, OPS_NORMAL); /* several blocks */
    column_stats_case(run, &(ops_shape){90000, 3}, PARE_F32, OPS_NORMAL);
}

static void histogram_case(ops_run *run, int64_t count, pare_dtype dtype, ops_kind kind, int64_t n,
                           float width)
{
    pare_histogram_args args = {.x = matrix(run, kind, dtype, 1, count), .width = width};
    int64_t *bins = ops_memory(run, (size_t)n * 8, 8, 1);
    for (int64_t i = 0; i < n; i++)
        bins[i] = ops_below(run, 1000) << (i % 40);
    args.bins = pare_vector(bins, PARE_I64, n);
    ops_output out = {.pointer = offsetof(pare_histogram_args, bins.data),
                      .bytes = (size_t)n * 8,
                      .align = 8,
                      .keeps = true};
    ops_expect(run, PARE_OP_histogram, &args, sizeof args, (ops_output[]){out, {0}});
    ops_next(run);
}

void ops_cases_histogram(ops_run *run)
{
    static const int64_t bins[] = {1, 2, 7, 255, 2048, 4096, 20000};
    for (const int64_t *n = ops_sizes; *n >= 0; n++)
        for (int d = 0; d < 2; d++)
            histogram_case(run, *n, acts[d], OPS_NORMAL, bins[ops_below(run, 7)], 1e-4f);
    for (int b = 0; b < 7; b++)
        for (int kind = 0; kind < OPS_KINDS; kind++)
            histogram_case(run, 5000, acts[kind % 2], (ops_kind)kind, bins[b],
                           b % 2 ? 0.125f : 0.0037f);
    histogram_case(run, 300, PARE_F32, OPS_WIDE, 64, 0x1p-149f); /* quotients overflow */
    histogram_case(run, 300, PARE_F32, OPS_TINY, 64, 0x1p-140f);
    histogram_case(run, 300, PARE_F32, OPS_WIDE, 64, 3e38f);
    histogram_case(run, 300001, PARE_BF16, OPS_EQUAL, 2048, 0.01f); /* all in one bin */
}

/* ---- what prepares inputs -------------------------------------------------------------------- */

typedef struct patches_case {
    int64_t shape[4];
    pare_window window;
} patches_case;

#define SQUARE(k, s, d, p)                                                                         \
    {                                                                                              \
        {k, k}, {s, s}, {d, d}, p, p, p, p                                                         \
    }

static const patches_case windows[] = {
    {{0, 4, 4, 8}, SQUARE(2, 2, 1, 0)},
    {{2, 4, 4, 0}, SQUARE(2, 2, 1, 0)},
    {{1, 1, 1, 1}, SQUARE(1, 1, 1, 0)},
    {{2, 5, 4, 17}, SQUARE(1, 1, 1, 0)}, /* x itself */
    {{2, 7, 5, 16}, SQUARE(1, 2, 1, 0)}, /* every second place */
    {{2, 8, 8, 3}, SQUARE(3, 1, 1, 1)},
    {{3, 9, 7, 17}, SQUARE(3, 2, 1, 1)},
    {{2, 9, 8, 5}, SQUARE(7, 2, 1, 3)},
    {{1, 6, 7, 64}, SQUARE(3, 1, 1, 1)},
    {{1, 6, 7, 8}, {{6, 7}, {1, 1}, {1, 1}, 0, 0, 0, 0}},  /* one window */
    {{1, 4, 3, 15}, {{5, 3}, {3, 1}, {1, 1}, 2, 0, 1, 2}}, /* uneven pads */
    {{2, 3, 3, 5}, SQUARE(1, 1, 1, 2)},                    /* windows of padding alone */
    {{2, 0, 3, 4}, SQUARE(2, 1, 1, 2)},                    /* nothing but padding */
    {{2, 9, 8, 9}, SQUARE(3, 1, 2, 2)},                    /* dilated */
    {{1, 7, 12, 16}, {{2, 3}, {2, 1}, {3, 2}, 1, 3, 2, 0}},
    {{1, 2, 2, 4}, SQUARE(2, 1, 5, 3)}, /* jumps over the image */
    {{2, 16, 16, 16}, SQUARE(16, 16, 1, 0)},
    {{3, 14, 14, 33}, SQUARE(3, 1, 1, 1)},
    {{1, 3, 2, 1000}, SQUARE(3, 1, 1, 1)}, /* more channels than a device gathers at once */
    {{1, 2, 2, 1021}, SQUARE(3, 1, 1, 1)},
    {{1, 41, 40, 2}, SQUARE(40, 1, 1, 0)}, /* more places */
};

void ops_cases_patches(ops_run *run)
{
    for (size_t k = 0; k < sizeof windows / sizeof *windows; k++)
        for (int d = 0; d < 2; d++)
            for (int kind = OPS_NORMAL; kind <= OPS_BAD; kind += OPS_BAD) {
                const int64_t *n = windows[k].shape;
                const pare_window *w = &windows[k].window;
                int64_t rows = n[0] * pare_window_out(w, 0, n[1]) * pare_window_out(w, 1, n[2]);
                int64_t cols = n[3] * w->kernel[0] * w->kernel[1];
                pare_patches_args args = {
                    .x = {.dtype = acts[d], .rank = 4, .shape = {n[0], n[1], n[2], n[3]}},
                    .y = pare_matrix(NULL, acts[d], rows, cols),
                    .window = *w};
                args.x.data = ops_floats(run, (ops_kind)kind, acts[d], pare_tensor_count(&args.x),
                                         (size_t)ops_below(run, 3));
                ops_expect(run, PARE_OP_patches, &args, sizeof args,
                           (ops_output[]){{.pointer = offsetof(pare_patches_args, y.data),
                                           .bytes = (size_t)(rows * cols) * element(acts[d]),
                                           .align = element(acts[d])},
                                          {0}});
                ops_next(run);
            }
}

static void keep_rows_case(ops_run *run, const ops_shape *s, pare_dtype dtype, ops_kind kind,
                           bool in_place)
{
    size_t bytes = (size_t)(s->rows * s->cols) * element(dtype);
    uint8_t *keep = ops_bytes(run, s->rows, (size_t)ops_below(run, 3));
    for (int64_t r = 0; r < s->rows; r++) /* any byte but 0 keeps */
        keep[r] = (uint8_t)(ops_below(run, 2) ? keep[r] | 1u << r % 8 : 0);
    pare_keep_rows_args args = {.x = matrix(run, kind, dtype, s->rows, s->cols),
                                .y = pare_matrix(NULL, dtype, s->rows, s->cols),
                                .keep = pare_vector(keep, PARE_U8, s->rows)};
    ops_expect(run, PARE_OP_keep_rows, &args, sizeof args,
               (ops_output[]){{.pointer = offsetof(pare_keep_rows_args, y.data),
                               .bytes = bytes,
                               .align = element(dtype),
                               .in_place = in_place,
                               .input = offsetof(pare_keep_rows_args, x.data)},
                              {0}});
    ops_next(run);
}

void ops_cases_keep_rows(ops_run *run)
{
    static const ops_shape wide[] = {{300, 8}, {129, 40}, {700, 3}, {9, 4099}, {-1, -1}};
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = l ? wide : ops_shapes; s->rows >= 0; s++)
            for (int what = 0; what < 4; what++)
                keep_rows_case(run, s, acts[what & 1], what > 1 ? OPS_BAD : OPS_NORMAL, what > 1);
}

static void quant_fixed_case(ops_run *run, int64_t n, pare_dtype dtype, ops_kind kind, float scale)
{
    pare_quant_fixed_args args = {
        .x = matrix(run, kind, dtype, 1, n), .y = pare_vector(NULL, dtype, n), .scale = scale};
    ops_output y = {.pointer = offsetof(pare_quant_fixed_args, y.data),
                    .bytes = (size_t)n * element(dtype),
                    .align = element(dtype),
                    .in_place = kind % 2,
                    .input = offsetof(pare_quant_fixed_args, x.data)};
    if (kind == OPS_BAD) { /* of NaN any will do */
        y.tolerance = 1e-30;
        y.dtype = dtype;
    }
    ops_expect(run, PARE_OP_quant_fixed, &args, sizeof args, (ops_output[]){y, {0}});
    ops_next(run);
}

void ops_cases_quant_fixed(ops_run *run)
{
    for (const int64_t *n = ops_sizes; *n >= 0; n++)
        for (int d = 0; d < 2; d++)
            quant_fixed_case(run, *n, acts[d], OPS_NORMAL, 0.0013f);
    static const float scales[] = {0.25f, 0.1f, 1e-38f, 0x1p-149f, 1e-3f, 7.0f, 3e38f};
    for (int s = 0; s < 7; s++)
        for (int kind = 0; kind < OPS_KINDS; kind++)
            for (int d = 0; d < 2; d++)
                quant_fixed_case(run, 400 + s, acts[d], (ops_kind)kind, scales[s]);
}
