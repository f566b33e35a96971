/* bench.h - measuring: medians of repeated runs, and what the machine's memory can do at the same
 * moment. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>

typedef struct bench_result {
    double seconds; /* of one call: the median over the repeats */
    double fastest;
} bench_result;

/* Calls run(user) for about `seconds` in each of `repeats` repeats. */
bench_result bench_measure(void (*run)(void *user), void *user, int repeats, double seconds);

typedef struct bench_table {
    bool csv;
    const char *only; /* rows whose name contains it; NULL: all */
    int repeats;
    double seconds;
} bench_table;

void bench_head(const bench_table *table);

/* Measures and prints one row: bytes read and written by one call. */
void bench_row(const bench_table *table, const char *name, const char *detail, double in,
               double out, void (*run)(void *user), void *user);

/* Rows of memcpy and of reading, over bytes that fit the cache and over bytes that do not. */
void bench_limits(const bench_table *table, int64_t cached, int64_t large);

#endif
