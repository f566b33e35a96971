/* test_codec.c - every form, scheme and dtype through every container that takes it, and the bytes
 * of each format. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

typedef struct fixture {
    char *folder;
    pare_backend *be;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->folder = test_folder_make();
    assert_ok(pare_cpu_create(NULL, &f->be));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    test_folder_remove(f->folder);
    pare_backend_free(&f->be);
    free(f);
    return 0;
}

static char *path_of(const fixture *f, const char *name)
{
    char *path;
    assert_ok(pare__join(f->folder, name, &path));
    return path;
}

/* Writes, reads back, forgets. */
static void round_trip(const fixture *f, const char *name, const char *format, h5_sample sample)
{
    char *path = path_of(f, name);
    h5_sample *one = malloc(sizeof *one);
    *one = sample;
    store_case_write(path, format, f->be, one, 1);
    store_case_check_all(path, f->be, one, 1);
    h5_samples_free(one, 1);
    free(path);
}

static void quant(const fixture *f, const char *name, const char *format, const char *scheme,
                  pare_dtype dtype, int64_t rows, int64_t cols)
{
    pare_entry e = {.name = "m.weight",
                    .dtype = dtype,
                    .rank = 2,
                    .shape = {rows, cols},
                    .form = PARE_FORM_QUANT};
    assert_ok(pare_scheme_parse(scheme, &e.scheme));
    bool cut = e.scheme.granularity == PARE_PER_BLOCK &&
               (rows % e.scheme.block_rows || cols % e.scheme.block_cols);
    if (cut && strcmp(name, "x_dir") == 0) /* no loader takes those */
        assert_status(pare_writer_accepts(name, format, &e), PARE_ERR_ARGUMENT);
    else
        round_trip(f, name, format,
                   store_case("m.weight", scheme, dtype, 2, (int64_t[]){rows, cols}));
}

static const char *const containers[] = {"x.safetensors", "x.h5", "x_dir"};

/* ---- round trips ----------------------------------------------------------------------------- */

static void every_dtype_survives_in_every_container(void **state)
{
    for (size_t c = 0; c < 3; c++)
        for (int d = 0; d < PARE_DTYPES; d++) {
            const int64_t shape[] = {40, 4, 2}, empty[] = {3, 0};
            round_trip(*state, containers[c], NULL, store_case("a", NULL, (pare_dtype)d, 3, shape));
            round_trip(*state, containers[c], NULL, store_case("b", NULL, (pare_dtype)d, 2, empty));
            if (pare_dtype_bits((pare_dtype)d) >= 8)
                round_trip(*state, containers[c], NULL,
                           store_case("s", NULL, (pare_dtype)d, 0, shape));
        }
}

static void packed_codes_survive_at_every_width_and_granularity(void **state)
{
    static const char *const kinds[] = {"",  "t",  "g32",  "b16x16",  "b7x5",
                                        "z", "tz", "g32z", "b16x16z", "b7x5z"};
    const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    char scheme[32];
    int turn = 0;
    for (size_t c = 0; c < 3; c++)
        for (int bits = 2; bits <= 8; bits++)
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                snprintf(scheme, sizeof scheme, "w%d%s", bits, kinds[k]);
                quant(*state, containers[c], NULL, scheme, dtypes[turn++ % 3], 101, 96);
                quant(*state, containers[c], NULL, scheme, dtypes[turn % 3], 33, 64);
                quant(*state, containers[c], NULL, scheme, dtypes[turn % 3], 112, 160);
            }
}

static void packed_codes_survive_odd_shapes(void **state)
{
    static const char *const schemes[] = {"w3", "w5z", "w4tz", "w7b4x4z"};
    const int64_t shapes[][2] = {{1, 1}, {1, 31}, {31, 1}, {32, 33}, {65, 7}, {5, 0}};
    for (size_t s = 0; s < 4; s++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            quant(*state, "x.safetensors", NULL, schemes[s], PARE_F16, shapes[i][0], shapes[i][1]);
    quant(*state, "x.h5", NULL, "w4g32z", PARE_F16, 0, 5);
}

static void byte_codes_survive(void **state)
{
    static const char *const schemes[] = {"w8",  "w8t",    "w8g32", "w8b16x16",
                                          "w8z", "w8g32z", "w8tz"};
    for (size_t c = 0; c < 3; c++)
        for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++)
            quant(*state, containers[c], "int-quantized", schemes[s], PARE_BF16, 70, 64);
    quant(*state, "x_dir", NULL, "w8a8", PARE_F32, 35, 17);
    quant(*state, "x.safetensors", NULL, "w8a8s", PARE_F32, 35, 17);
}

/* One number beside them, for the inputs of the product. */
static void static_activations_survive(void **state)
{
    static const char *const schemes[] = {"w8a8s",  "w8tza8s", "w4g32a8s",
                                          "w3za8s", "fp8a8s",  "fp8ta8s"};
    for (size_t c = 0; c < 3; c++)
        for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++) {
            quant(*state, containers[c], NULL, schemes[s], PARE_BF16, 101, 96);
            quant(*state, containers[c], NULL, schemes[s], PARE_F32, 1, 64);
        }
    quant(*state, "x.h5", NULL, "w8a8s", PARE_F16, 0, 5);
    quant(*state, "x.h5", NULL, "w4za8s", PARE_F16, 5, 0);
    quant(*state, "x.safetensors", NULL, "w8a8s", PARE_F16, 5, 0);
}

static void float_codes_survive(void **state)
{
    for (size_t c = 0; c < 3; c++) {
        quant(*state, containers[c], NULL, "fp8", PARE_BF16, 70, 33);
        quant(*state, containers[c], NULL, "fp8t", PARE_F16, 70, 33);
        quant(*state, containers[c], "float-quantized", "fp8a8", PARE_F32, 70, 33);
    }
}

static void nf4_survives(void **state)
{
    for (size_t c = 0; c < 3; c++) {
        quant(*state, containers[c], NULL, "nf4", PARE_BF16, 37, 128);
        quant(*state, containers[c], "nf4", "nf4", PARE_F32, 1, 64);
        quant(*state, containers[c], NULL, "nf4", PARE_F16, 5, 0);
    }
    quant(*state, "x.h5", NULL, "nf4", PARE_F16, 7, 67);
}

static void sparse_tensors_survive(void **state)
{
    const pare_dtype dtypes[] = {PARE_F32, PARE_F16, PARE_BF16};
    const int64_t shapes[][2] = {{100, 37}, {1, 8}, {40, 1}, {7, 9}, {9, 0}};
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < 5; i++)
            round_trip(*state, containers[c], "sparse-bitmask",
                       store_case("m.weight", "sparse", dtypes[i % 3], 2, shapes[i]));
}

static void convolutions_survive_outside_a_directory(void **state)
{
    const int64_t shape[] = {37, 4, 3, 3};
    static const char *const schemes[] = {"w4", "w3z", "w8a8", "fp8", "w5g9", "sparse"};
    for (size_t c = 0; c < 2; c++)
        for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++)
            round_trip(*state, containers[c], NULL,
                       store_case("conv.weight", schemes[s], PARE_F32, 4, shape));
}

static void names_without_weight_get_the_same_suffixes(void **state)
{
    round_trip(*state, "x.safetensors", NULL,
               store_case("attn.in_proj_weight", "w4g32z", PARE_F16, 2, (int64_t[]){64, 64}));
    round_trip(*state, "x.safetensors", NULL,
               store_case("w", "w8a8", PARE_F16, 2, (int64_t[]){64, 64}));
}

static void several_schemes_share_a_file(void **state)
{
    fixture *f = *state;
    for (size_t c = 0; c < 3; c++) {
        char *path = path_of(f, containers[c]);
        h5_sample *s = calloc(6, sizeof *s);
        const int64_t shape[] = {64, 64};
        s[0] = store_case("layer.q.weight", "w4g32", PARE_BF16, 2, shape);
        s[1] = store_case("layer.k.weight", "w3z", PARE_BF16, 2, shape);
        s[2] = store_case("layer.v.weight", "w8a8", PARE_BF16, 2, shape);
        s[3] = store_case("layer.o.weight", "fp8", PARE_BF16, 2, shape);
        s[4] = store_case("embed.weight", "w4g32", PARE_BF16, 2, shape);
        s[5] = store_case("norm.weight", NULL, PARE_BF16, 1, shape);
        store_case_write(path, NULL, f->be, s, 6);
        store_case_check_all(path, f->be, s, 6);
        h5_samples_free(s, 6);
        free(path);
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* The bytes of an array of a .safetensors file. */
static void *array_bytes(const char *path, const char *name, int64_t size)
{
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    int64_t i = pare__store_find_array(store, name);
    if (i < 0)
        fail_msg("%s is not there", name);
    assert_int_equal(store->arrays[i].bytes, size);
    void *bytes = malloc((size_t)size);
    assert_ok(pare__file_read(store->files[0].fd, path, bytes, size, store->arrays[i].offset));
    pare_store_close(&store);
    return bytes;
}

static h5_sample *one_row(const char *scheme, int64_t rows, int64_t cols)
{
    h5_sample *s = malloc(sizeof *s);
    *s = store_case("m.weight", scheme, PARE_F32, 2, (int64_t[]){rows, cols});
    return s;
}

static void three_bits_are_a_dense_stream_of_words(void **state)
{
    fixture *f = *state;
    char *path = path_of(f, "x.safetensors");
    h5_sample *s = one_row("w3", 1, 33);
    for (int i = 0; i < 33; i++)
        s->rows.codes[i] = (int8_t)(i % 8 - 4);
    store_case_write(path, NULL, f->be, s, 1);
    uint32_t *words = array_bytes(path, "m.weight_packed", 16);
    /* u = 0,1,..7 repeated: 24 bits of 0xfac688, one after the other; element 32 begins word 3 */
    const uint32_t want[] = {0x88fac688u, 0xc688fac6u, 0xfac688fau, 0u};
    assert_memory_equal(words, want, sizeof want);
    int64_t *shape = array_bytes(path, "m.weight_shape", 16);
    assert_int_equal(shape[0], 1);
    assert_int_equal(shape[1], 33);
    free(shape), free(words);
    h5_samples_free(s, 1);
    free(path);
}

static void zero_points_are_packed_down_the_rows(void **state)
{
    fixture *f = *state;
    char *path = path_of(f, "x.safetensors");
    h5_sample *s = one_row("w4g32z", 9, 64);
    for (int r = 0; r < 9; r++)
        for (int g = 0; g < 2; g++)
            s->rows.zero[r * 2 + g] = (int8_t)(g ? 7 - r : r - 8);
    store_case_write(path, NULL, f->be, s, 1);
    uint32_t *words = array_bytes(path, "m.weight_zero_point", 16);
    /* [2 words, 2 groups]: u of group 0 is 0..8, of group 1 is 15..7 */
    const uint32_t want[] = {0x76543210u, 0x89abcdefu, 0x8u, 0x7u};
    assert_memory_equal(words, want, sizeof want);
    free(words);
    h5_samples_free(s, 1);
    free(path);
}

static void nf4_puts_the_even_element_in_the_high_nibble(void **state)
{
    fixture *f = *state;
    char *path = path_of(f, "x.safetensors");
    h5_sample *s = one_row("nf4", 2, 64);
    s->rows.codes[0] = 0xa, s->rows.codes[1] = 0x3;
    store_case_write(path, NULL, f->be, s, 1);
    uint8_t *bytes = array_bytes(path, "m.weight", 64);
    assert_int_equal(bytes[0], 0xa3);
    static const char want[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [2, 64]}";
    char *text = array_bytes(path, "m.weight.quant_state.bitsandbytes__nf4", sizeof want - 1);
    assert_memory_equal(text, want, sizeof want - 1);
    float *map = array_bytes(path, "m.weight.quant_map", 64);
    assert_true(map[0] == -1.0f && map[15] == 1.0f && map[7] == 0.0f);
    float *absmax = array_bytes(path, "m.weight.absmax", 8);
    assert_memory_equal(absmax, s->rows.scale, 8);
    free(absmax), free(map), free(text), free(bytes);
    h5_samples_free(s, 1);
    free(path);
}

static void sparse_bitmask_takes_the_modules_name(void **state)
{
    fixture *f = *state;
    char *path = path_of(f, "x.safetensors");
    h5_sample *s = one_row("sparse", 3, 9);
    store_case_write(path, NULL, f->be, s, 1);
    uint8_t *mask = array_bytes(path, "m.bitmask", 6);
    assert_memory_equal(mask, s->rows.mask, 6);
    int64_t *offsets = array_bytes(path, "m.row_offsets", 24);
    assert_int_equal(offsets[0], 0);
    assert_int_equal(offsets[1], pare__mask_ones(mask, 2));
    free(offsets), free(mask);
    h5_samples_free(s, 1);
    free(path);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Writes a sample, changes some bytes of one of its arrays, reads it; gives the status. */
static pare_status read_changed(const fixture *f, h5_sample *s, const char *format,
                                const char *array, int64_t at, const void *bytes, size_t size)
{
    char *path = path_of(f, "x.safetensors");
    store_case_write(path, format, f->be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    int64_t i = pare__store_find_array(store, array);
    assert_true(i >= 0);
    FILE *file = fopen(path, "r+b");
    fseek(file, (long)(store->arrays[i].offset + at), SEEK_SET);
    fwrite(bytes, 1, size, file);
    fclose(file);
    const pare_entry *e = pare_store_entry(store, 0);
    char *values = malloc((size_t)(e->rows * e->cols * 4) + 1);
    void *scratch;
    assert_int_equal(
        posix_memalign(&scratch, 64, (size_t)pare_store_scratch(store, 0, e->rows) + 64), 0);
    pare_status status = pare_store_read_values(store, f->be, 0, 0, e->rows, values, scratch);
    free(scratch), free(values);
    pare_store_close(&store);
    free(path);
    return status;
}

static void a_bitmask_that_does_not_match_is_refused(void **state)
{
    h5_sample *s = one_row("sparse", 5, 13);
    const uint8_t ones = 0xff;
    const int64_t far = 1000, negative = -1;
    assert_status(read_changed(*state, s, NULL, "m.bitmask", 0, &ones, 1), PARE_ERR_DAMAGED);
    assert_status(read_changed(*state, s, NULL, "m.bitmask", 9, &ones, 1), PARE_ERR_DAMAGED);
    assert_status(read_changed(*state, s, NULL, "m.row_offsets", 8, &far, 8), PARE_ERR_DAMAGED);
    assert_status(read_changed(*state, s, NULL, "m.row_offsets", 8, &negative, 8),
                  PARE_ERR_DAMAGED);
    h5_samples_free(s, 1);
}

static void other_levels_than_nf4s_are_refused(void **state)
{
    h5_sample *s = one_row("nf4", 2, 64);
    const float level = 0.5f;
    assert_status(read_changed(*state, s, NULL, "m.weight.quant_map", 4, &level, 4),
                  PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "m.weight"));
    h5_samples_free(s, 1);
}

static void a_code_outside_its_bits_is_refused(void **state)
{
    fixture *f = *state;
    h5_sample *s = one_row("w8", 4, 4);
    char *path = path_of(f, "x.safetensors");
    store_case_write(path, "int-quantized", f->be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    store->slots[0].entry.scheme.bits = 4;
    char values[64], scratch[4096];
    assert_status(pare_store_read_values(store, f->be, 0, 0, 4, values, scratch), PARE_ERR_DAMAGED);
    pare_store_close(&store);
    h5_samples_free(s, 1);
    free(path);
}

static void wrong_ranges_are_refused(void **state)
{
    fixture *f = *state;
    char *path = path_of(f, "x.safetensors");
    h5_sample *s = one_row("w4b16x16", 40, 16);
    store_case_write(path, NULL, f->be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    pare_rows rows = {.first = 8, .count = 8};
    assert_status(pare_store_read(store, f->be, 0, &rows, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_store_read_values(store, f->be, 0, 39, 2, NULL, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_store_read_values(store, f->be, 0, -1, 1, NULL, NULL), PARE_ERR_ARGUMENT);
    assert_status(pare_store_read_values(store, f->be, 1, 0, 1, NULL, NULL), PARE_ERR_ARGUMENT);
    pare_store_close(&store);
    h5_samples_free(s, 1);
    free(path);
}

/* ---- the older packing ----------------------------------------------------------------------- */

static void pack_aligned(const int8_t *codes, int64_t count, int64_t stride, int bits,
                         uint32_t *words, int64_t word_stride)
{
    for (int64_t i = 0; i < count; i++)
        words[i / (32 / bits) * word_stride] |= (uint32_t)(codes[i * stride] + (1 << (bits - 1)))
                                                << i % (32 / bits) * bits;
}

/* The same tensor as compressed-tensors packed it before its dense stream, made by hand. */
static void older_packings_are_told_by_their_width(void **state)
{
    fixture *f = *state;
    for (int bits = 2; bits <= 8; bits++) {
        char scheme[24], config[512], header[1024];
        snprintf(scheme, sizeof scheme, "w%dg32z", bits);
        h5_sample *s = one_row(scheme, 500, 64);
        int64_t per = 32 / bits, words = (64 + per - 1) / per, down = (500 + per - 1) / per;
        uint32_t *packed = calloc((size_t)(500 * words), 4), *zero = calloc((size_t)(down * 2), 4);
        for (int64_t r = 0; r < 500; r++)
            pack_aligned(s->rows.codes + r * 64, 64, 1, bits, packed + r * words, 1);
        for (int g = 0; g < 2; g++)
            pack_aligned(s->rows.zero + g, 500, 2, bits, zero + g, 2);
        snprintf(
            config, sizeof config,
            "{\\\"quant_method\\\":\\\"compressed-tensors\\\",\\\"config_groups\\\":{\\\"g\\\":{"
            "\\\"targets\\\":[\\\"Linear\\\"],\\\"weights\\\":{\\\"num_bits\\\":%d,"
            "\\\"group_size\\\":32,\\\"symmetric\\\":false}}}}",
            bits);
        int64_t a = 16, b = a + 500 * words * 4, c = b + 500 * 2 * 4, d = c + down * 8;
        int n =
            snprintf(header + 8, sizeof header - 8,
                     "{\"__metadata__\":{\"quantization_config\":\"%s\"},"
                     "\"m.weight_shape\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                     "\"m.weight_packed\":{\"dtype\":\"I32\",\"shape\":[500,%lld],"
                     "\"data_offsets\":[16,%lld]},"
                     "\"m.weight_scale\":{\"dtype\":\"F32\",\"shape\":[500,2],"
                     "\"data_offsets\":[%lld,%lld]},"
                     "\"m.weight_zero_point\":{\"dtype\":\"I32\",\"shape\":[%lld,2],"
                     "\"data_offsets\":[%lld,%lld]}}",
                     config, (long long)words, (long long)b, (long long)b, (long long)c,
                     (long long)down, (long long)c, (long long)d);
        uint64_t length = (uint64_t)n;
        memcpy(header, &length, 8);
        char *path = path_of(f, "older.safetensors");
        FILE *file = fopen(path, "wb");
        const int64_t shape[] = {500, 64};
        fwrite(header, 1, (size_t)n + 8, file);
        fwrite(shape, 8, 2, file);
        fwrite(packed, 4, (size_t)(500 * words), file);
        fwrite(s->rows.scale, 4, 1000, file);
        fwrite(zero, 4, (size_t)(down * 2), file);
        fclose(file);
        store_case_check_all(path, f->be, s, 1);
        free(path), free(packed), free(zero);
        h5_samples_free(s, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_survives_in_every_container),
        cmocka_unit_test(packed_codes_survive_at_every_width_and_granularity),
        cmocka_unit_test(packed_codes_survive_odd_shapes),
        cmocka_unit_test(byte_codes_survive),
        cmocka_unit_test(static_activations_survive),
        cmocka_unit_test(float_codes_survive),
        cmocka_unit_test(nf4_survives),
        cmocka_unit_test(sparse_tensors_survive),
        cmocka_unit_test(convolutions_survive_outside_a_directory),
        cmocka_unit_test(names_without_weight_get_the_same_suffixes),
        cmocka_unit_test(several_schemes_share_a_file),
        cmocka_unit_test(three_bits_are_a_dense_stream_of_words),
        cmocka_unit_test(zero_points_are_packed_down_the_rows),
        cmocka_unit_test(nf4_puts_the_even_element_in_the_high_nibble),
        cmocka_unit_test(sparse_bitmask_takes_the_modules_name),
        cmocka_unit_test(a_bitmask_that_does_not_match_is_refused),
        cmocka_unit_test(other_levels_than_nf4s_are_refused),
        cmocka_unit_test(a_code_outside_its_bits_is_refused),
        cmocka_unit_test(wrong_ranges_are_refused),
        cmocka_unit_test(older_packings_are_told_by_their_width),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
