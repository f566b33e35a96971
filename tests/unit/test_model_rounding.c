/* test_model_rounding.c - products whose inputs are rounded with one scale (a8s): what the same
 * product gives of inputs that were rounded before. */
#include "arch_sample.h"
#include "far_backend.h"

#include "model/node.h"

#include <math.h>

#define SCALE 0.037f

static const arch_sample samples[] = {
    {"mlp", "mlp:64-16-12-4", NULL, 2},
    {"cnn", "cnn:8-p-12,in=1,size=8,classes=4", NULL, 2},
    {"vit", "vit:patch=4,dim=16,depth=1,heads=2,in=1,size=8,classes=4", NULL, 3},
    {"a shortcut", "resnet8-tiny:in=1,size=8,classes=4", NULL, 4},
};
#define SAMPLES (sizeof samples / sizeof *samples)

static pare_backend *backend(bool far)
{
    pare_backend *be = NULL;
    if (far)
        return far_backend_make(1);
    assert_ok(pare_cpu_create(NULL, &be));
    return be;
}

/* The weight that reads the images. */
static pare_param *first_weight(pare_model *m)
{
    for (int64_t i = 0; i < pare_model_param_count(m); i++) {
        pare_role role = pare_model_param(m, i)->role;
        if (role == PARE_ROLE_LINEAR || role == PARE_ROLE_CONV)
            return pare_model_param(m, i);
    }
    return NULL;
}

static float *round_images(const arch_run *r)
{
    const pare_model_facts *f = pare_model_facts_of(r->model);
    int64_t n = r->batch.size * f->height * f->width * f->channels;
    float *rounded = malloc((size_t)n * sizeof *rounded);
    for (int64_t i = 0; i < n; i++) {
        float q = rintf(r->images[i] / SCALE);
        rounded[i] = (q < -128 ? -128 : q > 127 ? 127 : q) * SCALE;
    }
    return rounded;
}

/* Output and, in training, gradients; freed by the caller. */
static char *run(const arch_run *r, const pare_batch *batch, bool training, size_t *bytes)
{
    size_t n = 0, g = 0;
    pare_step_seed seed = {.seed = 1};
    assert_ok(pare_model_forward(r->model, batch, training, training ? &seed : NULL));
    char *y = arch_copy(r->be, pare_model_output(r->model), &n), *dw;
    *bytes = n;
    if (!training)
        return y;
    pare_tensor dy = pare_model_output_grad(r->model);
    assert_ok(pare_backend_upload(r->be, dy.data, y, (int64_t)n));
    assert_ok(pare_model_clear_grads(r->model));
    assert_ok(pare_model_backward(r->model));
    dw = arch_copy(r->be, first_weight(r->model)->grad, &g);
    y = realloc(y, n + g);
    memcpy(y + n, dw, g);
    free(dw);
    *bytes = n + g;
    return y;
}

static void check(const arch_sample *s, bool far, bool training)
{
    arch_run r = arch_run_make(s, backend(far), PARE_F32);
    size_t n, n2;
    float *rounded = round_images(&r);
    pare_batch before = r.batch;
    before.images = rounded;
    r.shape.training = training;
    assert_ok(pare_model_prepare(r.model, r.be, &r.shape));
    char *want = run(&r, &before, training, &n);
    first_weight(r.model)->act = PARE_ACT_STATIC;
    first_weight(r.model)->act_scale = SCALE;
    assert_status(pare_model_forward(r.model, &r.batch, false, NULL), PARE_ERR_ARGUMENT);
    assert_ok(pare_model_prepare(r.model, r.be, &r.shape));
    pare__model_poison(r.model, true);
    char *got = run(&r, &r.batch, training, &n2);
    assert_int_equal(n, n2);
    if (memcmp(got, want, n) != 0)
        fail_msg("%s: rounded inputs give something else%s", s->name,
                 training ? " (training)" : "");
    free(got);
    free(want);
    free(rounded);
    arch_run_free(&r);
}

static void one_scale_rounds_what_a_product_reads(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++)
        for (int training = 0; training < 2; training++)
            check(&samples[i], false, training);
}

static void so_it_does_where_the_host_sees_no_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++)
        check(&samples[i], true, false);
}

/* A scale by token has no meaning for images: there it stays as it is. */
static void convolutions_round_by_no_token(void **state)
{
    (void)state;
    arch_run r = arch_run_make(&samples[1], backend(false), PARE_F32);
    size_t n, n2;
    char *want = run(&r, &r.batch, false, &n);
    first_weight(r.model)->act = PARE_ACT_DYNAMIC;
    char *got = run(&r, &r.batch, false, &n2);
    assert_int_equal(n, n2);
    assert_memory_equal(got, want, n);
    free(got);
    free(want);
    arch_run_free(&r);
}

/* What lies beyond the range of one scale learns nothing: of x·sᵀ, rounded inputs pass a gradient
 * of 1 where x/s is in −128 … 127, else none. */
static void check_cut(const arch_sample *s, bool far)
{
    arch_run r = arch_run_make(s, backend(far), PARE_F32);
    pare_param *last = NULL;
    r.shape.training = true;
    for (int64_t i = 0; i < pare_model_node_count(r.model); i++) {
        pare_node_view v = pare_model_node(r.model, i);
        if (strcmp(v.kind, "linear") == 0 || strcmp(v.kind, "conv") == 0)
            last = pare_model_param(r.model, v.param[0]);
    }
    size_t n, weights = (size_t)pare_tensor_count(&first_weight(r.model)->value) * 4;
    last->act = PARE_ACT_STATIC;
    assert_ok(pare_model_prepare(r.model, r.be, &r.shape));
    pare__model_poison(r.model, true);
    for (int all = 0; all < 2; all++) {
        last->act_scale = all ? 1e3f : 1e-12f; /* everything lies inside, or nothing but 0 */
        char *got = run(&r, &r.batch, true, &n);
        bool any = false;
        for (size_t i = n - weights; i < n; i += 4) {
            float g;
            memcpy(&g, got + i, 4);
            any |= g != 0;
        }
        if (any != (all == 1))
            fail_msg("%s: %s gradient came through", s->name, any ? "a" : "no");
        free(got);
    }
    arch_run_free(&r);
}

static void what_a_scale_cuts_off_passes_no_gradient(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++)
        check_cut(&samples[i], i == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_scale_rounds_what_a_product_reads),
        cmocka_unit_test(so_it_does_where_the_host_sees_no_memory),
        cmocka_unit_test(convolutions_round_by_no_token),
        cmocka_unit_test(what_a_scale_cuts_off_passes_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
