/* test_gzip.c - gzipped files: pieces, several members, truncation, damage. */
#include "test.h"

#include "data_fixture.h"

#include "base/gzip.h"

enum { SIZE = 200000 }; /* several blocks, several pieces of input */

typedef struct fixture {
    char *folder;
    unsigned char plain[SIZE];
    blob packed;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->folder = test_folder_make();
    for (int i = 0; i < SIZE; i++)
        f->plain[i] = (unsigned char)(i * 7 + (i >> 8));
    f->packed = gzip_blob(f->plain, SIZE);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    blob_free(&f->packed);
    free(f);
    return 0;
}

/* Reads size bytes of a file in pieces, then its end. */
static pare_status read_all(const char *path, unsigned char *to, int64_t size, int64_t piece)
{
    pare__gzip *gzip = NULL;
    pare_status status = pare__gzip_open(path, &gzip);
    for (int64_t at = 0; status == PARE_OK && at < size; at += piece)
        status = pare__gzip_read(gzip, to + at, size - at < piece ? size - at : piece);
    if (status == PARE_OK)
        status = pare__gzip_end(gzip);
    pare__gzip_close(&gzip);
    assert_null(gzip);
    return status;
}

static pare_status read_bytes(const fixture *f, const blob *b, int64_t size, int64_t piece)
{
    static unsigned char out[2 * SIZE + 1];
    char *path = data_write(f->folder, "x.gz", b->bytes, b->size);
    pare_status status = read_all(path, out, size, piece);
    if (status == PARE_OK)
        for (int64_t at = 0; at < size; at += SIZE)
            assert_memory_equal(out + at, f->plain, (size_t)(size - at < SIZE ? size - at : SIZE));
    free(path);
    return status;
}

static void pieces_of_any_size_give_the_bytes(void **state)
{
    fixture *f = *state;
    static const int64_t pieces[] = {1, 7, 65535, 65536, SIZE};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        assert_ok(read_bytes(f, &f->packed, SIZE, pieces[i]));
    assert_true(pare__is_gzip(f->packed.bytes, f->packed.size));
    assert_false(pare__is_gzip(f->plain, SIZE) || pare__is_gzip(f->packed.bytes, 1));
}

static void several_members_are_one_stream(void **state)
{
    fixture *f = *state;
    blob two = {0}, none = gzip_blob("", 0);
    blob_add(&two, f->packed.bytes, f->packed.size);
    blob_add(&two, none.bytes, none.size);
    blob_add(&two, f->packed.bytes, f->packed.size);
    assert_ok(read_bytes(f, &two, 2 * SIZE, 100001));
    assert_ok(read_bytes(f, &none, 0, 1));
    blob_free(&none);
    blob_free(&two);
}

static void what_is_compressed_is_unpacked(void **state)
{
    /* printf '%0100d' 0 | gzip -n */
    static const unsigned char packed[] = {0x1f, 0x8b, 0x08, 0,    0,    0,    0, 0,
                                           0,    0x03, 0x33, 0x30, 0xa0, 0x3d, 0, 0,
                                           0x77, 0x60, 0xa4, 0x53, 0x64, 0,    0, 0};
    unsigned char out[100];
    fixture *f = *state;
    char *path = data_write(f->folder, "zeros.gz", packed, sizeof packed);
    assert_ok(read_all(path, out, 100, 33));
    for (int i = 0; i < 100; i++)
        assert_int_equal(out[i], '0');
    free(path);
}

static void more_or_fewer_bytes_than_asked_for_are_refused(void **state)
{
    fixture *f = *state;
    assert_status(read_bytes(f, &f->packed, SIZE + 1, SIZE), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "fewer bytes"));
    assert_status(read_bytes(f, &f->packed, SIZE - 1, SIZE), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "more bytes"));
}

static void every_truncation_is_refused(void **state)
{
    fixture *f = *state;
    blob small = gzip_blob(f->plain, 100);
    unsigned char out[100];
    for (size_t size = 0; size < small.size; size++) {
        char *path = data_write(f->folder, "cut.gz", small.bytes, size);
        assert_status(read_all(path, out, 100, 100), PARE_ERR_DAMAGED);
        free(path);
    }
    blob_free(&small);
}

static void damage_is_seen_by_the_checksum(void **state)
{
    fixture *f = *state;
    blob bad = {0};
    blob_add(&bad, f->packed.bytes, f->packed.size);
    bad.bytes[1000] ^= 1;
    assert_status(read_bytes(f, &bad, SIZE, SIZE), PARE_ERR_DAMAGED);
    bad.bytes[1000] ^= 1;
    blob_add(&bad, "garbage", 7); /* behind the last member */
    assert_status(read_bytes(f, &bad, SIZE, SIZE), PARE_ERR_DAMAGED);
    blob_free(&bad);
}

static void a_file_that_is_not_there_is_not_found(void **state)
{
    (void)state;
    pare__gzip *gzip = NULL;
    assert_status(pare__gzip_open("/nonexistent.gz", &gzip), PARE_ERR_NOT_FOUND);
    assert_null(gzip);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_any_size_give_the_bytes),
        cmocka_unit_test(several_members_are_one_stream),
        cmocka_unit_test(what_is_compressed_is_unpacked),
        cmocka_unit_test(more_or_fewer_bytes_than_asked_for_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(damage_is_seen_by_the_checksum),
        cmocka_unit_test(a_file_that_is_not_there_is_not_found),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
