/* sim_blas.cpp - stands in for cuBLASLt: what cuda_gemm.c calls, on the simulator's memory.
 *
 * It refuses what the library would: layouts that do not fit, an algorithm used with pointers less
 * aligned than was said when it was asked for, a workspace that is too small. A bias has D's type.
 */
#include "sim_control.h"

#include <cublasLt.h>

#include <cmath>
#include <cstring>
#include <new>

namespace
{

struct layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t count;
    int64_t next;
};

struct description {
    cublasComputeType_t compute;
    cudaDataType scale;
    cublasOperation_t a, b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

struct preference {
    uint64_t workspace;
    uint32_t sums, align_a, align_b, align_c, align_d;
};

/* What an algorithm of this stand-in is: what it was told. */
struct algorithm {
    uint64_t workspace;
    uint32_t align_a, align_b, align_c;
    uint32_t bias;
};

template <typename T, typename H> T *as(H handle)
{
    return reinterpret_cast<T *>(handle);
}

float get(const void *from, cudaDataType type, size_t i)
{
    if (type == CUDA_R_32F)
        return static_cast<const float *>(from)[i];
    uint32_t bits = (uint32_t) static_cast<const uint16_t *>(from)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void put(void *to, cudaDataType type, size_t i, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (type == CUDA_R_32F)
        static_cast<float *>(to)[i] = x;
    else
        static_cast<uint16_t *>(to)[i] =
            std::isnan(x) ? 0x7fff : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

bool aligned(const void *pointer, uint32_t to)
{
    return (uintptr_t)pointer % to == 0;
}

/* Every matrix of a batch. */
bool aligned(const void *first, const layout &l, uint32_t to)
{
    size_t size = l.type == CUDA_R_32F ? 4 : 2;
    return aligned(first, to) && (l.count == 1 || (size_t)l.next * size % to == 0);
}

/* D = alpha·op(A)·op(B) + beta·C (+ bias), all column-major. */
struct product {
    description what;
    layout a, b, c;
    const void *A, *B, *C;
    void *D;
    float alpha, beta;
    void *workspace;
    size_t workspace_bytes;

    void run() const
    {
        size_t depth = what.a == CUBLAS_OP_N ? a.cols : a.rows;
        if (workspace_bytes > 0)
            memset(workspace, 0xaa, workspace_bytes);
        for (size_t one = 0; one < (size_t)c.count; one++)
            run_one(one * (size_t)a.next, one * (size_t)b.next, one * (size_t)c.next, depth);
    }

    /* The product of a batch whose matrices begin that many elements on. */
    void run_one(size_t a_at, size_t b_at, size_t c_at, size_t depth) const
    {
        for (size_t j = 0; j < c.cols; j++)
            for (size_t i = 0; i < c.rows; i++) {
                double sum = 0;
                for (size_t k = 0; k < depth; k++)
                    sum += (double)get(A, a.type,
                                       a_at + (what.a == CUBLAS_OP_N ? k * (size_t)a.ld + i
                                                                     : i * (size_t)a.ld + k)) *
                           get(B, b.type,
                               b_at + (what.b == CUBLAS_OP_N ? j * (size_t)b.ld + k
                                                             : k * (size_t)b.ld + j));
                size_t at = c_at + j * (size_t)c.ld + i;
                float result = alpha * (float)sum;
                if (beta != 0)
                    result += beta * get(C, c.type, at);
                if (what.epilogue == CUBLASLT_EPILOGUE_BIAS)
                    result += get(what.bias, c.type, i);
                put(D, c.type, at, result);
            }
    }
};

bool fits(const description &what, const layout &a, const layout &b, const layout &c)
{
    uint64_t a_rows = what.a == CUBLAS_OP_N ? a.rows : a.cols;
    uint64_t a_cols = what.a == CUBLAS_OP_N ? a.cols : a.rows;
    uint64_t b_rows = what.b == CUBLAS_OP_N ? b.rows : b.cols;
    uint64_t b_cols = what.b == CUBLAS_OP_N ? b.cols : b.rows;
    bool leading = (uint64_t)a.ld >= a.rows && (uint64_t)b.ld >= b.rows && (uint64_t)c.ld >= c.rows;
    bool types = a.type == b.type && (c.type == a.type || c.type == CUDA_R_32F);
    bool batches = a.count == c.count && b.count == c.count && c.count > 0;
    return leading && types && batches && what.compute == CUBLAS_COMPUTE_32F &&
           what.scale == CUDA_R_32F && a_rows == c.rows && b_cols == c.cols && a_cols == b_rows &&
           c.rows > 0 && c.cols > 0 && a_cols > 0;
}

template <typename T> cublasStatus_t make(T **object, T value)
{
    *object = new (std::nothrow) T(value);
    return *object ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

template <typename T> cublasStatus_t set(T *to, const void *from, size_t size)
{
    if (size != sizeof *to)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, from, size);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return make(reinterpret_cast<int **>(handle), 0);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete as<int>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_INVALID_VALUE ? "a value the library refuses" : "failed";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *what, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    return make(
        reinterpret_cast<description **>(what),
        description{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t what)
{
    delete as<description>(what);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t what,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void *value, size_t size)
{
    description *d = as<description>(what);
    switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&d->a, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&d->b, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&d->epilogue, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(&d->bias, value, size);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    return make(reinterpret_cast<layout **>(made), layout{type, rows, cols, ld, 1, 0});
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t made,
                                                cublasLtMatrixLayoutAttribute_t which,
                                                const void *value, size_t size)
{
    layout *l = as<layout>(made);
    switch (which) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(&l->count, value, size);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(&l->next, value, size);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t made)
{
    delete as<layout>(made);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *wish)
{
    return make(reinterpret_cast<preference **>(wish),
                preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256});
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wish)
{
    delete as<preference>(wish);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void *value, size_t size)
{
    preference *p = as<preference>(wish);
    switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(&p->workspace, value, size);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set(&p->sums, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return set(&p->align_a, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return set(&p->align_b, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return set(&p->align_c, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set(&p->align_d, value, size);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

/* Long sums want workspace, short ones none. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t what,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int wanted,
                                              cublasLtMatmulHeuristicResult_t *found, int *count)
{
    const description *w = as<description>(what);
    const preference *p = as<preference>(wish);
    const layout *first = as<layout>(a);
    *count = 0;
    if (c != d || wanted < 1 || !fits(*w, *first, *as<layout>(b), *as<layout>(c)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (p->sums & (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE))
        return CUBLAS_STATUS_NOT_SUPPORTED; /* results would not be those that were promised */
    uint64_t depth = w->a == CUBLAS_OP_N ? first->cols : first->rows;
    algorithm how = {depth > 64 && p->workspace >= 4096 ? 4096u : 0u, p->align_a, p->align_b,
                     p->align_c < p->align_d ? p->align_c : p->align_d,
                     w->bias ? (uint32_t)((uintptr_t)w->bias & (~(uintptr_t)w->bias + 1)) : 0};
    memset(found, 0, sizeof *found);
    memcpy(&found->algo, &how, sizeof how);
    found->workspaceSize = how.workspace;
    found->state = CUBLAS_STATUS_SUCCESS;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t what, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    algorithm how;
    memcpy(&how, algo, sizeof how);
    product p = {*as<description>(what),
                 *as<layout>(a),
                 *as<layout>(b),
                 *as<layout>(c),
                 A,
                 B,
                 C,
                 D,
                 0,
                 0,
                 workspace,
                 workspace_bytes};
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    bool told = aligned(A, p.a, how.align_a) && aligned(B, p.b, how.align_b) &&
                aligned(C, p.c, how.align_c) && aligned(D, p.c, how.align_c) &&
                (how.bias == 0 || aligned(p.what.bias, how.bias));
    bool room = workspace_bytes >= how.workspace && aligned(workspace, 256) &&
                (workspace || how.workspace == 0);
    if (c != d || C != D || !told || !room || !fits(p.what, p.a, p.b, p.c))
        return CUBLAS_STATUS_INVALID_VALUE;
    cudasim_work(stream, [p] { p.run(); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
