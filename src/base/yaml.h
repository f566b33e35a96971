/* yaml.h - YAML documents through libyaml, which is seen in yaml.c only: a tree that knows its
 * lines. */
#ifndef PARE_BASE_YAML_H
#define PARE_BASE_YAML_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum pare__yaml_kind { PARE__YAML_SCALAR, PARE__YAML_LIST, PARE__YAML_MAP } pare__yaml_kind;

typedef struct pare__yaml {
    pare__yaml_kind kind;
    int line, column;          /* from 1 */
    const char *text;          /* SCALAR */
    bool quoted;               /* SCALAR in quotes: always a string */
    size_t count;              /* LIST, MAP */
    struct pare__yaml **items; /* LIST; MAP: the values */
    struct pare__yaml **keys;  /* MAP: scalars, in order, duplicates kept */
} pare__yaml;

/* Parses one document (an empty one gives *root NULL). A syntax error is PARE_ERR_ARGUMENT with
 * `what`, line and column; so are a second document, aliases, tags, a key that is no scalar, a NUL
 * in a string, nesting over 64 and more than 100,000 nodes. */
pare_status pare__yaml_parse(const char *text, size_t length, const char *what, pare__yaml **root);
void pare__yaml_free(pare__yaml **root);

#endif
