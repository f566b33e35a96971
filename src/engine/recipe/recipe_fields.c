/* recipe_fields.c - YAML nodes as the values that a recipe wants: maps with known keys, texts,
 * numbers (YAML 1.2 core schema: plain scalars only, a quoted one is always a text). */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <string.h>

/* The place of a word in a NULL-terminated list, or -1. */
static int find(const char *const *words, const char *word)
{
    for (int i = 0; words && word && words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return -1;
}

/* A key that the map does not have: what is known, and which of it may have been meant. */
static void unknown_key(pare__problems *problems, const pare__yaml *key, const char *name,
                        const char *const *keys, const char *const *later, pare__fields *fields)
{
    char list[400];
    if (find(later, key->text) >= 0) {
        pare__problem_add(problems, key, "%s: %s is not in this version, which takes %s", name,
                          pare__show(key).text, pare__word_list(keys, list, sizeof list));
        return;
    }
    const char *near = pare__nearest(key->text, keys);
    if (near)
        fields->guessed[find(keys, near)] = true;
    pare__problem_add(problems, key, "%s: unknown key %s, expected %s%s%s%s", name,
                      pare__show(key).text, pare__word_list(keys, list, sizeof list),
                      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

bool pare__read_map(pare__problems *problems, const pare__yaml *node, const char *name,
                    const char *const *keys, const char *const *later, pare__fields *fields)
{
    *fields = (pare__fields){0};
    if (!node || node->kind != PARE__YAML_MAP) {
        char list[400];
        pare__problem_add(problems, node, "%s: found %s, expected a map with %s", name,
                          node && node->kind == PARE__YAML_SCALAR && !node->text[0]
                              ? "nothing"
                              : pare__show(node).text,
                          pare__word_list(keys, list, sizeof list));
        return false;
    }
    for (size_t i = 0; i < node->count; i++) {
        const pare__yaml *key = node->keys[i];
        int place = key->kind == PARE__YAML_SCALAR ? find(keys, key->text) : -1;
        if (key->kind != PARE__YAML_SCALAR)
            pare__problem_add(problems, key, "%s: a key is a word, found %s", name,
                              pare__show(key).text);
        else if (place < 0)
            unknown_key(problems, key, name, keys, later, fields);
        else if (fields->value[place])
            pare__problem_add(problems, key, "%s: %s is given twice, first on line %d", name,
                              keys[place], fields->value[place]->line);
        else
            fields->value[place] = node->items[i];
    }
    return true;
}

/* A scalar that has content; a list is what people try who want a sweep. */
static bool is_scalar(pare__problems *problems, const pare__yaml *node, const char *name,
                      const char *expected)
{
    if (node->kind == PARE__YAML_LIST)
        pare__problem_add(
            problems, node,
            "%s: found a list, expected %s; lists that span a grid belong to sweep files", name,
            expected);
    else if (node->kind == PARE__YAML_MAP)
        pare__problem_add(problems, node, "%s: found a map, expected %s", name, expected);
    else if (!node->text[0])
        pare__problem_add(problems, node, "%s: found nothing, expected %s", name, expected);
    else
        return true;
    return false;
}

const char *pare__read_text(pare__problems *problems, const pare__yaml *node, const char *name)
{
    static const char *const others[] = {"~",    "null",  "Null",  "NULL",  "true", "True",
                                         "TRUE", "false", "False", "FALSE", NULL};
    if (!is_scalar(problems, node, name, "a text"))
        return NULL;
    double number;
    if (!node->quoted &&
        (pare__parse_double(node->text, &number) || find(others, node->text) >= 0)) {
        pare__problem_add(problems, node,
                          "%s: found %s, expected a text: put it in quotes if it is one", name,
                          node->text);
        return NULL;
    }
    return node->text;
}

/* An integer of the core schema: decimal, 0x, 0o. */
static bool parse_uint(const char *text, uint64_t *value)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    bool hex = strncmp(text, "0x", 2) == 0, octal = strncmp(text, "0o", 2) == 0;
    text += hex || octal ? 2 : *text == '+';
    if (!*text || text[strspn(text, hex ? digits : octal ? "01234567" : "0123456789")])
        return false;
    errno = 0;
    *value = strtoull(text, NULL, hex ? 16 : octal ? 8 : 10);
    return errno == 0;
}

bool pare__read_uint(pare__problems *problems, const pare__yaml *node, const char *name,
                     uint64_t *value)
{
    if (!is_scalar(problems, node, name, "a whole number from 0 up"))
        return false;
    bool number = parse_uint(node->text, value);
    if (number && !node->quoted)
        return true;
    pare__problem_add(problems, node, "%s: found %s, expected a whole number from 0 up%s", name,
                      pare__show(node).text, number ? ", without quotes" : "");
    return false;
}

/* What a wrong fraction may have been meant to be ("50%", 50), or false. */
static bool guess_fraction(const char *text, double *value)
{
    char digits[32];
    size_t length = strlen(text);
    bool percent = length && text[length - 1] == '%';
    if (length - percent >= sizeof digits)
        return false;
    memcpy(digits, text, length - percent);
    digits[length - percent] = '\0';
    while (percent && *digits && digits[strlen(digits) - 1] == ' ')
        digits[strlen(digits) - 1] = '\0';
    if (!pare__parse_double(digits, value))
        return false;
    if (percent || *value > 1)
        *value /= 100;
    return *value >= 0 && *value <= 1;
}

bool pare__read_fraction(pare__problems *problems, const pare__yaml *node, const char *name,
                         double *value)
{
    if (!is_scalar(problems, node, name, "a number from 0 to 1"))
        return false;
    if (!node->quoted && pare__parse_double(node->text, value) && *value >= 0 && *value <= 1) {
        *value += 0.0; /* -0 is 0 */
        return true;
    }
    double meant;
    char hint[64] = "";
    if (guess_fraction(node->text, &meant))
        snprintf(hint, sizeof hint, "; did you mean %.6g%s?", meant,
                 node->quoted ? " without quotes" : "");
    pare__problem_add(problems, node, "%s: found %s, expected a number from 0 to 1%s", name,
                      pare__show(node).text, hint);
    return false;
}

bool pare__read_size(pare__problems *problems, const pare__yaml *node, const char *name,
                     int64_t *bytes)
{
    if (!is_scalar(problems, node, name, "a size such as 5G"))
        return false;
    if (pare__parse_size(node->text, bytes) && *bytes > 0)
        return true;
    pare__problem_add(problems, node,
                      "%s: found %s, expected a size above 0 such as 500M or 5G (powers of 1024)",
                      name, pare__show(node).text);
    return false;
}

bool pare__read_count(pare__problems *problems, const pare__yaml *node, const char *name,
                      int64_t least, int64_t *value)
{
    char expected[64];
    uint64_t number;
    snprintf(expected, sizeof expected, "a whole number from %lld up", (long long)least);
    if (!is_scalar(problems, node, name, expected))
        return false;
    if (!node->quoted && parse_uint(node->text, &number) && number <= INT64_MAX / 2 &&
        (int64_t)number >= least) {
        *value = (int64_t)number;
        return true;
    }
    pare__problem_add(problems, node, "%s: found %s, expected %s", name, pare__show(node).text,
                      expected);
    return false;
}

bool pare__read_above_zero(pare__problems *problems, const pare__yaml *node, const char *name,
                           double most, double *value)
{
    char expected[64];
    snprintf(expected, sizeof expected, "a number above 0, at most %g", most);
    if (!is_scalar(problems, node, name, expected))
        return false;
    if (!node->quoted && pare__parse_double(node->text, value) && *value > 0 && *value <= most)
        return true;
    pare__problem_add(problems, node, "%s: found %s, expected %s", name, pare__show(node).text,
                      expected);
    return false;
}

bool pare__read_bool(pare__problems *problems, const pare__yaml *node, const char *name,
                     bool *value)
{
    static const char *const words[] = {"true",  "True",  "TRUE", /* and then */
                                        "false", "False", "FALSE", NULL};
    if (!is_scalar(problems, node, name, "true or false"))
        return false;
    int word = node->quoted ? -1 : find(words, node->text);
    if (word >= 0) {
        *value = word < 3;
        return true;
    }
    pare__problem_add(problems, node, "%s: found %s, expected true or false", name,
                      pare__show(node).text);
    return false;
}

int pare__read_word(pare__problems *problems, const pare__yaml *node, const char *name,
                    const char *const *words)
{
    const char *text = pare__read_text(problems, node, name);
    int word = find(words, text);
    if (text && word < 0) {
        pare__word_error(name, text, words, NULL);
        pare__problem_last(problems, node);
    }
    return word;
}
