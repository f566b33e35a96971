/* node_embedding.c - token ids to rows of a table. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor ids = pare__in(m, n, 0);
    PARE_REQUIRE(ids.rank == 2 && ids.dtype == PARE_I32, PARE_ERR_DAMAGED,
                 "%s: an embedding needs token ids", n->name);
    *y = (pare_tensor){
        .dtype = m->shape.compute, .rank = 3, .shape = {ids.shape[0], ids.shape[1], n->a.width}};
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_embedding(m->be, &(pare_embedding_args){.ids = pare__flat(pare__in(m, n, 0)),
                                                          .w = pare__param(m, n, 0)->value,
                                                          .y = pare__rows(pare__out(m, n))}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(
        pare_embedding_grad(m->be, &(pare_embedding_grad_args){.ids = pare__flat(pare__in(m, n, 0)),
                                                               .dy = pare__rows(pare__dy(m, n)),
                                                               .dw = pare__param(m, n, 0)->grad}));
    return PARE_OK;
}

const pare__node_kind pare__node_embedding = {.name = "embedding",
                                              .traits = {.needs_inputs = 1},
                                              .shape = shape,
                                              .forward = forward,
                                              .backward = backward};
