/* cuda_quant_rows.cu - activations rounded to int8 and back, with a scale for every row or one
 * given scale.
 *
 *     y = clamp(rint(x/s), −128, 127)·s, s = max|x|/127.5 of the row; a row whose s is 0 stays
 *
 * A warp has a row of up to 128 packs of 16 bytes, a block a longer one: what a thread reads for
 * the largest magnitude it keeps in registers for the second step, up to HELD packs, so rows of up
 * to 4096 (F32) or 8192 (BF16) elements are read once; of longer ones the rest comes a second time,
 * out of the second-level cache. With a given scale elements go one by one. Codes are those of the
 * formula's true quotient. Bound by memory: 8 bytes an element in F32. Predicted, not measured: 85
 * % of the copy rate, 90 % with a given scale.
 */
#include "cuda_divide.cuh"
#include "cuda_each.cuh"

#define THREADS 256
#define HELD 4 /* packs that a thread keeps */

/* An s of 0 leaves x as it is, an infinite one gives NaN, as the formula does. */
template <typename T> static __device__ __forceinline__ T rounded(T x, const divisor &d)
{
    float q = rintf(divided(to_f32(x), d)) + 0.0f; /* −0 becomes +0: a code has no sign */
    q = q > 127.0f ? 127.0f : q < -128.0f ? -128.0f : q;
    return d.s == 0.0f ? x : from_f32<T>(q * d.s);
}

template <typename T, int N>
static __device__ __forceinline__ float top_of(const pack_of<T, N> &p, float top)
{
#pragma unroll
    for (int k = 0; k < N; k++)
        top = fmaxf(top, fabsf(to_f32(p.at[k]))); /* passes over NaN */
    return top;
}

template <typename T, int N>
static __device__ __forceinline__ void store_rounded(T *y, pack_of<T, N> p, const divisor &d)
{
#pragma unroll
    for (int k = 0; k < N; k++)
        p.at[k] = rounded(p.at[k], d);
    store_pack<T, N>(y, p);
}

/* A row of P packs for each WIDE threads, the block or a warp, which holds the whole row. */
template <typename T, int N, int WIDE>
static __global__ void __launch_bounds__(THREADS, 2)
    k_quant_rows(const T *x, T *y, int64_t R, int64_t P)
{
    PARE_SHARED_ARRAY(float, room, PARE_WARP);
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WIDE) + threadIdx.x / WIDE;
    const int64_t mine = row < R ? P : 0; /* packs in my row */
    const int t = threadIdx.x % WIDE;
    x += row * P * N;
    y += row * P * N;

    pack_of<T, N> held[HELD];
    float top = 0.0f;
#pragma unroll
    for (int u = 0; u < HELD; u++)
        if (t + u * WIDE < mine)
            held[u] = load_pack<T, N>(x + (t + u * WIDE) * N);
#pragma unroll
    for (int u = 0; u < HELD; u++)
        if (t + u * WIDE < mine)
            top = top_of<T, N>(held[u], top);
#pragma unroll 4
    for (int64_t p = t + HELD * WIDE; WIDE > PARE_WARP && p < mine; p += WIDE)
        top = top_of<T, N>(load_pack<T, N>(x + p * N), top);

    top = WIDE == PARE_WARP ? warp_max(top) : block_max(top, room);
    const divisor d = divisor_of(top / 127.5f);
#pragma unroll
    for (int u = 0; u < HELD; u++)
        if (t + u * WIDE < mine)
            store_rounded<T, N>(y + (t + u * WIDE) * N, held[u], d);
#pragma unroll 4
    for (int64_t p = t + HELD * WIDE; WIDE > PARE_WARP && p < mine; p += WIDE)
        store_rounded<T, N>(y + p * N, load_pack<T, N>(x + p * N), d);
}

template <typename T, int N>
static pare_status quant_rows(pare_backend *be, const pare_quant_rows_args *args)
{
    const T *x = (const T *)args->x.data;
    T *y = (T *)args->y.data;
    int64_t R = args->x.shape[0], P = args->x.shape[1] / N;
    if (P == 0)
        return PARE_OK;
    if (P <= PARE_WARP * HELD)
        PARE_LAUNCH(be, (k_quant_rows<T, N, PARE_WARP>), pare__blocks(R, THREADS / PARE_WARP),
                    THREADS, 0, x, y, R, P);
    else
        PARE_LAUNCH(be, (k_quant_rows<T, N, THREADS>), R, THREADS, 0, x, y, R, P);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_quant_rows(pare_backend *be, const pare_quant_rows_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = 16 / (int)sizeof(T);
        if (args->x.shape[1] % N == 0 && pare__aligned(args->x.data, 16) &&
            pare__aligned(args->y.data, 16))
            PARE_TRY((quant_rows<T, N>(be, args)));
        else
            PARE_TRY((quant_rows<T, 1>(be, args)));
    });
    return PARE_OK;
}

/* ---- quant_fixed ----------------------------------------------------------------------------- */

template <typename T>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_quant_fixed(const T *x, T *y, int64_t n, int64_t packs, divisor d)
{
    constexpr int N = pack_size<T>;
    pack_of<T, N> p[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs)
            p[u] = load_pack<T, N>(x + each_pack(u) * N);
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs)
            store_rounded<T, N>(y + each_pack(u) * N, p[u], d);
    EACH_REST(i, n, packs * N)
    y[i] = rounded(x[i], d);
}

extern "C" pare_status pare_cuda_quant_fixed(pare_backend *be, const pare_quant_fixed_args *args)
{
    int64_t n = pare_tensor_count(&args->x);
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = pack_size<T>;
        const T *x = (const T *)args->x.data;
        T *y = (T *)args->y.data;
        int64_t packs = each_packs(n, N, pare__aligned(x, 16) && pare__aligned(y, 16));
        PARE_LAUNCH(be, (k_quant_fixed<T>), each_blocks(n, N), EACH_THREADS, 0, x, y, n, packs,
                    divisor_of(args->scale));
    });
    return PARE_OK;
}
