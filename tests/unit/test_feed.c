/* test_feed.c - batches made ahead: order, content, threads, failures of either side, budget, and
 * that nothing is allocated once they run. Also meant to be run under ThreadSanitizer. */
#include "test.h"

#include "data_fixture.h"

#include "pare/data.h"

#include "base/check.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

enum { COUNT = 50, PIXELS = 4 * 3 };

/* Allocations of any thread, where no sanitizer owns the allocator. */
static _Atomic long allocations;

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    allocations++;
    return __libc_realloc(memory, size);
}
#endif

typedef struct fixture {
    char *folder, *path, *bad; /* bad: image 30 holds a NaN */
    char *labels;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    float values[COUNT * PIXELS];
    unsigned char labels[COUNT];
    assert_non_null(f);
    f->folder = test_folder_make();
    for (int i = 0; i < COUNT * PIXELS; i++)
        values[i] = (float)i;
    for (int i = 0; i < COUNT; i++)
        labels[i] = (unsigned char)i;
    f->path = data_npy(f->folder, "good.npy", "<f4", "(50, 4, 3)", values, sizeof values);
    values[30 * PIXELS + 5] = NAN;
    f->bad = data_npy(f->folder, "bad.npy", "<f4", "(50, 4, 3)", values, sizeof values);
    f->labels = data_write(f->folder, "labels.u8", labels, COUNT);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    free(f->path);
    free(f->bad);
    free(f->labels);
    free(f);
    return 0;
}

static pare_dataset *open(const fixture *f, const char *path, bool shuffle)
{
    pare_dataset *d = NULL;
    assert_ok(pare_dataset_open(&(pare_data_options){.path = path,
                                                     .labels = f->labels,
                                                     .pad_id = -1,
                                                     .bos_id = -1,
                                                     .shuffle = shuffle,
                                                     .seed = 5},
                                &d));
    return d;
}

typedef struct watch {
    pthread_t caller;
    const pare_dataset *dataset;
    int64_t first, batch, last;
    int64_t batches, fail_at, cancel_at;
    volatile int cancel;
    long allocations; /* as of the second batch */
    bool coming;      /* it wants to see them early; then how many have come, the last one, */
    int64_t each;     /* from one batch's beginning to the next one's; 0: batch */
    int64_t came, refuse_at;
    const pare_batch *next;
    float number; /* its first one; */
    int ends;     /* and how often it was told that none are left */
} watch;

/* Each batch is what the stream has there, and runs on the calling thread in its turn. */
static pare_status look(void *user, int64_t index, const pare_batch *b)
{
    watch *w = user;
    int64_t g = w->first + index * (w->each ? w->each : w->batch), left = w->last - g;
    assert_true(pthread_equal(pthread_self(), w->caller));
    assert_int_equal(index, w->batches);
    assert_int_equal(b->size, left < w->batch ? left : w->batch);
    for (int64_t i = 0; i < b->size; i++) {
        int64_t item = pare_dataset_item(w->dataset, g + i);
        assert_int_equal(b->labels[i], item);
        for (int p = 0; p < PIXELS; p++)
            assert_true(b->images[i * PIXELS + p] == (float)(item * PIXELS + p));
    }
    if (w->batches++ == 2)
        w->allocations = allocations;
    if (index == w->cancel_at)
        __atomic_store_n(&w->cancel, 1, __ATOMIC_RELAXED);
    PARE_REQUIRE(index != w->fail_at, PARE_ERR_NUMERIC, "batch %d has a NaN loss", (int)index);
    return PARE_OK;
}

/* One ahead of the work, in its turn, and still the same when its own turn comes. */
static pare_status come(void *user, int64_t index, const pare_batch *b)
{
    watch *w = user;
    assert_true(pthread_equal(pthread_self(), w->caller));
    if (!b) {
        w->ends++;
        return PARE_OK;
    }
    assert_int_equal(w->ends, 0);
    assert_int_equal(index, w->came++);
    assert_int_equal(w->batches, index > 0 ? index - 1 : 0);
    if (w->next)
        assert_true(b != w->next && w->next->images[0] == w->number);
    w->next = b;
    w->number = b->images[0];
    PARE_REQUIRE(index != w->refuse_at, PARE_ERR_NUMERIC, "batch %d came too early", (int)index);
    return PARE_OK;
}

static pare_status run(watch *w, const pare_dataset *d, int threads, int ahead, int64_t budget)
{
    pare_sched *sched = NULL;
    w->caller = pthread_self();
    w->dataset = d;
    assert_ok(pare_sched_create(
        &(pare_sched_options){.threads = threads, .budget = budget, .cancel = &w->cancel}, &sched));
    pare_status status = pare_feed_run(sched, "train",
                                       &(pare_feed_options){.dataset = d,
                                                            .batch = w->batch,
                                                            .each = w->each,
                                                            .first = w->first,
                                                            .last = w->last,
                                                            .ahead = ahead,
                                                            .coming = w->coming ? come : NULL},
                                       look, w);
    pare_sched_free(&sched);
    return status;
}

static void every_batch_of_the_stream_comes_in_order(void **state)
{
    fixture *f = *state;
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        pare_dataset *d = open(f, f->path, shuffle);
        for (int threads = 1; threads <= 4; threads++)
            for (int ahead = 0; ahead <= 5; ahead++) {
                watch w = {.first = 33, .batch = 7, .last = 400, .fail_at = -1, .cancel_at = -1};
                assert_ok(run(&w, d, threads, ahead, 0));
                assert_int_equal(w.batches, 53); /* 367 samples, the last batch of 3 */
            }
        pare_dataset_close(&d);
    }
}

/* As ranks that share batches out read it: this one has samples 4 to 7 of every 12. */
static void a_part_of_every_batch_is_made(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, true);
    watch w = {.first = 4, .batch = 4, .each = 12, .last = 124, .fail_at = -1, .cancel_at = -1};
    assert_ok(run(&w, d, 2, 2, 0));
    assert_int_equal(w.batches, 10);
    w.each = 3;
    assert_status(run(&w, d, 2, 2, 0), PARE_ERR_ARGUMENT);
    pare_dataset_close(&d);
}

static void an_empty_range_has_no_batches(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, false);
    watch w = {.first = 9, .batch = 7, .last = 9, .fail_at = -1, .cancel_at = -1};
    assert_ok(run(&w, d, 2, 0, 0));
    assert_int_equal(w.batches, 0);
    w.last = 8;
    assert_status(run(&w, d, 2, 0, 0), PARE_ERR_ARGUMENT);
    w.last = 10;
    w.batch = 0;
    assert_status(run(&w, d, 2, 0, 0), PARE_ERR_ARGUMENT);
    pare_dataset_close(&d);
}

static void a_failure_of_the_work_ends_it(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, true);
    for (int threads = 1; threads <= 3; threads++) {
        watch w = {.batch = 4, .last = 1000, .fail_at = 20, .cancel_at = -1};
        assert_status(run(&w, d, threads, 3, 0), PARE_ERR_NUMERIC);
        assert_string_equal(pare_last_error(), "batch 20 has a NaN loss");
        assert_int_equal(w.batches, 21);
    }
    pare_dataset_close(&d);
}

static void bad_data_ends_it_after_the_batches_before(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->bad, false);
    for (int threads = 1; threads <= 3; threads++) {
        watch w = {.batch = 4, .last = 1000, .fail_at = -1, .cancel_at = -1};
        assert_status(run(&w, d, threads, 3, 0), PARE_ERR_DAMAGED);
        assert_non_null(strstr(pare_last_error(), "image 30 has a NaN"));
        assert_int_equal(w.batches, 7); /* images 0 to 27 */
    }
    pare_dataset_close(&d);
}

static void a_cancelled_feed_stops_at_once(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, true);
    for (int threads = 1; threads <= 3; threads++) {
        watch w = {.batch = 4, .last = 1000, .fail_at = -1, .cancel_at = 9};
        assert_status(run(&w, d, threads, 3, 0), PARE_ERR_INTERRUPTED);
        assert_int_equal(w.batches, 10);
    }
    pare_dataset_close(&d);
}

static void the_budget_decides_how_many_are_ahead(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, false);
    watch w = {.batch = 4, .last = 100, .fail_at = -1, .cancel_at = -1};
    int64_t one = pare_batch_bytes(d, 4);
    assert_ok(run(&w, d, 2, 3, one));
    assert_int_equal(w.batches, 25);
    w.batches = 0;
    assert_status(run(&w, d, 2, 3, one - 1), PARE_ERR_MEMORY);
    assert_int_equal(w.batches, 0);
    pare_dataset_close(&d);
}

static void a_running_feed_allocates_nothing(void **state)
{
    fixture *f = *state;
    if (SANITIZED)
        skip();
    pare_dataset *d = open(f, f->path, true);
    pare_batch *b = NULL;
    watch w = {.batch = 4, .last = 2000, .fail_at = -1, .cancel_at = -1};
    assert_ok(pare_batch_create(d, 8, &b));
    long before = allocations;
    for (int64_t g = 0; g < 800; g += 8)
        assert_ok(pare_dataset_fill(d, g, 8, b));
    assert_true(allocations == before);
    pare_batch_free(&b);
    assert_ok(run(&w, d, 2, 2, 0));
    assert_true(w.allocations > 0);
    /* what is left is the scheduler's end */
    assert_true(allocations - w.allocations < 10);
    pare_dataset_close(&d);
}

static void each_batch_is_shown_before_the_work_on_the_one_before(void **state)
{
    fixture *f = *state;
    pare_dataset *d = open(f, f->path, true), *bad = open(f, f->bad, false);
    for (int threads = 1; threads <= 3; threads++)
        for (int ahead = 1; ahead <= 3; ahead++) {
            const watch plain = {.batch = 7,
                                 .last = 400,
                                 .fail_at = -1,
                                 .cancel_at = -1,
                                 .coming = true,
                                 .refuse_at = -1};
            watch w = plain;
            assert_ok(run(&w, d, threads, ahead, 0));
            assert_int_equal(w.batches, 58);
            assert_int_equal(w.came, 58);
            assert_int_equal(w.ends, 1);
            w = plain;
            w.last = 5; /* one alone */
            assert_ok(run(&w, d, threads, ahead, 0));
            assert_int_equal(w.batches, 1);
            w = plain;
            w.fail_at = 20;
            assert_status(run(&w, d, threads, ahead, 0), PARE_ERR_NUMERIC);
            assert_int_equal(w.batches, 21);
            assert_int_equal(w.ends, 1);
            w = plain;
            w.refuse_at = 20;
            assert_status(run(&w, d, threads, ahead, 0), PARE_ERR_NUMERIC);
            assert_string_equal(pare_last_error(), "batch 20 came too early");
            assert_int_equal(w.batches, 19);
            assert_int_equal(w.ends, 1);
            w = plain;
            w.cancel_at = 9;
            assert_status(run(&w, d, threads, ahead, 0), PARE_ERR_INTERRUPTED);
            assert_int_equal(w.batches, 10);
            assert_int_equal(w.ends, 1);
            w = plain;
            w.batch = 4; /* the eighth holds the bad image: the seventh was not begun */
            assert_status(run(&w, bad, threads, ahead, 0), PARE_ERR_DAMAGED);
            assert_int_equal(w.batches, 6);
            assert_int_equal(w.ends, 1);
        }
    int64_t one = pare_batch_bytes(d, 7);
    watch w = {
        .batch = 7, .last = 100, .fail_at = -1, .cancel_at = -1, .coming = true, .refuse_at = -1};
    assert_ok(run(&w, d, 2, 3, 2 * one)); /* one on its way, one that has come */
    assert_int_equal(w.batches, 15);
    pare_dataset_close(&bad);
    pare_dataset_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_batch_of_the_stream_comes_in_order),
        cmocka_unit_test(a_part_of_every_batch_is_made),
        cmocka_unit_test(an_empty_range_has_no_batches),
        cmocka_unit_test(a_failure_of_the_work_ends_it),
        cmocka_unit_test(bad_data_ends_it_after_the_batches_before),
        cmocka_unit_test(a_cancelled_feed_stops_at_once),
        cmocka_unit_test(the_budget_decides_how_many_are_ahead),
        cmocka_unit_test(a_running_feed_allocates_nothing),
        cmocka_unit_test(each_batch_is_shown_before_the_work_on_the_one_before),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
