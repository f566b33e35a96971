/* cuda_embed.cu - rows of a table by number, and their gradient.
 *
 *     embedding       y[i] = w[ids[i]]
 *     embedding_grad  dw[ids[i]] += dy[i], in ascending i
 *
 * embedding: a warp a row; the least i whose id is no row of the table comes back to the host, and
 * nothing is read for it. Bytes an element: those of w and of y.
 *
 * embedding_grad: a stable radix sort of (id, i) brings the rows of each id together in ascending
 * i; then one warp an id (for 128 columns) adds them one by one, so the order of every sum is the
 * given one however often an id comes. An id outside the table is left out. Bytes an element: those
 * of dy, and 8 of each row of dw that is met; the sort takes some 40 bytes an id.
 *
 * Bound by memory. Predicted, not measured: 85 % of the copy rate for embedding; 75 % for its
 * gradient, where no id comes more than some hundred times.
 */
#include "cuda_nn.cuh"

#include "cuda_index.cuh"

#define THREADS 256
#define WARPS (THREADS / PARE_WARP)

/* ---- embedding ------------------------------------------------------------------------------- */

template <typename To, typename From> static __device__ __forceinline__ To convert(From x)
{
    return from_f32<To>(to_f32(x));
}
template <> __device__ __forceinline__ __nv_bfloat16 convert(__nv_bfloat16 x) /* NaNs too */
{
    return x;
}

/* wrong: the least i << 32 | id of the ids that are no row; W elements at a time. */
template <typename From, typename To, int W>
static __global__ void __launch_bounds__(THREADS)
    k_embedding(const int32_t *ids, const From *w, To *y, int64_t R, int64_t V, int64_t N,
                unsigned long long *wrong)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / PARE_WARP;
    int lane = threadIdx.x % PARE_WARP;
    if (i >= R)
        return;
    int32_t id = ids[i];
    if (id < 0 || id >= V) {
        if (lane == 0)
            atomicMin(wrong, (unsigned long long)i << 32 | (uint32_t)id);
        return;
    }
    const From *from = w + id * N;
    To *to = y + i * N;
#pragma unroll 4
    for (int64_t j = lane * W; j < N; j += PARE_WARP * W) {
        pack_of<From, W> p = load_pack<From, W>(from + j);
        pack_of<To, W> q;
#pragma unroll
        for (int k = 0; k < W; k++)
            q.at[k] = convert<To>(p.at[k]);
        store_pack<To, W>(to + j, q);
    }
}

template <typename From, typename To>
static pare_status gather(pare_backend *be, const pare_embedding_args *args,
                          unsigned long long *wrong)
{
    constexpr int W = 16 / (int)(sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    int64_t R = args->ids.shape[0], V = args->w.shape[0], N = args->w.shape[1];
    bool aligned = pare__aligned(args->w.data, W * sizeof(From)) &&
                   pare__aligned(args->y.data, W * sizeof(To)) && N % W == 0;
    const int32_t *ids = (const int32_t *)args->ids.data;
    const From *w = (const From *)args->w.data;
    To *y = (To *)args->y.data;
    if (aligned)
        PARE_LAUNCH(be, (k_embedding<From, To, W>), pare__blocks(R, WARPS), THREADS, 0, ids, w, y,
                    R, V, N, wrong);
    else
        PARE_LAUNCH(be, (k_embedding<From, To, 1>), pare__blocks(R, WARPS), THREADS, 0, ids, w, y,
                    R, V, N, wrong);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_embedding(pare_backend *be, const pare_embedding_args *args)
{
    unsigned long long *wrong = NULL, found = 0;
    if (args->ids.shape[0] == 0)
        return PARE_OK;
    PARE_TRY(pare__cuda_result(be, sizeof *wrong, 0xff, &wrong));
    PARE_ACT_TYPE(args->w.dtype, From, {
        PARE_ACT_TYPE(args->y.dtype, To, { PARE_TRY((gather<From, To>(be, args, wrong))); });
    });
    PARE_TRY(pare__cuda_fetch(be, &found, wrong, sizeof found));
    PARE_REQUIRE(
        found == ~0ull, PARE_ERR_ARGUMENT,
        "embedding: ids[%lld] is %d; it must be at least 0 and below %lld, the rows of the "
        "table",
        (long long)(found >> 32), (int)(int32_t)(uint32_t)found, (long long)args->w.shape[0]);
    return PARE_OK;
}

/* ---- a stable sort of (id, i) ----------------------------------------------------------------
 * Least digit first: count each digit in each tile, number the places in the order of digit then
 * tile, move each pair to its place. */

#define DIGIT 8 /* bits */
#define DIGITS (1 << DIGIT)
#define ROUNDS 8
#define TILE (THREADS * ROUNDS) /* pairs of a block */
#define SCAN_THREADS 1024
#define SCAN_EACH 8

/* Keys and places; keys are made of ids at first, V for one outside [0, V). */
typedef struct pairs {
    const int32_t *ids; /* or NULL: key and place as they stand */
    uint32_t *key, *place;
    int64_t V;
} pairs;

static __device__ __forceinline__ uint32_t key_at(const pairs &p, int64_t i)
{
    if (!p.ids)
        return p.key[i];
    return p.ids[i] >= 0 && p.ids[i] < p.V ? (uint32_t)p.ids[i] : (uint32_t)p.V;
}

static __global__ void __launch_bounds__(THREADS)
    k_embedding_grad_count(pairs p, int64_t R, int shift, uint32_t *counts)
{
    PARE_SHARED_ARRAY(unsigned, bins, DIGITS);
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int u = 0; u < ROUNDS; u++) {
        int64_t i = (int64_t)blockIdx.x * TILE + u * THREADS + threadIdx.x;
        if (i < R)
            atomicAdd(&bins[key_at(p, i) >> shift & (DIGITS - 1)], 1u);
    }
    __syncthreads();
    counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = bins[threadIdx.x];
}

/* The sum over the threads before this one; *all: over the block. room: 32 numbers. */
static __device__ uint32_t sum_before(uint32_t x, uint32_t *all, uint32_t *room)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    uint32_t sum = x, warps;
    for (int step = 1; step < PARE_WARP; step *= 2) {
        uint32_t other = __shfl_up_sync(PARE_ALL_LANES, sum, step);
        sum += lane >= step ? other : 0;
    }
    __syncthreads();
    if (lane == PARE_WARP - 1)
        room[warp] = sum;
    __syncthreads();
    warps = room[lane];
    for (int step = 1; step < PARE_WARP; step *= 2) {
        uint32_t other = __shfl_up_sync(PARE_ALL_LANES, warps, step);
        warps += lane >= step ? other : 0;
    }
    *all = __shfl_sync(PARE_ALL_LANES, warps, PARE_WARP - 1);
    uint32_t before = __shfl_sync(PARE_ALL_LANES, warps, warp > 0 ? warp - 1 : 0);
    return sum - x + (warp > 0 ? before : 0);
}

/* Each of n counts becomes the sum of those before it. One block. */
static __global__ void __launch_bounds__(SCAN_THREADS)
    k_embedding_grad_scan(uint32_t *counts, int64_t n)
{
    PARE_SHARED_ARRAY(uint32_t, room, PARE_WARP);
    uint32_t carry = 0;
    for (int64_t base = 0; base < n; base += SCAN_THREADS * SCAN_EACH) {
        int64_t first = base + threadIdx.x * SCAN_EACH;
        uint32_t count[SCAN_EACH], sum = 0, all;
        for (int k = 0; k < SCAN_EACH; k++) {
            count[k] = first + k < n ? counts[first + k] : 0;
            sum += count[k];
        }
        uint32_t before = carry + sum_before(sum, &all, room);
        for (int k = 0; k < SCAN_EACH; k++) {
            if (first + k < n)
                counts[first + k] = before;
            before += count[k];
        }
        carry += all;
    }
}

/* Lanes of the warp with the same digit as this one's. */
static __device__ __forceinline__ unsigned same_digit(unsigned digit, bool there)
{
    unsigned same = __ballot_sync(PARE_ALL_LANES, there);
    for (int bit = 0; bit < DIGIT; bit++) {
        unsigned ones = __ballot_sync(PARE_ALL_LANES, digit >> bit & 1u);
        same &= digit >> bit & 1u ? ones : ~ones;
    }
    return same;
}

static __global__ void __launch_bounds__(THREADS)
    k_embedding_grad_move(pairs from, pairs to, int64_t R, int shift, const uint32_t *starts)
{
    PARE_SHARED_ARRAY(uint32_t, start, DIGITS);          /* of each digit's next pair */
    PARE_SHARED_ARRAY(uint32_t, counts, WARPS * DIGITS); /* of this round */
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    start[threadIdx.x] = starts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x];
    for (int u = 0; u < ROUNDS; u++) {
        int64_t i = (int64_t)blockIdx.x * TILE + u * THREADS + threadIdx.x;
        bool there = i < R;
        uint32_t key = there ? key_at(from, i) : 0, digit = key >> shift & (DIGITS - 1);
        unsigned same = same_digit(digit, there), before = same & ((1u << lane) - 1u);
        for (int w = 0; w < WARPS; w++)
            counts[w * DIGITS + threadIdx.x] = 0;
        __syncthreads();
        if (there && before == 0)
            counts[warp * DIGITS + digit] = (uint32_t)__popc(same);
        __syncthreads();
        if (there) {
            uint32_t place = start[digit] + (uint32_t)__popc(before);
            for (int w = 0; w < warp; w++)
                place += counts[w * DIGITS + digit];
            to.key[place] = key;
            to.place[place] = from.ids ? (uint32_t)i : from.place[i];
        }
        __syncthreads();
        for (int w = 0; w < WARPS; w++)
            start[threadIdx.x] += counts[w * DIGITS + threadIdx.x];
    }
}

/* ---- gradient -------------------------------------------------------------------------------- */

#define AT_ONCE 8 /* rows of dy loaded before one is added */

/* Adds ROWS rows of dy, numbers `from`, … of the warp's 32 places. */
template <typename T, int W, int ROWS>
static __device__ __forceinline__ void add_rows(pack_of<float, W> *sum, const T *dy, uint32_t place,
                                                int from, int64_t N, int64_t column)
{
    pack_of<T, W> row[ROWS];
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        int64_t i = __shfl_sync(PARE_ALL_LANES, place, from + u);
        row[u] = load_pack<T, W>(dy + i * N + column);
    }
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int j = 0; j < W; j++)
            sum->at[j] += to_f32(row[u].at[j]);
}

/* A warp for each place k of the sorted pairs and each 32·W columns; it works if its key is the
 * first of its kind. A lane behind the last column does as one of the first. */
template <typename T, int W>
static __global__ void __launch_bounds__(THREADS)
    k_embedding_grad(pairs p, const T *dy, float *dw, int64_t R, int64_t N, int64_t chunks)
{
    int lane = threadIdx.x % PARE_WARP;
    int64_t k = (int64_t)blockIdx.x * WARPS + threadIdx.x / PARE_WARP;
    int64_t column = (index_cut(&k, chunks) * PARE_WARP + lane) * W;
    uint32_t key = k < R ? p.key[k] : (uint32_t)p.V;
    if (key >= p.V || (k > 0 && p.key[k - 1] == key))
        return; /* the whole warp */
    bool inside = column < N;
    column = inside ? column : 0;
    float *to = dw + key * N + column;
    pack_of<float, W> sum = load_pack<float, W>(to);
    uint32_t next_key = k + lane < R ? p.key[k + lane] : (uint32_t)p.V;
    uint32_t next_place = k + lane < R ? p.place[k + lane] : 0;
    for (int count = PARE_WARP; count == PARE_WARP;) {
        uint32_t place = next_place;
        count =
            __popc(__ballot_sync(PARE_ALL_LANES, next_key == key)); /* the first `count` lanes */
        k += PARE_WARP;
        next_key = k + lane < R ? p.key[k + lane] : (uint32_t)p.V;
        next_place = k + lane < R ? p.place[k + lane] : 0;
        int u = 0;
        for (; u + AT_ONCE <= count; u += AT_ONCE)
            add_rows<T, W, AT_ONCE>(&sum, dy, place, u, N, column);
        for (; u < count; u++)
            add_rows<T, W, 1>(&sum, dy, place, u, N, column);
    }
    if (inside)
        store_pack<float, W>(to, sum);
}

/* The sorted pairs, in scratch. */
static pare_status sort_pairs(pare_backend *be, const int32_t *ids, int64_t R, int64_t V,
                              pairs *sorted)
{
    void *memory = NULL;
    int64_t tiles = pare__blocks(R, TILE);
    PARE_TRY(pare__scratch(be, (size_t)(4 * R + DIGITS * tiles) * sizeof(uint32_t), &memory));
    uint32_t *at = (uint32_t *)memory, *counts = at + 4 * R;
    pairs from = {ids, NULL, NULL, V}, to = {NULL, at, at + R, V};
    for (int shift = 0; shift == 0 || V >> shift != 0; shift += DIGIT) {
        PARE_LAUNCH(be, k_embedding_grad_count, tiles, THREADS, 0, from, R, shift, counts);
        PARE_LAUNCH(be, k_embedding_grad_scan, (int64_t)1, SCAN_THREADS, 0, counts, DIGITS * tiles);
        PARE_LAUNCH(be, k_embedding_grad_move, tiles, THREADS, 0, from, to, R, shift, counts);
        from = to;
        to.key = from.key == at ? at + 2 * R : at;
        to.place = to.key + R;
    }
    *sorted = from;
    return PARE_OK;
}

extern "C" pare_status pare_cuda_embedding_grad(pare_backend *be,
                                                const pare_embedding_grad_args *args)
{
    int64_t R = args->ids.shape[0], V = args->dw.shape[0], N = args->dw.shape[1];
    pairs sorted;
    if (R == 0 || N == 0 || V == 0)
        return PARE_OK;
    PARE_TRY(sort_pairs(be, (const int32_t *)args->ids.data, R, V, &sorted));
    PARE_ACT_TYPE(args->dy.dtype, T, {
        constexpr int W = 4;
        const T *dy = (const T *)args->dy.data;
        float *dw = (float *)args->dw.data;
        bool aligned = pare__aligned(dy, W * sizeof(T)) && pare__aligned(dw, 16) && N % W == 0;
        int64_t chunks = pare__blocks(N, PARE_WARP * (aligned ? W : 1));
        if (aligned)
            PARE_LAUNCH(be, (k_embedding_grad<T, W>), pare__blocks(R * chunks, WARPS), THREADS, 0,
                        sorted, dy, dw, R, N, chunks);
        else
            PARE_LAUNCH(be, (k_embedding_grad<T, 1>), pare__blocks(R * chunks, WARPS), THREADS, 0,
                        sorted, dy, dw, R, N, chunks);
    });
    return PARE_OK;
}
