/* cuda_mask.cu - masks from keys: by threshold, N:M, from blocks, from what is not zero.
 *
 * A thread makes a byte of the mask from the eight elements it stands for: two accesses of 16 bytes
 * (one for halves), and a few comparisons. Bound by memory: size(x) + 1/8 bytes an element.
 *
 * - select: where all ties or none are pruned, one pass. Else the first pass prunes all ties and
 *   counts those of each tile of 16,384 elements, running sums tell which tiles lie behind the last
 *   that is to be pruned, and only these, where they have a tie at all, are read again to bring
 *   theirs back.
 * - N:M with M up to 8: of each pair of a group one wins; the wins are counted in the eight nibbles
 *   of a register, and an addition carries those with enough of them into the nibbles' top bits.
 *   28 comparisons for a group of eight: 10 integer operations an element, just below what memory
 *   lets through. Other M: groups in shared memory, M comparisons an element; M above 32 is bound
 *   by them.
 * - expand: a thread makes a word from the runs of its blocks; bound by the divisions that find
 *   them, some 2 operations an element.
 *
 * Prediction: 90 % of the copy rate for select without ties and nonzero, 85 % for 2:4, 80 % for
 * 4:8; select with ties reads up to twice. No GPU has measured it yet.
 */
#include "cuda_bits.cuh"
#include "cuda_scan.h"

typedef unsigned long long u64;

#define EACH 2 /* bytes of a mask a thread has under way */
#define BLOCK_BYTES (BITS_THREADS * EACH)

/* This thread's byte number k of its block. */
static __device__ __forceinline__ int64_t own_byte(int k)
{
    return (int64_t)blockIdx.x * BLOCK_BYTES + k * BITS_THREADS + threadIdx.x;
}

/* ---- select ---------------------------------------------------------------------------------- */

#define TILE_ROUNDS 8
#define TILE_BYTES (BITS_THREADS * TILE_ROUNDS)

/* Bits of the elements that are above a threshold, or (EQUAL) at it. */
template <bool EQUAL>
static __device__ __forceinline__ unsigned compare_keys(const eight_of<uint32_t> &e, byte_span span,
                                                        uint32_t threshold)
{
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t key = e.at[i] & KEY_MASK;
        bits |= (unsigned)(EQUAL ? key == threshold : key > threshold) << i;
    }
    return bits & span_bits(span);
}

/* 1 where the key is not below `least`. */
template <bool FLAT>
static __global__ void k_mask_select(const uint32_t *x, mask_shape s, uint32_t least, uint8_t *mask)
{
    byte_span span[EACH];
    eight_of<uint32_t> e[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        span[k] = span_of_byte<FLAT>(s, own_byte(k));
        e[k] = load_span<FLAT>(x, span[k]);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            bits |= (unsigned)((e[k].at[i] & KEY_MASK) >= least) << i;
        if (span[k].count > 0)
            mask[own_byte(k)] = (uint8_t)(bits & span_bits(span[k]));
    }
}

/* 1 where the key is above the threshold; how many of a tile are at it. */
template <bool FLAT>
static __global__ void k_mask_select_above(const uint32_t *x, mask_shape s, uint32_t threshold,
                                           uint8_t *mask, int64_t *ties)
{
    PARE_SHARED_ARRAY(int, room, 32);
    int equal = 0;
#pragma unroll
    for (int r = 0; r < TILE_ROUNDS; r += EACH) {
        byte_span span[EACH];
        eight_of<uint32_t> e[EACH];
        int64_t byte = (int64_t)blockIdx.x * TILE_BYTES + r * BITS_THREADS + threadIdx.x;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            span[k] = span_of_byte<FLAT>(s, byte + k * BITS_THREADS);
            e[k] = load_span<FLAT>(x, span[k]);
        }
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            equal += __popc(compare_keys<true>(e[k], span[k], threshold));
            if (span[k].count > 0)
                mask[byte + k * BITS_THREADS] =
                    (uint8_t)compare_keys<false>(e[k], span[k], threshold);
        }
    }
    equal = block_sum(equal, room);
    if (threadIdx.x == 0)
        ties[blockIdx.x] = equal;
}

/* Brings back the ties from number `pruned` on. before: running sums of the tiles' ties. */
template <bool FLAT>
static __global__ void k_mask_select_ties(const uint32_t *x, mask_shape s, uint32_t threshold,
                                          int64_t pruned, const int64_t *before, uint8_t *mask)
{
    PARE_SHARED_ARRAY(int, room, 32);
    int64_t at = before[blockIdx.x], end = before[blockIdx.x + 1];
    if (end > at && end > pruned) /* the same for the whole block */
        for (int r = 0; r < TILE_ROUNDS; r++) {
            int64_t byte = (int64_t)blockIdx.x * TILE_BYTES + r * BITS_THREADS + threadIdx.x;
            byte_span span = span_of_byte<FLAT>(s, byte);
            eight_of<uint32_t> e = load_span<FLAT>(x, span);
            unsigned equal = compare_keys<true>(e, span, threshold);
            int total;
            int64_t first = at + block_sum_before((int)__popc(equal), room, &total);
            for (; equal && first < pruned; first++)
                equal &= equal - 1;
            if (equal)
                mask[byte] = (uint8_t)(compare_keys<false>(e, span, threshold) | equal);
            at += total;
        }
}

template <bool FLAT>
static pare_status select_with_ties(pare_backend *be, const pare_mask_select_args *args,
                                    const mask_shape &s)
{
    const uint32_t *x = (const uint32_t *)args->x.data;
    uint8_t *mask = (uint8_t *)args->mask.data;
    int64_t tiles = pare__blocks(s.size, TILE_BYTES);
    void *scratch = NULL;
    PARE_TRY(pare__scratch(be, (size_t)(tiles + 1) * sizeof(int64_t), &scratch));
    int64_t *ties = (int64_t *)scratch;
    PARE_LAUNCH(be, (k_mask_select_above<FLAT>), tiles, BITS_THREADS, 0, x, s, args->threshold,
                mask, ties);
    PARE_TRY(pare__cuda_scan(be, ties, tiles));
    PARE_LAUNCH(be, (k_mask_select_ties<FLAT>), tiles, BITS_THREADS, 0, x, s, args->threshold,
                args->ties, ties, mask);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_mask_select(pare_backend *be, const pare_mask_select_args *args)
{
    mask_shape s = mask_shape_of(args->x.shape[0], args->x.shape[1]);
    const uint32_t *x = (const uint32_t *)args->x.data;
    uint8_t *mask = (uint8_t *)args->mask.data;
    bool flat = mask_is_flat(&s, x), all = args->ties >= s.rows * s.cols;
    uint32_t least = args->threshold + (all ? 1 : 0);
    int64_t blocks = pare__blocks(s.size, BLOCK_BYTES);
    if (args->threshold > KEY_MASK) /* above every key */
        PARE_TRY(pare_backend_clear(be, mask, s.size));
    else if (args->ties > 0 && !all)
        PARE_TRY(flat ? select_with_ties<true>(be, args, s) : select_with_ties<false>(be, args, s));
    else if (flat)
        PARE_LAUNCH(be, (k_mask_select<true>), blocks, BITS_THREADS, 0, x, s, least, mask);
    else
        PARE_LAUNCH(be, (k_mask_select<false>), blocks, BITS_THREADS, 0, x, s, least, mask);
    return PARE_OK;
}

/* ---- N:M ------------------------------------------------------------------------------------- */

/* The kept of eight elements in groups of M. Of two equals the later one wins. */
template <int M>
static __device__ __forceinline__ unsigned rank_eight(const eight_of<uint32_t> &e, int n)
{
    uint32_t wins = (uint32_t)(8 - (M - n)) * 0x11111111u;
#pragma unroll
    for (int j = 1; j < 8; j++)
#pragma unroll
        for (int i = j / M * M; i < j; i++)
            wins += (e.at[i] & KEY_MASK) > (e.at[j] & KEY_MASK) ? 1u << 4 * i : 1u << 4 * j;
    uint32_t bits = wins >> 3 & 0x11111111u; /* one a nibble, brought together */
    bits = (bits | bits >> 3) & 0x03030303u;
    bits = (bits | bits >> 6) & 0x000f000fu;
    return (bits | bits >> 12) & 0xffu;
}

/* M divides 8: no group is split between bytes. */
template <int M, bool FLAT>
static __global__ void k_mask_nm(const uint32_t *x, mask_shape s, int n, uint8_t *mask)
{
    byte_span span[EACH];
    eight_of<uint32_t> e[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        span[k] = span_of_byte<FLAT>(s, own_byte(k));
        e[k] = load_span<FLAT>(x, span[k]);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        unsigned bits = rank_eight<M>(e[k], n) & span_bits(span[k]);
        if (span[k].count > 0)
            mask[own_byte(k)] = (uint8_t)bits;
    }
}

#define SPAN 2048 /* keys of a block at most: eight groups of 256 */

/* A block a piece of a row, of whole groups and whole bytes. */
static __global__ void k_mask_nm_any(const uint32_t *x, mask_shape s, int n, int m, int span,
                                     int64_t spans, uint8_t *mask)
{
    PARE_SHARED_ARRAY(uint32_t, keys, SPAN);
    int64_t row = quotient(blockIdx.x, spans), col = (blockIdx.x - row * spans) * span;
    int count = (int)min((int64_t)span, s.cols - col), lane = threadIdx.x % PARE_WARP;
    for (int i = threadIdx.x; i < count; i += BITS_THREADS)
        keys[i] = x[row * s.cols + col + i] & KEY_MASK;
    __syncthreads();
    for (int first = (int)threadIdx.x - lane; first < count; first += BITS_THREADS) {
        int i = first + lane, wins = 0;
        if (i < count) {
            int start = i - i % m;
            uint32_t key = keys[i];
#pragma unroll 4
            for (int o = start; o < start + m; o++)
                wins += key + (o < i) > keys[o];
        }
        unsigned kept = __ballot_sync(PARE_ALL_LANES, i < count && wins >= m - n);
        if (lane < 4 && first + 8 * lane < count)
            mask[row * s.width + col / 8 + first / 8 + lane] = (uint8_t)(kept >> 8 * lane);
    }
}

template <int M>
static pare_status launch_nm(pare_backend *be, const pare_mask_nm_args *args, const mask_shape &s)
{
    const uint32_t *x = (const uint32_t *)args->x.data;
    uint8_t *mask = (uint8_t *)args->mask.data;
    int64_t blocks = pare__blocks(s.size, BLOCK_BYTES);
    if (mask_is_flat(&s, x))
        PARE_LAUNCH(be, (k_mask_nm<M, true>), blocks, BITS_THREADS, 0, x, s, args->n, mask);
    else
        PARE_LAUNCH(be, (k_mask_nm<M, false>), blocks, BITS_THREADS, 0, x, s, args->n, mask);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_mask_nm(pare_backend *be, const pare_mask_nm_args *args)
{
    mask_shape s = mask_shape_of(args->x.shape[0], args->x.shape[1]);
    int span = SPAN / (8 * args->m) * (8 * args->m);
    int64_t spans = pare__blocks(s.cols, span);
    switch (args->m) {
    case 1:
        return launch_nm<1>(be, args, s);
    case 2:
        return launch_nm<2>(be, args, s);
    case 4:
        return launch_nm<4>(be, args, s);
    case 8:
        return launch_nm<8>(be, args, s);
    default:
        PARE_LAUNCH(be, k_mask_nm_any, s.rows * spans, BITS_THREADS, 0,
                    (const uint32_t *)args->x.data, s, args->n, args->m, span, spans,
                    (uint8_t *)args->mask.data);
        return PARE_OK;
    }
}

/* ---- expand ---------------------------------------------------------------------------------- */

/* The bits [from, to) of a word. */
static __device__ __forceinline__ uint32_t run_of_bits(int from, int to)
{
    return (uint32_t)((UINT64_C(1) << to) - (UINT64_C(1) << from));
}

/* A thread a word, 32 columns, of a row. across: blocks side by side; whole: words are aligned. */
static __global__ void k_mask_expand(const uint8_t *blocks, int64_t across, int64_t block_rows,
                                     int64_t block_cols, int64_t rows, int64_t cols, bool whole,
                                     uint8_t *mask)
{
    int64_t width = (cols + 7) / 8, words = (cols + 31) / 32, i = grid_thread();
    if (i < rows * words) {
        int64_t row = quotient(i, words), col = (i - row * words) * 32;
        const uint8_t *from = blocks + quotient(row, block_rows) * ((across + 7) / 8);
        int64_t block = quotient(col, block_cols), end = (block + 1) * block_cols - col;
        int count = (int)min((int64_t)32, cols - col);
        uint32_t word = 0;
        for (int at = 0; at < count; block++, end += block_cols) {
            int to = (int)min(end, (int64_t)count);
            word |= from[block / 8] >> block % 8 & 1 ? run_of_bits(at, to) : 0;
            at = to;
        }
        uint8_t *to = mask + row * width + col / 8;
        if (whole)
            *(uint32_t *)to = word;
        else
            for (int b = 0; 8 * b < count; b++)
                to[b] = (uint8_t)(word >> 8 * b);
    }
}

extern "C" pare_status pare_cuda_mask_expand(pare_backend *be, const pare_mask_expand_args *args)
{
    int64_t R = args->rows, C = args->cols;
    int64_t block_rows = args->block_rows < R ? args->block_rows : R;
    int64_t block_cols = args->block_cols < C ? args->block_cols : C;
    if (R == 0 || C == 0)
        return PARE_OK;
    PARE_LAUNCH(be, k_mask_expand, pare__blocks(R * pare__blocks(C, 32), BITS_THREADS),
                BITS_THREADS, 0, (const uint8_t *)args->blocks.data, pare__blocks(C, block_cols),
                block_rows, block_cols, R, C, C % 32 == 0 && pare__aligned(args->mask.data, 4),
                (uint8_t *)args->mask.data);
    return PARE_OK;
}

/* ---- what is not zero ------------------------------------------------------------------------ */

/* ones: the number of ones is added to it, NULL: not wanted */
template <typename T, bool FLAT>
static __global__ void k_mask_nonzero(const T *x, mask_shape s, uint8_t *mask, u64 *ones)
{
    PARE_SHARED_ARRAY(int, room, 32);
    byte_span span[EACH];
    eight_of<T> e[EACH];
    int count = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        span[k] = span_of_byte<FLAT>(s, own_byte(k));
        e[k] = load_span<FLAT>(x, span[k]);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        unsigned bits = 0; /* what is behind the end is 0 */
#pragma unroll
        for (int i = 0; i < 8; i++)
            bits |= (unsigned)((T)(e[k].at[i] << 1) != 0) << i;
        count += __popc(bits);
        if (span[k].count > 0)
            mask[own_byte(k)] = (uint8_t)bits;
    }
    if (ones) {
        count = block_sum(count, room);
        if (threadIdx.x == 0 && count > 0)
            atomicAdd(ones, (u64)count);
    }
}

template <typename T>
static pare_status launch_nonzero(pare_backend *be, const T *x, const mask_shape &s, uint8_t *mask,
                                  u64 *ones)
{
    int64_t blocks = pare__blocks(s.size, BLOCK_BYTES);
    if (mask_is_flat(&s, x))
        PARE_LAUNCH(be, (k_mask_nonzero<T, true>), blocks, BITS_THREADS, 0, x, s, mask, ones);
    else
        PARE_LAUNCH(be, (k_mask_nonzero<T, false>), blocks, BITS_THREADS, 0, x, s, mask, ones);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_mask_nonzero(pare_backend *be, const pare_mask_nonzero_args *args)
{
    mask_shape s = mask_shape_of(args->x.shape[0], args->x.shape[1]);
    uint8_t *mask = (uint8_t *)args->mask.data;
    u64 *ones = NULL;
    if (args->count)
        PARE_TRY(pare__cuda_result(be, sizeof *ones, 0, &ones));
    PARE_BITS_TYPE(args->x.dtype, T,
                   { PARE_TRY(launch_nonzero<T>(be, (const T *)args->x.data, s, mask, ones)); });
    if (args->count)
        PARE_TRY(pare__cuda_fetch(be, args->count, ones, sizeof *ones));
    return PARE_OK;
}
