/* node_batch_norm.c - batch norm, with a residual added after it (input 1) and relu.
 *
 * In training the statistics are the batch's, or frozen the running ones, and are saved for
 * backward; else they are the running ones, and a convolution before it takes them in: conv·scale +
 * shift, scale = gamma/sqrt(var + eps), shift = beta + (bias − mean)·scale. */
#include "node.h"

enum { GAMMA, BETA, MEAN, VAR };
enum { SAVED_MEAN, SAVED_SCALE };

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    *y = x;
    if (n->inputs > 1) {
        pare_tensor z = pare__in(m, n, 1);
        PARE_REQUIRE(pare_tensor_count(&z) == pare_tensor_count(&x), PARE_ERR_DAMAGED,
                     "%s: what is added to it has another size", n->name);
    }
    int64_t bytes = x.shape[x.rank - 1] * (int64_t)sizeof(float);
    bool training = m->shape.training;
    n->saved_bytes[SAVED_MEAN] = n->saved_bytes[SAVED_SCALE] = training ? bytes : 0;
    n->temp_bytes[0] = n->fused >= 0 ? 2 * bytes : 0;
    n->temp_bytes[1] = 2 * bytes; /* gradients of gamma and beta that are frozen */
    n->traits.needs_output = n->a.relu;
    n->traits.in_place = !training;
    /* The gradient of z is dy where y > 0: it takes dy's place; else that of x may. */
    n->traits.grad_over = n->want_grad & 2 ? 2 : 1;
    return PARE_OK;
}

static pare_tensor residual(const pare_model *m, const pare__node *n)
{
    return n->inputs > 1 ? pare__in(m, n, 1) : (pare_tensor){0};
}

static pare_tensor channels(void *data, int64_t C)
{
    return data ? pare_vector(data, PARE_F32, C) : (pare_tensor){0};
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__rows(pare__in(m, n, 0)), z = residual(m, n);
    void *mean = m->training ? n->saved[SAVED_MEAN] : NULL;
    void *scale = m->training ? n->saved[SAVED_SCALE] : NULL;
    PARE_TRY(pare_batch_norm(
        m->be, &(pare_batch_norm_args){.x = x,
                                       .gamma = pare__param_vector(m, n, GAMMA),
                                       .beta = pare__param_vector(m, n, BETA),
                                       .running_mean = pare__param_vector(m, n, MEAN),
                                       .running_var = pare__param_vector(m, n, VAR),
                                       .z = z.data ? pare__rows(z) : z,
                                       .y = pare__rows(pare__out(m, n)),
                                       .saved_mean = channels(mean, x.shape[1]),
                                       .saved_scale = channels(scale, x.shape[1]),
                                       .eps = n->a.eps,
                                       .momentum = n->a.momentum,
                                       .training = m->training && !m->shape.frozen_norms,
                                       .relu = n->a.relu}));
    return PARE_OK;
}

/* The parameter's gradient, or room for one that nobody wants. */
static pare_tensor grad_or(const pare_model *m, const pare__node *n, int i, float *room, int64_t C)
{
    pare_tensor grad = pare__grad_vector(m, n, i);
    return grad.data ? grad : channels(room, C);
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__rows(pare__in(m, n, 0)), none = {0};
    int64_t C = x.shape[1];
    float *room = n->temp[1];
    PARE_TRY(pare_batch_norm_grad(
        m->be, &(pare_batch_norm_grad_args){.dy = pare__rows(pare__dy(m, n)),
                                            .x = x,
                                            .y = n->a.relu ? pare__rows(pare__out(m, n)) : none,
                                            .gamma = pare__param_vector(m, n, GAMMA),
                                            .saved_mean = channels(n->saved[SAVED_MEAN], C),
                                            .saved_scale = channels(n->saved[SAVED_SCALE], C),
                                            .dx = pare__rows(n->grad[0]),
                                            .dz = n->want_grad & 2 ? pare__rows(n->grad[1]) : none,
                                            .dgamma = grad_or(m, n, GAMMA, room, C),
                                            .dbeta = grad_or(m, n, BETA, room + C, C),
                                            .frozen = m->shape.frozen_norms,
                                            .relu = n->a.relu,
                                            .accumulate = true}));
    return PARE_OK;
}

/* ---- with the convolution before it ---------------------------------------------------------- */

pare_status pare__conv_batch_norm(pare_model *m, pare__node *n)
{
    const pare__node *conv = &m->nodes[n->fused];
    int64_t C = conv->a.width;
    float *room = n->temp[0];
    pare_tensor scale = channels(room, C), shift = channels(room + C, C), x;
    PARE_TRY(pare__product_input(m, conv, conv->temp[0], &x));
    PARE_TRY(pare_batch_norm_fold(
        m->be, &(pare_batch_norm_fold_args){.gamma = pare__param_vector(m, n, GAMMA),
                                            .beta = pare__param_vector(m, n, BETA),
                                            .running_mean = pare__param_vector(m, n, MEAN),
                                            .running_var = pare__param_vector(m, n, VAR),
                                            .bias = pare__param_vector(m, conv, 1),
                                            .scale = scale,
                                            .shift = shift,
                                            .eps = n->a.eps}));
    PARE_TRY(pare_conv(m->be, &(pare_conv_args){.x = x,
                                                .w = pare__param(m, conv, 0)->value,
                                                .y = pare__out(m, n),
                                                .scale = scale,
                                                .shift = shift,
                                                .z = residual(m, n),
                                                .relu = n->a.relu,
                                                .window = conv->a.window,
                                                .groups = conv->a.groups}));
    return PARE_OK;
}

const pare__node_kind pare__node_batch_norm = {
    .name = "batch_norm",
    .traits = {.needs_inputs = 1, .grad_over = 1, .always = 1},
    .shape = shape,
    .forward = forward,
    .backward = backward};
