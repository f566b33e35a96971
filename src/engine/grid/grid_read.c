/* grid_read.c - a sweep's file: a recipe whose lists are the axes of a grid.
 *
 * The file is parsed once. For each point the slot of every axis gets one of its values, and the
 * recipe's own reader reads the tree: a value has the line and column of the file, so errors do
 * too. */
#include "grid_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <inttypes.h>
#include <string.h>

#define MAX_SWEEP_BYTES ((int64_t)16 << 20)
#define MOST_POINTS 10000
#define REPEATS 9

/* ---- axes ------------------------------------------------------------------------------------ */

static bool is_one_of(const char *const *words, const char *word)
{
    for (size_t i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

/* Whether a list under this key is one in a recipe too. */
static bool takes_list(const char *scope, const char *key)
{
    static const char *const lists[] = {"include", "exclude", "freeze",     "schemes",
                                        "metric",  "betas",   "milestones", NULL};
    static const char *const halves[] = {"prune", "quantize", NULL};
    return is_one_of(lists, key) || (strcmp(scope, "compress") == 0 && is_one_of(halves, key));
}

static void check_values(pare__problems *problems, const char *key, const pare__yaml *list,
                         bool *numbers)
{
    double number;
    *numbers = list->count > 0;
    if (!list->count)
        pare__problem_add(problems, list, "%s: the list is empty, expected values to sweep over",
                          key);
    for (size_t i = 0; i < list->count; i++) {
        const pare__yaml *item = list->items[i];
        bool scalar = item->kind == PARE__YAML_SCALAR;
        if (!scalar)
            pare__problem_add(problems, item,
                              "%s: found %s in a list of values to sweep over, expected a value",
                              key, pare__show(item).text);
        *numbers = *numbers && scalar && !item->quoted && pare__parse_double(item->text, &number);
        for (size_t j = 0; j < i && scalar; j++)
            if (list->items[j]->kind == PARE__YAML_SCALAR &&
                strcmp(list->items[j]->text, item->text) == 0)
                pare__problem_add(problems, item, "%s: %s is there twice", key,
                                  pare__show(item).text);
    }
}

static void add_axis(pare_grid *s, pare__problems *problems, const char *scope, const char *key,
                     pare__yaml **slot)
{
    if (pare__grow(&s->axes, &s->axis_capacity, s->axis_count + 1, sizeof *s->axes) != PARE_OK) {
        problems->failed = true;
        return;
    }
    pare__axis *axis = &s->axes[s->axis_count++];
    *axis = (pare__axis){.key = key, .scope = scope, .slot = slot, .list = *slot};
    check_values(problems, key, *slot, &axis->numbers);
}

static void find_axes(pare_grid *s, pare__problems *problems, const char *scope, pare__yaml *map)
{
    for (size_t i = 0; map->kind == PARE__YAML_MAP && i < map->count; i++) {
        const char *key = map->keys[i]->text;
        pare__yaml *item = map->items[i];
        if (strcmp(scope, "export") == 0 && strcmp(key, "to") == 0)
            pare__problem_add(problems, map->keys[i],
                              "to: a sweep keeps its points in its own folder: leave it out");
        else if (item->kind == PARE__YAML_MAP)
            find_axes(s, problems, key, item);
        else if (item->kind == PARE__YAML_LIST && !takes_list(scope, key))
            add_axis(s, problems, scope, key, &map->items[i]);
        else if (item->kind == PARE__YAML_LIST)
            for (size_t j = 0; j < item->count; j++)
                find_axes(s, problems, key, item->items[j]);
    }
}

static void find_all_axes(pare_grid *s, pare__problems *problems)
{
    pare__yaml *root = s->root;
    for (size_t i = 0; i < root->count; i++) {
        const char *key = root->keys[i]->text;
        pare__yaml *item = root->items[i];
        if (strcmp(key, "steps") == 0 && item->kind == PARE__YAML_LIST)
            for (size_t j = 0; j < item->count; j++)
                find_axes(s, problems, "steps", item->items[j]);
        else if (item->kind == PARE__YAML_MAP)
            find_axes(s, problems, key, item);
        else if (item->kind == PARE__YAML_LIST && strcmp(key, "steps") != 0)
            add_axis(s, problems, "", key, &root->items[i]);
    }
}

static bool same_name(const pare_grid *s, size_t a)
{
    for (size_t b = 0; b < s->axis_count; b++)
        if (b != a && strcmp(s->axes[a].key, s->axes[b].key) == 0 &&
            strcmp(s->axes[a].scope, s->axes[b].scope) == 0)
            return true;
    return false;
}

/* What the key stands in and the key, so that none is that of something measured; where others are
 * the same, the line behind it. */
static pare_status name_axes(pare_grid *s)
{
    for (size_t a = 0; a < s->axis_count; a++) {
        pare__axis *axis = &s->axes[a];
        pare__text name = {0};
        if (axis->scope[0])
            pare__text_add(&name, "%s.", axis->scope);
        pare__text_add(&name, "%s", axis->key);
        if (same_name(s, a))
            pare__text_add(&name, ":%d", axis->list->line);
        PARE_TRY(pare__text_take(&name, &axis->name));
    }
    return PARE_OK;
}

/* ---- what the sweep says of itself ----------------------------------------------------------- */

/* Takes `sweep: { … }` out of the tree, which is a recipe's then. */
static void read_settings(pare_grid *s, pare__problems *problems)
{
    static const char *const keys[] = {"keep", "batch", "repeats", NULL};
    enum { KEEP, BATCH, REPEATS_KEY };
    pare__yaml *root = s->root, *map = NULL;
    pare__fields f;
    for (size_t i = 0; i < root->count && !map; i++) {
        if (strcmp(root->keys[i]->text, "sweep") != 0)
            continue;
        map = root->items[i];
        pare__yaml_free(&root->keys[i]);
        root->count--;
        memmove(root->keys + i, root->keys + i + 1, (root->count - i) * sizeof *root->keys);
        memmove(root->items + i, root->items + i + 1, (root->count - i) * sizeof *root->items);
    }
    if (map && pare__read_map(problems, map, "sweep", keys, NULL, &f)) {
        if (f.value[KEEP])
            pare__read_bool(problems, f.value[KEEP], "keep", &s->keep);
        if (f.value[BATCH])
            pare__read_count(problems, f.value[BATCH], "batch", 1, &s->batch);
        if (f.value[REPEATS_KEY])
            pare__read_count(problems, f.value[REPEATS_KEY], "repeats", 0, &s->repeats);
    }
    pare__yaml_free(&map);
}

static pare_status new_scalar(const char *text, pare__yaml **node)
{
    char *copy = NULL;
    *node = NULL;
    PARE_TRY(pare__calloc(1, sizeof **node, node));
    (*node)->line = (*node)->column = 1;
    pare_status status = pare__strdup(text, &copy);
    (*node)->text = copy;
    if (status != PARE_OK)
        pare__yaml_free(node);
    return status;
}

/* --seed in the place of the file's. */
static pare_status set_seed(pare_grid *s, uint64_t seed)
{
    pare__yaml *root = s->root, *value = NULL, *key = NULL;
    char text[24];
    size_t keys = root->count, items = root->count;
    snprintf(text, sizeof text, "%" PRIu64, seed);
    for (size_t i = 0; i < root->count; i++) {
        if (strcmp(root->keys[i]->text, "seed") != 0)
            continue;
        PARE_REQUIRE(root->items[i]->kind == PARE__YAML_SCALAR, PARE_ERR_ARGUMENT,
                     "%s:%d:%d: seed: is swept over here: leave --seed out", s->name,
                     root->items[i]->line, root->items[i]->column);
        PARE_TRY(new_scalar(text, &value));
        pare__yaml_free(&root->items[i]);
        root->items[i] = value;
        return PARE_OK;
    }
    PARE_TRY(pare__grow(&root->keys, &keys, root->count + 1, sizeof *root->keys));
    PARE_TRY(pare__grow(&root->items, &items, root->count + 1, sizeof *root->items));
    PARE_TRY(new_scalar("seed", &key));
    pare_status status = new_scalar(text, &value);
    if (status != PARE_OK) {
        pare__yaml_free(&key);
        return status;
    }
    root->keys[root->count] = key;
    root->items[root->count++] = value;
    return PARE_OK;
}

/* ---- points ---------------------------------------------------------------------------------- */

/* Problems of all points: each once, and in how many it was found. */
typedef struct found {
    pare__problems all;
    size_t *times; /* [all.count] */
    size_t capacity;
} found;

static pare_status count_problem(found *f, const pare__problem *p)
{
    size_t i = 0;
    for (; i < f->all.count; i++)
        if (f->all.list[i].line == p->line && f->all.list[i].column == p->column &&
            strcmp(f->all.list[i].text, p->text) == 0)
            break;
    if (i == f->all.count) {
        const pare__yaml place = {.line = p->line, .column = p->column};
        f->all.together = p->together;
        pare__problem_add(&f->all, &place, "%s", p->text);
        PARE_REQUIRE(!f->all.failed, PARE_ERR_MEMORY, "%s: out of memory", f->all.what);
        PARE_TRY(pare__grow(&f->times, &f->capacity, f->all.count, sizeof *f->times));
        f->times[i] = 0;
    }
    f->times[i]++;
    return PARE_OK;
}

/* The sentences of a point's problems as one. */
static pare_status join_problems(const pare__problems *problems, char **text)
{
    pare__text joined = {0};
    for (size_t i = 0; i < problems->count; i++)
        pare__text_add(&joined, "%s%s", i ? "; " : "", problems->list[i].text);
    return pare__text_take(&joined, text);
}

static pare_status read_point(pare_grid *s, pare__point *point, found *f)
{
    pare_status status = PARE_OK;
    pare__problems problems = {.what = s->name};
    for (size_t a = 0; a < s->axis_count; a++)
        *s->axes[a].slot = s->axes[a].list->items[point->value[a]];
    status = pare__recipe_of(s->root, &problems, &point->recipe);
    for (size_t a = 0; a < s->axis_count; a++)
        *s->axes[a].slot = s->axes[a].list;
    PARE_TRY_DONE(status);
    if (problems.failed)
        PARE_TRY_DONE(pare__error(PARE_ERR_MEMORY, __func__, "%s: out of memory", s->name));
    for (size_t i = 0; i < problems.count; i++)
        PARE_TRY_DONE(count_problem(f, &problems.list[i]));
    if (problems.count)
        PARE_TRY_DONE(join_problems(&problems, &point->problem));
done:
    pare__problems_free(&problems);
    return status;
}

static pare_status add_point(pare_grid *s, bool dense, pare__point **point)
{
    PARE_TRY(pare__grow(&s->points, &s->point_capacity, s->point_count + 1, sizeof *s->points));
    *point = &s->points[s->point_count++];
    **point = (pare__point){.dense = PARE__NO_POINT};
    if (!dense)
        PARE_TRY(pare__calloc(s->axis_count + 1, sizeof *(*point)->value, &(*point)->value));
    return PARE_OK;
}

static pare_status read_points(pare_grid *s, found *f)
{
    size_t count = 1;
    for (size_t a = 0; a < s->axis_count; a++) {
        count *= s->axes[a].list->count;
        PARE_REQUIRE(count <= MOST_POINTS, PARE_ERR_ARGUMENT,
                     "%s: the grid has more than %d points: sweep over less at a time", s->name,
                     MOST_POINTS);
    }
    for (size_t i = 0; i < count; i++) {
        pare__point *point;
        size_t left = i;
        PARE_TRY(add_point(s, false, &point));
        for (size_t a = s->axis_count; a-- > 0; left /= s->axes[a].list->count)
            point->value[a] = left % s->axes[a].list->count;
        PARE_TRY(read_point(s, point, f));
    }
    return PARE_OK;
}

/* Errors of values, of every point, or of all points there are. */
static pare_status judge(const pare_grid *s, found *f)
{
    pare__problems shown = {.what = s->name};
    bool any = false;
    for (size_t i = 0; i < s->point_count; i++)
        any = any || s->points[i].recipe;
    for (size_t i = 0; i < f->all.count; i++) {
        const pare__problem *p = &f->all.list[i];
        const pare__yaml place = {.line = p->line, .column = p->column};
        if (!any || !p->together || f->times[i] == s->point_count)
            pare__problem_add(&shown, &place, "%s", p->text);
    }
    pare_status status = pare__problems_status(&shown);
    pare__problems_free(&shown);
    return status;
}

/* ---- dense models ---------------------------------------------------------------------------- */

const pare_eval_step *pare__last_eval(const pare_recipe *recipe)
{
    for (size_t i = recipe->step_count; i-- > 0;)
        if (recipe->steps[i].kind == PARE_STEP_EVAL)
            return &recipe->steps[i].eval;
    return NULL;
}

/* A recipe that only measures what this one begins with. */
static pare_status dense_recipe(const pare_recipe *from, pare_recipe **recipe)
{
    const pare_eval_step *e = pare__last_eval(from);
    pare_status status = PARE_OK;
    pare_recipe *r = NULL;
    PARE_TRY_DONE(pare_recipe_new(&r));
    PARE_TRY_DONE(pare__strdup(from->model, &r->model));
    PARE_TRY_DONE(pare__strdup(from->arch, &r->arch));
    PARE_TRY_DONE(pare__calloc(1, sizeof *r->steps, &r->steps));
    r->step_count = 1;
    r->steps[0] = (pare_step){.kind = PARE_STEP_EVAL, .eval = *e};
    pare_eval_step *to = &r->steps[0].eval;
    to->data = to->labels = to->against = NULL;
    PARE_TRY_DONE(pare__strdup(e->data, &to->data));
    PARE_TRY_DONE(pare__strdup(e->labels, &to->labels));
    PARE_TRY_DONE(pare__strdup(e->against, &to->against));
    *recipe = r;
    r = NULL;
done:
    pare_recipe_free(&r);
    return status;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_dense(const pare_recipe *a, const pare_recipe *b)
{
    const pare_eval_step *x = &a->steps[0].eval, *y = &b->steps[0].eval;
    return same_text(a->model, b->model) && same_text(a->arch, b->arch) &&
           same_text(x->data, y->data) && same_text(x->labels, y->labels) &&
           same_text(x->against, y->against) && x->metrics == y->metrics &&
           x->samples == y->samples && x->seq_len == y->seq_len && x->skip == y->skip &&
           x->batch == y->batch;
}

/* Behind the grid's points, which they are put before then. */
static pare_status add_dense(pare_grid *s)
{
    size_t grid = s->point_count;
    for (size_t i = 0; i < grid; i++) {
        pare_recipe *dense = NULL;
        pare__point *point;
        if (!s->points[i].recipe || !pare__last_eval(s->points[i].recipe))
            continue;
        PARE_TRY(dense_recipe(s->points[i].recipe, &dense));
        size_t d = grid;
        while (d < s->point_count && !same_dense(s->points[d].recipe, dense))
            d++;
        s->points[i].dense = d - grid;
        if (d < s->point_count) {
            pare_recipe_free(&dense);
            continue;
        }
        pare_status status = add_point(s, true, &point);
        if (status != PARE_OK) {
            pare_recipe_free(&dense);
            return status;
        }
        point->recipe = dense;
    }
    s->dense_count = s->point_count - grid;
    pare__point *order = NULL;
    PARE_TRY(pare__calloc(s->point_count, sizeof *order, &order));
    memcpy(order, s->points + grid, s->dense_count * sizeof *order);
    memcpy(order + s->dense_count, s->points, grid * sizeof *order);
    memcpy(s->points, order, s->point_count * sizeof *order);
    free(order);
    return PARE_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

static pare_status read_all(pare_grid *s, const uint64_t *seed)
{
    pare_status status = PARE_OK;
    found f = {.all = {.what = s->name}};
    PARE_TRY_DONE(pare__yaml_parse(s->text, strlen(s->text), s->name, &s->root));
    if (s->root && s->root->kind == PARE__YAML_MAP) {
        read_settings(s, &f.all);
        if (seed)
            PARE_TRY_DONE(set_seed(s, *seed));
        find_all_axes(s, &f.all);
    }
    PARE_TRY_DONE(name_axes(s));
    PARE_TRY_DONE(pare__problems_status(&f.all));
    PARE_TRY_DONE(read_points(s, &f));
    PARE_TRY_DONE(judge(s, &f));
    PARE_TRY_DONE(add_dense(s));
done:
    pare__problems_free(&f.all);
    free(f.times);
    return status;
}

pare_status pare_grid_parse(const char *text, size_t length, const char *what, const uint64_t *seed,
                            pare_grid **sweep)
{
    pare_status status = PARE_OK;
    pare_grid *s = NULL;
    PARE_REQUIRE((text || !length) && sweep, PARE_ERR_ARGUMENT, "sweep: NULL argument");
    *sweep = NULL;
    PARE_REQUIRE(!length || !memchr(text, 0, length), PARE_ERR_ARGUMENT, "%s: is no text",
                 what ? what : "sweep");
    PARE_TRY_DONE(pare__calloc(1, sizeof *s, &s));
    s->repeats = REPEATS;
    PARE_TRY_DONE(pare__strdup(what ? what : "sweep", &s->name));
    PARE_TRY_DONE(pare__calloc(length + 1, 1, &s->text));
    if (length)
        memcpy(s->text, text, length);
    PARE_TRY_DONE(read_all(s, seed));
    *sweep = s;
    s = NULL;
done:
    pare_grid_free(&s);
    return status;
}

pare_status pare_grid_read(const char *path, const uint64_t *seed, pare_grid **sweep)
{
    PARE_REQUIRE(path && sweep, PARE_ERR_ARGUMENT, "sweep: NULL argument");
    char *text = NULL;
    int64_t size = 0;
    *sweep = NULL;
    PARE_TRY(pare__file_load(path, MAX_SWEEP_BYTES, &text, &size));
    pare_status status = pare_grid_parse(text, (size_t)size, path, seed, sweep);
    free(text);
    PARE_TRY(status);
    return PARE_OK;
}

void pare_grid_free(pare_grid **sweep)
{
    pare_grid *s = sweep ? *sweep : NULL;
    if (!s)
        return;
    for (size_t i = 0; i < s->point_count; i++) {
        pare_recipe_free(&s->points[i].recipe);
        free(s->points[i].problem);
        free(s->points[i].value);
    }
    for (size_t a = 0; a < s->axis_count; a++)
        free(s->axes[a].name);
    free(s->points);
    free(s->axes);
    pare__yaml_free(&s->root);
    free(s->text);
    free(s->name);
    free(s);
    *sweep = NULL;
}

char *pare__point_text(const pare_grid *s, size_t point, char *text, size_t size)
{
    const pare__point *p = &s->points[point];
    size_t at = 0;
    text[0] = '\0';
    if (!p->value) {
        snprintf(text, size, "dense model %s", p->recipe->model);
        return text;
    }
    for (size_t a = 0; a < s->axis_count && at < size; a++)
        at += (size_t)snprintf(text + at, size - at, "%s%s %s", a ? ", " : "", s->axes[a].name,
                               s->axes[a].list->items[p->value[a]]->text);
    return text;
}
