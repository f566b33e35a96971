/* test_mpi_stats.c - statistics of a site that several processes have counted: those of all inputs.
 * Run by tests/mpi/mpirun.sh. */
#include "calib_fixture.h"

#include "pare/comm.h"

#include <math.h>

static pare_comm *comm;
static pare_backend *be;
static int rank, size;

enum { K = 37, ROWS = 60, ALL = PARE_STAT_COLUMNS | PARE_STAT_GRAM | PARE_STAT_HISTOGRAM };

/* Those of one rank are up to 2^of large, so that histograms differ in width. */
static float value(int of, int64_t i)
{
    uint32_t z = (uint32_t)(i * 64 + of + 1) * 2654435761u;
    z = (z ^ z >> 15) * 2246822519u;
    return (float)(int32_t)(z ^ z >> 13) * 0x1p-31f * (float)(1 << of);
}

/* Rank r counts r + 1 batches; `zeros`: rank 0's are all zero. */
static void add_rows(pare_site_stats *stats, int of, bool zeros)
{
    float x[ROWS * K] = {0};
    for (int batch = 0; batch <= of; batch++) {
        for (int i = 0; i < ROWS * K && !(zeros && of == 0); i++)
            x[i] = value(of, batch * ROWS * K + i);
        assert_ok(pare_site_stats_add(be, stats, pare_matrix(x, PARE_F32, ROWS, K), ROWS));
    }
}

static void compare(const pare_site_stats *joined, const pare_site_stats *alone)
{
    assert_int_equal(joined->rows, alone->rows);
    assert_true(joined->width == alone->width);
    if (alone->bins.data)
        assert_memory_equal(joined->bins.data, alone->bins.data, PARE_HISTOGRAM_BINS * 8);
    if (alone->sum.data)
        assert_memory_equal(joined->absmax.data, alone->absmax.data, K * 4);
    for (int c = 0; alone->sum.data && c < K; c++) {
        double a = ((double *)alone->sum.data)[c], b = ((double *)joined->sum.data)[c];
        assert_true(fabs(a - b) <= 1e-12 * a);
        a = ((double *)alone->squares.data)[c], b = ((double *)joined->squares.data)[c];
        assert_true(fabs(a - b) <= 1e-12 * a);
    }
    const float *g = joined->gram.data, *h = alone->gram.data;
    for (int i = 0; h && i < K; i++)
        for (int j = 0; j < K; j++) {
            assert_true(g[i * K + j] == g[j * K + i]);
            double scale = sqrt((double)h[i * K + i] * (double)h[j * K + j]);
            assert_true(fabs((double)g[i * K + j] - (double)h[i * K + j]) <= 1e-5 * scale);
        }
}

static void check(unsigned kinds, bool zeros)
{
    pare_site_stats *joined = NULL, *alone = NULL;
    assert_ok(pare_site_stats_create(be, kinds, K, &joined));
    assert_ok(pare_site_stats_create(be, kinds, K, &alone));
    add_rows(joined, rank, zeros);
    assert_ok(pare_site_stats_join(be, joined, comm));
    assert_ok(pare_site_stats_finish(be, joined));
    for (int r = 0; r < size; r++)
        add_rows(alone, r, zeros);
    assert_ok(pare_site_stats_finish(be, alone));
    compare(joined, alone);
    if (joined->gram.data)
        assert_ok(pare_comm_agree(comm, joined->gram.data, K * K * 4, "the Gram matrix"));
    assert_status(pare_site_stats_join(be, joined, comm), PARE_ERR_ARGUMENT); /* it is finished */
    pare_site_stats_free(be, &joined);
    pare_site_stats_free(be, &alone);
}

static void test_statistics_of_ranks_are_those_of_all_inputs(void **state)
{
    (void)state;
    check(PARE_STAT_COLUMNS, false);
    check(PARE_STAT_GRAM, false);
    check(ALL, false);
}

static void test_a_rank_that_saw_zeros_alone_counts_them(void **state)
{
    (void)state;
    check(ALL, true);
}

static void test_what_is_not_finite_stays_so(void **state)
{
    (void)state;
    pare_site_stats *stats = NULL;
    float x[K] = {1, 2};
    x[3] = rank == 0 ? NAN : 5;
    x[4] = rank == size - 1 ? INFINITY : 5;
    assert_ok(pare_site_stats_create(be, PARE_STAT_COLUMNS, K, &stats));
    assert_ok(pare_site_stats_add(be, stats, pare_matrix(x, PARE_F32, 1, K), 1));
    assert_ok(pare_site_stats_join(be, stats, comm));
    const float *absmax = stats->absmax.data;
    const double *sum = stats->sum.data;
    assert_true(absmax[1] == 2 && isinf(absmax[4]) && !isfinite(sum[3]) && !isfinite(sum[4]));
    pare_site_stats_free(be, &stats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics_of_ranks_are_those_of_all_inputs),
        cmocka_unit_test(test_a_rank_that_saw_zeros_alone_counts_them),
        cmocka_unit_test(test_what_is_not_finite_stays_so),
    };
    if (pare_comm_world(&comm) != PARE_OK || pare_cpu_create(NULL, &be) != PARE_OK) {
        fprintf(stderr, "%s\n", pare_last_error());
        return 1;
    }
    rank = pare_comm_facts_of(comm)->rank;
    size = pare_comm_facts_of(comm)->size;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_backend_free(&be);
    pare_comm_free(&comm);
    return failed;
}
