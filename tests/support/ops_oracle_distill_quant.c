/* ops_oracle_distill_quant.c - the quantisers that training looks through, element by element. */
#include "oracle_nn.h"

#include <stdlib.h>

typedef struct grid {
    const pare_tensor *x, *step, *mask;
    int64_t block_rows, block_cols;
    int lo, hi;
} grid;

/* Block, step and quotient of element i; false where it gives 0 whatever it is. */
static int element_at(const grid *g, int64_t i, int64_t *block, double *s, double *t)
{
    int64_t C = g->x->shape[1];
    *block = i / C / g->block_rows * g->step->shape[1] + i % C / g->block_cols;
    *s = oracle_get(g->step, *block);
    if (!(*s > 0) || isinf(*s) || (g->mask->data && !((const uint8_t *)g->mask->data)[i]))
        return 0;
    *t = oracle_round_dtype(oracle_get(g->x, i) / *s, PARE_F32);
    return 1;
}

/* rint of a clamped quotient: an integer, +0 instead of −0. */
static int code_of(const grid *g, double t)
{
    return t < g->lo ? g->lo : t > g->hi ? g->hi : (int)oracle_rint(t);
}

void oracle_fake_quant(const pare_fake_quant_args *a)
{
    grid g = {&a->x, &a->step, &a->mask, a->block_rows, a->block_cols, a->lo, a->hi};
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++) {
        int64_t block;
        double s, t, y = 0;
        int code = 0;
        if (element_at(&g, i, &block, &s, &t)) {
            code = isnan(t) ? 0 : code_of(&g, t);
            y = isnan(t) ? t : oracle_round_dtype(s * code, PARE_F32);
        }
        oracle_put(&a->y, i, y);
        if (a->codes.data)
            ((int8_t *)a->codes.data)[i] = (int8_t)code;
    }
}

void oracle_fake_quant_grad(const pare_fake_quant_grad_args *a)
{
    grid g = {&a->x, &a->step, &a->mask, a->block_rows, a->block_cols, a->lo, a->hi};
    int64_t blocks = pare_tensor_count(&a->step);
    double *sum = calloc((size_t)blocks + 1, sizeof *sum);
    for (int64_t i = 0; i < pare_tensor_count(&a->x); i++) {
        int64_t block;
        double s, t, dy = oracle_get(&a->dy, i), dx = 0;
        if (element_at(&g, i, &block, &s, &t) && !isnan(t)) {
            if (t >= a->lo && t <= a->hi)
                dx = dy;
            sum[block] += dy * (t < a->lo ? a->lo : t > a->hi ? a->hi : oracle_rint(t) - t);
        }
        oracle_put(&a->dx, i, dx);
    }
    for (int64_t b = 0; a->dstep.data && b < blocks; b++) {
        double before = a->accumulate ? oracle_get(&a->dstep, b) : 0;
        oracle_put(&a->dstep, b, before + sum[b] * (double)a->step_scale);
    }
    free(sum);
}
