/* cpu_kl_top.c - the divergence of a student from the K classes that top_k kept of its teacher, all
 * others being one class.
 *
 * The kept classes are K numbers of a row: they are taken one by one, in f64. The others are read
 * block by block from a copy in the first cache that has −Inf in the places of the kept: so their
 * Σ e^(x − top), against their own largest, is made of them alone, and their share ρ's counterpart
 * q_ρ has all its digits however little the others have. A second reading writes the gradient: for
 * the others it is (q_ρ − ρ)·e^(x − top)/Σ, one power. Bound by the powers.
 */
#include "cpu_loss.h"
#include "cpu_nn.h"

typedef struct kl_row {
    const void *x;        /* [V] */
    const int32_t *index; /* [K] */
    const float *value;   /* [K] */
    int64_t V, K;
    pare_dtype dtype;
    double inverse;
    loss_softmax rest; /* of the others */
    double log_all;    /* log Σ e^(x·inverse) over all classes */
    double share;      /* ρ */
    float loss;
} kl_row;

/* Elements [at, at + n) of x as f32. */
static void copy_block(const kl_row *r, int64_t at, int64_t n, float *block)
{
    if (r->dtype == PARE_F32)
        memcpy(block, (const float *)r->x + at, (size_t)n * sizeof *block);
    else
        for (int64_t v = 0; v < n; v += CPU_V)
            cpu_row_store(block, PARE_F32, v, n, cpu_row_load(r->x, PARE_BF16, at + v, at + n, 0));
}

/* The softmax of the classes that were not kept. */
static void read_rest(kl_row *r)
{
    float block[LOSS_BLOCK];
    r->rest = loss_nothing_read;
    for (int64_t at = 0; at < r->V; at += LOSS_BLOCK) {
        int64_t n = cpu_min(LOSS_BLOCK, r->V - at);
        copy_block(r, at, n, block);
        for (int64_t k = 0; k < r->K; k++) {
            uint64_t place = (uint64_t)(r->index[k] - at);
            if (place < (uint64_t)n)
                block[place] = -INFINITY;
        }
        loss_raise_top(&r->rest, cpu_row_top(block, PARE_F32, n), r->inverse);
        r->rest.exps +=
            (double)loss_sum_exps(block, PARE_F32, n, (float)r->rest.top, (float)r->inverse);
    }
}

/* log Σ e^(x·inverse) of the kept, and with log_rest's of all. */
static double log_all(const kl_row *r, double log_rest)
{
    double top = log_rest, sum = 0;
    for (int64_t k = 0; k < r->K; k++)
        top = fmax(top, (double)cpu_get(r->x, r->dtype, r->index[k]) * r->inverse);
    for (int64_t k = 0; k < r->K; k++)
        sum += exp((double)cpu_get(r->x, r->dtype, r->index[k]) * r->inverse - top);
    return top + log(sum + exp(log_rest - top));
}

static void read_row(kl_row *r)
{
    read_rest(r);
    /* −Inf where there are no others, or none that is possible */
    double log_rest = r->rest.top * r->inverse + log(r->rest.exps), loss = 0, kept = 0;
    r->log_all = log_all(r, log_rest);
    for (int64_t k = 0; k < r->K; k++) {
        double log_p = (double)r->value[k], p = exp(log_p);
        double log_q = (double)cpu_get(r->x, r->dtype, r->index[k]) * r->inverse - r->log_all;
        kept += p;
        if (p != 0)
            loss += p * (log_p - log_q);
    }
    r->share = r->K == r->V || kept > 1 ? 0 : 1 - kept;
    if (r->share != 0)
        loss += r->share * (log(r->share) - (log_rest - r->log_all));
    r->loss = r->V == 0 || loss < 0 ? 0 : (float)loss; /* below 0 by rounding only */
}

/* ---- gradient -------------------------------------------------------------------------------- */

CPU_INLINE void slopes_of(const float *x, void *dx, pare_dtype dtype, int64_t n, float top,
                          float inverse, float scale)
{
    int64_t i = 0;
    for (; i + CPU_V <= n; i += CPU_V)
        cpu_vstore(dx, dtype, i, cpu_vexp((cpu_vload(x, PARE_F32, i) - top) * inverse) * scale);
    if (i < n)
        cpu_vstore_n(dx, dtype, i, n - i,
                     cpu_vexp((cpu_vload_n(x, PARE_F32, i, n - i, 0) - top) * inverse) * scale);
}

/* dx = scale·e^((x − top)·inverse); what is above the top is written again. */
CPU_LOOP void slopes(const float *x, void *dx, pare_dtype dtype, int64_t n, float top,
                     float inverse, float scale)
{
    if (dtype == PARE_F32)
        slopes_of(x, dx, PARE_F32, n, top, inverse, scale);
    else
        slopes_of(x, dx, PARE_BF16, n, top, inverse, scale);
}

/* dx may be x: a block's logits are in the copy by the time it is written. */
static void write_gradient(const kl_row *r, void *dx, double grad_scale)
{
    float block[LOSS_BLOCK];
    const double scale = grad_scale * r->inverse;
    const double rest = exp(r->rest.top * r->inverse + log(r->rest.exps) - r->log_all);
    const double each = r->rest.exps == 0 ? 0 : scale * (rest - r->share) / r->rest.exps;
    for (int64_t at = 0; at < r->V; at += LOSS_BLOCK) {
        int64_t n = cpu_min(LOSS_BLOCK, r->V - at);
        copy_block(r, at, n, block);
        slopes(block, cpu_row_at(dx, r->dtype, at), r->dtype, n, (float)r->rest.top,
               (float)r->inverse, (float)each);
        for (int64_t k = 0; k < r->K; k++) {
            uint64_t place = (uint64_t)(r->index[k] - at);
            if (place < (uint64_t)n)
                cpu_put(dx, r->dtype, r->index[k],
                        (float)(scale * (exp((double)block[place] * r->inverse - r->log_all) -
                                         exp((double)r->value[k]))));
        }
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void kl_top_part(const void *user, int64_t first, int64_t last)
{
    const pare_kl_top_args *a = user;
    const int32_t *labels = a->labels.data;
    int64_t V = a->x.shape[1], K = a->index.shape[1];
    pare_dtype dtype = a->x.dtype;
    for (int64_t i = first; i < last; i++) {
        kl_row r = {.x = cpu_row_at(a->x.data, dtype, i * V),
                    .index = (const int32_t *)a->index.data + i * K,
                    .value = (const float *)a->value.data + i * K,
                    .V = V,
                    .K = K,
                    .dtype = dtype,
                    .inverse = loss_inverse(a->temperature)};
        bool counts = !labels || labels[i] != -1;
        if (counts)
            read_row(&r);
        ((float *)a->loss.data)[i] = r.loss;
        if (counts && a->dx.data)
            write_gradient(&r, cpu_row_at(a->dx.data, dtype, i * V), (double)a->grad_scale);
        else if (a->dx.data)
            loss_no_gradient(&a->dx, i);
    }
}

pare_status PARE_CPU(pare_cpu_kl_top)(pare_backend *be, const pare_kl_top_args *args)
{
    const int32_t *index = args->index.data;
    int64_t R = args->x.shape[0], V = args->x.shape[1], K = args->index.shape[1];
    for (int64_t i = 0; i < R * K; i++)
        PARE_REQUIRE(index[i] >= 0 && index[i] < V, PARE_ERR_ARGUMENT,
                     "kl_top: index[%lld, %lld] is %d; it must be a class below %lld",
                     (long long)(i / K), (long long)(i % K), index[i], (long long)V);
    cpu_split(be, R, cpu_row_grain(V), kl_top_part, args);
    return PARE_OK;
}
