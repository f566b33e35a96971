/* node_prefix.c - puts a learned row before every sequence: [B, T, D] → [B, 1 + T, D]. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 3, PARE_ERR_DAMAGED, "%s: a row before it needs a sequence", n->name);
    *y = x;
    y->shape[1]++;
    int64_t bytes = 0;
    PARE_TRY(pare_shape_size(x.dtype, 2, (int64_t[]){x.shape[0], x.shape[2]}, NULL, &bytes));
    n->temp_bytes[1] = pare__learns(pare__param(m, n, 0)) ? bytes : 0;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0), y = pare__as_rows(pare__out(m, n), x.shape[0]);
    int64_t T = x.shape[1], D = x.shape[2];
    pare_tensor row = pare_matrix(pare__param(m, n, 0)->value.data, PARE_F32, 1, D);
    PARE_TRY(pare_copy_cols(m->be, &(pare_copy_cols_args){.x = row, .y = y, .cols = D}));
    PARE_TRY(pare_copy_cols(
        m->be, &(pare_copy_cols_args){
                   .x = pare__as_rows(x, x.shape[0]), .y = y, .y_first = D, .cols = T * D}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0), dy = pare__as_rows(pare__dy(m, n), x.shape[0]);
    pare_tensor grad = pare__grad_vector(m, n, 0);
    int64_t T = x.shape[1], D = x.shape[2];
    if (grad.data) {
        pare_tensor first = pare_matrix(n->temp[1], dy.dtype, x.shape[0], D);
        PARE_TRY(pare_copy_cols(m->be, &(pare_copy_cols_args){.x = dy, .y = first, .cols = D}));
        PARE_TRY(
            pare_colsum(m->be, &(pare_colsum_args){.x = first, .y = grad, .accumulate = true}));
    }
    if (n->want_grad & 1)
        PARE_TRY(
            pare_copy_cols(m->be, &(pare_copy_cols_args){.x = dy,
                                                         .y = pare__as_rows(n->grad[0], x.shape[0]),
                                                         .x_first = D,
                                                         .cols = T * D,
                                                         .accumulate = n->add_grad & 1}));
    return PARE_OK;
}

const pare__node_kind pare__node_prefix = {.name = "prefix",
                                           .traits = {.adds_grad = 1},
                                           .shape = shape,
                                           .forward = forward,
                                           .backward = backward};
