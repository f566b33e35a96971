/* store_case.h - tensors of known content, to write to any container and to read back in every way.
 */
#ifndef PARE_TEST_STORE_CASE_H
#define PARE_TEST_STORE_CASE_H

#include "h5_sample.h"

/* A tensor with all its rows; values depend on the name. Freed by h5_samples_free. Where scheme is
 * NULL it is dense; "sparse" keeps a third. */
h5_sample store_case(const char *name, const char *scheme, pare_dtype dtype, int rank,
                     const int64_t *shape);

/* Writes samples (sorted here) to path with this format option; NULL: the natural one. */
void store_case_write(const char *path, const char *format, pare_backend *be, h5_sample *samples,
                      int64_t count);

/* Reads a sample in its own form and decoded, whole and in ranges at odd places; what is decoded is
 * compared with formulas of its own. */
void store_case_check(pare_store *store, pare_backend *be, const h5_sample *sample);

/* Opens path and checks every sample. */
void store_case_check_all(const char *path, pare_backend *be, const h5_sample *samples,
                          int64_t count);

#endif
