/* node_conv.c - a convolution over images [B, H, W, C], with a bias or without. Its inputs are
 * rounded first where the checkpoint has a scale for them (a8s).
 *
 * 2·B·H'·W'·O·(I/groups)·kh·kw operations forward, twice that backward. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 4, PARE_ERR_DAMAGED, "%s: a convolution needs images", n->name);
    int64_t h = pare_window_out(&n->a.window, 0, x.shape[1]);
    int64_t w = pare_window_out(&n->a.window, 1, x.shape[2]);
    PARE_REQUIRE(h > 0 && w > 0, PARE_ERR_DAMAGED,
                 "%s: an image of %lld × %lld is too small for this convolution", n->name,
                 (long long)x.shape[1], (long long)x.shape[2]);
    *y = x;
    y->shape[1] = h;
    y->shape[2] = w;
    y->shape[3] = n->a.width;
    PARE_TRY(pare__product_traits(m, n));
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x;
    PARE_TRY(pare__product_input(m, n, n->temp[0], &x));
    PARE_TRY(pare_conv(m->be, &(pare_conv_args){.x = x,
                                                .w = pare__param(m, n, 0)->value,
                                                .y = pare__out(m, n),
                                                .shift = pare__param_vector(m, n, 1),
                                                .window = n->a.window,
                                                .groups = n->a.groups}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    const pare_param *w = pare__param(m, n, 0);
    pare_tensor dy = pare__dy(m, n), dbias = pare__grad_vector(m, n, 1), x;
    if (w->grad.data) {
        PARE_TRY(pare__product_input(m, n, n->temp[1], &x));
        PARE_TRY(pare_conv_grad_w(m->be, &(pare_conv_grad_w_args){.x = x,
                                                                  .dy = dy,
                                                                  .dw = w->grad,
                                                                  .window = n->a.window,
                                                                  .groups = n->a.groups,
                                                                  .accumulate = true}));
    }
    if (dbias.data)
        PARE_TRY(pare_colsum(
            m->be, &(pare_colsum_args){.x = pare__rows(dy), .y = dbias, .accumulate = true}));
    if (n->want_grad & 1) {
        PARE_TRY(pare_conv_grad_x(m->be, &(pare_conv_grad_x_args){.dy = dy,
                                                                  .w = w->value,
                                                                  .dx = n->grad[0],
                                                                  .window = n->a.window,
                                                                  .groups = n->a.groups}));
        PARE_TRY(pare__product_cut(m, n));
    }
    return PARE_OK;
}

static double flops(const pare_model *m, const pare__node *n)
{
    pare_tensor y = pare__out(m, n), w = pare__param(m, n, 0)->value;
    return 2.0 * (double)pare_tensor_count(&y) * (double)(w.shape[1] * w.shape[2] * w.shape[3]);
}

const pare__node_kind pare__node_conv = {
    .name = "conv", .shape = shape, .forward = forward, .backward = backward, .flops = flops};
