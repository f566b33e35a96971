/* run_eval.c - measures a model on data. */
#include "learn.h"
#include "engine/report/report_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"

#include <string.h>

typedef struct evaluation {
    const pare_eval_job *job;
    pare__bench bench;
    pare__subject model, against;
    pare_data_options data;
    pare_dataset *dataset;
    pare_model_shape shape;
    pare_eval_options options;
    pare__need need;
} evaluation;

unsigned pare__default_metrics(const pare_model *model, const pare_dataset *dataset)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    if (facts->output == PARE_OUTPUT_TOKENS)
        return PARE_METRIC_PPL | PARE_METRIC_LOSS;
    if (facts->output == PARE_OUTPUT_CLASSES && pare_dataset_labelled(dataset))
        return PARE_METRIC_TOP1 | PARE_METRIC_LOSS | (facts->classes > 5 ? PARE_METRIC_TOP5 : 0u);
    return 0;
}

static unsigned metrics_of(const evaluation *e)
{
    if (e->job->metrics)
        return e->job->metrics;
    unsigned metrics = pare__default_metrics(e->model.model, e->dataset);
    if (e->against.model)
        metrics |= pare_model_facts_of(e->model.model)->output == PARE_OUTPUT_VECTOR
                       ? PARE_METRIC_COSINE
                       : PARE_METRIC_KLD;
    return metrics;
}

static pare_status open_all(evaluation *e, const pare_run_options *options)
{
    const pare_eval_job *job = e->job;
    PARE_TRY(pare__bench_open(options, &e->bench));
    PARE_TRY(pare__subject_open(&job->model, &e->model));
    if (job->against.checkpoint)
        PARE_TRY(pare__subject_open(&job->against, &e->against));
    PARE_REQUIRE(job->data.path, PARE_ERR_ARGUMENT, "eval needs data to measure on");
    e->data = pare__complete_data(&job->data, e->model.model);
    PARE_TRY(pare_dataset_open(&e->data, &e->dataset));
    e->shape =
        (pare_model_shape){.batch = pare__default_batch(job->batch, e->model.model, e->dataset),
                           .length = pare_dataset_length(e->dataset),
                           .compute = job->compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    e->options = (pare_eval_options){.model = e->model.model,
                                     .against = e->against.model,
                                     .be = e->bench.be,
                                     .dataset = e->dataset,
                                     .batch = e->shape.batch,
                                     .metrics = metrics_of(e),
                                     .progress = options->progress,
                                     .outputs = job->outputs,
                                     .overwrite = options->overwrite};
    PARE_REQUIRE(e->options.metrics || job->outputs, PARE_ERR_ARGUMENT,
                 "nothing to measure: %s gives embeddings, or the data has no labels; name another "
                 "checkpoint to compare with (--against), or a file for the outputs (--outputs)",
                 pare__subject_name(&e->model));
    PARE_TRY(pare_eval_check(&e->options));
    return PARE_OK;
}

static pare_status predict(evaluation *e)
{
    PARE_TRY(pare_model_predict(e->model.model, &e->shape, &e->need.model));
    if (e->against.model)
        PARE_TRY(pare_model_predict(e->against.model, &e->shape, &e->need.against));
    e->need.beside = pare_eval_bytes(&e->options, &e->shape);
    e->need.model.masks = e->need.against.masks = 0; /* what is measured needs none */
    double batches =
        (double)pare_dataset_count(e->dataset) / (double)(e->shape.batch ? e->shape.batch : 1);
    e->need.flops = batches * (e->need.model.flops + e->need.against.flops);
    double rate = pare__product_rate(e->bench.be, e->shape.compute);
    e->need.seconds = rate > 0 ? 1.7 * e->need.flops / rate : -1;
    PARE_TRY(pare__need_check(&e->bench, &e->need, "a smaller --batch needs less"));
    return PARE_OK;
}

static pare_status prepare(evaluation *e, pare__subject *s)
{
    PARE_TRY(pare_model_prepare(s->model, e->bench.be, &e->shape));
    if (s->store)
        PARE_TRY(pare_model_load(s->model, s->store, false));
    else
        PARE_FAIL(PARE_ERR_ARGUMENT, "%s has no values yet: train it first", pare__subject_name(s));
    return PARE_OK;
}

static pare_status fill(evaluation *e, pare_report *report, bool planned,
                        const pare_eval_result *result, double seconds)
{
    pare__json *root = report->root;
    pare__report_subject(root, "model", &e->model);
    pare__report_subject(root, "against", &e->against);
    pare__report_data(root, "data", &e->data, e->dataset);
    pare__json_set_int(root, "batch", e->shape.batch);
    pare__json_set_bool(root, "planned", planned);
    if (e->job->outputs)
        pare__json_set_string(root, "outputs", e->job->outputs);
    if (!planned)
        pare__report_metrics(root, e->options.metrics, result);
    pare__report_need(root, &e->bench, &e->need, e->shape.compute);
    if (planned)
        return PARE_OK;
    pare__json *actual = pare__json_set_object(root, "actual");
    pare__json_set_real(actual, "seconds", seconds);
    pare__json_set_real(actual, "measuring_seconds", result->seconds);
    pare__json_set_real(actual, "samples_per_second",
                        result->seconds > 0 ? (double)result->samples / result->seconds : 0);
    pare__report_taken(actual, &e->bench);
    return PARE_OK;
}

pare_status pare_eval(const pare_eval_job *job, bool plan, const pare_run_options *options,
                      pare_report **report)
{
    pare_status status = PARE_OK;
    evaluation e = {.job = job};
    pare_eval_result result = {0};
    pare_report *r = NULL;
    double begin = pare__now();
    PARE_REQUIRE(job && options && report, PARE_ERR_ARGUMENT, "eval: NULL argument");
    *report = NULL;
    PARE_TRY_DONE(open_all(&e, options));
    PARE_TRY_DONE(predict(&e));
    if (!plan) {
        PARE_TRY_DONE(prepare(&e, &e.model));
        if (e.against.model)
            PARE_TRY_DONE(prepare(&e, &e.against));
        PARE_TRY_DONE(pare_evaluate(e.bench.sched, &e.options, &result));
    }
    PARE_TRY_DONE(pare__report_new("eval", &r));
    PARE_TRY_DONE(fill(&e, r, plan, &result, pare__now() - begin));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    pare_dataset_close(&e.dataset);
    pare__subject_close(&e.against);
    pare__subject_close(&e.model);
    pare__bench_close(&e.bench);
    return status;
}
