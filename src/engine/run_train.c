/* run_train.c - trains a model and writes it; its state lies beside the output, so that a run that
 * was cut continues. */
#include "learn.h"
#include "report_impl.h"
#include "train_text.h"

#include "base/clock.h"

#include <string.h>

#define WRITING_BYTES ((int64_t)512 << 10) /* laying out and writing states and the model */
#define MOST_STEPS ((int64_t)1 << 40)
#define MOST_ACCUMULATED ((int64_t)1 << 20)
#define MASK_PIECE 65536   /* bytes of a mask looked at at once */
#define SAVE_SECONDS 300.0 /* between states where no number of steps is asked for */

typedef struct training {
    const pare_train_job *job;
    const pare_run_options *options;
    pare_train_options train; /* with steps and batch decided */
    pare__bench bench;
    pare__subject subject;
    pare_data_options data, eval;
    pare_dataset *dataset, *eval_dataset;
    pare_model_shape shape;
    pare_trainer *trainer;
    pare__need need;
    char *recipe, *state_path, *lock_path, *fingerprint, *sources;
    int lock;        /* descriptor of the file that says that somebody works on this output */
    bool replaces;   /* an output of that name may be replaced */
    char digest[33]; /* of the data */
    double saved_at;
    int64_t began_at; /* step */
    bool resumed;
    unsigned metrics;
    pare_eval_result before, result;
} training;

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status check_output(training *t)
{
    const char *output = t->job->output;
    PARE_REQUIRE(output && *output, PARE_ERR_ARGUMENT, "no output: give -o OUT");
    PARE_REQUIRE(!pare__glob("*.gguf", output), PARE_ERR_ARGUMENT,
                 "%s: GGUF is not in this version; write .safetensors, .h5 or a directory", output);
    PARE_TRY(pare__check_folder(output));
    bool there = pare__exists(output), cut = pare__exists(t->state_path);
    PARE_REQUIRE(t->options->overwrite || !there || cut, PARE_ERR_EXISTS,
                 "%s exists: choose another output, or give --overwrite", output);
    t->replaces = t->options->overwrite || there;
    const char *source = t->job->model.checkpoint;
    PARE_REQUIRE(!source || !there || !pare__same_file(source, output), PARE_ERR_ARGUMENT,
                 "%s is the model itself: a training that is cut would lose it; choose another "
                 "output",
                 output);
    return PARE_OK;
}

static void decide_optimiser(training *t)
{
    pare_train_options *o = &t->train;
    bool tokens = pare_model_facts_of(t->subject.model)->tokens;
    if (o->optimiser == PARE_OPTIMISER_DEFAULT)
        o->optimiser = tokens ? PARE_ADAMW : PARE_SGD;
    bool sgd = o->optimiser == PARE_SGD;
    if (o->curve.rate < 0)
        o->curve.rate = sgd ? 0.1 : 3e-4;
    if (o->decay < 0)
        o->decay = sgd ? 5e-4 : 0.01;
    if (o->clip < 0)
        o->clip = tokens ? 1 : 0;
}

/* Steps from epochs, and the batch, where they are not given. */
static pare_status decide_length(training *t)
{
    pare_train_options *o = &t->train;
    int64_t count = pare_dataset_count(t->dataset);
    o->batch = pare__default_batch(o->batch, t->subject.model, t->dataset);
    o->accumulate = o->accumulate > 0 ? o->accumulate : 1;
    if (o->curve.steps == 0 && t->job->epochs > 0) {
        double steps =
            t->job->epochs * (double)count / ((double)o->batch * (double)o->accumulate) + 0.5;
        o->curve.steps = steps < 1 ? 1 : steps < 1e15 ? (int64_t)steps : 0;
    }
    PARE_REQUIRE(o->curve.steps > 0, PARE_ERR_ARGUMENT,
                 "how long to train: give --epochs or --steps");
    PARE_REQUIRE(
        o->curve.steps <= MOST_STEPS && o->accumulate <= MOST_ACCUMULATED && o->batch <= INT32_MAX,
        PARE_ERR_ARGUMENT, "%lld steps of %lld batches of %lld are more than this version counts",
        (long long)o->curve.steps, (long long)o->accumulate, (long long)o->batch);
    PARE_REQUIRE(o->curve.warmup <= o->curve.steps, PARE_ERR_ARGUMENT,
                 "%lld steps of warm-up do not fit in %lld steps", (long long)o->curve.warmup,
                 (long long)o->curve.steps);
    PARE_REQUIRE(pare_dataset_labelled(t->dataset), PARE_ERR_ARGUMENT,
                 "%s has no labels to learn from: give --labels", t->job->data.path);
    return PARE_OK;
}

static pare_status open_data(training *t)
{
    const pare_train_job *job = t->job;
    uint64_t digest[2];
    PARE_REQUIRE(job->data.path, PARE_ERR_ARGUMENT, "train needs data to learn from");
    t->data = pare__complete_data(&job->data, t->subject.model);
    t->data.seed = job->train.seed;
    PARE_TRY(pare_dataset_open(&t->data, &t->dataset));
    pare_dataset_digest(t->dataset, digest);
    pare__hex128(digest, t->digest);
    if (job->eval.path) {
        t->eval = pare__complete_data(&job->eval, t->subject.model);
        PARE_TRY(pare_dataset_open(&t->eval, &t->eval_dataset));
        t->metrics = pare__default_metrics(t->subject.model, t->eval_dataset);
        PARE_REQUIRE(t->metrics, PARE_ERR_ARGUMENT,
                     "%s has no labels to measure with: give --eval-labels", job->eval.path);
    }
    PARE_TRY(decide_length(t));
    int64_t length = pare_dataset_length(t->dataset);
    if (t->eval_dataset && pare_dataset_length(t->eval_dataset) > length)
        length = pare_dataset_length(t->eval_dataset);
    t->shape = (pare_model_shape){.batch = t->train.batch,
                                  .length = length,
                                  .training = true,
                                  .compute = t->train.compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    t->train.compute = t->shape.compute;
    return PARE_OK;
}

static pare_eval_options eval_options(const training *t)
{
    return (pare_eval_options){.model = t->subject.model,
                               .be = t->bench.be,
                               .dataset = t->eval_dataset,
                               .batch = t->train.batch,
                               .metrics = t->metrics,
                               .progress = t->options->progress};
}

/* What the end will measure must not fail there. */
static pare_status check_eval(const training *t)
{
    if (!t->eval_dataset)
        return PARE_OK;
    pare_eval_options options = eval_options(t);
    return pare_eval_check(&options);
}

static pare_status open_all(training *t)
{
    pare__text path = {0};
    pare__text_add(&path, "%s.train.h5", t->job->output ? t->job->output : "");
    PARE_TRY(pare__text_take(&path, &t->state_path));
    pare__text_add(&path, "%s.lock", t->state_path);
    PARE_TRY(pare__text_take(&path, &t->lock_path));
    PARE_TRY(check_output(t));
    PARE_TRY(pare__bench_open(t->options, &t->bench));
    PARE_TRY(pare__subject_open(&t->job->model, &t->subject));
    decide_optimiser(t);
    PARE_TRY(pare_train_freeze(t->subject.model, &t->train));
    PARE_TRY(open_data(t));
    PARE_TRY(pare__train_recipe(t->job, &t->train, &t->data, &t->recipe));
    PARE_TRY(pare_train_check(&t->train, t->subject.model, t->dataset));
    return check_eval(t);
}

static pare_status predict(training *t)
{
    pare_train_options *o = &t->train;
    char hint[96];
    PARE_TRY(pare_model_predict(t->subject.model, &t->shape, &t->need.model));
    if (!t->subject.store || !t->job->keep_masks)
        t->need.model.masks = 0;
    t->need.beside = pare_train_bytes(o, t->subject.model, t->bench.be, t->dataset, &t->shape);
    t->need.beside.host += WRITING_BYTES;
    t->need.flops = 3 * t->need.model.flops * (double)o->curve.steps * (double)o->accumulate;
    double rate = pare__product_rate(t->bench.be, t->shape.compute);
    t->need.seconds = rate > 0 ? 1.7 * t->need.flops / rate : -1;
    snprintf(hint, sizeof hint, "give a batch below %lld, and --accumulate to make up for it",
             (long long)o->batch);
    PARE_TRY(pare__need_check(&t->bench, &t->need, hint));
    return PARE_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

static pare_status after_step(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    training *t = user;
    char note[160], left[32];
    const pare_progress *progress = &t->options->progress;
    double now = pare__now();
    bool due = t->train.save_every > 0 ? s->step % t->train.save_every == 0
                                       : now - t->saved_at >= SAVE_SECONDS;
    if (progress->note) {
        snprintf(note, sizeof note,
                 "step %lld of %lld, loss %.4f, rate %.3g, %.0f samples/s, %s left",
                 (long long)s->step, (long long)s->steps, s->smooth_loss, s->rate,
                 s->samples_per_second, pare__time_text(s->seconds_left, left, sizeof left));
        progress->note(progress->user, note);
    }
    if (due && s->step < s->steps) {
        PARE_TRY(pare_trainer_save(trainer, t->state_path, t->fingerprint));
        t->saved_at = pare__now();
    }
    return PARE_OK;
}

static pare_status fresh_values(training *t)
{
    pare_trainer_free(&t->trainer);
    if (t->subject.store)
        PARE_TRY(pare_model_load(t->subject.model, t->subject.store, t->job->keep_masks));
    else
        PARE_TRY(pare_model_init(t->subject.model, t->train.seed));
    return pare_trainer_create(&t->train, t->subject.model, t->bench.be, t->dataset, &t->trainer);
}

/* Goes on where a run that was cut stopped. With --overwrite the state of another run, or a damaged
 * one, is dropped. */
static pare_status resume(training *t)
{
    if (!pare__exists(t->state_path))
        return PARE_OK;
    pare_status status = pare_trainer_load(t->trainer, t->state_path, t->fingerprint);
    t->resumed = status == PARE_OK;
    if (t->resumed ||
        !(t->options->overwrite && (status == PARE_ERR_EXISTS || status == PARE_ERR_DAMAGED)))
        return status;
    PARE_TRY(pare__remove_tree(t->state_path));
    return fresh_values(t);
}

static pare_status start(training *t)
{
    PARE_TRY(pare__lock_take(t->lock_path, &t->lock)); /* one at a time works on an output */
    PARE_TRY(pare__source_digests(&t->subject, pare_backend_host(t->bench.be), &t->sources));
    PARE_TRY(
        pare__train_fingerprint(&(pare__identity){.recipe = t->recipe,
                                                  .data = t->digest,
                                                  .sources = t->sources,
                                                  .config = pare_model_config(t->subject.model),
                                                  .threads = t->bench.threads,
                                                  .be = t->bench.be},
                                &t->fingerprint));
    PARE_TRY(pare_model_prepare(t->subject.model, t->bench.be, &t->shape));
    PARE_TRY(fresh_values(t));
    PARE_TRY(resume(t));
    t->began_at = pare_trainer_state(t->trainer)->step;
    t->saved_at = pare__now();
    return PARE_OK;
}

/* A stop keeps the state of the last whole step; the sentence says how to go on. */
static pare_status learn(training *t)
{
    pare_train_callbacks callbacks = {.step = after_step, .user = t};
    pare_status status = pare_trainer_run(t->trainer, t->bench.sched, &callbacks);
    if (status == PARE_OK)
        return pare_trainer_save(t->trainer, t->state_path, t->fingerprint);
    if (status != PARE_ERR_INTERRUPTED)
        return status;
    PARE_TRY(pare_trainer_save(t->trainer, t->state_path, t->fingerprint));
    return pare__error(PARE_ERR_INTERRUPTED, __func__,
                       "interrupted at step %lld of %lld; the state is kept in %s, the same "
                       "command continues",
                       (long long)pare_trainer_state(t->trainer)->step,
                       (long long)t->train.curve.steps, t->state_path);
}

static pare_status measure(training *t)
{
    if (!t->eval_dataset)
        return PARE_OK;
    t->shape.training = false;
    PARE_TRY(pare_model_prepare(t->subject.model, t->bench.be, &t->shape));
    pare_eval_options options = eval_options(t);
    PARE_TRY(pare_evaluate(t->bench.sched, &options, &t->result));
    return PARE_OK;
}

static pare_status work(training *t)
{
    PARE_TRY(start(t));
    PARE_TRY(learn(t));
    if (t->train.ema > 0)
        PARE_TRY(pare_trainer_swap_average(t->trainer));
    PARE_TRY(pare__model_round(&t->subject, t->bench.be));
    PARE_TRY(measure(t));
    PARE_TRY(pare__model_write_out(&(pare__model_write){.subject = &t->subject,
                                                        .be = t->bench.be,
                                                        .output = t->job->output,
                                                        .recipe = t->recipe,
                                                        .data = t->digest,
                                                        .max_shard_size = t->job->max_shard_size,
                                                        .sources = t->sources,
                                                        .overwrite = t->replaces}));
    return PARE_OK;
}

/* ---- the report ------------------------------------------------------------------------------ */

/* Every so many steps' mean loss: at most 100 numbers. */
static void add_losses(pare__json *root, const training *t)
{
    const float *losses;
    int64_t count;
    pare_trainer_losses(t->trainer, &losses, &count);
    int64_t each = (count + 99) / 100;
    pare__json *list = pare__json_set_array(root, "losses");
    for (int64_t first = 0; first < count; first += each) {
        int64_t n = count - first < each ? count - first : each;
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)losses[first + i];
        pare__json *row = pare__json_set_object(list, NULL);
        pare__json_set_int(row, "step", first + n);
        pare__json_set_real(row, "loss", sum / (double)n);
    }
}

static pare_status count_zeros(pare_model *model, int64_t param, int64_t *zeros)
{
    uint8_t mask[MASK_PIECE];
    int64_t count = pare_tensor_count(&pare_model_param(model, param)->value);
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < MASK_PIECE ? count - i : MASK_PIECE;
        PARE_TRY(pare_model_read_mask(model, param, i, n, mask));
        for (int64_t k = 0; k < n; k++)
            *zeros += mask[k] == 0;
    }
    return PARE_OK;
}

static pare_status add_masks(pare__json *root, pare_model *model)
{
    int64_t tensors = 0, count = 0, zeros = 0;
    for (int64_t i = 0; i < pare_model_param_count(model); i++) {
        const pare_param *p = pare_model_param(model, i);
        if (!p->mask)
            continue;
        tensors++;
        count += pare_tensor_count(&p->value);
        PARE_TRY(count_zeros(model, i, &zeros));
    }
    if (!tensors)
        return PARE_OK;
    pare__json *o = pare__json_set_object(root, "masks");
    pare__json_set_int(o, "tensors", tensors);
    pare__json_set_int(o, "parameters", count);
    pare__json_set_int(o, "zeros", zeros);
    pare__json_set_real(o, "sparsity", (double)zeros / (double)count);
    return PARE_OK;
}

static void add_actual(pare__json *root, const training *t, double seconds)
{
    const pare_train_state *s = pare_trainer_state(t->trainer);
    pare__json *o = pare__json_set_object(root, "actual");
    pare__json_set_real(o, "seconds", seconds);
    pare__json_set_int(o, "steps", s->step);
    pare__json_set_real(o, "samples_per_second", s->samples_per_second);
    pare__report_taken(o, &t->bench);
    pare__json_set_bool(o, "resumed", t->resumed);
    pare__json_set_int(o, "steps_done_before", t->began_at);
    pare__json_set_real(root, "loss", s->smooth_loss);
    if (t->eval_dataset)
        pare__report_metrics(pare__json_set_object(root, "eval"), t->metrics, &t->result);
}

static pare_status fill(training *t, pare_report *r, bool planned, double seconds)
{
    pare__json *root = r->root;
    pare__report_subject(root, "model", &t->subject);
    pare__report_data(root, "data", &t->data, t->dataset);
    if (t->eval_dataset)
        pare__report_data(root, "eval_data", &t->eval, t->eval_dataset);
    pare__json_set_string(pare__json_set_object(root, "output"), "path", t->job->output);
    pare__json_set_string(root, "recipe", t->recipe);
    pare__json_set_int(root, "steps", t->train.curve.steps);
    pare__json_set_int(root, "batch", t->train.batch);
    pare__json_set_bool(root, "planned", planned);
    pare__report_need(root, &t->bench, &t->need, t->shape.compute);
    if (planned)
        return PARE_OK;
    PARE_TRY(add_masks(root, t->subject.model));
    add_actual(root, t, seconds);
    add_losses(root, t);
    PARE_TRY(pare__report_save(r, t->job->output));
    return PARE_OK;
}

static void close_all(training *t)
{
    pare__lock_drop(t->lock_path, t->lock);
    pare_trainer_free(&t->trainer);
    pare_dataset_close(&t->eval_dataset);
    pare_dataset_close(&t->dataset);
    pare__subject_close(&t->subject);
    pare__bench_close(&t->bench);
    free(t->fingerprint);
    free(t->sources);
    free(t->lock_path);
    free(t->state_path);
    free(t->recipe);
}

pare_status pare_train(const pare_train_job *job, bool plan, const pare_run_options *options,
                       pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    double begin = pare__now();
    PARE_REQUIRE(job && options && report, PARE_ERR_ARGUMENT, "train: NULL argument");
    training t = {.job = job, .options = options, .train = job->train, .lock = -1};
    *report = NULL;
    PARE_TRY_DONE(open_all(&t));
    PARE_TRY_DONE(predict(&t));
    if (!plan)
        PARE_TRY_DONE(work(&t));
    PARE_TRY_DONE(pare__report_new("train", &r));
    PARE_TRY_DONE(fill(&t, r, plan, pare__now() - begin));
    if (!plan) /* last: a kill before leaves the same command to do */
        PARE_TRY_DONE(pare__remove_tree(t.state_path));
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    close_all(&t);
    return status;
}
