/* arch_sample.c - one small model of every architecture and variant, with values and a batch. */
#include "arch_sample.h"

#include "pare/backend.h"

#include <math.h>

#define LLAMA(type_, more_)                                                                        \
    "{\"model_type\": \"" type_                                                                    \
    "\", \"vocab_size\": 29, \"hidden_size\": 16, \"intermediate_size\": 24, "                     \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "           \
    "\"head_dim\": 4, \"max_position_embeddings\": 6" more_ "}"
#define BERT(type_, class_)                                                                        \
    "{\"model_type\": \"" type_ "\", \"architectures\": [\"" class_                                \
    "\"], \"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "             \
    "\"intermediate_size\": 24, \"vocab_size\": 29, \"max_position_embeddings\": 16, "             \
    "\"num_labels\": 4, \"pad_token_id\": 0}"
#define VIT(type_, class_)                                                                         \
    "{\"model_type\": \"" type_ "\", \"architectures\": [\"" class_                                \
    "\"], \"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "             \
    "\"intermediate_size\": 24, \"image_size\": 8, \"patch_size\": 4, \"num_channels\": 1, "       \
    "\"num_labels\": 4}"

const arch_sample arch_samples[] = {
    {"llama", NULL,
     LLAMA("llama", ", \"tie_word_embeddings\": true, \"rope_scaling\": {\"rope_type\": "
                    "\"dynamic\", \"factor\": 4}"),
     4},
    {"llama with biases", NULL,
     LLAMA("llama", ", \"attention_bias\": true, \"mlp_bias\": true, "
                    "\"rope_scaling\": {\"rope_type\": \"linear\", "
                    "\"factor\": 2}"),
     4},
    {"mistral", NULL,
     LLAMA("mistral", ", \"sliding_window\": 3, \"rope_scaling\": {\"rope_type\": "
                      "\"linear\", \"factor\": 2}"),
     4},
    {"qwen2", NULL, LLAMA("qwen2", ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}"),
     4},
    {"qwen3", NULL,
     LLAMA("qwen3", ", \"tie_word_embeddings\": true, \"rope_scaling\": {\"rope_type\": "
                    "\"linear\", \"factor\": 2}"),
     4},
    {"gpt2", NULL,
     "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 2, \"n_positions\": "
     "16, \"vocab_size\": 29}",
     4},
    {"bert", NULL, BERT("bert", "BertForSequenceClassification"), 5},
    {"bert that gives a vector", NULL, BERT("bert", "BertModel"), 4},
    {"roberta", NULL, BERT("roberta", "RobertaForSequenceClassification"), 5},
    {"distilbert", NULL,
     "{\"model_type\": \"distilbert\", \"architectures\": "
     "[\"DistilBertForSequenceClassification\"], \"dim\": 16, \"n_layers\": 1, \"n_heads\": 2, "
     "\"hidden_dim\": 24, \"vocab_size\": 29, \"max_position_embeddings\": 16}",
     3},
    {"vit", NULL, VIT("vit", "ViTForImageClassification"), 5},
    {"deit with a pooler", NULL, VIT("deit", "DeiTModel"), 6},
    {"vit_plain", "vit:patch=4,dim=16,depth=2,heads=2,in=1,size=8,classes=4", NULL, 5},
    {"resnet20", "resnet20-cifar:in=1,size=8,classes=4", NULL, 10},
    {"resnet18", "resnet18:in=1,size=32,classes=4", NULL, 9},
    {"resnet8-tiny", "resnet8-tiny:in=1,size=8,classes=4", NULL, 4},
    {"mlp", "mlp:64-16-12-4", NULL, 2},
    {"mlp with gelu", "mlp:64-16-12-4,act=gelu,dropout=0.1", NULL, 2},
    {"mlp of one layer", "mlp:64-4", NULL, 1},
    {"cnn", "cnn:8-p-12-10,in=1,size=8,classes=4,dropout=0.1", NULL, 3},
    {NULL, NULL, NULL, 0},
};

float arch_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (float)((z ^ z >> 31) >> 40) * 0x1p-23f - 1;
}

/* Around 1 for scales and variances, of the size that keeps a sum's for matrices. */
static void fill(pare_backend *be, const pare_param *p, uint64_t *state)
{
    int64_t count = pare_tensor_count(&p->value), rows, cols;
    pare_shape_matrix(p->value.rank, p->value.shape, &rows, &cols);
    bool scale = p->role == PARE_ROLE_NORM || strstr(p->name, "running_var");
    float size =
        p->value.rank == 1 || p->role == PARE_ROLE_EMBEDDING ? 0.3f : 1.7f / sqrtf((float)cols);
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (scale ? 1.0f : 0.0f) + size * arch_random(state);
    assert_ok(pare_backend_upload(be, p->value.data, values, count * (int64_t)sizeof *values));
    free(values);
}

static void fill_batch(arch_run *run, uint64_t *state, pare_dtype compute)
{
    const pare_model_facts *facts = pare_model_facts_of(run->model);
    int64_t B = ARCH_SAMPLE_BATCH, T = facts->tokens ? ARCH_SAMPLE_LENGTH : 0;
    run->shape = (pare_model_shape){.batch = B, .length = T, .compute = compute};
    int64_t pixels = facts->height * facts->width * facts->channels;
    run->batch = (pare_batch){.size = B, .length = T};
    if (!facts->tokens) {
        run->images = malloc((size_t)(B * pixels) * sizeof *run->images);
        for (int64_t i = 0; i < B * pixels; i++)
            run->images[i] = 2 * arch_random(state);
        run->batch.images = run->images;
        return;
    }
    run->ids = malloc((size_t)(B * T) * sizeof *run->ids);
    run->keys = malloc((size_t)(B * T));
    for (int64_t i = 0; i < B * T; i++) {
        run->ids[i] = (int32_t)((arch_random(state) + 1) / 2 * (float)facts->vocabulary);
        run->keys[i] = i % T < T - 2 * (i / T);
    }
    run->batch.ids = run->ids;
    run->batch.keys = run->keys;
}

void arch_run_batch(arch_run *run, pare_dtype compute)
{
    uint64_t state = 1;
    fill_batch(run, &state, compute);
}

arch_run arch_run_make(const arch_sample *sample, pare_backend *be, pare_dtype compute)
{
    arch_run run = {.be = be};
    uint64_t state = 1;
    assert_ok(pare_model_create(
        &(pare_model_options){.arch = sample->arch, .config = sample->config}, &run.model));
    fill_batch(&run, &state, compute);
    assert_ok(pare_model_prepare(run.model, be, &run.shape));
    for (int64_t i = 0; i < pare_model_param_count(run.model); i++)
        fill(be, pare_model_param(run.model, i), &state);
    return run;
}

void arch_run_free(arch_run *run)
{
    pare_model_free(&run->model);
    pare_backend_free(&run->be);
    free(run->ids);
    free(run->keys);
    free(run->images);
}

void *arch_copy(pare_backend *be, pare_tensor t, size_t *bytes)
{
    *bytes = (size_t)(pare_tensor_count(&t) * (pare_dtype_bits(t.dtype) / 8));
    void *copy = malloc(*bytes + 1);
    assert_ok(pare_backend_download(be, copy, t.data, (int64_t)*bytes));
    return copy;
}

void arch_give_values(pare_model *whole, pare_model *block)
{
    for (int64_t i = 0; i < pare_model_param_count(block); i++) {
        pare_param *to = pare_model_param(block, i), *from = NULL;
        for (int64_t k = 0; k < pare_model_param_count(whole) && !from; k++)
            if (strcmp(pare_model_param(whole, k)->name, to->name) == 0)
                from = pare_model_param(whole, k);
        assert_non_null(from);
        int64_t rows, cols;
        pare_shape_matrix(from->value.rank, from->value.shape, &rows, &cols);
        assert_ok(
            pare_model_set_value(block, i, pare_matrix(from->value.data, PARE_F32, rows, cols)));
    }
}
