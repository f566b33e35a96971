/* cpu_quant_search.c - the scale of least squared error.
 *
 * error(s) = Σ (w - (q - z)·s)², in f64, over 81 candidates s_k = s·k/100. Bound by arithmetic, so
 * the search leaves out candidates that cannot win: sums of squares only grow, so a candidate is
 * done with as soon as the error of the block's extreme elements, or of its first tiles, alone
 * exceeds the best error so far.
 */
#include "cpu_quant.h"

#include <math.h>

#define TILE CPU_QUANT_TILE

/* What the candidates have in common. */
typedef struct grid_job {
    pare_quant_type type;
    cpu_grid grid;
    float zero;
} grid_job;

static grid_job job_of(const pare_scheme *scheme, int zero)
{
    return (grid_job){.type = scheme->type, .grid = cpu_grid_of(scheme), .zero = (float)zero};
}

static void candidates(float scale, pare_dtype dtype, float s[PARE_QUANT_CANDIDATES])
{
    for (int i = 0; i < PARE_QUANT_CANDIDATES; i++)
        s[i] = scale * (float)(100 - i) / 100.0f;
    PARE_CPU(pare__cpu_round)(s, dtype, PARE_QUANT_CANDIDATES);
    for (int i = 0; i < PARE_QUANT_CANDIDATES; i++)
        s[i] = s[i] == 0.0f ? 1.0f : s[i];
}

/* ---- the error of one candidate over a tile -------------------------------------------------- */

/* v = q - z of a tile, as floats; `by` is the scale (divide) or its reciprocal. */
CPU_INLINE int32_t int_values(const float *restrict w, float by, float zero, bool divide,
                              cpu_grid grid, float *restrict v, int64_t n)
{
    int32_t worst = 0;
    for (int64_t i = 0; i < n; i++) {
        float t = cpu_clamp((divide ? w[i] / by : w[i] * by) + zero, grid.lo, grid.hi);
        float q = t + CPU_RINT - CPU_RINT;
        int32_t apart = (int32_t)(pare__f32_bits(t - q) & 0x7fffffffu);
        worst = apart > worst ? apart : worst;
        v[i] = q - zero;
    }
    return worst;
}

/* lane[l] += (w - v·s)² */
CPU_INLINE void add_errors(const float *restrict w, const float *restrict v, double s, int64_t n,
                           double lane[restrict CPU_LANES])
{
    double sum[CPU_LANES];
    int64_t i = 0;
    memcpy(sum, lane, sizeof sum);
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int l = 0; l < CPU_LANES; l++) {
            double d = (double)w[i + l] - (double)v[i + l] * s;
            sum[l] += d * d;
        }
    for (int l = 0; i + l < n; l++) {
        double d = (double)w[i + l] - (double)v[i + l] * s;
        sum[l] += d * d;
    }
    memcpy(lane, sum, sizeof sum);
}

static void tile_errors(const grid_job *job, const float *w, float s, int64_t n,
                        double lane[CPU_LANES])
{
    float v[TILE];
    if (job->type == PARE_QUANT_E4M3)
        for (int64_t i = 0; i < n; i++)
            v[i] = pare__e4m3_to_f32(pare__f32_to_e4m3(w[i] / s));
    else if (int_values(w, cpu_reciprocal(s), job->zero, false, job->grid, v, n) >=
             job->grid.unsure)
        int_values(w, s, job->zero, true, job->grid, v, n);
    add_errors(w, v, (double)s, n, lane);
}

/* ---- quant_error ----------------------------------------------------------------------------- */

typedef struct error_job {
    const pare_quant_error_args *args;
    const float *s;
} error_job;

/* Candidates [first, last): tile by tile, so that w is read from memory once. */
static void error_part(const void *user, int64_t first, int64_t last)
{
    const error_job *e = user;
    const float *w = e->args->w.data;
    grid_job job = job_of(&e->args->scheme, e->args->zero);
    double lane[PARE_QUANT_CANDIDATES][CPU_LANES] = {{0}};
    int64_t count = pare_tensor_count(&e->args->w);
    for (int64_t at = 0; at < count; at += TILE)
        for (int64_t k = first; k < last; k++)
            tile_errors(&job, w + at, e->s[k], cpu_min(TILE, count - at), lane[k]);
    for (int64_t k = first; k < last; k++)
        e->args->errors[k] += isfinite(e->s[k]) ? cpu_tree(lane[k]) : (double)INFINITY;
}

pare_status PARE_CPU(pare_cpu_quant_error)(pare_backend *be, const pare_quant_error_args *args)
{
    float s[PARE_QUANT_CANDIDATES];
    candidates(args->scale, args->scale_dtype, s);
    cpu_split(be, PARE_QUANT_CANDIDATES, 1, error_part, &(error_job){args, s});
    return PARE_OK;
}

/* ---- quant_search ---------------------------------------------------------------------------- */

/* The least and greatest element of a block. */
static void block_ends(const cpu_block *b, float ends[2])
{
    float lo = b->w[0], hi = b->w[0];
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t c = 0; c < b->cols; c++) {
            float x = b->w[r * b->stride + c];
            lo = x < lo ? x : lo;
            hi = x > hi ? x : hi;
        }
    ends[0] = lo;
    ends[1] = hi;
}

/* The error of one element. */
static double end_error(const grid_job *job, float w, float s)
{
    double lane[CPU_LANES] = {0};
    tile_errors(job, &w, s, 1, lane);
    return lane[0];
}

/* The error of s over the block, or something greater than best. */
static double block_error(const grid_job *job, const cpu_block *block, float s, double best)
{
    float buffer[TILE];
    double lane[CPU_LANES] = {0}, error = 0;
    int64_t count = block->rows * block->cols;
    for (int64_t at = 0; at < count && error <= best; at += TILE) {
        int64_t n = cpu_min(TILE, count - at);
        tile_errors(job, cpu_block_tile(block, at, n, buffer), s, n, lane);
        error = cpu_tree(lane);
    }
    return error;
}

static float search_block(const grid_job *job, pare_dtype dtype, const cpu_block *block,
                          float scale)
{
    float s[PARE_QUANT_CANDIDATES], ends[2], chosen = scale;
    double best = (double)INFINITY;
    candidates(scale, dtype, s);
    block_ends(block, ends);
    for (int k = 0; k < PARE_QUANT_CANDIDATES; k++) {
        if (!isfinite(s[k]) || end_error(job, ends[0], s[k]) > best ||
            end_error(job, ends[1], s[k]) > best)
            continue;
        double error = block_error(job, block, s[k], best);
        if (error < best) {
            best = error;
            chosen = s[k];
        }
    }
    return chosen;
}

static void search_part(const void *user, int64_t first, int64_t last)
{
    const pare_quant_search_args *a = user;
    int64_t across = a->scale.shape[1];
    float *scale = a->scale.data;
    const int8_t *zero = a->scheme.asymmetric ? a->zero.data : NULL;
    for (int64_t i = first; i < last; i++) {
        grid_job job = job_of(&a->scheme, zero ? zero[i] : 0);
        cpu_block b = cpu_block_at(&a->w, a->block_rows, a->block_cols, i / across, i % across);
        scale[i] = search_block(&job, a->scale_dtype, &b, scale[i]);
    }
}

pare_status PARE_CPU(pare_cpu_quant_search)(pare_backend *be, const pare_quant_search_args *args)
{
    cpu_split(be, pare_tensor_count(&args->scale), 1, search_part, args);
    return PARE_OK;
}
