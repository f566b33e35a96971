/* node_rms_norm.c - RMS norm over the last axis, or over each head of it by itself (q/k norm). */
#include "node.h"

static pare_tensor by_head(const pare__node *n, pare_tensor t)
{
    pare_tensor rows = pare__rows(t);
    int64_t heads = n->a.head_dim > 0 ? rows.shape[1] / n->a.head_dim : 1;
    return pare_matrix(t.data, t.dtype, rows.shape[0] * heads,
                       heads > 0 ? rows.shape[1] / heads : 0);
}

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    int64_t width = y->shape[y->rank - 1];
    PARE_REQUIRE(n->a.head_dim <= 0 || width % n->a.head_dim == 0, PARE_ERR_DAMAGED,
                 "%s: %lld features do not part into heads of %lld", n->name, (long long)width,
                 (long long)n->a.head_dim);
    int64_t rows = by_head(n, *y).shape[0];
    n->saved_bytes[0] = m->shape.training ? rows * (int64_t)sizeof(float) : 0;
    return PARE_OK;
}

static pare_tensor saved(const pare__node *n, int64_t rows)
{
    return n->saved[0] ? pare_vector(n->saved[0], PARE_F32, rows) : (pare_tensor){0};
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = by_head(n, pare__in(m, n, 0));
    PARE_TRY(pare_rms_norm(m->be, &(pare_rms_norm_args){.x = x,
                                                        .gamma = pare__param_vector(m, n, 0),
                                                        .y = by_head(n, pare__out(m, n)),
                                                        .saved_scale = saved(n, x.shape[0]),
                                                        .eps = n->a.eps}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = by_head(n, pare__in(m, n, 0));
    PARE_TRY(
        pare_rms_norm_grad(m->be, &(pare_rms_norm_grad_args){.dy = by_head(n, pare__dy(m, n)),
                                                             .x = x,
                                                             .gamma = pare__param_vector(m, n, 0),
                                                             .saved_scale = saved(n, x.shape[0]),
                                                             .dx = by_head(n, n->grad[0]),
                                                             .dgamma = pare__grad_vector(m, n, 0),
                                                             .accumulate_x = n->add_grad & 1,
                                                             .accumulate = true}));
    return PARE_OK;
}

const pare__node_kind pare__node_rms_norm = {
    .name = "rms_norm",
    .traits = {.needs_inputs = 1, .adds_grad = 1, .grad_over = 1, .always = 1, .in_place = true},
    .shape = shape,
    .forward = forward,
    .backward = backward};
