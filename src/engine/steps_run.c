/* steps_run.c - the stages of a run, one after the other; a run that was cut goes on at the stage
 * it was in, which continues by itself. */
#include "steps.h"

#include "engine/report/report_impl.h"

#include "pare/version.h"

#include "base/clock.h"

#include <string.h>
#include <sys/stat.h>

#define MAX_KEY_BYTES ((int64_t)64 << 20)

typedef struct work {
    const pare__chain *chain;
    pare_report **reports; /* [count] of stages that are done */
    size_t done;
    bool published;  /* the output has its name */
    char *lock_path; /* "<output>.steps.lock": one at a time works on an output */
    int lock;
} work;

/* "<folder>/3" */
static pare_status name_of(const pare__chain *chain, size_t i, char **path)
{
    pare__text name = {0};
    pare__text_add(&name, "%s/%zu", chain->folder, i + 1);
    return pare__text_take(&name, path);
}

static bool exists_with(const char *path, const char *ending)
{
    pare__text name = {0};
    char *whole = NULL;
    pare__text_add(&name, "%s%s", path, ending);
    bool there = pare__text_take(&name, &whole) == PARE_OK && pare__exists(whole);
    free(whole);
    return there;
}

/* ---- whose work it is ------------------------------------------------------------------------ */

typedef struct files {
    pare__text *text;
    const char *root, *output;
} files;

static void add_file(pare__text *text, const char *path)
{
    struct stat st;
    char *place = realpath(path, NULL);
    if (stat(path, &st) == 0)
        pare__text_add(text, "%s %lld %lld.%09ld\n", place ? place : path, (long long)st.st_size,
                       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    free(place);
}

static pare_status add_below(void *user, const char *name, int64_t size)
{
    files *f = user;
    char *path = NULL;
    (void)size;
    PARE_TRY(pare__join(f->root, name, &path));
    bool own = strncmp(path, f->output, strlen(f->output)) == 0; /* made inside its source */
    if (!own && !pare__glob("*.steps/*", name) && !pare__glob("*.lock", name))
        add_file(f->text, path);
    free(path);
    return PARE_OK;
}

/* A checkpoint, or data as "[FORMAT:]PATH[#SPLIT]". */
static pare_status add_identity(const pare__chain *chain, pare__text *text, const char *name)
{
    char *path = NULL;
    if (!name)
        return PARE_OK;
    pare__text_add(text, "%s\n", name);
    PARE_TRY(pare__strdup(name, &path));
    char *split = strrchr(path, '#');
    if (!pare__exists(path) && split)
        *split = '\0';
    const char *colon = strchr(path, ':');
    files f = {text, pare__exists(path) || !colon ? path : colon + 1, chain->output};
    pare_status status = PARE_OK;
    if (pare__is_directory(f.root))
        status = pare__walk(f.root, add_below, &f);
    else
        add_file(text, f.root);
    free(path);
    return status;
}

/* The files that a training reads. */
static pare_status add_training(const pare__chain *chain, pare__text *text, pare_train_step *step)
{
    const pare_train_job *job;
    if (!step)
        return PARE_OK;
    PARE_TRY(pare_train_step_job(step, &job));
    PARE_TRY(add_identity(chain, text, job->data.path));
    PARE_TRY(add_identity(chain, text, job->data.labels));
    PARE_TRY(add_identity(chain, text, job->eval.path));
    PARE_TRY(add_identity(chain, text, job->eval.labels));
    return add_identity(chain, text, job->teacher.checkpoint);
}

pare_status pare__chain_key(const pare__chain *chain, char **key)
{
    pare_status status = PARE_OK;
    pare__text text = {0};
    char *recipe = NULL;
    PARE_TRY_DONE(pare_recipe_text(chain->recipe, &recipe));
    pare__text_add(&text, "%s\n%s", pare_version(), recipe);
    PARE_TRY_DONE(add_identity(chain, &text, chain->recipe->model));
    for (size_t i = 0; i < chain->count; i++) {
        const pare_step *step = &chain->stages[i].step;
        PARE_TRY_DONE(add_identity(chain, &text, step->calibration.path));
        PARE_TRY_DONE(add_identity(chain, &text, step->calibration.labels));
        PARE_TRY_DONE(add_identity(chain, &text, step->eval.data));
        PARE_TRY_DONE(add_identity(chain, &text, step->eval.labels));
        PARE_TRY_DONE(add_identity(chain, &text, step->eval.against));
        PARE_TRY_DONE(add_training(chain, &text, step->train));
    }
    PARE_TRY_DONE(pare__text_take(&text, key));
done:
    free(recipe);
    pare__text_free(&text);
    return status;
}

/* Names that are not ours. */
static pare_status count_foreign(void *user, const char *name, int64_t size)
{
    (void)size;
    *(int64_t *)user += strncmp(name, "key", 3) != 0 && strncmp(name, "out", 3) != 0 &&
                        !(*name >= '0' && *name <= '9');
    return PARE_OK;
}

/* The folder of an earlier run: *mine if that was this one. What is no folder of ours is never
 * removed. */
static pare_status look_for_folder(const pare__chain *chain, const char *key, bool *mine)
{
    char *path = NULL, *found = NULL;
    int64_t size;
    *mine = false;
    if (!pare__exists(chain->folder))
        return PARE_OK;
    PARE_TRY(pare__join(chain->folder, "key", &path));
    bool ours = pare__file_load(path, MAX_KEY_BYTES, &found, &size) == PARE_OK;
    *mine = ours && strcmp(found, key) == 0;
    free(found);
    free(path);
    if (*mine)
        return PARE_OK;
    int64_t foreign = 0;
    PARE_TRY(pare__walk(chain->folder, count_foreign, &foreign));
    if (!ours && !foreign) /* killed before it had a key, or when it had none any more */
        return PARE_OK;
    PARE_REQUIRE(ours, PARE_ERR_EXISTS,
                 "%s lies in the way and is not of pare: remove it, or choose another output",
                 chain->folder);
    PARE_REQUIRE(chain->options->overwrite, PARE_ERR_EXISTS,
                 "%s holds the steps of another run (or the model, the data or the recipe have "
                 "changed since): --overwrite drops them",
                 chain->folder);
    return PARE_OK;
}

static pare_status begin_folder(const pare__chain *chain, const char *key)
{
    char *path = NULL;
    PARE_TRY(pare__remove_tree(chain->folder));
    PARE_TRY(pare__make_directory(chain->folder));
    PARE_TRY(pare__join(chain->folder, "key", &path));
    pare_status status = pare__file_save(path, key, (int64_t)strlen(key));
    free(path);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

/* ---- what is done already -------------------------------------------------------------------- */

/* The report of stage i if it is done: kept here, or just written by the stage itself, which
 * removes its journal after that; then it is kept here too, where it stays when the output has got
 * its name. */
static pare_status load_report(const work *w, size_t i, pare_report **report)
{
    const char *output = w->chain->stages[i].recipe.output;
    char *name = NULL;
    PARE_TRY(name_of(w->chain, i, &name));
    pare_status status = PARE_OK;
    if (exists_with(name, ".report.json"))
        status = pare_report_load(name, report);
    else if (output && pare__exists(output) && exists_with(output, ".report.json") &&
             !exists_with(output, ".journal")) {
        status = pare_report_load(output, report);
        if (status == PARE_OK)
            status = pare__report_save(*report, name);
    }
    free(name);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

static void forget(work *w)
{
    for (size_t i = 0; i < w->chain->count; i++)
        pare_report_free(&w->reports[i]);
    w->done = 0;
}

/* Stages that are done; none if the checkpoint that they led to is gone. */
static pare_status look_back(work *w)
{
    const pare__chain *chain = w->chain;
    const pare__stage *newest = NULL;
    for (; w->done < chain->count; w->done++) {
        PARE_TRY(load_report(w, w->done, &w->reports[w->done]));
        if (!w->reports[w->done])
            break;
        if (chain->stages[w->done].kind != PARE__STAGE_EVAL)
            newest = &chain->stages[w->done];
    }
    if (!newest || pare__exists(newest->recipe.output))
        return PARE_OK;
    w->published = w->done == chain->count && pare__exists(chain->recipe->output);
    if (!w->published)
        forget(w);
    return PARE_OK;
}

/* ---- a stage --------------------------------------------------------------------------------- */

/* A number from the first of several processes to all. */
static pare_status hear(const pare__chain *chain, int64_t *number)
{
    if (chain->ranks)
        PARE_TRY(pare_comm_broadcast(chain->ranks, number, sizeof *number, 0));
    return PARE_OK;
}

static pare_status tell(const pare__chain *chain, int64_t number)
{
    return hear(chain, &number);
}

/* ---- a part of a run ------------------------------------------------------------------------- */

static void on_update(void *user, const char *phase, double done, double total)
{
    const pare__part_options *p = user;
    char name[128];
    snprintf(name, sizeof name, "%s %s", p->name, phase);
    p->progress->update(p->progress->user, name, done, total);
}

static void on_note(void *user, const char *text)
{
    const pare__part_options *p = user;
    p->progress->note(p->progress->user, text);
}

pare_status pare__part_open(const pare_run_options *whole, const char *number, const char *name,
                            pare__part_options *p)
{
    *p = (pare__part_options){.options = *whole, .progress = &whole->progress};
    snprintf(p->name, sizeof p->name, "%s", name);
    p->options.overwrite = true; /* all in our folder is ours */
    if (whole->progress.update)
        p->options.progress = (pare_progress){on_update, p, whole->progress.note ? on_note : NULL};
    if (whole->trace) {
        pare__text text = {0};
        pare__text_add(&text, "%s.%s", whole->trace, number);
        PARE_TRY(pare__text_take(&text, &p->trace));
        p->options.trace = p->trace;
    }
    return PARE_OK;
}

/* What a stage made of takes room no more once the next has its own. */
static pare_status drop_source(const pare__chain *chain, size_t i)
{
    for (size_t before = i; before-- > 0;) {
        const pare__stage *stage = &chain->stages[before];
        if (stage->kind != PARE__STAGE_EVAL)
            return pare__remove_tree(stage->recipe.output);
    }
    return PARE_OK;
}

static pare_status do_stage(work *w, size_t i)
{
    const pare__chain *chain = w->chain;
    const pare__stage *stage = &chain->stages[i];
    pare_status status = PARE_OK;
    pare__part_options part;
    char number[24], title[48], *name = NULL;
    snprintf(number, sizeof number, "%zu", i + 1);
    snprintf(title, sizeof title, "step %zu/%zu", i + 1, chain->count);
    PARE_TRY_DONE(pare__part_open(chain->options, number, title, &part));
    PARE_TRY_DONE(name_of(chain, i, &name));
    PARE_TRY_DONE(tell(chain, (int64_t)i));
    PARE_TRY_DONE(pare__stage_do(stage, &part.options, chain->ranks, false, &w->reports[i]));
    PARE_TRY_DONE(pare__report_save(w->reports[i], name));
    w->done = i + 1;
    if (stage->kind != PARE__STAGE_EVAL)
        PARE_TRY_DONE(drop_source(chain, i));
done:
    free(part.trace);
    free(name);
    return status;
}

/* What is kept after a failure, in the words of a run of one stage. */
static pare_status give_up(const work *w, pare_status status)
{
    const char *folder = w->chain->folder;
    char sentence[900], trail[400];
    snprintf(sentence, sizeof sentence, "%s", pare_last_error());
    snprintf(trail, sizeof trail, "%s", pare_last_trail());
    bool passing = status == PARE_ERR_FULL || status == PARE_ERR_IO ||
                   status == PARE_ERR_INTERRUPTED || status == PARE_ERR_MEMORY ||
                   status == PARE_ERR_DEVICE || status == PARE_ERR_RANK;
    if (!w->done && !passing) {
        (void)pare__remove_tree(folder);
        return pare__error_again(status, sentence, trail);
    }
    if (strstr(sentence, "the same command continues"))
        return pare__error_again(status, sentence, trail);
    char step[64] = "";
    if (w->done < w->chain->count)
        snprintf(step, sizeof step, "step %zu of %zu: ", w->done + 1, w->chain->count);
    return pare__error(status, __func__,
                       "%s%s; what is done is kept in %s, the same command continues", step,
                       sentence, folder);
}

/* ---- the run --------------------------------------------------------------------------------- */

/* All that can be known is checked before the first byte of work. */
static pare_status check_all(const pare__chain *chain, size_t done)
{
    for (size_t i = 0; i < chain->count; i++) {
        pare_report *plan = NULL;
        PARE_REQUIRE(i >= done || !chain->stages[i].last || chain->options->overwrite ||
                         !pare__exists(chain->output),
                     PARE_ERR_EXISTS, "%s exists: choose another output, or give --overwrite",
                     chain->output);
        if (i < done) /* what it wrote beside its output is there */
            continue;
        PARE_TRY(pare__chain_plan(chain, i, &plan));
        pare_report_free(&plan);
    }
    return PARE_OK;
}

static const char *made_output(const pare__chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        if (chain->stages[i].last)
            return chain->stages[i].recipe.output;
    return NULL;
}

static pare_status publish(work *w)
{
    const pare__chain *chain = w->chain;
    if (w->published)
        return PARE_OK;
    PARE_TRY(pare__rename(made_output(chain), chain->output, chain->options->overwrite));
    PARE_TRY(pare__sync_parent(chain->output));
    w->published = true;
    return PARE_OK;
}

static pare_status take_lock(work *w)
{
    pare__text path = {0};
    pare__text_add(&path, "%s.lock", w->chain->folder);
    PARE_TRY(pare__text_take(&path, &w->lock_path));
    return pare__lock_take(w->lock_path, &w->lock);
}

static pare_status begin(work *w)
{
    const pare__chain *chain = w->chain;
    pare_status status = PARE_OK;
    char *key = NULL;
    bool mine;
    PARE_REQUIRE(chain->recipe->output && *chain->recipe->output, PARE_ERR_ARGUMENT,
                 "no output: give -o OUT, or an export step with to:");
    PARE_TRY(pare__check_folder(chain->output));
    PARE_TRY(take_lock(w));
    PARE_TRY_DONE(pare__chain_key(chain, &key));
    PARE_TRY_DONE(look_for_folder(chain, key, &mine));
    if (mine)
        PARE_TRY_DONE(look_back(w));
    PARE_TRY_DONE(tell(chain, w->published ? -1 : (int64_t)w->done));
    if (!w->published)
        PARE_TRY_DONE(check_all(chain, w->done));
    if (!mine)
        PARE_TRY_DONE(begin_folder(chain, key));
done:
    free(key);
    return status;
}

pare_status pare__chain_run(const pare__chain *chain, pare_report **report)
{
    pare_status status = PARE_OK;
    work w = {.chain = chain, .lock = -1};
    PARE_TRY_DONE(pare__calloc(chain->count, sizeof *w.reports, &w.reports));
    PARE_TRY_DONE(begin(&w));
    while (w.done < chain->count && status == PARE_OK)
        status = do_stage(&w, w.done);
    if (status == PARE_OK)
        status = tell(chain, -1); /* that was all */
    if (status == PARE_OK)
        status = publish(&w);
    if (status != PARE_OK)
        PARE_TRY_DONE(give_up(&w, status));
    PARE_TRY_DONE(pare__chain_report(chain, "run", w.reports, report));
    PARE_TRY_DONE(pare__report_save(*report, chain->output));
    PARE_TRY_DONE(pare__remove_tree(chain->folder));
done:
    if (status != PARE_OK)
        pare_report_free(report);
    if (w.reports)
        forget(&w);
    free(w.reports);
    if (w.lock_path)
        pare__lock_drop(w.lock_path, w.lock);
    free(w.lock_path);
    return status;
}

/* ---- the others ------------------------------------------------------------------------------ */

pare_status pare__chain_follow(const pare__chain *chain)
{
    pare_run_options options = *chain->options;
    int64_t at = 0;
    options.overwrite = true; /* as for the first one */
    PARE_TRY(hear(chain, &at));
    if (at >= 0)
        PARE_TRY(check_all(chain, (size_t)at));
    PARE_TRY(hear(chain, &at));
    while (at >= 0) {
        pare_report *report = NULL;
        PARE_ASSERT(at < (int64_t)chain->count);
        PARE_TRY(pare__stage_do(&chain->stages[at], &options, chain->ranks, false, &report));
        pare_report_free(&report);
        PARE_TRY(hear(chain, &at));
    }
    return PARE_OK;
}
