/* mpi_failures.c - what ranks see when one of them fails; run by tests/mpi/mpirun.sh.
 *
 *   mpi_failures abort     rank 1 says that it has failed
 *   mpi_failures silence   rank 1 stops, and is awakened when the others have missed it
 *   mpi_failures kill      rank 1 is killed: the job must not go on without it
 *
 * A rank that saw what it should says so in a line (of `kill`, that it is there at all).
 */
#include "comm/comm_impl.h"

#include "base/check.h"
#include "base/clock.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 3000000, BUSY = 1000 };

#define EXPECT(cond_)                                                                              \
    do {                                                                                           \
        if (!(cond_)) {                                                                            \
            fprintf(stderr, "rank %d, line %d: %s is not so: %s\n", rank, __LINE__, #cond_,        \
                    pare_last_error());                                                            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Sums until something fails; the calls after it fail as well, at once, with the same sentence. */
static void work_until_failure(pare_comm *comm, int rank, const char *sentence)
{
    float *buffer = calloc(COUNT, sizeof *buffer);
    double begin = pare__now();
    pare_status status = PARE_OK;
    for (int i = 0; i < BUSY && status == PARE_OK; i++) {
        status = pare_comm_sum_begin(comm, buffer, COUNT, PARE_F32);
        if (status == PARE_OK)
            status = pare_comm_sum_begin(comm, buffer, 3, PARE_F32);
        if (status == PARE_OK)
            status = pare_comm_wait(comm);
    }
    EXPECT(status == PARE_ERR_RANK);
    EXPECT(pare__now() - begin < 10);
    for (int i = 0; i < 3; i++) {
        begin = pare__now();
        EXPECT(strstr(pare_last_error(), "rank 1 (") && strstr(pare_last_error(), sentence));
        EXPECT((i == 0   ? pare_comm_barrier(comm)
                : i == 1 ? pare_comm_sum(comm, buffer, 1, PARE_F32)
                         : pare_comm_agree(comm, "x", 1, "x")) == PARE_ERR_RANK);
        EXPECT(pare__now() - begin < 0.5);
    }
    free(buffer);
}

static void fail(pare_comm *comm, int rank)
{
    float some[100] = {0};
    for (int i = 0; i < 3; i++) /* the others' first sums need this one */
        EXPECT(pare_comm_sum(comm, some, 100, PARE_F32) == PARE_OK);
    pare_status status = pare__error(PARE_ERR_FULL, __func__, "the disc is full");
    EXPECT(pare_comm_abort(comm, status) == PARE_ERR_FULL);
    EXPECT(strcmp(pare_last_error(), "the disc is full") == 0);
    EXPECT(pare_comm_sum(comm, some, 100, PARE_F32) == PARE_ERR_RANK);
    EXPECT(strstr(pare_last_error(), "rank 1 (") && strstr(pare_last_error(), "the disc is full"));
}

int main(int argc, char **argv)
{
    pare_comm *comm = NULL;
    int rank = -1;
    const char *mode = argc > 1 ? argv[1] : "";
    EXPECT(pare_comm_world(&comm) == PARE_OK);
    rank = pare_comm_facts_of(comm)->rank;
    int size = pare_comm_facts_of(comm)->size;
    EXPECT(size > 1 && size <= 16);
    pid_t own = getpid(), all[16];
    EXPECT(pare_comm_gather(comm, &own, sizeof own, all) == PARE_OK);

    if (strcmp(mode, "abort") == 0) {
        float some[100] = {0};
        if (rank == 1) {
            fail(comm, rank);
        } else {
            for (int i = 0; i < 3; i++) /* the failure may be known before the last is done */
                (void)pare_comm_sum(comm, some, 100, PARE_F32);
            work_until_failure(comm, rank, "the disc is full");
        }
    } else if (strcmp(mode, "silence") == 0) {
        pare__comm_mpi_patience(comm, 2.5);
        if (rank == 1)
            raise(SIGSTOP);
        work_until_failure(comm, rank, "no sign of life");
        if (rank != 1) {
            kill(all[1], SIGCONT);
            sleep(2); /* let it have its say */
        }
    } else {
        printf("rank %d saw it\n", rank);
        fflush(stdout);
        EXPECT(pare_comm_barrier(comm) == PARE_OK);
        if (rank == 1)
            raise(SIGKILL);
        work_until_failure(comm, rank, "");
        sleep(20); /* whoever started the processes ends them */
    }
    printf("rank %d saw it\n", rank);
    fflush(stdout);
    pare_comm_free(&comm);
    return 0;
}
