/* cuda_relation.cu - how positions look at one another, in a teacher and in its student.
 *
 *   r_ij = scale_t·⟨ta_i, tb_j⟩,  s_ij = scale·⟨a_i, b_j⟩ by head,  p, q their softmax by row
 *   KL:     loss_i = Σ_j p_ij·(log p_ij − log q_ij),         ds_ij = q_ij − p_ij
 *   SCORE:  loss_i = Σ_j (s_ij − r_ij)²/n_i over n_i keys,   ds_ij = 2·(s_ij − r_ij)/n_i
 *   da_i += scale·Σ_j ds_ij·b_j,  db_j += scale·Σ_i ds_ij·a_i
 *
 * Kernels one after the other: what each row weighs; of KL the maximum and the logarithm of the sum
 * of both softmaxes of every row and head; losses of rows and da, a block owning 64 queries and
 * streaming keys; db, a block owning 64 keys and streaming the queries of all heads that use them;
 * losses of samples. Nothing is added by two blocks, so the result is the same in every run; the
 * price is that scores are computed three times, 2·(3·Dt + 5·D) flops a pair.
 *
 * All in f32 by the tiles of cuda_attention_plain.cuh, whatever the dtypes: sequences that are
 * distilled are short, and this is a few hundredths of the step around it. Predicted, not measured
 * yet: 0.15 ms of an H200 for 16 sequences of 128 with 12 heads of 64 and 32.
 */
#include "cuda_attention_plain.cuh"
#include "cuda_nn.cuh"

#define RELATION_COLUMNS 64 /* of da and db a block */

template <typename TT, typename TS> struct relation_tensors {
    const TT *ta, *tb;
    const TS *a, *b;
    TS *da, *db;
    const float *share; /* [B, T]: what a row's loss is multiplied by, 0 where it does not count */
    float4 *sums;  /* [B, heads, T]: of base 2, teacher's maximum, log Σ, student's likewise */
    float *losses; /* [B, heads, T] */
    float gain;    /* of gradients */
    bool kl;
};

/* Both sides of a call: t of the teacher. */
struct relation_plans {
    attn_plan t, s;
};

/* ---- what rows weigh ------------------------------------------------------------------------- */

/* A thread a row. */
__global__ void k_relation_shares(const __grid_constant__ attn_plan p, const float *weight, bool kl,
                                  float *share, int64_t count)
{
    int64_t at = grid_thread();
    if (at >= count) /* there is no barrier */
        return;
    const int b = (int)(at / p.T), i = (int)(at % p.T);
    int all = p.seen ? 0 : p.T, seen = i + 1;
    bool counts = true;
    if (p.seen) {
        const uint64_t *words = p.seen + (int64_t)b * p.words;
        seen = 0;
        for (int w = 0; w < p.words; w++) {
            all += __popcll(words[w]);
            seen += __popcll(words[w] & attn_bits(0, i + 1 - 64 * w));
        }
        counts = (words[i / 64] >> i % 64 & 1) != 0;
    }
    const float times = weight ? weight[b] : 1.0f;
    float x = counts && times != 0.0f ? times / ((float)p.heads * (float)all) : 0.0f;
    share[at] = kl || x == 0.0f ? x : x / (float)(p.causal ? seen : all);
}

/* ---- scores of a tile ------------------------------------------------------------------------ */

static __device__ __forceinline__ int64_t q_at(const attn_plan &p, int b, int h, int i)
{
    return ((int64_t)b * p.T + i) * p.q_row + (int64_t)h * p.D;
}

static __device__ __forceinline__ int64_t k_at(const attn_plan &p, int b, int h, int j)
{
    return ((int64_t)b * p.T + j) * p.k_row + (int64_t)(h / (p.heads / p.kv_heads)) * p.D;
}

/* r and s of 64 queries from i on and 64 keys from j on; TURNED: rows are keys. */
template <bool TURNED, typename TT, typename TS>
static __device__ __forceinline__ void
scores_of(const relation_plans &p, const relation_tensors<TT, TS> &x, float (&r)[8][4],
          float (&s)[8][4], int b, int h, int i, int j, float *room)
{
    const int queries = min(PLAIN_TILE, p.s.T - i), keys = min(PLAIN_TILE, p.s.T - j);
    const TT *ta = x.ta + q_at(p.t, b, h, i), *tb = x.tb + k_at(p.t, b, h, j);
    const TS *a = x.a + q_at(p.s, b, h, i), *k = x.b + k_at(p.s, b, h, j);
    if (TURNED) {
        plain_scores(r, tb, p.t.k_row, keys, ta, p.t.q_row, queries, p.t.D, room);
        plain_scores(s, k, p.s.k_row, keys, a, p.s.q_row, queries, p.s.D, room);
    } else {
        plain_scores(r, ta, p.t.q_row, queries, tb, p.t.k_row, keys, p.t.D, room);
        plain_scores(s, a, p.s.q_row, queries, k, p.s.k_row, keys, p.s.D, room);
    }
}

/* ---- softmaxes of rows ----------------------------------------------------------------------- */

/* Four more scores of a row, times c; m is the row's maximum so far, l this thread's part of the
 * sum. */
static __device__ __forceinline__ void soften(const float (&x)[4], uint64_t seen, float c, float &m,
                                              float &l)
{
    float y[4], top = m;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        y[e] = (seen >> (plain_x() * 4 + e) & 1) != 0 ? x[e] * c : -INFINITY;
        top = fmaxf(top, y[e]);
    }
    top = plain_row_max(top);
    const float from = top == -INFINITY ? 0.0f : top; /* nothing seen yet */
    l *= m == top ? 1.0f : exp2_fast(m - from);
#pragma unroll
    for (int e = 0; e < 4; e++)
        l += exp2_fast(y[e] - from);
    m = top;
}

template <typename TT, typename TS>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_relation_sums(const __grid_constant__ relation_plans p,
                    const __grid_constant__ relation_tensors<TT, TS> x, int tiles)
{
    PARE_SHARED_DYNAMIC(float, room);
    const int first = (int)(blockIdx.x % tiles) * PLAIN_TILE, last = min(first + PLAIN_TILE, p.s.T);
    const int bh = (int)(blockIdx.x / tiles), b = bh / p.s.heads, h = bh % p.s.heads;
    const attn_range range = attn_keys_of(p.s, first, last);
    const float ct = p.t.scale * ATTN_LOG2E, cs = p.s.scale * ATTN_LOG2E;
    float m[2][8], l[2][8];
    for (int r = 0; r < 8; r++) {
        m[0][r] = m[1][r] = -INFINITY;
        l[0][r] = l[1][r] = 0.0f;
    }
    for (int t = range.first / PLAIN_TILE; t * PLAIN_TILE < range.last; t++) {
        const uint64_t keys = attn_keys<64>(p.s, b, t);
        if (keys == 0) /* the whole block */
            continue;
        float r[8][4], s[8][4];
        scores_of<false>(p, x, r, s, b, h, first, t * PLAIN_TILE, room);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int row = first + plain_y() * 8 + i;
            const uint64_t seen = keys & attn_keys_seen(p.s, row, t * PLAIN_TILE);
            soften(r[i], seen, ct, m[0][i], l[0][i]);
            soften(s[i], seen, cs, m[1][i], l[1][i]);
        }
    }
    for (int i = 0; i < 8; i++) {
        const int row = first + plain_y() * 8 + i;
        const float p_sum = plain_row_sum(l[0][i]), q_sum = plain_row_sum(l[1][i]);
        if (plain_x() == 0 && row < last)
            x.sums[(int64_t)bh * p.s.T + row] =
                make_float4(m[0][i], log2f(p_sum), m[1][i], log2f(q_sum));
    }
}

/* ---- gradients of scores --------------------------------------------------------------------- */

/* s, a score without its scale, becomes ds; what the pair has in the row's loss. */
template <typename TT, typename TS>
static __device__ __forceinline__ float differentiate(const relation_plans &p,
                                                      const relation_tensors<TT, TS> &x, float r,
                                                      float &s, float4 sum, float share)
{
    if (!x.kl) {
        const float d = s * p.s.scale - r * p.t.scale;
        s = 2.0f * d * share;
        return d * d;
    }
    const float u = (r * (p.t.scale * ATTN_LOG2E) - sum.x) - sum.y;
    const float w = (s * (p.s.scale * ATTN_LOG2E) - sum.z) - sum.w;
    const float prob = exp2_fast(u);
    s = (exp2_fast(w) - prob) * share;
    return prob == 0.0f ? 0.0f : prob * (u - w) * ATTN_LN2;
}

/* Rows of o, times factor, are added to columns [c0, c0 + 64) of y. */
template <typename T>
static __device__ __forceinline__ void add_to(const float (&o)[8][RELATION_COLUMNS / 16],
                                              float factor, T *y, int64_t row, int rows, int c0,
                                              int D)
{
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < RELATION_COLUMNS / 16; c++) {
            const int i = plain_y() * 8 + r, d = c0 + plain_x() * 4 + c;
            if (i < rows && d < D)
                y[i * row + d] = from_f32<T>(to_f32(y[i * row + d]) + o[r][c] * factor);
        }
}

/* Losses of the rows, and da of the columns of a chunk. */
template <typename TT, typename TS>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_relation_rows(const __grid_constant__ relation_plans p,
                    const __grid_constant__ relation_tensors<TT, TS> x, int tiles, int chunks)
{
    PARE_SHARED_DYNAMIC(float, room);
    const int c0 = (int)(blockIdx.x % chunks) * RELATION_COLUMNS;
    const int first = (int)(blockIdx.x / chunks % tiles) * PLAIN_TILE;
    const int bh = (int)(blockIdx.x / chunks / tiles), b = bh / p.s.heads, h = bh % p.s.heads;
    const int last = min(first + PLAIN_TILE, p.s.T);
    const attn_range range = attn_keys_of(p.s, first, last);
    const float *share = x.share + (int64_t)b * p.s.T;
    float o[8][RELATION_COLUMNS / 16], loss[8];
    plain_clear<RELATION_COLUMNS>(o);
    for (int i = 0; i < 8; i++)
        loss[i] = 0.0f;
    for (int t = range.first / PLAIN_TILE; t * PLAIN_TILE < range.last; t++) {
        const uint64_t keys = attn_keys<64>(p.s, b, t);
        const int tile = t * PLAIN_TILE, there = min(PLAIN_TILE, p.s.T - tile);
        if (keys == 0) /* the whole block */
            continue;
        float r[8][4], s[8][4];
        scores_of<false>(p, x, r, s, b, h, first, tile, room);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int row = first + plain_y() * 8 + i, in = min(row, p.s.T - 1);
            const float own = row < last ? share[in] : 0.0f;
            const uint64_t seen = own != 0.0f ? keys & attn_keys_seen(p.s, row, tile) : 0;
            const float4 sum =
                x.kl ? x.sums[(int64_t)bh * p.s.T + in] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float part = differentiate(p, x, r[i][e], s[i][e], sum, own);
                const bool sees = (seen >> (plain_x() * 4 + e) & 1) != 0;
                loss[i] += sees ? part : 0.0f;
                s[i][e] = sees ? s[i][e] : 0.0f;
            }
        }
        if (x.da) {
            plain_put(room, s);
            plain_add<TS, RELATION_COLUMNS>(o, x.b + k_at(p.s, b, h, tile), p.s.k_row, there, c0,
                                            p.s.D, room);
        }
    }
    for (int i = 0; i < 8; i++) {
        const int row = first + plain_y() * 8 + i;
        const float sum = plain_row_sum(loss[i]);
        if (c0 == 0 && plain_x() == 0 && row < last)
            x.losses[(int64_t)bh * p.s.T + row] = share[row] != 0.0f ? sum * share[row] : 0.0f;
    }
    if (x.da)
        add_to(o, x.gain, x.da + q_at(p.s, b, h, first), p.s.q_row, last - first, c0, p.s.D);
}

/* db of the columns of a chunk. */
template <typename TT, typename TS>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_relation_keys(const __grid_constant__ relation_plans p,
                    const __grid_constant__ relation_tensors<TT, TS> x, int tiles, int chunks)
{
    PARE_SHARED_DYNAMIC(float, room);
    const int c0 = (int)(blockIdx.x % chunks) * RELATION_COLUMNS;
    const int first = (int)(blockIdx.x / chunks % tiles) * PLAIN_TILE;
    const int bkv = (int)(blockIdx.x / chunks / tiles), b = bkv / p.s.kv_heads;
    const int kv = bkv % p.s.kv_heads, heads = p.s.heads / p.s.kv_heads;
    const int last = min(first + PLAIN_TILE, p.s.T);
    const uint64_t keys = attn_keys<64>(p.s, b, first / PLAIN_TILE);
    const attn_range range = attn_queries_of(p.s, first, last);
    const float *share = x.share + (int64_t)b * p.s.T;
    float o[8][RELATION_COLUMNS / 16];
    plain_clear<RELATION_COLUMNS>(o);
    for (int h = kv * heads; h < (kv + 1) * heads && keys != 0; h++)
        for (int tile = range.first / PLAIN_TILE * PLAIN_TILE; tile < range.last;
             tile += PLAIN_TILE) {
            const int64_t bh = (int64_t)b * p.s.heads + h;
            float r[8][4], s[8][4];
            scores_of<true>(p, x, r, s, b, h, tile, first, room);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = tile + plain_x() * 4 + e, in = min(row, p.s.T - 1);
                const float own = row < p.s.T ? share[in] : 0.0f;
                const float4 sum =
                    x.kl ? x.sums[bh * p.s.T + in] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const int key = plain_y() * 8 + j;
                    const bool sees =
                        own != 0.0f && (keys >> key & 1) != 0 && attn_sees(p.s, row, first + key);
                    differentiate(p, x, r[j][e], s[j][e], sum, own);
                    s[j][e] = sees ? s[j][e] : 0.0f;
                }
            }
            plain_put(room, s);
            plain_add<TS, RELATION_COLUMNS>(o, x.a + q_at(p.s, b, h, tile), p.s.q_row,
                                            min(PLAIN_TILE, p.s.T - tile), c0, p.s.D, room);
        }
    add_to(o, x.gain, x.db + ((int64_t)b * p.s.T + first) * p.s.k_row + (int64_t)kv * p.s.D,
           p.s.k_row, last - first, c0, p.s.D);
}

/* A block a sample. */
__global__ void __launch_bounds__(ATTN_THREADS)
    k_relation_loss(const float *losses, int64_t rows, float *loss)
{
    PARE_SHARED_ARRAY(double, room, 32);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += ATTN_THREADS)
        sum += (double)losses[blockIdx.x * rows + i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        loss[blockIdx.x] = (float)sum;
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename TT, typename TS>
static pare_status compare(pare_backend *be, const pare_relation_args *args,
                           const relation_plans &p, float *share, float4 *sums, float *losses)
{
    const relation_tensors<TT, TS> x = {(const TT *)args->ta.data,
                                        (const TT *)args->tb.data,
                                        (const TS *)args->a.data,
                                        (const TS *)args->b.data,
                                        (TS *)args->da.data,
                                        (TS *)args->db.data,
                                        share,
                                        sums,
                                        losses,
                                        args->grad_scale * p.s.scale,
                                        args->kind == PARE_RELATION_KL};
    const int tiles = (p.s.T + PLAIN_TILE - 1) / PLAIN_TILE;
    const int columns = (p.s.D + RELATION_COLUMNS - 1) / RELATION_COLUMNS;
    const int chunks = x.da ? columns : 1;
    const int64_t blocks = (int64_t)p.s.B * p.s.heads * tiles;
    if (x.kl)
        PARE_LAUNCH(be, (k_relation_sums<TT, TS>), blocks, ATTN_THREADS, PLAIN_ROOM, p, x, tiles);
    PARE_LAUNCH(be, (k_relation_rows<TT, TS>), blocks * chunks, ATTN_THREADS, PLAIN_ROOM, p, x,
                tiles, chunks);
    if (x.db)
        PARE_LAUNCH(be, (k_relation_keys<TT, TS>), (int64_t)p.s.B * p.s.kv_heads * tiles * columns,
                    ATTN_THREADS, PLAIN_ROOM, p, x, tiles, columns);
    return PARE_OK;
}

static pare_status make_plans(const pare_relation_args *args, relation_plans *p)
{
    PARE_TRY(attn_make_plan(&args->ta, args->T, args->heads, args->t_kv_heads, args->scale_t,
                            args->causal, 0, 0.0f, 0, &p->t));
    return attn_make_plan(&args->a, args->T, args->heads, args->kv_heads, args->scale, args->causal,
                          0, 0.0f, 0, &p->s);
}

extern "C" pare_status pare_cuda_relation(pare_backend *be, const pare_relation_args *args)
{
    relation_plans p;
    void *scratch;
    PARE_TRY(make_plans(args, &p));
    const size_t rows = (size_t)p.s.B * (size_t)p.s.T, all = rows * (size_t)p.s.heads;
    const size_t words = args->keys.data ? (size_t)p.s.B * (size_t)p.s.words : 0;
    PARE_TRY(pare__scratch(be,
                           all * (sizeof(float4) + sizeof(float)) + words * sizeof(uint64_t) +
                               rows * sizeof(float),
                           &scratch));
    float4 *sums = (float4 *)scratch;
    uint64_t *seen = (uint64_t *)(sums + all);
    float *losses = (float *)(seen + words), *share = losses + all;
    PARE_TRY(attn_read_mask(be, &args->keys, seen, &p.s));
    PARE_LAUNCH(be, k_relation_shares, pare__blocks((int64_t)rows, 256), 256, 0, p.s,
                (const float *)args->weight.data, args->kind == PARE_RELATION_KL, share,
                (int64_t)rows);
    const bool teacher_bf16 = args->ta.dtype == PARE_BF16;
    if (args->a.dtype == PARE_F32 && !teacher_bf16)
        PARE_TRY((compare<float, float>(be, args, p, share, sums, losses)));
    else if (args->a.dtype == PARE_F32)
        PARE_TRY((compare<__nv_bfloat16, float>(be, args, p, share, sums, losses)));
    else if (!teacher_bf16)
        PARE_TRY((compare<float, __nv_bfloat16>(be, args, p, share, sums, losses)));
    else
        PARE_TRY((compare<__nv_bfloat16, __nv_bfloat16>(be, args, p, share, sums, losses)));
    PARE_LAUNCH(be, k_relation_loss, (int64_t)p.s.B, ATTN_THREADS, 0, losses,
                (int64_t)p.s.heads * p.s.T, (float *)args->loss.data);
    return PARE_OK;
}
