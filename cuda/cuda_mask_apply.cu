/* cuda_mask_apply.cu - masks at work: zeroing, compacting, scattering.
 *
 * Zeroing: a thread has a byte of the mask and its eight elements, which it reads only where some
 * of them stay and writes only where some of them go. Bound by memory: 1/8 + up to 2·size(x) bytes
 * an element.
 *
 * Compacting and scattering go in tiles of 8,192 elements: a pass over the mask counts each tile's
 * ones, running sums (cuda_scan.cu) say where a tile's values begin, and the host compares their
 * number before anything is written. Then a warp has 32 words of the mask, one a lane, knows from a
 * sum over the lanes where each word's values begin, and goes through them word by word: a lane an
 * element, whose place among the values is the number of ones below its own bit; so both sides are
 * accesses of neighbouring lanes to neighbouring elements. Bound by memory: 2/8 + size(x) bytes an
 * element + size(x) bytes a value. The rows' counts are one more pass over the mask.
 *
 * Prediction: 90 % of the copy rate for zeroing, 80 % for the others at half density (their wait
 * for the count, some 10 us, apart). No GPU has measured it yet.
 */
#include "cuda_bits.cuh"
#include "cuda_scan.h"

typedef unsigned long long u64;

/* ---- apply ----------------------------------------------------------------------------------- */

#define EACH 2

template <typename T, bool FLAT>
static __global__ void k_mask_apply(T *x, mask_shape s, const uint8_t *mask)
{
    byte_span span[EACH];
    unsigned bits[EACH];
    eight_of<T> e[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int64_t byte = ((int64_t)blockIdx.x * EACH + k) * BITS_THREADS + threadIdx.x;
        span[k] = span_of_byte<FLAT>(s, byte);
        bits[k] = span[k].count > 0 ? mask[byte] & span_bits(span[k]) : 0;
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        byte_span stay = span[k];
        if (bits[k] == 0 || bits[k] == span_bits(span[k])) /* nothing of it has to be known */
            stay.count = 0;
        e[k] = load_span<FLAT>(x, stay);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        if (bits[k] == span_bits(span[k]))
            continue;
#pragma unroll
        for (int i = 0; i < 8; i++)
            e[k].at[i] = bits[k] >> i & 1 ? e[k].at[i] : T(0);
        if constexpr (FLAT) { /* eight of them: what has none has no zero either */
            store_eight(x + span[k].first, e[k]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (i < span[k].count)
                    x[span[k].first + i] = e[k].at[i];
        }
    }
}

template <typename T>
static pare_status launch_apply(pare_backend *be, T *x, const mask_shape &s, const uint8_t *mask)
{
    int64_t blocks = pare__blocks(s.size, BITS_THREADS * EACH);
    if (mask_is_flat(&s, x))
        PARE_LAUNCH(be, (k_mask_apply<T, true>), blocks, BITS_THREADS, 0, x, s, mask);
    else
        PARE_LAUNCH(be, (k_mask_apply<T, false>), blocks, BITS_THREADS, 0, x, s, mask);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_mask_apply(pare_backend *be, const pare_mask_apply_args *args)
{
    mask_shape s = mask_shape_of(args->x.shape[0], args->x.shape[1]);
    PARE_BITS_TYPE(args->x.dtype, T, {
        PARE_TRY(launch_apply<T>(be, (T *)args->x.data, s, (const uint8_t *)args->mask.data));
    });
    return PARE_OK;
}

/* ---- words of a mask ------------------------------------------------------------------------- */

#define WARPS (BITS_THREADS / PARE_WARP)

/* The mask in words of 32 columns, row by row, a tile's words to a block. */
typedef struct word_shape {
    mask_shape s;
    int64_t words, size; /* of a row, of the mask */
    bool whole;          /* words may be read as such */
} word_shape;

static word_shape word_shape_of(const pare_tensor *x, const void *mask)
{
    mask_shape s = mask_shape_of(x->shape[0], x->shape[1]);
    int64_t words = pare__blocks(s.cols, 32);
    return word_shape{s, words, s.rows * words,
                      (s.rows == 1 || s.width % 4 == 0) && pare__aligned(mask, 4)};
}

/* A word: its ones, without what is behind the row's end; its first element; its row; whether bits
 * are set behind the end. */
typedef struct mask_word {
    uint32_t ones;
    int64_t first, row;
    bool padded;
} mask_word;

static __device__ __forceinline__ mask_word load_word(const uint8_t *mask, const word_shape &w,
                                                      int64_t i)
{
    mask_word word = {0, 0, 0, false};
    if (i >= w.size)
        return word;
    word.row = quotient(i, w.words);
    int64_t col = (i - word.row * w.words) * 32, left = w.s.cols - col;
    const uint8_t *from = mask + word.row * w.s.width + col / 8;
    if (w.whole && left >= 32)
        word.ones = *(const uint32_t *)from;
    else
        for (int b = 0; b < 4 && 8 * b < left; b++)
            word.ones |= (uint32_t)from[b] << 8 * b;
    uint32_t inside = left < 32 ? (1u << left) - 1 : UINT32_MAX;
    word.padded = (word.ones & ~inside) != 0;
    word.ones &= inside;
    word.first = word.row * w.s.cols + col;
    return word;
}

/* Ones of each tile; *padded: ~row of the first with bits behind its end, 0: none. */
static __global__ void k_mask_count(const uint8_t *mask, word_shape w, int64_t *tiles, u64 *padded)
{
    PARE_SHARED_ARRAY(int, room, 32);
    mask_word word = load_word(mask, w, grid_thread());
    int ones = block_sum((int)__popc(word.ones), room);
    if (word.padded)
        atomicMax(padded, ~(u64)word.row);
    if (threadIdx.x == 0)
        tiles[blockIdx.x] = ones;
}

/* Where the tiles' values begin, in scratch; how many there are; the first row with padding bits
 * set, or -1. */
static pare_status count_ones(pare_backend *be, const uint8_t *mask, const word_shape &w,
                              int64_t **starts, int64_t *ones, int64_t *padded)
{
    int64_t tiles = pare__blocks(w.size, BITS_THREADS);
    void *scratch = NULL;
    u64 *there = NULL, first;
    PARE_TRY(pare__scratch(be, (size_t)(tiles + 1) * sizeof(int64_t), &scratch));
    PARE_TRY(pare__cuda_result(be, sizeof first, 0, &there));
    *starts = (int64_t *)scratch;
    PARE_LAUNCH(be, k_mask_count, tiles, BITS_THREADS, 0, mask, w, *starts, there);
    PARE_TRY(pare__cuda_scan(be, *starts, tiles));
    PARE_TRY(pare__cuda_fetch(be, &first, there, sizeof first));
    PARE_TRY(pare__cuda_fetch(be, ones, *starts + tiles, sizeof *ones));
    *padded = first ? (int64_t)~first : -1;
    return PARE_OK;
}

/* Where the values of this thread's word begin; all threads of the block call. */
static __device__ __forceinline__ int64_t start_of_word(const mask_word &word,
                                                        const int64_t *starts, int *room)
{
    int total;
    return starts[blockIdx.x] + block_sum_before((int)__popc(word.ones), room, &total);
}

/* What lane `from` of the warp has. */
typedef struct warp_word {
    uint32_t ones;
    int64_t first, start;
} warp_word;

static __device__ __forceinline__ warp_word word_of(const mask_word &word, int64_t start, int from)
{
    return {__shfl_sync(PARE_ALL_LANES, word.ones, from),
            __shfl_sync(PARE_ALL_LANES, word.first, from),
            __shfl_sync(PARE_ALL_LANES, start, from)};
}

#define WORDS_EACH 8 /* words a warp has under way */

/* ---- compact --------------------------------------------------------------------------------- */

template <typename T>
static __global__ void k_mask_compact(const T *x, const uint8_t *mask, word_shape w,
                                      const int64_t *starts, T *values)
{
    PARE_SHARED_ARRAY(int, room, 32);
    mask_word own = load_word(mask, w, grid_thread());
    int64_t start = start_of_word(own, starts, room);
    unsigned lane = threadIdx.x % PARE_WARP, below = (1u << lane) - 1;
    for (int at = 0; at < PARE_WARP; at += WORDS_EACH) {
        warp_word word[WORDS_EACH];
        T value[WORDS_EACH];
#pragma unroll
        for (int k = 0; k < WORDS_EACH; k++) {
            word[k] = word_of(own, start, at + k);
            value[k] = word[k].ones >> lane & 1 ? x[word[k].first + lane] : T(0);
        }
#pragma unroll
        for (int k = 0; k < WORDS_EACH; k++)
            if (word[k].ones >> lane & 1)
                values[word[k].start + __popc(word[k].ones & below)] = value[k];
    }
}

/* A warp a row. */
static __global__ void k_mask_row_counts(const uint8_t *mask, int64_t rows, int64_t cols,
                                         bool whole, int64_t *counts)
{
    int64_t row = grid_thread() / PARE_WARP, width = (cols + 7) / 8, ones = 0;
    int lane = threadIdx.x % PARE_WARP;
    if (row < rows) {
        const uint8_t *from = mask + row * width; /* padding is clear: count_ones() saw to it */
        if (whole)
            for (int64_t i = 4 * lane; i < width; i += 4 * PARE_WARP)
                ones += __popc(*(const uint32_t *)(from + i));
        else
            for (int64_t i = lane; i < width; i += PARE_WARP)
                ones += __popc(from[i]);
    }
    ones = warp_sum(ones);
    if (lane == 0 && row < rows)
        counts[row] = ones;
}

extern "C" pare_status pare_cuda_mask_compact(pare_backend *be, const pare_mask_compact_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1], ones, padded, *starts;
    const uint8_t *mask = (const uint8_t *)args->mask.data;
    int64_t *counts = (int64_t *)args->row_counts.data;
    word_shape w = word_shape_of(&args->x, mask);
    PARE_TRY(count_ones(be, mask, w, &starts, &ones, &padded));
    PARE_REQUIRE(padded < 0, PARE_ERR_ARGUMENT,
                 "mask_compact: row %lld of the mask has bits set behind its %lld columns",
                 (long long)padded, (long long)C);
    PARE_REQUIRE(ones == args->values.shape[0], PARE_ERR_ARGUMENT,
                 "mask_compact: values is [%lld]; the mask has %lld ones",
                 (long long)args->values.shape[0], (long long)ones);
    PARE_BITS_TYPE(args->x.dtype, T, {
        PARE_LAUNCH(be, (k_mask_compact<T>), pare__blocks(w.size, BITS_THREADS), BITS_THREADS, 0,
                    (const T *)args->x.data, mask, w, starts, (T *)args->values.data);
    });
    if (counts)
        PARE_LAUNCH(be, k_mask_row_counts, pare__blocks(R, WARPS), BITS_THREADS, 0, mask, R, C,
                    C % 32 == 0 && pare__aligned(mask, 4), counts);
    return PARE_OK;
}

/* ---- scatter --------------------------------------------------------------------------------- */

template <typename T>
static __global__ void k_mask_scatter(const T *values, const uint8_t *mask, word_shape w,
                                      const int64_t *starts, T *x)
{
    PARE_SHARED_ARRAY(int, room, 32);
    int64_t i = grid_thread();
    mask_word own = load_word(mask, w, i);
    int64_t start = start_of_word(own, starts, room);
    int64_t col = own.first - own.row * w.s.cols, left = i < w.size ? w.s.cols - col : 0;
    int count = (int)min((int64_t)32, left); /* columns of this thread's word */
    unsigned lane = threadIdx.x % PARE_WARP, below = (1u << lane) - 1;
    for (int at = 0; at < PARE_WARP; at += WORDS_EACH) {
        warp_word word[WORDS_EACH];
        T value[WORDS_EACH];
#pragma unroll
        for (int k = 0; k < WORDS_EACH; k++) {
            word[k] = word_of(own, start, at + k);
            value[k] = word[k].ones >> lane & 1
                           ? values[word[k].start + __popc(word[k].ones & below)]
                           : T(0);
        }
#pragma unroll
        for (int k = 0; k < WORDS_EACH; k++)
            if ((int)lane < __shfl_sync(PARE_ALL_LANES, count, at + k))
                x[word[k].first + lane] = value[k];
    }
}

extern "C" pare_status pare_cuda_mask_scatter(pare_backend *be, const pare_mask_scatter_args *args)
{
    const uint8_t *mask = (const uint8_t *)args->mask.data;
    word_shape w = word_shape_of(&args->x, mask);
    int64_t ones, padded, *starts;
    PARE_TRY(count_ones(be, mask, w, &starts, &ones, &padded));
    PARE_REQUIRE(padded < 0, PARE_ERR_DAMAGED,
                 "row %lld of a sparse tensor's bitmask has bits set behind its %lld columns",
                 (long long)padded, (long long)args->x.shape[1]);
    PARE_REQUIRE(ones == args->values.shape[0], PARE_ERR_DAMAGED,
                 "a sparse tensor has %lld values but %lld ones in its bitmask",
                 (long long)args->values.shape[0], (long long)ones);
    PARE_BITS_TYPE(args->x.dtype, T, {
        PARE_LAUNCH(be, (k_mask_scatter<T>), pare__blocks(w.size, BITS_THREADS), BITS_THREADS, 0,
                    (const T *)args->values.data, mask, w, starts, (T *)args->x.data);
    });
    return PARE_OK;
}
