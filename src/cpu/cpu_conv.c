/* cpu_conv.c - convolutions, on every instruction set oneDNN's. */
#include "cpu_impl.h"

#include "cpu_dnnl.h"

pare_status PARE_CPU(pare_cpu_conv)(pare_backend *be, const pare_conv_args *args)
{
    return pare__dnnl_conv(be, args);
}

pare_status PARE_CPU(pare_cpu_conv_grad_x)(pare_backend *be, const pare_conv_grad_x_args *args)
{
    return pare__dnnl_conv_grad_x(be, args);
}

pare_status PARE_CPU(pare_cpu_conv_grad_w)(pare_backend *be, const pare_conv_grad_w_args *args)
{
    return pare__dnnl_conv_grad_w(be, args);
}
