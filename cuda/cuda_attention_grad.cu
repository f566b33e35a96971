/* cuda_attention_grad.cu - the gradient of attention, from q, k, v and each query's log Σ exp.
 *
 *   p_ij = e^(s_ij − lse_i),  δ_i = dy_i·y_i,  ds_ij = p_ij·(dy_i·v_j − δ_i)
 *   dv_j = Σ_i p_ij·dy_i,  dk_j = scale·Σ_i ds_ij·q_i,  dq_i = scale·Σ_j ds_ij·k_j
 *
 * (Dao 2023; with dropout p_ij in dv and dy_i·v_j in ds are multiplied by what was kept.) Three
 * kernels: lse (of base 2) and δ of every query and head; dq, a block owning 128 queries and
 * streaming keys; dk and dv, a block owning 64 keys (128 for D up to 64) and streaming the queries
 * of all heads that use them, in ascending order. So nothing is added by two blocks, and the result
 * is the same in every run; the price is that p and dy·v are computed twice: 14·D flops a pair
 * instead of 10·D. What is streamed stands in the columns of a tile, so p and ds go from one
 * product to the next in registers.
 *
 * Bound by the tensor cores as mma.sync reaches them, and by shared memory: a fragment of q and dy
 * serves 16 keys of a warp in the second kernel. Predicted, not measured yet: 0.22 to 0.27 of the
 * bf16 peak of an H200 at D = 128, T = 4096, counting 10·D flops (the goal is 0.45, which needs
 * wgmma). F32, and heads above 256, take the general way (cuda_attention_plain.cuh). As in the
 * forward pass a few values that the loops only read are in local memory at some sizes of head.
 */
#include "cuda_attention_plain.cuh"
#include "cuda_nn.cuh"

template <typename T> struct grad_tensors {
    const T *q, *k, *v, *dy;
    const float2 *sums; /* [B, heads, T]: lse·log2 e (+Inf where no key is seen), δ */
    T *dq, *dk, *dv;
};

/* ---- lse and δ ------------------------------------------------------------------------------- */

/* A warp a row and head; lane l has elements 4·l … 4·l + 3 of every 128. */
template <typename T>
__global__ void k_attention_grad_sums(attn_plan p, const T *dy, const T *y, const float *lse,
                                      float2 *sums, int64_t count, bool aligned)
{
    int64_t item = grid_thread() / PARE_WARP;
    if (item >= count) /* the whole warp; there is no barrier */
        return;
    int64_t row = item / p.heads, h = item % p.heads, from = item * p.D;
    int64_t at = (row / p.T * p.heads + h) * p.T + row % p.T;
    float sum = 0.0f;
    for (int d = (int)threadIdx.x % PARE_WARP * 4; d < p.D; d += PARE_WARP * 4) {
        if (aligned) {
            pack_of<T, 4> a = load_pack<T, 4>(dy + from + d), b = load_pack<T, 4>(y + from + d);
            for (int e = 0; e < 4; e++)
                sum += to_f32(a.at[e]) * to_f32(b.at[e]);
        } else {
            for (int e = 0; e < 4 && d + e < p.D; e++)
                sum += to_f32(dy[from + d + e]) * to_f32(y[from + d + e]);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % PARE_WARP == 0)
        sums[at] = lse[at] == -INFINITY ? make_float2(INFINITY, 0.0f)
                                        : make_float2(lse[at] * ATTN_LOG2E, sum);
}

/* ---- the general way ------------------------------------------------------------------------- */

/* s, a score without scale, and dp, dy·v, become p (what dropout leaves of it) and ds; 0 if it is
 * not seen. */
static __device__ __forceinline__ void differentiate_plain(const attn_plan &p, float &s, float &dp,
                                                           float2 sum, bool seen, bool kept)
{
    float times = p.drops ? (kept ? p.kept : 0.0f) : 1.0f;
    float x = exp2_fast(s * (p.scale * ATTN_LOG2E) - sum.x);
    dp = seen ? x * (dp * times - sum.y) : 0.0f;
    s = seen && times > 0.0f ? x * times : 0.0f;
}

/* dq of queries [first, first + 64) of head h of sequence b, columns [c0, c0 + DC). */
template <typename T, int DC>
static __device__ __forceinline__ void grad_q_plain(const attn_plan &p, const grad_tensors<T> &x,
                                                    int b, int h, int first, int c0, float *room)
{
    const int last = min(first + PLAIN_TILE, p.T), kv = h / (p.heads / p.kv_heads);
    const int64_t bh = (int64_t)b * p.heads + h;
    const int64_t at = ((int64_t)b * p.T + first) * p.q_row + (int64_t)h * p.D;
    const attn_range range = attn_keys_of(p, first, last);
    float o[8][DC / 16], factor[8];
    plain_clear<DC>(o);
    for (int t = range.first / PLAIN_TILE; t * PLAIN_TILE < range.last; t++) {
        const uint64_t keys = attn_keys<64>(p, b, t);
        if (keys == 0)
            continue;
        const int tile = t * PLAIN_TILE, there = min(PLAIN_TILE, p.T - tile);
        const int64_t from = ((int64_t)b * p.T + tile) * p.k_row + (int64_t)kv * p.D;
        float s[8][4], dp[8][4];
        plain_scores(s, x.q + at, p.q_row, last - first, x.k + from, p.k_row, there, p.D, room);
        plain_scores(dp, x.dy + at, p.q_row, last - first, x.v + from, p.k_row, there, p.D, room);
        const uint32_t kept = p.drops ? plain_kept<false>(p, bh, first, tile) : 0;
#pragma unroll
        for (int r = 0; r < 8; r++) {
            const int i = first + plain_y() * 8 + r;
            const uint64_t seen = i < last ? keys & attn_keys_seen(p, i, tile) : 0;
            const float2 sum = x.sums[bh * p.T + min(i, p.T - 1)];
#pragma unroll
            for (int c = 0; c < 4; c++)
                differentiate_plain(p, s[r][c], dp[r][c], sum,
                                    (seen >> (plain_x() * 4 + c) & 1) != 0,
                                    (kept >> (r * 4 + c) & 1) != 0);
        }
        plain_put(room, dp);
        plain_add<T, DC>(o, x.k + from, p.k_row, there, c0, p.D, room);
    }
    for (int r = 0; r < 8; r++)
        factor[r] = p.scale;
    plain_store<T, DC>(o, factor, x.dq + at, p.q_row, last - first, c0, p.D);
}

/* dk and dv of keys [first, first + 64) of head kv of sequence b, columns [c0, c0 + DC). */
template <typename T, int DC>
static __device__ __forceinline__ void grad_kv_plain(const attn_plan &p, const grad_tensors<T> &x,
                                                     int b, int kv, int first, int c0, float *room)
{
    const int last = min(first + PLAIN_TILE, p.T), share = p.heads / p.kv_heads;
    const int64_t at = ((int64_t)b * p.T + first) * p.k_row + (int64_t)kv * p.D;
    const uint64_t keys = attn_keys<64>(p, b, first / 64);
    const attn_range range = attn_queries_of(p, first, last);
    float dk[8][DC / 16], dv[8][DC / 16], factor[8];
    plain_clear<DC>(dk);
    plain_clear<DC>(dv);
    for (int h = kv * share; h < (kv + 1) * share && keys != 0; h++)
        for (int tile = range.first / PLAIN_TILE * PLAIN_TILE; tile < range.last;
             tile += PLAIN_TILE) {
            const int there = min(PLAIN_TILE, p.T - tile);
            const int64_t bh = (int64_t)b * p.heads + h;
            const int64_t from = ((int64_t)b * p.T + tile) * p.q_row + (int64_t)h * p.D;
            float s[8][4], dp[8][4];
            plain_scores(s, x.k + at, p.k_row, last - first, x.q + from, p.q_row, there, p.D, room);
            plain_scores(dp, x.v + at, p.k_row, last - first, x.dy + from, p.q_row, there, p.D,
                         room);
            const uint32_t kept = p.drops ? plain_kept<true>(p, bh, first, tile) : 0;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int i = plain_x() * 4 + c;
                const float2 sum = x.sums[bh * p.T + min(tile + i, p.T - 1)];
#pragma unroll
                for (int r = 0; r < 8; r++) {
                    const int j = plain_y() * 8 + r;
                    const bool there_j = (keys >> j & 1) != 0;
                    differentiate_plain(p, s[r][c], dp[r][c], sum,
                                        there_j && tile + i < p.T &&
                                            attn_sees(p, tile + i, first + j),
                                        (kept >> (r * 4 + c) & 1) != 0);
                }
            }
            plain_put(room, s);
            plain_add<T, DC>(dv, x.dy + from, p.q_row, there, c0, p.D, room);
            plain_put(room, dp);
            plain_add<T, DC>(dk, x.q + from, p.q_row, there, c0, p.D, room);
        }
    for (int r = 0; r < 8; r++)
        factor[r] = 1.0f;
    plain_store<T, DC>(dv, factor, x.dv + at, p.k_row, last - first, c0, p.D);
    for (int r = 0; r < 8; r++)
        factor[r] = p.scale;
    plain_store<T, DC>(dk, factor, x.dk + at, p.k_row, last - first, c0, p.D);
}

template <typename T, int DC>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attention_grad_q_plain(const __grid_constant__ attn_plan p,
                             const __grid_constant__ grad_tensors<T> x, int tiles, int chunks)
{
    PARE_SHARED_DYNAMIC(float, room);
    int chunk = (int)(blockIdx.x % chunks), tile = (int)(blockIdx.x / chunks % tiles);
    int bh = (int)(blockIdx.x / chunks / tiles);
    grad_q_plain<T, DC>(p, x, bh / p.heads, bh % p.heads, (tiles - 1 - tile) * PLAIN_TILE,
                        chunk * DC, room);
}

template <typename T, int DC>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attention_grad_kv_plain(const __grid_constant__ attn_plan p,
                              const __grid_constant__ grad_tensors<T> x, int tiles, int chunks)
{
    PARE_SHARED_DYNAMIC(float, room);
    int chunk = (int)(blockIdx.x % chunks), tile = (int)(blockIdx.x / chunks % tiles);
    int bh = (int)(blockIdx.x / chunks / tiles);
    grad_kv_plain<T, DC>(p, x, bh / p.kv_heads, bh % p.kv_heads, tile * PLAIN_TILE, chunk * DC,
                         room);
}

/* Rows [first, last) once more, out of line: see the head of cuda_attention.cuh. */
static __device__ __noinline__ void grad_q_again(const attn_plan &p,
                                                 const grad_tensors<__nv_bfloat16> &x, int b, int h,
                                                 int first, int last, float *room)
{
    for (int i = first; i < last; i += PLAIN_TILE)
        for (int c0 = 0; c0 < p.D; c0 += 64)
            grad_q_plain<__nv_bfloat16, 64>(p, x, b, h, i, c0, room);
}

static __device__ __noinline__ void grad_kv_again(const attn_plan &p,
                                                  const grad_tensors<__nv_bfloat16> &x, int b,
                                                  int kv, int first, int last, int c0, int c_end,
                                                  float *room)
{
    for (int j = first; j < last; j += PLAIN_TILE)
        for (int c = c0; c < c_end; c += 64)
            grad_kv_plain<__nv_bfloat16, 64>(p, x, b, kv, j, c, room);
}

/* ---- dq on the tensor cores ------------------------------------------------------------------ */

template <int DP> struct grad_q_shape {
    static constexpr int MT = DP <= 128 ? 2 : 1, KB = 32, QB = ATTN_WARPS * MT * 16;
    static constexpr int tiles = (2 * QB + 4 * KB) * ATTN_PITCH(DP) * 2;
    static constexpr int bytes = tiles > PLAIN_ROOM ? tiles : PLAIN_ROOM;
};

/* Starts to bring a tile of `rows` ≤ ROWS rows of one matrix, and of another behind it. */
template <int DP, int ROWS>
static __device__ __forceinline__ void load_two(const attn_plan &p, __nv_bfloat16 *to,
                                                const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                                                int64_t row, int rows)
{
    attn_load<DP, ROWS>(to, a, row, rows, p.D, p.aligned);
    attn_load<DP, ROWS>(to + ROWS * ATTN_PITCH(DP), b, row, rows, p.D, p.aligned);
}

/* dp times what dropout kept of it. */
template <int MT, int NT>
static __device__ __forceinline__ void drop(const attn_plan &p, float (&dp)[MT][NT][4],
                                            uint64_t kept)
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                dp[m][n][r] *= (kept >> ((m * NT + n) * 4 + r) & 1) != 0 ? p.kept : 0.0f;
}

/* dp becomes ds; rows are queries, sum[m][h] theirs. */
template <int MT, int NT>
static __device__ __forceinline__ void differentiate_q(float c, const float (&s)[MT][NT][4],
                                                       float (&dp)[MT][NT][4],
                                                       const float2 (&sum)[MT][2])
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                dp[m][n][r] =
                    exp2_fast(s[m][n][r] * c - sum[m][r / 2].x) * (dp[m][n][r] - sum[m][r / 2].y);
}

/* What bit n·8 + 2·t + r mod 2 of seen[m][h] leaves out becomes 0. */
template <int MT, int NT>
static __device__ __forceinline__ void clear_hidden(float (&x)[MT][NT][4], int m, int h,
                                                    uint64_t seen)
{
    seen >>= threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            if ((seen >> (n * 8 + r) & 1) == 0)
                x[m][n][2 * h + r] = 0.0f;
}

template <int DP>
__global__ void __launch_bounds__(ATTN_THREADS, 2)
    k_attention_grad_q(const __grid_constant__ attn_plan p,
                       const __grid_constant__ grad_tensors<__nv_bfloat16> x, int tiles,
                       bool out_aligned)
{
    constexpr int MT = grad_q_shape<DP>::MT, KB = grad_q_shape<DP>::KB, QB = grad_q_shape<DP>::QB;
    constexpr int pitch = ATTN_PITCH(DP), side = KB * pitch;
    PARE_SHARED_DYNAMIC(__nv_bfloat16, room);
    const int lane = (int)threadIdx.x % PARE_WARP, warp = (int)threadIdx.x / PARE_WARP;
    const int bh = (int)(blockIdx.x / tiles), b = bh / p.heads, h = bh % p.heads;
    const int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * QB, last = min(first + QB, p.T);
    const int own = first + warp * MT * 16; /* the warp's first query */
    const int64_t q_at = ((int64_t)b * p.T + first) * p.q_row + (int64_t)h * p.D;
    const int64_t k_at = (int64_t)b * p.T * p.k_row + (int64_t)(h / (p.heads / p.kv_heads)) * p.D;
    const float c = p.scale * ATTN_LOG2E;
    const attn_range range = attn_keys_of(p, first, last);
    const attn_range own_range = attn_keys_of(p, own, own + MT * 16);
    __nv_bfloat16 *own_q = room + warp * MT * 16 * pitch, *kvs = room + 2 * QB * pitch;
    const int end = (range.last + KB - 1) / KB;
    int t = attn_next<KB>(p, b, range.first / KB, end), buffer = 0;
    float o[MT][DP / 8][4] = {}, factor[MT][2];
    float2 sum[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = own + m * 16 + half * 8 + lane / 4;
            sum[m][half] = i < p.T ? x.sums[(int64_t)bh * p.T + i] : make_float2(INFINITY, 0.0f);
            factor[m][half] = p.scale;
        }
    load_two<DP, QB>(p, room, x.q + q_at, x.dy + q_at, p.q_row, last - first);
    if (t < end)
        load_two<DP, KB>(p, kvs, x.k + k_at + (int64_t)t * KB * p.k_row,
                         x.v + k_at + (int64_t)t * KB * p.k_row, p.k_row, min(KB, p.T - t * KB));
    copy_async_commit();
    while (t < end) {
        const int next = attn_next<KB>(p, b, t + 1, end), tile = t * KB;
        const __nv_bfloat16 *ks = kvs + buffer * 2 * side;
        copy_async_wait<0>();
        __syncthreads(); /* the tile is there; the other buffer has been read */
        buffer ^= 1;
        if (next < end)
            load_two<DP, KB>(p, kvs + buffer * 2 * side, x.k + k_at + (int64_t)next * KB * p.k_row,
                             x.v + k_at + (int64_t)next * KB * p.k_row, p.k_row,
                             min(KB, p.T - next * KB));
        copy_async_commit();
        if (tile < own_range.last && tile + KB > own_range.first) {
            const uint64_t keys = attn_keys<KB>(p, b, t);
            float s[MT][KB / 8][4], ds[MT][KB / 8][4];
            attn_scores<DP, MT, KB / 8>(s, own_q, ks);
            attn_scores<DP, MT, KB / 8>(ds, own_q + QB * pitch, ks + side);
            if (p.drops)
                drop(p, ds, attn_kept<MT, KB / 8, false>(p, bh, own, tile));
            differentiate_q(c, s, ds, sum);
            if (keys != attn_all_keys<KB>() ||
                !attn_all_see(p, own, own + MT * 16, tile, tile + KB)) {
#pragma unroll
                for (int e = 0; e < 2 * MT; e++)
                    clear_hidden(ds, e / 2, e % 2,
                                 keys & attn_keys_seen(p, own + e * 8 + lane / 4, tile));
            }
            attn_add<pitch>(o, ds, ks);
        }
        t = next;
    }
    copy_async_wait<0>();
    if (__syncthreads_or(attn_has_nan(o))) {
        grad_q_again(p, x, b, h, first, last, reinterpret_cast<float *>(room));
        return;
    }
    attn_store<pitch>(o, factor, own_q, x.dq + q_at + (int64_t)warp * MT * 16 * p.q_row, p.q_row,
                      last - own, p.D, out_aligned);
}

/* ---- dk and dv on the tensor cores ----------------------------------------------------------- */

template <int DP> struct grad_kv_shape {
    static constexpr int MT = DP <= 64 ? 2 : 1, KR = ATTN_WARPS * MT * 16;
    static constexpr int QB = DP == 96 || DP == 128 ? 64 : 32; /* queries of a tile */
    static constexpr int columns = DP < 128 ? DP : 128;        /* of dk and dv a block */
    static constexpr int tiles = (2 * KR + 4 * QB) * ATTN_PITCH(DP) * 2;
    static constexpr int bytes =
        (tiles > PLAIN_ROOM ? tiles : PLAIN_ROOM) + 2 * QB * (int)sizeof(float2);
};

/* s and dp become p and ds; columns are queries, sums [NT·8] theirs in shared memory. */
template <int MT, int NT>
static __device__ __forceinline__ void differentiate_kv(float c, float (&s)[MT][NT][4],
                                                        float (&dp)[MT][NT][4], const float2 *sums)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const pack_of<float, 4> pair = load_pack<float, 4>(
            reinterpret_cast<const float *>(sums + n * 8 + threadIdx.x % 4 * 2));
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                s[m][n][r] = exp2_fast(s[m][n][r] * c - pair.at[r % 2 * 2]);
                dp[m][n][r] = s[m][n][r] * (dp[m][n][r] - pair.at[r % 2 * 2 + 1]);
            }
    }
}

/* p times what dropout kept of it; what it did not is 0, be p NaN. */
template <int MT, int NT>
static __device__ __forceinline__ void keep(const attn_plan &p, float (&s)[MT][NT][4],
                                            uint64_t kept)
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                s[m][n][r] = (kept >> ((m * NT + n) * 4 + r) & 1) != 0 ? s[m][n][r] * p.kept : 0.0f;
}

/* Starts to bring tile n of the queries of all heads of kv: q, dy, and their sums. */
template <int DP>
static __device__ __forceinline__ void
load_queries(const attn_plan &p, const grad_tensors<__nv_bfloat16> &x, int b, int h, int tile,
             __nv_bfloat16 *to, float2 *sums)
{
    constexpr int QB = grad_kv_shape<DP>::QB;
    const int rows = min(QB, p.T - tile), i = (int)threadIdx.x;
    const int64_t from = ((int64_t)b * p.T + tile) * p.q_row + (int64_t)h * p.D;
    load_two<DP, QB>(p, to, x.q + from, x.dy + from, p.q_row, rows);
    if (i < QB)
        copy_async_8(sums + i, x.sums + ((int64_t)b * p.heads + h) * p.T + tile + i,
                     i < rows ? 8 : 0);
}

template <int DP>
__global__ void __launch_bounds__(ATTN_THREADS, 2)
    k_attention_grad_kv(const __grid_constant__ attn_plan p,
                        const __grid_constant__ grad_tensors<__nv_bfloat16> x, int tiles,
                        int chunks, bool out_aligned)
{
    using shape = grad_kv_shape<DP>;
    constexpr int MT = shape::MT, KR = shape::KR, QB = shape::QB, OT = shape::columns / 8;
    constexpr int pitch = ATTN_PITCH(DP), side = QB * pitch;
    PARE_SHARED_DYNAMIC(__nv_bfloat16, room);
    float2 *sums =
        reinterpret_cast<float2 *>(reinterpret_cast<unsigned char *>(room) + shape::bytes) - 2 * QB;
    const int lane = (int)threadIdx.x % PARE_WARP, warp = (int)threadIdx.x / PARE_WARP;
    const int c0 = (int)(blockIdx.x % chunks) * shape::columns;
    const int first = (int)(blockIdx.x / chunks % tiles) * KR, last = min(first + KR, p.T);
    const int bkv = (int)(blockIdx.x / chunks / tiles), b = bkv / p.kv_heads;
    const int kv = bkv % p.kv_heads, share = p.heads / p.kv_heads;
    const int own = first + warp * MT * 16; /* the warp's first key */
    const int64_t at = ((int64_t)b * p.T + first) * p.k_row + (int64_t)kv * p.D;
    const float c = p.scale * ATTN_LOG2E;
    const attn_range range = attn_queries_of(p, first, last);
    const attn_range own_range = attn_queries_of(p, own, own + MT * 16);
    __nv_bfloat16 *own_k = room + warp * MT * 16 * pitch, *qs = room + 2 * KR * pitch;
    const int start = range.first / QB, a_head = (range.last + QB - 1) / QB - start;
    bool any = false, there = true; /* keys of the block, all keys of the warp */
    for (int j = first; j < last; j += 64)
        any |= attn_keys<64>(p, b, j / 64) != 0;
    if (own < p.T)
        there = (attn_keys<64>(p, b, own / 64) >> own % 64 & attn_bits(0, MT * 16)) ==
                attn_bits(0, MT * 16);
    const int end = any ? a_head * share : 0;
    float dk[MT][OT][4] = {}, dv[MT][OT][4] = {}, factor[MT][2];

    load_two<DP, KR>(p, room, x.k + at, x.v + at, p.k_row, last - first);
    if (end > 0)
        load_queries<DP>(p, x, b, kv * share, start * QB, qs, sums);
    copy_async_commit();
    for (int n = 0; n < end; n++) {
        const int h = kv * share + n / a_head, tile = (start + n % a_head) * QB, buffer = n % 2;
        const int64_t bh = (int64_t)b * p.heads + h;
        const __nv_bfloat16 *q = qs + buffer * 2 * side;
        copy_async_wait<0>();
        __syncthreads(); /* the tile is there; the other buffer has been read */
        if (n + 1 < end)
            load_queries<DP>(p, x, b, kv * share + (n + 1) / a_head,
                             (start + (n + 1) % a_head) * QB, qs + (buffer ^ 1) * 2 * side,
                             sums + (buffer ^ 1) * QB);
        copy_async_commit();
        if (tile >= own_range.last || tile + QB <= own_range.first)
            continue;
        float s[MT][QB / 8][4], ds[MT][QB / 8][4];
        uint64_t kept = 0;
        attn_scores<DP, MT, QB / 8>(s, own_k, q);
        attn_scores<DP, MT, QB / 8>(ds, own_k + KR * pitch, q + side);
        if (p.drops) {
            kept = attn_kept<MT, QB / 8, true>(p, bh, own, tile);
            drop(p, ds, kept);
        }
        differentiate_kv(c, s, ds, sums + buffer * QB);
        if (p.drops)
            keep(p, s, kept);
        if (!there || tile + QB > p.T || !attn_all_see(p, tile, tile + QB, own, own + MT * 16)) {
#pragma unroll
            for (int e = 0; e < 2 * MT; e++) {
                const int j = own + e * 8 + lane / 4;
                const bool here = j < p.T && (attn_keys<64>(p, b, j / 64) >> j % 64 & 1) != 0;
                const uint64_t seen = here ? attn_queries_seen(p, j, tile) : 0;
                clear_hidden(s, e / 2, e % 2, seen);
                clear_hidden(ds, e / 2, e % 2, seen);
            }
        }
        attn_add<pitch>(dv, s, q + side + c0);
        attn_add<pitch>(dk, ds, q + c0);
    }
    copy_async_wait<0>();
    if (__syncthreads_or(attn_has_nan(dk) || attn_has_nan(dv))) {
        grad_kv_again(p, x, b, kv, first, last, c0, min(p.D, c0 + shape::columns),
                      reinterpret_cast<float *>(room));
        return;
    }
    const int64_t own_at = at + (int64_t)warp * MT * 16 * p.k_row + c0;
#pragma unroll
    for (int m = 0; m < MT; m++)
        factor[m][0] = factor[m][1] = 1.0f;
    attn_store<pitch>(dv, factor, own_k + KR * pitch, x.dv + own_at, p.k_row, last - own, p.D - c0,
                      out_aligned);
#pragma unroll
    for (int m = 0; m < MT; m++)
        factor[m][0] = factor[m][1] = p.scale;
    attn_store<pitch>(dk, factor, own_k, x.dk + own_at, p.k_row, last - own, p.D - c0, out_aligned);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* dq DC columns a block; dk and dv, two sums, 64. */
template <typename T, int DC>
static pare_status grads_in_general(pare_backend *be, const attn_plan &p, const grad_tensors<T> &x)
{
    int tiles = (p.T + PLAIN_TILE - 1) / PLAIN_TILE;
    int q_chunks = p.D > DC ? (p.D + DC - 1) / DC : 1, k_chunks = p.D > 64 ? (p.D + 63) / 64 : 1;
    int64_t blocks = (int64_t)p.B * tiles;
    PARE_LAUNCH(be, (k_attention_grad_q_plain<T, DC>), blocks * p.heads * q_chunks, ATTN_THREADS,
                PLAIN_ROOM, p, x, tiles, q_chunks);
    PARE_LAUNCH(be, (k_attention_grad_kv_plain<T, 64>), blocks * p.kv_heads * k_chunks,
                ATTN_THREADS, PLAIN_ROOM, p, x, tiles, k_chunks);
    return PARE_OK;
}

template <int DP>
static pare_status grads_by_mma(pare_backend *be, const attn_plan &p,
                                const grad_tensors<__nv_bfloat16> &x, bool out_aligned)
{
    using for_q = grad_q_shape<DP>;
    using for_kv = grad_kv_shape<DP>;
    int most = pare__cuda_of(be)->shared_optin, chunks = DP / for_kv::columns;
    int q_tiles = (p.T + for_q::QB - 1) / for_q::QB, k_tiles = (p.T + for_kv::KR - 1) / for_kv::KR;
    if (for_q::bytes > most || for_kv::bytes > most)
        return grads_in_general<__nv_bfloat16, 128>(be, p, x);
    PARE_LAUNCH(be, (k_attention_grad_q<DP>), (int64_t)p.B * p.heads * q_tiles, ATTN_THREADS,
                for_q::bytes, p, x, q_tiles, out_aligned);
    PARE_LAUNCH(be, (k_attention_grad_kv<DP>), (int64_t)p.B * p.kv_heads * k_tiles * chunks,
                ATTN_THREADS, for_kv::bytes, p, x, k_tiles, chunks, out_aligned);
    return PARE_OK;
}

template <typename T>
static pare_status sums_of(pare_backend *be, const attn_plan &p,
                           const pare_attention_grad_args *args, float2 *sums, grad_tensors<T> *x)
{
    const T *dy = (const T *)args->dy.data, *y = (const T *)args->y.data;
    int64_t count = (int64_t)p.B * p.T * p.heads;
    bool aligned =
        p.D % 4 == 0 && pare__aligned(dy, 4 * sizeof(T)) && pare__aligned(y, 4 * sizeof(T));
    PARE_LAUNCH(be, (k_attention_grad_sums<T>), pare__blocks(count, 8), 8 * PARE_WARP, 0, p, dy, y,
                (const float *)args->lse.data, sums, count, aligned);
    *x = {(const T *)args->q.data, (const T *)args->k.data, (const T *)args->v.data, dy, sums,
          (T *)args->dq.data,      (T *)args->dk.data,      (T *)args->dv.data};
    return PARE_OK;
}

static pare_status grads_of_bf16(pare_backend *be, const attn_plan &p,
                                 const grad_tensors<__nv_bfloat16> &x, bool out_aligned)
{
    if (p.D <= 32)
        return grads_by_mma<32>(be, p, x, out_aligned);
    if (p.D <= 64)
        return grads_by_mma<64>(be, p, x, out_aligned);
    if (p.D <= 96)
        return grads_by_mma<96>(be, p, x, out_aligned);
    if (p.D <= 128)
        return grads_by_mma<128>(be, p, x, out_aligned);
    if (p.D <= ATTN_MOST_D)
        return grads_by_mma<256>(be, p, x, out_aligned);
    return grads_in_general<__nv_bfloat16, 128>(be, p, x);
}

extern "C" pare_status pare_cuda_attention_grad(pare_backend *be,
                                                const pare_attention_grad_args *args)
{
    attn_plan p;
    void *scratch;
    PARE_TRY(ATTN_PLAN(args, &p));
    size_t words = args->keys.data ? (size_t)p.B * (size_t)p.words : 0;
    size_t rows = (size_t)p.B * (size_t)p.T * (size_t)p.heads;
    PARE_TRY(pare__scratch(be, words * sizeof(uint64_t) + rows * sizeof(float2), &scratch));
    float2 *sums = (float2 *)((uint64_t *)scratch + words);
    PARE_TRY(attn_read_mask(be, &args->keys, scratch, &p));
    if (args->q.dtype == PARE_F32) {
        grad_tensors<float> x;
        PARE_TRY(sums_of(be, p, args, sums, &x));
        return plain_columns(p.D) == 64 ? grads_in_general<float, 64>(be, p, x)
                                        : grads_in_general<float, 128>(be, p, x);
    }
    grad_tensors<__nv_bfloat16> x;
    PARE_TRY(sums_of(be, p, args, sums, &x));
    p.aligned = attn_aligned(&p, &args->q) && attn_aligned(&p, &args->k) &&
                attn_aligned(&p, &args->v) && attn_aligned(&p, &args->dy);
    return grads_of_bf16(be, p, x,
                         attn_aligned(&p, &args->dq) && attn_aligned(&p, &args->dk) &&
                             attn_aligned(&p, &args->dv));
}
