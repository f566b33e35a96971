/* cuda_qgemm_w4a16.cu - c = x·wᵀ with packed 4-bit weights.
 *
 *     c[m, n] = Σ x[m, k]·round((q[n, k] − zero)·scale) (+ bias[n])
 *
 * A code u = q + 8 becomes a number by way of 2^23 + u, whose low bits it is: a shift, one logic
 * operation, one subtraction (exact) and the product with the scale, then two go to bf16 at once.
 * BF16 (tensor cores, mma.sync, f32 sums; cuda_qgemm.cuh has the two regimes):
 *
 *   M ≤ 16  w is read once, in the order in which it lies, 64 bytes of four rows under way in each
 *           lane; 0.5 bytes an element and 5 of a group (4 without zero points). Bound by unpacking
 *           where memory is fast: 2.4 integer operations an element are some 13 bytes a cycle on a
 *           multiprocessor. Predicted for N ≥ 8192: 85 % of the copy rate of an A100 or H100 (3.35
 *           TB/s), 65 % of an H200's; below, too few blocks to fill the device.
 *   else    tiles of 64 or 128 × 128, pieces of 64 terms, two in shared memory (64 KiB): those of x
 *           are copied there beside the arithmetic, those of w unpacked once for the tile.
 * Predicted 40 % of the bf16 peak of an H100 (mma.sync alone reaches some 60 % of it).
 *
 * F32 has a plain kernel on tiles of 64 × 64 by f32 units, predicted 40 % of their peak for large
 * M; it is there to be right, not for speed. No GPU has measured these yet. Where rows are not
 * multiples of 16 bytes, bytes are read one by one: right, and several times slower.
 */
#include "cuda_nn.cuh"

#include "cuda_qgemm.cuh"

#define PLAIN 64 /* rows and columns of a tile of the plain kernel, */
#define TERMS 32 /* and its piece */

struct packed_weights {
    const uint8_t *words; /* rows `pitch` bytes apart */
    const float *scale;
    const int8_t *zero; /* or NULL */
    int64_t K, pitch;
    unsigned group, groups;
};

/* What makes numbers of the codes of a group: (2^23 + u − offset)·scale. */
struct group_scale {
    float scale, offset;
};

/* Of row n and the group of term k, which may lie behind the last one. */
static __device__ __forceinline__ group_scale scale_at(const packed_weights &w, int64_t n,
                                                       unsigned k)
{
    int64_t at = n * w.groups + min(k / w.group, w.groups - 1);
    return {w.scale[at], 8388616.0f + (w.zero ? (float)w.zero[at] : 0.0f)};
}

/* Code i of a word. */
static __device__ __forceinline__ float number(uint32_t word, int i, const group_scale &s)
{
    return (__uint_as_float(0x4b000000u | (word >> 4 * i & 15u)) - s.offset) * s.scale;
}

/* Eight codes as bf16, in their order. */
static __device__ __forceinline__ void unpack(uint32_t word, const group_scale &s, uint32_t to[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        to[i] = pack_bf16(number(word, 2 * i, s), number(word, 2 * i + 1, s));
}

/* ---- few rows of x --------------------------------------------------------------------------- */

/* COLS: groups of 8 rows of x. Lane 4g + t has bytes 16t … of rows g, g + 8, g + 16 and g + 24 of
 * w, 32 terms, and the same terms of row g of x: chunks of 64 bytes of a row, one for each warp in
 * turn. */
template <int COLS, bool WHOLE>
static __global__ void __launch_bounds__(QGEMM_THREADS, 1)
    k_qgemm_w4a16_few(const __nv_bfloat16 *x, packed_weights w, qgemm_result<__nv_bfloat16> result)
{
    PARE_SHARED_ARRAY(float, room, QGEMM_WARPS *QGEMM_ROWS * 8 * COLS);
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    int64_t n = (int64_t)blockIdx.x * QGEMM_ROWS, row[4];
    float sums[2][COLS][4] = {};
    const uint8_t *x_row[COLS];
    qgemm_chunk next[4];
    int64_t at = warp * 64 + lane % 4 * 16;
    for (int i = 0; i < 4; i++) { /* rows behind the last: the last one again, not stored */
        row[i] = min(n + lane / 4 + 8 * i, result.N - 1);
        next[i] = qgemm_load<WHOLE>(w.words + row[i] * w.pitch + at, w.pitch - at);
    }
    for (int j = 0; j < COLS; j++)
        x_row[j] = (const uint8_t *)(x + min((int64_t)(lane / 4 + 8 * j), result.M - 1) * w.K);
    for (int64_t round = warp * 64; round < w.pitch; round += QGEMM_WARPS * 64) {
        unsigned first = (unsigned)(2 * at); /* term */
        qgemm_chunk codes[4];
        group_scale scale[4];
        at += QGEMM_WARPS * 64;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            codes[i] = next[i];
            next[i] = qgemm_load<WHOLE>(w.words + row[i] * w.pitch + at, w.pitch - at);
            scale[i] = scale_at(w, row[i], first);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) { /* eight terms each */
            qgemm_chunk b[COLS];
            unsigned term = first + 8 * k;
#pragma unroll
            for (int j = 0; j < COLS; j++)
                b[j] = qgemm_load<WHOLE>(x_row[j] + 2 * (int64_t)term, 2 * (w.K - term));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t low[4], high[4]; /* rows g and g + 8 of 16 */
                if (k > 0 && w.group % 32 != 0) {
                    scale[2 * i] = scale_at(w, row[2 * i], term);
                    scale[2 * i + 1] = scale_at(w, row[2 * i + 1], term);
                }
                unpack(codes[2 * i].at[k], scale[2 * i], low);
                unpack(codes[2 * i + 1].at[k], scale[2 * i + 1], high);
#pragma unroll
                for (int h = 0; h < 4; h += 2) {
                    uint32_t a[4] = {low[h], high[h], low[h + 1], high[h + 1]};
#pragma unroll
                    for (int j = 0; j < COLS; j++)
                        mma_bf16(sums[i][j], a, b[j].at[h], b[j].at[h + 1]);
                }
            }
        }
    }
    qgemm_store_few<__nv_bfloat16, float, COLS>(result, n, sums, room);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* The packed words of one thread in a piece of 64 terms: half of row n, from term k on. */
template <bool WHOLE>
static __device__ __forceinline__ qgemm_chunk fetch_words(const packed_weights &w, int64_t n,
                                                          int64_t k)
{
    return qgemm_load<WHOLE>(w.words + n * w.pitch + k / 2, w.pitch - k / 2);
}

/* … as 32 bf16 in row `row` of a piece, from chunk `chunk` on. */
static __device__ __forceinline__ void place_words(uint8_t *piece, int row, int chunk,
                                                   const packed_weights &w, int64_t n, unsigned k,
                                                   const qgemm_chunk &words)
{
    group_scale scale = scale_at(w, n, k);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        qgemm_chunk numbers;
        if (j > 0 && w.group % 32 != 0)
            scale = scale_at(w, n, k + 8 * j);
        unpack(words.at[j], scale, numbers.at);
        *reinterpret_cast<qgemm_chunk *>(qgemm_place(piece, row, chunk + j)) = numbers;
    }
}

/* HIGH: 64 rows of x each, so many warps above each other. Rows of w behind the last are the last
 * one again; their sums are not stored. */
template <int HIGH, bool WHOLE>
static __global__ void __launch_bounds__(QGEMM_THREADS, WHOLE ? 2 : 1)
    k_qgemm_w4a16_tiles(const __nv_bfloat16 *x, packed_weights w,
                        qgemm_result<__nv_bfloat16> result)
{
    constexpr int M = 64 * HIGH, WIDE = QGEMM_N / (QGEMM_WARPS / HIGH) / 8;
    constexpr int BYTES = (M + QGEMM_N) * QGEMM_WIDTH;
    PARE_SHARED_DYNAMIC(uint8_t, pieces);
    int warp = threadIdx.x / PARE_WARP, own = threadIdx.x / 2, half = threadIdx.x % 2;
    int x_row = warp % HIGH * 64, w_row = warp / HIGH * 8 * WIDE;
    int64_t m = (int64_t)blockIdx.x * M, n = (int64_t)blockIdx.y * QGEMM_N;
    int64_t row = min(n + own, result.N - 1);
    const uint8_t *from = (const uint8_t *)x;
    int count = (int)((w.K + 63) / 64);
    qgemm_sums<float, WIDE> sums = {};
    qgemm_chunk words = fetch_words<WHOLE>(w, row, half * 32);
    qgemm_fetch<M, WHOLE>(pieces, from, 2 * w.K, 2 * w.K, m, result.M, 0);
    copy_async_commit();
    for (int k = 0; k < count; k++) {
        uint8_t *x_piece = pieces + k % 2 * BYTES, *w_piece = x_piece + M * QGEMM_WIDTH;
        place_words(w_piece, own, half * 4, w, row, (unsigned)k * 64 + half * 32, words);
        copy_async_wait<0>();
        __syncthreads(); /* the pieces are there; nobody reads those of the round before */
        if (k + 1 < count) {
            int64_t at = (int64_t)(k + 1) * 64;
            qgemm_fetch<M, WHOLE>(pieces + (k + 1) % 2 * BYTES, from, 2 * w.K, 2 * w.K, m, result.M,
                                  2 * at);
            words = fetch_words<WHOLE>(w, row, at + half * 32);
        }
        copy_async_commit();
        qgemm_multiply(sums, x_piece, x_row, w_piece, w_row);
    }
    qgemm_store_sums(result, m + x_row, n + w_row, sums);
}

/* ---- F32 ------------------------------------------------------------------------------------- */

/* Thread 16i + j has rows i, i + 16 … of x and j, j + 16 … of w. Rows of a piece are 65 numbers
 * apart: those that a warp writes are in different banks. */
static __global__ void __launch_bounds__(QGEMM_THREADS)
    k_qgemm_w4a16_plain(const float *x, packed_weights w, qgemm_result<float> result)
{
    PARE_SHARED_ARRAY(float, x_piece, TERMS *(PLAIN + 1));
    PARE_SHARED_ARRAY(float, w_piece, TERMS *(PLAIN + 1));
    int own = threadIdx.x / 4, part = threadIdx.x % 4 * 8; /* of a piece: a row, eight terms */
    int i = threadIdx.x / 16, j = threadIdx.x % 16;
    int64_t m = (int64_t)blockIdx.x * PLAIN, n = (int64_t)blockIdx.y * PLAIN;
    float sums[4][4] = {};
    for (int64_t k = 0; k < w.K; k += TERMS) {
        int64_t first = k + part;
        bool there = n + own < result.N && first < w.K;
        const uint8_t *words = w.words + (n + own) * w.pitch + first / 2;
        uint32_t word = 0;
        group_scale scale = {0.0f, 0.0f};
        if (there) {
            for (int b = 0; b < 4; b++)
                word |= (uint32_t)words[b] << 8 * b;
            scale = scale_at(w, n + own, (unsigned)first);
        }
#pragma unroll
        for (int t = 0; t < 8; t++) {
            bool inside = first + t < w.K;
            w_piece[(part + t) * (PLAIN + 1) + own] =
                there && inside ? number(word, t, scale) : 0.0f;
            x_piece[(part + t) * (PLAIN + 1) + own] =
                m + own < result.M && inside ? x[(m + own) * w.K + first + t] : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int t = 0; t < TERMS; t++) {
            float a[4], b[4];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                a[r] = x_piece[t * (PLAIN + 1) + i + 16 * r];
                b[r] = w_piece[t * (PLAIN + 1) + j + 16 * r];
            }
#pragma unroll
            for (int r = 0; r < 16; r++)
                sums[r / 4][r % 4] += a[r / 4] * b[r % 4];
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 16; r++)
        qgemm_store(result, m + i + r / 4 * 16, n + j + r % 4 * 16, sums[r / 4][r % 4]);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <bool WHOLE>
static pare_status launch(pare_backend *be, const pare_qgemm_w4a16_args *args,
                          const packed_weights &w)
{
    int64_t M = args->x.shape[0], N = args->words.shape[0];
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)args->x.data;
    qgemm_result<__nv_bfloat16> result = {(__nv_bfloat16 *)args->c.data,  NULL, NULL,
                                          (const float *)args->bias.data, M,    N};
    dim3 tiles((unsigned)pare__blocks(M, M <= 64 ? 64 : 128), (unsigned)pare__blocks(N, QGEMM_N));
    if (M <= 8)
        PARE_LAUNCH(be, (k_qgemm_w4a16_few<1, WHOLE>), pare__blocks(N, QGEMM_ROWS), QGEMM_THREADS,
                    0, x, w, result);
    else if (M <= QGEMM_FEW)
        PARE_LAUNCH(be, (k_qgemm_w4a16_few<2, WHOLE>), pare__blocks(N, QGEMM_ROWS), QGEMM_THREADS,
                    0, x, w, result);
    else if (M <= 64)
        PARE_LAUNCH(be, (k_qgemm_w4a16_tiles<1, WHOLE>), tiles, QGEMM_THREADS,
                    2 * (64 + QGEMM_N) * QGEMM_WIDTH, x, w, result);
    else
        PARE_LAUNCH(be, (k_qgemm_w4a16_tiles<2, WHOLE>), tiles, QGEMM_THREADS,
                    2 * (128 + QGEMM_N) * QGEMM_WIDTH, x, w, result);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_qgemm_w4a16(pare_backend *be, const pare_qgemm_w4a16_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->words.shape[0];
    if (M == 0 || N == 0)
        return PARE_OK;
    int64_t group = args->group < UINT32_MAX ? args->group : UINT32_MAX / 32 * 32;
    packed_weights w = {(const uint8_t *)args->words.data,
                        (const float *)args->scale.data,
                        (const int8_t *)args->zero.data,
                        K,
                        args->words.shape[1],
                        (unsigned)group,
                        (unsigned)args->scale.shape[1]};
    if (args->x.dtype == PARE_F32) {
        qgemm_result<float> result = {(float *)args->c.data,          NULL, NULL,
                                      (const float *)args->bias.data, M,    N};
        dim3 tiles((unsigned)pare__blocks(M, PLAIN), (unsigned)pare__blocks(N, PLAIN));
        PARE_LAUNCH(be, k_qgemm_w4a16_plain, tiles, QGEMM_THREADS, 0, (const float *)args->x.data,
                    w, result);
        return PARE_OK;
    }
    bool whole = K % 32 == 0 && pare__aligned(w.words, 16) && pare__aligned(args->x.data, 16);
    return whole ? launch<true>(be, args, w) : launch<false>(be, args, w);
}
