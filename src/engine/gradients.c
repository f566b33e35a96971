/* gradients.c - gradients of the loss by the weights, for methods that prune by them (Taylor,
 * Fisher).
 *
 * Before the pass over the tensors the whole model runs over the calibration data, forward and
 * backward, with the cross-entropy of next tokens or classes. Kept of each chosen weight is the
 * root of the sum of its squared gradients over the batches, or over single samples (a batch is
 * then one sample: slower). They go to "<output>.grads.h5", by the weights' names, as the
 * checkpoint stores these; chunks read their rows of it beside those of the weights. The file is
 * there whole or not at all, so a run that was cut takes it again.
 *
 * It is the model as it is used that is differentiated: batch norms have their running statistics,
 * nothing is dropped. Memory: the model, gradients of the chosen weights, activations of a batch;
 * all of it is given back before the pass begins.
 */
#include "learn.h"

#include "pare/ops.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

#define SAMPLES 128 /* where nothing is said */
#define AHEAD 2     /* batches made while the model works on one */
#define WRITING_BYTES ((int64_t)2 << 20)

struct pare__gradients {
    const pare_calibration *calibration;
    pare_model_choice choice;
    pare__subject subject;
    pare_data_options data;
    pare_dataset *dataset;
    pare_model_shape shape;
    bool by_sample;
    double seconds; /* predicted; negative: unknown */
    int64_t *param; /* [job->count], −1: of no interest */
    char *path;     /* "<output>.grads.h5"; NULL: a plan without an output */
    /* while it works */
    pare__bench bench;
    void *scratch, *results; /* of the loss */
    int64_t scratch_bytes, results_bytes;
    pare_tensor sum; /* of squares, laid out as all gradients */
};

bool pare__wants_gradient(const pare__task *task)
{
    return task->prune && task->prune->method->needs & PARE_STAT_GRADIENT;
}

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status open_data(pare__job *job, pare__gradients *g)
{
    const pare_calibration *c = g->calibration;
    const pare_data_options asked = {.path = c->path,
                                     .labels = c->labels,
                                     .seq_len = c->seq_len,
                                     .pad_id = c->pad_id,
                                     .bos_id = -1,
                                     .skip = c->skip,
                                     .samples = c->samples ? c->samples : SAMPLES,
                                     .at_most = !c->samples,
                                     .draw = c->shuffle,
                                     .seed = job->recipe->seed};
    pare_model *model = g->subject.model;
    g->data = pare__complete_data(&asked, model);
    PARE_TRY(pare_dataset_open(&g->data, &g->dataset));
    PARE_REQUIRE(pare_dataset_labelled(g->dataset), PARE_ERR_ARGUMENT,
                 "%s has no labels, and gradients are those of a loss: give the labels of the "
                 "calibration data, or prune by a method without gradients",
                 c->path);
    int64_t batch = g->by_sample ? 1 : pare__default_batch(c->batch, model, g->dataset);
    int64_t samples = pare_dataset_count(g->dataset);
    g->shape = (pare_model_shape){.batch = batch < samples ? batch : samples,
                                  .length = pare_dataset_length(g->dataset),
                                  .training = true,
                                  .frozen_norms = true,
                                  .compute = c->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    return pare_eval_check(&(pare_eval_options){.model = model,
                                                .dataset = g->dataset,
                                                .batch = g->shape.batch,
                                                .metrics = PARE_METRIC_LOSS});
}

/* Which parameter each task is; only these get gradients. */
static pare_status choose_params(pare__job *job, pare__gradients *g)
{
    pare_model *model = g->subject.model;
    PARE_TRY(pare__calloc((size_t)job->count, sizeof *g->param, &g->param));
    for (int64_t t = 0; t < job->count; t++)
        g->param[t] = -1;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        pare_param *p = pare_model_param(model, i);
        int64_t t = pare_store_find(job->store, p->name);
        bool wanted = t >= 0 && pare__wants_gradient(&job->tasks[t]) && !p->buffer;
        p->frozen = !wanted;
        if (wanted)
            g->param[t] = i;
    }
    for (int64_t t = 0; t < job->count; t++)
        PARE_REQUIRE(!pare__wants_gradient(&job->tasks[t]) || g->param[t] >= 0, PARE_ERR_ARGUMENT,
                     "%s has no gradient: it is no weight of the model (%s); leave it alone with "
                     "--exclude '%s'",
                     job->tasks[t].out.name, pare_model_facts_of(model)->family,
                     job->tasks[t].out.name);
    return PARE_OK;
}

pare_status pare__gradients_open(pare__job *job)
{
    const pare_recipe *recipe = job->recipe;
    const pare_prune_method *method = NULL;
    for (int64_t t = 0; t < job->count; t++) {
        if (!pare__wants_gradient(&job->tasks[t]))
            continue;
        const pare_prune_method *own = job->tasks[t].prune->method;
        PARE_REQUIRE(!method || method->by_sample == own->by_sample, PARE_ERR_ARGUMENT,
                     "%s and %s in one step: one goes by gradients of batches, the other of single "
                     "samples; make them two steps",
                     method->name, own->name);
        method = own;
    }
    if (!method)
        return PARE_OK;
    PARE_REQUIRE(recipe->step_count == 1 && recipe->steps[0].calibration.path, PARE_ERR_ARGUMENT,
                 "%s prunes by gradients: give calibration data", method->name);
    pare__gradients *g;
    PARE_TRY(pare__calloc(1, sizeof *g, &g));
    job->gradients = g;
    g->calibration = &recipe->steps[0].calibration;
    g->by_sample = method->by_sample;
    g->choice = (pare_model_choice){.checkpoint = recipe->model, .arch = recipe->arch};
    if (recipe->output)
        PARE_TRY(pare__beside(recipe, ".grads.h5", &g->path));
    PARE_TRY(pare__subject_open(&g->choice, &g->subject));
    PARE_TRY(choose_params(job, g));
    PARE_TRY(open_data(job, g));
    return PARE_OK;
}

void pare__gradients_free(pare__job *job)
{
    pare__gradients *g = job->gradients;
    pare_store_close(&job->grads);
    if (!g)
        return;
    job->gradients = NULL;
    pare_dataset_close(&g->dataset);
    pare__subject_close(&g->subject);
    free(g->param);
    free(g->path);
    free(g);
}

void pare__gradients_way(const pare__job *job, pare__text *text)
{
    const pare__gradients *g = job->gradients;
    const char *isa = job->options->isa;
    uint64_t digest[2];
    char hex[33];
    if (!g)
        return;
    for (const char *const *i = pare_cpu_isas(); !isa && *i; i++)
        isa = pare_cpu_has_isa(*i) ? *i : NULL;
    pare_dataset_digest(g->dataset, digest);
    pare__hex128(digest, hex);
    pare__text_add(text, "gradients: %d threads, %s, %s, batch %lld, data %s\n",
                   job->options->threads ? job->options->threads : pare_cpu_count(),
                   isa ? isa : "?", job->device.name, (long long)g->shape.batch, hex);
}

/* ---- what it takes --------------------------------------------------------------------------- */

static void measure(pare__gradients *g)
{
    const pare_loss *loss = &pare_loss_cross_entropy;
    g->scratch_bytes = loss->scratch(NULL, g->subject.model, &g->shape);
    g->results_bytes = g->bench.device.cuda ? loss->results(NULL, g->subject.model, &g->shape) : 0;
}

static pare_status predict(pare__gradients *g, pare__need *need)
{
    char hint[96];
    int64_t batch = g->shape.batch;
    PARE_TRY(pare_model_predict(g->subject.model, &g->shape, &need->model));
    measure(g);
    need->model.masks = 0;
    need->beside = (pare_footprint){
        .backend = g->scratch_bytes + need->model.grads,
        .host = g->results_bytes + AHEAD * pare_batch_bytes(g->dataset, batch) + WRITING_BYTES};
    if (batch > 1)
        snprintf(hint, sizeof hint, "gradients of the whole model; a batch below %lld needs less",
                 (long long)batch);
    else
        snprintf(hint, sizeof hint, "gradients of the whole model, one sample at a time");
    PARE_TRY(pare__need_check(&g->bench, need, hint));
    int64_t batches = (pare_dataset_count(g->dataset) + batch - 1) / batch;
    double rate = pare__product_rate(g->bench.be, g->shape.compute);
    g->seconds = rate > 0 ? 1.7 * 3 * need->model.flops * (double)batches / rate : -1;
    return PARE_OK;
}

pare_status pare__gradients_predict(pare__job *job)
{
    pare__gradients *g = job->gradients;
    pare__need need = {0};
    if (!g)
        return PARE_OK;
    PARE_TRY(pare__bench_open(job->options, &g->bench));
    pare_status status = predict(g, &need);
    pare__bench_close(&g->bench);
    if (status != PARE_OK) {
        pare__trail(__func__);
        return status;
    }
    if (need.peak + job->context > job->peak.host)
        job->peak.host = need.peak + job->context;
    if (need.device_peak > job->peak.device)
        job->peak.device = need.device_peak;
    return PARE_OK;
}

double pare__gradients_seconds(const pare__job *job)
{
    return job->gradients ? job->gradients->seconds : 0;
}

/* ---- computing ------------------------------------------------------------------------------- */

static pare_status add_batch(void *user, int64_t index, const pare_batch *batch)
{
    pare__gradients *g = user;
    pare_model *model = g->subject.model;
    pare_loss_args loss = {.model = model,
                           .batch = batch,
                           .be = g->bench.be,
                           .grad_scale = 1,
                           .first = true,
                           .training = true,
                           .scratch = g->scratch,
                           .results = g->results,
                           .scratch_size = g->scratch_bytes};
    PARE_TRY(pare_model_clear_grads(model));
    PARE_TRY(pare_model_forward(model, batch, true, NULL));
    PARE_TRY(pare_loss_cross_entropy.run(&loss));
    PARE_REQUIRE(isfinite(loss.loss), PARE_ERR_NUMERIC,
                 "the loss is NaN or infinite from calibration sample %lld on: no gradients come "
                 "of it",
                 (long long)(index * g->shape.batch));
    PARE_TRY(pare_model_backward(model));
    return pare_square_add(g->bench.be,
                           &(pare_square_add_args){.x = pare_model_grad_arena(model), .y = g->sum});
}

static pare_status run_model(pare__gradients *g)
{
    pare_model *model = g->subject.model;
    PARE_TRY(pare_model_prepare(model, g->bench.be, &g->shape));
    PARE_TRY(pare_model_load(model, g->subject.store, false));
    measure(g);
    PARE_TRY(pare_backend_alloc(g->bench.be, g->scratch_bytes, &g->scratch));
    PARE_TRY(pare_backend_host_alloc(g->bench.be, g->results_bytes, &g->results));
    g->sum = pare_model_grad_arena(model);
    g->sum.data = NULL;
    PARE_TRY(pare_backend_alloc(g->bench.be, pare_tensor_count(&g->sum) * 4, &g->sum.data));
    PARE_TRY(pare_backend_clear(g->bench.be, g->sum.data, pare_tensor_count(&g->sum) * 4));
    const pare_feed_options feed = {.dataset = g->dataset,
                                    .batch = g->shape.batch,
                                    .last = pare_dataset_count(g->dataset),
                                    .ahead = AHEAD};
    PARE_TRY(pare_feed_run(g->bench.sched, "gradients", &feed, add_batch, g));
    return PARE_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* What is kept of a parameter: the place of its gradient in the sum. */
static pare_tensor kept(const pare__gradients *g, int64_t param)
{
    pare_tensor grad = pare_model_param(g->subject.model, param)->grad;
    grad.data = (char *)g->sum.data +
                ((char *)grad.data - (char *)pare_model_grad_arena(g->subject.model).data);
    return grad;
}

static pare_status check_rows(const char *name, float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        PARE_REQUIRE(isfinite(values[i]), PARE_ERR_NUMERIC,
                     "the gradient of %s is NaN or infinite: try compute f32, or other data", name);
        values[i] = sqrtf(values[i]);
    }
    return PARE_OK;
}

static pare_status write_entry(const pare__gradients *g, pare_writer *writer,
                               const pare_entry *entry, int64_t index, int64_t param)
{
    pare_status status = PARE_OK;
    pare_backend *host = pare_backend_host(g->bench.be);
    const pare_tensor of = kept(g, param);
    int64_t align = pare_entry_align(entry);
    int64_t most = align < entry->rows ? align : entry->rows, bytes = most * entry->cols * 4;
    int64_t scratch = pare_writer_scratch(writer, index, most);
    char *memory = NULL;
    PARE_TRY(pare__pages((size_t)(bytes + scratch), &memory));
    for (int64_t first = 0, rows; first < entry->rows; first += rows) {
        pare_parts parts;
        rows = entry->rows - first < align ? entry->rows - first : align;
        float *values = (float *)(void *)memory;
        PARE_TRY_DONE(pare_model_read_rows_of(g->subject.model, param, &of, first, rows, values));
        PARE_TRY_DONE(check_rows(entry->name, values, rows * entry->cols));
        PARE_TRY_DONE(pare_writer_encode(
            writer, host, index, &(pare_rows){.first = first, .count = rows, .values = values},
            memory + bytes, &parts));
        PARE_TRY_DONE(pare_writer_write(writer, &parts));
        pare_writer_add_sums(writer, index, &parts.sums);
    }
done:
    pare__pages_free(memory, (size_t)(bytes + scratch));
    return status;
}

static pare_status write_file(const pare__job *job, const pare__gradients *g, const char *key)
{
    pare_status status = PARE_OK;
    pare_writer *writer = NULL;
    pare_entry *entries = NULL;
    int64_t count = 0;
    bool good = false;
    PARE_TRY(pare__calloc((size_t)job->count, sizeof *entries, &entries));
    for (int64_t t = 0; t < job->count; t++) {
        const pare_entry *source = pare_store_entry(job->store, t);
        pare_entry *e = &entries[count];
        if (g->param[t] < 0)
            continue;
        *e = (pare_entry){.name = source->name,
                          .dtype = PARE_F32,
                          .rank = source->rank,
                          .rows = source->rows,
                          .cols = source->cols,
                          .piece_rows = pare_piece_rows(PARE_F32, source->cols)};
        memcpy(e->shape, source->shape, sizeof e->shape);
        count++;
    }
    PARE_TRY_DONE(pare_writer_create(&(pare_writer_options){.path = g->path,
                                                            .entries = entries,
                                                            .count = count,
                                                            .provenance = key,
                                                            .overwrite = true},
                                     false, &writer));
    for (int64_t t = 0, i = 0; t < job->count; t++)
        if (g->param[t] >= 0) {
            PARE_TRY_DONE(write_entry(g, writer, &entries[i], i, g->param[t]));
            i++;
        }
    PARE_TRY_DONE(pare_writer_finish(writer));
    good = true;
done:
    pare_writer_free(&writer, !good);
    free(entries);
    return status;
}

/* Opens what is there, if it is this very work's. */
static pare_status take(pare__job *job, const pare__gradients *g, const char *key)
{
    if (!pare__exists(g->path) || pare_store_open(g->path, &job->grads) != PARE_OK)
        return PARE_OK;
    const char *of = pare_store_provenance(job->grads);
    bool ours = of && strcmp(of, key) == 0;
    for (int64_t t = 0; ours && t < job->count; t++)
        if (g->param[t] >= 0) {
            job->tasks[t].grad = pare_store_find(job->grads, job->tasks[t].out.name);
            ours = job->tasks[t].grad >= 0;
        }
    if (!ours)
        pare_store_close(&job->grads);
    return PARE_OK;
}

static pare_status compute(pare__job *job, pare__gradients *g, const char *key)
{
    pare_status status = PARE_OK;
    double begin = pare__now();
    PARE_TRY(pare__bench_open(job->options, &g->bench));
    PARE_TRY_DONE(run_model(g));
    PARE_TRY_DONE(write_file(job, g, key));
    pare__json *phase = pare__json_set_object(job->phases, NULL);
    pare__json_set_string(phase, "name", "gradients");
    pare__json_set_real(phase, "seconds", pare__now() - begin);
done:
    if (g->sum.data)
        pare_backend_release(g->bench.be, g->sum.data, pare_tensor_count(&g->sum) * 4);
    pare_backend_host_release(g->bench.be, g->results, g->results_bytes);
    pare_backend_release(g->bench.be, g->scratch, g->scratch_bytes);
    g->sum.data = g->scratch = g->results = NULL;
    pare_dataset_close(&g->dataset);
    pare__subject_close(&g->subject);
    pare__bench_close(&g->bench);
    return status;
}

pare_status pare__gradients_make(pare__job *job)
{
    pare__gradients *g = job->gradients;
    char key[33];
    if (!g)
        return PARE_OK;
    pare__hex128(job->key, key);
    PARE_TRY(take(job, g, key));
    if (job->grads)
        return PARE_OK;
    PARE_TRY(compute(job, g, key));
    PARE_TRY(take(job, g, key));
    PARE_REQUIRE(job->grads, PARE_ERR_DAMAGED, "%s changed while it was read: run again", g->path);
    return PARE_OK;
}

pare_status pare__gradients_clean(pare__job *job)
{
    if (!job->gradients || !job->gradients->path)
        return PARE_OK;
    pare_store_close(&job->grads);
    return pare__remove_tree(job->gradients->path);
}
