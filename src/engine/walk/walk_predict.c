/* walk_predict.c - what a walk takes, before it starts: memory, the disk, operations. */
#include "walk.h"

#include <string.h>

/* What is not counted one by one, measured: buffers of files and the journal, code that oneDNN
 * makes, the stack of a thread; */
#define BASE_BYTES ((int64_t)640 << 10)
#define THREAD_BYTES ((int64_t)96 << 10)
/* and once Gram matrices are summed: code that oneDNN makes for their products, and its copies of
 * operands, which do not grow beyond a size. */
#define GRAM_BYTES ((int64_t)17 << 18)
#define GRAM_COPY_BYTES ((int64_t)1 << 20)
/* Between processes: what is on its way. */
#define WIRE_BYTES ((int64_t)8 << 20)
/* The same on a device. */
#define DEVICE_LIBRARY_BYTES ((int64_t)192 << 20)

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A block that is not prepared says it for one token. */
int64_t pare__walk_hidden_sample(const pare__walker *w, const pare_model *block)
{
    pare_tensor hidden = pare_model_hidden(block);
    if (hidden.rank == 0)
        return 0;
    hidden.shape[0] = 1;
    if (pare_model_facts_of(block)->tokens && hidden.rank == 3)
        hidden.shape[1] += w->shape.length - 1;
    return pare_tensor_count(&hidden) * pare_dtype_bits(w->shape.compute) / 8;
}

/* What a block takes at most while it is worked on. */
typedef struct block_need {
    pare_model_memory memory;
    int64_t stats, method; /* of its sites: held together; of what needs most */
    double weights;        /* multiplied with, of all its sites */
    double before;         /* of those, with what comes before each site that is gathered */
    double solving;        /* operations, beside runs */
    int64_t reads;         /* bytes of the source */
} block_need;

/* Operations of a site: its Gram matrix for each row of inputs; factor and sweeps. */
static void add_operations(const pare__walker *w, const pare__walk_site *s, double *per_row,
                           double *once)
{
    double K = (double)s->site.cols;
    bool factor = false;
    for (int l = 0; l < s->site.count; l++) {
        const pare__task *task = s->task[l] >= 0 ? &w->job->tasks[s->task[l]] : NULL;
        const pare__walked *k = task ? task->walked : NULL;
        if (!k || !((k->prune && k->prune->method->choose) ||
                    (k->quant && k->quant->method->needs_factor)))
            continue;
        factor = true;
        /* a sweep; errors before and after, and of 0 */
        *once += 7 * (double)task->out.rows * K * K;
    }
    if (s->needs & PARE_STAT_GRAM)
        *per_row += K * K;
    *once += factor ? 2 * K * K * K / 3 : 0;
}

static void add_site(const pare__walker *w, const pare__walk_site *s, block_need *need,
                     double *per_row)
{
    bool together = w->calibration->dense || w->calibration->per_block;
    int64_t stats = s->needs ? pare_site_stats_bytes(s->needs, s->site.cols) : 0;
    need->stats = together ? need->stats + stats : greater(need->stats, stats);
    need->method =
        greater(need->method, w->visited ? w->visit_beside : pare__walk_method_bytes(w, s));
    need->before += s->needs ? need->weights : 0;
    need->reads += pare__walk_scale_reads(w, s);
    for (int l = 0; l < s->site.count; l++)
        if (s->task[l] >= 0)
            need->weights += (double)w->job->tasks[s->task[l]].out.rows * (double)s->site.cols;
    add_operations(w, s, per_row, &need->solving);
}

/* Runs of a block over all samples, in whole ones: for statistics and for what comes next. */
static double runs_of(const pare__walker *w, const block_need *need, bool last)
{
    if (w->calibration->dense)
        return 1;
    double next = last ? 0 : 1;
    if (w->calibration->per_block)
        return next + 1;
    return next + (need->weights > 0 ? need->before / need->weights : 0);
}

/* Bytes of the source that loading a block reads. */
static int64_t loading(const pare__walker *w, pare_model *block)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < pare_model_param_count(block); i++) {
        int64_t t = pare_store_find(w->job->store, pare_model_param(block, i)->name);
        bytes += t >= 0 ? pare_store_entry(w->job->store, t)->stored_bytes : 0;
    }
    return bytes;
}

static pare_status look_at_block(pare__walker *w, int64_t index, block_need *need)
{
    pare_model *block = NULL;
    int64_t first, count = pare__walk_sites_of(w, index, &first);
    double per_row = 0, batches = (double)w->most / (double)w->shape.batch;
    *need = (block_need){0};
    PARE_TRY(pare__walk_block(w, index, &block));
    pare_status status = pare_model_predict(block, &w->shape, &need->memory);
    int64_t hidden = pare__walk_hidden_sample(w, block);
    w->hidden_in_bytes = greater(w->hidden_in_bytes, hidden * w->shape.batch);
    w->hidden_bytes = greater(w->hidden_bytes, hidden * w->most);
    need->reads = loading(w, block);
    pare_model_free(&block);
    PARE_TRY(status);
    for (int64_t s = first; s < first + count; s++) {
        const pare__walk_site *site = &w->sites[s];
        add_site(w, site, need, &per_row);
        if (!w->visited)
            w->arena_bytes = greater(w->arena_bytes, pare__walk_layer_bytes(w, site));
        int64_t rows = w->padded ? w->shape.batch * w->shape.length * site->site.cols * 4 : 0;
        w->arena_bytes =
            greater(w->arena_bytes, site->site.conv && site->needs ? PARE__WALK_PATCHES : rows);
    }
    w->read_bytes += need->reads * pare__rank_count(w->job->ranks);
    /* Rows of inputs: what the block's own products say. */
    double rows = need->weights > 0 ? need->memory.flops / (2 * need->weights) : 0;
    w->flops +=
        need->solving / pare__rank_count(w->job->ranks) +
        batches * (need->memory.flops * runs_of(w, need, index + 1 == w->blocks) + rows * per_row);
    return PARE_OK;
}

static int64_t library_bytes(const pare__walker *w)
{
    int64_t gram = 0;
    for (int64_t s = 0; s < w->site_count; s++) {
        int64_t square = 4 * w->sites[s].site.cols * w->sites[s].site.cols;
        if (w->sites[s].needs & PARE_STAT_GRAM)
            gram = greater(gram, GRAM_BYTES + lesser(square, GRAM_COPY_BYTES));
    }
    return BASE_BYTES + w->threads * THREAD_BYTES + gram;
}

/* What each tensor takes by itself; *reading: of the host's, while its source values are read. */
static void add_tensors(pare__walker *w, int64_t *reading)
{
    *reading = 0;
    for (int64_t t = 0; t < w->job->count; t++) {
        const pare_entry *e = &w->job->tasks[t].out;
        if (!w->job->tasks[t].walked)
            continue;
        w->vector_bytes = greater(w->vector_bytes, 4 * greater(e->rows, e->cols));
        *reading = greater(*reading, pare__walk_source_bytes(w, t));
        w->read_bytes += pare_store_entry(w->job->store, t)->stored_bytes;
        if (!w->visited) /* a survey keeps no results */
            w->saving_bytes = greater(w->saving_bytes, pare__walk_result_bytes(&w->job->tasks[t]));
    }
    for (int64_t s = 0; s < w->site_count; s++)
        w->vector_bytes = greater(w->vector_bytes, 4 * w->sites[s].site.cols);
}

pare_status pare__walk_predict(pare__walker *w)
{
    bool far = w->job->device.cuda;
    pare__bytes most = {0};
    w->flops = 0;
    w->arena_bytes = w->visited ? w->visit_bytes : 0;
    w->hidden_in_bytes = w->hidden_bytes = w->read_bytes = w->peak.device = 0;
    w->vector_bytes = 64;
    if (w->result_bytes == 0)
        return PARE_OK; /* nothing will be walked for */
    for (int64_t b = 0; b < w->blocks; b++) {
        block_need need;
        PARE_TRY(look_at_block(w, b, &need));
        const pare_model_memory *m = &need.memory;
        int64_t here = m->params + m->activations + need.stats + need.method;
        most.host = greater(most.host, far ? m->inputs : here + m->scratch);
        most.device = greater(most.device, far ? here + m->inputs + m->device_scratch : 0);
    }
    w->saving_bytes = w->hidden_in_bytes;
    int64_t reading;
    add_tensors(w, &reading);
    w->staging_bytes = far ? PARE__WALK_STAGING : 0;
    int64_t own = w->arena_bytes + w->hidden_in_bytes + w->vector_bytes;
    int64_t samples = 2 * pare_batch_bytes(w->dataset, w->shape.batch);
    w->left_bytes = library_bytes(w);
    w->peak.host = most.host + samples + w->left_bytes + pare__walk_join_bytes(w) +
                   (w->job->ranks ? WIRE_BYTES : 0) + (far ? 2 * w->staging_bytes + reading : own);
    if (far)
        w->peak.device =
            most.device + own + pare__walk_saving_bytes(w->saving_bytes) + DEVICE_LIBRARY_BYTES;
    /* Reading them from files again and again would take longer than the products of a device. */
    int64_t room = w->job->device.memory / 8 * 7 - w->peak.device;
    w->holds = far && w->blocks > 1 && 2 * w->hidden_bytes <= room;
    w->peak.device += w->holds ? 2 * w->hidden_bytes : 0;
    return PARE_OK;
}
