/* cuda_select.cu - the counting behind exact k-th selection: histograms, counts.
 *
 * A block of threads counts in shared memory: 32,768 words with two 16-bit counters each for the
 * 65,536 low bins, 16,384 words for the high ones. Bins that share a word lie half the table apart,
 * so that the neighbours that weights fill (a few hundred high bins hold nearly all of them) are in
 * different words and banks. A counter grows by no more than a chunk, 32,768 keys, between two
 * barriers, and the table is emptied into the bins when one has passed 32,767: none overflows.
 * Equal keys of a warp are added by one of its lanes where there are many of them (zeros of a
 * pruned tensor, weights that were quantised before); additions of integers have no order, so the
 * result is one. A device that cannot give a block the table adds in the bins themselves.
 *
 * 4 bytes an element are read. Memory takes some 6 cycles of a multiprocessor for 32 keys, their
 * atomics (three or four of them in one bank) about as many: close to either bound. Prediction: 75
 * % of the copy rate, 40 % if most keys are two or three values; counts 90 %. No GPU has measured
 * it yet.
 */
#include "cuda_select.cuh"

#define HIST_THREADS 1024
#define HIST_ROUNDS 8 /* loads of 4 keys; a chunk has HIST_THREADS · 4 · HIST_ROUNDS keys */
#define CHUNK (HIST_THREADS * 4 * HIST_ROUNDS)
#define FULL 0x8000u
static_assert(CHUNK <= FULL, "a counter below FULL must not overflow in one chunk");

/* The bin of a key; false if it has none. */
template <bool LOW>
static __device__ __forceinline__ bool bin_of(uint32_t key, uint32_t prefix, uint32_t *bin)
{
    *bin = LOW ? key & 0xffffu : key >> 16;
    return LOW ? key >> 16 == prefix : key != NO_KEY;
}

/* Adds the table to the bins and clears it, between two barriers. */
template <int WORDS> static __device__ void empty_table(uint32_t *table, int64_t *bins)
{
    __syncthreads();
    for (int w = threadIdx.x; w < WORDS; w += HIST_THREADS) {
        uint32_t pair = table[w];
        table[w] = 0;
        if (pair & 0xffffu)
            atomicAdd((u64 *)&bins[w], (u64)(pair & 0xffffu));
        if (pair >> 16)
            atomicAdd((u64 *)&bins[w + WORDS], (u64)(pair >> 16));
    }
    __syncthreads();
}

template <bool LOW>
static __global__ void __launch_bounds__(HIST_THREADS)
    k_select_hist(const uint32_t *x, int64_t n, bool aligned, uint32_t prefix, int64_t *bins)
{
    enum { WORDS = (LOW ? PARE_SELECT_LOW_BINS : PARE_SELECT_HIGH_BINS) / 2 };
    PARE_SHARED_DYNAMIC(uint32_t, table);
    for (int w = threadIdx.x; w < WORDS; w += HIST_THREADS)
        table[w] = 0;
    __syncthreads();
    for (int64_t at = (int64_t)blockIdx.x * CHUNK; at < n; at += (int64_t)gridDim.x * CHUNK) {
        uint32_t most = 0;
#pragma unroll
        for (int r = 0; r < HIST_ROUNDS; r += 4) {
            uint32_t keys[16];
            load_keys<4>(x, at + (r * HIST_THREADS + (int64_t)threadIdx.x) * 4, HIST_THREADS * 4, n,
                         aligned, keys);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                uint32_t bin;
                bool counts = bin_of<LOW>(keys[i], prefix, &bin);
                uint32_t times = merge_equal(counts, bin), shift = bin / WORDS * 16;
                if (times > 0) {
                    uint32_t before = atomicAdd(&table[bin % WORDS], times << shift);
                    most = max(most, (before >> shift & 0xffffu) + times);
                }
            }
        }
        if (__syncthreads_or(most >= FULL))
            empty_table<WORDS>(table, bins);
    }
    empty_table<WORDS>(table, bins);
}

/* Without a table. */
template <bool LOW>
static __global__ void k_select_hist_direct(const uint32_t *x, int64_t n, bool aligned,
                                            uint32_t prefix, int64_t *bins)
{
    for (int64_t at = (int64_t)blockIdx.x * blockDim.x * 4; at < n; at += grid_threads() * 4) {
        uint32_t keys[4];
        load_keys<1>(x, at + 4 * (int64_t)threadIdx.x, 0, n, aligned, keys);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t bin;
            bool counts = bin_of<LOW>(keys[i], prefix, &bin);
            uint32_t times = merge_equal(counts, bin);
            if (times > 0)
                atomicAdd((u64 *)&bins[bin], (u64)times);
        }
    }
}

template <bool LOW>
static pare_status launch_hist(pare_backend *be, const pare_select_hist_args *args)
{
    const uint32_t *x = (const uint32_t *)args->x.data;
    const int room = (LOW ? PARE_SELECT_LOW_BINS : PARE_SELECT_HIGH_BINS) * 2;
    int64_t n = args->x.shape[0], *bins = (int64_t *)args->bins.data;
    bool aligned = pare__aligned(x, 16);
    uint32_t prefix = (uint32_t)args->prefix;
    int64_t most = pare__cuda_of(be)->multiprocessors, blocks = pare__blocks(n, CHUNK);
    blocks = blocks < most ? blocks : most; /* one each: 64 KiB of loads are under way */
    if (pare__cuda_of(be)->shared_optin >= room)
        PARE_LAUNCH(be, (k_select_hist<LOW>), blocks, HIST_THREADS, room, x, n, aligned, prefix,
                    bins);
    else
        PARE_LAUNCH(be, (k_select_hist_direct<LOW>), pare__grid(be, n, 1024), 256, 0, x, n, aligned,
                    prefix, bins);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_select_hist(pare_backend *be, const pare_select_hist_args *args)
{
    if (args->prefix < 0)
        PARE_TRY(launch_hist<false>(be, args));
    else
        PARE_TRY(launch_hist<true>(be, args));
    return PARE_OK;
}

/* ---- count ----------------------------------------------------------------------------------- */

#define COUNT_THREADS 256
#define COUNT_EACH 4 /* loads of 4 keys under way */

static __global__ void k_select_count(const uint32_t *x, int64_t n, bool aligned,
                                      uint32_t threshold, u64 *counts)
{
    PARE_SHARED_ARRAY(u64, room, 32);
    u64 below = 0, equal = 0;
    for (int64_t at = grid_thread(); at * 4 < n; at += COUNT_EACH * grid_threads()) {
        uint32_t keys[4 * COUNT_EACH], less = 0, same = 0;
        load_keys<COUNT_EACH>(x, at * 4, grid_threads() * 4, n, aligned, keys);
#pragma unroll
        for (int i = 0; i < 4 * COUNT_EACH; i++) {
            less += keys[i] < threshold;
            same += keys[i] == threshold;
        }
        below += less;
        equal += same;
    }
    below = block_sum(below, room);
    equal = block_sum(equal, room);
    if (threadIdx.x == 0 && below)
        atomicAdd(&counts[0], below);
    if (threadIdx.x == 0 && equal)
        atomicAdd(&counts[1], equal);
}

extern "C" pare_status pare_cuda_select_count(pare_backend *be, const pare_select_count_args *args)
{
    const uint32_t *x = (const uint32_t *)args->x.data;
    int64_t n = args->x.shape[0], here[2];
    u64 *counts = NULL;
    /* Above every key, and not what stands behind the end. */
    uint32_t threshold = args->threshold > KEY_MASK ? KEY_MASK + 1 : args->threshold;
    PARE_TRY(pare__cuda_result(be, sizeof here, 0, &counts));
    PARE_LAUNCH(be, k_select_count, pare__grid(be, n, COUNT_THREADS * 4 * COUNT_EACH),
                COUNT_THREADS, 0, x, n, pare__aligned(x, 16), threshold, counts);
    PARE_TRY(pare__cuda_fetch(be, here, counts, sizeof here));
    *args->below = here[0];
    *args->equal = here[1];
    return PARE_OK;
}
