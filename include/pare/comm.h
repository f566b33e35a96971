/* comm.h - ranks that work on one thing together.
 *
 * A communicator is one rank's end: of a process (MPI, started by mpirun or Slurm), of a device
 * (NCCL, for which MPI or threads bring the ranks together), or of nobody else. All ranks make the
 * same calls in the same order. Sums are formed in an order that depends on the number of ranks and
 * the count alone, so that the same work by the same number of ranks gives the same bytes.
 *
 * A rank that fails says so with pare_comm_abort; the others' calls then fail within seconds
 * (PARE_ERR_RANK: which rank, its host, its sentence), as they do when it dies without a word.
 */
#ifndef PARE_COMM_H
#define PARE_COMM_H

#include "pare/backend.h"
#include "pare/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_comm pare_comm;

typedef struct pare_comm_facts {
    int rank, size;
    int local_rank, local_size; /* among the ranks of this host: which device to take */
    const char *kind;           /* "self", "mpi", "nccl" */
    char host[64];
    char library[96]; /* "Open MPI 4.1.4", "NCCL 2.27.3" */
} pare_comm_facts;

/* The rank of a process that is alone. */
pare_status pare_comm_self(pare_comm **comm);
/* All processes of the job; alone if it was not started as several. The first call begins MPI
 * (which needs one process-wide call: call it before threads are made), the last free ends it.
 * PARE_ERR_UNSUPPORTED in a build without MPI, if the environment says that there are several. */
pare_status pare_comm_world(pare_comm **comm);
/* The same ranks, on buffers in the memory of a device's backend, by NCCL; `over` brings the ranks
 * together and must outlive it. On a CPU backend: `over` itself, counted once more. */
pare_status pare_comm_device(pare_comm *over, pare_backend *be, pare_comm **comm);
void pare_comm_free(pare_comm **comm);

const pare_comm_facts *pare_comm_facts_of(const pare_comm *comm);

/* buffer [count] becomes the sum of all ranks', F32 or F64, in place; host memory, or the device's
 * of a communicator made for one. */
pare_status pare_comm_sum(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype);
/* The same, begun now and done when pare_comm_wait returns: at most PARE_COMM_PENDING at a time,
 * in one order on all ranks. The buffer is not to be touched meanwhile. */
#define PARE_COMM_PENDING 64
pare_status pare_comm_sum_begin(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype);
pare_status pare_comm_wait(pare_comm *comm); /* for all that was begun */
/* bytes of rank `root` go to all. */
pare_status pare_comm_broadcast(pare_comm *comm, void *buffer, int64_t bytes, int root);
/* Host memory alone: each rank's bytes [bytes] into all [size × bytes], by rank. */
pare_status pare_comm_gather(pare_comm *comm, const void *mine, int64_t bytes, void *all);
/* Waits for all ranks. */
pare_status pare_comm_barrier(pare_comm *comm);
/* Whether all ranks hold the same bytes: PARE_ERR_RANK names the first that differs from rank 0 and
 * `what`. */
pare_status pare_comm_agree(pare_comm *comm, const void *bytes, int64_t count, const char *what);

/* Ends the work of all ranks with this rank's last error. Returns status. */
pare_status pare_comm_abort(pare_comm *comm, pare_status status);

/* What has been moved so far. */
typedef struct pare_comm_traffic {
    int64_t calls, bytes; /* of buffers, this rank's */
    double seconds;       /* from begin to end, */
    double exposed;       /* of which the caller waited */
} pare_comm_traffic;
pare_comm_traffic pare_comm_traffic_of(const pare_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
