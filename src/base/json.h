/* json.h - JSON through jansson, which is seen in json.c only. A node is borrowed from its root
 * unless said. */
#ifndef PARE_BASE_JSON_H
#define PARE_BASE_JSON_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pare__json pare__json;

/* Parses one value. Duplicate keys, invalid UTF-8, nesting over 512 and anything after the value
 * (but white space) are PARE_ERR_DAMAGED with the line and column; `what` names the text in the
 * sentence. */
pare_status pare__json_parse(const char *text, size_t length, const char *what, pare__json **root);
void pare__json_free(pare__json **root);

/* NULL in gives NULL (or false, 0) out, so that look-ups can be chained. */
const pare__json *pare__json_get(const pare__json *object, const char *key);
const pare__json *pare__json_at(const pare__json *array, size_t index);
size_t pare__json_size(const pare__json *node); /* of an array or object */
bool pare__json_is_object(const pare__json *node);
bool pare__json_is_array(const pare__json *node);
bool pare__json_is_null(const pare__json *node);             /* JSON null, or NULL */
const char *pare__json_string(const pare__json *node);       /* NULL if it is no string */
bool pare__json_int(const pare__json *node, int64_t *value); /* an integer, not a real */
bool pare__json_real(const pare__json *node, double *value); /* a number */
bool pare__json_bool(const pare__json *node, bool *value);

/* Members of an object in their order in the text: start with *at = 0 (it is no index);
 * false after the last. */
bool pare__json_next(const pare__json *object, size_t *at, const char **key,
                     const pare__json **value);

/* Building. Each set/append takes the new node over (NULL node: the builder fails and stays failed,
 * so a chain needs one check at dump). key NULL appends to an array. They return the node added.
 * A NULL string and a real that is not finite become null. */
pare__json *pare__json_new_object(void);
pare__json *pare__json_new_array(void);
pare__json *pare__json_set(pare__json *parent, const char *key, pare__json *node);
pare__json *pare__json_set_string(pare__json *parent, const char *key, const char *value);
pare__json *pare__json_set_int(pare__json *parent, const char *key, int64_t value);
pare__json *pare__json_set_real(pare__json *parent, const char *key, double value);
pare__json *pare__json_set_bool(pare__json *parent, const char *key, bool value);
pare__json *pare__json_set_object(pare__json *parent, const char *key);
pare__json *pare__json_set_array(pare__json *parent, const char *key);
pare__json *pare__json_copy(const pare__json *node); /* deep; the caller owns it */
void pare__json_remove(pare__json *object, const char *key);

/* Whether building the node or anything in it failed; true for NULL. */
bool pare__json_failed(const pare__json *node);

/* Text; caller frees. A builder that failed is PARE_ERR_MEMORY. indent 0: one line without
 * spaces between the tokens. sorted: keys in byte order, else insertion order. Reals are the
 * shortest decimal that reads back the same, always with a '.' or an exponent, as Python writes
 * them; bytes of a string that are no UTF-8 become U+FFFD. */
pare_status pare__json_dump(const pare__json *node, int indent, bool sorted, char **text);

#endif
