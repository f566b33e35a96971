/* array_impl.h - the inside of an open array, which its two formats fill. */
#ifndef PARE_ARRAY_IMPL_H
#define PARE_ARRAY_IMPL_H

#include "pare/array.h"

#include <stdint.h>

typedef struct pare__h5_array pare__h5_array; /* a dataset that only HDF5 can read */

struct pare_array {
    pare_tensor tensor;
    int64_t count; /* elements */
    char *path;
    int fd;             /* of a plain array, else -1: */
    int64_t offset;     /* where its elements begin */
    pare__h5_array *h5; /* NULL: plain */
};

/* Fill tensor and offset of an array whose path, fd and file size are known. */
pare_status pare__npy_open(pare_array *array, int64_t size);
pare_status pare__h5_array_open(pare_array *array, int64_t size, const char *dataset);

pare_status pare__h5_array_read(const pare_array *array, int64_t first, int64_t count,
                                void *values);
void pare__h5_array_close(pare__h5_array **h5); /* NULL is fine */

/* Whether the HDF5 file has a dataset of that name. */
bool pare__h5_array_has(const char *path, const char *dataset);

#endif
