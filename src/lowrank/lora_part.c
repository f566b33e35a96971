/* lora_part.c - low-rank factors as a part of a training.
 *
 *   before   W' = W + c·B·A, c = alpha/rank        back   dB = c·dW'·Aᵀ, dA = c·Bᵀ·dW'
 *
 * So the model multiplies by one matrix, and what is merged is what was trained, whatever the node.
 * It costs a product of rank terms for each weight before a step, two behind it, and W' beside W;
 * what adapters of their own cost in every forward is saved. */
#include "lora_impl.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"
#include "base/rng.h"

/* ---- memory ---------------------------------------------------------------------------------- */

static pare_tensor take(pare__carve *c, int64_t rows, int64_t cols)
{
    void *data = pare__carve_next(c, rows * cols * (int64_t)sizeof(float));
    return pare_matrix(data, PARE_F32, rows, cols);
}

static void lay_out(pare__lora_layer *l, int64_t rank, pare__carve *c)
{
    l->base = take(c, l->out, l->in);
    l->a = take(c, rank, l->in);
    l->a_grad = take(c, rank, l->in);
    l->b = take(c, l->out, rank);
    l->b_grad = take(c, l->out, rank);
    l->scaled = take(c, l->out, rank);
}

static void lay_out_all(pare_lora *lora, char *base)
{
    pare__carve c = {.base = base};
    int64_t rank = lora->options.rank;
    lora->factor = pare_vector(pare__carve_next(&c, rank * (int64_t)sizeof(float)), PARE_F32, rank);
    for (size_t i = 0; i < lora->count; i++)
        lay_out(&lora->layers[i], rank, &c);
}

int64_t pare_lora_bytes(const pare_lora *lora)
{
    pare__carve c = {0};
    pare__carve_next(&c, lora->options.rank * (int64_t)sizeof(float));
    for (size_t i = 0; i < lora->count; i++) {
        pare__lora_layer l = lora->layers[i];
        lay_out(&l, lora->options.rank, &c);
    }
    return c.size;
}

void pare__lora_release(pare_lora *lora)
{
    if (lora->memory)
        pare_backend_release(lora->be, lora->memory, lora->bytes);
    lora->memory = NULL;
    lay_out_all(lora, NULL);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static pare_status scale(const pare_lora *lora, pare_tensor x, pare_tensor y)
{
    return pare_scale(lora->be, &(pare_scale_args){.x = x, .y = y, .cols = lora->factor});
}

/* Zeros under the mask, if products are masked. */
static pare_status mask(const pare_lora *lora, const pare_param *p, void *data)
{
    int64_t count = pare_tensor_count(&p->value);
    pare_tensor x = pare_matrix(data, PARE_F32, count, 1);
    if (!lora->options.keep_mask || !p->mask)
        return PARE_OK;
    return pare_keep_rows(
        lora->be,
        &(pare_keep_rows_args){.x = x, .y = x, .keep = pare_vector(p->mask, PARE_U8, count)});
}

static pare_status before(void *state, const pare_train_moment *m)
{
    const pare_lora *lora = state;
    (void)m;
    for (size_t i = 0; i < lora->count; i++) {
        const pare__lora_layer *l = &lora->layers[i];
        const pare_param *p = pare_model_param(lora->model, l->param);
        pare_tensor value = pare_matrix(p->value.data, PARE_F32, l->out, l->in);
        PARE_TRY(scale(lora, l->b, l->scaled));
        PARE_TRY(pare_backend_copy(lora->be, value.data, l->base.data,
                                   pare_tensor_count(&value) * (int64_t)sizeof(float)));
        PARE_TRY(pare_gemm(
            lora->be,
            &(pare_gemm_args){.a = l->scaled, .b = l->a, .c = value, .accumulate = true}));
        PARE_TRY(mask(lora, p, value.data));
    }
    return PARE_OK;
}

static pare_status back(void *state, const pare_train_moment *m)
{
    const pare_lora *lora = state;
    (void)m;
    for (size_t i = 0; i < lora->count; i++) {
        const pare__lora_layer *l = &lora->layers[i];
        const pare_param *p = pare_model_param(lora->model, l->param);
        pare_tensor grad = pare_matrix(p->grad.data, PARE_F32, l->out, l->in);
        PARE_TRY(mask(lora, p, grad.data));
        PARE_TRY(pare_gemm(
            lora->be,
            &(pare_gemm_args){.a = l->scaled, .b = grad, .c = l->a_grad, .trans_a = true}));
        PARE_TRY(pare_gemm(
            lora->be, &(pare_gemm_args){.a = grad, .b = l->a, .c = l->b_grad, .trans_b = true}));
        PARE_TRY(scale(lora, l->b_grad, l->b_grad));
    }
    return PARE_OK;
}

/* ---- the part -------------------------------------------------------------------------------- */

/* A stream of random numbers for each weight, by its name. */
static uint64_t stream_of(const char *name)
{
    uint64_t stream = UINT64_C(0xcbf29ce484222325);
    for (const char *c = name; *c; c++)
        stream = (stream ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    return stream;
}

static pare_status begin_layer(pare_lora *lora, const pare__lora_layer *l)
{
    pare_status status = PARE_OK;
    pare_param *p = pare_model_param(lora->model, l->param);
    int64_t count = pare_tensor_count(&l->a);
    pare__rng rng = pare__rng_make(lora->options.seed, stream_of(l->a_name), 0);
    float *a = NULL;
    PARE_REQUIRE(p->value.data && p->grad.data, PARE_ERR_ARGUMENT,
                 "%s: low-rank factors need a model that was prepared for training", p->name);
    if (!lora->options.keep_mask)
        p->mask = NULL; /* the product fills what was pruned */
    PARE_TRY(pare__calloc((size_t)count, sizeof *a, &a));
    for (int64_t i = 0; i < count; i++)
        a[i] = (float)(pare__rng_normal(&rng) / (double)lora->options.rank);
    PARE_TRY_DONE(pare_backend_upload(lora->be, l->a.data, a, count * (int64_t)sizeof *a));
    PARE_TRY_DONE(pare_backend_copy(lora->be, l->base.data, p->value.data,
                                    pare_tensor_count(&l->base) * (int64_t)sizeof(float)));
done:
    free(a);
    return status;
}

static pare_status begin(pare_lora *lora, pare_backend *be)
{
    lora->be = be;
    lora->bytes = pare_lora_bytes(lora);
    PARE_TRY(pare_backend_alloc(be, lora->bytes, &lora->memory));
    lay_out_all(lora, lora->memory);
    float factor = (float)(lora->options.alpha / (double)lora->options.rank);
    PARE_TRY(pare_fill(be, &(pare_fill_args){.y = lora->factor, .value = factor}));
    for (size_t i = 0; i < lora->count; i++)
        PARE_TRY(begin_layer(lora, &lora->layers[i]));
    return PARE_OK;
}

pare_status pare_lora_part(pare_lora *lora, pare_backend *be, pare_train_part **part)
{
    size_t n = 0;
    pare__lora_release(lora);
    if (be)
        PARE_TRY(begin(lora, be));
    for (size_t i = 0; i < lora->count; i++) {
        const pare__lora_layer *l = &lora->layers[i];
        lora->learned[n++] =
            (pare_learned){.name = l->a_name, .value = l->a, .grad = l->a_grad, .decays = true};
        lora->learned[n++] =
            (pare_learned){.name = l->b_name, .value = l->b, .grad = l->b_grad, .decays = true};
    }
    lora->part = (pare_train_part){.name = "lora",
                                   .identity = lora->identity,
                                   .state = lora,
                                   .learned = lora->learned,
                                   .learned_count = n,
                                   .takes = lora->takes,
                                   .before = before,
                                   .back = back};
    *part = &lora->part;
    return PARE_OK;
}
