/* cuda_quant_pack.cu - round to nearest in one pass: scales, zero points, codes, packed words.
 *
 *   s = round(max |w| / ((2^b - 1)/2)) of a group, q = clamp(rint(w/s)), 32 codes as b words
 *
 * 32 consecutive weights are a lane's unit, held in registers from the one read to the last write;
 * a warp moves 1024 of them in packs of 16 bytes side by side (cuda_quant.cuh). The units of a
 * group are a team of 1, 2, 4 … 32 lanes, or a block of threads (a row of channel-wise scales, up
 * to 32768 weights). What does not fit this (rows that are not whole units, odd groups, unaligned
 * memory) takes the plain way: scales first, then a thread a unit, which reads the weights again.
 *
 * A quotient costs a dozen instructions and more registers, so codes come from the reciprocal y of
 * s, 1/s rounded, the quotient's error taken out once or twice by fused multiply-add:
 *
 *   t = w·y,  v = t + (w - t·s)·y,  v = v + (w - v·s)·y
 *
 * Twice gives w/s rounded (Markstein 1990: y is 1/s rounded, and the v before is within a unit in
 * the last place). Once does if s has 11 bits or fewer (F16, BF16): with u = 2^-24, t is
 * within 2.01·u·|w/s| of w/s, so before its last rounding v is off by at most 2.01·u²·|w/s|, less
 * than 2^-22 units; a 24-bit number over one of 11 bits is 2^-12 units or more from where rounding
 * changes, which is at no quotient of floats. The differences are exact where they matter: scales
 * outside 2^±60 are first multiplied, with the weights, by 2^∓100, and a w too small for it is
 * below s/512, where every v rounds to the code of 0.
 *
 * Bound by memory: 2 + b/8 bytes a weight of F16 or BF16, of F32 two more, and about 12
 * instructions (half of them on the pipe for integers). Predicted for int4 g128 from bf16: 88 % of
 * the copy rate; no GPU has measured it yet.
 */
#include "cuda_quant.cuh"

#define THREADS 256
#define UNIT 32 /* weights */

/* Threads of a block that has teams of lanes, and most that a group may have: units of F32 take
 * more registers. */
#define MOST_THREADS(T_, WHOLE_) (!(WHOLE_) ? THREADS : sizeof(T_) == 4 ? 512 : 1024)

struct pack_job {
    quant_rule rule;
    int64_t R, C, G, across; /* G: columns of a group; across: groups in a row */
    int bits;
    int team_log2; /* lanes of a group, where it is not a block of threads */
    float *scale;
    int8_t *zero, *codes; /* either may be NULL */
    uint8_t *words;       /* or this */
    unsigned long long *bad;
};

/* ---- extremes --------------------------------------------------------------------------------
 * Greatest as signed and as unsigned bits; where no zero points are wanted, the greatest magnitude
 * alone. NaN and Inf are above all else. */

struct extremes {
    int top;
    unsigned bottom;
};

template <bool ASYMMETRIC> static __device__ __forceinline__ void add_bits(extremes *e, uint32_t x)
{
    if (ASYMMETRIC) {
        e->top = max(e->top, (int)x);
        e->bottom = max(e->bottom, x);
    } else {
        e->top = max(e->top, (int)(x & 0x7fffffffu));
    }
}

static __device__ __forceinline__ void join(extremes *e, int top, unsigned bottom)
{
    e->top = max(e->top, top);
    e->bottom = max(e->bottom, bottom);
}

/* Over 2^log2 lanes side by side. All lanes of the warp call. */
template <bool ASYMMETRIC> static __device__ __forceinline__ void join_lanes(extremes *e, int log2)
{
    for (int step = 1 << log2 >> 1; step > 0; step /= 2) {
        e->top = max(e->top, __shfl_xor_sync(PARE_ALL_LANES, e->top, step));
        if (ASYMMETRIC)
            e->bottom = max(e->bottom, __shfl_xor_sync(PARE_ALL_LANES, e->bottom, step));
    }
}

/* Two weights in an integer, and back. */
static __device__ __forceinline__ __half2 pair_of(uint32_t x, __half)
{
    return *reinterpret_cast<__half2 *>(&x);
}
static __device__ __forceinline__ __nv_bfloat162 pair_of(uint32_t x, __nv_bfloat16)
{
    return *reinterpret_cast<__nv_bfloat162 *>(&x);
}
static __device__ __forceinline__ float2 pair_values(__half2 x)
{
    return __half22float2(x);
}
static __device__ __forceinline__ float2 pair_values(__nv_bfloat162 x)
{
    return __bfloat1622float2(x);
}

/* Of the unit in the integers x. */
template <typename T, bool ASYMMETRIC, int N>
static __device__ __forceinline__ extremes unit_extremes(const uint32_t (&x)[N])
{
    extremes e = {0, 0};
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; i++)
            add_bits<ASYMMETRIC>(&e, x[i]);
    } else {
        auto hi = pair_of(x[0], T()), lo = hi;
        if (!ASYMMETRIC)
            hi = __habs2(hi);
#pragma unroll
        for (int i = 1; i < N; i++) {
            auto p = pair_of(x[i], T());
            hi = __hmax2_nan(hi, ASYMMETRIC ? p : __habs2(p));
            if (ASYMMETRIC)
                lo = __hmin2_nan(lo, p);
        }
        float2 h = pair_values(hi), l = pair_values(lo);
        add_bits<ASYMMETRIC>(&e, __float_as_uint(h.x));
        add_bits<ASYMMETRIC>(&e, __float_as_uint(h.y));
        if (ASYMMETRIC) {
            add_bits<ASYMMETRIC>(&e, __float_as_uint(l.x));
            add_bits<ASYMMETRIC>(&e, __float_as_uint(l.y));
        }
    }
    return e;
}

/* ---- scales ---------------------------------------------------------------------------------- */

struct group_scale {
    float s, z;
};

/* From the extremes; s is not finite if they, or it, are not. */
template <bool ASYMMETRIC>
static __device__ __forceinline__ group_scale scale_of(const quant_rule &rule, const extremes &e)
{
    float hi = __int_as_float(e.top), lo = 0.0f;
    group_scale g = {0.0f, 0.0f};
    if (ASYMMETRIC) {
        lo = e.bottom > 0x80000000u ? __uint_as_float(e.bottom) : 0.0f;
        if (e.bottom >= 0xff800000u)
            hi = NAN;
    }
    g.s = quant_scale_of(rule, lo, hi);
    if (ASYMMETRIC)
        g.z = quant_zero_of(rule, lo, g.s);
    return g;
}

/* What one thread of a team does. */
static __device__ __forceinline__ void store_scale(const pack_job &j, int64_t group,
                                                   const group_scale &g)
{
    if (!quant_finite(g.s)) {
        atomicMin(j.bad, (unsigned long long)group);
        return;
    }
    j.scale[group] = g.s;
    if (j.rule.asymmetric)
        j.zero[group] = (int8_t)g.z;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* What weights are divided by: s·by, its reciprocal, and what they are multiplied with before. */
struct divisor {
    float s, y, by;
    bool once; /* the quotient's error need be taken out once only; and s is so near to what it was
                  before rounding that, without zero points, no code comes below the least */
};

static __device__ __forceinline__ divisor divisor_of(const quant_rule &rule, float s)
{
    divisor d = {s, 0.0f, 1.0f, rule.dtype == PARE_BF16};
    if (rule.dtype == PARE_F16) /* smaller ones have fewer bits */
        d.once = s >= 0x1p-14f;
    if (s < 0x1p-60f || s > 0x1p+60f) {
        d.by = s < 1.0f ? 0x1p+100f : 0x1p-100f;
        d.once = false;
    }
    d.s = s * d.by;
    d.y = 1.0f / d.s;
    return d;
}

/* w/s, rounded. */
template <bool ONCE> static __device__ __forceinline__ float quotient(float w, const divisor &d)
{
    w = ONCE ? w : w * d.by;
    float t = w * d.y;
    t = fmaf(fmaf(-t, d.s, w), d.y, t);
    return ONCE ? t : fmaf(fmaf(-t, d.s, w), d.y, t);
}

/* Four of them as bytes. */
template <bool ASYMMETRIC, bool ONCE>
static __device__ __forceinline__ uint32_t four_codes(const float (&w)[4], const divisor &d,
                                                      float z, const quant_rule &rule)
{
    uint32_t q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float v = quotient<ONCE>(w[i], d);
        q[i] = ASYMMETRIC ? quant_int_bits(v + z, rule.least, rule.most)
               : ONCE     ? __float_as_uint(fminf(v, rule.most) + QUANT_RINT)
                          : quant_int_bits(v, rule.least, rule.most);
    }
    return __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
}

template <typename T, bool ASYMMETRIC, bool ONCE, int N>
static __device__ __forceinline__ void unit_codes(const uint32_t (&x)[N], const divisor &d, float z,
                                                  const quant_rule &rule, uint32_t (&bytes)[8])
{
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float w[4];
        if constexpr (sizeof(T) == 4) {
            for (int i = 0; i < 4; i++)
                w[i] = __uint_as_float(x[4 * k + i]);
        } else {
            float2 a = pair_values(pair_of(x[2 * k], T()));
            float2 b = pair_values(pair_of(x[2 * k + 1], T()));
            w[0] = a.x;
            w[1] = a.y;
            w[2] = b.x;
            w[3] = b.y;
        }
        bytes[k] = four_codes<ASYMMETRIC, ONCE>(w, d, z, rule);
    }
}

/* The words of a warp's `here` units, the first of which is `first`. */
template <int B>
static __device__ __forceinline__ void store_packed(const uint32_t (&bytes)[8], uint8_t *words,
                                                    int64_t first, int here, uint4 *room)
{
    const uint32_t half = (1u << (B - 1)) * 0x01010101u, mask = ((1u << B) - 1) * 0x01010101u;
    uint32_t u[8], word[B];
#pragma unroll
    for (int i = 0; i < 8; i++)
        u[i] = (bytes[i] ^ half) & mask; /* modulo 2^B, adding 2^(B-1) flips the top bit */
    squeeze<B>(u, word);
    store_words<B>((uint32_t *)words + first * B, here * B, (uint32_t *)room, word);
}

static __device__ __forceinline__ void store_bits(int bits, const uint32_t (&bytes)[8],
                                                  uint8_t *words, int64_t first, int here,
                                                  uint4 *room)
{
    switch (bits) {
    case 2:
        store_packed<2>(bytes, words, first, here, room);
        break;
    case 3:
        store_packed<3>(bytes, words, first, here, room);
        break;
    case 4:
        store_packed<4>(bytes, words, first, here, room);
        break;
    case 5:
        store_packed<5>(bytes, words, first, here, room);
        break;
    case 6:
        store_packed<6>(bytes, words, first, here, room);
        break;
    case 7:
        store_packed<7>(bytes, words, first, here, room);
        break;
    default:
        store_packed<8>(bytes, words, first, here, room);
    }
}

/* ---- one pass -------------------------------------------------------------------------------- */

template <typename T, bool ASYMMETRIC, bool WHOLE>
static __global__ void __launch_bounds__(MOST_THREADS(T, WHOLE))
    k_quant_pack(pack_job j, const T *w)
{
    const int N = UNIT * sizeof(T) / 16; /* packs of a unit */
    PARE_SHARED_DYNAMIC(uint4, rooms);
    PARE_SHARED_ARRAY(extremes, ends, MOST_THREADS(T, WHOLE) / PARE_WARP);
    int lane = threadIdx.x % PARE_WARP, warp = threadIdx.x / PARE_WARP;
    int64_t first = grid_thread() - lane, end = j.R * j.C / UNIT; /* units */
    if (WHOLE) {
        first = blockIdx.x * (j.G / UNIT) + warp * PARE_WARP;
        end = (blockIdx.x + 1) * (j.G / UNIT);
    }
    int here = first >= end ? 0 : (int)min((int64_t)PARE_WARP, end - first);
    uint4 *room = rooms + warp * PARE_WARP * N, unit[N];
    uint32_t x[4 * N], bytes[8];
    load_unit<N>((const uint4 *)(w + first * UNIT), here * N, room, unit);
#pragma unroll
    for (int i = 0; i < N; i++)
        unit_integers(unit[i], x + 4 * i);
    extremes e = unit_extremes<T, ASYMMETRIC>(x);
    join_lanes<ASYMMETRIC>(&e, WHOLE ? 5 : j.team_log2);
    if (WHOLE) {
        if (lane == 0)
            ends[warp] = e;
        __syncthreads();
        for (int i = 0; i < (int)blockDim.x / PARE_WARP; i++)
            join(&e, ends[i].top, ends[i].bottom);
    }
    group_scale g = scale_of<ASYMMETRIC>(j.rule, e);
    if (WHOLE ? threadIdx.x == 0 : lane < here && (lane & ((1 << j.team_log2) - 1)) == 0)
        store_scale(j, WHOLE ? blockIdx.x : (first + lane) >> j.team_log2, g);
    divisor d = divisor_of(j.rule, g.s);
    if (d.once)
        unit_codes<T, ASYMMETRIC, true>(x, d, g.z, j.rule, bytes);
    else
        unit_codes<T, ASYMMETRIC, false>(x, d, g.z, j.rule, bytes);
    if (j.codes) {
        uint4 two[2] = {make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]),
                        make_uint4(bytes[4], bytes[5], bytes[6], bytes[7])};
        store_unit<2>((uint4 *)(j.codes + first * UNIT), here * 2, room, two);
    }
    if (j.words)
        store_bits(j.bits, bytes, j.words, first, here, room);
}

/* ---- the plain way --------------------------------------------------------------------------- */

/* A block of threads takes a group, and the next that none has taken. */
template <typename T, bool ASYMMETRIC>
static __global__ void __launch_bounds__(THREADS)
    k_quant_pack_scales(pack_job j, const T *w, int64_t groups)
{
    PARE_SHARED_ARRAY(extremes, ends, THREADS / PARE_WARP);
    for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
        int64_t row = quant_div(group, j.across), col = (group - row * j.across) * j.G;
        int64_t cols = min(j.G, j.C - col);
        extremes e = {0, 0};
        for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
            add_bits<ASYMMETRIC>(&e, __float_as_uint(to_f32(w[row * j.C + col + i])));
        join_lanes<ASYMMETRIC>(&e, 5);
        __syncthreads(); /* the group before has been read */
        if (threadIdx.x % PARE_WARP == 0)
            ends[threadIdx.x / PARE_WARP] = e;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < (int)blockDim.x / PARE_WARP; i++)
                join(&e, ends[i].top, ends[i].bottom);
            store_scale(j, group, scale_of<ASYMMETRIC>(j.rule, e));
        }
    }
}

static __device__ __forceinline__ void store_word(uint8_t *to, uint32_t word)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(word >> 8 * i);
}

/* A thread takes 32 columns of a row, or what is left of them. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    k_quant_pack_plain(pack_job j, const T *w, int64_t per_row, int64_t row_bytes)
{
    int64_t item = grid_thread();
    if (item >= j.R * per_row)
        return;
    int64_t row = quant_div(item, per_row), k = item - row * per_row, col = k * UNIT;
    int64_t end = min(col + UNIT, j.C), in_row = quant_div(col, j.G), next = (in_row + 1) * j.G;
    int64_t group = row * j.across + in_row;
    uint8_t *to = j.words ? j.words + row * row_bytes + k * j.bits * 4 : NULL;
    uint64_t waiting = 0;
    int used = 0;
    for (; col < end; col++) {
        if (col == next) {
            group++;
            next += j.G;
        }
        float z = j.rule.asymmetric ? (float)j.zero[group] : 0.0f;
        float v = to_f32(w[row * j.C + col]) / j.scale[group] + z;
        uint32_t q = quant_int_bits(v, j.rule.least, j.rule.most);
        if (j.codes)
            j.codes[row * j.C + col] = (int8_t)q;
        if (!to)
            continue;
        waiting |= (uint64_t)((q + (1u << (j.bits - 1))) & ((1u << j.bits) - 1)) << used;
        used += j.bits;
        if (used >= 32) {
            store_word(to, (uint32_t)waiting);
            to += 4;
            waiting >>= 32;
            used -= 32;
        }
    }
    if (used > 0)
        store_word(to, (uint32_t)waiting);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Whether whole units make up the groups, of no more than `most` threads. */
static bool has_units(const pare_quant_pack_args *a, const pack_job *j, int most)
{
    return j->C % UNIT == 0 && j->G % UNIT == 0 && j->C % j->G == 0 && j->G / UNIT <= most &&
           pare__aligned(a->w.data, 16) && pare__aligned(j->codes, 16) &&
           pare__aligned(j->words, 16);
}

template <typename T, bool ASYMMETRIC>
static pare_status quant_pack(pare_backend *be, const pare_quant_pack_args *a, pack_job *j)
{
    const int most = MOST_THREADS(T, true), bytes = UNIT * (int)sizeof(T); /* of a unit */
    const T *w = (const T *)a->w.data;
    int64_t groups = j->R * j->across, team = j->G / UNIT, per_row = pare__blocks(j->C, UNIT);
    if (!has_units(a, j, most)) {
        PARE_LAUNCH(be, (k_quant_pack_scales<T, ASYMMETRIC>), 4 * pare__grid(be, groups, 4),
                    j->G <= 1024 ? PARE_WARP : THREADS, 0, *j, w, groups);
        PARE_LAUNCH(be, (k_quant_pack_plain<T>), pare__blocks(j->R * per_row, THREADS), THREADS, 0,
                    *j, w, per_row, a->words.shape[1]);
    } else if (team <= PARE_WARP && (team & (team - 1)) == 0) {
        while (1 << j->team_log2 < team)
            j->team_log2++;
        PARE_LAUNCH(be, (k_quant_pack<T, ASYMMETRIC, false>), pare__blocks(j->R * per_row, THREADS),
                    THREADS, THREADS * bytes, *j, w);
    } else {
        int threads = (int)pare__blocks(team, PARE_WARP) * PARE_WARP;
        PARE_LAUNCH(be, (k_quant_pack<T, ASYMMETRIC, true>), groups, threads, threads * bytes, *j,
                    w);
    }
    return PARE_OK;
}

extern "C" pare_status pare_cuda_quant_pack(pare_backend *be, const pare_quant_pack_args *args)
{
    int64_t R = args->w.shape[0], C = args->w.shape[1];
    unsigned long long first;
    pack_job j = {quant_rule_of(&args->scheme, args->scale_dtype),
                  R,
                  C,
                  args->block_cols < C ? args->block_cols : C,
                  args->scale.shape[1],
                  args->scheme.bits,
                  0,
                  (float *)args->scale.data,
                  (int8_t *)args->zero.data,
                  (int8_t *)args->codes.data,
                  (uint8_t *)args->words.data,
                  NULL};
    if (R == 0 || C == 0)
        return PARE_OK;
    PARE_TRY(pare__cuda_result(be, sizeof *j.bad, 0xff, &j.bad));
    PARE_WEIGHT_TYPE(args->w.dtype, T, {
        if (args->scheme.asymmetric)
            PARE_TRY((quant_pack<T, true>(be, args, &j)));
        else
            PARE_TRY((quant_pack<T, false>(be, args, &j)));
    });
    PARE_TRY(pare__cuda_fetch(be, &first, j.bad, sizeof first));
    PARE_REQUIRE(first == ~0ull, PARE_ERR_DAMAGED,
                 "block %lld has no finite scale in %s: a value is NaN, Inf or too large",
                 (long long)first, pare_dtype_name(args->scale_dtype));
    return PARE_OK;
}
