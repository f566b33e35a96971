/* test_trainer_masks.c - schedules of masks inside the training loop: sparsity in every step,
 * models that still learn, and trainings that were cut end with the bytes of those that were not.
 */
#include "train_fixture.h"

#include "pare/prune.h"

#include <math.h>

enum { STEPS = 24, MANY = 150, CUT = 11, TENSORS = 2 };

static const pare_mask_options schedules[] = {
    {.schedule = PARE_MASKS_GRADUAL, .final = 0.6, .each = 3, .revive = true},
    {.schedule = PARE_MASKS_GRADUAL, .each = 3, .pattern = {.kind = PARE_PATTERN_NM, 2, 4, 0, 0}},
    {.schedule = PARE_MASKS_ITERATIVE, .final = 0.6, .rounds = 3, .global = true},
    {.schedule = PARE_MASKS_REWIND, .final = 0.6, .rounds = 2, .rewind = 2},
    {.schedule = PARE_MASKS_RIGL, .final = 0.6, .each = 3, .erk = true},
    {.schedule = PARE_MASKS_SET, .final = 0.6, .each = 3, .seed = 3},
    {.schedule = PARE_MASKS_DENSE, .final = 0.6, .end = 0.6},
};
enum { SCHEDULES = sizeof schedules / sizeof schedules[0] };

typedef struct run {
    train_fixture f;
    pare_masks *masks;
    pare_train_part **part; /* where the trainer finds it */
    pare_trainer *trainer;
    const pare_mask_options *options;
    int stop; /* step to stop at; 0: none */
} run;

/* Options with movement where the schedule learns scores along the way. */
static pare_mask_options options_of(int which)
{
    pare_mask_options o = schedules[which];
    if (o.schedule == PARE_MASKS_ITERATIVE || o.schedule == PARE_MASKS_REWIND)
        o.method = pare_masks_method("movement");
    return o;
}

static run begin(const pare_mask_options *o, const pare_train_options *train)
{
    run r = {.options = o, .part = calloc(1, sizeof *r.part)};
    assert_non_null(r.part);
    r.f = fixture_make(&(train_fixture_options){
        .arch = "mlp:64-16-12-4", .batch = 8, .samples = 64, .shuffle = true});
    assert_ok(pare_masks_create(o, r.f.model, &r.masks));
    assert_ok(pare_masks_part(r.masks, r.f.be, r.part));
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = train,
                                                      .model = r.f.model,
                                                      .be = r.f.be,
                                                      .dataset = r.f.dataset,
                                                      .parts = r.part,
                                                      .part_count = 1},
                                  &r.trainer));
    return r;
}

static void end(run *r)
{
    pare_trainer_free(&r->trainer);
    pare_masks_free(&r->masks);
    free(r->part);
    fixture_free(&r->f);
}

/* After each step: as many zeros as the schedule means, in the masks and in the weights. */
static pare_status watch(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    const run *r = user;
    double sparsity = pare_masks_sparsity(r->options, s->step - 1, s->steps), zeros = 0, all = 0;
    (void)trainer;
    for (int64_t p = 0; p < pare_model_param_count(r->f.model); p++) {
        const pare_param *param = pare_model_param(r->f.model, p);
        for (int64_t i = 0; param->mask && i < pare_tensor_count(&param->value); i++) {
            all++;
            zeros += param->mask[i] == 0;
            if (!param->mask[i])
                assert_true(((const float *)param->value.data)[i] == 0);
        }
    }
    assert_true(fabs(zeros - sparsity * all) <= 1 + TENSORS);
    return s->step == r->stop ? PARE_ERR_INTERRUPTED : PARE_OK;
}

static pare_status go(run *r, int stop)
{
    r->stop = stop;
    return pare_trainer_run(r->trainer, r->f.sched,
                            &(pare_train_callbacks){.step = watch, .user = r});
}

static pare_train_options train_of(int which, const pare_mask_options *o, int steps)
{
    pare_train_options train = {.optimiser = which % 2 ? PARE_ADAMW : PARE_SGD,
                                .curve = {.rate = which % 2 ? 0.01 : 0.05, .steps = steps},
                                .batch = 8,
                                .momentum = which % 2 ? 0 : 0.9,
                                .seed = 4};
    if (o->schedule == PARE_MASKS_REWIND) {
        train.curve.period = steps / 3;
        train.curve.restarts = 2;
    }
    return train;
}

static void a_training_that_was_cut_ends_alike(void **state)
{
    (void)state;
    for (int which = 0; which < SCHEDULES; which++) {
        pare_mask_options o = options_of(which);
        pare_train_options train = train_of(which, &o, STEPS);
        run whole = begin(&o, &train), first = begin(&o, &train), second;
        char path[512];
        snprintf(path, sizeof path, "%s/state.h5", whole.f.folder);
        assert_ok(go(&whole, 0));
        assert_int_equal(go(&first, CUT), PARE_ERR_INTERRUPTED);
        assert_ok(pare_trainer_save(first.trainer, path, "test: masks\n"));
        end(&first);
        second = begin(&o, &train);
        assert_ok(pare_trainer_load(second.trainer, path, "test: masks\n"));
        assert_ok(go(&second, 0));
        int64_t count, other;
        float *a = fixture_values(whole.f.model, &count),
              *b = fixture_values(second.f.model, &other);
        assert_int_equal(count, other);
        assert_memory_equal(a, b, (size_t)count * sizeof *a);
        free(a);
        free(b);
        end(&second);
        end(&whole);
    }
}

static void a_state_of_another_schedule_is_refused(void **state)
{
    (void)state;
    pare_mask_options o = options_of(0), other = o;
    pare_train_options train = train_of(0, &o, STEPS);
    run first = begin(&o, &train);
    char path[512];
    snprintf(path, sizeof path, "%s/state.h5", first.f.folder);
    assert_int_equal(go(&first, CUT), PARE_ERR_INTERRUPTED);
    assert_ok(pare_trainer_save(first.trainer, path, "test: masks\n"));
    other.final = 0.7;
    run second = begin(&other, &train);
    assert_status(pare_trainer_load(second.trainer, path, "test: masks\n"), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "sparsity of masks"));
    end(&second);
    end(&first);
}

static void sparse_models_learn(void **state)
{
    (void)state;
    for (int which = 0; which < SCHEDULES; which++) {
        pare_mask_options o = options_of(which);
        pare_train_options train = train_of(which, &o, MANY);
        run r = begin(&o, &train);
        const float *losses;
        int64_t count;
        assert_ok(go(&r, 0));
        pare_trainer_losses(r.trainer, &losses, &count);
        assert_true(losses[MANY - 1] < 0.7f * losses[0]);
        end(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_training_that_was_cut_ends_alike),
        cmocka_unit_test(a_state_of_another_schedule_is_refused),
        cmocka_unit_test(sparse_models_learn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
