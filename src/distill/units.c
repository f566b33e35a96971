/* units.c - what of a batch counts, and how much: a token with a label is a unit, or a sample,
 * whose positions that are no padding share its one. */
#include "distill_impl.h"

#include "pare/ops.h"

static bool gives_tokens(const pare_loss_args *args)
{
    return pare_model_facts_of(args->model)->output == PARE_OUTPUT_TOKENS;
}

static bool is_key(const pare_batch *batch, int64_t i)
{
    return !batch->keys || batch->keys[i] != 0;
}

/* Of tokens: position i of all. Without labels every token is a unit that is no padding. */
static bool token_counts(const pare_batch *batch, int64_t i)
{
    return batch->labels ? batch->labels[i] >= 0 : is_key(batch, i);
}

/* A label of −1 leaves a classifier's sample out. */
static bool sample_counts(const pare_loss_args *args, int64_t b)
{
    const pare_batch *batch = args->batch;
    bool classes = pare_model_facts_of(args->model)->output == PARE_OUTPUT_CLASSES;
    return !classes || !batch->labels || batch->labels[b] >= 0;
}

bool pare__row_counts(const pare_loss_args *args, int64_t row)
{
    return gives_tokens(args) ? token_counts(args->batch, row) : sample_counts(args, row);
}

int64_t pare__units(const pare_loss_args *args)
{
    int64_t rows = pare_logits_rows(pare_model_facts_of(args->model), args->batch), count = 0;
    for (int64_t i = 0; i < rows; i++)
        count += pare__row_counts(args, i);
    return count;
}

/* Rows that a model puts before its tokens (a class token) have no label; they are read like any
 * other. */
static void weigh_sample(const pare_loss_args *args, int64_t b, int64_t rows, float *weights)
{
    const pare_batch *batch = args->batch;
    bool tokens = pare_model_facts_of(args->model)->tokens;
    int64_t T = tokens ? batch->length : rows, extra = rows - T, seen = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = b * T + i - extra;
        bool counts = i < extra || !tokens || is_key(batch, at);
        if (gives_tokens(args))
            counts = i >= extra && token_counts(batch, at);
        weights[i] = counts;
        seen += counts;
    }
    if (gives_tokens(args))
        return;
    float share = seen > 0 && sample_counts(args, b) ? 1.0f / (float)seen : 0.0f;
    for (int64_t i = 0; i < rows; i++)
        weights[i] *= share;
}

void pare__row_weights(const pare_loss_args *args, int64_t rows, float *weights)
{
    int64_t each = rows / args->batch->size;
    for (int64_t b = 0; b < args->batch->size; b++)
        weigh_sample(args, b, each, weights + b * each);
}

void pare__sample_weights(const pare_loss_args *args, float *weights)
{
    const pare_batch *batch = args->batch;
    for (int64_t b = 0; b < batch->size; b++) {
        int64_t tokens = 0;
        for (int64_t i = 0; i < batch->length && gives_tokens(args); i++)
            tokens += token_counts(batch, b * batch->length + i);
        weights[b] = gives_tokens(args) ? (float)tokens : (float)sample_counts(args, b);
    }
}

pare_tensor pare__row_labels(const pare_loss_args *args, int64_t first, int64_t count)
{
    const pare_batch *batch = pare_model_batch(args->model);
    bool vector = pare_model_facts_of(args->model)->output == PARE_OUTPUT_VECTOR;
    if (!batch->labels || vector)
        return (pare_tensor){0};
    return pare_vector((void *)(uintptr_t)(batch->labels + first), PARE_I32, count);
}

pare_status pare__loss_begin(pare_loss_args *args)
{
    PARE_REQUIRE(args->teacher, PARE_ERR_ARGUMENT,
                 "this loss needs a teacher that went forward with the batch");
    args->loss = 0;
    args->count = pare__units(args);
    args->top1 = args->top5 = 0;
    if (args->training && args->first) {
        pare_tensor grad = pare_model_output_grad(args->model);
        int64_t count = pare_tensor_count(&grad);
        grad = pare_vector(grad.data, grad.dtype, count);
        PARE_TRY(pare_fill(args->be, &(pare_fill_args){.y = grad, .value = 0}));
    }
    return PARE_OK;
}

int64_t pare__pair_rows(const pare__pair *pair, const pare_model *model, int64_t batch,
                        int64_t length)
{
    bool tokens = pare_model_facts_of(model)->tokens;
    return batch * (tokens ? length + pair->rows - 1 : pair->rows);
}
