/* bench_rows.h - rows of ops on large buffers, beside what this machine reached in the same run:
 * copying with all threads, and its best matrix product of the same dtype.
 *
 * A row's bytes are those of its tensors, each once; its FLOPs those of its products. An op may
 * pass 100 % of copying where it writes in place: no line is fetched only to be overwritten.
 */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include "bench.h"

#define BENCH_ELEMENTS                                                                             \
    INT64_C(25690112)      /* of a large buffer: an activation [16, 112, 112, 128]                 \
                            */
#define BENCH_SMALL 131072 /* of a small one: a vector of parameters or rows */
#define BENCH_LARGES 4
#define BENCH_SMALLS 6

typedef struct bench_rows {
    const bench_table *table;
    pare_backend *be;
    int threads;
    int64_t times;                /* samples of a row, in those of the CPU's */
    double copy, peak[2];         /* bytes and FLOPs a second */
    pare_dtype dtype;             /* of the activations of the rows to come */
    void *large[2][BENCH_LARGES]; /* F32, BF16: roughly normal numbers */
    float *small[BENCH_SMALLS];   /* from 0.5 to 1.5 */
    int32_t *ids, *at;
    uint8_t *bytes;
    bool seen[PARE_OP_COUNT];
} bench_rows;

/* Fills the buffers, measures the limits, prints the table's head; freed by the second. */
bench_rows *bench_rows_make(const bench_table *table, pare_backend *be, int threads, int64_t times);
void bench_rows_free(bench_rows *b);

/* Large buffer k as a tensor of the rows' dtype: up to four dimensions, those behind the last 0. */
pare_tensor bench_act(const bench_rows *b, int k, int64_t d0, int64_t d1, int64_t d2, int64_t d3);

static inline pare_tensor bench_matrix(const bench_rows *b, int k, int64_t R, int64_t N)
{
    return bench_act(b, k, R, N, 0, 0);
}

/* Large buffer k as F32, whatever the rows' dtype: parameters. */
static inline pare_tensor bench_params(const bench_rows *b, int k, int64_t n)
{
    return pare_vector(b->large[0][k], PARE_F32, n);
}

static inline pare_tensor bench_vector(const bench_rows *b, int k, int64_t n)
{
    return pare_vector(b->small[k], PARE_F32, n);
}

static inline double bench_size(const bench_rows *b) /* of an element */
{
    return b->dtype == PARE_BF16 ? 2 : 4;
}

/* Rates are those of the fastest repeat, as the limits are. */
void bench_op_row(bench_rows *b, pare_op op, const char *detail, const void *args, double bytes,
                  double flops);

/* One row of op `name`; the rest are the fields of its arguments. Wants a bench_rows *b. */
#define ROW(name, detail, bytes, flops, ...)                                                       \
    bench_op_row(b, PARE_OP_##name, detail, &(pare_##name##_args){__VA_ARGS__}, bytes, flops)

#endif
