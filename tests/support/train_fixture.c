/* train_fixture.c - small data and models for the tests of src/train. */
#include "train_fixture.h"

static uint32_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void write_file(const char *path, const void *head, size_t head_size, const void *bytes,
                       size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(head, 1, head_size, file), head_size);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void idx_head(uint8_t *head, int rank, const int64_t *shape)
{
    memcpy(head, (uint8_t[]){0, 0, 8, (uint8_t)rank}, 4);
    for (int d = 0; d < rank; d++)
        for (int b = 0; b < 4; b++)
            head[4 + 4 * d + b] = (uint8_t)(shape[d] >> (24 - 8 * b));
}

const char *fixture_images(const char *folder, int64_t count, bool labels)
{
    static char path[4096];
    char side[4160];
    uint8_t head[16];
    const int64_t side_length = FIXTURE_SIDE, pixels = side_length * side_length;
    uint8_t *images = malloc((size_t)(count * pixels)), *classes = malloc((size_t)count);
    uint64_t state = 7;
    for (int64_t i = 0; i < count; i++) {
        classes[i] = (uint8_t)(next(&state) % FIXTURE_CLASSES);
        for (int64_t p = 0; p < pixels; p++)
            images[i * pixels + p] =
                (uint8_t)((p % FIXTURE_CLASSES == classes[i] ? 120 : 40) + next(&state) % 100);
    }
    snprintf(path, sizeof path, "%s/%s-images-idx3-ubyte", folder, labels ? "some" : "bare");
    idx_head(head, 3, (int64_t[]){count, side_length, side_length});
    write_file(path, head, 16, images, (size_t)(count * pixels));
    if (labels) {
        snprintf(side, sizeof side, "%s/some-labels-idx1-ubyte", folder);
        idx_head(head, 1, &count);
        write_file(side, head, 8, classes, (size_t)count);
    }
    free(images);
    free(classes);
    return path;
}

const char *fixture_tokens(const char *folder, int64_t count, int vocabulary)
{
    static char path[4096];
    uint16_t *tokens = malloc((size_t)count * 2);
    uint64_t state = 5;
    uint32_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        at = (at + 1 + next(&state) % 3) % (uint32_t)vocabulary;
        tokens[i] = (uint16_t)at;
    }
    snprintf(path, sizeof path, "%s/tokens.u16", folder);
    write_file(path, "", 0, tokens, (size_t)count * 2);
    free(tokens);
    return path;
}

const char *fixture_rows(const char *folder, int64_t count, int64_t length, int vocabulary,
                         const char **labels)
{
    static char path[4096], side[4096];
    uint16_t *tokens = calloc((size_t)(count * length), 2);
    uint8_t *classes = malloc((size_t)count);
    uint64_t state = 11;
    for (int64_t i = 0; i < count; i++) {
        int64_t end = 2 + next(&state) % (uint32_t)(length - 1);
        classes[i] = (uint8_t)(next(&state) % FIXTURE_CLASSES);
        for (int64_t t = 0; t < end; t++)
            tokens[i * length + t] =
                (uint16_t)(1 + (classes[i] + 4 * next(&state)) % (uint32_t)(vocabulary - 1));
    }
    snprintf(path, sizeof path, "%s/rows.u16", folder);
    write_file(path, "", 0, tokens, (size_t)(count * length) * 2);
    snprintf(side, sizeof side, "%s/rows-labels.u8", folder);
    write_file(side, "", 0, classes, (size_t)count);
    free(tokens);
    free(classes);
    *labels = side;
    return path;
}

pare_model *fixture_model(const train_fixture *f, const train_fixture_options *o, uint64_t seed)
{
    pare_model *model = NULL;
    const char *arch = o->arch || o->config ? o->arch : "mlp:64-16-4";
    assert_ok(pare_model_create(&(pare_model_options){.arch = arch, .config = o->config}, &model));
    if (o->freeze)
        assert_ok(pare_train_freeze(model, o->freeze));
    assert_ok(pare_model_prepare(model, f->be, &f->shape));
    assert_ok(pare_model_init(model, seed));
    return model;
}

static void open_data(train_fixture *f, const train_fixture_options *o)
{
    pare_data_options data = {.pad_id = -1, .bos_id = -1, .shuffle = o->shuffle, .seed = 3};
    int64_t samples = o->samples ? o->samples : o->length ? 40 : 96;
    if (o->length) {
        int vocabulary = o->vocabulary ? o->vocabulary : 32;
        if (o->rows) {
            data.path = fixture_rows(f->folder, samples, o->length, vocabulary, &data.labels);
            data.pad_id = 0;
        } else {
            data.path = fixture_tokens(f->folder, samples * o->length + 1, vocabulary);
        }
        data.tokens = true;
        data.seq_len = o->length;
        data.vocabulary = vocabulary;
    } else {
        data.path = fixture_images(f->folder, samples, !o->unlabelled);
        data.scale = 1 / 255.0f;
        data.mixup = o->mixup;
        data.mean[0] = 0.4f;
        data.std[0] = 0.3f;
    }
    assert_ok(pare_dataset_open(&data, &f->dataset));
}

train_fixture fixture_make(const train_fixture_options *options)
{
    train_fixture f = {.folder = test_folder_make()};
    f.be = options->be;
    if (!f.be)
        assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &f.be));
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 2}, &f.sched));
    f.shape = (pare_model_shape){.batch = options->batch ? options->batch : 16,
                                 .length = options->length,
                                 .training = !options->inference,
                                 .compute = options->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    open_data(&f, options);
    f.model = fixture_model(&f, options, 1);
    return f;
}

void fixture_free(train_fixture *fixture)
{
    pare_model_free(&fixture->model);
    pare_dataset_close(&fixture->dataset);
    pare_sched_free(&fixture->sched);
    pare_backend_free(&fixture->be);
    test_folder_remove(fixture->folder);
}

float *fixture_values(pare_model *model, int64_t *count)
{
    *count = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        *count += pare_tensor_count(&pare_model_param(model, i)->value);
    float *values = malloc((size_t)*count * 4), *at = values;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        int rank;
        int64_t shape[PARE_MAX_RANK], rows, cols;
        pare_model_stored_shape(model, i, &rank, shape);
        pare_shape_matrix(rank, shape, &rows, &cols);
        assert_ok(pare_model_read_rows(model, i, 0, rows, at));
        at += rows * cols;
    }
    return values;
}

pare_param *fixture_param(pare_model *model, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count(model); i++)
        if (strcmp(pare_model_param(model, i)->name, name) == 0)
            return pare_model_param(model, i);
    fail_msg("there is no parameter %s", name);
    return NULL;
}

pare_batch *fixture_batch(const train_fixture *f, int64_t first, int64_t size)
{
    pare_batch *batch = NULL;
    assert_ok(pare_batch_create(f->dataset, size, &batch));
    assert_ok(pare_dataset_fill(f->dataset, first, size, batch));
    return batch;
}
