/* Attention, rotary, embedding and softmax refuse what does not fit, with the op and the argument
 * in the sentence. */
#include "ops_refuse.h"

#include <math.h>

typedef struct memory {
    float q[64], k[32], v[32], y[64], dy[64], dq[64], dk[32], dv[32], lse[16], table[64];
    int32_t ids[4];
    uint8_t keys[8];
} memory;
static memory m;

static void softmax_wants_matrices_apart_or_in_place(void **state)
{
    (void)state;
    pare_softmax_args good = {.x = pare_matrix(m.q, PARE_F32, 4, 8),
                              .y = pare_matrix(m.y, PARE_F32, 4, 8)};
    TAKEN(softmax);
    REFUSED(softmax, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(softmax, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(softmax, "y is [4, 7]", bad.y.shape[1] = 7);
    REFUSED(softmax, "2 dimensions", bad.x.rank = 1);
    REFUSED(softmax, "overlap", bad.y.data = m.q + 1);
    good.y = good.x;
    TAKEN(softmax);
}

static void softmax_grad_wants_dy_and_y_alike(void **state)
{
    (void)state;
    pare_softmax_grad_args good = {.y = pare_matrix(m.y, PARE_F32, 4, 8),
                                   .dy = pare_matrix(m.dy, PARE_F32, 4, 8),
                                   .dx = pare_matrix(m.q, PARE_F32, 4, 8)};
    TAKEN(softmax_grad);
    REFUSED(softmax_grad, "dy is [3, 8]", bad.dy.shape[0] = 3);
    REFUSED(softmax_grad, "dx is BF16", bad.dx.dtype = PARE_BF16);
    REFUSED(softmax_grad, "overlap", bad.dx.data = m.y);
    REFUSED(softmax_grad, "overlap", bad.dx.data = m.dy + 1);
    good.dx = good.dy;
    TAKEN(softmax_grad);
}

static void embedding_wants_a_row_of_y_for_each_id(void **state)
{
    (void)state;
    pare_embedding_args good = {.ids = pare_vector(m.ids, PARE_I32, 4),
                                .w = pare_matrix(m.table, PARE_F32, 8, 8),
                                .y = pare_matrix(m.y, PARE_F32, 4, 8)};
    TAKEN(embedding);
    REFUSED(embedding, "ids is U32", bad.ids.dtype = PARE_U32);
    REFUSED(embedding, "w is F16", bad.w.dtype = PARE_F16);
    REFUSED(embedding, "y is [3, 8]", bad.y.shape[0] = 3);
    REFUSED(embedding, "y is [4, 7]", bad.y.shape[1] = 7);
    REFUSED(embedding, "overlap", bad.y.data = m.table + 8);
    REFUSED(embedding, "ids[0] is 0", bad.w.shape[0] = 0);
}

static void embedding_grad_wants_an_f32_table(void **state)
{
    (void)state;
    pare_embedding_grad_args good = {.ids = pare_vector(m.ids, PARE_I32, 4),
                                     .dy = pare_matrix(m.dy, PARE_F32, 4, 8),
                                     .dw = pare_matrix(m.table, PARE_F32, 8, 8)};
    TAKEN(embedding_grad);
    REFUSED(embedding_grad, "dw is BF16", bad.dw.dtype = PARE_BF16);
    REFUSED(embedding_grad, "dy is [5, 8]", bad.dy.shape[0] = 5);
    REFUSED(embedding_grad, "overlap", bad.dy.data = m.table);
}

static void rotary_wants_tables_as_long_as_T_and_half_a_head_wide(void **state)
{
    (void)state;
    pare_rotary_args good = {.x = pare_matrix(m.q, PARE_F32, 6, 10),
                             .y = pare_matrix(m.y, PARE_F32, 6, 10),
                             .cos = pare_matrix(m.k, PARE_F32, 4, 2),
                             .sin = pare_matrix(m.v, PARE_F32, 4, 2),
                             .T = 3,
                             .heads = 2};
    TAKEN(rotary);
    REFUSED(rotary, "heads", bad.heads = 0);
    REFUSED(rotary, "3 heads of one size", bad.heads = 3);
    REFUSED(rotary, "heads", bad.heads = 20);
    REFUSED(rotary, "T = 4", bad.T = 4);
    REFUSED(rotary, "T = 0", bad.T = 0);
    REFUSED(rotary, "T = -3", bad.T = -3);
    REFUSED(rotary, "cos is [2, 2]", bad.cos.shape[0] = bad.sin.shape[0] = 2);
    REFUSED(rotary, "cos is [4, 3]", bad.cos.shape[1] = bad.sin.shape[1] = 3);
    REFUSED(rotary, "sin is [4, 1]", bad.sin.shape[1] = 1);
    REFUSED(rotary, "cos is BF16", bad.cos.dtype = PARE_BF16);
    REFUSED(rotary, "y is [5, 10]", bad.y.shape[0] = 5);
    REFUSED(rotary, "overlap", bad.y.data = m.q + 1);
    good.y = good.x;
    TAKEN(rotary);
}

static void attention_wants_heads_that_share_keys_evenly(void **state)
{
    (void)state;
    pare_attention_args good = {
        .q = pare_matrix(m.q, PARE_F32, 8, 8),
        .k = pare_matrix(m.k, PARE_F32, 8, 4),
        .v = pare_matrix(m.v, PARE_F32, 8, 4),
        .keys = pare_matrix(m.keys, PARE_U8, 2, 4),
        .y = pare_matrix(m.y, PARE_F32, 8, 8),
        .lse = {.data = m.lse, .dtype = PARE_F32, .rank = 3, .shape = {2, 2, 4}},
        .T = 4,
        .heads = 2,
        .kv_heads = 1};
    TAKEN(attention);
    REFUSED(attention, "3 heads of one size", bad.heads = 3);
    REFUSED(attention, "heads", bad.heads = 0);
    REFUSED(attention, "kv_heads", bad.kv_heads = 0);
    REFUSED(attention, "kv_heads", bad.kv_heads = 3);
    REFUSED(attention, "T = 3", bad.T = 3);
    REFUSED(attention, "k is [8, 5]", bad.k.shape[1] = 5);
    REFUSED(attention, "v is BF16", bad.v.dtype = PARE_BF16);
    REFUSED(attention, "v is [7, 4]", bad.v.shape[0] = 7);
    REFUSED(attention, "keys is F32", bad.keys.dtype = PARE_F32);
    REFUSED(attention, "keys is [1, 4]", bad.keys.shape[0] = 1);
    REFUSED(attention, "lse is [2, 1, 4]", bad.lse.shape[1] = 1);
    REFUSED(attention, "y is [8, 9]", bad.y.shape[1] = 9);
    REFUSED(attention, "window", bad.window = -1);
    REFUSED(attention, "dropout", bad.dropout = 1);
    REFUSED(attention, "dropout", bad.dropout = NAN);
    REFUSED(attention, "scale", bad.scale = INFINITY);
    REFUSED(attention, "overlap", bad.y.data = m.q);
    REFUSED(attention, "overlap", bad.lse.data = m.y);
    good.keys.data = good.lse.data = NULL; /* both may be absent, whatever their shape says */
    good.keys.shape[0] = 9;
    TAKEN(attention);
}

static void attention_grad_wants_what_attention_left(void **state)
{
    (void)state;
    pare_attention_grad_args good = {
        .dy = pare_matrix(m.dy, PARE_F32, 8, 8),
        .q = pare_matrix(m.q, PARE_F32, 8, 8),
        .k = pare_matrix(m.k, PARE_F32, 8, 4),
        .v = pare_matrix(m.v, PARE_F32, 8, 4),
        .y = pare_matrix(m.y, PARE_F32, 8, 8),
        .lse = {.data = m.lse, .dtype = PARE_F32, .rank = 3, .shape = {2, 2, 4}},
        .dq = pare_matrix(m.dq, PARE_F32, 8, 8),
        .dk = pare_matrix(m.dk, PARE_F32, 8, 4),
        .dv = pare_matrix(m.dv, PARE_F32, 8, 4),
        .T = 4,
        .heads = 2,
        .kv_heads = 1};
    TAKEN(attention_grad);
    REFUSED(attention_grad, "lse is absent", bad.lse.data = NULL);
    REFUSED(attention_grad, "dy is [8, 7]", bad.dy.shape[1] = 7);
    REFUSED(attention_grad, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(attention_grad, "dk is [8, 8]", bad.dk.shape[1] = 8);
    REFUSED(attention_grad, "dv is [8, 3]", bad.dv.shape[1] = 3);
    REFUSED(attention_grad, "dq is [4, 8]", bad.dq.shape[0] = 4);
    REFUSED(attention_grad, "dq", bad.dq.data = NULL);
    REFUSED(attention_grad, "overlap", bad.dq.data = m.dy);
    REFUSED(attention_grad, "overlap", bad.dk.data = m.dv);
    REFUSED(attention_grad, "overlap", bad.dv.data = m.v);
    REFUSED(attention_grad, "dropout", bad.dropout = -0.1f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(softmax_wants_matrices_apart_or_in_place),
        cmocka_unit_test(softmax_grad_wants_dy_and_y_alike),
        cmocka_unit_test(embedding_wants_a_row_of_y_for_each_id),
        cmocka_unit_test(embedding_grad_wants_an_f32_table),
        cmocka_unit_test(rotary_wants_tables_as_long_as_T_and_half_a_head_wide),
        cmocka_unit_test(attention_wants_heads_that_share_keys_evenly),
        cmocka_unit_test(attention_grad_wants_what_attention_left),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
