/* args.c - the command line against the table, by getopt_long: argp would print its own two-line
 * errors and help in its own order, and knows no nearest word. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define LONG_BASE 256 /* getopt's number of a long option is this and its id */
#define LATER 1024    /* and of one that is still to come */
#define MAX_LATER 64
#define MAX_WORD 64
#define MAX_THREADS 4096
#define MAX_WHOLE ((uint64_t)1 << 53)
#define MAX_CANDIDATES 128

struct parser {
    struct args *args;
    char *error;
    size_t error_size;
    const char *unknown; /* the first option that is none, judged when the command is known */
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static int
fail(struct parser *p, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    vsnprintf(p->error, p->error_size, fmt, list);
    va_end(list);
    return 2;
}

/* ---- nearest word ---------------------------------------------------------------------------- */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits between two words, a swap of neighbours counting as one. */
static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), d[3][MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD)
        return n + m;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *row = d[i % 3], *above = d[(i + 2) % 3], *before = d[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            row[j] = least(above[j - 1] + (a[i - 1] != b[j - 1]), least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
    }
    return d[n % 3][m];
}

/* Of several equally near the one with the longest common beginning: prun is prune, not run. */
const char *nearest_word(const char *word, const char *const *words)
{
    const char *best = NULL;
    size_t longest = 0;
    size_t limit = strlen(word) / 3 > 1 ? strlen(word) / 3 : 1, least_edits = limit + 1;
    for (size_t i = 0; words[i]; i++) {
        size_t edits = distance(word, words[i]), same = 0;
        while (word[same] && word[same] == words[i][same])
            same++;
        if (edits < least_edits || (best && edits == least_edits && same > longest)) {
            least_edits = edits;
            longest = same;
            best = words[i];
        }
    }
    return best;
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool parse_whole(const char *text, uint64_t *value)
{
    if (!*text || text[strspn(text, "0123456789")])
        return false;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0;
}

static bool parse_real(const char *text, double *value)
{
    char *end;
    if (!*text || text[strspn(text, "0123456789.+-eE")])
        return false;
    *value = strtod(text, &end);
    return end != text && !*end && isfinite(*value);
}

/* "5G", "1.5M", "4096"; above 0. */
static bool parse_size(const char *text, int64_t *bytes)
{
    static const char units[] = "KMGT";
    char number[32];
    size_t length = strspn(text, "0123456789.");
    const char *unit = text[length] ? strchr(units, text[length] & ~0x20) : NULL;
    double value;
    if (length >= sizeof number || (text[length] && (!unit || text[length + 1])))
        return false;
    memcpy(number, text, length);
    number[length] = '\0';
    if (!parse_real(number, &value) || (!unit && strchr(number, '.')))
        return false;
    value = ldexp(value, unit ? 10 * (int)(unit - units + 1) : 0);
    *bytes = value < 0x1p62 ? (int64_t)value : 0;
    return *bytes > 0;
}

static int parse_fraction(struct parser *p, const char *name, const char *text, double *value)
{
    char number[32];
    size_t length = strlen(text);
    double meant;
    if (parse_real(text, value) && *value >= 0 && *value <= 1)
        return 0;
    if (length && length < sizeof number) {
        memcpy(number, text, length + 1);
        number[length - (text[length - 1] == '%')] = '\0';
        if (parse_real(number, &meant) && meant >= 0 && meant <= 100)
            return fail(p, "--%s: \"%s\" is not a number from 0 to 1; did you mean %g?", name, text,
                        meant / 100);
    }
    return fail(p, "--%s: \"%s\" is not a number from 0 to 1", name, text);
}

static int parse_number(struct parser *p, const struct option_row *row, const char *text,
                        double *value)
{
    if (row->kind == KIND_FRACTION)
        return parse_fraction(p, row->name, text, value);
    if (!parse_real(text, value) || *value < 0)
        return fail(p, "--%s: \"%s\" is not a number from 0 up", row->name, text);
    if (row->kind == KIND_SHARE && (*value > 1 || !(*value > 0)))
        return fail(p, "--%s: \"%s\" is not a number above 0, at most 1", row->name, text);
    return 0;
}

/* Reads the text of an option as its kind wants it. */
static int parse_value(struct parser *p, enum option_id id, const char *text)
{
    const struct option_row *row = &option_rows[id];
    struct option_value *v = &p->args->value[id];
    pare_choice *choice = &p->args->choice;
    uint64_t whole;
    v->given = true;
    v->text = text;
    if (row->kind != KIND_FLAG && !*text)
        return fail(p, "--%s: the value is empty, expected %s", row->name, row->value);
    switch (row->kind) {
    case KIND_FLAG:
    case KIND_TEXT:
        break;
    case KIND_GLOB:
        if (id == OPT_INCLUDE)
            choice->include[choice->includes++] = (char *)(uintptr_t)text;
        else if (id == OPT_FREEZE)
            p->args->freeze[p->args->freezes++] = (char *)(uintptr_t)text;
        else
            choice->exclude[choice->excludes++] = (char *)(uintptr_t)text;
        break;
    case KIND_THREADS:
        if (!parse_whole(text, &whole) || whole < 1 || whole > MAX_THREADS)
            return fail(
                p,
                "--%s: \"%s\" is not a whole number from 1 to %d; leave it out for all processors",
                row->name, text, MAX_THREADS);
        v->whole = (int64_t)whole;
        break;
    case KIND_SEED:
        if (!parse_whole(text, &v->seed))
            return fail(p, "--%s: \"%s\" is not a whole number from 0 to 2^64 - 1", row->name,
                        text);
        break;
    case KIND_SIZE:
        if (!parse_size(text, &v->whole))
            return fail(p,
                        "--%s: \"%s\" is not a size above 0, such as 500M or 2G (K, M, G, T: "
                        "powers of 1024)",
                        row->name, text);
        break;
    case KIND_COUNT:
    case KIND_INDEX:
        if (!parse_whole(text, &whole) || whole > MAX_WHOLE || (row->kind == KIND_COUNT && !whole))
            return fail(p, "--%s: \"%s\" is not a whole number from %d up", row->name, text,
                        row->kind == KIND_COUNT);
        v->whole = (int64_t)whole;
        break;
    case KIND_FRACTION:
    case KIND_SHARE:
    case KIND_BOUND:
        return parse_number(p, row, text, &v->real);
    }
    return 0;
}

/* ---- options --------------------------------------------------------------------------------- */

static void fill_getopt(struct option *longs, char *letters)
{
    size_t n = 0;
    *letters++ = ':'; /* a missing value is ':', an unknown option '?' */
    for (int id = 0; id < OPTIONS; id++) {
        bool flag = option_rows[id].kind == KIND_FLAG;
        longs[n++] = (struct option){option_rows[id].name, flag ? no_argument : required_argument,
                                     NULL, LONG_BASE + id};
        if (option_rows[id].letter)
            *letters++ = option_rows[id].letter;
        if (option_rows[id].letter && !flag)
            *letters++ = ':';
    }
    for (int i = 0; later_options[i] && i < MAX_LATER; i++)
        longs[n++] = (struct option){later_options[i], optional_argument, NULL, LATER + i};
    longs[n] = (struct option){0};
    *letters = '\0';
}

/* The option of getopt's number or letter, OPTIONS if there is none. */
static enum option_id option_of(int number)
{
    if (number >= LONG_BASE && number < LONG_BASE + OPTIONS)
        return (enum option_id)(number - LONG_BASE);
    for (int id = 0; id < OPTIONS; id++)
        if (number && option_rows[id].letter == number)
            return (enum option_id)id;
    return OPTIONS;
}

static int parse_options(struct parser *p, int argc, char **argv)
{
    struct option longs[OPTIONS + MAX_LATER + 1];
    char letters[2 * OPTIONS + 2];
    int code = 0, number;
    fill_getopt(longs, letters);
    opterr = 0;
    optind = 0; /* GNU: start anew */
    while (code == 0 && (number = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        enum option_id id = option_of(number);
        if (number >= LATER)
            code = fail(p, "--%s is not in this version", later_options[number - LATER]);
        else if (number == ':')
            code = fail(p, "--%s needs a value: %s", option_rows[option_of(optopt)].name,
                        option_rows[option_of(optopt)].value);
        else if (id != OPTIONS)
            code = parse_value(p, id, optarg ? optarg : "");
        else if (optopt >= LONG_BASE && option_of(optopt) != OPTIONS)
            code = fail(p, "--%s takes no value", option_rows[option_of(optopt)].name);
        else if (!p->unknown)
            p->unknown = argv[optind - 1];
    }
    return code;
}

/* An option that is none: the nearest of those that the command has. */
static int fail_unknown(struct parser *p)
{
    const struct command_row *command = p->args->command;
    const char *names[OPTIONS + 1];
    size_t n = 0, length = strcspn(p->unknown, "=");
    char word[MAX_WORD] = "";
    for (int id = 0; id < OPTIONS; id++)
        if (option_applies((enum option_id)id, command))
            names[n++] = option_rows[id].name;
    names[n] = NULL;
    if (strncmp(p->unknown, "--", 2) == 0 && length - 2 < sizeof word)
        memcpy(word, p->unknown + 2, length - 2);
    const char *near = *word ? nearest_word(word, names) : NULL;
    if (near)
        return fail(p, "unknown option \"%.*s\"; did you mean --%s?", (int)length, p->unknown,
                    near);
    return fail(p, "unknown option \"%.*s\"; pare %s%s--help lists the options", (int)length,
                p->unknown, command ? command->name : "", command ? " " : "");
}

static bool is_later(const char *option, const char *command)
{
    for (const struct word_row *row = later_rows; row->name; row++)
        if (named_in(command, row->name) && named_in(option, row->text))
            return true;
    return false;
}

static int check_options(struct parser *p)
{
    const struct command_row *command = p->args->command;
    if (p->unknown)
        return fail_unknown(p);
    for (int id = 0; id < OPTIONS; id++) {
        const char *name = option_rows[id].name, *commands = option_rows[id].commands;
        if (!p->args->value[id].given || option_applies((enum option_id)id, command) ||
            (!command && !commands))
            continue;
        if (!command)
            return fail(p, "--%s needs a command: one of %s", name, commands);
        if (is_later(name, command->name))
            return fail(p, "%s --%s is not in this version", command->name, name);
        if (*commands)
            return fail(p, "%s takes no --%s, which belongs to: %s", command->name, name, commands);
        return fail(p, "--%s goes without a command: pare --%s", name, name);
    }
    return 0;
}

/* ---- commands -------------------------------------------------------------------------------- */

static int find_command(struct parser *p, const char *word)
{
    const char *names[MAX_CANDIDATES];
    size_t n = 0;
    for (; command_rows[n].name && n + 1 < MAX_CANDIDATES; n++) {
        names[n] = command_rows[n].name;
        if (strcmp(names[n], word) == 0) {
            p->args->command = &command_rows[n];
            if (!command_rows[n].run)
                return fail(p, "%s is not in this version", word);
            return 0;
        }
    }
    names[n] = NULL;
    const char *near = nearest_word(word, names);
    if (near)
        return fail(p, "unknown command \"%s\"; did you mean %s?", word, near);
    return fail(p, "unknown command \"%s\"; pare --help lists the commands", word);
}

static int check_operands(struct parser *p, int count, char **operands)
{
    const struct command_row *c = p->args->command;
    if (count > c->count)
        return fail(p, "%s: \"%s\" is one operand too many; expected: pare %s%s%s", c->name,
                    operands[c->count], c->name, c->count ? " " : "", c->operands);
    if (count < c->count)
        return fail(p, "%s needs %s; expected: pare %s %s %s", c->name, c->operands, c->name,
                    c->operands, c->usage);
    for (int i = 0; i < count; i++) {
        if (!operands[i][0])
            return fail(p, "%s: an operand is empty; expected: pare %s %s", c->name, c->name,
                        c->operands);
        p->args->operand[i] = operands[i];
    }
    return 0;
}

int args_parse(int argc, char **argv, struct args *args, char *error, size_t error_size)
{
    struct parser p = {.args = args, .error = error, .error_size = error_size};
    *args = (struct args){0};
    args->choice.include = calloc((size_t)argc + 1, sizeof(char *));
    args->choice.exclude = calloc((size_t)argc + 1, sizeof(char *));
    args->freeze = calloc((size_t)argc + 1, sizeof(char *));
    if (!args->choice.include || !args->choice.exclude || !args->freeze) {
        fail(&p, "out of memory");
        return 4;
    }
    int code = parse_options(&p, argc, argv);
    int count = argc - optind;
    bool asks_help = args->value[OPT_HELP].given;
    if (code == 0 && count > 0)
        code = find_command(&p, argv[optind]);
    if (code == 0)
        code = check_options(&p);
    if (code == 0 && args->command && !asks_help)
        code = check_operands(&p, count - 1, argv + optind + 1);
    return code;
}

void args_free(struct args *args)
{
    free(args->choice.include);
    free(args->choice.exclude);
    free(args->freeze);
    args->freeze = NULL;
    args->choice = (pare_choice){0};
}
