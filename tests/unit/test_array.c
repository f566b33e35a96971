/* test_array.c - .npy files of every kind, good and bad; datasets of HDF5 files; writing .npy. */
#include "test.h"

#include "data_fixture.h"

#include "pare/array.h"

#include "base/file.h"

static int setup(void **state)
{
    *state = test_folder_make();
    return 0;
}

static int teardown(void **state)
{
    test_folder_remove(*state);
    return 0;
}

/* Opens these bytes as a .npy file; array may be NULL where a failure is wanted. */
static pare_status open_bytes(const char *folder, blob b, pare_array **array)
{
    pare_array *own = NULL;
    char *path = data_write(folder, "x.npy", b.bytes, b.size);
    pare_status status = pare_array_open(path, NULL, array ? array : &own);
    pare_array_close(&own);
    free(path);
    blob_free(&b);
    return status;
}

static pare_status open_text(const char *folder, const char *header, size_t size)
{
    static const unsigned char zeros[64];
    blob b = {0};
    unsigned char head[10] = "\x93NUMPY\1\0";
    head[8] = (unsigned char)strlen(header);
    blob_add(&b, head, sizeof head);
    blob_add(&b, header, strlen(header));
    blob_add(&b, zeros, size);
    return open_bytes(folder, b, NULL);
}

static void every_dtype_and_format_version_is_read(void **state)
{
    static const struct {
        const char *descr;
        pare_dtype dtype;
    } kinds[] = {{"|u1", PARE_U8},  {"|i1", PARE_I8},  {"<u2", PARE_U16}, {"<i2", PARE_I16},
                 {"<u4", PARE_U32}, {"<i4", PARE_I32}, {"<u8", PARE_U64}, {"<i8", PARE_I64},
                 {"<f2", PARE_F16}, {"<f4", PARE_F32}, {"<f8", PARE_F64}, {"|b1", PARE_BOOL},
                 {"<c8", PARE_C64}, {">u1", PARE_U8},  {"=i4", PARE_I32}};
    unsigned char bytes[6 * 8], got[6 * 8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 5);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int version = 1; version <= 3; version++) {
            pare_array *a = NULL;
            size_t width = (size_t)pare_dtype_bits(kinds[k].dtype) / 8;
            assert_ok(open_bytes(
                *state, npy_blob(version, kinds[k].descr, "(2, 3)", bytes, 6 * width), &a));
            const pare_tensor *t = pare_array_tensor(a);
            assert_int_equal(t->dtype, kinds[k].dtype);
            assert_true(t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3 && !t->data);
            assert_true(pare_array_is_plain(a));
            assert_ok(pare_array_read(a, 1, 4, got));
            assert_memory_equal(got, bytes + width, 4 * width);
            assert_ok(pare_array_read(a, 6, 0, NULL));
            assert_status(pare_array_read(a, 3, 4, got), PARE_ERR_ARGUMENT);
            assert_status(pare_array_read(a, -1, 1, got), PARE_ERR_ARGUMENT);
            pare_array_close(&a);
            assert_null(a);
        }
}

static void headers_are_read_as_numpy_reads_them(void **state)
{
    assert_ok(open_text(*state, "{\"shape\":(2,),\"fortran_order\":True,\"descr\":\"<i4\"}", 8));
    assert_ok(open_text(*state, "{'descr':'<i4' ,'fortran_order':False,'shape':(),}  \n", 4));
    assert_ok(open_text(*state, "{ 'shape': (0, 5), 'descr': '<f8', 'fortran_order': False}", 0));
    assert_ok(
        open_text(*state, "{'descr':'|u1','fortran_order':False,'shape':(1,2,3,1,1,1,1,1)}", 6));
}

static void damaged_headers_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "}",
        "[1]",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2,)",
        "{'descr': '<i4', 'fortran_order': False}",
        "{'descr': '<i4', 'shape': (2,)}",
        "{'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<i4', 'fortran_order': Maybe, 'shape': (2,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2 2)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (x,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2,)} x",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_status(open_text(*state, bad[i], 8), PARE_ERR_DAMAGED);
}

static void what_is_sound_but_not_for_us_is_unsupported(void **state)
{
    static const char *const bad[] = {
        "{'descr': '>i4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 1)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<U4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 8)}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_status(open_text(*state, bad[i], 8), PARE_ERR_UNSUPPORTED);
    assert_status(open_bytes(*state, npy_blob(4, "<i4", "(2,)", "12345678", 8), NULL),
                  PARE_ERR_UNSUPPORTED);
}

static void a_size_that_is_not_the_shapes_is_refused(void **state)
{
    assert_status(open_text(*state, "{'descr': '<i4', 'fortran_order': False, 'shape': (3,)}", 8),
                  PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "needs 12 bytes"));
    assert_status(open_text(*state, "{'descr': '<i4', 'fortran_order': False, 'shape': (2,)}", 9),
                  PARE_ERR_DAMAGED);
}

static void every_truncation_is_refused(void **state)
{
    blob whole = npy_blob(1, "<u2", "(3,)", "abcdef", 6);
    for (size_t size = 6; size < whole.size; size++) {
        blob cut = {0};
        blob_add(&cut, whole.bytes, size);
        assert_status(open_bytes(*state, cut, NULL), PARE_ERR_DAMAGED);
    }
    unsigned char huge[12] = "\x93NUMPY\2\0\xff\xff\xff\xff";
    blob claims = {0};
    blob_add(&claims, huge, 12);
    assert_status(open_bytes(*state, claims, NULL), PARE_ERR_DAMAGED);
    blob_free(&whole);
}

static void other_files_are_named(void **state)
{
    char *path = data_write(*state, "text", "some text", 9);
    pare_array *a = NULL;
    assert_status(pare_array_open(path, NULL, &a), PARE_ERR_UNSUPPORTED);
    assert_status(pare_array_open("/nonexistent.npy", NULL, &a), PARE_ERR_NOT_FOUND);
    assert_status(pare_array_open(*state, NULL, &a), PARE_ERR_ARGUMENT);
    assert_false(pare_array_has(path, "x"));
    free(path);
    path = data_npy(*state, "a.npy", "|u1", "(1,)", "a", 1);
    assert_status(pare_array_open(path, "part", &a), PARE_ERR_ARGUMENT);
    assert_null(a);
    free(path);
}

/* ---- HDF5 ------------------------------------------------------------------------------------ */

/* tests/golden/arrays.h5, made by tests/golden/arrays_h5.py. */
static char *golden(void)
{
    char *path = NULL;
    assert_ok(pare__join(PARE_TEST_GOLDEN, "arrays.h5", &path));
    return path;
}

static void datasets_of_every_layout_give_their_elements(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        pare_dtype dtype;
        bool plain;
    } sets[] = {{"plain", PARE_U16, true},      {"chunked", PARE_U16, false},
                {"packed", PARE_U16, false},    {"compact", PARE_U16, false},
                {"in/a/group", PARE_U16, true}, {"/plain", PARE_U16, true}};
    char *path = golden();
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        pare_array *a = NULL;
        uint16_t got[7 * 5 * 3];
        assert_ok(pare_array_open(path, sets[s].name, &a));
        const pare_tensor *t = pare_array_tensor(a);
        assert_int_equal(t->dtype, sets[s].dtype);
        assert_true(t->rank == 3 && t->shape[0] == 7 && t->shape[1] == 5 && t->shape[2] == 3);
        assert_true(pare_array_is_plain(a) == sets[s].plain);
        for (int first = 0; first <= 105; first++)
            for (int count = 0; count <= 105 - first; count++) {
                assert_ok(pare_array_read(a, first, count, got));
                for (int i = 0; i < count; i++)
                    assert_int_equal(got[i], 7 * (first + i) + 1);
            }
        pare_array_close(&a);
        assert_true(pare_array_has(path, sets[s].name));
    }
    free(path);
}

static void types_of_hdf5_are_told_apart(void **state)
{
    (void)state;
    static const pare_dtype types[] = {PARE_U8,  PARE_I8,  PARE_U16, PARE_I16, PARE_U32, PARE_I32,
                                       PARE_U64, PARE_I64, PARE_F16, PARE_F32, PARE_F64};
    char *path = golden();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        pare_array *a = NULL;
        char name[32];
        snprintf(name, sizeof name, "types/%s", pare_dtype_name(types[i]));
        assert_ok(pare_array_open(path, name, &a));
        assert_int_equal(pare_array_tensor(a)->dtype, types[i]);
        pare_array_close(&a);
    }
    free(path);
}

static void datasets_that_cannot_be_read_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        pare_status status;
        const char *says;
    } bad[] = {{"nothing", PARE_ERR_NOT_FOUND, "chunked"},
               {"in", PARE_ERR_NOT_FOUND, "no dataset"},
               {"soft", PARE_ERR_NOT_FOUND, "no dataset"},
               {"outside", PARE_ERR_NOT_FOUND, "no dataset"},
               {"plain/x", PARE_ERR_NOT_FOUND, "no dataset"},
               {"", PARE_ERR_ARGUMENT, "#NAME"},
               {"big_endian", PARE_ERR_UNSUPPORTED, "little-endian"},
               {"text", PARE_ERR_UNSUPPORTED, "little-endian"},
               {"unwritten", PARE_ERR_DAMAGED, "never written"},
               {"null", PARE_ERR_DAMAGED, "no shape"}};
    char *path = golden();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pare_array *a = NULL;
        assert_status(pare_array_open(path, bad[i].name, &a), bad[i].status);
        assert_non_null(strstr(pare_last_error(), bad[i].says));
        assert_null(a);
    }
    assert_false(pare_array_has(path, "nothing"));
    free(path);
}

static void a_truncated_hdf5_file_is_refused(void **state)
{
    char *path = golden(), *bytes = NULL;
    int64_t size;
    assert_ok(pare__file_load(path, 1 << 20, &bytes, &size));
    free(path);
    path = data_write(*state, "cut.h5", bytes, (size_t)size / 2);
    pare_array *a = NULL;
    assert_status(pare_array_open(path, "plain", &a), PARE_ERR_DAMAGED);
    free(path);
    free(bytes);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void what_is_written_row_by_row_is_read_back(void **state)
{
    char *path = NULL;
    float values[7 * 3], got[7 * 3];
    pare_npy_writer *w = NULL;
    pare_array *a = NULL;
    for (int i = 0; i < 21; i++)
        values[i] = (float)i * 0.5F;
    assert_ok(pare__join(*state, "out.npy", &path));
    assert_ok(pare_npy_create(path, 7, 3, false, &w));
    assert_ok(pare_npy_add(w, values, 2));
    assert_ok(pare_npy_add(w, values + 6, 0));
    assert_ok(pare_npy_add(w, values + 6, 5));
    assert_false(pare__exists(path)); /* not before it is whole */
    assert_ok(pare_npy_finish(w));
    pare_npy_free(&w);
    assert_null(w);
    assert_ok(pare_array_open(path, NULL, &a));
    const pare_tensor *t = pare_array_tensor(a);
    assert_true(t->dtype == PARE_F32 && t->rank == 2 && t->shape[0] == 7 && t->shape[1] == 3);
    assert_ok(pare_array_read(a, 0, 21, got));
    assert_memory_equal(got, values, sizeof got);
    pare_array_close(&a);
    assert_status(pare_npy_create(path, 7, 3, false, &w), PARE_ERR_EXISTS);
    assert_ok(pare_npy_create(path, 1, 0, true, &w));
    assert_ok(pare_npy_add(w, values, 1));
    assert_ok(pare_npy_finish(w));
    pare_npy_free(&w);
    assert_ok(pare_array_open(path, NULL, &a));
    assert_int_equal(pare_array_tensor(a)->shape[1], 0);
    pare_array_close(&a);
    free(path);
}

static void an_unfinished_file_leaves_nothing(void **state)
{
    char *path = NULL, *part = NULL;
    const float row[3] = {1, 2, 3};
    pare_npy_writer *w = NULL;
    assert_ok(pare__join(*state, "never.npy", &path));
    assert_ok(pare__join(*state, "never.npy.part", &part));
    assert_ok(pare_npy_create(path, 2, 3, false, &w));
    assert_ok(pare_npy_add(w, row, 1));
    assert_status(pare_npy_finish(w), PARE_ERR_ARGUMENT);
    assert_status(pare_npy_add(w, row, 2), PARE_ERR_ARGUMENT);
    pare_npy_free(&w);
    assert_false(pare__exists(path) || pare__exists(part));
    assert_status(pare_npy_create("/nonexistent/x.npy", 1, 1, false, &w), PARE_ERR_NOT_FOUND);
    assert_status(pare_npy_create(path, INT64_MAX, 8, false, &w), PARE_ERR_ARGUMENT);
    assert_null(w);
    assert_false(pare__exists(part));
    free(path);
    free(part);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_and_format_version_is_read),
        cmocka_unit_test(headers_are_read_as_numpy_reads_them),
        cmocka_unit_test(damaged_headers_are_refused),
        cmocka_unit_test(what_is_sound_but_not_for_us_is_unsupported),
        cmocka_unit_test(a_size_that_is_not_the_shapes_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(datasets_of_every_layout_give_their_elements),
        cmocka_unit_test(types_of_hdf5_are_told_apart),
        cmocka_unit_test(datasets_that_cannot_be_read_are_refused),
        cmocka_unit_test(a_truncated_hdf5_file_is_refused),
        cmocka_unit_test(what_is_written_row_by_row_is_read_back),
        cmocka_unit_test(an_unfinished_file_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
