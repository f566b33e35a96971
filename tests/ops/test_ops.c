/* Every op of the list against its oracle; an op without rows does not link. */
#include "ops_harness.h"

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

#define OP_TEST(name)                                                                              \
    static void name##_gives_its_oracles_bytes_on_every_instruction_set(void **state)              \
    {                                                                                              \
        ops_start(*state, #name);                                                                  \
        ops_cases_##name(*state);                                                                  \
    }
PARE_OPS(OP_TEST)

static void codes_beside_a_tie_are_those_of_the_true_quotient(void **state)
{
    ops_start(*state, "quantize_boundaries");
    ops_cases_quantize_boundaries(*state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define OP_ROW(name) cmocka_unit_test(name##_gives_its_oracles_bytes_on_every_instruction_set),
        PARE_OPS(OP_ROW)
#undef OP_ROW
            cmocka_unit_test(codes_beside_a_tie_are_those_of_the_true_quotient),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
