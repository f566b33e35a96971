/* cuda_gemm.c - gemm by cuBLASLt.
 *
 * A row-major matrix is the transpose of a column-major one, so c = op(a)·op(b) is asked for as
 * cᵀ = op(b)ᵀ·op(a)ᵀ: cuBLASLt's A is b, its B is a, and nothing is moved. F32 is multiplied in
 * full F32 (no TF32), BF16 by tensor cores with sums in f32. The bias runs along cuBLASLt's rows,
 * which is where its epilogue adds one; it wants it of c's dtype, so for a BF16 c the bias is
 * rounded to BF16 first. Accumulating is beta = 1. F32 operands have an F32 product, which goes to
 * a BF16 c by way of scratch.
 *
 * What cuBLASLt needs to know of a product (descriptors, layouts, the algorithm its heuristic
 * prefers) is found once for a shape and kept. Algorithms that cut K add their parts in f32 in
 * workspace, in one order: results repeat bit for bit.
 *
 * Bound by the tensor cores (BF16), the f32 units (F32) or, for few rows, by memory.
 */
#include "cuda_gemm.h"

#include "cuda_plan.h"

#include "base/alloc.h"

#include <cublasLt.h>
#include <string.h>

#define PLANS 1024
#define WORKSPACE ((size_t)32 << 20)  /* at most: what NVIDIA advises for sm_90 */
#define PROBES 8                      /* slots that a key may be in */
#define MOST_ALIGNED ((uintptr_t)256) /* the most that an algorithm may ask for */
#define BIAS_ALIGNED ((uintptr_t)16)  /* what a bias has, or gets */

/* A product in cuBLASLt's terms: C [m, n] = op(A)·op(B), all column-major. */
typedef struct gemm_key {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    int64_t count, next[3]; /* of a batch; 0: no batch */
    int32_t dtype, c_dtype; /* pare_dtype: of A and B; of C */
    int32_t trans_a, trans_b, bias;
    uint32_t align_a, align_b, align_c;
} gemm_key;

typedef struct gemm_plan {
    bool there;
    gemm_key key;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t how;
    size_t workspace;
} gemm_plan;

typedef struct gemm_state {
    cublasLtHandle_t handle;
    gemm_plan plans[PLANS];
} gemm_state;

/* ---- failures -------------------------------------------------------------------------------- */

static pare_status blas_error(cublasStatus_t error, const char *where, const char *call)
{
    int length = (int)strcspn(call, "(");
    if (error == CUBLAS_STATUS_ALLOC_FAILED)
        return pare__error(PARE_ERR_MEMORY, where,
                           "cuBLASLt: %.*s lacks memory: close what else uses the device, or "
                           "choose a smaller batch",
                           length, call);
    return pare__error(PARE_ERR_DEVICE, where, "cuBLASLt: %.*s failed: %s", length, call,
                       cublasLtGetStatusString(error));
}

#define BLAS(call_)                                                                                \
    do {                                                                                           \
        cublasStatus_t blas_ = (call_);                                                            \
        if (blas_ != CUBLAS_STATUS_SUCCESS)                                                        \
            return blas_error(blas_, __func__, #call_);                                            \
    } while (0)

/* ---- plans ----------------------------------------------------------------------------------- */

static void free_plan(gemm_plan *plan)
{
    if (plan->c)
        (void)cublasLtMatrixLayoutDestroy(plan->c);
    if (plan->b)
        (void)cublasLtMatrixLayoutDestroy(plan->b);
    if (plan->a)
        (void)cublasLtMatrixLayoutDestroy(plan->a);
    if (plan->what)
        (void)cublasLtMatmulDescDestroy(plan->what);
    *plan = (gemm_plan){0};
}

static void free_state(void *state)
{
    gemm_state *s = state;
    if (!s)
        return;
    for (int i = 0; i < PLANS; i++)
        free_plan(&s->plans[i]);
    if (s->handle)
        (void)cublasLtDestroy(s->handle);
    free(s);
}

/* The backend's table of plans, made at the first product. */
static pare_status state_of(pare_backend *be, gemm_state **state)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_TRY(pare__cuda_use(be));
    if (!c->blas) {
        PARE_TRY(pare__calloc(1, sizeof **state, &c->blas));
        c->free_blas = free_state;
    }
    *state = c->blas;
    if (!(*state)->handle)
        BLAS(cublasLtCreate(&(*state)->handle));
    return PARE_OK;
}

static cudaDataType type_of(int32_t dtype)
{
    return dtype == PARE_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

static pare_status describe(gemm_plan *plan)
{
    const gemm_key *k = &plan->key;
    cublasOperation_t a = k->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t b = k->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const void *bias = (const void *)BIAS_ALIGNED; /* here only its alignment counts */
    uint64_t m = (uint64_t)k->m, n = (uint64_t)k->n, depth = (uint64_t)k->k;
    cudaDataType type = type_of(k->dtype);
    BLAS(cublasLtMatmulDescCreate(&plan->what, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    BLAS(cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a));
    BLAS(cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b));
    if (k->bias) {
        BLAS(cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                            sizeof epilogue));
        BLAS(cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                            sizeof(void *)));
    }
    BLAS(cublasLtMatrixLayoutCreate(&plan->a, type, k->trans_a ? depth : m, k->trans_a ? m : depth,
                                    k->lda));
    BLAS(cublasLtMatrixLayoutCreate(&plan->b, type, k->trans_b ? n : depth, k->trans_b ? depth : n,
                                    k->ldb));
    BLAS(cublasLtMatrixLayoutCreate(&plan->c, type_of(k->c_dtype), m, n, k->ldc));
    return PARE_OK;
}

static pare_status describe_batch(const gemm_plan *plan)
{
    const cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->c};
    const int32_t count = (int32_t)plan->key.count;
    for (int i = 0; i < 3; i++) {
        BLAS(cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                              &count, sizeof count));
        BLAS(cublasLtMatrixLayoutSetAttribute(layouts[i],
                                              CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                              &plan->key.next[i], sizeof plan->key.next[i]));
    }
    return PARE_OK;
}

static pare_status wish_for(const gemm_key *key, cublasLtMatmulPreference_t wish)
{
    size_t workspace = WORKSPACE;
    uint32_t sums = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t which;
        const void *value;
        size_t size;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &key->align_a, sizeof key->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &key->align_b, sizeof key->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &key->align_c, sizeof key->align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &key->align_c, sizeof key->align_c},
    };
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++)
        BLAS(cublasLtMatmulPreferenceSetAttribute(wish, wishes[i].which, wishes[i].value,
                                                  wishes[i].size));
    return PARE_OK;
}

static pare_status choose(gemm_state *s, cublasLtMatmulPreference_t wish, gemm_plan *plan)
{
    cublasLtMatmulHeuristicResult_t found = {.state = CUBLAS_STATUS_NOT_SUPPORTED};
    int count = 0;
    const gemm_key *k = &plan->key;
    cublasStatus_t error = cublasLtMatmulAlgoGetHeuristic(
        s->handle, plan->what, plan->a, plan->b, plan->c, plan->c, wish, 1, &found, &count);
    PARE_REQUIRE(
        error != CUBLAS_STATUS_NOT_SUPPORTED &&
            (error != CUBLAS_STATUS_SUCCESS || (count > 0 && found.state == CUBLAS_STATUS_SUCCESS)),
        PARE_ERR_UNSUPPORTED,
        "gemm: cuBLASLt has no algorithm for %lld × %lld × %lld (M, N, K) of %s into %s; "
        "use the cpu, or another batch",
        (long long)k->n, (long long)k->m, (long long)k->k, pare_dtype_name((pare_dtype)k->dtype),
        pare_dtype_name((pare_dtype)k->c_dtype));
    BLAS(error);
    plan->how = found.algo;
    plan->workspace = found.workspaceSize;
    return PARE_OK;
}

static pare_status fill_plan(gemm_state *s, gemm_plan *plan)
{
    cublasLtMatmulPreference_t wish = NULL;
    PARE_TRY(describe(plan));
    if (plan->key.count > 1)
        PARE_TRY(describe_batch(plan));
    BLAS(cublasLtMatmulPreferenceCreate(&wish));
    pare_status status = wish_for(&plan->key, wish);
    if (status == PARE_OK)
        status = choose(s, wish, plan);
    (void)cublasLtMatmulPreferenceDestroy(wish);
    return status;
}

/* The plan of a key, from the table or new in the place of an old one. */
static pare_status plan_of(gemm_state *s, const gemm_key *key, gemm_plan **plan)
{
    size_t start = pare__cuda_hash(key, sizeof *key), at = start;
    for (size_t i = 0; i < PROBES; i++) {
        at = (start + i) % PLANS;
        if (!s->plans[at].there)
            break;
        if (memcmp(&s->plans[at].key, key, sizeof *key) == 0) {
            *plan = &s->plans[at];
            return PARE_OK;
        }
    }
    *plan = &s->plans[at];
    free_plan(*plan);
    (*plan)->key = *key;
    pare_status status = fill_plan(s, *plan);
    if (status != PARE_OK) {
        free_plan(*plan);
        return status;
    }
    (*plan)->there = true;
    return PARE_OK;
}

/* ---- one product ----------------------------------------------------------------------------- */

/* Its operands as they are multiplied: an offset in scratch where they are not taken as they lie.
 */
typedef struct gemm_call {
    gemm_plan *plan;
    bool round_a, round_b, widen_c, move_bias;
    size_t a, b, c, bias, workspace; /* offsets */
    size_t bytes;
} gemm_call;

static size_t element(pare_dtype dtype)
{
    return dtype == PARE_F32 ? 4 : 2;
}

/* The largest power of two that divides the address, 256 at most. */
static uint32_t alignment(const void *pointer)
{
    uintptr_t bits = (uintptr_t)pointer | MOST_ALIGNED;
    return (uint32_t)(bits & (~bits + 1));
}

static pare_status prepare(pare_backend *be, const pare_gemm_args *args, gemm_call *call)
{
    gemm_state *s = NULL;
    bool half = args->a.dtype == PARE_BF16 || args->b.dtype == PARE_BF16;
    pare_dtype dtype = half ? PARE_BF16 : PARE_F32;
    pare_dtype c_dtype = half ? args->c.dtype : PARE_F32;
    bool bias_fits = c_dtype == PARE_F32 && alignment(args->bias.data) >= BIAS_ALIGNED;
    *call = (gemm_call){.round_a = args->a.dtype != dtype,
                        .round_b = args->b.dtype != dtype,
                        .widen_c = args->c.dtype != c_dtype,
                        .move_bias = args->bias.data && !bias_fits};
    gemm_key key;
    memset(&key, 0, sizeof key);
    key.m = args->c.shape[1];
    key.n = args->c.shape[0];
    key.k = args->a.shape[args->trans_a ? 0 : 1];
    key.dtype = dtype;
    key.c_dtype = c_dtype;
    key.trans_a = args->trans_b; /* their A is our b */
    key.trans_b = args->trans_a;
    key.lda = args->b.shape[1];
    key.ldb = args->a.shape[1];
    key.ldc = key.m;
    key.bias = args->bias.data != NULL;
    key.align_a = call->round_b ? PARE_CUDA_ALIGN : alignment(args->b.data);
    key.align_b = call->round_a ? PARE_CUDA_ALIGN : alignment(args->a.data);
    key.align_c = call->widen_c ? PARE_CUDA_ALIGN : alignment(args->c.data);
    PARE_TRY(state_of(be, &s));
    PARE_TRY(plan_of(s, &key, &call->plan));
    if (call->round_a)
        call->a = pare__cuda_part(&call->bytes, (size_t)(key.n * key.k) * element(dtype));
    if (call->round_b)
        call->b = pare__cuda_part(&call->bytes, (size_t)(key.m * key.k) * element(dtype));
    if (call->widen_c)
        call->c = pare__cuda_part(&call->bytes, (size_t)(key.m * key.n) * element(c_dtype));
    if (call->move_bias)
        call->bias = pare__cuda_part(&call->bytes, (size_t)key.m * element(c_dtype));
    call->workspace = pare__cuda_part(&call->bytes, call->plan->workspace);
    return PARE_OK;
}

/* y = x in y's dtype. */
static pare_status convert(pare_backend *be, pare_tensor x, pare_tensor y)
{
    return pare_cuda_cast(be, &(pare_cast_args){.x = x, .y = y});
}

/* t in scratch. */
static pare_tensor moved(const pare_tensor *t, void *to, int32_t dtype)
{
    pare_tensor there = *t;
    there.data = to;
    there.dtype = (pare_dtype)dtype;
    return there;
}

static pare_status run(pare_backend *be, const pare_gemm_args *args, const gemm_call *call,
                       uint8_t *room)
{
    const gemm_plan *plan = call->plan;
    pare__cuda *cuda = pare__cuda_of(be);
    gemm_state *s = cuda->blas;
    pare_tensor a = args->a, b = args->b, c = args->c, bias = args->bias;
    float alpha = 1, beta = args->accumulate ? 1.0f : 0.0f;
    if (call->round_a)
        PARE_TRY(convert(be, args->a, a = moved(&a, room + call->a, plan->key.dtype)));
    if (call->round_b)
        PARE_TRY(convert(be, args->b, b = moved(&b, room + call->b, plan->key.dtype)));
    if (call->widen_c) {
        c = moved(&c, room + call->c, plan->key.c_dtype);
        if (args->accumulate)
            PARE_TRY(convert(be, args->c, c));
    }
    if (call->move_bias)
        PARE_TRY(
            convert(be, args->bias, bias = moved(&bias, room + call->bias, plan->key.c_dtype)));
    if (bias.data)
        BLAS(cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                            &bias.data, sizeof bias.data));
    BLAS(cublasLtMatmul(s->handle, plan->what, &alpha, b.data, plan->a, a.data, plan->b, &beta,
                        c.data, plan->c, c.data, plan->c, &plan->how,
                        plan->workspace > 0 ? room + call->workspace : NULL, plan->workspace,
                        cuda->stream));
    return call->widen_c ? convert(be, c, args->c) : PARE_OK;
}

/* A product without terms: c keeps what it has if accumulate, plus the bias. */
static pare_status sum_of_nothing(pare_backend *be, const pare_gemm_args *args)
{
    if (!args->accumulate)
        PARE_TRY(pare_backend_clear(be, args->c.data,
                                    pare_tensor_count(&args->c) * (int64_t)element(args->c.dtype)));
    if (args->bias.data)
        PARE_TRY(pare_cuda_add_rows(
            be, &(pare_add_rows_args){.x = args->c, .y = args->c, .v = args->bias}));
    return PARE_OK;
}

static bool has_terms(const pare_gemm_args *args)
{
    return pare_tensor_count(&args->c) > 0 && pare_tensor_count(&args->a) > 0;
}

pare_status pare__cuda_product_room(pare_backend *be, const pare_gemm_args *args, size_t *bytes)
{
    gemm_call call = {0};
    if (has_terms(args))
        PARE_TRY(prepare(be, args, &call));
    *bytes = call.bytes;
    return PARE_OK;
}

pare_status pare__cuda_product(pare_backend *be, const pare_gemm_args *args, void *room)
{
    gemm_call call;
    if (pare_tensor_count(&args->c) == 0)
        return PARE_OK;
    if (!has_terms(args))
        return sum_of_nothing(be, args);
    PARE_TRY(prepare(be, args, &call));
    return run(be, args, &call, room);
}

pare_status pare_cuda_gemm(pare_backend *be, const pare_gemm_args *args)
{
    size_t bytes = 0;
    void *room = NULL;
    PARE_TRY(pare__cuda_product_room(be, args, &bytes));
    PARE_TRY(pare__scratch(be, bytes, &room));
    return pare__cuda_product(be, args, room);
}

/* ---- matrices inside larger ones ------------------------------------------------------------- */

/* That every matrix of a batch has. */
static uint32_t alignment_of_all(const void *first, int64_t next, pare_dtype dtype)
{
    return alignment((const void *)((uintptr_t)first | (uintptr_t)next * element(dtype)));
}

pare_status pare__cuda_gemm_sub(pare_backend *be, const pare__cuda_sub *args)
{
    gemm_state *s = NULL;
    gemm_plan *plan = NULL;
    gemm_key key;
    void *room = NULL;
    float beta = args->accumulate ? 1.0f : 0.0f;
    if (args->M == 0 || args->N == 0 || args->K == 0)
        return PARE_OK;
    memset(&key, 0, sizeof key);
    key.m = args->N;
    key.n = args->M;
    key.k = args->K;
    key.lda = args->ldb; /* their A is our b */
    key.ldb = args->lda;
    key.ldc = args->ldc;
    key.dtype = args->dtype;
    key.c_dtype = PARE_F32;
    key.trans_a = args->trans_b;
    key.trans_b = args->trans_a;
    if (args->count > 1) {
        key.count = args->count;
        key.next[0] = args->next[1];
        key.next[1] = args->next[0];
        key.next[2] = args->next[2];
    }
    key.align_a = alignment_of_all(args->b, key.next[0], args->dtype);
    key.align_b = alignment_of_all(args->a, key.next[1], args->dtype);
    key.align_c = alignment_of_all(args->c, key.next[2], PARE_F32);
    PARE_TRY(state_of(be, &s));
    PARE_TRY(plan_of(s, &key, &plan));
    PARE_TRY(pare__scratch(be, plan->workspace, &room));
    BLAS(cublasLtMatmul(s->handle, plan->what, &args->alpha, args->b, plan->a, args->a, plan->b,
                        &beta, args->c, plan->c, args->c, plan->c, &plan->how,
                        plan->workspace > 0 ? room : NULL, plan->workspace,
                        pare__cuda_of(be)->stream));
    return PARE_OK;
}
