/* half.h against the definition of each format: all codes, and all boundaries between codes. */
#include "test.h"

#include "base/half.h"

#include <math.h>
#include <stdbool.h>

/* ---- decoding by the definition -------------------------------------------------------------- */

/* sign, exponent, fraction: (-1)^s · 2^(e - bias) · (1 + f/2^digits), or without the 1 at e = 0. */
static double defined(unsigned code, int digits, int bias)
{
    unsigned exponent = code >> digits, fraction = code & ((1u << digits) - 1);
    double f = ldexp((double)fraction, -digits);
    return exponent == 0 ? ldexp(f, 1 - bias) : ldexp(1.0 + f, (int)exponent - bias);
}

static void every_f16_decodes_to_its_definition(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        unsigned body = h & 0x7fffu;
        float x = pare__f16_to_f32((uint16_t)h);
        assert_int_equal(signbit(x) != 0, h >> 15);
        if (body > 0x7c00u)
            assert_true(isnan(x) && (pare__f32_bits(x) & 0x400000u));
        else if (body == 0x7c00u)
            assert_true(isinf(x));
        else
            assert_true(fabs((double)x) == defined(body, 10, 15));
    }
}

static void every_bf16_decodes_to_its_definition(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        unsigned body = h & 0x7fffu;
        float x = pare__bf16_to_f32((uint16_t)h);
        assert_int_equal(signbit(x) != 0, h >> 15);
        if (body > 0x7f80u)
            assert_true(isnan(x));
        else if (body == 0x7f80u)
            assert_true(isinf(x));
        else
            assert_true(fabs((double)x) == defined(body, 7, 127));
    }
}

static void every_e4m3_decodes_to_its_definition(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        float x = pare__e4m3_to_f32((uint8_t)b);
        assert_int_equal(signbit(x) != 0, b >> 7);
        if ((b & 0x7fu) == 0x7fu)
            assert_true(isnan(x));
        else
            assert_true(fabs((double)x) == defined(b & 0x7fu, 3, 7));
    }
}

/* ---- encoding by search ---------------------------------------------------------------------- */

typedef struct format {
    int digits, bias;
    unsigned last; /* greatest finite code */
    bool saturates;
    unsigned (*encode)(float x);
} format;

static unsigned encode_f16(float x)
{
    return pare__f32_to_f16(x);
}

static unsigned encode_bf16(float x)
{
    return pare__f32_to_bf16(x);
}

static unsigned encode_e4m3(float x)
{
    return pare__f32_to_e4m3(x);
}

static const format f16 = {10, 15, 0x7bff, false, encode_f16};
static const format bf16 = {7, 127, 0x7f7f, false, encode_bf16};
static const format e4m3 = {3, 7, 0x7e, true, encode_e4m3};

/* The code nearest to x ≥ 0, found by bisection; on a tie the even one. Behind the last code the
 * next step counts as a code too (infinity), or everything is the last. */
static unsigned nearest(const format *f, double x)
{
    unsigned low = 0, high = f->last + 1;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (defined(middle, f->digits, f->bias) <= x)
            low = middle;
        else
            high = middle;
    }
    if (low == f->last && f->saturates)
        return low;
    double down = x - defined(low, f->digits, f->bias), up = defined(high, f->digits, f->bias) - x;
    return down < up || (down == up && low % 2 == 0) ? low : high;
}

static void check_both_signs(const format *f, float x)
{
    unsigned sign = f == &e4m3 ? 0x80u : 0x8000u, want = nearest(f, (double)x);
    if (f->encode(x) != want)
        fail_msg("%a encodes as %#x, not %#x", (double)x, f->encode(x), want);
    assert_int_equal(f->encode(-x), want | sign);
}

/* Every code, every middle between two codes, one float to either side of both, and random floats.
 */
static void check_format(const format *f)
{
    for (unsigned c = 0; c <= f->last; c++) {
        double a = defined(c, f->digits, f->bias), b = defined(c + 1, f->digits, f->bias);
        float at[2] = {(float)a, (float)((a + b) / 2)};
        for (int i = 0; i < 2 && !isinf(at[i]); i++) {
            check_both_signs(f, at[i]);
            check_both_signs(f, nextafterf(at[i], INFINITY));
            if (at[i] > 0)
                check_both_signs(f, nextafterf(at[i], 0));
        }
    }
    uint64_t z = 1;
    for (int i = 0; i < 1000000; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        uint32_t u = (uint32_t)(z >> 33);
        if (u < 0x7f7f8000u)
            check_both_signs(f, pare__bits_f32(u));
    }
}

static void f32_to_f16_is_the_nearest_even(void **state)
{
    (void)state;
    check_format(&f16);
    assert_int_equal(pare__f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(pare__f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(pare__f32_to_f16(65519.996f), 0x7bff);
}

static void f32_to_bf16_is_the_nearest_even(void **state)
{
    (void)state;
    check_format(&bf16);
    assert_int_equal(pare__f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(pare__f32_to_bf16(pare__bits_f32(0x7f7fffffu)), 0x7f80);
}

static void f32_to_e4m3_is_the_nearest_even_and_saturates(void **state)
{
    (void)state;
    check_format(&e4m3);
    assert_int_equal(pare__f32_to_e4m3(INFINITY), 0x7e);
    assert_int_equal(pare__f32_to_e4m3(-1e30f), 0xfe);
}

static void nan_stays_a_quiet_nan_with_its_sign(void **state)
{
    (void)state;
    for (uint32_t low = 1; low < 0x800000u; low = low * 3 + 1)
        for (uint32_t sign = 0; sign < 2; sign++) {
            float x = pare__bits_f32(sign << 31 | 0x7f800000u | low);
            uint16_t h = pare__f32_to_f16(x), b = pare__f32_to_bf16(x);
            assert_int_equal(h & 0x7e00u, 0x7e00u);
            assert_int_equal(b & 0x7fc0u, 0x7fc0u);
            assert_true(h >> 15 == sign && b >> 15 == sign);
            assert_int_equal(pare__f32_to_e4m3(x), 0x7fu | sign << 7);
        }
}

static void what_is_exact_comes_back(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        if ((h & 0x7fffu) <= 0x7c00u)
            assert_int_equal(pare__f32_to_f16(pare__f16_to_f32((uint16_t)h)), h);
        if ((h & 0x7fffu) <= 0x7f80u)
            assert_int_equal(pare__f32_to_bf16(pare__bf16_to_f32((uint16_t)h)), h);
    }
    for (unsigned b = 0; b < 256; b++)
        assert_int_equal(pare__f32_to_e4m3(pare__e4m3_to_f32((uint8_t)b)), b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_decodes_to_its_definition),
        cmocka_unit_test(every_bf16_decodes_to_its_definition),
        cmocka_unit_test(every_e4m3_decodes_to_its_definition),
        cmocka_unit_test(f32_to_f16_is_the_nearest_even),
        cmocka_unit_test(f32_to_bf16_is_the_nearest_even),
        cmocka_unit_test(f32_to_e4m3_is_the_nearest_even_and_saturates),
        cmocka_unit_test(nan_stays_a_quiet_nan_with_its_sign),
        cmocka_unit_test(what_is_exact_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
