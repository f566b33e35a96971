/* train_words.c - a training told by keys and texts: one table for recipes and options.
 *
 * A row says where a key's value lies and of which kind it is; what is more than a number, a word
 * or a text has a function of its own.
 */
#include "engine/recipe/recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <stddef.h>
#include <string.h>

struct pare_train_step {
    pare_train_job job;
    pare_mask_options masks;
    pare_qat_options qat;
    pare_lora_options lora;
    bool has_masks, has_qat, has_lora; /* a key of theirs was given, */
    bool has_schedule, has_sparsity;   /* and these */
    struct said {
        const char *key, *text;
        bool path;
    } * said; /* [said_count], in order */
    size_t said_count, said_capacity;
    char **texts; /* every text that job points to */
    size_t text_count, text_capacity;
    size_t freeze_capacity, include_capacity, exclude_capacity;
};

typedef enum kind { COUNT, INDEX, NUMBER, SHARE, FLAG, TEXT, WORD, SPECIAL } kind;

typedef struct row {
    pare_train_key key;
    kind kind;
    size_t at;                /* offset in the step */
    const char *const *words; /* of WORD: an enum in this order */
    pare_status (*set)(pare_train_step *step, const char *text); /* of SPECIAL */
} row;

/* ---- values ---------------------------------------------------------------------------------- */

static pare_status keep_text(pare_train_step *s, const char *text, const char **kept)
{
    char *copy = NULL;
    PARE_TRY(pare__grow(&s->texts, &s->text_capacity, s->text_count + 1, sizeof *s->texts));
    PARE_TRY(pare__strdup(text, &copy));
    s->texts[s->text_count++] = copy;
    *kept = copy;
    return PARE_OK;
}

static pare_status add_glob(pare_train_step *s, const char *text, char ***globs, size_t *count,
                            size_t *capacity)
{
    const char *kept;
    PARE_REQUIRE(*text, PARE_ERR_ARGUMENT, "an empty pattern matches nothing");
    PARE_TRY(pare__grow(globs, capacity, *count + 1, sizeof **globs));
    PARE_TRY(keep_text(s, text, &kept));
    (*globs)[(*count)++] = (char *)(uintptr_t)kept;
    return PARE_OK;
}

static pare_status set_freeze(pare_train_step *s, const char *text)
{
    pare_train_options *o = &s->job.train;
    return add_glob(s, text, &o->freeze, &o->freezes, &s->freeze_capacity);
}

static pare_status set_include(pare_train_step *s, const char *text)
{
    pare_choice *c = &s->job.choice;
    return add_glob(s, text, &c->include, &c->includes, &s->include_capacity);
}

static pare_status set_exclude(pare_train_step *s, const char *text)
{
    pare_choice *c = &s->job.choice;
    return add_glob(s, text, &c->exclude, &c->excludes, &s->exclude_capacity);
}

/* "0.9,0.999" into at most `most` numbers. */
static pare_status numbers(const char *text, double *list, int most, int *count)
{
    char part[40];
    *count = 0;
    for (const char *at = text; *count < most; at++) {
        size_t length = strcspn(at, ",");
        snprintf(part, sizeof part, "%.*s", length < sizeof part ? (int)length : 0, at);
        if (!pare__parse_double(part, &list[*count]))
            break;
        ++*count;
        at += length;
        if (!*at)
            return PARE_OK;
    }
    PARE_FAIL(PARE_ERR_ARGUMENT, "\"%.60s\" is not one to %d numbers with commas between", text,
              most);
}

static pare_status set_milestones(pare_train_step *s, const char *text)
{
    pare_curve *c = &s->job.train.curve;
    PARE_TRY(numbers(text, c->milestones, 8, &c->milestone_count));
    for (int i = 0; i < c->milestone_count; i++)
        PARE_REQUIRE(c->milestones[i] > (i ? c->milestones[i - 1] : 0) && c->milestones[i] < 1,
                     PARE_ERR_ARGUMENT, "\"%.60s\" are not rising numbers between 0 and 1", text);
    return PARE_OK;
}

static pare_status set_betas(pare_train_step *s, const char *text)
{
    double list[2] = {0};
    int count;
    PARE_TRY(numbers(text, list, 2, &count));
    PARE_REQUIRE(count == 2 && list[0] > 0 && list[0] < 1 && list[1] > 0 && list[1] < 1,
                 PARE_ERR_ARGUMENT, "\"%.60s\" is not two numbers above 0 and below 1", text);
    s->job.train.beta1 = list[0];
    s->job.train.beta2 = list[1];
    return PARE_OK;
}

static pare_status set_precision(pare_train_step *s, const char *text)
{
    static const char *const words[] = {"f32", "bf16", NULL};
    bool half = strcmp(text, "bf16") == 0;
    if (!half && strcmp(text, "f32") != 0)
        return pare__word_error("the word", text, words, NULL);
    s->job.train.compute = half ? PARE_BF16 : PARE_F32;
    return PARE_OK;
}

static pare_status set_teacher_precision(pare_train_step *s, const char *text)
{
    pare_dtype compute = s->job.train.compute;
    PARE_TRY(set_precision(s, text));
    s->job.teacher_compute = s->job.train.compute;
    s->job.train.compute = compute;
    return PARE_OK;
}

static pare_status set_crop(pare_train_step *s, const char *text)
{
    int64_t pixels;
    PARE_REQUIRE(pare__parse_int(text, &pixels) && pixels >= 0 && pixels <= 4096, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is not a number of pixels from 0 to 4096", text);
    s->job.data.crop = (int)pixels;
    return PARE_OK;
}

static pare_status set_mixup(pare_train_step *s, const char *text)
{
    double share;
    PARE_REQUIRE(pare__parse_double(text, &share) && share >= 0 && share < 1e6, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is not a number from 0 up", text);
    s->job.data.mixup = (float)share;
    return PARE_OK;
}

/* ---- distillation ---------------------------------------------------------------------------- */

static pare_status set_loss(pare_train_step *s, const char *text)
{
    return pare_distill_losses_parse(text, &s->job.distill);
}

/* "4", or "4>1": from one to the other over the training. */
static pare_status set_temperature(pare_train_step *s, const char *text)
{
    pare_ramp ramp = {0};
    char first[40];
    size_t length = strcspn(text, ">");
    snprintf(first, sizeof first, "%.*s", length < sizeof first ? (int)length : 0, text);
    bool sound = pare__parse_double(first, &ramp.from) && ramp.from > 0;
    if (sound && text[length]) {
        sound = pare__parse_double(text + length + 1, &ramp.to) && ramp.to > 0;
        ramp.end = 1;
    }
    PARE_REQUIRE(sound, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is no temperature: expected a number above 0, or two as in \"4>1\"",
                 text);
    s->job.distill.temperature = ramp;
    return PARE_OK;
}

static pare_status set_layers(pare_train_step *s, const char *text)
{
    return pare_layer_map_parse(text, &s->job.distill.map);
}

static pare_status set_hidden(pare_train_step *s, const char *text)
{
    static const char *const words[] = {"mse", "cosine", NULL};
    s->job.distill.cosine = strcmp(text, "cosine") == 0;
    if (!s->job.distill.cosine && strcmp(text, "mse") != 0)
        return pare__word_error("the measure", text, words, NULL);
    return PARE_OK;
}

static pare_status set_attention(pare_train_step *s, const char *text)
{
    static const char *const words[] = {"scores", "probabilities", NULL};
    s->job.distill.probabilities = strcmp(text, "probabilities") == 0;
    if (!s->job.distill.probabilities && strcmp(text, "scores") != 0)
        return pare__word_error("the kind", text, words, NULL);
    return PARE_OK;
}

static pare_status set_init(pare_train_step *s, const char *text)
{
    return pare_student_init_parse(text, &s->job.init);
}

/* ---- retraining ------------------------------------------------------------------------------ */

static pare_status set_masks(pare_train_step *s, const char *text)
{
    s->has_masks = s->has_schedule = true;
    return pare_mask_schedule_parse(text, &s->masks.schedule);
}

static pare_status set_method(pare_train_step *s, const char *text)
{
    s->has_masks = true;
    return pare_masks_method_parse(text, &s->masks.method);
}

static pare_status set_pattern(pare_train_step *s, const char *text)
{
    s->has_masks = true;
    return pare_pattern_parse(text, &s->masks.pattern);
}

static pare_status set_scope(pare_train_step *s, const char *text)
{
    pare_scope scope;
    s->has_masks = true;
    PARE_TRY(pare_scope_parse(text, &scope));
    s->masks.global = scope == PARE_SCOPE_GLOBAL;
    return PARE_OK;
}

/* "0.9", or "0.5>0.9": where it begins. */
static pare_status set_sparsity(pare_train_step *s, const char *text)
{
    char first[40];
    double values[2] = {0};
    size_t length = strcspn(text, ">");
    snprintf(first, sizeof first, "%.*s", length < sizeof first ? (int)length : 0, text);
    bool two = text[length] != '\0', sound = pare__parse_double(first, &values[0]);
    if (two)
        sound = sound && pare__parse_double(text + length + 1, &values[1]);
    else
        values[1] = values[0];
    for (int i = 0; i < 2; i++)
        sound = sound && values[i] >= 0 && values[i] < 1;
    PARE_REQUIRE(sound, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is no sparsity: expected a number from 0 to below 1, or two as in "
                 "\"0.5>0.9\"",
                 text);
    s->has_masks = s->has_sparsity = true;
    s->masks.initial = two ? values[0] : 0;
    s->masks.final = values[1];
    return PARE_OK;
}

static pare_status set_qat(pare_train_step *s, const char *text)
{
    s->has_qat = true;
    return pare_scheme_parse(text, &s->qat.scheme);
}

static pare_status set_lora(pare_train_step *s, const char *text)
{
    PARE_REQUIRE(pare__parse_int(text, &s->lora.rank) && s->lora.rank > 0, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is not a rank: expected a whole number from 1 up", text);
    s->has_lora = true;
    return PARE_OK;
}

/* ---- the table ------------------------------------------------------------------------------- */

static const char *const optimisers[] = {"sgd", "adamw", NULL};
static const char *const schedules[] = {"cosine", "linear", "step", "constant", NULL};
static const char *const divergences[] = {"forward", "reverse", "js", NULL};

#define AT(member) offsetof(pare_train_step, member)
#define ROW(name_, summary_, kind_, member)                                                        \
    {                                                                                              \
        {name_, summary_, false, false}, kind_, AT(member), NULL, NULL                             \
    }
#define ROW_WORDS(name_, summary_, member, words_)                                                 \
    {                                                                                              \
        {name_, summary_, false, false}, WORD, AT(member), words_, NULL                            \
    }
#define ROW_SET(name_, summary_, set_)                                                             \
    {                                                                                              \
        {name_, summary_, false, false}, SPECIAL, 0, NULL, set_                                    \
    }
#define ROW_GLOBS(name_, summary_, set_)                                                           \
    {                                                                                              \
        {name_, summary_, false, true}, SPECIAL, 0, NULL, set_                                     \
    }
#define OF_TEACHER(name_, summary_, kind_, member)                                                 \
    {                                                                                              \
        {name_, summary_, true, false}, kind_, AT(member), NULL, NULL                              \
    }
#define OF_TEACHER_WORDS(name_, summary_, member, words_)                                          \
    {                                                                                              \
        {name_, summary_, true, false}, WORD, AT(member), words_, NULL                             \
    }
#define OF_TEACHER_SET(name_, summary_, set_)                                                      \
    {                                                                                              \
        {name_, summary_, true, false}, SPECIAL, 0, NULL, set_                                     \
    }

static const row rows[] = {
    /* data */
    ROW("data", "what to learn from", TEXT, job.data.path),
    ROW("labels", "class labels of data", TEXT, job.data.labels),
    ROW("eval", "data to measure on at the end", TEXT, job.eval.path),
    ROW("eval_labels", "class labels of eval", TEXT, job.eval.labels),
    ROW("seq_len", "tokens of a window or row", COUNT, job.data.seq_len),
    ROW("pad_id", "token that is padding", INDEX, job.data.pad_id),
    ROW("bos_id", "token put before every window", INDEX, job.data.bos_id),
    ROW("samples", "only so many windows, rows or images", COUNT, job.data.samples),
    ROW("skip", "so many left out first", INDEX, job.data.skip),
    ROW_SET("crop", "pixels of padding before a random crop", set_crop),
    ROW("flip", "left-right, half of the time", FLAG, job.data.flip),
    ROW_SET("mixup", "Beta(X, X) share of a second image", set_mixup),
    /* the training */
    ROW("steps", "how many", COUNT, job.train.curve.steps),
    ROW("epochs", "instead of steps: times through the data", NUMBER, job.epochs),
    ROW("batch", "samples a forward", COUNT, job.train.batch),
    ROW("accumulate", "forwards a step", COUNT, job.train.accumulate),
    ROW_WORDS("optimizer", "sgd or adamw", job.train.optimiser, optimisers),
    ROW("lr", "learning rate", NUMBER, job.train.curve.rate),
    ROW_WORDS("schedule", "cosine, linear, step or constant", job.train.curve.kind, schedules),
    ROW("warmup", "steps of warm-up", INDEX, job.train.curve.warmup),
    ROW("final_lr", "share of lr left at the end", SHARE, job.train.curve.final_rate),
    ROW_SET("milestones", "of schedule step: shares of all steps", set_milestones),
    ROW("gamma", "of schedule step: factor at each", NUMBER, job.train.curve.gamma),
    ROW("momentum", "of sgd", SHARE, job.train.momentum),
    ROW("nesterov", "of sgd", FLAG, job.train.nesterov),
    ROW_SET("betas", "of adamw", set_betas),
    ROW("weight_decay", "of weights, not of norms and biases", NUMBER, job.train.decay),
    ROW("clip", "largest norm of all gradients", NUMBER, job.train.clip),
    ROW("label_smoothing", "share spread over all classes", SHARE, job.train.smoothing),
    ROW("ema", "share that a moving average keeps each step", SHARE, job.train.ema),
    ROW_GLOBS("freeze", "parameters that do not learn", set_freeze),
    ROW_SET("precision", "f32 or bf16", set_precision),
    ROW("save_every", "steps between states", COUNT, job.train.save_every),
    ROW("keep_masks", "zeros of pruned weights stay zero", FLAG, job.keep_masks),
    /* a teacher */
    OF_TEACHER("teacher", "checkpoint to learn from", TEXT, job.teacher.checkpoint),
    OF_TEACHER("teacher_arch", "its architecture, of a plain state dict", TEXT, job.teacher.arch),
    OF_TEACHER_SET("teacher_precision", "f32 or bf16", set_teacher_precision),
    OF_TEACHER_SET("loss",
                   "losses and weights: kl, ce, hidden, attention, relation, feature, cosine",
                   set_loss),
    OF_TEACHER_SET("temperature", "of kl", set_temperature),
    OF_TEACHER_WORDS("divergence", "of kl: forward, reverse or js", job.distill.divergence,
                     divergences),
    OF_TEACHER_SET("layers", "which learns from which: uniform, last, skip, contiguous, top",
                   set_layers),
    OF_TEACHER_SET("hidden", "measure of hidden states: mse or cosine", set_hidden),
    OF_TEACHER_SET("attention", "what of attention: scores or probabilities", set_attention),
    OF_TEACHER("relation_heads", "of relations", COUNT, job.distill.relation_heads),
    OF_TEACHER("relation_layer", "of the teacher, from 1", COUNT, job.distill.relation_layer),
    OF_TEACHER("cache", "file of the teacher's outputs, made if it is not there", TEXT, job.cache),
    OF_TEACHER("cache_k", "classes kept of each output", COUNT, job.cache_k),
    OF_TEACHER("student", "shape of a student made of the teacher", TEXT, job.student),
    OF_TEACHER_SET("init", "its values: subclone, every-k or random", set_init),
    /* retraining */
    ROW_SET("masks", "schedule: gradual, iterative, rewind, rigl, set, dense", set_masks),
    ROW_SET("sparsity", "at its end, or from > to", set_sparsity),
    ROW_SET("method", "score of what goes: magnitude, movement …", set_method),
    ROW_SET("pattern", "unstructured, N:M, block:RxC", set_pattern),
    ROW_SET("scope", "one threshold over all (global) or one a layer", set_scope),
    ROW("erk", "densities by Erdős–Rényi-kernel", FLAG, masks.erk),
    ROW("begin", "share of all steps where masks begin to move", SHARE, masks.begin),
    ROW("end", "and where they stop", SHARE, masks.end),
    ROW("each", "steps between changes", COUNT, masks.each),
    ROW("rounds", "of iterative and rewind", COUNT, masks.rounds),
    ROW("rewind", "step whose values come back", INDEX, masks.rewind),
    ROW("fraction", "of rigl and set: share that is exchanged at first", SHARE, masks.fraction),
    ROW("revive", "of gradual: what went may come back", FLAG, masks.revive),
    ROW_SET("qat", "scheme that training looks through", set_qat),
    ROW("qat_fixed", "its steps follow the weights and do not learn", FLAG, qat.fixed),
    ROW("qat_first_last", "first and last product at 8 bits", FLAG, qat.first_last),
    ROW_SET("lora", "rank of factors on frozen weights", set_lora),
    ROW("lora_alpha", "their factor is alpha/rank", NUMBER, lora.alpha),
    ROW("adapter", "folder for the factors alone", TEXT, job.adapter),
    ROW_GLOBS("include", "parameters that masks, qat, lora work on", set_include),
    ROW_GLOBS("exclude", "and those they leave alone", set_exclude),
};
#define ROWS (sizeof rows / sizeof *rows)

const pare_train_key *pare_train_key_at(size_t index)
{
    return index < ROWS ? &rows[index].key : NULL;
}

static pare_status set_number(const row *r, void *at, const char *text)
{
    double value;
    bool share = r->kind == SHARE;
    PARE_REQUIRE(pare__parse_double(text, &value) && value >= 0 && (!share || value <= 1),
                 PARE_ERR_ARGUMENT, "\"%.60s\" is not a number from 0 %s", text,
                 share ? "to 1" : "up");
    *(double *)at = value;
    return PARE_OK;
}

static pare_status set_whole(const row *r, void *at, const char *text)
{
    int64_t value, least = r->kind == COUNT;
    PARE_REQUIRE(pare__parse_int(text, &value) && value >= least, PARE_ERR_ARGUMENT,
                 "\"%.60s\" is not a whole number from %d up", text, (int)least);
    *(int64_t *)at = value;
    return PARE_OK;
}

static pare_status set_flag(void *at, const char *text)
{
    static const char *const words[] = {"true", "false", NULL};
    bool on = strcmp(text, "true") == 0;
    if (!on && strcmp(text, "false") != 0)
        return pare__word_error("the value", text, words, NULL);
    *(bool *)at = on;
    return PARE_OK;
}

static pare_status set_word(const row *r, void *at, const char *text)
{
    for (int i = 0; r->words[i]; i++)
        if (strcmp(r->words[i], text) == 0) {
            *(int *)at = i; /* an enum of C is an int */
            return PARE_OK;
        }
    return pare__word_error("the word", text, r->words, NULL);
}

static pare_status set_row(pare_train_step *s, const row *r, const char *text)
{
    void *at = (char *)s + r->at;
    switch (r->kind) {
    case COUNT:
    case INDEX:
        return set_whole(r, at, text);
    case NUMBER:
    case SHARE:
        return set_number(r, at, text);
    case FLAG:
        return set_flag(at, text);
    case TEXT:
        PARE_REQUIRE(*text, PARE_ERR_ARGUMENT, "found nothing, expected a text");
        return keep_text(s, text, (const char **)at);
    case WORD:
        return set_word(r, at, text);
    case SPECIAL:
        break;
    }
    return r->set(s, text);
}

static pare_status remember(pare_train_step *s, const row *r, const char *text)
{
    const char *kept;
    PARE_TRY(pare__grow(&s->said, &s->said_capacity, s->said_count + 1, sizeof *s->said));
    PARE_TRY(keep_text(s, text, &kept));
    bool path = r->kind == TEXT && strcmp(r->key.name, "student") != 0 &&
                strcmp(r->key.name, "teacher_arch") != 0;
    s->said[s->said_count++] = (struct said){r->key.name, kept, path};
    return PARE_OK;
}

bool pare__train_said(const pare_train_step *step, size_t index, const char **key,
                      const char **text, bool *path)
{
    if (index >= step->said_count)
        return false;
    *key = step->said[index].key;
    *text = step->said[index].text;
    *path = step->said[index].path;
    return true;
}

/* The nearest key, for a sentence. */
static pare_status unknown_key(const char *key)
{
    const char *names[ROWS + 1];
    for (size_t i = 0; i < ROWS; i++)
        names[i] = rows[i].key.name;
    names[ROWS] = NULL;
    const char *near = pare__nearest(key, names);
    PARE_FAIL(PARE_ERR_ARGUMENT, "unknown key \"%.60s\"%s%s%s", key,
              near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

pare_status pare_train_step_set(pare_train_step *step, const char *key, const char *text,
                                bool *unknown)
{
    char sentence[512];
    PARE_REQUIRE(step && key && text, PARE_ERR_ARGUMENT, "training: NULL argument");
    if (unknown)
        *unknown = false;
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].key.name, key) != 0)
            continue;
        pare_status status = set_row(step, &rows[i], text);
        if (status == PARE_OK)
            return remember(step, &rows[i], text);
        if (status != PARE_ERR_ARGUMENT)
            return status;
        snprintf(sentence, sizeof sentence, "%s", pare_last_error());
        return pare__error(status, __func__, "%s: %s", key, sentence);
    }
    if (unknown)
        *unknown = true;
    return unknown_key(key);
}

/* ---- life ------------------------------------------------------------------------------------ */

pare_status pare_train_step_create(uint64_t seed, pare_train_step **step)
{
    pare_train_step *s;
    PARE_TRY(pare__calloc(1, sizeof *s, &s));
    s->job = (pare_train_job){.data = {.pad_id = -2, .bos_id = -1, .shuffle = true, .seed = seed},
                              .eval = {.pad_id = -2, .bos_id = -1},
                              .train = {.optimiser = PARE_OPTIMISER_DEFAULT,
                                        .curve = {.rate = -1},
                                        .momentum = 0.9,
                                        .decay = -1,
                                        .clip = -1,
                                        .seed = seed,
                                        .compute = PARE_F32},
                              .keep_masks = true,
                              .teacher_compute = PARE_F32};
    s->lora.keep_mask = true;
    *step = s;
    return PARE_OK;
}

void pare_train_step_free(pare_train_step **step)
{
    pare_train_step *s = step ? *step : NULL;
    if (!s)
        return;
    for (size_t i = 0; i < s->text_count; i++)
        free(s->texts[i]);
    free(s->texts);
    free(s->said);
    free(s->job.train.freeze);
    free(s->job.choice.include);
    free(s->job.choice.exclude);
    free(s);
    *step = NULL;
}

static pare_status check(const pare_train_step *s)
{
    const pare_train_job *j = &s->job;
    const pare_train_options *o = &j->train;
    PARE_REQUIRE(o->curve.steps > 0 || j->epochs > 0, PARE_ERR_ARGUMENT,
                 "how long to train is missing: give steps or epochs");
    PARE_REQUIRE(o->curve.steps == 0 || !(j->epochs > 0), PARE_ERR_ARGUMENT,
                 "steps and epochs both say how long to train; give one");
    PARE_REQUIRE(o->ema < 1, PARE_ERR_ARGUMENT, "an ema of %g would never move: give less than 1",
                 o->ema);
    PARE_REQUIRE(o->momentum < 1, PARE_ERR_ARGUMENT,
                 "a momentum of %g would never settle: give less than 1", o->momentum);
    bool own = s->masks.pattern.kind == PARE_PATTERN_NM; /* has its sparsity */
    PARE_REQUIRE(!s->has_schedule || s->has_sparsity || own, PARE_ERR_ARGUMENT,
                 "masks need a sparsity to come to");
    PARE_REQUIRE(!s->has_masks || s->has_schedule || s->has_sparsity, PARE_ERR_ARGUMENT,
                 "method, pattern and scope are of masks: give masks and sparsity");
    return pare__train_needs(s);
}

pare_status pare_train_step_job(pare_train_step *step, const pare_train_job **job)
{
    pare_train_step *s = step;
    PARE_TRY(check(s));
    s->job.masks = s->has_masks ? &s->masks : NULL;
    s->job.qat = s->has_qat ? &s->qat : NULL;
    s->job.lora = s->has_lora ? &s->lora : NULL;
    s->job.eval.seq_len = s->job.data.seq_len;
    s->job.eval.pad_id = s->job.data.pad_id;
    s->job.eval.bos_id = s->job.data.bos_id;
    *job = &s->job;
    return PARE_OK;
}
