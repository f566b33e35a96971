/* test_json.c - JSON read, looked at, built and written; hostile text; every allocation failing
 * once. */
#include "test.h"

#include "base/json.h"
#include "base/text.h"

#include <errno.h>
#include <math.h>

/* The allocator, in front of the C library's; a sanitizer wants that place for itself. Volatile,
 * because a compiler knows malloc and free, and that they change no variable of ours. */
static volatile long allocations_left = -1; /* before one fails; -1: none does */
static volatile long alive;

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void __libc_free(void *memory);

static int refused(void)
{
    if (allocations_left < 0 || allocations_left-- > 0)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    void *made = refused() ? NULL : __libc_malloc(size);
    alive += made != NULL;
    return made;
}

void *calloc(size_t count, size_t size)
{
    void *made = refused() ? NULL : __libc_calloc(count, size);
    alive += made != NULL;
    return made;
}

void *realloc(void *memory, size_t size)
{
    void *made = refused() ? NULL : __libc_realloc(memory, size);
    alive += memory == NULL && made != NULL;
    return made;
}

void free(void *memory)
{
    alive -= memory != NULL;
    __libc_free(memory);
}
#endif

static pare_status parse(const char *text, pare__json **root)
{
    return pare__json_parse(text, strlen(text), "t.json", root);
}

static void dumps(const pare__json *node, int indent, bool sorted, const char *want)
{
    char *text;
    assert_ok(pare__json_dump(node, indent, sorted, &text));
    assert_string_equal(text, want);
    free(text);
}

static void round_trip(const char *text, const char *want)
{
    pare__json *root;
    assert_ok(parse(text, &root));
    dumps(root, 0, false, want);
    pare__json_free(&root);
    assert_null(root);
}

static void values_are_found_by_key_and_index(void **state)
{
    (void)state;
    pare__json *root;
    assert_ok(
        parse(" {\"a\": [1, -2.5, true, null, \"x\\u00e9\"], \"b\": {\"c\": 9223372036854775807}} ",
              &root));
    const pare__json *a = pare__json_get(root, "a");
    int64_t integer = 0;
    double real = 0;
    bool truth = false;
    assert_true(pare__json_is_object(root) && !pare__json_is_array(root));
    assert_true(pare__json_is_array(a) && pare__json_size(a) == 5 && pare__json_size(root) == 2);
    assert_true(pare__json_int(pare__json_at(a, 0), &integer) && integer == 1);
    assert_true(pare__json_real(pare__json_at(a, 0), &real) && real == 1);
    assert_false(pare__json_int(pare__json_at(a, 1), &integer));
    assert_true(pare__json_real(pare__json_at(a, 1), &real) && real == -2.5);
    assert_true(pare__json_bool(pare__json_at(a, 2), &truth) && truth);
    assert_false(pare__json_int(pare__json_at(a, 2), &integer));
    assert_true(pare__json_is_null(pare__json_at(a, 3)));
    assert_string_equal(pare__json_string(pare__json_at(a, 4)), "x\xc3\xa9");
    assert_null(pare__json_at(a, 5));
    assert_true(pare__json_int(pare__json_get(pare__json_get(root, "b"), "c"), &integer));
    assert_int_equal(integer, INT64_MAX);
    pare__json_free(&root);
}

static void look_ups_chain_through_what_is_not_there(void **state)
{
    (void)state;
    pare__json *root;
    int64_t integer;
    double real;
    bool truth;
    size_t at = 0;
    const char *key;
    const pare__json *value;
    assert_ok(parse("[1]", &root));
    const pare__json *none = pare__json_at(pare__json_get(pare__json_get(root, "a"), "b"), 3);
    assert_null(none);
    assert_true(pare__json_is_null(none));
    assert_false(pare__json_is_object(none) || pare__json_is_array(none));
    assert_int_equal(pare__json_size(none), 0);
    assert_null(pare__json_string(none));
    assert_false(pare__json_int(none, &integer) || pare__json_real(none, &real) ||
                 pare__json_bool(none, &truth));
    assert_false(pare__json_next(none, &at, &key, &value));
    assert_false(pare__json_next(root, &at, &key, &value));
    assert_null(pare__json_string(root));
    pare__json_free(&root);
    pare__json_free(&root);
}

static void members_come_in_the_order_of_the_text(void **state)
{
    (void)state;
    pare__text text = {0};
    for (int i = 0; i < 1000; i++)
        pare__text_add(&text, "%s\"k%d\":%d", i ? "," : "{", (i * 7919) % 1000, i);
    pare__text_add(&text, "}");
    pare__json *root;
    assert_ok(pare__json_parse(text.data, text.length, "order", &root));
    size_t at = 0;
    const char *key;
    const pare__json *value;
    int64_t i = 0, got;
    char want[16];
    for (; pare__json_next(root, &at, &key, &value); i++) {
        snprintf(want, sizeof want, "k%d", (int)(i * 7919) % 1000);
        assert_string_equal(key, want);
        assert_true(pare__json_int(value, &got) && got == i);
    }
    assert_int_equal(i, 1000);
    assert_false(pare__json_next(root, &at, &key, &value));
    dumps(root, 0, false, text.data);
    pare__json_free(&root);
    pare__text_free(&text);
    assert_ok(parse("{}", &root));
    at = 0;
    assert_false(pare__json_next(root, &at, &key, &value));
    pare__json_free(&root);
}

static const char *const hostile[] = {
    "",
    " ",
    "{",
    "[1,",
    "[1,]",
    "{\"a\":1,}",
    "{\"a\" 1}",
    "{a:1}",
    "nul",
    "tru",
    "+1",
    "01",
    "1.",
    ".5",
    "1e",
    "-",
    "0x1",
    "NaN",
    "Infinity",
    "-Infinity",
    "'a'",
    "\"a",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\xff\"",
    "\"\xc0\x80\"",
    "\"\xed\xa0\x80\"",
    "\"a\nb\"",
    "{}{}",
    "1 2",
    "[] x",
    "]",
    "{\"a\":1,\"a\":2}",
    "{\"a\":1,\"\\u0061\":2}",
    "9223372036854775808",
    "-9223372036854775809",
    "1e400",
    "\"\\u0000\"",
    "{\"\\u0000\":1}",
    "\xef\xbb\xbf{}",
    "// x\n{}",
    "[1]]",
};

static void hostile_text_is_damaged_with_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        pare__json *root = (pare__json *)state;
        pare_status status = parse(hostile[i], &root);
        if (status != PARE_ERR_DAMAGED || root != NULL ||
            strncmp(pare_last_error(), "t.json:", 7) != 0)
            fail_msg("%s: %s: %s", hostile[i], pare_status_name(status), pare_last_error());
    }
    pare__json *root;
    assert_status(pare__json_parse("[1]\0", 4, "nul", &root), PARE_ERR_DAMAGED);
    assert_status(pare__json_parse("\"a\0b\"", 5, "nul", &root), PARE_ERR_DAMAGED);
    assert_status(pare__json_parse(NULL, 0, "none", &root), PARE_ERR_DAMAGED);
    assert_status(parse("{\n \"a\": 1,\n \"a\": 2}", &root), PARE_ERR_DAMAGED);
    assert_int_equal(strncmp(pare_last_error(), "t.json:3:", 9), 0);
}

static pare_status parse_nested(int depth, const char *open, const char *middle, const char *close)
{
    pare__text text = {0};
    pare__json *root;
    for (int i = 0; i < depth; i++)
        pare__text_add(&text, "%s", open);
    pare__text_add(&text, "%s", middle);
    for (int i = 0; i < depth; i++)
        pare__text_add(&text, "%s", close);
    pare_status status = pare__json_parse(text.data, text.length, "deep", &root);
    pare__json_free(&root);
    pare__text_free(&text);
    return status;
}

static void nesting_is_bounded_before_anything_recurses(void **state)
{
    (void)state;
    assert_ok(parse_nested(512, "[", "", "]"));
    assert_ok(parse_nested(512, "{\"a\":", "1", "}"));
    assert_status(parse_nested(513, "[", "", "]"), PARE_ERR_DAMAGED);
    assert_string_equal(pare_last_error(), "deep:1:513: more than 512 levels of nesting");
    assert_status(parse_nested(513, "{\"a\":", "1", "}"), PARE_ERR_DAMAGED);
    assert_status(parse_nested(10000000, "[", "", ""), PARE_ERR_DAMAGED);
    assert_ok(parse_nested(1, "[", "\"[[[[\\\"{{{{\"", "]")); /* brackets in strings do not count */
    pare__text text = {0};
    pare__json *root;
    pare__text_add(&text, "[\"");
    for (int i = 0; i < 2000; i++)
        pare__text_add(&text, "[{\\\"");
    pare__text_add(&text, "\"]");
    assert_ok(pare__json_parse(text.data, text.length, "string", &root));
    pare__json_free(&root);
    pare__text_free(&text);
}

static void every_beginning_of_a_text_is_damaged(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\\n\": [1, -2.5e3, \"\\ud83d\\ude00\", \"\xc3\xa9\"], \"b\": null}";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        char *exact = malloc(length > 0 ? length : 1); /* so that a read past the end is seen */
        memcpy(exact, text, length);
        pare__json *root;
        assert_status(pare__json_parse(exact, length, "cut", &root), PARE_ERR_DAMAGED);
        free(exact);
    }
    round_trip(text, "{\"a\\n\":[1,-2500.0,\"\xf0\x9f\x98\x80\",\"\xc3\xa9\"],\"b\":null}");
}

static void text_is_written_compact_indented_or_sorted(void **state)
{
    (void)state;
    pare__json *root;
    assert_ok(parse("{\"b\":[1,{}],\"a\":{\"z\":[],\"y\":false},\"\xc3\xa9\":1,\"B\":2}", &root));
    dumps(root, 0, false, "{\"b\":[1,{}],\"a\":{\"z\":[],\"y\":false},\"\xc3\xa9\":1,\"B\":2}");
    dumps(root, 0, true, "{\"B\":2,\"a\":{\"y\":false,\"z\":[]},\"b\":[1,{}],\"\xc3\xa9\":1}");
    dumps(pare__json_get(root, "b"), 2, false, "[\n  1,\n  {}\n]");
    dumps(pare__json_get(root, "a"), 2, true, "{\n  \"y\": false,\n  \"z\": []\n}");
    pare__json_free(&root);
    round_trip("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\"",
               "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\"");
}

static void reals_are_the_shortest_that_read_back(void **state)
{
    (void)state;
    static const char *const same[] = {"0.0",
                                       "-0.0",
                                       "1.0",
                                       "-1.5",
                                       "0.1",
                                       "0.02",
                                       "1e-05",
                                       "0.0001",
                                       "0.00012345",
                                       "100000.0",
                                       "1e+16",
                                       "1e+22",
                                       "1234567890123456.0",
                                       "123456789012345.6",
                                       "9999999999999998.0",
                                       "1.2345678901234568e+17",
                                       "3.14159",
                                       "5e-324",
                                       "2.2250738585072014e-308",
                                       "2.225073858507201e-308",
                                       "1.7976931348623157e+308",
                                       "1e-06",
                                       "1e+100",
                                       "5.684341886080802e-14",
                                       "9007199254740992.0",
                                       "9.5367431640625e-07",
                                       "0.30000000000000004",
                                       "1e+23",

                                       "4.35",
                                       "2.5e-05",
                                       "0.1000000014901161",
                                       "1.8446744073709552e+19"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        round_trip(same[i], same[i]);
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
        uint64_t kept =
            i % 4 == 0 ? bits & 0xfff0000000000000u : bits; /* every fourth a power of two */
        double x;
        memcpy(&x, &kept, 8);
        if (!isfinite(x))
            continue;
        pare__json *list = pare__json_new_array();
        char *text;
        pare__json_set_real(list, NULL, x);
        assert_ok(pare__json_dump(list, 0, false, &text));
        assert_true(strtod(text + 1, NULL) == x && signbit(strtod(text + 1, NULL)) == signbit(x));
        assert_true(strpbrk(text, ".e") != NULL);
        free(text);
        pare__json_free(&list);
    }
}

static void a_tree_is_built_in_order_and_changed(void **state)
{
    (void)state;
    pare__json *root = pare__json_new_object();
    pare__json *list = pare__json_set_array(root, "list");
    pare__json_set_int(list, NULL, INT64_MIN);
    pare__json_set_real(list, NULL, 1e-5);
    pare__json_set_real(list, NULL, (double)NAN);
    pare__json_set_real(list, NULL, -(double)INFINITY);
    pare__json_set_bool(list, NULL, true);
    pare__json_set_string(root, "name", "a\"b");
    pare__json_set_string(root, "none", NULL);
    pare__json_set_int(pare__json_set_object(root, "sub"), "x", 1);
    dumps(root, 0, false,
          "{\"list\":[-9223372036854775808,1e-05,null,null,true],\"name\":\"a\\\"b\",\"none\":null,"
          "\"sub\":{\"x\":1}}");
    pare__json *copy = pare__json_copy(root);
    pare__json_remove(root, "list");
    pare__json_remove(root, "not there");
    pare__json_set_int(root, "name", 2); /* a key keeps its place */
    dumps(root, 0, false, "{\"name\":2,\"none\":null,\"sub\":{\"x\":1}}");
    pare__json_set(root, "copy", copy);
    assert_int_equal(pare__json_size(pare__json_get(pare__json_get(root, "copy"), "list")), 5);
    assert_false(pare__json_failed(root));
    pare__json_free(&root);
}

static void a_name_that_is_no_utf8_is_mended(void **state)
{
    (void)state;
    pare__json *root = pare__json_new_object();
    pare__json_set_string(root, "k\xff", "a\xc3(\xed\xa0\x80\xf4\x90\x80\x80\xc3\xa9\xe2\x82");
    char *text;
    assert_ok(pare__json_dump(root, 0, false, &text));
#define R "\xef\xbf\xbd"
    assert_string_equal(text, "{\"k" R "\":\"a" R "(" R R R R R R R "\xc3\xa9" R R "\"}");
    pare__json *again;
    assert_ok(parse(text, &again));
    pare__json_free(&again);
    free(text);
    pare__json_free(&root);
}

static void a_builder_that_failed_stays_failed(void **state)
{
    (void)state;
    char *text = (char *)state;
    pare__json *root = pare__json_new_object();
    pare__json *sub = pare__json_set_object(root, "sub");
    assert_null(pare__json_set(sub, "lost", NULL));
    assert_null(pare__json_set_int(NULL, "x", 1)); /* and through a node that is not there */
    assert_null(pare__json_set_array(NULL, NULL));
    pare__json_set_int(root, "fine", 1);
    assert_true(pare__json_failed(root));
    assert_false(pare__json_failed(pare__json_get(root, "fine")));
    assert_status(pare__json_dump(root, 0, false, &text), PARE_ERR_MEMORY);
    assert_null(text);
    assert_null(pare__json_copy(root));
    pare__json_set(sub, "again", NULL);
    pare__json_set_int(root, "sub", 1); /* replacing what failed does not hide it */
    assert_status(pare__json_dump(root, 0, false, &text), PARE_ERR_MEMORY);
    pare__json *outer = pare__json_new_array();
    pare__json_set(outer, NULL, root);
    assert_true(pare__json_failed(outer));
    pare__json_free(&outer);
    root = pare__json_new_object();
    pare__json_set(pare__json_set_array(root, "a"), NULL, NULL);
    pare__json_remove(root, "a");
    assert_status(pare__json_dump(root, 0, false, &text), PARE_ERR_MEMORY);
    pare__json_free(&root);
    assert_status(pare__json_dump(NULL, 0, false, &text), PARE_ERR_MEMORY);
}

static const char small[] = "{\"a\":[1,2.5,{\"b\":\"text\"}],\"c\":null}";

static pare_status build_and_dump(char **text)
{
    pare__json *root;
    *text = NULL;
    pare_status status = parse(small, &root);
    if (status != PARE_OK)
        return status;
    pare__json *copy = pare__json_copy(root);
    pare__json *more = pare__json_set(root, "copy", copy);
    pare__json *list = pare__json_set_array(more, "list");
    for (int i = 0; i < 20; i++) {
        pare__json_set_string(list, NULL, "word");
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        pare__json_set_real(pare__json_set_object(root, key), "x", i);
    }
    status = pare__json_dump(root, 1, true, text);
    pare__json_free(&root);
    return status;
}

static void any_allocation_may_fail_and_nothing_is_lost(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    char *whole, *text;
    assert_ok(build_and_dump(&whole));
    long n = 0, before = alive;
    for (bool passed = false; !passed; n++) {
        allocations_left = n;
        pare_status status = build_and_dump(&text);
        passed = allocations_left >= 0;
        allocations_left = -1;
        if (status == PARE_OK)
            assert_string_equal(text, whole);
        else
            assert_int_equal(status, PARE_ERR_MEMORY);
        assert_true(status == PARE_OK || !passed);
        free(text);
        assert_int_equal(alive, before);
    }
    assert_true(n > 100);
    free(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_found_by_key_and_index),
        cmocka_unit_test(look_ups_chain_through_what_is_not_there),
        cmocka_unit_test(members_come_in_the_order_of_the_text),
        cmocka_unit_test(hostile_text_is_damaged_with_its_place),
        cmocka_unit_test(nesting_is_bounded_before_anything_recurses),
        cmocka_unit_test(every_beginning_of_a_text_is_damaged),
        cmocka_unit_test(text_is_written_compact_indented_or_sorted),
        cmocka_unit_test(reals_are_the_shortest_that_read_back),
        cmocka_unit_test(a_tree_is_built_in_order_and_changed),
        cmocka_unit_test(a_name_that_is_no_utf8_is_mended),
        cmocka_unit_test(a_builder_that_failed_stays_failed),
        cmocka_unit_test(any_allocation_may_fail_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
