/* evaluate.c - a model over a dataset, each sample once: metrics, and outputs to a file. */
#include "measure.h"

#include "pare/array.h"

#include <math.h>
#include <string.h>

typedef struct evaluation {
    const pare_eval_options *options;
    pare__measure measure;
    pare_npy_writer *outputs;
    int64_t total;
    double forward_seconds, begin;
} evaluation;

/* ---- what fits ------------------------------------------------------------------------------- */

static const char *output_name(pare_output output)
{
    static const char *const names[] = {"classes", "next tokens", "embeddings"};
    return names[output];
}

static pare_status check_against(const pare_eval_options *o, const char *what)
{
    PARE_REQUIRE(o->against, PARE_ERR_ARGUMENT,
                 "%s is measured against another model; name it with --against", what);
    const pare_model_facts *a = pare_model_facts_of(o->model);
    const pare_model_facts *b = pare_model_facts_of(o->against);
    PARE_REQUIRE(a->output == b->output, PARE_ERR_ARGUMENT,
                 "%s: the model gives %s, the one it is measured against %s", what,
                 output_name(a->output), output_name(b->output));
    PARE_REQUIRE(a->classes == b->classes, PARE_ERR_ARGUMENT,
                 "%s: the model has %lld %s, the one it is measured against %lld", what,
                 (long long)a->classes,
                 a->output == PARE_OUTPUT_TOKENS    ? "tokens in its vocabulary"
                 : a->output == PARE_OUTPUT_CLASSES ? "classes"
                                                    : "numbers in an embedding",
                 (long long)b->classes);
    bool same = a->tokens == b->tokens && a->vocabulary <= b->vocabulary;
    if (!a->tokens)
        same = same && pare_model_same_pixels(a, b);
    PARE_REQUIRE(
        same, PARE_ERR_ARGUMENT,
        "%s: what the model takes in (sizes, preprocessing, vocabulary) is not what the one it "
        "is measured against takes",
        what);
    return PARE_OK;
}

static pare_status check_metrics(const pare_eval_options *o)
{
    pare_output output = pare_model_facts_of(o->model)->output;
    unsigned metrics = o->metrics;
    PARE_REQUIRE(metrics < 2 * (unsigned)PARE_METRIC_COSINE && (metrics || o->outputs),
                 PARE_ERR_ARGUMENT, "there is nothing to measure: name a metric");
    PARE_REQUIRE(!(metrics & PARE_METRIC_PPL) || output == PARE_OUTPUT_TOKENS, PARE_ERR_ARGUMENT,
                 "ppl is measured of models that predict tokens; this one gives %s",
                 output_name(output));
    if (metrics & PARE__LABEL_METRICS)
        PARE_TRY(pare__labels_fit(o->model, o->dataset,
                                  metrics & PARE_METRIC_PPL    ? "ppl"
                                  : metrics & PARE_METRIC_LOSS ? "loss"
                                  : metrics & PARE_METRIC_TOP1 ? "top1"
                                                               : "top5"));
    if (metrics & PARE_METRIC_KLD) {
        PARE_REQUIRE(output != PARE_OUTPUT_VECTOR, PARE_ERR_ARGUMENT,
                     "kld is measured of classes or tokens; this model gives embeddings: cosine "
                     "compares them");
        PARE_REQUIRE(
            output != PARE_OUTPUT_TOKENS || pare_dataset_classes(o->dataset) == 0,
            PARE_ERR_ARGUMENT,
            "kld of a model of next tokens needs plain tokens; %s has a class for each row",
            pare_dataset_path(o->dataset));
        PARE_TRY(check_against(o, "kld"));
    }
    if (metrics & PARE_METRIC_COSINE) {
        PARE_REQUIRE(output != PARE_OUTPUT_TOKENS, PARE_ERR_ARGUMENT,
                     "cosine is measured of one output a sample; this model predicts tokens: kld "
                     "compares them");
        PARE_TRY(check_against(o, "cosine"));
    }
    PARE_REQUIRE(!o->outputs || output != PARE_OUTPUT_TOKENS, PARE_ERR_ARGUMENT,
                 "outputs are written of models that give one a sample; this one predicts tokens");
    return PARE_OK;
}

pare_status pare_eval_check(const pare_eval_options *options)
{
    PARE_REQUIRE(options->batch >= 1, PARE_ERR_ARGUMENT,
                 "the batch is %lld samples; it takes at least 1", (long long)options->batch);
    PARE_TRY(pare__input_fits(options->model, options->dataset));
    PARE_TRY(check_metrics(options));
    return PARE_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static bool uses_against(const pare_eval_options *o)
{
    return o->metrics & (PARE_METRIC_KLD | PARE_METRIC_COSINE);
}

static bool is_number(const pare__measure *m)
{
    return isfinite(m->nll) && isfinite(m->kld) && isfinite(m->cosine);
}

static pare_status bad_number(const evaluation *e, const pare_batch *batch)
{
    const pare_eval_options *o = e->options;
    char text[256];
    long long sample = (long long)(e->measure.samples - batch->size);
    if (pare_model_first_bad(o->model, batch, text, sizeof text))
        PARE_FAIL(PARE_ERR_NUMERIC,
                  "a metric is NaN or infinite from the batch at sample %lld on; the first bad "
                  "tensor is %s",
                  sample, text);
    if (uses_against(o) && pare_model_first_bad(o->against, batch, text, sizeof text))
        PARE_FAIL(PARE_ERR_NUMERIC,
                  "a metric is NaN or infinite from the batch at sample %lld on; the first bad "
                  "tensor is %s, of the model measured against",
                  sample, text);
    PARE_FAIL(PARE_ERR_NUMERIC,
              "a metric is NaN or infinite from the batch at sample %lld on, although every tensor "
              "is finite: a probability is 0",
              sample);
}

static pare_status work(void *user, int64_t index, const pare_batch *batch)
{
    (void)index;
    evaluation *e = user;
    const pare_eval_options *o = e->options;
    const float *output = NULL;
    double begin = pare__now();
    PARE_TRY(pare_model_forward(o->model, batch, false, NULL));
    if (uses_against(o))
        PARE_TRY(pare_model_forward(o->against, batch, false, NULL));
    PARE_TRY(pare__measure_batch(&e->measure, batch, &output));
    e->forward_seconds += pare__now() - begin;
    if (!is_number(&e->measure))
        PARE_TRY(bad_number(e, batch));
    if (e->outputs)
        PARE_TRY(pare_npy_add(e->outputs, output, batch->size));
    if (o->progress.note) {
        char note[48];
        double seconds = pare__now() - e->begin;
        snprintf(note, sizeof note, "%.0f samples/s",
                 seconds > 0 ? (double)e->measure.samples / seconds : 0);
        o->progress.note(o->progress.user, note);
    }
    return PARE_OK;
}

static pare_status run(evaluation *e, pare_sched *sched)
{
    const pare_eval_options *o = e->options;
    PARE_TRY(pare__measure_create(o, &e->measure));
    if (o->outputs)
        PARE_TRY(pare_npy_create(o->outputs, e->total, e->measure.facts->classes, o->overwrite,
                                 &e->outputs));
    pare_feed_options feed = {
        .dataset = o->dataset, .batch = o->batch, .last = e->total, .ahead = PARE__AHEAD};
    PARE_TRY(pare_feed_run(sched, "evaluate", &feed, work, e));
    PARE_REQUIRE(!(o->metrics & PARE__LOGIT_METRICS) || e->measure.counted > 0, PARE_ERR_ARGUMENT,
                 "%s has no label that counts (all are -1): there is nothing to measure",
                 pare_dataset_path(o->dataset));
    double loss = e->measure.counted > 0 ? e->measure.nll / (double)e->measure.counted : 0;
    PARE_REQUIRE(!(o->metrics & PARE_METRIC_PPL) || isfinite(exp(loss)), PARE_ERR_NUMERIC,
                 "the mean loss is %g: its perplexity is no finite number; measure the loss alone "
                 "(--metric loss)",
                 loss);
    if (e->outputs)
        PARE_TRY(pare_npy_finish(e->outputs));
    return PARE_OK;
}

static void summarise(const evaluation *e, double seconds, pare_eval_result *result)
{
    const pare__measure *m = &e->measure;
    unsigned metrics = e->options->metrics;
    double counted = m->counted > 0 ? (double)m->counted : 1, samples = (double)m->samples;
    *result = (pare_eval_result){.samples = m->samples,
                                 .counted = m->counted,
                                 .loss = m->nll / counted,
                                 .top1 = (double)m->top1 / counted,
                                 .top5 = (double)m->top5 / counted,
                                 .kld = m->kld / counted,
                                 .agreement = (double)m->agreed / counted,
                                 .correct = m->top1,
                                 .seconds = seconds,
                                 .forward_seconds = e->forward_seconds};
    if (metrics & PARE__LABEL_METRICS)
        result->ppl = exp(result->loss);
    if (metrics & PARE_METRIC_COSINE) {
        result->cosine = m->cosine / samples;
        result->cosine_min = m->cosine_min;
    }
}

pare_status pare_evaluate(pare_sched *sched, const pare_eval_options *options,
                          pare_eval_result *result)
{
    evaluation e = {.options = options, .total = pare_dataset_count(options->dataset)};
    e.begin = pare__now();
    PARE_TRY(pare_eval_check(options));
    pare_status status = run(&e, sched);
    if (status == PARE_OK)
        summarise(&e, pare__now() - e.begin, result);
    else
        pare__trail(__func__);
    pare_npy_free(&e.outputs);
    pare__measure_free(&e.measure);
    return status;
}

pare_footprint pare_eval_bytes(const pare_eval_options *options, const pare_model_shape *shape)
{
    pare_footprint bytes = pare__measure_bytes(options, shape);
    bytes.host += PARE__AHEAD * pare_batch_bytes(options->dataset, shape->batch);
    return bytes;
}
