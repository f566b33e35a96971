/* ops_oracle_nested.c - scales quantised in their turn, in double precision. */
#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>

static double f32(double x)
{
    return oracle_round_dtype(x, PARE_F32);
}

static double f32_at(const pare_tensor *t, int64_t i)
{
    return oracle_value(t->data, PARE_F32, i);
}

/* Level 127 is 0 and 255 is 1; between them the decades from 10^-6 on, of 1, 2, 4 … levels, each
 * in the middle of its part of [0.1, 1]; below 127 the same, negative. */
static double level(int code)
{
    if (code == 127 || code == 255)
        return code == 255 ? 1.0 : 0.0;
    int m = code > 127 ? code - 127 : 127 - code, decade = 0;
    while (m >= 2 << decade)
        decade++;
    int k = m - (1 << decade);
    static const char *const powers[] = {"1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1e0"};
    double part = (double)(2 * k + 1) * 0.9 / pow(2.0, decade + 1);
    double x = f32((0.1 + part) * strtod(powers[decade], NULL));
    return code > 127 ? x : -x;
}

static int code_of(double x)
{
    int code = 0;
    while (code < 255 && f32(f32(level(code) + level(code + 1)) * 0.5) < x)
        code++;
    return code;
}

static double decoded(int code, double nested, double offset)
{
    return f32(f32(level(code) * nested) + offset);
}

void oracle_quant_nested(const pare_quant_nested_args *args)
{
    int64_t n = args->scale.shape[0];
    double offset = (double)args->offset;
    for (int64_t b = 0; b < args->nested.shape[0]; b++) {
        int64_t end = (b + 1) * 256 < n ? (b + 1) * 256 : n;
        double top = 0.0;
        for (int64_t i = b * 256; i < end; i++)
            top = fmax(top, fabs(f32(f32_at(&args->scale, i) - offset)));
        for (int64_t i = b * 256; i < end; i++) {
            double d = f32(f32_at(&args->scale, i) - offset);
            int code = code_of(top > 0.0 ? f32(d / top) : 0.0);
            double s = decoded(code, top, offset);
            ((uint8_t *)args->codes.data)[i] = (uint8_t)code;
            oracle_store(args->scale.data, PARE_F32, i, s == 0.0 ? 1.0 : s);
        }
        oracle_store(args->nested.data, PARE_F32, b, top);
    }
}

void oracle_dequant_nested(const pare_dequant_nested_args *args)
{
    const uint8_t *codes = args->codes.data;
    for (int64_t i = 0; i < args->codes.shape[0]; i++)
        oracle_store(args->scale.data, PARE_F32, i,
                     decoded(codes[i], f32_at(&args->nested, i / 256), (double)args->offset));
}
