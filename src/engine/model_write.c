/* model_write.c - a model's values as a checkpoint: in the source's dtypes, with what the source
 * holds beside them, and a provenance that says how they came about. */
#include "job.h"
#include "learn.h"

#include "pare/version.h"

#include <string.h>

/* One tensor of the output: a parameter, or an entry of the source that goes over as it is. */
typedef struct origin {
    int64_t param;  /* −1: copied */
    int64_t source; /* entry, −1: none */
} origin;

typedef struct output {
    const pare__model_write *write;
    pare_entry *entries; /* [count] in name order */
    origin *origins;     /* beside them */
    int64_t count;
    pare_writer *writer;
    char *provenance;
    int64_t kept; /* values of the sparse entry at hand that are written */
    char *memory; /* of one piece at a time */
    int64_t memory_size;
} output;

static pare_entry dense(const char *name, pare_dtype dtype, int rank, const int64_t *shape)
{
    pare_entry e = {.name = name, .dtype = dtype, .rank = rank, .form = PARE_FORM_DENSE};
    memcpy(e.shape, shape, (size_t)rank * sizeof *shape);
    pare_shape_matrix(rank, shape, &e.rows, &e.cols);
    return e;
}

/* The dtype in which a parameter is written: the source's. */
static pare_dtype dtype_of(const pare__subject *s, const char *name)
{
    int64_t source = s->store ? pare_store_find(s->store, name) : -1;
    const pare_entry *e = source >= 0 ? pare_store_entry(s->store, source) : NULL;
    return e && pare_dtype_is_weight(e->dtype) ? e->dtype : PARE_F32;
}

static void add_param(output *o, const pare__subject *s, int64_t index)
{
    const pare_param *p = pare_model_param(s->model, index);
    int64_t shape[PARE_MAX_RANK];
    int rank;
    int64_t source = s->store ? pare_store_find(s->store, p->name) : -1;
    pare_model_stored_shape(s->model, index, &rank, shape);
    pare_entry *e = &o->entries[o->count];
    *e = dense(p->name, dtype_of(s, p->name), rank, shape);
    if (p->mask && !p->transposed && pare__glob("*.h5", o->write->output)) {
        e->form = PARE_FORM_SPARSE; /* as prune writes it */
        for (int64_t i = 0; i < e->rows * e->cols; i++)
            e->nonzeros += p->mask[i] != 0;
    }
    o->origins[o->count++] = (origin){.param = index, .source = source};
}

static bool is_param(const pare_model *model, const char *name)
{
    for (int64_t i = 0; i < pare_model_param_count((pare_model *)(uintptr_t)model); i++)
        if (strcmp(pare_model_param((pare_model *)(uintptr_t)model, i)->name, name) == 0)
            return true;
    return false;
}

/* Tables of integers go along; floats that the model does not use would be stale (a tied head). */
static void add_others(output *o, const pare__subject *s)
{
    for (int64_t i = 0; s->store && i < pare_store_count(s->store); i++) {
        const pare_entry *e = pare_store_entry(s->store, i);
        if (is_param(s->model, e->name) || pare_dtype_is_weight(e->dtype))
            continue;
        o->entries[o->count] = dense(e->name, e->dtype, e->rank, e->shape);
        o->origins[o->count++] = (origin){.param = -1, .source = i};
    }
}

/* Sorts both arrays by name, as the writer wants it; there are some thousand at most. */
static void sort(output *o)
{
    for (int64_t i = 1; i < o->count; i++) {
        pare_entry e = o->entries[i];
        origin from = o->origins[i];
        int64_t j = i;
        for (; j > 0 && strcmp(o->entries[j - 1].name, e.name) > 0; j--) {
            o->entries[j] = o->entries[j - 1];
            o->origins[j] = o->origins[j - 1];
        }
        o->entries[j] = e;
        o->origins[j] = from;
    }
}

static pare_status list(output *o)
{
    const pare__subject *s = o->write->subject;
    int64_t most = pare_model_param_count(s->model) + (s->store ? pare_store_count(s->store) : 0);
    PARE_TRY(pare__calloc((size_t)most, sizeof *o->entries, &o->entries));
    PARE_TRY(pare__calloc((size_t)most, sizeof *o->origins, &o->origins));
    for (int64_t i = 0; i < pare_model_param_count(s->model); i++)
        add_param(o, s, i);
    add_others(o, s);
    sort(o);
    return PARE_OK;
}

/* ---- provenance ------------------------------------------------------------------------------ */

static pare__json *history(const pare_store *store)
{
    pare__json *root = NULL;
    const char *text = store ? pare_store_provenance(store) : NULL;
    if (text && pare__json_parse(text, strlen(text), "provenance", &root) == PARE_OK) {
        if (pare__json_is_array(root))
            return root;
        pare__json_free(&root);
    }
    return pare__json_new_array();
}

static pare_status remember(output *o)
{
    pare__json *sources = NULL;
    PARE_TRY(pare__json_parse(o->write->sources, strlen(o->write->sources), "sources", &sources));
    pare__json *root = history(o->write->subject->store);
    pare__json *entry = pare__json_set_object(root, NULL);
    pare__json_set_string(entry, "pare", pare_version());
    pare__json_set_string(entry, "recipe", o->write->recipe);
    pare__json_set_string(entry, "data", o->write->data);
    pare__json_set(entry, "sources", sources);
    pare_status status = pare__json_dump(root, 0, false, &o->provenance);
    pare__json_free(&root);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}

/* ---- values ---------------------------------------------------------------------------------- */

static int64_t padded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* f32, the entry's own dtype, scratch, a bitmask, one behind the other. */
static pare_status make_room(output *o, int64_t values, const pare_entry *e, int64_t scratch,
                             void *part[4])
{
    int64_t wide = padded(values * 4), own = padded((values * pare_dtype_bits(e->dtype) + 7) / 8);
    int64_t size = wide + own + padded(scratch) + padded(values / 8 + e->rows + 1);
    if (size > o->memory_size) {
        pare__pages_free(o->memory, (size_t)o->memory_size);
        o->memory = NULL;
        o->memory_size = 0;
        PARE_TRY(pare__pages((size_t)size, &o->memory));
        o->memory_size = size;
    }
    part[0] = o->memory;
    part[1] = o->memory + wide;
    part[2] = o->memory + wide + own;
    part[3] = o->memory + wide + own + padded(scratch);
    return PARE_OK;
}

static pare_status read_rows(output *o, int64_t index, int64_t first, int64_t rows, void *part[4])
{
    const pare__model_write *w = o->write;
    const pare_entry *e = &o->entries[index];
    int64_t n = rows * e->cols;
    if (o->origins[index].param < 0) {
        PARE_TRY(pare_store_read_values(w->subject->store, w->be, o->origins[index].source, first,
                                        rows, part[1], part[2]));
        return PARE_OK;
    }
    PARE_TRY(
        pare_model_read_rows(w->subject->model, o->origins[index].param, first, rows, part[0]));
    PARE_TRY(pare_cast(w->be, &(pare_cast_args){.x = pare_vector(part[0], PARE_F32, n),
                                                .y = pare_vector(part[1], e->dtype, n)}));
    return PARE_OK;
}

static int64_t count_bits(const uint8_t *bits, int64_t bytes)
{
    int64_t count = 0;
    for (int64_t i = 0; i < bytes; i++)
        count += __builtin_popcount(bits[i]);
    return count;
}

/* The rows of a pruned tensor as bitmask and kept values, these moved together in their place. */
static pare_rows sparse_rows(const output *o, int64_t index, int64_t first, int64_t rows,
                             void *part[4])
{
    const pare_entry *e = &o->entries[index];
    const uint8_t *mask =
        pare_model_param(o->write->subject->model, o->origins[index].param)->mask + first * e->cols;
    size_t item = (size_t)pare_dtype_bits(e->dtype) / 8, kept = 0;
    int64_t width = (e->cols + 7) / 8;
    char *values = part[1];
    uint8_t *bits = part[3];
    memset(bits, 0, (size_t)(rows * width));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < e->cols; c++) {
            int64_t i = r * e->cols + c;
            if (!mask[i])
                continue;
            bits[r * width + c / 8] |= (uint8_t)(1 << c % 8);
            memmove(values + kept++ * item, values + (size_t)i * item, item);
        }
    return (pare_rows){
        .first = first, .count = rows, .values = values, .mask = bits, .values_before = o->kept};
}

static pare_status write_entry(output *o, int64_t index)
{
    const pare__model_write *w = o->write;
    const pare_entry *e = &o->entries[index];
    int64_t align = pare_entry_align(e), source = o->origins[index].source;
    o->kept = 0;
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        void *part[4];
        pare_parts parts;
        rows = e->rows - first < align ? e->rows - first : align;
        int64_t scratch = pare_writer_scratch(o->writer, index, rows);
        if (o->origins[index].param < 0) {
            int64_t reading = pare_store_scratch(w->subject->store, source, rows);
            scratch = reading > scratch ? reading : scratch;
        }
        PARE_TRY(make_room(o, rows * e->cols, e, scratch, part));
        PARE_TRY(read_rows(o, index, first, rows, part));
        pare_rows out = {.first = first, .count = rows, .values = part[1]};
        if (e->form == PARE_FORM_SPARSE) {
            out = sparse_rows(o, index, first, rows, part);
            o->kept += count_bits(out.mask, rows * ((e->cols + 7) / 8));
        }
        PARE_TRY(pare_writer_encode(o->writer, w->be, index, &out, part[2], &parts));
        PARE_TRY(pare_writer_write(o->writer, &parts));
        pare_writer_add_sums(o->writer, index, &parts.sums);
    }
    return PARE_OK;
}

pare_status pare__model_write_out(const pare__model_write *write)
{
    pare_status status = PARE_OK;
    output o = {.write = write};
    bool good = false;
    PARE_TRY_DONE(list(&o));
    PARE_TRY_DONE(remember(&o));
    for (int64_t i = 0; i < o.count; i++)
        o.entries[i].piece_rows = pare_piece_rows(o.entries[i].dtype, o.entries[i].cols);
    PARE_TRY_DONE(pare_writer_create(
        &(pare_writer_options){.path = write->output,
                               .entries = o.entries,
                               .count = o.count,
                               .source = write->subject->store,
                               .config = pare_model_config(write->subject->model),
                               .provenance = o.provenance,
                               .max_shard_size = write->max_shard_size,
                               .overwrite = write->overwrite},
        false, &o.writer));
    for (int64_t i = 0; i < o.count; i++)
        PARE_TRY_DONE(write_entry(&o, i));
    PARE_TRY_DONE(pare_writer_finish(o.writer));
    good = true;
done:
    pare_writer_free(&o.writer, !good);
    pare__pages_free(o.memory, (size_t)o.memory_size);
    free(o.provenance);
    free(o.origins);
    free(o.entries);
    return status;
}
