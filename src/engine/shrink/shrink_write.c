/* shrink_write.c - the tensors of a smaller model: every row that stays, without the columns that
 * go, in the dtype of the source, written through the store's writer as all outputs are.
 *
 * A killed run leaves a part that the next one makes anew: cutting costs one pass of reading.
 */
#include "shrink.h"

#include "pare/version.h"

#include <string.h>

pare_status pare__shrink_stopped(const pare__shrink *s)
{
    PARE_REQUIRE(!s->options.cancel || !*s->options.cancel, PARE_ERR_INTERRUPTED,
                 "interrupted; nothing is written yet, the same command begins anew");
    return PARE_OK;
}

/* ---- what there will be ---------------------------------------------------------------------- */

void pare__shrink_unlist(pare__shrink *s)
{
    for (int64_t i = 0; i < s->count; i++)
        free(s->tensors[i].name);
    free(s->tensors);
    free(s->entries);
    free(s->config);
    s->tensors = NULL;
    s->entries = NULL;
    s->config = NULL;
    s->count = s->dropped = 0;
}

/* Floats that the model does not use would have the old width (a head that is tied, say). */
static bool stale(const pare__shrink *s, const pare_entry *e, int64_t param)
{
    return param < 0 && s->kind == PARE_UNIT_WIDTH && pare_dtype_is_weight(e->dtype);
}

static pare_status add_tensor(pare__shrink *s, int64_t source)
{
    const pare_entry *e = pare_store_entry(s->subject.store, source);
    int64_t param = s->param[source];
    pare__shrunk_tensor t = {.source = source, .param = param, .gain = 1};
    if (stale(s, e, param)) {
        s->dropped++;
        return PARE_OK;
    }
    PARE_TRY(pare_couple_rename(s->couple, e->name, s->keep, &t.name));
    if (!t.name)
        return PARE_OK;
    pare_entry *out = &s->entries[s->count];
    *out =
        (pare_entry){.name = t.name, .dtype = e->dtype, .rank = e->rank, .form = PARE_FORM_DENSE};
    memcpy(out->shape, e->shape, sizeof out->shape);
    if (param >= 0) {
        pare_couple_shape(s->couple, param, s->keep, &out->rank, out->shape);
        t.gain = pare_couple_gain(s->couple, param, s->keep);
    }
    pare_shape_matrix(out->rank, out->shape, &out->rows, &out->cols);
    out->piece_rows = pare_piece_rows(out->dtype, out->cols);
    t.role = pare_entry_role(pare_model_config(s->subject.model), e, &t.reason);
    s->tensors[s->count++] = t;
    return PARE_OK;
}

/* Both lists by name: renumbered layers may change places ("10" before "9"). */
static void sort(pare__shrink *s)
{
    for (int64_t i = 1; i < s->count; i++) {
        pare_entry e = s->entries[i];
        pare__shrunk_tensor t = s->tensors[i];
        int64_t j = i;
        for (; j > 0 && strcmp(s->entries[j - 1].name, e.name) > 0; j--) {
            s->entries[j] = s->entries[j - 1];
            s->tensors[j] = s->tensors[j - 1];
        }
        s->entries[j] = e;
        s->tensors[j] = t;
    }
}

void pare__shrink_writer_options(const pare__shrink *s, pare_writer_options *options)
{
    *options = (pare_writer_options){.path = s->recipe->output,
                                     .entries = s->entries,
                                     .count = s->count,
                                     .source = s->subject.store,
                                     .config = s->config,
                                     .max_shard_size = s->recipe->max_shard_size,
                                     .overwrite = s->options.overwrite};
}

pare_status pare__shrink_list(pare__shrink *s)
{
    size_t most = (size_t)pare_store_count(s->subject.store);
    pare__shrink_unlist(s);
    PARE_TRY(pare_couple_config(s->couple, s->subject.model, s->keep, &s->config));
    PARE_TRY(pare__calloc(most, sizeof *s->tensors, &s->tensors));
    PARE_TRY(pare__calloc(most, sizeof *s->entries, &s->entries));
    for (int64_t i = 0; i < (int64_t)most; i++)
        PARE_TRY(add_tensor(s, i));
    sort(s);
    return PARE_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Memory for one tensor at a time. */
typedef struct room {
    char *memory, *source, *out, *scratch;
    float *wide; /* the rows of a tensor that is scaled */
    int64_t size;
} room;

static int64_t padded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int64_t row_bytes(const pare_entry *e, int64_t rows)
{
    return (rows * e->cols * pare_dtype_bits(e->dtype) + 7) / 8;
}

/* Rows of the source that are read at once, and of the output that are written. */
static int64_t read_step(const pare_entry *e)
{
    int64_t step = pare__lcm(e->piece_rows, pare_entry_align(e));
    return step < e->rows ? step : e->rows;
}

static int64_t write_step(const pare_entry *e)
{
    int64_t step = pare_entry_align(e);
    return step < e->rows ? step : e->rows;
}

static int64_t wide_bytes(const pare__shrink *s, int64_t index)
{
    const pare_entry *to = &s->entries[index];
    return s->tensors[index].gain != 1 ? write_step(to) * to->cols * (int64_t)sizeof(float) : 0;
}

/* What a writer's encoding of dense rows takes is at most the rows and a little. */
static int64_t room_of(const pare__shrink *s, int64_t index, int64_t scratch)
{
    const pare_entry *from = pare_store_entry(s->subject.store, s->tensors[index].source);
    const pare_entry *to = &s->entries[index];
    int64_t reading =
        pare_store_scratch(s->subject.store, s->tensors[index].source, read_step(from));
    scratch = reading > scratch ? reading : scratch;
    return padded(row_bytes(from, read_step(from))) + padded(row_bytes(to, write_step(to))) +
           padded(scratch) + padded(wide_bytes(s, index));
}

int64_t pare__shrink_bytes(const pare__shrink *s)
{
    int64_t most = 0;
    for (int64_t i = 0; i < s->count; i++) {
        int64_t bytes = room_of(s, i, 2 * row_bytes(&s->entries[i], write_step(&s->entries[i])));
        most = bytes > most ? bytes : most;
    }
    return most + s->count * (int64_t)(sizeof *s->entries + sizeof *s->tensors);
}

static pare_status make_room(const pare__shrink *s, pare_writer *writer, int64_t index, room *r)
{
    const pare_entry *from = pare_store_entry(s->subject.store, s->tensors[index].source);
    const pare_entry *to = &s->entries[index];
    int64_t size = room_of(s, index, pare_writer_scratch(writer, index, write_step(to)));
    if (size > r->size) {
        pare__pages_free(r->memory, (size_t)r->size);
        r->memory = NULL;
        r->size = 0;
        PARE_TRY(pare__pages((size_t)size, &r->memory));
        r->size = size;
    }
    r->source = r->memory;
    r->out = r->source + padded(row_bytes(from, read_step(from)));
    char *wide = r->out + padded(row_bytes(to, write_step(to)));
    r->wide = (float *)(void *)wide;
    r->scratch = wide + padded(wide_bytes(s, index));
    return PARE_OK;
}

static pare_status scale(pare_backend *be, const pare_entry *e, double gain, int64_t rows, room *r)
{
    int64_t n = rows * e->cols;
    pare_tensor own = pare_vector(r->out, e->dtype, n), wide = pare_vector(r->wide, PARE_F32, n);
    PARE_TRY(pare_cast(be, &(pare_cast_args){.x = own, .y = wide}));
    for (int64_t i = 0; i < n; i++)
        r->wide[i] = (float)((double)r->wide[i] * gain);
    PARE_TRY(pare_cast(be, &(pare_cast_args){.x = wide, .y = own}));
    return PARE_OK;
}

static pare_status flush(pare__shrink *s, pare_writer *writer, int64_t index, int64_t first,
                         int64_t rows, room *r)
{
    pare_parts parts;
    pare_backend *host = pare_backend_host(s->bench.be);
    const pare_entry *e = &s->entries[index];
    if (s->tensors[index].gain != 1)
        PARE_TRY(scale(host, e, s->tensors[index].gain, rows, r));
    PARE_TRY(pare_writer_encode(writer, host, index,
                                &(pare_rows){.first = first, .count = rows, .values = r->out},
                                r->scratch, &parts));
    PARE_TRY(pare_writer_write(writer, &parts));
    pare_writer_add_sums(writer, index, &parts.sums);
    s->write_bytes += row_bytes(e, rows);
    return PARE_OK;
}

static pare_status read(pare__shrink *s, int64_t source, int64_t first, int64_t rows, const room *r)
{
    const pare_entry *e = pare_store_entry(s->subject.store, source);
    PARE_TRY(pare__shrink_stopped(s));
    PARE_TRY(pare_store_read_values(s->subject.store, pare_backend_host(s->bench.be), source, first,
                                    rows, r->source, r->scratch));
    s->read_bytes += row_bytes(e, rows);
    return PARE_OK;
}

/* A tensor that is no parameter goes over as it is. */
static pare_status carry(pare__shrink *s, pare_writer *writer, int64_t index, room *r)
{
    const pare_entry *e = &s->entries[index];
    int64_t source = s->tensors[index].source;
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        rows = e->rows - first < write_step(e) ? e->rows - first : write_step(e);
        PARE_TRY(read(s, source, first, rows, r));
        memcpy(r->out, r->source, (size_t)row_bytes(e, rows));
        PARE_TRY(flush(s, writer, index, first, rows, r));
    }
    return PARE_OK;
}

static pare_status cut_rows(pare__shrink *s, pare_writer *writer, int64_t index,
                            const pare_shrink_cut *cut, room *r)
{
    int64_t source = s->tensors[index].source, filled = 0, done = 0;
    const pare_entry *from = pare_store_entry(s->subject.store, source), *to = &s->entries[index];
    size_t item = (size_t)pare_dtype_bits(from->dtype) / 8;
    for (int64_t first = 0, rows; first < from->rows; first += rows) {
        rows = from->rows - first < read_step(from) ? from->rows - first : read_step(from);
        PARE_TRY(read(s, source, first, rows, r));
        for (int64_t i = 0; i < rows; i++) {
            if (!cut->row[first + i])
                continue;
            pare_shrink_cut_row(cut, r->source + row_bytes(from, i), item,
                                r->out + row_bytes(to, filled));
            if (++filled == write_step(to)) {
                PARE_TRY(flush(s, writer, index, done, filled, r));
                done += filled;
                filled = 0;
            }
        }
    }
    if (filled > 0)
        PARE_TRY(flush(s, writer, index, done, filled, r));
    return PARE_OK;
}

static pare_status write_tensor(pare__shrink *s, pare_writer *writer, int64_t index, room *r)
{
    pare_shrink_cut *cut = NULL;
    if (s->entries[index].rows == 0 || s->entries[index].cols == 0)
        return PARE_OK;
    PARE_TRY(make_room(s, writer, index, r));
    if (s->tensors[index].param < 0)
        return carry(s, writer, index, r);
    PARE_TRY(pare_shrink_cut_create(s->couple, s->tensors[index].param, s->keep, &cut));
    pare_status status = cut_rows(s, writer, index, cut, r);
    pare_shrink_cut_free(&cut);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

/* ---- the output ------------------------------------------------------------------------------ */

/* What the source remembers already goes first. */
static pare__json *history(const pare_store *store)
{
    pare__json *root = NULL;
    const char *text = pare_store_provenance(store);
    if (text && pare__json_parse(text, strlen(text), "provenance", &root) == PARE_OK) {
        if (pare__json_is_array(root))
            return root;
        pare__json_free(&root);
    }
    return pare__json_new_array();
}

static pare_status remember(const pare__shrink *s, char **text)
{
    pare__json *sources = NULL;
    PARE_TRY(pare__json_parse(s->sources, strlen(s->sources), "sources", &sources));
    pare__json *root = history(s->subject.store);
    pare__json *entry = pare__json_set_object(root, NULL);
    pare__json_set_string(entry, "pare", pare_version());
    pare__json_set_string(entry, "recipe", s->recipe_text);
    if (s->dataset)
        pare__json_set_string(entry, "data", s->data_digest);
    pare__json_set(entry, "sources", sources);
    pare_status status = pare__json_dump(root, 0, false, text);
    pare__json_free(&root);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

pare_status pare__shrink_write(pare__shrink *s)
{
    pare_status status = PARE_OK;
    pare_writer *writer = NULL;
    pare_writer_options options;
    char *provenance = NULL;
    room r = {0};
    bool good = false;
    PARE_TRY_DONE(remember(s, &provenance));
    pare__shrink_writer_options(s, &options);
    options.provenance = provenance;
    PARE_TRY_DONE(pare_writer_create(&options, false, &writer));
    for (int64_t i = 0; i < s->count; i++)
        PARE_TRY_DONE(write_tensor(s, writer, i, &r));
    PARE_TRY_DONE(pare_writer_finish(writer));
    good = true;
done:
    pare_writer_free(&writer, !good);
    pare__pages_free(r.memory, (size_t)r.size);
    free(provenance);
    return status;
}
