/* predict.c - what a run will need and take, before it starts: memory, bytes, time. */
#include "engine/walk/walk.h"

#include "pare/backend.h"
#include "pare/ops.h"

#include "base/clock.h"

#include <string.h>

/* What this process needs beside the lanes, once files are open: scratch of libraries, thread
 * stacks. */
#define FIXED_BYTES ((int64_t)2 << 20)
#define THREAD_BYTES ((int64_t)192 << 10)
/* Metadata in memory while an output is laid out, for each tensor. */
#define ENTRY_BYTES ((int64_t)4 << 10)
/* A fresh file takes about this much a second from the page cache to a disk; plan says so. */
#define WRITE_RATE 1.5e9

/* What the process holds beside the lanes' arenas; a device's context is not counted. */
static pare__bytes fixed_bytes(const pare__job *job, int threads)
{
    int64_t groups = job->group_count < 32 ? job->group_count : 32;
    int64_t bins = groups ? PARE_SELECT_LOW_BINS * 8 : 0;
    int64_t left = job->walker ? job->walker->left_bytes : 0;
    return (pare__bytes){.host = pare_memory_now() - job->context + left + FIXED_BYTES +
                                 threads * THREAD_BYTES + job->count * ENTRY_BYTES +
                                 (groups + threads) * bins,
                         .device = threads * (PARE__LANE_ON_DEVICE + bins)};
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The largest arenas of a chunk, and the largest that a lane keeps between chunks. */
static void largest_chunks(const pare__job *job, pare__bytes *largest, pare__bytes *kept)
{
    bool verified = job->recipe->prune_count + job->recipe->quant_count == 0;
    *largest = *kept = (pare__bytes){0};
    for (int64_t t = 0; t < job->count; t++) {
        if (job->tasks[t].chunks == 0)
            continue;
        pare__bytes need = pare__chunk_bytes(job, job->tasks[t].first_chunk), after = {0};
        if (verified)
            after = pare__verify_bytes(job, &job->tasks[t]);
        need.host = greater(need.host, after.host);
        need.device = greater(need.device, after.device);
        largest->host = greater(largest->host, need.host);
        largest->device = greater(largest->device, need.device);
        if (need.host <= PARE__KEPT_ARENA)
            kept->host = greater(kept->host, need.host);
        if (need.device <= PARE__KEPT_ARENA)
            kept->device = greater(kept->device, need.device);
    }
}

/* The user's budget, or one that any machine has, and what the blocks of a model take that goes
 * through one by one. */
static int64_t host_memory(const pare__job *job, int64_t walk)
{
    int64_t largest = 0;
    if (job->options->memory)
        return job->options->memory;
    for (int64_t t = 0; t < job->count; t++) {
        const pare_entry *e = &job->tasks[t].out;
        largest = greater(largest, (e->rows * e->cols * pare_dtype_bits(e->dtype) + 7) / 8);
    }
    return ((int64_t)256 << 20) + 2 * largest + walk;
}

/* One lane with the largest chunk is the least that both must hold. */
static pare_status check_least(const pare__job *job, pare__bytes need, pare__bytes memory)
{
    char needs[32], has[32];
    PARE_REQUIRE(memory.host >= need.host, PARE_ERR_MEMORY,
                 "a memory budget of %s cannot hold this work: it needs %s; give --memory %lldM or "
                 "more",
                 pare__size_text((double)memory.host, has, sizeof has),
                 pare__size_text((double)need.host, needs, sizeof needs),
                 (long long)((need.host >> 20) + 1));
    PARE_REQUIRE(!job->device.cuda || memory.device >= need.device, PARE_ERR_MEMORY,
                 "%s cannot hold this work: it needs %s there, %s may be used; free memory of the "
                 "device, give --device-memory more, or use --device cpu",
                 job->device.name, pare__size_text((double)need.device, needs, sizeof needs),
                 pare__size_text((double)memory.device, has, sizeof has));
    return PARE_OK;
}

/* Sets budget and peak of one kind of memory: all lanes but one keep their arenas, one has the
 * largest chunk. */
static void share_out(const pare__job *job, int64_t memory, int64_t fixed, int64_t kept,
                      int64_t largest, int64_t *budget, int64_t *peak)
{
    *budget = greater(memory - fixed - (job->threads - 1) * kept, largest);
    *peak = fixed + largest + (job->threads - 1) * kept;
}

pare_status pare__job_budget(pare__job *job)
{
    pare__bytes largest, kept, walk = {0}, memory = {.device = job->device.memory};
    int64_t samples = 0;
    if (job->walker) {
        PARE_TRY(pare__walk_predict(job->walker));
        walk = job->walker->peak;
        samples = 2 * pare_batch_bytes(job->walker->dataset, job->walker->shape.batch);
    }
    memory.host = host_memory(job, walk.host);
    int64_t threads = pare__lane_count(&job->device, job->options->threads);
    largest_chunks(job, &largest, &kept);
    pare__bytes one = fixed_bytes(job, 1), two = fixed_bytes(job, 2);
    int64_t now = pare_memory_now() - job->context;
    pare__bytes need = {.host = greater(one.host + largest.host, now + walk.host),
                        .device = one.device + greater(largest.device, walk.device)};
    PARE_TRY(check_least(job, need, memory));
    /* Lanes beside the one that has the largest chunk. */
    int64_t each = kept.host + THREAD_BYTES + (job->group_count ? PARE_SELECT_LOW_BINS * 8 : 0);
    int64_t more = (memory.host - need.host) / each;
    threads = threads - 1 <= more ? threads : more + 1;
    each = kept.device + two.device - one.device;
    more = (memory.device - need.device) / each;
    threads = !job->device.cuda || threads - 1 <= more ? threads : more + 1;
    job->memory = memory.host;
    job->threads = (int)threads;
    pare__bytes fixed = fixed_bytes(job, job->threads);
    share_out(job, memory.host, fixed.host, kept.host, largest.host, &job->budget.host,
              &job->peak.host);
    job->budget.host = greater(job->budget.host, samples);
    job->peak.host = greater(job->peak.host, now + walk.host) + job->context;
    if (job->device.cuda)
        share_out(job, memory.device, fixed.device, kept.device, largest.device,
                  &job->budget.device, &job->peak.device);
    job->peak.device = greater(job->peak.device, job->device.cuda ? fixed.device + walk.device : 0);
    return PARE_OK;
}

/* Reads of the whole source, or of the tensors concerned, that the passes will make, in bytes of
 * source values. */
static int64_t read_bytes(const pare__job *job, int64_t *passes)
{
    int64_t all = 0, once = 0;
    bool select = false;
    for (int64_t t = 0; t < job->count; t++) {
        const pare__task *task = &job->tasks[t];
        const pare_entry *source = pare_store_entry(job->store, task->source);
        int64_t reads = 1;
        if (task->group >= 0) {
            reads += task->out.dtype == PARE_BF16 && task->prune->method->weight_is_score ? 1 : 2;
            select = true;
        }
        if (task->quant && task->out.scheme.granularity == PARE_PER_TENSOR)
            reads += task->quant->search == PARE_SCALE_MSE ? 2 : 1;
        reads += task->quant && task->out.scheme.double_quant;
        reads += task->maybe_sparse;
        all += reads * source->stored_bytes;
        once += source->stored_bytes;
    }
    *passes = once ? (all + once - 1) / once : 0;
    if (select && *passes < 2)
        *passes = 2;
    return all;
}

/* Adds the seconds that the walk's operations take, as fast as a product is here. */
static pare_status add_walk(pare__job *job, pare__prediction *p)
{
    pare_backend *be = NULL;
    const pare__walker *w = job->walker;
    const pare_cpu_options cpu = {.threads = w->threads, .isa = job->options->isa};
    p->read_bytes += w->read_bytes;
    if (job->device.cuda)
        PARE_TRY(pare_cuda_create(job->device.index, &be));
    else
        PARE_TRY(pare_cpu_create(&cpu, &be));
    double rate = pare__product_rate(be, w->shape.compute);
    pare_backend_free(&be);
    p->seconds = p->seconds >= 0 && rate > 0 ? p->seconds + w->flops / rate : -1;
    return PARE_OK;
}

/* One chunk without its writing. */
static pare_status try_chunk(pare__job *job, pare__lane *lane, int64_t chunk)
{
    PARE_TRY(pare__chunk_read(job, lane, chunk));
    PARE_TRY(pare__chunk_digest(lane));
    PARE_TRY(pare__chunk_upload(lane));
    PARE_TRY(pare__chunk_score(job, lane));
    PARE_TRY(pare__chunk_prune(job, lane));
    if (lane->task->out.scheme.granularity != PARE_PER_TENSOR)
        PARE_TRY(pare__chunk_quantize(lane));
    PARE_TRY(pare__chunk_download(lane));
    return PARE_OK;
}

/* Works on a few chunks in memory; *bytes of source took *seconds. */
static pare_status try_chunks(pare__job *job, pare__lane *lane, int64_t *bytes, double *seconds)
{
    int64_t step = job->chunk_count / 16 + 1;
    if (job->device.cuda && job->chunk_count) /* kernels are loaded at their first use */
        PARE_TRY(try_chunk(job, lane, 0));
    double begin = pare__now();
    for (int64_t c = 0; c < job->chunk_count && pare__now() - begin < 0.2; c += step) {
        const pare_entry *out = &job->tasks[job->chunks[c].task].out;
        PARE_TRY(try_chunk(job, lane, c));
        *bytes += lane->rows * out->cols * pare_dtype_bits(out->dtype) / 8;
    }
    *seconds = pare__now() - begin;
    return PARE_OK;
}

/* Seconds a lane takes for a byte of source; negative if the source's values let no chunk through,
 * which the run will say better. A device that fails is the end of it. */
static pare_status probe(pare__job *job, char isa[16], double *each)
{
    pare_status status = PARE_OK;
    int64_t bytes = 0;
    double seconds = 0;
    pare__lane lane = {0};
    *each = -1;
    PARE_TRY_DONE(pare__lane_open(&job->device, &lane));
    const char *name = pare_backend_name(lane.host), *blank = strchr(name, ' ');
    snprintf(isa, 16, "%s", blank ? blank + 1 : name);
    PARE_TRY_DONE(try_chunks(job, &lane, &bytes, &seconds));
    if (bytes > 0)
        *each = seconds / (double)bytes;
done:
    pare__lane_close(&lane);
    job->read_bytes = 0;
    return status == PARE_ERR_DEVICE ? status : PARE_OK;
}

pare_status pare__job_predict(pare__job *job, pare__prediction *p)
{
    pare_writer_options options;
    *p = (pare__prediction){.peak_memory = job->peak.host, .seconds = -1};
    pare__job_writer_options(job, &options);
    PARE_TRY(pare_writer_predict(&options, &p->files, &p->out_bytes));
    p->write_bytes = p->out_bytes;
    p->read_bytes = read_bytes(job, &p->passes);
    double each;
    PARE_TRY(probe(job, p->isa, &each));
    if (each >= 0)
        p->seconds =
            each * (double)p->read_bytes / job->threads + (double)p->write_bytes / WRITE_RATE;
    double gradients = pare__gradients_seconds(job);
    p->seconds = p->seconds >= 0 && gradients >= 0 ? p->seconds + gradients : -1;
    if (job->walker)
        PARE_TRY(add_walk(job, p));
    return PARE_OK;
}
