/* predict.c - what a run will need and take, before it starts: memory, bytes, time. */
#include "job.h"

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

static int64_t fixed_bytes(const pare__job *job, int threads)
{
    int64_t groups = job->group_count < 32 ? job->group_count : 32;
    int64_t bins = groups ? (groups + threads) * PARE_SELECT_LOW_BINS * 8 : 0;
    return pare_memory_now() + FIXED_BYTES + threads * THREAD_BYTES + job->count * ENTRY_BYTES +
           bins;
}

/* The largest arena of a chunk, and the largest that a lane keeps between chunks. */
static void largest_chunks(const pare__job *job, int64_t *largest, int64_t *kept)
{
    bool verified = job->recipe->prune_count + job->recipe->quant_count == 0;
    *largest = *kept = 0;
    for (int64_t t = 0; t < job->count; t++) {
        if (job->tasks[t].chunks == 0)
            continue;
        int64_t need = pare__chunk_bytes(job, job->tasks[t].first_chunk);
        int64_t after = verified ? pare__verify_bytes(job, &job->tasks[t]) : 0;
        need = after > need ? after : need;
        if (need > *largest)
            *largest = need;
        if (need <= PARE__KEPT_ARENA && need > *kept)
            *kept = need;
    }
}

pare_status pare__job_budget(pare__job *job)
{
    int64_t largest, kept, largest_tensor = 0;
    int threads = job->options->threads ? job->options->threads : pare_cpu_count();
    largest_chunks(job, &largest, &kept);
    for (int64_t t = 0; t < job->count; t++) {
        const pare_entry *e = &job->tasks[t].out;
        int64_t bytes = (e->rows * e->cols * pare_dtype_bits(e->dtype) + 7) / 8;
        largest_tensor = bytes > largest_tensor ? bytes : largest_tensor;
    }
    int64_t memory =
        job->options->memory ? job->options->memory : ((int64_t)256 << 20) + 2 * largest_tensor;
    int64_t need = fixed_bytes(job, 1) + largest;
    char needs[32], has[32];
    PARE_REQUIRE(
        memory >= need, PARE_ERR_MEMORY,
        "a memory budget of %s cannot hold this work: it needs %s; give --memory %lldM or more",
        pare__size_text((double)memory, has, sizeof has),
        pare__size_text((double)need, needs, sizeof needs), (long long)((need >> 20) + 1));
    int64_t each = kept + THREAD_BYTES + (job->group_count ? PARE_SELECT_LOW_BINS * 8 : 0);
    int64_t more = (memory - need) / each; /* threads beside the one that has the largest chunk */
    job->memory = memory;
    job->threads = threads - 1 <= more ? threads : (int)more + 1;
    job->budget = memory - fixed_bytes(job, job->threads) - (job->threads - 1) * kept;
    if (job->budget < largest)
        job->budget = largest;
    job->peak = fixed_bytes(job, job->threads) + largest + (job->threads - 1) * kept;
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

/* Seconds a thread takes for a byte of source, from a few chunks worked on in memory; negative if
 * that failed. */
static double probe(pare__job *job, char isa[16])
{
    int64_t bytes = 0;
    double begin = pare__now();
    pare__lane lane = {0};
    if (pare_cpu_create(&(pare_cpu_options){.threads = 1, .isa = job->options->isa}, &lane.be) !=
        PARE_OK)
        return -1;
    snprintf(isa, 16, "%s",
             strchr(pare_backend_name(lane.be), ' ') ? strchr(pare_backend_name(lane.be), ' ') + 1
                                                     : pare_backend_name(lane.be));
    pare_status status = PARE_OK;
    int64_t step = job->chunk_count / 16 + 1;
    for (int64_t c = 0; status == PARE_OK && c < job->chunk_count && pare__now() - begin < 0.2;
         c += step) {
        status = pare__chunk_read(job, &lane, c);
        if (status == PARE_OK)
            status = pare__chunk_digest(job, &lane, c);
        if (status == PARE_OK)
            status = pare__chunk_score(job, &lane, c);
        if (status == PARE_OK)
            status = pare__chunk_prune(job, &lane, c);
        if (status == PARE_OK &&
            job->tasks[job->chunks[c].task].out.scheme.granularity != PARE_PER_TENSOR)
            status = pare__chunk_quantize(job, &lane, c);
        bytes += lane.rows * job->tasks[job->chunks[c].task].out.cols *
                 pare_dtype_bits(job->tasks[job->chunks[c].task].out.dtype) / 8;
        job->chunks[c].nonzeros = -1;
    }
    double seconds = pare__now() - begin;
    pare__pages_free(lane.arena, lane.size);
    pare_backend_free(&lane.be);
    job->read_bytes = 0;
    return status == PARE_OK && bytes > 0 ? seconds / (double)bytes : -1;
}

pare_status pare__job_predict(pare__job *job, pare__prediction *p)
{
    pare_writer_options options;
    *p = (pare__prediction){.peak_memory = job->peak, .seconds = -1};
    pare__job_writer_options(job, &options);
    PARE_TRY(pare_writer_predict(&options, &p->files, &p->out_bytes));
    p->write_bytes = p->out_bytes;
    p->read_bytes = read_bytes(job, &p->passes);
    double each = probe(job, p->isa);
    if (each >= 0)
        p->seconds =
            each * (double)p->read_bytes / job->threads + (double)p->write_bytes / WRITE_RATE;
    return PARE_OK;
}
