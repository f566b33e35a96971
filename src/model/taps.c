/* taps.c - values that losses look at: the plan keeps them as if a last reader stood behind the
 * last node, whose gradient is what losses add. */
#include "node.h"

static bool is_tap(const pare_model *m, int64_t tap)
{
    return m && tap >= 0 && (size_t)tap < m->tap_count;
}

pare_status pare_model_tap(pare_model *model, int64_t node, int input, int64_t *tap)
{
    pare_model *m = model;
    PARE_REQUIRE(m && tap && node >= 0 && (size_t)node < m->node_count, PARE_ERR_ARGUMENT,
                 "a tap needs a node of a model and a place for its number");
    const pare__node *n = &m->nodes[node];
    PARE_REQUIRE(input >= -1 && input < n->inputs, PARE_ERR_ARGUMENT,
                 "%s reads %d values: it has no input %d", n->name, n->inputs, input);
    int value = input < 0 ? n->output : n->input[input];
    PARE_REQUIRE(m->values[value].producer >= 0, PARE_ERR_ARGUMENT,
                 "%s reads the model's own input, which takes no tap", n->name);
    for (size_t i = 0; i < m->tap_count; i++)
        if (m->taps[i] == value) {
            *tap = (int64_t)i;
            return PARE_OK;
        }
    PARE_TRY(pare__grow(&m->taps, &m->tap_capacity, m->tap_count + 1, sizeof *m->taps));
    m->taps[m->tap_count] = value;
    m->values[value].tapped = true;
    *tap = (int64_t)m->tap_count++;
    m->prepared = m->may_backward = false; /* for another plan */
    return PARE_OK;
}

int64_t pare_model_tap_count(const pare_model *model)
{
    return model ? (int64_t)model->tap_count : 0;
}

pare_tensor pare_model_tap_value(const pare_model *model, int64_t tap)
{
    return is_tap(model, tap) ? model->values[model->taps[tap]].tensor : (pare_tensor){0};
}

pare_tensor pare_model_tap_grad(const pare_model *model, int64_t tap)
{
    if (!is_tap(model, tap))
        return (pare_tensor){0};
    const pare__value *v = &model->values[model->taps[tap]];
    pare_tensor grad = v->tensor;
    grad.data = model->taps[tap] == model->output ? model->output_tap_grad : v->grad.data;
    return grad;
}

pare_status pare__taps_clear(const pare_model *m)
{
    for (size_t i = 0; i < m->tap_count; i++) {
        pare_tensor grad = pare_model_tap_grad(m, (int64_t)i);
        if (grad.data)
            PARE_TRY(pare_fill(m->be, &(pare_fill_args){.y = pare__flat(grad), .value = 0}));
    }
    return PARE_OK;
}

pare_status pare__taps_begin(const pare_model *m)
{
    pare_tensor grad = m->values[m->output].grad;
    if (!m->output_tap_grad)
        return PARE_OK;
    pare_tensor added = grad;
    added.data = m->output_tap_grad;
    PARE_TRY(pare__copy(m, added, grad, true));
    return PARE_OK;
}
