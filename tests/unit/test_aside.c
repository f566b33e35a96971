/* test_aside.c - work beside the caller: in order, at the same time, in few places; the first
 * failure is the caller's. Also meant to be run under ThreadSanitizer. */
#include "test.h"

#include "pare/sched.h"

#include "base/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { PIECES = 100, PLACES = 2 };

typedef struct state {
    pthread_t caller;
    int value[PLACES]; /* no lock: the hand-over must order the accesses */
    int done[PIECES], count;
    int fails;         /* the piece that does, −1 */
    _Atomic int begun; /* pieces that the caller has begun */
    int lags;          /* a piece is not done before the caller has begun so many after it */
    int slow;          /* microseconds now and then */
} state;

static pare_status save(void *user, int place)
{
    state *s = user;
    int piece = s->value[place];
    assert_int_equal(piece % PLACES, place);
    assert_false(pthread_equal(pthread_self(), s->caller));
    while (s->begun < piece + 1 + s->lags && s->begun < PIECES)
        usleep(10);
    if (s->slow && piece % 7 == 0)
        usleep((unsigned)s->slow);
    PARE_REQUIRE(piece != s->fails, PARE_ERR_FULL, "piece %d has no room", piece);
    s->done[s->count++] = piece;
    return PARE_OK;
}

/* Makes all pieces; *made: handed over. */
static pare_status make_all(pare_aside *aside, state *s, int *made)
{
    for (*made = 0; *made < PIECES; ++*made) {
        int place;
        s->begun = *made + 1;
        PARE_TRY(pare_aside_place(aside, &place));
        s->value[place] = *made;
        pare_aside_hand(aside);
    }
    PARE_TRY(pare_aside_wait(aside));
    return PARE_OK;
}

static pare_status run(state *s, int *made)
{
    pare_sched *sched = NULL;
    pare_aside *aside = NULL;
    const pare_aside_options options = {
        .name = "save", .stage = "write", .places = PLACES, .run = save, .user = s};
    s->caller = pthread_self();
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 1}, &sched));
    assert_ok(pare_aside_create(sched, &options, &aside));
    pare_status status = make_all(aside, s, made);
    pare_aside_free(&aside);
    assert_null(aside);
    pare_aside_free(&aside);
    pare_sched_free(&sched);
    return status;
}

static void pieces_are_done_in_order(void **unused)
{
    (void)unused;
    for (int slow = 0; slow < 2; slow++) {
        state s = {.fails = -1, .slow = slow * 300};
        int made;
        assert_ok(run(&s, &made));
        assert_int_equal(s.count, PIECES);
        for (int i = 0; i < PIECES; i++)
            assert_int_equal(s.done[i], i);
    }
}

/* Were it not so, this would never end. */
static void the_caller_goes_on_meanwhile(void **unused)
{
    (void)unused;
    state s = {.fails = -1, .lags = PLACES};
    int made;
    assert_ok(run(&s, &made));
    assert_int_equal(s.count, PIECES);
}

static void the_first_failure_is_the_callers(void **unused)
{
    (void)unused;
    static const int at[] = {0, 1, 50, PIECES - 1};
    for (int i = 0; i < 4; i++) {
        state s = {.fails = at[i]};
        int made;
        assert_status(run(&s, &made), PARE_ERR_FULL);
        char want[64];
        snprintf(want, sizeof want, "piece %d has no room", at[i]);
        assert_string_equal(pare_last_error(), want);
        assert_int_equal(s.count, at[i]); /* nothing after it */
        assert_in_range(made, at[i] + 1, at[i] + 1 + PLACES);
    }
}

/* What was handed over is done, though nobody waits for it. */
static void the_end_waits_for_it(void **unused)
{
    (void)unused;
    pare_sched *sched = NULL;
    pare_aside *aside = NULL;
    int place;
    state s = {.caller = pthread_self(), .fails = -1, .begun = PIECES, .slow = 20000};
    const pare_aside_options options = {
        .name = "save", .stage = "write", .places = PLACES, .run = save, .user = &s};
    assert_ok(pare_sched_create(&(pare_sched_options){.threads = 1}, &sched));
    assert_ok(pare_aside_create(sched, &options, &aside));
    assert_ok(pare_aside_place(aside, &place));
    s.value[place] = 0;
    pare_aside_hand(aside);
    pare_aside_free(&aside);
    assert_int_equal(s.count, 1);
    assert_status(pare_aside_create(sched, &(pare_aside_options){.name = "none"}, &aside),
                  PARE_ERR_ARGUMENT);
    pare_sched_free(&sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_done_in_order),
        cmocka_unit_test(the_caller_goes_on_meanwhile),
        cmocka_unit_test(the_first_failure_is_the_callers),
        cmocka_unit_test(the_end_waits_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
