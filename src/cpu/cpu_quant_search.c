/* cpu_quant_search.c - the scale of least squared error.
 *
 * error(s) = Σ (w - (q - z)·s)², in f64, over 81 candidates s_k = s·k/100. Bound by arithmetic, so
 * the search leaves out candidates that cannot win: sums of squares only grow, so a candidate is
 * done with as soon as the error of the block's extreme elements, or of its first tiles, alone
 * exceeds the best error so far.
 */
#include "cpu_lanes.h"
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

/* lanes += (w - v·s)² of sixteen elements */
CPU_INLINE void add_errors(cpu_lanes *lanes, const float *w, const float *v, double s)
{
    for (int p = 0; p < CPU_STEPS; p++) {
        cpu_f64s d = cpu_load_f64s(w, p) - cpu_load_f64s(v, p) * s;
        lanes->part[p] += d * d;
    }
}

static void tile_errors(const grid_job *job, const float *w, float s, int64_t n, cpu_lanes *lanes)
{
    float v[TILE], rest_w[CPU_LANES], rest_v[CPU_LANES];
    if (job->type == PARE_QUANT_E4M3)
        for (int64_t i = 0; i < n; i++)
            v[i] = cpu_e4m3_round(w[i] / s);
    else if (int_values(w, cpu_reciprocal(s), job->zero, false, job->grid, v, n) >=
             job->grid.unsure)
        int_values(w, s, job->zero, true, job->grid, v, n);
    cpu_lanes sum = *lanes;
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        add_errors(&sum, w + i, v + i, (double)s);
    if (i < n)
        add_errors(&sum, cpu_pad_lanes(w + i, n - i, rest_w), cpu_pad_lanes(v + i, n - i, rest_v),
                   (double)s);
    *lanes = sum;
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
    cpu_lanes lanes[PARE_QUANT_CANDIDATES];
    memset(lanes, 0, sizeof lanes);
    int64_t count = pare_tensor_count(&e->args->w);
    for (int64_t at = 0; at < count; at += TILE)
        for (int64_t k = first; k < last; k++)
            tile_errors(&job, w + at, e->s[k], cpu_min(TILE, count - at), &lanes[k]);
    for (int64_t k = first; k < last; k++)
        e->args->errors[k] += isfinite(e->s[k]) ? cpu_tree(&lanes[k]) : (double)INFINITY;
}

pare_status PARE_CPU(pare_cpu_quant_error)(pare_backend *be, const pare_quant_error_args *args)
{
    float s[PARE_QUANT_CANDIDATES];
    candidates(args->scale, args->scale_dtype, s);
    cpu_split(be, PARE_QUANT_CANDIDATES, 1, error_part, &(error_job){args, s});
    return PARE_OK;
}

/* ---- quant_search ---------------------------------------------------------------------------- */

/* Two far elements of a block: the greatest bits as signed and as unsigned integers, which are the
 * greatest and the least element where there are both signs. */
static void block_ends(const cpu_block *b, float ends[2])
{
    uint32_t bits = pare__f32_bits(b->w[0]), most = bits;
    int32_t top = (int32_t)bits;
    for (int64_t r = 0; r < b->rows; r++) {
        const float *row = b->w + r * b->stride;
        for (int64_t c = 0; c < b->cols; c++) {
            uint32_t u = pare__f32_bits(row[c]);
            top = (int32_t)u > top ? (int32_t)u : top;
            most = u > most ? u : most;
        }
    }
    ends[0] = pare__bits_f32((uint32_t)top);
    ends[1] = pare__bits_f32(most);
}

/* floor[k] = the error of element w under each candidate, if that is more. */
static void raise_floor(const grid_job *job, float w, const float s[PARE_QUANT_CANDIDATES],
                        double floor[PARE_QUANT_CANDIDATES])
{
    float v[PARE_QUANT_CANDIDATES];
    if (job->type == PARE_QUANT_E4M3)
        for (int k = 0; k < PARE_QUANT_CANDIDATES; k++)
            v[k] = cpu_e4m3_round(w / s[k]);
    else
        for (int k = 0; k < PARE_QUANT_CANDIDATES; k++)
            v[k] = cpu_clamp(w / s[k] + job->zero, job->grid.lo, job->grid.hi) + CPU_RINT -
                   CPU_RINT - job->zero;
    for (int k = 0; k < PARE_QUANT_CANDIDATES; k++) {
        double d = (double)w - (double)v[k] * (double)s[k];
        floor[k] = d * d > floor[k] ? d * d : floor[k];
    }
}

/* The error of s over the block, or something greater than best. */
static double block_error(const grid_job *job, const cpu_block *block, float s, double best)
{
    float buffer[TILE];
    double error = 0;
    cpu_lanes lanes;
    memset(&lanes, 0, sizeof lanes);
    int64_t count = block->rows * block->cols;
    for (int64_t at = 0; at < count && error <= best; at += TILE) {
        int64_t n = cpu_min(TILE, count - at);
        tile_errors(job, cpu_block_tile(block, at, n, buffer), s, n, &lanes);
        error = cpu_tree(&lanes);
    }
    return error;
}

static float search_block(const grid_job *job, pare_dtype dtype, const cpu_block *block,
                          float scale)
{
    float s[PARE_QUANT_CANDIDATES], ends[2], chosen = scale;
    double best = (double)INFINITY, floor[PARE_QUANT_CANDIDATES] = {0};
    candidates(scale, dtype, s);
    block_ends(block, ends);
    raise_floor(job, ends[0], s, floor);
    raise_floor(job, ends[1], s, floor);
    for (int k = 0; k < PARE_QUANT_CANDIDATES; k++) {
        if (!isfinite(s[k]) || floor[k] > best)
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
