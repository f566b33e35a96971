/* cmd_run.c - the commands that work by a recipe: plan and run, from a file. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static bool append(char ***list, size_t *count, char *const *more, size_t more_count)
{
    if (!more_count)
        return true;
    char **grown = realloc(*list, (*count + more_count) * sizeof *grown);
    if (!grown)
        return false;
    *list = grown;
    for (size_t i = 0; i < more_count; i++) {
        grown[*count] = strdup(more[i]);
        if (!grown[*count])
            return false;
        ++*count;
    }
    return true;
}

bool choice_append(pare_choice *choice, const pare_choice *more)
{
    return append(&choice->include, &choice->includes, more->include, more->includes) &&
           append(&choice->exclude, &choice->excludes, more->exclude, more->excludes);
}

char *copy_output(const struct args *args)
{
    char *path = strdup(args->value[OPT_OUTPUT].text);
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
    return path;
}

int do_recipe(const struct args *args, pare_recipe *recipe, bool plan)
{
    struct session session;
    pare_report *report = NULL;
    int code = session_begin(args, &session);
    if (code == 0) {
        pare_status status = plan ? pare_plan(recipe, &session.options, &report)
                                  : pare_run(recipe, &session.options, &report);
        session_end(&session);
        if (status == PARE_OK)
            code = report ? show_report(args, report) : 0; /* the first of several has it */
        else
            code = complain_status(args, status);
    }
    pare_report_free(&report);
    pare_recipe_free(&recipe);
    return code;
}

/* What the command line says on top of the file. */
static bool override(const struct args *args, pare_recipe *recipe)
{
    const struct option_value *v = args->value;
    bool good = true;
    if (v[OPT_SEED].given)
        recipe->seed = v[OPT_SEED].seed;
    if (v[OPT_OUTPUT].given) {
        free(recipe->output);
        recipe->output = copy_output(args);
        good = recipe->output != NULL;
    }
    for (size_t i = 0; good && i < recipe->prune_count; i++)
        good = choice_append(&recipe->prunes[i].choice, &args->choice);
    for (size_t i = 0; good && i < recipe->quant_count; i++)
        good = choice_append(&recipe->quants[i].choice, &args->choice);
    return good;
}

static int from_file(const struct args *args, bool plan)
{
    pare_recipe *recipe = NULL;
    pare_status status = pare_recipe_read(args->operand[0], &recipe);
    if (status != PARE_OK)
        return complain_status(args, status);
    if (!override(args, recipe)) {
        pare_recipe_free(&recipe);
        return complain(4, "out of memory");
    }
    if (!recipe->output && !plan) {
        pare_recipe_free(&recipe);
        return complain(2,
                        "run: there is no output: give -o OUT, or an export step with `to` in %s",
                        args->operand[0]);
    }
    return do_recipe(args, recipe, plan);
}

int cmd_plan(const struct args *args)
{
    return from_file(args, true);
}

int cmd_run(const struct args *args)
{
    return from_file(args, args->value[OPT_PLAN].given);
}
