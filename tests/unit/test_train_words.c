/* test_train_words.c - a training told by keys and texts. */
#include "test.h"

#include "pare/train_job.h"

#include <string.h>

typedef struct word {
    const char *key, *good, *bad; /* bad NULL: every text will do */
} word;

/* Every key once. */
static const word words[] = {
    {"data", "x.npy", ""},
    {"labels", "y.u8", ""},
    {"eval", "z.npy", ""},
    {"eval_labels", "w.u8", ""},
    {"seq_len", "128", "0"},
    {"pad_id", "0", "-1"},
    {"bos_id", "1", "one"},
    {"samples", "10", "1.5"},
    {"skip", "0", "-3"},
    {"crop", "4", "5000"},
    {"flip", "true", "yes"},
    {"mixup", "0.2", "nan"},
    {"steps", "100", "0"},
    {"epochs", "1.5", "-1"},
    {"batch", "32", "0"},
    {"accumulate", "2", "two"},
    {"optimizer", "adamw", "adam"},
    {"lr", "1e-3", "1e999"},
    {"schedule", "linear", "lin"},
    {"warmup", "10", "-1"},
    {"final_lr", "0.1", "1.1"},
    {"milestones", "0.3,0.6", "0.6,0.3"},
    {"gamma", "0.5", "x"},
    {"momentum", "0.9", "2"},
    {"nesterov", "true", "1"},
    {"betas", "0.9,0.95", "0.9"},
    {"weight_decay", "0", "-0.1"},
    {"clip", "1", "inf"},
    {"label_smoothing", "0.1", "1.5"},
    {"ema", "0.99", "2"},
    {"freeze", "a.*", ""},
    {"precision", "bf16", "f16"},
    {"save_every", "5", "0"},
    {"keep_masks", "false", "off"},
    {"teacher", "t/", ""},
    {"teacher_arch", "resnet20-cifar", ""},
    {"teacher_precision", "bf16", "int8"},
    {"loss", "kl:1,ce:0.5", "kl:1,cee:1"},
    {"temperature", "4>1", "0"},
    {"divergence", "js", "jensen"},
    {"layers", "skip", "some"},
    {"hidden", "cosine", "l2"},
    {"attention", "probabilities", "maps"},
    {"relation_heads", "12", "0"},
    {"relation_layer", "3", "-1"},
    {"cache", "c.h5", ""},
    {"cache_k", "8", "0"},
    {"student", "2x32", ""},
    {"init", "every-k", "clone"},
    {"masks", "rigl", "rig"},
    {"sparsity", "0.5>0.9", "1"},
    {"method", "magnitude", "largest"},
    {"pattern", "2:4", "4:2"},
    {"scope", "layer", "rows"},
    {"erk", "true", "ERK"},
    {"begin", "0.1", "1.1"},
    {"end", "0.9", "-1"},
    {"each", "10", "0"},
    {"rounds", "3", "0"},
    {"rewind", "0", "-1"},
    {"fraction", "0.3", "3"},
    {"revive", "true", ""},
    {"qat", "w4g32", "w1"},
    {"qat_fixed", "true", "t"},
    {"qat_first_last", "false", "f"},
    {"lora", "8", "0"},
    {"lora_alpha", "16", "a"},
    {"adapter", "dir", ""},
    {"include", "*.weight", ""},
    {"exclude", "*.bias", ""},
};

static void every_key_takes_what_it_should_and_says_what_it_wants(void **state)
{
    size_t count = 0;
    (void)state;
    while (pare_train_key_at(count))
        count++;
    assert_int_equal(count, sizeof words / sizeof *words);
    for (size_t i = 0; i < count; i++) {
        pare_train_step *step = NULL;
        bool unknown = true;
        assert_ok(pare_train_step_create(1, &step));
        assert_string_equal(pare_train_key_at(i)->name, words[i].key);
        assert_ok(pare_train_step_set(step, words[i].key, words[i].good, &unknown));
        assert_false(unknown);
        assert_status(pare_train_step_set(step, words[i].key, words[i].bad, NULL),
                      PARE_ERR_ARGUMENT);
        assert_ptr_equal(strstr(pare_last_error(), words[i].key), pare_last_error());
        assert_null(strchr(pare_last_error(), '\n'));
        pare_train_step_free(&step);
    }
}

static void what_was_said_is_in_the_job(void **state)
{
    pare_train_step *step = NULL;
    const pare_train_job *job;
    (void)state;
    assert_ok(pare_train_step_create(7, &step));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(words[i].key, "epochs") != 0)
            assert_ok(pare_train_step_set(step, words[i].key, words[i].good, NULL));
    assert_ok(pare_train_step_set(step, "freeze", "b.*", NULL));
    assert_ok(pare_train_step_job(step, &job));
    assert_string_equal(job->data.path, "x.npy");
    assert_int_equal(job->data.seq_len, 128);
    assert_int_equal(job->eval.seq_len, 128);
    assert_int_equal(job->train.curve.kind, PARE_SCHEDULE_LINEAR);
    assert_int_equal(job->train.optimiser, PARE_ADAMW);
    assert_true(job->train.beta2 == 0.95 && job->train.seed == 7);
    assert_int_equal(job->train.freezes, 2);
    assert_string_equal(job->train.freeze[1], "b.*");
    assert_int_equal(job->train.compute, PARE_BF16);
    assert_true(job->distill.weight[PARE_DISTILL_CE].from == 0.5);
    assert_true(job->distill.temperature.from == 4 && job->distill.temperature.to == 1);
    assert_int_equal(job->distill.divergence, PARE_DIVERGENCE_JS);
    assert_int_equal(job->distill.map, PARE_MAP_SKIP);
    assert_int_equal(job->init, PARE_STUDENT_EVERY_K);
    assert_int_equal(job->masks->schedule, PARE_MASKS_RIGL);
    assert_true(job->masks->initial == 0.5 && job->masks->final == 0.9);
    assert_int_equal(job->masks->pattern.n, 2);
    assert_int_equal(job->qat->scheme.bits, 4);
    assert_int_equal(job->lora->rank, 8);
    assert_false(job->keep_masks);
    assert_string_equal(job->choice.exclude[0], "*.bias");
    pare_train_step_free(&step);
}

static void what_does_not_go_together_is_refused(void **state)
{
    static const char *const said[][6] = {
        {"data", "x", NULL},
        {"steps", "5", "epochs", "2", NULL},
        {"steps", "5", "ema", "1", NULL},
        {"steps", "5", "momentum", "1", NULL},
        {"steps", "5", "masks", "gradual", NULL},
        {"steps", "5", "method", "magnitude", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        pare_train_step *step = NULL;
        const pare_train_job *job;
        assert_ok(pare_train_step_create(0, &step));
        for (size_t k = 0; said[i][k]; k += 2)
            assert_ok(pare_train_step_set(step, said[i][k], said[i][k + 1], NULL));
        assert_status(pare_train_step_job(step, &job), PARE_ERR_ARGUMENT);
        pare_train_step_free(&step);
    }
}

static void an_unknown_key_is_named_with_the_nearest(void **state)
{
    pare_train_step *step = NULL;
    bool unknown = false;
    (void)state;
    assert_ok(pare_train_step_create(0, &step));
    assert_status(pare_train_step_set(step, "temprature", "2", &unknown), PARE_ERR_ARGUMENT);
    assert_true(unknown);
    assert_non_null(strstr(pare_last_error(), "\"temperature\""));
    pare_train_step_free(&step);
    pare_train_step_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_takes_what_it_should_and_says_what_it_wants),
        cmocka_unit_test(what_was_said_is_in_the_job),
        cmocka_unit_test(what_does_not_go_together_is_refused),
        cmocka_unit_test(an_unknown_key_is_named_with_the_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
