/* test_read_h5.c - a decoder written from docs/formats/store.md alone (tests/e2e/read_h5.py: h5py
 * and numpy) sees in a native checkpoint what pare sees, bit for bit. Skipped where Python or h5py
 * is missing.
 */
#include "h5_sample.h"
#include "test.h"

#include "base/file.h"

#include <sys/wait.h>

#define SKIPPED 77

static void save(const char *folder, const char *name, const void *bytes, int64_t size)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(pare__file_save(path, bytes, size));
}

static FILE *begin(const char *folder, const char *name)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    return file;
}

static void print_hex(FILE *file, const char *name)
{
    for (const char *p = name; *p; ++p)
        fprintf(file, "%02x", (unsigned char)*p);
    fprintf(file, "\n");
}

static void dump_tensors(pare_store *store, pare_backend *be, const char *folder)
{
    FILE *list = begin(folder, "tensors.txt");
    for (int64_t i = 0; i < pare_store_count(store); ++i) {
        const pare_entry *entry = pare_store_entry(store, i);
        fprintf(list, "%d %s ", (int)i, pare_dtype_name(entry->dtype));
        for (int d = 0; d < entry->rank; ++d)
            fprintf(list, "%s%lld", d ? "," : "", (long long)entry->shape[d]);
        fprintf(list, " ");
        print_hex(list, entry->name);
        int64_t bytes = 0;
        char name[32];
        assert_ok(pare_shape_size(entry->dtype, entry->rank, entry->shape, NULL, &bytes));
        void *values = calloc(1, (size_t)bytes + 64), *scratch = NULL;
        size_t size = (size_t)pare_store_scratch(store, i, entry->rows) + 64;
        assert_int_equal(posix_memalign(&scratch, 64, size), 0);
        assert_ok(pare_store_read_values(store, be, i, 0, entry->rows, values, scratch));
        snprintf(name, sizeof name, "%d.bin", (int)i);
        save(folder, name, values, bytes);
        free(scratch);
        free(values);
    }
    fclose(list);
}

static void dump_sides(pare_store *store, const char *folder)
{
    FILE *list = begin(folder, "sides.txt");
    for (int64_t i = 0; i < pare_store_side_count(store); ++i) {
        const pare_side_file *side = pare_store_side(store, i);
        char name[32];
        fprintf(list, "%d ", (int)i);
        print_hex(list, side->name);
        char *bytes = calloc(1, (size_t)side->size + 1);
        assert_ok(pare_store_side_read(store, i, 0, side->size, bytes));
        snprintf(name, sizeof name, "side%d.bin", (int)i);
        save(folder, name, bytes, side->size);
        free(bytes);
    }
    fclose(list);
}

/* The exit code of the decoder on what pare says of a checkpoint. */
static int decode(const char *path, pare_backend *be, const char *folder)
{
    char command[9000];
    pare_store *store = NULL;
    assert_ok(pare_store_open(path, &store));
    dump_tensors(store, be, folder);
    dump_sides(store, folder);
    const char *config = pare_store_config(store), *provenance = pare_store_provenance(store);
    if (config)
        save(folder, "config.bin", config, (int64_t)strlen(config));
    if (provenance)
        save(folder, "provenance.bin", provenance, (int64_t)strlen(provenance));
    pare_store_close(&store);
    const char *here = __FILE__, *slash = strrchr(here, '/');
    snprintf(command, sizeof command,
             "exec env -u LD_PRELOAD \"${PYTHON:-python3}\" '%.*s/../e2e/read_h5.py' '%s' '%s'",
             (int)(slash ? slash - here : 1), slash ? here : ".", path, folder);
    fflush(stdout);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_decoder_written_from_the_page_reads_the_same_bits(void **state)
{
    (void)state;
    char *folder = test_folder_make();
    char path[4200], source_path[4200];
    snprintf(path, sizeof path, "%s/all.h5", folder);
    snprintf(source_path, sizeof source_path, "%s/source", folder);
    pare_backend *be = NULL;
    pare_store *source = NULL;
    int64_t count = 0;
    h5_source_make(source_path);
    assert_ok(pare_cpu_create(NULL, &be));
    assert_ok(pare_store_open(source_path, &source));
    h5_sample *samples = h5_samples_make(&count);
    h5_samples_write(path, be, samples, count, source, "{\"pare\": \"test\"}");
    int code = decode(path, be, folder);
    h5_samples_free(samples, count);
    pare_store_close(&source);
    pare_backend_free(&be);
    test_folder_remove(folder);
    if (code == SKIPPED || code == 127 || code == 126) {
        print_message("skipped: no python3 with h5py and numpy (PYTHON names one)\n");
        exit(SKIPPED); /* a skip that ctest shows */
    }
    assert_int_equal(code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decoder_written_from_the_page_reads_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
