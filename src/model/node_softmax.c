/* node_softmax.c - softmax over the last axis. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_softmax(m->be, &(pare_softmax_args){.x = pare__rows(pare__in(m, n, 0)),
                                                      .y = pare__rows(pare__out(m, n))}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_softmax_grad(m->be, &(pare_softmax_grad_args){.dy = pare__rows(pare__dy(m, n)),
                                                                .y = pare__rows(pare__out(m, n)),
                                                                .dx = pare__rows(n->grad[0])}));
    return PARE_OK;
}

const pare__node_kind pare__node_softmax = {
    .name = "softmax",
    .traits = {.needs_output = true, .in_place = true, .grad_over = 1},
    .shape = shape,
    .forward = forward,
    .backward = backward};
