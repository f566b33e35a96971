/* report_text_run.c - a plan or a finished run for people: tensors grouped by what is done to them,
 * fallbacks by reason, predicted beside actual. */
#include "report_impl.h"
#include "report_table.h"

#include "base/alloc.h"
#include "base/check.h"

#include <string.h>

/* ---- tensors, grouped ------------------------------------------------------------------------ */

/* Tensors with the same key stand in one line. */
struct member {
    char *key;
    size_t index; /* in tensors */
};

struct group {
    size_t first, count; /* first: index in tensors */
    int64_t bytes_in, bytes_out, parameters, zeros;
};

static bool null_at(const pare__json *object, const char *key)
{
    return pare__json_is_null(pare__json_get(object, key));
}

static char *key_of(const pare__json *tensor)
{
    pare__text key = {0};
    char *text = NULL;
    pare__text_add(
        &key, "%s\t%s\t%s\t%s\t%s\t%s", pare__report_shape(tensor, "shape").text,
        pare__report_string(tensor, "dtype", ""), pare__report_string(tensor, "role", ""),
        pare__report_string(tensor, "prune", ""), pare__report_string(tensor, "quant", ""),
        pare__report_string(tensor, "note", ""));
    return pare__text_take(&key, &text) == PARE_OK ? text : NULL;
}

static int by_key(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

static int by_first(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int64_t parameters_of(const pare__json *tensor)
{
    const pare__json *shape = pare__json_get(tensor, "shape");
    int64_t product = 1;
    for (size_t i = 0; i < pare__json_size(shape); i++) {
        int64_t size = 0;
        pare__json_int(pare__json_at(shape, i), &size);
        if (!pare__mul(product, size, &product))
            return 0;
    }
    return product;
}

/* Adds a member to a sum; one that is no sane number (the file may be anybody's) adds nothing. */
static void add_member(int64_t *sum, int64_t value)
{
    int64_t more;
    if (pare__add(*sum, value, &more))
        *sum = more;
}

static void add_up(struct group *group, const pare__json *tensor)
{
    group->count++;
    add_member(&group->bytes_in, pare__report_int(tensor, "bytes_in"));
    add_member(&group->bytes_out, pare__report_int(tensor, "bytes_out"));
    add_member(&group->parameters, parameters_of(tensor));
    add_member(&group->zeros, pare__report_int(tensor, "zeros"));
}

static void add_groups(const pare__json *tensors, const struct group *groups, size_t count,
                       pare__text *out)
{
    static const char *const heading[] = {"count", "shape", "type",  "role",    "prune", "quantize",
                                          "in",    "out",   "zeros", "example", "remark"};
    pare__table table = {.align = "rlllllrrrLL"};
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        pare__table_cell(&table, "%s", heading[i]);
    for (size_t i = 0; i < count; i++) {
        const pare__json *t = pare__json_at(tensors, groups[i].first);
        pare__table_cell(&table, "%s", pare__count((int64_t)groups[i].count).text);
        pare__table_cell(&table, "%s", pare__report_shape(t, "shape").text);
        pare__table_cell(&table, "%s", pare__report_string(t, "dtype", "?"));
        pare__table_cell(&table, "%s", pare__report_string(t, "role", "?"));
        pare__table_cell(&table, "%s", pare__report_string(t, "prune", "-"));
        pare__table_cell(&table, "%s", pare__report_string(t, "quant", "-"));
        pare__table_cell(&table, "%s", pare__size(groups[i].bytes_in).text);
        pare__table_cell(&table, "%s",
                         null_at(t, "bytes_out") ? "?" : pare__size(groups[i].bytes_out).text);
        pare__table_cell(
            &table, "%s",
            null_at(t, "zeros") || !groups[i].parameters
                ? ""
                : pare__percent((double)groups[i].zeros / (double)groups[i].parameters).text);
        pare__table_cell(&table, "%s", pare__report_string(t, "name", "?"));
        pare__table_cell(&table, "%s", pare__report_string(t, "note", ""));
    }
    pare__table_add(&table, out);
}

/* Groups by sorting, so that a hundred thousand different tensors are no trouble. */
static void add_tensors(const pare__json *tensors, pare__text *out)
{
    size_t n = pare__json_size(tensors), count = 0;
    struct member *members = NULL;
    struct group *groups = NULL;
    bool good = pare__calloc(n, sizeof *members, &members) == PARE_OK &&
                pare__calloc(n, sizeof *groups, &groups) == PARE_OK;
    for (size_t i = 0; good && i < n; i++) {
        members[i] = (struct member){key_of(pare__json_at(tensors, i)), i};
        good = members[i].key != NULL;
    }
    if (good && n)
        qsort(members, n, sizeof *members, by_key);
    for (size_t i = 0; good && i < n; i++) {
        if (i == 0 || strcmp(members[i - 1].key, members[i].key) != 0)
            groups[count++] = (struct group){.first = members[i].index};
        add_up(&groups[count - 1], pare__json_at(tensors, members[i].index));
    }
    if (good && n) {
        qsort(groups, count, sizeof *groups, by_first);
        pare__text_add(out, "\n");
        add_groups(tensors, groups, count, out);
    }
    out->failed = out->failed || !good;
    for (size_t i = 0; members && i < n; i++)
        free(members[i].key);
    free(members);
    free(groups);
}

/* ---- fallbacks ------------------------------------------------------------------------------- */

#define SHOWN_NAMES 3
#define MAX_REASONS 40

/* The tensors from `first` on that fell back for the same reason as it, in one paragraph. */
static void add_fallback(const pare__json *tensors, size_t first, bool *told, pare__text *out)
{
    const char *reason = pare__report_string(pare__json_at(tensors, first), "fallback", "");
    pare__text names = {0};
    size_t count = 0;
    char *text = NULL, label[32];
    for (size_t i = first; i < pare__json_size(tensors); i++) {
        const char *other = pare__report_string(pare__json_at(tensors, i), "fallback", NULL);
        if (!other || strcmp(other, reason) != 0)
            continue;
        told[i] = true;
        if (count++ < SHOWN_NAMES)
            pare__text_add(&names, "%s %s", count > 1 ? "," : "",
                           pare__report_string(pare__json_at(tensors, i), "name", "?"));
    }
    if (count > SHOWN_NAMES)
        pare__text_add(&names, " and %zu more", count - SHOWN_NAMES);
    if (pare__text_take(&names, &text) != PARE_OK) {
        out->failed = true;
        return;
    }
    pare__text sentence = {0};
    char *whole = NULL;
    pare__text_add(&sentence, "%s:%s", reason, text);
    free(text);
    snprintf(label, sizeof label, "%zu ×", count);
    if (pare__text_take(&sentence, &whole) != PARE_OK)
        out->failed = true;
    else
        pare__text_wrap(out, 2, label, whole);
    free(whole);
}

static void add_fallbacks(const pare__json *tensors, pare__text *out)
{
    size_t n = pare__json_size(tensors), reasons = 0;
    bool *told = NULL;
    if (pare__calloc(n, sizeof *told, &told) != PARE_OK) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < n && reasons <= MAX_REASONS; i++) {
        if (told[i] || !pare__report_string(pare__json_at(tensors, i), "fallback", NULL))
            continue;
        if (reasons == 0)
            pare__text_add(out, "\ndid not fit, and what is done instead\n");
        if (reasons++ == MAX_REASONS)
            pare__text_add(out, "  and for more reasons: --json lists every tensor\n");
        else
            add_fallback(tensors, i, told, out);
    }
    free(told);
}

/* ---- figures --------------------------------------------------------------------------------- */

static pare__number seconds(const pare__json *object, const char *key)
{
    pare__number number = {""};
    if (!null_at(object, key))
        pare__time_text(pare__report_real(object, key), number.text, sizeof number.text);
    return number;
}

static void add_bytes_row(pare__table *table, const char *name, const pare__json *predicted,
                          const pare__json *actual, const char *key)
{
    pare__table_cell(table, "%s", name);
    pare__table_cell(
        table, "%s",
        null_at(predicted, key) ? "" : pare__size_exact(pare__report_int(predicted, key)).text);
    pare__table_cell(table, "%s",
                     null_at(actual, key) ? ""
                                          : pare__size_exact(pare__report_int(actual, key)).text);
}

static void add_phases(const pare__json *phases, pare__text *out)
{
    pare__text line = {0};
    char *text = NULL;
    for (size_t i = 0; i < pare__json_size(phases); i++)
        pare__text_add(&line, "%s%s %s", i ? ", " : "",
                       pare__report_string(pare__json_at(phases, i), "name", "?"),
                       seconds(pare__json_at(phases, i), "seconds").text);
    if (pare__text_take(&line, &text) != PARE_OK)
        out->failed = true;
    else if (*text)
        pare__text_wrap(out, 2, "time by phase: ", text);
    free(text);
}

static void add_costs(const pare__json *root, pare__text *out)
{
    const pare__json *predicted = pare__json_get(root, "predicted"),
                     *actual = pare__json_get(root, "actual");
    pare__table table = {.align = "lrr"};
    if (!predicted && !actual)
        return;
    pare__table_cell(&table, "cost");
    pare__table_cell(&table, "predicted");
    pare__table_cell(&table, "actual");
    add_bytes_row(&table, "read", predicted, actual, "read_bytes");
    add_bytes_row(&table, "written", predicted, actual, "write_bytes");
    if (pare__report_int(predicted, "between_bytes"))
        add_bytes_row(&table, "disk between steps", predicted, actual, "between_bytes");
    add_bytes_row(&table, "peak memory", predicted, actual, "peak_memory");
    if (!null_at(predicted, "device_memory"))
        add_bytes_row(&table, "device memory", predicted, actual, "device_memory");
    pare__table_cell(&table, "time");
    pare__table_cell(&table, "%s", seconds(predicted, "seconds").text);
    pare__table_cell(&table, "%s", seconds(actual, "seconds").text);
    pare__text_add(out, "\n");
    pare__table_add(&table, out);
    int64_t passes = pare__report_int(predicted, "passes"),
            threads = pare__report_int(predicted, "threads");
    pare__text_add(out, "  %s pass%s over the model, %s thread%s (%s), memory budget %s\n",
                   pare__count(passes).text, passes == 1 ? "" : "es", pare__count(threads).text,
                   threads == 1 ? "" : "s", pare__report_string(predicted, "isa", "?"),
                   pare__size(pare__report_int(predicted, "budget")).text);
    if (!null_at(predicted, "device_memory"))
        pare__text_add(out, "  on %s, device memory budget %s\n",
                       pare__report_string(predicted, "device", "?"),
                       pare__size(pare__report_int(predicted, "device_budget")).text);
    bool resumed = false;
    if (pare__json_bool(pare__json_get(actual, "resumed"), &resumed) && resumed)
        pare__text_add(out, "  continued a run that was cut: %s chunks were done before\n",
                       pare__count(pare__report_int(actual, "chunks_done_before")).text);
    add_phases(pare__json_get(actual, "phases"), out);
}

/* "2.50× smaller" */
static pare__number times_smaller(double ratio)
{
    pare__number number = {"the same size"};
    if (ratio >= 1.005)
        snprintf(number.text, sizeof number.text, "%.2f× smaller", ratio);
    else if (ratio > 0 && ratio <= 0.995)
        snprintf(number.text, sizeof number.text, "%.2f× larger", 1 / ratio);
    return number;
}

static void add_result(const pare__json *root, pare__text *out)
{
    const pare__json *r = pare__json_get(root, "result"), *pruned = pare__json_get(r, "pruned");
    bool verified = false;
    if (!r)
        return;
    pare__text_add(out, "\nresult\n  %s parameters",
                   pare__count(pare__report_int(r, "parameters")).text);
    if (!null_at(r, "zeros"))
        pare__text_add(out, ", %s of them zero (%s)",
                       pare__count(pare__report_int(r, "zeros")).text,
                       pare__percent(pare__report_real(r, "sparsity")).text);
    pare__text_add(out, "\n");
    if (!pare__json_is_null(pruned))
        pare__text_add(out, "  in the pruned tensors %s of %s are zero (%s)\n",
                       pare__count(pare__report_int(pruned, "zeros")).text,
                       pare__count(pare__report_int(pruned, "parameters")).text,
                       pare__percent(pare__report_real(pruned, "sparsity")).text);
    pare__text_add(out, "  tensors %s -> %s, %s, %.3f bits a weight\n",
                   pare__size_exact(pare__report_int(r, "bytes_in")).text,
                   pare__size_exact(pare__report_int(r, "bytes_out")).text,
                   times_smaller(pare__report_real(r, "ratio")).text,
                   pare__report_real(r, "bits_per_weight"));
    if (pare__json_bool(pare__json_get(root, "verified"), &verified))
        pare__text_add(out, "  %s\n",
                       verified ? "every value was read back and is the same"
                                : "values read back are NOT the same");
}

/* What the steps are, as people would say it; reports of whole stages come later. */
static void add_step_lines(const pare__json *steps, pare__text *out)
{
    for (size_t i = 0; i < pare__json_size(steps); i++) {
        const char *step = pare__json_string(pare__json_at(steps, i));
        if (step)
            pare__text_wrap(out, 2, i ? "" : "steps", step);
    }
}

static void add_head(const pare__json *root, pare__text *out)
{
    const pare__json *model = pare__json_get(root, "model"),
                     *output = pare__json_get(root, "output"),
                     *steps = pare__json_get(root, "steps");
    const char *architecture = pare__report_string(model, "architecture", NULL);
    int64_t tensors = pare__report_int(model, "tensors"), files = pare__report_int(output, "files");
    bool ran = strcmp(pare__report_string(root, "kind", ""), "run") == 0;
    pare__text_add(out, ran ? "run\n" : "plan: nothing is done yet\n");
    pare__text_wrapf(
        out, 2, "model", "%s (%s%s%s): %s tensor%s, %s parameters, %s",
        pare__report_string(model, "path", "?"), pare__report_string(model, "format", "?"),
        architecture ? ", " : "", architecture ? architecture : "", pare__count(tensors).text,
        tensors == 1 ? "" : "s", pare__count(pare__report_int(model, "parameters")).text,
        pare__size_exact(pare__report_int(model, "bytes")).text);
    if (!null_at(output, "path"))
        pare__text_wrapf(
            out, 2, "output", "%s (%s): %s file%s, %s", pare__report_string(output, "path", "?"),
            pare__report_string(output, "format", "?"), pare__count(files).text,
            files == 1 ? "" : "s", pare__size_exact(pare__report_int(output, "bytes")).text);
    add_step_lines(steps, out);
}

/* "35 pruned, 12 left alone; 5 did not fit as asked": what there is none of is not said. */
static void add_summary(const pare__json *summary, pare__text *out)
{
    static const struct {
        const char *key, *words;
    } counts[] = {{"pruned", "pruned"}, {"quantized", "quantized"}, {"left_alone", "left alone"}};
    bool worked = pare__report_int(summary, "pruned") || pare__report_int(summary, "quantized");
    int64_t fallbacks = pare__report_int(summary, "fallbacks");
    const char *between = "";
    if (!summary)
        return;
    pare__text_add(out, "\n  ");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t count = pare__report_int(summary, counts[i].key);
        if (!count)
            continue;
        pare__text_add(out, "%s%s %s", between, pare__count(count).text,
                       worked ? counts[i].words : "tensors keep their values");
        between = ", ";
    }
    if (fallbacks)
        pare__text_add(out, "; %s did not fit as asked", pare__count(fallbacks).text);
    pare__text_add(out, "\n");
}

/* A stage of a run of several: what it did and came to; --json has its tensors and costs. */
static void add_stage(const pare__json *stage, size_t number, size_t count, pare__text *out)
{
    pare__text_add(out, "\nstep %zu of %zu\n", number, count);
    add_step_lines(pare__json_get(stage, "steps"), out);
    if (strcmp(pare__report_string(stage, "kind", ""), "eval") == 0) {
        pare__report_text_metrics(stage, out);
        return;
    }
    if (strcmp(pare__report_string(stage, "kind", ""), "train") == 0)
        pare__report_text_learned(stage, out);
    add_summary(pare__json_get(stage, "summary"), out);
    add_fallbacks(pare__json_get(stage, "tensors"), out);
    pare__report_text_layers(stage, out);
    pare__report_text_shrink(stage, out);
    add_result(stage, out);
}

void pare__report_text_run(const pare__json *root, pare__text *out)
{
    const pare__json *tensors = pare__json_get(root, "tensors"),
                     *steps = pare__json_get(root, "steps");
    bool stages = pare__json_is_object(pare__json_at(steps, 0));
    add_head(root, out);
    for (size_t i = 0; stages && i < pare__json_size(steps); i++)
        add_stage(pare__json_at(steps, i), i + 1, pare__json_size(steps), out);
    if (stages)
        pare__text_add(out, "\nall steps\n");
    add_tensors(tensors, out);
    add_summary(pare__json_get(root, "summary"), out);
    add_fallbacks(tensors, out);
    pare__report_text_layers(root, out);
    pare__report_text_shrink(root, out);
    add_costs(root, out);
    add_result(root, out);
}
