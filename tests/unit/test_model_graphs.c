/* test_model_graphs.c - graphs whose values meet again: gradients beside finite differences, and
 * the same bytes when all memory that is dead is filled with NaN. */
#include "model_fixture.h"

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

static const pare_window window_3x3 = {.kernel = {3, 3},
                                       .stride = {1, 1},
                                       .dilation = {1, 1},
                                       .pad_top = 1,
                                       .pad_left = 1,
                                       .pad_bottom = 1,
                                       .pad_right = 1};

/* What is dead as NaN gives what there is without: no memory is given away too early, none is read
 * before it is written. */
static void check_reuse(graph *g)
{
    size_t size, size2;
    void *clean = graph_bytes(g, &size);
    pare__model_poison(g->m, true);
    void *poisoned = graph_bytes(g, &size2);
    pare__model_poison(g->m, false);
    assert_int_equal(size, size2);
    assert_memory_equal(clean, poisoned, size);
    free(clean);
    free(poisoned);
}

static void finish(graph *g, int output, int most)
{
    graph_end(g, output);
    check_reuse(g);
    graph_check(g, most);
    graph_free(g);
}

static pare__build *plain(graph *g, int64_t B)
{
    graph_images(g, B, 1, 1, 1);
    return &g->b;
}

static int fc(graph *g, int x, int64_t out, const char *name)
{
    return pare__linear(&g->b, x, out, &(pare__linear_options){.bias = true}, name);
}

/* ---- by hand --------------------------------------------------------------------------------- */

static void a_residual_diamond(void **state)
{
    (void)state;
    for (int relu = 0; relu < 2; relu++)
        for (int swap = 0; swap < 2; swap++) {
            graph g = {.rng = 2};
            plain(&g, 3);
            int x = pare__act(&g.b, graph_leaf(&g, 2, SHAPE(3, 5)), PARE_FN_TANH);
            int y = pare__act(&g.b, fc(&g, x, 5, "fc"), PARE_FN_SILU);
            finish(&g, pare__residual(&g.b, swap ? y : x, swap ? x : y, relu), 0);
        }
}

/* y reads x directly and is added to it: their gradients must not be one piece of memory. */
static void a_sum_of_a_value_and_what_one_node_makes_of_it(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        graph g = {.rng = 2};
        plain(&g, 3);
        int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "in");
        int y = i == 0   ? fc(&g, x, 5, "fc")
                : i == 1 ? pare__act(&g.b, x, PARE_FN_GELU)
                : i == 4 ? pare__act(&g.b, x, PARE_FN_RELU)
                : i == 2 ? pare__layer_norm(&g.b, x, 1e-3f, true, "ln")
                         : pare__residual(&g.b, x, fc(&g, x, 5, "fc"), true);
        int sum = pare__residual(&g.b, x, y, false);
        finish(&g, fc(&g, sum, 3, "out"), 0);
    }
}

static void a_value_that_five_nodes_read(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 3);
    int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "in");
    int a = pare__act(&g.b, x, PARE_FN_SIGMOID), b = pare__softmax(&g.b, x);
    int c = fc(&g, x, 5, "fc");
    int d = pare__act(&g.b, x, PARE_FN_RELU);
    a = pare__residual(&g.b, pare__glu(&g.b, a, b, PARE_FN_SILU), c, false);
    finish(&g, pare__concat(&g.b, a, pare__residual(&g.b, d, x, false)), 0);
}

static void a_value_added_to_itself(void **state)
{
    (void)state;
    for (int relu = 0; relu < 2; relu++) {
        graph g = {0};
        plain(&g, 3);
        int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "in");
        int y = pare__residual(&g.b, x, x, relu);
        finish(&g, pare__concat(&g.b, y, pare__glu(&g.b, y, y, PARE_FN_TANH)), 0);
    }
}

/* The gradients of all terms are the same numbers, and none may be written over for another. */
static void chains_of_sums(void **state)
{
    (void)state;
    for (int order = 0; order < 6; order++) {
        graph g = {.rng = (uint64_t)order + 1};
        plain(&g, 3);
        int term[3];
        for (int i = 0; i < 3; i++)
            term[i] = graph_leaf(&g, 2, SHAPE(3, 5));
        for (int i = 0; i < 3; i++) {
            int k = (i + order) % 3;
            term[k] = order & 1 ? pare__act(&g.b, term[k], PARE_FN_TANH)
                                : pare__softmax(&g.b, fc(&g, term[k], 5, i ? "fc2" : "fc"));
        }
        int sum = pare__residual(&g.b, term[0], term[1], order == 3);
        sum = pare__residual(&g.b, term[2], sum, order == 4);
        finish(&g, pare__residual(&g.b, sum, pare__act(&g.b, sum, PARE_FN_SILU), false), 0);
    }
}

static void a_sum_with_relu_inside_a_sum(void **state)
{
    (void)state;
    graph g = {.rng = 5};
    plain(&g, 4);
    int x = fc(&g, graph_leaf(&g, 2, SHAPE(4, 6)), 6, "one");
    int y = fc(&g, graph_leaf(&g, 2, SHAPE(4, 6)), 6, "two");
    int inner = pare__residual(&g.b, x, y, true);
    int other = graph_leaf(&g, 2, SHAPE(4, 6));
    finish(&g, pare__residual(&g.b, other, inner, false), 0);
}

static void a_parameter_of_two_layers_gets_both_gradients(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 3);
    int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "fc");
    int y = fc(&g, pare__act(&g.b, x, PARE_FN_TANH), 5, "fc");
    assert_int_equal(pare_model_param_count(g.m), 3);
    finish(&g, y, 0);
}

static void an_embedding_tied_to_a_layer(void **state)
{
    (void)state;
    graph g = {0};
    graph_tokens(&g, 2, 3, 5, 0);
    int x = pare__embedding(&g.b, graph_input(&g), 5, 4, "wte.weight");
    finish(&g, pare__linear(&g.b, x, 5, &(pare__linear_options){.weight = "wte.weight"}, "head"),
           0);
}

static void a_tied_parameter_of_another_shape_is_refused(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 3);
    int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 4, "fc");
    assert_int_equal(fc(&g, x, 4, "fc"), -1);
    assert_int_equal(g.b.status, PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "fc.weight"));
    graph_free(&g);
}

/* Below a frozen half nothing runs backward, and what lies above is right. */
static void a_frozen_half(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 3);
    int x = pare__act(&g.b, fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "low"), PARE_FN_TANH);
    int y = fc(&g, pare__act(&g.b, fc(&g, x, 5, "mid"), PARE_FN_SILU), 4, "top");
    for (int i = 0; i < 3; i++)
        pare_model_param(g.m, i)->frozen = true;
    graph_end(&g, pare__concat(&g.b, y, x));
    for (size_t i = 0; i < g.m->node_count; i++)
        assert_int_equal(g.m->nodes[i].active, i >= 3);
    check_reuse(&g);
    graph_check(&g, 0);
    graph_free(&g);
}

/* Its forward is that of training although it has no backward. */
static void a_frozen_stem_with_a_batch_norm(void **state)
{
    (void)state;
    graph g = {.rng = 6};
    graph_images(&g, 3, 4, 4, 3);
    pare__build *b = &g.b;
    int x = pare__conv(b, graph_input(&g), 4, &window_3x3, 1, true, "stem");
    x = pare__batch_norm(b, x, 1e-3f, -1, true, "bn");
    x = pare__layer_norm(b, x, 1e-3f, true, "ln");
    for (int64_t i = 0; i < pare_model_param_count(g.m); i++)
        pare_model_param(g.m, i)->frozen = true;
    finish(&g, fc(&g, pare__pool_global(b, x), 3, "fc"), 0);
}

static void what_the_output_does_not_hang_on_has_no_gradient(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 3);
    int x = fc(&g, graph_leaf(&g, 2, SHAPE(3, 5)), 5, "in");
    fc(&g, pare__act(&g.b, x, PARE_FN_GELU), 5, "aside");
    graph_end(&g, fc(&g, x, 2, "out"));
    graph_step(&g);
    const float *grad = pare_model_param(g.m, 3)->grad.data;
    for (int i = 0; i < 25; i++)
        assert_true(grad[i] == 0);
    check_reuse(&g);
    graph_free(&g);
}

static void a_residual_block_of_convolutions(void **state)
{
    (void)state;
    for (int down = 0; down < 2; down++) {
        graph g = {.rng = 4};
        graph_images(&g, 3, 4, 4, 3);
        pare__build *b = &g.b;
        int x = pare__conv(b, graph_input(&g), 4, &window_3x3, 1, false, "stem");
        x = pare__batch_norm(b, x, 1e-3f, -1, true, "bn0");
        int y = pare__conv(b, x, 4, &window_3x3, 1, false, "conv1");
        y = pare__batch_norm(b, y, 1e-3f, -1, true, "bn1");
        y = pare__conv(b, y, 4, &window_3x3, 1, false, "conv2");
        int z = x;
        if (down)
            z = pare__batch_norm(b, pare__conv(b, x, 4, &window_3x3, 1, false, "side"), 1e-3f, -1,
                                 false, "bn3");
        y = pare__batch_norm(b, y, 1e-3f, z, true, "bn2");
        finish(&g, fc(&g, pare__pool_global(b, y), 3, "fc"), 12);
    }
}

/* ---- a transformer --------------------------------------------------------------------------- */

static int block(graph *g, int x, const char *name)
{
    pare__build *b = &g->b;
    const pare__attention_options o = {.heads = 2, .kv_heads = 1, .head_dim = 4, .causal = true};
    int h = pare__rms_norm(b, x, 1e-4f, 0, pare__name(b, "%s.norm1", name));
    int q = pare__linear(b, h, 8, NULL, pare__name(b, "%s.q", name));
    int k = pare__linear(b, h, 4, NULL, pare__name(b, "%s.k", name));
    int v = pare__linear(b, h, 4, NULL, pare__name(b, "%s.v", name));
    q = pare__rms_norm(b, q, 1e-4f, 4, pare__name(b, "%s.qnorm", name));
    q = pare__rotary(b, q, 2, 4);
    k = pare__rotary(b, k, 1, 4);
    int a = pare__attention(b, q, k, v, &o, pare__name(b, "%s.attn", name));
    a = pare__dropout(b, pare__linear(b, a, 8, NULL, pare__name(b, "%s.o", name)), 0.1f);
    x = pare__residual(b, x, a, false);
    h = pare__rms_norm(b, x, 1e-4f, 0, pare__name(b, "%s.norm2", name));
    int gate = pare__linear(b, h, 6, NULL, pare__name(b, "%s.gate", name));
    int up = pare__linear(b, h, 6, NULL, pare__name(b, "%s.up", name));
    int y = pare__glu(b, gate, up, PARE_FN_SILU);
    y = pare__linear(b, y, 8, NULL, pare__name(b, "%s.down", name));
    return pare__residual(b, x, y, false);
}

static void build_transformer(graph *g)
{
    graph_tokens(g, 2, 5, 7, 4);
    int x = pare__embedding(&g->b, graph_input(g), 7, 8, "wte");
    x = block(g, block(g, x, "0"), "1");
    x = pare__rms_norm(&g->b, x, 1e-4f, 0, "norm");
    graph_end(g, pare__linear(&g->b, x, 7, &(pare__linear_options){.weight = "wte"}, "head"));
    g->drops = true;
}

static void two_blocks_of_a_transformer(void **state)
{
    (void)state;
    graph g = {0};
    build_transformer(&g);
    check_reuse(&g);
    graph_check(&g, 10);
    graph_free(&g);
}

/* The residual stream's gradient is one buffer from the last sum to the embedding. */
static void gradients_of_residual_sums_share_memory(void **state)
{
    (void)state;
    graph g = {0};
    build_transformer(&g);
    int stream = -1, sums = 0;
    for (size_t i = g.m->node_count; i-- > 0;) {
        const pare__node *n = &g.m->nodes[i];
        if (n->kind != &pare__node_add)
            continue;
        int mine = g.m->values[n->output].grad_buffer;
        assert_true(stream < 0 || stream == mine);
        stream = mine;
        for (int k = 0; k < 2; k++)
            assert_int_equal(g.m->values[n->input[k]].grad_buffer, stream);
        sums++;
    }
    assert_int_equal(sums, 4);
    graph_free(&g);
}

/* ---- by chance ------------------------------------------------------------------------------- */

#define VALUES 40

/* A node of some kind over values [B, 6] that are there. */
static int random_node(graph *g, const int *values, int count, int index)
{
    pare__build *b = &g->b;
    int x = values[graph_below(g, count)], z = values[graph_below(g, count)];
    const char *name = pare__name(b, "n%d", index - (int)graph_below(g, 2)); /* some are tied */
    switch (graph_below(g, 11)) {
    case 0:
        return pare__act(b, x, (pare_fn)(PARE_FN_GELU + graph_below(g, 6)));
    case 1:
        return pare__glu(b, x, z, PARE_FN_SILU);
    case 2:
        return pare__softmax(b, x);
    case 3:
        return pare__layer_norm(b, x, 1e-2f, true, pare__name(b, "ln%d", index));
    case 4:
        return pare__rms_norm(b, x, 1e-2f, graph_below(g, 2) * 3, pare__name(b, "rms%d", index));
    case 5:
        return pare__slice(b, pare__concat(b, x, z), 1 + graph_below(g, 5), 6);
    case 6:
        return pare__dropout(b, x, 0.2f);
    case 7:
        return pare__batch_norm(b, x, 1e-1f, graph_below(g, 2) ? z : -1, false,
                                pare__name(b, "bn%d", index));
    case 8:
        return fc(g, x, 6, name);
    default:
        return pare__residual(b, x, z, graph_below(g, 8) == 0);
    }
}

static void random_graphs(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        graph g = {.rng = seed * 977};
        plain(&g, 4);
        int values[VALUES + 2], count = 2, nodes = 4 + (int)(seed % VALUES / 2);
        values[0] = graph_leaf(&g, 2, SHAPE(4, 6));
        values[1] = graph_leaf(&g, 2, SHAPE(4, 6));
        for (int i = 0; i < nodes; i++, count++)
            values[count] = random_node(&g, values, count, i);
        /* what nobody reads joins the output */
        int output = values[count - 1];
        for (int i = 0; i + 1 < count; i++)
            if (g.m->values[values[i]].consumers == 0)
                output = pare__residual(&g.b, pare__softmax(&g.b, values[i]), output, false);
        for (int64_t p = 0; p < pare_model_param_count(g.m); p++)
            pare_model_param(g.m, p)->frozen |= graph_below(&g, 6) == 0;
        pare_model_param(g.m, 0)->frozen = false;
        g.drops = true;
        output = pare__residual(&g.b, output, pare__act(&g.b, values[0], PARE_FN_TANH), false);
        graph_end(&g, output);
        check_reuse(&g);
        graph_check(&g, 4);
        graph_free(&g);
    }
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_residual_diamond),
        T(a_sum_of_a_value_and_what_one_node_makes_of_it),
        T(a_value_that_five_nodes_read),
        T(a_value_added_to_itself),
        T(chains_of_sums),
        T(a_sum_with_relu_inside_a_sum),
        T(a_parameter_of_two_layers_gets_both_gradients),
        T(an_embedding_tied_to_a_layer),
        T(a_tied_parameter_of_another_shape_is_refused),
        T(a_frozen_half),
        T(a_frozen_stem_with_a_batch_norm),
        T(what_the_output_does_not_hang_on_has_no_gradient),
        T(a_residual_block_of_convolutions),
        T(two_blocks_of_a_transformer),
        T(gradients_of_residual_sums_share_memory),
        T(random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
