/* node_glu.c - a gated unit: y = f(gate)·up. */
#include "node.h"

enum { GATE, UP };

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor gate = pare__in(m, n, GATE), up = pare__in(m, n, UP);
    PARE_REQUIRE(pare_tensor_count(&gate) == pare_tensor_count(&up), PARE_ERR_DAMAGED,
                 "%s: the gate and what it gates have different sizes", n->name);
    *y = gate;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_glu(m->be, &(pare_glu_args){.a = pare__flat(pare__in(m, n, GATE)),
                                              .b = pare__flat(pare__in(m, n, UP)),
                                              .y = pare__flat(pare__out(m, n)),
                                              .fn = n->a.fn}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_glu_grad(m->be, &(pare_glu_grad_args){.dy = pare__flat(pare__dy(m, n)),
                                                        .a = pare__flat(pare__in(m, n, GATE)),
                                                        .b = pare__flat(pare__in(m, n, UP)),
                                                        .da = pare__flat(n->grad[GATE]),
                                                        .db = pare__flat(n->grad[UP]),
                                                        .fn = n->a.fn}));
    return PARE_OK;
}

const pare__node_kind pare__node_glu = {
    .name = "glu",
    .traits = {.needs_inputs = 3, .in_place = true, .grad_over = 2, .always = 3},
    .shape = shape,
    .forward = forward,
    .backward = backward};
