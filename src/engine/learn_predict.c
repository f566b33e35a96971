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
/* The same on a device: workspaces of products and convolutions, kernels that are loaded. */
#define DEVICE_LIBRARY_BYTES ((int64_t)192 << 20)
/* Of a second backend: workspaces alone, what a backend has for small results. */
#define SECOND_LIBRARY_BYTES ((int64_t)64 << 20)
/* Host memory through which a device's values are read and written, a piece at a time. */
#define STAGING_BYTES ((int64_t)8 << 20)
/* Sides of matrices whose product keeps a CPU busy; and that are tried on a device, which has some
 * products to do at once, until one takes long enough to tell. */
#define PROBE 512
#define DEVICE_PROBE 128
#define LARGEST_PROBE 2048
#define LONG_ENOUGH 5e-4 /* seconds */
#define DEVICE_QUEUE 8

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
    return m->params + m->grads + m->masks + m->activations;
}

/* Where things lie: all on the host, or on the device what it works with and on the host what goes
 * there. */
static void add_up(const pare__bench *bench, pare__need *need)
{
    int64_t models = bytes_of(&need->model) + bytes_of(&need->against);
    int64_t inputs = need->model.inputs + need->against.inputs;
    int64_t scratch = need->model.scratch + need->against.scratch;
    int64_t device_scratch = need->model.device_scratch + need->against.device_scratch;
    need->base = pare_memory_now() - bench->context + LIBRARY_BYTES;
    if (bench->device.cuda) {
        need->device_peak =
            DEVICE_LIBRARY_BYTES + models + device_scratch + inputs + need->beside.backend;
        need->device_peak += need->apart ? SECOND_LIBRARY_BYTES : 0;
        need->peak = need->base + inputs + need->beside.host + STAGING_BYTES;
    } else {
        need->peak = need->base + models + scratch + need->beside.backend + need->beside.host;
    }
}

static pare_status check_device(const pare__bench *bench, const pare__need *need,
                                const char *smaller)
{
    char needs[32], has[32];
    int64_t budget = bench->device.memory;
    PARE_REQUIRE(need->device_peak <= budget, PARE_ERR_MEMORY,
                 "%s with %s to use cannot hold this work: it needs %s there%s%s",
                 pare_backend_name(bench->be), pare__size_text((double)budget, has, sizeof has),
                 pare__size_text((double)need->device_peak, needs, sizeof needs),
                 smaller ? "; " : "", smaller ? smaller : "");
    return PARE_OK;
}

pare_status pare__need_check(const pare__bench *bench, pare__need *need, const char *smaller)
{
    char needs[32], has[32];
    int64_t now = pare_memory_now() - bench->context;
    add_up(bench, need);
    if (bench->device.cuda)
        PARE_TRY(check_device(bench, need, smaller));
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

/* Products of two matrices of `side`, in memory for three; and the time that they take. */
static pare_status multiply(pare_backend *be, pare_dtype compute, float *memory, int64_t side,
                            int count, double *seconds)
{
    int64_t n = side * side;
    double begin = pare__now();
    pare_gemm_args args = {.a = pare_matrix(memory, compute, side, side),
                           .b = pare_matrix(memory + n, compute, side, side),
                           .c = pare_matrix(memory + 2 * n, PARE_F32, side, side)};
    for (int i = 0; i < count; i++)
        PARE_TRY(pare_gemm(be, &args));
    PARE_TRY(pare_backend_sync(be));
    *seconds = pare__now() - begin;
    return PARE_OK;
}

double pare__product_rate(pare_backend *be, pare_dtype compute)
{
    float *memory = NULL;
    bool host = pare_backend_is_host(be);
    int64_t side = host ? PROBE : DEVICE_PROBE, most = host ? PROBE : LARGEST_PROBE, rounds = 0;
    int64_t bytes = 3 * most * most * (int64_t)sizeof *memory;
    int queue = host ? 1 : DEVICE_QUEUE;
    double once = 0, more = 0, seconds = 0;
    if (pare_backend_alloc(be, bytes, &memory) != PARE_OK)
        return -1;
    /* The first product of all makes what libraries need. */
    pare_status status = multiply(be, compute, memory, side, 1, &once);
    while (status == PARE_OK && side < most) {
        status = multiply(be, compute, memory, side, 1, &once);
        if (once > LONG_ENOUGH)
            break;
        side *= 2;
    }
    while (status == PARE_OK && seconds < 0.05) {
        status = multiply(be, compute, memory, side, queue, &more);
        seconds += more;
        rounds += queue;
    }
    pare_backend_release(be, memory, bytes);
    double flops = 2 * (double)side * (double)side * (double)side * (double)rounds;
    return status == PARE_OK ? flops / seconds : -1;
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
    const char *name = pare_backend_name(pare_backend_host(bench->be)), *isa = strchr(name, ' ');
    pare__json *o = pare__json_set_object(root, "predicted");
    pare__json_set_int(o, "peak_memory", need->peak);
    pare__json_set_int(o, "parameters_bytes", need->model.params + need->against.params);
    pare__json_set_int(o, "gradients_bytes", need->model.grads);
    pare__json_set_int(o, "activations_bytes", need->model.activations + need->against.activations);
    pare__json_set_int(o, "beside_bytes", need->beside.backend + need->beside.host);
    pare__json_set_int(o, "budget", need->budget);
    pare__json_set_real(o, "flops", need->flops);
    if (need->seconds >= 0)
        pare__json_set_real(o, "seconds", need->seconds);
    pare__json_set_int(o, "threads", bench->threads);
    pare__json_set_string(o, "isa", isa ? isa + 1 : name);
    pare__json_set_string(o, "device", bench->device.name);
    if (bench->device.cuda) {
        pare__json_set_int(o, "device_memory", need->device_peak);
        pare__json_set_int(o, "device_budget", bench->device.memory);
    }
    pare__json_set_string(o, "compute", compute == PARE_BF16 ? "bf16" : "f32");
}

void pare__report_taken(pare__json *actual, const pare__bench *bench)
{
    pare_cuda_facts facts;
    pare__json_set_int(actual, "peak_memory", pare_memory_peak());
    /* A backend keeps what it was given back, so that what is gone now is the peak. */
    if (bench->device.cuda && pare_cuda_facts_of(bench->device.index, &facts) == PARE_OK)
        pare__json_set_int(actual, "device_memory",
                           bench->unused > facts.free ? bench->unused - facts.free : 0);
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
