/* distill_impl.h - the inside of src/distill: what losses compare, and what they share.
 *
 * distill.c checks and makes the terms, pairing.c says which layers belong together, units.c which
 * rows count; a loss is one file loss_<kind>.c with one const pare_loss, whose state is a
 * pare__compared; teacher_cache.c reads a teacher's outputs from disk, teacher_outputs.c makes
 * them.
 */
#ifndef PARE_DISTILL_IMPL_H
#define PARE_DISTILL_IMPL_H

#include "pare/distill.h"
#include "pare/store.h"

#include "base/alloc.h"
#include "base/carve.h"
#include "base/check.h"

/* ---- what is compared ------------------------------------------------------------------------ */

/* Two values, of the student and of the teacher, by their taps. Rows of a batch: B·rows of images,
 * B·(T + rows − 1) of tokens. */
typedef struct pare__pair {
    int64_t layer;                  /* of the student, for names */
    int64_t tap[3], teacher_tap[3]; /* the value alone; or queries, keys and values */
    int64_t width[3], teacher_width[3];
    int64_t rows;
    int heads, kv_heads, teacher_kv_heads; /* of ATTENTION */
    float scale, teacher_scale;
    bool causal;
    pare_learned *projection; /* [teacher's width, width], NULL: the widths agree */
} pare__pair;

/* A term's state. */
typedef struct pare__compared {
    const pare_distill_options *options;
    const pare_teacher_cache *cache; /* of outputs; NULL: the teacher goes forward */
    pare_model *teacher;             /* NULL with a cache */
    pare__pair *pairs;
    size_t count;
} pare__compared;

extern const pare_loss pare__loss_kl, pare__loss_hidden, pare__loss_attention, pare__loss_relation,
    pare__loss_feature, pare__loss_cosine;

/* ---- which layers: pairing.c ----------------------------------------------------------------- */

/* A stage of a convolutional network: the last feature map of a size. */
typedef struct pare__stage_view {
    int64_t node, height, side, width;
} pare__stage_view;
pare_status pare__distill_stages(const pare_model *model, pare__stage_view **stages,
                                 int64_t *count);

/* The pairs of a kind, with taps on both models; caller frees. PARE_ERR_ARGUMENT says what does not
 * go together. Projections are left to the caller. */
pare_status pare__distill_pairs(const pare_distill_options *options, pare_distill_kind kind,
                                pare_model *student, pare_model *teacher, pare__pair **pairs,
                                size_t *count);

/* ---- units: units.c -------------------------------------------------------------------------- */

/* How many units of the batch count; whether row i of the output is one of them. */
int64_t pare__units(const pare_loss_args *args);
bool pare__row_counts(const pare_loss_args *args, int64_t row);

/* weights [rows]: of each row of a value with so many, 1 where it is a unit (of tokens), else the
 * row's share in its sample; weights [B]: of each sample, the units in it. Host memory. */
void pare__row_weights(const pare_loss_args *args, int64_t rows, float *weights);
void pare__sample_weights(const pare_loss_args *args, float *weights);

/* Labels of rows [first, first + count) as ops take them; absent if the data has none. */
pare_tensor pare__row_labels(const pare_loss_args *args, int64_t first, int64_t count);

/* Begins a loss that reaches the model through taps: nothing counted yet, the output's gradient 0
 * if it is the first. */
pare_status pare__loss_begin(pare_loss_args *args);

/* Rows of a pair's values in a batch of a shape. */
int64_t pare__pair_rows(const pare__pair *pair, const pare_model *model, int64_t batch,
                        int64_t length);

/* ---- hidden states and feature maps: loss_hidden.c ------------------------------------------- */

/* Both are the same loss over pairs. */
int64_t pare__states_scratch(void *state, pare_model *model, const pare_model_shape *shape);
int64_t pare__states_results(void *state, pare_model *model, const pare_model_shape *shape);
pare_status pare__states_run(pare_loss_args *args, bool cosine);

/* ---- scores of pairs of positions: loss_attention.c ------------------------------------------ */

/* Which of a pair's three values stand against which: attention compares queries with keys, a
 * relation each with itself. */
typedef struct pare__scores {
    int query, key;
    int heads, kv_heads, teacher_kv_heads;
    float scale, teacher_scale;
} pare__scores;
/* A loss of `each` scores a pair, which `of` tells. */
typedef struct pare__scoring {
    int each;
    pare_relation_kind kind;
    pare__scores (*of)(const pare__pair *pair, int index);
} pare__scoring;
int64_t pare__scores_results(const pare__compared *c, int each, const pare_model_shape *shape);
pare_status pare__scores_run(pare_loss_args *args, const pare__scoring *scoring);

/* ---- teachers on disk: teacher_cache.c, teacher_outputs.c -------------------------------------
 */

double pare__cache_temperature(const pare_teacher_cache *cache);
int64_t pare__cache_classes(const pare_teacher_cache *cache);

/* The lines that say whose outputs a file holds; caller frees. */
pare_status pare__cache_identity(const char *teacher_digest, const pare_dataset *dataset, int64_t k,
                                 double temperature, char **identity);
/* What follows them: as long for every teacher of these classes and units. */
void pare__cache_describe(const pare_cache_facts *facts, int64_t classes, char *text, size_t size);

/* The entries of a file, in order of their names: "index", "mass", "value". */
enum { PARE__CACHE_INDEX, PARE__CACHE_MASS, PARE__CACHE_VALUE, PARE__CACHE_ENTRIES };
void pare__cache_entries(int64_t units, int64_t k, int64_t classes,
                         pare_entry entries[PARE__CACHE_ENTRIES]);

#endif
