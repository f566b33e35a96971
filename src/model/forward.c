/* forward.c - runs the nodes in order on a batch. */
#include "hooks.h"

/* ---- the batch ------------------------------------------------------------------------------- */

static pare_status check_batch(const pare_model *m, const pare_batch *batch)
{
    PARE_REQUIRE(m->prepared, PARE_ERR_ARGUMENT, "the model must be prepared before it runs");
    PARE_REQUIRE(batch && batch->size >= 1 && batch->size <= m->shape.batch, PARE_ERR_ARGUMENT,
                 "a batch of %lld does not fit: the model was prepared for 1 to %lld",
                 (long long)(batch ? batch->size : 0), (long long)m->shape.batch);
    if (!m->facts.tokens) {
        PARE_REQUIRE(batch->images, PARE_ERR_ARGUMENT,
                     "the batch has no images; this model takes images");
        return PARE_OK;
    }
    PARE_REQUIRE(batch->ids, PARE_ERR_ARGUMENT,
                 "the batch has no token ids; this model takes token ids");
    PARE_REQUIRE(batch->length >= 1 && batch->length <= m->shape.length, PARE_ERR_ARGUMENT,
                 "rows of %lld tokens do not fit: the model was prepared for 1 to %lld",
                 (long long)batch->length, (long long)m->shape.length);
    return PARE_OK;
}

/* The input's value is the batch's own memory (a device's copy of it), or its images rounded to
 * BF16. Nothing writes to it. */
static pare_status bind_input(pare_model *m)
{
    const pare_batch *batch = &m->batch;
    pare_tensor *input = &m->values[m->input].tensor;
    m->keys = (pare_tensor){0};
    if (m->facts.tokens) {
        input->data = (void *)(uintptr_t)batch->ids;
        if (batch->keys)
            m->keys =
                pare_matrix((void *)(uintptr_t)batch->keys, PARE_U8, batch->size, batch->length);
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

static pare_status begin(pare_model *m, const pare_batch *batch, bool training,
                         const pare_step_seed *seed)
{
    PARE_TRY(check_batch(m, batch));
    PARE_REQUIRE(!training || m->shape.training, PARE_ERR_ARGUMENT,
                 "a training forward needs a model that was prepared for training");
    int64_t length = m->facts.tokens ? batch->length : 0;
    m->may_backward = false;
    if (batch->size != m->batch_size || length != m->batch_length)
        PARE_TRY(pare__shapes(m, batch->size, length));
    if (m->poison)
        PARE_TRY(pare__poison_after(m, -1));
    PARE_TRY(pare__inputs_take(m, batch));
    PARE_TRY(bind_input(m));
    m->training = training;
    m->drops = training && seed;
    m->seed = seed ? *seed : (pare_step_seed){0};
    return PARE_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static pare_status run_node(pare_model *m, pare__node *n)
{
    if (n->traits.view) {
        m->values[n->output].tensor.data = m->values[n->input[0]].tensor.data;
        return PARE_OK;
    }
    if (n->fused >= 0 && !m->hook)
        PARE_TRY(pare__conv_batch_norm(m, n));
    else if (!n->skip || m->hook)
        PARE_TRY(n->kind->forward(m, n));
    return PARE_OK;
}

pare_status pare_model_forward(pare_model *model, const pare_batch *batch, bool training,
                               const pare_step_seed *seed)
{
    PARE_REQUIRE(model, PARE_ERR_ARGUMENT, "forward needs a model");
    pare_model *m = model;
    PARE_TRY(begin(m, batch, training, seed));
    for (int i = 0; i < (int)m->node_count; i++) {
        PARE_TRY(run_node(m, &m->nodes[i]));
        if (m->hook)
            PARE_TRY(pare__hook_call(m, i, false));
        if (m->poison)
            PARE_TRY(pare__poison_after(m, pare__time_forward(i)));
    }
    if (m->output_f32.data)
        PARE_TRY(pare__copy(m, m->values[m->output].tensor, m->output_f32, false));
    m->may_backward = training;
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
