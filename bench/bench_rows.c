/* bench_rows.c - buffers, limits and rows of bench_rows.h. */
#include "bench_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- data ------------------------------------------------------------------------------------ */

/* Large pages, as a model's arenas have. */
static void *pages(int64_t bytes)
{
    size_t huge = (size_t)2 << 20, size = ((size_t)bytes + huge) / huge * huge;
    void *made = aligned_alloc(huge, size);
    if (!made) {
        fprintf(stderr, "pare_bench_ops: no memory for %zu bytes\n", size);
        exit(4);
    }
    madvise(made, size, MADV_HUGEPAGE);
    return made;
}

static void make_data(bench_rows *b)
{
    uint64_t z = 1;
    int64_t n = BENCH_ELEMENTS * b->times;
    for (int k = 0; k < BENCH_LARGES; k++) {
        float *wide = pages(4 * n);
        for (int64_t i = 0; i < n; i++) { /* roughly normal */
            z = z * 6364136223846793005u + 1442695040888963407u;
            wide[i] = (float)((int32_t)(z >> 32) >> 2) * 0x1p-29f +
                      (float)((int32_t)(z >> 16) >> 2) * 0x1p-29f;
        }
        b->large[0][k] = bench_give(b->be, wide, 4 * n);
        b->large[1][k] = bench_give(b->be, pages(2 * n), 2 * n);
        bench_check(
            pare_cast(b->be, &(pare_cast_args){.x = pare_vector(b->large[0][k], PARE_F32, n),
                                               .y = pare_vector(b->large[1][k], PARE_BF16, n)}));
    }
    for (int k = 0; k < BENCH_SMALLS; k++) {
        float *some = bench_memory(4 * BENCH_SMALL);
        for (int i = 0; i < BENCH_SMALL; i++)
            some[i] = 0.5f + (float)(i * (k + 7) % 101) / 101;
        b->small[k] = bench_give(b->be, some, 4 * BENCH_SMALL);
    }
    int32_t *ids = bench_memory(4 * BENCH_SMALL);
    uint8_t *bytes = pages(n);
    for (int64_t i = 0; i < BENCH_SMALL; i++)
        ids[i] = (int32_t)(i * 7919 % 997);
    for (int64_t i = 0; i < n; i++)
        bytes[i] = i % 3 != 0;
    b->ids = bench_give(b->be, ids, 4 * BENCH_SMALL);
    b->bytes = bench_give(b->be, bytes, n);
    b->at = bench_give(b->be, pages(4 * n), 4 * n);
}

static void free_data(bench_rows *b)
{
    for (int k = 0; k < BENCH_LARGES; k++) {
        bench_free(b->be, b->large[0][k]);
        bench_free(b->be, b->large[1][k]);
    }
    for (int k = 0; k < BENCH_SMALLS; k++)
        bench_free(b->be, b->small[k]);
    bench_free(b->be, b->ids);
    bench_free(b->be, b->at);
    bench_free(b->be, b->bytes);
}

pare_tensor bench_act(const bench_rows *b, int k, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    int rank = d3 ? 4 : d2 ? 3 : 2;
    return (pare_tensor){b->large[b->dtype == PARE_BF16][k], b->dtype, rank, {d0, d1, d2, d3}};
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void head(const bench_rows *b)
{
    if (b->table->csv)
        printf("name,dtype,detail,bytes,flops,seconds,best_seconds,gb_per_s,of_copy,gflop_per_s,"
               "of_gemm\n");
    else
        printf("%-16s %-4s %-34s %10s %10s %8s %8s %9s %8s\n", "op", "", "", "us", "best", "GB/s",
               "of copy", "GFLOP/s", "of gemm");
}

void bench_op_row(bench_rows *b, pare_op op, const char *detail, const void *args, double bytes,
                  double flops)
{
    bench_call call = {b->be, op, args};
    const char *name = pare_op_name(op), *dtype = pare_dtype_name(b->dtype);
    b->seen[op] = true;
    if ((b->table->only && !strstr(name, b->table->only)) || !bench_runs(&call))
        return;
    bench_result r =
        bench_measure(b->be, bench_run_call, &call, b->table->repeats, b->table->seconds);
    double moved = bytes / r.fastest, done = flops / r.fastest;
    double of_copy = moved / b->copy, of_gemm = done / b->peak[b->dtype == PARE_BF16];
    if (b->table->csv) {
        printf("%s,%s,\"%s\",%.0f,%.0f,%.9f,%.9f,%.3f,%.4f,%.3f,%.4f\n", name, dtype, detail, bytes,
               flops, r.seconds, r.fastest, moved * 1e-9, of_copy, done * 1e-9, of_gemm);
    } else {
        printf("%-16s %-4s %-34s %10.1f %10.1f %8.2f %7.0f%%", name, dtype, detail, r.seconds * 1e6,
               r.fastest * 1e6, moved * 1e-9, of_copy * 100);
        if (flops > 0)
            printf(" %9.1f %7.0f%%", done * 1e-9, of_gemm * 100);
        printf("\n");
    }
    fflush(stdout);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void copy_all(void *user)
{
    const bench_rows *b = user;
    size_t part = (size_t)(4 * BENCH_ELEMENTS) / (size_t)b->threads;
#pragma omp parallel for num_threads(b->threads) schedule(static, 1)
    for (int t = 0; t < b->threads; t++)
        memcpy((uint8_t *)b->large[0][1] + part * (size_t)t,
               (const uint8_t *)b->large[0][0] + part * (size_t)t, part);
}

static void copy_on_device(void *user)
{
    const bench_rows *b = user;
    bench_copy(b->be, b->large[0][1], b->large[0][0], 4 * BENCH_ELEMENTS * b->times);
}

/* The best product: of the size that the buffers hold, at most [8192, 8192]. */
static void measure_limits(bench_rows *b)
{
    int64_t n = pare_backend_is_host(b->be) ? 1536 : 8192;
    while (n > 1024 && n * n > BENCH_ELEMENTS * b->times)
        n /= 2;
    bool host = pare_backend_is_host(b->be);
    bench_result copied = bench_measure(b->be, host ? copy_all : copy_on_device, b,
                                        b->table->repeats, b->table->seconds);
    b->copy = 2.0 * 4 * (double)(BENCH_ELEMENTS * b->times) / copied.fastest;
    if (!b->table->csv)
        printf("copying: %.1f GB/s (read and written)\n", b->copy * 1e-9);
    for (int k = 0; k < 2; k++) {
        b->dtype = k ? PARE_BF16 : PARE_F32;
        pare_gemm_args args = {
            .a = bench_matrix(b, 0, n, n), .b = bench_matrix(b, 1, n, n), .trans_b = true};
        args.c = bench_matrix(b, 2, n, n);
        bench_call call = {b->be, PARE_OP_gemm, &args};
        bench_result r =
            bench_measure(b->be, bench_run_call, &call, b->table->repeats, b->table->seconds);
        b->peak[k] = 2.0 * (double)(n * n) * (double)n / r.fastest;
        if (!b->table->csv)
            printf("product of %s [%lld, %lld]: %.1f GFLOP/s\n", pare_dtype_name(b->dtype),
                   (long long)n, (long long)n, b->peak[k] * 1e-9);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

bench_rows *bench_rows_make(const bench_table *table, pare_backend *be, int threads, int64_t times)
{
    bench_rows *b = bench_memory(sizeof *b);
    b->table = table;
    b->be = be;
    b->threads = threads > 1 ? threads : 1;
    b->times = times;
    make_data(b);
    if (!table->csv)
        printf("%s, %s, %d threads\n", pare_cpu_model(), pare_backend_name(be), b->threads);
    measure_limits(b);
    head(b);
    return b;
}

void bench_rows_free(bench_rows *b)
{
    free_data(b);
    free(b);
}
