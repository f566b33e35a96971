/* cuda_layout.cu - a vector to every row, columns copied, matrices transposed.
 *
 *     add_rows   y[i, j] = x[i, j] + v[j]
 *     copy_cols  y[i, y_first + j] = x[i, x_first + j] (+ y if accumulate)
 *     transpose  y[b, j, i] = x[b, i, j] (+ y if accumulate)
 *
 * All bound by memory, one pass. The first two take packs of 16 bytes (of eight and sixteen where
 * the dtypes differ) if rows begin at multiples of them, else single elements; packs are counted
 * over the whole matrix, so that any width of row fills the blocks.
 *
 * transpose, packed (M and N multiples of 4): a block turns a tile of 64 × 64. A thread reads a
 * block of 4 × 4, four packs of a row each, turns it in registers and leaves four packs of columns
 * in shared memory; the tile's columns then go out as packs, 16 neighbours beside each other. Pack
 * m of column n lies at m ^ n/4 of its row: lanes that write have n/4 apart and m alike, lanes that
 * read the other way round, and both meet all banks. Otherwise: a tile of 1024 single elements, 32
 * × 32 or, for slim matrices, as wide or high as fills it (images of three channels: 4 × 256), its
 * rows padded so that columns meet all banks.
 *
 * Bytes an element in F32: 8 each (12 accumulating). Predicted, not measured: add_rows and
 * copy_cols 90 % of the copy rate, transpose 85 % packed, 70 % otherwise.
 */
#include "cuda_nn.cuh"

#include "cuda_each.cuh"

/* ---- add_rows -------------------------------------------------------------------------------- */

/* P: packs of N elements in a row. */
template <typename T, typename V, int N>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_add_rows(const T *x, const V *v, T *y, int64_t R, int64_t P)
{
    pack_of<T, N> p[EACH_PACKS];
    pack_of<V, N> q[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < R * P) {
            p[u] = load_pack<T, N>(x + each_pack(u) * N);
            q[u] = load_pack<V, N>(v + each_pack(u) % P * N);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= R * P)
            break;
#pragma unroll
        for (int k = 0; k < N; k++)
            p[u].at[k] = from_f32<T>(to_f32(p[u].at[k]) + to_f32(q[u].at[k]));
        store_pack<T, N>(y + each_pack(u) * N, p[u]);
    }
}

template <typename T, typename V>
static pare_status add_rows(pare_backend *be, const pare_add_rows_args *args)
{
    constexpr int N = pack_size<T, V>;
    const T *x = (const T *)args->x.data;
    const V *v = (const V *)args->v.data;
    T *y = (T *)args->y.data;
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    if (C % N == 0 && pare__aligned(x, sizeof(T) * N) && pare__aligned(y, sizeof(T) * N) &&
        pare__aligned(v, sizeof(V) * N))
        PARE_LAUNCH(be, (k_add_rows<T, V, N>), each_blocks(R * C, N), EACH_THREADS, 0, x, v, y, R,
                    C / N);
    else
        PARE_LAUNCH(be, (k_add_rows<T, V, 1>), each_blocks(R * C, 1), EACH_THREADS, 0, x, v, y, R,
                    C);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_add_rows(pare_backend *be, const pare_add_rows_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, T,
                  { PARE_ACT_TYPE(args->v.dtype, V, { PARE_TRY((add_rows<T, V>(be, args))); }); });
    return PARE_OK;
}

/* ---- copy_cols ------------------------------------------------------------------------------- */

typedef struct columns {
    int64_t R, P;           /* rows, packs in a row */
    int64_t x_step, y_step; /* elements from row to row; x_step 0: one row for all */
    bool accumulate;
} columns;

template <typename X, typename Y, int N>
static __global__ void __launch_bounds__(EACH_THREADS) k_copy_cols(const X *x, Y *y, columns c)
{
    pack_of<X, N> p[EACH_PACKS];
    pack_of<Y, N> q[EACH_PACKS];
    int64_t to[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < c.R * c.P) {
            int64_t row = each_pack(u) / c.P, at = (each_pack(u) - row * c.P) * N;
            to[u] = row * c.y_step + at;
            p[u] = load_pack<X, N>(x + row * c.x_step + at);
            if (c.accumulate)
                q[u] = load_pack<Y, N>(y + to[u]);
        }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        if (each_pack(u) >= c.R * c.P)
            break;
#pragma unroll
        for (int k = 0; k < N; k++) {
            float v = to_f32(p[u].at[k]);
            q[u].at[k] = from_f32<Y>(c.accumulate ? v + to_f32(q[u].at[k]) : v);
        }
        store_pack<Y, N>(y + to[u], q[u]);
    }
}

template <typename X, typename Y>
static pare_status copy_cols(pare_backend *be, const pare_copy_cols_args *args)
{
    constexpr int N = pack_size<X, Y>;
    int64_t Nx = args->x.shape[1], Ny = args->y.shape[1], cols = args->cols;
    const X *x = (const X *)args->x.data + args->x_first;
    Y *y = (Y *)args->y.data + args->y_first;
    columns c;
    c.R = args->y.shape[0];
    c.x_step = args->x.shape[0] == 1 ? 0 : Nx;
    c.y_step = Ny;
    c.accumulate = args->accumulate;
    bool packed = cols % N == 0 && c.x_step % N == 0 && Ny % N == 0 &&
                  pare__aligned(x, sizeof(X) * N) && pare__aligned(y, sizeof(Y) * N);
    c.P = packed ? cols / N : cols;
    if (packed)
        PARE_LAUNCH(be, (k_copy_cols<X, Y, N>), each_blocks(c.R * cols, N), EACH_THREADS, 0, x, y,
                    c);
    else
        PARE_LAUNCH(be, (k_copy_cols<X, Y, 1>), each_blocks(c.R * cols, 1), EACH_THREADS, 0, x, y,
                    c);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_copy_cols(pare_backend *be, const pare_copy_cols_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, X,
                  { PARE_ACT_TYPE(args->y.dtype, Y, { PARE_TRY((copy_cols<X, Y>(be, args))); }); });
    return PARE_OK;
}

/* ---- transpose ------------------------------------------------------------------------------- */

#define TURN_THREADS 256
#define PACK 4               /* elements; a thread turns PACK × PACK */
#define ACROSS 16            /* packs in a row of a tile */
#define TILE (PACK * ACROSS) /* rows and columns of a tile */
#define SMALL 1024           /* elements of a tile of single elements */
#define SMALL_ROOM 1536      /* with the padding of its rows, one element each of at most 512 */

/* A tile's place: of matrix b, rows from i and columns from j on. */
typedef struct turn_tile {
    int64_t b, i, j;
} turn_tile;

static __device__ __forceinline__ turn_tile tile_of_block(int64_t M, int64_t N, int height,
                                                          int width)
{
    int64_t down = (M + height - 1) / height, across = (N + width - 1) / width;
    int64_t rest = blockIdx.x / across;
    turn_tile t;
    t.j = (blockIdx.x - rest * across) * width;
    t.b = rest / down;
    t.i = (rest - t.b * down) * height;
    return t;
}

template <typename T>
static __global__ void __launch_bounds__(TURN_THREADS)
    k_transpose_packed(const T *x, T *y, int64_t M, int64_t N, bool accumulate)
{
    using pack = pack_of<T, PACK>;
    PARE_SHARED_ARRAY(pack, turned, TILE * ACROSS);
    const turn_tile t = tile_of_block(M, N, TILE, TILE);
    const int minor = threadIdx.x % ACROSS, major = threadIdx.x / ACROSS;
    x += t.b * M * N;
    y += t.b * M * N;

    /* rows 4·major … of the tile, columns 4·minor … */
    const int64_t i = t.i + PACK * major, j = t.j + PACK * minor;
    if (i < M && j < N) {
        pack in[PACK], out[PACK];
#pragma unroll
        for (int k = 0; k < PACK; k++)
            in[k] = load_pack<T, PACK>(x + (i + k) * N + j);
#pragma unroll
        for (int k = 0; k < PACK; k++)
#pragma unroll
            for (int l = 0; l < PACK; l++)
                out[k].at[l] = in[l].at[k];
#pragma unroll
        for (int k = 0; k < PACK; k++)
            turned[(PACK * minor + k) * ACROSS + (major ^ minor)] = out[k];
    }
    __syncthreads();

    /* column major + 16·k of the tile, its pack `minor` */
    pack had[PACK];
    const int64_t row = t.i + PACK * minor;
#pragma unroll
    for (int k = 0; k < PACK; k++) {
        int64_t col = t.j + major + ACROSS * k;
        if (accumulate && row < M && col < N)
            had[k] = load_pack<T, PACK>(y + col * M + row);
    }
#pragma unroll
    for (int k = 0; k < PACK; k++) {
        int n = major + ACROSS * k;
        if (row >= M || t.j + n >= N)
            continue;
        pack out = turned[n * ACROSS + (minor ^ n / PACK)];
        if (accumulate)
#pragma unroll
            for (int l = 0; l < PACK; l++)
                out.at[l] = from_f32<T>(to_f32(out.at[l]) + to_f32(had[k].at[l]));
        store_pack<T, PACK>(y + (t.j + n) * M + row, out);
    }
}

/* Tiles of 2^high rows and 2^wide columns, together SMALL elements. */
template <typename T>
static __global__ void __launch_bounds__(TURN_THREADS)
    k_transpose(const T *x, T *y, int64_t M, int64_t N, int high, int wide, bool accumulate)
{
    PARE_SHARED_ARRAY(T, tile, SMALL_ROOM);
    const int height = 1 << high, width = 1 << wide;
    const int stride = width + (height < PARE_WARP ? PARE_WARP >> high : 1);
    const turn_tile t = tile_of_block(M, N, height, width);
    x += t.b * M * N;
    y += t.b * M * N;
#pragma unroll
    for (int e = threadIdx.x; e < SMALL; e += TURN_THREADS) {
        int r = e >> wide, c = e & (width - 1);
        if (t.i + r < M && t.j + c < N)
            tile[r * stride + c] = x[(t.i + r) * N + t.j + c];
    }
    __syncthreads();
#pragma unroll
    for (int e = threadIdx.x; e < SMALL; e += TURN_THREADS) {
        int r = e & (height - 1), c = e >> high;
        if (t.i + r >= M || t.j + c >= N)
            continue;
        T *to = y + (t.j + c) * M + t.i + r, out = tile[r * stride + c];
        *to = accumulate ? from_f32<T>(to_f32(out) + to_f32(*to)) : out;
    }
}

/* The least k from 1 to 5 with n ≤ 2^k, 5 if there is none. */
static int least_bits(int64_t n)
{
    int k = 1;
    while (k < 5 && n > INT64_C(1) << k)
        k++;
    return k;
}

template <typename T>
static pare_status transpose(pare_backend *be, const pare_transpose_args *args)
{
    const T *x = (const T *)args->x.data;
    T *y = (T *)args->y.data;
    int64_t B = args->x.shape[0], M = args->x.shape[1], N = args->x.shape[2];
    if (M % PACK == 0 && N % PACK == 0 && M >= TILE / 2 && N >= TILE / 2 &&
        pare__aligned(x, sizeof(T) * PACK) && pare__aligned(y, sizeof(T) * PACK)) {
        PARE_LAUNCH(be, (k_transpose_packed<T>), B * pare__blocks(M, TILE) * pare__blocks(N, TILE),
                    TURN_THREADS, 0, x, y, M, N, args->accumulate);
        return PARE_OK;
    }
    int wide = least_bits(M) < 5 ? 10 - least_bits(M) : least_bits(N), high = 10 - wide;
    PARE_LAUNCH(be, (k_transpose<T>), B * pare__blocks(M, 1 << high) * pare__blocks(N, 1 << wide),
                TURN_THREADS, 0, x, y, M, N, high, wide, args->accumulate);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_transpose(pare_backend *be, const pare_transpose_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, T, {
        if (args->x.shape[1] == 1 || args->x.shape[2] == 1) { /* nothing turns */
            int64_t n = pare_tensor_count(&args->x);
            pare_copy_cols_args copy = {};
            copy.x = pare_matrix(args->x.data, args->x.dtype, 1, n);
            copy.y = pare_matrix(args->y.data, args->y.dtype, 1, n);
            copy.cols = n;
            copy.accumulate = args->accumulate;
            PARE_TRY((copy_cols<T, T>(be, &copy)));
        } else {
            PARE_TRY(transpose<T>(be, args));
        }
    });
    return PARE_OK;
}
