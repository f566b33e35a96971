/* cuda_nn.cuh - kernels of ops_nn.h include this one instead of cuda_common.cuh: the build compiles
 * files that do with fused multiply-add (all others with -fmad=false: their bytes are the CPU's).
 */
#ifndef PARE_CUDA_NN_CUH
#define PARE_CUDA_NN_CUH

#include "cuda_common.cuh"

#endif
