/* Rows of scores, selection by rows and scaling. */
#include "ops_harness.h"

/* Larger than a device's block of threads or a tile takes at once. */
static const ops_shape wide[] = {{3, 2048}, {2, 4099}, {300, 70}, {1, 20001}, {-1, -1}};

static pare_tensor floats(ops_run *run, ops_kind kind, int64_t rows, int64_t cols, size_t shift)
{
    return pare_matrix(ops_floats(run, kind, PARE_F32, rows * cols, shift), PARE_F32, rows, cols);
}

static pare_tensor factors(ops_run *run, ops_kind kind, int64_t n, size_t shift)
{
    return pare_vector(ops_floats(run, kind, PARE_F32, n, shift), PARE_F32, n);
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* what: bit 0 cols, 1 full, 2 square, 3 in place. */
static void keys_scaled_case(ops_run *run, int what, ops_kind kind, const ops_shape *s)
{
    size_t bytes = (size_t)(s->rows * s->cols) * 4, shift = (size_t)what % 2;
    pare_keys_scaled_args args = {.w = floats(run, kind, s->rows, s->cols, shift),
                                  .square = (what & 4) != 0,
                                  .keys = pare_matrix(NULL, PARE_U32, s->rows, s->cols)};
    if (what & 1)
        args.cols = factors(run, kind == OPS_BAD ? OPS_BAD : OPS_NORMAL, s->cols, shift);
    if (what & 2)
        args.full = floats(run, kind, s->rows, s->cols, 0);
    ops_expect(run, PARE_OP_keys_scaled, &args, sizeof args,
               (ops_output[]){{.pointer = offsetof(pare_keys_scaled_args, keys.data),
                               .bytes = bytes,
                               .align = 4,
                               .in_place = (what & 8) != 0,
                               .input = offsetof(pare_keys_scaled_args, w.data)},
                              {0}});
    ops_next(run);
}

void ops_cases_keys_scaled(ops_run *run)
{
    for (int what = 0; what < 16; what++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            keys_scaled_case(run, what, (ops_kind)((s - ops_shapes + what) % OPS_KINDS), s);
    for (int what = 0; what < 16; what += 3)
        for (const ops_shape *s = wide; s->rows >= 0; s++)
            keys_scaled_case(run, what, (ops_kind)(what % OPS_KINDS), s);
}

/* ---- selection ------------------------------------------------------------------------------- */

static void mask_rows_case(ops_run *run, pare_tensor x, int64_t prune)
{
    int64_t rows = x.shape[0], bytes = (x.shape[1] + 7) / 8;
    pare_mask_rows_args args = {
        .x = x, .prune = prune, .mask = pare_matrix(NULL, PARE_U8, rows, bytes)};
    ops_expect(
        run, PARE_OP_mask_rows, &args, sizeof args,
        (ops_output[]){{offsetof(pare_mask_rows_args, mask.data), (size_t)(rows * bytes), 1, false},
                       {0}});
}

static void mask_rows_cases(ops_run *run, pare_tensor x)
{
    int64_t C = x.shape[1];
    mask_rows_case(run, x, 0);
    mask_rows_case(run, x, C / 2);
    mask_rows_case(run, x, C);
    mask_rows_case(run, x, ops_below(run, C + 1));
    if (C > 1)
        mask_rows_case(run, x, C - 1);
    ops_next(run);
}

void ops_cases_mask_rows(ops_run *run)
{
    for (int kind = 0; kind <= OPS_KINDS; kind++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++) {
            size_t shift = (size_t)kind % 2;
            mask_rows_cases(run, kind == OPS_KINDS
                                     ? pare_matrix(ops_keys(run, s->rows * s->cols, shift),
                                                   PARE_U32, s->rows, s->cols)
                                     : floats(run, (ops_kind)kind, s->rows, s->cols, shift));
        }
    for (const ops_shape *s = wide; s->rows >= 0; s++) {
        mask_rows_cases(run, floats(run, OPS_NORMAL, s->rows, s->cols, 0));
        mask_rows_cases(run, floats(run, OPS_ZEROS, s->rows, s->cols, 1));
        mask_rows_cases(
            run, pare_matrix(ops_keys(run, s->rows * s->cols, 0), PARE_U32, s->rows, s->cols));
    }
}

/* ---- sums and products ----------------------------------------------------------------------- */

void ops_cases_square_add(ops_run *run)
{
    static const ops_kind kinds[] = {OPS_NORMAL, OPS_GRID, OPS_ZEROS, OPS_TINY, OPS_BAD};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (const int64_t *n = ops_sizes; *n >= 0; n++) {
            pare_square_add_args args = {.x = factors(run, kinds[k], *n, k % 2),
                                         .y = factors(run, OPS_NORMAL, *n, 0)};
            ops_expect(run, PARE_OP_square_add, &args, sizeof args,
                       (ops_output[]){{.pointer = offsetof(pare_square_add_args, y.data),
                                       .bytes = (size_t)*n * 4,
                                       .align = 4,
                                       .keeps = true,
                                       /* which NaN it is, is not said */
                                       .tolerance = kinds[k] == OPS_BAD ? 0x1p-40 : 0,
                                       .dtype = PARE_F32},
                                      {0}});
            ops_next(run);
        }
}

static void row_dot_case(ops_run *run, ops_kind kind, const ops_shape *s)
{
    pare_row_dot_args args = {.a = floats(run, kind, s->rows, s->cols, 1),
                              .b = floats(run, kind, s->rows, s->cols, 0),
                              .y = pare_vector(NULL, PARE_F64, s->rows)};
    ops_expect(run, PARE_OP_row_dot, &args, sizeof args,
               (ops_output[]){{.pointer = offsetof(pare_row_dot_args, y.data),
                               .bytes = (size_t)s->rows * 8,
                               .align = 8,
                               .tolerance = 1e-11,
                               .dtype = PARE_F64},
                              {0}});
    ops_next(run);
}

void ops_cases_row_dot(ops_run *run)
{
    static const ops_kind kinds[] = {OPS_NORMAL, OPS_GRID, OPS_ZEROS, OPS_EQUAL, OPS_BAD};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            row_dot_case(run, kinds[k], s);
    for (const ops_shape *s = wide; s->rows >= 0; s++)
        row_dot_case(run, OPS_NORMAL, s);
}

/* what: bit 0 rows, 1 cols, 2 in place. */
static void scale_case(ops_run *run, int what, ops_kind kind, const ops_shape *s)
{
    pare_scale_args args = {.x = floats(run, kind, s->rows, s->cols, (size_t)what % 2),
                            .y = pare_matrix(NULL, PARE_F32, s->rows, s->cols)};
    if (what & 1)
        args.rows = factors(run, OPS_NORMAL, s->rows, 0);
    if (what & 2)
        args.cols = factors(run, OPS_NORMAL, s->cols, 1);
    ops_expect(run, PARE_OP_scale, &args, sizeof args,
               (ops_output[]){{.pointer = offsetof(pare_scale_args, y.data),
                               .bytes = (size_t)(s->rows * s->cols) * 4,
                               .align = 4,
                               .tolerance = kind == OPS_BAD ? 0x1p-40 : 0,
                               .dtype = PARE_F32,
                               .in_place = (what & 4) != 0,
                               .input = offsetof(pare_scale_args, x.data)},
                              {0}});
    ops_next(run);
}

void ops_cases_scale(ops_run *run)
{
    static const ops_kind kinds[] = {OPS_NORMAL, OPS_GRID, OPS_ZEROS, OPS_TINY, OPS_BAD};
    for (int what = 0; what < 8; what++) {
        for (const ops_shape *s = ops_shapes; s->rows >= 0; s++)
            scale_case(run, what, kinds[(s - ops_shapes + what) % 5], s);
        for (const ops_shape *s = wide; s->rows >= 0; s++)
            scale_case(run, what, OPS_NORMAL, s);
    }
}
