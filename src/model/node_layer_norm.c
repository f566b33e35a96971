/* node_layer_norm.c - layer norm over the last axis. */
#include "node.h"

enum { GAMMA, BETA };
enum { SAVED_MEAN, SAVED_SCALE };

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    int64_t bytes = pare__rows(*y).shape[0] * (int64_t)sizeof(float);
    n->saved_bytes[SAVED_MEAN] = n->saved_bytes[SAVED_SCALE] = m->shape.training ? bytes : 0;
    return PARE_OK;
}

static pare_tensor saved(const pare__node *n, int i, int64_t rows)
{
    return n->saved[i] ? pare_vector(n->saved[i], PARE_F32, rows) : (pare_tensor){0};
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__rows(pare__in(m, n, 0));
    PARE_TRY(pare_layer_norm(
        m->be, &(pare_layer_norm_args){.x = x,
                                       .gamma = pare__param_vector(m, n, GAMMA),
                                       .beta = pare__param_vector(m, n, BETA),
                                       .y = pare__rows(pare__out(m, n)),
                                       .saved_mean = saved(n, SAVED_MEAN, x.shape[0]),
                                       .saved_scale = saved(n, SAVED_SCALE, x.shape[0]),
                                       .eps = n->a.eps}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__rows(pare__in(m, n, 0));
    PARE_TRY(pare_layer_norm_grad(
        m->be, &(pare_layer_norm_grad_args){.dy = pare__rows(pare__dy(m, n)),
                                            .x = x,
                                            .gamma = pare__param_vector(m, n, GAMMA),
                                            .saved_mean = saved(n, SAVED_MEAN, x.shape[0]),
                                            .saved_scale = saved(n, SAVED_SCALE, x.shape[0]),
                                            .dx = pare__rows(n->grad[0]),
                                            .dgamma = pare__grad_vector(m, n, GAMMA),
                                            .dbeta = pare__grad_vector(m, n, BETA),
                                            .accumulate_x = n->add_grad & 1,
                                            .accumulate = true}));
    return PARE_OK;
}

const pare__node_kind pare__node_layer_norm = {
    .name = "layer_norm",
    .traits = {.needs_inputs = 1, .adds_grad = 1, .grad_over = 1, .always = 1, .in_place = true},
    .shape = shape,
    .forward = forward,
    .backward = backward};
