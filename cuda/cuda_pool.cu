/* cuda_pool.cu - the mean of each window, and its gradient, over images with channels last.
 *
 * A thread an output (of 16 bytes of channels); the gradient looks from each input at the windows
 * that hold it, in order, so every element is written once. A global pool is a window like any
 * other. Bound by memory: the bytes of x and of y, once each. Predicted, not measured: 80 % of the
 * copy rate; a global pool, which has few threads, 70 % from 4,096 outputs of 16 bytes on.
 */
#include "cuda_nn.cuh"

#include "cuda_pool.cuh"

/* 1/(elements of a window); 0 where there are none. */
static __device__ __forceinline__ float window_share(const pool &g, const pool_span &down,
                                                     const pool_span &across)
{
    int64_t count = g.count_pad ? (int64_t)g.window.kernel[0] * g.window.kernel[1]
                                : (int64_t)pool_span_count(down) * pool_span_count(across);
    return count > 0 ? 1.0f / (float)count : 0.0f;
}

/* Lines are summed on their own: a long window stays accurate. */
template <typename T, int W>
static __global__ void __launch_bounds__(POOL_THREADS) k_pool_avg(pool g, const T *x, T *y)
{
    pool_pixel o;
    if (!pool_at<W>(g, g.rows, g.cols, &o))
        return;
    const pool_span down = pool_span_of(g, 0, o.i), across = pool_span_of(g, 1, o.j);
    float sum[W] = {0}, share = window_share(g, down, across);
    for (int u = down.from; u < down.to; u++) {
        const T *from = x + ((o.b * g.H + down.first + u) * g.W + across.first) * g.C + o.c;
        float line[W] = {0};
        for (int v = across.from; v < across.to; v += POOL_AT_ONCE) {
            pack_of<T, W> p[POOL_AT_ONCE];
#pragma unroll
            for (int s = 0; s < POOL_AT_ONCE; s++)
                p[s] = load_pack<T, W>(from + min(v + s, across.to - 1) * g.C);
#pragma unroll
            for (int s = 0; s < POOL_AT_ONCE; s++)
#pragma unroll
                for (int k = 0; k < W; k++)
                    line[k] += v + s < across.to ? to_f32(p[s].at[k]) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < W; k++)
            sum[k] += line[k];
    }
    pack_of<T, W> p;
#pragma unroll
    for (int k = 0; k < W; k++)
        p.at[k] = from_f32<T>(sum[k] * share);
    store_pack<T, W>(y + ((o.b * g.rows + o.i) * g.cols + o.j) * g.C + o.c, p);
}

template <typename T, int W>
static __global__ void __launch_bounds__(POOL_THREADS) k_pool_avg_grad(pool g, const T *dy, T *dx)
{
    pool_pixel o;
    if (!pool_at<W>(g, g.H, g.W, &o))
        return;
    const pool_outputs down = pool_outputs_of(g, 0, o.i), across = pool_outputs_of(g, 1, o.j);
    float sum[W] = {0};
    for (int64_t i = down.from; i < down.to; i++) {
        const pool_span of_i = pool_span_of(g, 0, i);
        const T *from = dy + (o.b * g.rows + i) * g.cols * g.C + o.c;
        for (int64_t first = across.from; first < across.to; first += POOL_GRAD_AT_ONCE) {
            pack_of<T, W> p[POOL_GRAD_AT_ONCE];
#pragma unroll
            for (int s = 0; s < POOL_GRAD_AT_ONCE; s++)
                p[s] = load_pack<T, W>(from + (first + s < across.to ? first + s : first) * g.C);
#pragma unroll
            for (int s = 0; s < POOL_GRAD_AT_ONCE; s++) {
                float share = window_share(g, of_i, pool_span_of(g, 1, first + s));
#pragma unroll
                for (int k = 0; k < W; k++)
                    sum[k] += first + s < across.to ? share * to_f32(p[s].at[k]) : 0.0f;
            }
        }
    }
    pack_of<T, W> p;
#pragma unroll
    for (int k = 0; k < W; k++)
        p.at[k] = from_f32<T>(sum[k]);
    store_pack<T, W>(dx + ((o.b * g.H + o.i) * g.W + o.j) * g.C + o.c, p);
}

/* ---- launchers ------------------------------------------------------------------------------- */

extern "C" pare_status pare_cuda_pool_avg(pare_backend *be, const pare_pool_avg_args *args)
{
    pool g = pool_of(&args->x, &args->y, &args->window, args->count_pad);
    bool aligned = pare__aligned(args->x.data, 16) && pare__aligned(args->y.data, 16);
    if (pare_tensor_count(&args->y) == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->x.dtype, T, {
        POOL_WIDTH(&g, T, aligned, W, {
            PARE_LAUNCH(be, (k_pool_avg<T, W>), pool_blocks(&g, g.rows, g.cols, W), POOL_THREADS, 0,
                        g, (const T *)args->x.data, (T *)args->y.data);
        });
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_pool_avg_grad(pare_backend *be,
                                               const pare_pool_avg_grad_args *args)
{
    pool g = pool_of(&args->dx, &args->dy, &args->window, args->count_pad);
    bool aligned = pare__aligned(args->dx.data, 16) && pare__aligned(args->dy.data, 16);
    if (pare_tensor_count(&args->dx) == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->dx.dtype, T, {
        POOL_WIDTH(&g, T, aligned, W, {
            PARE_LAUNCH(be, (k_pool_avg_grad<T, W>), pool_blocks(&g, g.H, g.W, W), POOL_THREADS, 0,
                        g, (const T *)args->dy.data, (T *)args->dx.data);
        });
    });
    return PARE_OK;
}
