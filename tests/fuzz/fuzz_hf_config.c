/* fuzz_hf_config.c - any text as config.json: what it says about a module, and its
 * quantization_config replaced. */
#include "store/store_impl.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void rewrite(const char *text)
{
    pare__slot slot = {.entry = {.name = "model.layers.0.mlp.up_proj.weight",
                                 .dtype = PARE_BF16,
                                 .rank = 2,
                                 .shape = {64, 64},
                                 .form = PARE_FORM_QUANT}};
    char *config = NULL, *quantization = NULL;
    if (pare_scheme_parse("w4g32z", &slot.entry.scheme) != PARE_OK ||
        pare__codec_for(&slot.entry, "", &slot.codec) != PARE_OK)
        abort();
    if (pare__hf_config_write(text, &slot, 1, &config, &quantization) == PARE_OK) {
        pare__json *root;
        pare_scheme scheme;
        if (pare__json_parse(config, strlen(config), "again", &root) != PARE_OK ||
            pare__hf_config_scheme(root, "model.layers.0.mlp.up_proj", &scheme) != PARE_OK ||
            scheme.bits != 4 || scheme.block_cols != 32 || !scheme.asymmetric)
            abort();
        pare__json_free(&root);
    }
    free(config), free(quantization);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    pare__json *root;
    if (pare__json_parse(text, strlen(text), "fuzz", &root) == PARE_OK) {
        pare_scheme scheme;
        (void)pare__hf_config_scheme(root, "model.layers.0.mlp.up_proj", &scheme);
        (void)pare__hf_config_scheme(root, "", &scheme);
        pare__json_free(&root);
    }
    rewrite(text);
    free(text);
    return 0;
}
