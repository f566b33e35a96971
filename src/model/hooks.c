/* hooks.c - what a node looks like from outside, the one way to observe it while it runs, and what
 * is built on it: the first NaN; memory that is dead made NaN. */
#include "hooks.h"

#include <string.h>

int64_t pare_model_node_count(const pare_model *model)
{
    return model ? (int64_t)model->node_count : 0;
}

pare_node_view pare_model_node(const pare_model *model, int64_t index)
{
    pare_node_view view = {0};
    if (!model || index < 0 || (size_t)index >= model->node_count)
        return view;
    const pare__node *n = &model->nodes[index];
    view.kind = n->kind->name;
    view.name = n->name;
    view.input_count = n->inputs;
    view.param_count = n->params;
    for (int i = 0; i < n->inputs; i++)
        view.input[i] = pare__in(model, n, i);
    view.output = pare__out(model, n);
    for (int i = 0; i < n->params; i++)
        view.param[i] = n->param[i];
    view.flops = n->kind->flops ? n->kind->flops(model, n) : 0;
    if (n->kind == &pare__node_attention) {
        view.heads = n->a.heads;
        view.kv_heads = n->a.kv_heads;
        view.window = n->a.sliding;
        view.scale = n->a.scale;
        view.causal = n->a.causal;
    }
    return view;
}

void pare_model_set_hook(pare_model *model, pare_model_hook hook, void *user)
{
    model->hook = hook;
    model->hook_user = user;
}

pare_status pare__hook_call(pare_model *m, int node, bool backward)
{
    const pare__node *n = &m->nodes[node];
    pare_node_view view = pare_model_node(m, node);
    for (int i = 0; i < n->inputs; i++) {
        const pare__value *x = &m->values[n->input[i]], *y = &m->values[n->output];
        bool written_over = x->buffer >= 0 && x->buffer == y->buffer && !n->traits.view;
        bool gone = backward && x->buffer >= 0 && x->death < pare__time_backward(m, node);
        if (written_over || gone)
            view.input[i].data = NULL;
    }
    if (backward)
        view.output = pare__dy(m, n);
    PARE_TRY(m->hook(m->hook_user, node, &view, backward));
    return PARE_OK;
}

/* ---- the first number that is none ----------------------------------------------------------- */

typedef struct search {
    pare_model *model;
    char *text;
    size_t size;
    bool found;
} search;

static bool is_bad(const pare_model *m, pare_tensor t)
{
    pare_stats_result r;
    if (!t.data || !pare_dtype_is_weight(t.dtype))
        return false;
    if (pare_stats(m->be, &(pare_stats_args){.x = t, .result = &r}) != PARE_OK)
        return false;
    return r.nans + r.infs > 0;
}

static pare_status look(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    search *s = user;
    (void)node;
    if (!s->found && !backward && is_bad(s->model, view->output)) {
        snprintf(s->text, s->size, "the output of %s", view->name);
        s->found = true;
    }
    return PARE_OK;
}

static bool look_at_params(search *s, bool gradients)
{
    for (size_t i = 0; i < s->model->param_count && !s->found; i++) {
        const pare_param *p = &s->model->params[i];
        if (is_bad(s->model, gradients ? p->grad : p->value)) {
            snprintf(s->text, s->size, "%s%s", gradients ? "the gradient of " : "", p->name);
            s->found = true;
        }
    }
    return s->found;
}

bool pare_model_first_bad(pare_model *model, const pare_batch *batch, char *text, size_t size)
{
    search s = {.model = model, .text = text, .size = size};
    if (size > 0)
        text[0] = '\0';
    if (!model || !model->prepared || look_at_params(&s, false))
        return s.found;
    if (batch) {
        pare_model_hook hook = model->hook;
        void *user = model->hook_user;
        pare_step_seed seed = model->seed;
        pare_model_set_hook(model, look, &s);
        pare_model_forward(model, batch, model->training, model->drops ? &seed : NULL);
        pare_model_set_hook(model, hook, user);
        model->may_backward = false;
    }
    return s.found || look_at_params(&s, true);
}

/* ---- poison ---------------------------------------------------------------------------------- */

void pare__model_poison(pare_model *m, bool on)
{
    m->poison = on;
}

/* time −1: all of the arena. All bits set are a NaN in every dtype. */
pare_status pare__poison_after(pare_model *m, int time)
{
    const uint32_t bits = UINT32_MAX;
    pare_fill_args args = {0};
    memcpy(&args.value, &bits, sizeof bits);
    for (size_t i = 0; i < m->buffer_count; i++) {
        const pare__buffer *b = &m->buffers[i];
        if (time >= 0 && b->death != time)
            continue;
        args.y = pare_vector(m->activations + b->offset, PARE_F32, b->bytes / 4);
        PARE_TRY(pare_fill(m->be, &args));
    }
    return PARE_OK;
}
