/* count.c - how many values a sparse output will hold, before it is laid out: what has a size that
 * depends on the data is counted first, then created. */
#include "job.h"

#include "pare/ops.h"

static bool wants_count(const pare__task *task)
{
    return task->maybe_sparse && task->chunks > 0;
}

static pare_status take_count(pare__job *job, pare__lane *lane, int64_t chunk)
{
    const pare_entry *out = &lane->task->out;
    PARE_TRY(pare_mask_nonzero(
        lane->be, &(pare_mask_nonzero_args){
                      .x = pare_matrix(lane->values, out->dtype, lane->rows, out->cols),
                      .mask = pare_matrix(lane->mask, PARE_U8, lane->rows, (out->cols + 7) / 8),
                      .count = &job->chunks[chunk].nonzeros}));
    return PARE_OK;
}

static const pare__pass count_pass = {.name = "count", .wants = wants_count, .work = take_count};

bool pare__job_has_count(const pare__job *job)
{
    return pare__pass_has_work(job, &count_pass);
}

void pare__job_counted(pare__job *job)
{
    for (int64_t t = 0; t < job->count; t++) {
        pare__task *task = &job->tasks[t];
        if (!task->maybe_sparse)
            continue;
        int64_t n = 0, item = pare_dtype_bits(task->out.dtype) / 8;
        for (int64_t c = task->first_chunk; c < task->first_chunk + task->chunks; c++) {
            job->chunks[c].before = n;
            n += job->chunks[c].nonzeros;
        }
        int64_t sparse = n * item + task->out.rows * ((task->out.cols + 7) / 8 + 8);
        task->out.form =
            sparse < task->out.rows * task->out.cols * item ? PARE_FORM_SPARSE : PARE_FORM_DENSE;
        task->out.nonzeros = task->out.form == PARE_FORM_SPARSE ? n : 0;
    }
}

pare_status pare__job_count(pare__job *job)
{
    PARE_TRY(pare__pass_run(job, &count_pass));
    PARE_TRY(pare__ranks_counts(job));
    pare__job_counted(job);
    return PARE_OK;
}
