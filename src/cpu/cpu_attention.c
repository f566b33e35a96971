/* cpu_attention.c - attention by head in tiles, with running max and sum.
 *
 *   y_i = Σ_j p_ij·v_j / l_i,  p_ij = e^(s_ij − m_i),  s = scale·q·kᵀ,  m_i = max_j s_ij,
 *   l_i = Σ_j p_ij
 *
 * (FlashAttention, Dao 2022; the running form is Milakov & Gimelshein 2018). A part is one head and
 * 128 queries; it walks over the keys that they see in tiles of 64. Bound by the two products,
 * 4·D flops a pair, and at small D by the power, about 20 instructions for 16 pairs. On one core
 * of an EPYC (Zen 5, 250 GFLOP/s with AVX-512), November 2026: 150 GFLOP/s at T = 128, D = 32, 180
 * at T = 2048, D = 64.
 */
#include "cpu_attention.h"
#include "cpu_nn.h"

#include <omp.h>

/* One thread's memory; sizes in floats. */
typedef struct workspace {
    float *rows;   /* [32, wide] queries of a group as they lie, scaled */
    float *q;      /* [groups, wide, 32] */
    float *k, *v;  /* [64 + ROWS, wide] each */
    float *s;      /* [64 + ROWS, 32] scores, then probabilities */
    float *sum;    /* [128, wide] Σ p·v */
    float *m, *l;  /* [128] each */
    bool v_finite; /* of the tile */
} workspace;

static int64_t workspace_floats(const attn_plan *p)
{
    return (ATTN_GROUP + 2 * ATTN_QUERIES + 2 * (ATTN_KEYS + ATTN_ROWS)) * p->wide +
           (ATTN_KEYS + ATTN_ROWS) * ATTN_GROUP + 2 * ATTN_QUERIES;
}

static workspace workspace_at(const attn_plan *p, float *at)
{
    workspace w = {.rows = at};
    w.q = w.rows + ATTN_GROUP * p->wide;
    w.k = w.q + ATTN_QUERIES * p->wide;
    w.v = w.k + (ATTN_KEYS + ATTN_ROWS) * p->wide;
    w.sum = w.v + (ATTN_KEYS + ATTN_ROWS) * p->wide;
    w.s = w.sum + ATTN_QUERIES * p->wide;
    w.m = w.s + (ATTN_KEYS + ATTN_ROWS) * ATTN_GROUP;
    w.l = w.m + ATTN_QUERIES;
    return w;
}

/* The greater of m and scores s [n, 32] by lane, two keys at a time: a comparison is slow to
 * answer. */
CPU_INLINE cpu_part_f highest(const float *s, int64_t n, cpu_part_f m)
{
    cpu_part_f even = m, odd = m;
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
        even = attn_max(attn_get(s, PARE_F32, j * ATTN_GROUP), even);
        odd = attn_max(attn_get(s, PARE_F32, (j + 1) * ATTN_GROUP), odd);
    }
    if (j < n)
        even = attn_max(attn_get(s, PARE_F32, j * ATTN_GROUP), even);
    return attn_max(even, odd);
}

/* Scores s [n, 32] become probabilities against the new maximum; m, l move on; old [32] is what
 * the sums so far are multiplied by. */
static void soften(float *s, int64_t n, float *m, float *l, float old[ATTN_GROUP])
{
    const cpu_part_f lowest = (cpu_part_f){0} - INFINITY;
    for (int v = 0; v < ATTN_GROUP; v += CPU_PART_V) {
        cpu_part_f before = attn_get(m, PARE_F32, v), top = highest(s + v, n, before), sum = {0};
        /* nothing seen yet: any finite number will do for −Inf − it */
        cpu_part_f from = cpu_part_pick(top == lowest, (cpu_part_f){0}, top);
        for (int64_t j = 0; j < n; j++) {
            cpu_part_f p = attn_exp2(attn_get(s, PARE_F32, j * ATTN_GROUP + v) - from);
            sum += p;
            attn_put(s, PARE_F32, j * ATTN_GROUP + v, p);
        }
        cpu_part_f keep = attn_exp2(before - from);
        attn_put(old, PARE_F32, v, keep);
        attn_put(m, PARE_F32, v, top);
        attn_put(l, PARE_F32, v, attn_get(l, PARE_F32, v) * keep + sum);
    }
}

static void drop(const attn_plan *p, int64_t b, int64_t h, attn_range keys, int64_t first, float *s)
{
    for (int64_t j = keys.first; j < keys.last; j++, s += ATTN_GROUP) {
        float keep[ATTN_GROUP];
        attn_keep(p, b, h, first, j, keep);
        for (int l = 0; l < ATTN_GROUP; l++)
            s[l] *= keep[l];
    }
}

/* Adds the keys (of the tile that begins at key `tile`) to the group of queries from `first` on. */
static void add_keys(const attn_plan *p, const workspace *w, int64_t b, int64_t h, attn_range keys,
                     int64_t tile, int64_t first, int64_t group)
{
    int64_t n = keys.last - keys.first, skip = (keys.first - tile) * p->wide;
    float old[ATTN_GROUP], *sum = w->sum + group * ATTN_GROUP * p->wide;
    attn_product((attn_left){w->k + skip, p->wide, 1}, w->q + group * ATTN_GROUP * p->wide,
                 ATTN_GROUP, w->s, ATTN_GROUP, n, ATTN_GROUP, p->D, false, NULL);
    if (!attn_sees_all(p, b, keys, first, cpu_min(first + ATTN_GROUP, p->T)))
        attn_hide(p, b, keys, first, w->s);
    soften(w->s, n, w->m + group * ATTN_GROUP, w->l + group * ATTN_GROUP, old);
    if (p->drops)
        drop(p, b, h, keys, first, w->s);
    if (w->v_finite)
        attn_product((attn_left){w->s, 1, ATTN_GROUP}, w->v + skip, p->wide, sum, p->wide,
                     ATTN_GROUP, p->wide, n, true, old);
    else
        attn_product_bad((attn_left){w->s, 1, ATTN_GROUP}, w->v + skip, p->wide, sum, p->wide,
                         ATTN_GROUP, p->wide, n, old);
}

/* y and lse of n queries. */
static void finish(const attn_plan *p, const pare_attention_args *a, const workspace *w, int64_t b,
                   int64_t h, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float l = w->l[i], factor = l == 0.0f ? 0.0f : 1.0f / l;
        attn_store(p, w->sum + i * p->wide, b * p->T + first + i, 1, h, factor, &a->y);
        if (a->lse.data)
            ((float *)a->lse.data)[(b * p->heads + h) * p->T + first + i] =
                l == 0.0f ? -INFINITY : (w->m[i] + log2f(l)) * 0x1.62e43p-1f;
    }
}

/* Queries [first, first + 128) of head h of sequence b. */
static void attend(const attn_plan *p, const pare_attention_args *a, workspace *w, int64_t b,
                   int64_t h, int64_t first)
{
    int64_t n = cpu_min(ATTN_QUERIES, p->T - first), kv = h / (p->heads / p->kv_heads);
    int64_t groups = cpu_ceil_div(n, ATTN_GROUP);
    attn_range unmasked = attn_unmasked(p, b), all = attn_seen(p, unmasked, first, first + n);
    for (int64_t g = 0; g < groups; g++) {
        int64_t rows = cpu_min(ATTN_GROUP, n - g * ATTN_GROUP);
        attn_load(p, &a->q, b * p->T + first + g * ATTN_GROUP, rows, h, p->scale * 0x1.715476p0f,
                  w->rows);
        memset(w->rows + rows * p->wide, 0,
               (size_t)((ATTN_GROUP - rows) * p->wide) * sizeof(float));
        attn_transpose(w->rows, p->wide, w->q + g * ATTN_GROUP * p->wide);
    }
    memset(w->sum, 0, (size_t)(groups * ATTN_GROUP * p->wide) * sizeof(float));
    for (int64_t i = 0; i < groups * ATTN_GROUP; i++) {
        w->m[i] = -INFINITY;
        w->l[i] = 0.0f;
    }
    for (int64_t tile = all.first; tile < all.last; tile += ATTN_KEYS) {
        int64_t keys = cpu_min(ATTN_KEYS, all.last - tile);
        attn_load(p, &a->k, b * p->T + tile, keys, kv, 1.0f, w->k);
        w->v_finite = attn_load(p, &a->v, b * p->T + tile, keys, kv, 1.0f, w->v);
        for (int64_t g = 0; g < groups; g++) {
            int64_t at = first + g * ATTN_GROUP, end = cpu_min(at + ATTN_GROUP, first + n);
            attn_range seen = attn_seen(p, (attn_range){tile, tile + keys}, at, end);
            if (seen.first < seen.last)
                add_keys(p, w, b, h, seen, tile, at, g);
        }
    }
    finish(p, a, w, b, h, first, n);
}

pare_status PARE_CPU(pare_cpu_attention)(pare_backend *be, const pare_attention_args *args)
{
    const attn_plan p = ATTN_PLAN(args);
    int64_t blocks = cpu_ceil_div(p.T, ATTN_QUERIES), parts = p.B * p.heads * blocks;
    int threads = (int)cpu_min(be->threads, parts > 1 ? parts : 1);
    size_t floats = (size_t)workspace_floats(&p);
    void *scratch;
    PARE_TRY(pare__scratch(be, (size_t)threads * floats * sizeof(float), &scratch));
    /* a part alone writes what it writes: any thread may do it */
#pragma omp parallel num_threads(threads)
    {
        workspace w = workspace_at(&p, (float *)scratch + (size_t)omp_get_thread_num() * floats);
#pragma omp for schedule(guided)
        for (int64_t part = 0; part < parts; part++)
            attend(&p, args, &w, part / blocks / p.heads, part / blocks % p.heads,
                   (blocks - 1 - part % blocks) * ATTN_QUERIES);
    }
    return PARE_OK;
}
