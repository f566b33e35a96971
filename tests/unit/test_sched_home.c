/* test_sched_home.c - jobs with a stage on the calling thread: order, hand-over, failures of either
 * side, cancelling, the budget. Also meant to be run under ThreadSanitizer. */
#include "test.h"

#include "pare/sched.h"

#include "base/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { ITEMS = 200, AHEAD = 3 };

typedef struct state {
    pthread_t caller;
    int value[AHEAD]; /* of item i at i % AHEAD: no lock, the hand-over must order the accesses */
    int made[ITEMS], used[ITEMS], order[ITEMS], ordered;
    _Atomic int in_flight, most;
    int64_t make_fails, use_fails, cancel_at, need;
    int slow_make, slow_use; /* microseconds every few items */
    volatile int cancel;
    int updates;
    double last_done, total;
} state;

static pare_status make(void *user, int worker, int64_t item)
{
    state *s = user;
    (void)worker;
    int now = ++s->in_flight, most = s->most;
    while (now > most && !atomic_compare_exchange_weak(&s->most, &most, now)) {
    }
    if (s->slow_make && item % 5 == 0)
        usleep((unsigned)s->slow_make);
    s->value[item % AHEAD] = (int)item * 3;
    s->made[item]++;
    PARE_REQUIRE(item != s->make_fails, PARE_ERR_IO, "item %d cannot be made", (int)item);
    return PARE_OK;
}

static pare_status use(void *user, int worker, int64_t item)
{
    state *s = user;
    assert_int_equal(worker, 0);
    assert_true(pthread_equal(pthread_self(), s->caller));
    assert_int_equal(s->value[item % AHEAD], item * 3);
    if (s->slow_use && item % 7 == 0)
        usleep((unsigned)s->slow_use);
    s->order[s->ordered++] = (int)item;
    if (item == s->cancel_at)
        __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
    PARE_REQUIRE(item != s->use_fails, PARE_ERR_NUMERIC, "item %d cannot be used", (int)item);
    return PARE_OK;
}

/* After a home stage everything is at home. */
static pare_status leave(void *user, int worker, int64_t item)
{
    state *s = user;
    assert_int_equal(worker, 0);
    s->used[item]++;
    s->in_flight--;
    return PARE_OK;
}

static int64_t bytes(void *user, int64_t item)
{
    (void)item;
    return ((state *)user)->need;
}

static void update(void *user, const char *phase, double done, double total)
{
    state *s = user;
    assert_string_equal(phase, "home");
    assert_true(done >= s->last_done && done <= total);
    s->last_done = done;
    s->total = total;
    s->updates++;
}

static pare_status run(state *s, int threads, int ahead, int64_t budget)
{
    pare_sched *sched = NULL;
    s->caller = pthread_self();
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = threads,
                                                      .budget = budget,
                                                      .cancel = &s->cancel,
                                                      .progress = {.update = update, .user = s}},
                                &sched));
    assert_int_equal(pare_sched_budget(sched), budget);
    pare_status status =
        pare_sched_run(sched, &(pare_job){.name = "home",
                                          .items = ITEMS,
                                          .stages = {{.name = "make", .run = make},
                                                     {.name = "use", .run = use, .home = true},
                                                     {.name = "leave", .run = leave}},
                                          .user = s,
                                          .bytes = bytes,
                                          .ahead = ahead});
    pare_sched_free(&sched);
    return status;
}

static state fresh(void)
{
    return (state){.make_fails = -1, .use_fails = -1, .cancel_at = -1, .need = 10};
}

static void assert_all_in_order(const state *s)
{
    assert_int_equal(s->ordered, ITEMS);
    for (int i = 0; i < ITEMS; i++) {
        assert_int_equal(s->made[i], 1);
        assert_int_equal(s->used[i], 1);
        assert_int_equal(s->order[i], i);
    }
}

static void the_home_stage_runs_on_the_calling_thread_in_order(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 5; threads++)
        for (int slow = 0; slow < 3; slow++) {
            state s = fresh();
            s.slow_make = slow == 1 ? 300 : 0;
            s.slow_use = slow == 2 ? 300 : 0;
            assert_ok(run(&s, threads, AHEAD, 0));
            assert_all_in_order(&s);
            assert_true(s.most <= AHEAD);
            assert_true(s.updates > 0 && s.last_done == ITEMS && s.total == ITEMS);
        }
}

static void items_are_made_ahead_while_the_caller_works(void **unused)
{
    (void)unused;
    state s = fresh();
    s.slow_use = 2000;
    assert_ok(run(&s, 2, 0, 0)); /* two in flight are the default */
    assert_all_in_order(&s);
    assert_int_equal(s.most, 2);
}

static void the_budget_bounds_what_is_made_ahead(void **unused)
{
    (void)unused;
    state s = fresh();
    s.slow_use = 500;
    assert_ok(run(&s, 4, AHEAD, 15));
    assert_all_in_order(&s);
    assert_int_equal(s.most, 1);
    s = fresh();
    assert_status(run(&s, 4, AHEAD, 9), PARE_ERR_MEMORY);
    assert_int_equal(s.ordered, 0);
}

static void what_cannot_be_made_fails_after_all_before_it_were_used(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 4; threads++) {
        state s = fresh();
        s.make_fails = 50;
        s.slow_use = 200;
        assert_status(run(&s, threads, AHEAD, 0), PARE_ERR_IO);
        assert_string_equal(pare_last_error(), "item 50 cannot be made");
        assert_int_equal(s.ordered, 50);
        assert_int_equal(s.made[50 + AHEAD], 0);
    }
}

static void what_cannot_be_used_stops_the_making(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 4; threads++)
        for (int later = 0; later < 2; later++) { /* with and without a later failure to make */
            state s = fresh();
            s.use_fails = 50;
            s.make_fails = later ? 51 : -1;
            assert_status(run(&s, threads, AHEAD, 0), PARE_ERR_NUMERIC);
            assert_string_equal(pare_last_error(), "item 50 cannot be used");
            assert_int_equal(s.ordered, 51);
            assert_int_equal(s.used[50], 0);
            assert_int_equal(s.made[50 + AHEAD], 0);
        }
}

static void a_cancelled_job_uses_nothing_more(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 4; threads++) {
        state s = fresh();
        s.cancel_at = 40;
        assert_status(run(&s, threads, AHEAD, 0), PARE_ERR_INTERRUPTED);
        assert_int_equal(s.ordered, 41);
        assert_int_equal(s.used[40], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_home_stage_runs_on_the_calling_thread_in_order),
        cmocka_unit_test(items_are_made_ahead_while_the_caller_works),
        cmocka_unit_test(the_budget_bounds_what_is_made_ahead),
        cmocka_unit_test(what_cannot_be_made_fails_after_all_before_it_were_used),
        cmocka_unit_test(what_cannot_be_used_stops_the_making),
        cmocka_unit_test(a_cancelled_job_uses_nothing_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
