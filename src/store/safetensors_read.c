/* safetensors_read.c - one .safetensors file: its header becomes arrays. Nothing of it is believed
 * before it is checked: names, types, shapes, and that the tensors cover the data without holes or
 * overlaps. */
#include "store_impl.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PREFIX = 8, HEADER_LIMIT = 100 * 1000 * 1000 };

static uint64_t little_endian(const uint8_t bytes[PREFIX])
{
    uint64_t n = 0;
    for (int i = PREFIX - 1; i >= 0; i--)
        n = n << 8 | bytes[i];
    return n;
}

bool pare__st_probe(const char *path)
{
    struct stat st;
    uint8_t begin[PREFIX + 1];
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool whole = pread(fd, begin, sizeof begin, 0) == (ssize_t)sizeof begin;
    close(fd);
    return whole && begin[PREFIX] == '{' && little_endian(begin) < (uint64_t)st.st_size;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

typedef struct reader {
    pare_store *store;
    const char *path;
    int file;
    int64_t data, data_size; /* where the data begin, and how many bytes there are */
} reader;

static pare_status read_shape(const reader *r, const pare__json *node, pare__array *array)
{
    PARE_REQUIRE(pare__json_is_array(node), PARE_ERR_DAMAGED,
                 "%s: tensor '%s' has no list called shape", r->path, array->name);
    size_t rank = pare__json_size(node);
    PARE_REQUIRE(rank <= PARE_MAX_RANK, PARE_ERR_UNSUPPORTED,
                 "%s: tensor '%s' has %zu dimensions; at most %d can be taken", r->path,
                 array->name, rank, PARE_MAX_RANK);
    array->rank = (int)rank;
    for (size_t d = 0; d < rank; d++)
        PARE_REQUIRE(pare__json_int(pare__json_at(node, d), &array->shape[d]) &&
                         array->shape[d] >= 0,
                     PARE_ERR_DAMAGED, "%s: dimension %zu of tensor '%s' is no count", r->path, d,
                     array->name);
    return PARE_OK;
}

static pare_status read_offsets(const reader *r, const pare__json *node, pare__array *array)
{
    int64_t begin, end, count, bytes;
    char shape[160];
    PARE_REQUIRE(pare__json_is_array(node) && pare__json_size(node) == 2 &&
                     pare__json_int(pare__json_at(node, 0), &begin) &&
                     pare__json_int(pare__json_at(node, 1), &end) && begin >= 0 && end >= begin,
                 PARE_ERR_DAMAGED, "%s: tensor '%s' has no two ascending data_offsets", r->path,
                 array->name);
    PARE_REQUIRE(
        end <= r->data_size, PARE_ERR_DAMAGED,
        "%s: tensor '%s' lies at [%lld, %lld) of the data, which has %lld bytes; was the file cut "
        "short?",
        r->path, array->name, (long long)begin, (long long)end, (long long)r->data_size);
    PARE_TRY(pare_shape_size(array->dtype, array->rank, array->shape, &count, &bytes));
    pare_shape_text(array->rank, array->shape, shape, sizeof shape);
    PARE_REQUIRE(count % 8 * pare_dtype_bits(array->dtype) % 8 == 0, PARE_ERR_DAMAGED,
                 "%s: tensor '%s' %s of %s does not end on a whole byte", r->path, array->name,
                 shape, pare_dtype_name(array->dtype));
    PARE_REQUIRE(
        end - begin == bytes, PARE_ERR_DAMAGED,
        "%s: tensor '%s' %s of %s needs %lld bytes, its data_offsets [%lld, %lld) give %lld",
        r->path, array->name, shape, pare_dtype_name(array->dtype), (long long)bytes,
        (long long)begin, (long long)end, (long long)(end - begin));
    array->file = r->file;
    array->offset = r->data + begin;
    array->bytes = bytes;
    return PARE_OK;
}

static pare_status read_tensor(const reader *r, const char *name, const pare__json *node)
{
    pare__array *array;
    PARE_REQUIRE(*name, PARE_ERR_DAMAGED, "%s: a tensor has an empty name", r->path);
    PARE_REQUIRE(pare__json_is_object(node), PARE_ERR_DAMAGED,
                 "%s: tensor '%s' is described by no object", r->path, name);
    PARE_TRY(pare__store_add_array(r->store, name, &array));
    const char *dtype = pare__json_string(pare__json_get(node, "dtype"));
    PARE_REQUIRE(dtype, PARE_ERR_DAMAGED, "%s: tensor '%s' has no dtype", r->path, name);
    PARE_REQUIRE(pare_dtype_parse(dtype, &array->dtype), PARE_ERR_UNSUPPORTED,
                 "%s: tensor '%s' has the unknown dtype '%s'", r->path, name, dtype);
    PARE_TRY(read_shape(r, pare__json_get(node, "shape"), array));
    return read_offsets(r, pare__json_get(node, "data_offsets"), array);
}

/* ---- metadata -------------------------------------------------------------------------------- */

static pare_status keep_text(char **to, const char *text)
{
    return *to ? PARE_OK : pare__strdup(text, to);
}

/* The caller's strings stay together as metadata; what pare writes is taken out. */
static pare_status read_metadata(const reader *r, const pare__json *node)
{
    PARE_REQUIRE(pare__json_is_object(node), PARE_ERR_DAMAGED, "%s: __metadata__ is no object",
                 r->path);
    pare_status status = PARE_OK;
    pare__json *rest = pare__json_new_object();
    size_t at = 0;
    const char *key;
    const pare__json *value;
    while (pare__json_next(node, &at, &key, &value)) {
        const char *text = pare__json_string(value);
        if (!text)
            PARE_TRY_DONE(pare__error(PARE_ERR_DAMAGED, __func__,
                                      "%s: __metadata__ '%s' is no string", r->path, key));
        if (strcmp(key, "pare") == 0)
            PARE_TRY_DONE(keep_text(&r->store->provenance, text));
        else if (strcmp(key, "quantization_config") == 0)
            PARE_TRY_DONE(keep_text(&r->store->quantization_config, text));
        else
            pare__json_set_string(rest, key, text);
    }
    if (!r->store->metadata)
        PARE_TRY_DONE(pare__json_dump(rest, 0, false, &r->store->metadata));
done:
    pare__json_free(&rest);
    return status;
}

/* ---- the header ------------------------------------------------------------------------------ */

static pare_status read_members(const reader *r, const pare__json *root)
{
    size_t at = 0;
    const char *key;
    const pare__json *value;
    while (pare__json_next(root, &at, &key, &value))
        PARE_TRY(strcmp(key, "__metadata__") == 0 ? read_metadata(r, value)
                                                  : read_tensor(r, key, value));
    return pare__check_offsets(r->store, r->file, r->data, r->data + r->data_size, true);
}

static pare_status header_size(const pare__file *file, int64_t *size)
{
    uint8_t prefix[PREFIX];
    PARE_REQUIRE(
        file->size >= PREFIX, PARE_ERR_DAMAGED,
        "%s is %lld bytes long; a .safetensors file begins with the 8 bytes of its header's "
        "length",
        file->path, (long long)file->size);
    PARE_TRY(pare__file_read(file->fd, file->path, prefix, PREFIX, 0));
    uint64_t n = little_endian(prefix);
    PARE_REQUIRE(
        n <= HEADER_LIMIT, PARE_ERR_DAMAGED,
        "%s: its first 8 bytes announce a header of %llu bytes; at most %d are allowed, so this is "
        "no .safetensors file or a damaged one",
        file->path, (unsigned long long)n, HEADER_LIMIT);
    PARE_REQUIRE(
        (int64_t)n <= file->size - PREFIX, PARE_ERR_DAMAGED,
        "%s: its header of %llu bytes reaches past the end of the file at %lld; was it cut short?",
        file->path, (unsigned long long)n, (long long)file->size);
    *size = (int64_t)n;
    return PARE_OK;
}

static pare_status read_header(pare_store *store, int file_index, int64_t size, char *text)
{
    const pare__file *file = &store->files[file_index];
    PARE_TRY(pare__file_read(file->fd, file->path, text, size, PREFIX));
    PARE_REQUIRE(size > 0 && text[0] == '{', PARE_ERR_DAMAGED,
                 "%s: the header at offset 8 does not begin with '{'", file->path);
    pare__json *root;
    PARE_TRY(pare__json_parse(text, (size_t)size, file->path, &root));
    reader r = {.store = store,
                .path = file->path,
                .file = file_index,
                .data = PREFIX + size,
                .data_size = file->size - PREFIX - size};
    pare_status status = read_members(&r, root);
    pare__json_free(&root);
    return status;
}

pare_status pare__st_load(pare_store *store, const char *path, int *file)
{
    int64_t size = 0;
    char *text;
    PARE_TRY(pare__store_add_file(store, path, file));
    PARE_TRY(header_size(&store->files[*file], &size));
    PARE_TRY(pare__calloc((size_t)size + 1, 1, &text));
    pare_status status = read_header(store, *file, size, text);
    free(text);
    return status;
}
