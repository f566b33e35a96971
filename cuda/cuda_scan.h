/* cuda_scan.h - running sums of counts on the device, for kernels that count first and place then.
 */
#ifndef PARE_CUDA_SCAN_H
#define PARE_CUDA_SCAN_H

#include "cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* counts[i] becomes the sum of those before it, counts[n] that of all. */
pare_status pare__cuda_scan(pare_backend *be, int64_t *counts /* [n + 1], device */, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
