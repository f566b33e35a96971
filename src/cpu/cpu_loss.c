/* cpu_loss.c - cross-entropy and squared error.
 *
 * A row of logits is read block by block, each block some times from the first cache: its largest,
 * then Σ e^(x − top) against the largest so far, the sum scaled down whenever that grows. With a
 * gradient a second reading writes it. Sums of a block are sixteen f32 lanes, those of a row and
 * its logarithms are f64. Bound by memory.
 */
#include "cpu_loss.h"
#include "cpu_nn.h"

/* ---- cross-entropy --------------------------------------------------------------------------- */

CPU_INLINE float sum_below_of(const void *x, pare_dtype dtype, int64_t n, float top)
{
    cpu_acc sum = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_acc_add(&sum, cpu_vload(x, dtype, i) - top);
    if (i < n)
        cpu_acc_add(&sum, cpu_vload_n(x, dtype, i, n - i, top) - top);
    return cpu_vsum(cpu_acc_get(&sum));
}

/* Σ x − n·top */
CPU_LOOP float sum_below(const void *x, pare_dtype dtype, int64_t n, float top)
{
    return dtype == PARE_F32 ? sum_below_of(x, PARE_F32, n, top)
                             : sum_below_of(x, PARE_BF16, n, top);
}

/* One where v beats t. */
CPU_INLINE cpu_v beats(cpu_v v, cpu_v t, bool equal)
{
    cpu_vi more = cpu_gt(v, t);
    return (cpu_v)((equal ? more | cpu_eq(v, t) : more) & (cpu_vi)cpu_splat(1));
}

/* n ≤ LOSS_BLOCK: exact in f32. */
CPU_INLINE int64_t count_beating_of(const void *x, pare_dtype dtype, int64_t n, float t, bool equal)
{
    cpu_acc count = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_acc_add(&count, beats(cpu_vload(x, dtype, i), cpu_splat(t), equal));
    if (i < n)
        cpu_acc_add(&count, beats(cpu_vload_n(x, dtype, i, n - i, NAN), cpu_splat(t), equal));
    return (int64_t)cpu_vsum(cpu_acc_get(&count));
}

/* How many of n elements are greater than t, or equal to it where that counts. */
CPU_LOOP int64_t count_beating(const void *x, pare_dtype dtype, int64_t n, float t, bool equal)
{
    if (dtype == PARE_F32)
        return equal ? count_beating_of(x, PARE_F32, n, t, true)
                     : count_beating_of(x, PARE_F32, n, t, false);
    return equal ? count_beating_of(x, PARE_BF16, n, t, true)
                 : count_beating_of(x, PARE_BF16, n, t, false);
}

CPU_INLINE void gradient_of(const void *x, void *dx, pare_dtype dtype, int64_t V, float top,
                            float scale, float offset)
{
    int64_t i = 0;
    for (; i + CPU_V <= V; i += CPU_V)
        cpu_vstore(dx, dtype, i, cpu_vexp_below(cpu_vload(x, dtype, i) - top) * scale - offset);
    if (i < V) {
        cpu_v e = cpu_vexp_below(cpu_vload_n(x, dtype, i, V - i, 0) - top);
        cpu_vstore_n(dx, dtype, i, V - i, e * scale - offset);
    }
}

/* dx = scale·e^(x − top) − offset */
CPU_LOOP void write_gradient(const void *x, void *dx, pare_dtype dtype, int64_t V, float top,
                             float scale, float offset)
{
    if (dtype == PARE_F32)
        gradient_of(x, dx, PARE_F32, V, top, scale, offset);
    else
        gradient_of(x, dx, PARE_BF16, V, top, scale, offset);
}

/* What a reading of a row of logits finds. */
typedef struct reading {
    loss_softmax s;
    double all;   /* Σ x, where it is asked for */
    int64_t rank; /* where it is asked for */
} reading;

/* label's logit is t. */
static reading read_row(const void *row, pare_dtype dtype, int64_t V, int64_t label, float t,
                        bool with_all, bool with_rank)
{
    reading r = {.s = loss_nothing_read};
    for (int64_t at = 0; at < V; at += LOSS_BLOCK) {
        const void *x = cpu_row_at(row, dtype, at);
        int64_t n = cpu_min(LOSS_BLOCK, V - at);
        loss_raise_top(&r.s, cpu_row_top(x, dtype, n), 1);
        float top = (float)r.s.top;
        r.s.exps += (double)loss_sum_exps(x, dtype, n, top, 1);
        if (with_all)
            r.all += (double)sum_below(x, dtype, n, top) + (double)n * r.s.top;
        if (with_rank) { /* equals beat it in front of it only */
            int64_t front = label <= at ? 0 : cpu_min(label - at, n);
            r.rank += count_beating(x, dtype, front, t, true);
            r.rank += count_beating(cpu_row_at(x, dtype, front), dtype, n - front, t, false);
        }
    }
    return r;
}

/* The classes of a row that have a target of their own, beside smoothing's s/V on all. */
typedef struct target {
    int64_t label;
    double share; /* of the target */
    float logit;
} target;

static int find_targets(const pare_cross_entropy_args *a, int64_t i, const void *row, target *t)
{
    const int32_t *labels2 = a->labels2.data;
    double own = 1 - (double)a->smoothing;
    t[0] = (target){.label = ((const int32_t *)a->labels.data)[i], .share = own};
    t[0].logit = cpu_get(row, a->x.dtype, t[0].label);
    if (!labels2 || labels2[i] < 0 || labels2[i] == t[0].label)
        return 1;
    double mix = (double)((const float *)a->mix.data)[i];
    t[0].share = own * mix;
    t[1] = (target){.label = labels2[i], .share = own * (1 - mix)};
    t[1].logit = cpu_get(row, a->x.dtype, t[1].label);
    return 2;
}

static void entropy_row(const pare_cross_entropy_args *a, int64_t i)
{
    int64_t V = a->x.shape[1];
    pare_dtype dtype = a->x.dtype;
    const void *row = cpu_row_at(a->x.data, dtype, i * V);
    int32_t *rank = a->rank.data;
    double smoothing = (double)a->smoothing, scale = (double)a->grad_scale;
    target t[2];
    int targets = find_targets(a, i, row, t);
    reading r = read_row(row, dtype, V, t[0].label, t[0].logit, smoothing != 0, rank != NULL);
    double log_sum = log(r.s.exps), loss = 0;
    if (smoothing != 0)
        loss = smoothing * (log_sum - (r.all / (double)V - r.s.top));
    for (int k = 0; k < targets; k++)
        if (t[k].share != 0) /* else an infinite logit would make a NaN of it */
            loss += t[k].share * (log_sum - ((double)t[k].logit - r.s.top));
    ((float *)a->loss.data)[i] = (float)loss;
    if (rank)
        rank[i] = (int32_t)r.rank;
    if (!a->dx.data)
        return;
    void *dx = cpu_row_at(a->dx.data, dtype, i * V);
    double each = smoothing / (double)V;
    write_gradient(row, dx, dtype, V, (float)r.s.top, (float)(scale / r.s.exps),
                   (float)(scale * each));
    for (int k = 0; k < targets; k++) {
        double p = exp((double)t[k].logit - r.s.top) / r.s.exps;
        cpu_put(dx, dtype, t[k].label, (float)(scale * (p - each - t[k].share)));
    }
}

static void entropy_part(const void *user, int64_t first, int64_t last)
{
    const pare_cross_entropy_args *a = user;
    int64_t V = a->x.shape[1];
    for (int64_t i = first; i < last; i++) {
        if (((const int32_t *)a->labels.data)[i] >= 0) {
            entropy_row(a, i);
            continue;
        }
        ((float *)a->loss.data)[i] = 0;
        if (a->rank.data)
            ((int32_t *)a->rank.data)[i] = (int32_t)V;
        if (a->dx.data)
            loss_no_gradient(&a->dx, i);
    }
}

static pare_status check_labels(const char *name, const pare_tensor *labels, int64_t V)
{
    const int32_t *label = labels->data;
    for (int64_t i = 0; label && i < labels->shape[0]; i++)
        PARE_REQUIRE(label[i] >= -1 && label[i] < V, PARE_ERR_ARGUMENT,
                     "cross_entropy: %s[%lld] is %d; a label is −1 or a class below %lld", name,
                     (long long)i, label[i], (long long)V);
    return PARE_OK;
}

pare_status PARE_CPU(pare_cpu_cross_entropy)(pare_backend *be, const pare_cross_entropy_args *args)
{
    PARE_TRY(check_labels("labels", &args->labels, args->x.shape[1]));
    PARE_TRY(check_labels("labels2", &args->labels2, args->x.shape[1]));
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), entropy_part, args);
    return PARE_OK;
}

/* ---- squared error --------------------------------------------------------------------------- */

CPU_INLINE void mse_step(cpu_acc *sum, const void *x, pare_dtype x_dtype, const void *t,
                         pare_dtype t_dtype, void *dx, float scale, int64_t i, int64_t n)
{
    cpu_v d = cpu_vload_n(x, x_dtype, i, n, 0) - cpu_vload_n(t, t_dtype, i, n, 0);
    cpu_acc_add(sum, d * d);
    if (dx)
        cpu_vstore_n(dx, x_dtype, i, n, d * scale);
}

/* Σ (x − t)²; dx may be NULL. */
CPU_INLINE float mse_block_of(const void *x, pare_dtype x_dtype, const void *t, pare_dtype t_dtype,
                              void *dx, float scale, int64_t n)
{
    cpu_acc sum = cpu_acc_of(0);
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        mse_step(&sum, x, x_dtype, t, t_dtype, dx, scale, i, CPU_V);
    if (i < n)
        mse_step(&sum, x, x_dtype, t, t_dtype, dx, scale, i, n - i);
    return cpu_vsum(cpu_acc_get(&sum));
}

CPU_LOOP float mse_block(const void *x, pare_dtype x_dtype, const void *t, pare_dtype t_dtype,
                         void *dx, float scale, int64_t n)
{
    if (x_dtype == PARE_F32)
        return t_dtype == PARE_F32 ? mse_block_of(x, PARE_F32, t, PARE_F32, dx, scale, n)
                                   : mse_block_of(x, PARE_F32, t, PARE_BF16, dx, scale, n);
    return t_dtype == PARE_F32 ? mse_block_of(x, PARE_BF16, t, PARE_F32, dx, scale, n)
                               : mse_block_of(x, PARE_BF16, t, PARE_BF16, dx, scale, n);
}

/* A row that counts; weight multiplies loss and gradient. */
static float mse_row(const pare_mse_args *a, int64_t i, float weight)
{
    int64_t N = a->x.shape[1];
    pare_dtype x_dtype = a->x.dtype, t_dtype = a->t.dtype;
    float scale = 2 * a->grad_scale * weight;
    double loss = 0;
    for (int64_t j = i * N; j < (i + 1) * N; j += LOSS_BLOCK)
        loss += (double)mse_block(cpu_row_at(a->x.data, x_dtype, j), x_dtype,
                                  cpu_row_at(a->t.data, t_dtype, j), t_dtype,
                                  a->dx.data ? cpu_row_at(a->dx.data, x_dtype, j) : NULL, scale,
                                  cpu_min(LOSS_BLOCK, (i + 1) * N - j));
    return (float)(loss * (double)weight);
}

static void mse_part(const void *user, int64_t first, int64_t last)
{
    const pare_mse_args *a = user;
    const float *weight = a->weight.data;
    for (int64_t i = first; i < last; i++) {
        float w = weight ? weight[i] : 1;
        ((float *)a->loss.data)[i] = w != 0 ? mse_row(a, i, w) : 0;
        if (w == 0 && a->dx.data)
            loss_no_gradient(&a->dx, i);
    }
}

pare_status PARE_CPU(pare_cpu_mse)(pare_backend *be, const pare_mse_args *args)
{
    cpu_split(be, args->x.shape[0], cpu_row_grain(args->x.shape[1]), mse_part, args);
    return PARE_OK;
}
