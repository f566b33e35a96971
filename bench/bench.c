#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_REPEATS 101

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void finish(pare_backend *be)
{
    if (be)
        bench_check(pare_backend_sync(be));
}

bench_result bench_measure(pare_backend *be, void (*run)(void *user), void *user, int repeats,
                           double seconds)
{
    double times[MAX_REPEATS], start = now();
    int64_t calls = 0;
    repeats = repeats < 1 ? 1 : repeats > MAX_REPEATS ? MAX_REPEATS : repeats;
    for (; now() - start < seconds || calls == 0; calls++) { /* warms up and counts */
        run(user);
        finish(be);
    }
    for (int r = 0; r < repeats; r++) {
        start = now();
        for (int64_t i = 0; i < calls; i++)
            run(user);
        finish(be);
        times[r] = (now() - start) / (double)calls;
    }
    qsort(times, (size_t)repeats, sizeof times[0], by_value);
    double median = times[repeats / 2];
    return (bench_result){median, times[0]};
}

void bench_head(const bench_table *table)
{
    if (table->csv)
        printf("name,detail,bytes_in,bytes_out,seconds,gb_per_s_in,gb_per_s,best_gb_per_s_in\n");
    else
        printf("%-14s %-34s %10s %10s %10s %9s %9s %9s\n", "op", "", "bytes in", "bytes out", "us",
               "in GB/s", "all GB/s", "best in");
}

void bench_row(const bench_table *table, const char *name, const char *detail, double in,
               double out, void (*run)(void *user), void *user)
{
    if (table->only && !strstr(name, table->only))
        return;
    bench_result r = bench_measure(table->be, run, user, table->repeats, table->seconds);
    printf(table->csv ? "%s,\"%s\",%.0f,%.0f,%.9f,%.3f,%.3f,%.3f\n"
                      : "%-14s %-34s %10.0f %10.0f %10.2f %9.2f %9.2f %9.2f\n",
           name, detail, in, out, table->csv ? r.seconds : r.seconds * 1e6, in / r.seconds * 1e-9,
           (in + out) / r.seconds * 1e-9, in / r.fastest * 1e-9);
    fflush(stdout);
}

/* ---- ops ------------------------------------------------------------------------------------- */

void bench_check(pare_status status)
{
    if (status == PARE_OK)
        return;
    fprintf(stderr, "pare_bench_ops: %s\n", pare_last_error());
    exit(1);
}

static pare_status run_op(const bench_call *c)
{
    switch (c->op) {
#define OP_CASE(name)                                                                              \
    case PARE_OP_##name:                                                                           \
        return pare_##name(c->be, c->args);
        PARE_OPS(OP_CASE)
#undef OP_CASE
    default:
        return PARE_ERR_INTERNAL;
    }
}

void bench_run_call(void *call)
{
    bench_check(run_op(call));
}

bool bench_runs(const bench_call *call)
{
    pare_status status = run_op(call);
    if (status == PARE_OK)
        status = pare_backend_sync(call->be);
    if (status == PARE_OK)
        return true;
    if (pare_backend_is_host(call->be))
        bench_check(status);
    printf("# %s does not run: %s\n", pare_op_name(call->op), pare_last_error());
    return false;
}

void *bench_memory(int64_t bytes)
{
    size_t size = ((size_t)bytes + 4096) / 64 * 64;
    void *made = aligned_alloc(64, size);
    if (!made) {
        fprintf(stderr, "pare_bench_ops: no memory for %zu bytes\n", size);
        exit(4);
    }
    memset(made, 0, size);
    return made;
}

void *bench_give(pare_backend *be, void *host, int64_t bytes)
{
    void *given = NULL;
    if (pare_backend_is_host(be))
        return host;
    bench_check(pare_backend_alloc(be, bytes, &given));
    bench_check(pare_backend_upload(be, given, host, bytes));
    free(host);
    return given;
}

void bench_free(pare_backend *be, void *memory)
{
    if (pare_backend_is_host(be))
        free(memory);
    else
        pare_backend_release(be, memory, 0);
}

void bench_copy(pare_backend *be, void *to, const void *from, int64_t bytes)
{
    bench_check(pare_backend_copy(be, to, from, bytes));
}

void bench_check_rows(const bool *seen, pare_op first, pare_op last)
{
    for (int op = (int)first; op < (int)last; op++)
        if (!seen[op]) {
            fprintf(stderr, "pare_bench_ops: the op %s has no row\n", pare_op_name((pare_op)op));
            exit(1);
        }
}

/* ---- limits ---------------------------------------------------------------------------------- */

typedef struct area {
    uint64_t *from, *to;
    size_t bytes;
    uint64_t sum;
} area;

static void run_copy(void *user)
{
    area *a = user;
    memcpy(a->to, a->from, a->bytes);
    __asm__ volatile("" : : "r"(a->to) : "memory"); /* somebody looks at the copy */
}

static void run_read(void *user)
{
    area *a = user;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= a->bytes / 8; i += 8)
        for (int l = 0; l < 8; l++)
            sum[l] += a->from[i + (size_t)l];
    for (int l = 0; l < 8; l++)
        a->sum += sum[l];
    __asm__ volatile("" : : "r"(a) : "memory");
}

/* Memory of a device, and page-locked memory of the host. */
typedef struct link_area {
    pare_backend *be;
    void *from, *to, *host;
    int64_t bytes;
} link_area;

static void run_device_copy(void *user)
{
    link_area *a = user;
    bench_copy(a->be, a->to, a->from, a->bytes);
}

static void run_upload(void *user)
{
    link_area *a = user;
    bench_check(pare_backend_upload(a->be, a->to, a->host, a->bytes));
}

static void run_download(void *user)
{
    link_area *a = user;
    bench_check(pare_backend_download(a->be, a->host, a->from, a->bytes));
}

static void device_limits(const bench_table *table, int64_t bytes)
{
    link_area a = {.be = table->be, .bytes = bytes};
    double n = (double)bytes;
    bench_check(pare_backend_alloc(a.be, bytes, &a.from));
    bench_check(pare_backend_alloc(a.be, bytes, &a.to));
    bench_check(pare_backend_host_alloc(a.be, bytes, &a.host));
    bench_row(table, "copy", "within the device", n, n, run_device_copy, &a);
    bench_row(table, "upload", "page-locked", n, 0, run_upload, &a);
    bench_row(table, "download", "page-locked", n, 0, run_download, &a);
    pare_backend_release(a.be, a.from, bytes);
    pare_backend_release(a.be, a.to, bytes);
    pare_backend_host_release(a.be, a.host, bytes);
}

void bench_limits(const bench_table *table, int64_t cached, int64_t large)
{
    if (!pare_backend_is_host(table->be)) {
        device_limits(table, large);
        return;
    }
    for (int i = 0; i < 2; i++) {
        size_t bytes = (size_t)(i == 0 ? cached : large) / 64 * 64;
        area a = {aligned_alloc(64, bytes), aligned_alloc(64, bytes), bytes, 0};
        if (a.from && a.to) {
            memset(a.from, 1, bytes);
            memset(a.to, 2, bytes);
            const char *where = i == 0 ? "this chunk's size" : "past the caches";
            bench_row(table, "memcpy", where, (double)bytes, (double)bytes, run_copy, &a);
            bench_row(table, "read", where, (double)bytes, 0, run_read, &a);
        }
        free(a.from);
        free(a.to);
    }
}
