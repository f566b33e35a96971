/* test_store_h5.c - the native checkpoint: what goes in comes out, two runs agree, and damage is
 * named, not read. */
#include "h5_sample.h"
#include "test.h"

#include "base/file.h"
#include "store/store_h5_seal.h"
#include "store/store_impl.h"

#include <pthread.h>
#include <unistd.h>

#define PROVENANCE "{\"pare\": \"test\", \"seed\": 7}"

typedef struct fixture {
    char *folder;
    char path[4096], copy[4096], source_path[4096];
    pare_backend *be;
    pare_store *source;
    h5_sample *samples;
    int64_t count;
    char *bytes; /* of the file at path */
    int64_t size;
} fixture;

/* A file as bytes, with room for one more. */
static char *load(const char *path, int64_t *size)
{
    char *bytes;
    assert_ok(pare__file_load(path, INT64_C(1) << 30, &bytes, size));
    return bytes;
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->folder = test_folder_make();
    snprintf(f->path, sizeof f->path, "%s/all.h5", f->folder);
    snprintf(f->copy, sizeof f->copy, "%s/copy.h5", f->folder);
    snprintf(f->source_path, sizeof f->source_path, "%s/source", f->folder);
    h5_source_make(f->source_path);
    assert_ok(pare_cpu_create(NULL, &f->be));
    assert_ok(pare_store_open(f->source_path, &f->source));
    f->samples = h5_samples_make(&f->count);
    h5_samples_write(f->path, f->be, f->samples, f->count, f->source, PROVENANCE);
    f->bytes = load(f->path, &f->size);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    free(f->bytes);
    h5_samples_free(f->samples, f->count);
    pare_store_close(&f->source);
    pare_backend_free(&f->be);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

/* Whether opening the copy, holding these bytes, gives this status. */
static void assert_copy(const fixture *f, const char *bytes, int64_t size, pare_status want)
{
    pare_store *store = NULL;
    assert_ok(pare__file_save(f->copy, bytes, size));
    assert_status(pare_store_open(f->copy, &store), want);
    pare_store_close(&store);
}

static void seal_again(const fixture *f, char *bytes)
{
    int fd;
    int64_t size;
    pare__h5_seal seal;
    assert_ok(pare__file_open(f->path, &fd, &size));
    assert_ok(pare__h5_seal_check(fd, f->path, size, &seal));
    close(fd);
    seal.metadata_crc =
        pare__crc64(0, bytes + PARE__H5_BLOCK, (size_t)(seal.data_begin - PARE__H5_BLOCK));
    pare__h5_seal_text(&seal, bytes);
}

static int64_t data_begin(const fixture *f)
{
    int fd;
    int64_t size;
    pare__h5_seal seal;
    assert_ok(pare__file_open(f->path, &fd, &size));
    assert_ok(pare__h5_seal_check(fd, f->path, size, &seal));
    close(fd);
    return seal.data_begin;
}

/* Where in the metadata, from `at` on, `what` begins; -1 if it does not. */
static int64_t find_from(const fixture *f, int64_t at, int64_t end, const void *what, size_t size)
{
    const char *found = memmem(f->bytes + at, (size_t)(end - at), what, size);
    return found ? found - f->bytes : -1;
}

static int64_t find(const fixture *f, const void *what, size_t size)
{
    int64_t at = find_from(f, PARE__H5_BLOCK, data_begin(f), what, size);
    assert_true(at >= 0);
    return at;
}

/* Where the value of an attribute of that name lies that has this value. HDF5 puts values at
 * multiples of 8. */
static int64_t find_value(const fixture *f, const char *name, const void *value, size_t size)
{
    int64_t at = PARE__H5_BLOCK, end = data_begin(f), length = (int64_t)strlen(name) + 1;
    while ((at = find_from(f, at, end, name, (size_t)length)) >= 0) {
        at += length;
        for (int64_t k = (at + 7) / 8 * 8; k < at + 96; k += 8)
            if (memcmp(f->bytes + k, value, size) == 0)
                return k;
    }
    fail_msg("no attribute %s has that value", name);
    return -1;
}

/* ---- round trips ----------------------------------------------------------------------------- */

static void assert_same_entry(const pare_entry *got, const pare_entry *want)
{
    char a[32], b[32];
    assert_string_equal(got->name, want->name);
    assert_int_equal(got->dtype, want->dtype);
    assert_int_equal(got->rank, want->rank);
    assert_memory_equal(got->shape, want->shape, (size_t)want->rank * sizeof *want->shape);
    assert_int_equal(got->form, want->form);
    assert_int_equal(got->nonzeros, want->nonzeros);
    assert_int_equal(got->piece_rows, pare_piece_rows(want->dtype, want->cols));
    assert_string_equal(pare_scheme_text(&got->scheme, a, sizeof a),
                        pare_scheme_text(&want->scheme, b, sizeof b));
}

static void assert_same_rows(const fixture *f, pare_store *store, int64_t index)
{
    const h5_sample *sample = &f->samples[index];
    const pare_entry *e = &sample->entry;
    pare_rows got = {.count = e->rows};
    pare_blocks blocks = pare_scheme_blocks(&e->scheme, e->rows, e->cols);
    size_t n = (size_t)(e->rows * e->cols), scales = (size_t)(blocks.down * blocks.across);
    size_t mask = (size_t)(e->rows * ((e->cols + 7) / 8));
    int64_t elements = e->form == PARE_FORM_SPARSE ? e->nonzeros : e->rows * e->cols, bytes = 0;
    assert_ok(pare_shape_size(e->dtype, 1, &elements, NULL, &bytes));
    got.values = calloc(1, (size_t)bytes + 8);
    got.mask = calloc(1, mask + 8);
    got.codes = calloc(1, n + 8);
    got.scale = calloc(1, scales * 4 + 8);
    got.zero = calloc(1, scales + 8);
    void *scratch = NULL;
    assert_int_equal(
        posix_memalign(&scratch, 64, (size_t)pare_store_scratch(store, index, e->rows) + 64), 0);
    assert_ok(pare_store_read(store, f->be, index, &got, scratch));
    if (e->form != PARE_FORM_QUANT)
        assert_memory_equal(got.values, sample->rows.values, (size_t)bytes);
    if (e->form == PARE_FORM_SPARSE)
        assert_memory_equal(got.mask, sample->rows.mask, mask);
    if (e->form == PARE_FORM_QUANT) {
        assert_memory_equal(got.codes, sample->rows.codes, n);
        assert_memory_equal(got.scale, sample->rows.scale, scales * 4);
        if (e->scheme.asymmetric)
            assert_memory_equal(got.zero, sample->rows.zero, scales);
    }
    free(scratch);
    free(got.values);
    free(got.mask);
    free(got.codes);
    free(got.scale);
    free(got.zero);
}

static void every_dtype_form_and_shape_comes_back_as_it_was_written(void **state)
{
    fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    assert_string_equal(pare_store_format(store), "h5");
    assert_int_equal(pare_store_count(store), f->count);
    for (int64_t i = 0; i < f->count; ++i) {
        assert_same_entry(pare_store_entry(store, i), &f->samples[i].entry);
        assert_same_rows(f, store, i);
        assert_ok(pare_store_verify(store, f->be, i));
    }
    pare_store_close(&store);
}

static void config_provenance_and_side_files_come_back_as_they_were(void **state)
{
    fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    assert_string_equal(pare_store_provenance(store), PROVENANCE);
    assert_non_null(pare_store_config(store));
    assert_non_null(strstr(pare_store_config(store), "\"name\": \"\xc3\xa9\""));
    const char *metadata = pare_store_metadata(f->source);
    assert_true(metadata ? strcmp(pare_store_metadata(store), metadata) == 0
                         : pare_store_metadata(store) == NULL);
    assert_int_equal(pare_store_side_count(store), pare_store_side_count(f->source));
    assert_true(pare_store_side_count(store) >= 3);
    for (int64_t i = 0; i < pare_store_side_count(store); ++i) {
        const pare_side_file *got = pare_store_side(store, i),
                             *want = pare_store_side(f->source, i);
        assert_string_equal(got->name, want->name);
        assert_int_equal(got->size, want->size);
        char *a = calloc(1, (size_t)got->size + 1), *b = calloc(1, (size_t)got->size + 1);
        assert_ok(pare_store_side_read(store, i, 0, got->size, a));
        assert_ok(pare_store_side_read(f->source, i, 0, got->size, b));
        assert_memory_equal(a, b, (size_t)got->size);
        free(a);
        free(b);
    }
    pare_store_close(&store);
}

static void a_checkpoint_of_nothing_is_a_checkpoint(void **state)
{
    fixture *f = *state;
    pare_store *store = NULL;
    h5_samples_write(f->copy, f->be, NULL, 0, NULL, NULL);
    assert_ok(pare_store_open(f->copy, &store));
    assert_int_equal(pare_store_count(store), 0);
    assert_null(pare_store_config(store));
    assert_null(pare_store_provenance(store));
    assert_int_equal(pare_store_side_count(store), 0);
    pare_store_close(&store);
}

static void two_runs_write_the_same_bytes(void **state)
{
    fixture *f = *state;
    int64_t size = 0;
    h5_samples_write(f->copy, f->be, f->samples, f->count, f->source, PROVENANCE);
    char *bytes = load(f->copy, &size);
    assert_int_equal(size, f->size);
    assert_memory_equal(bytes, f->bytes, (size_t)size);
    free(bytes);
}

static void the_size_is_predicted_to_the_byte(void **state)
{
    fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    int64_t files = 0, bytes = 0;
    assert_ok(pare_writer_predict(&options, &files, &bytes));
    free(entries);
    assert_int_equal(files, 1);
    assert_int_equal(bytes, f->size);
}

/* Long names, many groups: the metadata must still lie in one block in front, as predicted. */
static void the_metadata_of_many_tensors_lie_in_front_of_the_data(void **state)
{
    fixture *f = *state;
    int64_t count = 3000, files = 0, bytes = 0, size = 0;
    h5_sample *samples = calloc((size_t)count, sizeof *samples);
    for (int64_t i = 0; i < count; ++i) {
        char name[256];
        snprintf(name, sizeof name, "model.language_model.layers.%05d.%s.weight", (int)i,
                 i % 7 ? "mlp.experts.up_proj" : "a_name_that_is_rather_longer_than_most_of_them");
        pare_entry *entry = &samples[i].entry;
        *entry = (pare_entry){.name = strdup(name), .dtype = PARE_F16, .rank = 2, .shape = {0, 64}};
        pare_shape_matrix(2, entry->shape, &entry->rows, &entry->cols);
        if (i % 3) {
            entry->form = PARE_FORM_QUANT;
            assert_ok(pare_scheme_parse("w4b16x16z", &entry->scheme));
        }
    }
    h5_samples_write(f->copy, f->be, samples, count, NULL, PROVENANCE);
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->copy, &store));
    assert_int_equal(pare_store_count(store), count);
    pare_store_close(&store);
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, samples, count, NULL, PROVENANCE, &entries);
    assert_ok(pare_writer_predict(&options, &files, &bytes));
    free(load(f->copy, &size));
    assert_int_equal(bytes, size);
    free(entries);
    h5_samples_free(samples, count);
}

static void *open_often(void *user)
{
    for (int i = 0; i < 8; ++i) {
        pare_store *store = NULL;
        if (pare_store_open(user, &store) != PARE_OK)
            return user;
        pare_store_close(&store);
    }
    return NULL;
}

static void threads_may_open_at_the_same_time(void **state)
{
    fixture *f = *state;
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, open_often, f->path), 0);
    for (int i = 0; i < 4; ++i) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

/* ---- resume ---------------------------------------------------------------------------------- */

static void a_resumed_run_ends_with_the_same_bytes(void **state)
{
    fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    pare_sums *sums = calloc((size_t)f->count, sizeof *sums);
    pare_writer *writer = NULL;
    assert_ok(pare_writer_create(&options, false, &writer));
    for (int64_t i = 0; i < f->count / 2; ++i) {
        h5_sample_fill(writer, f->be, &f->samples[i], i, 0);
        sums[i] = writer->slots[i].sums; /* what the journal of a killed run holds */
    }
    pare_writer_free(&writer, false);

    assert_ok(pare_writer_create(&options, true, &writer));
    for (int64_t i = 0; i < f->count; ++i)
        if (i < f->count / 2)
            pare_writer_add_sums(writer, i, &sums[i]);
        else
            h5_sample_fill(writer, f->be, &f->samples[i], i, 0);
    assert_ok(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
    free(sums);
    free(entries);
    int64_t size = 0;
    char *bytes = load(f->copy, &size);
    assert_int_equal(size, f->size);
    assert_memory_equal(bytes, f->bytes, (size_t)size);
    free(bytes);
}

/* Begins a checkpoint and expects another one not to continue it. */
static void assert_no_resume(fixture *f, pare_writer_options *options, const pare_store *source,
                             const char *provenance)
{
    pare_writer *writer = NULL;
    pare_writer_options first = *options;
    first.source = source;
    first.provenance = provenance;
    pare_entry *entries;
    pare_writer_options whole =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    assert_ok(pare_writer_create(&whole, false, &writer));
    pare_writer_free(&writer, false);
    assert_status(pare_writer_create(&first, true, &writer), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "remove"));
    pare_writer_free(&writer, true);
    free(entries);
}

static void the_part_of_another_checkpoint_is_not_continued(void **state)
{
    fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    assert_no_resume(f, &options, NULL, PROVENANCE);
    assert_no_resume(f, &options, f->source, PROVENANCE " ");
    assert_no_resume(f, &options, f->source, NULL);
    options.count -= 1;
    assert_no_resume(f, &options, f->source, PROVENANCE);
    options.count += 1;
    for (int64_t i = 0; i < f->count; ++i) {
        if (strcmp(entries[i].name, "quant.w4.weight") == 0)
            entries[i].scheme.bits = 3;
        else if (strcmp(entries[i].name, "dense.I32.weight") == 0)
            entries[i].dtype = PARE_U32;
        else if (strcmp(entries[i].name, "sparse.bf16") == 0)
            entries[i].nonzeros -= 1;
        else
            continue;
        assert_no_resume(f, &options, f->source, PROVENANCE);
        entries[i] = f->samples[i].entry;
    }
    free(entries);
}

static void a_damaged_part_is_not_continued(void **state)
{
    fixture *f = *state;
    char part[4200];
    pare_entry *entries;
    pare_writer *writer = NULL;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    assert_ok(pare_writer_create(&options, false, &writer));
    pare_writer_free(&writer, false);
    snprintf(part, sizeof part, "%s.part", f->copy);
    int64_t size = 0;
    char *bytes = load(part, &size);
    bytes[3000] ^= 1;
    assert_ok(pare__file_save(part, bytes, size));
    assert_status(pare_writer_create(&options, true, &writer), PARE_ERR_DAMAGED);
    pare_writer_free(&writer, true);
    free(bytes);
    free(entries);
}

static void an_unfinished_checkpoint_is_no_checkpoint(void **state)
{
    fixture *f = *state;
    char part[4200];
    pare_entry *entries;
    pare_writer *writer = NULL;
    pare_store *store = NULL;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, PROVENANCE, &entries);
    assert_ok(pare_writer_create(&options, false, &writer));
    snprintf(part, sizeof part, "%s.part", f->copy);
    assert_status(pare_store_open(part, &store), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "never finished"));
    pare_writer_free(&writer, true);
    free(entries);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void a_checkpoint_cut_off_anywhere_is_refused(void **state)
{
    fixture *f = *state;
    for (int64_t size = 17; size < f->size; size += size < 2048 ? 97 : f->size / 61)
        assert_copy(f, f->bytes, size, PARE_ERR_DAMAGED);
    assert_copy(f, f->bytes, f->size - 1, PARE_ERR_DAMAGED);
    f->bytes[f->size] = 0;
    assert_copy(f, f->bytes, f->size + 1, PARE_ERR_DAMAGED);
}

static void a_flipped_byte_of_the_metadata_is_refused(void **state)
{
    fixture *f = *state;
    int64_t end = data_begin(f);
    for (int64_t at = 17; at < end; at += at < 600 ? 1 : 1021) {
        f->bytes[at] ^= 0x10;
        assert_copy(f, f->bytes, f->size, PARE_ERR_DAMAGED);
        f->bytes[at] ^= 0x10;
    }
    assert_copy(f, f->bytes, f->size, PARE_OK);
}

static void a_flipped_byte_of_any_array_fails_its_entry_alone(void **state)
{
    fixture *f = *state;
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

static void a_flipped_byte_of_config_provenance_or_checksums_is_refused(void **state)
{
    fixture *f = *state;
    static const char *const texts[] = {"\"model_type\"", PROVENANCE, "  tensors/dense.BF16"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        char *at = memmem(f->bytes + data_begin(f), (size_t)(f->size - data_begin(f)), texts[i],
                          strlen(texts[i]));
        assert_non_null(at);
        at[2] ^= 1;
        assert_copy(f, f->bytes, f->size, PARE_ERR_DAMAGED);
        at[2] ^= 1;
    }
}

static void an_hdf5_file_of_somebody_else_is_refused_with_its_name(void **state)
{
    fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare__file_save(f->copy, f->bytes + PARE__H5_BLOCK, f->size - PARE__H5_BLOCK));
    assert_status(pare_store_open(f->copy, &store), PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), f->copy));
    memset(f->bytes, 0, PARE__H5_BLOCK);
    assert_copy(f, f->bytes, f->size, PARE_ERR_UNSUPPORTED);
    seal_again(f, f->bytes);
    f->bytes[strlen("pare checkpoint ")] = '2';
    assert_copy(f, f->bytes, f->size, PARE_ERR_UNSUPPORTED);
    assert_non_null(strstr(pare_last_error(), "newer"));
}

/* ---- metadata that are sealed, but lie ------------------------------------------------------- */

/* Opens the file with bytes of its metadata replaced and the seal made good. */
static void assert_lie(const fixture *f, int64_t at, const void *bytes, size_t size)
{
    char *copy = malloc((size_t)f->size);
    assert_non_null(copy);
    memcpy(copy, f->bytes, (size_t)f->size);
    memcpy(copy + at, bytes, size);
    seal_again(f, copy);
    assert_copy(f, copy, f->size, PARE_ERR_DAMAGED);
    free(copy);
}

static void attributes_that_make_no_sense_are_refused(void **state)
{
    fixture *f = *state;
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
    fixture *f = *state;
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
    fixture *f = *state;
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
    fixture *f = *state;
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
        cmocka_unit_test(every_dtype_form_and_shape_comes_back_as_it_was_written),
        cmocka_unit_test(config_provenance_and_side_files_come_back_as_they_were),
        cmocka_unit_test(a_checkpoint_of_nothing_is_a_checkpoint),
        cmocka_unit_test(two_runs_write_the_same_bytes),
        cmocka_unit_test(the_size_is_predicted_to_the_byte),
        cmocka_unit_test(the_metadata_of_many_tensors_lie_in_front_of_the_data),
        cmocka_unit_test(threads_may_open_at_the_same_time),
        cmocka_unit_test(a_resumed_run_ends_with_the_same_bytes),
        cmocka_unit_test(the_part_of_another_checkpoint_is_not_continued),
        cmocka_unit_test(a_damaged_part_is_not_continued),
        cmocka_unit_test(an_unfinished_checkpoint_is_no_checkpoint),
        cmocka_unit_test(a_checkpoint_cut_off_anywhere_is_refused),
        cmocka_unit_test(a_flipped_byte_of_the_metadata_is_refused),
        cmocka_unit_test(a_flipped_byte_of_any_array_fails_its_entry_alone),
        cmocka_unit_test(a_flipped_byte_of_config_provenance_or_checksums_is_refused),
        cmocka_unit_test(attributes_that_make_no_sense_are_refused),
        cmocka_unit_test(names_that_make_no_sense_are_refused),
        cmocka_unit_test(numbers_that_make_no_sense_are_refused),
        cmocka_unit_test(places_that_overlap_or_leave_the_file_are_refused),
        cmocka_unit_test(an_hdf5_file_of_somebody_else_is_refused_with_its_name),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
