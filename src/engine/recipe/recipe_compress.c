/* recipe_compress.c - the steps that prune and quantise, read from their maps. */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

#define KEY(name_) (UINT64_C(1) << PARE__KEY_##name_)
#define CHOICE_KEYS (KEY(INCLUDE) | KEY(EXCLUDE))
#define PRUNE_KEYS                                                                                 \
    (KEY(METHOD) | KEY(PATTERN) | KEY(SPARSITY) | KEY(SCOPE) | KEY(BUDGET) | KEY(MULTIPLE) |       \
     KEY(DAMPING) | CHOICE_KEYS)
#define QUANTIZE_KEYS                                                                              \
    (KEY(METHOD) | KEY(SCHEME) | KEY(SCALE) | KEY(DAMPING) | KEY(ACT_ORDER) | KEY(ALPHA) |         \
     KEY(GRID) | KEY(CLIP) | KEY(SCHEMES) | KEY(BITS) | KEY(BYTES) | KEY(SENSITIVITY) |            \
     CHOICE_KEYS)
#define MOST_SCHEMES 16

static const char *const words[PARE__KEYS] = {
    [PARE__KEY_METHOD] = "method",
    [PARE__KEY_PATTERN] = "pattern",
    [PARE__KEY_SPARSITY] = "sparsity",
    [PARE__KEY_SCOPE] = "scope",
    [PARE__KEY_BUDGET] = "budget",
    [PARE__KEY_MULTIPLE] = "multiple",
    [PARE__KEY_SCHEME] = "scheme",
    [PARE__KEY_SCALE] = "scale",
    [PARE__KEY_DAMPING] = "damping",
    [PARE__KEY_ACT_ORDER] = "act_order",
    [PARE__KEY_ALPHA] = "alpha",
    [PARE__KEY_GRID] = "grid",
    [PARE__KEY_CLIP] = "clip",
    [PARE__KEY_SCHEMES] = "schemes",
    [PARE__KEY_BITS] = "bits",
    [PARE__KEY_BYTES] = "bytes",
    [PARE__KEY_SENSITIVITY] = "sensitivity",
    [PARE__KEY_PRUNE] = "prune",
    [PARE__KEY_QUANTIZE] = "quantize",
    [PARE__KEY_INCLUDE] = "include",
    [PARE__KEY_EXCLUDE] = "exclude",
    [PARE__KEY_DATA] = "data",
    [PARE__KEY_LABELS] = "labels",
    [PARE__KEY_SAMPLES] = "samples",
    [PARE__KEY_SEQ_LEN] = "seq_len",
    [PARE__KEY_SKIP] = "skip",
    [PARE__KEY_SHUFFLE] = "shuffle",
    [PARE__KEY_PAD_ID] = "pad_id",
    [PARE__KEY_BATCH] = "batch",
    [PARE__KEY_PROPAGATE] = "propagate",
    [PARE__KEY_TRUE_SEQUENTIAL] = "true_sequential",
    [PARE__KEY_COMPUTE] = "compute",
    [PARE__KEY_ERRORS] = "errors",
    [PARE__KEY_CACHE] = "cache",
};

bool pare__read_step_map(pare__reader *r, const pare__yaml *node, const char *name, uint64_t keys,
                         pare__step_map *map)
{
    static const char *const later[] = {"bos_id", NULL};
    const char *list[PARE__KEYS + 1];
    pare__key key[PARE__KEYS];
    size_t count = 0;
    pare__fields f;
    *map = (pare__step_map){.map = node};
    for (int k = 0; k < PARE__KEYS; k++)
        if (keys >> k & 1) {
            key[count] = (pare__key)k;
            list[count++] = words[k];
        }
    list[count] = NULL;
    if (!pare__read_map(&r->problems, node, name, list, later, &f))
        return false;
    for (size_t i = 0; i < count; i++) {
        map->value[key[i]] = f.value[i];
        map->guessed[key[i]] = f.guessed[i];
    }
    return true;
}

/* ---- choices --------------------------------------------------------------------------------- */

static void add_glob(pare__reader *r, const pare__yaml *node, const char *name, char **globs,
                     size_t *count)
{
    const char *text = pare__read_text(&r->problems, node, name);
    if (text && pare__strdup(text, &globs[*count]) == PARE_OK)
        ++*count;
    else if (text)
        r->problems.failed = true;
}

/* One glob or a list of them. */
static void read_globs(pare__reader *r, const pare__yaml *node, const char *name, char ***globs,
                       size_t *count)
{
    bool list = node->kind == PARE__YAML_LIST;
    if (node->kind == PARE__YAML_MAP) {
        pare__problem_add(&r->problems, node,
                          "%s: found a map, expected a pattern or a list of patterns", name);
        return;
    }
    if (pare__calloc(list ? node->count : 1, sizeof **globs, globs) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    for (size_t i = 0; list && i < node->count; i++)
        add_glob(r, node->items[i], name, *globs, count);
    if (!list)
        add_glob(r, node, name, *globs, count);
}

/* The globs of one half of a compress step, or those that hold for both. */
static void read_choice(pare__reader *r, const pare__step_map *map, const pare__step_map *around,
                        pare_choice *choice)
{
    const pare__yaml *found[2];
    static const pare__key keys[2] = {PARE__KEY_INCLUDE, PARE__KEY_EXCLUDE};
    for (int i = 0; i < 2; i++) {
        const pare__yaml *own = map->value[keys[i]],
                         *shared = around ? around->value[keys[i]] : NULL;
        if (own && shared)
            pare__problem_add(&r->problems, own, "%s: given here and in compress: give it once",
                              words[keys[i]]);
        found[i] = own ? own : shared;
    }
    if (found[0])
        read_globs(r, found[0], "include", &choice->include, &choice->includes);
    if (found[1])
        read_globs(r, found[1], "exclude", &choice->exclude, &choice->excludes);
}

/* In one half of a compress step the samples are those of the whole. */
static void refuse_calibration(pare__reader *r, const pare__step_map *map)
{
    for (int k = PARE__KEY_DATA; k < PARE__KEYS; k++)
        if (map->value[k])
            pare__problem_add(&r->problems, map->value[k],
                              "%s: belongs to compress, beside prune and quantize", words[k]);
}

/* ---- prune ----------------------------------------------------------------------------------- */

/* sparsity belongs to all patterns but N:M. */
static void read_sparsity(pare__reader *r, const pare__step_map *map, bool pattern_known,
                          pare_prune_step *step)
{
    const pare__yaml *node = map->value[PARE__KEY_SPARSITY];
    bool nm = step->pattern.kind == PARE_PATTERN_NM;
    bool sound = node && pare__read_fraction(&r->problems, node, "sparsity", &step->sparsity);
    if (!pattern_known)
        return;
    r->problems.together = true;
    if (nm && sound)
        pare__problem_add(&r->problems, node,
                          "sparsity: beside pattern %d:%d, which has its own (%g): leave it out",
                          step->pattern.n, step->pattern.m,
                          1 - (double)step->pattern.n / step->pattern.m);
    if (nm)
        step->sparsity = 0;
    else if (!node && !map->guessed[PARE__KEY_SPARSITY])
        pare__problem_add(
            &r->problems, map->map,
            "prune: sparsity is missing, expected a number from 0 to 1 beside this pattern");
    r->problems.together = false;
}

static void read_spread(pare__reader *r, const pare__step_map *map, pare_prune_step *step)
{
    const pare__yaml *scope = map->value[PARE__KEY_SCOPE], *budget = map->value[PARE__KEY_BUDGET];
    const char *by_scope = scope ? pare__read_text(&r->problems, scope, "scope") : NULL;
    const char *by_budget = budget ? pare__read_text(&r->problems, budget, "budget") : NULL;
    pare_scope whole;
    pare_budget spread;
    bool words_known = (!by_scope || pare_scope_parse(by_scope, &whole) == PARE_OK) &&
                       (!by_budget || pare_budget_parse(by_budget, &spread) == PARE_OK);
    if (pare_spread_parse(by_scope, by_budget, step) == PARE_OK)
        return;
    r->problems.together = words_known;
    pare__problem_last(&r->problems, budget ? budget : scope);
    r->problems.together = false;
}

static void read_pattern(pare__reader *r, const pare__step_map *map, pare_prune_step *step)
{
    const pare__yaml *node = map->value[PARE__KEY_PATTERN];
    bool known = !map->guessed[PARE__KEY_PATTERN];
    const char *text = "unstructured";
    if (node)
        text = pare__read_text(&r->problems, node, "pattern");
    if (text && pare_pattern_parse(text, &step->pattern) != PARE_OK) {
        pare__problem_last(&r->problems, node);
        text = NULL;
    }
    read_sparsity(r, map, known && text, step);
    read_spread(r, map, step);
}

static void read_prune(pare__reader *r, const pare__step_map *map, const pare__step_map *around)
{
    pare_prune_step step = {0};
    const pare__yaml *node = map->value[PARE__KEY_METHOD];
    const char *text = "magnitude";
    if (node)
        text = pare__read_text(&r->problems, node, "method");
    if (text && pare_prune_method_parse(text, &step.method) != PARE_OK)
        pare__problem_last(&r->problems, node);
    read_pattern(r, map, &step);
    if (map->value[PARE__KEY_MULTIPLE])
        pare__read_count(&r->problems, map->value[PARE__KEY_MULTIPLE], "multiple", 1,
                         &step.multiple);
    if (map->value[PARE__KEY_DAMPING])
        pare__read_above_zero(&r->problems, map->value[PARE__KEY_DAMPING], "damping", 1,
                              &step.damping);
    if (r->recipe->quant_count)
        pare__problem_add(
            &r->problems, map->map,
            "prune: comes after quantize, expected before it: put the prune step first");
    if (pare__grow(&r->recipe->prunes, &r->prune_capacity, r->recipe->prune_count + 1,
                   sizeof step) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    r->recipe->prunes[r->recipe->prune_count] = step;
    read_choice(r, map, around, &r->recipe->prunes[r->recipe->prune_count++].choice);
}

/* ---- quantize -------------------------------------------------------------------------------- */

static void read_tuning(pare__reader *r, const pare__step_map *map, pare_quant_tuning *tuning)
{
    const pare__yaml *const *v = map->value;
    int64_t grid = 0;
    bool clip = true;
    if (v[PARE__KEY_DAMPING])
        pare__read_above_zero(&r->problems, v[PARE__KEY_DAMPING], "damping", 1, &tuning->damping);
    if (v[PARE__KEY_ACT_ORDER])
        pare__read_bool(&r->problems, v[PARE__KEY_ACT_ORDER], "act_order", &tuning->act_order);
    if (v[PARE__KEY_ALPHA])
        pare__read_above_zero(&r->problems, v[PARE__KEY_ALPHA], "alpha", 1, &tuning->alpha);
    if (v[PARE__KEY_GRID] && pare__read_count(&r->problems, v[PARE__KEY_GRID], "grid", 1, &grid) &&
        grid > 1000)
        pare__problem_add(&r->problems, v[PARE__KEY_GRID],
                          "grid: found %lld, expected at most 1000 scales to try", (long long)grid);
    tuning->grid = (int)(grid <= 1000 ? grid : 0);
    if (v[PARE__KEY_CLIP])
        pare__read_bool(&r->problems, v[PARE__KEY_CLIP], "clip", &clip);
    tuning->no_clip = !clip;
}

/* The schemes that each tensor may get. */
static void read_schemes(pare__reader *r, const pare__yaml *node, pare_mixed *mixed)
{
    if (node->kind != PARE__YAML_LIST || node->count < 2 || node->count > MOST_SCHEMES) {
        pare__problem_add(&r->problems, node,
                          "schemes: expected a list of 2 to %d, such as [w4g128, w8]",
                          MOST_SCHEMES);
        return;
    }
    if (pare__calloc(node->count, sizeof *mixed->schemes, &mixed->schemes) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    for (size_t i = 0; i < node->count; i++) {
        const char *text = pare__read_text(&r->problems, node->items[i], "schemes");
        pare_scheme *scheme = &mixed->schemes[mixed->count];
        char spelling[2][40];
        if (!text)
            continue;
        if (pare_scheme_parse(text, scheme) != PARE_OK) {
            pare__problem_last(&r->problems, node->items[i]);
            continue;
        }
        pare_scheme_text(scheme, spelling[0], sizeof spelling[0]);
        for (size_t j = 0; j < mixed->count; j++)
            if (strcmp(spelling[0],
                       pare_scheme_text(&mixed->schemes[j], spelling[1], sizeof spelling[1])) == 0)
                pare__problem_add(&r->problems, node->items[i], "schemes: %s is there twice", text);
        mixed->count++;
    }
}

static void read_mixed(pare__reader *r, const pare__step_map *map, pare_quant_step *step)
{
    static const char *const harms[] = {"output", "kld", NULL};
    static const pare__key beside[] = {PARE__KEY_BITS, PARE__KEY_BYTES, PARE__KEY_SENSITIVITY};
    const pare__yaml *const *v = map->value;
    pare_mixed *mixed = &step->mixed;
    if (v[PARE__KEY_SCHEMES])
        read_schemes(r, v[PARE__KEY_SCHEMES], mixed);
    if (mixed->count)
        step->scheme = mixed->schemes[0];
    for (size_t i = 0; i < 3 && !v[PARE__KEY_SCHEMES]; i++)
        if (v[beside[i]] && !map->guessed[PARE__KEY_SCHEMES])
            pare__problem_add(&r->problems, v[beside[i]],
                              "%s: goes with schemes: [ … ], a list to choose from",
                              words[beside[i]]);
    if (v[PARE__KEY_BITS])
        pare__read_above_zero(&r->problems, v[PARE__KEY_BITS], "bits", 64, &mixed->bits);
    if (v[PARE__KEY_BYTES])
        pare__read_size(&r->problems, v[PARE__KEY_BYTES], "bytes", &mixed->bytes);
    mixed->kld = mixed->count > 0;
    if (v[PARE__KEY_SENSITIVITY])
        mixed->kld =
            pare__read_word(&r->problems, v[PARE__KEY_SENSITIVITY], "sensitivity", harms) == 1;
}

static void read_scheme(pare__reader *r, const pare__step_map *map, pare_quant_step *step)
{
    const pare__yaml *node = map->value[PARE__KEY_SCHEME], *scale = map->value[PARE__KEY_SCALE];
    const char *text;
    read_mixed(r, map, step);
    if (node && map->value[PARE__KEY_SCHEMES])
        pare__problem_add(&r->problems, node, "scheme: beside schemes: give one of them");
    if (!node && !map->guessed[PARE__KEY_SCHEME] && !map->value[PARE__KEY_SCHEMES])
        pare__problem_add(&r->problems, map->map,
                          "quantize: scheme is missing, expected one such as w4g128, w8 or fp8");
    if (node && (text = pare__read_text(&r->problems, node, "scheme")) &&
        pare_scheme_parse(text, &step->scheme) != PARE_OK)
        pare__problem_last(&r->problems, node);
    if (scale && (text = pare__read_text(&r->problems, scale, "scale")) &&
        pare_scale_parse(text, step) != PARE_OK)
        pare__problem_last(&r->problems, scale);
    if (step->range == PARE_RANGE_MSE && !pare__quant_static(step))
        step->range = PARE_RANGE_ABSMAX; /* has no meaning there: one spelling */
}

static void read_quantize(pare__reader *r, const pare__step_map *map, const pare__step_map *around)
{
    pare_quant_step step = {0};
    const pare__yaml *node = map->value[PARE__KEY_METHOD];
    const char *text = "rtn";
    if (node)
        text = pare__read_text(&r->problems, node, "method");
    if (text && pare_quant_method_parse(text, &step.method) != PARE_OK)
        pare__problem_last(&r->problems, node);
    read_scheme(r, map, &step);
    read_tuning(r, map, &step.tuning);
    if (pare__grow(&r->recipe->quants, &r->quant_capacity, r->recipe->quant_count + 1,
                   sizeof step) != PARE_OK) {
        free(step.mixed.schemes);
        r->problems.failed = true;
        return;
    }
    r->recipe->quants[r->recipe->quant_count] = step;
    read_choice(r, map, around, &r->recipe->quants[r->recipe->quant_count++].choice);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The maps that a step was read from: of the items of its halves, and around them. */
struct step_maps {
    pare__reader *reader;
    pare__step_map *item[2]; /* [items] */
    const pare__step_map *whole;
};

static void complain(void *user, pare__half half, size_t item, pare__key key, const char *sentence)
{
    const struct step_maps *maps = user;
    const pare__step_map *map = &maps->item[half][item];
    const pare__yaml *node = map->value[key] ? map->value[key] : map->map;
    pare__problem_add(&maps->reader->problems, node, "%s", sentence);
}

/* Both in one sweep have one damping, wherever it was given. */
static void share_damping(pare_recipe *recipe, const pare_step *step)
{
    for (size_t i = step->prune; i < step->prune + step->prunes; i++)
        for (size_t j = step->quant; j < step->quant + step->quants; j++) {
            pare_prune_step *p = &recipe->prunes[i];
            pare_quant_step *q = &recipe->quants[j];
            if (!p->method || !q->method || !p->method->choose || !q->method->needs_factor)
                continue;
            if (p->damping == 0)
                p->damping = q->tuning.damping;
            if (q->tuning.damping == 0)
                q->tuning.damping = p->damping;
        }
}

/* Adds the step of what was read since the recipe had so many prunes and quants. Data that no
 * method of it looks at is left out, so that the same work is the same recipe. */
static void end_step(pare__reader *r, size_t prunes, size_t quants, struct step_maps *maps)
{
    pare_step step = {.kind = PARE_STEP_COMPRESS,
                      .prune = prunes,
                      .prunes = r->recipe->prune_count - prunes,
                      .quant = quants,
                      .quants = r->recipe->quant_count - quants};
    pare__read_calibration(r, maps->whole, &step.calibration);
    share_damping(r->recipe, &step);
    r->problems.together = true;
    pare__check_step(r->recipe, &step, &(pare__judge){complain, maps});
    r->problems.together = false;
    if (!pare_step_needs_data(r->recipe, &step))
        pare__calibration_free(&step.calibration);
    pare__add_step(r, &step);
}

void pare__read_prune_step(pare__reader *r, const pare__yaml *node)
{
    pare__step_map map;
    struct step_maps maps = {r, {&map, &map}, &map};
    size_t prunes = r->recipe->prune_count, quants = r->recipe->quant_count;
    if (!pare__read_step_map(r, node, "prune", PRUNE_KEYS | PARE__CALIBRATION_KEYS, &map))
        return;
    read_prune(r, &map, NULL);
    end_step(r, prunes, quants, &maps);
}

void pare__read_quantize_step(pare__reader *r, const pare__yaml *node)
{
    pare__step_map map;
    struct step_maps maps = {r, {&map, &map}, &map};
    size_t prunes = r->recipe->prune_count, quants = r->recipe->quant_count;
    if (!pare__read_step_map(r, node, "quantize", QUANTIZE_KEYS | PARE__CALIBRATION_KEYS, &map))
        return;
    read_quantize(r, &map, NULL);
    end_step(r, prunes, quants, &maps);
}

/* One half of a compress step: a map, or a list of them for different tensors. */
static void read_half(struct step_maps *maps, pare__half half, const pare__yaml *node)
{
    pare__reader *r = maps->reader;
    const bool prune = half == PARE__HALF_PRUNE, list = node->kind == PARE__YAML_LIST;
    const uint64_t keys = (prune ? PRUNE_KEYS : QUANTIZE_KEYS) | PARE__CALIBRATION_KEYS;
    size_t count = list ? node->count : 1, taken = 0;
    if (pare__calloc(count + 1, sizeof *maps->item[half], &maps->item[half]) != PARE_OK) {
        r->problems.failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        pare__step_map *map = &maps->item[half][taken];
        if (!pare__read_step_map(r, list ? node->items[i] : node, prune ? "prune" : "quantize",
                                 keys, map))
            continue;
        refuse_calibration(r, map);
        if (prune)
            read_prune(r, map, maps->whole);
        else
            read_quantize(r, map, maps->whole);
        taken++;
    }
}

void pare__read_compress_step(pare__reader *r, const pare__yaml *node)
{
    pare__step_map map;
    struct step_maps maps = {.reader = r, .whole = &map};
    size_t prunes = r->recipe->prune_count, quants = r->recipe->quant_count;
    uint64_t keys = KEY(PRUNE) | KEY(QUANTIZE) | CHOICE_KEYS | PARE__CALIBRATION_KEYS;
    if (!pare__read_step_map(r, node, "compress", keys, &map))
        return;
    const pare__yaml *p = map.value[PARE__KEY_PRUNE], *q = map.value[PARE__KEY_QUANTIZE];
    if (!p && !q && !map.guessed[PARE__KEY_PRUNE] && !map.guessed[PARE__KEY_QUANTIZE])
        pare__problem_add(&r->problems, node,
                          "compress: prune and quantize are both missing, expected at least one");
    if (p)
        read_half(&maps, PARE__HALF_PRUNE, p);
    if (q)
        read_half(&maps, PARE__HALF_QUANTIZE, q);
    if (!r->problems.failed)
        end_step(r, prunes, quants, &maps);
    free(maps.item[PARE__HALF_PRUNE]);
    free(maps.item[PARE__HALF_QUANTIZE]);
}
