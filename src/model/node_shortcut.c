/* node_shortcut.c - a residual path to fewer pixels and more channels without parameters: every
 * stride-th pixel, new channels 0, half of them before (option A of He 2015). */
#include "node.h"

static int64_t before(const pare__node *n, const pare_tensor *x)
{
    return (n->a.width - x->shape[3]) / 2;
}

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 4 && n->a.stride > 0 && n->a.width >= x.shape[3], PARE_ERR_DAMAGED,
                 "%s: a shortcut needs images and at least as many channels", n->name);
    int64_t s = n->a.stride;
    *y = x;
    y->shape[1] = (x.shape[1] + s - 1) / s;
    y->shape[2] = (x.shape[2] + s - 1) / s;
    y->shape[3] = n->a.width;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_TRY(pare_shortcut(
        m->be, &(pare_shortcut_args){
                   .x = x, .y = pare__out(m, n), .stride = n->a.stride, .before = before(n, &x)}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor dx = n->grad[0];
    PARE_TRY(pare_shortcut_grad(m->be, &(pare_shortcut_grad_args){.dy = pare__dy(m, n),
                                                                  .dx = dx,
                                                                  .stride = n->a.stride,
                                                                  .before = before(n, &dx)}));
    return PARE_OK;
}

const pare__node_kind pare__node_shortcut = {
    .name = "shortcut", .shape = shape, .forward = forward, .backward = backward};
