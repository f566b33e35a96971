/* test_mpi_train.c - a training of several processes: as one alone, but for rounding; the same
 * bytes again; saved, found again, and stopped by a rank that fails. Run by tests/mpi/mpirun.sh. */
#include "distill_fixture.h"

#include "pare/lowrank.h"
#include "pare/prune.h"
#include "pare/quant.h"

#include "comm/comm_impl.h"

#include "base/check.h"

#include <math.h>

static pare_comm *comm;
static int rank, size;

#define LLAMA                                                                                      \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, "             \
    "\"max_position_embeddings\": 64, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true}"

enum { STEPS = 20 };

static pare_train_options options_of(pare_optimiser optimiser, double rate)
{
    return (pare_train_options){.optimiser = optimiser,
                                .curve = {.rate = rate, .steps = STEPS},
                                .batch = 16,
                                .momentum = 0.9,
                                .decay = 1e-3,
                                .clip = 1,
                                .seed = 9};
}

/* What a training ends with. */
typedef struct outcome {
    float losses[STEPS];
    float *values;
    int64_t count;
} outcome;

static pare_trainer *trainer_of(train_fixture *f, const pare_train_options *options,
                                pare_comm *ranks, const pare_loss_term *terms)
{
    pare_trainer *trainer = NULL;
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = options,
                                                      .model = f->model,
                                                      .be = f->be,
                                                      .dataset = f->dataset,
                                                      .terms = terms,
                                                      .term_count = terms ? 2 : 0,
                                                      .comm = ranks},
                                  &trainer));
    return trainer;
}

static outcome outcome_of(train_fixture *f, pare_trainer *trainer)
{
    outcome o;
    const float *losses;
    int64_t count;
    pare_trainer_losses(trainer, &losses, &count);
    assert_int_equal(count, STEPS);
    memcpy(o.losses, losses, sizeof o.losses);
    o.values = fixture_values(f->model, &o.count);
    pare_trainer_free(&trainer);
    fixture_free(f);
    return o;
}

/* The processes share the processors: one thread each. */
static train_fixture fixture_of(const train_fixture_options *data)
{
    train_fixture_options options = *data;
    assert_ok(pare_cpu_create(NULL, &options.be));
    return fixture_make(&options);
}

static outcome train(const train_fixture_options *data, const pare_train_options *options,
                     pare_comm *ranks)
{
    train_fixture f = fixture_of(data);
    pare_trainer *trainer = trainer_of(&f, options, ranks, NULL);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    return outcome_of(&f, trainer);
}

static void check_same(const outcome *a, const outcome *b)
{
    assert_memory_equal(a->losses, b->losses, sizeof a->losses);
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->values, b->values, (size_t)a->count * sizeof(float));
}

static void check_close(const outcome *a, const outcome *b)
{
    for (int i = 0; i < STEPS; i++)
        if (!(fabs((double)a->losses[i] - (double)b->losses[i]) <= 1e-4 * (double)a->losses[i]))
            fail_msg("step %d: loss %.9g alone, %.9g of %d ranks", i + 1, (double)a->losses[i],
                     (double)b->losses[i], size);
    for (int64_t i = 0; i < a->count; i++)
        if (!(fabsf(a->values[i] - b->values[i]) <= 1e-3F))
            fail_msg("value %lld: %.9g and %.9g", (long long)i, (double)a->values[i],
                     (double)b->values[i]);
}

/* Trains alone, together, and together again. */
static void check(const train_fixture_options *data, pare_train_options options, bool as_alone)
{
    outcome together = train(data, &options, comm), again = train(data, &options, comm);
    check_same(&together, &again);
    assert_ok(pare_comm_agree(comm, together.values, together.count * 4, "what was learned"));
    if (as_alone) {
        outcome alone = train(data, &options, NULL);
        check_close(&alone, &together);
        free(alone.values);
    }
    free(together.values), free(again.values);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_an_mlp_learns_as_one_rank_would(void **state)
{
    (void)state;
    train_fixture_options data = {.shuffle = true, .batch = 16};
    check(&data, options_of(PARE_SGD, 0.1), true);
    pare_train_options pieces = options_of(PARE_ADAMW, 0.01);
    pieces.batch = 8;
    pieces.accumulate = 3;
    check(&data, pieces, true);
}

static void test_a_language_model_learns_as_one_rank_would(void **state)
{
    (void)state;
    train_fixture_options data = {.config = LLAMA, .batch = 16, .length = 12};
    check(&data, options_of(PARE_ADAMW, 0.01), true);
}

/* Gradients of 34 MB go in two buckets. */
static void test_a_wide_model_learns_as_one_rank_would(void **state)
{
    (void)state;
    train_fixture_options data = {.arch = "mlp:64-2048-2048-2048-4", .batch = 4};
    pare_train_options options = options_of(PARE_SGD, 0.01);
    options.batch = 4;
    options.momentum = 0;
    check(&data, options, true);
}

/* ---- what a loss learns ---------------------------------------------------------------------- */

static int64_t no_bytes(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)state, (void)model, (void)shape;
    return 0;
}

/* Of every sample Σ_k ½·(s_k − k)², of what is learned alone. */
static pare_status run_pull(pare_loss_args *args)
{
    const pare_learned *learned = args->state;
    const float *s = learned->value.data;
    float *grad = learned->grad.data;
    args->count = args->batch->size;
    args->loss = 0;
    for (int k = 0; k < 3; k++) {
        double off = (double)s[k] - k;
        args->loss += 0.5 * off * off * (double)args->count;
        grad[k] += (float)(args->grad_scale * off * (double)args->count);
    }
    return PARE_OK;
}

static const pare_loss pull = {.name = "pull",
                               .summary = "towards 0, 1, 2",
                               .scratch = no_bytes,
                               .results = no_bytes,
                               .run = run_pull};

static void learn_pull(pare_comm *ranks, float *s)
{
    float grad[3] = {0};
    train_fixture_options data = {.batch = 16};
    train_fixture f = fixture_of(&data);
    pare_train_options options = options_of(PARE_SGD, 0.1);
    pare_learned learned = {.name = "pull/s",
                            .value = pare_vector(s, PARE_F32, 3),
                            .grad = pare_vector(grad, PARE_F32, 3)};
    pare_loss_term terms[] = {{.loss = &pare_loss_cross_entropy, .weight = {.from = 1}},
                              {.loss = &pull,
                               .state = &learned,
                               .weight = {.from = 0.5},
                               .learned = &learned,
                               .learned_count = 1}};
    pare_trainer *trainer = trainer_of(&f, &options, ranks, terms);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

static void test_what_a_loss_learns_is_of_all_ranks(void **state)
{
    (void)state;
    float alone[3] = {0}, together[3] = {0};
    learn_pull(comm, together);
    learn_pull(NULL, alone);
    for (int k = 0; k < 3; k++)
        assert_true(fabsf(alone[k] - together[k]) <= 1e-4F);
    assert_true(together[2] > 0.2F);
    assert_ok(pare_comm_agree(comm, together, sizeof together, "what was learned"));
}

static void test_running_statistics_are_those_of_all_ranks(void **state)
{
    (void)state;
    train_fixture_options data = {
        .arch = "cnn:8-p-8,in=1,size=8,classes=4", .shuffle = true, .batch = 16};
    check(&data, options_of(PARE_SGD, 0.05), false);
}

/* What the first batch norm of 8 channels has as its running mean after one step. */
static void running_mean(const train_fixture_options *data, pare_comm *ranks, float *mean)
{
    train_fixture f = fixture_of(data);
    pare_train_options options = options_of(PARE_SGD, 0.05);
    const pare_param *p = NULL;
    options.curve.steps = 1;
    pare_trainer *trainer = trainer_of(&f, &options, ranks, NULL);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    for (int64_t i = pare_model_param_count(f.model); i-- > 0;)
        if (strstr(pare_model_param(f.model, i)->name, "running_mean"))
            p = pare_model_param(f.model, i);
    assert_non_null(p);
    assert_int_equal(pare_tensor_count(&p->value), 8);
    memcpy(mean, p->value.data, 8 * sizeof *mean);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

/* The mean of what ranks see in parts of one size is the mean of the whole batch. */
static void test_running_means_are_those_of_the_whole_batch(void **state)
{
    (void)state;
    train_fixture_options data = {
        .arch = "cnn:8-p-8,in=1,size=8,classes=4", .shuffle = true, .batch = 16};
    float alone[8], together[8], most = 0;
    running_mean(&data, NULL, alone);
    running_mean(&data, comm, together);
    for (int i = 0; i < 8; i++) {
        most = fmaxf(most, fabsf(alone[i]));
        if (!(fabsf(alone[i] - together[i]) <= 1e-6F))
            fail_msg("channel %d: %.9g alone, %.9g of %d ranks", i, (double)alone[i],
                     (double)together[i], size);
    }
    assert_true(most > 1e-3F);
}

/* ---- parts ----------------------------------------------------------------------------------- */

enum { RIGL, QAT, LORA, PARTS };

/* The values that a training with a part ends with. */
static float *train_part(int which, pare_comm *ranks, int64_t *count)
{
    train_fixture f = fixture_of(&(train_fixture_options){.shuffle = true, .batch = 16});
    pare_train_options options = options_of(PARE_SGD, 0.05);
    pare_mask_options moving = {.schedule = PARE_MASKS_RIGL, .final = 0.6, .each = 3};
    pare_masks *masks = NULL;
    pare_qat *qat = NULL;
    pare_lora *lora = NULL;
    pare_train_part *part = NULL;
    pare_trainer *trainer = NULL;
    if (which == RIGL) {
        assert_ok(pare_masks_create(&moving, f.model, &masks));
        assert_ok(pare_masks_part(masks, f.be, &part));
    } else if (which == QAT) {
        pare_qat_options rounded = {0};
        assert_ok(pare_scheme_parse("w4", &rounded.scheme));
        assert_ok(pare_qat_create(&rounded, f.model, &qat));
        assert_ok(pare_qat_part(qat, f.be, &part));
    } else {
        assert_ok(pare_lora_create(&(pare_lora_options){.rank = 3}, f.model, &lora));
        assert_ok(pare_lora_part(lora, f.be, &part));
    }
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = f.model,
                                                      .be = f.be,
                                                      .dataset = f.dataset,
                                                      .parts = &part,
                                                      .part_count = 1,
                                                      .comm = ranks},
                                  &trainer));
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    pare_trainer_free(&trainer);
    float *values = fixture_values(f.model, count);
    pare_masks_free(&masks);
    pare_qat_free(&qat);
    pare_lora_free(&lora);
    fixture_free(&f);
    return values;
}

/* Parts look at gradients that are whole: every rank changes the same masks, steps and factors.
 * Rounding and the choice of masks may tip over where a sum has another order; factors may not. */
static void test_parts_do_the_same_on_all_ranks(void **state)
{
    (void)state;
    for (int which = 0; which < PARTS; which++) {
        int64_t count;
        float *together = train_part(which, comm, &count);
        assert_ok(pare_comm_agree(comm, together, count * 4, "what was learned"));
        float *alone = train_part(which, NULL, &count);
        for (int64_t i = 0; which == LORA && i < count; i++)
            assert_true(fabsf(alone[i] - together[i]) <= 1e-3F);
        free(alone), free(together);
    }
}

/* ---- a teacher's cache ----------------------------------------------------------------------- */

/* The losses of a student that learns from a teacher or its cache. */
static void learn_outputs(const duel_options *base, pare_comm *ranks, float *losses)
{
    duel_options own = *base;
    assert_ok(pare_cpu_create(NULL, &own.data.be));
    duel d = duel_make(&own);
    pare_train_options options = options_of(PARE_SGD, 0.05);
    pare_trainer *trainer = NULL;
    const float *all;
    int64_t count;
    assert_ok(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                      .model = d.f.model,
                                                      .be = d.f.be,
                                                      .dataset = d.f.dataset,
                                                      .terms = d.terms,
                                                      .term_count = d.term_count,
                                                      .teacher = d.teacher,
                                                      .comm = ranks},
                                  &trainer));
    assert_ok(pare_trainer_run(trainer, d.f.sched, NULL));
    pare_trainer_losses(trainer, &all, &count);
    assert_int_equal(count, STEPS);
    memcpy(losses, all, STEPS * sizeof *losses);
    pare_trainer_free(&trainer);
    duel_free(&d);
}

/* Each rank reads of its own samples what the teacher gave; with all outputs kept it is the teacher
 * itself. */
static void test_of_a_cache_each_rank_reads_its_own_samples(void **state)
{
    (void)state;
    duel_options o = {.student_arch = "mlp:64-12-4",
                      .teacher_arch = "mlp:64-16-4",
                      .data = {.batch = 16, .shuffle = true},
                      .losses = "kl"};
    train_fixture_options inference = o.data;
    inference.arch = o.teacher_arch;
    inference.inference = true;
    train_fixture f = fixture_of(&inference);
    duel_fill(f.be, f.model, 8);
    char path[512];
    snprintf(path, sizeof path, "%s/teacher.h5", f.folder);
    const pare_cache_options whole = {
        .path = path, .teacher = f.model, .be = f.be, .dataset = f.dataset, .batch = 16, .k = 4};
    pare_cache_facts facts;
    pare_teacher_cache *cache = NULL;
    float cached[STEPS], live[STEPS];
    assert_ok(pare_cache_make(f.sched, &whole, &facts));
    learn_outputs(&o, NULL, live);
    assert_ok(pare_cache_open(path, NULL, f.dataset, 4, 1, &cache));
    o.cache = cache;
    learn_outputs(&o, comm, cached);
    for (int i = 0; i < STEPS; i++)
        if (!(fabsf(cached[i] - live[i]) <= 2e-3F * (1 + live[i])))
            fail_msg("step %d: a loss of %g of %d ranks from the cache, %g from the teacher", i + 1,
                     (double)cached[i], size, (double)live[i]);
    pare_cache_close(&cache);
    fixture_free(&f);
}

static void test_a_batch_that_cannot_be_dealt_out_is_refused(void **state)
{
    (void)state;
    train_fixture f = fixture_of(&(train_fixture_options){.batch = 16});
    pare_train_options options = options_of(PARE_SGD, 0.1);
    pare_trainer *trainer = NULL;
    options.batch = 2 * size + 1;
    assert_status(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                          .model = f.model,
                                                          .be = f.be,
                                                          .dataset = f.dataset,
                                                          .comm = comm},
                                      &trainer),
                  PARE_ERR_ARGUMENT);
    fixture_free(&f);
}

static void test_who_begins_otherwise_is_named(void **state)
{
    (void)state;
    train_fixture f = fixture_of(&(train_fixture_options){.batch = 16});
    pare_train_options options = options_of(PARE_SGD, rank == 1 ? 0.2 : 0.1);
    pare_trainer *trainer = trainer_of(&f, &options, comm, NULL);
    assert_status(pare_trainer_run(trainer, f.sched, NULL), PARE_ERR_RANK);
    assert_non_null(strstr(pare_last_error(), "rank 1 ("));
    assert_non_null(strstr(pare_last_error(), "the options"));
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

/* ---- stopping -------------------------------------------------------------------------------- */

/* Each rank saves, of which the first one writes. */
static pare_status save_at_ten(void *user, pare_trainer *trainer, const pare_train_state *state)
{
    if (state->step == 10)
        PARE_TRY(pare_trainer_save(trainer, user, "model: cnn\n"));
    return PARE_OK;
}

static void test_a_saved_training_goes_on_with_the_same_bytes(void **state)
{
    (void)state;
    char path[512];
    train_fixture_options data = {
        .arch = "cnn:8-p-8,in=1,size=8,classes=4", .shuffle = true, .batch = 16};
    pare_train_options options = options_of(PARE_ADAMW, 0.01);
    char *folder = test_folder_make();
    snprintf(path, sizeof path, "%s/state.h5", folder);
    assert_ok(pare_comm_broadcast(comm, path, sizeof path, 0));

    train_fixture f = fixture_of(&data);
    pare_trainer *trainer = trainer_of(&f, &options, comm, NULL);
    assert_ok(pare_trainer_run(trainer, f.sched,
                               &(pare_train_callbacks){.step = save_at_ten, .user = path}));
    outcome whole = outcome_of(&f, trainer);
    assert_ok(pare_comm_barrier(comm));

    f = fixture_of(&data);
    trainer = trainer_of(&f, &options, comm, NULL);
    assert_ok(pare_trainer_load(trainer, path, "model: cnn\n"));
    assert_int_equal(pare_trainer_state(trainer)->step, 10);
    assert_ok(pare_trainer_run(trainer, f.sched, NULL));
    outcome continued = outcome_of(&f, trainer);
    check_same(&whole, &continued);
    assert_ok(pare_comm_barrier(comm)); /* before the file goes */
    test_folder_remove(folder);
    free(whole.values), free(continued.values);
}

static pare_status fail_at_seven(void *user, pare_trainer *trainer, const pare_train_state *state)
{
    (void)user, (void)trainer;
    if (rank == 1 && state->step == 7)
        return pare__error(PARE_ERR_FULL, __func__, "the disc is full");
    return PARE_OK;
}

/* The last test: nobody can work together any more. */
static void test_a_rank_that_fails_stops_all_at_a_whole_step(void **state)
{
    (void)state;
    train_fixture f = fixture_of(&(train_fixture_options){.batch = 16});
    pare_train_options options = options_of(PARE_SGD, 0.1);
    pare_trainer *trainer = trainer_of(&f, &options, comm, NULL);
    pare_status status =
        pare_trainer_run(trainer, f.sched, &(pare_train_callbacks){.step = fail_at_seven});
    if (rank == 1) {
        assert_int_equal(status, PARE_ERR_FULL);
        assert_string_equal(pare_last_error(), "the disc is full");
    } else {
        assert_int_equal(status, PARE_ERR_RANK);
        assert_non_null(strstr(pare_last_error(), "the disc is full"));
    }
    assert_int_equal(pare_trainer_state(trainer)->step, 7);
    pare_trainer_free(&trainer);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_mlp_learns_as_one_rank_would),
        cmocka_unit_test(test_a_language_model_learns_as_one_rank_would),
        cmocka_unit_test(test_a_wide_model_learns_as_one_rank_would),
        cmocka_unit_test(test_what_a_loss_learns_is_of_all_ranks),
        cmocka_unit_test(test_running_statistics_are_those_of_all_ranks),
        cmocka_unit_test(test_running_means_are_those_of_the_whole_batch),
        cmocka_unit_test(test_parts_do_the_same_on_all_ranks),
        cmocka_unit_test(test_of_a_cache_each_rank_reads_its_own_samples),
        cmocka_unit_test(test_a_batch_that_cannot_be_dealt_out_is_refused),
        cmocka_unit_test(test_who_begins_otherwise_is_named),
        cmocka_unit_test(test_a_saved_training_goes_on_with_the_same_bytes),
        cmocka_unit_test(test_a_rank_that_fails_stops_all_at_a_whole_step),
    };
    if (pare_comm_world(&comm) != PARE_OK) {
        fprintf(stderr, "%s\n", pare_last_error());
        return 1;
    }
    rank = pare_comm_facts_of(comm)->rank;
    size = pare_comm_facts_of(comm)->size;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_comm_free(&comm);
    return failed;
}
