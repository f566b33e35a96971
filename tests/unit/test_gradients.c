/* test_gradients.c - pruning by gradients, beside a backward pass written out here; what is kept of
 * them when a run is cut; what is refused. */
#include "train_fixture.h"

#include "pare/run.h"

#include "base/file.h"
#include "engine/learn.h"

#include <math.h>
#include <unistd.h>

#ifndef DEVICE /* tests/cudasim has the same on another */
#define DEVICE "cpu"
#endif

enum { IN = FIXTURE_SIDE * FIXTURE_SIDE, HIDDEN = 16, CLASSES = FIXTURE_CLASSES };
enum { SAMPLES = 20, BATCH = 8 };

typedef struct fixture {
    char *folder, *source, *out;
    const char *images;
    pare_run_options options;
    pare_recipe *recipe;
    pare_backend *be;
} fixture;

/* ---- the checkpoint and the recipe ----------------------------------------------------------- */

static char *path_in(const char *folder, const char *name)
{
    char *path = malloc(strlen(folder) + strlen(name) + 2);
    assert_non_null(path);
    sprintf(path, "%s/%s", folder, name);
    return path;
}

static void write_model(const fixture *f, const char *arch)
{
    pare_report *report = NULL;
    pare_train_job job = {.model = {.arch = arch},
                          .data = {.path = f->images, .pad_id = -1, .bos_id = -1},
                          .train = {.optimiser = PARE_SGD,
                                    .curve = {.rate = 0.1, .steps = 3},
                                    .batch = 16,
                                    .decay = 0,
                                    .clip = 0},
                          .output = f->source};
    assert_ok(pare_train(&job, false, &f->options, &report));
    pare_report_free(&report);
}

/* A model's values as an .h5. */
static void write_checkpoint(const fixture *f, pare_model *model)
{
    const pare_model_choice choice = {0};
    const pare__subject subject = {.choice = &choice, .model = model};
    assert_ok(pare__model_write_out(&(pare__model_write){.subject = &subject,
                                                         .be = f->be,
                                                         .output = f->source,
                                                         .recipe = "none",
                                                         .data = "none",
                                                         .sources = "{}",
                                                         .overwrite = true}));
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->folder = test_folder_make();
    f->source = path_in(f->folder, "model.h5");
    f->out = path_in(f->folder, "out.h5");
    f->images = fixture_images(f->folder, 40, true);
    f->options = (pare_run_options){.threads = 2, .device = DEVICE};
    assert_ok(pare_cpu_create(NULL, &f->be));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    pare_recipe_free(&f->recipe);
    pare_backend_free(&f->be);
    test_folder_remove(f->folder);
    free(f->source);
    free(f->out);
    free(f);
    return 0;
}

static void use(fixture *f, const char *method, const char *pattern, double sparsity)
{
    pare_recipe_free(&f->recipe);
    assert_ok(pare_recipe_new(&f->recipe));
    pare_recipe *r = f->recipe;
    r->model = strdup(f->source);
    r->output = strdup(f->out);
    r->steps = calloc(1, sizeof *r->steps);
    r->prunes = calloc(1, sizeof *r->prunes);
    r->step_count = r->prune_count = 1;
    r->steps[0] = (pare_step){
        .kind = PARE_STEP_COMPRESS,
        .prunes = 1,
        .calibration = {
            .path = strdup(f->images), .samples = SAMPLES, .pad_id = -2, .batch = BATCH}};
    r->prunes[0].method = pare_prune_find(method);
    assert_ok(pare_pattern_parse(pattern, &r->prunes[0].pattern));
    r->prunes[0].sparsity = sparsity;
    r->prunes[0].choice.include = calloc(2, sizeof(char *));
    r->prunes[0].choice.include[0] = strdup("layers.0.weight");
    r->prunes[0].choice.include[1] = strdup("head.weight");
    r->prunes[0].choice.includes = 2;
}

static pare_status run(fixture *f)
{
    pare_report *report = NULL;
    pare_status status = pare__stage_run(f->recipe, &f->options, NULL, &report);
    pare_report_free(&report);
    return status;
}

static bool there(const fixture *f, const char *ending)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", f->out, ending);
    return pare__exists(path);
}

static void read_values(const fixture *f, const char *path, const char *name, float *values,
                        int64_t count)
{
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    int64_t i = pare_store_find(store, name);
    assert_true(i >= 0);
    const pare_entry *e = pare_store_entry(store, i);
    assert_int_equal(e->rows * e->cols, count);
    void *scratch = aligned_alloc(64, (size_t)(pare_store_scratch(store, i, e->rows) + 64) & ~63ul);
    assert_ok(pare_store_read_values(store, f->be, i, 0, e->rows, values, scratch));
    free(scratch);
    pare_store_close(&store);
}

/* ---- the same by hand ------------------------------------------------------------------------ */

static float w1[HIDDEN * IN], b1[HIDDEN], w2[CLASSES * HIDDEN], b2[CLASSES];
static double g1[HIDDEN * IN], g2[CLASSES * HIDDEN]; /* Σ of squared gradients of batches */
static double s1[HIDDEN * IN], s2[CLASSES * HIDDEN]; /* gradients of the batch at hand */

static void add_sample(const float *x, int label)
{
    double h[HIDDEN], p[CLASSES], dh[HIDDEN] = {0}, most = -INFINITY, total = 0;
    for (int j = 0; j < HIDDEN; j++) {
        h[j] = (double)b1[j];
        for (int i = 0; i < IN; i++)
            h[j] += (double)w1[j * IN + i] * (double)x[i];
        h[j] = fmax(h[j], 0);
    }
    for (int k = 0; k < CLASSES; k++) {
        p[k] = (double)b2[k];
        for (int j = 0; j < HIDDEN; j++)
            p[k] += (double)w2[k * HIDDEN + j] * h[j];
        most = fmax(most, p[k]);
    }
    for (int k = 0; k < CLASSES; k++)
        total += p[k] = exp(p[k] - most);
    for (int k = 0; k < CLASSES; k++) {
        double d = p[k] / total - (k == label);
        for (int j = 0; j < HIDDEN; j++) {
            s2[k * HIDDEN + j] += d * h[j];
            dh[j] += d * (double)w2[k * HIDDEN + j];
        }
    }
    for (int j = 0; j < HIDDEN; j++)
        for (int i = 0; i < IN; i++)
            s1[j * IN + i] += h[j] > 0 ? dh[j] * (double)x[i] : 0;
}

static void end_batch(void)
{
    for (int i = 0; i < HIDDEN * IN; i++)
        g1[i] += s1[i] * s1[i];
    for (int i = 0; i < CLASSES * HIDDEN; i++)
        g2[i] += s2[i] * s2[i];
    memset(s1, 0, sizeof s1);
    memset(s2, 0, sizeof s2);
}

/* Gradients over the calibration samples, of the checkpoint's values; by sample, or by batches. */
static void backward_by_hand(const fixture *f, bool by_sample)
{
    pare_dataset *dataset;
    pare_batch *batch;
    read_values(f, f->source, "layers.0.weight", w1, HIDDEN * IN);
    read_values(f, f->source, "layers.0.bias", b1, HIDDEN);
    read_values(f, f->source, "head.weight", w2, CLASSES * HIDDEN);
    read_values(f, f->source, "head.bias", b2, CLASSES);
    memset(g1, 0, sizeof g1);
    memset(g2, 0, sizeof g2);
    pare_data_options options = {
        .path = f->images, .pad_id = -1, .bos_id = -1, .scale = 1.0f / 255.0f, .samples = SAMPLES};
    assert_ok(pare_dataset_open(&options, &dataset));
    assert_ok(pare_batch_create(dataset, SAMPLES, &batch));
    assert_ok(pare_dataset_fill(dataset, 0, SAMPLES, batch));
    for (int s = 0; s < SAMPLES; s++) {
        add_sample(batch->images + s * IN, batch->labels[s]);
        if (by_sample || s % BATCH == BATCH - 1 || s == SAMPLES - 1)
            end_batch();
    }
    pare_batch_free(&batch);
    pare_dataset_close(&dataset);
}

static double score1(int i, bool by_sample)
{
    double score = fabs((double)w1[i]) * sqrt(g1[i]);
    return by_sample ? score * score : score;
}

static double score2(int i, bool by_sample)
{
    double score = fabs((double)w2[i]) * sqrt(g2[i]);
    return by_sample ? score * score : score;
}

/* Of the output: how many of both layers went, and that no score that went is above one that
 * stayed by more than f32 can tell. Values that stay are the source's. */
typedef struct outcome {
    int64_t gone1, gone2;
    double most_gone, least_kept;
} outcome;

static void see(outcome *o, double score, bool gone)
{
    if (gone)
        o->most_gone = fmax(o->most_gone, score);
    else
        o->least_kept = fmin(o->least_kept, score);
}

static outcome look(const fixture *f, bool by_sample)
{
    static float v1[HIDDEN * IN], v2[CLASSES * HIDDEN];
    outcome o = {.least_kept = INFINITY};
    read_values(f, f->out, "layers.0.weight", v1, HIDDEN * IN);
    read_values(f, f->out, "head.weight", v2, CLASSES * HIDDEN);
    for (int i = 0; i < HIDDEN * IN; i++) {
        assert_true(v1[i] == 0 || v1[i] == w1[i]);
        o.gone1 += v1[i] == 0;
        see(&o, score1(i, by_sample), v1[i] == 0);
    }
    for (int i = 0; i < CLASSES * HIDDEN; i++) {
        assert_true(v2[i] == 0 || v2[i] == w2[i]);
        o.gone2 += v2[i] == 0;
        see(&o, score2(i, by_sample), v2[i] == 0);
    }
    return o;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void one_threshold_over_all_layers(void **state)
{
    fixture *f = *state;
    write_model(f, "mlp:64-16-4");
    for (int by_sample = 0; by_sample < 2; by_sample++) {
        use(f, by_sample ? "fisher" : "taylor", "unstructured", 0.4);
        f->options.overwrite = true;
        assert_ok(run(f));
        backward_by_hand(f, by_sample);
        outcome o = look(f, by_sample);
        assert_int_equal(o.gone1 + o.gone2, (int64_t)rint(0.4 * (HIDDEN * IN + CLASSES * HIDDEN)));
        assert_true(o.most_gone <= o.least_kept * (1 + 1e-4));
        assert_false(there(f, ".grads.h5"));
        assert_false(there(f, ".journal"));
    }
}

static void every_layer_loses_the_same_share(void **state)
{
    fixture *f = *state;
    write_model(f, "mlp:64-16-4");
    use(f, "taylor", "unstructured", 0.25);
    f->recipe->prunes[0].scope = PARE_SCOPE_LAYER;
    assert_ok(run(f));
    backward_by_hand(f, false);
    outcome o = look(f, false);
    assert_int_equal(o.gone1, HIDDEN * IN / 4);
    assert_int_equal(o.gone2, CLASSES * HIDDEN / 4);
}

static void two_of_four_go_by_their_scores(void **state)
{
    fixture *f = *state;
    static float v[HIDDEN * IN];
    write_model(f, "mlp:64-16-4");
    use(f, "taylor", "2:4", 0);
    assert_ok(run(f));
    backward_by_hand(f, false);
    read_values(f, f->out, "layers.0.weight", v, HIDDEN * IN);
    for (int i = 0; i < HIDDEN * IN; i += 4) {
        outcome o = {.least_kept = INFINITY};
        int gone = 0;
        for (int k = i; k < i + 4; k++) {
            see(&o, score1(k, false), v[k] == 0);
            gone += v[k] == 0;
        }
        assert_int_equal(gone, 2);
        assert_true(o.most_gone <= o.least_kept * (1 + 1e-4) + 1e-9);
    }
}

static void blocks_go_by_the_sum_of_their_scores(void **state)
{
    fixture *f = *state;
    static float v[HIDDEN * IN];
    outcome o = {.least_kept = INFINITY};
    write_model(f, "mlp:64-16-4");
    use(f, "fisher", "block:4x8", 0.5);
    f->recipe->prunes[0].scope = PARE_SCOPE_LAYER;
    assert_ok(run(f));
    backward_by_hand(f, true);
    read_values(f, f->out, "layers.0.weight", v, HIDDEN * IN);
    for (int r = 0; r < HIDDEN; r += 4)
        for (int c = 0; c < IN; c += 8) {
            double sum = 0;
            int gone = 0;
            for (int i = 0; i < 32; i++) {
                int at = (r + i / 8) * IN + c + i % 8;
                sum += score1(at, true);
                gone += v[at] == 0;
            }
            assert_true(gone == 0 || gone == 32);
            see(&o, sum, gone > 0);
            o.gone1 += gone;
        }
    assert_int_equal(o.gone1, HIDDEN * IN / 2);
    assert_true(o.most_gone <= o.least_kept * (1 + 1e-4));
}

/* √Σ g² of a parameter over the batches of the run, as the model gives them. */
static float *gradients_of(const fixture *f, const pare_data_options *data, const char *name,
                           int64_t *count)
{
    pare_store *store;
    pare_model *model;
    pare_dataset *dataset;
    pare_batch *batch;
    assert_ok(pare_store_open(f->source, &store));
    assert_ok(pare_model_create(&(pare_model_options){.store = store}, &model));
    assert_ok(pare_dataset_open(data, &dataset));
    assert_ok(pare_batch_create(dataset, BATCH, &batch));
    const pare_model_shape shape = {.batch = BATCH,
                                    .length = pare_dataset_length(dataset),
                                    .training = true,
                                    .frozen_norms = true,
                                    .compute = PARE_F32};
    assert_ok(pare_model_prepare(model, f->be, &shape));
    assert_ok(pare_model_load(model, store, false));
    pare_param *p = fixture_param(model, name);
    *count = pare_tensor_count(&p->value);
    float *root = calloc((size_t)*count, 4);
    int64_t bytes = pare_loss_cross_entropy.scratch(NULL, model, &shape);
    void *scratch = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    for (int64_t first = 0; first < SAMPLES; first += BATCH) {
        int64_t size = SAMPLES - first < BATCH ? SAMPLES - first : BATCH;
        assert_ok(pare_model_clear_grads(model));
        assert_ok(pare_dataset_fill(dataset, first, size, batch));
        assert_ok(pare_model_forward(model, batch, true, NULL));
        assert_ok(pare_loss_cross_entropy.run(&(pare_loss_args){.model = model,
                                                                .batch = batch,
                                                                .be = f->be,
                                                                .grad_scale = 1,
                                                                .first = true,
                                                                .training = true,
                                                                .scratch = scratch,
                                                                .scratch_size = bytes}));
        assert_ok(pare_model_backward(model));
        for (int64_t i = 0; i < *count; i++)
            root[i] += ((float *)p->grad.data)[i] * ((float *)p->grad.data)[i];
    }
    for (int64_t i = 0; i < *count; i++)
        root[i] = sqrtf(root[i]);
    free(scratch);
    pare_batch_free(&batch);
    pare_dataset_close(&dataset);
    pare_model_free(&model);
    pare_store_close(&store);
    return root;
}

/* The output's weights of least |w·grad| are gone, half of them. The gradient has `rows` rows of
 * another axis than the checkpoint (0: the same). */
static void check_half(const fixture *f, const char *name, const float *grad, int64_t count,
                       int64_t rows)
{
    int64_t gone = 0;
    double most_gone = -1, least_kept = INFINITY;
    float *w = malloc((size_t)count * 4), *v = malloc((size_t)count * 4);
    read_values(f, f->source, name, w, count);
    read_values(f, f->out, name, v, count);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = rows ? i % rows * (count / rows) + i / rows : i;
        double score = fabs((double)(w[i] * grad[at]));
        gone += v[i] == 0;
        if (v[i] == 0)
            most_gone = fmax(most_gone, score);
        else
            least_kept = fmin(least_kept, score);
    }
    assert_int_equal(gone, count / 2);
    assert_true(most_gone <= least_kept * (1 + 1e-4));
    free(v);
    free(w);
}

static void use_one(fixture *f, const char *name)
{
    use(f, "taylor", "unstructured", 0.5);
    pare_prune_step *step = &f->recipe->prunes[0];
    free(step->choice.include[0]);
    free(step->choice.include[1]);
    step->choice.include[0] = strdup(name);
    step->choice.includes = 1;
    f->options.threads = 1; /* as the backend here */
}

/* Of the model as it is used: with batch norms' running statistics. */
static void convolutions_have_gradients_too(void **state)
{
    fixture *f = *state;
    int64_t count;
    const pare_data_options data = {
        .path = f->images, .pad_id = -1, .bos_id = -1, .scale = 1.0f / 255.0f, .samples = SAMPLES};
    write_model(f, "cnn:4-8,classes=4,size=8,in=1");
    use_one(f, "conv2.weight");
    assert_ok(run(f));
    float *grad = gradients_of(f, &data, "conv2.weight", &count);
    check_half(f, "conv2.weight", grad, count, 0);
    free(grad);
}

/* A decoder's loss is that of its next tokens; this one keeps its weights [in, out]. */
static void decoders_learn_from_their_next_tokens(void **state)
{
    fixture *f = *state;
    int64_t count;
    static const char gpt2[] = "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, "
                               "\"n_layer\": 1, \"n_positions\": 8, \"vocab_size\": 9}";
    train_fixture h = fixture_make(&(train_fixture_options){
        .config = gpt2, .length = 8, .vocabulary = 9, .batch = 8, .inference = true});
    write_checkpoint(f, h.model);
    const char *tokens = fixture_tokens(f->folder, SAMPLES * 8 + 1, 9);
    const pare_data_options data = {.path = tokens,
                                    .tokens = true,
                                    .seq_len = 8,
                                    .vocabulary = 9,
                                    .pad_id = -1,
                                    .bos_id = -1,
                                    .samples = SAMPLES};
    use_one(f, "*mlp.c_fc.weight");
    free(f->recipe->steps[0].calibration.path);
    f->recipe->steps[0].calibration.path = strdup(tokens);
    f->recipe->steps[0].calibration.seq_len = 8;
    assert_ok(run(f));
    const char *name = NULL;
    for (int64_t i = 0; i < pare_model_param_count(h.model); i++)
        if (strstr(pare_model_param(h.model, i)->name, "mlp.c_fc.weight"))
            name = pare_model_param(h.model, i)->name;
    assert_non_null(name);
    assert_true(fixture_param(h.model, name)->transposed);
    float *grad = gradients_of(f, &data, name, &count);
    check_half(f, name, grad, count, 48);
    free(grad);
    fixture_free(&h);
}

/* ---- a run that is cut ----------------------------------------------------------------------- */

static volatile int stop;

static void stop_in_selection(void *user, const char *phase, double done, double total)
{
    (void)user, (void)done, (void)total;
    if (strcmp(phase, "verify") != 0 && strcmp(phase, "gradients") != 0)
        stop = 1;
}

static char *load(const char *path, int64_t *size)
{
    char *bytes;
    assert_ok(pare__file_load(path, 1 << 24, &bytes, size));
    return bytes;
}

static void a_cut_run_takes_its_gradients_again(void **state)
{
    fixture *f = *state;
    int64_t size[2];
    write_model(f, "mlp:64-16-4");
    use(f, "taylor", "unstructured", 0.4);
    assert_ok(run(f));
    char *whole = load(f->out, &size[0]);
    assert_int_equal(remove(f->out), 0);
    stop = 0;
    f->options.cancel = &stop;
    f->options.progress.update = stop_in_selection;
    assert_status(run(f), PARE_ERR_INTERRUPTED);
    assert_true(there(f, ".grads.h5"));
    char *grads = path_in(f->folder, "out.h5.grads.h5"), *copy = path_in(f->folder, "copy.h5");
    assert_int_equal(link(grads, copy), 0); /* the same file is still there afterwards */
    f->options.cancel = NULL;
    f->options.progress.update = NULL;
    assert_ok(run(f));
    assert_false(there(f, ".grads.h5"));
    char *again = load(f->out, &size[1]);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(whole, again, (size_t)size[0]);
    /* Gradients of another work are not taken. */
    assert_int_equal(remove(f->out), 0);
    assert_int_equal(rename(copy, grads), 0);
    use(f, "fisher", "unstructured", 0.4);
    assert_ok(run(f));
    backward_by_hand(f, true);
    outcome o = look(f, true);
    assert_true(o.most_gone <= o.least_kept * (1 + 1e-4));
    free(copy);
    free(grads);
    free(again);
    free(whole);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void a_budget_that_cannot_hold_the_model_says_what_it_needs(void **state)
{
    fixture *f = *state;
    pare_report *report = NULL;
    write_model(f, "mlp:64-4096-4096-4");
    use(f, "taylor", "unstructured", 0.4);
    f->options.device = "cpu";
    f->options.memory =
        pare_memory_now() + ((int64_t)60 << 20); /* holds the tensors, not the model */
    assert_status(pare__stage_plan(f->recipe, &f->options, NULL, &report), PARE_ERR_MEMORY);
    assert_non_null(strstr(pare_last_error(), "gradients of the whole model"));
    assert_non_null(strstr(pare_last_error(), "it needs"));
    assert_status(run(f), PARE_ERR_MEMORY);
    assert_false(there(f, ".grads.h5"));
}

static void gradients_want_data_and_labels(void **state)
{
    fixture *f = *state;
    write_model(f, "mlp:64-16-4");
    use(f, "taylor", "unstructured", 0.4);
    free(f->recipe->steps[0].calibration.path);
    f->recipe->steps[0].calibration.path = NULL;
    assert_status(run(f), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "calibration"));
    f->recipe->steps[0].calibration.path = strdup(fixture_images(f->folder, 40, false));
    assert_status(run(f), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "labels"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(one_threshold_over_all_layers),
        TEST(every_layer_loses_the_same_share),
        TEST(two_of_four_go_by_their_scores),
        TEST(blocks_go_by_the_sum_of_their_scores),
        TEST(convolutions_have_gradients_too),
        TEST(decoders_learn_from_their_next_tokens),
        TEST(a_cut_run_takes_its_gradients_again),
        TEST(a_budget_that_cannot_hold_the_model_says_what_it_needs),
        TEST(gradients_want_data_and_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
