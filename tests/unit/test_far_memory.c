/* test_far_memory.c - models, training and evaluation on a backend whose memory the host cannot
 * touch: the same bytes as on the CPU, and few waits. */
#include "far_backend.h"
#include "train_fixture.h"

#include "base/check.h"
#include "base/file.h"
#include "engine/learn.h"
#include "model/node.h"
#include "train/train_impl.h"

#include <math.h>

#define STEPS 5

#define DECODER                                                                                    \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"max_position_embeddings\": 6, "     \
    "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}, \"tie_word_embeddings\": "     \
    "true}"
#define GPT2                                                                                       \
    "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 1, \"n_positions\": "  \
    "16, \"vocab_size\": 32, \"resid_pdrop\": 0.1, \"embd_pdrop\": 0.1, \"attn_pdrop\": 0.1}"
#define ENCODER                                                                                    \
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "          \
    "\"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "                  \
    "\"intermediate_size\": 24, \"vocab_size\": 32, \"max_position_embeddings\": 16, "             \
    "\"num_labels\": 4, \"pad_token_id\": 0}"

typedef struct kind {
    const char *name;
    train_fixture_options fixture;
    pare_train_options train;
} kind;

#define TRAINING(kind_, more)                                                                      \
    {                                                                                              \
        .optimiser = kind_, .curve = {.rate = 0.02, .steps = STEPS, .warmup = 1}, .batch = 4,      \
        .momentum = 0.9, .decay = 0.01, .clip = 1, .seed = 4, more                                 \
    }

static const kind kinds[] = {
    {"decoder",
     {.config = DECODER, .batch = 4, .length = 12, .samples = 18},
     TRAINING(PARE_ADAMW, .ema = 0.9)},
    {"decoder in bf16",
     {.config = DECODER, .batch = 4, .length = 12, .samples = 18, .compute = PARE_BF16},
     TRAINING(PARE_ADAMW, .compute = PARE_BF16)},
    {"gpt2",
     {.config = GPT2, .batch = 4, .length = 9, .samples = 18},
     TRAINING(PARE_ADAMW, .accumulate = 2)},
    {"encoder",
     {.config = ENCODER, .batch = 4, .length = 10, .samples = 18, .rows = true},
     TRAINING(PARE_SGD, .nesterov = true)},
    {"cnn",
     {.arch = "resnet8-tiny:in=1,size=8,classes=4", .batch = 4, .samples = 18},
     TRAINING(PARE_SGD, .ema = 0.8)},
    {"cnn in bf16",
     {.arch = "cnn:8-p-12,in=1,size=8,classes=4",
      .batch = 4,
      .samples = 18,
      .mixup = 0.3f,
      .compute = PARE_BF16},
     TRAINING(PARE_SGD, .compute = PARE_BF16)},
    {"vit",
     {.arch = "vit:patch=4,dim=16,depth=1,heads=2,in=1,size=8,classes=4",
      .batch = 4,
      .samples = 18},
     TRAINING(PARE_ADAMW, .smoothing = 0.1)},
};
#define KINDS (sizeof kinds / sizeof *kinds)

/* ---- what a training leaves -------------------------------------------------------------------
 */

typedef struct run {
    train_fixture f;
    pare_trainer *trainer;
} run;

/* One thread: results depend on their number. */
static pare_backend *backend(bool far)
{
    pare_backend *be = NULL;
    if (far)
        return far_backend_make(1);
    assert_ok(pare_cpu_create(NULL, &be));
    return be;
}

static run begin(const kind *k, bool far)
{
    train_fixture_options o = k->fixture;
    o.be = backend(far);
    o.shuffle = true;
    run r = {.f = fixture_make(&o)};
    assert_ok(pare_trainer_create(
        &(pare_train_setup){
            .options = &k->train, .model = r.f.model, .be = r.f.be, .dataset = r.f.dataset},
        &r.trainer));
    return r;
}

static void end(run *r)
{
    pare_trainer_free(&r->trainer);
    fixture_free(&r->f);
}

static void *host_copy(pare_backend *be, const void *memory, int64_t bytes)
{
    void *copy = malloc((size_t)bytes + 1);
    assert_ok(pare_backend_download(be, copy, memory, bytes));
    return copy;
}

static void check_memory(const run *a, const void *x, const run *b, const void *y, int64_t bytes)
{
    void *u = host_copy(a->f.be, x, bytes), *v = host_copy(b->f.be, y, bytes);
    assert_memory_equal(u, v, (size_t)bytes);
    free(u);
    free(v);
}

static void check_same(const run *a, const run *b)
{
    const pare__optim *x = &a->trainer->optim, *y = &b->trainer->optim;
    int64_t count, count2;
    float *u = fixture_values(a->f.model, &count), *v = fixture_values(b->f.model, &count2);
    assert_int_equal(count, count2);
    assert_memory_equal(u, v, (size_t)count * 4);
    assert_int_equal(x->state_bytes, y->state_bytes);
    check_memory(a, x->state, b, y->state, x->state_bytes);
    check_memory(a, x->average, b, y->average, x->average_bytes);
    check_memory(a, a->trainer->buffers, b, b->trainer->buffers, a->trainer->buffer_count * 4);
    assert_memory_equal(a->trainer->losses, b->trainer->losses, STEPS * sizeof(float));
    const pare_train_state *s = &a->trainer->state, *t = &b->trainer->state;
    const double left[] = {s->loss, s->smooth_loss, s->rate, s->grad_norm};
    const double right[] = {t->loss, t->smooth_loss, t->rate, t->grad_norm};
    assert_int_equal(s->step, t->step);
    assert_memory_equal(left, right, sizeof left);
    free(u);
    free(v);
}

static void train(run *r)
{
    assert_ok(pare_trainer_run(r->trainer, r->f.sched, NULL));
}

static void training_gives_the_same_bytes(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        print_message("%s\n", kinds[k].name);
        run near = begin(&kinds[k], false), far = begin(&kinds[k], true);
        pare__model_poison(far.f.model, true); /* and needs nothing that is dead */
        train(&near);
        train(&far);
        check_same(&near, &far);
        if (kinds[k].train.ema > 0) {
            assert_ok(pare_trainer_swap_average(near.trainer));
            assert_ok(pare_trainer_swap_average(far.trainer));
            check_same(&near, &far);
        }
        end(&near);
        end(&far);
    }
}

static pare_status note_waits(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    int64_t *at = user;
    at[s->step] = far_backend_waits(trainer->be);
    return PARE_OK;
}

static void a_step_waits_for_the_batch_the_loss_and_the_norm(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        int64_t at[STEPS + 1], forwards = kinds[k].train.accumulate ? kinds[k].train.accumulate : 1;
        run far = begin(&kinds[k], true);
        assert_ok(pare_trainer_run(far.trainer, far.f.sched,
                                   &(pare_train_callbacks){.step = note_waits, .user = at}));
        for (int s = 2; s <= STEPS; s++)
            assert_int_equal(at[s] - at[s - 1], 2 * forwards + 1);
        end(&far);
    }
}

/* ---- resuming ---------------------------------------------------------------------------------
 */

static pare_status stop_at(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    (void)trainer;
    return s->step == *(const int *)user ? PARE_ERR_INTERRUPTED : PARE_OK;
}

static void a_training_that_was_cut_ends_with_the_same_bytes(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        int step = 2;
        char path[4200];
        pare_train_callbacks stop = {.step = stop_at, .user = &step};
        run near = begin(&kinds[k], false), first = begin(&kinds[k], true);
        run second = begin(&kinds[k], true);
        train(&near);
        assert_int_equal(pare_trainer_run(first.trainer, first.f.sched, &stop),
                         PARE_ERR_INTERRUPTED);
        snprintf(path, sizeof path, "%s/state.train.h5", first.f.folder);
        assert_ok(pare_trainer_save(first.trainer, path, NULL));
        assert_ok(pare_trainer_load(second.trainer, path, NULL));
        train(&second);
        check_same(&near, &second);
        end(&near);
        end(&first);
        end(&second);
    }
}

/* ---- checkpoints and masks --------------------------------------------------------------------
 */

/* Makes every third weight of products 0. */
static void prune(pare_model *model)
{
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        pare_param *p = pare_model_param(model, i);
        bool weight = p->role == PARE_ROLE_LINEAR || p->role == PARE_ROLE_CONV;
        for (int64_t e = 0; weight && e < pare_tensor_count(&p->value); e += 3)
            ((float *)p->value.data)[e] = 0;
    }
}

static void write_model(train_fixture *f, const char *path)
{
    pare_model_choice choice = {.arch = "made here"};
    pare__subject subject = {.choice = &choice, .model = f->model};
    assert_ok(pare__model_write_out(&(pare__model_write){.subject = &subject,
                                                         .be = f->be,
                                                         .output = path,
                                                         .recipe = "prune: none",
                                                         .data = "",
                                                         .sources = "{}",
                                                         .overwrite = true}));
}

static void load_model(train_fixture *f, const char *path, bool masks)
{
    pare_store *store = NULL;
    assert_ok(pare_store_open(path, &store));
    assert_ok(pare_model_load(f->model, store, masks));
    pare_store_close(&store);
}

static void check_masks(pare_model *near, pare_model *far)
{
    int64_t masked = 0;
    for (int64_t i = 0; i < pare_model_param_count(near); i++) {
        const pare_param *p = pare_model_param(near, i);
        int64_t n = pare_tensor_count(&p->value);
        uint8_t *u = malloc((size_t)n), *v = malloc((size_t)n);
        assert_int_equal(p->mask != NULL, pare_model_param(far, i)->mask != NULL);
        masked += p->mask != NULL;
        assert_ok(pare_model_read_mask(near, i, 0, n, u));
        assert_ok(pare_model_read_mask(far, i, 0, n, v));
        assert_memory_equal(u, v, (size_t)n);
        assert_ok(pare_model_read_mask(far, i, n / 2, n - n / 2, v));
        assert_memory_equal(u + n / 2, v, (size_t)(n - n / 2));
        free(u);
        free(v);
    }
    assert_true(masked > 0);
}

static void check_files(const char *a, const char *b)
{
    char *x = NULL, *y = NULL;
    int64_t n = 0, m = 0;
    assert_ok(pare__file_load(a, 1 << 26, &x, &n));
    assert_ok(pare__file_load(b, 1 << 26, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, (size_t)n);
    free(x);
    free(y);
}

/* A pruned checkpoint, loaded with masks, trained and written again on both sides. */
static void pruned_checkpoints_are_loaded_trained_and_written(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        char source[4200], a[4200], b[4200];
        run near = begin(&kinds[k], false), far = begin(&kinds[k], true);
        pare_trainer_free(&near.trainer);
        pare_trainer_free(&far.trainer);
        prune(near.f.model);
        snprintf(source, sizeof source, "%s/source.safetensors", near.f.folder);
        snprintf(a, sizeof a, "%s/a.h5", near.f.folder);
        snprintf(b, sizeof b, "%s/b.h5", near.f.folder);
        write_model(&near.f, source);
        run *both[] = {&near, &far};
        for (int i = 0; i < 2; i++) {
            run *r = both[i];
            load_model(&r->f, source, true);
            assert_ok(pare_trainer_create(&(pare_train_setup){.options = &kinds[k].train,
                                                              .model = r->f.model,
                                                              .be = r->f.be,
                                                              .dataset = r->f.dataset},
                                          &r->trainer));
            train(r);
        }
        check_same(&near, &far);
        check_masks(near.f.model, far.f.model);
        write_model(&near.f, a);
        write_model(&far.f, b);
        check_files(a, b);
        end(&near);
        end(&far);
    }
}

static void values_are_rounded_as_on_the_host(void **state)
{
    (void)state;
    run near = begin(&kinds[2], false), far = begin(&kinds[2], true);
    char path[4200];
    pare_model_choice choice = {.arch = "made here"};
    run *both[] = {&near, &far};
    snprintf(path, sizeof path, "%s/halves.safetensors", near.f.folder);
    write_model(&near.f, path);
    train(&near);
    train(&far);
    for (int i = 0; i < 2; i++) {
        pare__subject subject = {.choice = &choice, .model = both[i]->f.model};
        assert_ok(pare_store_open(path, &subject.store));
        assert_ok(pare__model_round(&subject, both[i]->f.be));
        pare_store_close(&subject.store);
    }
    check_same(&near, &far);
    end(&near);
    end(&far);
}

/* ---- evaluation -------------------------------------------------------------------------------
 */

static pare_eval_result evaluate(const kind *k, bool far, unsigned metrics, char *outputs)
{
    train_fixture_options o = k->fixture;
    o.be = backend(far);
    o.inference = true;
    o.mixup = 0;
    train_fixture f = fixture_make(&o);
    pare_model *other = fixture_model(&f, &o, 77);
    bool one = pare_model_facts_of(f.model)->output != PARE_OUTPUT_TOKENS;
    char path[4200];
    snprintf(path, sizeof path, "%s/outputs.npy", f.folder);
    pare_eval_result r;
    pare_eval_options options = {.model = f.model,
                                 .against = other,
                                 .be = f.be,
                                 .dataset = f.dataset,
                                 .batch = f.shape.batch,
                                 .metrics = metrics | (one ? PARE_METRIC_COSINE : 0u),
                                 .outputs = one ? path : NULL};
    assert_ok(pare_evaluate(f.sched, &options, &r));
    memset(outputs, 0, 4096);
    if (one) {
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        assert_true(fread(outputs, 1, 4096, file) > 0);
        fclose(file);
    }
    r.seconds = r.forward_seconds = 0;
    pare_model_free(&other);
    fixture_free(&f);
    return r;
}

static void metrics_and_outputs_are_the_same(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        static char x[4096], y[4096];
        for (int only = 0; only < 2; only++) {
            unsigned metrics = PARE_METRIC_KLD;
            if (!only)
                metrics |= PARE_METRIC_LOSS | PARE_METRIC_TOP1 | PARE_METRIC_TOP5;
            pare_eval_result near = evaluate(&kinds[k], false, metrics, x);
            pare_eval_result far = evaluate(&kinds[k], true, metrics, y);
            assert_memory_equal(&near, &far, sizeof near);
            assert_memory_equal(x, y, sizeof x);
        }
    }
}

/* ---- what goes wrong --------------------------------------------------------------------------
 */

static void a_nan_is_found(void **state)
{
    (void)state;
    char said[2][1024];
    for (int far = 0; far < 2; far++) {
        run r = begin(&kinds[0], far);
        const float nan_value = NAN;
        pare_param *p = pare_model_param(r.f.model, 3);
        assert_ok(pare_backend_upload(r.f.be, (float *)p->value.data + 2, &nan_value, 4));
        assert_int_equal(pare_trainer_run(r.trainer, r.f.sched, NULL), PARE_ERR_NUMERIC);
        snprintf(said[far], sizeof said[far], "%s", pare_last_error());
        end(&r);
    }
    assert_string_equal(said[0], said[1]);
    assert_non_null(strstr(said[0], "first bad tensor"));
}

static void a_model_stays_on_its_backend(void **state)
{
    (void)state;
    run r = begin(&kinds[4], true);
    assert_status(pare_model_prepare(r.f.model, pare_backend_host(r.f.be), &r.f.shape),
                  PARE_ERR_ARGUMENT);
    train(&r);
    end(&r);
}

/* Everything from a checkpoint to a measured model, on a backend whose nth allocation is refused.
 */
static pare_status work(train_fixture *f, const kind *k, const char *source, pare_model *model)
{
    pare_status status = PARE_OK;
    pare_trainer *trainer = NULL;
    pare_store *store = NULL;
    pare_eval_result result;
    pare_model_shape shape = f->shape;
    char path[4200];
    pare_eval_options options = {.model = model,
                                 .be = f->be,
                                 .dataset = f->dataset,
                                 .batch = shape.batch,
                                 .metrics = PARE_METRIC_LOSS};
    snprintf(path, sizeof path, "%s/state.train.h5", f->folder);
    PARE_TRY_DONE(pare_model_prepare(model, f->be, &shape));
    PARE_TRY_DONE(pare_store_open(source, &store));
    PARE_TRY_DONE(pare_model_load(model, store, true));
    PARE_TRY_DONE(pare_trainer_create(
        &(pare_train_setup){
            .options = &k->train, .model = model, .be = f->be, .dataset = f->dataset},
        &trainer));
    PARE_TRY_DONE(pare_trainer_run(trainer, f->sched, NULL));
    PARE_TRY_DONE(pare_trainer_save(trainer, path, NULL));
    PARE_TRY_DONE(pare_trainer_load(trainer, path, NULL));
    shape.training = false;
    PARE_TRY_DONE(pare_model_prepare(model, f->be, &shape));
    PARE_TRY_DONE(pare_evaluate(f->sched, &options, &result));
done:
    pare_trainer_free(&trainer);
    pare_store_close(&store);
    return status;
}

/* The backend itself says at its end if anything was not given back. */
static void memory_that_runs_out_is_given_back(void **state)
{
    (void)state;
    const size_t which[] = {0, 2, 4};
    for (size_t w = 0; w < 3; w++) {
        const kind *k = &kinds[which[w]];
        char source[4200];
        run near = begin(k, false);
        pare_backend *cpu = near.f.be;
        snprintf(source, sizeof source, "%s/source.safetensors", near.f.folder);
        prune(near.f.model);
        write_model(&near.f, source);
        bool refused = true;
        for (int64_t nth = 1; refused; nth++) {
            pare_model *model = NULL;
            pare_model_options o = {.arch = k->fixture.arch, .config = k->fixture.config};
            near.f.be = far_backend_make(1);
            assert_ok(pare_model_create(&o, &model));
            far_backend_refuse(near.f.be, nth);
            pare_status status = work(&near.f, k, source, model);
            refused = far_backend_refused(near.f.be);
            assert_int_equal(status, refused ? PARE_ERR_MEMORY : PARE_OK);
            assert_true(nth > 10 || refused);
            pare_model_free(&model);
            pare_backend_free(&near.f.be);
        }
        near.f.be = cpu;
        end(&near);
    }
}

static void memory_is_what_is_said(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        run r = begin(&kinds[k], true);
        const pare_trainer *t = r.trainer;
        pare_footprint bytes = pare_train_bytes(&(pare_train_setup){.options = &kinds[k].train,
                                                                    .model = r.f.model,
                                                                    .be = r.f.be,
                                                                    .dataset = r.f.dataset},
                                                &r.f.shape);
        assert_int_equal(bytes.backend, t->optim.state_bytes + t->optim.average_bytes +
                                            t->scratch_size + t->buffer_count * 4);
        assert_true(t->results_size > 0);
        assert_int_equal(bytes.host, (int64_t)(t->optim.count * sizeof *t->optim.trained) +
                                         t->results_size + STEPS * 4 +
                                         PARE__AHEAD * pare_batch_bytes(r.f.dataset, 4));
        pare_model_memory memory;
        assert_ok(pare_model_predict(r.f.model, &r.f.shape, &memory));
        assert_int_equal(memory.inputs, r.f.model->inputs_bytes);
        end(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_gives_the_same_bytes),
        cmocka_unit_test(a_step_waits_for_the_batch_the_loss_and_the_norm),
        cmocka_unit_test(a_training_that_was_cut_ends_with_the_same_bytes),
        cmocka_unit_test(pruned_checkpoints_are_loaded_trained_and_written),
        cmocka_unit_test(values_are_rounded_as_on_the_host),
        cmocka_unit_test(metrics_and_outputs_are_the_same),
        cmocka_unit_test(a_nan_is_found),
        cmocka_unit_test(a_model_stays_on_its_backend),
        cmocka_unit_test(memory_that_runs_out_is_given_back),
        cmocka_unit_test(memory_is_what_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
