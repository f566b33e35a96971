/* cuda_arithmetic.cu - fill, add, dropout.
 *
 *     fill     y = value
 *     add      y = a + b, negatives 0 if relu; each of the three F32 or BF16
 *     dropout  y = x·keep/(1 − p), keep a hash of seed, stream and the element's index
 *
 * One pass, cut as cuda_each.cuh says; where dtypes differ a pack is four elements. Bound by
 * memory, dropout in BF16 by its hash (two products of 64 bits, some 35 instructions an element).
 * Bytes an element in F32: 4, 12, 8. Predicted, not measured: 90 % of the copy rate; dropout in
 * BF16 70 %.
 */
#include "cuda_nn.cuh"

#include "cuda_each.cuh"

/* ---- fill ------------------------------------------------------------------------------------ */

template <typename T>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_fill(T *y, int64_t n, int64_t packs, float value)
{
    constexpr int N = pack_size<T>;
    pack_of<T, N> p;
#pragma unroll
    for (int k = 0; k < N; k++)
        p.at[k] = from_f32<T>(value);
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs)
            store_pack<T, N>(y + each_pack(u) * N, p);
    EACH_REST(i, n, packs * N)
    y[i] = p.at[0];
}

extern "C" pare_status pare_cuda_fill(pare_backend *be, const pare_fill_args *args)
{
    void *y = args->y.data;
    int64_t n = pare_tensor_count(&args->y);
    PARE_ACT_TYPE(args->y.dtype, T, {
        constexpr int N = pack_size<T>;
        PARE_LAUNCH(be, (k_fill<T>), each_blocks(n, N), EACH_THREADS, 0, (T *)y, n,
                    each_packs(n, N, pare__aligned(y, 16)), args->value);
    });
    return PARE_OK;
}

/* ---- add ------------------------------------------------------------------------------------- */

/* What is below `low` becomes it: 0 with ReLU, else −Inf. NaN stays. */
template <typename A, typename B, typename Y>
static __device__ __forceinline__ Y sum_of(A a, B b, float low)
{
    float sum = to_f32(a) + to_f32(b);
    return from_f32<Y>(low > sum ? low : sum);
}

template <typename A, typename B, typename Y>
static __global__ void __launch_bounds__(EACH_THREADS, 2)
    k_add(const A *a, const B *b, Y *y, int64_t n, int64_t packs, float low)
{
    constexpr int N = pack_size<A, B, Y>;
    pack_of<A, N> p[EACH_PACKS];
    pack_of<B, N> q[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs) {
            p[u] = load_pack<A, N>(a + each_pack(u) * N);
            q[u] = load_pack<B, N>(b + each_pack(u) * N);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
        pack_of<Y, N> sum;
#pragma unroll
        for (int k = 0; k < N; k++)
            sum.at[k] = sum_of<A, B, Y>(p[u].at[k], q[u].at[k], low);
        store_pack<Y, N>(y + each_pack(u) * N, sum);
    }
    EACH_REST(i, n, packs * N)
    y[i] = sum_of<A, B, Y>(a[i], b[i], low);
}

template <typename A, typename B, typename Y>
static pare_status add(pare_backend *be, const pare_add_args *args)
{
    constexpr int N = pack_size<A, B, Y>;
    const A *a = (const A *)args->a.data;
    const B *b = (const B *)args->b.data;
    Y *y = (Y *)args->y.data;
    int64_t n = pare_tensor_count(&args->y);
    bool aligned = pare__aligned(a, sizeof(A) * N) && pare__aligned(b, sizeof(B) * N) &&
                   pare__aligned(y, sizeof(Y) * N);
    PARE_LAUNCH(be, (k_add<A, B, Y>), each_blocks(n, N), EACH_THREADS, 0, a, b, y, n,
                each_packs(n, N, aligned), args->relu ? 0.0f : -INFINITY);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_add(pare_backend *be, const pare_add_args *args)
{
    PARE_ACT_TYPE(args->a.dtype, A, {
        PARE_ACT_TYPE(args->b.dtype, B, {
            PARE_ACT_TYPE(args->y.dtype, Y, { PARE_TRY((add<A, B, Y>(be, args))); });
        });
    });
    return PARE_OK;
}

/* ---- dropout --------------------------------------------------------------------------------- */

#define STEP 0xD1342543DE82EF95u

typedef struct dropout {
    uint64_t start;
    uint32_t least; /* kept where the hash's upper 24 bits are no less */
    float factor;
} dropout;

/* One element; z is its counter. The finaliser's last step, z ^= z >> 31, does not reach the upper
 * 24 bits. */
template <typename T>
static __device__ __forceinline__ T kept_or_0(T x, uint64_t z, const dropout &d)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return from_f32<T>((uint32_t)(z >> 40) < d.least ? 0.0f : to_f32(x) * d.factor);
}

template <typename T>
static __global__ void __launch_bounds__(EACH_THREADS, 2)
    k_dropout(const T *x, T *y, int64_t n, int64_t packs, dropout d)
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
        uint64_t z = d.start + ((uint64_t)each_pack(u) * N + 1) * STEP;
#pragma unroll
        for (int k = 0; k < N; k++)
            p[u].at[k] = kept_or_0(p[u].at[k], z + (uint64_t)k * STEP, d);
        store_pack<T, N>(y + each_pack(u) * N, p[u]);
    }
    EACH_REST(i, n, packs * N)
    y[i] = kept_or_0(x[i], d.start + ((uint64_t)i + 1) * STEP, d);
}

extern "C" pare_status pare_cuda_dropout(pare_backend *be, const pare_dropout_args *args)
{
    const void *x = args->x.data;
    void *y = args->y.data;
    int64_t n = pare_tensor_count(&args->x);
    dropout d;
    d.start = args->seed ^ (args->stream * 0x9E3779B97F4A7C15u);
    d.least = (uint32_t)rint((double)args->p * 0x1p24);
    d.factor = (float)(1.0 / (1.0 - (double)args->p));
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = pack_size<T>;
        PARE_LAUNCH(be, (k_dropout<T>), each_blocks(n, N), EACH_THREADS, 0, (const T *)x, (T *)y, n,
                    each_packs(n, N, pare__aligned(x, 16) && pare__aligned(y, 16)), d);
    });
    return PARE_OK;
}
