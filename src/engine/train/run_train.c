/* run_train.c - trains a model and writes it; its state lies beside the output, so that a run that
 * was cut continues. */
#include "training.h"

#include "base/clock.h"

#include <string.h>

#define WRITING_BYTES ((int64_t)512 << 10) /* laying out and writing states and the model */
#define SAVE_SECONDS 300.0 /* between states where no number of steps is asked for */

/* The teacher beside the student; or, where its outputs are on disk, before it. */
static pare_status predict_teacher(pare__training *t)
{
    if (!t->teacher.model)
        return PARE_OK;
    PARE_TRY(pare_model_predict(t->teacher.model, &t->teacher_shape, &t->need.against));
    t->need.against.grads = 0;
    t->need.apart = t->teacher_be != NULL;
    return PARE_OK;
}

static pare_status predict_batch(pare__training *t, int64_t batch)
{
    t->shape.batch = t->teacher_shape.batch = batch;
    PARE_TRY(pare_model_predict(t->subject.model, &t->shape, &t->need.model));
    PARE_TRY(predict_teacher(t));
    if (!t->masks && (!t->subject.store || !t->job->keep_masks))
        t->need.model.masks = 0;
    pare_train_setup setup = pare__training_setup(t);
    t->need.beside = pare_train_bytes(&setup, &t->shape);
    t->need.beside.backend += pare__join_bytes(t);
    t->need.beside.host += WRITING_BYTES;
    return PARE_OK;
}

/* What does not fit is refused with the half, quarter … of the batch that does. */
static pare_status refuse_batch(pare__training *t)
{
    int64_t batch = t->shape.batch, ranks = t->train.batch / batch, fit = batch / 2;
    char hint[96];
    for (; fit > 0; fit /= 2) {
        PARE_TRY(predict_batch(t, fit));
        if (pare__need_check(&t->bench, &t->need, NULL) == PARE_OK)
            break;
    }
    PARE_TRY(predict_batch(t, batch));
    if (fit > 0)
        snprintf(hint, sizeof hint, "--batch %lld --accumulate %lld fits", (long long)(fit * ranks),
                 (long long)(t->train.accumulate * ((batch + fit - 1) / fit)));
    else
        snprintf(hint, sizeof hint, "a single sample at a time does not fit either");
    PARE_TRY(pare__need_check(&t->bench, &t->need, hint));
    return PARE_OK;
}

static pare_status predict(pare__training *t)
{
    pare_train_options *o = &t->train;
    PARE_TRY(predict_batch(t, t->shape.batch));
    t->need.flops = (3 * t->need.model.flops + t->need.against.flops) * (double)o->curve.steps *
                    (double)o->accumulate;
    double rate = pare__product_rate(t->bench.be, t->shape.compute);
    t->need.seconds = rate > 0 ? 1.7 * t->need.flops / rate : -1;
    pare_status status = pare__need_check(&t->bench, &t->need, NULL);
    if (status == PARE_ERR_MEMORY)
        status = refuse_batch(t);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

static pare_status after_step(void *user, pare_trainer *trainer, const pare_train_state *s)
{
    pare__training *t = user;
    (void)trainer;
    char note[160], left[32];
    const pare_progress *progress = &t->options->progress;
    double now = pare__now();
    bool due = t->train.save_every > 0 ? s->step % t->train.save_every == 0
                                       : now - t->saved_at >= SAVE_SECONDS;
    if (progress->note && pare__is_first(t)) {
        snprintf(note, sizeof note,
                 "step %lld of %lld, loss %.4f, rate %.3g, %.0f samples/s, %s left",
                 (long long)s->step, (long long)s->steps, s->smooth_loss, s->rate,
                 s->samples_per_second, pare__time_text(s->seconds_left, left, sizeof left));
        progress->note(progress->user, note);
    }
    if (due && s->step < s->steps) {
        PARE_TRY(pare__state_save(t));
        t->saved_at = pare__now();
    }
    return PARE_OK;
}

pare_status pare__training_begin(pare__training *t)
{
    pare_trainer_free(&t->trainer);
    bool drawn = t->job->student && t->job->init == PARE_STUDENT_RANDOM;
    if (t->subject.store && !drawn)
        PARE_TRY(pare_model_load(t->subject.model, t->subject.store, t->job->keep_masks));
    else
        PARE_TRY(pare_model_init(t->subject.model, t->train.seed));
    PARE_TRY(pare__join_in(t, t->bench.be));
    pare_train_setup setup = pare__training_setup(t);
    return pare_trainer_create(&setup, &t->trainer);
}

/* What the teacher is, for the key of its cache and of the state. */
static pare_status know_teacher(pare__training *t, pare__text *recipe)
{
    uint64_t digest[2] = {0};
    char hex[33];
    pare_backend *host = pare_backend_host(t->bench.be);
    if (!t->teacher.model)
        return PARE_OK;
    PARE_TRY(pare__source_digests(&t->teacher, host, &t->teacher_sources));
    PARE_TRY(pare_digest(host, &(pare_digest_args){.bytes = t->teacher_sources,
                                                   .size = (int64_t)strlen(t->teacher_sources),
                                                   .result = digest}));
    pare__hex128(digest, hex);
    pare__text_add(recipe, "teacher: %s\n", hex);
    return PARE_OK;
}

static pare_status fingerprint(pare__training *t)
{
    pare_status status = PARE_OK;
    pare__text recipe = {0};
    char *text = NULL;
    pare__text_add(&recipe, "%s", t->recipe);
    PARE_TRY_DONE(know_teacher(t, &recipe));
    PARE_TRY_DONE(pare__text_take(&recipe, &text));
    PARE_TRY_DONE(pare__source_digests(&t->subject, pare_backend_host(t->bench.be), &t->sources));
    PARE_TRY_DONE(
        pare__train_fingerprint(&(pare__identity){.recipe = text,
                                                  .data = t->digest,
                                                  .sources = t->sources,
                                                  .config = pare_model_config(t->subject.model),
                                                  .threads = t->world ? 0 : t->bench.threads,
                                                  .be = t->bench.be},
                                &t->fingerprint));
done:
    pare__text_free(&recipe);
    free(text);
    return status;
}

static pare_status prepare_teacher(pare__training *t)
{
    if (t->job->cache)
        return pare__join_cache(t);
    if (!t->teacher.model)
        return PARE_OK;
    pare_backend *be = t->teacher_be ? t->teacher_be : t->bench.be;
    PARE_TRY(pare_model_prepare(t->teacher.model, be, &t->teacher_shape));
    return pare_model_load(t->teacher.model, t->teacher.store, false);
}

static pare_status start(pare__training *t)
{
    if (pare__is_first(t))
        PARE_TRY(pare__lock_take(t->lock_path, &t->lock)); /* one at a time works on an output */
    PARE_TRY(fingerprint(t));
    PARE_TRY(prepare_teacher(t));
    PARE_TRY(pare_model_prepare(t->subject.model, t->bench.be, &t->shape));
    PARE_TRY(pare__training_begin(t));
    PARE_TRY(pare__state_resume(t));
    t->began_at = pare_trainer_state(t->trainer)->step;
    t->saved_at = pare__now();
    return PARE_OK;
}

/* Another rank's end leaves the last whole step, which is kept; its sentence stays. */
static pare_status keep(pare__training *t, pare_status status)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    if (pare_trainer_state(t->trainer)->step > t->began_at)
        PARE_TRY(pare__state_save(t));
    return pare__error(status, __func__, "%s", sentence);
}

/* A stop keeps the state of the last whole step; the sentence says how to go on. */
static pare_status learn(pare__training *t)
{
    pare_train_callbacks callbacks = {.step = after_step, .user = t};
    pare_status status = pare_trainer_run(t->trainer, t->bench.sched, &callbacks);
    if (status == PARE_OK)
        return pare__state_save(t);
    if (status == PARE_ERR_RANK)
        return keep(t, status);
    if (status != PARE_ERR_INTERRUPTED)
        return status;
    PARE_TRY(pare__state_save(t));
    return pare__error(PARE_ERR_INTERRUPTED, __func__,
                       "interrupted at step %lld of %lld; the state is kept in %s, the same "
                       "command continues",
                       (long long)pare_trainer_state(t->trainer)->step,
                       (long long)t->train.curve.steps, t->state_path);
}

static pare_status measure(pare__training *t)
{
    if (!t->eval_dataset)
        return PARE_OK;
    t->shape.training = false;
    PARE_TRY(pare_model_prepare(t->subject.model, t->bench.be, &t->shape));
    pare_eval_options options = pare__training_eval(t);
    PARE_TRY(pare_evaluate(t->bench.sched, &options, &t->result));
    return PARE_OK;
}

static pare_status write_out(pare__training *t)
{
    const pare_train_job *job = t->job;
    PARE_TRY(pare__model_write_out(&(pare__model_write){.subject = &t->subject,
                                                        .be = t->bench.be,
                                                        .output = job->output,
                                                        .recipe = t->recipe,
                                                        .data = t->digest,
                                                        .max_shard_size = job->max_shard_size,
                                                        .sources = t->sources,
                                                        .qat = t->qat,
                                                        .overwrite = t->replaces}));
    if (t->lora && job->adapter)
        PARE_TRY(pare_lora_save(t->lora, t->subject.model, pare__subject_name(&t->subject),
                                job->adapter, t->replaces));
    return PARE_OK;
}

static pare_status work(pare__training *t)
{
    PARE_TRY(start(t));
    PARE_TRY(learn(t));
    if (t->train.ema > 0)
        PARE_TRY(pare_trainer_swap_average(t->trainer));
    if (!t->qat) /* its values are exact as they are */
        PARE_TRY(pare__model_round(&t->subject, t->bench.be));
    PARE_TRY(measure(t));
    if (pare__is_first(t))
        PARE_TRY(write_out(t));
    if (t->world)
        PARE_TRY(pare_comm_barrier(t->world));
    return PARE_OK;
}

/* What only a run that was cut needs. */
static pare_status clean_up(pare__training *t)
{
    if (!pare__is_first(t))
        return PARE_OK;
    if (t->job->student)
        PARE_TRY(pare__remove_tree(t->student_path));
    return pare__state_remove(t);
}

pare_status pare_train(const pare_train_job *job, bool plan, const pare_run_options *options,
                       pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    double begin = pare__now();
    PARE_REQUIRE(job && options && report, PARE_ERR_ARGUMENT, "train: NULL argument");
    pare__training t = {.job = job, .options = options, .train = job->train, .lock = -1};
    *report = NULL;
    PARE_TRY_DONE(pare__training_open(&t, plan));
    PARE_TRY_DONE(predict(&t));
    if (!plan)
        PARE_TRY_DONE(work(&t));
    PARE_TRY_DONE(pare__report_new("train", &r));
    PARE_TRY_DONE(pare__training_fill(&t, r, plan, pare__now() - begin));
    if (!plan) /* last: a kill before leaves the same command to do */
        PARE_TRY_DONE(clean_up(&t));
    *report = r;
    r = NULL;
done:
    if (status != PARE_OK && t.world)
        status = pare_comm_abort(t.world, status);
    if (status != PARE_OK && t.made_student && !pare__exists(t.state_path) &&
        !pare__exists(t.before_path))
        (void)remove(t.student_path); /* nothing depends on it yet */
    pare_report_free(&r);
    pare__training_close(&t);
    return status;
}
