/* sim_solver.cpp - stands in for cuSOLVER: the Cholesky factorisation of cuda_linalg.c, on the
 * simulator's memory. A NaN does not count as a failure here: the library promises nothing of it.
 */
#include "sim_control.h"

#include <cusolverDn.h>

#include <cmath>
#include <cstring>
#include <new>

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

} // extern "C"
