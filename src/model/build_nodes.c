/* build_nodes.c - adds nodes to a graph: one function a kind, all through pare__node_make. */
#include "build.h"

#include <string.h>

/* ---- nodes and values ------------------------------------------------------------------------ */

static pare_status add_value(pare_model *m, int producer, int *index)
{
    PARE_TRY(pare__grow(&m->values, &m->value_capacity, m->value_count + 1, sizeof *m->values));
    m->values[m->value_count] =
        (pare__value){.producer = producer, .last = -1, .buffer = -1, .grad_buffer = -1};
    *index = (int)m->value_count++;
    return PARE_OK;
}

/* The node's name: the module's with the prefix, else the kind's with a number. */
static pare_status name_node(pare__build *b, const pare__node_options *o, char **name)
{
    char text[256];
    if (o->name)
        snprintf(text, sizeof text, "%s%s", b->prefix, o->name);
    else
        snprintf(text, sizeof text, "%s_%zu", o->kind->name, b->model->node_count);
    PARE_TRY(pare__strdup(text, name));
    return PARE_OK;
}

static pare_status add_node(pare__build *b, const pare__node_options *o, int *output)
{
    pare_model *m = b->model;
    PARE_REQUIRE(m->node_count < INT32_MAX / 4, PARE_ERR_DAMAGED, "the model has too many layers");
    PARE_TRY(pare__grow(&m->nodes, &m->node_capacity, m->node_count + 1, sizeof *m->nodes));
    int index = (int)m->node_count;
    PARE_TRY(add_value(m, index, output));
    pare__node *n = &m->nodes[index];
    *n = (pare__node){.kind = o->kind,
                      .inputs = o->inputs,
                      .output = *output,
                      .params = o->params,
                      .a = o->a,
                      .traits = o->kind->traits,
                      .fused = -1};
    memcpy(n->input, o->input, sizeof n->input);
    memcpy(n->param, o->param, sizeof n->param);
    PARE_TRY(name_node(b, o, &n->name));
    m->node_count++;
    for (int i = 0; i < n->inputs; i++) {
        m->values[n->input[i]].consumers++;
        m->values[n->input[i]].last = index;
    }
    PARE_TRY(n->kind->shape(m, n, &m->values[*output].tensor));
    return PARE_OK;
}

int pare__node_make(pare__build *b, const pare__node_options *o)
{
    int output = -1;
    if (b->status != PARE_OK)
        return -1;
    for (int i = 0; i < o->inputs; i++)
        if (o->input[i] < 0 || (size_t)o->input[i] >= b->model->value_count)
            return pare__build_fail(b, PARE_ERR_INTERNAL,
                                    "a %s node is built on a value that is "
                                    "not there",
                                    o->kind->name);
    b->status = add_node(b, o, &output);
    return b->status == PARE_OK ? output : -1;
}

/* A node of one input without parameters. */
static int simple(pare__build *b, const pare__node_kind *kind, int x, pare__attrs a)
{
    return pare__node_make(b,
                           &(pare__node_options){.kind = kind, .input = {x}, .inputs = 1, .a = a});
}

/* The last axis of a value, 0 after a failure. */
static int64_t width_of(const pare__build *b, int x)
{
    if (b->status != PARE_OK || x < 0)
        return 0;
    const pare_tensor *t = &b->model->values[x].tensor;
    return t->rank > 0 ? t->shape[t->rank - 1] : 0;
}

static int vector_param(pare__build *b, const char *name, pare_role role, bool buffer, int64_t n)
{
    return pare__param_make(b, name, &(pare__param_options){.role = role, .buffer = buffer}, 1, &n);
}

/* name.suffix */
static const char *part(pare__build *b, const char *name, const char *suffix)
{
    return pare__name(b, "%s.%s", name, suffix);
}

/* ---- inputs and the output ------------------------------------------------------------------- */

/* Shapes while building are of one row of one token, or one image. */
static int start(pare__build *b, pare_tensor input)
{
    pare_model *m = b->model;
    if (b->status != PARE_OK)
        return -1;
    m->head = m->head_bias = m->output = -1;
    m->output_buffer = m->output_grad_buffer = -1;
    m->shape = (pare_model_shape){.batch = 1, .length = m->facts.tokens, .compute = PARE_F32};
    b->status = add_value(m, -1, &m->input);
    if (b->status != PARE_OK)
        return -1;
    m->values[m->input].tensor = input;
    return m->input;
}

int pare__tokens(pare__build *b, int64_t vocabulary, int64_t max_length)
{
    pare_model_facts *f = &b->model->facts;
    f->tokens = true;
    f->vocabulary = vocabulary;
    f->max_length = max_length;
    return start(b, pare_matrix(NULL, PARE_I32, 1, 1));
}

int pare__images(pare__build *b, int64_t height, int64_t width, int64_t channels)
{
    pare_model_facts *f = &b->model->facts;
    f->height = height;
    f->width = width;
    f->channels = channels;
    if (height < 1 || width < 1 || channels < 1)
        return pare__build_fail(b, PARE_ERR_DAMAGED, "images of %lld × %lld × %lld have no pixels",
                                (long long)height, (long long)width, (long long)channels);
    return start(
        b, (pare_tensor){.dtype = PARE_F32, .rank = 4, .shape = {1, height, width, channels}});
}

void pare__output(pare__build *b, int x, pare_output output, int64_t classes)
{
    if (b->status != PARE_OK)
        return;
    b->model->output = x;
    b->model->facts.output = output;
    b->model->facts.classes = classes;
}

void pare__head(pare__build *b, int x, int64_t vocabulary, bool bias, const char *tied,
                const char *name)
{
    pare_model *m = b->model;
    if (b->status != PARE_OK)
        return;
    int64_t shape[2] = {vocabulary, width_of(b, x)};
    char whole[256];
    const char *weight = tied ? tied : part(b, name, "weight");
    snprintf(whole, sizeof whole, "%s%s", b->prefix, weight);
    m->head = pare__param_find(m, whole);
    if (m->head < 0 && tied)
        m->head = pare__param_find(m, tied);
    if (m->head < 0)
        m->head = pare__param_add(b, weight, PARE_ROLE_HEAD, 2, shape);
    const pare_tensor *w = m->head >= 0 ? &m->params[m->head].value : NULL;
    if (w && (w->rank != 2 || w->shape[0] != shape[0] || w->shape[1] != shape[1])) {
        pare__build_fail(b, PARE_ERR_DAMAGED,
                         "%s is tied to the output layer but has another shape",
                         m->params[m->head].name);
        return;
    }
    if (bias)
        m->head_bias = vector_param(b, part(b, name, "bias"), PARE_ROLE_BIAS, false, vocabulary);
}

/* ---- with parameters ------------------------------------------------------------------------- */

int pare__linear(pare__build *b, int x, int64_t out, const pare__linear_options *options,
                 const char *name)
{
    pare__linear_options o = options ? *options : (pare__linear_options){0};
    int64_t shape[2] = {out, width_of(b, x)};
    const pare__param_options weight = {.role = o.head ? PARE_ROLE_HEAD : PARE_ROLE_LINEAR,
                                        .transposed = o.transposed};
    int w = pare__param_make(b, o.weight ? o.weight : part(b, name, "weight"), &weight, 2, shape);
    int bias = -1;
    if (o.bias)
        bias = vector_param(b, o.bias_name ? o.bias_name : part(b, name, "bias"), PARE_ROLE_BIAS,
                            false, out);
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_linear,
                                                    .input = {x},
                                                    .inputs = 1,
                                                    .param = {w, bias},
                                                    .params = 2,
                                                    .a.width = out,
                                                    .name = name});
}

int pare__conv(pare__build *b, int x, int64_t out, const pare_window *window, int groups, bool bias,
               const char *name)
{
    int g = groups > 0 ? groups : 1;
    int64_t in = width_of(b, x);
    if (b->status == PARE_OK && (in % g != 0 || out % g != 0))
        return pare__build_fail(b, PARE_ERR_DAMAGED,
                                "%s: %lld and %lld channels do not part into %d groups", name,
                                (long long)in, (long long)out, g);
    int64_t shape[4] = {out, in / g, window->kernel[0], window->kernel[1]};
    int w = pare__param_add(b, part(b, name, "weight"), PARE_ROLE_CONV, 4, shape);
    int v = bias ? vector_param(b, part(b, name, "bias"), PARE_ROLE_BIAS, false, out) : -1;
    return pare__node_make(
        b, &(pare__node_options){.kind = &pare__node_conv,
                                 .input = {x},
                                 .inputs = 1,
                                 .param = {w, v},
                                 .params = 2,
                                 .a = {.window = *window, .groups = g, .width = out},
                                 .name = name});
}

int pare__batch_norm(pare__build *b, int x, float eps, int z, bool relu, const char *name)
{
    int64_t n = width_of(b, x);
    int gamma = vector_param(b, part(b, name, "weight"), PARE_ROLE_NORM, false, n);
    int beta = vector_param(b, part(b, name, "bias"), PARE_ROLE_BIAS, false, n);
    int mean = vector_param(b, part(b, name, "running_mean"), PARE_ROLE_OTHER, true, n);
    int var = vector_param(b, part(b, name, "running_var"), PARE_ROLE_OTHER, true, n);
    return pare__node_make(b,
                           &(pare__node_options){.kind = &pare__node_batch_norm,
                                                 .input = {x, z},
                                                 .inputs = z >= 0 ? 2 : 1,
                                                 .param = {gamma, beta, mean, var},
                                                 .params = 4,
                                                 .a = {.eps = eps, .momentum = 0.1f, .relu = relu},
                                                 .name = name});
}

int pare__layer_norm(pare__build *b, int x, float eps, bool bias, const char *name)
{
    int64_t n = width_of(b, x);
    int gamma = vector_param(b, part(b, name, "weight"), PARE_ROLE_NORM, false, n);
    int beta = bias ? vector_param(b, part(b, name, "bias"), PARE_ROLE_BIAS, false, n) : -1;
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_layer_norm,
                                                    .input = {x},
                                                    .inputs = 1,
                                                    .param = {gamma, beta},
                                                    .params = 2,
                                                    .a.eps = eps,
                                                    .name = name});
}

int pare__rms_norm(pare__build *b, int x, float eps, int64_t head_dim, const char *name)
{
    int64_t n = head_dim > 0 ? head_dim : width_of(b, x);
    int gamma = vector_param(b, part(b, name, "weight"), PARE_ROLE_NORM, false, n);
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_rms_norm,
                                                    .input = {x},
                                                    .inputs = 1,
                                                    .param = {gamma},
                                                    .params = 1,
                                                    .a = {.eps = eps, .head_dim = head_dim},
                                                    .name = name});
}

int pare__embedding(pare__build *b, int ids, int64_t rows, int64_t width, const char *weight)
{
    int64_t shape[2] = {rows, width};
    int w = pare__param_add(b, weight, PARE_ROLE_EMBEDDING, 2, shape);
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_embedding,
                                                    .input = {ids},
                                                    .inputs = 1,
                                                    .param = {w},
                                                    .params = 1,
                                                    .a.width = width,
                                                    .name = weight});
}

int pare__position(pare__build *b, int x, int64_t rows, int64_t offset, bool one_row,
                   const char *weight)
{
    int64_t shape[2] = {rows, width_of(b, x)};
    int w = pare__param_add(b, weight, PARE_ROLE_EMBEDDING, 2, shape);
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_position,
                                                    .input = {x},
                                                    .inputs = 1,
                                                    .param = {w},
                                                    .params = 1,
                                                    .a = {.offset = offset, .one_row = one_row},
                                                    .name = weight});
}

int pare__prefix_row(pare__build *b, int x, const char *weight)
{
    int64_t shape[2] = {1, width_of(b, x)};
    int w = pare__param_add(b, weight, PARE_ROLE_EMBEDDING, 2, shape);
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_prefix,
                                                    .input = {x},
                                                    .inputs = 1,
                                                    .param = {w},
                                                    .params = 1,
                                                    .name = weight});
}

/* ---- without parameters ---------------------------------------------------------------------- */

int pare__rotary(pare__build *b, int x, int heads, int64_t head_dim)
{
    return simple(b, &pare__node_rotary, x, (pare__attrs){.heads = heads, .head_dim = head_dim});
}

int pare__attention(pare__build *b, int q, int k, int v, const pare__attention_options *o,
                    const char *name)
{
    return pare__node_make(b, &(pare__node_options){.kind = &pare__node_attention,
                                                    .input = {q, k, v},
                                                    .inputs = 3,
                                                    .a = {.heads = o->heads,
                                                          .kv_heads = o->kv_heads,
                                                          .head_dim = o->head_dim,
                                                          .sliding = o->sliding,
                                                          .causal = o->causal,
                                                          .scale = o->scale,
                                                          .p = o->dropout},
                                                    .name = name});
}

int pare__softmax(pare__build *b, int x)
{
    return simple(b, &pare__node_softmax, x, (pare__attrs){0});
}

int pare__act(pare__build *b, int x, pare_fn fn)
{
    return fn == PARE_FN_IDENTITY ? x : simple(b, &pare__node_act, x, (pare__attrs){.fn = fn});
}

int pare__glu(pare__build *b, int gate, int up, pare_fn fn)
{
    return pare__node_make(
        b, &(pare__node_options){
               .kind = &pare__node_glu, .input = {gate, up}, .inputs = 2, .a.fn = fn});
}

int pare__residual(pare__build *b, int x, int z, bool relu)
{
    return pare__node_make(
        b, &(pare__node_options){
               .kind = &pare__node_add, .input = {x, z}, .inputs = 2, .a.relu = relu});
}

int pare__concat(pare__build *b, int x, int z)
{
    return pare__node_make(
        b, &(pare__node_options){.kind = &pare__node_concat, .input = {x, z}, .inputs = 2});
}

int pare__slice(pare__build *b, int x, int64_t first, int64_t cols)
{
    return simple(b, &pare__node_slice, x, (pare__attrs){.first = first, .cols = cols});
}

int pare__row(pare__build *b, int x, int64_t t)
{
    return simple(b, &pare__node_row, x, (pare__attrs){.first = t});
}

int pare__flatten(pare__build *b, int x, bool channels_first)
{
    return simple(b, &pare__node_reshape, x, (pare__attrs){.channels_first = channels_first});
}

int pare__sequence(pare__build *b, int x)
{
    return simple(b, &pare__node_reshape, x, (pare__attrs){.sequence = true});
}

int pare__dropout(pare__build *b, int x, float p)
{
    return p == 0 ? x : simple(b, &pare__node_dropout, x, (pare__attrs){.p = p});
}

int pare__pool_max(pare__build *b, int x, const pare_window *window)
{
    return simple(b, &pare__node_pool_max, x, (pare__attrs){.window = *window});
}

int pare__pool_avg(pare__build *b, int x, const pare_window *window, bool count_pad)
{
    return simple(b, &pare__node_pool_avg, x,
                  (pare__attrs){.window = *window, .count_pad = count_pad});
}

int pare__pool_global(pare__build *b, int x)
{
    return simple(b, &pare__node_pool_avg, x, (pare__attrs){0});
}

int pare__pool_mean(pare__build *b, int x)
{
    return simple(b, &pare__node_pool_seq, x, (pare__attrs){0});
}

int pare__shortcut(pare__build *b, int x, int stride, int64_t channels)
{
    return simple(b, &pare__node_shortcut, x, (pare__attrs){.stride = stride, .width = channels});
}
