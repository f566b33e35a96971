/* cuda_patches.cu - the inputs of a convolution as rows of a matrix, and rows that are left out.
 *
 *     y[(b, i, j), (c, u, v)] = x[b, i·stride − pad + u·dilation, j·…, c], 0 outside
 *     y[r, j] = x[r, j] where keep[r] is not 0, else +0
 *
 * patches: of x neighbouring channels lie together, of y the places of a window. A block gathers
 * some windows, or some channels of one, in shared memory, as they lie in x, and writes them as
 * they lie in y: both ways whole packs of 16 bytes where the channels are a multiple of them. An
 * element of x that several windows share comes out of the caches. Windows of more than MOST_PLACES
 * places go one element a thread.
 *
 * Bound by memory: y is written, x read once, 8 bytes an element of y at most in F32. Predicted,
 * not measured: 75 % of the copy rate, keep_rows 90 %.
 */
#include "cuda_each.cuh"
#include "cuda_index.cuh"

/* ---- patches --------------------------------------------------------------------------------- */

#define THREADS 256
#define TILE_BYTES 16384 /* of elements that a block moves; with what is left free, twice that */
#define MOST_PLACES 1024

typedef struct patches {
    pare_window window;
    int64_t H, W, C, down, across; /* of x; of the output */
    int64_t rows, places;          /* of y; of a window */
    int64_t channels, tiles;       /* that a block takes, and how many blocks a window takes so */
    int64_t windows;               /* that a block takes */
    int64_t step;                  /* in shared memory, from place to place */
} patches;

/* Where in x the first channel of a place of a window lies, or −1. */
static __device__ __forceinline__ int64_t place_at(const patches &p, int64_t row, int64_t place)
{
    const pare_window &w = p.window;
    int64_t j = index_cut(&row, p.across), i = index_cut(&row, p.down);
    int64_t v = index_cut(&place, w.kernel[1]);
    int64_t y = i * w.stride[0] - w.pad_top + place * w.dilation[0];
    int64_t x = j * w.stride[1] - w.pad_left + v * w.dilation[1];
    return y >= 0 && y < p.H && x >= 0 && x < p.W ? ((row * p.H + y) * p.W + x) * p.C : -1;
}

/* T: integers, whatever the elements mean. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS) k_patches(patches p, const T *x, T *y)
{
    PARE_SHARED_DYNAMIC(T, tile);
    int64_t group = blockIdx.x;
    const int64_t c = index_cut(&group, p.tiles) * p.channels, row = group * p.windows;
    const int64_t channels = p.C - c < p.channels ? p.C - c : p.channels;
    const int windows = (int)(p.rows - row < p.windows ? p.rows - row : p.windows);
    const int packs = (int)channels / N, places = (int)p.places, step = (int)p.step;
    const int wide = (int)channels * places; /* elements of a row of y */

    for (int t = threadIdx.x; t < windows * places * packs; t += THREADS) {
        const int place = t / packs, pack = t - place * packs;
        const int64_t at = place_at(p, row + place / places, place % places);
        pack_of<T, N> values = {};
        if (at >= 0)
            values = load_pack<T, N>(x + at + c + pack * N);
        store_pack<T, N>(tile + place * step + pack * N, values);
    }
    __syncthreads();
    for (int t = threadIdx.x; t < windows * (wide / N); t += THREADS) {
        const int window = t / (wide / N), first = t * N - window * wide;
        int channel = first / places, place = first - channel * places;
        pack_of<T, N> values;
#pragma unroll
        for (int k = 0; k < N; k++) {
            values.at[k] = tile[(window * places + place) * step + channel];
            place++;
            channel += place == places;
            place = place == places ? 0 : place;
        }
        store_pack<T, N>(y + ((row + window) * p.C + c) * places + first, values);
    }
}

/* Of large windows. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    k_patches_each(patches p, const T *x, T *y, int64_t count)
{
    for (int64_t t = grid_thread(); t < count; t += grid_threads()) {
        int64_t row = t, place = index_cut(&row, p.places);
        const int64_t c = index_cut(&row, p.C), at = place_at(p, row, place);
        y[t] = at >= 0 ? x[at + c] : T(0);
    }
}

/* How N elements at a time are cut into blocks. */
static void cut(patches *p, int64_t most, int N)
{
    int64_t channels = most / p->places / N * N;
    p->channels = channels < p->C ? channels : p->C;
    p->tiles = pare__blocks(p->C, p->channels);
    p->windows = p->tiles > 1 ? 1 : most / (p->C * p->places);
    p->step = p->channels + N;
}

template <typename T, int N>
static pare_status gather(pare_backend *be, const pare_patches_args *args, patches p)
{
    const T *x = (const T *)args->x.data;
    T *y = (T *)args->y.data;
    if (p.places > MOST_PLACES) {
        int64_t count = pare_tensor_count(&args->y);
        PARE_LAUNCH(be, (k_patches_each<T>), pare__grid(be, count, THREADS), THREADS, 0, p, x, y,
                    count);
        return PARE_OK;
    }
    cut(&p, TILE_BYTES / (int64_t)sizeof(T), N);
    size_t bytes = (size_t)(p.windows * p.places * p.step) * sizeof(T);
    PARE_LAUNCH(be, (k_patches<T, N>), pare__blocks(p.rows, p.windows) * p.tiles, THREADS, bytes, p,
                x, y);
    return PARE_OK;
}

template <typename T>
static pare_status gather_any(pare_backend *be, const pare_patches_args *args, const patches &p)
{
    constexpr int N = 16 / (int)sizeof(T);
    if (p.C % N == 0 && pare__aligned(args->x.data, 16) && pare__aligned(args->y.data, 16))
        return gather<T, N>(be, args, p);
    return gather<T, 1>(be, args, p);
}

extern "C" pare_status pare_cuda_patches(pare_backend *be, const pare_patches_args *args)
{
    patches p = {};
    const int64_t *shape = args->x.shape;
    if (pare_tensor_count(&args->y) == 0)
        return PARE_OK;
    p.window = args->window;
    p.H = shape[1];
    p.W = shape[2];
    p.C = shape[3];
    p.down = pare_window_out(&p.window, 0, p.H);
    p.across = pare_window_out(&p.window, 1, p.W);
    p.rows = args->y.shape[0];
    p.places = (int64_t)p.window.kernel[0] * p.window.kernel[1];
    return args->x.dtype == PARE_F32 ? gather_any<uint32_t>(be, args, p)
                                     : gather_any<uint16_t>(be, args, p);
}

/* ---- keep_rows ------------------------------------------------------------------------------- */

/* P: packs of N elements in a row. */
template <typename T, int N>
static __global__ void __launch_bounds__(EACH_THREADS)
    k_keep_rows(const T *x, T *y, const uint8_t *keep, int64_t R, int64_t P)
{
    pack_of<T, N> p[EACH_PACKS];
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++) {
        p[u] = {};
        if (each_pack(u) < R * P && keep[index_div(each_pack(u), P)])
            p[u] = load_pack<T, N>(x + each_pack(u) * N);
    }
#pragma unroll
    for (int u = 0; u < EACH_PACKS; u++)
        if (each_pack(u) < R * P)
            store_pack<T, N>(y + each_pack(u) * N, p[u]);
}

template <typename T>
static pare_status keep_rows(pare_backend *be, const pare_keep_rows_args *args)
{
    constexpr int N = 16 / (int)sizeof(T);
    const T *x = (const T *)args->x.data;
    const uint8_t *keep = (const uint8_t *)args->keep.data;
    T *y = (T *)args->y.data;
    int64_t R = args->x.shape[0], C = args->x.shape[1];
    if (C % N == 0 && pare__aligned(x, 16) && pare__aligned(y, 16))
        PARE_LAUNCH(be, (k_keep_rows<T, N>), each_blocks(R * C, N), EACH_THREADS, 0, x, y, keep, R,
                    C / N);
    else
        PARE_LAUNCH(be, (k_keep_rows<T, 1>), each_blocks(R * C, 1), EACH_THREADS, 0, x, y, keep, R,
                    C);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_keep_rows(pare_backend *be, const pare_keep_rows_args *args)
{
    return args->x.dtype == PARE_F32 ? keep_rows<uint32_t>(be, args)
                                     : keep_rows<uint16_t>(be, args);
}
