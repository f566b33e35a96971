/* test_hf_dir.c - a model directory: what belongs to it, shards and their index, and what is
 * written. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

static char *folder;
static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    assert_ok(pare_cpu_create(NULL, &be));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    folder = test_folder_make();
    return 0;
}

static int cleared(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* A file below the test's folder; "" is the folder. Freed with the process. */
static const char *at(const char *name)
{
    static char paths[8][4096];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s%s%s", folder, *name ? "/" : "", name);
    return path;
}

static void save(const char *name, const char *text)
{
    char *dir = strdup(at(name));
    *strrchr(dir, '/') = '\0';
    assert_ok(pare__make_directory(dir));
    free(dir);
    assert_ok(pare__file_save(at(name), text, (int64_t)strlen(text)));
}

/* A .safetensors file with one U8 tensor of two elements. */
static void save_tensor(const char *name, const char *tensor)
{
    char bytes[512] = {0};
    int n = snprintf(bytes + 8, sizeof bytes - 8,
                     "{\"%s\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", tensor);
    bytes[0] = (char)n;
    assert_true(n < 128);
    assert_ok(pare__file_save(at(name), bytes, 8 + n + 2));
}

static char *load(const char *name)
{
    char *text;
    int64_t size;
    assert_ok(pare__file_load(at(name), 1 << 24, &text, &size));
    return text;
}

static pare_status open_dir(void)
{
    pare_store *store = NULL;
    pare_status status = pare_store_open(at("m"), &store);
    pare_store_close(&store);
    return status;
}

static void refused(pare_status want, const char *words)
{
    assert_status(open_dir(), want);
    if (!strstr(pare_last_error(), words))
        fail_msg("'%s' lacks '%s'", pare_last_error(), words);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void a_directory_with_one_file_is_read(void **state)
{
    (void)state;
    save("m/config.json", "{\"model_type\":\"x\"}");
    save_tensor("m/model.safetensors", "a");
    pare_store *store;
    assert_ok(pare_store_open(at("m"), &store));
    assert_string_equal(pare_store_format(store), "hf");
    assert_string_equal(pare_store_config(store), "{\"model_type\":\"x\"}");
    assert_int_equal(pare_store_count(store), 1);
    assert_null(pare_store_provenance(store));
    pare_store_close(&store);
}

static void a_config_is_not_needed(void **state)
{
    (void)state;
    save("m/x", "");
    save_tensor("m/weights.safetensors", "a");
    pare_store *store;
    assert_ok(pare_store_open(at("m"), &store));
    assert_null(pare_store_config(store));
    pare_store_close(&store);
}

static void a_damaged_config_is_refused(void **state)
{
    (void)state;
    save("m/config.json", "{\"model_type\":}");
    save_tensor("m/model.safetensors", "a");
    refused(PARE_ERR_DAMAGED, "config.json:1");
}

static void side_files_are_all_but_weights(void **state)
{
    (void)state;
    static const char *const carried[] = {"README.md", "extra/deep/merges.txt", "tokenizer.json",
                                          "vision/config.json"};
    static const char *const left[] = {"config.json",
                                       "pytorch_model.bin",
                                       "pytorch_model.bin.index.json",
                                       ".gitattributes",
                                       "onnx/m.onnx",
                                       "tf_model.h5",
                                       "model.gguf",
                                       "pare.json",
                                       "flax.msgpack",
                                       "a.tar.gz",
                                       "old/x.safetensors",
                                       ".cache/x",
                                       "quantize_config.json"};
    char name[128];
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) {
        snprintf(name, sizeof name, "m/%s", carried[i]);
        save(name, carried[i]);
    }
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        snprintf(name, sizeof name, "m/%s", left[i]);
        save(name, "{}");
    }
    save_tensor("m/model.safetensors", "a");
    pare_store *store;
    assert_ok(pare_store_open(at("m"), &store));
    assert_int_equal(pare_store_side_count(store), 4);
    for (int64_t i = 0; i < 4; i++) {
        const pare_side_file *side = pare_store_side(store, i);
        char bytes[64];
        assert_string_equal(side->name, carried[i]);
        assert_int_equal(side->size, strlen(carried[i]));
        assert_ok(pare_store_side_read(store, i, 1, side->size - 1, bytes));
        assert_memory_equal(bytes, carried[i] + 1, (size_t)side->size - 1);
        assert_status(pare_store_side_read(store, i, 1, side->size, bytes), PARE_ERR_ARGUMENT);
    }
    assert_null(pare_store_side(store, 4));
    pare_store_close(&store);
}

static void pytorch_files_alone_are_refused_with_advice(void **state)
{
    (void)state;
    save("m/config.json", "{}");
    save("m/pytorch_model.bin", "x");
    refused(PARE_ERR_UNSUPPORTED, "convert it first");
}

static void an_empty_directory_is_no_checkpoint(void **state)
{
    (void)state;
    save("m/config.json", "{}");
    refused(PARE_ERR_NOT_FOUND, "no .safetensors");
}

static void several_files_without_an_index_are_refused(void **state)
{
    (void)state;
    save("m/config.json", "{}");
    save_tensor("m/a.safetensors", "a");
    save_tensor("m/b.safetensors", "b");
    refused(PARE_ERR_DAMAGED, "2 .safetensors files");
}

static void shards_come_from_the_index(void **state)
{
    (void)state;
    save("m/model.safetensors.index.json",
         "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"s1.safetensors\","
         "\"b\":\"s2.safetensors\"}}");
    save_tensor("m/s1.safetensors", "a");
    save_tensor("m/s2.safetensors", "b");
    save_tensor("m/other.safetensors", "c");
    pare_store *store;
    assert_ok(pare_store_open(at("m"), &store));
    assert_int_equal(pare_store_count(store), 2);
    pare_store_close(&store);
}

static void save_index(const char *map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"weight_map\":%s}", map);
    save("m/model.safetensors.index.json", text);
}

static void a_wrong_index_is_refused_by_name(void **state)
{
    (void)state;
    save_index("{\"a\":\"s1.safetensors\"}");
    save_tensor("m/s1.safetensors", "a");
    assert_ok(open_dir());
    save_index("{\"a\":\"s1.safetensors\",\"b\":\"s9.safetensors\"}");
    refused(PARE_ERR_DAMAGED, "the shard 's9.safetensors' of tensor 'b' is missing");
    save_index("{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\"}");
    refused(PARE_ERR_DAMAGED, "tensor 'b' is not in 's1.safetensors'");
    save_tensor("m/s2.safetensors", "b");
    save_index("{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}");
    refused(PARE_ERR_DAMAGED, "is not in");
    save_index("{\"a\":\"../s1.safetensors\"}");
    refused(PARE_ERR_DAMAGED, "'../s1.safetensors', which is no file of this directory");
    save_index("{\"a\":\"..\"}");
    refused(PARE_ERR_DAMAGED, "'..'");
    save_index("{\"a\":\"\"}");
    refused(PARE_ERR_DAMAGED, "''");
    save_index("{\"a\":1}");
    refused(PARE_ERR_DAMAGED, "no string");
    save_index("[]");
    refused(PARE_ERR_DAMAGED, "no weight_map");
    save("m/model.safetensors.index.json", "{");
    assert_status(open_dir(), PARE_ERR_DAMAGED);
}

static void a_tensor_in_two_shards_is_refused(void **state)
{
    (void)state;
    save_index("{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}");
    save_tensor("m/s1.safetensors", "a");
    save_tensor("m/s2.safetensors", "a");
    refused(PARE_ERR_DAMAGED, "tensor 'a' is both in");
}

/* ---- writing --------------------------------------------------------------------------------- */

static h5_sample *layers(int64_t count, const char *scheme)
{
    h5_sample *s = calloc((size_t)count, sizeof *s);
    char name[64];
    for (int64_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "layer.%02d.weight", (int)i);
        s[i] = store_case(name, scheme, PARE_F16, 2, (int64_t[]){64, 64});
    }
    return s;
}

static pare_writer *writer_for(const char *path, h5_sample *s, int64_t count, int64_t shard,
                               const pare_store *source, const char *provenance, bool resume)
{
    pare_entry *entries;
    pare_writer *writer = NULL;
    pare_writer_options options = h5_samples_options(path, s, count, source, provenance, &entries);
    options.max_shard_size = shard;
    assert_ok(pare_writer_create(&options, resume, &writer));
    free(entries);
    return writer;
}

static void fill_and_finish(pare_writer *writer, h5_sample *s, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        h5_sample_fill(writer, be, &s[i], i, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
}

static void a_large_model_is_sharded_with_an_index(void **state)
{
    (void)state;
    h5_sample *s = layers(5, "w4g32z");
    pare_writer *writer = writer_for(at("m"), s, 5, 6000, NULL, NULL, false);
    assert_true(pare__exists(at("m.part/model-00001-of-00003.safetensors")));
    assert_false(pare__exists(at("m")));
    fill_and_finish(writer, s, 5);
    assert_false(pare__exists(at("m.part")));
    store_case_check_all(at("m"), be, s, 5);
    char *text = load("m/model.safetensors.index.json");
    pare__json *root;
    int64_t total = 0;
    assert_ok(pare__json_parse(text, strlen(text), "index", &root));
    assert_true(
        pare__json_int(pare__json_get(pare__json_get(root, "metadata"), "total_size"), &total));
    assert_int_equal(total, 5 * (64 * 32 + 64 * 2 * 2 + 8 * 2 * 4 + 16));
    const pare__json *map = pare__json_get(root, "weight_map");
    assert_int_equal(pare__json_size(map), 20);
    assert_string_equal(pare__json_string(pare__json_get(map, "layer.04.weight_scale")),
                        "model-00003-of-00003.safetensors");
    assert_string_equal(pare__json_string(pare__json_get(map, "layer.04.weight_packed")),
                        "model-00003-of-00003.safetensors");
    assert_memory_equal(text, "{\n  \"metadata\": {\n", 18);
    pare__json_free(&root);
    free(text);
    h5_samples_free(s, 5);
}

static void config_side_files_and_provenance_go_along(void **state)
{
    (void)state;
    char *big = malloc(3000001);
    memset(big, 'x', 3000000);
    big[3000000] = '\0';
    save("src/config.json", "{\"b\": 1, \"a\": 2}");
    save("src/tokenizer.json", big);
    save("src/sub/empty.txt", "");
    save("src/quantize_config.json", "{}");
    save_tensor("src/model.safetensors", "a");
    pare_store *source;
    assert_ok(pare_store_open(at("src"), &source));
    h5_sample *s = layers(1, NULL);
    pare_writer *writer = writer_for(at("m/"), s, 1, 0, source, "{\"digest\":\"00\"}", false);
    assert_ok(pare_writer_provenance(writer, "{\"digest\":\"ab\"}"));
    fill_and_finish(writer, s, 1);
    char *text = load("m/config.json");
    assert_string_equal(text, "{\"b\": 1, \"a\": 2}"); /* nothing to change: the same bytes */
    free(text);
    text = load("m/tokenizer.json");
    assert_string_equal(text, big);
    free(text);
    text = load("m/sub/empty.txt");
    assert_string_equal(text, "");
    free(text);
    text = load("m/pare.json");
    assert_string_equal(text, "{\"digest\":\"ab\"}");
    free(text);
    assert_false(pare__exists(at("m/quantize_config.json")));
    pare_store_close(&source);
    assert_ok(pare_store_open(at("m"), &source));
    assert_string_equal(pare_store_provenance(source), "{\"digest\":\"ab\"}");
    assert_int_equal(pare_store_side_count(source), 2);
    pare_store_close(&source);
    h5_samples_free(s, 1);
    free(big);
}

static void quantised_entries_are_described_in_config(void **state)
{
    (void)state;
    save("src/config.json", "{\"model_type\":\"x\",\"rope\":1e-05}");
    save_tensor("src/model.safetensors", "a");
    pare_store *source;
    assert_ok(pare_store_open(at("src"), &source));
    h5_sample *s = layers(2, "w4g32");
    fill_and_finish(writer_for(at("m"), s, 2, 0, source, NULL, false), s, 2);
    char *text = load("m/config.json");
    assert_non_null(strstr(text, "\"format\": \"pack-quantized\""));
    assert_non_null(strstr(text, "\"rope\": 1e-05"));
    assert_non_null(strstr(text, "\n  \"quantization_config\": {\n"));
    assert_null(strstr(text, "sparsity_config"));
    free(text);
    pare_store_close(&source);
    /* no config at all: one that says just that, or nobody could read the codes */
    fill_and_finish(writer_for(at("n"), s, 2, 0, NULL, NULL, false), s, 2);
    store_case_check_all(at("n"), be, s, 2);
    h5_samples_free(s, 2);
}

static void a_cut_run_continues_where_it_was(void **state)
{
    (void)state;
    h5_sample *s = layers(4, "w8a8");
    pare_writer *writer = writer_for(at("m"), s, 4, 9000, NULL, "0", false);
    h5_sample_fill(writer, be, &s[0], 0, 0);
    h5_sample_fill(writer, be, &s[2], 2, 0);
    pare_writer_free(&writer, false);
    writer = writer_for(at("m"), s, 4, 9000, NULL, "0", true);
    h5_sample_fill(writer, be, &s[1], 1, 0);
    h5_sample_fill(writer, be, &s[3], 3, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, true);
    store_case_check_all(at("m"), be, s, 4);
    h5_samples_free(s, 4);
}

static void another_layout_is_not_continued(void **state)
{
    (void)state;
    h5_sample *s = layers(4, "w8a8"), *other = layers(4, "w8");
    pare_writer *writer = writer_for(at("m"), s, 4, 9000, NULL, "0", false);
    pare_writer_free(&writer, false);
    pare_entry *entries;
    pare_writer_options options = h5_samples_options(at("m"), s, 4, NULL, "0", &entries);
    options.max_shard_size = 20000;
    assert_status(pare_writer_create(&options, true, &writer), PARE_ERR_DAMAGED);
    free(entries);
    options = h5_samples_options(at("m"), other, 4, NULL, "0", &entries);
    options.max_shard_size = 9000;
    assert_status(pare_writer_create(&options, true, &writer), PARE_ERR_DAMAGED);
    free(entries);
    options = h5_samples_options(at("absent"), s, 4, NULL, "0", &entries);
    assert_status(pare_writer_create(&options, true, &writer), PARE_ERR_DAMAGED);
    free(entries);
    h5_samples_free(s, 4);
    h5_samples_free(other, 4);
}

static void a_real_directory_is_carried_over(void **state)
{
    (void)state;
    char *path = test_data("bert_tiny_sst2");
    if (!path)
        skip();
    pare_store *store, *copy;
    assert_ok(pare_store_open(path, &store));
    int64_t count = pare_store_count(store);
    pare_entry *entries = calloc((size_t)count, sizeof *entries);
    for (int64_t i = 0; i < count; i++)
        entries[i] = *pare_store_entry(store, i);
    pare_writer_options options = {
        .path = at("m"), .entries = entries, .count = count, .source = store};
    pare_writer *writer;
    assert_ok(pare_writer_create(&options, false, &writer));
    for (int64_t i = 0; i < count; i++) {
        pare_rows rows = {.count = entries[i].rows,
                          .values = malloc((size_t)entries[i].stored_bytes + 1)};
        pare_parts parts;
        assert_ok(pare_store_read(store, be, i, &rows, NULL));
        assert_ok(pare_writer_encode(writer, be, i, &rows, NULL, &parts));
        assert_ok(pare_writer_write(writer, &parts));
        free(rows.values);
    }
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    assert_ok(pare_store_open(at("m"), &copy));
    assert_int_equal(pare_store_count(copy), count);
    assert_string_equal(pare_store_config(copy), pare_store_config(store));
    assert_int_equal(pare_store_side_count(copy), pare_store_side_count(store));
    pare_store_close(&copy);
    pare_store_close(&store);
    free(entries);
    free(path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh, cleared)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_directory_with_one_file_is_read),
        TEST(a_config_is_not_needed),
        TEST(a_damaged_config_is_refused),
        TEST(side_files_are_all_but_weights),
        TEST(pytorch_files_alone_are_refused_with_advice),
        TEST(an_empty_directory_is_no_checkpoint),
        TEST(several_files_without_an_index_are_refused),
        TEST(shards_come_from_the_index),
        TEST(a_wrong_index_is_refused_by_name),
        TEST(a_tensor_in_two_shards_is_refused),
        TEST(a_large_model_is_sharded_with_an_index),
        TEST(config_side_files_and_provenance_go_along),
        TEST(quantised_entries_are_described_in_config),
        TEST(a_cut_run_continues_where_it_was),
        TEST(another_layout_is_not_continued),
        TEST(a_real_directory_is_carried_over),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
