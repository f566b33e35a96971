/* lane.c - a worker's backend and memory: arenas, carved anew for every chunk, so that no chunk
 * allocates. On the CPU there is one; on a device there are two, the host's for what is read and
 * written, the device's for what is worked on.
 */
#include "job.h"

#include "pare/ops.h"

#include <stdatomic.h>
#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

pare_status pare__lane_open(pare__device *device, pare__lane *lane)
{
    lane->place = device;
    lane->bins_group = -1;
    if (device->cuda)
        PARE_TRY(pare_cuda_create(device->index, &lane->device));
    else
        PARE_TRY(
            pare_cpu_create(&(pare_cpu_options){.threads = 1, .isa = device->isa}, &lane->device));
    lane->host = pare_backend_host(lane->device);
    lane->be = lane->device;
    return PARE_OK;
}

static void count_held(pare__lane *lane, int64_t bytes)
{
    int64_t now = lane->place->held += bytes, peak = lane->place->peak;
    while (now > peak && !atomic_compare_exchange_weak(&lane->place->peak, &peak, now)) {
    }
}

static void release(pare__lane *lane, pare__arena *arena)
{
    if (arena == &lane->near) {
        pare_backend_host_release(lane->device, arena->base, arena->size);
    } else {
        pare_backend_release(lane->device, arena->base, arena->size);
        count_held(lane, -arena->size);
    }
    *arena = (pare__arena){0};
}

static pare_status hold(pare__lane *lane, pare__arena *arena, int64_t need)
{
    if (need <= arena->size)
        return PARE_OK;
    release(lane, arena);
    if (arena == &lane->near)
        PARE_TRY(pare_backend_host_alloc(lane->device, need, &arena->base));
    else
        PARE_TRY(pare_backend_alloc(lane->device, need, &arena->base));
    arena->size = need;
    if (arena == &lane->far)
        count_held(lane, need);
    return PARE_OK;
}

pare_status pare__lane_hold(pare__lane *lane, pare__bytes need)
{
    PARE_TRY(hold(lane, &lane->near, need.host));
    PARE_TRY(hold(lane, &lane->far, need.device));
    return PARE_OK;
}

void pare__lane_end(pare__lane *lane)
{
    if (lane->near.size > PARE__KEPT_ARENA)
        release(lane, &lane->near);
    if (lane->far.size > PARE__KEPT_ARENA)
        release(lane, &lane->far);
}

pare_status pare__lane_bins(pare__lane *lane, int64_t bins)
{
    int64_t bytes = bins * (int64_t)sizeof *lane->bins;
    lane->bins_count = bins;
    lane->bins_group = -1;
    PARE_TRY(pare_backend_alloc(lane->device, bytes, &lane->bins));
    if (pare_backend_is_host(lane->device)) {
        lane->bins_on_host = lane->bins;
        return PARE_OK;
    }
    count_held(lane, bytes);
    PARE_TRY(pare_backend_host_alloc(lane->device, bytes, &lane->bins_on_host));
    return PARE_OK;
}

void pare__lane_bins_free(pare__lane *lane)
{
    int64_t bytes = lane->bins_count * (int64_t)sizeof *lane->bins;
    if (lane->bins_on_host != lane->bins)
        pare_backend_host_release(lane->device, lane->bins_on_host, bytes);
    if (lane->bins && !pare_backend_is_host(lane->device))
        count_held(lane, -bytes);
    pare_backend_release(lane->device, lane->bins, bytes);
    lane->bins = lane->bins_on_host = NULL;
}

void pare__lane_close(pare__lane *lane)
{
    if (!lane->device)
        return;
    pare__lane_bins_free(lane);
    release(lane, &lane->far);
    release(lane, &lane->near);
    pare_backend_free(&lane->device);
}

pare_status pare__lanes_create(pare__job *job)
{
    PARE_TRY(pare__calloc((size_t)job->threads, sizeof *job->lanes, &job->lanes));
    for (int i = 0; i < job->threads; i++)
        PARE_TRY(pare__lane_open(&job->device, &job->lanes[i]));
    return PARE_OK;
}

void pare__lanes_free(pare__job *job)
{
    for (int i = 0; job->lanes && i < job->threads; i++)
        pare__lane_close(&job->lanes[i]);
    free(job->lanes);
    job->lanes = NULL;
}

/* ---- carving --------------------------------------------------------------------------------- */

/* What is left of an arena; base NULL only counts. */
typedef struct carver {
    char *base;
    int64_t used;
} carver;

static void *carve(carver *c, bool wanted, int64_t bytes)
{
    if (!wanted)
        return NULL;
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return at;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static bool has_scores(const pare__task *task)
{
    return task->prune && (!task->prune->method->weight_is_score ||
                           task->prune->pattern.kind == PARE_PATTERN_BLOCK);
}

/* Whether a task's values are worked on, and not only carried from file to file. */
static bool computes(const pare__task *task)
{
    return task->way == PARE__WAY_VALUES &&
           (task->prune || task->quant || task->out.form == PARE_FORM_SPARSE);
}

static int64_t value_bytes(const pare__task *task, int64_t rows)
{
    return (rows * task->out.cols * pare_dtype_bits(task->out.dtype) + 7) / 8;
}

static int64_t gradient_bytes(const pare__task *task, int64_t rows)
{
    return pare__wants_gradient(task) ? rows * task->out.cols * (int64_t)sizeof(float) : 0;
}

/* What a chunk gives, in one row of arrays: a device's and the host's are alike, so that one copy
 * takes all. */
static pare_rows carve_rows(carver *c, const pare__lane *lane)
{
    const pare_entry *out = &lane->task->out;
    bool quant = out->form == PARE_FORM_QUANT, nested = quant && out->scheme.double_quant;
    int64_t scales = quant ? lane->blocks.down * lane->blocks.across : 0;
    pare_rows rows = {.first = lane->first, .count = lane->rows};
    rows.mask = carve(c, out->form == PARE_FORM_SPARSE, lane->rows * ceil_div(out->cols, 8));
    rows.codes = carve(c, quant, lane->rows * out->cols);
    rows.scale = carve(c, quant, scales * 4);
    rows.zero = carve(c, quant && out->scheme.asymmetric, scales);
    rows.scale_codes = carve(c, nested, scales);
    rows.nested = carve(c, nested, ceil_div(scales, PARE_NESTED_BLOCK) * 4);
    rows.values = carve(c, !quant, value_bytes(lane->task, lane->rows));
    return rows;
}

/* What is worked on. */
static void carve_work(carver *c, pare__lane *lane)
{
    const pare__task *task = lane->task;
    const pare_entry *out = &task->out;
    int64_t elements = lane->rows * out->cols, units = elements, block_bytes = 0;
    bool block = task->prune && task->prune->pattern.kind == PARE_PATTERN_BLOCK;
    if (block) {
        int64_t down = ceil_div(lane->rows, task->prune->pattern.block_rows);
        int64_t across = ceil_div(out->cols, task->prune->pattern.block_cols);
        units = down * across;
        block_bytes = down * ceil_div(across, 8);
    }
    int64_t begin = c->used;
    lane->made = carve_rows(c, lane);
    lane->made_bytes = c->used - begin;
    lane->values = out->form == PARE_FORM_DENSE ? lane->made.values
                                                : carve(c, true, value_bytes(task, lane->rows));
    lane->w = carve(c, (task->prune || task->quant) && out->dtype != PARE_F32, elements * 4);
    if (!lane->w && out->dtype == PARE_F32)
        lane->w = lane->values;
    lane->grad = carve(c, pare__wants_gradient(task), gradient_bytes(task, lane->rows));
    lane->range = carve(c, task->prune || task->quant, 2 * sizeof *lane->range);
    lane->keys = carve(c, has_scores(task), units * 4);
    lane->mask = out->form == PARE_FORM_SPARSE
                     ? lane->made.mask
                     : carve(c, task->prune, lane->rows * ceil_div(out->cols, 8));
    lane->block_mask = carve(c, block, block_bytes);
    bool quant = out->form == PARE_FORM_QUANT;
    lane->lo = carve(c, quant, quant ? lane->blocks.down * lane->blocks.across * 4 : 0);
}

/* What N:M of a convolution takes on the host: see chunk.c. On the CPU scores and mask are the
 * chunk's own. */
static void carve_channels(carver *c, bool far, pare__lane *lane)
{
    const pare__task *task = lane->task;
    bool turned = task->prune && task->inner > 1;
    int64_t cols = task->out.cols, bytes = lane->rows * cols * 4;
    lane->permuted = carve(c, turned, bytes);
    lane->permuted_mask =
        carve(c, turned, lane->rows * task->inner * ceil_div(cols / task->inner, 8));
    lane->scores = carve(c, turned && far, bytes);
    lane->turned_mask = carve(c, turned && far, lane->rows * ceil_div(cols, 8));
    if (far)
        return;
    lane->scores = lane->keys ? lane->keys : (uint32_t *)(void *)lane->w;
    lane->turned_mask = lane->mask;
}

/* Of what is read one after the other: values and their gradient. */
static int64_t read_scratch_bytes(const pare__job *job, const pare__task *task, int64_t rows)
{
    int64_t bytes = pare_store_scratch(job->store, task->source, rows);
    int64_t grad = pare__wants_gradient(task) && job->grads
                       ? pare_store_scratch(job->grads, task->grad, rows)
                       : 0;
    return grad > bytes ? grad : bytes;
}

static void carve_writing(const pare__job *job, carver *c, pare__lane *lane)
{
    const pare__task *task = lane->task;
    bool quant = task->out.form == PARE_FORM_QUANT;
    int64_t scales = quant ? lane->blocks.down * lane->blocks.across : 0;
    /* Before the layout exists an encoder's need is guessed at its most: everything once more. */
    int64_t bytes = job->writer ? pare_writer_scratch(job->writer, task - job->tasks, lane->rows)
                    : quant     ? lane->rows * task->out.cols + scales * 8
                                : lane->rows * 8 + 64;
    lane->write_scratch = carve(c, true, bytes);
}

/* Points the lane into its arenas for `rows` rows of a task; returns the bytes. */
static pare__bytes lay_out(const pare__job *job, const pare__task *task, int64_t rows,
                           pare__lane *lane)
{
    const pare_scheme *scheme = &task->out.scheme;
    bool far = job->device.cuda && computes(task);
    carver host = {.base = lane->near.base}, device = {.base = lane->far.base};
    lane->task = task;
    lane->rows = rows;
    if (task->out.form == PARE_FORM_QUANT)
        lane->blocks = scheme->granularity == PARE_PER_TENSOR
                           ? (pare_blocks){rows, task->out.cols, 1, 1}
                           : pare_scheme_blocks(scheme, rows, task->out.cols);
    carve_work(far ? &device : &host, lane);
    lane->source = far ? carve(&host, true, value_bytes(task, rows)) : lane->values;
    lane->grad_source =
        far ? carve(&host, pare__wants_gradient(task), gradient_bytes(task, rows)) : lane->grad;
    lane->read_scratch = carve(&host, true, read_scratch_bytes(job, task, rows));
    int64_t reading = host.used;
    if (far)
        host.used = 0; /* once the source is on the device its memory is free */
    lane->out = far ? carve_rows(&host, lane) : lane->made;
    carve_channels(&host, far, lane);
    carve_writing(job, &host, lane);
    lane->be = far ? lane->device : lane->host;
    return (pare__bytes){.host = host.used > reading ? host.used : reading, .device = device.used};
}

static int64_t rows_of(const pare__job *job, int64_t chunk)
{
    const pare__task *task = &job->tasks[job->chunks[chunk].task];
    int64_t rest = task->out.rows - job->chunks[chunk].first;
    return rest < task->chunk_rows ? rest : task->chunk_rows;
}

pare__bytes pare__chunk_bytes(const pare__job *job, int64_t chunk)
{
    pare__lane lane = {0};
    return lay_out(job, &job->tasks[job->chunks[chunk].task], rows_of(job, chunk), &lane);
}

pare_status pare__lane_begin(pare__job *job, pare__lane *lane, int64_t chunk)
{
    lane->first = job->chunks[chunk].first;
    PARE_TRY(pare__lane_hold(lane, pare__chunk_bytes(job, chunk)));
    lay_out(job, &job->tasks[job->chunks[chunk].task], rows_of(job, chunk), lane);
    lane->digest[0] = lane->digest[1] = 0;
    lane->ties = lane->ties_before = 0;
    return PARE_OK;
}
