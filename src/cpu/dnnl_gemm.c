/* dnnl_gemm.c - gemm by oneDNN.
 *
 * All three products of a linear layer (x·Wᵀ, dy·W, dyᵀ·x) run on the operands as they lie in
 * memory: at the shapes of small transformers plain layouts reach nine tenths of what a core can
 * do, F32 and BF16, and laying a weight out anew for each call only costs. An operand that is not
 * of the product's dtype is converted first. Where the CPU has no BF16 in oneDNN the numbers are
 * rounded to BF16 and multiplied in F32, which is the same product.
 */
#include "cpu_dnnl.h"
#include "dnnl_plan.h"

#include "base/check.h"
#include "base/half.h"

#define LONG_SUM 4096 /* terms */

/* A product without terms: c keeps what it has if accumulate, plus the bias. */
static void sum_of_nothing(const pare_gemm_args *args)
{
    int64_t M = args->c.shape[0], N = args->c.shape[1];
    const float *bias = args->bias.data;
    float *c = args->c.data;
    uint16_t *h = args->c.data;
    bool half = args->c.dtype == PARE_BF16;
    for (int64_t i = 0; i < M * N; i++) {
        float before = !args->accumulate ? 0.0f : half ? pare__bf16_to_f32(h[i]) : c[i];
        float sum = bias ? before + bias[i % N] : before;
        if (half)
            h[i] = pare__f32_to_bf16(sum);
        else
            c[i] = sum;
    }
}

static product_view operand_view(const product_operand *operand, bool transposed)
{
    product_view view = pare__product_view(operand->work.dtype, 2, operand->work.shape);
    if (transposed) {
        view.dims[0] = operand->work.shape[1];
        view.dims[1] = operand->work.shape[0];
        view.strides[0] = 1;
        view.strides[1] = operand->work.shape[1];
    }
    return view;
}

/* The operands of one call, in the dtypes that the product has. */
typedef struct gemm_call {
    const pare_gemm_args *args;
    product_operand a, b, c;
    size_t used; /* of scratch */
} gemm_call;

static gemm_call call_of(const pare_gemm_args *args)
{
    bool half = args->a.dtype == PARE_BF16 || args->b.dtype == PARE_BF16;
    bool native = half && pare__dnnl_has_bf16();
    pare_dtype dtype = native ? PARE_BF16 : PARE_F32;
    gemm_call call = {.args = args};
    call.a = pare__operand(&args->a, dtype, half, &call.used);
    call.b = pare__operand(&args->b, dtype, half, &call.used);
    call.c = pare__operand(&args->c, native ? args->c.dtype : PARE_F32, false, &call.used);
    return call;
}

/* oneDNN has kernels for a linear layer's gradients that cannot add: that of dyᵀ·x is a tenth
 * faster than its matmul, that of dy·W a fifth and more where the sums are long. */
static product_kind kind_of(const gemm_call *call)
{
    const pare_gemm_args *args = call->args;
    if (args->accumulate || args->bias.data || args->trans_b)
        return PRODUCT_GEMM;
    if (args->trans_a)
        return call->c.work.dtype == PARE_F32 ? PRODUCT_GEMM_GRAD_W : PRODUCT_GEMM;
    bool alike = call->c.work.dtype == call->a.work.dtype;
    return alike && args->a.shape[1] >= LONG_SUM ? PRODUCT_GEMM_GRAD_X : PRODUCT_GEMM;
}

/* Which of a, b, c is src, weights and dst. */
static void roles_of(gemm_call *call, product_kind kind, product_operand *role[3])
{
    role[PRODUCT_SRC] = kind == PRODUCT_GEMM_GRAD_X   ? &call->c
                        : kind == PRODUCT_GEMM_GRAD_W ? &call->b
                                                      : &call->a;
    role[PRODUCT_WEIGHTS] = kind == PRODUCT_GEMM_GRAD_W ? &call->c : &call->b;
    role[PRODUCT_DST] = kind == PRODUCT_GEMM ? &call->c : &call->a;
}

static product_recipe recipe_of(const pare_gemm_args *args, product_kind kind,
                                product_operand *const role[3])
{
    const int64_t bias[2] = {1, args->c.shape[1]};
    bool plain = kind == PRODUCT_GEMM; /* gradients have their transposes in their kind */
    product_recipe r = {.kind = kind, .sum = args->accumulate};
    r.given[PRODUCT_SRC] = operand_view(role[PRODUCT_SRC], plain && args->trans_a);
    r.given[PRODUCT_WEIGHTS] = operand_view(role[PRODUCT_WEIGHTS], plain && args->trans_b);
    r.given[PRODUCT_DST] = operand_view(role[PRODUCT_DST], false);
    r.own = r.given[PRODUCT_WEIGHTS];
    if (args->bias.data)
        r.given[PRODUCT_BIAS] = pare__product_view(PARE_F32, 2, bias);
    return r;
}

pare_status pare__dnnl_gemm(pare_backend *be, const pare_gemm_args *args)
{
    if (pare_tensor_count(&args->c) == 0)
        return PARE_OK;
    if (pare_tensor_count(&args->a) == 0) {
        sum_of_nothing(args);
        return PARE_OK;
    }
    gemm_call call = call_of(args);
    product_kind kind = kind_of(&call);
    product_operand *role[3];
    roles_of(&call, kind, role);
    product_recipe recipe = recipe_of(args, kind, role);
    product_plan *plan = NULL;
    size_t more = 0;
    void *scratch = NULL;
    PARE_TRY(pare__product_plan(be, &recipe, &plan, &more));
    PARE_TRY(pare__scratch(be, call.used + more, &scratch));
    void *data[PRODUCT_ROLES] = {[PRODUCT_BIAS] = args->bias.data};
    for (int i = 0; i < 3; i++) {
        pare__operand_place(role[i], scratch);
        data[i] = role[i]->work.data;
    }
    PARE_TRY(pare__operand_read(be, &call.a, scratch));
    PARE_TRY(pare__operand_read(be, &call.b, scratch));
    if (args->accumulate)
        PARE_TRY(pare__operand_read(be, &call.c, scratch));
    PARE_TRY(pare__product_run(be, plan, data, (uint8_t *)scratch + call.used));
    return pare__operand_write(be, &call.c);
}
