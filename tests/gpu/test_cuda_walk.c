/* test_cuda_walk.c - compression with data on a CUDA device, this machine's or the simulated one:
 * near the CPU, twice the same bytes, cut and continued; within the memory that was said. */
#include "train_fixture.h"

#include "pare/run.h"

#include "engine/learn.h"

#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Another order of the lanes, another poison, work done at once or as late as it may be. */
static void set_mode(int round)
{
    static const cudasim_mode modes[] = {{.seed = 3, .poison = 0xff, .late = true},
                                         {.seed = 8, .poison = 0x5a, .late = false}};
    cudasim_set_mode(modes[round]);
}

#define LIBRARIES ((int64_t)192 << 20) /* are said to take that, and do not here */
#else
#define LIBRARIES 0
static void set_mode(int round)
{
    (void)round;
}
#endif

/* ---- the n-th write fails -------------------------------------------------------------------- */

static _Atomic long writes_left = -1; /* negative: none fails; any thread may write */

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (writes_left >= 0 && writes_left-- == 0) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

/* ---- models, data, runs ---------------------------------------------------------------------- */

static const char llama[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 32, "
    "\"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"vocab_size\": 32, \"max_position_embeddings\": 64, "
    "\"rms_norm_eps\": 1e-05, \"tie_word_embeddings\": true}";
static const char vit[] = "vit:patch=2,dim=32,depth=1,heads=2,mlp=64,in=1,size=8,classes=4";
static const char resnet[] = "resnet8-tiny:in=1,size=8,classes=4";

/* Batches of which the last is not full. */
enum { SAMPLES = 6, BATCH = 4, LENGTH = 16 };

typedef struct bench {
    char *folder, *source, *out;
    const char *data;
    bool tokens;
    pare_run_options options;
    pare_report *report;
} bench;

/* A checkpoint of a fresh model, whose weights are large enough for its outputs to differ. */
static void write_model(const char *arch, const char *config, const char *path)
{
    pare_backend *be = NULL;
    pare_model_choice choice = {.arch = arch ? arch : config};
    pare__subject subject = {.choice = &choice};
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(
        pare_model_create(&(pare_model_options){.arch = arch, .config = config}, &subject.model));
    assert_ok(pare_model_prepare(
        subject.model, be,
        &(pare_model_shape){.batch = 1, .length = config ? 4 : 0, .compute = PARE_F32}));
    assert_ok(pare_model_init(subject.model, 3));
    for (int64_t i = 0; config && i < pare_model_param_count(subject.model); i++) {
        pare_param *p = pare_model_param(subject.model, i);
        float *values = p->value.data;
        for (int64_t e = 0; p->value.rank == 2 && e < pare_tensor_count(&p->value); e++)
            values[e] *= 3;
    }
    assert_ok(pare__model_write_out(&(pare__model_write){.subject = &subject,
                                                         .be = be,
                                                         .output = path,
                                                         .recipe = "none",
                                                         .data = "none",
                                                         .sources = "{}",
                                                         .overwrite = true}));
    pare_model_free(&subject.model);
    pare_backend_free(&be);
}

static bench make(const char *arch, const char *config)
{
    bench b = {.folder = test_folder_make(),
               .tokens = config != NULL,
               .options = {.threads = 1, .device = "cuda:0"}};
    assert_ok(pare__join(b.folder, "in.h5", &b.source));
    assert_ok(pare__join(b.folder, "out.h5", &b.out));
    write_model(arch, config, b.source);
    b.data = config ? fixture_tokens(b.folder, SAMPLES * LENGTH + 1, 32)
                    : fixture_images(b.folder, SAMPLES, true);
    return b;
}

static void done(bench *b)
{
    pare_report_free(&b->report);
    test_folder_remove(b->folder);
    free(b->source);
    free(b->out);
}

static bool lies_there(const bench *b, const char *ending)
{
    char path[4200];
    snprintf(path, sizeof path, "%s%s", b->out, ending);
    return pare__exists(path);
}

static void clear(const bench *b)
{
    static const char *const endings[] = {"", ".walk", ".part", ".journal", ".steps", ".grads.h5"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s%s", b->out, endings[i]);
        assert_ok(pare__remove_tree(path));
    }
}

/* The recipe whose steps these are, each the inside of a compress step, up to the NULL. */
static pare_recipe *recipe_of(const bench *b, const char *const *steps)
{
    char text[4000];
    pare_recipe *recipe = NULL;
    size_t n = (size_t)snprintf(text, sizeof text, "model: %s\ndata: {calibration: %s}\nsteps:\n",
                                b->source, b->data);
    for (; *steps; steps++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "  - compress: {%s, samples: %d, batch: %d%s}\n", *steps, SAMPLES,
                              BATCH, b->tokens ? ", seq_len: 16" : "");
    n += (size_t)snprintf(text + n, sizeof text - n, "  - export: {to: %s}\n", b->out);
    assert_true(n < sizeof text);
    assert_ok(pare_recipe_parse(text, n, "recipe", &recipe));
    return recipe;
}

static pare_status run_steps(bench *b, const char *const *steps)
{
    pare_recipe *recipe = recipe_of(b, steps);
    pare_report_free(&b->report);
    pare_status status = pare_run(recipe, &b->options, &b->report);
    pare_recipe_free(&recipe);
    return status;
}

static pare_status run(bench *b, const char *step)
{
    return run_steps(b, (const char *const[]){step, NULL});
}

static char *bytes_of(const bench *b, int64_t *size)
{
    char *bytes = NULL;
    assert_ok(pare__file_load(b->out, 1 << 26, &bytes, size));
    return bytes;
}

static pare__json *json_of(const pare_report *report)
{
    char *text = NULL;
    pare__json *root = NULL;
    assert_ok(pare_report_json(report, &text));
    assert_ok(pare__json_parse(text, strlen(text), "report", &root));
    free(text);
    return root;
}

/* ---- what a run leaves ----------------------------------------------------------------------- */

enum { MOST = 64 };

typedef struct outcome {
    char *bytes; /* of the output */
    int64_t size;
    int64_t count; /* of its floating tensors, by name */
    char *name[MOST];
    float *values[MOST];
    int64_t elements[MOST];
    pare__json *report;
    double kld, loss;
} outcome;

static void measure(const bench *b, const char *device, outcome *o)
{
    pare_report *report = NULL;
    pare_run_options options = {.threads = 1, .device = device};
    pare_eval_job job = {
        .model = {.checkpoint = b->out},
        .against = {.checkpoint = b->source},
        .data = {.path = b->data, .seq_len = b->tokens ? LENGTH : 0, .pad_id = -2, .bos_id = -1}};
    assert_ok(pare_eval(&job, false, &options, &report));
    pare__json *root = json_of(report);
    assert_true(pare__json_real(pare__json_get(root, "loss"), &o->loss));
    assert_true(pare__json_real(pare__json_get(root, "kld"), &o->kld));
    pare__json_free(&root);
    pare_report_free(&report);
}

static void read_values(const bench *b, outcome *o)
{
    pare_store *store = NULL;
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_store_open(b->out, &store));
    for (int64_t i = 0; i < pare_store_count(store); i++) {
        const pare_entry *e = pare_store_entry(store, i);
        if (e->dtype != PARE_F32 || e->rank < 2)
            continue;
        assert_true(o->count < MOST);
        int64_t n = o->count++;
        o->name[n] = strdup(e->name);
        o->elements[n] = e->rows * e->cols;
        o->values[n] = malloc((size_t)o->elements[n] * sizeof(float));
        void *scratch = malloc((size_t)pare_store_scratch(store, i, e->rows) + 1);
        assert_ok(pare_store_read_values(store, be, i, 0, e->rows, o->values[n], scratch));
        free(scratch);
    }
    pare_store_close(&store);
    pare_backend_free(&be);
}

/* Runs, looks at what is there, takes it away. */
static outcome outcome_of(bench *b, const char *device, const char *const *steps)
{
    outcome o = {0};
    b->options.device = device;
    clear(b);
    assert_ok(run_steps(b, steps));
    o.bytes = bytes_of(b, &o.size);
    o.report = json_of(b->report);
    read_values(b, &o);
    measure(b, device, &o);
    clear(b);
    b->options.device = "cuda:0";
    return o;
}

static void drop(outcome *o)
{
    for (int64_t i = 0; i < o->count; i++) {
        free(o->name[i]);
        free(o->values[i]);
    }
    free(o->bytes);
    pare__json_free(&o->report);
}

/* A layer's error by the report, of the last step if there are several; NaN: it says none. */
static double error_of(const outcome *o, const char *name)
{
    const pare__json *steps = pare__json_get(o->report, "steps"),
                     *last = pare__json_at(steps, pare__json_size(steps) - 1);
    const pare__json *layers = pare__json_get(o->report, "layers");
    if (!layers)
        layers = pare__json_get(last, "layers");
    double error = (double)NAN;
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        const pare__json *layer = pare__json_at(layers, i);
        const char *is = pare__json_string(pare__json_get(layer, "name"));
        if (is && strcmp(is, name) == 0)
            pare__json_real(pare__json_get(layer, "error_after"), &error);
    }
    return error;
}

/* ---- near the CPU ---------------------------------------------------------------------------- */

/* Of values on the edge between two codes, or two scores that are almost the same, a few fall to
 * the other side, and a sweep carries that on; what comes of it is as good. */
static void assert_near(const outcome *near, const outcome *far, const char *what)
{
    int64_t all = 0, same = 0;
    double sum[2] = {0}, slack = strstr(what, "bf16") ? 4 : 1; /* which rounds more */
    assert_int_equal(near->count, far->count);
    for (int64_t i = 0; i < near->count; i++) {
        assert_string_equal(near->name[i], far->name[i]);
        assert_int_equal(near->elements[i], far->elements[i]);
        for (int64_t e = 0; e < near->elements[i]; e++) {
            assert_true(isfinite(far->values[i][e]));
            same += (near->values[i][e] == 0) == (far->values[i][e] == 0);
        }
        all += near->elements[i];
        double a = error_of(near, near->name[i]), b = error_of(far, near->name[i]);
        assert_true(isnan(a) == isnan(b));
        if (isnan(a))
            continue;
        sum[0] += a;
        sum[1] += b;
        if (fabs(a - b) > slack * 0.05 * a + 1e-7)
            fail_msg("%s: %s loses %g, on the CPU %g", what, near->name[i], b, a);
    }
    if (fabs(sum[0] - sum[1]) > slack * 0.01 * sum[0] + 1e-7)
        fail_msg("%s: layers lose %g in all, on the CPU %g", what, sum[1], sum[0]);
    if (strstr(what, "prune") && (double)same < 0.99 * (double)all)
        fail_msg("%s: %lld of %lld zeros are the CPU's", what, (long long)same, (long long)all);
    if (fabs(near->loss - far->loss) > slack * 0.01) /* a hundredth of the perplexity */
        fail_msg("%s: loss %g, on the CPU %g", what, far->loss, near->loss);
    if (fabs(near->kld - far->kld) > slack * 0.05 * near->kld + 2e-6)
        fail_msg("%s: divergence %g, on the CPU %g", what, far->kld, near->kld);
}

/* Two of four of every product's weights are 0, whatever came after. */
static void assert_two_of_four(const outcome *o, const char *what)
{
    for (int64_t i = 0; i < o->count; i++) {
        int64_t zeros = 0;
        if (!strstr(o->name[i], "_proj"))
            continue;
        for (int64_t e = 0; e < o->elements[i]; e++)
            zeros += o->values[i][e] == 0;
        if (zeros < o->elements[i] / 2)
            fail_msg("%s: %s has %lld zeros of %lld", what, o->name[i], (long long)zeros,
                     (long long)o->elements[i]);
    }
}

/* No more memory is taken than was said. */
static void assert_predicted(const outcome *o, const char *what)
{
    int64_t predicted = -1, actual = -1;
    assert_true(pare__json_int(
        pare__json_get(pare__json_get(o->report, "predicted"), "device_memory"), &predicted));
    if (!pare__json_int(pare__json_get(pare__json_get(o->report, "actual"), "device_memory"),
                        &actual))
        return; /* a run that makes a smaller model does not say */
    if (actual <= 0 || actual > predicted - LIBRARIES)
        fail_msg("%s: %lld bytes of the device, %lld were said", what, (long long)actual,
                 (long long)predicted);
}

/* On the CPU, and twice on a device in different ways. */
static void compare(bench *b, const char *const *steps)
{
    outcome near = outcome_of(b, "cpu", steps), far[2];
    for (int round = 0; round < 2; round++) {
        set_mode(round);
        far[round] = outcome_of(b, "cuda:0", steps);
    }
    assert_near(&near, &far[0], steps[0]);
    if (far[0].size != far[1].size || memcmp(far[0].bytes, far[1].bytes, (size_t)far[0].size) != 0)
        fail_msg("%s: the device does not do the same twice", steps[0]);
    assert_true(far[0].loss == far[1].loss && far[0].kld == far[1].kld);
    assert_predicted(&far[0], steps[0]);
    if (strstr(steps[0], "2:4"))
        assert_two_of_four(&far[0], steps[0]);
    drop(&near);
    drop(&far[0]);
    drop(&far[1]);
}

static const char joint[] =
    "prune: {method: sparsegpt, pattern: '2:4'}, quantize: {method: gptq, scheme: w4g32}";

static void decoders_come_out_as_on_the_cpu(void **state)
{
    (void)state;
    static const char *const chains[][3] = {
        {joint},
        {"prune: {method: wanda, pattern: '2:4'}, errors: true",
         "quantize: {method: gptq, scheme: w4g32}"},
        {"quantize: {method: awq, scheme: w4g32z}, propagate: dense"},
        {"quantize: {method: smoothquant, scheme: w8a8s, scale: mse}, true_sequential: false"},
        {"quantize: {method: gptq, scheme: w3, act_order: true}, compute: bf16"},
        {"prune: {method: sparsegpt, sparsity: 0.5, budget: owl}"},
        {"quantize: {method: gptq, schemes: [w3g32, w4g32, w8], bits: 5}"},
        {"prune: {method: taylor, pattern: channel, sparsity: 0.25}"},
        {"prune: {method: wanda, pattern: head, sparsity: 0.5}"},
    };
    bench b = make(NULL, llama);
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++)
        compare(&b, chains[i]);
    done(&b);
}

static void images_come_out_as_on_the_cpu(void **state)
{
    (void)state;
    /* A choice that falls to the other side in one layer is no other input for the next. */
    static const char *const steps[] = {
        "prune: {method: sparsegpt, pattern: '2:4'}, quantize: {method: gptq, scheme: w4g32}, "
        "propagate: dense",
        NULL};
    static const char *const smaller[] = {"prune: {method: taylor, pattern: channel, sparsity: "
                                          "0.25}",
                                          NULL};
    bench b = make(resnet, NULL);
    compare(&b, steps);
    compare(&b, smaller);
    done(&b);
    b = make(vit, NULL);
    compare(&b, steps);
    done(&b);
}

/* ---- cut and continued ----------------------------------------------------------------------- */

static const char awq[] = "quantize: {method: awq, scheme: w4g32}";
static const char sparse[] = "prune: {method: sparsegpt, sparsity: 0.5}";

static void assert_same(const bench *b, const char *want, int64_t size, const char *what,
                        int64_t at)
{
    int64_t again;
    char *got = bytes_of(b, &again);
    if (again != size || memcmp(got, want, (size_t)size) != 0)
        fail_msg("%s %lld: continued, with other bytes", what, (long long)at);
    free(got);
    assert_false(lies_there(b, ".walk") || lies_there(b, ".journal") || lies_there(b, ".part"));
}

/* Every so many writes one fails; the same command goes on, until it is done. */
static void cut_and_continued_it_ends_with_the_same_bytes(void **state)
{
    (void)state;
    static const char *const steps[] = {awq, sparse};
    bench b = make(NULL, llama);
    for (int i = 0; i < 2; i++) {
        int64_t size;
        int cuts = 0;
        clear(&b);
        assert_ok(run(&b, steps[i]));
        char *want = bytes_of(&b, &size);
        clear(&b);
        for (pare_status status = PARE_ERR_FULL; status != PARE_OK; cuts++) {
            set_mode(cuts % 2);
            writes_left = 30 + 5 * i;
            status = run(&b, steps[i]);
            writes_left = -1;
            if (status != PARE_OK)
                assert_int_equal(status, PARE_ERR_FULL);
            assert_true(cuts < 40);
        }
        assert_true(cuts > 1);
        assert_same(&b, want, size, "cut", cuts);
        free(want);
    }
    done(&b);
}

/* What data decides on a device is not what it decides on the CPU. */
static void the_cpu_does_not_go_on_with_it(void **state)
{
    (void)state;
    bench b = make(NULL, llama);
    pare_cuda_facts facts;
    assert_ok(pare_cuda_facts_of(0, &facts));
    writes_left = 40;
    assert_status(run(&b, awq), PARE_ERR_FULL);
    writes_left = -1;
    b.options.device = "cpu";
    assert_status(run(&b, awq), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "was begun with"));
    assert_non_null(strstr(pare_last_error(), facts.name));
    assert_non_null(strstr(pare_last_error(), "--overwrite"));
    assert_false(lies_there(&b, ""));
    b.options.device = "cuda:0";
    assert_ok(run(&b, awq));
    done(&b);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void its_memory_is_said_and_kept_to(void **state)
{
    (void)state;
    static const char *const steps[] = {joint, awq,
                                        "quantize: {method: gptq, schemes: [w4g32, w8], bits: 6}",
                                        "prune: {method: taylor, pattern: channel, sparsity: 0.3}",
                                        "prune: {method: fisher, sparsity: 0.3}"};
    bench b = make(NULL, llama);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        double needs = 0;
        clear(&b);
        b.options.device_memory = 100 << 20;
        assert_status(run(&b, steps[i]), PARE_ERR_MEMORY);
        const char *said = strstr(pare_last_error(), "it needs ");
        if (!said || sscanf(said, "it needs %lf MiB", &needs) != 1 ||
            !strstr(pare_last_error(), "cuda:0"))
            fail_msg("%s: %s", steps[i], pare_last_error());
        assert_false(lies_there(&b, "") || lies_there(&b, ".walk") || lies_there(&b, ".journal"));
        b.options.device_memory = (int64_t)(needs + 1) << 20;
        assert_ok(run(&b, steps[i]));
    }
    done(&b);
}

/* ---- faults ---------------------------------------------------------------------------------- */

#ifdef PARE_CUDASIM

typedef struct fault {
    const char *name;
    void (*order)(int64_t nth);
    int64_t most;
    pare_status status;
} fault;

static void strike(bench *b, const fault *f, const char *step, const char *want, int64_t size)
{
    enum { POINTS = 3 };
    int struck = 0;
    for (int i = 0; i < POINTS; i++) {
        int64_t n = 1 + i * f->most / POINTS;
        clear(b);
        set_mode(i % 2);
        f->order(n);
        pare_status status = run(b, step);
        f->order(0);
        cudasim_heal();
        if (status == PARE_OK)
            continue; /* read back, or the order of work was another */
        struck++;
        if (status != f->status || !pare_last_error()[0])
            fail_msg("%s %lld: %s: %s", f->name, (long long)n, pare_status_name(status),
                     pare_last_error());
        if (f->order == cudasim_fail_launch && strstr(pare_last_error(), "cudaGetDevice"))
            fail_msg("launch %lld: what failed first is lost: %s", (long long)n, pare_last_error());
        assert_false(lies_there(b, ""));
        assert_ok(run(b, step));
        assert_same(b, want, size, f->name, n);
    }
    assert_true(struck > 0);
}

static void faults_end_in_a_sentence_and_it_goes_on(void **state)
{
    (void)state;
    static const char *const steps[] = {joint, "prune: {method: fisher, sparsity: 0.3}",
                                        "prune: {method: taylor, pattern: channel, sparsity: 0.3}"};
    bench b = make(NULL, llama);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int64_t size;
        cudasim_counts before = cudasim_count();
        clear(&b);
        assert_ok(run(&b, steps[i]));
        cudasim_counts after = cudasim_count();
        assert_int_equal(before.bytes, after.bytes);
        char *want = bytes_of(&b, &size);
        const fault faults[] = {
            {"allocation", cudasim_fail_alloc, after.allocations - before.allocations,
             PARE_ERR_MEMORY},
            {"launch", cudasim_fail_launch, after.launches - before.launches, PARE_ERR_DEVICE},
            {"loss", cudasim_lose, after.calls - before.calls, PARE_ERR_DEVICE},
        };
        for (int f = 0; f < 3; f++)
            strike(&b, &faults[f], steps[i], want, size);
        free(want);
    }
    done(&b);
}
#endif

int main(void)
{
    int count;
    if (pare_cuda_count(&count) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_come_out_as_on_the_cpu),
        cmocka_unit_test(images_come_out_as_on_the_cpu),
        cmocka_unit_test(cut_and_continued_it_ends_with_the_same_bytes),
        cmocka_unit_test(the_cpu_does_not_go_on_with_it),
        cmocka_unit_test(its_memory_is_said_and_kept_to),
#ifdef PARE_CUDASIM
        cmocka_unit_test(faults_end_in_a_sentence_and_it_goes_on),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
