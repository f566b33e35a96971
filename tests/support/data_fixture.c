#include "data_fixture.h"

#include "test.h"

#include "base/file.h"

void blob_add(blob *b, const void *bytes, size_t size)
{
    b->bytes = realloc(b->bytes, b->size + size + 1);
    assert_non_null(b->bytes);
    if (size > 0)
        memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

void blob_free(blob *b)
{
    free(b->bytes);
    *b = (blob){0};
}

char *data_write(const char *folder, const char *name, const void *bytes, size_t size)
{
    char *path = NULL;
    assert_ok(pare__join(folder, name, &path));
    assert_ok(pare__file_save(path, bytes, (int64_t)size));
    return path;
}

static char *write_blob(const char *folder, const char *name, blob b)
{
    char *path = data_write(folder, name, b.bytes, b.size);
    blob_free(&b);
    return path;
}

blob npy_blob(int version, const char *descr, const char *shape, const void *bytes, size_t size)
{
    blob b = {0};
    char text[256];
    int length = snprintf(text, sizeof text,
                          "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n", descr, shape);
    unsigned char head[12] = "\x93NUMPY";
    head[6] = (unsigned char)version;
    head[8] = (unsigned char)length;
    head[9] = (unsigned char)(length >> 8);
    blob_add(&b, head, version == 1 ? 10 : 12);
    blob_add(&b, text, (size_t)length);
    blob_add(&b, bytes, size);
    return b;
}

char *data_npy(const char *folder, const char *name, const char *descr, const char *shape,
               const void *bytes, size_t size)
{
    return write_blob(folder, name, npy_blob(1, descr, shape, bytes, size));
}

static void add_big_endian(blob *b, uint32_t value)
{
    unsigned char bytes[4] = {(unsigned char)(value >> 24), (unsigned char)(value >> 16),
                              (unsigned char)(value >> 8), (unsigned char)value};
    blob_add(b, bytes, 4);
}

blob idx_blob(int rank, const uint32_t *sizes, const void *bytes, size_t size)
{
    blob b = {0};
    add_big_endian(&b, 0x0800u + (uint32_t)rank);
    for (int i = 0; i < rank; i++)
        add_big_endian(&b, sizes[i]);
    blob_add(&b, bytes, size);
    return b;
}

char *data_idx(const char *folder, const char *name, int rank, const uint32_t *sizes,
               const void *bytes, size_t size)
{
    return write_blob(folder, name, idx_blob(rank, sizes, bytes, size));
}

static void add_little_endian(blob *b, uint32_t value)
{
    unsigned char bytes[4] = {(unsigned char)value, (unsigned char)(value >> 8),
                              (unsigned char)(value >> 16), (unsigned char)(value >> 24)};
    blob_add(b, bytes, 4);
}

static uint32_t crc32_of(const unsigned char *bytes, size_t size)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return ~crc;
}

blob gzip_blob(const void *bytes, size_t size)
{
    blob b = {0};
    const unsigned char *from = bytes;
    blob_add(&b, "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
    for (size_t at = 0, part; at < size || at == 0; at += part) {
        part = size - at < 65535 ? size - at : 65535;
        unsigned char head[5] = {at + part == size, (unsigned char)part, (unsigned char)(part >> 8),
                                 (unsigned char)~part, (unsigned char)(~part >> 8)};
        blob_add(&b, head, sizeof head);
        blob_add(&b, from + at, part);
        if (part == 0)
            break;
    }
    add_little_endian(&b, crc32_of(from, size));
    add_little_endian(&b, (uint32_t)size);
    return b;
}
