/* yaml.c - libyaml's events made into a small tree that knows its lines.
 *
 * A recipe needs no aliases and no tags; refusing them, and bounding depth and count, leaves
 * nothing that grows beyond the text. */
#include "base/yaml.h"
#include "base/alloc.h"
#include "base/check.h"

#include <string.h>
#include <yaml.h>

#define DEPTH_LIMIT 64
#define NODE_LIMIT 100000

struct reader {
    yaml_parser_t parser;
    const char *what;
    size_t nodes;
};

static pare_status refuse(const struct reader *r, yaml_mark_t at, const char *problem)
{
    PARE_FAIL(PARE_ERR_ARGUMENT, "%s:%zu:%zu: %s", r->what, at.line + 1, at.column + 1, problem);
}

static pare_status next_event(struct reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event) != 0)
        return PARE_OK;
    const yaml_parser_t *p = &r->parser;
    PARE_REQUIRE(p->error != YAML_MEMORY_ERROR, PARE_ERR_MEMORY, "no memory for the YAML of %s",
                 r->what);
    const char *problem = p->problem != NULL ? p->problem : "this is no YAML";
    /* what people try who leave a glob without quotes */
    if (p->context != NULL && strstr(p->context, "scanning an a") != NULL)
        problem = "a text that begins with * or & needs quotes";
    /* an encoding error comes before there are marks: the reader's own position is the nearest */
    if (p->error == YAML_READER_ERROR)
        return refuse(r, p->mark, problem);
    return refuse(r, p->problem_mark, problem);
}

static pare_status read_node(struct reader *r, yaml_event_t *event, int depth, pare__yaml **node);

/* Reads the next node into *node; *ended instead, where the list or map has no more. */
static pare_status read_next(struct reader *r, int depth, pare__yaml **node, bool *ended)
{
    yaml_event_t event;
    PARE_TRY(next_event(r, &event));
    *ended = event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT;
    pare_status status = *ended ? PARE_OK : read_node(r, &event, depth, node);
    yaml_event_delete(&event);
    return status;
}

static pare_status read_list(struct reader *r, int depth, pare__yaml *list)
{
    size_t capacity = 0;
    while (true) {
        bool ended;
        PARE_TRY(pare__grow(&list->items, &capacity, list->count + 1, sizeof(pare__yaml *)));
        list->items[list->count] = NULL;
        pare_status status = read_next(r, depth, &list->items[list->count], &ended);
        list->count +=
            list->items[list->count] != NULL; /* a node half read is freed with the rest */
        PARE_TRY(status);
        if (ended)
            return PARE_OK;
    }
}

static pare_status read_map(struct reader *r, int depth, pare__yaml *map)
{
    size_t keys = 0, items = 0;
    while (true) {
        bool ended;
        pare__yaml *key = NULL;
        PARE_TRY(pare__grow(&map->keys, &keys, map->count + 1, sizeof(pare__yaml *)));
        PARE_TRY(pare__grow(&map->items, &items, map->count + 1, sizeof(pare__yaml *)));
        pare_status status = read_next(r, depth, &key, &ended);
        if (key == NULL) {
            PARE_TRY(status);
            return PARE_OK;
        }
        map->keys[map->count] = key;
        map->items[map->count++] = NULL;
        PARE_TRY(status);
        if (key->kind != PARE__YAML_SCALAR)
            return refuse(
                r, (yaml_mark_t){.line = (size_t)key->line - 1, .column = (size_t)key->column - 1},
                "a key must be a plain word");
        PARE_TRY(read_next(r, depth, &map->items[map->count - 1], &ended));
    }
}

static pare_status read_scalar(struct reader *r, const yaml_event_t *event, pare__yaml *scalar)
{
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (strlen(value) != length)
        return refuse(r, event->start_mark, "a string with a NUL in it");
    yaml_scalar_style_t style = event->data.scalar.style;
    scalar->quoted = style != YAML_PLAIN_SCALAR_STYLE && style != YAML_ANY_SCALAR_STYLE;
    char *text;
    PARE_TRY(pare__strdup(value, &text));
    scalar->text = text;
    return PARE_OK;
}

/* The tag of a node's event, NULL if it has none. */
static const yaml_char_t *tag_of(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.tag;
    default:
        return NULL;
    }
}

/* *node is set as soon as there is something to free. */
static pare_status read_node(struct reader *r, yaml_event_t *event, int depth, pare__yaml **node)
{
    if (event->type == YAML_ALIAS_EVENT)
        return refuse(r, event->start_mark, "aliases (*name) are not taken: put a glob in quotes");
    if (tag_of(event) != NULL)
        return refuse(r, event->start_mark, "tags (!name) are not taken: leave it out");
    if (depth > DEPTH_LIMIT)
        return refuse(r, event->start_mark, "more than 64 levels of nesting");
    if (++r->nodes > NODE_LIMIT)
        return refuse(r, event->start_mark, "more than 100,000 values");
    PARE_TRY(pare__calloc(1, sizeof(pare__yaml), node));
    (*node)->line = (int)event->start_mark.line + 1;
    (*node)->column = (int)event->start_mark.column + 1;
    switch (event->type) {
    case YAML_SEQUENCE_START_EVENT:
        (*node)->kind = PARE__YAML_LIST;
        return read_list(r, depth + 1, *node);
    case YAML_MAPPING_START_EVENT:
        (*node)->kind = PARE__YAML_MAP;
        return read_map(r, depth + 1, *node);
    default:
        (*node)->kind = PARE__YAML_SCALAR;
        return read_scalar(r, event, *node);
    }
}

/* The stream: at most one document between its start and its end. */
static pare_status read_stream(struct reader *r, pare__yaml **root)
{
    yaml_event_t event;
    yaml_event_type_t type = YAML_NO_EVENT;
    bool seen = false;
    while (type != YAML_STREAM_END_EVENT) {
        pare_status status = PARE_OK;
        PARE_TRY(next_event(r, &event));
        type = event.type;
        if (type == YAML_DOCUMENT_START_EVENT) {
            if (seen)
                status = refuse(r, event.start_mark, "a second document: one is taken");
            seen = true;
        } else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT &&
                   type != YAML_DOCUMENT_END_EVENT)
            status = read_node(r, &event, 1, root);
        yaml_event_delete(&event);
        PARE_TRY(status);
    }
    return PARE_OK;
}

pare_status pare__yaml_parse(const char *text, size_t length, const char *what, pare__yaml **root)
{
    struct reader r = {.what = what};
    *root = NULL;
    PARE_REQUIRE(yaml_parser_initialize(&r.parser) != 0, PARE_ERR_MEMORY,
                 "no memory for the YAML of %s", what);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(text != NULL ? text : ""),
                                 length);
    pare_status status = read_stream(&r, root);
    yaml_parser_delete(&r.parser);
    const pare__yaml *top = *root;
    bool empty = top != NULL && top->kind == PARE__YAML_SCALAR && !top->quoted &&
                 top->text != NULL && top->text[0] == '\0'; /* "---" and nothing behind it */
    if (status != PARE_OK || empty)
        pare__yaml_free(root);
    PARE_TRY(status);
    return PARE_OK;
}

void pare__yaml_free(pare__yaml **root)
{
    pare__yaml *node = *root;
    if (node == NULL)
        return;
    *root = NULL;
    for (size_t i = 0; i < node->count; i++) {
        pare__yaml_free(&node->items[i]);
        if (node->keys != NULL)
            pare__yaml_free(&node->keys[i]);
    }
    free(node->items);
    free(node->keys);
    free((char *)(uintptr_t)node->text);
    free(node);
}
