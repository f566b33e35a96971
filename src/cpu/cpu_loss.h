/* cpu_loss.h - what the losses share: the softmax of a row as far as it was read. */
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

#endif
