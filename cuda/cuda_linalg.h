/* cuda_linalg.h - the kernel beside cuSOLVER's factorisation (cuda_triangle.cu). */
#ifndef PARE_CUDA_LINALG_H
#define PARE_CUDA_LINALG_H

#include "cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Above the diagonal of a [n, n] becomes +0. *order, on the device, becomes the least i + 1 for
 * which a[i, i] is not positive and finite, if that is below what is there. */
pare_status pare__cuda_triangle(pare_backend *be, float *a, int64_t n, int *order);

#ifdef __cplusplus
}
#endif
#endif
