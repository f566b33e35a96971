/* cpu_pool.h - where the windows of a pool lie; channels a register at a time. */
#ifndef PARE_CPU_POOL_H
#define PARE_CPU_POOL_H

#include "cpu_row.h"

/* Channels in a register, and registers at a time: no element of a pool meets its neighbours, so
 * the width is free. */
#define CPU_POOL_WIDE 4

/* Elements [i, i + n) of the `count` of x, at most a register of them. Where fewer are wanted the
 * register holds what follows in x: the next pixel, or 0 at the end. */
CPU_INLINE cpu_part_f cpu_pool_load(const void *x, pare_dtype dtype, int64_t count, int64_t i,
                                    int64_t n)
{
    return cpu_part_load(x, dtype, i, count - i >= CPU_PART_V ? CPU_PART_V : n);
}

/* The same to a row of `count` that is written from left to right: what goes too far is overwritten
 * by the next pixel. */
CPU_INLINE void cpu_pool_store(void *y, pare_dtype dtype, int64_t count, int64_t i, int64_t n,
                               cpu_part_f v)
{
    cpu_part_store(y, dtype, i, count - i >= CPU_PART_V ? CPU_PART_V : n, v);
}

/* Runs body(c, registers, channels in each) over C channels. */
#define CPU_CHANNELS(C_, body_)                                                                    \
    do {                                                                                           \
        int64_t c_ = 0;                                                                            \
        for (; c_ + CPU_POOL_WIDE * CPU_PART_V <= (C_); c_ += CPU_POOL_WIDE * CPU_PART_V)          \
            body_(c_, CPU_POOL_WIDE, CPU_PART_V);                                                  \
        for (; c_ < (C_); c_ += CPU_PART_V)                                                        \
            body_(c_, 1, cpu_min(CPU_PART_V, (C_)-c_));                                            \
    } while (0)

/* A pool: x is the input's shape, y the output's. */
typedef struct cpu_pool {
    const pare_window *window;
    int64_t H, W, C, rows, cols; /* of the input; rows, cols of the output */
    int64_t in, out;             /* elements of all images */
    bool count_pad;              /* of a mean */
} cpu_pool;

static inline cpu_pool cpu_pool_of(const pare_tensor *x, const pare_tensor *y,
                                   const pare_window *window, bool count_pad)
{
    return (cpu_pool){.window = window,
                      .H = x->shape[1],
                      .W = x->shape[2],
                      .C = x->shape[3],
                      .rows = y->shape[1],
                      .cols = y->shape[2],
                      .in = pare_tensor_count(x),
                      .out = pare_tensor_count(y),
                      .count_pad = count_pad};
}

/* A window along one axis: of its places u the ones in [from, to) lie inside the image, at first +
 * u·dilation. */
typedef struct cpu_span {
    int64_t first, from, to;
} cpu_span;

CPU_INLINE cpu_span cpu_span_of(const pare_window *w, int axis, int64_t out, int64_t n)
{
    int64_t d = w->dilation[axis];
    int64_t first = out * w->stride[axis] - (axis == 0 ? w->pad_top : w->pad_left);
    int64_t before = first < 0 ? -first : 0, after = first < n ? n - first : 0;
    if (d > 1) {
        before = cpu_ceil_div(before, d);
        after = cpu_ceil_div(after, d);
    }
    return (cpu_span){.first = first, .from = before, .to = cpu_min(w->kernel[axis], after)};
}

CPU_INLINE int64_t cpu_span_count(const cpu_span *s)
{
    return s->to > s->from ? s->to - s->from : 0;
}

/* The outputs [from, to) of n whose windows may hold the input position `in`; of each, its place u
 * is (in − first)/dilation where that is whole. `first` is unused. */
CPU_INLINE cpu_span cpu_outputs_of(const pare_window *w, int axis, int64_t in, int64_t n)
{
    int64_t at = in + (axis == 0 ? w->pad_top : w->pad_left), stride = w->stride[axis];
    int64_t reach = (int64_t)(w->kernel[axis] - 1) * w->dilation[axis];
    return (cpu_span){.from = at <= reach ? 0 : cpu_ceil_div(at - reach, stride),
                      .to = cpu_min(at / stride + 1, n)};
}

/* The place of the input position `in` in the window of output `out`, or −1. */
CPU_INLINE int64_t cpu_place_in(const pare_window *w, int axis, int64_t in, int64_t out)
{
    int64_t d = w->dilation[axis];
    int64_t from = in + (axis == 0 ? w->pad_top : w->pad_left) - out * w->stride[axis];
    return d == 1 ? from : from % d == 0 ? from / d : -1;
}

/* Image rows of [B, H, W, C] that make a part of work worth a thread, where each element takes the
 * whole window (the image at most). */
static inline int64_t cpu_pool_grain(const pare_tensor *of, const pare_tensor *image,
                                     const pare_window *w)
{
    int64_t window =
        cpu_min(w->kernel[0], image->shape[1]) * cpu_min(w->kernel[1], image->shape[2]);
    return cpu_row_grain(cpu_min(of->shape[2] * of->shape[3], 16384) * cpu_min(window, 16384));
}

#endif
