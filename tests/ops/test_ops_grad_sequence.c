/* The gradient ops of attention, rotary, embedding and softmax are derivatives of the forward ones:
 * that of Σ dy·y, y by the oracle in double. */
#include "ops_gradient.h"
#include "ops_harness.h"
#include "ops_oracle.h"

#define MOST 1024 /* elements of a case */

static int setup(void **state)
{
    *state = ops_run_make();
    return 0;
}

static int teardown(void **state)
{
    ops_run_free(*state);
    return 0;
}

static pare_tensor random_matrix(ops_run *run, int64_t rows, int64_t cols)
{
    assert_true(rows * cols <= MOST);
    return pare_matrix(ops_floats(run, OPS_NORMAL, PARE_F32, rows * cols, 0), PARE_F32, rows, cols);
}

static pare_tensor as_f64(pare_tensor t, double *data)
{
    t.dtype = PARE_F64;
    t.data = data;
    return t;
}

/* Σ dy·y */
static double product(const pare_tensor *dy, const double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < pare_tensor_count(dy); i++)
        sum += (double)((const float *)dy->data)[i] * y[i];
    return sum;
}

/* ---- attention ------------------------------------------------------------------------------- */

/* The forward arguments, what stands for dy, and which of q, k, v is varied. */
typedef struct attention {
    pare_attention_args args;
    pare_tensor dy;
    int varied;
} attention;

static pare_tensor *input(pare_attention_args *args, int which)
{
    return which == 0 ? &args->q : which == 1 ? &args->k : &args->v;
}

static double attention_product(const void *user, double *x)
{
    attention a = *(const attention *)user;
    double y[MOST];
    *input(&a.args, a.varied) = as_f64(*input(&a.args, a.varied), x);
    a.args.y = as_f64(a.args.y, y);
    a.args.lse.data = NULL;
    oracle_attention(&a.args);
    return product(&a.dy, y);
}

static pare_attention_grad_args gradient_of(const attention *a, float (*grads)[MOST])
{
    const pare_attention_args *f = &a->args;
    pare_attention_grad_args g = {.dy = a->dy,
                                  .q = f->q,
                                  .k = f->k,
                                  .v = f->v,
                                  .y = f->y,
                                  .lse = f->lse,
                                  .keys = f->keys,
                                  .dq = f->q,
                                  .dk = f->k,
                                  .dv = f->v,
                                  .T = f->T,
                                  .heads = f->heads,
                                  .kv_heads = f->kv_heads,
                                  .scale = f->scale,
                                  .causal = f->causal,
                                  .window = f->window,
                                  .dropout = f->dropout,
                                  .seed = f->seed,
                                  .stream = f->stream};
    g.dq.data = grads[0];
    g.dk.data = grads[1];
    g.dv.data = grads[2];
    return g;
}

/* how: the members that say who sees whom. One backend will do: test_ops has the others. Two
 * sequences of 7 and one of 37, which is more than a group of queries. */
static void expect_attention_gradient(ops_run *run, const pare_attention_args *how, int64_t B,
                                      int64_t T)
{
    const int64_t D = 3;
    const int heads = how->heads, kv_heads = how->kv_heads;
    static float y[MOST], lse[MOST], grads[3][MOST];
    attention a = {.args = *how, .dy = random_matrix(run, B * T, heads * D)};
    a.args.q = random_matrix(run, B * T, heads * D);
    a.args.k = random_matrix(run, B * T, kv_heads * D);
    a.args.v = random_matrix(run, B * T, kv_heads * D);
    a.args.y = pare_matrix(y, PARE_F32, B * T, heads * D);
    a.args.lse = (pare_tensor){.data = lse, .rank = 3, .dtype = PARE_F32, .shape = {B, heads, T}};
    a.args.T = T;
    a.args.scale = 100;
    if (how->keys.data) { /* the last 3 keys of each sequence, and key 1 */
        uint8_t *keys = ops_memory(run, (size_t)(B * T), 1, 0);
        for (int64_t i = 0; i < B * T; i++)
            keys[i] = i % T < T - 3 && i % T != 1;
        a.args.keys = pare_matrix(keys, PARE_U8, B, T);
    }
    pare_attention_grad_args g = gradient_of(&a, grads);
    assert_ok(pare_attention(ops_backend(run, 0), &a.args));
    assert_ok(pare_attention_grad(ops_backend(run, 0), &g));
    for (a.varied = 0; a.varied < 3; a.varied++) {
        const pare_tensor *x = input(&a.args, a.varied);
        ops_expect_gradient(attention_product, &a, x->data, pare_tensor_count(x), grads[a.varied],
                            1e-5);
    }
    ops_next(run);
}

static void expect_both_sizes(ops_run *run, pare_attention_args how)
{
    how.heads = 2;
    how.kv_heads = how.kv_heads > 0 ? how.kv_heads : 2;
    expect_attention_gradient(run, &how, 2, 7);
    expect_attention_gradient(run, &how, 1, 37);
}

static void attentions_gradient_is_its_derivative(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){0});
}

static void causal_attentions_gradient_is_its_derivative(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){.causal = true});
}

static void attentions_gradient_knows_a_padding_mask(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){.keys = {.data = ""}});
    expect_both_sizes(*state, (pare_attention_args){.keys = {.data = ""}, .causal = true});
}

static void attentions_gradient_knows_grouped_queries(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){.kv_heads = 1});
}

static void attentions_gradient_knows_a_sliding_window(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){.window = 3});
    expect_both_sizes(*state, (pare_attention_args){.window = 5, .causal = true, .kv_heads = 1});
}

static void attentions_gradient_knows_dropout(void **state)
{
    expect_both_sizes(*state, (pare_attention_args){.dropout = 0.4f, .seed = 3, .stream = 8});
    expect_both_sizes(
        *state, (pare_attention_args){
                    .dropout = 0.2f, .seed = 4, .causal = true, .keys = {.data = ""}, .window = 6});
}

/* ---- rotary ---------------------------------------------------------------------------------- */

static double rotary_product(const void *user, double *x)
{
    pare_rotary_args a = *(const pare_rotary_args *)user; /* of the gradient: x is dy, y is dx */
    double y[MOST];
    pare_tensor dy = a.x;
    a.x = as_f64(a.y, x);
    a.y = as_f64(a.y, y);
    a.inverse = false;
    oracle_rotary(&a);
    return product(&dy, y);
}

static void the_inverse_of_rotary_is_its_gradient(void **state)
{
    ops_run *run = *state;
    float cosine[6 * 4], sine[6 * 4];
    for (int i = 0; i < 24; i++) { /* of angles whose tangent of the half is i/10 */
        float t = (float)i / 10;
        cosine[i] = (1 - t * t) / (1 + t * t);
        sine[i] = 2 * t / (1 + t * t);
    }
    pare_rotary_args g = {.x = random_matrix(run, 10, 30),
                          .y = random_matrix(run, 10, 30),
                          .cos = pare_matrix(cosine, PARE_F32, 6, 4),
                          .sin = pare_matrix(sine, PARE_F32, 6, 4),
                          .T = 5,
                          .heads = 3,
                          .inverse = true};
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_rotary(ops_backend(run, b), &g));
        float x[300] = {0}; /* it is linear: anywhere will do */
        ops_expect_gradient(rotary_product, &g, x, 300, g.y.data, 1e-6);
    }
    ops_next(run);
}

/* ---- embedding ------------------------------------------------------------------------------- */

static double embedding_product(const void *user, double *w)
{
    const pare_embedding_grad_args *g = user;
    double y[MOST];
    pare_embedding_args a = {.ids = g->ids, .w = as_f64(g->dw, w), .y = as_f64(g->dy, y)};
    oracle_embedding(&a);
    return product(&g->dy, y);
}

static void embeddings_gradient_is_its_derivative(void **state)
{
    ops_run *run = *state;
    int32_t ids[9] = {4, 0, 4, 4, 6, 1, 0, 6, 2}; /* 3 and 5 never, 4 three times */
    float dw[7 * 19], zero[7 * 19] = {0};
    pare_embedding_grad_args g = {.ids = pare_vector(ids, PARE_I32, 9),
                                  .dy = random_matrix(run, 9, 19),
                                  .dw = pare_matrix(dw, PARE_F32, 7, 19)};
    for (int b = 0; ops_backend(run, b); b++) {
        memset(dw, 0, sizeof dw);
        assert_ok(pare_embedding_grad(ops_backend(run, b), &g));
        ops_expect_gradient(embedding_product, &g, zero, 7 * 19, dw, 1e-6);
    }
    ops_next(run);
}

/* ---- softmax --------------------------------------------------------------------------------- */

static double softmax_product(const void *user, double *x)
{
    const pare_softmax_grad_args *g = user;
    double y[MOST];
    oracle_softmax(&(pare_softmax_args){.x = as_f64(g->y, x), .y = as_f64(g->y, y)});
    return product(&g->dy, y);
}

static void softmaxs_gradient_is_its_derivative(void **state)
{
    ops_run *run = *state;
    pare_tensor x = random_matrix(run, 6, 37);
    for (int i = 0; i < 6 * 37; i++)
        ((float *)x.data)[i] *= 20;
    pare_softmax_grad_args g = {.dy = random_matrix(run, 6, 37),
                                .y = random_matrix(run, 6, 37),
                                .dx = random_matrix(run, 6, 37)};
    for (int b = 0; ops_backend(run, b); b++) {
        assert_ok(pare_softmax(ops_backend(run, b), &(pare_softmax_args){.x = x, .y = g.y}));
        assert_ok(pare_softmax_grad(ops_backend(run, b), &g));
        ops_expect_gradient(softmax_product, &g, x.data, 6 * 37, g.dx.data, 1e-5);
    }
    ops_next(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attentions_gradient_is_its_derivative),
        cmocka_unit_test(causal_attentions_gradient_is_its_derivative),
        cmocka_unit_test(attentions_gradient_knows_a_padding_mask),
        cmocka_unit_test(attentions_gradient_knows_grouped_queries),
        cmocka_unit_test(attentions_gradient_knows_a_sliding_window),
        cmocka_unit_test(attentions_gradient_knows_dropout),
        cmocka_unit_test(the_inverse_of_rotary_is_its_gradient),
        cmocka_unit_test(embeddings_gradient_is_its_derivative),
        cmocka_unit_test(softmaxs_gradient_is_its_derivative),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
