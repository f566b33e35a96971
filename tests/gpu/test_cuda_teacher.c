/* test_cuda_teacher.c - a teacher that goes forward on a stream of its own while the student
 * learns, on a CUDA device, this machine's or the simulated one: the bytes are those of the work in
 * line, whatever ends it; and the timeline shows both at once. */
#include "distill_fixture.h"

#include "base/check.h"

#include <math.h>

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Work is done at once, or as late as it may be. */
static void set_late(bool late)
{
    cudasim_set_mode((cudasim_mode){.seed = 4, .poison = late ? 0x5a : 0xff, .late = late});
}
#else
static void set_late(bool late)
{
    (void)late;
}
#endif

#define STEPS 5

static const duel_options tokens = {
    .student_config = DUEL_LLAMA("12", "2", "4", "1", "29"),
    .teacher_config = DUEL_LLAMA("16", "3", "4", "2", "29"),
    .losses = "kl:1,hidden:0.5,attention:0.2,relation:0.3",
    .data = {.batch = 2, .length = 7, .vocabulary = 29},
};
static const duel_options rows = {
    .student_config = DUEL_BERT("BertForSequenceClassification", "12", "1", "2"),
    .teacher_config = DUEL_BERT("BertForSequenceClassification", "16", "2", "2"),
    .losses = "ce:1,kl:1,relation:1",
    .data = {.batch = 3, .length = 8, .vocabulary = 32, .rows = true, .compute = PARE_BF16},
    .halves = true,
};
static const duel_options images = {
    .student_arch = "cnn:8-p-12-10,in=1,size=8,classes=4",
    .teacher_arch = "cnn:10-p-14-12,in=1,size=8,classes=4",
    .losses = "feature:1,kl:0.5",
    .data = {.batch = 2, .mixup = 0.4f},
};

/* ---- a training ------------------------------------------------------------------------------ */

typedef struct course {
    duel d;
    pare_trainer *trainer;
} course;

static pare_train_options options_of(const duel_options *o, int64_t accumulate)
{
    return (pare_train_options){.optimiser = PARE_ADAMW,
                                .curve = {.rate = 0.01, .steps = STEPS},
                                .batch = o->data.batch,
                                .accumulate = accumulate,
                                .decay = 0.01,
                                .seed = 3,
                                .compute = o->data.compute};
}

static course begin(const duel_options *base, int64_t accumulate, bool beside)
{
    duel_options o = *base;
    pare_train_options options = options_of(base, accumulate);
    course c = {.trainer = NULL};
    assert_ok(pare_cuda_create(0, &o.data.be));
    if (beside)
        assert_ok(pare_cuda_create(0, &o.teacher_be));
    c.d = duel_make(&o);
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = c.d.f.model,
                                                      .be = c.d.f.be,
                                                      .dataset = c.d.f.dataset,
                                                      .terms = c.d.terms,
                                                      .term_count = c.d.term_count,
                                                      .teacher = c.d.teacher,
                                                      .teacher_be = c.d.teacher_be},
                                  &c.trainer));
    return c;
}

static void end(course *c)
{
    pare_trainer_free(&c->trainer);
    duel_free(&c->d);
}

/* Losses of every step, the student's values and what was learned beside it. */
static float *outcome_of(course *c, int64_t *count)
{
    const float *losses;
    int64_t values, steps, beside = 0;
    pare_trainer_losses(c->trainer, &losses, &steps);
    float *model = fixture_values(c->d.f.model, &values);
    for (size_t i = 0; i < c->d.term_count; i++)
        for (size_t k = 0; k < c->d.terms[i].learned_count; k++)
            beside += pare_tensor_count(&c->d.terms[i].learned[k].value);
    float *all = malloc((size_t)(steps + values + beside) * sizeof *all), *at = all;
    memcpy(at, losses, (size_t)steps * sizeof *at);
    memcpy(at += steps, model, (size_t)values * sizeof *at);
    at += values;
    for (size_t i = 0; i < c->d.term_count; i++)
        for (size_t k = 0; k < c->d.terms[i].learned_count; k++) {
            const pare_tensor *value = &c->d.terms[i].learned[k].value;
            int64_t n = pare_tensor_count(value);
            assert_ok(pare_backend_download(c->d.f.be, at, value->data, n * (int64_t)sizeof *at));
            at += n;
        }
    *count = at - all;
    free(model);
    return all;
}

static void check_same(course *a, course *b)
{
    int64_t count, again;
    float *x = outcome_of(a, &count), *y = outcome_of(b, &again);
    assert_int_equal(pare_trainer_state(a->trainer)->step, STEPS);
    assert_int_equal(count, again);
    assert_memory_equal(x, y, (size_t)count * sizeof *x);
    free(x);
    free(y);
}

/* ---- order ----------------------------------------------------------------------------------- */

static void what_is_asked_after_another_backend_begins_after_it(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    static float x[COUNT];
    for (int late = 0; late < 2; late++) {
        pare_backend *be = NULL, *other = NULL;
        float *a, *b;
        set_late(late);
        assert_ok(pare_cuda_create(0, &be));
        assert_ok(pare_cuda_create(0, &other));
        assert_ok(pare_backend_alloc(be, sizeof x, &a));
        assert_ok(pare_backend_alloc(other, sizeof x, &b));
        assert_ok(pare_backend_sync(other));
        for (int value = 1; value < 9; value++) {
            assert_ok(pare_fill(be, &(pare_fill_args){.y = pare_vector(a, PARE_F32, COUNT),
                                                      .value = (float)value}));
            assert_ok(pare_backend_after(other, be)); /* it reads what is there now, */
            assert_ok(pare_backend_copy(other, b, a, sizeof x));
            assert_ok(pare_backend_after(be, other)); /* before that is written over */
        }
        assert_ok(pare_backend_download(other, x, b, sizeof x));
        for (int i = 0; i < COUNT; i++)
            assert_true(fabsf(x[i] - 8) <= 0);
        assert_ok(pare_backend_after(be, be));
        assert_status(pare_backend_after(be, pare_backend_host(be)), PARE_ERR_ARGUMENT);
        assert_ok(pare_backend_after(pare_backend_host(be), pare_backend_host(other)));
        pare_backend_release(be, a, sizeof x);
        pare_backend_release(other, b, sizeof x);
        pare_backend_free(&other);
        pare_backend_free(&be);
    }
}

/* ---- the same bytes -------------------------------------------------------------------------- */

static void beside_gives_the_bytes_of_in_line(void **state)
{
    (void)state;
    static const struct {
        const duel_options *options;
        int64_t accumulate;
    } cases[] = {{&tokens, 1}, {&tokens, 3}, {&rows, 1}, {&images, 2}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        set_late(false);
        course line = begin(cases[k].options, cases[k].accumulate, false);
        assert_ok(pare_trainer_run(line.trainer, line.d.f.sched, NULL));
        for (int late = 0; late < 2; late++) {
            set_late(late);
            course beside = begin(cases[k].options, cases[k].accumulate, true);
            assert_ok(pare_trainer_run(beside.trainer, beside.d.f.sched, NULL));
            check_same(&line, &beside);
            end(&beside);
        }
        end(&line);
    }
}

/* One thread alone makes batches and works on them; the teacher's is its own all the same. */
static void a_scheduler_of_one_thread_will_do(void **state)
{
    (void)state;
    pare_sched *sched = NULL;
    set_late(true);
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 1}, &sched));
    course line = begin(&tokens, 1, false), beside = begin(&tokens, 1, true);
    assert_ok(pare_trainer_run(line.trainer, sched, NULL));
    assert_ok(pare_trainer_run(beside.trainer, sched, NULL));
    check_same(&line, &beside);
    end(&beside);
    end(&line);
    pare_sched_free(&sched);
}

/* ---- a loss that lets things lie ------------------------------------------------------------- */

/* Adds the teacher's outputs to a sum on the device, and waits for nothing. */
static pare_status add_up(pare_loss_args *args)
{
    float *sum = args->state;
    pare_tensor output = pare_model_output(args->teacher), gradient;
    pare_tensor all = pare_vector(sum, PARE_F32, pare_tensor_count(&output));
    gradient = pare_model_output_grad(args->model);
    PARE_TRY(pare_fill(args->be, &(pare_fill_args){.y = gradient}));
    output = pare_vector(output.data, PARE_F32, pare_tensor_count(&output));
    PARE_TRY(pare_add(args->be, &(pare_add_args){.a = all, .b = output, .y = all}));
    args->loss = 1;
    args->count = args->batch->size;
    return PARE_OK;
}

static int64_t nothing(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)state, (void)model, (void)shape;
    return 0;
}

static const pare_loss sum_loss = {
    .name = "sum", .teacher = true, .scratch = nothing, .results = nothing, .run = add_up};

static void the_teacher_waits_for_losses_that_do_not(void **state)
{
    (void)state;
    enum { COUNT = 2 * FIXTURE_CLASSES };
    float got[3][COUNT];
    for (int round = 0; round < 3; round++) { /* in line; beside early and late */
        set_late(round == 2);
        float *sum;
        pare_train_options options = options_of(&images, 2);
        course c = begin(&images, 2, round > 0);
        pare_trainer_free(&c.trainer);
        assert_ok(pare_backend_alloc(c.d.f.be, sizeof got[0], &sum));
        pare_loss_term term = {.loss = &sum_loss, .state = sum, .weight = {.from = 1}};
        assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                          .model = c.d.f.model,
                                                          .be = c.d.f.be,
                                                          .dataset = c.d.f.dataset,
                                                          .terms = &term,
                                                          .term_count = 1,
                                                          .teacher = c.d.teacher,
                                                          .teacher_be = c.d.teacher_be},
                                      &c.trainer));
        assert_ok(pare_trainer_run(c.trainer, c.d.f.sched, NULL));
        assert_ok(pare_backend_download(c.d.f.be, got[round], sum, sizeof got[0]));
        assert_memory_equal(got[round], got[0], sizeof got[0]);
        pare_backend_release(c.d.f.be, sum, sizeof got[0]);
        end(&c);
    }
}

/* ---- ends ------------------------------------------------------------------------------------ */

typedef struct stop {
    int64_t step;
    volatile int *cancel; /* NULL: the callback fails */
} stop;

static pare_status stop_at(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    const stop *at = user;
    (void)trainer;
    if (s->step != at->step)
        return PARE_OK;
    if (!at->cancel)
        return PARE_ERR_INTERRUPTED;
    __atomic_store_n(at->cancel, 1, __ATOMIC_RELAXED);
    return PARE_OK;
}

static void a_training_that_was_cut_goes_on_from_its_state(void **state)
{
    (void)state;
    char path[4200];
    set_late(true);
    course line = begin(&tokens, 2, false), first = begin(&tokens, 2, true);
    assert_ok(pare_trainer_run(line.trainer, line.d.f.sched, NULL));
    for (int64_t step = 1; step < STEPS; step += 2) {
        course second = begin(&tokens, 2, true);
        stop at = {.step = step};
        assert_int_equal(pare_trainer_run(first.trainer, first.d.f.sched,
                                          &(pare_train_callbacks){.step = stop_at, .user = &at}),
                         PARE_ERR_INTERRUPTED);
        snprintf(path, sizeof path, "%s/%d.h5", first.d.f.folder, (int)step);
        assert_ok(pare_trainer_save(first.trainer, path, "threads: 2\n"));
        assert_ok(pare_trainer_load(second.trainer, path, "threads: 2\n"));
        end(&first);
        first = second;
    }
    assert_ok(pare_trainer_run(first.trainer, first.d.f.sched, NULL));
    check_same(&line, &first);
    end(&first);
    end(&line);
}

static void a_cancelled_training_stands_at_a_whole_step_and_goes_on(void **state)
{
    (void)state;
    set_late(false);
    course line = begin(&rows, 1, false);
    assert_ok(pare_trainer_run(line.trainer, line.d.f.sched, NULL));
    for (int64_t step = 1; step < STEPS - 1; step++) {
        pare_sched *sched = NULL;
        volatile int cancel = 0;
        stop at = {.step = step, .cancel = &cancel};
        set_late(step % 2);
        course beside = begin(&rows, 1, true);
        assert_ok(
            pare_sched_create(&(pare_sched_options){.threads = 2, .cancel = &cancel}, &sched));
        assert_status(pare_trainer_run(beside.trainer, sched,
                                       &(pare_train_callbacks){.step = stop_at, .user = &at}),
                      PARE_ERR_INTERRUPTED);
        assert_int_equal(pare_trainer_state(beside.trainer)->step, step);
        cancel = 0;
        assert_ok(pare_trainer_run(beside.trainer, sched, NULL));
        check_same(&line, &beside);
        end(&beside);
        pare_sched_free(&sched);
    }
    end(&line);
}

/* A teacher made for less than a batch fails on the first: with its sentence, nothing learned. */
static void a_teacher_that_fails_ends_it_with_its_sentence(void **state)
{
    (void)state;
    set_late(true);
    course c = begin(&tokens, 1, true);
    pare_model_shape small = c.d.f.shape;
    small.training = false;
    small.batch = 1;
    assert_ok(pare_model_prepare(c.d.teacher, c.d.teacher_be, &small));
    assert_status(pare_trainer_run(c.trainer, c.d.f.sched, NULL), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "a batch of 2 does not fit"));
    assert_int_equal(pare_trainer_state(c.trainer)->step, 0);
    small.batch = 2;
    assert_ok(pare_model_prepare(c.d.teacher, c.d.teacher_be, &small));
    assert_ok(pare_trainer_run(c.trainer, c.d.f.sched, NULL));
    course line = begin(&tokens, 1, false);
    assert_ok(pare_trainer_run(line.trainer, line.d.f.sched, NULL));
    check_same(&line, &c);
    end(&line);
    end(&c);
}

#ifdef PARE_CUDASIM
/* A run with the device failing at the nth launch, or gone at the nth call. */
static pare_status faulty(bool lose, int64_t nth, bool late)
{
    char sentence[512];
    set_late(late);
    course c = begin(&tokens, 1, true);
    if (lose)
        cudasim_lose(nth);
    else
        cudasim_fail_launch(nth);
    pare_status status = pare_trainer_run(c.trainer, c.d.f.sched, NULL);
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    end(&c);
    cudasim_heal();
    if (status != PARE_OK)
        assert_true(strlen(sentence) > 0);
    return status;
}

static void a_device_that_fails_ends_it_whoever_works_there(void **state)
{
    (void)state;
    set_late(false);
    course c = begin(&tokens, 1, true);
    cudasim_counts before = cudasim_count();
    assert_ok(pare_trainer_run(c.trainer, c.d.f.sched, NULL));
    cudasim_counts after = cudasim_count();
    end(&c);
    for (int k = 0; k < 8; k++) {
        int64_t launches = after.launches - before.launches, calls = after.calls - before.calls;
        bool late = k % 2;
        assert_int_equal(faulty(false, 1 + launches * k / 8, late), PARE_ERR_DEVICE);
        assert_int_equal(faulty(true, 1 + calls * k / 8, late), PARE_ERR_DEVICE);
    }
    set_late(false);
}
#endif

/* ---- the timeline ---------------------------------------------------------------------------- */

typedef struct span {
    double begin, end;
    long lane;
} span;

/* The events of a name, in their order; returns how many. */
static int spans_of(const char *text, const char *name, span *spans, int most)
{
    char head[64];
    int count = 0;
    snprintf(head, sizeof head, "{\"name\":\"%s\",", name);
    for (const char *at = strstr(text, head); at && count < most; at = strstr(at + 1, head)) {
        span *s = &spans[count++];
        s->lane = strtol(strstr(at, "\"tid\":") + 6, NULL, 10);
        s->begin = strtod(strstr(at, "\"ts\":") + 5, NULL);
        s->end = s->begin + strtod(strstr(at, "\"dur\":") + 6, NULL);
    }
    return count;
}

static void the_timeline_shows_both_at_once(void **state)
{
    (void)state;
    static char text[1 << 20];
    char path[4200];
    span teacher[4 * STEPS], work[4 * STEPS];
    int together = 0;
    pare_sched *sched = NULL;
    set_late(false);
    course c = begin(&tokens, 3, true);
    snprintf(path, sizeof path, "%s/trace.json", c.d.f.folder);
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 2, .trace = path}, &sched));
    assert_ok(pare_trainer_run(c.trainer, sched, NULL));
    pare_sched_free(&sched);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t length = fread(text, 1, sizeof text - 1, file);
    assert_true(length > 0 && length < sizeof text - 1);
    fclose(file);
    assert_int_equal(spans_of(text, "teacher", teacher, 4 * STEPS), 3 * STEPS);
    int works = spans_of(text, "work", work, 4 * STEPS);
    assert_int_equal(works, 3 * STEPS);
    for (int i = 0; i < 3 * STEPS; i++)
        for (int k = 0; k < works; k++) {
            assert_true(teacher[i].lane != work[k].lane);
            together += teacher[i].begin < work[k].end && work[k].begin < teacher[i].end;
        }
    assert_true(together > 0);
    end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_after_another_backend_begins_after_it),
        cmocka_unit_test(beside_gives_the_bytes_of_in_line),
        cmocka_unit_test(a_scheduler_of_one_thread_will_do),
        cmocka_unit_test(the_teacher_waits_for_losses_that_do_not),
        cmocka_unit_test(a_training_that_was_cut_goes_on_from_its_state),
        cmocka_unit_test(a_cancelled_training_stands_at_a_whole_step_and_goes_on),
        cmocka_unit_test(a_teacher_that_fails_ends_it_with_its_sentence),
#ifdef PARE_CUDASIM
        cmocka_unit_test(a_device_that_fails_ends_it_whoever_works_there),
#endif
        cmocka_unit_test(the_timeline_shows_both_at_once),
    };
    int devices;
    if (pare_cuda_count(&devices) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
