/* shrink_report.c - the report of a run that made a smaller model (report_impl.h lists the
 * members). */
#include "shrink.h"

#include "engine/report/report_impl.h"

#include <string.h>

static void add_shape(pare__json *parent, const char *key, int rank, const int64_t *shape)
{
    pare__json *list = pare__json_set_array(parent, key);
    for (int d = 0; d < rank; d++)
        pare__json_set_int(list, NULL, shape[d]);
}

static bool same_shape(const pare_entry *a, const pare_entry *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

static const char *format_of(const char *path)
{
    return !path                               ? "hf"
           : pare__glob("*.h5", path)          ? "h5"
           : pare__glob("*.safetensors", path) ? "safetensors"
                                               : "hf";
}

/* ---- tensors --------------------------------------------------------------------------------- */

typedef struct totals {
    int64_t cut, alone, parameters, parameters_after, bytes, bytes_after;
} totals;

static int64_t bytes_of(const pare_entry *e)
{
    return (e->rows * e->cols * pare_dtype_bits(e->dtype) + 7) / 8;
}

static void add_note(pare__json *t, const pare__shrink *s, const pare__shrunk_tensor *tensor,
                     const pare_entry *from, const pare_entry *to)
{
    char note[400] = "", shape[192], scheme[40];
    if (!same_shape(from, to))
        snprintf(note, sizeof note, "now %s",
                 pare_shape_text(to->rank, to->shape, shape, sizeof shape));
    size_t at = strlen(note);
    if (tensor->gain != 1)
        snprintf(note + at, sizeof note - at, ", times %.6g", tensor->gain);
    at = strlen(note);
    if (from->form == PARE_FORM_QUANT)
        snprintf(note + at, sizeof note - at, "%sdecoded from %s", at ? ", " : "",
                 pare_scheme_text(&from->scheme, scheme, sizeof scheme));
    (void)s;
    pare__json_set_string(t, "note", note[0] ? note : NULL);
}

static void add_tensor(const pare__shrink *s, int64_t index, pare__json *list, totals *sum)
{
    char pattern[32];
    const pare__shrunk_tensor *tensor = &s->tensors[index];
    const pare_entry *from = pare_store_entry(s->subject.store, tensor->source);
    const pare_entry *to = &s->entries[index];
    bool cut = !same_shape(from, to);
    pare__json *t = pare__json_set_object(list, NULL);
    pare__json_set_string(t, "name", tensor->name);
    pare__json_set_string(t, "role", pare_role_name(tensor->role));
    pare__json_set_string(t, "reason", tensor->reason);
    pare__json_set_string(t, "dtype", pare_dtype_name(to->dtype));
    add_shape(t, "shape", from->rank, from->shape);
    add_shape(t, "shape_out", to->rank, to->shape);
    pare__json_set_string(
        t, "prune", cut ? pare_pattern_text(&s->step->pattern, pattern, sizeof pattern) : NULL);
    pare__json_set_string(t, "quant", NULL);
    pare__json_set_string(t, "fallback", NULL);
    add_note(t, s, tensor, from, to);
    pare__json_set_int(t, "bytes_in", from->stored_bytes);
    pare__json_set_int(t, "bytes_out", bytes_of(to));
    sum->cut += cut;
    sum->alone += !cut;
    sum->parameters_after += to->rows * to->cols;
    sum->bytes_after += bytes_of(to);
}

static totals add_tensors(const pare__shrink *s, pare__json *root)
{
    totals sum = {0};
    pare__json *list = pare__json_set_array(root, "tensors");
    for (int64_t i = 0; i < s->count; i++)
        add_tensor(s, i, list, &sum);
    for (int64_t i = 0; i < pare_store_count(s->subject.store); i++) {
        const pare_entry *e = pare_store_entry(s->subject.store, i);
        sum.parameters += e->rows * e->cols;
        sum.bytes += e->stored_bytes;
    }
    pare__json *summary = pare__json_set_object(root, "summary");
    pare__json_set_int(summary, "pruned", sum.cut);
    pare__json_set_int(summary, "quantized", 0);
    pare__json_set_int(summary, "left_alone", sum.alone);
    pare__json_set_int(summary, "fallbacks", 0);
    return sum;
}

/* ---- units ----------------------------------------------------------------------------------- */

static int64_t kept_of(const pare__shrink *s, const pare_unit_class *u)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < u->count; i++)
        kept += s->keep[u->first + i];
    return kept;
}

/* Which layers went, since that is what one asks of them. */
static void add_layers(const pare__shrink *s, const pare_unit_class *u, pare__json *o, bool planned)
{
    if (u->kind != PARE_UNIT_LAYER || planned)
        return;
    pare__json *list = pare__json_set_array(o, "gone");
    for (int64_t i = 0; i < u->count; i++)
        if (!s->keep[u->first + i])
            pare__json_set_int(list, NULL, i);
}

static void add_units(const pare__shrink *s, pare__json *root, const totals *sum, bool planned)
{
    char pattern[32];
    pare__json *shrink = pare__json_set_object(root, "shrink");
    pare__json_set_string(shrink, "pattern",
                          pare_pattern_text(&s->step->pattern, pattern, sizeof pattern));
    pare__json *classes = pare__json_set_array(shrink, "classes");
    pare__json *locked = pare__json_set_array(shrink, "locked");
    for (int64_t c = 0; c < pare_couple_class_count(s->couple); c++) {
        const pare_unit_class *u = pare_couple_class(s->couple, c);
        if (u->locked) {
            pare__json *o = pare__json_set_object(locked, NULL);
            pare__json_set_string(o, "name", u->name);
            pare__json_set_string(o, "reason", u->locked);
        } else if (u->kind == s->kind && s->chosen[c]) {
            pare__json *o = pare__json_set_object(classes, NULL);
            pare__json_set_string(o, "name", u->name);
            pare__json_set_int(o, "units", u->count);
            pare__json_set_int(o, "kept", kept_of(s, u));
            add_layers(s, u, o, planned);
        }
    }
    pare__json_set_int(shrink, "parameters_before", sum->parameters);
    pare__json_set_int(shrink, "parameters_after", sum->parameters_after);
    pare__json_set_int(shrink, "tokens", s->length);
    if (s->flops >= 0)
        pare__json_set_real(shrink, "flops_before", s->flops);
    if (s->flops_after >= 0)
        pare__json_set_real(shrink, "flops_after", s->flops_after);
    pare__json_set_int(shrink, "tensors_dropped", s->dropped);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void add_head(const pare__shrink *s, pare__json *root, const totals *sum)
{
    const pare_store *store = s->subject.store;
    pare__json *model = pare__json_set_object(root, "model");
    pare__json_set_string(model, "path", pare_store_path(store));
    pare__json_set_string(model, "format", pare_store_format(store));
    pare__json_set_string(model, "architecture", pare_model_facts_of(s->subject.model)->family);
    pare__json_set_int(model, "tensors", pare_store_count(store));
    pare__json_set_int(model, "parameters", sum->parameters);
    pare__json_set_int(model, "bytes", sum->bytes);
    pare__json *output = pare__json_set_object(root, "output");
    pare__json_set_string(output, "path", s->recipe->output);
    pare__json_set_string(output, "format", format_of(s->recipe->output));
    pare__json_set_int(output, "files", s->files);
    pare__json_set_int(output, "bytes", s->out_bytes);
    pare__json_set_string(root, "recipe", s->recipe_text);
}

static void add_predicted(const pare__shrink *s, pare__json *root, const totals *sum)
{
    const char *name = pare_backend_name(pare_backend_host(s->bench.be)), *isa = strchr(name, ' ');
    pare__json *o = pare__json_set_object(root, "predicted");
    bool h5 = strcmp(pare_store_format(s->subject.store), "h5") == 0;
    pare__json_set_int(o, "passes", 3 + h5); /* checksums, digests, scores, cutting */
    pare__json_set_int(o, "read_bytes", (3 + h5) * sum->bytes);
    pare__json_set_int(o, "write_bytes", s->out_bytes);
    pare__json_set_int(o, "peak_memory", s->need.peak);
    pare__json_set_int(o, "budget", s->need.budget);
    pare__json_set_int(o, "threads", s->bench.threads);
    pare__json_set_string(o, "isa", isa ? isa + 1 : name);
    pare__json_set_string(o, "device", s->bench.device.name);
    if (s->bench.device.cuda) {
        pare__json_set_int(o, "device_memory", s->need.device_peak);
        pare__json_set_int(o, "device_budget", s->bench.device.memory);
    }
}

static void add_actual(pare__shrink *s, pare__json *root, const totals *sum, double seconds)
{
    pare__json *o = pare__json_set_object(root, "actual");
    pare__json_set_int(o, "read_bytes", s->read_bytes);
    pare__json_set_int(o, "write_bytes", s->write_bytes);
    pare__report_taken(o, &s->bench);
    pare__json_set_real(o, "seconds", seconds);
    pare__json_set_bool(o, "resumed", false);
    pare__json_set_int(o, "chunks_done_before", 0);
    pare__json_set(o, "phases", pare__json_copy(s->phases));
    pare__json *r = pare__json_set_object(root, "result");
    double after = (double)sum->bytes_after, left = (double)sum->parameters_after;
    pare__json_set_int(r, "parameters", sum->parameters_after);
    pare__json_set_real(r, "bits_per_weight", left > 0 ? 8 * after / left : 0);
    pare__json_set_int(r, "bytes_in", sum->bytes);
    pare__json_set_int(r, "bytes_out", sum->bytes_after);
    pare__json_set_real(r, "ratio", after > 0 ? (double)sum->bytes / after : 1);
}

pare_status pare__shrink_report(pare__shrink *s, bool planned, double seconds, pare_report **report)
{
    pare_status status = PARE_OK;
    pare_report *r = NULL;
    PARE_TRY_DONE(pare__report_new(planned ? "plan" : "run", &r));
    PARE_TRY_DONE(pare__recipe_steps(s->recipe, pare__json_set_array(r->root, "steps")));
    totals sum = add_tensors(s, r->root);
    add_head(s, r->root, &sum);
    add_predicted(s, r->root, &sum);
    add_units(s, r->root, &sum, planned);
    if (!planned) {
        add_actual(s, r->root, &sum, seconds);
        PARE_TRY_DONE(pare__report_save(r, s->recipe->output));
    }
    *report = r;
    r = NULL;
done:
    pare_report_free(&r);
    return status;
}
