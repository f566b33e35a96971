/* student.c - a student cut out of its teacher: some of its layers, heads, neurons and features.
 *
 * Weight subcloning (Samragh 2023): of each coupled group of features, heads and neurons those of
 * largest weights stay (Σ w² over all that reads or writes them), of the layers every k-th; and a
 * product that sums over K' of K inputs is multiplied by √(K/K'), so that its outputs keep their
 * size. What differs from the paper: importance is one sum over a coupled group, so that the same
 * units stay everywhere; an RMS norm, which divides by the size of what is left, needs no factor
 * and keeps its weights. It is one cut, as structured pruning makes it (shrink.h): the result is an
 * ordinary smaller checkpoint. Cost: two passes over the teacher.
 */
#include "engine/shrink/shrink.h"
#include "training.h"

#include <math.h>
#include <string.h>

/* "6x384,heads=6,ffn=1536"; 0: not said. */
typedef struct shape {
    int64_t layers, width, heads, ffn, vocab;
} shape;

static const char *const inits[] = {"subclone", "every-k", "random", NULL};

pare_status pare_student_init_parse(const char *text, pare_student_init *init)
{
    for (int i = 0; text && inits[i]; i++)
        if (strcmp(inits[i], text) == 0) {
            *init = (pare_student_init)i;
            return PARE_OK;
        }
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "\"%.60s\" is no way to begin a student: expected subclone, "
              "every-k or random",
              text ? text : "");
}

const char *pare_student_init_name(pare_student_init init)
{
    return (unsigned)init < 3 ? inits[init] : "?";
}

/* ---- the shape ------------------------------------------------------------------------------- */

static pare_status bad_shape(const char *text)
{
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "\"%.60s\" is no shape of a student: expected layers x width, as in 6x384, and then "
              "perhaps ,heads=H ,ffn=F",
              text);
}

static bool whole(const char *text, size_t length, int64_t *value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%.*s", length < sizeof digits ? (int)length : 0, text);
    return pare__parse_int(digits, value) && *value > 0;
}

static pare_status parse(const char *text, shape *s)
{
    size_t x = strcspn(text, "x"), end = strcspn(text, ",");
    *s = (shape){0};
    if (x >= end || !whole(text, x, &s->layers) || !whole(text + x + 1, end - x - 1, &s->width))
        return bad_shape(text);
    while (text[end] == ',') {
        const char *key = text + end + 1;
        size_t name = strcspn(key, "=,"), length = strcspn(key, ",");
        int64_t *value = name == 5 && strncmp(key, "heads", 5) == 0   ? &s->heads
                         : name == 3 && strncmp(key, "ffn", 3) == 0   ? &s->ffn
                         : name == 5 && strncmp(key, "vocab", 5) == 0 ? &s->vocab
                                                                      : NULL;
        if (!value || key[name] != '=' || !whole(key + name + 1, length - name - 1, value))
            return bad_shape(text);
        end += 1 + length;
    }
    return PARE_OK;
}

/* ---- units ----------------------------------------------------------------------------------- */

static int64_t features(const pare_unit_class *u)
{
    return u->count * u->size;
}

/* The largest class of a kind; NULL: there is none. */
static const pare_unit_class *class_of(const pare_couple *c, pare_unit_kind kind)
{
    const pare_unit_class *best = NULL;
    for (int64_t i = 0; i < pare_couple_class_count(c); i++) {
        const pare_unit_class *u = pare_couple_class(c, i);
        if (u->kind == kind && u->count > 0 && (!best || u->count > best->count))
            best = u;
    }
    return best;
}

/* Layer i of L' is layer (i + 1)·L/L' − 1: the last one stays. */
static pare_status keep_layers(const pare_couple *c, int64_t layers, uint8_t *keep)
{
    const pare_unit_class *u = class_of(c, PARE_UNIT_LAYER);
    PARE_REQUIRE(u, PARE_ERR_ARGUMENT,
                 "this teacher has no layers that a shape could count: give the student as a "
                 "checkpoint or an architecture");
    PARE_REQUIRE(layers <= u->count, PARE_ERR_ARGUMENT,
                 "the student is to have %lld layers, its teacher has %lld", (long long)layers,
                 (long long)u->count);
    memset(keep + u->first, 0, (size_t)u->count);
    for (int64_t i = 0; i < layers; i++)
        keep[u->first + (i + 1) * u->count / layers - 1] = 1;
    for (int64_t i = 0; i < u->count; i++)
        PARE_REQUIRE(keep[u->first + i] || !pare_couple_stays(c, u->first + i), PARE_ERR_ARGUMENT,
                     "layer %lld of the teacher cannot go: %s", (long long)i,
                     pare_couple_stays(c, u->first + i));
    return PARE_OK;
}

/* Leaves `wanted` features (or heads, neurons) of each class of a kind. */
static pare_status keep_units(const pare__shrink *s, pare_unit_kind kind, const char *what,
                              int64_t have, int64_t wanted, uint8_t *keep)
{
    pare_status status = PARE_OK;
    uint8_t *left = NULL;
    int64_t units = pare_couple_unit_count(s->couple);
    if (wanted == have || have == 0)
        return PARE_OK;
    PARE_REQUIRE(wanted < have, PARE_ERR_ARGUMENT,
                 "the student is to have %lld %s, its teacher has %lld", (long long)wanted, what,
                 (long long)have);
    const pare_shrink_options options = {.kind = kind,
                                         .sparsity = 1 - (double)wanted / (double)have};
    PARE_TRY(pare__calloc((size_t)units, 1, &left));
    PARE_TRY_DONE(pare_shrink_choose(s->couple, &options, s->score, left));
    for (int64_t u = 0; u < units; u++)
        keep[u] = keep[u] && left[u];
done:
    free(left);
    return status;
}

static int64_t kept_features(const pare_couple *c, pare_unit_kind kind, const uint8_t *keep)
{
    const pare_unit_class *u = class_of(c, kind);
    int64_t kept = 0;
    for (int64_t i = 0; u && i < u->count; i++)
        kept += keep[u->first + i] ? u->size : 0;
    return kept;
}

/* In proportion to the width, at least one. */
static int64_t in_proportion(int64_t have, int64_t width, int64_t of)
{
    int64_t wanted = (have * width + of / 2) / of;
    return wanted > 0 ? wanted : 1;
}

/* Query heads that go together: those that share a key head. */
static int64_t heads_together(const pare_model *model)
{
    for (int64_t i = 0; i < pare_model_node_count(model); i++) {
        pare_node_view view = pare_model_node(model, i);
        if (view.heads > 0 && view.kv_heads > 0)
            return view.heads / view.kv_heads;
    }
    return 1;
}

static pare_status keep_heads(const pare__shrink *s, const pare_unit_class *head, int64_t wanted,
                              uint8_t *keep)
{
    int64_t group = heads_together(s->subject.model);
    PARE_REQUIRE(wanted % group == 0, PARE_ERR_ARGUMENT,
                 "%lld heads do not fit this architecture: %lld of them share a key head",
                 (long long)wanted, (long long)group);
    return keep_units(s, PARE_UNIT_HEAD, "heads", head->count, wanted / group, keep);
}

static pare_status keep_widths(pare__shrink *s, const shape *want)
{
    const pare_unit_class *width = class_of(s->couple, PARE_UNIT_WIDTH);
    const pare_unit_class *head = class_of(s->couple, PARE_UNIT_HEAD);
    const pare_unit_class *ffn = class_of(s->couple, PARE_UNIT_CHANNEL);
    PARE_REQUIRE(width, PARE_ERR_ARGUMENT,
                 "this teacher has no hidden width that could be cut: give the student as a "
                 "checkpoint or an architecture");
    int64_t D = features(width);
    PARE_TRY(keep_units(s, PARE_UNIT_WIDTH, "features", D, want->width, s->keep));
    if (head && !head->locked) {
        int64_t heads = in_proportion(head->count, want->width, D);
        heads = want->heads ? want->heads : heads * heads_together(s->subject.model);
        PARE_TRY(keep_heads(s, head, heads, s->keep));
    }
    if (ffn && !ffn->locked) {
        int64_t F = want->ffn ? want->ffn : in_proportion(ffn->count, want->width, D);
        PARE_TRY(keep_units(s, PARE_UNIT_CHANNEL, "neurons", ffn->count, F, s->keep));
    }
    int64_t kept = kept_features(s->couple, PARE_UNIT_WIDTH, s->keep);
    PARE_REQUIRE(kept == want->width, PARE_ERR_ARGUMENT,
                 "a width of %lld does not fit this architecture; %lld would",
                 (long long)want->width, (long long)kept);
    return PARE_OK;
}

static pare_status choose(pare__shrink *s, const char *text, pare_student_init init)
{
    shape want;
    const pare_unit_class *width = class_of(s->couple, PARE_UNIT_WIDTH);
    int64_t vocabulary = pare_model_facts_of(s->subject.model)->vocabulary;
    PARE_TRY(parse(text, &want));
    PARE_REQUIRE(!want.vocab || want.vocab == vocabulary, PARE_ERR_ARGUMENT,
                 "a student of %lld tokens beside a teacher of %lld is not in this version",
                 (long long)want.vocab, (long long)vocabulary);
    PARE_REQUIRE(init != PARE_STUDENT_EVERY_K || !width || want.width == features(width),
                 PARE_ERR_ARGUMENT,
                 "every-k keeps whole layers of width %lld; for a width of %lld take subclone",
                 (long long)(width ? features(width) : 0), (long long)want.width);
    memset(s->keep, 1, (size_t)pare_couple_unit_count(s->couple));
    PARE_TRY(keep_widths(s, &want));
    PARE_TRY(keep_layers(s->couple, want.layers, s->keep));
    bool all = true;
    for (int64_t u = 0; u < pare_couple_unit_count(s->couple); u++)
        all = all && s->keep[u];
    PARE_REQUIRE(!all, PARE_ERR_ARGUMENT,
                 "a student of this shape is the teacher itself: give the checkpoint");
    return pare__shrink_list(s);
}

/* What is left of a product's inputs. */
static double share_of_inputs(const pare__shrink *s, int64_t param)
{
    int64_t before[PARE_MAX_RANK], after[PARE_MAX_RANK];
    int rank;
    const pare_param *p = pare_model_param(s->subject.model, param);
    if (p->role != PARE_ROLE_LINEAR && p->role != PARE_ROLE_HEAD)
        return 1;
    pare_couple_shape(s->couple, param, NULL, &rank, before);
    pare_couple_shape(s->couple, param, s->keep, &rank, after);
    int axis = p->transposed ? 0 : rank - 1;
    return (double)after[axis] / (double)before[axis];
}

static void rescale(pare__shrink *s)
{
    for (int64_t i = 0; i < s->count; i++)
        if (s->tensors[i].param >= 0)
            s->tensors[i].gain = sqrt(1 / share_of_inputs(s, s->tensors[i].param));
}

/* ---- making ---------------------------------------------------------------------------------- */

static const pare_prune_step magnitude = {.pattern = {.kind = PARE_PATTERN_WIDTH}};

static pare_status open(pare__shrink *s, pare_prune_step *step, const pare__subject *teacher)
{
    *step = magnitude;
    step->method = pare_prune_find("magnitude");
    s->step = step;
    s->kind = PARE_UNIT_WIDTH;
    s->options.device = "cpu";
    s->choice = *teacher->choice;
    PARE_TRY(pare__bench_open(&s->options, &s->bench));
    PARE_TRY(pare__subject_open(&s->choice, &s->subject));
    return pare__shrink_units(s);
}

/* The config of the smaller model is all that a plan needs; which units stay makes no difference.
 */
pare_status pare__student_model(const pare__subject *teacher, const char *text,
                                pare_student_init init, pare_model **model)
{
    pare_status status = PARE_OK;
    pare_prune_step step;
    const pare_recipe none = {0};
    pare__shrink s = {.recipe = &none, .phases = pare__json_new_array()};
    PARE_TRY_DONE(open(&s, &step, teacher));
    PARE_TRY_DONE(choose(&s, text, init));
    PARE_TRY_DONE(pare_model_create(&(pare_model_options){.config = s.config}, model));
done:
    pare__shrink_close(&s);
    return status;
}

pare_status pare__student_make(const pare__subject *teacher, const char *text,
                               pare_student_init init, uint64_t seed,
                               const pare_run_options *options, const char *path)
{
    pare_status status = PARE_OK;
    pare_prune_step step;
    pare__text recipe = {0};
    const pare_recipe made = {.output = (char *)(uintptr_t)path, .seed = seed};
    pare__shrink s = {.recipe = &made, .options = *options, .phases = pare__json_new_array()};
    s.options.overwrite = true; /* it is ours */
    PARE_TRY_DONE(open(&s, &step, teacher));
    pare__text_add(&recipe, "student: \"%s\"\ninit: %s\n", text, pare_student_init_name(init));
    PARE_TRY_DONE(pare__text_take(&recipe, &s.recipe_text));
    PARE_TRY_DONE(pare__shrink_verify(&s));
    PARE_TRY_DONE(pare__shrink_score(&s));
    PARE_TRY_DONE(choose(&s, text, init));
    rescale(&s);
    PARE_TRY_DONE(pare__shrink_write(&s));
done:
    pare__shrink_close(&s);
    return status;
}
