/* loss_cross_entropy.c - cross-entropy of labels or next tokens (start here to write your own
 * loss).
 *
 * loss = Σ −log softmax(logits)[label] over the rows that count (label ≥ 0), with label smoothing
 * (Szegedy 2016) and mixup's pairs of labels (Zhang 2018) as pare_cross_entropy has them.
 * d logits = softmax(logits) − target.
 *
 * A classifier's logits are the model's output. A model of tokens gives hidden states X [B·T, D];
 * its logits X·Wᵀ + b are made, measured and turned into their own gradient G a chunk of rows at a
 * time, then dX = G·W, dW += Gᵀ·X, db += Σ G: a vocabulary's worth of logits never stands whole in
 * memory. A chunk of rows none of which counts is passed over. Where X is BF16, W and G are rounded
 * to it once, not in each product. The losses of all rows come to the host at the end, at once.
 * Cost: three products of the head (one without training) and one pass over the logits.
 */
#include "train_impl.h"

#include "pare/ops.h"

/* What is known of every row. */
typedef struct results {
    float *loss;
    int32_t *rank;
    int64_t bytes;
} results;

/* How the scratch is used. */
typedef struct plan {
    results results;
    int64_t rows;     /* of a chunk */
    float *logits;    /* [rows, V], of TOKENS, then G; or G of a classifier after another loss */
    pare_tensor g, w; /* BF16 [rows, V] and [V, D], where X is BF16; else data NULL */
} plan;

static void *take(char *scratch, int64_t *at, int64_t bytes)
{
    void *part = scratch ? scratch + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return part;
}

/* Of so many rows, in the backend's memory or the host's. */
static results results_in(char *memory, int64_t rows)
{
    results r = {0};
    r.loss = take(memory, &r.bytes, rows * 4);
    r.rank = take(memory, &r.bytes, rows * 4);
    return r;
}

/* Bytes of scratch for so many rows: it begins with the results. */
static int64_t lay_out(pare_model *model, int64_t rows, bool halves, char *scratch, plan *p)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    p->results = results_in(scratch, rows);
    int64_t at = p->results.bytes, V = facts->classes;
    p->rows = pare__logit_rows(facts, rows);
    p->logits = take(scratch, &at, p->rows * V * 4);
    p->g = p->w = (pare_tensor){0};
    if (facts->output == PARE_OUTPUT_TOKENS && halves) {
        pare_param *bias = NULL, *head = pare_model_head(model, &bias);
        int64_t D = head->value.shape[1];
        p->g = pare_matrix(take(scratch, &at, p->rows * V * 2), PARE_BF16, p->rows, V);
        p->w = pare_matrix(take(scratch, &at, V * D * 2), PARE_BF16, V, D);
    }
    return at;
}

static int64_t plan_for(pare_model *model, const pare_model_shape *shape, plan *p)
{
    pare_batch largest = {.size = shape->batch, .length = shape->length};
    int64_t rows = pare__output_rows(pare_model_facts_of(model), &largest);
    return lay_out(model, rows, shape->training && shape->compute == PARE_BF16, NULL, p);
}

static int64_t cross_entropy_scratch(pare_model *model, const pare_model_shape *shape)
{
    plan p;
    return plan_for(model, shape, &p);
}

static int64_t cross_entropy_results(pare_model *model, const pare_model_shape *shape)
{
    plan p;
    plan_for(model, shape, &p);
    return p.results.bytes;
}

static bool any_counts(const int32_t *labels, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (labels[i] >= 0)
            return true;
    return false;
}

static pare_status tally(pare_loss_args *args, const plan *p, int64_t rows)
{
    const int32_t *labels = args->batch->labels;
    results r = args->results ? results_in(args->results, rows) : p->results;
    PARE_TRY(pare_backend_download(args->be, r.loss, p->results.loss, r.bytes));
    for (int64_t i = 0; i < rows; i++) {
        if (labels[i] < 0)
            continue;
        args->loss += (double)r.loss[i];
        args->count++;
        args->top1 += r.rank[i] < 1;
        args->top5 += r.rank[i] < 5;
    }
    return PARE_OK;
}

static pare_status measure(pare_loss_args *args, const plan *p, int64_t first, pare_tensor logits,
                           pare_tensor gradient)
{
    const pare_batch *batch = pare_model_batch(args->model);
    int64_t count = logits.shape[0];
    pare_cross_entropy_args ce = {
        .x = logits,
        .labels = pare_vector((void *)(uintptr_t)(batch->labels + first), PARE_I32, count),
        .loss = pare_vector(p->results.loss + first, PARE_F32, count),
        .rank = pare_vector(p->results.rank + first, PARE_I32, count),
        .dx = gradient,
        .smoothing = (float)args->smoothing,
        .grad_scale = (float)args->grad_scale};
    if (batch->labels2) {
        ce.labels2 = pare_vector((void *)(uintptr_t)(batch->labels2 + first), PARE_I32, count);
        ce.mix = pare_vector((void *)(uintptr_t)(batch->mix + first), PARE_F32, count);
    }
    PARE_TRY(pare_cross_entropy(args->be, &ce));
    return PARE_OK;
}

static pare_status of_classes(pare_loss_args *args, const plan *p, int64_t rows)
{
    pare_tensor logits, gradient = {0}, whole = {0};
    PARE_TRY(pare__logits(args->model, args->be, 0, rows, NULL, NULL, &logits));
    if (args->training) {
        whole = pare__rows_of(pare_model_output_grad(args->model), 0, rows);
        gradient = args->first ? whole : pare_matrix(p->logits, PARE_F32, rows, logits.shape[1]);
    }
    PARE_TRY(measure(args, p, 0, logits, gradient));
    if (args->training && !args->first)
        PARE_TRY(pare_add(args->be, &(pare_add_args){.a = whole, .b = gradient, .y = whole}));
    return PARE_OK;
}

/* dX, dW and db of a chunk whose logits have become their gradient G. */
static pare_status backward(pare_loss_args *args, const plan *p, int64_t first, pare_tensor g)
{
    pare_param *bias = NULL, *head = pare_model_head(args->model, &bias);
    int64_t count = g.shape[0];
    pare_tensor x = pare__rows_of(pare_model_output(args->model), first, count);
    pare_tensor dx = pare__rows_of(pare_model_output_grad(args->model), first, count);
    if (bias && bias->grad.data)
        PARE_TRY(pare_colsum(args->be,
                             &(pare_colsum_args){.x = g, .y = bias->grad, .accumulate = true}));
    if (p->g.data) {
        pare_tensor half = pare__rows_of(p->g, 0, count);
        PARE_TRY(pare_cast(args->be, &(pare_cast_args){.x = g, .y = half}));
        g = half;
    }
    PARE_TRY(pare_gemm(args->be, &(pare_gemm_args){.a = g,
                                                   .b = p->w.data ? p->w : head->value,
                                                   .c = dx,
                                                   .accumulate = !args->first}));
    if (head->grad.data)
        PARE_TRY(pare_gemm(
            args->be, &(pare_gemm_args){
                          .a = g, .b = x, .c = head->grad, .trans_a = true, .accumulate = true}));
    return PARE_OK;
}

static pare_status of_tokens(pare_loss_args *args, const plan *p, int64_t rows)
{
    pare_param *bias = NULL, *head = pare_model_head(args->model, &bias);
    if (p->w.data)
        PARE_TRY(pare_cast(args->be, &(pare_cast_args){.x = head->value, .y = p->w}));
    for (int64_t first = 0; first < rows; first += p->rows) {
        int64_t count = rows - first < p->rows ? rows - first : p->rows;
        pare_tensor logits;
        if (!any_counts(args->batch->labels + first, count)) {
            pare_tensor dx = pare_model_output_grad(args->model);
            if (args->training && args->first)
                PARE_TRY(
                    pare_fill(args->be, &(pare_fill_args){.y = pare__rows_of(dx, first, count)}));
            continue;
        }
        PARE_TRY(pare__logits(args->model, args->be, first, count, p->w.data ? &p->w : NULL,
                              p->logits, &logits));
        PARE_TRY(measure(args, p, first, logits, args->training ? logits : (pare_tensor){0}));
        if (args->training)
            PARE_TRY(backward(args, p, first, logits));
    }
    return PARE_OK;
}

static pare_status cross_entropy(pare_loss_args *args)
{
    const pare_model_facts *facts = pare_model_facts_of(args->model);
    int64_t rows = pare__output_rows(facts, args->batch);
    bool halves = args->training && pare_model_output(args->model).dtype == PARE_BF16;
    plan p;
    PARE_REQUIRE(args->batch->labels, PARE_ERR_ARGUMENT,
                 "cross-entropy needs labels, which the data has not");
    PARE_REQUIRE(facts->output != PARE_OUTPUT_VECTOR, PARE_ERR_ARGUMENT,
                 "cross-entropy needs a model of classes or tokens; this one gives embeddings");
    PARE_REQUIRE(lay_out(args->model, rows, halves, args->scratch, &p) <= args->scratch_size,
                 PARE_ERR_ARGUMENT, "cross-entropy of %lld rows needs a larger scratch",
                 (long long)rows);
    args->loss = 0;
    args->count = args->top1 = args->top5 = 0;
    if (facts->output == PARE_OUTPUT_TOKENS)
        PARE_TRY(of_tokens(args, &p, rows));
    else
        PARE_TRY(of_classes(args, &p, rows));
    return tally(args, &p, rows);
}

const pare_loss pare_loss_cross_entropy = {
    .name = "cross-entropy",
    .summary = "negative log-likelihood of labels, or of the next tokens",
    .scratch = cross_entropy_scratch,
    .results = cross_entropy_results,
    .run = cross_entropy};
