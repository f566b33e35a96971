/* help.c - the manual for a terminal: of the program, or of one command. */
#include "cli.h"

#include <string.h>

#define WIDTH 79
#define HANG 26

/* Columns that size bytes take: characters, without the marks of code. */
static int columns_of(const char *text, size_t size)
{
    int columns = 0;
    for (size_t i = 0; i < size; i++)
        columns += ((unsigned char)text[i] & 0xc0) != 0x80 && text[i] != '`';
    return columns;
}

/* Words from column `at` on, broken before WIDTH, further lines indented by hang. Ends the last
 * line. */
static void wrap(FILE *to, int at, int hang, const char *text)
{
    bool first = true;
    while (*text) {
        size_t length = strcspn(text, " \n");
        int columns = columns_of(text, length);
        if (!first && at + 1 + columns > WIDTH) {
            fprintf(to, "\n%*s", hang, "");
            at = hang;
            first = true;
        }
        if (!first)
            fputc(' ', to);
        at += columns + !first;
        first = false;
        for (size_t i = 0; i < length; i++)
            if (text[i] != '`')
                fputc(text[i], to);
        text += length;
        if (text[0] == '\n' && text[1] == '\n') {
            fprintf(to, "\n\n%*s", hang, "");
            at = hang;
            first = true;
        }
        text += strspn(text, " \n");
    }
    fputc('\n', to);
}

static void item(FILE *to, const char *name, const char *text)
{
    int columns = columns_of(name, strlen(name));
    fprintf(to, "  %s", name);
    if (columns + 4 > HANG)
        fprintf(to, "\n%*s", HANG, "");
    else
        fprintf(to, "%*s", HANG - 2 - columns, "");
    wrap(to, HANG, HANG, text);
}

static void option(FILE *to, const struct option_row *row)
{
    char name[64];
    if (row->letter)
        snprintf(name, sizeof name, "-%c, --%s%s%s", row->letter, row->name, row->value ? " " : "",
                 row->value ? row->value : "");
    else
        snprintf(name, sizeof name, "--%s%s%s", row->name, row->value ? " " : "",
                 row->value ? row->value : "");
    item(to, name, row->help);
}

/* The options that have this list of commands: all (NULL), the program ("") or, if named, one. */
static void options(FILE *to, const char *title, bool everywhere, const struct command_row *command)
{
    bool any = false;
    for (int id = 0; id < OPTIONS; id++) {
        const struct option_row *row = &option_rows[id];
        if (everywhere ? row->commands != NULL
                       : !row->commands || !option_applies((enum option_id)id, command))
            continue;
        if (!any)
            fprintf(to, "\n%s\n", title);
        any = true;
        option(to, row);
    }
}

static void program_help(FILE *to)
{
    const char *between = "\nnot in this version: ";
    fprintf(to,
            "pare %s - prunes, quantizes and converts model checkpoints\n\n"
            "usage: pare COMMAND [operands] [options]\n\ncommands\n",
            pare_version());
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", c->name, c->operands);
            item(to, name, c->summary);
        }
    for (const struct command_row *c = command_rows; c->name; c++)
        if (!c->run) {
            fprintf(to, "%s%s", between, c->name);
            between = ", ";
        }
    fputc('\n', to);
    options(to, "options of every command", true, NULL);
    options(to, "options of the program", false, NULL);
    fputs("\nexit codes\n", to);
    for (const struct word_row *row = exit_rows; row->name; row++)
        item(to, row->name, row->text);
    fputs("\npare COMMAND --help tells more; pare --markdown prints the whole manual.\n", to);
}

/* Whether a word of the manual stands in a command's usage or in the value of one of its options.
 */
static bool needs_word(const struct command_row *command, const char *word)
{
    if (strstr(command->operands, word) || strstr(command->usage, word))
        return true;
    for (int id = 0; id < OPTIONS; id++)
        if (option_rows[id].value && strcmp(option_rows[id].value, word) == 0 &&
            option_applies((enum option_id)id, command))
            return true;
    return false;
}

static void command_help(FILE *to, const struct command_row *command)
{
    fprintf(to, "usage: pare %s%s%s%s", command->name, *command->operands ? " " : "",
            command->operands, *command->usage ? " " : "");
    wrap(to, (int)(14 + strlen(command->name) + strlen(command->operands)), 11, command->usage);
    fputc('\n', to);
    wrap(to, 0, 0, command->text);
    options(to, "options", false, command);
    options(to, "options of every command", true, command);
    bool any = false;
    for (const struct word_row *row = word_rows; row->name; row++)
        if (needs_word(command, row->name)) {
            fputs(any ? "" : "\nwords\n", to);
            any = true;
            item(to, row->name, row->text);
        }
    fputs("\nexamples\n", to);
    for (const char *line = command->examples; *line;) {
        size_t length = strcspn(line, "\n");
        fprintf(to, "  %.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
    if (strstr(command->operands, "RECIPE"))
        fputs("\npare --markdown has the keys of a recipe.\n", to);
}

void print_help(FILE *to, const struct command_row *command)
{
    if (command)
        command_help(to, command);
    else
        program_help(to);
}
