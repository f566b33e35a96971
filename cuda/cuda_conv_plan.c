/* cuda_conv_plan.c - convolutions as cuDNN's descriptors and algorithms, found once for a shape and
 * kept.
 *
 * Of the algorithms that cuDNN's heuristic lists the first is taken that is deterministic, sums
 * products as they are (no FFT, no Winograd: their rounding is not that of a sum) and needs no more
 * than 1 GiB of workspace; where the list has none, the one that is deterministic everywhere. F32
 * is multiplied in full F32 (no TF32).
 */
#include "cuda_conv.h"

#include "cuda_plan.h"

#include "base/alloc.h"

#include <cudnn.h>
#include <string.h>

#define PLANS 1024
#define PROBES 8 /* slots that a key may be in */
#define MOST_FOUND 16
#define MOST_WORKSPACE ((size_t)1 << 30)

struct conv_plan {
    bool there;
    conv_key key;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
    int how; /* of its kind's enum */
    size_t workspace;
};

typedef struct conv_state {
    cudnnHandle_t handle;
    conv_plan plans[PLANS];
} conv_state;

/* ---- failures -------------------------------------------------------------------------------- */

static pare_status dnn_error(cudnnStatus_t error, const char *where, const char *call)
{
    int length = (int)strcspn(call, "(");
    if (error == CUDNN_STATUS_ALLOC_FAILED)
        return pare__error(PARE_ERR_MEMORY, where,
                           "cuDNN: %.*s lacks memory: close what else uses the device, or choose a "
                           "smaller batch",
                           length, call);
    return pare__error(PARE_ERR_DEVICE, where, "cuDNN: %.*s failed: %s", length, call,
                       cudnnGetErrorString(error));
}

#define DNN(call_)                                                                                 \
    do {                                                                                           \
        cudnnStatus_t dnn_ = (call_);                                                              \
        if (dnn_ != CUDNN_STATUS_SUCCESS)                                                          \
            return dnn_error(dnn_, __func__, #call_);                                              \
    } while (0)

/* cuDNN cannot do this one. */
static pare_status no_algorithm(const conv_key *k, const char *where)
{
    static const char *const names[] = {"conv", "conv_grad_x", "conv_grad_w"};
    return pare__error(
        PARE_ERR_UNSUPPORTED, where,
        "%s: cuDNN has no deterministic algorithm for %s images [%d, %d, %d, %d] and weights [%d, "
        "%d, %d, %d] in %d groups with stride %d × %d, dilation %d × %d, padding %d × %d; use the "
        "cpu, or a smaller batch",
        names[k->kind], pare_dtype_name((pare_dtype)k->dtype), k->B, k->H, k->W, k->I, k->O,
        k->I / k->groups, k->kernel[0], k->kernel[1], k->groups, k->stride[0], k->stride[1],
        k->dilation[0], k->dilation[1], k->pad[0], k->pad[1]);
}

/* ---- plans ----------------------------------------------------------------------------------- */

static void free_plan(conv_plan *plan)
{
    if (plan->conv)
        (void)cudnnDestroyConvolutionDescriptor(plan->conv);
    if (plan->w)
        (void)cudnnDestroyFilterDescriptor(plan->w);
    if (plan->y)
        (void)cudnnDestroyTensorDescriptor(plan->y);
    if (plan->x)
        (void)cudnnDestroyTensorDescriptor(plan->x);
    *plan = (conv_plan){0};
}

static void free_state(void *state)
{
    conv_state *s = state;
    if (!s)
        return;
    for (int i = 0; i < PLANS; i++)
        free_plan(&s->plans[i]);
    if (s->handle)
        (void)cudnnDestroy(s->handle);
    free(s);
}

/* The backend's table of plans, made at the first convolution. */
static pare_status state_of(pare_backend *be, conv_state **state)
{
    pare__cuda *c = pare__cuda_of(be);
    PARE_TRY(pare__cuda_use(be));
    if (!c->dnn) {
        PARE_TRY(pare__calloc(1, sizeof **state, &c->dnn));
        c->free_dnn = free_state;
    }
    *state = c->dnn;
    if (!(*state)->handle) {
        DNN(cudnnCreate(&(*state)->handle));
        DNN(cudnnSetStream((*state)->handle, c->stream));
    }
    return PARE_OK;
}

static pare_status describe(conv_plan *p)
{
    const conv_key *k = &p->key;
    bool half = k->dtype == PARE_BF16;
    cudnnDataType_t type = half ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    DNN(cudnnCreateTensorDescriptor(&p->x));
    DNN(cudnnCreateTensorDescriptor(&p->y));
    DNN(cudnnCreateFilterDescriptor(&p->w));
    DNN(cudnnCreateConvolutionDescriptor(&p->conv));
    DNN(cudnnSetTensor4dDescriptor(p->x, CUDNN_TENSOR_NHWC, type, k->B, k->I, k->H, k->W));
    DNN(cudnnSetTensor4dDescriptor(p->y, CUDNN_TENSOR_NHWC, type, k->B, k->O, k->rows, k->cols));
    DNN(cudnnSetFilter4dDescriptor(p->w, type, CUDNN_TENSOR_NHWC, k->O, k->I / k->groups,
                                   k->kernel[0], k->kernel[1]));
    DNN(cudnnSetConvolution2dDescriptor(p->conv, k->pad[0], k->pad[1], k->stride[0], k->stride[1],
                                        k->dilation[0], k->dilation[1], CUDNN_CROSS_CORRELATION,
                                        CUDNN_DATA_FLOAT));
    DNN(cudnnSetConvolutionGroupCount(p->conv, k->groups));
    DNN(cudnnSetConvolutionMathType(p->conv, half ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH));
    return PARE_OK;
}

/* A function that chooses the algorithm of a plan. perf_, algo_: cuDNN's types; ask_, room_: its
 * functions that list algorithms and tell their workspace; last_: the last algorithm in the enum
 * that may be taken, fallback_ the one that always may; the descriptors in cuDNN's order. */
#define CHOOSER(name_, perf_, algo_, ask_, room_, last_, fallback_, in_, in2_, out_)               \
    static pare_status name_(const conv_state *s, conv_plan *p)                                    \
    {                                                                                              \
        perf_ found[MOST_FOUND];                                                                   \
        int count = 0, i = 0;                                                                      \
        cudnnStatus_t error =                                                                      \
            ask_(s->handle, p->in_, p->in2_, p->conv, p->out_, MOST_FOUND, &count, found);         \
        if (error != CUDNN_STATUS_SUCCESS)                                                         \
            count = 0; /* what it cannot list it may still do */                                   \
        while (i < count && !(found[i].status == CUDNN_STATUS_SUCCESS &&                           \
                              found[i].determinism == CUDNN_DETERMINISTIC &&                       \
                              found[i].algo <= (last_) && found[i].memory <= MOST_WORKSPACE))      \
            i++;                                                                                   \
        p->how = (int)(i < count ? found[i].algo : (fallback_));                                   \
        if (i < count && p->key.dtype == PARE_BF16)                                                \
            DNN(cudnnSetConvolutionMathType(p->conv, found[i].mathType));                          \
        error = room_(s->handle, p->in_, p->in2_, p->conv, p->out_, (algo_)p->how, &p->workspace); \
        if (error == CUDNN_STATUS_BAD_PARAM ||                                                     \
            CUDNN_STATUS_CATEGORY(error) == CUDNN_STATUS_NOT_SUPPORTED)                            \
            return no_algorithm(&p->key, __func__);                                                \
        DNN(error);                                                                                \
        return PARE_OK;                                                                            \
    }

CHOOSER(choose_forward, cudnnConvolutionFwdAlgoPerf_t, cudnnConvolutionFwdAlgo_t,
        cudnnGetConvolutionForwardAlgorithm_v7, cudnnGetConvolutionForwardWorkspaceSize,
        CUDNN_CONVOLUTION_FWD_ALGO_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, x, w, y)
CHOOSER(choose_grad_x, cudnnConvolutionBwdDataAlgoPerf_t, cudnnConvolutionBwdDataAlgo_t,
        cudnnGetConvolutionBackwardDataAlgorithm_v7, cudnnGetConvolutionBackwardDataWorkspaceSize,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, w, y, x)
CHOOSER(choose_grad_w, cudnnConvolutionBwdFilterAlgoPerf_t, cudnnConvolutionBwdFilterAlgo_t,
        cudnnGetConvolutionBackwardFilterAlgorithm_v7,
        cudnnGetConvolutionBackwardFilterWorkspaceSize, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, x, y, w)

static pare_status fill_plan(const conv_state *s, conv_plan *plan)
{
    static pare_status (*const choose[])(const conv_state *, conv_plan *) = {
        choose_forward, choose_grad_x, choose_grad_w};
    PARE_TRY(describe(plan));
    return choose[plan->key.kind](s, plan);
}

/* From the table, or new in the place of an old one. */
pare_status pare__conv_plan(pare_backend *be, const conv_key *key, conv_plan **plan,
                            size_t *workspace)
{
    conv_state *s = NULL;
    PARE_TRY(state_of(be, &s));
    size_t start = pare__cuda_hash(key, sizeof *key);
    for (size_t i = 0; i < PROBES; i++) {
        *plan = &s->plans[(start + i) % PLANS];
        if (!(*plan)->there)
            break;
        if (memcmp(&(*plan)->key, key, sizeof *key) == 0) {
            *workspace = (*plan)->workspace;
            return PARE_OK;
        }
    }
    free_plan(*plan);
    (*plan)->key = *key;
    pare_status status = fill_plan(s, *plan);
    if (status != PARE_OK) {
        free_plan(*plan);
        return status;
    }
    (*plan)->there = true;
    *workspace = (*plan)->workspace;
    return PARE_OK;
}

pare_status pare__conv_run(pare_backend *be, const conv_plan *p, void *x, void *w, void *y,
                           bool add, void *workspace)
{
    const conv_state *s = pare__cuda_of(be)->dnn;
    float one = 1, keep = add ? 1.0f : 0.0f;
    void *room = p->workspace > 0 ? workspace : NULL;
    cudnnStatus_t error = CUDNN_STATUS_SUCCESS;
    switch ((conv_kind)p->key.kind) {
    case CONV_FORWARD:
        error = cudnnConvolutionForward(s->handle, &one, p->x, x, p->w, w, p->conv,
                                        (cudnnConvolutionFwdAlgo_t)p->how, room, p->workspace,
                                        &keep, p->y, y);
        break;
    case CONV_GRAD_X:
        error = cudnnConvolutionBackwardData(s->handle, &one, p->w, w, p->y, y, p->conv,
                                             (cudnnConvolutionBwdDataAlgo_t)p->how, room,
                                             p->workspace, &keep, p->x, x);
        break;
    case CONV_GRAD_W:
        error = cudnnConvolutionBackwardFilter(s->handle, &one, p->x, x, p->y, y, p->conv,
                                               (cudnnConvolutionBwdFilterAlgo_t)p->how, room,
                                               p->workspace, &keep, p->w, w);
        break;
    }
    if (CUDNN_STATUS_CATEGORY(error) == CUDNN_STATUS_NOT_SUPPORTED)
        return no_algorithm(&p->key, __func__);
    DNN(error);
    return PARE_OK;
}
