/* teacher.c - a teacher that goes forward on each batch before the losses look at what it gave.
 *
 * On the CPU that is done in line: teacher and student both keep all cores busy, side by side they
 * would only wait for each other. On a device the teacher has a backend of its own (a stream) and a
 * thread beside the trainer's, which the scheduler's timeline shows: while the student goes through
 * the rest of a batch (backward, the optimiser) and forward on the next one, the teacher goes
 * forward on that next one. What it writes over is what the losses of the batch before read, so its
 * stream begins behind them; and they begin when the thread has seen the end of its stream. All
 * else of both is apart, and so are their results: the bytes are those of the work in line.
 */
#include "train_impl.h"

struct pare__teacher {
    pare_model *model;
    pare_backend *be;
    pare_aside *aside;
    const pare_batch *batch;  /* that it works on, or has worked on last */
    const pare_batch *coming; /* the next one; NULL: it has begun, or is not there yet */
};

bool pare__teacher_beside(const pare_train_setup *setup)
{
    const pare_backend *be = setup->teacher_be;
    return setup->teacher && be && be != setup->be && !pare_backend_is_host(be);
}

/* On the thread. */
static pare_status go_forward(void *user, int place)
{
    pare__teacher *s = user;
    (void)place;
    PARE_TRY(pare_model_forward(s->model, s->batch, false, NULL));
    PARE_TRY(pare_backend_sync(s->be));
    return PARE_OK;
}

/* Its stream waits for all that the student's was asked until now. */
static pare_status start(pare_trainer *t, const pare_batch *batch)
{
    pare__teacher *s = t->teacher;
    int place;
    PARE_TRY(pare_aside_place(s->aside, &place));
    PARE_TRY(pare_backend_after(s->be, t->be));
    s->batch = batch;
    pare_aside_hand(s->aside);
    return PARE_OK;
}

/* The feed's; batch NULL: no more come, and none of them may be in use any more. */
static pare_status coming(void *trainer, int64_t index, const pare_batch *batch)
{
    pare_trainer *t = trainer;
    t->teacher->coming = NULL;
    if (!batch)
        pare_aside_free(&t->teacher->aside);
    else if (index == 0)
        PARE_TRY(start(t, batch)); /* no losses are before it */
    else
        t->teacher->coming = batch;
    return PARE_OK;
}

pare_status pare__teacher_ready(pare_trainer *t, const pare_batch *batch)
{
    if (!t->setup.teacher)
        return PARE_OK;
    if (!t->teacher)
        return pare_model_forward(t->setup.teacher, batch, false, NULL);
    PARE_TRY(pare_aside_wait(t->teacher->aside));
    PARE_ASSERT(t->teacher->batch == batch);
    return PARE_OK;
}

pare_status pare__teacher_next(pare_trainer *t)
{
    const pare_batch *batch = t->teacher ? t->teacher->coming : NULL;
    if (batch) {
        t->teacher->coming = NULL;
        PARE_TRY(start(t, batch));
    }
    return PARE_OK;
}

/* Who frees what the losses have read, or works with it, comes after them. */
static pare_status end(pare_trainer *t, pare_status status)
{
    pare_aside_free(&t->teacher->aside);
    if (status != PARE_ERR_DEVICE) { /* that would fail again, over the sentence of the first */
        pare_status after = pare_backend_after(t->teacher->be, t->be);
        status = status == PARE_OK ? after : status;
    }
    free(t->teacher);
    t->teacher = NULL;
    return status;
}

pare_status pare__teacher_run(pare_trainer *t, pare_sched *sched, const pare_feed_options *feed,
                              pare_status (*work)(void *, int64_t, const pare_batch *))
{
    pare_feed_options with = *feed;
    if (!pare__teacher_beside(&t->setup))
        return pare_feed_run(sched, "train", feed, work, t);
    PARE_TRY(pare__calloc(1, sizeof *t->teacher, &t->teacher));
    pare__teacher *s = t->teacher;
    s->model = t->setup.teacher;
    s->be = t->setup.teacher_be;
    with.coming = coming;
    pare_aside_options aside = {
        .name = "train", .stage = "teacher", .places = 1, .run = go_forward, .user = s};
    pare_status status = pare_aside_create(sched, &aside, &s->aside);
    if (status == PARE_OK)
        status = pare_feed_run(sched, "train", &with, work, t);
    return end(t, status);
}
