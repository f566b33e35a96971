/* logits.c - the rows of a model's output as logits, some at a time. */
#include "train_impl.h"

#include "pare/ops.h"

/* Bytes of F32 logits at once: large enough for products to run at full speed, small beside any
 * model with a vocabulary that makes it matter. */
#define LOGIT_BYTES ((int64_t)32 << 20)

int64_t pare__logit_rows(const pare_model_facts *facts, int64_t rows)
{
    int64_t fit = LOGIT_BYTES / 4 / (facts->classes > 0 ? facts->classes : 1);
    if (facts->output != PARE_OUTPUT_TOKENS || fit >= rows)
        return rows;
    return fit >= 16 ? fit / 16 * 16 : fit > 0 ? fit : 1;
}

int64_t pare__output_rows(const pare_model_facts *facts, const pare_batch *batch)
{
    return facts->output == PARE_OUTPUT_TOKENS ? batch->size * batch->length : batch->size;
}

pare_tensor pare__rows_of(pare_tensor t, int64_t first, int64_t count)
{
    int64_t cols = t.shape[t.rank - 1];
    char *data = (char *)t.data + first * cols * (pare_dtype_bits(t.dtype) / 8);
    return pare_matrix(data, t.dtype, count, cols);
}

pare_status pare__logits(pare_model *model, pare_backend *be, int64_t first, int64_t count,
                         const pare_tensor *weight, float *buffer, pare_tensor *logits)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_tensor rows = pare__rows_of(pare_model_output(model), first, count);
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
