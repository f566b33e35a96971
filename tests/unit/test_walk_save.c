/* test_walk_save.c - what a device has made is saved while it goes on: by another thread, in order,
 * with the bytes of a run that was never cut. Also meant to be run under ThreadSanitizer. */
#include "walk_fixture.h"

#include "far_device.h"

#include "base/file.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char awq[] = "quantize: {method: awq, scheme: w4g32z}";
static const char wanda[] = "prune: {method: wanda, sparsity: 0.5}";

/* ---- writes ---------------------------------------------------------------------------------- */

static pthread_t walking;
static _Atomic long beside;           /* writes of other threads, while it is counted */
static _Atomic bool counts, hangs;    /* hangs: instead of failing */
static _Atomic long writes_left = -1; /* of those, until one fails or hangs; negative: none */
static _Atomic unsigned slow;         /* microseconds that each takes */

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (counts && !pthread_equal(pthread_self(), walking)) {
        beside++;
        usleep(slow);
        if (writes_left >= 0 && writes_left-- == 0) {
            while (hangs)
                pause();
            errno = ENOSPC;
            return -1;
        }
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

/* A run of which writes of other threads are looked at. A device's walk is the only one to have
 * some: chunks are written by the one worker, which is this thread. */
static pare_status watched(walk_bench *b, const char *step)
{
    walking = pthread_self();
    beside = 0;
    counts = true;
    pare_status status = walk_run(b, step, ", batch: 5");
    counts = false;
    return status;
}

static char *bytes_of(const walk_bench *b, int64_t *size)
{
    char *bytes = NULL;
    assert_ok(pare__file_load(b->out, 1 << 26, &bytes, size));
    return bytes;
}

static void assert_bytes(const walk_bench *b, const char *want, int64_t size)
{
    char path[4200];
    int64_t again;
    char *got = bytes_of(b, &again);
    assert_int_equal(again, size);
    assert_memory_equal(got, want, (size_t)size);
    free(got);
    snprintf(path, sizeof path, "%s.walk", b->out);
    assert_false(pare__exists(path));
}

static bool open_bench(walk_bench *b)
{
    const run_device *device = far_device();
    if (!device || !device->set_up((int64_t)1 << 30))
        return false;
    *b = walk_make(NULL, walk_llama);
    b->options.device = "cuda";
    return true;
}

/* ---- the timeline ---------------------------------------------------------------------------- */

typedef struct span {
    double begin, end;
} span;

/* Spans of a stage; how many. */
static int spans_of(const char *text, const char *stage, span *spans, int most)
{
    char name[64];
    int count = 0;
    snprintf(name, sizeof name, "{\"name\":\"%s\",", stage);
    for (const char *at = strstr(text, name); at && count < most; at = strstr(at + 1, name)) {
        double begin, length;
        const char *times = strstr(at, "\"ts\":");
        assert_non_null(times);
        assert_int_equal(sscanf(times, "\"ts\":%lf,\"dur\":%lf", &begin, &length), 2);
        spans[count++] = (span){.begin = begin, .end = begin + length};
    }
    return count;
}

static bool meet(span a, const span *with, int count)
{
    for (int i = 0; i < count; i++)
        if (a.begin < with[i].end && with[i].begin < a.end)
            return true;
    return false;
}

static void the_device_goes_on_while_it_is_saved(void **state)
{
    (void)state;
    enum { MOST = 2000 };
    static span saved[MOST], made[MOST];
    walk_bench b;
    char trace[4200], *text = NULL;
    int64_t size;
    if (!open_bench(&b)) {
        skip();
        return;
    }
    snprintf(trace, sizeof trace, "%s/trace.json", b.folder);
    b.options.trace = trace;
    slow = 1000;
    assert_ok(watched(&b, awq));
    slow = 0;
    assert_ok(pare__file_load(trace, 1 << 26, &text, &size));
    assert_non_null(strstr(text, "\"cat\":\"save\""));
    /* Stages of the walk called "write" are saving's: those of chunks come after all of it. */
    int saves = spans_of(text, "write", saved, MOST), together = 0;
    int makes = spans_of(text, "work", made, MOST);
    makes += spans_of(text, "solve", made + makes, MOST - makes);
    /* 5 batches out of each of 4 blocks but the last; 14 layers, 4 norms. */
    assert_true(saves >= 3 * 5 + 14 + 4 && beside >= saves);
    for (int i = 0; i < saves; i++)
        together += meet(saved[i], made, makes);
    assert_true(together >= (3 * 5 + 14 + 4) / 2);
    free(text);
    walk_done(&b);
}

/* ---- cut and continued ----------------------------------------------------------------------- */

/* Every so many writes one fails; the same command goes on, until it is done. */
static void a_write_that_fails_is_the_runs_failure(void **state)
{
    (void)state;
    static const char *const steps[] = {awq, wanda};
    walk_bench b;
    if (!open_bench(&b)) {
        skip();
        return;
    }
    for (int i = 0; i < 2; i++) {
        int64_t size;
        int cuts = 0;
        walk_clear(&b);
        assert_ok(watched(&b, steps[i]));
        assert_true(beside > 20);
        char *want = bytes_of(&b, &size);
        walk_clear(&b);
        for (pare_status status = PARE_ERR_FULL; status != PARE_OK; cuts++) {
            writes_left = 7 + i;
            status = watched(&b, steps[i]);
            writes_left = -1;
            if (status != PARE_OK) {
                assert_int_equal(status, PARE_ERR_FULL);
                assert_non_null(strstr(pare_last_error(), ".walk"));
            }
            assert_true(cuts < 40);
        }
        assert_true(cuts > 2);
        assert_bytes(&b, want, size);
        free(want);
    }
    walk_done(&b);
}

/* Killed while a write hangs, and all that may go on without it has gone on. */
static void killed_while_it_saves_it_ends_with_the_same_bytes(void **state)
{
    (void)state;
    walk_bench b;
    int64_t size;
    if (!open_bench(&b)) {
        skip();
        return;
    }
    assert_ok(walk_run(&b, awq, ", batch: 5"));
    char *want = bytes_of(&b, &size);
    for (long at = 0; at < 40; at += 9) {
        walk_clear(&b);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            hangs = true;
            writes_left = at;
            (void)watched(&b, awq);
            _exit(0);
        }
        usleep(150000);
        assert_int_equal(kill(child, SIGKILL), 0);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how)); /* it hung: else it would have been done */
        assert_false(pare__exists(b.out));
        assert_ok(walk_run(&b, awq, ", batch: 5"));
        assert_bytes(&b, want, size);
    }
    free(want);
    walk_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_device_goes_on_while_it_is_saved),
        cmocka_unit_test(a_write_that_fails_is_the_runs_failure),
        cmocka_unit_test(killed_while_it_saves_it_ends_with_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
