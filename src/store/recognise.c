/* recognise.c - which arrays of safetensors belong together: packed codes with their scales,
 * bitmasks with their values, everything else by itself. Names, types and shapes must agree with
 * quantization_config; nothing is guessed where it is there. */
#include "store_impl.h"

#include "pare/ops.h"

#include <float.h>
#include <string.h>

enum { STATE_LIMIT = 64 * 1024 };

typedef struct work {
    pare_store *store;
    pare__json *config; /* root with quantization_config in it, or NULL */
    bool *used;         /* by array */
} work;

/* ---- names ----------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* "base" + suffix with the last `drop` characters of base taken away. */
static pare_status join_name(const char *base, size_t drop, const char *suffix, char **name)
{
    pare__text text = {0};
    pare__text_bytes(&text, base, strlen(base) - drop);
    pare__text_add(&text, "%s", suffix);
    return pare__text_take(&text, name);
}

/* The array "entry<suffix>"; -1 if there is none. */
static pare_status find(const work *w, const char *entry, const char *suffix, int64_t *index)
{
    char *name;
    PARE_TRY(join_name(entry, 0, suffix, &name));
    *index = pare__store_find_array(w->store, name);
    free(name);
    return PARE_OK;
}

static pare_status need(const work *w, const char *entry, const char *suffix, int64_t *index)
{
    PARE_TRY(find(w, entry, suffix, index));
    PARE_REQUIRE(*index >= 0, PARE_ERR_DAMAGED, "%s: tensor '%s' lacks its array '%s%s'",
                 w->store->path, entry, entry, suffix);
    return PARE_OK;
}

static pare_status scheme_of(const work *w, const char *entry, pare_scheme *scheme)
{
    char *module;
    PARE_TRY(join_name(entry, ends_with(entry, ".weight") ? 7 : 0, "", &module));
    pare_status status = pare__hf_config_scheme(w->config, module, scheme);
    free(module);
    return status;
}

/* ---- binding --------------------------------------------------------------------------------- */

/* Whether two shapes are the same but for dimensions of 1. */
static bool same_shape(const pare__array *array, const pare__part_spec *spec)
{
    int a = 0, b = 0;
    for (;;) {
        while (a < array->rank && array->shape[a] == 1)
            a++;
        while (b < spec->rank && spec->shape[b] == 1)
            b++;
        if (a == array->rank || b == spec->rank)
            return a == array->rank && b == spec->rank;
        if (array->shape[a++] != spec->shape[b++])
            return false;
    }
}

static pare_status specs(const pare__slot *slot, pare__part_spec spec[PARE_MAX_PARTS], int *count)
{
    pare_status status = pare__codec_parts(slot->codec, &slot->entry, false, spec, NULL, count);
    if (status == PARE_ERR_ARGUMENT) /* of what a writer asks for; here it is what a file holds */
        return pare__error_again(PARE_ERR_UNSUPPORTED, pare_last_error(), pare_last_trail());
    return status;
}

/* The scale of static activations: one number, of any type that a model has. */
static pare_status check_input(const pare_store *store, const pare__array *array, int64_t want)
{
    int64_t count;
    PARE_TRY(pare_shape_size(array->dtype, array->rank, array->shape, &count, NULL));
    PARE_REQUIRE(pare_dtype_is_weight(array->dtype) && count == want, PARE_ERR_UNSUPPORTED,
                 "%s: '%s' is %lld numbers of %s; this version reads one scale of F32, F16 or BF16 "
                 "for static activations",
                 store->path, array->name, (long long)count, pare_dtype_name(array->dtype));
    return PARE_OK;
}

/* Gives a slot its arrays, after its entry and codec are known. `free_form`: a part whose size is
 * the file's own (it was read already), or -1. */
static pare_status bind(work *w, pare__slot *slot, int free_form)
{
    pare_store *store = w->store;
    pare__part_spec spec[PARE_MAX_PARTS];
    char found[160], wanted[160];
    int count;
    PARE_TRY(specs(slot, spec, &count));
    for (int p = 0; p < count; p++) {
        char *name;
        PARE_TRY(pare__part_name(slot->entry.name, &spec[p], false, &name));
        int64_t index = pare__store_find_array(store, name);
        pare_status status = PARE_OK;
        if (index < 0)
            status = pare__error(PARE_ERR_DAMAGED, __func__, "%s: tensor '%s' lacks its array '%s'",
                                 store->path, slot->entry.name, name);
        free(name);
        PARE_TRY(status);
        const pare__array *array = &store->arrays[index];
        w->used[index] = true;
        if (p == free_form)
            continue;
        if (p == pare__input_part(&slot->entry)) {
            PARE_TRY(check_input(store, array, spec[p].shape[0]));
            slot->array[p] = index;
            continue;
        }
        PARE_REQUIRE(array->dtype == spec[p].dtype && same_shape(array, &spec[p]), PARE_ERR_DAMAGED,
                     "%s: '%s' is %s %s, but tensor '%s' needs %s %s", store->path, array->name,
                     pare_dtype_name(array->dtype),
                     pare_shape_text(array->rank, array->shape, found, sizeof found),
                     slot->entry.name, pare_dtype_name(spec[p].dtype),
                     pare_shape_text(spec[p].rank, spec[p].shape, wanted, sizeof wanted));
        slot->array[p] = index;
    }
    return PARE_OK;
}

static pare_status new_slot(work *w, const char *name, const pare__codec *codec, pare__slot **slot)
{
    PARE_TRY(pare__store_add_slot(w->store, name, slot));
    (*slot)->codec = codec;
    return PARE_OK;
}

/* An array of I64 that holds a shape. */
static pare_status read_shape(const work *w, int64_t index, pare_entry *entry)
{
    const pare__array *array = &w->store->arrays[index];
    const pare__file *file = &w->store->files[array->file];
    PARE_REQUIRE(array->dtype == PARE_I64 && array->bytes <= PARE_MAX_RANK * 8, PARE_ERR_DAMAGED,
                 "%s: '%s' is no shape of at most %d dimensions", file->path, array->name,
                 PARE_MAX_RANK);
    entry->rank = (int)(array->bytes / 8);
    PARE_TRY(pare__file_read(file->fd, file->path, entry->shape, array->bytes, array->offset));
    return pare__entry_complete(entry);
}

static pare_status scale_dtype(const work *w, int64_t index, pare_entry *entry)
{
    const pare__array *array = &w->store->arrays[index];
    entry->dtype = array->dtype;
    PARE_REQUIRE(pare_dtype_is_weight(array->dtype), PARE_ERR_UNSUPPORTED,
                 "%s: the scales '%s' are %s; this version reads F32, F16 and BF16", w->store->path,
                 array->name, pare_dtype_name(array->dtype));
    return PARE_OK;
}

/* ---- compressed-tensors ---------------------------------------------------------------------- */

static pare_status packed_scheme(const work *w, const char *name, pare_entry *entry)
{
    int64_t zero;
    PARE_TRY(scheme_of(w, name, &entry->scheme));
    PARE_REQUIRE(entry->scheme.type == PARE_QUANT_INT, PARE_ERR_UNSUPPORTED,
                 "%s: tensor '%s' is packed, but quantization_config does not say how",
                 w->store->path, name);
    PARE_TRY(find(w, name, "_zero_point", &zero));
    PARE_REQUIRE(zero >= 0 || !entry->scheme.asymmetric, PARE_ERR_DAMAGED,
                 "%s: tensor '%s' is asymmetric but has no zero points", w->store->path, name);
    entry->scheme.asymmetric = zero >= 0;
    return PARE_OK;
}

static pare_status add_packed(work *w, const char *name, const pare__array *packed)
{
    pare__slot *slot;
    int64_t scale, shape, order;
    PARE_TRY(find(w, name, "_g_idx", &order));
    PARE_REQUIRE(packed->rank == 2 && order < 0, PARE_ERR_UNSUPPORTED,
                 "%s: tensor '%s' is packed %s, which this version does not read", w->store->path,
                 name, order < 0 ? "slice by slice" : "in another order of columns (g_idx)");
    PARE_TRY(need(w, name, "_scale", &scale));
    PARE_TRY(need(w, name, "_shape", &shape));
    PARE_TRY(new_slot(w, name, &pare__codec_pack, &slot));
    pare_entry *entry = &slot->entry;
    entry->form = PARE_FORM_QUANT;
    PARE_TRY(scale_dtype(w, scale, entry));
    PARE_TRY(read_shape(w, shape, entry));
    PARE_TRY(pare__matrix_fits(entry, true));
    PARE_TRY(packed_scheme(w, name, entry));
    int bits = entry->scheme.bits;
    int64_t words = packed->shape[1];
    if (words != pare_packed_bytes(PARE_PACK_STREAM, bits, entry->cols) / 4 &&
        words == pare_packed_bytes(PARE_PACK_ALIGNED, bits, entry->cols) / 4)
        slot->codec = &pare__codec_pack_aligned;
    return bind(w, slot, -1);
}

/* What scales say by their shape where no config does; false if that is nothing. */
static bool guess_granularity(const pare__array *scale, const pare_entry *entry,
                              pare_scheme *scheme)
{
    int64_t n = 1, last = scale->rank == 2 ? scale->shape[1] : 1;
    for (int d = 0; d < scale->rank; d++)
        n *= scale->shape[d];
    if (scale->rank > 2 || (n != 1 && scale->shape[0] != entry->rows))
        return false;
    scheme->granularity = n == 1 ? PARE_PER_TENSOR : PARE_PER_CHANNEL;
    if (n == 1 || last == 1)
        return true;
    if (last == 0 || entry->cols % last != 0)
        return false;
    scheme->granularity = PARE_PER_GROUP;
    scheme->block_rows = 1;
    scheme->block_cols = entry->cols / last;
    return true;
}

/* One byte a code: not every I8 or E4M3 tensor with a scale beside it is ours, so a config, or a
 * shape that leaves no doubt, must say so. */
static pare_status add_bytes(work *w, const pare__array *codes, int64_t scale_index, bool *taken)
{
    const pare__array *scale = &w->store->arrays[scale_index];
    bool e4m3 = codes->dtype == PARE_F8_E4M3;
    pare_entry entry = {.name = codes->name, .dtype = scale->dtype, .rank = codes->rank};
    memcpy(entry.shape, codes->shape, sizeof entry.shape);
    *taken = false;
    if (!pare_dtype_is_weight(scale->dtype))
        return PARE_OK;
    PARE_TRY(pare__entry_complete(&entry));
    PARE_TRY(scheme_of(w, codes->name, &entry.scheme));
    pare_quant_type type = e4m3 ? PARE_QUANT_E4M3 : PARE_QUANT_INT;
    if (entry.scheme.type != type) {
        entry.scheme = (pare_scheme){.type = type, .bits = 8};
        if (!guess_granularity(scale, &entry, &entry.scheme))
            return PARE_OK;
    }
    int64_t zero;
    PARE_TRY(find(w, codes->name, "_zero_point", &zero));
    entry.scheme.asymmetric = zero >= 0 && !e4m3;
    pare__slot *slot;
    PARE_TRY(new_slot(w, codes->name, e4m3 ? &pare__codec_float : &pare__codec_int, &slot));
    entry.name = slot->entry.name;
    entry.form = PARE_FORM_QUANT;
    slot->entry = entry;
    *taken = true;
    return bind(w, slot, -1);
}

static pare_status add_sparse(work *w, const char *module, const pare__array *values)
{
    pare__slot *slot;
    int64_t shape, offsets;
    char *name;
    PARE_TRY(need(w, module, ".shape", &shape));
    PARE_TRY(find(w, module, ".row_offsets", &offsets));
    PARE_REQUIRE(
        offsets >= 0 && values->rank == 1 && pare_dtype_is_weight(values->dtype),
        PARE_ERR_UNSUPPORTED,
        "%s: '%s' is compressed in another way than sparse-bitmask of F32, F16 or BF16, which "
        "this version does not read",
        w->store->path, module);
    PARE_TRY(join_name(module, 0, ".weight", &name));
    pare_status status = new_slot(w, name, &pare__codec_sparse, &slot);
    free(name);
    PARE_TRY(status);
    slot->entry.form = PARE_FORM_SPARSE;
    slot->entry.dtype = values->dtype;
    slot->entry.nonzeros = values->shape[0];
    PARE_TRY(read_shape(w, shape, &slot->entry));
    return bind(w, slot, -1);
}

/* ---- bitsandbytes ---------------------------------------------------------------------------- */

/* Double quantisation: blocks of 256 scales, in f32, around an offset. */
static pare_status read_nested(const work *w, const char *name, const pare__json *state,
                               pare_entry *entry)
{
    int64_t block = 0;
    double offset = 0;
    const char *dtype = pare__json_string(pare__json_get(state, "nested_dtype"));
    if (!pare__json_get(state, "nested_blocksize"))
        return PARE_OK;
    PARE_REQUIRE(pare__json_int(pare__json_get(state, "nested_blocksize"), &block) &&
                     block == PARE_NESTED_BLOCK && dtype && strcmp(dtype, "float32") == 0,
                 PARE_ERR_UNSUPPORTED,
                 "%s: the scales of '%s' are quantised in another way than by %d in float32, which "
                 "this version does not read",
                 w->store->path, name, PARE_NESTED_BLOCK);
    PARE_REQUIRE(pare__json_real(pare__json_get(state, "nested_offset"), &offset) &&
                     offset >= -(double)FLT_MAX && offset <= (double)FLT_MAX,
                 PARE_ERR_DAMAGED, "%s: the quant_state of '%s' has no nested_offset",
                 w->store->path, name);
    entry->scheme.double_quant = true;
    entry->scale_offset = (float)offset;
    return PARE_OK;
}

static pare_status read_state(const work *w, const char *name, const pare__json *state,
                              pare_entry *entry)
{
    static const struct {
        const char *name;
        pare_dtype dtype;
    } dtypes[] = {{"float32", PARE_F32}, {"float16", PARE_F16}, {"bfloat16", PARE_BF16}};
    const char *dtype = pare__json_string(pare__json_get(state, "dtype"));
    const pare__json *shape = pare__json_get(state, "shape");
    int64_t block = 0;
    size_t rank = pare__json_size(shape), known = 0;
    bool sound = dtype && pare__json_is_array(shape) && rank >= 1 && rank <= PARE_MAX_RANK &&
                 pare__json_int(pare__json_get(state, "blocksize"), &block) && block > 0;
    for (size_t d = 0; d < rank && sound; d++)
        sound = pare__json_int(pare__json_at(shape, d), &entry->shape[d]);
    while (sound && known < 3 && strcmp(dtype, dtypes[known].name) != 0)
        known++;
    PARE_REQUIRE(sound && known < 3, PARE_ERR_DAMAGED,
                 "%s: the quant_state of '%s' lacks a dtype, shape or blocksize", w->store->path,
                 name);
    entry->rank = (int)rank;
    entry->dtype = dtypes[known].dtype;
    entry->form = PARE_FORM_QUANT;
    entry->scheme = (pare_scheme){.type = PARE_QUANT_NF4,
                                  .bits = 4,
                                  .granularity = PARE_PER_GROUP,
                                  .block_rows = 1,
                                  .block_cols = block};
    PARE_TRY(pare__entry_complete(entry));
    return read_nested(w, name, state, entry);
}

static pare_status add_nf4(work *w, const char *name, const pare__array *state)
{
    const pare__file *file = &w->store->files[state->file];
    PARE_REQUIRE(ends_with(state->name, "__nf4"), PARE_ERR_UNSUPPORTED,
                 "%s: '%s' is bitsandbytes' fp4, which this version does not read", w->store->path,
                 name);
    PARE_REQUIRE(state->dtype == PARE_U8 && state->bytes <= STATE_LIMIT, PARE_ERR_DAMAGED,
                 "%s: '%s' is no quant_state", w->store->path, state->name);
    char text[STATE_LIMIT];
    pare__slot *slot;
    pare__json *root;
    PARE_TRY(pare__file_read(file->fd, file->path, text, state->bytes, state->offset));
    PARE_TRY(pare__json_parse(text, (size_t)state->bytes, state->name, &root));
    pare_status status = new_slot(w, name, &pare__codec_nf4, &slot);
    if (status == PARE_OK)
        status = read_state(w, name, root, &slot->entry);
    pare__json_free(&root);
    PARE_TRY(status);
    return bind(w, slot, pare__nf4_state_part(&slot->entry));
}

/* ---- one array after the other --------------------------------------------------------------- */

/* A tensor of several arrays, if this array is the one that shows it. */
static pare_status try_group(work *w, int64_t index)
{
    static const char state_mark[] = ".quant_state.bitsandbytes__";
    const pare__array *array = &w->store->arrays[index];
    const char *mark = strstr(array->name, state_mark);
    pare_status status = PARE_OK;
    bool taken = false;
    char *base = NULL;
    int64_t other = -1;
    if (mark && mark != array->name) {
        PARE_TRY_DONE(join_name(array->name, strlen(mark), "", &base));
        PARE_TRY_DONE(add_nf4(w, base, array));
    } else if (ends_with(array->name, "_packed")) {
        PARE_TRY_DONE(join_name(array->name, 7, "", &base));
        PARE_TRY_DONE(find(w, base, "_scale", &other));
        if (other >= 0 && array->dtype != PARE_I32)
            PARE_TRY_DONE(pare__error(PARE_ERR_UNSUPPORTED, __func__,
                                      "%s: '%s' is packed in %s, which this version does not read",
                                      w->store->path, base, pare_dtype_name(array->dtype)));
        if (array->dtype == PARE_I32)
            PARE_TRY_DONE(add_packed(w, base, array));
    } else if (ends_with(array->name, ".bitmask")) {
        PARE_TRY_DONE(join_name(array->name, 8, "", &base));
        PARE_TRY_DONE(find(w, base, ".compressed", &other));
        if (other >= 0)
            PARE_TRY_DONE(add_sparse(w, base, &w->store->arrays[other]));
    } else if (array->dtype == PARE_I8 || array->dtype == PARE_F8_E4M3) {
        PARE_TRY_DONE(find(w, array->name, "_scale", &other));
        if (other >= 0)
            PARE_TRY_DONE(add_bytes(w, array, other, &taken));
    }
done:
    free(base);
    return status;
}

static pare_status add_dense(work *w, int64_t index)
{
    const pare__array *array = &w->store->arrays[index];
    pare__slot *slot;
    PARE_TRY(new_slot(w, array->name, &pare__codec_dense, &slot));
    slot->entry.dtype = array->dtype;
    slot->entry.rank = array->rank;
    memcpy(slot->entry.shape, array->shape, sizeof array->shape);
    slot->array[0] = index;
    return pare__entry_complete(&slot->entry);
}

static pare_status parse_config(const pare_store *store, pare__json **root)
{
    char *text = NULL;
    pare__text wrapped = {0};
    *root = NULL;
    if (store->config)
        return pare__json_parse(store->config, strlen(store->config), "config.json", root);
    if (!store->quantization_config)
        return PARE_OK;
    pare__text_add(&wrapped, "{\"quantization_config\":%s}", store->quantization_config);
    PARE_TRY(pare__text_take(&wrapped, &text));
    pare_status status = pare__json_parse(text, strlen(text), "quantization_config", root);
    free(text);
    return status;
}

pare_status pare__recognise(pare_store *store)
{
    work w = {.store = store};
    pare_status status = PARE_OK;
    pare_scheme any;
    pare__store_sort_arrays(store);
    PARE_TRY_DONE(pare__check_duplicates(store));
    PARE_TRY_DONE(parse_config(store, &w.config));
    PARE_TRY_DONE(
        pare__hf_config_scheme(w.config, "", &any)); /* a method that is not read at all */
    PARE_TRY_DONE(pare__calloc(store->array_count + 1, sizeof *w.used, &w.used));
    for (size_t i = 0; i < store->array_count; i++)
        if (!w.used[i])
            PARE_TRY_DONE(try_group(&w, (int64_t)i));
    for (size_t i = 0; i < store->array_count; i++)
        if (!w.used[i])
            PARE_TRY_DONE(add_dense(&w, (int64_t)i));
done:
    free(w.used);
    pare__json_free(&w.config);
    return status;
}
