/* thread_comm.c - ranks that are threads: they show each other their buffers and meet twice. */
#include "thread_comm.h"

#include "comm/comm_impl.h"

#include "base/check.h"

#include <pthread.h>

typedef struct shared {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, here, left; /* at the meeting; not freed yet */
    int64_t meeting;
    const void *shown[THREAD_COMM_MOST];
    char failed[1024]; /* the sentence of the first that did */
} shared;

static pare_status alive(pare_comm *comm)
{
    shared *s = comm->state;
    pthread_mutex_lock(&s->lock);
    bool well = s->failed[0] == '\0';
    pthread_mutex_unlock(&s->lock);
    return well ? PARE_OK : pare__error_again(PARE_ERR_RANK, s->failed, "thread_comm");
}

/* All come, and all see what each shows; NULL: all have seen. */
static pare_status meet(pare_comm *comm, const void *shows)
{
    shared *s = comm->state;
    pthread_mutex_lock(&s->lock);
    if (shows)
        s->shown[comm->facts.rank] = shows;
    int64_t meeting = s->meeting;
    if (++s->here == s->size) {
        s->here = 0;
        s->meeting++;
        pthread_cond_broadcast(&s->changed);
    }
    while (s->meeting == meeting && s->failed[0] == '\0')
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    PARE_TRY(alive(comm));
    return PARE_OK;
}

static pare_status sum(pare_comm *comm, void *buffer, int64_t count, pare_dtype dtype)
{
    shared *s = comm->state;
    PARE_TRY(meet(comm, buffer));
    size_t bytes = (size_t)count * (dtype == PARE_F32 ? 4 : 8);
    void *whole = malloc(bytes);
    assert_non_null(whole);
    for (int64_t i = 0; i < count; i++) {
        float narrow = 0;
        double wide = 0;
        for (int rank = 0; rank < s->size; rank++) {
            if (dtype == PARE_F32)
                narrow += ((const float *)s->shown[rank])[i];
            else
                wide += ((const double *)s->shown[rank])[i];
        }
        if (dtype == PARE_F32)
            ((float *)whole)[i] = narrow;
        else
            ((double *)whole)[i] = wide;
    }
    pare_status status = meet(comm, NULL);
    memcpy(buffer, whole, bytes);
    free(whole);
    return status;
}

static pare_status nothing(pare_comm *comm)
{
    (void)comm;
    return PARE_OK;
}

static pare_status broadcast(pare_comm *comm, void *buffer, int64_t bytes, int root)
{
    shared *s = comm->state;
    PARE_TRY(meet(comm, buffer));
    if (comm->facts.rank != root)
        memcpy(buffer, s->shown[root], (size_t)bytes);
    PARE_TRY(meet(comm, NULL));
    return PARE_OK;
}

static pare_status gather(pare_comm *comm, const void *mine, int64_t bytes, void *all)
{
    shared *s = comm->state;
    PARE_TRY(meet(comm, mine));
    for (int rank = 0; rank < s->size; rank++)
        memmove((char *)all + rank * bytes, s->shown[rank], (size_t)bytes);
    PARE_TRY(meet(comm, NULL));
    return PARE_OK;
}

static void end_all(pare_comm *comm, const char *sentence)
{
    shared *s = comm->state;
    pthread_mutex_lock(&s->lock);
    if (s->failed[0] == '\0')
        snprintf(s->failed, sizeof s->failed, "rank %d (%s): %.900s", comm->facts.rank,
                 comm->facts.host, sentence);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void end(pare_comm *comm)
{
    shared *s = comm->state;
    pthread_mutex_lock(&s->lock);
    int left = --s->left;
    pthread_mutex_unlock(&s->lock);
    if (left > 0)
        return;
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const pare__comm_table thread_table = {
    .sum = sum,
    .wait = nothing,
    .broadcast = broadcast,
    .gather = gather,
    .alive = alive,
    .abort = end_all,
    .free = end,
};

void thread_comm_make(int size, pare_comm **comms)
{
    shared *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_true(size <= THREAD_COMM_MOST);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->size = s->left = size;
    for (int rank = 0; rank < size; rank++) {
        assert_ok(pare__comm_create(&thread_table, "threads", rank, size, &comms[rank]));
        comms[rank]->state = s;
        comms[rank]->facts.local_rank = rank;
        comms[rank]->facts.local_size = size;
        snprintf(comms[rank]->facts.host, sizeof comms[rank]->facts.host, "here");
        for (int other = 0; other < size; other++)
            snprintf(comms[rank]->hosts[other], sizeof *comms[rank]->hosts, "here");
    }
}

typedef struct rank_run {
    thread_comm_work work;
    void *user;
    pare_comm *comm;
    pare_status status;
} rank_run;

static void *rank_main(void *user)
{
    rank_run *run = user;
    run->status = run->work(run->user, run->comm);
    pare_comm_free(&run->comm);
    return NULL;
}

void thread_comm_run(int size, thread_comm_work work, void *user, pare_status *statuses)
{
    pare_comm *comms[THREAD_COMM_MOST];
    rank_run runs[THREAD_COMM_MOST];
    pthread_t threads[THREAD_COMM_MOST];
    thread_comm_make(size, comms);
    for (int rank = 0; rank < size; rank++) {
        runs[rank] = (rank_run){.work = work, .user = user, .comm = comms[rank]};
        assert_int_equal(pthread_create(&threads[rank], NULL, rank_main, &runs[rank]), 0);
    }
    for (int rank = 0; rank < size; rank++) {
        pthread_join(threads[rank], NULL);
        statuses[rank] = runs[rank].status;
    }
}
