/* cuda_softmax.cu - softmax by row and its gradient.
 *
 *     softmax       y = exp(x − max)/Σ
 *     softmax_grad  dx = y·(dy − Σ dy·y)
 *
 * A row of at most 16,384 elements (8,192 of each tensor for the gradient) is held in registers
 * (cuda_row.cuh) and read once; a longer one is read twice, the second time out of the L2 cache
 * where that holds the rows of all blocks. Softmax of a long row finds its largest and its sum
 * together: a thread's sum is scaled down whenever a larger element comes. A NaN is passed over by
 * the largest and makes the sum, so the row, NaN.
 *
 * Bound by memory; bytes an element in F32 (half in BF16): softmax 8, softmax_grad 12. Predicted,
 * not measured: 90 % of the copy rate from 256 columns on, 70 % for long rows.
 */
#include "cuda_nn.cuh"

#include "cuda_row.cuh"

#define LONG 512 /* threads for a row that registers do not hold */

typedef struct softmax {
    const void *x, *dy; /* [R, N]; of the gradient x is y */
    void *y;            /* [R, N]; of the gradient dx */
    int64_t R, N;
} softmax;

/* ---- softmax --------------------------------------------------------------------------------- */

template <typename T, bool ALIGNED, int TEAM, int HELD>
static __global__ void __launch_bounds__(row_threads<TEAM>) k_softmax(softmax a)
{
    PARE_SHARED_ARRAY(float, room, PARE_WARP);
    constexpr int W = row_pack<T>;
    int64_t r = row_of_team<TEAM>(), start = r < a.R ? r * a.N : 0;
    int thread = threadIdx.x % TEAM, n = r < a.R ? (int)a.N : 0;
    float x[HELD], top = -INFINITY, sum = 0;
    row_hold<T, ALIGNED, TEAM, HELD>(x, (const T *)a.x + start, thread, n);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    for (int k = 0; k < W; k++) {
        x[u * W + k] = row_has<ALIGNED>(i, k, n) ? x[u * W + k] : -INFINITY;
        top = fmaxf(top, x[u * W + k]);
    }
    top = team_max<TEAM>(top, room);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    for (int k = 0; k < W; k++) { /* of a row of −Inf alone all is NaN, behind its end too */
        x[u * W + k] = expf(x[u * W + k] - top);
        sum += x[u * W + k];
    }
    float factor = 1.0f / team_sum<TEAM>(sum, room);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    {
        for (int k = 0; k < W; k++)
            x[u * W + k] *= factor;
        row_store<T, ALIGNED>((T *)a.y + start, i, n, x + u * W);
    }
}

/* What a sum of exp(x − top) is to be multiplied by for a larger top. */
static __device__ __forceinline__ float lowered(float top, float larger)
{
    return top == larger ? 1.0f : expf(top - larger);
}

/* Elements that a thread has seen: the largest, and Σ exp(x − top). */
static __device__ __forceinline__ void see(float *top, float *sum, const float *x, int count)
{
    float larger = *top;
#pragma unroll
    for (int k = 0; k < count; k++)
        larger = fmaxf(larger, x[k]);
    if (larger > -INFINITY) /* else all is −Inf so far, and the sum 0, or NaN */
        *sum *= lowered(*top, larger);
    *top = larger;
#pragma unroll
    for (int k = 0; k < count; k++)
        *sum += x[k] == -INFINITY ? 0.0f : expf(x[k] - larger);
}

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(LONG) k_softmax_long(softmax a)
{
    PARE_SHARED_ARRAY(float, room, PARE_WARP);
    constexpr int W = row_pack<T>, STEP = LONG * W;
    const T *row = (const T *)a.x + blockIdx.x * a.N;
    float own = -INFINITY, sum = 0, x[W];
#pragma unroll 4
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(x, row_load<T, ALIGNED>(row, i, a.N));
        for (int k = 0; k < W; k++)
            x[k] = row_has<ALIGNED>(i, k, a.N) ? x[k] : -INFINITY;
        see(&own, &sum, x, W);
    }
    float top = team_max<LONG>(own, room);
    float factor = 1.0f / team_sum<LONG>(sum * lowered(own, top), room);
#pragma unroll 4
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(x, row_load<T, ALIGNED>(row, i, a.N));
        for (int k = 0; k < W; k++)
            x[k] = expf(x[k] - top) * factor;
        row_store<T, ALIGNED>((T *)a.y + blockIdx.x * a.N, i, a.N, x);
    }
}

/* ---- gradient -------------------------------------------------------------------------------- */

template <typename T, bool ALIGNED, int TEAM, int HELD>
static __global__ void __launch_bounds__(row_threads<TEAM>) k_softmax_grad(softmax a)
{
    PARE_SHARED_ARRAY(float, room, PARE_WARP);
    constexpr int W = row_pack<T>;
    int64_t r = row_of_team<TEAM>(), start = r < a.R ? r * a.N : 0;
    int thread = threadIdx.x % TEAM, n = r < a.R ? (int)a.N : 0;
    float y[HELD], dy[HELD], dot = 0;
    row_hold<T, ALIGNED, TEAM, HELD>(y, (const T *)a.x + start, thread, n);
    row_hold<T, ALIGNED, TEAM, HELD>(dy, (const T *)a.dy + start, thread, n);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    for (int k = 0; k < W; k++)
        dot += dy[u * W + k] * y[u * W + k];
    dot = team_sum<TEAM>(dot, room);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    {
        for (int k = 0; k < W; k++)
            y[u * W + k] *= dy[u * W + k] - dot;
        row_store<T, ALIGNED>((T *)a.y + start, i, n, y + u * W);
    }
}

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(LONG) k_softmax_grad_long(softmax a)
{
    PARE_SHARED_ARRAY(float, room, PARE_WARP);
    constexpr int W = row_pack<T>, STEP = LONG * W;
    int64_t start = blockIdx.x * a.N;
    float dot = 0, y[W], dy[W];
#pragma unroll 2
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(y, row_load<T, ALIGNED>((const T *)a.x + start, i, a.N));
        row_unpack<T>(dy, row_load<T, ALIGNED>((const T *)a.dy + start, i, a.N));
        float sum = 0;
        for (int k = 0; k < W; k++)
            sum += dy[k] * y[k];
        dot += sum;
    }
    dot = team_sum<LONG>(dot, room);
#pragma unroll 2
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        row_unpack<T>(y, row_load<T, ALIGNED>((const T *)a.x + start, i, a.N));
        row_unpack<T>(dy, row_load<T, ALIGNED>((const T *)a.dy + start, i, a.N));
        for (int k = 0; k < W; k++)
            y[k] *= dy[k] - dot;
        row_store<T, ALIGNED>((T *)a.y + start, i, a.N, y);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

#define HELD_ROWS(kernel_, TEAM_, HELD_)                                                           \
    PARE_LAUNCH(be, (kernel_<T, ALIGNED, TEAM_, HELD_>), pare__blocks(a.R, row_teams<TEAM_>),      \
                row_threads<TEAM_>, 0, a)

template <typename T, bool ALIGNED> static pare_status launch(pare_backend *be, const softmax &a)
{
    if (a.N <= 8 * 16)
        HELD_ROWS(k_softmax, 8, 16);
    else if (a.N <= 32 * 16)
        HELD_ROWS(k_softmax, 32, 16);
    else if (a.N <= 32 * 32)
        HELD_ROWS(k_softmax, 32, 32);
    else if (a.N <= 128 * 32)
        HELD_ROWS(k_softmax, 128, 32);
    else if (a.N <= 512 * 32)
        HELD_ROWS(k_softmax, 512, 32);
    else
        PARE_LAUNCH(be, (k_softmax_long<T, ALIGNED>), a.R, LONG, 0, a);
    return PARE_OK;
}

template <typename T, bool ALIGNED>
static pare_status launch_grad(pare_backend *be, const softmax &a)
{
    if (a.N <= 8 * 16)
        HELD_ROWS(k_softmax_grad, 8, 16);
    else if (a.N <= 32 * 16)
        HELD_ROWS(k_softmax_grad, 32, 16);
    else if (a.N <= 128 * 16)
        HELD_ROWS(k_softmax_grad, 128, 16);
    else if (a.N <= 512 * 16)
        HELD_ROWS(k_softmax_grad, 512, 16);
    else
        PARE_LAUNCH(be, (k_softmax_grad_long<T, ALIGNED>), a.R, LONG, 0, a);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_softmax(pare_backend *be, const pare_softmax_args *args)
{
    softmax a = {args->x.data, NULL, args->y.data, args->x.shape[0], args->x.shape[1]};
    const void *pointers[] = {a.x, a.y};
    if (a.N == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->x.dtype, T, {
        if (row_aligned(a.N, sizeof(T), pointers, 2))
            PARE_TRY((launch<T, true>(be, a)));
        else
            PARE_TRY((launch<T, false>(be, a)));
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_softmax_grad(pare_backend *be, const pare_softmax_grad_args *args)
{
    softmax a = {args->y.data, args->dy.data, args->dx.data, args->y.shape[0], args->y.shape[1]};
    const void *pointers[] = {a.x, a.dy, a.y};
    if (a.N == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->y.dtype, T, {
        if (row_aligned(a.N, sizeof(T), pointers, 3))
            PARE_TRY((launch_grad<T, true>(be, a)));
        else
            PARE_TRY((launch_grad<T, false>(be, a)));
    });
    return PARE_OK;
}
