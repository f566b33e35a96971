/* recipe_read.c - a recipe from YAML: the keys of docs/cli.md, all errors at once.
 *
 * Each map is read in two moves: pare__read_map() sorts its values by key and notes what does not
 * belong; then each value is read by its type. A problem is noted and reading goes on; a value with
 * a problem is not judged again.
 */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

void pare__read_copy(pare__reader *r, const pare__yaml *node, const char *name, char **copy)
{
    const char *text = pare__read_text(&r->problems, node, name);
    if (text && !*copy && pare__strdup(text, copy) != PARE_OK)
        r->problems.failed = true;
}

void pare__add_step(pare__reader *r, pare_step *step)
{
    if (pare__grow(&r->recipe->steps, &r->step_capacity, r->recipe->step_count + 1, sizeof *step) !=
        PARE_OK) {
        r->problems.failed = true;
        pare__step_free(step);
        return;
    }
    r->recipe->steps[r->recipe->step_count++] = *step;
}

/* "out/" is the folder "out": its journal and report lie beside it. */
static void drop_slashes(char *path)
{
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
}

static void read_export(pare__reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"to", "format", "max_shard_size", NULL};
    enum { TO, FORMAT, MAX_SHARD_SIZE };
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "export", keys, NULL, &f))
        return;
    const char *text, *format = NULL;
    if (f.value[TO]) {
        pare__read_copy(r, f.value[TO], "to", &r->recipe->output);
        drop_slashes(r->recipe->output);
    }
    if (f.value[FORMAT] && (text = pare__read_text(&r->problems, f.value[FORMAT], "format"))) {
        if (pare_export_format_parse(text, &format) != PARE_OK)
            pare__problem_last(&r->problems, f.value[FORMAT]);
        else if (!r->recipe->format && pare__strdup(format, &r->recipe->format) != PARE_OK)
            r->problems.failed = true;
    }
    if (f.value[MAX_SHARD_SIZE])
        pare__read_size(&r->problems, f.value[MAX_SHARD_SIZE], "max_shard_size",
                        &r->recipe->max_shard_size);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void read_step(pare__reader *r, const pare__yaml *node)
{
    static const char *const kinds[] = {"prune",   "quantize", "compress", "train",
                                        "distill", "eval",     "export",   NULL};
    enum { PRUNE, QUANTIZE, COMPRESS, TRAIN, DISTILL, EVAL, EXPORT };
    static const char *const later[] = {"sweep", "bench", NULL};
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "step", kinds, later, &f))
        return;
    if (node->count != 1) {
        pare__problem_add(
            &r->problems, node,
            "step: found %zu keys in one list item, expected one step in each: begin each "
            "with \"- \"",
            node->count);
        return;
    }
    if (r->exported)
        pare__problem_add(&r->problems, node,
                          f.value[EXPORT]
                              ? "export: a second one, expected at most one"
                              : "step: comes after export, expected export to be the last");
    if (f.value[PRUNE])
        pare__read_prune_step(r, f.value[PRUNE]);
    if (f.value[QUANTIZE])
        pare__read_quantize_step(r, f.value[QUANTIZE]);
    if (f.value[COMPRESS])
        pare__read_compress_step(r, f.value[COMPRESS]);
    if (f.value[TRAIN])
        pare__read_train_step(r, f.value[TRAIN], false);
    if (f.value[DISTILL])
        pare__read_train_step(r, f.value[DISTILL], true);
    if (f.value[EVAL])
        pare__read_eval_step(r, f.value[EVAL]);
    if (f.value[EXPORT])
        read_export(r, f.value[EXPORT]);
    r->exported = r->exported || f.value[EXPORT];
}

static void read_data(pare__reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"calibration", "labels",      "train", "train_labels",
                                       "eval",        "eval_labels", NULL};
    const char **texts[] = {&r->calibration,  &r->labels, &r->train,
                            &r->train_labels, &r->eval,   &r->eval_labels};
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "data", keys, NULL, &f))
        return;
    for (size_t i = 0; keys[i]; i++)
        if (f.value[i] && !(*texts[i] = pare__read_text(&r->problems, f.value[i], keys[i])))
            *texts[i] = "?"; /* what is wrong is not missing too */
        else if (f.guessed[i])
            *texts[i] = "?";
}

static void read_recipe(pare__reader *r, const pare__yaml *root)
{
    static const char *const keys[] = {"model", "arch", "seed", "data", "steps", NULL};
    enum { MODEL, ARCH, SEED, DATA, STEPS };
    pare__fields f;
    if (!pare__read_map(&r->problems, root, "recipe", keys, NULL, &f))
        return;
    if (f.value[MODEL])
        pare__read_copy(r, f.value[MODEL], "model", &r->recipe->model);
    else if (!f.guessed[MODEL])
        pare__problem_add(&r->problems, root,
                          "recipe: model is missing, expected the path of a checkpoint");
    if (f.value[ARCH])
        pare__read_copy(r, f.value[ARCH], "arch", &r->recipe->arch);
    if (f.value[SEED])
        pare__read_uint(&r->problems, f.value[SEED], "seed", &r->recipe->seed);
    if (f.value[DATA])
        read_data(r, f.value[DATA]);
    const pare__yaml *steps = f.value[STEPS];
    if (!steps && !f.guessed[STEPS])
        pare__problem_add(&r->problems, root, "recipe: steps is missing, expected a list of steps");
    if (steps && steps->kind != PARE__YAML_LIST)
        pare__problem_add(
            &r->problems, steps, "steps: found %s, expected a list: begin each step with \"- \"",
            steps->kind == PARE__YAML_SCALAR && !steps->text[0] ? "nothing"
                                                                : pare__show(steps).text);
    for (size_t i = 0; steps && steps->kind == PARE__YAML_LIST && i < steps->count; i++)
        read_step(r, steps->items[i]);
}

pare_status pare__recipe_of(const pare__yaml *root, pare__problems *problems, pare_recipe **recipe)
{
    pare__reader r = {.problems = *problems};
    *recipe = NULL;
    PARE_TRY(pare_recipe_new(&r.recipe));
    read_recipe(&r, root);
    bool sound = r.problems.count == problems->count && !r.problems.failed;
    *problems = r.problems;
    if (sound)
        *recipe = r.recipe;
    else
        pare_recipe_free(&r.recipe);
    return PARE_OK;
}

pare_status pare_recipe_parse(const char *text, size_t length, const char *what,
                              pare_recipe **recipe)
{
    pare_status status = PARE_OK;
    pare__yaml *root = NULL;
    pare_recipe *read = NULL;
    pare__problems problems = {.what = what ? what : "recipe"};
    PARE_REQUIRE((text || !length) && recipe, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    *recipe = NULL;
    PARE_TRY_DONE(pare__yaml_parse(text, length, problems.what, &root));
    PARE_TRY_DONE(pare__recipe_of(root, &problems, &read));
    PARE_TRY_DONE(pare__problems_status(&problems));
    *recipe = read;
    read = NULL;
done:
    pare__problems_free(&problems);
    pare__yaml_free(&root);
    pare_recipe_free(&read);
    return status;
}
