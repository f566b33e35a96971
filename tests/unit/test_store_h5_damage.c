/* test_store_h5_damage.c - a native checkpoint that is damaged, or whose metadata lie, is refused
 * with a sentence. */
#include "h5_fixture.h"
#include "test.h"

#include "base/file.h"
#include "store/store_h5_seal.h"
#include "store/store_impl.h"

/* Where in the metadata, from `at` on, `what` begins; -1 if it does not. */
static int64_t find_from(const h5_fixture *f, int64_t at, int64_t end, const void *what,
                         size_t size)
{
    const char *found = memmem(f->bytes + at, (size_t)(end - at), what, size);
    return found ? found - f->bytes : -1;
}

static int64_t find(const h5_fixture *f, const void *what, size_t size)
{
    int64_t at = find_from(f, PARE__H5_BLOCK, f->data_begin, what, size);
    assert_true(at >= 0);
    return at;
}

/* Where the value of an attribute of that name lies that has this value. HDF5 puts values at
 * multiples of 8. */
static int64_t find_value(const h5_fixture *f, const char *name, const void *value, size_t size)
{
    int64_t at = PARE__H5_BLOCK, end = f->data_begin, length = (int64_t)strlen(name) + 1;
    while ((at = find_from(f, at, end, name, (size_t)length)) >= 0) {
        at += length;
        for (int64_t k = (at + 7) / 8 * 8; k < at + 96; k += 8)
            if (memcmp(f->bytes + k, value, size) == 0)
                return k;
    }
    fail_msg("no attribute %s has that value", name);
    return -1;
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void a_checkpoint_cut_off_anywhere_is_refused(void **state)
{
    h5_fixture *f = *state;
    for (int64_t size = 17; size < f->size; size += size < 2048 ? 97 : f->size / 61)
        h5_assert_copy(f, f->bytes, size, PARE_ERR_DAMAGED);
    h5_assert_copy(f, f->bytes, f->size - 1, PARE_ERR_DAMAGED);
    f->bytes[f->size] = 0;
    h5_assert_copy(f, f->bytes, f->size + 1, PARE_ERR_DAMAGED);
}

static void a_flipped_byte_of_the_metadata_is_refused(void **state)
{
    h5_fixture *f = *state;
    int64_t end = f->data_begin;
    for (int64_t at = 17; at < end; at += at < 600 ? 1 : 1021) {
        f->bytes[at] ^= 0x10;
        h5_assert_copy(f, f->bytes, f->size, PARE_ERR_DAMAGED);
        f->bytes[at] ^= 0x10;
    }
    h5_assert_copy(f, f->bytes, f->size, PARE_OK);
}

static void a_flipped_byte_of_any_array_fails_its_entry_alone(void **state)
{
    h5_fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    for (size_t a = 0; a < store->array_count; a += 3) {
        const pare__array *array = &store->arrays[a];
        if (array->bytes == 0)
            continue;
        int64_t at = array->offset + array->bytes * 2 / 3;
        f->bytes[at] ^= 1;
        assert_ok(pare__file_save(f->copy, f->bytes, f->size));
        f->bytes[at] ^= 1;
        pare_store *copy = NULL;
        assert_ok(pare_store_open(f->copy, &copy));
        for (size_t i = 0; i < copy->slot_count; ++i) {
            bool mine = false;
            for (int p = 0; p < PARE_MAX_PARTS; ++p)
                mine = mine || copy->slots[i].array[p] == (int64_t)a;
            assert_status(pare_store_verify(copy, f->be, (int64_t)i),
                          mine ? PARE_ERR_DAMAGED : PARE_OK);
        }
        pare_store_close(&copy);
    }
    pare_store_close(&store);
}

static void a_flipped_byte_of_a_side_file_fails_that_file_alone(void **state)
{
    h5_fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    assert_true(store->side_count >= 2);
    for (size_t s = 0; s < store->side_count; ++s) {
        if (store->sides[s].file.size == 0)
            continue;
        int64_t at = store->sides[s].offset + store->sides[s].file.size - 1;
        f->bytes[at] ^= 1;
        assert_ok(pare__file_save(f->copy, f->bytes, f->size));
        f->bytes[at] ^= 1;
        pare_store *copy = NULL;
        assert_ok(pare_store_open(f->copy, &copy));
        for (size_t i = 0; i < copy->side_count; ++i)
            assert_status(pare_store_side_verify(copy, f->be, (int64_t)i),
                          i == s ? PARE_ERR_DAMAGED : PARE_OK);
        pare_store_close(&copy);
    }
    assert_status(pare_store_side_verify(store, f->be, (int64_t)store->side_count),
                  PARE_ERR_ARGUMENT);
    pare_store_close(&store);
}

static void a_flipped_byte_of_config_provenance_or_checksums_is_refused(void **state)
{
    h5_fixture *f = *state;
    static const char *const texts[] = {"\"model_type\"", H5_PROVENANCE, "  tensors/dense.BF16"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        char *at = memmem(f->bytes + f->data_begin, (size_t)(f->size - f->data_begin), texts[i],
                          strlen(texts[i]));
        assert_non_null(at);
        at[2] ^= 1;
        h5_assert_copy(f, f->bytes, f->size, PARE_ERR_DAMAGED);
        at[2] ^= 1;
    }
}

static void an_hdf5_file_of_somebody_else_is_refused_with_its_name(void **state)
{
    h5_fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare__file_save(f->copy, f->bytes + PARE__H5_BLOCK, f->size - PARE__H5_BLOCK));
    assert_status(pare_store_open(f->copy, &store), PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), f->copy));
    memset(f->bytes, 0, PARE__H5_BLOCK);
    h5_assert_copy(f, f->bytes, f->size, PARE_ERR_UNSUPPORTED);
    h5_seal_again(f, f->bytes);
    f->bytes[strlen("pare checkpoint ")] = '2';
    h5_assert_copy(f, f->bytes, f->size, PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "newer"));
}

/* ---- metadata that are sealed, but lie ------------------------------------------------------- */

/* Opens the file with bytes of its metadata replaced and the seal made good. */
static void assert_lie(const h5_fixture *f, int64_t at, const void *bytes, size_t size)
{
    char *copy = malloc((size_t)f->size);
    assert_non_null(copy);
    memcpy(copy, f->bytes, (size_t)f->size);
    memcpy(copy + at, bytes, size);
    h5_seal_again(f, copy);
    h5_assert_copy(f, copy, f->size, PARE_ERR_DAMAGED);
    free(copy);
}

static void attributes_that_make_no_sense_are_refused(void **state)
{
    h5_fixture *f = *state;
    static const struct {
        const char *name, *from, *to;
    } lies[] = {{"format", "pare checkpoint", "pair checkpoint"},
                {"dtype", "BF16", "BF17"},
                {"dtype", "F32", "F64"},
                {"dtype", "U64", "I64"},
                {"dtype", "F4", "I8"},
                {"form", "quant", "quint"},
                {"form", "quant", "dense"},
                {"form", "sparse", "sparsE"},
                {"scheme", "w4g32z", "w9g32z"},
                {"scheme", "w4g32z", "w4g32a"},
                {"scheme", "w4g32z", "w4g64z"},
                {"scheme", "w3g32z", "w4g32z"},
                {"scheme", "w3g32z", "W3g32z"},
                {"scheme", "fp8", "nf4"},
                {"codec", "pack", "pick"},
                {"codec", "pack", "int"},
                {"codec", "pack", "dense"},
                {"codec", "nf4", "nf5"},
                {"codec", "sparse", "dense"},
                {"codec", "float", "pack"}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i) {
        size_t size = strlen(lies[i].from);
        char to[32] = {0}; /* a shorter word ends at its NUL */
        memcpy(to, lies[i].to, strlen(lies[i].to) < size ? strlen(lies[i].to) : size);
        print_message("%s: %s -> %s\n", lies[i].name, lies[i].from, lies[i].to);
        assert_lie(f, find_value(f, lies[i].name, lies[i].from, size), to, size);
    }
}

/* Renames of objects and attributes: what is looked for is missing then, or a name not well-formed.
 */
static void names_that_make_no_sense_are_refused(void **state)
{
    h5_fixture *f = *state;
    static const struct {
        const char *from, *to;
    } lies[] = {{"format", "furmat"},
                {"dtype", "dtypf"},
                {"piece_rows", "piece_rowz"},
                {"scheme", "schema"},
                {"block_cols", "block_colz"},
                {"nonzeros", "nonzerus"},
                {"codes", "kodes"},
                {"zero", "zeri"},
                {"row_offsets", "row_offsetz"},
                {"checksums", "checksumz"},
                {"tensors", "tensorz"},
                {"files", "filez"},
                {"deep", "..\0"},
                {"deep", "a%2F"},
                {"name%2Fwith", "name%2fwith"},
                {"name%2Fwith", "name%41with"},
                {"name%2Fwith", "name%%%with"},
                {"name%2Fwith", "name%00with"}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i) {
        size_t size = strlen(lies[i].from);
        print_message("%s -> %s\n", lies[i].from, lies[i].to);
        assert_lie(f, find(f, lies[i].from, size), lies[i].to, size);
    }
}

static void numbers_that_make_no_sense_are_refused(void **state)
{
    h5_fixture *f = *state;
    static const int64_t lies[] = {0, -1, 3, INT64_MIN, INT64_MAX, INT64_C(1) << 40};
    struct {
        const char *name;
        int64_t value;
    } values[] = {{"version", 1}, {"block_rows", 16}, {"block_cols", 32}, {"nonzeros", 0},
                  {"shape", 37},  {"shape", 70},      {"piece_rows", 64}, {"shape", 7}};
    for (int64_t i = 0; i < f->count; ++i)
        if (strcmp(f->samples[i].entry.name, "sparse.bf16") == 0)
            values[3].value = f->samples[i].entry.nonzeros;
    for (size_t v = 0; v < sizeof values / sizeof *values; ++v)
        for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i) {
            print_message("%s: %d -> %lld\n", values[v].name, (int)values[v].value,
                          (long long)lies[i]);
            assert_lie(f, find_value(f, values[v].name, &values[v].value, 8), &lies[i], 8);
        }
}

static void places_that_overlap_or_leave_the_file_are_refused(void **state)
{
    h5_fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    int tried = 0;
    for (size_t a = 0; a < store->array_count && tried < 8; a += 5) {
        const pare__array *array = &store->arrays[a];
        if (array->bytes < 16)
            continue;
        /* HDF5 counts from the end of the user block; address and size lie side by side. */
        int64_t place[2] = {array->offset - PARE__H5_BLOCK, array->bytes};
        int64_t at = find(f, place, sizeof place);
        const int64_t lies[] = {place[0] + 1,      place[0] - 1,   0,
                                f->size,           INT64_MAX,      f->size - PARE__H5_BLOCK - 1,
                                place[0] - 100000, INT64_MAX - 511};
        for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i)
            assert_lie(f, at, &lies[i], 8);
        const int64_t sizes[] = {place[1] + 1, place[1] - 1, INT64_MAX};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i)
            assert_lie(f, at + 8, &sizes[i], 8);
        ++tried;
    }
    assert_int_equal(tried, 8);
    pare_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_cut_off_anywhere_is_refused),
        cmocka_unit_test(a_flipped_byte_of_the_metadata_is_refused),
        cmocka_unit_test(a_flipped_byte_of_any_array_fails_its_entry_alone),
        cmocka_unit_test(a_flipped_byte_of_a_side_file_fails_that_file_alone),
        cmocka_unit_test(a_flipped_byte_of_config_provenance_or_checksums_is_refused),
        cmocka_unit_test(attributes_that_make_no_sense_are_refused),
        cmocka_unit_test(names_that_make_no_sense_are_refused),
        cmocka_unit_test(numbers_that_make_no_sense_are_refused),
        cmocka_unit_test(places_that_overlap_or_leave_the_file_are_refused),
        cmocka_unit_test(an_hdf5_file_of_somebody_else_is_refused_with_its_name),
    };
    return cmocka_run_group_tests(tests, h5_fixture_setup, h5_fixture_teardown);
}
