#include "ops_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double f32(double x)
{
    return oracle_round_dtype(x, PARE_F32);
}

static double at(const pare_tensor *t, int64_t i)
{
    return oracle_value(t->data, PARE_F32, i);
}

static double element(const pare_tensor *t, int64_t i, int64_t j)
{
    return at(t, i * t->shape[1] + j);
}

static void put(const pare_tensor *t, int64_t i, double x)
{
    oracle_store(t->data, PARE_F32, i, x);
}

/* ---- matrices -------------------------------------------------------------------------------- */

void oracle_permute(const pare_permute_args *args)
{
    const int32_t *rows = args->rows.data, *cols = args->cols.data;
    int64_t R = args->y.shape[0], C = args->y.shape[1];
    size_t size = args->x.dtype == PARE_F32 ? 4 : 1;
    for (int64_t i = 0; i < R; i++)
        for (int64_t j = 0; j < C; j++) {
            int64_t a = rows ? rows[i] : i, b = cols ? cols[j] : j;
            if (args->lower && a < b) {
                int64_t c = a;
                a = b;
                b = c;
            }
            memcpy((uint8_t *)args->y.data + (size_t)(i * C + j) * size,
                   (uint8_t *)args->x.data + (size_t)(a * args->x.shape[1] + b) * size, size);
        }
}

void oracle_diagonal(const pare_diagonal_args *args)
{
    int64_t n = args->a.shape[0];
    float *a = args->a.data, *d = args->d.data;
    for (int64_t i = 0; i < n; i++) {
        if (args->set)
            a[i * n + i] = d[i];
        else
            d[i] = a[i * n + i];
    }
}

/* Column by column: l·x = a column of the unit matrix. */
void oracle_tri_inverse(const pare_tri_inverse_args *args)
{
    int64_t n = args->l.shape[0];
    double *x = calloc((size_t)(n * n) + 1, sizeof *x);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = j; i < n; i++) {
            double sum = i == j ? 1.0 : 0.0;
            for (int64_t k = j; k < i; k++)
                sum -= element(&args->l, i, k) * x[k * n + j];
            x[i * n + j] = sum / element(&args->l, i, i);
        }
    for (int64_t i = 0; i < n * n; i++)
        put(&args->l, i, x[i]);
    free(x);
}

/* ---- the sweep ------------------------------------------------------------------------------- */

static double diagonal_of(const pare_tensor *u, int64_t i)
{
    return element(u, i, i);
}

static bool frozen_at(const pare_tensor *frozen, int64_t r, int64_t c)
{
    return frozen->data && !oracle_bit((const uint8_t *)frozen->data + r * frozen->shape[1], c);
}

void oracle_keys_obs(const pare_keys_obs_args *args)
{
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < N; c++) {
            double x = f32(element(&args->w, r, c) / diagonal_of(&args->u, args->first + c));
            put(&args->keys, r * N + c, frozen_at(&args->frozen, r, c) ? 0.0 : x * x);
        }
}

/* Of the columns c … c + m − 1 of row r the m − n of lowest (score, index) lose their bits. */
static void choose(const pare_obs_block_args *a, int64_t r, int64_t c)
{
    uint8_t *row = (uint8_t *)a->mask.data + r * a->mask.shape[1];
    double score[PARE_OBS_PANEL];
    for (int64_t i = 0; i < a->m; i++) {
        double x = frozen_at(&a->frozen, r, c + i) ? 0.0 : element(&a->w, r, c + i);
        x = f32(x / diagonal_of(&a->u, a->first + c + i));
        score[i] = f32(x * x);
    }
    for (int pruned = 0; pruned < a->m - a->n; pruned++) {
        int64_t least = 0;
        for (int64_t i = 1; i < a->m; i++)
            least = score[i] < score[least] ? i : least;
        score[least] = INFINITY;
        oracle_set(row, c + least, 0);
    }
}

/* The code of one weight by the ops that are tested by themselves, and its value. */
static double rounded(const pare_obs_block_args *a, int64_t r, int64_t c, double w, bool keep)
{
    int64_t block = r / a->block_rows * a->scale.shape[1] + c / a->block_cols;
    float x = (float)w, scale = (float)at(&a->scale, block), value = 0;
    int8_t zero = a->zero.data ? ((const int8_t *)a->zero.data)[block] : 0;
    int8_t *code = (int8_t *)a->codes.data + r * a->w.shape[1] + c;
    pare_tensor scales = pare_matrix(&scale, PARE_F32, 1, 1);
    pare_tensor zeros = pare_matrix(a->zero.data ? &zero : NULL, PARE_I8, 1, 1);
    if (!keep)
        x = 0.0f;
    oracle_quantize(&(pare_quantize_args){.scheme = a->scheme,
                                          .w = pare_matrix(&x, PARE_F32, 1, 1),
                                          .block_rows = 1,
                                          .block_cols = 1,
                                          .scale = scales,
                                          .zero = zeros,
                                          .codes = pare_matrix(code, PARE_I8, 1, 1)});
    oracle_dequantize(&(pare_dequantize_args){.scheme = a->scheme,
                                              .codes = pare_matrix(code, PARE_I8, 1, 1),
                                              .block_rows = 1,
                                              .block_cols = 1,
                                              .scale = scales,
                                              .zero = zeros,
                                              .w = pare_matrix(&value, PARE_F32, 1, 1)});
    return keep ? (double)value : 0.0;
}

static void sweep_column(const pare_obs_block_args *a, int64_t r, int64_t c)
{
    int64_t N = a->w.shape[1], first = a->first;
    const uint8_t *mask = (const uint8_t *)a->mask.data + r * a->mask.shape[1];
    bool frozen = frozen_at(&a->frozen, r, c);
    bool keep = !frozen && (!a->mask.data || oracle_bit(mask, c));
    double w = frozen ? 0.0 : element(&a->w, r, c), q = keep ? w : 0.0;
    if (a->scheme.type != PARE_QUANT_NONE)
        q = rounded(a, r, c, w, keep);
    double e = f32(f32(w - q) / diagonal_of(&a->u, first + c));
    for (int64_t j = c + 1; j < N; j++) {
        double move = f32(e * element(&a->u, first + c, first + j));
        put(&a->w, r * N + j, f32(element(&a->w, r, j) - move));
    }
    put(&a->w, r * N + c, q);
    put(&a->err, r * N + c, e);
    ((double *)a->loss.data)[r] += e * e;
}

void oracle_obs_block(const pare_obs_block_args *args)
{
    int64_t R = args->w.shape[0], N = args->w.shape[1];
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < N; c++) {
            if (args->m > 0 && c % args->m == 0 && c + args->m <= N)
                choose(args, r, c);
            sweep_column(args, r, c);
        }
}

void oracle_obs_update(const pare_obs_update_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], N = args->err.shape[1];
    for (int64_t r = 0; r < R; r++)
        for (int64_t j = args->first + N; j < args->last; j++) {
            double sum = element(&args->w, r, j);
            for (int64_t c = 0; c < N; c++)
                sum -= element(&args->err, r, c) * element(&args->u, args->first + c, j);
            put(&args->w, r * C + j, sum);
        }
}
