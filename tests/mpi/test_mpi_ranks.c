/* test_mpi_ranks.c - what several processes do together, by MPI: run by tests/mpi/mpirun.sh. */
#include "test.h"

#include "comm/comm_impl.h"

#include "base/check.h"

static pare_comm *comm;
static int rank, size;

/* The value of number i of a rank's buffer: of a wide range, so that the order of a sum shows. */
static double value(int of, int64_t i)
{
    uint64_t z = (uint64_t)(i * 64 + of + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 29) * 0xBF58476D1CE4E5B9u;
    double scale = (double)(1 << z % 20);
    return ((double)(int32_t)(z >> 32) / 2147483648.0) / scale;
}

/* Sum number i of count, in the order that comm_ring.c promises. */
static double expected(int64_t i, int64_t count, pare_dtype dtype)
{
    int64_t each = count / size, more = count % size;
    int64_t part = i < more * (each + 1) ? i / (each + 1) : more + (i - more * (each + 1)) / each;
    double wide = value((int)part, i);
    float narrow = (float)wide;
    for (int hop = 1; hop < size; hop++) {
        double next = value((int)(part + hop) % size, i);
        wide = wide + next;
        narrow = narrow + (float)next;
    }
    return dtype == PARE_F32 ? (double)narrow : wide;
}

static void *make(int64_t count, pare_dtype dtype)
{
    void *buffer = malloc((size_t)count * 8 + 16);
    assert_non_null(buffer);
    memset(buffer, 0xa5, (size_t)count * 8 + 16);
    for (int64_t i = 0; i < count; i++) {
        if (dtype == PARE_F32)
            ((float *)buffer)[i] = (float)value(rank, i);
        else
            ((double *)buffer)[i] = value(rank, i);
    }
    return buffer;
}

static void check(void *buffer, int64_t count, pare_dtype dtype)
{
    unsigned char after[16];
    memset(after, 0xa5, sizeof after);
    int64_t wrong = 0, bytes = count * (dtype == PARE_F32 ? 4 : 8);
    for (int64_t i = 0; i < count; i++) {
        double is = dtype == PARE_F32 ? ((float *)buffer)[i] : ((double *)buffer)[i];
        wrong += is != expected(i, count, dtype);
    }
    assert_int_equal(wrong, 0);
    assert_memory_equal((unsigned char *)buffer + bytes, after, sizeof after);
    free(buffer);
}

static const int64_t counts[] = {0, 1, 2, 3, 4, 5, 7, 63, 1001, 262144, 1048579, 3500003};

static void test_sums_of_every_size_are_those_of_the_written_order(void **state)
{
    (void)state;
    for (int width = 0; width < 2; width++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            pare_dtype dtype = width ? PARE_F64 : PARE_F32;
            void *buffer = make(counts[i], dtype);
            assert_ok(pare_comm_sum(comm, buffer, counts[i], dtype));
            check(buffer, counts[i], dtype);
        }
}

static void test_many_sums_go_on_while_the_caller_does_something_else(void **state)
{
    (void)state;
    void *buffers[PARE_COMM_PENDING];
    pare_comm_traffic before = pare_comm_traffic_of(comm);
    for (int i = 0; i < PARE_COMM_PENDING; i++) {
        buffers[i] = make(1000 * i + 1, i % 2 ? PARE_F64 : PARE_F32);
        assert_ok(pare_comm_sum_begin(comm, buffers[i], 1000 * i + 1, i % 2 ? PARE_F64 : PARE_F32));
    }
    float one = 1;
    assert_int_equal(pare_comm_sum_begin(comm, &one, 1, PARE_F32), PARE_ERR_ARGUMENT);
    assert_ok(pare_comm_wait(comm));
    for (int i = 0; i < PARE_COMM_PENDING; i++)
        check(buffers[i], 1000 * i + 1, i % 2 ? PARE_F64 : PARE_F32);
    pare_comm_traffic after = pare_comm_traffic_of(comm);
    assert_int_equal(after.calls - before.calls, PARE_COMM_PENDING);
    assert_true(after.bytes > before.bytes && after.seconds > before.seconds);
    assert_ok(pare_comm_sum(comm, &one, 1, PARE_F32)); /* there is room again */
    assert_true(one == (float)size);
}

static void test_bytes_of_every_root_reach_all(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 4097, 1 << 20, 5 * (1 << 20) + 3};
    for (int root = 0; root < size; root++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            unsigned char *bytes = malloc((size_t)sizes[s] + 1);
            for (int64_t i = 0; i < sizes[s]; i++)
                bytes[i] = (unsigned char)(rank == root ? i * 7 + root : 0);
            assert_ok(pare_comm_broadcast(comm, bytes, sizes[s], root));
            int64_t wrong = 0;
            for (int64_t i = 0; i < sizes[s]; i++)
                wrong += bytes[i] != (unsigned char)(i * 7 + root);
            assert_int_equal(wrong, 0);
            free(bytes);
        }
}

static void test_what_each_has_is_gathered_by_rank(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 12, 3 * (1 << 20) + 1};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        unsigned char *mine = malloc((size_t)sizes[s]), *all = malloc((size_t)(sizes[s] * size));
        memset(mine, rank + 1, (size_t)sizes[s]);
        assert_ok(pare_comm_gather(comm, mine, sizes[s], all));
        int64_t wrong = 0;
        for (int64_t i = 0; i < sizes[s] * size; i++)
            wrong += all[i] != i / sizes[s] + 1;
        assert_int_equal(wrong, 0);
        free(mine), free(all);
    }
    assert_ok(pare_comm_barrier(comm));
}

static void test_who_differs_is_named_on_all_ranks(void **state)
{
    (void)state;
    char text[10000];
    memset(text, 'x', sizeof text);
    assert_ok(pare_comm_agree(comm, text, sizeof text, "the options"));
    assert_ok(pare_comm_agree(comm, text, 0, "nothing"));
    if (rank == size - 1)
        text[9000] = 'y';
    assert_int_equal(pare_comm_agree(comm, text, sizeof text, "the options"), PARE_ERR_RANK);
    char begin[32];
    snprintf(begin, sizeof begin, "rank %d (", size - 1);
    assert_non_null(strstr(pare_last_error(), begin));
    assert_non_null(strstr(pare_last_error(), "in the options"));
    assert_int_equal(pare_comm_agree(comm, text, rank == 1 ? 5 : 6, "a name"), PARE_ERR_RANK);
    assert_non_null(strstr(pare_last_error(), "rank 1 ("));
    assert_ok(pare_comm_barrier(comm)); /* nobody has failed */
}

static void test_the_facts_are_those_of_this_machine(void **state)
{
    (void)state;
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    assert_string_equal(facts->kind, "mpi");
    assert_true(rank >= 0 && rank < size && size > 1);
    assert_int_equal(facts->local_rank, rank);
    assert_int_equal(facts->local_size, size);
    assert_true(strlen(facts->host) > 0 && strlen(facts->library) > 0);
}

static void test_the_processes_are_begun_once(void **state)
{
    (void)state;
    pare_comm *again = NULL, *device = NULL;
    pare_backend *be = NULL;
    assert_ok(pare_comm_world(&again));
    assert_ptr_equal(again, comm);
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_comm_device(comm, be, &device));
    assert_ptr_equal(device, comm);
    pare_backend_free(&be);
    pare_comm_free(&again);
    pare_comm_free(&device);
    assert_ok(pare_comm_barrier(comm));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_facts_are_those_of_this_machine),
        cmocka_unit_test(test_sums_of_every_size_are_those_of_the_written_order),
        cmocka_unit_test(test_many_sums_go_on_while_the_caller_does_something_else),
        cmocka_unit_test(test_bytes_of_every_root_reach_all),
        cmocka_unit_test(test_what_each_has_is_gathered_by_rank),
        cmocka_unit_test(test_who_differs_is_named_on_all_ranks),
        cmocka_unit_test(test_the_processes_are_begun_once),
    };
    if (pare_comm_world(&comm) != PARE_OK) {
        fprintf(stderr, "%s\n", pare_last_error());
        return 1;
    }
    rank = pare_comm_facts_of(comm)->rank;
    size = pare_comm_facts_of(comm)->size;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pare_comm_free(&comm);
    return failed;
}
