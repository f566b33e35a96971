/* test_site_stats.c - statistics of a site's inputs, and the ranges found from them. */
#include "calib_fixture.h"
#include "far_backend.h"

#include <math.h>

static pare_backend *be;

static int open_cpu(void **unused)
{
    (void)unused;
    assert_ok(pare_cpu_create(&(pare_cpu_options){.threads = 2}, &be));
    return 0;
}

static int close_cpu(void **unused)
{
    (void)unused;
    pare_backend_free(&be);
    return 0;
}

/* Values between −8 and 8, many of them small. */
static float *values(int64_t count)
{
    float *x = calloc((size_t)count, sizeof *x);
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        float u = (float)(state >> 8) * 0x1p-23f - 1;
        x[i] = 8 * u * u * u;
    }
    return x;
}

enum { ALL = PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM };

static void sums_are_those_of_the_rows(void **unused)
{
    (void)unused;
    enum { N = 333, K = 37 };
    float *x = values(N * K);
    pare_site_stats *stats = calib_stats(be, ALL, x, N, K);
    float *absmax = calib_download(be, &stats->absmax), *gram = calib_download(be, &stats->gram);
    double *sum = calib_download(be, &stats->sum), *squares = calib_download(be, &stats->squares);
    assert_int_equal(stats->rows, N);
    for (int i = 0; i < K; i++) {
        double most = 0, s = 0;
        for (int n = 0; n < N; n++) {
            most = fmax(most, fabs((double)x[n * K + i]));
            s += fabs((double)x[n * K + i]);
        }
        assert_true(absmax[i] == (float)most);
        assert_true(fabs(sum[i] - s) < 1e-9 * s);
        for (int j = 0; j < K; j++) {
            double g = 0;
            for (int n = 0; n < N; n++)
                g += (double)x[n * K + i] * x[n * K + j];
            assert_true(fabs(gram[i * K + j] - g) < 1e-5 * sqrt(squares[i] * squares[j]));
            assert_true(gram[i * K + j] == gram[j * K + i]);
            if (i == j)
                assert_true(fabs(squares[i] - g) < 1e-9 * g);
        }
    }
    free(squares), free(sum), free(gram), free(absmax), free(x);
    pare_site_stats_free(be, &stats);
}

static void count(const float *x, int64_t n, double width, int64_t *bins)
{
    memset(bins, 0, PARE_HISTOGRAM_BINS * sizeof *bins);
    for (int64_t i = 0; i < n; i++) {
        int64_t bin = (int64_t)((double)fabsf(x[i]) / width);
        bins[bin < PARE_HISTOGRAM_BINS ? bin : PARE_HISTOGRAM_BINS - 1]++;
    }
}

/* Batches of ever larger inputs: zeros first, then widths that double several times. */
static void a_histogram_is_the_same_as_if_its_range_had_been_known(void **unused)
{
    (void)unused;
    enum { N = 600, K = 11 };
    float *x = values(N * K);
    for (int64_t i = 0; i < N * K; i++)
        x[i] *= i < 100 * K ? 0 : ldexpf(1, (int)(i / (100 * K)) * 3 - 12);
    pare_site_stats *stats = calib_stats(be, PARE_STAT_HISTOGRAM, x, N, K);
    int64_t *bins = calib_download(be, &stats->bins), *want = calloc(PARE_HISTOGRAM_BINS, 8);
    int exponent;
    assert_true(frexpf(stats->width, &exponent) == 0.5f);
    count(x, N * K, stats->width, want);
    assert_memory_equal(bins, want, PARE_HISTOGRAM_BINS * 8);
    assert_true(8 * 8 / 2 <= stats->width * PARE_HISTOGRAM_BINS);
    free(want), free(bins), free(x);
    pare_site_stats_free(be, &stats);
}

static void rows_of_padding_are_not_counted(void **unused)
{
    (void)unused;
    enum { N = 64, K = 9, KEPT = 50 };
    float *x = values(N * K), *memory;
    memset(x + KEPT * K, 0, (N - KEPT) * K * sizeof *x);
    pare_site_stats *stats, *want = calib_stats(be, ALL, x, KEPT, K);
    assert_ok(pare_site_stats_create(be, ALL, K, &stats));
    assert_ok(pare_backend_alloc(be, N * K * 4, &memory));
    assert_ok(pare_backend_upload(be, memory, x, N * K * 4));
    assert_ok(pare_site_stats_add(be, stats, pare_matrix(memory, PARE_F32, N, K), KEPT));
    assert_ok(pare_site_stats_finish(be, stats));
    assert_int_equal(stats->rows, KEPT);
    int64_t *bins = calib_download(be, &stats->bins), *expected = calib_download(be, &want->bins);
    assert_memory_equal(bins, expected, PARE_HISTOGRAM_BINS * 8);
    free(expected), free(bins), free(x);
    pare_backend_release(be, memory, N * K * 4);
    pare_site_stats_free(be, &want);
    pare_site_stats_free(be, &stats);
}

static void memory_is_what_was_said(void **unused)
{
    (void)unused;
    assert_int_equal(pare_site_stats_bytes(0, 100), 0);
    assert_true(pare_site_stats_bytes(PARE_STAT_GRAM, 512) >= 512 * 512 * 4);
    assert_true(pare_site_stats_bytes(PARE_STAT_HISTOGRAM, 100) >=
                PARE_HISTOGRAM_BINS * 8 + 100 * 20);
}

static float range(const pare_site_stats *stats, pare_range_search search, double percentile)
{
    float r = -1;
    assert_ok(pare_site_stats_range(be, stats, search, percentile, &r));
    return r;
}

static void ranges_leave_out_what_is_rare(void **unused)
{
    (void)unused;
    enum { N = 1000, K = 16 };
    float *x = values(N * K);
    for (int64_t i = 0; i < N * K; i++)
        x[i] /= 8;
    x[777] = 100; /* one in 16,000 */
    pare_site_stats *stats = calib_stats(be, PARE_STAT_HISTOGRAM, x, N, K);
    assert_true(range(stats, PARE_RANGE_ABSMAX, 0) == 100);
    assert_true(range(stats, PARE_RANGE_PERCENTILE, 100) == 100);
    float most = range(stats, PARE_RANGE_PERCENTILE, 99.99);
    assert_true(most >= 0.99f && most < 1.1f);
    float half = range(stats, PARE_RANGE_PERCENTILE, 50);
    assert_true(half > 0.1f && half < 0.2f);
    float kl = range(stats, PARE_RANGE_KL, 0), mse = range(stats, PARE_RANGE_MSE, 0);
    assert_true(kl > 0.5f && kl < 50);
    assert_true(mse > 0.5f && mse <= 100);
    float r = 0;
    assert_status(pare_site_stats_range(be, stats, PARE_RANGE_PERCENTILE, 101, &r),
                  PARE_ERR_ARGUMENT);
    free(x);
    pare_site_stats_free(be, &stats);
}

/* 1 and −3 alone: cut at 1 all of it lies in one bin, which is no better than what keeps both. */
static void of_equal_divergences_the_wider_range_is_taken(void **unused)
{
    (void)unused;
    enum { N = 20, K = 5 };
    float x[N * K];
    for (int i = 0; i < N * K; i++)
        x[i] = i % 2 ? -3 : 1;
    pare_site_stats *stats = calib_stats(be, PARE_STAT_HISTOGRAM, x, N, K);
    assert_true(range(stats, PARE_RANGE_KL, 0) == 3);
    pare_site_stats_free(be, &stats);
}

static void nothing_but_zeros_has_the_range_zero(void **unused)
{
    (void)unused;
    enum { N = 20, K = 5 };
    float x[N * K] = {0};
    pare_site_stats *stats = calib_stats(be, PARE_STAT_HISTOGRAM, x, N, K);
    for (int search = PARE_RANGE_ABSMAX; search <= PARE_RANGE_KL; search++)
        assert_true(range(stats, (pare_range_search)search, 0) == 0);
    int64_t *bins = calib_download(be, &stats->bins);
    assert_int_equal(bins[0], N * K);
    free(bins);
    pare_site_stats_free(be, &stats);
}

static void what_is_not_finite_has_no_range(void **unused)
{
    (void)unused;
    enum { N = 20, K = 5 };
    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        float *x = values(N * K), r;
        x[42] = bad[i];
        pare_site_stats *stats = calib_stats(be, PARE_STAT_HISTOGRAM, x, N, K);
        assert_status(pare_site_stats_range(be, stats, PARE_RANGE_KL, 0, &r), PARE_ERR_NUMERIC);
        free(x);
        pare_site_stats_free(be, &stats);
    }
}

static void divided_statistics_are_those_of_divided_inputs(void **unused)
{
    (void)unused;
    enum { N = 200, K = 13 };
    float *x = values(N * K), scales[K];
    pare_site_stats *stats = calib_stats(be, ALL, x, N, K);
    for (int k = 0; k < K; k++)
        scales[k] = 0.25f + 0.3f * (float)k;
    assert_ok(pare_site_stats_divide(be, stats, scales));
    assert_int_equal(stats->kinds, PARE_STAT_COLUMNS | PARE_STAT_GRAM);
    for (int i = 0; i < N * K; i++)
        x[i] /= scales[i % K];
    pare_site_stats *want = calib_stats(be, ALL, x, N, K);
    const pare_tensor *got[] = {&stats->absmax, &stats->gram};
    const pare_tensor *expected[] = {&want->absmax, &want->gram};
    for (int t = 0; t < 2; t++) {
        float *a = calib_download(be, got[t]), *b = calib_download(be, expected[t]);
        for (int64_t i = 0; i < pare_tensor_count(got[t]); i++)
            assert_true(fabsf(a[i] - b[i]) <= 1e-4f * fabsf(b[i]) + 1e-2f);
        free(a), free(b);
    }
    double *a = calib_download(be, &stats->squares), *b = calib_download(be, &want->squares);
    for (int k = 0; k < K; k++)
        assert_true(fabs(a[k] - b[k]) <= 1e-5 * b[k]);
    free(a), free(b), free(x);
    pare_site_stats_free(be, &want);
    pare_site_stats_free(be, &stats);
}

static void far_memory_gives_the_same(void **unused)
{
    (void)unused;
    enum { N = 300, K = 270 };
    float *x = values(N * K);
    pare_backend *far = far_backend_make(2);
    pare_site_stats *here = calib_stats(be, ALL, x, N, K), *there = calib_stats(far, ALL, x, N, K);
    const pare_tensor *a[] = {&here->absmax, &here->sum, &here->squares, &here->gram, &here->bins};
    const pare_tensor *b[] = {&there->absmax, &there->sum, &there->squares, &there->gram,
                              &there->bins};
    for (int t = 0; t < 5; t++) {
        void *left = calib_download(be, a[t]), *right = calib_download(far, b[t]);
        assert_memory_equal(left, right,
                            (size_t)(pare_tensor_count(a[t]) * pare_dtype_bits(a[t]->dtype) / 8));
        free(left), free(right);
    }
    pare_site_stats_free(be, &here);
    pare_site_stats_free(far, &there);
    pare_backend_free(&far);
    free(x);
}

static void wrong_rows_are_refused(void **unused)
{
    (void)unused;
    float x[6] = {0};
    pare_site_stats *stats;
    assert_status(pare_site_stats_create(be, ALL, 0, &stats), PARE_ERR_ARGUMENT);
    assert_ok(pare_site_stats_create(be, ALL, 3, &stats));
    assert_status(pare_site_stats_add(be, stats, pare_matrix(x, PARE_F32, 3, 2), 3),
                  PARE_ERR_ARGUMENT);
    assert_status(pare_site_stats_add(be, stats, pare_matrix(x, PARE_F32, 2, 3), 3),
                  PARE_ERR_ARGUMENT);
    float r;
    assert_status(pare_site_stats_range(be, stats, PARE_RANGE_ABSMAX, 0, &r), PARE_ERR_ARGUMENT);
    assert_ok(pare_site_stats_finish(be, stats));
    assert_status(pare_site_stats_add(be, stats, pare_matrix(x, PARE_F32, 2, 3), 2),
                  PARE_ERR_ARGUMENT);
    pare_site_stats_free(be, &stats);
    pare_site_stats_free(be, &stats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_the_rows),
        cmocka_unit_test(a_histogram_is_the_same_as_if_its_range_had_been_known),
        cmocka_unit_test(rows_of_padding_are_not_counted),
        cmocka_unit_test(memory_is_what_was_said),
        cmocka_unit_test(ranges_leave_out_what_is_rare),
        cmocka_unit_test(of_equal_divergences_the_wider_range_is_taken),
        cmocka_unit_test(nothing_but_zeros_has_the_range_zero),
        cmocka_unit_test(what_is_not_finite_has_no_range),
        cmocka_unit_test(divided_statistics_are_those_of_divided_inputs),
        cmocka_unit_test(far_memory_gives_the_same),
        cmocka_unit_test(wrong_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
