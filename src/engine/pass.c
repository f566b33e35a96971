/* pass.c - runs a pass over the source: the stages that all passes share. */
#include "job.h"

#include "base/clock.h"

pare_status pare__job_phase(pare__job *job, const pare_job *stages)
{
    double begin = pare__now();
    pare_status status = pare_sched_run(job->sched, stages);
    pare__json *phase = pare__json_set_object(job->phases, NULL);
    pare__json_set_string(phase, "name", stages->name);
    pare__json_set_real(phase, "seconds", pare__now() - begin);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

typedef struct pass_state {
    pare__job *job;
    const pare__pass *pass;
} pass_state;

/* Of several processes each wants what it has made. */
static bool wanted(const pass_state *s, int64_t chunk)
{
    const pare__task *task = &s->job->tasks[s->job->chunks[chunk].task];
    return pare__owns(s->job, task) && s->pass->wants(task);
}

/* Whether a chunk must be read: for its own sake, or because its ties decide about later chunks. */
static bool is_read(const pass_state *s, int64_t chunk)
{
    const pare__chunk *c = &s->job->chunks[chunk];
    const pare__task *task = &s->job->tasks[c->task];
    return wanted(s, chunk) ||
           (c->ties < 0 && pare__owns(s->job, task) && pare__task_ordered(s->job, task));
}

static pare_status read_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    if (!is_read(s, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_read(s->job, &s->job->lanes[worker], chunk));
    PARE_TRY(pare__walk_rows(s->job, &s->job->lanes[worker]));
    return PARE_OK;
}

static pare_status upload_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    if (is_read(s, chunk))
        PARE_TRY(pare__chunk_upload(&s->job->lanes[worker]));
    return PARE_OK;
}

static pare_status score_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    if (!is_read(s, chunk))
        return PARE_OK;
    PARE_TRY(pare__chunk_score(s->job, &s->job->lanes[worker]));
    PARE_TRY(pare__chunk_ties(s->job, &s->job->lanes[worker], chunk));
    return PARE_OK;
}

static pare_status order_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    pare__chunk_order(s->job, &s->job->lanes[worker], chunk);
    return PARE_OK;
}

static pare_status prune_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    if (wanted(s, chunk))
        PARE_TRY(pare__chunk_prune(s->job, &s->job->lanes[worker]));
    return PARE_OK;
}

static pare_status work_stage(void *user, int worker, int64_t chunk)
{
    pass_state *s = user;
    if (wanted(s, chunk))
        PARE_TRY(s->pass->work(s->job, &s->job->lanes[worker], chunk));
    pare__lane_end(&s->job->lanes[worker]);
    return PARE_OK;
}

static int64_t bytes_of(void *user, int64_t chunk)
{
    const pass_state *s = user;
    return is_read(s, chunk) ? pare__chunk_bytes(s->job, chunk).host : 0;
}

static int64_t device_bytes_of(void *user, int64_t chunk)
{
    const pass_state *s = user;
    return is_read(s, chunk) ? pare__chunk_bytes(s->job, chunk).device : 0;
}

static double weight_of(void *user, int64_t chunk)
{
    const pass_state *s = user;
    return wanted(s, chunk) ? (double)s->job->tasks[s->job->chunks[chunk].task].chunk_bytes : 0;
}

bool pare__pass_has_work(const pare__job *job, const pare__pass *pass)
{
    for (int64_t t = 0; t < job->count; t++)
        if (pass->wants(&job->tasks[t]))
            return true;
    return false;
}

pare_status pare__pass_run(pare__job *job, const pare__pass *pass)
{
    pass_state s = {.job = job, .pass = pass};
    pare_job stages = {.name = pass->name,
                       .items = job->chunk_count,
                       .user = &s,
                       .bytes = bytes_of,
                       .device_bytes = device_bytes_of,
                       .weight = weight_of};
    int n = 0;
    stages.stages[n++] = (pare_stage){.name = "read", .run = read_stage};
    if (job->device.cuda)
        stages.stages[n++] = (pare_stage){.name = "upload", .run = upload_stage};
    stages.stages[n++] = (pare_stage){.name = "score", .run = score_stage};
    if (pare__job_ordered(job))
        stages.stages[n++] = (pare_stage){.name = "order", .run = order_stage, .in_order = true};
    stages.stages[n++] = (pare_stage){.name = "prune", .run = prune_stage};
    stages.stages[n++] =
        (pare_stage){.name = pass->name, .run = work_stage, .in_order = pass->work_in_order};
    for (int64_t g = 0; g < job->group_count; g++)
        job->groups[g].ties_seen = 0;
    PARE_TRY(pare__job_phase(job, &stages));
    return PARE_OK;
}
