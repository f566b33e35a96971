/* quant_shrink.c - ranges chosen by what they do to the layer's output.
 *
 * Every ratio is tried on all blocks at once: scales from the ranges times the ratio, codes, and Δ
 * = w − ŵ. The error of a block is then Δ_b G_bb Δ_bᵀ (what its columns alone do to the output;
 * AWQ's search for clipped scales) or Σ Δ²·Σx² (the diagonal of the same). What is best lies on the
 * host; in the end the scales come from the best ranges, by the same arithmetic as when they were
 * tried. Cost: some passes over the weight for each ratio; by the Gram matrix also 2·R·C·block
 * products.
 */
#include "quant_impl.h"

#include "pare/ops.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

#include <math.h>

typedef struct search {
    pare_backend *be;
    pare_layer *layer;
    bool by_gram;
    int64_t R, C, group; /* columns of a block */
    int64_t down, across, cells;
    /* scratch of the backend's */
    pare_tensor lo, hi;     /* [cells] F32: the whole ranges */
    pare_tensor number;     /* [1] F32: a factor for all */
    pare_tensor delta;      /* [R, C] F32 */
    float *piece, *product; /* [R, group] F32 of a block's columns, and times G_bb; C = group: piece
                               is delta */
    float *gram;            /* [group, group] F32 */
    pare_tensor norms;      /* [C] F32: √Σx² */
    double *errors;         /* [across][R] */
    /* the host's */
    double *tried;     /* [across][R] */
    double *least;     /* [cells] */
    float *best;       /* [cells]: the ratio */
    float *low, *high; /* [cells] */
} search;

static void lay_out(search *s, pare__carve *carve)
{
    bool apart = s->across > 1;
    s->lo = pare_vector(pare__carve_next(carve, s->cells * 4), PARE_F32, s->cells);
    s->hi = pare_vector(pare__carve_next(carve, s->cells * 4), PARE_F32, s->cells);
    s->number = pare_vector(pare__carve_next(carve, 4), PARE_F32, 1);
    s->delta = pare_matrix(pare__carve_next(carve, s->R * s->C * 4), PARE_F32, s->R, s->C);
    s->piece = pare__carve_next(carve, apart ? s->R * s->group * 4 : 0);
    s->product = pare__carve_next(carve, s->by_gram ? s->R * s->group * 4 : 0);
    s->gram = pare__carve_next(carve, s->by_gram && apart ? s->group * s->group * 4 : 0);
    s->norms = pare_vector(pare__carve_next(carve, s->by_gram ? 0 : s->C * 4), PARE_F32, s->C);
    s->errors = pare__carve_next(carve, s->across * s->R * 8);
}

static search describe(pare_backend *be, const pare_layer *layer, bool by_gram)
{
    search s = {.be = be, .layer = (pare_layer *)layer, .by_gram = by_gram};
    s.R = layer->w.shape[0];
    s.C = layer->w.shape[1];
    s.group = layer->block_cols < s.C ? layer->block_cols : s.C;
    s.down = s.R > 0 ? (s.R + layer->block_rows - 1) / layer->block_rows : 0;
    s.across = s.C > 0 ? (s.C + s.group - 1) / s.group : 0;
    s.cells = s.down * s.across;
    return s;
}

int64_t pare__quant_shrink_bytes(const pare_layer *layer, bool by_gram)
{
    search s = describe(NULL, layer, by_gram);
    pare__carve carve = {0};
    lay_out(&s, &carve);
    return carve.size;
}

/* ---- one ratio ------------------------------------------------------------------------------- */

/* y = x·factor, in f32. */
static pare_status times(search *s, pare_tensor x, float factor, pare_tensor y)
{
    pare_tensor from = pare_matrix(x.data, PARE_F32, 1, s->cells);
    pare_tensor to = pare_matrix(y.data, PARE_F32, 1, s->cells);
    PARE_TRY(pare_fill(s->be, &(pare_fill_args){.y = s->number, .value = factor}));
    return pare_scale(s->be, &(pare_scale_args){.x = from, .y = to, .rows = s->number});
}

/* The layer's scales and zero points from the ranges in its own lo and scale. */
static pare_status make_scales(search *s)
{
    pare_layer *layer = s->layer;
    pare_tensor scale = pare_vector(layer->scale.data, PARE_F32, s->cells);
    return pare_quant_scale(
        s->be, &(pare_quant_scale_args){.scheme = layer->scheme,
                                        .scale_dtype = layer->scale_dtype,
                                        .lo = pare_vector(layer->lo.data, PARE_F32, s->cells),
                                        .hi = scale,
                                        .scale = scale,
                                        .zero = pare_vector(layer->zero.data, PARE_I8, s->cells)});
}

/* Δ = w − ŵ at that ratio: ŵ is decoded with its scales negated. */
static pare_status find_delta(search *s, float ratio)
{
    pare_layer *layer = s->layer;
    PARE_TRY(times(s, s->lo, ratio, layer->lo));
    PARE_TRY(times(s, s->hi, ratio, layer->scale));
    PARE_TRY(make_scales(s));
    PARE_TRY(pare_quantize(s->be, &(pare_quantize_args){.scheme = layer->scheme,
                                                        .w = layer->w,
                                                        .block_rows = layer->block_rows,
                                                        .block_cols = layer->block_cols,
                                                        .scale = layer->scale,
                                                        .zero = layer->zero,
                                                        .codes = layer->codes}));
    PARE_TRY(times(s, layer->scale, -1, layer->lo));
    PARE_TRY(pare_dequantize(s->be, &(pare_dequantize_args){.scheme = layer->scheme,
                                                            .codes = layer->codes,
                                                            .block_rows = layer->block_rows,
                                                            .block_cols = layer->block_cols,
                                                            .scale = layer->lo,
                                                            .zero = layer->zero,
                                                            .w = s->delta}));
    PARE_TRY(pare_add(s->be, &(pare_add_args){.a = s->delta, .b = layer->w, .y = s->delta}));
    if (s->by_gram)
        return PARE_OK;
    return pare_scale(s->be, &(pare_scale_args){.x = s->delta, .y = s->delta, .cols = s->norms});
}

/* G_bb: rows of the Gram matrix from the block's first column on, cut to its columns. */
static pare_status block_gram(search *s, int64_t first, int64_t count, pare_tensor *block)
{
    const pare_tensor *gram = &s->layer->stats->gram;
    *block = *gram;
    if (s->across == 1)
        return PARE_OK;
    *block = pare_matrix(s->gram, PARE_F32, count, count);
    pare_tensor rows = pare_matrix((float *)gram->data + first * s->C, PARE_F32, count, s->C);
    return pare_copy_cols(
        s->be, &(pare_copy_cols_args){.x = rows, .y = *block, .x_first = first, .cols = count});
}

static pare_status block_errors(search *s, int64_t g)
{
    int64_t first = g * s->group, count = s->C - first < s->group ? s->C - first : s->group;
    pare_tensor piece = s->delta;
    if (s->across > 1) {
        piece = pare_matrix(s->piece, PARE_F32, s->R, count);
        PARE_TRY(pare_copy_cols(
            s->be,
            &(pare_copy_cols_args){.x = s->delta, .y = piece, .x_first = first, .cols = count}));
    }
    pare_tensor product = piece, block;
    if (s->by_gram) {
        product = pare_matrix(s->product, PARE_F32, s->R, count);
        PARE_TRY(block_gram(s, first, count, &block));
        PARE_TRY(pare_gemm(s->be, &(pare_gemm_args){.a = piece, .b = block, .c = product}));
    }
    return pare_row_dot(
        s->be, &(pare_row_dot_args){.a = piece,
                                    .b = product,
                                    .y = pare_vector(s->errors + g * s->R, PARE_F64, s->R)});
}

/* Keeps the ratio for the blocks that it is best for. */
static void compare(search *s, float ratio)
{
    int64_t high = s->layer->block_rows;
    for (int64_t d = 0; d < s->down; d++)
        for (int64_t g = 0; g < s->across; g++) {
            double error = 0;
            for (int64_t r = d * high; r < s->R && r < (d + 1) * high; r++)
                error += s->tried[g * s->R + r];
            if (error < s->least[d * s->across + g]) {
                s->least[d * s->across + g] = error;
                s->best[d * s->across + g] = ratio;
            }
        }
}

static pare_status try_ratio(search *s, float ratio)
{
    PARE_TRY(find_delta(s, ratio));
    for (int64_t g = 0; g < s->across; g++)
        PARE_TRY(block_errors(s, g));
    PARE_TRY(pare_backend_download(s->be, s->tried, s->errors, s->across * s->R * 8));
    compare(s, ratio);
    return PARE_OK;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static pare_status upload_norms(search *s)
{
    double *squares = NULL;
    float *norms = NULL;
    const char *problem; /* the caller has looked */
    PARE_TRY(pare__stats_problem(s->be, s->layer->stats, &squares, &problem));
    pare_status status = pare__calloc((size_t)s->C, sizeof *norms, &norms);
    for (int64_t c = 0; status == PARE_OK && squares && c < s->C; c++)
        norms[c] = (float)sqrt(squares[c]);
    if (status == PARE_OK)
        status = pare_backend_upload(s->be, s->norms.data, norms, s->C * 4);
    free(norms);
    free(squares);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status open_host(search *s)
{
    PARE_TRY(pare__calloc((size_t)(s->across * s->R), sizeof(double), &s->tried));
    PARE_TRY(pare__calloc((size_t)s->cells, sizeof(double), &s->least));
    PARE_TRY(pare__calloc((size_t)s->cells, sizeof(float), &s->best));
    PARE_TRY(pare__calloc((size_t)s->cells, sizeof(float), &s->low));
    PARE_TRY(pare__calloc((size_t)s->cells, sizeof(float), &s->high));
    for (int64_t i = 0; i < s->cells; i++) {
        s->least[i] = INFINITY;
        s->best[i] = 1;
    }
    return PARE_OK;
}

static void close_host(search *s)
{
    free(s->tried);
    free(s->least);
    free(s->best);
    free(s->low);
    free(s->high);
}

/* Scales from the best ranges, then codes and what they decode to. */
static pare_status settle(search *s)
{
    int64_t bytes = s->cells * (int64_t)sizeof(float);
    PARE_TRY(pare_backend_download(s->be, s->low, s->lo.data, bytes));
    PARE_TRY(pare_backend_download(s->be, s->high, s->hi.data, bytes));
    for (int64_t i = 0; i < s->cells; i++) {
        s->low[i] *= s->best[i];
        s->high[i] *= s->best[i];
    }
    PARE_TRY(pare_backend_upload(s->be, s->layer->lo.data, s->low, bytes));
    PARE_TRY(pare_backend_upload(s->be, s->layer->scale.data, s->high, bytes));
    PARE_TRY(make_scales(s));
    return pare__quant_apply(s->be, s->layer);
}

static pare_status run(search *s, const float *ratios, int count)
{
    const pare_layer *layer = s->layer;
    PARE_TRY(open_host(s));
    if (!s->by_gram)
        PARE_TRY(upload_norms(s));
    PARE_TRY(pare_quant_range(
        s->be,
        &(pare_quant_range_args){.w = layer->w,
                                 .block_rows = layer->block_rows,
                                 .block_cols = layer->block_cols,
                                 .lo = pare_matrix(s->lo.data, PARE_F32, s->down, s->across),
                                 .hi = pare_matrix(s->hi.data, PARE_F32, s->down, s->across)}));
    for (int i = 0; i < count; i++)
        PARE_TRY(try_ratio(s, ratios[i]));
    return settle(s);
}

pare_status pare__quant_shrink(pare_backend *be, pare_layer *layer, const float *ratios, int count,
                               bool by_gram)
{
    search s = describe(be, layer, by_gram);
    if (s.cells == 0)
        return PARE_OK;
    pare__carve carve = {0};
    lay_out(&s, &carve);
    int64_t bytes = carve.size;
    carve.size = 0;
    PARE_TRY(pare_backend_alloc(be, bytes, &carve.base));
    lay_out(&s, &carve);
    pare_status status = run(&s, ratios, count);
    close_host(&s);
    pare_backend_release(be, carve.base, bytes);
    PARE_TRY(status);
    return PARE_OK;
}
