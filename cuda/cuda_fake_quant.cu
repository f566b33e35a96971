/* cuda_fake_quant.cu - rounding that training looks through, and its gradients.
 *
 *   fake_quant        y = s·clamp(rint(x/s), lo, hi)
 *   fake_quant_grad   dx = dy inside the range, else 0;
 *                     ds = Σ dy·(rint(x/s) − x/s inside, lo below, hi above)
 *
 * Forward, a thread has one place in a row, N columns wide, and four rows, as in cuda_quant.cu.
 * Backward, the blocks of the steps are cut into pieces of up to 4096 elements, a warp or 256
 * threads each, which lie over a piece with as many of them side by side as it has packs of
 * columns; what a piece sums is a step's gradient if a block is one piece, else a number that a
 * second launch adds up in f64. The order of every sum is fixed by the shape. Quotients are true
 * ones: the bytes of y and dx are the CPU's.
 *
 * Bound by memory: 8 bytes an element forward in F32 (4 in BF16, 1 more for codes, for a mask),
 * 12 (6) backward. Predicted: 85 % of the copy rate where blocks are at least 128 columns wide; no
 * GPU has measured it yet.
 */
#include "cuda_quant.cuh"

/* The step, or 0 where it is none. */
static __device__ __forceinline__ float sound_step(float s)
{
    return s > 0.0f && quant_finite(s) ? s : 0.0f;
}

/* Whether packs of N elements lie within a row and within a block. */
static bool packs_fit(int64_t C, int64_t block_cols, int N)
{
    return C % N == 0 && (block_cols % N == 0 || block_cols >= C);
}

/* ---- forward --------------------------------------------------------------------------------- */

struct forward_job {
    quant_sheet sheet;
    int64_t block_rows, block_cols, across;
    const float *step;
    const uint8_t *mask; /* or NULL */
    int8_t *codes;       /* or NULL */
    float lo, hi;
};

/* One element; its code's byte goes to *code. A NaN stays one, with code 0. */
static __device__ __forceinline__ float round_element(float x, float s, bool keep, float lo,
                                                      float hi, int8_t *code)
{
    float t = x / s;
    bool nan = t != t;
    float shifted = fminf(fmaxf(t, lo), hi) + QUANT_RINT;
    float y = nan ? t : s * (shifted - QUANT_RINT);
    *code = keep && !nan ? (int8_t)__float_as_uint(shifted) : (int8_t)0;
    return keep ? y : 0.0f;
}

template <typename T, int N>
static __global__ void __launch_bounds__(QUANT_THREADS)
    k_fake_quant(forward_job j, const T *x, T *y)
{
    quant_spot spot = quant_spot_of<N>(j.sheet);
    pack_of<T, N> in[QUANT_TURNS];
    pack_of<uint8_t, N> kept[QUANT_TURNS];
    float s[QUANT_TURNS];
    if (spot.col >= j.sheet.C)
        return;
    int64_t block = quant_div(spot.col, j.block_cols);
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below, at = row * j.sheet.C + spot.col;
        if (row >= j.sheet.R)
            break;
        in[t] = load_pack<T, N>(x + at);
        if (j.mask)
            kept[t] = load_pack<uint8_t, N>(j.mask + at);
        s[t] = sound_step(j.step[quant_div(row, j.block_rows) * j.across + block]);
    }
#pragma unroll
    for (int t = 0; t < QUANT_TURNS; t++) {
        int64_t row = spot.row + t * spot.below, at = row * j.sheet.C + spot.col;
        if (row >= j.sheet.R)
            return;
        pack_of<T, N> out;
        pack_of<int8_t, N> code;
#pragma unroll
        for (int i = 0; i < N; i++) {
            bool keep = s[t] > 0.0f && (!j.mask || kept[t].at[i] != 0);
            out.at[i] = from_f32<T>(
                round_element(to_f32(in[t].at[i]), s[t], keep, j.lo, j.hi, &code.at[i]));
        }
        store_pack<T, N>(y + at, out);
        if (j.codes)
            store_pack<int8_t, N>(j.codes + at, code);
    }
}

template <typename T, int N>
static pare_status fake_quant(pare_backend *be, const pare_fake_quant_args *a)
{
    forward_job j = {quant_sheet_of(a->x.shape[0], a->x.shape[1], N),
                     a->block_rows,
                     a->block_cols,
                     a->step.shape[1],
                     (const float *)a->step.data,
                     (const uint8_t *)a->mask.data,
                     (int8_t *)a->codes.data,
                     (float)a->lo,
                     (float)a->hi};
    PARE_LAUNCH(be, (k_fake_quant<T, N>), quant_sheet_blocks(&j.sheet), QUANT_THREADS, 0, j,
                (const T *)a->x.data, (T *)a->y.data);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_fake_quant(pare_backend *be, const pare_fake_quant_args *args)
{
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = 16 / (int)sizeof(T);
        if (packs_fit(args->x.shape[1], args->block_cols, N) && pare__aligned(args->x.data, 16) &&
            pare__aligned(args->y.data, 16) && pare__aligned(args->mask.data, N) &&
            pare__aligned(args->codes.data, N))
            PARE_TRY((fake_quant<T, N>(be, args)));
        else
            PARE_TRY((fake_quant<T, 1>(be, args)));
    });
    return PARE_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

#define PIECE 4096  /* elements of a piece at most */
#define THREADS 256 /* of a block of threads, and of a piece of more than SMALL elements */
#define SMALL 1024  /* a warp does these alone */
#define MERGE 32    /* lanes that add up the pieces of a block */

struct grad_job {
    int64_t R, C, block_rows, block_cols, across;
    int64_t rows, cols;         /* of a piece */
    int64_t pieces, down, wide; /* all; of one block, down and side by side */
    const float *step;
    const uint8_t *mask; /* or NULL */
    float lo, hi;
};

/* Where a piece begins and ends. */
struct grad_piece {
    int64_t block, row, row_end, col, col_end;
};

/* Pieces are counted block by block, those of one block after each other. */
static __device__ __forceinline__ grad_piece grad_piece_at(const grad_job &j, int64_t p)
{
    int64_t each = j.down * j.wide, block = quant_div(p, each), k = p - block * each;
    int64_t down = quant_div(block, j.across), across = block - down * j.across;
    int64_t kr = quant_div(k, j.wide), kc = k - kr * j.wide;
    grad_piece g;
    g.block = block;
    g.row = down * j.block_rows + kr * j.rows;
    g.row_end = min(min(g.row + j.rows, j.R), (down + 1) * j.block_rows);
    g.col = across * j.block_cols + kc * j.cols;
    g.col_end = min(min(g.col + j.cols, j.C), (across + 1) * j.block_cols);
    return g;
}

/* One element: what x's gradient gets, and (added to *sum) what the step's does. */
static __device__ __forceinline__ float grad_element(float x, float dy, float s, bool keep,
                                                     float lo, float hi, float *sum)
{
    float t = x / s, dx = 0.0f, slope = 0.0f;
    if (t >= lo && t <= hi) {
        dx = dy;
        slope = t + QUANT_RINT - QUANT_RINT - t;
    } else if (t < lo) {
        slope = lo;
    } else if (t > hi) {
        slope = hi;
    }
    if (!keep)
        return 0.0f;
    *sum += t == t ? dy * slope : 0.0f;
    return dx;
}

/* L threads a piece, 32 or all. */
template <typename T, int N, int L>
static __global__ void __launch_bounds__(THREADS)
    k_fake_quant_grad(grad_job j, int lanes, const T *x, const T *dy, T *dx, double *part)
{
    PARE_SHARED_ARRAY(double, room, 32);
    const int thread = threadIdx.x % L, lane = thread % lanes, group = thread / lanes;
    const int64_t p = (int64_t)blockIdx.x * (THREADS / L) + threadIdx.x / L;
    double sum = 0;
    if (p < j.pieces) {
        grad_piece g = grad_piece_at(j, p);
        float s = sound_step(j.step[g.block]);
        for (int64_t r = g.row + group; r < g.row_end; r += L / lanes) {
            float here = 0;
            for (int64_t c = g.col + lane * N; c < g.col_end; c += lanes * N) {
                pack_of<T, N> a = load_pack<T, N>(x + r * j.C + c);
                pack_of<T, N> b = load_pack<T, N>(dy + r * j.C + c), out;
                pack_of<uint8_t, N> kept;
                if (j.mask)
                    kept = load_pack<uint8_t, N>(j.mask + r * j.C + c);
#pragma unroll
                for (int i = 0; i < N; i++)
                    out.at[i] = from_f32<T>(grad_element(to_f32(a.at[i]), to_f32(b.at[i]), s,
                                                         s > 0.0f && (!j.mask || kept.at[i] != 0),
                                                         j.lo, j.hi, &here));
                store_pack<T, N>(dx + r * j.C + c, out);
            }
            sum += (double)here;
        }
    }
    if (!part)
        return;
    sum = L == PARE_WARP ? warp_sum(sum) : block_sum(sum, room);
    if (p < j.pieces && thread == 0)
        part[p] = sum;
}

/* A warp a step: its pieces, 32 apart each. */
static __global__ void __launch_bounds__(THREADS)
    k_fake_quant_merge(const double *part, int64_t blocks, int64_t each, float *dstep,
                       float step_scale, bool accumulate)
{
    const int lane = threadIdx.x % MERGE;
    const int64_t block = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / MERGE;
    double sum = 0;
    if (block < blocks)
        for (int64_t k = lane; k < each; k += MERGE)
            sum += part[block * each + k];
    sum = warp_sum(sum) * (double)step_scale;
    if (block < blocks && lane == 0)
        dstep[block] = (float)(accumulate ? (double)dstep[block] + sum : sum);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static grad_job grad_job_of(const pare_fake_quant_grad_args *a)
{
    int64_t R = a->x.shape[0], C = a->x.shape[1];
    grad_job j = {};
    j.R = R;
    j.C = C;
    j.block_rows = least(a->block_rows, R);
    j.block_cols = least(a->block_cols, C);
    j.across = a->step.shape[1];
    j.cols = least(j.block_cols, PIECE);
    j.rows = least(j.block_rows, PIECE / j.cols);
    j.down = pare__blocks(j.block_rows, j.rows);
    j.wide = pare__blocks(j.block_cols, j.cols);
    j.pieces = a->step.shape[0] * j.across * j.down * j.wide;
    j.step = (const float *)a->step.data;
    j.mask = (const uint8_t *)a->mask.data;
    j.lo = (float)a->lo;
    j.hi = (float)a->hi;
    return j;
}

template <typename T, int N>
static pare_status fake_quant_grad(pare_backend *be, const pare_fake_quant_grad_args *a)
{
    grad_job j = grad_job_of(a);
    const T *x = (const T *)a->x.data, *dy = (const T *)a->dy.data;
    T *dx = (T *)a->dx.data;
    int64_t blocks = pare_tensor_count(&a->step), packs = pare__blocks(j.cols, N);
    bool small = j.rows * j.cols <= SMALL;
    int lanes = 1;
    while (lanes < (small ? PARE_WARP : THREADS) && lanes < packs)
        lanes *= 2;
    void *memory = NULL;
    if (a->dstep.data)
        PARE_TRY(pare__scratch(be, (size_t)j.pieces * sizeof(double), &memory));
    double *part = (double *)memory;
    if (small)
        PARE_LAUNCH(be, (k_fake_quant_grad<T, N, PARE_WARP>),
                    pare__blocks(j.pieces, THREADS / PARE_WARP), THREADS, 0, j, lanes, x, dy, dx,
                    part);
    else
        PARE_LAUNCH(be, (k_fake_quant_grad<T, N, THREADS>), j.pieces, THREADS, 0, j, lanes, x, dy,
                    dx, part);
    if (part)
        PARE_LAUNCH(be, k_fake_quant_merge, pare__blocks(blocks, THREADS / MERGE), THREADS, 0,
                    (const double *)part, blocks, j.down * j.wide, (float *)a->dstep.data,
                    a->step_scale, a->accumulate);
    return PARE_OK;
}

extern "C" pare_status pare_cuda_fake_quant_grad(pare_backend *be,
                                                 const pare_fake_quant_grad_args *args)
{
    if (pare_tensor_count(&args->x) == 0)
        return PARE_OK;
    PARE_ACT_TYPE(args->x.dtype, T, {
        constexpr int N = 16 / (int)sizeof(T);
        if (packs_fit(args->x.shape[1], args->block_cols, N) && pare__aligned(args->x.data, 16) &&
            pare__aligned(args->dy.data, 16) && pare__aligned(args->dx.data, 16) &&
            pare__aligned(args->mask.data, N))
            PARE_TRY((fake_quant_grad<T, N>(be, args)));
        else
            PARE_TRY((fake_quant_grad<T, 1>(be, args)));
    });
    return PARE_OK;
}
