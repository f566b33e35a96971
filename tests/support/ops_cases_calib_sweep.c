/* Rows of the column sweep: orders, triangles, panels. */
#include "ops_harness.h"

#include <math.h>

/* ---- permute --------------------------------------------------------------------------------- */

/* n numbers below `bound`: all of them once if `once` (then n is bound), or any. */
static pare_tensor order(ops_run *run, int64_t n, int64_t bound, bool once)
{
    int32_t *to = ops_memory(run, (size_t)n * 4, 4, 1);
    for (int64_t i = 0; i < n; i++)
        to[i] = (int32_t)(once ? i : ops_below(run, bound));
    for (int64_t i = n - 1; once && i > 0; i--) {
        int64_t j = ops_below(run, i + 1);
        int32_t held = to[i];
        to[i] = to[j];
        to[j] = held;
    }
    return pare_vector(to, PARE_I32, n);
}

static void permute_case(ops_run *run, pare_permute_args *args)
{
    size_t size = args->x.dtype == PARE_F32 ? 4 : 1;
    int64_t n = pare_tensor_count(&args->x);
    args->x.data = args->x.dtype == PARE_F32 ? ops_floats(run, OPS_BAD, PARE_F32, n, 1)
                                             : (void *)ops_bytes(run, n, 1);
    ops_expect(run, PARE_OP_permute, args, sizeof *args,
               (ops_output[]){{offsetof(pare_permute_args, y.data),
                               (size_t)pare_tensor_count(&args->y) * size, size, false},
                              {0}});
    ops_next(run);
}

void ops_cases_permute(ops_run *run)
{
    static const pare_dtype dtypes[] = {PARE_F32, PARE_I8, PARE_U8};
    static const int64_t sides[] = {0, 1, 2, 31, 32, 33, 64, 97, 130};
    for (int what = 0; what < 12; what++) /* bit 0 rows, 1 columns; then the dtype */
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++) {
            bool rows = (what & 1) != 0, cols = (what & 2) != 0;
            int64_t R = s->rows + (rows ? 3 : 0), C = s->cols + (cols ? 5 : 0);
            if ((rows || cols) && s->rows * s->cols == 0)
                continue; /* y would have nothing to take */
            pare_permute_args args = {.x = pare_matrix(NULL, dtypes[what / 4], s->rows, s->cols),
                                      .y = pare_matrix(NULL, dtypes[what / 4], R, C)};
            if (rows)
                args.rows = order(run, R, s->rows, false);
            if (cols)
                args.cols = order(run, C, s->cols, false);
            permute_case(run, &args);
        }
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
        for (int what = 0; what < 15; what++) { /* how the orders are; the dtype */
            int64_t n = sides[i];
            pare_dtype dtype = dtypes[what / 5];
            pare_permute_args args = {.x = pare_matrix(NULL, dtype, n, n),
                                      .y = pare_matrix(NULL, dtype, n, n),
                                      .lower = true};
            if (what % 5 > 0)
                args.rows = order(run, n, n, what % 5 != 2);
            if (what % 5 == 1 || what % 5 == 2)
                args.cols = args.rows;
            if (what % 5 == 3)
                args.cols = order(run, n, n, true);
            permute_case(run, &args);
        }
}

/* ---- diagonal, triangle ---------------------------------------------------------------------- */

void ops_cases_diagonal(ops_run *run)
{
    static const int64_t sides[] = {0, 1, 2, 17, 300};
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
        for (int set = 0; set < 2; set++) {
            int64_t n = sides[i];
            pare_diagonal_args args = {
                .a = pare_matrix(ops_floats(run, OPS_BAD, PARE_F32, n * n, 1), PARE_F32, n, n),
                .d = pare_vector(ops_floats(run, OPS_BAD, PARE_F32, n, 1), PARE_F32, n),
                .set = set != 0};
            ops_output read = {offsetof(pare_diagonal_args, d.data), (size_t)n * 4, 4, false};
            ops_output written = {offsetof(pare_diagonal_args, a.data), (size_t)(n * n) * 4, 4,
                                  true};
            ops_expect(run, PARE_OP_diagonal, &args, sizeof args,
                       (ops_output[]){set ? written : read, {0}});
            ops_next(run);
        }
}

/* A triangle whose inverse is no larger than itself; NaN on the other side. */
static float *triangle(ops_run *run, int64_t n, bool upper, size_t shift)
{
    float *a = ops_floats(run, OPS_NORMAL, PARE_F32, n * n, shift);
    float small = 0.5f / sqrtf((float)(n + 1));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            float *x = &a[i * n + j];
            if (i == j)
                *x = 1.0f + (float)ops_below(run, 64) / 64.0f;
            else
                *x = (i < j) == upper ? *x * small : NAN;
        }
    return a;
}

void ops_cases_tri_inverse(ops_run *run)
{
    static const int64_t sides[] = {0, 1, 2, 31, 64, 127, 128, 129, 200, 256, 257, 385};
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++) {
        int64_t n = sides[i];
        pare_tri_inverse_args args = {
            .l = pare_matrix(triangle(run, n, false, i % 2), PARE_F32, n, n)};
        for (int64_t k = 0; n > 2 && k < 2; k++) /* signs are allowed */
            ((float *)args.l.data)[k * (n + 1)] *= -1.0f;
        ops_expect(run, PARE_OP_tri_inverse, &args, sizeof args,
                   (ops_output[]){{.pointer = offsetof(pare_tri_inverse_args, l.data),
                                   .bytes = (size_t)(n * n) * 4,
                                   .align = 4,
                                   .keeps = true,
                                   .tolerance = 1e-5,
                                   .dtype = PARE_F32},
                                  {0}});
        ops_next(run);
    }
}

/* ---- panels ---------------------------------------------------------------------------------- */

void ops_cases_keys_obs(ops_run *run)
{
    int turn = 0;
    for (int kind = 0; kind < OPS_BAD; kind++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++, turn++) {
            int64_t first = turn % 3 * 8, C = first + s->cols + turn % 2;
            if (C > 400)
                continue;
            pare_keys_obs_args args = {
                .w = pare_matrix(ops_floats(run, (ops_kind)kind, PARE_F32, s->rows * s->cols, 1),
                                 PARE_F32, s->rows, s->cols),
                .u = pare_matrix(triangle(run, C, true, 1), PARE_F32, C, C),
                .first = first,
                .keys = pare_matrix(NULL, PARE_U32, s->rows, s->cols)};
            if (turn % 2)
                args.frozen = pare_matrix(ops_mask(run, s->rows, s->cols, 128, 1), PARE_U8, s->rows,
                                          (s->cols + 7) / 8);
            ops_expect(run, PARE_OP_keys_obs, &args, sizeof args,
                       (ops_output[]){{offsetof(pare_keys_obs_args, keys.data),
                                       (size_t)(s->rows * s->cols) * 4, 4, false},
                                      {0}});
            ops_next(run);
        }
}

typedef struct pattern {
    int n, m;
} pattern;

static const pattern patterns[] = {{0, 0}, {2, 4}, {1, 2},  {4, 8},  {0, 4},    {4, 4},
                                   {3, 5}, {1, 1}, {8, 16}, {9, 24}, {60, 100}, {1, 200}};

/* Widths of a block of scales beside its height. */
static const ops_shape blocks[] = {{1, 128}, {1, 32}, {1, 5}, {16, 16}, {100, 200}, {1, 1}};

static pare_scheme scheme_of(int i)
{
    static const pare_scheme schemes[] = {{.type = PARE_QUANT_NONE},
                                          {.type = PARE_QUANT_INT, .bits = 4},
                                          {.type = PARE_QUANT_INT, .bits = 4, .asymmetric = true},
                                          {.type = PARE_QUANT_INT, .bits = 8},
                                          {.type = PARE_QUANT_INT, .bits = 2, .asymmetric = true},
                                          {.type = PARE_QUANT_E4M3, .bits = 8},
                                          {.type = PARE_QUANT_NF4, .bits = 4}};
    return schemes[i];
}
#define SCHEMES 7

/* Scales that leave some weights beyond the last code, and zero points in range. */
static void give_scales(ops_run *run, pare_obs_block_args *args, ops_shape block)
{
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    int64_t down = (R + block.rows - 1) / block.rows, across = (N + block.cols - 1) / block.cols;
    float most = args->scheme.type == PARE_QUANT_NF4    ? 1.0f
                 : args->scheme.type == PARE_QUANT_E4M3 ? 448.0f
                                                        : ldexpf(1.0f, args->scheme.bits - 1);
    int half = 1 << (args->scheme.bits - 1);
    float *scale = ops_memory(run, (size_t)(down * across) * 4, 4, 1);
    int8_t *zero = ops_memory(run, (size_t)(down * across), 1, 1);
    for (int64_t i = 0; i < down * across; i++) {
        scale[i] = (float)(1 + ops_below(run, 40)) / 16.0f / most;
        zero[i] = (int8_t)(ops_below(run, 2 * half) - half);
    }
    args->block_rows = block.rows;
    args->block_cols = block.cols;
    args->scale = pare_matrix(scale, PARE_F32, down, across);
    if (args->scheme.asymmetric)
        args->zero = pare_matrix(zero, PARE_I8, down, across);
    args->codes = pare_matrix(NULL, PARE_I8, R, N);
}

/* which: bit 0 frozen, bit 1 a mask. */
static void block_case(ops_run *run, ops_shape s, pattern p, pare_scheme scheme, int which,
                       ops_kind kind, ops_shape block)
{
    int64_t R = s.rows, N = s.cols, bytes = (N + 7) / 8, count = R * N;
    int64_t first = p.m * (int64_t)(which + 1), C = first + N + which;
    double *loss = ops_memory(run, (size_t)R * 8, 8, 1);
    pare_obs_block_args args = {
        .w = pare_matrix(ops_floats(run, kind, PARE_F32, count, 1), PARE_F32, R, N),
        .u = pare_matrix(triangle(run, C, true, 1), PARE_F32, C, C),
        .first = first,
        .n = p.n,
        .m = p.m,
        .scheme = scheme,
        .err = pare_matrix(NULL, PARE_F32, R, N),
        .loss = pare_vector(loss, PARE_F64, R)};
    for (int64_t r = 0; r < R; r++)
        loss[r] = (double)ops_below(run, 100) / 10.0;
    if (which & 1)
        args.frozen = pare_matrix(ops_mask(run, R, N, 200, 1), PARE_U8, R, bytes);
    if (which & 2 || p.m > 0)
        args.mask = pare_matrix(ops_mask(run, R, N, which & 2 ? 160 : 256, 1), PARE_U8, R, bytes);
    if (scheme.type != PARE_QUANT_NONE)
        give_scales(run, &args, block);
    ops_output outs[OPS_MAX_OUTPUTS] = {
        {offsetof(pare_obs_block_args, w.data), (size_t)count * 4, 4, true},
        {offsetof(pare_obs_block_args, err.data), (size_t)count * 4, 4, false},
        {offsetof(pare_obs_block_args, loss.data), (size_t)R * 8, 8, true}};
    int used = 3;
    if (args.mask.data)
        outs[used++] =
            (ops_output){offsetof(pare_obs_block_args, mask.data), (size_t)(R * bytes), 1, true};
    if (scheme.type != PARE_QUANT_NONE)
        outs[used++] =
            (ops_output){offsetof(pare_obs_block_args, codes.data), (size_t)count, 1, false};
    ops_expect(run, PARE_OP_obs_block, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_obs_block(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 4},  {3, 0},  {1, 1},   {3, 7},    {5, 16},  {2, 17},
                                       {33, 8}, {31, 3}, {32, 33}, {65, 128}, {7, 127}, {130, 20}};
    static const ops_kind kinds[] = {OPS_NORMAL, OPS_GRID, OPS_ZEROS, OPS_TINY, OPS_EQUAL};
    int turn = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++)
            for (int k = 0; k < 3; k++, turn++)
                block_case(run, shapes[s], patterns[p], scheme_of(turn % SCHEMES), turn / 2 % 4,
                           kinds[turn / 3 % 5], blocks[turn % 6]);
}

void ops_cases_obs_update(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 8}, {1, 1}, {5, 0}, {3, 8}, {64, 128}, {33, 61}};
    static const int64_t behind[] = {0, 1, 7, 130};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t b = 0; b < sizeof behind / sizeof behind[0]; b++) {
            int64_t R = shapes[s].rows, N = shapes[s].cols, first = (int64_t)b * 3;
            int64_t last = first + N + behind[b], C = last + (int64_t)s % 3;
            pare_obs_update_args args = {
                .w = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, R * C, 1), PARE_F32, R, C),
                .err = pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, R * N, 1), PARE_F32, R, N),
                .u = pare_matrix(triangle(run, C, true, 1), PARE_F32, C, C),
                .first = first,
                .last = last};
            ops_expect(run, PARE_OP_obs_update, &args, sizeof args,
                       (ops_output[]){{.pointer = offsetof(pare_obs_update_args, w.data),
                                       .bytes = (size_t)(R * C) * 4,
                                       .align = 4,
                                       .keeps = true,
                                       .tolerance = 1e-5,
                                       .dtype = PARE_F32},
                                      {0}});
            ops_next(run);
        }
}
