/* test_model_grad.c - of every kind of node, the gradients of inputs and parameters beside finite
 * differences. */
#include "model_fixture.h"

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

static const pare_window window_3x3 = {.kernel = {3, 3},
                                       .stride = {1, 1},
                                       .dilation = {1, 1},
                                       .pad_top = 1,
                                       .pad_left = 1,
                                       .pad_bottom = 1,
                                       .pad_right = 1};
static const pare_window window_odd = {.kernel = {2, 3},
                                       .stride = {2, 1},
                                       .dilation = {1, 2},
                                       .pad_top = 1,
                                       .pad_left = 0,
                                       .pad_bottom = 0,
                                       .pad_right = 2};
static const pare_window window_2x2 = {.kernel = {2, 2}, .stride = {2, 2}, .dilation = {1, 1}};

static void finish(graph *g, int output, int most)
{
    graph_end(g, output);
    graph_check(g, most);
    graph_free(g);
}

/* A graph on images of a pixel: everything comes from leaves. */
static pare__build *plain(graph *g, int64_t B)
{
    graph_images(g, B, 1, 1, 1);
    return &g->b;
}

/* ---- products -------------------------------------------------------------------------------- */

static void linear_layers(void **state)
{
    (void)state;
    static const pare__linear_options options[] = {
        {.bias = true}, {.bias = false}, {.bias = true, .transposed = true}};
    for (size_t i = 0; i < 3; i++) {
        graph g = {.rng = i + 1};
        pare__build *b = plain(&g, 5);
        int x = graph_leaf(&g, 2, SHAPE(5, 7));
        finish(&g, pare__linear(b, x, 3, &options[i], "fc"), 0);
    }
    graph g = {0};
    pare__build *b = plain(&g, 2);
    int x = graph_leaf(&g, 3, SHAPE(2, 3, 4));
    finish(&g, pare__linear(b, x, 5, &options[0], "fc"), 0);
}

static void frozen_parameters_have_no_gradient_and_the_others_theirs(void **state)
{
    (void)state;
    for (int frozen = 0; frozen < 3; frozen++) {
        graph g = {0};
        pare__build *b = plain(&g, 4);
        int x = graph_leaf(&g, 2, SHAPE(4, 6));
        int y = pare__linear(b, x, 5, &(pare__linear_options){.bias = true}, "fc");
        pare_model_param(g.m, frozen)->frozen = true;
        graph_end(&g, y);
        for (int i = 0; i < 3; i++)
            assert_int_equal(pare_model_param(g.m, i)->grad.data == NULL, i == frozen);
        graph_check(&g, 0);
        graph_free(&g);
    }
}

static void convolutions(void **state)
{
    (void)state;
    const pare_window *windows[] = {&window_3x3, &window_odd, &window_2x2};
    for (size_t i = 0; i < 3; i++) {
        graph g = {.rng = i + 1};
        pare__build *b = plain(&g, 2);
        int x = graph_leaf(&g, 4, SHAPE(2, 5, 6, 4));
        finish(&g, pare__conv(b, x, 6, windows[i], i == 2 ? 2 : 1, i != 1, "conv"), 40);
    }
}

static void a_depthwise_convolution(void **state)
{
    (void)state;
    graph g = {0};
    pare__build *b = plain(&g, 2);
    int x = graph_leaf(&g, 4, SHAPE(2, 5, 5, 3));
    finish(&g, pare__conv(b, x, 3, &window_3x3, 3, true, "conv"), 40);
}

/* ---- norms ----------------------------------------------------------------------------------- */

static void batch_norms_with_and_without_residual_and_relu(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        graph g = {.rng = (uint64_t)i + 5};
        pare__build *b = plain(&g, 3);
        int x = graph_leaf(&g, 4, SHAPE(3, 2, 3, 4));
        int z = i & 1 ? graph_leaf(&g, 4, SHAPE(3, 2, 3, 4)) : -1;
        finish(&g, pare__batch_norm(b, x, 1e-3f, z, i & 2, "bn"), 0);
    }
}

static pare_tensor value_of(const graph *g, const char *name)
{
    for (size_t i = 0; i < g->m->param_count; i++)
        if (strcmp(g->m->params[i].name, name) == 0)
            return g->m->params[i].value;
    fail_msg("there is no %s", name);
    return (pare_tensor){0};
}

/* The running statistics are constants: they stay, and forward is that of inference. */
static void batch_norms_of_frozen_statistics(void **state)
{
    (void)state;
    const pare_model_shape shape = {
        .batch = 3, .training = true, .frozen_norms = true, .compute = PARE_F32};
    for (int i = 0; i < 4; i++) {
        graph g = {.rng = (uint64_t)i + 5};
        pare__build *b = plain(&g, 3);
        int x = graph_leaf(&g, 4, SHAPE(3, 2, 3, 4));
        int z = i & 1 ? graph_leaf(&g, 4, SHAPE(3, 2, 3, 4)) : -1;
        int y = pare__batch_norm(b, x, 1e-3f, z, i & 2, "bn");
        graph_end_as(&g, y, PARE_OUTPUT_CLASSES, &shape);
        pare_tensor mean = value_of(&g, "bn.running_mean");
        float *before = graph_copy(mean);
        graph_check(&g, 0);
        assert_memory_equal(before, mean.data, 4 * sizeof *before);
        graph_forward(&g);
        float *training = graph_copy(pare_model_output(g.m));
        assert_ok(pare_model_forward(g.m, &g.batch, false, NULL));
        assert_memory_equal(training, pare_model_output(g.m).data, 72 * sizeof *training);
        free(training);
        free(before);
        graph_free(&g);
    }
}

static void a_batch_norm_whose_scale_is_frozen(void **state)
{
    (void)state;
    graph g = {0};
    pare__build *b = plain(&g, 6);
    int x = graph_leaf(&g, 2, SHAPE(6, 4));
    int y = pare__batch_norm(b, x, 1e-3f, -1, true, "bn");
    pare_model_param(g.m, 1)->frozen = pare_model_param(g.m, 2)->frozen = true;
    finish(&g, y, 0);
}

static void a_batch_norm_above_what_nobody_learns(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 5, 2, 2, 3);
    finish(&g, pare__batch_norm(&g.b, graph_input(&g), 1e-3f, -1, false, "bn"), 0);
}

static void layer_norms(void **state)
{
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        graph g = {0};
        pare__build *b = plain(&g, 3);
        int x = graph_leaf(&g, 3, SHAPE(3, 2, 9));
        finish(&g, pare__layer_norm(b, x, 1e-4f, bias, "ln"), 0);
    }
}

static void rms_norms_of_rows_and_of_heads(void **state)
{
    (void)state;
    for (int heads = 0; heads < 2; heads++) {
        graph g = {0};
        pare__build *b = plain(&g, 3);
        int x = graph_leaf(&g, 3, SHAPE(3, 2, 8));
        finish(&g, pare__rms_norm(b, x, 1e-4f, heads ? 4 : 0, "norm"), 0);
    }
}

/* ---- sequences ------------------------------------------------------------------------------- */

static void embeddings_with_positions(void **state)
{
    (void)state;
    for (int one = 0; one < 2; one++) {
        graph g = {0};
        graph_tokens(&g, 3, 4, 5, 0);
        pare__build *b = &g.b;
        int x = pare__embedding(b, graph_input(&g), 5, 6, "wte");
        finish(&g, pare__position(b, x, 9, 2, one, "wpe"), 0);
    }
}

static void a_row_before_each_sequence(void **state)
{
    (void)state;
    graph g = {0};
    pare__build *b = plain(&g, 3);
    int x = graph_leaf(&g, 3, SHAPE(3, 2, 5));
    finish(&g, pare__prefix_row(b, x, "cls"), 0);
}

static void rotary_positions(void **state)
{
    (void)state;
    graph g = {0};
    graph_tokens(&g, 2, 5, 3, 4);
    int x = graph_leaf(&g, 3, SHAPE(2, 5, 12));
    finish(&g, pare__rotary(&g.b, x, 3, 4), 0);
}

typedef struct attention_case {
    pare__attention_options o;
    bool keys, drops;
} attention_case;

static const attention_case attentions[] = {
    {.o = {.heads = 2, .kv_heads = 2, .head_dim = 4}},
    {.o = {.heads = 4, .kv_heads = 2, .head_dim = 3, .causal = true}},
    {.o = {.heads = 2, .kv_heads = 1, .head_dim = 4, .causal = true, .sliding = 2}},
    {.o = {.heads = 2, .kv_heads = 2, .head_dim = 4, .scale = 0.3f}, .keys = true},
    {.o = {.heads = 2, .kv_heads = 2, .head_dim = 4, .causal = true, .dropout = 0.3f},
     .drops = true},
};

static void attention_with_groups_windows_padding_and_dropout(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++) {
        const attention_case *c = &attentions[i];
        graph g = {.rng = i + 1};
        graph_tokens(&g, 2, 6, 3, 0);
        int64_t D = c->o.head_dim;
        int q = graph_leaf(&g, 3, SHAPE(2, 6, c->o.heads * D));
        int k = graph_leaf(&g, 3, SHAPE(2, 6, c->o.kv_heads * D));
        int v = graph_leaf(&g, 3, SHAPE(2, 6, c->o.kv_heads * D));
        g.drops = c->drops;
        static const uint8_t keys[12] = {1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1};
        if (c->keys)
            g.batch.keys = keys;
        finish(&g, pare__attention(&g.b, q, k, v, &c->o, "attn"), 0);
    }
}

static void attention_of_one_value_over_itself(void **state)
{
    (void)state;
    graph g = {0};
    graph_tokens(&g, 2, 5, 3, 0);
    int x = graph_leaf(&g, 3, SHAPE(2, 5, 8));
    finish(&g, pare__attention(&g.b, x, x, x, &attentions[0].o, "attn"), 0);
}

static void attention_whose_keys_nobody_learns(void **state)
{
    (void)state;
    graph g = {0};
    graph_tokens(&g, 2, 5, 3, 0);
    int q = graph_leaf(&g, 3, SHAPE(2, 5, 8)), k = graph_leaf(&g, 3, SHAPE(2, 5, 8));
    int v = graph_leaf(&g, 3, SHAPE(2, 5, 8));
    pare_model_param(g.m, 1)->frozen = true;
    finish(&g, pare__attention(&g.b, q, k, v, &attentions[0].o, "attn"), 0);
}

static void softmax_by_row(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 4);
    finish(&g, pare__softmax(&g.b, graph_leaf(&g, 2, SHAPE(4, 5))), 0);
}

/* ---- element by element ---------------------------------------------------------------------- */

static void every_activation(void **state)
{
    (void)state;
    for (int fn = PARE_FN_RELU; fn < PARE_FNS; fn++) {
        graph g = {.rng = 3};
        plain(&g, 4);
        finish(&g, pare__act(&g.b, graph_leaf(&g, 2, SHAPE(4, 9)), (pare_fn)fn), 0);
    }
}

static void gated_units(void **state)
{
    (void)state;
    static const pare_fn fns[] = {PARE_FN_SILU, PARE_FN_GELU, PARE_FN_SIGMOID};
    for (size_t i = 0; i < 3; i++) {
        graph g = {0};
        plain(&g, 4);
        int gate = graph_leaf(&g, 2, SHAPE(4, 5)), up = graph_leaf(&g, 2, SHAPE(4, 5));
        if (i == 1)
            pare_model_param(g.m, 0)->frozen = true;
        finish(&g, pare__glu(&g.b, gate, up, fns[i]), 0);
    }
}

static void sums_with_and_without_relu(void **state)
{
    (void)state;
    for (int relu = 0; relu < 2; relu++) {
        graph g = {.rng = 9};
        plain(&g, 4);
        int x = graph_leaf(&g, 2, SHAPE(4, 6)), z = graph_leaf(&g, 2, SHAPE(4, 6));
        finish(&g, pare__residual(&g.b, x, z, relu), 0);
    }
}

static void dropout_with_one_seed(void **state)
{
    (void)state;
    graph g = {0};
    plain(&g, 4);
    int x = graph_leaf(&g, 2, SHAPE(4, 12));
    int y = pare__dropout(&g.b, pare__act(&g.b, x, PARE_FN_TANH), 0.4f);
    g.drops = true;
    finish(&g, y, 0);
}

/* ---- what moves memory ----------------------------------------------------------------------- */

static void joined_and_sliced_values(void **state)
{
    (void)state;
    graph g = {0};
    pare__build *b = plain(&g, 2);
    int x = graph_leaf(&g, 3, SHAPE(2, 3, 4)), z = graph_leaf(&g, 3, SHAPE(2, 3, 5));
    int y = pare__concat(b, x, z);
    int one = pare__slice(b, y, 1, 4), two = pare__slice(b, y, 3, 4),
        three = pare__slice(b, y, 5, 4);
    finish(&g, pare__residual(b, pare__glu(b, one, two, PARE_FN_SILU), three, false), 0);
}

static void one_token_of_each_sequence(void **state)
{
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        graph g = {0};
        pare__build *b = plain(&g, 2);
        int x = graph_leaf(&g, 3, SHAPE(2, 3, 4)), y = pare__row(b, x, 1);
        if (twice)
            y = pare__glu(b, y, pare__row(b, x, 2), PARE_FN_TANH);
        finish(&g, y, 0);
    }
}

static void flattened_images(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        graph g = {0};
        pare__build *b = plain(&g, 2);
        int x = graph_leaf(&g, 4, SHAPE(2, 2, 3, i == 3 ? 1 : 4));
        int y = i == 2 ? pare__sequence(b, x) : pare__flatten(b, x, i != 1);
        y = pare__linear(b, y, 3, NULL, "fc");
        finish(&g, i == 2 ? pare__pool_mean(b, y) : y, 0);
    }
}

static void pools(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        graph g = {.rng = (uint64_t)i + 2};
        pare__build *b = plain(&g, 2);
        int x = graph_leaf(&g, 4, SHAPE(2, 5, 4, 3));
        int y = i == 0   ? pare__pool_max(b, x, &window_2x2)
                : i == 1 ? pare__pool_max(b, x, &window_3x3)
                : i == 2 ? pare__pool_avg(b, x, &window_2x2, true)
                : i == 3 ? pare__pool_avg(b, x, &window_3x3, true)
                : i == 4 ? pare__pool_avg(b, x, &window_3x3, false)
                         : pare__pool_global(b, x);
        finish(&g, y, 0);
    }
}

static void means_of_sequences_without_padding(void **state)
{
    (void)state;
    for (int padded = 0; padded < 2; padded++) {
        graph g = {0};
        graph_tokens(&g, 2, 4, 3, 0);
        static const uint8_t keys[8] = {1, 1, 0, 0, 1, 1, 1, 0};
        if (padded)
            g.batch.keys = keys;
        finish(&g, pare__pool_mean(&g.b, graph_leaf(&g, 3, SHAPE(2, 4, 5))), 0);
    }
}

static void shortcuts_without_parameters(void **state)
{
    (void)state;
    graph g = {0};
    pare__build *b = plain(&g, 2);
    finish(&g, pare__shortcut(b, graph_leaf(&g, 4, SHAPE(2, 5, 4, 3)), 2, 7), 0);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(linear_layers),
        T(frozen_parameters_have_no_gradient_and_the_others_theirs),
        T(convolutions),
        T(a_depthwise_convolution),
        T(batch_norms_with_and_without_residual_and_relu),
        T(batch_norms_of_frozen_statistics),
        T(a_batch_norm_whose_scale_is_frozen),
        T(a_batch_norm_above_what_nobody_learns),
        T(layer_norms),
        T(rms_norms_of_rows_and_of_heads),
        T(embeddings_with_positions),
        T(a_row_before_each_sequence),
        T(rotary_positions),
        T(attention_with_groups_windows_padding_and_dropout),
        T(attention_of_one_value_over_itself),
        T(attention_whose_keys_nobody_learns),
        T(softmax_by_row),
        T(every_activation),
        T(gated_units),
        T(sums_with_and_without_relu),
        T(dropout_with_one_seed),
        T(joined_and_sliced_values),
        T(one_token_of_each_sequence),
        T(flattened_images),
        T(pools),
        T(means_of_sequences_without_padding),
        T(shortcuts_without_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
