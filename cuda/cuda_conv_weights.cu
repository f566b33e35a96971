/* cuda_conv_weights.cu - what stands between our convolutions and cuDNN's: weights turned to
 * cuDNN's order and back, images laid into larger ones, columns of what a window sees, and the end
 * of a convolution (shift, sum, ReLU). Nothing is computed but a sum or two.
 *
 * Bound by memory. The end of a convolution moves 4 to 12 bytes an F32 element (BF16: half), a
 * shifted image 8, columns kh·kw + 1 times those of an image; 16 bytes at a time where channels and
 * addresses allow it, neighbouring lanes side by side: predicted 85 % of the copy rate. Turning
 * weights reads with a stride of kh·kw elements, through the second-level cache: predicted half of
 * the copy rate, on tensors that are small beside images. No GPU has measured these yet.
 */
#include "cuda_nn.cuh"

#include "cuda_conv.h"

#define THREADS 256
#define WARPS (THREADS / PARE_WARP)

/* ---- weights --------------------------------------------------------------------------------- */

/* to[o][tap][c] = from[o][c][tap]·scale[o]; n elements, `taps` and C of them an o. */
template <typename W, typename T>
static __global__ void k_conv_weights(const W *from, const float *scale, int64_t n, int taps, int C,
                                      T *to)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        int64_t o = i / ((int64_t)taps * C);
        int64_t rest = i - o * taps * C;
        int64_t tap = rest / C, c = rest - tap * C;
        float w = to_f32<W>(from[(o * C + c) * taps + tap]);
        to[i] = from_f32<T>(scale ? w * scale[o] : w);
    }
}

/* dw[o][c][tap] (+)= from[o][tap][c], rows o of `from` being `pitch` apart. */
static __global__ void k_conv_weights_back(const float *from, int64_t pitch, int64_t n, int taps,
                                           int C, float *dw, bool accumulate)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        int64_t o = i / ((int64_t)taps * C);
        int64_t rest = i - o * taps * C;
        int64_t c = rest / taps, tap = rest - c * taps;
        float x = from[o * pitch + tap * C + c];
        dw[i] = accumulate ? dw[i] + x : x;
    }
}

/* ---- images ---------------------------------------------------------------------------------- */

/* One row of images a block: to[b][i] = from[b][i − top], moved by `left` packs of N elements; 0
 * outside. Widths are in packs. */
template <typename S, typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    k_conv_shift(const S *from, int64_t from_height, int64_t from_width, T *to, int64_t to_height,
                 int64_t to_width, int64_t top, int64_t left)
{
    int64_t b = blockIdx.x / to_height, i = blockIdx.x % to_height - top;
    bool inside = i >= 0 && i < from_height;
    const S *row = from + (inside ? (b * from_height + i) * from_width * N : 0);
    T *out = to + (int64_t)blockIdx.x * to_width * N;
    for (int64_t j = threadIdx.x; j < to_width; j += THREADS) {
        int64_t at = j - left;
        pack_of<T, N> pack;
        if (inside && at >= 0 && at < from_width) {
            pack_of<S, N> x = load_pack<S, N>(row + at * N);
#pragma unroll
            for (int k = 0; k < N; k++)
                pack.at[k] = from_f32<T>(to_f32<S>(x.at[k]));
        } else {
#pragma unroll
            for (int k = 0; k < N; k++)
                pack.at[k] = from_f32<T>(0.0f);
        }
        store_pack<T, N>(out + j * N, pack);
    }
}

struct columns_shape {
    int64_t places; /* B·rows·cols */
    int rows, cols, H, W, C;
    int kernel, across; /* taps; taps of a row of the window */
    int stride[2], dilation[2], pad[2];
    int packs; /* of a row of columns */
};

/* A warp for each place of the output. A pack lies within one tap. */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    k_conv_columns(const __nv_bfloat16 *x, columns_shape s, __nv_bfloat16 *to)
{
    int lane = threadIdx.x % PARE_WARP;
    int64_t warps = (int64_t)gridDim.x * WARPS;
    int64_t first = (int64_t)blockIdx.x * WARPS + threadIdx.x / PARE_WARP;
    for (int64_t place = first; place < s.places; place += warps) {
        int64_t b = place / ((int64_t)s.rows * s.cols);
        int rest = (int)(place - b * s.rows * s.cols);
        int r = rest / s.cols * s.stride[0] - s.pad[0];
        int c = rest % s.cols * s.stride[1] - s.pad[1];
        for (int p = lane; p < s.packs; p += PARE_WARP) {
            int tap = p * N / s.C, channel = p * N - tap * s.C;
            int64_t i = r + (int64_t)(tap / s.across) * s.dilation[0];
            int64_t j = c + (int64_t)(tap % s.across) * s.dilation[1];
            pack_of<__nv_bfloat16, N> pack;
#pragma unroll
            for (int k = 0; k < N; k++)
                pack.at[k] = from_f32<__nv_bfloat16>(0.0f);
            if (tap < s.kernel && i >= 0 && i < s.H && j >= 0 && j < s.W)
                pack = load_pack<__nv_bfloat16, N>(x + ((b * s.H + i) * s.W + j) * s.C + channel);
            store_pack<__nv_bfloat16, N>(to + (place * s.packs + p) * N, pack);
        }
    }
}

/* ---- the end of a convolution ---------------------------------------------------------------- */

/* `groups` packs of N channels a place. The place of a pack among them moves on without division.
 */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    k_conv_finish(const T *from, const float *shift, const T *z, int64_t n, int groups, bool relu,
                  T *y)
{
    int64_t i = grid_thread();
    int at = (int)(i % groups), step = (int)(grid_threads() % groups);
    for (; i < n; i += grid_threads()) {
        pack_of<T, N> x = load_pack<T, N>(from + i * N), add;
        if (z)
            add = load_pack<T, N>(z + i * N);
#pragma unroll
        for (int k = 0; k < N; k++) {
            float sum = to_f32<T>(x.at[k]);
            if (shift)
                sum += shift[at * N + k];
            if (z)
                sum += to_f32<T>(add.at[k]);
            x.at[k] = from_f32<T>(relu && sum < 0 ? 0.0f : sum);
        }
        store_pack<T, N>(y + i * N, x);
        at += step;
        at -= at >= groups ? groups : 0;
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

extern "C" pare_status pare__conv_weights(pare_backend *be, const pare_tensor *w,
                                          const float *scale, pare_dtype dtype, void *to)
{
    int64_t n = pare_tensor_count(w);
    int taps = (int)(w->shape[2] * w->shape[3]), C = (int)w->shape[1];
    PARE_ACT_TYPE(w->dtype, W, {
        PARE_ACT_TYPE(dtype, T, {
            PARE_LAUNCH(be, (k_conv_weights<W, T>), pare__grid(be, n, THREADS), THREADS, 0,
                        (const W *)w->data, scale, n, taps, C, (T *)to);
        });
    });
    return PARE_OK;
}

extern "C" pare_status pare__conv_weights_back(pare_backend *be, const float *from, int64_t pitch,
                                               const pare_tensor *dw, bool accumulate)
{
    int64_t n = pare_tensor_count(dw);
    PARE_LAUNCH(be, k_conv_weights_back, pare__grid(be, n, THREADS), THREADS, 0, from, pitch, n,
                (int)(dw->shape[2] * dw->shape[3]), (int)dw->shape[1], (float *)dw->data,
                accumulate);
    return PARE_OK;
}

/* Whether rows of C elements, moved by whole ones, can go in packs of N. */
template <typename T, int N> static bool goes_in_packs(int64_t C, const void *a, const void *b)
{
    return C % N == 0 && pare__aligned(a, sizeof(T) * N) && pare__aligned(b, sizeof(T) * N);
}

template <typename S, typename T, int N>
static pare_status launch_shift(pare_backend *be, const pare_tensor *from, const pare_tensor *to,
                                int64_t top, int64_t left)
{
    int64_t C = from->shape[3] / N;
    PARE_LAUNCH(be, (k_conv_shift<S, T, N>), to->shape[0] * to->shape[1], THREADS, 0,
                (const S *)from->data, from->shape[1], from->shape[2] * C, (T *)to->data,
                to->shape[1], to->shape[2] * C, top, left * C);
    return PARE_OK;
}

extern "C" pare_status pare__conv_shift(pare_backend *be, const pare_tensor *from,
                                        const pare_tensor *to, int64_t top, int64_t left)
{
    int64_t C = from->shape[3];
    if (from->dtype != to->dtype)
        return launch_shift<__nv_bfloat16, float, 1>(be, from, to, top, left);
    PARE_ACT_TYPE(to->dtype, T, {
        constexpr int N = 16 / sizeof(T);
        if (goes_in_packs<T, N>(C, from->data, to->data))
            return launch_shift<T, T, N>(be, from, to, top, left);
        return launch_shift<T, T, 1>(be, from, to, top, left);
    });
}

extern "C" pare_status pare__conv_columns(pare_backend *be, const conv_columns *args)
{
    const int64_t *x = args->x.shape;
    const pare_window *w = &args->window;
    const __nv_bfloat16 *from = (const __nv_bfloat16 *)args->x.data;
    __nv_bfloat16 *to = (__nv_bfloat16 *)args->to;
    int64_t places = x[0] * args->rows * args->cols, blocks = pare__grid(be, places, WARPS);
    columns_shape s = {places,
                       (int)args->rows,
                       (int)args->cols,
                       (int)x[1],
                       (int)x[2],
                       (int)x[3],
                       w->kernel[0] * w->kernel[1],
                       w->kernel[1],
                       {w->stride[0], w->stride[1]},
                       {w->dilation[0], w->dilation[1]},
                       {w->pad_top, w->pad_left},
                       (int)args->pitch};
    if (goes_in_packs<__nv_bfloat16, 8>(x[3], from, to)) {
        s.packs /= 8;
        PARE_LAUNCH(be, (k_conv_columns<8>), blocks, THREADS, 0, from, s, to);
    } else {
        PARE_LAUNCH(be, (k_conv_columns<1>), blocks, THREADS, 0, from, s, to);
    }
    return PARE_OK;
}

template <typename T, int N>
static pare_status launch_finish(pare_backend *be, const void *from, const pare_tensor *y,
                                 const float *shift, const void *z, bool relu)
{
    int64_t n = pare_tensor_count(y) / N;
    PARE_LAUNCH(be, (k_conv_finish<T, N>), pare__grid(be, n, THREADS), THREADS, 0, (const T *)from,
                shift, (const T *)z, n, (int)(y->shape[3] / N), relu, (T *)y->data);
    return PARE_OK;
}

extern "C" pare_status pare__conv_finish(pare_backend *be, const void *from, const pare_tensor *y,
                                         const float *shift, const void *z, bool relu)
{
    PARE_ACT_TYPE(y->dtype, T, {
        constexpr int N = 16 / sizeof(T);
        if (goes_in_packs<T, N>(y->shape[3], from, y->data) && pare__aligned(z, 16))
            return launch_finish<T, N>(be, from, y, shift, z, relu);
        return launch_finish<T, 1>(be, from, y, shift, z, relu);
    });
}
