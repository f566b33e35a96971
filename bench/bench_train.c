/* bench_train.c - seconds of a forward and of a training step of three models, on random data:
 *
 *     pare_bench_train CASE f32|bf16 [THREADS [STEPS]]
 *
 * CASE: resnet20 (batch 128, 32 × 32, SGD), encoder (6 × 384, batch 16, 128 tokens, AdamW), llama
 * (8 × 512, batch 8, 256 tokens, AdamW); distill (the encoder learns from one of 12 × 768: KL at
 * temperature 2 and cross-entropy of 10 classes), distill-llama (the llama from another like it: KL
 * over the vocabulary). A step is all of it: batch, forward (of the teacher too), loss, backward,
 * optimiser. Prints one JSON object. bench/peers/train_side_by_side.py sets it beside PyTorch.
 */
#include "pare/pare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_STEPS 256
#define WARM 3

static const char encoder_config[] =
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "
    "\"hidden_size\": 384, \"num_hidden_layers\": 6, \"num_attention_heads\": 12, "
    "\"intermediate_size\": 1536, \"vocab_size\": 30522, \"max_position_embeddings\": 512, "
    "\"type_vocab_size\": 2, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-12, "
    "\"hidden_dropout_prob\": 0.0, \"attention_probs_dropout_prob\": 0.0, \"num_labels\": 10}";
static const char teacher_config[] =
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "
    "\"hidden_size\": 768, \"num_hidden_layers\": 12, \"num_attention_heads\": 12, "
    "\"intermediate_size\": 3072, \"vocab_size\": 30522, \"max_position_embeddings\": 512, "
    "\"type_vocab_size\": 2, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-12, "
    "\"hidden_dropout_prob\": 0.0, \"attention_probs_dropout_prob\": 0.0, \"num_labels\": 10}";
static const char llama_config[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 512, "
    "\"num_hidden_layers\": 8, \"num_attention_heads\": 8, \"num_key_value_heads\": 8, "
    "\"intermediate_size\": 1376, \"vocab_size\": 32000, \"max_position_embeddings\": 256, "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
    "\"tie_word_embeddings\": true}";

typedef struct bench_case {
    const char *name, *arch, *config;
    int64_t batch, length, classes, vocabulary;
    pare_optimiser optimiser;
    const char *teacher;  /* its config, or NULL */
    double cross_entropy; /* weight beside KL */
} bench_case;

static const bench_case cases[] = {
    {"resnet20", "resnet20-cifar", NULL, 128, 0, 10, 0, PARE_SGD, NULL, 0},
    {"encoder", NULL, encoder_config, 16, 128, 10, 30522, PARE_ADAMW, NULL, 0},
    {"llama", NULL, llama_config, 8, 256, 0, 32000, PARE_ADAMW, NULL, 0},
    {"distill", NULL, encoder_config, 16, 128, 10, 30522, PARE_ADAMW, teacher_config, 1},
    {"distill-llama", NULL, llama_config, 8, 256, 0, 32000, PARE_ADAMW, llama_config, 0},
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(pare_status status)
{
    if (status == PARE_OK)
        return;
    fprintf(stderr, "%s\n", pare_last_error());
    exit(1);
}

/* ---- random data ----------------------------------------------------------------------------- */

static FILE *create(const char *folder, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        perror(path), exit(1);
    return file;
}

static unsigned random_below(unsigned bound)
{
    return (unsigned)rand() % bound;
}

/* Files of eight batches; the options that open them. */
static pare_data_options make_data(const bench_case *c, const char *folder, char path[512],
                                   char labels[512])
{
    int64_t samples = 8 * c->batch;
    pare_data_options o = {.path = path,
                           .tokens = c->length > 0,
                           .pad_id = -1,
                           .bos_id = -1,
                           .seq_len = c->length,
                           .vocabulary = c->vocabulary,
                           .classes = c->classes,
                           .shuffle = true,
                           .height = 32,
                           .width = 32,
                           .channels = 3,
                           .scale = 1.0f / 255};
    FILE *file = create(folder, c->length ? "data.u16" : "data.bin", path);
    for (int64_t i = 0; c->length && i < samples * c->length + 1; i++) {
        uint16_t id = (uint16_t)random_below((unsigned)c->vocabulary);
        fwrite(&id, 2, 1, file);
    }
    for (int64_t i = 0; !c->length && i < samples; i++) {
        fputc((int)random_below(10), file);
        for (int k = 0; k < 3072; k++)
            fputc((int)random_below(256), file);
    }
    fclose(file);
    if (c->length && c->classes) {
        file = create(folder, "labels.u8", labels);
        for (int64_t i = 0; i < samples; i++)
            fputc((int)random_below((unsigned)c->classes), file);
        fclose(file);
        if (truncate(path, samples * c->length * 2) != 0) /* rows, not windows */
            perror(path), exit(1);
        o.labels = labels;
    }
    return o;
}

/* ---- measuring ------------------------------------------------------------------------------- */

typedef struct steps {
    double at[MAX_STEPS + 1];
    int count;
} steps;

static pare_status note_step(void *user, pare_trainer *trainer, const pare_train_state *state)
{
    steps *s = user;
    (void)trainer, (void)state;
    if (s->count <= MAX_STEPS)
        s->at[s->count++] = now();
    return PARE_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *list, int count)
{
    qsort(list, (size_t)count, sizeof *list, by_value);
    return list[count / 2];
}

/* Rate of a product of 1024³, the machine's own measure in the same minute. */
static double product_rate(pare_backend *be, pare_dtype compute)
{
    enum { N = 1024 };
    float *memory = calloc(3 * (size_t)N * N, sizeof *memory);
    double list[9];
    if (!memory)
        exit(1);
    pare_gemm_args args = {.a = pare_matrix(memory, compute, N, N),
                           .b = pare_matrix(memory + (size_t)N * N, compute, N, N),
                           .c = pare_matrix(memory + 2 * (size_t)N * N, PARE_F32, N, N)};
    check(pare_gemm(be, &args));
    for (int i = 0; i < 9; i++) {
        double begin = now();
        check(pare_gemm(be, &args));
        list[i] = now() - begin;
    }
    free(memory);
    return 2.0 * N * N * N / median(list, 9);
}

static double measure_forward(pare_model *model, const pare_dataset *data, int64_t batch_size,
                              int count)
{
    pare_batch *batch = NULL;
    double list[MAX_STEPS];
    check(pare_batch_create(data, batch_size, &batch));
    check(pare_dataset_fill(data, 0, batch_size, batch));
    for (int i = -WARM; i < count; i++) {
        double begin = now();
        check(pare_model_forward(model, batch, false, NULL));
        if (i >= 0)
            list[i] = now() - begin;
    }
    pare_batch_free(&batch);
    return median(list, count);
}

/* Of the nodes alone: a decoder's head is the loss's. */
static double forward_flops(const pare_model *model)
{
    double flops = 0;
    for (int64_t i = 0; i < pare_model_node_count(model); i++)
        flops += pare_model_node(model, i).flops;
    return flops;
}

/* What the student learns from, and its teacher, ready. */
typedef struct lesson {
    pare_model *teacher;
    pare_distill *distill;
    const pare_loss_term *terms;
    size_t count;
    double flops; /* of the teacher's forward */
} lesson;

static void begin_lesson(const bench_case *c, pare_model *student, lesson *l)
{
    pare_distill_options options = {.temperature = {.from = 2}};
    *l = (lesson){0};
    if (!c->teacher)
        return;
    options.weight[PARE_DISTILL_KL].from = 1;
    options.weight[PARE_DISTILL_CE].from = c->cross_entropy;
    check(pare_model_create(&(pare_model_options){.config = c->teacher}, &l->teacher));
    check(pare_distill_create(&options, student, l->teacher, NULL, &l->distill));
}

static void prepare_lesson(lesson *l, pare_backend *be, pare_model_shape shape)
{
    pare_model_memory memory;
    if (!l->teacher)
        return;
    shape.training = false;
    check(pare_model_predict(l->teacher, &shape, &memory));
    l->flops = memory.flops;
    check(pare_model_prepare(l->teacher, be, &shape));
    check(pare_model_init(l->teacher, 2));
    check(pare_distill_terms(l->distill, be, 1, &l->terms, &l->count));
}

static double measure_step(const bench_case *c, pare_model *model, const lesson *l,
                           pare_backend *be, const pare_dataset *data, pare_dtype compute,
                           int threads, int count)
{
    pare_train_options options = {.optimiser = c->optimiser,
                                  .curve = {.kind = PARE_SCHEDULE_CONSTANT,
                                            .rate = c->optimiser == PARE_SGD ? 0.01 : 1e-4,
                                            .steps = count + WARM + 1},
                                  .batch = c->batch,
                                  .momentum = 0.9,
                                  .decay = 1e-4,
                                  .compute = compute};
    pare_sched *sched = NULL;
    pare_trainer *trainer = NULL;
    steps s = {.count = 0};
    double list[MAX_STEPS];
    check(pare_sched_create(&(pare_sched_options){.threads = threads}, &sched));
    check(pare_trainer_create(&(pare_train_setup){.options = &options,
                                                  .model = model,
                                                  .be = be,
                                                  .dataset = data,
                                                  .terms = l->terms,
                                                  .term_count = l->count,
                                                  .teacher = l->teacher},
                              &trainer));
    check(pare_trainer_run(trainer, sched, &(pare_train_callbacks){note_step, &s}));
    for (int i = 0; i < count; i++)
        list[i] = s.at[WARM + i + 1] - s.at[WARM + i];
    pare_trainer_free(&trainer);
    pare_sched_free(&sched);
    return median(list, count);
}

int main(int argc, char **argv)
{
    const bench_case *c = NULL;
    for (size_t i = 0; argc > 2 && i < sizeof cases / sizeof *cases; i++)
        if (strcmp(argv[1], cases[i].name) == 0)
            c = &cases[i];
    if (!c) {
        fprintf(
            stderr,
            "usage: %s resnet20|encoder|llama|distill|distill-llama f32|bf16 [THREADS [STEPS]]\n",
            argv[0]);
        return 2;
    }
    pare_dtype compute = strcmp(argv[2], "bf16") == 0 ? PARE_BF16 : PARE_F32;
    int threads = argc > 3 ? atoi(argv[3]) : pare_cpu_count(), count = argc > 4 ? atoi(argv[4]) : 9;
    count = count < 1 ? 1 : count > MAX_STEPS - WARM - 1 ? MAX_STEPS - WARM - 1 : count;
    char folder[] = "/tmp/pare-bench-XXXXXX", path[512] = "", labels[512] = "";
    pare_backend *be = NULL;
    pare_model *model = NULL;
    pare_dataset *data = NULL;
    if (!mkdtemp(folder))
        perror(folder), exit(1);
    pare_data_options options = make_data(c, folder, path, labels);
    check(pare_cpu_create(&(pare_cpu_options){.threads = threads}, &be));
    check(pare_dataset_open(&options, &data));
    check(pare_model_create(&(pare_model_options){.arch = c->arch, .config = c->config}, &model));
    pare_model_shape shape = {.batch = c->batch, .length = c->length, .compute = compute};
    pare_model_memory memory;
    lesson l;
    begin_lesson(c, model, &l);
    check(pare_model_predict(model, &shape, &memory));
    check(pare_model_prepare(model, be, &shape));
    check(pare_model_init(model, 1));
    double forward = measure_forward(model, data, c->batch, count);
    shape.training = true;
    check(pare_model_prepare(model, be, &shape));
    check(pare_model_init(model, 1));
    prepare_lesson(&l, be, shape);
    double step = measure_step(c, model, &l, be, data, compute, threads, count);
    double peak = product_rate(be, compute);
    printf("{\"program\": \"pare\", \"case\": \"%s\", \"compute\": \"%s\", \"threads\": %d, "
           "\"forward_seconds\": %.6f, \"step_seconds\": %.6f, \"flops\": %.6g, "
           "\"forward_gflops\": %.1f, \"step_gflops\": %.1f, \"product_gflops\": %.1f, "
           "\"peak_memory\": %lld}\n",
           c->name, argv[2], threads, forward, step, memory.flops + l.flops / 3,
           forward_flops(model) / forward * 1e-9, (3 * memory.flops + l.flops) / step * 1e-9,
           peak * 1e-9, (long long)pare_memory_peak());
    pare_distill_free(&l.distill);
    pare_model_free(&l.teacher);
    pare_model_free(&model);
    pare_dataset_close(&data);
    pare_backend_free(&be);
    remove(path);
    remove(labels);
    rmdir(folder);
    return 0;
}
