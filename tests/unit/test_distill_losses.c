/* test_distill_losses.c - each loss between a student and a teacher: its value beside sums in f64,
 * its gradients beside differences. */
#include "distill_fixture.h"

#include <math.h>

#define TEACHER_LLAMA DUEL_LLAMA("16", "4", "4", "2", "29")
#define STUDENT_LLAMA DUEL_LLAMA("12", "2", "4", "1", "29")
#define STUDENT_NARROW DUEL_LLAMA("12", "2", "3", "3", "29")
#define TEACHER_BERT DUEL_BERT("BertForSequenceClassification", "16", "4", "2")
#define STUDENT_BERT DUEL_BERT("BertForSequenceClassification", "16", "2", "2")
#define NARROW_BERT DUEL_BERT("BertForSequenceClassification", "12", "2", "2")
#define TEACHER_VIT "vit:patch=4,dim=16,depth=4,heads=2,in=1,size=8,classes=4"
#define STUDENT_VIT "vit:patch=4,dim=8,depth=2,heads=2,in=1,size=8,classes=4"
#define TEACHER_CNN "resnet20-cifar:in=1,size=8,classes=4"
#define STUDENT_CNN "cnn:8-p-12-10,in=1,size=8,classes=4"

static const duel_options tokens = {
    .student_config = STUDENT_LLAMA,
    .teacher_config = TEACHER_LLAMA,
    .data = {.batch = 3, .length = 7, .vocabulary = 29},
};
static const duel_options rows = {
    .student_config = STUDENT_BERT,
    .teacher_config = TEACHER_BERT,
    .data = {.batch = 4, .length = 8, .vocabulary = 32, .rows = true},
};
static const duel_options patches = {
    .student_arch = STUDENT_VIT,
    .teacher_arch = TEACHER_VIT,
    .data = {.batch = 3},
};
static const duel_options images = {
    .student_arch = STUDENT_CNN,
    .teacher_arch = TEACHER_CNN,
    .data = {.batch = 3},
};
static const duel_options vectors = {
    .student_config = DUEL_BERT("BertModel", "16", "2", "2"),
    .teacher_config = DUEL_BERT("BertModel", "16", "3", "4"),
    .data = {.batch = 3, .length = 6, .vocabulary = 32, .rows = true},
};

static duel make(const duel_options *base, const char *losses)
{
    duel_options o = *base;
    o.losses = losses;
    return duel_make(&o);
}

static void check_loss(const duel *d, size_t term, double want)
{
    if (!(fabs(d->losses[term] - want) <= 2e-5 * (1 + fabs(want))))
        fail_msg("%s: %.9g, want %.9g", d->terms[term].loss->name, d->losses[term], want);
}

/* ---- outputs in f64 -------------------------------------------------------------------------- */

/* log softmax(logits/temperature) of a row. */
static void log_probabilities(pare_model *model, int64_t row, double temperature, double *x)
{
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_tensor y = pare_model_output(model);
    int64_t V = facts->classes, D = y.shape[y.rank - 1];
    const float *h = (const float *)y.data + row * D;
    double most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++) {
        x[v] = (double)h[v % D];
        if (facts->output == PARE_OUTPUT_TOKENS) {
            const float *w = (const float *)pare_model_head(model, NULL)->value.data + v * D;
            x[v] = 0;
            for (int64_t c = 0; c < D; c++)
                x[v] += (double)h[c] * (double)w[c];
        }
        x[v] /= temperature;
        most = x[v] > most ? x[v] : most;
    }
    for (int64_t v = 0; v < V; v++)
        sum += exp(x[v] - most);
    for (int64_t v = 0; v < V; v++)
        x[v] -= most + log(sum);
}

static double divergence(const double *p, const double *q, int64_t V, pare_divergence kind)
{
    double sum = 0;
    for (int64_t v = 0; v < V; v++) {
        double m = log((exp(p[v]) + exp(q[v])) / 2);
        if (kind == PARE_DIVERGENCE_FORWARD)
            sum += exp(p[v]) * (p[v] - q[v]);
        if (kind == PARE_DIVERGENCE_REVERSE)
            sum += exp(q[v]) * (q[v] - p[v]);
        if (kind == PARE_DIVERGENCE_JS)
            sum += (exp(p[v]) * (p[v] - m) + exp(q[v]) * (q[v] - m)) / 2;
    }
    return sum;
}

static bool row_counts(const duel *d, int64_t i)
{
    return !d->batch->labels || d->batch->labels[i] >= 0;
}

static double kl_oracle(duel *d, double temperature, pare_divergence kind)
{
    const pare_model_facts *facts = pare_model_facts_of(d->f.model);
    int64_t count = pare_logits_rows(facts, d->batch), V = facts->classes;
    double *p = malloc((size_t)V * 8), *q = malloc((size_t)V * 8), sum = 0;
    for (int64_t i = 0; i < count; i++) {
        log_probabilities(d->teacher, i, temperature, p);
        log_probabilities(d->f.model, i, temperature, q);
        if (row_counts(d, i))
            sum += temperature * temperature * divergence(p, q, V, kind);
    }
    free(p);
    free(q);
    return sum;
}

static void outputs_by_every_divergence_and_temperature(void **state)
{
    (void)state;
    const duel_options *bases[] = {&tokens, &rows, &images};
    for (int i = 0; i < 9; i++) {
        duel_options o = *bases[i / 3];
        double temperature = i % 2 ? 2.5 : 1;
        o.losses = "kl";
        o.distill.divergence = (pare_divergence)(i % 3);
        o.distill.temperature.from = i % 2 ? temperature : 0;
        duel d = duel_make(&o);
        duel_loss(&d);
        check_loss(&d, 0, kl_oracle(&d, temperature, o.distill.divergence));
        duel_check(&d);
        duel_free(&d);
    }
}

static void a_temperature_that_falls(void **state)
{
    (void)state;
    duel_options o = tokens;
    o.losses = "kl:1>0";
    o.distill.temperature = (pare_ramp){.from = 4, .to = 1, .end = 1};
    duel d = duel_make(&o);
    for (d.step = 0; d.step < d.steps; d.step += 3) {
        double temperature = pare_ramp_at(&o.distill.temperature, d.step, d.steps);
        double weight = pare_ramp_at(&d.terms[0].weight, d.step, d.steps);
        double loss = duel_loss(&d);
        check_loss(&d, 0, kl_oracle(&d, temperature, PARE_DIVERGENCE_FORWARD));
        assert_true(fabs(loss - weight * d.losses[0]) < 1e-9);
    }
    duel_free(&d);
}

/* Too many logits for one chunk of rows; chunks without a label that counts are passed over. */
static void a_large_vocabulary_goes_in_chunks(void **state)
{
    (void)state;
    duel_options o = tokens;
    o.student_config = DUEL_LLAMA("12", "1", "2", "1", "70000");
    o.teacher_config = DUEL_LLAMA("8", "1", "2", "1", "70000");
    o.data.batch = 4;
    o.data.length = 60;
    o.losses = "kl";
    duel d = duel_make(&o);
    const pare_model_facts *facts = pare_model_facts_of(d.f.model);
    int64_t chunk = pare_logits_at_once(facts, 240), count;
    assert_int_equal(chunk, 112);
    for (int64_t i = 0; i < chunk + 100; i++)
        ((int32_t *)(uintptr_t)d.batch->labels)[i] = i % 50 == 1 && i > chunk ? 1 : -1;
    duel_step(&d);
    check_loss(&d, 0, kl_oracle(&d, 1, PARE_DIVERGENCE_FORWARD));
    float *gradients = duel_gradients(&d, &count);
    duel_step(&d);
    float *again = duel_gradients(&d, &count);
    assert_memory_equal(gradients, again, (size_t)count * 4);
    duel_check_one(&d, "model.norm.weight");
    free(gradients);
    free(again);
    duel_free(&d);
}

/* Tokens and samples with the label −1 are neither counted nor learned from. */
static void what_does_not_count_is_left_out(void **state)
{
    (void)state;
    const duel_options *bases[] = {&tokens, &rows};
    for (int i = 0; i < 2; i++) {
        duel d = make(bases[i], "kl,hidden,attention,relation");
        int64_t count = pare_logits_rows(pare_model_facts_of(d.f.model), d.batch), left = 0;
        int32_t *labels = (int32_t *)(uintptr_t)d.batch->labels;
        for (int64_t r = 0; r < count; r++) {
            labels[r] = r % 3 == 1 ? -1 : labels[r];
            left += labels[r] >= 0;
        }
        duel_loss(&d);
        assert_int_equal(d.count, left);
        check_loss(&d, 0, kl_oracle(&d, 1, PARE_DIVERGENCE_FORWARD));
        duel_check(&d);
        duel_free(&d);
    }
}

/* ---- hidden states in f64 -------------------------------------------------------------------- */

/* A value as the loss saw it: taps of the same value are one. */
static pare_tensor seen(pare_model *model, int64_t node, int input)
{
    int64_t tap;
    assert_ok(pare_model_tap(model, node, input, &tap));
    return pare_model_tap_value(model, tap);
}

static bool is_key(const duel *d, int64_t i)
{
    return !d->batch->keys || d->batch->keys[i] != 0;
}

/* The weight of row i of `each` in a sample. */
static double row_weight(const duel *d, int64_t i, int64_t each)
{
    const pare_model_facts *facts = pare_model_facts_of(d->f.model);
    if (facts->output == PARE_OUTPUT_TOKENS)
        return row_counts(d, i);
    if (!facts->tokens)
        return 1 / (double)each;
    int64_t b = i / each, keys = 0;
    for (int64_t t = 0; t < each; t++)
        keys += is_key(d, b * each + t);
    return is_key(d, i) && row_counts(d, b) ? 1 / (double)keys : 0;
}

/* x·Wᵀ, or x. */
static void project(const pare_learned *w, const float *x, int64_t width, int64_t wide, double *y)
{
    for (int64_t c = 0; c < wide; c++) {
        y[c] = w ? 0 : (double)x[c];
        for (int64_t k = 0; w && k < width; k++)
            y[c] += (double)x[k] * (double)((const float *)w->value.data)[c * width + k];
    }
}

static double row_loss(const double *y, const float *t, int64_t n, bool cosine)
{
    double squares = 0, yt = 0, yy = 0, tt = 0;
    for (int64_t c = 0; c < n; c++) {
        double tc = (double)t[c];
        squares += (y[c] - tc) * (y[c] - tc);
        yt += y[c] * tc;
        yy += y[c] * y[c];
        tt += tc * tc;
    }
    return cosine ? 1 - yt / sqrt(yy * tt) : squares / (double)n;
}

static double states_oracle(duel *d, pare_tensor x, pare_tensor t, const pare_learned *w,
                            bool cosine)
{
    int64_t width = x.shape[x.rank - 1], wide = t.shape[t.rank - 1];
    int64_t count = pare_tensor_count(&x) / width, each = count / d->batch->size;
    double *y = malloc((size_t)wide * 8), sum = 0;
    for (int64_t i = 0; i < count; i++) {
        project(w, (const float *)x.data + i * width, width, wide, y);
        sum += row_weight(d, i, each) * row_loss(y, (const float *)t.data + i * wide, wide, cosine);
    }
    free(y);
    return sum;
}

static double hidden_oracle(duel *d, pare_layer_map map, bool cosine)
{
    pare_layer_view *near, *far;
    int64_t S, L, used = 0, learned = 0;
    double sum = 0;
    assert_ok(pare_distill_layers(d->f.model, &near, &S));
    assert_ok(pare_distill_layers(d->teacher, &far, &L));
    for (int64_t i = 0; i < S; i++) {
        int64_t j = pare_layer_map_at(map, i, S, L);
        if (j < 0)
            continue;
        bool wide = near[i].width != far[j].width;
        sum +=
            states_oracle(d, seen(d->f.model, near[i].last, -1), seen(d->teacher, far[j].last, -1),
                          wide ? &d->terms[0].learned[learned++] : NULL, cosine);
        used++;
    }
    assert_int_equal(learned, d->terms[0].learned_count);
    free(near);
    free(far);
    return sum / (double)used;
}

static void hidden_states_of_all_kinds_of_models(void **state)
{
    (void)state;
    const duel_options *bases[] = {&tokens, &rows, &patches};
    for (int i = 0; i < 12; i++) {
        duel_options o = *bases[i / 4];
        o.losses = "hidden";
        o.distill.cosine = i % 2;
        o.distill.map = i % 4 < 2 ? PARE_MAP_UNIFORM : PARE_MAP_TOP;
        duel d = duel_make(&o);
        duel_loss(&d);
        check_loss(&d, 0, hidden_oracle(&d, o.distill.map, i % 2));
        duel_check(&d);
        duel_batch(&d, 1, 2);
        duel_loss(&d);
        check_loss(&d, 0, hidden_oracle(&d, o.distill.map, i % 2));
        duel_free(&d);
    }
}

static void feature_maps_of_stages(void **state)
{
    (void)state;
    duel d = make(&images, "feature");
    assert_int_equal(d.terms[0].learned_count, 2);
    duel_loss(&d);
    assert_int_equal(d.count, 3);
    assert_true(d.losses[0] > 0);
    duel_check(&d);
    duel_free(&d);
}

/* Of one network against itself with other values, every stage has a hint and none is projected. */
static void hints_of_the_same_network(void **state)
{
    (void)state;
    duel_options o = images;
    o.student_arch = o.teacher_arch;
    o.losses = "feature";
    duel d = duel_make(&o);
    assert_int_equal(d.terms[0].learned_count, 0);
    duel_loss(&d);
    pare_layer_view *layers;
    int64_t count;
    double sum = 0;
    assert_ok(pare_distill_layers(d.f.model, &layers, &count));
    int64_t stages = 0;
    for (int64_t i = 0; i < count; i++)
        if (i + 1 == count || layers[i].side != layers[i + 1].side) {
            sum += states_oracle(&d, seen(d.f.model, layers[i].last, -1),
                                 seen(d.teacher, layers[i].last, -1), NULL, false);
            stages++;
        }
    check_loss(&d, 0, sum / (double)stages);
    duel_check(&d);
    free(layers);
    duel_free(&d);
}

/* ---- scores in f64 --------------------------------------------------------------------------- */

/* One side of a relation: features of a head of position i. */
typedef struct side {
    pare_tensor a, b;
    int heads, kv_heads;
    bool causal;
} side;

static double score(const side *s, int64_t T, int64_t b, int h, int64_t i, int64_t j)
{
    int64_t wide = s->a.shape[s->a.rank - 1], D = wide / s->heads, narrow = D * s->kv_heads;
    const float *x = (const float *)s->a.data + (b * T + i) * wide + h * D;
    const float *y =
        (const float *)s->b.data + (b * T + j) * narrow + h / (s->heads / s->kv_heads) * D;
    double sum = 0;
    for (int64_t c = 0; c < D; c++)
        sum += (double)x[c] * (double)y[c];
    return sum / sqrt((double)D);
}

/* The loss of a row: of the keys that are seen. */
static double score_row(const duel *d, const side *x, const side *t, int64_t T, int64_t b, int h,
                        int64_t i, bool kl)
{
    double p_sum = 0, q_sum = 0, squares = 0, loss = 0;
    int64_t keys = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t j = 0; j < T; j++) {
            if (!is_key(d, b * T + j) || (x->causal && j > i))
                continue;
            double s = score(x, T, b, h, i, j), r = score(t, T, b, h, i, j);
            if (pass == 0) {
                p_sum += exp(r);
                q_sum += exp(s);
                squares += (s - r) * (s - r);
                keys++;
            } else {
                loss += exp(r) / p_sum * (r - log(p_sum) - s + log(q_sum));
            }
        }
    return kl ? loss : squares / (double)keys;
}

static double scores_oracle(const duel *d, const side *x, const side *t, bool kl)
{
    int64_t B = d->batch->size, T = pare_tensor_count(&x->a) / x->a.shape[x->a.rank - 1] / B;
    bool gives_tokens = pare_model_facts_of(d->f.model)->output == PARE_OUTPUT_TOKENS;
    double all = 0;
    for (int64_t b = 0; b < B; b++) {
        double sum = 0, units = !gives_tokens;
        int64_t seen_rows = 0;
        for (int64_t i = 0; i < T; i++) {
            units += gives_tokens && row_counts(d, b * T + i);
            if (!is_key(d, b * T + i))
                continue;
            seen_rows++;
            for (int h = 0; h < x->heads; h++)
                sum += score_row(d, x, t, T, b, h, i, kl);
        }
        all += units * sum / (double)(x->heads * seen_rows);
    }
    return all;
}

static side side_of(pare_model *model, const pare_layer_view *l, int query, int key)
{
    return (side){.a = seen(model, l->attention, query),
                  .b = seen(model, l->attention, key),
                  .heads = l->heads,
                  .kv_heads = l->kv_heads,
                  .causal = pare_model_node(model, l->attention).causal};
}

static void attention_of_layers(void **state)
{
    (void)state;
    const duel_options *bases[] = {&tokens, &rows, &patches};
    for (int i = 0; i < 6; i++) {
        duel_options o = *bases[i / 2];
        pare_layer_view *near, *far;
        int64_t S, L;
        double sum = 0;
        o.losses = "attention";
        o.distill.probabilities = i % 2;
        duel d = duel_make(&o);
        duel_loss(&d);
        assert_ok(pare_distill_layers(d.f.model, &near, &S));
        assert_ok(pare_distill_layers(d.teacher, &far, &L));
        for (int64_t k = 0; k < S; k++) {
            side x = side_of(d.f.model, &near[k], 0, 1);
            side t = side_of(d.teacher, &far[pare_layer_map_at(PARE_MAP_UNIFORM, k, S, L)], 0, 1);
            sum += scores_oracle(&d, &x, &t, i % 2) / (double)S;
        }
        check_loss(&d, 0, sum);
        duel_check(&d);
        free(near);
        free(far);
        duel_free(&d);
    }
}

/* Heads are cut anew: as many as the teacher's where they divide the student's width. */
static void relations_of_models_with_other_heads_and_widths(void **state)
{
    (void)state;
    static const int heads[][3] = {{4, 4, 4}, {4, 4, 4}, {2, 2, 2}, {1, 1, 1}};
    duel_options bases[] = {tokens, tokens, rows, rows};
    bases[0].distill.relation_layer = 3; /* keys: 4 features beside 8 */
    bases[1].student_config = STUDENT_NARROW;
    bases[3].student_config = NARROW_BERT;
    bases[3].distill.relation_heads = 1;
    bases[3].distill.relation_layer = 1;
    for (int i = 0; i < 4; i++) {
        pare_layer_view *near, *far;
        int64_t S, L;
        double sum = 0;
        bases[i].losses = "relation";
        duel d = duel_make(&bases[i]);
        duel_loss(&d);
        assert_ok(pare_distill_layers(d.f.model, &near, &S));
        assert_ok(pare_distill_layers(d.teacher, &far, &L));
        int64_t layer = bases[i].distill.relation_layer;
        for (int k = 0; k < 3; k++) {
            side x = side_of(d.f.model, &near[S - 1], k, k);
            side t = side_of(d.teacher, &far[layer > 0 ? layer - 1 : L - 1], k, k);
            int64_t a = x.a.shape[x.a.rank - 1], b = t.a.shape[t.a.rank - 1];
            x.heads = x.kv_heads = t.heads = t.kv_heads = heads[i][k];
            while (a % x.heads || b % x.heads)
                x.heads = x.kv_heads = t.heads = t.kv_heads = x.heads - 1;
            sum += scores_oracle(&d, &x, &t, true) / 3;
        }
        check_loss(&d, 0, sum);
        duel_check(&d);
        free(near);
        free(far);
        duel_free(&d);
    }
}

/* ---- embeddings ------------------------------------------------------------------------------ */

static void directions_of_embeddings(void **state)
{
    (void)state;
    duel d = make(&vectors, "cosine");
    duel_loss(&d);
    pare_tensor x = pare_model_output(d.f.model), t = pare_model_output(d.teacher);
    double sum = 0, row[16];
    for (int64_t b = 0; b < 3; b++) {
        project(NULL, (const float *)x.data + b * 16, 16, 16, row);
        sum += row_loss(row, (const float *)t.data + b * 16, 16, true);
    }
    check_loss(&d, 0, sum);
    assert_int_equal(d.count, 3);
    duel_check(&d);
    duel_free(&d);
    d = make(&vectors, "cosine:0.5,hidden:2");
    duel_check(&d);
    duel_free(&d);
}

#define T(name_) cmocka_unit_test(name_)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(outputs_by_every_divergence_and_temperature),
        T(a_temperature_that_falls),
        T(a_large_vocabulary_goes_in_chunks),
        T(what_does_not_count_is_left_out),
        T(hidden_states_of_all_kinds_of_models),
        T(feature_maps_of_stages),
        T(hints_of_the_same_network),
        T(attention_of_layers),
        T(relations_of_models_with_other_heads_and_widths),
        T(directions_of_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
