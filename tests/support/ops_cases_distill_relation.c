/* Rows of relation. */
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

typedef struct relation_case {
    int64_t B, T, Dt, D;
    int heads, kv_heads, t_kv_heads;
    pare_dtype t_dtype, dtype;
    pare_relation_kind kind;
    ops_kind floats;
    bool causal;
    mask_kind mask;
    bool weighted, same; /* same: a = b, ta = tb */
    bool no_da, no_db;
    bool bad; /* what is hidden holds NaN */
    float scale_t, scale;
} relation_case;

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

/* Some weights are 0. */
static pare_tensor make_weight(ops_run *run, bool there, int64_t B)
{
    pare_tensor weight = pare_vector(NULL, PARE_F32, B);
    if (!there)
        return weight;
    float *w = weight.data = ops_memory(run, (size_t)B * 4, 4, 1);
    for (int64_t b = 0; b < B; b++)
        w[b] = (float)ops_below(run, 3) * 0.75f;
    return weight;
}

/* [B·T, cols]; NaN in the rows whose key is hidden if the case is bad. */
static pare_tensor make_rows(ops_run *run, const relation_case *c, const pare_tensor *keys,
                             pare_dtype dtype, int64_t cols, size_t shift)
{
    int64_t R = c->B * c->T;
    uint8_t *x = ops_floats(run, c->floats, dtype, R * cols, shift);
    const float nan = NAN;
    const uint16_t half = pare__f32_to_bf16(nan);
    for (int64_t i = 0; c->bad && keys->data && i < R * cols; i++)
        if (((const uint8_t *)keys->data)[i / cols] == 0)
            memcpy(x + (size_t)i * element(dtype), dtype == PARE_F32 ? (const void *)&nan : &half,
                   element(dtype));
    return pare_matrix(x, dtype, R, cols);
}

static pare_relation_args make_args(ops_run *run, const relation_case *c)
{
    pare_relation_args args = {.T = c->T,
                               .heads = c->heads,
                               .kv_heads = c->kv_heads,
                               .t_kv_heads = c->t_kv_heads,
                               .scale_t = c->scale_t,
                               .scale = c->scale,
                               .causal = c->causal,
                               .kind = c->kind,
                               .grad_scale = (float)(c->T * c->heads) / 64};
    args.keys = make_mask(run, c->mask, c->B, c->T);
    args.weight = make_weight(run, c->weighted, c->B);
    args.loss = pare_vector(NULL, PARE_F32, c->B);
    args.ta = args.tb = make_rows(run, c, &args.keys, c->t_dtype, c->heads * c->Dt, 1);
    args.a = args.b = make_rows(run, c, &args.keys, c->dtype, c->heads * c->D, 2);
    if (!c->same) {
        args.tb = make_rows(run, c, &args.keys, c->t_dtype, c->t_kv_heads * c->Dt, 3);
        args.b = make_rows(run, c, &args.keys, c->dtype, c->kv_heads * c->D, 0);
    }
    args.da = pare_matrix(NULL, c->dtype, args.a.shape[0], args.a.shape[1]);
    args.db = pare_matrix(NULL, c->dtype, args.b.shape[0], args.b.shape[1]);
    if (!c->no_da)
        args.da.data = ops_floats(run, OPS_NORMAL, c->dtype, pare_tensor_count(&args.a), 1);
    if (!c->no_db)
        args.db.data = ops_floats(run, OPS_NORMAL, c->dtype, pare_tensor_count(&args.b), 1);
    return args;
}

/* Scores of up to ±50 carry the roundings of their sums into the exponent. */
static double tolerance_of(const relation_case *c)
{
    return c->dtype == PARE_BF16 ? 0x1p-8 : c->floats == OPS_GRID ? 1e-3 : 4e-5;
}

static void check(ops_run *run, const relation_case *c)
{
    pare_relation_args args = make_args(run, c);
    size_t size = element(c->dtype);
    ops_output outs[4] = {{.pointer = offsetof(pare_relation_args, loss.data),
                           .bytes = (size_t)c->B * 4,
                           .align = 4,
                           .tolerance = c->floats == OPS_GRID ? 1e-3 : 4e-5,
                           .device = 1e-3, /* powers to 2^-22: small divergences feel it */
                           .dtype = PARE_F32}};
    int count = 1;
    for (int side = 0; side < 2; side++) {
        if (side == 0 ? c->no_da : c->no_db)
            continue;
        outs[count++] =
            (ops_output){.pointer = side == 0 ? offsetof(pare_relation_args, da.data)
                                              : offsetof(pare_relation_args, db.data),
                         .bytes = (size_t)pare_tensor_count(side == 0 ? &args.a : &args.b) * size,
                         .align = size,
                         .keeps = true,
                         .tolerance = tolerance_of(c),
                         .dtype = c->dtype};
    }
    ops_expect(run, PARE_OP_relation, &args, sizeof args, outs);
    ops_next(run);
}

/* da and db in the same memory: it gets both, on every backend what the oracle adds to it. */
static void check_one_memory(ops_run *run, const relation_case *c)
{
    pare_relation_args args = make_args(run, c);
    int64_t n = pare_tensor_count(&args.a), wrong = 0;
    size_t bytes = (size_t)n * element(c->dtype);
    const void *start = args.da.data;
    pare_relation_args want = args;
    want.da.data = want.db.data = ops_memory(run, bytes, element(c->dtype), 1);
    want.loss.data = ops_memory(run, (size_t)c->B * 4, 4, 0);
    memcpy(want.da.data, start, bytes);
    oracle_relation(&want);
    double squares = 0, tolerance = c->dtype == PARE_BF16 ? 0x1p-6 : tolerance_of(c);
    for (int64_t i = 0; i < n; i++)
        squares += pow(oracle_value(want.da.data, c->dtype, i), 2);
    pare_backend *be;
    for (int index = 0; (be = ops_backend(run, index)) != NULL; index++) {
        pare_relation_args got = args;
        got.da.data = got.db.data = ops_memory(run, bytes, element(c->dtype), 1);
        got.loss.data = ops_memory(run, (size_t)c->B * 4, 4, 0);
        memcpy(got.da.data, start, bytes);
        assert_ok(ops_call(run, PARE_OP_relation, be, &got));
        for (int64_t i = 0; i < n; i++) {
            double x = oracle_value(got.da.data, c->dtype, i);
            double y = oracle_value(want.da.data, c->dtype, i);
            wrong += !(fabs(x - y) <= tolerance * (fabs(y) + sqrt(squares / (double)n)));
        }
        if (wrong > 0)
            fail_msg("relation on %s with da and db in one memory: %lld of %lld elements are off",
                     pare_backend_name(be), (long long)wrong, (long long)n);
    }
    ops_next(run);
}

#define F32S PARE_F32, PARE_F32
#define BF16S PARE_BF16, PARE_BF16
#define KL PARE_RELATION_KL, OPS_NORMAL
#define SCORE PARE_RELATION_SCORE, OPS_NORMAL

/* Rows that stand for what models do and for every edge of the tiles (32 queries in a group; on a
 * device 64 × 64). */
static const relation_case rows[] = {
    {2, 1, 1, 1, 1, 1, 1, F32S, KL, .scale = 100, .scale_t = 60},
    {2, 1, 1, 1, 1, 1, 1, F32S, SCORE, .scale = 100, .scale_t = 60},
    {0, 4, 8, 8, 2, 1, 2, F32S, KL},
    {3, 7, 20, 12, 3, 1, 3, F32S, KL, .scale = 90, .scale_t = 70},
    {3, 7, 12, 20, 4, 2, 1, F32S, SCORE, .scale = 90, .scale_t = 70},
    {2, 31, 16, 8, 2, 2, 2, F32S, KL, .causal = true, .scale = 100, .scale_t = 80},
    {1, 32, 32, 33, 2, 2, 1, F32S, SCORE, .mask = PADDING, .scale = 50, .scale_t = 40},
    {2, 33, 64, 32, 2, 2, 2, F32S, KL, .mask = SOME, .scale = 60, .scale_t = 40, .weighted = true},
    {2, 65, 64, 16, 4, 2, 4, F32S, KL, .causal = true, .mask = PADDING, .scale = 90, .scale_t = 40},
    {2, 128, 64, 32, 3, 3, 3, F32S, KL, .mask = PADDING, .scale = 60, .scale_t = 40},
    {2, 128, 32, 64, 2, 1, 2, F32S, SCORE, .causal = true, .scale = 40, .scale_t = 60},
    {1, 257, 16, 8, 2, 1, 1, F32S, KL, .scale = 100, .scale_t = -80},
    {3, 70, 8, 8, 2, 1, 2, F32S, KL, .mask = NOTHING, .scale = 100, .scale_t = 80},
    {3, 70, 8, 8, 2, 1, 2, F32S, SCORE, .mask = NOTHING, .causal = true, .weighted = true},
    {2, 40, 24, 24, 2, 2, 2, F32S, KL, .same = true, .scale = 90, .scale_t = 60},
    {2, 40, 24, 24, 2, 2, 2, F32S, SCORE, .same = true, .scale = 90, .scale_t = 60},
    {2, 50, 64, 130, 2, 2, 2, F32S, KL, .no_da = true, .scale = 30, .scale_t = 40},
    {2, 50, 130, 64, 2, 2, 2, F32S, KL, .no_db = true, .scale = 30, .scale_t = 40},
    {2, 50, 48, 40, 2, 2, 2, F32S, KL, .no_da = true, .no_db = true, .scale = 60, .scale_t = 40},
    {1, 48, 16, 16, 1, 1, 1, F32S, PARE_RELATION_KL, OPS_GRID, .scale = 1, .scale_t = 1},
    {2, 66, 24, 16, 2, 1, 2, F32S, KL, .mask = SOME, .bad = true, .scale = 90, .scale_t = 60},
    {2, 66, 24, 16, 2, 1, 2, F32S, SCORE, .mask = PADDING, .causal = true, .bad = true, .scale = 9},
    {2, 128, 64, 32, 2, 2, 2, BF16S, KL, .mask = PADDING, .scale = 60, .scale_t = 40},
    {1, 129, 64, 64, 4, 2, 1, BF16S, KL, .causal = true, .scale = 50, .scale_t = 40},
    {1, 97, 40, 24, 2, 1, 2, BF16S, SCORE, .mask = SOME, .scale = 50, .scale_t = 40},
    {2, 63, 33, 7, 2, 2, 2, BF16S, KL, .same = true, .scale = 90, .scale_t = 40},
    {1, 64, 128, 128, 1, 1, 1, BF16S, SCORE, .scale = 30, .scale_t = 40},
    {2, 40, 16, 16, 2, 1, 2, BF16S, KL, .mask = SOME, .bad = true, .scale = 90, .scale_t = 60},
    {2, 33, 32, 16, 2, 1, 2, PARE_BF16, PARE_F32, KL, .mask = PADDING, .scale = 90, .scale_t = 60},
    {2, 33, 32, 16, 2, 2, 2, PARE_F32, PARE_BF16, KL, .weighted = true, .scale = 90, .scale_t = 60},
};

/* A row of choices. */
static relation_case random_case(ops_run *run)
{
    static const int64_t Ts[] = {1, 2, 5, 15, 16, 17, 31, 34, 48, 66, 90, 127, 131};
    static const int64_t Ds[] = {1, 3, 8, 15, 16, 20, 33, 40};
    relation_case c = {.B = 1 + ops_below(run, 3),
                       .T = Ts[ops_below(run, 13)],
                       .Dt = Ds[ops_below(run, 8)],
                       .D = Ds[ops_below(run, 8)],
                       .kv_heads = 1 + (int)ops_below(run, 2),
                       .t_dtype = ops_below(run, 3) == 0 ? PARE_BF16 : PARE_F32,
                       .dtype = ops_below(run, 3) == 0 ? PARE_BF16 : PARE_F32,
                       .kind = ops_below(run, 2) == 0 ? PARE_RELATION_KL : PARE_RELATION_SCORE,
                       .floats = OPS_NORMAL,
                       .causal = ops_below(run, 2) == 0,
                       .mask = (mask_kind)ops_below(run, MASKS),
                       .weighted = ops_below(run, 2) == 0,
                       .bad = ops_below(run, 2) == 0,
                       .scale = 70,
                       .scale_t = 90};
    c.heads = c.kv_heads * (1 + (int)ops_below(run, 2));
    c.t_kv_heads = ops_below(run, 2) == 0 ? c.heads : 1;
    return c;
}

void ops_cases_relation(ops_run *run)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check(run, &rows[i]);
    for (int i = 0; i < 40; i++) {
        relation_case c = random_case(run);
        check(run, &c);
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].same)
            check_one_memory(run, &rows[i]);
}
