/* walk_scale.c - weights as the walk sees them: the source's, with the scales of inputs folded in.
 *
 * A method may divide a site's inputs by scales (AWQ, SmoothQuant): the columns of its weights are
 * multiplied by them, and what makes the inputs (a norm's vector, the rows of the layer before) is
 * divided, so that the block is still the same function. Scales are kept, not what they make: a
 * weight is always the source's with the scales of its block, in the order of sites. */
#include "walk.h"

#include <math.h>
#include <string.h>

#define PIECE_BYTES ((int64_t)2 << 20) /* of source values that are read at once */

/* ---- the source's values --------------------------------------------------------------------- */

typedef struct piece {
    char *raw, *scratch;
    float *wide; /* the same in F32, where the backend's memory is not the host's */
    int64_t rows, raw_bytes, scratch_bytes, wide_bytes;
} piece;

static void size_piece(const pare__walker *w, int64_t index, piece *p)
{
    const pare_entry *e = pare_store_entry(w->job->store, index);
    int64_t row = e->cols * pare_dtype_bits(e->dtype) / 8;
    int64_t align = e->form == PARE_FORM_DENSE ? 1 : pare_entry_align(e);
    p->rows = PIECE_BYTES / (row > 0 ? row : 1) / align * align;
    p->rows = p->rows < align ? align : p->rows;
    p->rows = p->rows < e->rows ? p->rows : e->rows;
    p->raw_bytes = p->rows * row;
    p->scratch_bytes = pare_store_scratch(w->job->store, index, p->rows);
    p->wide_bytes = w->job->device.cuda ? p->rows * e->cols * 4 : 0;
}

int64_t pare__walk_source_bytes(const pare__walker *w, int64_t task)
{
    piece p = {0};
    size_piece(w, task, &p);
    return p.raw_bytes + p.scratch_bytes + p.wide_bytes;
}

static pare_status open_piece(const pare__walker *w, int64_t index, piece *p)
{
    size_piece(w, index, p);
    PARE_TRY(pare__pages((size_t)p->raw_bytes, &p->raw));
    PARE_TRY(pare__pages((size_t)p->scratch_bytes, &p->scratch));
    PARE_TRY(pare__pages((size_t)p->wide_bytes, &p->wide));
    return PARE_OK;
}

static void close_piece(piece *p)
{
    pare__pages_free(p->wide, (size_t)p->wide_bytes);
    pare__pages_free(p->scratch, (size_t)p->scratch_bytes);
    pare__pages_free(p->raw, (size_t)p->raw_bytes);
}

static pare_status read_source(pare__walker *w, int64_t index, float *values)
{
    pare_status status = PARE_OK;
    pare_backend *host = pare_backend_host(w->be);
    const pare_entry *e = pare_store_entry(w->job->store, index);
    piece p = {0};
    PARE_TRY_DONE(open_piece(w, index, &p));
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        rows = e->rows - first < p.rows ? e->rows - first : p.rows;
        int64_t n = rows * e->cols;
        float *to = values + first * e->cols;
        PARE_TRY_DONE(
            pare_store_read_values(w->job->store, host, index, first, rows, p.raw, p.scratch));
        PARE_TRY_DONE(pare_cast(
            host, &(pare_cast_args){.x = pare_vector(p.raw, e->dtype, n),
                                    .y = pare_vector(p.wide ? p.wide : to, PARE_F32, n)}));
        if (p.wide)
            PARE_TRY_DONE(pare_backend_upload(w->be, to, p.wide, n * 4));
    }
    w->job->read_bytes += e->stored_bytes;
done:
    close_piece(&p);
    return status;
}

/* ---- scales ---------------------------------------------------------------------------------- */

/* Multiplies rows or columns of a task's values by what the scales of a site mean for it. */
static pare_status apply(pare__walker *w, const pare__walk_site *s, int64_t task,
                         pare_tensor values)
{
    bool cols = false, rows = task == s->fold[0] || task == s->fold[1];
    int64_t R = values.shape[0], C = values.shape[1], K = s->site.cols;
    float *factor = NULL;
    for (int l = 0; l < s->site.count; l++)
        cols = cols || s->task[l] == task;
    if (cols) {
        PARE_TRY(pare_backend_upload(w->be, w->vector, s->scales, K * 4));
        PARE_TRY(pare_scale(
            w->be, &(pare_scale_args){
                       .x = values, .y = values, .cols = pare_vector(w->vector, PARE_F32, C)}));
    }
    if (!rows)
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)R, sizeof *factor, &factor));
    for (int64_t r = 0; r < R; r++)
        factor[r] = 1;
    int64_t dim = s->site.fold_dim > 0 ? s->site.fold_dim : 1, repeat = s->site.fold_repeat;
    for (int64_t k = 0; k < K; k++) {
        int64_t c = k / s->site.inner; /* the places of a channel have one scale */
        factor[s->site.fold_first + c / repeat / dim * dim + c % dim] = 1 / s->scales[k];
    }
    pare_status status = pare_backend_upload(w->be, w->vector, factor, R * 4);
    free(factor);
    PARE_TRY(status);
    PARE_TRY(pare_scale(
        w->be,
        &(pare_scale_args){.x = values, .y = values, .rows = pare_vector(w->vector, PARE_F32, R)}));
    return PARE_OK;
}

static bool changes(const pare__walk_site *s, int64_t task)
{
    bool yes = task == s->fold[0] || task == s->fold[1];
    for (int l = 0; l < s->site.count; l++)
        yes = yes || s->task[l] == task;
    return s->scaled && yes;
}

pare_status pare__walk_weight(pare__walker *w, int64_t task, pare_tensor values)
{
    int64_t first, count = pare__walk_sites_of(w, w->at, &first);
    PARE_TRY(read_source(w, task, values.data));
    for (int64_t s = first; s < first + count; s++)
        if (changes(&w->sites[s], task))
            PARE_TRY(apply(w, &w->sites[s], task, values));
    return PARE_OK;
}

/* ---- into the block -------------------------------------------------------------------------- */

int64_t pare__walk_param(const pare__walker *w, int64_t task)
{
    for (int64_t i = 0; i < pare_model_param_count(w->block); i++)
        if (strcmp(pare_model_param(w->block, i)->name, w->job->tasks[task].out.name) == 0)
            return i;
    return -1;
}

/* To the entry's dtype and back: what is written is what the block goes on with. */
static pare_status round_values(pare__walker *w, const pare_entry *e, pare_tensor values,
                                void *narrow)
{
    int64_t n = e->rows * e->cols;
    if (e->dtype == PARE_F32)
        return PARE_OK;
    pare_tensor wide = pare_vector(values.data, PARE_F32, n),
                own = pare_vector(narrow, e->dtype, n);
    PARE_TRY(pare_cast(w->be, &(pare_cast_args){.x = wide, .y = own}));
    PARE_TRY(pare_cast(w->be, &(pare_cast_args){.x = own, .y = wide}));
    return PARE_OK;
}

/* *finite: whether all values still are (of a layer that is still to be solved: as F32). */
static pare_status put(pare__walker *w, int64_t task, bool *finite)
{
    const pare__task *t = &w->job->tasks[task];
    pare__carve carve = {.base = w->arena};
    pare_stats_result seen;
    void *place = pare__carve_next(&carve, t->out.rows * t->out.cols * 4);
    pare_tensor values = pare_matrix(place, PARE_F32, t->out.rows, t->out.cols);
    PARE_TRY(pare__walk_weight(w, task, values));
    if (t->walked->site < 0)
        PARE_TRY(round_values(w, &t->out, values,
                              pare__carve_next(&carve, t->out.rows * t->out.cols * 2)));
    PARE_TRY(pare_stats(w->be, &(pare_stats_args){.x = values, .result = &seen}));
    *finite = seen.nans + seen.infs == 0;
    PARE_TRY(pare_model_set_value(w->block, pare__walk_param(w, task), values));
    return PARE_OK;
}

/* All that a site's scales change. */
static pare_status put_changed(pare__walker *w, const pare__walk_site *s, bool *finite)
{
    *finite = true;
    for (int i = -2; i < s->site.count; i++) {
        int64_t task = i < 0 ? s->fold[i + 2] : s->task[i];
        bool good;
        if (task < 0)
            continue;
        PARE_TRY(put(w, task, &good));
        *finite = *finite && good;
    }
    return PARE_OK;
}

pare_status pare__walk_fold_known(pare__walker *w)
{
    int64_t first, count = pare__walk_sites_of(w, w->at, &first);
    bool finite;
    for (int64_t s = first; s < first + count; s++)
        if (w->sites[s].scaled)
            PARE_TRY(put_changed(w, &w->sites[s], &finite));
    return PARE_OK;
}

static pare_status keep(pare__walker *w, int64_t t)
{
    const pare__task *task = &w->job->tasks[t];
    pare__carve carve = {.base = w->arena};
    int64_t n = task->out.rows * task->out.cols;
    pare_layer layer = {.w = pare_matrix(pare__carve_next(&carve, n * 4), PARE_F32, task->out.rows,
                                         task->out.cols)};
    PARE_TRY(pare__walk_weight(w, t, layer.w));
    task->walked->done = !w->job->ranks; /* else once all know */
    return pare__walk_write(w, t, &layer, pare__carve_next(&carve, n * 2));
}

pare_status pare__walk_keep_folded(pare__walker *w)
{
    for (int64_t t = 0; t < w->job->count; t++) {
        pare__task *task = &w->job->tasks[t];
        pare__walked *k = task->walked;
        if (!k || k->site >= 0 || k->block != w->at || k->done)
            continue;
        if (pare__owns(w->job, task))
            PARE_TRY(keep(w, t));
        PARE_TRY(pare__walk_tell_layer(w, t));
    }
    return PARE_OK;
}

/* ---- finding them ---------------------------------------------------------------------------- */

static bool is_scaled(const pare__walk_site *s, const pare__walked *k)
{
    return k && k->quant == s->scaling;
}

int64_t pare__walk_scale_reads(const pare__walker *w, const pare__walk_site *s)
{
    int64_t bytes = 0;
    for (int i = -2; s->scaling && s->foldable && i < s->site.count; i++) {
        int64_t t = i < 0 ? s->fold[i + 2] : s->task[i];
        if (t < 0)
            continue;
        bool asked = i >= 0 && is_scaled(s, w->job->tasks[t].walked);
        bytes += (1 + asked) * pare_store_entry(w->job->store, t)->stored_bytes;
    }
    return bytes;
}

int64_t pare__walk_scale_bytes(const pare__walker *w, const pare__walk_site *s)
{
    pare__carve all = {0};
    int64_t most = 0;
    for (int l = 0; s->scaling && l < s->site.count; l++) {
        pare_layer layer;
        if (s->task[l] >= 0 && is_scaled(s, w->job->tasks[s->task[l]].walked))
            pare__walk_layer(&w->job->tasks[s->task[l]], &all, &layer);
    }
    for (int i = -2; s->scaling && i < s->site.count; i++) { /* what they are put into */
        int64_t t = i < 0 ? s->fold[i + 2] : s->task[i];
        const pare_entry *e = t >= 0 ? &w->job->tasks[t].out : NULL;
        pare__carve one = {0};
        if (!e)
            continue;
        pare__carve_next(&one, e->rows * e->cols * 4);
        pare__carve_next(&one, e->rows * e->cols * 2);
        most = one.size > most ? one.size : most;
    }
    return all.size > most ? all.size : most;
}

static pare_status ask(pare__walker *w, pare__walk_site *s, const pare_site_stats *stats)
{
    pare__carve carve = {.base = w->arena};
    pare_layer layers[PARE_SITE_LAYERS];
    pare_quant_site q = {.stats = stats,
                         .cols = s->site.cols,
                         .fold_dim = s->site.fold_dim,
                         .fold_repeat = s->site.fold_repeat,
                         .foldable = s->foldable,
                         .search = s->scaling->search,
                         .tuning = s->scaling->tuning,
                         .ranks = w->job->ranks,
                         .scales = s->scales};
    for (int l = 0; l < s->site.count; l++) {
        const pare__task *task = s->task[l] >= 0 ? &w->job->tasks[s->task[l]] : NULL;
        if (!task || !is_scaled(s, task->walked))
            continue;
        pare_layer *layer = &layers[q.layers];
        pare__walk_layer(task, &carve, layer);
        layer->stats = stats;
        PARE_TRY(pare__walk_weight(w, s->task[l], layer->w));
        q.layer[q.layers++] = layer;
    }
    pare_status status = s->scaling->method->scale_site(w->be, &q);
    for (int l = 0, asked = 0; l < s->site.count; l++) {
        bool part = s->task[l] >= 0 && is_scaled(s, w->job->tasks[s->task[l]].walked);
        s->before[l] = part && status == PARE_OK ? q.before[asked] : (double)NAN;
        asked += part;
    }
    snprintf(s->note, sizeof s->note, "%s", status == PARE_OK ? q.note : pare_last_error());
    if (status != PARE_OK && status != PARE_ERR_NUMERIC)
        return status;
    s->scaled = status == PARE_OK && s->foldable;
    return PARE_OK;
}

/* Whether scales are numbers that can be multiplied by, and do something. */
static bool sensible(const float *scales, int64_t count)
{
    bool some = false;
    for (int64_t c = 0; c < count; c++) {
        if (!(scales[c] > 0 && isfinite(scales[c]) && isfinite(1 / scales[c])))
            return false;
        some = some || scales[c] != 1;
    }
    return some;
}

pare_status pare__walk_scale(pare__walker *w, int64_t index)
{
    pare__walk_site *s = &w->sites[index];
    bool finite = true;
    PARE_TRY(pare__calloc((size_t)s->site.cols, sizeof *s->scales, &s->scales));
    for (int64_t c = 0; c < s->site.cols; c++)
        s->scales[c] = 1;
    PARE_TRY(ask(w, s, w->stats[index]));
    PARE_TRY(pare__walk_tell_scales(w, index)); /* what the first one knows of them, too */
    s->scaled = s->scaled && sensible(s->scales, s->site.cols);
    if (s->scaled)
        PARE_TRY(put_changed(w, s, &finite));
    if (!finite) { /* what the checkpoint's dtype does not hold */
        s->scaled = false;
        snprintf(s->note, sizeof s->note, "its scales do not fit the checkpoint's dtype");
        PARE_TRY(put_changed(w, s, &finite));
    }
    PARE_TRY(pare__journal_scales(w->job, index));
    return PARE_OK;
}
