/* model_fixture.c - small graphs made by hand, and their gradients beside finite differences. */
#include "model_fixture.h"

#include "base/half.h"

#include <math.h>

/* ---- numbers --------------------------------------------------------------------------------- */

static uint64_t next(graph *g)
{
    uint64_t z = g->rng += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double graph_uniform(graph *g)
{
    return (double)(next(g) >> 11) * 0x1p-52 - 1;
}

double graph_normal(graph *g)
{
    double sum = 0;
    for (int i = 0; i < 6; i++)
        sum += graph_uniform(g);
    return sum / sqrt(2.0);
}

int64_t graph_below(graph *g, int64_t bound)
{
    return (int64_t)(next(g) % (uint64_t)bound);
}

/* ---- a parameter that is a value ------------------------------------------------------------- */

/* Axes after the first are those of the parameter, but T of a sequence is the batch's. */
static pare_status leaf_shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor input = pare__in(m, n, 0);
    *y = pare__param(m, n, 0)->value;
    y->dtype = m->shape.compute;
    y->shape[0] = input.shape[0];
    if (m->facts.tokens && y->rank == 3)
        y->shape[1] = input.shape[1];
    return PARE_OK;
}

/* Where the batch is smaller than the parameter, the first elements are used. */
static pare_status leaf_forward(pare_model *m, pare__node *n)
{
    pare_tensor x = pare__param(m, n, 0)->value, y = pare__out(m, n);
    x = pare_vector(x.data, PARE_F32, pare_tensor_count(&y));
    return pare_cast(m->be, &(pare_cast_args){.x = x, .y = pare__flat(y)});
}

static pare_status leaf_backward(pare_model *m, pare__node *n)
{
    pare_tensor grad = pare__param(m, n, 0)->grad, dy = pare__dy(m, n);
    float *sum = grad.data;
    for (int64_t i = 0; i < pare_tensor_count(&dy); i++)
        sum[i] += dy.dtype == PARE_F32 ? ((const float *)dy.data)[i]
                                       : pare__bf16_to_f32(((const uint16_t *)dy.data)[i]);
    return PARE_OK;
}

static const pare__node_kind leaf = {
    .name = "leaf", .shape = leaf_shape, .forward = leaf_forward, .backward = leaf_backward};

int graph_leaf(graph *g, int rank, const int64_t *shape)
{
    pare__build *b = &g->b;
    const char *name = pare__name(b, "leaf%zu", g->m->param_count);
    int param = pare__param_add(b, name, PARE_ROLE_OTHER, rank, shape);
    return pare__node_make(b, &(pare__node_options){.kind = &leaf,
                                                    .input = {g->m->input},
                                                    .inputs = 1,
                                                    .param = {param},
                                                    .params = 1,
                                                    .name = name});
}

/* ---- graphs ---------------------------------------------------------------------------------- */

static void begin(graph *g, int64_t B)
{
    uint64_t rng = g->rng;
    int threads = g->threads;
    memset(g, 0, sizeof *g);
    g->rng = rng ? rng : 1;
    g->threads = threads ? threads : 1;
    assert_ok(pare__calloc(1, sizeof *g->m, &g->m));
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = g->threads}, &g->be));
    g->b.model = g->m;
    g->b.arch = "";
    g->batch.size = B;
    g->seed = (pare_step_seed){.seed = 7, .step = 3};
}

void graph_images(graph *g, int64_t B, int64_t height, int64_t width, int64_t channels)
{
    begin(g, B);
    int64_t count = B * height * width * channels;
    assert_ok(pare__calloc((size_t)count, sizeof *g->images, &g->images));
    for (int64_t i = 0; i < count; i++)
        g->images[i] = (float)graph_normal(g);
    g->batch.images = g->images;
    pare__images(&g->b, height, width, channels);
}

void graph_tokens(graph *g, int64_t B, int64_t T, int64_t vocabulary, int64_t rotary)
{
    static const char config[] = "{\"rope_theta\": 100, \"max_position_embeddings\": 64}";
    begin(g, B);
    g->batch.length = T;
    assert_ok(pare__calloc((size_t)(B * T), sizeof *g->ids, &g->ids));
    for (int64_t i = 0; i < B * T; i++)
        g->ids[i] = (int32_t)graph_below(g, vocabulary);
    g->batch.ids = g->ids;
    pare__tokens(&g->b, vocabulary, 64);
    assert_ok(pare__json_parse(config, sizeof config - 1, "config.json", &g->config));
    g->b.config = g->config;
    if (rotary > 0)
        pare__rotary_config(&g->b, rotary);
}

int graph_input(const graph *g)
{
    return g->m->input;
}

void graph_free(graph *g)
{
    pare_model_free(&g->m);
    pare_backend_free(&g->be);
    pare__json_free(&g->config);
    free(g->images);
    free(g->ids);
    free(g->keys);
    free(g->weights);
}

/* Scales around 1, variances positive, all else around 0. */
static double fresh(graph *g, const pare_param *p)
{
    if (strstr(p->name, "running_var"))
        return 1.5 + graph_uniform(g);
    if (p->role == PARE_ROLE_NORM)
        return 1 + 0.3 * graph_normal(g);
    return (p->buffer ? 0.3 : 0.7) * graph_normal(g);
}

void graph_fill(graph *g)
{
    for (size_t i = 0; i < g->m->param_count; i++) {
        pare_param *p = &g->m->params[i];
        for (int64_t e = 0; e < pare_tensor_count(&p->value); e++)
            ((float *)p->value.data)[e] = (float)fresh(g, p);
    }
}

void graph_end_as(graph *g, int output, pare_output kind, const pare_model_shape *shape)
{
    pare__output(&g->b, output, kind, 1);
    if (g->b.status != PARE_OK)
        fail_msg("the graph was not built: %s", pare_last_error());
    assert_ok(pare_model_prepare(g->m, g->be, shape));
    graph_fill(g);
    pare_tensor y = pare_model_output(g->m);
    int64_t count = pare_tensor_count(&y);
    assert_ok(pare__calloc((size_t)count, sizeof *g->weights, &g->weights));
    for (int64_t i = 0; i < count; i++)
        g->weights[i] = (float)graph_normal(g);
}

void graph_end(graph *g, int output)
{
    graph_end_as(g, output, PARE_OUTPUT_CLASSES,
                 &(pare_model_shape){.batch = g->batch.size,
                                     .length = g->batch.length,
                                     .training = true,
                                     .compute = PARE_F32});
}

/* ---- a step ---------------------------------------------------------------------------------- */

double graph_forward(graph *g)
{
    pare_model *m = g->m;
    assert_ok(pare_model_forward(m, &g->batch, m->shape.training, g->drops ? &g->seed : NULL));
    pare_tensor y = pare_model_output(m);
    assert_int_equal(y.dtype, PARE_F32);
    double loss = 0;
    for (int64_t i = 0; i < pare_tensor_count(&y); i++)
        loss += g->weights[i] * (double)((const float *)y.data)[i];
    return loss;
}

double graph_step(graph *g)
{
    assert_ok(pare_model_clear_grads(g->m));
    double loss = graph_forward(g);
    pare_tensor dy = pare_model_output_grad(g->m);
    for (int64_t i = 0; i < pare_tensor_count(&dy); i++)
        ((float *)dy.data)[i] = (float)g->weights[i];
    assert_ok(pare_model_backward(g->m));
    return loss;
}

void *graph_bytes(graph *g, size_t *size)
{
    graph_step(g);
    /* the output's memory may be gone after backward: once more */
    pare_tensor grads = pare_model_grad_arena(g->m);
    size_t first = (size_t)pare_tensor_count(&grads) * sizeof(float);
    char *bytes = NULL, *copy = NULL;
    assert_ok(pare__calloc(first + 1, 1, &copy));
    memcpy(copy, grads.data, first);
    graph_forward(g);
    pare_tensor y = pare_model_output(g->m);
    size_t second = (size_t)pare_tensor_count(&y) * sizeof(float);
    assert_ok(pare__calloc(first + second, 1, &bytes));
    memcpy(bytes, copy, first);
    memcpy(bytes + first, y.data, second);
    free(copy);
    *size = first + second;
    return bytes;
}

/* ---- finite differences ---------------------------------------------------------------------- */

/* Slope and bend of the loss over a parameter's element: (L(x + h) − L(x − h)) / 2h and (L(x + h) +
 * L(x − h) − 2·L(x)) / h, the difference of its two one-sided slopes. */
static double central(graph *g, float *x, float h, double middle, double *bend)
{
    float kept = *x;
    volatile float above = kept + h, below = kept - h;
    *x = above;
    double up = graph_forward(g);
    *x = below;
    double down = graph_forward(g);
    *x = kept;
    double step = ((double)above - (double)below) / 2;
    *bend = (up + down - 2 * middle) / step;
    return (up - down) / (2 * step);
}

static double rms(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

/* The slope by two steps, one half of the other, extrapolated (Richardson 1911): right to about
 * 1e-4 of the gradients' size. False at a corner of relu or a maximum: between the two steps (their
 * slopes disagree), or in the middle (the bend does not halve with the step: what stays is the
 * corner's). */
static bool slope(graph *g, float *x, double size, double middle, double *want)
{
    enum { BASE = 64 };
    double bend, half_bend;
    double wide = central(g, x, 1.0f / BASE, middle, &bend);
    double narrow = central(g, x, 0.5f / BASE, middle, &half_bend);
    *want = (4 * narrow - wide) / 3;
    double unit = size + fabs(*want);
    return fabs(wide - narrow) <= 1e-3 * unit && fabs(2 * half_bend - bend) <= 2e-3 * unit;
}

static void check_param(graph *g, pare_param *p, double middle, int most, int64_t *tried,
                        int64_t *corners)
{
    int64_t n = pare_tensor_count(&p->value), count = most > 0 && most < n ? most : n;
    float *x = p->value.data, *grad;
    assert_ok(pare__calloc((size_t)n, sizeof *grad, &grad));
    memcpy(grad, p->grad.data, (size_t)n * sizeof *grad);
    double size = rms(grad, n) + 1e-2;
    for (int64_t k = 0; k < count; k++) {
        int64_t e = count == n ? k : graph_below(g, n);
        double want, got = (double)grad[e];
        ++*tried;
        if (!slope(g, x + e, size, middle, &want))
            ++*corners;
        else if (!(fabs(got - want) <= 2e-3 * (size + fabs(want))))
            fail_msg("%s[%lld]: the gradient is %g, differences give %g", p->name, (long long)e,
                     got, want);
    }
    free(grad);
}

void graph_check(graph *g, int most)
{
    int64_t tried = 0, corners = 0;
    double middle = graph_step(g);
    for (size_t i = 0; i < g->m->param_count; i++)
        if (g->m->params[i].grad.data)
            check_param(g, &g->m->params[i], middle, most, &tried, &corners);
    assert_true(tried > 0);
    if (corners * 2 > tried)
        fail_msg("%lld of %lld elements are at corners: the test says little", (long long)corners,
                 (long long)tried);
}

/* ---- whole models ---------------------------------------------------------------------------- */

static const pare_window window_3x3 = {.kernel = {3, 3},
                                       .stride = {1, 1},
                                       .dilation = {1, 1},
                                       .pad_top = 1,
                                       .pad_left = 1,
                                       .pad_bottom = 1,
                                       .pad_right = 1};

static int conv_norm(graph *g, int x, int z, bool relu, int index)
{
    pare__build *b = &g->b;
    x = pare__conv(b, x, 8, &window_3x3, 1, index % 2, pare__name(b, "conv%d", index));
    return pare__batch_norm(b, x, 1e-2f, z, relu, pare__name(b, "bn%d", index));
}

void graph_small_images(graph *g, bool training, pare_dtype compute)
{
    graph_images(g, 3, 6, 6, 3);
    int x = conv_norm(g, graph_input(g), -1, true, 0);
    for (int i = 1; i < 5; i += 2)
        x = conv_norm(g, conv_norm(g, x, -1, true, i), x, true, i + 1);
    x = pare__linear(&g->b, pare__pool_global(&g->b, x), 5, &(pare__linear_options){.bias = true},
                     "fc");
    graph_end_as(g, x, PARE_OUTPUT_CLASSES,
                 &(pare_model_shape){.batch = 3, .training = training, .compute = compute});
    for (size_t i = 0; i < g->m->param_count; i++)
        if (g->m->params[i].role == PARE_ROLE_CONV)
            for (int64_t e = 0; e < pare_tensor_count(&g->m->params[i].value); e++)
                ((float *)g->m->params[i].value.data)[e] *= 0.2f;
}

void graph_small_tokens(graph *g, bool training, pare_dtype compute, pare_output output)
{
    graph_tokens(g, 2, 6, 11, 4);
    pare__build *b = &g->b;
    const pare__attention_options o = {.heads = 2, .kv_heads = 1, .head_dim = 4, .causal = true};
    int x = pare__embedding(b, graph_input(g), 11, 8, "wte.weight");
    int h = pare__rms_norm(b, x, 1e-5f, 0, "norm1");
    int q = pare__rotary(b, pare__linear(b, h, 8, NULL, "q"), 2, 4);
    int k = pare__rotary(b, pare__linear(b, h, 4, NULL, "k"), 1, 4);
    int a = pare__attention(b, q, k, pare__linear(b, h, 4, NULL, "v"), &o, "attn");
    x = pare__residual(b, x, pare__dropout(b, pare__linear(b, a, 8, NULL, "o"), 0.25f), false);
    x = pare__layer_norm(b, x, 1e-5f, true, "norm2");
    if (output == PARE_OUTPUT_TOKENS)
        pare__head(b, x, 11, true, "wte.weight", "lm_head");
    else
        x = pare__pool_mean(b, x);
    graph_end_as(
        g, x, output,
        &(pare_model_shape){.batch = 2, .length = 6, .training = training, .compute = compute});
}

float graph_at(pare_tensor t, int64_t i)
{
    return t.dtype == PARE_F32 ? ((const float *)t.data)[i]
                               : pare__bf16_to_f32(((const uint16_t *)t.data)[i]);
}

float *graph_copy(pare_tensor t)
{
    int64_t n = pare_tensor_count(&t);
    float *copy = malloc((size_t)n * sizeof *copy);
    for (int64_t i = 0; i < n; i++)
        copy[i] = graph_at(t, i);
    return copy;
}
