/* walk_report.c - what a report says of a walk: its size beforehand, each layer's outcome after it
 * (report_impl.h, "walk" and "layers"). */
#include "walk.h"

#include "engine/report/report_impl.h"

#include <math.h>
#include <string.h>

const pare_prune_step *pare__task_prune(const pare__task *task)
{
    return task->walked ? task->walked->prune : task->prune;
}

const pare_quant_step *pare__task_quant(const pare__task *task)
{
    return task->walked ? task->walked->quant : task->quant;
}

const char *pare__walk_note(const pare__job *job, const pare__task *task, bool ran)
{
    const pare__walker *w = job->walker;
    bool folded = false;
    if (!task->walked || task->walked->site >= 0)
        return NULL;
    for (int64_t i = 0; i < w->site_count; i++) {
        const pare__walk_site *s = &w->sites[i];
        bool here = task->source == s->fold[0] || task->source == s->fold[1];
        for (int l = 0; l < s->site.count; l++)
            here = here || task->source == s->task[l];
        folded = folded || (here && s->scaling && (ran ? s->scaled : s->foldable));
    }
    return folded ? "rescaled" : NULL;
}

static const char *mode(const pare_calibration *c)
{
    return c->dense ? "dense" : c->per_block ? "per block" : "true sequential";
}

static bool is_layer(const pare__task *task)
{
    return task->walked && (task->walked->prune || task->walked->quant);
}

static void add_walk(const pare__walker *w, pare__json *root)
{
    pare__json *o = pare__json_set_object(root, "walk");
    int64_t sites = 0, layers = 0;
    for (int64_t s = 0; s < w->site_count; s++)
        sites += w->sites[s].needs != 0;
    for (int64_t t = 0; t < w->job->count; t++)
        layers += is_layer(&w->job->tasks[t]);
    pare__json_set_string(o, "data", w->calibration->path);
    pare__json_set_int(o, "samples", w->samples);
    if (w->shape.length)
        pare__json_set_int(o, "seq_len", w->shape.length);
    pare__json_set_int(o, "batch", w->shape.batch);
    pare__json_set_string(o, "compute", w->shape.compute == PARE_BF16 ? "bf16" : "f32");
    pare__json_set_string(o, "mode", mode(w->calibration));
    pare__json_set_int(o, "blocks", w->blocks);
    pare__json_set_int(o, "sites", sites);
    pare__json_set_int(o, "layers", layers);
    pare__json_set_real(o, "flops", w->flops);
    pare__json_set_int(o, "disk_bytes",
                       w->result_bytes + (w->blocks > 1 ? 2 * w->hidden_bytes : 0) *
                                             pare__rank_count(w->job->ranks));
}

/* Who shared it, and what went between them. */
static void add_ranks(const pare__walker *w, bool ran, pare__json *root)
{
    const pare_comm *ranks = w->job->ranks;
    if (!ranks)
        return;
    const pare_comm_facts *facts = pare_comm_facts_of(ranks);
    pare__json *o = pare__json_set_object(root, "ranks");
    pare__json_set_int(o, "count", facts->size);
    pare__json_set_string(o, "kind", facts->kind);
    pare__json_set_string(o, "library", facts->library);
    if (!ran)
        return;
    pare_comm_traffic traffic = pare_comm_traffic_of(ranks);
    pare__json_set_int(o, "bytes", traffic.bytes - w->before.bytes + w->moved.bytes);
    pare__json_set_real(o, "seconds", traffic.seconds - w->before.seconds + w->moved.seconds);
    pare__json_set_real(o, "exposed_seconds",
                        traffic.exposed - w->before.exposed + w->moved.exposed);
}

/* "sparsegpt 2:4, gptq w4g32" */
static void method_text(const pare__task *task, char *text, size_t size)
{
    const pare__walked *k = task->walked;
    char pattern[40] = "", prune[96] = "", scheme[40];
    if (k->prune) {
        pare_pattern_text(&k->prune->pattern, pattern, sizeof pattern);
        if (k->prune->pattern.kind == PARE_PATTERN_NM)
            snprintf(prune, sizeof prune, "%s %s", k->prune->method->name, pattern);
        else
            snprintf(prune, sizeof prune, "%s %.4g", k->prune->method->name, k->sparsity);
    }
    if (!k->quant) {
        snprintf(text, size, "%s", prune);
        return;
    }
    pare_scheme_text(&task->out.scheme, scheme, sizeof scheme);
    snprintf(text, size, "%s%s%s %s", prune, k->prune ? ", " : "", k->quant->method->name, scheme);
}

static void set_known(pare__json *object, const char *key, double value)
{
    if (isfinite(value))
        pare__json_set_real(object, key, value);
}

static void add_layer(const pare__walker *w, const pare__task *task, pare__json *list)
{
    const pare__walked *k = task->walked;
    const pare__walk_site *site = &w->sites[k->site];
    pare__json *o = pare__json_set_object(list, NULL);
    double count = (double)task->out.rows * (double)task->out.cols;
    char method[160];
    method_text(task, method, sizeof method);
    pare__json_set_string(o, "name", task->out.name);
    pare__json_set_string(o, "site", site->site.name);
    pare__json_set_string(o, "method", method);
    set_known(o, "error_before", k->report.error_before);
    set_known(o, "error_after", k->report.error_after);
    pare__json_set_real(o, "damping", k->report.damping);
    pare__json_set_int(o, "dead", k->report.dead);
    if (task->out.scheme.activation == PARE_ACT_STATIC)
        pare__json_set_real(o, "act_scale", (double)k->report.act_scale);
    if (k->prune && k->nonzeros >= 0 && count > 0)
        pare__json_set_real(o, "sparsity", 1 - (double)k->nonzeros / count);
    if (k->quant && k->quant == site->scaling) {
        pare__json_set_bool(o, "scaled", site->scaled);
        pare__json_set_string(o, "note", *site->note ? site->note : NULL);
    }
    pare__json_set_string(o, "fallback", *k->report.fallback ? k->report.fallback : NULL);
    pare__json_set_real(o, "seconds", k->seconds);
}

void pare__walk_report(const pare__job *job, bool ran, pare__json *root)
{
    const pare__walker *w = job->walker;
    if (!w || w->result_bytes == 0)
        return;
    add_walk(w, root);
    add_ranks(w, ran, root);
    if (!ran)
        return;
    pare__json *list = pare__json_set_array(root, "layers");
    for (int64_t s = 0; s < w->site_count; s++)
        for (int l = 0; l < w->sites[s].site.count; l++) {
            int64_t t = w->sites[s].task[l];
            if (t >= 0 && is_layer(&job->tasks[t]) && job->tasks[t].walked->site == s)
                add_layer(w, &job->tasks[t], list);
        }
}
