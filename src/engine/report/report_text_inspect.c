/* report_text_inspect.c - a checkpoint for people: every tensor, then what the file says of its
 * origin, then totals. */
#include "report_impl.h"
#include "report_table.h"

#include "base/check.h"

#include <string.h>

static void add_tensors(const pare__json *tensors, pare__text *out)
{
    static const char *const heading[] = {"tensor", "type", "shape", "role", "because",
                                          "stored", "bits", "size",  "zeros"};
    pare__table table = {.align = "LlllLlrrr"};
    double sparsity;
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < pare__json_size(tensors); i++) {
        const pare__json *t = pare__json_at(tensors, i);
        const char *scheme = pare__report_string(t, "scheme", NULL);
        bool known = pare__json_real(pare__json_get(t, "sparsity"), &sparsity);
        pare__table_cell(&table, "%s", pare__report_string(t, "name", "?"));
        pare__table_cell(&table, "%s", pare__report_string(t, "dtype", "?"));
        pare__table_cell(&table, "%s", pare__report_shape(t, "shape").text);
        pare__table_cell(&table, "%s", pare__report_string(t, "role", "?"));
        pare__table_cell(&table, "%s", pare__report_string(t, "reason", ""));
        pare__table_cell(&table, "%s", scheme ? scheme : pare__report_string(t, "form", "?"));
        pare__table_cell(&table, "%.4g", pare__report_real(t, "bits_per_weight"));
        pare__table_cell(&table, "%s", pare__size(pare__report_int(t, "bytes")).text);
        pare__table_cell(&table, "%s", known ? pare__percent(sparsity).text : "");
    }
    pare__table_add(&table, out);
}

/* --stats: a table of its own, the first has no room for it. */
static void add_stats(const pare__json *tensors, pare__text *out)
{
    static const char *const heading[] = {"tensor", "zeros", "min", "max",
                                          "mean",   "rms",   "NaN", "Inf"};
    static const char *const reals[] = {"min", "max", "mean", "rms"};
    pare__table table = {.align = "Lrrrrrrr"};
    bool any = false;
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < pare__json_size(tensors); i++) {
        const pare__json *t = pare__json_at(tensors, i), *stats = pare__json_get(t, "stats");
        if (pare__json_is_null(stats))
            continue;
        any = true;
        pare__table_cell(&table, "%s", pare__report_string(t, "name", "?"));
        pare__table_cell(&table, "%s", pare__count(pare__report_int(stats, "zeros")).text);
        for (size_t k = 0; k < sizeof reals / sizeof *reals; k++)
            pare__table_cell(&table, "%.5g", pare__report_real(stats, reals[k]));
        pare__table_cell(&table, "%s", pare__count(pare__report_int(stats, "nans")).text);
        pare__table_cell(&table, "%s", pare__count(pare__report_int(stats, "infs")).text);
    }
    if (any)
        pare__text_add(out, "\n");
    pare__table_add(&table, out);
}

static void add_sides(const pare__json *sides, pare__text *out)
{
    pare__table table = {.align = "Lr"};
    if (!pare__json_size(sides))
        return;
    pare__table_cell(&table, "carried along");
    pare__table_cell(&table, "size");
    for (size_t i = 0; i < pare__json_size(sides); i++) {
        pare__table_cell(&table, "%s", pare__report_string(pare__json_at(sides, i), "name", "?"));
        pare__table_cell(&table, "%s",
                         pare__size(pare__report_int(pare__json_at(sides, i), "bytes")).text);
    }
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
}

/* A recipe is several lines: each is indented. */
static void add_lines(const char *text, pare__text *out)
{
    while (*text) {
        size_t length = strcspn(text, "\n");
        pare__text_add(out, "      ");
        pare__text_bytes(out, text, length);
        pare__text_add(out, "\n");
        text += length + (text[length] == '\n');
    }
}

static void add_provenance(const pare__json *runs, pare__text *out)
{
    for (size_t i = 0; i < pare__json_size(runs); i++) {
        const pare__json *run = pare__json_at(runs, i);
        size_t sources = pare__json_size(pare__json_get(run, "sources"));
        pare__text_add(out, "%s  pare %s made it from %s tensors (--json has their digests) by\n",
                       i ? "" : "\nprovenance\n", pare__report_string(run, "pare", "?"),
                       pare__count((int64_t)sources).text);
        add_lines(pare__report_string(run, "recipe", "?"), out);
    }
}

static void add_totals(const pare__json *totals, pare__text *out)
{
    int64_t nans = pare__report_int(totals, "nans"), infs = pare__report_int(totals, "infs");
    int64_t tensors = pare__report_int(totals, "tensors");
    pare__text_add(out, "\n  %s tensor%s, %s parameters, %s, %.4g bits a weight\n",
                   pare__count(tensors).text, tensors == 1 ? "" : "s",
                   pare__count(pare__report_int(totals, "parameters")).text,
                   pare__size_exact(pare__report_int(totals, "bytes")).text,
                   pare__report_real(totals, "bits_per_weight"));
    if (!pare__json_is_null(pare__json_get(totals, "zeros")))
        pare__text_add(out, "  %s zeros (%s)\n",
                       pare__count(pare__report_int(totals, "zeros")).text,
                       pare__percent(pare__report_real(totals, "sparsity")).text);
    if (nans || infs)
        pare__text_add(out, "  NOT SOUND: %s NaN and %s Inf among the values\n",
                       pare__count(nans).text, pare__count(infs).text);
}

void pare__report_text_inspect(const pare__json *root, pare__text *out)
{
    const char *architecture = pare__report_string(root, "architecture", NULL);
    const pare__json *tensors = pare__json_get(root, "tensors");
    pare__text_add(out, "%s (%s, %s)\n\n", pare__report_string(root, "path", "?"),
                   pare__report_string(root, "format", "?"),
                   architecture ? architecture : "no known architecture: roles by name and rank");
    add_tensors(tensors, out);
    add_stats(tensors, out);
    add_sides(pare__json_get(root, "side_files"), out);
    add_provenance(pare__json_get(root, "provenance"), out);
    add_totals(pare__json_get(root, "totals"), out);
}
