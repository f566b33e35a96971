/* fuzz_recipe.c - any bytes as a recipe: refused with a sentence, or read; and then its normalised
 * text reads back as the same work. */
#include "pare/recipe.h"

#include "base/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void reads_back(const pare_recipe *recipe)
{
    char *first = NULL, *second = NULL, *with_model = NULL;
    pare_recipe *again = NULL;
    pare__text text = {0};
    if (pare_recipe_text(recipe, &first) != PARE_OK)
        abort();
    pare__text_add(&text, "model: m\ndata: { calibration: c }\n%s", first);
    if (pare__text_take(&text, &with_model) != PARE_OK ||
        pare_recipe_parse(with_model, strlen(with_model), "text", &again) != PARE_OK ||
        pare_recipe_text(again, &second) != PARE_OK || strcmp(first, second) != 0)
        abort();
    pare_recipe_free(&again);
    free(with_model);
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pare_recipe *recipe = NULL;
    if (pare_recipe_parse((const char *)data, size, "fuzz", &recipe) == PARE_OK) {
        if (!recipe)
            abort();
        reads_back(recipe);
        pare_recipe_free(&recipe);
    } else if (recipe || !*pare_last_error())
        abort();
    return 0;
}
