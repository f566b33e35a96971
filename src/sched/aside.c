/* aside.c - one thread beside the caller: pieces of work handed over, done in that order, the first
 * failure kept for the caller. */
#include "sched_impl.h"

#include "base/alloc.h"
#include "base/check.h"

struct pare_aside {
    pare_sched *sched;
    pare_aside_options options;
    pthread_t thread;
    bool started; /* else the caller does the work */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t handed, done; /* pieces; guarded by lock, like all below */
    bool end;
    pare_status status; /* the first failure */
    char sentence[1024], trail[512];
};

static int place_of(const pare_aside *a, int64_t piece)
{
    return (int)(piece % a->options.places);
}

/* One piece, unless something before it has failed. */
static void work_on(pare_aside *a, int64_t piece)
{
    pthread_mutex_lock(&a->lock);
    bool wanted = a->status == PARE_OK;
    pthread_mutex_unlock(&a->lock);
    pare_status status = PARE_OK;
    if (wanted) {
        double begin = pare__trace_now(a->sched->trace);
        status = a->options.run(a->options.user, place_of(a, piece));
        pare__trace_stage(a->sched->trace, a->options.name, a->options.stage, a->sched->threads,
                          piece, begin, pare__trace_now(a->sched->trace));
    }
    pthread_mutex_lock(&a->lock);
    if (status != PARE_OK) {
        a->status = status;
        snprintf(a->sentence, sizeof a->sentence, "%s", pare_last_error());
        snprintf(a->trail, sizeof a->trail, "%s", pare_last_trail());
    }
    a->done = piece + 1;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

/* All that is handed over, until the end is said and nothing is left. */
static void *work(void *user)
{
    pare_aside *a = user;
    for (int64_t piece = 0;; piece++) {
        pthread_mutex_lock(&a->lock);
        while (a->handed == piece && !a->end)
            pthread_cond_wait(&a->changed, &a->lock);
        bool more = a->handed > piece;
        pthread_mutex_unlock(&a->lock);
        if (!more)
            return NULL;
        work_on(a, piece);
    }
}

pare_status pare_aside_create(pare_sched *sched, const pare_aside_options *options,
                              pare_aside **aside)
{
    pare_aside *a = NULL;
    PARE_REQUIRE(sched && options && options->run && options->places > 0 && aside,
                 PARE_ERR_ARGUMENT, "work beside the caller: no places, or a NULL argument");
    PARE_TRY(pare__calloc(1, sizeof *a, &a));
    a->sched = sched;
    a->options = *options;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    a->started = pthread_create(&a->thread, NULL, work, a) == 0;
    *aside = a;
    return PARE_OK;
}

/* Waits until at most `left` pieces are not done. */
static pare_status wait_for(pare_aside *a, int left)
{
    pthread_mutex_lock(&a->lock);
    while (a->handed - a->done > left && a->status == PARE_OK)
        pthread_cond_wait(&a->changed, &a->lock);
    pare_status status = a->status;
    pthread_mutex_unlock(&a->lock);
    if (status != PARE_OK) /* nothing changes it any more */
        return pare__error_again(status, a->sentence, a->trail);
    return PARE_OK;
}

pare_status pare_aside_place(pare_aside *a, int *place)
{
    PARE_TRY(wait_for(a, a->options.places - 1));
    *place = place_of(a, a->handed);
    return PARE_OK;
}

void pare_aside_hand(pare_aside *a)
{
    pthread_mutex_lock(&a->lock);
    int64_t piece = a->handed++;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (!a->started)
        work_on(a, piece);
}

pare_status pare_aside_wait(pare_aside *a)
{
    PARE_TRY(wait_for(a, 0));
    return PARE_OK;
}

void pare_aside_free(pare_aside **aside)
{
    pare_aside *a = aside ? *aside : NULL;
    if (!a)
        return;
    *aside = NULL;
    pthread_mutex_lock(&a->lock);
    a->end = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (a->started)
        pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
