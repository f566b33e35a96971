/* cpu_sweep_update.c - obs_update, on every instruction set oneDNN's product: half of all that a
 * sweep computes, and more. */
#include "cpu_impl.h"

#include "cpu_dnnl.h"

pare_status PARE_CPU(pare_cpu_obs_update)(pare_backend *be, const pare_obs_update_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1], N = args->err.shape[1];
    int64_t behind = args->first + N;
    float *w = args->w.data, *u = args->u.data;
    if (R * N * (args->last - behind) == 0)
        return PARE_OK;
    return pare__dnnl_gemm_sub(be, &(pare__gemm_sub){.dtype = PARE_F32,
                                                     .M = R,
                                                     .N = args->last - behind,
                                                     .K = N,
                                                     .a = {args->err.data, N, 1},
                                                     .b = {u + args->first * C + behind, C, 1},
                                                     .c = {w + behind, C, 1},
                                                     .add = true,
                                                     .negative = true});
}
