#include "test.h"

#include "pare/qtensor.h"

#include <stdbool.h>

static pare_scheme parsed(const char *text)
{
    pare_scheme scheme;
    assert_ok(pare_scheme_parse(text, &scheme));
    return scheme;
}

static void the_spelling_of_a_scheme_is_canonical(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"w8", "w8"},
        {"w8c", "w8"},
        {"w2t", "w2t"},
        {"w4g128", "w4g128"},
        {"w4g128z", "w4g128z"},
        {"w3b16x32", "w3b16x32"},
        {"w8a8", "w8a8"},
        {"w8a8d", "w8a8"},
        {"w8ta8s", "w8ta8s"},
        {"w5za8d", "w5za8"},
        {"w4g64za8s", "w4g64za8s"},
        {"fp8", "fp8"},
        {"fp8c", "fp8"},
        {"fp8t", "fp8t"},
        {"fp8ta8s", "fp8ta8s"},
        {"fp8a8", "fp8a8"},
        {"nf4", "nf4"},
        {"nf4d", "nf4d"},
        {"w7b1048576x1048576za8s", "w7b1048576x1048576za8s"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char text[32];
        pare_scheme scheme = parsed(pairs[i][0]);
        assert_string_equal(pare_scheme_text(&scheme, text, sizeof text), pairs[i][1]);
        pare_scheme again = parsed(text);
        assert_memory_equal(&again, &scheme, sizeof scheme);
    }
    char text[32];
    assert_string_equal(pare_scheme_text(&(pare_scheme){0}, text, sizeof text), "none");
}

static void each_part_of_a_scheme_is_understood(void **state)
{
    (void)state;
    pare_scheme s = parsed("w4g128za8s");
    assert_int_equal(s.type, PARE_QUANT_INT);
    assert_int_equal(s.bits, 4);
    assert_true(s.asymmetric);
    assert_int_equal(s.granularity, PARE_PER_GROUP);
    assert_true(s.block_rows == 1 && s.block_cols == 128);
    assert_int_equal(s.activation, PARE_ACT_STATIC);
    s = parsed("w4b16x32");
    assert_int_equal(s.granularity, PARE_PER_BLOCK);
    assert_true(s.block_rows == 16 && s.block_cols == 32);
    s = parsed("fp8t");
    assert_int_equal(s.type, PARE_QUANT_E4M3);
    assert_int_equal(s.bits, 8);
    assert_int_equal(s.granularity, PARE_PER_TENSOR);
    s = parsed("nf4d");
    assert_int_equal(s.type, PARE_QUANT_NF4);
    assert_int_equal(s.bits, 4);
    assert_int_equal(s.block_cols, 64);
    assert_true(s.double_quant);
}

static void other_texts_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",         "w",          "w1",
        "w9",       "w10",        "W4",
        "w4g",      "w4g0",       "w4g-1",
        "w4g01",    "w4gx",       "w4b4",
        "w4b4x",    "w4b0x4",     "w4bx4",
        "w4tz8",    "w4zz",       "w4a",
        "w4a4",     "w4a8x",      "w4tc",
        "fp8g4",    "fp8z",       "fp",
        "fp16",     "nf4g64",     "nf4dd",
        "nf8",      "int8",       "w4 ",
        " w4",      "w4g1048577", "w4g99999999999999999999",
        "w4g128zz",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        pare_scheme scheme = {.type = PARE_QUANT_INT};
        assert_status(pare_scheme_parse(wrong[i], &scheme), PARE_ERR_ARGUMENT);
        assert_int_equal(scheme.type, PARE_QUANT_NONE);
        assert_non_null(strstr(pare_last_error(), "expected w<2..8>"));
    }
    assert_status(pare_scheme_parse(NULL, &(pare_scheme){0}), PARE_ERR_ARGUMENT);
}

static void a_near_miss_names_what_was_meant(void **state)
{
    (void)state;
    pare_scheme scheme;
    assert_status(pare_scheme_parse("w4g128x", &scheme), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "did you mean w4g128"));
}

static void a_later_scheme_is_not_in_this_version(void **state)
{
    (void)state;
    static const char *const later[] = {"mxfp4", "nvfp4", "q4_0", "q8_0", "q4_k", "Q4_K"};
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        pare_scheme scheme;
        assert_status(pare_scheme_parse(later[i], &scheme), PARE_ERR_ARGUMENT);
        assert_non_null(strstr(pare_last_error(), "not in this version"));
    }
}

static void assert_blocks(const char *text, int64_t rows, int64_t cols, pare_blocks want)
{
    pare_scheme scheme = parsed(text);
    pare_blocks got = pare_scheme_blocks(&scheme, rows, cols);
    assert_int_equal(got.block_rows, want.block_rows);
    assert_int_equal(got.block_cols, want.block_cols);
    assert_int_equal(got.down, want.down);
    assert_int_equal(got.across, want.across);
}

static void blocks_cover_the_matrix(void **state)
{
    (void)state;
    assert_blocks("w8", 6, 100, (pare_blocks){1, 100, 6, 1});
    assert_blocks("w8t", 6, 100, (pare_blocks){6, 100, 1, 1});
    assert_blocks("w4g32", 6, 100, (pare_blocks){1, 32, 6, 4});
    assert_blocks("w4g32", 6, 96, (pare_blocks){1, 32, 6, 3});
    assert_blocks("w4b4x16", 6, 100, (pare_blocks){4, 16, 2, 7});
    assert_blocks("nf4", 2, 65, (pare_blocks){1, 64, 2, 2});
    assert_blocks("w4g128", 1, 1, (pare_blocks){1, 128, 1, 1});
}

static void an_empty_matrix_has_no_blocks(void **state)
{
    (void)state;
    static const char *const texts[] = {"w8", "w8t", "w4g32", "w4b4x16", "nf4"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        for (int empty = 0; empty < 3; empty++) {
            pare_scheme scheme = parsed(texts[i]);
            pare_blocks b = pare_scheme_blocks(&scheme, empty == 0 ? 4 : 0, empty == 1 ? 4 : 0);
            assert_true(b.block_rows >= 1 && b.block_cols >= 1);
            assert_true(b.down == 0 && b.across == 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_spelling_of_a_scheme_is_canonical),
        cmocka_unit_test(each_part_of_a_scheme_is_understood),
        cmocka_unit_test(other_texts_are_refused),
        cmocka_unit_test(a_near_miss_names_what_was_meant),
        cmocka_unit_test(a_later_scheme_is_not_in_this_version),
        cmocka_unit_test(blocks_cover_the_matrix),
        cmocka_unit_test(an_empty_matrix_has_no_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
