/* test_status.c - names, exit codes, the sentence and the trail. */
#include "test.h"

#include "base/check.h"

#include <errno.h>
#include <pthread.h>

static void every_status_has_its_name_and_exit_code(void **state)
{
    (void)state;
    static const int codes[] = {0, 2, 3, 3, 3, 2, 1, 1, 4, 1, 1, 1, 5, 1};
    for (int s = PARE_OK; s <= PARE_ERR_INTERNAL; s++) {
        assert_int_equal(pare_status_exit_code((pare_status)s), codes[s]);
        assert_string_not_equal(pare_status_name((pare_status)s), "PARE_ERR_?");
    }
    assert_string_equal(pare_status_name(PARE_ERR_DAMAGED), "PARE_ERR_DAMAGED");
    assert_string_equal(pare_status_name((pare_status)99), "PARE_ERR_?");
    assert_string_equal(pare_status_name((pare_status)-1), "PARE_ERR_?");
    assert_int_equal(pare_status_exit_code((pare_status)-1), 1);
}

static pare_status inner(int x)
{
    PARE_REQUIRE(x > 0, PARE_ERR_ARGUMENT, "x is %d, not positive", x);
    return PARE_OK;
}

static pare_status outer(int x)
{
    PARE_TRY(inner(x));
    return PARE_OK;
}

static pare_status outermost(int x, int *freed)
{
    pare_status status = PARE_OK;
    PARE_TRY_DONE(outer(x));
done:
    *freed = 1;
    return status;
}

static void a_failure_keeps_its_sentence_and_its_trail(void **state)
{
    (void)state;
    int freed = 0;
    assert_ok(outermost(1, &freed));
    assert_status(outermost(-3, &freed), PARE_ERR_ARGUMENT);
    assert_int_equal(freed, 1);
    assert_string_equal(pare_last_error(), "x is -3, not positive");
    assert_string_equal(pare_last_trail(), "inner < outer < outermost");
}

static void a_sentence_may_quote_the_one_before(void **state)
{
    (void)state;
    pare__error(PARE_ERR_IO, "a", "disk %d", 7);
    pare__error(PARE_ERR_IO, "b", "model.h5: %s", pare_last_error());
    assert_string_equal(pare_last_error(), "model.h5: disk 7");
    assert_string_equal(pare_last_trail(), "b");
}

static void a_long_sentence_ends_with_an_ellipsis_between_two_characters(void **state)
{
    (void)state;
    char text[3000];
    for (size_t shift = 0; shift < 4; shift++) { /* the cut falls on each byte of U+1F600 */
        memset(text, 'a', shift);
        size_t length = shift;
        for (; length + 4 < sizeof text; length += 4)
            memcpy(text + length, "\xf0\x9f\x98\x80", 4);
        text[length] = '\0';
        pare__error(PARE_ERR_IO, "f", "%s", text);
        const char *cut = pare_last_error();
        size_t kept = strlen(cut);
        assert_in_range(kept, 1020, 1023);
        assert_string_equal(cut + kept - 3, "\xe2\x80\xa6");
        assert_int_equal((kept - 3 - shift) % 4, 0);
        assert_memory_equal(cut, text, kept - 3);
    }
}

static void control_characters_do_not_reach_the_terminal(void **state)
{
    (void)state;
    pare__error(PARE_ERR_IO, "f", "tensor '%s'", "a\x1b[2J\nb\x7f");
    assert_string_equal(pare_last_error(), "tensor 'a?[2J?b?'");
}

static void an_endless_trail_is_cut_once(void **state)
{
    (void)state;
    pare__error(PARE_ERR_IO, "start", "no");
    for (int i = 0; i < 1000; i++)
        pare__trail("some_function");
    const char *trail = pare_last_trail();
    assert_int_equal(strncmp(trail, "start < some_function < ", 24), 0);
    assert_true(strlen(trail) < 1024);
    assert_string_equal(trail + strlen(trail) - 3, "\xe2\x80\xa6");
}

struct carried {
    char sentence[64], trail[64];
    int empty_before;
};

static void *fail_elsewhere(void *user)
{
    struct carried *c = user;
    c->empty_before = pare_last_error()[0] == '\0' && pare_last_trail()[0] == '\0';
    pare__error(PARE_ERR_FULL, "worker", "disk full");
    snprintf(c->sentence, sizeof c->sentence, "%s", pare_last_error());
    snprintf(c->trail, sizeof c->trail, "%s", pare_last_trail());
    return NULL;
}

static void each_thread_has_its_own_sentence_and_can_take_over_another(void **state)
{
    (void)state;
    struct carried c;
    pthread_t thread;
    pare__error(PARE_ERR_IO, "main_thread", "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &c), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(c.empty_before);
    assert_string_equal(pare_last_error(), "mine");
    assert_int_equal(pare__error_again(PARE_ERR_FULL, c.sentence, c.trail), PARE_ERR_FULL);
    assert_string_equal(pare_last_error(), "disk full");
    assert_string_equal(pare_last_trail(), "worker");
    pare__trail("waiter");
    assert_int_equal(pare__error_again(PARE_ERR_FULL, pare_last_error(), pare_last_trail()),
                     PARE_ERR_FULL);
    assert_string_equal(pare_last_error(), "disk full");
    assert_string_equal(pare_last_trail(), "worker < waiter");
}

static void errno_becomes_what_the_caller_can_do(void **state)
{
    (void)state;
    assert_int_equal(pare__errno_status(ENOSPC), PARE_ERR_FULL);
    assert_int_equal(pare__errno_status(EDQUOT), PARE_ERR_FULL);
    assert_int_equal(pare__errno_status(ENOENT), PARE_ERR_NOT_FOUND);
    assert_int_equal(pare__errno_status(ENOMEM), PARE_ERR_MEMORY);
    assert_int_equal(pare__errno_status(EIO), PARE_ERR_IO);
    assert_int_equal(pare__errno_status(EACCES), PARE_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_name_and_exit_code),
        cmocka_unit_test(a_failure_keeps_its_sentence_and_its_trail),
        cmocka_unit_test(a_sentence_may_quote_the_one_before),
        cmocka_unit_test(a_long_sentence_ends_with_an_ellipsis_between_two_characters),
        cmocka_unit_test(control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(an_endless_trail_is_cut_once),
        cmocka_unit_test(each_thread_has_its_own_sentence_and_can_take_over_another),
        cmocka_unit_test(errno_becomes_what_the_caller_can_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
