/* html_sweep.c - the page of a sweep: what was kept against what it costs, layers, losses; the
 * points themselves are in html_points.c. */
#include "html.h"

#include "report_table.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_HEAT 120  /* columns of a heat map */
#define MOST_ROWS 400  /* and rows */
#define MOST_CURVES 24 /* in one picture */

/* ---- names ----------------------------------------------------------------------------------- */

bool pare__is_dense(const pare__json *row)
{
    return strcmp(pare__report_string(row, "kind", ""), "dense") == 0;
}

bool pare__is_done(const pare__json *row)
{
    return strcmp(pare__report_string(row, "state", ""), "done") == 0;
}

static bool of_numbers(const pare__json *axis)
{
    bool numbers = false;
    pare__json_bool(pare__json_get(axis, "numbers"), &numbers);
    return numbers;
}

/* The values of a point with commas between, where there are others; words: those alone that are no
 * numbers. */
static char *name_of(const pare__scene *s, const pare__json *row, bool words)
{
    pare__text text = {0};
    char *name = NULL;
    const pare__json *values = pare__json_get(row, "values");
    for (size_t a = 0; !pare__is_dense(row) && a < pare__json_size(s->axes); a++) {
        const pare__json *axis = pare__json_at(s->axes, a);
        const char *key = pare__report_string(axis, "name", "");
        bool one = pare__json_size(pare__json_get(axis, "values")) == 1;
        if (!one && (!words || !of_numbers(axis)))
            pare__text_add(&text, "%s%s", text.length ? ", " : "",
                           pare__report_string(values, key, "?"));
    }
    if (!text.length)
        pare__text_add(&text, "%s", pare__is_dense(row) ? "dense" : words ? "points" : "the point");
    if (pare__text_take(&text, &name) != PARE_OK)
        s->page->out->failed = true;
    return name;
}

static bool name_all(pare__scene *s)
{
    if (pare__calloc(s->count + 1, sizeof *s->names, &s->names) != PARE_OK ||
        pare__calloc(s->count + 1, sizeof *s->series, &s->series) != PARE_OK ||
        pare__calloc(s->count + 1, sizeof *s->series_of, &s->series_of) != PARE_OK)
        return false;
    for (size_t i = 0; i < s->count; i++) {
        const pare__json *row = pare__json_at(s->points, i);
        s->names[i] = name_of(s, row, false);
        char *series = name_of(s, row, true);
        if (!s->names[i] || !series) {
            free(series);
            return false;
        }
        size_t k = 0;
        while (k < s->series_count && strcmp(s->series[k], series) != 0)
            k++;
        s->series_of[i] = pare__is_dense(row) ? -1 : (int)k;
        if (pare__is_dense(row) || k < s->series_count)
            free(series);
        else
            s->series[s->series_count++] = series;
    }
    return true;
}

/* ---- what was kept against what it costs ----------------------------------------------------- */

static const struct {
    const char *key, *title, *label;
    double factor;
    bool scaled; /* in thousands, millions … of what the label begins with */
    bool timed;  /* differences are seen beside 0, where noise is small */
} costs[] = {
    {"sparsity", "sparsity", "share of the weights that are 0", 1, false, false},
    {"bytes", "size", "B on disk", 1, true, false},
    {"flops_left", "work", "FLOP of a forward of one sample, products with a zero left out", 1,
     true, false},
    {"latency", "latency", "ms of a forward of one batch, median, by pare itself", 1e3, false,
     true},
};

/* Divides the dots' costs so that their numbers are short; what the label says then. */
static const char *scale_costs(pare__dot *dots, size_t count)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P"};
    double most = 0, unit = 1;
    size_t p = 0;
    for (size_t i = 0; i < count; i++)
        most = dots[i].x > most ? dots[i].x : most;
    for (; most / unit >= 1000 && p + 1 < sizeof prefixes / sizeof *prefixes; p++)
        unit *= 1000;
    for (size_t i = 0; i < count; i++)
        dots[i].x /= unit;
    return prefixes[p];
}

static bool cost_of(const pare__json *row, size_t c, double *value)
{
    const pare__json *o = pare__json_get(row, costs[c].key);
    if (pare__json_is_object(o))
        o = pare__json_get(o, "seconds");
    if (!pare__is_done(row) || !pare__json_real(o, value))
        return false;
    *value *= costs[c].factor;
    return true;
}

/* In percent of the dense model, or the metric itself where nobody measured that. */
static bool quality_of(const pare__scene *s, const pare__json *row, bool kept, double *value)
{
    if (!kept)
        return pare__json_real(pare__json_get(pare__json_get(row, "metrics"), s->metric), value);
    if (!pare__json_real(pare__json_get(row, "kept"), value))
        return false;
    *value *= 100;
    return true;
}

bool pare__on_front(const pare__json *row, const char *cost)
{
    const pare__json *front = pare__json_get(row, "front");
    for (size_t i = 0; i < pare__json_size(front); i++) {
        const char *name = pare__json_string(pare__json_at(front, i));
        if (name && strcmp(name, cost) == 0)
            return true;
    }
    return false;
}

bool pare__any_latency(const pare__scene *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (pare__json_is_object(pare__json_get(pare__json_at(s->points, i), "latency")))
            return true;
    return false;
}

static bool any_kept(const pare__scene *s)
{
    double value;
    for (size_t i = 0; i < s->count; i++)
        if (pare__json_real(pare__json_get(pare__json_at(s->points, i), "kept"), &value))
            return true;
    return false;
}

/* Lines join the points of a series only where there is one at each place. */
static bool is_curve(const pare__dot *dots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (dots[i].series == dots[j].series && fabs(dots[i].x - dots[j].x) < 1e-4)
                return false;
    return true;
}

static int by_x(const void *a, const void *b)
{
    const pare__dot *d = a, *e = b;
    return (d->x > e->x) - (d->x < e->x);
}

static void add_cost(pare__scene *s, size_t c, bool kept, pare__dot *dots)
{
    char title[96], label[64], cost[96];
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        const pare__json *row = pare__json_at(s->points, i);
        pare__dot *d = &dots[count];
        *d = (pare__dot){.series = s->series_of[i], .front = pare__on_front(row, costs[c].key)};
        count += cost_of(row, c, &d->x) && quality_of(s, row, kept, &d->y);
    }
    if (count < 2)
        return;
    qsort(dots, count, sizeof *dots, by_x);
    if (!(dots[0].x < dots[count - 1].x))
        return; /* all the same, as sparsity is where nothing was pruned */
    snprintf(cost, sizeof cost, "%s%s", costs[c].scaled ? scale_costs(dots, count) : "",
             costs[c].label);
    snprintf(title, sizeof title, "%s%s against %s", s->metric, kept ? " kept" : "",
             costs[c].title);
    snprintf(label, sizeof label, "%s%s", s->metric, kept ? " kept, percent of dense" : "");
    pare__plot_scatter(s->page, &(pare__scatter){.title = title,
                                                 .x_label = cost,
                                                 .y_label = label,
                                                 .dots = dots,
                                                 .count = count,
                                                 .series = (const char *const *)s->series,
                                                 .series_count = s->series_count,
                                                 .zero = kept,
                                                 .x_zero = costs[c].timed,
                                                 .lines = c == 0 && is_curve(dots, count)});
}

static void add_costs(pare__scene *s)
{
    pare__dot *dots = NULL;
    if (!*s->metric) {
        pare__text_add(s->page->out,
                       "<p class=\"note\">The recipe ends with no eval step: there is "
                       "no quality to show beside what points cost.</p>\n");
        return;
    }
    if (pare__calloc(s->count + 1, sizeof *dots, &dots) != PARE_OK) {
        s->page->out->failed = true;
        return;
    }
    bool kept = any_kept(s);
    pare__text_add(s->page->out, "<div class=\"plots\">\n");
    for (size_t c = 0; c < sizeof costs / sizeof *costs; c++)
        add_cost(s, c, kept, dots);
    pare__text_add(s->page->out, "</div>\n");
    free(dots);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* The layers of the first point that has them; others are looked up by name. */
static const pare__json *layers_of_all(const pare__scene *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const pare__json *layers = pare__json_get(pare__json_at(s->points, i), "layers");
        if (pare__json_size(layers))
            return layers;
    }
    return NULL;
}

static double layer_value(const pare__json *row, const char *name, size_t guess, const char *key)
{
    const pare__json *layers = pare__json_get(row, "layers"), *at = pare__json_at(layers, guess);
    double value;
    if (strcmp(pare__report_string(at, "name", ""), name) != 0)
        for (size_t i = 0; i < pare__json_size(layers); i++) {
            at = pare__json_at(layers, i);
            if (strcmp(pare__report_string(at, "name", ""), name) == 0)
                break;
            at = NULL;
        }
    return pare__json_real(pare__json_get(at, key), &value) ? value : (double)NAN;
}

/* "layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight" */
static char *short_name(const char *name)
{
    char *text = NULL;
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    size_t length = strlen(name);
    if (pare__strdup(name, &text) != PARE_OK)
        return NULL;
    if (length > 7 && strcmp(name + length - 7, ".weight") == 0)
        text[length - 7] = '\0';
    return text;
}

typedef struct heat {
    double *values;
    char **rows;
    const char **cols;
    size_t row_count, col_count;
} heat;

/* Columns: points where a layer has the value; rows: all layers. */
static bool fill_heat(const pare__scene *s, const pare__json *layers, const char *key, heat *h)
{
    size_t rows = pare__json_size(layers);
    if (pare__calloc(rows * s->count, sizeof *h->values, &h->values) != PARE_OK ||
        pare__calloc(rows, sizeof *h->rows, &h->rows) != PARE_OK ||
        pare__calloc(s->count, sizeof *h->cols, &h->cols) != PARE_OK)
        return false;
    for (size_t i = 0; i < s->count; i++) {
        bool any = false;
        for (size_t r = 0; r < rows; r++) {
            const char *name = pare__report_string(pare__json_at(layers, r), "name", "?");
            double value = layer_value(pare__json_at(s->points, i), name, r, key);
            h->values[r * s->count + h->col_count] = value;
            any = any || (isfinite(value) && !pare__is_dense(pare__json_at(s->points, i)));
        }
        if (any)
            h->cols[h->col_count++] = s->names[i];
    }
    for (size_t r = 0; r < rows; r++) /* closer together, as many as there are columns */
        memmove(h->values + r * h->col_count, h->values + r * s->count,
                h->col_count * sizeof *h->values);
    for (; h->row_count < rows; h->row_count++) {
        h->rows[h->row_count] =
            short_name(pare__report_string(pare__json_at(layers, h->row_count), "name", "?"));
        if (!h->rows[h->row_count])
            return false;
    }
    return true;
}

/* The colours go from 0 to `most`, or to the largest value. */
static void add_heat(pare__scene *s, const pare__json *layers, const char *key, const char *title,
                     double most)
{
    heat h = {0};
    if (!fill_heat(s, layers, key, &h))
        s->page->out->failed = true;
    else if (h.col_count > 0 && h.col_count <= MOST_HEAT)
        pare__plot_heat(s->page, &(pare__heat){.title = title,
                                               .most = most,
                                               .values = h.values,
                                               .rows = (const char *const *)h.rows,
                                               .cols = h.cols,
                                               .row_count = h.row_count,
                                               .col_count = h.col_count});
    for (size_t r = 0; r < h.row_count; r++)
        free(h.rows[r]);
    free(h.rows);
    free(h.cols);
    free(h.values);
}

static void add_layers(pare__scene *s)
{
    const pare__json *layers = layers_of_all(s);
    if (!layers || pare__json_size(layers) > MOST_ROWS)
        return;
    pare__text_add(s->page->out, "<h2>Layers</h2>\n<div class=\"plots\">\n");
    add_heat(s, layers, "error", "Error of each layer's output: squared error / squared output", 0);
    add_heat(s, layers, "sparsity", "Sparsity of each layer: share of its weights that are 0", 1);
    pare__text_add(s->page->out, "</div>\n");
}

/* ---- losses ---------------------------------------------------------------------------------- */

void pare__html_losses(pare__page *page, const pare__json *const *lists, const char *const *names,
                       size_t count)
{
    pare__dot *dots = NULL;
    size_t total = 0, at = 0;
    for (size_t i = 0; i < count; i++)
        total += pare__json_size(lists[i]);
    if (pare__calloc(total + 1, sizeof *dots, &dots) != PARE_OK) {
        page->out->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < pare__json_size(lists[i]); k++) {
            const pare__json *o = pare__json_at(lists[i], k);
            dots[at] = (pare__dot){.series = (int)i};
            at += pare__json_real(pare__json_get(o, "step"), &dots[at].x) &&
                  pare__json_real(pare__json_get(o, "loss"), &dots[at].y);
        }
    if (at > 1)
        pare__plot_scatter(page, &(pare__scatter){.title = "Loss of training",
                                                  .x_label = "step",
                                                  .y_label = "loss",
                                                  .dots = dots,
                                                  .count = at,
                                                  .series = names,
                                                  .series_count = count,
                                                  .curves = true});
    free(dots);
}

/* Training `step` of every point in one picture. */
static bool add_training(pare__scene *s, size_t step)
{
    const pare__json *lists[MOST_CURVES];
    const char *names[MOST_CURVES];
    size_t count = 0;
    for (size_t i = 0; i < s->count && count < MOST_CURVES; i++) {
        const pare__json *training = pare__json_get(pare__json_at(s->points, i), "training");
        const pare__json *losses = pare__json_get(pare__json_at(training, step), "losses");
        if (!pare__json_size(losses))
            continue;
        lists[count] = losses;
        names[count++] = s->names[i];
    }
    if (!count)
        return false;
    if (!step)
        pare__text_add(s->page->out, "<h2>Training</h2>\n<div class=\"plots\">\n");
    pare__html_losses(s->page, lists, names, count);
    return true;
}

/* ---- the page -------------------------------------------------------------------------------- */

static void add_top(const pare__scene *s)
{
    const pare__json *sum = pare__json_get(s->root, "summary");
    pare__text *out = s->page->out;
    char seconds[32];
    pare__text_add(out, "<h1>Sweep ");
    pare__html_text(out, pare__report_string(s->root, "sweep", "?"));
    pare__text_add(out, "</h1>\n<p>");
    for (size_t a = 0; a < pare__json_size(s->axes); a++) {
        const pare__json *axis = pare__json_at(s->axes, a);
        pare__text_add(out, a ? " × %zu " : "%zu ",
                       pare__json_size(pare__json_get(axis, "values")));
        pare__html_text(out, pare__report_string(axis, "name", "?"));
    }
    pare__text_add(
        out,
        ": %lld points, of which %lld are done, %lld not possible, %lld failed, %lld "
        "to do; %s.</p>\n",
        (long long)pare__report_int(sum, "points"), (long long)pare__report_int(sum, "done"),
        (long long)pare__report_int(sum, "not possible"),
        (long long)pare__report_int(sum, "failed"), (long long)pare__report_int(sum, "to do"),
        pare__time_text(pare__report_real(sum, "seconds"), seconds, sizeof seconds));
    if (pare__any_latency(s))
        pare__text_add(out, "<p class=\"note\">Latency is that of pare's own forward in F32, which "
                            "decodes weights: scattered zeros and fewer bits save no time there, a "
                            "smaller model does. The output layer of language models is not in "
                            "it.</p>\n");
}

void pare__html_sweep(pare__page *page, const pare__json *root)
{
    pare__scene s = {.page = page,
                     .root = root,
                     .axes = pare__json_get(root, "axes"),
                     .points = pare__json_get(root, "points"),
                     .metric = pare__report_string(root, "metric", "")};
    s.count = pare__json_size(s.points);
    if (name_all(&s)) {
        add_top(&s);
        add_costs(&s);
        pare__html_table(&s);
        add_layers(&s);
        size_t trainings = 0;
        while (add_training(&s, trainings))
            trainings++;
        if (trainings)
            pare__text_add(page->out, "</div>\n");
        pare__html_sections(&s);
    } else {
        page->out->failed = true;
    }
    for (size_t i = 0; s.names && i < s.count; i++)
        free(s.names[i]);
    for (size_t i = 0; s.series && i < s.series_count; i++)
        free(s.series[i]);
    free(s.names);
    free(s.series);
    free(s.series_of);
}
