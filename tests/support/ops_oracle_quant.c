#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double f32(double x)
{
    return oracle_round_dtype(x, PARE_F32);
}

static double f32_at(const pare_tensor *t, int64_t i)
{
    return oracle_value(t->data, PARE_F32, i);
}

static const double nf4[16] = {-1.0,
                               -0.6961928009986877,
                               -0.5250730514526367,
                               -0.39491748809814453,
                               -0.28444138169288635,
                               -0.18477343022823334,
                               -0.09105003625154495,
                               0.0,
                               0.07958029955625534,
                               0.16093020141124725,
                               0.24611230194568634,
                               0.33791524171829224,
                               0.44070982933044434,
                               0.5626170039176941,
                               0.7229568362236023,
                               1.0};

/* ---- scales ---------------------------------------------------------------------------------- */

void oracle_quant_range(const pare_quant_range_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], across = args->lo.shape[1];
    float *lo = args->lo.data, *hi = args->hi.data;
    for (int64_t i = 0; i < pare_tensor_count(&args->lo); i++)
        lo[i] = hi[i] = 0.0f;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            float x = (float)f32_at(&args->w, r * C + c);
            int64_t i = r / args->block_rows * across + c / args->block_cols;
            lo[i] = x < lo[i] ? x : lo[i];
            hi[i] = x > hi[i] ? x : hi[i];
        }
}

static double scale_or_1(double s, pare_dtype dtype)
{
    s = oracle_round_dtype(f32(s), dtype);
    return s == 0.0 ? 1.0 : s;
}

static double clamp(double x, double lo, double hi)
{
    return fmin(fmax(x, lo), hi);
}

void oracle_quant_scale(const pare_quant_scale_args *args)
{
    double levels = pow(2.0, args->scheme.bits) - 1.0, qmin = -pow(2.0, args->scheme.bits - 1);
    for (int64_t i = 0; i < args->lo.shape[0]; i++) {
        double lo = f32_at(&args->lo, i), hi = f32_at(&args->hi, i), amax = fmax(-lo, hi), s = amax;
        if (args->scheme.type == PARE_QUANT_INT)
            s = args->scheme.asymmetric ? f32(hi - lo) / levels : amax / (levels / 2.0);
        else if (args->scheme.type == PARE_QUANT_E4M3)
            s = amax / 448.0;
        s = args->scheme.double_quant && s == 0.0 ? 0.0 : scale_or_1(s, args->scale_dtype);
        oracle_store(args->scale.data, PARE_F32, i, s);
        if (args->scheme.asymmetric)
            ((int8_t *)args->zero.data)[i] =
                (int8_t)clamp(oracle_rint(f32(qmin - f32(lo / s))), qmin, -qmin - 1.0);
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

static int code_of(const pare_scheme *scheme, double w, double s, int zero)
{
    double x = f32(w / s), qmin = -pow(2.0, scheme->bits - 1);
    int below = 0;
    switch (scheme->type) {
    case PARE_QUANT_INT:
        if (scheme->asymmetric)
            x = f32(x + zero);
        return (int)clamp(oracle_rint(x), qmin, -qmin - 1.0);
    case PARE_QUANT_E4M3:
        return oracle_to_e4m3(x);
    default:
        for (int j = 0; j < 15; j++)
            below += f32(f32(nf4[j] + nf4[j + 1]) * 0.5) < x;
        return below;
    }
}

/* The number that a code stands for, before the scale. */
static double level_of(const pare_scheme *scheme, int code, int zero)
{
    if (scheme->type == PARE_QUANT_INT)
        return code - zero;
    return scheme->type == PARE_QUANT_E4M3 ? oracle_e4m3(code & 255) : nf4[code & 15];
}

static int zero_at(const pare_scheme *scheme, const pare_tensor *zero, int64_t i)
{
    return scheme->asymmetric ? ((const int8_t *)zero->data)[i] : 0;
}

void oracle_quantize(const pare_quantize_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], across = args->scale.shape[1];
    int8_t *codes = args->codes.data;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            int64_t i = r / args->block_rows * across + c / args->block_cols;
            codes[r * C + c] =
                (int8_t)code_of(&args->scheme, f32_at(&args->w, r * C + c), f32_at(&args->scale, i),
                                zero_at(&args->scheme, &args->zero, i));
        }
}

void oracle_dequantize(const pare_dequantize_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], across = args->scale.shape[1];
    const int8_t *codes = args->codes.data;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            int64_t i = r / args->block_rows * across + c / args->block_cols;
            double level =
                level_of(&args->scheme, codes[r * C + c], zero_at(&args->scheme, &args->zero, i));
            oracle_store(args->w.data, args->w.dtype, r * C + c,
                         f32(level * f32_at(&args->scale, i)));
        }
}

/* ---- search ---------------------------------------------------------------------------------- */

static double candidate(double s, int k, pare_dtype dtype)
{
    return scale_or_1(f32(s * k) / 100.0, dtype);
}

static double error_of(const pare_scheme *scheme, const double *w, int64_t n, double s, int zero,
                       double *term)
{
    for (int64_t i = 0; i < n; i++) {
        double d = w[i] - level_of(scheme, code_of(scheme, w[i], s, zero), zero) * s;
        term[i] = d * d;
    }
    return oracle_lane_sum(term, n);
}

void oracle_quant_error(const pare_quant_error_args *args)
{
    int64_t n = pare_tensor_count(&args->w);
    double *w = calloc(2 * (size_t)n + 2, sizeof *w), *term = w + n;
    for (int64_t i = 0; i < n; i++)
        w[i] = f32_at(&args->w, i);
    for (int k = 100; k >= 20; k--) {
        double s = candidate((double)args->scale, k, args->scale_dtype);
        args->errors[100 - k] +=
            isinf(s) ? (double)INFINITY : error_of(&args->scheme, w, n, s, args->zero, term);
    }
    free(w);
}

void oracle_quant_search(const pare_quant_search_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], across = args->scale.shape[1];
    double *w = calloc(2 * (size_t)(R * C) + 2, sizeof *w), *term = w + R * C;
    for (int64_t b = 0; b < pare_tensor_count(&args->scale); b++) {
        int64_t n = 0, r0 = b / across * args->block_rows, c0 = b % across * args->block_cols;
        for (int64_t r = r0; r < R && r < r0 + args->block_rows; r++)
            for (int64_t c = c0; c < C && c < c0 + args->block_cols; c++)
                w[n++] = f32_at(&args->w, r * C + c);
        double scale = f32_at(&args->scale, b), best = (double)INFINITY, chosen = scale;
        for (int k = 100; k >= 20; k--) {
            double s = candidate(scale, k, args->scale_dtype);
            double error = isinf(s) ? (double)INFINITY
                                    : error_of(&args->scheme, w, n, s,
                                               zero_at(&args->scheme, &args->zero, b), term);
            if (error < best) {
                best = error;
                chosen = s;
            }
        }
        oracle_store(args->scale.data, PARE_F32, b, chosen);
    }
    free(w);
}

/* ---- packing --------------------------------------------------------------------------------- */

/* The bit at which element i of a row begins, and the value kept there. */
static int64_t place_of(pare_packing packing, int bits, int64_t i)
{
    if (packing == PARE_PACK_STREAM)
        return i * bits;
    if (packing == PARE_PACK_ALIGNED)
        return i / (32 / bits) * 32 + i % (32 / bits) * bits;
    return i / 2 * 8 + (i % 2 == 0 ? 4 : 0);
}

static int offset_of(pare_packing packing, int bits)
{
    return packing == PARE_PACK_NIBBLES ? 0 : 1 << (bits - 1);
}

void oracle_pack(const pare_pack_args *args)
{
    int64_t R = args->codes.shape[0], C = args->codes.shape[1], bytes = args->words.shape[1];
    const int8_t *codes = args->codes.data;
    uint8_t *words = args->words.data;
    if (args->packing == PARE_PACK_NIBBLES) {
        C *= R;
        R = 1;
    }
    for (int64_t i = 0; i < args->words.shape[0] * bytes; i++)
        words[i] = 0;
    for (int64_t i = 0; i < R * C; i++) {
        int u = codes[i] + offset_of(args->packing, args->bits);
        for (int b = 0; b < args->bits; b++)
            oracle_set(words + i / C * bytes, place_of(args->packing, args->bits, i % C) + b,
                       (u + 256) >> b & 1);
    }
}

void oracle_unpack(const pare_unpack_args *args)
{
    int64_t R = args->codes.shape[0], C = args->codes.shape[1], bytes = args->words.shape[1];
    int8_t *codes = args->codes.data;
    const uint8_t *words = args->words.data;
    if (args->packing == PARE_PACK_NIBBLES) {
        C *= R;
        R = 1;
    }
    for (int64_t i = 0; i < R * C; i++) {
        int u = 0;
        for (int b = 0; b < args->bits; b++)
            u += oracle_bit(words + i / C * bytes, place_of(args->packing, args->bits, i % C) + b)
                 << b;
        codes[i] = (int8_t)(u - offset_of(args->packing, args->bits));
    }
}

/* ---- in one pass ----------------------------------------------------------------------------- */

void oracle_quant_pack(const pare_quant_pack_args *args)
{
    int64_t n = pare_tensor_count(&args->w), blocks = pare_tensor_count(&args->scale);
    float *w = calloc((size_t)n + 1, sizeof *w), *lo = calloc((size_t)blocks + 1, sizeof *lo);
    int8_t *codes = calloc((size_t)n + 1, 1);
    pare_quantize_args quantize = {
        .scheme = args->scheme,
        .w = pare_matrix(w, PARE_F32, args->w.shape[0], args->w.shape[1]),
        .block_rows = 1,
        .block_cols = args->block_cols,
        .scale = args->scale,
        .zero = args->zero,
        .codes = pare_matrix(codes, PARE_I8, args->w.shape[0], args->w.shape[1])};
    pare_tensor ends = pare_matrix(lo, PARE_F32, args->scale.shape[0], args->scale.shape[1]);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)oracle_value(args->w.data, args->w.dtype, i);
    oracle_quant_range(&(pare_quant_range_args){.w = quantize.w,
                                                .block_rows = 1,
                                                .block_cols = args->block_cols,
                                                .lo = ends,
                                                .hi = args->scale});
    oracle_quant_scale(
        &(pare_quant_scale_args){.scheme = args->scheme,
                                 .scale_dtype = args->scale_dtype,
                                 .lo = pare_vector(lo, PARE_F32, blocks),
                                 .hi = pare_vector(args->scale.data, PARE_F32, blocks),
                                 .scale = pare_vector(args->scale.data, PARE_F32, blocks),
                                 .zero = pare_vector(args->zero.data, PARE_I8, blocks)});
    oracle_quantize(&quantize);
    if (args->codes.data)
        memcpy(args->codes.data, codes, (size_t)n);
    if (args->words.data)
        oracle_pack(&(pare_pack_args){.packing = PARE_PACK_STREAM,
                                      .bits = args->scheme.bits,
                                      .codes = quantize.codes,
                                      .words = args->words});
    free(w);
    free(lo);
    free(codes);
}
