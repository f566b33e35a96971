/* sim_dnn.cpp - stands in for cuDNN: the convolutions that cuda_conv_plan.c calls, on the
 * simulator's memory.
 *
 * It refuses what the library would: shapes that do not fit, dtypes that differ, addresses that are
 * not aligned to 16, an algorithm that is not deterministic, a workspace that is too small.
 */
#include "sim_control.h"

#include <cudnn.h>

#include <cmath>
#include <cstring>
#include <new>
#include <vector>

struct cudnnContext {
    cudaStream_t stream;
};
struct cudnnTensorStruct { /* channels last */
    cudnnDataType_t type;
    int n, c, h, w;
};
struct cudnnFilterStruct {
    cudnnDataType_t type;
    int k, c, h, w;
};
struct cudnnConvolutionStruct {
    int pad[2], stride[2], dilation[2], groups;
    cudnnMathType_t math;
};

namespace
{
const size_t WORKSPACE = 512;

float get(const void *from, cudnnDataType_t type, size_t i)
{
    if (type == CUDNN_DATA_FLOAT)
        return static_cast<const float *>(from)[i];
    uint32_t bits = (uint32_t) static_cast<const uint16_t *>(from)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void put(void *to, cudnnDataType_t type, size_t i, double value)
{
    float x = (float)value;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (type == CUDNN_DATA_FLOAT)
        static_cast<float *>(to)[i] = x;
    else
        static_cast<uint16_t *>(to)[i] =
            std::isnan(x) ? 0x7fff : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Which of the three is summed up. */
enum which { X, W, Y };

struct convolution {
    which result;
    cudnnTensorStruct x, y;
    cudnnFilterStruct w;
    cudnnConvolutionStruct c;
    const void *in[3]; /* x, w, y; that of the result is not read */
    void *out;
    float alpha, beta;
    void *workspace;
    size_t workspace_bytes;

    size_t count(which of) const
    {
        return of == X   ? (size_t)x.n * x.c * x.h * x.w
               : of == W ? (size_t)w.k * w.c * w.h * w.w
                         : (size_t)y.n * y.c * y.h * y.w;
    }

    /* The products of one element of y. */
    void walk(size_t at, std::vector<double> *sums, const std::vector<float> *values) const
    {
        int o = (int)(at % (size_t)y.c), j = (int)(at / (size_t)y.c % (size_t)y.w);
        int i = (int)(at / (size_t)y.c / (size_t)y.w % (size_t)y.h);
        int b = (int)(at / (size_t)y.c / (size_t)y.w / (size_t)y.h);
        int first = o / (w.k / c.groups) * w.c;
        for (int u = 0; u < w.h; u++)
            for (int v = 0; v < w.w; v++) {
                int r = i * c.stride[0] - c.pad[0] + u * c.dilation[0];
                int s = j * c.stride[1] - c.pad[1] + v * c.dilation[1];
                if (r < 0 || r >= x.h || s < 0 || s >= x.w)
                    continue;
                size_t image = (((size_t)b * x.h + r) * x.w + s) * x.c + first;
                size_t weight = (((size_t)o * w.h + u) * w.w + v) * w.c;
                for (int q = 0; q < w.c; q++) {
                    size_t place[3] = {image + q, weight + q, at};
                    double product = 1;
                    for (int t = 0; t < 3; t++)
                        if (t != result)
                            product *= (double)values[t][place[t]];
                    (*sums)[place[result]] += product;
                }
            }
    }

    void run() const
    {
        std::vector<double> sums(count(result), 0.0);
        std::vector<float> values[3];
        memset(workspace, 0xaa, workspace_bytes);
        for (int t = 0; t < 3; t++)
            for (size_t i = 0; t != result && i < count((which)t); i++)
                values[t].push_back(get(in[t], x.type, i));
        for (size_t i = 0; i < count(Y); i++)
            walk(i, &sums, values);
        for (size_t i = 0; i < sums.size(); i++) {
            double sum = (double)alpha * sums[i];
            put(out, x.type, i, beta != 0 ? sum + (double)(beta * get(out, x.type, i)) : sum);
        }
    }
};

bool fits(const cudnnTensorStruct *x, const cudnnFilterStruct *w, const cudnnTensorStruct *y,
          const cudnnConvolutionStruct *c)
{
    int reach[2] = {c->dilation[0] * (w->h - 1), c->dilation[1] * (w->w - 1)};
    return x->type == w->type && x->type == y->type && x->n == y->n && w->k == y->c &&
           w->c * c->groups == x->c && w->k % c->groups == 0 && c->pad[0] <= reach[0] &&
           c->pad[1] <= reach[1] &&
           (x->h + 2 * c->pad[0] - reach[0] - 1) / c->stride[0] + 1 == y->h &&
           (x->w + 2 * c->pad[1] - reach[1] - 1) / c->stride[1] + 1 == y->w &&
           c->math == (x->type == CUDNN_DATA_FLOAT ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH);
}

bool aligned(const void *pointer)
{
    return (uintptr_t)pointer % 16 == 0;
}

cudnnStatus_t run(cudnnHandle_t handle, const convolution &k, const float *alpha, const float *beta)
{
    convolution work = k;
    work.alpha = *alpha;
    work.beta = *beta;
    if (!fits(&k.x, &k.w, &k.y, &k.c) || k.workspace_bytes < WORKSPACE || !aligned(k.workspace) ||
        !k.workspace)
        return CUDNN_STATUS_BAD_PARAM;
    for (int i = 0; i < 3; i++)
        if (!aligned(k.in[i]))
            return CUDNN_STATUS_BAD_PARAM;
    cudasim_work(handle->stream, [work] { work.run(); });
    return CUDNN_STATUS_SUCCESS;
}

template <typename T> cudnnStatus_t make(T **object, T value)
{
    *object = new (std::nothrow) T(value);
    return *object ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

/* The heuristic's list: one that fails, one that is not deterministic, then the one to take. */
template <typename P, typename A>
cudnnStatus_t list(int wanted, int *count, P *found, A failing, A random, A good,
                   cudnnMathType_t math)
{
    const A algo[] = {failing, random, good};
    *count = wanted < 3 ? wanted : 3;
    for (int i = 0; i < *count; i++) {
        found[i].algo = algo[i];
        found[i].status = i == 0 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
        found[i].determinism = i == 1 ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC;
        found[i].memory = WORKSPACE;
        found[i].mathType = math;
    }
    return CUDNN_STATUS_SUCCESS;
}

/* A convolution of more than 4096 channels is one that the library cannot do. */
cudnnStatus_t room(bool good, const cudnnTensorStruct *x, size_t *bytes)
{
    *bytes = WORKSPACE;
    return good && x->c <= 4096 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}

} // namespace

extern "C" {

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    return status == CUDNN_STATUS_BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" : "failed";
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    return make(handle, cudnnContext{nullptr});
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *made)
{
    return make(made, cudnnTensorStruct{});
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t made)
{
    delete made;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t made, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w)
{
    *made = {type, n, c, h, w};
    bool good = format == CUDNN_TENSOR_NHWC && n > 0 && c > 0 && h > 0 && w > 0;
    return good ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *made)
{
    return make(made, cudnnFilterStruct{});
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t made)
{
    delete made;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t made, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w)
{
    *made = {type, k, c, h, w};
    bool good = format == CUDNN_TENSOR_NHWC && k > 0 && c > 0 && h > 0 && w > 0;
    return good ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *made)
{
    return make(made, cudnnConvolutionStruct{});
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t made)
{
    delete made;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t made, int pad_h,
                                              int pad_w, int u, int v, int dilation_h,
                                              int dilation_w, cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute)
{
    *made = {{pad_h, pad_w}, {u, v}, {dilation_h, dilation_w}, 1, CUDNN_DEFAULT_MATH};
    bool good = mode == CUDNN_CROSS_CORRELATION && compute == CUDNN_DATA_FLOAT;
    return good ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t made, int groups)
{
    made->groups = groups;
    return groups > 0 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t made, cudnnMathType_t math)
{
    made->math = math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t,
                                                     const cudnnFilterDescriptor_t,
                                                     const cudnnConvolutionDescriptor_t conv,
                                                     const cudnnTensorDescriptor_t,
                                                     const int wanted, int *count,
                                                     cudnnConvolutionFwdAlgoPerf_t *found)
{
    return list(wanted, count, found, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
                conv->math);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t,
                                                      const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t,
                                                      const cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t algo, size_t *bytes)
{
    return room(algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, x, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t, const int wanted,
    int *count, cudnnConvolutionBwdDataAlgoPerf_t *found)
{
    return list(wanted, count, found, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
                conv->math);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
    cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t dx,
    cudnnConvolutionBwdDataAlgo_t algo, size_t *bytes)
{
    return room(algo == CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, dx, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t, const int, int *count,
    cudnnConvolutionBwdFilterAlgoPerf_t *)
{
    *count = 0;
    return CUDNN_STATUS_NOT_SUPPORTED; /* the caller knows one that may do */
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t,
    const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t,
    cudnnConvolutionBwdFilterAlgo_t algo, size_t *bytes)
{
    return room(algo == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, x, bytes);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void *alpha,
                                      const cudnnTensorDescriptor_t x_desc, const void *x,
                                      const cudnnFilterDescriptor_t w_desc, const void *w,
                                      const cudnnConvolutionDescriptor_t conv,
                                      cudnnConvolutionFwdAlgo_t algo, void *workspace,
                                      size_t workspace_bytes, const void *beta,
                                      const cudnnTensorDescriptor_t y_desc, void *y)
{
    if (algo != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM)
        return CUDNN_STATUS_NOT_SUPPORTED;
    return run(
        handle,
        convolution{
            Y, *x_desc, *y_desc, *w_desc, *conv, {x, w, y}, y, 0, 0, workspace, workspace_bytes},
        static_cast<const float *>(alpha), static_cast<const float *>(beta));
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void *alpha,
                                           const cudnnFilterDescriptor_t w_desc, const void *w,
                                           const cudnnTensorDescriptor_t dy_desc, const void *dy,
                                           const cudnnConvolutionDescriptor_t conv,
                                           cudnnConvolutionBwdDataAlgo_t algo, void *workspace,
                                           size_t workspace_bytes, const void *beta,
                                           const cudnnTensorDescriptor_t dx_desc, void *dx)
{
    if (algo != CUDNN_CONVOLUTION_BWD_DATA_ALGO_1)
        return CUDNN_STATUS_NOT_SUPPORTED;
    return run(handle,
               convolution{X,
                           *dx_desc,
                           *dy_desc,
                           *w_desc,
                           *conv,
                           {dx, w, dy},
                           dx,
                           0,
                           0,
                           workspace,
                           workspace_bytes},
               static_cast<const float *>(alpha), static_cast<const float *>(beta));
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void *alpha,
                                             const cudnnTensorDescriptor_t x_desc, const void *x,
                                             const cudnnTensorDescriptor_t dy_desc, const void *dy,
                                             const cudnnConvolutionDescriptor_t conv,
                                             cudnnConvolutionBwdFilterAlgo_t algo, void *workspace,
                                             size_t workspace_bytes, const void *beta,
                                             const cudnnFilterDescriptor_t dw_desc, void *dw)
{
    if (algo != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1)
        return CUDNN_STATUS_NOT_SUPPORTED;
    return run(handle,
               convolution{W,
                           *x_desc,
                           *dy_desc,
                           *dw_desc,
                           *conv,
                           {x, dw, dy},
                           dw,
                           0,
                           0,
                           workspace,
                           workspace_bytes},
               static_cast<const float *>(alpha), static_cast<const float *>(beta));
}

} // extern "C"
