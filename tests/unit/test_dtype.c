#include "test.h"

#include "pare/dtype.h"

static void every_name_parses_back(void **state)
{
    (void)state;
    for (int i = 0; i < PARE_DTYPES; i++) {
        pare_dtype got = PARE_DTYPES;
        const char *name = pare_dtype_name((pare_dtype)i);
        assert_string_not_equal(name, "?");
        assert_true(pare_dtype_parse(name, &got));
        assert_int_equal(got, i);
    }
}

static void names_are_those_of_safetensors(void **state)
{
    (void)state;
    assert_string_equal(pare_dtype_name(PARE_BF16), "BF16");
    assert_string_equal(pare_dtype_name(PARE_F8_E5M2FNUZ), "F8_E5M2FNUZ");
    assert_string_equal(pare_dtype_name(PARE_F6_E3M2), "F6_E3M2");
    assert_string_equal(pare_dtype_name(PARE_BOOL), "BOOL");
    assert_string_equal(pare_dtype_name(PARE_DTYPES), "?");
    assert_string_equal(pare_dtype_name((pare_dtype)-1), "?");
}

static void other_names_do_not_parse(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "f32", "F32 ", "FLOAT", "F8", "BF", "?"};
    pare_dtype got = PARE_F16;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(pare_dtype_parse(wrong[i], &got));
    assert_false(pare_dtype_parse(NULL, &got));
    assert_int_equal(got, PARE_F16);
}

static void widths_are_4_6_8_16_32_or_64_bits(void **state)
{
    (void)state;
    assert_int_equal(pare_dtype_bits(PARE_F4), 4);
    assert_int_equal(pare_dtype_bits(PARE_F6_E2M3), 6);
    assert_int_equal(pare_dtype_bits(PARE_F8_E8M0), 8);
    assert_int_equal(pare_dtype_bits(PARE_BOOL), 8);
    assert_int_equal(pare_dtype_bits(PARE_I16), 16);
    assert_int_equal(pare_dtype_bits(PARE_U32), 32);
    assert_int_equal(pare_dtype_bits(PARE_C64), 64);
    assert_int_equal(pare_dtype_bits(PARE_F64), 64);
}

static void weights_are_f32_f16_and_bf16(void **state)
{
    (void)state;
    int weights = 0;
    for (int i = 0; i < PARE_DTYPES; i++)
        weights += pare_dtype_is_weight((pare_dtype)i);
    assert_int_equal(weights, 3);
    assert_true(pare_dtype_is_weight(PARE_F32));
    assert_true(pare_dtype_is_weight(PARE_F16));
    assert_true(pare_dtype_is_weight(PARE_BF16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_parses_back),
        cmocka_unit_test(names_are_those_of_safetensors),
        cmocka_unit_test(other_names_do_not_parse),
        cmocka_unit_test(widths_are_4_6_8_16_32_or_64_bits),
        cmocka_unit_test(weights_are_f32_f16_and_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
