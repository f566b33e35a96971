/* comm_mpi.c - all processes of a job, by MPI.
 *
 * One thread of each process makes every call of MPI, from its beginning to its end: it takes what
 * the caller asks for from a queue and does it in that order, so that sums go on while the caller
 * computes, and MPI need not know of threads. Everything is sent without blocking and asked for
 * until it is done; between two questions the thread rests, a little longer each time, because the
 * processor belongs to those who compute.
 *
 * While it waits it looks after the others, on a communicator of their own: a rank that fails sends
 * its sentence to all; and each rank gives the next one a sign of life every second. Who misses 20
 * of them tells all that the rank before it is dead. After either, every call fails.
 */
#include "comm_impl.h"

#ifdef PARE_HAS_MPI

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TAG_DATA = 1, TAG_WORDS, TAG_LIFE, WORDS = 1024 };

static const double LIFE = 1, PATIENCE = 20; /* seconds between signs of life; until one is dead */
static const double FAREWELL = 10; /* seconds that failed ranks wait for each other at the end */

typedef enum job_kind { SUM, BROADCAST, GATHER } job_kind;
typedef struct job {
    job_kind kind;
    void *buffer;
    const void *mine; /* of GATHER */
    int64_t count;    /* of SUM; else bytes */
    pare_dtype dtype;
    int root;
    double asked; /* when it was put */
} job;

typedef struct line {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    job jobs[PARE_COMM_PENDING]; /* guarded by lock, like all down to the atomics */
    int64_t put, done;
    double busy; /* seconds in which a job was asked for and not done */
    bool ready, end;
    pare_status status; /* of the beginning; then PARE_ERR_RANK once a rank has failed, */
    char sentence[WORDS];
    char own[WORDS]; /* of this rank, to be told to all */
    atomic_bool speak;
    _Atomic double patience;

    /* the thread's alone */
    const pare__launch *launch; /* until it is ready */
    pare_comm *comm;
    pare__wire wire;
    MPI_Comm data, side;
    MPI_Request slots[PARE__WIRE_SLOTS], words_in, life_in, life_out;
    MPI_Request *words_out; /* [size] */
    char words[WORDS];      /* of another rank */
    bool heard;             /* what failed is known to all already */
    bool ended;             /* MPI is: else the wire's memory is still its own */
    int culprit;
    double looked, silent, living; /* when it looked last; seconds of silence; last own sign */
} line;

/* MPI can be begun once in a process, so the process has one such communicator. */
static struct {
    pthread_mutex_t lock;
    pare_comm *comm; /* NULL: not begun, or ended */
} world = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pare_status mpi_error(int code, const char *where, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    (void)MPI_Error_string(code, text, &length);
    return pare__error(PARE_ERR_RANK, where, "MPI: %.*s: %s", (int)strcspn(call, "("), call, text);
}

#define MPI_TRY(call_)                                                                             \
    do {                                                                                           \
        int code_ = (call_);                                                                       \
        if (code_ != MPI_SUCCESS)                                                                  \
            return mpi_error(code_, __func__, #call_);                                             \
    } while (0)

/* ---- looking after the others ---------------------------------------------------------------- */

static pare_status expect(line *l)
{
    int before = (l->wire.rank + l->wire.size - 1) % l->wire.size;
    MPI_TRY(MPI_Irecv(NULL, 0, MPI_BYTE, before, TAG_LIFE, l->side, &l->life_in));
    return PARE_OK;
}

/* Signs of life, given and taken. The time that this process itself was stopped does not count:
 * between two looks it is taken for a second at most. */
static pare_status live(line *l)
{
    int size = l->wire.size, there = 0, free_again = 0;
    double now = pare__now(), passed = now - l->looked;
    l->looked = now;
    MPI_TRY(MPI_Test(&l->life_in, &there, MPI_STATUS_IGNORE));
    if (there) {
        l->silent = 0;
        PARE_TRY(expect(l));
    } else {
        l->silent += passed < LIFE ? passed : LIFE;
    }
    MPI_TRY(MPI_Test(&l->life_out, &free_again, MPI_STATUS_IGNORE));
    if (free_again && now - l->living >= LIFE) {
        l->living = now;
        MPI_TRY(MPI_Isend(NULL, 0, MPI_BYTE, (l->wire.rank + 1) % size, TAG_LIFE, l->side,
                          &l->life_out));
    }
    double patience = l->patience;
    if (l->silent > patience) {
        l->culprit = (l->wire.rank + size - 1) % size;
        PARE_FAIL(PARE_ERR_RANK, "no sign of life for %.0f seconds: killed, stopped, or cut off",
                  patience);
    }
    return PARE_OK;
}

/* Whether anything ends the work: words of another rank, of this one, or silence. */
static pare_status look(line *l)
{
    int there = 0;
    MPI_TRY(MPI_Test(&l->words_in, &there, MPI_STATUS_IGNORE));
    if (there) {
        l->heard = true;
        l->words[WORDS - 1] = '\0';
        PARE_FAIL(PARE_ERR_RANK, "%s", l->words);
    }
    if (l->speak)
        PARE_FAIL(PARE_ERR_RANK, "%s", l->own);
    PARE_TRY(live(l));
    return PARE_OK;
}

/* Between two questions, the round-th time: others first, then sleep. */
static void rest(int round)
{
    if (round < 200) {
        sched_yield();
        return;
    }
    struct timespec pause = {.tv_nsec = round < 2000 ? 20000 : 200000};
    nanosleep(&pause, NULL);
}

/* Until all of the requests are done, or so many seconds have passed. */
static bool settle(int count, MPI_Request *requests, double seconds)
{
    double begin = pare__now();
    int done = 0;
    for (int round = 0; !done && pare__now() - begin < seconds; round++) {
        if (MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS)
            return false;
        if (!done)
            rest(round);
    }
    return done;
}

/* The first failure is that of all: it is told to those who do not know. What was under way stays
 * so, in the wire's own memory. */
static void give_up(line *l)
{
    int rank = l->wire.rank, size = l->wire.size;
    char sentence[WORDS];
    if (l->heard)
        snprintf(sentence, sizeof sentence, "%s", l->words);
    else
        snprintf(sentence, sizeof sentence, "rank %d (%s): %.900s", l->culprit,
                 l->comm->hosts[l->culprit], pare_last_error());
    pthread_mutex_lock(&l->lock);
    l->status = PARE_ERR_RANK;
    memcpy(l->sentence, sentence, sizeof l->sentence);
    pthread_mutex_unlock(&l->lock);
    for (int other = 0; other < size && !l->heard; other++)
        if (other != rank)
            (void)MPI_Isend(l->sentence, WORDS, MPI_CHAR, other, TAG_WORDS, l->side,
                            &l->words_out[other]);
    (void)settle(size, l->words_out, 2);
}

/* ---- the wire -------------------------------------------------------------------------------- */

static pare_status wire_send(void *state, int slot, int to, int64_t bytes)
{
    line *l = state;
    MPI_TRY(MPI_Isend(l->wire.memory + slot * PARE__WIRE_BYTES, (int)bytes, MPI_BYTE, to, TAG_DATA,
                      l->data, &l->slots[slot]));
    return PARE_OK;
}

static pare_status wire_receive(void *state, int slot, int from, int64_t bytes)
{
    line *l = state;
    MPI_TRY(MPI_Irecv(l->wire.memory + slot * PARE__WIRE_BYTES, (int)bytes, MPI_BYTE, from,
                      TAG_DATA, l->data, &l->slots[slot]));
    return PARE_OK;
}

static pare_status wire_finish(void *state, int slot)
{
    line *l = state;
    for (int round = 0;; round++) {
        int there = 0;
        MPI_TRY(MPI_Test(&l->slots[slot], &there, MPI_STATUS_IGNORE));
        if (there)
            return PARE_OK;
        PARE_TRY(look(l));
        rest(round);
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

static pare_status meet(line *l)
{
    pare_comm *c = l->comm;
    char own[sizeof *c->hosts] = "";
    memcpy(own, c->facts.host, sizeof own);
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &l->data));
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &l->side));
    MPI_TRY(MPI_Allgather(own, sizeof own, MPI_CHAR, c->hosts, sizeof own, MPI_CHAR, l->data));
    c->facts.local_size = 0;
    for (int rank = 0; rank < c->facts.size; rank++)
        if (strcmp(c->hosts[rank], own) == 0) {
            c->facts.local_rank += rank < c->facts.rank;
            c->facts.local_size++;
        }
    MPI_TRY(MPI_Irecv(l->words, WORDS, MPI_CHAR, MPI_ANY_SOURCE, TAG_WORDS, l->side, &l->words_in));
    PARE_TRY(expect(l));
    l->looked = pare__now();
    return PARE_OK;
}

static const pare__comm_table mpi_table;

static pare_status begin(line *l)
{
    int rank = 0, size = 0, length = 0, given;
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given));
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &size));
    MPI_TRY(MPI_Get_library_version(version, &length));
    version[strcspn(version, ",\n")] = '\0';
    PARE_REQUIRE(l->launch->size == 0 || l->launch->size == size, PARE_ERR_UNSUPPORTED,
                 "%s started %d processes, but %s, which this pare was built with, finds %d: start "
                 "them by its own mpirun, or by srun --mpi=pmix",
                 l->launch->by, l->launch->size, version, size);
    PARE_TRY(pare__comm_create(&mpi_table, "mpi", rank, size, &l->comm));
    PARE_TRY(pare__calloc((size_t)size, sizeof *l->words_out, &l->words_out));
    PARE_TRY(pare__calloc(PARE__WIRE_SLOTS, PARE__WIRE_BYTES, &l->wire.memory));
    for (int i = 0; i < size; i++)
        l->words_out[i] = MPI_REQUEST_NULL;
    pare_comm_facts *facts = &l->comm->facts;
    snprintf(facts->library, sizeof facts->library, "%.95s", version);
    if (gethostname(facts->host, sizeof facts->host - 1) != 0)
        snprintf(facts->host, sizeof facts->host, "localhost");
    l->comm->state = l;
    l->wire.rank = l->culprit = rank;
    l->wire.size = size;
    PARE_TRY(meet(l));
    return PARE_OK;
}

static pare_status run_job(line *l, const job *j)
{
    switch (j->kind) {
    case SUM:
        return pare__ring_sum(&l->wire, j->buffer, j->count, j->dtype);
    case BROADCAST:
        return pare__ring_broadcast(&l->wire, j->buffer, j->count, j->root);
    default:
        return pare__ring_gather(&l->wire, j->mine, j->count, j->buffer);
    }
}

/* The next job, or false: looks after the others meanwhile, or the end has been said. */
static bool next_job(line *l, job *next, bool *end)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 50000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&l->lock);
    if (l->done == l->put && !l->end && (!l->speak || l->status != PARE_OK))
        pthread_cond_timedwait(&l->changed, &l->lock, &until);
    bool there = l->done < l->put;
    if (there)
        *next = l->jobs[l->done % PARE_COMM_PENDING];
    *end = l->end && !there;
    pthread_mutex_unlock(&l->lock);
    return there;
}

static void work(line *l)
{
    pare_status status = PARE_OK;
    double last = 0; /* when the job before was done */
    job next;
    for (bool end = false; !end;) {
        bool there = next_job(l, &next, &end);
        bool well = status == PARE_OK;
        if (well && there)
            status = run_job(l, &next);
        else if (well)
            status = look(l);
        if (well && status != PARE_OK)
            give_up(l);
        pthread_mutex_lock(&l->lock);
        if (there) {
            double now = pare__now();
            l->busy += now - (next.asked > last ? next.asked : last);
            last = now;
            l->done++;
        }
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
    }
}

/* MPI ends together: a rank that has nothing more to do goes on giving signs of life until all have
 * nothing more to do. After a failure some may be gone: then MPI is left as it is, and whoever
 * started the processes cleans up after them. */
static void part(line *l)
{
    MPI_Request all_here;
    bool well = l->status == PARE_OK;
    double begin = pare__now();
    int here = 0;
    if (MPI_Ibarrier(l->side, &all_here) != MPI_SUCCESS)
        return;
    for (int round = 0; !here; round++) {
        if (MPI_Test(&all_here, &here, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return;
        if (well && !here && look(l) != PARE_OK) {
            well = false;
            begin = pare__now();
            give_up(l);
        }
        if (!well && !here && pare__now() - begin > FAREWELL)
            return;
        rest(round);
    }
    MPI_Request *pending[] = {&l->words_in, &l->life_in};
    for (int i = 0; i < 2; i++)
        if (*pending[i] != MPI_REQUEST_NULL) {
            (void)MPI_Cancel(pending[i]);
            (void)settle(1, pending[i], 1);
        }
    (void)settle(1, &l->life_out, 1);
    (void)MPI_Comm_free(&l->data);
    (void)MPI_Comm_free(&l->side);
    (void)MPI_Finalize();
    l->ended = true;
}

static void *thread_main(void *user)
{
    line *l = user;
    pare_status status = begin(l);
    pthread_mutex_lock(&l->lock);
    l->ready = true;
    l->status = status;
    if (status != PARE_OK)
        snprintf(l->sentence, sizeof l->sentence, "%s", pare_last_error());
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (status != PARE_OK) {
        l->ended = MPI_Finalize() == MPI_SUCCESS;
        return NULL;
    }
    work(l);
    part(l);
    return NULL;
}

/* ---- the caller's side ----------------------------------------------------------------------- */

static pare_status failure_of(line *l)
{
    PARE_TRY(pare__error_again(l->status, l->sentence, "pare_comm"));
    return PARE_OK;
}

/* Waits until all that was put is done. */
static pare_status wait(pare_comm *comm)
{
    line *l = comm->state;
    pthread_mutex_lock(&l->lock);
    while (l->done < l->put)
        pthread_cond_wait(&l->changed, &l->lock);
    pare_status status = l->status;
    comm->traffic.seconds = l->busy;
    pthread_mutex_unlock(&l->lock);
    return status == PARE_OK ? PARE_OK : failure_of(l); /* nothing changes it any more */
}

static void put(pare_comm *comm, const job *j)
{
    line *l = comm->state;
    pthread_mutex_lock(&l->lock);
    l->jobs[l->put % PARE_COMM_PENDING] = *j;
    l->jobs[l->put++ % PARE_COMM_PENDING].asked = pare__now();
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static pare_status sum(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype)
{
    put(comm, &(job){.kind = SUM, .buffer = buffer, .count = count, .dtype = dtype});
    return PARE_OK;
}

static pare_status broadcast(pare_comm *comm, void *buffer, int64_t bytes, int root)
{
    put(comm, &(job){.kind = BROADCAST, .buffer = buffer, .count = bytes, .root = root});
    PARE_TRY(wait(comm));
    return PARE_OK;
}

static pare_status gather(pare_comm *comm, const void *mine, int64_t bytes, void *all)
{
    put(comm, &(job){.kind = GATHER, .buffer = all, .mine = mine, .count = bytes});
    PARE_TRY(wait(comm));
    return PARE_OK;
}

static pare_status alive(pare_comm *comm)
{
    line *l = comm->state;
    pthread_mutex_lock(&l->lock);
    pare_status status = l->status;
    pthread_mutex_unlock(&l->lock);
    return status == PARE_OK ? PARE_OK : failure_of(l);
}

static void end_all(pare_comm *comm, const char *sentence)
{
    line *l = comm->state;
    pthread_mutex_lock(&l->lock);
    if (l->status == PARE_OK && !l->speak) {
        snprintf(l->own, sizeof l->own, "%.900s", sentence);
        l->speak = true;
        pthread_cond_broadcast(&l->changed);
    }
    while (l->status == PARE_OK || l->done < l->put)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void free_line(line *l)
{
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    if (l->ended)
        free(l->wire.memory), free(l->words_out), free(l);
}

static void end(pare_comm *comm)
{
    line *l = comm->state;
    pthread_mutex_lock(&world.lock);
    world.comm = NULL;
    pthread_mutex_unlock(&world.lock);
    pthread_mutex_lock(&l->lock);
    l->end = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    free_line(l);
}

static const pare__comm_table mpi_table = {
    .sum = sum,
    .wait = wait,
    .broadcast = broadcast,
    .gather = gather,
    .alive = alive,
    .abort = end_all,
    .free = end,
};

void pare__comm_mpi_patience(pare_comm *comm, double seconds)
{
    ((line *)comm->state)->patience = seconds > 0 ? seconds : PATIENCE;
}

static pare_status make_line(const pare__launch *launch, line **made)
{
    line *l;
    pthread_condattr_t monotonic;
    PARE_TRY(pare__calloc(1, sizeof *l, &l));
    l->launch = launch;
    l->patience = PATIENCE;
    l->words_in = l->life_in = l->life_out = MPI_REQUEST_NULL;
    for (int slot = 0; slot < PARE__WIRE_SLOTS; slot++)
        l->slots[slot] = MPI_REQUEST_NULL;
    l->wire =
        (pare__wire){.state = l, .send = wire_send, .receive = wire_receive, .finish = wire_finish};
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *made = l;
    return PARE_OK;
}

static pare_status begin_world(const pare__launch *launch)
{
    line *l;
    int ended = 0;
    PARE_REQUIRE(MPI_Finalized(&ended) == MPI_SUCCESS && !ended, PARE_ERR_UNSUPPORTED,
                 "MPI has ended in this process and cannot be begun again");
    PARE_TRY(make_line(launch, &l));
    if (pthread_create(&l->thread, NULL, thread_main, l) != 0) {
        l->ended = true;
        free_line(l);
        PARE_FAIL(PARE_ERR_MEMORY, "no thread could be started for MPI");
    }
    pthread_mutex_lock(&l->lock);
    while (!l->ready)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (l->status == PARE_OK) {
        world.comm = l->comm;
        return PARE_OK;
    }
    pthread_join(l->thread, NULL);
    pare_status status = pare__error_again(l->status, l->sentence, __func__);
    if (l->comm)
        free(l->comm->flags), free(l->comm->hosts), free(l->comm);
    free_line(l);
    return status;
}

pare_status pare__comm_mpi(const pare__launch *launch, pare_comm **comm)
{
    pare_status status = PARE_OK;
    pthread_mutex_lock(&world.lock);
    if (world.comm)
        world.comm->references++;
    else
        status = begin_world(launch);
    *comm = status == PARE_OK ? world.comm : NULL;
    pthread_mutex_unlock(&world.lock);
    return status;
}

#endif
