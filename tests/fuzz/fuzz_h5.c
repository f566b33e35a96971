/* fuzz_h5.c - any bytes as a native checkpoint, and lies in a sound one: what opens can be read,
 * and nothing crashes.
 *
 * An input that begins like a checkpoint or an HDF5 file is taken as it is. Any other is a list of
 * lies of 10 bytes each (which place, which value) that are put into the metadata of a small
 * checkpoint, whose seal is then made good: only so does a lie get past the seal. Places are
 * attributes' values, datasets' addresses and sizes: what pare itself reads. Damage to the rest
 * would test HDF5, which can crash on it; that is what the seal is for.
 */
#include "pare/store.h"

#include "base/check.h"
#include "store/store_h5_seal.h"
#include "store/store_impl.h"

#include <string.h>

#define MAX_PLACES 512
#define MAX_ELEMENTS (1 << 20)
#define SURE(call) PARE_ASSERT((call) == PARE_OK)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct model {
    uint8_t *bytes;
    size_t size;
    size_t places[MAX_PLACES], count;
    pare__h5_seal seal;
    pare_backend *be;
    char folder[32], path[64]; /* HDF5 opens by name: every input is written there */
} model;

static model *the_model;

static void write_model(const char *path)
{
    static const char *const schemes[] = {"w4g32z", "w3", "w8a8", "fp8t", "nf4"};
    pare_entry entries[8] = {
        {.name = "a", .dtype = PARE_F4, .rank = 2, .shape = {3, 5}},
        {.name = "b", .dtype = PARE_BF16, .rank = 2, .shape = {4, 6}},
        {.name = "c", .form = PARE_FORM_SPARSE, .dtype = PARE_F16, .rank = 2, .shape = {4, 9}}};
    entries[2].nonzeros = 5;
    for (int i = 0; i < 5; ++i) {
        pare_entry *entry = &entries[3 + i];
        static const char *const names[] = {"d", "e", "f", "g", "h"};
        *entry = (pare_entry){.name = names[i], .form = PARE_FORM_QUANT, .dtype = PARE_F16};
        entry->rank = 2;
        entry->shape[0] = 3;
        entry->shape[1] = 64;
        SURE(pare_scheme_parse(schemes[i], &entry->scheme));
    }
    pare_writer_options options = {.path = path, .entries = entries, .count = 8};
    options.provenance = "{}";
    options.overwrite = true;
    pare_writer *writer = NULL;
    SURE(pare_writer_create(&options, false, &writer));
    SURE(pare_writer_finish(writer));
    pare_writer_free(&writer, false);
}

static void add_place(model *m, size_t at)
{
    PARE_ASSERT(m->count < MAX_PLACES && at + 8 <= m->size);
    m->places[m->count++] = at;
}

/* An attribute's message has the sizes of its name, type and space in front of the name; its value
 * is behind them, each filled up to 8 bytes. */
static void find_attributes(model *m, const char *name)
{
    size_t length = strlen(name) + 1, end = (size_t)m->seal.data_begin;
    for (size_t at = PARE__H5_BLOCK + 8; at + length < end; at += 8) {
        uint16_t sizes[3];
        memcpy(sizes, m->bytes + at - 6, sizeof sizes);
        if (memcmp(m->bytes + at, name, length) != 0 || sizes[0] != length)
            continue;
        for (int i = 0; i < 3; ++i)
            at += (sizes[i] + 7u) / 8 * 8;
        add_place(m, at);
        if (strcmp(name, "shape") == 0)
            add_place(m, at + 8);
        at -= 8;
    }
}

static void find_addresses(model *m, const pare_store *store)
{
    for (size_t a = 0; a < store->array_count; ++a) {
        int64_t place[2] = {store->arrays[a].offset - PARE__H5_BLOCK, store->arrays[a].bytes};
        const uint8_t *at = memmem(m->bytes, (size_t)m->seal.data_begin, place, sizeof place);
        PARE_ASSERT(at);
        add_place(m, (size_t)(at - m->bytes));
        add_place(m, (size_t)(at - m->bytes) + 8);
    }
}

static model *make_model(void)
{
    static const char *const names[] = {"format",     "version",    "dtype",   "piece_rows",
                                        "shape",      "form",       "codec",   "scheme",
                                        "block_rows", "block_cols", "nonzeros"};
    model *m = NULL;
    pare_store *store = NULL;
    int64_t size = 0;
    SURE(pare__calloc(1, sizeof *m, &m));
    snprintf(m->folder, sizeof m->folder, "/tmp/pare-fuzz-XXXXXX");
    PARE_ASSERT(mkdtemp(m->folder));
    snprintf(m->path, sizeof m->path, "%s/input.h5", m->folder);
    write_model(m->path);
    SURE(pare_cpu_create(NULL, &m->be));
    SURE(pare__file_load(m->path, INT64_C(1) << 20, (char **)&m->bytes, &size));
    m->size = (size_t)size;
    SURE(pare_store_open(m->path, &store));
    SURE(pare__h5_seal_check(store->files[0].fd, m->path, size, &m->seal));
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        find_attributes(m, names[i]);
    find_addresses(m, store);
    pare_store_close(&store);
    return m;
}

static void free_model(void)
{
    pare_backend_free(&the_model->be);
    pare__remove_tree(the_model->folder);
    free(the_model->bytes);
    free(the_model);
}

static void read_entry(pare_store *store, pare_backend *be, int64_t index)
{
    const pare_entry *entry = pare_store_entry(store, index);
    if (entry->rows > MAX_ELEMENTS || entry->cols > MAX_ELEMENTS ||
        entry->rows * entry->cols > MAX_ELEMENTS)
        return;
    void *values = NULL, *scratch = NULL;
    size_t bytes = (size_t)(entry->rows * entry->cols) * 8;
    size_t room = (size_t)pare_store_scratch(store, index, entry->rows);
    SURE(pare__pages(bytes, &values));
    SURE(pare__pages(room, &scratch));
    (void)pare_store_read_values(store, be, index, 0, entry->rows, values, scratch);
    (void)pare_store_verify(store, be, index);
    pare__pages_free(values, bytes);
    pare__pages_free(scratch, room);
}

static void open_bytes(const model *m, const uint8_t *bytes, size_t size)
{
    pare_store *store = NULL;
    FILE *file = fopen(m->path, "wb");
    PARE_ASSERT(file && fwrite(bytes, 1, size, file) == size);
    PARE_ASSERT(fclose(file) == 0);
    if (pare_store_open(m->path, &store) == PARE_OK)
        for (int64_t i = 0; i < pare_store_count(store); ++i)
            read_entry(store, m->be, i);
    else
        PARE_ASSERT(pare_last_error()[0]);
    pare_store_close(&store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!the_model) {
        the_model = make_model();
        atexit(free_model);
    }
    const model *m = the_model;
    if (pare__h5_sealed(data, size) || (size > 4 && memcmp(data, "\x89HDF", 4) == 0)) {
        open_bytes(m, data, size);
        return 0;
    }
    uint8_t *bytes = NULL;
    SURE(pare__calloc(m->size, 1, &bytes));
    memcpy(bytes, m->bytes, m->size);
    for (; size >= 10; data += 10, size -= 10)
        memcpy(bytes + m->places[(size_t)(data[0] | data[1] << 8) % m->count], data + 2, 8);
    pare__h5_seal seal = m->seal;
    seal.metadata_crc =
        pare__crc64(0, bytes + PARE__H5_BLOCK, (size_t)(seal.data_begin - PARE__H5_BLOCK));
    pare__h5_seal_text(&seal, (char *)bytes);
    open_bytes(m, bytes, m->size);
    free(bytes);
    return 0;
}
