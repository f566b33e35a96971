/* cuda_sweep.cu - the column sweep within a panel (obs_block), and the scores that a choice for a
 * whole panel is made by (keys_obs).
 *
 * Eight lanes have a row, a block 32 rows. The panel of u and the rows lie in shared memory. For
 * every column, in order, the eight lanes all compute its code and error, and then each moves its
 * share of the columns behind it, four at a time: of 32 columns lane l has 4l … 4l + 3, so that one
 * access of the eight is 128 bytes without a gap, and the four rows of a warp lie in different
 * banks. Only the lanes of a warp meet within a row. Errors and codes are written eight columns at
 * a time, a lane one each. Products and differences are rounded one by one and quotients are true
 * ones: the bytes are the CPU's.
 *
 * Bound by latency: a column is a chain of about 220 cycles (two quotients, a rounding, a way
 * through shared memory and back), 128 of them 14 µs at 1.98 GHz; meanwhile 8 warps a
 * multiprocessor issue 128·8·80 instructions, which is 10 µs. Predicted for a layer of 4096 × 4096,
 * 32 panels: 0.5 ms; beside 32 calls of obs_update, 6.9e10 FLOP in f32, 1.6 ms at 65 % of 67
 * TFLOP/s, their scales, and the factor: permute 0.1 ms, cholesky and tri_inverse 2.3e10 FLOP each,
 * 4 ms together at a sixth of the peak. In all 7 ms. No GPU has measured it yet.
 */
#include "cuda_quant.cuh"

#include "cuda_nf4.cuh"

#define PANEL PARE_OBS_PANEL
#define ROW_LANES 8
#define THREADS 256
#define BLOCK_ROWS (THREADS / ROW_LANES)
#define STRIDE (PANEL + 4) /* of a row of w: the next row begins four banks further */
#define WORDS (PANEL / 32) /* of the bits of a row */

struct sweep_job {
    int64_t R, C;
    int N; /* columns of the panel */
    int n, m;
    float *w, *err;
    const float *u; /* its element [first, first] */
    const uint8_t *frozen;
    uint8_t *mask;
    double *loss;
    const float *scale;
    const int8_t *zero;
    int8_t *codes;
    int64_t block_rows, across;
    int block_cols;
    float least, most; /* integer codes */
};

/* What a block has in shared memory. */
struct sweep_room {
    float u[PANEL][PANEL];
    float w[BLOCK_ROWS][STRIDE];
    float score[BLOCK_ROWS][STRIDE];
    uint32_t live[BLOCK_ROWS][WORDS], keep[BLOCK_ROWS][WORDS];
    float middle[16], level[16];
};

/* The eight lanes of a row. */
struct sweep_row {
    int64_t row; /* of the matrix; R and more: none */
    int lane;
    bool there;
    float *w, *score;
    uint32_t *live, *keep;
};

static __device__ __forceinline__ bool bit_of(const uint32_t *words, int c)
{
    return words[c / 32] >> c % 32 & 1u;
}

/* ---- in and out ------------------------------------------------------------------------------ */

static __device__ __forceinline__ void load_factor(const sweep_job &j, sweep_room *s)
{
    for (int i = threadIdx.x; i < j.N * PANEL; i += THREADS) {
        int r = i / PANEL, c = i % PANEL;
        s->u[r][c] = c >= r && c < j.N ? j.u[r * j.C + c] : 0.0f;
    }
}

/* Bits of a row of a mask; without a mask all are set. */
static __device__ __forceinline__ void load_bits(const sweep_job &j, const sweep_row &me,
                                                 const uint8_t *mask, uint32_t *words)
{
    int width = (j.N + 7) / 8;
    uint8_t *bytes = (uint8_t *)words;
    for (int i = me.lane; i < PANEL / 8; i += ROW_LANES)
        bytes[i] = !mask ? 0xff : me.there && i < width ? mask[me.row * width + i] : 0;
}

static __device__ __forceinline__ void load_row(const sweep_job &j, const sweep_row &me)
{
    for (int c = me.lane; c < PANEL; c += ROW_LANES)
        me.w[c] = me.there && c < j.N ? j.w[me.row * j.N + c] : 0.0f;
    load_bits(j, me, j.frozen, me.live);
    load_bits(j, me, j.mask, me.keep);
}

static __device__ __forceinline__ void store_row(const sweep_job &j, const sweep_row &me,
                                                 double loss)
{
    if (!me.there)
        return;
    for (int c = me.lane; c < j.N; c += ROW_LANES)
        j.w[me.row * j.N + c] = me.w[c];
    if (me.lane == 0)
        j.loss[me.row] = loss;
    int width = (j.N + 7) / 8;
    if (j.m > 0)
        for (int i = me.lane; i < width; i += ROW_LANES)
            j.mask[me.row * width + i] = ((const uint8_t *)me.keep)[i];
}

/* ---- choice ---------------------------------------------------------------------------------- */

/* Of the m columns from c on the m − n of lowest ((w/u)², index) lose their bits. Each lane has
 * every eighth of them. All lanes of the warp call. */
static __device__ __forceinline__ void choose(const sweep_job &j, const sweep_room *s,
                                              const sweep_row &me, int c)
{
    for (int i = c + me.lane; i < c + j.m; i += ROW_LANES) {
        float x = (bit_of(me.live, i) ? me.w[i] : 0.0f) / s->u[i][i];
        me.score[i] = x * x;
    }
    __syncwarp();
    for (int i = c + me.lane; i < c + j.m; i += ROW_LANES) {
        uint32_t own = __float_as_uint(me.score[i]) & 0x7fffffffu;
        int wins = 0;
        for (int k = c; k < c + j.m; k++) { /* of two equals the later one wins */
            uint32_t other = __float_as_uint(me.score[k]) & 0x7fffffffu;
            wins += k < i ? own >= other : own > other;
        }
        if (wins < j.m - j.n)
            atomicAnd(&me.keep[i / 32], ~(1u << i % 32));
    }
    __syncwarp();
}

/* ---- one column ------------------------------------------------------------------------------ */

/* The code of x, and its value. */
template <int TYPE>
static __device__ __forceinline__ float rounded(const sweep_job &j, const sweep_room *s, float x,
                                                float scale, float zero, int8_t *code)
{
    float t = x / scale;
    if constexpr (TYPE == PARE_QUANT_INT) {
        *code = (int8_t)quant_int_bits(t + zero, j.least, j.most);
        return ((float)*code - zero) * scale;
    } else if constexpr (TYPE == PARE_QUANT_E4M3) {
        *code = (int8_t)quant_e4m3_bits(t);
        return quant_e4m3_value((uint8_t)*code) * scale;
    } else {
        *code = (int8_t)nf4_code(t, s->middle);
        return s->level[*code] * scale;
    }
}

/* What a pruned weight has for a code. */
template <int TYPE> static __device__ __forceinline__ int8_t no_code(float zero)
{
    return TYPE == PARE_QUANT_NF4 ? 7 : (int8_t)zero;
}

/* The columns behind c lose their share of the error e. Those before it, in the same four, do too,
 * times the zeros of u: nothing. */
static __device__ __forceinline__ void move_behind(const sweep_job &j, const sweep_room *s,
                                                   const sweep_row &me, int c, float e)
{
    for (int at = c / 32 * 32 + 4 * me.lane; at < j.N; at += 32) {
        if (at + 3 <= c)
            continue;
        pack_of<float, 4> w = load_pack<float, 4>(me.w + at);
        pack_of<float, 4> u = load_pack<float, 4>(&s->u[c][at]);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float moved = w.at[k] - e * u.at[k];
            w.at[k] = at + k > c ? moved : w.at[k];
        }
        store_pack<float, 4>(me.w + at, w);
    }
}

/* Column c of a row: the error. */
template <int TYPE>
static __device__ __forceinline__ float sweep_column(const sweep_job &j, const sweep_room *s,
                                                     const sweep_row &me, int c, float scale,
                                                     float zero, int8_t *code)
{
    bool live = bit_of(me.live, c), keep = live && bit_of(me.keep, c);
    float x = live ? me.w[c] : 0.0f, q = x;
    if constexpr (TYPE != PARE_QUANT_NONE) {
        q = rounded<TYPE>(j, s, x, scale, zero, code);
        *code = keep ? *code : no_code<TYPE>(zero);
    }
    q = keep ? q : 0.0f;
    float e = (x - q) / s->u[c][c];
    __syncwarp(); /* all have read column c */
    if (me.lane == 0)
        me.w[c] = q;
    __syncwarp(); /* the lane that has c among its four reads it again */
    move_behind(j, s, me, c, e);
    __syncwarp();
    return e;
}

/* ---- obs_block ------------------------------------------------------------------------------- */

template <int TYPE> static __global__ void __launch_bounds__(THREADS) k_obs_block(sweep_job j)
{
    PARE_SHARED_DYNAMIC(sweep_room, s);
    sweep_row me;
    int own = threadIdx.x / ROW_LANES, left = 0, mine = threadIdx.x % ROW_LANES;
    me.row = (int64_t)blockIdx.x * BLOCK_ROWS + own;
    me.lane = mine;
    me.there = me.row < j.R;
    me.w = s->w[own];
    me.score = s->score[own];
    me.live = s->live[own];
    me.keep = s->keep[own];
    load_factor(j, s);
    load_row(j, me);
    if (TYPE == PARE_QUANT_NF4 && threadIdx.x < 16) {
        s->middle[threadIdx.x] = threadIdx.x < 15 ? nf4_middle(threadIdx.x) : 0.0f;
        s->level[threadIdx.x] = nf4_level[threadIdx.x];
    }
    __syncthreads();
    double loss = me.there ? j.loss[me.row] : 0.0;
    int64_t block = TYPE != PARE_QUANT_NONE && me.there ? me.row / j.block_rows * j.across : 0;
    float scale = 1.0f, zero = 0.0f, held_err = 0.0f;
    int8_t held_code = 0;
    for (int c = 0; c < j.N; c++) {
        int8_t code = 0;
        if (j.m > 0 && c % j.m == 0 && c + j.m <= j.N)
            choose(j, s, me, c);
        if (TYPE != PARE_QUANT_NONE && left == 0) {
            scale = me.there ? j.scale[block] : 1.0f;
            zero = me.there && j.zero ? (float)j.zero[block] : 0.0f;
            left = j.block_cols;
            block++;
        }
        left--;
        float e = sweep_column<TYPE>(j, s, me, c, scale, zero, &code);
        loss += (double)e * (double)e;
        held_err = c % ROW_LANES == mine ? e : held_err;
        held_code = c % ROW_LANES == mine ? code : held_code;
        if (me.there && (c % ROW_LANES == ROW_LANES - 1 || c == j.N - 1)) {
            int at = c / ROW_LANES * ROW_LANES + mine;
            if (at <= c) {
                j.err[me.row * j.N + at] = held_err;
                if (TYPE != PARE_QUANT_NONE)
                    j.codes[me.row * j.N + at] = held_code;
            }
        }
    }
    store_row(j, me, loss);
}

static sweep_job sweep_job_of(const pare_obs_block_args *a)
{
    float half = a->scheme.type == PARE_QUANT_INT ? (float)(1 << (a->scheme.bits - 1)) : 0.0f;
    sweep_job j = {};
    j.R = a->w.shape[0];
    j.C = a->u.shape[0];
    j.N = (int)a->w.shape[1];
    j.n = a->n;
    j.m = a->m;
    j.w = (float *)a->w.data;
    j.err = (float *)a->err.data;
    j.u = (const float *)a->u.data + a->first * (j.C + 1);
    j.frozen = (const uint8_t *)a->frozen.data;
    j.mask = (uint8_t *)a->mask.data;
    j.loss = (double *)a->loss.data;
    j.scale = (const float *)a->scale.data;
    j.zero = (const int8_t *)a->zero.data;
    j.codes = (int8_t *)a->codes.data;
    j.block_rows = a->block_rows;
    j.across = a->scale.shape[1];
    j.block_cols = (int)(a->block_cols < PANEL ? a->block_cols : PANEL);
    j.least = -half;
    j.most = half - 1.0f;
    return j;
}

extern "C" pare_status pare_cuda_obs_block(pare_backend *be, const pare_obs_block_args *args)
{
    if (pare_tensor_count(&args->w) == 0)
        return PARE_OK;
    sweep_job j = sweep_job_of(args);
    int64_t blocks = pare__blocks(j.R, BLOCK_ROWS);
    if (args->scheme.type == PARE_QUANT_INT)
        PARE_LAUNCH(be, (k_obs_block<PARE_QUANT_INT>), blocks, THREADS, sizeof(sweep_room), j);
    else if (args->scheme.type == PARE_QUANT_E4M3)
        PARE_LAUNCH(be, (k_obs_block<PARE_QUANT_E4M3>), blocks, THREADS, sizeof(sweep_room), j);
    else if (args->scheme.type == PARE_QUANT_NF4)
        PARE_LAUNCH(be, (k_obs_block<PARE_QUANT_NF4>), blocks, THREADS, sizeof(sweep_room), j);
    else
        PARE_LAUNCH(be, (k_obs_block<PARE_QUANT_NONE>), blocks, THREADS, sizeof(sweep_room), j);
    return PARE_OK;
}

/* ---- keys_obs -------------------------------------------------------------------------------- */

#define KEYS_COLS 32
#define KEYS_ROWS 64 /* of a block; a thread has every eighth */

struct keys_job {
    int64_t R, N, C;
    int64_t across; /* blocks side by side */
    const float *w, *u;
    const uint8_t *frozen;
    uint32_t *keys;
};

/* A thread has a column and reads its element of u once: a warp's 32 lie in as many sectors. */
static __global__ void __launch_bounds__(THREADS) k_keys_obs(keys_job j)
{
    int64_t down = blockIdx.x / j.across, tile = blockIdx.x - down * j.across;
    int64_t c = tile * KEYS_COLS + threadIdx.x % KEYS_COLS, width = (j.N + 7) / 8;
    if (c >= j.N)
        return;
    float d = j.u[c * (j.C + 1)];
    for (int t = threadIdx.x / KEYS_COLS; t < KEYS_ROWS; t += THREADS / KEYS_COLS) {
        int64_t r = down * KEYS_ROWS + t;
        if (r >= j.R)
            break;
        float x = j.w[r * j.N + c] / d;
        bool live = !j.frozen || (j.frozen[r * width + c / 8] >> c % 8 & 1);
        j.keys[r * j.N + c] = live ? __float_as_uint(x * x) & 0x7fffffffu : 0;
    }
}

extern "C" pare_status pare_cuda_keys_obs(pare_backend *be, const pare_keys_obs_args *args)
{
    keys_job j = {args->w.shape[0],
                  args->w.shape[1],
                  args->u.shape[0],
                  pare__blocks(args->w.shape[1], KEYS_COLS),
                  (const float *)args->w.data,
                  (const float *)args->u.data + args->first * (args->u.shape[0] + 1),
                  (const uint8_t *)args->frozen.data,
                  (uint32_t *)args->keys.data};
    PARE_LAUNCH(be, k_keys_obs, j.across * pare__blocks(j.R, KEYS_ROWS), THREADS, 0, j);
    return PARE_OK;
}
