/* cpu_shortcut.c - a residual connection without parameters: every stride-th pixel, new channels
 * zero; and its gradient. Copies, bound by memory. */
#include "cpu_nn.h"
#include "cpu_row.h"

static void shortcut_part(const void *user, int64_t first, int64_t last)
{
    const pare_shortcut_args *a = user;
    int64_t H = a->x.shape[1], W = a->x.shape[2], I = a->x.shape[3];
    int64_t rows = a->y.shape[1], cols = a->y.shape[2], O = a->y.shape[3];
    size_t element = a->x.dtype == PARE_F32 ? 4 : 2;
    size_t before = (size_t)a->before * element, own = (size_t)I * element;
    for (int64_t r = first; r < last; r++) {
        int64_t h = r / rows * H + r % rows * a->stride;
        const uint8_t *x = cpu_row_at(a->x.data, a->x.dtype, h * W * I);
        uint8_t *y = cpu_row_at(a->y.data, a->x.dtype, r * cols * O);
        for (int64_t j = 0; j < cols; j++, y += (size_t)O * element) {
            memset(y, 0, before);
            if (own > 0)
                memcpy(y + before, x + (size_t)(j * a->stride) * own, own);
            memset(y + before + own, 0, (size_t)O * element - before - own);
        }
    }
}

pare_status PARE_CPU(pare_cpu_shortcut)(pare_backend *be, const pare_shortcut_args *args)
{
    if (pare_tensor_count(&args->y) > 0)
        cpu_split(be, args->y.shape[0] * args->y.shape[1],
                  cpu_row_grain(args->y.shape[2] * args->y.shape[3]), shortcut_part, args);
    return PARE_OK;
}

static void shortcut_grad_part(const void *user, int64_t first, int64_t last)
{
    const pare_shortcut_grad_args *a = user;
    int64_t H = a->dx.shape[1], W = a->dx.shape[2], I = a->dx.shape[3], stride = a->stride;
    int64_t rows = a->dy.shape[1], cols = a->dy.shape[2], O = a->dy.shape[3];
    size_t own = (size_t)I * (a->dx.dtype == PARE_F32 ? 4 : 2);
    for (int64_t r = first; r < last; r++) {
        int64_t h = r % H, from = (r / H * rows + h / stride) * cols;
        uint8_t *dx = cpu_row_at(a->dx.data, a->dx.dtype, r * W * I);
        for (int64_t w = 0; w < W; w++, dx += own)
            if (h % stride == 0 && w % stride == 0)
                memcpy(dx, cpu_row_at(a->dy.data, a->dx.dtype, (from + w / stride) * O + a->before),
                       own);
            else
                memset(dx, 0, own);
    }
}

pare_status PARE_CPU(pare_cpu_shortcut_grad)(pare_backend *be, const pare_shortcut_grad_args *args)
{
    if (pare_tensor_count(&args->dx) > 0)
        cpu_split(be, args->dx.shape[0] * args->dx.shape[1],
                  cpu_row_grain(args->dx.shape[2] * args->dx.shape[3]), shortcut_grad_part, args);
    return PARE_OK;
}
