/* node_add.c - a residual sum, with relu or without. Its gradient is that of the output for both
 * inputs (with relu: where y > 0), so the three may be one piece of memory. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0), z = pare__in(m, n, 1);
    PARE_REQUIRE(pare_tensor_count(&x) == pare_tensor_count(&z), PARE_ERR_DAMAGED,
                 "%s: the two that are added have different sizes", n->name);
    *y = x;
    n->traits.needs_output = n->traits.writes_dy = n->a.relu;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_add(m->be, &(pare_add_args){.a = pare__flat(pare__in(m, n, 0)),
                                              .b = pare__flat(pare__in(m, n, 1)),
                                              .y = pare__flat(pare__out(m, n)),
                                              .relu = n->a.relu}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor dy = pare__flat(pare__dy(m, n));
    if (n->a.relu)
        PARE_TRY(pare_act_grad(
            m->be, &(pare_act_grad_args){
                       .dy = dy, .x = pare__flat(pare__out(m, n)), .dx = dy, .fn = PARE_FN_RELU}));
    for (int i = 0; i < n->inputs; i++)
        if (n->want_grad >> i & 1)
            PARE_TRY(pare__copy(m, dy, n->grad[i], n->add_grad >> i & 1));
    return PARE_OK;
}

const pare__node_kind pare__node_add = {
    .name = "add",
    .traits = {.in_place = true, .adds_grad = 3, .passes_grad = true},
    .shape = shape,
    .forward = forward,
    .backward = backward};
