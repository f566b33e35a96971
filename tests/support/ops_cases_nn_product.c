/* Rows of gemm, of column sums and of convolutions. */
#include "ops_harness.h"

#include <math.h>

static const pare_dtype acts[] = {PARE_F32, PARE_BF16};

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* Numbers of about 1, so that sums of thousands of them are told apart by their errors. */
static void *floats(ops_run *run, pare_dtype dtype, int64_t n)
{
    return ops_floats(run, OPS_NORMAL, dtype, n, (size_t)ops_below(run, 4));
}

static ops_output output_of(size_t pointer, const pare_tensor *t, bool keeps)
{
    size_t size = element(t->dtype);
    return (ops_output){.pointer = pointer,
                        .bytes = (size_t)pare_tensor_count(t) * size,
                        .align = size,
                        .keeps = keeps,
                        .tolerance = 1e-5,
                        .dtype = t->dtype};
}

/* ---- matrices -------------------------------------------------------------------------------- */

typedef struct gemm_case {
    int64_t M, N, K;
} gemm_case;

static const gemm_case products[] = {
    {0, 5, 3},      {5, 0, 3},     {5, 3, 0},    {1, 1, 1},    {1, 17, 33},   {17, 1, 5},
    {1, 1, 1031},   {3, 8, 16},    {31, 33, 15}, {64, 64, 64}, {65, 63, 127}, {7, 997, 3},
    {128, 48, 257}, {200, 10, 64}, {16, 16, 2},  {5, 7, 4099}, /* a long sum */
};
#define PRODUCTS ((int)(sizeof products / sizeof products[0]))

/* Bits of `what`: a, b, c are BF16; a bias; accumulate. turn: 0 none, 1 b, 2 a is transposed. */
static void gemm_case_run(ops_run *run, const gemm_case *p, int what, int turn)
{
    pare_dtype a = acts[what & 1], b = acts[what >> 1 & 1], c = acts[what >> 2 & 1];
    int64_t M = p->M, N = p->N, K = p->K;
    pare_gemm_args args = {.a = pare_matrix(floats(run, a, M * K), a, M, K),
                           .b = pare_matrix(floats(run, b, K * N), b, K, N),
                           .c = pare_matrix(floats(run, c, M * N), c, M, N),
                           .trans_a = turn == 2,
                           .trans_b = turn == 1,
                           .accumulate = what >> 4 & 1};
    if (turn == 1)
        args.b = pare_matrix(args.b.data, b, N, K);
    if (turn == 2)
        args.a = pare_matrix(args.a.data, a, K, M);
    if (what >> 3 & 1)
        args.bias = pare_vector(floats(run, PARE_F32, N), PARE_F32, N);
    ops_output out = output_of(offsetof(pare_gemm_args, c.data), &args.c, args.accumulate);
    out.scale = sqrt((double)K) * ops_rms(args.a.data, a, M * K) * ops_rms(args.b.data, b, K * N);
    if (args.accumulate)
        out.scale += ops_rms(args.c.data, c, M * N);
    if (args.bias.data)
        out.scale += ops_rms(args.bias.data, PARE_F32, N);
    if (args.bias.data && c == PARE_BF16) /* the bias may be rounded, too */
        out.device = out.tolerance + 0x1p-8;
    ops_expect(run, PARE_OP_gemm, &args, sizeof args, (ops_output[]){out, {0}});
    ops_next(run);
}

void ops_cases_gemm(ops_run *run)
{
    for (int i = 0; i < PRODUCTS; i++)
        for (int turn = 0; turn < 3; turn++)
            for (int dtypes = 0; dtypes < 8; dtypes++)
                gemm_case_run(run, &products[i], dtypes | (int)ops_below(run, 4) << 3, turn);
    for (int what = 0; what < 32; what++) {
        gemm_case_run(run, &(gemm_case){37, 50, 29}, what, what % 3);
        gemm_case_run(run, &(gemm_case){3, 5, 0}, what, what % 3);
    }
}

void ops_cases_colsum(ops_run *run)
{
    static const ops_shape shapes[] = {{0, 7},    {7, 0},     {1, 1},     {255, 10},  {256, 16},
                                       {257, 17}, {513, 128}, {300, 129}, {1025, 33}, {2000, 257},
                                       {3, 2100}, {70000, 3}, {600, 264}, {4500, 24}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int what = 0; what < 4; what++) {
            pare_dtype x = acts[what & 1];
            int64_t R = shapes[i].rows, N = shapes[i].cols;
            pare_colsum_args args = {.x = pare_matrix(floats(run, x, R * N), x, R, N),
                                     .y = pare_vector(floats(run, PARE_F32, N), PARE_F32, N),
                                     .accumulate = what >> 1 & 1};
            ops_output y = output_of(offsetof(pare_colsum_args, y.data), &args.y, args.accumulate);
            ops_expect(run, PARE_OP_colsum, &args, sizeof args, (ops_output[]){y, {0}});
            ops_next(run);
        }
}

/* ---- convolutions ---------------------------------------------------------------------------- */

typedef struct conv_case {
    int64_t B, H, W, I, O;
    int groups;
    pare_window window;
} conv_case;

#define SQUARE(k, s, d, p)                                                                         \
    {                                                                                              \
        {k, k}, {s, s}, {d, d}, p, p, p, p                                                         \
    }

static const conv_case convs[] = {
    {1, 1, 1, 1, 1, 0, SQUARE(1, 1, 1, 0)},
    {0, 8, 8, 3, 16, 1, SQUARE(3, 1, 1, 1)},
    {2, 8, 8, 3, 16, 1, SQUARE(3, 1, 1, 1)},
    {3, 13, 13, 16, 16, 1, SQUARE(3, 1, 1, 1)},
    {2, 9, 7, 16, 32, 1, SQUARE(3, 2, 1, 1)},
    {2, 9, 8, 32, 64, 1, SQUARE(1, 2, 1, 0)},
    {2, 6, 6, 64, 48, 1, SQUARE(1, 1, 1, 0)},
    {3, 7, 9, 17, 19, 1, {{3, 2}, {1, 3}, {1, 1}, 2, 0, 1, 1}}, /* nothing even */
    {2, 8, 8, 5, 7, 1, {{4, 4}, {2, 2}, {1, 1}, 1, 1, 2, 2}},   /* "same" of an even kernel */
    {2, 12, 11, 8, 8, 8, SQUARE(3, 1, 1, 1)},                   /* depthwise */
    {2, 9, 9, 16, 32, 16, SQUARE(3, 2, 1, 1)},                  /* with a multiplier */
    {1, 10, 10, 12, 18, 3, SQUARE(3, 1, 2, 2)},                 /* groups, dilated */
    {1, 11, 12, 32, 32, 2, {{3, 3}, {2, 1}, {1, 3}, 1, 3, 0, 2}},
    {1, 32, 32, 3, 24, 1, SQUARE(16, 16, 1, 0)}, /* patches */
    {1, 14, 14, 3, 10, 1, SQUARE(7, 2, 1, 3)},
    {515, 2, 2, 3, 2, 1, SQUARE(2, 1, 1, 1)}, /* more images than are taken at once */
    {1, 4, 5, 2, 3, 1, {{4, 5}, {1, 1}, {1, 1}, 0, 0, 0, 0}}, /* global */
    {2, 3, 3, 16, 16, 1, SQUARE(3, 1, 1, 4)},                 /* windows of padding alone */
    {1, 5, 5, 4, 6, 1, {{3, 3}, {2, 2}, {1, 1}, 0, 1, 6, 7}},
    {1, 1, 300, 8, 8, 1, {{1, 9}, {1, 1}, {1, 1}, 0, 4, 0, 4}}, /* along one axis */
    {2, 9, 9, 4, 4, 1, SQUARE(2, 3, 1, 0)},                     /* a border that nobody sees */
};
#define CONVS ((int)(sizeof convs / sizeof convs[0]))

static pare_tensor shaped(ops_run *run, pare_dtype dtype, int64_t a, int64_t b, int64_t c,
                          int64_t d)
{
    pare_tensor t = {.dtype = dtype, .rank = 4, .shape = {a, b, c, d}};
    t.data = floats(run, dtype, pare_tensor_count(&t));
    return t;
}

static pare_tensor x_of(ops_run *run, const conv_case *c, pare_dtype dtype)
{
    return shaped(run, dtype, c->B, c->H, c->W, c->I);
}

static pare_tensor y_of(ops_run *run, const conv_case *c, pare_dtype dtype)
{
    return shaped(run, dtype, c->B, pare_window_out(&c->window, 0, c->H),
                  pare_window_out(&c->window, 1, c->W), c->O);
}

static pare_tensor w_of(ops_run *run, const conv_case *c, pare_dtype dtype)
{
    return shaped(run, dtype, c->O, c->I / (c->groups > 0 ? c->groups : 1), c->window.kernel[0],
                  c->window.kernel[1]);
}

/* Bits of `what`: x, w are BF16; scale, shift, z, relu; z in place. */
static void conv_case_run(ops_run *run, const conv_case *c, int what)
{
    pare_dtype x = acts[what & 1], w = acts[what >> 1 & 1];
    pare_conv_args args = {.x = x_of(run, c, x),
                           .w = w_of(run, c, w),
                           .y = y_of(run, c, x),
                           .relu = what >> 5 & 1,
                           .window = c->window,
                           .groups = c->groups};
    if (what >> 2 & 1)
        args.scale = pare_vector(floats(run, PARE_F32, c->O), PARE_F32, c->O);
    if (what >> 3 & 1)
        args.shift = pare_vector(floats(run, PARE_F32, c->O), PARE_F32, c->O);
    if (what >> 4 & 1)
        args.z = y_of(run, c, x);
    ops_output y = output_of(offsetof(pare_conv_args, y.data), &args.y, false);
    if (x == PARE_BF16) /* the sum of products may be rounded before the rest, which may cancel it,
                           is added */
        y.device = y.tolerance + 0x1p-7;
    y.in_place = args.z.data && (what >> 6 & 1);
    y.input = offsetof(pare_conv_args, z.data);
    ops_expect(run, PARE_OP_conv, &args, sizeof args, (ops_output[]){y, {0}});
    ops_next(run);
}

void ops_cases_conv(ops_run *run)
{
    for (int i = 0; i < CONVS; i++)
        for (int dtypes = 0; dtypes < 4; dtypes++) {
            conv_case_run(run, &convs[i], dtypes);
            conv_case_run(run, &convs[i], dtypes | (int)ops_below(run, 32) << 2);
        }
    for (int what = 0; what < 128; what++)
        conv_case_run(run, &convs[what & 1 ? 4 : 7], what);
}

void ops_cases_conv_grad_x(ops_run *run)
{
    for (int i = 0; i < CONVS; i++)
        for (int what = 0; what < 4; what++) {
            const conv_case *c = &convs[i];
            pare_dtype x = acts[what & 1], w = acts[what >> 1];
            pare_conv_grad_x_args args = {.dy = y_of(run, c, x),
                                          .w = w_of(run, c, w),
                                          .dx = x_of(run, c, x),
                                          .window = c->window,
                                          .groups = c->groups};
            ops_output dx = output_of(offsetof(pare_conv_grad_x_args, dx.data), &args.dx, false);
            ops_expect(run, PARE_OP_conv_grad_x, &args, sizeof args, (ops_output[]){dx, {0}});
            ops_next(run);
        }
}

void ops_cases_conv_grad_w(ops_run *run)
{
    for (int i = 0; i < CONVS; i++)
        for (int what = 0; what < 4; what++) {
            const conv_case *c = &convs[i];
            pare_dtype x = acts[what & 1];
            pare_conv_grad_w_args args = {.x = x_of(run, c, x),
                                          .dy = y_of(run, c, x),
                                          .dw = w_of(run, c, PARE_F32),
                                          .window = c->window,
                                          .groups = c->groups,
                                          .accumulate = what >> 1};
            ops_output dw =
                output_of(offsetof(pare_conv_grad_w_args, dw.data), &args.dw, args.accumulate);
            ops_expect(run, PARE_OP_conv_grad_w, &args, sizeof args, (ops_output[]){dw, {0}});
            ops_next(run);
        }
}
