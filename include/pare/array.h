/* array.h - one n-dimensional array in a file that is no checkpoint: .npy, or a dataset of an .h5.
 */
#ifndef PARE_ARRAY_H
#define PARE_ARRAY_H

#include "pare/tensor.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pare_array pare_array;

/* Opens a .npy file (dataset NULL or ""; format 1 to 3, C order, little-endian) or a dataset of an
 * HDF5 file (NULL or "": the only one in its root). Integers, F16, F32, F64, U8 …;
 * PARE_ERR_NOT_FOUND, PARE_ERR_DAMAGED, PARE_ERR_UNSUPPORTED (big-endian, Fortran order, objects;
 * neither format). HDF5's own library reads the metadata of an .h5, and a file made to deceive can
 * crash it: open only what you trust. */
pare_status pare_array_open(const char *path, const char *dataset, pare_array **array);
void pare_array_close(pare_array **array);

/* dtype, rank and shape (data is NULL). */
const pare_tensor *pare_array_tensor(const pare_array *array);
/* Whether its elements lie in the file as they are, one after another: then reading any few is
 * quick and allocates nothing. False for an .h5 in chunks, which HDF5 gathers and unpacks. */
bool pare_array_is_plain(const pare_array *array);
bool pare_array_has(const char *path, const char *dataset); /* an .h5 with that dataset */

/* Elements [first, first + count) in row-major order, in the array's dtype. Any thread. Outside the
 * array: PARE_ERR_ARGUMENT. */
pare_status pare_array_read(const pare_array *array, int64_t first, int64_t count, void *values);

/* Writes a .npy of F32 [rows, cols]: create, add some rows at a time, finish (renames into place).
 * What exists at path is PARE_ERR_EXISTS unless overwrite; until finish it is not touched. */
typedef struct pare_npy_writer pare_npy_writer;
pare_status pare_npy_create(const char *path, int64_t rows, int64_t cols, bool overwrite,
                            pare_npy_writer **writer);
pare_status pare_npy_add(pare_npy_writer *writer, const float *values, int64_t rows);
pare_status pare_npy_finish(pare_npy_writer *writer);
void pare_npy_free(pare_npy_writer **writer); /* unfinished: removes what was written */

#ifdef __cplusplus
}
#endif
#endif
