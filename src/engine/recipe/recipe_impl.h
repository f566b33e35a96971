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

/* The shortest decimal that reads back as the same number, with '.' whatever the locale. */
const char *pare__shortest(double value, char *text, size_t size);

/* ---- problems (recipe_problems.c) ------------------------------------------------------------ */

typedef struct pare__problem {
    int line, column;
    char *text;
    bool together; /* each value is sound: they do not go together */
} pare__problem;

typedef struct pare__problems {
    const char *what; /* the file's name */
    pare__problem *list;
    size_t count, capacity;
    bool failed;   /* out of memory */
    bool together; /* what is noted now is of this kind */
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

#define PARE__MAX_KEYS 32

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
/* A whole number from `least` up that an int64_t holds. */
bool pare__read_count(pare__problems *problems, const pare__yaml *node, const char *name,
                      int64_t least, int64_t *value);
/* A number above 0, at most `most`. */
bool pare__read_above_zero(pare__problems *problems, const pare__yaml *node, const char *name,
                           double most, double *value);
bool pare__read_bool(pare__problems *problems, const pare__yaml *node, const char *name,
                     bool *value);
/* The place of a text in a NULL-terminated list of words; -1 with a problem noted. */
int pare__read_word(pare__problems *problems, const pare__yaml *node, const char *name,
                    const char *const *words);

/* ---- the reader (recipe_read.c, recipe_compress.c, recipe_calibration.c) --------------------- */

/* What steps that prune and quantise may say. */
typedef enum pare__key {
    PARE__KEY_METHOD,
    PARE__KEY_PATTERN,
    PARE__KEY_SPARSITY,
    PARE__KEY_SCOPE,
    PARE__KEY_BUDGET,
    PARE__KEY_MULTIPLE,
    PARE__KEY_SCHEME,
    PARE__KEY_SCALE,
    PARE__KEY_DAMPING,
    PARE__KEY_ACT_ORDER,
    PARE__KEY_ALPHA,
    PARE__KEY_GRID,
    PARE__KEY_CLIP,
    PARE__KEY_SCHEMES,
    PARE__KEY_BITS,
    PARE__KEY_BYTES,
    PARE__KEY_SENSITIVITY,
    PARE__KEY_PRUNE,
    PARE__KEY_QUANTIZE,
    PARE__KEY_INCLUDE,
    PARE__KEY_EXCLUDE,
    PARE__KEY_DATA, /* from here on: calibration */
    PARE__KEY_LABELS,
    PARE__KEY_SAMPLES,
    PARE__KEY_SEQ_LEN,
    PARE__KEY_SKIP,
    PARE__KEY_SHUFFLE,
    PARE__KEY_PAD_ID,
    PARE__KEY_BATCH,
    PARE__KEY_PROPAGATE,
    PARE__KEY_TRUE_SEQUENTIAL,
    PARE__KEY_COMPUTE,
    PARE__KEY_ERRORS,
    PARE__KEY_CACHE,
    PARE__KEYS
} pare__key;

/* A map of such keys, by key; `map` itself stands for keys that are not there. */
typedef struct pare__step_map {
    const pare__yaml *map;
    const pare__yaml *value[PARE__KEYS];
    bool guessed[PARE__KEYS];
} pare__step_map;

typedef struct pare__reader {
    pare__problems problems;
    pare_recipe *recipe;
    size_t prune_capacity, quant_capacity, step_capacity;
    bool exported; /* an export step was seen */
    /* what all steps read; NULL: not given */
    const char *calibration, *labels, *train, *train_labels, *eval, *eval_labels;
} pare__reader;

/* A recipe from a tree, which stays; its problems are added to those given. *recipe NULL where
 * there are any. PARE_ERR_MEMORY alone. */
pare_status pare__recipe_of(const pare__yaml *root, pare__problems *problems, pare_recipe **recipe);

/* Reads a map with those of the keys that are set in `keys` (1 << key); false if it is none. */
bool pare__read_step_map(pare__reader *reader, const pare__yaml *node, const char *name,
                         uint64_t keys, pare__step_map *map);
#define PARE__CALIBRATION_KEYS                                                                     \
    (((UINT64_C(1) << PARE__KEYS) - 1) & -(UINT64_C(1) << PARE__KEY_DATA))

/* prune, quantize and compress steps: added to the recipe with what they prune and quantise. */
void pare__read_prune_step(pare__reader *reader, const pare__yaml *node);
void pare__read_quantize_step(pare__reader *reader, const pare__yaml *node);
void pare__read_compress_step(pare__reader *reader, const pare__yaml *node);
/* Fills a step's calibration from what its map and the recipe say. */
void pare__read_calibration(pare__reader *reader, const pare__step_map *map,
                            pare_calibration *calibration);
void pare__calibration_free(pare_calibration *calibration);
/* A train or distill step. */
void pare__read_train_step(pare__reader *reader, const pare__yaml *node, bool distill);
/* What was said of one, in order: false behind the last. `path`: the text is a file's. */
bool pare__train_said(const pare_train_step *step, size_t index, const char **key,
                      const char **text, bool *path);
/* PARE_ERR_ARGUMENT for a key that says something of another one, which is not there. */
pare_status pare__train_needs(const pare_train_step *step);
/* An eval step. */
void pare__read_eval_step(pare__reader *reader, const pare__yaml *node);
/* Adds a step to the recipe, which takes over what it holds. */
void pare__add_step(pare__reader *reader, pare_step *step);
void pare__step_free(pare_step *step);
void pare__choice_free(pare_choice *choice); /* its globs */
/* A copy of a text in the recipe's own memory; does nothing if there is one already. */
void pare__read_copy(pare__reader *reader, const pare__yaml *node, const char *name, char **copy);

/* ---- what goes together (recipe_check.c) ----------------------------------------------------- */

typedef enum pare__half { PARE__HALF_PRUNE, PARE__HALF_QUANTIZE } pare__half;

/* Who is told what does not go together: in which half of a step, of which of its items, at which
 * key. */
typedef struct pare__judge {
    void (*say)(void *user, pare__half half, size_t item, pare__key key, const char *sentence);
    void *user;
} pare__judge;

/* Methods that are NULL have been complained about: their halves are not looked at. */
void pare__check_step(const pare_recipe *recipe, const pare_step *step, const pare__judge *judge);

/* Whether the walk over the blocks decides a pruning or quantisation, or a pass does. */
bool pare__prune_walks(const pare_prune_step *step);
bool pare__quant_walks(const pare_quant_step *step);
/* Whether activations are static under one of its schemes. */
bool pare__quant_static(const pare_quant_step *step);

/* The word for --scale and `scale:` of a step (text has room for 32). */
char *pare__scale_text(const pare_quant_step *step, char *text, size_t size);
/* The words of metrics, in the order of their bits. */
extern const char *const pare__metric_words[];

#endif
