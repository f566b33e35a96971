/* recipe_impl.h - between the files that read a recipe: problems, gathered; nodes, checked. */
#ifndef PARE_RECIPE_IMPL_H
#define PARE_RECIPE_IMPL_H

#include "pare/recipe.h"

#include "base/text.h"
#include "base/yaml.h"

#define PARE__DEFAULT_SHARD_SIZE ((int64_t)5 << 30)

/* "a, b or c" of a NULL-terminated list; returns into (size bytes, cut where it does not fit). */
char *pare__word_list(const char *const *words, char *into, size_t size);

/* `what "text" is none of …; did you mean "…"?`, or that it is not in this version, as
 * PARE_ERR_ARGUMENT. later may be NULL. */
pare_status pare__word_error(const char *what, const char *text, const char *const *words,
                             const char *const *later);

/* ---- problems (recipe_problems.c) ------------------------------------------------------------ */

typedef struct pare__problem {
    int line, column;
    char *text;
} pare__problem;

typedef struct pare__problems {
    const char *what; /* the file's name */
    pare__problem *list;
    size_t count, capacity;
    bool failed; /* out of memory */
} pare__problems;

/* Notes a problem at a node's place. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void pare__problem_add(pare__problems *problems, const pare__yaml *node, const char *fmt, ...);

/* Notes the sentence of the last failure at a node's place. */
void pare__problem_last(pare__problems *problems, const pare__yaml *node);

/* PARE_OK if there are none; else PARE_ERR_ARGUMENT with a line each, in the order of the file, the
 * first 50. */
pare_status pare__problems_status(pare__problems *problems);
void pare__problems_free(pare__problems *problems);

/* A scalar as it may be quoted in a sentence: short, one line, without control characters. */
typedef struct pare__shown {
    char text[64];
} pare__shown;
pare__shown pare__show(const pare__yaml *node);

/* ---- nodes (recipe_fields.c) ----------------------------------------------------------------- */

#define PARE__MAX_KEYS 8

/* The values of a map by the place of their key in a list of words; NULL where the key is not
 * given. */
typedef struct pare__fields {
    const pare__yaml *value[PARE__MAX_KEYS];
    bool guessed[PARE__MAX_KEYS]; /* not given, but a misspelt key was probably meant for it */
} pare__fields;

/* Reads a map that may have these keys; notes unknown, repeated and later ones. False if node is no
 * map. */
bool pare__read_map(pare__problems *problems, const pare__yaml *node, const char *name,
                    const char *const *keys, const char *const *later, pare__fields *fields);

/* A text (quoted, or plain and neither a number nor a truth value), or NULL with a problem noted.
 */
const char *pare__read_text(pare__problems *problems, const pare__yaml *node, const char *name);
/* Notes a problem and gives false unless node is such a number. */
bool pare__read_uint(pare__problems *problems, const pare__yaml *node, const char *name,
                     uint64_t *value);
bool pare__read_fraction(pare__problems *problems, const pare__yaml *node, const char *name,
                         double *value);
bool pare__read_size(pare__problems *problems, const pare__yaml *node, const char *name,
                     int64_t *bytes);

#endif
