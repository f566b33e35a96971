/* qat_calibrate.c - scales of inputs that are rounded with one scale (a8s), before training begins.
 *
 * The first samples go forward without rounding; each product's inputs are counted in a histogram,
 * and the range of least squared error (calib.h) becomes the scale, which then stays: training
 * moves the weights under it. Inputs beyond the range pass no gradient (src/model/node.c). */
#include "qat_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

#define SAMPLES 256

typedef struct calibration {
    pare_qat *qat;
    pare_backend *be;
    pare_site_stats **stats; /* [layers]; NULL: not wanted, or not seen yet */
} calibration;

static bool needs_scale(const pare_qat *qat, const pare__qat_layer *l)
{
    return l->scheme.activation == PARE_ACT_STATIC &&
           !(pare_model_param(qat->model, l->param)->act_scale > 0);
}

/* After each node: the inputs of a product that is to be rounded. */
static pare_status observe(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    calibration *c = user;
    (void)node;
    bool product = strcmp(view->kind, "linear") == 0 || strcmp(view->kind, "conv") == 0;
    const pare__qat_layer *l = product && !backward && view->param_count > 0
                                   ? pare__qat_layer_of(c->qat, view->param[0])
                                   : NULL;
    if (!l || !needs_scale(c->qat, l) || !view->input[0].data)
        return PARE_OK;
    pare_site_stats **stats = &c->stats[l - c->qat->layers];
    pare_tensor in = view->input[0];
    int64_t cols = in.shape[in.rank - 1], rows = pare_tensor_count(&in) / cols;
    if (!*stats)
        PARE_TRY(pare_site_stats_create(c->be, PARE_STAT_HISTOGRAM, cols, stats));
    pare_tensor x = pare_matrix(in.data, in.dtype, rows, cols);
    return pare_site_stats_add(c->be, *stats, x, rows);
}

static pare_status run(calibration *c, const pare_dataset *dataset, int64_t size)
{
    pare_status status = PARE_OK;
    pare_batch *batch = NULL;
    int64_t count = pare_dataset_count(dataset) < SAMPLES ? pare_dataset_count(dataset) : SAMPLES;
    PARE_TRY(pare_batch_create(dataset, size, &batch));
    pare_model_set_hook(c->qat->model, observe, c);
    for (int64_t first = 0; first < count; first += size) {
        int64_t n = count - first < size ? count - first : size;
        PARE_TRY_DONE(pare_dataset_fill(dataset, first, n, batch));
        PARE_TRY_DONE(pare_model_forward(c->qat->model, batch, false, NULL));
    }
done:
    pare_model_set_hook(c->qat->model, NULL, NULL);
    pare_batch_free(&batch);
    return status;
}

/* As it is written. */
static float stored(float scale, pare_dtype dtype)
{
    if (dtype == PARE_F16)
        return pare__f16_to_f32(pare__f32_to_f16(scale));
    return dtype == PARE_BF16 ? pare__bf16_to_f32(pare__f32_to_bf16(scale)) : scale;
}

static pare_status set_scales(calibration *c)
{
    for (size_t i = 0; i < c->qat->count; i++) {
        const pare__qat_layer *l = &c->qat->layers[i];
        float range = 0;
        if (!needs_scale(c->qat, l))
            continue;
        if (c->stats[i]) {
            PARE_TRY(pare_site_stats_finish(c->be, c->stats[i]));
            PARE_TRY(pare_site_stats_range(c->be, c->stats[i], PARE_RANGE_MSE, 0, &range));
        }
        float scale = stored(range / 127.5f, l->step_dtype);
        pare_model_param(c->qat->model, l->param)->act_scale =
            scale > 0 && isfinite(scale) ? scale : 1;
    }
    return PARE_OK;
}

pare_status pare_qat_calibrate(pare_qat *qat, pare_backend *be, const pare_dataset *dataset,
                               int64_t batch)
{
    pare_status status = PARE_OK;
    calibration c = {.qat = qat, .be = be};
    bool any = false;
    for (size_t i = 0; i < qat->count; i++)
        any |= needs_scale(qat, &qat->layers[i]);
    if (!any)
        return PARE_OK;
    PARE_REQUIRE(dataset && batch > 0, PARE_ERR_ARGUMENT,
                 "scales of inputs (a8s) are found from data: give some");
    PARE_TRY(pare__calloc(qat->count, sizeof(pare_site_stats *), &c.stats));
    pare__qat_round_inputs(qat, false);
    PARE_TRY_DONE(run(&c, dataset, batch));
    PARE_TRY_DONE(set_scales(&c));
done:
    pare__qat_round_inputs(qat, true);
    for (size_t i = 0; i < qat->count; i++)
        pare_site_stats_free(be, &c.stats[i]);
    free(c.stats);
    return status;
}
