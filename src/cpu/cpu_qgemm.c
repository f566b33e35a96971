/* cpu_qgemm.c - products of quantised weights: int8 by int8, and 4-bit codes by
 * activations.
 *
 * Threads share the columns of c. w8a8: the rows of x are quantised once into
 * scratch, as 16-bit numbers, which multiply in pairs to exact 32-bit sums.
 * w4a16: each thread lays one row of weights out as f32 and multiplies all rows
 * of x by it, four at a time. Bound by arithmetic; with few rows of x by
 * unpacking.
 */
#include "cpu_nn.h"
#include "cpu_row.h"

#define AT_ONCE 4 /* rows of x that share one reading of weights */

/* ---- w8a8
 * ------------------------------------------------------------------------------------
 */

typedef struct int8_call {
    const pare_qgemm_w8a8_args *args;
    int16_t *codes; /* [M, K] */
    float *sx;      /* [M] */
} int8_call;

/* The codes of one row and its scale: NaN if it holds NaN or Inf. Magnitudes
 * are ordered as bits. */
CPU_INLINE float quantise_row_of(const void *x, pare_dtype dtype, int64_t at, int64_t n,
                                 int16_t *codes)
{
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = pare__f32_bits(cpu_get(x, dtype, at + i)) & 0x7fffffffu;
        top = bits > top ? bits : top;
    }
    float s = pare__bits_f32(top) / 127.5f;
    if (top >= 0x7f800000u || s == 0) {
        memset(codes, 0, (size_t)n * sizeof *codes);
        return s == 0 ? 0 : NAN;
    }
    for (int64_t i = 0; i < n; i++) {
        float q = cpu_get(x, dtype, at + i) / s;
        q = (q + CPU_RINT) - CPU_RINT;
        codes[i] = (int16_t)(q > 127.0f ? 127.0f : q < -128.0f ? -128.0f : q);
    }
    return s;
}

CPU_LOOP float quantise_row(const void *x, pare_dtype dtype, int64_t at, int64_t n, int16_t *codes)
{
    return dtype == PARE_F32 ? quantise_row_of(x, PARE_F32, at, n, codes)
                             : quantise_row_of(x, PARE_BF16, at, n, codes);
}

static void quantise_part(const void *user, int64_t first, int64_t last)
{
    const int8_call *c = user;
    int64_t K = c->args->x.shape[1];
    for (int64_t m = first; m < last; m++)
        c->sx[m] = quantise_row(c->args->x.data, c->args->x.dtype, m * K, K, c->codes + m * K);
}

/* Sums of AT_ONCE rows of codes with one of weights. */
CPU_LOOP void int8_sums(const int16_t *codes, int64_t K, const int8_t *w, int32_t sums[AT_ONCE])
{
    const int16_t *a = codes, *b = a + K, *c = b + K, *d = c + K;
    int32_t s = 0, t = 0, u = 0, v = 0;
    for (int64_t k = 0; k < K; k++) {
        int16_t by = w[k];
        s += a[k] * by;
        t += b[k] * by;
        u += c[k] * by;
        v += d[k] * by;
    }
    sums[0] = s;
    sums[1] = t;
    sums[2] = u;
    sums[3] = v;
}

CPU_LOOP int32_t int8_sum(const int16_t *codes, int64_t K, const int8_t *w)
{
    int32_t sum = 0;
    for (int64_t k = 0; k < K; k++)
        sum += codes[k] * (int16_t)w[k];
    return sum;
}

static void int8_part(const void *user, int64_t first, int64_t last)
{
    const int8_call *call = user;
    const pare_qgemm_w8a8_args *a = call->args;
    int64_t M = a->x.shape[0], K = a->x.shape[1], N = a->w.shape[0];
    const float *scale = a->scale.data, *bias = a->bias.data;
    for (int64_t n = first; n < last; n++) {
        const int8_t *w = (const int8_t *)a->w.data + n * K;
        for (int64_t m = 0; m < M; m += AT_ONCE) {
            int32_t sums[AT_ONCE];
            int64_t rows = cpu_min(AT_ONCE, M - m);
            if (rows == AT_ONCE)
                int8_sums(call->codes + m * K, K, w, sums);
            else
                for (int64_t r = 0; r < rows; r++)
                    sums[r] = int8_sum(call->codes + (m + r) * K, K, w);
            for (int64_t r = 0; r < rows; r++) {
                float c = (float)sums[r] * call->sx[m + r] * scale[n];
                cpu_put(a->c.data, a->c.dtype, (m + r) * N + n, bias ? c + bias[n] : c);
            }
        }
    }
}

pare_status PARE_CPU(pare_cpu_qgemm_w8a8)(pare_backend *be, const pare_qgemm_w8a8_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->w.shape[0];
    void *scratch = NULL;
    if (M == 0 || N == 0)
        return PARE_OK;
    PARE_TRY(
        pare__scratch(be, (size_t)M * ((size_t)K * sizeof(int16_t) + sizeof(float)), &scratch));
    int8_call call = {.args = args, .sx = scratch, .codes = (int16_t *)((float *)scratch + M)};
    cpu_split(be, M, 1, quantise_part, &call);
    cpu_split(be, N, 1, int8_part, &call);
    return PARE_OK;
}

/* ---- w4a16
 * -----------------------------------------------------------------------------------
 */

typedef struct int4_call {
    const pare_qgemm_w4a16_args *args;
    float *x;      /* [M, K] */
    float *rows;   /* [parts, K]: a row of weights for each thread */
    int64_t grain; /* columns of a part */
} int4_call;

/* (u − 8 − zero)·scale of the codes [first, last) of a row of packed bytes;
 * first is even. */
CPU_LOOP void unpack_group(const uint8_t *bytes, int64_t first, int64_t last, float scale, int zero,
                           float *to)
{
    int offset = 8 + zero;
    for (int64_t i = first / 2; i < last / 2; i++) {
        to[2 * i] = (float)((int)(bytes[i] & 15u) - offset) * scale;
        to[2 * i + 1] = (float)((int)(bytes[i] >> 4) - offset) * scale;
    }
    if (last % 2 != 0)
        to[last - 1] = (float)((int)(bytes[last / 2] & 15u) - offset) * scale;
}

static void lay_out(const pare_qgemm_w4a16_args *a, int64_t n, float *to)
{
    int64_t K = a->x.shape[1], groups = a->scale.shape[1];
    const uint8_t *bytes = (const uint8_t *)a->words.data + n * a->words.shape[1];
    const float *scale = (const float *)a->scale.data + n * groups;
    const int8_t *zero = a->zero.data ? (const int8_t *)a->zero.data + n * groups : NULL;
    for (int64_t g = 0; g < groups; g++)
        unpack_group(bytes, g * a->group, cpu_min(K, (g + 1) * a->group), scale[g],
                     zero ? zero[g] : 0, to);
    PARE_CPU(pare__cpu_round)(to, a->x.dtype, K);
}

/* Sums of `rows` ≤ AT_ONCE rows of x with one of weights. */
CPU_INLINE void row_sums_of(const float *x, int64_t K, const float *w, int rows, float *sums)
{
    cpu_acc acc[AT_ONCE];
    int64_t k = 0;
    for (int r = 0; r < rows; r++)
        acc[r] = cpu_acc_of(0);
    for (; k + CPU_V <= K; k += CPU_V)
        for (int p = 0; p < CPU_PARTS; p++) {
            cpu_part_f by = cpu_part_load(w, PARE_F32, k + p * CPU_PART_V, CPU_PART_V);
            for (int r = 0; r < rows; r++)
                acc[r].part[p] +=
                    cpu_part_load(x + r * K, PARE_F32, k + p * CPU_PART_V, CPU_PART_V) * by;
        }
    for (int r = 0; r < rows; r++) {
        sums[r] = cpu_vsum(cpu_acc_get(&acc[r]));
        for (int64_t i = k; i < K; i++)
            sums[r] += x[r * K + i] * w[i];
    }
}

CPU_LOOP void row_sums(const float *x, int64_t K, const float *w, float *sums)
{
    row_sums_of(x, K, w, AT_ONCE, sums);
}

CPU_LOOP void row_sum(const float *x, int64_t K, const float *w, float *sum)
{
    row_sums_of(x, K, w, 1, sum);
}

static void int4_part(const void *user, int64_t first, int64_t last)
{
    const int4_call *call = user;
    const pare_qgemm_w4a16_args *a = call->args;
    int64_t M = a->x.shape[0], K = a->x.shape[1], N = a->words.shape[0];
    const float *bias = a->bias.data;
    float *w = call->rows + first / call->grain * K;
    for (int64_t n = first; n < last; n++) {
        lay_out(a, n, w);
        for (int64_t m = 0; m < M; m += AT_ONCE) {
            float sums[AT_ONCE];
            int64_t rows = cpu_min(AT_ONCE, M - m);
            if (rows == AT_ONCE)
                row_sums(call->x + m * K, K, w, sums);
            else
                for (int64_t r = 0; r < rows; r++)
                    row_sum(call->x + (m + r) * K, K, w, &sums[r]);
            for (int64_t r = 0; r < rows; r++)
                cpu_put(a->c.data, a->c.dtype, (m + r) * N + n, bias ? sums[r] + bias[n] : sums[r]);
        }
    }
}

static void widen_part(const void *user, int64_t first, int64_t last)
{
    const int4_call *call = user;
    for (int64_t i = first; i < last; i++)
        call->x[i] = cpu_get(call->args->x.data, PARE_BF16, i);
}

pare_status PARE_CPU(pare_cpu_qgemm_w4a16)(pare_backend *be, const pare_qgemm_w4a16_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->words.shape[0];
    bool widen = args->x.dtype == PARE_BF16;
    void *scratch = NULL;
    if (M == 0 || N == 0)
        return PARE_OK;
    int4_call call = {.args = args, .grain = cpu_ceil_div(N, be->threads)};
    size_t rows = (size_t)(cpu_ceil_div(N, call.grain) * K), x = widen ? (size_t)(M * K) : 0;
    PARE_TRY(pare__scratch(be, (rows + x) * sizeof(float), &scratch));
    call.rows = scratch;
    call.x = widen ? (float *)scratch + rows : args->x.data;
    if (widen)
        cpu_split(be, M * K, 16384, widen_part, &call);
    cpu_split(be, N, call.grain, int4_part, &call);
    return PARE_OK;
}
