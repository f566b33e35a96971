/* recipe.c - the life of a recipe: made, read from a file, freed. */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#define MAX_RECIPE_BYTES ((int64_t)16 << 20)

pare_status pare_recipe_new(pare_recipe **recipe)
{
    PARE_REQUIRE(recipe, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    PARE_TRY(pare__calloc(1, sizeof **recipe, recipe));
    return PARE_OK;
}

void pare__calibration_free(pare_calibration *calibration)
{
    free(calibration->path);
    free(calibration->labels);
    free(calibration->cache);
    *calibration = (pare_calibration){0};
}

void pare__step_free(pare_step *step)
{
    pare__calibration_free(&step->calibration);
    free(step->eval.data);
    free(step->eval.labels);
    free(step->eval.against);
    pare_train_step_free(&step->train);
}

void pare__choice_free(pare_choice *choice)
{
    for (size_t i = 0; i < choice->includes; i++)
        free(choice->include[i]);
    for (size_t i = 0; i < choice->excludes; i++)
        free(choice->exclude[i]);
    free(choice->include);
    free(choice->exclude);
}

void pare_recipe_free(pare_recipe **recipe)
{
    pare_recipe *r = recipe ? *recipe : NULL;
    if (!r)
        return;
    for (size_t i = 0; i < r->prune_count; i++)
        pare__choice_free(&r->prunes[i].choice);
    for (size_t i = 0; i < r->quant_count; i++) {
        pare__choice_free(&r->quants[i].choice);
        free(r->quants[i].mixed.schemes);
    }
    for (size_t i = 0; i < r->step_count; i++)
        pare__step_free(&r->steps[i]);
    free(r->steps);
    free(r->prunes);
    free(r->quants);
    free(r->model);
    free(r->arch);
    free(r->output);
    free(r->format);
    free(r);
    *recipe = NULL;
}

pare_status pare_recipe_read(const char *path, pare_recipe **recipe)
{
    PARE_REQUIRE(path && recipe, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    char *text = NULL;
    int64_t size = 0;
    *recipe = NULL;
    PARE_TRY(pare__file_load(path, MAX_RECIPE_BYTES, &text, &size));
    pare_status status = pare_recipe_parse(text, (size_t)size, path, recipe);
    free(text);
    PARE_TRY(status);
    return PARE_OK;
}
