/* test_cuda_model.c - models that run and learn on a CUDA device, this machine's or the simulated
 * one: near the CPU, and twice the same bytes. */
#include "train_fixture.h"

#include "pare/run.h"

#include "base/json.h"

#include <math.h>

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Another order of the lanes, another poison, work done at once or as late as it may be. */
static void set_mode(int round)
{
    static const cudasim_mode modes[] = {{.seed = 3, .poison = 0xff, .late = false},
                                         {.seed = 8, .poison = 0x5a, .late = true}};
    cudasim_set_mode(modes[round]);
}
#else
static void set_mode(int round)
{
    (void)round;
}
#endif

#define STEPS 3
#define ROUNDS 2

#define DECODER                                                                                    \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 24, \"num_hidden_layers\": 1, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"max_position_embeddings\": 32, "    \
    "\"tie_word_embeddings\": true}"
#define ENCODER                                                                                    \
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "          \
    "\"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "                  \
    "\"intermediate_size\": 24, \"vocab_size\": 32, \"max_position_embeddings\": 16, "             \
    "\"num_labels\": 4, \"pad_token_id\": 0}"

typedef struct kind {
    const char *name;
    train_fixture_options fixture;
    pare_train_options train;
    double tolerance; /* of a value beside the RMS of all, and of the loss */
} kind;

/* An eps that keeps a step from following the sign of a gradient that is almost 0. */
static const kind kinds[] = {
    {"decoder",
     {.config = DECODER, .batch = 2, .length = 8, .samples = 6},
     {.optimiser = PARE_ADAMW, .eps = 1e-2, .ema = 0.9, .clip = 1},
     1e-4},
    {"decoder in bf16",
     {.config = DECODER, .batch = 2, .length = 8, .samples = 6, .compute = PARE_BF16},
     {.optimiser = PARE_ADAMW, .eps = 1e-2, .compute = PARE_BF16},
     3e-2},
    {"encoder",
     {.config = ENCODER, .batch = 2, .length = 7, .samples = 6, .rows = true},
     {.optimiser = PARE_SGD, .momentum = 0.9, .accumulate = 2},
     1e-4},
    {"cnn",
     {.arch = "cnn:6-p-8,in=1,size=8,classes=4", .batch = 4, .samples = 12},
     {.optimiser = PARE_SGD, .momentum = 0.9, .nesterov = true, .smoothing = 0.1},
     1e-4},
};
#define KINDS (sizeof kinds / sizeof *kinds)

/* ---- training ---------------------------------------------------------------------------------
 */

/* What a training leaves. */
typedef struct outcome {
    float *values;
    int64_t count;
    double loss, norm;
    pare_eval_result eval;
} outcome;

static pare_backend *backend(bool device)
{
    pare_backend *be = NULL;
    if (device)
        assert_ok(pare_cuda_create(0, &be));
    else
        assert_ok(pare_cpu_create(NULL, &be));
    return be;
}

static pare_train_options options_of(const kind *k)
{
    pare_train_options o = k->train;
    o.curve = (pare_curve){.rate = 0.05, .steps = STEPS};
    o.batch = k->fixture.batch;
    o.decay = 0.01;
    o.seed = 4;
    return o;
}

static pare_eval_result measure(train_fixture *f)
{
    pare_eval_result r;
    f->shape.training = false;
    assert_ok(pare_model_prepare(f->model, f->be, &f->shape));
    pare_eval_options o = {.model = f->model,
                           .be = f->be,
                           .dataset = f->dataset,
                           .batch = f->shape.batch,
                           .metrics = PARE_METRIC_LOSS | PARE_METRIC_TOP1};
    assert_ok(pare_evaluate(f->sched, &o, &r));
    r.seconds = r.forward_seconds = 0;
    return r;
}

static pare_status stop_at(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    (void)trainer;
    return s->step == *(const int *)user ? PARE_ERR_INTERRUPTED : PARE_OK;
}

/* Trains, or (cut) stops after two steps, and goes on in a trainer that loads the state. */
static outcome train(const kind *k, bool device, bool cut)
{
    train_fixture_options fixture = k->fixture;
    fixture.be = backend(device);
    fixture.shuffle = true;
    train_fixture f = fixture_make(&fixture);
    pare_train_options o = options_of(k);
    pare_trainer *t = NULL;
    assert_ok(pare_trainer_create(
        &(pare_train_setup){.options = &o, .model = f.model, .be = f.be, .dataset = f.dataset},
        &t));
    if (cut) {
        int step = 2;
        char path[4200];
        pare_train_callbacks stop = {.step = stop_at, .user = &step};
        snprintf(path, sizeof path, "%s/state.train.h5", f.folder);
        assert_int_equal(pare_trainer_run(t, f.sched, &stop), PARE_ERR_INTERRUPTED);
        assert_ok(pare_trainer_save(t, path, NULL));
        pare_trainer_free(&t);
        assert_ok(pare_model_init(f.model, 99));
        assert_ok(pare_trainer_create(
            &(pare_train_setup){.options = &o, .model = f.model, .be = f.be, .dataset = f.dataset},
            &t));
        assert_ok(pare_trainer_load(t, path, NULL));
    }
    assert_ok(pare_trainer_run(t, f.sched, NULL));
    outcome out = {.loss = pare_trainer_state(t)->loss, .norm = pare_trainer_state(t)->grad_norm};
    if (o.ema > 0)
        assert_ok(pare_trainer_swap_average(t));
    pare_trainer_free(&t);
    out.values = fixture_values(f.model, &out.count);
    out.eval = measure(&f);
    fixture_free(&f);
    return out;
}

static void check_near(const outcome *cpu, const outcome *device, double tolerance)
{
    double square = 0, most = 0;
    assert_int_equal(cpu->count, device->count);
    for (int64_t i = 0; i < cpu->count; i++) {
        double apart = fabs((double)cpu->values[i] - (double)device->values[i]);
        square += (double)cpu->values[i] * (double)cpu->values[i];
        most = apart <= most ? most : apart;
    }
    double rms = sqrt(square / (double)cpu->count);
    print_message("  values differ by %.3g of their RMS, losses %.8g and %.8g\n", most / rms,
                  cpu->loss, device->loss);
    assert_true(most <= tolerance * rms);
    assert_true(fabs(cpu->loss - device->loss) <= tolerance * cpu->loss);
    assert_true(fabs(cpu->norm - device->norm) <= 10 * tolerance * cpu->norm);
    assert_true(fabs(cpu->eval.loss - device->eval.loss) <= tolerance * cpu->eval.loss);
    assert_int_equal(cpu->eval.counted, device->eval.counted);
}

static void check_same(const outcome *a, const outcome *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->values, b->values, (size_t)a->count * sizeof *a->values);
    assert_memory_equal(&a->loss, &b->loss, sizeof a->loss);
    assert_memory_equal(&a->norm, &b->norm, sizeof a->norm);
    assert_memory_equal(&a->eval, &b->eval, sizeof a->eval);
}

static void models_learn_as_on_the_cpu(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        outcome device[ROUNDS], cpu = train(&kinds[k], false, false);
        print_message("%s\n", kinds[k].name);
        for (int round = 0; round < ROUNDS; round++) {
            set_mode(round);
            device[round] = train(&kinds[k], true, round > 0); /* cut or not is the same */
            check_near(&cpu, &device[round], kinds[k].tolerance);
            check_same(&device[0], &device[round]);
        }
        for (int round = 0; round < ROUNDS; round++)
            free(device[round].values);
        free(cpu.values);
    }
}

/* ---- whole jobs -------------------------------------------------------------------------------
 */

static double number(const pare_report *report, const char *object, const char *key)
{
    pare__json *root = NULL;
    char *text = NULL;
    double value = NAN;
    assert_ok(pare_report_json(report, &text));
    assert_ok(pare__json_parse(text, strlen(text), "report", &root));
    pare__json_real(pare__json_get(object ? pare__json_get(root, object) : root, key), &value);
    pare__json_free(&root);
    free(text);
    return value;
}

static double loss_of(const char *checkpoint, const char *data, const char *device)
{
    pare_report *report = NULL;
    pare_eval_job job = {.model = {.checkpoint = checkpoint},
                         .data = {.path = data, .pad_id = -2, .bos_id = -1},
                         .compute = PARE_F32,
                         .batch = 7};
    assert_ok(pare_eval(&job, false, &(pare_run_options){.device = device}, &report));
    double loss = number(report, NULL, "loss");
    assert_true((number(report, "predicted", "device_memory") > 0) == (strcmp(device, "cpu") != 0));
    pare_report_free(&report);
    return loss;
}

static void a_job_learns_and_measures_on_the_device(void **state)
{
    (void)state;
    char *folder = test_folder_make(), output[4200];
    const char *data = fixture_images(folder, 16, true);
    pare_report *report = NULL;
    pare_run_options options = {.device = "cuda:0", .device_memory = 1 << 20};
    snprintf(output, sizeof output, "%s/out.h5", folder);
    pare_train_job job = {.model = {.arch = "cnn:6-p-8,in=1,size=8,classes=4"},
                          .data = {.path = data, .pad_id = -2, .bos_id = -1, .shuffle = true},
                          .train = {.optimiser = PARE_SGD,
                                    .curve = {.rate = 0.05, .steps = 3},
                                    .batch = 8,
                                    .compute = PARE_F32},
                          .output = output};
    assert_status(pare_train(&job, false, &options, &report), PARE_ERR_MEMORY);
    options.device_memory = 0;
    assert_ok(pare_train(&job, false, &options, &report));
    assert_true(number(report, "predicted", "device_memory") > 0);
    pare_report_free(&report);
    double near = loss_of(output, data, "cpu"), far = loss_of(output, data, "cuda");
    assert_true(fabs(near - far) <= 1e-5 * near);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_learn_as_on_the_cpu),
        cmocka_unit_test(a_job_learns_and_measures_on_the_device),
    };
    int devices;
    if (pare_cuda_count(&devices) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
