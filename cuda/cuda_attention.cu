/* cuda_attention.cu - attention by head in tiles, with running max and sum.
 *
 *   y_i = Σ_j p_ij·v_j / l_i,  p_ij = 2^(s_ij − m_i),  s = scale·log2 e·q·kᵀ,  m_i = max_j s_ij,
 *   l_i = Σ_j p_ij
 *
 * (FlashAttention-2, Dao 2023; the running form is Milakov & Gimelshein 2018.) A block has 128
 * queries of a head (64 for D above 128), a warp 32 (16) of them with their q·kᵀ and their sums in
 * registers; it streams the keys that they see in tiles of 64 (32). Tiles that no query of the
 * block sees, or whose keys the mask hides, are not read; tiles that are seen whole are not masked.
 * With causal the longest blocks of a head come first. F32, and heads above 256, take the general
 * way of cuda_attention_plain.cuh: f32 products outside of the tensor cores.
 *
 * Bound by the tensor cores as mma.sync reaches them: 4·D flops a pair of query and key; 4 bytes of
 * q, k, v and y an element. wgmma, which the full rate of sm_90 needs, is not used: on it mma.sync
 * reaches about 0.6 of the peak, and reading k and v from shared memory (32 rows a warp share each
 * fragment) takes 0.8 of that time. Predicted, not measured yet: 0.35 to 0.40 of the bf16 peak of
 * an H200 at D = 128, T = 4096 (the goal is 0.6), a third of its f32 peak in the general way. Two
 * blocks a multiprocessor leave a thread 255 registers, 192 of them sums and scores at D = 128: 13
 * values that the loop over tiles only reads are then in local memory, read once a tile.
 * cuDNN's fused attention would be faster; it is not used: the determinism of its backward pass and
 * the building of its plans cannot be shown without a device.
 */
#include "cuda_attention_plain.cuh"
#include "cuda_nn.cuh"

template <typename T> struct attn_tensors {
    const T *q, *k, *v;
    T *y;
    float *lse; /* may be NULL */
};

/* lse of a row whose scores' maximum is m, in base 2, and Σ 2^(s − m) is l. */
static __device__ __forceinline__ float log_sum(float m, float l)
{
    return l == 0.0f ? -INFINITY : (m + log2f(l)) * ATTN_LN2;
}

/* ---- the general way ------------------------------------------------------------------------- */

/* Scores of the tile (rows from query `first`, columns from key `tile`) become probabilities
 * against the new maximum; m and l move on, o shrinks. */
template <int DC>
static __device__ __forceinline__ void
soften_plain(const attn_plan &p, float (&s)[8][4], float (&o)[8][DC / 16], float (&m)[8],
             float (&l)[8], int first, int tile, uint64_t keys, bool hides)
{
    const float c = p.scale * ATTN_LOG2E;
#pragma unroll
    for (int r = 0; r < 8; r++) {
        uint64_t sees = keys;
        if (hides)
            sees &= attn_keys_seen(p, first + plain_y() * 8 + r, tile);
        float top = m[r], sum = 0.0f;
#pragma unroll
        for (int x = 0; x < 4; x++) {
            s[r][x] = (sees >> (plain_x() * 4 + x) & 1) != 0 ? s[r][x] * c : -INFINITY;
            top = fmaxf(top, s[r][x]);
        }
        top = plain_row_max(top);
        float from = top == -INFINITY ? 0.0f : top; /* nothing seen yet */
        float shrink = m[r] == top ? 1.0f : exp2_fast(m[r] - from);
#pragma unroll
        for (int x = 0; x < 4; x++) {
            s[r][x] = exp2_fast(s[r][x] - from);
            sum += s[r][x];
        }
        m[r] = top;
        l[r] = l[r] * shrink + sum;
#pragma unroll
        for (int x = 0; x < DC / 16; x++)
            o[r][x] *= shrink;
    }
}

static __device__ __forceinline__ void drop_plain(const attn_plan &p, float (&s)[8][4], int64_t bh,
                                                  int first, int tile)
{
    const uint32_t kept = plain_kept<false>(p, bh, first, tile);
#pragma unroll
    for (int e = 0; e < 32; e++)
        s[e / 4][e % 4] *= (kept >> e & 1) != 0 ? p.kept : 0.0f;
}

/* Queries [first, first + 64) of head h of sequence b, columns [c0, c0 + DC). */
template <typename T, int DC>
static __device__ __forceinline__ void attend_plain(const attn_plan &p, const attn_tensors<T> &x,
                                                    int b, int h, int first, int c0, float *room)
{
    int last = min(first + PLAIN_TILE, p.T), kv = h / (p.heads / p.kv_heads);
    int64_t row = (int64_t)b * p.T + first, bh = (int64_t)b * p.heads + h;
    const T *q = x.q + row * p.q_row + (int64_t)h * p.D;
    attn_range range = attn_keys_of(p, first, last);
    float o[8][DC / 16], m[8], l[8];
    plain_clear<DC>(o);
    for (int r = 0; r < 8; r++) {
        m[r] = -INFINITY;
        l[r] = 0.0f;
    }
    for (int t = range.first / PLAIN_TILE; t * PLAIN_TILE < range.last; t++) {
        uint64_t keys = attn_keys<64>(p, b, t);
        if (keys == 0)
            continue;
        int tile = t * PLAIN_TILE, there = min(PLAIN_TILE, p.T - tile);
        int64_t from = ((int64_t)b * p.T + tile) * p.k_row + (int64_t)kv * p.D;
        float s[8][4];
        plain_scores(s, q, p.q_row, last - first, x.k + from, p.k_row, there, p.D, room);
        bool hides = ~keys != 0 || !attn_all_see(p, first, last, tile, tile + there);
        soften_plain<DC>(p, s, o, m, l, first, tile, keys, hides);
        if (p.drops)
            drop_plain(p, s, bh, first, tile);
        plain_put(room, s);
        plain_add<T, DC>(o, x.v + from, p.k_row, there, c0, p.D, room);
    }
    float factor[8];
    for (int r = 0; r < 8; r++) {
        int i = first + plain_y() * 8 + r;
        l[r] = plain_row_sum(l[r]);
        factor[r] = l[r] == 0.0f ? 0.0f : 1.0f / l[r];
        if (x.lse && c0 == 0 && plain_x() == 0 && i < last)
            x.lse[bh * p.T + i] = log_sum(m[r], l[r]);
    }
    plain_store<T, DC>(o, factor, x.y + row * p.q_row + (int64_t)h * p.D, p.q_row, last - first, c0,
                       p.D);
}

template <typename T, int DC>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attention_plain(const __grid_constant__ attn_plan p,
                      const __grid_constant__ attn_tensors<T> x, int tiles, int chunks)
{
    PARE_SHARED_DYNAMIC(float, room);
    int chunk = (int)(blockIdx.x % chunks), tile = (int)(blockIdx.x / chunks % tiles);
    int bh = (int)(blockIdx.x / chunks / tiles);
    attend_plain<T, DC>(p, x, bh / p.heads, bh % p.heads, (tiles - 1 - tile) * PLAIN_TILE,
                        chunk * DC, room);
}

/* Queries [first, last) once more, out of line: see the head of cuda_attention.cuh. */
static __device__ __noinline__ void attend_again(const attn_plan &p,
                                                 const attn_tensors<__nv_bfloat16> &x, int b, int h,
                                                 int first, int last, float *room)
{
    for (int i = first; i < last; i += PLAIN_TILE)
        for (int c0 = 0; c0 < p.D; c0 += 64) /* few registers */
            attend_plain<__nv_bfloat16, 64>(p, x, b, h, i, c0, room);
}

/* ---- the tensor cores ------------------------------------------------------------------------ */

/* Tiles of 16 queries a warp has, keys of a tile, and bytes of shared memory. */
template <int DP> struct attn_shape {
    static constexpr int MT = DP <= 128 ? 2 : 1, KB = DP <= 128 ? 64 : 32;
    static constexpr int QB = ATTN_WARPS * MT * 16;
    static constexpr int tiles = (QB + 4 * KB) * ATTN_PITCH(DP) * 2;
    static constexpr int bytes = tiles > PLAIN_ROOM ? tiles : PLAIN_ROOM;
};

/* Starts to bring tile t of k, and of v behind it, if there is one. */
template <int DP, int KB>
static __device__ __forceinline__ void load_keys(const attn_plan &p,
                                                 const attn_tensors<__nv_bfloat16> &x,
                                                 __nv_bfloat16 *to, int64_t k_at, int t, int end)
{
    if (t >= end)
        return;
    const int64_t from = k_at + (int64_t)t * KB * p.k_row;
    const int rows = min(KB, p.T - t * KB);
    attn_load<DP, KB>(to, x.k + from, p.k_row, rows, p.D, p.aligned);
    attn_load<DP, KB>(to + KB * ATTN_PITCH(DP), x.v + from, p.k_row, rows, p.D, p.aligned);
}

template <int MT, int NT> static __device__ __forceinline__ void negate(float (&s)[MT][NT][4])
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                s[m][n][r] = -s[m][n][r];
}

/* Hides the keys that a warp's queries, from `first` on, do not see. */
template <int MT, int NT>
static __device__ __forceinline__ void hide(const attn_plan &p, float (&s)[MT][NT][4], int first,
                                            int tile, uint64_t keys)
{
    const int lane = (int)threadIdx.x % PARE_WARP;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint64_t sees = keys & attn_keys_seen(p, first + m * 16 + h * 8 + lane / 4, tile);
            sees >>= lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    if ((sees >> (n * 8 + r) & 1) == 0)
                        s[m][n][h * 2 + r] = -INFINITY;
        }
}

/* As soften_plain; c is scale·log2 e, made positive. l stays by thread. */
template <int MT, int NT, int OT>
static __device__ __forceinline__ void soften(float (&s)[MT][NT][4], float (&o)[MT][OT][4],
                                              float (&top)[MT][2], float (&l)[MT][2], float c)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float now = top[m][h];
#pragma unroll
            for (int n = 0; n < NT; n++)
                now = fmaxf(now, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            now = fmaxf(now, __shfl_xor_sync(PARE_ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(PARE_ALL_LANES, now, 2));
            float from = now == -INFINITY ? 0.0f : now * c, sum = 0.0f;
            shrink[h] = now == top[m][h] ? 1.0f : exp2_fast(top[m][h] * c - from);
            top[m][h] = now;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int r = 2 * h; r < 2 * h + 2; r++) {
                    s[m][n][r] = exp2_fast(s[m][n][r] * c - from);
                    sum += s[m][n][r];
                }
            l[m][h] = l[m][h] * shrink[h] + sum;
        }
        if (__any_sync(PARE_ALL_LANES, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
            for (int n = 0; n < OT; n++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    o[m][n][r] *= shrink[r / 2];
        }
    }
}

template <int MT, int NT>
static __device__ __forceinline__ void drop(const attn_plan &p, float (&s)[MT][NT][4], int64_t bh,
                                            int first, int tile)
{
    const uint64_t kept = attn_kept<MT, NT, false>(p, bh, first, tile);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                s[m][n][r] *= (kept >> ((m * NT + n) * 4 + r) & 1) != 0 ? p.kept : 0.0f;
}

/* Row sums over the four lanes that have a row, lse, and what o is multiplied by. */
template <int MT>
static __device__ __forceinline__ void finish(const attn_plan &p, float *lse, int64_t bh, int first,
                                              float (&top)[MT][2], float (&l)[MT][2], float c)
{
    const int lane = (int)threadIdx.x % PARE_WARP;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = first + m * 16 + h * 8 + lane / 4;
            l[m][h] += __shfl_xor_sync(PARE_ALL_LANES, l[m][h], 1);
            l[m][h] += __shfl_xor_sync(PARE_ALL_LANES, l[m][h], 2);
            if (lse && lane % 4 == 0 && i < p.T)
                lse[bh * p.T + i] = log_sum(top[m][h] * c, l[m][h]);
            l[m][h] = l[m][h] == 0.0f ? 0.0f : 1.0f / l[m][h];
        }
}

template <int DP>
__global__ void __launch_bounds__(ATTN_THREADS, 2)
    k_attention_mma(const __grid_constant__ attn_plan p,
                    const __grid_constant__ attn_tensors<__nv_bfloat16> x, int tiles,
                    bool y_aligned)
{
    constexpr int MT = attn_shape<DP>::MT, KB = attn_shape<DP>::KB, QB = attn_shape<DP>::QB;
    constexpr int pitch = ATTN_PITCH(DP), side = KB * pitch;
    PARE_SHARED_DYNAMIC(__nv_bfloat16, room);
    const int warp = (int)threadIdx.x / PARE_WARP;
    const int bh = (int)(blockIdx.x / tiles), b = bh / p.heads, h = bh % p.heads;
    const int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * QB, last = min(first + QB, p.T);
    const int kv = h / (p.heads / p.kv_heads);
    const int64_t q_at = ((int64_t)b * p.T + first) * p.q_row + (int64_t)h * p.D;
    const int64_t k_at = (int64_t)b * p.T * p.k_row + (int64_t)kv * p.D;
    const int own = first + warp * MT * 16; /* the warp's first query */
    const float c = fabsf(p.scale) * ATTN_LOG2E;
    const attn_range range = attn_keys_of(p, first, last);
    const attn_range own_range = attn_keys_of(p, own, own + MT * 16);
    __nv_bfloat16 *qs = room, *own_q = qs + warp * MT * 16 * pitch, *kvs = qs + QB * pitch;
    const int end = (range.last + KB - 1) / KB;
    int t = attn_next<KB>(p, b, range.first / KB, end), buffer = 0;
    float o[MT][DP / 8][4] = {}, top[MT][2], l[MT][2] = {};
#pragma unroll
    for (int m = 0; m < MT; m++)
        top[m][0] = top[m][1] = -INFINITY;

    load_keys<DP, KB>(p, x, kvs, k_at, t, end);
    attn_load<DP, QB>(qs, x.q + q_at, p.q_row, last - first, p.D, p.aligned);
    copy_async_commit();
    while (t < end) {
        const int next = attn_next<KB>(p, b, t + 1, end), tile = t * KB;
        const __nv_bfloat16 *ks = kvs + buffer * 2 * side;
        copy_async_wait<0>();
        __syncthreads(); /* the tile is there; the other buffer has been read */
        buffer ^= 1;
        load_keys<DP, KB>(p, x, kvs + buffer * 2 * side, k_at, next, end);
        copy_async_commit();
        if (tile < own_range.last && tile + KB > own_range.first) {
            const uint64_t keys = attn_keys<KB>(p, b, t);
            float s[MT][KB / 8][4];
            attn_scores<DP, MT, KB / 8>(s, own_q, ks);
            if (p.scale < 0.0f)
                negate(s);
            if (keys != attn_all_keys<KB>() ||
                !attn_all_see(p, own, own + MT * 16, tile, tile + KB))
                hide(p, s, own, tile, keys);
            soften(s, o, top, l, c);
            if (p.drops)
                drop(p, s, bh, own, tile);
            attn_add<pitch>(o, s, ks + side);
        }
        t = next;
    }
    copy_async_wait<0>();
    if (__syncthreads_or(attn_has_nan(o))) {
        attend_again(p, x, b, h, first, last, reinterpret_cast<float *>(room));
        return;
    }
    finish(p, x.lse, bh, own, top, l, c);
    attn_store<pitch>(o, l, own_q, x.y + q_at + (int64_t)warp * MT * 16 * p.q_row, p.q_row,
                      last - own, p.D, y_aligned);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename T, int DC>
static pare_status attend_in_general(pare_backend *be, const attn_plan &p, const attn_tensors<T> &x)
{
    int tiles = (p.T + PLAIN_TILE - 1) / PLAIN_TILE, chunks = p.D > DC ? (p.D + DC - 1) / DC : 1;
    PARE_LAUNCH(be, (k_attention_plain<T, DC>), (int64_t)p.B * p.heads * tiles * chunks,
                ATTN_THREADS, PLAIN_ROOM, p, x, tiles, chunks);
    return PARE_OK;
}

template <int DP>
static pare_status attend_by_mma(pare_backend *be, const attn_plan &p,
                                 const attn_tensors<__nv_bfloat16> &x, bool y_aligned)
{
    int tiles = (p.T + attn_shape<DP>::QB - 1) / attn_shape<DP>::QB;
    if (attn_shape<DP>::bytes > pare__cuda_of(be)->shared_optin)
        return attend_in_general<__nv_bfloat16, 128>(be, p, x);
    PARE_LAUNCH(be, (k_attention_mma<DP>), (int64_t)p.B * p.heads * tiles, ATTN_THREADS,
                attn_shape<DP>::bytes, p, x, tiles, y_aligned);
    return PARE_OK;
}

template <typename T> static attn_tensors<T> attn_tensors_of(const pare_attention_args *args)
{
    return {(const T *)args->q.data, (const T *)args->k.data, (const T *)args->v.data,
            (T *)args->y.data, (float *)args->lse.data};
}

extern "C" pare_status pare_cuda_attention(pare_backend *be, const pare_attention_args *args)
{
    attn_plan p;
    void *seen = NULL;
    PARE_TRY(ATTN_PLAN(args, &p));
    if (args->keys.data)
        PARE_TRY(pare__scratch(be, (size_t)p.B * (size_t)p.words * sizeof(uint64_t), &seen));
    PARE_TRY(attn_read_mask(be, &args->keys, seen, &p));
    if (args->q.dtype == PARE_F32) {
        attn_tensors<float> x = attn_tensors_of<float>(args);
        return plain_columns(p.D) == 64 ? attend_in_general<float, 64>(be, p, x)
                                        : attend_in_general<float, 128>(be, p, x);
    }
    attn_tensors<__nv_bfloat16> x = attn_tensors_of<__nv_bfloat16>(args);
    bool y_aligned = attn_aligned(&p, &args->y);
    p.aligned =
        attn_aligned(&p, &args->q) && attn_aligned(&p, &args->k) && attn_aligned(&p, &args->v);
    if (p.D <= 32)
        return attend_by_mma<32>(be, p, x, y_aligned);
    if (p.D <= 64)
        return attend_by_mma<64>(be, p, x, y_aligned);
    if (p.D <= 96)
        return attend_by_mma<96>(be, p, x, y_aligned);
    if (p.D <= 128)
        return attend_by_mma<128>(be, p, x, y_aligned);
    if (p.D <= ATTN_MOST_D)
        return attend_by_mma<256>(be, p, x, y_aligned);
    return attend_in_general<__nv_bfloat16, 128>(be, p, x);
}
