/* Pools and the shortcut in double precision, one element at a time. */
#include "oracle_nn.h"

#include <stdlib.h>

/* The place in [B, H, W, C] of what window place (u, v) of output (b, i, j) looks at, or −1 for
 * padding. */
static int64_t looks_at(const pare_tensor *image, const pare_window *w, int64_t b, int64_t i,
                        int64_t j, int64_t u, int64_t v, int64_t c)
{
    int64_t h = i * w->stride[0] - w->pad_top + u * w->dilation[0];
    int64_t x = j * w->stride[1] - w->pad_left + v * w->dilation[1];
    if (h < 0 || h >= image->shape[1] || x < 0 || x >= image->shape[2])
        return -1;
    return ((b * image->shape[1] + h) * image->shape[2] + x) * image->shape[3] + c;
}

/* An output [B, H', W', C], element by element, with where it stands. */
typedef struct output {
    int64_t at, b, i, j, c;
} output;

static output output_at(const pare_tensor *y, int64_t at)
{
    int64_t C = y->shape[3], pixel = at / C, row = pixel / y->shape[2];
    return (output){at, row / y->shape[1], row % y->shape[1], pixel % y->shape[2], at % C};
}

void oracle_pool_max(const pare_pool_max_args *a)
{
    const pare_window *w = &a->window;
    for (int64_t n = 0; n < pare_tensor_count(&a->y); n++) {
        output o = output_at(&a->y, n);
        double best = -(double)INFINITY;
        int32_t place = -1;
        for (int u = 0; u < w->kernel[0]; u++)
            for (int v = 0; v < w->kernel[1]; v++) {
                int64_t at = looks_at(&a->x, w, o.b, o.i, o.j, u, v, o.c);
                double x = at < 0 ? 0 : oracle_get(&a->x, at);
                if (at < 0 || (place >= 0 && (isnan(best) || (!isnan(x) && x <= best))))
                    continue;
                best = x;
                place = u * w->kernel[1] + v;
            }
        oracle_put(&a->y, n, best);
        if (a->at.data)
            ((int32_t *)a->at.data)[n] = place < 0 ? 0 : place;
    }
}

/* What each element of dx has gathered goes there. */
static void put_sums(const pare_tensor *dx, double *sum)
{
    for (int64_t n = 0; n < pare_tensor_count(dx); n++)
        oracle_put(dx, n, sum[n]);
    free(sum);
}

static double *sums_of(const pare_tensor *dx)
{
    return calloc((size_t)pare_tensor_count(dx) + 1, sizeof(double));
}

void oracle_pool_max_grad(const pare_pool_max_grad_args *a)
{
    const pare_window *w = &a->window;
    double *sum = sums_of(&a->dx);
    for (int64_t n = 0; n < pare_tensor_count(&a->dy); n++) {
        output o = output_at(&a->dy, n);
        int32_t place = ((const int32_t *)a->at.data)[n];
        int64_t at =
            looks_at(&a->dx, w, o.b, o.i, o.j, place / w->kernel[1], place % w->kernel[1], o.c);
        if (at >= 0)
            sum[at] += oracle_get(&a->dy, n);
    }
    put_sums(&a->dx, sum);
}

/* Elements that the mean of a window divides by. */
static double divisor(const pare_tensor *image, const pare_window *w, bool count_pad, output o)
{
    int count = 0;
    for (int u = 0; u < w->kernel[0]; u++)
        for (int v = 0; v < w->kernel[1]; v++)
            count += count_pad || looks_at(image, w, o.b, o.i, o.j, u, v, o.c) >= 0;
    return count > 0 ? count : 1;
}

void oracle_pool_avg(const pare_pool_avg_args *a)
{
    const pare_window *w = &a->window;
    for (int64_t n = 0; n < pare_tensor_count(&a->y); n++) {
        output o = output_at(&a->y, n);
        double sum = 0;
        for (int u = 0; u < w->kernel[0]; u++)
            for (int v = 0; v < w->kernel[1]; v++) {
                int64_t at = looks_at(&a->x, w, o.b, o.i, o.j, u, v, o.c);
                sum += at < 0 ? 0 : oracle_get(&a->x, at);
            }
        oracle_put(&a->y, n, sum / divisor(&a->x, w, a->count_pad, o));
    }
}

void oracle_pool_avg_grad(const pare_pool_avg_grad_args *a)
{
    const pare_window *w = &a->window;
    double *sum = sums_of(&a->dx);
    for (int64_t n = 0; n < pare_tensor_count(&a->dy); n++) {
        output o = output_at(&a->dy, n);
        double share = oracle_get(&a->dy, n) / divisor(&a->dx, w, a->count_pad, o);
        for (int u = 0; u < w->kernel[0]; u++)
            for (int v = 0; v < w->kernel[1]; v++) {
                int64_t at = looks_at(&a->dx, w, o.b, o.i, o.j, u, v, o.c);
                if (at >= 0)
                    sum[at] += share;
            }
    }
    put_sums(&a->dx, sum);
}

/* ---- sequences ------------------------------------------------------------------------------- */

static int counts(const pare_tensor *keys, int64_t T, int64_t b, int64_t t)
{
    return !keys->data || ((const uint8_t *)keys->data)[b * T + t] != 0;
}

/* Steps of sequence b that count, at least 1. */
static double steps_of(const pare_tensor *keys, int64_t T, int64_t b)
{
    double count = 0;
    for (int64_t t = 0; t < T; t++)
        count += counts(keys, T, b, t);
    return fmax(count, 1);
}

void oracle_pool_seq(const pare_pool_seq_args *a)
{
    int64_t T = a->x.shape[1], N = a->x.shape[2];
    for (int64_t n = 0; n < a->x.shape[0] * N; n++) {
        int64_t b = n / N;
        double sum = 0;
        for (int64_t t = 0; t < T; t++)
            if (counts(&a->keys, T, b, t))
                sum += oracle_get(&a->x, (b * T + t) * N + n % N);
        oracle_put(&a->y, n, sum / steps_of(&a->keys, T, b));
    }
}

void oracle_pool_seq_grad(const pare_pool_seq_grad_args *a)
{
    int64_t T = a->dx.shape[1], N = a->dx.shape[2];
    for (int64_t n = 0; n < pare_tensor_count(&a->dx); n++) {
        int64_t b = n / N / T, t = n / N % T;
        double share = oracle_get(&a->dy, b * N + n % N) / steps_of(&a->keys, T, b);
        oracle_put(&a->dx, n, counts(&a->keys, T, b, t) ? share : 0);
    }
}

/* ---- shortcut -------------------------------------------------------------------------------- */

void oracle_shortcut(const pare_shortcut_args *a)
{
    const int64_t *x = a->x.shape;
    for (int64_t n = 0; n < pare_tensor_count(&a->y); n++) {
        output o = output_at(&a->y, n);
        int64_t c = o.c - a->before, h = o.i * a->stride, w = o.j * a->stride;
        int inside = c >= 0 && c < x[3];
        oracle_put(&a->y, n,
                   inside ? oracle_get(&a->x, ((o.b * x[1] + h) * x[2] + w) * x[3] + c) : 0);
    }
}

void oracle_shortcut_grad(const pare_shortcut_grad_args *a)
{
    const int64_t *y = a->dy.shape;
    for (int64_t n = 0; n < pare_tensor_count(&a->dx); n++) {
        output o = output_at(&a->dx, n); /* here an input */
        int64_t i = o.i / a->stride, j = o.j / a->stride;
        int seen = i * a->stride == o.i && j * a->stride == o.j;
        double d =
            seen ? oracle_get(&a->dy, ((o.b * y[1] + i) * y[2] + j) * y[3] + a->before + o.c) : 0;
        oracle_put(&a->dx, n, d);
    }
}
