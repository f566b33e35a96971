/* cuda_pool_max.cu - the largest of each window, and its gradient, over images with channels last.
 *
 * A thread an output (of 16 bytes of channels); the gradient looks from each input at the windows
 * that hold it, in order, so every element is written once and nothing is added in memory. Windows
 * that overlap meet in the caches. Bound by memory; bytes an output element in BF16, for a window
 * of 3 × 3 with stride 2: 8 + 2 + 4 of its place, the gradient as many. Predicted, not measured: 80
 * % of the copy rate forward, 70 % for the gradient, whose tests of places weigh as much as its
 * loads.
 */
#include "cuda_nn.cuh"

#include "cuda_pool.cuh"

template <int W> struct places {
    int32_t at[W];
};

/* Place numbers are words like floats. */
template <int W> static __device__ __forceinline__ places<W> load_places(const int32_t *from)
{
    constexpr int N = W % 4 == 0 ? 4 : 1;
    places<W> p;
#pragma unroll
    for (int k = 0; k < W; k += N) {
        pack_of<int32_t, N> q = load_pack<int32_t, N>(from + k);
#pragma unroll
        for (int j = 0; j < N; j++)
            p.at[k + j] = q.at[j];
    }
    return p;
}
template <int W>
static __device__ __forceinline__ void store_places(int32_t *to, const places<W> &p)
{
    constexpr int N = W % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int k = 0; k < W; k += N) {
        pack_of<int32_t, N> q;
#pragma unroll
        for (int j = 0; j < N; j++)
            q.at[j] = p.at[k + j];
        store_pack<int32_t, N>(to + k, q);
    }
}

/* An element is better than the best if it is greater, or NaN where the best is none: so the first
 * of equals stays. */
template <typename T, int W>
static __device__ __forceinline__ void take(float *best, places<W> *place, const pack_of<T, W> &p,
                                            int here)
{
#pragma unroll
    for (int k = 0; k < W; k++) {
        float a = to_f32(p.at[k]);
        bool better = a > best[k] || (a != a && best[k] == best[k]);
        best[k] = better ? a : best[k];
        place->at[k] = better ? here : place->at[k];
    }
}

template <typename T, int W>
static __global__ void __launch_bounds__(POOL_THREADS)
    k_pool_max(pool g, const T *x, T *y, int32_t *at)
{
    pool_pixel o;
    if (!pool_at<W>(g, g.rows, g.cols, &o))
        return;
    const pool_span down = pool_span_of(g, 0, o.i), across = pool_span_of(g, 1, o.j);
    const int64_t step = g.window.dilation[1] * g.C;
    bool empty = pool_span_count(down) == 0 || pool_span_count(across) == 0;
    float best[W];
    places<W> place;
#pragma unroll
    for (int k = 0; k < W; k++) {
        best[k] = -INFINITY;
        place.at[k] = empty ? 0 : down.from * g.window.kernel[1] + across.from;
    }
    for (int u = down.from; u < down.to; u++) {
        int64_t row = (o.b * g.H + down.first + u * g.window.dilation[0]) * g.W + across.first;
        const T *from = x + row * g.C + o.c;
        for (int v = across.from; v < across.to; v += POOL_AT_ONCE) {
            pack_of<T, W> p[POOL_AT_ONCE];
#pragma unroll
            for (int s = 0; s < POOL_AT_ONCE; s++)
                p[s] = load_pack<T, W>(from + min(v + s, across.to - 1) * step);
#pragma unroll
            for (int s = 0; s < POOL_AT_ONCE; s++) /* the last once more is no better */
                take<T, W>(best, &place, p[s], u * g.window.kernel[1] + v + s);
        }
    }
    int64_t to = ((o.b * g.rows + o.i) * g.cols + o.j) * g.C + o.c;
    pack_of<T, W> p;
#pragma unroll
    for (int k = 0; k < W; k++)
        p.at[k] = from_f32<T>(best[k]);
    store_pack<T, W>(y + to, p);
    if (at)
        store_places<W>(at + to, place);
}

template <typename T, int W>
static __global__ void __launch_bounds__(POOL_THREADS)
    k_pool_max_grad(pool g, const T *dy, const int32_t *at, T *dx)
{
    pool_pixel o;
    if (!pool_at<W>(g, g.H, g.W, &o))
        return;
    const pool_outputs down = pool_outputs_of(g, 0, o.i), across = pool_outputs_of(g, 1, o.j);
    float sum[W] = {0};
    for (int64_t i = down.from; i < down.to; i++) {
        int64_t u = pool_place_in(g, 0, o.i, i);
        int64_t row = (o.b * g.rows + i) * g.cols;
        for (int64_t first = across.from; first < across.to; first += POOL_GRAD_AT_ONCE) {
            pack_of<T, W> p[POOL_GRAD_AT_ONCE];
            places<W> place[POOL_GRAD_AT_ONCE];
#pragma unroll
            for (int s = 0; s < POOL_GRAD_AT_ONCE; s++) {
                int64_t j = first + s < across.to ? first + s : first;
                p[s] = load_pack<T, W>(dy + (row + j) * g.C + o.c);
                place[s] = load_places<W>(at + (row + j) * g.C + o.c);
            }
#pragma unroll
            for (int s = 0; s < POOL_GRAD_AT_ONCE; s++) {
                int64_t v = first + s < across.to ? pool_place_in(g, 1, o.j, first + s) : -1;
                int here = u < 0 || v < 0 ? -1 : (int)(u * g.window.kernel[1] + v);
#pragma unroll
                for (int k = 0; k < W; k++)
                    sum[k] += place[s].at[k] == here ? to_f32(p[s].at[k]) : 0.0f;
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

extern "C" pare_status pare_cuda_pool_max(pare_backend *be, const pare_pool_max_args *args)
{
    pool g = pool_of(&args->x, &args->y, &args->window, false);
    int32_t *at = (int32_t *)args->at.data;
    bool aligned =
        pare__aligned(args->x.data, 16) && pare__aligned(args->y.data, 16) && pare__aligned(at, 16);
    if (pare_tensor_count(&args->y) == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->x.dtype, T, {
        POOL_WIDTH(&g, T, aligned, W, {
            PARE_LAUNCH(be, (k_pool_max<T, W>), pool_blocks(&g, g.rows, g.cols, W), POOL_THREADS, 0,
                        g, (const T *)args->x.data, (T *)args->y.data, at);
        });
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_pool_max_grad(pare_backend *be,
                                               const pare_pool_max_grad_args *args)
{
    pool g = pool_of(&args->dx, &args->dy, &args->window, false);
    const int32_t *at = (const int32_t *)args->at.data;
    bool aligned = pare__aligned(args->dx.data, 16) && pare__aligned(args->dy.data, 16) &&
                   pare__aligned(at, 16);
    if (pare_tensor_count(&args->dx) == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->dx.dtype, T, {
        POOL_WIDTH(&g, T, aligned, W, {
            PARE_LAUNCH(be, (k_pool_max_grad<T, W>), pool_blocks(&g, g.H, g.W, W), POOL_THREADS, 0,
                        g, (const T *)args->dy.data, at, (T *)args->dx.data);
        });
    });
    return PARE_OK;
}
