/* fuzz_json.c - any bytes as JSON: what is read, written and read again is the same text. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void visit(const pare__json *node)
{
    size_t at = 0;
    const char *key;
    const pare__json *value;
    while (pare__json_next(node, &at, &key, &value)) {
        if (pare__json_get(node, key) != value)
            abort();
        visit(value);
    }
    if (pare__json_is_array(node))
        for (size_t i = 0; i < pare__json_size(node); i++)
            visit(pare__json_at(node, i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pare__json *root, *again, *copy;
    char *text, *second;
    if (pare__json_parse((const char *)data, size, "fuzz", &root) != PARE_OK)
        return 0;
    visit(root);
    copy = pare__json_copy(root);
    if (pare__json_dump(copy, (int)(size % 3), size % 2 == 0, &text) != PARE_OK ||
        pare__json_parse(text, strlen(text), "again", &again) != PARE_OK ||
        pare__json_dump(again, (int)(size % 3), false, &second) != PARE_OK ||
        strcmp(text, second) != 0)
        abort();
    free(second);
    free(text);
    pare__json_free(&again);
    pare__json_free(&copy);
    pare__json_free(&root);
    return 0;
}
