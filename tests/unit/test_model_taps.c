/* test_model_taps.c - values that losses look at: they stay, their gradients flow, and the plan
 * knows them; parameters whose gradients are whole. */
#include "model_fixture.h"

#include "arch_sample.h"

#include "base/half.h"

#include <math.h>

/* ---- a model with taps ----------------------------------------------------------------------- */

/* Random weights of the loss Σ output·weight + Σ tap·weight. */
typedef struct tapped {
    arch_run run;
    double *output; /* [count of it] */
    double **tap;   /* [taps][count of it] */
    int64_t taps, outputs, *counts;
    uint64_t rng;
} tapped;

static double *random_weights(uint64_t *rng, int64_t count, double size)
{
    double *w;
    assert_ok(pare__calloc((size_t)count, sizeof *w, &w));
    for (int64_t i = 0; i < count; i++)
        w[i] = size * (double)arch_random(rng);
    return w;
}

/* Every stride-th node from `first` on, its output and its last input, and the model's output. */
static void set_taps(pare_model *m, int64_t first, int64_t stride)
{
    int64_t nodes = pare_model_node_count(m), tap, again;
    for (int64_t i = first; i < nodes; i += stride) {
        const pare__node *n = &m->nodes[i];
        assert_ok(pare_model_tap(m, i, -1, &tap));
        assert_ok(pare_model_tap(m, i, -1, &again));
        assert_int_equal(tap, again);
        if (m->values[n->input[n->inputs - 1]].producer >= 0)
            assert_ok(pare_model_tap(m, i, n->inputs - 1, &tap));
    }
    assert_ok(pare_model_tap(m, nodes - 1, -1, &tap));
}

static void make_weights(tapped *t)
{
    pare_model *m = t->run.model;
    pare_tensor y = pare_model_output(m);
    t->outputs = pare_tensor_count(&y);
    t->output = random_weights(&t->rng, t->outputs, 1);
    t->taps = pare_model_tap_count(m);
    assert_ok(pare__calloc((size_t)t->taps, sizeof *t->tap, &t->tap));
    assert_ok(pare__calloc((size_t)t->taps, sizeof *t->counts, &t->counts));
    for (int64_t i = 0; i < t->taps; i++) {
        pare_tensor value = pare_model_tap_value(m, i);
        t->counts[i] = pare_tensor_count(&value);
        t->tap[i] = random_weights(&t->rng, t->counts[i], 0.3);
    }
}

/* Deep networks amplify whatever the statistics of three small images do: theirs stay. */
static void prepare(tapped *t, bool training, pare_dtype compute)
{
    pare_model_shape shape = t->run.shape;
    shape.training = training;
    shape.frozen_norms = t->run.model->node_count > 30;
    shape.compute = compute;
    assert_ok(pare_model_prepare(t->run.model, t->run.be, &shape));
}

static tapped tapped_make(const arch_sample *sample, int64_t first, int64_t stride,
                          pare_dtype compute)
{
    tapped t = {.rng = 5};
    pare_backend *be;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &be));
    t.run = arch_run_make(sample, be, PARE_F32);
    set_taps(t.run.model, first, stride);
    prepare(&t, true, compute);
    pare__model_poison(t.run.model, true);
    assert_ok(pare_model_forward(t.run.model, &t.run.batch, true, NULL));
    make_weights(&t);
    return t;
}

static void tapped_free(tapped *t)
{
    for (int64_t i = 0; i < t->taps; i++)
        free(t->tap[i]);
    free(t->tap);
    free(t->counts);
    free(t->output);
    arch_run_free(&t->run);
}

static double dot(const double *w, pare_tensor t)
{
    double sum = 0;
    for (int64_t i = 0; i < pare_tensor_count(&t); i++)
        sum += w[i] * (double)graph_at(t, i);
    return sum;
}

static double forward(tapped *t)
{
    pare_model *m = t->run.model;
    assert_ok(pare_model_forward(m, &t->run.batch, true, NULL));
    double loss = dot(t->output, pare_model_output(m));
    for (int64_t i = 0; i < t->taps; i++)
        loss += dot(t->tap[i], pare_model_tap_value(m, i));
    return loss;
}

static void give(pare_tensor to, const double *w, bool add)
{
    for (int64_t i = 0; i < pare_tensor_count(&to); i++) {
        double v = w[i] + (add ? (double)graph_at(to, i) : 0);
        if (to.dtype == PARE_F32)
            ((float *)to.data)[i] = (float)v;
        else
            ((uint16_t *)to.data)[i] = pare__f32_to_bf16((float)v);
    }
}

/* Forward, the loss's gradients, backward. */
static double step(tapped *t)
{
    pare_model *m = t->run.model;
    assert_ok(pare_model_clear_grads(m));
    double loss = forward(t);
    for (int64_t i = 0; i < t->taps; i++)
        if (pare_model_tap_grad(m, i).data)
            give(pare_model_tap_grad(m, i), t->tap[i], true);
    give(pare_model_output_grad(m), t->output, false); /* whenever a first loss does it */
    assert_ok(pare_model_backward(m));
    return loss;
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* The loss with a parameter moved by h·direction. */
static double moved(tapped *t, pare_param *p, const float *direction, const float *kept, double h)
{
    float *x = p->value.data;
    int64_t n = pare_tensor_count(&p->value);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((double)kept[i] + h * (double)direction[i]);
    double loss = forward(t);
    memcpy(x, kept, (size_t)n * sizeof *x);
    return loss;
}

static double norm(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Along the gradient itself the loss must rise by its length (corners of relu bend the slope of a
 * deep network a little). */
static void check_param(tapped *t, pare_param *p, const char *model)
{
    int64_t n = pare_tensor_count(&p->value);
    float *grad = graph_copy(p->grad), *kept = graph_copy(p->value);
    double length = norm(grad, n), h = 2e-3 * (norm(kept, n) + 0.1) / (length + 1e-30);
    double want = length * length;
    double wide = (moved(t, p, grad, kept, h) - moved(t, p, grad, kept, -h)) / (2 * h);
    double narrow = (moved(t, p, grad, kept, h / 2) - moved(t, p, grad, kept, -h / 2)) / h;
    double got = (4 * narrow - wide) / 3, noise = 3e-7 * (1 + fabs(forward(t))) / h;
    double unclear = fabs(narrow - wide) + noise;
    assert_true(isfinite(length));
    if (length > 1e-3 && !(fabs(got - want) <= 3e-2 * want + 2 * unclear))
        fail_msg("%s, %s: along its gradient of length %g the loss rises by %g", model, p->name,
                 length, got / length);
    if (unclear > 0.2 * want && length > 1e-3)
        fail_msg("%s, %s: the slopes are unclear", model, p->name);
    free(grad);
    free(kept);
}

static void check_model(const arch_sample *sample, int64_t first, int64_t stride)
{
    tapped t = tapped_make(sample, first, stride, PARE_F32);
    step(&t);
    for (int64_t i = 0; i < pare_model_param_count(t.run.model); i++) {
        pare_param *p = pare_model_param(t.run.model, i);
        if (!p->grad.data)
            continue;
        step(&t);
        check_param(&t, p, sample->name);
    }
    tapped_free(&t);
}

static void gradients_of_taps_flow_in_every_architecture(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        check_model(s, 0, 3);
}

static void taps_on_every_node_work_too(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        if (strcmp(s->name, "qwen3") == 0 || strcmp(s->name, "bert") == 0 ||
            strcmp(s->name, "resnet8-tiny") == 0 || strcmp(s->name, "cnn") == 0)
            check_model(s, 0, 1);
}

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

/* A branch that the output does not hang on learns from its tap alone. */
static void a_value_that_nothing_needs_learns_from_its_tap(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 1, 1, 1);
    pare__build *b = &g.b;
    int x = graph_leaf(&g, 2, SHAPE(2, 3)), z = graph_leaf(&g, 2, SHAPE(2, 3));
    int aside = pare__act(b, z, PARE_FN_TANH);
    int y = pare__act(b, x, PARE_FN_SILU);
    int64_t tap;
    assert_ok(pare_model_tap(g.m, g.m->values[aside].producer, -1, &tap));
    graph_end(&g, y);
    pare__model_poison(g.m, true);
    assert_ok(pare_model_clear_grads(g.m));
    graph_forward(&g);
    pare_tensor dy = pare_model_output_grad(g.m), dt = pare_model_tap_grad(g.m, tap);
    for (int64_t i = 0; i < 6; i++) {
        ((float *)dy.data)[i] = 0;
        assert_true(((float *)dt.data)[i] == 0);
        ((float *)dt.data)[i] = (float)(i + 1);
    }
    assert_ok(pare_model_backward(g.m));
    const pare_param *px = pare_model_param(g.m, 0), *pz = pare_model_param(g.m, 1);
    for (int64_t i = 0; i < 6; i++) {
        double v = tanh((double)graph_at(pz->value, i));
        assert_true(graph_at(px->grad, i) == 0);
        assert_true(fabs((double)graph_at(pz->grad, i) - (1 - v * v) * (double)(i + 1)) < 1e-5);
    }
    graph_free(&g);
}

static void what_nothing_below_learns_has_no_gradient(void **state)
{
    (void)state;
    graph g = {0};
    graph_images(&g, 2, 1, 1, 1);
    int x = graph_leaf(&g, 2, SHAPE(2, 3));
    int y = pare__linear(&g.b, pare__act(&g.b, x, PARE_FN_TANH), 2, NULL, "fc");
    pare_model_param(g.m, 0)->frozen = true;
    int64_t tap;
    assert_ok(pare_model_tap(g.m, 1, -1, &tap));
    graph_end(&g, y);
    assert_null(pare_model_tap_grad(g.m, tap).data);
    graph_step(&g);
    graph_free(&g);
}

/* ---- numbers in BF16 ------------------------------------------------------------------------- */

static void in_bf16_gradients_point_the_same_way(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        tapped t = tapped_make(s, 0, 4, PARE_F32);
        step(&t);
        pare_tensor arena = pare_model_grad_arena(t.run.model);
        int64_t n = pare_tensor_count(&arena);
        float *want = graph_copy(arena);
        prepare(&t, true, PARE_BF16);
        step(&t);
        pare_tensor half = pare_model_grad_arena(t.run.model);
        double both = 0;
        for (int64_t i = 0; i < n; i++)
            both += (double)want[i] * (double)((const float *)half.data)[i];
        double cosine = both / (norm(want, n) * norm(half.data, n));
        if (!(cosine > 0.95))
            fail_msg("%s: the cosine of gradients in F32 and BF16 is %g", s->name, cosine);
        free(want);
        tapped_free(&t);
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

typedef struct seen {
    float **copy; /* [nodes] of outputs */
} seen;

static pare_status look(void *user, int64_t node, const pare_node_view *view, bool backward)
{
    seen *s = user;
    if (!backward)
        s->copy[node] = graph_copy(view->output);
    return PARE_OK;
}

/* All that a hook sees while the nodes run is there after forward; batch norms that took in the
 * convolution before them differ by rounding. */
static void tapped_values_outlive_the_forward(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        for (int training = 0; training < 2; training++) {
            tapped t = tapped_make(s, 0, 2, PARE_F32);
            pare_model *m = t.run.model;
            size_t nodes = m->node_count;
            seen all = {0};
            assert_ok(pare__calloc(nodes, sizeof *all.copy, &all.copy));
            prepare(&t, training, PARE_F32);
            pare_model_set_hook(m, look, &all);
            assert_ok(pare_model_forward(m, &t.run.batch, training, NULL));
            pare_model_set_hook(m, NULL, NULL);
            assert_ok(pare_model_forward(m, &t.run.batch, training, NULL));
            for (int64_t i = 0; i < t.taps; i++) {
                pare_tensor value = pare_model_tap_value(m, i);
                const float *want = all.copy[m->values[m->taps[i]].producer];
                for (int64_t e = 0; e < t.counts[i]; e++)
                    assert_true(fabs((double)(graph_at(value, e) - want[e])) <=
                                1e-4 * (1 + fabs((double)want[e])));
            }
            for (size_t i = 0; i < nodes; i++)
                free(all.copy[i]);
            free(all.copy);
            tapped_free(&t);
        }
}

static void a_smaller_batch_has_smaller_taps(void **state)
{
    (void)state;
    tapped t = tapped_make(&arch_samples[0], 0, 5, PARE_F32);
    pare_batch batch = t.run.batch;
    batch.size = 1;
    assert_ok(pare_model_forward(t.run.model, &batch, true, NULL));
    for (int64_t i = 0; i < t.taps; i++) {
        pare_tensor value = pare_model_tap_value(t.run.model, i);
        pare_tensor grad = pare_model_tap_grad(t.run.model, i);
        assert_int_equal(pare_tensor_count(&value), t.counts[i] / t.run.batch.size);
        assert_int_equal(pare_tensor_count(&grad), pare_tensor_count(&value));
    }
    tapped_free(&t);
}

/* ---- the plan -------------------------------------------------------------------------------- */

static void memory_is_predicted(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++)
        for (int training = 0; training < 2; training++) {
            tapped t = tapped_make(s, 0, 2, PARE_F32);
            pare_model_memory memory;
            pare_model_shape shape = t.run.shape;
            shape.training = training;
            assert_ok(pare_model_predict(t.run.model, &shape, &memory));
            assert_ok(pare_model_prepare(t.run.model, t.run.be, &shape));
            pare_model_predict(t.run.model, &shape, &memory);
            assert_true(memory.activations >= t.run.model->activation_bytes);
            assert_true(memory.activations - t.run.model->activation_bytes < 1 << 12); /* rotary */
            tapped_free(&t);
        }
}

static void wrong_places_are_refused(void **state)
{
    (void)state;
    pare_model *m;
    int64_t tap;
    assert_ok(pare_model_create(&(pare_model_options){.arch = "mlp:16-8-4"}, &m));
    assert_int_equal(pare_model_tap(m, -1, -1, &tap), PARE_ERR_ARGUMENT);
    assert_int_equal(pare_model_tap(m, pare_model_node_count(m), -1, &tap), PARE_ERR_ARGUMENT);
    assert_int_equal(pare_model_tap(m, 1, 1, &tap), PARE_ERR_ARGUMENT);
    assert_int_equal(pare_model_tap(m, 0, 0, &tap), PARE_ERR_ARGUMENT); /* the images */
    assert_int_equal(pare_model_tap_count(m), 0);
    assert_null(pare_model_tap_value(m, 0).data);
    pare_model_free(&m);
}

/* ---- gradients that are whole ---------------------------------------------------------------- */

typedef struct ready {
    tapped *t;
    float **copy; /* [parameters] of gradients when they were whole */
    int64_t told, stop;
} ready;

static pare_status on_ready(void *user, int64_t param)
{
    ready *r = user;
    assert_null(r->copy[param]);
    r->copy[param] = graph_copy(pare_model_param(r->t->run.model, param)->grad);
    if (++r->told == r->stop)
        PARE_FAIL(PARE_ERR_INTERRUPTED, "enough");
    return PARE_OK;
}

static void each_gradient_is_told_once_when_it_is_whole(void **state)
{
    (void)state;
    for (const arch_sample *s = arch_samples; s->name; s++) {
        tapped t = tapped_make(s, 1, 7, PARE_F32);
        pare_model *m = t.run.model;
        ready r = {.t = &t};
        assert_ok(pare__calloc(m->param_count, sizeof *r.copy, &r.copy));
        pare_model_on_grad(m, on_ready, &r);
        step(&t);
        pare_model_on_grad(m, NULL, NULL);
        for (size_t i = 0; i < m->param_count; i++) {
            pare_tensor grad = m->params[i].grad;
            assert_int_equal(r.copy[i] != NULL, grad.data != NULL);
            if (grad.data)
                assert_memory_equal(r.copy[i], grad.data,
                                    (size_t)pare_tensor_count(&grad) * sizeof(float));
            free(r.copy[i]);
        }
        free(r.copy);
        tapped_free(&t);
    }
}

static void a_failure_ends_backward(void **state)
{
    (void)state;
    tapped t = tapped_make(&arch_samples[0], 0, 4, PARE_F32);
    pare_model *m = t.run.model;
    ready r = {.t = &t, .stop = 2};
    assert_ok(pare__calloc(m->param_count, sizeof *r.copy, &r.copy));
    pare_model_on_grad(m, on_ready, &r);
    forward(&t);
    give(pare_model_output_grad(m), t.output, false);
    assert_int_equal(pare_model_backward(m), PARE_ERR_INTERRUPTED);
    assert_int_equal(r.told, 2);
    for (size_t i = 0; i < m->param_count; i++)
        free(r.copy[i]);
    free(r.copy);
    tapped_free(&t);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(gradients_of_taps_flow_in_every_architecture),
        T(taps_on_every_node_work_too),
        T(a_value_that_nothing_needs_learns_from_its_tap),
        T(what_nothing_below_learns_has_no_gradient),
        T(in_bf16_gradients_point_the_same_way),
        T(tapped_values_outlive_the_forward),
        T(a_smaller_batch_has_smaller_taps),
        T(memory_is_predicted),
        T(wrong_places_are_refused),
        T(each_gradient_is_told_once_when_it_is_whole),
        T(a_failure_ends_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
