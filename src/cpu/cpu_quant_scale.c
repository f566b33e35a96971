/* cpu_quant_scale.c - ranges of blocks, and scales and zero points from them.
 *
 * Extremes are taken on the bits: as signed integers the positive floats are in order and above all
 * negative ones, as unsigned integers the negative ones are in order of magnitude and above all
 * positive ones. So two integer maxima over the raw bits, in any order, give lo, hi, NaN and Inf.
 * Bound by memory.
 */
#include "cpu_impl.h"

/* ---- range ----------------------------------------------------------------------------------- */

typedef struct extremes {
    int32_t top;
    uint32_t bottom;
} extremes;

CPU_INLINE void extremes_run(extremes *e, const uint32_t *w, int64_t n)
{
    int32_t top = e->top;
    uint32_t bottom = e->bottom;
    for (int64_t i = 0; i < n; i++) {
        top = (int32_t)w[i] > top ? (int32_t)w[i] : top;
        bottom = w[i] > bottom ? w[i] : bottom;
    }
    e->top = top;
    e->bottom = bottom;
}

/* The usual widths as constants: loops without heads and tails. */
static void extremes_add(extremes *e, const uint32_t *w, int64_t n)
{
    switch (n) {
    case 16:
        extremes_run(e, w, 16);
        break;
    case 32:
        extremes_run(e, w, 32);
        break;
    case 64:
        extremes_run(e, w, 64);
        break;
    case 128:
        extremes_run(e, w, 128);
        break;
    default:
        extremes_run(e, w, n);
    }
}

static void range_part(const void *user, int64_t first, int64_t last)
{
    const pare_quant_range_args *a = user;
    int64_t across = a->lo.shape[1];
    float *lo = a->lo.data, *hi = a->hi.data;
    for (int64_t d = first; d < last; d++)
        for (int64_t c = 0; c < across; c++) {
            cpu_block b = cpu_block_at(&a->w, a->block_rows, a->block_cols, d, c);
            extremes e = {0};
            if (b.cols == b.stride)
                extremes_add(&e, (const uint32_t *)(const void *)b.w, b.rows * b.cols);
            else
                for (int64_t r = 0; r < b.rows; r++)
                    extremes_add(&e, (const uint32_t *)(const void *)(b.w + r * b.stride), b.cols);
            if (e.bottom >= 0xff800000u) /* -Inf or NaN: shown in hi */
                e.top = (int32_t)(e.bottom & 0x7fffffffu);
            lo[d * across + c] = e.bottom > 0x80000000u ? pare__bits_f32(e.bottom) : 0.0f;
            hi[d * across + c] = pare__bits_f32((uint32_t)e.top);
        }
}

pare_status PARE_CPU(pare_cpu_quant_range)(pare_backend *be, const pare_quant_range_args *args)
{
    cpu_split(be, args->lo.shape[0], 1, range_part, args);
    return PARE_OK;
}

/* ---- scale ----------------------------------------------------------------------------------- */

#define TILE 256

/* Scales of one tile before rounding. */
static void raw_scales(const pare_scheme *scheme, const float *restrict lo,
                       const float *restrict hi, float *restrict s, int64_t n)
{
    float levels = (float)((1 << scheme->bits) - 1);
    if (scheme->asymmetric) {
        for (int64_t i = 0; i < n; i++)
            s[i] = (hi[i] - lo[i]) / levels;
        return;
    }
    float divisor = scheme->type == PARE_QUANT_INT    ? levels / 2.0f
                    : scheme->type == PARE_QUANT_E4M3 ? 448.0f
                                                      : 1.0f;
    for (int64_t i = 0; i < n; i++) {
        float amax = -lo[i] > hi[i] ? -lo[i] : hi[i];
        s[i] = amax / divisor;
    }
}

static void zero_points(int bits, const float *restrict lo, const float *restrict s,
                        int8_t *restrict z, int64_t n)
{
    float least = -(float)(1 << (bits - 1)), most = -least - 1.0f;
    for (int64_t i = 0; i < n; i++) {
        float t = least - lo[i] / s[i];
        t = t < least ? least : t;
        t = t > most ? most : t;
        z[i] = (int8_t)pare__f32_bits(t + CPU_RINT); /* its low byte is the rounded integer */
    }
}

/* Index of the first block whose range or scale is NaN or Inf, or -1; a scale of 0 becomes `none`.
 */
static int64_t finish_scales(const float *restrict lo, const float *restrict hi, float *restrict s,
                             float none, int64_t n)
{
    uint32_t worst = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t a = pare__f32_bits(lo[i]) & 0x7fffffffu, b = pare__f32_bits(hi[i]) & 0x7fffffffu;
        uint32_t c = pare__f32_bits(s[i]) & 0x7fffffffu, top = a > b ? a : b;
        s[i] = s[i] == 0.0f ? none : s[i];
        top = top > c ? top : c;
        worst = top > worst ? top : worst;
    }
    for (int64_t i = 0; worst >= 0x7f800000u && i < n; i++) {
        bool finite = (pare__f32_bits(lo[i]) & 0x7fffffffu) < 0x7f800000u &&
                      (pare__f32_bits(hi[i]) & 0x7fffffffu) < 0x7f800000u &&
                      (pare__f32_bits(s[i]) & 0x7fffffffu) < 0x7f800000u;
        if (!finite)
            return i;
    }
    return -1;
}

pare_status PARE_CPU(pare_cpu_quant_scale)(pare_backend *be, const pare_quant_scale_args *args)
{
    (void)be;
    const float *lo = args->lo.data, *hi = args->hi.data;
    float *s = args->scale.data;
    int8_t *z = args->zero.data;
    int64_t count = args->lo.shape[0];
    float none = args->scheme.double_quant ? 0.0f : 1.0f;
    for (int64_t i = 0; i < count; i += TILE) {
        int64_t n = cpu_min(TILE, count - i);
        raw_scales(&args->scheme, lo + i, hi + i, s + i, n);
        PARE_CPU(pare__cpu_round)(s + i, args->scale_dtype, n);
        int64_t bad = finish_scales(lo + i, hi + i, s + i, none, n);
        PARE_REQUIRE(bad < 0, PARE_ERR_DAMAGED,
                     "block %lld has no finite scale in %s: its values go from %g to %g",
                     (long long)(i + bad), pare_dtype_name(args->scale_dtype), (double)lo[i + bad],
                     (double)hi[i + bad]);
        if (args->scheme.asymmetric)
            zero_points(args->scheme.bits, lo + i, s + i, z + i, n);
    }
    return PARE_OK;
}
