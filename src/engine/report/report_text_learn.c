/* report_text_learn.c - a measurement or a training for people. */
#include "report_impl.h"
#include "report_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *key, *label, *format;
    double factor;
} metrics[] = {
    {"ppl", "perplexity", "%.5f", 1},    {"loss", "loss", "%.6f", 1},
    {"top1", "top-1", "%.2f %%", 100},   {"top5", "top-5", "%.2f %%", 100},
    {"kld", "KL divergence", "%.6g", 1}, {"agreement", "same top", "%.2f %%", 100},
    {"cosine", "cosine", "%.8f", 1},     {"cosine_min", "least cosine", "%.8f", 1},
};

void pare__report_text_metrics(const pare__json *o, pare__text *out)
{
    int64_t correct, counted = pare__report_int(o, "counted");
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        double value;
        char number[48];
        if (!pare__json_real(pare__json_get(o, metrics[i].key), &value))
            continue;
        snprintf(number, sizeof number, metrics[i].format, value * metrics[i].factor);
        pare__text_add(out, "  %-14s %s", metrics[i].label, number);
        if (strcmp(metrics[i].key, "top1") == 0 &&
            pare__json_int(pare__json_get(o, "correct"), &correct))
            pare__text_add(out, "  (%s of %s)", pare__count(correct).text,
                           pare__count(counted).text);
        pare__text_add(out, "\n");
    }
}

static void add_subject(const pare__json *root, const char *key, pare__text *out)
{
    const pare__json *m = pare__json_get(root, key);
    if (!m)
        return;
    pare__text_wrapf(out, 2, key, "%s (%s, %s): %s parameters", pare__report_string(m, "path", "?"),
                     pare__report_string(m, "format", "?"),
                     pare__report_string(m, "architecture", "?"),
                     pare__count(pare__report_int(m, "parameters")).text);
}

static void add_data(const pare__json *root, const char *key, const char *label, pare__text *out)
{
    const pare__json *d = pare__json_get(root, key);
    int64_t length = pare__report_int(d, "seq_len");
    if (!d)
        return;
    pare__text_wrapf(out, 2, label, "%s: %s samples%s%s", pare__report_string(d, "path", "?"),
                     pare__count(pare__report_int(d, "samples")).text, length ? " of " : "",
                     length ? pare__count(length).text : "");
}

static void add_costs(const pare__json *root, pare__text *out)
{
    const pare__json *p = pare__json_get(root, "predicted"), *a = pare__json_get(root, "actual");
    char seconds[32];
    double guess;
    bool guessed = pare__json_real(pare__json_get(p, "seconds"), &guess);
    pare__text_add(out, "\n  %-10s predicted %s", "memory",
                   pare__size(pare__report_int(p, "peak_memory")).text);
    if (a)
        pare__text_add(out, ", actual %s", pare__size(pare__report_int(a, "peak_memory")).text);
    pare__text_add(out, " (parameters %s, gradients %s, activations %s)\n",
                   pare__size(pare__report_int(p, "parameters_bytes")).text,
                   pare__size(pare__report_int(p, "gradients_bytes")).text,
                   pare__size(pare__report_int(p, "activations_bytes")).text);
    if (pare__json_get(p, "device_memory")) {
        pare__text_add(out, "  %-10s predicted %s", "device",
                       pare__size(pare__report_int(p, "device_memory")).text);
        if (a)
            pare__text_add(out, ", actual %s",
                           pare__size(pare__report_int(a, "device_memory")).text);
        pare__text_add(out, " of %s, %s\n", pare__size(pare__report_int(p, "device_budget")).text,
                       pare__report_string(p, "device", "?"));
    }
    pare__text_add(out, "  %-10s", "time");
    if (guessed)
        pare__text_add(out, " predicted about %s", pare__time_text(guess, seconds, sizeof seconds));
    if (a)
        pare__text_add(out, "%s actual %s, %.0f samples/s", guessed ? "," : "",
                       pare__time_text(pare__report_real(a, "seconds"), seconds, sizeof seconds),
                       pare__report_real(a, "samples_per_second"));
    pare__text_add(out, "; %.3g GFLOP, %s threads, %s, %s\n", pare__report_real(p, "flops") / 1e9,
                   pare__count(pare__report_int(p, "threads")).text,
                   pare__report_string(p, "isa", "?"), pare__report_string(p, "compute", "?"));
}

static bool planned(const pare__json *root)
{
    bool value = false;
    pare__json_bool(pare__json_get(root, "planned"), &value);
    return value;
}

void pare__report_text_eval(const pare__json *root, pare__text *out)
{
    pare__text_add(out, planned(root) ? "plan of an evaluation: nothing is done yet\n" : "eval\n");
    add_subject(root, "model", out);
    add_subject(root, "against", out);
    add_data(root, "data", "data", out);
    if (!planned(root)) {
        pare__text_add(out, "\n");
        pare__report_text_metrics(root, out);
    }
    if (pare__json_get(root, "outputs"))
        pare__text_wrap(out, 2, "outputs", pare__report_string(root, "outputs", "?"));
    add_costs(root, out);
}

/* Some ten points of the loss, first to last. */
static void add_losses(const pare__json *root, pare__text *out)
{
    const pare__json *list = pare__json_get(root, "losses");
    size_t count = pare__json_size(list);
    pare__table table = {.align = "rr"};
    pare__table_cell(&table, "step");
    pare__table_cell(&table, "loss");
    for (size_t i = 0; i < 10 && i < count; i++) {
        const pare__json *row = pare__json_at(list, count <= 10 ? i : i * (count - 1) / 9);
        pare__table_cell(&table, "%s", pare__count(pare__report_int(row, "step")).text);
        pare__table_cell(&table, "%.4f", pare__report_real(row, "loss"));
    }
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
}

static void add_teacher(const pare__json *root, pare__text *out)
{
    const pare__json *teacher = pare__json_get(root, "teacher");
    const pare__json *cache = pare__json_get(root, "cache");
    if (!teacher)
        return;
    pare__text_wrap(out, 2, "teacher", pare__report_string(root, "teacher", "?"));
    if (cache)
        pare__text_wrapf(out, 2, "cache",
                         "%s: %s of outputs, %.1f bytes each; the %s classes kept hold %s of the "
                         "probability, the cut loses at most %.3g nats",
                         pare__report_string(cache, "path", "?"),
                         pare__size(pare__report_int(cache, "bytes")).text,
                         pare__report_real(cache, "bytes_per_unit"),
                         pare__count(pare__report_int(cache, "k")).text,
                         pare__percent(pare__report_real(cache, "mass")).text,
                         pare__report_real(cache, "kl_kept"));
}

/* The losses one by one, where there are several. */
static void add_terms(const pare__json *root, pare__text *out)
{
    const pare__json *list = pare__json_get(root, "terms");
    pare__text line = {0};
    char *text = NULL;
    if (pare__json_size(list) < 2)
        return;
    for (size_t i = 0; i < pare__json_size(list); i++) {
        const pare__json *term = pare__json_at(list, i);
        pare__text_add(&line, "%s%s %.4g", i ? ", " : "", pare__report_string(term, "loss", "?"),
                       pare__report_real(term, "mean"));
    }
    if (pare__text_take(&line, &text) == PARE_OK)
        pare__text_wrap(out, 2, "losses", text);
    free(text);
}

static void add_ranks(const pare__json *root, pare__text *out)
{
    const pare__json *ranks = pare__json_get(root, "ranks");
    char all[32], exposed[32];
    if (!ranks)
        return;
    pare__text_wrapf(
        out, 2, "ranks", "%s over %s: %s of gradients, %s, of which %s waited for",
        pare__count(pare__report_int(ranks, "count")).text,
        pare__report_string(ranks, "library", "?"),
        pare__size(pare__report_int(ranks, "bytes")).text,
        pare__time_text(pare__report_real(ranks, "seconds"), all, sizeof all),
        pare__time_text(pare__report_real(ranks, "exposed_seconds"), exposed, sizeof exposed));
}

static void add_notes(const pare__json *root, pare__text *out)
{
    const pare__json *list = pare__json_get(root, "notes");
    for (size_t i = 0; i < pare__json_size(list); i++) {
        const pare__json *o = pare__json_at(list, i);
        pare__text_wrapf(out, 2, i ? "" : "notes", "%s: %s", pare__report_string(o, "tensor", "?"),
                         pare__report_string(o, "note", "?"));
    }
}

/* Of a plan: several GPUs. */
static void add_scaling(const pare__json *root, pare__text *out)
{
    const pare__json *o = pare__json_get(root, "scaling"), *list = pare__json_get(o, "ranks");
    pare__table table = {.align = "rrrr"};
    char seconds[32];
    if (!o)
        return;
    pare__table_cell(&table, "GPUs");
    pare__table_cell(&table, "gradients");
    pare__table_cell(&table, "not hidden");
    pare__table_cell(&table, "efficiency");
    for (size_t i = 0; i < pare__json_size(list); i++) {
        const pare__json *row = pare__json_at(list, i);
        pare__table_cell(&table, "%s", pare__count(pare__report_int(row, "ranks")).text);
        pare__table_cell(&table, "%s", pare__size((int64_t)pare__report_real(row, "bytes")).text);
        pare__table_cell(
            &table, "%s",
            pare__time_text(pare__report_real(row, "exposed_seconds"), seconds, sizeof seconds));
        pare__table_cell(&table, "%s", pare__percent(pare__report_real(row, "efficiency")).text);
    }
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
    pare__text_wrap(out, 2, "", pare__report_string(o, "assumes", ""));
}

void pare__report_text_learned(const pare__json *root, pare__text *out)
{
    const pare__json *eval = pare__json_get(root, "eval");
    add_notes(root, out);
    add_ranks(root, out);
    add_terms(root, out);
    if (pare__json_get(root, "losses"))
        add_losses(root, out);
    if (eval) {
        pare__text_add(out, "\n");
        pare__report_text_metrics(eval, out);
    }
}

void pare__report_text_train(const pare__json *root, pare__text *out)
{
    const pare__json *masks = pare__json_get(root, "masks");
    bool resumed = false;
    pare__text_add(out, planned(root) ? "plan of a training: nothing is done yet\n" : "train\n");
    add_subject(root, "model", out);
    if (pare__json_get(root, "student"))
        pare__text_wrap(out, 2, "student", pare__report_string(root, "student", "?"));
    add_teacher(root, out);
    add_data(root, "data", "data", out);
    add_data(root, "eval_data", "eval", out);
    pare__text_wrap(out, 2, "output",
                    pare__report_string(pare__json_get(root, "output"), "path", "?"));
    pare__text_wrapf(out, 2, "steps", "%s, batch %s",
                     pare__count(pare__report_int(root, "steps")).text,
                     pare__count(pare__report_int(root, "batch")).text);
    if (masks)
        pare__text_wrapf(out, 2, "masks", "%s tensors keep their zeros: %s of %s weights, %s",
                         pare__count(pare__report_int(masks, "tensors")).text,
                         pare__count(pare__report_int(masks, "zeros")).text,
                         pare__count(pare__report_int(masks, "parameters")).text,
                         pare__percent(pare__report_real(masks, "sparsity")).text);
    pare__json_bool(pare__json_get(pare__json_get(root, "actual"), "resumed"), &resumed);
    if (resumed)
        pare__text_wrapf(
            out, 2, "resumed", "at step %s",
            pare__count(pare__report_int(pare__json_get(root, "actual"), "steps_done_before"))
                .text);
    pare__report_text_learned(root, out);
    add_costs(root, out);
    add_scaling(root, out);
}
