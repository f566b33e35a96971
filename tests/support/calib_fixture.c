/* calib_fixture.c - see calib_fixture.h. */
#include "calib_fixture.h"

#include "base/rng.h"

#include <math.h>

static float *random_inputs(int64_t samples, int64_t cols)
{
    enum { SOURCES = 12 };
    float *x = calloc((size_t)(samples * cols) + 1, sizeof *x);
    for (int64_t c = 0; c < cols; c++) {
        pare__rng of = pare__rng_make(7, 1, (uint64_t)c);
        float mix[SOURCES], size = c % 17 == 3 ? 8 : 0.3f + pare__rng_float(&of);
        for (int s = 0; s < SOURCES; s++)
            mix[s] = 2 * pare__rng_float(&of) - 1;
        for (int64_t r = 0; r < samples; r++) {
            pare__rng from = pare__rng_make(7, 2, (uint64_t)r);
            float sum = 0;
            for (int s = 0; s < SOURCES; s++)
                sum += mix[s] * (2 * pare__rng_float(&from) - 1);
            pare__rng noise = pare__rng_make(7, 3, (uint64_t)(r * cols + c));
            x[r * cols + c] = size * (sum + 0.5f * (2 * pare__rng_float(&noise) - 1));
        }
    }
    return x;
}

static float *random_weight(const calib_options *o)
{
    float *w = calloc((size_t)(o->rows * o->cols) + 1, sizeof *w);
    for (int64_t r = 0; r < o->rows; r++) {
        pare__rng rng = pare__rng_make(9, 1, (uint64_t)r);
        for (int64_t c = 0; c < o->cols; c++) {
            float a = 2 * pare__rng_float(&rng) - 1, b = 2 * pare__rng_float(&rng) - 1;
            bool gone = o->keep_m > 0 && (c + r) % o->keep_m >= o->keep_n;
            w[r * o->cols + c] = gone ? 0 : a * a * b;
        }
    }
    return w;
}

pare_site_stats *calib_stats(pare_backend *be, unsigned kinds, const float *x, int64_t samples,
                             int64_t cols)
{
    enum { PIECE = 100 };
    pare_site_stats *stats = NULL;
    float *memory = NULL;
    assert_ok(pare_site_stats_create(be, kinds, cols, &stats));
    assert_ok(pare_backend_alloc(be, PIECE * cols * 4, &memory));
    for (int64_t r = 0; r < samples; r += PIECE) {
        int64_t n = samples - r < PIECE ? samples - r : PIECE;
        assert_ok(pare_backend_upload(be, memory, x + r * cols, n * cols * 4));
        assert_ok(pare_site_stats_add(be, stats, pare_matrix(memory, PARE_F32, n, cols), n));
    }
    assert_ok(pare_site_stats_finish(be, stats));
    pare_backend_release(be, memory, PIECE * cols * 4);
    return stats;
}

static void describe(calib_case *c, const calib_options *o)
{
    pare_layer *layer = &c->layer;
    *layer =
        (pare_layer){.name = "layer", .inner = 1, .stats = c->stats, .keep_zeros = o->keep_m > 0};
    if (o->scheme)
        assert_ok(pare_scheme_parse(o->scheme, &layer->scheme));
    pare_blocks b = pare_scheme_blocks(&layer->scheme, c->R, c->C);
    int64_t cells = o->scheme ? b.down * b.across : 0, n = c->R * c->C;
    c->bytes = n * 4 + cells * 8 + n + cells;
    char *at = NULL;
    assert_ok(pare_backend_alloc(c->be, c->bytes, &at));
    c->memory = at;
    layer->w = pare_matrix(at, PARE_F32, c->R, c->C);
    if (!o->scheme)
        return;
    layer->scale_dtype = o->scale_dtype ? o->scale_dtype : PARE_F32;
    layer->block_rows = b.block_rows;
    layer->block_cols = b.block_cols;
    layer->scale = pare_matrix(at + n * 4, PARE_F32, b.down, b.across);
    layer->lo = pare_matrix(at + n * 4 + cells * 4, PARE_F32, b.down, b.across);
    layer->codes = pare_matrix(at + n * 4 + cells * 8, PARE_I8, c->R, c->C);
    if (layer->scheme.asymmetric)
        layer->zero = pare_matrix(at + n * 5 + cells * 8, PARE_I8, b.down, b.across);
}

calib_case calib_case_make(const calib_options *o)
{
    calib_case c = {.be = o->be, .R = o->rows, .C = o->cols, .N = o->samples};
    c.x = random_inputs(c.N, c.C);
    if (o->change)
        o->change(c.x, c.N, c.C);
    c.weight = random_weight(o);
    unsigned all = PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM;
    c.stats = calib_stats(c.be, o->kinds ? o->kinds : all, c.x, c.N, c.C);
    describe(&c, o);
    calib_case_reset(&c);
    return c;
}

void calib_case_reset(calib_case *c)
{
    assert_ok(pare_backend_clear(c->be, c->memory, c->bytes));
    assert_ok(pare_backend_upload(c->be, c->layer.w.data, c->weight, c->R * c->C * 4));
    memset(&c->report, 0, sizeof c->report);
}

void calib_case_free(calib_case *c)
{
    pare_site_stats_free(c->be, &c->stats);
    pare_backend_release(c->be, c->memory, c->bytes);
    free(c->x);
    free(c->weight);
}

void *calib_download(pare_backend *be, const pare_tensor *tensor)
{
    int64_t bytes = pare_tensor_count(tensor) * pare_dtype_bits(tensor->dtype) / 8;
    void *memory = calloc((size_t)bytes + 1, 1);
    assert_ok(pare_backend_download(be, memory, tensor->data, bytes));
    return memory;
}

double calib_error(const calib_case *c, const float *w)
{
    double error = 0, all = 0;
    for (int64_t n = 0; n < c->N; n++)
        for (int64_t r = 0; r < c->R; r++) {
            double y = 0, lost = 0;
            for (int64_t k = 0; k < c->C; k++) {
                double was = c->weight[r * c->C + k], x = c->x[n * c->C + k];
                y += was * x;
                lost += (was - w[r * c->C + k]) * x;
            }
            all += y * y;
            error += lost * lost;
        }
    return error == 0 ? 0 : error / all;
}

void calib_check(const calib_case *c)
{
    const pare_layer *layer = &c->layer;
    int64_t n = c->R * c->C;
    float *w = calib_download(c->be, &layer->w), *decoded = NULL;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(w[i]));
        if (layer->keep_zeros && c->weight[i] == 0)
            assert_true(w[i] == 0);
    }
    if (layer->scheme.type != PARE_QUANT_NONE) {
        assert_ok(pare_backend_alloc(c->be, n * 4, &decoded));
        pare_tensor y = pare_matrix(decoded, PARE_F32, c->R, c->C);
        assert_ok(pare_dequantize(c->be, &(pare_dequantize_args){.scheme = layer->scheme,
                                                                 .codes = layer->codes,
                                                                 .block_rows = layer->block_rows,
                                                                 .block_cols = layer->block_cols,
                                                                 .scale = layer->scale,
                                                                 .zero = layer->zero,
                                                                 .w = y}));
        float *values = calib_download(c->be, &y);
        for (int64_t i = 0; i < n; i++)
            if (values[i] != w[i])
                fail_msg("element %lld is %g, its code says %g", (long long)i, (double)w[i],
                         (double)values[i]);
        free(values);
        pare_backend_release(c->be, decoded, n * 4);
    }
    free(w);
}
