/* cuda_quant_rows.cu - activations rounded to int8 by row and back.
 *
 *     s = max|x|/127.5, y = clamp(rint(x/s), −128, 127)·s; a row whose s is 0 stays
 *
 * A warp has a row of up to 128 packs of 16 bytes, a block a longer one: what a thread reads for
 * the largest magnitude it keeps in registers for the second step, up to HELD packs, so rows of up
 * to 4096 (F32) or 8192 (BF16) elements are read once; of longer ones the rest comes a second time,
 * out of the second-level cache. Codes are those of the formula's true quotient. Bound by memory: 8
 * bytes an element in F32. Predicted, not measured: 85 % of the copy rate.
 */
#include "cuda_common.cuh"

#define THREADS 256
#define HELD 4 /* packs that a thread keeps */

typedef struct row_scale {
    float s;
    float up;    /* a power of two that takes s and x away from where residuals underflow */
    float s_up;  /* s·up */
    float recip; /* 1/s_up, correctly rounded */
} row_scale;

static __device__ __forceinline__ row_scale scale_of(float top)
{
    row_scale r;
    r.s = top / 127.5f;
    r.up = r.s < 0x1p-60f ? 0x1p80f : 1.0f;
    r.s_up = r.s * r.up;
    r.recip = 1.0f / r.s_up;
    return r;
}

/* The quotient is x/s correctly rounded, without a division each: one correction makes it faithful,
 * and of a faithful quotient and a correctly rounded reciprocal the next one makes the right
 * quotient (Markstein 1990). An infinite s gives NaN, as the formula does. */
template <typename T> static __device__ __forceinline__ T rounded(T x, const row_scale &r)
{
    float v = to_f32(x) * r.up, q = v * r.recip;
    q = fmaf(fmaf(-q, r.s_up, v), r.recip, q);
    q = fmaf(fmaf(-q, r.s_up, v), r.recip, q);
    q = rintf(q) + 0.0f; /* −0 becomes +0: a code has no sign */
    q = q > 127.0f ? 127.0f : q < -128.0f ? -128.0f : q;
    return r.s == 0.0f ? x : from_f32<T>(q * r.s);
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
static __device__ __forceinline__ void store_rounded(T *y, pack_of<T, N> p, const row_scale &s)
{
#pragma unroll
    for (int k = 0; k < N; k++)
        p.at[k] = rounded(p.at[k], s);
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
    const row_scale s = scale_of(top);
#pragma unroll
    for (int u = 0; u < HELD; u++)
        if (t + u * WIDE < mine)
            store_rounded<T, N>(y + (t + u * WIDE) * N, held[u], s);
#pragma unroll 4
    for (int64_t p = t + HELD * WIDE; WIDE > PARE_WARP && p < mine; p += WIDE)
        store_rounded<T, N>(y + p * N, load_pack<T, N>(x + p * N), s);
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
