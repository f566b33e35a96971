/* test_rng.c - random numbers by name: known values, ranges, moments, permutations. */
#include "test.h"

#include "base/rng.h"

#include <stdbool.h>

enum { DRAWS = 200000 };

static void the_finaliser_is_splitmix64(void **state)
{
    (void)state;
    /* the first outputs of splitmix64 seeded with 0 and with 1234567 */
    pare__rng zero = {0}, other = {1234567};
    assert_true(pare__rng_bits(&zero) == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(pare__rng_bits(&zero) == UINT64_C(0x6e789e6aa1b965f4));
    assert_true(pare__rng_bits(&other) == UINT64_C(6457827717110365317));
    assert_true(pare__rng_bits(&other) == UINT64_C(3203168211198807973));
}

static void streams_differ_by_seed_purpose_and_index(void **state)
{
    (void)state;
    for (uint64_t a = 0; a < 64; a++)
        for (uint64_t b = 0; b < 64; b++) {
            bool same = a == b;
            assert_true((pare__rng_make(a, 0, 0).at == pare__rng_make(b, 0, 0).at) == same);
            assert_true((pare__rng_make(0, a, 0).at == pare__rng_make(0, b, 0).at) == same);
            assert_true((pare__rng_make(0, 0, a).at == pare__rng_make(0, 0, b).at) == same);
        }
    assert_true(pare__rng_make(1, 2, 3).at != pare__rng_make(2, 1, 3).at);
    assert_true(pare__rng_make(1, 2, 3).at != pare__rng_make(1, 3, 2).at);
}

static void units_are_uniform_below_one(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(1, 2, 3);
    double sum = 0, squares = 0;
    int buckets[16] = {0};
    for (int i = 0; i < DRAWS; i++) {
        double x = i % 2 ? (double)pare__rng_float(&rng) : pare__rng_double(&rng);
        assert_true(x >= 0 && x < 1);
        sum += x;
        squares += x * x;
        buckets[(int)(x * 16)]++;
    }
    assert_true(fabs(sum / DRAWS - 0.5) < 0.005 && fabs(squares / DRAWS - 1.0 / 3) < 0.005);
    for (int i = 0; i < 16; i++)
        assert_true(abs(buckets[i] - DRAWS / 16) < 600); /* over five standard deviations */
}

static void bounded_integers_reach_every_value_equally_often(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(7, 0, 0);
    int seen[6] = {0};
    for (int i = 0; i < DRAWS; i++)
        seen[pare__rng_below(&rng, 6)]++;
    for (int i = 0; i < 6; i++)
        assert_true(abs(seen[i] - DRAWS / 6) < 900);
    for (int i = 0; i < 100; i++)
        assert_true(pare__rng_below(&rng, 1) == 0);
    /* of a range over half of 2^64 a quarter of the draws is thrown away: none may be above it */
    uint64_t large = UINT64_C(3) << 62;
    int low = 0;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t x = pare__rng_below(&rng, large);
        assert_true(x < large);
        low += x < large / 3;
    }
    assert_true(abs(low - DRAWS / 3) < 1100);
}

static void normals_have_the_moments_of_one(void **state)
{
    (void)state;
    pare__rng rng = pare__rng_make(0, 9, 0);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    int beyond = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = pare__rng_normal(&rng);
        assert_true(isfinite(x));
        m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
        beyond += fabs(x) > 2;
    }
    assert_true(fabs(m1 / DRAWS) < 0.01 && fabs(m2 / DRAWS - 1) < 0.02);
    assert_true(fabs(m3 / DRAWS) < 0.04 && fabs(m4 / DRAWS - 3) < 0.1);
    assert_true(fabs((double)beyond / DRAWS - 0.0455) < 0.003);
}

static void betas_have_their_mean_and_variance(void **state)
{
    (void)state;
    static const double shapes[][2] = {{0.1, 0.1}, {0.2, 0.2}, {1, 1}, {2, 5}, {8, 8}, {0.5, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        double a = shapes[s][0], b = shapes[s][1], sum = 0, squares = 0;
        for (int i = 0; i < DRAWS; i++) {
            pare__rng rng = pare__rng_make(s, 0, (uint64_t)i); /* as mixup draws them */
            double x = pare__rng_beta(&rng, a, b);
            assert_true(x >= 0 && x <= 1);
            sum += x;
            squares += x * x;
        }
        double mean = sum / DRAWS, variance = squares / DRAWS - mean * mean;
        double want = a / (a + b), spread = a * b / ((a + b) * (a + b) * (a + b + 1));
        assert_true(fabs(mean - want) < 0.005);
        assert_true(fabs(variance - spread) < 0.005);
    }
    for (uint64_t i = 0; i < 1000; i++) { /* so small that both Gammas underflow */
        pare__rng rng = pare__rng_make(1, 1, i);
        double x = pare__rng_beta(&rng, 1e-4, 1e-4);
        assert_true(x >= 0 && x <= 1);
    }
}

static void a_permutation_takes_every_place_once(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 256, 257, 10000, 65537};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint64_t n = sizes[s];
        unsigned char *taken = calloc(1, n);
        assert_non_null(taken);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t to = pare__permute(42, n, i);
            assert_true(to < n && !taken[to]);
            taken[to] = 1;
        }
        free(taken);
    }
    assert_true(pare__permute(1, UINT64_C(1) << 40, 12345) < UINT64_C(1) << 40);
    assert_true(pare__permute(1, UINT64_MAX, 12345) < UINT64_MAX);
}

static void permutations_of_different_keys_are_fair(void **state)
{
    (void)state;
    int all[24] = {0}, place[10][10] = {{0}};
    enum { KEYS = 24000 };
    for (uint64_t k = 0; k < KEYS; k++) {
        pare__rng rng = pare__rng_make(5, 5, k);
        uint64_t key = pare__rng_bits(&rng), p[4];
        for (uint64_t i = 0; i < 4; i++)
            p[i] = pare__permute(key, 4, i);
        int rank = 0; /* of the 24 orders of four */
        for (int i = 0; i < 4; i++) {
            int smaller = 0;
            for (int j = i + 1; j < 4; j++)
                smaller += p[j] < p[i];
            rank = rank * (4 - i) + smaller;
        }
        all[rank]++;
        for (uint64_t i = 0; i < 10; i++)
            place[i][pare__permute(key, 10, i)]++;
    }
    for (int i = 0; i < 24; i++)
        assert_true(abs(all[i] - KEYS / 24) < 170); /* over five standard deviations */
    for (int i = 0; i < 10; i++)
        for (int j = 0; j < 10; j++)
            assert_true(abs(place[i][j] - KEYS / 10) < 260);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_finaliser_is_splitmix64),
        cmocka_unit_test(streams_differ_by_seed_purpose_and_index),
        cmocka_unit_test(units_are_uniform_below_one),
        cmocka_unit_test(bounded_integers_reach_every_value_equally_often),
        cmocka_unit_test(normals_have_the_moments_of_one),
        cmocka_unit_test(betas_have_their_mean_and_variance),
        cmocka_unit_test(a_permutation_takes_every_place_once),
        cmocka_unit_test(permutations_of_different_keys_are_fair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
