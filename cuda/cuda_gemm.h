/* cuda_gemm.h - products inside other ops: their scratch is a part of the op's own. */
#ifndef PARE_CUDA_GEMM_H
#define PARE_CUDA_GEMM_H

#include "cuda_impl.h"

/* Bytes of scratch of a gemm; and the gemm with a room of as many, aligned to 256. Of the addresses
 * the first one looks at the alignment only: NULL stands for a multiple of 256. */
pare_status pare__cuda_product_room(pare_backend *be, const pare_gemm_args *args, size_t *bytes);
pare_status pare__cuda_product(pare_backend *be, const pare_gemm_args *args, void *room);

#endif
