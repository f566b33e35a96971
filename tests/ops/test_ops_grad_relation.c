/* What relation adds to gradients are derivatives of its losses, by the oracle in double. */
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

/* The arguments, and whether a, b or (2) both as one are varied. */
typedef struct varied {
    pare_relation_args args;
    int which;
} varied;

/* Σ of the samples' losses. */
static double losses(const void *user, double *x)
{
    varied v = *(const varied *)user;
    double loss[8], sum = 0;
    v.args.da.data = v.args.db.data = NULL;
    v.args.loss = pare_vector(loss, PARE_F64, v.args.loss.shape[0]);
    pare_tensor *sides[] = {&v.args.a, &v.args.b};
    for (int side = 0; side < 2; side++)
        if (v.which == 2 || v.which == side) {
            sides[side]->dtype = PARE_F64;
            sides[side]->data = x;
        }
    oracle_relation(&v.args);
    for (int64_t b = 0; b < v.args.loss.shape[0]; b++)
        sum += loss[b];
    return sum;
}

/* how: the members that say who sees whom and what is compared. */
static void expect_gradient(ops_run *run, const pare_relation_args *how, int64_t B, int64_t T)
{
    const int64_t D = 3, Dt = 5;
    float da[MOST] = {0}, db[MOST] = {0}, loss[8];
    varied v = {.args = *how};
    pare_relation_args *a = &v.args;
    a->T = T;
    a->scale = 100;
    a->scale_t = 80;
    a->grad_scale = 1;
    a->ta = random_matrix(run, B * T, a->heads * Dt);
    a->tb = random_matrix(run, B * T, a->t_kv_heads * Dt);
    a->a = random_matrix(run, B * T, a->heads * D);
    a->b = random_matrix(run, B * T, a->kv_heads * D);
    a->loss = pare_vector(loss, PARE_F32, B);
    a->da = pare_matrix(da, PARE_F32, B * T, a->heads * D);
    a->db = pare_matrix(db, PARE_F32, B * T, a->kv_heads * D);
    if (how->keys.data) { /* not the last 3 of each sequence, nor place 1 */
        uint8_t *keys = ops_memory(run, (size_t)(B * T), 1, 0);
        for (int64_t i = 0; i < B * T; i++)
            keys[i] = i % T < T - 3 && i % T != 1;
        a->keys = pare_matrix(keys, PARE_U8, B, T);
    }
    if (how->weight.data) {
        float *weight = ops_memory(run, (size_t)B * 4, 4, 0);
        for (int64_t b = 0; b < B; b++)
            weight[b] = 0.5f + (float)b;
        a->weight = pare_vector(weight, PARE_F32, B);
    }
    assert_ok(pare_relation(ops_backend(run, 0), a));
    int64_t n = pare_tensor_count(&a->a), m = pare_tensor_count(&a->b);
    v.which = 0;
    ops_expect_gradient(losses, &v, a->a.data, n, da, 2e-5);
    v.which = 1;
    ops_expect_gradient(losses, &v, a->b.data, m, db, 2e-5);
    if (a->heads == a->kv_heads) { /* keys are the queries: one memory takes both */
        memset(da, 0, sizeof da);
        a->b = a->a;
        a->db = a->da;
        v.which = 2;
        assert_ok(pare_relation(ops_backend(run, 0), a));
        ops_expect_gradient(losses, &v, a->a.data, n, da, 2e-5);
    }
    ops_next(run);
}

static void expect_both_kinds(ops_run *run, pare_relation_args how)
{
    static const pare_relation_kind kinds[] = {PARE_RELATION_KL, PARE_RELATION_SCORE};
    how.heads = 2;
    how.kv_heads = how.kv_heads > 0 ? how.kv_heads : 2;
    how.t_kv_heads = how.t_kv_heads > 0 ? how.t_kv_heads : 2;
    for (int k = 0; k < 2; k++) {
        how.kind = kinds[k];
        expect_gradient(run, &how, 2, 7);
        expect_gradient(run, &how, 1, 37);
    }
}

static void relations_gradient_is_its_derivative(void **state)
{
    expect_both_kinds(*state, (pare_relation_args){0});
}

static void causal_relations_gradient_is_its_derivative(void **state)
{
    expect_both_kinds(*state, (pare_relation_args){.causal = true});
}

static void relations_gradient_knows_padding_and_weights(void **state)
{
    static uint8_t there[1];
    pare_tensor some = {.data = there};
    expect_both_kinds(*state, (pare_relation_args){.keys = some, .weight = some});
    expect_both_kinds(*state, (pare_relation_args){.keys = some, .causal = true});
}

static void heads_that_share_keys_add_their_gradients(void **state)
{
    expect_both_kinds(*state, (pare_relation_args){.kv_heads = 1, .causal = true});
    expect_both_kinds(*state, (pare_relation_args){.kv_heads = 1, .t_kv_heads = 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relations_gradient_is_its_derivative),
        cmocka_unit_test(causal_relations_gradient_is_its_derivative),
        cmocka_unit_test(relations_gradient_knows_padding_and_weights),
        cmocka_unit_test(heads_that_share_keys_add_their_gradients),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
