/* test_codec_nested.c - NF4 whose scales are quantised too, through every container, and the bytes
 * of bitsandbytes' layout. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

typedef struct fixture {
    char *folder, *path; /* of a .safetensors file */
    pare_backend *be;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->folder = test_folder_make();
    assert_ok(pare__join(f->folder, "x.safetensors", &f->path));
    assert_ok(pare_cpu_create(NULL, &f->be));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    pare_backend_free(&f->be);
    free(f->path);
    free(f);
    return 0;
}

static h5_sample *sample_of(pare_dtype dtype, int64_t rows, int64_t cols)
{
    h5_sample *s = malloc(sizeof *s);
    *s = store_case("m.weight", "nf4d", dtype, 2, (int64_t[]){rows, cols});
    return s;
}

/* Writes, reads back in every way, forgets. */
static void round_trip(const fixture *f, const char *name, pare_dtype dtype, int64_t rows,
                       int64_t cols)
{
    char *path;
    assert_ok(pare__join(f->folder, name, &path));
    h5_sample *s = sample_of(dtype, rows, cols);
    store_case_write(path, NULL, f->be, s, 1);
    store_case_check_all(path, f->be, s, 1);
    h5_samples_free(s, 1);
    free(path);
}

static void rows_of_any_number_of_scales_survive(void **state)
{
    static const char *const containers[] = {"x.safetensors", "x.h5", "x_dir"};
    static const int64_t shapes[][2] = {{1, 64},       {37, 128},      {700, 64},     {300, 7 * 64},
                                        {131, 6 * 64}, {70, 300 * 64}, {5, 256 * 64}, {5, 0}};
    static const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            round_trip(*state, containers[c], dtypes[i % 3], shapes[i][0], shapes[i][1]);
    round_trip(*state, "x.h5", PARE_F16, 601, 67);
}

static void rows_that_end_inside_a_nested_block_are_not_written_alone(void **state)
{
    (void)state;
    static const int64_t cols[][2] = {{64, 256}, {6 * 64, 128}, {128 * 64, 32}, {256 * 64, 32}};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        h5_sample *s = sample_of(PARE_BF16, 1000, cols[i][0]);
        s->entry.piece_rows = 1;
        assert_int_equal(pare_entry_align(&s->entry), cols[i][1]);
        h5_samples_free(s, 1);
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* The bytes of an array of the file. */
static void *array_bytes(const fixture *f, const char *name, int64_t size)
{
    pare_store *store;
    assert_ok(pare_store_open(f->path, &store));
    int64_t i = pare__store_find_array(store, name);
    if (i < 0)
        fail_msg("%s is not there", name);
    assert_int_equal(store->arrays[i].bytes, size);
    void *bytes = malloc((size_t)size);
    assert_ok(pare__file_read(store->files[0].fd, f->path, bytes, size, store->arrays[i].offset));
    pare_store_close(&store);
    return bytes;
}

static void arrays_are_those_of_bitsandbytes(void **state)
{
    fixture *f = *state;
    h5_sample *s = sample_of(PARE_F32, 6, 64 * 64);
    s->entry.scale_offset = 0.0123f;
    store_case_write(f->path, NULL, f->be, s, 1);
    static const char want[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", "
        "\"shape\": [6, 4096], \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
        "\"nested_offset\": 1.2299999594688416e-02}";
    char *text = array_bytes(f, "m.weight.quant_state.bitsandbytes__nf4", sizeof want - 1);
    assert_memory_equal(text, want, sizeof want - 1);
    uint8_t *absmax = array_bytes(f, "m.weight.absmax", 384);
    assert_memory_equal(absmax, s->rows.scale_codes, 384);
    float *nested = array_bytes(f, "m.weight.nested_absmax", 8);
    assert_memory_equal(nested, s->rows.nested, 8);
    float *map = array_bytes(f, "m.weight.nested_quant_map", 1024);
    assert_true(map[0] == -0.99296875f && map[127] == 0 && map[128] == 5.5e-7f && map[255] == 1);
    free(map), free(nested), free(absmax), free(text);
    h5_samples_free(s, 1);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Writes a sample with one level of its scales changed; the status of reading it. */
static pare_status read_with_level(const fixture *f, int code, float level)
{
    h5_sample *s = sample_of(PARE_F32, 2, 64);
    store_case_write(f->path, NULL, f->be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(f->path, &store));
    int64_t i = pare__store_find_array(store, "m.weight.nested_quant_map");
    assert_true(i >= 0);
    FILE *file = fopen(f->path, "r+b");
    fseek(file, (long)(store->arrays[i].offset + 4 * code), SEEK_SET);
    fwrite(&level, 4, 1, file);
    fclose(file);
    float values[128];
    void *scratch;
    assert_int_equal(posix_memalign(&scratch, 64, (size_t)pare_store_scratch(store, 0, 2) + 64), 0);
    pare_status status = pare_store_read_values(store, f->be, 0, 0, 2, values, scratch);
    free(scratch);
    pare_store_close(&store);
    h5_samples_free(s, 1);
    return status;
}

static void other_levels_than_the_dynamic_maps_are_refused(void **state)
{
    assert_ok(read_with_level(*state, 128, 5.5e-7f * (1 + 3e-7f))); /* the last digit may differ */
    assert_status(read_with_level(*state, 128, 6e-7f), PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "m.weight"));
    assert_status(read_with_level(*state, 127, 1e-9f), PARE_ERR_UNSUPPORTED);
}

/* Opens a sample whose quant_state is changed in place. */
static pare_status opened_with(const fixture *f, const char *from, const char *to)
{
    char *bytes = NULL;
    int64_t size;
    h5_sample *s = sample_of(PARE_F32, 2, 64);
    store_case_write(f->path, NULL, f->be, s, 1);
    assert_ok(pare__file_load(f->path, 1 << 20, &bytes, &size));
    char *at = memmem(bytes, (size_t)size, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    assert_ok(pare__file_save(f->path, bytes, size));
    pare_store *store = NULL;
    pare_status status = pare_store_open(f->path, &store);
    pare_store_close(&store);
    h5_samples_free(s, 1);
    free(bytes);
    return status;
}

static void a_state_of_other_nesting_is_refused(void **state)
{
    static const char offset[] = "1.0000000149011612e-01";
    assert_ok(opened_with(*state, offset, "0.1                   "));
    assert_ok(opened_with(*state, offset, "1                     "));
    assert_status(opened_with(*state, offset, "1.0000000149011612e+39"), PARE_ERR_DAMAGED);
    assert_status(opened_with(*state, "nested_offset", "nestid_offset"), PARE_ERR_DAMAGED);
    assert_status(opened_with(*state, "_blocksize\": 256", "_blocksize\": 255"),
                  PARE_ERR_UNSUPPORTED);
    assert_status(opened_with(*state, "nested_dtype\": \"float32", "nested_dtype\": \"float16"),
                  PARE_ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_any_number_of_scales_survive),
        cmocka_unit_test(rows_that_end_inside_a_nested_block_are_not_written_alone),
        cmocka_unit_test(arrays_are_those_of_bitsandbytes),
        cmocka_unit_test(other_levels_than_the_dynamic_maps_are_refused),
        cmocka_unit_test(a_state_of_other_nesting_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
