/* params.c - a model's parameters: where values, gradients and masks lie, and what they are named.
 *
 * Each kind of memory is one arena. A parameter begins at a multiple of 64 bytes; what lies between
 * two stays 0, so that an arena can be taken as one vector. */
#include "node.h"

#include <string.h>

#define ALIGN 64

int pare__param_find(const pare_model *m, const char *name)
{
    for (size_t i = 0; i < m->param_count; i++)
        if (strcmp(m->params[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* ---- arenas ---------------------------------------------------------------------------------- */

/* The next place in an arena for count elements of size bytes. */
static pare_status take(const pare_param *param, int64_t count, int64_t size, int64_t *arena,
                        int64_t *offset)
{
    int64_t bytes;
    *offset = *arena;
    PARE_REQUIRE(pare__mul(count, size, &bytes) && pare__add(bytes, ALIGN - 1, &bytes) &&
                     pare__add(*arena, bytes / ALIGN * ALIGN, arena),
                 PARE_ERR_MEMORY, "%s: the model's parameters take more bytes than 63 bits count",
                 param->name);
    return PARE_OK;
}

/* Whether pruning may zero weights of it. */
static bool maskable(const pare_param *param)
{
    return param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_CONV ||
           param->role == PARE_ROLE_HEAD;
}

/* Whether nothing but products of linear layers, the head's and look-ups read it, which round it
 * where they work in BF16. (A convolution may first scale it by a batch norm.) */
static bool is_rounded(const pare_model *m, int param)
{
    bool rounded = param == m->head;
    for (size_t i = 0; i < m->node_count; i++) {
        const pare__node *n = &m->nodes[i];
        bool rounds = n->kind == &pare__node_linear || n->kind == &pare__node_embedding;
        for (int k = 0; k < n->params; k++) {
            if (n->param[k] != param)
                continue;
            if (!rounds || k > 0)
                return false;
            rounded = true;
        }
    }
    return rounded;
}

pare_dtype pare__param_held(const pare_model *m, int param)
{
    const pare_model_shape *s = &m->shape;
    if (m->values_arena)
        return m->params[param].value.dtype;
    bool halves = s->halves && !s->training && s->compute == PARE_BF16;
    return halves && is_rounded(m, param) ? PARE_BF16 : PARE_F32;
}

pare_status pare__params_plan(const pare_model *m, bool training, pare__param_extra *extra,
                              int64_t *values, int64_t *grads, int64_t *masks)
{
    pare__param_extra none;
    *values = *grads = *masks = 0;
    for (size_t i = 0; i < m->param_count; i++) {
        const pare_param *p = &m->params[i];
        pare__param_extra *e = extra ? &extra[i] : &none;
        int64_t count = pare_tensor_count(&p->value);
        int64_t size = pare_dtype_bits(pare__param_held(m, (int)i)) / 8;
        PARE_TRY(take(p, count, size, values, &e->value_offset));
        if (training && pare__learns(p))
            PARE_TRY(take(p, count, sizeof(float), grads, &e->grad_offset));
        if (maskable(p))
            PARE_TRY(take(p, count, 1, masks, &e->mask_offset));
    }
    return PARE_OK;
}

pare_status pare__params_prepare(pare_model *m, bool training)
{
    int64_t values, grads, masks;
    PARE_TRY(pare__params_plan(m, training, m->extra, &values, &grads, &masks));
    if (!m->values_arena) {
        for (size_t i = 0; i < m->param_count; i++)
            m->params[i].value.dtype = pare__param_held(m, (int)i);
        PARE_TRY(pare_backend_alloc(m->be, values, &m->values_arena));
        m->values_bytes = values;
    }
    pare_backend_release(m->be, m->grads_arena, m->grads_bytes);
    m->grads_arena = NULL;
    m->grads_bytes = 0;
    for (size_t i = 0; i < m->param_count; i++)
        m->params[i].grad.data = NULL;
    PARE_TRY(pare_backend_alloc(m->be, grads, &m->grads_arena));
    m->grads_bytes = grads;
    for (size_t i = 0; i < m->param_count; i++) {
        pare_param *p = &m->params[i];
        p->value.data = m->values_arena ? m->values_arena + m->extra[i].value_offset : NULL;
        p->grad = p->value;
        p->grad.dtype = PARE_F32;
        p->grad.data =
            training && pare__learns(p) ? m->grads_arena + m->extra[i].grad_offset : NULL;
    }
    return PARE_OK;
}

/* Every byte of a mask becomes 1. */
static pare_status keep_all(const pare_model *m, uint8_t *mask, int64_t count)
{
    pare_status status = PARE_OK;
    pare__stage stage;
    PARE_TRY(pare__stage_open(m->be, &stage));
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < PARE__STAGE ? count - i : PARE__STAGE;
        void *piece = pare__stage_at(&stage, mask + i);
        memset(piece, 1, (size_t)n);
        PARE_TRY_DONE(pare_backend_upload(m->be, mask + i, piece, n));
    }
done:
    pare__stage_close(&stage);
    return status;
}

/* The arena has room for all masks; pages of those that are never asked for are never touched. */
pare_status pare_model_mask(pare_model *model, int64_t param)
{
    pare_model *m = model;
    PARE_REQUIRE(m && param >= 0 && (size_t)param < m->param_count && m->values_arena,
                 PARE_ERR_ARGUMENT, "a mask needs a parameter of a model that was prepared");
    pare_param *p = &m->params[param];
    PARE_REQUIRE(maskable(p), PARE_ERR_ARGUMENT,
                 "%s is no weight of a linear layer or convolution: it takes no mask", p->name);
    PARE_REQUIRE(p->value.dtype == PARE_F32, PARE_ERR_ARGUMENT,
                 "%s is held in BF16 for inference: it takes no mask", p->name);
    if (p->mask)
        return PARE_OK;
    if (!m->masks_arena) {
        int64_t values, grads, masks;
        PARE_TRY(pare__params_plan(m, m->shape.training, m->extra, &values, &grads, &masks));
        PARE_TRY(pare_backend_alloc(m->be, masks, &m->masks_arena));
        m->masks_bytes = masks;
    }
    p->mask = (uint8_t *)m->masks_arena + m->extra[param].mask_offset;
    PARE_TRY(keep_all(m, p->mask, pare_tensor_count(&p->value)));
    return PARE_OK;
}

/* ---- views ----------------------------------------------------------------------------------- */

static pare_tensor vector_of(pare_tensor t)
{
    return t.data ? pare_vector(t.data, t.dtype, pare_tensor_count(&t)) : (pare_tensor){0};
}

pare_tensor pare__param_vector(const pare_model *m, const pare__node *n, int i)
{
    const pare_param *p = pare__param(m, n, i);
    return p ? vector_of(p->value) : (pare_tensor){0};
}

pare_tensor pare__grad_vector(const pare_model *m, const pare__node *n, int i)
{
    const pare_param *p = pare__param(m, n, i);
    return p ? vector_of(p->grad) : (pare_tensor){0};
}

/* ---- what all may ask ------------------------------------------------------------------------ */

int64_t pare_model_param_count(const pare_model *model)
{
    return model ? (int64_t)model->param_count : 0;
}

pare_param *pare_model_param(pare_model *model, int64_t index)
{
    if (!model || index < 0 || (size_t)index >= model->param_count)
        return NULL;
    return &model->params[index];
}

void pare_model_stored_shape(const pare_model *model, int64_t param, int *rank, int64_t *shape)
{
    *rank = 0;
    if (!model || param < 0 || (size_t)param >= model->param_count)
        return;
    const pare__param_extra *e = &model->extra[param];
    *rank = e->rank;
    memcpy(shape, e->shape, (size_t)e->rank * sizeof *shape);
}

pare_param *pare_model_head(pare_model *model, pare_param **bias)
{
    if (bias)
        *bias = model && model->head_bias >= 0 ? &model->params[model->head_bias] : NULL;
    return model && model->head >= 0 ? &model->params[model->head] : NULL;
}

pare_status pare_model_clear_grads(pare_model *model)
{
    PARE_REQUIRE(model && model->prepared && model->shape.training, PARE_ERR_ARGUMENT,
                 "a model without gradients cannot clear them: prepare it for training");
    pare_tensor grads = pare_model_grad_arena(model);
    PARE_TRY(pare_fill(model->be, &(pare_fill_args){.y = grads, .value = 0}));
    return PARE_OK;
}

pare_tensor pare_model_grad_arena(const pare_model *model)
{
    return pare_vector(model->grads_arena, PARE_F32, model->grads_bytes / (int64_t)sizeof(float));
}
