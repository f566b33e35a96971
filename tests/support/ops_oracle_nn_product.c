/* ops_oracle_nn_product.c - products as sums in double, and in F64 for differences. */
#include "oracle_nn.h"

#include <stdlib.h>

/* A tensor as doubles, rounded to BF16 if told; freed by the caller. */
static double *widened(const pare_tensor *t, int round)
{
    int64_t n = pare_tensor_count(t);
    double *x = calloc((size_t)n + 1, sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = oracle_get(t, i);
        if (round)
            x[i] = oracle_round_dtype(x[i], PARE_BF16);
    }
    return x;
}

void oracle_gemm(const pare_gemm_args *args)
{
    int half = args->a.dtype == PARE_BF16 || args->b.dtype == PARE_BF16;
    int64_t M = args->c.shape[0], N = args->c.shape[1];
    int64_t K = args->a.shape[args->trans_a ? 0 : 1];
    double *a = widened(&args->a, half), *b = widened(&args->b, half);
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = args->accumulate ? oracle_get(&args->c, i * N + j) : 0;
            if (args->bias.data)
                sum += oracle_get(&args->bias, j);
            for (int64_t k = 0; k < K; k++)
                sum += a[args->trans_a ? k * M + i : i * K + k] *
                       b[args->trans_b ? j * K + k : k * N + j];
            oracle_put(&args->c, i * N + j, sum);
        }
    free(a);
    free(b);
}

void oracle_colsum(const pare_colsum_args *args)
{
    int64_t R = args->x.shape[0], N = args->x.shape[1];
    for (int64_t j = 0; j < N; j++) {
        double sum = args->accumulate ? oracle_get(&args->y, j) : 0;
        for (int64_t i = 0; i < R; i++)
            sum += oracle_get(&args->x, i * N + j);
        oracle_put(&args->y, j, sum);
    }
}

/* ---- convolutions: one walk over all that a window touches ------------------------------------
 */

typedef struct walk {
    const pare_tensor *x, *w, *y; /* shapes */
    const pare_window *window;
    int64_t groups;
} walk;

/* Calls visit with the flat places in x, w and y of every product of the convolution. */
static void walk_window(const walk *k, void (*visit)(void *, int64_t, int64_t, int64_t), void *user)
{
    const int64_t *xs = k->x->shape, *ws = k->w->shape, *ys = k->y->shape;
    const pare_window *n = k->window;
    int64_t each = ws[0] / k->groups; /* outputs of a group */
    for (int64_t y = 0; y < pare_tensor_count(k->y); y++) {
        int64_t o = y % ys[3], j = y / ys[3] % ys[2], i = y / ys[3] / ys[2] % ys[1];
        int64_t b = y / ys[3] / ys[2] / ys[1];
        for (int64_t w = 0; w < ws[1] * ws[2] * ws[3]; w++) {
            int64_t v = w % ws[3], u = w / ws[3] % ws[2], c = w / ws[3] / ws[2];
            int64_t r = i * n->stride[0] - n->pad_top + u * n->dilation[0];
            int64_t s = j * n->stride[1] - n->pad_left + v * n->dilation[1];
            if (r < 0 || r >= xs[1] || s < 0 || s >= xs[2])
                continue;
            int64_t at = ((b * xs[1] + r) * xs[2] + s) * xs[3] + o / each * ws[1] + c;
            visit(user, at, o * ws[1] * ws[2] * ws[3] + w, y);
        }
    }
}

typedef struct sums {
    double *x, *w, *y;
} sums;

static void add_y(void *user, int64_t x, int64_t w, int64_t y)
{
    sums *s = user;
    s->y[y] += s->x[x] * s->w[w];
}

static void add_x(void *user, int64_t x, int64_t w, int64_t y)
{
    sums *s = user;
    s->x[x] += s->y[y] * s->w[w];
}

static void add_w(void *user, int64_t x, int64_t w, int64_t y)
{
    sums *s = user;
    s->w[w] += s->y[y] * s->x[x];
}

static double *zeros(const pare_tensor *t)
{
    return calloc((size_t)pare_tensor_count(t) + 1, sizeof(double));
}

/* Frees the sums after writing those of `result` to t. */
static void finish(sums *s, const double *result, const pare_tensor *t, int accumulate)
{
    for (int64_t i = 0; i < pare_tensor_count(t); i++)
        oracle_put(t, i, result[i] + (accumulate ? oracle_get(t, i) : 0));
    free(s->x);
    free(s->w);
    free(s->y);
}

/* The scale is in the weights before they are rounded to BF16. */
static double *scaled_weights(const pare_conv_args *args)
{
    double *w = widened(&args->w, 0);
    int64_t O = args->w.shape[0], each = pare_tensor_count(&args->w) / O;
    for (int64_t i = 0; i < O * each; i++) {
        if (args->scale.data)
            w[i] *= oracle_get(&args->scale, i / each);
        if (args->x.dtype == PARE_BF16) /* the product is an F32 first */
            w[i] = oracle_round_dtype(oracle_round_dtype(w[i], PARE_F32), PARE_BF16);
    }
    return w;
}

void oracle_conv(const pare_conv_args *args)
{
    const walk k = {&args->x, &args->w, &args->y, &args->window, args->groups ? args->groups : 1};
    sums s = {widened(&args->x, 0), scaled_weights(args), zeros(&args->y)};
    walk_window(&k, add_y, &s);
    for (int64_t i = 0; i < pare_tensor_count(&args->y); i++) {
        if (args->shift.data)
            s.y[i] += oracle_get(&args->shift, i % args->y.shape[3]);
        if (args->z.data)
            s.y[i] += oracle_get(&args->z, i);
        if (args->relu && s.y[i] < 0)
            s.y[i] = 0;
    }
    finish(&s, s.y, &args->y, 0);
}

void oracle_conv_grad_x(const pare_conv_grad_x_args *args)
{
    const walk k = {&args->dx, &args->w, &args->dy, &args->window, args->groups ? args->groups : 1};
    sums s = {zeros(&args->dx), widened(&args->w, args->dx.dtype == PARE_BF16),
              widened(&args->dy, 0)};
    walk_window(&k, add_x, &s);
    finish(&s, s.x, &args->dx, 0);
}

void oracle_conv_grad_w(const pare_conv_grad_w_args *args)
{
    const walk k = {&args->x, &args->dw, &args->dy, &args->window, args->groups ? args->groups : 1};
    sums s = {widened(&args->x, 0), zeros(&args->dw), widened(&args->dy, 0)};
    walk_window(&k, add_w, &s);
    finish(&s, s.w, &args->dw, args->accumulate);
}
