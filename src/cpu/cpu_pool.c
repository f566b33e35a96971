/* cpu_pool.c - the mean of each window, and its gradient, over images with channels last.
 *
 * Four registers of channels of a window at a time, then one: a global pool is a window like any
 * other. The gradient looks from each input position at the windows that hold it, so every
 * element is written once. Bound by memory.
 */
#include "cpu_nn.h"
#include "cpu_pool.h"

/* 1/(elements of a window); 0 where there are none. */
static inline float window_share(const cpu_pool *g, const cpu_span *down, const cpu_span *across)
{
    int64_t count = g->count_pad ? (int64_t)g->window->kernel[0] * g->window->kernel[1]
                                 : cpu_span_count(down) * cpu_span_count(across);
    return count > 0 ? 1.0f / (float)count : 0;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* The mean over a window of the image that begins at x[image], `registers` of n channels each from
 * c on, to y[to] of its row. Lines are summed on their own: a long window stays accurate. */
CPU_INLINE void window_mean(const cpu_pool *g, const void *x, int64_t image, void *y,
                            pare_dtype dtype, cpu_span down, cpu_span across, int64_t to, int64_t c,
                            int registers, int64_t n)
{
    cpu_part_f sum[CPU_POOL_WIDE] = {{0}};
    float share = window_share(g, &down, &across);
    for (int64_t u = down.from; u < down.to; u++) {
        cpu_part_f line[CPU_POOL_WIDE] = {{0}};
        int64_t row = (down.first + u) * g->W + across.first;
        for (int64_t v = across.from; v < across.to; v++)
            for (int k = 0; k < registers; k++)
                line[k] += cpu_pool_load(x, dtype, g->in,
                                         image + (row + v) * g->C + c + k * CPU_PART_V, n);
        for (int k = 0; k < registers; k++)
            sum[k] += line[k];
    }
    for (int k = 0; k < registers; k++)
        cpu_pool_store(y, dtype, g->cols * g->C, to + c + k * CPU_PART_V, n, sum[k] * share);
}

CPU_INLINE void avg_row_of(const cpu_pool *g, const void *x, int64_t image, void *y,
                           pare_dtype dtype, int64_t i)
{
    cpu_span down = cpu_span_of(g->window, 0, i, g->H);
    for (int64_t j = 0; j < g->cols; j++) {
        cpu_span across = cpu_span_of(g->window, 1, j, g->W);
#define CHANNELS(c, registers, n)                                                                  \
    window_mean(g, x, image, y, dtype, down, across, j * g->C, c, registers, n)
        CPU_CHANNELS(g->C, CHANNELS);
#undef CHANNELS
    }
}

CPU_LOOP void avg_row(const cpu_pool *g, const void *x, int64_t image, void *y, pare_dtype dtype,
                      int64_t i)
{
    if (dtype == PARE_F32)
        avg_row_of(g, x, image, y, PARE_F32, i);
    else
        avg_row_of(g, x, image, y, PARE_BF16, i);
}

static void avg_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_avg_args *a = user;
    cpu_pool g = cpu_pool_of(&a->x, &a->y, &a->window, a->count_pad);
    pare_dtype dtype = a->x.dtype;
    for (int64_t r = first; r < last; r++) {
        int64_t image = r / g.rows * g.H * g.W * g.C;
        void *y = cpu_row_at(a->y.data, dtype, r * g.cols * g.C);
        avg_row(&g, a->x.data, image, y, dtype, r % g.rows);
    }
}

pare_status PARE_CPU(pare_cpu_pool_avg)(pare_backend *be, const pare_pool_avg_args *args)
{
    if (pare_tensor_count(&args->y) > 0)
        cpu_split(be, args->y.shape[0] * args->y.shape[1],
                  cpu_pool_grain(&args->y, &args->x, &args->window), avg_part, args);
    return PARE_OK;
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* `registers` of n channels each from c on, of pixel w of a row of dx: shares of the windows that
 * hold it. dy of this image begins at `image`. */
CPU_INLINE void gather_mean(const cpu_pool *g, const void *dy, int64_t image, void *dx,
                            pare_dtype dtype, int64_t w, cpu_span down, cpu_span across, int64_t c,
                            int registers, int64_t n)
{
    cpu_part_f sum[CPU_POOL_WIDE] = {{0}};
    for (int64_t i = down.from; i < down.to; i++) {
        cpu_span of_i = cpu_span_of(g->window, 0, i, g->H);
        for (int64_t j = across.from; j < across.to; j++) {
            cpu_span of_j = cpu_span_of(g->window, 1, j, g->W);
            float share = window_share(g, &of_i, &of_j);
            int64_t from = image + (i * g->cols + j) * g->C + c;
            for (int k = 0; k < registers; k++)
                sum[k] += share * cpu_pool_load(dy, dtype, g->out, from + k * CPU_PART_V, n);
        }
    }
    for (int k = 0; k < registers; k++)
        cpu_pool_store(dx, dtype, g->W * g->C, w * g->C + c + k * CPU_PART_V, n, sum[k]);
}

CPU_INLINE void avg_grad_row_of(const cpu_pool *g, const void *dy, int64_t image, void *dx,
                                pare_dtype dtype, int64_t h)
{
    cpu_span down = cpu_outputs_of(g->window, 0, h, g->rows);
    for (int64_t w = 0; w < g->W; w++) {
        cpu_span across = cpu_outputs_of(g->window, 1, w, g->cols);
#define CHANNELS(c, registers, n)                                                                  \
    gather_mean(g, dy, image, dx, dtype, w, down, across, c, registers, n)
        CPU_CHANNELS(g->C, CHANNELS);
#undef CHANNELS
    }
}

CPU_LOOP void avg_grad_row(const cpu_pool *g, const void *dy, int64_t image, void *dx,
                           pare_dtype dtype, int64_t h)
{
    if (dtype == PARE_F32)
        avg_grad_row_of(g, dy, image, dx, PARE_F32, h);
    else
        avg_grad_row_of(g, dy, image, dx, PARE_BF16, h);
}

static void avg_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_avg_grad_args *a = user;
    cpu_pool g = cpu_pool_of(&a->dx, &a->dy, &a->window, a->count_pad);
    pare_dtype dtype = a->dx.dtype;
    for (int64_t r = first; r < last; r++) {
        int64_t image = r / g.H * g.rows * g.cols * g.C;
        void *dx = cpu_row_at(a->dx.data, dtype, r * g.W * g.C);
        avg_grad_row(&g, a->dy.data, image, dx, dtype, r % g.H);
    }
}

pare_status PARE_CPU(pare_cpu_pool_avg_grad)(pare_backend *be, const pare_pool_avg_grad_args *args)
{
    if (pare_tensor_count(&args->dx) > 0)
        cpu_split(be, args->dx.shape[0] * args->dx.shape[1],
                  cpu_row_grain(args->dx.shape[2] * args->dx.shape[3]), avg_grad_part, args);
    return PARE_OK;
}
