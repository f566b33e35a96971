/* cuda_kl_top.cu - the divergence of a student from the K classes that top_k kept of its teacher,
 * all others being one class.
 *
 *   loss = Σ_k p·(log p − log q) + ρ·(log ρ − log q_ρ)
 *   dx = grad_scale/temperature·(q − p) of those kept, ·(q_ρ − ρ)·e^(x − top)/Σ of the others
 *
 * The places of the kept are bits in shared memory (a row longer than these are taken in pieces);
 * one reading finds Σ e^(x − top) of the others alone, against their own largest, so that q_ρ has
 * all its digits however little it is. The kept are taken one by one, in f64. A second reading
 * writes dx; it finds the row in the second-level cache. Bound by memory: an element of x read, and
 * one of dx written, 4 bytes of bf16 together. Predicted, not measured yet: 0.8 of the copy rate
 * without a gradient, 0.7 with.
 */
#include "cuda_loss.cuh"
#include "cuda_nn.cuh"

#include "base/check.h"

/* ---- classes --------------------------------------------------------------------------------- */

/* The first index outside [0, V). */
__global__ void k_kl_top_classes(const int32_t *index, int64_t n, int64_t V,
                                 unsigned long long *bad)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads())
        if (index[i] < 0 || index[i] >= V)
            atomicMin(bad, (unsigned long long)i);
}

static pare_status check_classes(pare_backend *be, const pare_kl_top_args *args)
{
    const int32_t *index = (const int32_t *)args->index.data;
    int64_t K = args->index.shape[1], V = args->x.shape[1];
    unsigned long long *on_device;
    uint64_t bad;
    int32_t class_there;
    PARE_TRY(pare__cuda_result(be, sizeof bad, 0xff, &on_device));
    PARE_LAUNCH(be, k_kl_top_classes, pare__grid(be, args->x.shape[0] * K, 256), 256, 0, index,
                args->x.shape[0] * K, V, on_device);
    PARE_TRY(pare__cuda_fetch(be, &bad, on_device, sizeof bad));
    if (bad == UINT64_MAX)
        return PARE_OK;
    PARE_TRY(pare__cuda_fetch(be, &class_there, index + bad, sizeof class_there));
    PARE_FAIL(PARE_ERR_ARGUMENT, "kl_top: index[%lld, %lld] is %d; it must be a class below %lld",
              (long long)((int64_t)bad / K), (long long)((int64_t)bad % K), class_there,
              (long long)V);
}

/* ---- rows ------------------------------------------------------------------------------------ */

template <typename T> struct kept_rows {
    const T *x;
    const int32_t *index;
    const float *value;
    const int32_t *labels;
    float *loss;
    T *dx;
    int64_t R, V, K;
    float inverse; /* 1/temperature */
    float scale;
    bool wide;
};

/* Bits of a group, in words: 262,144 classes at most. */
static __host__ __device__ constexpr int bit_words(int group)
{
    return group == PARE_WARP ? LOSS_WARP_MOST / 32 : group == 256 ? LOSS_BLOCK_MOST / 32 : 8192;
}

template <int GROUP> static __device__ __forceinline__ void group_sync(void)
{
    if (GROUP == PARE_WARP)
        __syncwarp();
    else
        __syncthreads();
}

/* Sets the bits of the kept in [at, at + 32·bit_words). */
template <typename T, int GROUP>
static __device__ __forceinline__ void mark(const kept_rows<T> &a, int64_t i, int64_t at,
                                            unsigned *bits)
{
    constexpr int WORDS = bit_words(GROUP);
    const int lane = threadIdx.x % GROUP;
    const int64_t words = (a.V - at + 31) / 32;
    group_sync<GROUP>(); /* they may still be read */
    for (int w = lane; w < (words < WORDS ? words : WORDS); w += GROUP)
        bits[w] = 0;
    group_sync<GROUP>();
    for (int64_t k = lane; k < a.K; k += GROUP) {
        const int64_t v = a.index[i * a.K + k] - at;
        if (v >= 0 && v < WORDS * 32)
            atomicOr(&bits[v / 32], 1u << v % 32);
    }
    group_sync<GROUP>();
}

/* Runs take(v, x, kept) on each pack of the row that this thread has; bit e of kept: x[e] is. */
template <typename T, int GROUP, typename Take>
static __device__ __forceinline__ void for_each(const kept_rows<T> &a, int64_t i, unsigned *bits,
                                                Take take)
{
    constexpr unsigned N = 16 / sizeof(T), MOST = bit_words(GROUP) * 32;
    const unsigned V = (unsigned)a.V; /* below 2^31 */
    for (unsigned at = 0; at < V; at += MOST) {
        const unsigned end = V - at < MOST ? V : at + MOST;
        mark<T, GROUP>(a, i, at, bits);
        for (unsigned v = at + threadIdx.x % GROUP * N; v < end; v += GROUP * N) {
            float x[N];
            loss_load(x, a.x + i * a.V, v, a.V, a.wide);
            take(v, x, bits[(v - at) / 32] >> (v - at) % 32);
        }
    }
}

/* What a row comes to; logarithms of Σ e^(x/temperature). */
struct kept_row {
    loss_softmax rest; /* of the others */
    double log_rest, log_all, share;
};

template <typename T>
static __device__ __forceinline__ double kept_logit(const kept_rows<T> &a, int64_t i, int64_t k)
{
    return (double)to_f32(a.x[i * a.V + a.index[i * a.K + k]]) * (double)a.inverse;
}

/* log Σ e^ of the kept and of the others. */
template <typename T, int GROUP>
static __device__ __forceinline__ double log_all(const kept_rows<T> &a, int64_t i, double log_rest,
                                                 float *room, double *rooms)
{
    float most = -INFINITY;
    double sum = 0;
    for (int64_t k = threadIdx.x % GROUP; k < a.K; k += GROUP)
        most = fmaxf(most, (float)kept_logit(a, i, k));
    const double top = fmax(log_rest, (double)loss_max<GROUP>(most, room));
    for (int64_t k = threadIdx.x % GROUP; k < a.K; k += GROUP)
        sum += exp(kept_logit(a, i, k) - top);
    return top + log(loss_sum<GROUP>(sum, rooms) + exp(log_rest - top));
}

template <typename T, int GROUP>
static __device__ __forceinline__ kept_row read_row(const kept_rows<T> &a, int64_t i,
                                                    unsigned *bits, float *room, double *rooms)
{
    constexpr int N = 16 / sizeof(T);
    const float c = a.inverse * LOSS_LOG2E;
    kept_row r = {LOSS_NOTHING_READ, 0, 0, 0};
    for_each<T, GROUP>(a, i, bits, [&](unsigned, float(&x)[N], unsigned kept) {
#pragma unroll
        for (int e = 0; e < N; e++)
            if (kept >> e & 1)
                x[e] = -INFINITY;
        loss_read(&r.rest, x, c);
    });
    loss_join<GROUP>(&r.rest, c, room);
    /* −Inf where there are no others, or none that is possible */
    r.log_rest = (double)r.rest.top * (double)a.inverse + log((double)r.rest.exps);
    r.log_all = log_all<T, GROUP>(a, i, r.log_rest, room, rooms);
    double loss = 0, of_kept = 0;
    for (int64_t k = threadIdx.x % GROUP; k < a.K; k += GROUP) {
        const double log_p = (double)a.value[i * a.K + k], p = exp(log_p);
        of_kept += p;
        if (p != 0)
            loss += p * (log_p - (kept_logit(a, i, k) - r.log_all));
    }
    loss = loss_sum<GROUP>(loss, rooms);
    of_kept = loss_sum<GROUP>(of_kept, rooms);
    r.share = a.K == a.V || of_kept > 1 ? 0 : 1 - of_kept;
    if (r.share != 0)
        loss += r.share * (log(r.share) - (r.log_rest - r.log_all));
    if (threadIdx.x % GROUP == 0)
        a.loss[i] = a.V == 0 || loss < 0 ? 0.0f : (float)loss; /* below 0 by rounding only */
    return r;
}

/* dx may be x: what is kept stays in its place until all others are written. */
template <typename T, int GROUP>
static __device__ __forceinline__ void write_gradient(const kept_rows<T> &a, int64_t i,
                                                      const kept_row &r, unsigned *bits)
{
    constexpr int N = 16 / sizeof(T);
    const float c = a.inverse * LOSS_LOG2E;
    const double scale = (double)a.scale * (double)a.inverse;
    const float each =
        r.rest.exps == 0.0f
            ? 0.0f
            : (float)(scale * (exp(r.log_rest - r.log_all) - r.share) / (double)r.rest.exps);
    for_each<T, GROUP>(a, i, bits, [&](unsigned v, float(&x)[N], unsigned kept) {
#pragma unroll
        for (int e = 0; e < N; e++)
            if (!(kept >> e & 1))
                x[e] = exp2_fast((x[e] - r.rest.top) * c) * each;
        loss_store(a.dx + i * a.V, x, v, a.V, a.wide);
    });
    group_sync<GROUP>();
    for (int64_t k = threadIdx.x % GROUP; k < a.K; k += GROUP) {
        const double q = exp(kept_logit(a, i, k) - r.log_all);
        const double p = exp((double)a.value[i * a.K + k]);
        a.dx[i * a.V + a.index[i * a.K + k]] = from_f32<T>((float)(scale * (q - p)));
    }
}

template <typename T, int GROUP>
__global__ void __launch_bounds__(loss_threads(GROUP))
    k_kl_top(const __grid_constant__ kept_rows<T> a)
{
    PARE_SHARED_ARRAY(float, room, 32);
    PARE_SHARED_ARRAY(double, rooms, 32);
    PARE_SHARED_ARRAY(unsigned, marks, bit_words(GROUP) * (loss_threads(GROUP) / GROUP));
    const int64_t i = loss_row<GROUP>();
    unsigned *bits = marks + threadIdx.x / GROUP * bit_words(GROUP);
    if (i >= a.R) /* a whole warp; blocks of one row have one */
        return;
    if (!a.labels || a.labels[i] != -1) {
        const kept_row r = read_row<T, GROUP>(a, i, bits, room, rooms);
        if (a.dx)
            write_gradient<T, GROUP>(a, i, r, bits);
        return;
    }
    if (threadIdx.x % GROUP == 0)
        a.loss[i] = 0.0f;
    if (a.dx)
        loss_no_gradient<GROUP, 16 / sizeof(T)>(a.dx, i, a.V, a.wide);
}

template <typename T> static pare_status losses(pare_backend *be, const pare_kl_top_args *args)
{
    constexpr int N = 16 / sizeof(T);
    kept_rows<T> a = {(const T *)args->x.data,
                      (const int32_t *)args->index.data,
                      (const float *)args->value.data,
                      (const int32_t *)args->labels.data,
                      (float *)args->loss.data,
                      (T *)args->dx.data,
                      args->x.shape[0],
                      args->x.shape[1],
                      args->index.shape[1],
                      loss_inverse(args->temperature),
                      args->grad_scale,
                      false};
    a.wide = loss_wide(a.x, a.V, N, sizeof(T)) && loss_wide(a.dx, a.V, N, sizeof(T));
    LOSS_GROUP(a.V, GROUP, {
        PARE_LAUNCH(be, (k_kl_top<T, GROUP>), pare__blocks(a.R, loss_threads(GROUP) / GROUP),
                    loss_threads(GROUP), 0, a);
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_kl_top(pare_backend *be, const pare_kl_top_args *args)
{
    if (args->x.shape[0] == 0)
        return PARE_OK;
    PARE_TRY(check_classes(be, args));
    PARE_ACT_TYPE(args->x.dtype, T, { PARE_TRY(losses<T>(be, args)); });
    return PARE_OK;
}
