/* array.c - arrays in files that are no checkpoints: which format it is, and reads of a part. */
#include "array_impl.h"
#include "store_impl.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static bool is_npy(const pare_array *array, int64_t size)
{
    char magic[6];
    return size >= (int64_t)sizeof magic &&
           pread(array->fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
           memcmp(magic, "\x93NUMPY", sizeof magic) == 0;
}

static pare_status open_kind(pare_array *array, const char *dataset)
{
    int64_t size = 0;
    PARE_TRY(pare__file_open(array->path, &array->fd, &size));
    if (is_npy(array, size)) {
        PARE_REQUIRE(!dataset || !*dataset, PARE_ERR_ARGUMENT,
                     "%s is a .npy file: it has one array, and none by the name \"%s\"",
                     array->path, dataset);
        PARE_TRY(pare__npy_open(array, size));
    } else {
        PARE_REQUIRE(pare__format_h5.probe(array->path), PARE_ERR_UNSUPPORTED,
                     "%s is neither a .npy file nor an HDF5 file", array->path);
        PARE_TRY(pare__h5_array_open(array, size, dataset ? dataset : ""));
    }
    array->count = pare_tensor_count(&array->tensor);
    return PARE_OK;
}

pare_status pare_array_open(const char *path, const char *dataset, pare_array **out)
{
    PARE_REQUIRE(path && *path && out, PARE_ERR_ARGUMENT, "an array's path is empty");
    pare_array *array = NULL;
    PARE_TRY(pare__calloc(1, sizeof *array, &array));
    array->fd = -1;
    pare_status status = pare__strdup(path, &array->path);
    if (status == PARE_OK)
        status = open_kind(array, dataset);
    if (status != PARE_OK)
        pare_array_close(&array);
    PARE_TRY(status);
    *out = array;
    return PARE_OK;
}

void pare_array_close(pare_array **array)
{
    pare_array *a = array ? *array : NULL;
    if (!a)
        return;
    *array = NULL;
    pare__h5_array_close(&a->h5);
    if (a->fd >= 0)
        close(a->fd);
    free(a->path);
    free(a);
}

const pare_tensor *pare_array_tensor(const pare_array *array)
{
    return &array->tensor;
}

bool pare_array_is_plain(const pare_array *array)
{
    return !array->h5;
}

bool pare_array_has(const char *path, const char *dataset)
{
    return path && dataset && *dataset && pare__format_h5.probe(path) &&
           pare__h5_array_has(path, dataset);
}

pare_status pare_array_read(const pare_array *array, int64_t first, int64_t count, void *values)
{
    PARE_REQUIRE(first >= 0 && count >= 0 && first <= array->count && count <= array->count - first,
                 PARE_ERR_ARGUMENT,
                 "%s: elements %" PRId64 " to %" PRId64 " are not all among its %" PRId64,
                 array->path, first, first + count, array->count);
    if (count == 0)
        return PARE_OK;
    if (array->h5)
        return pare__h5_array_read(array, first, count, values);
    int64_t size =
        pare_dtype_bits(array->tensor.dtype) / 8; /* the whole array's bytes fit 63 bits */
    return pare__file_read(array->fd, array->path, values, count * size,
                           array->offset + first * size);
}
