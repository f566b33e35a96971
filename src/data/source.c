/* source.c - the numbers of a data file as one block, whatever holds them. */
#include "data_impl.h"

#include "base/gzip.h"

#include <string.h>
#include <unistd.h>

#define CIFAR_PIXELS 3072

/* ---- opening --------------------------------------------------------------------------------- */

static pare_status start(const char *path, pare__source *s)
{
    *s = (pare__source){0};
    return pare__strdup(path, &s->path);
}

void pare__source_close(pare__source *s)
{
    for (int i = 0; i < s->files; i++) {
        close(s->file[i].fd);
        free(s->file[i].path);
    }
    pare_array_close(&s->array);
    pare__pages_free(s->memory, (size_t)s->bytes);
    free(s->path);
    *s = (pare__source){0};
}

/* Sizes a source by its shape. */
static pare_status measure(pare__source *s)
{
    PARE_TRY(pare_shape_size(s->tensor.dtype, s->tensor.rank, s->tensor.shape, NULL, &s->bytes));
    PARE_REQUIRE(s->bytes > 0, PARE_ERR_DAMAGED, "%s is empty", s->path);
    return PARE_OK;
}

/* Adds the file behind what is there already. */
static pare_status add_file(pare__source *s, const char *path, int64_t *size)
{
    PARE_ASSERT(s->files < PARE__SOURCE_FILES);
    pare__source_file *file = &s->file[s->files];
    *file = (pare__source_file){.fd = -1, .first = s->bytes};
    PARE_TRY(pare__file_open(path, &file->fd, size));
    pare_status status = pare__strdup(path, &file->path);
    if (status != PARE_OK)
        close(file->fd);
    else
        s->files++;
    return status;
}

static pare_status open_raw(const char *path, pare_dtype dtype, pare__source *s)
{
    int64_t size, element = pare_dtype_bits(dtype) / 8;
    PARE_TRY(start(path, s));
    PARE_TRY(add_file(s, path, &size));
    PARE_REQUIRE(size % element == 0, PARE_ERR_DAMAGED,
                 "%s has %" PRId64 " bytes, which is no multiple of %" PRId64 ": it is cut off",
                 path, size, element);
    s->tensor = pare_vector(NULL, dtype, size / element);
    return measure(s);
}

static pare_status open_array(const char *path, const char *dataset, pare__source *s)
{
    PARE_TRY(start(path, s));
    PARE_TRY(pare_array_open(path, dataset, &s->array));
    s->tensor = *pare_array_tensor(s->array);
    PARE_TRY(measure(s));
    if (pare_array_is_plain(s->array) || s->bytes > PARE__UNPACK_LIMIT)
        return PARE_OK;
    /* unpacking a chunk for every item would take far longer than unpacking all of them once */
    PARE_TRY(pare__pages((size_t)s->bytes, &s->memory));
    PARE_TRY(pare_array_read(s->array, 0, pare_tensor_count(&s->tensor), s->memory));
    pare_array_close(&s->array);
    return PARE_OK;
}

/* ---- IDX ------------------------------------------------------------------------------------- */

/* The four bytes that an IDX file begins with, and then its rank sizes. */
static pare_status idx_magic(pare__source *s, const unsigned char magic[4])
{
    PARE_REQUIRE(magic[0] == 0 && magic[1] == 0 && magic[3] >= 1 && magic[3] <= PARE_MAX_RANK,
                 PARE_ERR_DAMAGED, "%s does not begin as an IDX file does", s->path);
    PARE_REQUIRE(magic[2] == 0x08, PARE_ERR_UNSUPPORTED,
                 "%s: IDX files of bytes are read (type 0x08), this one has type 0x%02x", s->path,
                 magic[2]);
    s->tensor.dtype = PARE_U8;
    s->tensor.rank = magic[3];
    return PARE_OK;
}

static pare_status idx_shape(pare__source *s, const unsigned char *sizes)
{
    for (int i = 0; i < s->tensor.rank; i++)
        s->tensor.shape[i] = (int64_t)sizes[4 * i] << 24 | sizes[4 * i + 1] << 16 |
                             sizes[4 * i + 2] << 8 | sizes[4 * i + 3];
    return measure(s);
}

static pare_status open_idx_file(pare__source *s)
{
    unsigned char head[4 + 4 * PARE_MAX_RANK];
    int64_t size;
    PARE_TRY(add_file(s, s->path, &size));
    pare__source_file *file = &s->file[0];
    PARE_TRY(pare__file_read(file->fd, file->path, head, 4, 0));
    PARE_TRY(idx_magic(s, head));
    PARE_TRY(pare__file_read(file->fd, file->path, head + 4, 4 * s->tensor.rank, 4));
    PARE_TRY(idx_shape(s, head + 4));
    file->offset = 4 + 4 * s->tensor.rank;
    char shape[128];
    PARE_REQUIRE(s->bytes == size - file->offset, PARE_ERR_DAMAGED,
                 "%s: its header says %s, %" PRId64 " bytes, and %" PRId64 " follow: get it again",
                 s->path, pare_shape_text(s->tensor.rank, s->tensor.shape, shape, sizeof shape),
                 s->bytes, size - file->offset);
    return PARE_OK;
}

static pare_status unpack_idx(pare__source *s, pare__gzip *gzip)
{
    unsigned char head[4 * PARE_MAX_RANK];
    PARE_TRY(pare__gzip_read(gzip, head, 4));
    PARE_TRY(idx_magic(s, head));
    PARE_TRY(pare__gzip_read(gzip, head, 4 * s->tensor.rank));
    PARE_TRY(idx_shape(s, head));
    PARE_REQUIRE(s->bytes <= PARE__UNPACK_LIMIT, PARE_ERR_UNSUPPORTED,
                 "%s unpacks to %" PRId64 " bytes, more than the 1 GiB that is held in memory: "
                 "unpack it on the disk (gunzip -k)",
                 s->path, s->bytes);
    PARE_TRY(pare__pages((size_t)s->bytes, &s->memory));
    PARE_TRY(pare__gzip_read(gzip, s->memory, s->bytes));
    return pare__gzip_end(gzip);
}

/* Whether the file is gzipped. */
static pare_status is_packed(const char *path, bool *packed)
{
    int fd;
    int64_t size;
    unsigned char magic[2] = {0};
    PARE_TRY(pare__file_open(path, &fd, &size));
    pare_status status = pare__file_read(fd, path, magic, size < 2 ? size : 2, 0);
    close(fd);
    *packed = pare__is_gzip(magic, 2);
    return status;
}

static pare_status open_idx(const char *path, pare__source *s)
{
    bool packed;
    PARE_TRY(start(path, s));
    PARE_TRY(is_packed(path, &packed));
    if (!packed)
        return open_idx_file(s);
    pare__gzip *gzip = NULL;
    PARE_TRY(pare__gzip_open(path, &gzip));
    pare_status status = unpack_idx(s, gzip);
    pare__gzip_close(&gzip);
    return status;
}

/* ---- CIFAR ----------------------------------------------------------------------------------- */

/* Which record a file of this size consists of; 0 if none. */
static int64_t cifar_record(int64_t size)
{
    for (int64_t labels = 1; labels <= 2; labels++)
        if (size > 0 && size % (CIFAR_PIXELS + labels) == 0)
            return CIFAR_PIXELS + labels;
    return 0;
}

static pare_status open_cifar(char *const *paths, int count, pare__source *s)
{
    int64_t record = 0;
    PARE_TRY(start(paths[0], s));
    for (int i = 0; i < count; i++) {
        int64_t size;
        PARE_TRY(add_file(s, paths[i], &size));
        int64_t has = cifar_record(size);
        PARE_REQUIRE(
            has, PARE_ERR_DAMAGED,
            "%s has %" PRId64
            " bytes, which is no multiple of a CIFAR record (3073 bytes, CIFAR-100: 3074): "
            "it is cut off, or another format",
            paths[i], size);
        PARE_REQUIRE(record == 0 || record == has, PARE_ERR_DAMAGED,
                     "%s has records of %" PRId64 " bytes, %s of %" PRId64, paths[i], has, paths[0],
                     record);
        record = has;
        PARE_REQUIRE(pare__add(s->bytes, size, &s->bytes), PARE_ERR_DAMAGED, "%s is too large",
                     paths[i]);
    }
    s->tensor = pare_matrix(NULL, PARE_U8, s->bytes / record, record);
    s->cifar = true;
    return PARE_OK;
}

/* ---- the doors: a failure leaves nothing open ------------------------------------------------ */

static pare_status opened(pare__source *s, pare_status status)
{
    if (status != PARE_OK)
        pare__source_close(s);
    return status;
}

pare_status pare__source_open_raw(const char *path, pare_dtype dtype, pare__source *s)
{
    return opened(s, open_raw(path, dtype, s));
}

pare_status pare__source_open_idx(const char *path, pare__source *s)
{
    return opened(s, open_idx(path, s));
}

pare_status pare__source_open_array(const char *path, const char *dataset, pare__source *s)
{
    return opened(s, open_array(path, dataset, s));
}

pare_status pare__source_open_cifar(char *const *paths, int count, pare__source *s)
{
    return opened(s, open_cifar(paths, count, s));
}

/* ---- reading --------------------------------------------------------------------------------- */

pare_status pare__source_read(const pare__source *s, int64_t at, int64_t size, void *to)
{
    PARE_ASSERT(at >= 0 && size >= 0 && at <= s->bytes && size <= s->bytes - at);
    if (s->memory) {
        memcpy(to, s->memory + at, (size_t)size);
        return PARE_OK;
    }
    if (s->array) {
        int64_t element = pare_dtype_bits(s->tensor.dtype) / 8;
        return pare_array_read(s->array, at / element, size / element, to);
    }
    char *next = to;
    for (int i = 0; i < s->files && size > 0; i++) {
        const pare__source_file *file = &s->file[i];
        int64_t end = i + 1 < s->files ? s->file[i + 1].first : s->bytes;
        if (at >= end)
            continue;
        int64_t part = size < end - at ? size : end - at;
        PARE_TRY(
            pare__file_read(file->fd, file->path, next, part, file->offset + at - file->first));
        next += part;
        at += part;
        size -= part;
    }
    return PARE_OK;
}
