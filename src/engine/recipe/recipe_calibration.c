/* recipe_calibration.c - what a step says of its data: samples of a walk, what an eval measures. */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

/* A default of the recipe as a step's own text. */
static void take_default(pare__reader *r, const char *text, char **copy)
{
    if (text && !*copy && pare__strdup(text, copy) != PARE_OK)
        r->problems.failed = true;
}

void pare__read_calibration(pare__reader *r, const pare__step_map *map, pare_calibration *c)
{
    static const char *const ways[] = {"compressed", "dense", NULL};
    static const char *const dtypes[] = {"f32", "bf16", NULL};
    const pare__yaml *const *v = map->value;
    pare__problems *problems = &r->problems;
    bool sequential = true;
    *c = (pare_calibration){.pad_id = -2, .compute = PARE_F32};
    if (v[PARE__KEY_DATA])
        pare__read_copy(r, v[PARE__KEY_DATA], "data", &c->path);
    else if (map->guessed[PARE__KEY_DATA])
        take_default(r, "?", &c->path); /* what was misspelt is not missing too */
    if (v[PARE__KEY_LABELS])
        pare__read_copy(r, v[PARE__KEY_LABELS], "labels", &c->labels);
    else if (!v[PARE__KEY_DATA])
        take_default(r, r->labels, &c->labels);
    take_default(r, r->calibration, &c->path);
    if (v[PARE__KEY_SAMPLES])
        pare__read_count(problems, v[PARE__KEY_SAMPLES], "samples", 1, &c->samples);
    if (v[PARE__KEY_SEQ_LEN])
        pare__read_count(problems, v[PARE__KEY_SEQ_LEN], "seq_len", 1, &c->seq_len);
    if (v[PARE__KEY_SKIP])
        pare__read_count(problems, v[PARE__KEY_SKIP], "skip", 0, &c->skip);
    if (v[PARE__KEY_SHUFFLE])
        pare__read_bool(problems, v[PARE__KEY_SHUFFLE], "shuffle", &c->shuffle);
    if (v[PARE__KEY_PAD_ID])
        pare__read_count(problems, v[PARE__KEY_PAD_ID], "pad_id", 0, &c->pad_id);
    if (v[PARE__KEY_BATCH])
        pare__read_count(problems, v[PARE__KEY_BATCH], "batch", 1, &c->batch);
    if (v[PARE__KEY_PROPAGATE])
        c->dense = pare__read_word(problems, v[PARE__KEY_PROPAGATE], "propagate", ways) == 1;
    if (v[PARE__KEY_TRUE_SEQUENTIAL])
        pare__read_bool(problems, v[PARE__KEY_TRUE_SEQUENTIAL], "true_sequential", &sequential);
    c->per_block = !sequential;
    if (v[PARE__KEY_COMPUTE] &&
        pare__read_word(problems, v[PARE__KEY_COMPUTE], "compute", dtypes) == 1)
        c->compute = PARE_BF16;
    if (v[PARE__KEY_ERRORS])
        pare__read_bool(problems, v[PARE__KEY_ERRORS], "errors", &c->errors);
    if (v[PARE__KEY_CACHE])
        pare__read_copy(r, v[PARE__KEY_CACHE], "cache", &c->cache);
}

/* ---- eval ------------------------------------------------------------------------------------ */

static void add_metric(pare__reader *r, const pare__yaml *node, unsigned *metrics)
{
    int word = pare__read_word(&r->problems, node, "metric", pare__metric_words);
    *metrics |= word >= 0 ? 1u << word : 0;
}

/* One metric or a list of them. */
static void read_metrics(pare__reader *r, const pare__yaml *node, unsigned *metrics)
{
    bool list = node->kind == PARE__YAML_LIST;
    if (list && !node->count)
        pare__problem_add(&r->problems, node, "metric: the list is empty: leave it out");
    for (size_t i = 0; list && i < node->count; i++)
        add_metric(r, node->items[i], metrics);
    if (!list)
        add_metric(r, node, metrics);
}

void pare__read_eval_step(pare__reader *r, const pare__yaml *node)
{
    static const char *const keys[] = {"data",    "labels", "metric", "against", "samples",
                                       "seq_len", "skip",   "batch",  NULL};
    enum { DATA, LABELS, METRIC, AGAINST, SAMPLES, SEQ_LEN, SKIP, BATCH };
    static const char *const later[] = {"stride", "bos_id", "pad_id", "shuffle", NULL};
    pare__fields f;
    pare_step step = {
        .kind = PARE_STEP_EVAL, .prune = r->recipe->prune_count, .quant = r->recipe->quant_count};
    pare_eval_step *e = &step.eval;
    const struct {
        int key;
        int64_t least, *value;
    } counts[] = {{SAMPLES, 1, &e->samples},
                  {SEQ_LEN, 1, &e->seq_len},
                  {SKIP, 0, &e->skip},
                  {BATCH, 1, &e->batch}};
    if (!pare__read_map(&r->problems, node, "eval", keys, later, &f))
        return;
    if (f.value[DATA])
        pare__read_copy(r, f.value[DATA], "data", &e->data);
    if (f.value[LABELS])
        pare__read_copy(r, f.value[LABELS], "labels", &e->labels);
    else if (!f.value[DATA])
        take_default(r, r->eval_labels, &e->labels);
    take_default(r, r->eval, &e->data);
    if (!e->data && !f.value[DATA] && !f.guessed[DATA])
        pare__problem_add(&r->problems, node,
                          "eval: needs data to measure on: give data: PATH, or data: { eval: PATH "
                          "} for all steps");
    if (f.value[METRIC])
        read_metrics(r, f.value[METRIC], &e->metrics);
    if (f.value[AGAINST])
        pare__read_copy(r, f.value[AGAINST], "against", &e->against);
    else if (e->metrics & (PARE_METRIC_KLD | PARE_METRIC_COSINE) && !f.guessed[AGAINST])
        pare__problem_add(&r->problems, f.value[METRIC],
                          "metric: kld and cosine compare with another checkpoint: give against");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (f.value[counts[i].key])
            pare__read_count(&r->problems, f.value[counts[i].key], keys[counts[i].key],
                             counts[i].least, counts[i].value);
    pare__add_step(r, &step);
}
