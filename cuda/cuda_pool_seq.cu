/* cuda_pool_seq.cu - the mean over a sequence, padding left out, and its gradient.
 *
 * Forward a block has 32·W columns of a sequence (W elements: 16 bytes, or one), DOWN threads below
 * each other share its steps; their sums are added in order. What padding holds is not read. The
 * gradient makes one row a sequence, in its dtype, and writes it to each step that counts, 0 to the
 * others. Bound by memory: the bytes of x (dx) once. Predicted, not measured: 80 % of the copy rate
 * where there are some hundred blocks.
 */
#include "cuda_nn.cuh"

#include "cuda_index.cuh"

#define ACROSS PARE_WARP
#define DOWN 8
#define AT_ONCE 4 /* steps loaded before one is added */
#define GRAD_THREADS 256

typedef struct pool_seq {
    const uint8_t *keys; /* [B, T], or NULL: all steps count */
    int64_t B, T, N;
} pool_seq;

/* ---- forward --------------------------------------------------------------------------------- */

/* W columns of step t to be added to sums; of padding 0. */
template <typename T, int W>
static __device__ __forceinline__ pack_of<T, W> step_of(const T *x, bool counts, int64_t at)
{
    pack_of<T, W> p;
#pragma unroll
    for (int k = 0; k < W; k++)
        p.at[k] = from_f32<T>(0.0f);
    if (counts)
        p = load_pack<T, W>(x + at);
    return p;
}

template <typename T, int W>
static __global__ void __launch_bounds__(ACROSS *DOWN)
    k_pool_seq(pool_seq a, const T *x, T *y, int64_t groups)
{
    PARE_SHARED_ARRAY(float, room, W *ACROSS *DOWN);
    PARE_SHARED_ARRAY(int, counts, DOWN);
    int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS, count = 0;
    int64_t b = blockIdx.x, column = (index_cut(&b, groups) * ACROSS + across) * W;
    const bool inside = column < a.N;
    float sum[W] = {0};
    for (int64_t first = down; first < a.T; first += DOWN * AT_ONCE) {
        pack_of<T, W> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int64_t t = first + u * DOWN;
            bool here = t < a.T && (!a.keys || a.keys[b * a.T + t] != 0);
            p[u] = step_of<T, W>(x, here && inside, (b * a.T + t) * a.N + column);
            count += here;
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
            for (int k = 0; k < W; k++)
                sum[k] += to_f32(p[u].at[k]);
    }
#pragma unroll
    for (int k = 0; k < W; k++)
        room[k * ACROSS * DOWN + threadIdx.x] = sum[k];
    if (across == 0)
        counts[down] = count;
    __syncthreads();
    if (down > 0 || !inside)
        return;
    for (int d = 1; d < DOWN; d++) {
        count += counts[d];
#pragma unroll
        for (int k = 0; k < W; k++)
            sum[k] += room[k * ACROSS * DOWN + d * ACROSS + across];
    }
    float share = count > 0 ? 1.0f / (float)count : 0.0f;
    pack_of<T, W> p;
#pragma unroll
    for (int k = 0; k < W; k++)
        p.at[k] = from_f32<T>(sum[k] * share);
    store_pack<T, W>(y + b * a.N + column, p);
}

template <typename T, int W>
static pare_status forward(pare_backend *be, const pool_seq *a, const void *x, void *y)
{
    int64_t groups = pare__blocks(a->N, ACROSS * W);
    PARE_LAUNCH(be, (k_pool_seq<T, W>), a->B * groups, ACROSS * DOWN, 0, *a, (const T *)x, (T *)y,
                groups);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_pool_seq(pare_backend *be, const pare_pool_seq_args *args)
{
    const int64_t *shape = args->x.shape;
    pool_seq a = {(const uint8_t *)args->keys.data, shape[0], shape[1], shape[2]};
    bool aligned = pare__aligned(args->x.data, 16) && pare__aligned(args->y.data, 16);
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int W = 16 / (int)sizeof(T);
        if (aligned && a.N % W == 0)
            PARE_TRY((forward<T, W>(be, &a, args->x.data, args->y.data)));
        else
            PARE_TRY((forward<T, 1>(be, &a, args->x.data, args->y.data)));
    });
    return PARE_OK;
}

/* ---- gradient -------------------------------------------------------------------------------- */

/* 1/(steps that count) of each sequence; a warp a sequence. */
static __global__ void __launch_bounds__(GRAD_THREADS)
    k_pool_seq_grad_count(pool_seq a, float *share)
{
    int lane = threadIdx.x % PARE_WARP, count = 0;
    int64_t b = grid_thread() / PARE_WARP;
    for (int64_t t = lane; t < a.T && b < a.B; t += PARE_WARP)
        count += a.keys[b * a.T + t] != 0;
    count = warp_sum(count);
    if (lane == 0 && b < a.B)
        share[b] = count > 0 ? 1.0f / (float)count : 0.0f;
}

/* A thread makes W columns of all of AT_ONCE steps in a row. */
template <typename T, int W>
static __global__ void __launch_bounds__(GRAD_THREADS)
    k_pool_seq_grad(pool_seq a, const T *dy, const float *shares, T *dx, int64_t chunks)
{
    int64_t b = grid_thread(), column = index_cut(&b, a.N / W) * W;
    int64_t first = index_cut(&b, chunks) * AT_ONCE;
    if (b >= a.B)
        return;
    float share = a.keys ? shares[b] : 1.0f / (float)a.T;
    pack_of<T, W> p = load_pack<T, W>(dy + b * a.N + column), zero;
#pragma unroll
    for (int k = 0; k < W; k++) {
        p.at[k] = from_f32<T>(to_f32(p.at[k]) * share);
        zero.at[k] = from_f32<T>(0.0f);
    }
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
        int64_t r = b * a.T + first + u;
        if (first + u < a.T)
            store_pack<T, W>(dx + r * a.N + column, !a.keys || a.keys[r] != 0 ? p : zero);
    }
}

template <typename T, int W>
static pare_status backward(pare_backend *be, const pool_seq *a, const void *dy,
                            const float *shares, void *dx)
{
    int64_t chunks = pare__blocks(a->T, AT_ONCE);
    PARE_LAUNCH(be, (k_pool_seq_grad<T, W>), pare__blocks(a->B * chunks * (a->N / W), GRAD_THREADS),
                GRAD_THREADS, 0, *a, (const T *)dy, shares, (T *)dx, chunks);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_pool_seq_grad(pare_backend *be,
                                               const pare_pool_seq_grad_args *args)
{
    const int64_t *shape = args->dx.shape;
    pool_seq a = {(const uint8_t *)args->keys.data, shape[0], shape[1], shape[2]};
    bool aligned = pare__aligned(args->dx.data, 16) && pare__aligned(args->dy.data, 16);
    void *shares = NULL;
    if (pare_tensor_count(&args->dx) == 0)
        return PARE_OK;
    if (a.keys) {
        PARE_TRY(pare__scratch(be, (size_t)a.B * sizeof(float), &shares));
        PARE_LAUNCH(be, k_pool_seq_grad_count, pare__blocks(a.B * PARE_WARP, GRAD_THREADS),
                    GRAD_THREADS, 0, a, (float *)shares);
    }
    PARE_ACT_TYPE(args->dx.dtype, T, {
        constexpr int W = 16 / (int)sizeof(T);
        const float *share = (const float *)shares;
        if (aligned && a.N % W == 0)
            PARE_TRY((backward<T, W>(be, &a, args->dy.data, share, args->dx.data)));
        else
            PARE_TRY((backward<T, 1>(be, &a, args->dy.data, share, args->dx.data)));
    });
    return PARE_OK;
}
