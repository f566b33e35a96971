/* cpu_scale.c - elementwise products with rows and columns: scores of weights, sums of squares, dot
 * products of rows, scaling. All are one pass and bound by memory.
 *
 * What may run in place goes through a tile in the first cache: the compiler then sees that its
 * stores touch nothing that is still to be read.
 */
#include "cpu_bits.h"

#define GRAIN 16384
#define TILE 512
#define BITS_INF 0x7f800000u

/* ---- keys ------------------------------------------------------------------------------------ */

CPU_INLINE void key_tile(const float *w, const float *cols, const float *full, bool square,
                         uint32_t *keys, int64_t n)
{
    uint32_t tile[TILE];
    for (int64_t i = 0; i < n; i++) {
        float s = cols && full ? cols[i] * full[i] : cols ? cols[i] : full ? full[i] : 1.0f;
        float x = w[i] * s;
        uint32_t key = pare__f32_bits(square ? x * x : x) & CPU_KEY_MASK;
        tile[i] = (int32_t)key > (int32_t)BITS_INF ? CPU_KEY_MASK : key;
    }
    memcpy(keys, tile, (size_t)n * sizeof *tile);
}

static void keys_scaled_part(const void *user, int64_t first, int64_t last)
{
    const pare_keys_scaled_args *a = user;
    int64_t C = a->w.shape[1];
    for (int64_t r = first; r < last; r++)
        for (int64_t c = 0; c < C; c += TILE) {
            int64_t at = r * C + c, n = cpu_min(TILE, C - c);
            const float *w = (const float *)a->w.data + at;
            const float *cols = a->cols.data ? (const float *)a->cols.data + c : NULL;
            const float *full = a->full.data ? (const float *)a->full.data + at : NULL;
            uint32_t *keys = (uint32_t *)a->keys.data + at;
            if (cols && full) /* each as a loop of its own */
                key_tile(w, cols, full, a->square, keys, n);
            else if (cols)
                key_tile(w, cols, NULL, a->square, keys, n);
            else if (full)
                key_tile(w, NULL, full, a->square, keys, n);
            else
                key_tile(w, NULL, NULL, a->square, keys, n);
        }
}

pare_status PARE_CPU(pare_cpu_keys_scaled)(pare_backend *be, const pare_keys_scaled_args *args)
{
    cpu_split(be, args->w.shape[0], 1, keys_scaled_part, args);
    return PARE_OK;
}

/* ---- sums of squares ------------------------------------------------------------------------- */

static void square_add_part(const void *user, int64_t first, int64_t last)
{
    const pare_square_add_args *a = user;
    const float *restrict x = a->x.data;
    float *restrict y = a->y.data;
    for (int64_t i = first; i < last; i++)
        y[i] += x[i] * x[i];
}

pare_status PARE_CPU(pare_cpu_square_add)(pare_backend *be, const pare_square_add_args *args)
{
    cpu_split(be, pare_tensor_count(&args->x), GRAIN, square_add_part, args);
    return PARE_OK;
}

/* ---- dot products of rows -------------------------------------------------------------------- */

/* A lane sum (ops.h); products of two floats are exact in f64. */
static double dot(const float *restrict a, const float *restrict b, int64_t n)
{
    double lane[CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int k = 0; k < CPU_LANES; k++)
            lane[k] += (double)a[i + k] * (double)b[i + k];
    for (int k = 0; i + k < n; k++)
        lane[k] += (double)a[i + k] * (double)b[i + k];
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

static void row_dot_part(const void *user, int64_t first, int64_t last)
{
    const pare_row_dot_args *args = user;
    const float *a = args->a.data, *b = args->b.data;
    double *y = args->y.data;
    int64_t C = args->a.shape[1];
    for (int64_t r = first; r < last; r++)
        y[r] = dot(a + r * C, b + r * C, C);
}

pare_status PARE_CPU(pare_cpu_row_dot)(pare_backend *be, const pare_row_dot_args *args)
{
    cpu_split(be, args->a.shape[0], 1, row_dot_part, args);
    return PARE_OK;
}

/* ---- scale ----------------------------------------------------------------------------------- */

CPU_INLINE void scale_tile(const float *x, bool by_row, float row, const float *cols, float *y,
                           int64_t n)
{
    float tile[TILE];
    for (int64_t i = 0; i < n; i++) {
        float v = by_row ? x[i] * row : x[i];
        tile[i] = cols ? v * cols[i] : v;
    }
    memcpy(y, tile, (size_t)n * sizeof *tile);
}

static void scale_part(const void *user, int64_t first, int64_t last)
{
    const pare_scale_args *a = user;
    const float *rows = a->rows.data;
    int64_t C = a->x.shape[1];
    for (int64_t r = first; r < last; r++)
        for (int64_t c = 0; c < C; c += TILE) {
            int64_t at = r * C + c, n = cpu_min(TILE, C - c);
            const float *x = (const float *)a->x.data + at;
            const float *cols = a->cols.data ? (const float *)a->cols.data + c : NULL;
            float *y = (float *)a->y.data + at;
            if (rows && cols) /* each as a loop of its own */
                scale_tile(x, true, rows[r], cols, y, n);
            else if (rows)
                scale_tile(x, true, rows[r], NULL, y, n);
            else
                scale_tile(x, false, 1.0f, cols, y, n);
        }
}

pare_status PARE_CPU(pare_cpu_scale)(pare_backend *be, const pare_scale_args *args)
{
    cpu_split(be, args->x.shape[0], 1, scale_part, args);
    return PARE_OK;
}
