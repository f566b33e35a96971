/* Rows of round to nearest in one pass. */
#include "ops_harness.h"
#include "ops_oracle.h"

#include <math.h>

static const pare_dtype weights[] = {PARE_F32, PARE_F16, PARE_BF16};

/* What is written. */
enum { CODES = 1, WORDS = 2 };

typedef struct pack_row {
    int64_t rows, cols, group;
} pack_row;

/* Groups that are lanes of a warp, threads of a block (whole and cut short), odd ones, of rows that
 * are whole units of 32 and of others; pieces of the CPU, below, at and above 16384. */
static const pack_row shapes[] = {{0, 5, 2},       {5, 0, 2},     {1, 1, 1},       {1, 1, 9},
                                  {2, 7, 3},       {3, 31, 31},   {3, 32, 32},     {5, 33, 32},
                                  {2, 96, 32},     {9, 64, 64},   {3, 128, 64},    {17, 128, 128},
                                  {2, 1280, 128},  {1, 256, 256}, {3, 512, 256},   {2, 1024, 512},
                                  {1, 2048, 1024}, {2, 96, 96},   {2, 576, 576},   {1, 2080, 2080},
                                  {3, 160, 100},   {2, 160, 33},  {1, 1056, 1000}, {4, 200, 7},
                                  {1, 4100, 4100}, {2, 288, 64},  {3, 64, 1000},   {-1, 0, 0}};

static pare_quant_pack_args make_args(ops_run *run, int turn, pack_row r, int bits, ops_kind kind,
                                      size_t shift)
{
    pare_dtype dtype = weights[turn % 3];
    int64_t across = (r.cols + r.group - 1) / r.group;
    return (pare_quant_pack_args){
        .scheme = {.type = PARE_QUANT_INT, .bits = bits, .asymmetric = turn / 3 % 2 == 1},
        .scale_dtype = weights[(turn + turn / 3) % 3],
        .w = pare_matrix(ops_floats(run, kind, dtype, r.rows * r.cols, shift), dtype, r.rows,
                         r.cols),
        .block_cols = r.group,
        .scale = pare_matrix(NULL, PARE_F32, r.rows, across),
        .zero = pare_matrix(NULL, PARE_I8, r.rows, across),
        .codes = pare_matrix(NULL, PARE_I8, r.rows, r.cols),
        .words =
            pare_matrix(NULL, PARE_U8, r.rows, pare_packed_bytes(PARE_PACK_STREAM, bits, r.cols))};
}

static void one_case(ops_run *run, pare_quant_pack_args args, int what)
{
    size_t blocks = (size_t)pare_tensor_count(&args.scale);
    ops_output outs[5] = {{offsetof(pare_quant_pack_args, scale.data), blocks * 4, 4, false}};
    int n = 1;
    if (args.scheme.asymmetric)
        outs[n++] = (ops_output){offsetof(pare_quant_pack_args, zero.data), blocks, 1, false};
    if (what & CODES)
        outs[n++] = (ops_output){offsetof(pare_quant_pack_args, codes.data),
                                 (size_t)pare_tensor_count(&args.codes), 1, false};
    if (what & WORDS)
        outs[n++] = (ops_output){offsetof(pare_quant_pack_args, words.data),
                                 (size_t)pare_tensor_count(&args.words), 1, false};
    ops_expect(run, PARE_OP_quant_pack, &args, sizeof args, outs);
    ops_next(run);
}

/* Weights on the ties between their codes and, in F32, one float beside them, where w·(1/s) may
 * round unlike w/s: each group's largest weight makes its scale one of 8 bits (or, if F32, any). */
static void tie_case(ops_run *run, pare_dtype dtype, pare_dtype scale_dtype, int bits,
                     bool asymmetric)
{
    enum { N = 512, G = 128 };
    pare_quant_pack_args args = make_args(run, 0, (pack_row){1, N, G}, bits, OPS_GRID, 0);
    double s = 0, levels = (double)((1 << bits) - 1);
    args.scheme.asymmetric = asymmetric;
    args.scale_dtype = scale_dtype;
    args.w = pare_matrix(ops_memory(run, N * 4, 4, 0), dtype, 1, N);
    for (int i = 0; i < N; i++) {
        double n = (double)ops_below(run, 1 << (bits - 1)), side = (double)(i % 3 - 1) * 0x1p-24;
        if (i % G == 0)
            s = scale_dtype == PARE_F32 ? (double)(float)(1.0 + (double)ops_below(run, 4096) / 7919)
                                        : (double)(128 + ops_below(run, 128)) / 1024;
        double x = i % G == 0 ? levels / (asymmetric ? 1 : 2) * s : (n + 0.5) * s * (1 + side);
        oracle_store(args.w.data, dtype, i, i % 2 == 0 || asymmetric ? x : -x);
    }
    one_case(run, args, CODES | WORDS);
}

/* Weights so small that their scales are few steps of F16: codes end far below the least. */
static void step_case(ops_run *run, pare_dtype dtype, int bits)
{
    enum { N = 2048, G = 32 };
    pare_quant_pack_args args = make_args(run, 0, (pack_row){2, N / 2, G}, bits, OPS_GRID, 0);
    args.scale_dtype = PARE_F16;
    args.w = pare_matrix(ops_memory(run, N * 4, 4, 0), dtype, 2, N / 2);
    for (int i = 0; i < N; i++)
        oracle_store(args.w.data, dtype, i,
                     (double)(ops_below(run, 2 + i / G * 4) - i / G * 2) * 0x1p-24);
    one_case(run, args, CODES | WORDS);
}

/* A block with NaN or Inf is named: the first. */
static void damaged_case(ops_run *run, pare_backend *be, pack_row r, uint32_t bits, int64_t at)
{
    int64_t across = (r.cols + r.group - 1) / r.group, n = r.rows * r.cols;
    char block[32];
    pare_quant_pack_args args = make_args(run, 0, r, 4, OPS_NORMAL, 0);
    args.scale.data = ops_memory(run, (size_t)(r.rows * across) * 4, 4, 0);
    args.codes.data = ops_memory(run, (size_t)n, 1, 0);
    args.words.data = NULL;
    memcpy((float *)args.w.data + at, &bits, 4);
    memcpy((float *)args.w.data + n - 1, &bits, 4);
    snprintf(block, sizeof block, "block %d ", (int)(at / r.cols * across + at % r.cols / r.group));
    assert_status(ops_call(run, PARE_OP_quant_pack, be, &args), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), block));
    ops_next(run);
}

void ops_cases_quant_pack(ops_run *run)
{
    int turn = 0;
    for (const pack_row *r = shapes; r->rows >= 0; r++)
        for (int i = 0; i < 6; i++, turn++) {
            ops_kind kind = (ops_kind)(turn % 7 % OPS_WIDE);
            int bits = i == 0 ? 4 : 2 + turn % 7;
            one_case(run, make_args(run, turn, *r, bits, kind, i % 3 == 2),
                     i % 3 == 0 ? WORDS : 1 + turn % 3);
        }
    for (int bits = 2; bits <= 8; bits++) {
        one_case(run, make_args(run, 2, (pack_row){5, 128, 128}, bits, OPS_NORMAL, 0), WORDS);
        one_case(run, make_args(run, 5, (pack_row){5, 128, 32}, bits, OPS_NORMAL, 0), WORDS);
        for (int k = 0; k < 18; k++)
            tie_case(run, weights[k % 3], weights[k / 3 % 3], bits, k % 2 == 1);
        for (int k = 0; k < 3; k++)
            step_case(run, weights[k], bits);
    }
    static const uint32_t bad[] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00001u, 0x7f800001u};
    for (int k = 0; ops_backend(run, k); k++)
        for (int i = 0; i < 5; i++) {
            damaged_case(run, ops_backend(run, k), (pack_row){3, 256, 64}, bad[i], 97 + 100 * i);
            damaged_case(run, ops_backend(run, k), (pack_row){3, 1056, 1056}, bad[i], 600 * i);
            damaged_case(run, ops_backend(run, k), (pack_row){5, 33, 32}, bad[i], 31 * i);
        }
    /* Longer than a piece, and not a multiple of it. */
    one_case(run, make_args(run, 2, (pack_row){2, 16416, 96}, 3, OPS_NORMAL, 0), WORDS);
    one_case(run, make_args(run, 0, (pack_row){1, 40000, 1000}, 5, OPS_NORMAL, 0), WORDS);
    one_case(run, make_args(run, 5, (pack_row){2, 33000, 33000}, 4, OPS_NORMAL, 0), CODES);
    one_case(run, make_args(run, 3, (pack_row){300, 128, 128}, 4, OPS_NORMAL, 0), WORDS);
    for (int k = 0; k < 3; k++) { /* a device's rows of just 48 KiB */
        one_case(run, make_args(run, k, (pack_row){1, 12288, 12288}, 8, OPS_NORMAL, 0), WORDS);
        one_case(run, make_args(run, k, (pack_row){1, 24576, 24576}, 8, OPS_NORMAL, 0), WORDS);
    }
}
