/* test_curve.c - learning rates beside those that PyTorch's schedulers gave (torch 2, numbers of
 * its get_last_lr), and at the edges. */
#include "test.h"

#include "pare/train.h"

static void check(const pare_curve *curve, const double *want, int count)
{
    for (int s = 0; s < count; s++) {
        double got = pare_curve_at(curve, s);
        if (got < want[s] - 1e-12 || got > want[s] + 1e-12)
            fail_msg("step %d: rate %.17g, want %.17g", s, got, want[s]);
    }
}

static void cosine_is_cosine_annealing(void **state)
{
    (void)state;
    const double want[] = {0.1,
                           0.09529602122536492,
                           0.08211576558828985,
                           0.06306974436292494,
                           0.04193025563707507,
                           0.02288423441171016,
                           0.009703978774635096};
    check(&(pare_curve){.kind = PARE_SCHEDULE_COSINE, .rate = 0.1, .final_rate = 0.05, .steps = 7},
          want, 7);
}

static void warm_up_comes_before_cosine(void **state)
{
    (void)state;
    const double want[] = {0.025, 0.05,
                           0.075, 0.1,
                           0.1,   0.09330127018922195,
                           0.075, 0.05,
                           0.025, 0.006698729810778065};
    check(&(pare_curve){.kind = PARE_SCHEDULE_COSINE, .rate = 0.1, .steps = 10, .warmup = 4}, want,
          10);
}

static void linear_is_linear_lr(void **state)
{
    (void)state;
    const double want[] = {0.1, 0.084, 0.068, 0.052, 0.036};
    check(&(pare_curve){.kind = PARE_SCHEDULE_LINEAR, .rate = 0.1, .final_rate = 0.2, .steps = 5},
          want, 5);
}

static void steps_are_multi_step_lr(void **state)
{
    (void)state;
    const double want[] = {0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001};
    check(&(pare_curve){.kind = PARE_SCHEDULE_STEP,
                        .rate = 0.1,
                        .steps = 10,
                        .milestones = {0.3, 0.6},
                        .milestone_count = 2},
          want, 10);
}

static void a_milestone_is_the_nearest_step(void **state)
{
    (void)state;
    /* 0.29 · 100 is 28.999… in f64 */
    pare_curve curve = {.kind = PARE_SCHEDULE_STEP,
                        .rate = 1,
                        .steps = 100,
                        .milestones = {0.29},
                        .milestone_count = 1,
                        .gamma = 0.5};
    assert_float_equal(pare_curve_at(&curve, 28), 1, 0);
    assert_float_equal(pare_curve_at(&curve, 29), 0.5, 0);
}

static void without_milestones_the_rate_falls_at_half_and_three_quarters(void **state)
{
    (void)state;
    pare_curve curve = {.kind = PARE_SCHEDULE_STEP, .rate = 1, .steps = 8};
    const double want[] = {1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01};
    check(&curve, want, 8);
}

static void a_constant_rate_warms_up_too(void **state)
{
    (void)state;
    const double want[] = {0.25, 0.5, 0.75, 1, 1, 1};
    check(&(pare_curve){.kind = PARE_SCHEDULE_CONSTANT, .rate = 1, .steps = 6, .warmup = 4}, want,
          6);
}

static void the_end_holds(void **state)
{
    (void)state;
    pare_curve curve = {.kind = PARE_SCHEDULE_COSINE, .rate = 1, .final_rate = 0.1, .steps = 4};
    assert_float_equal(pare_curve_at(&curve, 4), 0.1, 1e-12);
    assert_float_equal(pare_curve_at(&curve, 400), 0.1, 1e-12);
    curve.warmup = 4; /* nothing but warm-up */
    assert_float_equal(pare_curve_at(&curve, 3), 1, 1e-12);
    assert_float_equal(pare_curve_at(&curve, 4), 0.1, 1e-12);
}

static void a_curve_begins_again_but_the_last_ends_with_the_training(void **state)
{
    (void)state;
    pare_curve curve = {
        .kind = PARE_SCHEDULE_LINEAR, .rate = 1, .steps = 10, .period = 2, .restarts = 3};
    const double want[] = {1, 0.5, 1, 0.5, 1, 0.5, 1, 0.75, 0.5, 0.25};
    const int64_t begin[] = {0, 0, 2, 2, 4, 4, 6, 6, 6, 6};
    check(&curve, want, 10);
    for (int i = 0; i < 10; i++)
        assert_int_equal(pare_curve_begin(&curve, i), begin[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_is_cosine_annealing),
        cmocka_unit_test(warm_up_comes_before_cosine),
        cmocka_unit_test(linear_is_linear_lr),
        cmocka_unit_test(steps_are_multi_step_lr),
        cmocka_unit_test(a_milestone_is_the_nearest_step),
        cmocka_unit_test(without_milestones_the_rate_falls_at_half_and_three_quarters),
        cmocka_unit_test(a_constant_rate_warms_up_too),
        cmocka_unit_test(the_end_holds),
        cmocka_unit_test(a_curve_begins_again_but_the_last_ends_with_the_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
