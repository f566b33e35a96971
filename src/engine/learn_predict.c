/* learn_predict.c - what running a model will need, before it is allocated. */
#include "learn.h"

#include "pare/version.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* What libraries take once they work: generated code, thread stacks, buffers of files. */
#define LIBRARY_BYTES ((int64_t)512 << 10)
#define PROBE 512

/* Bytes the machine can still give, 0 if it does not say. */
static int64_t available(void)
{
    char line[128];
    long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return (int64_t)kib * 1024;
}

static int64_t bytes_of(const pare_model_memory *m)
{
    return m->params + m->grads + m->masks + m->activations + m->scratch;
}

pare_status pare__need_check(const pare__bench *bench, pare__need *need, const char *smaller)
{
    char needs[32], has[32];
    int64_t now = pare_memory_now();
    need->base = now + LIBRARY_BYTES;
    need->peak = need->base + bytes_of(&need->model) + bytes_of(&need->against) + need->beside;
    need->budget = bench->options->memory;
    bool asked = need->budget > 0;
    if (!asked)
        need->budget = available() + now;
    PARE_REQUIRE(need->budget <= 0 || need->peak <= need->budget, PARE_ERR_MEMORY,
                 "%s of %s cannot hold this work: it needs %s%s%s",
                 asked ? "a memory budget" : "the free memory",
                 pare__size_text((double)need->budget, has, sizeof has),
                 pare__size_text((double)need->peak, needs, sizeof needs), smaller ? "; " : "",
                 smaller ? smaller : "");
    return PARE_OK;
}

double pare__product_rate(pare_backend *be, pare_dtype compute)
{
    float *memory = NULL;
    size_t n = (size_t)PROBE * PROBE;
    if (pare__calloc(3 * n, sizeof *memory, &memory) != PARE_OK)
        return -1;
    pare_gemm_args args = {.a = pare_matrix(memory, compute, PROBE, PROBE),
                           .b = pare_matrix(memory + n, compute, PROBE, PROBE),
                           .c = pare_matrix(memory + 2 * n, PARE_F32, PROBE, PROBE)};
    pare_status status = pare_gemm(be, &args);
    double begin = pare__now(), seconds = 0;
    int64_t rounds = 0;
    while (status == PARE_OK && seconds < 0.05) {
        status = pare_gemm(be, &args);
        rounds++;
        seconds = pare__now() - begin;
    }
    free(memory);
    return status == PARE_OK ? 2.0 * PROBE * PROBE * PROBE * (double)rounds / seconds : -1;
}

/* ---- reports --------------------------------------------------------------------------------- */

void pare__report_subject(pare__json *parent, const char *key, const pare__subject *subject)
{
    if (!subject->model)
        return;
    const pare_model_facts *facts = pare_model_facts_of(subject->model);
    int64_t parameters = 0, masked = 0;
    for (int64_t i = 0; i < pare_model_param_count(subject->model); i++) {
        const pare_param *p = pare_model_param(subject->model, i);
        parameters += pare_tensor_count(&p->value);
        masked += p->mask != NULL;
    }
    pare__json *o = pare__json_set_object(parent, key);
    pare__json_set_string(o, "path", pare__subject_name(subject));
    pare__json_set_string(o, "format",
                          subject->store ? pare_store_format(subject->store) : "from scratch");
    pare__json_set_string(o, "architecture", facts->family);
    pare__json_set_int(o, "parameters", parameters);
    pare__json_set_int(o, "masked_tensors", masked);
}

void pare__report_data(pare__json *parent, const char *key, const pare_data_options *options,
                       const pare_dataset *dataset)
{
    pare__json *o = pare__json_set_object(parent, key);
    pare__json_set_string(o, "path", options->path);
    pare__json_set_int(o, "samples", pare_dataset_count(dataset));
    if (options->tokens)
        pare__json_set_int(o, "seq_len", pare_dataset_length(dataset));
    if (options->stride)
        pare__json_set_int(o, "stride", options->stride);
}

void pare__report_need(pare__json *root, const pare__bench *bench, const pare__need *need,
                       pare_dtype compute)
{
    const char *name = pare_backend_name(bench->be), *isa = strchr(name, ' ');
    pare__json *o = pare__json_set_object(root, "predicted");
    pare__json_set_int(o, "peak_memory", need->peak);
    pare__json_set_int(o, "parameters_bytes", need->model.params + need->against.params);
    pare__json_set_int(o, "gradients_bytes", need->model.grads);
    pare__json_set_int(o, "activations_bytes", need->model.activations + need->against.activations);
    pare__json_set_int(o, "beside_bytes", need->beside);
    pare__json_set_int(o, "budget", need->budget);
    pare__json_set_real(o, "flops", need->flops);
    if (need->seconds >= 0)
        pare__json_set_real(o, "seconds", need->seconds);
    pare__json_set_int(o, "threads", bench->threads);
    pare__json_set_string(o, "isa", isa ? isa + 1 : name);
    pare__json_set_string(o, "compute", compute == PARE_BF16 ? "bf16" : "f32");
}

void pare__report_metrics(pare__json *object, unsigned metrics, const pare_eval_result *r)
{
    const struct {
        unsigned metric;
        const char *name;
        double value;
    } rows[] = {
        {PARE_METRIC_PPL, "ppl", r->ppl},
        {PARE_METRIC_LOSS, "loss", r->loss},
        {PARE_METRIC_TOP1, "top1", r->top1},
        {PARE_METRIC_TOP5, "top5", r->top5},
        {PARE_METRIC_KLD, "kld", r->kld},
        {PARE_METRIC_KLD, "agreement", r->agreement},
        {PARE_METRIC_COSINE, "cosine", r->cosine},
        {PARE_METRIC_COSINE, "cosine_min", r->cosine_min},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (metrics & rows[i].metric)
            pare__json_set_real(object, rows[i].name, rows[i].value);
    if (metrics & PARE_METRIC_TOP1)
        pare__json_set_int(object, "correct", r->correct);
    pare__json_set_int(object, "counted", r->counted);
}
