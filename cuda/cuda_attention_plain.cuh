/* cuda_attention_plain.cuh - attention's products in f32, for f32 inputs, any size of head, and
 * inputs that hold NaN or Inf.
 *
 * A block of 128 threads works on tiles of 64 × 64: thread (x, y) of 16 × 8 has the rows 8·y … and
 * the columns 4·x … of a tile. The rows' elements are brought to shared memory 32 at a time,
 * turned, so that a step is 3 reads of 16 bytes for 32 multiply-adds. An output has DC ≤ 128
 * columns a block; a wider head is done in several, each with scores of its own.
 */
#ifndef PARE_CUDA_ATTENTION_PLAIN_CUH
#define PARE_CUDA_ATTENTION_PLAIN_CUH

#include "cuda_attention.cuh"

#define PLAIN_TILE 64
#define PLAIN_DEPTH 32
#define PLAIN_PITCH (PLAIN_TILE + 4) /* 4·d + row are 32 banks for 8 d and 4 rows */
#define PLAIN_SIDE (PLAIN_DEPTH * PLAIN_PITCH)
#define PLAIN_ROOM                                                                                 \
    ((2 * PLAIN_SIDE + PLAIN_TILE * PLAIN_PITCH) * (int)sizeof(float)) /* bytes of shared memory   \
                                                                        */

/* Columns of an output that a block has, for a head of D. */
static inline int plain_columns(int D)
{
    return D <= 64 ? 64 : 128;
}

static __device__ __forceinline__ int plain_x(void)
{
    return (int)threadIdx.x % 16;
}
static __device__ __forceinline__ int plain_y(void)
{
    return (int)threadIdx.x / 16;
}

/* The probabilities' place behind the two sides. */
static __device__ __forceinline__ float *plain_tile(float *room)
{
    return room + 2 * PLAIN_SIDE;
}

/* Elements [d0, d0 + 32) of 64 rows to [32, 68]; 0 where there is none. */
template <typename T>
static __device__ __forceinline__ void plain_turn(float *to, const T *from, int64_t row, int rows,
                                                  int d0, int D)
{
    const int lane = (int)threadIdx.x % PARE_WARP, warp = (int)threadIdx.x / PARE_WARP;
#pragma unroll 4
    for (int u = warp; u < PLAIN_TILE / 4 * (PLAIN_DEPTH / 8); u += ATTN_WARPS) {
        int d = u % (PLAIN_DEPTH / 8) * 8 + lane % 8, r = u / (PLAIN_DEPTH / 8) * 4 + lane / 8;
        bool in = r < rows && d0 + d < D;
        to[d * PLAIN_PITCH + r] = in ? to_f32(from[r * row + d0 + d]) : 0.0f;
    }
}

/* s = a·bᵀ of a_rows and b_rows ≤ 64 rows of D elements. */
template <typename T>
static __device__ __forceinline__ void plain_scores(float (&s)[8][4], const T *a, int64_t a_row,
                                                    int a_rows, const T *b, int64_t b_row,
                                                    int b_rows, int D, float *room)
{
    float *left = room, *right = room + PLAIN_SIDE;
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            s[r][c] = 0.0f;
    for (int d0 = 0; d0 < D; d0 += PLAIN_DEPTH) {
        __syncthreads();
        plain_turn(left, a, a_row, a_rows, d0, D);
        plain_turn(right, b, b_row, b_rows, d0, D);
        __syncthreads();
#pragma unroll 8
        for (int d = 0; d < PLAIN_DEPTH; d++) {
            const float *at = left + d * PLAIN_PITCH + plain_y() * 8;
            pack_of<float, 4> x[2] = {load_pack<float, 4>(at), load_pack<float, 4>(at + 4)};
            pack_of<float, 4> y = load_pack<float, 4>(right + d * PLAIN_PITCH + plain_x() * 4);
#pragma unroll
            for (int r = 0; r < 8; r++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    s[r][c] += x[r / 4].at[r % 4] * y.at[c];
        }
    }
}

/* Which of a thread's elements of the tile from row `first` and column `tile` on are kept: bit 4·r
 * + c; TURNED: rows are keys. */
template <bool TURNED>
static __device__ __forceinline__ uint32_t plain_kept(const attn_plan &p, int64_t bh, int first,
                                                      int tile)
{
    uint32_t kept = 0;
#pragma unroll 2
    for (int e = 0; e < 32; e++) {
        int row = first + plain_y() * 8 + e / 4, column = tile + plain_x() * 4 + e % 4;
        bool keeps = attn_keep(p, bh, TURNED ? column : row, TURNED ? row : column) > 0.0f;
        kept |= (uint32_t)keeps << e;
    }
    return kept;
}

/* p to shared memory, turned: [column, row]. */
static __device__ __forceinline__ void plain_put(float *room, const float (&p)[8][4])
{
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 4; c++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            pack_of<float, 4> rows;
#pragma unroll
            for (int r = 0; r < 4; r++)
                rows.at[r] = p[half * 4 + r][c];
            store_pack(plain_tile(room) + (plain_x() * 4 + c) * PLAIN_PITCH + plain_y() * 8 +
                           half * 4,
                       rows);
        }
}

/* o [64, DC] += p·b: p as plain_put left it, b of `rows` ≤ 64 rows of which columns [c0, c0 + DC)
 * count. Where p is 0 b is not felt, be it NaN. Column 64·k + 4·x + c of o is o[r][4·k + c]. */
template <typename T, int DC>
static __device__ __forceinline__ void plain_add(float (&o)[8][DC / 16], const T *b, int64_t row,
                                                 int rows, int c0, int D, float *room)
{
    for (int j0 = 0; j0 < PLAIN_TILE; j0 += PLAIN_DEPTH) {
        __syncthreads();
#pragma unroll 8
        for (int i = (int)threadIdx.x; i < PLAIN_DEPTH * DC; i += ATTN_THREADS) {
            int j = j0 + i / DC, d = c0 + i % DC;
            room[i] = j < rows && d < D ? to_f32(b[j * row + d]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < PLAIN_DEPTH; j++) {
            const float *at = plain_tile(room) + (j0 + j) * PLAIN_PITCH + plain_y() * 8;
            pack_of<float, 4> p[2] = {load_pack<float, 4>(at), load_pack<float, 4>(at + 4)};
#pragma unroll
            for (int k = 0; k < DC / 64; k++) {
                pack_of<float, 4> v = load_pack<float, 4>(room + j * DC + k * 64 + plain_x() * 4);
#pragma unroll
                for (int r = 0; r < 8; r++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        if (p[r / 4].at[r % 4] != 0.0f)
                            o[r][k * 4 + c] += p[r / 4].at[r % 4] * v.at[c];
            }
        }
    }
}

template <int DC> static __device__ __forceinline__ void plain_clear(float (&o)[8][DC / 16])
{
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < DC / 16; c++)
            o[r][c] = 0.0f;
}

/* Rows of o, times factor, to columns [c0, c0 + DC) of y. */
template <typename T, int DC>
static __device__ __forceinline__ void plain_store(const float (&o)[8][DC / 16],
                                                   const float (&factor)[8], T *y, int64_t row,
                                                   int rows, int c0, int D)
{
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < DC / 16; c++) {
            int i = plain_y() * 8 + r, d = c0 + c / 4 * 64 + plain_x() * 4 + c % 4;
            if (i < rows && d < D)
                y[i * row + d] = from_f32<T>(o[r][c] * factor[r]);
        }
}

/* The sum, or largest, of the 16 threads that have the same rows. */
static __device__ __forceinline__ float plain_row_sum(float x)
{
    for (int step = 8; step > 0; step /= 2)
        x += __shfl_xor_sync(PARE_ALL_LANES, x, step);
    return x;
}
static __device__ __forceinline__ float plain_row_max(float x)
{
    for (int step = 8; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(PARE_ALL_LANES, x, step));
    return x;
}

#endif
