/* arena_plan.c - gives every value, gradient, saved and temporary buffer a life and a place in one
 * arena.
 *
 * A value lives from its producer to its last reader, in training to the last backward that needs
 * it; a gradient from the first write to its producer's backward. Values share memory where a node
 * runs in place, gradients where a node passes its output's on: such a class is one buffer that
 * lives as long as any of its members. */
#include "node.h"

/* ---- buffers --------------------------------------------------------------------------------- */

static pare_status new_buffer(pare_model *m, int64_t bytes, int birth, int death, int *index)
{
    PARE_TRY(pare__grow(&m->buffers, &m->buffer_capacity, m->buffer_count + 1, sizeof *m->buffers));
    m->buffers[m->buffer_count] = (pare__buffer){.bytes = bytes, .birth = birth, .death = death};
    *index = (int)m->buffer_count++;
    return PARE_OK;
}

static void extend(pare_model *m, int buffer, int death)
{
    if (buffer >= 0 && m->buffers[buffer].death < death)
        m->buffers[buffer].death = death;
}

static int64_t bytes_of(const pare_tensor *t)
{
    return pare_tensor_count(t) * (pare_dtype_bits(t->dtype) / 8);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void read_at(pare__value *v, int time)
{
    if (v->death < time)
        v->death = time;
}

static void lives(pare_model *m)
{
    for (size_t i = 0; i < m->value_count; i++) {
        pare__value *v = &m->values[i];
        v->death = v->producer < 0 ? 0 : pare__time_forward(v->producer);
    }
    for (int i = 0; i < (int)m->node_count; i++) {
        const pare__node *n = &m->nodes[i];
        pare__value *y = &m->values[n->output];
        /* a fused convolution reads its input when the batch norm runs */
        int forward = pare__time_forward(n->skip ? y->last : i);
        int backward = pare__time_backward(m, i);
        for (int k = 0; k < n->inputs; k++) {
            read_at(&m->values[n->input[k]], forward);
            if (n->active && n->traits.needs_inputs >> k & 1)
                read_at(&m->values[n->input[k]], backward);
        }
        if (n->active && n->traits.needs_output)
            read_at(y, backward);
    }
    for (size_t i = 0; i < m->tap_count; i++)
        read_at(&m->values[m->taps[i]], m->shape.training ? pare__time_loss(m) : pare__time_end(m));
    m->values[m->output].death = pare__time_end(m);
}

static pare_status place_output(pare_model *m, int index)
{
    const pare__node *n = &m->nodes[index];
    pare__value *x = &m->values[n->input[0]], *y = &m->values[n->output];
    int time = pare__time_forward(index);
    int64_t bytes = bytes_of(&y->tensor);
    const pare__buffer *there = x->buffer >= 0 ? &m->buffers[x->buffer] : NULL;
    bool over = n->traits.in_place && there && there->death <= time && there->bytes == bytes;
    if (n->traits.view || over) {
        y->buffer = x->buffer;
        extend(m, y->buffer, y->death);
        return PARE_OK;
    }
    PARE_TRY(new_buffer(m, bytes, time, y->death, &y->buffer));
    return PARE_OK;
}

static pare_status place_values(pare_model *m)
{
    pare__value *input = &m->values[m->input];
    /* Ids, hidden states and images of the dtype that they come in are the caller's memory. */
    input->buffer = -1;
    if (!m->facts.tokens && m->hidden.rank == 0 && input->tensor.dtype != PARE_F32)
        PARE_TRY(new_buffer(m, bytes_of(&input->tensor), 0, input->death, &input->buffer));
    for (int i = 0; i < (int)m->node_count; i++)
        PARE_TRY(place_output(m, i));
    return PARE_OK;
}

static pare_status place_kept(pare_model *m)
{
    for (int i = 0; i < (int)m->node_count; i++) {
        pare__node *n = &m->nodes[i];
        int forward = pare__time_forward(i), backward = pare__time_backward(m, i);
        for (int k = 0; k < PARE__SAVED; k++) {
            n->saved_buffer[k] = -1;
            if (n->saved_bytes[k] > 0)
                PARE_TRY(new_buffer(m, n->saved_bytes[k], forward, n->active ? backward : forward,
                                    &n->saved_buffer[k]));
        }
        n->temp_buffer[0] = n->temp_buffer[1] = -1;
        /* a fused convolution's inputs are rounded when the batch norm runs */
        int run = n->skip ? pare__time_forward(m->values[n->output].last) : forward;
        if (n->temp_bytes[0] > 0)
            PARE_TRY(new_buffer(m, n->temp_bytes[0], forward, run, &n->temp_buffer[0]));
        if (n->temp_bytes[1] > 0 && n->active)
            PARE_TRY(new_buffer(m, n->temp_bytes[1], backward, backward, &n->temp_buffer[1]));
    }
    return PARE_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* Whether the gradients of both inputs of a sum may be the output's own memory. The one with the
 * later producer dies first: until then nobody may add to either. */
static bool both_share(const pare_model *m, int index)
{
    const pare__node *n = &m->nodes[index];
    int early = n->input[0], late = n->input[1];
    if (m->values[early].producer > m->values[late].producer) {
        early = n->input[1];
        late = n->input[0];
    }
    int producer = m->values[late].producer;
    if (early == late || m->values[late].consumers != 1 || m->nodes[producer].traits.writes_dy)
        return false;
    for (int i = producer; i < index; i++)
        for (int k = 0; k < m->nodes[i].inputs; k++)
            if (m->nodes[i].input[k] == early)
                return false;
    return true;
}

/* The inputs whose gradients take over the memory of the output's. It must be nobody else's from
 * here on, and they must not have one yet. */
static unsigned takes_over(const pare_model *m, int index)
{
    const pare__node *n = &m->nodes[index];
    const pare__value *y = &m->values[n->output];
    unsigned may = n->traits.passes_grad ? n->want_grad : n->traits.grad_over & n->want_grad;
    if (m->buffers[y->grad_buffer].death > pare__time_backward(m, index))
        return 0;
    for (int i = 0; i < n->inputs; i++) {
        const pare__value *x = &m->values[n->input[i]];
        if (x->grad_buffer >= 0 || bytes_of(&x->tensor) != bytes_of(&y->tensor))
            may &= ~(1u << i);
    }
    if (n->traits.passes_grad && may == 3 && both_share(m, index))
        return 3;
    return may & -may; /* the lowest */
}

static pare_status place_gradient(pare_model *m, int index, int i, bool over)
{
    pare__node *n = &m->nodes[index];
    pare__value *x = &m->values[n->input[i]];
    int now = pare__time_backward(m, index);
    unsigned bit = 1u << i;
    bool again = false; /* the same value as an input before it */
    for (int k = 0; k < i; k++)
        again = again || n->input[k] == n->input[i];
    n->grad_buffer[i] = -1;
    if (!(n->want_grad & bit)) {
        if (n->traits.always & bit)
            PARE_TRY(new_buffer(m, bytes_of(&x->tensor), now, now, &n->grad_buffer[i]));
        return PARE_OK;
    }
    if (x->grad_buffer < 0) {
        int death = pare__time_backward(m, x->producer);
        if (over)
            x->grad_buffer = m->values[n->output].grad_buffer;
        else
            PARE_TRY(new_buffer(m, bytes_of(&x->tensor), now, death, &x->grad_buffer));
        extend(m, x->grad_buffer, death);
        n->grad_buffer[i] = x->grad_buffer;
    } else if (n->traits.adds_grad & bit && !again) {
        n->add_grad |= bit;
        n->grad_buffer[i] = x->grad_buffer;
    } else {
        n->after_grad |= bit;
        PARE_TRY(new_buffer(m, bytes_of(&x->tensor), now, now, &n->grad_buffer[i]));
    }
    return PARE_OK;
}

/* The losses are the last reader of a tapped value: they write its gradient first. That of the
 * output is filled by the loss itself: what is added to it lies apart until backward begins. */
static pare_status place_tap_gradients(pare_model *m)
{
    int loss = pare__time_loss(m);
    for (size_t i = 0; i < m->tap_count; i++) {
        pare__value *v = &m->values[m->taps[i]];
        int64_t bytes = bytes_of(&v->tensor);
        if (!m->nodes[v->producer].active)
            continue;
        if (m->taps[i] == m->output)
            PARE_TRY(new_buffer(m, bytes, loss, loss, &m->output_tap_buffer));
        else
            PARE_TRY(
                new_buffer(m, bytes, loss, pare__time_backward(m, v->producer), &v->grad_buffer));
    }
    return PARE_OK;
}

static pare_status place_gradients(pare_model *m)
{
    pare__value *output = &m->values[m->output];
    for (size_t i = 0; i < m->value_count; i++)
        m->values[i].grad_buffer = -1;
    for (size_t i = 0; i < m->node_count; i++)
        for (int k = 0; k < PARE__INPUTS; k++)
            m->nodes[i].grad_buffer[k] = -1;
    if (!m->shape.training)
        return PARE_OK;
    int death =
        output->producer < 0 ? pare__time_loss(m) : pare__time_backward(m, output->producer);
    PARE_TRY(
        new_buffer(m, bytes_of(&output->tensor), pare__time_loss(m), death, &output->grad_buffer));
    PARE_TRY(place_tap_gradients(m));
    for (int i = (int)m->node_count - 1; i >= 0; i--) {
        if (!m->nodes[i].active)
            continue;
        unsigned over = takes_over(m, i);
        for (int k = 0; k < m->nodes[i].inputs; k++)
            PARE_TRY(place_gradient(m, i, k, over >> k & 1));
    }
    return PARE_OK;
}

/* An output in BF16 that must be F32 outside, and its gradient, have twins. */
static pare_status place_twins(pare_model *m)
{
    const pare__value *output = &m->values[m->output];
    int64_t bytes = pare_tensor_count(&output->tensor) * (int64_t)sizeof(float);
    int loss = pare__time_loss(m);
    m->output_buffer = m->output_grad_buffer = -1;
    if (output->tensor.dtype == PARE_F32 || pare__gives_act(m))
        return PARE_OK;
    PARE_TRY(new_buffer(m, bytes, loss - 1, pare__time_end(m), &m->output_buffer));
    if (m->shape.training)
        PARE_TRY(new_buffer(m, bytes, loss, loss, &m->output_grad_buffer));
    return PARE_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

pare_status pare__plan(pare_model *m)
{
    m->buffer_count = 0;
    m->output_buffer = m->output_grad_buffer = m->output_tap_buffer = -1;
    pare__mark(m);
    PARE_TRY(pare__shapes(m, m->shape.batch, m->shape.length));
    lives(m);
    PARE_TRY(place_values(m));
    PARE_TRY(place_kept(m));
    PARE_TRY(place_gradients(m));
    PARE_TRY(place_twins(m));
    PARE_TRY(pare__place(m->buffers, m->buffer_count, &m->activation_bytes));
    return PARE_OK;
}

static void *at(const pare_model *m, int buffer)
{
    return buffer >= 0 ? m->activations + m->buffers[buffer].offset : NULL;
}

/* Whose backward is the last to add to each gradient: the first node's in the array. */
static void bind_params(pare_model *m)
{
    for (size_t i = 0; i < m->param_count; i++)
        m->extra[i].whole = -1;
    for (int i = (int)m->node_count - 1; i >= 0; i--) {
        const pare__node *n = &m->nodes[i];
        for (int k = 0; k < n->params && n->active; k++)
            if (n->param[k] >= 0)
                m->extra[n->param[k]].whole = i;
    }
}

void pare__plan_bind(pare_model *m)
{
    bind_params(m);
    for (size_t i = 0; i < m->value_count; i++) {
        m->values[i].tensor.data = at(m, m->values[i].buffer);
        m->values[i].grad.data = at(m, m->values[i].grad_buffer);
    }
    for (size_t i = 0; i < m->node_count; i++) {
        pare__node *n = &m->nodes[i];
        for (int k = 0; k < PARE__SAVED; k++)
            n->saved[k] = at(m, n->saved_buffer[k]);
        for (int k = 0; k < 2; k++)
            n->temp[k] = at(m, n->temp_buffer[k]);
        for (int k = 0; k < PARE__INPUTS; k++)
            n->grad[k].data = at(m, n->grad_buffer[k]);
    }
    m->output_f32 = m->output_grad_f32 = m->values[m->output].tensor;
    m->output_f32.dtype = m->output_grad_f32.dtype = PARE_F32;
    m->output_f32.data = at(m, m->output_buffer);
    m->output_grad_f32.data = at(m, m->output_grad_buffer);
    m->output_tap_grad = at(m, m->output_tap_buffer);
}
