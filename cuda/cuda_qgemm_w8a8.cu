/* cuda_qgemm_w8a8.cu - c = x·wᵀ of int8 codes, x being quantised by row on the way.
 *
 *     c[m, n] = sx[m]·scale[n]·Σ qx[m, k]·w[n, k] (+ bias[n])
 *
 * First a kernel writes the codes of x [M, Kp], Kp a multiple of 128 with zeros behind K, and its
 * scales (2 or 4 bytes read and 1 written an element, a block a row, the row read a second time out
 * of the caches). Then, by the tensor cores (mma.sync, exact 32-bit sums, so any order gives the
 * same bytes; cuda_qgemm.cuh has the two regimes):
 *
 *   M ≤ 16  bound by memory: w is read once, 64 bytes of four rows under way in each lane.
 *           Predicted 80 % of the copy rate for N ≥ 8192; below, too few blocks to fill the device.
 *   else    tiles of 64 or 128 × 128, pieces of 128 bytes, three in shared memory (96 KiB), copied
 *           there beside the arithmetic. Predicted 45 % of the int8 peak of an H100 (mma.sync alone
 *           reaches some 60 % of it), 65 % of an A100's.
 *
 * No GPU has measured these yet. Where rows of w are not multiples of 16 bytes its bytes are read
 * one by one: right, and several times slower.
 */
#include "cuda_nn.cuh"

#include "cuda_qgemm.cuh"

#define PIECES 3 /* in shared memory */

/* ---- codes of x ------------------------------------------------------------------------------ */

/* Numbers that a thread takes at once: a pack of 16 bytes, or N = 1: four, one by one. */
template <int N> constexpr int at_once = N > 1 ? N : 4;

/* Those of a row from k on, 0 behind K. */
template <typename T, int N>
static __device__ __forceinline__ void load_numbers(const T *row, int64_t k, int64_t K,
                                                    float v[at_once<N>])
{
    pack_of<T, N> pack;
    if (N > 1 && k < K)
        pack = load_pack<T, N>(row + k);
#pragma unroll
    for (int i = 0; i < at_once<N>; i++)
        if (k + i < K)
            v[i] = to_f32(N > 1 ? pack.at[i % N] : row[k + i]);
        else
            v[i] = 0.0f;
}

/* A block a row: codes [M, Kp] and scales [M]. Magnitudes are ordered as bits: NaN and Inf above
 * all. */
template <typename T, int N>
static __global__ void __launch_bounds__(QGEMM_THREADS)
    k_qgemm_w8a8_codes(const T *x, int64_t K, int64_t Kp, int8_t *codes, float *sx)
{
    constexpr int STEP = at_once<N>;
    PARE_SHARED_ARRAY(unsigned, room, QGEMM_WARPS);
    const T *row = x + blockIdx.x * K;
    float v[STEP];
    unsigned top = 0;
#pragma unroll 4
    for (int64_t k = (int64_t)threadIdx.x * STEP; k < K; k += QGEMM_THREADS * STEP) {
        load_numbers<T, N>(row, k, K, v);
#pragma unroll
        for (int i = 0; i < STEP; i++)
            top = max(top, __float_as_uint(v[i]) & 0x7fffffffu);
    }
    top = __reduce_max_sync(PARE_ALL_LANES, top);
    if (threadIdx.x % PARE_WARP == 0)
        room[threadIdx.x / PARE_WARP] = top;
    __syncthreads();
    for (int i = 0; i < QGEMM_WARPS; i++)
        top = max(top, room[i]);
    float s = __uint_as_float(top) / 127.5f;
    bool whole = top < 0x7f800000u;
    if (threadIdx.x == 0)
        sx[blockIdx.x] = whole ? s : NAN;
    for (int64_t k = (int64_t)threadIdx.x * STEP; k < Kp; k += QGEMM_THREADS * STEP) {
        pack_of<int8_t, STEP> out;
        load_numbers<T, N>(row, k, K, v);
#pragma unroll
        for (int i = 0; i < STEP; i++) {
            float q = whole && s > 0.0f ? rintf(v[i] / s) : 0.0f;
            out.at[i] = (int8_t)(int)fminf(127.0f, fmaxf(-128.0f, q));
        }
        store_pack<int8_t, STEP>(codes + blockIdx.x * Kp + k, out);
    }
}

/* ---- few rows of x --------------------------------------------------------------------------- */

/* COLS: groups of 8 rows of x. Lane 4g + t has bytes 16t … of rows g and g + 8 of w, and of row g
 * of the codes: chunks of 64 bytes of a row, one for each warp in turn. */
template <typename T, int COLS, bool WHOLE>
static __global__ void __launch_bounds__(QGEMM_THREADS)
    k_qgemm_w8a8_few(const int8_t *codes, int64_t Kp, const int8_t *w, int64_t K,
                     qgemm_result<T> result)
{
    PARE_SHARED_ARRAY(int, room, QGEMM_WARPS *QGEMM_ROWS * 8 * COLS);
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    int64_t n = (int64_t)blockIdx.x * QGEMM_ROWS;
    int sums[2][COLS][4] = {};
    const uint8_t *rows[4], *x[COLS];
    for (int i = 0; i < 4; i++) /* rows behind the last: the last one again, not stored */
        rows[i] = (const uint8_t *)w + min(n + lane / 4 + 8 * i, result.N - 1) * K;
    for (int j = 0; j < COLS; j++)
        x[j] = (const uint8_t *)codes + min((int64_t)(lane / 4 + 8 * j), result.M - 1) * Kp;
    int64_t k = warp * 64 + lane % 4 * 16;
    qgemm_chunk next[4];
    for (int i = 0; i < 4; i++)
        next[i] = qgemm_load<WHOLE>(rows[i] + k, K - k);
    for (int64_t round = warp * 64; round < Kp; round += QGEMM_WARPS * 64) {
        qgemm_chunk a[4], b[COLS];
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = next[i];
#pragma unroll
        for (int j = 0; j < COLS; j++)
            b[j] = *reinterpret_cast<const qgemm_chunk *>(x[j] + k);
        k += QGEMM_WARPS * 64;
#pragma unroll
        for (int i = 0; i < 4; i++)
            next[i] = qgemm_load<WHOLE>(rows[i] + k, K - k);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t both[4] = {a[2 * i].at[2 * h], a[2 * i + 1].at[2 * h],
                                    a[2 * i].at[2 * h + 1], a[2 * i + 1].at[2 * h + 1]};
#pragma unroll
                for (int j = 0; j < COLS; j++)
                    mma_s8(sums[i][j], both, b[j].at[2 * h], b[j].at[2 * h + 1]);
            }
    }
    qgemm_store_few<T, int, COLS>(result, n, sums, room);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* HIGH: 64 rows of x each, so many warps above each other. */
template <typename T, int HIGH, bool WHOLE>
static __global__ void __launch_bounds__(QGEMM_THREADS, WHOLE ? 2 : 1)
    k_qgemm_w8a8_tiles(const int8_t *codes, int64_t Kp, const int8_t *w, int64_t K,
                       qgemm_result<T> result)
{
    constexpr int M = 64 * HIGH, WIDE = QGEMM_N / (QGEMM_WARPS / HIGH) / 8;
    constexpr int BYTES = (M + QGEMM_N) * QGEMM_WIDTH;
    PARE_SHARED_DYNAMIC(uint8_t, pieces);
    int warp = threadIdx.x / PARE_WARP;
    int x_row = warp % HIGH * 64, w_row = warp / HIGH * 8 * WIDE;
    int64_t m = (int64_t)blockIdx.x * M, n = (int64_t)blockIdx.y * QGEMM_N;
    int count = (int)(Kp / QGEMM_WIDTH);
    qgemm_sums<int, WIDE> sums = {};
    for (int k = 0; k < count + PIECES - 1; k++) {
        copy_async_wait<PIECES - 2>(); /* piece k − (PIECES − 1) has landed, for this thread */
        __syncthreads(); /* … for all; and nobody reads the piece that is overwritten below */
        if (k < count) {
            uint8_t *x_piece = pieces + k % PIECES * BYTES, *w_piece = x_piece + M * QGEMM_WIDTH;
            int64_t at = (int64_t)k * QGEMM_WIDTH;
            qgemm_fetch<M, true>(x_piece, (const uint8_t *)codes, Kp, Kp, m, result.M, at);
            qgemm_fetch<QGEMM_N, WHOLE>(w_piece, (const uint8_t *)w, K, K, n, result.N, at);
        }
        copy_async_commit(); /* an empty group at the end: the count of those left stays right */
        if (k >= PIECES - 1) {
            const uint8_t *x_piece = pieces + (k - (PIECES - 1)) % PIECES * BYTES;
            qgemm_multiply(sums, x_piece, x_row, x_piece + M * QGEMM_WIDTH, w_row);
        }
    }
    qgemm_store_sums(result, m + x_row, n + w_row, sums);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename T, bool WHOLE>
static pare_status launch(pare_backend *be, const pare_qgemm_w8a8_args *args, const int8_t *codes,
                          int64_t Kp, const float *sx)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->w.shape[0];
    const int8_t *w = (const int8_t *)args->w.data;
    qgemm_result<T> result = {(T *)args->c.data,
                              sx,
                              (const float *)args->scale.data,
                              (const float *)args->bias.data,
                              M,
                              N};
    dim3 tiles((unsigned)pare__blocks(M, M <= 64 ? 64 : 128), (unsigned)pare__blocks(N, QGEMM_N));
    if (M <= 8)
        PARE_LAUNCH(be, (k_qgemm_w8a8_few<T, 1, WHOLE>), pare__blocks(N, QGEMM_ROWS), QGEMM_THREADS,
                    0, codes, Kp, w, K, result);
    else if (M <= QGEMM_FEW)
        PARE_LAUNCH(be, (k_qgemm_w8a8_few<T, 2, WHOLE>), pare__blocks(N, QGEMM_ROWS), QGEMM_THREADS,
                    0, codes, Kp, w, K, result);
    else if (M <= 64)
        PARE_LAUNCH(be, (k_qgemm_w8a8_tiles<T, 1, WHOLE>), tiles, QGEMM_THREADS,
                    PIECES * (64 + QGEMM_N) * QGEMM_WIDTH, codes, Kp, w, K, result);
    else
        PARE_LAUNCH(be, (k_qgemm_w8a8_tiles<T, 2, WHOLE>), tiles, QGEMM_THREADS,
                    PIECES * (128 + QGEMM_N) * QGEMM_WIDTH, codes, Kp, w, K, result);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_qgemm_w8a8(pare_backend *be, const pare_qgemm_w8a8_args *args)
{
    int64_t M = args->x.shape[0], K = args->x.shape[1], N = args->w.shape[0];
    int64_t Kp = pare__blocks(K, QGEMM_WIDTH) * QGEMM_WIDTH;
    bool whole = K % 16 == 0 && pare__aligned(args->w.data, 16);
    void *scratch = NULL;
    if (M == 0 || N == 0)
        return PARE_OK;
    PARE_TRY(pare__scratch(be, (size_t)M * ((size_t)Kp + sizeof(float)), &scratch));
    int8_t *codes = (int8_t *)scratch;
    float *sx = (float *)(codes + M * Kp);
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int PACK = 16 / sizeof(T);
        const T *x = (const T *)args->x.data;
        if (K % PACK == 0 && pare__aligned(x, 16))
            PARE_LAUNCH(be, (k_qgemm_w8a8_codes<T, PACK>), M, QGEMM_THREADS, 0, x, K, Kp, codes,
                        sx);
        else
            PARE_LAUNCH(be, (k_qgemm_w8a8_codes<T, 1>), M, QGEMM_THREADS, 0, x, K, Kp, codes, sx);
        if (whole)
            return launch<T, true>(be, args, codes, Kp, sx);
        return launch<T, false>(be, args, codes, Kp, sx);
    });
}
