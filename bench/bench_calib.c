/* bench_calib.c - the speed of the ops that compress with calibration data (ops_calib.h), on the
 * shapes of real layers. */
#include "bench_rows.h"

#include <stdlib.h>

/* ---- statistics ------------------------------------------------------------------------------ */

/* A layer's inputs: 2048 tokens, 4096 features; of gram the full product stands before it, which
 * has twice its FLOPs. */
static void statistics_rows(bench_rows *b)
{
    const int64_t R = 2048 * b->times, K = 4096;
    const double n = (double)(R * K), e = bench_size(b);
    double flops = (double)R * (double)K * (double)(K + 1), g_bytes = 4.0 * (double)(K * K);
    pare_tensor x = bench_matrix(b, 0, R, K), y = bench_matrix(b, 1, R, K);
    pare_tensor g = pare_matrix(b->large[0][3], PARE_F32, K, K);
    double *sums = bench_give(b->be, bench_memory(2 * K * 8), 2 * K * 8);
    int64_t *bins = bench_give(b->be, bench_memory(2048 * 8), 2048 * 8);
    bench_check(pare_backend_clear(b->be, g.data, 4 * K * K));
    ROW(gemm, "the full product", e * n + g_bytes, 2.0 * n * (double)K, .a = x, .b = x, .c = g,
        .trans_a = true);
    ROW(gram, "[2048, 4096]", e * n + g_bytes, flops, .x = x, .g = g);
    ROW(column_stats, "[2048, 4096]", e * n, 0, .x = x, .absmax = bench_vector(b, 0, K),
        .sum = pare_vector(sums, PARE_F64, K), .squares = pare_vector(sums + K, PARE_F64, K));
    ROW(histogram, "[2048, 4096], 2048 bins", e * n, 0, .x = x, .width = 0x1p-10f,
        .bins = pare_vector(bins, PARE_I64, 2048));
    ROW(keep_rows, "[2048, 4096], two of three", e * n * 5 / 3, 0, .x = x, .y = y,
        .keep = pare_vector(b->bytes, PARE_U8, R));
    ROW(quant_fixed, "[2048, 4096]", 2 * e * n, 0, .x = x, .y = y, .scale = 0.01f);
    bench_free(b->be, sums);
    bench_free(b->be, bins);
}

static void patches_rows(bench_rows *b)
{
    const int64_t B = 8 * b->times;
    const double e = bench_size(b);
    ROW(patches, "3x3 [8, 28, 28, 128]", e * (double)(B * 28 * 28 * 128) * 10, 0,
        .x = bench_act(b, 0, B, 28, 28, 128), .y = bench_matrix(b, 1, B * 28 * 28, 128 * 9),
        .window = {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1});
    ROW(patches, "1x1 / 2 [8, 56, 56, 256]", e * (double)(B * 28 * 28 * 256) * 2, 0,
        .x = bench_act(b, 0, B, 56, 56, 256), .y = bench_matrix(b, 1, B * 28 * 28, 256),
        .window = {{1, 1}, {2, 2}, {1, 1}, 0, 0, 0, 0});
    ROW(patches, "16x16 / 16 [8, 224, 224, 3]", e * (double)(B * 224 * 224 * 3) * 2, 0,
        .x = bench_act(b, 0, B, 224, 224, 3), .y = bench_matrix(b, 1, B * 14 * 14, 768),
        .window = {{16, 16}, {16, 16}, {1, 1}, 0, 0, 0, 0});
}

/* ---- scores, selection, scaling -------------------------------------------------------------- */

/* A layer of 4096 × 4096, as Wanda scores and selects it. */
static void selection_rows(bench_rows *b)
{
    const int64_t R = 4096, C = 4096;
    const double n = (double)(R * C);
    pare_tensor w = bench_matrix(b, 0, R, C), y = bench_matrix(b, 1, R, C);
    pare_tensor keys = pare_matrix(y.data, PARE_U32, R, C);
    pare_tensor mask = pare_matrix(b->large[0][2], PARE_U8, R, C / 8);
    pare_tensor full = bench_matrix(b, 3, R, C), cols = bench_vector(b, 0, C);
    double *dots = bench_give(b->be, bench_memory(R * 8), R * 8);
    ROW(keys_scaled, "[4096, 4096], by columns", 8 * n, 0, .w = w, .cols = cols, .keys = keys);
    ROW(keys_scaled, "[4096, 4096], |w g|^2", 12 * n, 0, .w = w, .full = full, .square = true,
        .keys = keys);
    ROW(mask_rows, "[4096, 4096], 50 %", n * 33 / 8, 0, .x = w, .prune = C / 2, .mask = mask);
    ROW(mask_rows, "[4096, 4096], 90 %", n * 33 / 8, 0, .x = w, .prune = C * 9 / 10, .mask = mask);
    ROW(mask_nm, "[4096, 4096], 2:4", n * 33 / 8, 0, .x = w, .n = 2, .m = 4, .mask = mask);
    ROW(mask_apply, "[4096, 4096], 2:4", n * 65 / 8, 0, .x = full, .mask = mask);
    ROW(square_add, "[4096, 4096]", 12 * n, 0, .x = w, .y = full);
    ROW(row_dot, "[4096, 4096]", 8 * n, 0, .a = w, .b = full, .y = pare_vector(dots, PARE_F64, R));
    ROW(scale, "[4096, 4096], rows and columns", 8 * n, 0, .x = w, .y = y,
        .rows = bench_vector(b, 1, R), .cols = cols);
    bench_free(b->be, dots);
}

/* ---- the column sweep ------------------------------------------------------------------------ */

/* A panel in the middle of a layer of 4096 × 4096. The factor is the identity, so that errors move
 * nothing, whatever is repeated, and is as much work as any other. */
static void panel_rows(bench_rows *b, pare_tensor u)
{
    const int64_t R = 4096, C = 4096, N = PARE_OBS_PANEL, first = 2048, cells = R * N;
    const double n = (double)cells, moved = n * (double)(N - 1);
    pare_tensor w = pare_matrix(b->large[0][0], PARE_F32, R, N);
    pare_tensor err = pare_matrix(b->large[0][1], PARE_F32, R, N);
    pare_tensor all = pare_matrix(b->large[0][2], PARE_F32, R, C);
    double *loss = bench_give(b->be, bench_memory(R * 8), R * 8);
    uint32_t *keys = bench_give(b->be, bench_memory(cells * 4), cells * 4);
    uint8_t *bits = bench_give(b->be, bench_memory(cells / 8), cells / 8);
    int8_t *codes = bench_give(b->be, bench_memory(cells), cells);
    pare_tensor sums = pare_vector(loss, PARE_F64, R), mask = pare_matrix(bits, PARE_U8, R, N / 8);
    pare_tensor scale = pare_matrix(b->small[0], PARE_F32, R, 1);
    ROW(keys_obs, "[4096, 128]", 8 * n, 0, .w = w, .u = u, .first = first,
        .keys = pare_matrix(keys, PARE_U32, R, N));
    ROW(obs_block, "[4096, 128], w4g128", 13 * n, moved, .w = w, .u = u, .first = first,
        .scheme = {.type = PARE_QUANT_INT, .bits = 4}, .block_rows = 1, .block_cols = N,
        .scale = scale, .codes = pare_matrix(codes, PARE_I8, R, N), .err = err, .loss = sums);
    ROW(obs_block, "[4096, 128], 2:4", 12 * n, moved, .w = w, .u = u, .first = first, .n = 2,
        .m = 4, .mask = mask, .err = err, .loss = sums);
    ROW(obs_update, "[4096, 128] to 1920 columns", 8 * 1920.0 * (double)R, 2 * 1920.0 * n, .w = all,
        .err = err, .u = u, .first = first, .last = C);
    bench_free(b->be, loss);
    bench_free(b->be, keys);
    bench_free(b->be, bits);
    bench_free(b->be, codes);
}

/* The inverse of the identity is the identity, as is its mirror image. */
static void sweep_rows(bench_rows *b)
{
    const int64_t K = 4096;
    const double bytes = 4.0 * (double)(K * K), flops = (double)(K * K) * (double)K / 3;
    float *host = bench_memory(K * K * 4);
    int32_t *order = bench_memory(K * 4);
    for (int64_t i = 0; i < K; i++) {
        host[i * K + i] = 1;
        order[i] = (int32_t)(K - 1 - i);
    }
    float *a = bench_give(b->be, host, K * K * 4);
    order = bench_give(b->be, order, K * 4);
    pare_tensor u = pare_matrix(a, PARE_F32, K, K), turned = pare_vector(order, PARE_I32, K);
    pare_tensor y = pare_matrix(b->large[0][0], PARE_F32, K, K);
    ROW(permute, "[4096, 4096], reversed", 2 * bytes, 0, .x = u, .y = y, .rows = turned,
        .cols = turned);
    ROW(permute, "[4096, 4096], reversed, lower", 2 * bytes, 0, .x = u, .y = y, .rows = turned,
        .cols = turned, .lower = true);
    ROW(diagonal, "[4096, 4096]", 8.0 * (double)K, 0, .a = u, .d = bench_vector(b, 0, K));
    ROW(cholesky, "[4096, 4096]", 2 * bytes, flops, .a = u);
    ROW(tri_inverse, "[4096, 4096]", 2 * bytes, flops, .l = u);
    panel_rows(b, u);
    bench_free(b->be, a);
    bench_free(b->be, order);
}

/* ---- all ------------------------------------------------------------------------------------- */

void bench_calib(const bench_table *table, pare_backend *be, int threads, int64_t times)
{
    bench_rows *b = bench_rows_make(table, be, threads, times);
    for (int k = 0; k < 2; k++) {
        b->dtype = k ? PARE_BF16 : PARE_F32;
        statistics_rows(b);
        patches_rows(b);
    }
    b->dtype = PARE_F32;
    selection_rows(b);
    sweep_rows(b);
    bench_check_rows(b->seen, PARE_OP_gram, PARE_OP_top_k);
    bench_rows_free(b);
}
