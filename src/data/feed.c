/* feed.c - batches in a ring: the scheduler's other threads fill the next ones while the calling
 * thread works on one. */
#include "data_impl.h"

typedef struct feed {
    const pare_feed_options *o;
    int ahead, places; /* on their way at a time; and with one that has come and waits */
    int64_t batches;
    pare_batch **ring; /* [places]: batch i is in place i % places from its filling to its use */
    pare_status (*work)(void *user, int64_t index, const pare_batch *batch);
    void *user;
} feed;

/* From the beginning of a batch to that of the next. */
static int64_t each(const pare_feed_options *o)
{
    return o->each > 0 ? o->each : o->batch;
}

static pare_status fill(void *user, int worker, int64_t index)
{
    feed *f = user;
    int64_t first = f->o->first + index * each(f->o), left = f->o->last - first;
    (void)worker;
    return pare_dataset_fill(f->o->dataset, first, left < f->o->batch ? left : f->o->batch,
                             f->ring[index % f->places]);
}

static pare_status use(void *user, int worker, int64_t index)
{
    feed *f = user;
    const pare_batch *batch = f->ring[index % f->places];
    (void)worker;
    if (!f->o->coming)
        return f->work(f->user, index, batch);
    PARE_TRY(f->o->coming(f->user, index, batch));
    if (index > 0)
        PARE_TRY(f->work(f->user, index - 1, f->ring[(index - 1) % f->places]));
    if (index == f->batches - 1)
        PARE_TRY(f->work(f->user, index, batch));
    return PARE_OK;
}

static int64_t bytes(void *user, int64_t index)
{
    feed *f = user;
    (void)index;
    return pare_batch_bytes(f->o->dataset, f->o->batch);
}

/* How many batches there are at a time: what was asked for, as far as the budget goes. One alone
 * that is too large is left to the scheduler to refuse. */
static int at_a_time(const pare_sched *sched, const pare_feed_options *o, int64_t batches)
{
    int64_t ahead = o->ahead > 0 ? o->ahead : 2, budget = pare_sched_budget(sched);
    int64_t fit = budget / pare_batch_bytes(o->dataset, o->batch) - (o->coming ? 1 : 0);
    if (budget > 0 && fit < ahead)
        ahead = fit;
    ahead = ahead < batches ? ahead : batches;
    return ahead < 1 ? 1 : (int)ahead;
}

pare_status pare_feed_run(pare_sched *sched, const char *name, const pare_feed_options *options,
                          pare_status (*work)(void *user, int64_t index, const pare_batch *batch),
                          void *user)
{
    pare_status status = PARE_OK;
    feed f = {.o = options, .work = work, .user = user};
    PARE_REQUIRE(sched && options && options->dataset && work, PARE_ERR_ARGUMENT,
                 "feed: NULL argument");
    PARE_REQUIRE(options->batch > 0 && options->first >= 0 && options->last >= options->first &&
                     options->ahead >= 0 && (options->each == 0 || options->each >= options->batch),
                 PARE_ERR_ARGUMENT,
                 "samples %" PRId64 " to %" PRId64 " in batches of %" PRId64 " make no sense",
                 options->first, options->last, options->batch);
    int64_t samples = options->last - options->first;
    int64_t batches = samples / each(options) + (samples % each(options) > 0);
    if (batches == 0)
        return PARE_OK;
    f.batches = batches;
    f.ahead = at_a_time(sched, options, batches);
    f.places = f.ahead + (options->coming ? 1 : 0);
    PARE_TRY(pare__calloc((size_t)f.places, sizeof *f.ring, &f.ring));
    for (int i = 0; i < f.places; i++)
        PARE_TRY_DONE(pare_batch_create(options->dataset, options->batch, &f.ring[i]));
    PARE_TRY_DONE(
        pare_sched_run(sched, &(pare_job){.name = name,
                                          .items = batches,
                                          .stages = {{.name = "batch", .run = fill},
                                                     {.name = "work", .run = use, .home = true}},
                                          .user = &f,
                                          .bytes = bytes,
                                          .ahead = f.ahead}));
done:
    if (options->coming) /* whose failure was told before, if it is one */
        (void)options->coming(user, batches, NULL);
    for (int i = 0; i < f.places; i++)
        pare_batch_free(&f.ring[i]);
    free(f.ring);
    return status;
}
