/* cuda_kl.cu - Kullback-Leibler divergence of a student's distribution from its teacher's by row,
 * and its gradient: the loss of distillation (Hinton 2015).
 *
 *   p = softmax(teacher/temperature), q = softmax(x/temperature), kl = Σ p·(log p − log q),
 *   dx = grad_scale/temperature·(q − p)
 *
 * One reading of both rows finds their largest, Σ e^t, Σ e^x and Σ e^t·(t − x) against the largest
 * so far, t and x below their largest: what both rows have in common is not in it. When a largest
 * grows the sums so far are moved. A second reading writes dx; it finds the rows in the
 * second-level cache. Sums are f32, a row's own numbers f64. Bound by memory: an element of teacher
 * and x read, and one of dx written, 6 bytes of bf16 together; with four powers for each with a
 * gradient, two without. Predicted, not measured yet: 0.85 of the copy rate without a gradient, 0.7
 * with.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

template <typename T, typename X> struct kl_rows {
    const T *teacher;
    const X *x;
    float *kl;
    uint8_t *same;
    X *dx;
    int64_t R, V;
    float inverse; /* 1/temperature */
    float scale;
    bool wide;
};

/* What a thread has read of both rows; e^ is of logits divided by the temperature. */
struct kl_reading {
    float t_top, x_top; /* the largest, at least −FLT_MAX */
    float p, q,
        cross; /* Σ e^(t − t_top), Σ e^(x − x_top), Σ e^(t − t_top)·(t − t_top − x + x_top) */
    float t_best, x_best; /* the largest itself, and its first place */
    int64_t t_place, x_place;
};

/* Takes larger tops: the sums shrink; cross is 0 where nothing is left of them, for 0·Inf is NaN.
 */
static __device__ __forceinline__ void move_tops(kl_reading *r, float t_top, float x_top, float c)
{
    float f = exp2_fast((r->t_top - t_top) * c), moved = (x_top - r->x_top) - (t_top - r->t_top);
    r->cross = f > 0.0f && r->p != 0.0f ? f * (r->cross + r->p * moved) : 0.0f;
    r->p *= f;
    r->q *= exp2_fast((r->x_top - x_top) * c);
    r->t_top = t_top;
    r->x_top = x_top;
}

template <int N>
static __device__ __forceinline__ void find_best(float *best, int64_t *place, const float (&x)[N],
                                                 float top, int64_t v)
{
    if (!(top > *best))
        return;
    *best = top;
#pragma unroll
    for (int e = N - 1; e >= 0; e--)
        if (x[e] == top)
            *place = v + e;
}

template <int N>
static __device__ __forceinline__ void
read_pairs(kl_reading *r, const float (&t)[N], const float (&x)[N], int64_t v, float c, bool places)
{
    float t_top = loss_top(t), x_top = loss_top(x);
    if (places) {
        find_best(&r->t_best, &r->t_place, t, t_top, v);
        find_best(&r->x_best, &r->x_place, x, x_top, v);
    }
    if (t_top > r->t_top || x_top > r->x_top)
        move_tops(r, fmaxf(t_top, r->t_top), fmaxf(x_top, r->x_top), c);
#pragma unroll
    for (int e = 0; e < N; e++) {
        float below_t = t[e] - r->t_top, below_x = x[e] - r->x_top;
        float power = exp2_fast(below_t * c);
        r->p += power;
        r->q += exp2_fast(below_x * c);
        if (power != 0.0f) /* else p·log p is 0 */
            r->cross += power * (below_t - below_x);
    }
}

/* The least of the group's numbers; room for 32. */
template <int GROUP> static __device__ __forceinline__ int64_t least(int64_t x, int64_t *room)
{
    for (int step = 16; step > 0; step /= 2) {
        int64_t other = __shfl_xor_sync(PARE_ALL_LANES, x, step);
        x = other < x ? other : x;
    }
    if (GROUP == PARE_WARP)
        return x;
    __syncthreads();
    if (threadIdx.x % PARE_WARP == 0)
        room[threadIdx.x / PARE_WARP] = x;
    __syncthreads();
    for (int w = 0; w < GROUP / PARE_WARP; w++)
        x = room[w] < x ? room[w] : x;
    return x;
}

/* The first place of the row's largest logit; 0 if all are −Inf or NaN. */
template <int GROUP>
static __device__ __forceinline__ int64_t best_place(float best, int64_t place, float *room,
                                                     int64_t *places)
{
    float top = loss_max<GROUP>(best, room);
    int64_t first = least<GROUP>(best == top && top > -INFINITY ? place : INT64_MAX, places);
    return first == INT64_MAX ? 0 : first;
}

/* Brings the threads' readings together. */
template <int GROUP>
static __device__ __forceinline__ void join(kl_reading *r, float c, float *room)
{
    float t_top = loss_max<GROUP>(r->t_top, room), x_top = loss_max<GROUP>(r->x_top, room);
    move_tops(r, t_top, x_top, c);
    r->cross = loss_sum<GROUP>(r->cross, room);
    r->p = loss_sum<GROUP>(r->p, room);
    r->q = loss_sum<GROUP>(r->q, room);
}

template <typename T, typename X, int N, int GROUP>
static __device__ __forceinline__ void write_gradient(const kl_rows<T, X> &a, int64_t i,
                                                      const kl_reading &r, float c)
{
    const double scale = (double)a.scale * (double)a.inverse;
    const float of_q = (float)(scale / (double)r.q), of_p = (float)(scale / (double)r.p);
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += GROUP * N) {
        float t[N], x[N];
        loss_load(t, a.teacher + i * a.V, v, a.V, a.wide);
        loss_load(x, a.x + i * a.V, v, a.V, a.wide);
#pragma unroll
        for (int e = 0; e < N; e++)
            x[e] = of_q * exp2_fast((x[e] - r.x_top) * c) - of_p * exp2_fast((t[e] - r.t_top) * c);
        loss_store(a.dx + i * a.V, x, v, a.V, a.wide);
    }
}

template <typename T, typename X, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP)) k_kl(const __grid_constant__ kl_rows<T, X> a)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    PARE_SHARED_ARRAY(float, room, 32);
    PARE_SHARED_ARRAY(int64_t, places, 32);
    const float c = a.inverse * LOSS_LOG2E; /* e^(t/temperature) is 2^(c·t) */
    const int64_t i = loss_row<GROUP>();
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    kl_reading r = {-FLT_MAX, -FLT_MAX, 0.0f, 0.0f, 0.0f, -INFINITY, -INFINITY, 0, 0};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += 2 * GROUP * N) {
        float t[2][N], x[2][N];
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            loss_load(t[turn], a.teacher + i * a.V, v + turn * GROUP * N, a.V, a.wide);
            loss_load(x[turn], a.x + i * a.V, v + turn * GROUP * N, a.V, a.wide);
        }
#pragma unroll
        for (int turn = 0; turn < 2; turn++)
            read_pairs(&r, t[turn], x[turn], v + turn * GROUP * N, c, a.same != NULL);
    }
    join<GROUP>(&r, c, room);
    if (a.same) {
        bool same = best_place<GROUP>(r.t_best, r.t_place, room, places) ==
                    best_place<GROUP>(r.x_best, r.x_place, room, places);
        if (threadIdx.x % GROUP == 0)
            a.same[i] = same;
    }
    if (threadIdx.x % GROUP == 0) {
        double kl = (double)a.inverse * (double)r.cross / (double)r.p -
                    (log((double)r.p) - log((double)r.q));
        a.kl[i] = a.V == 0 || kl < 0 ? 0.0f : (float)kl; /* below 0 by rounding only */
    }
    if (a.dx) /* in place: each thread reads what it then writes */
        write_gradient<T, X, N, GROUP>(a, i, r, c);
}

template <typename T, typename X>
static pare_status divergences(pare_backend *be, const pare_kl_args *args)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    kl_rows<T, X> a = {(const T *)args->teacher.data,
                       (const X *)args->x.data,
                       (float *)args->kl.data,
                       (uint8_t *)args->same.data,
                       (X *)args->dx.data,
                       args->x.shape[0],
                       args->x.shape[1],
                       args->temperature != 0.0f ? 1.0f / args->temperature : 1.0f,
                       args->grad_scale,
                       false};
    a.wide = loss_wide(a.teacher, a.V, N, sizeof(T)) && loss_wide(a.x, a.V, N, sizeof(X)) &&
             loss_wide(a.dx, a.V, N, sizeof(X));
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_kl<T, X, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_kl(pare_backend *be, const pare_kl_args *args)
{
    PARE_ACT_TYPE(args->teacher.dtype, T, {
        PARE_ACT_TYPE(args->x.dtype, X, { PARE_TRY((divergences<T, X>(be, args))); });
    });
    return PARE_OK;
}
