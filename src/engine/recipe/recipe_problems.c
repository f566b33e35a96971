/* recipe_problems.c - what is wrong with a recipe, gathered so that all of it is reported at once.
 */
#include "recipe_impl.h"

#include "base/alloc.h"
#include "base/check.h"

#include <stdarg.h>
#include <string.h>

#define MAX_SHOWN 50

void pare__problem_add(pare__problems *problems, const pare__yaml *node, const char *fmt, ...)
{
    char text[768];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pare__problem problem = {.line = node ? node->line : 1,
                             .column = node ? node->column : 1,
                             .together = problems->together};
    if (pare__strdup(text, &problem.text) != PARE_OK ||
        pare__grow(&problems->list, &problems->capacity, problems->count + 1,
                   sizeof *problems->list) != PARE_OK) {
        free(problem.text);
        problems->failed = true;
        return;
    }
    problems->list[problems->count++] = problem;
}

void pare__problem_last(pare__problems *problems, const pare__yaml *node)
{
    pare__problem_add(problems, node, "%s", pare_last_error());
}

static int by_place(const void *a, const void *b)
{
    const pare__problem *x = a, *y = b;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    return strcmp(x->text, y->text);
}

pare_status pare__problems_status(pare__problems *problems)
{
    PARE_REQUIRE(!problems->failed, PARE_ERR_MEMORY, "%s: out of memory while reading the recipe",
                 problems->what);
    if (!problems->count)
        return PARE_OK;
    qsort(problems->list, problems->count, sizeof *problems->list, by_place);
    pare__text lines = {0};
    for (size_t i = 0; i < problems->count && i < MAX_SHOWN; i++)
        pare__text_add(&lines, "%s%s:%d:%d: %s", i ? "\n" : "", problems->what,
                       problems->list[i].line, problems->list[i].column, problems->list[i].text);
    if (problems->count > MAX_SHOWN)
        pare__text_add(&lines, "\n%s: and %zu more", problems->what, problems->count - MAX_SHOWN);
    char *all = NULL;
    PARE_TRY(pare__text_take(&lines, &all));
    pare_status status = pare__error_lines(PARE_ERR_ARGUMENT, __func__, all);
    free(all);
    return status;
}

void pare__problems_free(pare__problems *problems)
{
    for (size_t i = 0; i < problems->count; i++)
        free(problems->list[i].text);
    free(problems->list);
    *problems = (pare__problems){0};
}

pare__shown pare__show(const pare__yaml *node)
{
    pare__shown shown = {{0}};
    if (!node || node->kind != PARE__YAML_SCALAR) {
        strcpy(shown.text, !node ? "nothing" : node->kind == PARE__YAML_LIST ? "a list" : "a map");
        return shown;
    }
    size_t at = 0, room = sizeof shown.text - 8;
    shown.text[at++] = '"';
    for (const char *c = node->text; *c && at < room; c++)
        shown.text[at++] = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    if (at == room) { /* cut, but not inside a character of several bytes */
        while (at > 1 && ((unsigned char)shown.text[at - 1] & 0xc0) == 0x80)
            at--;
        if (at > 1 && (unsigned char)shown.text[at - 1] >= 0xc0)
            at--;
        memcpy(shown.text + at, "…", 3);
        at += 3;
    }
    shown.text[at] = '"';
    return shown;
}
