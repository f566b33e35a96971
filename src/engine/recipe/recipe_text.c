/* recipe_text.c - a recipe as text: normalised YAML for provenance, and one line a step for people.
 */
#include "recipe_impl.h"
#include "engine/report/report_impl.h"

#include "base/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

/* Bytes of the character at text, and its code point; a byte that begins none stands for itself. */
static size_t next_character(const unsigned char *text, uint32_t *point)
{
    size_t length = *text < 0x80 ? 1 : *text < 0xe0 ? 2 : *text < 0xf0 ? 3 : 4;
    *point = *text & (0xffu >> (length == 1 ? 0 : length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            length = 1;
            break;
        }
        *point = *point << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (*text >= 0x80 && (length == 1 || *text < 0xc0 || *text > 0xf4 || *point < least[length] ||
                          *point > 0x10ffff || *point >> 11 == 0x1b)) {
        *point = *text;
        return 1;
    }
    return length;
}

/* A double-quoted YAML scalar; what YAML does not print, or takes for a line's end, is escaped. */
static void add_quoted(pare__text *out, const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    uint32_t point;
    pare__text_add(out, "\"");
    for (size_t length; *c; c += length) {
        length = next_character(c, &point);
        if (point == '"' || point == '\\')
            pare__text_add(out, "\\%c", (int)point);
        else if (point < 0x20 || (point >= 0x7f && point < 0xa0) || (length == 1 && point > 0x7e))
            pare__text_add(out, "\\x%02X", (unsigned)point);
        else if (point == 0x2028 || point == 0x2029 || point == 0xfeff || point == 0xfffe ||
                 point == 0xffff)
            pare__text_add(out, "\\u%04X", (unsigned)point);
        else
            pare__text_bytes(out, (const char *)c, length);
    }
    pare__text_add(out, "\"");
}

/* ---- YAML ------------------------------------------------------------------------------------ */

/* The lines of a step's map begin with so many blanks. */
typedef struct yaml {
    pare__text *out;
    int indent;
} yaml;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
line(yaml y, const char *fmt, ...)
{
    char text[160];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    pare__text_add(y.out, "%*s%s\n", y.indent, "", text);
}

static void add_globs(yaml y, const char *name, char **globs, size_t count)
{
    pare__text_add(y.out, "%*s%s: [", y.indent, "", name);
    for (size_t i = 0; i < count; i++) {
        pare__text_add(y.out, i ? ", " : "");
        add_quoted(y.out, globs[i]);
    }
    pare__text_add(y.out, "]\n");
}

static void add_choice(yaml y, const pare_choice *choice)
{
    add_globs(y, "include", choice->include, choice->includes);
    add_globs(y, "exclude", choice->exclude, choice->excludes);
}

const char *pare__shortest(double value, char *text, size_t size)
{
    for (int digits = 1; digits <= 17; digits++) {
        double back;
        snprintf(text, size, "%.*g", digits, value);
        for (char *c = text; *c; c++)
            if (!strchr("0123456789+-.e", *c))
                *c = '.';
        if (pare__parse_double(text, &back) && back == value)
            break;
    }
    return text;
}

static void add_number(yaml y, const char *key, double value, double otherwise)
{
    char number[32];
    line(y, "%s: %s", key, pare__shortest(value != 0 ? value : otherwise, number, sizeof number));
}

/* How the sparsity of a step is spread: by `scope`, or by `budget` where a walk decides. */
static const char *spread_of(const pare_prune_step *step, const char **key)
{
    bool walks = pare__prune_walks(step);
    *key = walks ? "budget" : "scope";
    if (!walks)
        return pare_scope_name(step->scope);
    return pare_budget_name(step->budget);
}

static void add_prune(yaml y, const pare_prune_step *step)
{
    char word[64];
    const char *key, *spread = spread_of(step, &key);
    line(y, "method: %s", step->method->name);
    line(y, "pattern: \"%s\"", pare_pattern_text(&step->pattern, word, sizeof word));
    bool shrinks = pare_pattern_shrinks(&step->pattern), nm = step->pattern.kind == PARE_PATTERN_NM;
    if (!nm)
        line(y, "sparsity: %s", pare__shortest(step->sparsity, word, sizeof word));
    if (!nm && !shrinks)
        line(y, "%s: %s", key, spread);
    if (shrinks && step->pattern.kind != PARE_PATTERN_LAYER)
        line(y, "multiple: %" PRId64, step->multiple ? step->multiple : 1);
    if (step->method->choose)
        add_number(y, "damping", step->damping, 0.01);
    add_choice(y, &step->choice);
}

static void add_schemes(yaml y, const pare_quant_step *step)
{
    char word[64];
    const pare_mixed *mixed = &step->mixed;
    if (!mixed->count) {
        line(y, "scheme: %s", pare_scheme_text(&step->scheme, word, sizeof word));
        return;
    }
    pare__text_add(y.out, "%*sschemes: [", y.indent, "");
    for (size_t i = 0; i < mixed->count; i++)
        pare__text_add(y.out, "%s%s", i ? ", " : "",
                       pare_scheme_text(&mixed->schemes[i], word, sizeof word));
    pare__text_add(y.out, "]\n");
    if (mixed->bytes)
        line(y, "bytes: %" PRId64, mixed->bytes);
    else
        add_number(y, "bits", mixed->bits, 0);
    line(y, "sensitivity: %s", mixed->kld ? "kld" : "output");
}

static void add_quant(yaml y, const pare_quant_step *step)
{
    char word[64];
    const pare_quant_tuning *tuning = &step->tuning;
    line(y, "method: %s", step->method->name);
    add_schemes(y, step);
    line(y, "scale: %s", pare__scale_text(step, word, sizeof word));
    if (step->method->needs_factor) {
        add_number(y, "damping", tuning->damping, 0.01);
        line(y, "act_order: %s", tuning->act_order ? "true" : "false");
    }
    if (strcmp(step->method->name, "smoothquant") == 0)
        add_number(y, "alpha", tuning->alpha, 0.5);
    if (strcmp(step->method->name, "awq") == 0) {
        line(y, "grid: %d", tuning->grid ? tuning->grid : 20);
        line(y, "clip: %s", tuning->no_clip ? "false" : "true");
    }
    add_choice(y, &step->choice);
}

/* What the model and the data decide is left out: no default of ours. */
static void add_calibration(yaml y, const pare_calibration *c)
{
    line(y, "samples: %" PRId64, c->samples ? c->samples : 128);
    if (c->seq_len)
        line(y, "seq_len: %" PRId64, c->seq_len);
    line(y, "skip: %" PRId64, c->skip);
    line(y, "shuffle: %s", c->shuffle ? "true" : "false");
    if (c->pad_id >= 0)
        line(y, "pad_id: %" PRId64, c->pad_id);
    if (c->batch)
        line(y, "batch: %" PRId64, c->batch);
    line(y, "propagate: %s", c->dense ? "dense" : "compressed");
    line(y, "true_sequential: %s", c->per_block ? "false" : "true");
    line(y, "compute: %s", c->compute == PARE_BF16 ? "bf16" : "f32");
    if (c->errors) /* what is measured can be found worse than rounding */
        line(y, "errors: true");
}

/* A half of a step with data that holds several things: one of them as it is, more as a list. */
static yaml add_half(pare__text *out, const char *name, size_t count, size_t i)
{
    if (i == 0)
        pare__text_add(out, "      %s:\n", name);
    if (count > 1)
        pare__text_add(out, "        -\n");
    return (yaml){out, count > 1 ? 10 : 8};
}

/* Several steps without data are one pass, however they are grouped: one spelling. */
static void add_compress(pare__text *out, const pare_recipe *recipe, const pare_step *step)
{
    bool data = pare_step_needs_data(recipe, step), both = data && step->prunes + step->quants > 1;
    if (both)
        pare__text_add(out, "  - compress:\n");
    for (size_t i = 0; i < step->prunes; i++) {
        pare__text_add(out, both ? "" : "  - prune:\n");
        add_prune(both ? add_half(out, "prune", step->prunes, i) : (yaml){out, 6},
                  &recipe->prunes[step->prune + i]);
    }
    for (size_t i = 0; i < step->quants; i++) {
        pare__text_add(out, both ? "" : "  - quantize:\n");
        add_quant(both ? add_half(out, "quantize", step->quants, i) : (yaml){out, 6},
                  &recipe->quants[step->quant + i]);
    }
    if (data)
        add_calibration((yaml){out, 6}, &step->calibration);
}

static void add_path(yaml y, const char *key, const char *path)
{
    if (!path)
        return;
    pare__text_add(y.out, "%*s%s: ", y.indent, "", key);
    add_quoted(y.out, path);
    pare__text_add(y.out, "\n");
}

static void add_metrics(pare__text *out, unsigned metrics)
{
    const char *between = "";
    for (size_t i = 0; pare__metric_words[i]; i++)
        if (metrics >> i & 1) {
            pare__text_add(out, "%s%s", between, pare__metric_words[i]);
            between = ", ";
        }
}

static void add_eval(pare__text *out, const pare_eval_step *e)
{
    yaml y = {out, 6};
    pare__text_add(out, "  - eval:\n");
    add_path(y, "data", e->data);
    add_path(y, "labels", e->labels);
    if (e->metrics) {
        pare__text_add(out, "      metric: [");
        add_metrics(out, e->metrics);
        pare__text_add(out, "]\n");
    }
    add_path(y, "against", e->against);
    if (e->samples)
        line(y, "samples: %" PRId64, e->samples);
    if (e->seq_len)
        line(y, "seq_len: %" PRId64, e->seq_len);
    line(y, "skip: %" PRId64, e->skip);
    if (e->batch)
        line(y, "batch: %" PRId64, e->batch);
}

/* The steps of a recipe made by hand without any: all it prunes and quantises is one. */
/* What was said, but for where files lie. */
static void add_train(pare__text *out, const pare_train_step *step)
{
    const char *key, *text;
    bool path;
    pare__text_add(out, "  - train:\n");
    for (size_t i = 0; pare__train_said(step, i, &key, &text, &path); i++)
        if (!path)
            add_path((yaml){out, 6}, key, text);
}

static pare_step whole(const pare_recipe *recipe)
{
    return (pare_step){.prunes = recipe->prune_count, .quants = recipe->quant_count};
}

pare_status pare_recipe_text(const pare_recipe *recipe, char **text)
{
    PARE_REQUIRE(recipe && text, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    pare__text out = {0};
    const pare_step all = whole(recipe);
    bool shards = recipe->max_shard_size && recipe->max_shard_size != PARE__DEFAULT_SHARD_SIZE;
    pare__text_add(&out, "seed: %" PRIu64 "\n", recipe->seed);
    if (recipe->arch)
        add_path((yaml){&out, 0}, "arch", recipe->arch);
    pare__text_add(&out, "steps:");
    size_t before = out.length;
    pare__text_add(&out, "\n");
    for (size_t i = 0; i < recipe->step_count; i++)
        if (recipe->steps[i].kind == PARE_STEP_EVAL)
            add_eval(&out, &recipe->steps[i].eval);
        else if (recipe->steps[i].kind == PARE_STEP_TRAIN)
            add_train(&out, recipe->steps[i].train);
        else
            add_compress(&out, recipe, &recipe->steps[i]);
    if (!recipe->step_count)
        add_compress(&out, recipe, &all);
    if (recipe->format || shards)
        pare__text_add(&out, "  - export:\n");
    if (recipe->format)
        pare__text_add(&out, "      format: %s\n", recipe->format);
    if (shards)
        pare__text_add(&out, "      max_shard_size: %" PRId64 "\n", recipe->max_shard_size);
    if (!out.failed && out.length == before + 1) {
        out.length = before;
        pare__text_add(&out, " []\n");
    }
    PARE_TRY(pare__text_take(&out, text));
    return PARE_OK;
}

/* ---- for people ------------------------------------------------------------------------------ */

/* A decided recipe names hundreds of tensors: some of them say which. */
static void say_choice(pare__text *out, const pare_choice *choice)
{
    size_t shown = choice->includes > 4 ? 3 : choice->includes;
    for (size_t i = 0; i < shown; i++)
        pare__text_add(out, "%s%s", i ? ", " : ", only ", choice->include[i]);
    if (shown < choice->includes)
        pare__text_add(out, " and %zu more", choice->includes - shown);
    for (size_t i = 0; i < choice->excludes; i++)
        pare__text_add(out, "%s%s", i ? ", " : ", not ", choice->exclude[i]);
}

static pare_status append(pare__json *array, pare__text *line)
{
    char *text = NULL;
    PARE_TRY(pare__text_take(line, &text));
    pare__json_set_string(array, NULL, text);
    free(text);
    return PARE_OK;
}

static void say_prune(pare__text *out, const pare_prune_step *step)
{
    char word[64];
    const char *key, *spread = spread_of(step, &key);
    pare__text_add(out, "prune: %s, %s", step->method->name,
                   pare_pattern_text(&step->pattern, word, sizeof word));
    if (step->pattern.kind != PARE_PATTERN_NM)
        pare__text_add(out, ", sparsity %s", pare__shortest(step->sparsity, word, sizeof word));
    if (step->pattern.kind != PARE_PATTERN_NM && !pare_pattern_shrinks(&step->pattern))
        pare__text_add(out, ", %s %s", key, spread);
    if (step->multiple > 1)
        pare__text_add(out, ", multiples of %" PRId64, step->multiple);
    say_choice(out, &step->choice);
}

static void say_quant(pare__text *out, const pare_quant_step *step, bool sweep)
{
    char word[64];
    const pare_mixed *mixed = &step->mixed;
    pare__text_add(out, "quantize: %s", step->method->name);
    for (size_t i = 0; i < mixed->count; i++)
        pare__text_add(out, "%s%s", i ? " or " : ", ",
                       pare_scheme_text(&mixed->schemes[i], word, sizeof word));
    if (!mixed->count)
        pare__text_add(out, ", %s", pare_scheme_text(&step->scheme, word, sizeof word));
    else if (mixed->bytes)
        pare__text_add(out, " in %" PRId64 " bytes", mixed->bytes);
    else
        pare__text_add(out, " in %s bits a weight", pare__shortest(mixed->bits, word, sizeof word));
    pare__text_add(out, ", scale %s", pare__scale_text(step, word, sizeof word));
    if (sweep)
        pare__text_add(out, ", in the same sweep");
    say_choice(out, &step->choice);
}

static void say_data(pare__text *out, const pare_calibration *c)
{
    if (c->path)
        pare__text_add(out, ", %" PRId64 " samples of %s", c->samples ? c->samples : 128, c->path);
}

static void say_train(pare__text *out, const pare_train_step *step)
{
    const char *key, *text, *separator = "";
    bool path;
    pare__text_add(out, "train: ");
    for (size_t i = 0; pare__train_said(step, i, &key, &text, &path); i++) {
        pare__text_add(out, "%s%s %s", separator, key, text);
        separator = ", ";
    }
}

static pare_status say_step(const pare_recipe *recipe, const pare_step *step, pare__json *array)
{
    pare__text text = {0};
    const pare_prune_method *prune = step->prunes ? recipe->prunes[step->prune].method : NULL;
    bool data = pare_step_needs_data(recipe, step), told = data && prune;
    for (size_t i = step->prune; i < step->prune + step->prunes; i++) {
        say_prune(&text, &recipe->prunes[i]);
        if (data)
            say_data(&text, &step->calibration);
        PARE_TRY(append(array, &text));
    }
    for (size_t i = step->quant; i < step->quant + step->quants; i++) {
        say_quant(&text, &recipe->quants[i],
                  prune && prune->choose && recipe->quants[i].method->needs_factor);
        if (data && !told)
            say_data(&text, &step->calibration);
        PARE_TRY(append(array, &text));
    }
    if (step->kind == PARE_STEP_TRAIN) {
        say_train(&text, step->train);
        PARE_TRY(append(array, &text));
    }
    if (step->kind == PARE_STEP_EVAL) {
        pare__text_add(&text, "eval: ");
        add_metrics(&text, step->eval.metrics);
        pare__text_add(&text, "%s%s", step->eval.metrics ? " on " : "",
                       step->eval.data ? step->eval.data : "?");
        if (step->eval.against)
            pare__text_add(&text, ", against %s", step->eval.against);
        PARE_TRY(append(array, &text));
    }
    return PARE_OK;
}

pare_status pare__recipe_steps(const pare_recipe *recipe, pare__json *array)
{
    pare__text text = {0};
    const pare_step all = whole(recipe);
    for (size_t i = 0; i < recipe->step_count; i++)
        PARE_TRY(say_step(recipe, &recipe->steps[i], array));
    if (!recipe->step_count)
        PARE_TRY(say_step(recipe, &all, array));
    if (recipe->format) {
        pare__text_add(&text, "export: as %s", recipe->format);
        PARE_TRY(append(array, &text));
    }
    return PARE_OK;
}
