/* select.c - exact k-th selection over tensors of any size: a radix select in two reads.
 *
 * Scores are 31-bit keys (ops_compress.h). The first read counts their upper 15 bits, which tells
 * in which of 32768 bins the k-th key lies; the second counts the lower 16 bits of that bin's keys,
 * which tells the key itself, how many lie below it and how many are equal to it. Memory is a
 * histogram a group, never the keys; counts are integers, so the order of work does not matter.
 * Groups are taken in batches to bound the histograms.
 */
#include "job.h"

#include "pare/ops.h"

#include <string.h>

enum { BATCH = 32 }; /* groups whose histograms are in memory together: 16 MiB */

typedef struct selection {
    pare__job *job;
    int64_t first, count; /* groups of this batch */
    bool low;             /* second read */
    int32_t prefix[BATCH];
    int64_t rest[BATCH]; /* how many of the prefix's keys go */
    bool finished[BATCH];
    int64_t room;    /* groups a batch has at most */
    int64_t *bins;   /* [room][PARE_SELECT_LOW_BINS] */
    int64_t *chunks; /* [items] */
    int64_t items;
} selection;

static int64_t *group_bins(const selection *s, int64_t group)
{
    return s->bins + (group - s->first) * PARE_SELECT_LOW_BINS;
}

/* Adds a worker's counts to their group's. */
static pare_status flush(selection *s, pare__lane *lane)
{
    if (lane->bins_group < 0)
        return PARE_OK;
    int64_t n = s->low ? PARE_SELECT_LOW_BINS : PARE_SELECT_HIGH_BINS,
            *sum = group_bins(s, lane->bins_group), bytes = n * (int64_t)sizeof *lane->bins;
    PARE_TRY(pare_backend_download(lane->be, lane->bins_on_host, lane->bins, bytes));
    pthread_mutex_lock(&s->job->lock);
    for (int64_t i = 0; i < n; i++)
        sum[i] += lane->bins_on_host[i];
    pthread_mutex_unlock(&s->job->lock);
    PARE_TRY(pare_backend_clear(lane->be, lane->bins, bytes));
    lane->bins_group = -1;
    return PARE_OK;
}

static pare_status read_stage(void *user, int worker, int64_t item)
{
    selection *s = user;
    PARE_TRY(pare__chunk_read(s->job, &s->job->lanes[worker], s->chunks[item]));
    return PARE_OK;
}

static pare_status upload_stage(void *user, int worker, int64_t item)
{
    (void)item;
    selection *s = user;
    PARE_TRY(pare__chunk_upload(&s->job->lanes[worker]));
    return PARE_OK;
}

static pare_status score_stage(void *user, int worker, int64_t item)
{
    (void)item;
    selection *s = user;
    PARE_TRY(pare__chunk_score(s->job, &s->job->lanes[worker]));
    return PARE_OK;
}

static pare_status count_stage(void *user, int worker, int64_t item)
{
    (void)item;
    selection *s = user;
    pare__lane *lane = &s->job->lanes[worker];
    int64_t group = lane->task->group;
    const pare_pattern *p = &lane->task->prune->pattern;
    int64_t n = lane->rows * lane->task->out.cols;
    if (p->kind == PARE_PATTERN_BLOCK)
        n = ((lane->rows + p->block_rows - 1) / p->block_rows) *
            ((lane->task->out.cols + p->block_cols - 1) / p->block_cols);
    if (lane->bins_group != group)
        PARE_TRY(flush(s, lane));
    lane->bins_group = group;
    PARE_TRY(pare_select_hist(
        lane->be, &(pare_select_hist_args){
                      .x = lane->keys ? pare_vector(lane->keys, PARE_U32, n)
                                      : pare_vector(lane->w, PARE_F32, n),
                      .prefix = s->low ? s->prefix[group - s->first] : -1,
                      .bins = pare_vector(lane->bins, PARE_I64,
                                          s->low ? PARE_SELECT_LOW_BINS : PARE_SELECT_HIGH_BINS)}));
    pare__lane_end(lane);
    return PARE_OK;
}

static int64_t bytes_of(void *user, int64_t item)
{
    const selection *s = user;
    return pare__chunk_bytes(s->job, s->chunks[item]).host;
}

static int64_t device_bytes_of(void *user, int64_t item)
{
    const selection *s = user;
    return pare__chunk_bytes(s->job, s->chunks[item]).device;
}

/* One read of all chunks of the batch's unfinished groups into fresh histograms. */
static pare_status count(selection *s)
{
    pare__job *job = s->job;
    s->items = 0;
    memset(s->bins, 0, (size_t)s->room * PARE_SELECT_LOW_BINS * sizeof *s->bins);
    for (int64_t c = 0; c < job->chunk_count; c++) {
        int64_t g = job->tasks[job->chunks[c].task].group;
        if (g >= s->first && g < s->first + s->count && !s->finished[g - s->first])
            s->chunks[s->items++] = c;
    }
    pare_job stages = {.name = s->low ? "select (low bits)" : "select (high bits)",
                       .items = s->items,
                       .user = s,
                       .bytes = bytes_of,
                       .device_bytes = device_bytes_of};
    int n = 0;
    stages.stages[n++] = (pare_stage){.name = "read", .run = read_stage};
    if (job->device.cuda)
        stages.stages[n++] = (pare_stage){.name = "upload", .run = upload_stage};
    stages.stages[n++] = (pare_stage){.name = "score", .run = score_stage};
    stages.stages[n++] = (pare_stage){.name = "count", .run = count_stage};
    PARE_TRY(pare__job_phase(job, &stages));
    for (int i = 0; i < job->threads; i++)
        PARE_TRY(flush(s, &job->lanes[i]));
    return PARE_OK;
}

/* The bin in which the wanted-th key lies (wanted ≥ 1), and how many keys lie in bins before it. */
static int64_t find_bin(const int64_t *bins, int64_t n, int64_t wanted, int64_t *before)
{
    int64_t sum = 0, i = 0;
    while (i < n - 1 && sum + bins[i] < wanted)
        sum += bins[i++];
    *before = sum;
    return i;
}

/* Whether the low 16 bits of every score of a group are 0: |w| of bf16. */
static bool is_bf16(const pare__job *job, int64_t group)
{
    for (int64_t t = 0; t < job->count; t++)
        if (job->tasks[t].group == group &&
            (job->tasks[t].out.dtype != PARE_BF16 ||
             !job->tasks[t].prune->method->weight_is_score ||
             job->tasks[t].prune->pattern.kind == PARE_PATTERN_BLOCK))
            return false;
    return true;
}

static void resolve_high(selection *s, int64_t i)
{
    pare__group *group = &s->job->groups[s->first + i];
    const int64_t *bins = group_bins(s, s->first + i);
    int64_t before;
    s->prefix[i] = (int32_t)find_bin(bins, PARE_SELECT_HIGH_BINS, group->prune, &before);
    s->rest[i] = group->prune - before;
    if (is_bf16(s->job, s->first + i)) {
        group->threshold = (uint32_t)s->prefix[i] << 16;
        group->ties = s->rest[i];
        group->equal = bins[s->prefix[i]];
        s->finished[i] = true;
    }
}

static void resolve_low(selection *s, int64_t i)
{
    pare__group *group = &s->job->groups[s->first + i];
    const int64_t *bins = group_bins(s, s->first + i);
    int64_t before, low = find_bin(bins, PARE_SELECT_LOW_BINS, s->rest[i], &before);
    group->threshold = (uint32_t)s->prefix[i] << 16 | (uint32_t)low;
    group->ties = s->rest[i] - before;
    group->equal = bins[low];
    s->finished[i] = true;
}

static pare_status select_batch(selection *s)
{
    for (int64_t i = 0; i < s->count; i++) /* where none go, threshold 0 with no ties says so */
        s->finished[i] = s->job->groups[s->first + i].prune == 0;
    for (s->low = false;; s->low = true) {
        bool any = false;
        for (int64_t i = 0; i < s->count; i++)
            any = any || !s->finished[i];
        if (!any)
            return PARE_OK;
        PARE_TRY(count(s));
        for (int64_t i = 0; i < s->count; i++) {
            if (s->finished[i])
                continue;
            if (s->low)
                resolve_low(s, i);
            else
                resolve_high(s, i);
        }
    }
}

pare_status pare__job_select(pare__job *job)
{
    pare_status status = PARE_OK;
    selection s = {.job = job};
    if (job->group_count == 0)
        return PARE_OK;
    s.room = job->group_count < BATCH ? job->group_count : BATCH;
    PARE_TRY_DONE(pare__calloc((size_t)s.room * PARE_SELECT_LOW_BINS, sizeof *s.bins, &s.bins));
    PARE_TRY_DONE(pare__calloc((size_t)job->chunk_count, sizeof *s.chunks, &s.chunks));
    for (int i = 0; i < job->threads; i++)
        PARE_TRY_DONE(pare__lane_bins(&job->lanes[i], PARE_SELECT_LOW_BINS));
    for (s.first = 0; s.first < job->group_count; s.first += BATCH) {
        s.count = job->group_count - s.first < BATCH ? job->group_count - s.first : BATCH;
        PARE_TRY_DONE(select_batch(&s));
    }
done:
    for (int i = 0; i < job->threads; i++)
        pare__lane_bins_free(&job->lanes[i]);
    free(s.chunks);
    free(s.bins);
    return status;
}
