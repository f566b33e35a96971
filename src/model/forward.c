/* forward.c - runs the nodes in order on a batch. */
#include "hooks.h"

/* ---- the batch ------------------------------------------------------------------------------- */

static pare_status check_batch(const pare_model *m, const pare_batch *batch, bool hidden)
{
    PARE_REQUIRE(m->prepared, PARE_ERR_ARGUMENT, "the model must be prepared before it runs");
    PARE_REQUIRE(batch && batch->size >= 1 && batch->size <= m->shape.batch, PARE_ERR_ARGUMENT,
                 "a batch of %lld does not fit: the model was prepared for 1 to %lld",
                 (long long)(batch ? batch->size : 0), (long long)m->shape.batch);
    PARE_REQUIRE(hidden == (m->hidden.rank > 0), PARE_ERR_ARGUMENT,
                 hidden ? "a hidden state is for the blocks behind the first"
                        : "this block takes a hidden state: pare_model_forward_hidden runs it");
    if (!m->facts.tokens) {
        PARE_REQUIRE(hidden || batch->images, PARE_ERR_ARGUMENT,
                     "the batch has no images; this model takes images");
        return PARE_OK;
    }
    PARE_REQUIRE(hidden || batch->ids, PARE_ERR_ARGUMENT,
                 "the batch has no token ids; this model takes token ids");
    PARE_REQUIRE(batch->length >= 1 && batch->length <= m->shape.length, PARE_ERR_ARGUMENT,
                 "rows of %lld tokens do not fit: the model was prepared for 1 to %lld",
                 (long long)batch->length, (long long)m->shape.length);
    return PARE_OK;
}

/* A hidden state's shape must be that of this batch. */
static pare_status bind_hidden(pare_model *m, const pare_tensor *hidden)
{
    pare_tensor *input = &m->values[m->input].tensor;
    bool fits = hidden->dtype == input->dtype && hidden->rank == input->rank;
    for (int i = 0; fits && i < input->rank; i++)
        fits = hidden->shape[i] == input->shape[i];
    char a[192], b[192];
    PARE_REQUIRE(
        fits, PARE_ERR_ARGUMENT, "the hidden state is %s %s, this batch needs %s %s",
        pare_dtype_name(hidden->dtype), pare_shape_text(hidden->rank, hidden->shape, a, sizeof a),
        pare_dtype_name(input->dtype), pare_shape_text(input->rank, input->shape, b, sizeof b));
    input->data = hidden->data;
    return PARE_OK;
}

/* The input's value is the batch's own memory (a device's copy of it), or its images rounded to
 * BF16, or the hidden state. Nothing writes to it. */
static pare_status bind_input(pare_model *m, const pare_tensor *hidden)
{
    const pare_batch *batch = &m->batch;
    pare_tensor *input = &m->values[m->input].tensor;
    m->keys = (pare_tensor){0};
    if (m->facts.tokens && batch->keys)
        m->keys = pare_matrix((void *)(uintptr_t)batch->keys, PARE_U8, batch->size, batch->length);
    if (hidden)
        return bind_hidden(m, hidden);
    if (m->facts.tokens) {
        input->data = (void *)(uintptr_t)batch->ids;
        return PARE_OK;
    }
    pare_tensor images = *input;
    images.data = (void *)(uintptr_t)batch->images;
    images.dtype = PARE_F32;
    if (m->values[m->input].buffer < 0)
        *input = images;
    else
        PARE_TRY(pare__copy(m, images, *input, false));
    return PARE_OK;
}

static pare_status begin(pare_model *m, const pare_batch *batch, const pare_tensor *hidden,
                         bool training, const pare_step_seed *seed)
{
    PARE_TRY(check_batch(m, batch, hidden != NULL));
    PARE_REQUIRE(!training || m->shape.training, PARE_ERR_ARGUMENT,
                 "a training forward needs a model that was prepared for training");
    int64_t length = m->facts.tokens ? batch->length : 0;
    m->may_backward = false;
    if (batch->size != m->batch_size || length != m->batch_length)
        PARE_TRY(pare__shapes(m, batch->size, length));
    if (m->poison)
        PARE_TRY(pare__poison_after(m, -1));
    PARE_TRY(pare__inputs_take(m, batch));
    PARE_TRY(bind_input(m, hidden));
    m->training = training;
    m->drops = training && seed;
    m->seed = seed ? *seed : (pare_step_seed){0};
    return PARE_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* end: the node before which this run stops. */
static pare_status run_node(pare_model *m, pare__node *n, int end)
{
    if (n->traits.view) {
        m->values[n->output].tensor.data = m->values[n->input[0]].tensor.data;
        return PARE_OK;
    }
    if (n->fused >= 0 && !m->hook)
        PARE_TRY(pare__conv_batch_norm(m, n));
    else if (!n->skip || m->hook || m->values[n->output].last >= end)
        PARE_TRY(n->kind->forward(m, n));
    return PARE_OK;
}

static pare_status walk(pare_model *m, int end)
{
    for (int i = 0; i < end; i++) {
        PARE_TRY(run_node(m, &m->nodes[i], end));
        if (m->hook)
            PARE_TRY(pare__hook_call(m, i, false));
        if (m->poison)
            PARE_TRY(pare__poison_after(m, pare__time_forward(i)));
    }
    if (m->output_f32.data && end == (int)m->node_count)
        PARE_TRY(pare__copy(m, m->values[m->output].tensor, m->output_f32, false));
    if (m->training)
        PARE_TRY(pare__taps_clear(m));
    return PARE_OK;
}

pare_status pare_model_forward(pare_model *model, const pare_batch *batch, bool training,
                               const pare_step_seed *seed)
{
    PARE_REQUIRE(model, PARE_ERR_ARGUMENT, "forward needs a model");
    PARE_TRY(begin(model, batch, NULL, training, seed));
    PARE_TRY(walk(model, (int)model->node_count));
    model->may_backward = training;
    return PARE_OK;
}

pare_tensor pare_model_hidden(const pare_model *block)
{
    if (!block || block->hidden.rank == 0)
        return (pare_tensor){0};
    return pare__hidden(block, block->shape.batch, block->shape.length);
}

pare_status pare_model_forward_hidden(pare_model *block, const pare_batch *batch,
                                      pare_tensor hidden, int64_t until)
{
    PARE_REQUIRE(block, PARE_ERR_ARGUMENT, "forward needs a model");
    int64_t count = (int64_t)block->node_count, end = until < 0 || until > count ? count : until;
    PARE_TRY(begin(block, batch, hidden.data ? &hidden : NULL, false, NULL));
    PARE_TRY(walk(block, (int)end));
    return PARE_OK;
}

/* ---- its result ------------------------------------------------------------------------------ */

pare_tensor pare_model_output(const pare_model *model)
{
    return model->output_f32.data ? model->output_f32 : model->values[model->output].tensor;
}

pare_tensor pare_model_output_grad(const pare_model *model)
{
    return model->output_grad_f32.data ? model->output_grad_f32 : model->values[model->output].grad;
}
