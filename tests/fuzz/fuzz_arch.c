/* fuzz_arch.c - any text as config.json, and as the text of --arch: a model or a sentence. */
#include "pare/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is built must be whole: a plan for it can be drawn up or is refused, its own config makes it
 * again. */
static void check(pare_model *model)
{
    pare_model *again = NULL;
    const pare_model_facts *facts = pare_model_facts_of(model);
    pare_model_memory memory;
    pare_model_shape shape = {.batch = 2, .length = facts->tokens ? 3 : 0, .compute = PARE_F32};
    (void)pare_model_predict(model, &shape, &memory);
    if (facts->classes < 1 || pare_model_param_count(model) < 1 ||
        pare_model_create(&(pare_model_options){.config = pare_model_config(model)}, &again) !=
            PARE_OK ||
        pare_model_param_count(again) != pare_model_param_count(model))
        abort();
    pare_model_free(&again);
    pare_model_free(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pare_model *model = NULL;
    char *text = malloc(size + 1);
    if (!text)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    pare_model_options config = {.config = text}, arch = {.arch = text};
    if (pare_model_create(&config, &model) == PARE_OK)
        check(model);
    if (pare_model_create(&arch, &model) == PARE_OK)
        check(model);
    free(text);
    return 0;
}
