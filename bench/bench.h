/* bench.h - measuring: medians of repeated runs, and what the machine's memory can do at the same
 * moment. */
#ifndef BENCH_H
#define BENCH_H

#include "pare/ops.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct bench_result {
    double seconds; /* of one call: the median over the repeats */
    double fastest;
} bench_result;

/* Calls run(user) for about `seconds` in each of `repeats` repeats; each ends when the backend has
 * done all of it (be NULL: when run returns). */
bench_result bench_measure(pare_backend *be, void (*run)(void *user), void *user, int repeats,
                           double seconds);

typedef struct bench_table {
    pare_backend *be; /* that runs the rows */
    bool csv;
    const char *only; /* rows whose name contains it; NULL: all */
    int repeats;
    double seconds;
} bench_table;

void bench_head(const bench_table *table);

/* Measures and prints one row: bytes read and written by one call. */
void bench_row(const bench_table *table, const char *name, const char *detail, double in,
               double out, void (*run)(void *user), void *user);

/* One op with its arguments, as bench_measure takes it; a failure ends the program. */
typedef struct bench_call {
    pare_backend *be;
    pare_op op;
    const void *args;
} bench_call;
void bench_run_call(void *call);

/* Whether the op runs at all; on a device it says why not and the program goes on (a library may
 * lack an algorithm), on the CPU it ends. */
bool bench_runs(const bench_call *call);

/* Ends the program with the library's sentence unless status is PARE_OK. */
void bench_check(pare_status status);

/* bytes of 64-byte aligned zeros, some room behind them; ends the program where there are none. */
void *bench_memory(int64_t bytes);

/* Memory that ops take: host memory as it is for the CPU; for a device a copy of its first `bytes`,
 * the host's is freed. Freed by the second. */
void *bench_give(pare_backend *be, void *host, int64_t bytes);
void bench_free(pare_backend *be, void *memory);

/* A copy within the backend's memory, or the program's end. */
void bench_copy(pare_backend *be, void *to, const void *from, int64_t bytes);

/* The table of the ops that models are run and trained with (ops_nn.h), bench_nn.c. Rows have
 * `times` as many samples as on the CPU. */
void bench_nn(const bench_table *table, pare_backend *be, int threads, int64_t times);

/* The same of the ops that compress with calibration data (ops_calib.h), bench_calib.c. */
void bench_calib(const bench_table *table, pare_backend *be, int threads, int64_t times);

/* And of those that compare students with teachers (ops_distill.h), bench_distill.c. */
void bench_distill(const bench_table *table, pare_backend *be, int threads, int64_t times);

/* Ends the program unless every op in [first, last) has a row. */
void bench_check_rows(const bool *seen, pare_op first, pare_op last);

/* Rows of memcpy and of reading, over bytes that fit the cache and over bytes that do not; of a
 * device: of copying within it, and of the link to it both ways. */
void bench_limits(const bench_table *table, int64_t cached, int64_t large);

#endif
