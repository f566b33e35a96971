/* report_text_layers.c - what a walk over the blocks will take, and what became of each layer: the
 * worst first. */
#include "report_impl.h"
#include "report_table.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_LAYERS 12

struct ranked {
    double error;
    size_t index;
};

static int by_error(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->error != y->error)
        return x->error > y->error ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static bool there(const pare__json *object, const char *key)
{
    return !pare__json_is_null(pare__json_get(object, key));
}

static void add_walk(const pare__json *walk, pare__text *out)
{
    int64_t length = pare__report_int(walk, "seq_len");
    char rows[64] = "";
    if (length > 0)
        snprintf(rows, sizeof rows, " of %s tokens", pare__count(length).text);
    pare__text_add(out,
                   "\nby data: %s blocks, %s sites, %s layers; %s samples%s, %s at once, %s, %s\n"
                   "  %.3g GFLOP, %s on the disk for hidden states and results meanwhile\n",
                   pare__count(pare__report_int(walk, "blocks")).text,
                   pare__count(pare__report_int(walk, "sites")).text,
                   pare__count(pare__report_int(walk, "layers")).text,
                   pare__count(pare__report_int(walk, "samples")).text, rows,
                   pare__count(pare__report_int(walk, "batch")).text,
                   pare__report_string(walk, "compute", "f32"),
                   pare__report_string(walk, "mode", "?"), pare__report_real(walk, "flops") / 1e9,
                   pare__size(pare__report_int(walk, "disk_bytes")).text);
}

/* Before it runs, how many; then what went between them too. */
static void add_ranks(const pare__json *ranks, pare__text *out)
{
    char all[32], waited[32];
    if (!ranks)
        return;
    pare__text_add(out, "  shared by %s processes over %s",
                   pare__count(pare__report_int(ranks, "count")).text,
                   pare__report_string(ranks, "library", "?"));
    if (there(ranks, "bytes"))
        pare__text_add(
            out, ": %s between them, %s, of which %s waited for",
            pare__size(pare__report_int(ranks, "bytes")).text,
            pare__time_text(pare__report_real(ranks, "seconds"), all, sizeof all),
            pare__time_text(pare__report_real(ranks, "exposed_seconds"), waited, sizeof waited));
    pare__text_add(out, "\n");
}

static void add_real(pare__table *table, const pare__json *layer, const char *key)
{
    if (there(layer, key))
        pare__table_cell(table, "%.4g", pare__report_real(layer, key));
    else
        pare__table_cell(table, "%s", "");
}

static void add_row(pare__table *table, const pare__json *layer)
{
    double damping = pare__report_real(layer, "damping");
    int64_t dead = pare__report_int(layer, "dead");
    pare__table_cell(table, "%s", pare__report_string(layer, "name", "?"));
    pare__table_cell(table, "%s", pare__report_string(layer, "method", "?"));
    add_real(table, layer, "error_before");
    add_real(table, layer, "error_after");
    pare__table_cell(table, "%s",
                     there(layer, "sparsity") && pare__report_real(layer, "sparsity") >= 0.005
                         ? pare__percent(pare__report_real(layer, "sparsity")).text
                         : "");
    if (damping > 0)
        pare__table_cell(table, "%.3g", damping);
    else
        pare__table_cell(table, "%s", "");
    pare__table_cell(table, "%s", dead ? pare__count(dead).text : "");
    add_real(table, layer, "act_scale");
    const char *note = pare__report_string(layer, "note", "");
    pare__table_cell(table, "%s", pare__report_string(layer, "fallback", note));
}

/* The figures of all together: in how many the error is known, its sum before and after. */
static void add_layer_summary(const pare__json *layers, pare__text *out)
{
    size_t n = pare__json_size(layers), known = 0, fallbacks = 0;
    double before = 0, after = 0;
    for (size_t i = 0; i < n; i++) {
        const pare__json *layer = pare__json_at(layers, i);
        fallbacks += there(layer, "fallback");
        if (!there(layer, "error_before") || !there(layer, "error_after"))
            continue;
        known++;
        before += pare__report_real(layer, "error_before");
        after += pare__report_real(layer, "error_after");
    }
    if (known)
        pare__text_add(out,
                       "  mean error of a layer's output %.4g, of the plain method %.4g (squared, "
                       "relative; %zu layers)\n",
                       after / (double)known, before / (double)known, known);
    if (fallbacks)
        pare__text_add(out, "  %zu layer%s fell back to something simpler\n", fallbacks,
                       fallbacks == 1 ? "" : "s");
}

static void add_layers(const pare__json *layers, pare__text *out)
{
    static const char *const heading[] = {"layer",   "method", "plain",      "error", "zeros",
                                          "damping", "dead",   "act. scale", "remark"};
    size_t n = pare__json_size(layers), known = 0;
    struct ranked *order = NULL;
    pare__table table = {.align = "LlrrrrrrL"};
    if (n == 0)
        return;
    if (pare__calloc(n, sizeof *order, &order) != PARE_OK) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        known += there(pare__json_at(layers, i), "error_after");
    for (size_t i = 0; i < n; i++) /* what fell back stands before all others */
        order[i] = (struct ranked){pare__report_real(pare__json_at(layers, i), "error_after") +
                                       (there(pare__json_at(layers, i), "fallback") ? 1e300 : 0),
                                   i};
    qsort(order, n, sizeof *order, by_error);
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < n && i < SHOWN_LAYERS; i++)
        add_row(&table, pare__json_at(layers, order[i].index));
    free(order);
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
    if (n > SHOWN_LAYERS)
        pare__text_add(out, "  the %s %d of %zu: --json lists every layer\n",
                       known ? "worst" : "first", SHOWN_LAYERS, n);
    add_layer_summary(layers, out);
}

void pare__report_text_layers(const pare__json *root, pare__text *out)
{
    if (there(root, "walk")) {
        add_walk(pare__json_get(root, "walk"), out);
        add_ranks(pare__json_get(root, "ranks"), out);
    }
    pare__report_text_survey(root, out);
    add_layers(pare__json_get(root, "layers"), out);
}
