/* resume.c - the journal of a run: what a killed one had found out and written, so that the next
 * one goes on and ends with the same bytes.
 *
 * A kill loses nothing that was written; a power cut may lose pages that a journal already speaks
 * of. So every run first notes which boot of the machine it belongs to: what an earlier boot wrote
 * counts only as far as a sync (--sync) was noted after it.
 *
 * Records: a pass's results (thresholds, scales and offsets of whole tensors, counts) when the pass
 * is over; a fresh start before the part is made, the layout when it is made; each chunk when its
 * bytes are in the file; the part's identity when only its rename is left.
 */
#include "engine/walk/walk.h"

#include "pare/ops.h"
#include "pare/version.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    RECORD_SELECT = 1,
    RECORD_RANGES,
    RECORD_COUNT,
    RECORD_LAYOUT,
    RECORD_CHUNK,
    RECORD_FINISHED,
    RECORD_FRESH,
    RECORD_BOOT,
    RECORD_SYNCED
};

typedef pare__chunk_record chunk_record;

/* What a file or folder keeps when it is renamed. */
typedef struct disk_place {
    uint64_t device, inode;
} disk_place;

static bool place_of(const char *path, disk_place *place)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return false;
    *place = (disk_place){.device = st.st_dev, .inode = st.st_ino};
    return true;
}

/* ---- the key --------------------------------------------------------------------------------- */

typedef struct identity {
    const char *root;
    pare__text *text;
} identity;

static pare_status add_file(void *user, const char *name, int64_t size)
{
    identity *id = user;
    char *path = NULL;
    struct stat st;
    if (pare__glob("*.part", name) || pare__glob("*.part/*", name) ||
        pare__glob("*.journal", name) || pare__glob("*.report.json", name) ||
        pare__glob("*.grads.h5", name) || pare__glob("*.steps/*", name) ||
        pare__glob("*.walk/*", name) || pare__glob("*.survey.json", name) ||
        pare__glob("*.lock", name))
        return PARE_OK; /* an output may lie inside the source's folder: it is no part of it */
    PARE_TRY(pare__join(id->root, name, &path));
    bool there = stat(path, &st) == 0;
    free(path);
    pare__text_add(id->text, "%s %lld %lld.%09ld\n", name, (long long)size,
                   there ? (long long)st.st_mtim.tv_sec : 0, there ? st.st_mtim.tv_nsec : 0L);
    return PARE_OK;
}

pare_status pare__source_state(const pare__job *job, pare__text *text)
{
    const char *path = pare_store_path(job->store);
    identity id = {.root = path, .text = text};
    char *place = realpath(path, NULL);
    struct stat st;
    pare__text_add(text, "%s\n", place ? place : path);
    free(place);
    if (pare__is_directory(path))
        PARE_TRY(pare__walk(path, add_file, &id));
    else if (stat(path, &st) == 0)
        pare__text_add(text, "%lld %lld.%09ld\n", (long long)st.st_size,
                       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    return PARE_OK;
}

/* A journal belongs to one version, recipe, output form, source and state of its files; that of
 * work with data to the data and the way of computing too. */
static pare_status make_key(pare__job *job)
{
    pare_status status = PARE_OK;
    pare__text id = {0};
    char *text = NULL, *way = NULL;
    pare__text_add(&id, "%s\n%s\n%s %lld\n", pare_version(), job->recipe_text,
                   job->recipe->format ? job->recipe->format : "",
                   (long long)job->recipe->max_shard_size);
    PARE_TRY_DONE(pare__source_state(job, &id));
    pare__gradients_way(job, &id);
    if (job->walker)
        PARE_TRY_DONE(pare__walk_way(job->walker, &way));
    pare__text_add(&id, "%s\n", way ? way : "");
    PARE_TRY_DONE(pare__text_take(&id, &text));
    job->key[0] = job->key[1] = 0;
    PARE_TRY_DONE(pare_digest(
        job->lanes[0].host,
        &(pare_digest_args){.bytes = text, .size = (int64_t)strlen(text), .result = job->key}));
done:
    free(way);
    free(text);
    pare__text_free(&id);
    return status;
}

/* ---- taking over ----------------------------------------------------------------------------- */

/* What was written is void: the part is gone, or was made anew. Passes' results hold. */
static void forget_written(pare__job *job)
{
    job->laid_out = job->finished = false;
    job->layout_unsure = false;
    job->unsure_count = 0;
    job->journaled = 0;
    job->chunks_done_before = 0;
    for (int64_t c = 0; c < job->chunk_count; c++)
        job->chunks[c].done = false;
    for (int64_t t = 0; t < job->count; t++) {
        job->tasks[t].left = job->tasks[t].chunks;
        job->digests[2 * t] = job->digests[2 * t + 1] = 0;
        job->sums[t] = (pare_sums){0};
    }
}

void pare__job_forget(pare__job *job)
{
    job->counted = false;
    forget_written(job);
}

static void count_chunk(pare__job *job, const chunk_record *r)
{
    pare__chunk *chunk = &job->chunks[r->chunk];
    chunk->done = true;
    chunk->ties = r->ties;
    chunk->nonzeros = r->nonzeros;
    job->digests[2 * chunk->task] += r->digest[0];
    job->digests[2 * chunk->task + 1] += r->digest[1];
    for (int i = 0; i < PARE_ENTRY_SUMS; i++)
        job->sums[chunk->task].sum[i] += r->sums.sum[i];
    job->tasks[chunk->task].left--;
}

static void take_chunk(pare__job *job, const chunk_record *r)
{
    if (job->chunks[r->chunk].done)
        return;
    count_chunk(job, r);
    job->chunks_done_before++;
}

/* A chunk that may not have reached the disk before a power cut waits for the note of a sync. */
static pare_status keep_unsure(pare__job *job, const chunk_record *r)
{
    PARE_TRY(pare__grow(&job->unsure, &job->unsure_capacity, job->unsure_count + 1,
                        sizeof *job->unsure));
    job->unsure[job->unsure_count] = *r;
    job->unsure[job->unsure_count++].ordinal = job->journaled;
    return PARE_OK;
}

/* The first `count` chunk records were on the disk. */
static void take_synced(pare__job *job, int64_t count)
{
    size_t left = 0;
    job->laid_out = job->laid_out || job->layout_unsure;
    for (size_t i = 0; i < job->unsure_count; i++) {
        if (job->unsure[i].ordinal < count)
            take_chunk(job, &job->unsure[i]);
        else
            job->unsure[left++] = job->unsure[i];
    }
    job->unsure_count = left;
}

/* Which boot of the machine this is: zeros where the system does not say. */
static void boot_id(char id[36])
{
    memset(id, 0, 36);
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!file)
        return;
    if (fread(id, 1, 36, file) != 36)
        memset(id, 0, 36);
    fclose(file);
}

/* Those of several machines are one text, however many processes each has: any that was started
 * anew may have lost what was not flushed. */
pare_status pare__job_boot(pare__job *job)
{
    pare_status status = PARE_OK;
    size_t ranks = (size_t)pare__rank_count(job->ranks), size = sizeof job->boot, boots = 0, b;
    uint64_t digest[2] = {0};
    char *all = NULL, hex[33];
    boot_id(job->boot);
    if (!job->ranks)
        return PARE_OK;
    PARE_TRY(pare__calloc(ranks, size, &all));
    PARE_TRY_DONE(pare_comm_gather(job->ranks, job->boot, (int64_t)size, all));
    for (size_t r = 0; r < ranks; r++) {
        for (b = 0; b < boots && memcmp(all + b * size, all + r * size, size) != 0;)
            b++;
        if (b == boots)
            memmove(all + boots++ * size, all + r * size, size);
    }
    if (boots == 1)
        goto done;
    PARE_TRY_DONE(pare_digest(
        job->lanes[0].host,
        &(pare_digest_args){.bytes = all, .size = (int64_t)(boots * size), .result = digest}));
    pare__hex128(digest, hex);
    memset(job->boot, '-', size);
    memcpy(job->boot, hex, 32);
done:
    free(all);
    return status;
}

/* A pass's results; false if the record is none. */
static bool take_pass(pare__job *job, uint32_t type, const char *p, uint32_t size)
{
    if (type == RECORD_SELECT && size == (size_t)job->group_count * sizeof *job->groups) {
        for (int64_t g = 0; g < job->group_count; g++) {
            pare__group group;
            memcpy(&group, p + (size_t)g * sizeof group, sizeof group);
            job->groups[g].threshold = group.threshold;
            job->groups[g].ties = group.ties;
            job->groups[g].equal = group.equal;
        }
        job->selected = true;
    } else if (type == RECORD_RANGES && size == (size_t)job->count * 9) {
        for (int64_t t = 0; t < job->count; t++) {
            memcpy(&job->tasks[t].scale, p + 9 * t, 4);
            memcpy(&job->tasks[t].out.scale_offset, p + 9 * t + 4, 4);
            memcpy(&job->tasks[t].zero, p + 9 * t + 8, 1);
        }
        job->ranged = true;
    } else if (type == RECORD_COUNT && size == (size_t)job->chunk_count * 16) {
        for (int64_t c = 0; c < job->chunk_count; c++) {
            memcpy(&job->chunks[c].nonzeros, p + 16 * c, 8);
            memcpy(&job->chunks[c].ties, p + 16 * c + 8, 8);
        }
        job->counted = true;
        pare__job_counted(job);
    } else {
        return false;
    }
    return true;
}

/* The journal's key says that it is this very run's, so a record of another size is a bug or a
 * forgery. */
static pare_status take(void *user, uint32_t type, const void *payload, uint32_t size)
{
    pare__job *job = user;
    const char *p = payload;
    bool taken;
    PARE_TRY(pare__walk_take(job, type, payload, size, &taken));
    if (taken || take_pass(job, type, p, size))
        return PARE_OK;
    if (type == RECORD_BOOT && size == 36) {
        job->same_boot = memcmp(job->boot, p, sizeof job->boot) == 0;
    } else if (type == RECORD_SYNCED && size == 8) {
        int64_t count;
        memcpy(&count, p, sizeof count);
        take_synced(job, count);
    } else if (type == RECORD_LAYOUT && size == 0) {
        job->laid_out = job->same_boot;
        job->layout_unsure = !job->same_boot;
    } else if (type == RECORD_FRESH && size == 0) {
        forget_written(job);
    } else if (type == RECORD_FINISHED && size == sizeof(disk_place)) {
        disk_place part, out;
        memcpy(&part, p, sizeof part);
        job->finished = place_of(job->recipe->output, &out) && memcmp(&part, &out, size) == 0;
    } else if (type == RECORD_CHUNK && size == sizeof(chunk_record)) {
        chunk_record r;
        memcpy(&r, p, sizeof r);
        PARE_REQUIRE(r.chunk >= 0 && r.chunk < job->chunk_count, PARE_ERR_DAMAGED,
                     "the journal beside %s names work that this run does not have: start anew "
                     "with --overwrite",
                     job->recipe->output);
        if (job->same_boot)
            take_chunk(job, &r);
        else
            PARE_TRY(keep_unsure(job, &r));
        job->journaled++;
    } else {
        PARE_FAIL(PARE_ERR_DAMAGED,
                  "the journal beside %s does not fit this run: start anew with --overwrite",
                  job->recipe->output);
    }
    return PARE_OK;
}

pare_status pare__beside(const pare_recipe *recipe, const char *ending, char **path)
{
    pare__text text = {0};
    size_t length = strlen(recipe->output);
    while (length > 1 && recipe->output[length - 1] == '/')
        length--;
    pare__text_bytes(&text, recipe->output, length);
    pare__text_bytes(&text, ending, strlen(ending));
    return pare__text_take(&text, path);
}

pare_status pare__has_journal(const pare_recipe *recipe, bool *has)
{
    char *path = NULL;
    PARE_TRY(pare__beside(recipe, ".journal", &path));
    *has = pare__exists(path);
    free(path);
    return PARE_OK;
}

/* A part without our journal is not ours to write over. */
static pare_status check_part(const pare__job *job, const char *part, const char *journal)
{
    if (!pare__exists(part) || pare__exists(journal))
        return PARE_OK;
    PARE_REQUIRE(
        job->options->overwrite, PARE_ERR_EXISTS,
        "%s lies in the way and no journal says whose it is: remove it, or give --overwrite", part);
    return PARE_OK;
}

/* What a run that is dropped has left beside its part, whatever it was. */
static pare_status drop_leftovers(const pare__job *job)
{
    static const char *const endings[] = {".walk", ".grads.h5"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char *path = NULL;
        PARE_TRY(pare__beside(job->recipe, endings[i], &path));
        pare_status status = pare__remove_tree(path);
        free(path);
        PARE_TRY(status);
    }
    return PARE_OK;
}

pare_status pare__job_resume(pare__job *job)
{
    pare_status status = PARE_OK;
    char *path = NULL, *part = NULL;
    PARE_TRY_DONE(pare__beside(job->recipe, ".journal", &path));
    PARE_TRY_DONE(pare__beside(job->recipe, ".part", &part));
    PARE_TRY_DONE(check_part(job, part, path));
    PARE_TRY_DONE(pare__walk_check_way(job, path));
    PARE_TRY_DONE(make_key(job));
    PARE_TRY_DONE(pare_journal_open(path, job->key, job->options->overwrite, take, job,
                                    &job->resumed, &job->journal));
    if (!job->resumed && job->options->overwrite)
        PARE_TRY_DONE(drop_leftovers(job));
    /* Of a walk that was whole once some may be unsure now, and done again with other bytes. */
    if (!job->finished && (job->laid_out || job->counted) && !pare__walk_whole(job))
        PARE_TRY_DONE(pare__walk_forget(job->walker));
    if (!job->finished && (!job->laid_out || !pare__exists(part)))
        forget_written(job);
    PARE_TRY_DONE(pare_journal_add(job->journal, RECORD_BOOT, job->boot, sizeof job->boot));
    /* Another run's, not laid out when it was cut, or the old output that ours changed with. */
    if (job->finished || !job->laid_out)
        PARE_TRY_DONE(pare__remove_tree(part));
done:
    free(part);
    free(path);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

static pare_status journal_array(pare__job *job, uint32_t type, int64_t count, int64_t each,
                                 void (*put)(const pare__job *, int64_t, char *))
{
    char *payload = NULL;
    PARE_TRY(pare__calloc((size_t)count + 1, (size_t)each, &payload));
    for (int64_t i = 0; i < count; i++)
        put(job, i, payload + i * each);
    pare_status status = pare_journal_add(job->journal, type, payload, (uint32_t)(count * each));
    free(payload);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

static void put_group(const pare__job *job, int64_t g, char *at)
{
    memcpy(at, &job->groups[g], sizeof *job->groups);
}

static void put_scale(const pare__job *job, int64_t t, char *at)
{
    memcpy(at, &job->tasks[t].scale, 4);
    memcpy(at + 4, &job->tasks[t].out.scale_offset, 4);
    memcpy(at + 8, &job->tasks[t].zero, 1);
}

static void put_count(const pare__job *job, int64_t c, char *at)
{
    memcpy(at, &job->chunks[c].nonzeros, 8);
    memcpy(at + 8, &job->chunks[c].ties, 8);
}

pare_status pare__journal_select(pare__job *job)
{
    return journal_array(job, RECORD_SELECT, job->group_count, sizeof *job->groups, put_group);
}

pare_status pare__journal_ranges(pare__job *job)
{
    return journal_array(job, RECORD_RANGES, job->count, 9, put_scale);
}

pare_status pare__journal_count(pare__job *job)
{
    return journal_array(job, RECORD_COUNT, job->chunk_count, 16, put_count);
}

pare_status pare__journal_finished(pare__job *job)
{
    char *part = NULL;
    disk_place place;
    PARE_TRY(pare__beside(job->recipe, ".part", &part));
    bool there = place_of(part, &place);
    free(part);
    PARE_REQUIRE(there, PARE_ERR_IO, "%s.part is gone", job->recipe->output);
    return pare_journal_add(job->journal, RECORD_FINISHED, &place, sizeof place);
}

pare_status pare__journal_fresh(pare__job *job)
{
    return pare_journal_add(job->journal, RECORD_FRESH, NULL, 0);
}

pare_status pare__journal_layout(pare__job *job)
{
    return pare_journal_add(job->journal, RECORD_LAYOUT, NULL, 0);
}

pare_status pare__journal_chunk(pare__job *job, const pare__lane *lane, int64_t chunk)
{
    chunk_record r = {.chunk = chunk,
                      .ties = job->chunks[chunk].ties,
                      .nonzeros = job->chunks[chunk].nonzeros,
                      .digest = {lane->digest[0], lane->digest[1]},
                      .sums = lane->parts.sums};
    if (!pare__leads(job)) {
        job->records[job->record_count++] = r;
        return PARE_OK;
    }
    PARE_TRY(pare_journal_add(job->journal, RECORD_CHUNK, &r, sizeof r));
    job->journaled++;
    return PARE_OK;
}

pare_status pare__journal_take(pare__job *job, const chunk_record *r)
{
    PARE_ASSERT(r->chunk >= 0 && r->chunk < job->chunk_count);
    PARE_TRY(pare_journal_add(job->journal, RECORD_CHUNK, r, sizeof *r));
    job->journaled++;
    count_chunk(job, r);
    pare_writer_add_sums(job->writer, job->chunks[r->chunk].task, &r->sums);
    return PARE_OK;
}

pare_status pare__journal_sync(pare__job *job)
{
    int64_t count = job->journaled; /* their bytes are written: the sync that follows covers them */
    PARE_TRY(pare_writer_sync(job->writer));
    PARE_TRY(pare_journal_add(job->journal, RECORD_SYNCED, &count, sizeof count));
    PARE_TRY(pare_journal_sync(job->journal));
    return PARE_OK;
}
