/* cpu_columns.h - a matrix [R, C] as one sequence, for what goes by columns.
 *
 * What belongs to columns repeats every C elements. Written out over a period, a multiple of C and,
 * unless C is large, of 16 too, it is added or multiplied sixteen elements at a time whatever C is:
 * no row has an end of its own. Sums over rows are f32 inside a block, whose rows are a constant of
 * the shape, and f64 over the blocks, in their order.
 */
#ifndef PARE_CPU_COLUMNS_H
#define PARE_CPU_COLUMNS_H

#include "cpu_nn.h"

typedef struct cpu_columns {
    int64_t R, C, period;
    int64_t rows, blocks; /* rows of a block: whole periods */
    int64_t parts;        /* of the blocks, one a thread */
    int64_t slot;         /* period rounded up to 16 */
    double *sums;         /* [blocks][2][C] */
    double *totals;       /* [2][C] */
    float *slots;         /* [parts][3][slot] */
    float *coefs;         /* [4][slot] */
} cpu_columns;

/* Columns: the last axis. Rows: all others. */
static inline int64_t cpu_cols(const pare_tensor *x)
{
    return x->rank > 0 ? x->shape[x->rank - 1] : 1;
}

static inline int64_t cpu_rows(const pare_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i < x->rank - 1; i++)
        rows *= x->shape[i];
    return rows;
}

/* Long enough that a sum kept in memory has left for it before it is wanted again; for a large C
 * that is no multiple of 16 the ends of rows cost less than sixteen rows written out. */
static inline int64_t cpu_period(int64_t C)
{
    enum { LEAST = 256, LARGE = 512 };
    int64_t power = cpu_min(C & -C, CPU_V), whole = C * (CPU_V / power);
    if (power < CPU_V && C >= LARGE)
        return C;
    return whole * cpu_ceil_div(LEAST, whole);
}

/* The first C of y over the whole period. */
static inline void cpu_repeat(float *y, int64_t C, int64_t period)
{
    for (int64_t i = C; i < period; i += C)
        memcpy(y + i, y, (size_t)C * sizeof *y);
}

/* BODY(…, times, at, j, n) for elements [first, last) of the sequence, first a multiple of the
 * period: n ≤ 16 elements from `at` on, which are j on in their period, and as many in each of the
 * `times` − 1 periods behind. times is at_once or, for what is left, 1. Inlined for each with n
 * constant and once more in general. */
#define CPU_EACH_PERIOD(at_once, first_, last_, period_, BODY, ...)                                \
    do {                                                                                           \
        int64_t at = (first_);                                                                     \
        for (; at + (at_once) * (period_) <= (last_); at += (at_once) * (period_))                 \
            CPU_EACH_16(at_once, at, period_, BODY, __VA_ARGS__);                                  \
        for (; at < (last_); at += (period_))                                                      \
            CPU_EACH_16(1, at, cpu_min(period_, (last_)-at), BODY, __VA_ARGS__);                   \
    } while (0)

#define CPU_EACH_16(times, at, count, BODY, ...)                                                   \
    do {                                                                                           \
        int64_t m = (count), j = 0;                                                                \
        for (; j + CPU_V <= m; j += CPU_V)                                                         \
            BODY(__VA_ARGS__, times, (at) + j, j, CPU_V);                                          \
        if (j < m)                                                                                 \
            BODY(__VA_ARGS__, times, (at) + j, j, m - j);                                          \
    } while (0)

/* Blocks and scratch for sums over the rows of [R, C], both above 0. */
static inline pare_status cpu_columns_make(pare_backend *be, int64_t R, int64_t C, cpu_columns *w)
{
    enum { ELEMENTS = 32768, PERIODS = 16 }; /* at least, of a block */
    int64_t period = cpu_period(C);
    int64_t repeats = cpu_ceil_div(ELEMENTS, period);
    *w = (cpu_columns){.R = R, .C = C, .period = period, .slot = cpu_ceil_div(period, 16) * 16};
    w->rows = (repeats > PERIODS ? repeats : PERIODS) * (period / C);
    w->blocks = cpu_ceil_div(R, w->rows);
    w->parts = cpu_min(be->threads, w->blocks);
    int64_t doubles = cpu_ceil_div((w->blocks + 1) * 2 * C, 8) * 8;
    int64_t floats = (w->parts * 3 + 4) * w->slot;
    void *memory = NULL;
    PARE_TRY(pare__scratch(be, (size_t)doubles * 8 + (size_t)floats * 4, &memory));
    w->totals = memory;
    w->sums = w->totals + 2 * C;
    w->coefs = (float *)(w->totals + doubles);
    w->slots = w->coefs + 4 * w->slot;
    return PARE_OK;
}

/* Part p has blocks [cpu_part_block(w, p), cpu_part_block(w, p + 1)). */
static inline int64_t cpu_part_block(const cpu_columns *w, int64_t p)
{
    return w->blocks * p / w->parts;
}

static inline int64_t cpu_block_rows(const cpu_columns *w, int64_t block)
{
    return cpu_min(w->rows, w->R - block * w->rows);
}

/* The columns' sums out of those over a period. */
static inline void cpu_fold(const cpu_columns *w, const float *sums, double *columns)
{
    for (int64_t c = 0; c < w->C; c++)
        columns[c] = 0;
    for (int64_t i = 0; i < w->period; i += w->C)
        for (int64_t c = 0; c < w->C; c++)
            columns[c] += (double)sums[i + c];
}

#endif
