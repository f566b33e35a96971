/* cuda_check.h - failures of NVIDIA's libraries as statuses: one adapter each. The sentence has the
 * call, what the library says of it, and what may be done. */
#ifndef PARE_CUDA_CHECK_H
#define PARE_CUDA_CHECK_H

#include "base/check.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cudaErrorMemoryAllocation is PARE_ERR_MEMORY, everything else PARE_ERR_DEVICE. After an error
 * that the device does not recover from (an illegal address, a lost device) every later call fails
 * too, and the sentence says that the device must be given up. */
pare_status pare__cuda_error(cudaError_t error, const char *where, const char *call);

/* What a launch left behind: a wrong configuration at once, and any error that came before. The
 * sentence names the kernel and its sizes. */
pare_status pare__cuda_launched(const char *where, const char *kernel, int64_t blocks, int threads,
                                int64_t shared_bytes);

#define PARE_CUDA(call_)                                                                           \
    do {                                                                                           \
        cudaError_t cuda_ = (call_);                                                               \
        if (cuda_ != cudaSuccess)                                                                  \
            return pare__cuda_error(cuda_, __func__, #call_);                                      \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
