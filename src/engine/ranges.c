/* ranges.c - what the scales of a whole tensor need, found before its first row is written: one
 * read for the range of a per-tensor scheme, one more for the search of least squared error; one
 * for the mean of scales that are quantised too. */
#include "job.h"

#include "pare/ops.h"

#include "base/half.h"

static bool wants_range(const pare__task *task)
{
    return task->quant && task->out.scheme.granularity == PARE_PER_TENSOR && task->chunks > 0;
}

static bool wants_search(const pare__task *task)
{
    return wants_range(task) && task->quant->search == PARE_SCALE_MSE;
}

static bool wants_offset(const pare__task *task)
{
    return task->quant && task->out.scheme.double_quant && task->chunks > 0;
}

/* Least and greatest over the chunk join those of the tensor. */
static pare_status take_range(pare__job *job, pare__lane *lane, int64_t chunk)
{
    pare__task *task = &job->tasks[job->chunks[chunk].task];
    float range[2];
    PARE_TRY(pare__chunk_range(lane, range));
    pthread_mutex_lock(&job->lock);
    task->lo = range[0] < task->lo ? range[0] : task->lo;
    task->hi = range[1] > task->hi ? range[1] : task->hi;
    pthread_mutex_unlock(&job->lock);
    return PARE_OK;
}

/* Squared errors of every candidate, added up in the order of chunks (which fixes the sum). */
static pare_status take_errors(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = &job->tasks[job->chunks[chunk].task];
    PARE_TRY(pare_quant_error(
        lane->be, &(pare_quant_error_args){
                      .scheme = task->out.scheme,
                      .scale_dtype = task->out.dtype,
                      .w = pare_matrix(lane->w, PARE_F32, lane->rows, task->out.cols),
                      .scale = task->scale,
                      .zero = task->zero,
                      .errors = job->errors + (task - job->tasks) * PARE_QUANT_CANDIDATES}));
    return PARE_OK;
}

/* The sum of the chunk's scales; those of a tensor are added in the order of chunks later. */
static pare_status take_scales(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = lane->task;
    int64_t down = lane->blocks.down, across = lane->blocks.across;
    pare_tensor lo = pare_vector(lane->lo, PARE_F32, down * across);
    pare_tensor scale = pare_vector(lane->made.scale, PARE_F32, down * across);
    pare_stats_result stats;
    PARE_TRY(pare_quant_range(
        lane->be,
        &(pare_quant_range_args){.w = pare_matrix(lane->w, PARE_F32, lane->rows, task->out.cols),
                                 .block_rows = lane->blocks.block_rows,
                                 .block_cols = lane->blocks.block_cols,
                                 .lo = pare_matrix(lane->lo, PARE_F32, down, across),
                                 .hi = pare_matrix(lane->made.scale, PARE_F32, down, across)}));
    pare_status status =
        pare_quant_scale(lane->be, &(pare_quant_scale_args){.scheme = task->out.scheme,
                                                            .scale_dtype = PARE_F32,
                                                            .lo = lo,
                                                            .hi = scale,
                                                            .scale = scale});
    if (status != PARE_OK)
        return pare__chunk_blame(lane, status);
    PARE_TRY(pare_stats(lane->be, &(pare_stats_args){.x = scale, .result = &stats}));
    job->chunks[chunk].scales = stats.sum;
    return PARE_OK;
}

static const pare__pass range_pass = {.name = "range", .wants = wants_range, .work = take_range};
static const pare__pass error_pass = {
    .name = "search", .wants = wants_search, .work = take_errors, .work_in_order = true};
static const pare__pass offset_pass = {
    .name = "scales", .wants = wants_offset, .work = take_scales};

bool pare__job_has_ranges(const pare__job *job)
{
    return pare__pass_has_work(job, &range_pass) || pare__pass_has_work(job, &offset_pass);
}

static pare_status scale_from_range(pare__lane *lane, pare__task *task)
{
    PARE_TRY(pare_quant_scale(
        lane->host,
        &(pare_quant_scale_args){
            .scheme = task->out.scheme,
            .scale_dtype = task->out.scheme.type == PARE_QUANT_NF4 ? PARE_F32 : task->out.dtype,
            .lo = pare_vector(&task->lo, PARE_F32, 1),
            .hi = pare_vector(&task->hi, PARE_F32, 1),
            .scale = pare_vector(&task->scale, PARE_F32, 1),
            .zero = pare_vector(task->out.scheme.asymmetric ? &task->zero : NULL, PARE_I8, 1)}));
    return PARE_OK;
}

static float round_to(pare_dtype dtype, float x)
{
    if (dtype == PARE_F16)
        return pare__f16_to_f32(pare__f32_to_f16(x));
    if (dtype == PARE_BF16)
        return pare__bf16_to_f32(pare__f32_to_bf16(x));
    return x;
}

/* The candidate of least error, ties to the larger (ops_compress.h, quant_error). */
static void scale_from_errors(const pare__job *job, pare__task *task)
{
    const double *errors = job->errors + (task - job->tasks) * PARE_QUANT_CANDIDATES;
    int best = 0;
    for (int i = 1; i < PARE_QUANT_CANDIDATES; i++)
        if (errors[i] < errors[best])
            best = i;
    float s = task->scale * (float)(100 - best);
    s = round_to(task->out.dtype, s / 100.0f);
    task->scale = s > 0 ? s : 1;
}

/* The mean of all scales of a tensor. */
static void offset_from_scales(const pare__job *job, pare__task *task)
{
    pare_blocks blocks = pare_scheme_blocks(&task->out.scheme, task->out.rows, task->out.cols);
    double sum = 0;
    for (int64_t c = 0; c < task->chunks; c++)
        sum += job->chunks[task->first_chunk + c].scales;
    task->out.scale_offset = (float)(sum / ((double)blocks.down * (double)blocks.across));
}

static pare_status find_offsets(pare__job *job)
{
    if (!pare__pass_has_work(job, &offset_pass))
        return PARE_OK;
    PARE_TRY(pare__pass_run(job, &offset_pass));
    for (int64_t t = 0; t < job->count; t++)
        if (wants_offset(&job->tasks[t]))
            offset_from_scales(job, &job->tasks[t]);
    return PARE_OK;
}

pare_status pare__job_ranges(pare__job *job)
{
    PARE_TRY(find_offsets(job));
    if (!pare__pass_has_work(job, &range_pass))
        return PARE_OK;
    PARE_TRY(pare__pass_run(job, &range_pass));
    for (int64_t t = 0; t < job->count; t++)
        if (wants_range(&job->tasks[t]))
            PARE_TRY(scale_from_range(&job->lanes[0], &job->tasks[t]));
    if (!pare__pass_has_work(job, &error_pass))
        return PARE_OK;
    PARE_TRY(pare__calloc((size_t)job->count * PARE_QUANT_CANDIDATES, sizeof *job->errors,
                          &job->errors));
    PARE_TRY(pare__pass_run(job, &error_pass));
    for (int64_t t = 0; t < job->count; t++)
        if (wants_search(&job->tasks[t]))
            scale_from_errors(job, &job->tasks[t]);
    return PARE_OK;
}
