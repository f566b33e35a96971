/* cpu_batch_norm_fold.c - an inference batch norm as scale and shift of the convolution before it.
 * Without contraction: the same bytes on every instruction set. */
#include "cpu_impl.h"

#include <math.h>

pare_status PARE_CPU(pare_cpu_batch_norm_fold)(pare_backend *be,
                                               const pare_batch_norm_fold_args *args)
{
    const float *gamma = args->gamma.data, *beta = args->beta.data, *bias = args->bias.data;
    const float *mean = args->running_mean.data, *var = args->running_var.data;
    float *restrict scale = args->scale.data, *restrict shift = args->shift.data;
    (void)be; /* some hundred channels: one thread */
    for (int64_t c = 0; c < args->gamma.shape[0]; c++) {
        scale[c] = gamma[c] / sqrtf(var[c] + args->eps);
        shift[c] = beta[c] + ((bias ? bias[c] : 0.0f) - mean[c]) * scale[c];
    }
    return PARE_OK;
}
