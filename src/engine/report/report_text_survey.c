/* report_text_survey.c - what was measured to decide a recipe, and what was decided: a line for
 * each layer, the harm of every option, the one that was taken. */
#include "report_impl.h"
#include "report_table.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN_OPTIONS 9 /* columns of harm: an 'r' each in the table's align */

static void add_heading(pare__table *table, const pare__json *options, size_t shown, bool quant)
{
    pare__table_cell(table, "layer");
    pare__table_cell(table, quant ? "scheme" : "sparsity");
    pare__table_cell(table, quant ? "bits" : "");
    for (size_t i = 0; i < SHOWN_OPTIONS; i++) {
        const pare__json *option = pare__json_at(options, i);
        double real = 0;
        if (i >= shown)
            pare__table_cell(table, "%s", "");
        else if (pare__json_string(option))
            pare__table_cell(table, "%s", pare__json_string(option));
        else if (pare__json_real(option, &real))
            pare__table_cell(table, "%.4g", real);
        else
            pare__table_cell(table, "outliers");
    }
}

static void add_row(pare__table *table, const pare__json *layer, size_t shown, bool quant)
{
    const pare__json *harm = pare__json_get(layer, "harm");
    pare__table_cell(table, "%s", pare__report_string(layer, "name", "?"));
    if (quant) {
        pare__table_cell(table, "%s", pare__report_string(layer, "scheme", "?"));
        pare__table_cell(table, "%.3f", pare__report_real(layer, "bits_per_weight"));
    } else {
        pare__table_cell(table, "%.4f", pare__report_real(layer, "sparsity"));
        pare__table_cell(table, "%s", "");
    }
    for (size_t i = 0; i < SHOWN_OPTIONS; i++) {
        double real = 0;
        if (i < shown && pare__json_real(pare__json_at(harm, i), &real))
            pare__table_cell(table, "%.3g", real);
        else
            pare__table_cell(table, "%s", "");
    }
}

/* The mean of what was chosen, each layer by its weights. */
static void add_mean(const pare__json *layers, bool quant, pare__text *out)
{
    double sum = 0, weights = 0;
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        const pare__json *layer = pare__json_at(layers, i);
        double count = (double)pare__report_int(layer, "weights");
        sum += count * pare__report_real(layer, quant ? "bits_per_weight" : "sparsity");
        weights += count;
    }
    if (weights > 0 && quant)
        pare__text_add(out, "  %.4f bits a weight over these layers, scales included\n",
                       sum / weights);
    else if (weights > 0)
        pare__text_add(out, "  %.4f of the weights of these layers go\n", sum / weights);
}

static void add_question(const pare__json *question, pare__text *out)
{
    const pare__json *options = pare__json_get(question, "options");
    const pare__json *layers = pare__json_get(question, "layers");
    const char *by = pare__report_string(question, "by", "?");
    bool quant = strcmp(pare__report_string(question, "of", ""), "quantize") == 0;
    size_t shown = pare__json_size(options) ? pare__json_size(options) : strcmp(by, "owl") == 0;
    pare__table table = {.align = "Lrrrrrrrrrrr"};
    shown = shown < SHOWN_OPTIONS ? shown : SHOWN_OPTIONS;
    pare__text_add(out, "\n%s, decided by measuring: %s\n", quant ? "bits" : "sparsity",
                   strcmp(by, "kld") == 0 || strcmp(by, "loss") == 0
                       ? "KL divergence of the model's output, a layer changed "
                         "at a time"
                   : strcmp(by, "owl") == 0    ? "share of outliers among |w|·‖x‖"
                   : strcmp(by, "global") == 0 ? "one threshold over |w|·‖x‖ of all layers"
                                               : "error of the layer's output (squared, relative)");
    add_heading(&table, options, shown, quant);
    for (size_t i = 0; i < pare__json_size(layers); i++)
        add_row(&table, pare__json_at(layers, i), shown, quant);
    pare__table_add(&table, out);
    add_mean(layers, quant, out);
}

/* What comes first, and what it takes. */
static void add_before(const pare__json *before, bool ran, pare__text *out)
{
    char seconds[32];
    int64_t layers = pare__report_int(before, "layers"),
            runs = pare__report_int(before, "evaluations");
    double time = 0;
    pare__text what = {0};
    char *text = NULL;
    if (!layers)
        pare__text_add(&what, "all is measured, by a run that was cut");
    else
        pare__text_add(&what, "%s layer%s measured", pare__count(layers).text,
                       layers == 1 ? "" : "s");
    if (runs)
        pare__text_add(&what, ", %s runs of the whole model over %s samples",
                       pare__count(runs).text,
                       pare__count(pare__report_int(before, "samples")).text);
    if (layers)
        pare__text_add(&what, ", %.3g GFLOP", pare__report_real(before, "flops") / 1e9);
    if (layers && pare__json_real(pare__json_get(before, "seconds"), &time))
        pare__text_add(&what, ", about %s", pare__time_text(time, seconds, sizeof seconds));
    if (layers)
        pare__text_add(&what, ", %s of memory",
                       pare__size(pare__report_int(before, "peak_memory")).text);
    if (!ran)
        pare__text_add(&what, "; until then the tensors here have what spends the budget");
    pare__text_add(out, "\n");
    if (pare__text_take(&what, &text) != PARE_OK)
        out->failed = true;
    else
        pare__text_wrap(out, 2, ran ? "surveyed before it:" : "a survey comes first:", text);
    free(text);
}

void pare__report_text_survey(const pare__json *root, pare__text *out)
{
    const pare__json *survey = pare__json_get(root, "survey"),
                     *before = pare__json_get(root, "surveying");
    if (!pare__json_is_null(before))
        add_before(before, pare__json_size(survey) > 0, out);
    for (size_t i = 0; i < pare__json_size(survey); i++)
        add_question(pare__json_at(survey, i), out);
}
