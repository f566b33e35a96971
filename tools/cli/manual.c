/* manual.c - the whole manual from the table: Markdown (docs/cli.md) and a man page. */
#include "cli.h"

#include <string.h>

/* What differs between the two: how each piece is written. */
struct writer {
    FILE *to;
    bool man;
};

/* roff takes '\' everywhere and '.' and ''' at the start of a line for its own. */
static void roff_bytes(FILE *to, const char *text, size_t size, bool line_start)
{
    for (size_t i = 0; i < size; i++) {
        if (line_start && (text[i] == '.' || text[i] == '\''))
            fputs("\\&", to);
        line_start = text[i] == '\n';
        if (text[i] == '\\')
            fputs("\\e", to);
        else if (text[i] == '-')
            fputs("\\-", to);
        else
            fputc(text[i], to);
    }
}

/* Running text; `code` is bold in roff, as it is in Markdown, where a bare '*', '<' or '|' is
 * escaped. */
static void prose(const struct writer *w, const char *text, size_t size)
{
    bool code = false;
    if (w->man)
        for (size_t i = 0, length; i < size; i += length + 1) {
            const char *mark = memchr(text + i, '`', size - i);
            length = mark ? (size_t)(mark - text) - i : size - i;
            roff_bytes(w->to, text + i, length, i == 0);
            if (mark)
                fputs((code = !code) ? "\\fB" : "\\fR", w->to);
        }
    for (size_t i = 0; !w->man && i < size; i++) {
        code = code != (text[i] == '`');
        if (!code && strchr("*<|[]", text[i]))
            fputc('\\', w->to);
        fputc(text[i], w->to);
    }
}

static void code(const struct writer *w, const char *text)
{
    fputs(w->man ? "\\fB" : "`", w->to);
    if (w->man)
        roff_bytes(w->to, text, strlen(text), false);
    else
        fputs(text, w->to);
    fputs(w->man ? "\\fR" : "`", w->to);
}

static void heading(const struct writer *w, int level, const char *text)
{
    if (!w->man)
        fprintf(w->to, "\n%s %s\n\n", level == 1 ? "##" : "###", text);
    else {
        fputs(level == 1 ? ".SH " : ".SS ", w->to);
        roff_bytes(w->to, text, strlen(text), false);
        fputc('\n', w->to);
    }
}

/* "word": text, in a list. */
static void item(const struct writer *w, const char *word, const char *text)
{
    fputs(w->man ? ".TP\n" : "- ", w->to);
    code(w, word);
    fputs(w->man ? "\n" : ": ", w->to);
    prose(w, text, strlen(text));
    fputc('\n', w->to);
}

/* Lines kept as they are; each has the manual's four blanks already, or gets them. */
static void verbatim(const struct writer *w, const char *text, size_t size)
{
    fputs(w->man ? ".nf\n" : "", w->to);
    for (size_t i = 0; i < size;) {
        const char *end = memchr(text + i, '\n', size - i);
        size_t length = end ? (size_t)(end - text) - i : size - i;
        fputs(length && text[i] == ' ' ? "" : "    ", w->to);
        if (w->man)
            roff_bytes(w->to, text + i, length, false);
        else
            fwrite(text + i, 1, length, w->to);
        fputc('\n', w->to);
        i += length + 1;
    }
    fputs(w->man ? ".fi\n" : "", w->to);
}

/* Paragraphs, separated by empty lines; those that begin with four blanks are kept as they are. */
static void paragraphs(const struct writer *w, const char *text)
{
    bool first = true;
    while (*text) {
        const char *end = strstr(text, "\n\n");
        size_t length = end ? (size_t)(end - text) : strlen(text);
        if (!first)
            fputs(w->man ? ".PP\n" : "\n", w->to);
        first = false;
        if (strncmp(text, "    ", 4) == 0)
            verbatim(w, text, length);
        else {
            prose(w, text, length);
            fputc('\n', w->to);
        }
        text += length + (end ? 2 : 0);
    }
}

static void option_item(const struct writer *w, const struct option_row *row)
{
    char name[64];
    const char *value = row->value ? row->value : "";
    if (row->letter)
        snprintf(name, sizeof name, "-%c, --%s%s%s", row->letter, row->name, *value ? " " : "",
                 value);
    else
        snprintf(name, sizeof name, "--%s%s%s", row->name, *value ? " " : "", value);
    item(w, name, row->help);
}

static void command_section(const struct writer *w, const struct command_row *c)
{
    char usage[256];
    heading(w, 2, c->name);
    snprintf(usage, sizeof usage, "pare %s%s%s%s%s", c->name, *c->operands ? " " : "", c->operands,
             *c->usage ? " " : "", c->usage);
    verbatim(w, usage, strlen(usage));
    fputs(w->man ? ".PP\n" : "\n", w->to);
    paragraphs(w, c->text);
    bool any = false;
    for (int id = 0; id < OPTIONS; id++)
        if (option_rows[id].commands && option_applies((enum option_id)id, c)) {
            fputs(!any && !w->man ? "\n" : "", w->to);
            any = true;
            option_item(w, &option_rows[id]);
        }
    fputs(w->man ? ".PP\nExamples:\n" : "\nExamples:\n\n", w->to);
    verbatim(w, c->examples, strlen(c->examples));
}

static void command_sections(const struct writer *w)
{
    const char *between = "";
    heading(w, 1, w->man ? "COMMANDS" : "Commands");
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run)
            item(w, c->name, c->summary);
    fputs(w->man ? ".PP\n" : "\n", w->to);
    fputs("Not in this version (exit code 2): ", w->to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (!c->run) {
            fputs(between, w->to);
            code(w, c->name);
            between = ", ";
        }
    fputs(".\n", w->to);
    for (const struct command_row *c = command_rows; c->name; c++)
        if (c->run)
            command_section(w, c);
}

static void manual(const struct writer *w)
{
    heading(w, 1, w->man ? "WORDS" : "Words");
    for (const struct word_row *row = word_rows; row->name; row++)
        item(w, row->name, row->text);
    command_sections(w);
    heading(w, 1, w->man ? "OPTIONS OF EVERY COMMAND" : "Options of every command");
    for (int id = 0; id < OPTIONS; id++)
        if (!option_rows[id].commands)
            option_item(w, &option_rows[id]);
    heading(w, 1, w->man ? "OPTIONS OF THE PROGRAM" : "Options of the program");
    for (int id = 0; id < OPTIONS; id++)
        if (option_rows[id].commands && !*option_rows[id].commands)
            option_item(w, &option_rows[id]);
    heading(w, 1, w->man ? "EXIT STATUS" : "Exit codes");
    for (const struct word_row *row = exit_rows; row->name; row++)
        item(w, row->name, row->text);
    for (const struct word_row *row = manual_rows; row->name; row++) {
        heading(w, 1, row->name);
        paragraphs(w, row->text);
    }
}

void print_markdown(FILE *to)
{
    struct writer w = {.to = to, .man = false};
    fputs("# pare: the command line\n\n"
          "`pare` prunes, quantizes and converts model checkpoints. This page is made by `pare "
          "--markdown` from the table "
          "that the program itself uses; change tools/cli/commands.c or words.c, not this page.\n\n"
          "    pare COMMAND [operands] [options]\n",
          to);
    manual(&w);
}

void print_man(FILE *to)
{
    struct writer w = {.to = to, .man = true};
    fprintf(to,
            ".TH PARE 1 \"\" \"pare %s\" \"User Commands\"\n.SH NAME\npare \\- prunes, quantizes "
            "and converts "
            "model checkpoints\n.SH SYNOPSIS\n.B pare\n.I COMMAND\n[operands] [options]\n",
            pare_version());
    manual(&w);
}
