/* bench_distill.c - the speed of the ops that compare students with teachers, and of those that
 * training looks through quantisers with (ops_distill.h), on the shapes of real ones: a vocabulary
 * of 30,522, layers of 768 beside 384 features, a weight of 4096 × 4096. */
#include "bench_rows.h"

/* Outputs of a language model, and the 64 likeliest of a teacher's. */
static void output_rows(bench_rows *b)
{
    static const struct {
        const char *name;
        int64_t R, V;
    } rows[] = {{"[512, 30522], 64", 512, 30522}, {"[128, 128000], 64", 128, 128000}};
    const int64_t K = 64;
    for (int k = 0; k < 2; k++) {
        int64_t R = rows[k].R * b->times, V = rows[k].V;
        const double logits = bench_size(b) * (double)(R * V), kept = 8.0 * (double)(R * K);
        pare_tensor x = bench_matrix(b, 0, R, V), dx = bench_matrix(b, 1, R, V);
        pare_tensor index = pare_matrix(b->at, PARE_I32, R, K);
        pare_tensor value = pare_matrix(b->large[0][3], PARE_F32, R, K);
        pare_tensor loss = bench_vector(b, 0, R);
        ROW(top_k, rows[k].name, logits + kept, 0, .x = x, .index = index, .value = value);
        ROW(kl_top, rows[k].name, 2 * logits + kept, 0, .x = x, .index = index, .value = value,
            .loss = loss, .dx = dx, .grad_scale = 1);
    }
}

/* Hidden states of 16 sequences of 128, and how their positions look at one another in 12 heads. */
static void hidden_rows(bench_rows *b)
{
    const int64_t B = 16 * b->times, T = 128, R = B * T, N = 384, Nt = 768, heads = 12;
    const double n = bench_size(b) * (double)(R * N), pairs = (double)(B * heads * T * T);
    pare_tensor a = bench_matrix(b, 0, R, N), k = a, da = bench_matrix(b, 2, R, N), dk = da;
    pare_tensor ta = bench_matrix(b, 1, R, Nt), tb = ta;
    k.data = (uint8_t *)a.data + (size_t)n;
    dk.data = (uint8_t *)da.data + (size_t)n;
    tb.data = (uint8_t *)ta.data + 2 * (size_t)n;
    pare_tensor loss = bench_vector(b, 0, B);
    ROW(cosine, "[2048, 384]", 3 * n, 0, .x = a, .t = k, .loss = bench_vector(b, 1, R), .dx = da,
        .grad_scale = 1);
    ROW(relation, "[16, 128], 12 heads of 64, 32", 10 * n, 2.0 * (64 + 3 * 32) * pairs, .ta = ta,
        .tb = tb, .a = a, .b = k, .da = da, .db = dk, .loss = loss, .T = T, .heads = 12,
        .kv_heads = 12, .t_kv_heads = 12, .grad_scale = 1);
    ROW(relation, "[16, 128], 12 heads of 64, 32, scores", 10 * n, 2.0 * (64 + 3 * 32) * pairs,
        .ta = ta, .tb = tb, .a = a, .b = k, .da = da, .db = dk, .loss = loss, .T = T, .heads = 12,
        .kv_heads = 12, .t_kv_heads = 12, .grad_scale = 1, .kind = PARE_RELATION_SCORE);
}

/* Rounding that training looks through. */
static void fake_quant_rows(bench_rows *b)
{
    static const struct {
        const char *name;
        int64_t rows, cols; /* of a block */
    } blocks[] = {{"[4096, 4096], by row", 1, 4096},
                  {"[4096, 4096], groups of 128", 1, 128},
                  {"[4096, 4096], whole", 4096, 4096}};
    const int64_t R = 4096, C = 4096;
    const double n = (double)(R * C);
    pare_tensor x = bench_matrix(b, 0, R, C), y = bench_matrix(b, 1, R, C);
    pare_tensor dy = bench_matrix(b, 2, R, C);
    int8_t *codes = bench_give(b->be, bench_memory(R * C), R * C);
    for (int k = 0; k < 3; k++) {
        int64_t rows = blocks[k].rows, cols = blocks[k].cols;
        pare_tensor step = pare_matrix(b->small[0], PARE_F32, R / rows, C / cols), dstep = step;
        dstep.data = b->small[1];
        ROW(fake_quant, blocks[k].name, 8 * n, 0, .x = x, .step = step, .y = y, .block_rows = rows,
            .block_cols = cols, .lo = -8, .hi = 7);
        ROW(fake_quant_grad, blocks[k].name, 12 * n, 0, .x = x, .step = step, .dy = dy, .dx = y,
            .dstep = dstep, .block_rows = rows, .block_cols = cols, .lo = -8, .hi = 7,
            .step_scale = 1);
    }
    ROW(fake_quant, "[4096, 4096], by row, with codes", 9 * n, 0, .x = x,
        .step = pare_matrix(b->small[0], PARE_F32, R, 1), .y = y,
        .codes = pare_matrix(codes, PARE_I8, R, C), .block_rows = 1, .block_cols = C, .lo = -8,
        .hi = 7);
    bench_free(b->be, codes);
}

void bench_distill(const bench_table *table, pare_backend *be, int threads, int64_t times)
{
    bench_rows *b = bench_rows_make(table, be, threads, times);
    for (int k = 0; k < 2; k++) {
        b->dtype = k ? PARE_BF16 : PARE_F32;
        output_rows(b);
        hidden_rows(b);
    }
    b->dtype = PARE_F32;
    fake_quant_rows(b);
    bench_check_rows(b->seen, PARE_OP_top_k, PARE_OP_COUNT);
    bench_rows_free(b);
}
