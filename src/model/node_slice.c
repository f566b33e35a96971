/* node_slice.c - columns of the last axis; one token of each sequence ("row"). Both are columns of
 * a matrix: of [B·T, D], of [B, T·D]. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    *y = pare__in(m, n, 0);
    int64_t *width = &y->shape[y->rank - 1], first = n->a.first, cols = n->a.cols;
    PARE_REQUIRE(first >= 0 && cols > 0 && first <= *width && cols <= *width - first,
                 PARE_ERR_DAMAGED,
                 "%s: %lld features from %lld on are more than the %lld there are", n->name,
                 (long long)cols, (long long)first, (long long)*width);
    *width = cols;
    return PARE_OK;
}

static pare_status row_shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_REQUIRE(x.rank == 3 && n->a.first >= 0, PARE_ERR_DAMAGED,
                 "%s: one token can be taken of a sequence only", n->name);
    PARE_REQUIRE(n->a.first < x.shape[1], PARE_ERR_ARGUMENT,
                 "%s: token %lld is asked for, but there are %lld", n->name, (long long)n->a.first,
                 (long long)x.shape[1]);
    *y = pare_matrix(NULL, x.dtype, x.shape[0], x.shape[2]);
    return PARE_OK;
}

/* Columns [first, first + cols) of x, a matrix of these rows, are y; or the gradients alike. */
static pare_status take(const pare_model *m, const pare__node *n, int64_t rows, int64_t first)
{
    pare_tensor y = pare__as_rows(pare__out(m, n), rows);
    PARE_TRY(
        pare_copy_cols(m->be, &(pare_copy_cols_args){.x = pare__as_rows(pare__in(m, n, 0), rows),
                                                     .y = y,
                                                     .x_first = first,
                                                     .cols = y.shape[1]}));
    return PARE_OK;
}

static pare_status give(const pare_model *m, const pare__node *n, int64_t rows, int64_t first)
{
    pare_tensor dy = pare__as_rows(pare__dy(m, n), rows), dx = pare__as_rows(n->grad[0], rows);
    bool add = n->add_grad & 1;
    if (!add)
        PARE_TRY(pare_fill(m->be, &(pare_fill_args){.y = dx, .value = 0}));
    PARE_TRY(pare_copy_cols(
        m->be, &(pare_copy_cols_args){
                   .x = dy, .y = dx, .y_first = first, .cols = dy.shape[1], .accumulate = add}));
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    PARE_TRY(take(m, n, pare__rows(pare__in(m, n, 0)).shape[0], n->a.first));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    PARE_TRY(give(m, n, pare__rows(pare__in(m, n, 0)).shape[0], n->a.first));
    return PARE_OK;
}

static pare_status row_forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_TRY(take(m, n, x.shape[0], n->a.first * x.shape[2]));
    return PARE_OK;
}

static pare_status row_backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    PARE_TRY(give(m, n, x.shape[0], n->a.first * x.shape[2]));
    return PARE_OK;
}

const pare__node_kind pare__node_slice = {.name = "slice",
                                          .traits = {.adds_grad = 1},
                                          .shape = shape,
                                          .forward = forward,
                                          .backward = backward};

const pare__node_kind pare__node_row = {.name = "row",
                                        .traits = {.adds_grad = 1},
                                        .shape = row_shape,
                                        .forward = row_forward,
                                        .backward = row_backward};
