/* store_h5_seal.c - writes and proves the text in front of a native checkpoint. */
#include "store_h5_seal.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <inttypes.h>
#include <string.h>

#define MAGIC "pare checkpoint "
#define CHUNK 65536

uint64_t pare__crc64(uint64_t crc, const void *bytes, size_t size)
{
    uint64_t table[256];
    for (unsigned i = 0; i < 256; ++i) {
        uint64_t r = i;
        for (int k = 0; k < 8; ++k)
            r = r >> 1 ^ (r & 1 ? UINT64_C(0xC96C5795D7870F42) : 0);
        table[i] = r;
    }
    const unsigned char *p = bytes;
    crc = ~crc;
    for (size_t i = 0; i < size; ++i)
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
    return ~crc;
}

bool pare__h5_sealed(const void *block, size_t size)
{
    return size >= strlen(MAGIC) && memcmp(block, MAGIC, strlen(MAGIC)) == 0;
}

/* Reading makes the text again and compares, so every byte of the block counts. */
void pare__h5_seal_text(const pare__h5_seal *seal, char *block)
{
    char texts[32] = "not yet";
    if (seal->finished)
        snprintf(texts, sizeof texts, "%016" PRIx64, seal->texts_crc);
    memset(block, 0, PARE__H5_BLOCK);
    snprintf(block, PARE__H5_BLOCK,
             MAGIC "%d\nsize %" PRId64 "\ndata begin %" PRId64 "\nmetadata crc64 %016" PRIx64
                   "\ntexts crc64 %s\n",
             PARE__H5_VERSION, seal->size, seal->data_begin, seal->metadata_crc, texts);
}

static pare_status metadata_crc(int fd, const char *path, int64_t data_begin, uint64_t *crc)
{
    unsigned char *chunk = NULL;
    PARE_TRY(pare__calloc(CHUNK, 1, &chunk));
    pare_status status = PARE_OK;
    *crc = 0;
    for (int64_t at = PARE__H5_BLOCK; at < data_begin; at += CHUNK) {
        int64_t size = data_begin - at < CHUNK ? data_begin - at : CHUNK;
        PARE_TRY_DONE(pare__file_read(fd, path, chunk, size, at));
        *crc = pare__crc64(*crc, chunk, (size_t)size);
    }
done:
    free(chunk);
    return status;
}

/* The numbers of a block's text; false if it is not a text that pare__h5_seal_text() could have
 * made. */
static bool parse(const char block[PARE__H5_BLOCK], pare__h5_seal *seal)
{
    char text[PARE__H5_BLOCK + 1], texts[17] = "";
    memcpy(text, block, PARE__H5_BLOCK);
    text[PARE__H5_BLOCK] = '\0';
    int version = 0;
    int got = sscanf(text,
                     MAGIC "%9d size %18" SCNd64 " data begin %18" SCNd64
                           " metadata crc64 %16" SCNx64 " texts crc64 %16[0-9a-f]",
                     &version, &seal->size, &seal->data_begin, &seal->metadata_crc, texts);
    if (got < 4)
        return false;
    seal->finished = got == 5;
    seal->texts_crc = seal->finished ? strtoull(texts, NULL, 16) : 0;
    char again[PARE__H5_BLOCK];
    pare__h5_seal_text(seal, again);
    return memcmp(again, block, PARE__H5_BLOCK) == 0;
}

pare_status pare__h5_seal_check(int fd, const char *path, int64_t size, pare__h5_seal *seal)
{
    char block[PARE__H5_BLOCK + 1] = {0};
    int64_t have = size < PARE__H5_BLOCK ? size : PARE__H5_BLOCK;
    PARE_TRY(pare__file_read(fd, path, block, have, 0));
    PARE_REQUIRE(pare__h5_sealed(block, (size_t)have), PARE_ERR_UNSUPPORTED,
                 "%s is an HDF5 file, but no checkpoint of pare (it does not begin with \"" MAGIC
                 "\"); give a checkpoint that pare wrote",
                 path);
    int version = 0;
    char after = 0;
    bool newer = sscanf(block + strlen(MAGIC), "%5d%c", &version, &after) == 2 && after == '\n' &&
                 version > PARE__H5_VERSION;
    PARE_REQUIRE(!newer, PARE_ERR_UNSUPPORTED,
                 "%s is a checkpoint of format version %d, and this pare knows version %d: use a "
                 "newer pare",
                 path, version, PARE__H5_VERSION);
    PARE_REQUIRE(have == PARE__H5_BLOCK && parse(block, seal), PARE_ERR_DAMAGED,
                 "%s: its first %d bytes, which describe the file, are damaged; copy it again",
                 path, PARE__H5_BLOCK);
    PARE_REQUIRE(seal->size == size, PARE_ERR_DAMAGED,
                 "%s has %" PRId64 " bytes instead of %" PRId64
                 ": it is cut off or was added to; copy it again",
                 path, size, seal->size);
    PARE_REQUIRE(seal->data_begin >= PARE__H5_BLOCK && seal->data_begin <= size, PARE_ERR_DAMAGED,
                 "%s: its data cannot begin at byte %" PRId64 " of %" PRId64, path,
                 seal->data_begin, size);
    uint64_t crc = 0;
    PARE_TRY(metadata_crc(fd, path, seal->data_begin, &crc));
    PARE_REQUIRE(crc == seal->metadata_crc, PARE_ERR_DAMAGED,
                 "%s: its metadata (bytes %d to %" PRId64 ") are damaged: checksum %016" PRIx64
                 " instead of %016" PRIx64 "; copy it again",
                 path, PARE__H5_BLOCK, seal->data_begin, crc, seal->metadata_crc);
    return PARE_OK;
}

pare_status pare__h5_seal_write(int fd, const char *path, pare__h5_seal *seal)
{
    PARE_TRY(metadata_crc(fd, path, seal->data_begin, &seal->metadata_crc));
    char block[PARE__H5_BLOCK];
    pare__h5_seal_text(seal, block);
    PARE_TRY(pare__file_write(fd, path, block, sizeof block, 0));
    return PARE_OK;
}
