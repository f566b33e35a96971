/* test_optim.c - what the optimiser holds and what a step does to each kind of parameter. Gradients
 * are made by hand here. */
#include "train_fixture.h"

#include "train/train_impl.h"

#include <math.h>

static const pare_train_options sgd = {.optimiser = PARE_SGD, .momentum = 0.9, .decay = 0.1};
static const pare_train_options adamw = {
    .optimiser = PARE_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1};

typedef struct bench {
    train_fixture f;
    pare__optim optim;
    pare_param *weight, *bias; /* of the first layer, [16, 64] and [16] */
} bench;

static bench begin(const pare_train_options *options, uint8_t *mask)
{
    bench b = {.f = fixture_make(&(train_fixture_options){0})};
    for (int64_t i = 0; i < pare_model_param_count(b.f.model); i++) {
        pare_param *p = pare_model_param(b.f.model, i);
        if (!b.weight && p->value.rank == 2)
            b.weight = p;
        if (!b.bias && p->value.rank == 1)
            b.bias = p;
    }
    assert_int_equal(pare_tensor_count(&b.weight->value), 1024);
    b.weight->mask = mask;
    for (int i = 0; mask && i < 1024; i++)
        if (!mask[i])
            ((float *)b.weight->value.data)[i] = 0;
    assert_ok(pare__optim_create(
        &(pare_train_setup){.options = options, .model = b.f.model, .be = b.f.be}, &b.optim));
    return b;
}

static void end(bench *b)
{
    b->weight->mask = NULL;
    pare__optim_free(&b->optim);
    fixture_free(&b->f);
}

/* Gradient i of every parameter is step + i/1000. */
static void set_grads(bench *b, int step)
{
    for (int64_t p = 0; p < pare_model_param_count(b->f.model); p++) {
        pare_tensor grad = pare_model_param(b->f.model, p)->grad;
        for (int64_t i = 0; i < pare_tensor_count(&grad); i++)
            ((float *)grad.data)[i] = (float)step + (float)i / 1000;
    }
}

static const pare__trained *trained_of(const bench *b, const pare_param *param)
{
    for (size_t i = 0; i < b->optim.count; i++)
        if (pare_model_param(b->f.model, b->optim.trained[i].param) == param)
            return &b->optim.trained[i];
    fail_msg("%s is not trained", param->name);
    return NULL;
}

static double sgd_oracle(double w, double decay, int i, double scale)
{
    double m = 0;
    for (int s = 1; s <= 3; s++) {
        m = 0.9 * m + scale * (s + i / 1000.0) + decay * w;
        w -= 0.01 * m;
    }
    return w;
}

static double adamw_oracle(double w, double decay, int i, double scale)
{
    double m = 0, v = 0;
    for (int s = 1; s <= 3; s++) {
        double g = scale * (s + i / 1000.0);
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        w -= 0.01 * decay * w;
        w -= 0.01 * (m / (1 - pow(0.9, s))) / (sqrt(v / (1 - pow(0.99, s))) + 1e-8);
    }
    return w;
}

static void check_steps(const pare_train_options *options,
                        double (*oracle)(double, double, int, double))
{
    bench b = begin(options, NULL);
    float w[1024], bias[16];
    memcpy(w, b.weight->value.data, sizeof w);
    memcpy(bias, b.bias->value.data, sizeof bias);
    for (int s = 1; s <= 3; s++) {
        set_grads(&b, s);
        assert_ok(pare__optim_step(&b.optim, options, 0.01, 0.5, s));
    }
    for (int i = 0; i < 1024; i++)
        assert_float_equal(((float *)b.weight->value.data)[i], oracle((double)w[i], 0.1, i, 0.5),
                           1e-5);
    for (int i = 0; i < 16; i++) /* which does not decay */
        assert_float_equal(((float *)b.bias->value.data)[i], oracle((double)bias[i], 0, i, 0.5),
                           1e-5);
    end(&b);
}

static void weights_decay_and_biases_do_not(void **state)
{
    (void)state;
    check_steps(&sgd, sgd_oracle);
    check_steps(&adamw, adamw_oracle);
}

static void pruned_weights_and_their_state_stay_zero(void **state)
{
    (void)state;
    const pare_train_options *both[] = {&sgd, &adamw};
    for (int k = 0; k < 2; k++) {
        pare_train_options options = *both[k];
        uint8_t mask[1024];
        double norm;
        options.ema = 0.9;
        for (int i = 0; i < 1024; i++)
            mask[i] = i % 3 != 0;
        bench b = begin(&options, mask);
        for (int s = 1; s <= 3; s++) {
            set_grads(&b, s);
            assert_ok(pare__optim_norm(&b.optim, &norm));
            assert_ok(pare__optim_step(&b.optim, &options, 0.01, 1, s));
        }
        const pare__trained *t = trained_of(&b, b.weight);
        for (int i = 0; i < 1024; i++) {
            const float parts[] = {((float *)b.weight->value.data)[i], t->m[i], t->v ? t->v[i] : 0,
                                   t->average[i]};
            for (int p = 0; p < 4; p++)
                assert_true(mask[i] ? p == 2 || parts[p] < 0 || parts[p] > 0
                                    : memcmp(&parts[p], "\0\0\0\0", 4) == 0);
        }
        end(&b);
    }
}

static void the_norm_is_of_what_no_mask_keeps_zero(void **state)
{
    (void)state;
    uint8_t mask[1024];
    double norm, want = 0;
    for (int i = 0; i < 1024; i++)
        mask[i] = i % 7 == 3;
    bench b = begin(&sgd, mask);
    set_grads(&b, 2);
    for (int64_t p = 0; p < pare_model_param_count(b.f.model); p++) {
        const pare_param *param = pare_model_param(b.f.model, p);
        for (int64_t i = 0; i < pare_tensor_count(&param->grad); i++) {
            double g = (double)((float *)param->grad.data)[i];
            want += param != b.weight || mask[i] ? g * g : 0;
        }
    }
    assert_ok(pare__optim_norm(&b.optim, &norm));
    assert_true(fabs(norm - sqrt(want)) < 1e-9 * norm);
    ((float *)b.bias->grad.data)[3] = INFINITY;
    assert_ok(pare__optim_norm(&b.optim, &norm));
    assert_true(!isfinite(norm));
    end(&b);
}

static void the_average_follows_the_values(void **state)
{
    (void)state;
    pare_train_options options = sgd;
    options.ema = 0.25;
    bench b = begin(&options, NULL);
    const float *w = b.weight->value.data, *average = trained_of(&b, b.weight)->average;
    double want[1024];
    for (int i = 0; i < 1024; i++)
        want[i] = (double)w[i]; /* it begins with them */
    for (int s = 1; s <= 9; s++) {
        double share = (1.0 + s) / (10.0 + s) < 0.25 ? (1.0 + s) / (10.0 + s) : 0.25;
        set_grads(&b, s);
        assert_ok(pare__optim_step(&b.optim, &options, 0.01, 1, s));
        for (int i = 0; i < 1024; i++)
            want[i] = share * want[i] + (1 - share) * (double)w[i];
    }
    for (int i = 0; i < 1024; i++)
        assert_float_equal(average[i], want[i], 1e-5);
    end(&b);
}

static void frozen_parameters_have_no_state(void **state)
{
    (void)state;
    char *globs[] = {"*bias"};
    pare_train_options options = adamw;
    options.freeze = globs;
    options.freezes = 1;
    train_fixture f = fixture_make(&(train_fixture_options){.freeze = &options});
    pare__optim optim = {0};
    assert_ok(pare__optim_create(
        &(pare_train_setup){.options = &options, .model = f.model, .be = f.be}, &optim));
    assert_int_equal(optim.count, 2); /* two weights */
    assert_int_equal(optim.state_bytes, 64 + 2 * (64 * 16 + 16 * 4) * 4);
    assert_int_equal(optim.average_bytes, 0);
    pare_footprint bytes =
        pare__optim_bytes(&(pare_train_setup){.options = &options, .model = f.model});
    assert_int_equal(bytes.backend, optim.state_bytes);
    assert_int_equal(bytes.host, 2 * (int64_t)sizeof *optim.trained);
    pare__optim_free(&optim);
    fixture_free(&f);
}

static void state_is_as_large_as_the_optimiser_needs(void **state)
{
    (void)state;
    /* 64·16 + 16·4 weights, biases of 16 and 4 that take whole cache lines */
    const int64_t values = (64 * 16 + 16 * 4 + 16 + 16) * 4;
    const int64_t sum = 64; /* of squares, and room through which the average is swapped */
    const int64_t swap = (int64_t)1 << 20;
    pare_train_options plain = {.optimiser = PARE_SGD}, average = adamw;
    average.ema = 0.9;
    const struct {
        const pare_train_options *options;
        int64_t state, average;
    } cases[] = {{&plain, sum, 0},
                 {&sgd, sum + values, 0},
                 {&adamw, sum + 2 * values, 0},
                 {&average, sum + 2 * values, values + swap}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b = begin(cases[i].options, NULL);
        assert_int_equal(b.optim.state_bytes, cases[i].state);
        assert_int_equal(b.optim.average_bytes, cases[i].average);
        end(&b);
    }
}

static void a_model_prepared_for_inference_is_refused(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.inference = true});
    pare__optim optim = {0};
    assert_status(pare__optim_create(
                      &(pare_train_setup){.options = &sgd, .model = f.model, .be = f.be}, &optim),
                  PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "prepared for training"));
    pare__optim_free(&optim);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_decay_and_biases_do_not),
        cmocka_unit_test(pruned_weights_and_their_state_stay_zero),
        cmocka_unit_test(the_norm_is_of_what_no_mask_keeps_zero),
        cmocka_unit_test(the_average_follows_the_values),
        cmocka_unit_test(frozen_parameters_have_no_state),
        cmocka_unit_test(state_is_as_large_as_the_optimiser_needs),
        cmocka_unit_test(a_model_prepared_for_inference_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
