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

struct reader {
    pare__problems problems;
    pare_recipe *recipe;
    size_t prune_capacity, quant_capacity;
    bool exported; /* an export step was seen */
};

/* What steps of later versions take, in methods that need data. */
static const char *const data_keys[] = {"data",   "samples", "seq_len", "skip", "shuffle",
                                        "labels", "pad_id",  "bos_id",  NULL};

/* The globs that hold for both halves of a compress step. */
struct shared_choice {
    const pare__yaml *include, *exclude; /* NULL where not given */
};

/* ---- choices --------------------------------------------------------------------------------- */

static void add_glob(struct reader *r, const pare__yaml *node, const char *name, char **globs,
                     size_t *count)
{
    const char *text = pare__read_text(&r->problems, node, name);
    if (text && pare__strdup(text, &globs[*count]) == PARE_OK)
        ++*count;
    else if (text)
        r->problems.failed = true;
}

/* One glob or a list of them. */
static void read_globs(struct reader *r, const pare__yaml *node, const char *name, char ***globs,
                       size_t *count)
{
    bool list = node->kind == PARE__YAML_LIST;
    if (node->kind == PARE__YAML_MAP) {
        pare__problem_add(&r->problems, node,
                          "%s: found a map, expected a pattern or a list of patterns", name);
        return;
    }
    if (pare__calloc(list ? node->count : 1, sizeof **globs, globs) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    for (size_t i = 0; list && i < node->count; i++)
        add_glob(r, node->items[i], name, *globs, count);
    if (!list)
        add_glob(r, node, name, *globs, count);
}

static void read_choice(struct reader *r, const pare__yaml *include, const pare__yaml *exclude,
                        const struct shared_choice *shared, pare_choice *choice)
{
    if (include && shared->include)
        pare__problem_add(&r->problems, include,
                          "include: given here and in compress: give it once");
    if (exclude && shared->exclude)
        pare__problem_add(&r->problems, exclude,
                          "exclude: given here and in compress: give it once");
    include = include ? include : shared->include;
    exclude = exclude ? exclude : shared->exclude;
    if (include)
        read_globs(r, include, "include", &choice->include, &choice->includes);
    if (exclude)
        read_globs(r, exclude, "exclude", &choice->exclude, &choice->excludes);
}

/* ---- prune ----------------------------------------------------------------------------------- */

/* sparsity belongs to unstructured and block patterns, and only to them. */
static void read_sparsity(struct reader *r, const pare__yaml *prune, const pare__yaml *node,
                          bool guessed, bool pattern_known, pare_prune_step *step)
{
    bool nm = step->pattern.kind == PARE_PATTERN_NM;
    bool sound = node && pare__read_fraction(&r->problems, node, "sparsity", &step->sparsity);
    if (!pattern_known)
        return;
    if (nm && sound)
        pare__problem_add(&r->problems, node,
                          "sparsity: beside pattern %d:%d, which has its own (%g): leave it out",
                          step->pattern.n, step->pattern.m,
                          1 - (double)step->pattern.n / step->pattern.m);
    if (nm)
        step->sparsity = 0;
    else if (!node && !guessed)
        pare__problem_add(
            &r->problems, prune,
            "prune: sparsity is missing, expected a number from 0 to 1 beside this pattern");
}

static void read_prune(struct reader *r, const pare__yaml *node, const struct shared_choice *shared)
{
    static const char *const keys[] = {"method",  "pattern", "sparsity", "scope",
                                       "include", "exclude", NULL};
    enum { METHOD, PATTERN, SPARSITY, SCOPE, INCLUDE, EXCLUDE };
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "prune", keys, data_keys, &f))
        return;
    pare_prune_step step = {.scope = PARE_SCOPE_GLOBAL};
    bool pattern_known = !f.guessed[PATTERN];
    const char *text = "magnitude";
    if (f.value[METHOD])
        text = pare__read_text(&r->problems, f.value[METHOD], "method");
    if (text && pare_prune_method_parse(text, &step.method) != PARE_OK)
        pare__problem_last(&r->problems, f.value[METHOD]);
    text = "unstructured";
    if (f.value[PATTERN])
        text = pare__read_text(&r->problems, f.value[PATTERN], "pattern");
    if (text && pare_pattern_parse(text, &step.pattern) != PARE_OK) {
        pare__problem_last(&r->problems, f.value[PATTERN]);
        text = NULL;
    }
    read_sparsity(r, node, f.value[SPARSITY], f.guessed[SPARSITY], pattern_known && text, &step);
    if (f.value[SCOPE] && (text = pare__read_text(&r->problems, f.value[SCOPE], "scope")) &&
        pare_scope_parse(text, &step.scope) != PARE_OK)
        pare__problem_last(&r->problems, f.value[SCOPE]);
    if (step.pattern.kind == PARE_PATTERN_NM)
        step.scope = PARE_SCOPE_GLOBAL; /* has no meaning there: one spelling */
    if (r->recipe->quant_count)
        pare__problem_add(
            &r->problems, node,
            "prune: comes after quantize, expected before it: put the prune step first");
    if (pare__grow(&r->recipe->prunes, &r->prune_capacity, r->recipe->prune_count + 1,
                   sizeof step) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    r->recipe->prunes[r->recipe->prune_count] = step;
    read_choice(r, f.value[INCLUDE], f.value[EXCLUDE], shared,
                &r->recipe->prunes[r->recipe->prune_count++].choice);
}

/* ---- quantize -------------------------------------------------------------------------------- */

static void read_quantize(struct reader *r, const pare__yaml *node,
                          const struct shared_choice *shared)
{
    static const char *const keys[] = {"method", "scheme", "scale", "include", "exclude", NULL};
    enum { METHOD, SCHEME, SCALE, INCLUDE, EXCLUDE };
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "quantize", keys, data_keys, &f))
        return;
    pare_quant_step step = {.search = PARE_SCALE_ABSMAX};
    const char *text = "rtn";
    if (f.value[METHOD])
        text = pare__read_text(&r->problems, f.value[METHOD], "method");
    if (text && pare_quant_method_parse(text, &step.method) != PARE_OK)
        pare__problem_last(&r->problems, f.value[METHOD]);
    if (!f.value[SCHEME] && !f.guessed[SCHEME])
        pare__problem_add(&r->problems, node,
                          "quantize: scheme is missing, expected one such as w4g128, w8 or fp8");
    if (f.value[SCHEME] && (text = pare__read_text(&r->problems, f.value[SCHEME], "scheme")) &&
        pare_scheme_parse(text, &step.scheme) != PARE_OK)
        pare__problem_last(&r->problems, f.value[SCHEME]);
    if (f.value[SCALE] && (text = pare__read_text(&r->problems, f.value[SCALE], "scale")) &&
        pare_scale_search_parse(text, &step.search) != PARE_OK)
        pare__problem_last(&r->problems, f.value[SCALE]);
    if (pare__grow(&r->recipe->quants, &r->quant_capacity, r->recipe->quant_count + 1,
                   sizeof step) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    r->recipe->quants[r->recipe->quant_count] = step;
    read_choice(r, f.value[INCLUDE], f.value[EXCLUDE], shared,
                &r->recipe->quants[r->recipe->quant_count++].choice);
}

/* ---- compress, export ------------------------------------------------------------------------ */

static void read_compress(struct reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"prune", "quantize", "include", "exclude", NULL};
    enum { PRUNE, QUANTIZE, INCLUDE, EXCLUDE };
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "compress", keys, data_keys, &f))
        return;
    struct shared_choice shared = {f.value[INCLUDE], f.value[EXCLUDE]};
    if (!f.value[PRUNE] && !f.value[QUANTIZE] && !f.guessed[PRUNE] && !f.guessed[QUANTIZE])
        pare__problem_add(&r->problems, node,
                          "compress: prune and quantize are both missing, expected at least one");
    if (f.value[PRUNE])
        read_prune(r, f.value[PRUNE], &shared);
    if (f.value[QUANTIZE])
        read_quantize(r, f.value[QUANTIZE], &shared);
}

static void read_copy(struct reader *r, const pare__yaml *node, const char *name, char **copy)
{
    const char *text = pare__read_text(&r->problems, node, name);
    if (text && !*copy && pare__strdup(text, copy) != PARE_OK)
        r->problems.failed = true;
}

/* "out/" is the folder "out": its journal and report lie beside it. */
static void drop_slashes(char *path)
{
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
}

static void read_export(struct reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"to", "format", "max_shard_size", NULL};
    enum { TO, FORMAT, MAX_SHARD_SIZE };
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "export", keys, NULL, &f))
        return;
    const char *text, *format = NULL;
    if (f.value[TO]) {
        read_copy(r, f.value[TO], "to", &r->recipe->output);
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

static void read_step(struct reader *r, const pare__yaml *node)
{
    static const char *const kinds[] = {"prune", "quantize", "compress", "export", NULL};
    static const char *const later[] = {"distill", "train", "eval", "sweep", "bench", "lora", NULL};
    static const struct shared_choice none = {NULL, NULL};
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
                          f.value[3] ? "export: a second one, expected at most one"
                                     : "step: comes after export, expected export to be the last");
    if (f.value[0])
        read_prune(r, f.value[0], &none);
    if (f.value[1])
        read_quantize(r, f.value[1], &none);
    if (f.value[2])
        read_compress(r, f.value[2]);
    if (f.value[3])
        read_export(r, f.value[3]);
    r->exported = r->exported || f.value[3];
}

static void read_data(struct reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"calibration", "eval", NULL};
    pare__fields f;
    if (!pare__read_map(&r->problems, node, "data", keys, NULL, &f))
        return;
    for (size_t i = 0; keys[i]; i++)
        if (f.value[i])
            pare__read_text(&r->problems, f.value[i], keys[i]);
}

static void read_recipe(struct reader *r, const pare__yaml *root)
{
    static const char *const keys[] = {"model", "seed", "data", "steps", NULL};
    enum { MODEL, SEED, DATA, STEPS };
    pare__fields f;
    if (!pare__read_map(&r->problems, root, "recipe", keys, NULL, &f))
        return;
    if (f.value[MODEL])
        read_copy(r, f.value[MODEL], "model", &r->recipe->model);
    else if (!f.guessed[MODEL])
        pare__problem_add(&r->problems, root,
                          "recipe: model is missing, expected the path of a checkpoint");
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

pare_status pare_recipe_parse(const char *text, size_t length, const char *what,
                              pare_recipe **recipe)
{
    pare_status status = PARE_OK;
    pare__yaml *root = NULL;
    struct reader r = {.problems = {.what = what ? what : "recipe"}};
    PARE_REQUIRE((text || !length) && recipe, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    *recipe = NULL;
    PARE_TRY_DONE(pare_recipe_new(&r.recipe));
    PARE_TRY_DONE(pare__yaml_parse(text, length, r.problems.what, &root));
    read_recipe(&r, root);
    PARE_TRY_DONE(pare__problems_status(&r.problems));
    *recipe = r.recipe;
    r.recipe = NULL;
done:
    pare__problems_free(&r.problems);
    pare__yaml_free(&root);
    pare_recipe_free(&r.recipe);
    return status;
}
