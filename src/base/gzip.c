/* gzip.c - unpacks a gzipped file piece by piece (RFC 1952, several members one after another
 * too). The one place that sees zlib. */
#include "base/gzip.h"
#include "base/alloc.h"
#include "base/check.h"
#include "base/file.h"

#include <unistd.h>
#include <zlib.h>

enum { INPUT = 1 << 16 };

struct pare__gzip {
    char *path;
    int fd;
    int64_t size, at; /* of the packed file: all, and read so far */
    z_stream zlib;
    bool begun; /* zlib holds memory */
    bool ended; /* at the end of a member: the next one begins, or the file ends */
    unsigned char input[INPUT];
};

bool pare__is_gzip(const void *bytes, size_t size)
{
    const unsigned char *b = bytes;
    return size >= 2 && b[0] == 0x1f && b[1] == 0x8b;
}

pare_status pare__gzip_open(const char *path, pare__gzip **out)
{
    pare_status status = PARE_OK;
    pare__gzip *gzip = NULL;
    PARE_TRY(pare__calloc(1, sizeof *gzip, &gzip));
    gzip->fd = -1;
    PARE_TRY_DONE(pare__strdup(path, &gzip->path));
    PARE_TRY_DONE(pare__file_open(path, &gzip->fd, &gzip->size));
    gzip->begun = inflateInit2(&gzip->zlib, MAX_WBITS + 16) == Z_OK; /* 16: gzip's frame only */
    if (!gzip->begun)
        PARE_TRY_DONE(
            pare__error(PARE_ERR_MEMORY, __func__, "%s: no memory to unpack it with", path));
    *out = gzip;
    gzip = NULL;
done:
    pare__gzip_close(&gzip);
    return status;
}

void pare__gzip_close(pare__gzip **gzip)
{
    pare__gzip *g = *gzip;
    *gzip = NULL;
    if (!g)
        return;
    if (g->begun)
        inflateEnd(&g->zlib);
    if (g->fd >= 0)
        close(g->fd);
    free(g->path);
    free(g);
}

/* Gives zlib more of the file when it has none; false in *more at the file's end. */
static pare_status feed(pare__gzip *g, bool *more)
{
    *more = true;
    if (g->zlib.avail_in > 0)
        return PARE_OK;
    int64_t rest = g->size - g->at, take = rest < INPUT ? rest : INPUT;
    *more = take > 0;
    PARE_TRY(pare__file_read(g->fd, g->path, g->input, take, g->at));
    g->at += take;
    g->zlib.next_in = g->input;
    g->zlib.avail_in = (uInt)take;
    return PARE_OK;
}

/* Unpacks what fits into zlib's output, a step of at most one input buffer; false in *more at the
 * end of the last member. */
static pare_status step(pare__gzip *g, bool *more)
{
    PARE_TRY(feed(g, more));
    if (g->ended && !*more)
        return PARE_OK;
    PARE_REQUIRE(*more, PARE_ERR_DAMAGED, "%s is cut off after %lld bytes: get it again", g->path,
                 (long long)g->size);
    if (g->ended) {
        inflateReset(&g->zlib);
        g->ended = false;
    }
    int result = inflate(&g->zlib, Z_NO_FLUSH);
    PARE_REQUIRE(result != Z_MEM_ERROR, PARE_ERR_MEMORY, "%s: no memory to unpack it with",
                 g->path);
    PARE_REQUIRE(result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR,
                 PARE_ERR_DAMAGED, "%s is damaged before byte %lld of it (%s): get it again",
                 g->path, (long long)(g->at - (int64_t)g->zlib.avail_in),
                 g->zlib.msg ? g->zlib.msg : "no gzip");
    g->ended = result == Z_STREAM_END;
    return PARE_OK;
}

pare_status pare__gzip_read(pare__gzip *g, void *bytes, int64_t size)
{
    unsigned char *to = bytes;
    while (size > 0) {
        uInt want = size < 1 << 30 ? (uInt)size : 1 << 30;
        bool more;
        g->zlib.next_out = to;
        g->zlib.avail_out = want;
        PARE_TRY(step(g, &more));
        PARE_REQUIRE(more, PARE_ERR_DAMAGED,
                     "%s unpacks to fewer bytes than its own header says, by %lld: get it again",
                     g->path, (long long)size);
        to += want - g->zlib.avail_out;
        size -= want - g->zlib.avail_out;
    }
    return PARE_OK;
}

pare_status pare__gzip_end(pare__gzip *g)
{
    unsigned char none;
    for (bool more = true; more;) {
        g->zlib.next_out = &none;
        g->zlib.avail_out = 1;
        PARE_TRY(step(g, &more));
        PARE_REQUIRE(g->zlib.avail_out == 1, PARE_ERR_DAMAGED,
                     "%s unpacks to more bytes than its own header says", g->path);
    }
    return PARE_OK;
}
