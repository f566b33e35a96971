/* test_safetensors.c - the container: what of a header is believed, what is refused with which
 * words, and how a file is laid out. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

static char *folder, *file;
static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    folder = test_folder_make();
    assert_ok(pare__join(folder, "x.safetensors", &file));
    assert_ok(pare_cpu_create(NULL, &be));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(file);
    test_folder_remove(folder);
    pare_backend_free(&be);
    return 0;
}

/* A file of this header length, text and so many bytes of data. */
static void make(uint64_t length, const char *text, size_t text_size, size_t data)
{
    size_t size = 8 + text_size + data;
    char *bytes = calloc(size + 1, 1);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, text, text_size);
    for (size_t i = 0; i < data; i++)
        bytes[8 + text_size + i] = (char)i;
    assert_ok(pare__file_save(file, bytes, (int64_t)size));
    free(bytes);
}

static void make_text(const char *text, size_t data)
{
    make(strlen(text), text, strlen(text), data);
}

static pare_status open_file(void)
{
    pare_store *store = NULL;
    pare_status status = pare_store_open(file, &store);
    assert_true((status == PARE_OK) == (store != NULL));
    pare_store_close(&store);
    return status;
}

/* Refused with this status and these words in the sentence. */
static void refused(const char *text, size_t data, pare_status want, const char *words)
{
    make_text(text, data);
    assert_status(open_file(), want);
    if (!strstr(pare_last_error(), words) || !strstr(pare_last_error(), file))
        fail_msg("'%s' lacks '%s' or the file's name", pare_last_error(), words);
}

#define TENSOR(name, dtype, shape, begin, end)                                                     \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

/* ---- what is read ---------------------------------------------------------------------------- */

static void a_plain_file_is_read(void **state)
{
    (void)state;
    make_text("{" TENSOR("b", "F32", "[2,1]", 0, 8) "," TENSOR("a", "U8", "[]", 8, 9) "}   ", 9);
    pare_store *store;
    assert_ok(pare_store_open(file, &store));
    assert_string_equal(pare_store_format(store), "safetensors");
    assert_string_equal(pare_store_path(store), file);
    assert_int_equal(pare_store_count(store), 2);
    assert_string_equal(pare_store_entry(store, 0)->name, "a");
    assert_int_equal(pare_store_entry(store, 0)->rank, 0);
    assert_int_equal(pare_store_entry(store, 0)->rows, 1);
    assert_int_equal(pare_store_entry(store, 1)->stored_bytes, 8);
    assert_int_equal(pare_store_find(store, "b"), 1);
    assert_int_equal(pare_store_find(store, "c"), -1);
    assert_null(pare_store_entry(store, 2));
    assert_null(pare_store_config(store));
    assert_null(pare_store_metadata(store));
    assert_int_equal(pare_store_side_count(store), 0);
    uint8_t values[8];
    assert_ok(pare_store_read_values(store, be, 1, 1, 1, values, NULL));
    assert_int_equal(values[0], 4);
    pare_store_close(&store);
}

static void an_empty_header_is_a_checkpoint_without_tensors(void **state)
{
    (void)state;
    make_text("{}", 0);
    assert_ok(open_file());
    make_text("{" TENSOR("e", "F32", "[0]", 0, 0) "," TENSOR("f", "F32", "[1,0]", 0, 0) "}", 0);
    assert_ok(open_file());
}

static void metadata_are_strings(void **state)
{
    (void)state;
    make_text("{\"__metadata__\":{\"format\":\"pt\",\"x\":\"y\",\"pare\":\"{}\"}}", 0);
    pare_store *store;
    assert_ok(pare_store_open(file, &store));
    assert_string_equal(pare_store_metadata(store), "{\"format\":\"pt\",\"x\":\"y\"}");
    assert_string_equal(pare_store_provenance(store), "{}");
    pare_store_close(&store);
    refused("{\"__metadata__\":{\"n\":1}}", 0, PARE_ERR_DAMAGED, "'n' is no string");
    refused("{\"__metadata__\":[]}", 0, PARE_ERR_DAMAGED, "__metadata__ is no object");
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void a_wrong_length_is_refused(void **state)
{
    (void)state;
    assert_ok(pare__file_save(file, "", 0));
    assert_status(open_file(), PARE_ERR_DAMAGED);
    assert_ok(pare__file_save(file, "1234567", 7));
    assert_status(open_file(), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "7 bytes long"));
    const uint64_t lengths[] = {UINT64_C(1) << 63, UINT64_MAX, 100000001, 3, 0, 1};
    for (size_t i = 0; i < 6; i++) {
        make(lengths[i], "{}", 2, 0);
        assert_status(open_file(), PARE_ERR_DAMAGED);
    }
    make(UINT64_C(1) << 63, "{}", 2, 0);
    assert_status(open_file(), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "9223372036854775808"));
}

static void a_wrong_header_is_refused(void **state)
{
    (void)state;
    refused(" {}", 0, PARE_ERR_DAMAGED, "does not begin with '{'");
    refused("[]", 0, PARE_ERR_DAMAGED, "does not begin with '{'");
    refused("{", 0, PARE_ERR_DAMAGED, "");
    refused("{}{}", 0, PARE_ERR_DAMAGED, "");
    refused("{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("a", "U8", "[1]", 1, 2) "}", 2,
            PARE_ERR_DAMAGED, "");
    refused("{\"a\":1}", 0, PARE_ERR_DAMAGED, "'a'");
    refused("{\"\":{}}", 0, PARE_ERR_DAMAGED, "empty name");
    refused("{\"a\":{}}", 0, PARE_ERR_DAMAGED, "'a' has no dtype");
    refused("{\"a\":{\"dtype\":\"U8\"}}", 0, PARE_ERR_DAMAGED, "shape");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 1, PARE_ERR_DAMAGED, "data_offsets");
}

static void a_wrong_tensor_is_refused_by_name(void **state)
{
    (void)state;
    refused("{" TENSOR("t", "F31", "[1]", 0, 4) "}", 4, PARE_ERR_UNSUPPORTED, "'t'");
    refused("{" TENSOR("t", "F32", "[-1]", 0, 4) "}", 4, PARE_ERR_DAMAGED, "'t'");
    refused("{" TENSOR("t", "F32", "[1.0]", 0, 4) "}", 4, PARE_ERR_DAMAGED, "'t'");
    refused("{" TENSOR("t", "F32", "[2]", 0, 4) "}", 4, PARE_ERR_DAMAGED, "needs 8 bytes");
    refused("{" TENSOR("t", "F32", "[1]", 4, 0) "}", 4, PARE_ERR_DAMAGED, "'t'");
    refused("{" TENSOR("t", "F32", "[1]", -4, 0) "}", 4, PARE_ERR_DAMAGED, "'t'");
    refused("{" TENSOR("t", "F32", "[2]", 0, 8) "}", 4, PARE_ERR_DAMAGED, "[0, 8)");
    refused("{" TENSOR("t", "F4", "[3]", 0, 2) "}", 2, PARE_ERR_DAMAGED, "whole byte");
    refused("{" TENSOR("t", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, PARE_ERR_UNSUPPORTED,
            "9 dimensions");
    make_text("{" TENSOR("t", "F32", "[4611686018427387904,4611686018427387904]", 0, 0) "}", 0);
    assert_status(open_file(), PARE_ERR_DAMAGED);
    make_text("{" TENSOR("t", "U8", "[9223372036854775807]", 0, 9223372036854775807) "}", 0);
    assert_status(open_file(), PARE_ERR_DAMAGED);
}

static void holes_and_overlaps_are_refused(void **state)
{
    (void)state;
    refused("{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 3, 5) "}", 5,
            PARE_ERR_DAMAGED, "hole of 1 bytes lies in front of tensor 'b'");
    refused("{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 1, 3) "}", 3,
            PARE_ERR_DAMAGED, "'b'");
    refused("{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 0, 2) "}", 2,
            PARE_ERR_DAMAGED, "overlaps");
    refused("{" TENSOR("a", "U8", "[2]", 0, 2) "}", 3, PARE_ERR_DAMAGED, "belong to no tensor");
    refused("{" TENSOR("a", "U8", "[2]", 1, 3) "}", 3, PARE_ERR_DAMAGED, "hole");
    refused("{}", 1, PARE_ERR_DAMAGED, "belong to no tensor");
}

static const char sample_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR("a.weight", "F16", "[3,4]", 0, 24) "," TENSOR(
        "b", "I64", "[2]", 24, 40) "," TENSOR("s", "BOOL", "[]", 40, 41) "}";

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    make_text(sample_header, 41);
    char *bytes;
    int64_t size;
    assert_ok(pare__file_load(file, 1 << 20, &bytes, &size));
    for (int64_t n = 0; n < size; n++) {
        assert_ok(pare__file_save(file, bytes, n));
        assert_status(open_file(), PARE_ERR_DAMAGED);
    }
    free(bytes);
}

/* Every byte of the header, changed in several ways: opened or refused, never worse; what is opened
 * can be read. */
static void a_header_changed_anywhere_does_no_harm(void **state)
{
    (void)state;
    const char changes[] = {'\0', '0', '9', '-', '"', '{', '}', '[', ']', ',', ' ', '\\', '\xff'};
    make_text(sample_header, 41);
    char *bytes;
    int64_t size;
    assert_ok(pare__file_load(file, 1 << 20, &bytes, &size));
    for (int64_t i = 0; i < size - 41; i++)
        for (size_t c = 0; c < sizeof changes; c++) {
            char old = bytes[i];
            pare_store *store;
            bytes[i] = changes[c];
            assert_ok(pare__file_save(file, bytes, size));
            if (pare_store_open(file, &store) == PARE_OK) {
                for (int64_t t = 0; t < pare_store_count(store); t++) {
                    const pare_entry *e = pare_store_entry(store, t);
                    char values[64];
                    assert_true(e->stored_bytes <= 41);
                    assert_ok(pare_store_read_values(store, be, t, 0, e->rows, values, NULL));
                }
                pare_store_close(&store);
            } else {
                assert_true(pare_last_error()[0] != '\0');
            }
            bytes[i] = old;
        }
    free(bytes);
}

static void other_files_are_no_checkpoints(void **state)
{
    (void)state;
    pare_store *store;
    char *path;
    assert_status(pare_store_open("", &store), PARE_ERR_ARGUMENT);
    assert_ok(pare__join(folder, "absent.safetensors", &path));
    assert_status(pare_store_open(path, &store), PARE_ERR_NOT_FOUND);
    free(path);
    assert_ok(pare__join(folder, "text", &path));
    assert_ok(pare__file_save(path, "hello, world", 12));
    assert_status(pare_store_open(path, &store), PARE_ERR_UNSUPPORTED);
    free(path);
}

static void content_decides_not_the_name(void **state)
{
    (void)state;
    char *path, *bytes;
    int64_t size;
    pare_store *store;
    make_text(sample_header, 41);
    assert_ok(pare__join(folder, "weights.pt", &path));
    assert_ok(pare__file_load(file, 1 << 20, &bytes, &size));
    assert_ok(pare__file_save(path, bytes, size));
    assert_ok(pare_store_open(path, &store));
    assert_string_equal(pare_store_format(store), "safetensors");
    pare_store_close(&store);
    free(bytes), free(path);
}

/* ---- how it is written ----------------------------------------------------------------------- */

static void tensors_lie_by_element_size_and_aligned(void **state)
{
    (void)state;
    h5_sample s[5] = {store_case("a", NULL, PARE_F4, 1, (int64_t[]){6}),
                      store_case("b", NULL, PARE_U8, 1, (int64_t[]){3}),
                      store_case("c", NULL, PARE_BF16, 1, (int64_t[]){3}),
                      store_case("d", NULL, PARE_I64, 1, (int64_t[]){3}),
                      store_case("e", NULL, PARE_F32, 1, (int64_t[]){3})};
    h5_sample *heap = malloc(sizeof s);
    memcpy(heap, s, sizeof s);
    store_case_write(file, NULL, be, heap, 5);
    pare_store *store;
    assert_ok(pare_store_open(file, &store));
    const char *order[] = {"d", "e", "c", "b", "a"};
    int64_t before = 0;
    for (int i = 0; i < 5; i++) {
        int64_t at = pare__store_find_array(store, order[i]);
        const pare__array *array = &store->arrays[at];
        int bytes = pare_dtype_bits(array->dtype) / 8;
        assert_int_equal(array->offset % (bytes ? bytes : 1), 0);
        assert_true(array->offset > before);
        if (i == 0)
            assert_int_equal(array->offset % 64, 0);
        before = array->offset;
    }
    assert_string_equal(pare_store_metadata(store), "{\"format\":\"pt\"}");
    pare_store_close(&store);
    h5_samples_free(heap, 5);
}

/* ---- real files ------------------------------------------------------------------------------ */

static void real_files_are_read(void **state)
{
    (void)state;
    static const char *const files[] = {"resnet_cifar10/resnet20.safetensors",
                                        "mlperf_tiny_resnet8/resnet8.safetensors",
                                        "stories260K/model.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        char *path = test_data(files[i]);
        pare_store *store;
        if (!path)
            skip();
        assert_ok(pare_store_open(path, &store));
        assert_true(pare_store_count(store) > 0);
        for (int64_t t = 0; t < pare_store_count(store); t++) {
            const pare_entry *e = pare_store_entry(store, t);
            void *values = malloc((size_t)e->stored_bytes + 1);
            assert_ok(pare_store_read_values(store, be, t, 0, e->rows, values, NULL));
            free(values);
        }
        pare_store_close(&store);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_file_is_read),
        cmocka_unit_test(an_empty_header_is_a_checkpoint_without_tensors),
        cmocka_unit_test(metadata_are_strings),
        cmocka_unit_test(a_wrong_length_is_refused),
        cmocka_unit_test(a_wrong_header_is_refused),
        cmocka_unit_test(a_wrong_tensor_is_refused_by_name),
        cmocka_unit_test(holes_and_overlaps_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_header_changed_anywhere_does_no_harm),
        cmocka_unit_test(other_files_are_no_checkpoints),
        cmocka_unit_test(content_decides_not_the_name),
        cmocka_unit_test(tensors_lie_by_element_size_and_aligned),
        cmocka_unit_test(real_files_are_read),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
