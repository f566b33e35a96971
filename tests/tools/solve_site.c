/* solve_site.c - one layer and its inputs through a quantiser as pare runs it, for
 * tests/e2e/test_solvers.py to hold beside the papers in numpy.
 *
 *   pare_solve_site METHOD SCHEME X.npy W.npy OUT.npy
 *
 * X is F32 [N, C], the inputs; W F32 [R, C]. OUT is F32 [R + 1, C]: the scales that the inputs were
 * divided by, then the weights (times these scales) as their codes decode. METHOD "range": OUT is
 * [1, 4], the ranges by largest value, percentile (99.9), squared error and divergence.
 */
#include "pare/pare.h"

#include "pare/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    pare_backend *be;
    pare_site_stats *stats;
    pare_factor *factor;
    pare_npy_writer *out;
    float *x, *w, *scales;
    float *scale, *lo;
    int8_t *zero, *codes;
    int64_t N, R, C;
    pare_layer layer;
} job;

#define TRY(call)                                                                                  \
    do {                                                                                           \
        pare_status try_ = (call);                                                                 \
        if (try_ != PARE_OK)                                                                       \
            return try_;                                                                           \
    } while (0)

static pare_status read_matrix(const char *path, int64_t *rows, int64_t *cols, float **values)
{
    pare_array *array = NULL;
    TRY(pare_array_open(path, NULL, &array));
    const pare_tensor *t = pare_array_tensor(array);
    pare_status status = PARE_ERR_ARGUMENT;
    if (t->dtype == PARE_F32 && t->rank == 2) {
        *rows = t->shape[0];
        *cols = t->shape[1];
        *values = calloc((size_t)(*rows * *cols) + 1, sizeof **values);
        status = *values ? pare_array_read(array, 0, *rows * *cols, *values) : PARE_ERR_MEMORY;
    }
    pare_array_close(&array);
    return status;
}

/* Statistics as a walk gathers them: some rows at a time. */
static pare_status gather(job *j)
{
    enum { PIECE = 256 };
    unsigned kinds = PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM;
    TRY(pare_site_stats_create(j->be, kinds, j->C, &j->stats));
    for (int64_t r = 0; r < j->N; r += PIECE) {
        int64_t n = j->N - r < PIECE ? j->N - r : PIECE;
        TRY(pare_site_stats_add(j->be, j->stats, pare_matrix(j->x + r * j->C, PARE_F32, n, j->C),
                                n));
    }
    return pare_site_stats_finish(j->be, j->stats);
}

static pare_status make_layer(job *j, const char *scheme)
{
    pare_layer *l = &j->layer;
    size_t count = (size_t)(j->R * j->C) + 1;
    j->scale = calloc(count, sizeof *j->scale);
    j->lo = calloc(count, sizeof *j->lo);
    j->zero = calloc(count, sizeof *j->zero);
    j->codes = calloc(count, sizeof *j->codes);
    j->scales = calloc((size_t)j->C + 1, sizeof *j->scales);
    if (!j->scale || !j->lo || !j->zero || !j->codes || !j->scales)
        return PARE_ERR_MEMORY;
    *l = (pare_layer){.name = "layer",
                      .w = pare_matrix(j->w, PARE_F32, j->R, j->C),
                      .inner = 1,
                      .stats = j->stats,
                      .scale_dtype = PARE_F32};
    TRY(pare_scheme_parse(scheme, &l->scheme));
    pare_blocks b = pare_scheme_blocks(&l->scheme, j->R, j->C);
    l->block_rows = b.block_rows;
    l->block_cols = b.block_cols;
    l->scale = pare_matrix(j->scale, PARE_F32, b.down, b.across);
    l->lo = pare_matrix(j->lo, PARE_F32, b.down, b.across);
    if (l->scheme.asymmetric)
        l->zero = pare_matrix(j->zero, PARE_I8, b.down, b.across);
    l->codes = pare_matrix(j->codes, PARE_I8, j->R, j->C);
    return PARE_OK;
}

/* Scales of the inputs, folded into weights and statistics. */
static pare_status fold(job *j, const pare_quant_method *method)
{
    pare_quant_site site = {.stats = j->stats,
                            .cols = j->C,
                            .layers = 1,
                            .layer = {&j->layer},
                            .fold_repeat = 1,
                            .foldable = true,
                            .scales = j->scales};
    for (int64_t c = 0; c < j->C; c++)
        j->scales[c] = 1;
    if (!method->scale_site)
        return PARE_OK;
    TRY(method->scale_site(j->be, &site));
    fprintf(stderr, "%s\n", site.note);
    for (int64_t i = 0; i < j->R * j->C; i++)
        j->w[i] *= j->scales[i % j->C];
    return pare_site_stats_divide(j->be, j->stats, j->scales);
}

static pare_status solve(job *j, const pare_quant_method *method, const char *path)
{
    pare_layer_report report = {0};
    TRY(fold(j, method));
    if (method->needs_factor)
        TRY(pare_factor_create(j->be, j->stats, &(pare_sweep_options){0}, &j->factor));
    TRY(method->solve(j->be, &j->layer, PARE_SCALE_ABSMAX, &(pare_quant_tuning){0}, j->factor, NULL,
                      &report));
    fprintf(stderr, "error %.9g, by rounding %.9g %s\n", report.error_after, report.error_before,
            report.fallback);
    TRY(pare_npy_create(path, j->R + 1, j->C, true, &j->out));
    TRY(pare_npy_add(j->out, j->scales, 1));
    TRY(pare_npy_add(j->out, j->w, j->R));
    return pare_npy_finish(j->out);
}

static pare_status ranges(job *j, const char *path)
{
    float range[4];
    for (int i = 0; i < 4; i++)
        TRY(pare_site_stats_range(j->be, j->stats, (pare_range_search)i, 99.9, &range[i]));
    TRY(pare_npy_create(path, 1, 4, true, &j->out));
    TRY(pare_npy_add(j->out, range, 1));
    return pare_npy_finish(j->out);
}

static pare_status run(job *j, char **argv)
{
    int64_t K;
    TRY(pare_cpu_create(&(pare_cpu_options){.threads = pare_cpu_count()}, &j->be));
    TRY(read_matrix(argv[3], &j->N, &K, &j->x));
    TRY(read_matrix(argv[4], &j->R, &j->C, &j->w));
    if (K != j->C)
        return PARE_ERR_ARGUMENT;
    TRY(gather(j));
    if (strcmp(argv[1], "range") == 0)
        return ranges(j, argv[5]);
    const pare_quant_method *method = pare_quant_find(argv[1]);
    if (!method)
        return PARE_ERR_NOT_FOUND;
    TRY(make_layer(j, argv[2]));
    return solve(j, method, argv[5]);
}

int main(int argc, char **argv)
{
    job j = {0};
    if (argc != 6) {
        fprintf(stderr, "usage: pare_solve_site METHOD SCHEME X.npy W.npy OUT.npy\n");
        return 2;
    }
    pare_status status = run(&j, argv);
    if (status != PARE_OK)
        fprintf(stderr, "%s\n", pare_last_error());
    pare_npy_free(&j.out);
    pare_factor_free(j.be, &j.factor);
    pare_site_stats_free(j.be, &j.stats);
    pare_backend_free(&j.be);
    free(j.x);
    free(j.w);
    free(j.scales);
    free(j.scale);
    free(j.lo);
    free(j.zero);
    free(j.codes);
    return status == PARE_OK ? 0 : 1;
}
