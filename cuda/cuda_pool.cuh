/* cuda_pool.cuh - where the windows of a pool lie. A thread makes W neighbouring channels (16
 * bytes, or one) of one pixel; threads follow each other as elements do in memory. */
#ifndef PARE_CUDA_POOL_CUH
#define PARE_CUDA_POOL_CUH

#include "cuda_index.cuh"

#define POOL_THREADS 256

/* Elements of a line of a window, and windows of a line, loaded before one is used; behind the last
 * the last once more, so that no load is conditional. */
#define POOL_AT_ONCE 3
#define POOL_GRAD_AT_ONCE 2

/* A pool: H, W are the input's, rows, cols the output's. */
typedef struct pool {
    pare_window window;
    int64_t B, H, W, C, rows, cols;
    bool count_pad; /* of a mean */
} pool;

static inline pool pool_of(const pare_tensor *x, const pare_tensor *y, const pare_window *window,
                           bool count_pad)
{
    pool g = {};
    g.window = *window;
    g.B = x->shape[0];
    g.H = x->shape[1];
    g.W = x->shape[2];
    g.C = x->shape[3];
    g.rows = y->shape[1];
    g.cols = y->shape[2];
    g.count_pad = count_pad;
    return g;
}

/* Pixel (b, i, j) and channel of a thread, of images of rows × cols; false: there is none. */
typedef struct pool_pixel {
    int64_t b, i, j, c;
} pool_pixel;

template <int WIDTH>
static __device__ __forceinline__ bool pool_at(const pool &g, int64_t rows, int64_t cols,
                                               pool_pixel *at)
{
    int64_t n = grid_thread();
    at->c = index_cut(&n, g.C / WIDTH) * WIDTH;
    at->j = index_cut(&n, cols);
    at->i = index_cut(&n, rows);
    at->b = n;
    return n < g.B;
}
static inline int64_t pool_blocks(const pool *g, int64_t rows, int64_t cols, int width)
{
    return pare__blocks(g->B * rows * cols * (g->C / width), POOL_THREADS);
}

/* A window along one axis: of its places u the ones in [from, to) lie inside the image, at first +
 * u·dilation. */
typedef struct pool_span {
    int64_t first;
    int from, to;
} pool_span;

static __device__ __forceinline__ pool_span pool_span_of(const pool &g, int axis, int64_t out)
{
    int64_t d = g.window.dilation[axis], n = axis == 0 ? g.H : g.W;
    int64_t first =
        out * g.window.stride[axis] - (axis == 0 ? g.window.pad_top : g.window.pad_left);
    int64_t before = first < 0 ? -first : 0, after = first < n ? n - first : 0;
    if (d > 1) {
        before = index_div(before + d - 1, d);
        after = index_div(after + d - 1, d);
    }
    int kernel = g.window.kernel[axis];
    return {first, before < kernel ? (int)before : kernel, after < kernel ? (int)after : kernel};
}

static __device__ __forceinline__ int pool_span_count(const pool_span &s)
{
    return s.to > s.from ? s.to - s.from : 0;
}

/* The outputs [from, to) whose windows may hold the input position `in`. */
typedef struct pool_outputs {
    int64_t from, to;
} pool_outputs;

static __device__ __forceinline__ pool_outputs pool_outputs_of(const pool &g, int axis, int64_t in)
{
    int64_t at = in + (axis == 0 ? g.window.pad_top : g.window.pad_left);
    int64_t stride = g.window.stride[axis], n = axis == 0 ? g.rows : g.cols;
    int64_t reach = (int64_t)(g.window.kernel[axis] - 1) * g.window.dilation[axis];
    int64_t end = index_div(at, stride) + 1;
    return {at <= reach ? 0 : index_div(at - reach + stride - 1, stride), end < n ? end : n};
}

/* The place of the input position `in` in the window of output `out`, which may hold it, or −1. */
static __device__ __forceinline__ int64_t pool_place_in(const pool &g, int axis, int64_t in,
                                                        int64_t out)
{
    int64_t d = g.window.dilation[axis];
    int64_t from =
        in + (axis == 0 ? g.window.pad_top : g.window.pad_left) - out * g.window.stride[axis];
    if (d == 1)
        return from;
    int64_t place = index_div(from, d);
    return place * d == from ? place : -1;
}

/* Runs `body` with WIDTH the channels that a thread takes. */
#define POOL_WIDTH(g_, T_, aligned_, WIDTH_, ...)                                                  \
    do {                                                                                           \
        if ((aligned_) && (g_)->C % (16 / (int)sizeof(T_)) == 0) {                                 \
            constexpr int WIDTH_ = 16 / (int)sizeof(T_);                                           \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            constexpr int WIDTH_ = 1;                                                              \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

#endif
