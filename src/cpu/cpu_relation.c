/* cpu_relation.c - how positions look at one another, in a teacher and in its student.
 *
 *   r_ij = scale_t·⟨ta_i, tb_j⟩,  s_ij = scale·⟨a_i, b_j⟩ by head,  p, q their softmax by row
 *   KL:     loss_i = Σ_j p_ij·(log p_ij − log q_ij),         ds_ij = q_ij − p_ij
 *   SCORE:  loss_i = Σ_j (s_ij − r_ij)²/n_i over n_i keys,   ds_ij = 2·(s_ij − r_ij)/n_i
 *   da_i += scale·Σ_j ds_ij·b_j,  db_j += scale·Σ_i ds_ij·a_i
 *
 * (MiniLM: Wang 2020 and 2021; TinyBERT: Jiao 2020.) A part is one head of b with all heads of a
 * that use it; it takes 32 queries at a time with all their keys, so that a score is computed once
 * (cpu_attention.h has the products): r and s of the group, [T, 32] each, stay in the cache.
 * With u = r − max r and w = s − max s, both of base 2, a row's divergence is Σ 2^u·(u − w)/Σ 2^u +
 * log2(Σ 2^w/Σ 2^u), in which no large numbers are subtracted. Losses of a head are summed in
 * f64. Bound by the products, 2·(Dt + 3·D) flops a pair.
 */
#include "cpu_attention.h"
#include "cpu_nn.h"

#include <omp.h>

#define LOG2E 0x1.715476p0f
#define LN2 0x1.62e43p-1f

typedef struct relation {
    attn_plan t, s; /* of the teacher and the student; their scales as scores have them inside */
    const pare_relation_args *args;
    bool kl, one; /* one: da and db are the same memory */
} relation;

/* One thread's memory; sizes in floats. */
typedef struct workspace {
    float *tb, *b;           /* [T + ROWS, wide] of a head, each its own width */
    float *db;               /* [T + 32, wide] sums */
    float *rows;             /* [32, wide of the teacher] */
    float *a, *da;           /* [32, wide] */
    float *tat, *at;         /* [wide, 32] queries turned, times their scale */
    float *r, *s;            /* [T + ROWS, 32] scores; s then ds */
    float share[ATTN_GROUP]; /* of a query: 1 or 1/n_i; 0 where it does not count */
    bool a_finite, b_finite;
} workspace;

static int64_t workspace_floats(const relation *x)
{
    int64_t T = x->s.T, wide = x->s.wide, t_wide = x->t.wide;
    return (T + ATTN_ROWS) * (t_wide + wide + 2 * ATTN_GROUP) + (T + ATTN_GROUP) * wide +
           ATTN_GROUP * (2 * t_wide + 3 * wide);
}

static workspace workspace_at(const relation *x, float *at)
{
    int64_t T = x->s.T, wide = x->s.wide, t_wide = x->t.wide;
    workspace w = {.tb = at};
    w.b = w.tb + (T + ATTN_ROWS) * t_wide;
    w.db = w.b + (T + ATTN_ROWS) * wide;
    w.rows = w.db + (T + ATTN_GROUP) * wide;
    w.a = w.rows + ATTN_GROUP * t_wide;
    w.da = w.a + ATTN_GROUP * wide;
    w.tat = w.da + ATTN_GROUP * wide;
    w.at = w.tat + ATTN_GROUP * t_wide;
    w.r = w.at + ATTN_GROUP * wide;
    w.s = w.r + (T + ATTN_ROWS) * ATTN_GROUP;
    return w;
}

/* ---- losses of 32 queries -------------------------------------------------------------------- */

/* Scores x [keys, 32] of keys that the queries from `first` on do not see become `value`. */
static void hide(const attn_plan *p, int64_t b, attn_range keys, int64_t first, float value,
                 float *x)
{
    for (int64_t j = keys.first; j < keys.last; j++, x += ATTN_GROUP) {
        bool masked = p->keys && !p->keys[b * p->T + j];
        int64_t from = masked ? ATTN_GROUP : p->causal ? j - first : 0;
        for (int64_t l = 0; l < cpu_min(from, ATTN_GROUP); l++)
            x[l] = value;
    }
}

CPU_INLINE cpu_part_f highest(const float *x, int64_t n)
{
    cpu_part_f top = (cpu_part_f){0} - INFINITY;
    for (int64_t j = 0; j < n; j++)
        top = attn_max(attn_get(x, PARE_F32, j * ATTN_GROUP), top);
    return top;
}

/* r and s [n, 32] of base 2: their losses, and s becomes ds if it `learns`. */
static double compare_kl(float *r, float *s, int64_t n, const float *share, bool learns)
{
    const cpu_part_f zero = {0};
    double loss = 0;
    for (int v = 0; v < ATTN_GROUP; v += CPU_PART_V, r += CPU_PART_V, s += CPU_PART_V) {
        cpu_part_f r_top = highest(r, n), s_top = highest(s, n);
        cpu_part_f p_sum = zero, q_sum = zero, apart = zero;
        for (int64_t j = 0; j < n; j++) {
            cpu_part_f u = attn_get(r, PARE_F32, j * ATTN_GROUP) - r_top;
            cpu_part_f w = attn_get(s, PARE_F32, j * ATTN_GROUP) - s_top;
            cpu_part_f p = attn_exp2(u), q = attn_exp2(w);
            p_sum += p;
            q_sum += q;
            apart += cpu_part_pick(p == zero, zero, p * (u - w)); /* −Inf − −Inf is hidden */
            attn_put(r, PARE_F32, j * ATTN_GROUP, p);
            attn_put(s, PARE_F32, j * ATTN_GROUP, q);
        }
        for (int l = 0; l < CPU_PART_V; l++)
            if (share[v + l] > 0.0f)
                loss += (double)((apart[l] / p_sum[l] + log2f(q_sum[l] / p_sum[l])) * LN2);
        cpu_part_i counts = attn_get(share, PARE_F32, v) > zero;
        cpu_part_f p_times = 1.0f / p_sum, q_times = 1.0f / q_sum;
        for (int64_t j = 0; learns && j < n; j++) {
            cpu_part_f ds = attn_get(s, PARE_F32, j * ATTN_GROUP) * q_times -
                            attn_get(r, PARE_F32, j * ATTN_GROUP) * p_times;
            attn_put(s, PARE_F32, j * ATTN_GROUP, cpu_part_pick(counts, ds, zero));
        }
    }
    return loss;
}

static double compare_scores(const float *r, float *s, int64_t n, const float *share)
{
    const cpu_part_f zero = {0};
    double loss = 0;
    for (int v = 0; v < ATTN_GROUP; v += CPU_PART_V, r += CPU_PART_V, s += CPU_PART_V) {
        cpu_part_f times = attn_get(share, PARE_F32, v), squares = zero;
        cpu_part_i counts = times > zero;
        for (int64_t j = 0; j < n; j++) {
            cpu_part_f d = attn_get(s, PARE_F32, j * ATTN_GROUP);
            d -= attn_get(r, PARE_F32, j * ATTN_GROUP);
            squares += d * d;
            attn_put(s, PARE_F32, j * ATTN_GROUP, cpu_part_pick(counts, d * (2.0f * times), zero));
        }
        for (int l = 0; l < CPU_PART_V; l++)
            if (share[v + l] > 0.0f)
                loss += (double)(squares[l] * share[v + l]);
    }
    return loss;
}

/* ---- a group of 32 queries ------------------------------------------------------------------- */

/* Queries [first, first + n) of a head: as they lie in rows, turned and times the scale in turned.
 */
static bool load_queries(const attn_plan *p, const pare_tensor *x, int64_t b, int64_t h,
                         int64_t first, int64_t n, float *rows, float *turned)
{
    bool finite = attn_load(p, x, b * p->T + first, n, h, 1.0f, rows);
    memset(rows + n * p->wide, 0, (size_t)((ATTN_GROUP - n) * p->wide) * sizeof *rows);
    attn_transpose(rows, p->wide, turned);
    for (int64_t i = 0; i < p->wide * ATTN_GROUP; i++)
        turned[i] *= p->scale;
    return finite;
}

/* Which of the n queries from `first` on count, and by how much; `seen`: the keys before `first`
 * that count. Returns how many do up to the end. */
static int64_t load_shares(const relation *x, workspace *w, int64_t b, int64_t first, int64_t n,
                           int64_t seen, int64_t all)
{
    const uint8_t *keys = x->s.keys ? x->s.keys + b * x->s.T : NULL;
    memset(w->share, 0, sizeof w->share);
    for (int64_t i = 0; i < n; i++) {
        if (keys && !keys[first + i])
            continue;
        seen++;
        w->share[i] = x->kl ? 1.0f : 1.0f / (float)(x->s.causal ? seen : all);
    }
    return seen;
}

/* c [M, wide] += a·k, where k may hold what is not finite. */
static void accumulate(attn_left a, const float *k, int64_t wide, float *c, int64_t M, int64_t K,
                       bool finite)
{
    if (finite)
        attn_product(a, k, wide, c, wide, M, wide, K, true, NULL);
    else
        attn_product_bad(a, k, wide, c, wide, M, wide, K, NULL);
}

CPU_INLINE void add_rows_as(const attn_plan *p, const float *tile, const pare_tensor *x,
                            pare_dtype dtype, int64_t at, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++, at += x->shape[1], tile += p->wide) {
        int64_t d = 0;
        for (; d + CPU_PART_V <= p->D; d += CPU_PART_V)
            attn_put(x->data, dtype, at + d,
                     attn_get(x->data, dtype, at + d) + attn_get(tile, PARE_F32, d) * factor);
        for (; d < p->D; d++)
            cpu_put(x->data, dtype, at + d, cpu_get(x->data, dtype, at + d) + tile[d] * factor);
    }
}

/* Rows of a tile, times factor, are added to rows [row, row + n) of head h of x. */
static void add_rows(const attn_plan *p, const float *tile, int64_t row, int64_t n, int64_t h,
                     float factor, const pare_tensor *x)
{
    int64_t at = row * x->shape[1] + h * p->D;
    if (x->dtype == PARE_F32)
        add_rows_as(p, tile, x, PARE_F32, at, n, factor);
    else
        add_rows_as(p, tile, x, PARE_BF16, at, n, factor);
}

/* ds [keys, 32] in w->s goes into da of its queries and into the sums for db. */
static void go_back(const relation *x, workspace *w, int64_t b, int64_t h, attn_range keys,
                    int64_t first, int64_t queries, float gain)
{
    const attn_plan *p = &x->s;
    const pare_relation_args *args = x->args;
    int64_t n = keys.last - keys.first, rest = cpu_ceil_div(n, ATTN_ROWS) * ATTN_ROWS - n;
    memset(w->s + n * ATTN_GROUP, 0, (size_t)(rest * ATTN_GROUP) * sizeof *w->s);
    if (args->db.data)
        accumulate((attn_left){w->s, ATTN_GROUP, 1}, w->a, p->wide, w->db + keys.first * p->wide, n,
                   queries, w->a_finite);
    if (!args->da.data)
        return;
    float *da = x->one ? w->db + first * p->wide : w->da;
    if (!x->one)
        memset(da, 0, (size_t)(ATTN_GROUP * p->wide) * sizeof *da);
    accumulate((attn_left){w->s, 1, ATTN_GROUP}, w->b + keys.first * p->wide, p->wide, da,
               ATTN_GROUP, n, w->b_finite);
    if (!x->one)
        add_rows(p, da, b * p->T + first, queries, h, gain, &args->da);
}

/* The loss of queries [first, first + 32) of head h, whose keys are loaded, and its gradient. */
static double compare(const relation *x, workspace *w, int64_t b, int64_t h, attn_range keys,
                      int64_t first, int64_t queries, float gain)
{
    const pare_relation_args *args = x->args;
    const bool learns = args->da.data || args->db.data;
    const float hidden = x->kl ? -INFINITY : 0.0f;
    int64_t n = keys.last - keys.first;
    load_queries(&x->t, &args->ta, b, h, first, queries, w->rows, w->tat);
    w->a_finite = load_queries(&x->s, &args->a, b, h, first, queries, w->a, w->at);
    attn_product((attn_left){w->tb + keys.first * x->t.wide, x->t.wide, 1}, w->tat, ATTN_GROUP,
                 w->r, ATTN_GROUP, n, ATTN_GROUP, x->t.D, false, NULL);
    attn_product((attn_left){w->b + keys.first * x->s.wide, x->s.wide, 1}, w->at, ATTN_GROUP, w->s,
                 ATTN_GROUP, n, ATTN_GROUP, x->s.D, false, NULL);
    if (!attn_sees_all(&x->s, b, keys, first, first + queries)) {
        hide(&x->s, b, keys, first, hidden, w->r);
        hide(&x->s, b, keys, first, hidden, w->s);
    }
    double loss = x->kl ? compare_kl(w->r, w->s, n, w->share, learns)
                        : compare_scores(w->r, w->s, n, w->share);
    if (learns)
        go_back(x, w, b, h, keys, first, queries, gain);
    return loss;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int64_t count_keys(const attn_plan *p, int64_t b)
{
    int64_t count = 0;
    for (int64_t j = 0; p->keys && j < p->T; j++)
        count += p->keys[b * p->T + j] != 0;
    return p->keys ? count : p->T;
}

/* The losses of all heads that use head kv of b, summed. */
static double part_of(const relation *x, workspace *w, int64_t b, int64_t kv)
{
    const pare_relation_args *args = x->args;
    const attn_plan *s = &x->s, *t = &x->t;
    int64_t share = s->heads / s->kv_heads, t_share = t->heads / t->kv_heads, loaded = -1;
    int64_t count = count_keys(s, b), all = count > 0 ? count : 1;
    float weight = args->weight.data ? ((const float *)args->weight.data)[b] : 1.0f;
    if (count == 0 || weight == 0.0f)
        return 0;
    attn_range range = attn_unmasked(s, b);
    /* scores of base 2 have scales of base 2; s->scale is one of those */
    float gain = args->grad_scale * weight * (x->kl ? s->scale * LN2 : s->scale) /
                 ((float)s->heads * (float)all);
    double loss = 0;
    w->b_finite = attn_load(s, &args->b, b * s->T, s->T, kv, 1.0f, w->b);
    if (args->db.data)
        memset(w->db, 0, (size_t)((s->T + ATTN_GROUP) * s->wide) * sizeof *w->db);
    for (int64_t h = kv * share; h < (kv + 1) * share; h++) {
        if (h / t_share != loaded)
            attn_load(t, &args->tb, b * t->T, t->T, h / t_share, 1.0f, w->tb);
        loaded = h / t_share;
        int64_t seen = 0;
        for (int64_t first = range.first; first < range.last; first += ATTN_GROUP) {
            int64_t queries = cpu_min(ATTN_GROUP, range.last - first);
            attn_range keys = attn_seen(s, range, first, first + queries);
            seen = load_shares(x, w, b, first, queries, seen, all);
            loss += compare(x, w, b, h, keys, first, queries, gain);
        }
    }
    if (args->db.data)
        add_rows(s, w->db + range.first * s->wide, b * s->T + range.first, range.last - range.first,
                 kv, gain, &args->db);
    return loss * (double)weight / ((double)s->heads * (double)all);
}

static relation relation_of(const pare_relation_args *args)
{
    relation x = {.args = args,
                  .kl = args->kind == PARE_RELATION_KL,
                  .one = args->da.data && args->da.data == args->db.data};
    x.t = attn_plan_of(&args->ta, args->keys.data, args->T, args->heads, args->t_kv_heads,
                       args->scale_t, args->causal, 0, 0.0f, 0);
    x.s = attn_plan_of(&args->a, args->keys.data, args->T, args->heads, args->kv_heads, args->scale,
                       args->causal, 0, 0.0f, 0);
    if (x.kl) {
        x.t.scale *= LOG2E;
        x.s.scale *= LOG2E;
    }
    return x;
}

pare_status PARE_CPU(pare_cpu_relation)(pare_backend *be, const pare_relation_args *args)
{
    const relation x = relation_of(args);
    int64_t parts = x.s.B * x.s.kv_heads;
    int threads = (int)cpu_min(be->threads, parts > 1 ? parts : 1);
    size_t floats = (size_t)workspace_floats(&x);
    void *scratch;
    PARE_TRY(pare__scratch(
        be, (size_t)parts * sizeof(double) + (size_t)threads * floats * sizeof(float), &scratch));
    double *losses = scratch;
    float *memory = (float *)(losses + parts);
    /* a part alone writes what it writes: any thread may do it */
#pragma omp parallel num_threads(threads)
    {
        workspace w = workspace_at(&x, memory + (size_t)omp_get_thread_num() * floats);
#pragma omp for schedule(guided)
        for (int64_t part = 0; part < parts; part++)
            losses[part] = part_of(&x, &w, part / x.s.kv_heads, part % x.s.kv_heads);
    }
    for (int64_t b = 0; b < x.s.B; b++) {
        double loss = 0;
        for (int64_t h = 0; h < x.s.kv_heads; h++)
            loss += losses[b * x.s.kv_heads + h];
        ((float *)args->loss.data)[b] = (float)loss;
    }
    return PARE_OK;
}
