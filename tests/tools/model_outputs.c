/* model_outputs.c - a checkpoint's outputs, or its gradients, for given inputs: what e2e tests hold
 * beside the same model in other software.
 *
 *   pare_model_outputs CHECKPOINT ARCH INPUTS.npy OUTPUTS.npy [KEYS.npy|- [GRADS.npy]]
 *
 * ARCH is as in --arch, or - where config.json decides. INPUTS are ids, I32 [B, T], or images, F32
 * [B, H, W, C], already normalised; KEYS, U8 [B, T], are 0 where a token is padding. OUTPUTS are
 * F32 [rows, columns]: logits [B·T, V] or [B, classes], or vectors [B, D].
 *
 * With GRADS the model runs as in training, without dropout; outputs are the last node's (hidden
 * states where the head is apart), output i gets the gradient (7919·i mod 1009)/1009 − 1/2, and
 * GRADS, [1, n], holds those of all parameters that learn, in the order that is printed.
 *
 * Prints one line of facts as JSON.
 */
#include "pare/pare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    pare_store *store;
    pare_backend *be;
    pare_model *model;
    pare_array *inputs, *keys;
    pare_npy_writer *outputs;
    void *in_values, *key_values;
    float *logits;
    bool training;
} job;

#define TRY(call)                                                                                  \
    do {                                                                                           \
        pare_status try_ = (call);                                                                 \
        if (try_ != PARE_OK)                                                                       \
            return try_;                                                                           \
    } while (0)

/* A whole array of this dtype. */
static pare_status read_array(const char *path, pare_dtype dtype, int rank, pare_array **array,
                              void **values)
{
    TRY(pare_array_open(path, NULL, array));
    const pare_tensor *t = pare_array_tensor(*array);
    if (t->dtype != dtype || t->rank != rank) {
        fprintf(stderr, "%s: wrong type or rank\n", path);
        return PARE_ERR_ARGUMENT;
    }
    int64_t count = pare_tensor_count(t);
    *values = malloc((size_t)count * 4 + 1);
    return *values ? pare_array_read(*array, 0, count, *values) : PARE_ERR_MEMORY;
}

static pare_status write_array(job *j, const char *path, const float *values, int64_t rows,
                               int64_t cols)
{
    TRY(pare_npy_create(path, rows, cols, true, &j->outputs));
    TRY(pare_npy_add(j->outputs, values, rows));
    TRY(pare_npy_finish(j->outputs));
    pare_npy_free(&j->outputs);
    return PARE_OK;
}

static pare_status make_batch(job *j, const char *inputs, const char *keys, pare_batch *batch)
{
    bool tokens = pare_model_facts_of(j->model)->tokens;
    TRY(read_array(inputs, tokens ? PARE_I32 : PARE_F32, tokens ? 2 : 4, &j->inputs,
                   &j->in_values));
    const int64_t *shape = pare_array_tensor(j->inputs)->shape;
    batch->size = shape[0];
    batch->length = tokens ? shape[1] : 0;
    batch->ids = tokens ? j->in_values : NULL;
    batch->images = tokens ? NULL : j->in_values;
    if (keys && strcmp(keys, "-") != 0)
        TRY(read_array(keys, PARE_U8, 2, &j->keys, &j->key_values));
    batch->keys = j->key_values;
    return PARE_OK;
}

/* Hidden states through the head, where the model leaves that to its user. */
static pare_status head(job *j, pare_tensor *y)
{
    pare_param *bias, *weight = pare_model_head(j->model, &bias);
    const pare_tensor *w = &weight->value;
    int64_t rows = pare_tensor_count(y) / w->shape[1];
    j->logits = malloc((size_t)(rows * w->shape[0]) * sizeof(float));
    if (!j->logits)
        return PARE_ERR_MEMORY;
    pare_tensor out = pare_matrix(j->logits, PARE_F32, rows, w->shape[0]);
    pare_gemm_args args = {
        .a = pare_matrix(y->data, y->dtype, rows, w->shape[1]), .b = *w, .c = out, .trans_b = true};
    if (bias)
        args.bias = bias->value;
    *y = out;
    return pare_gemm(j->be, &args);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* Gradients of all that learns, one after the other; copied to values if there is room, counted. */
static int64_t gather(pare_model *model, float *values)
{
    int64_t n = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        int64_t count = pare_tensor_count(&p->value);
        if (!p->grad.data)
            continue;
        if (values)
            memcpy(values + n, p->grad.data, (size_t)count * sizeof *values);
        n += count;
    }
    return n;
}

static pare_status backward(job *j, const char *path)
{
    pare_tensor dy = pare_model_output_grad(j->model);
    float *values = dy.data;
    int64_t n = pare_tensor_count(&dy);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(7919 * i % 1009) / 1009.0f - 0.5f;
    TRY(pare_model_clear_grads(j->model));
    TRY(pare_model_backward(j->model));
    n = gather(j->model, NULL);
    j->logits = malloc((size_t)n * sizeof(float));
    if (!j->logits)
        return PARE_ERR_MEMORY;
    gather(j->model, j->logits);
    return write_array(j, path, j->logits, 1, n);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static pare_status run(job *j, int argc, char **argv)
{
    pare_batch batch = {0};
    j->training = argc > 6;
    TRY(pare_store_open(argv[1], &j->store));
    TRY(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &j->be));
    TRY(pare_model_create(&(pare_model_options){.arch = strcmp(argv[2], "-") == 0 ? NULL : argv[2],
                                                .config = pare_store_config(j->store),
                                                .store = j->store},
                          &j->model));
    TRY(make_batch(j, argv[3], argc > 5 ? argv[5] : NULL, &batch));
    TRY(pare_model_prepare(j->model, j->be,
                           &(pare_model_shape){.batch = batch.size,
                                               .length = batch.length,
                                               .training = j->training,
                                               .compute = PARE_F32}));
    TRY(pare_model_load(j->model, j->store, true));
    TRY(pare_model_forward(j->model, &batch, j->training, NULL));
    pare_tensor y = pare_model_output(j->model);
    if (pare_model_facts_of(j->model)->output == PARE_OUTPUT_TOKENS && !j->training)
        TRY(head(j, &y));
    int64_t cols = y.shape[y.rank - 1];
    TRY(write_array(j, argv[4], y.data, pare_tensor_count(&y) / cols, cols));
    return j->training ? backward(j, argv[6]) : PARE_OK;
}

static void print_facts(pare_model *model)
{
    const pare_model_facts *f = pare_model_facts_of(model);
    int64_t trained = 0, masked = 0;
    const char *comma = "";
    printf("{\"tensors\": [");
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        trained += p->buffer ? 0 : pare_tensor_count(&p->value);
        masked += p->mask != NULL;
        if (!p->buffer)
            printf("%s[\"%s\", %lld, %s]", comma, p->name, (long long)pare_tensor_count(&p->value),
                   p->transposed ? "true" : "false");
        comma = p->buffer ? comma : ", ";
    }
    printf("], \"family\": \"%s\", \"classes\": %lld, \"parameters\": %lld, \"masks\": %lld, "
           "\"max_length\": %lld, \"config\": %s}\n",
           f->family, (long long)f->classes, (long long)trained, (long long)masked,
           (long long)f->max_length, pare_model_config(model));
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 7) {
        fprintf(stderr,
                "usage: %s CHECKPOINT ARCH|- INPUTS.npy OUTPUTS.npy [KEYS.npy|- [GRADS.npy]]\n",
                argv[0]);
        return 2;
    }
    job j = {0};
    pare_status status = run(&j, argc, argv);
    if (status == PARE_OK)
        print_facts(j.model);
    else
        fprintf(stderr, "%s: %s\n", pare_status_name(status), pare_last_error());
    pare_npy_free(&j.outputs);
    pare_array_close(&j.inputs);
    pare_array_close(&j.keys);
    pare_model_free(&j.model);
    pare_backend_free(&j.be);
    pare_store_close(&j.store);
    free(j.in_values);
    free(j.key_values);
    free(j.logits);
    return pare_status_exit_code(status);
}
