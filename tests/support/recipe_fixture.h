/* recipe_fixture.h - recipes that must be read, and recipes that must not. */
#ifndef PARE_RECIPE_FIXTURE_H
#define PARE_RECIPE_FIXTURE_H

#include "pare/recipe.h"

/* A sound recipe, called "r.yaml". */
pare_recipe *recipe_parse(const char *text);

/* The recipe must fail with sentences that have these parts in this order; NULL ends them. */
void recipe_refuse(const char *text, const char *const *parts);

#define REFUSE(text_, ...) recipe_refuse((text_), (const char *const[]){__VA_ARGS__, NULL})

/* A recipe with one step. */
#define STEP(step_) "model: m\nsteps:\n  - " step_ "\n"

#endif
