/* test_cuda_distill.c - the losses between a student and a teacher on a CUDA device, this machine's
 * or the simulated one: near the CPU, and twice the same bytes; a teacher's outputs made there. */
#include "distill_fixture.h"

#include <math.h>

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Another order of the lanes, another poison, work done at once or as late as it may be. */
static void set_mode(int round)
{
    static const cudasim_mode modes[] = {{.seed = 4, .poison = 0xff, .late = false},
                                         {.seed = 9, .poison = 0x5a, .late = true}};
    cudasim_set_mode(modes[round]);
}
#else
static void set_mode(int round)
{
    (void)round;
}
#endif

#define ROUNDS 2

static const duel_options tokens = {
    .student_config = DUEL_LLAMA("12", "2", "4", "1", "29"),
    .teacher_config = DUEL_LLAMA("16", "3", "4", "2", "29"),
    .data = {.batch = 2, .length = 7, .vocabulary = 29},
};
static const duel_options rows = {
    .student_config = DUEL_BERT("BertForSequenceClassification", "12", "1", "2"),
    .teacher_config = DUEL_BERT("BertForSequenceClassification", "16", "2", "2"),
    .data = {.batch = 3, .length = 8, .vocabulary = 32, .rows = true},
};
static const duel_options images = {
    .student_arch = "cnn:8-p-12-10,in=1,size=8,classes=4",
    .teacher_arch = "resnet20-cifar:in=1,size=8,classes=4",
    .data = {.batch = 2},
};
static const duel_options vectors = {
    .student_config = DUEL_BERT("BertModel", "16", "1", "2"),
    .teacher_config = DUEL_BERT("BertModel", "16", "2", "4"),
    .data = {.batch = 3, .length = 6, .vocabulary = 32, .rows = true},
};

/* ---- losses ---------------------------------------------------------------------------------- */

typedef struct loss_case {
    const char *losses;
    const duel_options *options;
    bool cosine, probabilities;
    pare_divergence divergence;
    pare_dtype compute;
    double tolerance; /* of gradients beside their RMS, and of the loss */
} loss_case;

static const loss_case cases[] = {
    {"kl", &tokens, .tolerance = 1e-4},
    {"kl", &rows, .divergence = PARE_DIVERGENCE_REVERSE, .tolerance = 1e-4},
    {"kl:1,ce:0.5", &tokens, .divergence = PARE_DIVERGENCE_JS, .tolerance = 1e-4},
    {"hidden", &tokens, .tolerance = 1e-4},
    {"hidden", &rows, .cosine = true, .tolerance = 1e-4},
    {"attention", &rows, .tolerance = 1e-4},
    {"attention", &tokens, .probabilities = true, .tolerance = 1e-4},
    {"relation", &tokens, .tolerance = 1e-4},
    {"relation", &rows, .tolerance = 1e-4},
    {"feature", &images, .tolerance = 1e-4},
    {"cosine", &vectors, .tolerance = 1e-4},
    {"kl,hidden,attention,relation", &tokens, .compute = PARE_BF16, .tolerance = 6e-2},
};

typedef struct outcome {
    float *gradients;
    int64_t count, units;
    double loss;
} outcome;

static outcome step(const loss_case *c, bool device)
{
    duel_options o = *c->options;
    o.losses = c->losses;
    o.distill.cosine = c->cosine;
    o.distill.probabilities = c->probabilities;
    o.distill.divergence = c->divergence;
    o.distill.temperature.from = 2;
    o.data.compute = c->compute;
    if (device)
        assert_ok(pare_cuda_create(0, &o.data.be));
    duel d = duel_make(&o);
    outcome out = {.loss = duel_step(&d)};
    out.units = d.count;
    out.gradients = duel_gradients(&d, &out.count);
    duel_free(&d);
    return out;
}

static void check_near(const outcome *cpu, const outcome *device, double tolerance)
{
    double square = 0, most = 0;
    assert_int_equal(cpu->count, device->count);
    assert_int_equal(cpu->units, device->units);
    for (int64_t i = 0; i < cpu->count; i++) {
        double apart = fabs((double)cpu->gradients[i] - (double)device->gradients[i]);
        square += (double)cpu->gradients[i] * (double)cpu->gradients[i];
        most = apart <= most ? most : apart;
    }
    double rms = sqrt(square / (double)cpu->count);
    print_message("  gradients differ by %.3g of their RMS, losses %.8g and %.8g\n", most / rms,
                  cpu->loss, device->loss);
    assert_true(most <= 10 * tolerance * rms);
    assert_true(fabs(cpu->loss - device->loss) <= tolerance * cpu->loss);
}

static void losses_are_near_those_of_the_cpu(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const loss_case *c = &cases[k];
        outcome device[ROUNDS], cpu = step(c, false);
        print_message("%s%s\n", c->losses, c->compute == PARE_BF16 ? " in bf16" : "");
        for (int round = 0; round < ROUNDS; round++) {
            set_mode(round);
            device[round] = step(c, true);
            check_near(&cpu, &device[round], c->tolerance);
            assert_memory_equal(device[0].gradients, device[round].gradients,
                                (size_t)cpu.count * sizeof *cpu.gradients);
            assert_memory_equal(&device[0].loss, &device[round].loss, sizeof cpu.loss);
        }
        for (int round = 0; round < ROUNDS; round++)
            free(device[round].gradients);
        free(cpu.gradients);
    }
}

/* ---- a teacher on disk ----------------------------------------------------------------------- */

/* The student's step from a cache that a teacher on the device, or on the CPU, has made. */
static outcome cached_step(bool device)
{
    duel_options o = tokens;
    train_fixture_options data = tokens.data;
    char path[4200];
    pare_cache_facts facts;
    pare_teacher_cache *cache = NULL;
    if (device) {
        assert_ok(pare_cuda_create(0, &data.be));
        assert_ok(pare_cuda_create(0, &o.data.be));
    }
    data.config = tokens.teacher_config;
    data.inference = true;
    train_fixture f = fixture_make(&data);
    duel_fill(f.be, f.model, 8);
    snprintf(path, sizeof path, "%s/teacher.h5", f.folder);
    assert_ok(pare_cache_make(f.sched,
                              &(pare_cache_options){.path = path,
                                                    .teacher = f.model,
                                                    .be = f.be,
                                                    .dataset = f.dataset,
                                                    .batch = 2,
                                                    .k = 5,
                                                    .temperature = 2,
                                                    .teacher_digest = "0"},
                              &facts));
    assert_ok(pare_cache_open(path, "0", f.dataset, 5, 2, &cache));
    o.cache = cache;
    o.losses = "kl";
    o.distill.temperature.from = 2;
    duel d = duel_make(&o);
    duel_batch(&d, 11, 2);
    outcome out = {.loss = duel_step(&d)};
    out.units = d.count;
    out.gradients = duel_gradients(&d, &out.count);
    duel_free(&d);
    pare_cache_close(&cache);
    fixture_free(&f);
    return out;
}

static void students_learn_from_a_cache_as_on_the_cpu(void **state)
{
    (void)state;
    outcome device[ROUNDS], cpu = cached_step(false);
    for (int round = 0; round < ROUNDS; round++) {
        set_mode(round);
        device[round] = cached_step(true);
        check_near(&cpu, &device[round], 2e-3); /* a value may round to another half */
        assert_memory_equal(device[0].gradients, device[round].gradients,
                            (size_t)cpu.count * sizeof *cpu.gradients);
    }
    for (int round = 0; round < ROUNDS; round++)
        free(device[round].gradients);
    free(cpu.gradients);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_near_those_of_the_cpu),
        cmocka_unit_test(students_learn_from_a_cache_as_on_the_cpu),
    };
    int devices;
    if (pare_cuda_count(&devices) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
