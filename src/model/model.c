/* model.c - the life of a model: made, predicted, prepared, freed. */
#include "rotary.h"

#include <string.h>

#define SCRATCH_FLOOR ((int64_t)256 << 10)

static void free_activations(pare_model *m)
{
    pare__inputs_free(m);
    pare_backend_release(m->be, m->activations, m->activation_bytes);
    m->activations = NULL;
    m->prepared = m->may_backward = false;
}

void pare_model_free(pare_model **model)
{
    if (!model || !*model)
        return;
    pare_model *m = *model;
    free_activations(m);
    pare_backend_release(m->be, m->values_arena, m->values_bytes);
    pare_backend_release(m->be, m->grads_arena, m->grads_bytes);
    pare_backend_release(m->be, m->masks_arena, m->masks_bytes);
    pare__rotary_free(&m->rotary, m->be);
    for (size_t i = 0; i < m->param_count; i++)
        free((char *)(uintptr_t)m->params[i].name);
    for (size_t i = 0; i < m->node_count; i++)
        free(m->nodes[i].name);
    free(m->taps);
    free(m->buffers);
    free(m->values);
    free(m->nodes);
    free(m->extra);
    free(m->params);
    free(m->config);
    free(m->arch);
    free(m);
    *model = NULL;
}

const pare_model_facts *pare_model_facts_of(const pare_model *model)
{
    return &model->facts;
}

pare_model_facts *pare_model_facts_edit(pare_model *model)
{
    return &model->facts;
}

/* ---- plans for another shape ----------------------------------------------------------------- */

static pare_status check_shape(const pare_model *m, const pare_model_shape *shape)
{
    PARE_REQUIRE(m && shape && m->output >= 0, PARE_ERR_ARGUMENT,
                 "a plan needs a model that was built and a shape");
    PARE_REQUIRE(shape->batch >= 1, PARE_ERR_ARGUMENT, "a batch of %lld is empty: take 1 or more",
                 (long long)shape->batch);
    PARE_REQUIRE(shape->compute == PARE_F32 || shape->compute == PARE_BF16, PARE_ERR_ARGUMENT,
                 "a model computes in F32 or BF16, not in %s", pare_dtype_name(shape->compute));
    int64_t most = m->facts.max_length;
    if (!m->facts.tokens)
        PARE_REQUIRE(shape->length == 0, PARE_ERR_ARGUMENT,
                     "a length of %lld makes no sense for images: it must be 0",
                     (long long)shape->length);
    else
        PARE_REQUIRE(shape->length >= 1 && (most <= 0 || shape->length <= most), PARE_ERR_ARGUMENT,
                     "rows of %lld tokens do not fit the model: it takes 1 to %lld",
                     (long long)shape->length, (long long)(most > 0 ? most : INT64_MAX));
    return PARE_OK;
}

static pare_status copy_of(const void *items, size_t count, size_t size, void *copy /* T ** */)
{
    void *made;
    PARE_TRY(pare__calloc(count, size, &made));
    if (count > 0)
        memcpy(made, items, count * size);
    memcpy(copy, &made, sizeof made);
    return PARE_OK;
}

void pare__draft_free(pare_model *draft)
{
    free(draft->buffers);
    free(draft->values);
    free(draft->nodes);
}

pare_status pare__draft(const pare_model *m, const pare_model_shape *shape, pare_model *draft)
{
    pare_status status = PARE_OK;
    *draft = *m;
    draft->shape = *shape;
    draft->nodes = NULL;
    draft->values = NULL;
    draft->buffers = NULL;
    draft->buffer_count = draft->buffer_capacity = 0;
    PARE_TRY_DONE(copy_of(m->nodes, m->node_count, sizeof *m->nodes, &draft->nodes));
    draft->node_capacity = m->node_count;
    PARE_TRY_DONE(copy_of(m->values, m->value_count, sizeof *m->values, &draft->values));
    draft->value_capacity = m->value_count;
    PARE_TRY_DONE(pare__plan(draft));
done:
    if (status != PARE_OK)
        pare__draft_free(draft);
    return status;
}

static double flops_of(const pare_model *m)
{
    double flops = 0;
    for (size_t i = 0; i < m->node_count; i++)
        if (m->nodes[i].kind->flops)
            flops += m->nodes[i].kind->flops(m, &m->nodes[i]);
    if (m->head >= 0)
        flops += 2.0 * (double)pare_tensor_count(&m->values[m->output].tensor) *
                 (double)m->params[m->head].value.shape[0];
    return flops;
}

/* What the ops of a node take beside the arena, as far as it can be told from here: of a product in
 * BF16 its weight, rounded; of a convolution its weight laid out anew (twice) and a sum of its
 * gradient for each thread. */
static int64_t scratch_of(const pare_model *m, const pare__node *n)
{
    bool conv = n->kind == &pare__node_conv, half = m->shape.compute == PARE_BF16;
    if (!conv && n->kind != &pare__node_linear)
        return 0;
    bool rounded = half && pare__param_held(m, n->param[0]) == PARE_F32;
    int64_t w = pare_tensor_count(&pare__param(m, n, 0)->value);
    int64_t copies = conv ? 2 + (m->shape.training ? pare_cpu_count() : 0) : rounded;
    return copies * w * (conv ? 4 : 2);
}

/* The same on a device: of a product in BF16 its weight, rounded; of a convolution both images with
 * zeros around them, its weight laid out anew and the sum of its gradient. What its library works
 * in comes on top. */
static int64_t device_scratch_of(const pare_model *m, const pare__node *n)
{
    bool conv = n->kind == &pare__node_conv, half = m->shape.compute == PARE_BF16;
    if (!conv && n->kind != &pare__node_linear)
        return 0;
    bool rounded = half && pare__param_held(m, n->param[0]) == PARE_F32;
    pare_tensor x = pare__in(m, n, 0), y = pare__out(m, n);
    int64_t w = pare_tensor_count(&pare__param(m, n, 0)->value);
    int64_t images = pare_tensor_count(&x) + pare_tensor_count(&y);
    return conv ? images * (half ? 2 : 4) + 2 * w * 4 : rounded * w * 2;
}

static int64_t largest_scratch(const pare_model *m,
                               int64_t (*scratch)(const pare_model *m, const pare__node *n))
{
    int64_t most = 0;
    for (size_t i = 0; i < m->node_count; i++) {
        int64_t bytes = scratch(m, &m->nodes[i]);
        most = bytes > most ? bytes : most;
    }
    return most + SCRATCH_FLOOR;
}

pare_status pare_model_predict(pare_model *model, const pare_model_shape *shape,
                               pare_model_memory *memory)
{
    pare_model draft;
    PARE_REQUIRE(memory, PARE_ERR_ARGUMENT, "predict needs a place for its result");
    PARE_TRY(check_shape(model, shape));
    PARE_TRY(pare__draft(model, shape, &draft));
    *memory = (pare_model_memory){.activations = draft.activation_bytes +
                                                 pare__rotary_bytes(model, shape->length),
                                  .scratch = largest_scratch(&draft, scratch_of),
                                  .device_scratch = largest_scratch(&draft, device_scratch_of),
                                  .inputs = pare__inputs_bytes(model, shape),
                                  .flops = flops_of(&draft)};
    pare_status status = pare__params_plan(&draft, shape->training, NULL, &memory->params,
                                           &memory->grads, &memory->masks);
    pare__draft_free(&draft);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare_model_outputs(const pare_model *model, const pare_model_shape *shape,
                               pare_tensor *outputs)
{
    pare_model draft;
    PARE_TRY(check_shape(model, shape));
    PARE_TRY(pare__draft(model, shape, &draft));
    for (size_t i = 0; i < draft.node_count; i++) {
        outputs[i] = draft.values[draft.nodes[i].output].tensor;
        outputs[i].data = NULL;
    }
    pare__draft_free(&draft);
    return PARE_OK;
}

/* What a model has of one backend's memory another may not see. */
static pare_status check_backend(const pare_model *m, pare_backend *be)
{
    bool same = !m->be || m->be == be || (pare_backend_is_host(m->be) && pare_backend_is_host(be));
    PARE_REQUIRE(same, PARE_ERR_ARGUMENT,
                 "the model's values lie in the memory of %s: %s cannot "
                 "run it; load it anew there",
                 pare_backend_name(m->be), pare_backend_name(be));
    return PARE_OK;
}

/* Values that are held for inference alone. */
static pare_status check_held(const pare_model *m, const pare_model_shape *shape)
{
    for (size_t i = 0; m->values_arena && i < m->param_count; i++)
        PARE_REQUIRE(m->params[i].value.dtype == PARE_F32 ||
                         (!shape->training && shape->compute == PARE_BF16),
                     PARE_ERR_ARGUMENT,
                     "%s is held in BF16, for inference in BF16: make the model anew for all else",
                     m->params[i].name);
    return PARE_OK;
}

/* m takes over the draft's plan; what was planned before is freed. */
static void adopt(pare_model *m, const pare_model *draft)
{
    free_activations(m);
    pare__draft_free(m);
    m->nodes = draft->nodes;
    m->node_capacity = draft->node_capacity;
    m->values = draft->values;
    m->value_capacity = draft->value_capacity;
    m->buffers = draft->buffers;
    m->buffer_count = draft->buffer_count;
    m->buffer_capacity = draft->buffer_capacity;
    m->shape = draft->shape;
    m->batch_size = draft->batch_size;
    m->batch_length = draft->batch_length;
    m->output_buffer = draft->output_buffer;
    m->output_grad_buffer = draft->output_grad_buffer;
    m->output_tap_buffer = draft->output_tap_buffer;
    m->activation_bytes = draft->activation_bytes;
    for (size_t i = 0; i < m->value_count; i++)
        m->values[i].tensor.data = m->values[i].grad.data = NULL;
    m->output_f32.data = m->output_grad_f32.data = m->output_tap_grad = NULL;
}

pare_status pare_model_prepare(pare_model *model, pare_backend *be, const pare_model_shape *shape)
{
    pare_model draft;
    PARE_REQUIRE(be, PARE_ERR_ARGUMENT, "prepare needs a backend");
    PARE_TRY(check_shape(model, shape));
    PARE_TRY(check_backend(model, be));
    PARE_TRY(check_held(model, shape));
    PARE_TRY(pare__draft(model, shape, &draft));
    adopt(model, &draft);
    model->be = be;
    PARE_TRY(pare__params_prepare(model, shape->training));
    PARE_TRY(pare_backend_alloc(be, model->activation_bytes, &model->activations));
    PARE_TRY(pare__inputs_prepare(model));
    PARE_TRY(pare__rotary_prepare(model, shape->length));
    pare__plan_bind(model);
    model->prepared = true;
    return PARE_OK;
}
