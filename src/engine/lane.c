/* lane.c - a worker's memory: one arena, carved anew for every chunk, so that no chunk allocates.
 */
#include "job.h"

#include "pare/ops.h"

#include <string.h>

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

static void carve_prune(carver *c, const pare__task *task, pare__lane *lane)
{
    int64_t cols = task->out.cols, elements = lane->rows * cols, units = elements, mask_blocks = 0;
    bool block = task->prune && task->prune->pattern.kind == PARE_PATTERN_BLOCK;
    bool permute = task->prune && task->inner > 1;
    if (block) {
        int64_t down = ceil_div(lane->rows, task->prune->pattern.block_rows);
        int64_t across = ceil_div(cols, task->prune->pattern.block_cols);
        units = down * across;
        mask_blocks = down * ceil_div(across, 8);
    }
    lane->keys = carve(c, has_scores(task), units * 4);
    lane->mask =
        carve(c, task->prune || task->out.form == PARE_FORM_SPARSE, lane->rows * ceil_div(cols, 8));
    lane->block_mask = carve(c, block, mask_blocks);
    lane->permuted = carve(c, permute, elements * 4);
    lane->permuted_mask =
        carve(c, permute, lane->rows * task->inner * ceil_div(cols / task->inner, 8));
}

/* Points the lane into memory for `rows` rows of a task; returns the bytes. */
static int64_t lay_out(const pare__job *job, const pare__task *task, char *base, int64_t rows,
                       pare__lane *lane)
{
    const pare_entry *out = &task->out;
    int bits = pare_dtype_bits(out->dtype);
    int64_t elements = rows * out->cols;
    carver c = {.base = base};
    lane->task = task;
    lane->rows = rows;
    lane->values = carve(&c, true, (elements * bits + 7) / 8);
    lane->w = carve(&c, (task->prune || task->quant) && out->dtype != PARE_F32, elements * 4);
    if (!lane->w && out->dtype == PARE_F32)
        lane->w = lane->values;
    carve_prune(&c, task, lane);
    bool quant = out->form == PARE_FORM_QUANT;
    if (quant)
        lane->blocks =
            out->scheme.granularity == PARE_PER_TENSOR
                ? (pare_blocks){.block_rows = rows, .block_cols = out->cols, .down = 1, .across = 1}
                : pare_scheme_blocks(&out->scheme, rows, out->cols);
    int64_t scales = quant ? lane->blocks.down * lane->blocks.across : 0;
    lane->codes = carve(&c, quant, elements);
    lane->scale = carve(&c, quant, scales * 4);
    lane->lo = carve(&c, quant, scales * 4);
    lane->zero = carve(&c, quant && out->scheme.asymmetric, scales);
    lane->scale_codes = carve(&c, quant && out->scheme.double_quant, scales);
    lane->nested =
        carve(&c, quant && out->scheme.double_quant, ceil_div(scales, PARE_NESTED_BLOCK) * 4);
    lane->compact = carve(&c, out->form == PARE_FORM_SPARSE, elements * bits / 8);
    lane->read_scratch = carve(&c, true, pare_store_scratch(job->store, task->source, rows));
    /* Before the layout exists an encoder's need is guessed at its most: everything once more. */
    lane->write_scratch =
        carve(&c, true,
              job->writer ? pare_writer_scratch(job->writer, task - job->tasks, rows)
              : quant     ? elements + scales * 8
                          : rows * 8 + 64);
    return c.used;
}

static int64_t rows_of(const pare__job *job, int64_t chunk)
{
    const pare__task *task = &job->tasks[job->chunks[chunk].task];
    int64_t rest = task->out.rows - job->chunks[chunk].first;
    return rest < task->chunk_rows ? rest : task->chunk_rows;
}

int64_t pare__chunk_bytes(const pare__job *job, int64_t chunk)
{
    pare__lane lane;
    return lay_out(job, &job->tasks[job->chunks[chunk].task], NULL, rows_of(job, chunk), &lane);
}

pare_status pare__lane_begin(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare__task *task = &job->tasks[job->chunks[chunk].task];
    int64_t rows = rows_of(job, chunk);
    int64_t need = lay_out(job, task, NULL, rows, lane);
    if ((size_t)need > lane->size) {
        pare__pages_free(lane->arena, lane->size);
        lane->size = 0;
        lane->arena = NULL;
        PARE_TRY(pare__pages((size_t)need, &lane->arena));
        lane->size = (size_t)need;
    }
    lay_out(job, task, lane->arena, rows, lane);
    lane->first = job->chunks[chunk].first;
    lane->digest[0] = lane->digest[1] = 0;
    lane->ties = lane->ties_before = 0;
    return PARE_OK;
}

void pare__lane_end(pare__lane *lane)
{
    if (lane->size <= PARE__KEPT_ARENA)
        return;
    pare__pages_free(lane->arena, lane->size);
    lane->arena = NULL;
    lane->size = 0;
}

pare_status pare__lanes_create(pare__job *job)
{
    PARE_TRY(pare__calloc((size_t)job->threads, sizeof *job->lanes, &job->lanes));
    for (int i = 0; i < job->threads; i++)
        PARE_TRY(pare_cpu_create(&(pare_cpu_options){.threads = 1, .isa = job->options->isa},
                                 &job->lanes[i].be));
    return PARE_OK;
}

void pare__lanes_free(pare__job *job)
{
    for (int i = 0; job->lanes && i < job->threads; i++) {
        pare__pages_free(job->lanes[i].arena, job->lanes[i].size);
        free(job->lanes[i].bins);
        pare_backend_free(&job->lanes[i].be);
    }
    free(job->lanes);
    job->lanes = NULL;
}
