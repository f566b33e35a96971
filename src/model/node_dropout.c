/* node_dropout.c - drops elements in training; else the value itself passes. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    PARE_REQUIRE(n->a.p >= 0 && n->a.p < 1, PARE_ERR_DAMAGED,
                 "%s: a share of %g cannot be dropped; it lies in [0, 1)", n->name, (double)n->a.p);
    *y = pare__in(m, n, 0);
    n->traits.view = !m->shape.training;
    return PARE_OK;
}

static pare_status drop(const pare_model *m, const pare__node *n, pare_tensor x, pare_tensor y)
{
    if (m->drops)
        PARE_TRY(pare_dropout(m->be, &(pare_dropout_args){.x = pare__flat(x),
                                                          .y = pare__flat(y),
                                                          .p = n->a.p,
                                                          .seed = m->seed.seed,
                                                          .stream = pare__node_stream(m, n)}));
    else
        PARE_TRY(pare__copy(m, x, y, false));
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(drop(m, n, pare__in(m, n, 0), pare__out(m, n)));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(drop(m, n, pare__dy(m, n), n->grad[0]));
    return PARE_OK;
}

const pare__node_kind pare__node_dropout = {.name = "dropout",
                                            .traits = {.in_place = true, .grad_over = 1},
                                            .shape = shape,
                                            .forward = forward,
                                            .backward = backward};
