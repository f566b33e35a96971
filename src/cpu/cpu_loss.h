/* cpu_loss.h - what the losses share: the softmax of a row as far as it was read, and rows that do
 * not count. */
#ifndef PARE_CPU_LOSS_H
#define PARE_CPU_LOSS_H

#include "cpu_nn.h"
#include "cpu_row.h"

#include <float.h>

#define LOSS_BLOCK 2048 /* elements; 8 KiB of f32 */

/* p = e^((x − top)·inverse)/exps, inverse being 1 over the temperature. */
typedef struct loss_softmax {
    double top;  /* the largest logit, at least −FLT_MAX: then x − top is defined for −Inf */
    double exps; /* Σ e^((x − top)·inverse) */
} loss_softmax;

static const loss_softmax loss_nothing_read = {-FLT_MAX, 0};

/* Takes a new block's largest; returns what sums of e^ shrink by. */
static inline double loss_raise_top(loss_softmax *s, float top, double inverse)
{
    double shrink = 1;
    if ((double)top > s->top) {
        shrink = exp((s->top - (double)top) * inverse);
        s->top = (double)top;
        s->exps *= shrink;
    }
    return shrink;
}

CPU_INLINE float loss_sum_exps_of(const void *x, pare_dtype dtype, int64_t n, float top,
                                  float inverse)
{
    cpu_acc sum = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_acc_add(&sum, cpu_vexp_below((cpu_vload(x, dtype, i) - top) * inverse));
    if (i < n)
        cpu_acc_add(&sum,
                    cpu_vexp_below((cpu_vload_n(x, dtype, i, n - i, -INFINITY) - top) * inverse));
    return cpu_vsum(cpu_acc_get(&sum));
}

/* Σ e^((x − top)·inverse) of a block. */
CPU_LOOP float loss_sum_exps(const void *x, pare_dtype dtype, int64_t n, float top, float inverse)
{
    return dtype == PARE_F32 ? loss_sum_exps_of(x, PARE_F32, n, top, inverse)
                             : loss_sum_exps_of(x, PARE_BF16, n, top, inverse);
}

/* 1 over the temperature, for which 0 stands for 1: an f32, which the kernels multiply by. */
static inline double loss_inverse(float temperature)
{
    return temperature != 0 ? (double)(1.0f / temperature) : 1;
}

/* Row i of a gradient [R, V] is 0. */
static inline void loss_no_gradient(const pare_tensor *dx, int64_t i)
{
    int64_t V = dx->shape[1];
    memset(cpu_row_at(dx->data, dx->dtype, i * V), 0,
           (size_t)(V * (dx->dtype == PARE_F32 ? 4 : 2)));
}

#endif
