/* cuda_comm.h - what the sums of several devices do on each of them. */
#ifndef PARE_CUDA_COMM_H
#define PARE_CUDA_COMM_H

#include "cuda_impl.h"

#include "pare/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* own [count] becomes the sum of all ranks' numbers, added by ascending rank; others [size − 1,
 * count]: those of the other ranks in that order. F32 or F64, device memory. */
pare_status pare__cuda_comm_add(pare_backend *be, void *own, const void *others, int rank, int size,
                                int64_t count, pare_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
