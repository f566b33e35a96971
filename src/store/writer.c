/* writer.c - lays out a checkpoint, encodes rows, writes them to their places, finishes. */
#include "store_impl.h"

#include "pare/ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* Bytes written between two nudges to the disk. */
#define WRITE_BEHIND ((int64_t)32 << 20)

/* By the ending of the path; the directory takes what no other claims. */
static const pare__format *const formats[] = {&pare__format_h5, &pare__format_safetensors,
                                              &pare__format_hf_dir};

static const pare__format *format_for(const char *path)
{
    size_t i = 0;
    while (i + 1 < sizeof formats / sizeof *formats && !formats[i]->claims(path))
        i++;
    return formats[i];
}

/* ---- layout ---------------------------------------------------------------------------------- */

static pare_status check_entry(const pare__format *format, const char *option,
                               const pare_entry *entry, const pare__codec **codec)
{
    pare__part_spec spec[PARE_MAX_PARTS];
    int count;
    PARE_TRY(pare__codec_for(entry, option, codec));
    PARE_TRY(pare__codec_parts(*codec, entry, pare__is_native(format), spec, NULL, &count));
    if (format->accepts)
        PARE_TRY(format->accepts(entry, option));
    return PARE_OK;
}

pare_status pare_writer_accepts(const char *path, const char *format, const pare_entry *entry)
{
    pare_entry copy = *entry;
    const pare__codec *codec;
    PARE_TRY(pare__entry_complete(&copy));
    return check_entry(format_for(path), format ? format : "", &copy, &codec);
}

static pare_status add_arrays(pare_writer *writer, pare__slot *slot)
{
    bool h5 = pare__is_native(writer->format);
    pare__part_spec spec[PARE_MAX_PARTS];
    int64_t bytes[PARE_MAX_PARTS];
    int count;
    PARE_TRY(pare__codec_parts(slot->codec, &slot->entry, h5, spec, bytes, &count));
    slot->entry.stored_bytes = 0;
    for (int p = 0; p < count; p++) {
        PARE_TRY(pare__grow(&writer->arrays, &writer->array_capacity, writer->array_count + 1,
                            sizeof *writer->arrays));
        pare__array *array = &writer->arrays[writer->array_count];
        *array = (pare__array){.dtype = spec[p].dtype, .rank = spec[p].rank, .bytes = bytes[p]};
        memcpy(array->shape, spec[p].shape, sizeof array->shape);
        PARE_TRY(pare__part_name(slot->entry.name, &spec[p], h5, &array->name));
        slot->array[p] = (int64_t)writer->array_count++;
        slot->entry.stored_bytes += bytes[p];
    }
    return PARE_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* No two arrays may have one name: "a.weight" quantised makes "a.weight_scale", which may be an
 * entry of its own. */
static pare_status check_names(const pare_writer *writer)
{
    const char **names;
    PARE_TRY(pare__calloc(writer->array_count + 1, sizeof *names, &names));
    for (size_t i = 0; i < writer->array_count; i++)
        names[i] = writer->arrays[i].name;
    qsort(names, writer->array_count, sizeof *names, by_name);
    pare_status status = PARE_OK;
    for (size_t i = 1; i < writer->array_count && status == PARE_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            status = pare__error(PARE_ERR_ARGUMENT, __func__,
                                 "%s: two arrays would be called '%s'; leave one of them out",
                                 writer->path, names[i]);
    free(names);
    return status;
}

static pare_status add_slots(pare_writer *writer, const pare_writer_options *options)
{
    PARE_TRY(pare__calloc((size_t)options->count, sizeof *writer->slots, &writer->slots));
    for (int64_t i = 0; i < options->count; i++) {
        pare__slot *slot = &writer->slots[i];
        const pare_entry *entry = &options->entries[i];
        PARE_REQUIRE(entry->name && *entry->name, PARE_ERR_ARGUMENT, "%s: tensor %lld has no name",
                     options->path, (long long)i);
        PARE_REQUIRE(i == 0 || strcmp(options->entries[i - 1].name, entry->name) < 0,
                     PARE_ERR_ARGUMENT, "%s: tensor '%s' is not in order of names, or there twice",
                     options->path, entry->name);
        char *name;
        PARE_TRY(pare__strdup(entry->name, &name));
        slot->entry = *entry;
        slot->entry.name = name;
        writer->slot_count++;
        for (int p = 0; p < PARE_MAX_PARTS; p++)
            slot->array[p] = -1;
        PARE_TRY(pare__entry_complete(&slot->entry));
        PARE_TRY(check_entry(writer->format, writer->format_option, &slot->entry, &slot->codec));
        PARE_TRY(add_arrays(writer, slot));
    }
    return check_names(writer);
}

static pare_status lay_out(pare_writer *writer, const pare_writer_options *options)
{
    size_t length = strlen(options->path);
    while (length > 1 && options->path[length - 1] == '/')
        length--;
    pare__text path = {0}, part = {0};
    pare__text_bytes(&path, options->path, length);
    pare__text_bytes(&part, options->path, length);
    pare__text_add(&part, ".part");
    pare_status status = pare__text_take(&path, &writer->path);
    if (status == PARE_OK)
        status = pare__text_take(&part, &writer->part_path);
    pare__text_free(&part);
    PARE_TRY(status);
    PARE_TRY(pare__strdup(options->format ? options->format : "", &writer->format_option));
    PARE_TRY(pare__strdup(options->provenance, &writer->provenance));
    writer->format = format_for(writer->path);
    writer->overwrite = options->overwrite;
    writer->max_shard_size = options->max_shard_size ? options->max_shard_size : (int64_t)5 << 30;
    writer->source = options->source;
    PARE_TRY(add_slots(writer, options));
    /* A native file's entries know their schemes: its config says nothing about them. */
    size_t described = pare__is_native(writer->format) ? 0 : writer->slot_count;
    const char *config = options->source ? options->source->config : NULL;
    PARE_TRY(pare__hf_config_write(options->config ? options->config : config, writer->slots,
                                   described, &writer->config, &writer->quantization_config));
    return writer->format->layout(writer);
}

static bool is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    int entries = 0; /* "." and ".." are always there */
    if (!dir)
        return false;
    while (entries < 3 && readdir(dir))
        entries++;
    closedir(dir);
    return entries < 3;
}

/* What --overwrite may remove: a file, an empty folder, and a folder that is a checkpoint. A folder
 * of something else, given by a slip of the pen, is never removed with all that is in it. */
static pare_status check_replaced(const pare_writer *writer)
{
    static const char *const marks[] = {"config.json", "pare.json", "model.safetensors"};
    if (!writer->overwrite || !pare__is_directory(writer->path))
        return PARE_OK;
    bool good = is_empty(writer->path);
    for (size_t i = 0; i < sizeof marks / sizeof *marks && !good; i++) {
        char *path;
        PARE_TRY(pare__join(writer->path, marks[i], &path));
        good = pare__exists(path);
        free(path);
    }
    PARE_REQUIRE(good, PARE_ERR_EXISTS,
                 "%s is a folder of other things than a checkpoint, which --overwrite would "
                 "remove: choose another output",
                 writer->path);
    return PARE_OK;
}

static pare_status prepare(const pare_writer_options *options, pare_writer **writer)
{
    PARE_REQUIRE(options->path && *options->path, PARE_ERR_ARGUMENT, "the output's path is empty");
    PARE_REQUIRE(options->count >= 0 && options->max_shard_size >= 0, PARE_ERR_ARGUMENT,
                 "%s: %lld tensors in shards of %lld bytes", options->path,
                 (long long)options->count, (long long)options->max_shard_size);
    pare_writer *w;
    PARE_TRY(pare__calloc(1, sizeof *w, &w));
    pthread_mutex_init(&w->lock, NULL);
    pare_status status = lay_out(w, options);
    if (status == PARE_OK)
        status = check_replaced(w);
    if (status != PARE_OK) {
        pare__trail(__func__);
        pare_writer_free(&w, false);
        return status;
    }
    *writer = w;
    return PARE_OK;
}

pare_status pare_writer_predict(const pare_writer_options *options, int64_t *files, int64_t *bytes)
{
    pare_writer *writer;
    PARE_TRY(prepare(options, &writer));
    *files = (int64_t)writer->file_count;
    *bytes = 0;
    for (size_t i = 0; i < writer->file_count; i++)
        *bytes += writer->files[i].size;
    pare_writer_free(&writer, false);
    return PARE_OK;
}

/* ---- create and free ------------------------------------------------------------------------- */

static pare_status create(pare_writer *writer, bool resume)
{
    PARE_REQUIRE(writer->overwrite || !pare__exists(writer->path), PARE_ERR_EXISTS,
                 "%s exists already; give another name or --overwrite", writer->path);
    if (resume)
        PARE_REQUIRE(pare__exists(writer->part_path), PARE_ERR_DAMAGED,
                     "%s is gone: there is nothing to continue", writer->part_path);
    else
        PARE_TRY(pare__remove_tree(writer->part_path));
    PARE_TRY(writer->format->create(writer, resume));
    for (size_t i = 0; i < writer->file_count && !resume; i++)
        PARE_TRY(
            pare__file_reserve(writer->files[i].fd, writer->files[i].path, writer->files[i].size));
    return PARE_OK;
}

pare_status pare_writer_create(const pare_writer_options *options, bool resume,
                               pare_writer **writer)
{
    pare_writer *w;
    PARE_TRY(prepare(options, &w));
    pare_status status = create(w, resume);
    if (status != PARE_OK) {
        pare__trail(__func__);
        pare_writer_free(&w, !resume && status != PARE_ERR_EXISTS); /* what was begun */
        return status;
    }
    *writer = w;
    return PARE_OK;
}

pare_status pare__writer_make_file(pare_writer *writer, int file)
{
    pare__file *f = &writer->files[file];
    f->fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    PARE_REQUIRE(f->fd >= 0, pare__errno_status(errno), "%s cannot be made: %s", f->path,
                 strerror(errno));
    PARE_REQUIRE(ftruncate(f->fd, f->size) == 0, pare__errno_status(errno),
                 "%s cannot be made %lld bytes long: %s", f->path, (long long)f->size,
                 strerror(errno));
    return PARE_OK;
}

static void close_files(pare_writer *writer)
{
    for (size_t i = 0; i < writer->file_count; i++) {
        if (writer->files[i].fd >= 0)
            close(writer->files[i].fd);
        writer->files[i].fd = -1;
    }
}

void pare_writer_free(pare_writer **writer, bool discard)
{
    pare_writer *w = writer ? *writer : NULL;
    if (!w)
        return;
    if (w->format && w->format->close_writer)
        w->format->close_writer(w);
    close_files(w);
    if (discard && w->part_path)
        pare__remove_tree(w->part_path);
    for (size_t i = 0; i < w->file_count; i++)
        free(w->files[i].path);
    for (size_t i = 0; i < w->array_count; i++)
        free(w->arrays[i].name);
    for (size_t i = 0; i < w->slot_count; i++)
        free((char *)(uintptr_t)w->slots[i].entry.name);
    free(w->files), free(w->arrays), free(w->slots);
    free(w->path), free(w->part_path), free(w->format_option);
    free(w->config), free(w->quantization_config), free(w->provenance);
    pthread_mutex_destroy(&w->lock);
    free(w);
    *writer = NULL;
}

/* ---- rows ------------------------------------------------------------------------------------ */

int64_t pare_writer_scratch(const pare_writer *writer, int64_t index, int64_t count)
{
    const pare__slot *slot = &writer->slots[index];
    return slot->codec->scratch(&slot->entry, pare__is_native(writer->format), count);
}

/* Whether row `row` begins, or ends, what can be encoded by itself. */
static bool whole(const pare_entry *entry, int64_t row)
{
    return row == entry->rows || row % pare_entry_align(entry) == 0;
}

/* Sums of the parts' bytes, piece by piece; `parts` are codec parts here, as encode gave them. */
static pare_status sum_pieces(pare_backend *be, const pare__slot *slot, const pare_rows *rows,
                              const void *const *bytes, int64_t values_end, pare_sums *sums)
{
    const pare_entry *entry = &slot->entry;
    int64_t end = rows->first + rows->count, before = rows->values_before, after = before;
    int64_t mask_row = pare__ceil_div(entry->cols, 8);
    for (int64_t first = rows->first; first < end; first += entry->piece_rows, before = after) {
        int64_t count = end - first < entry->piece_rows ? end - first : entry->piece_rows;
        if (entry->form == PARE_FORM_SPARSE)
            after = before + pare__mask_ones(rows->mask + (first - rows->first) * mask_row,
                                             count * mask_row);
        for (int p = 0; p < PARE_ENTRY_SUMS / 2; p++) {
            pare__range all, piece;
            if (slot->array[p] < 0)
                continue;
            slot->codec->range(entry, true, p, rows->first, rows->count, rows->values_before,
                               values_end, &all);
            slot->codec->range(entry, true, p, first, count, before, after, &piece);
            if (piece.size == 0)
                continue;
            PARE_TRY(pare_digest(
                be,
                &(pare_digest_args){.bytes = (const char *)bytes[p] + (piece.offset - all.offset),
                                    .size = piece.size,
                                    .seed = (uint64_t)(first / entry->piece_rows),
                                    .result = &sums->sum[2 * p]}));
        }
    }
    return PARE_OK;
}

static pare_status check_rows(const pare__slot *slot, const pare_rows *rows, int64_t *values_end)
{
    const pare_entry *entry = &slot->entry;
    int64_t end = rows->first + rows->count;
    PARE_REQUIRE(
        rows->first >= 0 && rows->count >= 0 && end <= entry->rows && whole(entry, rows->first) &&
            whole(entry, end),
        PARE_ERR_ARGUMENT,
        "%s: rows %lld to %lld of %lld cannot be written by themselves; whole pieces of %lld "
        "rows can",
        entry->name, (long long)rows->first, (long long)end, (long long)entry->rows,
        (long long)entry->piece_rows);
    *values_end = 0;
    if (entry->form != PARE_FORM_SPARSE)
        return PARE_OK;
    *values_end = rows->values_before +
                  pare__mask_ones(rows->mask, rows->count * pare__ceil_div(entry->cols, 8));
    PARE_REQUIRE(rows->values_before >= 0 && *values_end <= entry->nonzeros, PARE_ERR_ARGUMENT,
                 "%s: rows %lld to %lld keep values up to %lld, the tensor has %lld", entry->name,
                 (long long)rows->first, (long long)end, (long long)*values_end,
                 (long long)entry->nonzeros);
    return PARE_OK;
}

pare_status pare_writer_encode(pare_writer *writer, pare_backend *be, int64_t index,
                               const pare_rows *rows, void *scratch, pare_parts *parts)
{
    PARE_REQUIRE(index >= 0 && (size_t)index < writer->slot_count, PARE_ERR_ARGUMENT,
                 "%s: there is no tensor %lld", writer->path, (long long)index);
    const pare__slot *slot = &writer->slots[index];
    bool h5 = pare__is_native(writer->format);
    const void *bytes[PARE_MAX_PARTS] = {0};
    int64_t values_end = 0;
    *parts = (pare_parts){0};
    PARE_TRY(check_rows(slot, rows, &values_end));
    PARE_TRY(slot->codec->encode(be, &slot->entry, h5, rows, scratch, bytes));
    for (int p = 0; p < PARE_MAX_PARTS; p++) {
        if (slot->array[p] < 0)
            continue;
        const pare__array *array = &writer->arrays[slot->array[p]];
        pare__range range;
        slot->codec->range(&slot->entry, h5, p, rows->first, rows->count, rows->values_before,
                           values_end, &range);
        PARE_ASSERT(range.offset >= 0 && range.offset + range.size <= array->bytes);
        if (range.size == 0)
            continue;
        int n = parts->count++;
        parts->part[n].file = array->file;
        parts->part[n].offset = array->offset + range.offset;
        parts->part[n].size = range.size;
        parts->part[n].bytes = bytes[p];
    }
    return h5 ? sum_pieces(be, slot, rows, bytes, values_end, &parts->sums) : PARE_OK;
}

pare_status pare_writer_write(pare_writer *writer, const pare_parts *parts)
{
    for (int i = 0; i < parts->count; i++) {
        const pare__file *file = &writer->files[parts->part[i].file];
        PARE_TRY(pare__file_write(file->fd, file->path, parts->part[i].bytes, parts->part[i].size,
                                  parts->part[i].offset));
        /* The disk begins while there is still work to do, so that the sync at the end is short. */
        int64_t before = atomic_fetch_add(&writer->written, parts->part[i].size);
        if ((before + parts->part[i].size) / WRITE_BEHIND != before / WRITE_BEHIND)
            (void)sync_file_range(file->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    return PARE_OK;
}

void pare_writer_add_sums(pare_writer *writer, int64_t index, const pare_sums *sums)
{
    pthread_mutex_lock(&writer->lock);
    for (int i = 0; i < PARE_ENTRY_SUMS; i++)
        writer->slots[index].sums.sum[i] += sums->sum[i];
    pthread_mutex_unlock(&writer->lock);
}

/* ---- finish ---------------------------------------------------------------------------------- */

pare_status pare_writer_provenance(pare_writer *writer, const char *text)
{
    PARE_REQUIRE(writer->provenance && text && strlen(text) == strlen(writer->provenance),
                 PARE_ERR_ARGUMENT, "%s: the provenance must keep the length it was created with",
                 writer->path);
    memcpy(writer->provenance, text, strlen(text));
    return PARE_OK;
}

pare_status pare_writer_sync(pare_writer *writer)
{
    for (size_t i = 0; i < writer->file_count; i++) {
        const pare__file *file = &writer->files[i];
        PARE_REQUIRE(file->fd < 0 || fdatasync(file->fd) == 0, pare__errno_status(errno),
                     "%s cannot be flushed to the disk: %s", file->path, strerror(errno));
    }
    return PARE_OK;
}

pare_status pare_writer_finish(pare_writer *writer)
{
    PARE_TRY(writer->format->finish(writer));
    PARE_TRY(pare_writer_sync(writer));
    for (size_t i = 0; i < writer->file_count; i++)
        PARE_TRY(pare__sync_parent(writer->files[i].path));
    close_files(writer);
    PARE_TRY(pare__rename(writer->part_path, writer->path, writer->overwrite));
    return pare__sync_parent(writer->path);
}
