/* metrics.c - what a batch adds to each metric.
 *
 * Rows of logits are made some at a time, of one model or of both, and never kept. A row counts if
 * it has a label; where the data has none (divergence alone) every row does. What ops say of the
 * rows comes to the host once for each of these pieces. All sums over rows are f64, in order.
 */
#include "measure.h"

#include "pare/ops.h"

#include <math.h>

/* Parts of the arena, each whole cache lines. */
static void *take(char *arena, int64_t *at, int64_t count, int64_t size)
{
    void *part = arena ? arena + *at : NULL;
    *at += (count * size + 63) / 64 * 64;
    return part;
}

static pare__row_results take_results(const pare__measure *m, char *arena, int64_t *at)
{
    pare__row_results r = {0};
    unsigned metrics = m->options->metrics;
    if (metrics & PARE__LABEL_METRICS) {
        r.loss = take(arena, at, m->rows, 4);
        r.rank = take(arena, at, m->rows, 4);
    }
    if (metrics & PARE_METRIC_KLD) {
        r.kl = take(arena, at, m->rows, 4);
        r.same = take(arena, at, m->rows, 1);
    }
    return r;
}

/* Sizes of the arenas for batches of so many rows, and the parts of those that are there. */
static void lay_out(pare__measure *m, const pare_batch *largest)
{
    int64_t at = 0;
    unsigned metrics = m->options->metrics;
    m->rows = pare_logits_at_once(m->facts, pare_logits_rows(m->facts, largest));
    int64_t logits = m->facts->output == PARE_OUTPUT_TOKENS ? m->rows * m->facts->classes : 0;
    m->far = m->near = take_results(m, m->arena, &at);
    m->result_bytes = at;
    if (metrics & PARE__LOGIT_METRICS)
        m->logits = take(m->arena, &at, logits, 4);
    if (metrics & PARE_METRIC_KLD)
        m->against = take(m->arena, &at, logits, 4);
    m->arena_bytes = at;
    if (pare_backend_is_host(m->options->be))
        return;
    at = 0;
    m->near = take_results(m, m->host, &at);
    int64_t outputs = largest->size * m->facts->classes;
    if (m->options->outputs || metrics & PARE_METRIC_COSINE)
        m->output = take(m->host, &at, outputs, 4);
    if (metrics & PARE_METRIC_COSINE)
        m->other = take(m->host, &at, outputs, 4);
    m->host_bytes = at;
}

pare_footprint pare__measure_bytes(const pare_eval_options *options, const pare_model_shape *shape)
{
    pare__measure m = {.options = options, .facts = pare_model_facts_of(options->model)};
    lay_out(&m, &(pare_batch){.size = shape->batch, .length = shape->length});
    return (pare_footprint){.backend = m.arena_bytes, .host = m.host_bytes};
}

pare_status pare__measure_create(const pare_eval_options *options, pare__measure *measure)
{
    pare_batch largest = {.size = options->batch, .length = pare_dataset_length(options->dataset)};
    *measure = (pare__measure){
        .options = options, .facts = pare_model_facts_of(options->model), .cosine_min = INFINITY};
    lay_out(measure, &largest);
    PARE_TRY(pare_backend_alloc(options->be, measure->arena_bytes, &measure->arena));
    PARE_TRY(pare_backend_host_alloc(options->be, measure->host_bytes, &measure->host));
    lay_out(measure, &largest);
    return PARE_OK;
}

void pare__measure_free(pare__measure *m)
{
    if (!m->options)
        return;
    pare_backend_host_release(m->options->be, m->host, m->host_bytes);
    pare_backend_release(m->options->be, m->arena, m->arena_bytes);
    m->arena = m->host = NULL;
}

/* ---- rows of logits -------------------------------------------------------------------------- */

static pare_status of_labels(pare__measure *m, int64_t first, pare_tensor logits)
{
    const pare_batch *batch = pare_model_batch(m->options->model);
    int64_t count = logits.shape[0];
    pare_tensor labels = pare_vector((void *)(uintptr_t)(batch->labels + first), PARE_I32, count);
    PARE_TRY(pare_cross_entropy(
        m->options->be,
        &(pare_cross_entropy_args){.x = logits,
                                   .labels = labels,
                                   .loss = pare_vector(m->far.loss, PARE_F32, count),
                                   .rank = pare_vector(m->far.rank, PARE_I32, count)}));
    return PARE_OK;
}

static pare_status of_against(pare__measure *m, int64_t first, pare_tensor logits)
{
    const pare_eval_options *o = m->options;
    int64_t count = logits.shape[0];
    pare_tensor teacher;
    PARE_TRY(pare_logits_of(o->against, o->be, first, count, NULL, m->against, &teacher));
    PARE_TRY(pare_kl(o->be, &(pare_kl_args){.teacher = teacher,
                                            .x = logits,
                                            .kl = pare_vector(m->far.kl, PARE_F32, count),
                                            .same = pare_vector(m->far.same, PARE_U8, count)}));
    return PARE_OK;
}

/* Adds what the host sees of so many rows. */
static void add_rows(pare__measure *m, const int32_t *labels, int64_t count)
{
    const pare__row_results *r = &m->near;
    for (int64_t i = 0; i < count; i++) {
        if (labels && labels[i] < 0)
            continue;
        if (r->loss) {
            m->nll += (double)r->loss[i];
            m->top1 += r->rank[i] < 1;
            m->top5 += r->rank[i] < 5;
        }
        if (r->kl) {
            m->kld += (double)r->kl[i];
            m->agreed += r->same[i] != 0;
        }
    }
}

static int64_t counted_rows(const int32_t *labels, int64_t count)
{
    int64_t counted = 0;
    for (int64_t i = 0; i < count; i++)
        counted += !labels || labels[i] >= 0;
    return counted;
}

static pare_status of_logits(pare__measure *m, const pare_batch *batch, int64_t first,
                             int64_t count)
{
    const pare_eval_options *o = m->options;
    const int32_t *labels = batch->labels ? batch->labels + first : NULL;
    int64_t counted = counted_rows(labels, count);
    pare_tensor logits;
    if (counted == 0)
        return PARE_OK;
    m->counted += counted;
    PARE_TRY(pare_logits_of(o->model, o->be, first, count, NULL, m->logits, &logits));
    if (o->metrics & PARE__LABEL_METRICS)
        PARE_TRY(of_labels(m, first, logits));
    if (o->metrics & PARE_METRIC_KLD)
        PARE_TRY(of_against(m, first, logits));
    if (m->host)
        PARE_TRY(pare_backend_download(o->be, m->host, m->arena, m->result_bytes));
    add_rows(m, labels, count);
    return PARE_OK;
}

/* ---- rows of outputs ------------------------------------------------------------------------- */

/* Two rows of zeros look alike; a row of zeros and another one do not. */
static double cosine(const float *a, const float *b, int64_t n)
{
    double aa = 0, bb = 0, ab = 0;
    for (int64_t i = 0; i < n; i++) {
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
        ab += (double)a[i] * (double)b[i];
    }
    if (aa <= 0 || bb <= 0)
        return aa <= 0 && bb <= 0 ? 1 : 0;
    return ab / (sqrt(aa) * sqrt(bb));
}

/* The output of a model's last forward as the host sees it: itself, or in `room`. */
static pare_status see_output(const pare__measure *m, const pare_model *model, float *room,
                              const float **output)
{
    pare_tensor y = pare_model_output(model);
    if (room)
        PARE_TRY(pare_backend_download(m->options->be, room, y.data, pare_tensor_count(&y) * 4));
    *output = room ? room : y.data;
    return PARE_OK;
}

static pare_status of_outputs(pare__measure *m, const float *output, int64_t count)
{
    const float *other;
    int64_t D = m->facts->classes;
    PARE_TRY(see_output(m, m->options->against, m->other, &other));
    for (int64_t i = 0; i < count; i++) {
        double c = cosine(output + i * D, other + i * D, D);
        m->cosine += c;
        m->cosine_min = c < m->cosine_min ? c : m->cosine_min;
    }
    return PARE_OK;
}

pare_status pare__measure_batch(pare__measure *m, const pare_batch *batch, const float **output)
{
    const pare_eval_options *o = m->options;
    m->samples += batch->size;
    if (o->outputs || o->metrics & PARE_METRIC_COSINE)
        PARE_TRY(see_output(m, o->model, m->output, output));
    if (o->metrics & PARE_METRIC_COSINE)
        PARE_TRY(of_outputs(m, *output, batch->size));
    if (!(o->metrics & PARE__LOGIT_METRICS))
        return PARE_OK;
    int64_t rows = pare_logits_rows(m->facts, batch);
    for (int64_t first = 0; first < rows; first += m->rows)
        PARE_TRY(of_logits(m, batch, first, rows - first < m->rows ? rows - first : m->rows));
    return PARE_OK;
}
