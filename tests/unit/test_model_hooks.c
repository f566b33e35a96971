/* test_model_hooks.c - what a hook sees, and the first bad number. */
#include "model_fixture.h"

#include <math.h>

/* ---- hooks ----------------------------------------------------------------------------------- */

typedef struct watch {
    graph *g;
    int64_t forwards, backwards, last;
    int without_input; /* backward: inputs that are gone */
    bool in_order;
    pare_status answer;
} watch;

static pare_status look(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    watch *w = user;
    w->in_order = w->in_order && (backward ? node < w->last || w->last < 0 : node == w->last + 1);
    w->last = node;
    ++*(backward ? &w->backwards : &w->forwards);
    assert_non_null(view->name);
    assert_non_null(view->output.data);
    for (int i = 0; i < view->input_count; i++) {
        w->without_input += view->input[i].data == NULL;
        assert_true(view->input[i].rank > 0);
    }
    return w->answer;
}

static void hooks_see_every_node_in_order(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, true, PARE_F32);
    watch w = {.g = &g, .last = -1, .in_order = true};
    pare_model_set_hook(g.m, look, &w);
    graph_forward(&g);
    assert_true(w.in_order);
    assert_int_equal(w.forwards, pare_model_node_count(g.m));
    w.last = -1;
    assert_ok(pare_model_backward(g.m));
    assert_true(w.in_order);
    assert_int_equal(w.backwards, pare_model_node_count(g.m));
    pare_model_set_hook(g.m, NULL, NULL);
    graph_forward(&g);
    assert_int_equal(w.forwards, pare_model_node_count(g.m));
    graph_free(&g);
}

static void a_hook_that_fails_ends_the_run(void **state)
{
    (void)state;
    graph g = {0};
    graph_small_images(&g, true, PARE_F32);
    watch w = {.g = &g, .last = -1, .in_order = true, .answer = PARE_ERR_INTERRUPTED};
    pare_model_set_hook(g.m, look, &w);
    assert_int_equal(pare_model_forward(g.m, &g.batch, true, NULL), PARE_ERR_INTERRUPTED);
    assert_int_equal(w.forwards, 1);
    assert_status(pare_model_backward(g.m), PARE_ERR_ARGUMENT);
    graph_free(&g);
}

/* A view's input is the node's own while it is valid, and never memory that something else is in.
 */
typedef struct inputs {
    float *seen[64]; /* copies of outputs, by node */
    pare_model *m;
} inputs;

static pare_status compare(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    inputs *in = user;
    if (!backward)
        in->seen[node] = graph_copy(view->output);
    for (int i = 0; i < view->input_count; i++) {
        int producer = in->m->values[in->m->nodes[node].input[i]].producer;
        if (producer < 0 || !view->input[i].data)
            continue;
        for (int64_t e = 0; e < pare_tensor_count(&view->input[i]); e++)
            assert_true(graph_at(view->input[i], e) == in->seen[producer][e]);
    }
    return PARE_OK;
}

static void a_views_input_is_what_the_node_before_gave(void **state)
{
    (void)state;
    for (int tokens = 0; tokens < 2; tokens++) {
        graph g = {0};
        if (tokens)
            graph_small_tokens(&g, true, PARE_F32, PARE_OUTPUT_CLASSES);
        else
            graph_small_images(&g, true, PARE_F32);
        inputs in = {.m = g.m};
        pare_model_set_hook(g.m, compare, &in);
        graph_step(&g);
        for (int i = 0; i < 64; i++)
            free(in.seen[i]);
        graph_free(&g);
    }
}

static void the_first_bad_number_is_named(void **state)
{
    (void)state;
    char text[128];
    graph g = {0};
    graph_small_tokens(&g, true, PARE_F32, PARE_OUTPUT_CLASSES);
    graph_step(&g);
    assert_false(pare_model_first_bad(g.m, &g.batch, text, sizeof text));
    float *grad = g.m->params[2].grad.data, *weight = g.m->params[3].value.data;
    grad[1] = INFINITY;
    assert_true(pare_model_first_bad(g.m, NULL, text, sizeof text));
    assert_string_equal(text, "the gradient of q.weight");
    for (int i = 0; i < 32; i++)
        weight[i] = 3e38f; /* finite, its products are not */
    assert_true(pare_model_first_bad(g.m, &g.batch, text, sizeof text));
    assert_string_equal(text, "the output of k");
    weight[5] = NAN;
    assert_true(pare_model_first_bad(g.m, &g.batch, text, sizeof text));
    assert_string_equal(text, "k.weight");
    graph_free(&g);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(hooks_see_every_node_in_order),
        T(a_hook_that_fails_ends_the_run),
        T(a_views_input_is_what_the_node_before_gave),
        T(the_first_bad_number_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
