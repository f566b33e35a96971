/* bench_sweep.c - seconds of the column sweep over one layer, and of the factor it needs:
 *
 *     pare_bench_sweep [THREADS [COLUMNS [REPEATS [cuda]]]]
 *
 * A layer of COLUMNS × COLUMNS (4096), on 2 threads, or on the first device. Prints CSV: job, the
 * median of the repeats, the fastest. bench/peers/peer_sweep.py sets it beside PyTorch.
 */
#include "pare/calib.h"
#include "pare/prune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_REPEATS 64

typedef struct bench {
    pare_backend *be;
    int64_t C;
    int repeats;
    pare_site_stats *stats;
    pare_factor *factor;
    float *host;       /* [C, C]: the weight */
    float *w, *scales; /* the backend's: [C, C]; scale and lo, [2][C, C/128] */
    int8_t *codes;     /* [C, C] */
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(pare_status status)
{
    if (status == PARE_OK)
        return;
    fprintf(stderr, "%s\n", pare_last_error());
    exit(1);
}

static float *take(int64_t count)
{
    float *memory = malloc((size_t)count * sizeof *memory);
    if (!memory)
        exit(1);
    return memory;
}

/* Roughly normal numbers. */
static void fill(float *x, int64_t n, float size)
{
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        float sum = -2;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) * 0x1p-24f;
        }
        x[i] = sum * size;
    }
}

/* The Gram matrix of inputs whose channels are of uneven size. */
static void make_layer(bench *b)
{
    int64_t C = b->C, rows = C / 2;
    float *x = take(rows * C), *there = NULL;
    b->host = take(C * C);
    fill(b->host, C * C, 0.03f);
    check(pare_site_stats_create(b->be, PARE_STAT_GRAM, C, &b->stats));
    check(pare_backend_alloc(b->be, rows * C * 4, &there));
    for (int k = 0; k < 4; k++) {
        fill(x, rows * C, 1.0f + (float)k);
        for (int64_t i = 0; i < rows * C; i++)
            x[i] *= 0.5f + (float)(i % C * 7 % 13) * 0.25f;
        check(pare_backend_upload(b->be, there, x, rows * C * 4));
        check(pare_site_stats_add(b->be, b->stats, pare_matrix(there, PARE_F32, rows, C), rows));
    }
    check(pare_site_stats_finish(b->be, b->stats));
    pare_backend_release(b->be, there, rows * C * 4);
    free(x);
    check(pare_backend_alloc(b->be, C * C * 4, &b->w));
    check(pare_backend_alloc(b->be, C * C / 128 * 8, &b->scales));
    check(pare_backend_alloc(b->be, C * C, &b->codes));
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static pare_status panel_scales(void *user, pare_panel *panel)
{
    const pare_layer *l = user;
    int64_t n = pare_tensor_count(&panel->scale);
    pare_status status =
        pare_quant_range(panel->be, &(pare_quant_range_args){.w = panel->w,
                                                             .block_rows = l->block_rows,
                                                             .block_cols = l->block_cols,
                                                             .lo = panel->lo,
                                                             .hi = panel->scale});
    if (status != PARE_OK)
        return status;
    return pare_quant_scale(
        panel->be, &(pare_quant_scale_args){.scheme = l->scheme,
                                            .scale_dtype = l->scale_dtype,
                                            .lo = pare_vector(panel->lo.data, PARE_F32, n),
                                            .hi = pare_vector(panel->scale.data, PARE_F32, n),
                                            .scale = pare_vector(panel->scale.data, PARE_F32, n),
                                            .zero = pare_vector(panel->zero.data, PARE_I8, n)});
}

static void factor(bench *b)
{
    pare_factor_free(b->be, &b->factor);
    check(pare_factor_create(b->be, b->stats, &(pare_sweep_options){0}, &b->factor));
}

static void sweep(bench *b, const char *scheme, const pare_choose_plan *plan)
{
    int64_t C = b->C;
    double loss;
    pare_layer l = {.name = "layer", .w = pare_matrix(b->w, PARE_F32, C, C), .inner = 1};
    pare_choose choose = {pare_prune_find("sparsegpt")->choose, (void *)plan,
                          plan ? plan->pattern.m : 0};
    pare_round round = {panel_scales, &l};
    l.stats = b->stats;
    if (scheme) {
        check(pare_scheme_parse(scheme, &l.scheme));
        pare_blocks blocks = pare_scheme_blocks(&l.scheme, C, C);
        l.block_rows = blocks.block_rows;
        l.block_cols = blocks.block_cols;
        l.scale_dtype = PARE_F16;
        l.scale = pare_matrix(b->scales, PARE_F32, blocks.down, blocks.across);
        l.lo = pare_matrix(b->scales + C * C / 128, PARE_F32, blocks.down, blocks.across);
        l.codes = pare_matrix(b->codes, PARE_I8, C, C);
    }
    check(pare_sweep(b->be, &l, b->factor, plan ? &choose : NULL, scheme ? &round : NULL, &loss));
}

static void run_factor(bench *b)
{
    factor(b);
}

static void run_gptq(bench *b)
{
    sweep(b, "w4g128", NULL);
}

static void run_half(bench *b)
{
    sweep(b, NULL,
          &(pare_choose_plan){.pattern = {.kind = PARE_PATTERN_UNSTRUCTURED}, .sparsity = 0.5});
}

static void run_two_of_four(bench *b)
{
    sweep(b, NULL, &(pare_choose_plan){.pattern = {.kind = PARE_PATTERN_NM, .n = 2, .m = 4}});
}

static void run_both(bench *b)
{
    sweep(b, "w4g128", &(pare_choose_plan){.pattern = {.kind = PARE_PATTERN_NM, .n = 2, .m = 4}});
}

/* ---- measuring ------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void measure(bench *b, const char *name, void (*job)(bench *b))
{
    double seconds[MAX_REPEATS];
    for (int i = -1; i < b->repeats; i++) { /* the first one is not counted */
        check(pare_backend_upload(b->be, b->w, b->host, b->C * b->C * 4));
        check(pare_backend_sync(b->be));
        double began = now();
        job(b);
        check(pare_backend_sync(b->be));
        seconds[i < 0 ? 0 : i] = now() - began;
    }
    qsort(seconds, (size_t)b->repeats, sizeof *seconds, ascending);
    printf("%s,%.5f,%.5f\n", name, seconds[b->repeats / 2], seconds[0]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bench b = {.C = argc > 2 ? atoll(argv[2]) : 4096, .repeats = argc > 3 ? atoi(argv[3]) : 5};
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    if (b.C < 128 || b.C % 128 != 0 || b.repeats < 1 || b.repeats > MAX_REPEATS || threads < 1) {
        fprintf(stderr,
                "pare_bench_sweep [THREADS [COLUMNS, a multiple of 128 [REPEATS [cuda]]]]\n");
        return 2;
    }
    if (argc > 4 && strcmp(argv[4], "cuda") == 0)
        check(pare_cuda_create(0, &b.be));
    else
        check(pare_cpu_create(&(pare_cpu_options){.threads = threads}, &b.be));
    make_layer(&b);
    printf("job,seconds,fastest\n");
    measure(&b, "factor", run_factor);
    measure(&b, "gptq w4g128", run_gptq);
    measure(&b, "sparsegpt 50 %", run_half);
    measure(&b, "sparsegpt 2:4", run_two_of_four);
    measure(&b, "sparsegpt 2:4 + gptq w4g128", run_both);
    pare_factor_free(b.be, &b.factor);
    pare_site_stats_free(b.be, &b.stats);
    pare_backend_release(b.be, b.w, b.C * b.C * 4);
    pare_backend_release(b.be, b.scales, b.C * b.C / 128 * 8);
    pare_backend_release(b.be, b.codes, b.C * b.C);
    pare_backend_free(&b.be);
    free(b.host);
    return 0;
}
