/* feed.c - batches in a ring: the scheduler's other threads fill the next ones while the calling
 * thread works on one. */
#include "data_impl.h"

typedef struct feed {
    const pare_feed_options *o;
    int ahead;
    pare_batch **ring; /* [ahead]: batch i is in place i % ahead from its filling to its use */
    pare_status (*work)(void *user, int64_t index, const pare_batch *batch);
    void *user;
} feed;

static pare_status fill(void *user, int worker, int64_t index)
{
    feed *f = user;
    int64_t first = f->o->first + index * f->o->batch, left = f->o->last - first;
    (void)worker;
    return pare_dataset_fill(f->o->dataset, first, left < f->o->batch ? left : f->o->batch,
                             f->ring[index % f->ahead]);
}

static pare_status use(void *user, int worker, int64_t index)
{
    feed *f = user;
    (void)worker;
    return f->work(f->user, index, f->ring[index % f->ahead]);
}

static int64_t bytes(void *user, int64_t index)
{
    feed *f = user;
    (void)index;
    return pare_batch_bytes(f->o->dataset, f->o->batch);
}

/* How many batches there are at a time: what was asked for, as far as the budget goes. One alone
 * that is too large is left to the scheduler to refuse. */
static int places(const pare_sched *sched, const pare_feed_options *o, int64_t batches)
{
    int64_t ahead = o->ahead > 0 ? o->ahead : 2, budget = pare_sched_budget(sched);
    if (budget > 0 && budget / pare_batch_bytes(o->dataset, o->batch) < ahead)
        ahead = budget / pare_batch_bytes(o->dataset, o->batch);
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
                     options->ahead >= 0,
                 PARE_ERR_ARGUMENT,
                 "samples %" PRId64 " to %" PRId64 " in batches of %" PRId64 " make no sense",
                 options->first, options->last, options->batch);
    int64_t samples = options->last - options->first;
    int64_t batches = samples / options->batch + (samples % options->batch > 0);
    if (batches == 0)
        return PARE_OK;
    f.ahead = places(sched, options, batches);
    PARE_TRY(pare__calloc((size_t)f.ahead, sizeof *f.ring, &f.ring));
    for (int i = 0; i < f.ahead; i++)
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
    for (int i = 0; i < f.ahead; i++)
        pare_batch_free(&f.ring[i]);
    free(f.ring);
    return status;
}
