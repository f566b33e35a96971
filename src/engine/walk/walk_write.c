/* walk_write.c - what solved layers have become, in "<output>.walk/results": written when a layer
 * is done, read when its block is taken up again, and when the output is written. */
#include "walk.h"

#include <string.h>

/* Where a task's arrays lie, from its place on. */
typedef struct places {
    int64_t values, codes, scale, zero;
    int64_t end;  /* of what is written; the next task's place is the next multiple of 64 */
    int64_t item; /* bytes of a value */
    pare_blocks blocks;
} places;

static int64_t padded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static places places_of(const pare__task *task)
{
    const pare_entry *e = &task->out;
    places p = {.item = pare_dtype_bits(e->dtype) / 8};
    if (e->form != PARE_FORM_QUANT) {
        p.end = e->rows * e->cols * p.item;
        return p;
    }
    p.blocks = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    int64_t scales = p.blocks.down * p.blocks.across;
    p.scale = padded(e->rows * e->cols);
    p.zero = p.scale + padded(scales * 4);
    p.end = e->scheme.asymmetric ? p.zero + scales : p.scale + scales * 4;
    return p;
}

int64_t pare__walk_result_bytes(const pare__task *task)
{
    return padded(places_of(task).end);
}

int64_t pare__walk_result_end(const pare__task *task)
{
    return places_of(task).end;
}

/* ---- to and from the backend's memory -------------------------------------------------------- */

pare_status pare__walk_load(pare__walker *w, int file, void *values, int64_t bytes, int64_t at)
{
    if (pare_backend_is_host(w->be))
        return pare__file_read(file, w->folder, values, bytes, at);
    for (int64_t i = 0, n; i < bytes; i += n) {
        n = bytes - i < PARE__WALK_STAGING ? bytes - i : PARE__WALK_STAGING;
        PARE_TRY(pare__file_read(file, w->folder, w->staging, n, at + i));
        PARE_TRY(pare_backend_upload(w->be, (char *)values + i, w->staging, n));
    }
    return PARE_OK;
}

/* The arrays that a layer's result is made of; dense values are those of `narrow`, where there is
 * one. */
static int pieces_of(const pare__task *task, const pare_layer *layer, void *narrow,
                     pare__piece pieces[PARE__WALK_PIECES])
{
    const places p = places_of(task);
    int64_t at = task->walked->at, count = task->out.rows * task->out.cols;
    if (task->out.form != PARE_FORM_QUANT) {
        void *values = task->out.dtype == PARE_F32 ? layer->w.data : narrow;
        pieces[0] = (pare__piece){values, count * p.item, at};
        return 1;
    }
    int64_t scales = p.blocks.down * p.blocks.across;
    pieces[0] = (pare__piece){layer->codes.data, count, at + p.codes};
    pieces[1] = (pare__piece){layer->scale.data, scales * 4, at + p.scale};
    pieces[2] = (pare__piece){layer->zero.data, scales, at + p.zero};
    return task->out.scheme.asymmetric ? 3 : 2;
}

pare_status pare__walk_write(pare__walker *w, int64_t t, const pare_layer *layer, void *narrow)
{
    const pare__task *task = &w->job->tasks[t];
    int64_t count = task->out.rows * task->out.cols;
    pare__piece pieces[PARE__WALK_PIECES];
    if (task->out.form != PARE_FORM_QUANT && task->out.dtype != PARE_F32)
        PARE_TRY(
            pare_cast(w->be, &(pare_cast_args){.x = pare_vector(layer->w.data, PARE_F32, count),
                                               .y = pare_vector(narrow, task->out.dtype, count)}));
    int n = pieces_of(task, layer, narrow, pieces);
    /* Of several processes the record comes once all know. */
    return pare__walk_save(w, w->result, pieces, n, w->job->ranks ? -1 : t);
}

/* w of a result that is there. */
static pare_status decode(pare__walker *w, const pare__task *task, const pare_layer *layer,
                          void *narrow)
{
    const pare_blocks b = pare_scheme_blocks(&task->out.scheme, task->out.rows, task->out.cols);
    bool wide = task->out.dtype == PARE_F32;
    int64_t count = task->out.rows * task->out.cols;
    if (task->out.form == PARE_FORM_QUANT)
        PARE_TRY(pare_dequantize(
            w->be,
            &(pare_dequantize_args){.scheme = task->out.scheme,
                                    .codes = layer->codes,
                                    .block_rows = b.block_rows,
                                    .block_cols = b.block_cols,
                                    .scale = layer->scale,
                                    .zero = layer->zero,
                                    .w = pare_matrix(wide ? layer->w.data : narrow, task->out.dtype,
                                                     task->out.rows, task->out.cols)}));
    if (!wide)
        PARE_TRY(
            pare_cast(w->be, &(pare_cast_args){.x = pare_vector(narrow, task->out.dtype, count),
                                               .y = pare_vector(layer->w.data, PARE_F32, count)}));
    return PARE_OK;
}

pare_status pare__walk_read(pare__walker *w, int64_t t, const pare_layer *layer, void *narrow)
{
    const pare__task *task = &w->job->tasks[t];
    pare__piece pieces[PARE__WALK_PIECES];
    int n = pieces_of(task, layer, narrow, pieces);
    for (int i = 0; i < n; i++)
        PARE_TRY(pare__walk_load(w, w->result, (void *)(uintptr_t)pieces[i].values, pieces[i].bytes,
                                 pieces[i].at));
    return decode(w, task, layer, narrow);
}

pare_status pare__walk_receive(pare__walker *w, int64_t t, const pare_layer *layer, void *narrow)
{
    const pare__task *task = &w->job->tasks[t];
    pare__piece pieces[PARE__WALK_PIECES];
    int n = pieces_of(task, layer, narrow, pieces);
    for (int i = 0; i < n; i++)
        PARE_TRY(pare_comm_broadcast(w->comm, (void *)(uintptr_t)pieces[i].values, pieces[i].bytes,
                                     task->rank));
    return pare__owns(w->job, task) ? PARE_OK : decode(w, task, layer, narrow);
}

/* ---- to the output --------------------------------------------------------------------------- */

pare_status pare__walk_rows(pare__job *job, pare__lane *lane)
{
    const pare__task *task = lane->task;
    const pare__walker *w = job->walker;
    if (!task->walked || !w->ready)
        return PARE_OK;
    const places p = places_of(task);
    int64_t at = task->walked->at, cols = task->out.cols;
    if (task->out.form != PARE_FORM_QUANT)
        return pare__file_read(w->result, w->folder, lane->source, lane->rows * cols * p.item,
                               at + lane->first * cols * p.item);
    bool whole = task->out.scheme.granularity == PARE_PER_TENSOR;
    int64_t row = whole ? 0 : lane->first / p.blocks.block_rows;
    int64_t scales = lane->blocks.down * lane->blocks.across, before = row * p.blocks.across;
    PARE_TRY(pare__file_read(w->result, w->folder, lane->out.codes, lane->rows * cols,
                             at + p.codes + lane->first * cols));
    PARE_TRY(pare__file_read(w->result, w->folder, lane->out.scale, scales * 4,
                             at + p.scale + before * 4));
    if (lane->out.zero)
        PARE_TRY(
            pare__file_read(w->result, w->folder, lane->out.zero, scales, at + p.zero + before));
    lane->out.act_scale = task->walked->report.act_scale;
    return PARE_OK;
}
