/* cuda_loss.cu - cross-entropy and squared error by row, with their gradients.
 *
 *   loss = Σ_k share_k·(log Σ e^(x − top) − (x_k − top)) over the classes k that have a target,
 * with smoothing s on all; dx = grad_scale·(softmax(x) − target)
 *
 * One reading of a row finds its largest logit, Σ e^(x − top) against the largest so far, and what
 * smoothing and rank want. With a gradient a second reading writes it; it finds the row in the
 * second-level cache, for the blocks at work hold no more than 34 MB of rows at 128 k classes (one
 * block of 1024 threads a multiprocessor). Sums are f32, 16 to 256 in a row of additions; a row's
 * own numbers are f64. Bound by memory: an element of x read, and one of dx written, 4 bytes of
 * bf16 together. Predicted, not measured yet: 0.85 of the copy rate without a gradient, 0.75 with.
 *
 *   loss = weight·Σ (x − t)², dx = weight·grad_scale·2·(x − t): one reading; predicted 0.9 of the
 * copy rate.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

#include "base/check.h"

/* ---- labels ---------------------------------------------------------------------------------- */

/* The first row of each list whose label is outside [−1, V). */
__global__ void k_cross_entropy_labels(const int32_t *labels, const int32_t *labels2, int64_t R,
                                       int64_t V, unsigned long long *bad)
{
    for (int64_t i = grid_thread(); i < R; i += grid_threads()) {
        if (labels[i] < -1 || labels[i] >= V)
            atomicMin(&bad[0], (unsigned long long)i);
        if (labels2 && (labels2[i] < -1 || labels2[i] >= V))
            atomicMin(&bad[1], (unsigned long long)i);
    }
}

static pare_status refuse(pare_backend *be, const char *name, const pare_tensor *labels, uint64_t i,
                          int64_t V)
{
    int32_t label;
    PARE_TRY(pare__cuda_fetch(be, &label, (const int32_t *)labels->data + i, sizeof label));
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "cross_entropy: %s[%lld] is %d; a label is −1 or a class below %lld", name,
              (long long)i, label, (long long)V);
}

static pare_status check_labels(pare_backend *be, const pare_cross_entropy_args *args)
{
    uint64_t bad[2];
    unsigned long long *on_device;
    int64_t R = args->x.shape[0], V = args->x.shape[1];
    PARE_TRY(pare__cuda_result(be, sizeof bad, 0xff, &on_device));
    PARE_LAUNCH(be, k_cross_entropy_labels, pare__grid(be, R, 256), 256, 0,
                (const int32_t *)args->labels.data, (const int32_t *)args->labels2.data, R, V,
                on_device);
    PARE_TRY(pare__cuda_fetch(be, bad, on_device, sizeof bad));
    if (bad[0] != UINT64_MAX)
        PARE_TRY(refuse(be, "labels", &args->labels, bad[0], V));
    if (bad[1] != UINT64_MAX)
        PARE_TRY(refuse(be, "labels2", &args->labels2, bad[1], V));
    return PARE_OK;
}

/* ---- cross-entropy --------------------------------------------------------------------------- */

template <typename T> struct loss_entropy {
    const T *x;
    const int32_t *labels, *labels2;
    const float *mix;
    float *loss;
    int32_t *rank;
    T *dx;
    int64_t R, V;
    float smoothing, scale;
    bool wide;
};

/* What a thread has read of a row. */
struct reading {
    loss_softmax s;
    float all; /* Σ x − from, where smoothing wants it */
    int rank;  /* what beats the label */
};

/* Σ x − from, and what beats the logit t of class `label`: a greater one, or an equal in front. */
template <int N>
static __device__ __forceinline__ void read_more(reading *r, const float (&x)[N], int64_t v,
                                                 int64_t V, float from, int64_t label, float t)
{
    const int there = (int)min(V - v, (int64_t)N);
    const int front = (int)max(min(label - v, (int64_t)N), (int64_t)0);
#pragma unroll
    for (int e = 0; e < N; e++) {
        if (e < there)
            r->all += x[e] - from;
        r->rank += e < front ? x[e] >= t : x[e] > t;
    }
}

template <typename T, int GROUP>
static __device__ __forceinline__ reading read_row(const loss_entropy<T> &a, const T *row,
                                                   float from, int64_t label, float t, float *room)
{
    constexpr int N = 16 / sizeof(T);
    const bool more = a.smoothing != 0.0f || a.rank;
    reading r = {LOSS_NOTHING_READ, 0.0f, 0};
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += 2 * GROUP * N) {
        float x[2][N];
        loss_load(x[0], row, v, a.V, a.wide);
        loss_load(x[1], row, v + GROUP * N, a.V, a.wide);
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            loss_read(&r.s, x[turn], LOSS_LOG2E);
            if (more)
                read_more(&r, x[turn], v + turn * GROUP * N, a.V, from, label, t);
        }
    }
    loss_join<GROUP>(&r.s, LOSS_LOG2E, room);
    if (more) {
        r.all = loss_sum<GROUP>(r.all, room);
        r.rank = loss_sum<GROUP>(r.rank, reinterpret_cast<int *>(room));
    }
    return r;
}

/* The classes of a row that have a target of their own. */
struct target {
    int64_t label;
    double share;
    float logit;
};

template <typename T, int GROUP>
static __device__ __forceinline__ void write_gradient(const loss_entropy<T> &a, const T *row, T *dx,
                                                      const reading &r, const target (&t)[2])
{
    constexpr int N = 16 / sizeof(T);
    const double each = (double)a.smoothing / (double)a.V, scale = (double)a.scale;
    const float times = (float)(scale / (double)r.s.exps), minus = (float)(scale * each);
    float own[2];
    for (int k = 0; k < 2; k++) {
        double p = exp((double)t[k].logit - (double)r.s.top) / (double)r.s.exps;
        own[k] = (float)(scale * (p - each - t[k].share));
    }
    for (int64_t v = (int64_t)(threadIdx.x % GROUP) * N; v < a.V; v += 2 * GROUP * N) {
        float x[2][N];
        loss_load(x[0], row, v, a.V, a.wide);
        loss_load(x[1], row, v + GROUP * N, a.V, a.wide);
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            const int64_t at = v + turn * GROUP * N;
#pragma unroll
            for (int e = 0; e < N; e++)
                x[turn][e] = exp2_fast((x[turn][e] - r.s.top) * LOSS_LOG2E) * times - minus;
            for (int k = 0; k < 2; k++)
                if (t[k].label >= at && t[k].label < at + N) {
#pragma unroll
                    for (int e = 0; e < N; e++)
                        x[turn][e] = at + e == t[k].label ? own[k] : x[turn][e];
                }
            loss_store(dx, x[turn], at, a.V, a.wide);
        }
    }
}

/* What the row's own numbers make of a reading; t[1].label is −2 where there is none. */
template <typename T>
static __device__ __forceinline__ double loss_of(const loss_entropy<T> &a, const reading &r,
                                                 float from, const target (&t)[2])
{
    double log_sum = log((double)r.s.exps), loss = 0, top = (double)r.s.top;
    if (a.smoothing != 0.0f)
        loss =
            (double)a.smoothing * (log_sum - ((double)r.all / (double)a.V + ((double)from - top)));
    for (int k = 0; k < 2; k++)
        if (t[k].share != 0) /* else an infinite logit would make a NaN of it */
            loss += t[k].share * (log_sum - ((double)t[k].logit - top));
    return loss;
}

template <typename T, int GROUP>
static __device__ __forceinline__ void entropy_row(const loss_entropy<T> &a, int64_t i, float *room)
{
    const T *row = a.x + i * a.V;
    const double own = 1 - (double)a.smoothing;
    target t[2] = {{a.labels[i], own, to_f32(row[a.labels[i]])}, {-2, 0, 0.0f}};
    const int32_t second = a.labels2 ? a.labels2[i] : -1;
    if (second >= 0 && second != t[0].label) {
        t[0].share = own * (double)a.mix[i];
        t[1] = {second, own * (1 - (double)a.mix[i]), to_f32(row[second])};
    }
    float from = to_f32(row[0]); /* what Σ x is taken from, lest large logits cost their digits */
    from = fabsf(from) <= FLT_MAX ? from : 0.0f;
    reading r = read_row<T, GROUP>(a, row, from, t[0].label, t[0].logit, room);
    if (threadIdx.x % GROUP == 0) {
        a.loss[i] = (float)loss_of(a, r, from, t);
        if (a.rank)
            a.rank[i] = r.rank;
    }
    if (GROUP == PARE_WARP) /* in place the labels' logits must have been read */
        __syncwarp();
    else
        __syncthreads();
    if (a.dx)
        write_gradient<T, GROUP>(a, row, a.dx + i * a.V, r, t);
}

template <typename T, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP))
    k_cross_entropy(const __grid_constant__ loss_entropy<T> a)
{
    PARE_SHARED_ARRAY(float, room, 32);
    const int64_t i = loss_row<GROUP>();
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    if (a.labels[i] >= 0) {
        entropy_row<T, GROUP>(a, i, room);
        return;
    }
    if (threadIdx.x % GROUP == 0) {
        a.loss[i] = 0.0f;
        if (a.rank)
            a.rank[i] = (int32_t)a.V;
    }
    if (a.dx)
        loss_no_gradient<GROUP, 16 / sizeof(T)>(a.dx, i, a.V, a.wide);
}

template <typename T>
static pare_status entropies(pare_backend *be, const pare_cross_entropy_args *args)
{
    constexpr int N = 16 / sizeof(T);
    loss_entropy<T> a = {(const T *)args->x.data,
                         (const int32_t *)args->labels.data,
                         (const int32_t *)args->labels2.data,
                         (const float *)args->mix.data,
                         (float *)args->loss.data,
                         (int32_t *)args->rank.data,
                         (T *)args->dx.data,
                         args->x.shape[0],
                         args->x.shape[1],
                         args->smoothing,
                         args->grad_scale,
                         false};
    a.wide = loss_wide(a.x, a.V, N, sizeof(T)) && loss_wide(a.dx, a.V, N, sizeof(T));
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_cross_entropy<T, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_cross_entropy(pare_backend *be,
                                               const pare_cross_entropy_args *args)
{
    if (args->x.shape[0] == 0)
        return PARE_OK;
    PARE_TRY(check_labels(be, args));
    PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(entropies<T>(be, args)); });
    return PARE_OK;
}

/* ---- squared error --------------------------------------------------------------------------- */

template <typename X, typename T> struct loss_squares {
    const X *x;
    const T *t;
    const float *weight;
    float *loss;
    X *dx;
    int64_t R, V;
    float scale; /* 2·grad_scale */
    bool wide;
};

template <typename X, typename T, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP))
    k_mse(const __grid_constant__ loss_squares<X, T> a)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    PARE_SHARED_ARRAY(float, room, 32);
    const int64_t i = loss_row<GROUP>();
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    const float weight = a.weight ? a.weight[i] : 1.0f, scale = a.scale * weight;
    if (weight == 0.0f) {
        if (threadIdx.x % GROUP == 0)
            a.loss[i] = 0.0f;
        if (a.dx)
            loss_no_gradient<GROUP, N>(a.dx, i, a.V, a.wide);
        return;
    }
    float sum = 0.0f;
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
            for (int e = 0; e < N; e++) {
                float d = x[turn][e] - t[turn][e];
                if (v + turn * GROUP * N + e < a.V)
                    sum += d * d;
                x[turn][e] = d * scale;
            }
            if (a.dx)
                loss_store(a.dx + i * a.V, x[turn], v + turn * GROUP * N, a.V, a.wide);
        }
    }
    sum = loss_sum<GROUP>(sum, room);
    if (threadIdx.x % GROUP == 0)
        a.loss[i] = sum * weight;
}

template <typename X, typename T>
static pare_status errors(pare_backend *be, const pare_mse_args *args)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(T) ? sizeof(X) : sizeof(T));
    loss_squares<X, T> a = {
        (const X *)args->x.data,  (const T *)args->t.data, (const float *)args->weight.data,
        (float *)args->loss.data, (X *)args->dx.data,      args->x.shape[0],
        args->x.shape[1],         2 * args->grad_scale,    false};
    a.wide = loss_wide(a.x, a.V, N, sizeof(X)) && loss_wide(a.t, a.V, N, sizeof(T)) &&
             loss_wide(a.dx, a.V, N, sizeof(X));
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_mse<X, T, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_mse(pare_backend *be, const pare_mse_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, X,
                  { PARE_ACT_TYPE(args->t.dtype, T, { PARE_TRY((errors<X, T>(be, args))); }); });
    return PARE_OK;
}
