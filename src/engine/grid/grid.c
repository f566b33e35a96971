/* grid.c - the points of a sweep, one after the other; one that was cut goes on at the point it
 * was in, which continues by itself. */
#include "grid_impl.h"

#include "pare/comm.h"

#include "engine/report/html.h"
#include "engine/steps.h"

#include "pare/version.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

#define MAX_KEY_BYTES ((int64_t)256 << 20)
#define MAX_ROW_BYTES ((int64_t)256 << 20)

typedef struct work {
    const pare_grid *sweep;
    const char *folder;
    const pare_run_options *options;
    pare__json **rows; /* [points], NULL: to do */
    char *lock_path;   /* "<folder>.lock": one at a time works on it */
    int lock;
} work;

/* "<folder>/points/007", and a file in it where name is not NULL. */
static pare_status place_of(const work *w, size_t point, const char *name, char **path)
{
    pare__text text = {0};
    pare__text_add(&text, "%s/points/%03zu%s%s", w->folder, point, name ? "/" : "",
                   name ? name : "");
    return pare__text_take(&text, path);
}

/* A point's recipe with an output; both stay whose they are. */
static pare_recipe with_output(const work *w, size_t point, char *output)
{
    pare_recipe recipe = *w->sweep->points[point].recipe;
    recipe.output = output;
    return recipe;
}

/* ---- whose work it is ------------------------------------------------------------------------ */

/* Version, the file, and of every point what it reads. */
static pare_status make_key(const work *w, char **key)
{
    pare_status status = PARE_OK;
    pare__text text = {0};
    pare__chain chain = {0};
    char *one = NULL;
    pare__text_add(&text, "%s\n%s\n", pare_version(), w->sweep->text);
    for (size_t i = 0; i < w->sweep->point_count; i++) {
        if (!w->sweep->points[i].recipe)
            continue;
        pare_recipe recipe = with_output(w, i, (char *)(uintptr_t)w->folder);
        PARE_TRY_DONE(pare__chain_open(&recipe, w->options, &chain));
        PARE_TRY_DONE(pare__chain_key(&chain, &one));
        pare__chain_close(&chain);
        pare__text_add(&text, "%zu\n%s", i, one);
        free(one);
        one = NULL;
    }
    PARE_TRY_DONE(pare__text_take(&text, key));
done:
    pare__chain_close(&chain);
    free(one);
    pare__text_free(&text);
    return status;
}

static pare_status count_files(void *user, const char *name, int64_t size)
{
    (void)name;
    (void)size;
    ++*(int64_t *)user;
    return PARE_OK;
}

static const char *const ours[] = {"points",      "results.csv", "results.json",
                                   "report.html", "key",         NULL};

/* Another sweep's results go; what is no sweep's folder is never touched. */
static pare_status begin_folder(const work *w, const char *key)
{
    pare_status status = PARE_OK;
    char *path = NULL;
    for (size_t i = 0; ours[i]; i++) {
        PARE_TRY_DONE(pare__join(w->folder, ours[i], &path));
        PARE_TRY_DONE(pare__remove_tree(path));
        free(path);
        path = NULL;
    }
    PARE_TRY_DONE(pare__make_directory(w->folder));
    PARE_TRY_DONE(pare__join(w->folder, "key", &path));
    PARE_TRY_DONE(pare__file_save(path, key, (int64_t)strlen(key)));
done:
    free(path);
    return status;
}

static pare_status look_for_folder(const work *w, const char *key, bool *mine)
{
    char *path = NULL, *found = NULL;
    int64_t size, files = 0;
    *mine = false;
    if (!pare__exists(w->folder))
        return PARE_OK;
    PARE_REQUIRE(pare__is_directory(w->folder), PARE_ERR_EXISTS,
                 "%s is there and is no folder: choose another", w->folder);
    PARE_TRY(pare__join(w->folder, "key", &path));
    bool sweep = pare__file_load(path, MAX_KEY_BYTES, &found, &size) == PARE_OK;
    *mine = sweep && strcmp(found, key) == 0;
    free(found);
    free(path);
    if (*mine)
        return PARE_OK;
    if (!sweep)
        PARE_TRY(pare__walk(w->folder, count_files, &files));
    PARE_REQUIRE(sweep || !files, PARE_ERR_EXISTS,
                 "%s holds other files, and no sweep of pare: choose another folder", w->folder);
    PARE_REQUIRE(!sweep || w->options->overwrite, PARE_ERR_EXISTS,
                 "%s holds another sweep (or the model, the data or the file have changed since): "
                 "--overwrite drops it",
                 w->folder);
    return PARE_OK;
}

static pare_status take_lock(work *w)
{
    pare__text path = {0};
    pare__text_add(&path, "%s.lock", w->folder);
    PARE_TRY(pare__text_take(&path, &w->lock_path));
    return pare__lock_take(w->lock_path, &w->lock);
}

/* ---- what is done already -------------------------------------------------------------------- */

static pare_status load_row(const work *w, size_t point, pare__json **row)
{
    char *path = NULL, *text = NULL;
    int64_t size;
    PARE_TRY(place_of(w, point, "point.json", &path));
    pare_status status = PARE_OK;
    if (pare__exists(path))
        status = pare__file_load(path, MAX_ROW_BYTES, &text, &size);
    if (status == PARE_OK && text)
        status = pare__json_parse(text, (size_t)size, path, row);
    free(text);
    free(path);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

static pare_status save_row(const work *w, size_t point, const pare__json *row)
{
    char *path = NULL, *text = NULL;
    pare_status status = PARE_OK;
    PARE_TRY_DONE(place_of(w, point, "point.json", &path));
    PARE_TRY_DONE(pare__json_dump(row, 2, false, &text));
    PARE_TRY_DONE(pare__file_save(path, text, (int64_t)strlen(text)));
done:
    free(text);
    free(path);
    return status;
}

/* ---- what cannot be done --------------------------------------------------------------------- */

/* Whether a failure is of this point alone: others may well work. */
static bool is_own(pare_status status)
{
    return status == PARE_ERR_ARGUMENT || status == PARE_ERR_UNSUPPORTED ||
           status == PARE_ERR_NUMERIC;
}

static pare_status refuse_point(const work *w, size_t point, pare_status status, const char *why)
{
    char text[200], sentence[900];
    snprintf(sentence, sizeof sentence, "%s", why);
    return pare__error(status, __func__, "point %03zu (%s): %s", point,
                       pare__point_text(w->sweep, point, text, sizeof text), sentence);
}

/* All that can be known is looked at before the first point begins; predictions become rows where
 * only a plan is asked for. */
static pare_status plan_point(work *w, size_t point, bool strict, bool keep_plan)
{
    const pare__point *p = &w->sweep->points[point];
    const char *why = p->problem;
    pare_status status = PARE_ERR_ARGUMENT;
    pare_report *plan = NULL;
    if (p->recipe) {
        pare_run_options options = *w->options;
        pare__text text = {0};
        char *output = NULL;
        pare__text_add(&text, "%s.h5", w->folder ? w->folder : "sweep");
        PARE_TRY(pare__text_take(&text, &output)); /* not made: its ending is looked at */
        pare_recipe recipe = with_output(w, point, output);
        options.trace = NULL;
        options.overwrite = true;
        status = pare_plan(&recipe, &options, &plan);
        free(output);
        why = status == PARE_OK ? NULL : pare_last_error();
    }
    bool own = is_own(status);
    if (why && (strict || !own))
        return refuse_point(w, point, status, why);
    if (why || keep_plan)
        w->rows[point] = pare__grid_row(w->sweep, point, why ? "not possible" : "to do", why);
    if (plan && keep_plan)
        pare__json_set(w->rows[point], "predicted",
                       pare__json_copy(pare__json_get(plan->root, "predicted")));
    pare_report_free(&plan);
    return PARE_OK;
}

static pare_status plan_all(work *w, bool keep_plan)
{
    bool any = false;
    for (size_t i = 0; i < w->sweep->point_count; i++)
        if (!w->rows[i])
            PARE_TRY(plan_point(w, i, w->options->strict, keep_plan));
    for (size_t i = w->sweep->dense_count; i < w->sweep->point_count; i++)
        any = any || !w->rows[i] ||
              strcmp(pare__report_string(w->rows[i], "state", ""), "not possible") != 0;
    size_t first = w->sweep->dense_count;
    if (!any && first < w->sweep->point_count)
        return refuse_point(w, first, PARE_ERR_ARGUMENT,
                            pare__report_string(w->rows[first], "note", "is not possible"));
    return PARE_OK;
}

/* ---- a point --------------------------------------------------------------------------------- */

/* The run's report: that of one that is done, or of it now. */
static pare_status run_point(const pare_recipe *recipe, const pare_run_options *options,
                             pare_report **report)
{
    pare__text text = {0};
    char *kept = NULL;
    pare__text_add(&text, "%s.report.json", recipe->output);
    PARE_TRY(pare__text_take(&text, &kept));
    bool done = pare__exists(kept) && pare__exists(recipe->output);
    free(kept);
    pare_memory_restart();
    if (done)
        PARE_TRY(pare_report_load(recipe->output, report));
    else
        PARE_TRY(pare_run(recipe, options, report));
    return PARE_OK;
}

typedef struct leavings {
    const char *folder;
    bool keep;
} leavings;

static pare_status drop_file(void *user, const char *name, int64_t size)
{
    static const char *const kept[] = {"model.h5", "model.h5.report.json"};
    const leavings *l = user;
    char *path = NULL;
    (void)size;
    if (strcmp(name, "point.json") == 0 ||
        (l->keep && (strcmp(name, kept[0]) == 0 || strcmp(name, kept[1]) == 0)))
        return PARE_OK;
    PARE_TRY(pare__join(l->folder, name, &path));
    pare_status status = pare__remove_tree(path);
    free(path);
    return status;
}

/* Of a point that is done what lies beside its row goes: what a run that failed left, and its
 * checkpoint where the sweep does not keep those. */
static pare_status tidy(const work *w, size_t point)
{
    leavings l = {.keep = w->sweep->keep && w->sweep->points[point].value};
    char *folder = NULL, *steps = NULL;
    pare_status status = PARE_OK;
    PARE_TRY_DONE(place_of(w, point, NULL, &folder));
    PARE_TRY_DONE(place_of(w, point, "model.h5.steps", &steps));
    l.folder = folder;
    PARE_TRY_DONE(pare__remove_tree(steps));
    PARE_TRY_DONE(pare__walk(folder, drop_file, &l));
done:
    free(steps);
    free(folder);
    return status;
}

static bool only_measures(const pare_recipe *recipe)
{
    for (size_t i = 0; i < recipe->step_count; i++)
        if (recipe->steps[i].kind != PARE_STEP_EVAL)
            return false;
    return true;
}

static pare_status do_run(const work *w, size_t point, const pare_recipe *recipe,
                          const pare_run_options *options)
{
    pare_status status = PARE_OK;
    pare_report *report = NULL;
    pare__json *row = w->rows[point];
    status = run_point(recipe, options, &report);
    if (is_own(status)) { /* a loss that became NaN: a result too */
        pare__json_set_string(row, "state", "failed");
        pare__json_set_string(row, "note", pare_last_error());
    } else {
        PARE_TRY_DONE(status);
        PARE_TRY_DONE(pare__grid_measure(w->sweep, recipe, recipe->output, options, row));
        pare__grid_row_run(row, report, only_measures(recipe));
        pare__json_set_string(row, "state", "done");
        if (w->sweep->keep && w->sweep->points[point].value)
            pare__json_set_string(row, "model", recipe->output);
    }
    PARE_TRY_DONE(save_row(w, point, row));
    PARE_TRY_DONE(tidy(w, point));
done:
    pare_report_free(&report);
    return status;
}

static pare_status do_point(work *w, size_t point)
{
    pare_status status = PARE_OK;
    pare__part_options part;
    char number[24], title[48], *folder = NULL, *output = NULL;
    snprintf(number, sizeof number, "%03zu", point);
    snprintf(title, sizeof title, "point %s of %zu:", number, w->sweep->point_count);
    PARE_TRY_DONE(pare__part_open(w->options, number, title, &part));
    PARE_TRY_DONE(place_of(w, point, NULL, &folder));
    PARE_TRY_DONE(pare__make_directory(folder));
    PARE_TRY_DONE(place_of(w, point, "model.h5", &output));
    pare_recipe recipe = with_output(w, point, output);
    w->rows[point] = pare__grid_row(w->sweep, point, "to do", NULL);
    status = do_run(w, point, &recipe, &part.options);
    if (status != PARE_OK)
        pare__json_free(&w->rows[point]);
done:
    free(part.trace);
    free(output);
    free(folder);
    return status;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static pare_status save(const work *w, const char *name, const char *text)
{
    char *path = NULL;
    PARE_TRY(pare__join(w->folder, name, &path));
    pare_status status = pare__file_save(path, text, (int64_t)strlen(text));
    free(path);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

static pare_status publish(const work *w, pare_report **report)
{
    pare_status status = PARE_OK;
    char *csv = NULL, *json = NULL, *html = NULL;
    PARE_TRY_DONE(pare__grid_report(w->sweep, w->folder, false, w->rows, w->options, report));
    PARE_TRY_DONE(pare__grid_csv(*report, &csv));
    PARE_TRY_DONE(pare_report_json(*report, &json));
    PARE_TRY_DONE(pare_report_html(*report, &html));
    PARE_TRY_DONE(save(w, "results.csv", csv));
    PARE_TRY_DONE(save(w, "results.json", json));
    PARE_TRY_DONE(save(w, "report.html", html));
done:
    free(html);
    free(json);
    free(csv);
    return status;
}

static pare_status begin(work *w)
{
    pare_status status = PARE_OK;
    char *key = NULL;
    bool mine;
    PARE_TRY(pare__check_folder(w->folder));
    PARE_TRY(take_lock(w));
    PARE_TRY_DONE(make_key(w, &key));
    PARE_TRY_DONE(look_for_folder(w, key, &mine));
    for (size_t i = 0; mine && i < w->sweep->point_count; i++) {
        PARE_TRY_DONE(load_row(w, i, &w->rows[i]));
        if (w->rows[i]) /* killed before it had tidied up */
            PARE_TRY_DONE(tidy(w, i));
    }
    PARE_TRY_DONE(plan_all(w, false));
    if (!mine)
        PARE_TRY_DONE(begin_folder(w, key));
done:
    free(key);
    return status;
}

/* What is kept after a failure. Results so far are written too, where that can be done. */
static pare_status give_up(const work *w, size_t point, pare_status status)
{
    char sentence[900], text[200];
    pare_report *report = NULL;
    const char *kept = strstr(pare_last_error(), "; what is done is kept in ");
    snprintf(sentence, sizeof sentence, "%.*s",
             kept ? (int)(kept - pare_last_error()) : (int)sizeof sentence - 1, pare_last_error());
    (void)publish(w, &report);
    pare_report_free(&report);
    return pare__error(status, __func__,
                       "point %03zu (%s): %s; what is done is kept in %s, the same command "
                       "continues",
                       point, pare__point_text(w->sweep, point, text, sizeof text), sentence,
                       w->folder);
}

static void work_free(work *w)
{
    for (size_t i = 0; w->rows && i < w->sweep->point_count; i++)
        pare__json_free(&w->rows[i]);
    free(w->rows);
    if (w->lock_path)
        pare__lock_drop(w->lock_path, w->lock);
    free(w->lock_path);
}

pare_status pare_grid_plan(const pare_grid *sweep, const pare_run_options *options,
                           pare_report **report)
{
    pare_status status = PARE_OK;
    work w = {.sweep = sweep, .options = options, .lock = -1};
    PARE_REQUIRE(sweep && options && report, PARE_ERR_ARGUMENT, "sweep: NULL argument");
    *report = NULL;
    PARE_TRY_DONE(pare__calloc(sweep->point_count, sizeof *w.rows, &w.rows));
    PARE_TRY_DONE(plan_all(&w, true));
    PARE_TRY_DONE(pare__grid_report(sweep, NULL, true, w.rows, options, report));
done:
    work_free(&w);
    return status;
}

/* Ranks would all do every point. */
static pare_status alone(void)
{
    pare_comm *world = NULL;
    PARE_TRY(pare_comm_world(&world));
    int ranks = pare_comm_facts_of(world)->size;
    pare_comm_free(&world);
    PARE_REQUIRE(ranks == 1, PARE_ERR_ARGUMENT,
                 "a sweep is one process, this is one of %d: start it without mpirun or srun",
                 ranks);
    return PARE_OK;
}

pare_status pare_grid_run(const pare_grid *sweep, const char *folder,
                          const pare_run_options *options, pare_report **report)
{
    pare_status status = PARE_OK;
    work w = {.sweep = sweep, .folder = folder, .options = options, .lock = -1};
    PARE_REQUIRE(sweep && folder && options && report, PARE_ERR_ARGUMENT, "sweep: NULL argument");
    *report = NULL;
    PARE_REQUIRE(*folder, PARE_ERR_ARGUMENT, "sweep: the folder has no name: give -o DIR");
    PARE_TRY(alone());
    PARE_TRY_DONE(pare__calloc(sweep->point_count, sizeof *w.rows, &w.rows));
    PARE_TRY_DONE(begin(&w));
    for (size_t i = 0; i < sweep->point_count; i++) {
        if (w.rows[i])
            continue;
        status = do_point(&w, i);
        if (status != PARE_OK)
            PARE_TRY_DONE(give_up(&w, i, status));
    }
    PARE_TRY_DONE(publish(&w, report));
done:
    if (status != PARE_OK)
        pare_report_free(report);
    work_free(&w);
    return status;
}
