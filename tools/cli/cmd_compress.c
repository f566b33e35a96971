/* cmd_compress.c - prune, quantize, convert: recipes of one step, made from options. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* A recipe with model, seed, output and format, for the commands below to add to. NULL with the
 * exit code in *code. */
static pare_recipe *begin(const struct args *args, int *code)
{
    const struct option_value *v = args->value;
    pare_recipe *recipe = NULL;
    const char *format = NULL;
    pare_status status = PARE_OK;
    if (!v[OPT_OUTPUT].given) {
        *code =
            complain(2, "%s needs -o OUT: where the result goes; its ending decides the container",
                     args->command->name);
        return NULL;
    }
    if (v[OPT_TO].given)
        status = pare_export_format_parse(v[OPT_TO].text, &format);
    if (status == PARE_OK)
        status = pare_recipe_new(&recipe);
    if (status != PARE_OK) {
        *code = complain_status(args, status);
        return NULL;
    }
    recipe->seed = v[OPT_SEED].seed;
    recipe->max_shard_size = v[OPT_MAX_SHARD_SIZE].whole;
    recipe->model = strdup(args->operand[0]);
    recipe->output = copy_output(args);
    recipe->format = format ? strdup(format) : NULL;
    if (!recipe->model || !recipe->output || (format && !recipe->format)) {
        *code = complain(4, "out of memory");
        pare_recipe_free(&recipe);
    }
    return recipe;
}

/* Gives the recipe up after a failure. */
static int refuse(const struct args *args, pare_recipe *recipe, pare_status status)
{
    int code = complain_status(args, status);
    pare_recipe_free(&recipe);
    return code;
}

static int out_of_memory(pare_recipe *recipe)
{
    pare_recipe_free(&recipe);
    return complain(4, "out of memory");
}

int cmd_prune(const struct args *args)
{
    const struct option_value *v = args->value;
    int code = 0;
    pare_recipe *recipe = begin(args, &code);
    if (!recipe)
        return code;
    pare_prune_step *step = recipe->prunes = calloc(1, sizeof *step);
    if (!step)
        return out_of_memory(recipe);
    recipe->prune_count = 1;
    pare_status status = pare_prune_method_parse(
        v[OPT_METHOD].given ? v[OPT_METHOD].text : "magnitude", &step->method);
    if (status == PARE_OK && v[OPT_PATTERN].given)
        status = pare_pattern_parse(v[OPT_PATTERN].text, &step->pattern);
    if (status == PARE_OK && v[OPT_SCOPE].given)
        status = pare_scope_parse(v[OPT_SCOPE].text, &step->scope);
    if (status != PARE_OK)
        return refuse(args, recipe, status);
    bool nm = step->pattern.kind == PARE_PATTERN_NM;
    if (nm == v[OPT_SPARSITY].given) {
        pare_recipe_free(&recipe);
        return nm ? complain(2, "--sparsity: pattern %s has its own, 1 - N/M; leave --sparsity out",
                             v[OPT_PATTERN].text)
                  : complain(2,
                             "prune needs --sparsity, the share of the weights to remove, 0 to 1");
    }
    step->sparsity = v[OPT_SPARSITY].real;
    if (nm)
        step->scope = PARE_SCOPE_GLOBAL; /* has no meaning there: one spelling */
    if (!choice_append(&step->choice, &args->choice))
        return out_of_memory(recipe);
    return do_recipe(args, recipe, v[OPT_PLAN].given);
}

int cmd_quantize(const struct args *args)
{
    const struct option_value *v = args->value;
    int code = 0;
    if (!v[OPT_SCHEME].given)
        return complain(
            2,
            "quantize needs --scheme, such as w4g128, w8 or fp8; pare quantize --help lists them");
    pare_recipe *recipe = begin(args, &code);
    if (!recipe)
        return code;
    pare_quant_step *step = recipe->quants = calloc(1, sizeof *step);
    if (!step)
        return out_of_memory(recipe);
    recipe->quant_count = 1;
    pare_status status =
        pare_quant_method_parse(v[OPT_METHOD].given ? v[OPT_METHOD].text : "rtn", &step->method);
    if (status == PARE_OK)
        status = pare_scheme_parse(v[OPT_SCHEME].text, &step->scheme);
    if (status == PARE_OK && v[OPT_SCALE].given)
        status = pare_scale_search_parse(v[OPT_SCALE].text, &step->search);
    if (status != PARE_OK)
        return refuse(args, recipe, status);
    if (!choice_append(&step->choice, &args->choice))
        return out_of_memory(recipe);
    return do_recipe(args, recipe, v[OPT_PLAN].given);
}

int cmd_convert(const struct args *args)
{
    int code = 0;
    pare_recipe *recipe = begin(args, &code);
    return recipe ? do_recipe(args, recipe, args->value[OPT_PLAN].given) : code;
}
