/* cuda_norm.cu - layer norm and RMS norm by row.
 *
 *     layer_norm  y = (x − mean)·scale·gamma + beta, scale = 1/sqrt(var + eps)
 *     rms_norm    y = x·scale·gamma, scale = 1/sqrt(mean(x²) + eps)
 *
 * A row of at most 16,384 elements is held in registers (cuda_row.cuh), so that its mean, then the
 * squares of its differences from the mean, cost no second reading; a longer one is read three
 * times, the last two out of the L2 cache. What rounding took from the mean is found with the
 * squares and put right, so that a mean far from 0 costs no digits. gamma and beta come from the L1
 * cache. Bound by memory: 8 bytes an element in F32, 4 in BF16. Predicted, not measured: 90 % of
 * the copy rate from 256 columns on, 70 % for longer rows than registers hold.
 */
#include "cuda_nn.cuh"

#include "cuda_row.cuh"

#define LONG 512 /* threads for a row that registers do not hold */
#define LONG_ROW 16384

typedef struct norm_rows {
    const void *x;             /* [R, N] */
    void *y;                   /* [R, N] */
    const float *gamma, *beta; /* [N]; beta may be NULL */
    float *mean, *scale;       /* [R], may be NULL */
    int64_t R, N;
    float share, eps; /* share: 1/N */
} norm_rows;

/* xhat = (x − mean)·scale − off */
typedef struct moments {
    float mean, scale, off;
} moments;

/* Of the sums of the differences from the mean, and of their squares; saves them. */
static __device__ __forceinline__ moments finish(const norm_rows &a, int64_t r, bool save,
                                                 float mean, const float *sums)
{
    float left = sums[0] * a.share, square = sums[1] * a.share - left * left;
    float scale = 1.0f / sqrtf((square < 0 ? 0 : square) + a.eps);
    if (save && a.mean)
        a.mean[r] = mean + left;
    if (save && a.scale)
        a.scale[r] = scale;
    return {mean, scale, left * scale};
}

template <typename T, bool CENTRED, bool ALIGNED>
static __device__ __forceinline__ void write_pack(const norm_rows &a, const moments &m, T *y,
                                                  int64_t i, int64_t n, const float *x)
{
    constexpr int W = row_pack<T>;
    float gamma[W], beta[W] = {0}, out[W];
    row_floats<W, ALIGNED>(gamma, a.gamma, i, n);
    if (a.beta)
        row_floats<W, ALIGNED>(beta, a.beta, i, n);
#pragma unroll
    for (int k = 0; k < W; k++) {
        float xhat = CENTRED ? (x[k] - m.mean) * m.scale - m.off : x[k] * m.scale;
        out[k] = xhat * gamma[k] + beta[k];
    }
    row_store<T, ALIGNED>(y, i, n, out);
}

template <typename T, bool CENTRED, bool ALIGNED, int TEAM, int HELD>
static __global__ void __launch_bounds__(row_threads<TEAM>) k_norm(norm_rows a)
{
    PARE_SHARED_ARRAY(float, room, 2 * PARE_WARP);
    constexpr int W = row_pack<T>;
    int64_t r = row_of_team<TEAM>(), start = r < a.R ? r * a.N : 0;
    int thread = threadIdx.x % TEAM, n = r < a.R ? (int)a.N : 0;
    float x[HELD], mean = 0, sums[2] = {0, 0};
    row_hold<T, ALIGNED, TEAM, HELD>(x, (const T *)a.x + start, thread, n);
    if (CENTRED) {
        ROW_PACKS(u, i, W, TEAM, HELD, thread)
        for (int k = 0; k < W; k++)
            mean += x[u * W + k];
        mean = team_sum<TEAM>(mean, room) * a.share;
    }
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    for (int k = 0; k < W; k++) {
        float d = row_has<ALIGNED>(i, k, n) ? x[u * W + k] - mean : 0.0f;
        sums[0] += CENTRED ? d : 0.0f;
        sums[1] += d * d;
    }
    if (CENTRED)
        team_sums<TEAM, 2>(sums, room);
    else
        sums[1] = team_sum<TEAM>(sums[1], room);
    moments m = finish(a, r, n > 0 && thread == 0, mean, sums);
    ROW_PACKS(u, i, W, TEAM, HELD, thread)
    write_pack<T, CENTRED, ALIGNED>(a, m, (T *)a.y + start, i, n, x + u * W);
}

/* One block a row. */
template <typename T, bool CENTRED, bool ALIGNED>
static __global__ void __launch_bounds__(LONG) k_norm_long(norm_rows a)
{
    PARE_SHARED_ARRAY(float, room, 2 * PARE_WARP);
    constexpr int W = row_pack<T>, STEP = LONG * W;
    const T *x = (const T *)a.x + blockIdx.x * a.N;
    float mean = 0, sums[2] = {0, 0};
    if (CENTRED) {
#pragma unroll 4
        for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
            float v[W], sum = 0;
            row_unpack<T>(v, row_load<T, ALIGNED>(x, i, a.N));
            for (int k = 0; k < W; k++)
                sum += v[k];
            mean += sum;
        }
        mean = team_sum<LONG>(mean, room) * a.share;
    }
#pragma unroll 4
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        float v[W], sum = 0, square = 0;
        row_unpack<T>(v, row_load<T, ALIGNED>(x, i, a.N));
        for (int k = 0; k < W; k++) {
            float d = row_has<ALIGNED>(i, k, a.N) ? v[k] - mean : 0.0f;
            sum += CENTRED ? d : 0.0f;
            square += d * d;
        }
        sums[0] += sum;
        sums[1] += square;
    }
    team_sums<LONG, 2>(sums, room);
    moments m = finish(a, blockIdx.x, threadIdx.x == 0, mean, sums);
#pragma unroll 2
    for (int64_t i = threadIdx.x * W; i < a.N; i += STEP) {
        float v[W];
        row_unpack<T>(v, row_load<T, ALIGNED>(x, i, a.N));
        write_pack<T, CENTRED, ALIGNED>(a, m, (T *)a.y + blockIdx.x * a.N, i, a.N, v);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

#define HELD_ROWS(TEAM_, HELD_)                                                                    \
    PARE_LAUNCH(be, (k_norm<T, CENTRED, ALIGNED, TEAM_, HELD_>),                                   \
                pare__blocks(a->R, row_teams<TEAM_>), row_threads<TEAM_>, 0, *a)

template <typename T, bool CENTRED, bool ALIGNED>
static pare_status launch(pare_backend *be, const norm_rows *a)
{
    if (a->N <= 8 * 16)
        HELD_ROWS(8, 16);
    else if (a->N <= 32 * 16)
        HELD_ROWS(32, 16);
    else if (a->N <= 32 * 32)
        HELD_ROWS(32, 32);
    else if (a->N <= 128 * 32)
        HELD_ROWS(128, 32);
    else if (a->N <= LONG_ROW)
        HELD_ROWS(512, 32);
    else
        PARE_LAUNCH(be, (k_norm_long<T, CENTRED, ALIGNED>), a->R, LONG, 0, *a);
    return PARE_OK;
}

template <bool CENTRED>
static pare_status run(pare_backend *be, const pare_tensor *x, const pare_tensor *y, norm_rows *a)
{
    const void *pointers[] = {x->data, y->data, a->gamma, a->beta};
    a->x = x->data;
    a->y = y->data;
    a->R = row_rows(x);
    a->N = row_cols(x);
    a->share = 1.0f / (float)a->N;
    if (a->N == 0)
        return PARE_OK;
    PARE_ACT_TYPE(x->dtype, T, {
        if (row_aligned(a->N, sizeof(T), pointers, 4))
            PARE_TRY((launch<T, CENTRED, true>(be, a)));
        else
            PARE_TRY((launch<T, CENTRED, false>(be, a)));
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_layer_norm(pare_backend *be, const pare_layer_norm_args *args)
{
    norm_rows a = {};
    a.gamma = (const float *)args->gamma.data;
    a.beta = (const float *)args->beta.data;
    a.mean = (float *)args->saved_mean.data;
    a.scale = (float *)args->saved_scale.data;
    a.eps = args->eps;
    return run<true>(be, &args->x, &args->y, &a);
}

extern "C" pare_status pare_cuda_rms_norm(pare_backend *be, const pare_rms_norm_args *args)
{
    norm_rows a = {};
    a.gamma = (const float *)args->gamma.data;
    a.scale = (float *)args->saved_scale.data;
    a.eps = args->eps;
    return run<false>(be, &args->x, &args->y, &a);
}
