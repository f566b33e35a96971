/* The vectorised functions of cpu_math.h against libm in double, over all of their range. */
#include "test.h"

#include "cpu/cpu_math.h"

/* The largest error seen: in units of the last place of the true value's float, and absolute. */
typedef struct errors {
    double ulp, absolute;
    float at;
} errors;

typedef struct function {
    cpu_v (*vector)(cpu_v x);
    double (*truth)(double x);
} function;

static cpu_v normal_vector(cpu_v x)
{
    cpu_v density;
    return cpu_vnormal(x, &density);
}

static cpu_v density_vector(cpu_v x)
{
    cpu_v density;
    cpu_vnormal(x, &density);
    return density;
}

static cpu_v exp_vector(cpu_v x)
{
    return cpu_vexp(x);
}

static cpu_v sigmoid_vector(cpu_v x)
{
    return cpu_vsigmoid(x);
}

static cpu_v sigmoid_slope_vector(cpu_v x)
{
    return cpu_vsigmoid_slope(x);
}

static cpu_v tanh_vector(cpu_v x)
{
    return cpu_vtanh(x);
}

static cpu_v log_vector(cpu_v x)
{
    return cpu_vlog(x);
}

static cpu_v log1p_vector(cpu_v x)
{
    return cpu_vlog1p(x);
}

static double normal_truth(double x)
{
    return 0.5 * erfc(-x * 0.70710678118654752440);
}

static double density_truth(double x)
{
    return exp(-0.5 * x * x) * 0.39894228040143267794;
}

static double sigmoid_truth(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double sigmoid_slope_truth(double x)
{
    double e = exp(-fabs(x));
    return e / ((1.0 + e) * (1.0 + e));
}

static const function fn_exp = {exp_vector, exp}, fn_tanh = {tanh_vector, tanh},
                      fn_log = {log_vector, log}, fn_log1p = {log1p_vector, log1p},
                      fn_normal = {normal_vector, normal_truth},
                      fn_density = {density_vector, density_truth},
                      fn_sigmoid = {sigmoid_vector, sigmoid_truth},
                      fn_slope = {sigmoid_slope_vector, sigmoid_slope_truth};

/* The function at count floats, evenly spaced by their bits from `from` to `to` (of one sign). */
static errors sweep(const function *f, float from, float to)
{
    enum { COUNT = 1 << 20 };
    errors worst = {0, 0, 0};
    double first = pare__f32_bits(from), step = ((double)pare__f32_bits(to) - first) / COUNT;
    for (int i = 0; i < COUNT; i += CPU_V) {
        float x[CPU_V], y[CPU_V];
        for (int l = 0; l < CPU_V; l++)
            x[l] = pare__bits_f32((uint32_t)(first + step * (i + l)));
        cpu_vstore(y, PARE_F32, 0, f->vector(cpu_vload(x, PARE_F32, 0)));
        for (int l = 0; l < CPU_V; l++) {
            double truth = f->truth((double)x[l]), error = fabs((double)y[l] - truth);
            int exponent = -126;
            if (fabs(truth) >= 0x1p-126)
                frexp(truth, &exponent);
            double ulp = error / ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
            if (!(ulp <= worst.ulp)) {
                worst.ulp = ulp;
                worst.at = x[l];
            }
            if (!(error <= worst.absolute))
                worst.absolute = error;
        }
    }
    return worst;
}

static void expect_ulp(const function *f, float from, float to, double most)
{
    errors e = sweep(f, from, to);
    if (!(e.ulp <= most))
        fail_msg("from %g to %g: %.3g ulp off at %.9g, more than %g", (double)from, (double)to,
                 e.ulp, (double)e.at, most);
}

static void expect_absolute(const function *f, float from, float to, double most)
{
    errors e = sweep(f, from, to);
    if (!(e.absolute <= most))
        fail_msg("from %g to %g: %.3g off (%.3g ulp at %.9g), more than %g", (double)from,
                 (double)to, e.absolute, e.ulp, (double)e.at, most);
}

/* One value in all lanes. */
static float at(const function *f, float x)
{
    float y[CPU_V];
    cpu_vstore(y, PARE_F32, 0, f->vector(cpu_splat(x)));
    for (int l = 1; l < CPU_V; l++)
        assert_memory_equal(&y[l], &y[0], sizeof y[0]);
    return y[0];
}

static void the_exponential_is_good_to_two_ulp_of_every_normal_result(void **state)
{
    (void)state;
    expect_ulp(&fn_exp, 1e-45f, 88.37f, 2);
    expect_ulp(&fn_exp, -1e-45f, -87.33f, 2);
    assert_true(at(&fn_exp, 0.0f) == 1.0f && at(&fn_exp, -88.0f) == 0.0f);
    assert_true(at(&fn_exp, -INFINITY) == 0.0f && at(&fn_exp, -3e38f) == 0.0f);
    assert_true(isinf(at(&fn_exp, INFINITY)) && isinf(at(&fn_exp, 88.4f)));
    assert_true(isinf(at(&fn_exp, 3e38f)) && isnan(at(&fn_exp, NAN)));
}

static void the_sigmoid_and_its_slope_are_good_to_a_few_ulp(void **state)
{
    (void)state;
    expect_ulp(&fn_sigmoid, 1e-45f, 3e38f, 3);
    expect_ulp(&fn_sigmoid, -1e-45f, -87.0f, 3);
    expect_absolute(&fn_sigmoid, -87.0f, -3e38f, 1e-37);
    expect_ulp(&fn_slope, 1e-45f, 85.0f, 4);
    expect_ulp(&fn_slope, -1e-45f, -85.0f, 4);
    expect_absolute(&fn_slope, 85.0f, 3e38f, 1e-36);
    assert_true(at(&fn_sigmoid, INFINITY) == 1.0f && at(&fn_sigmoid, -INFINITY) == 0.0f);
    assert_true(at(&fn_slope, INFINITY) == 0.0f && at(&fn_slope, -INFINITY) == 0.0f);
    assert_true(isnan(at(&fn_sigmoid, NAN)) && isnan(at(&fn_slope, NAN)));
}

static void the_hyperbolic_tangent_is_good_to_four_ulp(void **state)
{
    (void)state;
    expect_ulp(&fn_tanh, 1e-45f, 3e38f, 4);
    expect_ulp(&fn_tanh, -1e-45f, -3e38f, 4);
    assert_true(at(&fn_tanh, INFINITY) == 1.0f && at(&fn_tanh, -INFINITY) == -1.0f);
    assert_true(at(&fn_tanh, 0.0f) == 0.0f && isnan(at(&fn_tanh, NAN)));
}

static void the_logarithm_is_good_to_two_ulp_of_every_positive_number(void **state)
{
    (void)state;
    expect_ulp(&fn_log, 1e-45f, 0x1p-126f, 2);
    expect_ulp(&fn_log, 0x1p-126f, 0.5f, 2);
    expect_ulp(&fn_log, 0.5f, 2.0f, 2);
    expect_ulp(&fn_log, 2.0f, 3.4e38f, 2);
    assert_true(at(&fn_log, 1.0f) == 0.0f && isinf(at(&fn_log, INFINITY)));
    assert_true(at(&fn_log, 0.0f) == -INFINITY && at(&fn_log, -0.0f) == -INFINITY);
    assert_true(isnan(at(&fn_log, -1.0f)) && isnan(at(&fn_log, -INFINITY)));
    assert_true(isnan(at(&fn_log, -1e-42f)) && isnan(at(&fn_log, NAN)));
}

static void the_logarithm_next_to_one_is_good_to_two_ulp(void **state)
{
    (void)state;
    expect_ulp(&fn_log1p, 1e-45f, 0x1p-20f, 2);
    expect_ulp(&fn_log1p, 0x1p-20f, 1.0f, 2);
    assert_true(at(&fn_log1p, 0.0f) == 0.0f && isnan(at(&fn_log1p, NAN)));
}

static void the_normal_distribution_keeps_its_lower_tail(void **state)
{
    (void)state;
    expect_absolute(&fn_normal, 1e-45f, 3e38f, 1e-7);
    expect_absolute(&fn_normal, -1e-45f, -3e38f, 1e-7);
    expect_ulp(&fn_normal, -1e-45f, -1.0f, 8);
    expect_ulp(&fn_normal, -1.0f, -6.0f, 120); /* 10^-5 of itself */
    expect_absolute(&fn_density, 1e-45f, 3e38f, 1e-7);
    expect_absolute(&fn_density, -1e-45f, -3e38f, 1e-7);
    assert_true(at(&fn_normal, INFINITY) == 1.0f && at(&fn_normal, -INFINITY) == 0.0f);
    assert_true(at(&fn_density, -INFINITY) == 0.0f && at(&fn_density, INFINITY) == 0.0f);
    assert_true(isnan(at(&fn_normal, NAN)) && isnan(at(&fn_density, NAN)));
}

static void conversions_round_as_one_number_at_a_time_does(void **state)
{
    (void)state;
    for (uint32_t high = 0; high < 65536; high++) {
        float x[CPU_V];
        uint16_t h[CPU_V];
        for (uint32_t l = 0; l < CPU_V; l++)
            x[l] = pare__bits_f32(high << 16 | (0x7ff8u + l));
        cpu_vstore(h, PARE_BF16, 0, cpu_vload(x, PARE_F32, 0));
        for (int l = 0; l < CPU_V; l++)
            assert_int_equal(h[l], pare__f32_to_bf16(x[l]));
        cpu_vstore(x, PARE_F32, 0, cpu_vload(h, PARE_BF16, 0));
        for (int l = 0; l < CPU_V; l++)
            assert_int_equal(pare__f32_bits(x[l]), (uint32_t)h[l] << 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_exponential_is_good_to_two_ulp_of_every_normal_result),
        cmocka_unit_test(the_sigmoid_and_its_slope_are_good_to_a_few_ulp),
        cmocka_unit_test(the_hyperbolic_tangent_is_good_to_four_ulp),
        cmocka_unit_test(the_logarithm_is_good_to_two_ulp_of_every_positive_number),
        cmocka_unit_test(the_logarithm_next_to_one_is_good_to_two_ulp),
        cmocka_unit_test(the_normal_distribution_keeps_its_lower_tail),
        cmocka_unit_test(conversions_round_as_one_number_at_a_time_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
