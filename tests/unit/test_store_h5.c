/* test_store_h5.c - the native checkpoint: what goes in comes out, two runs agree, a part is
 * continued or refused. */
#include "h5_fixture.h"
#include "test.h"

#include "base/file.h"
#include "store/store_impl.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

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

static void assert_same_rows(const h5_fixture *f, pare_store *store, int64_t index)
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
    h5_fixture *f = *state;
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
    h5_fixture *f = *state;
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->path, &store));
    assert_string_equal(pare_store_provenance(store), H5_PROVENANCE);
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
    h5_fixture *f = *state;
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
    h5_fixture *f = *state;
    int64_t size = 0;
    h5_samples_write(f->copy, f->be, f->samples, f->count, f->source, H5_PROVENANCE);
    char *bytes = h5_load(f->copy, &size);
    assert_int_equal(size, f->size);
    assert_memory_equal(bytes, f->bytes, (size_t)size);
    free(bytes);
}

static void the_size_is_predicted_to_the_byte(void **state)
{
    h5_fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
    int64_t files = 0, bytes = 0;
    assert_ok(pare_writer_predict(&options, &files, &bytes));
    free(entries);
    assert_int_equal(files, 1);
    assert_int_equal(bytes, f->size);
}

/* Long names, many groups: the metadata must still lie in one block in front, as predicted. */
static void the_metadata_of_many_tensors_lie_in_front_of_the_data(void **state)
{
    h5_fixture *f = *state;
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
    h5_samples_write(f->copy, f->be, samples, count, NULL, H5_PROVENANCE);
    pare_store *store = NULL;
    assert_ok(pare_store_open(f->copy, &store));
    assert_int_equal(pare_store_count(store), count);
    pare_store_close(&store);
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, samples, count, NULL, H5_PROVENANCE, &entries);
    assert_ok(pare_writer_predict(&options, &files, &bytes));
    free(h5_load(f->copy, &size));
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
    h5_fixture *f = *state;
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
    h5_fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
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
    char *bytes = h5_load(f->copy, &size);
    assert_int_equal(size, f->size);
    assert_memory_equal(bytes, f->bytes, (size_t)size);
    free(bytes);
}

/* Begins a checkpoint and expects another one not to continue it. */
static void assert_no_resume(h5_fixture *f, pare_writer_options *options, const pare_store *source,
                             const char *provenance)
{
    pare_writer *writer = NULL;
    pare_writer_options first = *options;
    first.source = source;
    first.provenance = provenance;
    pare_entry *entries;
    pare_writer_options whole =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
    assert_ok(pare_writer_create(&whole, false, &writer));
    pare_writer_free(&writer, false);
    assert_status(pare_writer_create(&first, true, &writer), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "remove"));
    pare_writer_free(&writer, true);
    free(entries);
}

static void the_part_of_another_checkpoint_is_not_continued(void **state)
{
    h5_fixture *f = *state;
    pare_entry *entries;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
    assert_no_resume(f, &options, NULL, H5_PROVENANCE);
    assert_no_resume(f, &options, f->source, H5_PROVENANCE " ");
    assert_no_resume(f, &options, f->source, NULL);
    options.count -= 1;
    assert_no_resume(f, &options, f->source, H5_PROVENANCE);
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
        assert_no_resume(f, &options, f->source, H5_PROVENANCE);
        entries[i] = f->samples[i].entry;
    }
    free(entries);
}

static void a_damaged_part_is_not_continued(void **state)
{
    h5_fixture *f = *state;
    char part[4200];
    pare_entry *entries;
    pare_writer *writer = NULL;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
    assert_ok(pare_writer_create(&options, false, &writer));
    pare_writer_free(&writer, false);
    snprintf(part, sizeof part, "%s.part", f->copy);
    int64_t size = 0;
    char *bytes = h5_load(part, &size);
    bytes[3000] ^= 1;
    assert_ok(pare__file_save(part, bytes, size));
    assert_status(pare_writer_create(&options, true, &writer), PARE_ERR_DAMAGED);
    pare_writer_free(&writer, true);
    free(bytes);
    free(entries);
}

static void an_unfinished_checkpoint_is_no_checkpoint(void **state)
{
    h5_fixture *f = *state;
    char part[4200];
    pare_entry *entries;
    pare_writer *writer = NULL;
    pare_store *store = NULL;
    pare_writer_options options =
        h5_samples_options(f->copy, f->samples, f->count, f->source, H5_PROVENANCE, &entries);
    assert_ok(pare_writer_create(&options, false, &writer));
    snprintf(part, sizeof part, "%s.part", f->copy);
    assert_status(pare_store_open(part, &store), PARE_ERR_DAMAGED);
    assert_non_null(strstr(pare_last_error(), "never finished"));
    pare_writer_free(&writer, true);
    free(entries);
}

/* ---- no room --------------------------------------------------------------------------------- */

/* What the program does when it is started as "--limited PATH BYTES": 0 if a checkpoint is refused.
 */
static int run_limited(const char *path, const char *bytes)
{
    int64_t count = 0;
    pare_entry *entries;
    pare_writer *writer = NULL;
    h5_sample *samples = h5_samples_make(&count);
    pare_writer_options options =
        h5_samples_options(path, samples, count, NULL, H5_PROVENANCE, &entries);
    const rlim_t most = strtoul(bytes, NULL, 10);
    signal(SIGXFSZ, SIG_IGN);
    bool refused = setrlimit(RLIMIT_FSIZE, &(struct rlimit){most, most}) == 0 &&
                   pare_writer_create(&options, false, &writer) == PARE_ERR_IO;
    pare_writer_free(&writer, false);
    h5_samples_free(samples, count);
    free(entries);
    return !refused;
}

/* HDF5 does not survive a write that fails: the process crashes when it exits. So none of its
 * writes may fail. */
static void a_file_that_cannot_grow_is_an_error_and_no_crash(void **state)
{
    h5_fixture *f = *state;
    const int64_t limits[] = {0, 600, 4096, 20000, 60000, f->data_begin + 100};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; ++i) {
        char bytes[32];
        int status = -1;
        snprintf(bytes, sizeof bytes, "%lld", (long long)limits[i]);
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            execl("/proc/self/exe", "test_store_h5", "--limited", f->copy, bytes, (char *)NULL);
            _exit(2);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--limited") == 0)
        return run_limited(argv[2], argv[3]);
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
        cmocka_unit_test(a_file_that_cannot_grow_is_an_error_and_no_crash),
    };
    return cmocka_run_group_tests(tests, h5_fixture_setup, h5_fixture_teardown);
}
