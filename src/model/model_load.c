/* model_load.c - a checkpoint's tensors into a model's parameters.
 *
 * First everything is compared: names, shapes, types; all that does not fit is one error. Then each
 * tensor is read in pieces of some megabytes, decoded, made f32, turned where the checkpoint holds
 * it transposed, and looked at: NaN and Inf are refused, exact zeros become a mask. All of that is
 * the host's work, in the parameter's own memory where the host can see it; else a piece (of a
 * turned tensor: the whole) is made beside it and uploaded.
 */
#include "node.h"

#include <string.h>

#define PIECE ((int64_t)4 << 20) /* bytes of f32 read at a time, at least one row */
#define LISTED 20                /* names in a sentence */

/* ---- what does not fit ----------------------------------------------------------------------- */

/* One kind of misfit: its names, as far as they are listed. */
typedef struct misfit {
    pare__text names;
    int64_t count;
} misfit;

static void note(misfit *m, const char *name, const char *detail)
{
    if (m->count++ < LISTED)
        pare__text_add(&m->names, "%s%s%s", m->count > 1 ? ", " : "", name, detail);
}

/* A line for a kind, if there is any of it. */
static void add_line(pare__text *lines, misfit *m, const pare_model *model, const pare_store *store,
                     const char *what)
{
    if (m->count == 0)
        return;
    pare__text_add(lines, "%s%s does not fit the model (%s): %lld %s %s: %s",
                   lines->length ? "\n" : "", pare_store_path(store),
                   model->arch ? model->arch : model->facts.family, (long long)m->count,
                   m->count == 1 ? "tensor" : "tensors", what, m->names.data ? m->names.data : "?");
    if (m->count > LISTED)
        pare__text_add(lines, " and %lld more", (long long)m->count - LISTED);
}

static bool is_ignored(const pare_model *model, const char *name)
{
    for (const char *const *glob = model->ignored; glob && *glob; glob++)
        if (pare__glob(*glob, name))
            return true;
    return false;
}

/* A parameter beside the entry of its name. */
static void compare(const pare_model *model, int64_t index, const pare_entry *entry, misfit *m)
{
    int rank;
    int64_t shape[PARE_MAX_RANK];
    char detail[512], a[192], b[192];
    pare_model_stored_shape(model, index, &rank, shape);
    if (!pare_dtype_is_weight(entry->dtype)) {
        snprintf(detail, sizeof detail, " holds %s", pare_dtype_name(entry->dtype));
        note(m, entry->name, detail);
    } else if (entry->rank != rank ||
               memcmp(entry->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        snprintf(detail, sizeof detail, " is %s, not %s",
                 pare_shape_text(entry->rank, entry->shape, a, sizeof a),
                 pare_shape_text(rank, shape, b, sizeof b));
        note(m, entry->name, detail);
    }
}

/* used: which entries a parameter has; NULL: others are passed over. */
static pare_status check(const pare_model *model, const pare_store *store, const int64_t *entry_of,
                         const bool *used)
{
    misfit missing = {0}, extra = {0}, other = {0};
    pare__text lines = {0};
    char *text = NULL;
    for (size_t i = 0; i < model->param_count; i++) {
        if (entry_of[i] < 0)
            note(&missing, model->params[i].name, "");
        else
            compare(model, (int64_t)i, pare_store_entry(store, entry_of[i]), &other);
    }
    for (int64_t e = 0; used && e < pare_store_count(store); e++) {
        const char *name = pare_store_entry(store, e)->name;
        if (!used[e] && !is_ignored(model, name))
            note(&extra, name, "");
    }
    add_line(&lines, &missing, model, store, "missing");
    add_line(&lines, &extra, model, store, "too much");
    add_line(&lines, &other, model, store, "of another shape or type");
    pare__text_free(&missing.names);
    pare__text_free(&extra.names);
    pare__text_free(&other.names);
    PARE_TRY(pare__text_take(&lines, &text));
    pare_status status = *text ? pare__error_lines(PARE_ERR_DAMAGED, __func__, text) : PARE_OK;
    free(text);
    return status;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Memory for the pieces of one tensor after the other. */
typedef struct pieces {
    pare_backend *be; /* of the host */
    char *raw, *scratch;
    float *f32;   /* rows of the checkpoint that have no place of their own */
    float *whole; /* a turned tensor that the host cannot see, or that is not F32 */
    void *half;   /* values in BF16, for a backend that the host cannot see */
    size_t raw_size, scratch_size, f32_size, whole_size, half_size;
} pieces;

/* Turns rows of the checkpoint, [count, out], into columns [out, in] of the value from column
 * `first` on. */
static void turn(const float *rows, int64_t count, int64_t first, float *value, int64_t out,
                 int64_t in)
{
    enum { TILE = 16 };
    for (int64_t o = 0; o < out; o += TILE)
        for (int64_t i = 0; i < count; i++)
            for (int64_t t = o; t < out && t < o + TILE; t++)
                value[t * in + first + i] = rows[i * out + t];
}

/* Rows [first, first + count) of an entry, decoded, to y (f32). */
static pare_status read_f32(pare_store *store, int64_t index, int64_t first, int64_t count,
                            pieces *p, float *y)
{
    const pare_entry *entry = pare_store_entry(store, index);
    int64_t n = count * entry->cols, scratch = pare_store_scratch(store, index, count);
    bool direct = entry->dtype == PARE_F32;
    PARE_TRY(pare__grow(&p->scratch, &p->scratch_size, (size_t)scratch + 64, 1));
    char *aligned = p->scratch + (64 - (uintptr_t)p->scratch % 64) % 64;
    if (!direct)
        PARE_TRY(
            pare__grow(&p->raw, &p->raw_size, (size_t)(n * pare_dtype_bits(entry->dtype) / 8), 1));
    PARE_TRY(pare_store_read_values(store, p->be, index, first, count, direct ? (void *)y : p->raw,
                                    aligned));
    if (direct)
        return PARE_OK;
    return pare_cast(p->be, &(pare_cast_args){.x = pare_vector(p->raw, entry->dtype, n),
                                              .y = pare_vector(y, PARE_F32, n)});
}

/* Whether values are made where they will be. */
static bool in_place(const pare_model *model, const pare_param *param)
{
    return pare_backend_is_host(model->be) && param->value.dtype == PARE_F32;
}

/* n values from element `first` of a parameter on, in what it is held in. */
static pare_status put(const pare_model *model, const pare_param *param, int64_t first,
                       const float *values, int64_t n, pieces *p)
{
    const void *from = values;
    int64_t size = pare_dtype_bits(param->value.dtype) / 8;
    char *place = (char *)param->value.data + first * size;
    if (param->value.dtype == PARE_BF16) {
        bool host = pare_backend_is_host(model->be);
        if (!host)
            PARE_TRY(pare__grow(&p->half, &p->half_size, (size_t)n, (size_t)size));
        void *half = host ? place : p->half;
        pare_tensor x = pare_vector((void *)(uintptr_t)values, PARE_F32, n);
        PARE_TRY(pare_cast(p->be, &(pare_cast_args){.x = x, .y = pare_vector(half, PARE_BF16, n)}));
        from = half;
    }
    return pare_backend_upload(model->be, place, from, n * size);
}

/* One piece of a parameter; adds its exact zeros. */
static pare_status read_piece(pare_model *model, pare_param *param, pare_store *store,
                              int64_t index, int64_t first, int64_t count, pieces *p,
                              int64_t *zeros)
{
    const pare_entry *entry = pare_store_entry(store, index);
    bool there = in_place(model, param), apart = param->transposed || !there;
    int64_t n = count * entry->cols;
    pare_stats_result found;
    if (apart)
        PARE_TRY(pare__grow(&p->f32, &p->f32_size, (size_t)n, sizeof *p->f32));
    float *rows = apart ? p->f32 : (float *)param->value.data + first * entry->cols;
    PARE_TRY(read_f32(store, index, first, count, p, rows));
    PARE_TRY(pare_stats(p->be,
                        &(pare_stats_args){.x = pare_vector(rows, PARE_F32, n), .result = &found}));
    PARE_REQUIRE(found.first_bad < 0, PARE_ERR_DAMAGED, "%s: %s holds %s in row %lld, column %lld",
                 pare_store_path(store), entry->name,
                 rows[found.first_bad] != rows[found.first_bad] ? "NaN" : "Inf",
                 (long long)(first + found.first_bad / entry->cols),
                 (long long)(found.first_bad % entry->cols));
    *zeros += found.zeros;
    if (param->transposed)
        turn(rows, count, first, there ? param->value.data : p->whole, entry->cols, entry->rows);
    else
        PARE_TRY(put(model, param, first * entry->cols, rows, n, p));
    return PARE_OK;
}

/* Rows of a piece: whole blocks of the scheme, and about PIECE bytes of f32. */
static int64_t piece_rows(const pare_entry *entry)
{
    int64_t align = pare_entry_align(entry), cols = entry->cols > 0 ? entry->cols : 1;
    int64_t rows = PIECE / (int64_t)sizeof(float) / cols / align * align;
    return rows > 0 ? rows : align;
}

static pare_status read_values(pare_model *model, pare_param *param, pare_store *store,
                               int64_t index, pieces *p, int64_t *zeros)
{
    const pare_entry *entry = pare_store_entry(store, index);
    int64_t step = piece_rows(entry), count = entry->rows * entry->cols;
    bool aside = param->transposed && !in_place(model, param);
    *zeros = 0;
    if (aside)
        PARE_TRY(pare__grow(&p->whole, &p->whole_size, (size_t)count, sizeof *p->whole));
    for (int64_t first = 0; first < entry->rows && entry->cols > 0; first += step) {
        int64_t rows = entry->rows - first < step ? entry->rows - first : step;
        PARE_TRY(read_piece(model, param, store, index, first, rows, p, zeros));
    }
    if (aside)
        PARE_TRY(put(model, param, 0, p->whole, count, p));
    return PARE_OK;
}

/* Activations that the checkpoint's scheme rounds: int8 by token or with one scale is what products
 * here can do. */
static pare_status read_activation(pare_param *param, const pare_entry *entry,
                                   const pare_store *store)
{
    param->act = PARE_ACT_NONE;
    param->act_scale = 0;
    if (entry->form != PARE_FORM_QUANT || entry->scheme.activation == PARE_ACT_NONE)
        return PARE_OK;
    PARE_REQUIRE(entry->scheme.type == PARE_QUANT_INT, PARE_ERR_UNSUPPORTED,
                 "%s: %s has fp8 inputs, which this version does not run; take fp8 weights alone "
                 "(fp8) or int8 (w8a8)",
                 pare_store_path(store), entry->name);
    param->act = entry->scheme.activation;
    param->act_scale = entry->act_scale;
    return PARE_OK;
}

/* Whether a checkpoint says that it was pruned: by a step of a recipe, or while it was trained. */
static bool was_pruned(const char *provenance)
{
    static const char masks[] = "  masks: ";
    if (strstr(provenance, "prune:"))
        return true;
    for (const char *at = strstr(provenance, masks); at; at = strstr(at + 1, masks))
        if (strncmp(at + strlen(masks), "dense", 5) != 0) /* these fell before the end */
            return true;
    return false;
}

/* Whether exact zeros of an entry are pruned weights. Rounding to few bits makes zeros too: of a
 * quantised entry they count only if the checkpoint says that it was pruned. */
static bool zeros_are_pruned(const pare_store *store, const pare_entry *entry)
{
    const char *provenance = pare_store_provenance(store);
    return entry->form != PARE_FORM_QUANT || (provenance && was_pruned(provenance));
}

/* The mask of what is not 0 now. */
static pare_status mask_zeros(pare_model *model, int64_t index)
{
    pare_status status = PARE_OK;
    pare__stage values = {0}, marks = {0};
    PARE_TRY_DONE(pare__stage_open(model->be, &values));
    PARE_TRY_DONE(pare__stage_open(model->be, &marks));
    PARE_TRY_DONE(pare_model_mask(model, index));
    const pare_param *param = &model->params[index];
    int64_t count = pare_tensor_count(&param->value), step = PARE__STAGE / (int64_t)sizeof(float);
    for (int64_t i = 0, n; i < count; i += n) {
        n = count - i < step ? count - i : step;
        float *value = (float *)param->value.data + i, *seen = pare__stage_at(&values, value);
        uint8_t *mask = pare__stage_at(&marks, param->mask + i);
        PARE_TRY_DONE(pare_backend_download(model->be, seen, value, n * (int64_t)sizeof *value));
        for (int64_t e = 0; e < n; e++)
            mask[e] = seen[e] != 0;
        PARE_TRY_DONE(pare_backend_upload(model->be, param->mask + i, mask, n));
    }
done:
    pare__stage_close(&marks);
    pare__stage_close(&values);
    return status;
}

static pare_status read_param(pare_model *model, int64_t i, pare_store *store, int64_t index,
                              bool masks, pieces *p)
{
    pare_param *param = &model->params[i];
    const pare_entry *entry = pare_store_entry(store, index);
    int64_t zeros, count = entry->rows * entry->cols;
    PARE_TRY(read_activation(param, entry, store));
    PARE_TRY(read_values(model, param, store, index, p, &zeros));
    bool weight = param->role == PARE_ROLE_LINEAR || param->role == PARE_ROLE_CONV;
    param->mask = NULL;
    if (masks && weight && zeros_are_pruned(store, entry) && zeros > 0 &&
        zeros >= (count + 99) / 100)
        PARE_TRY(mask_zeros(model, i));
    return PARE_OK;
}

/* part: the checkpoint may hold more. */
static pare_status load(pare_model *model, pare_store *store, bool masks, bool part)
{
    pare_status status = PARE_OK;
    int64_t *entry_of = NULL;
    bool *used = NULL;
    PARE_REQUIRE(model && store && model->prepared, PARE_ERR_ARGUMENT,
                 "a model must be prepared before it loads values");
    pieces p = {.be = pare_backend_host(model->be)};
    PARE_TRY_DONE(pare__calloc(model->param_count, sizeof *entry_of, &entry_of));
    PARE_TRY_DONE(pare__calloc((size_t)pare_store_count(store), sizeof *used, &used));
    for (size_t i = 0; i < model->param_count; i++) {
        entry_of[i] = pare_store_find(store, model->params[i].name);
        if (entry_of[i] >= 0)
            used[entry_of[i]] = true;
    }
    PARE_TRY_DONE(check(model, store, entry_of, part ? NULL : used));
    for (size_t i = 0; i < model->param_count; i++) {
        const pare_entry *entry = pare_store_entry(store, entry_of[i]);
        pare_store_prefetch(store, entry_of[i], 0, entry->rows);
        PARE_TRY_DONE(read_param(model, (int64_t)i, store, entry_of[i], masks, &p));
    }
done:
    free(p.raw);
    free(p.scratch);
    free(p.f32);
    free(p.whole);
    free(p.half);
    free(used);
    free(entry_of);
    return status;
}

pare_status pare_model_load(pare_model *model, pare_store *store, bool masks)
{
    return load(model, store, masks, false);
}

pare_status pare_model_load_block(pare_model *block, pare_store *store, bool masks)
{
    return load(block, store, masks, true);
}

pare_status pare_model_set_value(pare_model *model, int64_t param, pare_tensor values)
{
    PARE_REQUIRE(model && param >= 0 && (size_t)param < model->param_count && model->values_arena,
                 PARE_ERR_ARGUMENT, "a value needs a parameter of a model that was prepared");
    pare_param *p = &model->params[param];
    int64_t rows, cols;
    pare_shape_matrix(p->value.rank, p->value.shape, &rows, &cols);
    PARE_REQUIRE(values.dtype == PARE_F32 && values.rank == 2 && values.shape[0] == rows &&
                     values.shape[1] == cols,
                 PARE_ERR_ARGUMENT, "%s takes F32 values of [%lld, %lld]", p->name, (long long)rows,
                 (long long)cols);
    PARE_TRY(pare__copy(model, values, p->value, false));
    if (p->mask)
        PARE_TRY(mask_zeros(model, param));
    return PARE_OK;
}
