/* run_ranks.c - a run of several processes: who does what, and what they tell each other.
 *
 * The first rank leads: it keeps the journal, does by itself what goes without a walk, lays the
 * output out and finishes it. All go over the blocks together (walk_ranks.c); then each writes the
 * tensors that it has made into the part, and says so to the first one, for the journal. So what
 * was done is known in one place, and a run that was cut goes on from there. */
#include "engine/survey/survey.h"
#include "engine/walk/walk.h"

#include "pare/version.h"

#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

pare_status pare__ranks_open(pare_comm **ranks)
{
    PARE_TRY(pare_comm_world(ranks));
    if (pare_comm_facts_of(*ranks)->size == 1)
        pare_comm_free(ranks);
    return PARE_OK;
}

pare_status pare__ranks_close(pare_comm **ranks, pare_status status)
{
    if (*ranks && status == PARE_OK)
        status = pare_comm_barrier(*ranks);
    if (*ranks && status != PARE_OK)
        status = pare_comm_abort(*ranks, status);
    pare_comm_free(ranks);
    return status;
}

bool pare__shares(const pare_recipe *recipe)
{
    return pare__walks(recipe) && !pare__surveys(recipe);
}

pare_status pare__ranks_wait(const pare__job *job)
{
    return job->ranks ? pare_comm_barrier(job->ranks) : PARE_OK;
}

/* ---- the beginning --------------------------------------------------------------------------- */

/* What has to be the same everywhere for the work to be one. */
static pare_status describe(const pare__job *job, char **text)
{
    pare_status status = PARE_OK;
    pare__text all = {0};
    char *way = NULL;
    PARE_TRY(pare__walk_way(job->walker, &way));
    pare__text_add(&all, "%s\n%s\n%s\n%s %lld\n", pare_version(), job->recipe_text, way,
                   job->recipe->format ? job->recipe->format : "",
                   (long long)job->recipe->max_shard_size);
    free(way);
    for (int64_t t = 0; t < job->count; t++) {
        const pare_entry *e = pare_store_entry(job->store, t);
        pare__text_add(&all, "%s %lld\n", e->name, (long long)e->stored_bytes);
    }
    status = pare__text_take(&all, text);
    pare__text_free(&all);
    return status;
}

pare_status pare__ranks_agree(const pare__job *job)
{
    char *text = NULL;
    if (!job->ranks)
        return PARE_OK;
    PARE_TRY(describe(job, &text));
    pare_status status = pare_comm_agree(job->ranks, text, (int64_t)strlen(text),
                                         "the model, the data, the recipe, the number of threads, "
                                         "the instruction set or the device");
    free(text);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__ranks_begin(pare__job *job)
{
    bool known[] = {job->resumed, job->finished, job->counted};
    if (!job->ranks)
        return PARE_OK;
    PARE_TRY(pare_comm_broadcast(job->ranks, known, sizeof known, 0));
    job->resumed = known[0];
    job->finished = known[1];
    job->counted = known[2];
    return PARE_OK;
}

/* ---- before the output is laid out ----------------------------------------------------------- */

pare_status pare__ranks_counts(pare__job *job)
{
    pare_status status = PARE_OK;
    double *counts = NULL; /* which hold them exactly */
    if (!job->ranks)
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)job->chunk_count + 1, sizeof *counts, &counts));
    for (int64_t c = 0; c < job->chunk_count; c++) {
        const pare__task *task = &job->tasks[job->chunks[c].task];
        if (task->maybe_sparse && pare__owns(job, task))
            counts[c] = (double)job->chunks[c].nonzeros;
    }
    PARE_TRY_DONE(pare_comm_sum(job->ranks, counts, job->chunk_count, PARE_F64));
    for (int64_t c = 0; c < job->chunk_count; c++)
        if (job->tasks[job->chunks[c].task].maybe_sparse)
            job->chunks[c].nonzeros = (int64_t)counts[c];
done:
    free(counts);
    return status;
}

/* What passes have found out of a task. */
typedef struct found {
    float scale, scale_offset;
    int32_t zero;
} found;

static pare_status tell_tasks(pare__job *job)
{
    pare_status status = PARE_OK;
    found *all = NULL;
    PARE_TRY(pare__calloc((size_t)job->count + 1, sizeof *all, &all));
    for (int64_t t = 0; t < job->count; t++)
        all[t] = (found){job->tasks[t].scale, job->tasks[t].out.scale_offset, job->tasks[t].zero};
    PARE_TRY_DONE(pare_comm_broadcast(job->ranks, all, job->count * (int64_t)sizeof *all, 0));
    for (int64_t t = 0; t < job->count; t++) {
        job->tasks[t].scale = all[t].scale;
        job->tasks[t].out.scale_offset = all[t].scale_offset;
        job->tasks[t].zero = (int8_t)all[t].zero;
    }
done:
    free(all);
    return status;
}

pare_status pare__ranks_tell(pare__job *job)
{
    if (!job->ranks)
        return PARE_OK;
    PARE_TRY(tell_tasks(job));
    PARE_TRY(pare_comm_broadcast(job->ranks, job->chunks,
                                 job->chunk_count * (int64_t)sizeof *job->chunks, 0));
    if (pare__job_has_count(job))
        pare__job_counted(job);
    if (!pare__leads(job))
        PARE_TRY(pare__calloc((size_t)job->chunk_count + 1, sizeof *job->records, &job->records));
    return PARE_OK;
}

/* ---- after the output is filled -------------------------------------------------------------- */

/* The records of one rank go to the first one. */
static pare_status tell_records(pare__job *job, int from)
{
    pare_status status = PARE_OK;
    int64_t count = job->record_count;
    pare__chunk_record *records = job->records;
    bool mine = pare__rank(job->ranks) == from;
    PARE_TRY(pare_comm_broadcast(job->ranks, &count, sizeof count, from));
    if (!mine)
        PARE_TRY(pare__calloc((size_t)count + 1, sizeof *records, &records));
    PARE_TRY_DONE(pare_comm_broadcast(job->ranks, records, count * (int64_t)sizeof *records, from));
    for (int64_t i = 0; i < count && pare__leads(job); i++)
        PARE_TRY_DONE(pare__journal_take(job, &records[i]));
done:
    if (!mine)
        free(records);
    return status;
}

/* What was read and written counts for the whole job. */
static pare_status add_bytes(pare__job *job)
{
    double moved[] = {(double)job->read_bytes, (double)job->write_bytes};
    PARE_TRY(pare_comm_sum(job->ranks, moved, 2, PARE_F64));
    if (pare__leads(job)) {
        job->read_bytes = (int64_t)moved[0];
        job->write_bytes = (int64_t)moved[1];
    }
    return PARE_OK;
}

pare_status pare__ranks_written(pare__job *job)
{
    if (!job->ranks)
        return PARE_OK;
    if (!pare__leads(job)) /* another machine's cache is not the first one's */
        PARE_TRY(pare_writer_sync(job->writer));
    for (int r = 1; r < pare__rank_count(job->ranks); r++)
        PARE_TRY(tell_records(job, r));
    PARE_TRY(add_bytes(job));
    if (!pare__leads(job)) {
        pare_writer_free(&job->writer, false);
        pare__walk_close_files(job->walker); /* the first one removes them */
    } else if (job->options->sync) {
        PARE_TRY(pare__journal_sync(job));
    }
    return pare__ranks_wait(job);
}
