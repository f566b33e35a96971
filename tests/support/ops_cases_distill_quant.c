/* Rows of the quantisers that training looks through. */
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

/* Blocks of a row, of the whole, of columns that straddle vectors and tiles, and of both. */
static const int64_t blocks[][2] = {
    {1, INT64_MAX}, {INT64_MAX, INT64_MAX}, {1, 8}, {1, 5}, {3, 1}, {16, 16}, {70, 33}, {1, 128}};
#define BLOCKS ((int)(sizeof blocks / sizeof *blocks))

static const int ranges[][2] = {{-8, 7}, {-128, 127}, {-2, 1}, {0, 15}, {-4, 0}};
#define RANGES ((int)(sizeof ranges / sizeof *ranges))

/* Steps around `size`; `odd`: some that are none, and some that are denormal or huge. */
static pare_tensor steps(ops_run *run, const ops_shape *s, const int64_t *block, float size,
                         bool odd)
{
    static const float wrong[] = {0, -0.0f, -1, INFINITY, -INFINITY, 0x1p-149f, 3e38f, NAN};
    int64_t down = s->rows ? (s->rows - 1) / block[0] + 1 : 0;
    int64_t across = s->cols ? (s->cols - 1) / block[1] + 1 : 0;
    float *step = ops_memory(run, (size_t)(down * across) * 4, 4, (size_t)ops_below(run, 3));
    for (int64_t i = 0; i < down * across; i++) {
        step[i] = size * (float)(1 + ops_below(run, 64)) / 32;
        if (odd && ops_below(run, 3) == 0)
            step[i] = wrong[ops_below(run, 8)];
    }
    return pare_matrix(step, PARE_F32, down, across);
}

static pare_tensor mask(ops_run *run, const ops_shape *s, bool there)
{
    if (!there)
        return (pare_tensor){0};
    int64_t n = s->rows * s->cols;
    uint8_t *byte = ops_bytes(run, n, (size_t)ops_below(run, 3));
    for (int64_t i = 0; i < n; i++)
        byte[i] = byte[i] % 4 == 0 ? 0 : byte[i];
    return pare_matrix(byte, PARE_U8, s->rows, s->cols);
}

/* The step that lays a kind's numbers over the range and beyond. */
static float step_of(ops_kind kind)
{
    return kind == OPS_NORMAL ? 0.003f : kind == OPS_TINY ? 0x1p-140f : 0.25f;
}

/* what: bit 0 BF16, 1 a mask, 2 codes, 3 in place, 4 odd steps. */
static void forward_case(ops_run *run, const ops_shape *s, int b, int r, ops_kind kind, int what)
{
    pare_dtype act = acts[what & 1];
    int64_t n = s->rows * s->cols;
    pare_fake_quant_args args = {.x = matrix(run, kind, act, s->rows, s->cols),
                                 .step = steps(run, s, blocks[b], step_of(kind), what & 16),
                                 .mask = mask(run, s, what & 2),
                                 .y = pare_matrix(NULL, act, s->rows, s->cols),
                                 .block_rows = blocks[b][0],
                                 .block_cols = blocks[b][1],
                                 .lo = ranges[r][0],
                                 .hi = ranges[r][1]};
    ops_output outs[3] = {{.pointer = offsetof(pare_fake_quant_args, y.data),
                           .bytes = (size_t)n * element(act),
                           .align = element(act),
                           .in_place = what & 8,
                           .input = offsetof(pare_fake_quant_args, x.data)}};
    if (kind == OPS_BAD) { /* of NaN any will do */
        outs[0].tolerance = 1e-30;
        outs[0].dtype = act;
    }
    if (what & 4) {
        args.codes = pare_matrix(NULL, PARE_I8, s->rows, s->cols);
        outs[1] = (ops_output){
            .pointer = offsetof(pare_fake_quant_args, codes.data), .bytes = (size_t)n, .align = 1};
    }
    ops_expect(run, PARE_OP_fake_quant, &args, sizeof args, outs);
    ops_next(run);
}

/* Beside ops_shapes: more than a tile, a piece of rows, and what a device sums at once. */
static const ops_shape wide[] = {{65, 40},   {131, 17}, {2, 1024},  {3, 4100},
                                 {1, 70001}, {300, 96}, {130, 300}, {-1, -1}};

void ops_cases_fake_quant(ops_run *run)
{
    int turn = 0;
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = l ? wide : ops_shapes; s->rows >= 0; s++)
            for (int b = 0; b < BLOCKS; b++, turn++)
                forward_case(run, s, b, turn % RANGES, turn % 3 ? OPS_NORMAL : OPS_GRID,
                             turn * 5 % 32);
    for (int kind = 0; kind < OPS_KINDS; kind++)
        for (int what = 0; what < 32; what++)
            forward_case(run, &(ops_shape){5, 77}, what % BLOCKS, kind % RANGES, (ops_kind)kind,
                         what);
}

/* what: bit 0 BF16, 1 a mask, 2 no step's gradient, 3 in place, 4 odd steps, 5 accumulate. */
static void gradient_case(ops_run *run, const ops_shape *s, int b, int r, ops_kind kind, int what)
{
    pare_dtype act = acts[what & 1];
    int64_t n = s->rows * s->cols;
    pare_fake_quant_grad_args args = {.x = matrix(run, kind, act, s->rows, s->cols),
                                      .step = steps(run, s, blocks[b], step_of(kind), what & 16),
                                      .mask = mask(run, s, what & 2),
                                      .dy = matrix(run, OPS_NORMAL, act, s->rows, s->cols),
                                      .dx = pare_matrix(NULL, act, s->rows, s->cols),
                                      .block_rows = blocks[b][0],
                                      .block_cols = blocks[b][1],
                                      .lo = ranges[r][0],
                                      .hi = ranges[r][1],
                                      .step_scale = 0.37f,
                                      .accumulate = what & 32};
    ops_output outs[3] = {{.pointer = offsetof(pare_fake_quant_grad_args, dx.data),
                           .bytes = (size_t)n * element(act),
                           .align = element(act),
                           .in_place = what & 8,
                           .input = offsetof(pare_fake_quant_grad_args, dy.data)}};
    if (!(what & 4)) {
        int64_t count = pare_tensor_count(&args.step);
        args.dstep = args.step;
        args.dstep.data = ops_floats(run, OPS_NORMAL, PARE_F32, count, 1);
        outs[1] = (ops_output){.pointer = offsetof(pare_fake_quant_grad_args, dstep.data),
                               .bytes = (size_t)count * 4,
                               .align = 4,
                               .keeps = true,
                               .tolerance = 2e-5,
                               .device = 1e-4,
                               .dtype = PARE_F32};
    }
    ops_expect(run, PARE_OP_fake_quant_grad, &args, sizeof args, outs);
    ops_next(run);
}

void ops_cases_fake_quant_grad(ops_run *run)
{
    int turn = 0;
    for (int l = 0; l < 2; l++)
        for (const ops_shape *s = l ? wide : ops_shapes; s->rows >= 0; s++)
            for (int b = 0; b < BLOCKS; b++, turn++)
                gradient_case(run, s, b, turn % RANGES, turn % 3 ? OPS_NORMAL : OPS_GRID,
                              turn * 5 % 64 & ~4);
    for (int kind = 0; kind < OPS_KINDS; kind++)
        for (int what = 0; what < 64; what++)
            gradient_case(run, &(ops_shape){5, 77}, what % BLOCKS, kind % RANGES, (ops_kind)kind,
                          what);
}
