/* cuda_linalg.h - the kernels beside cuSOLVER's factorisations (cuda_triangle.cu). */
#ifndef PARE_CUDA_LINALG_H
#define PARE_CUDA_LINALG_H

#include "cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Above the diagonal of a [n, n] becomes +0. *order, on the device, becomes the least i + 1 for
 * which a[i, i] is not positive and finite, if that is below what is there (NULL: nobody asks). */
pare_status pare__cuda_triangle(pare_backend *be, float *a, int64_t n, int *order);

/* The same of an a[i, i] that is 0 or not finite; nothing is written to a. */
pare_status pare__cuda_regular(pare_backend *be, const float *a, int64_t n, int *order);

#ifdef __cplusplus
}
#endif
#endif
