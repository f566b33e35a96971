/* sched.c - workers that take items in ascending order and carry each through its stages; with a
 * home stage the calling thread is no worker, but runs the rest of every item itself. */
#include "sched_impl.h"

#include "pare/backend.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"

#include <string.h>

/* Bytes of the host and of a device. */
typedef struct amount {
    int64_t host, device;
} amount;

/* An item on its way home. */
typedef struct handed {
    bool ready;
    amount bytes; /* to be given back when the item is done */
} handed;

/* Everything a running job shares; `lock` guards all below it. */
typedef struct job_state {
    pare_sched *sched;
    const pare_job *job;
    int stages, home; /* how many; the first that runs at home, stages if none */
    int ahead;        /* items in flight at most; 0: no limit */
    double total;     /* weight of all items */
    handed *ring;     /* [ahead], item i at i % ahead; guarded by lock */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* an item left, an ordered stage moved on, a failure */
    int64_t next;           /* item to hand out */
    amount in_flight_bytes;
    int in_flight;
    int64_t turn[PARE_MAX_STAGES]; /* ordered stages: the item whose turn it is */
    double done;                   /* weight of finished items */
    double last_update;            /* when progress was last told */
    int64_t failed_item;           /* lowest item that failed; items if none */
    pare_status status;
    char sentence[1024], trail[512];
} job_state;

typedef struct worker {
    job_state *state;
    int index;
} worker;

static void record_failure(job_state *s, int64_t item, pare_status status)
{
    if (item < s->failed_item) {
        s->failed_item = item;
        s->status = status;
        snprintf(s->sentence, sizeof s->sentence, "%s", pare_last_error());
        snprintf(s->trail, sizeof s->trail, "%s", pare_last_trail());
    }
    pthread_cond_broadcast(&s->changed);
}

static amount item_bytes(const job_state *s, int64_t item)
{
    const pare_job *job = s->job;
    return (amount){.host = job->bytes ? job->bytes(job->user, item) : 0,
                    .device = job->device_bytes ? job->device_bytes(job->user, item) : 0};
}

/* Whether the user wants to stop: then the item fails, unbegun. Holds the lock. */
static bool cancelled(job_state *s, int64_t item)
{
    const volatile int *cancel = s->sched->options.cancel;
    if (!cancel || !__atomic_load_n(cancel, __ATOMIC_RELAXED)) /* any thread may set it */
        return false;
    record_failure(s, item, pare__error(PARE_ERR_INTERRUPTED, __func__, "interrupted"));
    return true;
}

/* Whether one more item fits beside those in flight. */
static bool fits(const job_state *s, amount need)
{
    const pare_sched_options *o = &s->sched->options;
    const amount *now = &s->in_flight_bytes;
    bool room = (o->budget <= 0 || now->host + need.host <= o->budget) &&
                (o->device_budget <= 0 || now->device + need.device <= o->device_budget);
    return (s->ahead == 0 || s->in_flight < s->ahead) && (room || s->in_flight == 0);
}

/* An item that no waiting would make room for is refused. */
static pare_status check_alone(const pare_sched_options *o, amount need)
{
    char needs[32], has[32];
    PARE_REQUIRE(o->budget <= 0 || need.host <= o->budget, PARE_ERR_MEMORY,
                 "the memory budget cannot hold one piece of work: it needs %s, the budget leaves "
                 "%s; give --memory more",
                 pare__size_text((double)need.host, needs, sizeof needs),
                 pare__size_text((double)o->budget, has, sizeof has));
    PARE_REQUIRE(o->device_budget <= 0 || need.device <= o->device_budget, PARE_ERR_MEMORY,
                 "the device cannot hold one piece of work: it needs %s there, %s are left for it; "
                 "free memory of the device, or use --device cpu",
                 pare__size_text((double)need.device, needs, sizeof needs),
                 pare__size_text((double)o->device_budget, has, sizeof has));
    return PARE_OK;
}

/* Takes the next item when the budget admits it; -1 when there is nothing more to do. Holds the
 * lock. */
static int64_t take(job_state *s, amount *bytes)
{
    for (;;) {
        if (s->next >= s->job->items || s->failed_item < s->next || cancelled(s, s->next))
            return -1;
        amount need = item_bytes(s, s->next);
        pare_status status = check_alone(&s->sched->options, need);
        if (status != PARE_OK) {
            record_failure(s, s->next, status);
            return -1;
        }
        if (fits(s, need)) {
            *bytes = need; /* what is given back when the item is done, whatever it says then */
            s->in_flight_bytes.host += need.host;
            s->in_flight_bytes.device += need.device;
            s->in_flight++;
            return s->next++;
        }
        pthread_cond_wait(&s->changed, &s->lock);
    }
}

/* Waits for the item's turn at an ordered stage; false if an earlier item failed (its turn never
 * comes). */
static bool wait_turn(job_state *s, int stage, int64_t item)
{
    pthread_mutex_lock(&s->lock);
    while (s->turn[stage] != item && s->failed_item > item)
        pthread_cond_wait(&s->changed, &s->lock);
    bool mine = s->turn[stage] == item;
    pthread_mutex_unlock(&s->lock);
    return mine;
}

static void pass_turn(job_state *s, int stage)
{
    pthread_mutex_lock(&s->lock);
    s->turn[stage]++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Carries an item through the stages [first, end). */
static pare_status run_item(job_state *s, int index, int64_t item, int first, int end)
{
    for (int stage = first; stage < end; stage++) {
        const pare_stage *what = &s->job->stages[stage];
        if (what->in_order && !wait_turn(s, stage, item))
            return PARE_OK; /* an earlier item failed: this one's result is not wanted */
        double begin = pare__trace_now(s->sched->trace);
        pare_status status = what->run(s->job->user, index, item);
        pare__trace_stage(s->sched->trace, s->job->name, what->name, index, item, begin,
                          pare__trace_now(s->sched->trace));
        if (status != PARE_OK)
            return status;
        if (what->in_order)
            pass_turn(s, stage);
    }
    return PARE_OK;
}

static void tell_progress(job_state *s, double weight)
{
    s->done += weight;
    double now = pare__now();
    if (now - s->last_update < 0.1)
        return;
    s->last_update = now;
    (void)pare_memory_now();
    if (s->sched->options.progress.update)
        s->sched->options.progress.update(s->sched->options.progress.user, s->job->name, s->done,
                                          s->total);
}

/* An item has left, well or not. Holds the lock. */
static void finish_item(job_state *s, int64_t item, amount bytes, pare_status status)
{
    if (status != PARE_OK)
        record_failure(s, item, status);
    else
        tell_progress(s, s->job->weight ? s->job->weight(s->job->user, item) : 1);
    s->in_flight_bytes.host -= bytes.host;
    s->in_flight_bytes.device -= bytes.device;
    s->in_flight--;
    pthread_cond_broadcast(&s->changed);
}

/* A worker: items from their first stage to the last. */
static void *work(void *user)
{
    worker *w = user;
    job_state *s = w->state;
    amount bytes = {0};
    pthread_mutex_lock(&s->lock);
    for (int64_t item; (item = take(s, &bytes)) >= 0;) {
        pthread_mutex_unlock(&s->lock);
        pare_status status = run_item(s, w->index, item, 0, s->stages);
        pthread_mutex_lock(&s->lock);
        finish_item(s, item, bytes, status);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* A worker of a job with a home stage: items up to there. */
static void *work_ahead(void *user)
{
    worker *w = user;
    job_state *s = w->state;
    amount bytes = {0};
    pthread_mutex_lock(&s->lock);
    for (int64_t item; (item = take(s, &bytes)) >= 0;) {
        pthread_mutex_unlock(&s->lock);
        pare_status status = run_item(s, w->index, item, 0, s->home);
        pthread_mutex_lock(&s->lock);
        if (status != PARE_OK) {
            finish_item(s, item, bytes, status);
            continue;
        }
        s->ring[item % s->ahead] = (handed){.ready = true, .bytes = bytes};
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* The calling thread of such a job: each item from the home stage on, as it comes. */
static void work_home(job_state *s)
{
    pthread_mutex_lock(&s->lock);
    for (int64_t item = 0; item < s->job->items; item++) {
        handed *next = &s->ring[item % s->ahead];
        while (!next->ready && s->failed_item > item)
            pthread_cond_wait(&s->changed, &s->lock);
        if (s->failed_item <= item || cancelled(s, item))
            break;
        next->ready = false; /* the place is free again when the item is done */
        pthread_mutex_unlock(&s->lock);
        pare_status status = run_item(s, 0, item, s->home, s->stages);
        pthread_mutex_lock(&s->lock);
        finish_item(s, item, next->bytes, status);
        if (status != PARE_OK)
            break;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Worker 0 is the calling thread; fewer threads than asked for still do all the work. */
static void run_workers(job_state *s, worker *workers, pthread_t *threads, int count)
{
    bool home = s->home < s->stages;
    int started = 0;
    for (int i = 1; i < count; i++) {
        workers[i] = (worker){.state = s, .index = i};
        if (pthread_create(&threads[i], NULL, home ? work_ahead : work, &workers[i]) != 0)
            break;
        started = i;
    }
    workers[0] = (worker){.state = s, .index = 0};
    if (home && started > 0)
        work_home(s);
    else
        work(&workers[0]);
    for (int i = 1; i <= started; i++)
        pthread_join(threads[i], NULL);
}

/* Counts the stages and finds the first that runs at home. */
static void look_at_stages(job_state *s)
{
    while (s->stages < PARE_MAX_STAGES && s->job->stages[s->stages].run)
        s->stages++;
    while (s->home < s->stages && !s->job->stages[s->home].home)
        s->home++;
    if (s->home < s->stages)
        s->ahead = s->job->ahead > 0 ? s->job->ahead : 2;
}

/* No more workers than items that can be in flight; at home the calling thread comes on top. */
static int worker_count(const job_state *s)
{
    int64_t most = s->job->items;
    if (s->ahead > 0)
        most = (most < s->ahead ? most : s->ahead) + 1;
    return s->sched->threads < most ? s->sched->threads : (int)most;
}

pare_status pare_sched_run(pare_sched *sched, const pare_job *job)
{
    pare_status status = PARE_OK;
    worker *workers = NULL;
    pthread_t *threads = NULL;
    job_state s = {
        .sched = sched, .job = job, .failed_item = job->items, .last_update = pare__now()};
    if (job->items <= 0)
        return PARE_OK;
    look_at_stages(&s);
    int count = worker_count(&s);
    for (int64_t i = 0; i < job->items; i++)
        s.total += job->weight ? job->weight(job->user, i) : 1;
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, NULL);
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *workers, &workers));
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *threads, &threads));
    PARE_TRY_DONE(pare__calloc((size_t)s.ahead, sizeof *s.ring, &s.ring));
    run_workers(&s, workers, threads, count);
    (void)pare_memory_now();
    if (s.failed_item < job->items)
        PARE_TRY_DONE(pare__error_again(s.status, s.sentence, s.trail));
    if (sched->options.progress.update)
        sched->options.progress.update(sched->options.progress.user, job->name, s.total, s.total);
done:
    free(s.ring);
    free(threads);
    free(workers);
    pthread_cond_destroy(&s.changed);
    pthread_mutex_destroy(&s.lock);
    return status;
}

pare_status pare_sched_create(const pare_sched_options *options, pare_sched **out)
{
    pare_status status = PARE_OK;
    pare_sched *sched = NULL;
    PARE_REQUIRE(options && out, PARE_ERR_ARGUMENT, "scheduler: NULL argument");
    PARE_REQUIRE(options->threads >= 0 && options->threads <= 4096, PARE_ERR_ARGUMENT,
                 "threads: %d is not between 1 and 4096", options->threads);
    PARE_TRY_DONE(pare__calloc(1, sizeof *sched, &sched));
    sched->options = *options;
    sched->threads = options->threads ? options->threads : pare_cpu_count();
    if (options->trace)
        PARE_TRY_DONE(pare__trace_open(options->trace, options->device, &sched->trace));
    *out = sched;
    sched = NULL;
done:
    free(sched);
    return status;
}

void pare_sched_free(pare_sched **sched)
{
    if (!sched || !*sched)
        return;
    if ((*sched)->trace)
        (void)pare__trace_close(&(*sched)->trace);
    free(*sched);
    *sched = NULL;
}

int pare_sched_threads(const pare_sched *sched)
{
    return sched->threads;
}

int64_t pare_sched_budget(const pare_sched *sched)
{
    return sched->options.budget;
}
