/* Softmax, embedding, rotary and attention in double precision, one element at a time. */
#include "oracle_nn.h"

#include <stdlib.h>

/* ---- softmax --------------------------------------------------------------------------------- */

void oracle_softmax(const pare_softmax_args *a)
{
    int64_t N = a->x.shape[1];
    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        double top = -(double)INFINITY, sum = 0;
        for (int64_t j = 0; j < N; j++)
            top = fmax(top, oracle_get(&a->x, r * N + j));
        for (int64_t j = 0; j < N; j++)
            sum += exp(oracle_get(&a->x, r * N + j) - top);
        for (int64_t j = 0; j < N; j++)
            oracle_put(&a->y, r * N + j, exp(oracle_get(&a->x, r * N + j) - top) / sum);
    }
}

void oracle_softmax_grad(const pare_softmax_grad_args *a)
{
    int64_t N = a->y.shape[1];
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        double dot = 0;
        for (int64_t j = 0; j < N; j++)
            dot += oracle_get(&a->dy, r * N + j) * oracle_get(&a->y, r * N + j);
        for (int64_t j = 0; j < N; j++) {
            double y = oracle_get(&a->y, r * N + j), dy = oracle_get(&a->dy, r * N + j);
            oracle_put(&a->dx, r * N + j, y * (dy - dot));
        }
    }
}

/* ---- embedding ------------------------------------------------------------------------------- */

void oracle_embedding(const pare_embedding_args *a)
{
    const int32_t *ids = a->ids.data;
    int64_t N = a->w.shape[1];
    for (int64_t i = 0; i < a->ids.shape[0]; i++)
        for (int64_t j = 0; j < N; j++)
            oracle_put(&a->y, i * N + j, oracle_get(&a->w, ids[i] * N + j));
}

/* Rounds after each addition, as the op's comment has it. */
void oracle_embedding_grad(const pare_embedding_grad_args *a)
{
    const int32_t *ids = a->ids.data;
    int64_t N = a->dw.shape[1];
    for (int64_t i = 0; i < a->ids.shape[0]; i++)
        for (int64_t j = 0; j < N; j++) {
            int64_t at = ids[i] * N + j;
            oracle_put(&a->dw, at, oracle_get(&a->dw, at) + oracle_get(&a->dy, i * N + j));
        }
}

/* ---- rotary ---------------------------------------------------------------------------------- */

void oracle_rotary(const pare_rotary_args *a)
{
    int64_t half = a->cos.shape[1], D = a->x.shape[1] / a->heads;
    for (int64_t n = 0; n < pare_tensor_count(&a->x); n++) {
        int64_t d = n % D, row = n / D / a->heads;
        double x = oracle_get(&a->x, n);
        if (d < 2 * half) {
            int64_t angle = row % a->T * half + d % half;
            double c = oracle_get(&a->cos, angle), s = oracle_get(&a->sin, angle);
            double other = oracle_get(&a->x, d < half ? n + half : n - half);
            x = x * c + other * s * (d < half ? -1 : 1) * (a->inverse ? -1 : 1);
        }
        oracle_put(&a->y, n, x);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* What the op and its gradient have in common; b, h, i: a query. */
typedef struct query {
    const pare_tensor *q, *k, *keys;
    int64_t T, window, D, b, h, i;
    int heads, kv_heads;
    double scale, dropout;
    uint64_t seed, stream;
    bool causal;
} query;

#define QUERY(args)                                                                                \
    {                                                                                              \
        .q = &(args)->q, .k = &(args)->k, .keys = &(args)->keys, .T = (args)->T,                   \
        .window = (args)->window, .D = (args)->q.shape[1] / (args)->heads, .heads = (args)->heads, \
        .kv_heads = (args)->kv_heads, .dropout = (double)(args)->dropout, .seed = (args)->seed,    \
        .stream = (args)->stream, .causal = (args)->causal,                                        \
        .scale = (args)->scale != 0 ? (double)(args)->scale                                        \
                                    : 1 / sqrt((double)((args)->q.shape[1] / (args)->heads)),      \
    }

static bool sees(const query *a, int64_t j)
{
    if (a->keys->data && ((const uint8_t *)a->keys->data)[a->b * a->T + j] == 0)
        return false;
    if (a->causal && j > a->i)
        return false;
    if (a->window == 0)
        return true;
    return a->i - j < a->window && j - a->i < a->window;
}

/* Where element d of the query's row, and of the row of key j, are. */
static int64_t query_at(const query *a, int64_t d)
{
    return ((a->b * a->T + a->i) * a->heads + a->h) * a->D + d;
}

static int64_t key_at(const query *a, int64_t j, int64_t d)
{
    int64_t head = a->h * a->kv_heads / a->heads;
    return ((a->b * a->T + j) * a->kv_heads + head) * a->D + d;
}

/* What dropout makes of a probability: 0 or more. */
static double kept(const query *a, int64_t j)
{
    if (a->dropout == 0)
        return 1;
    uint64_t at = (uint64_t)(((a->b * a->heads + a->h) * a->T + a->i) * a->T + j);
    uint64_t z = (a->seed ^ a->stream * UINT64_C(11400714819323198485)) +
                 (at + 1) * UINT64_C(15074714826142052245);
    z = (z ^ z / (UINT64_C(1) << 30)) * UINT64_C(13787848793156543929);
    z = (z ^ z / (UINT64_C(1) << 27)) * UINT64_C(10723151780598845931);
    z = z ^ z / (UINT64_C(1) << 31);
    double least = oracle_rint(a->dropout * 16777216);
    return (double)(z / (UINT64_C(1) << 40)) >= least ? 1 / (1 - a->dropout) : 0;
}

/* The query's probabilities [T] before dropout, 0 for keys it does not see; log Σ exp. */
static double probabilities(const query *a, double *p)
{
    double top = -(double)INFINITY, sum = 0;
    for (int64_t j = 0; j < a->T; j++) {
        double s = 0;
        for (int64_t d = 0; d < a->D; d++)
            s += oracle_get(a->q, query_at(a, d)) * oracle_get(a->k, key_at(a, j, d));
        p[j] = s * a->scale;
        if (sees(a, j))
            top = fmax(top, p[j]);
    }
    top = isinf(top) ? 0 : top;
    for (int64_t j = 0; j < a->T; j++) {
        p[j] = sees(a, j) ? exp(p[j] - top) : 0;
        sum += p[j];
    }
    for (int64_t j = 0; j < a->T; j++)
        p[j] = sees(a, j) ? p[j] / sum : 0;
    return top + log(sum);
}

static void attend(const query *a, const pare_attention_args *args, double *p)
{
    double lse = probabilities(a, p);
    if (args->lse.data)
        oracle_put(&args->lse, (a->b * a->heads + a->h) * a->T + a->i, lse);
    for (int64_t d = 0; d < a->D; d++) {
        double y = isnan(lse) ? lse : 0;
        for (int64_t j = 0; j < a->T; j++)
            if (sees(a, j) && kept(a, j) > 0) /* what dropped out is not felt, be it NaN */
                y += p[j] * kept(a, j) * oracle_get(&args->v, key_at(a, j, d));
        oracle_put(&args->y, query_at(a, d), y);
    }
}

void oracle_attention(const pare_attention_args *args)
{
    query a = QUERY(args);
    int64_t B = a.T > 0 ? args->q.shape[0] / a.T : 0;
    double *p = malloc((size_t)a.T * sizeof *p + 1);
    for (a.b = 0; a.b < B; a.b++)
        for (a.h = 0; a.h < a.heads; a.h++)
            for (a.i = 0; a.i < a.T; a.i++)
                attend(&a, args, p);
    free(p);
}

/* Adds what query a gives to dq, dk, dv as they lie in memory, in double. */
static void go_back(const query *a, const pare_attention_grad_args *args, double *p, double *dq,
                    double *dk, double *dv)
{
    double delta = 0;
    probabilities(a, p);
    for (int64_t d = 0; d < a->D; d++)
        delta += oracle_get(&args->dy, query_at(a, d)) * oracle_get(&args->y, query_at(a, d));
    for (int64_t j = 0; j < a->T; j++) {
        if (!sees(a, j))
            continue;
        double dp = 0, keep = kept(a, j);
        for (int64_t d = 0; d < a->D; d++)
            dp += oracle_get(&args->dy, query_at(a, d)) * oracle_get(&args->v, key_at(a, j, d));
        double ds = p[j] * (dp * keep - delta) * a->scale;
        for (int64_t d = 0; d < a->D; d++) {
            if (keep > 0)
                dv[key_at(a, j, d)] += p[j] * keep * oracle_get(&args->dy, query_at(a, d));
            dk[key_at(a, j, d)] += ds * oracle_get(a->q, query_at(a, d));
            dq[query_at(a, d)] += ds * oracle_get(a->k, key_at(a, j, d));
        }
    }
}

void oracle_attention_grad(const pare_attention_grad_args *args)
{
    query a = QUERY(args);
    int64_t B = a.T > 0 ? args->q.shape[0] / a.T : 0;
    int64_t n = pare_tensor_count(&args->q), m = pare_tensor_count(&args->k);
    double *dq = calloc((size_t)(n + 2 * m + a.T) + 1, sizeof *dq);
    double *dk = dq + n, *dv = dk + m, *p = dv + m;
    for (a.b = 0; a.b < B; a.b++)
        for (a.h = 0; a.h < a.heads; a.h++)
            for (a.i = 0; a.i < a.T; a.i++)
                go_back(&a, args, p, dq, dk, dv);
    for (int64_t i = 0; i < n; i++)
        oracle_put(&args->dq, i, dq[i]);
    for (int64_t i = 0; i < m; i++) {
        oracle_put(&args->dk, i, dk[i]);
        oracle_put(&args->dv, i, dv[i]);
    }
    free(dq);
}
