/* ops_oracle_calib_stats.c - the statistics of a layer's inputs in double precision, one element at
 * a time, and what prepares inputs for them. */
#include "oracle_nn.h"

void oracle_gram(const pare_gram_args *args)
{
    int64_t R = args->x.shape[0], K = args->x.shape[1];
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = oracle_get(&args->g, i * K + j);
            for (int64_t r = 0; r < R; r++)
                sum += oracle_get(&args->x, r * K + i) * oracle_get(&args->x, r * K + j);
            oracle_put(&args->g, i * K + j, sum);
        }
}

void oracle_column_stats(const pare_column_stats_args *args)
{
    int64_t R = args->x.shape[0], K = args->x.shape[1];
    for (int64_t j = 0; j < K; j++) {
        double top = oracle_get(&args->absmax, j);
        double sum = oracle_get(&args->sum, j), squares = oracle_get(&args->squares, j);
        for (int64_t r = 0; r < R; r++) {
            double x = fabs(oracle_get(&args->x, r * K + j));
            top = x > top ? x : top;
            sum += x;
            squares += x * x;
        }
        oracle_put(&args->absmax, j, top);
        oracle_put(&args->sum, j, sum);
        oracle_put(&args->squares, j, squares);
    }
}

void oracle_histogram(const pare_histogram_args *args)
{
    int64_t n = args->bins.shape[0], *bins = args->bins.data;
    for (int64_t i = 0; i < pare_tensor_count(&args->x); i++) {
        double x = fabs(oracle_get(&args->x, i));
        double at = isnan(x) ? (double)INFINITY
                             : floor(oracle_round_dtype(x / (double)args->width, PARE_F32));
        bins[at < (double)(n - 1) ? (int64_t)at : n - 1]++;
    }
}

static void copy_element(const pare_tensor *from, int64_t at, const pare_tensor *to, int64_t i)
{
    size_t size = from->dtype == PARE_F32 ? 4 : 2;
    uint8_t *y = (uint8_t *)to->data + (size_t)i * size;
    if (at < 0)
        memset(y, 0, size);
    else
        memcpy(y, (const uint8_t *)from->data + (size_t)at * size, size);
}

void oracle_patches(const pare_patches_args *args)
{
    const pare_window *w = &args->window;
    int64_t H = args->x.shape[1], W = args->x.shape[2], C = args->x.shape[3];
    int64_t down = pare_window_out(w, 0, H), across = pare_window_out(w, 1, W);
    int64_t n = 0; /* elements of y, one after the other */
    for (int64_t b = 0; b < args->x.shape[0]; b++)
        for (int64_t i = 0; i < down; i++)
            for (int64_t j = 0; j < across; j++)
                for (int64_t c = 0; c < C; c++)
                    for (int u = 0; u < w->kernel[0]; u++)
                        for (int v = 0; v < w->kernel[1]; v++) {
                            int64_t h = i * w->stride[0] - w->pad_top + u * w->dilation[0];
                            int64_t x = j * w->stride[1] - w->pad_left + v * w->dilation[1];
                            bool outside = h < 0 || h >= H || x < 0 || x >= W;
                            copy_element(&args->x, outside ? -1 : ((b * H + h) * W + x) * C + c,
                                         &args->y, n++);
                        }
}

void oracle_keep_rows(const pare_keep_rows_args *args)
{
    int64_t R = args->x.shape[0], N = args->x.shape[1];
    for (int64_t i = 0; i < R * N; i++)
        copy_element(&args->x, ((const uint8_t *)args->keep.data)[i / N] ? i : -1, &args->y, i);
}

void oracle_quant_fixed(const pare_quant_fixed_args *args)
{
    for (int64_t i = 0; i < pare_tensor_count(&args->x); i++) {
        double x = oracle_get(&args->x, i);
        double q = oracle_round_dtype(x / (double)args->scale, PARE_F32);
        q = isnan(x) ? x : isinf(q) ? q : oracle_rint(q) + 0.0;
        q = q > 127 ? 127 : q < -128 ? -128 : q;
        oracle_put(&args->y, i,
                   isnan(q) ? q : oracle_round_dtype(q * (double)args->scale, PARE_F32));
    }
}
