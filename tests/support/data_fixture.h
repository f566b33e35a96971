/* data_fixture.h - small files of data, good and bad, for the tests of arrays and datasets. */
#ifndef PARE_TEST_DATA_FIXTURE_H
#define PARE_TEST_DATA_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that grow; starts as { 0 }. */
typedef struct blob {
    unsigned char *bytes;
    size_t size;
} blob;

void blob_add(blob *b, const void *bytes, size_t size);
void blob_free(blob *b);

/* folder/name with these bytes; the path, freed by the caller. */
char *data_write(const char *folder, const char *name, const void *bytes, size_t size);

/* A .npy file of format `version`: descr and shape as they stand in the header, "<u2", "(3, 4)". */
blob npy_blob(int version, const char *descr, const char *shape, const void *bytes, size_t size);
char *data_npy(const char *folder, const char *name, const char *descr, const char *shape,
               const void *bytes, size_t size);

/* An IDX file of bytes. */
blob idx_blob(int rank, const uint32_t *sizes, const void *bytes, size_t size);
char *data_idx(const char *folder, const char *name, int rank, const uint32_t *sizes,
               const void *bytes, size_t size);

/* The same bytes gzipped (stored, in one member). */
blob gzip_blob(const void *bytes, size_t size);

#endif
