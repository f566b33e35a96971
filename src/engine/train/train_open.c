/* train_open.c - opens what a training works with, and decides what was left open. */
#include "training.h"

#include <string.h>
#include <unistd.h>

#define MOST_STEPS ((int64_t)1 << 40)
#define MOST_ACCUMULATED ((int64_t)1 << 20)

/* ---- the output ------------------------------------------------------------------------------ */

/* Whether a file that is read is lost when the output is replaced: it is the output, or in it; or a
 * folder whose model the output is. */
static bool is_lost(const char *path, const char *output)
{
    char *read = path ? realpath(path, NULL) : NULL, *gone = realpath(output, NULL);
    size_t r = read ? strlen(read) : 0, g = gone ? strlen(gone) : 0;
    bool in = r >= g && g > 0 && strncmp(read, gone, g) == 0 && (!read[g] || read[g] == '/');
    bool of = g > r && r > 0 && strncmp(gone, read, r) == 0 &&
              (pare__glob("/model*.safetensors", gone + r) || pare__glob("/model*.json", gone + r));
    free(read);
    free(gone);
    return in || of;
}

/* What is read outlives the output that is replaced. */
static pare_status check_sources(const pare__training *t)
{
    const pare_train_job *job = t->job;
    const struct {
        const char *path, *what;
    } sources[] = {{job->model.checkpoint, "the model"},  {job->teacher.checkpoint, "the teacher"},
                   {job->data.path, "the data"},          {job->data.labels, "the labels"},
                   {job->eval.path, "the data measured"}, {job->eval.labels, "its labels"}};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        PARE_REQUIRE(!is_lost(sources[i].path, job->output), PARE_ERR_ARGUMENT,
                     "%s is %s, or holds it: a training that is cut would lose it; choose another "
                     "output",
                     job->output, sources[i].what);
    return PARE_OK;
}

/* What is written beside the output, when the work is done. */
static pare_status check_beside(const pare__training *t, bool cut)
{
    const char *beside[] = {t->job->cache, t->job->adapter}, *adapter = t->job->adapter;
    for (int i = 0; i < 2; i++)
        PARE_REQUIRE(!beside[i] || strcmp(beside[i], t->job->output) != 0, PARE_ERR_ARGUMENT,
                     "%s is the output and the %s too: give one another name", t->job->output,
                     i ? "adapter" : "cache");
    PARE_REQUIRE(!adapter || t->options->overwrite || cut || !pare__exists(adapter),
                 PARE_ERR_EXISTS, "%s exists: choose another name, or give --overwrite", adapter);
    return PARE_OK;
}

static pare_status check_output(pare__training *t)
{
    const char *output = t->job->output;
    PARE_REQUIRE(output && *output, PARE_ERR_ARGUMENT, "no output: give -o OUT");
    PARE_REQUIRE(!pare__glob("*.gguf", output), PARE_ERR_ARGUMENT,
                 "%s: GGUF is not in this version; write .safetensors, .h5 or a directory", output);
    PARE_TRY(pare__check_folder(output));
    bool there = pare__exists(output);
    bool cut = pare__exists(t->state_path) || pare__exists(t->before_path);
    PARE_REQUIRE(t->options->overwrite || !there || cut, PARE_ERR_EXISTS,
                 "%s exists: choose another output, or give --overwrite", output);
    t->replaces = t->options->overwrite || there;
    PARE_TRY(check_beside(t, cut));
    if (there)
        PARE_TRY(check_sources(t));
    return PARE_OK;
}

static pare_status name_files(pare__training *t)
{
    pare__text path = {0};
    const char *output = t->job->output ? t->job->output : "";
    pare__text_add(&path, "%s.train.h5", output);
    PARE_TRY(pare__text_take(&path, &t->state_path));
    pare__text_add(&path, "%s.train.before.h5", output);
    PARE_TRY(pare__text_take(&path, &t->before_path));
    pare__text_add(&path, "%s.student.h5", output);
    PARE_TRY(pare__text_take(&path, &t->student_path));
    pare__text_add(&path, "%s.lock", t->state_path);
    PARE_TRY(pare__text_take(&path, &t->lock_path));
    return PARE_OK;
}

/* ---- models ---------------------------------------------------------------------------------- */

/* Whether a file was made of a teacher here (student.c), and nothing learned since. */
static bool is_student(const char *path)
{
    pare_store *store = NULL;
    pare__json *root = NULL;
    bool is = false;
    if (pare_store_open(path, &store) != PARE_OK)
        return false;
    const char *text = pare_store_provenance(store);
    if (text && pare__json_parse(text, strlen(text), "provenance", &root) == PARE_OK &&
        pare__json_size(root) > 0) {
        const pare__json *last = pare__json_at(root, pare__json_size(root) - 1);
        const char *recipe = pare__json_string(pare__json_get(last, "recipe"));
        is = recipe && strncmp(recipe, "student: ", 9) == 0;
    }
    pare__json_free(&root);
    pare_store_close(&store);
    return is;
}

/* It is made anew each time, of the same bytes: one that is there may be of another shape, seed or
 * teacher. The state knows what it belongs to. */
static pare_status make_student(pare__training *t)
{
    const pare_train_job *job = t->job;
    const char *path = t->student_path;
    PARE_REQUIRE(!pare__exists(path) || is_student(path), PARE_ERR_EXISTS,
                 "%s lies where the student is to be made, and is none: remove it, or choose "
                 "another output",
                 path);
    PARE_TRY(pare__student_make(&t->teacher, job->student, job->init, job->train.seed, t->options,
                                path));
    t->made_student = true;
    return PARE_OK;
}

static pare_status open_student(pare__training *t, bool plan)
{
    const pare_train_job *job = t->job;
    PARE_REQUIRE(t->teacher.store, PARE_ERR_ARGUMENT,
                 "a student given by its shape (%s) needs a teacher: give --teacher", job->student);
    t->choice = job->teacher;
    t->choice.checkpoint = t->student_path;
    t->choice.arch = NULL;
    if (plan) {
        t->subject.choice = &t->choice;
        return pare__student_model(&t->teacher, job->student, job->init, &t->subject.model);
    }
    if (pare__is_first(t))
        PARE_TRY(make_student(t));
    if (t->world)
        PARE_TRY(pare_comm_barrier(t->world));
    return pare__subject_open(&t->choice, &t->subject);
}

static pare_status open_models(pare__training *t, bool plan)
{
    const pare_train_job *job = t->job;
    if (job->teacher.checkpoint)
        PARE_TRY(pare__subject_open(&job->teacher, &t->teacher));
    PARE_REQUIRE(!job->student || (!job->model.checkpoint && !job->model.arch), PARE_ERR_ARGUMENT,
                 "a student is a checkpoint or a shape, not both");
    if (job->student)
        return open_student(t, plan);
    t->choice = job->model;
    PARE_TRY(pare__subject_open(&t->choice, &t->subject));
    bool told = t->choice.has_scale || t->choice.has_mean || t->choice.has_std;
    if (t->teacher.model && !t->subject.store && !told) /* from random values, as its teacher */
        pare_model_take_pixels(t->subject.model, pare_model_facts_of(t->teacher.model));
    return PARE_OK;
}

/* On a device a teacher that goes forward on every batch does so beside the student. */
static pare_status open_teacher_backend(pare__training *t)
{
    if (t->teacher.model && !t->job->cache && t->bench.device.cuda)
        PARE_TRY(pare_cuda_create(t->bench.device.index, &t->teacher_be));
    return PARE_OK;
}

static void decide_optimiser(pare__training *t)
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
static pare_status decide_length(pare__training *t)
{
    pare_train_options *o = &t->train;
    int64_t count = pare_dataset_count(t->dataset);
    o->batch = pare__default_batch(o->batch, t->subject.model, t->dataset);
    o->accumulate = o->accumulate > 0 ? o->accumulate : 1;
    if (o->curve.steps == 0 && t->job->epochs > 0) {
        double steps =
            t->job->epochs * (double)count / ((double)o->batch * (double)o->accumulate) + 0.5;
        o->curve.steps = steps < 1 ? 1 : steps < 1e15 ? (int64_t)steps : MOST_STEPS + 1;
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
    PARE_REQUIRE(t->teacher.model || pare_dataset_labelled(t->dataset), PARE_ERR_ARGUMENT,
                 "%s has no labels to learn from: give --labels", t->job->data.path);
    return PARE_OK;
}

/* ---- data --------------------------------------------------------------------------------------
 */

static pare_status open_data(pare__training *t)
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
    int ranks = t->comm ? pare_comm_facts_of(t->comm)->size : 1; /* each has its part of a batch */
    t->shape = (pare_model_shape){.batch = t->train.batch / ranks,
                                  .length = length,
                                  .training = true,
                                  .compute = t->train.compute == PARE_BF16 ? PARE_BF16 : PARE_F32};
    t->train.compute = t->shape.compute;
    t->teacher_shape = t->shape;
    t->teacher_shape.training = false;
    t->teacher_shape.compute = t->job->teacher_compute == PARE_BF16 ? PARE_BF16 : PARE_F32;
    t->teacher_shape.halves = t->teacher_shape.compute == PARE_BF16;
    return PARE_OK;
}

pare_eval_options pare__training_eval(const pare__training *t)
{
    return (pare_eval_options){.model = t->subject.model,
                               .be = t->bench.be,
                               .dataset = t->eval_dataset,
                               .batch = t->shape.batch,
                               .metrics = t->metrics,
                               .progress = t->options->progress};
}

/* What the end will measure must not fail there. */
static pare_status check_eval(const pare__training *t)
{
    if (!t->eval_dataset)
        return PARE_OK;
    pare_eval_options options = pare__training_eval(t);
    return pare_eval_check(&options);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Several processes that train together, each on a device of its own. */
static pare_status open_ranks(pare__training *t)
{
    PARE_TRY(pare_comm_world(&t->world));
    if (pare_comm_facts_of(t->world)->size == 1)
        pare_comm_free(&t->world);
    return PARE_OK;
}

/* Ranks of one machine share its processors, unless the launcher has dealt them out: then this
 * process may use fewer than there are. */
static pare_status open_bench(pare__training *t)
{
    t->own_options = *t->options;
    if (t->world && t->own_options.threads == 0) {
        int count = pare_cpu_count(), ranks = pare_comm_facts_of(t->world)->local_size;
        bool all = count == (int)sysconf(_SC_NPROCESSORS_ONLN);
        t->own_options.threads = all && count > ranks ? count / ranks : all ? 1 : count;
    }
    if (t->world)
        pare__device_spread(t->world, &t->own_options.device, t->device);
    return pare__bench_open(&t->own_options, &t->bench);
}

pare_status pare__training_open(pare__training *t, bool plan)
{
    PARE_TRY(open_ranks(t));
    PARE_TRY(name_files(t));
    PARE_TRY(check_output(t));
    PARE_TRY(open_bench(t));
    if (t->world)
        PARE_TRY(pare_comm_device(t->world, t->bench.be, &t->comm));
    PARE_TRY(open_models(t, plan));
    PARE_TRY(open_teacher_backend(t));
    decide_optimiser(t);
    PARE_TRY(pare_train_freeze(t->subject.model, &t->train));
    PARE_TRY(open_data(t));
    PARE_TRY(pare__join_create(t));
    PARE_TRY(pare__train_recipe(t->job, &t->train, &t->losses, &t->data, &t->recipe));
    PARE_TRY(pare__join_in(t, NULL));
    pare_train_setup setup = pare__training_setup(t);
    PARE_TRY(pare_train_check(&setup));
    PARE_TRY(pare__model_write_check(&(pare__model_write){.subject = &t->subject,
                                                          .be = t->bench.be,
                                                          .output = t->job->output,
                                                          .max_shard_size = t->job->max_shard_size,
                                                          .qat = t->qat,
                                                          .overwrite = t->replaces}));
    return check_eval(t);
}

void pare__training_close(pare__training *t)
{
    pare__lock_drop(t->lock_path, t->lock);
    pare_trainer_free(&t->trainer);
    pare__join_free(t);
    pare_dataset_close(&t->eval_dataset);
    pare_dataset_close(&t->dataset);
    pare__subject_close(&t->teacher);
    pare__subject_close(&t->subject);
    pare_comm_free(&t->comm);
    pare_backend_free(&t->teacher_be);
    pare__bench_close(&t->bench);
    pare_comm_free(&t->world);
    free(t->fingerprint), free(t->sources), free(t->teacher_sources);
    free(t->lock_path), free(t->state_path), free(t->before_path), free(t->student_path);
    free(t->recipe);
}
