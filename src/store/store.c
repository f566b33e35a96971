/* store.c - opens a checkpoint through the containers' table and reads its entries through their
 * codecs. */
#include "store_impl.h"

#include "base/half.h"
#include "pare/ops.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* By content, the most certain sign first. */
static const pare__format *const formats[] = {&pare__format_h5, &pare__format_hf_dir,
                                              &pare__format_safetensors};

int64_t pare_piece_rows(pare_dtype dtype, int64_t cols)
{
    const int64_t limit = 512 * 1024;
    int64_t bits, rows = 1;
    if (!pare__mul(cols, pare_dtype_bits(dtype), &bits))
        return 1;
    int64_t row = pare__ceil_div(bits, 8);
    while (rows < 65536 && row <= limit / (rows * 2))
        rows *= 2;
    return rows;
}

int64_t pare_entry_align(const pare_entry *entry)
{
    int64_t rows = entry->piece_rows < 1 ? 1 : entry->piece_rows;
    if (entry->form != PARE_FORM_QUANT)
        return rows;
    if (entry->scheme.granularity == PARE_PER_BLOCK)
        rows = pare__lcm(rows, entry->scheme.block_rows);
    if (entry->scheme.asymmetric || entry->scheme.type == PARE_QUANT_NF4)
        rows = pare__lcm(rows, 32);
    return pare__lcm(rows, pare__nested_rows(entry));
}

/* ---- open and close -------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const pare__slot *)a)->entry.name, ((const pare__slot *)b)->entry.name);
}

static pare_status order_slots(pare_store *store)
{
    if (store->slot_count)
        qsort(store->slots, store->slot_count, sizeof *store->slots, by_name);
    for (size_t i = 0; i < store->slot_count; i++) {
        pare__slot *slot = &store->slots[i];
        PARE_REQUIRE(i == 0 || by_name(slot - 1, slot) != 0, PARE_ERR_DAMAGED,
                     "%s: tensor '%s' is there in two forms", store->path, slot->entry.name);
        slot->entry.stored_bytes = 0;
        for (int p = 0; p < PARE_MAX_PARTS; p++)
            if (slot->array[p] >= 0)
                slot->entry.stored_bytes += store->arrays[slot->array[p]].bytes;
    }
    return PARE_OK;
}

/* The scales of static activations, which entries have. */
static pare_status read_inputs(pare_store *store)
{
    for (size_t i = 0; i < store->slot_count; i++) {
        pare__slot *slot = &store->slots[i];
        int part = pare__input_part(&slot->entry);
        if (part < 0)
            continue;
        const pare__array *array = &store->arrays[slot->array[part]];
        const pare__file *file = &store->files[array->file];
        uint32_t bits = 0;
        float *scale = &slot->entry.act_scale;
        if (array->bytes == 0) /* an empty tensor's */
            continue;
        PARE_TRY(pare__file_read(file->fd, file->path, &bits, array->bytes, array->offset));
        if (array->dtype == PARE_F32)
            memcpy(scale, &bits, sizeof *scale);
        else
            *scale = array->dtype == PARE_F16 ? pare__f16_to_f32((uint16_t)bits)
                                              : pare__bf16_to_f32((uint16_t)bits);
        PARE_REQUIRE(*scale > 0 && isfinite(*scale), PARE_ERR_DAMAGED,
                     "%s: the scale of the inputs of '%s' is %g; it must be positive and finite",
                     store->path, slot->entry.name, (double)*scale);
    }
    return PARE_OK;
}

static pare_status open_with(const pare__format *format, pare_store *store)
{
    store->format = format;
    PARE_TRY(format->open(store));
    if (!pare__is_native(format))
        PARE_TRY(pare__recognise(store));
    PARE_TRY(order_slots(store));
    return read_inputs(store);
}

static bool is_gguf(const char *path)
{
    char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool yes = fd >= 0 && read(fd, magic, sizeof magic) == (ssize_t)sizeof magic &&
               memcmp(magic, "GGUF", sizeof magic) == 0;
    if (fd >= 0)
        close(fd);
    return yes;
}

pare_status pare_store_open(const char *path, pare_store **store)
{
    PARE_REQUIRE(path && *path, PARE_ERR_ARGUMENT, "a checkpoint's path is empty");
    PARE_REQUIRE(pare__exists(path), PARE_ERR_NOT_FOUND, "%s: there is no such file or directory",
                 path);
    const pare__format *format = NULL;
    for (size_t i = 0; i < sizeof formats / sizeof *formats && !format; i++)
        if (formats[i]->probe(path))
            format = formats[i];
    PARE_REQUIRE(format || !is_gguf(path), PARE_ERR_ARGUMENT,
                 "%s is a GGUF file: reading them is not in this version", path);
    PARE_REQUIRE(
        format, PARE_ERR_UNSUPPORTED,
        "%s is no checkpoint: expected a Hugging Face directory, a .safetensors file or a pare "
        ".h5 file",
        path);
    pare_store *s = NULL;
    PARE_TRY(pare__calloc(1, sizeof *s, &s));
    pthread_mutex_init(&s->lock, NULL);
    pare_status status = pare__strdup(path, &s->path);
    if (status == PARE_OK)
        status = open_with(format, s);
    if (status != PARE_OK) {
        pare__trail(__func__);
        pare_store_close(&s);
        return status;
    }
    *store = s;
    return PARE_OK;
}

void pare_store_close(pare_store **store)
{
    pare_store *s = store ? *store : NULL;
    if (!s)
        return;
    for (size_t i = 0; i < s->file_count; i++) {
        free(s->files[i].path);
        if (s->files[i].fd >= 0)
            close(s->files[i].fd);
    }
    for (size_t i = 0; i < s->array_count; i++)
        free(s->arrays[i].name);
    for (size_t i = 0; i < s->slot_count; i++)
        free((char *)(uintptr_t)s->slots[i].entry.name);
    for (size_t i = 0; i < s->side_count; i++) {
        free((char *)(uintptr_t)s->sides[i].file.name);
        free(s->sides[i].path);
    }
    free(s->files), free(s->arrays), free(s->slots), free(s->sides);
    free(s->config), free(s->metadata), free(s->provenance), free(s->quantization_config);
    free(s->path);
    pthread_mutex_destroy(&s->lock);
    free(s);
    *store = NULL;
}

/* ---- what is there --------------------------------------------------------------------------- */

const char *pare_store_format(const pare_store *store)
{
    return store->format->name;
}

const char *pare_store_path(const pare_store *store)
{
    return store->path;
}

int64_t pare_store_count(const pare_store *store)
{
    return (int64_t)store->slot_count;
}

const pare_entry *pare_store_entry(const pare_store *store, int64_t index)
{
    return index >= 0 && index < pare_store_count(store) ? &store->slots[index].entry : NULL;
}

int64_t pare_store_find(const pare_store *store, const char *name)
{
    size_t low = 0, high = store->slot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(store->slots[middle].entry.name, name);
        if (order == 0)
            return (int64_t)middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

const char *pare_store_config(const pare_store *store)
{
    return store->config;
}

const char *pare_store_provenance(const pare_store *store)
{
    return store->provenance;
}

const char *pare_store_metadata(const pare_store *store)
{
    return store->metadata;
}

int64_t pare_store_side_count(const pare_store *store)
{
    return (int64_t)store->side_count;
}

const pare_side_file *pare_store_side(const pare_store *store, int64_t index)
{
    return index >= 0 && index < pare_store_side_count(store) ? &store->sides[index].file : NULL;
}

pare_status pare_store_side_read(const pare_store *store, int64_t index, int64_t offset,
                                 int64_t size, void *bytes)
{
    PARE_REQUIRE(index >= 0 && index < pare_store_side_count(store), PARE_ERR_ARGUMENT,
                 "%s: there is no side file %lld", store->path, (long long)index);
    const pare__side *side = &store->sides[index];
    PARE_REQUIRE(
        offset >= 0 && size >= 0 && offset <= side->file.size && size <= side->file.size - offset,
        PARE_ERR_ARGUMENT, "%s: bytes %lld to %lld of %s, which has %lld", store->path,
        (long long)offset, (long long)(offset + size), side->file.name, (long long)side->file.size);
    if (side->in_file >= 0) {
        const pare__file *file = &store->files[side->in_file];
        return pare__file_read(file->fd, file->path, bytes, size, side->offset + offset);
    }
    int fd;
    int64_t now;
    PARE_TRY(pare__file_open(side->path, &fd, &now));
    pare_status status = pare__file_read(fd, side->path, bytes, size, offset);
    close(fd);
    return status;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static pare_status slot_of(const pare_store *store, int64_t index, int64_t first, int64_t count,
                           const pare__slot **slot)
{
    PARE_REQUIRE(index >= 0 && index < pare_store_count(store), PARE_ERR_ARGUMENT,
                 "%s: there is no tensor %lld", store->path, (long long)index);
    *slot = &store->slots[index];
    const pare_entry *entry = &(*slot)->entry;
    PARE_REQUIRE(first >= 0 && count >= 0 && first <= entry->rows && count <= entry->rows - first,
                 PARE_ERR_ARGUMENT, "%s: rows %lld to %lld of %lld", entry->name, (long long)first,
                 (long long)(first + count), (long long)entry->rows);
    return PARE_OK;
}

/* At least what part `part` of any `count` rows takes. */
static int64_t part_bound(const pare_store *store, const pare__slot *slot, int part, int64_t count)
{
    const pare_entry *entry = &slot->entry;
    int64_t block = 1;
    if (entry->form == PARE_FORM_QUANT)
        block = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols).block_rows;
    int64_t slack = pare__align_rows(slot->codec, entry) + (part ? block : 1);
    int64_t rows =
        slack >= entry->rows || count >= entry->rows - slack ? entry->rows : count + slack;
    pare__range range;
    slot->codec->range(entry, pare__is_native(store->format), part, 0, rows, 0, entry->nonzeros,
                       &range);
    return range.size;
}

/* Scratch that decoding into the entry's own form needs. */
static int64_t form_scratch(const pare_store *store, const pare__slot *slot, int64_t count)
{
    bool h5 = pare__is_native(store->format);
    const pare_rows nowhere = {.values = &(char){0}, .mask = &(uint8_t){0}, .codes = &(int8_t){0}};
    int64_t bytes = slot->codec->scratch(&slot->entry, h5, count);
    for (int p = 0; p < PARE_MAX_PARTS; p++)
        if (slot->array[p] >= 0 && !slot->codec->place(&slot->entry, h5, p, &nowhere))
            bytes += pare__padded(part_bound(store, slot, p, count));
    return bytes;
}

/* Scales that any `count` rows touch. */
static int64_t scale_bound(const pare_entry *entry, int64_t count)
{
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t down = count ? pare__ceil_div(count, blocks.block_rows) + 1 : 0;
    return (down < blocks.down ? down : blocks.down) * blocks.across;
}

int64_t pare_store_scratch(const pare_store *store, int64_t index, int64_t count)
{
    const pare__slot *slot = &store->slots[index];
    const pare_entry *entry = &slot->entry;
    int64_t bytes = form_scratch(store, slot, count), n = count * entry->cols;
    if (entry->form == PARE_FORM_QUANT)
        bytes += pare__padded(n) + pare__padded(scale_bound(entry, count) * 4) +
                 pare__padded(scale_bound(entry, count));
    if (entry->form == PARE_FORM_SPARSE)
        bytes += pare__padded(n * pare_dtype_bits(entry->dtype) / 8) +
                 pare__padded(count * pare__ceil_div(entry->cols, 8));
    return bytes;
}

static pare_status read_array(const pare_store *store, const pare__slot *slot, int part,
                              const pare__range *range, void *bytes)
{
    const pare__array *array = &store->arrays[slot->array[part]];
    PARE_REQUIRE(range->offset >= 0 && range->size >= 0 && range->offset <= array->bytes &&
                     range->size <= array->bytes - range->offset,
                 PARE_ERR_INTERNAL, "%s: bytes %lld to %lld of %s, which has %lld",
                 slot->entry.name, (long long)range->offset,
                 (long long)(range->offset + range->size), array->name, (long long)array->bytes);
    const pare__file *file = &store->files[array->file];
    return pare__file_read(file->fd, file->path, bytes, range->size, array->offset + range->offset);
}

/* PARE_FORM_SPARSE: how many values the rows before `row` have. */
static pare_status values_before(const pare_store *store, const pare__slot *slot, int64_t row,
                                 int64_t *before)
{
    *before = row ? slot->entry.nonzeros : 0;
    if (row == 0 || row == slot->entry.rows)
        return PARE_OK;
    PARE_TRY(read_array(store, slot, PARE__PART_OFFSETS, &(pare__range){row * 8, 8}, before));
    PARE_REQUIRE(*before >= 0 && *before <= slot->entry.nonzeros, PARE_ERR_DAMAGED,
                 "%s: row %lld begins at value %lld of %lld", slot->entry.name, (long long)row,
                 (long long)*before, (long long)slot->entry.nonzeros);
    return PARE_OK;
}

static pare_status sparse_bounds(const pare_store *store, const pare__slot *slot, int64_t first,
                                 int64_t count, int64_t *before, int64_t *end)
{
    *before = *end = 0;
    if (slot->entry.form != PARE_FORM_SPARSE)
        return PARE_OK;
    PARE_TRY(values_before(store, slot, first, before));
    PARE_TRY(values_before(store, slot, first + count, end));
    PARE_REQUIRE(*end >= *before && *end - *before <= count * slot->entry.cols, PARE_ERR_DAMAGED,
                 "%s: rows %lld to %lld hold values %lld to %lld", slot->entry.name,
                 (long long)first, (long long)(first + count), (long long)*before, (long long)*end);
    return PARE_OK;
}

/* Any rows in the entry's own form; scales of all blocks that they touch. */
static pare_status read_form(const pare_store *store, pare_backend *be, const pare__slot *slot,
                             pare_rows *rows, void *scratch)
{
    const pare_entry *entry = &slot->entry;
    const pare__codec *codec = slot->codec;
    bool h5 = pare__is_native(store->format);
    int64_t end_row = rows->first + rows->count, end;
    const void *bytes[PARE_MAX_PARTS] = {0};
    PARE_TRY(sparse_bounds(store, slot, rows->first, rows->count, &rows->values_before, &end));
    rows->act_scale = entry->act_scale;
    for (int p = 0; p < PARE_MAX_PARTS; p++) {
        if (slot->array[p] < 0 || p == pare__input_part(entry))
            continue;
        int64_t first = p ? pare__rows_aligned(codec, entry, rows->first) : rows->first;
        pare__range range;
        codec->range(entry, h5, p, first, end_row - first, rows->values_before, end, &range);
        void *to = codec->place(entry, h5, p, rows);
        if (!to)
            to = pare__take(&scratch, range.size);
        PARE_TRY(read_array(store, slot, p, &range, to));
        bytes[p] = to;
    }
    PARE_TRY(codec->decode(be, entry, h5, bytes, rows, scratch));
    if (entry->form == PARE_FORM_SPARSE) {
        int64_t ones = pare__mask_ones(rows->mask, rows->count * pare__ceil_div(entry->cols, 8));
        PARE_REQUIRE(ones == end - rows->values_before, PARE_ERR_DAMAGED,
                     "%s: the bitmask of rows %lld to %lld keeps %lld values, row_offsets say %lld",
                     entry->name, (long long)rows->first, (long long)end_row, (long long)ones,
                     (long long)(end - rows->values_before));
    }
    return PARE_OK;
}

pare_status pare_store_read(pare_store *store, pare_backend *be, int64_t index, pare_rows *rows,
                            void *scratch)
{
    const pare__slot *slot;
    PARE_TRY(slot_of(store, index, rows->first, rows->count, &slot));
    const pare_entry *entry = &slot->entry;
    if (entry->form == PARE_FORM_QUANT && entry->scheme.granularity == PARE_PER_BLOCK)
        PARE_REQUIRE(rows->first % entry->scheme.block_rows == 0, PARE_ERR_ARGUMENT,
                     "%s: rows from %lld on begin inside a block of %lld rows", entry->name,
                     (long long)rows->first, (long long)entry->scheme.block_rows);
    return read_form(store, be, slot, rows, scratch);
}

/* Codes to values; rows that begin inside a block are decoded up to its end first. */
static pare_status dequantize(pare_backend *be, const pare_entry *entry, const pare_rows *rows,
                              char *values)
{
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t inside = rows->first % blocks.block_rows;
    int64_t head = inside ? blocks.block_rows - inside : 0, done = 0, scales = 0;
    if (head > rows->count)
        head = rows->count;
    for (int half = 0; half < 2; half++) {
        int64_t n = half ? rows->count - head : head;
        int64_t down = pare__ceil_div(n, blocks.block_rows);
        if (n == 0)
            continue;
        PARE_TRY(pare_dequantize(
            be,
            &(pare_dequantize_args){
                .scheme = entry->scheme,
                .codes = pare_matrix(rows->codes + done * entry->cols, PARE_I8, n, entry->cols),
                .block_rows = blocks.block_rows,
                .block_cols = blocks.block_cols,
                .scale = pare_matrix(rows->scale + scales, PARE_F32, down, blocks.across),
                .zero = pare_matrix(entry->scheme.asymmetric ? rows->zero + scales : NULL, PARE_I8,
                                    down, blocks.across),
                .w = pare_matrix(values + done * entry->cols * pare_dtype_bits(entry->dtype) / 8,
                                 entry->dtype, n, entry->cols)}));
        done += n;
        scales += down * blocks.across;
    }
    return PARE_OK;
}

pare_status pare_store_read_values(pare_store *store, pare_backend *be, int64_t index,
                                   int64_t first, int64_t count, void *values, void *scratch)
{
    const pare__slot *slot;
    PARE_TRY(slot_of(store, index, first, count, &slot));
    const pare_entry *entry = &slot->entry;
    pare_rows rows = {.first = first, .count = count};
    int64_t n = count * entry->cols;
    switch (entry->form) {
    case PARE_FORM_DENSE:
        rows.values = values;
        return read_form(store, be, slot, &rows, scratch);
    case PARE_FORM_QUANT:
        rows.codes = pare__take(&scratch, n);
        rows.scale = pare__take(&scratch, scale_bound(entry, count) * 4);
        rows.zero = pare__take(&scratch, scale_bound(entry, count));
        PARE_TRY(read_form(store, be, slot, &rows, scratch));
        return n ? dequantize(be, entry, &rows, values) : PARE_OK;
    case PARE_FORM_SPARSE:
        break;
    }
    rows.values = pare__take(&scratch, n * pare_dtype_bits(entry->dtype) / 8);
    rows.mask = pare__take(&scratch, count * pare__ceil_div(entry->cols, 8));
    PARE_TRY(read_form(store, be, slot, &rows, scratch));
    int64_t row = pare__ceil_div(entry->cols, 8), kept = pare__mask_ones(rows.mask, count * row);
    return pare_mask_scatter(
        be, &(pare_mask_scatter_args){.values = pare_vector(rows.values, entry->dtype, kept),
                                      .mask = pare_matrix(rows.mask, PARE_U8, count, row),
                                      .x = pare_matrix(values, entry->dtype, count, entry->cols)});
}

void pare_store_prefetch(pare_store *store, int64_t index, int64_t first, int64_t count)
{
    const pare__slot *slot = &store->slots[index];
    const pare__array *array = &store->arrays[slot->array[0]];
    int64_t rows = slot->entry.rows;
    if (rows > 0 && first >= 0 && count > 0 && first < rows) {
        int64_t a_row = pare__ceil_div(array->bytes, rows);
        int64_t n = count < rows - first ? count : rows - first;
        posix_fadvise(store->files[array->file].fd, array->offset + first * a_row, n * a_row,
                      POSIX_FADV_WILLNEED);
    }
}

/* ---- checksums ------------------------------------------------------------------------------- */

static pare_status sum_piece(const pare_store *store, pare_backend *be, const pare__slot *slot,
                             int64_t first, void **buffer, size_t *capacity, pare_sums *sums)
{
    const pare_entry *entry = &slot->entry;
    int64_t count =
        entry->rows - first < entry->piece_rows ? entry->rows - first : entry->piece_rows;
    int64_t before, end;
    PARE_TRY(sparse_bounds(store, slot, first, count, &before, &end));
    for (int p = 0; p < PARE_ENTRY_SUMS / 2; p++) {
        if (slot->array[p] < 0)
            continue;
        pare__range range;
        slot->codec->range(entry, pare__is_native(store->format), p, first, count, before, end,
                           &range);
        if (range.size == 0)
            continue;
        PARE_TRY(pare__grow(buffer, capacity, (size_t)range.size, 1));
        PARE_TRY(read_array(store, slot, p, &range, *buffer));
        PARE_TRY(pare_digest(be, &(pare_digest_args){.bytes = *buffer,
                                                     .size = range.size,
                                                     .seed = (uint64_t)(first / entry->piece_rows),
                                                     .result = &sums->sum[2 * p]}));
    }
    return PARE_OK;
}

pare_status pare_store_verify(pare_store *store, pare_backend *be, int64_t index)
{
    const pare__slot *slot;
    PARE_TRY(slot_of(store, index, 0, 0, &slot));
    if (!slot->has_sums)
        return PARE_OK;
    const pare_entry *entry = &slot->entry;
    pare_sums sums = {0};
    void *buffer = NULL;
    size_t capacity = 0;
    pare_status status = PARE_OK;
    for (int64_t first = 0; first < entry->rows && status == PARE_OK; first += entry->piece_rows)
        status = sum_piece(store, be, slot, first, &buffer, &capacity, &sums);
    free(buffer);
    PARE_TRY(status);
    PARE_REQUIRE(memcmp(&sums, &slot->sums, sizeof sums) == 0, PARE_ERR_DAMAGED,
                 "%s: the bytes of tensor '%s' do not match its checksum; the file was changed or "
                 "damaged after it was written",
                 store->path, entry->name);
    return PARE_OK;
}

/* The digest of a side file, a piece at a time through `piece`. */
static pare_status sum_side(const pare_store *store, pare_backend *be, int64_t index, void *piece,
                            uint64_t sum[2])
{
    int64_t end = store->sides[index].file.size;
    for (int64_t at = 0; at < end; at += PARE__SIDE_PIECE) {
        int64_t size = end - at < PARE__SIDE_PIECE ? end - at : PARE__SIDE_PIECE;
        PARE_TRY(pare_store_side_read(store, index, at, size, piece));
        PARE_TRY(pare_digest(be, &(pare_digest_args){.bytes = piece,
                                                     .size = size,
                                                     .seed = (uint64_t)(at / PARE__SIDE_PIECE),
                                                     .result = sum}));
    }
    return PARE_OK;
}

pare_status pare_store_side_verify(const pare_store *store, pare_backend *be, int64_t index)
{
    PARE_REQUIRE(index >= 0 && index < pare_store_side_count(store), PARE_ERR_ARGUMENT,
                 "%s: there is no side file %lld", store->path, (long long)index);
    const pare__side *side = &store->sides[index];
    uint64_t sum[2] = {0};
    void *piece = NULL;
    if (!side->has_sum)
        return PARE_OK;
    PARE_TRY(pare__calloc(PARE__SIDE_PIECE, 1, &piece));
    pare_status status = sum_side(store, be, index, piece, sum);
    free(piece);
    PARE_TRY(status);
    PARE_REQUIRE(memcmp(sum, side->sum, sizeof sum) == 0, PARE_ERR_DAMAGED,
                 "%s: the bytes of its side file '%s' do not match their checksum; the file was "
                 "changed or damaged after it was written",
                 store->path, side->file.name);
    return PARE_OK;
}
