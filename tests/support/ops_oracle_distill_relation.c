/* Relation in double precision, one pair of positions at a time. */
#include "oracle_nn.h"

#include <stdlib.h>

/* Row (b, i) of head h. */
typedef struct place {
    const pare_relation_args *args;
    int64_t B, T, D, Dt, b, h, i;
    double scale, scale_t;
} place;

static bool counts(const place *a, int64_t j)
{
    return !a->args->keys.data || ((const uint8_t *)a->args->keys.data)[a->b * a->T + j] != 0;
}

static bool sees(const place *a, int64_t j)
{
    return counts(a, j) && (!a->args->causal || j <= a->i);
}

/* Where element d of head h of position j begins in x, whose heads are `of` of a's. */
static int64_t at(const place *a, const pare_tensor *x, int64_t j, int of, int64_t D, int64_t d)
{
    int64_t head = a->h * of / a->args->heads;
    return (a->b * a->T + j) * x->shape[1] + head * D + d;
}

static double score(const place *a, int64_t j)
{
    double sum = 0;
    for (int64_t d = 0; d < a->D; d++)
        sum += oracle_get(&a->args->a, at(a, &a->args->a, a->i, a->args->heads, a->D, d)) *
               oracle_get(&a->args->b, at(a, &a->args->b, j, a->args->kv_heads, a->D, d));
    return sum * a->scale;
}

static double score_t(const place *a, int64_t j)
{
    double sum = 0;
    for (int64_t d = 0; d < a->Dt; d++)
        sum += oracle_get(&a->args->ta, at(a, &a->args->ta, a->i, a->args->heads, a->Dt, d)) *
               oracle_get(&a->args->tb, at(a, &a->args->tb, j, a->args->t_kv_heads, a->Dt, d));
    return sum * a->scale_t;
}

/* log Σ exp of the x [T] that are seen. */
static double log_sum(const place *a, const double *x)
{
    double top = -(double)INFINITY, sum = 0;
    for (int64_t j = 0; j < a->T; j++)
        if (sees(a, j))
            top = fmax(top, x[j]);
    for (int64_t j = 0; j < a->T; j++)
        if (sees(a, j))
            sum += exp(x[j] - top);
    return top + log(sum);
}

/* The loss of the row; ds [T]: its gradient by the student's scores. x has room for 2·T. */
static double row_loss(const place *a, double *x, double *ds)
{
    double *r = x, *s = x + a->T, loss = 0, n = 0;
    for (int64_t j = 0; j < a->T; j++) {
        r[j] = score_t(a, j);
        s[j] = score(a, j);
        n += sees(a, j);
        ds[j] = 0;
    }
    double r_sum = log_sum(a, r), s_sum = log_sum(a, s);
    for (int64_t j = 0; j < a->T; j++) {
        if (!sees(a, j))
            continue;
        if (a->args->kind == PARE_RELATION_SCORE) {
            loss += (s[j] - r[j]) * (s[j] - r[j]) / n;
            ds[j] = 2 * (s[j] - r[j]) / n;
            continue;
        }
        double p = exp(r[j] - r_sum), q = exp(s[j] - s_sum);
        loss += p == 0 ? 0 : p * ((r[j] - r_sum) - (s[j] - s_sum));
        ds[j] = q - p;
    }
    return loss;
}

/* Adds the row's gradient, times gain, to da and db. */
static void go_back(const place *a, const double *ds, double gain, double *da, double *db)
{
    const pare_relation_args *x = a->args;
    for (int64_t j = 0; j < a->T; j++)
        for (int64_t d = 0; d < a->D && ds[j] != 0; d++) {
            int64_t i_at = at(a, &x->a, a->i, x->heads, a->D, d);
            int64_t j_at = at(a, &x->b, j, x->kv_heads, a->D, d);
            da[i_at] += gain * ds[j] * a->scale * oracle_get(&x->b, j_at);
            db[j_at] += gain * ds[j] * a->scale * oracle_get(&x->a, i_at);
        }
}

static double sample_loss(place *a, double *memory, double *da, double *db)
{
    const pare_relation_args *x = a->args;
    double weight = x->weight.data ? (double)((const float *)x->weight.data)[a->b] : 1, loss = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < a->T; i++)
        n += counts(a, i);
    if (n == 0 || weight == 0)
        return 0;
    double share = weight / (x->heads * (double)n);
    for (a->h = 0; a->h < x->heads; a->h++)
        for (a->i = 0; a->i < a->T; a->i++)
            if (counts(a, a->i)) {
                loss += row_loss(a, memory + a->T, memory);
                go_back(a, memory, share * (double)x->grad_scale, da, db);
            }
    return loss * share;
}

/* x += sum. */
static void add(const pare_tensor *x, const double *sum)
{
    for (int64_t i = 0; x->data && i < pare_tensor_count(x); i++)
        oracle_put(x, i, oracle_get(x, i) + sum[i]);
}

void oracle_relation(const pare_relation_args *args)
{
    place a = {.args = args, .T = args->T};
    a.B = args->a.shape[0] > 0 ? args->a.shape[0] / a.T : 0;
    a.D = args->a.shape[1] / args->heads;
    a.Dt = args->ta.shape[1] / args->heads;
    a.scale = args->scale != 0 ? (double)args->scale : 1 / sqrt((double)a.D);
    a.scale_t = args->scale_t != 0 ? (double)args->scale_t : 1 / sqrt((double)a.Dt);
    int64_t n = pare_tensor_count(&args->a), m = pare_tensor_count(&args->b);
    double *da = calloc((size_t)(n + m + 3 * a.T) + 1, sizeof *da);
    double *db = args->da.data && args->da.data == args->db.data ? da : da + n;
    for (a.b = 0; a.b < a.B; a.b++)
        oracle_put(&args->loss, a.b, sample_loss(&a, da + n + m, da, db));
    add(&args->da, da);
    if (db != da)
        add(&args->db, db);
    free(da);
}
