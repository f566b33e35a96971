/* report_table.h - aligned text tables, at most 120 columns wide. */
#ifndef PARE_REPORT_TABLE_H
#define PARE_REPORT_TABLE_H

#include "base/text.h"

#define PARE__TEXT_COLUMNS 120

/* Cells are added row by row, the heading first. align has a letter a column: 'l', 'r', or 'L' for
 * the one that is cut in its middle where a line would be too long. Starts as { .align = "lrL" }.
 */
typedef struct pare__table {
    const char *align;
    char **cells;
    size_t count, capacity;
    bool failed;
} pare__table;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void pare__table_cell(pare__table *table, const char *fmt, ...);

/* Appends the table, each line indented by two, and frees its cells. Columns that are empty below
 * the heading are left out; a table without rows gives nothing. */
void pare__table_add(pare__table *table, pare__text *out);

/* "label    text" with the text's lines broken at words and aligned; the label has nine columns or
 * more. */
void pare__text_wrap(pare__text *out, size_t indent, const char *label, const char *text);

/* The same for a text with printf's arguments. */
#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
void pare__text_wrapf(pare__text *out, size_t indent, const char *label, const char *fmt, ...);

/* "12,345" into a small struct, so that calls can be nested in one printf. */
typedef struct pare__number {
    char text[48];
} pare__number;
pare__number pare__count(int64_t value);
pare__number pare__size(int64_t bytes); /* "1.02 MiB" */
pare__number
pare__size_exact(int64_t bytes); /* "1.02 MiB (1,071,616 bytes)", below 1 KiB "812 bytes" */
pare__number pare__percent(double fraction); /* "50.00 %" */

#endif
