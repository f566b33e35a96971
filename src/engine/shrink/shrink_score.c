/* shrink_score.c - how much each unit is worth: from the weights alone (magnitude, random), or with
 * calibration data.
 *
 * Wanda: the data goes forward once; of every product that reads units the squares of its inputs
 * are summed (on the host, in f64, batch by batch). Taylor: forward and backward with the
 * cross-entropy; batch norms use their running statistics. Whole layers: the data
 * goes forward and a layer's score is 1 − the mean cosine of what goes into it and what comes out
 * (Men 2024): the layers that turn their input least go.
 */
#include "shrink.h"

#include "base/half.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

#define SAMPLES 128                /* where nothing is said */
#define AHEAD 2                    /* batches made while the model works on one */
#define PIECE ((int64_t)256 << 10) /* values of a tensor looked at at once, at least one row */
/* What oneDNN takes for products of gradients, measured. */
#define GRADIENT_BYTES ((int64_t)3 << 20)

typedef enum way { MAGNITUDE, RANDOM, INPUTS, GRADIENTS, TURN } way;

/* Σ x² of what a product reads. */
typedef struct product {
    int64_t param;
    double *inputs; /* [features]; NULL: of no interest */
} product;

typedef struct watch {
    pare__shrink *s;
    way how;
    const pare_batch *batch;
    product *products;      /* [nodes] */
    float *values, *before; /* host copies: a value at hand; what went into a layer */
    size_t values_room, before_room;
    int64_t first_layer; /* unit */
    int64_t before_count;
    double *cosines; /* [units]: sums over rows, */
    int64_t *rows;   /* and how many */
    void *scratch, *results;
    int64_t scratch_bytes, results_bytes;
} watch;

/* ---- which way ------------------------------------------------------------------------------- */

static pare_status way_of(const pare__shrink *s, way *how)
{
    const pare_prune_method *m = s->step->method;
    bool data = s->recipe->step_count > 0 && s->recipe->steps[0].calibration.path;
    *how = MAGNITUDE;
    if (strcmp(m->name, "random") == 0)
        *how = RANDOM;
    else if (data && s->kind == PARE_UNIT_LAYER)
        *how = TURN;
    else if (m->needs == PARE_STAT_COLUMNS)
        *how = INPUTS;
    else if (m->needs == PARE_STAT_GRADIENT && !m->by_sample)
        *how = GRADIENTS;
    else
        PARE_REQUIRE(m->needs == 0, PARE_ERR_UNSUPPORTED,
                     "%s goes by single weights; whole units are pruned by magnitude, random, "
                     "wanda or taylor",
                     m->name);
    PARE_REQUIRE(*how < INPUTS || data, PARE_ERR_ARGUMENT,
                 "%s needs calibration data: give --data, or prune by magnitude", m->name);
    return PARE_OK;
}

/* ---- data ------------------------------------------------------------------------------------ */

static pare_status complete(pare__shrink *s, const pare_calibration *c, bool gradients)
{
    const pare_data_options asked = {.path = c->path,
                                     .labels = c->labels,
                                     .seq_len = c->seq_len,
                                     .pad_id = c->pad_id,
                                     .bos_id = -1,
                                     .skip = c->skip,
                                     .samples = c->samples ? c->samples : SAMPLES,
                                     .at_most = !c->samples,
                                     .draw = c->shuffle,
                                     .seed = s->recipe->seed};
    uint64_t digest[2];
    s->data = pare__complete_data(&asked, s->subject.model);
    PARE_TRY(pare_dataset_open(&s->data, &s->dataset));
    pare_dataset_digest(s->dataset, digest);
    pare__hex128(digest, s->data_digest);
    PARE_REQUIRE(!gradients || pare_dataset_labelled(s->dataset), PARE_ERR_ARGUMENT,
                 "%s has no labels, and gradients are those of a loss: give the labels of the "
                 "calibration data, or prune by a method without gradients",
                 c->path);
    int64_t batch = pare__default_batch(c->batch, s->subject.model, s->dataset);
    int64_t samples = pare_dataset_count(s->dataset);
    s->shape = (pare_model_shape){.batch = batch < samples ? batch : samples,
                                  .length = pare_dataset_length(s->dataset),
                                  .training = gradients,
                                  .frozen_norms = gradients,
                                  .compute = c->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    return PARE_OK;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Values on the host as F32: of whole layers what goes in and what comes out; else the largest that
 * a product may read: what the model gives in the end is none. */
static int64_t copied_bytes(const pare__shrink *s, way how, const pare_tensor *outputs)
{
    int64_t most[2] = {0}, first, span[2], nodes = pare_model_node_count(s->subject.model);
    for (int64_t n = 0; how == INPUTS && n + 1 < nodes; n++)
        most[0] = greater(most[0], pare_tensor_count(&outputs[n]));
    for (int64_t u = 0; how == TURN && u < pare_couple_unit_count(s->couple); u++)
        for (int i = 0; pare_couple_span(s->couple, u, &first, &span[0], &span[1]) && i < 2; i++)
            if (span[i] >= 0)
                most[i] = greater(most[i], pare_tensor_count(&outputs[span[i]]));
    return (most[0] + most[1]) * (int64_t)sizeof(float);
}

static pare_status host_bytes(const pare__shrink *s, way how, int64_t *bytes)
{
    pare_tensor *outputs = NULL;
    size_t nodes = (size_t)pare_model_node_count(s->subject.model);
    PARE_TRY(pare__calloc(nodes, sizeof *outputs, &outputs));
    pare_status status = pare_model_outputs(s->subject.model, &s->shape, outputs);
    if (status == PARE_OK)
        *bytes = copied_bytes(s, how, outputs);
    free(outputs);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__shrink_open_data(pare__shrink *s)
{
    way how;
    const pare_loss *loss = &pare_loss_cross_entropy;
    int64_t copies = 0;
    PARE_TRY(way_of(s, &how));
    if (how < INPUTS)
        return PARE_OK;
    PARE_TRY(complete(s, &s->recipe->steps[0].calibration, how == GRADIENTS));
    PARE_TRY(pare_model_predict(s->subject.model, &s->shape, &s->need.model));
    s->need.model.masks = 0;
    if (how == GRADIENTS) {
        s->need.beside.backend += loss->scratch(NULL, s->subject.model, &s->shape);
        copies = s->bench.device.cuda ? loss->results(NULL, s->subject.model, &s->shape)
                                      : GRADIENT_BYTES;
    } else {
        PARE_TRY(host_bytes(s, how, &copies));
    }
    s->need.beside.host += AHEAD * pare_batch_bytes(s->dataset, s->shape.batch) + copies;
    double batches = (double)pare_dataset_count(s->dataset) / (double)s->shape.batch;
    s->need.flops = batches * s->need.model.flops * (how == GRADIENTS ? 3 : 1);
    return PARE_OK;
}

/* ---- watching -------------------------------------------------------------------------------- */

/* A value on the host as F32. */
static pare_status fetch(watch *w, const pare_tensor *t, float **values, size_t *room)
{
    int64_t n = pare_tensor_count(t);
    PARE_TRY(pare__grow(values, room, (size_t)n, sizeof **values));
    if (t->dtype == PARE_F32)
        return pare_backend_download(w->s->bench.be, *values, t->data, n * 4);
    uint16_t *half = (uint16_t *)(void *)*values;
    PARE_TRY(pare_backend_download(w->s->bench.be, half, t->data, n * 2));
    for (int64_t i = n - 1; i >= 0; i--) { /* from the end: both lie in one place */
        float x = pare__bf16_to_f32(half[i]);
        memcpy(*values + i, &x, sizeof x);
    }
    return PARE_OK;
}

/* Whether a row of a value is of a token that counts. */
static bool counts(const watch *w, int64_t row, int64_t rows)
{
    const pare_batch *b = w->batch;
    return !b->keys || rows != b->size * b->length || b->keys[row];
}

static pare_status see_inputs(watch *w, const product *p, const pare_tensor *x)
{
    int64_t C = x->shape[x->rank - 1], rows = C > 0 ? pare_tensor_count(x) / C : 0;
    PARE_TRY(fetch(w, x, &w->values, &w->values_room));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < C && counts(w, r, rows); c++)
            p->inputs[c] += (double)w->values[r * C + c] * (double)w->values[r * C + c];
    return PARE_OK;
}

/* Adds the cosines of the rows of what went into a layer and what came out. */
static void see_turn(watch *w, int64_t unit, int64_t C, int64_t count)
{
    int64_t rows = C > 0 ? count / C : 0;
    for (int64_t r = 0; r < rows && count == w->before_count; r++) {
        double xy = 0, xx = 0, yy = 0;
        for (int64_t c = r * C; c < (r + 1) * C; c++) {
            xy += (double)w->before[c] * (double)w->values[c];
            xx += (double)w->before[c] * (double)w->before[c];
            yy += (double)w->values[c] * (double)w->values[c];
        }
        if (!counts(w, r, rows))
            continue;
        w->cosines[unit] += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : xx == yy;
        w->rows[unit]++;
    }
}

/* First what ends here is looked at, then what begins here kept: of blocks in a row the same value.
 */
static pare_status see_layers(watch *w, int64_t node, const pare_tensor *y)
{
    pare_couple *c = w->s->couple;
    int64_t first, last, before;
    bool keep = false;
    for (int64_t u = w->first_layer; u < pare_couple_unit_count(c); u++) {
        if (pare_couple_stays(c, u) || !pare_couple_span(c, u, &first, &last, &before))
            continue;
        keep = keep || node == before;
        if (node != last)
            continue;
        PARE_TRY(fetch(w, y, &w->values, &w->values_room));
        see_turn(w, u, y->shape[y->rank - 1], pare_tensor_count(y));
    }
    if (keep) {
        PARE_TRY(fetch(w, y, &w->before, &w->before_room));
        w->before_count = pare_tensor_count(y);
    }
    return PARE_OK;
}

static pare_status look(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    watch *w = user;
    if (backward)
        return PARE_OK;
    if (w->how == TURN)
        return see_layers(w, node, &view->output);
    if (w->products[node].inputs && view->input[0].data)
        return see_inputs(w, &w->products[node], &view->input[0]);
    return PARE_OK;
}

/* Products whose inputs are units of the kind that goes. */
static pare_status watch_products(watch *w)
{
    pare_model *model = w->s->subject.model;
    int64_t nodes = pare_model_node_count(model);
    PARE_TRY(pare__calloc((size_t)nodes, sizeof *w->products, &w->products));
    for (int64_t n = 0; n < nodes; n++) {
        pare_node_view view = pare_model_node(model, n);
        bool linear = strcmp(view.kind, "linear") == 0;
        if (!linear && strcmp(view.kind, "conv") != 0)
            continue;
        const pare_param *p = pare_model_param(model, view.param[0]);
        if (!pare_couple_axis(w->s->couple, view.param[0], p->transposed ? 0 : 1))
            continue;
        w->products[n].param = view.param[0];
        PARE_TRY(pare__calloc((size_t)p->value.shape[1], sizeof(double), &w->products[n].inputs));
    }
    return PARE_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static pare_status see_batch(void *user, int64_t index, const pare_batch *batch)
{
    watch *w = user;
    pare_model *model = w->s->subject.model;
    pare_loss_args loss = {.model = model,
                           .batch = batch,
                           .be = w->s->bench.be,
                           .grad_scale = 1,
                           .first = true,
                           .training = true,
                           .scratch = w->scratch,
                           .results = w->results,
                           .scratch_size = w->scratch_bytes};
    w->batch = batch;
    PARE_TRY(pare_model_forward(model, batch, w->how == GRADIENTS, NULL));
    if (w->how != GRADIENTS)
        return PARE_OK;
    PARE_TRY(pare_loss_cross_entropy.run(&loss));
    PARE_REQUIRE(isfinite(loss.loss), PARE_ERR_NUMERIC,
                 "the loss is NaN or infinite from calibration sample %lld on: no gradients come "
                 "of it",
                 (long long)(index * w->s->shape.batch));
    PARE_TRY(pare_model_backward(model));
    return PARE_OK;
}

static pare_status prepare(watch *w)
{
    pare__shrink *s = w->s;
    pare_model *model = s->subject.model;
    size_t units = (size_t)pare_couple_unit_count(s->couple);
    PARE_TRY(pare_model_prepare(model, s->bench.be, &s->shape));
    PARE_TRY(pare_model_load(model, s->subject.store, false));
    if (w->how == GRADIENTS) {
        const pare_loss *loss = &pare_loss_cross_entropy;
        PARE_TRY(pare_model_clear_grads(model));
        w->scratch_bytes = loss->scratch(NULL, model, &s->shape);
        w->results_bytes = s->bench.device.cuda ? loss->results(NULL, model, &s->shape) : 0;
        PARE_TRY(pare_backend_alloc(s->bench.be, w->scratch_bytes, &w->scratch));
        PARE_TRY(pare_backend_host_alloc(s->bench.be, w->results_bytes, &w->results));
        return PARE_OK;
    }
    if (w->how == INPUTS)
        PARE_TRY(watch_products(w));
    int64_t first, last, before;
    while (w->first_layer < (int64_t)units &&
           !pare_couple_span(s->couple, w->first_layer, &first, &last, &before))
        w->first_layer++;
    PARE_TRY(pare__calloc(units, sizeof *w->cosines, &w->cosines));
    PARE_TRY(pare__calloc(units, sizeof *w->rows, &w->rows));
    pare_model_set_hook(model, look, w);
    return PARE_OK;
}

static pare_status run_data(watch *w)
{
    pare__shrink *s = w->s;
    PARE_TRY(prepare(w));
    const pare_feed_options feed = {.dataset = s->dataset,
                                    .batch = s->shape.batch,
                                    .last = pare_dataset_count(s->dataset),
                                    .ahead = AHEAD};
    PARE_TRY(pare_feed_run(s->bench.sched, "score units", &feed, see_batch, w));
    return PARE_OK;
}

static void stop(watch *w)
{
    pare_backend *be = w->s->bench.be;
    int64_t nodes = pare_model_node_count(w->s->subject.model);
    pare_model_set_hook(w->s->subject.model, NULL, NULL);
    for (int64_t n = 0; w->products && n < nodes; n++)
        free(w->products[n].inputs);
    pare_backend_release(be, w->scratch, w->scratch_bytes);
    pare_backend_host_release(be, w->results, w->results_bytes);
    free(w->rows);
    free(w->cosines);
    free(w->before);
    free(w->values);
    free(w->products);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Rows of a parameter, in pieces: values and gradients. */
typedef struct pieces {
    char *raw, *scratch;
    float *w, *grad;
    int64_t rows, raw_bytes, scratch_bytes, count;
} pieces;

static void size_pieces(const pare__shrink *s, int64_t source, pieces *p)
{
    const pare_entry *e = pare_store_entry(s->subject.store, source);
    int64_t align = pare__lcm(e->piece_rows, pare_entry_align(e));
    int64_t fit = e->cols > 0 ? PIECE / e->cols / align * align : e->rows;
    p->rows = fit > align ? fit : align;
    p->rows = p->rows < e->rows ? p->rows : e->rows;
    p->count = p->rows * e->cols;
    p->raw_bytes = (p->count * pare_dtype_bits(e->dtype) + 7) / 8;
    p->scratch_bytes = pare_store_scratch(s->subject.store, source, p->rows);
}

int64_t pare__shrink_score_bytes(const pare__shrink *s)
{
    int64_t most = 0;
    way how = MAGNITUDE;
    (void)way_of(s, &how); /* what it refuses was refused before */
    for (int64_t i = 0; i < pare_store_count(s->subject.store); i++) {
        pieces p;
        if (s->param[i] < 0)
            continue;
        size_pieces(s, i, &p);
        most = greater(most, p.raw_bytes + p.scratch_bytes + (how == GRADIENTS ? 8 : 4) * p.count);
    }
    return most;
}

static pare_status open_pieces(const pare__shrink *s, int64_t source, pieces *p)
{
    size_pieces(s, source, p);
    PARE_TRY(pare__pages((size_t)p->raw_bytes, &p->raw));
    PARE_TRY(pare__pages((size_t)p->scratch_bytes, &p->scratch));
    PARE_TRY(pare__pages((size_t)p->count * 4, &p->w));
    PARE_TRY(pare__pages((size_t)p->count * 4, &p->grad));
    return PARE_OK;
}

static void close_pieces(pieces *p)
{
    pare__pages_free(p->raw, (size_t)p->raw_bytes);
    pare__pages_free(p->scratch, (size_t)p->scratch_bytes);
    pare__pages_free(p->w, (size_t)p->count * 4);
    pare__pages_free(p->grad, (size_t)p->count * 4);
}

/* Scores one parameter; inputs: of a product that reads it, or NULL. */
static pare_status score_param(pare__shrink *s, int64_t param, bool gradients, const double *inputs)
{
    pare_status status = PARE_OK;
    pieces p = {0};
    pare_backend *host = pare_backend_host(s->bench.be);
    const pare_param *own = pare_model_param(s->subject.model, param);
    int64_t source = pare_store_find(s->subject.store, own->name);
    const pare_entry *e = pare_store_entry(s->subject.store, source);
    PARE_TRY_DONE(open_pieces(s, source, &p));
    for (int64_t first = 0, rows; first < e->rows && e->cols > 0; first += rows) {
        rows = e->rows - first < p.rows ? e->rows - first : p.rows;
        PARE_TRY_DONE(pare__shrink_stopped(s));
        PARE_TRY_DONE(
            pare_store_read_values(s->subject.store, host, source, first, rows, p.raw, p.scratch));
        s->read_bytes += rows * e->cols * pare_dtype_bits(e->dtype) / 8;
        PARE_TRY_DONE(
            pare_cast(host, &(pare_cast_args){.x = pare_vector(p.raw, e->dtype, rows * e->cols),
                                              .y = pare_vector(p.w, PARE_F32, rows * e->cols)}));
        if (gradients)
            PARE_TRY_DONE(
                pare_model_read_rows_of(s->subject.model, param, &own->grad, first, rows, p.grad));
        pare_shrink_score(s->couple,
                          &(pare_shrink_rows){.param = param,
                                              .first = first,
                                              .count = rows,
                                              .w = p.w,
                                              .grad = gradients ? p.grad : NULL,
                                              .inputs = inputs,
                                              .input_axis = own->transposed ? 0 : 1},
                          s->score);
    }
done:
    close_pieces(&p);
    return status;
}

static pare_status score_products(watch *w)
{
    int64_t nodes = pare_model_node_count(w->s->subject.model);
    for (int64_t n = 0; n < nodes; n++)
        if (w->products[n].inputs)
            PARE_TRY(score_param(w->s, w->products[n].param, false, w->products[n].inputs));
    return PARE_OK;
}

/* Layers differ in size: their score is a mean. */
static pare_status score_params(pare__shrink *s, bool gradients)
{
    pare_status status = PARE_OK;
    double *sizes = NULL;
    int64_t units = pare_couple_unit_count(s->couple);
    PARE_TRY(pare__calloc((size_t)units, sizeof *sizes, &sizes));
    for (int64_t i = 0; i < pare_model_param_count(s->subject.model); i++) {
        const pare_param *p = pare_model_param(s->subject.model, i);
        int64_t layer = pare_couple_layer(s->couple, i);
        if (p->buffer)
            continue;
        PARE_TRY_DONE(score_param(s, i, gradients, NULL));
        if (layer >= 0)
            sizes[layer] += (double)pare_tensor_count(&p->value);
    }
    for (int64_t u = 0; u < units; u++)
        s->score[u] /= sizes[u] > 0 ? sizes[u] : 1;
done:
    free(sizes);
    return status;
}

static void draw(pare__shrink *s)
{
    for (int64_t u = 0; u < pare_couple_unit_count(s->couple); u++) {
        pare__rng rng = pare__rng_make(s->recipe->seed, UINT64_C(0x73687269), (uint64_t)u);
        s->score[u] = pare__rng_double(&rng);
    }
}

static pare_status take_scores(watch *w)
{
    pare__shrink *s = w->s;
    if (w->how == INPUTS)
        return score_products(w);
    if (w->how == GRADIENTS)
        return score_params(s, true);
    for (int64_t u = 0; u < pare_couple_unit_count(s->couple); u++)
        s->score[u] = w->rows[u] > 0 ? 1 - w->cosines[u] / (double)w->rows[u] : 0;
    return PARE_OK;
}

pare_status pare__shrink_score(pare__shrink *s)
{
    pare_status status = PARE_OK;
    watch w = {.s = s};
    PARE_TRY(way_of(s, &w.how));
    if (w.how == RANDOM)
        draw(s);
    else if (w.how == MAGNITUDE)
        PARE_TRY(score_params(s, false));
    else {
        PARE_TRY_DONE(run_data(&w));
        PARE_TRY_DONE(take_scores(&w));
    }
done:
    if (w.how >= INPUTS)
        stop(&w);
    return status;
}
