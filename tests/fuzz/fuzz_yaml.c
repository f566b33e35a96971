/* fuzz_yaml.c - any bytes as a recipe: read or refused, and every node of the tree is whole. */
#include "base/yaml.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void visit(const pare__yaml *node)
{
    if (node == NULL || node->line < 1 || node->column < 1)
        abort();
    if ((node->kind == PARE__YAML_SCALAR) != (node->text != NULL))
        abort();
    for (size_t i = 0; i < node->count; i++) {
        if (node->kind == PARE__YAML_MAP && node->keys[i]->kind != PARE__YAML_SCALAR)
            abort();
        visit(node->items[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pare__yaml *root;
    if (pare__yaml_parse((const char *)data, size, "fuzz", &root) == PARE_OK) {
        if (root != NULL)
            visit(root);
        pare__yaml_free(&root);
    } else if (root != NULL)
        abort();
    return 0;
}
