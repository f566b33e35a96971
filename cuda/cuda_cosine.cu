/* cuda_cosine.cu - how far the direction of each row is from that of another, and the gradient.
 *
 *   loss = weight·(1 − ⟨x, t⟩/(‖x‖·‖t‖)), dx = weight·grad_scale/‖x‖·(cos·x/‖x‖ − t/‖t‖)
 *
 * One reading of both rows adds up three products in f64: where both are nearly the same, what is
 * left of 1 − cos keeps its digits, and no square overflows. A second reading writes dx; it finds
 * the rows in the second-level cache. Bound by memory where f64 runs at half the rate of f32: an
 * element of x and t read, and one of dx written, 6 bytes of bf16 together. Predicted, not measured
 * yet: 0.85 of the copy rate without a gradient, 0.75 with.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

template <typename X, typename T> struct cosine_rows {
    const X *x;
    const T *t;
    const float *weight;
    float *loss;
    X *dx;
    int64_t R, V;
    float scale;
    bool wide;
};

struct products {
    double xx, tt, xt;
};

template <typename X, typename T, int N, int GROUP>
static __device__ __forceinline__ products row_products(const cosine_rows<X, T> &a, int64_t i,
                                                        double *room)
{
    products sum = {0, 0, 0};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += 2 * GROUP * N) {
        float x[2][N], t[2][N];
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            loss_load(x[turn], a.x + i * a.V, v + turn * GROUP * N, a.V, a.wide);
            loss_load(t[turn], a.t + i * a.V, v + turn * GROUP * N, a.V, a.wide);
        }
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
#pragma unroll
            for (int e = 0; e < N; e++)
                if (v + turn * GROUP * N + e < a.V) {
                    const double u = (double)x[turn][e], w = (double)t[turn][e];
                    sum.xx += u * u;
                    sum.tt += w * w;
                    sum.xt += u * w;
                }
        }
    }
    return {loss_sum<GROUP>(sum.xx, room), loss_sum<GROUP>(sum.tt, room),
            loss_sum<GROUP>(sum.xt, room)};
}

template <typename X, typename T, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP))
    k_cosine(const __grid_constant__ cosine_rows<X, T> a)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    PARE_SHARED_ARRAY(double, room, 32);
    const int64_t i = loss_row<GROUP>();
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    const double weight = a.weight ? (double)a.weight[i] : 1.0;
    products s = {0, 0, 0};
    if (weight != 0)
        s = row_products<X, T, N, GROUP>(a, i, room);
    const bool counts = weight != 0 && s.xx != 0 && s.tt != 0;
    const double x_norm = sqrt(s.xx), t_norm = sqrt(s.tt), cosine = s.xt / (x_norm * t_norm);
    if (threadIdx.x % GROUP == 0) {
        const double loss = 1 - cosine; /* below 0 by rounding only */
        a.loss[i] = counts ? (float)(weight * (loss < 0 ? 0 : loss)) : 0.0f;
    }
    if (!a.dx)
        return;
    if (!counts) {
        loss_no_gradient<GROUP, N>(a.dx, i, a.V, a.wide);
        return;
    }
    const float of_x = (float)(cosine / x_norm), of_t = (float)(1 / t_norm);
    const float scale = (float)(weight * (double)a.scale / x_norm);
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += GROUP * N) {
        float x[N], t[N]; /* in place: each thread reads what it then writes */
        loss_load(x, a.x + i * a.V, v, a.V, a.wide);
        loss_load(t, a.t + i * a.V, v, a.V, a.wide);
#pragma unroll
        for (int e = 0; e < N; e++)
            x[e] = (x[e] * of_x - t[e] * of_t) * scale;
        loss_store(a.dx + i * a.V, x, v, a.V, a.wide);
    }
}

template <typename X, typename T>
static pare_status directions(pare_backend *be, const pare_cosine_args *args)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    cosine_rows<X, T> a = {
        (const X *)args->x.data,  (const T *)args->t.data, (const float *)args->weight.data,
        (float *)args->loss.data, (X *)args->dx.data,      args->x.shape[0],
        args->x.shape[1],         args->grad_scale,        false};
    a.wide = loss_wide(a.x, a.V, N, sizeof(X)) && loss_wide(a.t, a.V, N, sizeof(T)) &&
             loss_wide(a.dx, a.V, N, sizeof(X));
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_cosine<X, T, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_cosine(pare_backend *be, const pare_cosine_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, X, {
        PARE_ACT_TYPE(args->t.dtype, T, { PARE_TRY((directions<X, T>(be, args))); });
    });
    return PARE_OK;
}
