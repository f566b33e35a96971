/* walk.c - over the blocks: each is made, loaded, run, solved and left behind.
 *
 * True sequential (the default): a site's statistics come from a run up to it, in which the sites
 * before it are what they have become. per_block: one run for all sites, before any of them is
 * touched; dense: the same, and the next block sees what this one gave then. In both the scales of
 * inputs are found by those statistics, which are then divided by them. */
#include "walk.h"

#include "base/clock.h"

#include <string.h>

/* ---- the block ------------------------------------------------------------------------------- */

static bool is_last(const pare__walker *w)
{
    return w->at + 1 == w->blocks;
}

/* Layers whose results round their inputs: memory for that is part of the plan. */
static void reserve_rounding(pare__walker *w)
{
    for (int64_t i = 0; i < pare_model_param_count(w->block); i++) {
        pare_param *p = pare_model_param(w->block, i);
        int64_t t = pare_store_find(w->job->store, p->name);
        const pare__task *task = t >= 0 ? &w->job->tasks[t] : NULL;
        if (task && task->walked && task->walked->quant && task->out.scheme.type == PARE_QUANT_INT)
            p->act = task->out.scheme.activation;
    }
}

pare_status pare__walk_block(const pare__walker *w, int64_t index, pare_model **block)
{
    pare__walker reserved = *w;
    PARE_TRY(pare_model_block(w->model, index, true, block));
    reserved.block = *block;
    reserve_rounding(&reserved);
    return PARE_OK;
}

/* Images too large for the usual piece make the arena grow. */
static pare_status hold_rows(pare__walker *w)
{
    int64_t need = pare__walk_rows_bytes(w);
    if (need <= w->arena_bytes)
        return PARE_OK;
    pare_backend_release(w->be, w->arena, w->arena_bytes);
    w->arena = NULL;
    w->arena_bytes = need;
    PARE_TRY(pare_backend_alloc(w->be, need, &w->arena));
    return PARE_OK;
}

static pare_status open_block(pare__walker *w, int64_t index)
{
    w->at = index;
    PARE_TRY(pare__walk_block(w, index, &w->block));
    PARE_TRY(pare_model_prepare(w->block, w->be, &w->shape));
    PARE_TRY(pare_model_load_block(w->block, w->job->store, false));
    for (int64_t i = 0; i < pare_model_param_count(w->block); i++) {
        int64_t t = pare_store_find(w->job->store, pare_model_param(w->block, i)->name);
        if (t >= 0)
            w->job->read_bytes += pare_store_entry(w->job->store, t)->stored_bytes;
    }
    return hold_rows(w);
}

static void close_block(pare__walker *w)
{
    pare__walk_drop_stats(w);
    pare_model_free(&w->block);
}

static bool is_done(const pare__walker *w, int64_t site)
{
    const pare__walk_site *s = &w->sites[site];
    for (int l = 0; l < s->site.count; l++) {
        const pare__walked *k = s->task[l] >= 0 ? w->job->tasks[s->task[l]].walked : NULL;
        if (k && k->site == site && !k->done)
            return false;
    }
    return true;
}

static bool is_asked(const pare__walker *w, int64_t site)
{
    const pare__walk_site *s = &w->sites[site];
    return s->scaling && s->foldable && !s->scales && w->at == s->block;
}

/* ---- true sequential ------------------------------------------------------------------------- */

static pare_status walk_sequential(pare__walker *w)
{
    int64_t first, count = pare__walk_sites_of(w, w->at, &first);
    PARE_TRY(pare__walk_fold_known(w));
    for (int64_t s = first; s < first + count; s++) {
        if (!is_asked(w, s))
            continue;
        PARE_TRY(pare__walk_run(w, s, 1, NULL, false));
        PARE_TRY(pare__walk_scale(w, s));
        pare__walk_drop_stats(w);
    }
    PARE_TRY(pare__walk_keep_folded(w));
    for (int64_t s = first; s < first + count; s++) {
        if (!is_done(w, s))
            PARE_TRY(pare__walk_run(w, s, 1, NULL, false));
        PARE_TRY(pare__walk_solve(w, s));
        PARE_TRY(pare__walk_share(w, s));
        pare__walk_drop_stats(w);
    }
    if (!is_last(w))
        PARE_TRY(pare__walk_run(w, first, 0, NULL, true));
    return PARE_OK;
}

/* ---- all sites at once ----------------------------------------------------------------------- */

/* Statistics that a cache has need not be gathered; what it has not, or not soundly, is. */
static pare_status take_cached(pare__walker *w, int64_t site, bool *found)
{
    const pare__walk_site *s = &w->sites[site];
    *found = false;
    if (!w->cache)
        return PARE_OK;
    PARE_TRY(pare_site_stats_create(w->be, s->needs, s->site.cols, &w->stats[site]));
    pare_status status = pare_site_cache_find(w->cache, w->be, s->site.name, w->stats[site], found);
    if (status == PARE_ERR_DAMAGED)
        *found = false;
    else
        PARE_TRY(status);
    if (!*found)
        pare_site_stats_free(w->be, &w->stats[site]);
    return PARE_OK;
}

/* The statistics of all sites that still need them, of the block as it was. */
static pare_status gather(pare__walker *w, int64_t first, int64_t count, bool *wanted)
{
    bool next = w->calibration->dense && !is_last(w), any = false;
    for (int64_t i = 0; i < count; i++) {
        bool found = false;
        wanted[i] = w->sites[first + i].needs && (!is_done(w, first + i) || is_asked(w, first + i));
        if (wanted[i])
            PARE_TRY(take_cached(w, first + i, &found));
        wanted[i] = wanted[i] && !found;
        any = any || wanted[i];
    }
    if (any || next)
        PARE_TRY(pare__walk_run(w, first, count, wanted, next));
    for (int64_t i = 0; w->cache && i < count; i++)
        if (wanted[i])
            PARE_TRY(pare_site_cache_add(w->cache, w->be, w->sites[first + i].site.name,
                                         w->stats[first + i]));
    return PARE_OK;
}

/* Statistics of a site whose inputs were divided: a histogram has to be gathered again. */
static pare_status divide(pare__walker *w, int64_t site)
{
    const pare__walk_site *s = &w->sites[site];
    if (!s->scaled || !w->stats[site])
        return PARE_OK;
    if (!(s->needs & PARE_STAT_HISTOGRAM))
        return pare_site_stats_divide(w->be, w->stats[site], s->scales);
    pare_site_stats_free(w->be, &w->stats[site]);
    PARE_TRY(pare__walk_run(w, site, 1, NULL, false));
    return PARE_OK;
}

static pare_status visit_all(pare__walker *w, int64_t first, int64_t count)
{
    for (int64_t s = first; s < first + count; s++)
        PARE_TRY(w->visit(w, s, w->visit_user));
    return PARE_OK;
}

static pare_status walk_at_once(pare__walker *w, bool *wanted)
{
    int64_t first, count = pare__walk_sites_of(w, w->at, &first);
    PARE_TRY(gather(w, first, count, wanted));
    if (w->visit)
        return visit_all(w, first, count);
    PARE_TRY(pare__walk_fold_known(w));
    for (int64_t s = first; s < first + count; s++)
        if (is_asked(w, s))
            PARE_TRY(pare__walk_scale(w, s));
    for (int64_t s = first; s < first + count; s++)
        PARE_TRY(divide(w, s));
    PARE_TRY(pare__walk_keep_folded(w));
    for (int64_t s = first; s < first + count; s++)
        PARE_TRY(pare__walk_solve(w, s));
    for (int64_t s = first; s < first + count; s++)
        PARE_TRY(pare__walk_share(w, s));
    pare__walk_drop_stats(w);
    if (!is_last(w) && !w->calibration->dense)
        PARE_TRY(pare__walk_run(w, first, 0, NULL, true));
    return PARE_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static pare_status one_block(pare__walker *w, int64_t index)
{
    pare_status status = PARE_OK;
    bool *wanted = NULL;
    PARE_TRY_DONE(open_block(w, index));
    if (w->calibration->dense || w->calibration->per_block) {
        PARE_TRY_DONE(pare__calloc((size_t)w->site_count + 1, sizeof *wanted, &wanted));
        PARE_TRY_DONE(walk_at_once(w, wanted));
    } else {
        PARE_TRY_DONE(walk_sequential(w));
    }
    PARE_TRY_DONE(pare__walk_saved(w));
    w->done = index + 1;
    if (!w->visit)
        PARE_TRY_DONE(pare__journal_block(w->job));
done:
    free(wanted);
    close_block(w);
    return status;
}

static pare_status open_cache(pare__walker *w)
{
    const pare_log *log = &w->job->options->log;
    char *key = NULL;
    if (!w->calibration->cache)
        return PARE_OK;
    if (!w->calibration->dense || w->job->ranks) {
        if (log->write)
            log->write(log->user, PARE_LOG_INFO,
                       w->job->ranks
                           ? "the cache of statistics is not used: it is of one process"
                           : "the cache of statistics is not used: only with dense propagation are "
                             "they the same whatever is done to the model");
        return PARE_OK;
    }
    PARE_TRY(pare__walk_cache_key(w, &key));
    pare_status status = pare_site_cache_open(w->calibration->cache, key, &w->cache);
    free(key);
    PARE_TRY(status);
    return PARE_OK;
}

static pare_status open_memory(pare__walker *w)
{
    pare_cuda_facts facts;
    if (w->job->device.cuda) {
        PARE_TRY(pare_cuda_facts_of(w->job->device.index, &facts));
        w->device_free = facts.free;
        PARE_TRY(pare_cuda_create(w->job->device.index, &w->be));
    } else {
        const pare_cpu_options cpu = {.threads = w->threads, .isa = w->job->options->isa};
        PARE_TRY(pare_cpu_create(&cpu, &w->be));
    }
    if (w->job->ranks)
        PARE_TRY(pare_comm_device(w->job->ranks, w->be, &w->comm));
    PARE_TRY(pare__calloc((size_t)w->site_count, sizeof(pare_site_stats *), &w->stats));
    PARE_TRY(pare_backend_alloc(w->be, w->hidden_in_bytes, &w->hidden_in));
    PARE_TRY(pare_backend_host_alloc(w->be, w->staging_bytes, &w->staging));
    PARE_TRY(pare_backend_alloc(w->be, w->arena_bytes, &w->arena));
    PARE_TRY(pare_backend_alloc(w->be, w->vector_bytes, &w->vector));
    for (int i = 0; w->holds && i < 2; i++)
        PARE_TRY(pare_backend_alloc(w->be, w->hidden_bytes, &w->held[i]));
    PARE_TRY(pare__walk_open_saving(w));
    PARE_TRY(open_cache(w));
    return PARE_OK;
}

/* What is gone from the device now is the peak: a backend keeps what it was given back. */
static void count_device(pare__walker *w)
{
    pare_cuda_facts facts;
    pare__device *device = &w->job->device;
    if (!device->cuda || pare_cuda_facts_of(device->index, &facts) != PARE_OK)
        return;
    int64_t used = w->device_free - facts.free;
    device->peak = used > device->peak ? used : device->peak;
}

static void close_memory(pare__walker *w)
{
    if (!w->be)
        return;
    pare_site_cache_close(&w->cache);
    pare__walk_close_saving(w);
    for (int i = 0; i < 2; i++) {
        pare_backend_release(w->be, w->held[i], w->hidden_bytes);
        w->held[i] = NULL;
    }
    pare_backend_release(w->be, w->vector, w->vector_bytes);
    pare_backend_release(w->be, w->arena, w->arena_bytes);
    pare_backend_host_release(w->be, w->staging, w->staging_bytes);
    pare_backend_release(w->be, w->hidden_in, w->hidden_in_bytes);
    w->vector = NULL;
    w->arena = w->staging = w->hidden_in = NULL;
    free(w->stats);
    w->stats = NULL;
    if (w->comm && w->comm != w->job->ranks)
        w->moved = pare_comm_traffic_of(w->comm);
    pare_comm_free(&w->comm);
    pare_backend_free(&w->be);
}

/* What is on its way was made before; but where a device fails, all that comes after fails too. */
static pare_status first_failure(pare__walker *w, pare_status status)
{
    if (status == PARE_OK || status == PARE_ERR_DEVICE)
        return status;
    pare_status before = pare__walk_saved(w);
    return before != PARE_OK ? before : status;
}

static pare_status walk_rest(pare__walker *w)
{
    pare_status status = PARE_OK;
    PARE_TRY_DONE(open_memory(w));
    for (int64_t b = w->done; b < w->blocks && w->result_bytes; b++)
        PARE_TRY_DONE(one_block(w, b));
    if (w->visit)
        PARE_TRY_DONE(w->visit(w, -1, w->visit_user));
    count_device(w); /* not after a fault, whose sentence is the one to keep */
done:
    status = first_failure(w, status);
    close_memory(w);
    return status;
}

pare_status pare__walk_blocks(pare__job *job)
{
    pare__walker *w = job->walker;
    if (!w)
        return PARE_OK;
    if (!job->resumed && pare__leads(job))
        PARE_TRY(pare__walk_clean(job));
    PARE_TRY(pare__ranks_wait(job));
    if (!job->resumed && !pare__leads(job)) /* where it has a disk of its own */
        PARE_TRY(pare__walk_clean(job));
    double begin = pare__now();
    if (w->result_bytes == 0 && !w->visit)
        return PARE_OK; /* no product reads what was chosen */
    PARE_TRY(pare__walk_open_files(w));
    PARE_TRY(pare__walk_tell(w));
    if (w->done < w->blocks)
        PARE_TRY(walk_rest(w));
    w->ready = true;
    pare__json *phase = pare__json_set_object(job->phases, NULL);
    pare__json_set_string(phase, "name", "walk");
    pare__json_set_real(phase, "seconds", pare__now() - begin);
    return PARE_OK;
}
