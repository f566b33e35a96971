/* node_attention.c - attention of q over k and v by head; 4·D operations a pair of tokens and head
 * forward, 10·D backward. */
#include "node.h"

enum { Q, K, V };

static pare_status shape(const pare_model *m, pare__node *n, pare_tensor *y)
{
    pare_tensor q = pare__in(m, n, Q), k = pare__in(m, n, K), v = pare__in(m, n, V);
    const pare__attrs *a = &n->a;
    PARE_REQUIRE(q.rank == 3 && k.rank == 3 && v.rank == 3 && a->heads > 0 && a->kv_heads > 0 &&
                     a->heads % a->kv_heads == 0 && a->head_dim > 0 &&
                     q.shape[2] == a->heads * a->head_dim &&
                     k.shape[2] == a->kv_heads * a->head_dim && v.shape[2] == k.shape[2],
                 PARE_ERR_DAMAGED,
                 "%s: %d heads (%d of keys and values) of %lld do not make up its inputs", n->name,
                 a->heads, a->kv_heads, (long long)a->head_dim);
    PARE_REQUIRE(q.shape[1] == k.shape[1] && q.shape[1] == v.shape[1], PARE_ERR_DAMAGED,
                 "%s: queries, keys and values are of different lengths", n->name);
    *y = q;
    int64_t bytes = 0;
    PARE_TRY(
        pare_shape_size(PARE_F32, 3, (int64_t[]){q.shape[0], a->heads, q.shape[1]}, NULL, &bytes));
    n->saved_bytes[0] = m->shape.training ? bytes : 0;
    return PARE_OK;
}

/* log Σ exp of each row, kept for backward. */
static pare_tensor sums(const pare_model *m, const pare__node *n)
{
    pare_tensor q = pare__in(m, n, Q);
    if (!n->saved[0])
        return (pare_tensor){0};
    return (pare_tensor){.data = n->saved[0],
                         .dtype = PARE_F32,
                         .rank = 3,
                         .shape = {q.shape[0], n->a.heads, q.shape[1]}};
}

static pare_status forward(pare_model *m, pare__node *n)
{
    pare_tensor q = pare__in(m, n, Q);
    PARE_TRY(pare_attention(m->be, &(pare_attention_args){.q = pare__rows(q),
                                                          .k = pare__rows(pare__in(m, n, K)),
                                                          .v = pare__rows(pare__in(m, n, V)),
                                                          .keys = m->keys,
                                                          .y = pare__rows(pare__out(m, n)),
                                                          .lse = sums(m, n),
                                                          .T = q.shape[1],
                                                          .heads = n->a.heads,
                                                          .kv_heads = n->a.kv_heads,
                                                          .scale = n->a.scale,
                                                          .causal = n->a.causal,
                                                          .window = n->a.sliding,
                                                          .dropout = m->drops ? n->a.p : 0.0f,
                                                          .seed = m->seed.seed,
                                                          .stream = pare__node_stream(m, n)}));
    return PARE_OK;
}

static pare_status backward(pare_model *m, pare__node *n)
{
    pare_tensor q = pare__in(m, n, Q);
    PARE_TRY(
        pare_attention_grad(m->be, &(pare_attention_grad_args){.dy = pare__rows(pare__dy(m, n)),
                                                               .q = pare__rows(q),
                                                               .k = pare__rows(pare__in(m, n, K)),
                                                               .v = pare__rows(pare__in(m, n, V)),
                                                               .y = pare__rows(pare__out(m, n)),
                                                               .lse = sums(m, n),
                                                               .keys = m->keys,
                                                               .dq = pare__rows(n->grad[Q]),
                                                               .dk = pare__rows(n->grad[K]),
                                                               .dv = pare__rows(n->grad[V]),
                                                               .T = q.shape[1],
                                                               .heads = n->a.heads,
                                                               .kv_heads = n->a.kv_heads,
                                                               .scale = n->a.scale,
                                                               .causal = n->a.causal,
                                                               .window = n->a.sliding,
                                                               .dropout = m->drops ? n->a.p : 0.0f,
                                                               .seed = m->seed.seed,
                                                               .stream = pare__node_stream(m, n)}));
    return PARE_OK;
}

/* Pairs of a query and a key that it sees, of one sequence: a triangle with causal, a band around
 * it with a window. */
static double pairs(const pare__attrs *a, int64_t T)
{
    int64_t W = a->sliding > 0 && a->sliding < T ? a->sliding : T;
    double before = (double)W * (double)(W + 1) / 2 + (double)(T - W) * (double)W;
    return a->causal ? before : 2 * before - (double)T;
}

static double flops(const pare_model *m, const pare__node *n)
{
    pare_tensor q = pare__in(m, n, Q);
    return 4.0 * (double)q.shape[0] * (double)q.shape[2] * pairs(&n->a, q.shape[1]);
}

const pare__node_kind pare__node_attention = {
    .name = "attention",
    .traits = {.needs_inputs = 7, .needs_output = true, .always = 7},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .flops = flops};
