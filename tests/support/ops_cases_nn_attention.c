/* Rows of attention and its gradient. */
#include "ops_harness.h"

#include "base/half.h"
#include "ops_oracle.h"

#include <math.h>

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

typedef enum mask_kind {
    NO_MASK,
    SOME,    /* keys here and there are hidden */
    PADDING, /* each sequence ends somewhere */
    NOTHING, /* the first sequence has no key at all */
    MASKS
} mask_kind;

typedef struct attention_case {
    int64_t B, T, D;
    int heads, kv_heads;
    pare_dtype dtype;
    ops_kind kind;
    bool causal;
    int64_t window;
    mask_kind mask;
    float scale, dropout;
    bool no_lse;
    bool aligned; /* all inputs begin at 64 bytes */
    bool bad;     /* the second halves of q, k and v have NaN here and there */
} attention_case;

static pare_tensor make_mask(ops_run *run, mask_kind kind, int64_t B, int64_t T)
{
    pare_tensor mask = pare_matrix(NULL, PARE_U8, B, T);
    if (kind == NO_MASK)
        return mask;
    uint8_t *keys = mask.data = ops_memory(run, (size_t)(B * T), 1, 1);
    for (int64_t b = 0; b < B; b++) {
        int64_t end = kind == PADDING ? T - ops_below(run, T / 2 + 1) : T;
        for (int64_t j = 0; j < T; j++)
            keys[b * T + j] = (uint8_t)(kind == SOME ? (ops_below(run, 3) != 0) * 7 : j < end);
    }
    if (kind == NOTHING)
        memset(keys, 0, (size_t)T);
    return mask;
}

static void *make_floats(ops_run *run, const attention_case *c, int64_t n, size_t shift)
{
    uint8_t *x = ops_floats(run, c->kind, c->dtype, n, c->aligned ? 0 : shift);
    const float nan = NAN;
    const uint16_t half = pare__f32_to_bf16(nan);
    for (int64_t i = n / 2 + ops_below(run, 400); c->bad && i < n; i += 1 + ops_below(run, 2000))
        memcpy(x + (size_t)i * element(c->dtype), c->dtype == PARE_F32 ? (const void *)&nan : &half,
               element(c->dtype));
    return x;
}

/* Inputs of a row; y and lse are still to be had. */
static pare_attention_args make_args(ops_run *run, const attention_case *c)
{
    int64_t R = c->B * c->T, N = c->heads * c->D, M = c->kv_heads * c->D;
    pare_dtype dtype = c->dtype;
    pare_attention_args args = {
        .q = pare_matrix(make_floats(run, c, R * N, 1), dtype, R, N),
        .k = pare_matrix(make_floats(run, c, R * M, 2), dtype, R, M),
        .v = pare_matrix(make_floats(run, c, R * M, 3), dtype, R, M),
        .keys = make_mask(run, c->mask, c->B, c->T),
        .y = pare_matrix(NULL, dtype, R, N),
        .lse = {.dtype = PARE_F32, .rank = 3, .shape = {c->B, c->heads, c->T}},
        .T = c->T,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .scale = c->scale,
        .causal = c->causal,
        .window = c->window,
        .dropout = c->dropout,
        .seed = ops_random(run),
        .stream = ops_random(run) % 100};
    return args;
}

/* Scores of up to ±50 carry the roundings of their sums into the exponent. */
static double tolerance_of(const attention_case *c)
{
    return c->dtype == PARE_BF16 ? 0x1p-8 : c->kind == OPS_GRID ? 1e-3 : 2e-5;
}

/* Tensor cores take probabilities and their gradients rounded to BF16, which sums over many queries
 * feel. */
static double device_tolerance_of(const attention_case *c, bool gradient)
{
    return c->dtype != PARE_BF16 ? 0 : gradient ? 0x1p-6 : 0x1p-7;
}

static void forward(ops_run *run, const attention_case *c)
{
    pare_attention_args args = make_args(run, c);
    size_t size = element(c->dtype);
    int64_t rows = c->B * c->heads * c->T;
    ops_output outs[] = {{.pointer = offsetof(pare_attention_args, y.data),
                          .bytes = (size_t)pare_tensor_count(&args.y) * size,
                          .align = size,
                          .tolerance = tolerance_of(c),
                          .device = device_tolerance_of(c, false),
                          .dtype = c->dtype},
                         {.pointer = offsetof(pare_attention_args, lse.data),
                          .bytes = (size_t)rows * 4,
                          .align = 4,
                          .tolerance = 1e-5,
                          .dtype = PARE_F32},
                         {0}};
    if (c->no_lse)
        outs[1] = (ops_output){0};
    ops_expect(run, PARE_OP_attention, &args, sizeof args, outs);
    ops_next(run);
}

/* The same inputs, with y and lse of the oracle. */
static void backward(ops_run *run, const attention_case *c)
{
    pare_attention_args a = make_args(run, c);
    size_t size = element(c->dtype);
    size_t q_bytes = (size_t)pare_tensor_count(&a.q) * size;
    size_t k_bytes = (size_t)pare_tensor_count(&a.k) * size;
    a.y.data = ops_memory(run, q_bytes, size, 1);
    a.lse.data = ops_memory(run, (size_t)pare_tensor_count(&a.lse) * 4, 4, 1);
    oracle_attention(&a);
    pare_attention_grad_args args = {.q = a.q,
                                     .k = a.k,
                                     .v = a.v,
                                     .y = a.y,
                                     .dy = a.q,
                                     .lse = a.lse,
                                     .keys = a.keys,
                                     .dq = a.q,
                                     .dk = a.k,
                                     .dv = a.k,
                                     .T = a.T,
                                     .heads = a.heads,
                                     .kv_heads = a.kv_heads,
                                     .scale = a.scale,
                                     .causal = a.causal,
                                     .window = a.window,
                                     .dropout = a.dropout,
                                     .seed = a.seed,
                                     .stream = a.stream};
    args.dy.data =
        ops_floats(run, OPS_NORMAL, c->dtype, pare_tensor_count(&a.q), c->aligned ? 0 : 2);
    ops_output outs[] = {{.pointer = offsetof(pare_attention_grad_args, dv.data), .bytes = k_bytes},
                         {.pointer = offsetof(pare_attention_grad_args, dk.data), .bytes = k_bytes},
                         {.pointer = offsetof(pare_attention_grad_args, dq.data), .bytes = q_bytes},
                         {0}};
    for (int i = 0; i < 3; i++) {
        outs[i].align = size;
        outs[i].tolerance = tolerance_of(c);
        outs[i].device = device_tolerance_of(c, true);
        outs[i].dtype = c->dtype;
    }
    if (c->T <= 2 || c->window == 1 || c->kind == OPS_EQUAL) {
        /* dy·v − δ is 0, and what the roundings leave of it nothing to compare: dv alone */
        args.dq.data = ops_memory(run, q_bytes, size, 1);
        args.dk.data = ops_memory(run, k_bytes, size, 1);
        outs[1] = (ops_output){0};
    }
    ops_expect(run, PARE_OP_attention_grad, &args, sizeof args, outs);
    ops_next(run);
}

/* Rows that stand for what models do and for every edge of the tiles (32 queries in a group, 128
 * in a part, 64 keys; on a device also 64 queries, 32 keys, heads of 32, 64, 96, 128, 256). */
static const attention_case rows[] = {
    {2, 1, 1, 1, 1, PARE_F32, OPS_NORMAL, .scale = 0},
    {2, 1, 8, 2, 1, PARE_F32, OPS_NORMAL, .causal = true},
    {0, 4, 8, 2, 1, PARE_F32, OPS_NORMAL, .causal = true},
    {3, 7, 20, 3, 1, PARE_F32, OPS_NORMAL, .scale = 100},
    {2, 10, 32, 4, 4, PARE_F32, OPS_NORMAL, .scale = 100, .causal = true},
    {1, 32, 33, 1, 1, PARE_F32, OPS_NORMAL, .mask = PADDING},
    {2, 33, 64, 2, 2, PARE_F32, OPS_NORMAL, .scale = 50, .mask = SOME},
    {1, 64, 80, 4, 2, PARE_F32, OPS_NORMAL, .causal = true, .scale = 60},
    {1, 65, 128, 2, 1, PARE_F32, OPS_NORMAL, .causal = true, .mask = PADDING},
    {1, 63, 256, 1, 1, PARE_F32, OPS_NORMAL, .causal = true},
    {2, 128, 32, 3, 3, PARE_F32, OPS_NORMAL, .scale = 100, .mask = PADDING},
    {1, 129, 64, 2, 1, PARE_F32, OPS_NORMAL, .scale = 50, .causal = true, .dropout = 0.1f},
    {1, 257, 16, 2, 1, PARE_F32, OPS_NORMAL, .scale = 200, .window = 40},
    {1, 257, 16, 2, 1, PARE_F32, OPS_NORMAL, .scale = 200, .window = 100, .causal = true},
    {1, 200, 24, 2, 2, PARE_F32, OPS_GRID, .causal = true},
    {2, 100, 48, 2, 2, PARE_F32, OPS_GRID, .mask = SOME},
    {2, 70, 8, 2, 1, PARE_F32, OPS_NORMAL, .mask = NOTHING},
    {2, 70, 8, 2, 1, PARE_F32, OPS_NORMAL, .mask = NOTHING, .dropout = 0.5f, .causal = true},
    {1, 150, 8, 1, 1, PARE_F32, OPS_NORMAL, .window = 1, .scale = 100},
    {1, 150, 8, 1, 1, PARE_F32, OPS_NORMAL, .window = 2, .scale = 100, .mask = SOME},
    {1, 140, 8, 1, 1, PARE_F32, OPS_NORMAL, .window = INT64_MAX, .scale = 100},
    {1, 140, 8, 1, 1, PARE_F32, OPS_NORMAL, .window = 139, .scale = 100, .causal = true},
    {1, 96, 16, 1, 1, PARE_F32, OPS_EQUAL, .causal = true},
    {1, 96, 16, 1, 1, PARE_F32, OPS_ZEROS, .causal = true, .scale = -0.5f},
    {1, 40, 16, 1, 1, PARE_F32, OPS_TINY, .causal = true, .no_lse = true},
    {2, 65, 33, 4, 2, PARE_BF16, OPS_NORMAL, .scale = 50, .causal = true, .mask = PADDING},
    {1, 130, 64, 2, 2, PARE_BF16, OPS_NORMAL, .scale = 50, .dropout = 0.2f},
    {1, 257, 8, 2, 1, PARE_BF16, OPS_NORMAL, .scale = 100, .window = 33, .causal = true},
    {1, 17, 1, 1, 1, PARE_BF16, OPS_ZEROS, .causal = true},
    {1, 129, 64, 2, 1, PARE_BF16, OPS_NORMAL, .scale = 50, .causal = true, .aligned = true},
    {2, 64, 32, 2, 2, PARE_BF16, OPS_NORMAL, .scale = 80, .mask = PADDING, .aligned = true},
    {1, 127, 72, 1, 1, PARE_BF16, OPS_NORMAL, .scale = -50, .mask = SOME, .aligned = true},
    {1, 193, 128, 2, 1, PARE_BF16, OPS_NORMAL, .scale = 30, .causal = true, .aligned = true},
    {1, 65, 128, 1, 1, PARE_BF16, OPS_GRID, .dropout = 0.1f, .aligned = true},
    {2, 33, 160, 1, 1, PARE_BF16, OPS_NORMAL, .scale = 30, .causal = true, .aligned = true},
    {1, 70, 256, 2, 1, PARE_BF16, OPS_NORMAL, .scale = 20, .dropout = 0.2f, .aligned = true},
    {1, 300, 16, 1, 1, PARE_BF16, OPS_NORMAL, .scale = 99, .window = 65, .aligned = true},
    {3, 150, 8, 4, 2, PARE_BF16, OPS_NORMAL, .scale = 99, .mask = NOTHING, .aligned = true},
    {1, 140, 96, 1, 1, PARE_BF16, OPS_NORMAL, .causal = true, .aligned = true, .bad = true},
    {1, 66, 256, 1, 1, PARE_BF16, OPS_NORMAL, .mask = SOME, .aligned = true, .bad = true},
    {1, 40, 264, 2, 1, PARE_BF16, OPS_NORMAL, .scale = 20, .causal = true},
    {1, 35, 130, 2, 1, PARE_F32, OPS_NORMAL, .scale = 30, .mask = SOME, .aligned = true},
};

/* A row of choices. */
static attention_case random_case(ops_run *run)
{
    static const int64_t Ts[] = {1, 2, 5, 15, 16, 17, 31, 34, 48, 66, 90, 127, 131, 161};
    static const int64_t Ds[] = {1, 3, 8, 15, 16, 20, 33, 40};
    static const int64_t windows[] = {0, 0, 1, 3, 20, 33, 64, 100};
    attention_case c = {.B = 1 + ops_below(run, 2),
                        .T = Ts[ops_below(run, 14)],
                        .D = Ds[ops_below(run, 8)],
                        .kv_heads = 1 + (int)ops_below(run, 2),
                        .dtype = ops_below(run, 3) == 0 ? PARE_BF16 : PARE_F32,
                        .kind = OPS_NORMAL,
                        .causal = ops_below(run, 2) == 0,
                        .window = windows[ops_below(run, 8)],
                        .mask = (mask_kind)ops_below(run, MASKS),
                        .scale = ops_below(run, 2) == 0 ? 0.0f : 40.0f,
                        .dropout = ops_below(run, 3) == 0 ? 0.3f : 0.0f,
                        .no_lse = ops_below(run, 4) == 0,
                        .aligned = ops_below(run, 2) == 0};
    c.heads = c.kv_heads * (1 + (int)ops_below(run, 2));
    return c;
}

static void all_cases(ops_run *run, void (*check)(ops_run *run, const attention_case *c))
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check(run, &rows[i]);
    for (int i = 0; i < 40; i++) {
        attention_case c = random_case(run);
        check(run, &c);
    }
    for (int i = 0; i < 20; i++) { /* NaN is felt where it is seen and nowhere else */
        attention_case c = random_case(run);
        c.bad = true;
        check(run, &c);
    }
}

void ops_cases_attention(ops_run *run)
{
    all_cases(run, forward);
}

void ops_cases_attention_grad(ops_run *run)
{
    all_cases(run, backward);
}
