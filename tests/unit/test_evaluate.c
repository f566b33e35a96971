/* test_evaluate.c - every metric beside sums in f64 over the same outputs; what does not fit is
 * refused before the start. */
#include "train_fixture.h"

#include "pare/array.h"

#include "base/file.h"
#include "train/measure.h"

#include <math.h>

#define LLAMA(vocabulary)                                                                          \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], "                      \
    "\"vocab_size\": " vocabulary                                                                  \
    ", \"hidden_size\": 8, \"intermediate_size\": 16, \"num_hidden_layers\": 1, "                  \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, "             \
    "\"max_position_embeddings\": 64, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false}"

/* Two models of one kind with different values, and their data. */
typedef struct pair {
    train_fixture f;
    pare_model *other;
} pair;

static pair make(train_fixture_options options)
{
    pair p;
    options.inference = true;
    p.f = fixture_make(&options);
    p.other = fixture_model(&p.f, &options, 77);
    return p;
}

static void unmake(pair *p)
{
    pare_model_free(&p->other);
    fixture_free(&p->f);
}

static pare_eval_options asked(const pair *p, unsigned metrics)
{
    return (pare_eval_options){.model = p->f.model,
                               .against = p->other,
                               .be = p->f.be,
                               .dataset = p->f.dataset,
                               .batch = p->f.shape.batch,
                               .metrics = metrics};
}

/* All logits of a model over the whole data, f64 [rows, V]; freed by the caller. */
static double *all_logits(const train_fixture *f, pare_model *model, int64_t *rows)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    int64_t count = pare_dataset_count(f->dataset), V = facts->classes, per = 1;
    if (facts->output == PARE_OUTPUT_TOKENS)
        per = pare_dataset_length(f->dataset);
    *rows = count * per;
    double *all = calloc((size_t)(*rows * V), sizeof *all);
    for (int64_t g = 0; g < count; g++) {
        pare_batch *batch = fixture_batch(f, g, 1);
        assert_ok(pare_model_forward(model, batch, false, NULL));
        pare_tensor out = pare_model_output(model);
        const float *x = out.data;
        double *to = all + g * per * V;
        int64_t D = out.shape[out.rank - 1];
        const float *head = NULL;
        pare_param *bias = NULL;
        if (facts->output == PARE_OUTPUT_TOKENS)
            head = pare_model_head(model, &bias)->value.data;
        for (int64_t i = 0; i < per * V; i++) {
            to[i] = head ? 0 : (double)x[i];
            for (int64_t d = 0; head && d < D; d++)
                to[i] += (double)x[i / V * D + d] * (double)head[i % V * D + d];
        }
        pare_batch_free(&batch);
    }
    return all;
}

static int32_t *all_labels(const train_fixture *f, int64_t rows)
{
    int64_t count = pare_dataset_count(f->dataset), per = rows / count;
    int32_t *labels = malloc((size_t)rows * sizeof *labels);
    for (int64_t g = 0; g < count; g++) {
        pare_batch *batch = fixture_batch(f, g, 1);
        memcpy(labels + g * per, batch->labels, (size_t)per * sizeof *labels);
        pare_batch_free(&batch);
    }
    return labels;
}

static double log_sum(const double *x, int64_t V)
{
    double top = x[0], sum = 0;
    for (int64_t v = 1; v < V; v++)
        top = x[v] > top ? x[v] : top;
    for (int64_t v = 0; v < V; v++)
        sum += exp(x[v] - top);
    return top + log(sum);
}

static int64_t largest(const double *x, int64_t V)
{
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
        best = x[v] > x[best] ? v : best;
    return best;
}

static pare_eval_result oracle(const pair *p)
{
    pare_eval_result r = {0};
    int64_t rows, V = pare_model_facts_of(p->f.model)->classes;
    double *x = all_logits(&p->f, p->f.model, &rows), *t = all_logits(&p->f, p->other, &rows);
    int32_t *labels = all_labels(&p->f, rows);
    for (int64_t i = 0; i < rows; i++) {
        const double *a = x + i * V, *b = t + i * V;
        if (labels[i] < 0)
            continue;
        double za = log_sum(a, V), zb = log_sum(b, V), rank = 0;
        for (int64_t v = 0; v < V; v++) {
            r.kld += exp(b[v] - zb) * (b[v] - zb - a[v] + za);
            rank += a[v] > a[labels[i]];
        }
        r.loss += za - a[labels[i]];
        r.top1 += rank < 1;
        r.top5 += rank < 5;
        r.agreement += largest(a, V) == largest(b, V);
        r.counted++;
    }
    double n = (double)r.counted;
    r.samples = pare_dataset_count(p->f.dataset);
    r.correct = (int64_t)r.top1;
    r.loss /= n, r.kld /= n, r.top1 /= n, r.top5 /= n, r.agreement /= n;
    r.ppl = exp(r.loss);
    free(x), free(t), free(labels);
    return r;
}

static void near(const char *what, double got, double want)
{
    if (!(fabs(got - want) <= 2e-6 * (1 + fabs(want))))
        fail_msg("%s: %.12g, want %.12g", what, got, want);
}

static void check_all(const pair *p, unsigned metrics)
{
    pare_eval_result want = oracle(p), got;
    pare_eval_options options = asked(p, metrics);
    for (options.batch = 16; options.batch > 0; options.batch -= 5) { /* 16, 11, 6, 1 */
        assert_ok(pare_evaluate(p->f.sched, &options, &got));
        assert_int_equal(got.samples, want.samples);
        assert_int_equal(got.counted, want.counted);
        assert_int_equal(got.correct, want.correct);
        near("loss", got.loss, want.loss);
        near("top1", got.top1, want.top1);
        near("top5", got.top5, want.top5);
        near("kld", got.kld, want.kld);
        near("agreement", got.agreement, want.agreement);
        near("ppl", got.ppl, want.ppl);
        assert_true(got.seconds >= got.forward_seconds && got.forward_seconds > 0);
    }
}

/* ---- metrics --------------------------------------------------------------------------------- */

#define LABELS (PARE_METRIC_LOSS | PARE_METRIC_TOP1 | PARE_METRIC_TOP5)

static void classes_are_measured(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.arch = "mlp:64-16-9", .samples = 75});
    check_all(&p, LABELS | PARE_METRIC_KLD);
    unmake(&p);
}

static void tokens_are_measured(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.config = LLAMA("40"), .length = 12, .samples = 37});
    check_all(&p, LABELS | PARE_METRIC_PPL | PARE_METRIC_KLD);
    unmake(&p);
}

static void a_large_vocabulary_is_measured_in_chunks(void **state)
{
    (void)state;
    const char *config = LLAMA("150000"); /* 48 rows at once */
    pair p = make(
        (train_fixture_options){.config = config, .length = 20, .samples = 16, .vocabulary = 5000});
    check_all(&p, LABELS | PARE_METRIC_PPL | PARE_METRIC_KLD);
    unmake(&p);
}

static void a_model_does_not_diverge_from_itself(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.config = LLAMA("40"), .length = 12});
    pare_eval_options options = asked(&p, PARE_METRIC_KLD);
    pare_eval_result got;
    options.against = options.model;
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    assert_true(fabs(got.kld) < 1e-9);
    assert_float_equal(got.agreement, 1, 0);
    unmake(&p);
}

static void divergence_needs_no_labels(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.unlabelled = true, .samples = 50});
    pair q = make((train_fixture_options){.samples = 50});
    pare_eval_options options = asked(&p, PARE_METRIC_KLD);
    pare_eval_result got, want = oracle(&q); /* the same images, with labels */
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    assert_int_equal(got.counted, 50);
    near("kld", got.kld, want.kld);
    near("agreement", got.agreement, want.agreement);
    unmake(&p);
    unmake(&q);
}

static void outputs_are_compared_by_their_angle(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.samples = 50});
    int64_t rows, V = FIXTURE_CLASSES;
    double *a = all_logits(&p.f, p.f.model, &rows), *b = all_logits(&p.f, p.other, &rows);
    double sum = 0, least = 2;
    for (int64_t i = 0; i < rows; i++) {
        double aa = 0, bb = 0, ab = 0;
        for (int64_t v = i * V; v < (i + 1) * V; v++)
            aa += a[v] * a[v], bb += b[v] * b[v], ab += a[v] * b[v];
        double c = ab / sqrt(aa * bb);
        sum += c;
        least = c < least ? c : least;
    }
    pare_eval_options options = asked(&p, PARE_METRIC_COSINE);
    pare_eval_result got;
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    near("cosine", got.cosine, sum / (double)rows);
    near("least cosine", got.cosine_min, least);
    options.against = options.model;
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    near("cosine with itself", got.cosine_min, 1);
    free(a), free(b);
    unmake(&p);
}

static void outputs_go_to_a_file(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){.samples = 50, .unlabelled = true});
    pare_eval_options options = asked(&p, 0);
    pare_eval_result got;
    char path[4200];
    int64_t rows;
    snprintf(path, sizeof path, "%s/out.npy", p.f.folder);
    options.outputs = path;
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    assert_int_equal(got.samples, 50);
    double *want = all_logits(&p.f, p.f.model, &rows);
    pare_array *array = NULL;
    float values[50 * FIXTURE_CLASSES];
    assert_ok(pare_array_open(path, NULL, &array));
    assert_int_equal(pare_array_tensor(array)->shape[0], 50);
    assert_int_equal(pare_array_tensor(array)->shape[1], FIXTURE_CLASSES);
    assert_ok(pare_array_read(array, 0, 50 * FIXTURE_CLASSES, values));
    for (int i = 0; i < 50 * FIXTURE_CLASSES; i++)
        near("output", (double)values[i], want[i]);
    pare_array_close(&array);
    assert_status(pare_evaluate(p.f.sched, &options, &got), PARE_ERR_EXISTS);
    options.overwrite = true;
    assert_ok(pare_evaluate(p.f.sched, &options, &got));
    free(want);
    unmake(&p);
}

/* ---- what does not fit ----------------------------------------------------------------------- */

static void refused(const pare_eval_options *options, pare_sched *sched, const char *word)
{
    pare_eval_result got;
    assert_status(pare_evaluate(sched, options, &got), PARE_ERR_ARGUMENT);
    if (!strstr(pare_last_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", pare_last_error(), word);
    assert_status(pare_eval_check(options), PARE_ERR_ARGUMENT);
}

static void metrics_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    pair images = make((train_fixture_options){.unlabelled = true});
    pair tokens = make((train_fixture_options){.config = LLAMA("40"), .length = 12});
    pare_eval_options o = asked(&images, PARE_METRIC_TOP1);
    refused(&o, images.f.sched, "top1 needs labels");
    o.metrics = PARE_METRIC_PPL;
    refused(&o, images.f.sched, "ppl");
    o.metrics = PARE_METRIC_KLD;
    o.against = NULL;
    refused(&o, images.f.sched, "--against");
    o.metrics = PARE_METRIC_COSINE;
    refused(&o, images.f.sched, "--against");
    o.against = tokens.f.model;
    refused(&o, images.f.sched, "next tokens");
    o.metrics = 0;
    refused(&o, images.f.sched, "nothing to measure");
    o.metrics = 1u << 9;
    refused(&o, images.f.sched, "nothing to measure");
    o = asked(&images, PARE_METRIC_KLD);
    o.batch = 0;
    refused(&o, images.f.sched, "batch");
    o = asked(&tokens, PARE_METRIC_COSINE);
    refused(&o, images.f.sched, "kld");
    o.metrics = PARE_METRIC_PPL;
    o.outputs = "/nonexistent/x.npy";
    refused(&o, images.f.sched, "outputs");
    o.outputs = NULL;
    o.dataset = images.f.dataset;
    refused(&o, images.f.sched, "takes tokens");
    pair rows = make((train_fixture_options){.config = LLAMA("40"), .length = 12, .rows = true});
    o = asked(&rows, PARE_METRIC_KLD);
    refused(&o, rows.f.sched, "a class for each row");
    unmake(&rows);
    unmake(&images);
    unmake(&tokens);
}

static void models_that_differ_are_refused(void **state)
{
    (void)state;
    pair a = make((train_fixture_options){0});
    pair b = make((train_fixture_options){.arch = "mlp:64-16-5"});
    pair c = make((train_fixture_options){.config = LLAMA("40"), .length = 12});
    pair d = make((train_fixture_options){.config = LLAMA("41"), .length = 12});
    pair e = make((train_fixture_options){.arch = "mlp:64-16-3"});
    pare_eval_options o = asked(&a, PARE_METRIC_KLD);
    o.against = b.f.model;
    refused(&o, a.f.sched, "4 classes, the one it is measured against 5");
    o = asked(&c, PARE_METRIC_KLD);
    o.against = d.f.model;
    refused(&o, a.f.sched, "40 tokens in its vocabulary");
    o = asked(&e, PARE_METRIC_LOSS);
    refused(&o, a.f.sched, "3 classes");
    unmake(&a), unmake(&b), unmake(&c), unmake(&d), unmake(&e);
}

static void a_nan_is_named(void **state)
{
    (void)state;
    pair p = make((train_fixture_options){0});
    pare_eval_options o = asked(&p, PARE_METRIC_LOSS);
    pare_eval_result got;
    pare_param *first = pare_model_param(p.f.model, 0);
    ((float *)first->value.data)[3] = NAN;
    assert_status(pare_evaluate(p.f.sched, &o, &got), PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), first->name));
    o.metrics = PARE_METRIC_KLD; /* and on the other side */
    o.against = p.f.model;
    o.model = p.other;
    assert_status(pare_evaluate(p.f.sched, &o, &got), PARE_ERR_NUMERIC);
    assert_non_null(strstr(pare_last_error(), "measured against"));
    unmake(&p);
}

static void bytes_are_what_it_takes(void **state)
{
    (void)state;
    const unsigned metrics[] = {PARE_METRIC_LOSS, PARE_METRIC_KLD,
                                PARE_METRIC_PPL | PARE_METRIC_KLD};
    pair p = make((train_fixture_options){.config = LLAMA("40"), .length = 12});
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        pare_eval_options o = asked(&p, metrics[i]);
        pare__measure m;
        assert_ok(pare__measure_create(&o, &m));
        pare_footprint bytes = pare_eval_bytes(&o, &p.f.shape);
        assert_int_equal(bytes.backend, m.arena_bytes);
        assert_int_equal(bytes.host, PARE__AHEAD * pare_batch_bytes(p.f.dataset, o.batch));
        assert_null(m.host);
        pare__measure_free(&m);
    }
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_are_measured),
        cmocka_unit_test(tokens_are_measured),
        cmocka_unit_test(a_large_vocabulary_is_measured_in_chunks),
        cmocka_unit_test(a_model_does_not_diverge_from_itself),
        cmocka_unit_test(divergence_needs_no_labels),
        cmocka_unit_test(outputs_are_compared_by_their_angle),
        cmocka_unit_test(outputs_go_to_a_file),
        cmocka_unit_test(metrics_that_do_not_fit_are_refused),
        cmocka_unit_test(models_that_differ_are_refused),
        cmocka_unit_test(a_nan_is_named),
        cmocka_unit_test(bytes_are_what_it_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
