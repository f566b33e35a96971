/* metrics.c - what a batch adds to each metric.
 *
 * Rows of logits are made some at a time, of one model or of both, and never kept. A row counts if
 * it has a label; where the data has none (divergence alone) every row does. All sums over rows are
 * f64, in order.
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

static int64_t lay_out(pare__measure *m, int64_t rows, char *arena)
{
    int64_t at = 0;
    unsigned metrics = m->options->metrics;
    m->rows = pare__logit_rows(m->facts, rows);
    int64_t logits = m->facts->output == PARE_OUTPUT_TOKENS ? m->rows * m->facts->classes : 0;
    if (metrics & PARE__LABEL_METRICS) {
        m->loss = take(arena, &at, m->rows, 4);
        m->rank = take(arena, &at, m->rows, 4);
    }
    if (metrics & PARE__LOGIT_METRICS)
        m->logits = take(arena, &at, logits, 4);
    if (metrics & PARE_METRIC_KLD) {
        m->kl = take(arena, &at, m->rows, 4);
        m->same = take(arena, &at, m->rows, 1);
        m->against = take(arena, &at, logits, 4);
    }
    return at;
}

int64_t pare__measure_bytes(const pare_eval_options *options, const pare_model_shape *shape)
{
    pare__measure m = {.options = options, .facts = pare_model_facts_of(options->model)};
    pare_batch largest = {.size = shape->batch, .length = shape->length};
    return lay_out(&m, pare__output_rows(m.facts, &largest), NULL);
}

pare_status pare__measure_create(const pare_eval_options *options, pare__measure *measure)
{
    pare_batch largest = {.size = options->batch, .length = pare_dataset_length(options->dataset)};
    *measure = (pare__measure){
        .options = options, .facts = pare_model_facts_of(options->model), .cosine_min = INFINITY};
    int64_t rows = pare__output_rows(measure->facts, &largest);
    measure->arena_bytes = lay_out(measure, rows, NULL);
    PARE_TRY(pare__pages((size_t)measure->arena_bytes, &measure->arena));
    lay_out(measure, rows, measure->arena);
    return PARE_OK;
}

void pare__measure_free(pare__measure *measure)
{
    pare__pages_free(measure->arena, (size_t)measure->arena_bytes);
    measure->arena = NULL;
}

/* ---- rows of logits -------------------------------------------------------------------------- */

static pare_status of_labels(pare__measure *m, const int32_t *labels, pare_tensor logits)
{
    int64_t count = logits.shape[0];
    PARE_TRY(pare_cross_entropy(
        m->options->be, &(pare_cross_entropy_args){
                            .x = logits,
                            .labels = pare_vector((void *)(uintptr_t)labels, PARE_I32, count),
                            .loss = pare_vector(m->loss, PARE_F32, count),
                            .rank = pare_vector(m->rank, PARE_I32, count)}));
    for (int64_t i = 0; i < count; i++) {
        if (labels[i] < 0)
            continue;
        m->nll += (double)m->loss[i];
        m->top1 += m->rank[i] < 1;
        m->top5 += m->rank[i] < 5;
    }
    return PARE_OK;
}

static pare_status of_against(pare__measure *m, const int32_t *labels, int64_t first,
                              pare_tensor logits)
{
    const pare_eval_options *o = m->options;
    int64_t count = logits.shape[0];
    pare_tensor teacher;
    PARE_TRY(pare__logits(o->against, o->be, first, count, NULL, m->against, &teacher));
    PARE_TRY(pare_kl(o->be, &(pare_kl_args){.teacher = teacher,
                                            .x = logits,
                                            .kl = pare_vector(m->kl, PARE_F32, count),
                                            .same = pare_vector(m->same, PARE_U8, count)}));
    for (int64_t i = 0; i < count; i++) {
        if (labels && labels[i] < 0)
            continue;
        m->kld += (double)m->kl[i];
        m->agreed += m->same[i] != 0;
    }
    return PARE_OK;
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
    PARE_TRY(pare__logits(o->model, o->be, first, count, NULL, m->logits, &logits));
    if (o->metrics & PARE__LABEL_METRICS)
        PARE_TRY(of_labels(m, labels, logits));
    if (o->metrics & PARE_METRIC_KLD)
        PARE_TRY(of_against(m, labels, first, logits));
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

static void of_outputs(pare__measure *m, const pare_batch *batch)
{
    const float *a = pare_model_output(m->options->model).data;
    const float *b = pare_model_output(m->options->against).data;
    int64_t D = m->facts->classes;
    for (int64_t i = 0; i < batch->size; i++) {
        double c = cosine(a + i * D, b + i * D, D);
        m->cosine += c;
        m->cosine_min = c < m->cosine_min ? c : m->cosine_min;
    }
}

pare_status pare__measure_batch(pare__measure *m, const pare_batch *batch)
{
    m->samples += batch->size;
    if (m->options->metrics & PARE_METRIC_COSINE)
        of_outputs(m, batch);
    if (!(m->options->metrics & PARE__LOGIT_METRICS))
        return PARE_OK;
    int64_t rows = pare__output_rows(m->facts, batch);
    for (int64_t first = 0; first < rows; first += m->rows)
        PARE_TRY(of_logits(m, batch, first, rows - first < m->rows ? rows - first : m->rows));
    return PARE_OK;
}
