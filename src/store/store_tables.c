/* store_tables.c - the growing tables inside a store and a writer, and the checks that every
 * container needs. */
#include "store_impl.h"

#include <string.h>
#include <unistd.h>

pare_status pare__store_add_file(pare_store *store, const char *path, int *index)
{
    PARE_TRY(pare__grow(&store->files, &store->file_capacity, store->file_count + 1,
                        sizeof *store->files));
    pare__file *file = &store->files[store->file_count];
    *file = (pare__file){.fd = -1};
    PARE_TRY(pare__strdup(path, &file->path));
    *index = (int)store->file_count++;
    return pare__file_open(path, &file->fd, &file->size);
}

pare_status pare__store_add_array(pare_store *store, const char *name, pare__array **array)
{
    PARE_TRY(pare__grow(&store->arrays, &store->array_capacity, store->array_count + 1,
                        sizeof *store->arrays));
    *array = &store->arrays[store->array_count];
    **array = (pare__array){0};
    PARE_TRY(pare__strdup(name, &(*array)->name));
    store->array_count++;
    return PARE_OK;
}

pare_status pare__store_add_slot(pare_store *store, const char *name, pare__slot **slot)
{
    PARE_TRY(pare__grow(&store->slots, &store->slot_capacity, store->slot_count + 1,
                        sizeof *store->slots));
    char *copy;
    PARE_TRY(pare__strdup(name, &copy));
    *slot = &store->slots[store->slot_count++];
    **slot = (pare__slot){.entry.name = copy};
    for (int i = 0; i < PARE_MAX_PARTS; i++)
        (*slot)->array[i] = -1;
    return PARE_OK;
}

pare_status pare__store_add_side(pare_store *store, const char *name, pare__side **side)
{
    PARE_TRY(pare__grow(&store->sides, &store->side_capacity, store->side_count + 1,
                        sizeof *store->sides));
    char *copy;
    PARE_TRY(pare__strdup(name, &copy));
    *side = &store->sides[store->side_count++];
    **side = (pare__side){.file.name = copy, .in_file = -1};
    return PARE_OK;
}

pare_status pare__writer_add_file(pare_writer *writer, const char *path, int *index)
{
    PARE_TRY(pare__grow(&writer->files, &writer->file_capacity, writer->file_count + 1,
                        sizeof *writer->files));
    pare__file *file = &writer->files[writer->file_count];
    *file = (pare__file){.fd = -1};
    PARE_TRY(pare__strdup(path, &file->path));
    *index = (int)writer->file_count++;
    return PARE_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const pare__array *)a)->name, ((const pare__array *)b)->name);
}

void pare__store_sort_arrays(pare_store *store)
{
    if (store->array_count)
        qsort(store->arrays, store->array_count, sizeof *store->arrays, by_name);
}

int64_t pare__store_find_array(const pare_store *store, const char *name)
{
    size_t low = 0, high = store->array_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(store->arrays[middle].name, name);
        if (order == 0)
            return (int64_t)middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

pare_status pare__check_duplicates(const pare_store *store)
{
    for (size_t i = 1; i < store->array_count; i++)
        PARE_REQUIRE(strcmp(store->arrays[i - 1].name, store->arrays[i].name) != 0,
                     PARE_ERR_DAMAGED, "tensor '%s' is both in %s and in %s", store->arrays[i].name,
                     store->files[store->arrays[i - 1].file].path,
                     store->files[store->arrays[i].file].path);
    return PARE_OK;
}

pare_status pare__entry_complete(pare_entry *entry)
{
    int64_t count;
    PARE_TRY(
        pare_shape_size(entry->dtype, entry->rank, entry->shape, &count, &entry->stored_bytes));
    PARE_REQUIRE(count < (int64_t)1 << 56, PARE_ERR_DAMAGED,
                 "%s: %lld elements are beyond any machine", entry->name, (long long)count);
    pare_shape_matrix(entry->rank, entry->shape, &entry->rows, &entry->cols);
    if (entry->piece_rows == 0)
        entry->piece_rows = pare_piece_rows(entry->dtype, entry->cols);
    PARE_REQUIRE(entry->piece_rows > 0 && entry->piece_rows < (int64_t)1 << 56, PARE_ERR_DAMAGED,
                 "%s: pieces of %lld rows", entry->name, (long long)entry->piece_rows);
    return PARE_OK;
}

static int by_offset(const void *a, const void *b)
{
    const pare__array *x = *(const pare__array *const *)a, *y = *(const pare__array *const *)b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static pare_status check_sorted(const char *path, const pare__array *const *sorted, size_t count,
                                int64_t begin, int64_t end, bool must_cover)
{
    int64_t at = begin;
    const char *before = "the header";
    for (size_t i = 0; i < count; i++) {
        const pare__array *a = sorted[i];
        PARE_REQUIRE(a->offset >= at, PARE_ERR_DAMAGED,
                     "%s: tensor '%s' at offset %lld overlaps %s, which ends at %lld", path,
                     a->name, (long long)a->offset, before, (long long)at);
        PARE_REQUIRE(!must_cover || a->offset == at, PARE_ERR_DAMAGED,
                     "%s: a hole of %lld bytes lies in front of tensor '%s' at offset %lld", path,
                     (long long)(a->offset - at), a->name, (long long)a->offset);
        PARE_REQUIRE(
            a->offset <= end && a->bytes <= end - a->offset, PARE_ERR_DAMAGED,
            "%s: tensor '%s' of %lld bytes at offset %lld reaches past the end of the file at "
            "%lld; was it cut short?",
            path, a->name, (long long)a->bytes, (long long)a->offset, (long long)end);
        at = a->offset + a->bytes;
        before = a->name;
    }
    PARE_REQUIRE(!must_cover || at == end, PARE_ERR_DAMAGED,
                 "%s: %lld bytes at offset %lld, behind '%s', belong to no tensor", path,
                 (long long)(end - at), (long long)at, before);
    return PARE_OK;
}

pare_status pare__check_offsets(const pare_store *store, int file, int64_t begin, int64_t end,
                                bool must_cover)
{
    const pare__array **sorted = NULL;
    size_t count = 0;
    PARE_TRY(pare__calloc(store->array_count + 1, sizeof *sorted, &sorted));
    for (size_t i = 0; i < store->array_count; i++)
        if (store->arrays[i].file == file)
            sorted[count++] = &store->arrays[i];
    qsort(sorted, count, sizeof *sorted, by_offset);
    pare_status status =
        check_sorted(store->files[file].path, sorted, count, begin, end, must_cover);
    free(sorted);
    return status;
}
