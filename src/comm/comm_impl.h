/* comm_impl.h - what a kind of communicator fills in (cuda sees this). */
#ifndef PARE_COMM_IMPL_H
#define PARE_COMM_IMPL_H

#include "pare/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Arguments have been checked and there are at least two ranks' worth of work to do: counts are
 * above 0. A kind without a slot leaves it to `host` (below). */
typedef struct pare__comm_table {
    pare_status (*sum)(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype); /* begins */
    pare_status (*wait)(pare_comm *comm); /* for all sums; adds to traffic.seconds */
    pare_status (*broadcast)(pare_comm *comm, void *buffer, int64_t bytes, int root);
    pare_status (*gather)(pare_comm *comm, const void *mine, int64_t bytes, void *all);
    pare_status (*alive)(pare_comm *comm); /* PARE_ERR_RANK once a rank has failed; at once */
    void (*abort)(pare_comm *comm, const char *sentence);
    void (*free)(pare_comm *comm); /* what `state` is */
} pare__comm_table;

typedef char pare__host_name[64];

struct pare_comm {
    const pare__comm_table *table;
    pare_comm *host; /* the same ranks in host memory: of a device `over`, else itself */
    pare_comm_facts facts;
    pare_comm_traffic traffic;
    pare__host_name *hosts; /* [size], by rank */
    unsigned char *flags;   /* [size], for barriers and agreements */
    int references, pending;
    void *state; /* the kind's own */
};

/* One that is referred to once; hosts are still empty. */
pare_status pare__comm_create(const pare__comm_table *table, const char *kind, int rank, int size,
                              pare_comm **comm);

/* How the environment says that this process was started. */
typedef struct pare__launch {
    int size;       /* processes; 1: alone; 0: by a launcher that does not say how many */
    const char *by; /* "mpirun" …, static */
} pare__launch;
pare__launch pare__comm_launch(void);

/* The communicator of all processes, by MPI (comm_mpi.c). */
pare_status pare__comm_mpi(const pare__launch *launch, pare_comm **comm);
/* Seconds without a sign of life after which a rank counts as dead; for tests. 0: as ever. */
void pare__comm_mpi_patience(pare_comm *comm, double seconds);

/* ---- what is sent along a ring (comm_ring.c) --------------------------------------------------
 */

/* What carries bytes, for one thread. A slot holds one transfer at a time, in memory of its own: so
 * after a failure nothing of the caller's is under way. */
enum { PARE__WIRE_SLOTS = 4, PARE__WIRE_BYTES = 1 << 20 /* the most of one transfer */ };
typedef struct pare__wire {
    int rank, size;
    void *state;
    unsigned char *memory; /* [PARE__WIRE_SLOTS · PARE__WIRE_BYTES] */
    pare_status (*send)(void *state, int slot, int to, int64_t bytes);
    pare_status (*receive)(void *state, int slot, int from, int64_t bytes);
    pare_status (*finish)(void *state, int slot); /* waits; nothing for one that is empty */
} pare__wire;

pare_status pare__ring_sum(const pare__wire *wire, void *buffer, int64_t count, pare_dtype dtype);
pare_status pare__ring_broadcast(const pare__wire *wire, void *buffer, int64_t bytes, int root);
pare_status pare__ring_gather(const pare__wire *wire, const void *mine, int64_t bytes, void *all);

/* ---- devices --------------------------------------------------------------------------------- */

/* What a build with NCCL brings (cuda/cuda_comm_nccl.c); absent in one without. */
typedef struct pare__nccl_entry {
    pare_status (*create)(pare_comm *over, pare_backend *be, pare_comm **comm);
} pare__nccl_entry;
#ifdef PARE_HAS_NCCL
extern const pare__nccl_entry pare__nccl;
#else /* a program may bring one beside the library: simulated devices, in tests */
extern const pare__nccl_entry pare__nccl __attribute__((weak));
#endif

#ifdef __cplusplus
}
#endif
#endif
