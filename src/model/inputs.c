/* inputs.c - a batch where the backend sees it: on the CPU the batch itself, else a copy.
 *
 * The parts that a batch has are laid out one behind the other, anew for every batch, in host
 * memory that copies fast; then all go over in one copy. */
#include "node.h"

#include <math.h>
#include <string.h>

#define ALIGN 256

static int64_t aligned(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Rows that have a label each: next tokens, or classes. */
static int64_t label_rows(const pare_model *m, int64_t batch, int64_t length)
{
    return m->facts.output == PARE_OUTPUT_TOKENS ? batch * length : batch;
}

static int64_t pixels(const pare_model *m)
{
    return m->facts.height * m->facts.width * m->facts.channels;
}

int64_t pare__inputs_bytes(const pare_model *m, const pare_model_shape *shape)
{
    int64_t B = shape->batch, T = shape->length;
    int64_t keys = m->facts.tokens ? aligned(B * T) : 0;
    int64_t samples = m->hidden.rank > 0 ? 0
                      : m->facts.tokens  ? aligned(B * T * 4)
                                         : aligned(B * pixels(m) * (int64_t)sizeof(float));
    return samples + keys + aligned(label_rows(m, B, T) * 4) + 2 * aligned(B * 4);
}

pare_status pare__inputs_prepare(pare_model *m)
{
    if (pare_backend_is_host(m->be))
        return PARE_OK;
    m->inputs_bytes = pare__inputs_bytes(m, &m->shape);
    PARE_TRY(pare_backend_alloc(m->be, m->inputs_bytes, &m->inputs));
    PARE_TRY(pare_backend_host_alloc(m->be, m->inputs_bytes, &m->inputs_host));
    return PARE_OK;
}

void pare__inputs_free(pare_model *m)
{
    pare_backend_host_release(m->be, m->inputs_host, m->inputs_bytes);
    pare_backend_release(m->be, m->inputs, m->inputs_bytes);
    m->inputs = m->inputs_host = NULL;
    m->batch = (pare_batch){0};
}

/* A part takes its place behind those before it; where it will be. NULL stays absent. */
static const void *pack(pare_model *m, int64_t *used, const void *part, int64_t bytes)
{
    if (!part)
        return NULL;
    const char *place = m->inputs + *used;
    memcpy(m->inputs_host + *used, part, (size_t)bytes);
    *used += aligned(bytes);
    return place;
}

pare_status pare__inputs_take(pare_model *m, const pare_batch *batch)
{
    m->batch = *batch;
    if (!m->inputs)
        return PARE_OK;
    int64_t used = 0, B = batch->size, T = m->facts.tokens ? batch->length : 0;
    bool samples = m->hidden.rank == 0;
    const void *ids = samples && m->facts.tokens ? batch->ids : NULL;
    const void *images = samples && !m->facts.tokens ? batch->images : NULL;
    m->batch.ids = pack(m, &used, ids, B * T * 4);
    m->batch.keys = pack(m, &used, m->facts.tokens ? batch->keys : NULL, B * T);
    m->batch.images = pack(m, &used, images, B * pixels(m) * (int64_t)sizeof(float));
    m->batch.labels = pack(m, &used, batch->labels, label_rows(m, B, T) * 4);
    m->batch.labels2 = pack(m, &used, batch->labels2, B * 4);
    m->batch.mix = pack(m, &used, batch->mix, B * 4);
    PARE_TRY(pare_backend_upload(m->be, m->inputs, m->inputs_host, used));
    return PARE_OK;
}

const pare_batch *pare_model_batch(const pare_model *model)
{
    return &model->batch;
}

/* A scale or deviation of 0 counts as 1. */
static bool same_factor(float a, float b)
{
    return !(fabsf((a == 0 ? 1 : a) - (b == 0 ? 1 : b)) > 0);
}

bool pare_model_same_pixels(const pare_model_facts *a, const pare_model_facts *b)
{
    bool same = !a->tokens && !b->tokens && a->height == b->height && a->width == b->width &&
                a->channels == b->channels && same_factor(a->scale, b->scale);
    for (int64_t c = 0; same && c < a->channels; c++)
        same = !(fabsf(a->mean[c] - b->mean[c]) > 0) && same_factor(a->std[c], b->std[c]);
    return same;
}

void pare_model_take_pixels(pare_model *model, const pare_model_facts *from)
{
    model->facts.scale = from->scale;
    memcpy(model->facts.mean, from->mean, sizeof from->mean);
    memcpy(model->facts.std, from->std, sizeof from->std);
}
