/* report_table.c - aligned text tables and numbers for people. */
#include "report_table.h"

#include "base/alloc.h"
#include "base/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#define MIN_CUT 12 /* columns that a cut cell keeps at least */

void pare__table_cell(pare__table *table, const char *fmt, ...)
{
    pare__text cell = {0};
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    char *text = NULL;
    for (char *c = line; *c; c++) /* names come from files: nothing that a terminal acts on */
        pare__text_bytes(&cell, (unsigned char)*c < 0x20 || *c == 0x7f ? "?" : c, 1);
    if (pare__text_take(&cell, &text) != PARE_OK ||
        pare__grow(&table->cells, &table->capacity, table->count + 1, sizeof *table->cells) !=
            PARE_OK) {
        free(text);
        table->failed = true;
        return;
    }
    table->cells[table->count++] = text;
}

static bool continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Columns on a terminal: characters, each taken as one wide. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += !continues(*text);
    return width;
}

static const char *skip(const char *text, size_t characters)
{
    for (; *text && characters; characters--)
        for (text++; continues(*text); text++)
            ;
    return text;
}

/* The text, its middle left out where it is wider than width. */
static void add_cut(pare__text *out, const char *text, size_t width)
{
    size_t all = width_of(text);
    if (all <= width) {
        pare__text_add(out, "%s", text);
        return;
    }
    size_t tail = width / 2, head = width - tail - 1;
    pare__text_bytes(out, text, (size_t)(skip(text, head) - text));
    pare__text_add(out, "…%s", skip(text, all - tail));
}

/* Widths of all columns; 0 for one that is empty below its heading. */
static void measure(const pare__table *table, size_t columns, size_t *width)
{
    size_t total = 0;
    memset(width, 0, columns * sizeof *width);
    for (size_t i = columns; i < table->count; i++) {
        size_t w = width_of(table->cells[i]);
        if (w > width[i % columns])
            width[i % columns] = w;
    }
    for (size_t c = 0; c < columns; c++) {
        size_t heading = width_of(table->cells[c]);
        if (width[c] && width[c] < heading)
            width[c] = heading;
        total += width[c] ? width[c] + 2 : 0;
    }
    while (total > PARE__TEXT_COLUMNS) { /* the widest that may be cut gives */
        size_t widest = columns;
        for (size_t c = 0; c < columns; c++)
            if (table->align[c] == 'L' && width[c] > MIN_CUT &&
                (widest == columns || width[c] > width[widest]))
                widest = c;
        if (widest == columns)
            break;
        width[widest]--;
        total--;
    }
}

static void add_row(const pare__table *table, size_t columns, const size_t *width, size_t row,
                    pare__text *out)
{
    size_t pad = 2;
    for (size_t c = 0; c < columns; c++) {
        const char *cell = table->cells[row * columns + c];
        bool right = table->align[c] == 'r';
        if (!*cell || !width[c]) {
            pad += width[c] ? width[c] + 2 : 0;
            continue;
        }
        size_t wide = width_of(cell), space = width[c] > wide ? width[c] - wide : 0;
        pare__text_add(out, "%*s", (int)(pad + (right ? space : 0)), "");
        add_cut(out, cell, width[c]);
        pad = 2 + (right ? 0 : space);
    }
    pare__text_add(out, "\n");
}

void pare__table_add(pare__table *table, pare__text *out)
{
    size_t columns = strlen(table->align), width[32];
    out->failed = out->failed || table->failed;
    if (!table->failed && columns <= 32 && table->count > columns) {
        measure(table, columns, width);
        for (size_t row = 0; row < table->count / columns; row++)
            add_row(table, columns, width, row, out);
    }
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    *table = (pare__table){.align = table->align};
}

void pare__text_wrap(pare__text *out, size_t indent, const char *label, const char *text)
{
    size_t column = indent + (width_of(label) > 9 ? width_of(label) : 9), start = column;
    pare__text_add(out, "%*s%s%*s", (int)indent, "", label, (int)(start - indent - width_of(label)),
                   "");
    while (*text) {
        size_t length = strcspn(text, " ");
        char word[512];
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1),
                 text);
        size_t wide = width_of(word);
        if (column > start && column + 1 + wide > PARE__TEXT_COLUMNS) {
            pare__text_add(out, "\n%*s", (int)start, "");
            column = start;
        }
        pare__text_add(out, "%s", column > start ? " " : "");
        pare__text_bytes(out, text, length);
        column += wide + (column > start);
        text += length + strspn(text + length, " ");
    }
    pare__text_add(out, "\n");
}

void pare__text_wrapf(pare__text *out, size_t indent, const char *label, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pare__text_wrap(out, indent, label, text);
}

pare__number pare__count(int64_t value)
{
    pare__number number;
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRId64, value);
    size_t at = 0;
    for (int i = 0; i < length; i++) {
        number.text[at++] = digits[i];
        if (digits[i] != '-' && i + 1 < length && (length - i - 1) % 3 == 0)
            number.text[at++] = ',';
    }
    number.text[at] = '\0';
    return number;
}

pare__number pare__size(int64_t bytes)
{
    pare__number number;
    pare__size_text((double)bytes, number.text, sizeof number.text);
    return number;
}

pare__number pare__size_exact(int64_t bytes)
{
    pare__number number, size = pare__size(bytes), count = pare__count(bytes);
    if (bytes < 1024)
        snprintf(number.text, sizeof number.text, "%.24s bytes", count.text);
    else
        snprintf(number.text, sizeof number.text, "%.12s (%.28s B)", size.text, count.text);
    return number;
}

pare__number pare__percent(double fraction)
{
    pare__number number;
    snprintf(number.text, sizeof number.text, "%.2f %%", 100 * fraction);
    return number;
}
