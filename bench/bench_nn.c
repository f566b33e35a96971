/* bench_nn.c - the speed of the ops that models are run and trained with, on the shapes of real
 * models. */
#include "bench_rows.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- products -------------------------------------------------------------------------------- */

/* A transformer's linear layer: 4096 tokens, 384 features to 1536. */
static void product_rows(bench_rows *b)
{
    const int64_t R = 4096 * b->times, I = 384, O = 1536;
    double e = bench_size(b), flops = 2.0 * (double)(R * I * O);
    double each = e * (double)(R * I + I * O + R * O);
    pare_tensor x = bench_matrix(b, 0, R, I), w = bench_matrix(b, 1, O, I),
                y = bench_matrix(b, 2, R, O);
    pare_tensor dw = pare_matrix(b->large[0][3], PARE_F32, O, I);
    ROW(gemm, "linear [4096, 384] to 1536", each, flops, .a = x, .b = w, .c = y, .trans_b = true,
        .bias = bench_vector(b, 0, O));
    ROW(gemm, "its gradient by x", each, flops, .a = y, .b = w, .c = bench_matrix(b, 3, R, I));
    ROW(gemm, "its gradient by w", each, flops, .a = y, .b = x, .c = dw, .trans_a = true);
    ROW(gemm, "one token, [1, 4096] to 4096", e * 4096 * 4098, 2.0 * 4096 * 4096,
        .a = bench_matrix(b, 0, 1, 4096), .b = bench_matrix(b, 1, 4096, 4096),
        .c = bench_matrix(b, 2, 1, 4096), .trans_b = true);
    ROW(colsum, "[4096, 1536]", e * (double)(R * O), 0, .x = y, .y = bench_vector(b, 0, O));
}

/* Products with weights of 8 and 4 bits in groups of 128: [rows, 4096] to 4096. */
static void quantised_rows(bench_rows *b, const char *name, int64_t rows)
{
    const int64_t N = 4096, K = 4096, G = 128;
    double e = bench_size(b) * (double)(rows * (K + N)), flops = 2.0 * (double)(rows * N * K);
    pare_tensor x = bench_matrix(b, 0, rows, K), c = bench_matrix(b, 2, rows, N);
    pare_tensor w = pare_matrix(b->large[0][1], PARE_I8, N, K);
    pare_tensor words = pare_matrix(b->large[0][1], PARE_U8, N, K / 2);
    ROW(qgemm_w8a8, name, e + (double)(N * K), flops, .x = x, .w = w,
        .scale = bench_vector(b, 0, N), .c = c);
    ROW(qgemm_w4a16, name, e + (double)(N * K / 2 + 4 * N * K / G), flops, .x = x, .words = words,
        .scale = pare_matrix(b->large[0][3], PARE_F32, N, K / G), .c = c, .group = G);
}

/* The factor of the identity is the identity: each run finds what the one before left. */
static void solver_rows(bench_rows *b)
{
    const int64_t n = 2048;
    float *host = bench_memory(n * n * 4);
    for (int64_t i = 0; i < n; i++)
        host[i * n + i] = 1;
    float *a = bench_give(b->be, host, n * n * 4);
    ROW(cholesky, "[2048, 2048]", 4.0 * (double)(n * n), (double)(n * n) * (double)n / 3,
        .a = pare_matrix(a, PARE_F32, n, n));
    bench_free(b->be, a);
}

typedef struct conv_row {
    const char *name;
    int64_t B, H, W, I, O;
    pare_window window;
    int groups;
} conv_row;

static const conv_row convs[] = {
    {"7x7 / 2 [8, 224, 224, 3] to 64", 8, 224, 224, 3, 64, {{7, 7}, {2, 2}, {1, 1}, 3, 3, 3, 3}, 1},
    {"3x3 [8, 28, 28, 128] to 128", 8, 28, 28, 128, 128, {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 1},
    {"1x1 [8, 28, 28, 512] to 128", 8, 28, 28, 512, 128, {{1, 1}, {1, 1}, {1, 1}, 0, 0, 0, 0}, 1},
    {"3x3 [128, 32, 32, 16] to 16", 128, 32, 32, 16, 16, {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1}, 1},
    {"3x3 depthwise [8, 56, 56, 144]",
     8,
     56,
     56,
     144,
     144,
     {{3, 3}, {1, 1}, {1, 1}, 1, 1, 1, 1},
     144},
};

static void conv_rows(bench_rows *b)
{
    for (size_t k = 0; k < sizeof convs / sizeof convs[0]; k++) {
        const conv_row *c = &convs[k];
        int64_t B = c->B * b->times;
        int64_t H = pare_window_out(&c->window, 0, c->H), W = pare_window_out(&c->window, 1, c->W);
        int64_t kh = c->window.kernel[0], kw = c->window.kernel[1], inner = c->I / c->groups;
        pare_tensor x = bench_act(b, 0, B, c->H, c->W, c->I), y = bench_act(b, 2, B, H, W, c->O);
        pare_tensor w = bench_act(b, 1, c->O, inner, kh, kw), dw = w, dx = x;
        dx.data = b->large[b->dtype == PARE_BF16][3];
        dw.data = b->large[0][3];
        dw.dtype = PARE_F32;
        double outs = (double)(B * H * W * c->O), weights = (double)(c->O * inner * kh * kw);
        double bytes = bench_size(b) * ((double)(B * c->H * c->W * c->I) + outs + weights);
        double flops = 2 * outs * (double)(inner * kh * kw);
        ROW(conv, c->name, bytes, flops, .x = x, .w = w, .y = y, .window = c->window,
            .groups = c->groups);
        ROW(conv_grad_x, c->name, bytes, flops, .dy = y, .w = w, .dx = dx, .window = c->window,
            .groups = c->groups);
        ROW(conv_grad_w, c->name, bytes, flops, .x = x, .dy = y, .dw = dw, .window = c->window,
            .groups = c->groups);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

static void norm_rows(bench_rows *b)
{
    int64_t R = 25088 * b->times, C = 256; /* [8, 56, 56, 256] */
    double n = bench_size(b) * (double)(R * C);
    pare_tensor x = bench_matrix(b, 0, R, C), y = bench_matrix(b, 1, R, C),
                dy = bench_matrix(b, 2, R, C);
    pare_tensor dx = bench_matrix(b, 3, R, C), gamma = bench_vector(b, 0, C),
                beta = bench_vector(b, 1, C);
    pare_tensor mean = bench_vector(b, 2, C), scale = bench_vector(b, 3, C);
    ROW(batch_norm, "training [25088, 256], relu", 3 * n, 0, .x = x, .gamma = gamma, .beta = beta,
        .running_mean = bench_vector(b, 4, C), .running_var = bench_vector(b, 5, C), .y = y,
        .saved_mean = mean, .saved_scale = scale, .eps = 1e-5f, .momentum = 0.1f, .training = true,
        .relu = true);
    ROW(batch_norm, "inference, z, relu", 3 * n, 0, .x = x, .gamma = gamma, .beta = beta,
        .running_mean = bench_vector(b, 4, C), .running_var = bench_vector(b, 5, C), .z = dy,
        .y = y, .eps = 1e-5f, .relu = true);
    ROW(batch_norm_fold, "256", 24.0 * (double)C, 0, .gamma = gamma, .beta = beta,
        .running_mean = bench_vector(b, 4, C), .running_var = bench_vector(b, 5, C), .scale = mean,
        .shift = scale, .eps = 1e-5f);
    ROW(batch_norm_grad, "[25088, 256], relu", 7 * n, 0, .dy = dy, .x = x, .y = y, .gamma = gamma,
        .saved_mean = mean, .saved_scale = scale, .dx = dx, .dgamma = bench_vector(b, 4, C),
        .dbeta = bench_vector(b, 5, C), .relu = true);
    ROW(batch_norm_grad, "frozen, relu", 4 * n, 0, .dy = dy, .x = x, .y = y, .gamma = gamma,
        .saved_mean = mean, .saved_scale = scale, .dx = dx, .dgamma = bench_vector(b, 4, C),
        .dbeta = bench_vector(b, 5, C), .frozen = true, .relu = true);
    R = 8192 * b->times;
    C = 384;
    n = bench_size(b) * (double)(R * C);
    x = bench_matrix(b, 0, R, C);
    y = bench_matrix(b, 1, R, C);
    dy = bench_matrix(b, 2, R, C);
    dx = bench_matrix(b, 3, R, C);
    gamma = bench_vector(b, 0, C);
    beta = bench_vector(b, 1, C);
    mean = bench_vector(b, 2, R);
    scale = bench_vector(b, 3, R);
    ROW(layer_norm, "[8192, 384]", 2 * n, 0, .x = x, .gamma = gamma, .beta = beta, .y = y,
        .saved_mean = mean, .saved_scale = scale, .eps = 1e-5f);
    ROW(layer_norm_grad, "[8192, 384]", 3 * n, 0, .dy = dy, .x = x, .gamma = gamma,
        .saved_mean = mean, .saved_scale = scale, .dx = dx, .dgamma = bench_vector(b, 4, C),
        .dbeta = bench_vector(b, 5, C));
    ROW(rms_norm, "[8192, 384]", 2 * n, 0, .x = x, .gamma = gamma, .y = y, .saved_scale = scale,
        .eps = 1e-5f);
    ROW(rms_norm_grad, "[8192, 384]", 3 * n, 0, .dy = dy, .x = x, .gamma = gamma,
        .saved_scale = scale, .dx = dx, .dgamma = bench_vector(b, 4, C));
}

/* ---- element by element ---------------------------------------------------------------------- */

static void element_rows(bench_rows *b)
{
    static const char *const names[PARE_FNS] = {"identity",   "relu", "gelu", "gelu tanh",
                                                "gelu quick", "silu", "tanh", "sigmoid"};
    const int64_t R = 8192 * b->times, N = 1536, B = 16 * b->times;
    double n = bench_size(b) * (double)(R * N);
    pare_tensor x = bench_matrix(b, 0, R, N), y = bench_matrix(b, 1, R, N),
                z = bench_matrix(b, 2, R, N);
    pare_tensor w = bench_matrix(b, 3, R, N), half = bench_matrix(b, 1, R, N / 2), w2 = w;
    w2.data = (uint8_t *)w.data + (size_t)n;
    ROW(softmax, "[8192, 1536]", 2 * n, 0, .x = x, .y = y);
    ROW(softmax_grad, "[8192, 1536]", 3 * n, 0, .dy = x, .y = y, .dx = z);
    for (int f = 0; f < PARE_FNS; f++) {
        ROW(act, names[f], 2 * n, 0, .x = x, .y = y, .fn = (pare_fn)f);
        ROW(act_grad, names[f], 3 * n, 0, .dy = x, .x = z, .dx = y, .fn = (pare_fn)f);
    }
    ROW(glu, "silu", 3 * n, 0, .a = x, .b = z, .y = y, .fn = PARE_FN_SILU);
    ROW(glu_grad, "silu", 5 * n, 0, .dy = y, .a = x, .b = z, .da = w, .db = w2, .fn = PARE_FN_SILU);
    ROW(fill, "", n, 0, .y = y, .value = 0.5f);
    ROW(add, "relu", 3 * n, 0, .a = x, .b = w, .y = y, .relu = true);
    ROW(add_rows, "", 2 * n, 0, .x = w, .y = y, .v = bench_vector(b, 0, N));
    ROW(copy_cols, "half of the columns", n, 0, .x = w, .y = half, .x_first = N / 2, .cols = N / 2);
    ROW(transpose, "[16, 512, 1536]", 2 * n, 0, .x = bench_act(b, 0, B, 512, N, 0),
        .y = bench_act(b, 1, B, N, 512, 0));
    ROW(dropout, "0.1", 2 * n, 0, .x = w, .y = y, .p = 0.1f, .seed = 1);
    ROW(quant_rows, "[8192, 1536]", 2 * n, 0, .x = w, .y = y);
}

/* ---- sequences ------------------------------------------------------------------------------- */

static void attention_rows(bench_rows *b, const char *name, int64_t B, int64_t T, int heads,
                           int64_t D, bool causal)
{
    B *= b->times;
    int64_t R = B * T, N = heads * D;
    double n = bench_size(b) * (double)(R * N), each = 2.0 * (double)(R * T * N) / (causal ? 2 : 1);
    pare_tensor q = bench_matrix(b, 0, R, N), k = q, v = q, dq = bench_matrix(b, 2, R, N), dk = dq,
                dv = dq;
    size_t step = (size_t)n;
    k.data = (uint8_t *)q.data + step;
    v.data = (uint8_t *)q.data + 2 * step;
    dk.data = (uint8_t *)dq.data + step;
    dv.data = (uint8_t *)dq.data + 2 * step;
    pare_tensor y = bench_matrix(b, 1, R, N), dy = bench_matrix(b, 3, R, N);
    pare_tensor lse = {b->at, PARE_F32, 3, {B, heads, T}};
    ROW(attention, name, 4 * n, 2 * each, .q = q, .k = k, .v = v, .y = y, .lse = lse, .T = T,
        .heads = heads, .kv_heads = heads, .causal = causal);
    ROW(attention_grad, name, 8 * n, 5 * each, .dy = dy, .q = q, .k = k, .v = v, .y = y, .lse = lse,
        .dq = dq, .dk = dk, .dv = dv, .T = T, .heads = heads, .kv_heads = heads, .causal = causal);
}

static void sequence_rows(bench_rows *b)
{
    const int64_t R = 8192 * b->times, N = 384, V = 30522, B = 64 * b->times;
    double n = bench_size(b) * (double)(R * N);
    pare_tensor ids = pare_vector(b->ids, PARE_I32, R), x = bench_matrix(b, 0, R, N);
    pare_tensor w = pare_matrix(b->large[0][3], PARE_F32, V, N);
    ROW(embedding, "[8192, 384] of 30522", n + 4.0 * (double)(R * N), 0, .ids = ids, .w = w,
        .y = bench_matrix(b, 1, R, N));
    ROW(embedding_grad, "[8192, 384] of 30522", n + 8.0 * (double)(R * N), 0, .ids = ids, .dy = x,
        .dw = w);
    ROW(rotary, "[8192, 6 heads of 64]", 2 * n, 0, .x = x, .y = bench_matrix(b, 1, R, N),
        .cos = pare_matrix(b->small[0], PARE_F32, 512, 32),
        .sin = pare_matrix(b->small[1], PARE_F32, 512, 32), .T = 512, .heads = 6);
    attention_rows(b, "[32, 128], 12 heads of 32", 32, 128, 12, 32, false);
    attention_rows(b, "[8, 1024], 6 heads of 64, causal", 8, 1024, 6, 64, true);
    ROW(pool_seq, "[64, 128, 384], masked", n, 0, .x = bench_act(b, 0, B, 128, N, 0),
        .keys = pare_matrix(b->bytes, PARE_U8, B, 128), .y = bench_matrix(b, 1, B, N));
    ROW(pool_seq_grad, "[64, 128, 384], masked", n, 0, .dy = bench_matrix(b, 1, B, N),
        .keys = pare_matrix(b->bytes, PARE_U8, B, 128), .dx = bench_act(b, 3, B, 128, N, 0));
}

/* ---- pools ----------------------------------------------------------------------------------- */

static void pool_rows(bench_rows *b)
{
    static const pare_window three = {{3, 3}, {2, 2}, {1, 1}, 1, 1, 1, 1};
    static const pare_window two = {{2, 2}, {2, 2}, {1, 1}, 0, 0, 0, 0};
    static const pare_window all = {{7, 7}, {1, 1}, {1, 1}, 0, 0, 0, 0};
    int64_t B = 16 * b->times, many = 128 * b->times;
    double e = bench_size(b), in = (double)B * 112 * 112 * 64, out = in / 4;
    double image = (double)many * 49 * 2048;
    pare_tensor x = bench_act(b, 0, B, 112, 112, 64), y = bench_act(b, 1, B, 56, 56, 64), at = y;
    pare_tensor dx = bench_act(b, 3, B, 112, 112, 64);
    pare_tensor large = bench_act(b, 0, many, 7, 7, 2048),
                d_large = bench_act(b, 3, many, 7, 7, 2048);
    pare_tensor means = bench_act(b, 1, many, 1, 1, 2048);
    at.data = b->at;
    at.dtype = PARE_I32;
    ROW(pool_max, "3x3 / 2 [16, 112, 112, 64]", e * (in + out) + 4 * out, 0, .x = x, .y = y,
        .at = at, .window = three);
    ROW(pool_max_grad, "3x3 / 2 [16, 112, 112, 64]", e * (in + out) + 4 * out, 0, .dy = y, .at = at,
        .dx = dx, .window = three);
    ROW(pool_max, "2x2 / 2 [16, 112, 112, 64]", e * (in + out) + 4 * out, 0, .x = x, .y = y,
        .at = at, .window = two);
    ROW(pool_max_grad, "2x2 / 2 [16, 112, 112, 64]", e * (in + out) + 4 * out, 0, .dy = y, .at = at,
        .dx = dx, .window = two);
    ROW(pool_avg, "3x3 / 2 [16, 112, 112, 64]", e * (in + out), 0, .x = x, .y = y, .window = three);
    ROW(pool_avg_grad, "3x3 / 2 [16, 112, 112, 64]", e * (in + out), 0, .dy = y, .dx = dx,
        .window = three);
    ROW(pool_avg, "global [128, 7, 7, 2048]", e * image, 0, .x = large, .y = means, .window = all);
    ROW(pool_avg_grad, "global [128, 7, 7, 2048]", e * image, 0, .dy = means, .dx = d_large,
        .window = all);
    in = (double)many * 32 * 32 * 16;
    x = bench_act(b, 0, many, 32, 32, 16);
    y = bench_act(b, 1, many, 16, 16, 32);
    dx = bench_act(b, 3, many, 32, 32, 16);
    ROW(shortcut, "[128, 32, 32, 16] to 32", e * (in / 4 + in / 2), 0, .x = x, .y = y, .stride = 2,
        .before = 8);
    ROW(shortcut_grad, "[128, 32, 32, 16] to 32", e * (in / 4 + in), 0, .dy = y, .dx = dx,
        .stride = 2, .before = 8);
}

/* ---- losses and optimisers ------------------------------------------------------------------- */

static void loss_rows(bench_rows *b)
{
    static const struct {
        const char *name;
        int64_t R, V;
    } rows[] = {
        {"[256, 1000]", 256, 1000}, {"[512, 32000]", 512, 32000}, {"[128, 151936]", 128, 151936}};
    for (int k = 0; k < 3; k++) {
        int64_t R = rows[k].R * b->times, V = rows[k].V;
        double n = bench_size(b) * (double)(R * V);
        pare_tensor x = bench_matrix(b, 0, R, V), t = bench_matrix(b, 1, R, V),
                    dx = bench_matrix(b, 2, R, V);
        pare_tensor labels = pare_vector(b->ids, PARE_I32, R), loss = bench_vector(b, 0, R);
        ROW(cross_entropy, rows[k].name, 2 * n, 0, .x = x, .labels = labels, .loss = loss,
            .rank = pare_vector(b->at, PARE_I32, R), .dx = dx, .smoothing = 0.1f, .grad_scale = 1);
        ROW(kl, rows[k].name, 2 * n, 0, .teacher = t, .x = x, .kl = loss,
            .same = pare_vector(b->at, PARE_U8, R));
        for (int kind = PARE_DIVERGENCE_FORWARD; kind <= PARE_DIVERGENCE_JS; kind++) {
            static const char *const names[] = {"gradient", "reverse, gradient", "JS, gradient"};
            char detail[64];
            snprintf(detail, sizeof detail, "%s, %s", rows[k].name, names[kind]);
            ROW(kl, detail, 3 * n, 0, .teacher = t, .x = x, .kl = loss, .dx = dx, .grad_scale = 1,
                .temperature = 2, .divergence = (pare_divergence)kind);
        }
        ROW(mse, rows[k].name, 3 * n, 0, .x = x, .t = t, .loss = loss, .dx = dx, .grad_scale = 1);
    }
}

/* As many parameters as MiniLM has. */
static void optimiser_rows(bench_rows *b)
{
    const int64_t N = 22713216 * b->times;
    const double n = (double)N;
    pare_tensor w = bench_params(b, 0, N), g = bench_params(b, 1, N), m = bench_params(b, 2, N),
                v = bench_params(b, 3, N);
    pare_tensor mask = pare_vector(b->bytes, PARE_U8, N);
    bench_check(pare_backend_clear(b->be, m.data, 4 * N));
    bench_check(pare_backend_clear(b->be, v.data, 4 * N));
    ROW(sgd, "22.7 M, momentum", 20.0 * n, 0, .w = w, .g = g, .m = m, .rate = 1e-6f,
        .momentum = 0.9f, .decay = 1e-4f, .grad_scale = 1);
    ROW(sgd, "22.7 M, momentum, mask", 21.0 * n, 0, .w = w, .g = g, .m = m, .mask = mask,
        .rate = 1e-6f, .momentum = 0.9f, .decay = 1e-4f, .grad_scale = 1);
    ROW(adamw, "22.7 M", 28.0 * n, 0, .w = w, .g = g, .m = m, .v = v, .rate = 1e-6f, .beta1 = 0.9f,
        .beta2 = 0.999f, .eps = 1e-8f, .decay = 0.01f, .grad_scale = 1, .step = 100);
    ROW(adamw, "22.7 M, mask", 29.0 * n, 0, .w = w, .g = g, .m = m, .v = v, .mask = mask,
        .rate = 1e-6f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .decay = 0.01f,
        .grad_scale = 1, .step = 100);
    ROW(ema, "22.7 M", 12.0 * n, 0, .e = w, .w = g, .decay = 0.999f);
    pare_tensor sum = pare_vector(m.data, PARE_F64, 1);
    ROW(sum_squares, "22.7 M", 4.0 * n, 0, .x = g, .sum = sum);
    ROW(sum_squares, "22.7 M, mask", 5.0 * n, 0, .x = g, .mask = mask, .sum = sum);
}

/* ---- all ------------------------------------------------------------------------------------- */

void bench_nn(const bench_table *table, pare_backend *be, int threads, int64_t times)
{
    bench_rows *b = bench_rows_make(table, be, threads, times);
    for (int k = 0; k < 2; k++) {
        b->dtype = k ? PARE_BF16 : PARE_F32;
        product_rows(b);
        quantised_rows(b, "[1, 4096] to 4096", 1);
        quantised_rows(b, "[512, 4096] to 4096", 512);
        if (b->dtype == PARE_F32)
            solver_rows(b);
        conv_rows(b);
        norm_rows(b);
        element_rows(b);
        sequence_rows(b);
        pool_rows(b);
        loss_rows(b);
    }
    b->dtype = PARE_F32;
    optimiser_rows(b);
    bench_check_rows(b->seen, PARE_OP_gemm, PARE_OP_gram);
    bench_rows_free(b);
}
