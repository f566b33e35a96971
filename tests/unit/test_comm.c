/* test_comm.c - communicators of one process: a rank alone, ranks that are threads, arguments, and
 * how a launcher is recognised. Several processes: tests/mpi. */
#include "thread_comm.h"

#include "comm/comm_impl.h"

#include "base/check.h"

static void test_alone_every_sum_is_its_own(void **state)
{
    (void)state;
    pare_comm *comm = NULL;
    assert_ok(pare_comm_self(&comm));
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    assert_int_equal(facts->rank, 0);
    assert_int_equal(facts->size, 1);
    assert_int_equal(facts->local_rank, 0);
    assert_int_equal(facts->local_size, 1);
    assert_string_equal(facts->kind, "self");
    assert_true(strlen(facts->host) > 0);
    float x[3] = {1, 2, 3};
    double y[2] = {4, 5};
    int all = 0, mine = 7;
    assert_ok(pare_comm_sum(comm, x, 3, PARE_F32));
    assert_ok(pare_comm_sum_begin(comm, y, 2, PARE_F64));
    assert_ok(pare_comm_wait(comm));
    assert_ok(pare_comm_wait(comm));
    assert_true(x[2] == 3 && y[1] == 5);
    assert_ok(pare_comm_gather(comm, &mine, sizeof mine, &all));
    assert_int_equal(all, 7);
    assert_ok(pare_comm_broadcast(comm, &all, sizeof all, 0));
    assert_ok(pare_comm_barrier(comm));
    assert_ok(pare_comm_agree(comm, "abc", 3, "a word"));
    pare_comm_traffic traffic = pare_comm_traffic_of(comm);
    assert_true(traffic.calls >= 5 && traffic.bytes >= 12 + 16 + 4 + 4);
    pare_comm_free(&comm);
    assert_null(comm);
    pare_comm_free(&comm);
    pare_comm_free(NULL);
}

static void test_calls_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    pare_comm *comm = NULL;
    float x[1] = {1};
    assert_status(pare_comm_self(NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_world(NULL), PARE_ERR_ARGUMENT);
    assert_ok(pare_comm_self(&comm));
    assert_status(pare_comm_sum(NULL, x, 1, PARE_F32), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_sum(comm, NULL, 1, PARE_F32), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_sum(comm, x, -1, PARE_F32), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_sum(comm, x, INT64_MAX / 2, PARE_F32), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_sum(comm, x, 1, PARE_BF16), PARE_ERR_ARGUMENT);
    assert_ok(pare_comm_sum(comm, NULL, 0, PARE_F32));
    assert_status(pare_comm_broadcast(comm, x, 4, 1), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_broadcast(comm, x, 4, -1), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_broadcast(comm, NULL, 4, 0), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_gather(comm, NULL, 4, x), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_gather(comm, x, -4, x), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_agree(comm, NULL, 4, "x"), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_agree(comm, x, 4, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_wait(NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_comm_device(comm, NULL, &comm), PARE_ERR_ARGUMENT);
    for (int i = 0; i < PARE_COMM_PENDING; i++)
        assert_ok(pare_comm_sum_begin(comm, x, 1, PARE_F32));
    assert_status(pare_comm_sum_begin(comm, x, 1, PARE_F32), PARE_ERR_ARGUMENT);
    assert_ok(pare_comm_wait(comm));
    assert_ok(pare_comm_sum_begin(comm, x, 1, PARE_F32));
    pare_comm_free(&comm);
}

static void test_on_the_cpu_a_device_has_the_ranks_of_its_process(void **state)
{
    (void)state;
    pare_comm *comm = NULL, *device = NULL;
    pare_backend *be = NULL;
    assert_ok(pare_comm_self(&comm));
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_comm_device(comm, be, &device));
    assert_ptr_equal(device, comm);
    pare_comm_free(&comm);
    assert_ok(pare_comm_barrier(device)); /* counted twice */
    pare_comm_free(&device);
    pare_backend_free(&be);
}

static pare_status sums_and_agreements(void *user, pare_comm *comm)
{
    (void)user;
    int rank = comm->facts.rank, size = comm->facts.size;
    double x[2] = {rank, 1};
    PARE_TRY(pare_comm_sum(comm, x, 2, PARE_F64));
    PARE_REQUIRE(x[0] == size * (size - 1) / 2 && x[1] == size, PARE_ERR_INTERNAL, "a wrong sum");
    PARE_TRY(pare_comm_agree(comm, &size, sizeof size, "their number"));
    if (pare_comm_agree(comm, rank == 2 ? "other" : "equal", 5, "a word") != PARE_ERR_RANK ||
        !strstr(pare_last_error(), "rank 2 (here) differs from rank 0 (here) in a word"))
        PARE_FAIL(PARE_ERR_INTERNAL, "no difference is seen: %s", pare_last_error());
    PARE_TRY(pare_comm_barrier(comm));
    return PARE_OK;
}

static pare_status one_fails(void *user, pare_comm *comm)
{
    (void)user;
    double x = 0;
    if (comm->facts.rank == 1)
        return pare_comm_abort(comm, pare__error(PARE_ERR_FULL, __func__, "the disc is full"));
    PARE_TRY(pare_comm_sum(comm, &x, 1, PARE_F64));
    return PARE_OK;
}

static void test_ranks_sum_agree_and_fail_together(void **state)
{
    (void)state;
    pare_status statuses[4];
    thread_comm_run(4, sums_and_agreements, NULL, statuses);
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(statuses[rank], PARE_OK);
    thread_comm_run(4, one_fails, NULL, statuses);
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(statuses[rank], rank == 1 ? PARE_ERR_FULL : PARE_ERR_RANK);
}

static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
                                        "SLURM_NTASKS", "PMIX_RANK"};

static void test_a_launcher_is_known_by_what_it_leaves_in_the_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    assert_int_equal(pare__comm_launch().size, 1);
    setenv("SLURM_NTASKS", "8", 1); /* a shell inside an allocation */
    assert_int_equal(pare__comm_launch().size, 1);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_int_equal(pare__comm_launch().size, 1);
    setenv("SLURM_STEP_NUM_TASKS", "8", 1);
    assert_int_equal(pare__comm_launch().size, 8);
    assert_string_equal(pare__comm_launch().by, "srun");
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1); /* mpirun inside a step */
    assert_int_equal(pare__comm_launch().size, 4);
    setenv("OMPI_COMM_WORLD_SIZE", "many", 1);
    setenv("PMI_SIZE", "3", 1);
    assert_int_equal(pare__comm_launch().size, 3);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    setenv("PMIX_RANK", "0", 1);
    assert_int_equal(pare__comm_launch().size, 0);
    unsetenv("PMIX_RANK");
    pare_comm *comm = NULL;
    assert_ok(pare_comm_world(&comm));
    assert_string_equal(pare_comm_facts_of(comm)->kind, "self");
    pare_comm_free(&comm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_every_sum_is_its_own),
        cmocka_unit_test(test_calls_that_do_not_fit_are_refused),
        cmocka_unit_test(test_on_the_cpu_a_device_has_the_ranks_of_its_process),
        cmocka_unit_test(test_ranks_sum_agree_and_fail_together),
        cmocka_unit_test(test_a_launcher_is_known_by_what_it_leaves_in_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
