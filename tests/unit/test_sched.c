/* test_sched.c - the scheduler: order, budget, failures, cancelling, the timeline. */
#include "test.h"

#include "pare/sched.h"

#include "base/file.h"
#include "base/json.h"

#include "base/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { ITEMS = 500 };

typedef struct state {
    _Atomic int runs[ITEMS], in_flight, most;
    int order[ITEMS], ordered;
    int64_t fail_at, need;
    volatile int cancel;
    int cancel_at;
} state;

static pare_status begin(void *user, int worker, int64_t item)
{
    (void)worker;
    state *s = user;
    if (item == ITEMS / 2)
        s->most = 0; /* what counts is that the second half still runs side by side */
    int now = ++s->in_flight, most = s->most;
    while (now > most && !atomic_compare_exchange_weak(&s->most, &most, now)) {
    }
    s->runs[item]++;
    if (item % 7 == 0)
        usleep(200);
    if (s->cancel_at && item == s->cancel_at)
        __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
    return PARE_OK;
}

static pare_status in_order(void *user, int worker, int64_t item)
{
    (void)worker;
    state *s = user;
    s->order[s->ordered++] = (int)item; /* no lock: only one at a time may be here */
    return PARE_OK;
}

static pare_status end(void *user, int worker, int64_t item)
{
    (void)worker;
    state *s = user;
    s->in_flight--;
    if (item == s->fail_at)
        PARE_FAIL(PARE_ERR_IO, "item %d is bad", (int)item);
    return PARE_OK;
}

/* What an item says it needs may be less once it has run; what it was given must still come back.
 */
static int64_t bytes(void *user, int64_t item)
{
    state *s = user;
    return s->runs[item] ? 0 : s->need;
}

static pare_status run(state *s, int threads, int64_t budget, const char *trace)
{
    pare_sched *sched = NULL;
    assert_ok(pare_sched_create(
        &(pare_sched_options){
            .threads = threads, .budget = budget, .trace = trace, .cancel = &s->cancel},
        &sched));
    pare_status status = pare_sched_run(
        sched, &(pare_job){.name = "test",
                           .items = ITEMS,
                           .stages = {{.name = "begin", .run = begin},
                                      {.name = "order", .run = in_order, .in_order = true},
                                      {.name = "end", .run = end}},
                           .user = s,
                           .bytes = bytes});
    pare_sched_free(&sched);
    return status;
}

static void every_item_runs_once_and_ordered_stages_see_them_in_order(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 7; threads += 3) {
        state s = {.fail_at = -1};
        assert_ok(run(&s, threads, 0, NULL));
        assert_int_equal(s.ordered, ITEMS);
        for (int i = 0; i < ITEMS; i++) {
            assert_int_equal(s.runs[i], 1);
            assert_int_equal(s.order[i], i);
        }
    }
}

static void the_budget_bounds_what_is_in_flight(void **unused)
{
    (void)unused;
    state s = {.fail_at = -1, .need = 100};
    assert_ok(run(&s, 6, 250, NULL));
    assert_int_equal(s.most, 2); /* two fit, to the last item */
}

static void an_item_over_the_budget_is_refused_with_its_need(void **unused)
{
    (void)unused;
    state s = {.fail_at = -1, .need = 1000};
    assert_status(run(&s, 2, 999, NULL), PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "1000 B"));
    assert_int_equal(s.runs[0], 0);
}

static void the_first_failure_in_item_order_is_returned(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 5; threads += 2) {
        state s = {.fail_at = 123};
        assert_status(run(&s, threads, 0, NULL), PARE_ERR_IO);
        assert_string_equal(pare_last_error(), "item 123 is bad");
        for (int i = 0; i <= 123; i++)
            assert_int_equal(s.runs[i], 1);
        assert_int_equal(s.runs[ITEMS - 1], 0);
    }
}

static void a_cancelled_job_says_so_and_stops(void **unused)
{
    (void)unused;
    state s = {.fail_at = -1, .cancel_at = 50};
    assert_status(run(&s, 3, 0, NULL), PARE_ERR_INTERRUPTED);
    assert_int_equal(s.runs[ITEMS - 1], 0);
}

static void the_timeline_is_json_with_every_stage(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = NULL, *text = NULL;
    int64_t size;
    pare__json *root = NULL;
    state s = {.fail_at = -1};
    assert_ok(pare__join(folder, "trace.json", &path));
    assert_ok(run(&s, 3, 0, path));
    assert_ok(pare__file_load(path, 10 << 20, &text, &size));
    assert_ok(pare__json_parse(text, (size_t)size, "trace", &root));
    const pare__json *events = pare__json_get(root, "traceEvents");
    assert_int_equal(pare__json_size(events), 3 * ITEMS);
    assert_string_equal(pare__json_string(pare__json_get(pare__json_at(events, 0), "ph")), "X");
    pare__json_free(&root);
    free(text);
    free(path);
    test_folder_remove(folder);
}

static void a_timeline_that_cannot_be_written_is_refused(void **unused)
{
    (void)unused;
    pare_sched *sched = NULL;
    assert_status(
        pare_sched_create(&(pare_sched_options){.threads = 1, .trace = "/nonexistent/x"}, &sched),
        PARE_ERR_ARGUMENT);
    assert_null(sched);
}

static void an_empty_job_is_done(void **unused)
{
    (void)unused;
    pare_sched *sched = NULL;
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 2}, &sched));
    assert_ok(pare_sched_run(sched, &(pare_job){.name = "none"}));
    assert_true(pare_memory_peak() >= pare_memory_now() / 2 && pare_memory_peak() > 0);
    pare_sched_free(&sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once_and_ordered_stages_see_them_in_order),
        cmocka_unit_test(the_budget_bounds_what_is_in_flight),
        cmocka_unit_test(an_item_over_the_budget_is_refused_with_its_need),
        cmocka_unit_test(the_first_failure_in_item_order_is_returned),
        cmocka_unit_test(a_cancelled_job_says_so_and_stops),
        cmocka_unit_test(the_timeline_is_json_with_every_stage),
        cmocka_unit_test(a_timeline_that_cannot_be_written_is_refused),
        cmocka_unit_test(an_empty_job_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
