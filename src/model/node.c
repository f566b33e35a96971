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

/* Whether backward leaves out what a fixed scale cuts off. With a scale of its own no row is cut
 * off anywhere. */
static bool cuts(const pare_model *m, const pare__node *n)
{
    return pare__rounding(m, n) == PARE_ACT_STATIC && n->want_grad & 1;
}

pare_status pare__product_traits(const pare_model *m, pare__node *n)
{
    pare_tensor x = pare__in(m, n, 0);
    bool learns = pare__learns(pare__param(m, n, 0)), cut = cuts(m, n);
    int64_t bytes = 0;
    if (pare__rounding(m, n) != PARE_ACT_NONE)
        PARE_TRY(pare_shape_size(x.dtype, x.rank, x.shape, NULL, &bytes));
    n->temp_bytes[0] = bytes;
    n->temp_bytes[1] = learns ? bytes : 0;
    if (cut && n->temp_bytes[1] < (int64_t)sizeof(float))
        n->temp_bytes[1] = sizeof(float);
    n->traits.needs_inputs = learns || cut;
    n->traits.adds_grad = cut ? 0 : n->traits.adds_grad;
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

/* The rounded inputs in temp[1] have served their turn: the scale lies there. */
pare_status pare__product_cut(const pare_model *m, const pare__node *n)
{
    pare_tensor step = pare_matrix(n->temp[1], PARE_F32, 1, 1);
    pare_tensor x = pare__rows(pare__in(m, n, 0)), dx = pare__rows(n->grad[0]);
    if (!cuts(m, n))
        return PARE_OK;
    PARE_TRY(
        pare_fill(m->be, &(pare_fill_args){.y = step, .value = pare__param(m, n, 0)->act_scale}));
    PARE_TRY(pare_fake_quant_grad(m->be, &(pare_fake_quant_grad_args){.x = x,
                                                                      .step = step,
                                                                      .dy = dx,
                                                                      .dx = dx,
                                                                      .block_rows = INT64_MAX,
                                                                      .block_cols = INT64_MAX,
                                                                      .lo = -128,
                                                                      .hi = 127}));
    return PARE_OK;
}
