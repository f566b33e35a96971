/* h5_fixture.c - a folder with a native checkpoint of all samples, for tests that read or damage
 * it. */
#include "h5_fixture.h"

#include "test.h"

#include "base/file.h"
#include "store/store_h5_seal.h"

#include <unistd.h>

char *h5_load(const char *path, int64_t *size)
{
    char *bytes;
    assert_ok(pare__file_load(path, INT64_C(1) << 30, &bytes, size));
    return bytes;
}

static void read_seal(const h5_fixture *f, pare__h5_seal *seal)
{
    int fd;
    int64_t size;
    assert_ok(pare__file_open(f->path, &fd, &size));
    assert_ok(pare__h5_seal_check(fd, f->path, size, seal));
    close(fd);
}

int h5_fixture_setup(void **state)
{
    h5_fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->folder = test_folder_make();
    snprintf(f->path, sizeof f->path, "%s/all.h5", f->folder);
    snprintf(f->copy, sizeof f->copy, "%s/copy.h5", f->folder);
    snprintf(f->source_path, sizeof f->source_path, "%s/source", f->folder);
    h5_source_make(f->source_path);
    assert_ok(pare_cpu_create(NULL, &f->be));
    assert_ok(pare_store_open(f->source_path, &f->source));
    f->samples = h5_samples_make(&f->count);
    h5_samples_write(f->path, f->be, f->samples, f->count, f->source, H5_PROVENANCE);
    f->bytes = h5_load(f->path, &f->size);
    pare__h5_seal seal;
    read_seal(f, &seal);
    f->data_begin = seal.data_begin;
    *state = f;
    return 0;
}

int h5_fixture_teardown(void **state)
{
    h5_fixture *f = *state;
    free(f->bytes);
    h5_samples_free(f->samples, f->count);
    pare_store_close(&f->source);
    pare_backend_free(&f->be);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

void h5_assert_copy(const h5_fixture *f, const char *bytes, int64_t size, pare_status want)
{
    pare_store *store = NULL;
    assert_ok(pare__file_save(f->copy, bytes, size));
    assert_status(pare_store_open(f->copy, &store), want);
    pare_store_close(&store);
}

void h5_seal_again(const h5_fixture *f, char *bytes)
{
    pare__h5_seal seal;
    read_seal(f, &seal);
    seal.metadata_crc =
        pare__crc64(0, bytes + PARE__H5_BLOCK, (size_t)(seal.data_begin - PARE__H5_BLOCK));
    pare__h5_seal_text(&seal, bytes);
}
