/* solve_layer.c - one layer through the column sweep as pare runs it, for tests/e2e/test_sweep.py
 * to hold beside the papers in numpy.
 *
 *   pare_solve_layer W.npy GRAM.npy OUT.npy SCHEME PATTERN [keep|order]
 *
 * W is F32 [R, C], GRAM F64 [C, C]. SCHEME is as in --scheme, or none; PATTERN a share, N:M, or
 * none; keep: zeros stay; order: columns by descending diagonal. OUT is F32 [2·R, C]: the weights,
 * then their codes. Scales are F32.
 */
#include "pare/pare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    pare_backend *be;
    pare_site_stats *stats;
    pare_factor *factor;
    pare_npy_writer *out;
    float *w;     /* [R, C] */
    double *gram; /* [C, C] */
    float *scale, *lo;
    int8_t *zero, *codes;
    pare_layer layer;
    pare_choose_plan plan;
    pare_sweep_options options;
    bool prunes;
} job;

#define TRY(call)                                                                                  \
    do {                                                                                           \
        pare_status try_ = (call);                                                                 \
        if (try_ != PARE_OK)                                                                       \
            return try_;                                                                           \
    } while (0)

static pare_status read_array(const char *path, pare_dtype dtype, int64_t *rows, int64_t *cols,
                              void *values /* T ** */)
{
    pare_array *array = NULL;
    pare_status status = pare_array_open(path, NULL, &array);
    if (status != PARE_OK)
        return status;
    const pare_tensor *t = pare_array_tensor(array);
    void *memory = NULL;
    status = PARE_ERR_ARGUMENT;
    if (t->dtype == dtype && t->rank == 2) {
        *rows = t->shape[0];
        *cols = t->shape[1];
        memory = malloc((size_t)(*rows * *cols) * (size_t)pare_dtype_bits(dtype) / 8 + 1);
        status = memory ? pare_array_read(array, 0, *rows * *cols, memory) : PARE_ERR_MEMORY;
    }
    pare_array_close(&array);
    memcpy(values, &memory, sizeof memory);
    return status;
}

static pare_status read_inputs(job *j, char **argv)
{
    int64_t R, C, K;
    TRY(read_array(argv[1], PARE_F32, &R, &C, &j->w));
    TRY(read_array(argv[2], PARE_F64, &K, &K, &j->gram));
    size_t count = (size_t)(R * C) + 1;
    j->scale = calloc(count, sizeof *j->scale);
    j->lo = calloc(count, sizeof *j->lo);
    j->zero = calloc(count, sizeof *j->zero);
    j->codes = calloc(count, sizeof *j->codes);
    if (!j->scale || !j->lo || !j->zero || !j->codes)
        return PARE_ERR_MEMORY;
    TRY(pare_site_stats_create(j->be, PARE_STAT_GRAM, C, &j->stats));
    for (int64_t i = 0; i < C * C; i++)
        ((float *)j->stats->gram.data)[i] = (float)j->gram[i];
    j->stats->rows = C;
    TRY(pare_site_stats_finish(j->be, j->stats));
    j->layer = (pare_layer){.name = "layer",
                            .w = pare_matrix(j->w, PARE_F32, R, C),
                            .inner = 1,
                            .stats = j->stats,
                            .keep_zeros = argv[6] && strcmp(argv[6], "keep") == 0};
    j->options.act_order = argv[6] && strcmp(argv[6], "order") == 0;
    return PARE_OK;
}

static pare_status read_plan(job *j, const char *scheme, const char *pattern)
{
    pare_layer *l = &j->layer;
    int64_t R = l->w.shape[0], C = l->w.shape[1];
    pare_pattern *p = &j->plan.pattern;
    if (strcmp(scheme, "none") != 0) {
        TRY(pare_scheme_parse(scheme, &l->scheme));
        pare_blocks b = pare_scheme_blocks(&l->scheme, R, C);
        l->block_rows = b.block_rows;
        l->block_cols = b.block_cols;
        l->scale_dtype = PARE_F32;
        l->scale = pare_matrix(j->scale, PARE_F32, b.down, b.across);
        l->lo = pare_matrix(j->lo, PARE_F32, b.down, b.across);
        if (l->scheme.asymmetric)
            l->zero = pare_matrix(j->zero, PARE_I8, b.down, b.across);
        l->codes = pare_matrix(j->codes, PARE_I8, R, C);
    }
    j->prunes = strcmp(pattern, "none") != 0;
    if (sscanf(pattern, "%d:%d", &p->n, &p->m) == 2) {
        p->kind = PARE_PATTERN_NM;
    } else {
        p->kind = PARE_PATTERN_UNSTRUCTURED;
        p->m = 0;
        j->plan.sparsity = strtod(pattern, NULL);
    }
    return PARE_OK;
}

/* Scales by the range of a panel's blocks. */
static pare_status panel_scales(void *user, pare_panel *panel)
{
    const pare_layer *l = user;
    int64_t n = pare_tensor_count(&panel->scale);
    TRY(pare_quant_range(panel->be, &(pare_quant_range_args){.w = panel->w,
                                                             .block_rows = l->block_rows,
                                                             .block_cols = l->block_cols,
                                                             .lo = panel->lo,
                                                             .hi = panel->scale}));
    return pare_quant_scale(
        panel->be, &(pare_quant_scale_args){.scheme = l->scheme,
                                            .scale_dtype = l->scale_dtype,
                                            .lo = pare_vector(panel->lo.data, PARE_F32, n),
                                            .hi = pare_vector(panel->scale.data, PARE_F32, n),
                                            .scale = pare_vector(panel->scale.data, PARE_F32, n),
                                            .zero = pare_vector(panel->zero.data, PARE_I8, n)});
}

static pare_status solve(job *j, const char *path)
{
    pare_layer *l = &j->layer;
    int64_t R = l->w.shape[0], C = l->w.shape[1];
    const pare_prune_method *sparsegpt = pare_prune_find("sparsegpt");
    pare_choose choose = {sparsegpt->choose, &j->plan, j->plan.pattern.m};
    pare_round round = {panel_scales, l};
    double loss = 0;
    TRY(pare_factor_create(j->be, j->stats, &j->options, &j->factor));
    TRY(pare_sweep(j->be, l, j->factor, j->prunes ? &choose : NULL,
                   l->scheme.type != PARE_QUANT_NONE ? &round : NULL, &loss));
    for (int64_t i = 0; i < R * C; i++)
        j->lo[i] = (float)j->codes[i];
    TRY(pare_npy_create(path, 2 * R, C, true, &j->out));
    TRY(pare_npy_add(j->out, j->w, R));
    TRY(pare_npy_add(j->out, j->lo, R));
    TRY(pare_npy_finish(j->out));
    return PARE_OK;
}

static pare_status run(job *j, char **argv)
{
    TRY(pare_cpu_create(&(pare_cpu_options){.threads = pare_cpu_count()}, &j->be));
    TRY(read_inputs(j, argv));
    TRY(read_plan(j, argv[4], argv[5]));
    return solve(j, argv[3]);
}

int main(int argc, char **argv)
{
    job j = {0};
    if (argc < 6) {
        fprintf(stderr,
                "usage: pare_solve_layer W.npy GRAM.npy OUT.npy SCHEME PATTERN [keep|order]\n");
        return 2;
    }
    pare_status status = run(&j, argv);
    if (status != PARE_OK)
        fprintf(stderr, "%s\n", pare_last_error());
    pare_npy_free(&j.out);
    pare_factor_free(j.be, &j.factor);
    pare_site_stats_free(j.be, &j.stats);
    pare_backend_free(&j.be);
    free(j.w);
    free(j.gram);
    free(j.scale);
    free(j.lo);
    free(j.zero);
    free(j.codes);
    return status == PARE_OK ? 0 : 1;
}
