/* ops_oracle_nn_quant.c - the factorisation and the products of quantised
 * weights, in double. */
#include "oracle_nn.h"

#include <stdlib.h>

void oracle_cholesky(const pare_cholesky_args *args)
{
    int64_t n = args->a.shape[0];
    double *l = calloc((size_t)(n * n) + 1, sizeof *l);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = oracle_get(&args->a, i * n + j);
            for (int64_t k = 0; k < j; k++)
                sum -= l[i * n + k] * l[j * n + k];
            l[i * n + j] = i == j ? sqrt(sum) : sum / l[j * n + j];
        }
    for (int64_t i = 0; i < n * n; i++)
        oracle_put(&args->a, i, l[i]);
    free(l);
}

/* The codes of row m of x, and its scale: NaN if it holds NaN or Inf. */
static double row_codes(const pare_tensor *x, int64_t m, double *codes)
{
    int64_t K = x->shape[1];
    double top = 0;
    for (int64_t k = 0; k < K; k++) {
        double v = oracle_get(x, m * K + k);
        if (!isfinite(v))
            return (double)NAN;
        top = fmax(top, fabs(v));
    }
    double s = oracle_round_dtype(top / 127.5, PARE_F32);
    for (int64_t k = 0; k < K; k++) {
        double q = s == 0 ? 0 : oracle_round_dtype(oracle_get(x, m * K + k) / s, PARE_F32);
        codes[k] = fmax(-128, fmin(127, oracle_rint(q)));
    }
    return s;
}

void oracle_qgemm_w8a8(const pare_qgemm_w8a8_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->w.shape[0];
    double *codes = calloc((size_t)K + 1, sizeof *codes);
    for (int64_t m = 0; m < M; m++) {
        double s = row_codes(&args->x, m, codes);
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++)
                sum += codes[k] * ((const int8_t *)args->w.data)[n * K + k];
            sum *= s * oracle_get(&args->scale, n);
            if (args->bias.data)
                sum += oracle_get(&args->bias, n);
            oracle_put(&args->c, m * N + n, sum);
        }
    }
    free(codes);
}

/* Weight [n, k]. */
static double weight(const pare_qgemm_w4a16_args *a, int64_t n, int64_t k)
{
    uint8_t byte = ((const uint8_t *)a->words.data)[n * a->words.shape[1] + k / 2];
    int64_t block = n * a->scale.shape[1] + k / a->group;
    int code = (k % 2 == 0 ? byte & 15 : byte >> 4) - 8;
    int zero = a->zero.data ? ((const int8_t *)a->zero.data)[block] : 0;
    double w = oracle_round_dtype((code - zero) * oracle_get(&a->scale, block), PARE_F32);
    return oracle_round_dtype(w, a->x.dtype);
}

void oracle_qgemm_w4a16(const pare_qgemm_w4a16_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->words.shape[0];
    double *w = calloc((size_t)K + 1, sizeof *w);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t k = 0; k < K; k++)
            w[k] = weight(args, n, k);
        for (int64_t m = 0; m < M; m++) {
            double sum = args->bias.data ? oracle_get(&args->bias, n) : 0;
            for (int64_t k = 0; k < K; k++)
                sum += oracle_get(&args->x, m * K + k) * w[k];
            oracle_put(&args->c, m * N + n, sum);
        }
    }
    free(w);
}
