/* test_journal.c - a journal gives back what was written, whatever happened to its tail. */
#include "test.h"

#include "pare/sched.h"

#include "base/check.h"
#include "base/file.h"

#include <unistd.h>

static const uint64_t key[2] = {1, 2}, other[2] = {3, 4};

typedef struct seen {
    int count;
    char last[64];
} seen;

static pare_status note(void *user, uint32_t type, const void *payload, uint32_t size)
{
    seen *s = user;
    assert_int_equal(type, (uint32_t)s->count + 1);
    s->count++;
    assert_true(size < sizeof s->last);
    if (size)
        memcpy(s->last, payload, size);
    s->last[size] = '\0';
    return PARE_OK;
}

static pare_status open_journal(const char *path, const uint64_t *k, bool discard, seen *s,
                                bool *resumed, pare_journal **j)
{
    *s = (seen){0};
    return pare_journal_open(path, k, discard, note, s, resumed, j);
}

/* Three records of growing size; returns the path. */
static char *make(const char *folder)
{
    char *path = NULL;
    pare_journal *j = NULL;
    seen s;
    bool resumed = true;
    assert_ok(pare__join(folder, "x.journal", &path));
    assert_ok(open_journal(path, key, false, &s, &resumed, &j));
    assert_false(resumed);
    assert_ok(pare_journal_add(j, 1, NULL, 0));
    assert_ok(pare_journal_add(j, 2, "two", 3));
    assert_ok(pare_journal_add(j, 3, "and three", 9));
    assert_ok(pare_journal_sync(j));
    pare_journal_close(&j, false);
    return path;
}

static void records_come_back_in_order(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = make(folder);
    pare_journal *j = NULL;
    seen s;
    bool resumed = false;
    assert_ok(open_journal(path, key, false, &s, &resumed, &j));
    assert_true(resumed);
    assert_int_equal(s.count, 3);
    assert_string_equal(s.last, "and three");
    pare_journal_close(&j, true);
    assert_false(pare__exists(path));
    free(path);
    test_folder_remove(folder);
}

static void a_tail_torn_anywhere_loses_only_what_was_torn(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = make(folder), *bytes = NULL;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 20, &bytes, &size));
    for (int64_t cut = 0; cut <= size; cut++) {
        pare_journal *j = NULL;
        seen s;
        bool resumed = false;
        int expect = cut < 24 + 16 ? 0 : cut < 24 + 16 + 19 ? 1 : cut < size ? 2 : 3;
        assert_ok(pare__file_save(path, bytes, cut));
        assert_ok(open_journal(path, key, false, &s, &resumed, &j));
        assert_int_equal(s.count, expect);
        assert_ok(pare_journal_add(j, (uint32_t)expect + 1, "new",
                                   3)); /* goes on after the last good one */
        pare_journal_close(&j, false);
        assert_ok(open_journal(path, key, false, &s, &resumed, &j));
        assert_int_equal(s.count, expect + 1);
        assert_string_equal(s.last, "new");
        pare_journal_close(&j, false);
    }
    free(bytes);
    free(path);
    test_folder_remove(folder);
}

static void a_flipped_bit_ends_the_journal_there(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = make(folder), *bytes = NULL;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 20, &bytes, &size));
    for (int64_t at = 24; at < size; at++) {
        pare_journal *j = NULL;
        seen s;
        bool resumed = false;
        bytes[at] ^= 4;
        assert_ok(pare__file_save(path, bytes, size));
        bytes[at] ^= 4;
        assert_ok(open_journal(path, key, false, &s, &resumed, &j));
        assert_int_equal(s.count, at < 24 + 16 ? 0 : at < 24 + 16 + 19 ? 1 : 2);
        pare_journal_close(&j, false);
    }
    free(bytes);
    free(path);
    test_folder_remove(folder);
}

static void another_runs_journal_is_refused_or_discarded(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = make(folder);
    pare_journal *j = NULL;
    seen s;
    bool resumed = true;
    assert_status(open_journal(path, other, false, &s, &resumed, &j), PARE_ERR_EXISTS);
    assert_null(j);
    assert_ok(open_journal(path, other, true, &s, &resumed, &j));
    assert_false(resumed);
    assert_int_equal(s.count, 0);
    pare_journal_close(&j, true);
    free(path);
    test_folder_remove(folder);
}

static void two_runs_cannot_share_a_journal(void **unused)
{
    (void)unused;
    char *folder = test_folder_make(), *path = make(folder);
    pare_journal *a = NULL, *b = NULL;
    seen s;
    bool resumed;
    assert_ok(open_journal(path, key, false, &s, &resumed, &a));
    assert_status(open_journal(path, key, false, &s, &resumed, &b), PARE_ERR_EXISTS);
    assert_non_null(strstr(pare_last_error(), "in use"));
    pare_journal_close(&a, true);
    free(path);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back_in_order),
        cmocka_unit_test(a_tail_torn_anywhere_loses_only_what_was_torn),
        cmocka_unit_test(a_flipped_bit_ends_the_journal_there),
        cmocka_unit_test(another_runs_journal_is_refused_or_discarded),
        cmocka_unit_test(two_runs_cannot_share_a_journal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
