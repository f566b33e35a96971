/* grid_report.c - the rows of a sweep, its report and its CSV: what each point is, what it kept of
 * the dense model, and which points no other one is better than. */
#include "grid_impl.h"

#include "engine/job.h"

#include "pare/version.h"

#include <math.h>
#include <string.h>

/* ---- rows ------------------------------------------------------------------------------------ */

pare__json *pare__grid_row(const pare_grid *s, size_t point, const char *state, const char *note)
{
    const pare__point *p = &s->points[point];
    pare__json *row = pare__json_new_object();
    pare__json_set_int(row, "point", (int64_t)point);
    pare__json_set_string(row, "kind", p->value ? "grid" : "dense");
    pare__json *values = pare__json_set_object(row, "values");
    for (size_t a = 0; p->value && a < s->axis_count; a++)
        pare__json_set_string(values, s->axes[a].name, s->axes[a].list->items[p->value[a]]->text);
    if (!p->value)
        pare__json_set_string(row, "dense_model", p->recipe->model);
    else if (p->dense != PARE__NO_POINT)
        pare__json_set_int(row, "dense", (int64_t)p->dense);
    pare__json_set_string(row, "state", state);
    if (note)
        pare__json_set_string(row, "note", note);
    return row;
}

static const char *const metric_keys[] = {"top1",      "ppl",    "loss",       "top5", "kld",
                                          "agreement", "cosine", "cosine_min", NULL};

static bool is_better_high(const char *metric)
{
    return strcmp(metric, "ppl") != 0 && strcmp(metric, "loss") != 0 && strcmp(metric, "kld") != 0;
}

static void copy_metrics(pare__json *row, const char *key, const pare__json *eval)
{
    pare__json *o = pare__json_set_object(row, key);
    for (size_t i = 0; metric_keys[i]; i++) {
        const pare__json *value = pare__json_get(eval, metric_keys[i]);
        if (value)
            pare__json_set(o, metric_keys[i], pare__json_copy(value));
    }
}

static bool is_kind(const pare__json *report, const char *kind)
{
    return strcmp(pare__report_string(report, "kind", ""), kind) == 0;
}

/* The reports of a run's stages: those in its "steps", or it alone. */
static const pare__json *stage_at(const pare__json *root, size_t index)
{
    const pare__json *steps = pare__json_get(root, "steps");
    if (pare__json_is_object(pare__json_at(steps, 0)))
        return pare__json_at(steps, index);
    return index ? NULL : root;
}

/* The last eval step, and the first where it comes before any other. */
static void add_metrics(pare__json *row, const pare__json *root, bool measures)
{
    const pare__json *stage, *last = NULL, *before = NULL;
    for (size_t i = 0; (stage = stage_at(root, i)) != NULL; i++) {
        if (!is_kind(stage, "eval"))
            continue;
        if (i == 0 && !measures)
            before = stage;
        else
            last = stage;
    }
    if (last)
        copy_metrics(row, "metrics", last);
    if (before)
        copy_metrics(row, "before", before);
}

static pare__json *layer_named(pare__json *row, const char *name)
{
    const pare__json *layers = pare__json_get(row, "layers");
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        const pare__json *layer = pare__json_at(layers, i);
        if (strcmp(pare__report_string(layer, "name", ""), name) == 0)
            return (pare__json *)(uintptr_t)layer; /* of the row, which is ours */
    }
    return NULL;
}

/* What walks say of layers' outputs; of several walks the last. */
static void add_errors(pare__json *row, const pare__json *stage)
{
    const pare__json *layers = pare__json_get(stage, "layers");
    for (size_t i = 0; i < pare__json_size(layers); i++) {
        const pare__json *from = pare__json_at(layers, i);
        pare__json *to = layer_named(row, pare__report_string(from, "name", ""));
        double error;
        if (to && pare__json_real(pare__json_get(from, "error_after"), &error)) {
            pare__json_remove(to, "error");
            pare__json_set_real(to, "error", error);
        }
    }
}

static void add_training(pare__json *row, const pare__json *stage)
{
    const pare__json *losses = pare__json_get(stage, "losses");
    pare__json *list = (pare__json *)(uintptr_t)pare__json_get(row, "training");
    if (!losses)
        return;
    if (!list)
        list = pare__json_set_array(row, "training");
    pare__json *o = pare__json_set_object(list, NULL);
    pare__json_set_string(o, "step", pare__json_get(stage, "teacher") ? "distill" : "train");
    pare__json_set(o, "losses", pare__json_copy(losses));
}

void pare__grid_row_run(pare__json *row, const pare_report *run, bool measures)
{
    const pare__json *root = run->root, *stage;
    const pare__json *actual = pare__json_get(root, "actual"),
                     *result = pare__json_get(root, "result");
    double value;
    int64_t whole;
    add_metrics(row, root, measures);
    for (size_t i = 0; (stage = stage_at(root, i)) != NULL; i++) {
        add_errors(row, stage);
        add_training(row, stage);
    }
    if (pare__json_real(pare__json_get(result, "bits_per_weight"), &value))
        pare__json_set_real(row, "bits_per_weight", value);
    if (pare__json_int(pare__json_get(actual, "peak_memory"), &whole))
        pare__json_set_int(row, "peak_memory", whole);
    if (pare__json_real(pare__json_get(actual, "seconds"), &value))
        pare__json_set_real(row, "seconds", value);
}

/* ---- all rows -------------------------------------------------------------------------------- */

static bool is_done(const pare__json *row)
{
    return strcmp(pare__report_string(row, "state", ""), "done") == 0;
}

/* The metric that points are judged by: the first in the order above that a point has. */
static const char *main_metric(const pare__json *points)
{
    for (size_t m = 0; metric_keys[m]; m++)
        for (size_t i = 0; i < pare__json_size(points); i++) {
            double value;
            const pare__json *metrics = pare__json_get(pare__json_at(points, i), "metrics");
            if (pare__json_real(pare__json_get(metrics, metric_keys[m]), &value))
                return metric_keys[m];
        }
    return NULL;
}

static bool metric_of(const pare__json *row, const char *object, const char *metric, double *value)
{
    return metric && pare__json_real(pare__json_get(pare__json_get(row, object), metric), value);
}

/* What is left of the dense model's quality, as a share. */
static void add_kept(pare__json *row, const pare__json *points, const char *metric)
{
    double value, dense;
    int64_t at;
    bool known = pare__json_int(pare__json_get(row, "dense"), &at) &&
                 metric_of(pare__json_at(points, (size_t)at), "metrics", metric, &dense);
    if (strcmp(pare__report_string(row, "kind", ""), "dense") == 0)
        known = metric_of(row, "metrics", metric, &dense);
    known = known || metric_of(row, "before", metric, &dense);
    if (!known || !metric_of(row, "metrics", metric, &value) || strcmp(metric, "kld") == 0)
        return;
    double kept = is_better_high(metric) ? value / dense : dense / value;
    if (isfinite(kept))
        pare__json_set_real(row, "kept", kept);
}

static const struct {
    const char *name;
    double sign; /* -1: more is better */
    double same; /* share by which points may differ and cost the same: what is timed is noisy */
} costs[] = {
    {"sparsity", -1, 0.005}, {"bytes", 1, 0.005}, {"flops_left", 1, 0.005}, {"latency", 1, 0.05}};

static bool cost_of(const pare__json *row, size_t c, double *value)
{
    const pare__json *o = pare__json_get(row, costs[c].name);
    if (pare__json_is_object(o))
        o = pare__json_get(o, "seconds");
    if (!is_done(row) || !pare__json_real(o, value))
        return false;
    *value *= costs[c].sign;
    return true;
}

/* Higher is better. */
static bool quality_of(const pare__json *row, const char *metric, double *value)
{
    if (pare__json_real(pare__json_get(row, "kept"), value))
        return true;
    if (!metric_of(row, "metrics", metric, value))
        return false;
    *value *= is_better_high(metric) ? 1 : -1;
    return true;
}

/* A cost and the quality of every point, NaN where one is not known: then it is on no front. */
typedef struct plane {
    double *cost, *quality; /* [count] */
    size_t count;
    double same; /* share of a cost */
} plane;

/* Whether no other point is better and costs no more, or costs less and is as good. */
static bool is_front(const plane *p, size_t at)
{
    double cost = p->cost[at], quality = p->quality[at], same = p->same * fabs(cost);
    if (isnan(cost) || isnan(quality))
        return false;
    for (size_t i = 0; i < p->count; i++)
        if ((p->quality[i] > quality && p->cost[i] <= cost + same) ||
            (p->quality[i] >= quality && p->cost[i] < cost - same))
            return false;
    return true;
}

static pare_status judge(pare__json *points, const char *metric)
{
    plane p = {.count = pare__json_size(points)};
    pare_status status = PARE_OK;
    PARE_TRY_DONE(pare__calloc(p.count, sizeof *p.cost, &p.cost));
    PARE_TRY_DONE(pare__calloc(p.count, sizeof *p.quality, &p.quality));
    for (size_t i = 0; i < p.count; i++) {
        pare__json *row = (pare__json *)(uintptr_t)pare__json_at(points, i);
        add_kept(row, points, metric);
        if (!quality_of(row, metric, &p.quality[i]))
            p.quality[i] = (double)NAN;
        pare__json_set_array(row, "front");
    }
    for (size_t c = 0; c < sizeof costs / sizeof *costs; c++) {
        p.same = costs[c].same;
        for (size_t i = 0; i < p.count; i++)
            if (!cost_of(pare__json_at(points, i), c, &p.cost[i]))
                p.cost[i] = (double)NAN;
        for (size_t i = 0; i < p.count; i++)
            if (is_front(&p, i))
                pare__json_set_string(
                    (pare__json *)(uintptr_t)pare__json_get(pare__json_at(points, i), "front"),
                    NULL, costs[c].name);
    }
done:
    free(p.quality);
    free(p.cost);
    return status;
}

static void add_summary(pare__json *root, const pare__json *points)
{
    static const char *const states[] = {"done", "not possible", "failed", "to do"};
    int64_t count[4] = {0};
    double seconds = 0, value;
    pare__json *o = pare__json_set_object(root, "summary");
    for (size_t i = 0; i < pare__json_size(points); i++) {
        const pare__json *row = pare__json_at(points, i);
        for (int s = 0; s < 4; s++)
            count[s] += strcmp(pare__report_string(row, "state", ""), states[s]) == 0;
        const pare__json *from = pare__json_get(row, "predicted");
        if (pare__json_real(pare__json_get(from ? from : row, "seconds"), &value))
            seconds += value;
    }
    pare__json_set_int(o, "points", (int64_t)pare__json_size(points));
    for (int s = 0; s < 4; s++)
        pare__json_set_int(o, states[s], count[s]);
    pare__json_set_real(o, "seconds", seconds);
}

static void add_axes(pare__json *root, const pare_grid *s)
{
    pare__json *axes = pare__json_set_array(root, "axes");
    for (size_t a = 0; a < s->axis_count; a++) {
        pare__json *axis = pare__json_set_object(axes, NULL);
        pare__json_set_string(axis, "name", s->axes[a].name);
        pare__json_set_bool(axis, "numbers", s->axes[a].numbers);
        pare__json *values = pare__json_set_array(axis, "values");
        for (size_t i = 0; i < s->axes[a].list->count; i++)
            pare__json_set_string(values, NULL, s->axes[a].list->items[i]->text);
    }
}

pare_status pare__grid_report(const pare_grid *s, const char *folder, bool planned,
                              pare__json *const *rows, const pare_run_options *options,
                              pare_report **report)
{
    pare_report *r = NULL;
    PARE_TRY(pare__report_new("sweep", &r));
    pare__json_set_string(r->root, "sweep", s->name);
    if (folder)
        pare__json_set_string(r->root, "folder", folder);
    pare__json_set_bool(r->root, "planned", planned);
    pare__json_set_int(r->root, "threads", options->threads ? options->threads : pare_cpu_count());
    add_axes(r->root, s);
    pare__json *points = pare__json_new_array();
    for (size_t i = 0; i < s->point_count; i++)
        pare__json_set(points, NULL,
                       rows[i] ? pare__json_copy(rows[i]) : pare__grid_row(s, i, "to do", NULL));
    const char *metric = main_metric(points);
    pare__json_set_string(r->root, "metric", metric);
    add_summary(r->root, points);
    pare_status status = planned ? PARE_OK : judge(points, metric);
    pare__json_set(r->root, "points", points);
    if (status == PARE_OK)
        *report = r;
    else
        pare_report_free(&r);
    return status;
}

/* ---- CSV ------------------------------------------------------------------------------------- */

/* A field as RFC 4180 has it. */
static void add_text(pare__text *out, const char *text)
{
    bool quoted = strpbrk(text, ",\"\r\n") != NULL;
    pare__text_add(out, quoted ? ",\"" : ",");
    for (; *text; text++)
        pare__text_bytes(out, *text == '"' ? "\"\"" : text, *text == '"' ? 2 : 1);
    if (quoted)
        pare__text_add(out, "\"");
}

static void add_number(pare__text *out, const pare__json *value)
{
    char text[40];
    int64_t whole;
    double real;
    if (pare__json_int(value, &whole))
        pare__text_add(out, ",%lld", (long long)whole);
    else if (pare__json_real(value, &real))
        pare__text_add(out, ",%s", pare__shortest(real, text, sizeof text));
    else
        pare__text_add(out, ",");
}

static const char *const columns[] = {"kept",  "sparsity", "parameters", "bits_per_weight",
                                      "bytes", "flops",    "flops_left", NULL};

static bool has_metric(const pare__json *points, const char *metric)
{
    double value;
    for (size_t i = 0; i < pare__json_size(points); i++)
        if (metric_of(pare__json_at(points, i), "metrics", metric, &value))
            return true;
    return false;
}

static void add_heading(pare__text *out, const pare__json *axes, const pare__json *points)
{
    pare__text_add(out, "point,kind,state");
    for (size_t a = 0; a < pare__json_size(axes); a++)
        add_text(out, pare__report_string(pare__json_at(axes, a), "name", ""));
    for (size_t m = 0; metric_keys[m]; m++)
        if (has_metric(points, metric_keys[m]))
            pare__text_add(out, ",%s", metric_keys[m]);
    for (size_t c = 0; columns[c]; c++)
        pare__text_add(out, ",%s", columns[c]);
    pare__text_add(out, ",note,latency_seconds,latency_batch,peak_memory,seconds\n");
}

static void add_line(pare__text *out, const pare__json *axes, const pare__json *points,
                     const pare__json *row)
{
    const pare__json *values = pare__json_get(row, "values"),
                     *latency = pare__json_get(row, "latency");
    pare__text_add(out, "%lld", (long long)pare__report_int(row, "point"));
    add_text(out, pare__report_string(row, "kind", ""));
    add_text(out, pare__report_string(row, "state", ""));
    for (size_t a = 0; a < pare__json_size(axes); a++)
        add_text(out, pare__report_string(
                          values, pare__report_string(pare__json_at(axes, a), "name", ""), ""));
    for (size_t m = 0; metric_keys[m]; m++)
        if (has_metric(points, metric_keys[m]))
            add_number(out, pare__json_get(pare__json_get(row, "metrics"), metric_keys[m]));
    for (size_t c = 0; columns[c]; c++)
        add_number(out, pare__json_get(row, columns[c]));
    add_text(out, pare__report_string(row, "note", ""));
    add_number(out, pare__json_get(latency, "seconds"));
    add_number(out, pare__json_get(latency, "batch"));
    add_number(out, pare__json_get(row, "peak_memory"));
    add_number(out, pare__json_get(row, "seconds"));
    pare__text_add(out, "\n");
}

pare_status pare__grid_csv(const pare_report *report, char **text)
{
    const pare__json *axes = pare__json_get(report->root, "axes"),
                     *points = pare__json_get(report->root, "points");
    pare__text out = {0};
    add_heading(&out, axes, points);
    for (size_t i = 0; i < pare__json_size(points); i++)
        add_line(&out, axes, points, pare__json_at(points, i));
    return pare__text_take(&out, text);
}
