/* safetensors_write.c - headers of .safetensors files, for the single file and for a directory's
 * shards.
 *
 * Tensors lie in order of element size, then name, so every one is aligned to its elements; the
 * header is padded with spaces so that the data begin at a multiple of 64.
 */
#include "store_impl.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PREFIX = 8, ALIGN = 64, HEADER_LIMIT = 100 * 1000 * 1000 };

/* Provenance is the first thing in a header, so that its place is known. */
static const char provenance_at[] = "{\"__metadata__\":{\"pare\":\"";

static int by_size_and_name(const void *a, const void *b)
{
    const pare__array *x = *(pare__array *const *)a, *y = *(pare__array *const *)b;
    int bits = pare_dtype_bits(y->dtype) - pare_dtype_bits(x->dtype);
    return bits ? bits : strcmp(x->name, y->name);
}

static pare_status add_metadata(const pare_writer *writer, pare__json *meta, bool single)
{
    const char *source = writer->source ? writer->source->metadata : NULL;
    if (single && writer->provenance)
        pare__json_set_string(meta, "pare", writer->provenance);
    pare__json_set_string(meta, "format", "pt");
    if (source) {
        pare__json *old;
        size_t at = 0;
        const char *key;
        const pare__json *value;
        PARE_TRY(pare__json_parse(source, strlen(source), "the source's metadata", &old));
        while (pare__json_next(old, &at, &key, &value)) {
            const char *text = pare__json_string(value);
            if (text && strcmp(key, "pare") != 0 && strcmp(key, "quantization_config") != 0)
                pare__json_set_string(meta, key, text);
        }
        pare__json_free(&old);
    }
    if (single && writer->quantization_config)
        pare__json_set_string(meta, "quantization_config", writer->quantization_config);
    return PARE_OK;
}

/* Relative offsets into arrays[].offset, and the header's text. */
static pare_status describe(const pare_writer *writer, pare__array **sorted, size_t count,
                            bool single, int64_t *data_size, char **text)
{
    pare__json *root = pare__json_new_object();
    pare_status status = PARE_OK;
    *data_size = 0;
    PARE_TRY_DONE(add_metadata(writer, pare__json_set_object(root, "__metadata__"), single));
    for (size_t i = 0; i < count; i++) {
        pare__array *a = sorted[i];
        a->offset = *data_size;
        if (strcmp(a->name, "__metadata__") == 0 || !pare__add(*data_size, a->bytes, data_size))
            PARE_TRY_DONE(pare__error(PARE_ERR_ARGUMENT, __func__,
                                      "%s: a tensor called '%s' cannot be kept in .safetensors",
                                      writer->path, a->name));
        pare__json *node = pare__json_set_object(root, a->name);
        pare__json_set_string(node, "dtype", pare_dtype_name(a->dtype));
        pare__json *shape = pare__json_set_array(node, "shape");
        for (int d = 0; d < a->rank; d++)
            pare__json_set_int(shape, NULL, a->shape[d]);
        pare__json *offsets = pare__json_set_array(node, "data_offsets");
        pare__json_set_int(offsets, NULL, a->offset);
        pare__json_set_int(offsets, NULL, *data_size);
    }
    PARE_TRY_DONE(pare__json_dump(root, 0, false, text));
done:
    pare__json_free(&root);
    return status;
}

static pare_status frame(const pare_writer *writer, const char *text,
                         struct pare__st_header *header)
{
    size_t length = strlen(text), padded = (length + PREFIX + ALIGN - 1) / ALIGN * ALIGN - PREFIX;
    PARE_REQUIRE(
        padded <= HEADER_LIMIT, PARE_ERR_ARGUMENT,
        "%s: a header of %zu bytes is over the %d that .safetensors allows; write an .h5 or "
        "smaller shards",
        writer->path, padded, HEADER_LIMIT);
    char *bytes;
    PARE_TRY(pare__calloc(padded + PREFIX, 1, &bytes));
    for (int i = 0; i < PREFIX; i++)
        bytes[i] = (char)(padded >> 8 * i & 0xff);
    memcpy(bytes + PREFIX, text, length);
    memset(bytes + PREFIX + length, ' ', padded - length);
    free(header->bytes);
    header->bytes = bytes;
    header->size = (int64_t)(padded + PREFIX);
    return PARE_OK;
}

pare_status pare__st_layout(pare_writer *writer, pare__st_state *state, int file, bool single)
{
    pare_status status = PARE_OK;
    pare__array **sorted = NULL;
    char *text = NULL;
    size_t count = 0;
    int64_t data_size;
    struct pare__st_header *header = &state->headers[file];
    PARE_TRY(pare__calloc(writer->array_count + 1, sizeof *sorted, &sorted));
    for (size_t i = 0; i < writer->array_count; i++)
        if (writer->arrays[i].file == file)
            sorted[count++] = &writer->arrays[i];
    qsort(sorted, count, sizeof *sorted, by_size_and_name);
    PARE_TRY_DONE(describe(writer, sorted, count, single, &data_size, &text));
    PARE_TRY_DONE(frame(writer, text, header));
    for (size_t i = 0; i < count; i++)
        sorted[i]->offset += header->size;
    writer->files[file].size = header->size + data_size;
done:
    free(text);
    free(sorted);
    return status;
}

/* ---- on disk --------------------------------------------------------------------------------- */

static bool hex_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Whether a header on disk is the one that would be written. Digests in the provenance may be those
 * of a run that was cut while it finished. */
static bool same_header(const char *disk, const char *ours, int64_t size)
{
    size_t begin = PREFIX + strlen(provenance_at), n = (size_t)size;
    bool inside = n > begin && memcmp(ours + PREFIX, provenance_at, begin - PREFIX) == 0;
    for (size_t i = 0; i < n; i++) {
        if (inside && i >= begin) {
            if (ours[i] == '\\' && disk[i] == '\\' && i + 1 < n && disk[i + 1] == ours[i + 1]) {
                i++;
                continue;
            }
            inside = ours[i] != '"';
        }
        bool digits = inside && i >= begin && hex_digit(ours[i]) && hex_digit(disk[i]);
        if (disk[i] != ours[i] && !digits)
            return false;
    }
    return true;
}

static pare_status check_file(pare_writer *writer, int file, const struct pare__st_header *header)
{
    pare__file *f = &writer->files[file];
    struct stat st;
    char *disk;
    f->fd = open(f->path, O_RDWR | O_CLOEXEC);
    PARE_REQUIRE(f->fd >= 0 && fstat(f->fd, &st) == 0, PARE_ERR_DAMAGED,
                 "%s cannot be continued: %s; remove it to start afresh", f->path, strerror(errno));
    PARE_REQUIRE(st.st_size == f->size, PARE_ERR_DAMAGED,
                 "%s is %lld bytes long, this run would make %lld; remove it to start afresh",
                 f->path, (long long)st.st_size, (long long)f->size);
    PARE_TRY(pare__calloc((size_t)header->size, 1, &disk));
    pare_status status = pare__file_read(f->fd, f->path, disk, header->size, 0);
    bool same = status == PARE_OK && same_header(disk, header->bytes, header->size);
    free(disk);
    PARE_TRY(status);
    PARE_REQUIRE(same, PARE_ERR_DAMAGED,
                 "%s was begun with other tensors or settings; remove it to start afresh", f->path);
    return PARE_OK;
}

pare_status pare__st_create(pare_writer *writer, const pare__st_state *state, bool resume)
{
    for (size_t i = 0; i < state->count; i++) {
        const struct pare__st_header *header = &state->headers[i];
        if (resume) {
            PARE_TRY(check_file(writer, (int)i, header));
            continue;
        }
        PARE_TRY(pare__writer_make_file(writer, (int)i));
        PARE_TRY(pare__file_write(writer->files[i].fd, writer->files[i].path, header->bytes,
                                  header->size, 0));
    }
    return PARE_OK;
}

void pare__st_free(pare__st_state *state)
{
    for (size_t i = 0; i < state->count; i++)
        free(state->headers[i].bytes);
    free(state->headers);
    *state = (pare__st_state){0};
}
