/* test_text.c - strings that grow, numbers and sizes from text, patterns, nearest words. */
#include "test.h"

#include "base/text.h"

#include <locale.h>

static void appends_join_and_an_empty_text_is_an_empty_string(void **state)
{
    (void)state;
    pare__text text = {0};
    char *string;
    assert_ok(pare__text_take(&text, &string));
    assert_string_equal(string, "");
    free(string);
    for (int i = 0; i < 1000; i++)
        pare__text_add(&text, "%d,", i);
    pare__text_bytes(&text, "end", 3);
    pare__text_bytes(&text, NULL, 0);
    assert_int_equal(text.length, 3893);
    assert_ok(pare__text_take(&text, &string));
    assert_null(text.data);
    assert_int_equal(strncmp(string, "0,1,2,", 6), 0);
    assert_string_equal(string + 3885, ",999,end");
    free(string);
}

static void a_failed_append_stays_failed_until_take(void **state)
{
    (void)state;
    pare__text text = {0};
    char *string = NULL;
    pare__text_add(&text, "abc");
    pare__text_bytes(&text, "x", SIZE_MAX - 2); /* refused by its size, the byte is not read */
    assert_true(text.failed);
    pare__text_add(&text, "more");
    assert_status(pare__text_take(&text, &string), PARE_ERR_MEMORY);
    assert_null(string);
    assert_false(text.failed);
    pare__text_free(&text);
}

static void whole_numbers_are_read_whole(void **state)
{
    (void)state;
    int64_t x = 0;
    assert_true(pare__parse_int("0", &x) && x == 0);
    assert_true(pare__parse_int("-12", &x) && x == -12);
    assert_true(pare__parse_int("+7", &x) && x == 7);
    assert_true(pare__parse_int("9223372036854775807", &x) && x == INT64_MAX);
    assert_true(pare__parse_int("-9223372036854775808", &x) && x == INT64_MIN);
    static const char *const bad[] = {
        "", "-", "+-1", "1 ", " 1", "1.0", "0x10", "1a", "1e3", "9223372036854775808", "--1"};
    x = 42;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(pare__parse_int(bad[i], &x));
    assert_int_equal(x, 42);
}

static void check_doubles(void)
{
    double x = 0;
    assert_true(pare__parse_double("0.1", &x) && x == 0.1);
    assert_true(pare__parse_double("-1e-5", &x) && x == -1e-5);
    assert_true(pare__parse_double("+2.5E+3", &x) && x == 2500);
    assert_true(pare__parse_double(".5", &x) && x == 0.5);
    assert_true(pare__parse_double("5.", &x) && x == 5);
    assert_true(pare__parse_double("1e-400", &x) && x == 0);
    assert_true(pare__parse_double("4.9e-324", &x) && x == 4.9e-324);
    static const char *const bad[] = {"",      ".",     "-",     "e5",  "1e",      "1e+",
                                      "inf",   "nan",   "0x1p3", "1 ",  " 1",      "1,5",
                                      "1e400", "1.2.3", "1f",    "--1", "infinity"};
    x = 42;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(pare__parse_double(bad[i], &x));
    assert_true(x == 42);
}

static void numbers_are_read_whole_whatever_the_locale(void **state)
{
    (void)state;
    check_doubles();
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"};
    for (size_t i = 0; i < 3; i++)
        if (setlocale(LC_ALL, commas[i]) != NULL)
            check_doubles();
    setlocale(LC_ALL, "C");
}

static void sizes_are_powers_of_1024(void **state)
{
    (void)state;
    int64_t x = 0;
    assert_true(pare__parse_size("4096", &x) && x == 4096);
    assert_true(pare__parse_size("5G", &x) && x == (int64_t)5 << 30);
    assert_true(pare__parse_size("256m", &x) && x == (int64_t)256 << 20);
    assert_true(pare__parse_size("1.5G", &x) && x == (int64_t)3 << 29);
    assert_true(pare__parse_size("2K", &x) && x == 2048);
    assert_true(pare__parse_size("3T", &x) && x == (int64_t)3 << 40);
    assert_true(pare__parse_size("9223372036854775807", &x) && x == INT64_MAX);
    assert_true(pare__parse_size("0", &x) && x == 0);
    static const char *const bad[] = {"",
                                      "G",
                                      "-1G",
                                      "5GB",
                                      "5 G",
                                      "1.5",
                                      "1.2.3G",
                                      "9000000000T",
                                      "9000000.5T",
                                      "1e3",
                                      "5X",
                                      ".",
                                      "9223372036854775808",
                                      " 5G",
                                      "infG",
                                      "00000000000000000000000000000000001"};
    x = 42;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(pare__parse_size(bad[i], &x));
    assert_int_equal(x, 42);
}

static void sizes_and_times_read_well(void **state)
{
    (void)state;
    char b[24];
    assert_string_equal(pare__size_text(0, b, sizeof b), "0 B");
    assert_string_equal(pare__size_text(812, b, sizeof b), "812 B");
    assert_string_equal(pare__size_text(1023.7, b, sizeof b), "1.00 KiB");
    assert_string_equal(pare__size_text(1610612736.0, b, sizeof b), "1.50 GiB");
    assert_string_equal(pare__size_text(1048575.9, b, sizeof b), "1.00 MiB");
    assert_string_equal(pare__size_text(0x1p63, b, sizeof b), "8.00 EiB");
    assert_true(strlen(pare__size_text(1e300, b, 16)) < 16);
    assert_string_equal(pare__time_text(0.0123, b, sizeof b), "12.3 ms");
    assert_string_equal(pare__time_text(1.2, b, sizeof b), "1.2 s");
    assert_string_equal(pare__time_text(59.97, b, sizeof b), "1 min 0 s");
    assert_string_equal(pare__time_text(200, b, sizeof b), "3 min 20 s");
    assert_string_equal(pare__time_text(3599.7, b, sizeof b), "1 h 0 min");
    assert_string_equal(pare__time_text(9.9e11, b, sizeof b), "275000000 h 0 min");
    assert_string_equal(pare__time_text(-1, b, sizeof b), "?");
    assert_string_equal(pare__time_text(1e300, b, sizeof b), "?");
}

static void patterns_match_the_whole_name(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool match;
    } rows[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "a.b/c", true},
        {"a*", "b", false},
        {"*.weight", "h.0.weight", true},
        {"*.weight", "weight", false},
        {"model.layers.*.mlp.*", "model.layers.3.mlp.up.weight", true},
        {"a?c", "abc", true},
        {"a?c", "ac", false},
        {"?", "", false},
        {"[ab]c", "bc", true},
        {"[ab]c", "cc", false},
        {"[a-c]", "b", true},
        {"[!a-c]", "b", false},
        {"[^a-c]", "d", true},
        {"[]a]", "]", true},
        {"[a-]", "-", true},
        {"[ab", "[ab", true},
        {"[ab", "a", false},
        {"\\*", "*", true},
        {"\\*", "a", false},
        {"a\\", "a\\", true},
        {"*[0-9].w", "l.x.w", false},
        {"*[0-9].w", "l7.w", true},
        {"**a**b", "xaxb", true},
        {"*ab", "aab", true},
        {"a*b*c", "abcbd", false},
        {"[\xc3]", "\xc3", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (pare__glob(rows[i].pattern, rows[i].name) != rows[i].match)
            fail_msg("'%s' and '%s'", rows[i].pattern, rows[i].name);
}

static void a_hostile_pattern_takes_no_more_than_the_product_of_the_lengths(void **state)
{
    (void)state;
    char pattern[401], name[4001];
    for (size_t i = 0; i < 400; i++)
        pattern[i] = i % 2 ? 'a' : '*';
    strcpy(pattern + 399, "b");
    memset(name, 'a', 4000);
    name[4000] = '\0';
    assert_false(pare__glob(pattern, name));
}

static void the_nearest_word_is_near(void **state)
{
    (void)state;
    static const char *const words[] = {"magnitude", "wanda", "sparsegpt", "rtn", "gptq", NULL};
    assert_string_equal(pare__nearest("magnitud", words), "magnitude");
    assert_string_equal(pare__nearest("magintude", words), "magnitude");
    assert_string_equal(pare__nearest("gtpq", (const char *const[]){"gpt", "gptq", "gtp", NULL}),
                        "gtp");
    assert_string_equal(pare__nearest("rtm", words), "rtn");
    assert_string_equal(pare__nearest("prun", (const char *const[]){"run", "prune", NULL}),
                        "prune"); /* both are one edit away; the beginning decides */
    assert_string_equal(pare__nearest("gptq", words), "gptq");
    assert_null(pare__nearest("entirely", words));
    assert_null(pare__nearest("gtpq", words)); /* two edits in four letters */
    assert_null(pare__nearest("x", (const char *const[]){NULL}));
    char longer[1000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_null(pare__nearest(longer, words));
    assert_null(pare__nearest("a", (const char *const[]){longer, NULL}));
}

static void a_digest_is_32_digits_high_half_first(void **state)
{
    (void)state;
    char text[33];
    pare__hex128((const uint64_t[]){0x0123456789abcdef, 0xf}, text);
    assert_string_equal(text, "0123456789abcdef000000000000000f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_join_and_an_empty_text_is_an_empty_string),
        cmocka_unit_test(a_failed_append_stays_failed_until_take),
        cmocka_unit_test(whole_numbers_are_read_whole),
        cmocka_unit_test(numbers_are_read_whole_whatever_the_locale),
        cmocka_unit_test(sizes_are_powers_of_1024),
        cmocka_unit_test(sizes_and_times_read_well),
        cmocka_unit_test(patterns_match_the_whole_name),
        cmocka_unit_test(a_hostile_pattern_takes_no_more_than_the_product_of_the_lengths),
        cmocka_unit_test(the_nearest_word_is_near),
        cmocka_unit_test(a_digest_is_32_digits_high_half_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
