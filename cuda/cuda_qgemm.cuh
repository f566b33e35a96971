/* cuda_qgemm.cuh - what the products of quantised weights share: c [M, N] = x [M, K]·w [N, K]ᵀ.
 *
 * Two regimes. Few rows (M ≤ 16): a block has 32 rows of w; its warps take turns along K, each lane
 * loads 16 bytes of a row at a time and multiplies them as they are: the order of terms in a sum is
 * free, so the bytes that a lane holds are the fragment, w being the 16-row side of the tensor
 * cores' product and x the 8-column side. The warps' sums are added in their order.
 *
 * More rows: a block has a tile of 64 or 128 rows of x by 128 rows of w, of which pieces of 128
 * bytes along K pass through shared memory. A row of a piece is eight chunks of 16 bytes; chunk k
 * of row r lies at place k ^ (r mod 8), so that the eight rows that ldmatrix reads at once, and
 * those that a warp writes, are in different banks.
 */
#ifndef PARE_CUDA_QGEMM_CUH
#define PARE_CUDA_QGEMM_CUH

#include "cuda_mma.cuh"
#include "cuda_nn.cuh"

#define QGEMM_THREADS 256
#define QGEMM_WARPS (QGEMM_THREADS / PARE_WARP)
#define QGEMM_FEW 16    /* rows of x, at most, for the first regime */
#define QGEMM_ROWS 32   /* of w, a block in that regime */
#define QGEMM_N 128     /* rows of w in a tile */
#define QGEMM_WIDTH 128 /* bytes of a row of a piece */
#define QGEMM_CHUNKS (QGEMM_WIDTH / 16)

/* 16 bytes in four registers. */
struct alignas(16) qgemm_chunk {
    uint32_t at[4];
};

/* 16 bytes at an address, of which `left` (may be negative, or more than 16) are there; 0 for the
 * others. WHOLE: the address is a multiple of 16, and left ≤ 0 or ≥ 16. */
template <bool WHOLE>
static __device__ __forceinline__ qgemm_chunk qgemm_load(const uint8_t *from, int64_t left)
{
    qgemm_chunk chunk = {{0, 0, 0, 0}};
    if constexpr (WHOLE) {
        if (left > 0)
            chunk = *reinterpret_cast<const qgemm_chunk *>(from);
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++)
            if (i < left)
                chunk.at[i / 4] |= (uint32_t)from[i] << 8 * (i % 4);
    }
    return chunk;
}

/* The place of a chunk of a row in a piece. */
static __device__ __forceinline__ uint8_t *qgemm_place(uint8_t *piece, int row, int chunk)
{
    return piece + row * QGEMM_WIDTH + (chunk ^ (row & 7)) * 16;
}
static __device__ __forceinline__ const uint8_t *qgemm_place(const uint8_t *piece, int row,
                                                             int chunk)
{
    return piece + row * QGEMM_WIDTH + (chunk ^ (row & 7)) * 16;
}

/* A piece of ROWS rows of a matrix whose rows are `pitch` bytes apart and end after `end` bytes,
 * from row `row` of `rows` and byte `at` on; 0 outside. WHOLE: copies that run on beside the
 * arithmetic (pitch, end and the matrix are multiples of 16). All threads call. */
template <int ROWS, bool WHOLE>
static __device__ __forceinline__ void qgemm_fetch(uint8_t *piece, const uint8_t *from,
                                                   int64_t pitch, int64_t end, int64_t row,
                                                   int64_t rows, int64_t at)
{
    constexpr int STEP = QGEMM_THREADS / QGEMM_CHUNKS; /* rows at once, a multiple of 8 */
    int r = threadIdx.x / QGEMM_CHUNKS, chunk = threadIdx.x % QGEMM_CHUNKS;
    int64_t left = end - at - chunk * 16;
    const uint8_t *source = from + (row + r) * pitch + at + chunk * 16;
    uint8_t *to = qgemm_place(piece, r, chunk);
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
        bool there = row + r + i < rows && left > 0;
        if (WHOLE)
            copy_async(to + i * QGEMM_WIDTH, there ? source + i * pitch : from, there ? 16 : 0);
        else
            *reinterpret_cast<qgemm_chunk *>(to + i * QGEMM_WIDTH) =
                qgemm_load<false>(source + i * pitch, there ? left : 0);
    }
}

static __device__ __forceinline__ void qgemm_mma(float c[4], const uint32_t a[4], uint32_t b0,
                                                 uint32_t b1)
{
    mma_bf16(c, a, b0, b1);
}
static __device__ __forceinline__ void qgemm_mma(int c[4], const uint32_t a[4], uint32_t b0,
                                                 uint32_t b1)
{
    mma_s8(c, a, b0, b1);
}

/* A warp's part of a tile: 64 rows of x by 8·WIDE rows of w. */
template <typename S, int WIDE> struct qgemm_sums {
    S at[4][WIDE][4];
};

/* Adds the products of two pieces, the warp's part of which begins at rows x_row and w_row. */
template <typename S, int WIDE>
static __device__ __forceinline__ void qgemm_multiply(qgemm_sums<S, WIDE> &sums, const uint8_t *x,
                                                      int x_row, const uint8_t *w, int w_row)
{
    int lane = threadIdx.x % PARE_WARP;
#pragma unroll
    for (int k = 0; k < QGEMM_CHUNKS; k += 2) {
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            ldmatrix_x4(a[i], qgemm_place(x, x_row + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
        for (int j = 0; j < WIDE; j += 2) {
            uint32_t b[4];
            ldmatrix_x4(b,
                        qgemm_place(w, w_row + 8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                qgemm_mma(sums.at[i][j], a[i], b[0], b[1]);
                qgemm_mma(sums.at[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

/* c[m, n] and what a sum of it needs. sx and sw are NULL where sums are not scaled. */
template <typename T> struct qgemm_result {
    T *c;
    const float *sx, *sw, *bias;
    int64_t M, N;
};

template <typename T, typename S>
static __device__ __forceinline__ void qgemm_store(const qgemm_result<T> &r, int64_t m, int64_t n,
                                                   S sum)
{
    if (m >= r.M || n >= r.N)
        return;
    float c = (float)sum;
    if (r.sx)
        c = c * r.sx[m] * r.sw[n];
    r.c[m * r.N + n] = from_f32<T>(r.bias ? c + r.bias[n] : c);
}

/* Stores a warp's part of a tile, whose first row and column are m and n. */
template <typename T, typename S, int WIDE>
static __device__ __forceinline__ void qgemm_store_sums(const qgemm_result<T> &r, int64_t m,
                                                        int64_t n, const qgemm_sums<S, WIDE> &sums)
{
    int lane = threadIdx.x % PARE_WARP;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                qgemm_store(r, m + 16 * i + lane / 4 + k / 2 * 8, n + 8 * j + lane % 4 * 2 + k % 2,
                            sums.at[i][j][k]);
}

/* Few rows: adds what the warps have of 32 rows of w by 8·COLS rows of x, and stores it from row n
 * of w on. room: [QGEMM_WARPS][QGEMM_ROWS][8·COLS] in shared memory. */
template <typename T, typename S, int COLS>
static __device__ __forceinline__ void qgemm_store_few(const qgemm_result<T> &r, int64_t n,
                                                       const S sums[2][COLS][4], S *room)
{
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < COLS; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int row = 16 * i + lane / 4 + k / 2 * 8, col = 8 * j + lane % 4 * 2 + k % 2;
                room[(warp * 8 * COLS + col) * QGEMM_ROWS + row] = sums[i][j][k];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < QGEMM_ROWS * 8 * COLS; i += QGEMM_THREADS) {
        S sum = 0;
        for (int k = 0; k < QGEMM_WARPS; k++)
            sum += room[k * 8 * COLS * QGEMM_ROWS + i];
        qgemm_store(r, (int64_t)(i / QGEMM_ROWS), n + i % QGEMM_ROWS, sum);
    }
}

#endif
