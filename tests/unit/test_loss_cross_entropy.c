/* test_loss_cross_entropy.c - loss, counts and every gradient beside sums in f64: of classes, and
 * of tokens through the head, whole and in chunks. */
#include "train_fixture.h"

#include "base/half.h"
#include "train/train_impl.h"

#include <math.h>

#define LLAMA(vocabulary, tied)                                                                    \
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], "                      \
    "\"vocab_size\": " vocabulary                                                                  \
    ", \"hidden_size\": 8, \"intermediate_size\": 16, \"num_hidden_layers\": 1, "                  \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, "             \
    "\"max_position_embeddings\": 512, \"hidden_act\": \"silu\", \"tie_word_embeddings\": " tied   \
    "}"

/* What a run of the loss gave and what it should have. */
typedef struct outcome {
    pare_loss_args args;
    double loss;
    int64_t count, top1, top5;
    double *dlogits; /* [rows, V] */
} outcome;

static double value_at(const pare_tensor *t, int64_t i)
{
    return t->dtype == PARE_BF16 ? (double)pare__bf16_to_f32(((const uint16_t *)t->data)[i])
                                 : (double)((const float *)t->data)[i];
}

/* Loss and d logits of one row in f64, by the definition. */
static double row_oracle(const double *x, int64_t V, int label, int label2, double mix,
                         double smoothing, double *d)
{
    double top = x[0], sum = 0, loss = 0;
    for (int64_t v = 1; v < V; v++)
        top = x[v] > top ? x[v] : top;
    for (int64_t v = 0; v < V; v++)
        sum += exp(x[v] - top);
    for (int64_t v = 0; v < V; v++) {
        double target = mix * (v == label) + (1 - mix) * (v == label2), log_p = x[v] - top;
        target = (1 - smoothing) * target + smoothing / (double)V;
        log_p -= log(sum);
        loss -= target * log_p;
        d[v] = exp(log_p) - target;
    }
    return loss;
}

static void row_ranks(outcome *o, const double *x, int64_t V, int label)
{
    int rank = 0;
    for (int64_t v = 0; v < V; v++)
        rank += x[v] > x[label] || (x[v] >= x[label] && v < label);
    o->top1 += rank < 1;
    o->top5 += rank < 5;
}

/* The logits of a row: the output, or output · headᵀ. */
static void row_logits(pare_model *model, int64_t row, double *x)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_tensor out = pare_model_output(model);
    int64_t V = facts->classes, D = out.shape[out.rank - 1];
    if (facts->output != PARE_OUTPUT_TOKENS) {
        for (int64_t v = 0; v < V; v++)
            x[v] = value_at(&out, row * V + v);
        return;
    }
    pare_param *bias = NULL, *head = pare_model_head(model, &bias);
    for (int64_t v = 0; v < V; v++) {
        x[v] = bias ? value_at(&bias->value, v) : 0;
        for (int64_t d = 0; d < D; d++)
            x[v] += value_at(&out, row * D + d) * value_at(&head->value, v * D + d);
    }
}

static void oracle(outcome *o, pare_model *model, const pare_batch *batch, double smoothing)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    int64_t rows = pare_logits_rows(facts, batch), V = facts->classes;
    double *x = malloc((size_t)V * 8);
    o->dlogits = calloc((size_t)(rows * V), 8);
    for (int64_t i = 0; i < rows; i++) {
        if (batch->labels[i] < 0)
            continue;
        row_logits(model, i, x);
        o->count++;
        o->loss +=
            row_oracle(x, V, batch->labels[i], batch->labels2 ? batch->labels2[i] : 0,
                       batch->mix ? (double)batch->mix[i] : 1, smoothing, o->dlogits + i * V);
        row_ranks(o, x, V, batch->labels[i]);
    }
    free(x);
}

/* Forward, the oracle, then the loss itself. */
static outcome run_loss(train_fixture *f, const pare_batch *batch, double smoothing, double scale,
                        bool first, bool training)
{
    outcome o = {0};
    int64_t size = pare_loss_cross_entropy.scratch(NULL, f->model, &f->shape);
    o.args = (pare_loss_args){.model = f->model,
                              .batch = batch,
                              .be = f->be,
                              .grad_scale = scale,
                              .smoothing = smoothing,
                              .first = first,
                              .training = training,
                              .scratch = aligned_alloc(64, ((size_t)size + 63) / 64 * 64),
                              .scratch_size = size};
    if (training)
        assert_ok(pare_model_clear_grads(f->model));
    assert_ok(pare_model_forward(f->model, batch, training, NULL));
    oracle(&o, f->model, batch, smoothing);
    assert_ok(pare_loss_cross_entropy.run(&o.args));
    free(o.args.scratch);
    return o;
}

static void check_sums(const outcome *o, double tolerance)
{
    assert_true(fabs(o->args.loss - o->loss) <= tolerance * (fabs(o->loss) + 1));
    assert_int_equal(o->args.count, o->count);
    assert_int_equal(o->args.top1, o->top1);
    assert_int_equal(o->args.top5, o->top5);
}

static void check_near(const char *what, int64_t i, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
        fail_msg("%s[%lld]: %.9g, want %.9g", what, (long long)i, got, want);
}

/* dX = scale·G·W, dW = scale·Gᵀ·X. */
static void check_head_grads(pare_model *model, const outcome *o, int64_t rows, double scale,
                             double tolerance)
{
    pare_tensor x = pare_model_output(model), dx = pare_model_output_grad(model);
    pare_param *bias = NULL, *head = pare_model_head(model, &bias);
    int64_t V = head->value.shape[0], D = head->value.shape[1];
    for (int64_t i = 0; i < rows * D; i++) {
        double want = 0;
        for (int64_t v = 0; v < V; v++)
            want += scale * o->dlogits[i / D * V + v] * value_at(&head->value, v * D + i % D);
        check_near("dX", i, value_at(&dx, i), want, tolerance);
    }
    for (int64_t i = 0; i < V * D; i++) {
        double want = 0;
        for (int64_t r = 0; r < rows; r++)
            want += scale * o->dlogits[r * V + i / D] * value_at(&x, r * D + i % D);
        check_near("dW", i, value_at(&head->grad, i), want, tolerance);
    }
}

/* ---- classes --------------------------------------------------------------------------------- */

static void check_class_grads(train_fixture *f, const outcome *o, int64_t rows, double scale)
{
    pare_tensor dx = pare_model_output_grad(f->model);
    for (int64_t i = 0; i < rows * FIXTURE_CLASSES; i++)
        check_near("dx", i, value_at(&dx, i), scale * o->dlogits[i], 1e-5);
}

static void classes_have_their_loss_and_gradient(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 16});
    for (int64_t size = 16; size > 0; size -= 11) { /* also a batch smaller than prepared */
        pare_batch *batch = fixture_batch(&f, 3, size);
        outcome o = run_loss(&f, batch, 0, 0.5, true, true);
        assert_int_equal(o.count, size);
        check_sums(&o, 1e-6);
        check_class_grads(&f, &o, size, 0.5);
        free(o.dlogits);
        pare_batch_free(&batch);
    }
    fixture_free(&f);
}

static void smoothing_mixing_and_rows_that_do_not_count(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 16});
    pare_batch *own = fixture_batch(&f, 0, 16);
    int32_t labels[16], labels2[16];
    float mix[16];
    pare_batch batch = *own;
    for (int i = 0; i < 16; i++) {
        labels[i] = i % 5 == 2 ? -1 : own->labels[i];
        labels2[i] = (i * 3) % FIXTURE_CLASSES;
        mix[i] = (float)i / 15;
    }
    batch.labels = labels, batch.labels2 = labels2, batch.mix = mix;
    outcome o = run_loss(&f, &batch, 0.1, 1, true, true);
    assert_int_equal(o.count, 13);
    check_sums(&o, 1e-6);
    check_class_grads(&f, &o, 16, 1);
    free(o.dlogits);
    pare_batch_free(&own);
    fixture_free(&f);
}

static void a_later_loss_adds_to_the_gradient(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 16});
    pare_batch *batch = fixture_batch(&f, 0, 16);
    outcome a = run_loss(&f, batch, 0, 1, true, true);
    outcome b = run_loss(&f, batch, 0, 2, false, true);
    check_class_grads(&f, &b, 16, 3);
    free(a.dlogits);
    free(b.dlogits);
    pare_batch_free(&batch);
    fixture_free(&f);
}

static void without_training_there_is_the_loss_alone(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 16, .inference = true});
    pare_batch *batch = fixture_batch(&f, 0, 16);
    outcome o = run_loss(&f, batch, 0, 1, true, false);
    check_sums(&o, 1e-6);
    free(o.dlogits);
    pare_batch_free(&batch);
    fixture_free(&f);
}

static void a_batch_without_labels_is_refused(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){.batch = 4});
    pare_batch *own = fixture_batch(&f, 0, 4), batch = *own;
    batch.labels = NULL;
    assert_ok(pare_model_forward(f.model, &batch, true, NULL));
    pare_loss_args args = {.model = f.model, .batch = &batch, .be = f.be};
    assert_status(pare_loss_cross_entropy.run(&args), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "labels"));
    batch.labels = own->labels; /* and a scratch that is too small */
    assert_status(pare_loss_cross_entropy.run(&args), PARE_ERR_ARGUMENT);
    pare_batch_free(&own);
    fixture_free(&f);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void check_tokens(const char *config, int vocabulary, int64_t batch_size, int64_t length,
                         pare_dtype compute, double tolerance)
{
    train_fixture f = fixture_make(&(train_fixture_options){.config = config,
                                                            .batch = batch_size,
                                                            .length = length,
                                                            .samples = 4,
                                                            .vocabulary = vocabulary,
                                                            .compute = compute});
    pare_batch *batch = fixture_batch(&f, 0, batch_size);
    outcome o = run_loss(&f, batch, 0, 0.25, true, true);
    assert_int_equal(o.count, batch_size * length);
    check_sums(&o, tolerance);
    check_head_grads(f.model, &o, batch_size * length, 0.25, tolerance);
    free(o.dlogits);
    pare_batch_free(&batch);
    fixture_free(&f);
}

static void tokens_have_their_loss_and_gradients(void **state)
{
    (void)state;
    check_tokens(LLAMA("32", "false"), 32, 3, 7, PARE_F32, 2e-5);
    check_tokens(LLAMA("32", "true"), 32, 3, 7, PARE_F32, 2e-5);
}

static void in_bf16_they_agree_to_its_precision(void **state)
{
    (void)state;
    check_tokens(LLAMA("32", "false"), 32, 3, 7, PARE_BF16, 1e-2);
}

static void a_large_vocabulary_goes_in_chunks(void **state)
{
    (void)state;
    const pare_model_facts facts = {.output = PARE_OUTPUT_TOKENS, .classes = 150000};
    assert_int_equal(pare_logits_at_once(&facts, 120), 48);
    check_tokens(LLAMA("150000", "false"), 32, 2, 60, PARE_F32, 2e-5);
}

static void a_chunk_that_does_not_count_has_no_gradient(void **state)
{
    (void)state;
    train_fixture f = fixture_make(&(train_fixture_options){
        .config = LLAMA("150000", "false"), .batch = 2, .length = 60, .samples = 2});
    pare_batch *own = fixture_batch(&f, 0, 2), batch = *own;
    int32_t labels[120];
    for (int i = 0; i < 120; i++)
        labels[i] = i < 48 || i == 100 ? -1 : own->labels[i];
    batch.labels = labels;
    pare_tensor dx = pare_model_output_grad(f.model);
    memset(dx.data, 0x7f, (size_t)pare_tensor_count(&dx) * 4);
    outcome o = run_loss(&f, &batch, 0, 1, true, true);
    assert_int_equal(o.count, 71);
    check_sums(&o, 1e-5);
    check_head_grads(f.model, &o, 120, 1, 2e-5);
    free(o.dlogits);
    pare_batch_free(&own);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_have_their_loss_and_gradient),
        cmocka_unit_test(smoothing_mixing_and_rows_that_do_not_count),
        cmocka_unit_test(a_later_loss_adds_to_the_gradient),
        cmocka_unit_test(without_training_there_is_the_loss_alone),
        cmocka_unit_test(a_batch_without_labels_is_refused),
        cmocka_unit_test(tokens_have_their_loss_and_gradients),
        cmocka_unit_test(in_bf16_they_agree_to_its_precision),
        cmocka_unit_test(a_large_vocabulary_goes_in_chunks),
        cmocka_unit_test(a_chunk_that_does_not_count_has_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
