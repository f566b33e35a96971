/* shapes.c - who wants a gradient, what is fused, and the shape of every value. */
#include "node.h"

#include <string.h>

#define LARGEST ((int64_t)1 << 50) /* bytes of a value: nothing derived from it overflows */

/* ---- marks ----------------------------------------------------------------------------------- */

static bool learns_below(const pare_model *m, const pare__node *n)
{
    bool learns = false;
    for (int i = 0; i < n->params; i++)
        learns = learns || pare__learns(pare__param(m, n, i));
    for (int i = 0; i < n->inputs; i++)
        learns = learns || m->values[n->input[i]].has_grad;
    return learns && n->kind->backward;
}

static void mark_gradients(pare_model *m)
{
    for (size_t i = 0; i < m->node_count; i++)
        m->values[m->nodes[i].output].has_grad = learns_below(m, &m->nodes[i]);
    m->values[m->output].reached = true;
    for (size_t i = 0; i < m->tap_count; i++)
        m->values[m->taps[i]].reached = true;
    for (size_t i = m->node_count; i-- > 0;) {
        pare__node *n = &m->nodes[i];
        pare__value *y = &m->values[n->output];
        n->active = y->reached && y->has_grad;
        for (int k = 0; k < n->inputs && n->active; k++)
            m->values[n->input[k]].reached = true;
    }
    for (size_t i = 0; i < m->value_count; i++)
        m->values[i].has_grad = m->values[i].has_grad && m->values[i].reached;
    for (size_t i = 0; i < m->node_count; i++)
        for (int k = 0; k < m->nodes[i].inputs && m->nodes[i].active; k++)
            if (m->values[m->nodes[i].input[k]].has_grad)
                m->nodes[i].want_grad |= 1u << k;
    m->values[m->output].has_grad = true; /* a loss fills it, wanted or not */
}

/* A batch norm right behind a convolution does its work too. */
bool pare__fuses(const pare_model *m, int batch_norm)
{
    const pare__node *n = &m->nodes[batch_norm];
    const pare__value *x = &m->values[n->input[0]];
    return n->kind == &pare__node_batch_norm && x->producer >= 0 && x->consumers == 1 &&
           n->input[0] != m->output && !x->tapped && m->nodes[x->producer].kind == &pare__node_conv;
}

static void mark_fused(pare_model *m)
{
    for (int i = 0; i < (int)m->node_count; i++)
        if (pare__fuses(m, i)) {
            int conv = m->values[m->nodes[i].input[0]].producer;
            m->nodes[i].fused = conv;
            m->nodes[conv].skip = true;
        }
}

void pare__mark(pare_model *m)
{
    for (size_t i = 0; i < m->value_count; i++)
        m->values[i].reached = m->values[i].has_grad = false;
    for (size_t i = 0; i < m->node_count; i++) {
        pare__node *n = &m->nodes[i];
        n->active = n->skip = false;
        n->want_grad = n->add_grad = n->after_grad = 0;
        n->fused = -1;
    }
    if (m->shape.training)
        mark_gradients(m);
    else
        mark_fused(m);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

/* t takes over the shape and dtype, not the memory. */
static void take_shape(pare_tensor *t, const pare_tensor *like)
{
    void *data = t->data;
    *t = *like;
    t->data = data;
}

static pare_status shape_node(pare_model *m, pare__node *n)
{
    pare__value *v = &m->values[n->output];
    pare_tensor y = {0};
    memset(n->saved_bytes, 0, sizeof n->saved_bytes);
    memset(n->temp_bytes, 0, sizeof n->temp_bytes);
    n->traits = n->kind->traits;
    PARE_TRY(n->kind->shape(m, n, &y));
    int64_t count, bytes;
    char text[192];
    PARE_REQUIRE(pare_shape_size(y.dtype, y.rank, y.shape, &count, &bytes) == PARE_OK &&
                     count > 0 && bytes <= LARGEST,
                 PARE_ERR_ARGUMENT, "%s would make a value of the shape %s: take a smaller batch",
                 n->name, pare_shape_text(y.rank, y.shape, text, sizeof text));
    take_shape(&v->tensor, &y);
    take_shape(&v->grad, &y);
    for (int i = 0; i < n->inputs; i++)
        take_shape(&n->grad[i], &m->values[n->input[i]].tensor);
    return PARE_OK;
}

pare_tensor pare__hidden(const pare_model *m, int64_t batch, int64_t length)
{
    pare_tensor hidden = m->hidden;
    hidden.dtype = m->shape.compute;
    hidden.shape[0] = batch;
    if (m->facts.tokens && hidden.rank == 3) /* [B, T and what was put before it, D] */
        hidden.shape[1] += length - 1;
    return hidden;
}

static pare_tensor input_shape(const pare_model *m, int64_t batch, int64_t length)
{
    const pare_model_facts *f = &m->facts;
    if (m->hidden.rank > 0)
        return pare__hidden(m, batch, length);
    if (f->tokens)
        return pare_matrix(NULL, PARE_I32, batch, length);
    return (pare_tensor){
        .dtype = m->shape.compute, .rank = 4, .shape = {batch, f->height, f->width, f->channels}};
}

pare_status pare__shapes(pare_model *m, int64_t batch, int64_t length)
{
    pare_tensor input = input_shape(m, batch, length);
    int64_t bytes;
    m->batch_size = m->batch_length = 0; /* nothing whole until the end */
    PARE_REQUIRE(pare_shape_size(input.dtype, input.rank, input.shape, NULL, &bytes) == PARE_OK &&
                     bytes <= LARGEST,
                 PARE_ERR_ARGUMENT, "a batch of %lld is too large: take a smaller one",
                 (long long)batch);
    take_shape(&m->values[m->input].tensor, &input);
    for (size_t i = 0; i < m->node_count; i++)
        PARE_TRY(shape_node(m, &m->nodes[i]));
    if (m->output_f32.data || m->output_buffer >= 0) {
        take_shape(&m->output_f32, &m->values[m->output].tensor);
        take_shape(&m->output_grad_f32, &m->values[m->output].tensor);
        m->output_f32.dtype = m->output_grad_f32.dtype = PARE_F32;
    }
    m->batch_size = batch;
    m->batch_length = length;
    return PARE_OK;
}
