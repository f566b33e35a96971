/* cuda_sweep_update.c - obs_update: one product by cuBLASLt, inside w and u, in full f32. */
#include "cuda_gemm.h"

pare_status pare_cuda_obs_update(pare_backend *be, const pare_obs_update_args *args)
{
    int64_t C = args->w.shape[1], N = args->err.shape[1], behind = args->first + N;
    return pare__cuda_gemm_sub(
        be, &(pare__cuda_sub){.dtype = PARE_F32,
                              .M = args->w.shape[0],
                              .N = args->last - behind,
                              .K = N,
                              .a = args->err.data,
                              .lda = N,
                              .b = (const float *)args->u.data + args->first * C + behind,
                              .ldb = C,
                              .c = (float *)args->w.data + behind,
                              .ldc = C,
                              .alpha = -1,
                              .accumulate = true});
}
