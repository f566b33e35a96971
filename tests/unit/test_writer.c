/* test_writer.c - create, fill, finish: what may be written where, what is predicted, what a cut or
 * failed run leaves behind. */
#include "store_case.h"
#include "test.h"

#include "store/store_impl.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;
static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    folder = test_folder_make();
    assert_ok(pare_cpu_create(NULL, &be));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    pare_backend_free(&be);
    return 0;
}

static const char *at(const char *name)
{
    static char paths[4][4096];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static h5_sample *one(const char *name, const char *scheme, pare_dtype dtype, int rank,
                      const int64_t *shape)
{
    h5_sample *s = malloc(sizeof *s);
    *s = store_case(name, scheme, dtype, rank, shape);
    return s;
}

static h5_sample *matrix(const char *scheme)
{
    return one("m.weight", scheme, PARE_F16, 2, (int64_t[]){128, 64});
}

static pare_status create(const char *path, const h5_sample *s, bool overwrite, bool resume,
                          const char *provenance, pare_writer **writer)
{
    pare_entry *entries;
    pare_writer_options options = h5_samples_options(path, s, 1, NULL, provenance, &entries);
    options.overwrite = overwrite;
    pare_status status = pare_writer_create(&options, resume, writer);
    free(entries);
    return status;
}

/* ---- what may be written where --------------------------------------------------------------- */

static pare_status accepts(const char *path, const char *format, const char *name,
                           const char *scheme, pare_dtype dtype, int rank, const int64_t *shape)
{
    h5_sample *s = one(name, scheme, dtype, rank, shape);
    pare_status status = pare_writer_accepts(path, format, &s->entry);
    h5_samples_free(s, 1);
    return status;
}

static void containers_say_what_they_hold(void **state)
{
    (void)state;
    const int64_t conv[] = {16, 64, 3, 3}, m[] = {128, 64}, odd[] = {128, 65}, none[] = {0, 4};
    const pare_status no = PARE_ERR_ARGUMENT;
    assert_ok(accepts("x", NULL, "m.weight", "w4g32", PARE_F16, 2, m));
    assert_ok(accepts("x.h5", NULL, "m.weight", "w4", PARE_F16, 4, conv));
    assert_ok(accepts("x.safetensors", NULL, "m.weight", "w4", PARE_F16, 4, conv));
    assert_status(accepts("x", NULL, "m.weight", "w4", PARE_F16, 4, conv), no);
    assert_non_null(strstr(pare_last_error(), "m.weight"));
    assert_ok(accepts("x.safetensors", NULL, "in_proj_weight", "w4", PARE_F16, 2, m));
    assert_status(accepts("x", NULL, "in_proj_weight", "w4", PARE_F16, 2, m), no);
    assert_status(accepts("x", NULL, "m.weight", "sparse", PARE_F16, 2, m), no);
    assert_ok(accepts("x", "sparse-bitmask", "m.weight", "sparse", PARE_F16, 2, m));
    assert_ok(accepts("x.h5", NULL, "m.bias", "sparse", PARE_F16, 2, m));
    assert_status(accepts("x.safetensors", NULL, "m.bias", "sparse", PARE_F16, 2, m), no);
    assert_ok(accepts("x", NULL, "m.weight", "nf4", PARE_F16, 2, m));
    assert_status(accepts("x", NULL, "m.weight", "nf4", PARE_F16, 2, odd), no);
    assert_ok(accepts("x.h5", NULL, "m.weight", "nf4", PARE_F16, 2, odd));
    assert_ok(accepts("x", NULL, "m.weight", "nf4d", PARE_F16, 2, m));
    assert_ok(accepts("x.h5", NULL, "m.weight", "nf4d", PARE_F16, 2, odd));
    assert_status(accepts("x", NULL, "m.weight", "nf4d", PARE_F16, 2, odd), no);
    assert_status(accepts("x.safetensors", NULL, "m.weight", "w4", PARE_F16, 2, none), no);
    assert_status(accepts("x.safetensors", NULL, "f4", NULL, PARE_F4, 1, (int64_t[]){3}), no);
    assert_ok(accepts("x.h5", NULL, "f4", NULL, PARE_F4, 1, (int64_t[]){3}));
}

static void formats_are_checked_against_schemes(void **state)
{
    (void)state;
    const int64_t m[] = {128, 64};
    const pare_status no = PARE_ERR_ARGUMENT;
    assert_ok(accepts("x", "int-quantized", "m.weight", "w8", PARE_F16, 2, m));
    assert_ok(accepts("x", "int-quantized", "m.weight", "w4", PARE_F16, 2, m));
    assert_ok(accepts("x", "pack-quantized", "m.weight", "w8a8", PARE_F16, 2, m));
    assert_ok(accepts("x", "nf4", "m.weight", NULL, PARE_F16, 2, m));
    assert_status(accepts("x", "pack-quantized", "m.weight", "fp8", PARE_F16, 2, m), no);
    assert_status(accepts("x", "nf4", "m.weight", "w4", PARE_F16, 2, m), no);
    assert_status(accepts("x", "gguf", "m.weight", "w4", PARE_F16, 2, m), no);
    assert_non_null(strstr(pare_last_error(), "gguf"));
}

static void the_natural_codec_follows_the_scheme(void **state)
{
    (void)state;
    static const struct {
        const char *scheme, *format, *codec;
    } cases[] = {
        {NULL, "", "dense"},  {"sparse", "", "sparse"}, {"w8", "", "pack"},
        {"w8a8", "", "int"},  {"w4a8", "", "pack"},     {"w8", "int-quantized", "int"},
        {"fp8", "", "float"}, {"nf4", "", "nf4"},       {"w8a8", "pack-quantized", "pack"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        h5_sample *s = matrix(cases[i].scheme);
        const pare__codec *codec;
        assert_ok(pare__codec_for(&s->entry, cases[i].format, &codec));
        assert_string_equal(codec->name, cases[i].codec);
        assert_ptr_equal(pare__codec_by_name(cases[i].codec), codec);
        h5_samples_free(s, 1);
    }
    assert_null(pare__codec_by_name("zip"));
}

static void entries_must_be_in_order_and_once(void **state)
{
    (void)state;
    pare_entry e[2] = {{.name = "b", .rank = 1, .shape = {1}},
                       {.name = "a", .rank = 1, .shape = {1}}};
    pare_writer_options options = {.path = at("x.safetensors"), .entries = e, .count = 2};
    pare_writer *writer = NULL;
    assert_status(pare_writer_create(&options, false, &writer), PARE_ERR_ARGUMENT);
    e[0].name = "a";
    assert_status(pare_writer_create(&options, false, &writer), PARE_ERR_ARGUMENT);
    e[0].name = "";
    assert_status(pare_writer_create(&options, false, &writer), PARE_ERR_ARGUMENT);
    e[0].name = "__metadata__";
    assert_status(pare_writer_create(&options, false, &writer), PARE_ERR_ARGUMENT);
    assert_false(pare__exists(at("x.safetensors.part")));
}

static void arrays_of_one_name_are_refused(void **state)
{
    (void)state;
    pare_entry e[2] = {{.name = "m.weight",
                        .dtype = PARE_F16,
                        .rank = 2,
                        .shape = {32, 32},
                        .form = PARE_FORM_QUANT},
                       {.name = "m.weight_scale", .rank = 1, .shape = {1}}};
    assert_ok(pare_scheme_parse("w4", &e[0].scheme));
    pare_writer_options options = {.path = at("x.safetensors"), .entries = e, .count = 2};
    pare_writer *writer;
    assert_status(pare_writer_create(&options, false, &writer), PARE_ERR_ARGUMENT);
    assert_non_null(strstr(pare_last_error(), "m.weight_scale"));
}

/* ---- create and finish ----------------------------------------------------------------------- */

static void predicted_sizes_are_the_sizes(void **state)
{
    (void)state;
    static const char *const paths[] = {"p.safetensors", "p_dir"};
    static const char *const files[] = {"p.safetensors", "p_dir/model.safetensors"};
    for (int i = 0; i < 2; i++) {
        h5_sample *s = matrix("w4g32z");
        pare_entry *entries;
        pare_writer_options options = h5_samples_options(at(paths[i]), s, 1, NULL, "{}", &entries);
        int64_t count, bytes;
        struct stat st;
        assert_ok(pare_writer_predict(&options, &count, &bytes));
        assert_false(pare__exists(at(paths[i])));
        free(entries);
        pare_writer *writer;
        assert_ok(create(at(paths[i]), s, false, false, "{}", &writer));
        h5_sample_fill(writer, be, s, 0, 0);
        assert_ok(pare_writer_finish(writer));
        pare_writer_free(&writer, false);
        assert_int_equal(stat(at(files[i]), &st), 0);
        if (i == 0) {
            assert_int_equal(count, 1);
            assert_int_equal(bytes, st.st_size);
        } else {
            int64_t all = st.st_size;
            assert_int_equal(stat(at("p_dir/config.json"), &st), 0);
            all += st.st_size;
            assert_int_equal(stat(at("p_dir/pare.json"), &st), 0);
            assert_int_equal(count, 3);
            assert_int_equal(bytes, all + st.st_size);
        }
        h5_samples_free(s, 1);
    }
}

static void an_output_that_exists_is_kept_unless_told_otherwise(void **state)
{
    (void)state;
    const char *path = at("e.safetensors");
    h5_sample *s = matrix("w4"), *other = matrix("w8");
    pare_writer *writer = NULL;
    store_case_write(path, NULL, be, s, 1);
    assert_status(create(path, other, false, false, NULL, &writer), PARE_ERR_EXISTS);
    store_case_check_all(path, be, s, 1);
    assert_ok(create(path, other, true, false, NULL, &writer));
    store_case_check_all(path, be, s, 1); /* not before finish */
    h5_sample_fill(writer, be, other, 0, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    store_case_check_all(path, be, other, 1);
    h5_samples_free(s, 1);
    h5_samples_free(other, 1);
}

static void a_part_stays_unless_it_is_discarded(void **state)
{
    (void)state;
    h5_sample *s = matrix("w4");
    pare_writer *writer;
    assert_ok(create(at("d.safetensors"), s, false, false, NULL, &writer));
    pare_writer_free(&writer, false);
    assert_null(writer);
    assert_true(pare__exists(at("d.safetensors.part")));
    assert_ok(create(at("d.safetensors"), s, false, false, NULL, &writer)); /* begins afresh */
    pare_writer_free(&writer, true);
    assert_false(pare__exists(at("d.safetensors.part")));
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
}

static void a_part_is_continued_with_its_bytes(void **state)
{
    (void)state;
    const char *path = at("r.safetensors");
    h5_sample *s = matrix("w3g32z");
    s->entry.piece_rows = 32;
    pare_writer *writer;
    assert_ok(create(path, s, false, false, "{\"digest\":\"0000\"}", &writer));
    h5_sample_fill(writer, be, s, 0, 96);
    assert_ok(pare_writer_provenance(writer, "{\"digest\":\"12ab\"}"));
    assert_ok(pare_writer_sync(writer));
    pare_writer_free(&writer, false);
    assert_ok(create(path, s, false, true, "{\"digest\":\"0000\"}", &writer));
    h5_sample_fill(writer, be, s, 0, 0);
    assert_ok(pare_writer_provenance(writer, "{\"digest\":\"12ab\"}"));
    assert_ok(writer->format->finish(writer)); /* cut right before the rename */
    pare_writer_free(&writer, false);
    assert_ok(create(path, s, false, true, "{\"digest\":\"0000\"}", &writer));
    assert_ok(pare_writer_provenance(writer, "{\"digest\":\"12ab\"}"));
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    store_case_check_all(path, be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(path, &store));
    assert_string_equal(pare_store_provenance(store), "{\"digest\":\"12ab\"}");
    pare_store_close(&store);
    h5_samples_free(s, 1);
}

static void a_part_of_something_else_is_refused(void **state)
{
    (void)state;
    const char *path = at("q.safetensors");
    h5_sample *s = matrix("w4"), *other = matrix("w4t");
    pare_writer *writer = NULL;
    assert_status(create(path, s, false, true, "{}", &writer), PARE_ERR_DAMAGED);
    assert_ok(create(path, s, false, false, "{\"a\":1}", &writer));
    pare_writer_free(&writer, false);
    assert_status(create(path, other, false, true, "{\"a\":1}", &writer), PARE_ERR_DAMAGED);
    assert_status(create(path, s, false, true, "{\"b\":z}", &writer), PARE_ERR_DAMAGED);
    assert_status(create(path, s, false, true, "{\"a\":111111}", &writer), PARE_ERR_DAMAGED);
    assert_ok(create(path, s, false, true, "{\"a\":1}", &writer));
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
    h5_samples_free(other, 1);
}

static void provenance_keeps_its_length(void **state)
{
    (void)state;
    h5_sample *s = matrix(NULL);
    pare_writer *writer;
    assert_ok(create(at("v.safetensors"), s, false, false, "{\"a\":1}", &writer));
    assert_status(pare_writer_provenance(writer, "{\"a\":12}"), PARE_ERR_ARGUMENT);
    assert_ok(pare_writer_provenance(writer, "\"\"\"\"\"\"\"")); /* longer once it is escaped */
    assert_status(pare_writer_finish(writer), PARE_ERR_ARGUMENT);
    pare_writer_free(&writer, true);
    assert_ok(create(at("v.safetensors"), s, false, false, NULL, &writer));
    assert_status(pare_writer_provenance(writer, ""), PARE_ERR_ARGUMENT);
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
}

static void metadata_of_the_source_go_along_without_pares_own(void **state)
{
    (void)state;
    h5_sample *s = matrix("w4");
    store_case_write(at("a.safetensors"), NULL, be, s, 1);
    pare_store *store;
    assert_ok(pare_store_open(at("a.safetensors"), &store));
    free(store->metadata);
    assert_ok(pare__strdup("{\"format\":\"pt\",\"license\":\"mit\",\"pare\":\"old\","
                           "\"quantization_config\":\"old\"}",
                           &store->metadata));
    h5_sample *dense = matrix(NULL);
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(at("b.safetensors"), dense, 1, store, NULL, &entries);
    pare_writer *writer;
    assert_ok(pare_writer_create(&options, false, &writer));
    free(entries);
    h5_sample_fill(writer, be, dense, 0, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    pare_store_close(&store);
    assert_ok(pare_store_open(at("b.safetensors"), &store));
    assert_string_equal(pare_store_metadata(store), "{\"format\":\"pt\",\"license\":\"mit\"}");
    assert_null(pare_store_provenance(store));
    pare_store_close(&store);
    h5_samples_free(s, 1);
    h5_samples_free(dense, 1);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void rows_that_do_not_stand_alone_are_refused(void **state)
{
    (void)state;
    h5_sample *s = matrix("w4b48x16");
    s->entry.piece_rows = 32;
    pare_writer *writer;
    assert_ok(create(at("w.safetensors"), s, false, false, NULL, &writer));
    pare_parts parts;
    const int64_t wrong[][2] = {{16, 16},  {32, 32}, {0, 16}, {0, 32},
                                {-32, 32}, {0, 160}, {96, 64}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pare_rows rows = {.first = wrong[i][0], .count = wrong[i][1]};
        assert_status(pare_writer_encode(writer, be, 0, &rows, NULL, &parts), PARE_ERR_ARGUMENT);
    }
    assert_status(pare_writer_encode(writer, be, 1, &s->rows, NULL, &parts), PARE_ERR_ARGUMENT);
    pare_rows rows = {.first = 128};
    char scratch[1024];
    assert_true(pare_writer_scratch(writer, 0, 0) <= (int64_t)sizeof scratch);
    assert_ok(pare_writer_encode(writer, be, 0, &rows, scratch, &parts));
    assert_int_equal(parts.count, 0);
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
}

static void more_values_than_were_laid_out_are_refused(void **state)
{
    (void)state;
    h5_sample *s = matrix("sparse");
    pare_writer *writer;
    assert_ok(create(at("z.safetensors"), s, false, false, NULL, &writer));
    pare_rows rows = s->rows;
    rows.values_before = 1;
    char scratch[4096];
    pare_parts parts;
    assert_status(pare_writer_encode(writer, be, 0, &rows, scratch, &parts), PARE_ERR_ARGUMENT);
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
}

static void sums_do_not_depend_on_how_rows_are_cut(void **state)
{
    (void)state;
    static const char *const schemes[] = {NULL,   "w3g32z", "w8a8",  "w4b48x16z",
                                          "fp8t", "nf4",    "sparse"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        h5_sample *s = matrix(schemes[i]);
        s->entry.piece_rows = 32;
        pare_writer *writer;
        pare_parts whole, last;
        char *scratch = aligned_alloc(64, 1 << 16);
        assert_ok(create(at("s.h5"), s, true, false, NULL, &writer));
        assert_ok(pare_writer_encode(writer, be, 0, &s->rows, scratch, &whole));
        pare_sums sums = {0};
        if (!schemes[i]) { /* by hand for dense: two calls add up to one */
            pare_rows rows = {.count = 96, .values = s->rows.values};
            assert_ok(pare_writer_encode(writer, be, 0, &rows, scratch, &last));
            sums = last.sums;
            rows = (pare_rows){
                .first = 96, .count = 32, .values = (uint16_t *)s->rows.values + 96 * 64};
            assert_ok(pare_writer_encode(writer, be, 0, &rows, scratch, &last));
            for (int k = 0; k < PARE_ENTRY_SUMS; k++)
                sums.sum[k] += last.sums.sum[k];
            assert_memory_equal(&sums, &whole.sums, sizeof sums);
            assert_ok(pare_writer_encode(writer, be, 0, &s->rows, scratch, &whole));
        }
        assert_true(whole.sums.sum[0] != 0);
        assert_ok(pare_writer_write(writer, &whole));
        pare_writer_add_sums(writer, 0, &whole.sums);
        assert_ok(pare_writer_finish(writer));
        pare_writer_free(&writer, false);
        store_case_check_all(at("s.h5"), be, s, 1); /* verifies */
        free(scratch);
        h5_samples_free(s, 1);
    }
}

/* A disk that is full, played by the device made for it. */
static void a_full_disk_is_said_to_be_full(void **state)
{
    (void)state;
    int full = open("/dev/full", O_WRONLY);
    if (full < 0)
        skip();
    h5_sample *s = matrix(NULL);
    pare_writer *writer;
    assert_ok(create(at("f.safetensors"), s, false, false, NULL, &writer));
    close(writer->files[0].fd);
    writer->files[0].fd = full;
    pare_parts parts;
    assert_ok(pare_writer_encode(writer, be, 0, &s->rows, NULL, &parts));
    assert_status(pare_writer_write(writer, &parts), PARE_ERR_FULL);
    pare_writer_free(&writer, true);
    h5_samples_free(s, 1);
}

static void a_folder_that_cannot_be_written_is_named(void **state)
{
    (void)state;
    h5_sample *s = matrix(NULL);
    pare_writer *writer = NULL;
    assert_status(create(at("no/such/f.safetensors"), s, false, false, NULL, &writer),
                  PARE_ERR_NOT_FOUND);
    assert_non_null(strstr(pare_last_error(), "no/such"));
    h5_samples_free(s, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(containers_say_what_they_hold),
        cmocka_unit_test(formats_are_checked_against_schemes),
        cmocka_unit_test(the_natural_codec_follows_the_scheme),
        cmocka_unit_test(entries_must_be_in_order_and_once),
        cmocka_unit_test(arrays_of_one_name_are_refused),
        cmocka_unit_test(predicted_sizes_are_the_sizes),
        cmocka_unit_test(an_output_that_exists_is_kept_unless_told_otherwise),
        cmocka_unit_test(a_part_stays_unless_it_is_discarded),
        cmocka_unit_test(a_part_is_continued_with_its_bytes),
        cmocka_unit_test(a_part_of_something_else_is_refused),
        cmocka_unit_test(provenance_keeps_its_length),
        cmocka_unit_test(metadata_of_the_source_go_along_without_pares_own),
        cmocka_unit_test(rows_that_do_not_stand_alone_are_refused),
        cmocka_unit_test(more_values_than_were_laid_out_are_refused),
        cmocka_unit_test(sums_do_not_depend_on_how_rows_are_cut),
        cmocka_unit_test(a_full_disk_is_said_to_be_full),
        cmocka_unit_test(a_folder_that_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
