/* walk_files.c - the files of a walk: whose they are, and how those of some processes become those
 * of another number of them.
 *
 * Hidden states are a process's samples one behind another, results those of the layers that it
 * makes. A walk that was cut goes on with any number of processes: then the first one deals both
 * out anew, into the other of the folders deal.0 and deal.1. They count from when the journal says
 * so, and only then the old ones go. So a kill leaves whole files, these or those, and what it
 * leaves half made is known and goes when the next run begins. */
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {"results", "hidden.0", "hidden.1"};

static int file_count(const pare__walker *w)
{
    return w->blocks > 1 ? 3 : 1;
}

/* ---- where they are -------------------------------------------------------------------------- */

/* A file of a process; its folder if there is no name; all of a deal if the rank is none. */
static pare_status path_of(const pare__walker *w, int deal, int rank, const char *name, char **path)
{
    char ending[80];
    int n = snprintf(ending, sizeof ending, ".walk/deal.%d", deal);
    if (rank >= 0)
        n += snprintf(ending + n, sizeof ending - (size_t)n, "/rank.%d", rank);
    if (name)
        snprintf(ending + n, sizeof ending - (size_t)n, "/%s", name);
    return pare__beside(w->job->recipe, ending, path);
}

/* Whether the processes [first, last) have all of theirs. */
static pare_status find_files(const pare__walker *w, int first, int last, bool *all)
{
    *all = true;
    for (int r = first; r < last; r++)
        for (int i = 0; i < file_count(w) && *all; i++) {
            char *path = NULL;
            PARE_TRY(path_of(w, w->deal, r, names[i], &path));
            *all = pare__exists(path);
            free(path);
        }
    return PARE_OK;
}

static pare_status open_file(const char *path, int64_t size, int *fd)
{
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        PARE_FAIL(pare__errno_status(errno), "cannot write %s: %s", path, strerror(errno));
    return pare__file_reserve(*fd, path, size);
}

static void close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static pare_status remove_deal(const pare__walker *w, int deal)
{
    char *path = NULL;
    PARE_TRY(path_of(w, deal, -1, NULL, &path));
    pare_status status = pare__remove_tree(path);
    free(path);
    return status;
}

pare_status pare__walk_clean(const pare__job *job)
{
    char *path = NULL;
    if (!job->walker)
        return PARE_OK;
    if (pare__leads(job))
        PARE_TRY(pare__beside(job->recipe, ".walk", &path));
    else
        PARE_TRY(path_of(job->walker, job->walker->deal, pare__rank(job->ranks), NULL, &path));
    pare_status status = pare__remove_tree(path);
    free(path);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- from as many processes to as many ------------------------------------------------------- */

/* One of its files of a process, from so many bytes on. */
typedef struct place {
    int rank;
    int64_t at;
} place;

/* Goes from the deal that is to the other. */
static pare_status move(const pare__walker *w, const char *name, place from, place to,
                        int64_t bytes, void *staging)
{
    pare_status status = PARE_OK;
    const volatile int *cancel = w->job->options->cancel;
    char *source = NULL, *target = NULL;
    int in = -1, out = -1;
    int64_t size;
    PARE_TRY_DONE(path_of(w, w->deal, from.rank, name, &source));
    PARE_TRY_DONE(path_of(w, 1 - w->deal, to.rank, name, &target));
    PARE_TRY_DONE(pare__file_open(source, &in, &size));
    PARE_TRY_DONE(open_file(target, 0, &out));
    for (int64_t i = 0, n; i < bytes; i += n) {
        n = bytes - i < PARE__WALK_STAGING ? bytes - i : PARE__WALK_STAGING;
        if (cancel && *cancel)
            PARE_TRY_DONE(pare__error(PARE_ERR_INTERRUPTED, __func__, "interrupted"));
        PARE_TRY_DONE(pare__file_read(in, source, staging, n, from.at + i));
        PARE_TRY_DONE(pare__file_write(out, target, staging, n, to.at + i));
    }
done:
    close_file(&out);
    close_file(&in);
    free(target);
    free(source);
    return status;
}

/* Those that go into the block that comes next. */
static pare_status move_hidden(const pare__walker *w, int ranks, void *staging)
{
    pare_model *block = NULL;
    if (w->done == 0 || w->done == w->blocks)
        return PARE_OK;
    PARE_TRY(pare__walk_block(w, w->done, &block));
    int64_t sample = pare__walk_hidden_sample(w, block);
    pare_model_free(&block);
    for (int from = 0; from < w->dealt; from++)
        for (int to = 0; to < ranks; to++) {
            int64_t was, is, was_end, is_end;
            pare__walk_range(w, w->dealt, from, &was, &was_end);
            pare__walk_range(w, ranks, to, &is, &is_end);
            int64_t first = was > is ? was : is, end = was_end < is_end ? was_end : is_end;
            if (first < end)
                PARE_TRY(move(w, names[1 + w->done % 2], (place){from, (first - was) * sample},
                              (place){to, (first - is) * sample}, (end - first) * sample, staging));
        }
    return PARE_OK;
}

/* Those of the layers that are done. */
static pare_status move_results(pare__walker *w, int ranks, void *staging)
{
    pare_status status = PARE_OK;
    const pare__task *tasks = w->job->tasks;
    place *was = NULL;
    PARE_TRY_DONE(pare__calloc((size_t)w->job->count + 1, sizeof *was, &was));
    PARE_TRY_DONE(pare__walk_deal(w, w->dealt));
    for (int64_t t = 0; t < w->job->count; t++)
        if (tasks[t].walked)
            was[t] = (place){tasks[t].rank, tasks[t].walked->at};
    PARE_TRY_DONE(pare__walk_deal(w, ranks));
    for (int64_t t = 0; t < w->job->count; t++)
        if (tasks[t].walked && tasks[t].walked->done)
            PARE_TRY_DONE(move(w, names[0], was[t], (place){tasks[t].rank, tasks[t].walked->at},
                               pare__walk_result_end(&tasks[t]), staging));
done:
    free(was);
    return status;
}

/* All files of a process of the other deal are there, and on the disk. */
static pare_status keep_files(const pare__walker *w, int rank)
{
    for (int i = 0; i < file_count(w); i++) {
        char *path = NULL;
        int fd = -1;
        PARE_TRY(path_of(w, 1 - w->deal, rank, names[i], &path));
        pare_status status = open_file(path, 0, &fd);
        if (status == PARE_OK && fdatasync(fd) != 0)
            status = pare__error(pare__errno_status(errno), __func__, "cannot sync %s: %s", path,
                                 strerror(errno));
        close_file(&fd);
        free(path);
        PARE_TRY(status);
    }
    return PARE_OK;
}

static pare_status make_folder(const pare__walker *w, int deal, int rank)
{
    char *path = NULL;
    PARE_TRY(path_of(w, deal, rank, NULL, &path));
    pare_status status = pare__make_directory(path);
    free(path);
    return status;
}

/* A warning: the bytes will be neither those of so many processes nor those of as many. */
static void say(const pare__walker *w, int ranks)
{
    const pare_log *log = &w->job->options->log;
    char line[160];
    snprintf(line, sizeof line,
             "begun with %d process%s, goes on with %d: %lld of %lld blocks are done", w->dealt,
             w->dealt == 1 ? "" : "es", ranks, (long long)w->done, (long long)w->blocks);
    if (log->write)
        log->write(log->user, PARE_LOG_WARN, line);
}

static pare_status deal_anew(pare__walker *w, int ranks)
{
    pare_status status = PARE_OK;
    void *staging = NULL;
    say(w, ranks);
    PARE_TRY_DONE(pare__calloc(1, PARE__WALK_STAGING, &staging));
    for (int r = 0; r < ranks; r++)
        PARE_TRY_DONE(make_folder(w, 1 - w->deal, r));
    PARE_TRY_DONE(move_hidden(w, ranks, staging));
    PARE_TRY_DONE(move_results(w, ranks, staging));
    for (int r = 0; r < ranks; r++)
        PARE_TRY_DONE(keep_files(w, r));
    w->dealt = ranks;
    w->deal = 1 - w->deal;
    PARE_TRY_DONE(pare__walk_dealt(w));
    PARE_TRY_DONE(remove_deal(w, 1 - w->deal));
done:
    free(staging);
    return status;
}

/* The first one's work. Where files are missing the others are of no use: the walk begins anew. */
static pare_status suit_ranks(pare__walker *w)
{
    int ranks = pare__rank_count(w->job->ranks);
    bool all;
    PARE_TRY(remove_deal(w, 1 - w->deal)); /* half made, or half gone */
    if (w->dealt == 0 || w->dealt == ranks)
        return PARE_OK;
    PARE_TRY(find_files(w, 0, w->dealt, &all));
    return all ? deal_anew(w, ranks) : remove_deal(w, w->deal);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* How the walk computes, for the next one to read (walk_journal.c). */
static pare_status save_way(const pare__walker *w)
{
    pare_status status = PARE_OK;
    char *path = NULL, *way = NULL;
    PARE_TRY_DONE(pare__beside(w->job->recipe, ".walk/way", &path));
    PARE_TRY_DONE(pare__walk_way(w, &way));
    PARE_TRY_DONE(pare__file_save(path, way, (int64_t)strlen(way)));
done:
    free(way);
    free(path);
    return status;
}

/* Without all of its files a walk begins anew, and none is made before the journal says so. */
static pare_status begin_files(pare__walker *w, int rank)
{
    bool all;
    PARE_TRY(find_files(w, rank, rank + 1, &all));
    PARE_TRY(pare__walk_all(w, &all));
    if (all)
        return PARE_OK;
    PARE_TRY(pare__walk_forget(w));
    if (rank == 0)
        PARE_TRY(save_way(w));
    return pare__ranks_wait(w->job);
}

pare_status pare__walk_open_files(pare__walker *w)
{
    int rank = pare__rank(w->job->ranks), *const files[] = {&w->result, &w->hidden[0],
                                                            &w->hidden[1]};
    if (rank == 0)
        PARE_TRY(suit_ranks(w));
    if (w->job->ranks)
        PARE_TRY(pare_comm_broadcast(w->job->ranks, &w->deal, sizeof w->deal, 0));
    if (!w->folder)
        PARE_TRY(path_of(w, w->deal, rank, NULL, &w->folder));
    PARE_TRY(make_folder(w, w->deal, rank));
    PARE_TRY(begin_files(w, rank));
    for (int i = 0; i < file_count(w); i++) {
        char *path = NULL;
        PARE_TRY(pare__join(w->folder, names[i], &path));
        pare_status status = open_file(path, i ? w->hidden_bytes : w->own_bytes, files[i]);
        free(path);
        PARE_TRY(status);
    }
    return PARE_OK;
}

void pare__walk_close_files(pare__walker *w)
{
    close_file(&w->hidden[0]);
    close_file(&w->hidden[1]);
    close_file(&w->result);
    free(w->folder);
    w->folder = NULL;
}
