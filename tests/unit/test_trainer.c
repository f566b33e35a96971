/* test_trainer.c - the training loop: it learns, repeats, adds up, stops cleanly, and says what
 * does not fit. */
#include "train_fixture.h"

#include "train/train_impl.h"

#include <math.h>

/* ---- allocations are counted ------------------------------------------------------------------
 */

static volatile long allocations;
static volatile int counting;

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* oneDNN makes its lists of arguments anew in every call, a few hundred bytes that go at once:
 * those are not meant. */
static void counted(size_t size)
{
    if (counting && size > 1024)
        __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size)
{
    counted(size);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    counted(count * size);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    counted(size);
    return __libc_realloc(memory, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    counted(size);
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : 12;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    counted(size);
    return __libc_memalign(alignment, size);
}
#endif

/* ---- fixtures -------------------------------------------------------------------------------- */

#define LLAMA                                                                                      \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, "             \
    "\"max_position_embeddings\": 64, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true}"

static pare_train_options options_of(pare_optimiser optimiser, double rate, int64_t steps)
{
    return (pare_train_options){.optimiser = optimiser,
                                .curve = {.rate = rate, .steps = steps},
                                .batch = 16,
                                .momentum = 0.9,
                                .decay = 1e-3,
                                .seed = 9};
}

static pare_trainer *trainer_of(train_fixture *f, const pare_train_options *options)
{
    pare_trainer *trainer = NULL;
    assert_ok(pare_trainer_create(
        &(pare_train_setup){
            .options = options, .model = f->model, .be = f->be, .dataset = f->dataset},
        &trainer));
    return trainer;
}

/* Trains a fresh model; the values it ends with (freed by the caller) and the last smooth loss. */
static float *train(const train_fixture_options *data, const pare_train_options *options,
                    int64_t *count, double *loss)
{
    train_fixture f = fixture_make(data);
    pare_trainer *trainer = trainer_of(&f, options);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    const pare_train_state *s = pare_trainer_state(trainer);
    assert_int_equal(s->step, options->curve.steps);
    *loss = s->smooth_loss;
    float *values = fixture_values(f.model, count);
    pare_trainer_free(&trainer);
    fixture_free(&f);
    return values;
}

static void check_same(const float *a, const float *b, int64_t count, float tolerance)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= tolerance))
            fail_msg("value %lld: %.9g and %.9g", (long long)i, (double)a[i], (double)b[i]);
}

/* ---- learning -------------------------------------------------------------------------------- */

static void check_learns(const train_fixture_options *data, pare_train_options options,
                         double first, double last)
{
    train_fixture f = fixture_make(data);
    pare_trainer *trainer = trainer_of(&f, &options);
    const float *losses;
    int64_t count;
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    pare_trainer_losses(trainer, &losses, &count);
    assert_int_equal(count, options.curve.steps);
    if (!((double)losses[0] > first && (double)losses[count - 1] < last))
        fail_msg("losses went from %g to %g", (double)losses[0], (double)losses[count - 1]);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void an_mlp_learns(void **state)
{
    (void)state;
    train_fixture_options data = {.shuffle = true};
    check_learns(&data, options_of(PARE_SGD, 0.1, 60), 1, 0.1);
    check_learns(&data, options_of(PARE_ADAMW, 0.01, 60), 1, 0.1);
}

static void a_language_model_learns(void **state)
{
    (void)state;
    train_fixture_options data = {.config = LLAMA, .length = 24, .shuffle = true};
    /* the walk has log 3 = 1.10 nats a step; log 32 = 3.47 at the start */
    check_learns(&data, options_of(PARE_ADAMW, 0.01, 80), 3.2, 1.35);
    data.compute = PARE_BF16;
    pare_train_options options = options_of(PARE_ADAMW, 0.01, 80);
    options.compute = PARE_BF16;
    check_learns(&data, options, 3.2, 1.35);
}

static void a_residual_network_learns(void **state)
{
    (void)state;
    train_fixture_options data = {.arch = "resnet20-cifar:in=1,size=8,classes=4", .shuffle = true};
    check_learns(&data, options_of(PARE_SGD, 0.05, 30), 1, 0.3);
}

static void the_same_run_ends_with_the_same_bytes(void **state)
{
    (void)state;
    train_fixture_options data = {.shuffle = true};
    pare_train_options options = options_of(PARE_ADAMW, 0.01, 20);
    int64_t count, count2;
    double loss, loss2;
    options.smoothing = 0.1;
    float *a = train(&data, &options, &count, &loss), *b = train(&data, &options, &count2, &loss2);
    assert_int_equal(count, count2);
    assert_memory_equal(a, b, (size_t)count * 4);
    assert_true(loss <= loss2 && loss >= loss2);
    free(a);
    free(b);
}

static void accumulation_is_the_larger_batch(void **state)
{
    (void)state;
    train_fixture_options data = {.batch = 4, .shuffle = true};
    pare_train_options options = options_of(PARE_SGD, 0.1, 15);
    int64_t count;
    double loss, loss2;
    options.clip = 0.5;
    options.batch = 4;
    options.accumulate = 4;
    float *pieces = train(&data, &options, &count, &loss);
    data.batch = options.batch = 16;
    options.accumulate = 0;
    float *whole = train(&data, &options, &count, &loss2);
    check_same(pieces, whole, count, 1e-5f);
    assert_float_equal(loss, loss2, 1e-5);
    free(pieces);
    free(whole);
}

/* Two rounds of one epoch each are two trainings, the second from where the first ended: nothing of
 * the optimiser goes from one to the other. */
static void a_curve_that_begins_again_is_a_training_that_begins_again(void **state)
{
    (void)state;
    enum { ROUND = 6 }; /* batches of 16 in 96 samples */
    static const pare_optimiser optimisers[] = {PARE_SGD, PARE_ADAMW};
    for (int i = 0; i < 2; i++) {
        train_fixture_options data = {.batch = 16};
        pare_train_options one = options_of(optimisers[i], 0.02, ROUND), both = one;
        int64_t count;
        double loss;
        both.curve.steps = 2 * ROUND;
        both.curve.period = ROUND;
        both.curve.restarts = 1;
        float *together = train(&data, &both, &count, &loss);
        train_fixture f = fixture_make(&data);
        for (int round = 0; round < 2; round++) {
            pare_trainer *trainer = trainer_of(&f, &one);
            assert_ok(pare_trainer_run(trainer, f.sched, NULL));
            pare_trainer_free(&trainer);
        }
        float *apart = fixture_values(f.model, &count);
        assert_memory_equal(together, apart, (size_t)count * sizeof *apart);
        free(together);
        free(apart);
        fixture_free(&f);
    }
}

static void clipping_bounds_a_step(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    pare_train_options options = options_of(PARE_SGD, 0.5, 1);
    options.momentum = options.decay = 0;
    options.clip = 0.01;
    options.curve.kind = PARE_SCHEDULE_CONSTANT;
    pare_trainer *trainer = trainer_of(&f, &options);
    int64_t count;
    double moved = 0;
    float *before = fixture_values(f.model, &count);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    float *after = fixture_values(f.model, &count);
    for (int64_t i = 0; i < count; i++)
        moved += pow((double)after[i] - (double)before[i], 2);
    assert_true(pare_trainer_state(trainer)->grad_norm > 0.1);
    assert_true(fabs(sqrt(moved) - 0.5 * 0.01) < 1e-6);
    free(before);
    free(after);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void the_average_swaps_in_and_out(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    pare_train_options options = options_of(PARE_SGD, 0.1, 10);
    options.ema = 0.9;
    pare_trainer *trainer = trainer_of(&f, &options);
    int64_t count;
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    float *own = fixture_values(f.model, &count);
    assert_ok(pare_trainer_swap_average(trainer));
    float *average = fixture_values(f.model, &count);
    assert_true(memcmp(own, average, (size_t)count * 4) != 0);
    assert_status(pare_trainer_run(trainer, f.sched, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_trainer_save(trainer, "x.h5", ""), PARE_ERR_ARGUMENT);
    assert_ok(pare_trainer_swap_average(trainer));
    float *again = fixture_values(f.model, &count);
    assert_memory_equal(own, again, (size_t)count * 4);
    free(own), free(average), free(again);
    pare_trainer_free(&trainer);
    options.ema = 0;
    trainer = trainer_of(&f, &options);
    assert_status(pare_trainer_swap_average(trainer), PARE_ERR_ARGUMENT);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void frozen_parameters_stay(void **state)
{
    (void)state;
    char *globs[] = {"*.weight"};
    pare_train_options options = options_of(PARE_ADAMW, 0.01, 10);
    options.freeze = globs, options.freezes = 1;
    train_fixture f = fixture_make(&(train_fixture_options){.freeze = &options});
    pare_trainer *trainer = trainer_of(&f, &options);
    int64_t count;
    float *before = fixture_values(f.model, &count), *at = before;
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    for (int64_t i = 0; i < pare_model_param_count(f.model); i++) {
        const pare_param *p = pare_model_param(f.model, i);
        int64_t n = pare_tensor_count(&p->value);
        bool same = memcmp(p->value.data, at, (size_t)n * 4) == 0;
        assert_int_equal(same, strstr(p->name, "weight") != NULL);
        at += n;
    }
    free(before);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

/* ---- stopping -------------------------------------------------------------------------------- */

typedef struct stopper {
    int64_t at;
    int64_t calls;
} stopper;

static pare_status stop_at(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    stopper *stop = user;
    stop->calls++;
    assert_ptr_equal(pare_trainer_state(trainer), s);
    assert_int_equal(s->step, stop->calls);
    assert_true(s->loss > 0 && s->rate > 0 && s->grad_norm > 0 && s->samples_per_second > 0 &&
                s->seconds_left >= 0);
    return s->step == stop->at ? PARE_ERR_INTERRUPTED : PARE_OK;
}

static void a_callback_stops_it_and_it_goes_on(void **state)
{
    (void)state;
    train_fixture_options data = {.shuffle = true};
    pare_train_options options = options_of(PARE_SGD, 0.1, 12);
    int64_t count;
    double loss;
    float *whole = train(&data, &options, &count, &loss);
    train_fixture f = fixture_make(&data);
    pare_trainer *trainer = trainer_of(&f, &options);
    stopper stop = {.at = 5};
    pare_train_callbacks callbacks = {.step = stop_at, .user = &stop};
    assert_int_equal(pare_trainer_run(trainer, f.sched, &callbacks), PARE_ERR_INTERRUPTED);
    assert_int_equal(pare_trainer_state(trainer)->step, 5);
    assert_ok(pare_trainer_run(trainer, f.sched, &callbacks));
    assert_int_equal(stop.calls, 12);
    assert_ok(pare_trainer_run(trainer, f.sched, &callbacks)); /* nothing is left */
    assert_int_equal(stop.calls, 12);
    float *parts = fixture_values(f.model, &count);
    assert_memory_equal(whole, parts, (size_t)count * 4);
    free(whole), free(parts);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void a_nan_stops_it_with_step_and_tensor(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    pare_train_options options = options_of(PARE_SGD, 0.1, 12);
    pare_trainer *trainer = trainer_of(&f, &options);
    stopper stop = {.at = 4};
    pare_train_callbacks callbacks = {.step = stop_at, .user = &stop};
    assert_int_equal(pare_trainer_run(trainer, f.sched, &callbacks), PARE_ERR_INTERRUPTED);
    pare_param *first = pare_model_param(f.model, 0);
    ((float *)first->value.data)[7] = NAN;
    assert_status(pare_trainer_run(trainer, f.sched, NULL), PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), "step 5"));
    assert_non_null(strstr(pare_last_error(), "NaN"));
    assert_non_null(strstr(pare_last_error(), first->name));
    assert_int_equal(pare_trainer_state(trainer)->step, 4);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void a_failed_step_leaves_running_statistics_alone(void **state)
{
    (void)state;
    train_fixture f = fixture_make(
        &(train_fixture_options){.arch = "resnet20-cifar:in=1,size=8,classes=4", .batch = 8});
    pare_train_options options = options_of(PARE_SGD, 0.05, 6);
    options.batch = 8;
    options.accumulate = 3;
    pare_trainer *trainer = trainer_of(&f, &options);
    stopper stop = {.at = 2};
    pare_train_callbacks callbacks = {.step = stop_at, .user = &stop};
    assert_int_equal(pare_trainer_run(trainer, f.sched, &callbacks), PARE_ERR_INTERRUPTED);
    int64_t count;
    pare_param *head = pare_model_param(f.model, pare_model_param_count(f.model) - 1);
    for (int64_t i = 0; i < pare_model_param_count(f.model); i++)
        if (pare_model_param(f.model, i)->role == PARE_ROLE_HEAD)
            head = pare_model_param(f.model, i);
    *(float *)head->value.data = INFINITY; /* after all the norms */
    float *before = fixture_values(f.model, &count);
    assert_status(pare_trainer_run(trainer, f.sched, NULL), PARE_ERR_NUMERIC);
    float *after = fixture_values(f.model, &count);
    assert_memory_equal(before, after, (size_t)count * 4);
    free(before), free(after);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static pare_status watch(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    (void)user, (void)trainer;
    counting = s->step >= 3 && s->step < s->steps;
    return PARE_OK;
}

static void steps_after_the_first_allocate_no_buffers(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    const train_fixture_options cases[] = {
        {.shuffle = true},
        {.config = LLAMA, .length = 24, .shuffle = true},
        {.arch = "resnet20-cifar:in=1,size=8,classes=4", .shuffle = true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        train_fixture f = fixture_make(&cases[i]);
        pare_train_options options = options_of(PARE_ADAMW, 0.01, 10);
        options.ema = 0.9, options.clip = 1;
        pare_trainer *trainer = trainer_of(&f, &options);
        allocations = 0;
        assert_ok(pare_trainer_run(trainer, f.sched, &(pare_train_callbacks){.step = watch}));
        counting = 0;
        if (allocations != 0)
            fail_msg("case %zu: %ld allocations in 7 steps", i, allocations);
        pare_trainer_free(&trainer);
        fixture_free(&f);
    }
}

static void bytes_are_what_it_takes(void **state)
{
    (void)state;
    const train_fixture_options cases[] = {
        {.batch = 16}, {.config = LLAMA, .length = 24}, {.arch = "resnet20-cifar:in=1,size=8"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        train_fixture f = fixture_make(&cases[i]);
        pare_train_options options = options_of(PARE_ADAMW, 0.01, 10);
        options.ema = 0.9;
        pare_trainer *t = trainer_of(&f, &options);
        pare_footprint bytes = pare_train_bytes(
            &(pare_train_setup){
                .options = &options, .model = f.model, .be = f.be, .dataset = f.dataset},
            &f.shape);
        assert_int_equal(bytes.backend, t->optim.state_bytes + t->optim.average_bytes +
                                            t->scratch_size + t->buffer_count * 4);
        assert_int_equal(bytes.host, (int64_t)(t->optim.count * sizeof *t->optim.trained) + 10 * 4 +
                                         PARE__AHEAD * pare_batch_bytes(f.dataset, 16));
        pare_trainer_free(&t);
        fixture_free(&f);
    }
}

/* ---- what does not fit ----------------------------------------------------------------------- */

static void refused(train_fixture *f, const pare_train_options *options, const char *word)
{
    pare_trainer *trainer = NULL;
    assert_status(pare_trainer_create(&(pare_train_setup){.options = options,
                                                          .model = f->model,
                                                          .be = f->be,
                                                          .dataset = f->dataset},
                                      &trainer),
                  PARE_ERR_ARGUMENT);
    assert_null(trainer);
    if (!strstr(pare_last_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), word);
}

static void options_that_cannot_be_are_refused(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    const pare_train_options good = options_of(PARE_SGD, 0.1, 10);
    pare_train_options o;
#define REFUSED(change, word)                                                                      \
    do {                                                                                           \
        o = good;                                                                                  \
        o.change;                                                                                  \
        refused(&f, &o, word);                                                                     \
    } while (0)
    REFUSED(curve.rate = 0, "learning rate");
    REFUSED(curve.rate = NAN, "learning rate");
    REFUSED(curve.steps = 0, "steps");
    REFUSED(curve.warmup = 11, "warm-up");
    REFUSED(curve.final_rate = 2, "final");
    REFUSED(curve.milestone_count = 9, "milestones");
    REFUSED(curve.milestone_count = 1, "milestone 1");
    REFUSED(curve.kind = (pare_schedule)9, "schedule");
    REFUSED(optimiser = PARE_OPTIMISER_DEFAULT, "optimiser");
    REFUSED(batch = 0, "batch");
    REFUSED(accumulate = -1, "forwards");
    REFUSED(batch = INT64_MAX / 4, "63 bits");
    REFUSED(momentum = 1, "momentum");
    REFUSED(beta2 = 1, "beta2");
    REFUSED(decay = -1, "decay");
    REFUSED(clip = -1, "clip");
    REFUSED(smoothing = 1, "smoothing");
    REFUSED(ema = 1.5, "average");
#undef REFUSED
    o = good;
    o.nesterov = true, o.momentum = 0;
    refused(&f, &o, "Nesterov");
    fixture_free(&f);
}

static void data_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    const pare_train_options options = options_of(PARE_SGD, 0.1, 10);
    train_fixture f = fixture_make(&(train_fixture_options){.unlabelled = true});
    refused(&f, &options, "--labels");
    train_fixture g = fixture_make(&(train_fixture_options){.arch = "mlp:64-16-2"});
    refused(&g, &options, "2 classes");
    train_fixture h = fixture_make(&(train_fixture_options){.config = LLAMA, .length = 24});
    pare_dataset *images = f.dataset;
    f.dataset = h.dataset, h.dataset = images;
    refused(&f, &options, "takes images");
    refused(&h, &options, "takes tokens");
    fixture_free(&f);
    fixture_free(&g);
    fixture_free(&h);
}

static void what_is_frozen_must_be_there_and_leave_something(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){0});
    char *none[] = {"encoder.*"}, *all[] = {"*"};
    pare_train_options options = {.freeze = none, .freezes = 1};
    assert_status(pare_train_freeze(f.model, &options), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "encoder.*"));
    options.freeze = all;
    assert_status(pare_train_freeze(f.model, &options), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "nothing to train"));
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_learns),
        cmocka_unit_test(a_language_model_learns),
        cmocka_unit_test(a_residual_network_learns),
        cmocka_unit_test(the_same_run_ends_with_the_same_bytes),
        cmocka_unit_test(accumulation_is_the_larger_batch),
        cmocka_unit_test(a_curve_that_begins_again_is_a_training_that_begins_again),
        cmocka_unit_test(clipping_bounds_a_step),
        cmocka_unit_test(the_average_swaps_in_and_out),
        cmocka_unit_test(frozen_parameters_stay),
        cmocka_unit_test(a_callback_stops_it_and_it_goes_on),
        cmocka_unit_test(a_nan_stops_it_with_step_and_tensor),
        cmocka_unit_test(a_failed_step_leaves_running_statistics_alone),
        cmocka_unit_test(steps_after_the_first_allocate_no_buffers),
        cmocka_unit_test(bytes_are_what_it_takes),
        cmocka_unit_test(options_that_cannot_be_are_refused),
        cmocka_unit_test(data_that_do_not_fit_are_refused),
        cmocka_unit_test(what_is_frozen_must_be_there_and_leave_something),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
