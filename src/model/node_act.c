/* node_act.c - a function of each element: y = f(x), dx = dy·f'(x). Start here to write your own
 * kind of node.
 *
 * relu'(x) can be told from y as well, so relu may write over its input even in training. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    n->traits.needs_output = n->a.fn == PARE_FN_RELU;
    n->traits.needs_inputs = n->a.fn != PARE_FN_RELU;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_act(m->be, &(pare_act_args){.x = pare__flat(pare__in(m, n, 0)),
                                              .y = pare__flat(pare__out(m, n)),
                                              .fn = n->a.fn}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = n->a.fn == PARE_FN_RELU ? pare__out(m, n) : pare__in(m, n, 0);
    PARE_TRY(pare_act_grad(m->be, &(pare_act_grad_args){.dy = pare__flat(pare__dy(m, n)),
                                                        .x = pare__flat(x),
                                                        .dx = pare__flat(n->grad[0]),
                                                        .fn = n->a.fn}));
    return PARE_OK;
}

const pare__node_kind pare__node_act = {.name = "act",
                                        .traits = {.in_place = true, .grad_over = 1},
                                        .shape = shape,
                                        .forward = forward,
                                        .backward = backward};
