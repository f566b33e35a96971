/* test_store_static.c - the scale of static activations beside its weight: as others write it, what
 * is refused, what damage shows. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

#include <math.h>
#include <unistd.h>

static char *folder, *file;
static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    folder = test_folder_make();
    file = malloc(strlen(folder) + 32);
    sprintf(file, "%s/m.safetensors", folder);
    return pare_cpu_create(NULL, &be) != PARE_OK;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    test_folder_remove(folder);
    free(file);
    return 0;
}

/* ---- made by hand ---------------------------------------------------------------------------- */

/* An int-quantized [2, 4] whose inputs' scale is of this dtype, shape (as JSON) and bytes; dtype
 * NULL: there is none. */
static void make(const char *activations, const char *dtype, const char *shape, const void *bytes,
                 size_t size)
{
    char header[1024], input[128] = "";
    const int8_t codes[8] = {1, 2, 3, 4, -1, -2, -3, -4};
    const float scale[2] = {0.5f, 0.25f};
    if (dtype)
        snprintf(input, sizeof input,
                 ",\"m.input_scale\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[16,%zu]}",
                 dtype, shape, 16 + size);
    int n = snprintf(
        header + 8, sizeof header - 8,
        "{\"__metadata__\":{\"quantization_config\":\"{\\\"quant_method\\\":"
        "\\\"compressed-tensors\\\",\\\"format\\\":\\\"int-quantized\\\",\\\"config_groups\\\":{"
        "\\\"g\\\":{\\\"targets\\\":[\\\"Linear\\\"],\\\"weights\\\":{\\\"num_bits\\\":8,"
        "\\\"strategy\\\":\\\"channel\\\"},\\\"input_activations\\\":{\\\"num_bits\\\":8,%s}}}}\"},"
        "\"m.weight_scale\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
        "\"m.weight\":{\"dtype\":\"I8\",\"shape\":[2,4],\"data_offsets\":[8,16]}%s}",
        activations, input);
    uint64_t length = (uint64_t)n;
    memcpy(header, &length, 8);
    FILE *f = fopen(file, "wb");
    fwrite(header, 1, (size_t)n + 8, f);
    fwrite(scale, 4, 2, f);
    fwrite(codes, 1, 8, f);
    if (dtype)
        fwrite(bytes, 1, size, f);
    fclose(f);
}

#define STATIC "\\\"dynamic\\\":false"

static void check_half(const char *dtype, const char *shape, const void *bytes, size_t size)
{
    pare_store *store;
    int8_t codes[8];
    float scale[2];
    char scratch[4096];
    make(STATIC, dtype, shape, bytes, size);
    assert_ok(pare_store_open(file, &store));
    assert_int_equal(pare_store_count(store), 1);
    const pare_entry *e = pare_store_entry(store, 0);
    assert_int_equal(e->scheme.activation, PARE_ACT_STATIC);
    assert_true(e->act_scale == 0.5f);
    assert_int_equal(e->stored_bytes, 16 + (int64_t)size);
    pare_rows rows = {.count = 2, .codes = codes, .scale = scale};
    assert_true(pare_store_scratch(store, 0, 2) + 64 <= (int64_t)sizeof scratch);
    void *aligned = scratch + (64 - (uintptr_t)scratch % 64) % 64;
    assert_ok(pare_store_read(store, be, 0, &rows, aligned));
    assert_true(rows.act_scale == 0.5f);
    assert_int_equal(codes[7], -4);
    pare_store_close(&store);
}

static void scales_of_every_type_are_read(void **state)
{
    (void)state;
    const float f32 = 0.5f;
    const uint16_t bf16 = 0x3f00, f16 = 0x3800;
    check_half("F32", "[1]", &f32, 4);
    check_half("F32", "[]", &f32, 4);
    check_half("BF16", "[1]", &bf16, 2);
    check_half("F16", "[1,1]", &f16, 2);
}

static void refused(pare_status want, const char *words)
{
    pare_store *store = NULL;
    assert_status(pare_store_open(file, &store), want);
    if (!strstr(pare_last_error(), words))
        fail_msg("\"%s\" is not in: %s", words, pare_last_error());
}

static void what_is_no_scale_is_refused(void **state)
{
    (void)state;
    const float bad[] = {0, -1, NAN, INFINITY}, two[2] = {1, 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make(STATIC, "F32", "[1]", &bad[i], 4);
        refused(PARE_ERR_DAMAGED, "the scale of the inputs of 'm.weight'");
    }
    make(STATIC, "F32", "[2]", two, 8);
    refused(PARE_ERR_UNSUPPORTED, "m.input_scale");
    make(STATIC, "U8", "[1]", "\1", 1);
    refused(PARE_ERR_UNSUPPORTED, "m.input_scale");
    make(STATIC, NULL, NULL, NULL, 0);
    refused(PARE_ERR_DAMAGED, "m.input_scale");
    make(STATIC ",\\\"symmetric\\\":false", "F32", "[1]", two, 4);
    refused(PARE_ERR_UNSUPPORTED, "zero points");
}

/* ---- ours ------------------------------------------------------------------------------------ */

static h5_sample *sample(void)
{
    h5_sample *s = malloc(sizeof *s);
    *s = store_case("m.weight", "w8a8s", PARE_F32, 2, (int64_t[]){70, 40});
    return s;
}

static void a_writer_wants_a_scale(void **state)
{
    (void)state;
    static const char *const paths[] = {"a.h5", "a.safetensors", "a"};
    const float bad[] = {0, -1, NAN, INFINITY};
    h5_sample *s = sample();
    char path[4200], *scratch = malloc(1 << 16);
    for (size_t p = 0; p < 3; p++) {
        pare_writer *writer;
        pare_parts parts;
        pare_entry *entries;
        snprintf(path, sizeof path, "%s/%s", folder, paths[p]);
        pare_writer_options options = h5_samples_options(path, s, 1, NULL, NULL, &entries);
        assert_ok(pare_writer_create(&options, false, &writer));
        free(entries);
        assert_true(pare_writer_scratch(writer, 0, 70) <= 1 << 16);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            pare_rows rows = s->rows;
            rows.act_scale = bad[i];
            assert_status(pare_writer_encode(writer, be, 0, &rows, scratch, &parts),
                          PARE_ERR_ARGUMENT);
        }
        assert_ok(pare_writer_encode(writer, be, 0, &s->rows, scratch, &parts));
        assert_int_equal(parts.count, 3);
        pare_writer_free(&writer, true);
    }
    free(scratch);
    h5_samples_free(s, 1);
}

static void poke(const char *path, float value)
{
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    int64_t at = store->arrays[store->slots[0].array[2]].offset;
    assert_int_equal(store->arrays[store->slots[0].array[2]].bytes, 4);
    pare_store_close(&store);
    FILE *f = fopen(path, "r+b");
    fseek(f, (long)at, SEEK_SET);
    fwrite(&value, 4, 1, f);
    fclose(f);
}

static void damage_shows_in_a_native_file(void **state)
{
    (void)state;
    char path[4200];
    pare_store *store;
    h5_sample *s = sample();
    snprintf(path, sizeof path, "%s/b.h5", folder);
    store_case_write(path, NULL, be, s, 1);
    store_case_check_all(path, be, s, 1);
    poke(path, s->rows.act_scale * 2);
    assert_ok(pare_store_open(path, &store));
    assert_status(pare_store_verify(store, be, 0), PARE_ERR_DAMAGED);
    pare_store_close(&store);
    poke(path, -1);
    assert_status(pare_store_open(path, &store), PARE_ERR_DAMAGED);
    h5_samples_free(s, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_of_every_type_are_read),
        cmocka_unit_test(what_is_no_scale_is_refused),
        cmocka_unit_test(a_writer_wants_a_scale),
        cmocka_unit_test(damage_shows_in_a_native_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
