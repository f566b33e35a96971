/* cuda_elementwise.cu - conversion between F32, F16 and BF16, and keys of scores.
 *
 * A cast works on bits, because it promises a NaN's payload: a number goes through the hardware's
 * conversion, a NaN past it. Keys are the same kernel, its result without the sign. Bound by
 * memory: size(x) + size(y) bytes an element, in accesses of 16 bytes of the wider side;
 * prediction: 90 % of the copy rate (random keys: 4 bytes an element and three 64-bit products
 * each, which takes as long as the store; 60 %). No GPU has measured it yet.
 *
 * Keys of blocks are lane sums: half a warp has the sixteen lanes, and sixteen loads each under
 * way. A large block gets a whole block of threads, which bring tiles to shared memory while the
 * sixteen lanes add the tile before: a chain of dependent additions, 4 cycles to 16 elements, as
 * the order of the sum wants it. Prediction: 80 % of the copy rate for blocks of up to 64 × 64 and
 * where a few hundred larger ones are there, less where they are fewer.
 */
#include "cuda_bits.cuh"
#include "cuda_each.cuh"

/* ---- cast and keys --------------------------------------------------------------------------- */

/* The bits as f32, a NaN made quiet. */
template <typename T> static __device__ __forceinline__ uint32_t widen(bits_of<T> u);
template <> __device__ __forceinline__ uint32_t widen<float>(uint32_t u)
{
    return u;
}
template <> __device__ __forceinline__ uint32_t widen<__nv_bfloat16>(uint16_t u)
{
    return (uint32_t)u << 16 | ((u & 0x7fffu) > 0x7f80u ? 0x400000u : 0u);
}
template <> __device__ __forceinline__ uint32_t widen<__half>(uint16_t u)
{
    if ((u & 0x7fffu) > 0x7c00u)
        return (uint32_t)(u & 0x8000u) << 16 | 0x7fc00000u | (u & 0x3ffu) << 13;
    return __float_as_uint(__half2float(__ushort_as_half(u)));
}

/* The f32 of these bits, rounded. */
template <typename T> static __device__ __forceinline__ bits_of<T> narrow(uint32_t u);
template <> __device__ __forceinline__ uint32_t narrow<float>(uint32_t u)
{
    return u;
}
template <> __device__ __forceinline__ uint16_t narrow<__nv_bfloat16>(uint32_t u)
{
    uint32_t rounded = u + 0x7fffu + (u >> 16 & 1u);
    return (uint16_t)((u & KEY_MASK) > 0x7f800000u ? u >> 16 | 0x40u : rounded >> 16);
}
template <> __device__ __forceinline__ uint16_t narrow<__half>(uint32_t u)
{
    if ((u & KEY_MASK) > 0x7f800000u)
        return (uint16_t)((u >> 16 & 0x8000u) | 0x7e00u | (u >> 13 & 0x3ffu));
    return __half_as_ushort(__float2half_rn(__uint_as_float(u)));
}

/* y = x with the bits of MASK as f32, rounded. */
template <typename X, typename Y, uint32_t MASK>
static __global__ void k_cast(const bits_of<X> *x, bits_of<Y> *y, int64_t n, int64_t packs)
{
    enum { N = pack_size<X, Y> };
    pack_of<bits_of<X>, N> from[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < packs)
            from[u] = load_pack<bits_of<X>, N>(x + each_pack(u) * N);
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        pack_of<bits_of<Y>, N> to;
#pragma unroll
        for (int i = 0; i < N; i++)
            to.at[i] = narrow<Y>(widen<X>(from[u].at[i]) & MASK);
        if (each_pack(u) < packs)
            store_pack(y + each_pack(u) * N, to);
    }
    EACH_REST(i, n, packs * N)
    {
        y[i] = narrow<Y>(widen<X>(x[i]) & MASK);
    }
}

template <typename X, typename Y, uint32_t MASK>
static pare_status cast(pare_backend *be, const void *x, void *y, int64_t n)
{
    const int N = pack_size<X, Y>;
    int64_t packs =
        each_packs(n, N, pare__aligned(x, N * sizeof(X)) && pare__aligned(y, N * sizeof(Y)));
    PARE_LAUNCH(be, (k_cast<X, Y, MASK>), each_blocks(n, N), EACH_THREADS, 0, (const bits_of<X> *)x,
                (bits_of<Y> *)y, n, packs);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_cast(pare_backend *be, const pare_cast_args *args)
{
    int64_t n = pare_tensor_count(&args->x);
    const void *x = args->x.data;
    void *y = args->y.data;
    if (args->x.dtype == args->y.dtype) {
        PARE_TRY(pare_backend_copy(be, y, x, n * pare_dtype_bits(args->x.dtype) / 8));
        return PARE_OK;
    }
    PARE_WEIGHT_TYPE(args->x.dtype, X, {
        PARE_WEIGHT_TYPE(args->y.dtype, Y, { PARE_TRY((cast<X, Y, 0xffffffffu>(be, x, y, n))); });
    });
    return PARE_OK;
}

extern "C" pare_status pare_cuda_keys(pare_backend *be, const pare_keys_args *args)
{
    int64_t n = args->x.shape[0];
    PARE_WEIGHT_TYPE(args->x.dtype, X, {
        PARE_TRY((cast<X, float, KEY_MASK>(be, args->x.data, args->keys.data, n)));
    });
    return PARE_OK;
}

/* ---- random keys ----------------------------------------------------------------------------- */

#define RANDOM_STEP 0xD1342543DE82EF95u

static __device__ __forceinline__ uint32_t random_key(uint64_t start, int64_t i)
{
    uint64_t z = start + (uint64_t)i * RANDOM_STEP;
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (uint32_t)(z >> 34);
}

/* start: of the hash of keys[0] */
static __global__ void k_keys_random(uint64_t start, uint32_t *keys, int64_t n, int64_t packs)
{
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        int64_t first = each_pack(u) * 4;
        pack_of<uint32_t, 4> pack;
#pragma unroll
        for (int i = 0; i < 4; i++)
            pack.at[i] = random_key(start, first + i);
        if (each_pack(u) < packs)
            store_pack(keys + first, pack);
    }
    EACH_REST(i, n, packs * 4)
    {
        keys[i] = random_key(start, i);
    }
}

extern "C" pare_status pare_cuda_keys_random(pare_backend *be, const pare_keys_random_args *args)
{
    int64_t n = args->keys.shape[0];
    uint32_t *keys = (uint32_t *)args->keys.data;
    uint64_t start = (args->seed ^ (args->stream * 0x9E3779B97F4A7C15u)) +
                     ((uint64_t)args->first + 1) * RANDOM_STEP;
    PARE_LAUNCH(be, k_keys_random, each_blocks(n, 4), EACH_THREADS, 0, start, keys, n,
                each_packs(n, 4, pare__aligned(keys, 16)));
    return PARE_OK;
}

/* ---- keys of blocks -------------------------------------------------------------------------- */

#define LANES 16
#define SMALL_THREADS 256 /* sixteen blocks of a matrix */
#define LARGE_THREADS 256
#define LARGE 4096 /* elements of a matrix's block from which on it gets a block of threads */
#define TILE 2048

typedef struct block_shape {
    int64_t rows, cols;             /* of the matrix */
    int64_t block_rows, block_cols; /* of a block of it */
    int64_t across, count;          /* blocks side by side, all of them */
} block_shape;

/* A block of the matrix: its first element, its rows and columns. */
typedef struct block_at {
    const uint32_t *x;
    int64_t rows, cols;
} block_at;

static __device__ __forceinline__ block_at find_block(const uint32_t *x, const block_shape &s,
                                                      int64_t i)
{
    int64_t row = quotient(i, s.across), col = (i - row * s.across) * s.block_cols;
    row *= s.block_rows;
    return {x + row * s.cols + col, min(s.block_rows, s.rows - row),
            min(s.block_cols, s.cols - col)};
}

static __device__ __forceinline__ float magnitude(uint32_t u)
{
    return __uint_as_float(u & KEY_MASK);
}

/* The sum of the lanes of half a warp as a binary tree, its bits; all 32 lanes call. */
static __device__ __forceinline__ uint32_t tree_key(float sum)
{
    for (int step = LANES / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(PARE_ALL_LANES, sum, step);
    return __float_as_uint(sum) & KEY_MASK;
}

/* Half a warp a block. */
static __global__ void k_keys_block(const uint32_t *x, block_shape s, uint32_t *keys)
{
    enum { UNROLL = 16 };
    int lane = threadIdx.x % LANES;
    int64_t i = grid_thread() / LANES;
    float sum = 0;
    if (i < s.count) {
        block_at b = find_block(x, s, i);
        int64_t n = b.rows * b.cols, row = quotient(lane, b.cols), col = lane - row * b.cols;
        int64_t down = quotient(LANES, b.cols), along = LANES - down * b.cols;
        for (int64_t at = lane; at < n; at += LANES * UNROLL) {
            uint32_t u[UNROLL];
#pragma unroll
            for (int k = 0; k < UNROLL; k++) {
                u[k] = at + k * LANES < n ? b.x[row * s.cols + col] : 0;
                row += down;
                col += along;
                bool over = col >= b.cols;
                row += over;
                col -= over ? b.cols : 0;
            }
#pragma unroll
            for (int k = 0; k < UNROLL; k++)
                sum += magnitude(u[k]); /* +0 behind the end: no change */
        }
    }
    uint32_t key = tree_key(sum);
    if (lane == 0 && i < s.count)
        keys[i] = key;
}

/* A block of threads a block: the first warp adds a tile while the others bring the next. */
static __global__ void k_keys_block_large(const uint32_t *x, block_shape s, uint32_t *keys)
{
    PARE_SHARED_ARRAY(uint32_t, tiles, 2 * TILE);
    block_at b = find_block(x, s, blockIdx.x);
    int64_t n = b.rows * b.cols;
    float sum = 0;
    for (int64_t at = 0, turn = 0; at < n + TILE; at += TILE, turn ^= 1) {
        uint32_t *coming = tiles + turn * TILE, *here = tiles + (turn ^ 1) * TILE;
        if (threadIdx.x >= PARE_WARP)
            for (int i = (int)threadIdx.x - PARE_WARP; i < TILE; i += LARGE_THREADS - PARE_WARP) {
                int64_t e = at + i, row = e < n ? quotient(e, b.cols) : 0;
                coming[i] = e < n ? b.x[row * s.cols + (e - row * b.cols)] : 0;
            }
        else if (threadIdx.x < LANES && at > 0)
#pragma unroll 16
            for (int i = 0; i < TILE; i += LANES)
                sum += magnitude(here[i + threadIdx.x]);
        __syncthreads();
    }
    if (threadIdx.x < PARE_WARP) {
        uint32_t key = tree_key(sum);
        if (threadIdx.x == 0)
            keys[blockIdx.x] = key;
    }
}

extern "C" pare_status pare_cuda_keys_block(pare_backend *be, const pare_keys_block_args *args)
{
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    block_shape s = {R,
                     C,
                     args->block_rows < R ? args->block_rows : R,
                     args->block_cols < C ? args->block_cols : C,
                     args->keys.shape[1],
                     args->keys.shape[0] * args->keys.shape[1]};
    const uint32_t *x = (const uint32_t *)args->x.data;
    uint32_t *keys = (uint32_t *)args->keys.data;
    if (s.count > 0 && s.block_rows >= pare__blocks(LARGE, s.block_cols))
        PARE_LAUNCH(be, k_keys_block_large, s.count, LARGE_THREADS, 0, x, s, keys);
    else
        PARE_LAUNCH(be, k_keys_block, pare__blocks(s.count, SMALL_THREADS / LANES), SMALL_THREADS,
                    0, x, s, keys);
    return PARE_OK;
}
