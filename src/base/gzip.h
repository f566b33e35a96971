/* gzip.h - reads a gzipped file from its beginning to its end, in pieces that the caller asks for:
 * what a file claims to unpack to is never allocated by this reader. */
#ifndef PARE_BASE_GZIP_H
#define PARE_BASE_GZIP_H

#include "pare/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pare__gzip pare__gzip;

/* Whether a file that begins with these bytes is gzipped. */
bool pare__is_gzip(const void *bytes, size_t size);

/* PARE_ERR_NOT_FOUND, PARE_ERR_IO, PARE_ERR_ARGUMENT (no file), PARE_ERR_MEMORY. */
pare_status pare__gzip_open(const char *path, pare__gzip **gzip);
void pare__gzip_close(pare__gzip **gzip); /* NULL is fine */

/* The next size bytes unpacked. A file that is no gzip, ends before, or whose checksum is wrong is
 * PARE_ERR_DAMAGED. */
pare_status pare__gzip_read(pare__gzip *gzip, void *bytes, int64_t size);

/* Proves that nothing is left and that all checksums were right, else PARE_ERR_DAMAGED. */
pare_status pare__gzip_end(pare__gzip *gzip);

#endif
