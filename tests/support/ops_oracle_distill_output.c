/* kl, top_k, kl_top and cosine in double precision. */
#include "oracle_nn.h"

#include <stdlib.h>

/* A row of logits below their largest, divided by the temperature: beside numbers of 10⁴ nothing
 * would be left of the logarithm of a class that has all but 10⁻¹² of a row. */
typedef struct row {
    const pare_tensor *x;
    int64_t i;
    double temperature;
    double top;     /* the largest; 0 if that is not finite */
    double log_sum; /* log Σ e^ of all that count */
} row;

static double logit(const row *r, int64_t v)
{
    return oracle_get(r->x, r->i * r->x->shape[1] + v);
}

static double scaled(const row *r, int64_t v)
{
    return (logit(r, v) - r->top) / r->temperature;
}

/* Of the classes that are not left out; −Inf of none. */
static double log_sum_of(const row *r, const char *left_out)
{
    double top = -(double)INFINITY, sum = 0;
    for (int64_t v = 0; v < r->x->shape[1]; v++)
        if (!left_out || !left_out[v])
            top = fmax(top, scaled(r, v));
    if (top == -(double)INFINITY) /* all impossible, or NaN */
        for (int64_t v = 0; v < r->x->shape[1]; v++)
            if ((!left_out || !left_out[v]) && isnan(scaled(r, v)))
                return (double)NAN;
    if (top == -(double)INFINITY)
        return top;
    for (int64_t v = 0; v < r->x->shape[1]; v++)
        if (!left_out || !left_out[v])
            sum += exp(scaled(r, v) - top);
    return top + log(sum);
}

static row row_of(const pare_tensor *x, int64_t i, float temperature)
{
    row r = {x, i, temperature != 0 ? (double)temperature : 1, 0, 0};
    double top = -(double)INFINITY;
    for (int64_t v = 0; v < x->shape[1]; v++)
        top = fmax(top, logit(&r, v));
    r.top = isfinite(top) ? top : 0;
    r.log_sum = log_sum_of(&r, NULL);
    return r;
}

/* log softmax */
static double log_p(const row *r, int64_t v)
{
    return scaled(r, v) - r->log_sum;
}

/* The first of the largest; NaN is none. */
static int64_t best_of(const row *r)
{
    int64_t best = 0;
    for (int64_t v = 1; v < r->x->shape[1]; v++) {
        double now = logit(r, v), then = logit(r, best);
        if (now > then || (isnan(then) && !isnan(now)))
            best = v;
    }
    return best;
}

/* ---- kl -------------------------------------------------------------------------------------- */

/* p·(log p − log q); 0 where p is, unless q is NaN. */
static double term(double p, double q)
{
    if (exp(p) != 0)
        return exp(p) * (p - q);
    return isnan(q) ? q : 0;
}

static double log_mean(double p, double q)
{
    double top = fmax(p, q);
    if (isnan(p) || isnan(q) || top == -(double)INFINITY)
        return p + q;
    return top + log(exp(p - top) + exp(q - top)) - log(2);
}

/* A class's part of the divergence, and what the gradient is made of. */
static double divergence_of(pare_divergence kind, double p, double q, double *f)
{
    double m = log_mean(p, q);
    *f = kind == PARE_DIVERGENCE_JS ? (q - m) / 2 : q - p;
    if (kind == PARE_DIVERGENCE_FORWARD)
        return term(p, q);
    return kind == PARE_DIVERGENCE_REVERSE ? term(q, p) : (term(p, m) + term(q, m)) / 2;
}

static void kl_row(const pare_kl_args *a, int64_t i)
{
    int64_t V = a->x.shape[1];
    row t = row_of(&a->teacher, i, a->temperature), x = row_of(&a->x, i, a->temperature);
    double kl = 0, mean = 0, f, scale = (double)a->grad_scale / x.temperature;
    for (int64_t v = 0; v < V; v++) {
        double q = log_p(&x, v);
        kl += divergence_of(a->divergence, log_p(&t, v), q, &f);
        if (exp(q) != 0)
            mean += exp(q) * f;
    }
    oracle_put(&a->kl, i, kl);
    if (a->same.data)
        ((uint8_t *)a->same.data)[i] = best_of(&t) == best_of(&x);
    for (int64_t v = 0; a->dx.data && v < V; v++) {
        double p = log_p(&t, v), q = log_p(&x, v), slope = exp(q) - exp(p);
        if (a->divergence != PARE_DIVERGENCE_FORWARD) {
            divergence_of(a->divergence, p, q, &f);
            slope = exp(q) != 0 ? exp(q) * (f - mean) : 0;
        }
        oracle_put(&a->dx, i * V + v, scale * slope);
    }
}

void oracle_kl(const pare_kl_args *a)
{
    int64_t V = a->x.shape[1];
    const int32_t *labels = a->labels.data;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        if (!labels || labels[i] != -1) {
            kl_row(a, i);
            continue;
        }
        oracle_put(&a->kl, i, 0);
        if (a->same.data)
            ((uint8_t *)a->same.data)[i] = 0;
        for (int64_t v = 0; a->dx.data && v < V; v++)
            oracle_put(&a->dx, i * V + v, 0);
    }
}

/* ---- top_k ----------------------------------------------------------------------------------- */

void oracle_top_k(const pare_top_k_args *a)
{
    int64_t V = a->x.shape[1], K = a->index.shape[1];
    char *taken = malloc((size_t)V + 1);
    for (int64_t i = 0; taken && i < a->x.shape[0]; i++) {
        row r = row_of(&a->x, i, a->temperature);
        memset(taken, 0, (size_t)V);
        for (int64_t k = 0; k < K; k++) {
            int64_t best = -1; /* a NaN comes behind all others */
            for (int64_t v = 0; v < V; v++)
                if (!taken[v] && (best < 0 || logit(&r, v) > logit(&r, best) ||
                                  (isnan(logit(&r, best)) && !isnan(logit(&r, v)))))
                    best = v;
            taken[best] = 1;
            ((int32_t *)a->index.data)[i * K + k] = (int32_t)best;
            oracle_put(&a->value, i * K + k, log_p(&r, best));
        }
    }
    free(taken);
}

/* ---- kl_top ---------------------------------------------------------------------------------- */

/* taken: of V chars, all 0. */
static void kl_top_row(const pare_kl_top_args *a, int64_t i, char *taken)
{
    int64_t V = a->x.shape[1], K = a->index.shape[1];
    row x = row_of(&a->x, i, a->temperature);
    const int32_t *index = (const int32_t *)a->index.data + i * K;
    double kept = 0, loss = 0, scale = (double)a->grad_scale / x.temperature;
    for (int64_t k = 0; k < K; k++) {
        double p = oracle_get(&a->value, i * K + k);
        taken[index[k]] = 1;
        kept += exp(p);
        if (exp(p) != 0)
            loss += exp(p) * (p - log_p(&x, index[k]));
    }
    double rest = K == V || kept > 1 ? 0 : 1 - kept, log_rest = log_sum_of(&x, taken);
    if (rest != 0)
        loss += rest * (log(rest) - (log_rest - x.log_sum));
    oracle_put(&a->loss, i, loss);
    for (int64_t v = 0; a->dx.data && v < V; v++)
        if (!taken[v]) {
            double share = exp(scaled(&x, v) - log_rest);
            oracle_put(&a->dx, i * V + v,
                       log_rest == -(double)INFINITY
                           ? 0
                           : scale * (exp(log_rest - x.log_sum) - rest) * share);
        }
    for (int64_t k = 0; a->dx.data && k < K; k++)
        oracle_put(&a->dx, i * V + index[k],
                   scale * (exp(log_p(&x, index[k])) - exp(oracle_get(&a->value, i * K + k))));
}

void oracle_kl_top(const pare_kl_top_args *a)
{
    int64_t V = a->x.shape[1];
    const int32_t *labels = a->labels.data;
    char *taken = malloc((size_t)V + 1);
    for (int64_t i = 0; taken && i < a->x.shape[0]; i++) {
        memset(taken, 0, (size_t)V);
        if (!labels || labels[i] != -1) {
            kl_top_row(a, i, taken);
            continue;
        }
        oracle_put(&a->loss, i, 0);
        for (int64_t v = 0; a->dx.data && v < V; v++)
            oracle_put(&a->dx, i * V + v, 0);
    }
    free(taken);
}

/* ---- cosine ---------------------------------------------------------------------------------- */

static double dot(const pare_tensor *a, const pare_tensor *b, int64_t i)
{
    int64_t N = a->shape[1];
    double sum = 0;
    for (int64_t j = i * N; j < (i + 1) * N; j++)
        sum += oracle_get(a, j) * oracle_get(b, j);
    return sum;
}

void oracle_cosine(const pare_cosine_args *a)
{
    int64_t N = a->x.shape[1];
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        double x = sqrt(dot(&a->x, &a->x, i)), t = sqrt(dot(&a->t, &a->t, i));
        double weight = a->weight.data ? oracle_get(&a->weight, i) : 1;
        double cosine = dot(&a->x, &a->t, i) / (x * t);
        int counts = weight != 0 && x != 0 && t != 0;
        oracle_put(&a->loss, i, counts ? weight * (1 - cosine) : 0);
        for (int64_t j = i * N; a->dx.data && j < (i + 1) * N; j++) {
            double slope = cosine * oracle_get(&a->x, j) / x - oracle_get(&a->t, j) / t;
            oracle_put(&a->dx, j, counts ? (double)a->grad_scale * weight * slope / x : 0);
        }
    }
}
