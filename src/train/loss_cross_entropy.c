/* loss_cross_entropy.c - cross-entropy of labels or next tokens (start here to write your own
 * loss).
 *
 * loss = Σ −log softmax(logits)[label] over the rows that count (label ≥ 0), with label smoothing
 * (Szegedy 2016) and mixup's pairs of labels (Zhang 2018) as pare_cross_entropy has them.
 * d logits = softmax(logits) − target.
 *
 * The logits come some rows at a time (logits.c). The losses of all rows come to the host at the
 * end, at once. Cost: the head's products and one pass over the logits.
 */
#include "train_impl.h"

#include "pare/ops.h"

#include "base/carve.h"

/* What is known of every row. */
typedef struct results {
    float *loss;
    int32_t *rank;
    int64_t bytes;
} results;

/* Of so many rows, in the backend's memory or the host's. */
static results results_in(char *memory, int64_t rows)
{
    pare__carve c = {.base = memory};
    results r = {0};
    r.loss = pare__carve_next(&c, rows * 4);
    r.rank = pare__carve_next(&c, rows * 4);
    r.bytes = c.size;
    return r;
}

static int64_t cross_entropy_results(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)state;
    pare_batch largest = {.size = shape->batch, .length = shape->length};
    return results_in(NULL, pare_logits_rows(pare_model_facts_of(model), &largest)).bytes;
}

/* Scratch begins with the results. */
static int64_t cross_entropy_scratch(void *state, pare_model *model, const pare_model_shape *shape)
{
    return cross_entropy_results(state, model, shape) + pare_logits_bytes(model, shape);
}

/* A run of the loss. */
typedef struct running {
    pare_loss_args *args;
    results results;
} running;

static pare_status measure(void *user, int64_t first, pare_tensor logits, pare_tensor gradient)
{
    const running *r = user;
    const pare_batch *batch = pare_model_batch(r->args->model);
    int64_t count = logits.shape[0];
    pare_cross_entropy_args ce = {
        .x = logits,
        .labels = pare_vector((void *)(uintptr_t)(batch->labels + first), PARE_I32, count),
        .loss = pare_vector(r->results.loss + first, PARE_F32, count),
        .rank = pare_vector(r->results.rank + first, PARE_I32, count),
        .dx = gradient,
        .smoothing = (float)r->args->smoothing,
        .grad_scale = (float)r->args->grad_scale};
    if (batch->labels2) {
        ce.labels2 = pare_vector((void *)(uintptr_t)(batch->labels2 + first), PARE_I32, count);
        ce.mix = pare_vector((void *)(uintptr_t)(batch->mix + first), PARE_F32, count);
    }
    PARE_TRY(pare_cross_entropy(r->args->be, &ce));
    return PARE_OK;
}

static pare_status tally(const running *run, int64_t rows)
{
    pare_loss_args *args = run->args;
    const int32_t *labels = args->batch->labels;
    results r = args->results ? results_in(args->results, rows) : run->results;
    PARE_TRY(pare_backend_download(args->be, r.loss, run->results.loss, r.bytes));
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

static pare_status cross_entropy(pare_loss_args *args)
{
    const pare_model_facts *facts = pare_model_facts_of(args->model);
    int64_t rows = pare_logits_rows(facts, args->batch);
    running run = {.args = args, .results = results_in(args->scratch, rows)};
    int64_t used = run.results.bytes;
    PARE_REQUIRE(args->batch->labels, PARE_ERR_ARGUMENT,
                 "cross-entropy needs labels, which the data has not");
    PARE_REQUIRE(facts->output != PARE_OUTPUT_VECTOR, PARE_ERR_ARGUMENT,
                 "cross-entropy needs a model of classes or tokens; this one gives embeddings");
    PARE_REQUIRE(used <= args->scratch_size, PARE_ERR_ARGUMENT,
                 "cross-entropy of %lld rows needs a larger scratch", (long long)rows);
    args->loss = 0;
    args->count = args->top1 = args->top5 = 0;
    PARE_TRY(pare_logits_run(&(pare_logits_walk){.args = args,
                                                 .scratch = (char *)args->scratch + used,
                                                 .scratch_size = args->scratch_size - used,
                                                 .measure = measure,
                                                 .user = &run}));
    return tally(&run, rows);
}

const pare_loss pare_loss_cross_entropy = {
    .name = "cross-entropy",
    .summary = "negative log-likelihood of labels, or of the next tokens",
    .labels = true,
    .scratch = cross_entropy_scratch,
    .results = cross_entropy_results,
    .run = cross_entropy};
