/* model_write.c - a model's values as a checkpoint: in the source's dtypes, with what the source
 * holds beside them, and a provenance that says how they came about. */
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
    pare_backend *host;  /* values are fetched to its memory */
    pare_entry *entries; /* [count] in name order */
    origin *origins;     /* beside them */
    int64_t count;
    pare_writer *writer;
    char *provenance;
    int64_t kept; /* values of the sparse entry at hand that are written */
    char *memory; /* of one piece at a time */
    int64_t memory_size;
} output;

#define MASK_PIECE ((int64_t)64 << 10) /* bytes of a mask that are counted at once */

static pare_status grow_room(output *o, int64_t size)
{
    if (size <= o->memory_size)
        return PARE_OK;
    pare__pages_free(o->memory, (size_t)o->memory_size);
    o->memory = NULL;
    o->memory_size = 0;
    PARE_TRY(pare__pages((size_t)size, &o->memory));
    o->memory_size = size;
    return PARE_OK;
}

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

static pare_status count_kept(output *o, pare_model *model, int64_t param, int64_t *kept)
{
    int64_t count = pare_tensor_count(&pare_model_param(model, param)->value);
    PARE_TRY(grow_room(o, MASK_PIECE));
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < MASK_PIECE ? count - i : MASK_PIECE;
        PARE_TRY(pare_model_read_mask(model, param, i, n, (uint8_t *)o->memory));
        for (int64_t k = 0; k < n; k++)
            *kept += o->memory[k] != 0;
    }
    return PARE_OK;
}

static pare_status add_param(output *o, const pare__subject *s, int64_t index)
{
    const pare_param *p = pare_model_param(s->model, index);
    int64_t shape[PARE_MAX_RANK];
    int rank;
    int64_t source = s->store ? pare_store_find(s->store, p->name) : -1;
    pare_model_stored_shape(s->model, index, &rank, shape);
    pare_entry *e = &o->entries[o->count];
    *e = dense(p->name, dtype_of(s, p->name), rank, shape);
    int64_t steps;
    if (o->write->qat && pare_qat_layer(o->write->qat, index, &e->scheme, &steps))
        e->form = PARE_FORM_QUANT;
    else if (p->mask && !p->transposed && pare__glob("*.h5", o->write->output)) {
        e->form = PARE_FORM_SPARSE; /* as prune writes it */
        PARE_TRY(count_kept(o, s->model, index, &e->nonzeros));
        if (e->nonzeros == e->rows * e->cols) { /* a mask that fell */
            e->form = PARE_FORM_DENSE;
            e->nonzeros = 0;
        }
    }
    o->origins[o->count++] = (origin){.param = index, .source = source};
    return PARE_OK;
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
        PARE_TRY(add_param(o, s, i));
    add_others(o, s);
    sort(o);
    for (int64_t i = 0; i < o->count; i++)
        o->entries[i].piece_rows = pare_piece_rows(o->entries[i].dtype, o->entries[i].cols);
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

/* f32, the entry's own dtype, scratch, of a sparse entry a bitmask and the mask's bytes, one behind
 * the other. */
enum { WIDE, OWN, SCRATCH, BITS, MASK, PARTS };

static pare_status make_room(output *o, int64_t values, const pare_entry *e, int64_t scratch,
                             void *part[PARTS])
{
    bool sparse = e->form == PARE_FORM_SPARSE;
    int64_t sizes[PARTS] = {[WIDE] = values * 4,
                            [OWN] = (values * pare_dtype_bits(e->dtype) + 7) / 8,
                            [SCRATCH] = scratch,
                            [BITS] = sparse ? values / 8 + e->rows + 1 : 0,
                            [MASK] = sparse ? values : 0};
    int64_t size = 0;
    for (int p = 0; p < PARTS; p++)
        size += padded(sizes[p]);
    PARE_TRY(grow_room(o, size));
    char *at = o->memory;
    for (int p = 0; p < PARTS; p++) {
        part[p] = at;
        at += padded(sizes[p]);
    }
    return PARE_OK;
}

static pare_status read_rows(output *o, int64_t index, int64_t first, int64_t rows,
                             void *part[PARTS])
{
    const pare__model_write *w = o->write;
    const pare_entry *e = &o->entries[index];
    int64_t n = rows * e->cols;
    if (o->origins[index].param < 0) {
        PARE_TRY(pare_store_read_values(w->subject->store, o->host, o->origins[index].source, first,
                                        rows, part[OWN], part[SCRATCH]));
        return PARE_OK;
    }
    PARE_TRY(
        pare_model_read_rows(w->subject->model, o->origins[index].param, first, rows, part[WIDE]));
    PARE_TRY(pare_cast(o->host, &(pare_cast_args){.x = pare_vector(part[WIDE], PARE_F32, n),
                                                  .y = pare_vector(part[OWN], e->dtype, n)}));
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
static pare_status sparse_rows(const output *o, int64_t index, pare_rows *out, void *part[PARTS])
{
    const pare_entry *e = &o->entries[index];
    const uint8_t *mask = part[MASK];
    int64_t rows = out->count;
    PARE_TRY(pare_model_read_mask(o->write->subject->model, o->origins[index].param,
                                  out->first * e->cols, rows * e->cols, part[MASK]));
    size_t item = (size_t)pare_dtype_bits(e->dtype) / 8, kept = 0;
    int64_t width = (e->cols + 7) / 8;
    char *values = part[OWN];
    uint8_t *bits = part[BITS];
    memset(bits, 0, (size_t)(rows * width));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < e->cols; c++) {
            int64_t i = r * e->cols + c;
            if (!mask[i])
                continue;
            bits[r * width + c / 8] |= (uint8_t)(1 << c % 8);
            memmove(values + kept++ * item, values + (size_t)i * item, item);
        }
    out->mask = bits;
    out->values_before = o->kept;
    return PARE_OK;
}

/* The integers that the last forward multiplied by, as they are. */
static pare_status write_codes(output *o, int64_t index)
{
    const pare_entry *e = &o->entries[index];
    const pare_model *model = o->write->subject->model;
    pare_blocks blocks = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    int64_t align = pare_entry_align(e), param = o->origins[index].param;
    int64_t count = e->rows * e->cols, scales = blocks.down * blocks.across;
    int64_t scratch = pare_writer_scratch(o->writer, index, align);
    PARE_TRY(grow_room(o, padded(scratch) + padded(scales * 4) + padded(count)));
    float *steps = (float *)(void *)(o->memory + padded(scratch));
    int8_t *codes = (int8_t *)(o->memory + padded(scratch) + padded(scales * 4));
    PARE_TRY(pare_qat_codes(o->write->qat, param, codes, steps));
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        pare_parts parts;
        rows = e->rows - first < align ? e->rows - first : align;
        pare_rows out = {.first = first,
                         .count = rows,
                         .codes = codes + first * e->cols,
                         .scale = steps + first / blocks.block_rows * blocks.across,
                         .act_scale =
                             pare_model_param((pare_model *)(uintptr_t)model, param)->act_scale};
        PARE_TRY(pare_writer_encode(o->writer, o->host, index, &out, o->memory, &parts));
        PARE_TRY(pare_writer_write(o->writer, &parts));
        pare_writer_add_sums(o->writer, index, &parts.sums);
    }
    return PARE_OK;
}

static pare_status write_entry(output *o, int64_t index)
{
    const pare__model_write *w = o->write;
    const pare_entry *e = &o->entries[index];
    int64_t align = pare_entry_align(e), source = o->origins[index].source;
    if (e->form == PARE_FORM_QUANT)
        return write_codes(o, index);
    o->kept = 0;
    for (int64_t first = 0, rows; first < e->rows; first += rows) {
        void *part[PARTS];
        pare_parts parts;
        rows = e->rows - first < align ? e->rows - first : align;
        int64_t scratch = pare_writer_scratch(o->writer, index, rows);
        if (o->origins[index].param < 0) {
            int64_t reading = pare_store_scratch(w->subject->store, source, rows);
            scratch = reading > scratch ? reading : scratch;
        }
        PARE_TRY(make_room(o, rows * e->cols, e, scratch, part));
        PARE_TRY(read_rows(o, index, first, rows, part));
        pare_rows out = {.first = first, .count = rows, .values = part[OWN]};
        if (e->form == PARE_FORM_SPARSE) {
            PARE_TRY(sparse_rows(o, index, &out, part));
            o->kept += count_bits(out.mask, rows * ((e->cols + 7) / 8));
        }
        PARE_TRY(pare_writer_encode(o->writer, o->host, index, &out, part[SCRATCH], &parts));
        PARE_TRY(pare_writer_write(o->writer, &parts));
        pare_writer_add_sums(o->writer, index, &parts.sums);
    }
    return PARE_OK;
}

static pare_writer_options options_of(const output *o)
{
    const pare__model_write *w = o->write;
    return (pare_writer_options){.path = w->output,
                                 .entries = o->entries,
                                 .count = o->count,
                                 .source = w->subject->store,
                                 .config = pare_model_config(w->subject->model),
                                 .provenance = o->provenance,
                                 .max_shard_size = w->max_shard_size,
                                 .overwrite = w->overwrite};
}

static void free_output(output *o)
{
    pare__pages_free(o->memory, (size_t)o->memory_size);
    free(o->provenance);
    free(o->origins);
    free(o->entries);
}

pare_status pare__model_write_check(const pare__model_write *write)
{
    pare_status status = PARE_OK;
    output o = {.write = write, .host = pare_backend_host(write->be)};
    int64_t files, bytes;
    PARE_TRY_DONE(list(&o));
    pare_writer_options options = options_of(&o);
    PARE_TRY_DONE(pare_writer_predict(&options, &files, &bytes));
done:
    free_output(&o);
    return status;
}

pare_status pare__model_write_out(const pare__model_write *write)
{
    pare_status status = PARE_OK;
    output o = {.write = write, .host = pare_backend_host(write->be)};
    bool good = false;
    PARE_TRY_DONE(list(&o));
    PARE_TRY_DONE(remember(&o));
    pare_writer_options options = options_of(&o);
    PARE_TRY_DONE(pare_writer_create(&options, false, &o.writer));
    for (int64_t i = 0; i < o.count; i++)
        PARE_TRY_DONE(write_entry(&o, i));
    PARE_TRY_DONE(pare_writer_finish(o.writer));
    good = true;
done:
    pare_writer_free(&o.writer, !good);
    free_output(&o);
    return status;
}
