/* node_concat.c - two values beside each other along the last axis. */
#include "node.h"

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor x = pare__in(m, n, 0), z = pare__in(m, n, 1);
    bool fits = x.rank == z.rank && x.rank > 0;
    for (int i = 0; fits && i + 1 < x.rank; i++)
        fits = x.shape[i] == z.shape[i];
    PARE_REQUIRE(fits, PARE_ERR_DAMAGED, "%s: the two that are joined have different sizes",
                 n->name);
    *y = x;
    PARE_REQUIRE(pare__add(x.shape[x.rank - 1], z.shape[x.rank - 1], &y->shape[x.rank - 1]),
                 PARE_ERR_DAMAGED, "%s: too wide", n->name);
    return PARE_OK;
}

static pare_status forward(pare_model *m, pare__node *n)
{
    int64_t at = 0;
    for (int i = 0; i < n->inputs; i++) {
        pare_tensor x = pare__rows(pare__in(m, n, i));
        PARE_TRY(pare_copy_cols(m->be, &(pare_copy_cols_args){.x = x,
                                                              .y = pare__rows(pare__out(m, n)),
                                                              .y_first = at,
                                                              .cols = x.shape[1]}));
        at += x.shape[1];
    }
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    int64_t at = 0;
    for (int i = 0; i < n->inputs; i++) {
        int64_t cols = pare__rows(pare__in(m, n, i)).shape[1];
        if (n->want_grad >> i & 1)
            PARE_TRY(
                pare_copy_cols(m->be, &(pare_copy_cols_args){.x = pare__rows(pare__dy(m, n)),
                                                             .y = pare__rows(n->grad[i]),
                                                             .x_first = at,
                                                             .cols = cols,
                                                             .accumulate = n->add_grad >> i & 1}));
        at += cols;
    }
    return PARE_OK;
}

const pare__node_kind pare__node_concat = {.name = "concat",
                                           .traits = {.adds_grad = 3},
                                           .shape = shape,
                                           .forward = forward,
                                           .backward = backward};
