/* test_cuda_comm.c - ranks with a device each: threads of this process, or, started by mpirun, one
 * process each. Skips where there are too few devices. */
#include "thread_comm.h"
#include "train_fixture.h"

#include "comm/comm_impl.h"

#include "base/check.h"
#include "base/clock.h"

#include "pare/backend.h"

static int devices;

/* The value of number i of a rank's buffer: of a wide range, so that the order of a sum shows. */
static double value(int of, int64_t i)
{
    uint64_t z = (uint64_t)(i * 64 + of + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 29) * 0xBF58476D1CE4E5B9u;
    return ((double)(int32_t)(z >> 32) / 2147483648.0) / (double)(1 << z % 20);
}

/* A buffer of this rank's numbers on its device; and whether it holds their sum. */
typedef struct numbers {
    pare_backend *be;
    int64_t count;
    pare_dtype dtype;
    void *host, *device;
} numbers;

static int64_t bytes_of(const numbers *n)
{
    return n->count * (n->dtype == PARE_F32 ? 4 : 8);
}

static pare_status numbers_make(numbers *n, pare_backend *be, int rank, int64_t count,
                                pare_dtype dtype)
{
    *n = (numbers){.be = be, .count = count, .dtype = dtype, .host = malloc((size_t)count * 8 + 8)};
    for (int64_t i = 0; i < count; i++) {
        if (dtype == PARE_F32)
            ((float *)n->host)[i] = (float)value(rank, i);
        else
            ((double *)n->host)[i] = value(rank, i);
    }
    PARE_TRY(pare_backend_alloc(be, bytes_of(n), &n->device));
    PARE_TRY(pare_backend_upload(be, n->device, n->host, bytes_of(n)));
    return PARE_OK;
}

static pare_status numbers_check(numbers *n, int size)
{
    PARE_TRY(pare_backend_download(n->be, n->host, n->device, bytes_of(n)));
    for (int64_t i = 0; i < n->count; i++) {
        float narrow = (float)value(0, i);
        double wide = value(0, i);
        for (int rank = 1; rank < size; rank++) {
            narrow += (float)value(rank, i);
            wide += value(rank, i);
        }
        bool right =
            n->dtype == PARE_F32 ? ((float *)n->host)[i] == narrow : ((double *)n->host)[i] == wide;
        PARE_REQUIRE(right, PARE_ERR_INTERNAL, "number %lld of %lld is wrong", (long long)i,
                     (long long)n->count);
    }
    pare_backend_release(n->be, n->device, bytes_of(n));
    free(n->host);
    return PARE_OK;
}

/* ---- work of a rank -------------------------------------------------------------------------- */

static pare_status sums(pare_comm *comm, pare_backend *be)
{
    static const int64_t counts[] = {0, 1, 2, 3, 33, 127, 1001, 70001};
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    for (int width = 0; width < 2; width++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            numbers n;
            PARE_TRY(numbers_make(&n, be, facts->rank, counts[i], width ? PARE_F64 : PARE_F32));
            PARE_TRY(pare_comm_sum(comm, n.device, n.count, n.dtype));
            PARE_TRY(numbers_check(&n, facts->size));
        }
    return PARE_OK;
}

static pare_status large_sum(pare_comm *comm, pare_backend *be) /* of several pieces */
{
    numbers n;
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    PARE_TRY(numbers_make(&n, be, facts->rank, (4 << 20) + 3, PARE_F64));
    PARE_TRY(pare_comm_sum(comm, n.device, n.count, n.dtype));
    PARE_TRY(numbers_check(&n, facts->size));
    return PARE_OK;
}

/* Sums come behind what the backend was asked before; what it is asked later need not wait. */
static pare_status buckets(pare_comm *comm, pare_backend *be)
{
    enum { BUCKETS = 9 };
    numbers n[BUCKETS], copy[BUCKETS];
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    for (int i = 0; i < BUCKETS; i++) {
        PARE_TRY(numbers_make(&copy[i], be, facts->rank, 5000 * i + 1, PARE_F32));
        PARE_TRY(numbers_make(&n[i], be, 7, 5000 * i + 1, PARE_F32));
    }
    pare_comm_traffic before = pare_comm_traffic_of(comm);
    for (int i = 0; i < BUCKETS; i++) {
        PARE_TRY(pare_backend_copy(be, n[i].device, copy[i].device, bytes_of(&n[i])));
        PARE_TRY(pare_comm_sum_begin(comm, n[i].device, n[i].count, n[i].dtype));
        PARE_TRY(pare_backend_clear(be, copy[i].device, bytes_of(&copy[i])));
    }
    PARE_TRY(pare_comm_wait(comm));
    pare_comm_traffic after = pare_comm_traffic_of(comm);
    PARE_REQUIRE(after.calls == before.calls + BUCKETS && after.seconds >= before.seconds,
                 PARE_ERR_INTERNAL, "traffic is not counted");
    for (int i = 0; i < BUCKETS; i++) {
        PARE_TRY(numbers_check(&n[i], facts->size));
        pare_backend_release(be, copy[i].device, bytes_of(&copy[i]));
        free(copy[i].host);
    }
    return PARE_OK;
}

static pare_status others(pare_comm *comm, pare_backend *be)
{
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    PARE_REQUIRE(strcmp(facts->kind, "nccl") == 0 && strncmp(facts->library, "NCCL ", 5) == 0,
                 PARE_ERR_INTERNAL, "other facts: %s, %s", facts->kind, facts->library);
    for (int root = 0; root < facts->size; root++) {
        unsigned char bytes[3001];
        void *device;
        memset(bytes, facts->rank + 1, sizeof bytes);
        PARE_TRY(pare_backend_alloc(be, sizeof bytes, &device));
        PARE_TRY(pare_backend_upload(be, device, bytes, sizeof bytes));
        PARE_TRY(pare_comm_broadcast(comm, device, sizeof bytes, root));
        PARE_TRY(pare_backend_download(be, bytes, device, sizeof bytes));
        PARE_REQUIRE(bytes[0] == root + 1 && bytes[3000] == root + 1, PARE_ERR_INTERNAL,
                     "other bytes than those of rank %d", root);
        pare_backend_release(be, device, sizeof bytes);
    }
    int rank = facts->rank, all[THREAD_COMM_MOST];
    PARE_TRY(pare_comm_gather(comm, &rank, sizeof rank, all));
    for (int r = 0; r < facts->size; r++)
        PARE_REQUIRE(all[r] == r, PARE_ERR_INTERNAL, "gathered in another order");
    PARE_TRY(pare_comm_agree(comm, "same", 4, "a word"));
    PARE_TRY(pare_comm_barrier(comm));
    return PARE_OK;
}

static pare_status one_fails(pare_comm *comm, pare_backend *be)
{
    numbers n;
    const pare_comm_facts *facts = pare_comm_facts_of(comm);
    PARE_TRY(numbers_make(&n, be, facts->rank, 5000, PARE_F32));
    double begin = pare__now();
    if (facts->rank == 1) {
        (void)pare_comm_abort(comm, pare__error(PARE_ERR_FULL, __func__, "the disc is full"));
    } else {
        pare_status status = pare_comm_sum(comm, n.device, n.count, n.dtype);
        PARE_REQUIRE(status == PARE_ERR_RANK && strstr(pare_last_error(), "rank 1 (") &&
                         strstr(pare_last_error(), "the disc is full"),
                     PARE_ERR_INTERNAL, "got %s: %s", pare_status_name(status), pare_last_error());
    }
    PARE_REQUIRE(pare_comm_sum(comm, n.device, n.count, n.dtype) == PARE_ERR_RANK,
                 PARE_ERR_INTERNAL, "the ranks go on after a failure");
    PARE_REQUIRE(pare__now() - begin < 5, PARE_ERR_INTERNAL, "it took long to see a failure");
    pare_backend_release(be, n.device, bytes_of(&n));
    free(n.host);
    return PARE_OK;
}

/* A few steps of a training: all ranks have the same values then. */
static pare_status training(pare_comm *comm, pare_backend *be)
{
    pare_status status = PARE_OK;
    pare_backend *own = NULL;
    pare_trainer *trainer = NULL;
    (void)be; /* the fixture frees its own, of the same device */
    pare_train_options options = {.optimiser = PARE_ADAMW,
                                  .curve = {.rate = 0.01, .steps = 3},
                                  .batch = 8,
                                  .accumulate = 2,
                                  .clip = 1};
    PARE_TRY(pare_cuda_create(pare_comm_facts_of(comm)->local_rank % devices, &own));
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 8, .be = own});
    pare_comm *ranks = NULL;
    PARE_TRY_DONE(pare_comm_device(comm->host, f.be, &ranks));
    PARE_TRY_DONE(pare_trainer_create(
        &(pare_train_setup){
            .options = &options, .model = f.model, .be = f.be, .dataset = f.dataset, .comm = ranks},
        &trainer));
    PARE_TRY_DONE(pare_trainer_run(trainer, f.sched, NULL));
    int64_t count;
    float *values = fixture_values(f.model, &count);
    status = pare_comm_agree(comm, values, count * 4, "what was learned");
    free(values);
done:
    pare_trainer_free(&trainer);
    pare_comm_free(&ranks);
    fixture_free(&f);
    return status;
}

typedef pare_status (*device_work)(pare_comm *comm, pare_backend *be);

static pare_status on_device(pare_comm *over, int device, device_work work)
{
    pare_status status = PARE_OK;
    pare_backend *be = NULL;
    pare_comm *comm = NULL;
    PARE_TRY_DONE(pare_cuda_create(device, &be));
    PARE_TRY_DONE(pare_comm_device(over, be, &comm));
    PARE_TRY_DONE(work(comm, be));
done:
    if (status != PARE_OK) {
        fprintf(stderr, "rank %d: %s\n", pare_comm_facts_of(over)->rank, pare_last_error());
        (void)pare_comm_abort(over, status);
    }
    pare_comm_free(&comm);
    pare_backend_free(&be);
    return status;
}

/* ---- ranks that are threads ------------------------------------------------------------------ */

static pare_status in_thread(void *user, pare_comm *over)
{
    return on_device(over, pare_comm_facts_of(over)->rank, *(device_work *)user);
}

static void run_threads(int size, device_work work)
{
    pare_status statuses[THREAD_COMM_MOST];
    if (size > devices)
        skip();
    thread_comm_run(size, in_thread, &work, statuses);
    for (int rank = 0; rank < size; rank++)
        assert_int_equal(statuses[rank], PARE_OK);
}

static void test_two_devices_sum_by_rank(void **state)
{
    (void)state;
    run_threads(2, sums);
}

static void test_four_devices_sum_by_rank(void **state)
{
    (void)state;
    run_threads(4, sums);
}

static void test_a_large_sum_goes_in_pieces(void **state)
{
    (void)state;
    run_threads(2, large_sum);
}

static void test_sums_lie_between_what_the_backend_was_asked_before_and_after(void **state)
{
    (void)state;
    run_threads(2, buckets);
}

static void test_bytes_are_broadcast_gathered_and_compared(void **state)
{
    (void)state;
    run_threads(2, others);
}

static void test_a_rank_that_fails_ends_the_waiting_of_others(void **state)
{
    (void)state;
    run_threads(2, one_fails);
}

static pare_status same_device(void *user, pare_comm *over)
{
    (void)user;
    pare_status status = on_device(over, 0, others);
    return status == PARE_ERR_DEVICE && strstr(pare_last_error(), "NCCL: ncclCommInitRank: ")
               ? PARE_OK
               : PARE_ERR_INTERNAL;
}

static void test_two_ranks_on_one_device_are_refused(void **state)
{
    (void)state;
    pare_status statuses[2];
    if (devices < 2)
        skip();
    thread_comm_run(2, same_device, NULL, statuses);
    assert_true(statuses[0] == PARE_OK && statuses[1] == PARE_OK);
}

/* ---- ranks that are processes ---------------------------------------------------------------- */

static int run_process(void)
{
    static const device_work all[] = {sums, buckets, others, training, one_fails};
    pare_comm *over = NULL;
    pare_status status = pare_comm_world(&over);
    if (status != PARE_OK) {
        fprintf(stderr, "%s\n", pare_last_error());
        return 1;
    }
    int device = pare_comm_facts_of(over)->local_rank % devices;
    for (size_t i = 0; i < sizeof all / sizeof *all && status == PARE_OK; i++)
        status = on_device(over, device, all[i]);
    pare_comm_free(&over);
    return status != PARE_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_devices_sum_by_rank),
        cmocka_unit_test(test_four_devices_sum_by_rank),
        cmocka_unit_test(test_a_large_sum_goes_in_pieces),
        cmocka_unit_test(test_sums_lie_between_what_the_backend_was_asked_before_and_after),
        cmocka_unit_test(test_bytes_are_broadcast_gathered_and_compared),
        cmocka_unit_test(test_a_rank_that_fails_ends_the_waiting_of_others),
        cmocka_unit_test(test_two_ranks_on_one_device_are_refused),
    };
    setenv("CUDASIM_DEVICES", "4", 1); /* where they are simulated */
    if (pare_cuda_count(&devices) != PARE_OK || &pare__nccl == NULL) {
        printf("no device, or no NCCL: skipped\n");
        return 77;
    }
    if (pare__comm_launch().size != 1)
        return run_process();
    if (devices < 2) {
        printf("a single device: skipped\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
