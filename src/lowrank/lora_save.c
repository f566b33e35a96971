/* lora_save.c - low-rank factors as an adapter of peft: a folder with
 *
 *   adapter_config.json         rank, alpha, and which modules have factors
 *   adapter_model.safetensors   base_model.model.<module>.lora_A.weight [rank, in],
 *                               base_model.model.<module>.lora_B.weight [out, rank], F32
 *
 * where <module> is the weight's name in the checkpoint without its ".weight". A convolution's A is
 * [rank, I, kh, kw], its B [O, rank, 1, 1]. A weight stored input by output (GPT-2's Conv1D) has
 * the same factors and "fan_in_fan_out". */
#include "lora_impl.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

#define SUFFIX ".weight"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static pare_status check_save(const pare_lora *lora, const pare__lora_layer *l)
{
    const pare_param *p = pare_model_param(lora->model, l->param);
    PARE_REQUIRE(ends_with(p->name, SUFFIX), PARE_ERR_UNSUPPORTED,
                 "%s: adapters are of modules with a weight, and this is none: leave it out, or "
                 "write the merged model",
                 p->name);
    PARE_REQUIRE(!l->grouped, PARE_ERR_UNSUPPORTED,
                 "%s: adapters have no convolutions in groups: leave it out, or write the merged "
                 "model",
                 p->name);
    return PARE_OK;
}

/* ---- the config ------------------------------------------------------------------------------ */

/* The module's own name, behind the last point: "q_proj"; not ended by a 0. */
static const char *last_part(const char *name, size_t *length)
{
    size_t end = strlen(name) - strlen(SUFFIX), begin = end;
    while (begin > 0 && name[begin - 1] != '.')
        begin--;
    *length = end - begin;
    return name + begin;
}

static bool same_part(const char *a, const char *b)
{
    size_t n, m;
    if (!ends_with(a, SUFFIX) || !ends_with(b, SUFFIX))
        return false;
    const char *x = last_part(a, &n), *y = last_part(b, &m);
    return n == m && memcmp(x, y, n) == 0;
}

/* Whether all modules of the names that are chosen are: then these say enough. */
static bool names_will_do(const pare_lora *lora)
{
    for (size_t i = 0; i < lora->count; i++)
        for (int64_t k = 0; k < lora->param_count; k++) {
            const pare_param *p = pare_model_param(lora->model, k);
            const char *name = pare_model_param(lora->model, lora->layers[i].param)->name;
            if (lora->layer_of[k] < 0 && p->value.rank >= 2 && same_part(name, p->name))
                return false;
        }
    return true;
}

static pare_status add_names(const pare_lora *lora, pare__json *root)
{
    pare__json *list = pare__json_set_array(root, "target_modules");
    for (size_t i = 0; i < lora->count; i++) {
        const char *name = pare_model_param(lora->model, lora->layers[i].param)->name;
        bool told = false;
        for (size_t k = 0; k < i; k++)
            told |= same_part(name, pare_model_param(lora->model, lora->layers[k].param)->name);
        pare__text part = {0};
        char *text = NULL;
        size_t length;
        const char *own = last_part(name, &length);
        if (told)
            continue;
        pare__text_bytes(&part, own, length);
        PARE_TRY(pare__text_take(&part, &text));
        pare__json_set_string(list, NULL, text);
        free(text);
    }
    return PARE_OK;
}

/* A pattern of the whole names. */
static pare_status add_pattern(const pare_lora *lora, pare__json *root)
{
    pare__text pattern = {0};
    char *text = NULL;
    for (size_t i = 0; i < lora->count; i++) {
        const char *name = pare_model_param(lora->model, lora->layers[i].param)->name;
        const char *end = name + strlen(name) - strlen(SUFFIX);
        pare__text_add(&pattern, i ? "|" : "");
        for (const char *c = name; c < end; c++)
            pare__text_add(&pattern, strchr(".^$*+?()[]{}|\\", *c) ? "\\%c" : "%c", *c);
    }
    PARE_TRY(pare__text_take(&pattern, &text));
    pare__json_set_string(root, "target_modules", text);
    free(text);
    return PARE_OK;
}

static void set_null(pare__json *root, const char *key)
{
    pare__json_set_string(root, key, NULL);
}

static pare_status describe(const pare_lora *lora, const char *base, char **text)
{
    pare_status status = PARE_OK;
    const pare_lora_options *o = &lora->options;
    pare__json *root = pare__json_new_object();
    bool tokens = pare_model_facts_of(lora->model)->output == PARE_OUTPUT_TOKENS;
    bool whole = o->alpha == floor(o->alpha) && o->alpha < 1e15;
    pare__json_set_string(root, "peft_type", "LORA");
    pare__json_set_string(root, "task_type", tokens ? "CAUSAL_LM" : NULL);
    pare__json_set_string(root, "base_model_name_or_path", base);
    set_null(root, "revision");
    pare__json_set_bool(root, "inference_mode", true);
    pare__json_set_int(root, "r", o->rank);
    if (whole)
        pare__json_set_int(root, "lora_alpha", (int64_t)o->alpha);
    else
        pare__json_set_real(root, "lora_alpha", o->alpha);
    pare__json_set_real(root, "lora_dropout", 0);
    PARE_TRY_DONE(names_will_do(lora) ? add_names(lora, root) : add_pattern(lora, root));
    pare__json_set_bool(root, "fan_in_fan_out",
                        pare_model_param(lora->model, lora->layers[0].param)->transposed);
    pare__json_set_string(root, "bias", "none");
    pare__json_set_bool(root, "use_rslora", false);
    pare__json_set_bool(root, "init_lora_weights", true);
    set_null(root, "modules_to_save");
    set_null(root, "layers_to_transform");
    set_null(root, "layers_pattern");
    pare__json_set_object(root, "rank_pattern");
    pare__json_set_object(root, "alpha_pattern");
    PARE_TRY_DONE(pare__json_dump(root, 2, true, text));
done:
    pare__json_free(&root);
    return status;
}

static pare_status save_config(const pare_lora *lora, const char *base, const char *folder)
{
    pare_status status = PARE_OK;
    char *path = NULL, *text = NULL;
    PARE_TRY_DONE(pare__join(folder, "adapter_config.json", &path));
    PARE_TRY_DONE(describe(lora, base, &text));
    PARE_TRY_DONE(pare__file_save(path, text, (int64_t)strlen(text)));
done:
    free(text);
    free(path);
    return status;
}

/* ---- the factors ----------------------------------------------------------------------------- */

typedef struct output {
    const pare_lora *lora;
    pare_entry *entries; /* [2·layers], by name */
    char **names;        /* [2·layers] */
    pare_writer *writer;
} output;

/* Of layer k the factor A (which 0) or B. */
static pare_tensor factor_at(const pare__lora_layer *l, int which)
{
    return which ? l->b : l->a;
}

static pare_status add_entry(output *o, size_t k, int which)
{
    const pare__lora_layer *l = &o->lora->layers[k];
    const pare_param *p = pare_model_param(o->lora->model, l->param);
    pare_entry *e = &o->entries[2 * k + (size_t)which];
    char **name = &o->names[2 * k + (size_t)which];
    pare__text text = {0};
    pare__text_add(&text, "base_model.model.");
    pare__text_bytes(&text, p->name, strlen(p->name) - strlen(SUFFIX));
    pare__text_add(&text, ".lora_%c.weight", which ? 'B' : 'A');
    PARE_TRY(pare__text_take(&text, name));
    *e = (pare_entry){.name = *name, .dtype = PARE_F32, .rank = p->value.rank};
    memcpy(e->shape, factor_at(l, which).shape, 2 * sizeof *e->shape);
    for (int d = 2; d < p->value.rank; d++)
        e->shape[d] = which ? 1 : p->value.shape[d];
    if (!which)
        e->shape[1] = p->value.shape[1];
    pare_shape_matrix(e->rank, e->shape, &e->rows, &e->cols);
    e->piece_rows = pare_piece_rows(e->dtype, e->cols);
    return PARE_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const pare_entry *)a)->name, ((const pare_entry *)b)->name);
}

/* The factor that a sorted entry is. */
static pare_tensor tensor_of(const output *o, const char *name)
{
    for (size_t i = 0; i < 2 * o->lora->count; i++)
        if (o->names[i] == name)
            return factor_at(&o->lora->layers[i / 2], (int)(i % 2));
    return (pare_tensor){0};
}

/* A factor is small: it goes in one piece. */
static pare_status write_entry(output *o, int64_t index)
{
    pare_status status = PARE_OK;
    const pare_entry *e = &o->entries[index];
    pare_backend *be = o->lora->be;
    int64_t bytes = e->rows * e->cols * 4;
    pare_parts parts;
    float *values = NULL;
    void *scratch = NULL;
    int64_t size = pare_writer_scratch(o->writer, index, e->rows);
    PARE_TRY_DONE(pare__pages((size_t)bytes, &values));
    PARE_TRY_DONE(pare__pages((size_t)size, &scratch));
    PARE_TRY_DONE(pare_backend_download(be, values, tensor_of(o, e->name).data, bytes));
    pare_rows rows = {.count = e->rows, .values = values};
    PARE_TRY_DONE(
        pare_writer_encode(o->writer, pare_backend_host(be), index, &rows, scratch, &parts));
    PARE_TRY_DONE(pare_writer_write(o->writer, &parts));
    pare_writer_add_sums(o->writer, index, &parts.sums);
done:
    pare__pages_free(scratch, (size_t)size);
    pare__pages_free(values, (size_t)bytes);
    return status;
}

static pare_status save_factors(const pare_lora *lora, const char *folder)
{
    pare_status status = PARE_OK;
    size_t count = 2 * lora->count;
    output o = {.lora = lora};
    char *path = NULL;
    bool good = false;
    PARE_TRY_DONE(pare__join(folder, "adapter_model.safetensors", &path));
    PARE_TRY_DONE(pare__calloc(count, sizeof *o.entries, &o.entries));
    PARE_TRY_DONE(pare__calloc(count, sizeof *o.names, &o.names));
    for (size_t i = 0; i < count; i++)
        PARE_TRY_DONE(add_entry(&o, i / 2, (int)(i % 2)));
    qsort(o.entries, count, sizeof *o.entries, by_name);
    PARE_TRY_DONE(pare_writer_create(
        &(pare_writer_options){.path = path, .entries = o.entries, .count = (int64_t)count}, false,
        &o.writer));
    for (size_t i = 0; i < count; i++)
        PARE_TRY_DONE(write_entry(&o, (int64_t)i));
    PARE_TRY_DONE(pare_writer_finish(o.writer));
    good = true;
done:
    pare_writer_free(&o.writer, !good);
    for (size_t i = 0; o.names && i < count; i++)
        free(o.names[i]);
    free(o.names);
    free(o.entries);
    free(path);
    return status;
}

/* ---- the folder ------------------------------------------------------------------------------ */

pare_status pare__lora_check_saves(const pare_lora *lora)
{
    for (size_t i = 0; i < lora->count; i++) {
        const pare_param *p = pare_model_param(lora->model, lora->layers[i].param);
        PARE_TRY(check_save(lora, &lora->layers[i]));
        PARE_REQUIRE(
            p->transposed == pare_model_param(lora->model, lora->layers[0].param)->transposed,
            PARE_ERR_UNSUPPORTED,
            "%s: an adapter of weights that are stored input by output has no others: choose one "
            "kind, or write the merged model",
            p->name);
    }
    return PARE_OK;
}

pare_status pare_lora_save(pare_lora *lora, pare_model *model, const char *base, const char *path,
                           bool overwrite)
{
    pare_status status = PARE_OK;
    pare__text text = {0};
    char *part = NULL;
    PARE_REQUIRE(lora && lora->memory && model == lora->model && path, PARE_ERR_ARGUMENT,
                 "factors are saved once the part of the training is made");
    PARE_TRY(pare__lora_check_saves(lora));
    PARE_REQUIRE(overwrite || !pare__exists(path), PARE_ERR_EXISTS,
                 "%s exists: choose another name, or allow it to be replaced", path);
    pare__text_add(&text, "%s.part", path);
    PARE_TRY(pare__text_take(&text, &part));
    PARE_TRY_DONE(pare__remove_tree(part));
    PARE_TRY_DONE(pare__make_directory(part));
    PARE_TRY_DONE(save_config(lora, base, part));
    PARE_TRY_DONE(save_factors(lora, part));
    PARE_TRY_DONE(pare__rename(part, path, overwrite));
    PARE_TRY_DONE(pare__sync_parent(path));
done:
    if (status != PARE_OK)
        (void)pare__remove_tree(part);
    free(part);
    return status;
}
