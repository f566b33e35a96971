/* logits.c - the rows of a model's output as logits, and their gradients on the way back.
 *
 * Of a model of tokens the logits X·Wᵀ + b are made, measured and turned into their own gradient G
 * a chunk of rows at a time, then dX = G·W, dW += Gᵀ·X, db += Σ G: a vocabulary's worth of logits
 * never stands whole in memory. A chunk of rows none of which counts is passed over. Where X is
 * BF16, W and G are rounded to it once, not in each product. Cost: three products of the head (one
 * without training).
 */
#include "train_impl.h"

#include "pare/ops.h"

#include "base/carve.h"

/* Bytes of F32 logits at once: large enough for products to run at full speed, small beside any
 * model with a vocabulary that makes it matter. */
#define LOGIT_BYTES ((int64_t)32 << 20)

int64_t pare_logits_at_once(const pare_model_facts *facts, int64_t rows)
{
    int64_t fit = LOGIT_BYTES / 4 / (facts->classes > 0 ? facts->classes : 1);
    if (facts->output != PARE_OUTPUT_TOKENS || fit >= rows)
        return rows;
    return fit >= 16 ? fit / 16 * 16 : fit > 0 ? fit : 1;
}

int64_t pare_logits_rows(const pare_model_facts *facts, const pare_batch *batch)
{
    return facts->output == PARE_OUTPUT_TOKENS ? batch->size * batch->length : batch->size;
}

pare_status pare_logits_of(pare_model *model, pare_backend *be, int64_t first, int64_t count,
                           const pare_tensor *weight, float *buffer, pare_tensor *logits)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_tensor rows = pare_rows_of(pare_model_output(model), first, count);
    *logits = rows;
    if (facts->output != PARE_OUTPUT_TOKENS)
        return PARE_OK;
    pare_param *bias = NULL, *head = pare_model_head(model, &bias);
    *logits = pare_matrix(buffer, PARE_F32, count, facts->classes);
    return pare_gemm(be, &(pare_gemm_args){.a = rows,
                                           .b = weight ? *weight : head->value,
                                           .c = *logits,
                                           .bias = bias ? bias->value : (pare_tensor){0},
                                           .trans_b = true});
}

/* ---- the walk over all rows ------------------------------------------------------------------ */

/* How the scratch is used. */
typedef struct plan {
    int64_t rows;     /* of a chunk */
    float *logits;    /* [rows, V], of TOKENS, then G; or G of a classifier after another loss */
    pare_tensor g, w; /* BF16 [rows, V] and [V, D], where X is BF16; else data NULL */
} plan;

static int64_t lay_out(pare_model *model, int64_t rows, bool halves, char *scratch, plan *p)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare__carve c = {.base = scratch};
    int64_t V = facts->classes;
    p->rows = pare_logits_at_once(facts, rows);
    p->logits = pare__carve_next(&c, p->rows * V * 4);
    p->g = p->w = (pare_tensor){0};
    if (facts->output == PARE_OUTPUT_TOKENS && halves) {
        pare_param *bias = NULL, *head = pare_model_head(model, &bias);
        int64_t D = head->value.shape[1];
        p->g = pare_matrix(pare__carve_next(&c, p->rows * V * 2), PARE_BF16, p->rows, V);
        p->w = pare_matrix(pare__carve_next(&c, V * D * 2), PARE_BF16, V, D);
    }
    return c.size;
}

int64_t pare_logits_bytes(pare_model *model, const pare_model_shape *shape)
{
    plan p;
    pare_batch largest = {.size = shape->batch, .length = shape->length};
    int64_t rows = pare_logits_rows(pare_model_facts_of(model), &largest);
    return lay_out(model, rows, shape->training && shape->compute == PARE_BF16, NULL, &p);
}

static bool any_counts(const int32_t *labels, int64_t count)
{
    for (int64_t i = 0; i < count && labels; i++)
        if (labels[i] >= 0)
            return true;
    return !labels;
}

static pare_status of_classes(const pare_logits_walk *walk, const plan *p, int64_t rows)
{
    const pare_loss_args *args = walk->args;
    pare_tensor logits, gradient = {0}, whole = {0};
    PARE_TRY(pare_logits_of(args->model, args->be, 0, rows, NULL, NULL, &logits));
    if (args->training) {
        whole = pare_rows_of(pare_model_output_grad(args->model), 0, rows);
        gradient = args->first ? whole : pare_matrix(p->logits, PARE_F32, rows, logits.shape[1]);
    }
    PARE_TRY(walk->measure(walk->user, 0, logits, gradient));
    if (args->training && !args->first)
        PARE_TRY(pare_add(args->be, &(pare_add_args){.a = whole, .b = gradient, .y = whole}));
    return PARE_OK;
}

/* dX, dW and db of a chunk whose logits have become their gradient G. */
static pare_status backward(const pare_loss_args *args, const plan *p, int64_t first, pare_tensor g)
{
    pare_param *bias = NULL, *head = pare_model_head(args->model, &bias);
    int64_t count = g.shape[0];
    pare_tensor x = pare_rows_of(pare_model_output(args->model), first, count);
    pare_tensor dx = pare_rows_of(pare_model_output_grad(args->model), first, count);
    if (bias && bias->grad.data)
        PARE_TRY(pare_colsum(args->be,
                             &(pare_colsum_args){.x = g, .y = bias->grad, .accumulate = true}));
    if (p->g.data) {
        pare_tensor half = pare_rows_of(p->g, 0, count);
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

static pare_status of_tokens(const pare_logits_walk *walk, const plan *p, int64_t rows)
{
    const pare_loss_args *args = walk->args;
    const int32_t *labels = args->batch->labels;
    pare_param *bias = NULL, *head = pare_model_head(args->model, &bias);
    if (p->w.data)
        PARE_TRY(pare_cast(args->be, &(pare_cast_args){.x = head->value, .y = p->w}));
    for (int64_t first = 0; first < rows; first += p->rows) {
        int64_t count = rows - first < p->rows ? rows - first : p->rows;
        pare_tensor logits;
        if (!any_counts(labels ? labels + first : NULL, count)) {
            pare_tensor dx = pare_model_output_grad(args->model);
            if (args->training && args->first)
                PARE_TRY(
                    pare_fill(args->be, &(pare_fill_args){.y = pare_rows_of(dx, first, count)}));
            continue;
        }
        PARE_TRY(pare_logits_of(args->model, args->be, first, count, p->w.data ? &p->w : NULL,
                                p->logits, &logits));
        PARE_TRY(
            walk->measure(walk->user, first, logits, args->training ? logits : (pare_tensor){0}));
        if (args->training)
            PARE_TRY(backward(args, p, first, logits));
    }
    return PARE_OK;
}

pare_status pare_logits_run(const pare_logits_walk *walk)
{
    const pare_loss_args *args = walk->args;
    const pare_model_facts *facts = pare_model_facts_of(args->model);
    int64_t rows = pare_logits_rows(facts, args->batch);
    bool halves = args->training && pare_model_output(args->model).dtype == PARE_BF16;
    plan p;
    PARE_REQUIRE(lay_out(args->model, rows, halves, walk->scratch, &p) <= walk->scratch_size,
                 PARE_ERR_ARGUMENT, "logits of %lld rows need a larger scratch", (long long)rows);
    if (facts->output == PARE_OUTPUT_TOKENS)
        PARE_TRY(of_tokens(walk, &p, rows));
    else
        PARE_TRY(of_classes(walk, &p, rows));
    return PARE_OK;
}
