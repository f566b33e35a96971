/* cuda_attention.cuh - what attention and its gradient share: the plan of a call, who sees whom,
 * dropout, and tiles of bf16 on the tensor cores (cuda_attention_plain.cuh has the general way).
 *
 * A block is 4 warps. It owns a tile of rows, each warp MT × 16 of them, and streams tiles of
 * columns through shared memory: two buffers, so that the copy of the next tile runs beside the
 * arithmetic on this one, with one barrier a tile. Products of two tiles are
 *
 *   s = a·bᵀ (attn_scores): a and b in shared memory, their rows are queries and keys
 *   o += p·b (attn_add): p in registers, the s of before; b is read transposed by ldmatrix
 *
 * so scores and probabilities never leave the registers. A row of a tile is DP + 8 elements: an odd
 * number of 16-byte pieces, so the 8 rows that ldmatrix reads at once lie in different banks. D up
 * to 256 is rounded up to DP, 32, 64, 96, 128 or 256, with zeros.
 *
 * What a query does not see has p = 0, and 0·NaN is NaN: where the other tile holds NaN or Inf, a
 * row would feel what is hidden from it. So a block that ends with a NaN among its sums does its
 * tile again in the general way, which leaves out what p = 0 multiplies.
 */
#ifndef PARE_CUDA_ATTENTION_CUH
#define PARE_CUDA_ATTENTION_CUH

#include "cuda_mma.cuh"
#include "cuda_nn.cuh"

#include "base/check.h"

#define ATTN_THREADS 128
#define ATTN_WARPS (ATTN_THREADS / PARE_WARP)
#define ATTN_MOST_D 256 /* on the tensor cores */
#define ATTN_LOG2E 1.44269504f
#define ATTN_LN2 0.693147181f

struct attn_plan {
    int B, T, D, heads, kv_heads;
    int words;            /* of 64 keys a sequence */
    const uint64_t *seen; /* [B, words]: the keys that the mask leaves; NULL: all */
    int64_t q_row, k_row; /* elements of a row of q and of k */
    float scale;
    int window; /* 0: none; else below T */
    bool causal, drops;
    bool aligned;   /* rows of all heads of the inputs begin at multiples of 16 bytes */
    uint64_t start; /* of the hash */
    uint32_t below; /* this drops out */
    float kept;     /* 1/(1 − p) */
};

/* Of pare_attention_args or pare_attention_grad_args: their members have the same names. */
#define ATTN_PLAN(args, plan)                                                                      \
    attn_make_plan(&(args)->q, (args)->T, (args)->heads, (args)->kv_heads, (args)->scale,          \
                   (args)->causal, (args)->window, (args)->dropout,                                \
                   (args)->seed ^ ((args)->stream * UINT64_C(0x9E3779B97F4A7C15)), plan)

static inline pare_status attn_make_plan(const pare_tensor *q, int64_t T, int heads, int kv_heads,
                                         float scale, bool causal, int64_t window, float dropout,
                                         uint64_t start, attn_plan *p)
{
    int64_t D = q->shape[1] / heads, B = T > 0 ? q->shape[0] / T : 0;
    PARE_REQUIRE(T < 1 << 30 && D < 1 << 30 && B < 1 << 30, PARE_ERR_UNSUPPORTED,
                 "attention on a device: B = %lld, T = %lld and D = %lld must be below 2^30",
                 (long long)B, (long long)T, (long long)D);
    *p = attn_plan();
    p->B = (int)B;
    p->T = (int)T;
    p->D = (int)D;
    p->heads = heads;
    p->kv_heads = kv_heads;
    p->words = (int)((T + 63) / 64);
    p->q_row = (int64_t)heads * D;
    p->k_row = (int64_t)kv_heads * D;
    p->scale = scale != 0.0f ? scale : D > 0 ? 1.0f / sqrtf((float)D) : 1.0f;
    p->window = window < T ? (int)window : 0;
    p->causal = causal;
    p->drops = dropout > 0.0f;
    p->start = start;
    p->below = (uint32_t)rint((double)dropout * 0x1p24);
    p->kept = 1.0f / (1.0f - dropout);
    return PARE_OK;
}

/* ---- who sees whom --------------------------------------------------------------------------- */

/* A warp a word: bit j of seen[b, w] is keys[b, 64·w + j] ≠ 0. */
static __global__ void k_attention_seen(const uint8_t *keys, int T, int words, int64_t count,
                                        uint64_t *seen)
{
    int lane = threadIdx.x % PARE_WARP;
    int64_t word = grid_thread() / PARE_WARP;
    bool there = word < count;
    int64_t b = word / words;
    int j = (int)(word % words) * 64 + lane;
    bool low = there && j < T && keys[b * T + j] != 0;
    bool high = there && j + 32 < T && keys[b * T + j + 32] != 0;
    uint64_t bits = __ballot_sync(PARE_ALL_LANES, low);
    bits |= (uint64_t)__ballot_sync(PARE_ALL_LANES, high) << 32;
    if (there && lane == 0)
        seen[word] = bits;
}

/* Fills seen and lets the plan know of it. */
static inline pare_status attn_read_mask(pare_backend *be, const pare_tensor *keys, void *seen,
                                         attn_plan *p)
{
    int64_t count = (int64_t)p->B * p->words;
    if (!keys->data)
        return PARE_OK;
    PARE_LAUNCH(be, k_attention_seen, pare__blocks(count, 8), 8 * PARE_WARP, 0,
                (const uint8_t *)keys->data, p->T, p->words, count, (uint64_t *)seen);
    p->seen = (const uint64_t *)seen;
    return PARE_OK;
}

template <int KB> static __device__ __forceinline__ uint64_t attn_all_keys(void)
{
    return KB == 64 ? ~UINT64_C(0) : (UINT64_C(1) << KB % 64) - 1;
}

/* The keys of the tile of KB (64 or 32) from key KB·t on that are there: bit j for key KB·t + j. */
template <int KB>
static __device__ __forceinline__ uint64_t attn_keys(const attn_plan &p, int b, int t)
{
    int first = t * KB, left = p.T - first;
    if (p.seen)
        return p.seen[(int64_t)b * p.words + first / 64] >> first % 64 & attn_all_keys<KB>();
    return left >= KB ? attn_all_keys<KB>() : (UINT64_C(1) << left) - 1;
}

/* The first tile of [t, end) that has a key; end if there is none. All lanes of a warp call. */
template <int KB>
static __device__ __forceinline__ int attn_next(const attn_plan &p, int b, int t, int end)
{
    if (!p.seen)
        return t;
    for (; t < end; t += PARE_WARP) {
        int own = t + (int)(threadIdx.x % PARE_WARP);
        unsigned there = __ballot_sync(PARE_ALL_LANES, own < end && attn_keys<KB>(p, b, own) != 0);
        if (there != 0)
            return t + __ffs((int)there) - 1;
    }
    return end;
}

struct attn_range {
    int first, last; /* last excluded */
};

/* The keys that some query of [first, last) sees by position, and the other way round. */
static __device__ __forceinline__ attn_range attn_keys_of(const attn_plan &p, int first, int last)
{
    attn_range r = {0, p.T};
    if (p.window > 0)
        r = {max(0, first - p.window + 1), min(p.T, last - 1 + p.window)};
    if (p.causal)
        r.last = min(r.last, last);
    return r;
}

static __device__ __forceinline__ attn_range attn_queries_of(const attn_plan &p, int first,
                                                             int last)
{
    attn_range r = {0, p.T};
    if (p.window > 0)
        r = {max(0, first - p.window + 1), min(p.T, last - 1 + p.window)};
    if (p.causal)
        r.first = max(r.first, first);
    return r;
}

/* Whether by position every query of [i, i_end) sees every key of [j, j_end). */
static __device__ __forceinline__ bool attn_all_see(const attn_plan &p, int i, int i_end, int j,
                                                    int j_end)
{
    bool past = !p.causal || j_end - 1 <= i;
    bool near =
        p.window == 0 || (i_end - 1 - j < p.window && (p.causal || j_end - 1 - i < p.window));
    return past && near;
}

/* Whether query i sees key j by position. */
static __device__ __forceinline__ bool attn_sees(const attn_plan &p, int i, int j)
{
    bool past = !p.causal || j <= i;
    bool near = p.window == 0 || (i - j < p.window && j - i < p.window);
    return past && near;
}

/* Bits [first, last) of a word; the ends may lie outside of it. */
static __device__ __forceinline__ uint64_t attn_bits(int first, int last)
{
    uint64_t from = first <= 0 ? ~UINT64_C(0) : first >= 64 ? 0 : ~UINT64_C(0) << first;
    uint64_t to = last <= 0 ? 0 : last >= 64 ? ~UINT64_C(0) : ~(~UINT64_C(0) << last);
    return from & to;
}

/* Of the keys tile + 0 … 63 those that query i sees by position, and the other way round. */
static __device__ __forceinline__ uint64_t attn_keys_seen(const attn_plan &p, int i, int tile)
{
    attn_range r = attn_keys_of(p, i, i + 1);
    return attn_bits(r.first - tile, r.last - tile);
}

static __device__ __forceinline__ uint64_t attn_queries_seen(const attn_plan &p, int j, int tile)
{
    attn_range r = attn_queries_of(p, j, j + 1);
    return attn_bits(r.first - tile, r.last - tile);
}

/* What the probability of query i and key j is multiplied by: 0 or 1/(1 − p). */
static __device__ __forceinline__ float attn_keep(const attn_plan &p, int64_t bh, int i, int j)
{
    uint64_t at = ((uint64_t)bh * (uint64_t)p.T + (uint64_t)i) * (uint64_t)p.T + (uint64_t)j;
    uint64_t z = p.start + (at + 1) * UINT64_C(0xD1342543DE82EF95);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (uint32_t)(z >> 40) >= p.below ? p.kept : 0.0f;
}

/* ---- tiles of bf16 --------------------------------------------------------------------------- */

#define ATTN_PITCH(DP_) ((DP_) + 8)

/* Starts to bring `rows` ≤ ROWS rows of D elements (row after row `row` elements apart) to shared
 * memory; what is behind them becomes 0. All threads call; a commit, a wait and a barrier follow.
 */
template <int DP, int ROWS>
static __device__ __forceinline__ void attn_load(__nv_bfloat16 *to, const __nv_bfloat16 *from,
                                                 int64_t row, int rows, int D, bool aligned)
{
    const int pieces = DP / 8;
    if (aligned) {
#pragma unroll
        for (int u = 0; u < ROWS * pieces / ATTN_THREADS; u++) {
            int i = u * ATTN_THREADS + (int)threadIdx.x, r = i / pieces, d = i % pieces * 8;
            bool in = r < rows && d < D;
            copy_async(to + r * ATTN_PITCH(DP) + d, from + r * row + d, in ? 16 : 0);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < ROWS * DP; i += ATTN_THREADS) {
        int r = i / DP, d = i % DP;
        to[r * ATTN_PITCH(DP) + d] =
            r < rows && d < D ? from[r * row + d] : from_f32<__nv_bfloat16>(0.0f);
    }
}

/* s[m][n] = the 16 × 8 products of rows 16·m … of a and rows 8·n … of b. */
template <int DP, int MT, int NT>
static __device__ __forceinline__ void attn_scores(float (&s)[MT][NT][4], const __nv_bfloat16 *a,
                                                   const __nv_bfloat16 *b)
{
    const int pitch = ATTN_PITCH(DP), lane = (int)threadIdx.x % PARE_WARP;
    a += lane % 16 * pitch + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
            s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < DP; k += 16) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            ldmatrix_x4(left[m], a + m * 16 * pitch + k);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t right[4]; /* of rows 8·n … and of the next 8 */
            ldmatrix_x4(right, b + n * 8 * pitch + k);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_bf16(s[m][n], left[m], right[0], right[1]);
                mma_bf16(s[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* o[m][n] += p·b, p [MT·16, NT·8] rounded to bf16, b [NT·8, OT·8] in rows of PITCH. */
template <int PITCH, int MT, int NT, int OT>
static __device__ __forceinline__ void attn_add(float (&o)[MT][OT][4], const float (&p)[MT][NT][4],
                                                const __nv_bfloat16 *b)
{
    const int lane = (int)threadIdx.x % PARE_WARP;
    b += lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < NT; k += 2) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                left[m][r] = pack_bf16(p[m][k + r / 2][r % 2 * 2], p[m][k + r / 2][r % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < OT; n += 2) {
            uint32_t right[4];
            ldmatrix_x4_trans(right, b + k * 8 * PITCH + n * 8);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_bf16(o[m][n], left[m], right[0], right[1]);
                mma_bf16(o[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* Which of a thread's elements of a tile of scores are kept: bit (m·NT + n)·4 + r. `first`: the
 * warp's first row, `tile`: the first column; TURNED: rows are keys. A loop that is not unrolled:
 * 64 hashes at once would not leave registers for the sums. */
template <int MT, int NT, bool TURNED>
static __device__ __forceinline__ uint64_t attn_kept(const attn_plan &p, int64_t bh, int first,
                                                     int tile)
{
    const int lane = (int)threadIdx.x % PARE_WARP;
    uint64_t kept = 0;
#pragma unroll 2
    for (int e = 0; e < MT * NT * 4; e++) {
        int row = first + e / (NT * 4) * 16 + e / 2 % 2 * 8 + lane / 4;
        int column = tile + e / 4 % NT * 8 + lane % 4 * 2 + e % 2;
        bool keeps = attn_keep(p, bh, TURNED ? column : row, TURNED ? row : column) > 0.0f;
        kept |= (uint64_t)keeps << e;
    }
    return kept;
}

template <int MT, int OT>
static __device__ __forceinline__ bool attn_has_nan(const float (&o)[MT][OT][4])
{
    bool found = false;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < OT; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                found |= !(o[m][n][r] == o[m][n][r]);
    return found;
}

/* A warp's MT·16 rows of o, row g + 8·h of tile m times factor[m][h], to y; `room`: as many rows of
 * shared memory that only this warp uses now. `rows` of them are wanted, columns up to D. */
template <int PITCH, int MT, int OT>
static __device__ __forceinline__ void
attn_store(const float (&o)[MT][OT][4], const float (&factor)[MT][2], __nv_bfloat16 *room,
           __nv_bfloat16 *y, int64_t row, int rows, int D, bool aligned)
{
    const int lane = (int)threadIdx.x % PARE_WARP;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < OT; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t both =
                    pack_bf16(o[m][n][2 * h] * factor[m][h], o[m][n][2 * h + 1] * factor[m][h]);
                __nv_bfloat16 *at =
                    room + (m * 16 + 8 * h + lane / 4) * PITCH + n * 8 + lane % 4 * 2;
                *reinterpret_cast<uint32_t *>(at) = both;
            }
    __syncwarp();
    if (aligned) {
        for (int i = lane; i < MT * 16 * OT; i += PARE_WARP) {
            int r = i / OT, d = i % OT * 8;
            if (r < rows && d < D)
                store_pack(y + r * row + d, load_pack<__nv_bfloat16, 8>(room + r * PITCH + d));
        }
        return;
    }
    for (int i = lane; i < MT * 16 * OT * 8; i += PARE_WARP) {
        int r = i / (OT * 8), d = i % (OT * 8);
        if (r < rows && d < D)
            y[r * row + d] = room[r * PITCH + d];
    }
}

/* Whether pieces of 16 bytes of a matrix's heads can be moved at once. */
static inline bool attn_aligned(const attn_plan *p, const pare_tensor *x)
{
    return p->D % 8 == 0 && pare__aligned(x->data, 16);
}

#endif
