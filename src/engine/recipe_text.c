/* recipe_text.c - a recipe as text: normalised YAML for provenance, and one line a step for people.
 */
#include "recipe_impl.h"
#include "report_impl.h"

#include "base/check.h"

#include <inttypes.h>
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

static void add_globs(pare__text *out, const char *name, char **globs, size_t count)
{
    pare__text_add(out, "      %s: [", name);
    for (size_t i = 0; i < count; i++) {
        pare__text_add(out, i ? ", " : "");
        add_quoted(out, globs[i]);
    }
    pare__text_add(out, "]\n");
}

static void add_choice(pare__text *out, const pare_choice *choice)
{
    add_globs(out, "include", choice->include, choice->includes);
    add_globs(out, "exclude", choice->exclude, choice->excludes);
}

/* The shortest decimal that reads back as the same number, with '.' whatever the locale. */
static const char *shortest(double value, char *text, size_t size)
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

pare_status pare_recipe_text(const pare_recipe *recipe, char **text)
{
    PARE_REQUIRE(recipe && text, PARE_ERR_ARGUMENT, "recipe: NULL argument");
    char word[64];
    pare__text out = {0};
    bool shards = recipe->max_shard_size && recipe->max_shard_size != PARE__DEFAULT_SHARD_SIZE;
    pare__text_add(&out, "seed: %" PRIu64 "\nsteps:", recipe->seed);
    if (!recipe->prune_count && !recipe->quant_count && !recipe->format && !shards)
        pare__text_add(&out, " []");
    pare__text_add(&out, "\n");
    for (size_t i = 0; i < recipe->prune_count; i++) {
        const pare_prune_step *step = &recipe->prunes[i];
        pare__text_add(&out, "  - prune:\n      method: %s\n      pattern: \"%s\"\n",
                       step->method->name, pare_pattern_text(&step->pattern, word, sizeof word));
        if (step->pattern.kind != PARE_PATTERN_NM)
            pare__text_add(&out, "      sparsity: %s\n      scope: %s\n",
                           shortest(step->sparsity, word, sizeof word),
                           pare_scope_name(step->scope));
        add_choice(&out, &step->choice);
    }
    for (size_t i = 0; i < recipe->quant_count; i++) {
        const pare_quant_step *step = &recipe->quants[i];
        pare__text_add(&out, "  - quantize:\n      method: %s\n      scheme: %s\n      scale: %s\n",
                       step->method->name, pare_scheme_text(&step->scheme, word, sizeof word),
                       pare_scale_search_name(step->search));
        add_choice(&out, &step->choice);
    }
    if (recipe->format || shards)
        pare__text_add(&out, "  - export:\n");
    if (recipe->format)
        pare__text_add(&out, "      format: %s\n", recipe->format);
    if (shards)
        pare__text_add(&out, "      max_shard_size: %" PRId64 "\n", recipe->max_shard_size);
    PARE_TRY(pare__text_take(&out, text));
    return PARE_OK;
}

static void say_choice(pare__text *out, const pare_choice *choice)
{
    for (size_t i = 0; i < choice->includes; i++)
        pare__text_add(out, "%s%s", i ? ", " : ", only ", choice->include[i]);
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

pare_status pare__recipe_steps(const pare_recipe *recipe, pare__json *array)
{
    char word[64];
    pare__text line = {0};
    for (size_t i = 0; i < recipe->prune_count; i++) {
        const pare_prune_step *step = &recipe->prunes[i];
        pare__text_add(&line, "prune: %s, %s", step->method->name,
                       pare_pattern_text(&step->pattern, word, sizeof word));
        if (step->pattern.kind != PARE_PATTERN_NM)
            pare__text_add(&line, ", sparsity %s, scope %s",
                           shortest(step->sparsity, word, sizeof word),
                           pare_scope_name(step->scope));
        say_choice(&line, &step->choice);
        PARE_TRY(append(array, &line));
    }
    for (size_t i = 0; i < recipe->quant_count; i++) {
        const pare_quant_step *step = &recipe->quants[i];
        pare__text_add(&line, "quantize: %s, %s, scale %s", step->method->name,
                       pare_scheme_text(&step->scheme, word, sizeof word),
                       pare_scale_search_name(step->search));
        say_choice(&line, &step->choice);
        PARE_TRY(append(array, &line));
    }
    if (recipe->format) {
        pare__text_add(&line, "export: as %s", recipe->format);
        PARE_TRY(append(array, &line));
    }
    return PARE_OK;
}
