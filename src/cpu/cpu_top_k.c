/* cpu_top_k.c - the K largest logits of each row, and log softmax there.
 *
 * A row is read once, block by block, each block some times from the first cache: the largest of
 * each run of 64, then Σ e^(x − top) as in cpu_loss.c, then what enters the heap of the K best so
 * far. The heap lies in the outputs themselves, its worst at the root: a run whose largest does not
 * beat that is passed over, and of logits in no order some K·(1 + ln(V/K)) enter. At the end it is
 * sorted in place. Bound by the powers, and by the heap where K is many.
 */
#include "cpu_loss.h"
#include "cpu_nn.h"

#define RUN 64
#define RUNS (LOSS_BLOCK / RUN)

/* An element's place in the order as one number, greater for what comes first: in the upper half a
 * key that grows with the logit, the least for NaN, in the lower one the complement of the index.
 */
typedef struct heap {
    int32_t *key; /* in the place of the values */
    int32_t *index;
    int64_t count;
} heap;

static inline int64_t order_of(float x, int64_t index)
{
    int32_t bits = (int32_t)pare__f32_bits(x + 0.0f); /* −0 is +0 */
    int32_t key = x != x ? INT32_MIN : bits ^ (bits >> 31 & INT32_MAX);
    return (int64_t)((uint64_t)(uint32_t)key << 32 | (uint32_t)~index);
}

static inline float logit_of(int32_t key)
{
    return key == INT32_MIN ? NAN : pare__bits_f32((uint32_t)(key ^ (key >> 31 & INT32_MAX)));
}

static inline int64_t get(const heap *h, int64_t k)
{
    return (int64_t)((uint64_t)(uint32_t)h->key[k] << 32 | (uint32_t)~h->index[k]);
}

static inline void put(const heap *h, int64_t k, int64_t order)
{
    h->key[k] = (int32_t)(order >> 32);
    h->index[k] = (int32_t) ~(uint32_t)order;
}

/* Puts `order` in the place `at`, or below it: no parent comes before its children. */
static void sink(const heap *h, int64_t at, int64_t order)
{
    for (int64_t c; (c = 2 * at + 1) < h->count; at = c) {
        int64_t child = get(h, c), other = c + 1 < h->count ? get(h, c + 1) : INT64_MAX;
        c += other < child;
        child = cpu_min(child, other);
        if (order <= child)
            break;
        put(h, at, child);
    }
    put(h, at, order);
}

/* The first elements. */
static void start_heap(const heap *h, const void *row, pare_dtype dtype)
{
    for (int64_t k = 0; k < h->count; k++)
        put(h, k, order_of(cpu_get(row, dtype, k), k));
    for (int64_t k = h->count / 2 - 1; k >= 0; k--)
        sink(h, k, get(h, k));
}

/* Bit l: lane l of x is greater than `least`, or is no NaN where that is one. */
CPU_INLINE unsigned beating(cpu_v x, float least)
{
    static const cpu_vi bit = {1,       1 << 1,  1 << 2,  1 << 3, 1 << 4,  1 << 5,
                               1 << 6,  1 << 7,  1 << 8,  1 << 9, 1 << 10, 1 << 11,
                               1 << 12, 1 << 13, 1 << 14, 1 << 15};
    const int32_t all = least != least ? -1 : 0;
    const cpu_parts m = {.i = (cpu_gt(x, cpu_splat(least)) | (cpu_eq(x, x) & all)) & bit};
    const cpu_halves h = {.v = m.v};
    const cpu_vi4 s =
        (cpu_vi4)h.four[0] | (cpu_vi4)h.four[1] | (cpu_vi4)h.four[2] | (cpu_vi4)h.four[3];
    return (unsigned)(s[0] | s[1] | s[2] | s[3]);
}

/* bits: of those among sixteen elements from v on that beat `least`; returns what does now. */
static float take(const heap *h, const void *row, pare_dtype dtype, int64_t v, unsigned bits,
                  float least)
{
    for (; bits != 0; bits &= bits - 1) {
        int64_t at = v + __builtin_ctz(bits);
        float x = cpu_get(row, dtype, at);
        if (x <= least) /* now */
            continue;
        sink(h, 0, order_of(x, at));
        least = logit_of(h->key[0]);
    }
    return least;
}

CPU_INLINE void feed_of(const heap *h, const void *row, pare_dtype dtype, int64_t first,
                        int64_t last)
{
    float least = logit_of(h->key[0]);
    int64_t v = first;
    for (; v + CPU_V <= last; v += CPU_V) {
        unsigned bits = beating(cpu_vload(row, dtype, v), least);
        if (bits != 0)
            least = take(h, row, dtype, v, bits, least);
    }
    if (v < last)
        take(h, row, dtype, v, beating(cpu_vload_n(row, dtype, v, last - v, NAN), least), least);
}

/* Elements [first, last), all behind those in the heap, so that an equal one does not enter. */
CPU_LOOP void feed_heap(const heap *h, const void *row, pare_dtype dtype, int64_t first,
                        int64_t last)
{
    if (dtype == PARE_F32)
        feed_of(h, row, PARE_F32, first, last);
    else
        feed_of(h, row, PARE_BF16, first, last);
}

/* What comes first at the front. */
static void sort_heap(heap h)
{
    while (h.count > 1) {
        int64_t worst = get(&h, 0), last = --h.count, order = get(&h, last);
        sink(&h, 0, order);
        put(&h, last, worst);
    }
}

static void top_row(const pare_top_k_args *a, int64_t i)
{
    int64_t V = a->x.shape[1], K = a->index.shape[1];
    pare_dtype dtype = a->x.dtype;
    const double inverse = loss_inverse(a->temperature);
    const void *row = cpu_row_at(a->x.data, dtype, i * V);
    float *value = (float *)a->value.data + i * K;
    const heap h = {(int32_t *)a->value.data + i * K, (int32_t *)a->index.data + i * K, K};
    loss_softmax s = loss_nothing_read;
    start_heap(&h, row, dtype);
    for (int64_t at = 0; at < V; at += LOSS_BLOCK) {
        int64_t end = cpu_min(at + LOSS_BLOCK, V), first = at < K ? cpu_min(K, end) : at;
        float tops[RUNS], top = -INFINITY;
        for (int64_t v = at, r = 0; v < end; v += RUN, r++) {
            tops[r] = cpu_row_top(cpu_row_at(row, dtype, v), dtype, cpu_min(RUN, end - v));
            top = tops[r] > top ? tops[r] : top;
        }
        loss_raise_top(&s, top, inverse);
        s.exps += (double)loss_sum_exps(cpu_row_at(row, dtype, at), dtype, end - at, (float)s.top,
                                        (float)inverse);
        for (int64_t v = at, r = 0; v < end; v += RUN, r++)
            if (v + RUN > first && !(tops[r] <= logit_of(h.key[0]))) /* nor beside a NaN */
                feed_heap(&h, row, dtype, v > first ? v : first, cpu_min(v + RUN, end));
    }
    sort_heap(h);
    const double log_sum = log(s.exps);
    for (int64_t k = 0; k < K; k++)
        value[k] = (float)(((double)logit_of(h.key[k]) - s.top) * inverse - log_sum);
}

static void top_part(const void *user, int64_t first, int64_t last)
{
    for (int64_t i = first; i < last; i++)
        top_row(user, i);
}

pare_status PARE_CPU(pare_cpu_top_k)(pare_backend *be, const pare_top_k_args *args)
{
    if (args->index.shape[1] > 0)
        cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), top_part, args);
    return PARE_OK;
}
