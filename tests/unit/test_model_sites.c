/* test_model_sites.c - the products that read one value; a scale of their inputs that is folded
 * into what makes the value changes nothing. */
#include "arch_sample.h"
#include "model_fixture.h"

#include <math.h>

/* ---- folding --------------------------------------------------------------------------------- */

/* Of inputs: with as many rows of the fold's weight as they may need. */
typedef struct scales {
    float row[4096];
} scales;

static int64_t row_of(const pare_site *site, int64_t c)
{
    return (c / site->fold_repeat / site->fold_dim) * site->fold_dim + c % site->fold_dim;
}

static void scale_rows(pare_model *m, const pare_site *site, int64_t param, int64_t rows,
                       const scales *s)
{
    if (param < 0)
        return;
    pare_tensor w = pare_model_param(m, param)->value;
    int64_t all, cols;
    pare_shape_matrix(w.rank, w.shape, &all, &cols);
    assert_true(site->fold_first >= 0 && site->fold_first + rows <= all);
    float *values = (float *)w.data + site->fold_first * cols;
    for (int64_t i = 0; i < rows * cols; i++)
        values[i] /= s->row[i / cols];
}

/* 1/s into what makes the inputs, s into the weights' columns. */
static void fold(pare_model *m, const pare_site *site, uint64_t *state, bool exact)
{
    scales s;
    int64_t channels = site->cols / site->inner, rows = 0;
    for (int64_t c = 0; c < channels; c++)
        rows = row_of(site, c) + 1 > rows ? row_of(site, c) + 1 : rows;
    assert_true(rows <= 4096);
    for (int64_t r = 0; r < rows; r++)
        s.row[r] =
            exact ? ldexpf(1, (int)(4 * arch_random(state))) : expf(1.5f * arch_random(state));
    scale_rows(m, site, site->fold_weight, rows, &s);
    scale_rows(m, site, site->fold_bias, rows, &s);
    for (int i = 0; i < site->count; i++) {
        pare_tensor w = pare_model_param(m, site->param[i])->value;
        float *values = w.data;
        for (int64_t e = 0; e < pare_tensor_count(&w); e++)
            values[e] *= s.row[row_of(site, e % site->cols / site->inner)];
    }
}

static float *output_of(pare_model *m, const pare_batch *batch, int64_t *count)
{
    assert_ok(pare_model_forward(m, batch, false, NULL));
    pare_tensor y = pare_model_output(m);
    *count = pare_tensor_count(&y);
    return graph_copy(y);
}

static void check_fold(const char *name, pare_model *m, const pare_batch *batch,
                       const pare_site *site, bool exact)
{
    uint64_t state = 5;
    int64_t n;
    pare_tensor values = pare_vector(pare_model_param(m, 0)->value.data, PARE_F32,
                                     m->values_bytes / (int64_t)sizeof(float));
    float *kept = graph_copy(values), *before = output_of(m, batch, &n), largest = 0;
    fold(m, site, &state, exact);
    float *after = output_of(m, batch, &n);
    for (int64_t i = 0; i < n; i++)
        largest = fabsf(before[i]) > largest ? fabsf(before[i]) : largest;
    assert_true(largest > 0);
    for (int64_t i = 0; i < n; i++)
        if (exact ? after[i] != before[i] : fabsf(after[i] - before[i]) > 1e-5f * largest)
            fail_msg("%s: %s folded into %s changes %g to %g (of %g)", name, site->name,
                     pare_model_param(m, site->fold_weight)->name, (double)before[i],
                     (double)after[i], (double)largest);
    memcpy(values.data, kept, (size_t)m->values_bytes);
    free(kept);
    free(before);
    free(after);
}

/* How many of its sites can be folded. */
static int check_folds(const char *name, pare_model *m, const pare_batch *batch)
{
    int folds = 0;
    pare_site site;
    for (int64_t i = 0; i < pare_model_site_count(m); i++) {
        assert_ok(pare_model_site(m, i, &site));
        if (site.fold_weight < 0)
            continue;
        check_fold(name, m, batch, &site, true);
        check_fold(name, m, batch, &site, false);
        folds++;
    }
    return folds;
}

static void a_scale_that_is_folded_changes_nothing(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        pare_backend *be;
        assert_ok(pare_cpu_create(NULL, &be));
        arch_run r = arch_run_make(s, be, PARE_F32);
        int folds = check_folds(s->name, r.model, &r.batch);
        if (folds == 0 && !strstr(s->name, "gelu") && !strstr(s->name, "one layer"))
            fail_msg("%s: nothing folds", s->name);
        arch_run_free(&r);
    }
}

/* ---- which there are ------------------------------------------------------------------------- */

/* "node:layers:K<weight&bias+first/repeat,dim" of every site; names are cut to three parts at most.
 */
static const char *tail(const char *name)
{
    int dots = 0;
    const char *at = name + strlen(name);
    while (at > name && dots < 3)
        dots += *--at == '.';
    return dots == 3 ? at + 1 : name;
}

static void describe(pare_model *m, char *text, size_t size)
{
    pare_site site;
    size_t n = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < pare_model_site_count(m); i++) {
        assert_ok(pare_model_site(m, i, &site));
        n += (size_t)snprintf(text + n, size - n, "%s%s:%d:%lld", i ? " " : "", tail(site.name),
                              site.count, (long long)site.cols);
        if (site.fold_weight >= 0)
            n += (size_t)snprintf(text + n, size - n, "<%s%s",
                                  tail(pare_model_param(m, site.fold_weight)->name),
                                  site.fold_bias >= 0 ? "&bias" : "");
        if (site.fold_first > 0)
            n += (size_t)snprintf(text + n, size - n, "+%lld", (long long)site.fold_first);
        if (site.fold_repeat > 1)
            n += (size_t)snprintf(text + n, size - n, "/%d,%lld", site.fold_repeat,
                                  (long long)site.fold_dim);
        assert_true(n < size);
    }
}

#define LLAMA_LAYER(n_, bias_)                                                                     \
    n_ ".self_attn.q_proj:3:16<" n_ ".input_layernorm.weight " n_                                  \
       ".self_attn.o_proj:1:16<self_attn.v_proj.weight" bias_ "/2,4 " n_ ".mlp.gate_proj:2:16<" n_ \
       ".post_attention_layernorm.weight " n_ ".mlp.down_proj:1:24<mlp.up_proj.weight"
#define GPT2_LAYER(n_)                                                                             \
    n_ ".attn.c_attn:1:12<" n_ ".ln_1.weight&bias " n_                                             \
       ".attn.c_proj:1:12<attn.c_attn.weight&bias+24 " n_ ".mlp.c_fc:1:12<" n_                     \
       ".ln_2.weight&bias " n_ ".mlp.c_proj:1:48"
#define BERT_LAYER(n_)                                                                             \
    "attention.self.query:3:16 attention.output.dense:1:16<self.value.weight&bias " n_             \
    ".intermediate.dense:1:16 " n_ ".output.dense:1:24 "
#define PLAIN_LAYER(n_)                                                                            \
    n_ ".self_attn.in_proj:1:16 " n_ ".self_attn.out_proj:1:16<" n_                                \
       ".self_attn.in_proj_weight&bias+32 layers." n_ ".linear1:1:16 layers." n_                   \
       ".linear2:1:32<" n_ ".linear1.weight&bias "

static const struct {
    const char *name, *sites;
} expected[] = {
    {"llama", LLAMA_LAYER("0", "") " " LLAMA_LAYER("1", "")},
    {"qwen2", LLAMA_LAYER("0", "&bias") " " LLAMA_LAYER("1", "&bias")},
    {"gpt2", GPT2_LAYER("0") " " GPT2_LAYER("1")},
    /* norms that the residual reads too are no place for a scale */
    {"bert", BERT_LAYER("0") BERT_LAYER("1") "bert.pooler.dense:1:16<output.LayerNorm.weight&bias "
                                             "classifier:1:16"},
    {"vit_plain", "patch_embed.proj:1:16 " PLAIN_LAYER("0")
                      PLAIN_LAYER("1") "mlp_head.1:1:16<mlp_head.0.weight&bias"},
    {"resnet8-tiny",
     "conv2d:1:9 conv2d_1:1:144 conv2d_2:1:144<batch_normalization_1.weight&bias conv2d_3:1:144 "
     "conv2d_4:1:288<batch_normalization_3.weight&bias conv2d_5:1:16 conv2d_6:1:288 "
     "conv2d_7:1:576<batch_normalization_5.weight&bias conv2d_8:1:32 dense:1:64"},
    {"mlp", "layers.0:1:64 layers.1:1:16<layers.0.weight&bias head:1:12<layers.1.weight&bias"},
    {"mlp with gelu", "layers.0:1:64 layers.1:1:16 head:1:12"},
    {"cnn", "conv1:1:9 conv2:1:72<bn1.weight&bias conv3:1:108<bn2.weight&bias "
            "fc:1:10<bn3.weight&bias"},
};

static const char *expected_of(const char *name)
{
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (strcmp(expected[i].name, name) == 0)
            return expected[i].sites;
    return NULL;
}

static bool is_product(const pare_node_view *view)
{
    return strcmp(view->kind, "linear") == 0 || strcmp(view->kind, "conv") == 0;
}

static void the_sites_of_the_architectures(void **state)
{
    (void)state;
    static char text[1 << 14];
    for (const arch_sample *s = arch_samples; s->name; s++) {
        pare_model *m;
        pare_site site;
        int64_t products = 0, layers = 0, last = -1;
        assert_ok(
            pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &m));
        for (int64_t i = 0; i < pare_model_node_count(m); i++) {
            pare_node_view view = pare_model_node(m, i);
            products += is_product(&view);
        }
        for (int64_t i = 0; i < pare_model_site_count(m); i++) {
            assert_ok(pare_model_site(m, i, &site));
            assert_true(site.count >= 1 && site.node[0] > last);
            last = site.node[0];
            layers += site.count;
        }
        assert_int_equal(layers, products);
        assert_status(pare_model_site(m, pare_model_site_count(m), &site), PARE_ERR_ARGUMENT);
        describe(m, text, sizeof text);
        if (expected_of(s->name))
            assert_string_equal(text, expected_of(s->name));
        pare_model_free(&m);
    }
}

/* Nothing that a site folds into lies in another block, but where single values follow each other:
 * in chains, and before poolers. */
static void blocks_have_the_models_sites(void **state)
{
    (void)state;
    static char whole[1 << 14], parts[1 << 14];
    for (const arch_sample *s = arch_samples; s->name; s++) {
        pare_model *m, *block;
        size_t n = 0;
        assert_ok(
            pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &m));
        bool chain = strstr(s->name, "mlp") || strstr(s->name, "cnn") || strstr(s->name, "bert") ||
                     strstr(s->name, "pooler");
        for (int64_t i = 0; i < pare_model_block_count(m); i++) {
            assert_ok(pare_model_block(m, i, false, &block));
            if (i > 0)
                parts[n++] = ' ';
            describe(block, parts + n, sizeof parts - n);
            n += strlen(parts + n);
            pare_model_free(&block);
        }
        describe(m, whole, sizeof whole);
        if (!chain)
            assert_string_equal(parts, whole);
        pare_model_free(&m);
    }
}

/* ---- by hand --------------------------------------------------------------------------------- */

static int fc(graph *g, int x, int64_t out, const char *name)
{
    return pare__linear(&g->b, x, out, &(pare__linear_options){.bias = true}, name);
}

static const pare_window one_pixel = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
static const pare_window two_pixels = {.kernel = {2, 2}, .stride = {2, 2}, .dilation = {1, 1}};

static int conv(graph *g, int x, int64_t out, const pare_window *window, int groups,
                const char *name)
{
    return pare__conv(&g->b, x, out, window, groups, true, name);
}

/* Ends the graph and compares its sites; `folds` of them are tried. */
static void check_graph(graph *g, int output, const char *sites, int folds)
{
    char text[2048];
    graph_end_as(g, output, PARE_OUTPUT_CLASSES,
                 &(pare_model_shape){
                     .batch = g->batch.size, .length = g->batch.length, .compute = PARE_F32});
    describe(g->m, text, sizeof text);
    assert_string_equal(text, sites);
    assert_int_equal(check_folds("a graph", g->m, &g->batch), folds);
    graph_free(g);
}

static void a_flattened_image_shares_a_row_among_its_pixels(void **state)
{
    (void)state;
    for (int turned = 0; turned < 2; turned++) {
        graph g = {0};
        graph_images(&g, 2, 4, 4, 3);
        int x = pare__act(&g.b, conv(&g, graph_input(&g), 5, &two_pixels, 1, "conv"), PARE_FN_RELU);
        x = pare__pool_max(&g.b, x, &one_pixel);
        check_graph(&g, fc(&g, pare__flatten(&g.b, x, turned), 3, "fc"),
                    turned ? "conv:1:12 fc:1:20<conv.weight&bias/4,1"
                           : "conv:1:12 fc:1:20<conv.weight&bias/4,5",
                    1);
    }
}

static void dropout_and_a_sequence_are_the_value_itself(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 2, 2, 3);
    int x = pare__batch_norm(&g.b, graph_input(&g), 1e-3f, -1, true, "bn");
    int s = pare__dropout(&g.b, pare__sequence(&g.b, x), 0.5f);
    int y = fc(&g, s, 4, "a"), z = fc(&g, pare__sequence(&g.b, x), 4, "b");
    y = pare__row(&g.b, pare__residual(&g.b, y, z, false), 1);
    check_graph(&g, y, "a:2:3<bn.weight&bias", 1);
}

static void another_reader_makes_it_unfoldable(void **state)
{
    (void)state;
    for (int which = 0; which < 4; which++) {
        graph g = {0};
        graph_images(&g, 3, 1, 1, 6);
        int x = pare__flatten(&g.b, graph_input(&g), false);
        int h = pare__layer_norm(&g.b, x, 1e-3f, true, "ln"), y = fc(&g, h, 6, "fc");
        if (which == 0) /* a residual */
            y = pare__residual(&g.b, y, h, false);
        if (which == 1) /* the same weight once more */
            y = fc(&g, y, 6, "fc");
        if (which == 2) /* a norm of the same scale */
            y = pare__residual(&g.b, y, pare__layer_norm(&g.b, x, 1e-3f, true, "ln"), false);
        if (which == 3) /* a function that does not let scales pass */
            y = fc(&g, pare__act(&g.b, y, PARE_FN_GELU), 6, "out");
        check_graph(&g, y,
                    which == 1   ? "fc:1:6 fc:1:6"
                    : which == 3 ? "fc:1:6<ln.weight&bias out:1:6"
                                 : "fc:1:6",
                    which == 3);
    }
}

static void slices_fold_into_rows_that_nobody_else_reads(void **state)
{
    (void)state;
    for (int overlap = 0; overlap < 2; overlap++) {
        graph g = {0};
        graph_images(&g, 3, 1, 1, 6);
        int x = fc(&g, pare__flatten(&g.b, graph_input(&g), false), 7, "in");
        int a = fc(&g, pare__slice(&g.b, x, 0, 4), 3, "a");
        int b = fc(&g, pare__slice(&g.b, x, overlap ? 3 : 4, 3), 3, "b");
        check_graph(&g, pare__residual(&g.b, a, b, false),
                    overlap ? "in:1:6 a:1:4 b:1:3"
                            : "in:1:6 a:1:4<in.weight&bias b:1:3<in.weight&bias+4",
                    overlap ? 0 : 2);
    }
}

static void convolutions_of_other_windows_are_other_sites(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 4, 4, 4);
    int x = pare__batch_norm(&g.b, graph_input(&g), 1e-3f, -1, false, "bn");
    int a = conv(&g, x, 4, &two_pixels, 1, "a"), b = conv(&g, x, 4, &two_pixels, 1, "b");
    int c = pare__pool_max(&g.b, conv(&g, x, 4, &one_pixel, 1, "c"), &two_pixels);
    int d = conv(&g, x, 4, &two_pixels, 2, "d");
    x = pare__residual(&g.b, pare__residual(&g.b, a, b, true), pare__residual(&g.b, c, d, true),
                       true);
    x = conv(&g, x, 4, &two_pixels, 1, "e");
    x = conv(&g, x, 4, &one_pixel, 4, "f");
    x = conv(&g, x, 4, &one_pixel, 1, "g");
    check_graph(&g, fc(&g, pare__pool_global(&g.b, x), 3, "fc"),
                "a:2:16 c:1:4 d:1:8 e:1:16 f:1:1 g:1:4<f.weight&bias fc:1:4<g.weight&bias", 2);
}

static void a_site_holds_eight_layers(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 1, 1, 3);
    int x = pare__layer_norm(&g.b, pare__flatten(&g.b, graph_input(&g), false), 1e-3f, true, "ln");
    int sum = fc(&g, x, 2, "fc0");
    for (int i = 1; i < PARE_SITE_LAYERS + 1; i++)
        sum = pare__residual(&g.b, sum, fc(&g, x, 2, pare__name(&g.b, "fc%d", i)), false);
    check_graph(&g, sum, "fc0:8:3 fc8:1:3", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scale_that_is_folded_changes_nothing),
        cmocka_unit_test(the_sites_of_the_architectures),
        cmocka_unit_test(blocks_have_the_models_sites),
        cmocka_unit_test(a_flattened_image_shares_a_row_among_its_pixels),
        cmocka_unit_test(dropout_and_a_sequence_are_the_value_itself),
        cmocka_unit_test(another_reader_makes_it_unfoldable),
        cmocka_unit_test(slices_fold_into_rows_that_nobody_else_reads),
        cmocka_unit_test(convolutions_of_other_windows_are_other_sites),
        cmocka_unit_test(a_site_holds_eight_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
