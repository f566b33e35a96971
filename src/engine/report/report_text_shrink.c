/* report_text_shrink.c - what structured pruning took away, for people: the part of a run's report
 * that other runs do not have. */
#include "report_impl.h"
#include "report_table.h"

#include <string.h>

#define SHOWN 12 /* classes, reasons: all of them are in --json */

static void add_classes(const pare__json *classes, pare__text *out)
{
    static const char *const heading[] = {"units", "kept", "of"};
    pare__table table = {.align = "rrL"};
    size_t n = pare__json_size(classes);
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        const pare__json *c = pare__json_at(classes, i);
        pare__table_cell(&table, "%s", pare__count(pare__report_int(c, "units")).text);
        pare__table_cell(&table, "%s", pare__count(pare__report_int(c, "kept")).text);
        pare__table_cell(&table, "%s", pare__report_string(c, "name", "?"));
    }
    pare__table_add(&table, out);
    if (n > SHOWN)
        pare__text_add(out, "  and %zu more: --json lists them\n", n - SHOWN);
}

/* Each reason once, with the first of its classes. */
static void add_locked(const pare__json *locked, pare__text *out)
{
    size_t shown = 0;
    for (size_t i = 0; i < pare__json_size(locked) && shown < SHOWN; i++) {
        const char *reason = pare__report_string(pare__json_at(locked, i), "reason", "?");
        size_t alike = 0;
        bool told = false;
        for (size_t j = 0; j < pare__json_size(locked); j++) {
            bool same =
                strcmp(pare__report_string(pare__json_at(locked, j), "reason", "?"), reason) == 0;
            told = told || (same && j < i);
            alike += same;
        }
        if (told)
            continue;
        shown++;
        pare__text_wrapf(out, 2, "whole", "%s%s: %s",
                         pare__report_string(pare__json_at(locked, i), "name", "?"),
                         alike > 1 ? " and others" : "", reason);
    }
}

void pare__report_text_shrink(const pare__json *root, pare__text *out)
{
    const pare__json *s = pare__json_get(root, "shrink");
    if (!s)
        return;
    pare__text_add(out, "\nsmaller by %s\n", pare__report_string(s, "pattern", "?"));
    add_classes(pare__json_get(s, "classes"), out);
    pare__text_add(out, "  parameters %s -> %s\n",
                   pare__count(pare__report_int(s, "parameters_before")).text,
                   pare__count(pare__report_int(s, "parameters_after")).text);
    double before = pare__report_real(s, "flops_before"),
           after = pare__report_real(s, "flops_after");
    if (before > 0 && after > 0)
        pare__text_add(out, "  %.4g -> %.4g GFLOP a sample (%.2f× less)\n", before * 1e-9,
                       after * 1e-9, before / after);
    add_locked(pare__json_get(s, "locked"), out);
}
