/* cpu_dnnl.h - the ops that oneDNN computes. It chooses its instruction set by itself, so they are
 * compiled once; the slots of every instruction set of ours call them. */
#ifndef PARE_CPU_DNNL_H
#define PARE_CPU_DNNL_H

#include "backend_impl.h"

pare_status pare__dnnl_gemm(pare_backend *be, const pare_gemm_args *args);
pare_status pare__dnnl_conv(pare_backend *be, const pare_conv_args *args);
pare_status pare__dnnl_conv_grad_x(pare_backend *be, const pare_conv_grad_x_args *args);
pare_status pare__dnnl_conv_grad_w(pare_backend *be, const pare_conv_grad_w_args *args);

/* How many products a backend has prepared. */
int64_t pare__product_plans(const pare_backend *be);

#endif
