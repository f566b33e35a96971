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

pare_status pare_model_backward(pare_model *model)
{
    PARE_REQUIRE(model && model->may_backward, PARE_ERR_ARGUMENT,
                 "backward needs a training forward before it, once each");
    pare_model *m = model;
    m->may_backward = false;
    if (m->output_grad_f32.data)
        PARE_TRY(pare__copy(m, m->output_grad_f32, m->values[m->output].grad, false));
    if (m->poison)
        PARE_TRY(pare__poison_after(m, pare__time_loss(m)));
    for (int i = (int)m->node_count - 1; i >= 0; i--) {
        pare__node *n = &m->nodes[i];
        if (!n->active)
            continue;
        if (m->hook)
            PARE_TRY(pare__hook_call(m, i, true));
        PARE_TRY(n->kind->backward(m, n));
        PARE_TRY(add_after(m, n));
        if (m->poison)
            PARE_TRY(pare__poison_after(m, pare__time_backward(m, i)));
    }
    return PARE_OK;
}
