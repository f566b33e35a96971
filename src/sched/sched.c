/* sched.c - workers that take items in ascending order and carry each through its stages. */
#include "sched_impl.h"

#include "pare/backend.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"

#include <string.h>

/* Everything a running job shares; `lock` guards all below it. */
typedef struct job_state {
    pare_sched *sched;
    const pare_job *job;
    int stages;
    double total; /* weight of all items */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* an item left, an ordered stage moved on, a failure */
    int64_t next;           /* item to hand out */
    int64_t in_flight_bytes;
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

static int64_t item_bytes(const job_state *s, int64_t item)
{
    return s->job->bytes ? s->job->bytes(s->job->user, item) : 0;
}

/* Takes the next item when the budget admits it; -1 when there is nothing more to do. Holds the
 * lock. */
static int64_t take(job_state *s, int64_t *bytes)
{
    const pare_sched_options *o = &s->sched->options;
    for (;;) {
        if (s->next >= s->job->items || s->failed_item < s->next)
            return -1;
        if (o->cancel && *o->cancel) {
            (void)pare__error(PARE_ERR_INTERRUPTED, __func__, "interrupted");
            record_failure(s, s->next, PARE_ERR_INTERRUPTED);
            return -1;
        }
        int64_t need = item_bytes(s, s->next);
        if (o->budget > 0 && need > o->budget) {
            char needs[32], has[32];
            record_failure(
                s, s->next,
                pare__error(PARE_ERR_MEMORY, __func__,
                            "the memory budget cannot hold one piece of work: it needs %s, the "
                            "budget leaves %s; give --memory more",
                            pare__size_text((double)need, needs, sizeof needs),
                            pare__size_text((double)o->budget, has, sizeof has)));
            return -1;
        }
        if (o->budget <= 0 || s->in_flight == 0 || s->in_flight_bytes + need <= o->budget) {
            *bytes = need; /* what is given back when the item is done, whatever it says then */
            s->in_flight_bytes += need;
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

static pare_status run_item(job_state *s, int index, int64_t item)
{
    for (int stage = 0; stage < s->stages; stage++) {
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

static void *work(void *user)
{
    worker *w = user;
    job_state *s = w->state;
    int64_t bytes = 0;
    pthread_mutex_lock(&s->lock);
    for (int64_t item; (item = take(s, &bytes)) >= 0;) {
        pthread_mutex_unlock(&s->lock);
        pare_status status = run_item(s, w->index, item);
        pthread_mutex_lock(&s->lock);
        if (status != PARE_OK)
            record_failure(s, item, status);
        else
            tell_progress(s, s->job->weight ? s->job->weight(s->job->user, item) : 1);
        s->in_flight_bytes -= bytes;
        s->in_flight--;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Worker 0 is the calling thread; fewer threads than asked for still do all the work. */
static void run_workers(job_state *s, worker *workers, pthread_t *threads, int count)
{
    int started = 0;
    for (int i = 1; i < count; i++) {
        workers[i] = (worker){.state = s, .index = i};
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0)
            break;
        started = i;
    }
    workers[0] = (worker){.state = s, .index = 0};
    work(&workers[0]);
    for (int i = 1; i <= started; i++)
        pthread_join(threads[i], NULL);
}

pare_status pare_sched_run(pare_sched *sched, const pare_job *job)
{
    pare_status status = PARE_OK;
    worker *workers = NULL;
    pthread_t *threads = NULL;
    int count = sched->threads < job->items ? sched->threads : (int)job->items;
    job_state s = {
        .sched = sched, .job = job, .failed_item = job->items, .last_update = pare__now()};
    if (job->items <= 0)
        return PARE_OK;
    while (s.stages < PARE_MAX_STAGES && job->stages[s.stages].run)
        s.stages++;
    for (int64_t i = 0; i < job->items; i++)
        s.total += job->weight ? job->weight(job->user, i) : 1;
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, NULL);
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *workers, &workers));
    PARE_TRY_DONE(pare__calloc((size_t)count, sizeof *threads, &threads));
    run_workers(&s, workers, threads, count);
    (void)pare_memory_now();
    if (s.failed_item < job->items)
        PARE_TRY_DONE(pare__error_again(s.status, s.sentence, s.trail));
    if (sched->options.progress.update)
        sched->options.progress.update(sched->options.progress.user, job->name, s.total, s.total);
done:
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
        PARE_TRY_DONE(pare__trace_open(options->trace, &sched->trace));
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
