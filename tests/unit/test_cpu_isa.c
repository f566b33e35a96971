#include "test.h"

#include "pare/ops.h"

#include <sched.h>

static void the_base_set_is_always_there_and_last(void **state)
{
    (void)state;
    const char *const *isa = pare_cpu_isas();
    assert_non_null(isa[0]);
    while (isa[1])
        isa++;
#if defined(__aarch64__)
    assert_string_equal(*isa, "neon");
#else
    assert_string_equal(*isa, "base");
#endif
    assert_true(pare_cpu_has_isa(*isa));
}

static void the_best_set_is_chosen_unless_told(void **state)
{
    (void)state;
    const char *best = NULL;
    for (const char *const *isa = pare_cpu_isas(); *isa && !best; isa++)
        best = pare_cpu_has_isa(*isa) ? *isa : NULL;
    char want[32];
    snprintf(want, sizeof want, "cpu %s", best);
    pare_backend *be = NULL;
    assert_ok(pare_cpu_create(NULL, &be));
    assert_string_equal(pare_backend_name(be), want);
    pare_backend_free(&be);
    assert_null(be);
}

static void each_set_of_this_cpu_can_be_forced(void **state)
{
    (void)state;
    for (const char *const *isa = pare_cpu_isas(); *isa; isa++) {
        pare_backend *be = NULL;
        pare_cpu_options options = {.isa = *isa};
        if (!pare_cpu_has_isa(*isa)) {
            assert_status(pare_cpu_create(&options, &be), PARE_ERR_ARGUMENT);
            assert_null(be);
            continue;
        }
        assert_ok(pare_cpu_create(&options, &be));
        assert_string_equal(pare_backend_name(be) + 4, *isa);
        pare_backend_free(&be);
    }
}

static void an_unknown_set_and_wrong_threads_are_refused(void **state)
{
    (void)state;
    pare_backend *be = NULL;
    assert_false(pare_cpu_has_isa("sse9"));
    assert_false(pare_cpu_has_isa(NULL));
    assert_status(pare_cpu_create(&(pare_cpu_options){.isa = "sse9"}, &be), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "sse9"));
    assert_status(pare_cpu_create(&(pare_cpu_options){.threads = -1}, &be), PARE_ERR_ARGUMENT);
    assert_status(pare_cpu_create(NULL, NULL), PARE_ERR_ARGUMENT);
    pare_backend_free(&be);
    pare_backend_free(NULL);
}

static void the_count_respects_the_affinity(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_true(pare_cpu_count() >= 1);
    if (sched_getaffinity(0, sizeof before, &before) != 0)
        skip();
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(pare_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_true(pare_cpu_count() <= CPU_COUNT(&before));
}

static void the_model_has_a_name(void **state)
{
    (void)state;
    const char *name = pare_cpu_model();
    assert_true(strlen(name) > 0 && strchr(name, '\n') == NULL);
    assert_ptr_equal(pare_cpu_model(), name);
}

static void every_op_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < PARE_OP_COUNT; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(pare_op_name((pare_op)i), pare_op_name((pare_op)j));
    assert_string_equal(pare_op_name(PARE_OP_pack), "pack");
    assert_string_equal(pare_op_name(PARE_OP_COUNT), "?");
    assert_string_equal(pare_backend_name(NULL), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_set_is_always_there_and_last),
        cmocka_unit_test(the_best_set_is_chosen_unless_told),
        cmocka_unit_test(each_set_of_this_cpu_can_be_forced),
        cmocka_unit_test(an_unknown_set_and_wrong_threads_are_refused),
        cmocka_unit_test(the_count_respects_the_affinity),
        cmocka_unit_test(the_model_has_a_name),
        cmocka_unit_test(every_op_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
