/* report_text_sweep.c - a sweep for people: a line for each point. */
#include "report_impl.h"
#include "report_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_share(pare__table *table, const pare__json *value)
{
    double share;
    if (pare__json_real(value, &share))
        pare__table_cell(table, "%.2f %%", 100 * share);
    else
        pare__table_cell(table, "%s", "");
}

static void add_number(pare__table *table, const pare__json *value, double factor)
{
    double number;
    if (pare__json_real(value, &number))
        pare__table_cell(table, "%.4g", number * factor);
    else
        pare__table_cell(table, "%s", "");
}

static void add_size(pare__table *table, const pare__json *value)
{
    int64_t bytes;
    if (pare__json_int(value, &bytes))
        pare__table_cell(table, "%s", pare__size(bytes).text);
    else
        pare__table_cell(table, "%s", "");
}

#define MOST_AXES 12 /* columns of their own; more stand in the JSON */

static void add_heading(pare__table *table, const pare__json *root, bool planned)
{
    static const char *const done[] = {"kept",  "sparsity", "bits", "bytes",
                                       "GFLOP", "latency",  NULL};
    static const char *const plan[] = {"seconds", "memory", NULL};
    const pare__json *axes = pare__json_get(root, "axes");
    pare__table_cell(table, "point");
    for (size_t a = 0; a < pare__json_size(axes) && a < MOST_AXES; a++)
        pare__table_cell(table, "%s", pare__report_string(pare__json_at(axes, a), "name", "?"));
    if (!planned)
        pare__table_cell(table, "%s", pare__report_string(root, "metric", ""));
    for (size_t i = 0; planned ? plan[i] != NULL : done[i] != NULL; i++)
        pare__table_cell(table, "%s", planned ? plan[i] : done[i]);
}

static void add_plan(pare__table *table, const pare__json *row)
{
    const pare__json *predicted = pare__json_get(row, "predicted");
    add_number(table, pare__json_get(predicted, "seconds"), 1);
    add_size(table, pare__json_get(predicted, "peak_memory"));
}

static void add_row(pare__table *table, const pare__json *root, const pare__json *row, bool planned)
{
    const pare__json *axes = pare__json_get(root, "axes"), *values = pare__json_get(row, "values");
    const char *metric = pare__report_string(root, "metric", "");
    bool dense = strcmp(pare__report_string(row, "kind", ""), "dense") == 0;
    pare__table_cell(table, "%03lld", (long long)pare__report_int(row, "point"));
    for (size_t a = 0; a < pare__json_size(axes) && a < MOST_AXES; a++)
        pare__table_cell(
            table, "%s",
            dense ? a ? "" : "dense"
                  : pare__report_string(
                        values, pare__report_string(pare__json_at(axes, a), "name", "?"), ""));
    if (planned) {
        add_plan(table, row);
        return;
    }
    add_number(table, pare__json_get(pare__json_get(row, "metrics"), metric), 1);
    add_share(table, pare__json_get(row, "kept"));
    add_share(table, pare__json_get(row, "sparsity"));
    add_number(table, pare__json_get(row, "bits_per_weight"), 1);
    add_size(table, pare__json_get(row, "bytes"));
    add_number(table, pare__json_get(row, "flops_left"), 1e-9);
    const pare__json *latency = pare__json_get(row, "latency");
    double seconds;
    if (pare__json_real(pare__json_get(latency, "seconds"), &seconds))
        pare__table_cell(table, "%.3g ms", 1e3 * seconds);
    else
        pare__table_cell(table, "%s", "");
}

static void add_notes(const pare__json *points, pare__text *out)
{
    for (size_t i = 0; i < pare__json_size(points); i++) {
        const pare__json *row = pare__json_at(points, i);
        const char *state = pare__report_string(row, "state", ""), *note;
        char label[40];
        if (!(note = pare__report_string(row, "note", NULL)))
            continue;
        snprintf(label, sizeof label, "%03lld", (long long)pare__report_int(row, "point"));
        pare__text_wrapf(out, 2, label, "%s: %s", state, note);
    }
}

void pare__report_text_sweep(const pare__json *root, pare__text *out)
{
    const pare__json *points = pare__json_get(root, "points"), *s = pare__json_get(root, "summary");
    char seconds[32], align[MOST_AXES + 16] = "r";
    bool planned = false;
    pare__json_bool(pare__json_get(root, "planned"), &planned);
    size_t axes = pare__json_size(pare__json_get(root, "axes"));
    axes = axes < MOST_AXES ? axes : MOST_AXES;
    memset(align + 1, 'l', axes);
    memset(align + 1 + axes, 'r', planned ? 2 : 7);
    pare__table table = {.align = align};
    pare__text_add(out, planned ? "plan of a sweep: nothing is done yet\n" : "sweep\n");
    pare__text_wrapf(out, 2, "file", "%s", pare__report_string(root, "sweep", "?"));
    if (pare__json_get(root, "folder"))
        pare__text_wrapf(out, 2, "folder", "%s: results.csv, results.json, report.html",
                         pare__report_string(root, "folder", "?"));
    pare__text_wrapf(out, 2, "points", "%s: %s done, %s not possible, %s failed, %s to do; %s",
                     pare__count(pare__report_int(s, "points")).text,
                     pare__count(pare__report_int(s, "done")).text,
                     pare__count(pare__report_int(s, "not possible")).text,
                     pare__count(pare__report_int(s, "failed")).text,
                     pare__count(pare__report_int(s, "to do")).text,
                     pare__time_text(pare__report_real(s, "seconds"), seconds, sizeof seconds));
    pare__text_add(out, "\n");
    add_heading(&table, root, planned);
    for (size_t i = 0; i < pare__json_size(points); i++)
        add_row(&table, root, pare__json_at(points, i), planned);
    pare__table_add(&table, out);
    add_notes(points, out);
}
