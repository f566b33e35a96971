/* json.c - JSON trees: jansson parses, holds and looks up; json_text.c writes them.
 *
 * A pare__json is a json_t. A builder that failed must stay failed, and a json_t has no room for
 * that, so a failed container holds one reference to itself that nothing owns: nodes are never
 * shared here, so a container with more than one reference says "incomplete". Dump and copy refuse
 * it; whoever drops it first takes the reference away. */
#include "base/json.h"
#include "base/alloc.h"
#include "base/check.h"
#include "base/text.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define DEPTH_LIMIT 512

static json_t *unwrap(const pare__json *node)
{
    return (json_t *)(uintptr_t)node;
}

static pare__json *wrap(json_t *node)
{
    return (pare__json *)node;
}

/* Nesting is bounded before the parser, which recurses, sees the text. */
static pare_status check_depth(const char *text, size_t length, const char *what)
{
    int line = 1, column = 0, depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        column++;
        if (text[i] == '\n') {
            line++;
            column = 0;
        }
        if (quoted) {
            if (text[i] == '\\' && i + 1 < length) {
                i++;
                column++;
            } else if (text[i] == '"')
                quoted = false;
        } else if (text[i] == '"')
            quoted = true;
        else if (text[i] == '[' || text[i] == '{')
            depth++;
        else if (text[i] == ']' || text[i] == '}')
            depth--;
        PARE_REQUIRE(depth <= DEPTH_LIMIT, PARE_ERR_DAMAGED,
                     "%s:%d:%d: more than %d levels of nesting", what, line, column, DEPTH_LIMIT);
    }
    return PARE_OK;
}

pare_status pare__json_parse(const char *text, size_t length, const char *what, pare__json **root)
{
    *root = NULL;
    PARE_TRY(check_depth(text, length, what));
    json_error_t error;
    errno = 0;
    json_t *node = json_loadb(text != NULL ? text : "", length,
                              JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (node == NULL) { /* where memory ran out jansson says nothing, or that a token is invalid */
        PARE_REQUIRE(errno != ENOMEM && error.text[0] != '\0', PARE_ERR_MEMORY,
                     "no memory for the JSON of %s", what);
        PARE_FAIL(PARE_ERR_DAMAGED, "%s:%d:%d: %s", what, error.line, error.column, error.text);
    }
    *root = wrap(node);
    return PARE_OK;
}

/* ---- failure that stays ---- */

static bool is_container(const json_t *node)
{
    return json_is_object(node) || json_is_array(node);
}

static bool failed_here(const json_t *node)
{
    return is_container(node) && node->refcount > 1;
}

static void fail(json_t *node)
{
    if (is_container(node) && !failed_here(node))
        json_incref(node);
}

/* Whether node or anything below it failed; with clear, the marks are taken off. */
static bool failed_within(json_t *node, bool clear)
{
    bool failed = failed_here(node);
    if (failed && clear)
        json_decref(node);
    const char *key;
    json_t *child;
    size_t i;
    if (json_is_array(node))
        json_array_foreach(node, i, child) failed |= failed_within(child, clear);
    else
        json_object_foreach(node, key, child) failed |= failed_within(child, clear);
    return failed;
}

/* Frees node and all below it; true if there was a failure in it. */
static bool release(json_t *node)
{
    bool failed = failed_within(node, true);
    json_decref(node);
    return failed;
}

void pare__json_free(pare__json **root)
{
    release(unwrap(*root)); /* which takes NULL, as jansson does */
    *root = NULL;
}

/* ---- looking ---- */

const pare__json *pare__json_get(const pare__json *object, const char *key)
{
    return wrap(json_object_get(unwrap(object), key));
}

const pare__json *pare__json_at(const pare__json *array, size_t index)
{
    return wrap(json_array_get(unwrap(array), index));
}

size_t pare__json_size(const pare__json *node)
{
    return pare__json_is_array(node) ? json_array_size(unwrap(node))
                                     : json_object_size(unwrap(node));
}

bool pare__json_is_object(const pare__json *node)
{
    return json_is_object(unwrap(node));
}

bool pare__json_is_array(const pare__json *node)
{
    return json_is_array(unwrap(node));
}

bool pare__json_is_null(const pare__json *node)
{
    return node == NULL || json_is_null(unwrap(node));
}

const char *pare__json_string(const pare__json *node)
{
    return json_string_value(unwrap(node));
}

bool pare__json_int(const pare__json *node, int64_t *value)
{
    if (!json_is_integer(unwrap(node)))
        return false;
    *value = json_integer_value(unwrap(node));
    return true;
}

bool pare__json_real(const pare__json *node, double *value)
{
    if (!json_is_number(unwrap(node)))
        return false;
    *value = json_number_value(unwrap(node));
    return true;
}

bool pare__json_bool(const pare__json *node, bool *value)
{
    if (!json_is_boolean(unwrap(node)))
        return false;
    *value = json_is_true(unwrap(node));
    return true;
}

/* *at is the address of the member that comes next or, behind the last one, `end`. */
bool pare__json_next(const pare__json *object, size_t *at, const char **key,
                     const pare__json **value)
{
    static const size_t end = SIZE_MAX;
    json_t *node = unwrap(object);
    if (*at == end)
        return false;
    void *member = *at == 0 ? json_object_iter(node) : (void *)(uintptr_t)*at;
    if (member == NULL)
        return false;
    *key = json_object_iter_key(member);
    *value = wrap(json_object_iter_value(member));
    void *next = json_object_iter_next(node, member);
    *at = next != NULL ? (size_t)(uintptr_t)next : end;
    return true;
}

/* ---- building ---- */

pare__json *pare__json_new_object(void)
{
    return wrap(json_object());
}

pare__json *pare__json_new_array(void)
{
    return wrap(json_array());
}

/* The nocheck functions: a string that is no UTF-8 is mended when it is written, and so never fails
 * here. */
static json_t *add(json_t *parent, const char *key, json_t *node)
{
    PARE_ASSERT(node == NULL || node != parent);
    if (node == NULL) {
        fail(parent);
        return NULL;
    }
    json_t *old = key != NULL ? json_object_get(parent, key) : NULL;
    if (old != NULL &&
        failed_within(old, true)) /* what it replaces must not take its failure along */
        fail(parent);
    int error =
        key != NULL ? json_object_set_nocheck(parent, key, node) : json_array_append(parent, node);
    if (error != 0) {
        release(node);
        fail(parent);
        return NULL;
    }
    json_decref(node); /* the parent holds it now */
    return node;
}

pare__json *pare__json_set(pare__json *parent, const char *key, pare__json *node)
{
    return wrap(add(unwrap(parent), key, unwrap(node)));
}

pare__json *pare__json_set_string(pare__json *parent, const char *key, const char *value)
{
    return wrap(add(unwrap(parent), key, value != NULL ? json_string_nocheck(value) : json_null()));
}

pare__json *pare__json_set_int(pare__json *parent, const char *key, int64_t value)
{
    return wrap(add(unwrap(parent), key, json_integer(value)));
}

pare__json *pare__json_set_real(pare__json *parent, const char *key, double value)
{
    return wrap(add(unwrap(parent), key, isfinite(value) ? json_real(value) : json_null()));
}

pare__json *pare__json_set_bool(pare__json *parent, const char *key, bool value)
{
    return wrap(add(unwrap(parent), key, json_boolean(value)));
}

pare__json *pare__json_set_object(pare__json *parent, const char *key)
{
    return wrap(add(unwrap(parent), key, json_object()));
}

pare__json *pare__json_set_array(pare__json *parent, const char *key)
{
    return wrap(add(unwrap(parent), key, json_array()));
}

bool pare__json_failed(const pare__json *node)
{
    return node == NULL || failed_within(unwrap(node), false);
}

pare__json *pare__json_copy(const pare__json *node)
{
    return pare__json_failed(node) ? NULL : wrap(json_deep_copy(unwrap(node)));
}

void pare__json_remove(pare__json *object, const char *key)
{
    json_t *old = json_object_get(unwrap(object), key);
    if (old != NULL && failed_within(old, true))
        fail(unwrap(object));
    json_object_del(unwrap(object), key);
}
