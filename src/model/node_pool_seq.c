/* node_pool_seq.c - the mean of a sequence's tokens, padding left out: [B, T, D] → [B, D]. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 3, PARE_ERR_DAMAGED, "%s: a mean over tokens needs a sequence", n->name);
    *y = pare_matrix(NULL, x.dtype, x.shape[0], x.shape[2]);
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_pool_seq(
        m->be,
        &(pare_pool_seq_args){.x = pare__in(m, n, 0), .keys = m->keys, .y = pare__out(m, n)}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(pare_pool_seq_grad(
        m->be,
        &(pare_pool_seq_grad_args){.dy = pare__dy(m, n), .keys = m->keys, .dx = n->grad[0]}));
    return PARE_OK;
}

const pare__node_kind pare__node_pool_seq = {
    .name = "pool_seq", .shape = shape, .forward = forward, .backward = backward};
