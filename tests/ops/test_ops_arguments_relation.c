/* What relation refuses. */
#include "ops_refuse.h"

#include <math.h>

static float x[5][8 * 12], r[8];
static uint8_t bytes[16];

/* Two samples of 4 positions, 4 heads of 3 (the teacher's of 2), 2 heads of keys. */
static pare_relation_args sound(void)
{
    memset(bytes, 1, sizeof bytes);
    return (pare_relation_args){.ta = pare_matrix(x[0], PARE_F32, 8, 8),
                                .tb = pare_matrix(x[1], PARE_F32, 8, 2),
                                .a = pare_matrix(x[2], PARE_F32, 8, 12),
                                .b = pare_matrix(x[3], PARE_F32, 8, 6),
                                .da = pare_matrix(x[4], PARE_F32, 8, 12),
                                .db = pare_matrix(x[1] + 32, PARE_F32, 8, 6),
                                .keys = pare_matrix(bytes, PARE_U8, 2, 4),
                                .weight = pare_vector(r, PARE_F32, 2),
                                .loss = pare_vector(r + 4, PARE_F32, 2),
                                .T = 4,
                                .heads = 4,
                                .kv_heads = 2,
                                .t_kv_heads = 1};
}

static void shapes_follow_from_a_and_the_numbers_of_heads(void **state)
{
    (void)state;
    pare_relation_args good = sound();
    TAKEN(relation);
    REFUSED(relation, "rows", bad.T = 3);
    REFUSED(relation, "rows", bad.T = 0);
    REFUSED(relation, "heads", bad.heads = 5);
    REFUSED(relation, "kv_heads", bad.kv_heads = 3);
    REFUSED(relation, "kv_heads", bad.kv_heads = 0);
    REFUSED(relation, "t_kv_heads", bad.t_kv_heads = 3);
    REFUSED(relation, "t_kv_heads", bad.t_kv_heads = 0);
    REFUSED(relation, "a is [8, 11]", bad.a.shape[1] = 11);
    REFUSED(relation, "a is F64", bad.a.dtype = PARE_F64);
    REFUSED(relation, "b is [8, 12]", bad.b.shape[1] = 12);
    REFUSED(relation, "b is BF16", bad.b.dtype = PARE_BF16);
    REFUSED(relation, "ta is [4, 8]", bad.ta.shape[0] = 4);
    REFUSED(relation, "tb is [8, 4]", bad.tb.shape[1] = 4);
    REFUSED(relation, "tb is BF16", bad.tb.dtype = PARE_BF16);
    REFUSED(relation, "da is [8, 6]", bad.da.shape[1] = 6);
    REFUSED(relation, "db is BF16", bad.db.dtype = PARE_BF16);
    REFUSED(relation, "keys is [4, 2]", (bad.keys.shape[0] = 4, bad.keys.shape[1] = 2));
    REFUSED(relation, "weight is [8]", bad.weight.shape[0] = 8);
    REFUSED(relation, "loss is [8]", bad.loss.shape[0] = 8);
    REFUSED(relation, "loss", bad.loss.data = NULL);
    REFUSED(relation, "tb", bad.tb.data = NULL);
    good.da.data = good.db.data = good.keys.data = good.weight.data = NULL;
    TAKEN(relation);
}

static void numbers_are_finite(void **state)
{
    (void)state;
    pare_relation_args good = sound();
    REFUSED(relation, "scale", bad.scale = NAN);
    REFUSED(relation, "scale_t", bad.scale_t = INFINITY);
    REFUSED(relation, "grad_scale", bad.grad_scale = INFINITY);
    REFUSED(relation, "kind", bad.kind = (pare_relation_kind)2);
}

static void gradients_share_memory_only_where_keys_are_queries(void **state)
{
    (void)state;
    pare_relation_args good = sound();
    REFUSED(relation, "overlap", bad.da.data = bad.a.data);
    REFUSED(relation, "overlap", bad.db.data = x[2]);
    REFUSED(relation, "overlap", bad.db.data = x[4] + 5);
    REFUSED(relation, "overlap", bad.loss.data = r + 1);
    REFUSED(relation, "overlap", bad.loss.data = x[0]);
    REFUSED(relation, "overlap", bad.loss.data = x[4]);
    good.kv_heads = 4;
    good.b = pare_matrix(x[3], PARE_F32, 8, 12);
    good.db = good.da;
    REFUSED(relation, "overlap", (void)bad);
    good.b = good.a;
    TAKEN(relation);
    REFUSED(relation, "overlap", bad.db.data = x[4] - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_follow_from_a_and_the_numbers_of_heads),
        cmocka_unit_test(numbers_are_finite),
        cmocka_unit_test(gradients_share_memory_only_where_keys_are_queries),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
