/* store_hf_dir.c - a Hugging Face model directory: config.json, safetensors in one file or several
 * with an index, and whatever else lies there. */
#include "store_impl.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const char one_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

enum { TEXT_LIMIT = 64 * 1024 * 1024, COPY_BYTES = 1024 * 1024 };

/* ---- side files ------------------------------------------------------------------------------ */

/* Weights and what describes them, in any format: these do not go along. */
static const char *const weight_patterns[] = {"*.safetensors",
                                              "*.safetensors.index.json",
                                              "*.bin",
                                              "*.bin.index.json",
                                              "*.pt",
                                              "*.pth",
                                              "*.ckpt",
                                              "*.h5",
                                              "*.msgpack",
                                              "*.onnx",
                                              "*.onnx_data",
                                              "*.gguf",
                                              "*.ot",
                                              "*.npz",
                                              "*.tflite",
                                              "*.mlmodel",
                                              "*.tar",
                                              "*.tar.*",
                                              "*.part", /* and what a run leaves beside outputs */
                                              "*.part/*",
                                              "*.journal",
                                              "*.report.json",
                                              "config.json",
                                              "pare.json",
                                              "quant_config.json",
                                              "quantize_config.json",
                                              "hf_quant_config.json",
                                              NULL};

static bool carried(const char *name)
{
    for (const char *const *pattern = weight_patterns; *pattern; pattern++)
        if (pare__glob(*pattern, name))
            return false;
    return true;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct listing {
    pare_store *store;
    char *only;      /* a top-level *.safetensors that is not one_file */
    int safetensors; /* how many */
    bool bin;        /* PyTorch's own files are there */
} listing;

static pare_status visit(void *user, const char *name, int64_t size)
{
    listing *list = user;
    pare_store *store = list->store;
    pare__side *side;
    bool top = !strchr(name, '/');
    if (top && pare__glob("*.safetensors", name)) {
        list->safetensors++;
        if (!list->only)
            PARE_TRY(pare__strdup(name, &list->only));
    }
    list->bin = list->bin || (top && (pare__glob("*.bin", name) || pare__glob("*.pt*", name)));
    if (!carried(name))
        return PARE_OK;
    PARE_TRY(pare__store_add_side(store, name, &side));
    side->file.size = size;
    return pare__join(store->path, name, &side->path);
}

static pare_status load_shard(pare_store *store, const char *name, int *file)
{
    char *path;
    PARE_TRY(pare__join(store->path, name, &path));
    pare_status status = pare__st_load(store, path, file);
    free(path);
    return status;
}

static pare_status load_text(const pare_store *store, const char *name, char **text)
{
    char *path;
    int64_t size;
    pare_status status = PARE_OK;
    PARE_TRY(pare__join(store->path, name, &path));
    if (pare__exists(path))
        status = pare__file_load(path, TEXT_LIMIT, text, &size);
    free(path);
    return status;
}

/* The shard of that name, opened once. */
static pare_status shard_of(pare_store *store, const char *name, const char *tensor, int *file)
{
    for (size_t i = 0; i < store->file_count; i++) {
        const char *path = store->files[i].path, *base = strrchr(path, '/');
        *file = (int)i;
        if (strcmp(base ? base + 1 : path, name) == 0)
            return PARE_OK;
    }
    PARE_REQUIRE(*name && name[0] != '.' && !strchr(name, '/'), PARE_ERR_DAMAGED,
                 "%s/%s: tensor '%s' lies in '%s', which is no file of this directory", store->path,
                 index_file, tensor, name);
    pare_status status = load_shard(store, name, file);
    if (status == PARE_ERR_NOT_FOUND)
        PARE_FAIL(PARE_ERR_DAMAGED, "%s/%s: the shard '%s' of tensor '%s' is missing", store->path,
                  index_file, name, tensor);
    return status;
}

/* Every tensor of the index must be in the shard that it names. */
static pare_status load_index(pare_store *store, const pare__json *root)
{
    const pare__json *map = pare__json_get(root, "weight_map"), *value;
    PARE_REQUIRE(pare__json_is_object(map), PARE_ERR_DAMAGED, "%s/%s has no weight_map",
                 store->path, index_file);
    size_t at = 0;
    const char *tensor;
    int file;
    while (pare__json_next(map, &at, &tensor, &value)) {
        const char *name = pare__json_string(value);
        PARE_REQUIRE(name, PARE_ERR_DAMAGED, "%s/%s: the shard of tensor '%s' is no string",
                     store->path, index_file, tensor);
        PARE_TRY(shard_of(store, name, tensor, &file));
    }
    pare__store_sort_arrays(store);
    PARE_TRY(pare__check_duplicates(store));
    for (at = 0; pare__json_next(map, &at, &tensor, &value);) {
        PARE_TRY(shard_of(store, pare__json_string(value), tensor, &file));
        int64_t array = pare__store_find_array(store, tensor);
        PARE_REQUIRE(array >= 0 && store->arrays[array].file == file, PARE_ERR_DAMAGED,
                     "%s/%s: tensor '%s' is not in '%s'", store->path, index_file, tensor,
                     pare__json_string(value));
    }
    return PARE_OK;
}

static pare_status load_weights(pare_store *store, const listing *list)
{
    char *path = NULL, *text = NULL;
    pare__json *root = NULL;
    int file;
    PARE_TRY(pare__join(store->path, one_file, &path));
    bool one = pare__exists(path);
    free(path);
    if (one)
        return load_shard(store, one_file, &file);
    PARE_TRY(load_text(store, index_file, &text));
    if (text) {
        pare_status status = pare__json_parse(text, strlen(text), index_file, &root);
        free(text);
        PARE_TRY(status);
        status = load_index(store, root);
        pare__json_free(&root);
        return status;
    }
    PARE_REQUIRE(list->safetensors <= 1, PARE_ERR_DAMAGED,
                 "%s holds %d .safetensors files but neither %s nor %s", store->path,
                 list->safetensors, one_file, index_file);
    if (list->only)
        return load_shard(store, list->only, &file);
    PARE_REQUIRE(!list->bin, PARE_ERR_UNSUPPORTED,
                 "%s holds PyTorch files but no .safetensors; convert it first (transformers: "
                 "save_pretrained with safe_serialization)",
                 store->path);
    PARE_FAIL(PARE_ERR_NOT_FOUND, "%s holds no .safetensors file, so it is no model directory",
              store->path);
}

static pare_status open_store(pare_store *store)
{
    listing list = {.store = store};
    pare_status status = PARE_OK;
    PARE_TRY_DONE(pare__walk(store->path, visit, &list));
    PARE_TRY_DONE(load_text(store, "config.json", &store->config));
    PARE_TRY_DONE(load_weights(store, &list));
    free(store->provenance);
    store->provenance = NULL;
    PARE_TRY_DONE(load_text(store, "pare.json", &store->provenance));
done:
    free(list.only);
    return status;
}

/* ---- layout ---------------------------------------------------------------------------------- */

typedef struct hf_state {
    pare__st_state shards;
    char *config, *index; /* NULL: not written */
} hf_state;

/* A file beside the shards: a text of ours, or one of the source's side files. */
typedef struct beside {
    const char *name, *text;
    int64_t side, size;
} beside;

static pare_status each_beside(pare_writer *writer,
                               pare_status (*visit_one)(pare_writer *, int file, const beside *))
{
    const hf_state *state = writer->format_state;
    const beside texts[] = {{.name = "config.json", .text = state->config},
                            {.name = index_file, .text = state->index},
                            {.name = "pare.json", .text = writer->provenance}};
    int file = (int)state->shards.count;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        beside one = texts[i];
        if (!one.text)
            continue;
        one.size = (int64_t)strlen(one.text);
        PARE_TRY(visit_one(writer, file++, &one));
    }
    for (size_t i = 0; writer->source && i < writer->source->side_count; i++) {
        const pare_side_file *side = &writer->source->sides[i].file;
        if (carried(side->name))
            PARE_TRY(
                visit_one(writer, file++,
                          &(beside){.name = side->name, .side = (int64_t)i, .size = side->size}));
    }
    return PARE_OK;
}

static pare_status add_file(pare_writer *writer, const char *name, int64_t size)
{
    char *path;
    int file;
    PARE_TRY(pare__join(writer->part_path, name, &path));
    pare_status status = pare__writer_add_file(writer, path, &file);
    free(path);
    PARE_TRY(status);
    writer->files[file].size = size;
    return PARE_OK;
}

static pare_status add_beside(pare_writer *writer, int file, const beside *one)
{
    (void)file;
    return add_file(writer, one->name, one->size);
}

/* Entries go to shards in order of names; an entry's arrays stay together. Returns how many shards.
 */
static int assign_shards(pare_writer *writer)
{
    int shard = 0;
    int64_t filled = 0;
    for (size_t i = 0; i < writer->slot_count; i++) {
        const pare__slot *slot = &writer->slots[i];
        int64_t bytes = slot->entry.stored_bytes;
        if (filled > 0 && bytes > writer->max_shard_size - filled) {
            shard++;
            filled = 0;
        }
        filled += bytes;
        for (int p = 0; p < PARE_MAX_PARTS; p++)
            if (slot->array[p] >= 0)
                writer->arrays[slot->array[p]].file = shard;
    }
    return shard + 1;
}

static void shard_name(int shard, int shards, char name[64])
{
    if (shards == 1)
        snprintf(name, 64, "%s", one_file);
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, shards);
}

static pare_status index_text(const pare_writer *writer, int shards, char **text)
{
    pare__json *root = pare__json_new_object();
    pare__json *metadata = pare__json_set_object(root, "metadata");
    pare__json *map = pare__json_set_object(root, "weight_map");
    int64_t total = 0;
    char name[64];
    for (size_t i = 0; i < writer->array_count; i++) {
        const pare__array *array = &writer->arrays[i];
        total += array->bytes;
        shard_name(array->file, shards, name);
        pare__json_set_string(map, array->name, name);
    }
    pare__json_set_int(metadata, "total_size", total);
    pare_status status = pare__json_dump(root, 2, true, text);
    pare__json_free(&root);
    return status;
}

/* Codes mean nothing without quantization_config, so a directory that has no config.json gets one
 * with just that. */
static pare_status config_text(const pare_writer *writer, char **text)
{
    if (writer->config || !writer->quantization_config)
        return pare__strdup(writer->config, text);
    pare__text alone = {0};
    pare__text_add(&alone, "{\"quantization_config\": %s}\n", writer->quantization_config);
    return pare__text_take(&alone, text);
}

static pare_status layout(pare_writer *writer)
{
    hf_state *state;
    char name[64];
    PARE_TRY(pare__calloc(1, sizeof *state, &state));
    writer->format_state = state;
    int shards = assign_shards(writer);
    PARE_TRY(pare__calloc((size_t)shards, sizeof *state->shards.headers, &state->shards.headers));
    state->shards.count = (size_t)shards;
    for (int i = 0; i < shards; i++) {
        shard_name(i, shards, name);
        PARE_TRY(add_file(writer, name, 0));
        PARE_TRY(pare__st_layout(writer, &state->shards, i, false));
    }
    PARE_TRY(config_text(writer, &state->config));
    if (shards > 1)
        PARE_TRY(index_text(writer, shards, &state->index));
    return each_beside(writer, add_beside);
}

/* ---- create and finish ----------------------------------------------------------------------- */

static pare_status create(pare_writer *writer, bool resume)
{
    const hf_state *state = writer->format_state;
    PARE_TRY(pare__make_directory(writer->part_path));
    return pare__st_create(writer, &state->shards, resume);
}

static pare_status copy_side(const pare_writer *writer, const pare__file *file, const beside *one)
{
    char *buffer;
    int64_t buffer_size = one->size < COPY_BYTES ? one->size : COPY_BYTES;
    PARE_TRY(pare__calloc((size_t)buffer_size, 1, &buffer));
    pare_status status = PARE_OK;
    for (int64_t at = 0; at < one->size && status == PARE_OK; at += buffer_size) {
        int64_t n = one->size - at < buffer_size ? one->size - at : buffer_size;
        status = pare_store_side_read(writer->source, one->side, at, n, buffer);
        if (status == PARE_OK)
            status = pare__file_write(file->fd, file->path, buffer, n, at);
    }
    free(buffer);
    return status;
}

static pare_status write_beside(pare_writer *writer, int file, const beside *one)
{
    const pare__file *f = &writer->files[file];
    const char *slash = strrchr(one->name, '/');
    if (slash) {
        char *folder;
        PARE_TRY(pare__strdup(f->path, &folder));
        *strrchr(folder, '/') = '\0';
        pare_status status = pare__make_directory(folder);
        free(folder);
        PARE_TRY(status);
    }
    PARE_TRY(pare__writer_make_file(writer, file));
    if (one->text)
        return pare__file_write(f->fd, f->path, one->text, one->size, 0);
    return copy_side(writer, f, one);
}

static pare_status finish(pare_writer *writer)
{
    return each_beside(writer, write_beside);
}

static void close_writer(pare_writer *writer)
{
    hf_state *state = writer->format_state;
    if (!state)
        return;
    pare__st_free(&state->shards);
    free(state->config), free(state->index);
    free(state);
    writer->format_state = NULL;
}

/* ---- what engines load ----------------------------------------------------------------------- */

static pare_status accepts(const pare_entry *entry, const char *format_option)
{
    size_t length = strlen(entry->name);
    if (entry->form == PARE_FORM_SPARSE)
        PARE_REQUIRE(strcmp(format_option, "sparse-bitmask") == 0, PARE_ERR_ARGUMENT,
                     "%s: a model directory keeps sparse tensors dense unless the format is "
                     "sparse-bitmask",
                     entry->name);
    if (entry->form != PARE_FORM_QUANT)
        return PARE_OK;
    PARE_REQUIRE(
        entry->rank == 2, PARE_ERR_ARGUMENT,
        "%s: compressed-tensors has no quantised convolutions; an .h5 or .safetensors file "
        "takes them",
        entry->name);
    PARE_REQUIRE(length > 7 && strcmp(entry->name + length - 7, ".weight") == 0, PARE_ERR_ARGUMENT,
                 "%s: compressed-tensors quantises weights of modules only; an .h5 or .safetensors "
                 "file takes it",
                 entry->name);
    if (entry->scheme.granularity == PARE_PER_BLOCK)
        PARE_REQUIRE(entry->rows % entry->scheme.block_rows == 0 &&
                         entry->cols % entry->scheme.block_cols == 0,
                     PARE_ERR_ARGUMENT,
                     "%s: compressed-tensors loads blocks only where they divide the matrix",
                     entry->name);
    return PARE_OK;
}

static bool claims(const char *path)
{
    (void)path;
    return true;
}

const pare__format pare__format_hf_dir = {.name = "hf",
                                          .probe = pare__is_directory,
                                          .open = open_store,
                                          .claims = claims,
                                          .layout = layout,
                                          .create = create,
                                          .finish = finish,
                                          .close_writer = close_writer,
                                          .accepts = accepts};
