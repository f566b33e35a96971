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

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(many_losses_add_their_gradients),
        T(in_bf16_gradients_point_the_same_way),
        T(far_memory_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
