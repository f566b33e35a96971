/* chunk.c - what happens to the rows of one chunk: read, upload, score, prune, quantise, download,
 * encode. Each function works on the lane's memory alone, so chunks run side by side. */
#include "job.h"

#include "pare/ops.h"

#include "base/clock.h"

#include <string.h>

/* A read slower than this many bytes a second came from a disk, not from the page cache. */
#define WARM_RATE 3e9
/* Chunks that each thread then asks for in advance. */
enum { AHEAD = 4 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t mask_bytes(int64_t cols)
{
    return ceil_div(cols, 8);
}

/* ---- read ------------------------------------------------------------------------------------ */

/* Reads ahead for the chunks that will be taken next; asked for only while reads have to wait,
 * since for a file in the page cache the asking itself costs. */
static void prefetch(const pare__job *job, int64_t chunk)
{
    for (int64_t c = chunk + 1; c <= chunk + AHEAD * job->threads && c < job->chunk_count; c++) {
        const pare__task *task = &job->tasks[job->chunks[c].task];
        pare_store_prefetch(job->store, task->source, job->chunks[c].first, task->chunk_rows);
    }
}

/* A plan's trial of chunks is before there are gradients. */
static pare_status read_gradient(pare__job *job, pare__lane *lane)
{
    const pare__task *task = lane->task;
    if (!lane->grad)
        return PARE_OK;
    if (!job->grads)
        memset(lane->grad_source, 0, (size_t)(lane->rows * task->out.cols) * sizeof(float));
    else
        PARE_TRY(pare_store_read_values(job->grads, lane->host, task->grad, lane->first, lane->rows,
                                        lane->grad_source, lane->read_scratch));
    return PARE_OK;
}

pare_status pare__chunk_read(pare__job *job, pare__lane *lane, int64_t chunk)
{
    PARE_TRY(pare__lane_begin(job, lane, chunk));
    const pare__task *task = lane->task;
    const pare_entry *source = pare_store_entry(job->store, task->source);
    double begin = pare__now();
    PARE_TRY(pare_store_read_values(job->store, lane->host, task->source, lane->first, lane->rows,
                                    lane->source, lane->read_scratch));
    if ((double)task->chunk_bytes < (pare__now() - begin) * WARM_RATE)
        prefetch(job, chunk);
    PARE_TRY(read_gradient(job, lane));
    if (task->way == PARE__WAY_KEEP)
        PARE_TRY(
            pare_store_read(job->store, lane->host, task->source, &lane->out, lane->read_scratch));
    job->read_bytes +=
        (int64_t)((double)source->stored_bytes * (double)lane->rows / (double)source->rows);
    return PARE_OK;
}

pare_status pare__chunk_digest(pare__lane *lane)
{
    const pare_entry *out = &lane->task->out;
    int64_t row_bits = out->cols * pare_dtype_bits(out->dtype);
    int64_t piece = row_bits % 8 ? lane->rows : out->piece_rows;
    for (int64_t r = 0; r < lane->rows; r += piece) {
        int64_t rows = lane->rows - r < piece ? lane->rows - r : piece;
        PARE_TRY(pare_digest(lane->host,
                             &(pare_digest_args){.bytes = (char *)lane->source + r * row_bits / 8,
                                                 .size = (rows * row_bits + 7) / 8,
                                                 .seed = (uint64_t)((lane->first + r) / piece),
                                                 .result = lane->digest}));
    }
    return PARE_OK;
}

pare_status pare__chunk_upload(pare__lane *lane)
{
    const pare_entry *out = &lane->task->out;
    int64_t n = lane->rows * out->cols;
    if (lane->be == lane->host)
        return PARE_OK;
    PARE_TRY(pare_backend_upload(lane->be, lane->values, lane->source,
                                 (n * pare_dtype_bits(out->dtype) + 7) / 8));
    if (lane->grad)
        PARE_TRY(pare_backend_upload(lane->be, lane->grad, lane->grad_source,
                                     n * (int64_t)sizeof *lane->grad));
    return PARE_OK;
}

/* ---- score ----------------------------------------------------------------------------------- */

static pare_tensor weights(const pare__lane *lane)
{
    return pare_matrix(lane->w, PARE_F32, lane->rows, lane->task->out.cols);
}

static bool is_block(const pare__task *task)
{
    return task->prune->pattern.kind == PARE_PATTERN_BLOCK;
}

/* What selection looks at: keys of elements or blocks, or the weights themselves. */
static pare_tensor scores(const pare__lane *lane)
{
    const pare_pattern *p = &lane->task->prune->pattern;
    if (is_block(lane->task))
        return pare_matrix(lane->keys, PARE_U32, ceil_div(lane->rows, p->block_rows),
                           ceil_div(lane->task->out.cols, p->block_cols));
    if (lane->keys)
        return pare_matrix(lane->keys, PARE_U32, lane->rows, lane->task->out.cols);
    return weights(lane);
}

pare_status pare__chunk_score(pare__job *job, pare__lane *lane)
{
    const pare__task *task = lane->task;
    if (!task->prune && !task->quant)
        return PARE_OK;
    int64_t n = lane->rows * task->out.cols;
    if (lane->w != lane->values)
        PARE_TRY(pare_cast(lane->be,
                           &(pare_cast_args){.x = pare_vector(lane->values, task->out.dtype, n),
                                             .y = pare_vector(lane->w, PARE_F32, n)}));
    if (!lane->keys)
        return PARE_OK;
    const pare_pattern *p = &task->prune->pattern;
    int64_t across = is_block(task) ? ceil_div(task->out.cols, p->block_cols) : task->out.cols;
    int64_t first_row = is_block(task) ? lane->first / p->block_rows : lane->first;
    PARE_TRY(task->prune->method->score(
        lane->be,
        &(pare_score_args){.seed = job->recipe->seed,
                           .stream = task->stream,
                           .first = first_row * across,
                           .w = weights(lane),
                           .grad = pare_matrix(lane->grad, PARE_F32, lane->rows, task->out.cols),
                           .block_rows = is_block(task) ? p->block_rows : 1,
                           .block_cols = is_block(task) ? p->block_cols : 1,
                           .keys = scores(lane)}));
    return PARE_OK;
}

bool pare__task_ordered(const pare__job *job, const pare__task *task)
{
    const pare__group *group = task->group >= 0 ? &job->groups[task->group] : NULL;
    return group && group->ties > 0 && group->ties < group->equal;
}

bool pare__job_ordered(const pare__job *job)
{
    for (int64_t t = 0; t < job->count; t++)
        if (pare__task_ordered(job, &job->tasks[t]))
            return true;
    return false;
}

pare_status pare__chunk_ties(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = lane->task;
    int64_t below;
    if (!pare__task_ordered(job, task))
        return PARE_OK;
    pare_tensor x = scores(lane);
    if (job->chunks[chunk].ties < 0)
        PARE_TRY(pare_select_count(
            lane->be,
            &(pare_select_count_args){.x = pare_vector(x.data, x.dtype, pare_tensor_count(&x)),
                                      .threshold = job->groups[task->group].threshold,
                                      .below = &below,
                                      .equal = &job->chunks[chunk].ties}));
    return PARE_OK;
}

void pare__chunk_order(pare__job *job, pare__lane *lane, int64_t chunk)
{
    int64_t g = job->tasks[job->chunks[chunk].task].group;
    if (g < 0)
        return;
    lane->ties_before = job->groups[g].ties_seen;
    if (job->chunks[chunk].ties > 0)
        job->groups[g].ties_seen += job->chunks[chunk].ties;
}

/* ---- prune ----------------------------------------------------------------------------------- */

/* N:M of a convolution runs along the input channels: rows [I, S] are seen as [S, I] and the mask
 * is turned back. All on the host, where a device's scores are taken to. */
static pare_status mask_channels(pare__lane *lane)
{
    const pare__task *task = lane->task;
    int64_t cols = task->out.cols, S = task->inner, I = cols / S, line = mask_bytes(cols);
    PARE_TRY(pare_backend_download(lane->be, lane->scores, scores(lane).data,
                                   lane->rows * cols * (int64_t)sizeof *lane->scores));
    for (int64_t r = 0; r < lane->rows; r++)
        for (int64_t s = 0; s < S; s++)
            for (int64_t i = 0; i < I; i++)
                lane->permuted[(r * S + s) * I + i] =
                    lane->scores[r * cols + i * S + s] & 0x7fffffffu;
    PARE_TRY(pare_mask_nm(
        lane->host,
        &(pare_mask_nm_args){
            .x = pare_matrix(lane->permuted, PARE_U32, lane->rows * S, I),
            .n = task->prune->pattern.n,
            .m = task->prune->pattern.m,
            .mask = pare_matrix(lane->permuted_mask, PARE_U8, lane->rows * S, mask_bytes(I))}));
    memset(lane->turned_mask, 0, (size_t)(lane->rows * line));
    for (int64_t r = 0; r < lane->rows; r++)
        for (int64_t s = 0; s < S; s++)
            for (int64_t i = 0; i < I; i++) {
                int64_t c = i * S + s;
                int bit = lane->permuted_mask[(r * S + s) * mask_bytes(I) + i / 8] >> (i % 8) & 1;
                lane->turned_mask[r * line + c / 8] |= (uint8_t)(bit << (c % 8));
            }
    PARE_TRY(pare_backend_upload(lane->be, lane->mask, lane->turned_mask, lane->rows * line));
    return PARE_OK;
}

static pare_status mask_selected(const pare__job *job, const pare__lane *lane, pare_tensor mask)
{
    const pare__group *group = &job->groups[lane->task->group];
    int64_t ties = group->ties;
    if (pare__task_ordered(job, lane->task))
        ties = ties > lane->ties_before ? ties - lane->ties_before : 0;
    pare_mask_select_args select = {
        .x = scores(lane), .threshold = group->threshold, .ties = ties, .mask = mask};
    const pare_pattern *p = &lane->task->prune->pattern;
    if (!is_block(lane->task))
        return pare_mask_select(lane->be, &select);
    select.mask =
        pare_matrix(lane->block_mask, PARE_U8, select.x.shape[0], mask_bytes(select.x.shape[1]));
    PARE_TRY(pare_mask_select(lane->be, &select));
    PARE_TRY(pare_mask_expand(lane->be, &(pare_mask_expand_args){.blocks = select.mask,
                                                                 .block_rows = p->block_rows,
                                                                 .block_cols = p->block_cols,
                                                                 .rows = lane->rows,
                                                                 .cols = lane->task->out.cols,
                                                                 .mask = mask}));
    return PARE_OK;
}

pare_status pare__chunk_blame(pare__lane *lane, pare_status status)
{
    pare_stats_result stats;
    const pare_entry *out = &lane->task->out;
    if (status != PARE_ERR_DAMAGED)
        return status;
    PARE_TRY(pare_stats(lane->be, &(pare_stats_args){.x = weights(lane), .result = &stats}));
    if (stats.first_bad < 0)
        return pare__error(status, __func__,
                           "%s, rows from %lld: its weights are too large for a scale", out->name,
                           (long long)lane->first);
    return pare__error(status, __func__,
                       "%s holds %s at row %lld, column %lld: repair the checkpoint, or leave the "
                       "tensor alone with "
                       "--exclude '%s'",
                       out->name, stats.nans ? "NaN" : "Inf",
                       (long long)(lane->first + stats.first_bad / out->cols),
                       (long long)(stats.first_bad % out->cols), out->name);
}

pare_status pare__chunk_range(pare__lane *lane, float range[2])
{
    PARE_TRY(pare_quant_range(
        lane->be, &(pare_quant_range_args){.w = weights(lane),
                                           .block_rows = lane->rows,
                                           .block_cols = lane->task->out.cols,
                                           .lo = pare_matrix(lane->range, PARE_F32, 1, 1),
                                           .hi = pare_matrix(lane->range + 1, PARE_F32, 1, 1)}));
    PARE_TRY(pare_backend_download(lane->be, range, lane->range, 2 * sizeof *range));
    if (!(range[1] - range[1] == 0))
        return pare__chunk_blame(lane, PARE_ERR_DAMAGED);
    return PARE_OK;
}

pare_status pare__chunk_prune(pare__job *job, pare__lane *lane)
{
    const pare__task *task = lane->task;
    if (!task->prune)
        return PARE_OK;
    int64_t cols = task->out.cols;
    float range[2];
    pare_tensor mask = pare_matrix(lane->mask, PARE_U8, lane->rows, mask_bytes(cols));
    PARE_TRY(pare__chunk_range(lane, range)); /* a NaN has no magnitude to go by */
    if (task->group >= 0)
        PARE_TRY(mask_selected(job, lane, mask));
    else if (task->inner > 1)
        PARE_TRY(mask_channels(lane));
    else
        PARE_TRY(pare_mask_nm(lane->be, &(pare_mask_nm_args){.x = scores(lane),
                                                             .n = task->prune->pattern.n,
                                                             .m = task->prune->pattern.m,
                                                             .mask = mask}));
    if (task->quant)
        PARE_TRY(
            pare_mask_apply(lane->be, &(pare_mask_apply_args){.x = weights(lane), .mask = mask}));
    else
        PARE_TRY(pare_mask_apply(
            lane->be,
            &(pare_mask_apply_args){
                .x = pare_matrix(lane->values, task->out.dtype, lane->rows, cols), .mask = mask}));
    return PARE_OK;
}

/* ---- quantise -------------------------------------------------------------------------------- */

pare_status pare__chunk_quantize(pare__lane *lane)
{
    const pare__task *task = lane->task;
    const pare_scheme *scheme = &task->out.scheme;
    const pare_rows *made = &lane->made;
    if (!task->quant)
        return PARE_OK;
    int64_t down = lane->blocks.down, across = lane->blocks.across, scales = down * across;
    bool known = scheme->granularity == PARE_PER_TENSOR;
    if (known)
        PARE_TRY(pare_backend_upload(lane->be, made->scale, &task->scale, sizeof task->scale));
    if (known && made->zero)
        PARE_TRY(pare_backend_upload(lane->be, made->zero, &task->zero, sizeof task->zero));
    pare_status status = task->quant->method->quantize(
        lane->be,
        &(pare_quant_args){
            .scheme = *scheme,
            .search = task->quant->search,
            .scale_dtype = scheme->type == PARE_QUANT_NF4 ? PARE_F32 : task->out.dtype,
            .w = weights(lane),
            .block_rows = lane->blocks.block_rows,
            .block_cols = lane->blocks.block_cols,
            .scale_known = known,
            .scale = pare_matrix(made->scale, PARE_F32, down, across),
            .lo = pare_matrix(lane->lo, PARE_F32, down, across),
            .zero = pare_matrix(made->zero, PARE_I8, down, across),
            .codes = pare_matrix(made->codes, PARE_I8, lane->rows, task->out.cols),
            .scale_offset = task->out.scale_offset,
            .scale_codes = pare_vector(made->scale_codes, PARE_U8, scales),
            .nested = pare_vector(made->nested, PARE_F32, ceil_div(scales, PARE_NESTED_BLOCK))});
    if (status != PARE_OK)
        return pare__chunk_blame(lane, status);
    return PARE_OK;
}

/* ---- download -------------------------------------------------------------------------------- */

/* How many values are left, and of a sparse output its bitmask and the values themselves. */
pare_status pare__chunk_gather(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = lane->task;
    int64_t cols = task->out.cols, counted = job->chunks[chunk].nonzeros;
    int64_t *count = &job->chunks[chunk].nonzeros;
    if (task->way == PARE__WAY_KEEP || task->out.form == PARE_FORM_QUANT || !lane->mask)
        return PARE_OK;
    pare_tensor x = pare_matrix(lane->values, task->out.dtype, lane->rows, cols);
    pare_tensor mask = pare_matrix(lane->mask, PARE_U8, lane->rows, mask_bytes(cols));
    PARE_TRY(pare_mask_nonzero(lane->be,
                               &(pare_mask_nonzero_args){.x = x, .mask = mask, .count = count}));
    if (task->out.form != PARE_FORM_SPARSE)
        return PARE_OK;
    PARE_REQUIRE(counted == *count, PARE_ERR_DAMAGED,
                 "%s changed while it was read: run again on a checkpoint at rest", task->out.name);
    PARE_TRY(pare_mask_compact(
        lane->be,
        &(pare_mask_compact_args){.x = x,
                                  .mask = mask,
                                  .values = pare_vector(lane->made.values, task->out.dtype, *count),
                                  .row_counts = pare_vector(NULL, PARE_I64, lane->rows)}));
    lane->out.values_before = job->chunks[chunk].before;
    lane->made_bytes = (char *)lane->made.values - (char *)lane->made.mask +
                       *count * pare_dtype_bits(task->out.dtype) / 8;
    return PARE_OK;
}

/* The first of a chunk's results (lane.c, carve_rows). */
static char *first_of(const pare_rows *rows)
{
    return rows->mask ? (char *)rows->mask : rows->codes ? (char *)rows->codes : rows->values;
}

pare_status pare__chunk_download(pare__lane *lane)
{
    if (lane->be != lane->host)
        PARE_TRY(pare_backend_download(lane->be, first_of(&lane->out), first_of(&lane->made),
                                       lane->made_bytes));
    return PARE_OK;
}

/* ---- encode ---------------------------------------------------------------------------------- */

/* Codes that mean zero: with a zero point q = z, for NF4 level 7, for E4M3 both zeros. */
static int64_t count_nonzero_codes(const pare__lane *lane)
{
    const pare_entry *out = &lane->task->out;
    int64_t zeros = 0;
    for (int64_t r = 0; r < lane->rows; r++) {
        const int8_t *q = lane->out.codes + r * out->cols;
        const int8_t *z = lane->out.zero
                              ? lane->out.zero + r / lane->blocks.block_rows * lane->blocks.across
                              : NULL;
        for (int64_t c = 0, b = 0; c < out->cols; b++) {
            int64_t end =
                c + lane->blocks.block_cols < out->cols ? c + lane->blocks.block_cols : out->cols;
            int8_t zero = z ? z[b] : out->scheme.type == PARE_QUANT_NF4 ? 7 : 0;
            int64_t here = 0;
            for (int64_t i = c; i < end; i++)
                here += q[i] == zero;
            if (out->scheme.type == PARE_QUANT_E4M3)
                for (int64_t i = c; i < end; i++)
                    here += q[i] == INT8_MIN;
            zeros += here;
            c = end;
        }
    }
    return lane->rows * out->cols - zeros;
}

pare_status pare__chunk_encode(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = lane->task;
    if (task->prune && task->quant)
        job->chunks[chunk].nonzeros = count_nonzero_codes(lane);
    PARE_TRY(pare_writer_encode(job->writer, lane->host, task - job->tasks, &lane->out,
                                lane->write_scratch, &lane->parts));
    return PARE_OK;
}
