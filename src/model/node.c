/* node.c - what node kinds share: views, copies, streams of random numbers, rounded inputs. */
#include "node.h"

pare_tensor pare__rows(pare_tensor t)
{
    int64_t cols = t.rank > 0 ? t.shape[t.rank - 1] : 1, rows = 1;
    for (int i = 0; i + 1 < t.rank; i++)
        rows *= t.shape[i];
    return pare_matrix(t.data, t.dtype, rows, cols);
}

pare_tensor pare__as_rows(pare_tensor t, int64_t rows)
{
    return pare_matrix(t.data, t.dtype, rows, rows > 0 ? pare_tensor_count(&t) / rows : 0);
}

pare_tensor pare__flat(pare_tensor t)
{
    return pare_vector(t.data, t.dtype, pare_tensor_count(&t));
}

/* Streams of one seed must differ between any two (node, step): their product counts them. */
uint64_t pare__node_stream(const pare_model *m, const pare__node *n)
{
    return m->seed.step * (uint64_t)m->node_count + (uint64_t)(n - m->nodes);
}

pare_status pare__copy(const pare_model *m, pare_tensor x, pare_tensor y, bool add)
{
    if (add) {
        PARE_TRY(pare_add(
            m->be, &(pare_add_args){.a = pare__flat(y), .b = pare__flat(x), .y = pare__flat(y)}));
        return PARE_OK;
    }
    if (x.data != y.data)
        PARE_TRY(pare_cast(m->be, &(pare_cast_args){.x = pare__flat(x), .y = pare__flat(y)}));
    return PARE_OK;
}

/* ---- rounded inputs -------------------------------------------------------------------------- */

pare_activation pare__rounding(const pare_model *m, const pare__node *n)
{
    pare_activation act = pare__param(m, n, 0)->act;
    return n->kind == &pare__node_conv && act == PARE_ACT_DYNAMIC ? PARE_ACT_NONE : act;
}

pare_status pare__rounded_bytes(const pare_model *m, const pare__node *n, int64_t *bytes)
{
    pare_tensor x = pare__in(m, n, 0);
    *bytes = 0;
    if (pare__rounding(m, n) != PARE_ACT_NONE)
        PARE_TRY(pare_shape_size(x.dtype, x.rank, x.shape, NULL, bytes));
    return PARE_OK;
}

pare_status pare__product_input(const pare_model *m, const pare__node *n, void *temp,
                                pare_tensor *x)
{
    pare_activation act = pare__rounding(m, n);
    *x = pare__in(m, n, 0);
    if (act == PARE_ACT_NONE)
        return PARE_OK;
    PARE_REQUIRE(temp, PARE_ERR_ARGUMENT,
                 "%s rounds its inputs since a checkpoint was loaded: prepare the model again",
                 n->name);
    pare_tensor rounded = *x;
    rounded.data = temp;
    if (act == PARE_ACT_DYNAMIC)
        PARE_TRY(pare_quant_rows(
            m->be, &(pare_quant_rows_args){.x = pare__rows(*x), .y = pare__rows(rounded)}));
    else
        PARE_TRY(pare_quant_fixed(
            m->be, &(pare_quant_fixed_args){
                       .x = *x, .y = rounded, .scale = pare__param(m, n, 0)->act_scale}));
    *x = rounded;
    return PARE_OK;
}
