/* walk_journal.c - what a walk leaves in the journal, and takes from it. A record is written when
 * what it speaks of lies in the walk's files; after a power cut only those count that were flushed
 * first (--sync). */
#include "walk.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* Beside those of resume.c. */
enum { RECORD_SCALES = 64, RECORD_LAYER, RECORD_BLOCK, RECORD_ANEW, RECORD_DEALT };

typedef struct scales_record {
    int64_t site, count; /* count: scales that follow, 0: the site is left alone */
    bool flushed;
    double before[PARE_SITE_LAYERS];
    char note[160];
} scales_record;

typedef struct layer_record {
    int64_t task, nonzeros;
    double seconds;
    bool flushed;
    pare_layer_report report;
} layer_record;

typedef struct block_record {
    int64_t done; /* blocks */
    bool flushed;
} block_record;

/* Whose files the walk's are, from here on: with RECORD_ANEW nothing is in them. */
typedef struct deal_record {
    int32_t ranks, deal;
} deal_record;

pare_status pare__walk_flush(const pare__job *job)
{
    const int files[] = {job->walker->result, job->walker->hidden[0], job->walker->hidden[1]};
    for (int i = 0; job->options->sync && i < 3; i++)
        if (files[i] >= 0 && fdatasync(files[i]) != 0)
            PARE_FAIL(pare__errno_status(errno), "cannot sync %s: %s", job->walker->folder,
                      strerror(errno));
    return PARE_OK;
}

/* The first of several processes has the journal of all; a survey has none. */
static pare_status add(pare__job *job, uint32_t type, const void *payload, size_t size)
{
    if (!job->journal)
        return PARE_OK;
    PARE_TRY(pare_journal_add(job->journal, type, payload, (uint32_t)size));
    if (job->options->sync)
        PARE_TRY(pare_journal_sync(job->journal));
    return PARE_OK;
}

pare_status pare__journal_scales(pare__job *job, int64_t site)
{
    const pare__walk_site *s = &job->walker->sites[site];
    size_t count = s->scaled ? (size_t)s->site.cols : 0;
    size_t size = sizeof(scales_record) + count * sizeof *s->scales;
    char *payload = NULL;
    PARE_TRY(pare__calloc(1, size, &payload));
    scales_record r = {.site = site, .count = (int64_t)count, .flushed = job->options->sync};
    memcpy(r.before, s->before, sizeof r.before);
    memcpy(r.note, s->note, sizeof r.note);
    memcpy(payload, &r, sizeof r);
    memcpy(payload + sizeof r, s->scales, count * sizeof *s->scales);
    pare_status status = add(job, RECORD_SCALES, payload, size);
    free(payload);
    PARE_TRY(status);
    return PARE_OK;
}

pare_status pare__journal_layer(pare__job *job, int64_t task)
{
    const pare__walked *k = job->tasks[task].walked;
    layer_record r;
    memset(&r, 0, sizeof r);
    r.task = task;
    r.nonzeros = k->nonzeros;
    r.seconds = k->seconds;
    r.flushed = job->options->sync;
    r.report = k->report;
    PARE_TRY(pare__walk_flush(job));
    return add(job, RECORD_LAYER, &r, sizeof r);
}

pare_status pare__journal_block(pare__job *job)
{
    block_record r;
    memset(&r, 0, sizeof r);
    r.done = job->walker->done;
    r.flushed = job->options->sync;
    PARE_TRY(pare__walk_flush(job));
    PARE_TRY(pare__ranks_wait(job)); /* all have written theirs */
    PARE_TRY(add(job, RECORD_BLOCK, &r, sizeof r));
    return pare__ranks_wait(job); /* and none writes over what this block went by before it is so */
}

/* On the disk at once: what comes next writes over files that records before speak of. */
static pare_status add_deal(pare__walker *w, uint32_t type)
{
    const deal_record r = {.ranks = w->dealt, .deal = w->deal};
    PARE_TRY(add(w->job, type, &r, sizeof r));
    return w->job->journal ? pare_journal_sync(w->job->journal) : PARE_OK;
}

pare_status pare__walk_dealt(pare__walker *w)
{
    return add_deal(w, RECORD_DEALT);
}

/* ---- taking over ----------------------------------------------------------------------------- */

static pare_status take_scales(pare__walker *w, bool same_boot, const char *payload, size_t size)
{
    scales_record r;
    memcpy(&r, payload, sizeof r);
    if (!same_boot && !r.flushed)
        return PARE_OK;
    pare__walk_site *s = r.site >= 0 && r.site < w->site_count ? &w->sites[r.site] : NULL;
    PARE_REQUIRE(s && (r.count == 0 || r.count == s->site.cols) &&
                     size == sizeof r + (size_t)r.count * sizeof *s->scales,
                 PARE_ERR_DAMAGED, "scales of a site that this run does not have");
    free(s->scales);
    s->scales = NULL;
    PARE_TRY(pare__calloc((size_t)s->site.cols, sizeof *s->scales, &s->scales));
    memcpy(s->scales, payload + sizeof r, (size_t)r.count * sizeof *s->scales);
    memcpy(s->before, r.before, sizeof s->before);
    memcpy(s->note, r.note, sizeof s->note);
    s->note[sizeof s->note - 1] = '\0';
    s->scaled = r.count > 0;
    return PARE_OK;
}

static pare_status take_layer(pare__job *job, bool same_boot, const char *payload)
{
    layer_record r;
    memcpy(&r, payload, sizeof r);
    if (!same_boot && !r.flushed)
        return PARE_OK;
    pare__walked *k = r.task >= 0 && r.task < job->count ? job->tasks[r.task].walked : NULL;
    PARE_REQUIRE(k, PARE_ERR_DAMAGED, "a layer that this run does not have");
    k->done = true;
    k->nonzeros = r.nonzeros;
    k->seconds = r.seconds;
    k->report = r.report;
    k->report.fallback[sizeof k->report.fallback - 1] = '\0';
    return PARE_OK;
}

bool pare__walk_whole(const pare__job *job)
{
    const pare__walker *w = job->walker;
    return !w || w->result_bytes == 0 || w->done == w->blocks;
}

static void forget(pare__walker *w)
{
    w->done = 0;
    pare__job_forget(w->job);
    for (int64_t t = 0; t < w->job->count; t++) {
        pare__walked *k = w->job->tasks[t].walked;
        if (!k)
            continue;
        k->done = false;
        k->report = (pare_layer_report){.error_before = (double)NAN, .error_after = (double)NAN};
    }
    for (int64_t s = 0; s < w->site_count; s++) {
        free(w->sites[s].scales);
        w->sites[s].scales = NULL;
        w->sites[s].scaled = false;
    }
}

pare_status pare__walk_take(pare__job *job, uint32_t type, const void *payload, uint32_t size,
                            bool *taken)
{
    pare__walker *w = job->walker;
    *taken = true;
    if (w && type == RECORD_SCALES && size >= sizeof(scales_record)) {
        PARE_TRY(take_scales(w, job->same_boot, payload, size));
    } else if (w && type == RECORD_LAYER && size == sizeof(layer_record)) {
        PARE_TRY(take_layer(job, job->same_boot, payload));
    } else if (w && type == RECORD_BLOCK && size == sizeof(block_record)) {
        block_record r;
        memcpy(&r, payload, sizeof r);
        if (job->same_boot || r.flushed)
            w->done = r.done >= 0 && r.done <= w->blocks ? r.done : 0;
    } else if (w && (type == RECORD_ANEW || type == RECORD_DEALT) && size == sizeof(deal_record)) {
        deal_record r;
        memcpy(&r, payload, sizeof r);
        PARE_REQUIRE(r.ranks > 0 && r.ranks <= w->samples && (r.deal == 0 || r.deal == 1),
                     PARE_ERR_DAMAGED, "files of %d processes that no walk has", (int)r.ranks);
        if (type == RECORD_ANEW)
            forget(w);
        w->dealt = r.ranks;
        w->deal = r.deal;
    } else {
        *taken = false;
    }
    return PARE_OK;
}

pare_status pare__walk_forget(pare__walker *w)
{
    forget(w);
    w->dealt = pare__rank_count(w->job->ranks);
    return add_deal(w, RECORD_ANEW);
}

/* ---- the folder ------------------------------------------------------------------------------ */

static pare_status refuse_way(const pare__job *job, const char *then, const char *now)
{
    PARE_FAIL(PARE_ERR_EXISTS,
              "%s was begun with %s; now it is %s, and what data decides depends on that: go on as "
              "it was begun, or start anew with --overwrite",
              job->recipe->output, then, now);
}

static pare_status refuse_folder(const char *folder)
{
    PARE_FAIL(PARE_ERR_EXISTS,
              "%s lies in the way and no journal says whose it is: remove it, or give --overwrite",
              folder);
}

pare_status pare__walk_check_way(const pare__job *job, const char *journal)
{
    pare_status status = PARE_OK;
    char *folder = NULL, *path = NULL, *now = NULL, *then = NULL;
    int64_t size = 0;
    if (!job->walker || job->options->overwrite)
        return PARE_OK;
    PARE_TRY_DONE(pare__beside(job->recipe, ".walk", &folder));
    if (pare__exists(folder) && !pare__exists(journal))
        PARE_TRY_DONE(refuse_folder(folder));
    PARE_TRY_DONE(pare__join(folder, "way", &path));
    PARE_TRY_DONE(pare__walk_way(job->walker, &now));
    if (pare__exists(path))
        PARE_TRY_DONE(pare__file_load(path, 4096, &then, &size));
    if (then && strcmp(then, now) != 0)
        PARE_TRY_DONE(refuse_way(job, then, now));
done:
    free(then);
    free(now);
    free(path);
    free(folder);
    return status;
}
