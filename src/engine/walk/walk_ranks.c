/* walk_ranks.c - a walk that several processes share.
 *
 * Each runs its share of the samples, with hidden states of its own; the statistics of a site
 * become those of all; each solves some of its layers, and what they have become goes to all, so
 * that their blocks stay the same. A layer's record is written by the first process, the only one
 * with a journal, when its result lies in the files of the one that made it: there it stays, and
 * comes from there again when a walk that was cut goes on within the block. */
#include "walk.h"

#include <string.h>

/* ---- whose is what --------------------------------------------------------------------------- */

/* Layers in the order of the walk go round the ranks, so that those of a site are different ones';
 * then what else there is. */
static void choose_ranks(const pare__walker *w, int ranks)
{
    const pare__job *job = w->job;
    int64_t dealt = 0;
    for (int64_t s = 0; s < w->site_count; s++)
        for (int l = 0; l < w->sites[s].site.count; l++) {
            int64_t t = w->sites[s].task[l];
            if (t >= 0 && job->tasks[t].walked && job->tasks[t].walked->site == s)
                job->tasks[t].rank = (int)(dealt++ % ranks);
        }
    for (int64_t t = 0; t < job->count; t++)
        if (job->tasks[t].walked && job->tasks[t].walked->site < 0)
            job->tasks[t].rank = (int)(dealt++ % ranks);
}

pare_status pare__walk_deal(pare__walker *w, int ranks)
{
    int64_t *used = NULL; /* bytes of each one's file */
    PARE_TRY(pare__calloc((size_t)ranks, sizeof *used, &used));
    choose_ranks(w, ranks);
    w->result_bytes = 0;
    for (int64_t t = 0; t < w->job->count; t++) {
        pare__task *task = &w->job->tasks[t];
        if (!task->walked)
            continue;
        int64_t bytes = pare__walk_result_bytes(task);
        task->walked->at = used[task->rank];
        used[task->rank] += bytes;
        w->result_bytes += bytes;
    }
    if (ranks == pare__rank_count(w->job->ranks))
        w->own_bytes = used[pare__rank(w->job->ranks)];
    free(used);
    return PARE_OK;
}

void pare__walk_range(const pare__walker *w, int ranks, int rank, int64_t *first, int64_t *last)
{
    *first = w->samples * rank / ranks;
    *last = w->samples * (rank + 1) / ranks;
}

pare_status pare__walk_share_samples(pare__walker *w)
{
    int ranks = pare__rank_count(w->job->ranks);
    PARE_REQUIRE(w->samples >= ranks, PARE_ERR_ARGUMENT,
                 "%d processes cannot share %lld samples: start fewer, or give --samples more",
                 ranks, (long long)w->samples);
    pare__walk_range(w, ranks, pare__rank(w->job->ranks), &w->first, &w->last);
    w->most = (w->samples + ranks - 1) / ranks;
    return PARE_OK;
}

/* ---- beginning ------------------------------------------------------------------------------- */

pare_status pare__walk_all(const pare__walker *w, bool *all)
{
    pare_status status = PARE_OK;
    int ranks = pare__rank_count(w->job->ranks);
    char mine = *all, *theirs = NULL;
    if (!w->job->ranks)
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)ranks, 1, &theirs));
    PARE_TRY_DONE(pare_comm_gather(w->job->ranks, &mine, 1, theirs));
    for (int r = 0; r < ranks; r++)
        *all = *all && theirs[r];
done:
    free(theirs);
    return status;
}

/* What is known of a task's result, from one rank to all. */
static pare_status tell_task(pare__walker *w, int64_t t, int from)
{
    pare__walked *k = w->job->tasks[t].walked;
    struct {
        int64_t nonzeros;
        double seconds;
        pare_layer_report report;
        bool done;
    } said;
    memset(&said, 0, sizeof said);
    said.nonzeros = k->nonzeros;
    said.seconds = k->seconds;
    said.report = k->report;
    said.done = k->done;
    PARE_TRY(pare_comm_broadcast(w->job->ranks, &said, sizeof said, from));
    k->nonzeros = said.nonzeros;
    k->seconds = said.seconds;
    k->report = said.report;
    k->done = said.done;
    return PARE_OK;
}

pare_status pare__walk_tell(pare__walker *w)
{
    if (!w->job->ranks)
        return PARE_OK;
    PARE_TRY(pare_comm_broadcast(w->job->ranks, &w->done, sizeof w->done, 0));
    for (int64_t s = 0; s < w->site_count; s++)
        PARE_TRY(pare__walk_tell_scales(w, s));
    for (int64_t t = 0; t < w->job->count; t++)
        if (w->job->tasks[t].walked)
            PARE_TRY(tell_task(w, t, 0));
    return PARE_OK;
}

/* ---- meanwhile ------------------------------------------------------------------------------- */

pare_status pare__walk_alive(const pare__walker *w)
{
    return w->comm ? pare_comm_wait(w->job->ranks) : PARE_OK; /* for nothing, if all is well */
}

pare_status pare__walk_join(pare__walker *w, int64_t site)
{
    if (w->comm)
        PARE_TRY(pare_site_stats_join(w->be, w->stats[site], w->comm));
    return PARE_OK;
}

int64_t pare__walk_join_bytes(const pare__walker *w)
{
    int64_t most = 0;
    int ranks = pare__rank_count(w->job->ranks);
    for (int64_t s = 0; w->job->ranks && s < w->site_count; s++) {
        int64_t bytes = pare_site_stats_join_bytes(w->sites[s].needs, w->sites[s].site.cols, ranks);
        most = w->sites[s].needs && bytes > most ? bytes : most;
    }
    return most;
}

pare_status pare__walk_tell_scales(pare__walker *w, int64_t site)
{
    pare__walk_site *s = &w->sites[site];
    struct {
        double before[PARE_SITE_LAYERS];
        char note[160];
        bool known, scaled;
    } said;
    if (!w->job->ranks)
        return PARE_OK;
    memset(&said, 0, sizeof said);
    memcpy(said.before, s->before, sizeof said.before);
    memcpy(said.note, s->note, sizeof said.note);
    said.known = s->scales != NULL;
    said.scaled = s->scaled;
    PARE_TRY(pare_comm_broadcast(w->job->ranks, &said, sizeof said, 0));
    memcpy(s->before, said.before, sizeof said.before);
    memcpy(s->note, said.note, sizeof said.note);
    s->scaled = said.scaled;
    if (said.known && !s->scales)
        PARE_TRY(pare__calloc((size_t)s->site.cols, sizeof *s->scales, &s->scales));
    if (said.scaled)
        PARE_TRY(pare_comm_broadcast(w->job->ranks, s->scales,
                                     s->site.cols * (int64_t)sizeof *s->scales, 0));
    return PARE_OK;
}

pare_status pare__walk_tell_layer(pare__walker *w, int64_t t)
{
    pare__task *task = &w->job->tasks[t];
    bool before = task->walked->done;
    if (!w->job->ranks)
        return PARE_OK;
    if (pare__owns(w->job, task)) {
        PARE_TRY(pare__walk_saved(w));
        PARE_TRY(pare__walk_flush(w->job));
    }
    PARE_TRY(tell_task(w, t, task->rank));
    task->walked->done = true;
    return before ? PARE_OK : pare__journal_layer(w->job, t);
}
