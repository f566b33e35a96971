/* Every op of the list on a CUDA device beside the oracle: the device of this machine, or the
 * simulated one. Names of ops as arguments: only these. */
#include "ops_harness.h"

#ifdef PARE_CUDASIM
#include "sim_control.h"

/* Two orders of the lanes, two poisons, work done at once and as late as it may be. */
static bool mode(int index)
{
    static const cudasim_mode modes[] = {{.seed = 1, .poison = 0xff, .late = false},
                                         {.seed = 7, .poison = 0x5a, .late = true}};
    if (index >= 2)
        return false;
    cudasim_set_mode(modes[index]);
    return true;
}
#else
/* Twice: the second time must give the same. */
static bool mode(int index)
{
    return index < 2;
}
#endif

static int setup(void **state)
{
    pare_backend *device = NULL;
    assert_ok(pare_cuda_create(0, &device));
    *state = ops_run_make_device(device, mode);
    return 0;
}

static int teardown(void **state)
{
    ops_run_free(*state);
    return 0;
}

#define OP_TEST(name)                                                                              \
    static void name##_gives_its_oracles_results_on_the_device(void **state)                       \
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

static bool named(const char *test, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        size_t length = strlen(argv[i]);
        if (strncmp(test, argv[i], length) == 0 && strncmp(test + length, "_gives_", 7) == 0)
            return true;
    }
    return argc == 1;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest all[] = {
#define OP_ROW(name) cmocka_unit_test(name##_gives_its_oracles_results_on_the_device),
        PARE_OPS(OP_ROW)
#undef OP_ROW
            cmocka_unit_test(codes_beside_a_tie_are_those_of_the_true_quotient),
    };
    struct CMUnitTest tests[sizeof all / sizeof *all];
    size_t count = 0;
    int devices;
    if (pare_cuda_count(&devices) != PARE_OK) {
        printf("skipped: %s\n", pare_last_error());
        return 77;
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (named(all[i].name, argc, argv))
            tests[count++] = all[i];
    return _cmocka_run_group_tests("ops on a device", tests, count, setup, teardown);
}
