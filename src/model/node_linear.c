/* node_linear.c - y = x·Wᵀ + bias.
 *
 *   dx = dy·W        dW = dyᵀ·x        dbias = Σ_rows dy
 *
 * Where the checkpoint's scheme rounds the inputs of this product (w…a8…), x is rounded first; the
 * gradient of the rounding is taken as 1 (straight through, Bengio 2013), and as 0 for what a fixed
 * scale cuts off. 2·R·in·out operations forward, twice that backward. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    *y = x;
    y->shape[x.rank - 1] = n->a.width;
    if (n->output == m->output && !pare__gives_act(m))
        y->dtype = PARE_F32;
    PARE_TRY(pare__product_traits(m, n));
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x;
    PARE_TRY(pare__product_input(m, n, n->temp[0], &x));
    PARE_TRY(pare_gemm(m->be, &(pare_gemm_args){.a = pare__rows(x),
                                                .b = pare__param(m, n, 0)->value,
                                                .c = pare__rows(pare__out(m, n)),
                                                .bias = pare__param_vector(m, n, 1),
                                                .trans_b = true}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    const pare_param *w = pare__param(m, n, 0);
    pare_tensor dy = pare__rows(pare__dy(m, n)), dbias = pare__grad_vector(m, n, 1), x;
    if (w->grad.data) {
        PARE_TRY(pare__product_input(m, n, n->temp[1], &x));
        PARE_TRY(pare_gemm(
            m->be,
            &(pare_gemm_args){
                .a = dy, .b = pare__rows(x), .c = w->grad, .trans_a = true, .accumulate = true}));
    }
    if (dbias.data)
        PARE_TRY(pare_colsum(m->be, &(pare_colsum_args){.x = dy, .y = dbias, .accumulate = true}));
    if (n->want_grad & 1) {
        PARE_TRY(pare_gemm(m->be, &(pare_gemm_args){.a = dy,
                                                    .b = w->value,
                                                    .c = pare__rows(n->grad[0]),
                                                    .accumulate = n->add_grad & 1}));
        PARE_TRY(pare__product_cut(m, n));
    }
    return PARE_OK;
}

static double flops(const pare_model *m, const pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    return 2.0 * (double)pare_tensor_count(&x) * (double)n->a.width;
}

const pare__node_kind pare__node_linear = {.name = "linear",
                                           .traits = {.adds_grad = 1},
                                           .shape = shape,
                                           .forward = forward,
                                           .backward = backward,
                                           .flops = flops};
