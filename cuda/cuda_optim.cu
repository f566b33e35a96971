/* cuda_optim.cu - steps of SGD and AdamW, moving averages: one pass over the parameters.
 *
 *     sgd    g' = grad_scale·g + decay·w, m ← momentum·m + g', w ← w − rate·(g' + momentum·m or m)
 *     adamw  m ← β1·m + (1 − β1)·g', v ← β2·v + (1 − β2)·g'², w ← keep·w − rate·m/(sqrt(v)·scale +
 *            eps) with keep = 1 − rate·decay, and rate and scale corrected for the step
 *     ema    e ← decay·e + (1 − decay)·w
 *
 * Where the mask is 0, w and the state become exactly +0, whatever NaN they were. Packs of four
 * f32 (16 bytes) and four flags of the mask (4 bytes), cut as cuda_each.cuh says. Bound by memory;
 * bytes a parameter: sgd 12, with momentum 20; adamw 28; ema 12; a mask adds 1. Predicted, not
 * measured: 90 % of the copy rate.
 */
#include "cuda_nn.cuh"

#include "cuda_each.cuh"

#include <math.h>

using four = pack_of<float, 4>;
using flags = pack_of<uint8_t, 4>;

static bool all_aligned(const void *a, const void *b, const void *c, const void *d,
                        const void *mask)
{
    return pare__aligned(a, 16) && pare__aligned(b, 16) && pare__aligned(c, 16) &&
           pare__aligned(d, 16) && pare__aligned(mask, 4);
}

/* ---- sgd ------------------------------------------------------------------------------------- */

typedef struct sgd_step {
    float rate, momentum, decay, scale;
    float of_g, of_m; /* what the two are in a step of w */
} sgd_step;

template <bool MOVES>
static __device__ __forceinline__ void sgd_one(const sgd_step &s, bool kept, float *w, float g,
                                               float *m)
{
    float d = s.scale * g + s.decay * *w, moved = d;
    if (MOVES) {
        moved = s.momentum * *m + d;
        *m = kept ? moved : 0.0f;
        moved = s.of_g * d + s.of_m * moved;
    }
    *w = kept ? *w - s.rate * moved : 0.0f;
}

/* m is not touched unless MOVES, mask not unless MASKS. */
template <bool MOVES, bool MASKS>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_sgd(float *w, const float *g, float *m, const uint8_t *mask, int64_t n, int64_t packs,
          sgd_step s)
{
    four ws[EACH_PACKS], gs[EACH_PACKS], ms[EACH_PACKS];
    flags keep[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs) {
            ws[u] = load_pack<float, 4>(w + each_pack(u) * 4);
            gs[u] = load_pack<float, 4>(g + each_pack(u) * 4);
            if (MOVES)
                ms[u] = load_pack<float, 4>(m + each_pack(u) * 4);
            if (MASKS)
                keep[u] = load_pack<uint8_t, 4>(mask + each_pack(u) * 4);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
#pragma unroll
        for (int k = 0; k < 4; k++)
            sgd_one<MOVES>(s, !MASKS || keep[u].at[k], &ws[u].at[k], gs[u].at[k], &ms[u].at[k]);
        store_pack<float, 4>(w + each_pack(u) * 4, ws[u]);
        if (MOVES)
            store_pack<float, 4>(m + each_pack(u) * 4, ms[u]);
    }
    EACH_REST(i, n, packs * 4)
    sgd_one<MOVES>(s, !MASKS || mask[i], w + i, g[i], MOVES ? m + i : m);
}

template <bool MOVES, bool MASKS>
static pare_status sgd(pare_backend *be, const pare_sgd_args *args)
{
    float *w = (float *)args->w.data, *m = (float *)args->m.data;
    const float *g = (const float *)args->g.data;
    const uint8_t *mask = (const uint8_t *)args->mask.data;
    int64_t n = args->w.shape[0];
    sgd_step s;
    s.rate = args->rate;
    s.momentum = args->momentum;
    s.decay = args->decay;
    s.scale = args->grad_scale;
    s.of_g = args->nesterov ? 1.0f : 0.0f;
    s.of_m = args->nesterov ? args->momentum : 1.0f;
    PARE_LAUNCH(be, (k_sgd<MOVES, MASKS>), each_blocks(n, 4), EACH_THREADS, 0, w, g, m, mask, n,
                each_packs(n, 4, all_aligned(w, g, m, m, mask)), s);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_sgd(pare_backend *be, const pare_sgd_args *args)
{
    if (args->m.data)
        return args->mask.data ? sgd<true, true>(be, args) : sgd<true, false>(be, args);
    return args->mask.data ? sgd<false, true>(be, args) : sgd<false, false>(be, args);
}

/* ---- adamw ----------------------------------------------------------------------------------- */

typedef struct adamw_step {
    float beta1, beta2, rest1, rest2, eps, grad_scale;
    float keep;  /* 1 − rate·decay */
    float rate;  /* rate/(1 − β1^step) */
    float scale; /* 1/sqrt(1 − β2^step) */
} adamw_step;

static __device__ __forceinline__ void adamw_one(const adamw_step &s, bool kept, float *w, float g,
                                                 float *m, float *v)
{
    float d = s.grad_scale * g;
    float m1 = s.beta1 * *m + s.rest1 * d, v1 = s.beta2 * *v + s.rest2 * (d * d);
    float w1 = s.keep * *w - s.rate * m1 / (sqrtf(v1) * s.scale + s.eps);
    *m = kept ? m1 : 0.0f;
    *v = kept ? v1 : 0.0f;
    *w = kept ? w1 : 0.0f;
}

/* Four arrays are read: two packs of each at once are bytes enough under way. */
template <bool MASKS>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_adamw(float *w, const float *g, float *m, float *v, const uint8_t *mask, int64_t n,
            int64_t packs, adamw_step s)
{
#pragma unroll
    for (int first = 0; first < EACH_PACKS; first += 2) {
        four ws[2], gs[2], ms[2], vs[2];
        flags keep[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            int64_t at = each_pack(first + u) * 4;
            if (at / 4 < packs) {
                ws[u] = load_pack<float, 4>(w + at);
                gs[u] = load_pack<float, 4>(g + at);
                ms[u] = load_pack<float, 4>(m + at);
                vs[u] = load_pack<float, 4>(v + at);
                if (MASKS)
                    keep[u] = load_pack<uint8_t, 4>(mask + at);
            }
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            int64_t at = each_pack(first + u) * 4;
            if (at / 4 >= packs)
                break;
#pragma unroll
            for (int k = 0; k < 4; k++)
                adamw_one(s, !MASKS || keep[u].at[k], &ws[u].at[k], gs[u].at[k], &ms[u].at[k],
                          &vs[u].at[k]);
            store_pack<float, 4>(w + at, ws[u]);
            store_pack<float, 4>(m + at, ms[u]);
            store_pack<float, 4>(v + at, vs[u]);
        }
    }
    EACH_REST(i, n, packs * 4)
    adamw_one(s, !MASKS || mask[i], w + i, g[i], m + i, v + i);
}

template <bool MASKS>
static pare_status adamw(pare_backend *be, const pare_adamw_args *args, const adamw_step &s)
{
    float *w = (float *)args->w.data, *m = (float *)args->m.data, *v = (float *)args->v.data;
    const float *g = (const float *)args->g.data;
    const uint8_t *mask = (const uint8_t *)args->mask.data;
    int64_t n = args->w.shape[0];
    PARE_LAUNCH(be, (k_adamw<MASKS>), each_blocks(n, 4), EACH_THREADS, 0, w, g, m, v, mask, n,
                each_packs(n, 4, all_aligned(w, g, m, v, mask)), s);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_adamw(pare_backend *be, const pare_adamw_args *args)
{
    double rate = (double)args->rate, step = (double)args->step;
    adamw_step s;
    s.beta1 = args->beta1;
    s.beta2 = args->beta2;
    s.rest1 = 1 - args->beta1;
    s.rest2 = 1 - args->beta2;
    s.eps = args->eps;
    s.grad_scale = args->grad_scale;
    s.keep = (float)(1 - rate * (double)args->decay);
    s.rate = (float)(rate / (1 - pow((double)args->beta1, step)));
    s.scale = (float)(1 / sqrt(1 - pow((double)args->beta2, step)));
    return args->mask.data ? adamw<true>(be, args, s) : adamw<false>(be, args, s);
}

/* ---- moving average -------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(EACH_THREADS)
    k_ema(float *e, const float *w, int64_t n, int64_t packs, float decay)
{
    const float rest = 1 - decay;
    four es[EACH_PACKS], ws[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs) {
            es[u] = load_pack<float, 4>(e + each_pack(u) * 4);
            ws[u] = load_pack<float, 4>(w + each_pack(u) * 4);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= packs)
            break;
#pragma unroll
        for (int k = 0; k < 4; k++)
            es[u].at[k] = decay * es[u].at[k] + rest * ws[u].at[k];
        store_pack<float, 4>(e + each_pack(u) * 4, es[u]);
    }
    EACH_REST(i, n, packs * 4)
    e[i] = decay * e[i] + rest * w[i];
}

extern "C" pare_status pare_cuda_ema(pare_backend *be, const pare_ema_args *args)
{
    float *e = (float *)args->e.data;
    const float *w = (const float *)args->w.data;
    int64_t n = args->e.shape[0];
    PARE_LAUNCH(be, k_ema, each_blocks(n, 4), EACH_THREADS, 0, e, w, n,
                each_packs(n, 4, pare__aligned(e, 16) && pare__aligned(w, 16)), args->decay);
    return PARE_OK;
}
