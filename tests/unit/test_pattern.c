/* test_pattern.c - spellings of patterns, methods and scale searches. */
#include "test.h"

#include "pare/prune.h"
#include "pare/quant.h"

static void patterns_are_read_and_written_back(void **unused)
{
    (void)unused;
    const char *const good[] = {"unstructured", "2:4",     "4:8",  "1:256", "block:16x16",
                                "block:1x4096", "channel", "head", "layer", "width"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        pare_pattern p;
        char text[32];
        assert_ok(pare_pattern_parse(good[i], &p));
        assert_string_equal(pare_pattern_text(&p, text, sizeof text), good[i]);
        assert_int_equal(pare_pattern_shrinks(&p), i >= 6);
    }
}

static void nonsense_is_refused_with_what_was_expected(void **unused)
{
    (void)unused;
    const char *const bad[] = {"",           "2:",
                               "4:4",        "5:4",
                               "0:4",        "2:257",
                               "-1:4",       "2:4x",
                               "block:",     "block:0x4",
                               "block:4",    "block:4x4097",
                               "block:4:4",  "99999999999999999999:4",
                               "unstructurd"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_pattern p;
        assert_status(pare_pattern_parse(bad[i], &p), PARE_ERR_ARGUMENT);
    }
    pare_pattern p;
    assert_status(pare_pattern_parse("unstructurd", &p), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"unstructured\""));
    assert_status(pare_pattern_parse("chanel", &p), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean \"channel\""));
}

static void methods_are_found_by_name(void **unused)
{
    (void)unused;
    for (size_t i = 0; pare_prune_methods()[i]; i++)
        assert_ptr_equal(pare_prune_find(pare_prune_methods()[i]->name), pare_prune_methods()[i]);
    for (size_t i = 0; pare_quant_methods()[i]; i++)
        assert_ptr_equal(pare_quant_find(pare_quant_methods()[i]->name), pare_quant_methods()[i]);
    assert_null(pare_prune_find("no such"));
    assert_null(pare_quant_find(""));
}

static void scale_searches_are_read(void **unused)
{
    (void)unused;
    pare_scale_search s;
    assert_ok(pare_scale_search_parse("mse", &s));
    assert_int_equal(s, PARE_SCALE_MSE);
    assert_ok(pare_scale_search_parse("absmax", &s));
    assert_string_equal(pare_scale_search_name(s), "absmax");
    assert_status(pare_scale_search_parse("percentile:99", &s), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "not in this version"));
    assert_status(pare_scale_search_parse("absmx", &s), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "absmax"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_are_read_and_written_back),
        cmocka_unit_test(nonsense_is_refused_with_what_was_expected),
        cmocka_unit_test(methods_are_found_by_name),
        cmocka_unit_test(scale_searches_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
