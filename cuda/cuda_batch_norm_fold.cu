/* cuda_batch_norm_fold.cu - an inference batch norm as scale and shift of the convolution before
 * it.
 *
 *     scale = gamma/sqrt(var + eps), shift = beta + (bias − mean)·scale
 *
 * A thread a channel; the same bytes as on the CPU (no fused multiply-add). Bound by the launch.
 */
#include "cuda_common.cuh"

#define THREADS 256

typedef struct fold {
    const float *gamma, *beta, *mean, *var; /* [C] */
    const float *bias;                      /* [C] or NULL */
    float *scale, *shift;                   /* [C] */
    float eps;
} fold;

static __global__ void __launch_bounds__(THREADS) k_batch_norm_fold(fold f, int64_t C)
{
    const int64_t c = grid_thread();
    if (c < C) {
        float scale = f.gamma[c] / sqrtf(f.var[c] + f.eps);
        f.scale[c] = scale;
        f.shift[c] = f.beta[c] + ((f.bias ? f.bias[c] : 0.0f) - f.mean[c]) * scale;
    }
}

extern "C" pare_status pare_cuda_batch_norm_fold(pare_backend *be,
                                                 const pare_batch_norm_fold_args *args)
{
    int64_t C = args->gamma.shape[0];
    fold f;
    f.gamma = (const float *)args->gamma.data;
    f.beta = (const float *)args->beta.data;
    f.mean = (const float *)args->running_mean.data;
    f.var = (const float *)args->running_var.data;
    f.bias = (const float *)args->bias.data;
    f.scale = (float *)args->scale.data;
    f.shift = (float *)args->shift.data;
    f.eps = args->eps;
    PARE_LAUNCH(be, k_batch_norm_fold, pare__blocks(C, THREADS), THREADS, 0, f, C);
    return PARE_OK;
}
