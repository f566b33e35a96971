/* Batch norm, layer norm, RMS norm and their gradients in double precision. */
#include "oracle_nn.h"

#include <stdlib.h>

static int64_t cols_of(const pare_tensor *x)
{
    return x->shape[x->rank - 1];
}

static int64_t rows_of(const pare_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i < x->rank - 1; i++)
        rows *= x->shape[i];
    return rows;
}

/* x, added to what is there if `add`. */
static void put(const pare_tensor *t, int64_t i, double x, bool add)
{
    oracle_put(t, i, x + (add ? oracle_get(t, i) : 0));
}

/* ---- batch norm ------------------------------------------------------------------------------ */

static double column_mean(const pare_tensor *x, int64_t c)
{
    int64_t R = rows_of(x), C = cols_of(x);
    double sum = 0;
    for (int64_t r = 0; r < R; r++)
        sum += oracle_get(x, r * C + c);
    return sum / (double)R;
}

static double column_variance(const pare_tensor *x, int64_t c, double mean)
{
    int64_t R = rows_of(x), C = cols_of(x);
    double sum = 0;
    for (int64_t r = 0; r < R; r++)
        sum += (oracle_get(x, r * C + c) - mean) * (oracle_get(x, r * C + c) - mean);
    return sum / (double)R;
}

static void train_column(const pare_batch_norm_args *a, int64_t c, double *mean, double *var)
{
    double R = (double)rows_of(&a->x), m = (double)a->momentum;
    *mean = column_mean(&a->x, c);
    *var = column_variance(&a->x, c, *mean);
    double unbiased = R > 1 ? *var * R / (R - 1) : *var;
    oracle_put(&a->running_mean, c, (1 - m) * oracle_get(&a->running_mean, c) + m * *mean);
    oracle_put(&a->running_var, c, (1 - m) * oracle_get(&a->running_var, c) + m * unbiased);
}

void oracle_batch_norm(const pare_batch_norm_args *a)
{
    int64_t R = rows_of(&a->x), C = cols_of(&a->x);
    for (int64_t c = 0; c < C && R > 0; c++) {
        double mean = oracle_get(&a->running_mean, c), var = oracle_get(&a->running_var, c);
        if (a->training)
            train_column(a, c, &mean, &var);
        if (a->saved_mean.data)
            oracle_put(&a->saved_mean, c, mean);
        if (a->saved_scale.data)
            oracle_put(&a->saved_scale, c, 1 / sqrt(var + (double)a->eps));
        for (int64_t i = c; i < R * C; i += C) {
            double y = (oracle_get(&a->x, i) - mean) / sqrt(var + (double)a->eps);
            y = y * oracle_get(&a->gamma, c) + oracle_get(&a->beta, c);
            if (a->z.data)
                y += oracle_get(&a->z, i);
            oracle_put(&a->y, i, a->relu && y < 0 ? 0 : y);
        }
    }
}

/* Each step is one of f32. */
void oracle_batch_norm_fold(const pare_batch_norm_fold_args *a)
{
    for (int64_t c = 0; c < a->gamma.shape[0]; c++) {
        double var = oracle_round_dtype(oracle_get(&a->running_var, c) + (double)a->eps, PARE_F32);
        double root = oracle_round_dtype(sqrt(var), PARE_F32);
        double scale = oracle_round_dtype(oracle_get(&a->gamma, c) / root, PARE_F32);
        double middle = (a->bias.data ? oracle_get(&a->bias, c) : 0);
        middle = oracle_round_dtype(middle - oracle_get(&a->running_mean, c), PARE_F32);
        middle = oracle_round_dtype(middle * scale, PARE_F32);
        oracle_put(&a->scale, c, scale);
        oracle_put(&a->shift, c, oracle_get(&a->beta, c) + middle);
    }
}

void oracle_batch_norm_grad(const pare_batch_norm_grad_args *a)
{
    int64_t R = rows_of(&a->x), C = cols_of(&a->x);
    double *g = calloc((size_t)(R * C) + 1, sizeof *g);
    for (int64_t i = 0; i < R * C; i++)
        g[i] = a->relu && !(oracle_get(&a->y, i) > 0) ? 0 : oracle_get(&a->dy, i);
    for (int64_t c = 0; c < C; c++) {
        double mean = oracle_get(&a->saved_mean, c), scale = oracle_get(&a->saved_scale, c);
        double sum = 0, dot = 0;
        for (int64_t i = c; i < R * C; i += C) {
            sum += g[i];
            dot += g[i] * (oracle_get(&a->x, i) - mean) * scale;
        }
        for (int64_t i = c; i < R * C; i += C) {
            double xhat = (oracle_get(&a->x, i) - mean) * scale;
            double dx = g[i];
            if (!a->frozen)
                dx -= sum / (double)R + xhat * dot / (double)R;
            oracle_put(&a->dx, i, oracle_get(&a->gamma, c) * scale * dx);
            if (a->dz.data)
                oracle_put(&a->dz, i, g[i]);
        }
        put(&a->dgamma, c, dot, a->accumulate);
        put(&a->dbeta, c, sum, a->accumulate);
    }
    free(g);
}

/* ---- by row ---------------------------------------------------------------------------------- */

/* Mean of the row (0 without centring) and 1/sqrt of its variance, or mean square, and eps. */
static void row_statistics(const pare_tensor *x, int64_t r, bool centred, double eps, double *mean,
                           double *scale)
{
    int64_t N = cols_of(x);
    double sum = 0, square = 0;
    for (int64_t j = 0; j < N; j++)
        sum += oracle_get(x, r * N + j);
    *mean = centred ? sum / (double)N : 0;
    for (int64_t j = 0; j < N; j++) {
        double d = oracle_get(x, r * N + j) - *mean;
        square += d * d;
    }
    *scale = 1 / sqrt(square / (double)N + eps);
}

void oracle_layer_norm(const pare_layer_norm_args *a)
{
    int64_t R = rows_of(&a->x), N = cols_of(&a->x);
    for (int64_t r = 0; r < R && N > 0; r++) {
        double mean, scale;
        row_statistics(&a->x, r, true, (double)a->eps, &mean, &scale);
        for (int64_t j = 0; j < N; j++) {
            double beta = a->beta.data ? oracle_get(&a->beta, j) : 0;
            double xhat = (oracle_get(&a->x, r * N + j) - mean) * scale;
            oracle_put(&a->y, r * N + j, xhat * oracle_get(&a->gamma, j) + beta);
        }
        if (a->saved_mean.data)
            oracle_put(&a->saved_mean, r, mean);
        if (a->saved_scale.data)
            oracle_put(&a->saved_scale, r, scale);
    }
}

void oracle_rms_norm(const pare_rms_norm_args *a)
{
    int64_t R = rows_of(&a->x), N = cols_of(&a->x);
    for (int64_t r = 0; r < R && N > 0; r++) {
        double mean, scale;
        row_statistics(&a->x, r, false, (double)a->eps, &mean, &scale);
        for (int64_t j = 0; j < N; j++)
            oracle_put(&a->y, r * N + j,
                       oracle_get(&a->x, r * N + j) * scale * oracle_get(&a->gamma, j));
        if (a->saved_scale.data)
            oracle_put(&a->saved_scale, r, scale);
    }
}

/* What the gradients of both have in common; mean has data NULL for RMS norm. */
typedef struct rows_grad {
    const pare_tensor *dy, *x, *gamma, *mean, *scale, *dx;
    bool add_x;
} rows_grad;

static double xhat_of(const rows_grad *g, int64_t r, int64_t j)
{
    double mean = g->mean ? oracle_get(g->mean, r) : 0;
    return (oracle_get(g->x, r * cols_of(g->x) + j) - mean) * oracle_get(g->scale, r);
}

static void row_gradient(const rows_grad *g, int64_t r)
{
    int64_t N = cols_of(g->x);
    double sum = 0, dot = 0, scale = oracle_get(g->scale, r);
    for (int64_t j = 0; j < N; j++) {
        double d = oracle_get(g->dy, r * N + j) * oracle_get(g->gamma, j);
        sum += g->mean ? d : 0;
        dot += d * xhat_of(g, r, j);
    }
    for (int64_t j = 0; j < N; j++) {
        double d = oracle_get(g->dy, r * N + j) * oracle_get(g->gamma, j);
        put(g->dx, r * N + j, scale * (d - (sum + xhat_of(g, r, j) * dot) / (double)N), g->add_x);
    }
}

/* dgamma[j] (with xhat) or dbeta[j]. */
static double column_gradient(const rows_grad *g, int64_t j, bool with_xhat)
{
    int64_t N = cols_of(g->x);
    double sum = 0;
    for (int64_t r = 0; r < rows_of(g->x); r++)
        sum += oracle_get(g->dy, r * N + j) * (with_xhat ? xhat_of(g, r, j) : 1);
    return sum;
}

void oracle_layer_norm_grad(const pare_layer_norm_grad_args *a)
{
    rows_grad g = {&a->dy,          &a->x,  &a->gamma,      &a->saved_mean,
                   &a->saved_scale, &a->dx, a->accumulate_x};
    for (int64_t j = 0; j < cols_of(&a->x); j++) {
        if (a->dgamma.data)
            put(&a->dgamma, j, column_gradient(&g, j, true), a->accumulate);
        if (a->dbeta.data)
            put(&a->dbeta, j, column_gradient(&g, j, false), a->accumulate);
    }
    for (int64_t r = 0; r < rows_of(&a->x); r++)
        row_gradient(&g, r);
}

void oracle_rms_norm_grad(const pare_rms_norm_grad_args *a)
{
    rows_grad g = {&a->dy, &a->x, &a->gamma, NULL, &a->saved_scale, &a->dx, a->accumulate_x};
    for (int64_t j = 0; j < cols_of(&a->x) && a->dgamma.data; j++)
        put(&a->dgamma, j, column_gradient(&g, j, true), a->accumulate);
    for (int64_t r = 0; r < rows_of(&a->x); r++)
        row_gradient(&g, r);
}
