/* sim_solver.cpp - stands in for cuSOLVER: the factorisation and the inverse of cuda_linalg.c, on
 * the simulator's memory. A NaN does not count as a failure here: the library promises nothing of
 * it.
 */
#include "sim_control.h"

#include <cusolverDn.h>

#include <cmath>
#include <cstring>
#include <new>
#include <vector>

struct cusolverDnContext {
    cudaStream_t stream;
};

namespace
{
const int WORKSPACE = 96;

/* A = Uᵀ·U, column-major, upper: column i of U is row i of a row-major L. */
void factor(float *a, int64_t n, int64_t ld, int *info)
{
    *info = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = a[i * ld + j];
            for (int64_t k = 0; k < j; k++)
                sum -= (double)a[i * ld + k] * a[j * ld + k];
            if (i == j && sum <= 0) {
                *info = (int)i + 1;
                return;
            }
            a[i * ld + j] = (float)(i == j ? std::sqrt(sum) : sum / a[j * ld + j]);
        }
}

/* The inverse of U, column-major, upper: of a row-major L, row by row from the top. */
void invert(float *a, int64_t n, int64_t ld, int *info)
{
    *info = 0;
    for (int64_t i = 0; i < n && *info == 0; i++)
        *info = a[i * ld + i] == 0 ? (int)i + 1 : 0;
    if (*info != 0)
        return;
    std::vector<double> row((size_t)n);
    for (int64_t i = 0; i < n; i++) {
        double by = 1.0 / a[i * ld + i];
        for (int64_t j = 0; j < i; j++) {
            row[(size_t)j] = 0;
            for (int64_t k = j; k < i; k++)
                row[(size_t)j] -= (double)a[i * ld + k] * a[k * ld + j];
        }
        for (int64_t j = 0; j < i; j++)
            a[i * ld + j] = (float)(row[(size_t)j] * by);
        a[i * ld + i] = (float)by;
    }
}

} // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle)
{
    *handle = new (std::nothrow) cusolverDnContext{nullptr};
    return *handle ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_ALLOC_FAILED;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle)
{
    delete handle;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t,
                                                cusolverDeterministicMode_t mode)
{
    return mode == CUSOLVER_DETERMINISTIC_RESULTS ? CUSOLVER_STATUS_SUCCESS
                                                  : CUSOLVER_STATUS_INVALID_VALUE;
}

cusolverStatus_t cusolverDnSpotrf_bufferSize(cusolverDnHandle_t, cublasFillMode_t, int, float *,
                                             int, int *count)
{
    *count = WORKSPACE;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSpotrf(cusolverDnHandle_t handle, cublasFillMode_t triangle, int n,
                                  float *a, int ld, float *workspace, int count, int *info)
{
    if (triangle != CUBLAS_FILL_MODE_UPPER || n < 1 || ld < n || count < WORKSPACE ||
        (uintptr_t)a % 16 != 0 || (uintptr_t)workspace % 16 != 0)
        return CUSOLVER_STATUS_INVALID_VALUE;
    cudasim_work(handle->stream, [=] {
        memset(workspace, 0xaa, (size_t)count * sizeof *workspace);
        factor(a, n, ld, info);
    });
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t, cublasFillMode_t, cublasDiagType_t,
                                             int64_t, cudaDataType, void *, int64_t, size_t *device,
                                             size_t *host)
{
    *device = *host = WORKSPACE;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t triangle,
                                  cublasDiagType_t diagonal, int64_t n, cudaDataType type,
                                  void *matrix, int64_t ld, void *device, size_t device_bytes,
                                  void *host, size_t host_bytes, int *info)
{
    if (triangle != CUBLAS_FILL_MODE_UPPER || diagonal != CUBLAS_DIAG_NON_UNIT ||
        type != CUDA_R_32F || n < 1 || ld < n || device_bytes < WORKSPACE ||
        host_bytes < WORKSPACE || (uintptr_t)matrix % 16 != 0 || (uintptr_t)device % 16 != 0)
        return CUSOLVER_STATUS_INVALID_VALUE;
    cudasim_work(handle->stream, [=] {
        memset(device, 0xaa, device_bytes);
        memset(host, 0xaa, host_bytes);
        invert(static_cast<float *>(matrix), n, ld, info);
    });
    return CUSOLVER_STATUS_SUCCESS;
}

} // extern "C"
