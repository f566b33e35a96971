/* node_rotary.c - turns pairs of a head's elements by the angle of their position; backward turns
 * back. */
#include "rotary.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    PARE_REQUIRE(y->rank == 3 && n->a.heads > 0 &&
                     y->shape[2] == (int64_t)n->a.heads * n->a.head_dim && m->rotary,
                 PARE_ERR_DAMAGED, "%s: %d heads of %lld do not make up its input", n->name,
                 n->a.heads, (long long)n->a.head_dim);
    return PARE_OK;
}

static pare_status turn(pare_model *m, const pare__node *n, pare_tensor x, pare_tensor y,
                        bool inverse)
{
    pare_rotary_args args = {.x = pare__rows(x),
                             .y = pare__rows(y),
                             .T = x.shape[1],
                             .heads = n->a.heads,
                             .inverse = inverse};
    PARE_TRY(pare__rotary_tables(m, x.shape[1], &args.cos, &args.sin));
    PARE_TRY(pare_rotary(m->be, &args));
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(turn(m, n, pare__in(m, n, 0), pare__out(m, n), false));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(turn(m, n, pare__dy(m, n), n->grad[0], true));
    return PARE_OK;
}

const pare__node_kind pare__node_rotary = {.name = "rotary",
                                           .traits = {.in_place = true, .grad_over = 1},
                                           .shape = shape,
                                           .forward = forward,
                                           .backward = backward};
