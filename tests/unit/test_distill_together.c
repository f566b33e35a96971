/* test_distill_together.c - several losses between a student and a teacher at once, in BF16, and on
 * memory that the host cannot see. */
#include "distill_fixture.h"

#include "far_backend.h"

#include <math.h>

#define TEACHER_LLAMA DUEL_LLAMA("16", "4", "4", "2", "29")
#define STUDENT_LLAMA DUEL_LLAMA("12", "2", "4", "1", "29")
#define TEACHER_BERT DUEL_BERT("BertForSequenceClassification", "16", "4", "2")
#define STUDENT_BERT DUEL_BERT("BertForSequenceClassification", "16", "2", "2")
#define TEACHER_CNN "resnet20-cifar:in=1,size=8,classes=4"
#define STUDENT_CNN "cnn:8-p-12-10,in=1,size=8,classes=4"

static const duel_options tokens = {
    .student_config = STUDENT_LLAMA,
    .teacher_config = TEACHER_LLAMA,
    .data = {.batch = 3, .length = 7, .vocabulary = 29},
};
static const duel_options rows = {
    .student_config = STUDENT_BERT,
    .teacher_config = TEACHER_BERT,
    .data = {.batch = 4, .length = 8, .vocabulary = 32, .rows = true},
};
static const duel_options images = {
    .student_arch = STUDENT_CNN,
    .teacher_arch = TEACHER_CNN,
    .data = {.batch = 3},
};
static const duel_options vectors = {
    .student_config = DUEL_BERT("BertModel", "16", "2", "2"),
    .teacher_config = DUEL_BERT("BertModel", "16", "3", "4"),
    .data = {.batch = 3, .length = 6, .vocabulary = 32, .rows = true},
};

static duel make(const duel_options *base, const char *losses)
{
    duel_options o = *base;
    o.losses = losses;
    return duel_make(&o);
}

static void many_losses_add_their_gradients(void **state)
{
    (void)state;
    duel d = make(&tokens, "kl:0.5,ce:0.7,hidden:0.3,attention:0.2,relation:0.4");
    assert_int_equal(d.term_count, 5);
    duel_check(&d);
    duel_free(&d);
    d = make(&images, "kl:0.5,ce:0.7,feature:0.3");
    duel_check(&d);
    duel_free(&d);
    d = make(&rows, "hidden:0.3,relation:1,attention:0.2");
    duel_check(&d);
    duel_free(&d);
}

static double cosine_of(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static void in_bf16_gradients_point_the_same_way(void **state)
{
    (void)state;
    static const char *const losses[] = {"kl", "hidden", "attention", "relation", "kl,ce,hidden"};
    for (int i = 0; i < 10; i++) {
        duel_options o = i % 2 ? rows : tokens;
        int64_t count, again;
        o.losses = losses[i / 2];
        duel d = duel_make(&o);
        duel_step(&d);
        float *want = duel_gradients(&d, &count);
        duel_free(&d);
        o.data.compute = PARE_BF16;
        d = duel_make(&o);
        duel_step(&d);
        float *got = duel_gradients(&d, &again);
        assert_int_equal(count, again);
        double cosine = cosine_of(want, got, count);
        if (!(cosine > 0.98))
            fail_msg("%s: the cosine of gradients in F32 and BF16 is %g", o.losses, cosine);
        free(want);
        free(got);
        duel_free(&d);
    }
}

/* The same bytes on a backend whose memory the host cannot touch. */
static void far_memory_makes_no_difference(void **state)
{
    (void)state;
    const duel_options *bases[] = {&tokens, &rows, &images, &vectors};
    static const char *const losses[] = {"kl,ce,hidden,attention,relation",
                                         "kl,hidden,attention,relation", "kl,feature",
                                         "cosine,hidden"};
    for (int i = 0; i < 4; i++) {
        duel_options o = *bases[i];
        int64_t count;
        o.losses = losses[i];
        assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 1}, &o.data.be));
        duel d = duel_make(&o);
        double loss = duel_step(&d);
        float *want = duel_gradients(&d, &count);
        duel_free(&d);
        o.data.be = far_backend_make(1);
        d = duel_make(&o);
        assert_true(!(fabs(duel_step(&d) - loss) > 0));
        float *got = duel_gradients(&d, &count);
        assert_memory_equal(got, want, (size_t)count * 4);
        free(want);
        free(got);
        duel_free(&d);
    }
}

/* ---- the weight of a loss -------------------------------------------------------------------- */

enum { RAMP = 8 };

typedef struct course {
    double loss[RAMP], norm[RAMP];
} course;

static pare_status note(void *user, pare_trainer *trainer, const pare_train_state *state)
{
    course *c = user;
    (void)trainer;
    c->loss[state->step - 1] = state->loss;
    c->norm[state->step - 1] = state->grad_norm;
    return PARE_OK;
}

/* Losses and gradients of steps that move nothing. */
static course standing(const char *losses)
{
    duel d = make(&tokens, losses);
    course c;
    pare_trainer *trainer = NULL;
    pare_train_options options = {.curve = {.rate = 1e-30, .steps = RAMP}, .batch = 3};
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = d.f.model,
                                                      .be = d.f.be,
                                                      .dataset = d.f.dataset,
                                                      .terms = d.terms,
                                                      .term_count = d.term_count,
                                                      .teacher = d.teacher},
                                  &trainer));
    const pare_train_callbacks notes = {.step = note, .user = &c};
    assert_ok(pare_trainer_run(trainer, d.f.sched, &notes));
    pare_trainer_free(&trainer);
    duel_free(&d);
    return c;
}

static void a_weight_that_falls_is_that_of_the_step(void **state)
{
    (void)state;
    course constant = standing("kl:1"), falling = standing("kl:1>0.2");
    for (int i = 0; i < RAMP; i++) {
        double weight = 1 - 0.8 * i / RAMP;
        assert_true(fabs(falling.loss[i] - weight * constant.loss[i]) <= 1e-5 * constant.loss[i]);
        assert_true(fabs(falling.norm[i] - weight * constant.norm[i]) <= 1e-4 * constant.norm[i]);
    }
}

/* ---- what a teacher sees --------------------------------------------------------------------- */

/* A student with its teacher's values has nothing to learn of images that are mixed as long as both
 * are shown the same. */
static void a_teacher_is_shown_what_its_student_is(void **state)
{
    (void)state;
    duel d = duel_make(&(duel_options){.student_arch = "mlp:64-16-4",
                                       .teacher_arch = "mlp:64-16-4",
                                       .data = {.batch = 8, .mixup = 0.4f},
                                       .losses = "kl"});
    pare_trainer *trainer = NULL;
    pare_train_options options = {.curve = {.rate = 0.1, .steps = 2}, .batch = 8};
    duel_fill(d.f.be, d.f.model, 8);
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = d.f.model,
                                                      .be = d.f.be,
                                                      .dataset = d.f.dataset,
                                                      .terms = d.terms,
                                                      .term_count = d.term_count,
                                                      .teacher = d.teacher},
                                  &trainer));
    assert_status(pare_trainer_run(trainer, d.f.sched, NULL), PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), "the first step is 0"));
    pare_trainer_free(&trainer);
    duel_free(&d);
}

/* ---- a cache in a training ------------------------------------------------------------------- */

enum { STEPS = 12, VOCABULARY = 29 };

static pare_status stop_at_five(void *user, pare_trainer *trainer, const pare_train_state *state)
{
    (void)user, (void)trainer;
    return state->step == 5 ? PARE_ERR_INTERRUPTED : PARE_OK;
}

/* Several epochs, two batches a step, stopped once; the losses of all steps. */
static void train(const duel_options *options, float *losses)
{
    duel d = duel_make(options);
    pare_trainer *trainer = NULL;
    pare_train_options train = {
        .curve = {.rate = 0.02, .steps = STEPS}, .batch = d.f.shape.batch, .accumulate = 2};
    const pare_train_callbacks stop = {.step = stop_at_five};
    const float *all;
    int64_t count;
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &train,
                                                      .model = d.f.model,
                                                      .be = d.f.be,
                                                      .dataset = d.f.dataset,
                                                      .terms = d.terms,
                                                      .term_count = d.term_count,
                                                      .teacher = d.teacher},
                                  &trainer));
    assert_status(pare_trainer_run(trainer, d.f.sched, &stop), PARE_ERR_INTERRUPTED);
    assert_ok(pare_trainer_run(trainer, d.f.sched, NULL));
    pare_trainer_losses(trainer, &all, &count);
    assert_int_equal(count, STEPS);
    memcpy(losses, all, STEPS * sizeof *losses);
    pare_trainer_free(&trainer);
    duel_free(&d);
}

/* With all outputs in it a cache is the teacher itself, in every step. */
static void a_training_reads_of_every_sample_its_own(void **state)
{
    (void)state;
    duel_options o = tokens;
    o.losses = "kl";
    o.distill.temperature.from = 2;
    o.data.samples = 21;
    o.data.shuffle = true;
    train_fixture_options inference = o.data;
    inference.config = TEACHER_LLAMA;
    inference.inference = true;
    train_fixture f = fixture_make(&inference);
    duel_fill(f.be, f.model, 8);
    char path[512];
    snprintf(path, sizeof path, "%s/teacher.h5", f.folder);
    const pare_cache_options whole = {.path = path,
                                      .teacher = f.model,
                                      .be = f.be,
                                      .dataset = f.dataset,
                                      .batch = f.shape.batch,
                                      .k = VOCABULARY,
                                      .temperature = 2};
    pare_cache_facts facts;
    pare_teacher_cache *cache = NULL;
    float cached[STEPS], live[STEPS];
    assert_ok(pare_cache_make(f.sched, &whole, &facts));
    assert_ok(pare_cache_open(path, NULL, f.dataset, VOCABULARY, 2, &cache));
    train(&o, live);
    o.cache = cache;
    train(&o, cached);
    for (int i = 0; i < STEPS; i++)
        if (!(fabsf(cached[i] - live[i]) <= 2e-3f * (1 + live[i])))
            fail_msg("step %d: a loss of %g from the cache, %g from the teacher", i + 1,
                     (double)cached[i], (double)live[i]);
    pare_cache_close(&cache);
    fixture_free(&f);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(many_losses_add_their_gradients),        T(in_bf16_gradients_point_the_same_way),
        T(far_memory_makes_no_difference),         T(a_weight_that_falls_is_that_of_the_step),
        T(a_teacher_is_shown_what_its_student_is), T(a_training_reads_of_every_sample_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
