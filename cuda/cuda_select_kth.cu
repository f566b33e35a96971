/* cuda_select_kth.cu - the k-th smallest key of a tensor, in one read and a fraction.
 *
 * 1. A block sorts a sample of 8,192 keys, taken at equal distances, and takes the two that lie
 *    four standard deviations of a random sample's rank below and above k's place: lo, hi.
 * 2. One read of all keys counts those below lo, at lo, at hi, and collects those between, some 4 %
 *    (at most an eighth, in scratch; a tile of 8,192 asks for its room with one atomic; their order
 *    does not matter). A key that is there very often can only be lo or hi: were it between them,
 *    the sample would show it.
 * 3. The counts say where the k-th is: at lo or hi, and then it is found, or among the collected;
 *    or, where the sample was misleading, among all. A radix select finds it there: three
 *    histograms of 2,048 bins, each of the bin that the one before has found.
 *
 * Every kernel's last block (the one that sees all others done) takes the step to the next, so that
 * the host waits once. The counts are exact and integers: the result does not depend on the sample
 * nor on the order of the blocks.
 *
 * Bound by memory: 4 bytes a key in step 2, 5 · 0.04 · 4 in the rest, mostly in the L2 cache, and
 * five launches. Prediction: 256 MiB in 1.5 times a read at the copy rate; 4 reads where the sample
 * misleads. No GPU has measured it yet.
 */
#include "cuda_select.cuh"

#include <math.h>

#define SAMPLE 8192
#define SORT_THREADS 1024
#define GATHER_THREADS 256
#define GATHER_EACH 8 /* loads of 4 keys */
#define GATHER_TILE (GATHER_THREADS * 4 * GATHER_EACH)
#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)
#define PASSES 3 /* of 11 bits: a key has 31 */
#define HIST_THREADS 1024
#define HIST_EACH 4 /* loads of 4 keys */

typedef struct kth_answer {
    int64_t under, equal; /* keys below the threshold, at it */
    uint32_t threshold;
    bool found;
} kth_answer;

typedef struct kth {
    kth_answer answer;
    u64 below, at_lo, between, at_hi; /* of step 2 */
    uint32_t lo, hi;
    unsigned arrived[1 + PASSES]; /* blocks that are done, of each kernel */

    /* The search: the wanted key is number `rank` (from 1 on) of those of source that are from
     * `least` on; `under` of all keys are below these. */
    const uint32_t *source;
    int64_t count, rank, under;
    uint32_t least;
    int bits; /* it is less than 2^bits above least */
    u64 bins[PASSES][DIGITS];
} kth;
static_assert(sizeof(kth) <= PARE_CUDA_RESULT, "the search lives where small results do");

static __device__ void find(kth *state, uint32_t threshold, int64_t under, int64_t equal)
{
    state->answer.under = under;
    state->answer.equal = equal;
    state->answer.threshold = threshold;
    state->answer.found = true;
}

/* Whether all other blocks have come here too; they do not wait. All threads call. */
static __device__ __forceinline__ bool is_last_block(unsigned *arrived)
{
    __threadfence();
    __syncthreads();
    return __syncthreads_or(threadIdx.x == 0 && atomicAdd(arrived, 1u) == gridDim.x - 1) != 0;
}

/* ---- the sample ------------------------------------------------------------------------------ */

/* Bitonic; size: a power of two. */
static __device__ void sort_keys(uint32_t *keys, int size)
{
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < size / 2; i += SORT_THREADS) {
                int a = 2 * i - (i & (step - 1)), b = a + step;
                uint32_t x = keys[a], y = keys[b];
                bool ascending = (a & run) == 0;
                if ((x > y) == ascending) {
                    keys[a] = y;
                    keys[b] = x;
                }
            }
            __syncthreads();
        }
}

/* How many of the sorted keys are below x. */
static __device__ int count_below(const uint32_t *keys, int size, uint32_t x)
{
    int from = 0;
    for (int to = size; from < to;) {
        int middle = (from + to) / 2;
        if (keys[middle] < x)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

/* One block. A tensor that is no larger than the sample is done with. */
static __global__ void k_kth_sample(const uint32_t *x, int64_t n, int64_t k, kth *state)
{
    PARE_SHARED_ARRAY(uint32_t, keys, SAMPLE);
    int taken = (int)min(n, (int64_t)SAMPLE), size = 1;
    while (size < taken)
        size *= 2;
    for (int i = threadIdx.x; i < size; i += SORT_THREADS)
        keys[i] = i < taken ? x[i * n / taken] & KEY_MASK : UINT32_MAX;
    __syncthreads();
    sort_keys(keys, size);
    if (threadIdx.x == 0 && taken == n) {
        int below = count_below(keys, taken, keys[k - 1]);
        find(state, keys[k - 1], below, count_below(keys, taken, keys[k - 1] + 1) - below);
    } else if (threadIdx.x == 0) {
        int place = (int)((k - 1) * SAMPLE / n);
        float spread = sqrtf((float)place * (float)(SAMPLE - place) / (float)SAMPLE);
        int margin = 4 + (int)(4.0f * spread);
        state->lo = place >= margin ? keys[place - margin] : 0;
        state->hi = place + margin < SAMPLE ? keys[place + margin] : KEY_MASK;
    }
}

/* ---- the read -------------------------------------------------------------------------------- */

/* What the counts say; one thread. */
static __device__ void locate(kth *state, const uint32_t *x, int64_t n, int64_t k,
                              const uint32_t *room, int64_t capacity)
{
    int64_t below = (int64_t)__ldcg(&state->below), at_lo = (int64_t)__ldcg(&state->at_lo);
    int64_t between = (int64_t)__ldcg(&state->between), at_hi = (int64_t)__ldcg(&state->at_hi);
    int64_t above_lo = k - below - at_lo; /* its number among those above lo */
    if (k > below && above_lo <= 0) {
        find(state, state->lo, below, at_lo);
    } else if (above_lo > between && above_lo <= between + at_hi && state->hi > state->lo) {
        find(state, state->hi, below + at_lo + between, at_hi);
    } else if (above_lo > 0 && above_lo <= between && between <= capacity) {
        state->source = room;
        state->count = between;
        state->rank = above_lo;
        state->under = below + at_lo;
        state->least = state->lo + 1;
        state->bits = 32 - __clz((int)(state->hi - 1 - state->least));
    } else { /* the sample was misleading */
        state->source = x;
        state->count = n;
        state->rank = k;
        state->under = 0;
        state->least = 0;
        state->bits = 31;
    }
}

static __global__ void __launch_bounds__(GATHER_THREADS)
    k_kth_gather(const uint32_t *x, int64_t n, int64_t k, bool aligned, kth *state, uint32_t *room,
                 int64_t capacity)
{
    PARE_SHARED_ARRAY(int, sums, 32);
    PARE_SHARED_ARRAY(u64, all, 32);
    PARE_SHARED(int64_t, start);
    const uint32_t lo = state->lo, width = state->hi - lo, inner = width > 0 ? width - 1 : 0;
    u64 below = 0, at_lo = 0, at_hi = 0;
    for (int64_t tile = (int64_t)blockIdx.x * GATHER_TILE; tile < n;
         tile += (int64_t)gridDim.x * GATHER_TILE) {
        uint32_t keys[4 * GATHER_EACH], less = 0, first = 0, last = 0;
        int inside = 0, total;
        load_keys<GATHER_EACH>(x, tile + (int64_t)threadIdx.x * 4, GATHER_THREADS * 4, n, aligned,
                               keys);
#pragma unroll
        for (int i = 0; i < 4 * GATHER_EACH; i++) {
            uint32_t key = keys[i], above = key - lo;
            less += key < lo;
            first += above == 0;
            last += above == width;
            inside += above - 1 < inner; /* behind the end: above is 2^31 and more */
        }
        below += less;
        at_lo += first;
        at_hi += last;
        int64_t at = block_sum_before(inside, sums, &total);
        if (threadIdx.x == 0 && total > 0)
            start = (int64_t)atomicAdd(&state->between, (u64)total);
        __syncthreads();
        if (inside > 0) {
            at += start;
#pragma unroll
            for (int i = 0; i < 4 * GATHER_EACH; i++)
                if (keys[i] - lo - 1 < inner && at++ < capacity)
                    room[at - 1] = keys[i];
        }
    }
    below = block_sum(below, all);
    at_lo = block_sum(at_lo, all);
    at_hi = block_sum(at_hi, all);
    if (threadIdx.x == 0) {
        atomicAdd(&state->below, below);
        atomicAdd(&state->at_lo, at_lo);
        atomicAdd(&state->at_hi, at_hi);
    }
    if (is_last_block(&state->arrived[0]) && threadIdx.x == 0)
        locate(state, x, n, k, room, capacity);
}

/* ---- the search ------------------------------------------------------------------------------ */

/* Takes the digit in which the wanted key lies. All threads of the block. */
static __device__ void take_digit(kth *state, const u64 *bins, int shift, u64 *sums)
{
    enum { OWN = DIGITS / HIST_THREADS };
    u64 count[OWN], own = 0, total, rank = (u64)state->rank;
    int first = (int)threadIdx.x * OWN;
    for (int i = 0; i < OWN; i++) {
        count[i] = __ldcg(&bins[first + i]);
        own += count[i];
    }
    u64 before = block_sum_before(own, sums, &total);
    for (int i = 0; i < OWN; i++) { /* one digit of all holds it */
        if (before < rank && rank <= before + count[i]) {
            state->rank = (int64_t)(rank - before);
            state->under += (int64_t)before;
            state->least += (uint32_t)(first + i) << shift;
            state->bits = shift;
            if (shift == 0)
                find(state, state->least, state->under, (int64_t)count[i]);
        }
        before += count[i];
    }
}

static __global__ void __launch_bounds__(HIST_THREADS) k_kth_hist(kth *state, int pass)
{
    PARE_SHARED_ARRAY(uint32_t, table, DIGITS);
    PARE_SHARED_ARRAY(u64, sums, 32);
    if (!state->answer
             .found) { /* the same for all blocks: only the last one changes it, in the end */
        const uint32_t *source = state->source, least = state->least;
        const int64_t n = state->count;
        const int shift = state->bits > DIGIT_BITS ? state->bits - DIGIT_BITS : 0;
        const bool aligned = (uintptr_t)source % 16 == 0;
        for (int i = threadIdx.x; i < DIGITS; i += HIST_THREADS)
            table[i] = 0;
        __syncthreads();
        for (int64_t at = (int64_t)blockIdx.x * HIST_THREADS; at * 4 < n;
             at += HIST_EACH * grid_threads()) {
            uint32_t keys[4 * HIST_EACH];
            load_keys<HIST_EACH>(source, (at + threadIdx.x) * 4, grid_threads() * 4, n, aligned,
                                 keys);
#pragma unroll
            for (int i = 0; i < 4 * HIST_EACH; i++) {
                uint32_t key = keys[i], digit = (key - least) >> shift;
                uint32_t times = merge_equal(key >= least && digit < DIGITS, digit);
                if (times > 0)
                    atomicAdd(&table[digit], times);
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < DIGITS; i += HIST_THREADS)
            if (table[i] > 0)
                atomicAdd(&state->bins[pass][i], (u64)table[i]);
        if (is_last_block(&state->arrived[1 + pass]))
            take_digit(state, state->bins[pass], shift, sums);
    }
}

extern "C" pare_status pare_cuda_select_kth(pare_backend *be, const pare_select_kth_args *args)
{
    const uint32_t *x = (const uint32_t *)args->x.data;
    int64_t n = args->x.shape[0], k = args->k, capacity = n / 8 + SAMPLE;
    int64_t resident = pare__cuda_of(be)->multiprocessors * (int64_t)(2048 / HIST_THREADS);
    int64_t tiles = pare__blocks(n, GATHER_TILE);
    int64_t pieces = pare__blocks(n, HIST_THREADS * 4 * HIST_EACH);
    kth *state = NULL;
    kth_answer answer;
    void *room = NULL;
    PARE_TRY(pare__cuda_result(be, sizeof *state, 0, &state));
    PARE_LAUNCH(be, k_kth_sample, 1, SORT_THREADS, 0, x, n, k, state);
    if (n > SAMPLE) {
        PARE_TRY(pare__scratch(be, (size_t)capacity * sizeof *x, &room));
        PARE_LAUNCH(be, k_kth_gather, tiles < 4 * resident ? tiles : 4 * resident, GATHER_THREADS,
                    0, x, n, k, pare__aligned(x, 16), state, (uint32_t *)room, capacity);
        for (int pass = 0; pass < PASSES; pass++)
            PARE_LAUNCH(be, k_kth_hist, pieces < resident ? pieces : resident, HIST_THREADS, 0,
                        state, pass);
    }
    PARE_TRY(pare__cuda_fetch(be, &answer, &state->answer, sizeof answer));
    *args->threshold = answer.threshold;
    *args->below = answer.under;
    *args->equal = answer.equal;
    return PARE_OK;
}
