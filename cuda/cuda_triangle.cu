/* cuda_triangle.cu - the end of a Cholesky factorisation: zeros above the diagonal, and a look at
 * the diagonal itself; and the look that comes before a triangle is inverted.
 *
 * A block has a row. Bound by memory, 2 bytes written an element of the square; predicted 85 % of
 * the rate of writing, beside n³/6 multiply-adds that come before it. No GPU has measured it yet.
 */
#include "cuda_nn.cuh"

#include "cuda_linalg.h"

#include <float.h>

#define THREADS 256

static __global__ void __launch_bounds__(THREADS) k_triangle(float *a, int64_t n, int *order)
{
    int64_t i = blockIdx.x;
    float *row = a + i * n;
    for (int64_t j = i + 1 + threadIdx.x; j < n; j += THREADS)
        row[j] = 0.0f;
    if (order && threadIdx.x == 0 && !(row[i] > 0.0f && row[i] <= FLT_MAX)) /* NaN too */
        atomicMin(order, (int)i + 1);
}

extern "C" pare_status pare__cuda_triangle(pare_backend *be, float *a, int64_t n, int *order)
{
    PARE_LAUNCH(be, k_triangle, n, THREADS, 0, a, n, order);
    return PARE_OK;
}

static __global__ void __launch_bounds__(THREADS) k_regular(const float *a, int64_t n, int *order)
{
    int64_t i = grid_thread();
    if (i < n && !(a[i * (n + 1)] != 0.0f && fabsf(a[i * (n + 1)]) <= FLT_MAX)) /* NaN too */
        atomicMin(order, (int)i + 1);
}

extern "C" pare_status pare__cuda_regular(pare_backend *be, const float *a, int64_t n, int *order)
{
    PARE_LAUNCH(be, k_regular, pare__blocks(n, THREADS), THREADS, 0, a, n, order);
    return PARE_OK;
}
