/* cpu_gram.c - gram, on every instruction set oneDNN's. */
#include "cpu_impl.h"

#include "cpu_dnnl.h"

pare_status PARE_CPU(pare_cpu_gram)(pare_backend *be, const pare_gram_args *args)
{
    return pare__dnnl_gram(be, args);
}
