#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

/* ---- numbers --------------------------------------------------------------------------------- */

double oracle_rint(double x)
{
    double below = floor(x), rest = x - below;
    if (rest > 0.5 || (rest == 0.5 && fmod(below, 2.0) != 0.0))
        below += 1.0;
    return below == 0.0 ? copysign(0.0, x) : below;
}

double oracle_round(double x, int digits, int least, double most)
{
    if (x == 0.0 || isinf(x))
        return x;
    int exponent;
    frexp(x, &exponent); /* |x| in [2^(exponent-1), 2^exponent) */
    int top = exponent - 1 > least ? exponent - 1 : least;
    double y = ldexp(oracle_rint(ldexp(x, digits - 1 - top)), top - digits + 1);
    return fabs(y) > most ? copysign((double)INFINITY, x) : y;
}

double oracle_round_dtype(double x, pare_dtype dtype)
{
    if (dtype == PARE_F16)
        return oracle_round(x, 11, -14, 65504.0);
    if (dtype == PARE_BF16)
        return oracle_round(x, 8, -126, ldexp(255.0, 120));
    return oracle_round(x, 24, -126, ldexp(16777215.0, 104));
}

static uint32_t bits_at(const void *data, pare_dtype dtype, int64_t i)
{
    uint32_t word = 0;
    if (dtype == PARE_F32)
        memcpy(&word, (const char *)data + 4 * i, 4);
    else
        memcpy(&word, (const char *)data + 2 * i, 2);
    return word;
}

/* Binary digits behind the point, bits of the exponent, bias. */
static void layout(pare_dtype dtype, int *fraction, int *width, int *bias)
{
    *fraction = dtype == PARE_F32 ? 23 : dtype == PARE_F16 ? 10 : 7;
    *width = dtype == PARE_F16 ? 5 : 8;
    *bias = (1 << (*width - 1)) - 1;
}

double oracle_value(const void *data, pare_dtype dtype, int64_t i)
{
    int fraction, width, bias;
    layout(dtype, &fraction, &width, &bias);
    uint32_t u = bits_at(data, dtype, i);
    int negative = (int)(u >> (fraction + width) & 1u);
    int exponent = (int)(u >> fraction & ((1u << width) - 1));
    double part = (double)(u & ((1u << fraction) - 1)), x;
    if (exponent == (1 << width) - 1)
        x = part != 0.0 ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        x = ldexp(part, 1 - bias - fraction);
    else
        x = ldexp(part + ldexp(1.0, fraction), exponent - bias - fraction);
    return negative ? -x : x;
}

static void store_bits(void *data, pare_dtype dtype, int64_t i, uint32_t u)
{
    uint16_t half = (uint16_t)u;
    if (dtype == PARE_F32)
        memcpy((char *)data + 4 * i, &u, 4);
    else
        memcpy((char *)data + 2 * i, &half, 2);
}

void oracle_store(void *data, pare_dtype dtype, int64_t i, double x)
{
    int fraction, width, bias, exponent;
    layout(dtype, &fraction, &width, &bias);
    double y = fabs(oracle_round_dtype(x, dtype));
    uint32_t u = 0;
    if (isinf(y)) {
        u = ((1u << width) - 1) << fraction;
    } else if (y != 0.0) {
        frexp(y, &exponent);
        int stored = exponent - 1 + bias;
        double scaled = ldexp(y, (stored > 0 ? -(exponent - 1) : bias - 1) + fraction);
        u = stored > 0 ? ((uint32_t)stored << fraction) + ((uint32_t)scaled - (1u << fraction))
                       : (uint32_t)scaled;
    }
    store_bits(data, dtype, i, u | (uint32_t)(signbit(x) != 0) << (fraction + width));
}

double oracle_e4m3(int byte)
{
    int exponent = byte >> 3 & 15, part = byte & 7;
    double x = exponent == 0 ? ldexp(part, -9) : ldexp(8 + part, exponent - 10);
    return byte & 0x80 ? -x : x;
}

int oracle_to_e4m3(double x)
{
    double a = fabs(x);
    int best = 0;
    for (int b = 1; b < 0x7f; b++) {
        double now = fabs(oracle_e4m3(b) - a), then = fabs(oracle_e4m3(best) - a);
        if (now < then || (now == then && b % 2 == 0))
            best = b;
    }
    return best | (signbit(x) ? 0x80 : 0);
}

double oracle_lane_sum(const double *term, int64_t count)
{
    double lane[16] = {0};
    for (int64_t i = 0; i < count; i++)
        lane[i % 16] = lane[i % 16] + term[i];
    double eight[8], four[4];
    for (int l = 0; l < 8; l++)
        eight[l] = lane[l] + lane[l + 8];
    for (int l = 0; l < 4; l++)
        four[l] = eight[l] + eight[l + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* ---- ops ------------------------------------------------------------------------------------- */

void oracle_cast(const pare_cast_args *args)
{
    int xf, xw, yf, yw, bias;
    layout(args->x.dtype, &xf, &xw, &bias);
    layout(args->y.dtype, &yf, &yw, &bias);
    for (int64_t i = 0; i < pare_tensor_count(&args->x); i++) {
        double x = oracle_value(args->x.data, args->x.dtype, i);
        uint32_t u = bits_at(args->x.data, args->x.dtype, i);
        if (args->x.dtype == args->y.dtype) {
            store_bits(args->y.data, args->y.dtype, i, u);
        } else if (isnan(x)) { /* sign, the upper digits that fit, the quiet bit */
            uint32_t part = u & ((1u << xf) - 1), sign = u >> (xf + xw);
            part = yf > xf ? part << (yf - xf) : part >> (xf - yf);
            u = sign << (yf + yw) | ((1u << yw) - 1) << yf | part | 1u << (yf - 1);
            store_bits(args->y.data, args->y.dtype, i, u);
        } else {
            oracle_store(args->y.data, args->y.dtype, i, x);
        }
    }
}

void oracle_stats(const pare_stats_args *args)
{
    pare_stats_result r;
    memset(&r, 0, sizeof r);
    r.count = pare_tensor_count(&args->x);
    r.first_bad = -1;
    double *term = calloc((size_t)r.count + 1, sizeof *term);
    int64_t finite = 0;
    for (int64_t i = 0; i < r.count; i++) {
        double x = oracle_value(args->x.data, args->x.dtype, i);
        r.nans += isnan(x) != 0;
        r.infs += isinf(x) != 0;
        r.zeros += x == 0.0;
        if (isfinite(x)) {
            r.min = finite == 0 || x < r.min ? x : r.min;
            r.max = finite == 0 || x > r.max ? x : r.max;
            r.absmax = fmax(r.absmax, fabs(x));
            term[i] = x;
            finite++;
        } else if (r.first_bad < 0) {
            r.first_bad = i;
        }
    }
    r.min += 0.0;
    r.max += 0.0;
    r.sum = oracle_lane_sum(term, r.count);
    for (int64_t i = 0; i < r.count; i++)
        term[i] *= term[i];
    r.sum_squares = oracle_lane_sum(term, r.count);
    free(term);
    *args->result = r;
}

void oracle_diff(const pare_diff_args *args)
{
    int64_t n = pare_tensor_count(&args->a);
    pare_diff_result r = {.count = n};
    double *aa = calloc(4 * (size_t)n + 4, sizeof *aa), *bb = aa + n, *ab = bb + n, *dd = ab + n;
    for (int64_t i = 0; i < n; i++) {
        double a = oracle_value(args->a.data, PARE_F32, i);
        double b = oracle_value(args->b.data, PARE_F32, i);
        int same = a == b || (isnan(a) && isnan(b));
        r.differing += !same;
        if (isfinite(a) && isfinite(b)) {
            double d = a - b;
            aa[i] = a * a;
            bb[i] = b * b;
            ab[i] = a * b;
            dd[i] = d * d;
            r.max_abs = fmax(r.max_abs, fabs(d));
        } else if (!same) {
            r.max_abs = (double)INFINITY;
        }
    }
    r.sum_aa = oracle_lane_sum(aa, n);
    r.sum_bb = oracle_lane_sum(bb, n);
    r.sum_ab = oracle_lane_sum(ab, n);
    r.sum_dd = oracle_lane_sum(dd, n);
    free(aa);
    *args->result = r;
}

void oracle_digest(const pare_digest_args *args)
{
    XXH128_hash_t hash = XXH3_128bits_withSeed(args->bytes, (size_t)args->size, args->seed);
    args->result[0] += hash.low64;
    args->result[1] += hash.high64;
}
