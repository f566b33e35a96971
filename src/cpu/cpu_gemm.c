/* cpu_gemm.c - gemm, on every instruction set oneDNN's. */
#include "cpu_impl.h"

#include "cpu_dnnl.h"

pare_status PARE_CPU(pare_cpu_gemm)(pare_backend *be, const pare_gemm_args *args)
{
    return pare__dnnl_gemm(be, args);
}
