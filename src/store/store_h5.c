/* store_h5.c - pare's native checkpoint (docs/formats/store.md): opens one. HDF5 says where things
 * lie and is closed again; all bytes are then read at their offsets, like those of any other
 * container.
 */
#include "store_h5_impl.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT (INT64_C(64) << 20) /* of config, metadata, provenance */

static bool has_signature(int fd, int64_t offset)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char bytes[8];
    return pread(fd, bytes, 8, offset) == 8 && memcmp(bytes, signature, 8) == 0;
}

/* Any HDF5 file is ours to judge: one that is no checkpoint then gets a sentence that says so. */
static bool probe(const char *path)
{
    int fd;
    int64_t size;
    if (pare__is_directory(path) || pare__file_open(path, &fd, &size) != PARE_OK)
        return false;
    char block[32];
    ssize_t got = pread(fd, block, sizeof block, 0);
    bool ours = (got > 0 && pare__h5_sealed(block, (size_t)got)) || has_signature(fd, 0);
    for (int64_t at = 512; !ours && at < size && at < INT64_MAX / 2; at *= 2)
        ours = has_signature(fd, at);
    close(fd);
    return ours;
}

static bool claims(const char *path)
{
    size_t length = strlen(path);
    return length > 3 && strcmp(path + length - 3, ".h5") == 0;
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* Loads a text that the seal's checksum covers; NULL if it is absent. */
static pare_status load_text(const pare_store *store, const char *name, const pare__range *range,
                             int64_t limit, uint64_t *crc, char **text)
{
    *text = NULL;
    if (range->offset < 0)
        return PARE_OK;
    const pare__file *file = &store->files[0];
    PARE_REQUIRE(range->size <= limit, PARE_ERR_DAMAGED,
                 "%s: /%s has %" PRId64 " bytes, over the limit of %" PRId64, store->path, name,
                 range->size, limit);
    PARE_TRY(pare__calloc((size_t)range->size + 1, 1, text));
    PARE_TRY(pare__file_read(file->fd, file->path, *text, range->size, range->offset));
    *crc = pare__crc64(*crc, *text, (size_t)range->size);
    PARE_REQUIRE(strlen(*text) == (size_t)range->size, PARE_ERR_DAMAGED,
                 "%s: /%s is not text: it has a zero byte", store->path, name);
    return PARE_OK;
}

static bool parse_half(const char *digits, uint64_t *half)
{
    *half = 0;
    for (int i = 0; i < 16; ++i) {
        char c = digits[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *half = *half << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

/* The next line of /checksums, which must be of that name; *at is behind it then. */
static pare_status parse_line(const pare_store *store, const char **at, const char *name,
                              uint64_t sum[2])
{
    const char *line = *at, *end = strchr(line, '\n');
    size_t length = strlen(name);
    PARE_REQUIRE(end && (size_t)(end - line) == length + PARE__H5_SUM_LINE - 1 &&
                     parse_half(line, &sum[1]) && parse_half(line + 16, &sum[0]) &&
                     line[32] == ' ' && line[33] == ' ' && memcmp(line + 34, name, length) == 0,
                 PARE_ERR_DAMAGED, "%s: /checksums has no sound line for %s in its place",
                 store->path, name);
    *at = end + 1;
    return PARE_OK;
}

static pare_status parse_checksums(pare_store *store, const char *text)
{
    const char *at = text;
    for (size_t i = 0; i < store->slot_count; ++i) {
        pare__slot *slot = &store->slots[i];
        slot->has_sums = true;
        for (int p = 0; p < PARE_MAX_PARTS && slot->array[p] >= 0; ++p)
            PARE_TRY(
                parse_line(store, &at, store->arrays[slot->array[p]].name, &slot->sums.sum[2 * p]));
    }
    for (size_t i = 0; i < store->side_count; ++i) {
        pare__side *side = &store->sides[i];
        char *name = NULL;
        PARE_TRY(pare__h5_side_name(side->file.name, &name));
        pare_status status = parse_line(store, &at, name, side->sum);
        side->has_sum = true;
        free(name);
        PARE_TRY(status);
    }
    PARE_REQUIRE(*at == '\0', PARE_ERR_DAMAGED, "%s: /checksums has lines for nothing in the file",
                 store->path);
    return PARE_OK;
}

static pare_status read_texts(pare_store *store, const pare__h5_map *map, const pare__h5_seal *seal)
{
    uint64_t crc = 0;
    PARE_TRY(load_text(store, "config", &map->config, MAX_TEXT, &crc, &store->config));
    PARE_TRY(load_text(store, "metadata", &map->metadata, MAX_TEXT, &crc, &store->metadata));
    PARE_TRY(load_text(store, "provenance", &map->provenance, MAX_TEXT, &crc, &store->provenance));
    int64_t size = 0; /* what the lines will need: nothing larger is worth reading */
    for (size_t i = 0; i < store->array_count; ++i)
        size += PARE__H5_SUM_LINE + (int64_t)strlen(store->arrays[i].name);
    for (size_t i = 0; i < store->side_count; ++i)
        size += PARE__H5_SUM_LINE + 3 * (int64_t)(strlen(store->sides[i].file.name) + 6);
    char *checksums = NULL;
    pare_status status = load_text(store, "checksums", &map->checksums, size, &crc, &checksums);
    if (status == PARE_OK && crc != seal->texts_crc)
        status = pare__error(PARE_ERR_DAMAGED, __func__,
                             "%s: its config, metadata, provenance or checksums are damaged: "
                             "checksum %016" PRIx64 " instead of %016" PRIx64 "; copy it again",
                             store->path, crc, seal->texts_crc);
    if (status == PARE_OK)
        status = parse_checksums(store, checksums);
    free(checksums);
    PARE_TRY(status);
    return PARE_OK;
}

/* ---- open ------------------------------------------------------------------------------------ */

static pare_status open_h5(pare_store *store)
{
    int index;
    PARE_TRY(pare__store_add_file(store, store->path, &index));
    const pare__file *file = &store->files[index];
    pare__h5_seal seal;
    PARE_TRY(pare__h5_seal_check(file->fd, file->path, file->size, &seal));
    PARE_REQUIRE(seal.finished, PARE_ERR_DAMAGED,
                 "%s was never finished: run what wrote it again to continue, or remove it",
                 store->path);
    pare__h5_map map;
    PARE_TRY(pare__h5_scan(store, &map));
    PARE_REQUIRE(map.dense && map.data_begin == seal.data_begin, PARE_ERR_DAMAGED,
                 "%s: its datasets do not fill the file from byte %" PRId64 " on", store->path,
                 seal.data_begin);
    PARE_TRY(read_texts(store, &map, &seal));
    return PARE_OK;
}

const pare__format pare__format_h5 = {
    .name = "h5",
    .probe = probe,
    .open = open_h5,
    .claims = claims,
    .layout = pare__h5_layout,
    .create = pare__h5_create,
    .finish = pare__h5_finish,
    .close_writer = pare__h5_close_writer,
    .accepts = pare__h5_accepts,
};
