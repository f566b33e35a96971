/* html_points.c - the points of a sweep on its page: a table of all, and a section for each. */
#include "html.h"

#include "report_table.h"

#include <stdio.h>
#include <string.h>

#define MOST_SECTIONS 300 /* with the layers of each */

/* ---- tables ---------------------------------------------------------------------------------- */

static const char *const metrics[] = {"top1", "ppl",       "loss",   "top5",
                                      "kld",  "agreement", "cosine", "cosine_min"};
#define METRICS (sizeof metrics / sizeof *metrics)

static bool has_metric(const pare__scene *s, const char *metric)
{
    double value;
    for (size_t i = 0; i < s->count; i++)
        if (pare__json_real(
                pare__json_get(pare__json_get(pare__json_at(s->points, i), "metrics"), metric),
                &value))
            return true;
    return false;
}

/* A cell of a number, empty where there is none. */
static void add_number(pare__text *out, const pare__json *value, double factor, const char *format,
                       bool best)
{
    double number;
    char text[64] = "";
    if (pare__json_real(value, &number))
        snprintf(text, sizeof text, format, number * factor);
    pare__text_add(out, best ? "<td class=\"best\">%s</td>" : "<td>%s</td>", text);
}

/* An element; tag: its name, of which two letters end it, and what else stands in it. */
static void add_text(pare__text *out, const char *tag, const char *text)
{
    pare__text_add(out, "<%s>", tag);
    pare__html_text(out, text);
    pare__text_add(out, "</%.2s>", tag);
}

static void add_heading(const pare__scene *s)
{
    static const char *const names[] = {
        "kept",          "sparsity", "bits a weight", "MB",      "GFLOP",
        "without zeros", "ms",       "memory, MB",    "seconds", NULL};
    pare__text *out = s->page->out;
    pare__text_add(out, "<div class=\"wide\"><table>\n<thead><tr><th class=\"l\">point</th>");
    for (size_t a = 0; a < pare__json_size(s->axes); a++)
        add_text(out, "th class=\"l\"",
                 pare__report_string(pare__json_at(s->axes, a), "name", "?"));
    for (size_t m = 0; m < METRICS; m++)
        if (has_metric(s, metrics[m]))
            add_text(out, "th", metrics[m]);
    for (size_t i = 0; names[i]; i++)
        if (strcmp(names[i], "ms") != 0 || pare__any_latency(s))
            add_text(out, "th", names[i]);
    pare__text_add(out, "<th class=\"l\">state</th></tr></thead>\n<tbody>\n");
}

static void add_row(const pare__scene *s, size_t i)
{
    const pare__json *row = pare__json_at(s->points, i), *values = pare__json_get(row, "values");
    pare__text *out = s->page->out;
    size_t axes = pare__json_size(s->axes);
    pare__text_add(out, "<tr%s><td class=\"l\"><a href=\"#p%03zu\">%03zu</a></td>",
                   pare__is_dense(row)   ? " class=\"dense\""
                   : !pare__is_done(row) ? " class=\"not\""
                                         : "",
                   i, i);
    if (pare__is_dense(row) && axes)
        pare__text_add(out, "<td class=\"l\" colspan=\"%zu\">dense</td>", axes);
    for (size_t a = 0; !pare__is_dense(row) && a < axes; a++)
        add_text(out, "td class=\"l\"",
                 pare__report_string(
                     values, pare__report_string(pare__json_at(s->axes, a), "name", "?"), ""));
    for (size_t m = 0; m < METRICS; m++)
        if (has_metric(s, metrics[m]))
            add_number(out, pare__json_get(pare__json_get(row, "metrics"), metrics[m]), 1, "%.5g",
                       false);
    add_number(out, pare__json_get(row, "kept"), 100, "%.2f&thinsp;%%", false);
    add_number(out, pare__json_get(row, "sparsity"), 100, "%.2f&thinsp;%%",
               pare__on_front(row, "sparsity"));
    add_number(out, pare__json_get(row, "bits_per_weight"), 1, "%.3g", false);
    add_number(out, pare__json_get(row, "bytes"), 1e-6, "%.3f", pare__on_front(row, "bytes"));
    add_number(out, pare__json_get(row, "flops"), 1e-9, "%.4g", false);
    add_number(out, pare__json_get(row, "flops_left"), 1e-9, "%.4g",
               pare__on_front(row, "flops_left"));
    if (pare__any_latency(s))
        add_number(out, pare__json_get(pare__json_get(row, "latency"), "seconds"), 1e3, "%.4g",
                   pare__on_front(row, "latency"));
    add_number(out, pare__json_get(row, "peak_memory"), 1e-6, "%.0f", false);
    add_number(out, pare__json_get(row, "seconds"), 1, "%.3g", false);
    add_text(out, "td class=\"l\"", pare__report_string(row, "state", "?"));
    pare__text_add(out, "</tr>\n");
}

void pare__html_table(const pare__scene *s)
{
    pare__text_add(s->page->out, "<h2>Points</h2>\n");
    add_heading(s);
    for (size_t i = 0; i < s->count; i++)
        add_row(s, i);
    pare__text_add(
        s->page->out,
        "</tbody></table></div>\n<p class=\"note\">Marked: no other point is better and "
        "costs no more there (within half a percent, of latency five). Sparsity is that of "
        "linear and convolution weights. kept: the metric as a share of the dense model's (dense "
        "by point where lower is better).</p>\n");
}

/* ---- sections -------------------------------------------------------------------------------- */

static void add_point_layers(pare__text *out, const pare__json *row)
{
    const pare__json *layers = pare__json_get(row, "layers");
    if (!pare__json_size(layers))
        return;
    pare__text_add(out,
                   "<details><summary>%zu layers</summary><div class=\"wide\"><table><thead>"
                   "<tr><th class=\"l\">layer</th><th>weights</th><th>sparsity</th>"
                   "<th>error</th></tr></thead>\n<tbody>\n",
                   pare__json_size(layers));
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        const pare__json *layer = pare__json_at(layers, i);
        pare__text_add(out, "<tr>");
        add_text(out, "td class=\"l\"", pare__report_string(layer, "name", "?"));
        pare__text_add(out, "<td>%s</td>", pare__count(pare__report_int(layer, "weights")).text);
        add_number(out, pare__json_get(layer, "sparsity"), 100, "%.2f&thinsp;%%", false);
        add_number(out, pare__json_get(layer, "error"), 1, "%.3e", false);
        pare__text_add(out, "</tr>\n");
    }
    pare__text_add(out, "</tbody></table></div></details>\n");
}

static void add_latency(pare__text *out, const pare__json *latency)
{
    int64_t length = pare__report_int(latency, "length");
    if (!latency)
        return;
    pare__text_add(out, "<p>%.4g ms a forward: a batch of %lld",
                   1e3 * pare__report_real(latency, "seconds"),
                   (long long)pare__report_int(latency, "batch"));
    if (length)
        pare__text_add(out, " rows of %lld tokens", (long long)length);
    pare__text_add(out, ", median of %lld, %lld threads, ",
                   (long long)pare__report_int(latency, "forwards"),
                   (long long)pare__report_int(latency, "threads"));
    pare__html_text(out, pare__report_string(latency, "device", "?"));
    pare__text_add(out, ".</p>\n");
}

static void add_section(const pare__scene *s, size_t i)
{
    const pare__json *row = pare__json_at(s->points, i);
    pare__text *out = s->page->out;
    pare__text_add(out, "<section id=\"p%03zu\"><h3>%03zu ", i, i);
    pare__html_text(out, s->names[i]);
    pare__text_add(out, "</h3>\n");
    const char *note = pare__report_string(row, "note", NULL),
               *model =
                   pare__report_string(row, "model", pare__report_string(row, "dense_model", NULL));
    if (note) {
        pare__text_add(out, "<p>");
        pare__html_text(out, pare__report_string(row, "state", "?"));
        pare__text_add(out, ": ");
        pare__html_text(out, note);
        pare__text_add(out, "</p>\n");
    }
    if (model)
        add_text(out, "p", model);
    add_latency(out, pare__json_get(row, "latency"));
    if (s->count <= MOST_SECTIONS)
        add_point_layers(out, row);
    pare__text_add(out, "</section>\n");
}

void pare__html_sections(const pare__scene *s)
{
    pare__text_add(s->page->out, "<h2>Each point</h2>\n");
    for (size_t i = 0; i < s->count; i++)
        add_section(s, i);
}
