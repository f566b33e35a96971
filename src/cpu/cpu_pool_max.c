/* cpu_pool_max.c - the largest of each window, and its gradient, over images with channels last.
 *
 * Four registers of channels of a window at a time, then one. The gradient looks from each input
 * position at the few windows that hold it, so every element is written once. Bound by memory.
 */
#include "cpu_nn.h"
#include "cpu_pool.h"

/* ---- forward --------------------------------------------------------------------------------- */

/* `registers` of n channels each from c on, of one window of the image that begins at x[image], to
 * y[to] of its row; at may be NULL. An element is better than the best if it is greater, or NaN
 * where the best is none: so the first of equals stays. */
CPU_INLINE void window_max(const cpu_pool *g, const void *x, int64_t image, void *y, int32_t *at,
                           pare_dtype dtype, cpu_span down, cpu_span across, int64_t to, int64_t c,
                           int registers, int64_t n)
{
    const pare_window *w = g->window;
    int64_t step = w->dilation[1] * g->C, row_end = g->cols * g->C;
    bool empty = cpu_span_count(&down) == 0 || cpu_span_count(&across) == 0;
    int32_t start = empty ? 0 : (int32_t)(down.from * w->kernel[1] + across.from);
    cpu_part_f best[CPU_POOL_WIDE];
    cpu_part_i place[CPU_POOL_WIDE];
    for (int k = 0; k < registers; k++) {
        best[k] = (cpu_part_f){0} - INFINITY;
        place[k] = (cpu_part_i){0} + start;
    }
    for (int64_t u = down.from; u < down.to; u++) {
        int64_t row = (down.first + u * w->dilation[0]) * g->W;
        int64_t from = image + (row + across.first + across.from * w->dilation[1]) * g->C + c;
        int32_t here = (int32_t)(u * w->kernel[1] + across.from);
        for (int64_t v = across.from; v < across.to; v++, from += step, here++)
            for (int k = 0; k < registers; k++) {
                cpu_part_f a = cpu_pool_load(x, dtype, g->in, from + k * CPU_PART_V, n);
                cpu_part_i better = (a > best[k]) | ((a != a) & (best[k] == best[k]));
                cpu_part_i now = (cpu_part_i){0} + here;
                best[k] = cpu_part_pick(better, a, best[k]);
                place[k] = (now & better) | (place[k] & ~better);
            }
    }
    for (int k = 0; k < registers; k++) {
        int64_t i = to + c + k * CPU_PART_V;
        cpu_pool_store(y, dtype, row_end, i, n, best[k]);
        if (at)
            cpu_pool_store(at, PARE_F32, row_end, i, n, (cpu_part_f)place[k]);
    }
}

/* One row of the output. */
CPU_INLINE void max_row_of(const cpu_pool *g, const void *x, int64_t image, void *y, int32_t *at,
                           pare_dtype dtype, int64_t i)
{
    cpu_span down = cpu_span_of(g->window, 0, i, g->H);
    for (int64_t j = 0; j < g->cols; j++) {
        cpu_span across = cpu_span_of(g->window, 1, j, g->W);
#define CHANNELS(c, registers, n)                                                                  \
    window_max(g, x, image, y, at, dtype, down, across, j * g->C, c, registers, n)
        CPU_CHANNELS(g->C, CHANNELS);
#undef CHANNELS
    }
}

CPU_LOOP void max_row(const cpu_pool *g, const void *x, int64_t image, void *y, int32_t *at,
                      pare_dtype dtype, int64_t i)
{
    if (dtype == PARE_F32 && at)
        max_row_of(g, x, image, y, at, PARE_F32, i);
    else if (dtype == PARE_F32)
        max_row_of(g, x, image, y, NULL, PARE_F32, i);
    else if (at)
        max_row_of(g, x, image, y, at, PARE_BF16, i);
    else
        max_row_of(g, x, image, y, NULL, PARE_BF16, i);
}

static void max_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_max_args *a = user;
    cpu_pool g = cpu_pool_of(&a->x, &a->y, &a->window, false);
    pare_dtype dtype = a->x.dtype;
    for (int64_t r = first; r < last; r++) {
        int64_t out = r * g.cols * g.C;
        int64_t image = r / g.rows * g.H * g.W * g.C;
        void *y = cpu_row_at(a->y.data, dtype, out);
        int32_t *at = a->at.data ? (int32_t *)a->at.data + out : NULL;
        max_row(&g, a->x.data, image, y, at, dtype, r % g.rows);
    }
}

pare_status PARE_CPU(pare_cpu_pool_max)(pare_backend *be, const pare_pool_max_args *args)
{
    if (pare_tensor_count(&args->y) > 0)
        cpu_split(be, args->y.shape[0] * args->y.shape[1],
                  cpu_pool_grain(&args->y, &args->x, &args->window), max_part, args);
    return PARE_OK;
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* `registers` of n channels each from c on, of dx at (h, w): what the windows hand back whose
 * largest stood there. dy and at of this image begin at `image`, dx is the row. */
CPU_INLINE void gather_max(const cpu_pool *g, const void *dy, const int32_t *at, int64_t image,
                           void *dx, pare_dtype dtype, int64_t h, int64_t w, cpu_span down,
                           cpu_span across, int64_t c, int registers, int64_t n)
{
    cpu_part_f sum[CPU_POOL_WIDE] = {{0}};
    for (int64_t i = down.from; i < down.to; i++) {
        int64_t u = cpu_place_in(g->window, 0, h, i);
        for (int64_t j = across.from; j < across.to; j++) {
            int64_t v = cpu_place_in(g->window, 1, w, j);
            int64_t from = image + (i * g->cols + j) * g->C + c;
            int32_t here = u < 0 || v < 0 ? -1 : (int32_t)(u * g->window->kernel[1] + v);
            for (int k = 0; k < registers; k++, from += CPU_PART_V) {
                cpu_part_f d = cpu_pool_load(dy, dtype, g->out, from, n);
                cpu_part_f place = cpu_pool_load(at, PARE_F32, g->out, from, n);
                cpu_part_i stood = (cpu_part_i)place == (cpu_part_i){0} + here;
                sum[k] += (cpu_part_f)((cpu_part_i)d & stood);
            }
        }
    }
    for (int k = 0; k < registers; k++)
        cpu_pool_store(dx, dtype, g->W * g->C, w * g->C + c + k * CPU_PART_V, n, sum[k]);
}

CPU_INLINE void max_grad_row_of(const cpu_pool *g, const void *dy, const int32_t *at, int64_t image,
                                void *dx, pare_dtype dtype, int64_t h)
{
    cpu_span down = cpu_outputs_of(g->window, 0, h, g->rows);
    for (int64_t w = 0; w < g->W; w++) {
        cpu_span across = cpu_outputs_of(g->window, 1, w, g->cols);
#define CHANNELS(c, registers, n)                                                                  \
    gather_max(g, dy, at, image, dx, dtype, h, w, down, across, c, registers, n)
        CPU_CHANNELS(g->C, CHANNELS);
#undef CHANNELS
    }
}

CPU_LOOP void max_grad_row(const cpu_pool *g, const void *dy, const int32_t *at, int64_t image,
                           void *dx, pare_dtype dtype, int64_t h)
{
    if (dtype == PARE_F32)
        max_grad_row_of(g, dy, at, image, dx, PARE_F32, h);
    else
        max_grad_row_of(g, dy, at, image, dx, PARE_BF16, h);
}

static void max_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_pool_max_grad_args *a = user;
    cpu_pool g = cpu_pool_of(&a->dx, &a->dy, &a->window, false);
    pare_dtype dtype = a->dx.dtype;
    for (int64_t r = first; r < last; r++) {
        int64_t image = r / g.H * g.rows * g.cols * g.C;
        void *dx = cpu_row_at(a->dx.data, dtype, r * g.W * g.C);
        max_grad_row(&g, a->dy.data, a->at.data, image, dx, dtype, r % g.H);
    }
}

pare_status PARE_CPU(pare_cpu_pool_max_grad)(pare_backend *be, const pare_pool_max_grad_args *args)
{
    if (pare_tensor_count(&args->dx) > 0)
        cpu_split(be, args->dx.shape[0] * args->dx.shape[1],
                  cpu_row_grain(args->dx.shape[2] * args->dx.shape[3]), max_grad_part, args);
    return PARE_OK;
}
