/* distill.c - what a distillation is made of: words, checks, taps, what is learned beside the
 * student, and the terms for the training loop. */
#include "distill_impl.h"

#include "base/rng.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

#define STREAM UINT64_C(0x64697374696c6c00) /* of the projections' first values */

typedef struct kind_row {
    const char *name;
    const pare_loss *loss;
    bool pairs;   /* compares layers */
    bool teacher; /* looks at a teacher, or (of outputs) at its cache */
} kind_row;

static const kind_row kinds[PARE_DISTILL_KINDS] = {
    [PARE_DISTILL_KL] = {"kl", &pare__loss_kl, false, true},
    [PARE_DISTILL_CE] = {"ce", &pare_loss_cross_entropy, false, false},
    [PARE_DISTILL_HIDDEN] = {"hidden", &pare__loss_hidden, true, true},
    [PARE_DISTILL_ATTENTION] = {"attention", &pare__loss_attention, true, true},
    [PARE_DISTILL_RELATION] = {"relation", &pare__loss_relation, true, true},
    [PARE_DISTILL_FEATURE] = {"feature", &pare__loss_feature, true, true},
    [PARE_DISTILL_COSINE] = {"cosine", &pare__loss_cosine, false, true},
};

struct pare_distill {
    pare_distill_options options;
    pare_model *student, *teacher;
    pare__compared compared[PARE_DISTILL_KINDS];
    pare_learned *learned; /* [learned_count], those of a kind together */
    char (*names)[48];
    size_t learned_count;
    pare_backend *be; /* of arena */
    float *arena;     /* values, then gradients */
    pare_loss_term terms[PARE_DISTILL_KINDS];
    size_t term_count;
};

/* ---- words ----------------------------------------------------------------------------------- */

const char *pare_distill_kind_name(pare_distill_kind kind)
{
    return kind >= 0 && kind < PARE_DISTILL_KINDS ? kinds[kind].name : "?";
}

static pare_status find_kind(const char *word, int *kind)
{
    const char *words[PARE_DISTILL_KINDS + 1] = {0};
    for (*kind = 0; *kind < PARE_DISTILL_KINDS; ++*kind) {
        words[*kind] = kinds[*kind].name;
        if (strcmp(word, kinds[*kind].name) == 0)
            return PARE_OK;
    }
    const char *near = pare__nearest(word, words);
    PARE_FAIL(
        PARE_ERR_ARGUMENT,
        "the loss \"%.60s\" is unknown, expected kl, ce, hidden, attention, relation, feature "
        "or cosine%s%s%s",
        word, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* "0.5", or "1>0.2". */
static bool read_weight(char *text, pare_ramp *ramp)
{
    char *to = strchr(text, '>');
    *ramp = (pare_ramp){0};
    if (to)
        *to++ = '\0';
    if (!pare__parse_double(text, &ramp->from) || ramp->from < 0)
        return false;
    if (!to)
        return ramp->from > 0;
    ramp->end = 1;
    return pare__parse_double(to, &ramp->to) && ramp->to >= 0 && ramp->from + ramp->to > 0;
}

static pare_status read_loss(const char *item, size_t length, pare_distill_options *options)
{
    char text[80], *weight;
    int kind;
    PARE_REQUIRE(length > 0 && length < sizeof text, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is no list of losses such as \"kl:1,hidden:0.5\"", item);
    memcpy(text, item, length);
    text[length] = '\0';
    weight = strchr(text, ':');
    if (weight)
        *weight++ = '\0';
    PARE_TRY(find_kind(text, &kind));
    pare_ramp *ramp = &options->weight[kind];
    PARE_REQUIRE(!(ramp->from > 0) && !(ramp->to > 0), PARE_ERR_ARGUMENT,
                 "the loss \"%s\" is given twice", text);
    if (!weight)
        *ramp = (pare_ramp){.from = 1};
    else
        PARE_REQUIRE(read_weight(weight, ramp), PARE_ERR_ARGUMENT,
                     "the weight of \"%s\" is a number above 0, or two as in \"1>0.2\"", text);
    return PARE_OK;
}

pare_status pare_distill_losses_parse(const char *text, pare_distill_options *options)
{
    PARE_REQUIRE(text && options, PARE_ERR_ARGUMENT, "losses: NULL argument");
    memset(options->weight, 0, sizeof options->weight);
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        PARE_TRY(read_loss(at, length, options));
        at += length;
        if (!*at)
            return PARE_OK;
    }
}

static bool is_used(const pare_distill_options *options, int kind)
{
    return options->weight[kind].from > 0 || options->weight[kind].to > 0;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static const char *output_name(pare_output output)
{
    static const char *const names[] = {"classes", "tokens", "embeddings", "hidden states"};
    return names[output];
}

/* Outputs of one kind and size. */
static pare_status check_outputs(const pare_model *student, const pare_model *teacher,
                                 const char *loss)
{
    const pare_model_facts *s = pare_model_facts_of(student), *t = pare_model_facts_of(teacher);
    PARE_REQUIRE(s->output == t->output, PARE_ERR_ARGUMENT,
                 "%s: the student gives %s, the teacher %s", loss, output_name(s->output),
                 output_name(t->output));
    PARE_REQUIRE(s->classes == t->classes, PARE_ERR_ARGUMENT,
                 "%s: the student's output has %lld %s, the teacher's %lld: they must be the same",
                 loss, (long long)s->classes,
                 s->output == PARE_OUTPUT_TOKENS    ? "tokens to choose from"
                 : s->output == PARE_OUTPUT_CLASSES ? "classes"
                                                    : "features",
                 (long long)t->classes);
    return PARE_OK;
}

/* Both must take the same batches. */
static void list_channels(const float *values, int64_t count, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int64_t c = 0; c < count && used < size; c++)
        used +=
            (size_t)snprintf(text + used, size - used, "%s%.9g", c ? "," : "", (double)values[c]);
}

static pare_status check_inputs(const pare_model *student, const pare_model *teacher)
{
    const pare_model_facts *s = pare_model_facts_of(student), *t = pare_model_facts_of(teacher);
    PARE_REQUIRE(s->tokens == t->tokens, PARE_ERR_ARGUMENT, "the student takes %s, the teacher %s",
                 s->tokens ? "tokens" : "images", t->tokens ? "tokens" : "images");
    PARE_REQUIRE(!s->tokens || s->vocabulary <= t->vocabulary, PARE_ERR_ARGUMENT,
                 "the student knows %lld tokens, the teacher %lld: it cannot read the same text",
                 (long long)s->vocabulary, (long long)t->vocabulary);
    bool fits = s->height == t->height && s->width == t->width && s->channels == t->channels;
    PARE_REQUIRE(s->tokens || fits, PARE_ERR_ARGUMENT,
                 "the student takes images of %lldx%lldx%lld, the teacher of %lldx%lldx%lld",
                 (long long)s->height, (long long)s->width, (long long)s->channels,
                 (long long)t->height, (long long)t->width, (long long)t->channels);
    if (s->tokens || pare_model_same_pixels(s, t))
        return PARE_OK;
    char mean[64], deviation[64];
    list_channels(t->mean, t->channels, mean, sizeof mean);
    list_channels(t->std, t->channels, deviation, sizeof deviation);
    PARE_FAIL(PARE_ERR_ARGUMENT,
              "the student takes pixels scaled otherwise than the teacher, and both get the same: "
              "give it those of the teacher, --scale %.9g --mean %s --std %s",
              (double)t->scale, mean, deviation);
}

static pare_status check_cache(const pare_distill_options *o, const pare_model *student,
                               const pare_teacher_cache *cache)
{
    double made = pare__cache_temperature(cache);
    double asked = o->temperature.from > 0 ? o->temperature.from : 1;
    int64_t classes = pare_model_facts_of(student)->classes;
    PARE_REQUIRE(!(o->temperature.end > 0) && !(fabs(asked - made) > 0), PARE_ERR_ARGUMENT,
                 "the teacher's cache holds outputs at the temperature %g: it can be no other one",
                 made);
    PARE_REQUIRE(o->divergence == PARE_DIVERGENCE_FORWARD, PARE_ERR_ARGUMENT,
                 "a teacher's cache holds its largest outputs alone: the divergence must be the "
                 "forward one");
    PARE_REQUIRE(classes == pare__cache_classes(cache), PARE_ERR_ARGUMENT,
                 "kl: the student's output has %lld classes, the teacher's in the cache %lld: they "
                 "must be the same",
                 (long long)classes, (long long)pare__cache_classes(cache));
    return PARE_OK;
}

static pare_status check_kind(const pare_distill_options *o, int kind, const pare_model *student,
                              const pare_model *teacher, const pare_teacher_cache *cache)
{
    const char *name = kinds[kind].name;
    pare_output output = pare_model_facts_of(student)->output;
    const pare_ramp *w = &o->weight[kind];
    PARE_REQUIRE(isfinite(w->from) && isfinite(w->to) && w->from >= 0 && w->to >= 0,
                 PARE_ERR_ARGUMENT, "the weight of %s goes from %g to %g; it is 0 or more", name,
                 w->from, w->to);
    PARE_REQUIRE(!kinds[kind].teacher || teacher || (cache && kind == PARE_DISTILL_KL),
                 PARE_ERR_ARGUMENT,
                 cache ? "%s looks at the teacher's inside: a cache holds its outputs alone"
                       : "%s needs a teacher",
                 name);
    PARE_REQUIRE(kind != PARE_DISTILL_COSINE || output == PARE_OUTPUT_VECTOR, PARE_ERR_ARGUMENT,
                 "cosine compares embeddings; the student gives %s: take kl", output_name(output));
    PARE_REQUIRE((kind != PARE_DISTILL_KL && kind != PARE_DISTILL_CE) ||
                     output == PARE_OUTPUT_CLASSES || output == PARE_OUTPUT_TOKENS,
                 PARE_ERR_ARGUMENT, "%s is for classes and tokens; the student gives %s", name,
                 output_name(output));
    if (kind == PARE_DISTILL_KL && cache)
        PARE_TRY(check_cache(o, student, cache));
    else if (kind == PARE_DISTILL_KL || kind == PARE_DISTILL_COSINE)
        PARE_TRY(check_outputs(student, teacher, name));
    return PARE_OK;
}

static pare_status check(const pare_distill_options *o, const pare_model *student,
                         const pare_model *teacher, const pare_teacher_cache *cache)
{
    bool any = false;
    double to = o->temperature.to;
    PARE_REQUIRE(student && student != teacher, PARE_ERR_ARGUMENT,
                 "a distillation needs a student, and a teacher that is another model");
    PARE_REQUIRE(isfinite(o->temperature.from) && isfinite(to) && o->temperature.from >= 0 &&
                     (!(o->temperature.end > 0) || (o->temperature.from > 0 && to > 0)),
                 PARE_ERR_ARGUMENT, "a temperature goes from %g to %g; it must be above 0",
                 o->temperature.from, to);
    if (teacher)
        PARE_TRY(check_inputs(student, teacher));
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++) {
        if (!is_used(o, kind))
            continue;
        PARE_TRY(check_kind(o, kind, student, teacher, cache));
        any = true;
    }
    PARE_REQUIRE(any, PARE_ERR_ARGUMENT, "a distillation needs a loss with a weight above 0");
    return PARE_OK;
}

/* ---- what is learned beside the student ------------------------------------------------------ */

static bool needs_projection(int kind, const pare__pair *pair)
{
    return (kind == PARE_DISTILL_HIDDEN || kind == PARE_DISTILL_FEATURE) &&
           pair->width[0] != pair->teacher_width[0];
}

/* Lists projections; memory follows in pare_distill_terms. */
static pare_status list_projections(pare_distill *d)
{
    size_t count = 0;
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++)
        for (size_t i = 0; i < d->compared[kind].count; i++)
            count += needs_projection(kind, &d->compared[kind].pairs[i]);
    PARE_TRY(pare__calloc(count, sizeof *d->learned, &d->learned));
    PARE_TRY(pare__calloc(count, sizeof *d->names, &d->names));
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++)
        for (size_t i = 0; i < d->compared[kind].count; i++) {
            pare__pair *pair = &d->compared[kind].pairs[i];
            if (!needs_projection(kind, pair))
                continue;
            pare_learned *w = &d->learned[d->learned_count];
            char *name = d->names[d->learned_count++];
            snprintf(name, sizeof *d->names, "distill/%s/%lld", kinds[kind].name,
                     (long long)pair->layer);
            *w = (pare_learned){
                .name = name,
                .value = pare_matrix(NULL, PARE_F32, pair->teacher_width[0], pair->width[0]),
                .decays = true};
            w->grad = w->value;
            pair->projection = w;
        }
    return PARE_OK;
}

/* Floats of all, each from a multiple of 64 bytes on. */
static int64_t projection_floats(const pare_distill *d)
{
    int64_t sum = 0;
    for (size_t i = 0; i < d->learned_count; i++)
        sum += (pare_tensor_count(&d->learned[i].value) + 15) / 16 * 16;
    return sum;
}

int64_t pare_distill_bytes(const pare_distill *distill)
{
    return distill ? 2 * projection_floats(distill) * (int64_t)sizeof(float) : 0;
}

/* N(0, 1/width), drawn in order from a stream of each. */
static pare_status draw(const pare_distill *d, size_t index, uint64_t seed)
{
    const pare_tensor *w = &d->learned[index].value;
    int64_t count = pare_tensor_count(w);
    double size = 1 / sqrt((double)w->shape[1]);
    pare__rng rng = pare__rng_make(seed, STREAM, index);
    float *values;
    PARE_TRY(pare__calloc((size_t)count, sizeof *values, &values));
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(size * pare__rng_normal(&rng));
    pare_status status =
        pare_backend_upload(d->be, w->data, values, count * (int64_t)sizeof *values);
    free(values);
    return status;
}

static void release(pare_distill *d)
{
    if (d->be)
        pare_backend_release(d->be, d->arena, pare_distill_bytes(d));
    d->arena = NULL;
    d->be = NULL;
}

static pare_status make_projections(pare_distill *d, pare_backend *be, uint64_t seed)
{
    release(d);
    d->be = be;
    PARE_TRY(pare_backend_alloc(be, pare_distill_bytes(d), &d->arena));
    float *at = d->arena;
    int64_t all = projection_floats(d);
    for (size_t i = 0; i < d->learned_count; i++) {
        pare_learned *w = &d->learned[i];
        w->value.data = at;
        w->grad.data = at + all;
        at += (pare_tensor_count(&w->value) + 15) / 16 * 16;
        PARE_TRY(draw(d, i, seed));
    }
    return PARE_OK;
}

/* ---- the life of a distillation -------------------------------------------------------------- */

static pare_status make(pare_distill *d, const pare_teacher_cache *cache)
{
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++) {
        pare__compared *c = &d->compared[kind];
        if (!is_used(&d->options, kind))
            continue;
        *c = (pare__compared){.options = &d->options, .teacher = d->teacher};
        c->cache = kind == PARE_DISTILL_KL ? cache : NULL;
        if (kinds[kind].pairs)
            PARE_TRY(pare__distill_pairs(&d->options, (pare_distill_kind)kind, d->student,
                                         d->teacher, &c->pairs, &c->count));
    }
    return list_projections(d);
}

pare_status pare_distill_create(const pare_distill_options *options, pare_model *student,
                                pare_model *teacher, const pare_teacher_cache *cache,
                                pare_distill **distill)
{
    pare_distill *d = NULL;
    PARE_REQUIRE(options && distill, PARE_ERR_ARGUMENT, "distill: NULL argument");
    *distill = NULL;
    PARE_TRY(check(options, student, teacher, cache));
    PARE_TRY(pare__calloc(1, sizeof *d, &d));
    d->options = *options;
    d->student = student;
    d->teacher = teacher;
    pare_status status = make(d, cache);
    if (status != PARE_OK)
        pare_distill_free(&d);
    *distill = d;
    return status;
}

void pare_distill_free(pare_distill **distill)
{
    if (!distill || !*distill)
        return;
    pare_distill *d = *distill;
    release(d);
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++)
        free(d->compared[kind].pairs);
    free(d->names);
    free(d->learned);
    free(d);
    *distill = NULL;
}

/* The projections of a kind lie together. */
static void add_term(pare_distill *d, int kind, size_t *learned)
{
    pare__compared *c = &d->compared[kind];
    pare_loss_term *term = &d->terms[d->term_count++];
    *term = (pare_loss_term){.loss = kinds[kind].loss,
                             .state = c,
                             .weight = d->options.weight[kind],
                             .learned = d->learned ? d->learned + *learned : NULL};
    for (size_t i = 0; i < c->count; i++)
        term->learned_count += c->pairs[i].projection != NULL;
    *learned += term->learned_count;
}

pare_status pare_distill_terms(pare_distill *distill, pare_backend *be, uint64_t seed,
                               const pare_loss_term **terms, size_t *count)
{
    pare_distill *d = distill;
    size_t learned = 0;
    PARE_REQUIRE(d && terms && count, PARE_ERR_ARGUMENT,
                 "the terms of a distillation: NULL "
                 "argument");
    if (be)
        PARE_TRY(make_projections(d, be, seed));
    d->term_count = 0;
    for (int kind = 0; kind < PARE_DISTILL_KINDS; kind++)
        if (is_used(&d->options, kind))
            add_term(d, kind, &learned);
    *terms = d->terms;
    *count = d->term_count;
    return PARE_OK;
}
