/* comm.c - the public functions of communicators: arguments, traffic, agreements. */
#include "comm_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

pare_status pare__comm_create(const pare__comm_table *table, const char *kind, int rank, int size,
                              pare_comm **comm)
{
    pare_status status = PARE_OK;
    pare_comm *c = NULL;
    PARE_TRY_DONE(pare__calloc(1, sizeof *c, &c));
    PARE_TRY_DONE(pare__calloc((size_t)size, sizeof *c->hosts, &c->hosts));
    PARE_TRY_DONE(pare__calloc((size_t)size, 1, &c->flags));
    c->table = table;
    c->host = c;
    c->references = 1;
    c->facts = (pare_comm_facts){
        .rank = rank, .size = size, .local_rank = 0, .local_size = 1, .kind = kind};
    *comm = c;
    return PARE_OK;
done:
    if (c)
        free(c->hosts);
    free(c);
    return status;
}

pare_status pare_comm_world(pare_comm **comm)
{
    PARE_REQUIRE(comm, PARE_ERR_ARGUMENT, "there is nowhere to put the communicator");
    pare__launch launch = pare__comm_launch();
    if (launch.size == 1)
        return pare_comm_self(comm);
#ifdef PARE_HAS_MPI
    PARE_TRY(pare__comm_mpi(&launch, comm));
    return PARE_OK;
#else
    PARE_FAIL(PARE_ERR_UNSUPPORTED,
              "%s started this process as one of several, but this pare was built without MPI: "
              "install MPI (libopenmpi-dev) and build again, or start a single process",
              launch.by);
#endif
}

pare_status pare_comm_device(pare_comm *over, pare_backend *be, pare_comm **comm)
{
    PARE_REQUIRE(over && be && comm, PARE_ERR_ARGUMENT,
                 "a communicator for a device needs one of the ranks, a backend, and a place");
    PARE_REQUIRE(over->host == over, PARE_ERR_ARGUMENT,
                 "the ranks of a device are brought together by those of processes, not by those "
                 "of another device");
    if (pare_backend_is_host(be) || over->facts.size == 1) {
        over->references++;
        *comm = over;
        return PARE_OK;
    }
    PARE_REQUIRE(&pare__nccl != NULL, PARE_ERR_UNSUPPORTED,
                 "%d ranks on devices need NCCL, which this pare was built without: install it and "
                 "build again, or use --device cpu",
                 over->facts.size);
    PARE_TRY(pare__nccl.create(over, be, comm));
    return PARE_OK;
}

void pare_comm_free(pare_comm **comm)
{
    pare_comm *c = comm ? *comm : NULL;
    if (!c)
        return;
    *comm = NULL;
    if (--c->references > 0)
        return;
    if (c->table->free)
        c->table->free(c);
    free(c->flags), free(c->hosts), free(c);
}

const pare_comm_facts *pare_comm_facts_of(const pare_comm *comm)
{
    return &comm->facts;
}

/* Waiting ends a moment after what was waited for. */
pare_comm_traffic pare_comm_traffic_of(const pare_comm *comm)
{
    pare_comm_traffic traffic = comm->traffic;
    if (traffic.exposed > traffic.seconds)
        traffic.exposed = traffic.seconds;
    return traffic;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void count_call(pare_comm *comm, int64_t bytes)
{
    comm->traffic.calls++;
    comm->traffic.bytes += bytes;
}

pare_status pare_comm_sum_begin(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype)
{
    int64_t bytes;
    PARE_REQUIRE(comm, PARE_ERR_ARGUMENT, "a sum needs a communicator");
    PARE_REQUIRE(dtype == PARE_F32 || dtype == PARE_F64, PARE_ERR_ARGUMENT,
                 "ranks sum float32 and float64, not %s", pare_dtype_name(dtype));
    PARE_REQUIRE(
        count >= 0 && (buffer || count == 0) && pare__mul(count, dtype == PARE_F32 ? 4 : 8, &bytes),
        PARE_ERR_ARGUMENT, "a sum of %lld numbers over ranks: no such buffer", (long long)count);
    PARE_REQUIRE(comm->pending < PARE_COMM_PENDING, PARE_ERR_ARGUMENT,
                 "%d sums have been begun: wait for them first", PARE_COMM_PENDING);
    PARE_TRY(comm->table->alive(comm));
    if (count == 0)
        return PARE_OK;
    count_call(comm, bytes);
    PARE_TRY(comm->table->sum(comm, buffer, count, dtype));
    comm->pending++;
    return PARE_OK;
}

pare_status pare_comm_wait(pare_comm *comm)
{
    PARE_REQUIRE(comm, PARE_ERR_ARGUMENT, "waiting needs a communicator");
    if (comm->pending == 0) {
        PARE_TRY(comm->table->alive(comm));
        return PARE_OK;
    }
    double begin = pare__now();
    comm->pending = 0;
    PARE_TRY(comm->table->wait(comm));
    comm->traffic.exposed += pare__now() - begin;
    return PARE_OK;
}

pare_status pare_comm_sum(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype)
{
    PARE_TRY(pare_comm_sum_begin(comm, buffer, count, dtype));
    PARE_TRY(pare_comm_wait(comm));
    return PARE_OK;
}

pare_status pare_comm_broadcast(pare_comm *comm, void *buffer, int64_t bytes, int root)
{
    PARE_REQUIRE(comm && bytes >= 0 && (buffer || bytes == 0), PARE_ERR_ARGUMENT,
                 "a broadcast of %lld bytes: no such buffer, or no communicator", (long long)bytes);
    PARE_REQUIRE(root >= 0 && root < comm->facts.size, PARE_ERR_ARGUMENT,
                 "a broadcast from rank %d: there are %d", root, comm->facts.size);
    PARE_TRY(pare_comm_wait(comm));
    if (bytes == 0)
        return PARE_OK;
    count_call(comm, bytes);
    double begin = pare__now();
    PARE_TRY(comm->table->broadcast(comm, buffer, bytes, root));
    comm->traffic.exposed += pare__now() - begin;
    return PARE_OK;
}

pare_status pare_comm_gather(pare_comm *comm, const void *mine, int64_t bytes, void *all)
{
    int64_t whole;
    PARE_REQUIRE(comm && bytes >= 0 && ((mine && all) || bytes == 0) &&
                     pare__mul(bytes, comm->facts.size, &whole),
                 PARE_ERR_ARGUMENT, "gathering %lld bytes of each rank: no such buffer",
                 (long long)bytes);
    comm = comm->host;
    PARE_TRY(pare_comm_wait(comm));
    if (bytes == 0)
        return PARE_OK;
    count_call(comm, bytes);
    double begin = pare__now();
    PARE_TRY(comm->table->gather(comm, mine, bytes, all));
    comm->traffic.exposed += pare__now() - begin;
    return PARE_OK;
}

pare_status pare_comm_barrier(pare_comm *comm)
{
    PARE_REQUIRE(comm, PARE_ERR_ARGUMENT, "a barrier needs a communicator");
    unsigned char here = 1;
    PARE_TRY(pare_comm_gather(comm, &here, 1, comm->flags));
    return PARE_OK;
}

/* The bytes of rank 0 come in pieces, so that nothing is allocated; who is shorter or longer
 * differs. */
pare_status pare_comm_agree(pare_comm *comm, const void *bytes, int64_t count, const char *what)
{
    PARE_REQUIRE(comm && count >= 0 && (bytes || count == 0) && what, PARE_ERR_ARGUMENT,
                 "an agreement of ranks needs a communicator, bytes, and what they are");
    comm = comm->host;
    unsigned char piece[4096], same = 1;
    int64_t theirs = count;
    PARE_TRY(pare_comm_broadcast(comm, &theirs, sizeof theirs, 0));
    same = theirs == count;
    for (int64_t at = 0; at < theirs; at += (int64_t)sizeof piece) {
        int64_t n = theirs - at < (int64_t)sizeof piece ? theirs - at : (int64_t)sizeof piece;
        if (comm->facts.rank == 0)
            memcpy(piece, (const unsigned char *)bytes + at, (size_t)n);
        PARE_TRY(pare_comm_broadcast(comm, piece, n, 0));
        if (same)
            same = memcmp(piece, (const unsigned char *)bytes + at, (size_t)n) == 0;
    }
    PARE_TRY(pare_comm_gather(comm, &same, 1, comm->flags));
    for (int rank = 1; rank < comm->facts.size; rank++)
        PARE_REQUIRE(
            comm->flags[rank], PARE_ERR_RANK,
            "rank %d (%s) differs from rank 0 (%s) in %s: all ranks must be given the same", rank,
            comm->hosts[rank], comm->hosts[0], what);
    return PARE_OK;
}

pare_status pare_comm_abort(pare_comm *comm, pare_status status)
{
    if (comm && status != PARE_OK) {
        comm->host->table->abort(comm->host, pare_last_error());
        if (comm->host != comm && comm->table->abort)
            comm->table->abort(comm, pare_last_error());
        comm->pending = comm->host->pending = 0;
    }
    return status;
}
