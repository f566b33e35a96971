/* h5_fixture.h - a folder with a native checkpoint of all samples (h5_sample.h), for tests that
 * read or damage it. */
#ifndef PARE_TEST_H5_FIXTURE_H
#define PARE_TEST_H5_FIXTURE_H

#include "h5_sample.h"

#define H5_PROVENANCE "{\"pare\": \"test\", \"seed\": 7}"

typedef struct h5_fixture {
    char *folder;
    char path[4096], copy[4096], source_path[4096];
    pare_backend *be;
    pare_store *source;
    h5_sample *samples;
    int64_t count;
    char *bytes; /* of the file at path; a NUL behind them */
    int64_t size, data_begin;
} h5_fixture;

/* CMocka's group setup and teardown. */
int h5_fixture_setup(void **state);
int h5_fixture_teardown(void **state);

/* A file's bytes with a NUL behind them, freed by the caller. */
char *h5_load(const char *path, int64_t *size);

/* Fails unless opening f->copy, holding these bytes, gives this status. */
void h5_assert_copy(const h5_fixture *f, const char *bytes, int64_t size, pare_status want);

/* Makes the seal good for metadata that were changed. */
void h5_seal_again(const h5_fixture *f, char *bytes);

#endif
