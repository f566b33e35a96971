/* node_position.c - adds rows of a learned table to a sequence: row offset + t to token t, or the
 * same row to all. The gradient of x is dy itself. */
#include "node.h"

/* Rows [offset, offset + count) of the table or of its gradient. */
static pare_tensor table_rows(const pare_model *m, const pare__node *n, pare_tensor table,
                              int64_t count)
{
    pare_tensor x = pare__in(m, n, 0);
    int64_t D = x.shape[2];
    return pare_vector((float *)table.data + n->a.offset * D, PARE_F32, count * D);
}

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0), table = pare__param(m, n, 0)->value;
    PARE_REQUIRE(x.rank == 3, PARE_ERR_DAMAGED, "%s: positions need a sequence", n->name);
    int64_t rows = pare_tensor_count(&table) / (x.shape[2] > 0 ? x.shape[2] : 1);
    int64_t wanted = n->a.one_row ? 1 : x.shape[1];
    PARE_REQUIRE(n->a.offset >= 0 && n->a.offset <= rows && wanted <= rows - n->a.offset,
                 PARE_ERR_ARGUMENT,
                 "%s has positions for %lld tokens, %lld are asked for: take a shorter length",
                 n->name, (long long)(rows - n->a.offset), (long long)wanted);
    *y = x;
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0), y = pare__out(m, n), table = pare__param(m, n, 0)->value;
    if (n->a.one_row) {
        PARE_TRY(pare_add_rows(m->be, &(pare_add_rows_args){.x = pare__rows(x),
                                                            .y = pare__rows(y),
                                                            .v = table_rows(m, n, table, 1)}));
        return PARE_OK;
    }
    PARE_TRY(pare_add_rows(m->be, &(pare_add_rows_args){.x = pare__as_rows(x, x.shape[0]),
                                                        .y = pare__as_rows(y, x.shape[0]),
                                                        .v = table_rows(m, n, table, x.shape[1])}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0), dy = pare__dy(m, n), grad = pare__param(m, n, 0)->grad;
    if (grad.data)
        PARE_TRY(pare_colsum(
            m->be,
            &(pare_colsum_args){.x = n->a.one_row ? pare__rows(dy) : pare__as_rows(dy, x.shape[0]),
                                .y = table_rows(m, n, grad, n->a.one_row ? 1 : x.shape[1]),
                                .accumulate = true}));
    if (n->want_grad & 1)
        PARE_TRY(pare__copy(m, dy, n->grad[0], n->add_grad & 1));
    return PARE_OK;
}

const pare__node_kind pare__node_position = {
    .name = "position",
    .traits = {.in_place = true, .adds_grad = 1, .passes_grad = true},
    .shape = shape,
    .forward = forward,
    .backward = backward};
