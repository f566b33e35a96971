/* cpu_patches.c - the inputs of a convolution as rows of a matrix, and rows that are left out:
 * elements are only moved, whatever they mean. Bound by memory. */
#include "cpu_impl.h"

/* ---- patches --------------------------------------------------------------------------------- */

typedef struct patches {
    const pare_patches_args *args;
    int64_t H, W, C, down, across; /* of x and of the output */
    int64_t places;                /* of a window */
} patches;

/* The channels of one place of the input become every `places`-th element of a row; from NULL: 0.
 */
CPU_INLINE void spread(const void *from, void *to, size_t size, int64_t C, int64_t places)
{
    const uint32_t *wide = from;
    const uint16_t *half = from;
    for (int64_t c = 0; c < C; c++)
        if (size == 4)
            ((uint32_t *)to)[c * places] = from ? wide[c] : 0;
        else
            ((uint16_t *)to)[c * places] = from ? half[c] : 0;
}

/* Row `row` of y. */
CPU_INLINE void patch(const patches *p, int64_t row, size_t size)
{
    const pare_window *w = &p->args->window;
    int64_t j = row % p->across, i = row / p->across % p->down, b = row / p->across / p->down;
    uint8_t *to = (uint8_t *)p->args->y.data + row * p->places * p->C * (int64_t)size;
    for (int u = 0; u < w->kernel[0]; u++)
        for (int v = 0; v < w->kernel[1]; v++, to += size) {
            int64_t y = i * w->stride[0] - w->pad_top + (int64_t)u * w->dilation[0];
            int64_t x = j * w->stride[1] - w->pad_left + (int64_t)v * w->dilation[1];
            bool inside = y >= 0 && y < p->H && x >= 0 && x < p->W;
            int64_t at = inside ? ((b * p->H + y) * p->W + x) * p->C : 0;
            const uint8_t *from = (const uint8_t *)p->args->x.data + at * (int64_t)size;
            if (p->places == 1 && inside)
                memcpy(to, from, (size_t)p->C * size);
            else if (inside)
                spread(from, to, size, p->C, p->places);
            else
                spread(NULL, to, size, p->C, p->places);
        }
}

static void patches_part(const void *user, int64_t first, int64_t last)
{
    const patches *p = user;
    for (int64_t row = first; row < last; row++)
        if (p->args->x.dtype == PARE_F32)
            patch(p, row, 4);
        else
            patch(p, row, 2);
}

pare_status PARE_CPU(pare_cpu_patches)(pare_backend *be, const pare_patches_args *args)
{
    const pare_window *w = &args->window;
    const int64_t *shape = args->x.shape;
    patches p = {.args = args,
                 .H = shape[1],
                 .W = shape[2],
                 .C = shape[3],
                 .down = pare_window_out(w, 0, shape[1]),
                 .across = pare_window_out(w, 1, shape[2]),
                 .places = (int64_t)w->kernel[0] * w->kernel[1]};
    int64_t cols = args->y.shape[1];
    if (cols > 0)
        cpu_split(be, args->y.shape[0], cpu_ceil_div(16384, cols), patches_part, &p);
    return PARE_OK;
}

/* ---- keep_rows ------------------------------------------------------------------------------- */

static void keep_part(const void *user, int64_t first, int64_t last)
{
    const pare_keep_rows_args *a = user;
    const uint8_t *keep = a->keep.data;
    int64_t bytes = a->x.shape[1] * (a->x.dtype == PARE_F32 ? 4 : 2);
    for (int64_t r = first; r < last; r++) {
        uint8_t *y = (uint8_t *)a->y.data + r * bytes;
        if (!keep[r])
            memset(y, 0, (size_t)bytes);
        else if (a->y.data != a->x.data)
            memcpy(y, (const uint8_t *)a->x.data + r * bytes, (size_t)bytes);
    }
}

pare_status PARE_CPU(pare_cpu_keep_rows)(pare_backend *be, const pare_keep_rows_args *args)
{
    int64_t N = args->x.shape[1];
    if (N > 0)
        cpu_split(be, args->x.shape[0], cpu_ceil_div(16384, N), keep_part, args);
    return PARE_OK;
}
