/* cpu_quant.c - codes from values and values from codes.
 *
 * A row is done in tiles for which the scale (and zero point) of every element is laid out first,
 * so that one loop without heads and tails serves every width of block. Bound by memory where codes
 * are integers; by the quotient for E4M3, by fifteen comparisons for NF4.
 */
#include "cpu_quant.h"

#define TILE CPU_QUANT_TILE
#define ROOM (TILE + CPU_LANES) /* laying out writes whole vectors */

/* What lies behind one block's scale or zero point in each of its columns. */
CPU_INLINE float as_scale(float s)
{
    return s;
}
CPU_INLINE float as_zero(int8_t z)
{
    return (float)z;
}

/* out[i] = value(block of column at + i) for the columns [at, at + n). */
#define SPREAD(name, type, value)                                                                  \
    static void name(const type *restrict per_block, int64_t block_cols, int64_t at, int64_t n,    \
                     float *restrict out)                                                          \
    {                                                                                              \
        const type *from = per_block + at / block_cols;                                            \
        int64_t run = block_cols - at % block_cols;                                                \
        for (int64_t i = 0; i < n; from++, run = block_cols) {                                     \
            float x = value(*from);                                                                \
            int64_t end = cpu_min(n, i + cpu_min(run, n));                                         \
            for (int64_t j = i; j < end; j += CPU_LANES)                                           \
                for (int l = 0; l < CPU_LANES; l++)                                                \
                    out[j + l] = x;                                                                \
            i = end;                                                                               \
        }                                                                                          \
    }
SPREAD(spread_scales, float, as_scale)
SPREAD(spread_reciprocals, float, cpu_reciprocal)
SPREAD(spread_zeros, int8_t, as_zero)

/* ---- quantize -------------------------------------------------------------------------------- */

/* Integer codes of a tile; `by` holds scales (divide) or their reciprocals. The greatest distance
 * to a code, as bits. */
CPU_INLINE int32_t int_codes(const float *restrict w, const float *restrict by,
                             const float *restrict zero, bool divide, cpu_grid grid,
                             int8_t *restrict codes, int64_t n)
{
    int32_t worst = 0;
    for (int64_t i = 0; i < n; i++) {
        float t = divide ? w[i] / by[i] : w[i] * by[i];
        t = zero ? t + zero[i] : t;
        t = cpu_clamp(t, grid.lo, grid.hi);
        float shifted = t + CPU_RINT;
        int32_t apart = (int32_t)(pare__f32_bits(t - (shifted - CPU_RINT)) & 0x7fffffffu);
        worst = apart > worst ? apart : worst;
        codes[i] = (int8_t)pare__f32_bits(shifted); /* its low byte is the rounded integer */
    }
    return worst;
}

static void e4m3_tile(const float *restrict w, const float *restrict scale, int8_t *restrict codes,
                      int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        codes[i] = (int8_t)pare__f32_to_e4m3(w[i] / scale[i]);
}

static void nf4_tile(const float *restrict w, const float *restrict scale, int8_t *restrict codes,
                     int64_t n)
{
    float middle[15];
    for (int j = 0; j < 15; j++)
        middle[j] = (cpu_nf4[j] + cpu_nf4[j + 1]) * 0.5f;
    for (int64_t i = 0; i < n; i++) {
        float x = w[i] / scale[i];
        int32_t below = 0;
        for (int j = 0; j < 15; j++)
            below += middle[j] < x;
        codes[i] = (int8_t)below;
    }
}

/* Columns [at, at + n) of a row; scale and zero are those of the row's blocks. */
static void int_tile(const pare_quantize_args *a, const float *w, const float *scale,
                     const int8_t *zero, int8_t *codes, int64_t at, int64_t n)
{
    float s[ROOM], z[ROOM];
    cpu_grid grid = cpu_grid_of(&a->scheme);
    int32_t worst;
    spread_reciprocals(scale, a->block_cols, at, n, s);
    if (zero) {
        spread_zeros(zero, a->block_cols, at, n, z);
        worst = int_codes(w + at, s, z, false, grid, codes + at, n);
    } else {
        worst = int_codes(w + at, s, NULL, false, grid, codes + at, n);
    }
    if (worst < grid.unsure)
        return;
    spread_scales(scale, a->block_cols, at, n, s);
    if (zero)
        int_codes(w + at, s, z, true, grid, codes + at, n);
    else
        int_codes(w + at, s, NULL, true, grid, codes + at, n);
}

static void quantize_row(const pare_quantize_args *a, const float *w, const float *scale,
                         const int8_t *zero, int8_t *codes, int64_t cols)
{
    for (int64_t at = 0; at < cols; at += TILE) {
        float s[ROOM];
        int64_t n = cpu_min(TILE, cols - at);
        if (a->scheme.type == PARE_QUANT_INT) {
            int_tile(a, w, scale, zero, codes, at, n);
            continue;
        }
        spread_scales(scale, a->block_cols, at, n, s);
        if (a->scheme.type == PARE_QUANT_E4M3)
            e4m3_tile(w + at, s, codes + at, n);
        else
            nf4_tile(w + at, s, codes + at, n);
    }
}

static void quantize_part(const void *user, int64_t first, int64_t last)
{
    const pare_quantize_args *a = user;
    int64_t C = a->w.shape[1], across = a->scale.shape[1];
    const int8_t *zero = a->scheme.asymmetric ? a->zero.data : NULL;
    for (int64_t r = first; r < last; r++) {
        int64_t block = r / a->block_rows * across;
        quantize_row(a, (const float *)a->w.data + r * C, (const float *)a->scale.data + block,
                     zero ? zero + block : NULL, (int8_t *)a->codes.data + r * C, C);
    }
}

pare_status PARE_CPU(pare_cpu_quantize)(pare_backend *be, const pare_quantize_args *args)
{
    cpu_split(be, args->w.shape[0], 1, quantize_part, args);
    return PARE_OK;
}

/* ---- dequantize ------------------------------------------------------------------------------ */

static void values_tile(const pare_scheme *scheme, const int8_t *restrict codes,
                        const float *restrict scale, const float *restrict zero, float *restrict y,
                        int64_t n)
{
    if (scheme->type == PARE_QUANT_E4M3) {
        for (int64_t i = 0; i < n; i++)
            y[i] = pare__e4m3_to_f32((uint8_t)codes[i]) * scale[i];
    } else if (scheme->type == PARE_QUANT_NF4) {
        for (int64_t i = 0; i < n; i++)
            y[i] = cpu_nf4[codes[i] & 15] * scale[i];
    } else if (zero) {
        for (int64_t i = 0; i < n; i++)
            y[i] = ((float)codes[i] - zero[i]) * scale[i];
    } else {
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)codes[i] * scale[i];
    }
}

static void dequantize_row(const pare_dequantize_args *a, const int8_t *codes, const float *scale,
                           const int8_t *zero, void *w, int64_t cols)
{
    float s[ROOM], z[ROOM], y[TILE];
    int64_t size = pare_dtype_bits(a->w.dtype) / 8;
    bool direct = a->w.dtype == PARE_F32;
    for (int64_t at = 0; at < cols; at += TILE) {
        int64_t n = cpu_min(TILE, cols - at);
        spread_scales(scale, a->block_cols, at, n, s);
        if (zero)
            spread_zeros(zero, a->block_cols, at, n, z);
        values_tile(&a->scheme, codes + at, s, zero ? z : NULL, direct ? (float *)w + at : y, n);
        if (!direct)
            PARE_CPU(pare__cpu_narrow)(y, a->w.dtype, (uint8_t *)w + at * size, n);
    }
}

static void dequantize_part(const void *user, int64_t first, int64_t last)
{
    const pare_dequantize_args *a = user;
    int64_t C = a->w.shape[1], across = a->scale.shape[1];
    int64_t size = pare_dtype_bits(a->w.dtype) / 8;
    const int8_t *zero = a->scheme.asymmetric ? a->zero.data : NULL;
    for (int64_t r = first; r < last; r++) {
        int64_t block = r / a->block_rows * across;
        dequantize_row(a, (const int8_t *)a->codes.data + r * C,
                       (const float *)a->scale.data + block, zero ? zero + block : NULL,
                       (uint8_t *)a->w.data + r * C * size, C);
    }
}

pare_status PARE_CPU(pare_cpu_dequantize)(pare_backend *be, const pare_dequantize_args *args)
{
    cpu_split(be, args->w.shape[0], 1, dequantize_part, args);
    return PARE_OK;
}
