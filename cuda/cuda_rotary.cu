/* cuda_rotary.cu - rotary position embedding: pairs half a head apart turn by their position's
 * angle.
 *
 *     y1 = x1·cos − x2·sin, y2 = x1·sin + x2·cos     (sin negative for the inverse)
 *
 * A thread turns the same 16 bytes of both halves of HEADS heads, one after the other: the angles
 * are read once for them. The two halves turn together, so x may be y. What does not turn is copied
 * where y is not x. Bound by memory: 8 bytes an element in F32, 4 in BF16, beside the angles, which
 * stay in the L2 cache. Predicted, not measured: 85 % of the copy rate.
 */
#include "cuda_nn.cuh"

#include "cuda_index.cuh"

#define THREADS 256
#define HEADS 4

typedef struct rotary {
    const void *x; /* [R, heads·D] */
    void *y;
    const float *cosine, *sine; /* [≥ T, half] */
    int64_t R, T, D, half;
    int heads;
    bool inverse;
} rotary;

template <typename T, int W>
static __device__ __forceinline__ void turn(pack_of<T, W> *a, pack_of<T, W> *b, const float *cosine,
                                            const float *sine)
{
#pragma unroll
    for (int k = 0; k < W; k++) {
        float x1 = to_f32(a->at[k]), x2 = to_f32(b->at[k]);
        a->at[k] = from_f32<T>(x1 * cosine[k] - x2 * sine[k]);
        b->at[k] = from_f32<T>(x1 * sine[k] + x2 * cosine[k]);
    }
}

/* W floats: packs of four where W is. */
template <int W> static __device__ __forceinline__ void load_angles(float *v, const float *from)
{
    constexpr int N = W % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int k = 0; k < W; k += N) {
        pack_of<float, N> p = load_pack<float, N>(from + k);
#pragma unroll
        for (int j = 0; j < N; j++)
            v[k + j] = p.at[j];
    }
}

/* One thread: row, HEADS heads, W elements of each half; `groups` of heads a row. */
template <typename T, int W>
static __global__ void __launch_bounds__(THREADS) k_rotary(rotary a, int groups)
{
    int64_t row = grid_thread(), i = index_cut(&row, a.half / W) * W;
    int first = (int)index_cut(&row, groups) * HEADS;
    if (row >= a.R)
        return;
    int64_t position = row, start = (row * a.heads + first) * a.D + i;
    int64_t angle = index_cut(&position, a.T) * a.half + i;
    const T *x = (const T *)a.x + start;
    T *y = (T *)a.y + start;
    float cosine[W], sine[W];
    load_angles<W>(cosine, a.cosine + angle);
    load_angles<W>(sine, a.sine + angle);
#pragma unroll
    for (int k = 0; k < W; k++)
        sine[k] = a.inverse ? -sine[k] : sine[k];
    if (first + HEADS <= a.heads) {
        pack_of<T, W> p[HEADS], q[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            p[h] = load_pack<T, W>(x + h * a.D);
            q[h] = load_pack<T, W>(x + h * a.D + a.half);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            turn<T, W>(&p[h], &q[h], cosine, sine);
            store_pack<T, W>(y + h * a.D, p[h]);
            store_pack<T, W>(y + h * a.D + a.half, q[h]);
        }
        return;
    }
    for (int h = 0; first + h < a.heads; h++) {
        pack_of<T, W> p = load_pack<T, W>(x + h * a.D), q = load_pack<T, W>(x + h * a.D + a.half);
        turn<T, W>(&p, &q, cosine, sine);
        store_pack<T, W>(y + h * a.D, p);
        store_pack<T, W>(y + h * a.D + a.half, q);
    }
}

/* The elements of every head from 2·half on, W at a time. */
template <typename T, int W>
static __global__ void __launch_bounds__(THREADS) k_rotary_rest(rotary a)
{
    int64_t head = grid_thread(), i = index_cut(&head, (a.D - 2 * a.half) / W) * W;
    int64_t at = head * a.D + 2 * a.half + i;
    if (head < a.R * a.heads)
        store_pack<T, W>((T *)a.y + at, load_pack<T, W>((const T *)a.x + at));
}

template <typename T, int W> static pare_status launch(pare_backend *be, const rotary *a)
{
    int groups = (a->heads + HEADS - 1) / HEADS;
    int64_t rest = a->x == a->y ? 0 : a->D - 2 * a->half;
    PARE_LAUNCH(be, (k_rotary<T, W>), pare__blocks(a->R * groups * (a->half / W), THREADS), THREADS,
                0, *a, groups);
    PARE_LAUNCH(be, (k_rotary_rest<T, W>), pare__blocks(a->R * a->heads * (rest / W), THREADS),
                THREADS, 0, *a);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_rotary(pare_backend *be, const pare_rotary_args *args)
{
    rotary a = {};
    a.x = args->x.data;
    a.y = args->y.data;
    a.cosine = (const float *)args->cos.data;
    a.sine = (const float *)args->sin.data;
    a.R = args->x.shape[0];
    a.T = args->T;
    a.D = args->x.shape[1] / args->heads;
    a.half = args->cos.shape[1];
    a.heads = args->heads;
    a.inverse = args->inverse;
    if (a.R == 0)
        return PARE_OK;
    bool aligned = pare__aligned(a.x, 16) && pare__aligned(a.y, 16) &&
                   pare__aligned(a.cosine, 16) && pare__aligned(a.sine, 16);
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int W = 16 / (int)sizeof(T);
        if (aligned && a.half % W == 0 && a.D % W == 0)
            PARE_TRY((launch<T, W>(be, &a)));
        else
            PARE_TRY((launch<T, 1>(be, &a)));
    });
    return PARE_OK;
}
