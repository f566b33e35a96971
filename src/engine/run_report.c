/* run_report.c - the report of a plan or a run (report_impl.h lists the members). */
#include "engine/walk/walk.h"
#include "engine/report/report_impl.h"

#include "pare/ops.h"

#include "base/file.h"

#include <string.h>
#include <unistd.h>

static int64_t parameters(const pare_entry *e)
{
    return e->rows * e->cols;
}

static void add_shape(pare__json *parent, const char *key, const pare_entry *e)
{
    pare__json *shape = pare__json_set_array(parent, key);
    for (int d = 0; d < e->rank; d++)
        pare__json_set_int(shape, NULL, e->shape[d]);
}

int64_t pare__bytes_out(const pare_entry *e)
{
    int64_t n = parameters(e), item = pare_dtype_bits(e->dtype);
    if (e->form == PARE_FORM_SPARSE)
        return e->nonzeros * item / 8 + e->rows * ((e->cols + 7) / 8 + 8);
    if (e->form == PARE_FORM_DENSE)
        return (n * item + 7) / 8;
    pare_blocks b = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    int64_t codes = (n * e->scheme.bits + 7) / 8, scales = b.down * b.across;
    if (e->scheme.double_quant)
        return codes + scales + (scales + PARE_NESTED_BLOCK - 1) / PARE_NESTED_BLOCK * 4;
    int64_t scale = e->scheme.type == PARE_QUANT_NF4 ? 4 : item / 8;
    return codes + scales * (scale + e->scheme.asymmetric);
}

static void add_tensor(pare__json *list, const pare__job *job, const pare__task *task, bool ran)
{
    const pare_entry *source = pare_store_entry(job->store, task->source);
    char text[40], prune[64];
    pare__json *t = pare__json_set_object(list, NULL);
    pare__json_set_string(t, "name", source->name);
    pare__json_set_string(t, "role", pare_role_name(task->role));
    pare__json_set_string(t, "reason", task->reason);
    pare__json_set_string(t, "dtype", pare_dtype_name(source->dtype));
    add_shape(t, "shape", source);
    const pare_prune_step *step = pare__task_prune(task);
    if (step && step->pattern.kind != PARE_PATTERN_NM) {
        snprintf(prune, sizeof prune, "%s %g", pare_pattern_text(&step->pattern, text, sizeof text),
                 step->sparsity);
        pare__json_set_string(t, "prune", prune);
    } else {
        pare__json_set_string(t, "prune",
                              step ? pare_pattern_text(&step->pattern, text, sizeof text) : NULL);
    }
    pare__json_set_string(
        t, "quant",
        pare__task_quant(task) ? pare_scheme_text(&task->out.scheme, text, sizeof text) : NULL);
    pare__json_set_string(t, "fallback", task->fallback);
    pare__json_set_string(t, "note", task->note ? task->note : pare__walk_note(job, task, ran));
    pare__json_set_int(t, "bytes_in", source->stored_bytes);
    pare__json_set_int(t, "bytes_out", pare__bytes_out(&task->out));
    if (ran && task->nonzeros >= 0)
        pare__json_set_int(t, "zeros", parameters(&task->out) - task->nonzeros);
}

static void add_summary(pare__json *root, const pare__job *job)
{
    int64_t pruned = 0, quantized = 0, alone = 0, fallbacks = 0;
    for (int64_t t = 0; t < job->count; t++) {
        const pare__task *task = &job->tasks[t];
        const pare_prune_step *prune = pare__task_prune(task);
        const pare_quant_step *quant = pare__task_quant(task);
        pruned += prune != NULL;
        quantized += quant != NULL;
        alone += !prune && !quant;
        fallbacks += task->fallback != NULL;
    }
    pare__json *summary = pare__json_set_object(root, "summary");
    pare__json_set_int(summary, "pruned", pruned);
    pare__json_set_int(summary, "quantized", quantized);
    pare__json_set_int(summary, "left_alone", alone);
    pare__json_set_int(summary, "fallbacks", fallbacks);
}

static const char *format_of(const char *path)
{
    size_t n = path ? strlen(path) : 0;
    if (n > 3 && strcmp(path + n - 3, ".h5") == 0)
        return "h5";
    return n > 12 && strcmp(path + n - 12, ".safetensors") == 0 ? "safetensors" : "hf";
}

static void add_head(pare__json *root, const pare__job *job, const pare__prediction *p)
{
    int64_t count = 0, bytes = 0;
    for (int64_t t = 0; t < job->count; t++) {
        const pare_entry *e = pare_store_entry(job->store, t);
        count += parameters(e);
        bytes += e->stored_bytes;
    }
    pare__json *model = pare__json_set_object(root, "model");
    pare__json_set_string(model, "path", pare_store_path(job->store));
    pare__json_set_string(model, "format", pare_store_format(job->store));
    pare__json_set_string(model, "architecture",
                          pare_known_architecture(pare_store_config(job->store)));
    pare__json_set_int(model, "tensors", job->count);
    pare__json_set_int(model, "parameters", count);
    pare__json_set_int(model, "bytes", bytes);
    pare__json *output = pare__json_set_object(root, "output");
    pare__json_set_string(output, "path", job->recipe->output);
    pare__json_set_string(output, "format", format_of(job->recipe->output));
    pare__json_set_int(output, "files", p->files);
    pare__json_set_int(output, "bytes", p->out_bytes);
    pare__json_set_string(root, "recipe", job->recipe_text);
}

static void add_predicted(pare__json *root, const pare__job *job, const pare__prediction *p)
{
    pare__json *o = pare__json_set_object(root, "predicted");
    pare__json_set_int(o, "passes", p->passes);
    pare__json_set_int(o, "read_bytes", p->read_bytes);
    pare__json_set_int(o, "write_bytes", p->write_bytes);
    pare__json_set_int(o, "peak_memory", p->peak_memory);
    if (p->seconds >= 0)
        pare__json_set_real(o, "seconds", p->seconds);
    pare__json_set_int(o, "budget", job->memory);
    pare__json_set_int(o, "threads", job->threads);
    pare__json_set_string(o, "isa", p->isa);
    pare__json_set_string(o, "device", job->device.name);
    if (job->device.cuda) {
        pare__json_set_int(o, "device_memory", job->peak.device);
        pare__json_set_int(o, "device_budget", job->device.memory);
    }
}

static pare_status fill(pare__job *job, const pare__prediction *p, bool ran, pare__json *root)
{
    add_head(root, job, p);
    PARE_TRY(pare__recipe_steps(job->recipe, pare__json_set_array(root, "steps")));
    pare__json *list = pare__json_set_array(root, "tensors");
    for (int64_t t = 0; t < job->count; t++)
        add_tensor(list, job, &job->tasks[t], ran);
    add_summary(root, job);
    if (job->surveying)
        pare__json_set(root, "surveying", pare__json_copy(job->surveying));
    if (job->survey)
        pare__json_set(root, "survey", pare__json_copy(job->survey));
    pare__walk_report(job, ran, root);
    add_predicted(root, job, p);
    return PARE_OK;
}

pare_status pare__report_plan(pare__job *job, const pare__prediction *prediction, const char *kind,
                              pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    PARE_TRY_DONE(pare__report_new(kind, &r));
    PARE_TRY_DONE(fill(job, prediction, false, r->root));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    return status;
}

/* ---- after a run ----------------------------------------------------------------------------- */

/* Nonzeros of each tensor from its chunks; -1 where nobody counted. */
static void sum_nonzeros(pare__job *job)
{
    for (int64_t t = 0; t < job->count; t++) {
        pare__task *task = &job->tasks[t];
        task->nonzeros = task->prune || task->maybe_sparse ? 0 : -1;
        if (task->walked && task->walked->prune) {
            task->nonzeros = task->walked->nonzeros;
            continue;
        }
        for (int64_t c = task->first_chunk;
             c < task->first_chunk + task->chunks && task->nonzeros >= 0; c++)
            task->nonzeros =
                job->chunks[c].nonzeros < 0 ? -1 : task->nonzeros + job->chunks[c].nonzeros;
    }
}

static void add_sparsity(pare__json *o, int64_t count, int64_t zeros)
{
    pare__json_set_int(o, "parameters", count);
    pare__json_set_int(o, "zeros", zeros);
    pare__json_set_real(o, "sparsity", count ? (double)zeros / (double)count : 0);
}

static void add_result(pare__json *root, const pare__job *job)
{
    int64_t count = 0, pruned = 0, zeros = 0, in = 0, out = 0;
    for (int64_t t = 0; t < job->count; t++) {
        const pare__task *task = &job->tasks[t];
        count += parameters(&task->out);
        in += pare_store_entry(job->store, t)->stored_bytes;
        out += pare__bytes_out(&task->out);
        if (pare__task_prune(task) && task->nonzeros >= 0) {
            pruned += parameters(&task->out);
            zeros += parameters(&task->out) - task->nonzeros;
        }
    }
    pare__json *o = pare__json_set_object(root, "result");
    pare__json_set_int(o, "parameters", count);
    if (pruned)
        add_sparsity(pare__json_set_object(o, "pruned"), pruned, zeros);
    pare__json_set_real(o, "bits_per_weight", count ? 8.0 * (double)out / (double)count : 0);
    pare__json_set_int(o, "bytes_in", in);
    pare__json_set_int(o, "bytes_out", out);
    pare__json_set_real(o, "ratio", out ? (double)in / (double)out : 0);
}

static pare_status add_size(void *user, const char *name, int64_t size)
{
    (void)name;
    *(int64_t *)user += size;
    return PARE_OK;
}

/* What this run wrote: all that lies there now, but for what a run before had done. */
static int64_t written(const pare__job *job)
{
    int64_t bytes = 0, before = 0, size;
    int fd;
    if (pare__is_directory(job->recipe->output)) {
        (void)pare__walk(job->recipe->output, add_size, &bytes);
    } else if (pare__file_open(job->recipe->output, &fd, &size) == PARE_OK) {
        bytes = size;
        close(fd);
    }
    for (int64_t t = 0; t < job->count; t++)
        before += pare__bytes_out(&job->tasks[t].out);
    return job->resumed ? bytes - before + job->write_bytes : bytes;
}

static void add_actual(pare__json *root, pare__job *job, double seconds)
{
    pare__json *o = pare__json_set_object(root, "actual");
    pare__json_set_int(o, "read_bytes", job->read_bytes);
    pare__json_set_int(o, "write_bytes", written(job));
    pare__json_set_int(o, "peak_memory", pare_memory_peak());
    if (job->device.cuda)
        pare__json_set_int(o, "device_memory", job->device.peak);
    pare__json_set_real(o, "seconds", seconds);
    pare__json_set_bool(o, "resumed", job->resumed);
    pare__json_set_int(o, "chunks_done_before", job->chunks_done_before);
    pare__json_set(o, "phases", job->phases);
    job->phases = NULL;
}

pare_status pare__report_run(pare__job *job, const pare__prediction *prediction, double seconds,
                             bool verified, pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    PARE_TRY_DONE(pare__report_new("run", &r));
    sum_nonzeros(job);
    PARE_TRY_DONE(fill(job, prediction, true, r->root));
    add_actual(r->root, job, seconds);
    add_result(r->root, job);
    if (verified)
        pare__json_set_bool(r->root, "verified", true);
    PARE_TRY_DONE(pare__report_save(r, job->recipe->output));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    return status;
}
