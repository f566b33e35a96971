/* backward.c - the nodes in reverse: each makes the gradients of its parameters and of the inputs
 * that want one, from that of its output. Which memory they are in was planned. */
#include "hooks.h"

/* Gradients that a node could not add itself. */
static pare_status add_after(const pare_model *m, const pare__node *n)
{
    for (int i = 0; i < n->inputs; i++)
        if (n->after_grad >> i & 1)
            PARE_TRY(pare__copy(m, n->grad[i], m->values[n->input[i]].grad, true));
    return PARE_OK;
}

/* ---- gradients that are whole ---------------------------------------------------------------- */

void pare_model_on_grad(pare_model *model, pare_model_grad_ready ready, void *user)
{
    model->grad_ready = ready;
    model->grad_ready_user = user;
}

static pare_status tell(const pare_model *m, int64_t param)
{
    if (m->params[param].grad.data)
        PARE_TRY(m->grad_ready(m->grad_ready_user, param));
    return PARE_OK;
}

/* Parameters that no node adds to: a head that is none, what the output does not hang on. */
static pare_status tell_first(const pare_model *m)
{
    for (size_t i = 0; i < m->param_count && m->grad_ready; i++)
        if (m->extra[i].whole < 0)
            PARE_TRY(tell(m, (int64_t)i));
    return PARE_OK;
}

static pare_status tell_after(const pare_model *m, int node)
{
    const pare__node *n = &m->nodes[node];
    for (int k = 0; k < n->params && m->grad_ready; k++) {
        bool again = n->param[k] < 0 || m->extra[n->param[k]].whole != node;
        for (int j = 0; j < k; j++)
            again = again || n->param[j] == n->param[k];
        if (!again)
            PARE_TRY(tell(m, n->param[k]));
    }
    return PARE_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

pare_status pare_model_backward(pare_model *model)
{
    PARE_REQUIRE(model && model->may_backward, PARE_ERR_ARGUMENT,
                 "backward needs a training forward before it, once each");
    pare_model *m = model;
    m->may_backward = false;
    if (m->output_grad_f32.data)
        PARE_TRY(pare__copy(m, m->output_grad_f32, m->values[m->output].grad, false));
    PARE_TRY(pare__taps_begin(m));
    if (m->poison)
        PARE_TRY(pare__poison_after(m, pare__time_loss(m)));
    PARE_TRY(tell_first(m));
    for (int i = (int)m->node_count - 1; i >= 0; i--) {
        pare__node *n = &m->nodes[i];
        if (!n->active)
            continue;
        if (m->hook)
            PARE_TRY(pare__hook_call(m, i, true));
        PARE_TRY(n->kind->backward(m, n));
        PARE_TRY(add_after(m, n));
        PARE_TRY(tell_after(m, i));
        if (m->poison)
            PARE_TRY(pare__poison_after(m, pare__time_backward(m, i)));
    }
    return PARE_OK;
}
