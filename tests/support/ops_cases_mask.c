/* Rows of keys, selection and masks. */
#include "ops_harness.h"

static const pare_dtype weights[] = {PARE_F32, PARE_F16, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

static int64_t mask_bytes(int64_t cols)
{
    return (cols + 7) / 8;
}

/* A matrix of keys, or of weights whose signs do not count; x's own largest key in a while. */
static pare_tensor keys_or_weights(ops_run *run, int turn, int64_t rows, int64_t cols)
{
    static const ops_kind kinds[] = {OPS_ZEROS, OPS_GRID, OPS_NORMAL, OPS_EQUAL, OPS_BAD, OPS_TINY};
    size_t shift = (size_t)turn % 2;
    if (turn % 7 == 0)
        return pare_matrix(ops_keys(run, rows * cols, shift), PARE_U32, rows, cols);
    return pare_matrix(ops_floats(run, kinds[turn % 7 - 1], PARE_F32, rows * cols, shift), PARE_F32,
                       rows, cols);
}

static uint32_t some_key(ops_run *run, const pare_tensor *x)
{
    int64_t n = pare_tensor_count(x);
    if (n == 0)
        return 5;
    return ((const uint32_t *)x->data)[ops_below(run, n)] & 0x7fffffffu;
}

/* ---- keys ------------------------------------------------------------------------------------ */

void ops_cases_keys(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int kind = 0; kind < OPS_KINDS; kind++)
            for (const int64_t *n = ops_sizes; *n >= 0; n++) {
                void *x = ops_floats(run, (ops_kind)kind, weights[d], *n, (size_t)(*n + 1) % 3);
                pare_keys_args args = {.x = pare_vector(x, weights[d], *n),
                                       .keys = pare_vector(NULL, PARE_U32, *n)};
                ops_expect(
                    run, PARE_OP_keys, &args, sizeof args,
                    (ops_output[]){{offsetof(pare_keys_args, keys.data), (size_t)*n * 4, 4, false},
                                   {0}});
                ops_next(run);
            }
    float *x = ops_memory(run, 3 * sizeof *x, 4, 0); /* in place */
    x[0] = -1.0f;
    x[1] = 0.5f;
    x[2] = -0.0f;
    pare_keys_args args = {.x = pare_vector(x, PARE_F32, 3), .keys = pare_vector(x, PARE_U32, 3)};
    assert_ok(ops_call(run, PARE_OP_keys, ops_backend(run, 0), &args));
    assert_true(x[0] == 1.0f && x[1] == 0.5f);
    ops_next(run);
}

void ops_cases_keys_random(ops_run *run)
{
    for (const int64_t *n = ops_sizes; *n >= 0; n++) {
        pare_keys_random_args args = {.seed = ops_random(run),
                                      .stream = ops_random(run) >> 50,
                                      .first = ops_below(run, INT64_C(1) << 40),
                                      .keys = pare_vector(NULL, PARE_U32, *n)};
        ops_expect(
            run, PARE_OP_keys_random, &args, sizeof args,
            (ops_output[]){{offsetof(pare_keys_random_args, keys.data), (size_t)*n * 4, 4, false},
                           {0}});
    }
}

static const ops_shape blocks[] = {{1, 1},  {1, 4},   {1, 5},   {2, 3},    {4, 4},  {16, 16},
                                   {3, 64}, {1, 128}, {8, 100}, {64, 600}, {-1, -1}};

void ops_cases_keys_block(ops_run *run)
{
    for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
        for (const ops_shape *b = blocks; b->rows > 0; b++) {
            ops_kind kind = (ops_kind)ops_below(run, OPS_WIDE);
            float *x = ops_floats(run, kind, PARE_F32, s->rows * s->cols, 1);
            int64_t down = (s->rows + b->rows - 1) / b->rows;
            int64_t across = (s->cols + b->cols - 1) / b->cols;
            pare_keys_block_args args = {.x = pare_matrix(x, PARE_F32, s->rows, s->cols),
                                         .block_rows = b->rows,
                                         .block_cols = b->cols,
                                         .keys = pare_matrix(NULL, PARE_U32, down, across)};
            ops_expect(run, PARE_OP_keys_block, &args, sizeof args,
                       (ops_output[]){{offsetof(pare_keys_block_args, keys.data),
                                       (size_t)(down * across) * 4, 4, false},
                                      {0}});
            ops_next(run);
        }
}

/* ---- selection ------------------------------------------------------------------------------- */

static void hist_case(ops_run *run, pare_tensor x, int32_t prefix)
{
    int64_t n = prefix < 0 ? PARE_SELECT_HIGH_BINS : PARE_SELECT_LOW_BINS;
    int64_t *bins = ops_memory(run, (size_t)n * 8, 8, 1);
    for (int64_t i = 0; i < n; i++)
        bins[i] = i;
    pare_select_hist_args args = {.x = pare_vector(x.data, x.dtype, x.shape[0] * x.shape[1]),
                                  .prefix = prefix,
                                  .bins = pare_vector(bins, PARE_I64, n)};
    ops_expect(
        run, PARE_OP_select_hist, &args, sizeof args,
        (ops_output[]){{offsetof(pare_select_hist_args, bins.data), (size_t)n * 8, 8, true}, {0}});
}

void ops_cases_select_hist(ops_run *run)
{
    for (int turn = 0; turn < 7; turn++)
        for (const int64_t *n = ops_sizes; *n >= 0; n++) {
            if (*n > 300 && *n != 1023 && *n != 70001)
                continue;
            pare_tensor x = keys_or_weights(run, turn, 1, *n);
            hist_case(run, x, -1);
            hist_case(run, x, (int32_t)(some_key(run, &x) >> 16));
            hist_case(run, x, 0);
            ops_next(run);
        }
    /* More equal keys than a 16-bit counter holds. */
    int64_t many = 600001;
    float *x = ops_memory(run, (size_t)many * 4, 4, 0);
    for (int64_t i = 0; i < many; i++)
        x[i] = -0.5f;
    hist_case(run, pare_matrix(x, PARE_F32, 1, many), -1);
    hist_case(run, pare_matrix(x, PARE_F32, 1, many), 0x3f00);
    ops_next(run);
}

static void count_case(ops_run *run, pare_tensor x, uint32_t threshold)
{
    pare_select_count_args args = {.x = pare_vector(x.data, x.dtype, x.shape[0] * x.shape[1]),
                                   .threshold = threshold};
    ops_expect(run, PARE_OP_select_count, &args, sizeof args,
               (ops_output[]){{offsetof(pare_select_count_args, below), 8, 8, false},
                              {offsetof(pare_select_count_args, equal), 8, 8, false},
                              {0}});
}

void ops_cases_select_count(ops_run *run)
{
    for (int turn = 0; turn < 7; turn++)
        for (const int64_t *n = ops_sizes; *n >= 0; n++) {
            pare_tensor x = keys_or_weights(run, turn, 1, *n);
            for (int t = 0; t < 4; t++)
                count_case(run, x, t == 0 ? 0 : t == 1 ? 0xffffffffu : some_key(run, &x));
            ops_next(run);
        }
    int64_t many = 300001; /* more than a device's grid takes at once */
    count_case(run, pare_matrix(ops_floats(run, OPS_GRID, PARE_F32, many, 0), PARE_F32, 1, many),
               0x3f800000u);
    ops_next(run);
}

static void kth_case(ops_run *run, pare_tensor x, int64_t k)
{
    pare_select_kth_args args = {.x = pare_vector(x.data, x.dtype, x.shape[0] * x.shape[1]),
                                 .k = k};
    ops_expect(run, PARE_OP_select_kth, &args, sizeof args,
               (ops_output[]){{offsetof(pare_select_kth_args, threshold), 4, 4, false},
                              {offsetof(pare_select_kth_args, below), 8, 8, false},
                              {offsetof(pare_select_kth_args, equal), 8, 8, false},
                              {0}});
}

static void kth_cases(ops_run *run, pare_tensor x, int64_t n)
{
    kth_case(run, x, 1);
    kth_case(run, x, (n + 1) / 2);
    kth_case(run, x, 1 + ops_below(run, n));
    kth_case(run, x, n);
    ops_next(run);
}

/* What a device's sample of so many keys at equal distances would be misled by: orders, two values
 * that share the middle, and keys that are unlike the others just where it looks. */
#define SAMPLED 8192

static void kth_hard_cases(ops_run *run, int64_t n)
{
    for (int what = 0; what < 6; what++) {
        uint32_t *x = ops_keys(run, n, (size_t)what % 2);
        for (int64_t i = 0; i < n; i++)
            x[i] = what == 0   ? (uint32_t)i * 12345u
                   : what == 1 ? (uint32_t)(n - i) * 12345u
                   : what == 2 ? (i % 2 == 0 ? 7u : 0x7fffffffu)
                   : what == 3 ? (uint32_t)(i * i % 3) * 0x30000000u
                               : (uint32_t)ops_random(run) >> 1;
        for (int64_t i = 0; i < SAMPLED && what >= 4; i++)
            x[i * n / SAMPLED] = what == 4 ? 5u : i % 2 == 0 ? 0u : 0x7fffffffu;
        kth_cases(run, pare_matrix(x, PARE_U32, 1, n), n);
    }
}

void ops_cases_select_kth(ops_run *run)
{
    for (int turn = 0; turn < 7; turn++)
        for (const int64_t *n = ops_sizes + 1; *n >= 0; n++)
            if (turn == 0 || *n > 4000 || *n % 8 == turn % 3)
                kth_cases(run, keys_or_weights(run, turn, 1, *n), *n);
    kth_hard_cases(run, SAMPLED);
    kth_hard_cases(run, SAMPLED + 1);
    kth_hard_cases(run, 150001);
}

static void mask_select_case(ops_run *run, pare_tensor x, uint32_t threshold, int64_t ties)
{
    int64_t rows = x.shape[0], bytes = mask_bytes(x.shape[1]);
    pare_mask_select_args args = {.x = x,
                                  .threshold = threshold,
                                  .ties = ties,
                                  .mask = pare_matrix(NULL, PARE_U8, rows, bytes)};
    ops_expect(
        run, PARE_OP_mask_select, &args, sizeof args,
        (ops_output[]){
            {offsetof(pare_mask_select_args, mask.data), (size_t)(rows * bytes), 1, false}, {0}});
}

/* Of more than one tile of a device's kernels, with whole bytes a row and without. */
static const ops_shape tiled[] = {{9, 4096}, {37, 1001}, {16400, 1}, {-1, -1}};

void ops_cases_mask_select(ops_run *run)
{
    static const int64_t ties[] = {0, 1, 3, 40, INT64_MAX};
    for (int turn = 0; turn < 7; turn++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++) {
            pare_tensor x = keys_or_weights(run, turn, s->rows, s->cols);
            for (int t = 0; t < 7; t++)
                mask_select_case(run, x,
                                 t == 5   ? 0
                                 : t == 6 ? 0x80000000u
                                          : some_key(run, &x),
                                 ties[t % 5]);
            ops_next(run);
        }
    for (const ops_shape *s = tiled; s->rows >= 0; s++)
        for (size_t shift = 0; shift < 2; shift++) {
            int64_t n = s->rows * s->cols;
            pare_tensor x = pare_matrix(ops_floats(run, OPS_ZEROS, PARE_F32, n, shift), PARE_F32,
                                        s->rows, s->cols);
            mask_select_case(run, x, 0, n / 4);
            mask_select_case(run, x, 0x3f800000u, n / 16);
            mask_select_case(run, x, 0x3f800000u, n - 1);
            ops_next(run);
        }
}

/* ---- masks ----------------------------------------------------------------------------------- */

static void mask_nm_case(ops_run *run, int n, int m, pare_tensor x)
{
    int64_t rows = x.shape[0], bytes = mask_bytes(x.shape[1]);
    pare_mask_nm_args args = {
        .x = x, .n = n, .m = m, .mask = pare_matrix(NULL, PARE_U8, rows, bytes)};
    ops_expect(
        run, PARE_OP_mask_nm, &args, sizeof args,
        (ops_output[]){{offsetof(pare_mask_nm_args, mask.data), (size_t)(rows * bytes), 1, false},
                       {0}});
    ops_next(run);
}

void ops_cases_mask_nm(ops_run *run)
{
    static const int patterns[][2] = {{2, 4},  {1, 4},  {0, 4},   {4, 4},     {4, 8},    {3, 8},
                                      {0, 1},  {1, 1},  {1, 2},   {1, 3},     {2, 5},    {8, 16},
                                      {7, 17}, {9, 31}, {16, 64}, {100, 255}, {128, 256}};
    static const int64_t groups[] = {0, 1, 2, 3, 7, 15, 16, 17, 33};
    /* Rows of more than 2,048 columns; aligned as a device's memory is. */
    static const int64_t wide[][3] = {{2, 4, 525},  {4, 8, 260},    {2, 5, 823},
                                      {8, 16, 129}, {100, 255, 11}, {128, 256, 9}};
    for (int turn = 0; turn < 7; turn++)
        for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++)
            for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
                int64_t rows = 1 + (int64_t)(p + g) % 4, cols = groups[g] * patterns[p][1];
                if (patterns[p][1] <= 64 || (g <= 4 && turn <= 2))
                    mask_nm_case(run, patterns[p][0], patterns[p][1],
                                 keys_or_weights(run, turn, rows, cols));
            }
    for (size_t p = 0; p < sizeof wide / sizeof wide[0]; p++) {
        int64_t cols = wide[p][1] * wide[p][2];
        void *x = ops_floats(run, OPS_GRID, PARE_F32, 3 * cols, 0);
        mask_nm_case(run, (int)wide[p][0], (int)wide[p][1], pare_matrix(x, PARE_F32, 3, cols));
    }
}

void ops_cases_mask_expand(ops_run *run)
{
    for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
        for (const ops_shape *b = blocks; b->rows > 0; b++) {
            int64_t down = (s->rows + b->rows - 1) / b->rows, bytes = mask_bytes(s->cols);
            int64_t across = (s->cols + b->cols - 1) / b->cols;
            pare_mask_expand_args args = {.blocks = pare_matrix(ops_mask(run, down, across, 128, 1),
                                                                PARE_U8, down, mask_bytes(across)),
                                          .block_rows = b->rows,
                                          .block_cols = b->cols,
                                          .rows = s->rows,
                                          .cols = s->cols,
                                          .mask = pare_matrix(NULL, PARE_U8, s->rows, bytes)};
            ops_expect(run, PARE_OP_mask_expand, &args, sizeof args,
                       (ops_output[]){{offsetof(pare_mask_expand_args, mask.data),
                                       (size_t)(s->rows * bytes), 1, false},
                                      {0}});
            ops_next(run);
        }
}

void ops_cases_mask_nonzero(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int kind = 0; kind < OPS_KINDS; kind++)
            for (const ops_shape *s = ops_shapes; s->rows >= 0; s++) {
                void *x = ops_floats(run, (ops_kind)kind, weights[d], s->rows * s->cols,
                                     (size_t)kind % 2);
                int64_t bytes = mask_bytes(s->cols);
                pare_mask_nonzero_args args = {.x = pare_matrix(x, weights[d], s->rows, s->cols),
                                               .mask = pare_matrix(NULL, PARE_U8, s->rows, bytes)};
                ops_output mask = {offsetof(pare_mask_nonzero_args, mask.data),
                                   (size_t)(s->rows * bytes), 1, false};
                ops_output count = {offsetof(pare_mask_nonzero_args, count), 8, 8, false};
                ops_expect(run, PARE_OP_mask_nonzero, &args, sizeof args,
                           (ops_output[]){mask, count, {0}});
                ops_expect(run, PARE_OP_mask_nonzero, &args, sizeof args,
                           (ops_output[]){mask, {0}});
                ops_next(run);
            }
}

static const int densities[] = {0, 20, 128, 240, 256};

void ops_cases_mask_apply(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int p = 0; p < 5; p++)
            for (const ops_shape *s = ops_shapes; s->rows >= 0; s++) {
                int64_t n = s->rows * s->cols;
                uint8_t *mask = ops_mask(run, s->rows, s->cols, densities[p], 1);
                pare_mask_apply_args args = {
                    .x = pare_matrix(ops_floats(run, OPS_WIDE, weights[d], n, 1), weights[d],
                                     s->rows, s->cols),
                    .mask = pare_matrix(mask, PARE_U8, s->rows, mask_bytes(s->cols))};
                ops_expect(
                    run, PARE_OP_mask_apply, &args, sizeof args,
                    (ops_output[]){{offsetof(pare_mask_apply_args, x.data),
                                    (size_t)n * element(weights[d]), element(weights[d]), true},
                                   {0}});
                ops_next(run);
            }
}

static int64_t ones_of(const uint8_t *mask, int64_t bytes)
{
    int64_t ones = 0;
    for (int64_t i = 0; i < 8 * bytes; i++)
        ones += mask[i / 8] >> i % 8 & 1;
    return ones;
}

static void compact_case(ops_run *run, pare_dtype dtype, const ops_shape *s, int density,
                         size_t shift)
{
    int64_t n = s->rows * s->cols, bytes = s->rows * mask_bytes(s->cols);
    uint8_t *mask = ops_mask(run, s->rows, s->cols, density, shift);
    int64_t ones = ones_of(mask, bytes);
    size_t size = element(dtype);
    void *x = ops_floats(run, OPS_WIDE, dtype, n, shift);
    pare_mask_compact_args args = {.x = pare_matrix(x, dtype, s->rows, s->cols),
                                   .mask = pare_matrix(mask, PARE_U8, s->rows, mask_bytes(s->cols)),
                                   .values = pare_vector(NULL, dtype, ones),
                                   .row_counts = pare_vector(NULL, PARE_I64, s->rows)};
    ops_output values = {offsetof(pare_mask_compact_args, values.data), (size_t)ones * size, size,
                         false};
    ops_output counts = {offsetof(pare_mask_compact_args, row_counts.data), (size_t)s->rows * 8, 8,
                         false};
    ops_expect(run, PARE_OP_mask_compact, &args, sizeof args, (ops_output[]){values, counts, {0}});
    ops_expect(run, PARE_OP_mask_compact, &args, sizeof args, (ops_output[]){values, {0}});
    ops_next(run);
}

void ops_cases_mask_compact(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int p = 0; p < 5; p++)
            for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
                compact_case(run, weights[d], s, densities[p], (size_t)p % 2);
    for (int d = 0; d < 2; d++)
        for (const ops_shape *s = tiled; s->rows >= 0; s++)
            compact_case(run, weights[d], s, densities[1 + d], (size_t)d);
}

static void scatter_case(ops_run *run, pare_dtype dtype, const ops_shape *s, int density,
                         size_t shift)
{
    int64_t n = s->rows * s->cols, bytes = s->rows * mask_bytes(s->cols);
    uint8_t *mask = ops_mask(run, s->rows, s->cols, density, shift);
    int64_t ones = ones_of(mask, bytes);
    size_t size = element(dtype);
    pare_mask_scatter_args args = {
        .values = pare_vector(ops_floats(run, OPS_WIDE, dtype, ones, shift), dtype, ones),
        .mask = pare_matrix(mask, PARE_U8, s->rows, mask_bytes(s->cols)),
        .x = pare_matrix(NULL, dtype, s->rows, s->cols)};
    ops_expect(run, PARE_OP_mask_scatter, &args, sizeof args,
               (ops_output[]){
                   {offsetof(pare_mask_scatter_args, x.data), (size_t)n * size, size, false}, {0}});
    ops_next(run);
}

void ops_cases_mask_scatter(ops_run *run)
{
    for (int d = 0; d < 3; d++)
        for (int p = 0; p < 5; p++)
            for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
                scatter_case(run, weights[d], s, densities[p], (size_t)p % 2);
    for (int d = 0; d < 2; d++)
        for (const ops_shape *s = tiled; s->rows >= 0; s++)
            scatter_case(run, weights[d], s, densities[1 + d], (size_t)d);
}
