/* cuda_mask_rows.cu - in every row the elements of lowest key go (Wanda).
 *
 * A block of threads takes a row. The key of rank `prune` is found digit by digit (11, 10 and 10
 * bits): a histogram in shared memory of the keys that share the digits so far, running sums over
 * its bins, the bin that the rank falls into. Then each thread makes bytes of the mask; where only
 * some of the keys at the threshold go, running sums tell which: those of lower index.
 *
 * The row is read four times, from the second on out of the first cache (a row of 4,096 keys has 16
 * KiB). Bound by the histogram's atomics: keys of floats share few exponents, so the first digit
 * takes three bits of the fraction with it, and lanes that count the same bin merge. Prediction
 * for 4096 × 4096 on an H200: 60 to 90 µs, where reading once takes 16. No GPU has measured it yet.
 */
#include "cuda_select.cuh"

#define ROW_THREADS 256
#define MOST_BINS 2048
#define BINS_EACH (MOST_BINS / ROW_THREADS)

typedef struct row_state {
    uint32_t prefix; /* digits found, in place */
    uint32_t rank;   /* of the key wanted, among those that share them */
} row_state;

/* Counts the digit (bits shift … shift + bits − 1) of the row's keys that share the prefix. All
 * threads of the block. */
static __device__ __forceinline__ void count_digit(const uint32_t *row, int64_t cols, bool aligned,
                                                   uint32_t prefix, int shift, int bits,
                                                   uint32_t *bins)
{
    for (int i = threadIdx.x; i < MOST_BINS; i += ROW_THREADS)
        bins[i] = 0;
    __syncthreads();
    for (int64_t at = 0; at < cols; at += 4 * ROW_THREADS) {
        uint32_t keys[4];
        load_keys<1>(row, at + 4 * threadIdx.x, 0, cols, aligned, keys);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bool counts =
                keys[i] != NO_KEY && keys[i] >> (shift + bits) == prefix >> (shift + bits);
            uint32_t bin = keys[i] >> shift & ((1u << bits) - 1);
            uint32_t times = merge_equal(counts, bin);
            if (times > 0)
                atomicAdd(&bins[bin], times);
        }
    }
    __syncthreads();
}

/* The bin that the rank falls into becomes the prefix's next digit. */
static __device__ __forceinline__ void find_digit(const uint32_t *bins, int shift, uint32_t *room,
                                                  row_state *state)
{
    uint32_t own = 0, total, rank = state->rank, first = threadIdx.x * BINS_EACH;
    for (int i = 0; i < BINS_EACH; i++)
        own += bins[first + i];
    uint32_t before = block_sum_before(own, room, &total);
    __syncthreads(); /* every thread has read the rank */
    if (rank >= before && rank < before + own) {
        uint32_t bin = first;
        for (; rank - before >= bins[bin]; bin++)
            before += bins[bin];
        state->prefix |= bin << shift;
        state->rank = rank - before;
    }
    __syncthreads();
}

/* The first `some` ones of eight bits. */
static __device__ __forceinline__ unsigned first_ones(unsigned bits, int64_t some)
{
    unsigned taken = 0;
    for (; some > 0 && bits; some--) {
        taken |= bits & (~bits + 1);
        bits &= bits - 1;
    }
    return taken;
}

/* A row's mask; `ties` of the keys at the threshold go. All threads of the block. */
static __device__ __forceinline__ void write_row(const uint32_t *row, int64_t cols,
                                                 uint32_t threshold, int64_t ties, uint32_t *room,
                                                 uint8_t *mask)
{
    int64_t width = cols / 8 + (cols % 8 != 0);
    for (int64_t start = 0; start < width; start += ROW_THREADS) {
        int64_t byte = start + threadIdx.x;
        unsigned above = 0, equal = 0;
        for (int i = 0; i < 8; i++) {
            int64_t c = 8 * byte + i;
            uint32_t key = c < cols ? row[c] & KEY_MASK : 0;
            above |= (unsigned)(c < cols && key > threshold) << i;
            equal |= (unsigned)(c < cols && key == threshold) << i;
        }
        uint32_t count = (uint32_t)__popc(equal), total;
        uint32_t before = block_sum_before(count, room, &total);
        if (byte < width)
            mask[byte] = (uint8_t)(above | (equal & ~first_ones(equal, ties - before)));
        ties -= total;
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    k_mask_rows(const uint32_t *x, int64_t cols, bool aligned, int64_t prune, uint8_t *mask)
{
    PARE_SHARED_ARRAY(uint32_t, bins, MOST_BINS);
    PARE_SHARED_ARRAY(uint32_t, room, PARE_WARP);
    PARE_SHARED(row_state, state);
    const uint32_t *row = x + (int64_t)blockIdx.x * cols;
    int64_t width = cols / 8 + (cols % 8 != 0);
    if (threadIdx.x == 0)
        state = row_state{0, (uint32_t)prune};
    __syncthreads();
    const int shifts[] = {20, 10, 0};
#pragma unroll
    for (int pass = 0; pass < 3; pass++) {
        count_digit(row, cols, aligned, state.prefix, shifts[pass], pass == 0 ? 11 : 10, bins);
        find_digit(bins, shifts[pass], room, &state);
    }
    write_row(row, cols, state.prefix, state.rank, room, mask + (int64_t)blockIdx.x * width);
}

extern "C" pare_status pare_cuda_mask_rows(pare_backend *be, const pare_mask_rows_args *args)
{
    int64_t rows = args->x.shape[0], cols = args->x.shape[1];
    const uint32_t *x = (const uint32_t *)args->x.data;
    uint8_t *mask = (uint8_t *)args->mask.data;
    if (cols == 0)
        return PARE_OK;
    PARE_REQUIRE(cols <= UINT32_MAX / 2, PARE_ERR_UNSUPPORTED,
                 "mask_rows: rows of %lld elements are more than a device counts", (long long)cols);
    if (args->prune == cols)
        return pare_backend_clear(be, mask, pare_tensor_count(&args->mask));
    PARE_LAUNCH(be, k_mask_rows, rows, ROW_THREADS, 0, x, cols,
                cols % 4 == 0 && pare__aligned(x, 16), args->prune, mask);
    return PARE_OK;
}
