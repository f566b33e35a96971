/* test_couple.c - what belongs together in a graph: units along the axes of parameters, classes
 * that are locked and why, residual blocks. */
#include "model_fixture.h"

#include "model/couple.h"

static const pare_window window_3x3 = {
    .kernel = {3, 3}, .stride = {1, 1}, .dilation = {1, 1}, 1, 1, 1, 1};

static const pare__unit_rule channels[] = {{"*", PARE_UNIT_CHANNEL, NULL},
                                           {NULL, PARE_UNIT_CHANNEL, NULL}};
static const pare__unit_rule heads[] = {{"attn", PARE_UNIT_HEAD, NULL},
                                        {"embed", PARE_UNIT_WIDTH, NULL},
                                        {NULL, PARE_UNIT_CHANNEL, NULL}};
static const pare__shrink_rules of_images = {channels, NULL, NULL, NULL};
static const pare__shrink_rules of_tokens = {heads, NULL, NULL, NULL};

static int fc(graph *g, int x, int64_t out, const char *name)
{
    return pare__linear(&g->b, x, out, &(pare__linear_options){.bias = true}, name);
}

/* Ends a graph without memory for it. */
static pare_couple *couple_of(graph *g, int output, pare_output kind)
{
    pare_couple *c;
    pare__output(&g->b, output, kind, 4);
    assert_ok(g->b.status);
    g->m->shrink = g->m->facts.tokens ? &of_tokens : &of_images;
    assert_ok(pare_couple_create(g->m, &c));
    return c;
}

static const int32_t *axis(const graph *g, const pare_couple *c, const char *param, int d)
{
    int at = pare__param_find(g->m, param);
    assert_true(at >= 0);
    return pare_couple_axis(c, at, d);
}

static const pare_unit_class *class_named(const pare_couple *c, const char *name)
{
    for (int64_t i = 0; i < pare_couple_class_count(c); i++)
        if (strcmp(pare_couple_class(c, i)->name, name) == 0)
            return pare_couple_class(c, i);
    fail_msg("no class %s", name);
    return NULL;
}

static void a_neuron_is_a_row_a_bias_and_a_column(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 1, 1, 1, 3);
    int x = pare__flatten(&g.b, graph_input(&g), true);
    int h = pare__act(&g.b, fc(&g, x, 5, "up"), PARE_FN_RELU);
    pare_couple *c = couple_of(&g, fc(&g, h, 4, "down"), PARE_OUTPUT_CLASSES);
    assert_int_equal(pare_couple_unit_count(c), 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(axis(&g, c, "up.weight", 0)[i], i);
        assert_int_equal(axis(&g, c, "up.bias", 0)[i], i);
        assert_int_equal(axis(&g, c, "down.weight", 1)[i], i);
    }
    assert_null(axis(&g, c, "up.weight", 1));
    assert_null(axis(&g, c, "down.weight", 0));
    assert_non_null(strstr(class_named(c, "down")->locked, "output"));
    pare_couple_free(&c);
    graph_free(&g);
}

static void a_channel_owns_its_pixels_behind_a_flatten(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 1, 4, 4, 2);
    int x = pare__conv(&g.b, graph_input(&g), 3, &window_3x3, 1, true, "conv");
    x = pare__batch_norm(&g.b, x, 1e-5f, -1, true, "bn");
    x = pare__flatten(&g.b, x, true);
    pare_couple *c = couple_of(&g, fc(&g, x, 4, "fc"), PARE_OUTPUT_CLASSES);
    const pare_unit_class *u = class_named(c, "conv");
    assert_null(u->locked);
    assert_int_equal(u->count, 3);
    assert_int_equal(u->size, 1);
    for (int i = 0; i < 48; i++)
        assert_int_equal(axis(&g, c, "fc.weight", 1)[i], i / 16);
    assert_int_equal(axis(&g, c, "bn.running_var", 0)[2], 2);
    assert_null(axis(&g, c, "conv.weight", 1));
    uint8_t keep[3] = {1, 0, 1};
    int rank;
    int64_t shape[PARE_MAX_RANK];
    pare_couple_shape(c, pare__param_find(g.m, "fc.weight"), keep, &rank, shape);
    assert_int_equal(shape[1], 32);
    pare_couple_free(&c);
    graph_free(&g);
}

static void heads_of_grouped_queries_go_with_their_key(void **state)
{
    (void)state;
    enum { HEADS = 4, KV = 2, D = 2 };
    graph g = {0};
    graph_tokens(&g, 1, 3, 7, D);
    int x = pare__embedding(&g.b, graph_input(&g), 7, 6, "embed");
    int q = pare__rotary(&g.b, fc(&g, x, HEADS * D, "q"), HEADS, D);
    int k = pare__rotary(&g.b, fc(&g, x, KV * D, "k"), KV, D);
    int v = fc(&g, x, KV * D, "v");
    pare__attention_options o = {.heads = HEADS, .kv_heads = KV, .head_dim = D, .causal = true};
    int a = pare__attention(&g.b, q, k, v, &o, "attn");
    x = pare__residual(&g.b, x, fc(&g, a, 6, "o"), false);
    pare__head(&g.b, x, 7, false, "embed", "head");
    pare_couple *c = couple_of(&g, x, PARE_OUTPUT_TOKENS);
    const pare_unit_class *u = class_named(c, "q");
    assert_int_equal(u->kind, PARE_UNIT_HEAD);
    assert_int_equal(u->count, KV);
    assert_int_equal(u->size, D);
    for (int i = 0; i < HEADS * D; i++) {
        assert_int_equal(axis(&g, c, "q.weight", 0)[i], u->first + i / (2 * D));
        assert_int_equal(axis(&g, c, "o.weight", 1)[i], u->first + i / (2 * D));
    }
    for (int i = 0; i < KV * D; i++)
        assert_int_equal(axis(&g, c, "k.bias", 0)[i], u->first + i / D);
    const pare_unit_class *w = class_named(c, "embed"); /* the tied head keeps it free */
    assert_null(w->locked);
    assert_int_equal(w->count, 6);
    assert_int_equal(axis(&g, c, "o.weight", 0)[5], w->first + 5);
    pare_couple_free(&c);
    graph_free(&g);
}

static void slices_of_a_fused_product_are_its_rows(void **state)
{
    (void)state;
    enum { HEADS = 3, D = 2, W = HEADS * D };
    graph g = {0};
    graph_tokens(&g, 1, 3, 7, 0);
    int x = pare__embedding(&g.b, graph_input(&g), 7, W, "embed");
    int qkv = pare__linear(&g.b, x, 3 * W, &(pare__linear_options){.transposed = true}, "qkv");
    pare__attention_options o = {.heads = HEADS, .kv_heads = HEADS, .head_dim = D};
    int a = pare__attention(&g.b, pare__slice(&g.b, qkv, 0, W), pare__slice(&g.b, qkv, W, W),
                            pare__slice(&g.b, qkv, 2 * W, W), &o, "attn");
    a = pare__pool_mean(&g.b, fc(&g, a, 5, "o"));
    pare_couple *c = couple_of(&g, a, PARE_OUTPUT_VECTOR);
    const pare_unit_class *u = class_named(c, "qkv");
    assert_int_equal(u->kind, PARE_UNIT_HEAD);
    assert_int_equal(u->count, HEADS);
    assert_int_equal(u->size, D);
    const int32_t *cols = axis(&g, c, "qkv.weight", 1); /* stored [in, out] */
    for (int i = 0; i < 3 * W; i++)
        assert_int_equal(cols[i], u->first + i % W / D);
    assert_non_null(class_named(c, "o")->locked);
    pare_couple_free(&c);
    graph_free(&g);
}

static void what_cannot_be_cut_says_why(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 1, 4, 4, 2);
    int x = pare__conv(&g.b, graph_input(&g), 4, &window_3x3, 1, true, "first");
    int y = pare__conv(&g.b, x, 4, &window_3x3, 4, true, "depthwise");
    y = pare__conv(&g.b, pare__softmax(&g.b, y), 4, &window_3x3, 1, true, "third");
    y = pare__shortcut(&g.b, y, 2, 6);
    y = pare__pool_global(&g.b, y);
    pare_couple *c = couple_of(&g, fc(&g, y, 4, "fc"), PARE_OUTPUT_CLASSES);
    assert_non_null(strstr(class_named(c, "first")->locked, "groups"));
    assert_non_null(strstr(class_named(c, "depthwise")->locked, "groups"));
    assert_non_null(strstr(class_named(c, "third")->locked, "option A"));
    assert_int_equal(pare_couple_unit_count(c), 0);
    pare_couple_free(&c);
    graph_free(&g);
}

static void a_concatenation_keeps_its_parts_apart(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 1, 1, 1, 3);
    int x = pare__flatten(&g.b, graph_input(&g), true);
    int y = pare__concat(&g.b, fc(&g, x, 2, "a"), fc(&g, x, 3, "b"));
    pare_couple *c = couple_of(&g, fc(&g, y, 4, "fc"), PARE_OUTPUT_CLASSES);
    assert_int_equal(pare_couple_unit_count(c), 5);
    int32_t first = axis(&g, c, "a.weight", 0)[0];
    assert_int_equal(axis(&g, c, "fc.weight", 1)[0], first);
    assert_int_equal(axis(&g, c, "b.weight", 0)[2], axis(&g, c, "fc.weight", 1)[4]);
    pare_couple_free(&c);
    graph_free(&g);
}

/* ---- residual blocks ------------------------------------------------------------------------- */

static pare_couple *made(const char *arch, const char *config, pare_model **m)
{
    pare_couple *c;
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .config = config}, m));
    assert_ok(pare_couple_create(*m, &c));
    return c;
}

static void blocks_that_change_the_shape_stay(void **state)
{
    (void)state;
    pare_model *m;
    pare_couple *c = made("resnet20-cifar", NULL, &m);
    const pare_unit_class *u = class_named(c, "layer2.");
    assert_int_equal(u->kind, PARE_UNIT_LAYER);
    assert_int_equal(u->count, 3);
    assert_non_null(pare_couple_stays(c, u->first));
    assert_null(pare_couple_stays(c, u->first + 1));
    u = class_named(c, "layer1.");
    assert_null(pare_couple_stays(c, u->first));
    uint8_t *keep = malloc((size_t)pare_couple_unit_count(c));
    memset(keep, 1, (size_t)pare_couple_unit_count(c));
    keep[u->first + 1] = 0;
    char *name;
    assert_ok(pare_couple_rename(c, "layer1.2.bn1.num_batches_tracked", keep, &name));
    assert_string_equal(name, "layer1.1.bn1.num_batches_tracked");
    free(name);
    assert_ok(pare_couple_rename(c, "layer1.1.conv1.weight", keep, &name));
    assert_null(name);
    assert_ok(pare_couple_rename(c, "layer2.1.conv1.weight", keep, &name));
    assert_string_equal(name, "layer2.1.conv1.weight");
    free(name);
    free(keep);
    pare_couple_free(&c);
    pare_model_free(&m);
}

static void attention_scaled_by_its_layer_locks_them(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_head\": 2, \"n_layer\": 3, \"n_positions\": "
        "8, \"vocab_size\": 9, \"scale_attn_by_inverse_layer_idx\": true}";
    pare_model *m;
    pare_couple *c = made(NULL, text, &m);
    assert_non_null(strstr(class_named(c, "transformer.h.")->locked, "number of its layer"));
    pare_couple_free(&c);
    pare_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_neuron_is_a_row_a_bias_and_a_column),
        cmocka_unit_test(a_channel_owns_its_pixels_behind_a_flatten),
        cmocka_unit_test(heads_of_grouped_queries_go_with_their_key),
        cmocka_unit_test(slices_of_a_fused_product_are_its_rows),
        cmocka_unit_test(what_cannot_be_cut_says_why),
        cmocka_unit_test(a_concatenation_keeps_its_parts_apart),
        cmocka_unit_test(blocks_that_change_the_shape_stay),
        cmocka_unit_test(attention_scaled_by_its_layer_locks_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
