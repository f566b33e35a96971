/* cuda_act.cu - activation functions, gated or not, and their gradients.
 *
 *     act      y = f(x)                 act_grad  dx = dy·f'(x)
 *     glu      y = f(a)·b               glu_grad  da = dy·b·f'(a), db = dy·f(a)
 *
 * One pass, the function and the dtype constants of the kernel, cut as cuda_each.cuh says. Bound by
 * memory; bytes an element in F32 (half in BF16): act 8, act_grad 12, glu 12, glu_grad 20.
 * Predicted, not measured: 90 % of the copy rate in F32; in BF16 the same for ReLU, SiLU, sigmoid
 * and GELU's short forms (some 20 instructions an element), 75 % for erf and tanh.
 *
 * Functions are CUDA's of f32 (erff 2 ulp, expf 1 ulp, tanhf 1 ulp). 1/(1 + e) is taken with
 * __fdividef, 2 ulp: its denominator is at least 1, and where it is above 2^126 (or infinite) the
 * result, 0, is off by less than 2^-126.
 */
#include "cuda_nn.cuh"

#include "cuda_each.cuh"

/* ---- the functions --------------------------------------------------------------------------- */

static __device__ __forceinline__ float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + expf(-x));
}

/* σ'(x) = e^−|x|/(1 + e^−|x|)² */
static __device__ __forceinline__ float sigmoid_slope(float x)
{
    float e = expf(-fabsf(x)), d = 1.0f + e;
    return __fdividef(e, d * d);
}

/* Φ(x), the normal distribution function. */
static __device__ __forceinline__ float normal(float x)
{
    return 0.5f * erff(x * 0.70710678f) + 0.5f;
}

/* Twice the argument of tanh in the tanh form of GELU; with it 1 + tanh(u) = 2σ(2u). */
static __device__ __forceinline__ float gelu_tanh_inner(float x)
{
    return x * (x * x * 0.0713548162726f + 1.5957691216057308f);
}

template <pare_fn FN> static __device__ __forceinline__ float value(float x)
{
    switch (FN) {
    case PARE_FN_RELU:
        return x < 0.0f ? 0.0f : x;
    case PARE_FN_GELU:
        return x * normal(x);
    case PARE_FN_GELU_TANH:
        return x * sigmoid(gelu_tanh_inner(x));
    case PARE_FN_GELU_QUICK:
        return x * sigmoid(x * 1.702f);
    case PARE_FN_SILU:
        return x * sigmoid(x);
    case PARE_FN_TANH:
        return tanhf(x);
    case PARE_FN_SIGMOID:
        return sigmoid(x);
    default:
        return x;
    }
}

/* x·σ(k·x) has the slope σ + k·x·σ·(1 − σ): in this order 0, not NaN, where k·x is infinite. */
static __device__ __forceinline__ float gated_slope(float x, float k)
{
    float s = sigmoid(x * k);
    return s * x * (1.0f - s) * k + s;
}

static __device__ __forceinline__ float gelu_tanh_slope(float x)
{
    /* flat outside, where the square would overflow; NaN stays */
    x = x > 20.0f ? 20.0f : x < -20.0f ? -20.0f : x;
    float s = sigmoid(gelu_tanh_inner(x));
    return s * (x * (1.0f - s) * (x * x * 0.2140644488178f + 1.5957691216057308f) + 1.0f);
}

template <pare_fn FN> static __device__ __forceinline__ float slope(float x)
{
    switch (FN) {
    case PARE_FN_GELU:
        return x * (expf(x * x * -0.5f) * 0.39894228f) + normal(x);
    case PARE_FN_GELU_TANH:
        return gelu_tanh_slope(x);
    case PARE_FN_GELU_QUICK:
        return gated_slope(x, 1.702f);
    case PARE_FN_SILU:
        return gated_slope(x, 1.0f);
    case PARE_FN_TANH:
        return sigmoid_slope(x * 2.0f) * 4.0f;
    case PARE_FN_SIGMOID:
        return sigmoid_slope(x);
    default:
        return 1.0f;
    }
}

/* dy·f'(x); nothing passes where a ReLU is flat, be it NaN or Inf. */
template <pare_fn FN> static __device__ __forceinline__ float through(float dy, float x)
{
    if (FN == PARE_FN_RELU)
        return x > 0.0f ? dy : 0.0f;
    return dy * slope<FN>(x);
}

/* ---- kernels: `packs` packs of n elements, then what is left ------------------------------------
 */

template <typename T, pare_fn FN>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_act(const T *x, T *y, int64_t n, int64_t packs)
{
    constexpr int N = pack_size<T>;
    pack_of<T, N> p[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs)
            p[u] = load_pack<T, N>(x + each_pack(u) * N);
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
#pragma unroll
        for (int k = 0; k < N; k++)
            p[u].at[k] = from_f32<T>(value<FN>(to_f32(p[u].at[k])));
        store_pack<T, N>(y + each_pack(u) * N, p[u]);
    }
    EACH_REST(i, n, packs * N)
    y[i] = from_f32<T>(value<FN>(to_f32(x[i])));
}

template <typename T, pare_fn FN>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_act_grad(const T *dy, const T *x, T *dx, int64_t n, int64_t packs)
{
    constexpr int N = pack_size<T>;
    pack_of<T, N> p[EACH_PACKS], d[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs) {
            p[u] = load_pack<T, N>(x + each_pack(u) * N);
            d[u] = load_pack<T, N>(dy + each_pack(u) * N);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
#pragma unroll
        for (int k = 0; k < N; k++)
            d[u].at[k] = from_f32<T>(through<FN>(to_f32(d[u].at[k]), to_f32(p[u].at[k])));
        store_pack<T, N>(dx + each_pack(u) * N, d[u]);
    }
    EACH_REST(i, n, packs * N)
    dx[i] = from_f32<T>(through<FN>(to_f32(dy[i]), to_f32(x[i])));
}

template <typename T, pare_fn FN>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_glu(const T *a, const T *b, T *y, int64_t n, int64_t packs)
{
    constexpr int N = pack_size<T>;
    pack_of<T, N> p[EACH_PACKS], q[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs) {
            p[u] = load_pack<T, N>(a + each_pack(u) * N);
            q[u] = load_pack<T, N>(b + each_pack(u) * N);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
#pragma unroll
        for (int k = 0; k < N; k++)
            p[u].at[k] = from_f32<T>(value<FN>(to_f32(p[u].at[k])) * to_f32(q[u].at[k]));
        store_pack<T, N>(y + each_pack(u) * N, p[u]);
    }
    EACH_REST(i, n, packs * N)
    y[i] = from_f32<T>(value<FN>(to_f32(a[i])) * to_f32(b[i]));
}

/* da and db of one element; the places they go to may be those that they come from. */
template <typename T, pare_fn FN>
static __device__ __forceinline__ void glu_slopes(float dy, float a, float b, T *da, T *db)
{
    *da = from_f32<T>(through<FN>(dy * b, a));
    *db = from_f32<T>(dy * value<FN>(a));
}

/* Three arrays are read: two packs of each at once are bytes enough under way. */
template <typename T, pare_fn FN>
static __global__ void __launch_bounds__(EACH_THREADS, 2)
    k_glu_grad(const T *dy, const T *a, const T *b, T *da, T *db, int64_t n, int64_t packs)
{
    constexpr int N = pack_size<T>;
#pragma unroll
    for (int first = 0; first < EACH_PACKS; first += 2) {
        pack_of<T, N> p[2], q[2], d[2];
#pragma unroll
        for (int u = 0; u < 2; u++)
            if (each_pack(first + u) < packs) {
                p[u] = load_pack<T, N>(a + each_pack(first + u) * N);
                q[u] = load_pack<T, N>(b + each_pack(first + u) * N);
                d[u] = load_pack<T, N>(dy + each_pack(first + u) * N);
            }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (each_pack(first + u) >= packs)
                break;
#pragma unroll
            for (int k = 0; k < N; k++)
                glu_slopes<T, FN>(to_f32(d[u].at[k]), to_f32(p[u].at[k]), to_f32(q[u].at[k]),
                                  &p[u].at[k], &q[u].at[k]);
            store_pack<T, N>(da + each_pack(first + u) * N, p[u]);
            store_pack<T, N>(db + each_pack(first + u) * N, q[u]);
        }
    }
    EACH_REST(i, n, packs * N)
    glu_slopes<T, FN>(to_f32(dy[i]), to_f32(a[i]), to_f32(b[i]), da + i, db + i);
}

/* ---- launchers ------------------------------------------------------------------------------- */

#define FN_CASE(fn_, FN, ...)                                                                      \
    case fn_: {                                                                                    \
        constexpr pare_fn FN = fn_;                                                                \
        __VA_ARGS__                                                                                \
        break;                                                                                     \
    }

/* Runs the body with T and FN as constants. */
#define EACH_FN(fn_, dtype_, T, FN, ...)                                                           \
    PARE_ACT_TYPE(dtype_, T, switch (fn_) {                                                        \
        FN_CASE(PARE_FN_RELU, FN, __VA_ARGS__)                                                     \
        FN_CASE(PARE_FN_GELU, FN, __VA_ARGS__)                                                     \
        FN_CASE(PARE_FN_GELU_TANH, FN, __VA_ARGS__)                                                \
        FN_CASE(PARE_FN_GELU_QUICK, FN, __VA_ARGS__)                                               \
        FN_CASE(PARE_FN_SILU, FN, __VA_ARGS__)                                                     \
        FN_CASE(PARE_FN_TANH, FN, __VA_ARGS__)                                                     \
        FN_CASE(PARE_FN_SIGMOID, FN, __VA_ARGS__)                                                  \
    default: {                                                                                     \
        constexpr pare_fn FN = PARE_FN_IDENTITY;                                                   \
        __VA_ARGS__                                                                                \
        break;                                                                                     \
    }                                                                                              \
    })

extern "C" pare_status pare_cuda_act(pare_backend *be, const pare_act_args *args)
{
    const void *x = args->x.data;
    void *y = args->y.data;
    int64_t n = pare_tensor_count(&args->x);
    bool aligned = pare__aligned(x, 16) && pare__aligned(y, 16);
    EACH_FN(args->fn, args->x.dtype, T, FN, {
        PARE_LAUNCH(be, (k_act<T, FN>), each_blocks(n, pack_size<T>), EACH_THREADS, 0, (const T *)x,
                    (T *)y, n, each_packs(n, pack_size<T>, aligned));
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_act_grad(pare_backend *be, const pare_act_grad_args *args)
{
    const void *dy = args->dy.data, *x = args->x.data;
    void *dx = args->dx.data;
    int64_t n = pare_tensor_count(&args->x);
    bool aligned = pare__aligned(dy, 16) && pare__aligned(x, 16) && pare__aligned(dx, 16);
    EACH_FN(args->fn, args->x.dtype, T, FN, {
        PARE_LAUNCH(be, (k_act_grad<T, FN>), each_blocks(n, pack_size<T>), EACH_THREADS, 0,
                    (const T *)dy, (const T *)x, (T *)dx, n, each_packs(n, pack_size<T>, aligned));
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_glu(pare_backend *be, const pare_glu_args *args)
{
    const void *a = args->a.data, *b = args->b.data;
    void *y = args->y.data;
    int64_t n = pare_tensor_count(&args->a);
    bool aligned = pare__aligned(a, 16) && pare__aligned(b, 16) && pare__aligned(y, 16);
    EACH_FN(args->fn, args->a.dtype, T, FN, {
        PARE_LAUNCH(be, (k_glu<T, FN>), each_blocks(n, pack_size<T>), EACH_THREADS, 0, (const T *)a,
                    (const T *)b, (T *)y, n, each_packs(n, pack_size<T>, aligned));
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_glu_grad(pare_backend *be, const pare_glu_grad_args *args)
{
    const void *dy = args->dy.data, *a = args->a.data, *b = args->b.data;
    void *da = args->da.data, *db = args->db.data;
    int64_t n = pare_tensor_count(&args->a);
    bool aligned = pare__aligned(dy, 16) && pare__aligned(a, 16) && pare__aligned(b, 16) &&
                   pare__aligned(da, 16) && pare__aligned(db, 16);
    EACH_FN(args->fn, args->a.dtype, T, FN, {
        PARE_LAUNCH(be, (k_glu_grad<T, FN>), each_blocks(n, pack_size<T>), EACH_THREADS, 0,
                    (const T *)dy, (const T *)a, (const T *)b, (T *)da, (T *)db, n,
                    each_packs(n, pack_size<T>, aligned));
    });
    return PARE_OK;
}
