/* cpu_attention.h - what attention and its gradient share: the plan of a call, tiles of rows, the
 * products of tiles, the mask, dropout.
 *
 * Queries stand in the lanes of the vectors, 32 of them in a group: S = K·Qᵀ is [keys, 32], so the
 * running max and sum over keys need no sum across lanes. K and V are taken as they lie, row by
 * row; only the 32 queries of a group are transposed. Logarithms and powers are of base 2 inside.
 */
#ifndef PARE_CPU_ATTENTION_H
#define PARE_CPU_ATTENTION_H

#include "cpu_nn.h"

#define ATTN_GROUP 32 /* queries side by side */
#define ATTN_QUERIES                                                                               \
    128              /* queries that share the loading of a tile of keys; a multiple of GROUP      \
                      */
#define ATTN_KEYS 64 /* keys of a tile */

#if defined(__AVX512F__)
#define ATTN_ROWS 8 /* × 2 registers of sums, of 32 registers */
#else
#define ATTN_ROWS 4 /* of 16 */
#endif

typedef struct attn_plan {
    int64_t B, T, D, wide; /* wide: D up to a multiple of 16, the row of a tile */
    int64_t heads, kv_heads;
    pare_dtype dtype;
    const uint8_t *keys; /* [B, T] or NULL */
    float scale;
    bool causal;
    int64_t window; /* 0: none; else below T */
    bool drops;
    uint64_t start; /* of the hash */
    uint32_t below; /* this drops out */
    float kept;     /* 1/(1 − p) */
} attn_plan;

/* Of pare_attention_args or pare_attention_grad_args: their members have the same names. */
#define ATTN_PLAN(args)                                                                            \
    attn_plan_of(&(args)->q, (args)->keys.data, (args)->T, (args)->heads, (args)->kv_heads,        \
                 (args)->scale, (args)->causal, (args)->window, (args)->dropout,                   \
                 (args)->seed ^ ((args)->stream * 0x9E3779B97F4A7C15u))

static inline attn_plan attn_plan_of(const pare_tensor *q, const uint8_t *keys, int64_t T,
                                     int heads, int kv_heads, float scale, bool causal,
                                     int64_t window, float dropout, uint64_t start)
{
    int64_t D = q->shape[1] / heads;
    return (attn_plan){.B = T > 0 ? q->shape[0] / T : 0,
                       .T = T,
                       .D = D,
                       .wide = cpu_ceil_div(D, CPU_V) * CPU_V,
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .dtype = q->dtype,
                       .keys = keys,
                       .scale = scale != 0.0f ? scale : 1.0f / sqrtf((float)D),
                       .causal = causal,
                       .window = window < T ? window : 0,
                       .drops = dropout > 0.0f,
                       .start = start,
                       .below = (uint32_t)rint((double)dropout * 0x1p24),
                       .kept = 1.0f / (1.0f - dropout)};
}

/* ---- registers ------------------------------------------------------------------------------- */

/* One register's worth of elements from i on. */
CPU_INLINE cpu_part_f attn_get(const void *x, pare_dtype dtype, int64_t i)
{
    return cpu_part_load(x, dtype, i, CPU_PART_V);
}

CPU_INLINE void attn_put(void *y, pare_dtype dtype, int64_t i, cpu_part_f v)
{
    cpu_part_store(y, dtype, i, CPU_PART_V, v);
}

CPU_INLINE cpu_part_f attn_max(cpu_part_f a, cpu_part_f b) /* b where either is NaN */
{
    return cpu_part_pick(a > b, a, b);
}

/* 2^x for x ≤ 0 to 2 ulp: 0 below −126.5, NaN stays. Minimax polynomial on [−1/2, 1/2]. */
CPU_INLINE cpu_part_f attn_exp2(cpu_part_f x)
{
    cpu_part_f c = attn_max((cpu_part_f){0} - 127.0f, x);
    cpu_part_f shifted = c + CPU_RINT; /* the whole part stands in the low bits */
    cpu_part_f r = c - (shifted - CPU_RINT);
    cpu_part_f p = r * 0x1.5bba14p-10f + 0x1.3cea88p-7f;
    p = p * r + 0x1.c6b752p-5f;
    p = p * r + 0x1.ebf9bcp-3f;
    p = p * r + 0x1.62e42ap-1f;
    p = p * r + 1.0f;
    return p * (cpu_part_f)(((cpu_part_u)shifted + 127u) << 23); /* −127: times 0 */
}

/* ---- who sees whom --------------------------------------------------------------------------- */

typedef struct attn_range {
    int64_t first, last; /* last excluded */
} attn_range;

/* The keys of sequence b up to its first and last one that the mask leaves. */
static inline attn_range attn_unmasked(const attn_plan *p, int64_t b)
{
    attn_range r = {0, p->T};
    if (!p->keys)
        return r;
    const uint8_t *keys = p->keys + b * p->T;
    while (r.last > 0 && !keys[r.last - 1])
        r.last--;
    while (r.first < r.last && !keys[r.first])
        r.first++;
    return r;
}

/* The part of `keys` that some query of [first, last) sees by position. */
static inline attn_range attn_seen(const attn_plan *p, attn_range keys, int64_t first, int64_t last)
{
    if (p->window > 0) {
        keys.first = first - p->window + 1 > keys.first ? first - p->window + 1 : keys.first;
        keys.last = cpu_min(keys.last, last - 1 + p->window);
    }
    if (p->causal)
        keys.last = cpu_min(keys.last, last);
    return keys;
}

/* Whether every query of [first, last) sees every key of `keys`. */
static inline bool attn_sees_all(const attn_plan *p, int64_t b, attn_range keys, int64_t first,
                                 int64_t last)
{
    if (p->causal && keys.last - 1 > first)
        return false;
    if (p->window > 0 &&
        (last - 1 - p->window >= keys.first || (!p->causal && keys.last - 1 >= first + p->window)))
        return false;
    return !p->keys ||
           !memchr(p->keys + b * p->T + keys.first, 0, (size_t)(keys.last - keys.first));
}

/* Scores s [keys, 32] of keys that the queries from `first` on do not see become −Inf. */
static inline void attn_hide(const attn_plan *p, int64_t b, attn_range keys, int64_t first,
                             float *s)
{
    for (int64_t j = keys.first; j < keys.last; j++, s += ATTN_GROUP) {
        bool masked = p->keys && !p->keys[b * p->T + j];
        /* of the queries first + 0…31 those in [from, to) see key j */
        int64_t from = p->causal ? j - first : 0, to = masked ? 0 : ATTN_GROUP;
        if (p->window > 0 && !p->causal)
            from = j - p->window + 1 - first;
        if (p->window > 0)
            to = cpu_min(to, j + p->window - first);
        for (int64_t l = 0; l < ATTN_GROUP; l++)
            s[l] = l >= from && l < to ? s[l] : -INFINITY;
    }
}

/* What the probabilities of key j and the queries from `first` on are multiplied by: 0 or 1/(1 −
 * p). */
static inline void attn_keep(const attn_plan *p, int64_t b, int64_t h, int64_t first, int64_t j,
                             float keep[ATTN_GROUP])
{
    uint64_t step = (uint64_t)p->T * 0xD1342543DE82EF95u;
    uint64_t at = (uint64_t)(((b * p->heads + h) * p->T + first) * p->T + j);
    uint64_t z0 = p->start + (at + 1) * 0xD1342543DE82EF95u;
    uint32_t hash[ATTN_GROUP], below = p->below;
    float kept = p->kept;
    for (int l = 0; l < ATTN_GROUP; l++) {
        uint64_t z = z0 + (uint64_t)l * step;
        z ^= z >> 30;
        z *= 0xBF58476D1CE4E5B9u;
        z ^= z >> 27;
        z *= 0x94D049BB133111EBu;
        z ^= z >> 31;
        hash[l] = (uint32_t)(z >> 40);
    }
    for (int l = 0; l < ATTN_GROUP; l++)
        keep[l] = hash[l] >= below ? kept : 0.0f;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* n rows of x from element `at` on, times factor, into tile [n, wide]; what is behind column D is
 * 0. Whether all are finite. */
CPU_INLINE bool attn_load_as(const attn_plan *p, const pare_tensor *x, pare_dtype dtype, int64_t at,
                             int64_t n, float factor, float *tile)
{
    cpu_part_f zeros = {0}; /* stay so: Inf and NaN times 0 are NaN */
    float zero = 0.0f;
    for (int64_t i = 0; i < n; i++, at += x->shape[1], tile += p->wide) {
        int64_t d = 0;
        for (; d + CPU_PART_V <= p->D; d += CPU_PART_V) {
            cpu_part_f v = attn_get(x->data, dtype, at + d);
            zeros += v * 0.0f;
            attn_put(tile, PARE_F32, d, v * factor);
        }
        for (; d < p->D; d++) {
            float v = cpu_get(x->data, dtype, at + d);
            zero += v * 0.0f;
            tile[d] = v * factor;
        }
        for (; d < p->wide; d++)
            tile[d] = 0.0f;
    }
    return zero + cpu_part_sum(zeros) == 0.0f;
}

/* Rows [row, row + n) of head h of x [B·T, heads·D]. */
static inline bool attn_load(const attn_plan *p, const pare_tensor *x, int64_t row, int64_t n,
                             int64_t h, float factor, float *tile)
{
    int64_t at = row * x->shape[1] + h * p->D;
    if (p->dtype == PARE_F32)
        return attn_load_as(p, x, PARE_F32, at, n, factor, tile);
    return attn_load_as(p, x, PARE_BF16, at, n, factor, tile);
}

CPU_INLINE void attn_store_as(const attn_plan *p, const float *tile, const pare_tensor *x,
                              pare_dtype dtype, int64_t at, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++, at += x->shape[1], tile += p->wide) {
        int64_t d = 0;
        for (; d + CPU_PART_V <= p->D; d += CPU_PART_V)
            attn_put(x->data, dtype, at + d, attn_get(tile, PARE_F32, d) * factor);
        for (; d < p->D; d++)
            cpu_put(x->data, dtype, at + d, tile[d] * factor);
    }
}

/* The way back: rows of the tile, times factor, into x. */
static inline void attn_store(const attn_plan *p, const float *tile, int64_t row, int64_t n,
                              int64_t h, float factor, const pare_tensor *x)
{
    int64_t at = row * x->shape[1] + h * p->D;
    if (p->dtype == PARE_F32)
        attn_store_as(p, tile, x, PARE_F32, at, n, factor);
    else
        attn_store_as(p, tile, x, PARE_BF16, at, n, factor);
}

#if CPU_PART == 64
#define ATTN_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ATTN_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif CPU_PART == 32
#define ATTN_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ATTN_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define ATTN_LOW 0, 4, 1, 5
#define ATTN_HIGH 2, 6, 3, 7
#endif

/* y [wide, 32] = the transpose of x [32, wide]: square blocks whose rows are shuffled like cards,
 * row r with row r + W/2, as often as it takes to halve W down to 1. */
static inline void attn_transpose(const float *x, int64_t wide, float *y)
{
    for (int64_t d = 0; d < wide; d += CPU_PART_V)
        for (int64_t i = 0; i < ATTN_GROUP; i += CPU_PART_V) {
            cpu_part_f a[CPU_PART_V], b[CPU_PART_V];
            for (int r = 0; r < CPU_PART_V; r++)
                memcpy(&a[r], x + (i + r) * wide + d, sizeof a[r]);
            for (int half = CPU_PART_V / 2; half > 0; half /= 2) {
                for (int r = 0; r < CPU_PART_V / 2; r++) {
                    b[2 * r] = __builtin_shufflevector(a[r], a[r + CPU_PART_V / 2], ATTN_LOW);
                    b[2 * r + 1] = __builtin_shufflevector(a[r], a[r + CPU_PART_V / 2], ATTN_HIGH);
                }
                for (int r = 0; r < CPU_PART_V; r++)
                    a[r] = b[r];
            }
            for (int r = 0; r < CPU_PART_V; r++)
                memcpy(y + (d + r) * ATTN_GROUP + i, &a[r], sizeof a[r]);
        }
}

/* ---- products -------------------------------------------------------------------------------- */

/* An operand of which single elements are taken: (m, k) is at[m·row + k·col]. */
typedef struct attn_left {
    const float *at;
    int64_t row, col;
} attn_left;

/* ATTN_ROWS × `across` registers of c (+)= a·b, c first times keep by row if there is one. */
CPU_INLINE void attn_block(attn_left a, const float *b, int64_t b_row, float *c, int64_t c_row,
                           int64_t K, int across, bool adds, const float *keep)
{
    cpu_part_f sum[ATTN_ROWS][2];
    for (int m = 0; m < ATTN_ROWS; m++)
        for (int v = 0; v < across; v++) {
            sum[m][v] = (cpu_part_f){0};
            if (adds)
                memcpy(&sum[m][v], c + m * c_row + v * CPU_PART_V, sizeof sum[m][v]);
            if (adds && keep)
                sum[m][v] *= keep[m];
        }
    for (int64_t k = 0; k < K; k++) {
        cpu_part_f row[2];
        for (int v = 0; v < across; v++)
            memcpy(&row[v], b + k * b_row + v * CPU_PART_V, sizeof row[v]);
        for (int m = 0; m < ATTN_ROWS; m++)
            for (int v = 0; v < across; v++)
                sum[m][v] += a.at[m * a.row + k * a.col] * row[v];
    }
    for (int m = 0; m < ATTN_ROWS; m++)
        for (int v = 0; v < across; v++)
            memcpy(c + m * c_row + v * CPU_PART_V, &sum[m][v], sizeof sum[m][v]);
}

/* c [M, N] (+)= a [M, K]·b [K, N] with rows of c_row and b_row floats; N is a multiple of 16, M is
 * rounded up to one of ATTN_ROWS: a and c have rows to spare. */
CPU_INLINE void attn_product(attn_left a, const float *b, int64_t b_row, float *c, int64_t c_row,
                             int64_t M, int64_t N, int64_t K, bool adds, const float *keep)
{
    int64_t n = 0;
    for (; n + 2 * CPU_PART_V <= N; n += 2 * CPU_PART_V)
        for (int64_t m = 0; m < M; m += ATTN_ROWS)
            attn_block((attn_left){a.at + m * a.row, a.row, a.col}, b + n, b_row, c + m * c_row + n,
                       c_row, K, 2, adds, keep ? keep + m : NULL);
    for (; n < N; n += CPU_PART_V)
        for (int64_t m = 0; m < M; m += ATTN_ROWS)
            attn_block((attn_left){a.at + m * a.row, a.row, a.col}, b + n, b_row, c + m * c_row + n,
                       c_row, K, 1, adds, keep ? keep + m : NULL);
}

/* The same where b holds NaN or Inf: what is 0 in a adds nothing, for a query shall not feel a key
 * that it does not see. M is exact. */
static inline void attn_product_bad(attn_left a, const float *b, int64_t b_row, float *c,
                                    int64_t c_row, int64_t M, int64_t N, int64_t K,
                                    const float *keep)
{
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            float sum = c[m * c_row + n] * (keep ? keep[m] : 1.0f);
            for (int64_t k = 0; k < K; k++) {
                float x = a.at[m * a.row + k * a.col];
                sum += x != 0.0f ? x * b[k * b_row + n] : 0.0f;
            }
            c[m * c_row + n] = sum;
        }
}

#endif
