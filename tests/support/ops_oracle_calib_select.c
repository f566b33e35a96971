#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double at(const pare_tensor *t, int64_t i)
{
    return oracle_value(t->data, PARE_F32, i);
}

static double rounded(double x)
{
    return (double)(float)x;
}

/* ---- elementwise ----------------------------------------------------------------------------- */

void oracle_keys_scaled(const pare_keys_scaled_args *args)
{
    int64_t n = pare_tensor_count(&args->w), C = args->w.shape[1];
    uint32_t *keys = args->keys.data;
    for (int64_t i = 0; i < n; i++) {
        double s = 1.0;
        if (args->cols.data)
            s = at(&args->cols, i % C);
        if (args->full.data)
            s = rounded(s * at(&args->full, i));
        double score = rounded(at(&args->w, i) * s);
        if (args->square)
            score = rounded(score * score);
        oracle_store(keys, PARE_F32, i, isnan(score) ? 0.0 : fabs(score));
        if (isnan(score))
            keys[i] = INT32_MAX;
    }
}

void oracle_square_add(const pare_square_add_args *args)
{
    float *y = args->y.data;
    for (int64_t i = 0; i < pare_tensor_count(&args->x); i++) {
        double x = at(&args->x, i);
        y[i] = (float)((double)y[i] + rounded(x * x));
    }
}

void oracle_row_dot(const pare_row_dot_args *args)
{
    int64_t C = args->a.shape[1];
    double *y = args->y.data;
    for (int64_t r = 0; r < args->a.shape[0]; r++) {
        y[r] = 0;
        for (int64_t c = 0; c < C; c++)
            y[r] += at(&args->a, r * C + c) * at(&args->b, r * C + c);
    }
}

void oracle_scale(const pare_scale_args *args)
{
    int64_t C = args->x.shape[1];
    float *y = args->y.data;
    for (int64_t i = 0; i < pare_tensor_count(&args->x); i++) {
        double v = at(&args->x, i);
        if (args->rows.data)
            v = rounded(v * at(&args->rows, i / C));
        if (args->cols.data)
            v = rounded(v * at(&args->cols, i % C));
        y[i] = (float)v;
    }
}

/* ---- selection ------------------------------------------------------------------------------- */

/* A key and behind it the place: numbers that sort as the op selects. */
static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void oracle_mask_rows(const pare_mask_rows_args *args)
{
    int64_t C = args->x.shape[1], bytes = args->mask.shape[1];
    uint64_t *order = calloc((size_t)C + 1, sizeof *order);
    for (int64_t r = 0; r < args->x.shape[0]; r++) {
        uint8_t *mask = (uint8_t *)args->mask.data + r * bytes;
        for (int64_t c = 0; c < C; c++) {
            uint32_t key;
            memcpy(&key, (const char *)args->x.data + 4 * (r * C + c), 4);
            order[c] = (uint64_t)(key % 0x80000000u) * 0x100000000u + (uint64_t)c;
        }
        qsort(order, (size_t)C, sizeof *order, compare);
        for (int64_t c = 0; c < bytes; c++)
            mask[c] = 0;
        for (int64_t i = args->prune; i < C; i++)
            oracle_set(mask, (int64_t)(order[i] % 0x100000000u), 1);
    }
    free(order);
}
